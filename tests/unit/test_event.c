/* The event's codec, against itself, against Avro C, and against damage. */
#include <check.h>
#include <sodium.h>
#include <stdlib.h>
#include "common/avro_field.h"
#include "common/avro_wire.h"
#include "common/clock.h"
#include "common/event.h"
#include "common/schema.h"
#include "rnd.h"
#include "run.h"

static struct ap_schemas *schemas;
static struct ap_buf scratch;

static void setup(void)
{
    struct ap_err err;
    if (ap_schemas_new(&schemas, &err))
        ck_abort_msg("%s", err.msg);
}

static void teardown(void)
{
    ap_schemas_free(&schemas);
    ap_buf_free(&scratch);
}

static uint64_t rnd_hlc(void)
{
    return rnd_below(4) ? ap_hlc_make((int64_t)(1700000000000u + rnd_below(1u << 30)), (uint16_t)rnd()) : rnd() >> (2 + rnd_below(60));
}

static struct ap_region rnd_region(void)
{
    static const char *const names[] = { "eu", "us", "a", "ap-southeast-10" };
    struct ap_region r = { "" };
    strcpy(r.name, names[rnd_below(4)]);
    return r;
}

/* A mutation of any shape; bytes holds its vector and payload. */
static struct ap_mutation rnd_mutation(uint8_t bytes[600])
{
    struct ap_mutation m = { .op = (enum ap_op)rnd_below(4), .version = { rnd_hlc(), rnd_region(), rnd() | 1 }, .seq = (rnd() >> (1 + rnd_below(62))) | 1 };
    m.stream = rnd_below(3) ? m.version.writer : rnd() | 1;
    m.clock = rnd_below(3) ? m.version.hlc : rnd_hlc();
    m.has_codec = rnd_below(2);
    m.codec = m.has_codec ? rnd() : 0;
    rnd_bytes(bytes, 600);
    if (rnd_below(2)) {
        m.vector = bytes;
        m.vector_len = rnd_below(4) ? rnd_below(300) : 0;
    }
    if (rnd_below(2)) {
        m.payload = (const char *)bytes + 300;
        m.payload_len = rnd_below(4) ? rnd_below(300) : 0;
        for (size_t i = 300; i < 600; i++)
            bytes[i] = (uint8_t)(' ' + bytes[i] % 90);
    }
    return m;
}

static bool equal(const struct ap_mutation *a, const struct ap_mutation *b)
{
    return a->op == b->op && ap_version_compare(&a->version, &b->version) == 0 && a->stream == b->stream && a->seq == b->seq &&
           a->clock == b->clock && a->has_codec == b->has_codec && a->codec == b->codec && !a->vector == !b->vector &&
           a->vector_len == b->vector_len && !a->payload == !b->payload && a->payload_len == b->payload_len &&
           (a->vector_len == 0 || memcmp(a->vector, b->vector, a->vector_len) == 0) &&
           (a->payload_len == 0 || memcmp(a->payload, b->payload, a->payload_len) == 0);
}

START_TEST(every_shape_comes_back)
{
    uint8_t bytes[600];
    struct ap_err err;
    rnd_seed("every_shape_comes_back");
    for (unsigned shape = 0; shape < 4 * 64; shape++) {
        struct ap_mutation m = rnd_mutation(bytes), back;
        m.op = (enum ap_op)(shape & 3);
        m.stream = shape & 4 ? m.version.writer : m.version.writer ^ 2;
        m.clock = shape & 8 ? m.version.hlc : m.version.hlc ^ 2;
        m.has_codec = (shape & 16) != 0;
        m.codec = m.has_codec ? rnd() : 0;
        m.vector = shape & 32 ? bytes : NULL;
        m.vector_len = shape & 32 ? shape % 7 : 0;
        m.payload = shape & 64 ? "{}" : NULL;
        m.payload_len = shape & 64 ? 2 : 0;
        struct ap_buf buf = {0};
        ap_mutation_encode(&m, &buf);
        ck_assert_uint_le(buf.len, AP_EVENT_OVERHEAD + m.vector_len + m.payload_len);
        ck_assert_msg(ap_mutation_decode(NULL, buf.data, buf.len, &back, NULL, &err) == 0, "%s", err.msg);
        ck_assert(equal(&m, &back));
        ck_assert(!back.vector || (back.vector >= buf.data && back.vector <= buf.data + buf.len)); /* borrowed */
        ap_buf_free(&buf);
    }
}
END_TEST

