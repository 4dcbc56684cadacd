/* Centroids begin as rows chosen at random, are means of their rows in float32 for the length of an update, and 8-bit rows
 * again after it. One that no row is nearest to takes a random row's place. */
#include "indexer/cluster.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint32_t best_of(const float *scores, uint32_t k)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < k; i++)
        if (scores[i] > scores[best])
            best = i;
    return best;
}

uint32_t ap_cluster_nearest(const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, enum ap_distance distance, const uint8_t *centroids,
                            const struct ap_q8_meta *centroid_meta, uint32_t k, int8_t *q8, float *scores)
{
    struct ap_q8_query q;
    ap_q8_query_of_row(&q, row, meta, dim, q8);
    ap_q8_scores(&q, distance, centroids, centroid_meta, dim, k, scores);
    return best_of(scores, k);
}

/* xorshift64 (Marsaglia, 2003): the same centroids from the same rows. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void add_row(float *sum, const uint8_t *row, float scale, uint32_t dim)
{
    for (uint32_t i = 0; i < dim; i++)
        sum[i] += (float)((int)row[i] - 128) * scale;
}

static void set_centroid(float *mean, uint32_t dim, enum ap_distance distance, uint32_t members, uint8_t *out, struct ap_q8_meta *meta)
{
    float by = 1 / (float)members;
    if (distance != AP_EUCLID) {
        double norm2 = 0;
        for (uint32_t i = 0; i < dim; i++)
            norm2 += (double)mean[i] * (double)mean[i];
        by = norm2 > 0 ? (float)(1 / sqrt(norm2)) : 0;
    }
    for (uint32_t i = 0; i < dim; i++)
        mean[i] *= by;
    ap_q8_encode(mean, dim, out, meta);
}

void ap_cluster_train(const uint8_t *rows, const struct ap_q8_meta *meta, size_t n, uint32_t dim, enum ap_distance distance, uint32_t k,
                      int iterations, const _Atomic bool *stop, uint8_t *out, struct ap_q8_meta *out_meta)
{
    size_t stride = ap_q8_stride(dim);
    float *sums = malloc((size_t)k * dim * sizeof *sums), *scores = malloc(k * sizeof *scores);
    uint32_t *members = malloc(k * sizeof *members);
    int8_t *q8 = malloc(stride);
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15);
    if (!sums || !scores || !members || !q8)
        abort();
    /* One row from each k-th part of the sample: no row twice. */
    for (uint32_t c = 0; c < k; c++) {
        size_t from = n * c / k, part = n * (c + 1) / k - from, i = from + next_random(&random) % part;
        memset(sums, 0, dim * sizeof *sums);
        add_row(sums, rows + i * stride, meta[i].scale, dim);
        set_centroid(sums, dim, distance, 1, out + c * stride, &out_meta[c]);
    }
    for (int round = 0; round < iterations; round++) {
        memset(sums, 0, (size_t)k * dim * sizeof *sums);
        memset(members, 0, k * sizeof *members);
        for (size_t i = 0; i < n; i++) {
            if (i % 256 == 0 && stop && atomic_load(stop))
                goto out;
            uint32_t c = ap_cluster_nearest(rows + i * stride, &meta[i], dim, distance, out, out_meta, k, q8, scores);
            add_row(sums + (size_t)c * dim, rows + i * stride, meta[i].scale, dim);
            members[c]++;
        }
        for (uint32_t c = 0; c < k; c++) {
            float *sum = sums + (size_t)c * dim;
            if (members[c] == 0) {
                size_t i = next_random(&random) % n;
                add_row(sum, rows + i * stride, meta[i].scale, dim);
            }
            set_centroid(sum, dim, distance, members[c] ? members[c] : 1, out + c * stride, &out_meta[c]);
        }
    }
out:
    free(sums);
    free(scores);
    free(members);
    free(q8);
}
