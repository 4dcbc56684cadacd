"""./dev demo: two regions on real Kafka; vectors posted in eu, found in us. Everything printed was measured in this run."""
from __future__ import annotations

import dataclasses
import gzip
import json
import struct
import threading
import time
from pathlib import Path

from . import paths
from .api import Api
from .ports import FIXED, require_free
from .region import World, running, stop_all, stopwatch, wipe
from .wait import wait_until

COLLECTION = "debian"
DIM = 384
ROWS = 4000
CODEC_ROWS = 2000  # so many vectors train the codec here; they themselves travel as float32
LIVE_S = 3  # lag above which a region does not hear another: heartbeats come once a second
# A line before each WAN listener, without delay here, counts the bytes that cross.
PORTS = {name: dataclasses.replace(FIXED[name], wan_advertised=FIXED[name].wan + 1) for name in ("eu", "us")}


def load_npy_f16(path: Path) -> list[tuple[float, ...]]:
    raw = path.read_bytes()
    header = struct.unpack_from("<H", raw, 8)[0]
    floats = struct.unpack(f"<{(len(raw) - 10 - header) // 2}e", raw[10 + header:])
    return [floats[i:i + DIM] for i in range(0, len(floats), DIM)]


def load_jsonl(path: Path) -> list[dict]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as f:
        return [json.loads(line) for line in f]


def say(text: str = "") -> None:
    print(text, flush=True)


def ndjson(rows: range, vectors, payloads) -> bytes:
    return "".join(json.dumps({"id": i, "vector": vectors[i], "payload": payloads[i]}) + "\n" for i in rows).encode()


def post_rows(producer: Api, body: bytes) -> None:
    producer.call("POST", f"/collections/{COLLECTION}/points/bulk", body, {"Content-Type": "application/x-ndjson"})


def count(indexer: Api) -> int:
    status, text = indexer.request("POST", f"/collections/{COLLECTION}/points/count", {"exact": True})
    return json.loads(text)["result"]["count"] if status == 200 else 0


class Watch(threading.Thread):
    """Notes when a region has n points."""

    def __init__(self, name: str, url: str, n: int, since: float):
        super().__init__(daemon=True)
        self.region, self.api, self.n, self.since = name, Api(url), n, since
        self.took: float | None = None
        self.start()

    def run(self):
        wait_until(lambda: count(self.api) >= self.n, 60, f"{self.region} has {self.n} points", every_s=0.01)
        self.took = time.monotonic() - self.since

    def seconds(self) -> float:
        self.join()
        if self.took is None:
            raise RuntimeError(f"{self.region} did not get all {self.n} points within 60 s")
        return self.took


def load(eu, us, vectors, payloads) -> None:
    producer = Api(eu.producer.url)
    say(f"\nposting {ROWS} embeddings ({DIM} dimensions, with payload) to eu")
    half, rest = range(0, CODEC_ROWS), range(CODEC_ROWS, ROWS)
    bodies = [ndjson(rows, vectors, payloads) for rows in (half, rest)]
    start = time.monotonic()
    post_rows(producer, bodies[0])
    seconds = {w.region: w.seconds() for w in [Watch(r.name, r.indexer.url, len(half), start) for r in (eu, us)]}
    say(f"  the first {len(half)}, as float32 because the codec is trained on them:")
    say("    " + ", ".join(f"searchable in {name} {s:.2f} s after the first byte" for name, s in seconds.items()))
    wait_until(lambda: codec_in_use(producer), 60, "the codec is trained and published")
    before = wan_bytes(eu)
    start = time.monotonic()
    post_rows(producer, bodies[1])
    seconds = {w.region: w.seconds() for w in [Watch(r.name, r.indexer.url, ROWS, start) for r in (eu, us)]}
    say(f"  the other {len(rest)}, as codes:")
    say("    " + ", ".join(f"searchable in {name} {s:.2f} s after the first byte" for name, s in seconds.items()))
    bytes_each = (wan_bytes(eu) - before) / len(rest)
    payload_bytes = sum(len(json.dumps(payloads[i])) for i in rest) / len(rest)
    say(f"    {bytes_each:.0f} bytes a vector crossed from eu to us, payload included ({payload_bytes:.0f} bytes of JSON each); float32 alone is {4 * DIM}")


def codec_in_use(producer: Api) -> bool:
    return any(name == "antipode_producer_codec_in_use" and value > 0 for name, _, value in producer.metrics())


def wan_bytes(region) -> int:
    """Bytes that have left the region through the line before its WAN listener."""
    return region.world.delay.show()[region.name]["bytes_out"]


def ask(regions, questions) -> None:
    vector, payload = questions
    say(f"\nwhat is like \"{payload['name']}: {payload['summary']}\"? (it is not among the loaded)")
    for region in regions:
        api = Api(region.indexer.url)
        start = time.perf_counter()
        points = api.post(f"/collections/{COLLECTION}/points/query", {"query": vector, "limit": 5, "with_payload": True})["points"]
        ms = (time.perf_counter() - start) * 1000
        say(f"  {region.name} ({ms:.1f} ms)")
        for p in points:
            say(f"    {p['score']:.3f}  {p['payload']['name']:<24} {p['payload']['summary'][:70]}")


