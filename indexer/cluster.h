/* Clusters of 8-bit rows (q8.h): k-means over a sample, and the nearest centroid of each row.
 *
 * Everything is done on the rows as they lie in segments, with the kernels that search them: a tenth of the time of float32,
 * and a row lands in the list whose centroid a query like it would score best. */
#ifndef ANTIPODE_INDEXER_CLUSTER_H
#define ANTIPODE_INDEXER_CLUSTER_H
#include "indexer/q8.h"

/* Lloyd's iterations over n rows (one after the other, ap_q8_stride(dim) bytes each); centroids of unit length but for
 * Euclid. out: k rows and their metas. n >= k >= 1. The caller and threads - 1 others of its priority work; the result is the
 * same of any number. stop (may be NULL) is looked at now and then; once it is set the result means nothing. */
void ap_cluster_train(const uint8_t *rows, const struct ap_q8_meta *meta, size_t n, uint32_t dim, enum ap_distance distance, uint32_t k,
                      int iterations, int threads, const _Atomic bool *stop, uint8_t *out, struct ap_q8_meta *out_meta);

/* Centroids in groups, so that a row is compared with the groups and the centroids of the nearest few: a fifth of a thousand.
 * Now and then that misses the nearest by a little. */
struct ap_cluster_groups;
/* Orders the k centroids (borrowed, at the same place while the groups live) by group. */
struct ap_cluster_groups *ap_cluster_groups_new(uint8_t *centroids, struct ap_q8_meta *meta, uint32_t k, uint32_t dim, enum ap_distance distance);
/* What a thread needs to ask groups of k centroids; its own, for as many questions as it likes. */
struct ap_cluster_room { int8_t *q8; float *scores; };
void ap_cluster_room_init(struct ap_cluster_room *room, uint32_t dim, uint32_t k);
void ap_cluster_room_fini(struct ap_cluster_room *room); /* one of zeros, too */
/* The centroid that scores best for the row. Any number of threads at once, each with a room. */
uint32_t ap_cluster_nearest(const struct ap_cluster_groups *groups, struct ap_cluster_room *room, const uint8_t *row, const struct ap_q8_meta *meta);
void ap_cluster_groups_free(struct ap_cluster_groups **groups);

#endif
