"""Filters and payload indexes through the official client: declared in one region, answered in both."""

import uuid

import numpy as np
import pytest
from harness.wait import wait_until
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

DIM = 8
COUNT = 300
FIELDS = {
    "year": "integer",
    "price": "float",
    "kind": "keyword",
    "tags": "keyword",
    "sold": "bool",
    "at": "datetime",
    "ref": "uuid",
    "about": "text",
    "parts[].size": "integer",
}


def payload(i: int) -> dict:
    out = {
        "year": 1900 + i % 100, "price": i / 4, "kind": f"kind-{i % 10}", "tags": [f"t{i % 3}", f"t{i % 5}"], "sold": i % 2 == 0,
        "at": f"20{i % 20:02d}-06-15T12:00:00Z", "ref": str(uuid.UUID(int=i % 7)), "about": "A quick fox" if i % 4 else "Lazy dogs, quick",
        "parts": [{"size": i % 6, "made": "us"}, {"size": i % 8, "made": "eu"}], "plain": i % 9,
    }  # fmt: skip
    if i % 10 == 3:
        out["price"] = None
    if i % 10 == 4:
        del out["price"]
    return out


DOCS = {i: payload(i) for i in range(COUNT)}


def connect(world, region: str) -> QdrantClient:
    return QdrantClient(url=world[region].indexer.url, timeout=120, trust_env=False, check_compatibility=False)


@pytest.fixture(scope="module")
def books(world):
    """Written in us; half of the fields declared before, half of them after, in the other region."""
    us, eu = connect(world, "us"), connect(world, "eu")
    us.create_collection("filtered", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.DOT))
    names = list(FIELDS)
    for name in names[::2]:
        assert us.create_payload_index("filtered", name, FIELDS[name]).status == models.UpdateStatus.COMPLETED
    vectors = np.random.default_rng(5).normal(size=(COUNT, DIM)).astype(np.float32)
    us.upsert("filtered", [models.PointStruct(id=i, vector=vectors[i].tolist(), payload=DOCS[i]) for i in DOCS])
    wait_until(lambda: eu.collection_exists("filtered") and eu.count("filtered").count == COUNT, 30, "eu has the points")
    nothing = models.PointIdsList(points=[])
    wait_until(lambda: bool(eu.delete("filtered", points_selector=nothing)), 30, "eu takes writes of it")
    for name in names[1::2]:
        assert eu.create_payload_index("filtered", name, FIELDS[name]).status == models.UpdateStatus.COMPLETED
    wait_until(lambda: set(us.get_collection("filtered").payload_schema) == set(FIELDS), 30, "us knows all fields")
    yield us, eu
    us.close()
    eu.close()


def field(key, **kw):
    return models.FieldCondition(key=key, **kw)


def value(key, v):
    return field(key, match=models.MatchValue(value=v))


F = models.Filter
CASES = {
    "value": (F(must=[value("kind", "kind-3")]), lambda d: d["kind"] == "kind-3"),
    "integer": (F(must=[value("year", 1912)]), lambda d: d["year"] == 1912),
    "bool": (F(must=[value("sold", True)]), lambda d: d["sold"]),
    "any": (F(must=[field("kind", match=models.MatchAny(any=["kind-1", "kind-2"]))]), lambda d: d["kind"] in ("kind-1", "kind-2")),
    "except": (F(must=[field("year", match=models.MatchExcept(**{"except": [1900, 1901]}))]), lambda d: d["year"] > 1901),
    "list": (F(must=[value("tags", "t4")]), lambda d: "t4" in d["tags"]),
    "range": (F(must=[field("year", range=models.Range(gte=1950, lt=1960))]), lambda d: 1950 <= d["year"] < 1960),
    "floats": (F(must=[field("price", range=models.Range(gt=10.25, lte=20))]), lambda d: d.get("price") and 10.25 < d["price"] <= 20),
    "dates": (F(must=[field("at", range=models.DatetimeRange(gte="2005-01-01T00:00:00Z", lt="2010-01-01"))]), lambda d: "2005" <= d["at"] < "2010"),
    "uuid": (F(must=[value("ref", str(uuid.UUID(int=3)).upper())]), lambda d: d["ref"].endswith("3")),
    "text": (F(must=[field("about", match=models.MatchText(text="LAZY quick"))]), lambda d: "Lazy" in d["about"]),
    "null": (F(must=[models.IsNullCondition(is_null=models.PayloadField(key="price"))]), lambda d: "price" in d and d["price"] is None),
    "empty": (F(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="price"))]), lambda d: d.get("price") is None),
    "count": (F(must=[field("parts", values_count=models.ValuesCount(gte=2))]), lambda d: True),
    "undeclared": (F(must=[value("plain", 4)]), lambda d: d["plain"] == 4),
    "path": (F(must=[value("parts[].size", 7)]), lambda d: any(p["size"] == 7 for p in d["parts"])),
    "nested": (
        F(must=[models.NestedCondition(nested=models.Nested(key="parts", filter=F(must=[value("size", 5), value("made", "us")])))]),
        lambda d: d["parts"][0]["size"] == 5,
    ),
    "not": (F(must_not=[value("kind", "kind-3"), value("sold", True)]), lambda d: d["kind"] != "kind-3" and not d["sold"]),
    "should": (F(should=[value("kind", "kind-3"), value("year", 1905)]), lambda d: d["kind"] == "kind-3" or d["year"] == 1905),
    "min_should": (
        F(min_should=models.MinShould(conditions=[value("sold", True), value("kind", "kind-2"), value("tags", "t1")], min_count=2)),
        lambda d: d["sold"] + (d["kind"] == "kind-2") + ("t1" in d["tags"]) >= 2,
    ),
    "tree": (
        F(must=[F(should=[value("kind", "kind-3"), value("kind", "kind-4")]), field("year", range=models.Range(lt=1950))], must_not=[value("plain", 0)]),
        lambda d: d["kind"] in ("kind-3", "kind-4") and d["year"] < 1950 and d["plain"] != 0,
    ),
    "ids": (F(must=[models.HasIdCondition(has_id=[5, 6, 7, 8]), value("sold", True)]), None),
}


