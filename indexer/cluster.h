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

/* Centroids in groups, so that a row is compared with the groups and the centroids of the nearest few: a fifth of a thousand.
 * Now and then that misses the nearest by a little. */
struct ap_cluster_groups;
/* Orders the k centroids (borrowed, at the same place while the groups live) by group. */
struct ap_cluster_groups *ap_cluster_groups_new(uint8_t *centroids, struct ap_q8_meta *meta, uint32_t k, uint32_t dim, enum ap_distance distance);
/* The centroid that scores best for the row. One thread at a time. */
uint32_t ap_cluster_nearest(struct ap_cluster_groups *groups, const uint8_t *row, const struct ap_q8_meta *meta);
void ap_cluster_groups_free(struct ap_cluster_groups **groups);

#endif
