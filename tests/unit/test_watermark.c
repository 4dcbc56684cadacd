/* Watermarks, tokens, base64url. */
#include <check.h>
#include <stdlib.h>
#include "common/base64url.h"
#include "common/clock.h"
#include "common/schema.h"
#include "common/watermark.h"
#include "rnd.h"
#include "run.h"

static struct ap_schemas *schemas;

static void setup(void)
{
    struct ap_err err;
    if (ap_schemas_new(&schemas, &err))
        ck_abort_msg("%s", err.msg);
}

static void teardown(void)
{
    ap_schemas_free(&schemas);
}

START_TEST(watermarks_come_back)
{
    struct ap_position positions[] = {
        { UINT64_C(1) << 63 | 1, { "eu" }, "vec-mutations", 0, 12, 34, 9, false },
        { 2, { "us" }, "vec-mutations", 3, 0, 0, 0, true },
        { 3, { "ap" }, "vec-big", INT32_MAX, INT64_MAX, AP_HLC_MAX, UINT64_MAX, false } };
    for (size_t count = 0; count <= 3; count++) {
        struct ap_watermark w = { { "eu" }, 1767323045678, 77, positions, count, { 5, -1 } }, back;
        struct ap_buf buf = {0};
        struct ap_err err;
        ck_assert_int_eq(ap_watermark_encode(schemas, &w, &buf, &err), 0);
        ck_assert_msg(ap_watermark_decode(schemas, buf.data, buf.len, &back, &err) == 0, "%s", err.msg);
        ck_assert(back.sent_ms == w.sent_ms && back.hlc == 77 && back.count == count && strcmp(back.region.name, "eu") == 0);
        for (size_t i = 0; i < count; i++) {
            const struct ap_position *a = &positions[i], *b = &back.positions[i];
            ck_assert(a->stream == b->stream && a->partition == b->partition && a->mark == b->mark && a->clock == b->clock &&
                      a->lineage == b->lineage && a->finished == b->finished && memcmp(&a->region, &b->region, 16) == 0);
            ck_assert_str_eq(a->topic, b->topic);
        }
        ap_watermark_fini(&back);
        for (size_t len = 0; len < buf.len; len++)
            ck_assert_int_lt(ap_watermark_decode(schemas, buf.data, len, &back, &err), 0);
        for (size_t bit = 0; bit < buf.len * 8; bit++) {
            buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (ap_watermark_decode(schemas, buf.data, buf.len, &back, &err) == 0)
                ap_watermark_fini(&back);
            buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        ap_buf_free(&buf);
    }
}
END_TEST

static int decode_position(struct ap_position p)
{
    struct ap_watermark w = { { "eu" }, 1, 1, &p, 1, { 0, 0 } }, back;
    struct ap_buf buf = {0};
    ck_assert_int_eq(ap_watermark_encode(schemas, &w, &buf, NULL), 0);
    int rc = ap_watermark_decode(schemas, buf.data, buf.len, &back, NULL);
    if (rc == 0)
        ap_watermark_fini(&back);
    ap_buf_free(&buf);
    return rc;
}

START_TEST(positions_out_of_range_are_refused)
{
    const struct ap_position good = { 1, { "eu" }, "t", 0, 1, 1, 1, false };
    struct ap_position p = good;
    ck_assert_int_eq(decode_position(p), 0);
    p.stream = 0;
    ck_assert_int_eq(decode_position(p), AP_ECORRUPT);
    p = good;
    p.partition = -1;
    ck_assert_int_eq(decode_position(p), AP_ECORRUPT);
    p = good;
    p.mark = (uint64_t)INT64_MAX + 1;
    ck_assert_int_eq(decode_position(p), AP_ECORRUPT);
    p = good;
    p.clock = AP_HLC_MAX + 1;
    ck_assert_int_eq(decode_position(p), AP_ECORRUPT);
    p = good;
    p.topic[0] = '\0';
    ck_assert_int_eq(decode_position(p), AP_ECORRUPT);
    p = good;
    p.region.name[0] = 'E';
    ck_assert_int_eq(decode_position(p), AP_ECORRUPT);
}
END_TEST

static struct ap_token_entry entry(const char *topic, int32_t partition, uint64_t seq)
{
    struct ap_token_entry e = { "", partition, seq };
    snprintf(e.topic, sizeof e.topic, "%s", topic);
    return e;
}

START_TEST(tokens_come_back)
{
    struct ap_token_entry entries[] = { entry("vec-mutations", 0, 1), entry("vec-mutations", 7, INT64_MAX), entry("vec-big", INT32_MAX, 300), entry("vec-mutations", 1, 2) };
    for (size_t count = 0; count <= 4; count++) {
        struct ap_token t = { { "eu-west-1" }, UINT64_MAX, AP_HLC_MAX, entries, count, 5 }, back;
        struct ap_buf text = {0};
        ap_token_format(&t, &text);
        ck_assert_int_eq(ap_token_parse((char *)text.data, text.len, &back, NULL), 0);
        ck_assert(back.stream == t.stream && back.hlc == t.hlc && back.lineage == 5 && back.count == count && memcmp(&back.region, &t.region, 16) == 0);
        for (size_t i = 0; i < count; i++) {
            ck_assert_str_eq(back.entries[i].topic, entries[i].topic);
            ck_assert(back.entries[i].partition == entries[i].partition && back.entries[i].seq == entries[i].seq);
        }
        for (size_t i = 0; i < text.len; i++) /* a token is a header's value and a part of a URL */
            ck_assert_ptr_nonnull(strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.", text.data[i]));
        ap_token_fini(&back);
        ap_buf_free(&text);
    }
}
END_TEST

START_TEST(a_token_of_256_entries_fits)
{
    struct ap_token_entry entries[400];
    for (int i = 0; i < 400; i++)
        entries[i] = entry("vec-mutations-with-a-name-of-the-greatest-length-that-there-is", i, (UINT64_C(1) << 55) - 1);
    struct ap_token t = { { "a23456789012345" }, 1, 1, entries, 256, 1 }, back;
    struct ap_buf text = {0};
    ap_token_format(&t, &text);
    ck_assert_uint_le(text.len, 4096);
    ck_assert_int_eq(ap_token_parse((char *)text.data, text.len, &back, NULL), 0);
    ck_assert_uint_eq(back.count, 256);
    ap_token_fini(&back);
    t.count = 400; /* over 4 KiB: nothing that we gave */
    ap_buf_clear(&text);
    ap_token_format(&t, &text);
    ck_assert_uint_gt(text.len, 4096);
    ck_assert_int_eq(ap_token_parse((char *)text.data, text.len, &back, NULL), AP_EINVAL);
    ap_buf_free(&text);
}
END_TEST

START_TEST(damaged_tokens_are_refused)
{
    struct ap_token_entry entries[] = { entry("vec-mutations", 0, 1000), entry("vec-mutations", 3, 70000) };
    struct ap_token t = { { "eu" }, 123456789, 987654321, entries, 2, 4 }, back;
    struct ap_buf text = {0};
    struct ap_err err;
    ap_token_format(&t, &text);
    for (size_t len = 0; len < text.len; len++)
        ck_assert_int_eq(ap_token_parse((char *)text.data, len, &back, &err), AP_EINVAL);
    for (size_t i = 0; i < text.len; i++) {
        for (int c = 0; c < 256; c++) {
            uint8_t was = text.data[i];
            text.data[i] = (uint8_t)c;
            if (c != was)
                ck_assert_int_eq(ap_token_parse((char *)text.data, text.len, &back, &err), AP_EINVAL);
            text.data[i] = was;
        }
    }
    ap_buf_append(&text, "A", 1);
    ck_assert_int_eq(ap_token_parse((char *)text.data, text.len, &back, &err), AP_EINVAL);
    while (text.len < 5000)
        ap_buf_append(&text, "A", 1);
    ck_assert_int_eq(ap_token_parse((char *)text.data, text.len, &back, &err), AP_EINVAL);
    ck_assert_int_eq(ap_token_parse("", 0, &back, &err), AP_EINVAL);
    ap_buf_free(&text);
}
END_TEST

START_TEST(coverage)
{
    struct ap_token_entry entries[] = { entry("vec-mutations", 0, 10), entry("vec-mutations", 1, 5) };
    struct ap_token t = { { "eu" }, 100, 1, entries, 2, 90 };
    struct ap_position p[] = {
        { 100, { "eu" }, "vec-mutations", 0, 9, 0, 90, false },
        { 100, { "eu" }, "vec-mutations", 1, 5, 0, 90, false },
        { 101, { "eu" }, "vec-mutations", 0, 50, 0, 90, false }, /* another stream says nothing */
        { 100, { "eu" }, "vec-big", 0, 50, 0, 90, false } };
    ck_assert(!ap_token_covered(&t, p, 4));
    p[0].mark = 10;
    ck_assert(ap_token_covered(&t, p, 4));
    ck_assert(!ap_token_covered(&t, p, 1));
    ck_assert(!ap_token_covered(&t, NULL, 0));
    t.count = 0;
    ck_assert(ap_token_covered(&t, NULL, 0)); /* nothing to wait for */
    t.count = 2;

    /* floors: the stream ended and was folded into its line */
    p[0] = (struct ap_position){ 100, { "eu" }, "vec-mutations", 0, 9, 0, 90, true };
    ck_assert(!ap_token_covered(&t, p, 2)); /* it ended before the token's record: that one is lost */
    p[0].mark = 10;
    ck_assert(ap_token_covered(&t, p, 2));
    p[0] = (struct ap_position){ 105, { "eu" }, "vec-mutations", 0, 1, 0, 90, true };
    ck_assert(ap_token_covered(&t, p, 2)); /* a later one of the line: all before are complete */
    p[0].lineage = 91;
    ck_assert(!ap_token_covered(&t, p, 2));
    p[0] = (struct ap_position){ 95, { "eu" }, "vec-mutations", 0, 99, 0, 90, true };
    ck_assert(!ap_token_covered(&t, p, 2)); /* an earlier one */
    p[0] = (struct ap_position){ 105, { "eu" }, "vec-mutations", 0, 99, 0, 90, false };
    ck_assert(!ap_token_covered(&t, p, 2)); /* not a floor */
    t.lineage = 0;
    p[0] = (struct ap_position){ 105, { "eu" }, "vec-mutations", 0, 99, 0, 0, true };
    ck_assert(!ap_token_covered(&t, p, 2)); /* two unknown lines are not one */
}
END_TEST

START_TEST(base64url_round_trips_and_is_strict)
{
    uint8_t bytes[50];
    rnd_seed("base64url_round_trips_and_is_strict");
    for (size_t len = 0; len <= sizeof bytes; len++) {
        struct ap_buf text = {0}, back = {0};
        rnd_bytes(bytes, len);
        ap_base64url_encode(bytes, len, &text);
        ck_assert_uint_eq(text.len, (len * 4 + 2) / 3);
        ck_assert_int_eq(ap_base64url_decode((char *)text.data, text.len, &back, NULL), 0);
        ck_assert_uint_eq(back.len, len);
        ck_assert(len == 0 || memcmp(back.data, bytes, len) == 0);
        ap_buf_free(&text);
        ap_buf_free(&back);
    }
    static const char *const bad[] = { "A", "AB", "AA==", "A A", "A+A/", "AAA\n", "AAAAA", "A\xff" "AA" }; /* "AB" has bits of no byte */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ap_buf back = {0};
        ap_buf_append(&back, "x", 1);
        ck_assert_msg(ap_base64url_decode(bad[i], strlen(bad[i]), &back, NULL) == AP_EINVAL, "%s", bad[i]);
        ck_assert_uint_eq(back.len, 1);
        ap_buf_free(&back);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("watermark");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, watermarks_come_back);
    tcase_add_test(tc, positions_out_of_range_are_refused);
    tcase_add_test(tc, tokens_come_back);
    tcase_add_test(tc, a_token_of_256_entries_fits);
    tcase_add_test(tc, damaged_tokens_are_refused);
    tcase_add_test(tc, coverage);
    tcase_add_test(tc, base64url_round_trips_and_is_strict);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
