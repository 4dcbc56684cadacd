/* Writes records of every kind as JSON lines: what the bytes are, and what somebody else must read out of them.
 *
 *     emit_events [SEED]
 *
 * {"record": "VectorMutation", "key": hex, "value": hex, "fields": {name: value}}; bytes are hex in fields as well, longs
 * are signed as Avro has them. tests/e2e/test_event_format.py decodes them with an Avro implementation that is not ours. */
#include <inttypes.h>
#include <jansson.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/catalog.h"
#include "common/schema.h"
#include "common/watermark.h"

static uint64_t state;

static uint64_t next(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static json_t *hex(const void *bytes, size_t len)
{
    char *text = malloc(2 * len + 1);
    sodium_bin2hex(text, 2 * len + 1, bytes, len);
    json_t *json = json_string(text);
    free(text);
    return json;
}

static json_t *hex64(uint64_t value)
{
    uint8_t bytes[8];
    ap_put_be64(bytes, value);
    return hex(bytes, 8);
}

static void emit(const char *record, const void *key, size_t key_len, const void *value, size_t len, json_t *fields)
{
    json_t *line = json_pack("{s:s, s:o, s:o, s:o}", "record", record, "key", hex(key, key_len), "value", hex(value, len), "fields", fields);
    if (!line || json_dumpf(line, stdout, JSON_COMPACT))
        exit(1);
    putchar('\n');
    json_decref(line);
}

static json_t *longs(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *longs_unless(uint64_t value, uint64_t otherwise)
{
    return value == otherwise ? json_null() : longs(value);
}

static void emit_mutation(uint64_t shape)
{
    static const char *const ops[] = { "UPSERT", "PATCH", "DELETE", "HEARTBEAT" };
    static const char payload[] = "{\"name\":\"caf\xc3\xa9\",\"n\":[1,2.5,null]}";
    uint8_t vector[96], out[AP_EVENT_OVERHEAD + sizeof vector + sizeof payload];
    struct ap_mutation m = { .op = (enum ap_op)(shape & 3), .version = { next() >> 2, { "eu" }, next() | 1 }, .seq = next() >> 40 | 1 };
    struct ap_point_id id;
    struct ap_key key;
    if (shape & 128)
        strcpy(m.version.region.name, "ap-southeast-10");
    for (size_t i = 0; i < sizeof vector; i++)
        vector[i] = (uint8_t)next();
    m.stream = shape & 4 ? next() | 1 : m.version.writer;
    m.clock = shape & 8 ? next() >> 2 : m.version.hlc;
    m.has_codec = (shape & 16) != 0;
    m.codec = m.has_codec ? next() : 0;
    if (shape & 32) {
        m.vector = vector;
        m.vector_len = next() % sizeof vector;
    }
    if (shape & 64) {
        m.payload = payload;
        m.payload_len = next() % 4 ? sizeof payload - 1 : 0;
    }
    ap_point_id_from_u64(next(), &id);
    ap_key_make(next(), &id, &key);
    json_t *fields = json_pack("{s:s, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "op", ops[m.op], "hlc", longs(m.version.hlc),
        "region", m.version.region.name, "writer", longs(m.version.writer), "codec", m.has_codec ? hex64(m.codec) : json_null(),
        "vector", m.vector ? hex(m.vector, m.vector_len) : json_null(), "seq", longs(m.seq), "stream", longs_unless(m.stream, m.version.writer),
        "clock", longs_unless(m.clock, m.version.hlc), "payload", m.payload ? json_stringn(m.payload, m.payload_len) : json_null());
    size_t len = ap_mutation_encode_to(&m, out);
    emit("VectorMutation", key.b, sizeof key.b, out, len, fields);

    struct ap_raw_vector r = { .version = m.version, .stream = m.stream, .seq = m.seq, .vector = vector, .vector_len = m.vector_len };
    fields = json_pack("{s:o, s:s, s:o, s:o, s:o, s:o}", "hlc", longs(r.version.hlc), "region", r.version.region.name, "writer", longs(r.version.writer),
        "vector", hex(vector, r.vector_len), "seq", longs(r.seq), "stream", longs_unless(r.stream, r.version.writer));
    len = ap_raw_vector_encode_to(&r, out);
    emit("RawVector", key.b, sizeof key.b, out, len, fields);
}

/* fields: those of the kind's own record, under its name; the others are null. */
static void emit_control(const struct ap_schemas *schemas, const struct ap_control *c, const char *kind, const char *name, json_t *own)
{
    static const char *const all[] = { "collection", "codec", "codec_use", "incarnation", "region_state", "schema", "index", "retirement", "loss" };
    /* The oldest version of the schema that has the kind. */
    size_t known = c->kind <= AP_CONTROL_SCHEMA ? 6 : c->kind == AP_CONTROL_INDEX ? 7 : 9;
    struct ap_buf value = {0}, key = {0};
    struct ap_err err;
    json_t *fields = json_pack("{s:s, s:o, s:s, s:o}", "kind", kind, "hlc", longs(c->version.hlc), "region", c->version.region.name, "writer", longs(c->version.writer));
    for (size_t i = 0; i < known; i++)
        json_object_set_new(fields, all[i], json_null());
    json_object_set_new(fields, name, own);
    if (ap_control_encode(schemas, c, &value, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    ap_control_key(c, &key);
    emit("Control", key.data, key.len, value.data, value.len, fields);
    ap_buf_free(&value);
    ap_buf_free(&key);
}

static void emit_controls(const struct ap_schemas *schemas)
{
    uint8_t bytes[] = { 0, 255, 7 };
    struct ap_control c = { .kind = AP_CONTROL_COLLECTION, .version = { next() >> 2, { "us" }, next() | 1 } };
    c.u.collection = (struct ap_control_collection){ .name = (char *)"wiki", .generation = 2, .deleted = true, .dim = 384, .distance = AP_EUCLID,
        .codec_factory = (char *)"PQ96", .topic = (char *)"vec-mutations", .raw_home = true };
    emit_control(schemas, &c, "COLLECTION", "collection", json_pack("{s:s, s:i, s:b, s:i, s:s, s:s, s:b, s:s, s:n}", "name", "wiki", "generation", 2,
        "deleted", 1, "dim", 384, "distance", "EUCLID", "codec_factory", "PQ96", "raw_home", 1, "topic", "vec-mutations", "vector_name"));

    c.kind = AP_CONTROL_CODEC;
    c.u.codec = (struct ap_control_codec){ .factory = (char *)"OPQ48,PQ48", .dim = 384, .chunk = 1, .chunks = 3, .bytes = bytes, .len = sizeof bytes };
    for (size_t i = 0; i < sizeof c.u.codec.hash; i++)
        c.u.codec.hash[i] = (uint8_t)next();
    c.u.codec.codec = ap_be64(c.u.codec.hash);
    emit_control(schemas, &c, "CODEC", "codec", json_pack("{s:o, s:s, s:i, s:i, s:i, s:o, s:o}", "codec", hex64(c.u.codec.codec), "factory", "OPQ48,PQ48",
        "dim", 384, "chunk", 1, "chunks", 3, "bytes", hex(bytes, sizeof bytes), "hash", hex(c.u.codec.hash, 32)));

    c.kind = AP_CONTROL_CODEC_USE;
    c.u.codec_use = (struct ap_control_codec_use){ next(), next() };
    emit_control(schemas, &c, "CODEC_USE", "codec_use", json_pack("{s:o, s:o}", "collection", hex64(c.u.codec_use.collection), "codec", hex64(c.u.codec_use.codec)));

    c.kind = AP_CONTROL_INCARNATION;
    c.u.incarnation = (struct ap_control_incarnation){ next() | 1, next(), 0, next(), (char *)"producer-1" };
    emit_control(schemas, &c, "INCARNATION", "incarnation", json_pack("{s:o, s:o, s:n, s:o, s:s}", "incarnation", longs(c.u.incarnation.incarnation),
        "region_incarnation", longs(c.u.incarnation.region_incarnation), "predecessor", "lineage", longs(c.u.incarnation.lineage), "instance", "producer-1"));

    c.kind = AP_CONTROL_REGION;
    c.u.region = (struct ap_control_region){ next(), AP_REGION_READ_ONLY };
    emit_control(schemas, &c, "REGION", "region_state", json_pack("{s:o, s:s}", "region_incarnation", longs(c.u.region.region_incarnation), "state", "READ_ONLY"));

    const struct ap_schema_info *info = ap_schema_newest(schemas, "VectorMutation");
    c.kind = AP_CONTROL_SCHEMA;
    c.u.schema = (struct ap_control_schema){ info->fingerprint, (char *)(uintptr_t)info->json };
    emit_control(schemas, &c, "SCHEMA", "schema", json_pack("{s:o, s:s}", "fingerprint", hex64(info->fingerprint), "json", info->json));
}

/* The kinds that came later: with what may be null there and not. */
static void emit_newer_controls(const struct ap_schemas *schemas, bool full)
{
    struct ap_control c = { .kind = AP_CONTROL_INDEX, .version = { next() >> 2, { "ap" }, next() | 1 } };
    char *options = full ? (char *)"{\"lowercase\":true,\"tokenizer\":\"word\"}" : NULL;
    c.u.index = (struct ap_control_index){ next(), (char *)"a.b[].c", full ? AP_FIELD_TEXT : AP_FIELD_DATETIME, options, !full };
    emit_control(schemas, &c, "INDEX", "index", json_pack("{s:o, s:s, s:s, s:s?, s:b}", "collection", hex64(c.u.index.collection), "field", "a.b[].c",
        "type", full ? "TEXT" : "DATETIME", "options", options, "removed", !full));

    struct ap_position cut[2];
    json_t *list = json_array();
    for (size_t i = 0; i < (full ? 2 : 0); i++) {
        cut[i] = (struct ap_position){ .stream = next() | 1, .region = { "us" }, .topic = "vec-mutations", .partition = (int32_t)i, .mark = next() >> 1,
                                       .lineage = next(), .finished = i % 2 };
        json_array_append_new(list, json_pack("{s:o, s:o, s:s, s:i, s:o, s:b}", "stream", longs(cut[i].stream), "lineage", longs(cut[i].lineage),
            "topic", "vec-mutations", "partition", (int)i, "mark", longs(cut[i].mark), "finished", (int)(i % 2)));
    }
    c.kind = AP_CONTROL_RETIREMENT;
    c.u.retirement = (struct ap_control_retirement){ { "us" }, next(), cut, json_array_size(list) };
    emit_control(schemas, &c, "RETIREMENT", "retirement", json_pack("{s:s, s:o, s:o}", "region", "us", "region_incarnation",
        longs(c.u.retirement.region_incarnation), "cut", list));

    c.kind = AP_CONTROL_LOSS;
    c.u.loss = (struct ap_control_loss){ { "eu" }, next() | 1, "vec-other", 3, 1 + (next() >> 40), 0, full };
    c.u.loss.last = c.u.loss.first + (next() >> 50);
    emit_control(schemas, &c, "LOSS", "loss", json_pack("{s:s, s:o, s:s, s:i, s:o, s:o, s:b}", "origin", "eu", "stream", longs(c.u.loss.stream),
        "topic", "vec-other", "partition", 3, "first", longs(c.u.loss.first), "last", longs(c.u.loss.last), "proven", (int)full));
}

static void emit_watermark(const struct ap_schemas *schemas, size_t count)
{
    struct ap_position positions[3];
    struct ap_watermark w = { { "eu" }, 1767323045678, next() >> 2, positions, count, { next() >> 2, count % 2 ? -1 : (int64_t)(next() >> 20) } };
    struct ap_buf value = {0};
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        positions[i] = (struct ap_position){ next() | 1, { "us" }, "vec-mutations", (int32_t)i, next() >> 1, next() >> 2, next(), i % 2 };
        json_array_append_new(list, json_pack("{s:o, s:s, s:s, s:i, s:o, s:o, s:o, s:b}", "stream", longs(positions[i].stream), "region", "us",
            "topic", "vec-mutations", "partition", (int)i, "mark", longs(positions[i].mark), "clock", longs(positions[i].clock),
            "lineage", longs(positions[i].lineage), "finished", (int)(i % 2)));
    }
    if (ap_watermark_encode(schemas, &w, &value, NULL))
        exit(1);
    emit("Watermark", "watermark/eu", 12, value.data, value.len, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "region", "eu",
        "sent_ms", longs((uint64_t)w.sent_ms), "hlc", longs(w.hlc), "positions", list, "settled", longs(w.settled.hlc), "retention_ms", json_integer(w.settled.retention_ms)));
    ap_buf_free(&value);
}

int main(int argc, char **argv)
{
    struct ap_schemas *schemas;
    struct ap_err err;
    state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    if (ap_schemas_new(&schemas, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    for (uint64_t shape = 0; shape < 256; shape++)
        emit_mutation(shape);
    emit_controls(schemas);
    emit_newer_controls(schemas, true);
    emit_newer_controls(schemas, false);
    for (size_t count = 0; count <= 3; count++)
        emit_watermark(schemas, count);
    ap_schemas_free(&schemas);
    return 0;
}
