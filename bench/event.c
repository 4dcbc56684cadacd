/* The event: bytes a record on the wire, and records a second on one core.
 *
 *     bench_event [VECTOR BYTES, 16 by default]
 *
 * Sizes are those of whole Kafka record batches (format 2, with their header) of events with random point ids and random
 * vectors, as quantized ones nearly are, compressed with zstd level 1 as the producer does. bulk: some 60 records stamped
 * in the same ms over 4 partitions; slow: about one a ms. Prints JSON. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>
#include "common/avro_wire.h"
#include "common/clock.h"
#include "common/event.h"
#include "common/schema.h"
#include "common/timeutil.h"

#define BATCH_HEADER 61
#define MAX_VECTOR 4096

static uint64_t state = 1;

static uint64_t next(void) /* splitmix64 */
{
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fill(uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)next();
}

static void append_long(struct ap_buf *buf, int64_t value)
{
    ap_buf_reserve(buf, AP_AVRO_LONG_BYTES); /* Kafka's varints are Avro's */
    buf->len = (size_t)(ap_avro_put_long(buf->data + buf->len, value) - buf->data);
}

/* One record of a batch, as Kafka frames it. */
static void append_record(struct ap_buf *out, const struct ap_key *key, const struct ap_buf *value, int64_t offset, int64_t ms)
{
    struct ap_buf body = {0};
    ap_buf_append(&body, "", 1); /* attributes */
    append_long(&body, ms);
    append_long(&body, offset);
    append_long(&body, sizeof key->b);
    ap_buf_append(&body, key->b, sizeof key->b);
    append_long(&body, (int64_t)value->len);
    ap_buf_append(&body, value->data, value->len);
    append_long(&body, 0); /* headers */
    append_long(out, (int64_t)body.len);
    ap_buf_append(out, body.data, body.len);
    ap_buf_free(&body);
}

static struct ap_mutation event(const uint8_t *vector, size_t len)
{
    static uint64_t writer;
    if (!writer)
        writer = ap_incarnation_new(ap_wall_ms());
    return (struct ap_mutation){ .op = AP_OP_UPSERT, .version = { 0, { "eu" }, writer }, .stream = writer, .has_codec = true,
                                 .codec = UINT64_C(0x8f3a5b0c9d7e1264), .vector = vector, .vector_len = len };
}

/* Bytes a record, uncompressed and compressed, in batches of count. */
static void measure_size(size_t count, bool slow, size_t vector_len, double *plain, double *compressed)
{
    struct ap_buf records = {0}, value = {0};
    uint8_t vector[MAX_VECTOR];
    int64_t ms = ap_wall_ms(), first_ms = ms;
    uint64_t counter = 0, seq = 70000 + next() % 100000;
    for (size_t i = 0; i < count; i++) {
        struct ap_mutation m = event(vector, vector_len);
        struct ap_point_id id;
        struct ap_key key;
        fill(vector, vector_len);
        fill(id.b, sizeof id.b);
        if (slow) {
            ms += (int64_t)(next() % 3);
            counter = 0;
        } else if (next() % 60 < 4) {
            ms++;
            counter = next() % 4;
        }
        m.version.hlc = m.clock = ap_hlc_make(ms, (uint16_t)counter);
        counter += 1 + next() % 7;
        m.seq = seq++;
        ap_buf_clear(&value);
        ap_mutation_encode(&m, &value);
        ap_key_make(UINT64_C(0x1badb002deadbeef), &id, &key);
        append_record(&records, &key, &value, (int64_t)i, ms - first_ms);
    }
    size_t bound = ZSTD_compressBound(records.len);
    void *out = malloc(bound);
    size_t size = ZSTD_compress(out, bound, records.data, records.len, 1);
    *plain = (double)(BATCH_HEADER + records.len) / (double)count;
    *compressed = (double)(BATCH_HEADER + size) / (double)count;
    free(out);
    ap_buf_free(&records);
    ap_buf_free(&value);
}

