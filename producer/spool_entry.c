/* Written in one pass; read with every length checked against what is left. */
#include "producer/spool_entry.h"
#include <stdlib.h>
#include <string.h>
#include "common/clock.h"

#define FORMAT 1
#define RECORD_BYTES (24 + 2 + 8 + 8 + 16 + 8 + 12)
enum { HAS_CODEC = 1, HAS_VECTOR = 2, HAS_PAYLOAD = 4, HAS_RAW = 8 };

static void write_record(struct ap_buf *out, const struct ap_record *r, const struct ap_version *v)
{
    uint8_t head[RECORD_BYTES], *p = head;
    size_t raw = r->raw ? r->raw_len : 0;
    memcpy(p, r->key.b, 24);
    p[24] = (uint8_t)r->op;
    p[25] = (uint8_t)((r->has_codec ? HAS_CODEC : 0) | (r->vector ? HAS_VECTOR : 0) | (r->payload ? HAS_PAYLOAD : 0) | (r->raw ? HAS_RAW : 0));
    ap_put_le64(p + 26, r->has_codec ? r->codec : 0);
    ap_put_le64(p + 34, v->hlc);
    memcpy(p + 42, v->region.name, 16);
    ap_put_le64(p + 58, v->writer);
    ap_put_le32(p + 66, (uint32_t)(r->vector ? r->vector_len : 0));
    ap_put_le32(p + 70, (uint32_t)(r->payload ? r->payload_len : 0));
    ap_put_le32(p + 74, (uint32_t)raw);
    ap_buf_append(out, head, sizeof head);
    if (r->vector)
        ap_buf_append(out, r->vector, r->vector_len);
    if (r->payload)
        ap_buf_append(out, r->payload, r->payload_len);
    if (raw)
        ap_buf_append(out, r->raw, raw);
}

void ap_spool_entry_write(struct ap_buf *out, const char *topic, const struct ap_record *records, size_t n, const uint64_t *hlcs,
                          const struct ap_region *region, uint64_t writer)
{
    uint8_t head[2] = {FORMAT, (uint8_t)strlen(topic)}, count[4];
    ap_buf_append(out, head, 2);
    ap_buf_append(out, topic, head[1]);
    ap_put_le32(count, (uint32_t)n);
    ap_buf_append(out, count, 4);
    for (size_t i = 0; i < n; i++) {
        struct ap_version v = {hlcs[i], *region, writer};
        write_record(out, &records[i], records[i].version ? records[i].version : &v);
    }
}

static int corrupt(struct ap_err *err, const char *what)
{
    return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a spooled write that cannot be read (%s): it is of another version of this program, or damaged", what);
}

/* Returns the bytes it took, 0 when it does not check. */
static size_t read_record(const uint8_t *p, size_t len, struct ap_record *r, struct ap_version *v)
{
    if (len < RECORD_BYTES)
        return 0;
    uint8_t flags = p[25];
    size_t vector = ap_le32(p + 66), payload = ap_le32(p + 70), raw = ap_le32(p + 74);
    if (p[24] > AP_OP_DELETE || vector > len - RECORD_BYTES || payload > len - RECORD_BYTES - vector || raw > len - RECORD_BYTES - vector - payload)
        return 0;
    memcpy(r->key.b, p, 24);
    v->hlc = ap_le64(p + 34);
    v->writer = ap_le64(p + 58);
    if (v->hlc == 0 || v->hlc > AP_HLC_MAX || v->writer == 0 || ap_region_parse((const char *)p + 42, strnlen((const char *)p + 42, 16), &v->region, NULL) != 0)
        return 0;
    r->op = (enum ap_op)p[24];
    r->has_codec = flags & HAS_CODEC;
    r->codec = ap_le64(p + 26);
    r->version = v;
    r->accepted = true;
    p += RECORD_BYTES;
    if (flags & HAS_VECTOR) {
        r->vector = p;
        r->vector_len = vector;
    }
    if (flags & HAS_PAYLOAD) {
        r->payload = (const char *)p + vector;
        r->payload_len = payload;
    }
    if (flags & HAS_RAW) {
        r->raw = (const float *)(const void *)(p + vector + payload); /* bytes, as the lanes take them: never read as floats */
        r->raw_len = raw;
    }
    return RECORD_BYTES + vector + payload + raw;
}

int ap_spool_entry_read(struct ap_spool_entry *out, const uint8_t *bytes, size_t len, struct ap_err *err)
{
    *out = (struct ap_spool_entry){0};
    if (len < 6 || bytes[0] != FORMAT || len < 6 + (size_t)bytes[1])
        return corrupt(err, "its head");
    memcpy(out->topic, bytes + 2, bytes[1]);
    size_t at = 2 + (size_t)bytes[1], n = ap_le32(bytes + at);
    at += 4;
    if (n > (len - at) / RECORD_BYTES)
        return corrupt(err, "its count");
    out->records = calloc(n + 1, sizeof *out->records);
    out->versions = calloc(n + 1, sizeof *out->versions);
    if (!out->records || !out->versions)
        abort();
    for (size_t i = 0; i < n; i++) {
        size_t took = read_record(bytes + at, len - at, &out->records[i], &out->versions[i]);
        if (took == 0)
            return corrupt(err, "a record");
        at += took;
        if (out->versions[i].hlc > out->newest_hlc)
            out->newest_hlc = out->versions[i].hlc;
    }
    out->count = n;
    return at == len ? 0 : corrupt(err, "its end");
}

void ap_spool_entry_fini(struct ap_spool_entry *e)
{
    free(e->records);
    free(e->versions);
    *e = (struct ap_spool_entry){0};
}
