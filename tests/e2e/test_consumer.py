"""The consumer alone on a real Kafka: killed at any instant, fed twice, fed poison, out of room, told to stop.

The records are made by harness.feed, and the model of what must be in the store is made while they are sent.
"""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from harness import paths
from harness.feed import Stream, key_of, read_store
from harness.topics import read_topic
from harness.wait import wait_until

IDS = 500
COLLECTION = 7


@pytest.fixture(scope="module")
def kafka_of_us(module_world):
    """Region us with nothing but its Kafka: one for all tests, because its start takes longer than they do."""
    world = module_world(["us", "eu"])
    world["us"].kafka.start().wait_ready()
    yield world["us"]


def empty_topics(region) -> None:
    """All topics made anew, as if eu's were mirrored."""
    there = [name for name in region.kafka.admin.list_topics(timeout=60).topics if not name.startswith("__")]
    if there:
        for future in region.kafka.admin.delete_topics(there).values():
            future.result(120)
        wait_until(lambda: not set(there) & set(region.kafka.admin.list_topics(timeout=60).topics), 30, "the topics are deleted")
    region.create_topics()


@pytest.fixture
def us(kafka_of_us):
    empty_topics(kafka_of_us)
    consumer = kafka_of_us.consumer
    consumer.overrides = {k: v for k, v in consumer.overrides.items() if k not in ("store.map_bytes", "worker", "workers")}
    consumer.overrides["store.path"] = kafka_of_us.store_path
    yield kafka_of_us
    if consumer.alive():
        consumer.kill()
    for store in kafka_of_us.data_dir.glob("store*"):
        shutil.rmtree(store)


def producer_for(region) -> Producer:
    return Producer({"bootstrap.servers": region.bootstrap, "linger.ms": 2, "enable.idempotence": True})


def seeded() -> random.Random:
    seed = int(os.environ.get("AP_SEED", time.time_ns() % 1_000_000_000))
    print(f"AP_SEED={seed}")
    return random.Random(seed)


class Feeder(threading.Thread):
    """Writes conflicting upserts and deletes as both regions, and knows what must come of them."""

    def __init__(self, region, rng: random.Random):
        super().__init__(daemon=True)
        self.producer = producer_for(region)
        self.streams = [Stream(self.producer, name, "us", rng=rng) for name in ("us", "eu")]
        self.rng, self.done, self.model, self.sent = rng, threading.Event(), {}, 0

    def one(self) -> None:
        stream, point = self.rng.choice(self.streams), self.rng.randrange(IDS)
        op = "DELETE" if self.rng.random() < 0.2 else "UPSERT"
        payload = {"n": self.sent} if op == "UPSERT" else None
        version = stream.mutate(op, point, payload)
        self.sent += 1
        if point not in self.model or version > self.model[point][0]:
            self.model[point] = (version, op, payload)

    def run(self) -> None:
        while not self.done.is_set():
            for _ in range(20):
                self.one()
            time.sleep(0.005)
        self.producer.flush(120)


def check_store(region, model: dict) -> None:
    rows = read_store(region.store_path)
    assert {point for _, point in rows} == set(model)
    for point, (version, op, payload) in model.items():
        row = rows[(COLLECTION, point)]
        assert (row.hlc, row.region, row.writer) == version, point
        assert row.tombstone == (op == "DELETE"), point
        if payload is not None:
            assert json.loads(row.payload) == payload


def contents(region) -> dict:
    return {key: row.bytes for key, row in read_store(region.store_path).items()}


def caught_up(consumer) -> bool:
    metrics = consumer.metrics()
    lags = [v for k, v in metrics.items() if k.startswith("antipode_consumer_kafka_lag_records")]
    return bool(lags) and not any(lags) and metrics["antipode_ready"] == 1


def wait_caught_up(region, deadline_s: float = 30) -> None:
    region.consumer.wait_ready()
    wait_until(lambda: caught_up(region.consumer), deadline_s, "the consumer has read all there is")


def start(region, crash_after: int = 0, **overrides):
    region.consumer.process.env = {"ANTIPODE_CRASH": f"after_store_commit:{crash_after}"} if crash_after else {}
    return region.consumer.start(**overrides)


