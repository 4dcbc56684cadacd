"""The rules. Takes a history and what every region holds in the end; gives violations. Reads nothing, asks nobody.

A write has a version that lies between two bounds. For an acknowledged write of one point both are the version in its
token. For one of several points the token names the newest of them, and the oldest possible follows from the clocks. A
write that failed or timed out may have happened, with a version up to the latest that a clock could show by then, or not.
Whatever a query shows as a point's version narrows the bounds of the write it came from. Then:

    a value is too old    an acknowledged write of its point has a lower bound above the value's upper bound
    an absence is right   a delete (not refused) has an upper bound at or above the lower bound of every acknowledged upsert

A delete by filter has the version of the upsert it names, and ends that one and no other: in the order of versions it stands
right behind it. The key "note" of a point is a register of its own: upserts and patches write it, of which the newest counts;
deletes say nothing about it, since the point is gone then. All rules hold for points and for notes.

In the end, in every region:
    lost           the value is too old, and what should be there is a newer upsert; or a live point is absent
    resurrected    the value is too old, and a newer delete should have ended it
    doubled        an id is listed twice, or the exact count differs from the list
    invented       a value that nobody wrote, or that was written to another point
    ghost          the value of a write that was refused
    torn           the vector is not the one of the payload's write
    key            a note is too old, or missing, or nobody's
    unequal        two regions differ in a row (exact: vectors bit by bit; else only whether there is one)
    hole           a region misses records and says so itself
All along:
    session        a read with a token shows less than the writes the token covers
    visible        a read shows less than a write that this region had answered as completed before
    strong         a strong read shows less than a write that was acknowledged, anywhere, before the read began
    bounded        a bounded read shows less than a write that was acknowledged so long before
    causal         a write with a token got a version not newer than the token
    position       two writes got the same position, or two writes of a point the same version
    version        a point's version in a query is not that of the write it shows
    clock          a version outside of what the clocks could show
    future         a read shows a write that began after it
    refused        a 4xx: the campaign sends nothing that deserves one
A read that fails or is refused for its deadline is no violation; how many there were is in the counts.
"""
from __future__ import annotations

import bisect
import collections
import itertools
from dataclasses import dataclass

from . import history, token

KINDS = ("lost", "resurrected", "doubled", "invented", "ghost", "torn", "key", "unequal", "hole", "session", "visible", "strong", "bounded",
         "causal", "position", "version", "clock", "future", "refused")
SLACK_MS = 15_000  # longest that a request can wait, beyond its client's patience, before it is stamped
SHOWN_DROPS = 5    # a query's version is the hlc without its lowest bits (indexer/api_answer.c)
LOWEST, HIGHEST = b"", b"\xff" * 16


@dataclass(eq=False, slots=True)
class Write:
    op: dict
    point: object
    mark: str | None  # None: a delete, of the point or of its note
    low: tuple
    high: tuple
    token: token.Token | None

    @property
    def acked(self) -> bool:
        return self.op["outcome"] == "ok"

    @property
    def exact(self) -> bool:
        return self.low == self.high

    def __str__(self) -> str:
        what = f"{self.op['op']} {self.mark or ''}".strip() + (f" of {self.op['seen']}" if "seen" in self.op else "")
        when = f"version {self.low[0]:x}" if self.exact else f"version {self.low[0]:x}..{self.high[0]:x}"
        return f"#{self.op['n']} {what} ({self.op['client']}, {self.op['outcome']}, {when})"


class Ranks:
    """Of acknowledged writes in some order (by seq, by end): the one with the greatest lower bound among the first ones."""

    def __init__(self):
        self.items: list[tuple] = []

    def add(self, at, write: Write) -> None:
        self.items.append((at, write))

    def seal(self) -> "Ranks":
        self.items.sort(key=lambda i: i[0])
        self.at = [i[0] for i in self.items]
        best = lambda a, b: b if a is None or b.low > a.low else a
        self.best = list(itertools.accumulate((w for _, w in self.items), best))
        return self

    def newest_up_to(self, at) -> Write | None:
        i = bisect.bisect_right(self.at, at)
        return self.best[i - 1] if i else None


