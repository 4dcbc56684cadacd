/* Codecs. A factory string becomes an empty index, which training fills; the same object then encodes and decodes. It
 * never changes after that, so any number of threads may use it. TCQ is ours (ann_trellis.h), all others are FAISS's.
 *
 * Fails: what a client may get wrong (factory string, too few vectors) is AP_EINVAL; bytes that are no codec AP_ECORRUPT. */
#include <math.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include <faiss/c_api/index_factory_c.h>
#include "common/ann_factory.h"
#include "common/ann_internal.h"
#include "common/ann_pq.h"
#include "common/ann_trellis.h"

struct ap_codec {
    atomic_uint refs;
    FaissIndex *index;   /* one of the two */
    struct ap_tcq *tcq;
    struct ap_pq *pq;    /* encodes in FAISS's place; NULL: it does itself */
    uint32_t dim;
    size_t code_size;
    char *factory;
    uint8_t *bytes;
    size_t len;
    uint8_t hash[32];
};

/* The empty codec of a checked factory string. */
static int codec_make(const char *factory, uint32_t dim, FaissIndex **out, struct ap_err *err)
{
    char why[200];
    FaissIndex *index = NULL;
    size_t code_size;
    int rc = ap_factory_check(factory, dim, err);
    if (rc < 0)
        return rc;
    ap_ann_use_threads(1);
    if (faiss_index_factory(&index, (int)dim, factory, METRIC_L2) != 0) {
        rc = ap_ann_failed(err, AP_EINVAL, "factory string");
        return ap_err_wrap(err, "'%s' for %u dimensions", factory, dim), rc;
    }
    if (ap_faiss_codec_sound(index, dim, 0, why, sizeof why) != 0)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%s' cannot be a codec: %s", factory, why);
    else if (faiss_Index_sa_code_size(index, &code_size) != 0)
        rc = ap_ann_failed(err, AP_EINVAL, "standalone codec");
    if (rc < 0)
        faiss_Index_free(index);
    else
        *out = index;
    return rc;
}

int ap_codec_check(const char *factory, uint32_t dim, struct ap_err *err)
{
    FaissIndex *index = NULL;
    struct ap_tcq_shape shape;
    if (ap_tcq_is(factory))
        return ap_tcq_parse(factory, dim, &shape, err);
    int rc = codec_make(factory, dim, &index, err);
    if (rc == 0)
        faiss_Index_free(index);
    return rc;
}

void ap_codec_default(uint32_t dim, char *out, size_t cap)
{
    struct ap_tcq_shape shape;
    snprintf(out, cap, "TCQ%u", (dim + 3) / 4);
    if (dim < 16)
        snprintf(out, cap, "SQ8");
    else if (ap_tcq_parse(out, dim, &shape, NULL) != 0)
        snprintf(out, cap, dim % 4 == 0 ? "PQ%u" : "SQ8", dim / 4);
}

void ap_codec_training_size(const char *factory, uint32_t dim, size_t *good, size_t *least)
{
    (void)dim;
    if (ap_tcq_is(factory)) {
        *least = 256;
        *good = 20000;
        return;
    }
    struct ap_factory_shape shape = ap_factory_look(factory);
    size_t k = (size_t)(shape.centroids > 65536 ? 65536 : shape.centroids);
    /* FAISS asks for at least one vector a centroid and thinks 39 enough; scalar ranges settle with a few hundred. */
    *least = k > 64 ? k : 64;
    *good = k > 1 ? 40 * k : 2000;
    if (shape.rotates && *good < 10000)
        *good = 10000;
}

/* Takes the codec's inside and, when bytes is not NULL, a copy of bytes; else serializes. */
static int codec_wrap(FaissIndex *index, struct ap_tcq *tcq, const char *factory, uint32_t dim, const void *bytes, size_t len,
                      struct ap_codec **out, struct ap_err *err)
{
    struct ap_buf buf = {0};
    struct ap_codec *c = calloc(1, sizeof *c);
    int rc = 0;
    if (!c || !(c->factory = strdup(factory))) {
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a codec");
        goto fail;
    }
    if (bytes)
        ap_buf_append(&buf, bytes, len);
    else if (tcq)
        ap_tcq_write(tcq, &buf);
    else if (ap_ann_write_memory(index, &buf) != 0)
        rc = ap_ann_failed(err, AP_EIO, "serializing the codec");
    if (tcq)
        c->code_size = ap_tcq_code_size(tcq);
    else if (rc == 0 && faiss_Index_sa_code_size(index, &c->code_size) != 0)
        rc = ap_ann_failed(err, AP_EINVAL, "standalone codec");
    if (rc < 0)
        goto fail;
    atomic_init(&c->refs, 1);
    c->dim = dim;
    c->bytes = buf.data;
    c->len = buf.len;
    c->index = index;
    c->tcq = tcq;
    c->pq = tcq ? NULL : ap_pq_new(index);
    crypto_generichash(c->hash, sizeof c->hash, c->bytes, c->len, NULL, 0);
    *out = c;
    return 0;
fail:
    if (c)
        free(c->factory);
    free(c);
    ap_buf_free(&buf);
    faiss_Index_free(index);
    ap_tcq_free(&tcq);
    return rc;
}

