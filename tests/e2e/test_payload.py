"""Payload calls, batches of operations, and deletion by filter, with Qdrant's own client, in two regions."""
from __future__ import annotations

import json

import pytest
from harness.api import Api
from harness.wait import Late, wait_until
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

DIM = 4


@pytest.fixture(scope="module")
def clients(world):
    made = {r.name: QdrantClient(url=r.indexer.url, timeout=120, trust_env=False, check_compatibility=False) for r in world}
    yield made
    for client in made.values():
        client.close()


@pytest.fixture
def eu(clients):
    return clients["eu"]


@pytest.fixture
def us(clients):
    return clients["us"]


@pytest.fixture
def name(request, eu, us):
    name = request.node.name.replace("[", "-").replace("]", "")
    assert eu.create_collection(name, vectors_config=models.VectorParams(size=DIM, distance=models.Distance.DOT))
    wait_until(lambda: us.collection_exists(name) and us.delete(name, points_selector=[]), 30, f"us knows {name}")
    return name


def upsert(client, name: str, points: dict, wait=True) -> None:
    client.upsert(name, [models.PointStruct(id=i, vector=[float(i), 1.0, 0.0, 0.0], payload=payload) for i, payload in points.items()], wait=wait)


def payloads(client, name: str) -> dict:
    return {p.id: p.payload for p in client.scroll(name, limit=10_000)[0]}


def becomes(client, name: str, wanted: dict) -> None:
    try:
        wait_until(lambda: payloads(client, name) == wanted, 30, f"{name} is {wanted}")
    except Late as late:
        raise Late(f"{late}; it is {payloads(client, name)}") from None


def where(key: str, value) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])


def test_payload_calls_by_ids(eu, us, name):
    upsert(eu, name, {1: {"a": 1, "b": 2}, 2: {"a": 1, "b": 2}, 3: {"a": 1, "b": 2}, 4: {"a": 1, "b": 2}})
    becomes(us, name, {i: {"a": 1, "b": 2} for i in range(1, 5)})
    # Half of it in the region where the points were not written.
    assert eu.set_payload(name, {"b": 20, "c": {"d": [1.5]}}, points=[1]).status == models.UpdateStatus.COMPLETED
    assert us.overwrite_payload(name, {"only": True}, points=[2]).status == models.UpdateStatus.COMPLETED
    assert us.delete_payload(name, keys=["b"], points=[3]).status == models.UpdateStatus.COMPLETED
    assert eu.clear_payload(name, points_selector=[4]).status == models.UpdateStatus.COMPLETED
    wanted = {1: {"a": 1, "b": 20, "c": {"d": [1.5]}}, 2: {"only": True}, 3: {"a": 1}, 4: {}}
    becomes(eu, name, wanted)
    becomes(us, name, wanted)
    # The vectors are what they were; at home bit by bit.
    assert [p.vector for p in eu.retrieve(name, ids=[1, 2, 3, 4], with_vectors=True)] == [[float(i), 1, 0, 0] for i in range(1, 5)]
    # A later upsert replaces all of it, patches too.
    upsert(us, name, {1: {"z": 0}})
    becomes(eu, name, wanted | {1: {"z": 0}})


def test_two_regions_patch_one_point(eu, us, name):
    upsert(eu, name, {1: {"a": 0, "b": 0}})
    becomes(us, name, {1: {"a": 0, "b": 0}})
    eu.set_payload(name, {"a": "eu"}, points=[1])
    us.set_payload(name, {"b": "us"}, points=[1])
    for client in (eu, us):
        becomes(client, name, {1: {"a": "eu", "b": "us"}})


def test_operations_in_one_request(eu, us, name):
    upsert(eu, name, {1: {"n": 1}, 2: {"n": 2}})
    done = eu.batch_update_points(name, [
        models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=3, vector=[3.0, 1, 0, 0], payload={"n": 3})])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"m": 1}, points=[1, 3])),
        models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"o": 1}, points=[1])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"p": 1}, points=[1])),
        models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["n"], points=[3])),
        models.DeleteOperation(delete=models.PointIdsList(points=[2])),
    ])
    assert [r.status for r in done] == [models.UpdateStatus.COMPLETED] * 6
    for client in (eu, us):
        becomes(client, name, {1: {"o": 1, "p": 1}, 3: {"m": 1}})
    with pytest.raises(UnexpectedResponse, match="operations.1.: clear_payload: .*filter"):
        eu.batch_update_points(name, [models.DeleteOperation(delete=models.PointIdsList(points=[1])),
                                      models.ClearPayloadOperation(clear_payload=models.FilterSelector(filter=where("p", 1)))])
    assert set(payloads(eu, name)) == {1, 3}  # nothing of it was done


