/* Tokens: what a write was given, as text that clients keep and send back.
 *
 * "ap1." and base64url of: region (length, bytes), stream, lineage and hlc (8 bytes each, big-endian), then for every topic its
 * name (length, bytes), the number of entries, and of each the partition and the seq as Avro longs; a topic of length 0
 * ends them; at last the low half of the XXH3-64 of all that, little-endian. The checksum is against accidents; a client
 * that makes a token up only waits for something that does not come, until its deadline. 256 entries always fit the
 * 4 KiB. */
#include "common/watermark.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "common/avro_wire.h"
#include "common/base64url.h"
#include "common/clock.h"

#define PREFIX "ap1."
#define MAX_TEXT 4096

static void put_name(struct ap_buf *buf, const char *text, size_t cap)
{
    size_t len = strnlen(text, cap);
    uint8_t byte = (uint8_t)len;
    assert(len > 0 && len < cap);
    ap_buf_append(buf, &byte, 1);
    ap_buf_append(buf, text, len);
}

static void put_u64(struct ap_buf *buf, uint64_t value)
{
    uint8_t bytes[8];
    ap_put_be64(bytes, value);
    ap_buf_append(buf, bytes, 8);
}

static void put_long(struct ap_buf *buf, int64_t value)
{
    ap_buf_reserve(buf, AP_AVRO_LONG_BYTES);
    buf->len = (size_t)(ap_avro_put_long(buf->data + buf->len, value) - buf->data);
}

void ap_token_format(const struct ap_token *t, struct ap_buf *out)
{
    struct ap_buf body = {0};
    uint8_t sum[4];
    put_name(&body, t->region.name, sizeof t->region.name);
    put_u64(&body, t->stream);
    put_u64(&body, t->lineage);
    put_u64(&body, t->hlc);
    for (size_t i = 0; i < t->count;) {
        const char *topic = t->entries[i].topic;
        size_t run = 1;
        while (i + run < t->count && strcmp(t->entries[i + run].topic, topic) == 0)
            run++;
        put_name(&body, topic, sizeof t->entries[i].topic);
        put_long(&body, (int64_t)run);
        for (; run > 0; run--, i++) {
            assert(t->entries[i].seq > 0 && t->entries[i].seq <= INT64_MAX);
            put_long(&body, t->entries[i].partition);
            put_long(&body, (int64_t)t->entries[i].seq);
        }
    }
    ap_buf_append(&body, "", 1);
    ap_put_le32(sum, (uint32_t)XXH3_64bits(body.data, body.len));
    ap_buf_append(&body, sum, 4);
    ap_buf_append(out, PREFIX, strlen(PREFIX));
    ap_base64url_encode(body.data, body.len, out);
    ap_buf_free(&body);
}

struct cursor { const uint8_t *at, *end; };

/* A length and as many bytes, at most cap - 1; they go to out, which is zeroed. -1: malformed; else the length. */
static int get_name(struct cursor *c, char *out, size_t cap)
{
    if (c->at == c->end)
        return -1;
    size_t len = *c->at++;
    if (len >= cap || len > (size_t)(c->end - c->at) || memchr(c->at, 0, len))
        return -1;
    memcpy(out, c->at, len);
    c->at += len;
    return (int)len;
}

static int get_long(struct cursor *c, int64_t least, int64_t most, int64_t *out)
{
    const uint8_t *next = ap_avro_get_long(c->at, c->end, out);
    if (!next || *out < least || *out > most)
        return -1;
    c->at = next;
    return 0;
}

static int get_entries(struct cursor *c, struct ap_token *out)
{
    for (;;) {
        char topic[sizeof out->entries->topic] = "";
        int64_t run = 0, partition = 0, seq = 0;
        int len = get_name(c, topic, sizeof topic);
        if (len <= 0)
            return len;
        /* An entry takes two bytes, so the count is bounded by the text before anything is allocated. */
        if (get_long(c, 1, (c->end - c->at) / 2, &run))
            return -1;
        out->entries = realloc(out->entries, (out->count + (size_t)run) * sizeof *out->entries);
        if (!out->entries)
            abort();
        for (; run > 0; run--) {
            if (get_long(c, 0, INT32_MAX, &partition) || get_long(c, 1, INT64_MAX, &seq))
                return -1;
            struct ap_token_entry *entry = &out->entries[out->count++];
            memcpy(entry->topic, topic, sizeof topic);
            entry->partition = (int32_t)partition;
            entry->seq = (uint64_t)seq;
        }
    }
}

static int get_body(struct cursor *c, struct ap_token *out)
{
    char region[sizeof out->region.name] = "";
    int len = get_name(c, region, sizeof region);
    if (len <= 0 || ap_region_parse(region, (size_t)len, &out->region, NULL) || c->end - c->at < 24)
        return -1;
    out->stream = ap_be64(c->at);
    out->lineage = ap_be64(c->at + 8);
    out->hlc = ap_be64(c->at + 16);
    c->at += 24;
    if (out->stream == 0 || out->hlc > AP_HLC_MAX)
        return -1;
    return get_entries(c, out) || c->at != c->end ? -1 : 0;
}

int ap_token_parse(const char *text, size_t len, struct ap_token *out, struct ap_err *err)
{
    *out = (struct ap_token){0};
    size_t prefix = strlen(PREFIX);
    if (len > MAX_TEXT || len < prefix || memcmp(text, PREFIX, prefix) != 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "a token is '" PREFIX "' and more, %d bytes at most", MAX_TEXT);
    struct ap_buf body = {0};
    int rc = ap_base64url_decode(text + prefix, len - prefix, &body, err);
    if (rc) {
        ap_buf_free(&body);
        return ap_err_wrap(err, "token");
    }
    bool good = body.len > 4 && (uint32_t)XXH3_64bits(body.data, body.len - 4) == ap_le32(body.data + body.len - 4);
    struct cursor c = { body.data, good ? body.data + body.len - 4 : body.data };
    if (!good || get_body(&c, out)) {
        ap_token_fini(out);
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "token: damaged (%s)", good ? "its content" : "its checksum");
    }
    ap_buf_free(&body);
    return rc;
}

void ap_token_fini(struct ap_token *t)
{
    free(t->entries);
    *t = (struct ap_token){0};
}

static bool covers(const struct ap_position *p, const struct ap_token *t, const struct ap_token_entry *e)
{
    if (p->partition != e->partition || strcmp(p->topic, e->topic) != 0)
        return false;
    if (p->stream == t->stream)
        return p->mark >= e->seq;
    /* A floor of the same line, past the stream: the stream was complete when it was folded into it. */
    return p->finished && t->lineage != 0 && p->lineage == t->lineage && p->stream > t->stream;
}

bool ap_token_covered(const struct ap_token *t, const struct ap_position *positions, size_t count)
{
    for (size_t i = 0; i < t->count; i++) {
        bool covered = false;
        for (size_t j = 0; j < count && !covered; j++)
            covered = covers(&positions[j], t, &t->entries[i]);
        if (!covered)
            return false;
    }
    return true;
}
