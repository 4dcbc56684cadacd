/* NPY streams in pieces of every size: same rows, same errors. */
#include <check.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "common/npy.h"
#include "run.h"

static struct {
    struct ap_buf rows; /* float32 */
    uint64_t declared, next;
    size_t dim, calls, refuse_at;
    const void *last;
    bool refuse_header;
} got;
static struct ap_err err;

static int on_header(void *arg, uint64_t rows, size_t dim, struct ap_err *e)
{
    ck_assert_ptr_eq(arg, &got);
    got.declared = rows;
    got.dim = dim;
    return got.refuse_header ? ap_err_set(e, AP_EINVAL, AP_POISON, "wrong dimension") : 0;
}

static int on_rows(void *arg, const float *rows, size_t count, size_t dim, uint64_t first, struct ap_err *e)
{
    ck_assert_ptr_eq(arg, &got);
    ck_assert_uint_eq(dim, got.dim);
    ck_assert_uint_eq(first, got.next);
    ck_assert_uint_gt(count, 0);
    ck_assert_uint_eq((uintptr_t)rows % sizeof *rows, 0);
    if (got.refuse_at && first + count >= got.refuse_at)
        return ap_err_set(e, AP_EBUSY, AP_RETRY, "queue full");
    ap_buf_append(&got.rows, rows, count * dim * sizeof *rows);
    got.next += count;
    got.calls++;
    got.last = rows;
    return 0;
}

/* A stream: prefix of the version, the header padded as numpy does, then the bytes. */
static void build(struct ap_buf *out, int version, const char *header, const void *rows, size_t len)
{
    size_t prefix = version == 1 ? 10 : 12, n = strlen(header);
    size_t padded = (prefix + n + 1 + 63) / 64 * 64 - prefix;
    uint8_t head[12] = {0x93, 'N', 'U', 'M', 'P', 'Y', (uint8_t)version, 0, (uint8_t)padded, (uint8_t)(padded >> 8)};
    ap_buf_clear(out);
    ap_buf_append(out, head, prefix);
    ap_buf_append(out, header, n);
    while (out->len < prefix + padded - 1)
        ap_buf_append(out, " ", 1);
    ap_buf_append(out, "\n", 1);
    ap_buf_append(out, rows, len);
}

/* Feed in pieces; each piece is a copy of its own, so that reading past its end is seen. Returns feed's or end's code. */
static int feed(const struct ap_buf *stream, size_t piece)
{
    struct ap_npy_sink sink = {on_header, on_rows, &got};
    struct ap_npy *npy = ap_npy_new(&sink);
    int rc = 0;
    memset(&err, 0, sizeof err);
    ap_buf_clear(&got.rows);
    got.next = got.calls = 0;
    for (size_t i = 0; i < stream->len && rc == 0; i += piece) {
        size_t n = stream->len - i < piece ? stream->len - i : piece;
        char *copy = malloc(n);
        memcpy(copy, stream->data + i, n);
        rc = ap_npy_feed(npy, copy, n, &err);
        free(copy);
    }
    int end = ap_npy_end(npy, rc ? NULL : &err);
    ck_assert(rc == 0 || end == rc); /* an error stays */
    ck_assert_uint_eq(ap_npy_rows_done(npy), got.next);
    ap_npy_free(&npy);
    ck_assert_ptr_null(npy);
    return end;
}

static const size_t pieces[] = {1, 2, 3, 5, 7, 13, 64, 127, 1000, 1u << 20};
#define PIECES (int)(sizeof pieces / sizeof *pieces)

static void setup(void)
{
    memset(&got, 0, sizeof got);
}

static void teardown(void)
{
    ap_buf_free(&got.rows);
}

START_TEST(float32_rows_arrive_whatever_the_pieces)
{
    float rows[50 * 3];
    for (int i = 0; i < 150; i++)
        rows[i] = (float)i * 0.37f - 20;
    struct ap_buf stream = {0};
    char header[1200];
    for (int version = 1; version <= 3; version++) {
        int wide = version == 2 ? 3 : 1000; /* a length of one byte, and of two */
        snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (50,%*d), }", wide, 3);
        build(&stream, version, header, rows, sizeof rows);
        ck_assert_int_eq(feed(&stream, pieces[_i]), 0);
        ck_assert_uint_eq(got.declared, 50);
        ck_assert_uint_eq(got.rows.len, sizeof rows);
        ck_assert_mem_eq(got.rows.data, rows, sizeof rows);
    }
    ap_buf_free(&stream);
}
END_TEST

