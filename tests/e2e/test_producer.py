"""The producer alone, against a real Kafka: what it writes is read back with somebody else's Kafka client and Avro."""
import concurrent.futures
import ctypes
import hashlib
import io
import itertools
import json
import random
import socket
import struct
import time
import uuid

import numpy
import pytest
from qdrant_client import QdrantClient, models

from harness.api import Api, ApiError
from harness.topics import read_topic
from harness.wait import wait_until

xxhash = ctypes.CDLL("libxxhash.so.0")  # what it is built with; there is no second opinion on this one
xxhash.XXH3_64bits.restype, xxhash.XXH3_64bits.argtypes = ctypes.c_uint64, [ctypes.c_char_p, ctypes.c_size_t]

names = (f"c{i}" for i in itertools.count())


@pytest.fixture(scope="module")
def eu(module_world):
    """A region with a broker and a producer, nothing else."""
    world = module_world(["eu"], overrides={"producer": {"codec.train_rows": 500, "request_timeout_ms": 3000}})
    world.start(daemons=False)
    world["eu"].producer.start().wait_ready()
    yield world["eu"]


@pytest.fixture
def api(eu):
    if not eu.producer.alive():
        eu.producer.start()
    eu.producer.wait_ready()
    return Api(eu.producer.url)


@pytest.fixture
def make(api):
    """make(dim, distance, **antipode): the name of a new collection."""
    def create(dim=4, distance="Dot", **antipode):
        name = next(names)
        assert api.put(f"/collections/{name}", {"vectors": {"size": dim, "distance": distance}, **({"antipode": antipode} if antipode else {})}) is True
        return name
    return create


def refused(api, method, path, body, status, words, headers=None):
    with pytest.raises(ApiError) as e:
        api.call(method, path, body, headers)
    assert e.value.status == status, e.value
    error = json.loads(e.value.body)["status"]["error"]
    assert words in error, error
    return json.loads(e.value.body)


def collection_id(name, generation=1):
    text = name.encode() + b"\0" + struct.pack("<Q", generation)
    return xxhash.XXH3_64bits(text, len(text))


