/* The codec TCQ<bytes>[x<memory>], our own: the nearest of 256 cells in the first byte, then the principal components of
 * the residual, each with as many bits as its variance earns, as one walk through a trellis (trellis.h). The memory is 8
 * to 10 bits, 8 when not given; each more doubles what encoding takes. Private to ann_codec.c.
 *
 * Bytes of a trained one, little-endian, version 1: "APTCQ" 0 0 version; u32 dim, code bytes, memory, steps; a byte a
 * step: its bits; steps x dim float16: the directions; 256 x dim float32: the cells; steps x 2^memory float32: the tables. */
#ifndef ANTIPODE_COMMON_ANN_TRELLIS_H
#define ANTIPODE_COMMON_ANN_TRELLIS_H
#include <stdbool.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/trellis.h"

struct ap_tcq;
struct ap_tcq_shape { uint32_t dim, bytes, memory; };
/* Is this factory string ours? Then *shape, or AP_EINVAL and why not: 2 bytes at least, and 6 bits a dimension at most. */
bool ap_tcq_is(const char *factory);
int ap_tcq_parse(const char *factory, uint32_t dim, struct ap_tcq_shape *shape, struct ap_err *err);
/* n finite vectors, not all the same. The caller has checked them. */
int ap_tcq_train(const struct ap_tcq_shape *shape, const float *vectors, size_t n, int threads, struct ap_tcq **out, struct ap_err *err);
void ap_tcq_write(const struct ap_tcq *q, struct ap_buf *out);
/* AP_ECORRUPT: anything but what ap_tcq_write writes for this shape, finite throughout. */
int ap_tcq_read(const struct ap_tcq_shape *shape, const void *data, size_t len, struct ap_tcq **out, struct ap_err *err);
size_t ap_tcq_code_size(const struct ap_tcq *q);
/* Any thread, any number at once. codes is zero. Only AP_ENOMEM. */
int ap_tcq_encode(const struct ap_tcq *q, size_t n, const float *vectors, uint8_t *codes, struct ap_err *err);
int ap_tcq_decode(const struct ap_tcq *q, size_t n, const uint8_t *codes, float *vectors, struct ap_err *err);
void ap_tcq_free(struct ap_tcq **q);

/* Shared by ann_trellis.c and ann_trellis_train.c. */
#define AP_TCQ_CELLS 256
#define AP_TCQ_LARGEST 1e16f /* of a number in a codec: squares can be summed */
struct ap_tcq {
    uint32_t dim, bytes, memory, steps;
    uint8_t *bits;        /* of each step: their sum is 8 * (bytes - 1) */
    float *projections;   /* steps directions, then the cells: (steps + 256) x dim */
    float *half_norms;    /* of the cells: |c|^2 / 2 */
    float *cell_steps;    /* the cells along the directions: 256 x steps */
    float *tables;        /* steps x 2^memory, aligned */
};
static inline struct ap_trellis ap_tcq_trellis(const struct ap_tcq *q)
{
    return (struct ap_trellis){.memory = q->memory, .steps = q->steps, .bits = q->bits, .tables = q->tables};
}
/* All of it zero but the sizes. */
struct ap_tcq *ap_tcq_new(const struct ap_tcq_shape *shape, uint32_t steps);
static inline float *ap_tcq_cells(const struct ap_tcq *q) { return q->projections + (size_t)q->steps * q->dim; }
/* half_norms and cell_steps, from the directions and the cells. */
void ap_tcq_finish(struct ap_tcq *q);
/* The cell of each of n vectors, and the residual along the directions, n x steps. scratch: n x (steps + 256). */
void ap_tcq_project(const struct ap_tcq *q, size_t n, const float *vectors, float *scratch, uint8_t *cells, float *along);
/* Row-major c (n x m) = a (n x k) times b (m x k) transposed. */
void ap_tcq_products(size_t n, size_t m, size_t k, const float *a, const float *b, float *c);
/* As float16 and back. */
uint16_t ap_half_from_float(float v);
float ap_float_from_half(uint16_t h);

#endif
