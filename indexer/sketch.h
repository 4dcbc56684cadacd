/* Sketches: the signs of an 8-bit row (q8.h) of a turned vector (rotate.h), a bit a component, and one factor.
 *
 * A search reads an eighth of the bytes: a sketch says what the row scores at most, nearly always, and only rows that might be
 * among the best are scored by their 8 bits. A row x is close to factor * signs, factor = |x|^2 / sum |x_i|, which makes the
 * product with a query right on average, and wrong by a random amount (RaBitQ, Gao and Long, 2024):
 *   standard deviation  factor * |query| * sqrt(1 - 2 / pi), for turned vectors
 * The bound adds twice that. Rows well above the worst of those kept, as the best of them are, are thus never missed. */
#ifndef ANTIPODE_INDEXER_SKETCH_H
#define ANTIPODE_INDEXER_SKETCH_H
#include <stdbool.h>
#include "indexer/q8.h"

/* 64-bit words of a sketch; 0: vectors of so few dimensions have none, a row is a cache line anyway. */
static inline size_t ap_sketch_words(uint32_t dim) { return dim < 64 ? 0 : (dim + 63) / 64; }

/* Has the CPU what makes them faster than the rows? Otherwise they are kept, and not used. */
bool ap_sketch_pays(void);

/* Of one row: ap_sketch_words(dim) words, at least one, and the factor. */
void ap_sketch_of(const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, uint64_t *bits, float *factor);

/* Those of n rows that may score more than `least`: first + their number, into out (room for n). Returns how many. */
size_t ap_sketch_pass(const struct ap_q8_query *query, enum ap_distance distance, const uint64_t *bits, const float *factors,
                      const struct ap_q8_meta *meta, uint32_t dim, size_t n, float least, uint32_t first, uint32_t *out);

#endif
