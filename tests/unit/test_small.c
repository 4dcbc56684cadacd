/* Rows of one bit a component: how they score, and segments of them as they are sealed, merged, loaded, filtered and audited. */
#include <check.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "index_rig.h"
#include "indexer/q1.h"
#include "indexer/rotate.h"
#include "patience.h"
#include "run.h"
#include "vectors.h"

static struct ix_rig r;
static struct ap_err err;

static const struct { uint32_t dim; enum ap_distance distance; } shapes[] = {{64, AP_COSINE}, {65, AP_EUCLID}, {130, AP_DOT}, {384, AP_COSINE}, {384, AP_EUCLID}};

static double product(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Over many rows estimates rise as what they estimate does, and their errors are as small as the paper says. */
START_TEST(scores_estimate_those_of_the_vectors)
{
    enum { N = 803, QUERIES = 8, ALL = N + QUERIES + 1 }; /* the last is the centroid */
    uint32_t dim = shapes[_i].dim;
    enum ap_distance distance = shapes[_i].distance;
    size_t words = ap_sketch_words(dim), stride = ap_q8_stride(dim);
    float *x = test_clustered(ALL, dim, 5, distance == AP_COSINE), *centroid = x + (size_t)(ALL - 1) * dim, *room = calloc(2 * dim, sizeof *room);
    float scores[N], same[N], bases[N];
    uint32_t ordinals[N];
    uint8_t *rows = aligned_alloc(64, ALL * stride);
    uint64_t *bits = calloc(N, words * sizeof *bits);
    struct ap_q8_meta of_rows[ALL], meta[N];
    struct ap_q8_query query;
    int8_t *q8 = aligned_alloc(64, stride);
    double both = 0, squares = 0, wrong = 0, spread = 0;
    for (size_t i = 0; i < ALL; i++) {
        ap_rotate(x + i * dim, dim);
        ap_q8_encode(x + i * dim, dim, rows + i * stride, &of_rows[i]);
    }
    for (size_t i = 0; i < N; i++)
        ap_q1_encode(rows + i * stride, &of_rows[i], rows + (ALL - 1) * stride, &of_rows[ALL - 1], dim, distance, room, bits + i * words, &meta[i]);
    for (size_t n = 0; n < QUERIES; n++) {
        const float *q = x + (N + n) * dim;
        float base = (float)product(q, centroid, dim);
        if (distance == AP_EUCLID)
            base = 2 * base - (float)(product(q, q, dim) + product(centroid, centroid, dim));
        ap_q8_query_init(&query, q, dim, q8);
        ap_q1_scores(&query, base, bits, meta, dim, N, scores);
        for (size_t i = 0; i < N; i++) {
            double exact = product(q, x + i * dim, dim), r2 = 0;
            for (uint32_t j = 0; j < dim; j++)
                r2 += pow((double)x[i * dim + j] - (double)centroid[j], 2);
            if (distance == AP_EUCLID)
                exact = 2 * exact - product(q, q, dim) - product(x + i * dim, x + i * dim, dim);
            both += ((double)scores[i] - (double)base) * (exact - (double)base);
            squares += pow(exact - (double)base, 2);
            wrong += pow((double)scores[i] - exact, 2);
            spread += (distance == AP_EUCLID ? 4 : 1) * r2 * product(q, q, dim) / dim; /* the variance of a product of random directions */
            ordinals[i] = (uint32_t)(N - 1 - i);
            bases[i] = base;
            ck_assert_int_eq(ap_q1_sum(&query, bits + i * words, dim, true), ap_q1_sum(&query, bits + i * words, dim, false));
        }
    }
    ck_assert_msg(wrong < 0.8 * spread, "errors of %g where random directions would make %g", wrong / N, spread / N);
    ck_assert_msg(both > 0.9 * squares && both < 1.1 * squares, "%g for 1", both / squares);
    ap_q1_scores_at(&query, bases, bits, meta, dim, ordinals, N, same);
    for (size_t i = 0; i < N; i++)
        ck_assert_float_le(fabsf(same[i] - scores[N - 1 - i]), 1e-5f * (1 + fabsf(same[i])));
    free(rows);
    free(bits);
    free(q8);
    free(room);
    free(x);
}
END_TEST

/* Nothing is left of it but what its centroid scores. */
START_TEST(a_row_at_its_centroid_scores_as_it)
{
    enum { DIM = 70 };
    float x[DIM], room[2 * DIM], score;
    uint8_t row[128];
    uint64_t bits[2];
    int8_t q8[128];
    struct ap_q8_meta of_row, meta;
    struct ap_q8_query query;
    for (int i = 0; i < DIM; i++)
        x[i] = (float)i;
    ap_q8_encode(x, DIM, row, &of_row);
    ap_q1_encode(row, &of_row, row, &of_row, DIM, AP_EUCLID, room, bits, &meta);
    ap_q8_query_init(&query, x, DIM, q8);
    ap_q1_scores(&query, -3, bits, &meta, DIM, 1, &score);
    ck_assert_float_eq(score, -3);
}
END_TEST

/* Bytes of the segments' files. */
static size_t files(void)
{
    char pattern[160];
    glob_t found;
    size_t bytes = 0;
    snprintf(pattern, sizeof pattern, "%s/*.seg", r.index_path);
    if (glob(pattern, 0, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++) {
            struct stat st;
            bytes += stat(found.gl_pathv[i], &st) == 0 ? (size_t)st.st_size : 0;
        }
    globfree(&found);
    return bytes;
}

/* As sealed one by one, merged, loaded again, with the option gone, and of 8 bits once more. */
START_TEST(segments_of_them_find_as_well)
{
    enum { ROWS = 12000, DIM = 64 };
    enum ap_distance distance = _i ? AP_EUCLID : AP_COSINE;
    float *x = test_clustered(ROWS, DIM, 5, 1), *queries = test_clustered(40, DIM, 6, 1);
    ix_open(&r, DIM, distance, ROWS);
    r.options.hot_rows = 2900;
    r.options.merge_fan = 3;
    r.options.build_threads = 2;
    r.options.small = "books";
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, ROWS, 1000);
    ix_refresh(&r);
    ck_assert(ix_wait_indexed(&r, 11600, 60));
    ck_assert_double_ge(ix_recall(&r, queries, 40, 10, NULL), 0.95);
    ck_assert(ix_wait_sealed(&r, 2, 60));
    size_t small = files();
    ck_assert_double_ge(ix_recall(&r, queries, 40, 10, NULL), 0.95);
    ix_stop_index(&r);
    r.options.small = NULL; /* they stay as they are */
    ix_start_index(&r);
    ix_refresh(&r);
    ck_assert_double_ge(ix_recall(&r, queries, 40, 10, NULL), 0.95);
    ck_assert_uint_eq(files(), small);
    ix_begin(&r);
    for (size_t i = 0; i < ROWS * 6 / 10; i++) /* until they are built anew */
        ix_delete(&r, i);
    ix_commit(&r);
    ix_refresh(&r);
    int64_t until = ap_mono_ms() + patience_ms();
    while (files() <= small * 11 / 10 && ap_mono_ms() < until)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    ck_assert_msg(files() > small * 11 / 10, "%zu bytes of 8-bit rows, %zu of more rows of one", files(), small);
    ck_assert_double_ge(ix_recall(&r, queries, 40, 10, NULL), 0.95);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

static struct ap_filter *parse(const char *text)
{
    json_t *json = json_loads(text, 0, NULL);
    struct ap_filter *f = NULL;
    ck_assert_msg(ap_filter_parse(json, &f, &err) == 0, "%s", err.msg);
    json_decref(json);
    return f;
}

/* Few rows pass, some, and most: of each the ten nearest. */
START_TEST(filters_choose_among_them)
{
    enum { ROWS = 9000, DIM = 64 };
    static const char *const most[] = {"90", "1500", "7000"};
    float *x = test_clustered(ROWS, DIM, 5, 1), *queries = test_clustered(20, DIM, 6, 1), scores[10];
    ix_open(&r, DIM, AP_COSINE, ROWS);
    r.options.hot_rows = 4400;
    r.options.small = "*";
    ix_define(&r, false);
    ix_index(&r, "n", AP_FIELD_INTEGER, NULL, false);
    ix_start_index(&r);
    ix_begin(&r);
    for (size_t i = 0; i < ROWS; i++) {
        char payload[40];
        snprintf(payload, sizeof payload, "{\"n\":%zu}", i * 7919 % ROWS);
        ix_upsert(&r, i, x + i * DIM, payload);
    }
    ix_commit(&r);
    ix_refresh(&r);
    ck_assert(ix_wait_indexed(&r, 8800, 60));
    for (size_t f = 0; f < sizeof most / sizeof *most; f++) {
        char text[100];
        size_t right = 0;
        snprintf(text, sizeof text, "{\"must\":[{\"key\":\"n\",\"range\":{\"lt\":%s}}]}", most[f]);
        for (size_t i = 0; i < 20; i++) {
            uint64_t ids[10], true_ids[2000];
            float all[2000];
            struct ap_filter *filter = parse(text);
            size_t n = ix_search(&r, &(struct ap_search){.vector = queries + i * DIM, .limit = 10, .filter = filter}, ids, scores), wanted = 0;
            ck_assert_uint_eq(n, 10);
            size_t known = ix_exact(&r, queries + i * DIM, 2000, true_ids, all);
            for (size_t j = 0; j < known && wanted < 10; j++) {
                if (true_ids[j] * 7919 % ROWS >= strtoul(most[f], NULL, 10))
                    continue;
                wanted++;
                for (size_t k = 0; k < n; k++)
                    right += ids[k] == true_ids[j];
            }
            for (size_t k = 0; k < n; k++)
                ck_assert_uint_lt(ids[k] * 7919 % ROWS, strtoul(most[f], NULL, 10));
            ap_filter_free(&filter);
        }
        ck_assert_msg(right >= 180, "%zu of 200 where n < %s", right, most[f]);
    }
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

int main(void)
{
    ap_ann_init();
    ap_log_init("test", AP_LOG_ERROR, NULL, NULL);
    Suite *suite = suite_create("small");
    TCase *rows = tcase_create("rows"), *segments = tcase_create("segments");
    tcase_add_loop_test(rows, scores_estimate_those_of_the_vectors, 0, sizeof shapes / sizeof *shapes);
    tcase_add_test(rows, a_row_at_its_centroid_scores_as_it);
    tcase_set_timeout(segments, 300);
    tcase_add_loop_test(segments, segments_of_them_find_as_well, 0, 2);
    tcase_add_test(segments, filters_choose_among_them);
    suite_add_tcase(suite, rows);
    suite_add_tcase(suite, segments);
    return run_suite(suite);
}
