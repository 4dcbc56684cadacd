/* Bulk streams: odd pieces, errors in the middle, bounded batches, order, Kafka away. And a collection's codec on the way. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include "common/timeutil.h"
#include "patience.h"
#include "producer/bulk.h"
#include "producer_rig.h"
#include "rnd.h"
#include "run.h"

#define DIM 8

static struct life life;
static struct ap_err err;

static void setup(void)
{
    life_cluster_start();
    err = (struct ap_err){0};
}

static void teardown(void)
{
    life_cluster_stop();
}

/* --- streams --- */

static void npy(struct ap_buf *out, const float *rows, size_t n)
{
    char header[128];
    int len = snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %d), }\n", n, DIM);
    uint8_t prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    ap_put_le16(prefix + 8, (uint16_t)len);
    ap_buf_append(out, prefix, sizeof prefix);
    ap_buf_append(out, header, (size_t)len);
    ap_buf_append(out, rows, n * DIM * sizeof *rows);
}

static float *random_rows(size_t n)
{
    float *rows = malloc(n * DIM * sizeof *rows);
    for (size_t i = 0; i < n * DIM; i++)
        rows[i] = (float)rnd_below(1000) / 500 - 1 + 0.0005f;
    return rows;
}

static void ndjson(struct ap_buf *out, const float *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ap_buf_printf(out, "{\"id\":%zu,\"vector\":[", i);
        for (size_t k = 0; k < DIM; k++)
            ap_buf_printf(out, k ? ",%.9g" : "%.9g", (double)rows[i * DIM + k]);
        ap_buf_printf(out, "],\"payload\":{\"row\":%zu}}\n%s", i, i % 7 == 0 ? "\n" : "");
    }
}

static struct ap_bulk *begin(struct ap_bulk_options o)
{
    struct ap_bulk *b;
    o.collection = "c";
    if (!o.timeout_ms)
        o.timeout_ms = 10000;
    ck_assert_msg(ap_bulk_new(&b, &life.p, &o, &err) == 0, "%s", err.msg);
    return b;
}

/* Feed in pieces of size piece; returns the code of the end. */
static int feed(struct ap_bulk *b, const struct ap_buf *stream, size_t piece)
{
    int rc = 0;
    for (size_t at = 0; at < stream->len && rc == 0; at += piece)
        rc = ap_bulk_feed(b, (const char *)stream->data + at, stream->len - at < piece ? stream->len - at : piece, &err);
    return ap_bulk_end(b, rc == 0, &err);
}

static void open_with(const char *conf, const char *factory, bool raw)
{
    life_open(&life, conf);
    life_collection(&life, "c", DIM, AP_DOT, factory, raw);
}

/* --- good streams --- */

#define PIECES 5
static const size_t pieces[PIECES] = {1, 3, 37, 4096, 1 << 20};

START_TEST(npy_rows_arrive_whatever_the_pieces)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with("bulk.batch_rows = 16\n", "none", true);
    float *rows = random_rows(100);
    npy(&stream, rows, 100);
    for (size_t i = 0; i < PIECES; i++) {
        struct ap_bulk *b = begin((struct ap_bulk_options){.has_first_id = true, .first_id = 1000});
        ck_assert_msg(feed(b, &stream, pieces[i]) == 0, "%s", err.msg);
        ck_assert_uint_eq(ap_bulk_result(b)->acknowledged, 100);
        ck_assert_uint_eq(ap_bulk_result(b)->rows, 100);
        ck_assert_uint_gt(ap_bulk_result(b)->token.count, 0);
        ap_bulk_free(&b);
    }
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS), raw = life_read(AP_TOPIC_RAW);
    ck_assert_uint_eq(life_check(&r), PIECES * 100);
    ck_assert_uint_eq(raw.count, 0); /* float32 events need no raw vector beside them */
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].has_key) {
            struct ap_point_id id = ap_key_point(&r.all[i].key);
            size_t row = (size_t)ap_be64(id.b + 8) - 1000;
            ck_assert_uint_lt(row, 100);
            ck_assert_mem_eq(r.all[i].m.vector, rows + row * DIM, DIM * sizeof *rows);
        }
    life_records_free(&r);
    life_records_free(&raw);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

START_TEST(ndjson_lines_arrive_whatever_the_pieces)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with("bulk.batch_rows = 16\n", "none", true);
    float *rows = random_rows(100);
    ndjson(&stream, rows, 100);
    for (size_t i = 0; i < PIECES; i++) {
        struct ap_bulk *b = begin((struct ap_bulk_options){0});
        ck_assert_msg(feed(b, &stream, pieces[i]) == 0, "%s", err.msg);
        ck_assert_uint_eq(ap_bulk_result(b)->acknowledged, 100);
        ap_bulk_free(&b);
    }
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), PIECES * 100);
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].has_key) {
            struct ap_point_id id = ap_key_point(&r.all[i].key);
            size_t row = (size_t)ap_be64(id.b + 8);
            char payload[32];
            ck_assert_mem_eq(r.all[i].m.vector, rows + row * DIM, DIM * sizeof *rows);
            ck_assert_int_eq(snprintf(payload, sizeof payload, "{\"row\":%zu}", row), (int)r.all[i].m.payload_len);
            ck_assert_mem_eq(r.all[i].m.payload, payload, r.all[i].m.payload_len);
        }
    life_records_free(&r);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