START_TEST(the_largest_fits_the_bound)
{
    struct ap_mutation m = { .op = AP_OP_UPSERT, .version = { AP_HLC_MAX, { "a23456789012345" }, UINT64_C(1) << 63 },
                             .stream = (UINT64_C(1) << 63) + 1, .seq = INT64_MAX, .clock = AP_HLC_MAX - 1, .has_codec = true,
                             .codec = 1, .vector = calloc(1, 1 << 20), .vector_len = 1 << 20, .payload = calloc(1, 1 << 20),
                             .payload_len = 1 << 20 }, back;
    struct ap_buf buf = {0};
    ap_mutation_encode(&m, &buf);
    ck_assert_uint_le(buf.len, AP_EVENT_OVERHEAD + m.vector_len + m.payload_len);
    ck_assert_int_eq(ap_mutation_decode(NULL, buf.data, buf.len, &back, NULL, NULL), 0);
    ck_assert(equal(&m, &back));
    ap_buf_free(&buf);
    free((void *)(uintptr_t)m.vector);
    free((void *)(uintptr_t)m.payload);
}
END_TEST

/* What Avro C makes of the same fields. */
static void encode_generic(const struct ap_mutation *m, struct ap_buf *out)
{
    avro_value_iface_t *iface = avro_generic_class_from_schema(ap_schema_newest(schemas, "VectorMutation")->schema);
    avro_value_t v;
    uint8_t codec[8];
    char payload[301];
    avro_generic_value_new(iface, &v);
    avro_value_iface_decref(iface);
    ap_avro_set_enum(&v, "op", (int)m->op);
    ap_avro_set_u64(&v, "hlc", m->version.hlc);
    ap_avro_set_string(&v, "region", m->version.region.name);
    ap_avro_set_u64(&v, "writer", m->version.writer);
    ap_put_be64(codec, m->codec);
    if (m->has_codec)
        ap_avro_set_fixed(&v, "codec", codec, 8);
    else
        ap_avro_set_null(&v, "codec");
    if (m->vector)
        ap_avro_set_bytes(&v, "vector", m->vector, m->vector_len);
    else
        ap_avro_set_null(&v, "vector");
    ap_avro_set_u64(&v, "seq", m->seq);
    if (m->stream != m->version.writer)
        ap_avro_set_u64(&v, "stream", m->stream);
    else
        ap_avro_set_null(&v, "stream");
    if (m->clock != m->version.hlc)
        ap_avro_set_u64(&v, "clock", m->clock);
    else
        ap_avro_set_null(&v, "clock");
    if (m->payload) {
        memcpy(payload, m->payload, m->payload_len);
        payload[m->payload_len] = '\0';
        ap_avro_set_string(&v, "payload", payload);
    } else {
        ap_avro_set_null(&v, "payload");
    }
    struct ap_err err;
    ck_assert_msg(ap_schema_write(schemas, "VectorMutation", &v, out, &err) == 0, "%s", err.msg);
    avro_value_decref(&v);
}

START_TEST(by_hand_and_by_avro_c_are_the_same_bytes)
{
    uint8_t bytes[600];
    struct ap_buf hand = {0}, generic = {0};
    rnd_seed("by_hand_and_by_avro_c_are_the_same_bytes");
    for (int i = 0; i < 20000; i++) {
        struct ap_mutation m = rnd_mutation(bytes);
        ap_buf_clear(&hand);
        ap_buf_clear(&generic);
        ap_mutation_encode(&m, &hand);
        encode_generic(&m, &generic);
        ck_assert_uint_eq(hand.len, generic.len);
        ck_assert_mem_eq(hand.data, generic.data, hand.len);
        avro_value_t v;
        ck_assert_int_eq(ap_schema_read(schemas, "VectorMutation", hand.data, hand.len, &v, NULL), 0);
        ck_assert(ap_avro_u64(&v, "seq") == m.seq);
        avro_value_decref(&v);
    }
    ap_buf_free(&hand);
    ap_buf_free(&generic);
}
END_TEST

