"""What each level promises, with 40 ms between the regions and with a link that is cut or stalled.

The delay line before us's broker carries what eu reads from us; the one before eu's what us reads from eu. Barriers go
straight from an indexer to the other region's producer, so a cut link leaves them be.
"""
from __future__ import annotations

import json
import statistics
import subprocess
import threading
import time

import pytest
from harness import paths
from harness.api import Api, ApiError
from harness.wait import wait_until

NAME = "levels"
POINTS = f"/collections/{NAME}/points"


@pytest.fixture(scope="module")
def world(module_world):
    world = module_world(["eu", "us"], delayed=True)
    world.start()
    world.delay.distance(40)
    Api(world["eu"].indexer.url).put(f"/collections/{NAME}", {"vectors": {"size": 2, "distance": "Dot"}, "antipode": {"codec": "none"}})
    for region in world:
        for url in (region.indexer.url, region.producer.url):
            api = Api(url)
            wait_until(lambda: api.request("POST", POINTS + "/delete", {"points": []})[0] == 200, 60, f"{url} knows {NAME}")
    yield world


@pytest.fixture(autouse=True)
def healed(world):
    """Both ways work when a test begins."""
    for writer, reader in ((world["eu"], world["us"]), (world["us"], world["eu"])):
        assert write(writer, 1, "healed", "?level=all&timeout=60")["status"] == "completed"
    yield
    world.delay.heal()


def write(region, point: int, mark: str, query: str = "", headers: dict | None = None):
    body = {"points": [{"id": point, "vector": [1.0, float(point)], "payload": {"mark": mark}}]}
    return Api(region.indexer.url).call("PUT", POINTS + query, body, headers)


def read(region, point: int, query: str = "", headers: dict | None = None) -> str | None:
    """The point's mark, or None."""
    found = Api(region.indexer.url).call("POST", POINTS + query, {"ids": [point], "with_payload": True}, headers)
    return found[0]["payload"]["mark"] if found else None


def refused(region, query: str, headers: dict | None = None) -> str:
    """The reason of a 503."""
    with pytest.raises(ApiError) as refusal:
        read(region, 1, query, headers)
    assert refusal.value.status == 503, refusal.value
    return json.loads(refusal.value.body)["status"]["error"]


def too_old(region, query: str) -> bool:
    """Whether the read is refused because of us; False when it is answered."""
    status, text = Api(region.indexer.url).request("POST", POINTS + query, {"ids": [1]})
    assert status in (200, 503), text
    return status == 503 and "region us" in text


def seconds(call) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start


@pytest.mark.parametrize("level", ["quorum", "all"])
def test_a_write_waits_for_the_other_region(world, level):
    eu, us = world["eu"], world["us"]
    unseen = 0
    took = []
    for n in range(10):
        write(eu, 10, f"local {n}")
        unseen += read(us, 10) != f"local {n}"
        took.append(seconds(lambda: write(eu, 11, f"{level} {n}", f"?level={level}")))
        assert read(us, 11) == f"{level} {n}"
    assert unseen >= 3, "without waiting, 40 ms are enough not to see it"
    print(f"{level}: median {statistics.median(took) * 1000:.0f} ms")
    assert eu.producer.metric("antipode_waits_total", level=level, result="visible") >= 10


@pytest.mark.parametrize("level", ["quorum", "all"])
def test_a_write_says_who_is_missing(world, level):
    eu, us = world["eu"], world["us"]
    world.delay.part("eu")  # us reads nothing of eu any more
    api = Api(eu.indexer.url)
    body = {"points": [{"id": 20, "vector": [1, 2], "payload": {"mark": level}}]}
    start = time.monotonic()
    result = api.call("PUT", POINTS + f"?level={level}&timeout=1", body)
    assert 0.9 < time.monotonic() - start
    assert result["status"] == "wait_timeout" and result["missing"] == "us", result
    assert api.headers["X-Antipode-Missing"] == "us"
    assert read(eu, 20) == level, "it is durable, and visible at home"
    assert read(us, 20) != level
    world.delay.heal("eu")
    wait_until(lambda: read(us, 20) == level, 60, "the write arrives after all")
    assert write(eu, 20, "after", f"?level={level}&timeout=60")["status"] == "completed"


