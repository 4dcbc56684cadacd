"""The figures, measured on two regions of its own: ./dev bench [--quick] [--data FILE.npy] [--only PART,...] [--peers NAME,...]

Prints one JSON object: every figure beside the limit measured in the same run, and what it should reach. Human-readable
progress goes to stderr. Without --data the vectors are made here: a Gaussian mixture of low intrinsic dimension (uniform
noise makes every index and every quantizer look bad). With --data they are the rows of a 2-D float .npy file of 384
columns; a thousand of them, chosen by a fixed seed, are kept back as queries and never loaded.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from kit import DIM, WARM_ROWS, codec_in_use, create, make_data, points, post_npy, refuse, regions, say, settled, tool, train, unit, use_release, write_truth
from harness import paths
from harness.kafka import create_topics
from harness.region import World, wipe
from harness.wait import wait_until
from peers import run as peers, table
import footprint
import scale
import streaming


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured. `shortened` tells the reader of a quick result what its figures are not."""

    rows: int = 60_000
    peer_rows: int | None = None    # of those, for peers
    count: int = 4000               # questions a figure
    latency_s: int = 20
    warm_alone_s: int = 20          # of Kafka and MirrorMaker, then of everything: JVMs compile for two minutes
    warm_s: int = 120
    wan_s: int = 20
    wan_warm_s: int = 60
    idle_settle_s: int = 15         # heartbeats slow down after ten idle seconds
    idle_s: int = 60
    apart_s: int = 60
    apart_coded: bool = True
    one_world: bool = False         # the same two regions for all parts
    clusters: int = 8
    jit: str = "full"
    shortened: tuple[str, ...] = ()


FULL = Size()
QUICK = Size(rows=10_000, peer_rows=4_000, count=300, latency_s=3, warm_alone_s=2, warm_s=0, wan_s=2, wan_warm_s=0, idle_settle_s=0, idle_s=3, apart_s=3,
             apart_coded=False, one_world=True, clusters=2, shortened=(
    "10,000 rows a part, 4,000 for peers, instead of 60,000: rates leave out what grows with the rows, memory a vector counts more of what does not",
    "JVMs are not warmed up for minutes: latency, wan and load rates are those of brokers that have just started",
    "one pair of regions, with the delay line between them, for all parts: later ones share it with what the earlier ones left",
    "latency 3 s, wan 2 s, idle 3 s (before heartbeats slow down) and a partition of 3 s of float32, instead of 20, 20, 60 and 60 of codes: p99 is of a few hundred requests",
    "300 questions a figure instead of 4,000; streaming over 2 clusters instead of 8",
))
SAMPLE = paths.TEST_DATA / "debian-4k.f16.npy"


def alone(eu, us, rate: int, seconds: int) -> dict:
    return tool("mirror", "--home", eu.bootstrap, "--abroad", us.bootstrap, "--origin", "eu", "--topic", "vec-bench", "--rate", rate, "--seconds", seconds)


def whole(eu, us, collection: str, data, rate: int, seconds: int) -> dict:
    return tool("latency", "--producer", eu.producer.url, "--home", eu.indexer.url, "--abroad", us.indexer.url,
                "--collection", collection, "--npy", data["base"], "--rate", rate, "--seconds", seconds)


def bench_topic(eu, us) -> None:
    if "vec-bench" not in eu.kafka.admin.list_topics(timeout=5).topics:
        create_topics(eu.kafka.admin, {"vec-bench": (4, {})})
    wait_until(lambda: "eu.vec-bench" in us.kafka.admin.list_topics(timeout=5).topics, 60, "the benchmark's topic is mirrored")


def latency(eu, us, data, size: Size) -> dict:
    """Kafka with MirrorMaker alone first, then Antipode on the same road, at one rate. JVMs that have just started take two
    minutes of load to compile what they run, at many times the later latency: they are warmed up with what they then do."""
    bench_topic(eu, us)
    create(eu, us, "latency", "home")
    train(eu, us, "latency", data)

    if size.warm_s:
        say("  warming up the JVMs")
        alone(eu, us, 1000, size.warm_alone_s), whole(eu, us, "latency", data, 1000, size.warm_s)
    return {"kafka_and_mirrormaker_alone": alone(eu, us, 1000, size.latency_s), **whole(eu, us, "latency", data, 1000, size.latency_s)}


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


