/* 8-bit rows: what they stand for, how they score, and clusters of them. */
#include <check.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include "indexer/cluster.h"
#include "vectors.h"
#include "run.h"

static double exact_score(const float *a, const float *b, uint32_t dim, enum ap_distance distance)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += distance == AP_EUCLID ? -((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]) : (double)a[i] * (double)b[i];
    return sum;
}

struct rows { uint8_t *bytes; struct ap_q8_meta *meta; };

static struct rows encode(const float *x, size_t n, uint32_t dim)
{
    struct rows r = {aligned_alloc(64, n * ap_q8_stride(dim)), calloc(n, sizeof(struct ap_q8_meta))};
    for (size_t i = 0; i < n; i++)
        ap_q8_encode(x + i * dim, dim, r.bytes + i * ap_q8_stride(dim), &r.meta[i]);
    return r;
}

static void drop(struct rows *r)
{
    free(r->bytes);
    free(r->meta);
}

static const struct { uint32_t dim; enum ap_distance distance; } shapes[] = {
    {1, AP_DOT}, {3, AP_EUCLID}, {15, AP_DOT}, {16, AP_EUCLID}, {17, AP_COSINE}, {63, AP_DOT}, {64, AP_EUCLID}, {65, AP_DOT}, {130, AP_EUCLID}, {384, AP_COSINE}};

/* Runs of every length, since rows are scored four at a time, and the same rows named one by one. */
START_TEST(scores_are_those_of_the_vectors)
{
    enum { N = 23 };
    uint32_t dim = shapes[_i].dim;
    float *x = test_clustered(N, dim, 5, 0), scores[N], back[384], same[N];
    struct rows r = encode(x, N, dim);
    int8_t *room = aligned_alloc(64, ap_q8_stride(dim));
    struct ap_q8_query q;
    double most = 0;
    for (size_t i = 0; i < N; i++) {
        double n2 = exact_score(x + i * dim, x + i * dim, dim, AP_DOT);
        most = n2 > most ? n2 : most;
        ck_assert_double_le(fabs(n2 - (double)r.meta[i].norm2), 1e-4 * n2);
        ap_q8_decode(r.bytes + i * ap_q8_stride(dim), &r.meta[i], dim, back);
        for (uint32_t j = 0; j < dim; j++)
            ck_assert_float_le(fabsf(back[j] - x[i * dim + j]), r.meta[i].scale * 0.501f);
    }
    uint32_t ordinals[N];
    for (uint32_t i = 0; i < N; i++)
        ordinals[i] = N - 1 - i;
    ap_q8_query_init(&q, x, dim, room);
    for (size_t n = 0; n <= N; n++) {
        ap_q8_scores(&q, shapes[_i].distance, r.bytes, r.meta, dim, n, scores);
        for (size_t i = 0; i < n; i++)
            ck_assert_double_le(fabs((double)scores[i] - exact_score(x, x + i * dim, dim, shapes[_i].distance)), 0.03 * most);
    }
    ap_q8_scores_at(&q, shapes[_i].distance, r.bytes, r.meta, dim, ordinals, N, same);
    for (size_t i = 0; i < N; i++)
        ck_assert_float_le(fabsf(same[i] - scores[N - 1 - i]), 1e-4f * (float)most);
    /* A row as a query is the vector that it stands for. */
    ap_q8_query_of_row(&q, r.bytes, &r.meta[0], dim, room);
    ap_q8_scores(&q, shapes[_i].distance, r.bytes, r.meta, dim, N, same);
    for (size_t i = 0; i < N; i++)
        ck_assert_float_le(fabsf(same[i] - scores[i]), 1e-4f * (float)most);
    drop(&r);
    free(room);
    free(x);
}
END_TEST

