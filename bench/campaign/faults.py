"""Faults: what is done to the regions, each with the proof that it bit.

A fault is one row of FAULTS: a name, and a function that strikes, holds, mends, and returns its proof. Around it the
campaign notes the points in flight at the strike, the writes while it lasted, and the time to recover: from the mending
until a new write of every region is read in every other one with its token. Everything random comes from the campaign's
seed. Faults run on the main thread, one after another; some strike a second time inside (Campaign.inside).
"""
from __future__ import annotations

import contextlib
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from confluent_kafka import Consumer, Producer, TopicPartition
from harness import paths
from harness.api import Api
from harness.region import Region, World
from harness.wait import Late, wait_until

from . import disk

MUTATIONS = "vec-mutations"
CLOCKS_MS = (-5000, -2000, -500, 500, 2000, 5000)
READY_S = 90
FLYING = 100  # points in flight that a fault wants to meet


class Ground:
    """What faults may use: the world, the dice, and what the clients are doing."""

    def __init__(self, world: World, rng: random.Random, crew: list, far: tuple[float, float]):
        self.world, self.rng, self.crew, self.far = world, rng, crew, far
        self.struck: dict | None = None  # set by strike()

    def region(self) -> Region:
        return self.world[self.rng.choice(self.world.names)]

    def others(self, region: Region) -> list[Region]:
        return [r for r in self.world if r is not region]

    def strike(self, region: Region | None = None) -> None:
        """Called right before something is broken: returns when so many points are under way in that region (or in all
        together), or after a moment when they are not."""
        end = time.monotonic() + 3
        wait_until(lambda: self.in_flight(region) >= FLYING or time.monotonic() >= end, 5, "points are in flight", every_s=0.001)
        self.struck = self.struck or {"points_in_flight": self.in_flight(region), "at": time.monotonic()}

    def in_flight(self, region: Region | None = None) -> int:
        return sum(c.pending for c in self.crew if region is None or c.home == region.name)

    def acked(self) -> int:
        return sum(c.acked for c in self.crew)

    def check(self) -> None:
        for c in self.crew:
            if c.error is not None:
                raise RuntimeError(f"client {c.client}") from c.error

    def hold(self, least_s: float, most_s: float) -> float:
        """Lets the regions live with the fault for a while."""
        seconds = self.rng.uniform(least_s, most_s)
        end = time.monotonic() + seconds
        wait_until(lambda: self.check() or time.monotonic() >= end, seconds + 5, "the fault has been held")
        return seconds

    def distances(self) -> dict:
        """New one-way delays, each way of each line its own."""
        out = {}
        for region in self.world:
            ways = {"in_ms": round(self.rng.uniform(*self.far)), "out_ms": round(self.rng.uniform(*self.far)), "jitter_ms": round(self.rng.uniform(0, 20))}
            self.world.delay.set(region.name, **ways)
            out[region.name] = ways
        return out

    def total(self, name: str, regions=None, **labels) -> float:
        """Of the consumers' metrics; one that does not answer counts as nothing."""
        total = 0.0
        for region in regions or self.world:
            try:
                total += region.consumer.metric(name, **labels)
            except OSError:
                pass
        return total

    def arrived(self, region: Region) -> int:
        """Records in a region's mutation topics, its own and the others' copies."""
        return sum(sum(region.kafka.end_offsets(t).values()) for t in (MUTATIONS, *(f"{o.name}.{MUTATIONS}" for o in self.others(region))))

    def waiting(self, source: Region, target: Region) -> int:
        """Records of source that target's copy does not hold yet; less than that where some were copied twice."""
        return sum(source.kafka.end_offsets(MUTATIONS).values()) - sum(target.kafka.end_offsets(f"{source.name}.{MUTATIONS}").values())


# ---- processes -----------------------------------------------------------------------------------------------------------

def _died(ground: Ground, region: Region, process, restart: Callable[[], object], held: tuple[float, float] = (0, 1.5)) -> dict:
    pid, failed = process.pid, sum(c.failed for c in ground.crew)
    ground.strike(region)
    process.kill()
    seconds = ground.hold(*held)
    restart()
    return {"killed_pid": pid, "down_s": round(seconds, 2), "requests_failed": sum(c.failed for c in ground.crew) - failed}


def kill_daemon(role: str):
    def fault(ground: Ground) -> dict:
        region = ground.region()
        daemon, before = getattr(region, role), ground.arrived(region)
        more = {}

        def restart():
            more["records_meanwhile"] = ground.arrived(region) - before
            daemon.start().wait_ready(READY_S)

        return {"region": region.name, **_died(ground, region, daemon.process, restart), **more}
    return fault