/* Decode bytes that may be damaged, from memory that ends where they end; 0 or the error. What is accepted by hand must
 * be accepted by the resolving reader as well, and must encode to the same bytes (but for a stream or clock that
 * was written although it is the default). */
static int decode_damaged(const uint8_t *bytes, size_t len)
{
    struct ap_mutation m;
    struct ap_err err = { .msg = "" };
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, bytes, len);
    int rc = ap_mutation_decode(NULL, exact, len, &m, NULL, &err);
    avro_value_t v;
    if (rc == 0) {
        struct ap_buf again = {0};
        ck_assert_int_eq(ap_schema_read(schemas, "VectorMutation", exact, len, &v, NULL), 0);
        avro_value_decref(&v);
        ap_mutation_encode(&m, &again);
        ck_assert_uint_le(again.len, len);
        if (again.len == len)
            ck_assert_mem_eq(again.data, exact, len);
        ap_buf_free(&again);
    } else {
        ck_assert(rc == AP_ECORRUPT || rc == AP_ESCHEMA);
        ck_assert_int_eq(err.code, rc);
        ck_assert_int_eq(err.cls, rc == AP_ECORRUPT ? AP_POISON : AP_RETRY);
        ck_assert(err.msg[0]);
        if (ap_schema_read(schemas, "VectorMutation", exact, len, &v, NULL) == 0)
            avro_value_decref(&v); /* out of range, but well-formed */
    }
    free(exact);
    return rc;
}

