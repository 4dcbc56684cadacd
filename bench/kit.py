"""What the parts of ./dev bench share: data, two regions of their own, collections in them, and the C programs that measure."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np  # noqa: E402
from harness import paths  # noqa: E402
from harness.api import Api  # noqa: E402
from harness.region import World, wipe  # noqa: E402
from harness.wait import wait_until  # noqa: E402

DIM = 384
QUERIES = 1000
WARM_ROWS = 20_000  # vectors that a codec is trained on before a measured load


def use_release() -> None:
    """For a program's main, not at import: the unit tests of the bench import it, and run with the others."""
    os.environ.setdefault("ANTIPODE_PRESET", "release")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def refuse(text: str) -> NoReturn:
    """What was asked for cannot be: said before anything starts."""
    say(text)
    sys.exit(2)


def clustered(rows: int, dim: int, seed: int = 7) -> np.ndarray:
    """A mixture of 200 Gaussians, each with 24 directions of its own and a little noise in all; unit length."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((200, dim)).astype(np.float32)
    bases = rng.standard_normal((200, 24, dim)).astype(np.float32) / np.sqrt(24)
    weights = rng.dirichlet(np.full(200, 0.7))
    out = np.empty((rows, dim), np.float32)
    which = rng.choice(200, size=rows, p=weights)
    for c in range(200):
        at = np.flatnonzero(which == c)
        z = rng.standard_normal((len(at), 24)).astype(np.float32)
        out[at] = centers[c] + z @ bases[c] + 0.1 * rng.standard_normal((len(at), dim)).astype(np.float32)
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def make_data(folder: Path, source: str | None, rows: int) -> dict[str, Path]:
    try:
        data = np.load(source).astype(np.float32) if source else clustered(rows + WARM_ROWS + QUERIES, DIM)
    except (OSError, ValueError) as e:
        refuse(f"{source} is no readable .npy file: {e}")
    if data.ndim != 2 or data.shape[1] != DIM:
        refuse(f"{source}: wants {DIM} columns, has {data.shape}")
    order = np.random.default_rng(11).permutation(len(data))
    queries, rest = data[order[:QUERIES]], data[order[QUERIES:]]
    base = rest[:rows]
    # Real files are too short for a training set apart; the warm-up rows are then noisy copies, other points all the same.
    warm = rest[rows:rows + WARM_ROWS]
    if len(warm) < WARM_ROWS:
        noise = np.random.default_rng(13).standard_normal((WARM_ROWS, DIM)).astype(np.float32)
        warm = base[np.random.default_rng(12).integers(0, len(base), WARM_ROWS)] + 0.01 * noise
        warm /= np.linalg.norm(warm, axis=1, keepdims=True)
    out = {}
    for name, part in (("queries", queries), ("base", base), ("warm", warm)):
        out[name] = folder / f"{name}.npy"
        np.save(out[name], np.ascontiguousarray(part, np.float32))
    return out


def write_truth(file: Path, base: np.ndarray, queries: np.ndarray, k: int = 10, ids: np.ndarray | None = None) -> Path:
    """For bench_query's --truth: of each question the ids of the k nearest, by exact inner product of rows of unit length. Row i has the id ids[i], or i.
    Ids are written as floats, which hold those below 2^24 exactly."""
    nearest = np.empty((len(queries), k), np.float32)
    for at in range(0, len(queries), 250):
        best = np.argpartition(-(queries[at:at + 250] @ base.T), k - 1, axis=1)[:, :k]
        nearest[at:at + 250] = best if ids is None else ids[best]
    np.save(file, nearest)
    return file


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tool(name: str, *args) -> dict:
    """Runs one of the C benchmarks and reads its JSON line."""
    done = subprocess.run([paths.binary(f"bench_{name}"), *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench_{name}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def create(eu, us, name: str, raw: str, **codec: str) -> None:
    Api(eu.producer.url).put(f"/collections/{name}", {"vectors": {"size": DIM, "distance": "Cosine"}, "antipode": {"raw": raw, **codec}})
    for region in (eu, us):
        wait_until(lambda: Api(region.indexer.url).request("GET", f"/collections/{name}")[0] == 200, 60, f"{region.name} knows {name}")


def post_npy(producer: str, collection: str, path: Path, query: str = "") -> None:
    with open(path, "rb") as f:
        Api(producer, 600).call("POST", f"/collections/{collection}/points/bulk{query}", f,
                                {"Content-Type": "application/x-npy", "Content-Length": str(path.stat().st_size)})


def points(region, collection: str) -> int:
    return Api(region.indexer.url).post(f"/collections/{collection}/points/count", {"exact": True})["count"]


def settled(region, collection: str, n: int) -> bool:
    info = Api(region.indexer.url).get(f"/collections/{collection}")
    return info["points_count"] == n and info["status"] == "green"


def codec_in_use(region, collection: str) -> None:
    wait_until(lambda: any(n == "antipode_producer_codec_in_use" and labels.get("collection") == collection and v > 0
                           for n, labels, v in Api(region.producer.url).metrics()), 180, f"the codec of {collection} is in use")


def train(eu, us, collection: str, data: dict[str, Path]) -> None:
    """Loads the warm-up rows as points of their own, until the codec is in use, then deletes nothing: they stay."""
    post_npy(eu.producer.url, collection, data["warm"])
    codec_in_use(eu, collection)
    for region in (eu, us):
        wait_until(lambda: points(region, collection) == WARM_ROWS, 120, f"{region.name} has the warm-up rows")


def regions(folder: Path, jit: str) -> World:
    wipe(folder)
    return World.for_tests(folder, ["eu", "us"], jit=jit).start()