def consumer_between_commits(ground: Ground) -> dict:
    """The consumer kills itself after the store's commit, before anything else learns of it."""
    region, batch = ground.region(), ground.rng.randrange(1, 30)
    daemon = region.consumer
    daemon.stop()
    daemon.process.env = {**daemon.process.env, "ANTIPODE_CRASH": f"after_store_commit:{batch}"}
    try:
        daemon.start()
        pid = daemon.process.pid
        ground.strike()
        wait_until(lambda: not daemon.alive(), 60, "the consumer has killed itself")
    finally:
        daemon.process.env = {k: v for k, v in daemon.process.env.items() if k != "ANTIPODE_CRASH"}
    code = daemon.process.exit_code
    daemon.start().wait_ready(READY_S)
    return {"region": region.name, "killed_pid": pid, "exit": code, "after_commit": batch}


def freeze_daemon(ground: Ground) -> dict:
    """SIGSTOP: it is there and answers nothing."""
    region = ground.region()
    process = ground.rng.choice([*(d.process for d in region.daemons), region.mirror.process])
    failed, acked = sum(c.failed for c in ground.crew), ground.acked()
    ground.strike(region)
    process.freeze()
    try:
        seconds = ground.hold(1, 4)
    finally:
        process.thaw()
    return {"region": region.name, "what": process.name, "frozen_s": round(seconds, 2), "requests_failed": sum(c.failed for c in ground.crew) - failed,
            "acked_meanwhile": ground.acked() - acked}


def restart_broker(ground: Ground) -> dict:
    region, hard = ground.region(), ground.rng.random() < 0.5
    acked = lambda: sum(c.acked for c in ground.crew if c.home == region.name)
    failed = sum(c.failed for c in ground.crew)
    ground.strike(region)
    region.kafka.kill() if hard else region.kafka.stop()
    down, last = time.monotonic(), acked()
    ground.hold(0, 2)
    meanwhile = acked() - last
    region.kafka.start().wait_ready(READY_S)
    wait_until(lambda: ground.check() or acked() > last + meanwhile, READY_S, f"{region.name} acknowledges again")
    return {"region": region.name, "how": "kill -9" if hard else "stop", "acked_while_down": meanwhile, "silent_s": round(time.monotonic() - down, 2),
            "requests_failed": sum(c.failed for c in ground.crew) - failed}


def kill_mirror(ground: Ground) -> dict:
    region = ground.region()
    before = {o.name: ground.waiting(o, region) for o in ground.others(region)}
    duplicates = ground.total("antipode_consumer_duplicates_total", [region])
    blocked = {}

    def restart():
        blocked.update({o.name: ground.waiting(o, region) - before[o.name] for o in ground.others(region)})
        region.mirror.start()

    proof = _died(ground, region, region.mirror.process, restart, (1, 5))
    wait_until(lambda: all(ground.waiting(o, region) <= before[o.name] + 50 for o in ground.others(region)), READY_S, f"the mirror of {region.name} has caught up")
    return {"region": region.name, **proof, "records_blocked": blocked, "duplicates": ground.total("antipode_consumer_duplicates_total", [region]) - duplicates}


# ---- links -----------------------------------------------------------------------------------------------------------------

def _link(ground: Ground, names: list[str], break_: Callable, mend: Callable, held: tuple[float, float], inside=None) -> dict:
    """Breaks the way out of the named regions. Proof: nothing passed, records piled up."""
    pairs = [(ground.world[n], t) for n in names for t in ground.others(ground.world[n])]
    before, whole = [ground.waiting(*p) for p in pairs], ground.world.delay.show()
    ground.strike(ground.world[names[0]] if len(names) == 1 else None)
    break_()
    try:
        passed = ground.world.delay.show()
        seconds = ground.hold(*held)
        more = inside() if inside else None
        shown = ground.world.delay.show()
        blocked = {f"{s.name}>{t.name}": ground.waiting(s, t) - b for (s, t), b in zip(pairs, before)}
    finally:
        mend()
    out = {"regions": names, "held_s": round(seconds, 2), "records_blocked": blocked,
           "bytes_passed": sum(shown[n]["bytes_out"] - passed[n]["bytes_out"] for n in names),
           "connections_cut": sum(whole[n]["open"] - shown[n]["open"] for n in names)}
    return out | ({"inside": more} if more else {})


def part_one_way(ground: Ground) -> dict:
    """What one region writes does not leave it; what the others write still comes in."""
    name = ground.region().name
    delay = ground.world.delay
    return _link(ground, [name], lambda: delay.part(name), lambda: delay.heal(name), (2, 6), ground.inside)


