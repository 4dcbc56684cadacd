/* Training: cells by k-means, directions by principal components of the residual, bits by variance, tables by the trellis
 * coder's own k-means: encode, replace each entry by the mean of what it stood for, again (Stewart, Gray and Linde, 1982).
 *
 * Small samples: fewer cells, a covariance drawn towards the round one, and entries that keep close to those found for
 * all steps of as many bits together. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/ann.h"
#include "common/ann_trellis.h"

#define ROWS_A_CELL 40
#define CELL_ROUNDS 20
#define SHARED_ROUNDS 10
#define SHARED_ROWS 1500
#define OWN_ROUNDS 6      /* on OWN_ROWS; then twice on all */
#define OWN_ROWS 20000
#define OWN_WEIGHT 4.0    /* rows that the shared table counts for */
#define GAIN_A_BIT 3.7    /* by which a bit divides a step's squared error */

void ssyrk_(const char *uplo, const char *trans, const int *n, const int *k, const float *alpha, const float *a, const int *lda,
            const float *beta, float *c, const int *ldc);
void ssyevd_(const char *jobz, const char *uplo, const int *n, float *a, const int *lda, float *w, float *work, const int *lwork,
             int *iwork, const int *liwork, int *info);

/* ---- cells ---- */

static int find_cells(float *cells, uint32_t dim, const float *x, size_t n, int threads, struct ap_err *err)
{
    size_t k = n / ROWS_A_CELL;
    k = k < 1 ? 1 : k > AP_TCQ_CELLS ? AP_TCQ_CELLS : k;
    size_t sample = n < 2 * k * ROWS_A_CELL ? n : 2 * k * ROWS_A_CELL;
    int rc = ap_ann_centroids(dim, AP_EUCLID, x, sample, (uint32_t)k, CELL_ROUNDS, threads, cells, err);
    /* Any byte is a cell: codes come from elsewhere. */
    for (size_t i = k; rc == 0 && i < AP_TCQ_CELLS; i++)
        memcpy(cells + i * dim, cells + (i - k) * dim, dim * sizeof *cells);
    return rc;
}

/* ---- directions ---- */

/* Eigenvectors of the residual's covariance in the rows of the result, which replaces it, least first. */
static int principal(float *matrix, float *variance, uint32_t dim)
{
    int n = (int)dim, info = 0, lwork = -1, liwork = -1, iwork_size = 0;
    float work_size = 0;
    ssyevd_("V", "U", &n, matrix, &n, variance, &work_size, &lwork, &iwork_size, &liwork, &info);
    /* A float may be less than the number it stands for. */
    lwork = (int)((double)work_size * 1.0001) + 16;
    liwork = iwork_size;
    float *work = malloc((size_t)lwork * sizeof *work);
    int *iwork = malloc((size_t)liwork * sizeof *iwork);
    if (!work || !iwork)
        info = -1;
    else
        ssyevd_("V", "U", &n, matrix, &n, variance, work, &lwork, iwork, &liwork, &info);
    free(work);
    free(iwork);
    return info == 0 ? 0 : -1;
}

static void covariance(float *matrix, uint32_t dim, const float *residual, size_t n)
{
    int id = (int)dim, in = (int)n;
    float scale = 1 / (float)n, zero = 0;
    ssyrk_("U", "N", &id, &in, &scale, residual, &id, &zero, matrix, &id);
    double trace = 0, round = 0.5 * dim / ((double)dim + (double)n);
    for (size_t i = 0; i < dim; i++)
        trace += (double)matrix[i * dim + i];
    for (size_t i = 0; i < dim; i++) {
        for (size_t j = 0; j < dim; j++)
            matrix[i * dim + j] *= (float)(1 - round);
        matrix[i * dim + i] += (float)(round * trace / dim);
    }
}

/* How many bits each direction earns, best first; returns how many earn any. */
static uint32_t allot(const float *variance, uint32_t dim, uint32_t bits, uint8_t *out)
{
    float *left = malloc(dim * sizeof *left);
    uint32_t used = 0;
    if (!left)
        return 0;
    memset(out, 0, dim);
    for (uint32_t i = 0; i < dim; i++)
        left[i] = variance[dim - 1 - i] > 0 ? variance[dim - 1 - i] : 0;
    while (bits-- > 0) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < dim && out[i - 1] > 0; i++) /* they fall: none before its better */
            if (out[i] < AP_TRELLIS_BITS_MAX && (left[i] > left[best] || out[best] == AP_TRELLIS_BITS_MAX))
                best = i;
        out[best]++;
        left[best] /= (float)GAIN_A_BIT;
        used = best + 1 > used ? best + 1 : used;
    }
    free(left);
    return used;
}

/* ---- chance, the same every time ---- */

static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void shuffle(uint32_t *v, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++)
        v[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = next(&seed) % i;
        uint32_t t = v[i - 1];
        v[i - 1] = v[j];
        v[j] = t;
    }
}

/* ---- tables ---- */

