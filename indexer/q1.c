/* A score is <c,q> + factor * (2 S - Q), S the sum of the query's integers where bits are set, Q of all. For distances, with
 * x = c + r: |x-q|^2 = |c-q|^2 + |r|^2 + 2<c,r> - 2<r,q>. norm2 holds |r|^2 + 2<c,r>, and scale twice the factor, so both are
 * base + scale * (2 S - Q) - norm2. */
#include "indexer/q1.h"

#include <math.h>
#include <string.h>
#include "indexer/bits.h"

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

int32_t ap_q1_sum(const struct ap_q8_query *query, const uint64_t *bits, uint32_t dim, bool plain)
{
#if defined(__x86_64__)
    if (!plain && ap_sketch_pays())
        return ap_bits_sum_vnni(bits, query->q, ap_sketch_words(dim));
#endif
    (void)plain;
    return ap_bits_sum(bits, query->q, ap_sketch_words(dim));
}

static float score(const struct ap_q8_query *query, float base, const struct ap_q8_meta *meta, int32_t sum)
{
    return base + meta->scale * query->scale * (float)(2 * sum - query->sum) - meta->norm2;
}

#if defined(__x86_64__)
/* ap_q1_scores of the first rows, four at a time; returns of how many. */
AP_BITS_AVX512 static size_t scores_vnni(const struct ap_q8_query *query, float base, const uint64_t *bits, const struct ap_q8_meta *meta, size_t words, size_t n, float *scores)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        int32_t sums[4];
        _mm_storeu_si128((__m128i *)(void *)sums, ap_bits_sum4_vnni(bits + i * words, query->q, words));
        for (size_t j = 0; j < 4; j++)
            scores[i + j] = score(query, base, &meta[i + j], sums[j]);
    }
    return i;
}
#endif

void ap_q1_scores(const struct ap_q8_query *query, float base, const uint64_t *bits, const struct ap_q8_meta *meta, uint32_t dim, size_t n, float *scores)
{
    size_t words = ap_sketch_words(dim), i = 0;
#if defined(__x86_64__)
    if (ap_sketch_pays())
        i = scores_vnni(query, base, bits, meta, words, n, scores);
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