@pytest.mark.parametrize("case", CASES)
def test_every_condition(books, case):
    filter, holds = CASES[case]
    expected = {i for i, d in DOCS.items() if holds(d)} if holds else {6, 8}
    assert 0 < len(expected)
    for client in books:
        found = client.query_points("filtered", query=[1.0] * DIM, query_filter=filter, limit=COUNT).points
        assert {p.id for p in found} == expected
        assert client.count("filtered", count_filter=filter).count == len(expected)
        page, _ = client.scroll("filtered", scroll_filter=filter, limit=COUNT)
        assert [p.id for p in page] == sorted(expected)


def test_payload_schema_tells_types(books):
    for client in books:
        schema = client.get_collection("filtered").payload_schema
        assert {name: info.data_type.value for name, info in schema.items()} == FIELDS
        assert schema["year"].points == COUNT


@pytest.mark.parametrize(
    "filter",
    [F(must=[value("year", "1912")]), F(must=[value("kind", 3)]), F(must=[field("kind", range=models.Range(gt=1))]), F(must=[value("ref", "no uuid")])],
)
def test_condition_of_another_type_is_refused(books, filter):
    us, _ = books
    for ask in (
        lambda: us.query_points("filtered", query=[1.0] * DIM, query_filter=filter),
        lambda: us.count("filtered", count_filter=filter),
        lambda: us.scroll("filtered", scroll_filter=filter),
    ):
        with pytest.raises(UnexpectedResponse) as refused:
            ask()
        assert refused.value.status_code == 400
        assert "declared" in str(refused.value.content)


@pytest.mark.parametrize("schema", ["geo", {"type": "text", "tokenizer": "multilingual"}, None, "nothing"])
def test_schemas_that_are_not_served_are_refused(books, world, schema):
    import httpx

    with httpx.Client(trust_env=False) as http:
        answer = http.put(f"{world['us'].indexer.url}/collections/filtered/index", json={"field_name": "x", "field_schema": schema})
    assert answer.status_code == 400
    assert "field_schema" in answer.json()["status"]["error"]


def test_changes_of_rows_and_declarations_show(books):
    us, eu = books
    filter = F(must=[value("colour", "red")])
    us.set_payload("filtered", {"colour": "red"}, points=[1, 2, 3])
    assert us.count("filtered", count_filter=filter).count == 3
    us.create_payload_index("filtered", "colour", "keyword")
    us.set_payload("filtered", {"colour": "blue"}, points=[2])
    us.delete_payload("filtered", ["colour"], points=[3])
    us.set_payload("filtered", {"colour": ["red", "green"]}, points=[4])
    assert {p.id for p in us.scroll("filtered", scroll_filter=filter)[0]} == {1, 4}
    wait_until(lambda: {p.id for p in eu.scroll("filtered", scroll_filter=filter)[0]} == {1, 4}, 30, "eu shows the same")
    us.delete_payload_index("filtered", "colour")
    assert "colour" not in us.get_collection("filtered").payload_schema
    assert {p.id for p in us.scroll("filtered", scroll_filter=filter)[0]} == {1, 4}
    wait_until(lambda: "colour" not in eu.get_collection("filtered").payload_schema, 30, "eu forgets the index")
