/* Encoding is one matrix product for directions and cells together, and a walk a vector; decoding the reverse. */
#include "common/ann_trellis.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RUN 64 /* vectors at once: their scratch stays in the cache */
#define TABLE_BYTES_MAX (UINT64_C(256) << 20)

static const uint8_t magic[8] = {'A', 'P', 'T', 'C', 'Q', 0, 0, 1};

void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha, const float *a,
            const int *lda, const float *b, const int *ldb, const float *beta, float *c, const int *ldc);

/* ---- numbers ---- */

uint16_t ap_half_from_float(float v)
{
    uint32_t b;
    memcpy(&b, &v, 4);
    uint32_t sign = b >> 16 & 0x8000, magnitude = b & 0x7fffffff;
    if (magnitude >= 0x477ff000) /* 65,520 and more */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) /* less than 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)lrintf(fabsf(v) * 0x1p24f));
    uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | ((rounded - 0x38000000) >> 13));
}

float ap_float_from_half(uint16_t h)
{
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, mantissa = h & 1023, b;
    float out;
    if (exponent == 0) {
        out = (float)mantissa * 0x1p-24f;
        return sign ? -out : out;
    }
    b = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
    memcpy(&out, &b, 4);
    return out;
}

void ap_tcq_products(size_t n, size_t m, size_t k, const float *a, const float *b, float *c)
{
    int in = (int)n, im = (int)m, ik = (int)k;
    float one = 1, zero = 0;
    sgemm_("T", "N", &im, &in, &ik, &one, b, &ik, a, &ik, &zero, c, &im);
}

/* ---- factory ---- */

bool ap_tcq_is(const char *factory)
{
    return strncmp(factory, "TCQ", 3) == 0;
}

/* A number without a leading zero; 0 when there is none. Saturates. */
static uint64_t number(const char **p)
{
    uint64_t n = 0;
    if (**p != '0')
        for (; isdigit((unsigned char)**p); (*p)++)
            n = n > UINT32_MAX ? n : n * 10 + (uint64_t)(**p - '0');
    return n;
}

int ap_tcq_parse(const char *factory, uint32_t dim, struct ap_tcq_shape *shape, struct ap_err *err)
{
    const char *p = factory + 3;
    uint64_t bytes = number(&p), memory = AP_TRELLIS_MEMORY_MIN;
    if (*p == 'x') {
        p++;
        memory = number(&p);
    }
    if (bytes == 0 || *p || memory < AP_TRELLIS_MEMORY_MIN || memory > AP_TRELLIS_MEMORY_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%.64s': TCQ is followed by the bytes of a code and perhaps x%d to x%d, as in TCQ48 or TCQ48x10",
                          factory, AP_TRELLIS_MEMORY_MIN, AP_TRELLIS_MEMORY_MAX);
    if (dim < 1 || dim > 65536)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "dimension %u is not from 1 to 65536", dim);
    uint64_t most = 1 + (uint64_t)dim * AP_TRELLIS_BITS_MAX / 8;
    if (bytes < 2 || bytes > most)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%.64s': a code has from 2 to %llu bytes for %u dimensions", factory, (unsigned long long)most, dim);
    uint64_t steps = 8 * (bytes - 1) < dim ? 8 * (bytes - 1) : dim;
    uint64_t numbers = 2 * steps * dim + (uint64_t)dim * dim + AP_TCQ_CELLS * (steps + dim) + (steps << memory);
    if (numbers * sizeof(float) > TABLE_BYTES_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%.64s' needs more than %u MiB of tables for %u dimensions",
                          factory, (unsigned)(TABLE_BYTES_MAX >> 20), dim);
    *shape = (struct ap_tcq_shape){dim, (uint32_t)bytes, (uint32_t)memory};
    return 0;
}

/* ---- life ---- */

struct ap_tcq *ap_tcq_new(const struct ap_tcq_shape *shape, uint32_t steps)
{
    struct ap_tcq *q = calloc(1, sizeof *q);
    if (!q)
        return NULL;
    *q = (struct ap_tcq){.dim = shape->dim, .bytes = shape->bytes, .memory = shape->memory, .steps = steps};
    size_t tables = ((size_t)steps << q->memory) * sizeof(float);
    q->bits = calloc(steps, 1);
    q->projections = calloc((size_t)(steps + AP_TCQ_CELLS) * q->dim, sizeof(float));
    q->half_norms = calloc(AP_TCQ_CELLS, sizeof(float));
    q->cell_steps = calloc((size_t)AP_TCQ_CELLS * steps, sizeof(float));
    q->tables = aligned_alloc(AP_TRELLIS_ALIGN, tables);
    if (!q->bits || !q->projections || !q->half_norms || !q->cell_steps || !q->tables)
        ap_tcq_free(&q);
    else
        memset(q->tables, 0, tables);
    return q;
}