/* Of the normal distribution. */
static float quantile(double p)
{
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        *(0.5 * erfc(-middle / sqrt(2)) < p ? &low : &high) = middle;
    }
    return (float)low;
}

struct tables {
    const struct ap_tcq *q;
    size_t numbers;       /* in a table: 2^memory */
    const float *along;   /* n x steps */
    const float *spread;  /* standard deviation of each step */
    size_t n;
    struct ap_trellis trellis;
    float shared[AP_TRELLIS_BITS_MAX + 1][1 << AP_TRELLIS_MEMORY_MAX];
    double *sums;         /* steps x 2^memory */
    double *counts;
    float *room;
    uint16_t *states;
};

static void begin_tables(struct tables *t)
{
    uint32_t order[1 << AP_TRELLIS_MEMORY_MAX];
    for (unsigned bits = 0; bits <= AP_TRELLIS_BITS_MAX; bits++) {
        shuffle(order, t->numbers, bits + 1);
        for (size_t s = 0; s < t->numbers; s++)
            t->shared[bits][s] = quantile(((double)order[s] + 0.5) / (double)t->numbers);
    }
}

/* What the walks of rows stood for, state by state. */
static void walk_rows(struct tables *t, size_t rows)
{
    const struct ap_tcq *q = t->q;
    size_t all = q->steps * t->numbers;
    memset(t->sums, 0, all * sizeof *t->sums);
    memset(t->counts, 0, all * sizeof *t->counts);
    for (size_t i = 0; i < rows; i++) {
        const float *x = t->along + i * q->steps;
        ap_trellis_walk(&t->trellis, x, t->room, t->states);
        for (size_t s = 0; s < q->steps; s++) {
            t->sums[s * t->numbers + t->states[s]] += (double)x[s];
            t->counts[s * t->numbers + t->states[s]]++;
        }
    }
}

static void use_shared(struct tables *t)
{
    for (size_t s = 0; s < t->q->steps; s++)
        for (size_t i = 0; i < t->numbers; i++)
            t->q->tables[s * t->numbers + i] = t->shared[t->q->bits[s]][i] * t->spread[s];
}

static void shared_round(struct tables *t, size_t rows)
{
    use_shared(t);
    walk_rows(t, rows);
    for (unsigned bits = 0; bits <= AP_TRELLIS_BITS_MAX; bits++)
        for (size_t i = 0; i < t->numbers; i++) {
            double sum = 0, count = 0;
            for (size_t s = 0; s < t->q->steps; s++)
                if (t->q->bits[s] == bits && t->spread[s] > 0) {
                    sum += t->sums[s * t->numbers + i] / (double)t->spread[s];
                    count += t->counts[s * t->numbers + i];
                }
            t->shared[bits][i] = (float)((sum + (double)t->shared[bits][i]) / (count + 1));
        }
}

static void own_round(struct tables *t, size_t rows)
{
    walk_rows(t, rows);
    for (size_t s = 0; s < t->q->steps; s++)
        for (size_t i = 0; i < t->numbers; i++) {
            size_t at = s * t->numbers + i;
            double prior = (double)(t->shared[t->q->bits[s]][i] * t->spread[s]);
            t->q->tables[at] = (float)((t->sums[at] + OWN_WEIGHT * prior) / (t->counts[at] + OWN_WEIGHT));
        }
}

static int find_tables(struct ap_tcq *q, const float *along, const float *spread, size_t n)
{
    struct tables t = {.q = q, .numbers = (size_t)1 << q->memory, .along = along, .spread = spread, .n = n, .trellis = ap_tcq_trellis(q)};
    size_t all = q->steps * t.numbers;
    t.sums = malloc(all * sizeof *t.sums);
    t.counts = malloc(all * sizeof *t.counts);
    t.room = aligned_alloc(AP_TRELLIS_ALIGN, ap_trellis_room(&t.trellis) * sizeof *t.room);
    t.states = malloc(q->steps * sizeof *t.states);
    bool there = t.sums && t.counts && t.room && t.states;
    if (there) {
        begin_tables(&t);
        for (int i = 0; i < SHARED_ROUNDS; i++)
            shared_round(&t, n < SHARED_ROWS ? n : SHARED_ROWS);
        use_shared(&t);
        for (int i = 0; i < OWN_ROUNDS; i++)
            own_round(&t, n < OWN_ROWS ? n : OWN_ROWS);
        for (int i = 0; i < 2; i++)
            own_round(&t, n);
    }
    free(t.sums);
    free(t.counts);
    free(t.room);
    free(t.states);
    return there ? 0 : -1;
}

/* ---- all of it ---- */

/* As ap_tcq_read will want them. */
static bool in_range(const struct ap_tcq *q)
{
    size_t n = (size_t)(q->steps + AP_TCQ_CELLS) * q->dim, tables = (size_t)q->steps << q->memory;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(q->projections[i]) < AP_TCQ_LARGEST))
            return false;
    for (size_t i = 0; i < tables; i++)
        if (!(fabsf(q->tables[i]) < AP_TCQ_LARGEST))
            return false;
    return true;
}

