"""antipode snapshot: taken while all serves, restored where it was and in another region, refused when it is not whole."""
from __future__ import annotations

import json
import shutil
import subprocess
import threading

import lmdb
import numpy as np
import pytest
from harness import paths
from harness.api import Api
from harness.feed import read_store
from harness.wait import wait_until

NAME, DIM, ROWS = "kept", 16, 3000


@pytest.fixture(scope="module")
def regions(module_world):
    world = module_world(["eu", "us"], overrides={"indexer": {"index.hot_rows": 500}})
    world.start()
    api = Api(world["eu"].indexer.url)
    api.put(f"/collections/{NAME}", {"vectors": {"size": DIM, "distance": "Dot"}, "antipode": {"codec": "SQ8", "raw": "home"}})
    world.vectors = np.random.default_rng(3).normal(size=(ROWS, DIM)).astype(np.float32)
    write(world["eu"], world.vectors, range(ROWS))
    wait_until(lambda: len(sealed(world["eu"])) > 0, 30, "some rows are sealed")
    yield world


def write(region, vectors, ids, step: int = 500):
    api, ids = Api(region.indexer.url), list(ids)
    for at in range(0, len(ids), step):
        api.put(f"/collections/{NAME}/points?wait=true",
                {"points": [{"id": i, "vector": vectors[i % ROWS].tolist(), "payload": {"n": i}} for i in ids[at:at + step]]})


def sealed(region):
    return list((region.data_dir / "index").glob("*.seg"))