def single_point_times(eu, us, vector) -> None:
    """One point at a time, home and abroad."""
    producer, took = Api(eu.producer.url), {eu.name: [], us.name: []}
    readers = {r.name: Api(r.indexer.url) for r in (eu, us)}
    probe = 10_000_000
    for i in range(30):
        start = time.perf_counter()
        producer.put(f"/collections/{COLLECTION}/points", {"points": [{"id": probe + i, "vector": vector}]})
        for name, reader in readers.items():
            wait_until(lambda: reader.request("GET", f"/collections/{COLLECTION}/points/{probe + i}")[0] == 200, 20,
                       f"point {probe + i} is in {name}", every_s=0.0005)
            took[name].append((time.perf_counter() - start) * 1000)
    producer.post(f"/collections/{COLLECTION}/points/delete", {"points": [probe + i for i in range(30)]})
    for name, reader in readers.items():
        wait_until(lambda: count(reader) == ROWS, 20, f"the probes are deleted in {name}")
    say("\none point alone, from sending it until it is found: " +
        ", ".join(f"{name} {sorted(ms)[len(ms) // 2]:.1f} ms (median of {len(ms)})" for name, ms in took.items()))


def lags(region) -> dict[str, float]:
    """Of each origin, the partition that is furthest behind."""
    worst: dict[str, float] = {}
    for name, labels, value in Api(region.consumer.url).metrics():
        if name == "replication_lag_seconds":
            worst[labels["origin"]] = max(worst.get(labels["origin"], 0), value)
    return worst


def lag(regions) -> None:
    say("\nreplication lag, from heartbeats")
    for region in regions:
        say(f"  in {region.name}: " + ", ".join(f"{origin} {seconds:.2f} s" for origin, seconds in sorted(lags(region).items())))


def show(eu, us) -> None:
    data = paths.TEST_DATA
    vectors, payloads = load_npy_f16(data / "debian-4k.f16.npy"), load_jsonl(data / "debian-4k.jsonl.gz")
    q_vectors, q_payloads = load_npy_f16(data / "questions.f16.npy"), load_jsonl(data / "questions.jsonl")
    producer = Api(eu.producer.url)
    producer.put(f"/collections/{COLLECTION}", {"vectors": {"size": DIM, "distance": "Cosine"}})
    for region in (eu, us):
        wait_until(lambda: Api(region.indexer.url).request("GET", f"/collections/{COLLECTION}")[0] == 200, 60,
                   f"{region.name} knows the collection")
    load(eu, us, vectors, payloads)
    single_point_times(eu, us, q_vectors[0])
    say("\npoints: " + ", ".join(f"{r.name} {count(Api(r.indexer.url))}" for r in (eu, us)))
    for question in list(zip(q_vectors, q_payloads))[:2]:
        ask((eu, us), question)
    lag((eu, us))
    point = next((i for i, p in enumerate(payloads) if p["name"] == "gnuchess"), 0)
    say(f"""
try it: what is like "{payloads[point]['name']}: {payloads[point]['summary']}", asked in us
  curl -s {us.indexer.url}/collections/{COLLECTION}/points/query -d '{{"query":{point},"limit":5,"with_payload":["name","summary"]}}'""")
    addresses((eu, us))


def addresses(regions) -> None:
    say("\n        write here              read here (and write, passed on)   lag and health")
    for r in regions:
        say(f"  {r.name}    {r.producer.url}   {r.indexer.url}              {r.consumer.url}/metrics")
    say("\nThe regions go on running: ./dev status, ./dev logs, ./dev stop.")


def start() -> World:
    """The two regions, on the data that is there."""
    took = stopwatch()
    world = World(list(PORTS), PORTS, paths.DATA, paths.RUN, paths.LOGS, detached=True, delayed=True,
                  overrides={"producer": {"codec.train_rows": CODEC_ROWS, "codec.train_wait_ms": 100}})
    say("starting regions eu and us: Kafka, MirrorMaker 2, producer, consumer, indexer")
    world.start(say=lambda text: say(f"  {took():4.1f} s  {text}"))
    say(f"  {took():4.1f} s  ready")
    return world


def again() -> int:
    """./dev start: after ./dev stop, with the data of then."""
    if running():
        say("the regions run already: ./dev status")
        return 1
    if not paths.DATA.exists():
        say("there is no data to start with: ./dev demo makes it")
        return 1
    took, regions = stopwatch(), list(start())
    # Until a first heartbeat has crossed, nobody knows whether an origin has written meanwhile: lag is as long as the stop was.
    wait_until(lambda: all(seconds < LIVE_S for r in regions for seconds in lags(r).values()), 60, "each region hears the others")
    say(f"  {took():4.1f} s  each region hears the others")
    lag(regions)
    addresses(regions)
    return 0


def main(rest: list[str]) -> int:
    if rest:
        say("usage: ./dev demo")
        return 2
    if running():
        say("stopping what runs from before")
        stop_all(running())
    require_free(PORTS)  # before anything is removed
    if paths.DATA.exists():
        say("removing the data from before (./dev start keeps it)")
        wipe(paths.DATA)
    world = start()
    show(world["eu"], world["us"])
    return 0
