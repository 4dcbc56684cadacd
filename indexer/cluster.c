/* Centroids begin as rows chosen at random, are means of their rows in float32 for the length of an update, and 8-bit rows
 * again after it. One that no row is nearest to takes a random row's place. */
#include "indexer/cluster.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define GROUPED 128 /* fewer centroids are one group */
#define LOOKED_INTO 6

struct ap_cluster_groups {
    const uint8_t *centroids;
    const struct ap_q8_meta *meta;
    uint32_t k, dim, count;
    enum ap_distance distance;
    uint8_t *rows; struct ap_q8_meta *row_meta; /* the groups' own centroids */
    uint32_t *starts;                           /* count + 1 */
    int8_t *q8;
    float *scores;                              /* k */
};

static uint32_t best_of(const float *scores, uint32_t k)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < k; i++)
        if (scores[i] > scores[best])
            best = i;
    return best;
}

uint32_t ap_cluster_nearest(struct ap_cluster_groups *g, const uint8_t *row, const struct ap_q8_meta *meta)
{
    struct ap_q8_query q;
    uint32_t looked[LOOKED_INTO], best = 0;
    size_t stride = ap_q8_stride(g->dim);
    float most = -INFINITY;
    ap_q8_query_of_row(&q, row, meta, g->dim, g->q8);
    if (g->count == 1) {
        ap_q8_scores(&q, g->distance, g->centroids, g->meta, g->dim, g->k, g->scores);
        return best_of(g->scores, g->k);
    }
    ap_q8_scores(&q, g->distance, g->rows, g->row_meta, g->dim, g->count, g->scores);
    for (uint32_t i = 0; i < LOOKED_INTO; i++) {
        looked[i] = best_of(g->scores, g->count);
        g->scores[looked[i]] = -INFINITY;
    }
    for (uint32_t i = 0; i < LOOKED_INTO; i++) {
        uint32_t from = g->starts[looked[i]], n = g->starts[looked[i] + 1] - from;
        if (n == 0)
            continue;
        ap_q8_scores(&q, g->distance, g->centroids + from * stride, g->meta + from, g->dim, n, g->scores);
        uint32_t one = best_of(g->scores, n);
        if (g->scores[one] > most) {
            most = g->scores[one];
            best = from + one;
        }
    }
    return best;
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
    float *sums = malloc((size_t)k * dim * sizeof *sums);
    uint32_t *members = malloc(k * sizeof *members);
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15);
    if (!sums || !members)
        abort();
    /* One row from each k-th part of the sample: no row twice. */
    for (uint32_t c = 0; c < k; c++) {
        size_t from = n * c / k, part = n * (c + 1) / k - from, i = from + next_random(&random) % part;
        memset(sums, 0, dim * sizeof *sums);
        add_row(sums, rows + i * stride, meta[i].scale, dim);
        set_centroid(sums, dim, distance, 1, out + c * stride, &out_meta[c]);
    }
    for (int round = 0; round < iterations; round++) {
        struct ap_cluster_groups *groups = ap_cluster_groups_new(out, out_meta, k, dim, distance);
        memset(sums, 0, (size_t)k * dim * sizeof *sums);
        memset(members, 0, k * sizeof *members);
        bool stopped = false;
        for (size_t i = 0; i < n && !stopped; i++) {
            uint32_t c = ap_cluster_nearest(groups, rows + i * stride, &meta[i]);
            add_row(sums + (size_t)c * dim, rows + i * stride, meta[i].scale, dim);
            members[c]++;
            stopped = i % 256 == 0 && stop && atomic_load(stop);
        }
        ap_cluster_groups_free(&groups);
        if (stopped)
            break;
        for (uint32_t c = 0; c < k; c++) {
            float *sum = sums + (size_t)c * dim;
            if (members[c] == 0) {
                size_t i = next_random(&random) % n;
                add_row(sum, rows + i * stride, meta[i].scale, dim);
            }
            set_centroid(sum, dim, distance, members[c] ? members[c] : 1, out + c * stride, &out_meta[c]);
        }
    }
    free(sums);
    free(members);
}

/* ---- groups ---- */

static void order_by_group(struct ap_cluster_groups *g, uint8_t *centroids, struct ap_q8_meta *meta)
{
    size_t stride = ap_q8_stride(g->dim);
    uint32_t *group_of = malloc(g->k * sizeof *group_of);
    uint8_t *rows = malloc(g->k * stride);
    struct ap_q8_meta *metas = malloc(g->k * sizeof *metas);
    struct ap_cluster_groups flat = {.centroids = g->rows, .meta = g->row_meta, .k = g->count, .dim = g->dim, .count = 1, .distance = g->distance, .q8 = g->q8, .scores = g->scores};
    if (!group_of || !rows || !metas)
        abort();
    for (uint32_t i = 0; i < g->k; i++) {
        group_of[i] = ap_cluster_nearest(&flat, centroids + i * stride, &meta[i]);
        g->starts[group_of[i] + 1]++;
    }
    for (uint32_t i = 0; i < g->count; i++)
        g->starts[i + 1] += g->starts[i];
    memcpy(rows, centroids, g->k * stride);
    memcpy(metas, meta, g->k * sizeof *metas);
    for (uint32_t i = 0; i < g->k; i++) {
        uint32_t at = g->starts[group_of[i]]++;
        memcpy(centroids + at * stride, rows + i * stride, stride);
        meta[at] = metas[i];
    }
    memmove(g->starts + 1, g->starts, g->count * sizeof *g->starts); /* each has moved to the next one's place */
    g->starts[0] = 0;
    free(group_of);
    free(rows);
    free(metas);
}

struct ap_cluster_groups *ap_cluster_groups_new(uint8_t *centroids, struct ap_q8_meta *meta, uint32_t k, uint32_t dim, enum ap_distance distance)
{
    size_t stride = ap_q8_stride(dim);
    struct ap_cluster_groups *g = calloc(1, sizeof *g);
    if (!g)
        abort();
    *g = (struct ap_cluster_groups){.centroids = centroids, .meta = meta, .k = k, .dim = dim, .distance = distance, .count = k < GROUPED ? 1 : (uint32_t)sqrt((double)k)};
    g->rows = malloc(g->count * stride);
    g->row_meta = malloc(g->count * sizeof *g->row_meta);
    g->starts = calloc(g->count + 1, sizeof *g->starts);
    g->q8 = malloc(stride);
    g->scores = malloc(k * sizeof *g->scores);
    if (!g->rows || !g->row_meta || !g->starts || !g->q8 || !g->scores)
        abort();
    if (g->count > 1) {
        ap_cluster_train(centroids, meta, k, dim, distance, g->count, 4, NULL, g->rows, g->row_meta);
        order_by_group(g, centroids, meta);
    }
    return g;
}

void ap_cluster_groups_free(struct ap_cluster_groups **groups)
{
    struct ap_cluster_groups *g = *groups;
    *groups = NULL;
    if (!g)
        return;
    free(g->rows);
    free(g->row_meta);
    free(g->starts);
    free(g->q8);
    free(g->scores);
    free(g);
}
