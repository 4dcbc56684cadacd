"""Regions that are put in read-only, drained, brought back, and retired; records that are purged before they are mirrored.

One world for all; the tests that end a region come last. The delay line before eu's broker carries what us reads from eu.
"""
from __future__ import annotations

import json
import subprocess
import threading

import pytest
from confluent_kafka import TopicPartition
from harness import paths
from harness.api import Api
from harness.wait import wait_until

NAME = "regions"
POINTS = f"/collections/{NAME}/points"


@pytest.fixture(scope="module")
def world(module_world):
    overrides = {"indexer": {"compare.interval_s": 1}}
    world = module_world(["eu", "us"], delayed=True, overrides=overrides)
    world.start()
    Api(world["eu"].indexer.url).put(f"/collections/{NAME}", {"vectors": {"size": 2, "distance": "Dot"}, "antipode": {"codec": "none"}})
    for region in world:
        api = Api(region.indexer.url)
        wait_until(lambda: api.request("POST", POINTS + "/delete", {"points": []})[0] == 200, 60, f"{region.name} knows {NAME}")
        api = Api(region.producer.url)
        wait_until(lambda: all(r["incarnation"] for r in api.get("/antipode/region")["regions"]), 60, f"{region.name} knows all regions")
    yield world


def targets(world) -> list[str]:
    out = []
    for region in world:
        out += ["--region", region.name, "--producer", region.producer.url, "--consumer", region.consumer.url, "--indexer", region.indexer.url]
    return out


def antipode(world, *args, code: int | None = 0) -> str:
    """stdout; with another code expected, stderr after it."""
    done = subprocess.run([paths.binary("antipode"), *map(str, args), *targets(world)], capture_output=True, text=True, timeout=300)
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
    assert "no producer of region ap" in antipode(world, "region", "read-only", "ap", code=2)
    assert "ap" in antipode(world, "region", "retire", "ap", code=2)


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
    assert put(us, [2], "elsewhere", "?level=all&timeout=60")["status"] == "completed", "and so do the others' writes"
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
    put(eu, [1], "back", "?level=all&timeout=60")


def purge(region, topic: str) -> None:
    """All that stands in the topic now is gone, as by retention."""
    ends = region.kafka.end_offsets(topic)
    asked = region.kafka.admin.delete_records([TopicPartition(topic, p, end) for p, end in ends.items()])
    for future in asked.values():
        future.result(10)


def differing(region, other: str) -> float:
    """As region's background compare has found last."""
    return Api(region.indexer.url).metric("antipode_compare_differing_buckets", region=other)


def verify(world, *args, code: int = 0) -> dict:
    return json.loads(antipode(world, "verify", "eu", "us", "--json", *args, code=code).partition("\nantipode verify:")[0])


def test_what_was_purged_before_it_was_mirrored_is_a_hole_until_it_is_repaired(world):
    eu, us = world["eu"], world["us"]
    put(eu, range(200, 240), "older", "?level=all&timeout=60")
    us.mirror.stop()
    put(eu, range(200, 260), "purged", "?wait=true")
    purge(eu, "vec-mutations")
    us.mirror.start()
    wait_until(lambda: us.consumer.metric("antipode_consumer_hole_ranges", origin="eu") == 4, 90, "us misses records in every partition")
    assert "records are MISSING" in antipode(world, "status", code=1)
    assert marks(us, range(200, 260)) == ["older"] * 40
    assert put(eu, [300], "behind", "?level=all&timeout=1")["missing"] == "us", "watermarks do not pass a hole"
    status, text = Api(us.indexer.url).request("POST", POINTS + "?level=strong&timeout=1", {"ids": [300]})
    assert status == 503 and "region eu" in text

    lost = us.consumer.metric("antipode_consumer_hole_records", origin="eu")
    report = verify(world, "--repair")
    rows = report["holes"][0].pop("rows")
    assert report["equal"] and report["holes"] == [{"region": "us", "proven": lost, "accepted": 0, "open": 0}] and rows >= 60, report
    assert marks(us, range(200, 260)) == ["purged"] * 60
    wait_until(lambda: us.consumer.metric("antipode_consumer_hole_records") == 0, 10, "us waits for nothing any more")
    assert us.consumer.metric("antipode_consumer_given_up_records", origin="eu") == lost
    assert put(eu, range(300, 310), "on", "?level=all&timeout=60")["status"] == "completed", "watermarks go on"
    wait_until(lambda: differing(eu, "us") == differing(us, "eu") == 0, 30, "the background compare has seen that it is mended")
    antipode(world, "status")

    us.consumer.kill()  # what was decided outlives it
    us.consumer.start().wait_ready()
    assert us.consumer.metric("antipode_consumer_hole_records") == 0
    assert put(eu, [300], "again", "?level=all&timeout=60")["status"] == "completed"


