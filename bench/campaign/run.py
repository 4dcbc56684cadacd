"""The fault campaign: regions at a distance, clients that fight over the same points, faults one after another, and a judge.

    ./dev bench campaign [--seed N] [--minutes M] [--faults N] [--each N] [--regions eu,us,ap] [--only KIND,...]
    PYTHONPATH=tests python -m bench.campaign ...

Writes history.jsonl, rows.json, report.json and report.md into .antipode/campaign/<seed>; the report is printed as JSON,
progress goes to stderr. Exit code 0: the judge found nothing and every fault was recovered from.
"""
from __future__ import annotations

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from harness import paths  # noqa: E402
from harness.region import World, wipe  # noqa: E402
from harness.wait import Hopeless, Late, wait_until  # noqa: E402

from . import clients, disk, faults, report  # noqa: E402
from .clients import HOT  # noqa: E402
from .history import History, vector_of  # noqa: E402

DIM = 16
COLLECTIONS = [
    # exact: bit by bit the same vector everywhere, so the judge also ties each vector to its payload.
    {"name": "plain", "dim": DIM, "exact": True, "create": {"vectors": {"size": DIM, "distance": "Dot"}, "antipode": {"codec": "none", "raw": "none"}}},
    {"name": "coded", "dim": DIM, "exact": False, "create": {"vectors": {"size": DIM, "distance": "Euclid"}, "antipode": {"codec": "SQ8", "raw": "home"}}},
]
OVERRIDES = {
    "producer": {"request_timeout_ms": 5000, "codec.train_rows": 1000, "codec.train_wait_ms": 1000},
    "consumer": {},
    "indexer": {"index.hot_rows": 256},  # many sealed segments and merges, in minutes
}
APART_POINTS = 20
RECOVER_S = 120  # longest that the regions may take after a fault


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Plan:
    seed: int
    minutes: float = 10
    faults: int | None = None            # stop after so many, or when the minutes are over
    regions: tuple = ("eu", "us", "ap")
    clients: int = 4                     # per region, the one with batches among them
    rate: float = 12                     # operations a second of each client
    hot: int = HOT                       # ids a collection that half of the single writes go to, HOT at most: fewer, more conflicts
    far: tuple = (40, 120)               # one-way delay, ms
    only: tuple = ()                     # kinds of faults; empty: all
    unsafe: str = ""                     # protections that are switched off (ANTIPODE_UNSAFE)
    recover_s: float = RECOVER_S
    settle_s: float = 120               # longest that the judge waits for equal rows
    folder: Path = field(default=None)
    consumer: dict = field(default_factory=dict)  # more options of every consumer
    each: int = 0                        # go on until every kind has met 100 points in flight so often, or the minutes are over

    def command(self) -> str:
        out = f"./dev bench campaign --seed {self.seed} --minutes {self.minutes:g} --regions {','.join(self.regions)} --clients {self.clients} --rate {self.rate:g}"
        out += f" --hot {self.hot}" if self.hot != HOT else ""
        out += (f" --faults {self.faults}" if self.faults else "") + (f" --each {self.each}" if self.each else "")
        return out + (f" --only '{','.join(self.only)}'" if self.only else "") + (f" --unsafe {self.unsafe}" if self.unsafe else "")