START_TEST(float16_rows_are_converted)
{
    static const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0400, 0x0001, 0x83ff, 0x7c00, 0xfc00, 0x3555, 0x2e66};
    static const float expected[] = {0.0f, -0.0f, 1.0f, -2.0f, 65504.0f, 0x1p-14f, 0x1p-24f, -0x1.ff8p-15f, INFINITY, -INFINITY,
                                     0.333251953125f, 0.0999755859375f};
    struct ap_buf stream = {0};
    build(&stream, 1, "{\"shape\": (4L, 3L), \"fortran_order\": False, \"descr\": \"<f2\"}", halves, sizeof halves);
    ck_assert_int_eq(feed(&stream, pieces[_i]), 0);
    ck_assert_uint_eq(got.rows.len, sizeof expected);
    ck_assert_mem_eq(got.rows.data, expected, sizeof expected);
    ap_buf_free(&stream);
}
END_TEST

START_TEST(nan_stays_nan)
{
    static const uint16_t halves[] = {0x7e00, 0xfe01};
    struct ap_buf stream = {0};
    float out[2];
    build(&stream, 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2)}", halves, sizeof halves);
    ck_assert_int_eq(feed(&stream, 4), 0);
    memcpy(out, got.rows.data, sizeof out);
    ck_assert(isnan(out[0]) && isnan(out[1]));
    ap_buf_free(&stream);
}
END_TEST

START_TEST(aligned_rows_are_handed_out_in_place_and_at_once)
{
    float rows[1000 * 4] = {1};
    struct ap_buf stream = {0};
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 4), }", rows, sizeof rows);
    struct ap_npy_sink sink = {on_header, on_rows, &got};
    struct ap_npy *npy = ap_npy_new(&sink);
    ck_assert_int_eq(ap_npy_feed(npy, stream.data, stream.len, &err), 0);
    ck_assert_uint_eq(got.calls, 1);
    ck_assert_ptr_eq(got.last, stream.data + stream.len - sizeof rows);
    ap_npy_free(&npy);
    ap_buf_free(&stream);
}
END_TEST

START_TEST(rows_wider_than_a_run_and_many_runs)
{
    size_t dim = 30000, n = 5;
    uint16_t *halves = calloc(dim * n, 2);
    for (size_t i = 0; i < dim * n; i++)
        halves[i] = (uint16_t)(0x3c00 + i / dim);
    struct ap_buf stream = {0};
    build(&stream, 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (5, 30000), }", halves, dim * n * 2);
    ck_assert_int_eq(feed(&stream, 77777), 0);
    ck_assert_uint_eq(got.rows.len, dim * n * 4);
    for (size_t i = 0; i < n; i++) {
        float last;
        memcpy(&last, got.rows.data + ((i + 1) * dim - 1) * 4, 4);
        ck_assert(last == 1 + (float)i / 1024);
    }
    free(halves);
    ap_buf_free(&stream);
}
END_TEST

START_TEST(no_rows_are_fine_and_bytes_after_them_are_not)
{
    struct ap_buf stream = {0};
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 8), }", NULL, 0);
    ck_assert_int_eq(feed(&stream, 10), 0);
    ck_assert_uint_eq(got.dim, 8);
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 8), }", "x", 1);
    ck_assert_int_eq(feed(&stream, 10), AP_EINVAL);
    ck_assert_str_eq(err.msg, "npy: row 0: bytes follow the 0 rows that the header declares");
    ap_buf_free(&stream);
}
END_TEST

START_TEST(too_few_and_too_many_bytes_name_the_row)
{
    float rows[9] = {0};
    struct ap_buf stream = {0};
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }", rows, 21);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_str_eq(err.msg, "npy: row 2: the body ends here, after 5 of the row's 8 bytes; the header declares 3 rows");
    ck_assert_uint_eq(got.next, 2);
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }", rows, 25);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_str_eq(err.msg, "npy: row 3: bytes follow the 3 rows that the header declares");
    ck_assert_uint_eq(got.next, 3);
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }", rows, 32);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_uint_eq(got.next, 3);
    stream.len = 40;
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_str_eq(err.msg, "npy: the body ends within the header, after 40 bytes");
    ap_buf_free(&stream);
}
END_TEST

