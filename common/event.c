/* The event, by hand: one pass over the fields of VectorMutation.v1 and RawVector.v1 in their order.
 *
 * The fingerprints below are those of the newest versions; a test holds them, and the bytes, against Avro C and against
 * schemas/. Bytes of any other fingerprint go through schema.h and end in the same checks. What decodes here is in range:
 * callers need not look at a clock or an incarnation again before they use it. */
#include "common/event.h"
#include <assert.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include "common/avro_field.h"
#include "common/avro_wire.h"
#include "common/clock.h"
#include "common/schema.h"

#define MUTATION_FINGERPRINT UINT64_C(0x4792b3217d0b90fe)
#define RAW_FINGERPRINT UINT64_C(0x72619cfe3413c48e)
#define HEADER 10 /* C3 01 and the fingerprint */

#define MAX_SEQ INT64_MAX

enum { OP_UNKNOWN = AP_OP_HEARTBEAT + 1 };

int ap_version_compare(const struct ap_version *a, const struct ap_version *b)
{
    if (a->hlc != b->hlc)
        return a->hlc < b->hlc ? -1 : 1;
    int order = memcmp(a->region.name, b->region.name, sizeof a->region.name);
    if (order != 0)
        return order;
    return a->writer < b->writer ? -1 : a->writer > b->writer;
}

void ap_version_print(const struct ap_version *v, char out[AP_VERSION_TEXT])
{
    snprintf(out, AP_VERSION_TEXT, "%016" PRIx64 "-%.15s-%016" PRIx64, v->hlc, v->region.name, v->writer);
}

static bool read_hex16(const char *text, uint64_t *out)
{
    *out = 0;
    for (int i = 0; i < 16; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0)
            return false;
        *out = *out << 4 | (uint64_t)digit;
    }
    return true;
}

int ap_version_parse(const char *text, size_t len, struct ap_version *out, struct ap_err *err)
{
    memset(out, 0, sizeof *out);
    bool good = len >= 35 && len < AP_VERSION_TEXT && text[16] == '-' && text[len - 17] == '-' && read_hex16(text, &out->hlc) &&
                read_hex16(text + len - 16, &out->writer) && out->hlc > 0 && out->hlc <= AP_HLC_MAX && out->writer != 0 &&
                ap_region_parse(text + 17, len - 34, &out->region, NULL) == 0;
    return good ? 0 : ap_err_set(err, AP_EINVAL, AP_POISON, "\"%.*s\" is no version (16 hex digits, a region, 16 hex digits, joined by hyphens)",
                                 (int)(len < 64 ? len : 64), text);
}

/* ---- writing ---- */

static uint8_t *put_header(uint8_t *p, uint64_t fingerprint)
{
    p[0] = 0xc3;
    p[1] = 0x01;
    ap_put_le64(p + 2, fingerprint);
    return p + HEADER;
}

static uint8_t *put_bytes(uint8_t *p, const void *bytes, size_t len)
{
    p = ap_avro_put_long(p, (int64_t)len);
    if (len > 0)
        memcpy(p, bytes, len);
    return p + len;
}

static uint8_t *put_optional_bytes(uint8_t *p, const void *bytes, size_t len)
{
    *p++ = bytes ? 2 : 0;
    return bytes ? put_bytes(p, bytes, len) : p;
}

/* Incarnations are unsigned and Avro's long is not: from the year 2039 on they are negative numbers on the wire. */
static uint8_t *put_optional_long(uint8_t *p, bool present, uint64_t value)
{
    *p++ = present ? 2 : 0;
    return present ? ap_avro_put_long(p, (int64_t)value) : p;
}

static uint8_t *put_region(uint8_t *p, const struct ap_region *region)
{
    size_t len = strnlen(region->name, sizeof region->name);
    assert(len > 0 && len < sizeof region->name);
    return put_bytes(p, region->name, len);
}

size_t ap_mutation_encode_to(const struct ap_mutation *m, uint8_t *out)
{
    assert(m->seq > 0 && m->seq <= MAX_SEQ && m->version.writer != 0 && m->stream != 0);
    assert(m->version.hlc <= AP_HLC_MAX && m->clock <= AP_HLC_MAX && m->op <= AP_OP_HEARTBEAT);
    uint8_t *p = put_header(out, MUTATION_FINGERPRINT);
    *p++ = (uint8_t)(m->op << 1);
    p = ap_avro_put_long(p, (int64_t)m->version.hlc);
    p = put_region(p, &m->version.region);
    p = ap_avro_put_long(p, (int64_t)m->version.writer);
    *p++ = m->has_codec ? 2 : 0;
    if (m->has_codec) {
        ap_put_be64(p, m->codec);
        p += 8;
    }
    p = put_optional_bytes(p, m->vector, m->vector_len);
    p = ap_avro_put_long(p, (int64_t)m->seq);
    p = put_optional_long(p, m->stream != m->version.writer, m->stream);
    p = put_optional_long(p, m->clock != m->version.hlc, m->clock);
    p = put_optional_bytes(p, m->payload, m->payload_len);
    return (size_t)(p - out);
}

