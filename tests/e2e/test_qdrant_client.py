"""The official Python client of Qdrant against `us`, while another client writes in `eu`.

Most of what is read in one region here was written in the other: none of it passes where replication does not work.
"""

import threading
import uuid

import httpx
import numpy as np
import pytest
from harness.wait import Late, wait_until
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

DIM = 32
TOKEN = "X-Antipode-Token"


def connect(url: str) -> QdrantClient:
    return QdrantClient(url=url, timeout=120, trust_env=False, check_compatibility=False)


@pytest.fixture
def us(world):
    client = connect(world["us"].indexer.url)
    yield client
    client.close()


@pytest.fixture
def eu(world):
    client = connect(world["eu"].indexer.url)
    yield client
    client.close()


@pytest.fixture
def name(request, us, eu):
    """A collection of the test's own, made in us and known in eu."""
    name = request.node.name.replace("[", "-").replace("]", "")
    assert us.create_collection(name, vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    wait_until(lambda: knows(eu, name), 30, f"eu knows {name}")
    return name


def knows(client: QdrantClient, name: str) -> bool:
    """Its reads, and its writes: a deletion of nothing is refused only where the collection is unknown."""
    return client.collection_exists(name) and bool(client.delete(name, points_selector=models.PointIdsList(points=[])))


def clustered(n: int, seed: int) -> np.ndarray:
    """Unit vectors around eight centres, as embeddings lie."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(8, DIM))
    vectors = centres[random.integers(0, 8, n)] + 0.5 * random.normal(size=(n, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def points_of(vectors: np.ndarray, first: int = 0, **payload) -> list[models.PointStruct]:
    return [models.PointStruct(id=first + i, vector=v.tolist(), payload={"n": first + i, "even": (first + i) % 2 == 0, **payload})
            for i, v in enumerate(vectors)]


def arrives(client: QdrantClient, collection: str, count: int) -> None:
    seen = []
    try:
        wait_until(lambda: seen.append(client.count(collection).count) or seen[-1] == count, 30, f"{collection} has {count} points")
    except Late as late:
        raise Late(f"{late}; it has {seen[-1] if seen else 'never answered'}") from None


def test_version_and_health(world, us):
    with httpx.Client(trust_env=False) as http:
        root = http.get(world["us"].indexer.url + "/").json()
    assert root["version"].split(".")[:2] == ["1", "18"]
    assert us.info().version == root["version"]


def test_collection_info(us, eu, name):
    for client in (us, eu):
        info = client.get_collection(name)
        assert info.status == models.CollectionStatus.GREEN
        assert info.points_count == 0
        assert info.config.params.vectors == models.VectorParams(size=DIM, distance=models.Distance.COSINE)
        assert info.config.metadata["antipode"]["codec"] == f"TCQ{DIM // 4}"
        assert name in [c.name for c in client.get_collections().collections]
    with pytest.raises(UnexpectedResponse) as refused:
        us.create_collection(name, vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    assert refused.value.status_code == 409 and b"already exists" in refused.value.content


def test_written_in_eu_found_in_us(us, eu, name):
    vectors = clustered(300, 1)
    done = eu.upsert(name, points_of(vectors[:100]))
    assert done.status == models.UpdateStatus.COMPLETED
    assert eu.count(name).count == 100  # wait=true: seen in its own region at once
    eu.upsert(name, models.Batch(ids=list(range(100, 200)), vectors=vectors[100:200].tolist(),
                                 payloads=[{"n": i, "even": i % 2 == 0} for i in range(100, 200)]))
    eu.upload_points(name, points_of(vectors[200:], 200), batch_size=32, wait=True)
    arrives(us, name, 300)

    for client in (us, eu):
        for i in (0, 99, 150, 299):
            best = client.query_points(name, query=vectors[i].tolist(), limit=3, with_payload=True).points
            assert best[0].id == i and best[0].score == pytest.approx(1, abs=0.02)
            assert best[0].payload == {"n": i, "even": i % 2 == 0}
            assert best[0].score >= best[1].score >= best[2].score
    at_home = eu.query_points(name, query=vectors[7].tolist(), limit=1, with_vectors=True).points[0]
    np.testing.assert_allclose(at_home.vector, vectors[7], rtol=0, atol=1e-6)  # raw: home


def test_both_write_at_once(us, eu, name):
    """Each region writes its half while the other does; both end with all of it, and one winner of what both wrote."""
    vectors = clustered(400, 2)

    def write(client, own):
        for start in range(0, 200, 20):
            client.upsert(name, points_of(vectors[own * 200 + start:own * 200 + start + 20], own * 200 + start, by=own))
            client.upsert(name, [models.PointStruct(id=1000, vector=vectors[start].tolist(), payload={"by": own, "start": start})])

    writers = [threading.Thread(target=write, args=(client, own)) for own, client in enumerate((us, eu))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for client in (us, eu):
        arrives(client, name, 401)
    wait_until(lambda: us.retrieve(name, [1000])[0].payload == eu.retrieve(name, [1000])[0].payload, 30, "both show one winner")
    both = [{p.id: p.payload for p in client.scroll(name, limit=1000)[0]} for client in (us, eu)]
    assert both[0] == both[1]


def test_query_by_id_and_offset(us, eu, name):
    vectors = clustered(60, 3)
    eu.upsert(name, points_of(vectors))
    arrives(us, name, 60)
    for client in (us, eu):
        hits = client.query_points(name, query=5, limit=10).points
        assert 5 not in [h.id for h in hits] and len(hits) == 10
        later = client.query_points(name, query=5, limit=4, offset=3).points
        assert [h.id for h in later] == [h.id for h in hits[3:7]]
        with pytest.raises(UnexpectedResponse) as missing:
            client.query_points(name, query=12345)
        assert missing.value.status_code == 404
    truth = np.argsort(-(vectors @ vectors[5]))
    assert [h.id for h in eu.query_points(name, query=5, limit=5, search_params=models.SearchParams(exact=True)).points] == truth[1:6].tolist()
    batch = us.query_batch_points(name, [models.QueryRequest(query=5, limit=2), models.QueryRequest(query=vectors[9].tolist(), limit=1)])
    assert len(batch[0].points) == 2 and batch[1].points[0].id == 9
    threshold = us.query_points(name, query=vectors[9].tolist(), limit=60, score_threshold=0.9).points
    assert threshold and all(h.score >= 0.9 for h in threshold)


def test_filters_scroll_count(us, eu, name):
    eu.upsert(name, points_of(clustered(120, 4)))
    arrives(us, name, 120)
    even = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])
    low = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(gte=10, lt=20))],
                        must_not=[models.FieldCondition(key="n", match=models.MatchAny(any=[12, 13]))])
    assert us.count(name, count_filter=even).count == 60
    assert us.count(name, count_filter=low).count == 8
    hits = us.query_points(name, query=3, query_filter=low, limit=50, with_payload=["n"]).points
    assert sorted(h.id for h in hits) == [10, 11, 14, 15, 16, 17, 18, 19]
    assert hits[0].payload == {"n": hits[0].id}

    seen, offset = [], None
    while True:
        page, offset = us.scroll(name, scroll_filter=even, limit=7, offset=offset, with_payload=False, with_vectors=True)
        assert all(p.payload is None and len(p.vector) == DIM for p in page)
        seen += [p.id for p in page]
        if offset is None:
            break
    assert seen == list(range(0, 120, 2))
    by_id, _ = us.scroll(name, scroll_filter=models.Filter(must=[models.HasIdCondition(has_id=[3, 1, 999])]), limit=9999)
    assert [p.id for p in by_id] == [1, 3]
    with pytest.raises(UnexpectedResponse) as refused:
        us.count(name, count_filter=models.Filter(must=[models.FieldCondition(key="n", geo_radius=models.GeoRadius(
            center=models.GeoPoint(lon=1, lat=1), radius=1))]))
    assert refused.value.status_code == 400 and b"geo_radius" in refused.value.content


def test_delete_and_overwrite_across_regions(us, eu, name):
    vectors = clustered(20, 5)
    eu.upsert(name, points_of(vectors, by="eu"))
    arrives(us, name, 20)
    assert us.delete(name, points_selector=[0, 1, 2]).status == models.UpdateStatus.COMPLETED
    assert us.count(name).count == 17 and us.retrieve(name, [1]) == []
    us.upsert(name, points_of(vectors[10:11], 10, by="us"))
    assert us.retrieve(name, [10])[0].payload["by"] == "us"
    arrives(eu, name, 17)
    wait_until(lambda: eu.retrieve(name, [10])[0].payload["by"] == "us", 30, "eu shows what us overwrote")
    assert [p.id for p in eu.retrieve(name, [0, 5, 1, 4])] == [5, 4]
    point = eu.retrieve(name, [5], with_vectors=True)[0]
    np.testing.assert_allclose(point.vector, vectors[5], rtol=0, atol=1e-6)


def test_read_your_writes_at_home(us, name):
    """wait=true: whatever was answered is seen by the next read, every time."""
    vectors = clustered(50, 6)
    for i in range(50):
        us.upsert(name, [models.PointStruct(id=1, vector=vectors[i].tolist(), payload={"i": i})])
        assert us.retrieve(name, [1])[0].payload == {"i": i}
    acknowledged = us.upsert(name, [models.PointStruct(id=2, vector=vectors[0].tolist())], wait=False)
    assert acknowledged.status == models.UpdateStatus.ACKNOWLEDGED
    arrives(us, name, 2)


def test_session_token_reads_across_regions(world, us, name):
    """The token of a write in eu makes a read in us wait for it."""
    with httpx.Client(trust_env=False, timeout=120) as http:
        for i in range(20):
            body = {"points": [{"id": 7, "vector": clustered(1, i)[0].tolist(), "payload": {"i": i}}]}
            wrote = http.put(f"{world['eu'].indexer.url}/collections/{name}/points", json=body)
            assert wrote.status_code == 200, wrote.text
            token = wrote.headers[TOKEN]
            assert wrote.json()["result"]["status"] == "acknowledged" and wrote.json()["result"]["token"] == token
            read = http.get(f"{world['us'].indexer.url}/collections/{name}/points/7", headers={TOKEN: token}, params={"timeout": 20})
            assert read.status_code == 200, read.text
            assert read.json()["result"]["payload"] == {"i": i}
        assert http.get(f"{world['us'].indexer.url}/collections/{name}", headers={TOKEN: "ap1.x"}).status_code == 400


def test_as_langchain_does(us, eu):
    """A vector named "", ids without hyphens, nested metadata, `completed` or it is no success."""
    name = "langchain"
    us.create_collection(name, vectors_config={"": models.VectorParams(size=DIM, distance=models.Distance.COSINE)})
    params = us.get_collection(name).config.params.vectors
    assert params[""].size == DIM
    wait_until(lambda: knows(eu, name), 30, "eu knows it")
    vectors, ids = clustered(30, 7), [uuid.uuid4().hex for _ in range(30)]
    eu.upsert(name, [models.PointStruct(id=i, vector={"": v.tolist()}, payload={"page_content": f"text {n}", "metadata": {"source": f"s{n % 3}"}})
                     for n, (i, v) in enumerate(zip(ids, vectors))])
    arrives(us, name, 30)
    hits = us.query_points(name, query=vectors[3].tolist(), using="", limit=4, with_payload=True, with_vectors=False).points
    assert uuid.UUID(hits[0].id).hex == ids[3] and hits[0].payload["page_content"] == "text 3"
    only = models.Filter(must=[models.FieldCondition(key="metadata.source", match=models.MatchValue(value="s1"))])
    assert {h.payload["metadata"]["source"] for h in us.query_points(name, query=vectors[3].tolist(), using="", query_filter=only).points} == {"s1"}
    assert len(us.retrieve(name, ids[:5], with_payload=True)) == 5
    assert us.delete(name, points_selector=ids[:10]).status == models.UpdateStatus.COMPLETED
    assert us.count(name).count == 20
    assert us.delete_collection(name)


def test_collections_come_and_go(us, eu, name):
    vectors = clustered(10, 8)
    eu.upsert(name, points_of(vectors))
    arrives(us, name, 10)
    assert us.delete_collection(name)
    assert not us.collection_exists(name)
    wait_until(lambda: not eu.collection_exists(name), 30, "eu has dropped it")
    assert us.create_collection(name, vectors_config=models.VectorParams(size=DIM, distance=models.Distance.DOT))
    assert us.count(name).count == 0  # what was in the first one does not come back
    wait_until(lambda: knows(eu, name), 30, "eu knows the new one")
    assert eu.get_collection(name).config.params.vectors.distance == models.Distance.DOT
    eu.upsert(name, points_of(vectors[:3]))
    arrives(us, name, 3)


@pytest.mark.parametrize("call, status, says", [
    (lambda c, n: c.query_points("no-such", query=[0.1] * DIM), 404, "`no-such` doesn't exist"),
    (lambda c, n: c.upsert("no-such", [models.PointStruct(id=1, vector=[0.1] * DIM)]), 404, "no-such"),
    (lambda c, n: c.query_points(n, query=[0.1] * (DIM - 1)), 400, "expected dim: 32, got 31"),
    (lambda c, n: c.query_points(n, query=[0.0] * DIM), 400, "zero vector"),
    (lambda c, n: c.query_points(n, query=[0.1] * DIM, using="other"), 400, "other"),
    (lambda c, n: c.query_points(n, query=[0.1] * DIM, limit=0), 400, "limit"),
    (lambda c, n: c.query_points(n, query=[0.1] * DIM, limit=1_000_000), 400, "10000"),
    (lambda c, n: c.query_points(n, query=[0.1] * DIM, consistency="majority"), 400, "consistency=majority"),
    (lambda c, n: c.query_points(n, query=models.RecommendQuery(recommend=models.RecommendInput(positive=[1]))), 400, "recommend"),
    (lambda c, n: c.query_points_groups(n, group_by="a", query=[0.1] * DIM), 400, "query/groups"),
    (lambda c, n: c.facet(n, key="a"), 400, "facet"),
    (lambda c, n: c.upsert(n, [models.PointStruct(id=1, vector=[0.1] * 3)]), 400, "32"),
    (lambda c, n: c.upsert(n, [models.PointStruct(id=1, vector=[0.0] * DIM)]), 400, "zero"),
    (lambda c, n: c.upsert(n, [models.PointStruct(id=1, vector=[0.1] * DIM)], ordering=models.WriteOrdering.STRONG), 400, "ordering"),
    (lambda c, n: c.set_payload(n, payload={"a": 1}, points=[1], key="b"), 400, r'\"key\" is not supported'),
    (lambda c, n: c.update_vectors(n, [models.PointVectors(id=1, vector=[0.1] * DIM)]), 400, "not supported"),
    (lambda c, n: c.update_collection(n, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1)), 400, "not supported"),
    (lambda c, n: c.create_snapshot(n), 400, "not supported"),
])
def test_refusals(us, shared_name, call, status, says):
    with pytest.raises(UnexpectedResponse) as refused:
        call(us, shared_name)
    assert (refused.value.status_code, says in refused.value.content.decode()) == (status, True), refused.value.content
    assert us.count(shared_name).count == 0  # and nothing was published


@pytest.fixture(scope="module")
def shared_name(world):
    client = connect(world["us"].indexer.url)
    client.create_collection("refusals", vectors_config=models.VectorParams(size=DIM, distance=models.Distance.COSINE))
    client.close()
    return "refusals"


def test_payload_index_is_taken(us, name):
    """LlamaIndex asks for indexes before it writes."""
    assert us.create_payload_index(name, "n", models.PayloadSchemaType.INTEGER).status == models.UpdateStatus.COMPLETED
