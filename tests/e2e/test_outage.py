"""A region's Kafka is away, and its producer spools: what it answered is in both regions afterwards, whatever was killed."""
import collections
import itertools
import json
import threading

import pytest
from qdrant_client import QdrantClient, models

from harness.api import Api, ApiError
from harness.topics import read_topic
from harness.wait import wait_until

names = (f"outage{i}" for i in itertools.count())


@pytest.fixture(scope="module")
def regions(module_world):
    world = module_world(["eu", "us"], overrides={"producer": {"request_timeout_ms": 5000, "spool.after_ms": 1000}})
    world.start(daemons=False)
    world["eu"].producer.overrides["spool.dir"] = world["eu"].data_dir / "spool"
    world.start_daemons()
    yield world["eu"], world["us"]


@pytest.fixture
def eu(regions):
    """With its Kafka there, its producer ready and nothing in the spool."""
    eu = regions[0]
    heal(eu)
    return eu


def heal(eu):
    eu.producer.process.env = {}
    eu.kafka.process.thaw()
    if not eu.kafka.process.alive():
        eu.kafka.start().wait_ready()
    if not eu.producer.alive():
        eu.producer.start()
    eu.producer.wait_ready()
    wait_until(lambda: eu.producer.metric("antipode_producer_spool_state", state="idle") == 1, 40, "the spool is empty and not in use")


def spool(eu, what="writes"):
    return eu.producer.metric(f"antipode_producer_spool_{what}")