class Point:
    """All writes of one point, or of its note."""

    def __init__(self):
        self.writes: list[Write] = []
        self.by_end = Ranks()
        self.by_position: dict[tuple, Ranks] = collections.defaultdict(Ranks)  # (stream, topic, partition) -> by seq
        self.by_visible: dict[str, Ranks] = collections.defaultdict(Ranks)     # region -> by end of a completed write

    def seal(self) -> None:
        for ranks in (self.by_end, *self.by_position.values(), *self.by_visible.values()):
            ranks.seal()
        deletes = sorted((w for w in self.writes if w.mark is None and w.op["outcome"] != "refused"), key=lambda w: w.op["start"])
        self.delete_starts = [w.op["start"] for w in deletes]
        self.delete_highs = list(itertools.accumulate((w.high for w in deletes), max))

    def deleted(self, low: tuple, before=None) -> bool:
        """May a delete that began before then have a version of at least low?"""
        i = len(self.delete_starts) if before is None else bisect.bisect_left(self.delete_starts, before)
        return i > 0 and self.delete_highs[i - 1] >= low

    def newest(self) -> Write | None:
        return max((w for w in self.writes if w.acked), key=lambda w: w.low, default=None)


def note_of(row: dict) -> str | None:
    return (row["payload"] or {}).get("note")


