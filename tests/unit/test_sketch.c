/* Turning, and sketches: what they promise of a row's score. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/rotate.h"
#include "indexer/sketch.h"
#include "vectors.h"

static double dot(const float *a, const float *b, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

static const uint32_t dims[] = {1, 63, 64, 65, 96, 127, 128, 130, 384, 768, 1000};
#define DIMS (sizeof dims / sizeof *dims)

START_TEST(turning_keeps_products_and_spreads_what_one_component_held)
{
    uint32_t dim = dims[_i];
    float *a = test_clustered(2, dim, 3, 0), *b = a + dim, *one = calloc(dim, sizeof *one);
    double before = dot(a, b, dim), length = sqrt(dot(a, a, dim) * dot(b, b, dim)), most = 0;
    one[dim / 2] = 1;
    ap_rotate(a, dim);
    ap_rotate(b, dim);
    ap_rotate(one, dim);
    ck_assert_double_le(fabs(dot(a, b, dim) - before), 1e-5 * length);
    ck_assert_double_le(fabs(dot(one, one, dim) - 1), 1e-5);
    for (uint32_t i = 0; i < dim; i++)
        most = fmax(most, fabs((double)one[i]));
    if (ap_sketch_words(dim) > 0)
        ck_assert_double_le(most, 0.55);
    else
        ck_assert_double_eq(most, 1);
    free(a);
    free(one);
}
END_TEST

struct rows { uint8_t *bytes; struct ap_q8_meta *meta; uint64_t *bits; float *factors; };

static struct rows sketch(float *x, size_t n, uint32_t dim)
{
    size_t stride = ap_q8_stride(dim), words = ap_sketch_words(dim);
    struct rows r = {aligned_alloc(64, n * stride), calloc(n, sizeof(struct ap_q8_meta)), calloc(n * words, sizeof(uint64_t)), calloc(n, sizeof(float))};
    for (size_t i = 0; i < n; i++) {
        ap_rotate(x + i * dim, dim);
        ap_q8_encode(x + i * dim, dim, r.bytes + i * stride, &r.meta[i]);
        ap_sketch_of(r.bytes + i * stride, &r.meta[i], dim, r.bits + i * words, &r.factors[i]);
    }
    return r;
}

static void drop(struct rows *r)
{
    free(r->bytes);
    free(r->meta);
    free(r->bits);
    free(r->factors);
}

/* The formula, in plain floats, for every length of a run. */
START_TEST(a_sketch_bounds_what_its_row_can_score)
{
    enum { N = 37 };
    uint32_t dim = dims[_i];
    size_t words = ap_sketch_words(dim), stride = ap_q8_stride(dim);
    if (words == 0)
        return;
    float *x = test_clustered(N, dim, 5, 1);
    struct rows r = sketch(x, N, dim);
    int8_t *room = aligned_alloc(64, stride);
    struct ap_q8_query q;
    ap_q8_query_init(&q, x, dim, room);
    for (enum ap_distance distance = AP_COSINE; distance <= AP_DOT; distance++) {
        float most[N];
        for (size_t i = 0; i < N; i++) {
            double squares = 0, absolute = 0, product = 0;
            for (uint32_t j = 0; j < dim; j++) {
                double v = (double)((int)r.bytes[i * stride + j] - 128) * (double)r.meta[i].scale;
                bool set = r.bytes[i * stride + j] >= 128;
                ck_assert_int_eq((r.bits[i * words + j / 64] >> (j % 64)) & 1, set);
                squares += v * v;
                absolute += fabs(v);
                product += (set ? 1.0 : -1.0) * room[j] * (double)q.scale;
            }
            double factor = squares / absolute, top = factor * (product + 2 * sqrt((double)q.norm2 * (1 - 2 / M_PI)));
            ck_assert_double_le(fabs((double)r.factors[i] - factor), 1e-5 * factor);
            most[i] = (float)(distance == AP_EUCLID ? 2 * top - (double)r.meta[i].norm2 - (double)q.norm2 : top);
        }
        for (size_t n = 0; n <= N; n++)
            for (size_t at = 0; at < N; at += 6) {
                uint32_t found[N];
                float around = 1e-4f * (fabsf(most[at]) + 1);
                size_t got = ap_sketch_pass(&q, distance, r.bits, r.factors, r.meta, dim, n, most[at], 1000, found), k = 0;
                for (size_t i = 0; i < n; i++) {
                    bool here = k < got && found[k] == 1000 + i;
                    k += here;
                    if (fabsf(most[i] - most[at]) > around)
                        ck_assert_int_eq(here, most[i] > most[at]);
                }
                ck_assert_uint_eq(k, got);
            }
    }
    drop(&r);
    free(room);
    free(x);
}
END_TEST

/* Data that are hard on signs: all components positive, a few of them holding most of the length, and clusters. The ten best of
 * 4,000 rows must pass at the score of the fortieth, and few others. */
static void make(float *x, size_t n, uint32_t dim, int kind)
{
    for (size_t i = 0; i < n * dim; i++) {
        uint32_t j = (uint32_t)(i % dim);
        x[i] = kind == 0 ? fabsf(x[i]) : kind == 1 ? x[i] / (float)(1 + j) : x[i];
    }
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

START_TEST(the_best_rows_pass)
{
    enum { N = 4000, QUERIES = 40, K = 10, KEPT = 40 };
    const uint32_t dim = _i < 3 ? 128 : 384;
    size_t stride = ap_q8_stride(dim), missed = 0, passed = 0;
    float *x = test_clustered(N + QUERIES, dim, 11, 0), *scores = calloc(N, sizeof *scores), *sorted = calloc(N, sizeof *sorted);
    uint32_t *found = calloc(N, sizeof *found);
    int8_t *room = aligned_alloc(64, stride);
    make(x, N + QUERIES, dim, _i % 3);
    struct rows r = sketch(x, N + QUERIES, dim);
    for (size_t at = 0; at < QUERIES; at++) {
        struct ap_q8_query q;
        ap_q8_query_init(&q, x + (N + at) * dim, dim, room);
        ap_q8_scores(&q, AP_EUCLID, r.bytes, r.meta, dim, N, scores);
        memcpy(sorted, scores, N * sizeof *scores);
        qsort(sorted, N, sizeof *sorted, descending);
        size_t n = ap_sketch_pass(&q, AP_EUCLID, r.bits, r.factors, r.meta, dim, N, sorted[KEPT - 1], 0, found), among = 0;
        for (size_t i = 0; i < n; i++)
            among += scores[found[i]] >= sorted[K - 1];
        missed += K - (among < K ? among : K);
        passed += n;
    }
    ck_assert_uint_le(missed, QUERIES * K / 100);
    ck_assert_uint_le(passed, QUERIES * N / 2);
    drop(&r);
    free(x);
    free(scores);
    free(sorted);
    free(found);
    free(room);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("sketch");
    TCase *tc = tcase_create("all");
    tcase_add_loop_test(tc, turning_keeps_products_and_spreads_what_one_component_held, 0, (int)DIMS);
    tcase_add_loop_test(tc, a_sketch_bounds_what_its_row_can_score, 0, (int)DIMS);
    tcase_add_loop_test(tc, the_best_rows_pass, 0, 6);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