def part_all(ground: Ground) -> dict:
    """Both ways, everybody from everybody. Meanwhile one region deletes and patches what another has written."""
    delay = ground.world.delay

    def part():
        delay.part()
        ground.apart()

    return _link(ground, ground.world.names, part, delay.heal, (2, 6), ground.inside)


def stall(ground: Ground) -> dict:
    """The connections stay, nothing moves."""
    names = ground.rng.choice([[ground.region().name], ground.world.names])
    delay = ground.world.delay
    return _link(ground, names, lambda: [delay.stall(n) for n in names], lambda: [delay.resume(n) for n in names], (2, 5), ground.inside)


def flapping(ground: Ground) -> dict:
    name, delay, times = ground.region().name, ground.world.delay, ground.rng.randrange(4, 9)
    before = delay.show()[name]["connections"]
    ground.strike(ground.world[name])
    for _ in range(times):
        delay.part(name)
        ground.hold(0.1, 0.5)
        delay.heal(name)
        ground.hold(0.1, 1.0)
    return {"regions": [name], "times": times, "connections_made_anew": delay.show()[name]["connections"] - before}


def slow_link(ground: Ground) -> dict:
    """New distances for all, and a line of one region that is too narrow for what it has to carry."""
    name, delay = ground.region().name, ground.world.delay
    distances, limit = ground.distances(), ground.rng.choice((2000, 5000, 10000))
    proof = _link(ground, [name], lambda: delay.set(name, bytes_per_s=limit), lambda: delay.set(name, bytes_per_s=0), (2, 6))
    return proof | {"bytes_per_s": limit, "distances": distances}


# ---- topics ----------------------------------------------------------------------------------------------------------------

def _tail(source: Region, most: int) -> list:
    """The newest records of each partition of source's mutations, at most so many, in order."""
    reader = Consumer({"bootstrap.servers": source.bootstrap, "group.id": "campaign", "enable.auto.commit": False, "log_level": 0})
    try:
        ends = source.kafka.end_offsets(MUTATIONS)
        starts = {p: max(0, end - most) for p, end in ends.items() if end}
        reader.assign([TopicPartition(MUTATIONS, p, at) for p, at in starts.items()])
        out, left, end = [], set(starts), time.monotonic() + 30
        while left and time.monotonic() < end:
            for message in reader.consume(1000, timeout=1):
                if not message.error() and message.offset() < ends[message.partition()]:
                    out.append(message)
                if not message.error() and message.offset() >= ends[message.partition()] - 1:
                    left.discard(message.partition())
        return out
    finally:
        reader.close()


def _send(source: Region, target: Region, messages: list) -> None:
    writer = Producer({"bootstrap.servers": target.bootstrap, "acks": "all", "linger.ms": 5, "log_level": 0})
    for m in messages:
        writer.produce(f"{source.name}.{MUTATIONS}", m.value(), m.key(), m.partition(), headers=m.headers(), timestamp=m.timestamp()[1])
        writer.poll(0)
    if writer.flush(30):
        raise RuntimeError(f"{target.name} does not take a copy of {source.name}'s records")


def second_copy(ground: Ground) -> dict:
    """The newest records once more, in order, as from a mirror that lost its offsets."""
    target = ground.region()
    source = ground.rng.choice(ground.others(target))
    before = ground.total("antipode_consumer_duplicates_total", [target], origin=source.name)
    ground.strike()
    messages = _tail(source, 1000)
    _send(source, target, messages)
    skipped = lambda: ground.total("antipode_consumer_duplicates_total", [target], origin=source.name) - before
    wait_until(lambda: skipped() >= 0.9 * len(messages), 60, "the second copy is skipped as duplicates")
    return {"region": target.name, "origin": source.name, "copied": len(messages), "duplicates": skipped()}