static int training_check(const char *factory, uint32_t dim, const float *vectors, size_t n, struct ap_err *err)
{
    size_t good, least, same = 0;
    ap_codec_training_size(factory, dim, &good, &least);
    if (n < least)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%zu vectors are too few to train %s: at least %zu, better %zu", n, factory, least, good);
    for (size_t i = 0; i < n * dim; i++) {
        if (!isfinite(vectors[i]))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "training vector %zu holds a value that is not finite", i / dim);
        if (fabsf(vectors[i]) >= AP_TCQ_LARGEST) /* sums of squares would end at infinity, and matrices of them nowhere */
            return ap_err_set(err, AP_EINVAL, AP_POISON, "training vector %zu holds %g: values from %g on cannot be trained on", i / dim,
                              (double)vectors[i], (double)AP_TCQ_LARGEST);
    }
    for (size_t i = 1; i < n; i++)
        same += memcmp(vectors, vectors + i * dim, dim * sizeof *vectors) == 0;
    if (same == n - 1)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "all %zu training vectors are identical", n);
    return 0;
}

static int train_faiss(const char *factory, uint32_t dim, const float *vectors, size_t n, int threads, FaissIndex **out, struct ap_err *err)
{
    char why[200];
    FaissIndex *index = NULL;
    int rc = codec_make(factory, dim, &index, err);
    if (rc < 0)
        return rc;
    rc = training_check(factory, dim, vectors, n, err);
    if (rc < 0)
        goto fail;
    ap_ann_use_threads(threads > 0 ? threads : 1);
    int trained = ap_faiss_train(index, n, vectors, why, sizeof why);
    ap_ann_use_threads(1);
    if (trained != 0) {
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "training %s: %s", factory, why);
        goto fail;
    }
    if (ap_faiss_codec_sound(index, dim, 1, why, sizeof why) != 0) {
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "training %s left no usable codec: %s", factory, why);
        goto fail;
    }
    *out = index;
    return 0;
fail:
    faiss_Index_free(index);
    return rc;
}

static int train_tcq(const char *factory, uint32_t dim, const float *vectors, size_t n, int threads, struct ap_tcq **out, struct ap_err *err)
{
    struct ap_tcq_shape shape;
    int rc = ap_tcq_parse(factory, dim, &shape, err);
    if (rc == 0)
        rc = training_check(factory, dim, vectors, n, err);
    if (rc == 0 && (rc = ap_tcq_train(&shape, vectors, n, threads, out, err)) < 0)
        ap_err_wrap(err, "training %s", factory);
    return rc;
}

int ap_codec_train(const char *factory, uint32_t dim, const float *vectors, size_t n, int threads, struct ap_codec **out, struct ap_err *err)
{
    FaissIndex *index = NULL;
    struct ap_tcq *tcq = NULL;
    int rc = ap_tcq_is(factory) ? train_tcq(factory, dim, vectors, n, threads, &tcq, err) : train_faiss(factory, dim, vectors, n, threads, &index, err);
    return rc < 0 ? rc : codec_wrap(index, tcq, factory, dim, NULL, 0, out, err);
}

/* One vector through the codec: finite after decoding, or it is no codec. */
static int codec_try(const struct ap_codec *c, struct ap_err *err)
{
    float *v = calloc(2 * (size_t)c->dim, sizeof *v);
    uint8_t *code = calloc(1, c->code_size);
    int rc = v && code ? 0 : ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a codec");
    if (rc == 0) {
        v[0] = 1;
        rc = ap_codec_encode(c, 1, v, code, err);
    }
    if (rc == 0)
        rc = ap_codec_decode(c, 1, code, v + c->dim, err);
    for (uint32_t i = 0; rc == 0 && i < c->dim; i++)
        if (!isfinite(v[c->dim + i]))
            rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "codec %s decodes to values that are not finite", c->factory);
    free(v);
    free(code);
    return rc;
}