/* Rows less their cells, in place of a copy of them. */
static void take_cells(float *residual, uint32_t dim, size_t n, const float *cells)
{
    const size_t run = 256;
    float *scores = malloc(run * AP_TCQ_CELLS * sizeof *scores), norms[AP_TCQ_CELLS];
    if (!scores)
        abort();
    for (size_t c = 0; c < AP_TCQ_CELLS; c++) {
        double sum = 0;
        for (uint32_t d = 0; d < dim; d++)
            sum += (double)cells[c * dim + d] * (double)cells[c * dim + d];
        norms[c] = (float)(sum / 2);
    }
    for (size_t i = 0; i < n; i += run) {
        size_t some = n - i < run ? n - i : run;
        ap_tcq_products(some, AP_TCQ_CELLS, dim, residual + i * dim, cells, scores);
        for (size_t j = 0; j < some; j++) {
            const float *s = scores + j * AP_TCQ_CELLS;
            size_t best = 0;
            for (size_t c = 1; c < AP_TCQ_CELLS; c++)
                if (s[c] - norms[c] > s[best] - norms[best])
                    best = c;
            for (uint32_t d = 0; d < dim; d++)
                residual[(i + j) * dim + d] -= cells[best * dim + d];
        }
    }
    free(scores);
}

/* The codec but for its tables. matrix: eigenvectors in rows, least first. */
static struct ap_tcq *assemble(const struct ap_tcq_shape *shape, const float *matrix, const float *variance, const float *cells)
{
    uint32_t dim = shape->dim;
    uint8_t *bits = malloc(dim);
    uint32_t steps = bits ? allot(variance, dim, 8 * (shape->bytes - 1), bits) : 0;
    uint32_t *order = malloc((steps + 1) * sizeof *order);
    struct ap_tcq *q = steps > 0 && order ? ap_tcq_new(shape, steps) : NULL;
    if (q) {
        /* Not by variance: steps of few bits between those of many make the state remember further back. */
        shuffle(order, steps, 7);
        for (uint32_t s = 0; s < steps; s++) {
            const float *direction = matrix + (size_t)(dim - 1 - order[s]) * dim;
            q->bits[s] = bits[order[s]];
            for (uint32_t d = 0; d < dim; d++) /* as they will be read */
                q->projections[(size_t)s * dim + d] = ap_float_from_half(ap_half_from_float(direction[d]));
        }
        memcpy(ap_tcq_cells(q), cells, (size_t)AP_TCQ_CELLS * dim * sizeof *cells);
        ap_tcq_finish(q);
    }
    free(bits);
    free(order);
    return q;
}

static int tables_of(struct ap_tcq *q, const float *residual, size_t n)
{
    float *along = malloc(n * q->steps * sizeof *along), *spread = calloc(q->steps, sizeof *spread);
    int rc = along && spread ? 0 : -1;
    if (rc == 0) {
        ap_tcq_products(n, q->steps, q->dim, residual, q->projections, along);
        for (uint32_t s = 0; s < q->steps; s++) {
            double sum = 0;
            for (size_t i = 0; i < n; i++)
                sum += (double)along[i * q->steps + s] * (double)along[i * q->steps + s];
            spread[s] = (float)sqrt(sum / (double)n);
        }
        rc = find_tables(q, along, spread, n);
    }
    free(along);
    free(spread);
    return rc;
}

int ap_tcq_train(const struct ap_tcq_shape *shape, const float *vectors, size_t n, int threads, struct ap_tcq **out, struct ap_err *err)
{
    uint32_t dim = shape->dim;
    float *cells = malloc((size_t)AP_TCQ_CELLS * dim * sizeof *cells), *residual = malloc(n * dim * sizeof *residual);
    float *matrix = calloc((size_t)dim * dim, sizeof *matrix), *variance = malloc(dim * sizeof *variance);
    struct ap_tcq *q = NULL;
    bool there = cells && residual && matrix && variance;
    int rc = there ? find_cells(cells, dim, vectors, n, threads, err) : 0;
    if (there && rc == 0) {
        memcpy(residual, vectors, n * dim * sizeof *residual);
        take_cells(residual, dim, n, cells);
        covariance(matrix, dim, residual, n);
        if (principal(matrix, variance, dim) != 0)
            rc = ap_err_set(err, AP_EINVAL, AP_POISON, "no principal components in these vectors");
        else if (!(q = assemble(shape, matrix, variance, cells)) || tables_of(q, residual, n) != 0)
            there = false;
        else if (!in_range(q))
            rc = ap_err_set(err, AP_EINVAL, AP_POISON, "these vectors hold numbers too large to be trained on");
    }
    free(cells);
    free(residual);
    free(matrix);
    free(variance);
    if (!there)
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for training a codec");
    if (rc < 0)
        ap_tcq_free(&q);
    *out = q;
    return rc;
}