def disorder(ground: Ground) -> dict:
    """With the mirror down, what it had still to bring comes newest first and shuffled, and sessions come over from the
    origin while the older part is missing; then the mirror brings it all again."""
    target = ground.region()
    source = ground.rng.choice(ground.others(target))
    name = {"regions": [target], "origin": source.name}
    duplicates, late = (ground.total(f"antipode_consumer_{k}_total", **name) for k in ("duplicates", "late"))
    ground.strike()
    target.mirror.kill()
    ground.hold(0.5, 1.5)
    sessions = [s for c in ground.crew if c.home == source.name for s in list(c.recent)[-4:]]  # acknowledged, so among what is copied
    messages = _tail(source, 400)
    newest = {p: max(m.offset() for m in messages if m.partition() == p) for p in {m.partition() for m in messages}}
    first = [m for m in messages if m.offset() > newest[m.partition()] - 40]
    rest = [m for m in messages if m.offset() <= newest[m.partition()] - 40]
    ground.rng.shuffle(first)
    ground.rng.shuffle(rest)
    _send(source, target, first)
    peak = 0

    def holes():
        nonlocal peak
        peak = max(peak, ground.total("antipode_consumer_hole_records", **name))
        return time.monotonic() >= end

    end = time.monotonic() + ground.rng.uniform(0.5, 2)
    answered = ground.look(target.name, sessions)
    wait_until(holes, 10, "the holes have been seen")
    _send(source, target, rest)
    target.mirror.start()
    return {"region": target.name, "origin": source.name, "copied": len(messages), "missing_at_peak": peak, "session_reads_meanwhile": len(sessions), "of_these_answered": answered,
            "late": ground.total("antipode_consumer_late_total", **name) - late,
            "duplicates": ground.total("antipode_consumer_duplicates_total", **name) - duplicates}


def truncated_topic(ground: Ground) -> dict:
    """With the mirror down, what it had still to bring is purged at the origin, as by retention. Sessions come over from the
    origin while the target has holes; `antipode verify --repair` brings the rows and closes the holes."""
    target = ground.region()
    source = ground.rng.choice(ground.others(target))
    others = ground.others(source)  # a mirror that is merely slow may lose records, too
    missing = lambda: sum(int(r.consumer.metric("antipode_consumer_hole_records", origin=source.name)) for r in others)
    given_up = lambda: sum(int(r.consumer.metric("antipode_consumer_given_up_records", origin=source.name)) for r in others)
    written = lambda: source.kafka.end_offsets(MUTATIONS)
    before, closed = written(), given_up()
    ground.strike(source)
    target.mirror.kill()
    ground.hold(1, 3)
    sessions = [s for c in ground.crew if c.home == source.name for s in list(c.recent)[-4:]]
    ends = written()
    at_home = lambda p: source.consumer.metric("wal_commit_index", topic=MUTATIONS, partition=str(p))
    wait_until(lambda: all(at_home(p) >= end for p, end in ends.items()), 60, f"{source.name} itself has what is purged")
    for purged in source.kafka.admin.delete_records([TopicPartition(MUTATIONS, p, end) for p, end in ends.items()]).values():
        purged.result(10)
    target.mirror.start()
    wait_until(lambda: ground.check() or missing() > 0, READY_S, f"{target.name} misses what {source.name} has purged")
    answered = ground.look(target.name, sessions)
    peak, began, runs = missing(), time.monotonic(), []

    def repaired():
        nonlocal peak
        peak = max(peak, missing())
        command = [paths.binary("antipode"), "verify", *(r.indexer.url for r in (source, *others)), "--repair"]
        runs.append(subprocess.run(command, capture_output=True, text=True, timeout=READY_S))
        return missing() == 0

    try:
        wait_until(repaired, READY_S, f"the holes in {source.name}'s streams are closed", every_s=0.5)
    except Late as e:
        said = f"{runs[-1].stdout[-2000:]}{runs[-1].stderr[-2000:]}" if runs else ""
        raise RuntimeError(f"{e}\n{said}") from e
    return {"region": target.name, "origin": source.name, "records_meanwhile": sum(ends.values()) - sum(before.values()), "missing_at_peak": peak,
            "session_reads_meanwhile": len(sessions), "of_these_answered": answered, "given_up": given_up() - closed,
            "repair_s": round(time.monotonic() - began, 2), "repair_runs": len(runs)}


# ---- disks, clocks, files --------------------------------------------------------------------------------------------------------

LEAST_MAP = 1 << 20
FULL = {True: "free space there", False: "its map of"}  # what the consumer says, on a small disk and without one


FILLER_S, FILLER_BYTES, FILLER_POINTS = 5, 4000, 500