def murmur2(data: bytes) -> int:
    """org.apache.kafka.common.utils.Utils.murmur2, from its description."""
    m, h = 0x5bd1e995, 0x9747b28c ^ len(data)
    for i in range(0, len(data) - len(data) % 4, 4):
        k = int.from_bytes(data[i:i + 4], "little") * m & 0xffffffff
        k = (k ^ k >> 24) * m & 0xffffffff
        h = h * m & 0xffffffff ^ k
    rest = data[len(data) - len(data) % 4:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & 0xffffffff
    h = (h ^ h >> 13) * m & 0xffffffff
    return h ^ h >> 15


def mutations(eu):
    return read_topic(eu.bootstrap, "vec-mutations")


def of_collection(records, name, generation=1):
    wanted = collection_id(name, generation)
    return [r for r in records if r.collection == wanted]


def lanes(records):
    """(partition, stream) -> its records in order."""
    out = {}
    for r in records:
        out.setdefault((r.partition, r.stream), []).append(r)
    return out


def check_lanes(records):
    """Numbers from 1 without a hole, clocks that rise with them, keys where they belong; each stream begins with a hello
    that says where the one before of its line ended. Returns the streams, oldest first."""
    by_lane = lanes(records)
    for (partition, _), lane in by_lane.items():
        assert [r.value["seq"] for r in lane] == list(range(1, len(lane) + 1))
        clocks = [r.value["hlc"] if r.value["clock"] is None else r.value["clock"] for r in lane]
        assert clocks == sorted(set(clocks))
        for r in lane:
            assert r.value["region"] == "eu"
            if r.value["op"] == "HEARTBEAT":
                assert r.key is None
            else:
                assert (murmur2(r.key) & 0x7fffffff) % 4 == partition
    streams = sorted({stream for _, stream in by_lane})
    for partition in {p for p, _ in by_lane}:
        before = None
        for stream in streams:
            hello = json.loads(by_lane[partition, stream][0].value["payload"])["hello"]
            assert int(hello["predecessor"], 16) == (before or 0)
            assert hello["ended"] == (len(by_lane[partition, before]) if before else 0)
            before = stream
    return streams


# ---- what is published ---------------------------------------------------------------------------------------


def test_points_are_events_as_documented(eu, api, make):
    c = make(4, "Cosine", codec="none")
    some = str(uuid.uuid4())
    result = api.put(f"/collections/{c}/points", {"points": [
        {"id": 17, "vector": [1, 2, 3, 4], "payload": {"a": [1, {"b": "é"}]}},
        {"id": some, "vector": [4, 3, 2, 1]},
        {"id": some.replace("-", "").upper(), "vector": [1, 1, 1, 1]},
        {"vector": [0.5, 0, 0, 0]}]})
    assert result["status"] == "acknowledged" and result["token"] == api.headers["X-Antipode-Token"]
    api.post(f"/collections/{c}/points/delete", {"points": [17]})
    records = mutations(eu)
    check_lanes(records)
    records = of_collection(records, c)
    by_point = {}
    for r in sorted(records, key=lambda r: r.value["hlc"]):
        by_point.setdefault(r.point, []).append(r)
    upsert, delete = by_point[17]
    norm = numpy.array([1, 2, 3, 4], "<f4") / numpy.linalg.norm([1, 2, 3, 4])
    assert numpy.allclose(numpy.frombuffer(upsert.value["vector"], "<f4"), norm, atol=1e-6)
    assert json.loads(upsert.value["payload"]) == {"a": [1, {"b": "é"}]}
    assert delete.value["op"] == "DELETE" and delete.value["vector"] is None
    assert delete.partition == upsert.partition and delete.value["hlc"] > upsert.value["hlc"]
    assert len(by_point[some]) == 2  # with and without hyphens
    digest = hashlib.sha1(b"antipode" + struct.pack(">Q", collection_id(c)) + struct.pack("<4f", 0.5, 0, 0, 0)).digest()[:16]
    derived = uuid.UUID(bytes=digest, version=5)  # of the vector as received, not as normalized
    assert str(derived) in by_point
    assert all(r.value["codec"] is None for r in records)


def test_codes_come_once_a_codec_is_trained_and_raw_vectors_stay_home(eu, api, make):
    c = make(16, "Euclid")
    rng = numpy.random.default_rng(1)
    centers = rng.normal(size=(20, 16))
    rows = (centers[rng.integers(20, size=900)] + rng.normal(scale=0.1, size=(900, 16))).astype("<f4")

    def post(part, first):
        out = io.BytesIO()
        numpy.save(out, part)
        return api.call("POST", f"/collections/{c}/points/bulk?first_id={first}", out.getvalue(), {"Content-Type": "application/x-npy"})

    assert post(rows[:600], 0)["points"] == 600
    wait_until(lambda: api.metric("antipode_producer_codec_in_use", collection=c) == 1, 30, "a codec is in use")
    assert post(rows[600:], 600)["points"] == 300
    records = of_collection(mutations(eu), c)
    floats = [r for r in records if r.value["codec"] is None]
    codes = [r for r in records if r.value["codec"] is not None]
    assert {r.point for r in codes} >= set(range(600, 900)) and all(len(r.value["vector"]) == 4 for r in codes)
    assert all(numpy.array_equal(numpy.frombuffer(r.value["vector"], "<f4"), rows[r.point]) for r in floats)
    raw = {(r.partition, r.value["writer"], r.value["seq"]): r for r in of_collection(read_topic(eu.bootstrap, "raw-vectors"), c)}
    assert len(raw) == len(codes)
    for r in codes:
        its = raw[r.partition, r.value["writer"], r.value["seq"]]
        assert its.key == r.key and its.value["hlc"] == r.value["hlc"]
        assert numpy.array_equal(numpy.frombuffer(its.value["vector"], "<f4"), rows[r.point])
    # The codec is whole in vec-control, before its use.
    control = read_topic(eu.bootstrap, "vec-control")
    use = [r for r in control if r.value["kind"] == "CODEC_USE" and r.value["codec_use"]["collection"] == struct.pack(">Q", collection_id(c))]
    assert len(use) == 1 and use[0].value["codec_use"]["codec"] == codes[0].value["codec"]
    chunks = [r.value["codec"] for r in control if r.value["kind"] == "CODEC" and r.value["codec"]["codec"] == codes[0].value["codec"]]
    blob = b"".join(k["bytes"] for k in sorted(chunks, key=lambda k: k["chunk"]))
    assert hashlib.blake2b(blob, digest_size=32).digest() == chunks[0]["hash"] and chunks[0]["hash"][:8] == codes[0].value["codec"]


def test_ndjson_streams_in_chunks(eu, api, make):
    """The client sends a body of unknown length in chunks of its own."""
    c = make(4, "Dot", codec="none")

    def lines():
        for i in range(3000):
            yield (json.dumps({"id": i, "vector": [i, 1, 2, 3], "payload": {"i": i}}) + "\n").encode()

    result = api.call("POST", f"/collections/{c}/points/bulk", lines(), {"Content-Type": "application/x-ndjson"})
    assert result["points"] == result["rows"] == 3000 and result["errors"] == [] and result["token"]
    records = of_collection(mutations(eu), c)
    assert {r.point: json.loads(r.value["payload"])["i"] for r in records} == {i: i for i in range(3000)}


def test_a_generation_is_another_collection(eu, api, make):
    c = make(4, "Dot", codec="none")
    api.put(f"/collections/{c}/points", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]})
    refused(api, "PUT", f"/collections/{c}", {"vectors": {"size": 4, "distance": "Dot"}}, 409, "already exists")
    assert api.delete(f"/collections/{c}") is True
    refused(api, "PUT", f"/collections/{c}/points", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}, 404, "doesn't exist")
    assert api.delete(f"/collections/{c}") is False
    assert api.put(f"/collections/{c}", {"vectors": {"size": 2, "distance": "Euclid"}}) is True
    api.put(f"/collections/{c}/points", {"points": [{"id": 1, "vector": [1, 2]}]})
    records = mutations(eu)
    assert len(of_collection(records, c, 1)) == len(of_collection(records, c, 2)) == 1


