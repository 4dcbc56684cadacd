"""How long a region takes to come back: a million vectors (128 dimensions, PQ16) rebuilt from the log, from a snapshot, and restarted.

    PYTHONPATH=tests python bench/rebuild.py [--rows 1000000]

One region; the vectors are loaded by `antipode load`. Figures: rows a second of the load; `antipode rebuild` from the logs' beginning
until its store and index have all (and until the region is ready with them); `antipode snapshot create` while it serves;
`antipode snapshot restore` with the start of consumer and indexer until both are ready; the same of a restart, with the files in the page
cache and (as root) without; and that with the segments on the disk (`index.cold`). Each time it is ready, 1,000 queries over one connection: the first,
percentiles, the last ten; and after the rebuild their recall. Prints one JSON object.
"""
import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ.setdefault("ANTIPODE_PRESET", "release")
from harness import paths  # noqa: E402
from harness.api import Api  # noqa: E402
from harness.region import World  # noqa: E402
from harness.wait import wait_until  # noqa: E402

DIM, NAME = 128, "million"


def clustered(file: Path, rows: int) -> None:
    """Row by row around 1,000 centers, as fbin."""
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(1000, DIM)).astype(np.float32)
    with file.open("wb") as f:
        np.array([rows, DIM], "<u4").tofile(f)
        for at in range(0, rows, 100_000):
            n = min(100_000, rows - at)
            (centers[rng.integers(0, len(centers), n)] + rng.normal(size=(n, DIM)).astype(np.float32) * 0.3).astype("<f4").tofile(f)


def antipode(*args) -> dict:
    done = subprocess.run([paths.binary("antipode"), *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def configs(region, folder: Path) -> list[str]:
    out = []
    for daemon in (region.consumer, region.indexer):
        file = folder / f"{daemon.role}.conf"
        kept = [line for line in daemon.config.read_text().splitlines() if line.partition("=")[0].strip() not in daemon.overrides]
        file.write_text("\n".join(kept + [f"{k} = {v}" for k, v in daemon.overrides.items() if v != ""]) + "\n")
        out += ["--config", file]
    return out


def queries(eu, file: Path, rows: int, n: int = 1000) -> dict:
    """Vectors near loaded ones, as no query before them: the connection is made before."""
    rng = np.random.default_rng(time.monotonic_ns())
    x = np.memmap(file, "<f4", mode="r", offset=8, shape=(rows, DIM))
    bodies = [json.dumps({"query": (x[i] + rng.normal(size=DIM) * 0.1).tolist(), "limit": 10}) for i in rng.integers(0, rows, n)]
    client = http.client.HTTPConnection(eu.indexer.url.rpartition("/")[2])
    client.request("GET", "/healthz")
    client.getresponse().read()
    took, nothing = [], []
    for body in bodies:
        start = time.perf_counter()
        client.request("POST", f"/collections/{NAME}/points/query", body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        answer.read()
        took.append((time.perf_counter() - start) * 1e3)
        assert answer.status == 200
    for _ in range(200):
        start = time.perf_counter()
        client.request("GET", "/healthz")
        client.getresponse().read()
        nothing.append((time.perf_counter() - start) * 1e3)
    client.close()
    return {"null_p50_ms": round(float(np.median(nothing)), 2), "first_ms": round(took[0], 2), "p50_ms": round(float(np.percentile(took, 50)), 2), "p99_ms": round(float(np.percentile(took, 99)), 2),
            "last_ten_ms": round(float(np.median(took[-10:])), 2)}


def memory(eu) -> dict:
    tiers = {t: round(eu.indexer.metric("antipode_index_tier_resident_bytes", tier=t) / 1e6) for t in ("warm", "cold")}
    return {"pss": round(eu.indexer.pss_bytes() / 1e6), "resident": tiers}


def drop_caches() -> bool:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    paths.STATE.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=paths.STATE))
    out: dict = {"rows": rows, "dim": DIM, "codec": "PQ16"}
    try:
        clustered(folder / "x.fbin", rows)
        with World.for_tests(folder, ["eu"], jit="full").start() as world:
            eu = world["eu"]

            def whole() -> bool:
                api = Api(eu.indexer.url)
                return eu.consumer.answers("/readyz") and eu.indexer.answers("/readyz") and api.post(f"/collections/{NAME}/points/count", {})["count"] == rows

            loaded = antipode("load", folder / "x.fbin", "--collection", NAME, "--url", eu.producer.url, "--create", "Euclid", "--codec", "PQ16", "--raw", "none", "--json")
            out["load_rows_per_second"] = round(loaded["rows_per_second"])
            wait_until(whole, 300, "all rows are there")
            wait_until(lambda: eu.indexer.metric("antipode_index_rows", kind="hot") < rows / 50, 300, "they are sealed")
            start = time.monotonic()
            rebuilt = antipode("rebuild", *configs(eu, folder), "--json")
            wait_until(whole, 60, "the region is ready with what was rebuilt")
            out["rebuild"] = {**{key: rebuilt[key] for key in ("read_seconds", "build_seconds", "handover_seconds")}, "ready_seconds": round(time.monotonic() - start, 2),
                              "should": "<= 10 s for a million", "queries": queries(eu, folder / "x.fbin", rows)}
            out["rebuild"]["recall"] = antipode("recall", eu.indexer.url, NAME, "--json")
            places = ["--store", eu.store_path, "--index", eu.data_dir / "index"]
            taken = antipode("snapshot", "create", folder / "snapshots", *places, "--name", "one", "--json")
            out["snapshot_create"] = {"seconds": round(taken["seconds"], 2), "mb": round(taken["bytes"] / 1e6)}
            eu.consumer.stop(), eu.indexer.stop()
            start = time.monotonic()
            restored = antipode("snapshot", "restore", folder / "snapshots/one", *places, "--replace", "--json")
            eu.consumer.start(), eu.indexer.start()
            wait_until(whole, 60, "the region is ready with what was restored")
            out["snapshot_restore"] = {"seconds": round(restored["seconds"], 2), "ready_seconds": round(time.monotonic() - start, 2), "should": "<= 2 s for a million",
                                       "queries": queries(eu, folder / "x.fbin", rows)}
            wait_until(lambda: eu.indexer.metric("antipode_index_unsealed_bytes") == 0, 60, "all is sealed")
            for name, cold, dropped in (("restart", "", False), ("restart_uncached", "", True), ("restart_cold", "*", False), ("restart_cold_uncached", "*", True)):
                eu.consumer.stop(), eu.indexer.stop()
                if dropped and not drop_caches():
                    continue
                start = time.monotonic()
                eu.consumer.start(), eu.indexer.start(index__cold=cold)
                wait_until(whole, 120, "the region is ready again")
                out[name] = {"ready_seconds": round(time.monotonic() - start, 2), "indexer_mb": memory(eu), "queries": queries(eu, folder / "x.fbin", rows)}
                out[name]["indexer_mb_after"] = memory(eu)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(out, indent=1))


main()
