/* Rows of one bit a component, for the lists of collections that are to be small: RaBitQ (Gao and Long, SIGMOD 2024).
 *
 * Kept are the signs of what a turned vector (rotate.h) differs from its list's centroid by, and a factor that makes the estimate of a product
 * right on average: with r the difference, <r,q> is about |r|^2 / sum |r_i| times the sum of q_i with r's signs. A sketch
 * (sketch.h) stands beside an 8-bit row and says what that scores at most; this stands alone, and is nearer since r is shorter
 * than the vector. A row of 384 dimensions takes 48 bytes and 8 of meta, where q8.h takes 392; scores are rougher, so more
 * candidates have to be rescored. Bits are padded to 64; there are none of fewer dimensions than sketches have. */
#ifndef ANTIPODE_INDEXER_Q1_H
#define ANTIPODE_INDEXER_Q1_H
#include <stdbool.h>
#include "indexer/sketch.h"

/* row and centroid: 8-bit ones of turned vectors. bits: ap_sketch_words(dim). meta as q8's, so that lists of both kinds are alike: scale
 * is the factor, norm2 what a distance takes besides, 0 for products. room: 2 * dim floats. */
void ap_q1_encode(const uint8_t *row, const struct ap_q8_meta *row_meta, const uint8_t *centroid, const struct ap_q8_meta *centroid_meta,
                  uint32_t dim, enum ap_distance distance, float *room, uint64_t *bits, struct ap_q8_meta *meta);

/* Scores of n rows of one list, larger is better; base: the query's score with the list's centroid. */
void ap_q1_scores(const struct ap_q8_query *query, float base, const uint64_t *bits, const struct ap_q8_meta *meta, uint32_t dim, size_t n, float *scores);
/* The same of the rows of these ordinals, each with a base of its own. */
void ap_q1_scores_at(const struct ap_q8_query *query, const float *bases, const uint64_t *bits, const struct ap_q8_meta *meta, uint32_t dim,
                     const uint32_t *ordinals, size_t n, float *scores);

/* The query's components whose bit is set, added up; plain: without the CPU's extensions. For tests. */
int32_t ap_q1_sum(const struct ap_q8_query *query, const uint64_t *bits, uint32_t dim, bool plain);

#endif
