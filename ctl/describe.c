/* One function a kind of record; they only read what common/ has decoded. */
#include "ctl/describe.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "common/clock.h"
#include "common/control.h"
#include "common/schema.h"
#include "common/watermark.h"

enum { HEX_MAX_BYTES = 4096 };

enum ap_record_kind ap_record_kind_of(const char *topic)
{
    static const struct { const char *name; enum ap_record_kind kind; } kinds[] = {
        {AP_TOPIC_CONTROL, AP_RECORD_CONTROL}, {AP_TOPIC_WATERMARKS, AP_RECORD_WATERMARK}, {AP_TOPIC_RAW, AP_RECORD_RAW},
        {AP_TOPIC_DEAD, AP_RECORD_DEAD}};
    const char *dot = strchr(topic, '.');
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(dot ? dot + 1 : topic, kinds[i].name))
            return kinds[i].kind;
    return AP_RECORD_MUTATION;
}

/* ---- small values ----------------------------------------------------------------------------------------------- */

static json_t *hex64(uint64_t value)
{
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)value);
    return json_string(text);
}

static json_t *hex_bytes(const void *bytes, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    size_t shown = len < HEX_MAX_BYTES ? len : HEX_MAX_BYTES;
    char *text = malloc(2 * shown + 4);
    if (!text)
        abort();
    const uint8_t *b = bytes;
    for (size_t i = 0; i < shown; i++) {
        text[2 * i] = digits[b[i] >> 4];
        text[2 * i + 1] = digits[b[i] & 15];
    }
    snprintf(text + 2 * shown, 4, "%s", shown < len ? "..." : "");
    json_t *out = json_string(text);
    free(text);
    return out;
}

static json_t *time_of_ms(int64_t ms)
{
    char text[40];
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    if (ms < 0 || !gmtime_r(&seconds, &tm))
        return json_null();
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(ms % 1000));
    return json_string(text);
}

static json_t *hlc_text(uint64_t hlc)
{
    char text[40];
    snprintf(text, sizeof text, "%lld.%u", (long long)ap_hlc_ms(hlc), (unsigned)(hlc & 0xffff));
    return json_string(text);
}

/* json_string refuses text that is no UTF-8, and a tool that shows records must show those, too. */
static json_t *text_or_hex(const char *text, size_t len)
{
    json_t *out = json_stringn(text, len);
    return out ? out : hex_bytes(text, len);
}

static json_t *json_or_text(const char *text, size_t len)
{
    json_t *out = json_loadb(text, len, JSON_DECODE_ANY, NULL);
    return out ? out : text_or_hex(text, len);
}

static json_t *version_json(const struct ap_version *v)
{
    return json_pack("{s:o,s:o,s:s,s:o}", "hlc", hlc_text(v->hlc), "time", time_of_ms(ap_hlc_ms(v->hlc)), "region", v->region.name,
                     "writer", hex64(v->writer));
}

static void add_key(json_t *out, const void *bytes, size_t len)
{
    if (len != sizeof(struct ap_key)) {
        if (len)
            json_object_set_new(out, "key", hex_bytes(bytes, len));
        return;
    }
    struct ap_key key;
    memcpy(&key, bytes, sizeof key);
    struct ap_point_id id = ap_key_point(&key);
    json_object_set_new(out, "collection", hex64(ap_key_collection(&key)));
    json_object_set_new(out, "id", ap_point_id_to_json(&id));
}

static json_t *floats_json(const uint8_t *bytes, size_t len)
{
    json_t *out = json_array();
    for (size_t i = 0; i + 4 <= len; i += 4) {
        uint32_t bits = ap_le32(bytes + i);
        float value;
        memcpy(&value, &bits, sizeof value);
        json_t *number = json_real((double)value);
        json_array_append_new(out, number ? number : json_null()); /* JSON has no NaN */
    }
    return out;
}

/* ---- records ------------------------------------------------------------------------------------------------------- */

static json_t *position_json(uint64_t stream, uint64_t seq)
{
    return json_pack("{s:o,s:I}", "stream", hex64(stream), "seq", (json_int_t)seq);
}

json_t *ap_describe_mutation(const struct ap_mutation *m, const void *key, size_t key_len, bool vectors)
{
    static const char *const ops[] = {"UPSERT", "PATCH", "DELETE", "HEARTBEAT"};
    json_t *out = json_object(), *position = position_json(m->stream, m->seq);
    json_object_set_new(out, "op", json_string(ops[m->op]));
    add_key(out, key, key_len);
    json_object_set_new(out, "version", version_json(&m->version));
    if (m->clock != m->version.hlc)
        json_object_set_new(position, "clock", hlc_text(m->clock));
    json_object_set_new(out, "position", position);
    if (m->vector) {
        json_object_set_new(out, "codec", m->has_codec ? hex64(m->codec) : json_null());
        json_object_set_new(out, "vector_bytes", json_integer((json_int_t)m->vector_len));
        if (vectors)
            json_object_set_new(out, "vector", m->has_codec ? hex_bytes(m->vector, m->vector_len) : floats_json(m->vector, m->vector_len));
    }
    if (m->payload)
        json_object_set_new(out, "payload", json_or_text(m->payload, m->payload_len));
    return out;
}

