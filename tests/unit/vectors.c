#include "vectors.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"

uint64_t test_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

float test_uniform(uint64_t *state)
{
    return (float)(test_random(state) >> 40) * 0x1p-24f;
}

static float gauss(uint64_t *state)
{
    float u = test_uniform(state) + 0x1p-25f, v = test_uniform(state);
    return sqrtf(-2 * logf(u)) * cosf(6.2831853f * v);
}

static float half(uint16_t h)
{
    uint32_t exp = (h >> 10) & 31, man = h & 1023;
    float v = exp == 0 ? ldexpf((float)man, -24) : ldexpf((float)(man | 1024), (int)exp - 25);
    return h & 0x8000 ? -v : v;
}

float *test_embeddings(size_t *rows, size_t *dim)
{
    const char *path = ANTIPODE_SOURCE_DIR "/tests/data/debian-4k.f16.npy";
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s is missing", path);
    uint8_t head[10];
    ck_assert(fread(head, 1, sizeof head, f) == sizeof head);
    char text[1024] = {0};
    size_t len = ap_le16(head + 8);
    ck_assert(len < sizeof text && fread(text, 1, len, f) == len);
    const char *shape = strstr(text, "'shape': (");
    ck_assert(strstr(text, "<f2") && shape && sscanf(shape, "'shape': (%zu, %zu)", rows, dim) == 2);
    float *out = malloc(*rows * *dim * sizeof *out);
    uint16_t *line = malloc(*dim * sizeof *line);
    for (size_t i = 0; i < *rows; i++) {
        ck_assert(fread(line, 2, *dim, f) == *dim);
        for (size_t j = 0; j < *dim; j++)
            out[i * *dim + j] = half(line[j]);
    }
    free(line);
    fclose(f);
    return out;
}

float *test_clustered(size_t rows, size_t dim, uint64_t seed, int unit)
{
    enum { CLUSTERS = 64 };
    float *centers = malloc(CLUSTERS * dim * sizeof *centers);
    float *out = malloc(rows * dim * sizeof *out);
    uint64_t shape = 1; /* the same clusters whatever the seed: queries belong to the same mixture */
    for (size_t i = 0; i < CLUSTERS * dim; i++)
        centers[i] = gauss(&shape);
    for (size_t i = 0; i < rows; i++) {
        const float *center = centers + (test_random(&seed) % CLUSTERS) * dim;
        double sum = 0;
        for (size_t j = 0; j < dim; j++) {
            float v = center[j] + 0.5f * gauss(&seed);
            out[i * dim + j] = v;
            sum += (double)v * (double)v;
        }
        for (size_t j = 0; unit && j < dim; j++)
            out[i * dim + j] = (float)(out[i * dim + j] / sqrt(sum));
    }
    free(centers);
    return out;
}
