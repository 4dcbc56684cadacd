/* Codecs and sealed structures: round trips, what is refused, what is found. */
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/ann.h"
#include "vectors.h"
#include "run.h"

static double mean_error(const float *a, const float *b, size_t n)
{
    double sum = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
        norm += (double)a[i] * (double)a[i];
    }
    return sum / norm;
}

static struct ap_codec *train(const char *factory, uint32_t dim, const float *x, size_t n)
{
    struct ap_err err = {0};
    struct ap_codec *c = NULL;
    int rc = ap_codec_train(factory, dim, x, n, 1, &c, &err);
    ck_assert_msg(rc == 0, "%s: %s", factory, err.msg);
    return c;
}

/* ---- codecs ---- */

/* Which centroid of a subspace is nearest, however far from the origin all of them are. */
START_TEST(pq_takes_the_nearest_centroids)
{
    enum { ROWS = 1500, DIM = 64 };
    static const struct { const char *factory; size_t parts; float offset; } cases[] = {{"PQ8", 8, 0}, {"PQ16", 16, 0}, {"PQ32", 32, 0}, {"PQ8", 8, 300}, {"PQ4", 4, 0}};
    size_t parts = cases[_i].parts, width = DIM / parts;
    float *x = test_clustered(ROWS, DIM, 21, 1), *back = malloc(256 * DIM * sizeof *back);
    uint8_t *codes = malloc(ROWS * parts), *all = malloc(256 * parts);
    for (size_t i = 0; i < (size_t)ROWS * DIM; i++)
        x[i] += cases[_i].offset;
    struct ap_codec *c = train(cases[_i].factory, DIM, x, ROWS);
    for (size_t i = 0; i < 256 * parts; i++)
        all[i] = (uint8_t)(i / parts);
    ck_assert_int_eq(ap_codec_decode(c, 256, all, back, NULL), 0);
    ck_assert_int_eq(ap_codec_encode(c, ROWS, x, codes, NULL), 0);
    for (size_t i = 0; i < (size_t)ROWS * parts; i++) {
        const float *v = x + i / parts * DIM + i % parts * width;
        double least = INFINITY, taken = 0;
        for (size_t k = 0; k < 256; k++) {
            double sum = 0;
            for (size_t j = 0; j < width; j++) {
                double d = (double)v[j] - (double)back[k * DIM + i % parts * width + j];
                sum += d * d;
            }
            least = sum < least ? sum : least;
            taken = codes[i] == k ? sum : taken;
        }
        ck_assert_msg(taken <= least * 1.001 + 1e-6, "%s: %g taken, %g is nearer", cases[_i].factory, taken, least);
    }
    ap_codec_unref(&c);
    free(x);
    free(back);
    free(codes);
    free(all);
}
END_TEST

static const struct { const char *factory; size_t bytes; double error; } round_trips[] = {
    {"PQ16", 16, 0.2},        {"PQ16x6", 12, 0.3},   {"OPQ16,PQ16", 16, 0.2}, {"SQ8", 64, 0.001},  {"SQ4", 32, 0.02},
    {"SQfp16", 128, 1e-5},    {"Flat", 256, 0},      {"RaBitQ", 16, 0.6},     {"RQ4x6", 3, 0.5},   {"IVF256,PQ16", 17, 0.2},
    {"Residual256,PQ16", 17, 0.2}, {"L2norm,SQ8", 64, 0.001}, {"PQ16x4fs", 8, 0.4},
    {"PCA32,SQ8", 32, 0.5},   {"PCAR32,PQ8", 8, 0.6}, {"RR64,SQ4", 32, 0.02},  {"Pad80,PQ16", 16, 0.3},  {"SQ6", 48, 0.01},
    {"PRQ2x2x5", 3, 0.6},     {"IVF256,SQ8", 65, 0.01}, {"SQbf16", 128, 1e-4},
    {"TCQ16", 16, 0.15},      {"TCQ16x9", 16, 0.15},   {"TCQ16x10", 16, 0.15},  {"TCQ2", 2, 0.7},        {"TCQ49", 49, 0.002},
};

