"""Read Antipode's topics with somebody else's Avro: fastavro, and the files in schemas/ alone.

Nothing here shares code with the daemons, so what it decodes is a second opinion.
"""
from __future__ import annotations

import io
import json
import uuid
from dataclasses import dataclass
from pathlib import Path

import fastavro
from confluent_kafka import Consumer, TopicPartition

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


def _fingerprints() -> dict[bytes, dict]:
    """CRC-64-AVRO of every schema file, as it stands in the records (little-endian)."""
    table = {}
    for path in sorted(SCHEMAS.glob("*.v*.avsc")):
        schema = json.loads(path.read_text())
        canonical = fastavro.schema.to_parsing_canonical_form(schema)
        # fastavro prints the fingerprint's bytes in the order in which they are sent.
        table[bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))] = fastavro.parse_schema(schema)
    return table


FINGERPRINTS = _fingerprints()


@dataclass
class Record:
    """One record of a topic; value is the decoded Avro record, or None when it is not one of ours."""
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    raw: bytes | None
    headers: list
    value: dict | None

    @property
    def collection(self) -> int | None:
        return int.from_bytes(self.key[:8], "big") if self.key and len(self.key) == 24 else None

    @property
    def point(self) -> int | str | None:
        if not self.key or len(self.key) != 24:
            return None
        if self.key[8:16] == bytes(8):
            return int.from_bytes(self.key[16:], "big")
        return str(uuid.UUID(bytes=self.key[8:]))

    @property
    def version(self) -> tuple:
        return (self.value["hlc"], self.value["region"].encode(), self.value["writer"] & (2**64 - 1))

    @property
    def stream(self) -> int:
        return self.value["writer"] if self.value["stream"] is None else self.value["stream"]


def decode(raw: bytes | None) -> dict | None:
    """Avro single-object encoding: C3 01, fingerprint, body; None when it is something else."""
    if raw is None or len(raw) < 10 or raw[:2] != b"\xc3\x01" or raw[2:10] not in FINGERPRINTS:
        return None
    return fastavro.schemaless_reader(io.BytesIO(raw[10:]), FINGERPRINTS[raw[2:10]], None)


def read_topic(bootstrap: str, topic: str, timeout_s: float = 30.0) -> list[Record]:
    """All records of a topic, from its start to its end at the time of the call, in partition order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"read-{uuid.uuid4()}", "enable.auto.commit": False,
                         "auto.offset.reset": "error", "enable.partition.eof": True, "log_level": 3})
    try:
        meta = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
        if meta.error is not None:
            raise RuntimeError(f"{bootstrap} {topic}: {meta.error}")
        ends = {}
        for p in meta.partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=timeout_s)
            if high > low:
                ends[p] = (low, high)
        consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in ends.items()])
        out = []
        while ends:
            for m in consumer.consume(10000, timeout=1.0):
                if m.error():
                    ends.pop(m.partition(), None)  # end of a partition
                    continue
                out.append(Record(topic, m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or [], decode(m.value())))
                if m.partition() in ends and m.offset() + 1 >= ends[m.partition()][1]:
                    del ends[m.partition()]
        return sorted(out, key=lambda r: (r.partition, r.offset))
    finally:
        consumer.close()


def winners(records: list[Record]) -> dict:
    """What the mutations add up to: (collection, point) -> the record of the newest change; at equal versions a DELETE wins."""
    state = {}
    for r in records:
        if r.value is None or r.key is None or r.value["op"] == "HEARTBEAT":
            continue
        key = (r.collection, r.point)
        rank = (r.version, r.value["op"] == "DELETE")
        if key not in state or rank > state[key][0]:
            state[key] = (rank, r)
    return {key: r for key, (_, r) in state.items()}