void ap_tcq_free(struct ap_tcq **tcq)
{
    struct ap_tcq *q = *tcq;
    *tcq = NULL;
    if (!q)
        return;
    free(q->bits);
    free(q->projections);
    free(q->half_norms);
    free(q->cell_steps);
    free(q->tables);
    free(q);
}

void ap_tcq_finish(struct ap_tcq *q)
{
    const float *cells = ap_tcq_cells(q);
    for (size_t i = 0; i < AP_TCQ_CELLS; i++) {
        double sum = 0;
        for (uint32_t d = 0; d < q->dim; d++)
            sum += (double)cells[i * q->dim + d] * (double)cells[i * q->dim + d];
        q->half_norms[i] = (float)(sum / 2);
    }
    ap_tcq_products(AP_TCQ_CELLS, q->steps, q->dim, cells, q->projections, q->cell_steps);
}

size_t ap_tcq_code_size(const struct ap_tcq *q) { return q->bytes; }

/* ---- bytes ---- */

static void write_floats(struct ap_buf *out, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t b[4];
        uint32_t u;
        memcpy(&u, v + i, 4);
        ap_put_le32(b, u);
        ap_buf_append(out, b, sizeof b);
    }
}

void ap_tcq_write(const struct ap_tcq *q, struct ap_buf *out)
{
    uint8_t head[16];
    ap_put_le32(head, q->dim);
    ap_put_le32(head + 4, q->bytes);
    ap_put_le32(head + 8, q->memory);
    ap_put_le32(head + 12, q->steps);
    ap_buf_append(out, magic, sizeof magic);
    ap_buf_append(out, head, sizeof head);
    ap_buf_append(out, q->bits, q->steps);
    for (size_t i = 0; i < (size_t)q->steps * q->dim; i++) {
        uint16_t h = ap_half_from_float(q->projections[i]);
        uint8_t b[2] = {(uint8_t)h, (uint8_t)(h >> 8)};
        ap_buf_append(out, b, sizeof b);
    }
    write_floats(out, ap_tcq_cells(q), (size_t)AP_TCQ_CELLS * q->dim);
    write_floats(out, q->tables, (size_t)q->steps << q->memory);
}

static bool read_floats(const uint8_t *p, float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ap_le32(p + 4 * i);
        memcpy(v + i, &u, 4);
        if (!(fabsf(v[i]) < AP_TCQ_LARGEST))
            return false;
    }
    return true;
}

static bool read_bits(struct ap_tcq *q, const uint8_t *p)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < q->steps; i++) {
        if (p[i] < 1 || p[i] > AP_TRELLIS_BITS_MAX)
            return false;
        sum += q->bits[i] = p[i];
    }
    return sum == 8 * ((uint64_t)q->bytes - 1);
}

int ap_tcq_read(const struct ap_tcq_shape *shape, const void *data, size_t len, struct ap_tcq **out, struct ap_err *err)
{
    const uint8_t *p = data;
    const size_t head = 24, dim = shape->dim;
    if (len >= sizeof magic && memcmp(p, magic, 7) == 0 && p[7] != magic[7])
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a codec TCQ of version %u; this program reads version %u: upgrade it", p[7], magic[7]);
    size_t steps = len >= head ? ap_le32(p + 20) : 0;
    if (len < head || memcmp(p, magic, sizeof magic) != 0 || ap_le32(p + 8) != dim || ap_le32(p + 12) != shape->bytes || ap_le32(p + 16) != shape->memory ||
        steps < 1 || steps > dim || len != head + steps + 2 * steps * dim + 4 * (size_t)AP_TCQ_CELLS * dim + 4 * (steps << shape->memory))
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "these bytes are no codec TCQ%ux%u for %u dimensions", shape->bytes, shape->memory, shape->dim);
    struct ap_tcq *q = ap_tcq_new(shape, (uint32_t)steps);
    if (!q)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a codec");
    p += head;
    bool good = read_bits(q, p);
    p += steps;
    for (size_t i = 0; good && i < steps * dim; i++) {
        q->projections[i] = ap_float_from_half((uint16_t)(p[2 * i] | p[2 * i + 1] << 8));
        good = isfinite(q->projections[i]);
    }
    p += 2 * steps * dim;
    good = good && read_floats(p, ap_tcq_cells(q), (size_t)AP_TCQ_CELLS * dim);
    p += 4 * (size_t)AP_TCQ_CELLS * dim;
    good = good && read_floats(p, q->tables, steps << q->memory);
    if (!good) {
        ap_tcq_free(&q);
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "codec TCQ%ux%u: numbers out of range", shape->bytes, shape->memory);
    }
    ap_tcq_finish(q);
    *out = q;
    return 0;
}

