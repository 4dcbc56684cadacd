"""A history: one JSON object a line, in the order in which things ended.

    {"t": "header", "seed", "command", "regions": {name: {"indexer", "consumer", "producer"}}, "offset_ms": [least, most],
     "collections": [{"name", "dim", "exact"}]}
    {"t": "op", "n", "client", "op", "level", "region", "collection", "start", "end", "wall", "outcome", ...}
    {"t": "fault", "n", "kind", "start", "end", ...}

region: whose API was asked. start and end: monotonic nanoseconds of one machine; wall: milliseconds since 1970 at start.
offset_ms: how far the campaign ever set a producer's clock off. exact: vectors come back bit by bit in every region.

Writes (op upsert, delete or patch) have "points": [[id, mark], ...], "sent" (the token in the request or null), "answer"
(acknowledged, completed, wait_timeout) and "token" (what the answer gave). A mark is in the payload of exactly one write, as
"mark" and "note" of an upsert, as "note" alone of a patch; it is null for a delete, and for a patch that deletes "note". The
vector of an upsert follows from its mark, so whatever a region serves names the write it came from. By filter, "matched" is how
many points the answer counted (null: unknown), and "seen" of a delete is the mark that the point had to have.
Reads (retrieve, query) have "ids" (asked for), "sent", "points": [[id, mark, version or null, note or null], ...], and where
level is bounded "bound_ms".

outcome of a write: ok; refused (a 4xx: it must have no effect); unknown (anything else: it may or may not have happened).
Of a read: ok; unavailable (a 503, which a level with a deadline may give); failed.
"""
from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

WRITES = ("upsert", "delete", "patch")
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
