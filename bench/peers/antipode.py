"""Antipode in the peers' shape: two regions of its own, loaded by `antipode load` until all is found in both, asked over HTTP at home.

The codec is trained beforehand, on other rows that are deleted again; everything else counts. Once more is measured that the others do
not have: recall and latency at the moment everything was found, before segments are sealed; recall abroad, where only codes are; and the cost of
a handler that does nothing under the same clients, which taken off gives what is comparable with a library in process.
"""
from __future__ import annotations

import subprocess
import threading
import time

import numpy as np
from kit import WARM_ROWS, codec_in_use, create, points, post_npy, settled, tool
from harness import paths
from harness.api import Api
from harness.wait import wait_until

from .measure import EFFORTS, tune

NAME = "peers"


def trained(eu, us, data) -> None:
    create(eu, us, NAME, "home")
    post_npy(eu.producer.url, NAME, data["warm"], "?first_id=1000000000")
    codec_in_use(eu, NAME)
    wait_until(lambda: points(eu, NAME) == WARM_ROWS, 120, "the rows to train on are there")
    Api(eu.indexer.url).post(f"/collections/{NAME}/points/delete?wait=true&timeout=60", {"filter": {}})
    for region in (eu, us):
        wait_until(lambda: points(region, NAME) == 0, 60, f"{region.name} has deleted them")


def load(eu, us, data, rows: int) -> dict:
    """Seconds from the start of `antipode load` until every row is found, in each region."""
    found: dict[str, float] = {}
    start = time.monotonic()

    def watch(region) -> None:
        wait_until(lambda: points(region, NAME) == rows, 300, f"{region.name} has all rows")
        found[region.name] = time.monotonic() - start

    watchers = [threading.Thread(target=watch, args=(r,)) for r in (eu, us)]
    for w in watchers:
        w.start()
    done = subprocess.run([paths.binary("antipode"), "load", data["base"], "--collection", NAME, "--url", eu.producer.url, "--restart", "--json"],
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"antipode load: {done.stderr}")
    acknowledged = time.monotonic() - start
    for w in watchers:
        w.join()
    if len(found) < 2:
        raise SystemExit("not all rows were found in both regions")
    return {"acknowledged_s": acknowledged, "home_s": found[eu.name], "both_s": max(found.values())}


def measure(world, data, truth, count: int, clients: int) -> dict:
    """world: two regions that hold nothing yet, the first of them home."""
    eu, us = world
    rows = len(np.load(data["base"], mmap_mode="r"))
    trained(eu, us, data)
    before = sum(eu.pss_bytes().values())
    took = load(eu, us, data, rows)

    def ask(region, n: int, at_once: int = 1, effort: int | None = None) -> dict:
        more = ("--effort", effort) if effort else ()
        return tool("query", "--url", region.indexer.url, "--collection", NAME, "--queries", data["queries"], "--truth", truth, "--count", n, "--clients", at_once, *more)

    when_found = ask(eu, 200)
    for region in (eu, us):
        wait_until(lambda: settled(region, NAME, rows), 300, f"{region.name} has sealed what it was given")
    memory = sum(eu.pss_bytes().values()) - before
    out = {"name": "Antipode", "setup": "two regions, HTTP and JSON at home, raw vectors at home, default codec and segments",
           "durability": "acknowledged by Kafka (acks=all), then found in both regions", "rows": rows, "load_s": round(took["both_s"], 2),
           "per_second": round(rows / took["both_s"]), "memory_bytes_a_vector": round(memory / rows), "load": {k: round(v, 2) for k, v in took.items()},
           "when_found": when_found, "default": ask(eu, count), "abroad": ask(us, count), "at": {}}
    null = tool("query", "--url", eu.indexer.url, "--null", "/livez", "--count", count // 2, "--clients", clients)
    out["null_handler"] = null
    for floor, effort in tune(lambda e: ask(eu, min(count, 1000), 1, e)["recall_at_10"], efforts=(1, 2, 3, 4, 5, 6, 8, *EFFORTS)).items():
        if effort is None:
            out["at"][str(floor)] = None
            continue
        one, many = ask(eu, count, 1, effort), ask(eu, count // 2, clients, effort)
        out["at"][str(floor)] = {"effort": effort, "recall_at_10": one["recall_at_10"], "p50_ms": one["p50_ms"], "p99_ms": one["p99_ms"],
                                 f"per_second_{clients}_clients": many["per_second"],
                                 "per_second_without_http": round(1 / (1 / many["per_second"] - 1 / null["per_second"]))}
    return out