START_TEST(round_trip)
{
    size_t n = 2000;
    uint32_t dim = 64;
    float *x = test_clustered(n, dim, 7, 1);
    struct ap_err err = {0};
    ck_assert_msg(ap_codec_check(round_trips[_i].factory, dim, &err) == 0, "%s", err.msg);
    struct ap_codec *c = train(round_trips[_i].factory, dim, x, n);
    size_t size = ap_codec_code_size(c), len = 0;
    ck_assert_uint_eq(ap_codec_dim(c), dim);
    ck_assert_str_eq(ap_codec_factory(c), round_trips[_i].factory);
    if (round_trips[_i].bytes != 16 || round_trips[_i].factory[0] != 'R')
        ck_assert_uint_eq(size, round_trips[_i].bytes);
    uint8_t *codes = malloc(n * size), *again = malloc(n * size);
    float *back = malloc(n * dim * sizeof *back);
    ck_assert_int_eq(ap_codec_encode(c, n, x, codes, &err), 0);
    ck_assert_int_eq(ap_codec_decode(c, n, codes, back, &err), 0);
    ck_assert_msg(mean_error(x, back, n * dim) <= round_trips[_i].error, "%s: error %g", round_trips[_i].factory,
                  mean_error(x, back, n * dim));

    /* From its bytes: the same id, the same codes. */
    const uint8_t *bytes = ap_codec_bytes(c, &len);
    struct ap_codec *loaded = NULL;
    ck_assert_msg(ap_codec_load(round_trips[_i].factory, dim, bytes, len, &loaded, &err) == 0, "%s", err.msg);
    ck_assert(ap_codec_id(c) == ap_codec_id(loaded));
    ck_assert_uint_eq(ap_codec_id(c), ap_be64(ap_codec_hash(c)));
    ck_assert_int_eq(ap_codec_encode(loaded, n, x, again, &err), 0);
    ck_assert_mem_eq(codes, again, n * size);
    /* Any bytes are a code: they come from elsewhere. */
    memset(again, 0xff, size);
    ck_assert_int_eq(ap_codec_decode(loaded, 1, again, back, &err), 0);
    /* One at a time as all at once. */
    for (size_t i = 0; i < 20; i++)
        ck_assert_int_eq(ap_codec_encode(loaded, 1, x + i * dim, again + i * size, &err), 0);
    ck_assert_mem_eq(codes, again, 20 * size);
    ap_codec_unref(&c);
    ap_codec_unref(&loaded);
    ck_assert_ptr_null(c);
    free(codes);
    free(again);
    free(back);
    free(x);
}
END_TEST

START_TEST(same_vectors_same_codec)
{
    float *x = test_clustered(1000, 32, 3, 1);
    struct ap_codec *a = train("PQ8", 32, x, 1000), *b = train("PQ8", 32, x, 1000);
    ck_assert(ap_codec_id(a) == ap_codec_id(b));
    x[5] += 0.1f;
    struct ap_codec *c = train("PQ8", 32, x, 1000);
    ck_assert(ap_codec_id(a) != ap_codec_id(c));
    ap_codec_unref(&a);
    ap_codec_unref(&b);
    ap_codec_unref(&c);
    free(x);
}
END_TEST

START_TEST(default_factory)
{
    char text[32];
    size_t good, least;
    ap_codec_default(384, text, sizeof text);
    ck_assert_str_eq(text, "TCQ96");
    ck_assert_int_eq(ap_codec_check(text, 384, NULL), 0);
    ap_codec_training_size(text, 384, &good, &least);
    ck_assert_uint_eq(least, 256);
    ck_assert_uint_eq(good, 20000);
    ap_codec_default(102, text, sizeof text);
    ck_assert_str_eq(text, "TCQ26");
    /* Too few dimensions to share bits among; too many for a matrix of their squares. */
    ap_codec_default(8, text, sizeof text);
    ck_assert_str_eq(text, "SQ8");
    ap_codec_default(15, text, sizeof text);
    ck_assert_str_eq(text, "SQ8");
    ap_codec_default(16, text, sizeof text);
    ck_assert_str_eq(text, "TCQ4");
    ap_codec_default(16384, text, sizeof text);
    ck_assert_str_eq(text, "PQ4096");
    for (uint32_t dim = 1; dim <= 65536; dim += 1 + dim / 7) {
        ap_codec_default(dim, text, sizeof text);
        ck_assert_msg(ap_codec_check(text, dim, NULL) == 0, "%s for %u dimensions", text, dim);
    }
    ap_codec_training_size("PQ96", 384, &good, &least);
    ck_assert_uint_eq(least, 256);
    ck_assert_uint_eq(good, 10240);
    ap_codec_training_size("IVF1024,PQ8x4", 384, &good, &least);
    ck_assert_uint_eq(least, 1024);
}
END_TEST