# ---- bad input: refused, and nothing published ----------------------------------------------------------------


BAD_POINTS = [
    ({"points": [{"id": 1, "vector": [1, 2, 3]}]}, 400, "points[0]: Wrong input: Vector dimension error: expected dim: 4, got 3"),
    ({"points": [{"id": 1, "vector": [1, 2, 3, 4]}, {"id": 2, "vector": [0, 0, 0, 0]}]}, 400, "points[1]: a zero vector"),
    (b'{"points":[{"id":1,"vector":[1,2,3,NaN]}]}', 400, "points[0]: vector[3] is not a number"),
    (b'{"points":[{"id":1,"vector":[1,2,3,1e39]}]}', 400, "points[0]: vector[3] is not finite as float32"),
    (b'{"points":[{"id":1,"vector":[1,2,3,1e999]}]}', 400, "points[0]: vector[3] is not finite as float32"),
    (b'{"points":[{"id":1,', 400, "malformed JSON at byte"),
    ({"points": [{"id": "seventeen", "vector": [1, 2, 3, 4]}]}, 400, "points[0]: id \"seventeen\" is not a UUID"),
    ({"points": [{"id": -1, "vector": [1, 2, 3, 4]}]}, 400, "points[0]: id -1 is neither"),
    ({"points": [{"id": 1, "vector": [1, 2, 3, 4], "vectors": []}]}, 400, "points[0]: unknown field \"vectors\""),
    ({"points": [{"id": 1, "vector": [1, 2, 3, 4]}], "shard_key": "a"}, 400, "shard_key"),
    ({"batch": {"ids": [1, 2], "vectors": [[1, 2, 3, 4]]}}, 400, "2 ids, 1 vectors"),
    ({"points": [{"id": 1, "vector": [1, 2, 3, 4], "payload": {"x": "y" * 1_100_000}}]}, 413, "max_record_bytes"),
]


def test_bad_points_are_refused_whole(eu, api, make):
    c = make(4, "Cosine", codec="none")
    for body, status, words in BAD_POINTS:
        refused(api, "PUT", f"/collections/{c}/points", body, status, words)
    refused(api, "PUT", "/collections/nobody/points", {"points": []}, 404, "doesn't exist")
    refused(api, "POST", f"/collections/{c}/points/delete", {"filter": {"must": []}}, 400, "filter")
    refused(api, "POST", f"/collections/{c}/points/delete", {"points": ["x"]}, 400, "points[0]: id \"x\"")
    assert of_collection(mutations(eu), c) == []