START_TEST(damage_is_refused_or_harmless)
{
    uint8_t bytes[600];
    rnd_seed("damage_is_refused_or_harmless");
    for (int i = 0; i < 60; i++) {
        struct ap_mutation m = rnd_mutation(bytes);
        struct ap_buf buf = {0};
        ap_mutation_encode(&m, &buf);
        for (size_t len = 0; len < buf.len; len++)
            ck_assert_int_ne(decode_damaged(buf.data, len), 0);
        for (size_t bit = 0; bit < buf.len * 8; bit++) {
            buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            decode_damaged(buf.data, buf.len);
            buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        ap_buf_append(&buf, "", 1);
        ck_assert_int_eq(decode_damaged(buf.data, buf.len), AP_ECORRUPT); /* trailing byte */
        ap_buf_free(&buf);
    }
}
END_TEST

START_TEST(random_bytes_are_refused_or_harmless)
{
    uint8_t bytes[64];
    struct ap_mutation m = { .op = AP_OP_UPSERT, .version = { 1, { "eu" }, 1 }, .stream = 1, .seq = 1, .clock = 1 };
    struct ap_buf buf = {0};
    ap_mutation_encode(&m, &buf);
    rnd_seed("random_bytes_are_refused_or_harmless");
    for (int i = 0; i < 100000; i++) {
        rnd_bytes(bytes, sizeof bytes);
        for (size_t j = 10; j < sizeof bytes; j++)
            if (rnd_below(2))
                bytes[j] &= 0x0b; /* small numbers get further */
        memcpy(bytes, buf.data, 10 + rnd_below(buf.len - 10));
        decode_damaged(bytes, 10 + rnd_below(55));
    }
    ap_buf_free(&buf);
}
END_TEST

/* A body by hand, field by field, to break one at a time. */
struct parts { int64_t op, hlc, writer, seq; const char *region; };

static int decode_parts(struct parts p, const char *expected)
{
    uint8_t out[128], *at = out;
    struct ap_mutation valid = { .version = { 1, { "eu" }, 1 }, .stream = 1, .seq = 1, .clock = 1 }, m;
    ap_mutation_encode_to(&valid, out);
    at = ap_avro_put_long(out + 10, p.op);
    at = ap_avro_put_long(at, p.hlc);
    at = ap_avro_put_long(at, (int64_t)strlen(p.region));
    memcpy(at, p.region, strlen(p.region));
    at = ap_avro_put_long(at + strlen(p.region), p.writer);
    at = memcpy(at, "\0\0", 2) + 2;
    at = ap_avro_put_long(at, p.seq);
    at = memcpy(at, "\0\0\0", 3) + 3;
    struct ap_err err = { .msg = "" };
    int rc = ap_mutation_decode(NULL, out, (size_t)(at - out), &m, NULL, &err);
    ck_assert_msg(strstr(err.msg, expected), "'%s' instead of '%s'", err.msg, expected);
    return rc;
}

START_TEST(fields_out_of_range_are_refused)
{
    const struct parts good = { 0, 1, 1, 1, "eu" };
    struct parts p = good;
    ck_assert_int_eq(decode_parts(p, ""), 0);
    p.op = 4;
    ck_assert_int_eq(decode_parts(p, "upgrade"), AP_ESCHEMA);
    p.op = 5;
    ck_assert_int_eq(decode_parts(p, "operation"), AP_ECORRUPT);
    p.op = -1;
    ck_assert_int_eq(decode_parts(p, "operation"), AP_ECORRUPT);
    p = good;
    p.hlc = -1;
    ck_assert_int_eq(decode_parts(p, "clock"), AP_ECORRUPT);
    p.hlc = (int64_t)AP_HLC_MAX + 1;
    ck_assert_int_eq(decode_parts(p, "clock"), AP_ECORRUPT);
    p.hlc = (int64_t)AP_HLC_MAX;
    ck_assert_int_eq(decode_parts(p, ""), 0);
    p = good;
    p.writer = 0;
    ck_assert_int_eq(decode_parts(p, "incarnation"), AP_ECORRUPT);
    p.writer = INT64_MIN; /* an incarnation of 2039 */
    ck_assert_int_eq(decode_parts(p, ""), 0);
    p = good;
    p.seq = 0;
    ck_assert_int_eq(decode_parts(p, "seq"), AP_ECORRUPT);
    p.seq = -1;
    ck_assert_int_eq(decode_parts(p, "seq"), AP_ECORRUPT);
    p = good;
    p.region = "";
    ck_assert_int_eq(decode_parts(p, "region"), AP_ECORRUPT);
    p.region = "eu.x";
    ck_assert_int_eq(decode_parts(p, "region"), AP_ECORRUPT);
}
END_TEST

START_TEST(numbers_have_one_form)
{
    static const struct { const char *bytes; size_t len; int64_t value; bool good; } cases[] = {
        { "\x00", 1, 0, true }, { "\x01", 1, -1, true }, { "\x02", 1, 1, true }, { "\x7f", 1, -64, true }, { "\x80\x01", 2, 64, true },
        { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, INT64_MIN, true }, { "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10, INT64_MAX, true },
        { "\x80\x00", 2, 0, false }, { "\x80", 1, 0, false }, { "", 0, 0, false }, { "\x80\x80\x80", 3, 0, false },
        { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10, 0, false }, { "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00", 11, 0, false } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint8_t *p = (const uint8_t *)cases[i].bytes;
        uint8_t again[AP_AVRO_LONG_BYTES];
        int64_t value = 0;
        ck_assert(ap_avro_get_long(p, p + cases[i].len, &value) == (cases[i].good ? p + cases[i].len : NULL));
        if (cases[i].good) {
            ck_assert_int_eq(value, cases[i].value);
            ck_assert_uint_eq((size_t)(ap_avro_put_long(again, value) - again), cases[i].len);
            ck_assert_mem_eq(again, p, cases[i].len);
        }
    }
}
END_TEST

START_TEST(unknown_schemas_wait)
{
    struct ap_mutation m = { .version = { 1, { "eu" }, 1 }, .stream = 1, .seq = 1, .clock = 1 };
    struct ap_err err;
    struct ap_buf buf = {0};
    ap_mutation_encode(&m, &buf);
    buf.data[2] ^= 1;
    for (int with = 0; with < 2; with++) {
        ck_assert_int_eq(ap_mutation_decode(with ? schemas : NULL, buf.data, buf.len, &m, &scratch, &err), AP_ESCHEMA);
        ck_assert_int_eq(err.cls, AP_RETRY);
        ck_assert_ptr_nonnull(strstr(err.msg, "4792b3217d0b90ff")); /* which one to look for */
    }
    /* a record of ours, but another one */
    ap_put_le64(buf.data + 2, ap_schema_newest(schemas, "Watermark")->fingerprint);
    ck_assert_int_eq(ap_mutation_decode(schemas, buf.data, buf.len, &m, &scratch, &err), AP_ECORRUPT);
    ck_assert_msg(strstr(err.msg, "a Watermark"), "%s", err.msg);
    buf.data[1] = 2;
    ck_assert_int_eq(ap_mutation_decode(schemas, buf.data, buf.len, &m, &scratch, &err), AP_ECORRUPT);
    ck_assert_int_eq(ap_mutation_decode(NULL, "", 0, &m, &scratch, &err), AP_ECORRUPT);
    ap_buf_free(&buf);
}
END_TEST

START_TEST(versions_order_by_clock_region_and_writer)
{
    const struct ap_version v[] = { { 1, { "us" }, 9 }, { 2, { "ap" }, 9 }, { 2, { "eu" }, 1 }, { 2, { "eu" }, 2 },
                                    { 2, { "eu" }, UINT64_C(1) << 63 }, { 2, { "eu2" }, 1 }, { UINT64_C(1) << 62, { "a" }, 1 } };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        for (size_t j = 0; j < sizeof v / sizeof *v; j++) {
            int order = ap_version_compare(&v[i], &v[j]);
            ck_assert(i < j ? order < 0 : i > j ? order > 0 : order == 0);
        }
}
END_TEST

static int parse_hello(enum ap_op op, const char *payload, struct ap_hello *out)
{
    struct ap_mutation m = { .op = op, .payload = payload, .payload_len = payload ? strlen(payload) : 0 };
    struct ap_err err = { .msg = "" };
    int rc = ap_hello_parse(&m, out, &err);
    ck_assert(rc >= 0 || (rc == AP_EINVAL && err.cls == AP_POISON));
    return rc;
}

START_TEST(hello_says_where_the_predecessor_ended)
{
    struct ap_hello hello = { UINT64_C(0xfedcba9876543210), 12345678901 }, back = {0};
    char text[AP_EVENT_OVERHEAD];
    int len = ap_hello_format(&hello, text, sizeof text);
    ck_assert_str_eq(text, "{\"hello\":{\"predecessor\":\"fedcba9876543210\",\"ended\":12345678901}}");
    ck_assert_int_eq(len, (int)strlen(text));
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, text, &back), 1);
    ck_assert(back.predecessor == hello.predecessor && back.ended == hello.ended);
    ck_assert_int_eq(parse_hello(AP_OP_UPSERT, text, &back), 0);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, NULL, &back), 0);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"barrier\":1}", &back), 0);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"hello\":1}", &back), AP_EINVAL);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"hello\":{\"ended\":1}}", &back), AP_EINVAL);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"hello\":{\"predecessor\":\"12\",\"ended\":1}}", &back), AP_EINVAL);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"hello\":{\"predecessor\":\"000000000000000x\",\"ended\":1}}", &back), AP_EINVAL);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"hello\":{\"predecessor\":\"0000000000000000\",\"ended\":-1}}", &back), AP_EINVAL);
    ck_assert_int_eq(parse_hello(AP_OP_HEARTBEAT, "{\"hello\"", &back), AP_EINVAL);
}
END_TEST

