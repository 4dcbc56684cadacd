"""antipode rebuild: a store and an index anew beside those that serve, exchanged under the running daemons."""
from __future__ import annotations

import json
import subprocess
import threading
import time

import lmdb
import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from harness import paths
from harness.api import Api
from harness.topics import read_topic
from harness.wait import wait_until

NAME, DIM, ROWS = "again", 16, 4000


@pytest.fixture(scope="module")
def eu(module_world):
    world = module_world(["eu"], overrides={"indexer": {"index.hot_rows": 500}})
    world.start()
    eu = world["eu"]
    Api(eu.indexer.url).put(f"/collections/{NAME}", {"vectors": {"size": DIM, "distance": "Dot"}, "antipode": {"codec": "SQ8"}})
    eu.vectors = np.random.default_rng(4).normal(size=(ROWS, DIM)).astype(np.float32)
    write(eu, range(ROWS))
    yield eu


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
    done = subprocess.run([paths.binary("antipode"), "rebuild", *configs(eu, folder), "--json", *map(str, more)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if code == 0 else done.stderr


def store_number(eu) -> int:
    return eu.store_path.stat().st_ino


def test_under_writes_and_queries(eu, tmp_path):
    producer = Producer({"bootstrap.servers": eu.bootstrap})
    producer.produce("vec-mutations", b"no avro at all", b"k" * 24, 1)
    producer.flush(120)
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
        assert result["rows"] >= ROWS and result["missing"] == 0 and not result["resumed"] and result["serving"]
        assert 0 < result["read_seconds"] <= result["build_seconds"] <= result["ready_seconds"]
    finally:
        stop.set()
        writer.join()
    wait_until(lambda: eu.indexer.answers("/readyz") and eu.consumer.answers("/readyz") and count(eu) == written[-1], 30, "all of it is there, in the new store")
    assert store_number(eu) != number and eu.consumer.process.pid == pid and eu.consumer.metric("antipode_consumer_hole_records") == 0
    assert (eu.data_dir / "store.old").is_dir() and not (eu.data_dir / "store.rebuild").exists() and not (eu.data_dir / "store.handover").exists()
    assert {i: p for i, (p, _) in content(eu).items()} == {i: {"n": i} for i in range(written[-1])}
    assert len(read_topic(eu.bootstrap, "dlq-mutations")) == 1, "no letter twice"
    write(eu, [0])


def kill_when(process, file, eu):
    wait_until(file.exists, 20, "it has begun")
    process.kill()
    process.communicate()
    wait_until(lambda: subprocess.run(["flock", "-n", eu.data_dir / "store.rebuild/writer.lock", "true"]).returncode == 0, 20, "its consumer has ended with it")


def test_killed_and_resumed(eu, tmp_path):
    before, number = content(eu), store_number(eu)
    process = subprocess.Popen([paths.binary("antipode"), "rebuild", *configs(eu, tmp_path)], stderr=subprocess.PIPE)
    kill_when(process, eu.data_dir / "store.rebuild/data.mdb", eu)
    assert store_number(eu) == number and content(eu) == before
    assert "--fresh" in rebuild(eu, tmp_path, "--from-time", "1h", code=1), "it was begun otherwise"
    assert rebuild(eu, tmp_path)["resumed"]
    wait_until(lambda: eu.indexer.answers("/readyz") and content(eu) == before, 30, "the same rows, in the new store")
    assert store_number(eu) != number


def test_left_by_another_start_of_the_machine(eu, tmp_path):
    """Nothing was synced while it was built: what a crash of the machine leaves is not gone on with."""
    process = subprocess.Popen([paths.binary("antipode"), "rebuild", *configs(eu, tmp_path)], stderr=subprocess.PIPE)
    kill_when(process, eu.data_dir / "store.rebuild/data.mdb", eu)
    (eu.data_dir / "store.rebuild/boot").write_text("another")
    (eu.data_dir / "store.rebuild/data.mdb").write_bytes(b"half of it")
    before = content(eu)
    assert not rebuild(eu, tmp_path, "--remove-old")["resumed"]
    assert content(eu) == before and not (eu.data_dir / "store.old").exists() and not (eu.data_dir / "index.old").exists()


def lose(eu, ids):
    """The rows of these points vanish from the store's file, whose positions go on saying that they are there."""
    eu.consumer.stop()
    with lmdb.open(str(eu.store_path), max_dbs=16, map_size=1 << 36) as env:
        log = env.open_db(b"log", integerkey=True, create=False)
        with env.begin(write=True) as txn:
            gone = [slot for slot, row in txn.cursor(log) if int.from_bytes(row[24:40], "big") in ids]
            for slot in gone:
                txn.delete(slot, db=log)
    assert len(gone) >= len(ids)
    eu.consumer.start().wait_ready()


def ends(eu, topic: str = "vec-mutations") -> dict[int, int]:
    out = {}
    for record in read_topic(eu.bootstrap, topic):
        out[record.partition] = max(out.get(record.partition, 0), record.offset + 1)
    return out


def test_read_again_from_a_time_and_from_offsets(eu, tmp_path):
    write(eu, [7])
    since, new = int(time.time()) + 1, 1_000_000
    offsets = {topic: ends(eu, topic) for topic in ("vec-mutations", "raw-vectors")}
    wait_until(lambda: time.time() > since, 5, "the second is over")
    write(eu, range(new, new + 100))
    Api(eu.indexer.url).post(f"/collections/{NAME}/points/delete?wait=true", {"points": [7, new + 99]})
    before, lost = content(eu), {5, *range(new, new + 50)}
    lose(eu, lost)
    done = rebuild(eu, tmp_path, "--from-time", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since)))
    assert done["serving"] and content(eu) == {i: p for i, p in before.items() if i != 5}, "5 is older than that"

    lose(eu, lost - {5})
    named = [a for topic, parts in offsets.items() for p, offset in parts.items() for a in ("--from-offset", f"{topic}[{p}]={offset}")]
    process = subprocess.Popen([paths.binary("antipode"), "rebuild", *configs(eu, tmp_path), *named], stderr=subprocess.PIPE)
    kill_when(process, eu.data_dir / "store.rebuild/boot", eu)
    assert "--fresh" in rebuild(eu, tmp_path, "--from-offset", "vec-mutations=0", code=1)
    assert rebuild(eu, tmp_path, *named)["resumed"]
    assert content(eu) == {i: p for i, p in before.items() if i != 5}
    assert rebuild(eu, tmp_path)["rows"] >= len(before) and content(eu) == before, "all of the log has all of it"
    assert eu.consumer.metric("antipode_consumer_hole_records") == 0


