"""Clients: several threads in each region that write and read, and put every operation into the history.

What they do is the table OPERATIONS: one row an operation, with how often, and a function that performs it. A level that
comes later is a row more. Ids are of four sorts: hot ones, few, that all regions fight for; warm ones, many, that all may
touch; and each client's own, where nobody disturbs the order of its writes. Few more are patched much more often than upserted.
"""
from __future__ import annotations

import collections
import http.client
import json
import random
import threading
import time
from dataclasses import dataclass
from typing import Callable
from urllib.parse import urlparse

from .history import WRITES, History, vector_of

HOT, WARM, NOTED, OWN = 3, 2000, 8, 200
OWN_BASE = 1_000_000
APART = OWN_BASE // 2  # from here on: written in one region and deleted or patched in another while they are apart
REMEMBERED = 8      # own writes that session reads ask about
PATIENCE_S = 12     # of a client; the daemons' own deadlines are shorter
WAIT_S = 3          # deadline of a write that waits and of a read that waits, sent along
BOUND_MS = 1500     # of a bounded read
TOKEN = "X-Antipode-Token"


class Line:
    """A connection that never sends a request twice: a write whose answer is lost is unknown, not repeated."""

    def __init__(self, url: str):
        parsed = urlparse(url)
        self.host, self.port = parsed.hostname, parsed.port
        self.connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body, sent: str | None) -> tuple[int, dict, str | None]:
        """Status, the answer, and the token in its header. Raises OSError, HTTPException, ValueError."""
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        try:
            headers = {"Content-Type": "application/json", **({TOKEN: sent} if sent else {})}
            self.connection.request(method, path, json.dumps(body), headers)
            answer = self.connection.getresponse()
            text, given = answer.read(), answer.getheader(TOKEN)
            return answer.status, json.loads(text), given
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


@dataclass(frozen=True)
class Operation:
    name: str
    weight: float
    perform: Callable[["Client"], None]