static json_t *sizes(size_t vector_len)
{
    static const size_t counts[] = { 1, 10, 100, 200, 1000, 5000 };
    json_t *all = json_array();
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        double plain, bulk, slow;
        measure_size(counts[i], true, vector_len, &plain, &slow);
        measure_size(counts[i], false, vector_len, &plain, &bulk);
        json_array_append_new(all, json_pack("{s:i, s:f, s:f, s:f}", "records_per_batch", (int)counts[i], "bytes_per_record", plain,
                                             "zstd1_bulk", bulk, "zstd1_slow", slow));
    }
    return all;
}

/* Calls a second of what step does. */
static double rate(void (*step)(void *), void *arg)
{
    int64_t start = ap_mono_ns(), end = start + 500000000, now;
    uint64_t calls = 0;
    do {
        for (int i = 0; i < 1000; i++)
            step(arg);
        calls += 1000;
    } while ((now = ap_mono_ns()) < end);
    return (double)calls * 1e9 / (double)(now - start);
}

struct work { struct ap_schemas *schemas; struct ap_mutation m, back; uint8_t out[MAX_VECTOR + AP_EVENT_OVERHEAD]; size_t len; struct ap_buf scratch, other; };

static void encode(void *arg)
{
    struct work *w = arg;
    w->m.seq++;
    w->len = ap_mutation_encode_to(&w->m, w->out);
}

static void decode(void *arg)
{
    struct work *w = arg;
    if (ap_mutation_decode(w->schemas, w->out, w->len, &w->back, &w->scratch, NULL))
        abort();
}

static void decode_other_version(void *arg)
{
    struct work *w = arg;
    if (ap_mutation_decode(w->schemas, w->other.data, w->other.len, &w->back, &w->scratch, NULL))
        abort();
}

/* The same event in a version of one more field. */
static void make_other_version(struct work *w)
{
    const char *json = ap_schema_newest(w->schemas, "VectorMutation")->json, *end = strrchr(json, ']');
    struct ap_buf text = {0};
    uint64_t fingerprint;
    ap_buf_append(&text, json, (size_t)(end - json));
    ap_buf_printf(&text, ",{\"name\":\"extra\",\"type\":\"int\",\"default\":0}%s", end);
    if (ap_schemas_learn(w->schemas, (char *)text.data, text.len, &fingerprint, NULL))
        abort();
    ap_buf_append(&w->other, w->out, w->len);
    ap_put_le64(w->other.data + 2, fingerprint);
    ap_buf_append(&w->other, "\2", 1);
    ap_buf_free(&text);
}

int main(int argc, char **argv)
{
    static struct work w;
    static uint8_t vector[MAX_VECTOR];
    size_t vector_len = argc > 1 ? strtoul(argv[1], NULL, 10) : 16;
    if (vector_len < 1 || vector_len > MAX_VECTOR || ap_schemas_new(&w.schemas, NULL)) {
        fprintf(stderr, "usage: bench_event [VECTOR BYTES, 1 to %d]\n", MAX_VECTOR);
        return 2;
    }
    w.m = event(vector, vector_len);
    w.m.version.hlc = w.m.clock = ap_hlc_make(ap_wall_ms(), 7);
    double encoded = rate(encode, &w), decoded = rate(decode, &w);
    make_other_version(&w);
    double resolved = rate(decode_other_version, &w);
    json_t *report = json_pack("{s:i, s:i, s:f, s:f, s:f, s:o}", "vector_bytes", (int)vector_len, "value_bytes", (int)w.len, "encode_per_s", encoded,
                               "decode_per_s", decoded, "decode_other_version_per_s", resolved, "sizes", sizes(vector_len));
    json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(4));
    putchar('\n');
    json_decref(report);
    ap_buf_free(&w.scratch);
    ap_buf_free(&w.other);
    ap_schemas_free(&w.schemas);
    return 0;
}
