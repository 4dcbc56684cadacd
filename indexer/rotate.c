/* Up to 256 components are transformed in registers, more of them block by block and then across. */
#include "indexer/rotate.h"

#include <math.h>
#include <stddef.h>
#include "indexer/sketch.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ROUNDS 2

/* 64 signs (SplitMix64, Steele, Lea and Flood, 2014). */
static uint64_t signs_of(uint32_t round, uint32_t word)
{
    uint64_t z = ((uint64_t)round << 32 | word) * UINT64_C(0x9e3779b97f4a7c15) + UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Signs, then the transform; n: a power of two, 64 at least. */
static void transform_plain(float *v, uint32_t n, uint32_t round)
{
    float by = 1 / sqrtf((float)n);
    for (uint32_t i = 0; i < n; i++)
        v[i] = signs_of(round, i / 64) >> (i % 64) & 1 ? -v[i] : v[i];
    for (uint32_t h = 1; h < n; h *= 2)
        for (uint32_t i = 0; i < n; i += 2 * h)
            for (uint32_t j = i; j < i + h; j++) {
                float a = v[j], b = v[j + h];
                v[j] = a + b;
                v[j + h] = a - b;
            }
    for (uint32_t i = 0; i < n; i++)
        v[i] *= by;
}

/* The two halves with each other; what is odd stays. */
static void mix_plain(float *v, uint32_t dim)
{
    uint32_t half = dim / 2;
    const float by = (float)M_SQRT1_2;
    for (uint32_t i = 0; i < half; i++) {
        float a = v[i], b = v[dim - half + i];
        v[i] = (a + b) * by;
        v[dim - half + i] = (a - b) * by;
    }
}

static void rotate_plain(float *v, uint32_t dim, uint32_t part)
{
    for (uint32_t round = 0; round < 2 * ROUNDS; round += 2) {
        transform_plain(v, part, round);
        if (part < dim) {
            transform_plain(v + dim - part, part, round + 1);
            mix_plain(v, dim);
        }
    }
}

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

/* A run of 16 within itself: each lane with the one whose number differs in one bit. */
AVX512 static inline __m512 within(__m512 x)
{
    __m512 y = _mm512_shuffle_f32x4(x, x, 0x4e);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xff00, y, x);
    y = _mm512_shuffle_f32x4(x, x, 0xb1);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xf0f0, y, x);
    y = _mm512_permute_ps(x, 0x4e);
    x = _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xcccc, y, x);
    y = _mm512_permute_ps(x, 0xb1);
    return _mm512_mask_sub_ps(_mm512_add_ps(x, y), 0xaaaa, y, x);
}

/* `runs` runs of 16 with each other and within themselves, all in registers; their signs begin at word. */
#define REGISTERS(NAME, RUNS)                                                                                                     \
    AVX512 static void NAME(float *v, uint32_t round, uint32_t word, float scale)                                                  \
    {                                                                                                                             \
        const __m512 minus = _mm512_set1_ps(-0.0f), by = _mm512_set1_ps(scale);                                                    \
        __m512 r[RUNS];                                                                                                           \
        _Pragma("GCC unroll 16") for (uint32_t i = 0; i < (RUNS); i++) {                                                           \
            __mmask16 signs = (__mmask16)(signs_of(round, word + i / 4) >> (i % 4 * 16));                                          \
            __m512 x = _mm512_loadu_ps(v + i * 16);                                                                               \
            r[i] = within(_mm512_mask_xor_ps(x, signs, x, minus));                                                                \
        }                                                                                                                         \
        _Pragma("GCC unroll 4") for (uint32_t h = 1; h < (RUNS); h *= 2)                                                           \
            _Pragma("GCC unroll 16") for (uint32_t i = 0; i < (RUNS); i++)                                                         \
                if ((i & h) == 0) {                                                                                               \
                    __m512 a = r[i], b = r[i + h];                                                                                \
                    r[i] = _mm512_add_ps(a, b);                                                                                   \
                    r[i + h] = _mm512_sub_ps(a, b);                                                                               \
                }                                                                                                                 \
        _Pragma("GCC unroll 16") for (uint32_t i = 0; i < (RUNS); i++) _mm512_storeu_ps(v + i * 16, _mm512_mul_ps(r[i], by));      \
    }
REGISTERS(transform_64, 4)
REGISTERS(transform_128, 8)
REGISTERS(transform_256, 16)

AVX512 static void transform_avx512(float *v, uint32_t n, uint32_t round)
{
    float by = 1 / sqrtf((float)n);
    if (n < 256) {
        (n == 64 ? transform_64 : transform_128)(v, round, 0, by);
        return;
    }
    for (uint32_t i = 0; i < n; i += 256)
        transform_256(v + i, round, i / 64, by);
    for (uint32_t h = 256; h < n; h *= 2)
        for (uint32_t i = 0; i < n; i += 2 * h)
            for (uint32_t j = i; j < i + h; j += 16) {
                __m512 a = _mm512_loadu_ps(v + j), b = _mm512_loadu_ps(v + j + h);
                _mm512_storeu_ps(v + j, _mm512_add_ps(a, b));
                _mm512_storeu_ps(v + j + h, _mm512_sub_ps(a, b));
            }
}

AVX512 static void mix_avx512(float *v, uint32_t dim)
{
    uint32_t half = dim / 2;
    const __m512 by = _mm512_set1_ps((float)M_SQRT1_2);
    for (uint32_t i = 0; i < half; i += 16) {
        uint32_t left = half - i, bits = left < 16 ? (1u << left) - 1 : 0xffff;
        __mmask16 here = (__mmask16)bits;
        __m512 a = _mm512_maskz_loadu_ps(here, v + i), b = _mm512_maskz_loadu_ps(here, v + dim - half + i);
        _mm512_mask_storeu_ps(v + i, here, _mm512_mul_ps(_mm512_add_ps(a, b), by));
        _mm512_mask_storeu_ps(v + dim - half + i, here, _mm512_mul_ps(_mm512_sub_ps(a, b), by));
    }
}

static void rotate_avx512(float *v, uint32_t dim, uint32_t part)
{
    for (uint32_t round = 0; round < 2 * ROUNDS; round += 2) {
        transform_avx512(v, part, round);
        if (part < dim) {
            transform_avx512(v + dim - part, part, round + 1);
            mix_avx512(v, dim);
        }
    }
}
#endif

void ap_rotate(float *vector, uint32_t dim)
{
    uint32_t part = 1;
    if (ap_sketch_words(dim) == 0)
        return;
    while (part <= dim / 2)
        part *= 2;
#if defined(__x86_64__)
    if (ap_sketch_pays()) {
        rotate_avx512(vector, dim, part);
        return;
    }
#endif
    rotate_plain(vector, dim, part);
}
