/* Clusters of 8-bit rows (q8.h): k-means over a sample, and the nearest centroid of each row.
 *
 * Everything is done on the rows as they lie in segments, with the kernels that search them: a tenth of the time of float32,
 * and a row lands in the list whose centroid a query like it would score best. Calling thread only. */
#ifndef ANTIPODE_INDEXER_CLUSTER_H
#define ANTIPODE_INDEXER_CLUSTER_H
#include "indexer/q8.h"

/* Lloyd's iterations over n rows (one after the other, ap_q8_stride(dim) bytes each); centroids of unit length but for
 * Euclid. out: k rows and their metas. n >= k >= 1. stop (may be NULL) is looked at now and then; once it is set the result
 * means nothing. */
void ap_cluster_train(const uint8_t *rows, const struct ap_q8_meta *meta, size_t n, uint32_t dim, enum ap_distance distance, uint32_t k,
                      int iterations, const _Atomic bool *stop, uint8_t *out, struct ap_q8_meta *out_meta);

/* The centroid that scores best for the row. q8: ap_q8_stride(dim) bytes, scores: k. */
uint32_t ap_cluster_nearest(const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, enum ap_distance distance, const uint8_t *centroids,
                            const struct ap_q8_meta *centroid_meta, uint32_t k, int8_t *q8, float *scores);

#endif
