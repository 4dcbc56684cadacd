"""The figures, measured on two regions of its own: ./dev bench [--quick] [--data FILE.npy] [--only NAME,...]

Prints one JSON object: every figure beside the limit measured in the same run, and what it should reach. Human-readable
progress goes to stderr. Without --data the vectors are made here: a Gaussian mixture of low intrinsic dimension (uniform
noise makes every index and every quantizer look bad). With --data they are the rows of a 2-D float .npy file of 384
columns; a thousand of them, chosen by a fixed seed, are kept back as queries and never loaded.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from kit import (DIM, WARM_ROWS, codec_in_use, create, make_data, points, post_npy, regions, say, settled, tool, train)
from harness import paths
from harness.kafka import create_topics
from harness.region import World, wipe
from harness.wait import wait_until


def alone(eu, us, rate: int, seconds: int) -> dict:
    return tool("mirror", "--home", eu.bootstrap, "--abroad", us.bootstrap, "--origin", "eu", "--topic", "vec-bench", "--rate", rate, "--seconds", seconds)


def whole(eu, us, collection: str, data, rate: int, seconds: int) -> dict:
    return tool("latency", "--producer", eu.producer.url, "--home", eu.indexer.url, "--abroad", us.indexer.url,
                "--collection", collection, "--npy", data["base"], "--rate", rate, "--seconds", seconds)


def latency(eu, us, data, seconds: int) -> dict:
    """Kafka with MirrorMaker alone first, then Antipode on the same road, at one rate. JVMs that have just started take two
    minutes of load to compile what they run, at many times the later latency: they are warmed up with what they then do."""
    create_topics(eu.kafka.admin, {"vec-bench": (4, {})})
    wait_until(lambda: "eu.vec-bench" in us.kafka.admin.list_topics(timeout=5).topics, 60, "the benchmark's topic is mirrored")
    create(eu, us, "latency", "home")
    train(eu, us, "latency", data)

    say("  warming up the JVMs")
    alone(eu, us, 1000, 20), whole(eu, us, "latency", data, 1000, 120 if seconds > 10 else 10)
    return {"kafka_and_mirrormaker_alone": alone(eu, us, 1000, seconds), **whole(eu, us, "latency", data, 1000, seconds)}


def bulk(eu, us, data) -> dict:
    create(eu, us, "bulk", "none", codec="PQ48")
    train(eu, us, "bulk", data)
    create_topics(eu.kafka.admin, {"bench-limits": (4, {})})
    limits = tool("limits", "--brokers", eu.bootstrap, "--topic", "bench-limits", "--npy", data["base"], "--codec", "PQ48")
    load = tool("bulk", "--producer", eu.producer.url, "--home", eu.indexer.url, "--abroad", us.indexer.url, "--collection", "bulk", "--npy", data["base"])
    return {"limits": limits, **load, "acknowledged_of_limit": round(load["acknowledged_per_second"] / limits["together_per_second"], 3)}


def memory(region) -> dict:
    each = region.pss_bytes()
    return {**{f"{k}_mb": round(v / 1e6, 1) for k, v in each.items()}, "together_mb": round(sum(each.values()) / 1e6, 1)}


def query(eu, us, data, rows: int, count: int) -> dict:
    create(eu, us, "query", "home")
    base = np.load(data["base"], mmap_mode="r")
    # Loaded twice: what came before the codec was trained travelled as float32, and abroad has to be searched by codes.
    post_npy(eu.producer.url, "query", data["base"], "?first_id=0")
    codec_in_use(eu, "query")
    post_npy(eu.producer.url, "query", data["base"], "?first_id=0")
    for region in (eu, us):
        wait_until(lambda: settled(region, "query", len(base)), 180, f"{region.name} has sealed what it was given")
    out = {}
    for where, region in (("home", eu), ("abroad", us)):
        out[where] = tool("query", "--url", region.indexer.url, "--collection", "query", "--npy", data["base"], "--queries", data["queries"], "--count", count)
    out["home_8_clients"] = tool("query", "--url", eu.indexer.url, "--collection", "query", "--npy", data["base"], "--queries", data["queries"],
                                 "--count", count // 4, "--clients", 8)
    return out


def memory_run(folder: Path, data, jit: str) -> dict:
    """Regions of their own that hold nothing but 60,000 vectors without raw ones."""
    with regions(folder / "memory", jit) as world:
        eu, us = world
        create(eu, us, "memory", "none")
        post_npy(eu.producer.url, "memory", data["base"])
        rows = len(np.load(data["base"], mmap_mode="r"))
        for region in (eu, us):
            wait_until(lambda: settled(region, "memory", rows), 180, f"{region.name} has sealed what it was given")
        return {r.name: memory(r) for r in world}


def equal(eu, us, collection: str) -> bool:
    done = subprocess.run([paths.binary("antipode"), "verify", eu.indexer.url, us.indexer.url, "--collection", collection], capture_output=True, text=True)
    return done.returncode == 0


def partition(world, data, seconds: int, rate: int = 1000) -> dict:
    """Both regions write while nothing passes between them; then how long until verify finds no difference."""
    eu, us = world
    create(eu, us, "partition", "none", codec="PQ48")
    train(eu, us, "partition", data)
    world.delay.part()
    writers = [subprocess.Popen([paths.binary("bench_latency"), "--producer", r.producer.url, "--collection", "partition", "--npy", data["base"],
                                 "--rate", str(rate), "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) for r in world]
    had = [json.loads(w.communicate()[0])["rate_had"] for w in writers]
    written = WARM_ROWS + 2 * rate * seconds
    world.delay.heal()
    start = time.monotonic()
    wait_until(lambda: points(eu, "partition") == points(us, "partition") == written, 300, "both regions have all points")
    counted = time.monotonic() - start
    wait_until(lambda: equal(eu, us, "partition"), 300, "the regions are equal")
    return {"seconds_apart": seconds, "writes_per_second_a_side": had, "points": written, "all_found_after_s": round(counted, 2),
            "equal_after_s": round(time.monotonic() - start, 2)}


def idle(world, seconds: int) -> dict:
    """What regions that nobody asks anything cost: CPU of each daemon, bytes that cross."""
    def cpu() -> dict[str, float]:
        return {f"{r.name}-{d.process.name.split('-')[-1]}": d.metrics()["process_cpu_seconds_total"] for r in world for d in r.daemons}

    def crossed() -> int:
        return sum(line["bytes_in"] + line["bytes_out"] for line in world.delay.show().values())

    wait_until(lambda: all(r.consumer.metric("antipode_holes") == 0 for r in world), 30, "nothing is missing")
    time.sleep(15)  # heartbeats slow down after ten idle seconds
    before, bytes_before, start = cpu(), crossed(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - start
    return {"seconds": seconds, "cpu_percent": {k: round((v - before[k]) / took * 100, 2) for k, v in cpu().items()},
            "bytes_per_second_a_region": round((crossed() - bytes_before) / took / len(list(world)))}


def wan(folder: Path, data, quick: bool) -> dict:
    """40 ms each way between the regions, through the delay line."""
    wipe(folder / "wan")
    seconds, rate = (5, 300) if quick else (20, 300)
    with World.for_tests(folder / "wan", ["eu", "us"], delayed=True, jit="full") as world:
        world.start()
        eu, us = world
        out = {"idle": idle(world, 10 if quick else 60)}
        say(f"  idle: {out['idle']}")
        world.delay.distance(40)
        create_topics(eu.kafka.admin, {"vec-bench": (4, {})})
        wait_until(lambda: "eu.vec-bench" in us.kafka.admin.list_topics(timeout=5).topics, 60, "the benchmark's topic is mirrored")
        create(eu, us, "wan", "home")
        train(eu, us, "wan", data)
        alone(eu, us, rate, 10), whole(eu, us, "wan", data, rate, 10 if quick else 60)
        out["latency"] = {"one_way_ms": 40, "kafka_and_mirrormaker_alone": alone(eu, us, rate, seconds), **whole(eu, us, "wan", data, rate, seconds)}
        out["latency"]["quorum"] = tool("latency", "--producer", eu.producer.url, "--collection", "wan", "--npy", data["base"], "--rate", 50,
                                        "--seconds", seconds, "--level", "quorum")["ack"]
        say(f"  latency: {out['latency']}")
        world.delay.distance(0)
        out["partition"] = partition(world, data, 10 if quick else 60)
        say(f"  partition: {out['partition']}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 vectors instead of 60,000, shorter runs")
    parser.add_argument("--data", help="a 2-D .npy file with 384 columns")
    parser.add_argument("--only", default="latency,bulk,query,memory,wan", help="which figures, by name, separated by commas")
    args = parser.parse_args()
    rows = 20_000 if args.quick else 60_000
    folder = paths.STATE / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    say(f"making {rows} vectors of {DIM} dimensions")
    data = make_data(folder, args.data, rows)
    wanted = set(args.only.split(","))
    out: dict = {"rows": len(np.load(data["base"], mmap_mode="r")), "dim": DIM, "data": "file" if args.data else "clustered", "cores": os.cpu_count()}
    started = time.monotonic()
    if wanted & {"latency", "bulk", "query"}:
        say("starting two regions")
        with regions(folder / "regions", "full") as world:
            eu, us = world
            if "latency" in wanted:
                say("latency: one point a request, 1,000 a second")
                out["latency"] = latency(eu, us, data, 5 if args.quick else 20)
                say(f"  {out['latency']}")
                out["latency"]["should"] = "home p50 <= 5 ms, p99 <= 20 ms; abroad p50 <= 12 ms, p99 <= 30 ms"
            if "bulk" in wanted:
                say("bulk: acknowledged, and found in both regions")
                out["bulk"] = bulk(eu, us, data)
                say(f"  {out['bulk']}")
                out["bulk"]["should"] = "acknowledged_of_limit >= 0.5; found_in_both_per_second >= 20,000"
            if "query" in wanted:
                say("query: latency and recall over HTTP")
                out["query"] = query(eu, us, data, rows, 500 if args.quick else 2000)
                say(f"  {out['query']}")
                out["query"]["should"] = "home: recall_at_10 >= 0.95 with p50 <= 2 ms"
    if "wan" in wanted:
        say("wan: idle regions, 40 ms between them, and a partition")
        out["wan"] = wan(folder, data, args.quick)
        out["wan"]["should"] = ("idle: under 1 % of a core a daemon, 5 kB/s a region; abroad at most 10 ms (p50) and 25 ms (p99) more than Kafka with "
                                "MirrorMaker alone; quorum at most two such legs + 30 ms; equal within 10 s of healing")
    if "memory" in wanted:
        say("memory: a region that holds nothing else")
        out["memory"] = memory_run(folder, data, "c1")
        out["memory"]["should"] = "together <= 250 MB with 60,000 x 384"
    out["took_s"] = round(time.monotonic() - started, 1)
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