def query(eu, us, data, count: int) -> dict:
    create(eu, us, "query", "home")
    base = np.load(data["base"], mmap_mode="r")
    # Loaded twice: what came before the codec was trained travelled as float32, and abroad has to be searched by codes.
    post_npy(eu.producer.url, "query", data["base"], "?first_id=0")
    codec_in_use(eu, "query")
    post_npy(eu.producer.url, "query", data["base"], "?first_id=0")
    for region in (eu, us):
        wait_until(lambda: settled(region, "query", len(base)), 180, f"{region.name} has sealed what it was given")
    truth = write_truth(data["base"].with_name("truth.npy"), unit(base), unit(np.load(data["queries"])))

    def ask(region, n: int, clients: int = 1) -> dict:
        return tool("query", "--url", region.indexer.url, "--collection", "query", "--truth", truth, "--queries", data["queries"], "--count", n, "--clients", clients)

    return {"home": ask(eu, count), "abroad": ask(us, count), "home_8_clients": ask(eu, count // 4, 8)}


def memory_run(world, data) -> dict:
    """What regions that hold nothing but these vectors, without raw ones, take."""
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


def partition(world, data, seconds: int, coded: bool, rate: int = 1000) -> dict:
    """Both regions write while nothing passes between them; then how long until verify finds no difference."""
    eu, us = world
    create(eu, us, "partition", "none", codec="PQ48")
    if coded:
        train(eu, us, "partition", data)
    world.delay.part()
    writers = [subprocess.Popen([paths.binary("bench_latency"), "--producer", r.producer.url, "--collection", "partition", "--npy", data["base"],
                                 "--rate", str(rate), "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True) for r in world]
    had = [json.loads(w.communicate()[0])["rate_had"] for w in writers]
    written = (WARM_ROWS if coded else 0) + 2 * rate * seconds
    world.delay.heal()
    start = time.monotonic()
    wait_until(lambda: points(eu, "partition") == points(us, "partition") == written, 300, "both regions have all points")
    counted = time.monotonic() - start
    wait_until(lambda: equal(eu, us, "partition"), 300, "the regions are equal")
    return {"seconds_apart": seconds, "writes_per_second_a_side": had, "points": written, "all_found_after_s": round(counted, 2),
            "equal_after_s": round(time.monotonic() - start, 2)}


def idle(world, settle_s: int, seconds: int) -> dict:
    """What regions that nobody asks anything cost: CPU of each daemon, bytes that cross."""
    def cpu() -> dict[str, float]:
        return {f"{r.name}-{d.process.name.split('-')[-1]}": d.metrics()["process_cpu_seconds_total"] for r in world for d in r.daemons}

    def crossed() -> int:
        return sum(line["bytes_in"] + line["bytes_out"] for line in world.delay.show().values())

    wait_until(lambda: all(r.consumer.metric("antipode_holes") == 0 for r in world), 30, "nothing is missing")
    time.sleep(settle_s)
    before, bytes_before, start = cpu(), crossed(), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - start
    return {"seconds": seconds, "cpu_percent": {k: round((v - before[k]) / took * 100, 2) for k, v in cpu().items()},
            "bytes_per_second_a_region": round((crossed() - bytes_before) / took / len(list(world)))}


def wan(world, data, size: Size) -> dict:
    """40 ms each way between the regions, through the delay line."""
    seconds, rate, out = size.wan_s, 300, {}
    eu, us = world
    out["idle"] = idle(world, size.idle_settle_s, size.idle_s)
    say(f"  idle: {out['idle']}")
    world.delay.distance(40)
    bench_topic(eu, us)
    create(eu, us, "wan", "home")
    train(eu, us, "wan", data)
    if size.wan_warm_s:
        alone(eu, us, rate, 10), whole(eu, us, "wan", data, rate, size.wan_warm_s)
    out["latency"] = {"one_way_ms": 40, "kafka_and_mirrormaker_alone": alone(eu, us, rate, seconds), **whole(eu, us, "wan", data, rate, seconds)}
    out["latency"]["quorum"] = tool("latency", "--producer", eu.producer.url, "--collection", "wan", "--npy", data["base"], "--rate", 50,
                                    "--seconds", seconds, "--level", "quorum")["ack"]
    say(f"  latency: {out['latency']}")
    out["read_your_writes"] = tool("latency", "--producer", eu.producer.url, "--collection", "wan", "--npy", data["base"], "--rate", 1000,
                                   "--seconds", seconds, "--session", eu.indexer.url)
    say(f"  read your writes at home, 1,000 writes a second: {out['read_your_writes']}")
    world.delay.distance(0)
    out["partition"] = partition(world, data, size.apart_s, size.apart_coded)
    say(f"  partition: {out['partition']}")
    return out


def warmed(eu, us, size: Size):
    """The two regions, after their brokers and MirrorMakers have carried records for a while; the daemons have seen none of them."""
    create_topics(eu.kafka.admin, {"vec-warm": (4, {})})
    wait_until(lambda: "eu.vec-warm" in us.kafka.admin.list_topics(timeout=5).topics, 60, "the topic to warm up with is mirrored")
    tool("mirror", "--home", eu.bootstrap, "--abroad", us.bootstrap, "--origin", "eu", "--topic", "vec-warm", "--rate", 5000, "--seconds", size.warm_alone_s)
    return eu, us


def stream_data(folder: Path, args, size: Size) -> dict[str, dict[str, Path]]:
    """By name: vectors made here, and embeddings, those of --data or of the sample in the repository."""
    out = {}
    for name, source in (("generated", None), ("embeddings", args.data or SAMPLE)):
        (folder / name).mkdir(exist_ok=True)
        out[name] = make_data(folder / name, source, size.rows)
    return {args.dataset: out["embeddings" if args.data else "generated"]} if args.dataset else out


IN_ONE_PLACE = {"peers", "latency", "bulk", "query", "streaming"}
LARGE = {**scale.PARTS, "footprint": footprint.footprint}
PARTS = ("peers", "latency", "bulk", "query", "streaming", "memory", "wan")
SHOULD = {
    "peers": "throughput_of_faiss_at_0.99 >= 0.8, the cost of a null handler taken off; 20 times Weaviate's load rate",
    "latency": "home p50 <= 5 ms, p99 <= 20 ms; abroad p50 <= 12 ms, p99 <= 30 ms",
    "bulk": "acknowledged_of_limit >= 0.5; found_in_both_per_second >= 20,000",
    "query": "home: recall_at_10 >= 0.95 with p50 <= 2 ms",
    "streaming": "recall_at_10 over the searches >= 0.95 at home, whatever was inserted and deleted before",
    "wan": ("idle: under 1 % of a core a daemon, 5 kB/s a region; abroad at most 10 ms (p50) and 25 ms (p99) more than Kafka with "
            "MirrorMaker alone; quorum at most two such legs + 30 ms; read_your_writes: p99 <= 5 ms; equal within 10 s of healing"),
    "memory": "together <= 250 MB with 60,000 x 384",
}


class Report:
    """What has been measured so far, by part, each with its seconds and what it should reach."""

    def __init__(self, wanted: set[str], **about):
        self.wanted, self.out, self.started = wanted, dict(about), time.monotonic()

    def part(self, name: str, what: str, measure) -> None:
        if name not in self.wanted:
            return
        say(f"{name}: {what}")
        start = time.monotonic()
        figures = measure()
        took = round(time.monotonic() - start + figures.pop("took_before_s", 0), 1)
        say(f"  {figures}\n  {took} s")
        self.out[name] = {**figures, "should": (SHOULD | scale.SHOULD | footprint.SHOULD)[name], "took_s": took}

    def finish(self) -> None:
        print(json.dumps({**self.out, "took_s": round(time.monotonic() - self.started, 1)}, indent=2))


def names(text: str, known: tuple[str, ...], option: str) -> set[str]:
    wanted = {n for n in text.split(",") if n}
    if wanted - set(known):
        refuse(f"{option}: there is no {', '.join(sorted(wanted - set(known)))}; there are {', '.join(known)}")
    return wanted


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all of it in about two minutes; the result says what was shortened")
    parser.add_argument("--data", help="a 2-D .npy file with 384 columns")
    parser.add_argument("--only", default=",".join(PARTS), help=f"which parts, by name, separated by commas; default all but those at a million rows: {', '.join(LARGE)}")
    parser.add_argument("--rows", type=int, help="of those at a million rows, instead of their own number")
    parser.add_argument("--peers", default=",".join(peers.default()), help="beside which engines, by name; default %(default)s. weaviate is among them once it is built (./dev deps weaviate)")
    parser.add_argument("--runbook", help="streaming: a runbook in big-ann-benchmarks' format instead of one made here")
    parser.add_argument("--dataset", help="streaming: which of the runbook's datasets; default generated and embeddings, each its own")
    parser.add_argument("--table", metavar="RESULT.json", help="measure nothing; print the table of engines of a result that was kept")
    return parser.parse_args()


def main() -> None:
    use_release()
    args = arguments()
    if args.table:
        print(table.of_file(args.table))
        return
    size = QUICK if args.quick else FULL
    report = Report(names(args.only, PARTS + tuple(LARGE), "--only"), quick=args.quick)
    engines = names(args.peers, tuple(peers.NAMES), "--peers")
    folder = paths.STATE / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    say(f"making {size.rows} vectors of {DIM} dimensions")
    data = make_data(folder, args.data, size.rows)
    report.out |= {"rows": len(np.load(data["base"], mmap_mode="r")), "dim": DIM, "data": "file" if args.data else "clustered", "cores": os.cpu_count()}
    if args.quick:
        report.out["shortened"] = size.shortened
        say("--quick: " + "; ".join(size.shortened))

    plans = streaming.plan(folder, stream_data(folder, args, size), size.clusters, args.runbook, args.dataset) if "streaming" in report.wanted else []
    others = peers.Others(folder, data, engines, size.count, size.peer_rows)
    if "peers" in report.wanted:
        say("peers: other engines, one after the other")
        others.measure()
    with contextlib.ExitStack() as stack:
        world = None
        if report.wanted & ({"memory", "wan"} | (IN_ONE_PLACE if size.one_world else set())):
            say("starting two regions with a delay line between them")
            wipe(folder / "wan")
            world = stack.enter_context(World.for_tests(folder / "wan", ["eu", "us"], delayed=True, jit=size.jit).start())
            report.part("memory", "regions that hold nothing else", lambda: memory_run(world, data))
        if not size.one_world:
            report.part("wan", "idle regions, 40 ms between them, and a partition", lambda: wan(world, data, size))
            stack.close()
            if report.wanted & IN_ONE_PLACE:
                say("starting two regions")
                world = stack.enter_context(regions(folder / "regions", size.jit))
        if report.wanted & IN_ONE_PLACE:
            eu, us = world
            # First, while the daemons hold little: their memory is part of it.
            report.part("peers", "Antipode on the same rows", lambda: others.beside(warmed(eu, us, size)))
            report.part("latency", "one point a request, 1,000 a second", lambda: latency(eu, us, data, size))
            report.part("bulk", "acknowledged, and found in both regions", lambda: bulk(eu, us, data))
            report.part("query", "latency and recall over HTTP", lambda: query(eu, us, data, size.count))
            report.part("streaming", "runbooks of inserts, deletes and searches", lambda: streaming.run(eu, us, folder, plans, size.count // 2))
        if size.one_world:
            report.part("wan", "idle regions, 40 ms between them, and a partition", lambda: wan(world, data, size))
    for name, part in LARGE.items():
        rows = args.rows or scale.ROWS.get(name, 1_000_000) // (10 if args.quick else 1)
        report.part(name, part.__doc__, lambda: part(folder, rows))
    if "peers" in report.out:
        say(table.markdown(report.out["peers"]))
    report.finish()


if __name__ == "__main__":
    main()