def test_a_body_over_the_limit_is_refused_unread(eu, api, make):
    c = make()
    with socket.create_connection(("127.0.0.1", eu.ports.producer)) as s:
        s.sendall(f"PUT /collections/{c}/points HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 30}\r\n\r\n".encode())
        assert s.recv(100).startswith(b"HTTP/1.1 413")


def test_unknown_and_unsupported_parameters_are_named(api, make):
    c = make()
    point = {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}
    for query, words in (("wait=maybe", "wait"), ("ordering=strong", "ordering=strong is not supported"), ("ordering=x", "ordering"), ("timeout=0", "timeout"), ("whait=true", "unknown query parameter \"whait\"")):
        refused(api, "PUT", f"/collections/{c}/points?{query}", point, 400, words)
    refused(api, "PUT", f"/collections/{c}/points", point, 400, "X-Antipode-Token", {"X-Antipode-Token": "ap1.AAAA"})
    refused(api, "PATCH", f"/collections/{c}", {}, 400, "not supported")
    refused(api, "PUT", f"/collections/{c}/points/vectors", {}, 400, "not supported")
    refused(api, "POST", f"/collections/{c}/points/payload", {"points": [1], "payload": {"a": 1}, "key": "b"}, 400, '"key" is not supported')
    refused(api, "POST", f"/collections/{c}/points/query", {}, 404, "indexer")
    refused(api, "GET", f"/collections/{c}", None, 404, "indexer")
    refused(api, "PUT", f"/collections/{c}/index", {"field_name": "t", "field_schema": "geo"}, 400, "geo")
    assert api.put(f"/collections/{c}/index", {"field_name": "t", "field_schema": "keyword"})["status"] == "completed"


BAD_COLLECTIONS = [
    ({}, "vectors"),
    ({"vectors": {"size": 0, "distance": "Dot"}}, "size"),
    ({"vectors": {"size": 65537, "distance": "Dot"}}, "size"),
    ({"vectors": {"size": 4, "distance": "Manhattan"}}, "Manhattan"),
    ({"vectors": {"size": 4}}, "distance"),
    ({"vectors": {"a": {"size": 4, "distance": "Dot"}, "b": {"size": 4, "distance": "Dot"}}}, "more than one named vector"),
    ({"vectors": {"size": 4, "distance": "Dot", "hnsw_config": {"m": 8}}}, "hnsw_config"),
    ({"vectors": {"size": 4, "distance": "Dot", "datatype": "uint8"}}, "datatype"),
    ({"vectors": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}, "multivector_config"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "sparse_vectors": {"s": {}}}, "sparse_vectors"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "shard_number": 3}, "shard_number"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "replication_factor": 2}, "replication_factor"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "quantization_config": {"scalar": {"type": "int8"}}}, "quantization_config"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "PQ3"}}, "antipode.codec"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "nonsense"}}, "antipode.codec"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "HNSW32"}}, "no standalone codec"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "LSQ2x8"}}, "too slowly"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"codec": "TCQ5"}}, "from 2 to 4 bytes"),
    ({"vectors": {"size": 65536, "distance": "Dot"}, "antipode": {"codec": "TCQ16384"}}, "MiB"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"raw": "away"}}, "antipode.raw"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "antipode": {"topic": "vec-elsewhere"}}, "antipode.topic"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "metadata": {"owner": "me"}}, "owner"),
    ({"vectors": {"size": 4, "distance": "Dot"}, "colour": "red"}, "colour"),
]


@pytest.mark.parametrize("body, words", BAD_COLLECTIONS)
def test_bad_collections_are_refused_by_name(api, body, words):
    answer = refused(api, "PUT", "/collections/bad", body, 400, words)
    assert ".cpp" not in answer["status"]["error"]


def test_a_broken_stream_says_how_far_it_got(eu, api, make):
    c = make(4, "Cosine", codec="none")
    rows = numpy.ones((5000, 4), "<f4")
    rows[4321] = 0
    out = io.BytesIO()
    numpy.save(out, rows)
    answer = refused(api, "POST", f"/collections/{c}/points/bulk?first_id=0", out.getvalue(), 400, "row 4321: a zero vector")
    acknowledged = answer["result"]["points"]
    assert acknowledged == 4096 and answer["result"]["errors"] == [{"row": 4321, "error": "a zero vector has no direction: cosine cannot compare it"}]
    assert {r.point for r in of_collection(mutations(eu), c)} == set(range(acknowledged))
    refused(api, "POST", f"/collections/{c}/points/bulk", b'{"id":1,"vector":[1,2,3,4]}\n{"id":2,"vector":[1,2]}\n', 400, "line 2: Wrong input: Vector dimension error")