class Campaign:
    def __init__(self, plan: Plan):
        self.plan, self.rng = plan, random.Random(plan.seed)
        self.folder = plan.folder or paths.STATE / "campaign" / str(plan.seed)
        env = {"ANTIPODE_UNSAFE": plan.unsafe} if plan.unsafe else {}
        self.world = World.for_tests(self.folder, list(plan.regions), delayed=True, overrides=OVERRIDES | {"consumer": OVERRIDES["consumer"] | plan.consumer}, env=env)
        self.kinds = {f.name: f for f in faults.FAULTS if not plan.only or f.name in plan.only}
        self.faults: list[dict] = []
        self.crew: list[clients.Client] = []

    # ---- the stage ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        for folder in disk.clear_left():
            say(f"unmounted {folder}, left by a campaign that is no more")
        wipe(self.folder)
        self.folder.mkdir(parents=True)
        if "full disk" in self.kinds and not all([disk.mount(r.store_path) for r in self.world]):
            say("small disks cannot be mounted here: \"full disk\" uses the bound of the store's file")
        say(f"seed {self.plan.seed}: starting {', '.join(self.plan.regions)}")
        self.world.start()
        for spec in COLLECTIONS:
            self.create(spec)
        self.urls = {r.name: {role: getattr(r, role).url for role in ("producer", "indexer", "consumer")} for r in self.world}
        self.history = History(self.folder / "history.jsonl")
        specs = [{k: c[k] for k in ("name", "dim", "exact")} for c in COLLECTIONS]
        clocks = [0, *faults.CLOCKS_MS]
        self.history.add("header", seed=self.plan.seed, command=self.plan.command(), regions=self.urls, collections=specs, offset_ms=[min(clocks), max(clocks)])
        self.crew = clients.crew(self.urls, specs, self.history, self.plan.seed, self.plan.clients, self.plan.rate, self.plan.hot)
        operations = clients.OPERATIONS
        self.probes = {name: clients.Client(f"probe-{name}", len(self.crew) + i, name, self.urls, specs, self.history, self.plan.seed, operations, 1)
                       for i, name in enumerate(self.plan.regions)}
        self.ground = faults.Ground(self.world, self.rng, self.crew, self.plan.far)
        self.ground.inside, self.ground.look, self.ground.apart = self.inside, self.look, self.apart
        self.ground.distances()

    def create(self, spec: dict) -> None:
        line = clients.Line(next(iter(self.world)).producer.url)
        status, answer, _ = line.ask("PUT", f"/collections/{spec['name']}", spec["create"], None)
        if status != 200:
            raise RuntimeError(f"{spec['name']} is not created: {answer}")
        line.close()
        for region in self.world:
            for url in (region.producer.url, region.indexer.url):
                wait_until(lambda: knows(url, spec["name"]), 60, f"{url} knows {spec['name']}")

    # ---- probes: is everybody back? ------------------------------------------------------------------------------

    def probe(self, name: str, end: float) -> None:
        """A write of that region, read with its token in every region."""
        client, spec = self.probes[name], {"name": "plain", "dim": DIM}

        def alive():
            self.ground.check()
            for process in self.world.processes():
                process.check()  # one that has ended by itself: Hopeless, with the end of its log

        def written():
            alive()
            before = client.acked
            client.write("upsert", [client.own_id()], spec=spec)
            return client.acked > before

        wait_until(written, max(0.1, end - time.monotonic()), f"{name} takes writes again", every_s=0.1)
        collection, ids, token = client.recent[-1]
        for region in self.plan.regions:
            def read():
                alive()
                outcome, _, _ = client.perform("retrieve", "session", region, "indexer", "POST", f"/collections/{collection}/points?timeout=5",
                                               {"ids": ids, "with_payload": True, "with_vector": False}, token, collection=collection, ids=ids)
                return outcome == "ok"
            wait_until(read, max(0.1, end - time.monotonic()), f"{region} shows what {name} writes", every_s=0.1)

    def apart(self) -> None:
        """One region writes points that nobody else ever touches, and another deletes half of them and patches the others. While
        nothing passes between them the later change is there first: its tombstone, or its key's version, has to wait for the older."""
        first, second = self.rng.sample(self.plan.regions, 2)
        ids = [clients.APART + len(self.faults) * APART_POINTS + i for i in range(APART_POINTS)]
        deleted, patched = ids[:APART_POINTS // 2], ids[APART_POINTS // 2:]
        spec = {"name": "plain", "dim": DIM}
        for point in ids:  # one by one: a token has the version of its write's last point
            self.probes[first].write("upsert", [point], spec=spec)
        for point in patched:
            self.probes[first].patch(point=point, spec=spec)
        for point in patched:
            self.probes[second].patch(point=point, spec=spec)
        for point in deleted:
            self.probes[second].write("delete", [point], spec=spec)

    def look(self, region: str, sessions: list[tuple]) -> int:
        """Session reads at a region, side by side: (collection, ids, token). Returns how many were answered in their second."""
        def one(session):
            collection, ids, token = session
            ids = ids[:20]
            client = clients.Client(f"look-{region}", 0, region, self.urls, [], self.history, 0, [], 1)
            outcome, _, _ = client.perform("retrieve", "session", region, "indexer", "POST", f"/collections/{collection}/points?timeout=1",
                                           {"ids": ids, "with_payload": True, "with_vector": False}, token, collection=collection, ids=ids)
            client.line(region, "indexer").close()
            return outcome == "ok"

        with ThreadPoolExecutor(16) as pool:
            return sum(pool.map(one, sessions))

    def recover(self, deadline_s: float) -> float:
        start = time.monotonic()
        for name in self.plan.regions:
            self.probe(name, start + deadline_s)
        return time.monotonic() - start

    # ---- faults ------------------------------------------------------------------------------------------------

    def inside(self) -> dict | None:
        """While a link is broken, four times in ten: another fault."""
        if self.rng.random() >= 0.4:
            return None
        fault = self.rng.choice([f for f in faults.FAULTS if f.inside])
        return {"kind": fault.name, **fault.strike(self.ground)}

    def one(self, fault: faults.Fault) -> dict:
        acked = self.ground.acked()
        self.ground.struck = None
        start = time.monotonic_ns()
        proof = fault.strike(self.ground)
        mended = time.monotonic()
        try:
            recovered = round(self.recover(self.plan.recover_s), 2)
        except (Late, Hopeless) as e:
            recovered, proof = None, {**proof, "not_recovered": str(e)}
        struck = self.ground.struck or {"points_in_flight": 0, "at": mended}
        out = {"kind": fault.name, "start": start, "end": time.monotonic_ns(), "lasted_s": round(mended - struck["at"], 2), "recover_s": recovered,
               "points_in_flight": struck["points_in_flight"], "points_during": self.ground.acked() - acked, "proof": proof}
        self.history.add("fault", n=len(self.faults) + 1, **out)
        self.faults.append(out)
        say(f"{len(self.faults):4} {fault.name}: lasted {out['lasted_s']} s, recovered in {recovered} s, {out['points_in_flight']} points in flight, {out['points_during']} during; {json.dumps(proof)}")
        return out

    def rounds(self):
        """Kinds of faults for ever: each once, in random order, then again."""
        while True:
            yield from self.rng.sample(list(self.kinds.values()), len(self.kinds))

    def enough(self) -> bool:
        if not self.plan.faults and not self.plan.each:
            return False
        struck = [f for f in self.faults if "skipped" not in f["proof"]]
        met = collections.Counter(f["kind"] for f in struck if f["points_in_flight"] >= faults.FLYING)
        return len(struck) >= (self.plan.faults or 0) and all(met[kind] >= self.plan.each for kind in self.kinds)

    def storm(self) -> None:
        for client in self.crew:
            client.start()
        wait_until(lambda: self.ground.check() or self.ground.acked() >= 500, 60, "the clients write")
        self.recover(self.plan.recover_s)
        end = time.monotonic() + 60 * self.plan.minutes
        for fault in self.rounds():
            if time.monotonic() >= end or self.enough():
                break
            if self.one(fault)["recover_s"] is None:
                break
            self.ground.hold(0, 0.5)

    # ---- the end -----------------------------------------------------------------------------------------------

    def finish(self) -> dict:
        self.world.delay.heal()
        for client in self.crew:
            client.stopping.set()
        for client in self.crew:
            client.finish()
        if not self.faults or self.faults[-1]["recover_s"] is not None:  # else that was waited for in vain already
            try:
                self.recover(self.plan.recover_s)  # behind everything else
            except (Late, Hopeless) as e:
                say(f"not recovered: {e}")
        self.history.close()
        say("judging")
        done = subprocess.run([sys.executable, "-m", "bench.campaign.checker", str(self.history.path), "--keep", str(self.folder / "rows.json"),
                               "--deadline", str(self.plan.settle_s)], cwd=ROOT, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError(f"the checker failed: {done.stderr[-2000:]}")
        made = report.make(self.plan.command(), self.history.path, self.faults, json.loads(done.stdout))
        (self.folder / "report.json").write_text(json.dumps(made, indent=1) + "\n")
        (self.folder / "report.md").write_text(report.markdown(made))
        return made

    def run(self) -> dict:
        try:
            with self.world:
                self.start()
                try:
                    self.storm()
                except BaseException:
                    for client in self.crew:
                        client.stopping.set()
                    raise
                return self.finish()
        finally:
            for region in self.world:
                disk.unmount(region.store_path)


def knows(url: str, name: str) -> bool:
    """A write of no points is refused only where the collection is unknown."""
    line = clients.Line(url)
    try:
        return line.ask("POST", f"/collections/{name}/points/delete", {"points": []}, None)[0] == 200
    finally:
        line.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--faults", type=int, help="stop after so many faults")
    parser.add_argument("--each", type=int, default=0, help="and not before every kind has struck so often with 100 points in flight; --minutes ends it anyway")
    parser.add_argument("--regions", default="eu,us,ap")
    parser.add_argument("--clients", type=int, default=4, help="per region; one of them writes batches")
    parser.add_argument("--rate", type=float, default=12, help="operations a second of each client")
    parser.add_argument("--hot", type=int, choices=range(1, HOT + 1), default=HOT, help="ids a collection that half of the single writes go to")
    parser.add_argument("--only", default="", help="kinds of faults, separated by commas")
    parser.add_argument("--unsafe", default="", help="protections that the daemons switch off: see docs/campaign.md")
    args = parser.parse_args()
    only = tuple(part.strip() for part in args.only.split(",") if part.strip())
    known = [f.name for f in faults.FAULTS]
    if set(only) - set(known):
        parser.error(f"--only: the kinds are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that regions and mounts are cleaned up
    plan = Plan(args.seed, args.minutes, args.faults, tuple(args.regions.split(",")), args.clients, args.rate, only=only, unsafe=args.unsafe, each=args.each, hot=args.hot)
    made = Campaign(plan).run()
    print(json.dumps(made, indent=1))
    say(f"\n{report.markdown(made)}\n{(plan.folder or paths.STATE / 'campaign' / str(plan.seed)).relative_to(ROOT)}/")
    return 0 if made["ok"] else 1