START_TEST(the_order_of_the_stream_is_the_order_in_kafka)
{
    struct ap_buf stream = {0};
    open_with("bulk.batch_rows = 4\n", "none", true);
    for (int i = 0; i < 200; i++) /* one point, again and again, over many batches */
        ap_buf_printf(&stream, "{\"id\":7,\"vector\":[%d,0,0,0,0,0,0,0]}\n", i);
    struct ap_bulk *b = begin((struct ap_bulk_options){0});
    ck_assert_int_eq(feed(b, &stream, 1000), 0);
    ap_bulk_free(&b);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), 200);
    float want = 0, got;
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].has_key) {
            memcpy(&got, r.all[i].m.vector, sizeof got);
            ck_assert_float_eq(got, want);
            want++;
        }
    life_records_free(&r);
    ap_buf_free(&stream);
}
END_TEST

/* --- bad streams --- */

static struct ap_bulk_result expect_failure(const struct ap_buf *stream, struct ap_bulk_options o, int code, const char *words)
{
    struct ap_bulk *b = begin(o);
    int rc = feed(b, stream, 100);
    ck_assert_msg(rc == code && strstr(err.msg, words), "%d %s", rc, err.msg);
    struct ap_bulk_result result = *ap_bulk_result(b);
    result.token = (struct ap_token){0};
    ap_bulk_free(&b);
    return result;
}

START_TEST(a_bad_row_stops_its_batch_and_all_after_it)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with("bulk.batch_rows = 16\n", "none", true);
    float *rows = random_rows(100);
    rows[50 * DIM + 3] = NAN;
    rows[60 * DIM + 1] = INFINITY;
    npy(&stream, rows, 100);
    struct ap_bulk_result result = expect_failure(&stream, (struct ap_bulk_options){.has_first_id = true}, AP_EINVAL, "row 50: vector[3] is NaN");
    ck_assert_uint_eq(result.acknowledged, 48);
    ck_assert_uint_eq(result.errors.count, 2);
    ck_assert_uint_eq(result.errors.first[1].index, 60);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), 48);
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].has_key)
            ck_assert_uint_lt(ap_be64(ap_key_point(&r.all[i].key).b + 8), 48);
    life_records_free(&r);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

START_TEST(bad_lines_are_named_by_their_number)
{
    struct ap_buf stream = {0};
    open_with("bulk.batch_rows = 4\n", "none", true);
    for (int i = 1; i <= 9; i++)
        ap_buf_printf(&stream, i == 6 ? "\n" : i == 7 ? "{\"id\":7,\"vector\":[1]}\n" : i == 8 ? "{oops\n" : "{\"id\":%d,\"vector\":[1,0,0,0,0,0,0,0]}\n", i);
    struct ap_bulk_result result = expect_failure(&stream, (struct ap_bulk_options){0}, AP_EINVAL, "line 7: Wrong input: Vector dimension error: expected dim: 8, got 1");
    ck_assert_uint_eq(result.acknowledged, 4);
    ck_assert_uint_eq(result.errors.count, 2);
    ck_assert_uint_eq(result.errors.first[1].index, 8);
    ck_assert_ptr_nonnull(strstr(result.errors.first[1].text, "malformed JSON"));
    life_close(&life);
    ap_buf_free(&stream);
}
END_TEST

static void text(struct ap_buf *stream, const char *bytes, size_t len)
{
    ap_buf_clear(stream);
    ap_buf_append(stream, bytes, len);
}

START_TEST(streams_that_are_neither_are_refused)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with(NULL, "none", true);
    expect_failure(&stream, (struct ap_bulk_options){0}, AP_EINVAL, "the body is empty");
    text(&stream, "hello\n", 6);
    expect_failure(&stream, (struct ap_bulk_options){0}, AP_EINVAL, "line 1: ");
    text(&stream, "\x93NUMPY\x09", 7);
    expect_failure(&stream, (struct ap_bulk_options){0}, AP_EINVAL, "npy");
    text(&stream, "{\"id\":1}\n", 9);
    expect_failure(&stream, (struct ap_bulk_options){.has_first_id = true}, AP_EINVAL, "first_id is for npy");
    float *rows = random_rows(4);
    ap_buf_clear(&stream);
    npy(&stream, rows, 4);
    stream.len -= 5; /* cut off */
    struct ap_bulk_result result = expect_failure(&stream, (struct ap_bulk_options){0}, AP_EINVAL, "row");
    ck_assert_uint_eq(result.acknowledged, 0);
    ap_buf_clear(&stream);
    npy(&stream, rows, 4);
    expect_failure(&stream, (struct ap_bulk_options){.has_first_id = true, .first_id = UINT64_MAX - 2}, AP_EINVAL, "first_id");
    struct ap_bulk *b;
    ck_assert_int_eq(ap_bulk_new(&b, &life.p, &(struct ap_bulk_options){.collection = "nobody"}, &err), AP_ENOTFOUND);
    ck_assert_ptr_null(b);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), 0);
    life_records_free(&r);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

