/* Turning vectors, all by the same random rotation, before they become 8-bit rows with sketches (sketch.h).
 *
 * Lengths, distances and inner products stay. What one component held is spread over all, so that no sign weighs more than
 * another, whatever the data: it is this that bounds a sketch's error (RaBitQ, Gao and Long, 2024). Two rounds of
 * Walsh-Hadamard transforms, of the first and of the last power of two of the components, random signs before each, and a mixing
 * of both halves; the signs are fixed, since rows on disk are of turned vectors. */
#ifndef ANTIPODE_INDEXER_ROTATE_H
#define ANTIPODE_INDEXER_ROTATE_H
#include <stdint.h>

/* In place. Vectors that are too short for sketches stay as they are. */
void ap_rotate(float *vector, uint32_t dim);

#endif
