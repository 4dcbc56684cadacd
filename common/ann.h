/* FAISS behind one header: codecs (trained quantizers), sealed ANN structures, and flat distance scans.
 *
 * Only common/ann.c (and, where the C API has no way, common/ann_faiss.cpp) knows FAISS. Thread counts are fixed here:
 * OpenMP and OpenBLAS would otherwise fight over the cores; every call runs on the calling thread alone unless told.
 * Vectors are float32, row-major, dim floats a row. Similarity: under Cosine vectors are unit length when they get here and
 * compare by inner product, like Dot; Euclid compares by squared L2 inside and reports the root. */
#ifndef ANTIPODE_COMMON_ANN_H
#define ANTIPODE_COMMON_ANN_H
#include "common/bytes.h"
#include "common/control.h"
#include "common/err.h"

void ap_ann_init(void); /* once, before threads */

/* --- codecs --- immutable once made; every function may be called from any thread at once */
struct ap_codec;
/* Is this TCQ<bytes>[x<memory>] (ours: ann_trellis.h), or a factory string FAISS can parse for dim, with a standalone codec
 * (sa_encode)? AP_EINVAL with the reason, for whoever wrote the string. */
int ap_codec_check(const char *factory, uint32_t dim, struct ap_err *err);
/* Default: TCQ{d/4}, i.e. 8 bits for 4 dimensions, a sixteenth of float32; PQ{d/4} where a square matrix would be too large,
 * or SQ8 when 4 does not divide them. SQ8 below 16 dimensions: fewer bytes than that tell too few vectors apart to be worth saving. */
void ap_codec_default(uint32_t dim, char *out, size_t cap);
/* Vectors needed to train it well, and the least with which training is accepted. */
void ap_codec_training_size(const char *factory, uint32_t dim, size_t *good, size_t *least);
/* Train on n vectors (borrowed). Takes seconds; yields nothing to others: call it on a thread of its own.
 * AP_EINVAL: too few or identical vectors. */
int ap_codec_train(const char *factory, uint32_t dim, const float *vectors, size_t n, int threads, struct ap_codec **out, struct ap_err *err);
int ap_codec_load(const char *factory, uint32_t dim, const void *bytes, size_t len, struct ap_codec **out, struct ap_err *err); /* checks dim and code size */
/* Serialized bytes (borrowed for the codec's life), its id (first 8 bytes of the BLAKE2b-256 of them, big-endian), hash. */
const uint8_t *ap_codec_bytes(const struct ap_codec *c, size_t *len);
uint64_t ap_codec_id(const struct ap_codec *c);
const uint8_t *ap_codec_hash(const struct ap_codec *c); /* 32 bytes */
size_t ap_codec_code_size(const struct ap_codec *c);
uint32_t ap_codec_dim(const struct ap_codec *c);
const char *ap_codec_factory(const struct ap_codec *c);
int ap_codec_encode(const struct ap_codec *c, size_t n, const float *vectors, uint8_t *codes, struct ap_err *err);
int ap_codec_decode(const struct ap_codec *c, size_t n, const uint8_t *codes, float *vectors, struct ap_err *err);
struct ap_codec *ap_codec_ref(struct ap_codec *c);
void ap_codec_unref(struct ap_codec **c);

/* --- sealed ANN structures --- built once, then read-only; search is thread-safe */
struct ap_ann;
/* Can FAISS make such a structure of vectors of so many dimensions? dim 0: of any. AP_EINVAL with FAISS's reason. */
int ap_ann_check(const char *factory, uint32_t dim, struct ap_err *err);
/* Build from n vectors; ordinal i is vector i. factory as FAISS's index_factory ("IVF256,SQ8", "Flat", "HNSW16"). */
int ap_ann_build(const char *factory, uint32_t dim, enum ap_distance distance, const float *vectors, size_t n, int threads, struct ap_ann **out, struct ap_err *err);
/* The same in steps, so that memory stays bounded: train on a sample, then add in order of ordinals; not searched meanwhile. */
int ap_ann_train(const char *factory, uint32_t dim, enum ap_distance distance, const float *sample, size_t n, int threads, struct ap_ann **out, struct ap_err *err);
int ap_ann_add(struct ap_ann *a, const float *vectors, size_t n, int threads, struct ap_err *err);
/* The k nearest ordinals whose bit is set in live (bit i of byte i/8; NULL: all): best first, ordinals -1 past the end.
 * score: inner product (larger is better) or squared L2 (smaller is better). effort 0: the default chosen at build;
 * otherwise nprobe or efSearch, clamped. */
int ap_ann_search(const struct ap_ann *a, const float *query, size_t k, uint32_t effort, const uint8_t *live, float *score, int64_t *ordinal, struct ap_err *err);
/* The default effort; 0: it has none. */
uint32_t ap_ann_effort(const struct ap_ann *a);
int ap_ann_save(const struct ap_ann *a, int fd, struct ap_err *err);   /* at fd's position */
int ap_ann_load(int fd, struct ap_ann **out, struct ap_err *err);      /* from fd's position */
uint32_t ap_ann_dim(const struct ap_ann *a);
size_t ap_ann_count(const struct ap_ann *a);
size_t ap_ann_bytes(const struct ap_ann *a);
void ap_ann_free(struct ap_ann **a);

/* k centroids of n vectors (k-means, Lloyd; spherical but for Euclid). AP_EINVAL when n < k. */
int ap_ann_centroids(uint32_t dim, enum ap_distance distance, const float *vectors, size_t n, uint32_t k, int iterations, int threads, float *centroids, struct ap_err *err);

/* --- flat --- scores of one query against n rows: inner product or squared L2, as ap_ann_search */
void ap_flat_scores(enum ap_distance distance, const float *query, const float *rows, uint32_t dim, size_t n, float *scores);
/* In place, to unit length. Returns the norm before; 0 leaves it untouched. */
float ap_normalize(float *vector, uint32_t dim);
static inline int ap_score_descending(enum ap_distance d) { return d != AP_EUCLID; }

#endif