def test_a_loss_is_accepted_only_by_name(world):
    """Where the records' own region is not asked, or lost them too, nothing proves that they are there."""
    eu, us = world["eu"], world["us"]
    us.mirror.stop()
    put(eu, range(400, 420), "lost", "?wait=true")
    purge(eu, "vec-mutations")
    us.mirror.start()
    wait_until(lambda: us.consumer.metric("antipode_consumer_hole_ranges", origin="eu") == 4, 90, "us misses records in every partition")
    lost = us.consumer.metric("antipode_consumer_hole_records", origin="eu")
    pair = (us.indexer.url, us.indexer.url)
    assert "--accept-loss is for --repair" in antipode(world, "verify", *pair, "--accept-loss", code=2)
    why = antipode(world, "verify", *pair, "--repair", code=1)
    assert "compare it with a region that has them" in why
    assert us.consumer.metric("antipode_consumer_hole_records", origin="eu") >= lost
    assert verify(world, "--repair")["equal"]
    assert marks(us, range(400, 420)) == ["lost"] * 20


class Writers:
    """Hot points that both regions write and patch all the time, one thread a region; count: writes answered so far."""

    def __init__(self, world, ids):
        self.stopping, self.count, self.errors = threading.Event(), 0, []
        self.threads = [threading.Thread(target=self.run, args=(region, list(ids))) for region in world]

    def run(self, region, ids):
        try:
            while not self.stopping.is_set():
                put(region, ids, f"{region.name} {self.count}")
                Api(region.indexer.url).post(POINTS + "/payload", {"points": ids[::2], "payload": {region.name: self.count}})
                self.count += 1
        except Exception as e:
            self.errors.append(e)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.errors, self.errors


def test_holes_close_while_hot_points_are_written(world):
    """And not before what was in them has arrived: while nothing of eu reaches us, they stay."""
    eu, us = world["eu"], world["us"]
    with Writers(world, range(600, 610)) as writers:
        us.mirror.stop()
        put(eu, range(620, 640), "purged", "?wait=true")
        purge(eu, "vec-mutations")
        before = writers.count
        us.mirror.start()
        wait_until(lambda: us.consumer.metric("antipode_consumer_hole_ranges", origin="eu") == 4, 90, "us misses records in every partition")
        lost = us.consumer.metric("antipode_consumer_hole_records", origin="eu")
        world.delay.part("eu")
        looks = lambda: us.indexer.metric("antipode_http_requests_total", route="holes", code="2xx")  # noqa: E731 - how often verify has looked
        looked = looks()
        repair = subprocess.Popen([paths.binary("antipode"), "verify", "eu", "us", "--json", "--repair", *targets(world)], stdout=subprocess.PIPE, text=True)
        open_ = lambda: us.consumer.metric("antipode_consumer_hole_records", origin="eu")  # noqa: E731
        wait_until(lambda: open_() != lost or repair.poll() is not None or looks() > looked + 5, 60, "it waits for what eu has published")
        assert open_() == lost and repair.poll() is None
        world.delay.heal("eu")
        out, _ = repair.communicate(timeout=300)
        assert repair.returncode == 0, out
        [closed] = json.loads(out)["holes"]
        assert closed["region"] == "us" and closed["proven"] == lost and closed["accepted"] == closed["open"] == 0 and closed["rows"] >= 20, closed
        assert writers.count > before + 20, "nobody rested"
        assert us.consumer.metric("antipode_consumer_hole_records") == 0
        assert marks(us, range(620, 640)) == ["purged"] * 20
        assert put(eu, [640], "on", "?level=all&timeout=30")["status"] == "completed", "watermarks go on"
    for region in world:
        put(region, [641], "last", "?level=all&timeout=30")
    assert verify(world)["equal"]
    assert marks(eu, range(600, 610)) == marks(us, range(600, 610))


def test_the_background_compare_finds_what_stays_different(world):
    """A row is taken out of us's store behind everybody's back, digests and all."""
    eu, us = world["eu"], world["us"]
    collection = Api(eu.indexer.url).get(f"/collections/{NAME}")["antipode"]["id"]

    put(eu, [290], "new", "?level=all&timeout=30")  # of older points the cleaner may have left a copy, which would count again
    wait_until(lambda: differing(eu, "us") == differing(us, "eu") == 0, 30, "both have compared, and are equal")
    us.consumer.stop()
    subprocess.run([paths.binary("plant"), us.store_path, "remove", collection, "290"], check=True, capture_output=True)
    us.consumer.start().wait_ready()  # its scan at the start counts the digests anew
    wait_until(lambda: differing(eu, "us") == differing(us, "eu") == 1, 30, "both see it")
    text = antipode(world, "status", code=1)
    assert "1 buckets of rows DIFFER from us's" in text
    verify(world, "--repair")
    wait_until(lambda: differing(eu, "us") == differing(us, "eu") == 0, 30, "both see that it is mended")
    assert "no rows of long ago differ" in antipode(world, "status")