def test_a_region_may_have_another_default(world):
    us = world["us"]
    us.producer.stop()
    us.producer.start(write_level="quorum").wait_ready()
    try:
        for url in (us.indexer.url, us.producer.url):
            api = Api(url)
            body = {"points": [{"id": 70, "vector": [1.0, 70.0]}]}
            assert api.put(POINTS, body)["status"] == "completed", "a quorum of two is both"
            assert api.put(POINTS + "?wait=false", body)["status"] == "acknowledged", "who says, gets what he says"
        by_filter = Api(us.indexer.url).post(POINTS + "/payload", {"filter": {"must": [{"has_id": [70]}]}, "payload": {"mark": "default"}})
        assert by_filter["status"] == "completed" and read(world["eu"], 70) == "default"
        Api(us.indexer.url).put("/collections/other", {"vectors": {"size": 2, "distance": "Dot"}})  # of a definition no region is waited for
        world.delay.part("us")
        assert write(us, 70, "cut", "?timeout=1")["missing"] == "eu"
    finally:
        world.delay.heal()
        del us.producer.overrides["write_level"]
        us.producer.stop()
        us.producer.start().wait_ready()


def test_a_level_that_cannot_be_reached_stops_the_start(world, tmp_path):
    config = tmp_path / "producer.conf"
    config.write_text("region = eu\nkafka.bootstrap.servers = 127.0.0.1:1\n\nwrite_level = quorum\n")
    done = subprocess.run([paths.binary("antipode-producer"), "--config", config], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and f"{config}:4: write_level: quorum" in done.stderr, done


def test_what_contradicts_itself_is_refused(world):
    eu = world["eu"]
    for method, path, body in [("PUT", POINTS + "?level=most", {"points": []}), ("PUT", POINTS + "?level=all&wait=false", {"points": []}),
                               ("PUT", "/collections/other?level=all", {"vectors": {"size": 2, "distance": "Dot"}}),
                               ("POST", POINTS + "?level=bounded", {"ids": [1]}), ("POST", POINTS + "?level=session", {"ids": [1]}),
                               ("POST", POINTS + "?level=strong&max_staleness_ms=5", {"ids": [1]}), ("POST", POINTS + "?max_staleness_ms=0", {"ids": [1]})]:
        status, text = Api(eu.indexer.url).request(method, path, body)
        assert status == 400, (path, text)


def test_a_strong_read_sees_all_that_was_acknowledged_anywhere(world):
    eu, us = world["eu"], world["us"]
    unseen, took = 0, []
    for n in range(20):
        write(us, 30, f"strong {n}")
        unseen += read(eu, 30) != f"strong {n}"
        write(us, 31, f"strong {n}")
        took.append(seconds(lambda: check(read(eu, 31, "?level=strong"), f"strong {n}")))
    assert unseen >= 5, "an eventual read does not see what was written 40 ms away"
    print(f"strong: median {statistics.median(took) * 1000:.0f} ms, worst {max(took) * 1000:.0f}")


def check(got, expected):
    assert got == expected


def test_strong_reads_share_barriers(world):
    eu, us = world["eu"], world["us"]
    before = eu.indexer.metric("antipode_read_barriers_total", region="us")
    write(us, 32, "shared")
    failures = []

    def one():
        try:
            for _ in range(5):
                check(read(eu, 32, "?level=strong"), "shared")
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=one) for _ in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[0]
    asked = eu.indexer.metric("antipode_read_barriers_total", region="us") - before
    print(f"80 strong reads asked for {asked:.0f} barriers")
    assert 1 <= asked <= 40


def test_a_strong_read_names_the_region_that_is_cut_off(world):
    eu, us = world["eu"], world["us"]
    write(us, 33, "before")
    world.delay.part("us")
    assert "region us" in (why := refused(eu, "?level=strong&timeout=1")) and "not visible" in why
    check(read(us, 33, "?level=strong&timeout=60"), "before")  # the other way works
    read(eu, 33)  # and so do reads that ask nobody
    world.delay.heal("us")
    wait_until(lambda: read(eu, 33, "?level=strong") == "before", 60, "strong reads are answered again")


