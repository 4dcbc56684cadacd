"""antipode verify: what differs between two regions is found, down to the row, and mended, while writes go on.

Damage is planted straight into one store's file by tests/tools/plant.c, behind the back of the daemons that have it open.
"""
from __future__ import annotations

import json
import random
import subprocess
import threading

import pytest
import requests
from harness import paths
from harness.api import Api
from harness.wait import wait_until

DIM = 16
ROWS = 4000


def antipode(*args, code: int | None = None) -> tuple[int, str]:
    done = subprocess.run([paths.binary("antipode"), *map(str, args)], capture_output=True, text=True, timeout=300)
    if code is not None:
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.returncode, done.stdout


def verify(world, name: str, *more) -> tuple[int, dict]:
    code, text = antipode("verify", world["eu"].indexer.url, world["us"].indexer.url, "--collection", name, "--json", *more)
    return code, json.loads(text)["comparisons"][0]


def plant(*args) -> None:
    subprocess.run([paths.binary("plant"), *map(str, args)], check=True, capture_output=True, text=True)


def vector(rng: random.Random) -> list[float]:
    return [rng.uniform(-1, 1) for _ in range(DIM)]


def write(region, name: str, ids, mark: str, rng=random.Random(5)) -> None:
    points = [{"id": i, "vector": vector(rng), "payload": {"mark": f"{mark}-{i}"}} for i in ids]
    for start in range(0, len(points), 1000):
        Api(region.indexer.url).put(f"/collections/{name}/points?wait=true", {"points": points[start:start + 1000]})


def counted(region, name: str) -> int:
    return Api(region.indexer.url).post(f"/collections/{name}/points/count", {"exact": True})["count"]


