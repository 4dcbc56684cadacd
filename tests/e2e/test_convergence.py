"""Both regions write the same 1,000 points while consumers and indexers are killed; the end must equal a model.

The model is built from two things that share no code with the daemons: what the clients were told (every acknowledged
write must be in Kafka), and the topics as fastavro reads them (the newest version of each point must be what every region
serves). Seeds are printed: AP_SEED=n repeats a run.
"""
from __future__ import annotations

import json
import os
import random
import shutil
import threading
import time

import pytest
from harness.api import Api
from harness.topics import read_topic, winners
from harness.wait import Late, wait_until

IDS = 1000
KILLS = 20
DIM = 8


def seed() -> int:
    value = int(os.environ.get("AP_SEED", time.time_ns() % 1_000_000_000))
    print(f"AP_SEED={value}")
    return value


class Writer(threading.Thread):
    """Upserts and deletes random points of a collection in one region; remembers what was acknowledged."""

    def __init__(self, region, collection: str, number: int, ids: int):
        super().__init__(daemon=True)
        self.api, self.region, self.collection, self.ids = Api(region.producer.url), region.name, collection, ids
        self.random = random.Random(number)
        self.acked: list[tuple[str, int, str | None]] = []  # (op, point, its mark)
        self.stopping = threading.Event()
        self.error: Exception | None = None

    def run(self):
        try:
            n = 0
            while not self.stopping.is_set():
                n += 1
                self.one(n)
        except Exception as e:  # shown by stop(): a thread's exception is otherwise lost
            self.error = e

    def one(self, n: int):
        point = self.random.randrange(self.ids)
        if self.random.random() < 0.25:
            self.api.post(f"/collections/{self.collection}/points/delete", {"points": [point]})
            self.acked.append(("DELETE", point, None))
            return
        mark = f"{self.region}-{id(self)}-{n}"
        vector = [self.random.uniform(-1, 1) for _ in range(DIM)]
        self.api.put(f"/collections/{self.collection}/points", {"points": [{"id": point, "vector": vector, "payload": {"mark": mark}}]})
        self.acked.append(("UPSERT", point, mark))

    def stop(self) -> int:
        self.stopping.set()
        self.join(60)
        if self.error is not None:
            raise self.error
        return len(self.acked)


def make_collection(eu, us, name: str, dim: int = DIM, **more) -> None:
    Api(eu.producer.url).put(f"/collections/{name}", {"vectors": {"size": dim, "distance": "Dot"}, **more})
    for region in (eu, us):
        for url in (region.indexer.url, region.producer.url):
            api = Api(url)
            wait_until(lambda: knows(api, name), 60, f"{url} knows {name}")


def knows(api: Api, name: str) -> bool:
    """A write of no points is refused only where the collection is unknown."""
    return api.request("POST", f"/collections/{name}/points/delete", {"points": []})[0] == 200


def expected(regions, collection_names: dict | None = None) -> dict:
    """point -> payload mark, of the live points, from the topics of all regions."""
    records = [r for region in regions for r in read_topic(region.bootstrap, "vec-mutations")]
    state = winners(records)
    return {key: json.loads(r.value["payload"] or "{}") for key, r in state.items() if r.value["op"] != "DELETE"}


def only(model: dict, marks: set) -> dict:
    """The part of the model that a test's own writes made, by point id."""
    return {point: payload["mark"] for (_, point), payload in model.items() if payload.get("mark") in marks}


def served(region, collection: str) -> dict:
    return {p: v["payload"]["mark"] for p, v in Api(region.indexer.url).scroll(collection).items()}