class Client(threading.Thread):
    """One thread. operations: those it chooses from; rate: operations a second, at most."""

    def __init__(self, name: str, number: int, region: str, regions: dict, collections_: list[dict], history: History, seed: int,
                 operations: list[Operation], rate: float, hot: int = HOT):
        super().__init__(daemon=True, name=name)
        self.client, self.number, self.home, self.history = name, number, region, history
        self.regions, self.collections = regions, collections_
        self.random = random.Random(seed)
        self.operations, self.rate, self.hot = operations, rate, hot
        self.weights = [o.weight for o in operations]
        self.lines: dict[str, Line] = {}
        self.recent = collections.deque(maxlen=REMEMBERED)  # (collection, [ids], token) of acknowledged writes
        self.singles = collections.deque(maxlen=REMEMBERED)  # (collection, id, mark) of upserts of one point
        self.marks = 0
        self.pending = 0          # points of the write under way
        self.acked = 0            # points acknowledged
        self.failed = 0
        self.stopping = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            due = time.monotonic()
            while not self.stopping.is_set():
                self.random.choices(self.operations, self.weights)[0].perform(self)
                due = max(due + self.random.expovariate(self.rate), time.monotonic() - 1)
                self.stopping.wait(max(0.0, due - time.monotonic()))
        except Exception as e:  # kept for finish(): a thread's exception is otherwise lost
            self.error = e
        finally:
            for line in self.lines.values():
                line.close()

    def finish(self, deadline_s: float = 3 * PATIENCE_S) -> None:
        self.stopping.set()
        self.join(deadline_s)
        if self.error is not None:
            raise RuntimeError(f"client {self.client}") from self.error
        if self.is_alive():
            raise RuntimeError(f"client {self.client} does not end")

    # ---- what operations are made of ---------------------------------------------------------------------------

    def line(self, region: str, role: str) -> Line:
        url = self.regions[region][role]
        if url not in self.lines:
            self.lines[url] = Line(url)
        return self.lines[url]

    def collection(self) -> dict:
        return self.random.choice(self.collections)

    def any_id(self) -> int:
        kind = self.random.random()
        if kind < 0.5:
            return self.random.randrange(self.hot)
        if kind < 0.73:
            return HOT + self.random.randrange(WARM)
        return self.noted_id() if kind < 0.75 else self.own_id()

    def noted_id(self) -> int:
        return HOT + WARM + self.random.randrange(NOTED)

    def own_id(self) -> int:
        return OWN_BASE * (self.number + 1) + self.random.randrange(OWN)

    def mark(self) -> str:
        self.marks += 1
        return f"{self.client}/{self.marks}"

    def last_token(self) -> str | None:
        return self.recent[-1][2] if self.recent else None

    def perform(self, op: str, level: str, region: str, role: str, method: str, path: str, body, sent: str | None, **fields):
        """Sends it, times it, writes it down. Returns (outcome, result, token)."""
        wall, start = time.time_ns() // 1_000_000, time.monotonic_ns()
        status, answer, given, error = None, None, None, None
        try:
            status, answer, given = self.line(region, role).ask(method, path, body, sent)
        except (OSError, http.client.HTTPException, ValueError) as e:
            error = repr(e)
        end = time.monotonic_ns()
        write = op in WRITES
        if status == 200:
            outcome = "ok"
        else:
            error = error or json.dumps(answer)[:300]
            refused = status is not None and 400 <= status < 500 and status not in (408, 429)
            outcome = "refused" if refused else "unknown" if write else "unavailable" if status == 503 else "failed"
            self.failed += 1
        result = answer["result"] if outcome == "ok" else None
        if write:
            fields |= {"answer": result and result["status"], "token": (given or result.get("token")) if result else None}
            if "matched" in fields:
                fields["matched"] = result and result["points"]
        else:
            fields["points"] = shown(result)
        self.history.add("op", client=self.client, op=op, level=level, region=region, via=role, start=start, end=end, wall=wall,
                         outcome=outcome, status=status, sent=sent, **fields, **({"error": error} if error else {}))
        return outcome, result, fields.get("token")

    # ---- writes ------------------------------------------------------------------------------------------------

    def write(self, op: str, ids: list[int], level: str = "local", spec: dict | None = None) -> None:
        spec = spec or self.collection()
        marks = [self.mark() if op == "upsert" else None for _ in ids]
        role = self.random.choice(("producer", "producer", "indexer"))
        if op == "upsert":
            body = {"points": [{"id": i, "vector": vector_of(m, spec["dim"]), "payload": {"mark": m, "note": m}} for i, m in zip(ids, marks)]}
            outcome = self.send(op, level, spec["name"], role, "PUT", "", body, ids, marks)
            if outcome == "ok" and len(ids) == 1:
                self.singles.append((spec["name"], ids[0], marks[0]))
        else:
            self.send(op, level, spec["name"], role, "POST", "/delete", {"points": ids}, ids, marks)

    def send(self, op: str, level: str, name: str, role: str, method: str, what: str, body: dict, ids: list[int], marks: list, **fields) -> str:
        """A write of any kind, under way until it is answered."""
        query = {"local": "?wait=false", "visible": f"?wait=true&timeout={WAIT_S}"}.get(level, f"?level={level}&timeout={WAIT_S}")
        self.pending = len(ids)
        sent = self.last_token() if self.random.random() < 0.8 or len(ids) > 1 else None
        if "matched" in fields:  # a filter waits for the token that comes along: at a broken link that would be all it does
            sent = None
        outcome, _, given = self.perform(op, level, self.home, role, method, f"/collections/{name}/points{what}{query}", body, sent, collection=name,
                                         points=list(map(list, zip(ids, marks))), **fields)
        self.pending = 0
        if outcome == "ok":
            self.acked += len(ids)
            if given:
                self.recent.append((name, ids, given))
        return outcome

    def patch(self, level: str = "local", sets: bool = True, filtered: bool = False, point: int | None = None, spec: dict | None = None) -> None:
        """One key of one point is set or deleted, by its id or by a filter that finds it."""
        if point is None:
            point = self.noted_id() if self.random.random() < 0.5 else self.any_id()
        mark = self.mark() if sets else None
        which = {"filter": {"must": [{"has_id": [point]}]}} if filtered else {"points": [point]}
        body = which | ({"payload": {"note": mark}} if sets else {"keys": ["note"]})
        role = "indexer" if filtered else self.random.choice(("producer", "producer", "indexer"))
        self.send("patch", level, (spec or self.collection())["name"], role, "POST", "/payload" if sets else "/payload/delete", body, [point], [mark],
                  **({"matched": None} if filtered else {}))

    def delete_seen(self, level: str = "local") -> None:
        """Delete by filter: a point, if it still has the mark that this client wrote."""
        if self.singles:
            name, point, mark = self.random.choice(self.singles)
            body = {"filter": {"must": [{"has_id": [point]}, {"key": "mark", "match": {"value": mark}}]}}
            self.send("delete", level, name, "indexer", "POST", "/delete", body, [point], [None], seen=mark, matched=None)

    # ---- reads -------------------------------------------------------------------------------------------------

    def read(self, op: str, level: str, region: str) -> None:
        sent, name = None, self.collection()["name"]
        ids = {self.any_id() for _ in range(3)}
        if level == "session":
            if not self.recent:
                return
            name, own, sent = self.recent[-1]
            ids |= set(own[:20])
        for collection, written, _ in self.recent:
            if collection == name:
                ids |= set(written[:3])
        ids = sorted(ids)
        wait = {"session": f"?timeout={WAIT_S}", "strong": f"?level=strong&timeout={WAIT_S}",
                "bounded": f"?max_staleness_ms={BOUND_MS}&timeout={WAIT_S}"}.get(level, "")
        if op == "retrieve":
            body, path = {"ids": ids, "with_payload": True, "with_vector": False}, f"/collections/{name}/points{wait}"
        else:
            dim = next(c["dim"] for c in self.collections if c["name"] == name)
            body = {"query": vector_of(f"query {self.random.random()}", dim), "filter": {"must": [{"has_id": ids}]}, "limit": len(ids), "with_payload": True}
            path = f"/collections/{name}/points/query{wait}"
        self.perform(op, level, region, "indexer", "POST", path, body, sent, collection=name, ids=ids, **({"bound_ms": BOUND_MS} if level == "bounded" else {}))

    def search(self) -> None:
        """The nearest of all to a random vector: through the sealed segments, not by ids."""
        spec = self.collection()
        body = {"query": vector_of(f"query {self.random.random()}", spec["dim"]), "limit": 10, "with_payload": True}
        self.perform("query", "eventual", self.home, "indexer", "POST", f"/collections/{spec['name']}/points/query", body, None, collection=spec["name"], ids=None)

    def abroad(self) -> str:
        return self.random.choice([r for r in self.regions if r != self.home] or [self.home])