/* Read bytes that have the shape of this factory string's codecs; others are refused unread. */
static int codec_read(const char *factory, uint32_t dim, const void *bytes, size_t len, FaissIndex **out, struct ap_err *err)
{
    char why[200];
    FaissIndex *model = NULL;
    bool equal = false;
    size_t left;
    int rc = codec_make(factory, dim, &model, err);
    if (rc < 0)
        return rc;
    if (ap_faiss_fill(model, why, sizeof why) != 0)
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "codec %s: %s", factory, why);
    else if (ap_ann_shape_equal(model, bytes, len, &equal) != 0)
        rc = ap_ann_failed(err, AP_EIO, "comparing the codec");
    else if (!equal)
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "these bytes are no codec %s for %u dimensions", factory, dim);
    else if (ap_ann_read_memory(bytes, len, &left, out) != 0)
        rc = ap_ann_failed(err, AP_ECORRUPT, "reading the codec");
    else if (ap_faiss_codec_sound(*out, dim, 1, why, sizeof why) != 0)
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "codec %s: %s", factory, why);
    faiss_Index_free(model);
    if (rc < 0 && *out) {
        faiss_Index_free(*out);
        *out = NULL;
    }
    return rc;
}

int ap_codec_load(const char *factory, uint32_t dim, const void *bytes, size_t len, struct ap_codec **out, struct ap_err *err)
{
    FaissIndex *index = NULL;
    struct ap_tcq *tcq = NULL;
    struct ap_codec *c = NULL;
    struct ap_tcq_shape shape;
    int rc = ap_tcq_is(factory) ? ap_tcq_parse(factory, dim, &shape, err) : codec_read(factory, dim, bytes, len, &index, err);
    if (rc == 0 && ap_tcq_is(factory))
        rc = ap_tcq_read(&shape, bytes, len, &tcq, err);
    if (rc == 0)
        rc = codec_wrap(index, tcq, factory, dim, bytes, len, &c, err);
    if (rc == 0 && (rc = codec_try(c, err)) < 0)
        ap_codec_unref(&c);
    if (rc == 0)
        *out = c;
    return rc;
}

const uint8_t *ap_codec_bytes(const struct ap_codec *c, size_t *len)
{
    *len = c->len;
    return c->bytes;
}

uint64_t ap_codec_id(const struct ap_codec *c) { return ap_be64(c->hash); }
const uint8_t *ap_codec_hash(const struct ap_codec *c) { return c->hash; }
size_t ap_codec_code_size(const struct ap_codec *c) { return c->code_size; }
uint32_t ap_codec_dim(const struct ap_codec *c) { return c->dim; }
const char *ap_codec_factory(const struct ap_codec *c) { return c->factory; }

int ap_codec_encode(const struct ap_codec *c, size_t n, const float *vectors, uint8_t *codes, struct ap_err *err)
{
    ap_ann_use_threads(1);
    /* Some codecs set bits in what they take for zeroes. */
    memset(codes, 0, n * c->code_size);
    if (c->tcq)
        return ap_tcq_encode(c->tcq, n, vectors, codes, err);
    if (c->pq) {
        ap_pq_encode(c->pq, n, vectors, codes);
        return 0;
    }
    if (n > 0 && faiss_Index_sa_encode(c->index, (idx_t)n, vectors, codes) != 0)
        return ap_ann_failed(err, AP_EIO, "encoding");
    return 0;
}

int ap_codec_decode(const struct ap_codec *c, size_t n, const uint8_t *codes, float *vectors, struct ap_err *err)
{
    ap_ann_use_threads(1);
    if (c->tcq)
        return ap_tcq_decode(c->tcq, n, codes, vectors, err);
    if (n > 0 && faiss_Index_sa_decode(c->index, (idx_t)n, codes, vectors) != 0)
        return ap_ann_failed(err, AP_ECORRUPT, "decoding");
    return 0;
}

struct ap_codec *ap_codec_ref(struct ap_codec *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void ap_codec_unref(struct ap_codec **codec)
{
    struct ap_codec *c = *codec;
    *codec = NULL;
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    faiss_Index_free(c->index);
    ap_tcq_free(&c->tcq);
    ap_pq_free(&c->pq);
    free(c->factory);
    free(c->bytes);
    free(c);
}
