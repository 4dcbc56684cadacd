"""antipode dlq: what could not be applied is shown with its reason, and published again where that can help."""
from __future__ import annotations

import json
import os
import subprocess

from confluent_kafka import Producer
from harness import paths
from harness.api import Api
from harness.topics import read_topic
from harness.wait import wait_until

NAME = "letters"


def dlq(*args, code: int = 0) -> str:
    done = subprocess.run([paths.binary("antipode"), "dlq", *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def listed(region, *more) -> list[dict]:
    return [json.loads(line) for line in dlq("list", "-b", region.bootstrap, "--json", *more).splitlines()]


def send(region, topic: str, key, value, partition: int, headers=None) -> None:
    producer = Producer({"bootstrap.servers": region.bootstrap, "acks": "all"})
    producer.produce(topic, value, key, partition, headers=headers)
    assert producer.flush(120) == 0


def letter_of(record, region: str, **more) -> list:
    told = {"reason": "because", "code": "invalid", "origin": region, "topic": "vec-mutations", "partition": record.partition,
            "offset": record.offset, "time": "2026-01-01T00:00:00.000Z", **more}
    return [(k, str(v).encode()) for k, v in told.items()]


def test_usage():
    for args in (["dlq"], ["dlq", "burn", "-b", "x"], ["dlq", "show", "-b", "x"], ["dlq", "list", "-b", "x", "0:1"], ["dlq", "redrive", "-b", "x", "0:1"],
                 ["dlq", "redrive", "-b", "x", "--indexer", "http://x", "--all", "0:1"]):
        env = {k: v for k, v in os.environ.items() if k != "ANTIPODE_KAFKA_BOOTSTRAP_SERVERS"}
        assert subprocess.run([paths.binary("antipode"), *args], capture_output=True, env=env).returncode == 2, args


def test_letters_are_shown_refused_and_redriven(world):
    eu, us = world["eu"], world["us"]
    api = Api(eu.indexer.url)
    api.put(f"/collections/{NAME}", {"vectors": {"size": 4, "distance": "Dot"}})
    for i in range(4):
        api.put(f"/collections/{NAME}/points?wait=true", {"points": [{"id": i, "vector": [1, 2, 3, i], "payload": {"n": i}}]})
    wait_until(lambda: Api(us.indexer.url).post(f"/collections/{NAME}/points/count", {"exact": True})["count"] == 4, 30, "us has them")
    collection = api.get(f"/collections/{NAME}")["antipode"]["id"]

    # Poison: set aside by both regions' consumers, and refused, since nobody can tell what it was.
    send(eu, "vec-mutations", b"k" * 24, b"no avro at all", 1)
    for region in (eu, us):
        [letter] = wait_until(lambda: listed(region), 30, "the letter is there")
        assert letter["headers"]["origin"] == "eu" and letter["headers"]["topic"] == "vec-mutations" and letter["headers"]["partition"] == "1"
        assert not letter["settled"] and letter["error"]
    text = dlq("list", "-b", eu.bootstrap)
    assert "eu vec-mutations[1] offset" in text and "corrupt" in text
    poison = f"{letter['partition']}:{letter['offset']}"
    assert "no avro at all".encode().hex() in dlq("show", "-b", us.bootstrap, poison)
    assert "refused" in dlq("redrive", "-b", us.bootstrap, "--indexer", us.indexer.url, poison, code=1)
    assert dlq("show", "-b", us.bootstrap, "0:99999", code=1) == ""

    # A mutation that was set aside, as if it had never been applied: its row is gone from both stores.
    [record] = [r for r in read_topic(eu.bootstrap, "vec-mutations") if r.point == 2]
    for region in (eu, us):
        subprocess.run([paths.binary("plant"), region.store_path, "remove", collection, "2"], check=True, capture_output=True)
    send(eu, "dlq-mutations", record.key, record.raw, 0, letter_of(record, "eu"))
    send(eu, "dlq-mutations", record.key, record.raw[:30], 0, letter_of(record, "eu", **{"value-bytes": len(record.raw)}))
    send(eu, "dlq-mutations", b"collection/x", b"x", 0, letter_of(record, "eu", topic="vec-control"))
    send(eu, "dlq-mutations", record.key, record.raw, 0, letter_of(record, "eu", code="conflict"))
    [whole, cut, control, retired] = [f"{r['partition']}:{r['offset']}" for r in listed(eu) if r["headers"]["reason"] == "because"]
    assert json.loads(dlq("show", "-b", eu.bootstrap, whole))["payload"] == {"n": 2}
    planned = dlq("redrive", "-b", eu.bootstrap, "--indexer", eu.indexer.url, "--all", "--dry-run", code=1)
    assert f"{whole}  would be published" in planned and len(listed(eu)) == 5

    done = dlq("redrive", "-b", eu.bootstrap, "--indexer", eu.indexer.url, "--all", code=1)
    lines = dict(line.split("  ", 1) for line in done.splitlines())
    assert lines[whole] == "published"
    assert "bytes were kept" in lines[cut] and "only mutations" in lines[control] and "retired region" in lines[retired]
    for region in (eu, us):
        reader = Api(region.indexer.url)
        wait_until(lambda: reader.post(f"/collections/{NAME}/points/count", {"exact": True})["count"] >= 4 and
                   [p["payload"] for p in reader.scroll(NAME).values() if p["id"] == 2] == [{"n": 2}], 30, "the point is back")
    again = [r for r in read_topic(eu.bootstrap, "vec-mutations") if r.point == 2]
    assert [r.version for r in again] == [record.version] * 2 and again[0].value["seq"] != again[1].value["seq"]

    # Settled letters are listed no more, and not published twice.
    def names(*more):
        return [line.split()[0] for line in dlq("list", "-b", eu.bootstrap, *more).splitlines()]

    assert whole not in names() and whole in names("--all")
    assert "settled already" in dlq("redrive", "-b", eu.bootstrap, "--indexer", eu.indexer.url, whole, code=1)
