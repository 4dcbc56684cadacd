"""Regions that are put in read-only, drained, brought back, and retired; records that are purged before they are mirrored.

One world for all; the tests that end a region come last. The delay line before eu's broker carries what us reads from eu.
"""
from __future__ import annotations

import json
import subprocess

import pytest
from harness import paths
from harness.api import Api
from harness.region import World
from harness.wait import wait_until

NAME = "regions"
POINTS = f"/collections/{NAME}/points"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.for_tests(tmp_path_factory.mktemp("region"), ["eu", "us"], delayed=True) as world:
        world.start()
        Api(world["eu"].indexer.url).put(f"/collections/{NAME}", {"vectors": {"size": 2, "distance": "Dot"}, "antipode": {"codec": "none"}})
        for region in world:
            api = Api(region.indexer.url)
            wait_until(lambda: api.request("POST", POINTS + "/delete", {"points": []})[0] == 200, 60, f"{region.name} knows {NAME}")
        yield world


def targets(world) -> list[str]:
    out = []
    for region in world:
        out += ["--region", region.name, "--producer", region.producer.url, "--consumer", region.consumer.url, "--indexer", region.indexer.url]
    return out


def antipode(world, *args, code: int | None = 0) -> str:
    """stdout; with another code expected, stderr after it."""
    done = subprocess.run([paths.binary("antipode"), *map(str, args), *targets(world)], capture_output=True, text=True, timeout=120)
    assert code is None or done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if code else "")


def seen(world, name: str) -> dict:
    """A region as `antipode region --json` shows it."""
    return next(r for r in json.loads(antipode(world, "region", "--json", code=None))["regions"] if r["region"] == name)


def put(region, ids, mark: str, query: str = "", headers=None):
    points = [{"id": i, "vector": [1.0, float(i)], "payload": {"mark": mark}} for i in ids]
    return Api(region.indexer.url).call("PUT", POINTS + query, {"points": points}, headers)


def refusal(region, method: str = "PUT", path: str = POINTS, body=None, headers=None) -> tuple[int, str]:
    status, text = Api(region.indexer.url).request(method, path, body or {"points": [{"id": 1, "vector": [1, 2]}]}, headers)
    return status, "" if status == 200 else json.loads(text)["status"]["error"]


def marks(region, ids) -> list:
    found = Api(region.indexer.url).call("POST", POINTS, {"ids": list(ids), "with_payload": True})
    return sorted(p["payload"]["mark"] for p in found)


def test_usage(world):
    for args in (["burn"], ["read-only"], ["drain", "eu", "us"], ["list", "eu"], ["read-only", "eu", "--force"], ["drain", "eu", "--deadline", "soon"]):
        assert "Try: antipode region --help" in antipode(world, "region", *args, code=2)
    assert "no producer of region ap" in antipode(world, "region", "read-only", "ap", code=1)


def test_a_read_only_region_refuses_writes_and_says_where_to_write(world):
    eu, us = world["eu"], world["us"]
    put(eu, [1], "before", "?wait=true")
    assert seen(world, "eu")["mode"] == "active"
    antipode(world, "region", "read-only", "eu")
    assert seen(world, "eu")["mode"] == "read-only" and seen(world, "us")["mode"] == "active"
    for method, path, body in [("PUT", POINTS, None), ("POST", POINTS + "/delete", {"points": [1]}),
                               ("PUT", "/collections/another", {"vectors": {"size": 2, "distance": "Dot"}})]:
        status, why = refusal(eu, method, path, body)
        assert status == 409 and "eu is read-only" in why and "write in us" in why, (method, path, status, why)
    assert marks(eu, [1]) == ["before"], "reads go on"
    assert put(us, [2], "elsewhere", "?level=all&timeout=30")["status"] == "completed", "and so do the others' writes"
    eu.producer.kill()
    eu.producer.start().wait_ready()
    assert refusal(eu)[0] == 409, "it survives a restart"
    assert "active" in antipode(world, "region", "read-write", "eu")
    put(eu, [1], "after", "?wait=true")


def test_drained_means_that_the_others_show_all_of_it(world):
    eu, us = world["eu"], world["us"]
    world.delay.part("eu")  # us reads nothing of eu any more
    put(eu, range(100, 150), "drained", "?wait=true")
    why = antipode(world, "region", "drain", "eu", "--deadline", 2, code=1)
    assert "not drained" in why and "us" in why and "to go" in why
    assert seen(world, "eu")["undrained"]["us"] >= 50
    assert marks(us, range(100, 150)) == []
    world.delay.heal("eu")
    answer = json.loads(antipode(world, "region", "drain", "eu", "--deadline", 60, "--json"))
    assert marks(us, range(100, 150)) == ["drained"] * 50, "in the moment in which drain is done"
    assert answer == {"region": "eu", "drained": True, "missing": {"us": 0}}
    antipode(world, "region", "read-write", "eu")
    put(eu, [1], "back", "?level=all&timeout=30")