@pytest.mark.long
def test_killed_at_any_instant_it_loses_and_doubles_nothing(us):
    rng = seeded()
    feeder = Feeder(us, rng)
    feeder.start()
    kills = {"instant": 0, "after_store_commit": 0}
    for i in range(24):
        if i % 2:
            start(us, crash_after=rng.randint(1, 30))
            assert us.consumer.process.wait_ended(30) == -signal.SIGKILL
            kills["after_store_commit"] += 1
        else:
            start(us)
            time.sleep(rng.uniform(0.02, 0.6))  # the instant is the point
            us.consumer.kill()
            kills["instant"] += 1
    feeder.done.set()
    feeder.join()
    start(us)
    wait_caught_up(us)
    assert us.consumer.metric("antipode_consumer_hole_records") == 0
    assert us.consumer.metric("antipode_consumer_dead_letters_total") == 0
    assert us.consumer.metric("antipode_consumer_unregistered_total") == 0
    assert us.consumer.stop() == 0
    print(f"{feeder.sent} records, {len(feeder.model)} points, killed {kills}")
    assert feeder.sent > 1000
    check_store(us, feeder.model)


def test_a_replay_changes_nothing_nor_does_a_topic_made_again(us):
    rng = seeded()
    feeder = Feeder(us, rng)
    for _ in range(3000):
        feeder.one()
    feeder.producer.flush(120)
    start(us)
    wait_caught_up(us)
    us.consumer.stop()
    before = contents(us)
    check_store(us, feeder.model)

    start(us)
    again = sum(stream.send_again() for stream in feeder.streams)
    wait_until(lambda: us.consumer.metric("antipode_consumer_duplicates_total") == again, 30, "all of it is recognised")
    assert us.consumer.metric("antipode_consumer_applied_total") == 0

    # The mirror's copy is thrown away and mirrored anew, and is longer than it was before the consumer looks again: its
    # offsets fit the old ones, and only the topic's id tells that it is another.
    eu = next(s for s in feeder.streams if s.region == "eu")
    us.consumer.process.freeze()
    us.kafka.admin.delete_topics(["eu.vec-mutations"])["eu.vec-mutations"].result(120)
    wait_until(lambda: "eu.vec-mutations" not in us.kafka.admin.list_topics(timeout=60).topics, 30, "the topic is deleted")
    us.create_topics()
    made_again = sum(eu.send_again() for _ in range(3))
    us.consumer.process.thaw()
    wait_until(lambda: us.consumer.metric("antipode_consumer_duplicates_total") >= again + made_again, 60, "the new topic is read from its start")
    eu.mutate("UPSERT", 1, {"n": "after"})
    eu.producer.flush(120)
    wait_until(lambda: us.consumer.metric("antipode_consumer_applied_total") == 1, 30, "and the stream goes on")
    us.consumer.wait_ready()
    assert us.consumer.stop() == 0
    after = contents(us)
    assert {k for k in before if before[k] != after[k]} <= {(COLLECTION, 1)}
    assert set(after) == set(before) | {(COLLECTION, 1)}


