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

os.environ.setdefault("ANTIPODE_PRESET", "release")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from harness import paths  # noqa: E402
from harness.api import Api  # noqa: E402
from harness.kafka import create_topics  # noqa: E402
from harness.region import World, wipe  # noqa: E402
from harness.wait import wait_until  # noqa: E402

DIM = 384
QUERIES = 1000
WARM_ROWS = 20_000  # vectors that a codec is trained on before a measured load


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
    data = np.load(source).astype(np.float32) if source else clustered(rows + WARM_ROWS + QUERIES, DIM)
    if data.ndim != 2 or data.shape[1] != DIM:
        sys.exit(f"{source}: wants {DIM} columns, has {data.shape}")
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


def regions(folder: Path, jit: str) -> World:
    wipe(folder)
    return World.for_tests(folder, ["eu", "us"], jit=jit).start()


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
