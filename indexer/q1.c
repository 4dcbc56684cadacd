/* A score is <c,q> + factor * (2 S - Q), S the sum of the query's integers where bits are set, Q of all. For distances, with
 * x = c + r: |x-q|^2 = |c-q|^2 + |r|^2 + 2<c,r> - 2<r,q>. norm2 holds |r|^2 + 2<c,r>, and scale twice the factor, so both are
 * base + scale * (2 S - Q) - norm2. */
#include "indexer/q1.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

void ap_q1_encode(const uint8_t *row, const struct ap_q8_meta *row_meta, const uint8_t *centroid, const struct ap_q8_meta *centroid_meta,
                  uint32_t dim, enum ap_distance distance, float *room, uint64_t *bits, struct ap_q8_meta *meta)
{
    double norm2 = 0, with_centroid = 0, sum = 0;
    float *c = room + dim;
    ap_q8_decode(row, row_meta, dim, room);
    ap_q8_decode(centroid, centroid_meta, dim, c);
    memset(bits, 0, ap_sketch_words(dim) * sizeof *bits);
    for (uint32_t i = 0; i < dim; i++) {
        double r = (double)room[i] - (double)c[i];
        norm2 += r * r;
        with_centroid += r * (double)c[i];
        sum += fabs(r);
        bits[i / 64] |= (uint64_t)(r > 0) << (i % 64);
    }
    double factor = sum > 0 ? norm2 / sum : 0;
    bool euclid = distance == AP_EUCLID;
    meta->scale = (float)(euclid ? 2 * factor : factor);
    meta->norm2 = euclid ? (float)(norm2 + 2 * with_centroid) : 0;
}

static int32_t sum_plain(const int8_t *q, const uint64_t *bits, size_t words)
{
    int32_t sum = 0;
    for (size_t i = 0; i < words; i++)
        for (uint64_t left = bits[i]; left; left &= left - 1)
            sum += q[i * 64 + (size_t)__builtin_ctzll(left)];
    return sum;
}

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

AVX512 static int32_t sum_vnni(const int8_t *q, const uint64_t *bits, size_t words)
{
    const __m512i one = _mm512_set1_epi8(1);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < words; i++)
        sum = _mm512_dpbusd_epi32(sum, one, _mm512_maskz_loadu_epi8(bits[i], q + i * 64));
    return _mm512_reduce_add_epi32(sum);
}

/* Four rows that follow each other, as in q8.c. */
AVX512 static void sums4_vnni(const int8_t *q, const uint64_t *bits, size_t words, int32_t out[4])
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
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    _mm_storeu_si128((__m128i *)(void *)out, _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1)));
}
#endif

int32_t ap_q1_sum(const struct ap_q8_query *query, const uint64_t *bits, uint32_t dim, bool plain)
{
#if defined(__x86_64__)
    if (!plain && ap_sketch_pays())
        return sum_vnni(query->q, bits, ap_sketch_words(dim));
#endif
    (void)plain;
    return sum_plain(query->q, bits, ap_sketch_words(dim));
}

static float score(const struct ap_q8_query *query, float base, const struct ap_q8_meta *meta, int32_t sum)
{
    return base + meta->scale * query->scale * (float)(2 * sum - query->sum) - meta->norm2;
}

void ap_q1_scores(const struct ap_q8_query *query, float base, const uint64_t *bits, const struct ap_q8_meta *meta, uint32_t dim, size_t n, float *scores)
{
    size_t words = ap_sketch_words(dim), i = 0;
#if defined(__x86_64__)
    for (int32_t sums[4]; ap_sketch_pays() && i + 4 <= n; i += 4) {
        sums4_vnni(query->q, bits + i * words, words, sums);
        for (size_t j = 0; j < 4; j++)
            scores[i + j] = score(query, base, &meta[i + j], sums[j]);
    }
#endif
    for (; i < n; i++)
        scores[i] = score(query, base, &meta[i], ap_q1_sum(query, bits + i * words, dim, false));
}

void ap_q1_scores_at(const struct ap_q8_query *query, const float *bases, const uint64_t *bits, const struct ap_q8_meta *meta, uint32_t dim,
                     const uint32_t *ordinals, size_t n, float *scores)
{
    enum { AHEAD = 8 };
    size_t words = ap_sketch_words(dim);
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD < n) {
            __builtin_prefetch(bits + ordinals[i + AHEAD] * words);
            __builtin_prefetch(&meta[ordinals[i + AHEAD]]);
        }
        scores[i] = score(query, bases[i], &meta[ordinals[i]], ap_q1_sum(query, bits + ordinals[i] * words, dim, false));
    }
}
