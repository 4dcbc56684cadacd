/* What FAISS's C API has no way for: private to ann.c. Search with an effort of the query's own and a selector that
 * reads live bits while they change; a look at the inside of what was read from untrusted bytes; sizes.
 *
 * Every function catches what C++ throws: 0, or -1 and the reason in why. */
#ifndef ANTIPODE_COMMON_ANN_FAISS_H
#define ANTIPODE_COMMON_ANN_FAISS_H
#include <stddef.h>
#include <stdint.h>
#include <faiss/c_api/Index_c.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What FAISS says, less "Error in <function> at <file>:<line>: Error: ": where it was built is nobody's business. */
const char *ap_faiss_reason(const char *what);

/* Train without what FAISS does for others: warnings on stderr about small training sets (how small is for ann.c to say)
 * and ordering the centroids of a PQ by simulated annealing for a kind of search that we do not use. */
int ap_faiss_train(FaissIndex *index, size_t n, const float *vectors, char *why, size_t cap);

/* Is this a codec of a class we know, whose every table has the size that its parameters ask for? Encoding indexes the
 * tables without looking. trained: also what only training fills. */
int ap_faiss_codec_sound(const FaissIndex *index, uint32_t dim, int trained, char *why, size_t cap);

/* Give an untrained codec every table that training would give it, all zero: what it then writes has the shape of all
 * codecs of its factory string. */
int ap_faiss_fill(FaissIndex *index, char *why, size_t cap);

/* Sealed structures: only IVF (flat or HNSW coarse quantizer), HNSW and flat codes. */
int ap_faiss_ann_sound(const FaissIndex *index, char *why, size_t cap);
/* nlist of an IVF; 0 otherwise. */
size_t ap_faiss_lists(const FaissIndex *index);
/* nprobe or efSearch that a search without effort uses; kept in the serialized bytes. */
void ap_faiss_set_effort(FaissIndex *index, uint32_t effort);
uint32_t ap_faiss_effort(const FaissIndex *index);
/* live (may be NULL): bit i of byte i/8; read with relaxed atomics. */
int ap_faiss_search(const FaissIndex *index, const float *query, size_t k, uint32_t effort, const uint8_t *live,
                    float *scores, int64_t *ordinals, char *why, size_t cap);
size_t ap_faiss_bytes(const FaissIndex *index);

#ifdef __cplusplus
}
#endif
#endif
