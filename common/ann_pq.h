/* Encoding with a product quantizer of 8 bits, subspace by subspace instead of vector by vector: the centroids of one
 * subspace stay in the first cache, so it takes a third of FAISS's time. The codes are those of FAISS, but for vectors that
 * lie as near to two centroids as float32 can tell. Private to ann_codec.c. */
#ifndef ANTIPODE_COMMON_ANN_PQ_H
#define ANTIPODE_COMMON_ANN_PQ_H
#include <stddef.h>
#include <stdint.h>
#include <faiss/c_api/Index_c.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ap_pq;
/* NULL where the codec is something else, where FAISS has no kernel for its subspaces, or without memory: FAISS encodes then. */
struct ap_pq *ap_pq_new(const FaissIndex *index);
/* Any thread. codes: n times the subspaces. */
void ap_pq_encode(const struct ap_pq *pq, size_t n, const float *vectors, uint8_t *codes);
void ap_pq_free(struct ap_pq **pq);

#ifdef __cplusplus
}
#endif
#endif
