"""The part footprint of ./dev bench: memory a vector, by what it is, and how much of it a region cannot do without.

One region, PQ48 of 384 dimensions, raw vectors not kept. The codec is trained on rows of the same kind, which are then deleted. PSS (shared pages split among those who share them) of the three daemons, over all points: all of it, and what they have grown by since
they stood there empty, just started. Twice, after everything is sealed, and while a thousand searches run (the most that was seen). Kinds, from /proc/PID/smaps:

    anonymous   what the daemons allocated: maps of ids, live bits, buffers, FAISS's structures. Nobody takes it away
    segments    files of the index (.seg, .idx); store: data.mdb. Clean pages of files, which the kernel takes away when it wants memory
    program     code and libraries

Where this process may make a memory cgroup (version 1) below its own, the daemons run in it, and are then asked again with less and
less memory, pages of files included: what a region needs, at what latency.
"""
from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from harness.api import Api
from harness.region import Region, World, wipe
from harness.wait import wait_until
from kit import post_npy, say, settled, tool
from scale import TRAIN, make_data, trained

TOO_SLOW_MS = 20  # with less memory than that it would only become worse
VARIANTS = {
    "default": {},
    "small": {"indexer": {"index.small": "*"}},
    "small, mapped_bytes": {"indexer": {"index.small": "*", "store.mapped_bytes": 16 << 20}, "consumer": {"store.mapped_bytes": 4 << 20}},
    "IVF1024,PQ48": {"indexer": {"index.sealed_factory": "IVF1024,PQ48"}},
}


def kind_of(path: str) -> str:
    if path.endswith(("data.mdb", "lock.mdb")):
        return "store"
    if path.endswith((".seg", ".idx", ".seg.new", ".idx.new")):
        return "segments"
    return "program" if path.startswith("/") else "anonymous"


def by_kind(region: Region) -> dict[str, int]:
    """Bytes (PSS) of the three daemons together."""
    out = dict.fromkeys(("anonymous", "segments", "store", "program"), 0)
    for daemon in region.daemons:
        kind = "anonymous"
        for line in Path(f"/proc/{daemon.process.pid}/smaps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if not fields[0].endswith(":"):
                kind = kind_of(fields[5] if len(fields) == 6 else "")
            elif fields[0] == "Pss:":
                out[kind] += int(fields[1]) * 1024
    return out


class Watch:
    """The most that is seen of each kind, and of all together, while it runs."""

    def __init__(self, region: Region):
        self.region, self.most, self.together = region, {}, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.over.wait(0.05):
            now = by_kind(self.region)
            if sum(now.values()) > self.together:
                self.most, self.together = now, sum(now.values())

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.over.set()
        self.thread.join()


class Cgroup:
    """A memory cgroup below this process's own, or nothing where there is none to be had."""

    def __init__(self):
        self.path = None
        line = next((one for one in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in one), None)
        if line:
            path = Path("/sys/fs/cgroup/memory") / line.split(":", 2)[2].lstrip("/") / f"antipode-footprint-{os.getpid()}"
            try:
                path.mkdir()
                self.path = path
            except OSError as e:
                say(f"  no memory cgroup, so nothing is asked with less memory: {e}")

    def wrapper(self) -> list[str]:
        return ["/bin/sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"] if self.path else []

    def limit(self, size: int) -> bool:
        """False: what is there cannot be had for less."""
        try:
            (self.path / "memory.limit_in_bytes").write_text(str(size))
            return True
        except OSError:
            return False

    def used(self) -> int:
        return int((self.path / "memory.usage_in_bytes").read_text())

    def end(self) -> None:
        if self.path:
            self.path.rmdir()


def a_vector(kinds: dict[str, int], empty: dict[str, int], points: int) -> dict:
    grown = {kind: round((n - empty[kind]) / points, 1) for kind, n in kinds.items()}
    return {"bytes_a_vector": round((sum(kinds.values()) - sum(empty.values())) / points, 1), "of": grown, "and_empty": round(sum(kinds.values()) / points, 1)}


def rested(region: Region) -> bool:
    """For three seconds the indexer has done nothing: what could be merged is merged."""
    spent = [region.indexer.process.cpu_seconds()]
    for _ in range(3):
        time.sleep(1)
        spent.append(region.indexer.process.cpu_seconds())
    return spent[-1] - spent[0] < 0.15


def in_less(group: Cgroup, ask, points: int) -> list[dict]:
    """The same searches with so many bytes a vector for all, pages of files and the kernel's own included."""
    out = []
    for each in (500, 300, 200, 150, 125):
        if not group.limit(each * points):
            out.append({"bytes_a_vector": each, "impossible": "more than that cannot be given back"})
            break
        used = round(group.used() / points, 1)
        ask(20)  # what it needs for them comes back from the disk
        out.append({"bytes_a_vector": each, "used": used, "queries": ask(100)})
        if out[-1]["queries"]["p50_ms"] > TOO_SLOW_MS:
            break
    group.limit(-1)
    return out


def one(folder: Path, data: dict[str, Path], rows: int, settings: dict) -> dict:
    wipe(folder)
    group = Cgroup()
    try:
        return measured(folder, data, rows, settings, group)
    finally:
        group.end()


def measured(folder: Path, data: dict[str, Path], rows: int, settings: dict, group: Cgroup) -> dict:
    with World.for_tests(folder, ["eu"], jit="c1", overrides=settings) as world:
        eu = world["eu"]
        for daemon in eu.daemons:
            daemon.wrapper = group.wrapper()
        world.start()
        empty = by_kind(eu)
        trained(world, "footprint", 384, "none", "PQ48", data["train"], "?first_id=10000000")
        Api(eu.producer.url, 60).post("/collections/footprint/points/delete", {"points": list(range(10_000_000, 10_000_000 + TRAIN))})
        wait_until(lambda: settled(eu, "footprint", 0), 60, "the rows that the codec was trained on are gone")
        post_npy(eu.producer.url, "footprint", data["base"], "?first_id=0")
        wait_until(lambda: settled(eu, "footprint", rows), 600, "all is sealed")
        wait_until(lambda: rested(eu), 600, "segments have been merged")

        def ask(count: int) -> dict:
            return tool("query", "--url", eu.indexer.url, "--collection", "footprint", "--truth", data["truth"], "--queries", data["queries"], "--count", count)

        sealed = by_kind(eu)
        with Watch(eu) as watch:
            queries = ask(1000)
        out = {"empty_mb": {kind: round(n / 1e6, 1) for kind, n in empty.items()}, "sealed": a_vector(sealed, empty, rows),
               "searched": a_vector(watch.most, empty, rows), "queries": queries, "by_daemon_mb": {k: round(v / 1e6, 1) for k, v in eu.pss_bytes().items()}}
        if group.path:
            out["with_all_files_pages"] = round(group.used() / rows, 1)
            out["in_less"] = in_less(group, ask, rows)
        return out


def footprint(folder: Path, rows: int) -> dict:
    """PSS of one region's three daemons, per vector, after loading, merging and a thousand searches."""
    data = make_data(folder, rows, 384)
    out = {"rows": rows}
    for name, settings in VARIANTS.items():
        out[name] = one(folder / "footprint", data, rows, settings)
        say(f"  {name}: {out[name]}")
    return out


SHOULD = {"footprint": "searched.bytes_a_vector <= 150"}