def assert_equal_to_model(regions, collection: str, writers) -> dict:
    acked_marks = {mark for w in writers for op, _, mark in w.acked if op == "UPSERT"}
    published = set()
    for region in regions:
        for r in read_topic(region.bootstrap, "vec-mutations"):
            if r.value and r.value["op"] == "UPSERT":
                published.add(json.loads(r.value["payload"] or "{}").get("mark"))
    lost = acked_marks - published
    assert not lost, f"{len(lost)} acknowledged writes are not in Kafka, for example {sorted(lost)[:3]}"
    model = only(expected(regions), acked_marks)
    for region in regions:
        def same(region=region):
            return served(region, collection) == model
        try:
            wait_until(same, 60, f"{region.name} equals the model")
        except Late:
            have = served(region, collection)
            missing = {k for k in model if k not in have}
            extra = {k for k in have if k not in model}
            other = {k for k in model if k in have and have[k] != model[k]}
            pytest.fail(f"{region.name}: {len(missing)} missing {sorted(missing)[:5]}, {len(extra)} resurrected {sorted(extra)[:5]}, "
                        f"{len(other)} with another version {sorted(other)[:5]}")
        assert Api(region.indexer.url).post(f"/collections/{collection}/points/count", {"exact": True})["count"] == len(model)
    return model


def test_killed_twenty_times_equals_the_model(world):
    eu, us = world["eu"], world["us"]
    number = seed()
    rng = random.Random(number)
    make_collection(eu, us, "contended")
    writers = [Writer(r, "contended", number + i, IDS) for i, r in enumerate((eu, us, eu, us))]
    for w in writers:
        w.start()
    kills = {"consumer": 0, "indexer": 0, "between commits": 0}
    for i in range(KILLS):
        region = rng.choice((eu, us))
        before = sum(len(w.acked) for w in writers)
        # Each kill lands in traffic: so many writes are acknowledged before the next.
        wait_until(lambda: sum(len(w.acked) for w in writers) >= before + rng.randrange(20, 200), 60, "writes go on")
        if i % 4 == 3:
            kill_between_commits(region, rng.randrange(1, 20))
            kills["between commits"] += 1
        else:
            which = rng.choice(("consumer", "indexer"))
            daemon = getattr(region, which)
            daemon.kill()
            daemon.start()
            daemon.wait_healthy()
            kills[which] += 1
    acked = sum(w.stop() for w in writers)
    model = assert_equal_to_model((eu, us), "contended", writers)
    print(f"{acked} acknowledged writes, {kills}, {len(model)} live points")
    assert acked > 1000
    for region in (eu, us):
        assert Api(region.consumer.url).metric("antipode_consumer_hole_records") == 0


def kill_between_commits(region, batch: int) -> None:
    """The consumer kills itself with SIGKILL after the store's commit and before the offset's."""
    region.consumer.stop()
    region.consumer.process.env["ANTIPODE_CRASH"] = f"after_store_commit:{batch}"
    try:
        region.consumer.start()
        wait_until(lambda: not region.consumer.alive(), 60, "the consumer has killed itself between the commits")
    finally:
        del region.consumer.process.env["ANTIPODE_CRASH"]
    region.consumer.start()
    region.consumer.wait_healthy()


def test_mirrormaker_stopped_under_load(world):
    eu, us = world["eu"], world["us"]
    number = seed()
    make_collection(eu, us, "unmirrored")
    writers = [Writer(r, "unmirrored", number + i, IDS) for i, r in enumerate((eu, us))]
    for w in writers:
        w.start()
    us.mirror.kill()
    before = sum(len(w.acked) for w in writers)
    wait_until(lambda: sum(len(w.acked) for w in writers) >= before + 1000, 60, "writes go on without the mirror")
    lag = lambda: Api(us.consumer.url).metric("replication_lag_seconds", origin="eu", partition="0", topic="vec-mutations")
    wait_until(lambda: lag() > 2, 30, "the lag of eu grows in us while its mirror is down")
    us.mirror.start()
    wait_until(lambda: sum(len(w.acked) for w in writers) >= before + 2000, 60, "writes go on")
    for w in writers:
        w.stop()
    assert_equal_to_model((eu, us), "unmirrored", writers)
    wait_until(lambda: lag() < 2, 30, "the lag has fallen")


