/* The sum over the signs is twice the query's components under set bits minus all of them. */
#include "indexer/sketch.h"

#include <math.h>
#include <string.h>
#include "indexer/bits.h"

#define SLACK 1.2056f /* 2 * sqrt(1 - 2 / pi) */

bool ap_sketch_pays(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
    return false;
#endif
}

static float factor_of(int64_t squares, int64_t absolute, float scale)
{
    return absolute ? scale * (float)squares / (float)absolute : 0;
}

static void sketch_plain(const uint8_t *row, float scale, size_t words, uint64_t *bits, float *factor)
{
    int64_t squares = 0, absolute = 0;
    memset(bits, 0, words * sizeof *bits);
    for (size_t i = 0; i < words * 64; i++) {
        int v = (int)row[i] - 128;
        bits[i / 64] |= (uint64_t)(v >= 0) << (i % 64);
        squares += v * v;
        absolute += v < 0 ? -v : v;
    }
    *factor = factor_of(squares, absolute, scale);
}

static float bound(enum ap_distance distance, float factor, float product, float slack, float norm2, float own)
{
    float most = factor * (product + slack);
    return distance == AP_EUCLID ? 2 * most - norm2 - own : most;
}

#if defined(__x86_64__)
AP_BITS_AVX512 static void sketch_avx512(const uint8_t *row, float scale, size_t words, uint64_t *bits, float *factor)
{
    const __m512i top = _mm512_set1_epi8((char)0x80), one = _mm512_set1_epi8(1);
    __m512i squares = _mm512_setzero_si512(), absolute = squares;
    for (size_t i = 0; i < words; i++) {
        __m512i x = _mm512_loadu_si512(row + i * 64), a = _mm512_abs_epi8(_mm512_xor_si512(x, top));
        bits[i] = _mm512_movepi8_mask(x);
        squares = _mm512_dpbusd_epi32(squares, a, a);
        absolute = _mm512_dpbusd_epi32(absolute, a, one);
    }
    *factor = factor_of(_mm512_reduce_add_epi32(squares), _mm512_reduce_add_epi32(absolute), scale);
}

/* ap_sketch_pass, four rows at a time and what is left one by one. */
AP_BITS_AVX512 static size_t pass_avx512(const struct ap_q8_query *query, enum ap_distance distance, const uint64_t *bits, const float *factors,
                                         const struct ap_q8_meta *meta, size_t words, size_t n, float least, uint32_t first, uint32_t *out)
{
    const float slack = SLACK * sqrtf(query->norm2);
    const __m128i sum = _mm_set1_epi32(query->sum);
    const __m128 scale = _mm_set1_ps(query->scale), slacks = _mm_set1_ps(slack), own = _mm_set1_ps(query->norm2), limit = _mm_set1_ps(least);
    size_t found = 0, i = 0;
    for (; i + 4 <= n; i += 4) {
        __m128i under = ap_bits_sum4_vnni(bits + i * words, query->q, words);
        __m128 product = _mm_mul_ps(_mm_cvtepi32_ps(_mm_sub_epi32(_mm_add_epi32(under, under), sum)), scale);
        __m128 most = _mm_mul_ps(_mm_loadu_ps(factors + i), _mm_add_ps(product, slacks));
        if (distance == AP_EUCLID) {
            __m256 m = _mm256_loadu_ps((const float *)(const void *)(meta + i)); /* scale, norm2 of each */
            __m128 norms = _mm_shuffle_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1), 0xdd);
            most = _mm_sub_ps(_mm_sub_ps(_mm_add_ps(most, most), norms), own);
        }
        for (unsigned left = _mm_cmp_ps_mask(most, limit, _CMP_GT_OQ); left; left &= left - 1)
            out[found++] = first + (uint32_t)i + (uint32_t)__builtin_ctz(left);
    }
    for (; i < n; i++) {
        float product = (float)(2 * ap_bits_sum_vnni(bits + i * words, query->q, words) - query->sum) * query->scale;
        if (bound(distance, factors[i], product, slack, meta[i].norm2, query->norm2) > least)
            out[found++] = first + (uint32_t)i;
    }
    return found;
}
#endif

void ap_sketch_of(const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, uint64_t *bits, float *factor)
{
#if defined(__x86_64__)
    if (ap_sketch_pays()) {
        sketch_avx512(row, meta->scale, ap_sketch_words(dim), bits, factor);
        return;
    }
#endif
    sketch_plain(row, meta->scale, ap_sketch_words(dim), bits, factor);
}

size_t ap_sketch_pass(const struct ap_q8_query *query, enum ap_distance distance, const uint64_t *bits, const float *factors,
                      const struct ap_q8_meta *meta, uint32_t dim, size_t n, float least, uint32_t first, uint32_t *out)
{
    size_t words = ap_sketch_words(dim), found = 0;
#if defined(__x86_64__)
    if (ap_sketch_pays())
        return pass_avx512(query, distance, bits, factors, meta, words, n, least, first, out);
#endif
    float slack = SLACK * sqrtf(query->norm2);
    for (size_t i = 0; i < n; i++) {
        float product = (float)(2 * ap_bits_sum(bits + i * words, query->q, words) - query->sum) * query->scale;
        if (bound(distance, factors[i], product, slack, meta[i].norm2, query->norm2) > least)
            out[found++] = first + (uint32_t)i;
    }
    return found;
}