# ---- Qdrant's own client ---------------------------------------------------------------------------------------


def test_qdrants_client_writes(eu, api):
    client = QdrantClient(url=eu.producer.url, check_compatibility=True)
    name = next(names)
    assert client.create_collection(name, vectors_config={"": models.VectorParams(size=4, distance=models.Distance.COSINE)}, metadata={"antipode": {"codec": "none"}})
    answer = client.upsert(name, [models.PointStruct(id=1, vector={"": [1, 2, 3, 4]}, payload={"a": 1})], wait=False)
    assert answer.status == models.UpdateStatus.ACKNOWLEDGED
    answer = client.upsert(name, models.Batch(ids=[2, 3], vectors=[[1, 2, 3, 4], [4, 3, 2, 1]]), wait=True, timeout=1)
    assert answer.status == models.UpdateStatus.WAIT_TIMEOUT  # nobody makes it visible here: it says so
    answer = client.delete(name, [3], wait=False)
    assert answer.status == models.UpdateStatus.ACKNOWLEDGED
    assert client.delete_collection(name)
    assert len(of_collection(mutations(eu), name)) == 4


# ---- lives ------------------------------------------------------------------------------------------------------


def write_until_killed(url, c, seed, acked):
    """Upserts until the connection breaks; acked gets the ids that were acknowledged."""
    api, rng = Api(url, timeout_s=10), random.Random(seed)
    try:
        while True:
            ids = [rng.getrandbits(60) for _ in range(rng.randrange(1, 30))]
            api.put(f"/collections/{c}/points", {"points": [{"id": i, "vector": [1, 2, 3, i % 7]} for i in ids]})
            acked += ids
    except (OSError, ApiError):
        pass
    except Exception:  # http.client's many ways to say that the server is gone
        pass


def test_kill_9_loses_nothing_acknowledged_and_the_next_life_says_where_it_ended(eu, api, make):
    c = make(4, "Dot", codec="none")
    seed = int(time.time())
    print("seed", seed)
    rng, acked = random.Random(seed), []
    for life in range(4):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write_until_killed, eu.producer.url, c, rng.getrandbits(30), acked) for _ in range(4)]
            before = len(acked)
            wait_until(lambda: len(acked) > before + 30, 30, "writes are acknowledged")
            time.sleep(rng.uniform(0, 0.5))  # the instant is the point
            eu.producer.kill()
            concurrent.futures.wait(writers)
        eu.producer.start().wait_ready()
    assert len(acked) > 100
    records = mutations(eu)
    streams = check_lanes(records)
    assert len(streams) >= 5
    assert {r.point for r in of_collection(records, c)} >= set(acked)


def test_sigterm_flushes_and_ends_with_0(eu, api, make):
    c = make(4, "Dot", codec="none")
    acked = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write_until_killed, eu.producer.url, c, i, acked) for i in range(2)]
        wait_until(lambda: len(acked) > 30, 30, "writes are acknowledged")
        assert eu.producer.stop() == 0
        concurrent.futures.wait(writers)
    records = mutations(eu)
    check_lanes(records)
    assert {r.point for r in of_collection(records, c)} >= set(acked) and acked


def test_a_second_producer_of_the_same_name_ends_the_first(eu, api):
    from harness.daemon import Daemon
    from harness.ports import free_port
    twin = Daemon("producer", "eu", free_port(), {k: v for k, v in eu.producer.overrides.items() if k != "http.listen"},
                  eu.world.run_dir, eu.world.log_dir, name="eu-twin-producer")
    twin.start().wait_ready()
    try:
        wait_until(lambda: not eu.producer.alive(), 10, "the first producer ends")
        assert eu.producer.process.exit_code == 1
        assert "another producer has started as instance eu-1" in eu.producer.process.log_text()
    finally:
        twin.stop()
    check_lanes(mutations(eu))


