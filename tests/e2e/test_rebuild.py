"""antipode rebuild: a store and an index anew beside those that serve, exchanged under the running daemons."""
from __future__ import annotations

import json
import shutil
import subprocess
import threading

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from harness import paths
from harness.api import Api
from harness.region import World
from harness.topics import read_topic
from harness.wait import wait_until

NAME, DIM, ROWS = "again", 16, 4000


@pytest.fixture(scope="module")
def eu(request):
    folder = paths.STATE / "tests" / request.module.__name__
    shutil.rmtree(folder, ignore_errors=True)
    failed = request.session.testsfailed
    with World.for_tests(folder, ["eu"], overrides={"indexer": {"index.hot_rows": 500}}) as world:
        world.start()
        eu = world["eu"]
        Api(eu.indexer.url).put(f"/collections/{NAME}", {"vectors": {"size": DIM, "distance": "Dot"}, "antipode": {"codec": "SQ8"}})
        eu.vectors = np.random.default_rng(4).normal(size=(ROWS, DIM)).astype(np.float32)
        write(eu, range(ROWS))
        yield eu
    if request.session.testsfailed == failed:
        shutil.rmtree(folder, ignore_errors=True)


def write(eu, ids, step: int = 1000):
    api, ids = Api(eu.producer.url), list(ids)
    for at in range(0, len(ids), step):
        points = [{"id": i, "vector": eu.vectors[i % ROWS].tolist(), "payload": {"n": i}} for i in ids[at:at + step]]
        api.put(f"/collections/{NAME}/points?wait=true", {"points": points})


def content(eu) -> dict:
    return {i: (p["payload"], p["vector"]) for i, p in Api(eu.indexer.url).scroll(NAME, vectors=True).items()}


def count(eu) -> int:
    return Api(eu.indexer.url).post(f"/collections/{NAME}/points/count", {})["count"]


def configs(eu, folder) -> list[str]:
    """The daemons' configuration as files: the harness gives it as flags."""
    out = []
    for daemon in (eu.consumer, eu.indexer):
        file = folder / f"{daemon.role}.conf"
        lines = [line for line in daemon.config.read_text().splitlines() if line.partition("=")[0].strip() not in daemon.overrides]
        file.write_text("\n".join(lines + [f"{k} = {v}" for k, v in daemon.overrides.items() if v != ""]) + "\n")
        out += ["--config", str(file)]
    return out


def rebuild(eu, folder, *more, code: int = 0):
    done = subprocess.run([paths.binary("antipode"), "rebuild", *configs(eu, folder), "--json", *map(str, more)], capture_output=True, text=True, timeout=90)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if code == 0 else done.stderr


def store_number(eu) -> int:
    return eu.store_path.stat().st_ino


def test_under_writes_and_queries(eu, tmp_path):
    producer = Producer({"bootstrap.servers": eu.bootstrap})
    producer.produce("vec-mutations", b"no avro at all", b"k" * 24, 1)
    producer.flush(10)
    wait_until(lambda: len(read_topic(eu.bootstrap, "dlq-mutations")) == 1, 20, "the letter is there")
    number, pid, stop, written = store_number(eu), eu.consumer.process.pid, threading.Event(), []

    def keep_writing():
        at = ROWS
        while not stop.is_set():
            write(eu, range(at, at + 50))
            written.append(at + 50)
            at += 50

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        wait_until(lambda: written, 20, "writes go on")
        result = rebuild(eu, tmp_path)
        assert result["rows"] >= ROWS and result["missing"] == 0 and not result["resumed"]
    finally:
        stop.set()
        writer.join()
    wait_until(lambda: eu.indexer.answers("/readyz") and eu.consumer.answers("/readyz") and count(eu) == written[-1], 30, "all of it is there, in the new store")
    assert store_number(eu) != number and eu.consumer.process.pid == pid and eu.consumer.metric("antipode_consumer_hole_records") == 0
    assert (eu.data_dir / "store.old").is_dir() and not (eu.data_dir / "store.rebuild").exists() and not (eu.data_dir / "store.handover").exists()
    assert {i: p for i, (p, _) in content(eu).items()} == {i: {"n": i} for i in range(written[-1])}
    assert len(read_topic(eu.bootstrap, "dlq-mutations")) == 1, "no letter twice"
    write(eu, [0])


def test_killed_and_resumed(eu, tmp_path):
    before, number = content(eu), store_number(eu)
    process = subprocess.Popen([paths.binary("antipode"), "rebuild", *configs(eu, tmp_path)], stderr=subprocess.PIPE)
    wait_until(lambda: (eu.data_dir / "store.rebuild/data.mdb").exists(), 20, "it has begun")
    process.kill()
    process.communicate()
    assert store_number(eu) == number and content(eu) == before
    wait_until(lambda: subprocess.run(["flock", "-n", eu.data_dir / "store.rebuild/writer.lock", "true"]).returncode == 0, 20, "its consumer has ended with it")
    assert rebuild(eu, tmp_path)["resumed"]
    wait_until(lambda: eu.indexer.answers("/readyz") and content(eu) == before, 30, "the same rows, in the new store")
    assert store_number(eu) != number


def test_logs_that_no_longer_reach_back(eu, tmp_path):
    ends = {}
    for record in read_topic(eu.bootstrap, "vec-mutations"):
        ends[record.partition] = max(ends.get(record.partition, 0), record.offset)
    write(eu, range(20))  # the snapshot is younger than what is purged
    snapshot = tmp_path / "snapshots/kept"
    places = ["--store", eu.store_path, "--index", eu.data_dir / "index"]
    subprocess.run([paths.binary("antipode"), "snapshot", "create", snapshot.parent, *places, "--name", "kept"], check=True, capture_output=True)
    before, number = content(eu), store_number(eu)
    purge = [TopicPartition("vec-mutations", p, end) for p, end in ends.items()]
    admin = AdminClient({"bootstrap.servers": eu.bootstrap})
    for future in admin.delete_records(purge).values():
        future.result(20)
    said = rebuild(eu, tmp_path, "--settle", 1, code=1)
    assert "no longer hold" in said and store_number(eu) == number
    wait_until(lambda: eu.consumer.answers("/readyz") and content(eu) == before, 30, "the old store serves on")
    write(eu, [ROWS * 2])
    result = rebuild(eu, tmp_path, "--fresh", "--from-snapshot", snapshot)
    assert result["missing"] == 0
    wait_until(lambda: eu.indexer.answers("/readyz") and count(eu) == len(before) + 1, 30, "the same rows and the new one")
    assert store_number(eu) != number and {i: v for i, v in content(eu).items() if i in before} == before
    assert eu.consumer.metric("antipode_consumer_hole_records") == 0


def test_usage(eu, tmp_path):
    def run(*args):
        return subprocess.run([paths.binary("antipode"), "rebuild", *map(str, args)], capture_output=True, text=True)

    files = configs(eu, tmp_path)
    for args in ([], files[:2], ["--config", tmp_path / "none"], [*files, "x"], [*files, "--settle", "soon"]):
        assert run(*args).returncode == 2, args
    said = run(*files, "--fresh", "--from-snapshot", tmp_path / "none")
    assert said.returncode == 1 and "no snapshot" in said.stderr
    eu.consumer.wait_ready()