static json_t *raw_json(const struct ap_raw_vector *r, const void *key, size_t key_len, bool vectors)
{
    json_t *out = json_object();
    add_key(out, key, key_len);
    json_object_set_new(out, "version", version_json(&r->version));
    json_object_set_new(out, "position", position_json(r->stream, r->seq));
    json_object_set_new(out, "vector_bytes", json_integer((json_int_t)r->vector_len));
    if (vectors)
        json_object_set_new(out, "vector", floats_json(r->vector, r->vector_len));
    return out;
}

static json_t *collection_json(const struct ap_control_collection *c)
{
    return json_pack("{s:s,s:I,s:b,s:i,s:s,s:s,s:s,s:s,s:s?,s:o}", "name", c->name, "generation", (json_int_t)c->generation, "deleted", c->deleted,
                     "dim", (int)c->dim, "distance", ap_distance_name(c->distance), "codec_factory", c->codec_factory, "raw",
                     c->raw_home ? "home" : "none", "topic", c->topic, "vector_name", c->vector_name, "collection",
                     hex64(ap_collection_id(c->name, c->generation)));
}

static json_t *positions_json(const struct ap_position *list, size_t count)
{
    json_t *positions = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *p = &list[i];
        json_t *one = json_pack("{s:o,s:s,s:s,s:i,s:I,s:o}", "stream", hex64(p->stream), "region", p->region.name, "topic", p->topic, "partition",
                                (int)p->partition, "mark", (json_int_t)p->mark, "clock", hlc_text(p->clock));
        if (p->finished)
            json_object_set_new(one, "finished_lineage", hex64(p->lineage));
        json_array_append_new(positions, one);
    }
    return positions;
}

static json_t *control_json(const struct ap_control *c)
{
    static const char *const kinds[] = {"COLLECTION", "CODEC", "CODEC_USE", "INCARNATION", "REGION", "SCHEMA", "UNKNOWN", "INDEX", "RETIREMENT", "LOSS"};
    static const char *const states[] = {"ACTIVE", "READ_ONLY", "RETIRED"};
    json_t *says = NULL;
    switch (c->kind) {
    case AP_CONTROL_COLLECTION:
        says = collection_json(&c->u.collection);
        break;
    case AP_CONTROL_CODEC:
        says = json_pack("{s:o,s:s,s:i,s:i,s:i,s:I}", "codec", hex64(c->u.codec.codec), "factory", c->u.codec.factory, "dim", (int)c->u.codec.dim,
                         "chunk", (int)c->u.codec.chunk, "chunks", (int)c->u.codec.chunks, "bytes", (json_int_t)c->u.codec.len);
        break;
    case AP_CONTROL_CODEC_USE:
        says = json_pack("{s:o,s:o}", "collection", hex64(c->u.codec_use.collection), "codec", hex64(c->u.codec_use.codec));
        break;
    case AP_CONTROL_INCARNATION:
        says = json_pack("{s:o,s:o,s:o,s:o,s:s}", "incarnation", hex64(c->u.incarnation.incarnation), "region_incarnation",
                         hex64(c->u.incarnation.region_incarnation), "predecessor",
                         c->u.incarnation.predecessor ? hex64(c->u.incarnation.predecessor) : json_null(), "lineage",
                         hex64(c->u.incarnation.lineage), "instance", c->u.incarnation.instance);
        break;
    case AP_CONTROL_REGION:
        says = json_pack("{s:o,s:s}", "region_incarnation", hex64(c->u.region.region_incarnation), "state", states[c->u.region.state]);
        break;
    case AP_CONTROL_SCHEMA:
        says = json_pack("{s:o,s:o}", "fingerprint", hex64(c->u.schema.fingerprint), "schema", json_or_text(c->u.schema.json, strlen(c->u.schema.json)));
        break;
    case AP_CONTROL_INDEX:
        says = json_pack("{s:o,s:s,s:s,s:s?,s:b}", "collection", hex64(c->u.index.collection), "field", c->u.index.field, "type",
                         ap_field_type_name(c->u.index.type), "options", c->u.index.options, "removed", c->u.index.removed);
        break;
    case AP_CONTROL_RETIREMENT:
        says = json_pack("{s:s,s:o,s:o}", "region", c->u.retirement.region.name, "region_incarnation", hex64(c->u.retirement.region_incarnation), "cut",
                         positions_json(c->u.retirement.cut, c->u.retirement.count));
        break;
    case AP_CONTROL_LOSS:
        says = json_pack("{s:s,s:o,s:s,s:i,s:I,s:I,s:b}", "origin", c->u.loss.origin.name, "stream", hex64(c->u.loss.stream), "topic", c->u.loss.topic, "partition",
                         (int)c->u.loss.partition, "first", (json_int_t)c->u.loss.first, "last", (json_int_t)c->u.loss.last, "proven", c->u.loss.proven);
        break;
    }
    return json_pack("{s:s,s:o,s:o}", "kind", kinds[c->kind], "version", version_json(&c->version), "says", says ? says : json_null());
}