START_TEST(raw_vectors_come_back_or_are_refused)
{
    uint8_t bytes[400], out[400 + AP_EVENT_OVERHEAD];
    struct ap_err err;
    rnd_seed("raw_vectors_come_back_or_are_refused");
    for (int i = 0; i < 300; i++) {
        rnd_bytes(bytes, sizeof bytes);
        struct ap_raw_vector r = { .version = { rnd_hlc(), rnd_region(), rnd() | 1 }, .seq = (rnd() >> 2) | 1, .vector = bytes, .vector_len = rnd_below(100) * 4 }, back;
        r.stream = i % 2 ? r.version.writer : rnd() | 1;
        size_t len = ap_raw_vector_encode_to(&r, out);
        ck_assert_uint_le(len, AP_EVENT_OVERHEAD + r.vector_len);
        ck_assert_int_eq(ap_raw_vector_decode(NULL, out, len, &back, NULL, &err), 0);
        ck_assert(ap_version_compare(&r.version, &back.version) == 0 && r.stream == back.stream && r.seq == back.seq && r.vector_len == back.vector_len);
        ck_assert(r.vector_len == 0 || memcmp(r.vector, back.vector, r.vector_len) == 0);
        avro_value_t v;
        ck_assert_int_eq(ap_schema_read(schemas, "RawVector", out, len, &v, &err), 0);
        struct ap_buf again = {0};
        ck_assert_int_eq(ap_schema_write(schemas, "RawVector", &v, &again, &err), 0);
        ck_assert_uint_eq(again.len, len);
        ck_assert_mem_eq(again.data, out, len);
        ap_buf_free(&again);
        avro_value_decref(&v);
        for (size_t cut = 0; cut < len; cut++) {
            uint8_t *exact = malloc(cut + 1);
            memcpy(exact, out, cut);
            exact = realloc(exact, cut ? cut : 1);
            ck_assert_int_lt(ap_raw_vector_decode(NULL, exact, cut, &back, NULL, &err), 0);
            free(exact);
        }
        for (size_t bit = 0; bit < len * 8; bit++) {
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (ap_raw_vector_decode(NULL, out, len, &back, NULL, &err) == 0)
                ck_assert(back.vector >= out && back.vector + back.vector_len <= out + len);
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}
END_TEST

/* The example of docs/event-format.md. */
START_TEST(the_documented_example)
{
    static const char hex[] = "c301fe900b7d21b39247008680f0f2b1aabe9b030465758a8d8980e68d95dfcd01020123456789abcdef022000112233445566778899aabbccddeeffd00f0000020e7b226e223a317d";
    static const uint8_t code[] = { 0, 17, 34, 51, 68, 85, 102, 119, 136, 153, 170, 187, 204, 221, 238, 255 };
    struct ap_mutation m = { .op = AP_OP_UPSERT, .version = { ap_hlc_make(1767323045678, 3), { "eu" }, UINT64_C(0x66df2a3730012345) },
                             .stream = UINT64_C(0x66df2a3730012345), .seq = 1000, .clock = ap_hlc_make(1767323045678, 3), .has_codec = true,
                             .codec = UINT64_C(0x0123456789abcdef), .vector = code, .vector_len = 16, .payload = "{\"n\":1}", .payload_len = 7 };
    struct ap_buf buf = {0};
    char text[512];
    ap_mutation_encode(&m, &buf);
    ck_assert_str_eq(sodium_bin2hex(text, sizeof text, buf.data, buf.len), hex);
    ap_buf_free(&buf);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("event");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, every_shape_comes_back);
    tcase_add_test(tc, the_largest_fits_the_bound);
    tcase_add_test(tc, by_hand_and_by_avro_c_are_the_same_bytes);
    tcase_add_test(tc, damage_is_refused_or_harmless);
    tcase_add_test(tc, random_bytes_are_refused_or_harmless);
    tcase_add_test(tc, fields_out_of_range_are_refused);
    tcase_add_test(tc, numbers_have_one_form);
    tcase_add_test(tc, unknown_schemas_wait);
    tcase_add_test(tc, versions_order_by_clock_region_and_writer);
    tcase_add_test(tc, hello_says_where_the_predecessor_ended);
    tcase_add_test(tc, raw_vectors_come_back_or_are_refused);
    tcase_add_test(tc, the_documented_example);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