void ap_mutation_encode(const struct ap_mutation *m, struct ap_buf *buf)
{
    ap_buf_reserve(buf, AP_EVENT_OVERHEAD + m->vector_len + m->payload_len);
    buf->len += ap_mutation_encode_to(m, buf->data + buf->len);
}

size_t ap_raw_vector_encode_to(const struct ap_raw_vector *r, uint8_t *out)
{
    assert(r->seq > 0 && r->seq <= MAX_SEQ && r->version.writer != 0 && r->stream != 0 && r->version.hlc <= AP_HLC_MAX);
    uint8_t *p = put_header(out, RAW_FINGERPRINT);
    p = ap_avro_put_long(p, (int64_t)r->version.hlc);
    p = put_region(p, &r->version.region);
    p = ap_avro_put_long(p, (int64_t)r->version.writer);
    p = put_bytes(p, r->vector, r->vector_len);
    p = ap_avro_put_long(p, (int64_t)r->seq);
    p = put_optional_long(p, r->stream != r->version.writer, r->stream);
    return (size_t)(p - out);
}

/* ---- reading ---- */

/* Each get_ takes p, before end, and returns the byte behind what it read, or NULL; NULL goes in and comes out. */
static const uint8_t *get_long(const uint8_t *p, const uint8_t *end, int64_t *out)
{
    return p ? ap_avro_get_long(p, end, out) : NULL;
}

static const uint8_t *get_unsigned(const uint8_t *p, const uint8_t *end, uint64_t *out)
{
    int64_t value = 0;
    p = get_long(p, end, &value);
    *out = (uint64_t)value;
    return p;
}

static const uint8_t *get_fixed(const uint8_t *p, const uint8_t *end, size_t len, const uint8_t **out)
{
    if (!p || (size_t)(end - p) < len)
        return NULL;
    *out = p;
    return p + len;
}

static const uint8_t *get_bytes(const uint8_t *p, const uint8_t *end, const uint8_t **out, size_t *len)
{
    int64_t n = 0;
    p = get_long(p, end, &n);
    if (!p || n < 0 || n > end - p)
        return NULL;
    *len = (size_t)n;
    *out = p;
    return p + n;
}

/* ["null", something]: *present says which. */
static const uint8_t *get_branch(const uint8_t *p, const uint8_t *end, bool *present)
{
    if (!p || p == end || (*p != 0 && *p != 2))
        return NULL;
    *present = *p == 2;
    return p + 1;
}

static const uint8_t *get_optional_unsigned(const uint8_t *p, const uint8_t *end, uint64_t *out, uint64_t otherwise)
{
    bool present = false;
    p = get_branch(p, end, &present);
    *out = otherwise;
    return present ? get_unsigned(p, end, out) : p;
}

static const uint8_t *get_optional_bytes(const uint8_t *p, const uint8_t *end, const uint8_t **out, size_t *len)
{
    bool present = false;
    p = get_branch(p, end, &present);
    *out = NULL;
    *len = 0;
    return present ? get_bytes(p, end, out, len) : p;
}

static int corrupt(struct ap_err *err, const char *what)
{
    return ap_err_set(err, AP_ECORRUPT, AP_POISON, "event: %s", what);
}

static int check_version(const struct ap_version *v, uint64_t stream, uint64_t seq, uint64_t clock, struct ap_err *err)
{
    if (v->hlc > AP_HLC_MAX || clock > AP_HLC_MAX)
        return corrupt(err, "a clock out of range");
    if (v->writer == 0 || stream == 0)
        return corrupt(err, "an incarnation of 0");
    if (seq == 0 || seq > MAX_SEQ)
        return corrupt(err, "a seq below 1");
    return 0;
}

static int check_mutation(const struct ap_mutation *m, int64_t op, struct ap_err *err)
{
    if (op == OP_UNKNOWN)
        return ap_err_set(err, AP_ESCHEMA, AP_RETRY, "event: an operation that is newer than this program: upgrade it");
    if (op < 0 || op > OP_UNKNOWN)
        return corrupt(err, "an operation that does not exist");
    return check_version(&m->version, m->stream, m->seq, m->clock, err);
}