static const struct { const char *header; int code; const char *part; } bad[] = {
    {"{'descr': '>f4', 'fortran_order': False, 'shape': (3, 4), }", AP_EUNSUPPORTED, "npy: big-endian '>f4' is not supported, only '<f4' and '<f2': convert it with .astype('<f4')"},
    {"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }", AP_EUNSUPPORTED, "npy: dtype '<f8' is not supported"},
    {"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4), }", AP_EUNSUPPORTED, "npy: dtype without a byte order, '|u1'"},
    {"{'descr': '|f4', 'fortran_order': False, 'shape': (3, 4), }", AP_EUNSUPPORTED, "'|f4' is not supported"},
    {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", AP_EUNSUPPORTED, "npy: structured arrays are not supported"},
    {"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }", AP_EUNSUPPORTED, "npy: fortran_order is not supported: save numpy.ascontiguousarray(x)"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", AP_EINVAL, "npy: the array has 1 dimensions, expected 2: (rows, dim)"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (), }", AP_EINVAL, "npy: the array has 0 dimensions"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4, 5, 6), }", AP_EINVAL, "npy: the array has 4 dimensions"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0), }", AP_EINVAL, "npy: rows of 0 components, expected 1 to 65536"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 65537), }", AP_EINVAL, "npy: rows of 65537 components"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 4), }", AP_EINVAL, "npy: malformed header at byte "},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }", AP_EINVAL, "malformed header"},
    {"{'descr': '<f4', 'fortran_order': False, }", AP_EINVAL, "malformed header"},
    {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}", AP_EINVAL, "malformed header"},
    {"{'descr': '<f4', 'fortran_order': 0, 'shape': (3, 4)}", AP_EINVAL, "malformed header"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), 'x': 1}", AP_EINVAL, "malformed header"},
    {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)} x", AP_EINVAL, "malformed header"},
    {"{'descr': '<f4", AP_EINVAL, "malformed header"},
    {"", AP_EINVAL, "malformed header"},
};

START_TEST(bad_header_is_refused_by_what_it_is)
{
    struct ap_buf stream = {0};
    build(&stream, 1, bad[_i].header, "rows", 4);
    for (int p = 0; p < PIECES; p += 3) {
        ck_assert_int_eq(feed(&stream, pieces[p]), bad[_i].code);
        ck_assert_msg(strstr(err.msg, bad[_i].part) != NULL, "%s", err.msg);
    }
    ap_buf_free(&stream);
}
END_TEST

START_TEST(bad_prefix_is_refused)
{
    struct ap_buf stream = {0};
    ap_buf_append(&stream, "PK\x03\x04 an npz", 12);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "does not begin as a .npy file does"));
    ap_buf_clear(&stream);
    ap_buf_append(&stream, "\x93NUMPY\x04\x00\x10\x00\x00\x00", 12);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EUNSUPPORTED);
    ck_assert_str_eq(err.msg, "npy: format version 4.0 is not supported, only 1.0, 2.0 and 3.0");
    ap_buf_clear(&stream);
    ap_buf_append(&stream, "\x93NUMPY\x02\x00\x01\x00\x01\x00", 12);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_str_eq(err.msg, "npy: a header of 65537 bytes is over the limit of 65536");
    ap_buf_clear(&stream);
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_str_eq(err.msg, "npy: the body ends within the header, after 0 bytes");
    ap_buf_free(&stream);
}
END_TEST

START_TEST(the_sinks_error_ends_the_stream_and_stays)
{
    float rows[8] = {0};
    struct ap_buf stream = {0};
    build(&stream, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }", rows, sizeof rows);
    got.refuse_header = true;
    ck_assert_int_eq(feed(&stream, pieces[_i]), AP_EINVAL);
    ck_assert_str_eq(err.msg, "wrong dimension");
    got.refuse_header = false;
    got.refuse_at = 3;
    struct ap_npy_sink sink = {on_header, on_rows, &got};
    struct ap_npy *npy = ap_npy_new(&sink);
    ck_assert_int_eq(ap_npy_feed(npy, stream.data, stream.len - 16, &err), 0);
    ck_assert_int_eq(ap_npy_feed(npy, stream.data + stream.len - 16, 8, &err), AP_EBUSY);
    memset(&err, 0, sizeof err);
    ck_assert_int_eq(ap_npy_feed(npy, stream.data + stream.len - 8, 8, &err), AP_EBUSY);
    ck_assert_str_eq(err.msg, "queue full");
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_uint_eq(ap_npy_rows_done(npy), 2);
    ap_npy_free(&npy);
    ap_buf_free(&stream);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("npy");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, float32_rows_arrive_whatever_the_pieces, 0, PIECES);
    tcase_add_loop_test(tc, float16_rows_are_converted, 0, PIECES);
    tcase_add_test(tc, nan_stays_nan);
    tcase_add_test(tc, aligned_rows_are_handed_out_in_place_and_at_once);
    tcase_add_test(tc, rows_wider_than_a_run_and_many_runs);
    tcase_add_test(tc, no_rows_are_fine_and_bytes_after_them_are_not);
    tcase_add_loop_test(tc, too_few_and_too_many_bytes_name_the_row, 0, PIECES);
    tcase_add_loop_test(tc, bad_header_is_refused_by_what_it_is, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_loop_test(tc, bad_prefix_is_refused, 0, PIECES);
    tcase_add_loop_test(tc, the_sinks_error_ends_the_stream_and_stays, 0, PIECES);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
