"""A token, taken apart: common/token.c in another language.

"ap1." and base64url of: region (length, bytes), stream, lineage, hlc (8 bytes each, big-endian), then for every topic its
name (length, bytes), the number of entries, and of each the partition and the seq as Avro longs; a topic of length 0 ends
them; 4 bytes of checksum, which are not looked at here.
"""
from __future__ import annotations

import base64
import functools
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    region: str
    stream: int
    lineage: int
    hlc: int
    entries: dict  # (topic, partition) -> seq

    @property
    def version(self) -> tuple:
        """Versions compare as these do. Of a write of several points: the newest of theirs."""
        return (self.hlc, self.region.encode(), self.stream)

    @property
    def ms(self) -> int:
        return self.hlc >> 16

    def covers(self, other: "Token") -> bool:
        """Whoever sees this write sees the other one, because positions are seen without holes."""
        return (self.stream == other.stream and bool(other.entries)
                and all(self.entries.get(where, 0) >= seq for where, seq in other.entries.items()))


def _long(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at


@functools.lru_cache(maxsize=1 << 18)
def parse(text: str) -> Token:
    if not text.startswith("ap1."):
        raise ValueError(f"not a token: {text[:40]}")
    body = text[4:]
    data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    at = 1 + data[0]
    region = data[1:at].decode()
    stream, lineage, hlc = (int.from_bytes(data[at + 8 * i:at + 8 * i + 8], "big") for i in range(3))
    at += 24
    entries = {}
    while data[at]:
        topic = data[at + 1:at + 1 + data[at]].decode()
        run, at = _long(data, at + 1 + data[at])
        for _ in range(run):
            partition, at = _long(data, at)
            seq, at = _long(data, at)
            entries[topic, partition] = seq
    return Token(region, stream, lineage, hlc, entries)


def _put_long(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def make(region: str, stream: int, hlc: int, entries: dict, lineage: int = 0) -> str:
    """The reverse, for histories made by hand; its checksum is zero."""
    out = bytes([len(region)]) + region.encode() + b"".join(v.to_bytes(8, "big") for v in (stream, lineage, hlc))
    for topic in dict.fromkeys(topic for topic, _ in entries):
        of_topic = [(p, seq) for (t, p), seq in entries.items() if t == topic]
        out += bytes([len(topic)]) + topic.encode() + _put_long(len(of_topic))
        out += b"".join(_put_long(p) + _put_long(seq) for p, seq in of_topic)
    return "ap1." + base64.urlsafe_b64encode(out + bytes(5)).decode().rstrip("=")