static int set_region(const uint8_t *bytes, size_t len, struct ap_region *out, struct ap_err *err)
{
    if (ap_region_parse((const char *)bytes, len, out, NULL))
        return corrupt(err, "not the name of a region");
    return 0;
}

static int decode_mutation(const uint8_t *p, const uint8_t *end, struct ap_mutation *m, struct ap_err *err)
{
    const uint8_t *region = NULL, *codec = NULL, *payload;
    size_t region_len = 0;
    int64_t op = 0;
    m->has_codec = false;
    m->codec = 0;
    p = get_long(p, end, &op);
    p = get_unsigned(p, end, &m->version.hlc);
    p = p ? get_bytes(p, end, &region, &region_len) : NULL;
    p = get_unsigned(p, end, &m->version.writer);
    p = get_branch(p, end, &m->has_codec);
    if (m->has_codec) {
        p = get_fixed(p, end, 8, &codec);
        if (p)
            m->codec = ap_be64(codec);
    }
    p = get_optional_bytes(p, end, &m->vector, &m->vector_len);
    p = get_unsigned(p, end, &m->seq);
    p = get_optional_unsigned(p, end, &m->stream, m->version.writer);
    p = get_optional_unsigned(p, end, &m->clock, m->version.hlc);
    p = get_optional_bytes(p, end, &payload, &m->payload_len);
    m->payload = (const char *)payload;
    if (!p)
        return corrupt(err, "truncated, or a field out of range");
    if (p != end)
        return corrupt(err, "bytes left over");
    int rc = set_region(region, region_len, &m->version.region, err);
    if (rc == 0)
        rc = check_mutation(m, op, err);
    m->op = (enum ap_op)op;
    return rc;
}

static int decode_raw(const uint8_t *p, const uint8_t *end, struct ap_raw_vector *r, struct ap_err *err)
{
    const uint8_t *region = NULL;
    size_t region_len = 0;
    p = get_unsigned(p, end, &r->version.hlc);
    p = p ? get_bytes(p, end, &region, &region_len) : NULL;
    p = get_unsigned(p, end, &r->version.writer);
    p = p ? get_bytes(p, end, &r->vector, &r->vector_len) : NULL;
    p = get_unsigned(p, end, &r->seq);
    p = get_optional_unsigned(p, end, &r->stream, r->version.writer);
    if (!p)
        return corrupt(err, "truncated, or a field out of range");
    if (p != end)
        return corrupt(err, "bytes left over");
    int rc = set_region(region, region_len, &r->version.region, err);
    return rc ? rc : check_version(&r->version, r->stream, r->seq, r->version.hlc, err);
}

/* ---- reading other versions ---- */

/* Copy to scratch, which has the room; an empty one gets a pointer that is not NULL as well. */
static const uint8_t *keep(struct ap_buf *scratch, const void *bytes, size_t len)
{
    assert(scratch->cap - scratch->len >= len); /* growing would move what was kept before */
    const uint8_t *at = scratch->data + scratch->len;
    ap_buf_append(scratch, bytes, len);
    return at;
}

/* version, stream and seq: what both records have. */
static int version_of(const avro_value_t *value, struct ap_version *out, uint64_t *stream, uint64_t *seq, struct ap_err *err)
{
    avro_value_t branch;
    size_t len = 0;
    out->hlc = ap_avro_u64(value, "hlc");
    out->writer = ap_avro_u64(value, "writer");
    *seq = ap_avro_u64(value, "seq");
    *stream = ap_avro_optional(value, "stream", &branch) ? ap_avro_u64(value, "stream") : out->writer;
    const char *region = ap_avro_string(value, "region", &len);
    return set_region((const uint8_t *)region, len, &out->region, err);
}

static int mutation_of(const avro_value_t *value, size_t len, struct ap_mutation *m, struct ap_buf *scratch, struct ap_err *err)
{
    avro_value_t branch;
    size_t size = 0;
    *m = (struct ap_mutation){0};
    ap_buf_clear(scratch);
    ap_buf_reserve(scratch, len + 1); /* what is kept came from the input: defaults are null */

    int rc = version_of(value, &m->version, &m->stream, &m->seq, err);
    if (rc)
        return rc;
    m->clock = ap_avro_optional(value, "clock", &branch) ? ap_avro_u64(value, "clock") : m->version.hlc;
    m->has_codec = ap_avro_optional(value, "codec", &branch);
    if (m->has_codec)
        m->codec = ap_be64(ap_avro_bytes(value, "codec", &size));
    if (ap_avro_optional(value, "vector", &branch)) {
        const uint8_t *vector = ap_avro_bytes(value, "vector", &m->vector_len);
        m->vector = keep(scratch, vector, m->vector_len);
    }
    if (ap_avro_optional(value, "payload", &branch)) {
        const char *payload = ap_avro_string(value, "payload", &m->payload_len);
        m->payload = (const char *)keep(scratch, payload, m->payload_len);
    }
    int op = ap_avro_enum(value, "op");
    m->op = (enum ap_op)op;
    return check_mutation(m, op, err);
}

