/* The kernels: AVX-512 with VNNI, AVX2, and plain C for the rest; chosen once by what the CPU has. */
#include "indexer/q8.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include "indexer/bits.h"

static float largest_plain(const float *v, uint32_t dim, float *norm2)
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

static void round_plain(const float *v, uint32_t dim, float inverse, int8_t *out)
{
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (int8_t)rounded(v[i], inverse);
}

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

/* One bit for each of the next 16 numbers, as far as there are. */
static inline __mmask16 first(uint32_t left)
{
    uint32_t bits = left < 16 ? (1u << left) - 1 : 0xffff;
    return (__mmask16)bits;
}

AVX512 static float largest_avx512(const float *v, uint32_t dim, float *norm2)
{
    __m512 most = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
    for (uint32_t i = 0; i < dim; i += 16) {
        __m512 x = _mm512_maskz_loadu_ps(first(dim - i), v + i);
        most = _mm512_max_ps(most, _mm512_abs_ps(x));
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    *norm2 = _mm512_reduce_add_ps(sum);
    return _mm512_reduce_max_ps(most);
}

AVX512 static void round_avx512(const float *v, uint32_t dim, float inverse, int8_t *out)
{
    const __m512 by = _mm512_set1_ps(inverse);
    const __m512i least = _mm512_set1_epi32(-127);
    for (uint32_t i = 0; i < dim; i += 16) {
        __mmask16 m = first(dim - i);
        __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(m, v + i), by));
        _mm_mask_storeu_epi8(out + i, m, _mm512_cvtsepi32_epi8(_mm512_max_epi32(n, least)));
    }
}
#endif

/* Chosen once by what the CPU has. */
static bool has_avx512(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

/* out: dim integers from -127 to 127; returns their scale. */
static float quantize(const float *v, uint32_t dim, float *norm2, int8_t *out)
{
#if defined(__x86_64__)
    if (has_avx512()) {
        float most = largest_avx512(v, dim, norm2);
        round_avx512(v, dim, most > 0 ? 127 / most : 0, out);
        return most / 127;
    }
#endif
    float most = largest_plain(v, dim, norm2);
    round_plain(v, dim, most > 0 ? 127 / most : 0, out);
    return most / 127;
}

/* Between a row's bytes and signed integers: the difference of 128 is the top bit. */
static void flip(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] ^= 0x80;
}

void ap_q8_encode(const float *vector, uint32_t dim, uint8_t *out, struct ap_q8_meta *meta)
{
    meta->scale = quantize(vector, dim, &meta->norm2, (int8_t *)out);
    flip(out, dim);
    memset(out + dim, 128, ap_q8_stride(dim) - dim);
}

void ap_q8_decode(const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, float *out)
{
    for (uint32_t i = 0; i < dim; i++)
        out[i] = (float)((int)row[i] - 128) * meta->scale;
}

static void finish_query(struct ap_q8_query *query, uint32_t dim, int8_t *room)
{
    query->q = room;
    query->sum = 0;
    memset(room + dim, 0, ap_q8_stride(dim) - dim);
    for (uint32_t i = 0; i < dim; i++)
        query->sum += room[i];
}

void ap_q8_query_init(struct ap_q8_query *query, const float *vector, uint32_t dim, int8_t *room)
{
    query->scale = quantize(vector, dim, &query->norm2, room);
    finish_query(query, dim, room);
}

void ap_q8_query_of_row(struct ap_q8_query *query, const uint8_t *row, const struct ap_q8_meta *meta, uint32_t dim, int8_t *room)
{
    memcpy(room, row, dim);
    flip((uint8_t *)room, dim);
    query->scale = meta->scale;
    query->norm2 = meta->norm2;
    finish_query(query, dim, room);
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
AVX512 static int32_t dot_vnni(const uint8_t *row, const int8_t *q, size_t stride)
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

/* Four rows that follow each other: the query's bytes are loaded once, and the sums are added up together. */
AVX512 static __m128i dots4_vnni(const uint8_t *row, const int8_t *q, size_t stride)
{
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < stride; i += 64) {
        __m512i x = _mm512_loadu_si512(q + i);
        a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row + i), x);
        b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(row + stride + i), x);
        c = _mm512_dpbusd_epi32(c, _mm512_loadu_si512(row + 2 * stride + i), x);
        d = _mm512_dpbusd_epi32(d, _mm512_loadu_si512(row + 3 * stride + i), x);
    }
    return ap_add_up4(a, b, c, d);
}

/* ap_q8_scores of the first n rows, n a multiple of 4. */
AVX512 static void scores_vnni(const struct ap_q8_query *query, enum ap_distance distance, const uint8_t *rows, const struct ap_q8_meta *meta,
                               size_t stride, size_t n, float *scores)
{
    const __m128i bias = _mm_set1_epi32(128 * query->sum);
    const __m128 scale = _mm_set1_ps(query->scale), own = _mm_set1_ps(query->norm2);
    for (size_t i = 0; i < n; i += 4) {
        __m128i dots = dots4_vnni(rows + i * stride, query->q, stride);
        __m256 m = _mm256_loadu_ps((const float *)(const void *)(meta + i)); /* scale, norm2 of each */
        __m128 low = _mm256_castps256_ps128(m), high = _mm256_extractf128_ps(m, 1);
        __m128 scales = _mm_shuffle_ps(low, high, 0x88);
        __m128 product = _mm_mul_ps(_mm_mul_ps(_mm_cvtepi32_ps(_mm_sub_epi32(dots, bias)), scale), scales);
        if (distance == AP_EUCLID)
            product = _mm_sub_ps(_mm_sub_ps(_mm_add_ps(product, product), _mm_shuffle_ps(low, high, 0xdd)), own);
        _mm_storeu_ps(scores + i, product);
    }
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
    if (has_avx512())
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
    size_t i = 0;
#if defined(__x86_64__)
    if (has_avx512()) {
        i = n & ~(size_t)3;
        scores_vnni(query, distance, rows, meta, stride, i, scores);
    }
#endif
    for (; i < n; i++) {
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