def test_no_room(eu, tmp_path):
    """STORE.rebuild lies beside the store: here on a disk of a megabyte, to which the store itself is a link."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "antipode-test", small], capture_output=True).returncode:
        pytest.skip("a tmpfs may not be mounted here")
    try:
        (small / "store").symlink_to(eu.store_path)
        files = []
        for file in configs(eu, tmp_path)[1::2]:
            text = open(file).read().replace(f"store.path = {eu.store_path}", f"store.path = {small / 'store'}")
            (tmp_path / "moved").mkdir(exist_ok=True)
            (tmp_path / "moved" / file.rpartition("/")[2]).write_text(text)
            files += ["--config", tmp_path / "moved" / file.rpartition("/")[2]]
        number = store_number(eu)
        for more in ([], ["--from-time", "1h"]):
            done = subprocess.run([paths.binary("antipode"), "rebuild", *map(str, files), *more], capture_output=True, text=True, timeout=60)
            assert done.returncode == 1 and "there is room for" in done.stderr and "nothing was changed" in done.stderr, done.stderr
        assert store_number(eu) == number and not (small / "store.rebuild").exists() and not (small / "store.handover").exists()
        eu.consumer.wait_ready()
    finally:
        subprocess.run(["umount", small], check=True)


def test_logs_that_no_longer_reach_back(eu, tmp_path):
    last = {p: end - 1 for p, end in ends(eu).items()}
    write(eu, range(20))  # the snapshot is younger than what is purged
    snapshot = tmp_path / "snapshots/kept"
    places = ["--store", eu.store_path, "--index", eu.data_dir / "index"]
    subprocess.run([paths.binary("antipode"), "snapshot", "create", snapshot.parent, *places, "--name", "kept"], check=True, capture_output=True)
    before, number = content(eu), store_number(eu)
    purge = [TopicPartition("vec-mutations", p, end) for p, end in last.items()]
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
    for args in ([], files[:2], ["--config", tmp_path / "none"], [*files, "x"], [*files, "--settle", "soon"], [*files, "--from-time", "soon"],
                 [*files, "--from-time", "2999-01-01T00:00:00Z"], [*files, "--from-offset", "vec-mutations"], [*files, "--from-time", "1h", "--from-offset", "vec-mutations=1"]):
        assert run(*args).returncode == 2, args
    said = run(*files, "--fresh", "--from-snapshot", tmp_path / "none")
    assert said.returncode == 1 and "no snapshot" in said.stderr
    eu.consumer.wait_ready()