def snapshot(*args, code: int = 0):
    done = subprocess.run([paths.binary("antipode"), "snapshot", *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if code == 0 and "--json" in args else done.stdout + done.stderr


def places(region):
    return ["--store", region.store_path, "--index", region.data_dir / "index"]


def content(region) -> dict:
    return {i: (p["payload"], p["vector"]) for i, p in Api(region.indexer.url).scroll(NAME, vectors=True).items()}


def payloads(region) -> dict:
    return {i: p["payload"] for i, p in Api(region.indexer.url).scroll(NAME).items()}


def restored(region, *args):
    """Stop, restore, start."""
    region.consumer.stop(), region.indexer.stop()
    out = snapshot("restore", *args, *places(region), "--replace", "--json")
    region.consumer.start(), region.indexer.start()
    region.consumer.wait_ready(), region.indexer.wait_ready()
    return out


def raw_rows(store) -> int:
    with lmdb.open(str(store), readonly=True, lock=False, max_dbs=16) as env, env.begin() as txn:
        return txn.stat(env.open_db(b"raw", txn, integerkey=True, create=False))["entries"]


def test_taken_while_writing_and_restored(regions, tmp_path):
    eu = regions["eu"]
    stop = threading.Event()

    def keep_writing():
        at = ROWS
        while not stop.is_set():
            write(eu, regions.vectors, range(at, at + 100), 100)
            at += 100
        regions.written = at

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        wait_until(lambda: Api(eu.indexer.url).post(f"/collections/{NAME}/points/count", {})["count"] > ROWS, 20, "writes go on")
        taken = snapshot("create", tmp_path / "snapshots", *places(eu), "--name", "one", "--json")
        count = len(read_store(tmp_path / "snapshots/one/store"))
        wait_until(lambda: Api(eu.indexer.url).post(f"/collections/{NAME}/points/count", {})["count"] > count, 20, "and on")
    finally:
        stop.set()
        writer.join()
    assert taken["rows"] == count > ROWS and taken["segments"] > 0 and taken["region"] == "eu"
    Api(eu.indexer.url).post(f"/collections/{NAME}/points/delete?wait=true", {"points": list(range(0, 100))})
    write(eu, regions.vectors, range(200, 300))
    [listed] = snapshot("list", tmp_path / "snapshots", "--json")
    assert listed["rows"] == taken["rows"] and listed["path"] == str(tmp_path / "snapshots/one")
    assert snapshot("verify", listed["path"], "--json")["segments"] == taken["segments"]

    before = content(eu)
    assert "has it open" in snapshot("restore", tmp_path / "snapshots/one", *places(eu), "--replace", code=1)
    restored(eu, tmp_path / "snapshots/one")
    wait_until(lambda: content(eu) == before, 30, "the consumer has read on from there")
    assert eu.consumer.metric("antipode_consumer_hole_records") == 0
    assert "belongs to another store" not in eu.indexer.process.log_text() and (eu.data_dir / "store.old").is_dir()
    hit = Api(eu.indexer.url).post(f"/collections/{NAME}/points/query", {"query": before[700][1], "limit": 1})["points"][0]
    assert hit["id"] == 700


def test_restored_in_another_region(regions, tmp_path):
    eu, us = regions["eu"], regions["us"]
    wait_until(lambda: len(payloads(us)) > ROWS, 30, "the mirror runs")
    write(us, regions.vectors, range(9000, 9050))  # us has raw vectors of its own
    secret = (regions.vectors[5] * 1.5)  # it leaves the region as a code only
    Api(eu.indexer.url).put(f"/collections/{NAME}/points?wait=true", {"points": [{"id": 9099, "vector": secret.tolist(), "payload": {}}]})
    wait_until(lambda: payloads(us) == payloads(eu) and 9099 in payloads(us), 30, "the regions agree")
    wait_until(lambda: secret.tobytes() in (eu.store_path / "data.mdb").read_bytes(), 20, "its full precision is there, at home")
    snapshot("create", tmp_path, *places(eu), "--name", "plain")
    snapshot("create", tmp_path, *places(eu), "--name", "for-us", "--for", "us")
    assert secret.tobytes() in (tmp_path / "plain/store/data.mdb").read_bytes() and secret.tobytes() not in (tmp_path / "for-us/store/data.mdb").read_bytes()
    assert not (tmp_path / "for-us/index").exists()
    snapshot("restore", tmp_path / "plain", "--store", tmp_path / "us-store", "--region", "us", "--json")
    assert secret.tobytes() not in (tmp_path / "us-store/data.mdb").read_bytes() and raw_rows(tmp_path / "us-store") == 0

    before, own = content(us), raw_rows(us.store_path)
    assert own > 0
    restored(us, tmp_path / "for-us", "--region", "us")
    write(eu, regions.vectors, [9100])
    wait_until(lambda: payloads(us) == payloads(eu) and 9100 in payloads(us), 30, "the regions agree again")
    assert us.consumer.metric("antipode_consumer_hole_records") == 0
    wait_until(lambda: raw_rows(us.store_path) == own, 30, "its own raw vectors are back, from its own log")
    wait_until(lambda: {k: v for k, v in content(us).items() if k != 9100} == before, 20, "vectors are as they were")


def test_what_is_wrong_is_said_and_changes_nothing(regions, tmp_path):
    eu = regions["eu"]
    snapshot("create", tmp_path, *places(eu), "--name", "good")
    assert "there already" in snapshot("create", tmp_path, *places(eu), "--name", "good", code=1)
    target = tmp_path / "target"
    snapshot("restore", tmp_path / "good", "--store", target)
    was = read_store(target)
    assert "not empty" in snapshot("restore", tmp_path / "good", "--store", target, code=1)

    def broken(name, break_it):
        shutil.copytree(tmp_path / "good", tmp_path / name)
        break_it(tmp_path / name)
        said = snapshot("restore", tmp_path / name, "--store", target, "--index", tmp_path / "index", "--replace", code=1)
        assert read_store(target) == was and not (tmp_path / "target.new").exists() and not (tmp_path / "index").exists(), name
        return said

    def flip(path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def edit(path, **changes):
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | changes))

    assert "is damaged" in broken("flipped", lambda p: flip(p / "store/data.mdb"))
    assert "is damaged" in broken("segment", lambda p: flip(next((p / "index").iterdir())))
    assert "is damaged" in broken("cut", lambda p: (p / "store/data.mdb").write_bytes((p / "store/data.mdb").read_bytes()[:-4096]))
    assert "No such file" in broken("missing", lambda p: (p / "store/data.mdb").unlink())
    assert "of format 7" in broken("newer", lambda p: edit(p / "manifest.json", format=7))
    assert "checksum does not match" in broken("edited", lambda p: edit(p / "manifest.json", rows=1))
    assert "is damaged" in broken("torn", lambda p: (p / "manifest.json").write_text('{"format": 1'))
    assert "no snapshot" in broken("none", lambda p: (p / "manifest.json").unlink())
    assert "is damaged" in snapshot("verify", tmp_path / "flipped", code=1)
    assert "torn" in snapshot("list", tmp_path, code=1)
    for args in ([], ["burn", "x"], ["create", tmp_path], ["restore", tmp_path / "good"], ["create", tmp_path, "--store", "x", "--for", "US!"],
                 ["create", tmp_path, "--store", "x", "--name", "a/b"], ["list"]):
        snapshot(*args, code=2)
    assert "there is none" in snapshot("create", tmp_path, "--store", tmp_path / "nothing", code=1)


def test_no_room(regions, tmp_path):
    eu, small = regions["eu"], tmp_path / "small"
    snapshot("create", tmp_path, *places(eu), "--name", "good")
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "antipode-test", small], capture_output=True).returncode:
        pytest.skip("a tmpfs may not be mounted here")
    try:
        said = snapshot("restore", tmp_path / "good", "--store", small / "store", "--index", tmp_path / "index", code=1)
        assert "there is room for" in said and "nothing was changed" in said and list(small.iterdir()) == [] and not (tmp_path / "index").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def test_killed_while_restoring(regions, tmp_path):
    eu = regions["eu"]
    snapshot("create", tmp_path, *places(eu), "--name", "new")
    target, index = tmp_path / "target", tmp_path / "index"
    snapshot("restore", tmp_path / "new", "--store", target, "--index", index)
    with lmdb.open(str(target), max_dbs=16) as env, env.begin(write=True) as txn:  # the old one can be told by a mark in it
        txn.put(b"mark", b"old", db=env.open_db(b"meta", txn))

    def which() -> str:
        with lmdb.open(str(target), readonly=True, lock=False, max_dbs=16) as env, env.begin() as txn:
            return "old" if txn.get(b"mark", db=env.open_db(b"meta", txn, create=False)) else "new"

    for marker in (tmp_path / "target.new", tmp_path / "target.new/data.mdb", tmp_path / "index.new"):
        process = subprocess.Popen([paths.binary("antipode"), "snapshot", "restore", tmp_path / "new", "--store", target, "--index", index, "--replace"],
                                   stdout=subprocess.DEVNULL)
        while not marker.exists() and process.poll() is None:
            pass
        process.kill()
        process.wait()
        assert which() in ("old", "new") and len(read_store(target)) >= ROWS
    snapshot("restore", tmp_path / "new", "--store", target, "--index", index, "--replace")
    assert which() == "new" and not (tmp_path / "target.new").exists() and not (tmp_path / "index.new").exists()