class Judge:
    def __init__(self, lines: list[dict]):
        self.header = next(line for line in lines if line["t"] == "header")
        self.ops = [line for line in lines if line["t"] == "op"]
        self.violations: list[dict] = []
        self.counts: collections.Counter = collections.Counter()
        self.points: dict[tuple, Point] = collections.defaultdict(Point)  # (collection, id)
        self.notes: dict[tuple, Point] = collections.defaultdict(Point)   # the same, for the key "note"
        self.by_mark: dict[str, Write] = {}  # upserts
        self.by_note: dict[str, Write] = {}  # upserts and patches
        self.collections = {c["name"]: c for c in self.header["collections"]}

    def fail(self, kind: str, text: str, **more) -> None:
        assert kind in KINDS
        self.violations.append({"kind": kind, "text": text, **more})

    # ---- the writes ------------------------------------------------------------------------------------------

    def bounds(self, op: dict, given: token.Token | None) -> tuple[tuple, tuple]:
        least, most = self.header["offset_ms"]
        latest = op["wall"] + (op["end"] - op["start"]) // 1_000_000 + most + SLACK_MS
        if op["outcome"] != "ok" or given is None:
            return (0, LOWEST, 0), (latest << 16, HIGHEST, 0)
        if len(op["points"]) == 1:
            return given.version, given.version
        low = ((op["wall"] + least) << 16, LOWEST, 0)
        if op.get("sent"):
            low = max(low, token.parse(op["sent"]).version)
        return min(low, given.version), given.version

    def take_writes(self) -> None:
        for op in self.ops:
            if op["op"] not in history.WRITES:
                continue
            self.counts[f"write {op['outcome']}"] += 1
            self.counts["points acknowledged"] += len(op["points"]) if op["outcome"] == "ok" else 0
            if op["outcome"] == "refused":
                self.fail("refused", f"#{op['n']} {op['op']} in {op['region']}: {op.get('error')}", op=op["n"])
            given = token.parse(op["token"]) if op.get("token") else None
            if op["outcome"] == "ok" and given is None and op.get("matched") != 0:
                self.fail("position", f"#{op['n']} {op['op']} in {op['region']} was acknowledged without a token", op=op["n"])
            low, high = self.bounds(op, given)
            for point, mark in op["points"] if op.get("matched") != 0 else ():
                self.take_write(op["collection"], Write(op, point, mark, low, high, given))
            if given is not None and op["outcome"] == "ok":
                self.check_version(op, given)

    def take_write(self, collection: str, write: Write) -> None:
        op, where = write.op["op"], (collection, write.point)
        if op != "patch":
            self.points[where].writes.append(write)
            if write.mark is not None:
                self.by_mark[write.mark] = write
        if op != "delete":
            self.notes[where].writes.append(write)
            if write.mark is not None:
                self.by_note[write.mark] = write

    def place_filtered(self) -> None:
        """A delete by filter goes right behind the upsert whose mark it named, whatever is known of that one's version."""
        for known in self.points.values():
            for write in known.writes:
                if "seen" in write.op:
                    ended = self.by_mark[write.op["seen"]]
                    write.high = (*ended.high, 1)
                    write.low = (*ended.low, 1) if write.acked else (0, LOWEST, 0)

    def check_version(self, op: dict, given: token.Token) -> None:
        if op.get("sent") and given.hlc <= token.parse(op["sent"]).hlc:
            self.fail("causal", f"#{op['n']} {op['op']} in {op['region']} was sent a token of {token.parse(op['sent']).hlc:x} and got {given.hlc:x}", op=op["n"])
        least, most = self.header["offset_ms"]
        end = op["wall"] + (op["end"] - op["start"]) // 1_000_000
        if not op["wall"] + least - 1 <= given.ms <= end + most + SLACK_MS:
            self.fail("clock", f"#{op['n']} {op['op']} in {op['region']}: stamped {given.ms - op['wall']} ms from the wall clock", op=op["n"])

    def learn(self, rows: dict) -> None:
        """Versions that queries show narrow the bounds. A row's is that of its newest change: the note's, where there is one."""
        shown: dict[str, set] = collections.defaultdict(set)
        for op in self.ops:
            if op["op"] == "query" and op["outcome"] == "ok":
                for _, mark, version, note in op["points"]:
                    if mark is not None and note is not None and version is not None:
                        shown[note].add(version)
        for held in rows.values():
            for one in held["collections"].values():
                for row in one["rows"]:
                    note = note_of(row)
                    if row.get("version") is not None and row.get("mark") is not None and note is not None:
                        shown[note].add(row["version"])
        for mark, versions in shown.items():
            write = self.by_note.get(mark)
            if write is None:
                continue
            low, high = min(versions) << SHOWN_DROPS, (max(versions) << SHOWN_DROPS) + (1 << SHOWN_DROPS) - 1
            if len(versions) > 1 or low > write.high[0] or high < write.low[0]:
                self.fail("version", f"queries show {write} with the version(s) {', '.join(f'{v << SHOWN_DROPS:x}' for v in sorted(versions))}", op=write.op["n"])
            elif not write.exact:
                write.low, write.high = max(write.low, (low, LOWEST, 0)), min(write.high, (high, HIGHEST, 0))

    def shown_in(self, op: dict) -> list:
        """The regions that show a write which was answered as completed, as far as that is known."""
        regions = list(self.header["regions"]) or [op["region"]]
        every = op["level"] == "all" or (op["level"] == "quorum" and len(regions) // 2 + 1 == len(regions))
        return regions if every else [op["region"]] if op["level"] == "visible" else []

    def index_writes(self) -> None:
        given: dict[tuple, Write] = {}
        for (collection, point), known in itertools.chain(self.points.items(), self.notes.items()):
            versions: dict[tuple, Write] = {}
            for w in known.writes:
                if not w.acked or w.token is None:
                    continue
                known.by_end.add(w.op["end"], w)
                entries = list(w.token.entries.items())
                if len(entries) == 1 and len(w.op["points"]) == 1:
                    (where, seq), = entries
                    other = given.setdefault((w.token.stream, where, seq), w)
                    if other is not w:
                        self.fail("position", f"{other} and {w} have the same position: stream {w.token.stream:016x}, {where}, {seq}", op=w.op["n"])
                    other = w if "seen" in w.op else versions.setdefault(w.low, w)
                    if other is not w:
                        self.fail("position", f"{other} and {w}, both of point {point}, have the same version", op=w.op["n"])
                    known.by_position[w.token.stream, *where].add(seq, w)
                if w.op["answer"] == "completed":
                    for region in self.shown_in(w.op):
                        known.by_visible[region].add(w.op["end"], w)
            known.seal()

    # ---- the reads -------------------------------------------------------------------------------------------

    def too_old(self, known: Point, least: Write, mark: str | None, before: int) -> bool:
        """Is this less than a reader who must see `least` may be shown?"""
        if mark is None:
            return least.mark is not None and not known.deleted(least.low, before)
        shown = self.by_note.get(mark)
        return shown is not None and least.low > shown.high

    def covered(self, known: Point, sent: token.Token) -> Write | None:
        """The newest write of the point that a token covers."""
        found = [known.by_position[sent.stream, *where].newest_up_to(seq) for where, seq in sent.entries.items()
                 if (sent.stream, *where) in known.by_position]
        return max((w for w in found if w), key=lambda w: w.low, default=None)

    def read_value(self, op: dict, known: Point | None, point, mark: str | None, writes: dict, what: str) -> None:
        """One point of an answer, or its note: what is "point 7" or "the note of point 7"."""
        text = f"#{op['n']} {op['op']} in {op['region']} of {what}"
        if mark is not None:
            write = writes.get(mark)
            if write is None or write.point != point or write.op["collection"] != op["collection"]:
                self.fail("invented", f"{text}: it has {mark}, which nobody wrote there", op=op["n"])
                return
            if write.op["start"] > op["end"]:
                self.fail("future", f"{text}: it has {write}, which began later", op=op["n"])
        if known is None:
            return
        if op.get("sent"):
            least = self.covered(known, token.parse(op["sent"]))
            self.demand(op, known, least, mark, "session", "session reads that had to show something", f"{text}: its token covers")
        ranks = known.by_visible.get(op["region"])
        least = ranks.newest_up_to(op["start"] - 1) if ranks else None
        self.demand(op, known, least, mark, "visible", "reads after a visible write", f"{text}: completed before was")
        if op["level"] in ("strong", "bounded"):
            least = known.by_end.newest_up_to(op["start"] - 1_000_000 * op.get("bound_ms", 0) - 1)
            self.demand(op, known, least, mark, op["level"], f"{op['level']} reads that had to show something", f"{text}: acknowledged before was")

    def demand(self, op: dict, known: Point, least: Write | None, mark: str | None, kind: str, count: str, text: str) -> None:
        self.counts[count] += least is not None
        if least and self.too_old(known, least, mark, op["end"]):
            self.fail(kind, f"{text} {least}, shown was {self.name(mark)}", op=op["n"])

    def read_point(self, op: dict, point, mark: str | None, note: str | None) -> None:
        where, before = (op["collection"], point), len(self.violations)
        self.read_value(op, self.points.get(where), point, mark, self.by_mark, f"point {point}")
        if mark is not None and len(self.violations) == before:
            self.read_value(op, self.notes.get(where), point, note, self.by_note, f"the note of point {point}")

    def name(self, mark: str | None) -> str:
        return "nothing" if mark is None else str(self.by_note.get(mark, mark))

    def take_reads(self) -> None:
        for op in self.ops:
            if op["op"] not in history.READS:
                continue
            self.counts[f"read {op['level']} {op['outcome']}"] += 1
            if op["outcome"] == "refused":
                self.fail("refused", f"#{op['n']} {op['op']} in {op['region']}: {op.get('error')}", op=op["n"])
            if op["outcome"] != "ok":
                continue
            shown = collections.Counter(p for p, *_ in op["points"])
            for point, n in shown.items():
                if n > 1:
                    self.fail("doubled", f"#{op['n']} {op['op']} in {op['region']} shows point {point} {n} times", op=op["n"])
            asked = op["ids"] if op["ids"] is not None else list(shown)
            found = {p: (mark, note) for p, mark, _, note in op["points"]}
            for point in asked:
                self.read_point(op, point, *found.get(point, (None, None)))
            if op["ids"] is not None and set(found) - set(op["ids"]):
                self.fail("invented", f"#{op['n']} {op['op']} in {op['region']} shows points that were not asked for", op=op["n"])

    # ---- the end ---------------------------------------------------------------------------------------------

    def take_rows(self, region: str, name: str, held: dict) -> dict:
        rows = {}
        for row in held["rows"]:
            if row["id"] in rows:
                self.fail("doubled", f"{region} lists point {row['id']} of {name} twice", point=row["id"])
            rows[row["id"]] = row
        if held["count"] != len(rows):
            self.fail("doubled", f"{region} counts {held['count']} points of {name} and lists {len(rows)}")
        for point in set(rows) | {p for c, p in self.points if c == name}:
            self.final(region, name, point, rows.get(point))
        return rows

    def final(self, region: str, name: str, point, row: dict | None) -> None:
        known, where, before = self.points.get((name, point)), f"{region}, {name}, point {point}", len(self.violations)
        if row is None:
            upserts = [w for w in known.writes if w.acked and w.mark is not None]
            newest = max(upserts, key=lambda w: w.low, default=None)
            if newest and not known.deleted(newest.low):
                self.fail("lost", f"{where}: absent, should be {newest} or newer", point=point, op=newest.op["n"])
            return
        write = self.by_mark.get(row["mark"])
        if write is None or write.point != point or write.op["collection"] != name:
            self.fail("invented", f"{where}: holds {row['mark']}, which nobody wrote there", point=point)
            return
        if write.op["outcome"] == "refused":
            self.fail("ghost", f"{where}: holds {write}", point=point, op=write.op["n"])
        newest = known.newest()
        if newest and newest is not write and newest.low > write.high:
            kind = "resurrected" if newest.mark is None else "lost"
            self.fail(kind, f"{where}: holds {write}, should be {newest} or newer", point=point, op=newest.op["n"])
        spec = self.collections[name]
        if spec["exact"] and row["vector"] != history.vector_of(row["mark"], spec["dim"]):
            self.fail("torn", f"{where}: the vector is not that of {write}", point=point)
        if len(self.violations) == before:  # else its note is as wrong as it
            self.final_note(where, self.notes[name, point], point, name, note_of(row))

    def final_note(self, where: str, known: Point, point, name: str, note: str | None) -> None:
        write, newest = self.by_note.get(note), known.newest()
        if note is None:
            wrong = newest and newest.mark is not None and not known.deleted(newest.low)
        else:
            wrong = write is None or write.point != point or write.op["collection"] != name or write.op["outcome"] == "refused" or (
                newest and newest is not write and newest.low > write.high)
        if wrong:
            self.fail("key", f"{where}: its note is {self.name(note)}, should be {newest} or newer", point=point)

    def compare(self, name: str, rows: dict[str, dict]) -> None:
        exact = self.collections[name]["exact"]
        essence = lambda row: row and (row["payload"], row["vector"] if exact else row["vector"] is not None)
        (first, its), *others = rows.items()
        for other, theirs in others:
            for point in its.keys() | theirs.keys():
                if essence(its.get(point)) != essence(theirs.get(point)):
                    show = lambda row: "nothing" if row is None else f"{row['mark']} with note {note_of(row)}"
                    self.fail("unequal", f"{name}, point {point}: {first} has {show(its.get(point))}, {other} has {show(theirs.get(point))}", point=point)

    def take_end(self, rows: dict) -> None:
        for name in self.collections:
            by_region = {region: self.take_rows(region, name, held["collections"][name]) for region, held in rows.items()}
            self.counts[f"live points of {name}"] = max((len(r) for r in by_region.values()), default=0)
            self.compare(name, by_region)
        for region, held in rows.items():
            if held["holes"]:
                self.fail("hole", f"{region} says that {held['holes']:g} records are missing", region=region)
            self.counts[f"duplicates skipped in {region}"] = int(held["duplicates"])

    def run(self, rows: dict) -> "Judge":
        self.take_writes()
        self.learn(rows)
        self.place_filtered()
        self.index_writes()
        self.take_reads()
        self.take_end(rows)
        return self

    def verdict(self) -> dict:
        by_kind = collections.Counter(v["kind"] for v in self.violations)
        return {"ok": not self.violations, "violations": {k: by_kind[k] for k in KINDS if by_kind[k]},
                "counts": dict(sorted(self.counts.items())), "examples": [v for k in KINDS for v in [v for v in self.violations if v["kind"] == k][:5]]}


def judge(lines: list[dict], rows: dict) -> dict:
    """rows: by region {"collections": {name: {"count", "rows": [{"id", "mark", "payload", "vector", "version"}]}}, "holes",
    "duplicates"}."""
    return Judge(lines).run(rows).verdict()