def filled(world, name: str, **more) -> str:
    """A collection of ROWS points, equal in both regions, whose first ones were written twice. Returns its id."""
    eu, us = world["eu"], world["us"]
    Api(eu.indexer.url).put(f"/collections/{name}", {"vectors": {"size": DIM, "distance": "Dot"}, **more})
    for region in (eu, us):
        api = Api(region.producer.url)
        wait_until(lambda: api.request("POST", f"/collections/{name}/points/delete", {"points": []})[0] == 200, 30, "the collection is known")
    write(eu, name, range(20), "before")
    write(eu, name, range(ROWS // 2), "eu")
    write(us, name, range(ROWS // 2, ROWS), "us")
    wait_until(lambda: counted(eu, name) == counted(us, name) == ROWS, 30, "both have all")
    wait_until(lambda: verify(world, name)[0] == 0, 30, "both are equal")
    return Api(us.indexer.url).get(f"/antipode/verify/{name}")["collection"]


class Traffic(threading.Thread):
    """Writes to points that no test looks at, in both regions, until stopped; slowly, so that the cleaner, which would do
    away with what is planted in dead slots, has no cause to come by."""

    def __init__(self, world, name: str):
        super().__init__(daemon=True)
        self.apis = [Api(world[r].producer.url) for r in ("eu", "us")]
        self.name, self.stopping, self.written, self.error = name, threading.Event(), 0, None

    def run(self):
        rng = random.Random(7)
        try:
            while not self.stopping.is_set():
                api = self.apis[self.written % 2]
                ids = [10_000 + rng.randrange(300) for _ in range(5)]
                if rng.random() < 0.2:
                    api.post(f"/collections/{self.name}/points/delete", {"points": ids})
                else:
                    api.put(f"/collections/{self.name}/points", {"points": [{"id": i, "vector": vector(rng), "payload": {"n": self.written}} for i in set(ids)]})
                self.written += 1
                self.stopping.wait(0.03)
        except Exception as e:  # shown by __exit__
            self.error = e

    def __enter__(self):
        self.start()
        wait_until(lambda: self.written > 20, 20, "writes go on")
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.join(60)
        if self.error:
            raise self.error


def kinds(report: dict) -> dict:
    return {d["id"]: (d["kind"], d["region"]) for d in report["differences"]}


def test_equal_regions_are_equal(world):
    filled(world, "equal")
    code, report = verify(world, "equal")
    assert code == 0 and report["equal"] and report["rows"] == {"eu": ROWS, "us": ROWS} and report["differences"] == []
    code, report = verify(world, "equal", "--scrub")
    assert code == 0 and all(r["rows"] == ROWS and r["damaged"] == 0 for side in report["scrub"].values() for r in side)


def test_metrics_for_a_collector_of_text_files(world, tmp_path):
    filled(world, "metered")
    page = tmp_path / "verify.prom"
    verify(world, "metered", "--metrics", str(page))
    text = page.read_text()
    assert 'antipode_verify_different{collection="metered",a="eu",b="us"} 0\n' in text
    assert 'antipode_verify_differences{collection="metered",a="eu",b="us"} 0\n' in text and "antipode_verify_timestamp_seconds 1" in text


def test_what_is_no_question_and_no_row_is_refused(world):
    filled(world, "strict")
    filled(world, "other")
    url = world["us"].indexer.url

    def post(path, body, want):
        answer = requests.post(url + path, data=body, timeout=120)
        assert answer.status_code == want, answer.text
        return answer

    session = "/antipode/verify/strict"
    requests.delete(url + "/antipode/verify", timeout=120)
    post("/antipode/verify/nowhere/split", b"", 404)
    post(session + "/rows", (77).to_bytes(4, "little"), 409)  # nothing was split before
    post(session + "/split", b"abc", 400)
    post(session + "/split", (4096).to_bytes(2, "little"), 400)
    post(session + "/split", bytes(4), 400)  # bucket 0, twice
    post(session + "/rows", (4096 * 64).to_bytes(4, "little"), 400)
    post(session + "/scrub?mend=perhaps", b"", 400)
    everything = b"".join(i.to_bytes(2, "little") for i in range(4096))
    assert len(post(session + "/split", everything, 200).content) == 4096 * 64 * 8
    row = post(session + "/full", (5).to_bytes(16, "big"), 200).content
    assert len(row) > 72 and int.from_bytes(row[:4], "little") == len(row) - 4
    assert post(session + "/full", (999_999).to_bytes(16, "big"), 200).content == bytes(4)

    repair = "/collections/strict/points/repair"
    broken = bytearray(row)
    broken[90] ^= 1
    for body in (b"x", row[:-1], row[:50], bytes(broken), row + b"\xff\xff\xff\xff"):
        post(repair, body, 400)
    post("/collections/other/points/repair", row, 400)
    post("/collections/nowhere/points/repair", row, 404)
    post(repair + "?delete=maybe", row, 400)
    answer = post(repair, row + row, 200).json()["result"]
    assert answer["rows"] == 2 and answer["records"] == 2 and answer["token"]
    post(repair, b"", 200)
    wait_until(lambda: verify(world, "strict")[0] == 0, 10, "a row published again changes nothing")


def test_usage():
    for args in (["verify"], ["verify", "eu"], ["verify", "eu", "us", "--dry-run"], ["verify", "eu", "us", "--limit", "x"], ["verify", "eu", "nowhere"],
                 ["verify", "eu", "us", "--what"]):
        assert antipode(*args)[0] == 2, args
    assert antipode("verify", "http://127.0.0.1:1", "http://127.0.0.1:2")[0] == 1


def test_writes_under_way_are_no_differences(world):
    filled(world, "busy")
    with Traffic(world, "busy") as traffic:
        before = traffic.written
        for more in ([], ["--scrub"]) * 4:
            code, report = verify(world, "busy", *more)
            assert code == 0, report
        assert traffic.written > before


def test_an_honest_difference_is_found_without_scrub_and_mended(world):
    """us does not get what eu writes, because nobody carries it; then somebody does."""
    filled(world, "honest")
    eu, us = world["eu"], world["us"]
    us.mirror.process.stop()
    write(eu, "honest", [3], "late")
    # Only eu has applied it, so it is under way, not different; --all asks about it all the same.
    code, report = verify(world, "honest", "--settle", "500")
    assert code == 0 and report["under_way"] == 1
    code, report = verify(world, "honest", "--all", "--settle", "0")
    assert code == 1 and kinds(report) == {3: ("older", "us")}
    us.mirror.start()
    wait_until(lambda: verify(world, "honest")[1]["under_way"] == 0, 60, "the mirror has carried it")
    assert verify(world, "honest")[0] == 0


@pytest.mark.parametrize("side, other", [("us", "eu"), ("eu", "us")])
def test_planted_damage_is_found_and_mended_while_writes_go_on(world, side, other):
    name = f"planted-{side}"
    collection = filled(world, name)
    store = world[side].store_path
    with Traffic(world, name):
        for what, point in (("flip", 30), ("remove", 31), ("older", 32), ("flip", 3300), ("remove", 3310), ("older", 3320)):
            plant(store, what, collection, point)
        plant(store, "extra", collection, 33, 7777)

        # The digests were left as they were, so without --scrub nothing is seen.
        assert verify(world, name)[0] == 0
        code, report = verify(world, name, "--scrub")
        assert code == 1
        assert kinds(report) == {30: ("damaged", side), 31: ("missing", side), 32: ("older", side), 7777: ("missing", other),
                                 3300: ("damaged", side), 3310: ("missing", side), 3320: ("older", side)}
        [scrub] = report["scrub"][side]
        assert scrub["damaged"] == 2 and scrub["digests"] >= 7
        assert scrub["index"]["dead"] == 2 and scrub["index"]["missing"] == 1  # rows gone, and a row it never saw
        assert report["scrub"][other][0]["damaged"] == 0 and report["scrub"][other][0]["digests"] == 0

        code, planned = verify(world, name, "--scrub", "--repair", "--dry-run")
        assert code == 1 and planned["repair"]["published"] == 7 and not planned["repair"]["equal_now"]
        assert verify(world, name, "--scrub")[0] == 1  # a plan mends nothing

        code, report = verify(world, name, "--scrub", "--repair")
        assert code == 0, report
        assert report["repair"]["equal_now"] and report["repair"]["rows"] == 7, report
        assert verify(world, name, "--scrub")[0] == 0
        assert verify(world, name)[0] == 0
    for region in world:
        api = Api(region.indexer.url)
        seen = api.scroll(name)
        assert {i for i in seen if i < 10_000} == set(range(ROWS)) | {7777}
        assert seen[30]["payload"] == {"mark": "eu-30"} and seen[3310]["payload"] == {"mark": "us-3310"}
        assert seen[7777]["payload"] == {"mark": "eu-33"}
    assert counted(world["eu"], name) == counted(world["us"], name)
    # What a daemon rebuilds from the file says the same.
    world[side].consumer.restart()
    world[side].indexer.restart()
    world[side].indexer.wait_ready()
    wait_until(lambda: verify(world, name, "--scrub")[0] == 0, 30, "still equal after a restart")


def test_a_segment_that_disagrees_with_its_store(world):
    name = "scrambled"
    us = world["us"]
    us.indexer.stop()
    us.indexer.start(index__hot_rows=128).wait_ready()
    filled(world, name)
    wait_until(lambda: us.indexer.metric("antipode_index_rows", collection=name, kind="sealed") >= 128, 30, "rows are sealed")
    wait_until(lambda: list((us.data_dir / "index").glob("*.seg")), 30, "a segment has a file")
    us.indexer.stop()
    for path in (us.data_dir / "index").glob("*.seg"):
        plant(path, "scramble")
    us.indexer.start().wait_ready()
    code, report = verify(world, name, "--scrub")
    assert code == 1 and report["differences"] == []
    assert report["scrub"]["us"][0]["index"]["segments"] >= 1
    assert verify(world, name)[0] == 0  # the rows are fine
    code, report = verify(world, name, "--scrub", "--repair")
    assert code == 0, report
    api = Api(us.indexer.url)
    point = api.post(f"/collections/{name}/points", {"ids": [5], "with_vector": True})[0]
    best = api.post(f"/collections/{name}/points/query", {"query": point["vector"], "limit": 3})["points"]
    assert best[0]["id"] == 5


def test_a_row_without_witness_is_decided_by_its_home_or_the_operator(world):
    """With the horizon of collected tombstones above a row, its absence may be a deletion."""
    name = "homeless"
    collection = filled(world, name)
    store = world["us"].store_path
    plant(store, "remove", collection, 3000)  # home: us
    plant(store, "remove", collection, 30)   # home: eu
    plant(store, "horizon", collection, 3999)
    code, report = verify(world, name, "--scrub")
    assert code == 1 and kinds(report) == {3000: ("extra", "eu"), 30: ("missing", "us")}
    code, report = verify(world, name, "--scrub", "--prefer", "eu")
    assert kinds(report) == {3000: ("missing", "us"), 30: ("missing", "us")}
    code, report = verify(world, name, "--scrub", "--repair")
    assert code == 0, report
    for region in world:
        seen = Api(region.indexer.url).scroll(name)
        assert 3000 not in seen and 30 in seen
