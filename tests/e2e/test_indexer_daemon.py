"""The indexer as a process: what it waits for, what it survives, how it ends."""
from __future__ import annotations

import subprocess

import numpy as np
import pytest
from harness import paths
from harness.api import Api
from harness.daemon import Daemon
from harness.ports import HOST, free_port
from harness.topics import read_topic
from harness.wait import wait_until

DIM = 16
ROWS = 3000


@pytest.fixture(scope="module")
def us(module_world):
    """One region alone, with a collection of some rows, a few of them sealed."""
    world = module_world(["us"], overrides={"indexer": {"index.hot_rows": 1000}})
    world.start()
    us = world["us"]
    api = Api(us.indexer.url)
    api.put("/collections/rows", {"vectors": {"size": DIM, "distance": "Euclid"}, "antipode": {"codec": "none"}})
    vectors = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)
    for start in range(0, ROWS, 500):
        api.put("/collections/rows/points?wait=true",
                {"points": [{"id": i, "vector": vectors[i].tolist(), "payload": {"n": i}} for i in range(start, start + 500)]})
    us.vectors = vectors
    yield us


def alone(folder, **overrides) -> Daemon:
    """An indexer with nothing around it: no Kafka answers, no consumer makes a store."""
    port = free_port()
    return Daemon("indexer", "us", port, {"regions": "us", "peers": "", "kafka.bootstrap.servers": f"{HOST}:1", "store.path": folder / "store",
                                          "index.path": folder / "index", "producer.url": f"http://{HOST}:1",
                                          **{k.replace("__", "."): v for k, v in overrides.items()}}, folder, folder)


def check_all(us) -> None:
    """Every row is there, and the nearest of a row's own vector is the row."""
    api = Api(us.indexer.url)
    assert api.post("/collections/rows/points/count", {})["count"] == ROWS
    for i in range(0, ROWS, 307):
        hit = api.post("/collections/rows/points/query", {"query": us.vectors[i].tolist(), "limit": 1, "with_payload": True})["points"][0]
        assert (hit["id"], hit["payload"]) == (i, {"n": i})


def test_waits_for_the_store(tmp_path):
    daemon = alone(tmp_path).start().wait_healthy()
    api = Api(daemon.url)
    ready = wait_until(lambda: (r := api.request("GET", "/readyz")) and "waiting for antipode-consumer" in r[1] and r, 10, "it says what it waits for")
    assert ready[0] == 503 and "cannot reach the producer" in ready[1]
    status, text = api.request("POST", "/collections/rows/points/query", {"query": [1.0]})
    assert status == 503 and "waiting for antipode-consumer" in text and "Retry-After" in api.headers
    assert "waiting for antipode-consumer to create the store" in daemon.process.log_text()
    assert daemon.stop(5) == 0


@pytest.mark.parametrize("overrides, code, says", [
    ({"region": "US"}, 2, "region"),
    ({"regions": "eu,ap"}, 2, "does not list this region"),
    ({"producer__url": "127.0.0.1:8101"}, 2, "producer.url"),
    ({"index__hot_rows": 1}, 2, "index.hot_rows"),
    ({"index__sealed_factory": "IVF16,Nonsense"}, 2, "index.sealed_factory"),
    ({"index__sealed_factory": "PQ"}, 2, "FAISS cannot use it"),
    ({"no_such_key": 1}, 2, "no_such_key"),
    ({"log__level": "loud"}, 2, "log.level"),
    ({"http__listen": "nowhere"}, 1, "cannot listen"),
])
def test_wrong_configuration(tmp_path, overrides, code, says):
    daemon = alone(tmp_path, **overrides)
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=300, cwd=paths.ROOT)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_port_in_use(tmp_path, us):
    daemon = alone(tmp_path, http__listen=us.indexer.url.removeprefix("http://"))
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=300, cwd=paths.ROOT)
    assert done.returncode == 1 and "another program holds it" in done.stderr


def test_store_of_another_region(tmp_path, us):
    daemon = alone(tmp_path, store__path=us.store_path, region="eu", regions="eu,us")
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=300, cwd=paths.ROOT)
    assert done.returncode == 1 and "us" in done.stderr and "eu" in done.stderr, done.stderr


def test_kafka_properties_that_are_not_ours_to_set(tmp_path, us):
    daemon = alone(tmp_path, store__path=us.store_path, kafka__acks="1")
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=300, cwd=paths.ROOT)
    assert done.returncode == 1 and "kafka.acks cannot be set" in done.stderr, done.stderr


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_starts_again_with_what_it_had(us, how):
    check_all(us)
    if how == "kill":
        us.indexer.kill()
    else:
        assert us.indexer.stop() == 0
    us.indexer.start().wait_healthy().wait_ready()
    check_all(us)


def test_stops_while_requests_wait(us):
    """A write that waits for visibility, which cannot come without the consumer, gets its answer before the end."""
    writes = us.producer.metric("antipode_http_requests_total", route="upsert")
    us.consumer.process.freeze()
    try:
        waiting = subprocess.Popen(["curl", "-s", "--noproxy", "*", "-X", "PUT", "-H", "Content-Type: application/json", "-d",
                                    '{"points":[{"id":1,"vector":[%s],"payload":{"n":1}}]}' % ",".join(map(str, us.vectors[1])),
                                    us.indexer.url + "/collections/rows/points?wait=true&timeout=3"], stdout=subprocess.PIPE, text=True)
        wait_until(lambda: us.producer.metric("antipode_http_requests_total", route="upsert") > writes, 10, "the producer has it")
        assert us.indexer.stop(10) == 0
        assert '"wait_timeout"' in waiting.communicate(timeout=120)[0]
    finally:
        us.consumer.process.thaw()
    us.indexer.start().wait_healthy().wait_ready()
    wait_until(lambda: check_all(us) is None, 20, "all is as before")


def test_reads_go_on_without_kafka_and_producer(us):
    us.kafka.kill()
    us.producer.kill()
    try:
        check_all(us)
        us.indexer.kill()
        us.indexer.start().wait_healthy().wait_ready()
        check_all(us)
        status, text = Api(us.indexer.url).request("PUT", "/collections/rows/points", {"points": []})
        assert status == 503 and "cannot reach the producer" in text
    finally:
        us.kafka.restart()
        us.producer.start().wait_healthy().wait_ready()
    check_all(us)


def test_watermarks_are_published(us):
    """At least one a second without a change, and the newest names what is visible."""
    def marks():
        return [r.value for r in read_topic(us.bootstrap, "vec-watermarks") if r.value and r.key == b"watermark/us"]

    before = len(wait_until(marks, 20, "a watermark"))
    wait_until(lambda: len(marks()) > before, 10, "another, though nothing changes")
    Api(us.producer.url).put("/collections/rows/points", {"points": [{"id": 1, "vector": us.vectors[1].tolist(), "payload": {"n": 1}}]})
    newest = max((r for r in read_topic(us.bootstrap, "vec-mutations") if r.value["op"] == "UPSERT"), key=lambda r: r.version)

    def covered():
        return any((p["stream"], p["partition"]) == (newest.value["stream"] or newest.value["writer"], newest.partition) and p["mark"] >= newest.value["seq"]
                   for p in marks()[-1]["positions"])

    wait_until(covered, 20, "the watermark covers what was written")
    assert us.indexer.metric("antipode_watermark_age_seconds") < 5
