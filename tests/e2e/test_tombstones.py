"""Tombstones go once nothing older can come, in both regions, and nothing comes back; what holds them up is told."""
from __future__ import annotations

import json
import subprocess

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from harness import paths
from harness.api import Api
from harness.wait import wait_until

POINTS = 60


def keep_for(region, ms: int):
    """How long a region's Kafka keeps the records of mutations and dead letters: retention and segment together."""
    topics = [name for name in region.kafka.admin.list_topics(timeout=60).topics if name.endswith("-mutations")]
    entries = [ConfigEntry(k, str(ms // 2), incremental_operation=AlterConfigOpType.SET) for k in ("retention.ms", "segment.ms")]
    for future in region.kafka.admin.incremental_alter_configs(
            [ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries) for name in topics]).values():
        future.result(10)


@pytest.fixture(scope="module")
def world(module_world):
    # Retention is what the rule goes by; that the broker really removes records, first 30 s after its start, would make holes here.
    options = {"consumer": {"tombstones.margin_ms": 0, "tombstones.check_ms": 200}, "kafka": {"log.initial.task.delay.ms": 3_600_000}}
    w = module_world(["eu", "us"], overrides=options)
    w.start()
    Api(w["eu"].indexer.url).put("/collections/c", {"vectors": {"size": 4, "distance": "Cosine"}})
    for region in w:
        api = Api(region.producer.url)
        wait_until(lambda: api.request("POST", "/collections/c/points/delete", {"points": []})[0] == 200, 30, "the collection is known")
    yield w


def antipode(*args) -> tuple[int, str]:
    done = subprocess.run([paths.binary("antipode"), *map(str, args)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def status(region) -> dict:
    return json.loads(antipode("status", "--json", "--region", region.name, "--consumer", region.consumer.url)[1])["regions"][0]


def ids(region) -> set[int]:
    return set(Api(region.indexer.url).scroll("c"))


def upsert(region, points):
    Api(region.producer.url).put("/collections/c/points", {"points": [{"id": i, "vector": [1, i, 2, 3]} for i in points]})


def delete(region, points):
    Api(region.producer.url).post("/collections/c/points/delete", {"points": list(points)})


def kept(region) -> float:
    return region.consumer.metric("antipode_tombstones")


def test_kept_while_the_logs_are_then_gone_everywhere(world):
    eu, us = world["eu"], world["us"]
    upsert(eu, range(POINTS))
    delete(eu, range(0, POINTS, 2))
    left = set(range(1, POINTS, 2))
    wait_until(lambda: ids(eu) == ids(us) == left, 20, "both have what is left")
    wait_until(lambda: kept(eu) == kept(us) == POINTS / 2, 20, "both keep the tombstones, for a week")
    for region in world:
        wait_until(lambda: region.consumer.metric("antipode_tombstones_min_age_seconds") > 7 * 86400, 20, "the age is known")
    for region in world:
        keep_for(region, 2000)
    wait_until(lambda: kept(eu) == kept(us) == 0, 30, "no tombstone is left")
    assert eu.consumer.metric("antipode_tombstones_collected_total") == POINTS / 2
    assert eu.consumer.metric("antipode_store_rows") == us.consumer.metric("antipode_store_rows") == POINTS / 2
    for region in world:
        for daemon in (region.consumer, region.indexer):
            daemon.kill()
            daemon.start()
    for region in world:
        region.consumer.wait_ready()
        region.indexer.wait_ready()
        assert ids(region) == left
    code, text = antipode("verify", eu.indexer.url, us.indexer.url, "--collection", "c", "--scrub")
    assert code == 0, text


def test_a_stopped_mirror_holds_them_up_and_is_named(world):
    eu, us = world["eu"], world["us"]
    for region in world:
        keep_for(region, 2000)
    upsert(eu, range(1000, 1010))
    wait_until(lambda: 1009 in ids(us), 20, "us has them")
    us.mirror.kill()
    delete(eu, range(1000, 1010))
    before = status(us)["tombstones_collected"]
    wait_until(lambda: any(h["by"] == "us" and h["why"] == "behind" and h["origin"] == "eu" for h in status(eu)["tombstones_held_up"]), 20,
               "eu names us, and eu's stream")
    wait_until(lambda: kept(eu) == 10, 10, "eu keeps them all")
    us.mirror.start()
    wait_until(lambda: kept(eu) == 0 and status(us)["tombstones_collected"] == before + 10, 90, "both let them go")
    assert not ids(us) & set(range(1000, 1010))
