"""Fixtures of the end-to-end tests: real Kafka, real MirrorMaker, real binaries, on free ports.

    world          two regions eu and us, running; one for all tests of a module that ask for it
    make_world     a function that gives a World of one's own, not started; stopped and checked at the end

Every test writes below .antipode/tests/<test>; that folder stays when the test failed.
"""

import re
import shutil

import pytest

from harness import paths
from harness.region import World


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.session.stash.setdefault(_FAILED, set()).add(item.nodeid.partition("[")[0])
        item.session.stash[_FAILED].add(item.module.__name__)


_FAILED = pytest.StashKey()


def _folder(name: str):
    folder = paths.STATE / "tests" / re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _close(request, world, folder, key):
    world.stop()
    if key in request.session.stash.get(_FAILED, set()):
        print(f"\nlogs and data of the failed test: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def world(request):
    """eu and us, running and ready; shared by the module, so use collections of your own."""
    name = request.module.__name__
    folder = _folder(name)
    made = World.for_tests(folder, ["eu", "us"])
    try:
        made.start()
        yield made
    finally:
        _close(request, made, folder, name)


@pytest.fixture
def make_world(request):
    """make_world(["eu", "us"], delayed=True, ...): what World.for_tests takes; start it yourself."""
    made = []
    folder = _folder(request.node.name)

    def make(names=("eu", "us"), **more) -> World:
        made.append(World.for_tests(folder / str(len(made)), list(names), **more))
        return made[-1]

    yield make
    for one in made:
        _close(request, one, folder, request.node.nodeid.partition("[")[0])