static const char *const refused[] = {
    "", "nonsense", "PQ7", "PQ16x24", "PQ16x17", "HNSW32", "NSG16", "IVF256_HNSW16,PQ16", "IVF64,Flat", "LSH", "PQ0", "IVF256,PQ0", "PQ16x0", "PRQ0x2x4", "LSQ2x4", "PLSQ2x2x4", "IVF64,PQ16", "IVF64,SQ8", "Residual64,PQ16", "ITQ32,SQ8", "IDMap,Flat",
    "SQ8_direct", "PQ99999999999999999999", "OPQ16_100000,PQ16", "IVF1M,PQ16", "IVF16(PQ4),PQ16", "PQ16,PQ16", "PCA100000,SQ8", "PQ16;rm", "RQ4x16_Nfloat",
    "TCQ", "TCQ0", "TCQ1", "TCQ016", "TCQ50", "TCQ16x", "TCQ16x7", "TCQ16x11", "TCQ16x08", "TCQ16,PQ16", "TCQ16;rm", "TCQ99999999999999999999", "TCQ16x99999999999999999999", "OPQ16,TCQ16",
    "PQaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

START_TEST(bad_factory)
{
    struct ap_err err = {0};
    ck_assert_msg(ap_codec_check(refused[_i], 64, &err) == AP_EINVAL, "'%s' was taken", refused[_i]);
    ck_assert_int_eq(err.code, AP_EINVAL);
    ck_assert_str_ne(err.msg, "");
    ck_assert_ptr_null(strchr(err.msg, '\n'));
    /* FAISS says where it was built. */
    ck_assert_msg(!strchr(err.msg, '/') && !strstr(err.msg, ".cpp") && !strstr(err.msg, "Error in "), "%s", err.msg);
}
END_TEST

/* Dimensions that no codec is made for; and where FAISS fails late, in training, its words are as bare. */
START_TEST(bad_dimension_and_late_failure)
{
    static const char *const factories[] = {"PQ4", "TCQ4", "SQ8", "OPQ4,PQ4"};
    struct ap_err err = {0};
    struct ap_codec *c = NULL;
    for (size_t i = 0; i < sizeof factories / sizeof *factories; i++) {
        ck_assert_int_eq(ap_codec_check(factories[i], 0, &err), AP_EINVAL);
        ck_assert_int_eq(ap_codec_check(factories[i], 65537, &err), AP_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.msg, "dimension"));
    }
    ck_assert_int_eq(ap_codec_check("TCQ16384", 65536, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "MiB"));
    float *x = test_clustered(300, 16, 9, 1);
    for (size_t i = 0; i < 300 * 16; i++)
        x[i] *= 1e25f;
    ck_assert_int_eq(ap_codec_train("TCQ4", 16, x, 300, 1, &c, &err), AP_EINVAL);
    ck_assert_msg(!strchr(err.msg, '/'), "%s", err.msg);
    ck_assert_int_eq(ap_codec_train("OPQ4,PQ4", 16, x, 300, 1, &c, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot be trained on"));
    free(x);
}
END_TEST

START_TEST(bad_training)
{
    float *x = test_clustered(300, 16, 9, 1);
    struct ap_err err = {0};
    struct ap_codec *c = NULL;
    ck_assert_int_eq(ap_codec_train("PQ4", 16, x, 100, 1, &c, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "too few"));
    for (size_t i = 1; i < 300; i++)
        memcpy(x + i * 16, x, 16 * sizeof *x);
    ck_assert_int_eq(ap_codec_train("PQ4", 16, x, 300, 1, &c, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "identical"));
    x[20] = NAN;
    ck_assert_int_eq(ap_codec_train("PQ4", 16, x, 300, 1, &c, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "finite"));
    ck_assert_int_eq(ap_codec_train("TCQ4", 16, x, 300, 1, &c, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "finite"));
    ck_assert_int_eq(ap_codec_train("TCQ4", 16, x, 100, 1, &c, &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "too few"));
    /* Two different vectors only: a codec all the same. */
    x[20] = 0.5f;
    ck_assert_int_eq(ap_codec_train("PQ4", 16, x, 300, 1, &c, &err), 0);
    ck_assert_ptr_nonnull(c);
    ap_codec_unref(&c);
    ck_assert_int_eq(ap_codec_train("TCQ4", 16, x, 300, 1, &c, &err), 0);
    uint8_t code[4];
    float back[16];
    ck_assert_int_eq(ap_codec_encode(c, 1, x, code, &err), 0);
    ck_assert_int_eq(ap_codec_decode(c, 1, code, back, &err), 0);
    ck_assert_double_le(mean_error(x, back, 16), 0.1);
    ap_codec_unref(&c);
    free(x);
}
END_TEST

/* Bytes cut short, prolonged, of another dimension, or with any one bit changed: refused, or a codec; never a crash. */
START_TEST(hostile_bytes)
{
    static const char *const factories[] = {"PQ4", "OPQ4,PQ4", "SQ8", "IVF256,PQ4", "RQ2x4", "RaBitQ", "PCA8,SQ4", "TCQ4", "TCQ3x10"};
    const char *factory = factories[_i];
    float *x = test_clustered(400, 16, 9, 1);
    struct ap_err err = {0};
    struct ap_codec *c = train(factory, 16, x, 400), *out = NULL;
    size_t len;
    const uint8_t *bytes = ap_codec_bytes(c, &len);
    uint8_t *bad = malloc(len + 1);
    memcpy(bad, bytes, len);
    bad[len] = 0;
    ck_assert_int_eq(ap_codec_load(factory, 16, bad, len + 1, &out, &err), AP_ECORRUPT);
    ck_assert_int_lt(ap_codec_load(factory, 32, bad, len, &out, &err), 0);
    ck_assert_int_lt(ap_codec_load("PQ8", 16, bad, len, &out, &err), 0);
    for (size_t cut = 0; cut < len; cut += cut < 200 ? 1 : 997)
        ck_assert_int_eq(ap_codec_load(factory, 16, bad, cut, &out, &err), AP_ECORRUPT);
    size_t taken = 0, tried = 0;
    for (size_t i = 0; i < len; i += i < 400 || i + 200 > len ? 1 : 499)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(bad, bytes, len);
            bad[i] ^= (uint8_t)(1u << bit);
            tried++;
            if (ap_codec_load(factory, 16, bad, len, &out, &err) == 0) {
                taken++; /* a number in a table */
                ck_assert_uint_ne(ap_codec_id(out), ap_codec_id(c));
                ap_codec_unref(&out);
            }
        }
    ck_assert_uint_lt(taken, tried);
    ap_codec_unref(&c);
    free(bad);
    free(x);
}
END_TEST

/* A later format is refused by name; numbers that are none, or steps whose bits do not add up, as corrupt. */
START_TEST(tcq_versions)
{
    float *x = test_clustered(400, 16, 9, 1);
    struct ap_err err = {0};
    struct ap_codec *c = train("TCQ4", 16, x, 400), *out = NULL;
    size_t len;
    const uint8_t *bytes = ap_codec_bytes(c, &len);
    uint8_t *bad = malloc(len);
    static const struct { size_t at; uint8_t value; const char *says; } changes[] = {
        {7, 2, "version 2"}, {8, 17, "no codec"}, {16, 9, "no codec"}, {20, 1, "no codec"}, {24, 7, "out of range"}, {24, 0, "out of range"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        memcpy(bad, bytes, len);
        bad[changes[i].at] = changes[i].value;
        ck_assert_int_eq(ap_codec_load("TCQ4", 16, bad, len, &out, &err), AP_ECORRUPT);
        ck_assert_msg(strstr(err.msg, changes[i].says) != NULL, "%zu: %s", i, err.msg);
    }
    memcpy(bad, bytes, len);
    memset(bad + len - 4, 0xff, 4); /* a NaN */
    ck_assert_int_eq(ap_codec_load("TCQ4", 16, bad, len, &out, &err), AP_ECORRUPT);
    ap_codec_unref(&c);
    free(bad);
    free(x);
}
END_TEST

/* Whatever the unit and wherever the middle: the error is the same share. Far from all it was trained on it still encodes. */
START_TEST(tcq_scales)
{
    static const float scales[] = {1, 1e-6f, 1e6f};
    double errors[3];
    size_t n = 1000;
    uint32_t dim = 32;
    float *x = test_clustered(n, dim, 7, 0), *y = malloc(n * dim * sizeof *y), *back = malloc(n * dim * sizeof *back);
    uint8_t *codes = malloc(n * 8);
    struct ap_err err = {0};
    for (size_t s = 0; s < 3; s++) {
        for (size_t i = 0; i < n * dim; i++)
            y[i] = x[i] * scales[s];
        struct ap_codec *c = train("TCQ8", dim, y, n);
        ck_assert_int_eq(ap_codec_encode(c, n, y, codes, &err), 0);
        ck_assert_int_eq(ap_codec_decode(c, n, codes, back, &err), 0);
        errors[s] = mean_error(y, back, n * dim);
        ck_assert_double_le(errors[s], 0.3);
        ck_assert_double_le(fabs(errors[s] - errors[0]), 0.05 * errors[0]);
        for (size_t i = 0; i < dim; i++)
            y[i] = i % 2 ? 3e38f : -3e38f;
        ck_assert_int_eq(ap_codec_encode(c, 1, y, codes, &err), 0);
        ck_assert_int_eq(ap_codec_decode(c, 1, codes, back, &err), 0);
        for (size_t i = 0; i < dim; i++)
            ck_assert(isfinite(back[i]));
        ap_codec_unref(&c);
    }
    free(x);
    free(y);
    free(back);
    free(codes);
}
END_TEST

/* ---- sealed structures ---- */

struct nearest { float score; int64_t ordinal; };

static void exact(const float *x, size_t n, uint32_t dim, enum ap_distance d, const float *q, size_t k, const uint8_t *live, struct nearest *out)
{
    float *scores = malloc(n * sizeof *scores);
    ap_flat_scores(d, q, x, dim, n, scores);
    size_t have = 0;
    for (size_t i = 0; i < n; i++) {
        if (live && !(live[i / 8] >> (i % 8) & 1))
            continue;
        float s = ap_score_descending(d) ? scores[i] : -scores[i];
        size_t at = have < k ? have++ : k;
        while (at > 0 && out[at - 1].score < s) {
            if (at < k)
                out[at] = out[at - 1];
            at--;
        }
        if (at < k)
            out[at] = (struct nearest){s, (int64_t)i};
    }
    free(scores);
}

static double recall(const struct ap_ann *a, const float *x, size_t n, uint32_t dim, enum ap_distance d, const float *queries,
                     size_t nq, uint32_t effort, const uint8_t *live)
{
    size_t hits = 0, k = 10;
    for (size_t q = 0; q < nq; q++) {
        struct nearest want[10];
        float scores[40];
        int64_t ordinals[40];
        struct ap_err err = {0};
        exact(x, n, dim, d, queries + q * dim, k, live, want);
        ck_assert_msg(ap_ann_search(a, queries + q * dim, 40, effort, live, scores, ordinals, &err) == 0, "%s", err.msg);
        for (size_t i = 0; i + 1 < 40 && ordinals[i + 1] >= 0; i++)
            ck_assert(ap_score_descending(d) ? scores[i] >= scores[i + 1] : scores[i] <= scores[i + 1]);
        for (size_t i = 0; i < 40; i++)
            ck_assert(!live || ordinals[i] < 0 || (live[ordinals[i] / 8] >> (ordinals[i] % 8) & 1));
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < 40; j++)
                hits += ordinals[j] == want[i].ordinal;
    }
    return (double)hits / (double)(nq * k);
}

static const struct { const char *factory; enum ap_distance distance; } structures[] = {
    {"Flat", AP_COSINE}, {"SQ8", AP_DOT}, {"IVF64,SQ8", AP_COSINE}, {"IVF64,Flat", AP_EUCLID}, {"HNSW16", AP_COSINE}, {"HNSW16,SQ8", AP_EUCLID},
};

START_TEST(sealed)
{
    size_t n = 3000, nq = 50;
    uint32_t dim = 32;
    enum ap_distance d = structures[_i].distance;
    float *x = test_clustered(n, dim, 11, d == AP_COSINE), *queries = test_clustered(nq, dim, 12, d == AP_COSINE);
    struct ap_err err = {0};
    struct ap_ann *a = NULL, *loaded = NULL;
    ck_assert_msg(ap_ann_build(structures[_i].factory, dim, d, x, n, 1, &a, &err) == 0, "%s", err.msg);
    ck_assert_uint_eq(ap_ann_dim(a), dim);
    ck_assert_uint_eq(ap_ann_count(a), n);
    ck_assert_uint_ge(ap_ann_bytes(a), n * dim);
    ck_assert_double_ge(recall(a, x, n, dim, d, queries, nq, 0, NULL), 0.95);
    ck_assert_double_ge(recall(a, x, n, dim, d, queries, nq, 1000, NULL), 0.99);

    uint8_t *live = calloc(1, n / 8 + 1);
    for (size_t i = 0; i < n; i += 3)
        live[i / 8] |= (uint8_t)(1 << (i % 8));
    ck_assert_double_ge(recall(a, x, n, dim, d, queries, nq, 1000, live), 0.98);

    /* To a file, with something before and after it, and back. */
    char path[] = "/tmp/antipode-test-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    ck_assert_int_eq(write(fd, "head", 4), 4);
    ck_assert_int_eq(ap_ann_save(a, fd, &err), 0);
    ck_assert_int_eq(write(fd, "tail", 4), 4);
    lseek(fd, 4, SEEK_SET);
    ck_assert_msg(ap_ann_load(fd, &loaded, &err) == 0, "%s", err.msg);
    char tail[4];
    ck_assert_int_eq(read(fd, tail, 4), 4);
    ck_assert_mem_eq(tail, "tail", 4);
    for (size_t q = 0; q < nq; q++) {
        float s[2][10];
        int64_t o[2][10];
        ck_assert_int_eq(ap_ann_search(a, queries + q * dim, 10, 0, NULL, s[0], o[0], &err), 0);
        ck_assert_int_eq(ap_ann_search(loaded, queries + q * dim, 10, 0, NULL, s[1], o[1], &err), 0);
        ck_assert_mem_eq(o[0], o[1], sizeof o[0]);
        ck_assert_mem_eq(s[0], s[1], sizeof s[0]);
    }
    /* Cut short. */
    ck_assert_int_eq(ftruncate(fd, 2000), 0);
    lseek(fd, 4, SEEK_SET);
    ap_ann_free(&loaded);
    ck_assert_int_eq(ap_ann_load(fd, &loaded, &err), AP_ECORRUPT);
    ck_assert_ptr_null(loaded);
    close(fd);
    ap_ann_free(&a);
    free(live);
    free(x);
    free(queries);
}
END_TEST

/* Fewer rows than asked for: the rest is -1. */
START_TEST(past_the_end)
{
    float *x = test_clustered(5, 8, 1, 1), scores[10];
    int64_t ordinals[10];
    struct ap_err err = {0};
    struct ap_ann *a = NULL;
    ck_assert_int_eq(ap_ann_build("Flat", 8, AP_COSINE, x, 5, 1, &a, &err), 0);
    ck_assert_int_eq(ap_ann_search(a, x + 8, 10, 0, NULL, scores, ordinals, &err), 0);
    ck_assert_int_eq(ordinals[0], 1);
    for (int i = 5; i < 10; i++)
        ck_assert_int_eq(ordinals[i], -1);
    ck_assert_int_lt(ap_ann_build("Flot", 8, AP_COSINE, x, 5, 1, &a, &err), 0);
    ap_ann_free(&a);
    free(x);
}
END_TEST

/* Of the true ten, how many are among the best ten and forty by decoded vectors. */
static void codec_recall(const char *factory, const float *x, size_t n, uint32_t dim, const float *queries, size_t nq, double *at10, double *at40)
{
    struct ap_err err = {0};
    struct ap_codec *c = train(factory, dim, x, n);
    uint8_t *codes = malloc(n * ap_codec_code_size(c));
    float *back = malloc(n * dim * sizeof *back);
    ck_assert_int_eq(ap_codec_encode(c, n, x, codes, &err), 0);
    ck_assert_int_eq(ap_codec_decode(c, n, codes, back, &err), 0);
    for (size_t i = 0; i < n; i++)
        ap_normalize(back + i * dim, dim);
    size_t in10 = 0, in40 = 0;
    for (size_t q = 0; q < nq; q++) {
        struct nearest want[10], got[40];
        exact(x, n, dim, AP_COSINE, queries + q * dim, 10, NULL, want);
        exact(back, n, dim, AP_COSINE, queries + q * dim, 40, NULL, got);
        for (size_t i = 0; i < 10; i++)
            for (size_t j = 0; j < 40; j++) {
                in40 += want[i].ordinal == got[j].ordinal;
                in10 += j < 10 && want[i].ordinal == got[j].ordinal;
            }
    }
    *at10 = (double)in10 / (double)(nq * 10);
    *at40 = (double)in40 / (double)(nq * 10);
    ap_codec_unref(&c);
    free(codes);
    free(back);
}

START_TEST(real_embeddings)
{
    size_t n, d;
    float *x = test_embeddings(&n, &d);
    uint32_t dim = (uint32_t)d;
    size_t nq = 100;
    n -= nq;
    const float *queries = x + n * dim;
    struct ap_err err = {0};
    struct ap_ann *a = NULL;
    ck_assert_msg(ap_ann_build("IVF128,SQ8", dim, AP_COSINE, x, n, 1, &a, &err) == 0, "%s", err.msg);
    double r = recall(a, x, n, dim, AP_COSINE, queries, nq, 0, NULL);
    ck_assert_msg(r >= 0.93, "recall %g", r);

    double at10 = 0, at40 = 0;
    codec_recall("PQ96", x, n, dim, queries, nq, &at10, &at40);
    ck_assert_double_ge(at40, 0.97);
    double before = at10;
    codec_recall("TCQ96", x, n, dim, queries, nq, &at10, &at40);
    ck_assert_double_ge(at40, 0.99);
    ck_assert_msg(at10 > before, "TCQ96 %g, PQ96 %g", at10, before);
    ap_ann_free(&a);
    free(x);
}
END_TEST

/* ---- threads, arithmetic ---- */

static void *encode_thread(void *arg)
{
    struct ap_codec *c = arg;
    float *x = test_clustered(200, 32, 21, 1);
    uint8_t codes[2][200 * 8];
    for (int i = 0; i < 50; i++)
        ck_assert_int_eq(ap_codec_encode(c, 200, x, codes[i & 1], NULL), 0);
    ck_assert_mem_eq(codes[0], codes[1], sizeof codes[0]);
    ap_codec_unref(&c);
    free(x);
    return NULL;
}

START_TEST(many_threads)
{
    float *x = test_clustered(1000, 32, 3, 1);
    struct ap_codec *c = train("PQ8", 32, x, 1000);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, encode_thread, ap_codec_ref(c));
    ap_codec_unref(&c);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    free(x);
}
END_TEST

