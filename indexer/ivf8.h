/* Inverted lists of 8-bit rows (q8.h), or of small ones of one bit a component (q1.h), as one image that is used where it lies: in a
 * file that is mapped.
 *
 * Centroids are found and rows assigned with the kernels that scan (cluster.h): 8-bit sums with VNNI take a fifth of the time
 * of FAISS's SQ8 (docs/architecture.md, "The index"). Ordinals are positions in the image, list after list, so that scanning
 * and the live bits run straight through memory. Image, each part from a multiple of 64 bytes on, integers little-endian:
 *   starts     u32, lists + 1: first ordinal of each list
 *   centroids  lists rows of 8 bits; their meta
 *   rows       count rows of 8 bits, of turned vectors (rotate.h); their meta
 *   sketches   count of ap_sketch_words u64; count f32 (sketch.h); nothing under 64 dimensions
 *              small ones: meta, then ap_sketch_words u64 a row, instead of rows and sketches
 *   offsets    u32, count: slot minus base
 *   order      u32, count: ordinals by rising slot */
#ifndef ANTIPODE_INDEXER_IVF8_H
#define ANTIPODE_INDEXER_IVF8_H
#include "common/ann.h"
#include "indexer/q1.h"
#include "indexer/sketch.h"

struct ap_ivf8 {
    uint32_t dim, lists, count;
    bool small; /* rows and factors are NULL, row_meta and bits are q1.h's */
    uint32_t *starts;
    uint8_t *centroids; struct ap_q8_meta *centroid_meta;
    uint8_t *rows; struct ap_q8_meta *row_meta;
    uint64_t *bits; float *factors; /* the rows' sketches; NULL: vectors of so few dimensions have none */
    uint32_t *offsets, *order;
};

/* Bytes of an image, and the parts of one that begins at image. */
size_t ap_ivf8_bytes(uint32_t dim, uint32_t lists, uint32_t count, bool small);
void ap_ivf8_map(struct ap_ivf8 *v, void *image, uint32_t dim, uint32_t lists, uint32_t count, bool small);
/* Do starts, offsets and order hold together? Bytes that do not must not be searched. */
bool ap_ivf8_sound(const struct ap_ivf8 *v);

/* The lists to look into, of so many probes, the few best first and the others in no order; room for v->lists. Returns how many. */
uint32_t ap_ivf8_probe(const struct ap_ivf8 *v, const struct ap_q8_query *q, enum ap_distance distance, uint32_t probes, float *scores, uint32_t *lists);

/* The list of an ordinal. */
uint32_t ap_ivf8_list_of(const struct ap_ivf8 *v, uint32_t ordinal);

/* Lists and probes that serve so many rows (measured with bench/index.c). */
uint32_t ap_ivf8_lists_for(size_t rows);
uint32_t ap_ivf8_probes_for(uint32_t lists);

#endif