static bool has_fingerprint(const uint8_t *p, size_t len, uint64_t fingerprint)
{
    return len >= HEADER && p[0] == 0xc3 && p[1] == 0x01 && ap_le64(p + 2) == fingerprint;
}

/* Without a registry only the newest version is known. */
static int without_schemas(const uint8_t *p, size_t len, struct ap_err *err)
{
    if (len < HEADER || p[0] != 0xc3 || p[1] != 0x01)
        return corrupt(err, "no Avro single-object");
    return ap_err_set(err, AP_ESCHEMA, AP_RETRY, "event: schema %016" PRIx64 " is unknown", ap_le64(p + 2));
}

int ap_mutation_decode(const struct ap_schemas *schemas, const void *bytes, size_t len, struct ap_mutation *out,
                       struct ap_buf *scratch, struct ap_err *err)
{
    const uint8_t *p = bytes;
    if (has_fingerprint(p, len, MUTATION_FINGERPRINT))
        return decode_mutation(p + HEADER, p + len, out, err);
    if (!schemas)
        return without_schemas(p, len, err);
    avro_value_t value;
    int rc = ap_schema_read(schemas, "VectorMutation", bytes, len, &value, err);
    if (rc)
        return rc;
    rc = mutation_of(&value, len, out, scratch, err);
    avro_value_decref(&value);
    return rc;
}

int ap_raw_vector_decode(const struct ap_schemas *schemas, const void *bytes, size_t len, struct ap_raw_vector *out,
                         struct ap_buf *scratch, struct ap_err *err)
{
    const uint8_t *p = bytes;
    if (has_fingerprint(p, len, RAW_FINGERPRINT))
        return decode_raw(p + HEADER, p + len, out, err);
    if (!schemas)
        return without_schemas(p, len, err);
    avro_value_t value;
    int rc = ap_schema_read(schemas, "RawVector", bytes, len, &value, err);
    if (rc)
        return rc;
    *out = (struct ap_raw_vector){0};
    ap_buf_clear(scratch);
    ap_buf_reserve(scratch, len + 1);
    rc = version_of(&value, &out->version, &out->stream, &out->seq, err);
    const uint8_t *vector = ap_avro_bytes(&value, "vector", &out->vector_len);
    out->vector = keep(scratch, vector, out->vector_len);
    if (rc == 0)
        rc = check_version(&out->version, out->stream, out->seq, out->version.hlc, err);
    avro_value_decref(&value);
    return rc;
}

/* ---- hello ---- */

int ap_hello_format(const struct ap_hello *hello, char *out, size_t cap)
{
    return snprintf(out, cap, "{\"hello\":{\"predecessor\":\"%016" PRIx64 "\",\"ended\":%" PRIu64 "}}", hello->predecessor, hello->ended);
}

static bool parse_hex16(const char *text, uint64_t *out)
{
    if (!text || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return false;
    return sscanf(text, "%16" SCNx64, out) == 1;
}

int ap_hello_parse(const struct ap_mutation *m, struct ap_hello *out, struct ap_err *err)
{
    if (m->op != AP_OP_HEARTBEAT || !m->payload)
        return 0;
    json_t *json = json_loadb(m->payload, m->payload_len, JSON_REJECT_DUPLICATES, NULL);
    json_t *hello = json_object_get(json, "hello"), *ended = json_object_get(hello, "ended");
    int rc = json && !hello ? 0 : 1;
    if (rc == 1 && (!parse_hex16(json_string_value(json_object_get(hello, "predecessor")), &out->predecessor) ||
                    !json_is_integer(ended) || json_integer_value(ended) < 0))
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "heartbeat with a hello that cannot be read: %.*s",
                        (int)(m->payload_len < 200 ? m->payload_len : 200), m->payload);
    if (rc == 1)
        out->ended = (uint64_t)json_integer_value(ended);
    json_decref(json);
    return rc;
}