def _fill(ground: Ground, region, until) -> int:
    """Points that nobody judges, of a collection of their own, until until(): a store takes new rows into pages that deleted ones
    have left, and may need none of the disk for minutes."""
    api, name, posted = Api(region.producer.url, READY_S), f"filler-{ground.rng.getrandbits(32):08x}", 0
    payload = {"filler": "x" * FILLER_BYTES}
    api.put(f"/collections/{name}", {"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "none", "raw": "none"}})
    deadline = time.monotonic() + READY_S
    try:
        while not until() and time.monotonic() < deadline:
            ground.check()
            api.put(f"/collections/{name}/points", {"points": [{"id": posted + i, "vector": [1, 2, 3, 4], "payload": payload} for i in range(FILLER_POINTS)]})
            posted += FILLER_POINTS
    finally:
        api.request("DELETE", f"/collections/{name}")
    return posted


def full_disk(ground: Ground) -> dict:
    """No room for the store: the consumer stops, and says so; then there is room again, and it is started."""
    region, more = ground.region(), {}
    daemon, small = region.consumer, disk.is_small(region.store_path)
    failed, before = sum(c.failed for c in ground.crew), ground.arrived(region)
    if not small:
        daemon.stop()
    ground.strike(region)
    began = time.monotonic()
    try:
        if small:
            more["ballast_bytes"] = disk.fill(region.store_path)
        else:
            more["map_bytes"] = max(LEAST_MAP, (region.store_path / "data.mdb").stat().st_size + (64 << 10))
            daemon.start(store__map_bytes=more["map_bytes"])
        with contextlib.suppress(Late):
            wait_until(lambda: ground.check() or not daemon.alive(), FILLER_S, "the store needs room")
        more["filler_points"] = _fill(ground, region, lambda: not daemon.alive())
        wait_until(lambda: ground.check() or not daemon.alive(), 60, f"the consumer of {region.name} stops without room")
        more["stopped_after_s"] = round(time.monotonic() - began, 2)
        last = daemon.process.tail(3)
        if daemon.process.exit_code != 1 or FULL[small] not in last:
            raise RuntimeError(f"the consumer of {region.name} ended with {daemon.process.exit_code} for want of room: {last}")
        more["full_s"] = round(more["stopped_after_s"] + ground.hold(0, 1.5), 2)
    finally:
        disk.make_room(region.store_path)
        daemon.overrides.pop("store.map_bytes", None)
    more["records_meanwhile"] = ground.arrived(region) - before
    daemon.start().wait_ready(READY_S)
    return {"region": region.name, "exit": 1, "noticed": next(line for line in reversed(last.splitlines()) if FULL[small] in line)[-300:],
            "requests_failed": sum(c.failed for c in ground.crew) - failed, **more}


def clock_set_off(ground: Ground) -> dict:
    """A producer that comes back with another idea of the time."""
    region, offset = ground.region(), ground.rng.choice(CLOCKS_MS)
    producer = region.producer
    was = producer.overrides.get("clock.offset_ms", 0)
    proof = _died(ground, region, producer.process, lambda: producer.start(clock__offset_ms=offset).wait_ready(READY_S), (0, 0.5))
    return {"region": region.name, **proof, "offset_ms": offset, "was_ms": was}


def torn_segment(ground: Ground) -> dict:
    """A sealed segment's file, cut or with a byte changed, under an indexer that was killed."""
    having = [r for r in ground.world if segments(r)]
    if not having:
        return {"skipped": "no segment is sealed yet"}
    region = ground.rng.choice(having)
    ground.strike(region)
    region.indexer.kill()
    file = ground.rng.choice(segments(region))
    data, how = bytearray(file.read_bytes()), ground.rng.choice(("cut", "one byte"))
    at = ground.rng.randrange(len(data))
    if how == "cut":
        del data[at:]
    else:
        data[at] ^= 1 << ground.rng.randrange(8)
    file.write_bytes(data)
    region.indexer.start().wait_ready(READY_S)
    lines = [line for line in region.indexer.process.log_text().splitlines() if file.name in line]
    return {"region": region.name, "file": file.name, "how": how, "at_byte": at, "noticed": lines[-1][-200:] if lines else None}


def segments(region: Region) -> list[Path]:
    folder = region.data_dir / "index"
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix == ".seg" and p.stat().st_size)


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[Ground], dict]
    inside: bool = False  # short enough to strike while a link is broken


FAULTS = [
    Fault("kill producer", kill_daemon("producer"), inside=True),
    Fault("kill consumer", kill_daemon("consumer"), inside=True),
    Fault("kill indexer", kill_daemon("indexer"), inside=True),
    Fault("consumer dies between commits", consumer_between_commits),
    Fault("freeze a process", freeze_daemon),
    Fault("restart broker", restart_broker),
    Fault("kill MirrorMaker", kill_mirror),
    Fault("partition one way", part_one_way),
    Fault("partition all ways", part_all),
    Fault("stalled link", stall),
    Fault("flapping link", flapping),
    Fault("narrow link", slow_link),
    Fault("records mirrored twice", second_copy),
    Fault("records out of order", disorder),
    Fault("truncated topic", truncated_topic),
    Fault("full disk", full_disk),
    Fault("producer clock off", clock_set_off, inside=True),
    Fault("torn segment file", torn_segment),
]
