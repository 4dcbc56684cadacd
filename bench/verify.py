"""Verify and scrub of two regions over HTTP: a million rows each, a thousand of them different. Prints one JSON object.

    PYTHONPATH=tests python bench/verify.py [ROWS [DIFFERENT]]       # binaries: ANTIPODE_BUILD or ANTIPODE_PRESET

Two real indexers serve two stores that bench_verify made; no Kafka is needed to read.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("ANTIPODE_PRESET", "release")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from harness import paths  # noqa: E402
from harness.daemon import Daemon  # noqa: E402
from harness.ports import HOST, free_port  # noqa: E402


def verify(urls: list[str], *more: str) -> dict:
    done = subprocess.run([paths.binary("antipode"), "verify", *urls, "--json", *more], capture_output=True, text=True)
    if done.returncode > 1 or not done.stdout:
        sys.exit(done.stderr)
    return json.loads(done.stdout)["comparisons"][0]


def cpu_s(daemons: list[Daemon]) -> float:
    return sum(d.metrics()["process_cpu_seconds_total"] for d in daemons)


def measure(daemons: list[Daemon], *more: str) -> dict:
    runs = []
    for _ in range(5):
        before = cpu_s(daemons)
        report = verify([d.url for d in daemons], *more)
        runs.append({"seconds": round(report["seconds"], 3), "cpu_s": round(cpu_s(daemons) - before, 3), "bytes": report["bytes"],
                     "differences": len(report["differences"]),
                     **({"scrub_s": [s["seconds"] for side in report["scrub"].values() for s in side]} if more else {})})
    return sorted(runs, key=lambda r: r["seconds"])[2]  # the median


def main(rows: int, different: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        daemons = []
        try:
            for region, count in (("eu", 0), ("us", different)):
                store = Path(folder) / region / "store"
                store.mkdir(parents=True)
                subprocess.run([paths.binary("bench_verify"), "--make", store, region, str(rows), str(count)], check=True)
                overrides = {"store.path": store, "index.path": store.parent / "index", "kafka.bootstrap.servers": f"{HOST}:1",
                             "producer.url": f"http://{HOST}:1", "regions": "eu,us"}
                daemons.append(Daemon("indexer", region, free_port(), overrides, Path(folder), Path(folder)))
                daemons[-1].start()
            for daemon in daemons:
                daemon.wait_ready(300)
            print(json.dumps({"rows": rows, "planted": different, "verify": measure(daemons), "scrub": measure(daemons, "--scrub")}, indent=1))
        finally:
            for daemon in daemons:
                daemon.stop()


if __name__ == "__main__":
    given = [int(a) for a in sys.argv[1:]]
    main(*(given + [1_000_000, 1000][len(given):]))