def test_by_filter(eu, us, name):
    points = {i: {"n": i, "odd": i % 2 == 1} for i in range(1, 10)}
    upsert(eu, name, points)
    becomes(us, name, points)
    assert us.set_payload(name, {"seen": "us"}, points=where("odd", True)).status == models.UpdateStatus.COMPLETED
    assert us.overwrite_payload(name, {"two": 2}, points=where("n", 2)).status == models.UpdateStatus.COMPLETED
    assert us.delete_payload(name, keys=["n"], points=where("n", 4)).status == models.UpdateStatus.COMPLETED
    assert us.clear_payload(name, points_selector=models.FilterSelector(filter=where("n", 6))).status == models.UpdateStatus.COMPLETED
    points |= {i: points[i] | {"seen": "us"} for i in points if i % 2} | {2: {"two": 2}, 4: {"odd": False}, 6: {}}
    becomes(us, name, points)
    becomes(eu, name, points)
    assert eu.delete(name, points_selector=models.FilterSelector(filter=where("seen", "us"))).status == models.UpdateStatus.COMPLETED
    rest = {i: points[i] for i in (2, 4, 6, 8)}
    assert payloads(eu, name) == rest  # at once: it was waited for
    becomes(us, name, rest)


def test_the_answer_counts_what_it_did_page_by_page(world, us, eu, name):
    n = 9000  # three pages
    for first in range(0, n, 3000):
        upsert(us, name, {i: {"g": i % 3} for i in range(first, first + 3000)})
    api = Api(world["us"].indexer.url)
    done = api.post(f"/collections/{name}/points/delete?wait=true", {"filter": {"must_not": [{"key": "g", "match": {"value": 0}}]}})
    assert done["points"] == 6000 and done["status"] == "completed"
    assert us.count(name).count == 3000
    # The token stands for all of it: where it is covered, in the other region, all of it is done.
    assert api_count(world["eu"].indexer.url, name, done["token"]) == 3000
    done = api.post(f"/collections/{name}/points/delete", {"filter": {}})
    assert done["points"] == 3000 and done["status"] == "acknowledged"
    assert api_count(world["us"].indexer.url, name, done["token"]) == 0
    assert api.post(f"/collections/{name}/points/delete?wait=true", {"filter": {}})["points"] == 0


def api_count(url: str, name: str, token: str) -> int:
    api = Api(url)
    status, text = api.request("POST", f"/collections/{name}/points/count?timeout=60", {"exact": True}, headers={"X-Antipode-Token": token})
    assert status == 200, text
    return json.loads(text)["result"]["count"]


def test_what_is_not_understood_is_refused_and_nothing_done(world, eu, name):
    upsert(eu, name, {1: {"a": 1}})
    api, producer = Api(world["eu"].indexer.url), Api(world["eu"].producer.url)
    path = f"/collections/{name}/points"
    refused = [
        (api, "delete", {"filter": {"must": [{"key": "a", "match": {"phrase": "x"}}]}}, "phrase"),
        (api, "delete", {"filter": {}, "points": [1]}, "both"),
        (api, "delete", {"filter": {}, "force": 1}, "force"),
        (api, "delete", {"filter": {}, "shard_key": "a"}, "shard_key"),
        (api, "payload", {"filter": {}, "payload": {"b": 1}, "key": "x"}, "key"),
        (api, "payload", {"filter": {}, "payload": 1}, "object"),
        (api, "payload/delete", {"filter": {}, "keys": ["a.b"]}, "a.b"),
        (producer, "delete", {"filter": {}}, world["eu"].indexer.url),
        (producer, "payload/clear", {"filter": {}}, world["eu"].indexer.url),
    ]
    for who, call, body, word in refused:
        status, text = who.request("POST", f"{path}/{call}", body)
        assert status == 400 and word in text, (call, body, status, text)
    assert api.request("POST", f"{path}/delete?wait=maybe", {"filter": {}})[0] == 400
    assert api.request("POST", f"{path}/delete?level=strong", {"filter": {}})[0] == 400
    assert api.request("POST", f"/collections/none-{name}/points/delete", {"filter": {}})[0] == 404
    assert payloads(eu, name) == {1: {"a": 1}}


def test_an_update_that_was_not_seen_survives(world, eu, us, name):
    """us deletes by filter what eu has just changed. In eu the delete comes last, in us the update: the update stays in both.

    Even though us has patched the point meanwhile, which is newer than the update: the patch was not what it deleted.
    """
    upsert(eu, name, {1: {"a": 1}, 2: {"a": 1}})
    becomes(us, name, {1: {"a": 1}, 2: {"a": 1}})
    world["us"].mirror.stop()
    upsert(eu, name, {1: {"a": 1, "changed": True}})
    us.set_payload(name, {"patched": True}, points=[1, 2])
    us.delete(name, points_selector=models.FilterSelector(filter=where("patched", True)))
    assert payloads(us, name) == {}
    wanted = {1: {"a": 1, "changed": True, "patched": True}}
    becomes(eu, name, wanted)  # the delete has crossed: it ended 2, and not 1
    world["us"].mirror.start()
    becomes(us, name, wanted)
    assert payloads(eu, name) == wanted