START_TEST(other_dimensions_are_refused_before_any_row)
{
    static const char header[] = "\x93NUMPY\x01\x00\x3c\x00{'descr': '<f4', 'fortran_order': False, 'shape': (5, 9), }  ";
    struct ap_buf stream = {0};
    open_with(NULL, "none", true);
    ap_buf_append(&stream, header, sizeof header - 1);
    ap_buf_append(&stream, "\n", 1);
    stream.data[8] = (uint8_t)(stream.len - 10);
    expect_failure(&stream, (struct ap_bulk_options){0}, AP_EINVAL, "expected dim: 8, got 9");
    ap_buf_free(&stream);
    life_close(&life);
}
END_TEST

START_TEST(a_client_that_goes_away_leaves_whole_batches)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with("bulk.batch_rows = 16\n", "none", true);
    float *rows = random_rows(100);
    npy(&stream, rows, 100);
    for (size_t cut = 0; cut < stream.len; cut += 331) {
        struct ap_bulk *b = begin((struct ap_bulk_options){0});
        if (cut)
            ck_assert_int_eq(ap_bulk_feed(b, (const char *)stream.data, cut, &err), 0);
        ap_bulk_free(&b);
    }
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r) % 16, 0);
    life_records_free(&r);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

START_TEST(while_kafka_is_away_a_stream_waits_then_says_how_far_it_got)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with("bulk.batch_rows = 16\nqueue_records = 64\n", "none", true);
    float *rows = random_rows(400);
    npy(&stream, rows, 400);
    rd_kafka_mock_broker_set_down(life_mock, 1);
    struct ap_bulk *b = begin((struct ap_bulk_options){.timeout_ms = 300});
    int64_t start = ap_mono_ms();
    int rc = feed(b, &stream, 100);
    ck_assert_msg(rc == AP_EBUSY || rc == AP_ETIMEOUT, "%d %s", rc, err.msg);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_int_lt(ap_mono_ms() - start, PATIENCE_MS);
    ck_assert_uint_eq(ap_bulk_result(b)->acknowledged, 0);
    ap_bulk_free(&b);
    rd_kafka_mock_broker_set_up(life_mock, 1);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_le(life_check(&r), 64);
    life_records_free(&r);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

START_TEST(a_collection_deleted_meanwhile_ends_the_stream)
{
    struct ap_buf stream = {0};
    rnd_seed("bulk");
    open_with("bulk.batch_rows = 16\n", "none", true);
    float *rows = random_rows(64);
    npy(&stream, rows, 64);
    struct ap_bulk *b = begin((struct ap_bulk_options){0});
    ck_assert_int_eq(ap_bulk_feed(b, (const char *)stream.data, stream.len / 2, &err), 0);
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION};
    c.u.collection = (struct ap_control_collection){.name = (char *)(uintptr_t)"c", .generation = 1, .deleted = true, .dim = DIM, .distance = AP_DOT, .codec_factory = (char *)(uintptr_t)"none", .topic = (char *)(uintptr_t)AP_TOPIC_MUTATIONS};
    ck_assert_int_eq(ap_control_log_publish(&life.p.control, &c, 1, patience_ns(), &err), 0);
    int rc = ap_bulk_feed(b, (const char *)stream.data + stream.len / 2, stream.len - stream.len / 2, &err);
    rc = ap_bulk_end(b, rc == 0, &err);
    ck_assert_int_eq(rc, AP_ENOTFOUND);
    ck_assert_uint_ge(ap_bulk_result(b)->acknowledged, 16);
    ap_bulk_free(&b);
    life_close(&life);
    ap_buf_free(&stream);
    free(rows);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer_bulk");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, npy_rows_arrive_whatever_the_pieces);
    tcase_add_test(tc, ndjson_lines_arrive_whatever_the_pieces);
    tcase_add_test(tc, the_order_of_the_stream_is_the_order_in_kafka);
    tcase_add_test(tc, a_bad_row_stops_its_batch_and_all_after_it);
    tcase_add_test(tc, bad_lines_are_named_by_their_number);
    tcase_add_test(tc, streams_that_are_neither_are_refused);
    tcase_add_test(tc, other_dimensions_are_refused_before_any_row);
    tcase_add_test(tc, a_client_that_goes_away_leaves_whole_batches);
    tcase_add_test(tc, while_kafka_is_away_a_stream_waits_then_says_how_far_it_got);
    tcase_add_test(tc, a_collection_deleted_meanwhile_ends_the_stream);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
