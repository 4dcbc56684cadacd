/* Centroids begin as rows chosen at random, are means of their rows in float32 for the length of an update, and 8-bit rows
 * again after it. One that no row is nearest to takes a random row's place. Threads find each row's centroid; the sums are
 * made by one, in the rows' order, because those of floats depend on it. */
#include "indexer/cluster.h"

#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "common/parallel.h"

#define GROUPED 128 /* fewer centroids are one group */
#define LOOKED_INTO 6
#define RUN 256 /* rows a job */

struct ap_cluster_groups {
    const uint8_t *centroids;
    const struct ap_q8_meta *meta;
    uint32_t k, dim, count;
    enum ap_distance distance;
    uint8_t *rows; struct ap_q8_meta *row_meta; /* the groups' own centroids */
    uint32_t *starts;                           /* count + 1 */
};

void ap_cluster_room_init(struct ap_cluster_room *room, uint32_t dim, uint32_t k)
{
    *room = (struct ap_cluster_room){malloc(ap_q8_stride(dim)), malloc(k * sizeof *room->scores)};
    if (!room->q8 || !room->scores)
        abort();
}

void ap_cluster_room_fini(struct ap_cluster_room *room)
{
    free(room->q8);
    free(room->scores);
    *room = (struct ap_cluster_room){0};
}

static uint32_t best_of(const float *scores, uint32_t k)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < k; i++)
        if (scores[i] > scores[best])
            best = i;
    return best;
}

uint32_t ap_cluster_nearest(const struct ap_cluster_groups *g, struct ap_cluster_room *room, const uint8_t *row, const struct ap_q8_meta *meta)
{
    struct ap_q8_query q;
    uint32_t looked[LOOKED_INTO], best = 0;
    size_t stride = ap_q8_stride(g->dim);
    float most = -INFINITY;
    ap_q8_query_of_row(&q, row, meta, g->dim, room->q8);
    if (g->count == 1) {
        ap_q8_scores(&q, g->distance, g->centroids, g->meta, g->dim, g->k, room->scores);
        return best_of(room->scores, g->k);
    }
    ap_q8_scores(&q, g->distance, g->rows, g->row_meta, g->dim, g->count, room->scores);
    for (uint32_t i = 0; i < LOOKED_INTO; i++) {
        looked[i] = best_of(room->scores, g->count);
        room->scores[looked[i]] = -INFINITY;
    }
    for (uint32_t i = 0; i < LOOKED_INTO; i++) {
        uint32_t from = g->starts[looked[i]], n = g->starts[looked[i] + 1] - from;
        if (n == 0)
            continue;
        ap_q8_scores(&q, g->distance, g->centroids + from * stride, g->meta + from, g->dim, n, room->scores);
        uint32_t one = best_of(room->scores, n);
        if (room->scores[one] > most) {
            most = room->scores[one];
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

struct assigning {
    const struct ap_cluster_groups *groups;
    const uint8_t *rows; const struct ap_q8_meta *meta; size_t n;
    const _Atomic bool *stop;
    struct ap_cluster_room *rooms; /* one a thread */
    uint32_t *nearest;             /* n */
};

static int assign_run(void *arg, size_t run, int thread, struct ap_err *err)
{
    struct assigning *a = arg;
    size_t stride = ap_q8_stride(a->groups->dim), end = (run + 1) * RUN < a->n ? (run + 1) * RUN : a->n;
    if (a->stop && atomic_load(a->stop))
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "stopped");
    for (size_t i = run * RUN; i < end; i++)
        a->nearest[i] = ap_cluster_nearest(a->groups, &a->rooms[thread], a->rows + i * stride, &a->meta[i]);
    return 0;
}

void ap_cluster_train(const uint8_t *rows, const struct ap_q8_meta *meta, size_t n, uint32_t dim, enum ap_distance distance, uint32_t k,
                      int iterations, int threads, const _Atomic bool *stop, uint8_t *out, struct ap_q8_meta *out_meta)
{
    size_t stride = ap_q8_stride(dim), runs = (n + RUN - 1) / RUN, workers = threads < 1 ? 1 : (size_t)threads < runs ? (size_t)threads : runs;
    float *sums = malloc((size_t)k * dim * sizeof *sums);
    uint32_t *members = malloc(k * sizeof *members);
    struct assigning a = {.rows = rows, .meta = meta, .n = n, .stop = stop, .rooms = calloc(workers, sizeof *a.rooms), .nearest = malloc(n * sizeof *a.nearest)};
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15);
    if (!sums || !members || !a.rooms || !a.nearest)
        abort();
    for (size_t t = 0; t < workers; t++)
        ap_cluster_room_init(&a.rooms[t], dim, k);
    /* One row from each k-th part of the sample: no row twice. */
    for (uint32_t c = 0; c < k; c++) {
        size_t from = n * c / k, part = n * (c + 1) / k - from, i = from + next_random(&random) % part;
        memset(sums, 0, dim * sizeof *sums);
        add_row(sums, rows + i * stride, meta[i].scale, dim);
        set_centroid(sums, dim, distance, 1, out + c * stride, &out_meta[c]);
    }
    for (int round = 0; round < iterations; round++) {
        struct ap_cluster_groups *groups = ap_cluster_groups_new(out, out_meta, k, dim, distance);
        struct ap_err stopped;
        a.groups = groups;
        int rc = ap_parallel((int)workers, runs, assign_run, &a, &stopped);
        ap_cluster_groups_free(&groups);
        if (rc < 0)
            break;
        memset(sums, 0, (size_t)k * dim * sizeof *sums);
        memset(members, 0, k * sizeof *members);
        for (size_t i = 0; i < n; i++) {
            add_row(sums + (size_t)a.nearest[i] * dim, rows + i * stride, meta[i].scale, dim);
            members[a.nearest[i]]++;
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
    for (size_t t = 0; t < workers; t++)
        ap_cluster_room_fini(&a.rooms[t]);
    free(a.rooms);
    free(a.nearest);
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
    struct ap_cluster_groups flat = {.centroids = g->rows, .meta = g->row_meta, .k = g->count, .dim = g->dim, .count = 1, .distance = g->distance};
    struct ap_cluster_room room;
    if (!group_of || !rows || !metas)
        abort();
    ap_cluster_room_init(&room, g->dim, g->count);
    for (uint32_t i = 0; i < g->k; i++) {
        group_of[i] = ap_cluster_nearest(&flat, &room, centroids + i * stride, &meta[i]);
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
    ap_cluster_room_fini(&room);
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
    if (!g->rows || !g->row_meta || !g->starts)
        abort();
    if (g->count > 1) {
        ap_cluster_train(centroids, meta, k, dim, distance, g->count, 4, 1, NULL, g->rows, g->row_meta);
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
    free(g);
}
