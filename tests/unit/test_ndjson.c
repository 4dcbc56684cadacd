/* NDJSON lines in pieces of every size. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "common/ndjson.h"
#include "run.h"

static struct ap_buf lines; /* "number:text|" */
static struct ap_err err;
static uint64_t refuse_line;
static const char *last;

static int on_line(void *arg, uint64_t line, const char *text, size_t len, struct ap_err *e)
{
    ck_assert_ptr_eq(arg, &lines);
    if (line == refuse_line)
        return ap_err_set(e, AP_EINVAL, AP_POISON, "line %d: no", (int)line);
    ap_buf_printf(&lines, "%d:%.*s|", (int)line, (int)len, text);
    last = text;
    return 0;
}

static int feed(const char *stream, size_t len, size_t piece, size_t limit)
{
    struct ap_ndjson *s = ap_ndjson_new(limit, on_line, &lines);
    int rc = 0;
    ap_buf_clear(&lines);
    for (size_t i = 0; i < len && rc == 0; i += piece) {
        size_t n = len - i < piece ? len - i : piece;
        char *copy = malloc(n);
        memcpy(copy, stream + i, n);
        rc = ap_ndjson_feed(s, copy, n, &err);
        free(copy);
    }
    int end = ap_ndjson_end(s, rc ? NULL : &err);
    ck_assert(rc == 0 || rc == end);
    ap_ndjson_free(&s);
    ap_buf_append(&lines, "", 1);
    return end;
}

static const struct { const char *stream, *lines; } good[] = {
    {"{\"a\":1}\n{\"b\":2}\n", "1:{\"a\":1}|2:{\"b\":2}|"},
    {"one\ntwo", "1:one|2:two|"},
    {"one\r\n\r\n  \t\nfour\r", "1:one|4:four|"},
    {"\n\n\n", ""},
    {"", ""},
    {"12345678\n12345678\r\n12345678", "1:12345678|2:12345678|3:12345678|"},
};

START_TEST(lines_are_split_and_numbered)
{
    for (size_t piece = 1; piece < 30; piece++) {
        ck_assert_int_eq(feed(good[_i].stream, strlen(good[_i].stream), piece, 8), 0);
        ck_assert_str_eq((char *)lines.data, good[_i].lines);
    }
}
END_TEST

START_TEST(a_line_over_the_limit_is_named)
{
    static const char *const streams[] = {"ok\n123456789\nok\n", "ok\n123456789", "ok\n123456789\r\n", "ok\n1234567890123456789012345"};
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        for (size_t piece = 1; piece < 30; piece++) {
            ck_assert_int_eq(feed(streams[i], strlen(streams[i]), piece, 8), AP_ETOOBIG);
            ck_assert_str_eq(err.msg, "line 2 is longer than 8 bytes");
            ck_assert_str_eq((char *)lines.data, "1:ok|");
        }
}
END_TEST

START_TEST(an_endless_line_is_refused_while_it_arrives)
{
    struct ap_ndjson *s = ap_ndjson_new(8, on_line, &lines);
    ck_assert_int_eq(ap_ndjson_feed(s, "12345", 5, &err), 0);
    ck_assert_int_eq(ap_ndjson_feed(s, "67890", 5, &err), AP_ETOOBIG);
    ap_ndjson_free(&s);
}
END_TEST

START_TEST(nul_bytes_do_not_end_a_line)
{
    ck_assert_int_eq(feed("a\0b\n\0\n", 6, 2, 8), 0);
    ck_assert_str_eq((char *)lines.data, "1:a|2:|"); /* as printf shows them */
}
END_TEST

START_TEST(the_callbacks_error_ends_the_stream_and_stays)
{
    struct ap_ndjson *s = ap_ndjson_new(100, on_line, &lines);
    refuse_line = 2;
    ck_assert_int_eq(ap_ndjson_feed(s, "one\ntwo\nthree\n", 14, &err), AP_EINVAL);
    memset(&err, 0, sizeof err);
    ck_assert_int_eq(ap_ndjson_feed(s, "four\n", 5, &err), AP_EINVAL);
    ck_assert_str_eq(err.msg, "line 2: no");
    ck_assert_int_eq(ap_ndjson_end(s, NULL), AP_EINVAL);
    ck_assert_uint_eq(lines.len, 6);
    ap_ndjson_free(&s);
}
END_TEST

START_TEST(a_whole_line_is_handed_out_in_place)
{
    const char stream[] = "one\ntwo\n";
    struct ap_ndjson *s = ap_ndjson_new(100, on_line, &lines);
    ck_assert_int_eq(ap_ndjson_feed(s, stream, 8, &err), 0);
    ck_assert_ptr_eq(last, stream + 4);
    ap_ndjson_free(&s);
    ck_assert_ptr_null(s);
}
END_TEST

static void teardown(void)
{
    ap_buf_free(&lines);
}

int main(void)
{
    Suite *suite = suite_create("ndjson");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, NULL, teardown);
    tcase_add_loop_test(tc, lines_are_split_and_numbered, 0, (int)(sizeof good / sizeof *good));
    tcase_add_test(tc, a_line_over_the_limit_is_named);
    tcase_add_test(tc, an_endless_line_is_refused_while_it_arrives);
    tcase_add_test(tc, nul_bytes_do_not_end_a_line);
    tcase_add_test(tc, the_callbacks_error_ends_the_stream_and_stays);
    tcase_add_test(tc, a_whole_line_is_handed_out_in_place);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
