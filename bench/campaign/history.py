"""A history: one JSON object a line, in the order in which things ended.

    {"t": "header", "seed", "command", "regions": {name: {"indexer", "consumer", "producer"}}, "offset_ms": [least, most],
     "collections": [{"name", "dim", "exact"}]}
    {"t": "op", "n", "client", "op", "level", "region", "collection", "start", "end", "wall", "outcome", ...}
    {"t": "fault", "n", "kind", "start", "end", ...}

region: whose API was asked. start and end: monotonic nanoseconds of one machine; wall: milliseconds since 1970 at start.
offset_ms: how far the campaign ever set a producer's clock off. exact: vectors come back bit by bit in every region.

Writes (op upsert or delete) have "points": [[id, mark], ...], mark null for a delete, "sent" (the token in the request or
null), "answer" (acknowledged, completed, wait_timeout) and "token" (what the answer gave). A mark is in the payload of
exactly one write, and the vector of that write follows from it, so whatever a region serves names the write it came from.
Reads (retrieve, query) have "ids" (asked for), "sent", and "points": [[id, mark, version or null], ...].

outcome of a write: ok; refused (a 4xx: it must have no effect); unknown (anything else: it may or may not have happened).
Of a read: ok; unavailable (a 503, which a level with a deadline may give); failed.
"""
from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

WRITES = ("upsert", "delete")
READS = ("retrieve", "query")


def vector_of(mark: str, dim: int) -> list[float]:
    """The vector that belongs to a mark, of numbers that float32 holds exactly."""
    raw = hashlib.shake_128(mark.encode()).digest(dim)
    return [(b - 127.5) / 128 for b in raw]


class History:
    """Appends lines; any thread."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self.file = open(path, "w")
        self.count = 0

    def add(self, t: str, **fields) -> dict:
        with self.lock:
            if t == "op":
                self.count += 1
                fields["n"] = self.count
            self.file.write(json.dumps({"t": t, **fields}, separators=(",", ":")) + "\n")
        return fields

    def close(self) -> None:
        with self.lock:
            self.file.close()


def read(path) -> list[dict]:
    with open(path) as f:
        return [json.loads(line) for line in f]
