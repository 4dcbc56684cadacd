/* Vectors for tests: the committed sample of real embeddings, and clustered ones made from a seed. */
#ifndef ANTIPODE_TESTS_VECTORS_H
#define ANTIPODE_TESTS_VECTORS_H
#include <stddef.h>
#include <stdint.h>

/* tests/data/debian-4k.f16.npy as float32; malloc'ed. Fails the test when it cannot be read. */
float *test_embeddings(size_t *rows, size_t *dim);
/* A Gaussian mixture of 64 clusters; unit length when unit. malloc'ed. */
float *test_clustered(size_t rows, size_t dim, uint64_t seed, int unit);

/* splitmix64, and a float in [0, 1). */
uint64_t test_random(uint64_t *state);
float test_uniform(uint64_t *state);

#endif