def shown(result) -> list | None:
    if result is None:
        return None
    points = result if isinstance(result, list) else result["points"]
    return [[p["id"], (p.get("payload") or {}).get("mark"), p.get("version"), (p.get("payload") or {}).get("note")] for p in points]


OPERATIONS = [
    Operation("upsert", 34, lambda c: c.write("upsert", [c.any_id()])),
    Operation("upsert visible", 8, lambda c: c.write("upsert", [c.any_id()], "visible")),
    Operation("upsert several", 3, lambda c: c.write("upsert", sorted({c.any_id() for _ in range(6)}))),
    Operation("delete", 12, lambda c: c.write("delete", [c.any_id()])),
    Operation("delete visible", 3, lambda c: c.write("delete", [c.any_id()], "visible")),
    Operation("delete by filter", 4, lambda c: c.delete_seen()),
    Operation("delete by filter visible", 1, lambda c: c.delete_seen("visible")),
    Operation("set payload", 10, lambda c: c.patch()),
    Operation("set payload visible", 3, lambda c: c.patch("visible")),
    Operation("set payload by filter", 3, lambda c: c.patch(filtered=True)),
    Operation("delete payload", 4, lambda c: c.patch(sets=False)),
    Operation("upsert quorum", 1, lambda c: c.write("upsert", [c.any_id()], "quorum")),
    Operation("upsert all", 1, lambda c: c.write("upsert", [c.any_id()], "all")),
    Operation("set payload all", 0.5, lambda c: c.patch("all")),
    Operation("retrieve eventual", 8, lambda c: c.read("retrieve", "eventual", c.home)),
    Operation("query eventual", 5, lambda c: c.read("query", "eventual", c.home)),
    Operation("search eventual", 4, lambda c: c.search()),
    Operation("retrieve session", 12, lambda c: c.read("retrieve", "session", c.home)),
    Operation("query session", 5, lambda c: c.read("query", "session", c.home)),
    Operation("retrieve session abroad", 5, lambda c: c.read("retrieve", "session", c.abroad())),
    Operation("query session abroad", 1, lambda c: c.read("query", "session", c.abroad())),
    Operation("retrieve strong", 3, lambda c: c.read("retrieve", "strong", c.home)),
    Operation("retrieve bounded", 4, lambda c: c.read("retrieve", "bounded", c.home)),
    Operation("query bounded", 1, lambda c: c.read("query", "bounded", c.abroad())),
]

BATCH = 120
# One client a region writes nothing but batches of its own, so that every fault meets many points in flight.
BATCHES = [
    Operation("batch", 4, lambda c: c.write("upsert", c.random.sample(range(OWN_BASE * (c.number + 1), OWN_BASE * (c.number + 1) + 2000), BATCH))),
    Operation("batch delete", 1, lambda c: c.write("delete", c.random.sample(range(OWN_BASE * (c.number + 1), OWN_BASE * (c.number + 1) + 2000), BATCH // 4))),
    Operation("batch session", 1, lambda c: c.read("retrieve", "session", c.home)),
]


def crew(regions: dict, collections_: list[dict], history: History, seed: int, per_region: int, rate: float, hot: int = HOT) -> list[Client]:
    out = []
    for region in regions:
        for i in range(per_region):
            number = len(out)
            operations, its_rate = (BATCHES, max(1.0, rate / 5)) if i == per_region - 1 else (OPERATIONS, rate)
            out.append(Client(f"{region}-{i}", number, region, regions, collections_, history, seed * 1000 + number, operations, its_rate, hot))
    return out
