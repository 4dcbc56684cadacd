/* Rows of 8 bits a component with a scale of their own: the hot segment's vectors.
 *
 * A quarter of float32's memory and traffic, nothing to train, any range. Component v is stored as round(v / scale) + 128
 * with scale = max |v| / 127; the query is rounded the same way, so a product is a sum of small integers (VPDPBUSD does 64
 * at once). Scores are good enough to choose candidates, which are then rescored. Rows are padded to 64 bytes. */
#ifndef ANTIPODE_INDEXER_Q8_H
#define ANTIPODE_INDEXER_Q8_H
#include <stddef.h>
#include <stdint.h>
#include "common/control.h"

static inline size_t ap_q8_stride(uint32_t dim) { return ((size_t)dim + 63) & ~(size_t)63; }

struct ap_q8_meta { float scale, norm2; }; /* of one row; norm2 is the squared length before rounding */

/* out has ap_q8_stride(dim) bytes. */
void ap_q8_encode(const float *vector, uint32_t dim, uint8_t *out, struct ap_q8_meta *meta);

/* What the row stands for. */
void ap_q8_decode(const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, float *out);

struct ap_q8_query { int8_t *q; float scale, norm2; int32_t sum; };
/* room: ap_q8_stride(dim) bytes, borrowed for the query's life. */
void ap_q8_query_init(struct ap_q8_query *query, const float *vector, uint32_t dim, int8_t *room);

/* A row as a query. */
void ap_q8_query_of_row(struct ap_q8_query *query, const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, int8_t *room);

/* Scores of n rows, larger is better: inner product, or minus the squared distance. */
void ap_q8_scores(const struct ap_q8_query *query, enum ap_distance distance, const uint8_t *rows, const struct ap_q8_meta *meta,
                  uint32_t dim, size_t n, float *scores);
/* The same of n rows that lie anywhere: those of these ordinals. */
void ap_q8_scores_at(const struct ap_q8_query *query, enum ap_distance distance, const uint8_t *rows, const struct ap_q8_meta *meta,
                     uint32_t dim, const uint32_t *ordinals, size_t n, float *scores);

#endif