def test_a_topic_replayed_changes_nothing(world):
    """All of eu's mutations once more into us's mirrored topic, as a mirror that lost its offsets would: every record is a duplicate."""
    from confluent_kafka import Producer
    eu, us = world["eu"], world["us"]
    number = seed()
    make_collection(eu, us, "replayed")
    writers = [Writer(r, "replayed", number + i, 200) for i, r in enumerate((eu, us))]
    for w in writers:
        w.start()
    wait_until(lambda: sum(len(w.acked) for w in writers) >= 1000, 60, "1,000 writes")
    for w in writers:
        w.stop()
    model = assert_equal_to_model((eu, us), "replayed", writers)
    consumer = Api(us.consumer.url)
    duplicates = lambda: consumer.metric("antipode_consumer_duplicates_total")
    before = duplicates()
    records = read_topic(eu.bootstrap, "vec-mutations")
    producer = Producer({"bootstrap.servers": us.bootstrap, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})
    for r in records:
        producer.produce("eu.vec-mutations", value=r.raw, key=r.key, partition=r.partition)
    producer.flush(120)
    wait_until(lambda: duplicates() >= before + len(records), 60, "every replayed record was counted as a duplicate")
    assert {p: v["payload"]["mark"] for p, v in Api(us.indexer.url).scroll("replayed").items()} == model
    assert consumer.metric("antipode_consumer_hole_records") == 0


def test_a_store_thrown_away_is_rebuilt_from_the_logs(world):
    eu, us = world["eu"], world["us"]
    number = seed()
    make_collection(eu, us, "rebuilt")
    writers = [Writer(r, "rebuilt", number + i, 200) for i, r in enumerate((eu, us))]
    for w in writers:
        w.start()
    wait_until(lambda: sum(len(w.acked) for w in writers) >= 500, 60, "500 writes")
    for w in writers:
        w.stop()
    assert_equal_to_model((eu, us), "rebuilt", writers)
    us.indexer.stop()
    us.consumer.stop()
    shutil.rmtree(us.store_path)
    us.consumer.start()
    us.indexer.start()
    us.indexer.wait_ready()
    assert_equal_to_model((eu, us), "rebuilt", writers)
    assert Api(us.consumer.url).metric("antipode_consumer_hole_records") == 0


def test_a_poisoned_record_goes_to_the_dead_letters(world):
    from confluent_kafka import Producer
    eu, us = world["eu"], world["us"]
    make_collection(eu, us, "poisoned")
    before = len(read_topic(us.bootstrap, "dlq-mutations"))
    producer = Producer({"bootstrap.servers": us.bootstrap})
    bad = {b"not avro at all": "garbage", b"\xc3\x01" + bytes(8)[:4]: "cut in the fingerprint"}
    for value in bad:
        producer.produce("eu.vec-mutations", value=value, key=bytes(24), partition=1)
    producer.flush(120)
    Api(eu.producer.url).put("/collections/poisoned/points", {"points": [{"id": 1, "vector": [1.0] * DIM, "payload": {"mark": "after"}}]})
    wait_until(lambda: Api(us.indexer.url).request("GET", "/collections/poisoned/points/1")[0] == 200, 60, "the stream goes on")
    wait_until(lambda: len(read_topic(us.bootstrap, "dlq-mutations")) >= before + len(bad), 60, "the dead letters are there")
    letters = read_topic(us.bootstrap, "dlq-mutations")[-len(bad):]
    assert {r.raw for r in read_topic(us.bootstrap, "dlq-mutations")} >= set(bad)
    for letter in letters:
        headers = {k: v.decode() for k, v in letter.headers}
        assert headers["origin"] == "eu" and headers["partition"] == "1" and headers["reason"] and headers["offset"].isdigit(), headers
