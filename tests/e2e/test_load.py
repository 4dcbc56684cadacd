"""antipode load: every format arrives as what it is, an interrupted load goes on where it was, and what is wrong is said.
antipode recall: what was loaded is found."""
from __future__ import annotations

import json
import signal
import struct
import subprocess

import numpy as np
import pytest
from harness import paths
from harness.api import Api
from harness.wait import wait_until

DIM, ROWS = 8, 500


@pytest.fixture(scope="module")
def eu(module_world):
    world = module_world(["eu"])
    world.start()
    yield world["eu"]


def command(eu, file, collection, *more) -> list[str]:
    return [str(a) for a in (paths.binary("antipode"), "load", file, "--collection", collection, "--url", eu.producer.url, "--json", *more)]


def load(eu, file, collection, *more, code: int = 0, stdin=None) -> tuple[dict, str]:
    done = subprocess.run(command(eu, file, collection, *more), capture_output=True, timeout=300, input=stdin)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr.decode()}"
    return json.loads(done.stdout) if done.stdout else {}, done.stderr.decode()


def vectors_of(eu, collection, result) -> dict:
    api = Api(eu.indexer.url)
    api.request("GET", f"/collections/{collection}/points/0", None, {"X-Antipode-Token": result["token"]})  # all of it is visible
    return {i: p["vector"] for i, p in api.scroll(collection, vectors=True).items()}


def rows(dtype=np.float32):
    return (np.random.default_rng(5).integers(0, 100, (ROWS, DIM)) + 1).astype(dtype)


def fvecs(array, code):
    return b"".join(struct.pack("<i", array.shape[1]) + row.astype(code).tobytes() for row in array)