static json_t *watermark_json(const struct ap_watermark *w)
{
    return json_pack("{s:s,s:o,s:o,s:o,s:o,s:I}", "region", w->region.name, "sent", time_of_ms(w->sent_ms), "hlc", hlc_text(w->hlc), "settled",
                     w->settled.hlc ? hlc_text(w->settled.hlc) : json_null(), "positions", positions_json(w->positions, w->count), "retention_ms",
                     (json_int_t)w->settled.retention_ms);
}

/* ---- decoding -------------------------------------------------------------------------------------------------------- */

static json_t *decode_mutation(const struct ap_schemas *schemas, const rd_kafka_message_t *m, bool vectors, struct ap_buf *scratch, struct ap_err *err)
{
    struct ap_mutation mutation;
    if (ap_mutation_decode(schemas, m->payload, m->len, &mutation, scratch, err))
        return NULL;
    return ap_describe_mutation(&mutation, m->key, m->key_len, vectors);
}

static json_t *decode_raw(const struct ap_schemas *schemas, const rd_kafka_message_t *m, bool vectors, struct ap_buf *scratch, struct ap_err *err)
{
    struct ap_raw_vector raw;
    if (ap_raw_vector_decode(schemas, m->payload, m->len, &raw, scratch, err))
        return NULL;
    return raw_json(&raw, m->key, m->key_len, vectors);
}

static json_t *decode_control(const struct ap_schemas *schemas, const rd_kafka_message_t *m, struct ap_err *err)
{
    struct ap_control control;
    if (ap_control_decode(schemas, m->payload, m->len, &control, err))
        return NULL;
    json_t *out = control_json(&control);
    ap_control_fini(&control);
    return out;
}

static json_t *decode_watermark(const struct ap_schemas *schemas, const rd_kafka_message_t *m, struct ap_err *err)
{
    struct ap_watermark watermark;
    if (ap_watermark_decode(schemas, m->payload, m->len, &watermark, err))
        return NULL;
    json_t *out = watermark_json(&watermark);
    ap_watermark_fini(&watermark);
    return out;
}

static json_t *headers_json(const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers;
    const char *name;
    const void *value;
    size_t size;
    json_t *out = json_object();
    if (!rd_kafka_message_headers(m, &headers))
        for (size_t i = 0; !rd_kafka_header_get_all(headers, i, &name, &value, &size); i++)
            json_object_set_new(out, name, value ? text_or_hex(value, size) : json_null());
    return out;
}

static json_t *decode(const struct ap_schemas *schemas, const rd_kafka_message_t *m, enum ap_record_kind kind, bool vectors,
                      struct ap_buf *scratch, struct ap_err *err)
{
    switch (kind) {
    case AP_RECORD_CONTROL: return decode_control(schemas, m, err);
    case AP_RECORD_WATERMARK: return decode_watermark(schemas, m, err);
    case AP_RECORD_RAW: return decode_raw(schemas, m, vectors, scratch, err);
    default: return decode_mutation(schemas, m, vectors, scratch, err);
    }
}

/* A dead letter is of the kind of the topic it came from. */
static enum ap_record_kind kind_inside(const json_t *headers)
{
    const char *topic = json_string_value(json_object_get(headers, "topic"));
    return topic ? ap_record_kind_of(topic) : AP_RECORD_MUTATION;
}

json_t *ap_describe(const struct ap_schemas *schemas, const rd_kafka_message_t *m, enum ap_record_kind kind, bool vectors, struct ap_buf *scratch)
{
    rd_kafka_timestamp_type_t type;
    json_t *out = json_pack("{s:s,s:i,s:I,s:o}", "topic", rd_kafka_topic_name(m->rkt), "partition", (int)m->partition, "offset",
                            (json_int_t)m->offset, "timestamp", time_of_ms(rd_kafka_message_timestamp(m, &type)));
    json_t *headers = headers_json(m);
    if (kind == AP_RECORD_DEAD)
        kind = kind_inside(headers);
    if (json_object_size(headers))
        json_object_set(out, "headers", headers);
    json_decref(headers);
    if (!m->payload) {
        json_object_set_new(out, "tombstone", json_true());
        json_object_set_new(out, "key", text_or_hex(m->key_len ? m->key : "", m->key_len));
        return out;
    }
    struct ap_err err = {0};
    json_t *says = decode(schemas, m, kind, vectors, scratch, &err);
    if (!says)
        says = json_pack("{s:o,s:o,s:o}", "error", text_or_hex(err.msg, strlen(err.msg)), "key", hex_bytes(m->key_len ? m->key : "", m->key_len), "value",
                         hex_bytes(m->payload, m->len));
    json_object_update(out, says);
    json_decref(says);
    return out;
}
