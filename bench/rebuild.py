"""How long a region takes to come back: a million vectors (128 dimensions, PQ16) rebuilt from the log, and from a snapshot.

    PYTHONPATH=tests python bench/rebuild.py [--rows 1000000]

One region; the vectors are loaded by `antipode load`. Figures: rows a second of the load; `antipode rebuild` from the logs' beginning
until its store and index have all (and until the region is ready with them); `antipode snapshot create` while it serves; and
`antipode snapshot restore` with the start of consumer and indexer until both are ready. Prints one JSON object.
"""
import argparse
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
            out["rebuild"] = {"build_seconds": rebuilt["build_seconds"], "handover_seconds": rebuilt["handover_seconds"], "ready_seconds": round(time.monotonic() - start, 2),
                              "should": "<= 10 s for a million"}
            places = ["--store", eu.store_path, "--index", eu.data_dir / "index"]
            taken = antipode("snapshot", "create", folder / "snapshots", *places, "--name", "one", "--json")
            out["snapshot_create"] = {"seconds": round(taken["seconds"], 2), "mb": round(taken["bytes"] / 1e6)}
            eu.consumer.stop(), eu.indexer.stop()
            start = time.monotonic()
            restored = antipode("snapshot", "restore", folder / "snapshots/one", *places, "--replace", "--json")
            eu.consumer.start(), eu.indexer.start()
            wait_until(whole, 60, "the region is ready with what was restored")
            out["snapshot_restore"] = {"seconds": round(restored["seconds"], 2), "ready_seconds": round(time.monotonic() - start, 2), "should": "<= 2 s for a million"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(out, indent=1))


main()