/* ---- codes ---- */

void ap_tcq_project(const struct ap_tcq *q, size_t n, const float *vectors, float *scratch, uint8_t *cells, float *along)
{
    size_t width = q->steps + AP_TCQ_CELLS;
    ap_tcq_products(n, width, q->dim, vectors, q->projections, scratch);
    for (size_t i = 0; i < n; i++) {
        const float *row = scratch + i * width, *score = row + q->steps;
        size_t best = 0;
        for (size_t c = 1; c < AP_TCQ_CELLS; c++)
            if (score[c] - q->half_norms[c] > score[best] - q->half_norms[best])
                best = c;
        const float *cell = q->cell_steps + best * q->steps;
        cells[i] = (uint8_t)best;
        for (size_t s = 0; s < q->steps; s++)
            along[i * q->steps + s] = row[s] - cell[s];
    }
}

int ap_tcq_encode(const struct ap_tcq *q, size_t n, const float *vectors, uint8_t *codes, struct ap_err *err)
{
    size_t run = n < RUN ? n : RUN, steps = q->steps;
    float *scratch = malloc(run * (2 * steps + AP_TCQ_CELLS) * sizeof *scratch);
    struct ap_trellis trellis = ap_tcq_trellis(q);
    float *room = aligned_alloc(AP_TRELLIS_ALIGN, ap_trellis_room(&trellis) * sizeof *room);
    uint16_t *states = malloc(steps * sizeof *states);
    bool there = scratch && room && states;
    for (size_t i = 0; there && i < n; i += run) {
        size_t some = n - i < run ? n - i : run;
        float *along = scratch + run * (steps + AP_TCQ_CELLS);
        uint8_t cells[RUN];
        ap_tcq_project(q, some, vectors + i * q->dim, scratch, cells, along);
        for (size_t j = 0; j < some; j++) {
            uint8_t *code = codes + (i + j) * q->bytes;
            ap_trellis_walk(&trellis, along + j * steps, room, states);
            code[0] = cells[j];
            ap_trellis_pack(&trellis, states, code + 1);
        }
    }
    free(scratch);
    free(room);
    free(states);
    return there ? 0 : ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for encoding");
}

int ap_tcq_decode(const struct ap_tcq *q, size_t n, const uint8_t *codes, float *vectors, struct ap_err *err)
{
    size_t run = n < RUN ? n : RUN, steps = q->steps;
    float *along = malloc(run * steps * sizeof *along);
    struct ap_trellis trellis = ap_tcq_trellis(q);
    uint16_t *states = malloc(steps * sizeof *states);
    bool there = along && states;
    for (size_t i = 0; there && i < n; i += run) {
        size_t some = n - i < run ? n - i : run;
        for (size_t j = 0; j < some; j++) {
            const uint8_t *code = codes + (i + j) * q->bytes;
            memcpy(vectors + (i + j) * q->dim, ap_tcq_cells(q) + (size_t)code[0] * q->dim, q->dim * sizeof *vectors);
            ap_trellis_unpack(&trellis, code + 1, states);
            for (size_t s = 0; s < steps; s++)
                along[j * steps + s] = q->tables[(s << q->memory) + states[s]];
        }
        int dim = (int)q->dim, many = (int)some, inner = (int)steps;
        float one = 1;
        sgemm_("N", "N", &dim, &many, &inner, &one, q->projections, &dim, along, &inner, &one, vectors + i * q->dim, &dim);
    }
    free(along);
    free(states);
    return there ? 0 : ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for decoding");
}