def test_what_was_purged_before_it_was_read_shows_as_a_hole(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    for n in range(400):
        eu.mutate("UPSERT", n, {"n": n})
    producer.flush(120)
    start(us)
    wait_caught_up(us)
    us.consumer.stop()
    for n in range(800):
        eu.mutate("UPSERT", n, {"n": n})
    producer.flush(120)
    low = TopicPartition("eu.vec-mutations", 2, 250)  # 100 were read, 300 are there
    us.kafka.admin.delete_records([low])[low].result(120)
    start(us)
    wait_caught_up(us)
    assert us.consumer.metric("antipode_consumer_hole_records", origin="eu") == 150
    [hole] = [k for k in us.consumer.metrics() if k.startswith("antipode_consumer_hole{")]
    assert 'partition="2"' in hole and 'first="101"' in hole and 'last="250"' in hole
    us.consumer.stop()


def test_poison_is_set_aside_once_and_the_stream_goes_on(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    poison = set()
    for n in range(300):
        eu.mutate("UPSERT", n, {"n": n})
        if n % 30 == 0:
            producer.produce("eu.vec-mutations", os.urandom(50), key_of(COLLECTION, n), n % 4)
    producer.flush(120)
    for record in read_topic(us.bootstrap, "eu.vec-mutations"):
        if record.value is None:
            poison.add((record.topic, record.partition, record.offset))
    start(us, crash_after=2)  # the first commit is the control records'
    us.consumer.process.wait_ended(30)
    start(us)
    wait_caught_up(us)
    letters = read_topic(us.bootstrap, "dlq-mutations")
    headers = [{k: v.decode() for k, v in letter.headers} for letter in letters]
    assert {("eu." + h["topic"], int(h["partition"]), int(h["offset"])) for h in headers} == poison
    assert all(h["origin"] == "eu" and h["code"] == "corrupt" and h["reason"] and h["time"].endswith("Z") for h in headers)
    assert us.consumer.metric("antipode_consumer_hole_records") == 0
    us.consumer.stop()
    assert len(read_store(us.store_path)) == 300


def test_out_of_room_it_stops_and_says_what_to_do(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    for n in range(8000):
        eu.mutate("UPSERT", n, {"text": "x" * 200})
    producer.flush(120)
    start(us, store__map_bytes=2 << 20)
    assert us.consumer.process.wait_ended(60) == 1
    log = us.consumer.process.log_text()
    assert "store.map_bytes" in log and "nothing was skipped" in log
    start(us, store__map_bytes=1 << 30)
    wait_caught_up(us)
    assert us.consumer.metric("antipode_consumer_hole_records") == 0
    assert us.consumer.stop() == 0
    assert len(read_store(us.store_path)) == 8000


def test_kafka_restarts_and_the_consumer_goes_on(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    for n in range(500):
        eu.mutate("UPSERT", n, {"n": n})
    producer.flush(120)
    start(us)
    wait_caught_up(us)
    us.kafka.kill()
    us.kafka.start().wait_ready()
    for n in range(500):
        eu.mutate("UPSERT", n, {"n": n + 1000})
    producer.flush(120)
    wait_until(lambda: us.consumer.metric("antipode_consumer_applied_total") == 1000, 60, "the records after the restart are applied")
    assert us.consumer.stop() == 0
    assert all(json.loads(row.payload)["n"] >= 1000 for row in read_store(us.store_path).values())


def test_sigterm_ends_it_and_lag_tools_see_its_offsets(us):
    producer = producer_for(us)
    own = Stream(producer, "us", "us")
    for n in range(100):
        own.mutate("UPSERT", n, {"n": n})
    producer.flush(120)
    start(us)
    wait_caught_up(us)
    assert us.consumer.stop() == 0
    asked = ConsumerGroupTopicPartitions("antipode-us-0", [TopicPartition("vec-mutations", p) for p in range(4)])
    answer = us.kafka.admin.list_consumer_group_offsets([asked])["antipode-us-0"].result(120)
    assert [t.offset for t in answer.topic_partitions] == own.seq


def test_old_versions_are_dropped_as_the_indexer_goes_on(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    start(us)
    us.indexer.start()
    try:
        for n in range(30000):
            eu.mutate("UPSERT", n % 100, {"n": n})
            if n % 1000 == 0:
                producer.flush(120)  # several batches
        producer.flush(120)
        wait_caught_up(us)
        wait_until(lambda: us.consumer.metric("antipode_consumer_cleaned_rows_total") > 25000, 30, "the cleaner has dropped the old versions")
    finally:
        us.indexer.stop()
    assert us.consumer.metric("antipode_store_rows") == 100
    assert us.consumer.stop() == 0
    rows = read_store(us.store_path)
    assert {json.loads(row.payload)["n"] for row in rows.values()} == set(range(29900, 30000))


def test_workers_share_the_partitions(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    for n in range(100):
        eu.mutate("UPSERT", n, {"n": n})
    producer.flush(120)
    rows = set()
    for worker in (0, 1):
        start(us, worker=worker, workers=2, store__path=us.data_dir / f"store-{worker}")
        wait_caught_up(us)
        assert us.consumer.stop() == 0
        mine = {point for _, point in read_store(us.data_dir / f"store-{worker}")}
        assert all(point % 4 % 2 == worker for point in mine)
        rows |= mine
    assert rows == set(range(100))


# ---- the operator's tool ---------------------------------------------------------------------------------------------

def antipode(*args, code: int = 0) -> str:
    done = subprocess.run([paths.binary("antipode"), *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def test_cat_status_and_lag(us):
    producer = producer_for(us)
    eu = Stream(producer, "eu", "us")
    for n in range(20):
        eu.mutate("UPSERT", n, {"n": n})
    eu.mutate("DELETE", 3)
    for p in range(4):
        eu.heartbeat(p)
    producer.produce("eu.vec-mutations", b"poison", b"key", 0)
    producer.flush(120)
    lines = [json.loads(line) for line in antipode("cat", "-b", us.bootstrap, "-t", "eu.vec-mutations", "-e").splitlines()]
    assert len(lines) == 26
    assert sorted(line["id"] for line in lines if line.get("op") == "UPSERT") == list(range(20))
    assert [line["id"] for line in lines if line.get("op") == "DELETE"] == [3]
    assert sum(line.get("op") == "HEARTBEAT" for line in lines) == 4 and sum("error" in line for line in lines) == 1
    assert all(line["position"]["stream"] == f"{eu.id:016x}" for line in lines if "op" in line)
    assert len(antipode("cat", "-b", us.bootstrap, "-t", "eu.vec-mutations", "-e", "-c", 5).splitlines()) == 5
    assert len(antipode("cat", "-b", us.bootstrap, "-t", "eu.vec-mutations", "-e", "-p", 1, "-o", -2).splitlines()) == 2
    [vector] = [json.loads(line)["vector"] for line in antipode("cat", "-b", us.bootstrap, "-t", "eu.vec-mutations", "-p", 1, "-c", 1, "--vectors").splitlines()]
    assert vector == [1.0, 1.0]
    [control] = [json.loads(line) for line in antipode("cat", "-b", us.bootstrap, "-t", "eu.vec-control", "-e").splitlines()]
    assert control["kind"] == "INCARNATION" and control["says"]["incarnation"] == f"{eu.id:016x}"
    antipode("cat", "-b", us.bootstrap, "-t", "no-such-topic", "-e", code=1)
    antipode("cat", "-t", "x", "--no-such-option", code=2)

    consumer = ["--region", "us", "--consumer", us.consumer.url]
    down = json.loads(antipode("status", *consumer, "--json", code=1))
    assert down["regions"][0]["state"] == "down"
    start(us)
    wait_caught_up(us)
    wait_until(lambda: us.consumer.metric("antipode_consumer_dead_letters_total") == 1, 10, "the poison is set aside")
    [region] = json.loads(antipode("status", *consumer, "--json"))["regions"]
    assert region["region"] == "us" and region["state"] == "ready" and region["dead_letters"] == 1 and region["holes"] == 0
    assert set(region["lag"]) == {"us", "eu"} and region["applied"] == 21
    assert "dead letters" in antipode("status", *consumer)
    lag = json.loads(antipode("lag", *consumer, "--json"))["lag"]
    assert sorted((one["origin"], one["partition"]) for one in lag) == sorted((o, p) for o in ("eu", "us") for p in range(4))
    assert all(one["seconds"] >= 0 and one["records"] == 0 for one in lag)
    [letter] = [json.loads(line) for line in antipode("cat", "-b", us.bootstrap, "-t", "dlq-mutations", "-e").splitlines()]
    assert letter["headers"]["origin"] == "eu" and "error" in letter
    # A hole is news: exit code 1.
    eu.seq[0] += 5
    eu.mutate("UPSERT", 0, {"n": "far"})
    producer.flush(120)
    wait_until(lambda: us.consumer.metric("antipode_consumer_hole_records") == 5, 10, "the hole is seen")
    assert "MISSING" in antipode("status", *consumer, code=1)
