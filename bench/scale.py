"""Parts of ./dev bench at a million rows, each a function of (folder, rows) with regions of its own:

    producer   the producer alone beside librdkafka and the encoder alone
    million    bulk load into two regions until it is found in both, and how they answer at that moment
    crossing   bytes a vector on the line between the regions
    under-load queries during ingest

The data are made once and kept in the bench's folder: a mixture of Gaussians of low intrinsic dimension, as float16, with
queries of the same mixture that are never loaded, and the ten rows nearest to each. --quick makes a tenth of them, --rows as many
as it says. Memory a vector is in footprint.py.
"""
from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from harness import paths
from harness.api import Api
from harness.kafka import create_topics
from harness.region import World, wipe
from harness.wait import wait_until
from kit import codec_in_use, points, post_npy, say, settled, tool

TRAIN = 20_000  # rows that a codec is trained on, and that stay


def mixture(rows: int, dim: int, seed: int, clusters: int = 1000, inner: int = 24):
    """Blocks of vectors of unit length from Gaussians that have `inner` directions of their own each, and a little noise in all."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((clusters, dim)).astype(np.float32)
    bases = rng.standard_normal((clusters, inner, dim)).astype(np.float32) / np.sqrt(inner)
    weights = rng.dirichlet(np.full(clusters, 0.7))
    for at in range(0, rows, 50_000):
        n = min(50_000, rows - at)
        which = np.sort(rng.choice(clusters, size=n, p=weights))
        out = centers[which] + 0.1 * rng.standard_normal((n, dim), np.float32)
        z = rng.standard_normal((n, inner), np.float32)
        for c, first, count in zip(*np.unique(which, return_index=True, return_counts=True)):
            out[first:first + count] += z[first:first + count] @ bases[c]
        out /= np.linalg.norm(out, axis=1, keepdims=True)
        yield out[rng.permutation(n)]


def nearest(base: np.ndarray, queries: np.ndarray, k: int = 10) -> np.ndarray:
    """Rows of the k largest inner products."""
    scores, rows = np.full((len(queries), k), -2, np.float32), np.zeros((len(queries), k), np.int64)
    for at in range(0, len(base), 50_000):
        part = queries @ base[at:at + 50_000].astype(np.float32).T
        best = np.argpartition(-part, k, axis=1)[:, :k]
        both = np.concatenate([scores, np.take_along_axis(part, best, 1)], 1)
        names = np.concatenate([rows, best + at], 1)
        keep = np.argpartition(-both, k, axis=1)[:, :k]
        scores, rows = np.take_along_axis(both, keep, 1), np.take_along_axis(names, keep, 1)
    return rows


def make_data(folder: Path, rows: int, dim: int, queries: int = 1000) -> dict[str, Path]:
    """Files train, base, queries and truth (numbers of base's rows)."""
    folder = folder / f"{rows}x{dim}"
    out = {name: folder / f"{name}.npy" for name in ("train", "base", "queries", "truth")}
    if all(path.exists() for path in out.values()):
        return out
    say(f"making {rows} vectors of {dim} dimensions")
    folder.mkdir(parents=True, exist_ok=True)
    base = np.lib.format.open_memmap(out["base"], "w+", np.float16, (rows, dim))
    rest, at = [], 0
    for block in mixture(rows + TRAIN + queries, dim, 7):
        n = min(len(block), rows - at)
        base[at:at + n] = block[:n]
        rest.append(block[n:])
        at += n
    rest = np.concatenate(rest)
    base.flush()
    np.save(out["train"], rest[:TRAIN])
    np.save(out["queries"], rest[TRAIN:])
    np.save(out["truth"], nearest(base, rest[TRAIN:]).astype(np.float32))  # exact below 2^24
    return out


def trained(world: World, name: str, dim: int, raw: str, codec: str | None, rows: Path, query: str = "") -> None:
    """A collection whose codec is in use, after these rows have come to all regions."""
    home = next(iter(world))
    Api(home.producer.url).put(f"/collections/{name}", {"vectors": {"size": dim, "distance": "Cosine"},
                                                        "antipode": {"raw": raw} | ({"codec": codec} if codec else {})})
    for region in world:
        wait_until(lambda: Api(region.indexer.url).request("GET", f"/collections/{name}")[0] == 200, 60, f"{region.name} knows {name}")
    post_npy(home.producer.url, name, rows, query)
    codec_in_use(home, name)
    count = len(np.load(rows, mmap_mode="r"))
    for region in world:
        wait_until(lambda: points(region, name) == count, 120, f"{region.name} has the first rows")


def cpu_seconds(world: World) -> dict[str, float]:
    """CPU time so far of every process of the world."""
    tick, out = os.sysconf("SC_CLK_TCK"), {}
    for process in world.processes():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        out[process.name] = (int(fields[11]) + int(fields[12])) / tick
    return out


def load(folder: Path, rows: int, codec: str | None, raw: str) -> dict:
    data = make_data(folder, rows, 384)
    wipe(folder / "million")
    with World.for_tests(folder / "million", ["eu", "us"], jit="full") as world:
        world.start()
        eu, us = world
        create_topics(eu.kafka.admin, {"bench-limits": (4, {})})
        trained(world, "warm", 384, raw, codec, data["train"])
        say("  warming up the JVMs")
        part = folder / "part.npy"
        np.save(part, np.load(data["base"], mmap_mode="r")[:rows // 5])
        post_npy(eu.producer.url, "warm", part)
        for region in world:
            wait_until(lambda: points(region, "warm") == TRAIN + rows // 5, 120, f"{region.name} has warmed up")
        limits = tool("limits", "--brokers", eu.bootstrap, "--topic", "bench-limits", "--npy", data["base"], "--codec", codec or "TCQ96", "--rows", rows // 5)
        trained(world, "million", 384, raw, codec, data["train"])
        say("  loading")
        before = cpu_seconds(world)
        out = tool("bulk", "--producer", eu.producer.url, "--home", eu.indexer.url, "--abroad", us.indexer.url, "--collection", "million",
                   "--npy", data["base"], "--queries", data["queries"], "--truth", data["truth"])
        after = cpu_seconds(world)
        return {"codec": codec or "default", "raw": raw, "limits": limits, **out, "acknowledged_of_limit": round(out["acknowledged_per_second"] / limits["together_per_second"], 3),
                "cpu_seconds_searches_included": {name: round(after[name] - before[name], 2) for name in after}}


def million(folder: Path, rows: int) -> dict:
    """From the first byte until 1,000 points, the last among them, are found in both regions; then the searches, with recall
    beside that of an exact search of the same codes."""
    out = {"rows": rows}
    for name, codec, raw in (("PQ48", "PQ48", "none"), ("PQ48, raw at home", "PQ48", "home"), ("TCQ48", "TCQ48", "none")):
        out[name] = load(folder, rows, codec, raw)
        say(f"  {name}: {out[name]}")
    return out


def producer(folder: Path, rows: int) -> dict:
    """One broker and one producer, nothing else: what is acknowledged a second, beside encoding and publishing alone."""
    data = make_data(folder, rows, 384)
    out = {}
    for codec in ("PQ48", "TCQ48"):
        wipe(folder / "producer")
        with World.for_tests(folder / "producer", ["eu"], jit="full") as world:
            world.start()
            eu = world["eu"]
            create_topics(eu.kafka.admin, {"bench-limits": (4, {})})
            trained(world, "alone", 384, "none", codec, data["train"])
            eu.consumer.stop(), eu.indexer.stop()
            measure = ("limits", "--brokers", eu.bootstrap, "--topic", "bench-limits", "--npy", data["base"], "--codec", codec, "--rows", rows // 4)
            tool(*measure)  # the broker warms up
            load = tool("bulk", "--producer", eu.producer.url, "--collection", "alone", "--npy", data["base"])
            limits = tool(*measure)
            out[codec] = {"limits": limits, **load, "of_limit": round(load["acknowledged_per_second"] / limits["together_per_second"], 3)}
    return out


def crossing(folder: Path, rows: int) -> dict:
    """What crosses between the regions in both directions, for each vector of a bulk load: PQ16, 128 dimensions, no payload, random ids."""
    data = make_data(folder, rows, 128)
    wipe(folder / "crossing")
    with World.for_tests(folder / "crossing", ["eu", "us"], delayed=True, jit="c1") as world:
        world.start()
        eu, us = world
        trained(world, "crossing", 128, "none", "PQ16", data["train"])

        def crossed() -> int:
            return sum(line["bytes_in"] + line["bytes_out"] for line in world.delay.show().values())

        before, start = crossed(), time.monotonic()
        post_npy(eu.producer.url, "crossing", data["base"])
        wait_until(lambda: points(us, "crossing") == rows + TRAIN, 120, "us has all rows")
        return {"rows": rows, "seconds": round(time.monotonic() - start, 2), "bytes_a_vector": round((crossed() - before) / rows, 2)}


def ingest(url: str, collection: str, rows: np.ndarray, rate: int, first_id: int, stop: threading.Event, out: dict) -> None:
    """A tenth of a second's rows a request. The vectors point away from what was loaded, so that the truth stays true."""
    batch, at, start = rate // 10, 0, time.monotonic()
    api = Api(url, 60)
    while not stop.is_set():
        body = io.BytesIO()
        np.save(body, -rows[np.arange(at, at + batch) % len(rows)].astype(np.float32))
        api.call("POST", f"/collections/{collection}/points/bulk?first_id={first_id + at}", body.getvalue(), {"Content-Type": "application/x-npy"})
        at += batch
        stop.wait(max(0.0, start + at / rate - time.monotonic()))
    out |= {"rows": at, "rows_per_second": round(at / (time.monotonic() - start))}


def under_load(folder: Path, rows: int) -> dict:
    """One client searches for a minute while 3,000 vectors a second come in."""
    seconds = 60 if rows >= 1_000_000 else 10
    data = make_data(folder, rows, 768)
    wipe(folder / "under-load")
    with World.for_tests(folder / "under-load", ["eu"], jit="full") as world:
        world.start()
        eu = world["eu"]
        trained(world, "load", 768, "home", None, data["train"], "?first_id=10000000")
        post_npy(eu.producer.url, "load", data["base"], "?first_id=0")
        wait_until(lambda: settled(eu, "load", rows + TRAIN), 600, "all is sealed")
        ask = ("query", "--url", eu.indexer.url, "--collection", "load", "--truth", data["truth"], "--queries", data["queries"], "--count")
        quiet = tool(*ask, 2000)
        stop, came = threading.Event(), {}
        writer = threading.Thread(target=ingest, args=(eu.producer.url, "load", np.load(data["base"], mmap_mode="r"), 3000, 20_000_000, stop, came))
        writer.start()
        runs, start = [], time.monotonic()
        while time.monotonic() - start < seconds:
            runs.append(tool(*ask, 2000))
        stop.set()
        writer.join()
        return {"rows": rows, "idle": quiet, "ingest": came, "queries": sum(r["queries"] for r in runs), "p50_ms": float(np.median([r["p50_ms"] for r in runs])),
                "p99_ms_worst_run": max(r["p99_ms"] for r in runs), "p99_ms_median_run": float(np.median([r["p99_ms"] for r in runs])),
                "recall_at_10": round(float(np.mean([r["recall_at_10"] for r in runs])), 4)}


PARTS = {"producer": producer, "million": million, "crossing": crossing, "under-load": under_load}
ROWS = {"crossing": 200_000}  # the others: a million
SHOULD = {
    "producer": "of_limit >= 0.75",
    "million": "found_in_both_per_second >= 50,000 (raw at home 35,000), p99_ms <= 20",
    "crossing": "bytes_a_vector <= 40 (id and code alone are 32)",
    "under-load": "p99 <= 8 ms, recall >= 0.95",
}