def test_idle_partitions_get_heartbeats(eu, api):
    wait_until(lambda: api.metric("antipode_producer_records_total", op="heartbeat") > 8, 10, "heartbeats")
    start, before = time.monotonic(), api.metric("antipode_producer_records_total", op="heartbeat")
    time.sleep(3)  # a rate is measured over time
    more = api.metric("antipode_producer_records_total", op="heartbeat") - before
    assert more <= 4 * 10.7 * (time.monotonic() - start)
    wait_until(lambda: api.metric("antipode_producer_records_total", op="heartbeat") - before >= 8, 10, "heartbeats go on")


# ---- Kafka away -------------------------------------------------------------------------------------------------


def test_kafka_away_and_back(eu, api, make):
    c = make(4, "Dot", codec="none")
    eu.producer.stop()
    eu.producer.start(queue_records=50).wait_ready()
    point = {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}
    eu.kafka.process.freeze()
    try:
        start = time.monotonic()
        answer = refused(api, "PUT", f"/collections/{c}/points?timeout=1", point, 503, "may still be published")
        assert 0.8 < time.monotonic() - start and api.headers["Retry-After"]
        # The queue takes 49 more, then the next is refused at once, whole.
        refused(api, "PUT", f"/collections/{c}/points?timeout=1", {"points": [{"id": i, "vector": [1, 2, 3, 4]} for i in range(100, 149)]}, 503, "may still be published")
        start = time.monotonic()
        refused(api, "PUT", f"/collections/{c}/points", {"points": [{"id": 200, "vector": [1, 2, 3, 4]}]}, 503, "nothing of this request was published")
        assert time.monotonic() - start < 2.5, "at once, not after the 3 s that a request may take"
        assert api.headers["Retry-After"]
        wait_until(lambda: api.request("GET", "/readyz")[0] == 503, 10, "/readyz says that Kafka is away")
        assert "Kafka has acknowledged nothing for" in api.request("GET", "/readyz")[1]
        assert api.request("GET", "/livez")[0] == api.request("GET", "/healthz")[0] == 200
    finally:
        eu.kafka.process.thaw()
    wait_until(lambda: api.request("GET", "/readyz")[0] == 200, 30, "ready again")
    api.put(f"/collections/{c}/points", {"points": [{"id": 300, "vector": [1, 2, 3, 4]}]})
    records = mutations(eu)
    check_lanes(records)
    assert {r.point for r in of_collection(records, c)} == {1, 300, *range(100, 149)}


@pytest.mark.long
def test_a_broker_that_restarts_is_waited_for(eu, api, make):
    c = make(4, "Dot", codec="none")
    acked = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        stop = []

        def write(base):
            mine = Api(eu.producer.url)
            for i in itertools.count(base):
                if stop:
                    return
                status, _ = mine.request("PUT", f"/collections/{c}/points", {"points": [{"id": i, "vector": [1, 2, 3, 4]}]})
                if status == 200:
                    acked.append(i)

        writers = [pool.submit(write, n * 1_000_000) for n in range(2)]
        time.sleep(0.3)
        eu.kafka.kill()
        eu.kafka.start().wait_ready()
        count = len(acked)
        wait_until(lambda: len(acked) > count + 50, 30, "writes go on")
        stop.append(True)
        for w in writers:
            w.result()
    records = mutations(eu)
    check_lanes(records)
    assert {r.point for r in of_collection(records, c)} >= set(acked)
    assert eu.producer.alive()


def test_it_starts_without_kafka_and_says_what_it_waits_for(eu, api):
    eu.producer.stop()
    eu.kafka.stop()
    try:
        eu.producer.start().wait_healthy()
        status, text = api.request("GET", "/readyz")
        assert status == 503 and "starting" in text
        refused(api, "PUT", "/collections/x/points", {"points": []}, 503, "starting")
        assert eu.producer.stop() == 0  # and it can be stopped meanwhile
    finally:
        eu.kafka.start().wait_ready()
        eu.producer.start().wait_ready()


def test_a_missing_topic_and_a_wrong_count_end_the_start(eu, api):
    eu.producer.stop()
    try:
        for more, words in (({"partitions": 7}, "topic vec-mutations has 4 partitions, the key partitions says 7"),
                            ({"partitions": 4, "topics": "vec-nowhere"}, "topic vec-nowhere does not exist in this region's Kafka: create it with 4 partitions")):
            eu.producer.start(**more)
            assert eu.producer.process.wait_ended(20) == 1
            assert words in eu.producer.process.log_text()
    finally:
        eu.producer.overrides.pop("topics", None)
        eu.producer.start(partitions=4).wait_ready()
