/* The kernels: AVX-512 with VNNI, AVX2, and plain C for the rest; chosen once by what the CPU has. */
#include "indexer/q8.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static float largest(const float *v, uint32_t dim, float *norm2)
{
    float most = 0;
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++) {
        float a = fabsf(v[i]);
        most = a > most ? a : most;
        sum += (double)v[i] * (double)v[i];
    }
    *norm2 = (float)sum;
    return most;
}

static int rounded(float v, float inverse)
{
    int n = (int)lrintf(v * inverse);
    return n < -127 ? -127 : n > 127 ? 127 : n;
}

void ap_q8_encode(const float *vector, uint32_t dim, uint8_t *out, struct ap_q8_meta *meta)
{
    float most = largest(vector, dim, &meta->norm2);
    meta->scale = most / 127;
    float inverse = most > 0 ? 127 / most : 0;
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (uint8_t)(rounded(vector[i], inverse) + 128);
    memset(out + dim, 128, ap_q8_stride(dim) - dim);
}

void ap_q8_query_init(struct ap_q8_query *query, const float *vector, uint32_t dim, int8_t *room)
{
    float most = largest(vector, dim, &query->norm2);
    query->q = room;
    query->scale = most / 127;
    query->sum = 0;
    float inverse = most > 0 ? 127 / most : 0;
    for (uint32_t i = 0; i < dim; i++) {
        room[i] = (int8_t)rounded(vector[i], inverse);
        query->sum += room[i];
    }
    memset(room + dim, 0, ap_q8_stride(dim) - dim);
}

/* Sum of row[i] * q[i], row biased by 128. At most 65,536 * 255 * 127, which 31 bits hold. */
typedef int32_t (*dot_fn)(const uint8_t *row, const int8_t *q, size_t stride);

static int32_t dot_plain(const uint8_t *row, const int8_t *q, size_t stride)
{
    int32_t sum = 0;
    for (size_t i = 0; i < stride; i++)
        sum += (int32_t)row[i] * q[i];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static int32_t dot_vnni(const uint8_t *row, const int8_t *q, size_t stride)
{
    __m512i a = _mm512_setzero_si512(), b = _mm512_setzero_si512();
    size_t i = 0;
    for (; i + 128 <= stride; i += 128) {
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row + i), _mm512_loadu_si512(q + i));
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(row + i + 64), _mm512_loadu_si512(q + i + 64));
    }
    if (i < stride)
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row + i), _mm512_loadu_si512(q + i));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
}

__attribute__((target("avx2"))) static int32_t dot_avx2(const uint8_t *row, const int8_t *q, size_t stride)
{
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < stride; i += 16) {
        __m256i r = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(row + i)));
        __m256i s = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(q + i)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(r, s));
    }
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}
#endif

static dot_fn choose(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return dot_vnni;
    if (__builtin_cpu_supports("avx2"))
        return dot_avx2;
#endif
    return dot_plain;
}

void ap_q8_scores(const struct ap_q8_query *query, enum ap_distance distance, const uint8_t *rows, const struct ap_q8_meta *meta,
                  uint32_t dim, size_t n, float *scores)
{
    size_t stride = ap_q8_stride(dim);
    int64_t bias = (int64_t)128 * query->sum;
    dot_fn dot = choose();
    for (size_t i = 0; i < n; i++) {
        float product = (float)((int64_t)dot(rows + i * stride, query->q, stride) - bias) * query->scale * meta[i].scale;
        scores[i] = distance == AP_EUCLID ? 2 * product - meta[i].norm2 - query->norm2 : product;
    }
}

void ap_q8_scores_at(const struct ap_q8_query *query, enum ap_distance distance, const uint8_t *rows, const struct ap_q8_meta *meta,
                     uint32_t dim, const uint32_t *ordinals, size_t n, float *scores)
{
    enum { AHEAD = 6, NEAR = 4 };
    size_t stride = ap_q8_stride(dim);
    int64_t bias = (int64_t)128 * query->sum;
    dot_fn dot = choose();
    for (size_t i = 0; i < n; i++) {
        /* Rows close to each other the CPU fetches ahead by itself, and better. */
        if (i + AHEAD < n && ordinals[i + AHEAD] - ordinals[i] > NEAR * AHEAD) {
            const uint8_t *next = rows + ordinals[i + AHEAD] * stride;
            for (size_t at = 0; at < stride && at < 512; at += 64) /* the CPU fetches the rest of a longer one by itself */
                __builtin_prefetch(next + at);
            __builtin_prefetch(&meta[ordinals[i + AHEAD]]);
        }
        const struct ap_q8_meta *m = &meta[ordinals[i]];
        float product = (float)((int64_t)dot(rows + ordinals[i] * stride, query->q, stride) - bias) * query->scale * m->scale;
        scores[i] = distance == AP_EUCLID ? 2 * product - m->norm2 - query->norm2 : product;
    }
}
