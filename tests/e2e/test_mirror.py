"""What everything else rests on: MirrorMaker carries records both ways, through the WAN listeners, whole.

No daemon of ours runs here.
"""

import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from harness.kafka import region_topics
from harness.wait import Late, wait_until


@pytest.fixture(scope="module")
def regions(module_world):
    world = module_world(["eu", "us"], delayed=True)
    yield world.start(daemons=False)


class Reader:
    """All partitions of one topic from the start."""

    def __init__(self, region, topic, partitions=4):
        self.consumer = Consumer({"bootstrap.servers": region.bootstrap, "group.id": "test", "log_level": 0,
                                  "enable.auto.commit": False, "fetch.wait.max.ms": 10})
        self.consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        self.got = []

    def more(self):
        for message in self.consumer.consume(1000, timeout=0.02):
            assert not message.error(), message.error()
            self.got.append(message)
        return self.got

    def wait(self, predicate, deadline_s, what):
        return wait_until(lambda: predicate(self.more()), deadline_s, what)


def producer(region):
    return Producer({"bootstrap.servers": region.bootstrap, "acks": "all", "log_level": 0})


def test_both_directions_at_once(regions):
    sent = {}
    for here in regions:
        writer = producer(here)
        for i in range(200):
            record = {"value": f"{here.name} {i}".encode(), "key": bytes([i]), "partition": i % 4,
                      "headers": [("traceparent", b"00-%d" % i)], "timestamp": 1700000000000 + i}
            sent.setdefault(here.name, []).append(record)
            writer.produce("vec-mutations", **record)
        assert writer.flush(20) == 0
    for origin, target in (("eu", "us"), ("us", "eu")):
        reader = Reader(regions[target], f"{origin}.vec-mutations")
        reader.wait(lambda got: len(got) >= 200, 40, f"{origin}'s records in {target}")
        seen = sorted((m.timestamp()[1], m.value(), m.key(), m.partition(), m.headers()) for m in reader.got)
        assert seen == [(r["timestamp"], r["value"], r["key"], r["partition"], r["headers"]) for r in sent[origin]]
        for p in range(4):
            values = [m.value() for m in reader.got if m.partition() == p]
            assert values == [r["value"] for r in sent[origin] if r["partition"] == p], "order within a partition"


def test_only_vec_topics_cross_and_only_once(regions):
    topics = set(regions["us"].kafka.admin.list_topics(timeout=60).topics)
    ours = {t for t in topics if not t.startswith(("mm2-", "__", "heartbeats"))}
    assert ours == set(region_topics("us", ["eu", "us"]))


def test_it_crosses_by_the_wan_listener(regions):
    shown = regions.delay.show()
    assert all(shown[r.name]["open"] > 0 and shown[r.name]["bytes_out"] > 1000 for r in regions)


def test_distance_partition_and_return(regions):
    eu, us = regions["eu"], regions["us"]
    writer, reader = producer(eu), Reader(us, "eu.vec-mutations")

    def send_and_wait(text, deadline_s):
        start = time.monotonic()
        writer.produce("vec-mutations", text, partition=0)
        assert writer.flush(120) == 0
        reader.wait(lambda got: any(m.value() == text for m in got), deadline_s, f"{text} in us")
        return time.monotonic() - start

    send_and_wait(b"near", 20)
    regions.delay.distance(100)
    took = send_and_wait(b"far", 20)
    assert took >= 0.1
    regions.delay.distance(0)
    regions.delay.part("eu")
    with pytest.raises(Late):
        send_and_wait(b"parted", 1)
    regions.delay.heal("eu")
    reader.wait(lambda got: any(m.value() == b"parted" for m in got), 30, "what was written while parted")
    # MirrorMaker killed: what it mirrors twice is the same records again, none is missing.
    us.mirror.kill()
    writer.produce("vec-mutations", b"while away", partition=1)
    assert writer.flush(120) == 0
    us.mirror.start()
    reader.wait(lambda got: any(m.value() == b"while away" for m in got), 40, "what was written while MirrorMaker was away")
