"""Records as producers and mirrors would write them, made with fastavro from schemas/, and a look into a consumer's store.

For tests of the consumer alone: no producer, no MirrorMaker. Nothing here shares code with the daemons.
"""
from __future__ import annotations

import io
import json
import random
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import fastavro
import lmdb
from confluent_kafka import Producer

from . import paths


def _newest(name: str) -> tuple[bytes, dict]:
    """(C3 01 and the fingerprint, schema) of a record's newest version."""
    path = max(paths.SCHEMAS.glob(f"{name}.v*.avsc"), key=lambda p: int(p.name.split(".v")[1].split(".")[0]))
    schema = json.loads(path.read_text())
    fingerprint = bytes.fromhex(fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO"))
    return b"\xc3\x01" + fingerprint, fastavro.parse_schema(schema)


MUTATION, CONTROL, RAW = (_newest(name) for name in ("VectorMutation", "Control", "RawVector"))


def encode(kind: tuple[bytes, dict], record: dict) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, kind[1], record)
    return kind[0] + out.getvalue()


def signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def key_of(collection: int, point: int) -> bytes:
    return collection.to_bytes(8, "big") + bytes(8) + point.to_bytes(8, "big")


@dataclass
class Stream:
    """One producer's incarnation, as it looks in the Kafka of the region `at`."""
    producer: Producer
    region: str
    at: str
    partitions: int = 4
    collection: int = 7
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self):
        self.id = (int(time.time() * 1000) << 22) | self.rng.getrandbits(22)
        self.seq = [0] * self.partitions
        self.last_hlc = 0
        self.sent: list[tuple[str, int, bytes | None, bytes]] = []  # for sending all of it again
        self.register()

    def topic(self, name: str) -> str:
        return name if self.region == self.at else f"{self.region}.{name}"

    def hlc(self) -> int:
        self.last_hlc = max(self.last_hlc + 1, int(time.time() * 1000) << 16)
        return self.last_hlc

    def send(self, topic: str, partition: int, key: bytes | None, value: bytes) -> None:
        self.sent.append((topic, partition, key, value))
        self.producer.produce(topic, value, key, partition)
        self.producer.poll(0)

    def register(self) -> None:
        incarnation = {"incarnation": signed(self.id), "region_incarnation": 1, "predecessor": None, "lineage": signed(self.id),
                       "instance": f"{self.region}-0"}
        record = {"kind": "INCARNATION", "hlc": self.hlc(), "region": self.region, "writer": signed(self.id), "collection": None,
                  "codec": None, "codec_use": None, "incarnation": incarnation, "region_state": None, "schema": None}
        self.producer.produce(self.topic("vec-control"), encode(CONTROL, record), f"incarnation/{self.id:016x}".encode(), 0)
        self.producer.flush(10)

    def mutate(self, op: str, point: int, payload: dict | None = None, hlc: int | None = None) -> tuple:
        """Returns the version."""
        partition = point % self.partitions
        self.seq[partition] += 1
        now = self.hlc()
        version = hlc or now
        record = {"op": op, "hlc": version, "region": self.region, "writer": signed(self.id), "codec": None,
                  "vector": struct.pack("<2f", point, self.seq[partition]) if op == "UPSERT" else None, "seq": self.seq[partition],
                  "stream": None, "clock": None if version == now else now,
                  "payload": None if payload is None else json.dumps(payload)}
        self.send(self.topic("vec-mutations"), partition, key_of(self.collection, point), encode(MUTATION, record))
        return (version, self.region, self.id)

    def heartbeat(self, partition: int) -> None:
        self.seq[partition] += 1
        record = {"op": "HEARTBEAT", "hlc": self.hlc(), "region": self.region, "writer": signed(self.id), "codec": None, "vector": None,
                  "seq": self.seq[partition], "stream": None, "clock": None, "payload": None}
        self.send(self.topic("vec-mutations"), partition, None, encode(MUTATION, record))

    def send_again(self) -> int:
        """What a mirror does that has lost its place."""
        for topic, partition, key, value in list(self.sent):
            self.producer.produce(topic, value, key, partition)
            self.producer.poll(0)
        self.producer.flush(30)
        return len(self.sent)


# ---- the store ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Row:
    """As common/row.h lays it out."""
    collection: int
    point: int
    hlc: int
    region: str
    writer: int
    tombstone: bool
    vector: bytes
    payload: str
    bytes: bytes


def read_row(raw: bytes) -> Row:
    flags, region_len, _ = raw[9], raw[10], raw[11]
    collection, high, point = struct.unpack_from(">QQQ", raw, 16)
    hlc, writer = struct.unpack_from("<QQ", raw, 40)
    vector_len, payload_len = struct.unpack_from("<II", raw, 64)
    at = 72
    vector, at = raw[at:at + vector_len], at + vector_len
    payload, at = raw[at:at + payload_len], at + payload_len
    return Row(collection, high << 64 | point, hlc, raw[at:at + region_len].decode(), writer, bool(flags & 2), vector, payload.decode(), raw)


def read_store(path: Path) -> dict[tuple[int, int], Row]:
    """The current row of every point; the store must not be open in this process already."""
    env = lmdb.open(str(path), readonly=True, lock=False, max_dbs=16, subdir=True)
    try:
        log = env.open_db(b"log", integerkey=True, create=False)
        rows = {}
        with env.begin(db=log) as txn:
            for _, value in txn.cursor():  # slots rise: the last one of a key counts
                row = read_row(bytes(value))
                rows[(row.collection, row.point)] = row
        return rows
    finally:
        env.close()