# --- from here on eu is no more -------------------------------------------------------------------------------------------


def test_a_retired_region_is_over(world):
    eu, us = world["eu"], world["us"]
    put(eu, [500], "in time", "?level=all&timeout=60")
    token = put(eu, [501], "with a token", "?level=all&timeout=60")["token"]
    incarnation = seen(world, "eu")["incarnation"]
    world.delay.part("eu")
    put(eu, [502, 503], "too late", "?wait=true")
    assert "look again" in antipode(world, "region", "retire", "eu", "--incarnation", "0123456789abcdef", code=1)
    assert "retired" in antipode(world, "region", "retire", "eu", "--incarnation", incarnation)
    antipode(world, "region", "retire", "eu")  # twice is once
    wait_until(lambda: refusal(eu)[0] == 409, 30, "eu itself has heard of it")
    assert "eu is retired" in refusal(eu)[1]

    # Nobody waits for it, and nobody may wait for what it wrote.
    assert put(us, [510], "alone", "?level=all&timeout=60")["status"] == "completed"
    for level in ("level=strong", "max_staleness_ms=50"):
        assert Api(us.indexer.url).call("POST", POINTS + f"?{level}&timeout=60", {"ids": [510]})
    for method, body in (("POST", {"ids": [500]}), ("PUT", {"points": [{"id": 1, "vector": [1, 2]}]})):
        status, why = refusal(us, method, POINTS, body, {"X-Antipode-Token": token})
        assert status == 409 and "region eu is no more" in why and "retired by us" in why, why
    answer = Api(us.indexer.url)
    answer.call("POST", POINTS, {"ids": [500]}, {"X-Antipode-Seen": ""})
    answer.call("POST", POINTS, {"ids": [500]}, {"X-Antipode-Seen": answer.headers["X-Antipode-Seen"]})

    # What comes now counts no more: heartbeats are dropped, the two writes are set aside; rebuilding us from its logs changes nothing.
    world.delay.heal("eu")
    wait_until(lambda: us.consumer.metric("antipode_consumer_dead_letters_total", origin="eu") >= 1, 60, "what comes too late is set aside")
    assert marks(us, [500, 501, 502, 503]) == ["in time", "with a token"]
    assert us.consumer.metric("antipode_consumer_hole_records") == 0


def test_foreign_and_malformed_tokens_are_refused(world):
    us = world["us"]
    for token in ("ap1.", "ap1.AAAA", "nonsense", "x" * 5000):
        assert refusal(us, "POST", POINTS, {"ids": [1]}, {"X-Antipode-Token": token})[0] == 400


def test_it_comes_back_under_a_new_incarnation_with_a_new_store(world):
    eu, us = world["eu"], world["us"]
    incarnation = seen(world, "eu")["incarnation"]
    eu.producer.stop()
    eu.producer.start()
    wait_until(lambda: not eu.producer.alive(), 30, "it does not start as if nothing had been")
    assert f"--rejoin {incarnation}" in eu.producer.process.log_text()
    eu.producer.start(rejoin=incarnation).wait_ready()
    wait_until(lambda: not eu.consumer.alive(), 30, "the store of before is of no use")
    assert "Move the store's folder away" in eu.consumer.process.log_text()
    eu.indexer.stop()
    eu.store_path.rename(eu.store_path.with_name("store.of-before"))
    for daemon in (eu.consumer, eu.indexer):
        daemon.start()
    for daemon in (eu.consumer, eu.indexer):
        daemon.wait_ready()
    # Its own log has nothing of the first of its two streams any more, and not the beginning of the second: purged as they were.
    assert eu.consumer.metric("antipode_consumer_hole_ranges", origin="eu") == 8, "who is ready knows all that is missing"
    lost = eu.consumer.metric("antipode_consumer_hole_records")
    report = verify(world, "--all", "--repair")
    [closed] = report["holes"]
    assert report["equal"] and {k: closed[k] for k in ("region", "proven", "accepted", "open")} == {"region": "eu", "proven": lost, "accepted": 0, "open": 0}, report
    assert verify(world)["equal"]
    wait_until(lambda: eu.consumer.metric("antipode_consumer_hole_records") == 0, 10, "eu waits for nothing any more")
    assert marks(eu, [500, 501, 502, 503]) == ["in time", "with a token"]
    assert put(eu, [520], "back", "?level=all&timeout=60")["status"] == "completed"
    assert put(us, [521], "back", "?level=all&timeout=60")["status"] == "completed"
    assert seen(world, "eu")["mode"] == "active" and seen(world, "eu")["incarnation"] != incarnation