WRITERS = {
    "npy": lambda p, a: np.save(p, a),
    "f16.npy": lambda p, a: np.save(p, a.astype(np.float16)),
    "fvecs": lambda p, a: p.write_bytes(fvecs(a, "<f4")),
    "bvecs": lambda p, a: p.write_bytes(fvecs(a, "u1")),
    "fbin": lambda p, a: p.write_bytes(struct.pack("<II", *a.shape) + a.astype("<f4").tobytes()),
    "u8bin": lambda p, a: p.write_bytes(struct.pack("<II", *a.shape) + a.astype("u1").tobytes()),
    "i8bin": lambda p, a: p.write_bytes(struct.pack("<II", *a.shape) + a.astype("i1").tobytes()),
    "ndjson": lambda p, a: p.write_text("".join(json.dumps({"id": i, "vector": v.tolist()}) + "\n\n" for i, v in enumerate(a))),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_formats(eu, tmp_path, kind):
    array, file, name = rows(), tmp_path / f"x.{kind}", kind.replace(".", "-")
    WRITERS[kind](file, array)
    lines = kind == "ndjson"
    result, _ = load(eu, file, name, "--create", "Dot", "--codec", "none", *(["--dim", DIM] if lines else []), "--request-bytes", 4096)
    assert result["complete"] and result["points"] == ROWS and result["requests"] > 1
    assert not list(tmp_path.glob("*.antipode-load"))
    found = vectors_of(eu, name, result)
    assert len(found) == ROWS and all(found[i] == array[i].tolist() for i in range(0, ROWS, 17))


def test_pieces_and_ids(eu, tmp_path):
    array, file = rows(), tmp_path / "x.npy"
    np.save(file, array)
    load(eu, file, "pieces", "--create", "Dot", "--first-id", 1000, "--skip", 100, "--limit", 50)
    result, _ = load(eu, "-", "pieces", "--format", "npy", "--first-id", 1000, "--skip", 490, stdin=file.read_bytes())
    found = vectors_of(eu, "pieces", result)
    assert sorted(found) == [*range(1100, 1150), *range(1490, 1500)] and found[1123] == array[123].tolist()
    load(eu, file, "derived", "--create", "Dot", "--derive-ids")
    result, _ = load(eu, file, "derived", "--derive-ids", "--limit", 20)
    found = vectors_of(eu, "derived", result)
    assert len(found) == len({v.tobytes() for v in array}) and all(isinstance(i, str) for i in found)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_goes_on_where_it_was(eu, tmp_path, how):
    name = f"resumed-{how}"
    array = np.arange(60000 * DIM, dtype=np.float32).reshape(-1, DIM) + 1
    file, state = tmp_path / "x.fvecs", tmp_path / "state"
    file.write_bytes(fvecs(array, "<f4"))
    more = ("--create", "Dot", "--request-bytes", 2048, "--state", state)
    process = subprocess.Popen(command(eu, file, name, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: state.exists() and json.loads(state.read_text())["row"] > 0, 20, "some rows are noted as acknowledged")
    process.send_signal(how)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (1 if how == signal.SIGINT else -9), err
    if how == signal.SIGINT:
        assert "interrupted" in err and not json.loads(out)["complete"]
    noted = json.loads(state.read_text())["row"]
    assert 0 < noted < len(array)
    _, said = load(eu, file, f"{name}-other", "--state", state, code=1)
    assert "not this one" in said and json.loads(state.read_text())["row"] == noted
    result, _ = load(eu, file, name, *more[:2], "--state", state)
    assert result["begun_at_row"] == noted and result["rows"] == len(array) - noted and not state.exists()
    api = Api(eu.indexer.url)
    wait_until(lambda: api.post(f"/collections/{name}/points/count", {})["count"] == len(array), 20, "every row is there")


def test_waits_for_the_producer(eu, tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, rows())
    load(eu, file, "patient", "--create", "Dot")
    eu.producer.stop()
    _, said = load(eu, file, "patient", "--patience", 0, code=1)
    state = tmp_path / "x.npy.antipode-load"
    assert "all before row 0 is acknowledged" in said and state.exists()
    state.unlink()
    process = subprocess.Popen(command(eu, file, "patient", "--patience", 60), stdout=subprocess.PIPE, text=True)
    try:
        wait_until(state.exists, 20, "it has begun, with nobody there")
    finally:
        eu.producer.start().wait_ready()
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and json.loads(out)["retries"] > 0 and json.loads(out)["points"] == ROWS


@pytest.mark.parametrize("name, content, says", [
    ("cut.npy", lambda: b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 8), }".ljust(127) + b"\n" + bytes(40), "whole"),
    ("fortran.npy", lambda: b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': True, 'shape': (3, 8), }".ljust(127) + b"\n" + bytes(96), "ortran"),
    ("not.npy", lambda: b"hello world, this is text", "npy"),
    ("empty.npy", lambda: b"", "npy"),
    ("cut.fvecs", lambda: fvecs(rows(), "<f4")[:-3], "multiple"),
    ("mixed.fvecs", lambda: fvecs(rows()[:2, :4], "<f4") + struct.pack("<i", 9) + bytes(16), "row 2 has 9 dimensions"),
    ("many.fbin", lambda: struct.pack("<II", 9, DIM) + bytes(DIM * 4), "9 rows"),
    ("none.bvecs", lambda: b"", "ends"),
    ("x.txt", lambda: b"", "--format"),
    ("bad.ndjson", lambda: b'{"id": 1, "vector": [1,1,1,1,1,1,1,1]}\n{"id": 2, "vector": [1]}\n', "line 2"),
    ("short.npy", lambda: b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }".ljust(127) + b"\n" + bytes(8), "imension"),
    ("nan.fbin", lambda: struct.pack("<II", 3, DIM) + np.array([[1] * DIM, [2] * DIM, [np.nan] * DIM], "<f4").tobytes(), "row 2"),
])
def test_what_is_wrong_is_said(eu, tmp_path, name, content, says):
    file = tmp_path / name
    file.write_bytes(content())
    api = Api(eu.producer.url)
    if "bad" not in {c["name"] for c in Api(eu.indexer.url).get("/collections")["collections"]}:
        assert api.request("PUT", "/collections/bad", {"vectors": {"size": DIM, "distance": "Dot"}})[0] in (200, 409)  # the indexer hears of it later
    _, said = load(eu, file, "bad", code=1 if name in ("mixed.fvecs", "bad.ndjson", "short.npy", "nan.fbin") else 2)
    assert says in said, said


def test_usage(eu, tmp_path):
    for more in ([], ["x.npy"], ["x.npy", "y.npy", "--collection", "c"], ["x.npy", "--collection", "a/b"], ["x.npy", "--collection", "c", "--url", "x"],
                 ["x.npy", "--collection", "c", "--limit", "0"], ["x.npy", "--collection", "c", "--codec", "PQ4"], ["--no-such"]):
        assert subprocess.run([paths.binary("antipode"), "load", *more], capture_output=True).returncode == 2, more
    _, said = load(eu, tmp_path / "none.npy", "c", code=2)
    assert "No such file" in said


def test_parquet(eu, tmp_path):
    file = tmp_path / "x.parquet"
    file.write_bytes(b"PAR1")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        _, said = load(eu, file, "none", "--create", "Dot", "--dim", DIM, code=1)
        assert "pip install pyarrow" in said and "needs the Python package pyarrow" in said
        return
    array = rows()
    pyarrow.parquet.write_table(pyarrow.table({"id": range(ROWS), "vector": list(array), "n": [i % 7 for i in range(ROWS)]}), file, row_group_size=128)
    result, _ = load(eu, file, "parquet", "--create", "Dot", "--dim", DIM, "--skip", 130, "--limit", 300)
    assert sorted(vectors_of(eu, "parquet", result)) == list(range(130, 430))
    assert Api(eu.indexer.url).scroll("parquet")[200]["payload"] == {"n": 200 % 7}
    _, said = load(eu, file, "parquet", "--vector-column", "v", code=1)
    assert "no column v" in said


def test_recall(eu, tmp_path):
    """The index against its own exact answers: questions from a file, and points of the collection itself."""
    rng = np.random.default_rng(9)
    array = (rng.normal(size=(40, 24))[rng.integers(0, 40, 20000)] + rng.normal(size=(20000, 24)) / 4).astype(np.float32)
    file, asked = tmp_path / "x.npy", tmp_path / "questions.fbin"
    np.save(file, array)
    asked.write_bytes(struct.pack("<II", 50, 24) + (array[:50] + 0.01).astype("<f4").tobytes())
    result, _ = load(eu, file, "recalled", "--create", "Euclid", "--codec", "none")
    assert len(vectors_of(eu, "recalled", result)) == len(array)

    def recall(*more, code=0):
        done = subprocess.run([paths.binary("antipode"), "recall", eu.indexer.url, "recalled", *map(str, more)], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if "--json" in more and code == 0 else done.stdout + done.stderr

    for more in (["--queries", asked], ["--sample", 50]):
        full, poor = (recall(*more, "--json", "--params", json.dumps({"hnsw_ef": effort})) for effort in (100000, 1))
        assert full["recall"] == full["perfect"] == 1 and full["queries"] == 50 and 0 < poor["recall"] <= 1
        assert 0 < full["asked"]["p50_ms"] <= full["asked"]["p99_ms"] and full["exact"]["p99_ms"] > 0
    assert "recall@3" in recall("--limit", 3, "--sample", 5)
    assert recall("--sample", 5, "--filter", '{"must": [{"has_id": [1, 2, 3]}]}', "--json")["recall"] == 1
    recall("--params", '{"exact": true}', code=2), recall("--params", "x", code=2), recall("more", code=2)