def make(regions):
    name = next(names)
    Api(regions[0].producer.url).put(f"/collections/{name}", {"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "none"}})
    for region in regions:
        wait_until(lambda: Api(region.indexer.url).get(f"/collections/{name}")["status"] == "green", 30, f"{region.name} knows {name}")
    return name


def point(i, n):
    return {"points": [{"id": i, "vector": [n, 1, 2, 3], "payload": {"n": n}}]}


def write(api, name, i, n, more=""):
    """Status and result of one upsert."""
    status, text = api.request("PUT", f"/collections/{name}/points{more}", point(i, n))
    return status, json.loads(text).get("result")


def take_away(eu, name):
    """Kafka answers nothing any more; returns when a write has been spooled."""
    eu.kafka.process.freeze()
    api = Api(eu.producer.url)
    status, result = write(api, name, 999, 0)
    assert status == 202 and result == {"operation_id": result["operation_id"], "status": "acknowledged", "token": None, "spooled": True}
    assert "X-Antipode-Token" not in api.headers
    return api


def held(region, name):
    return {i: p["payload"]["n"] for i, p in Api(region.indexer.url).scroll(name).items()}


class Writer(threading.Thread):
    """Writes 1, 2, 3, … to its own points in turn until told to stop or nobody answers; what was answered is in acked."""

    def __init__(self, eu, name, number):
        super().__init__(daemon=True)
        self.url, self.name_, self.ids = eu.producer.url, name, [number * 10 + k for k in range(3)]
        self.acked, self.tried, self.statuses, self.stopping = {}, {}, collections.Counter(), threading.Event()

    def run(self):
        api = Api(self.url)
        for n in itertools.count(1):
            i = self.ids[n % 3]
            if self.stopping.is_set():
                return
            self.tried[i] = n
            try:
                status, _ = write(api, self.name_, i, n)
            except OSError:
                return
            self.statuses[status] += 1
            if status in (200, 202):
                self.acked[i] = n


def check_all_there(regions, name, writers):
    """In both regions each point holds the newest write that was answered, or one tried after it."""
    def good(region):
        rows = held(region, name)
        return all(w.acked[i] <= rows.get(i, 0) <= w.tried[i] for w in writers for i in w.acked)

    for region in regions:
        wait_until(lambda: good(region), 40, f"{region.name} has all that was answered", every_s=0.2)
    assert held(regions[0], name) == held(regions[1], name)


def test_what_was_answered_survives_the_outage_and_a_kill(regions, eu):
    name = make(regions)
    writers = [Writer(eu, name, k + 1) for k in range(6)]
    for w in writers:
        w.start()
    wait_until(lambda: all(len(w.acked) == 3 for w in writers), 20, "all write")
    eu.kafka.kill()  # with writes under way
    wait_until(lambda: all(w.statuses[202] >= 30 for w in writers), 30, "all writes are spooled")
    eu.producer.kill()  # with appends under way
    for w in writers:
        w.join(120)
        assert not w.is_alive()
    assert not any(set(w.statuses) - {200, 202} for w in writers), [w.statuses for w in writers]
    eu.producer.start().wait_healthy()
    with pytest.raises(ApiError) as e:  # it does not know the collections before Kafka is there
        Api(eu.producer.url).put(f"/collections/{name}/points", point(1, 10**6))
    assert e.value.status == 503
    assert spool(eu) > 0
    eu.kafka.start()
    heal(eu)
    check_all_there(regions, name, writers)
    status, result = write(Api(eu.producer.url), name, 1000, 1)
    assert status == 200 and result["token"]


def test_killed_while_it_drains_it_publishes_the_same_again(regions, eu):
    name = make(regions)
    api = take_away(eu, name)
    body = {"points": [{"id": i, "vector": [i, 1, 2, 3], "payload": {"n": i, "text": "x" * 2000}} for i in range(500)]}
    for _ in range(4):
        assert api.request("PUT", f"/collections/{name}/points", body)[0] == 202
    assert api.request("POST", f"/collections/{name}/points/delete", {"points": [7, 8]})[0] == 202
    assert write(api, name, 8, 88)[0] == 202
    eu.producer.kill()
    eu.producer.process.env = {"ANTIPODE_CRASH": "after_spool_publish:2"}
    eu.producer.start()
    eu.kafka.process.thaw()
    wait_until(lambda: not eu.producer.alive(), 40, "the producer has killed itself while draining")
    heal(eu)
    expected = {i: i for i in range(500) if i != 7} | {8: 88, 999: 0}
    for region in regions:
        wait_until(lambda: held(region, name) == expected, 40, f"{region.name} holds what was written", every_s=0.2)
    records = [r for r in read_topic(eu.bootstrap, "vec-mutations") if r.point in (3, 999)]
    versions = collections.Counter(r.version for r in records if r.value["op"] == "UPSERT" and r.collection == records[-1].collection)
    assert max(versions.values()) > 1, "nothing was published twice: the kill came too late"
    assert all(r.value["clock"] is None or r.value["clock"] > r.value["hlc"] for r in records)


def test_levels_and_what_is_not_spooled(regions, eu):
    name = make(regions)
    assert write(Api(eu.indexer.url), name, 50, 5, "?wait=true")[1]["status"] == "completed"
    api = take_away(eu, name)
    status, result = write(api, name, 1, 1, "?wait=true")
    assert (status, result["status"], result["missing"]) == (202, "wait_timeout", "eu") and api.headers["X-Antipode-Missing"] == "eu"
    assert write(api, name, 1, 1, "?level=all")[1]["missing"] == "eu,us"
    status, result = write(Api(eu.indexer.url), name, 2, 2, "?wait=true")  # passed on by the indexer, which knows no better
    assert (status, result["status"], result["spooled"]) == (202, "wait_timeout", True)
    by_filter = {"filter": {"must": [{"has_id": [50]}]}}
    status, text = Api(eu.indexer.url).request("POST", f"/collections/{name}/points/delete?wait=true", by_filter)
    result = json.loads(text)["result"]
    assert (status, result["status"], result["points"], result["spooled"]) == (202, "wait_timeout", 1, True)
    client = QdrantClient(url=eu.producer.url, check_compatibility=False)
    answer = client.upsert(name, [models.PointStruct(id=3, vector=[3, 1, 2, 3], payload={"n": 3})], wait=True)
    assert answer.status == models.UpdateStatus.WAIT_TIMEOUT
    for path, body in [(f"/collections/{name}/points/bulk", None), ("/antipode/barrier", None)]:
        status, text = api.request("POST", path, b'{"id":4,"vector":[1,2,3,4]}\n' if "bulk" in path else body)
        assert status == 503 and "spool" in text, text
    assert api.request("PUT", f"/collections/{name}/points", {"points": [{"id": 1, "vector": [1]}]})[0] == 400
    status, text = api.request("GET", "/readyz")
    assert status == 200 and "writes are spooled" in text
    assert spool(eu, "oldest_seconds") > 0 and eu.producer.metric("antipode_producer_spool_state", state="spooling") == 1
    heal(eu)
    wait_until(lambda: held(regions[1], name) == {999: 0, 1: 1, 2: 2, 3: 3}, 40, "us has what eu spooled")


def test_a_full_spool_refuses(regions, eu):
    name = make(regions)
    eu.producer.stop()
    eu.producer.start(spool__max_bytes=65536).wait_ready()
    api = take_away(eu, name)
    body = {"points": [{"id": 1, "vector": [1, 1, 2, 3], "payload": {"n": 1, "text": "x" * 15000}}]}
    statuses = [api.request("PUT", f"/collections/{name}/points", body)[0] for _ in range(6)]
    assert statuses[:3] == [202] * 3 and statuses[-1] == 503, statuses
    status, text = api.request("PUT", f"/collections/{name}/points", body)
    assert status == 503 and "spool.max_bytes" in text and api.headers["Retry-After"] == "1"
    assert spool(eu, "bytes") <= 65536
    page = eu.producer.metric("antipode_producer_refused_total", reason="spool_full")
    assert page >= 1
    heal(eu)
    wait_until(lambda: held(regions[1], name) == {999: 0, 1: 1}, 40, "us has what was spooled")
    eu.producer.stop()
    eu.producer.start(spool__max_bytes=1 << 30).wait_ready()
