"""Fixtures of the end-to-end tests: real Kafka, real MirrorMaker, real binaries, on free ports.

    world          two regions eu and us, running; one for all tests of a module that ask for it
    make_world     what World.for_tests takes, without a folder, gives a World of one's own, not started: make_world(["eu", "us"], delayed=True)
    module_world   the same, for a fixture of the module

They are stopped at the end. Files are below .antipode/tests/<test or module>; that folder stays when a test failed.
"""

import os
import re
import shutil

import pytest

from harness import paths, wait
from harness.region import World

_PRESET = paths.preset()
if _PRESET == "tsan":  # a daemon ends with its first race, which its test then notices
    os.environ.setdefault("TSAN_OPTIONS", f"suppressions={paths.ROOT}/tests/tsan/suppressions:print_suppressions=0:halt_on_error=1")

wait.patience = 4  # the machine may have other work, and does: two test modules run side by side


def pytest_collection_finish(session):
    """A module that chooses other binaries when it is imported would choose them for all tests, built or not."""
    if paths.preset() != _PRESET:
        raise pytest.UsageError(f"ANTIPODE_PRESET was {_PRESET}, and {paths.preset()} after the test modules were imported")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.session.stash.setdefault(_FAILED, set()).add(item.nodeid.partition("[")[0])
        item.session.stash[_FAILED].add(item.module.__name__)


_FAILED = pytest.StashKey()


class _Worlds:
    """Makes worlds below one folder; closes them, and removes the folder unless key, a test or a module, has failed."""

    def __init__(self, request, name: str, key: str):
        self.request, self.key, self.made = request, key, []
        self.folder = paths.STATE / "tests" / re.sub(r"[^A-Za-z0-9_-]+", "-", name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def make(self, names=("eu", "us"), **more) -> World:
        self.made.append(World.for_tests(self.folder / str(len(self.made)), list(names), **more))
        return self.made[-1]

    def close(self) -> None:
        for world in self.made:
            world.stop()
        if self.key in self.request.session.stash.get(_FAILED, set()):
            print(f"\nlogs and data of the failed test: {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def make_world(request):
    worlds = _Worlds(request, request.node.name, request.node.nodeid.partition("[")[0])
    yield worlds.make
    worlds.close()


@pytest.fixture(scope="module")
def module_world(request):
    worlds = _Worlds(request, request.module.__name__, request.module.__name__)
    yield worlds.make
    worlds.close()


@pytest.fixture(scope="module")
def world(module_world):
    """eu and us, running and ready; shared by the module, so use collections of your own."""
    return module_world().start()