START_TEST(normalizing)
{
    float v[3] = {3, 0, 4}, zero[3] = {0, 0, 0}, huge[2] = {3e30f, 4e30f};
    ck_assert_float_eq_tol(ap_normalize(v, 3), 5, 1e-6f);
    ck_assert_float_eq_tol(v[0], 0.6f, 1e-6f);
    ck_assert_float_eq_tol(v[2], 0.8f, 1e-6f);
    ck_assert_float_eq(ap_normalize(zero, 3), 0);
    ck_assert_float_eq(zero[0], 0);
    ap_normalize(huge, 2); /* whose squares no float holds */
    ck_assert_float_eq_tol(huge[0], 0.6f, 1e-6f);
}
END_TEST

int main(void)
{
    ap_ann_init();
    Suite *s = suite_create("ann");
    TCase *codecs = tcase_create("codecs");
    tcase_set_timeout(codecs, 240); /* hostile bytes under ASan, on a machine with other work */
    tcase_add_loop_test(codecs, round_trip, 0, (int)(sizeof round_trips / sizeof *round_trips));
    tcase_add_test(codecs, same_vectors_same_codec);
    tcase_add_test(codecs, default_factory);
    tcase_add_loop_test(codecs, bad_factory, 0, (int)(sizeof refused / sizeof *refused));
    tcase_add_test(codecs, bad_training);
    tcase_add_loop_test(codecs, pq_takes_the_nearest_centroids, 0, 5);
    tcase_add_loop_test(codecs, hostile_bytes, 0, 9);
    tcase_add_test(codecs, tcq_versions);
    tcase_add_test(codecs, tcq_scales);
    tcase_add_test(codecs, bad_dimension_and_late_failure);
    suite_add_tcase(s, codecs);
    TCase *segments = tcase_create("sealed");
    tcase_set_timeout(segments, 60);
    tcase_add_loop_test(segments, sealed, 0, (int)(sizeof structures / sizeof *structures));
    tcase_add_test(segments, past_the_end);
    tcase_add_test(segments, real_embeddings);
    suite_add_tcase(s, segments);
    TCase *rest = tcase_create("rest");
    tcase_add_test(rest, many_threads);
    tcase_add_test(rest, normalizing);
    suite_add_tcase(s, rest);
    return run_suite(s);
}