/* Rows lie about as near to their centroids as float32 k-means brings them. */
START_TEST(clusters_hold_what_is_near)
{
    enum { N = 4000, DIM = 48, K = 200 };
    enum ap_distance distance = _i ? AP_EUCLID : AP_COSINE;
    float *x = test_clustered(N, DIM, 9, 1), scores[K];
    struct rows r = encode(x, N, DIM), c = {aligned_alloc(64, K * ap_q8_stride(DIM)), calloc(K, sizeof(struct ap_q8_meta))};
    int8_t *room = aligned_alloc(64, ap_q8_stride(DIM));
    ap_cluster_train(r.bytes, r.meta, N, DIM, distance, K, 8, 1, NULL, c.bytes, c.meta);
    struct ap_cluster_groups *g = ap_cluster_groups_new(c.bytes, c.meta, K, DIM, distance);
    struct ap_cluster_room asking;
    ap_cluster_room_init(&asking, DIM, K);
    uint32_t same = 0;
    double one = 0, near = 0;
    float mean[DIM] = {0}, centroid[DIM];
    uint32_t used[K] = {0}, groups = 0;
    for (size_t i = 0; i < (size_t)N * DIM; i++)
        mean[i % DIM] += x[i] / N;
    for (size_t i = 0; i < N; i++) {
        uint32_t k = ap_cluster_nearest(g, &asking, r.bytes + i * ap_q8_stride(DIM), &r.meta[i]), best = 0;
        struct ap_q8_query q;
        ap_q8_query_of_row(&q, r.bytes + i * ap_q8_stride(DIM), &r.meta[i], DIM, room);
        ap_q8_scores(&q, distance, c.bytes, c.meta, DIM, K, scores);
        for (uint32_t j = 1; j < K; j++)
            best = scores[j] > scores[best] ? j : best;
        same += best == k;
        ck_assert_uint_lt(k, K);
        groups += used[k]++ == 0;
        ap_q8_decode(c.bytes + k * ap_q8_stride(DIM), &c.meta[k], DIM, centroid);
        one -= exact_score(x + i * DIM, mean, DIM, AP_EUCLID);
        near -= exact_score(x + i * DIM, centroid, DIM, AP_EUCLID);
    }
    ck_assert_uint_ge(groups, K * 9 / 10);
    ck_assert_msg(same >= N * 97 / 100, "%u of %d rows got their nearest centroid", same, N);
    ap_cluster_groups_free(&g);
    ap_cluster_room_fini(&asking);
    ck_assert_msg(near < 0.5 * one, "%g of %g is left", near, one);
    _Atomic bool stop = true; /* it ends at once */
    ap_cluster_train(r.bytes, r.meta, N, DIM, distance, K, 1000000, _i + 1, &stop, c.bytes, c.meta);
    drop(&r);
    drop(&c);
    free(room);
    free(x);
}
END_TEST

/* Of more threads than there is work for, too. */
START_TEST(any_number_of_threads_finds_the_same)
{
    enum { N = 2000, DIM = 48, K = 150 };
    static const int threads[] = {1, 2, 5, 64};
    enum ap_distance distance = _i ? AP_EUCLID : AP_COSINE;
    float *x = test_clustered(N, DIM, 9, 1);
    struct rows r = encode(x, N, DIM), first = {0};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct rows c = {aligned_alloc(64, K * ap_q8_stride(DIM)), calloc(K, sizeof(struct ap_q8_meta))};
        ap_cluster_train(r.bytes, r.meta, N, DIM, distance, K, 5, threads[t], NULL, c.bytes, c.meta);
        if (t == 0) {
            first = c;
            continue;
        }
        ck_assert_mem_eq(c.bytes, first.bytes, K * ap_q8_stride(DIM));
        ck_assert_mem_eq(c.meta, first.meta, K * sizeof *c.meta);
        drop(&c);
    }
    drop(&r);
    drop(&first);
    free(x);
}
END_TEST

START_TEST(equal_rows_and_zeroes_are_no_trouble)
{
    enum { N = 40, DIM = 8, K = 10 };
    float x[N * DIM] = {0};
    for (size_t i = 0; i < (size_t)N * DIM / 2; i++)
        x[i] = 1;
    struct rows r = encode(x, N, DIM), c = {aligned_alloc(64, K * 64), calloc(K, sizeof(struct ap_q8_meta))};
    ap_cluster_train(r.bytes, r.meta, N, DIM, AP_COSINE, K, 3, 2, NULL, c.bytes, c.meta);
    struct ap_cluster_groups *g = ap_cluster_groups_new(c.bytes, c.meta, K, DIM, AP_COSINE);
    struct ap_cluster_room asking;
    ap_cluster_room_init(&asking, DIM, K);
    for (size_t i = 0; i < N; i++)
        ck_assert_uint_lt(ap_cluster_nearest(g, &asking, r.bytes + i * 64, &r.meta[i]), K);
    ap_cluster_groups_free(&g);
    ap_cluster_room_fini(&asking);
    for (size_t k = 0; k < K; k++)
        ck_assert(isfinite(c.meta[k].scale) && isfinite(c.meta[k].norm2));
    drop(&r);
    drop(&c);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cluster");
    TCase *tc = tcase_create("all");
    tcase_add_loop_test(tc, scores_are_those_of_the_vectors, 0, (int)(sizeof shapes / sizeof *shapes));
    tcase_add_loop_test(tc, clusters_hold_what_is_near, 0, 2);
    tcase_add_loop_test(tc, any_number_of_threads_finds_the_same, 0, 2);
    tcase_add_test(tc, equal_rows_and_zeroes_are_no_trouble);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
