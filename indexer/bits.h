/* Sums of a query's integers under set bits, for rows of one bit a component (sketch.h, q1.h). VNNI adds 64 at once, masked. */
#ifndef ANTIPODE_INDEXER_BITS_H
#define ANTIPODE_INDEXER_BITS_H
#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* Of one row of `words` words; q has 64 integers a word. */
static inline int32_t ap_bits_sum(const uint64_t *bits, const int8_t *q, size_t words)
{
    int32_t sum = 0;
    for (size_t i = 0; i < words; i++)
        for (uint64_t left = bits[i]; left; left &= left - 1)
            sum += q[i * 64 + (size_t)__builtin_ctzll(left)];
    return sum;
}

#if defined(__x86_64__)
#define AP_BITS_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

/* The sums of the sixteen integers of each. */
__attribute__((target("avx512f,avx512vl"))) static inline __m128i ap_add_up4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

AP_BITS_AVX512 static inline int32_t ap_bits_sum_vnni(const uint64_t *bits, const int8_t *q, size_t words)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < words; i++)
        sum = _mm512_dpbusd_epi32(sum, one, _mm512_maskz_loadu_epi8(bits[i], q + i * 64));
    return _mm512_reduce_add_epi32(sum);
}

/* Of four rows that follow each other: the query's bytes are loaded once, and the sums are added up together. */
AP_BITS_AVX512 static inline __m128i ap_bits_sum4_vnni(const uint64_t *bits, const int8_t *q, size_t words)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < words; i++) {
        __m512i x = _mm512_loadu_si512(q + i * 64);
        a = _mm512_dpbusd_epi32(a, one, _mm512_maskz_mov_epi8(bits[i], x));
        b = _mm512_dpbusd_epi32(b, one, _mm512_maskz_mov_epi8(bits[words + i], x));
        c = _mm512_dpbusd_epi32(c, one, _mm512_maskz_mov_epi8(bits[2 * words + i], x));
        d = _mm512_dpbusd_epi32(d, one, _mm512_maskz_mov_epi8(bits[3 * words + i], x));
    }
    return ap_add_up4(a, b, c, d);
}
#endif

#endif
