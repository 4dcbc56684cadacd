"""Our records, decoded by an Avro implementation that is not ours, from the files in schemas/ alone. No Kafka needed."""

import io
import json
import re
import subprocess

import fastavro
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form

from harness import paths


def schemas():
    """Every file by its fingerprint, as the eight bytes that stand in a record."""
    found = {}
    for path in sorted(paths.SCHEMAS.glob("*.avsc")):
        schema = json.loads(path.read_text())
        key = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
        found[key] = (path.name, fastavro.parse_schema(schema))
    return found


@pytest.fixture(scope="module", params=[1, 20260101])
def records(request):
    out = subprocess.run([paths.binary("emit_events"), str(request.param)], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in out.stdout.splitlines()]


def plain(value):
    """Bytes as hex, so that values compare with what the tool says."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def test_every_record_reads_as_it_was_meant(records):
    known = schemas()
    seen = set()
    for record in records:
        value = bytes.fromhex(record["value"])
        assert value[:2] == b"\xc3\x01"
        name, schema = known[value[2:10]]
        assert name.startswith(record["record"] + ".v")
        body = io.BytesIO(value[10:])
        assert plain(fastavro.schemaless_reader(body, schema, None)) == record["fields"]
        assert body.read() == b""
        seen.add((record["record"], record["fields"].get("op") or record["fields"].get("kind")))
        if record["record"] == "Control":  # a kind is written in the oldest version that has it
            assert name == f"Control.v{ {'INDEX': 2, 'RETIREMENT': 3, 'LOSS': 3}.get(record['fields']['kind'], 1)}.avsc"
    assert len(seen) == 4 + 1 + 9 + 1  # operations, raw vector, kinds of control, watermark


def test_it_writes_the_same_bytes(records):
    """Encoding is canonical: what the other implementation writes from the same fields is the same record."""
    known = schemas()
    for record in records:
        value = bytes.fromhex(record["value"])
        _, schema = known[value[2:10]]
        fields = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, fields)
        assert out.getvalue() == value[10:]


def test_the_list_of_fingerprints_is_right():
    lines = [line.split() for line in (paths.SCHEMAS / "FINGERPRINTS").read_text().splitlines() if not line.startswith("#")]
    assert {(bytes.fromhex(fp)[::-1], name) for fp, _, name in lines} == {(fp, name) for fp, (name, _) in schemas().items()}


def test_keys_are_collection_and_point(records):
    for record in records:
        key = bytes.fromhex(record["key"])
        if record["record"] in ("VectorMutation", "RawVector"):
            assert len(key) == 24 and key[8:16] == bytes(8)  # the tool's points have numbers
        else:
            assert key.decode().split("/")[0] in ("collection", "codec", "codec-use", "incarnation", "region", "schema", "watermark", "index", "retired", "loss")



def examples():
    """The hex blocks of docs/event-format.md, without the remarks beside them."""
    page = (paths.ROOT / "docs" / "event-format.md").read_text()
    for block in re.findall(r"^```hex\n(.*?)^```", page, re.M | re.S):
        yield "".join(re.match(r"(?:[0-9a-f]+ ?)+(?=  |$)", line)[0] for line in block.splitlines()).replace(" ", "")


def test_the_examples_on_the_page_are_records():
    known = schemas()
    found = []
    for text in examples():
        value = bytes.fromhex(text)
        name, schema = known[value[2:10]]
        body = io.BytesIO(value[10:])
        fields = fastavro.schemaless_reader(body, schema, None)
        assert body.read() == b""
        found.append((name, fields["op"], fields["seq"], fields["stream"], fields["payload"]))
    assert found == [
        ("VectorMutation.v1.avsc", "UPSERT", 1000, None, '{"n":1}'),
        ("VectorMutation.v1.avsc", "DELETE", 7, 0x66DF2A8F1403F00D, None),
        ("VectorMutation.v1.avsc", "HEARTBEAT", 1, None, '{"hello":{"predecessor":"66dd55020002bcde","ended":512}}'),
    ]