def test_a_strong_read_names_the_region_whose_producer_is_away(world):
    eu, us = world["eu"], world["us"]
    token = write(us, 34, "of the first")["token"]
    us.producer.kill()
    assert "region us" in (why := refused(eu, "?level=strong&timeout=1")) and "cannot reach" in why
    us.producer.start().wait_ready()
    wait_until(lambda: read(eu, 34, "?level=strong") == "of the first", 30, "strong reads are answered again")
    # Two successors later its stream is folded into what came before them; what it gave out is still good.
    us.producer.kill()
    us.producer.start().wait_ready()
    wait_until(lambda: read(eu, 34, "?level=strong") == "of the first", 30, "strong reads are answered by the third")
    check(read(eu, 34, "?level=session", {"X-Antipode-Token": token}), "of the first")


def test_a_bounded_read_keeps_its_bound_or_says_who_is_too_old(world):
    eu, us = world["eu"], world["us"]

    def asked() -> float:
        return eu.indexer.metric("antipode_read_barriers_total", region="us")

    took, before = [], asked()
    for n in range(20):
        write(us, 40, f"bounded {n}")
        took.append(seconds(lambda: read(eu, 40, "?max_staleness_ms=2000")))
    print(f"bounded 2 s: median {statistics.median(took) * 1000:.1f} ms, worst {max(took) * 1000:.0f}")
    assert asked() - before <= 2, "within the bound nobody is asked"
    world.delay.stall("us")
    write(us, 40, "late")
    read(eu, 40, "?level=bounded&max_staleness_seconds=60")
    wait_until(lambda: too_old(eu, "?max_staleness_ms=500&timeout=1"), 5, "the link has been silent for longer than the bound", 0.05)
    check(read(us, 40, "?max_staleness_ms=500"), "late")
    world.delay.resume("us")
    wait_until(lambda: read(eu, 40, "?max_staleness_ms=500") == "late", 60, "bounded reads are answered again")


def test_a_bounded_read_is_never_older_than_its_bound(world):
    eu, us = world["eu"], world["us"]
    for n in range(30):
        write(us, 41, f"{n}")
        acknowledged = time.monotonic()
        while time.monotonic() - acknowledged < 0.02:  # the bound lies in the past
            pass
        check(read(eu, 41, "?max_staleness_ms=15"), f"{n}")


def test_a_session_reads_its_writes_everywhere(world):
    eu, us = world["eu"], world["us"]
    unseen = 0
    for n in range(20):
        token = write(us, 50, f"session {n}")["token"]
        unseen += read(eu, 50) != f"session {n}"
        check(read(eu, 50, headers={"X-Antipode-Token": token}), f"session {n}")
    assert unseen >= 5
    world.delay.part("us")
    token = write(us, 50, "cut off")["token"]
    assert "region us" in refused(eu, "?timeout=1", {"X-Antipode-Token": token})


def test_what_was_read_in_one_region_is_there_in_the_next(world):
    eu, us = world["eu"], world["us"]
    api, unseen = Api(us.indexer.url), 0
    for n in range(20):
        write(us, 51, f"seen {n}", "?wait=true")
        api.call("POST", POINTS, {"ids": [51]}, {"X-Antipode-Seen": ""})
        seen = api.headers["X-Antipode-Seen"]
        assert len(seen) <= 4096
        unseen += read(eu, 51) != f"seen {n}"
        check(read(eu, 51, headers={"X-Antipode-Seen": seen}), f"seen {n}")
    assert unseen >= 5


def test_an_answer_to_what_was_seen_wins_over_it(world):
    """Causal order: a write that carries a token is newer than what the token stands for, whatever the clocks say."""
    eu, us = world["eu"], world["us"]
    for n in range(10):
        token = write(us, 52, f"question {n}")["token"]
        check(read(eu, 52, headers={"X-Antipode-Token": token}), f"question {n}")
        reply = write(eu, 52, f"reply {n}", "?level=all", {"X-Antipode-Token": token})
        assert reply["status"] == "completed"
        assert read(us, 52) == read(eu, 52) == f"reply {n}"


def test_metrics_tell_a_cut_link_from_a_dead_indexer(world):
    eu, us = world["eu"], world["us"]

    def age(region):
        return eu.producer.metric("antipode_producer_watermark_age_seconds", region=region)

    wait_until(lambda: age("us") < 1.5 and age("eu") < 1.5, 30, "watermarks of both regions arrive")
    world.delay.part("us")
    wait_until(lambda: age("us") > 2.5 and age("eu") < 1.5, 10, "the age of us's watermark grows, and only that one's")
    world.delay.heal("us")
    wait_until(lambda: age("us") < 1.5, 60, "watermarks of us arrive again")
