/* FAISS by its C API; ann_faiss.cpp has the rest.
 *
 * Flow: a factory string becomes an empty index (checked for size before FAISS allocates for it), which training fills;
 * the same object then encodes and decodes. Codecs and sealed structures never change after that, so any number of
 * threads may use them.
 * Fails: FAISS throws, the C API keeps the text per thread, and faiss_failed() copies it at once.
 * Threads: the number of OpenMP threads is a property of the calling thread, so each call sets it where it differs. */
#include "common/ann.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>
#include <faiss/c_api/index_io_c.h>
#include <faiss/c_api/utils/distances_c.h>
#include "common/ann_faiss.h"

void openblas_set_num_threads(int threads);

#define FACTORY_MAX 128
#define CODEC_TABLE_BYTES_MAX (UINT64_C(256) << 20)

struct ap_codec {
    atomic_uint refs;
    FaissIndex *index;
    uint32_t dim;
    size_t code_size;
    char *factory;
    uint8_t *bytes;
    size_t len;
    uint8_t hash[32];
};

struct ap_ann {
    FaissIndex *index;
    uint32_t dim;
};

/* ---- threads, errors ---- */

void ap_ann_init(void)
{
    openblas_set_num_threads(1);
    omp_set_num_threads(1);
    if (sodium_init() < 0)
        abort();
}

static void use_threads(int threads)
{
    static _Thread_local int now = 0;
    if (now != threads) {
        omp_set_num_threads(threads);
        now = threads;
    }
}

static int faiss_failed(struct ap_err *err, enum ap_code code, const char *what)
{
    const char *text = faiss_get_last_error();
    /* "Error in <function> at <file>:<line>: Error: '<condition>' failed: <reason>": the end is what helps. */
    const char *reason = text ? strstr(text, "Error: ") : NULL;
    reason = reason ? reason + 7 : text ? text : "no reason given";
    char line[320];
    size_t n = 0;
    for (const char *p = reason; *p && n < sizeof line - 1; p++)
        line[n++] = (char)(iscntrl((unsigned char)*p) ? ' ' : *p);
    while (n > 0 && line[n - 1] == ' ')
        n--;
    line[n] = '\0';
    return ap_err_set(err, code, code == AP_EINVAL ? AP_POISON : AP_FATAL, "%s: %s", what, line);
}

/* ---- factory strings ---- */

struct shape {
    uint64_t centroids; /* most that one k-means has to find; 1 when there is none */
    bool rotates;       /* a matrix of dim * dim */
};

/* Digits at *p; moves it. Saturates. */
static uint64_t number(const char **p)
{
    uint64_t n = 0;
    for (; isdigit((unsigned char)**p); (*p)++)
        n = n > UINT32_MAX ? n : n * 10 + (uint64_t)(**p - '0');
    return n;
}

static bool begins(const char *token, const char *word)
{
    return strncmp(token, word, strlen(word)) == 0;
}

static void look_at_token(const char *token, size_t len, struct shape *shape)
{
    static const char *const quantizers[] = {"PQ", "RQ", "LSQ", "PRQ", "PLSQ"};
    static const char *const lists[] = {"IVF", "Residual"};
    static const char *const matrices[] = {"OPQ", "PCA", "RR", "ITQ"};
    const char *end = token + len;
    uint64_t most = 1;
    for (size_t i = 0; i < sizeof quantizers / sizeof *quantizers; i++)
        if (begins(token, quantizers[i])) {
            bool given = false;
            for (const char *p = token; p < end; p++)
                if (*p == 'x' && isdigit((unsigned char)p[1])) {
                    const char *digits = p + 1;
                    uint64_t bits = number(&digits);
                    /* PRQ and PLSQ: splits x steps x bits, so only the last counts. */
                    if (digits < end && *digits == 'x')
                        continue;
                    uint64_t k = bits > 40 ? UINT64_C(1) << 40 : UINT64_C(1) << bits;
                    most = k > most ? k : most;
                    given = true;
                }
            if (!given)
                most = 256;
        }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (begins(token, lists[i])) {
            const char *p = token + strlen(lists[i]);
            most = number(&p);
            most *= *p == 'k' ? 1024 : *p == 'M' ? 1048576 : 1;
        }
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        if (begins(token, matrices[i]))
            shape->rotates = true;
    if (begins(token, "OPQ") && most < 256) /* trains a PQ of 8 bits inside */
        most = 256;
    if (most > shape->centroids)
        shape->centroids = most;
}

static struct shape look_at(const char *factory)
{
    struct shape shape = {1, false};
    for (const char *p = factory; *p;) {
        size_t len = strcspn(p, ",");
        look_at_token(p, len, &shape);
        p += len + (p[len] == ',');
    }
    return shape;
}

/* Before FAISS sees it: a hostile string must neither recurse in its regular expressions nor ask for all memory. */
static int factory_check(const char *factory, uint32_t dim, struct ap_err *err)
{
    size_t len = strnlen(factory, FACTORY_MAX + 1);
    if (len == 0 || len > FACTORY_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string: 1 to %d bytes, please", FACTORY_MAX);
    for (const char *p = factory; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr(",_+", *p))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string: letters, digits, ',', '_' and '+' only");
    if (dim < 1 || dim > 65536)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "dimension %u is not from 1 to 65536", dim);
    /* Dimensions that a transform makes (PCA, Pad, OPQ with an output size) come out of numbers in the string. */
    uint64_t largest = dim;
    for (const char *p = factory; *p;) {
        if (!isdigit((unsigned char)*p)) {
            p++;
            continue;
        }
        uint64_t n = number(&p);
        if (n > 65536)
            return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%s': a number over 65536", factory);
        bool output = strstr(factory, "OPQ") || strstr(factory, "PCA") || strstr(factory, "Pad") ||
                      strstr(factory, "RR") || strstr(factory, "ITQ");
        if (output && n > largest)
            largest = n;
    }
    struct shape shape = look_at(factory);
    uint64_t tables = shape.centroids * largest * sizeof(float);
    if (shape.rotates)
        tables += largest * largest * sizeof(float);
    if (tables > CODEC_TABLE_BYTES_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%s' needs more than %u MiB of tables for %u dimensions",
                          factory, (unsigned)(CODEC_TABLE_BYTES_MAX >> 20), dim);
    return 0;
}

/* The empty codec of a checked factory string. */
static int codec_make(const char *factory, uint32_t dim, FaissIndex **out, struct ap_err *err)
{
    char why[200];
    FaissIndex *index = NULL;
    size_t code_size;
    int rc = factory_check(factory, dim, err);
    if (rc < 0)
        return rc;
    use_threads(1);
    if (faiss_index_factory(&index, (int)dim, factory, METRIC_L2) != 0) {
        rc = faiss_failed(err, AP_EINVAL, "factory string");
        return ap_err_wrap(err, "'%s' for %u dimensions", factory, dim), rc;
    }
    if (ap_faiss_codec_sound(index, dim, 0, why, sizeof why) != 0)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%s' cannot be a codec: %s", factory, why);
    else if (faiss_Index_sa_code_size(index, &code_size) != 0)
        rc = faiss_failed(err, AP_EINVAL, "standalone codec");
    if (rc < 0)
        faiss_Index_free(index);
    else
        *out = index;
    return rc;
}

int ap_codec_check(const char *factory, uint32_t dim, struct ap_err *err)
{
    FaissIndex *index = NULL;
    int rc = codec_make(factory, dim, &index, err);
    if (rc == 0)
        faiss_Index_free(index);
    return rc;
}

void ap_codec_default(uint32_t dim, char *out, size_t cap)
{
    if (dim % 4 == 0)
        snprintf(out, cap, "PQ%u", dim / 4);
    else
        snprintf(out, cap, "SQ8");
}

void ap_codec_training_size(const char *factory, uint32_t dim, size_t *good, size_t *least)
{
    (void)dim;
    struct shape shape = look_at(factory);
    size_t k = (size_t)(shape.centroids > 65536 ? 65536 : shape.centroids);
    /* FAISS asks for at least one vector a centroid and thinks 39 enough; scalar ranges settle with a few hundred. */
    *least = k > 64 ? k : 64;
    *good = k > 1 ? 40 * k : 2000;
    if (shape.rotates && *good < 10000)
        *good = 10000;
}

/* ---- serialization: the callbacks of the C API have no argument, so theirs is per thread ---- */

static _Thread_local struct ap_buf *writing;
static _Thread_local struct { const uint8_t *p; size_t left; } reading;
static _Thread_local int io_fd;
static _Thread_local int io_errno;

static size_t write_memory(const void *ptr, size_t size, size_t items)
{
    ap_buf_append(writing, ptr, size * items);
    return items;
}

static size_t read_memory(void *ptr, size_t size, size_t items)
{
    size_t can = size ? reading.left / size : 0;
    items = items < can ? items : can;
    if (size * items > 0)
        memcpy(ptr, reading.p, size * items);
    /* FAISS allocates what a length says before it looks for the bytes. A length is read alone, as 8 bytes; other fields
     * of 8 bytes are small (one of them is 1 << 20, always). */
    if (size == 8 && items == 1 && ap_le64(reading.p) > reading.left && ap_le64(reading.p) > UINT64_C(1) << 20)
        return 0;
    reading.p += size * items;
    reading.left -= size * items;
    return items;
}

/* Small fields are gathered; only what is large goes straight to the file. */
#define IO_CHUNK 65536
static _Thread_local struct { uint8_t *data; size_t at, len; } chunk;

static bool flush_fd(void)
{
    while (chunk.at < chunk.len) {
        ssize_t n = write(io_fd, chunk.data + chunk.at, chunk.len - chunk.at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            io_errno = n < 0 ? errno : EIO;
            return false;
        }
        chunk.at += (size_t)n;
    }
    chunk.at = chunk.len = 0;
    return true;
}

static size_t write_fd(const void *ptr, size_t size, size_t items)
{
    const uint8_t *p = ptr;
    size_t left = size * items;
    while (left > 0) {
        size_t n = IO_CHUNK - chunk.len < left ? IO_CHUNK - chunk.len : left;
        memcpy(chunk.data + chunk.len, p, n);
        chunk.len += n;
        p += n;
        left -= n;
        if (chunk.len == IO_CHUNK && !flush_fd())
            return 0;
    }
    return items;
}

/* Reads no further than asked: what follows in the file is the caller's. */
static size_t read_fd(void *ptr, size_t size, size_t items)
{
    uint8_t *p = ptr;
    size_t left = size * items;
    while (left > 0) {
        ssize_t n = read(io_fd, p, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            io_errno = n < 0 ? errno : 0;
            return 0;
        }
        p += n;
        left -= (size_t)n;
    }
    return items;
}

static int write_index(const FaissIndex *index, size_t (*fn)(const void *, size_t, size_t))
{
    FaissCustomIOWriter *writer = NULL;
    if (faiss_CustomIOWriter_new(&writer, fn) != 0)
        return -1;
    int rc = faiss_write_index_custom(index, (FaissIOWriter *)writer, 0);
    faiss_CustomIOWriter_free(writer);
    return rc;
}

static int read_index(size_t (*fn)(void *, size_t, size_t), FaissIndex **out)
{
    FaissCustomIOReader *reader = NULL;
    if (faiss_CustomIOReader_new(&reader, fn) != 0)
        return -1;
    int rc = faiss_read_index_custom((FaissIOReader *)reader, 0, out);
    faiss_CustomIOReader_free(reader);
    return rc;
}

/* ---- codecs ---- */

/* Takes index and, when bytes is not NULL, a copy of bytes; else serializes. */
static int codec_wrap(FaissIndex *index, const char *factory, uint32_t dim, const void *bytes, size_t len,
                      struct ap_codec **out, struct ap_err *err)
{
    struct ap_buf buf = {0};
    struct ap_codec *c = calloc(1, sizeof *c);
    if (!c)
        goto no_memory;
    if (bytes) {
        ap_buf_append(&buf, bytes, len);
    } else {
        writing = &buf;
        int rc = write_index(index, write_memory);
        writing = NULL;
        if (rc != 0) {
            rc = faiss_failed(err, AP_EIO, "serializing the codec");
            goto fail;
        }
    }
    atomic_init(&c->refs, 1);
    c->dim = dim;
    c->factory = strdup(factory);
    c->bytes = buf.data;
    c->len = buf.len;
    if (!c->factory)
        goto no_memory;
    if (faiss_Index_sa_code_size(index, &c->code_size) != 0) {
        faiss_failed(err, AP_EINVAL, "standalone codec");
        goto fail;
    }
    c->index = index;
    crypto_generichash(c->hash, sizeof c->hash, c->bytes, c->len, NULL, 0);
    *out = c;
    return 0;
no_memory:
    ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a codec");
fail:
    if (c)
        free(c->factory);
    free(c);
    ap_buf_free(&buf);
    faiss_Index_free(index);
    return err ? err->code : AP_EIO;
}

static int training_check(const char *factory, uint32_t dim, const float *vectors, size_t n, struct ap_err *err)
{
    size_t good, least, same = 0;
    ap_codec_training_size(factory, dim, &good, &least);
    if (n < least)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%zu vectors are too few to train %s: at least %zu, better %zu", n, factory, least, good);
    for (size_t i = 0; i < n * dim; i++)
        if (!isfinite(vectors[i]))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "training vector %zu holds a value that is not finite", i / dim);
    for (size_t i = 1; i < n; i++)
        same += memcmp(vectors, vectors + i * dim, dim * sizeof *vectors) == 0;
    if (same == n - 1)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "all %zu training vectors are identical", n);
    return 0;
}

int ap_codec_train(const char *factory, uint32_t dim, const float *vectors, size_t n, int threads, struct ap_codec **out, struct ap_err *err)
{
    char why[200];
    FaissIndex *index = NULL;
    int rc = codec_make(factory, dim, &index, err);
    if (rc < 0)
        return rc;
    rc = training_check(factory, dim, vectors, n, err);
    if (rc < 0)
        goto fail;
    use_threads(threads > 0 ? threads : 1);
    int trained = ap_faiss_train(index, n, vectors, why, sizeof why);
    use_threads(1);
    if (trained != 0) {
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "training %s: %s", factory, why);
        goto fail;
    }
    if (ap_faiss_codec_sound(index, dim, 1, why, sizeof why) != 0) {
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "training %s left no usable codec: %s", factory, why);
        goto fail;
    }
    return codec_wrap(index, factory, dim, NULL, 0, out, err);
fail:
    faiss_Index_free(index);
    return rc;
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

int ap_codec_load(const char *factory, uint32_t dim, const void *bytes, size_t len, struct ap_codec **out, struct ap_err *err)
{
    char why[200];
    FaissIndex *wanted = NULL, *index = NULL;
    size_t wanted_size = 0, size = 0;
    int rc = codec_make(factory, dim, &wanted, err);
    if (rc < 0)
        return rc;
    reading.p = bytes;
    reading.left = len;
    int read_rc = read_index(read_memory, &index);
    size_t left = reading.left;
    reading.p = NULL;
    reading.left = 0;
    if (read_rc != 0) {
        rc = faiss_failed(err, AP_ECORRUPT, "reading the codec");
    } else if (left != 0) {
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "codec: %zu bytes too many", left);
    } else if (ap_faiss_codec_sound(index, dim, 1, why, sizeof why) != 0) {
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "codec %s: %s", factory, why);
    } else if (faiss_Index_sa_code_size(wanted, &wanted_size) != 0 || faiss_Index_sa_code_size(index, &size) != 0 || size != wanted_size) {
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "codec %s: codes of %zu bytes instead of %zu", factory, size, wanted_size);
    }
    faiss_Index_free(wanted);
    if (rc < 0) {
        faiss_Index_free(index);
        return rc;
    }
    struct ap_codec *c = NULL;
    rc = codec_wrap(index, factory, dim, bytes, len, &c, err);
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
    use_threads(1);
    /* Some codecs set bits in what they take for zeroes. */
    memset(codes, 0, n * c->code_size);
    if (n > 0 && faiss_Index_sa_encode(c->index, (idx_t)n, vectors, codes) != 0)
        return faiss_failed(err, AP_EIO, "encoding");
    return 0;
}

int ap_codec_decode(const struct ap_codec *c, size_t n, const uint8_t *codes, float *vectors, struct ap_err *err)
{
    use_threads(1);
    if (n > 0 && faiss_Index_sa_decode(c->index, (idx_t)n, codes, vectors) != 0)
        return faiss_failed(err, AP_ECORRUPT, "decoding");
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
    free(c->factory);
    free(c->bytes);
    free(c);
}

/* ---- sealed structures ---- */

/* nprobe that finds 97 % of the true ten on the real embeddings (bench/index.c): about a sixth of the lists of a small
 * index, less of a large one, because lists grow with the root. */
static uint32_t default_effort(const char *factory, size_t lists)
{
    if (begins(factory, "HNSW"))
        return 64;
    double nprobe = lists <= 128 ? (double)lists / 6 : 128.0 / 6 * sqrt((double)lists / 128);
    return nprobe < 4 ? 4 : (uint32_t)nprobe;
}

int ap_ann_train(const char *factory, uint32_t dim, enum ap_distance distance, const float *vectors, size_t n, int threads,
                 struct ap_ann **out, struct ap_err *err)
{
    struct ap_ann *a = calloc(1, sizeof *a);
    if (!a)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a segment");
    a->dim = dim;
    int rc = 0;
    use_threads(threads > 0 ? threads : 1);
    if (faiss_index_factory(&a->index, (int)dim, factory, distance == AP_EUCLID ? METRIC_L2 : METRIC_INNER_PRODUCT) != 0) {
        rc = faiss_failed(err, AP_EINVAL, "segment factory string");
    } else {
        char why[200];
        if (!faiss_Index_is_trained(a->index) && ap_faiss_train(a->index, n, vectors, why, sizeof why) != 0)
            rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "training a segment: %s", why);
        else
            ap_faiss_set_effort(a->index, default_effort(factory, ap_faiss_lists(a->index)));
    }
    use_threads(1);
    if (rc < 0) {
        ap_err_wrap(err, "%s", factory);
        ap_ann_free(&a);
        return rc;
    }
    *out = a;
    return 0;
}

int ap_ann_add(struct ap_ann *a, const float *vectors, size_t n, int threads, struct ap_err *err)
{
    use_threads(threads > 0 ? threads : 1);
    int rc = n > 0 ? faiss_Index_add(a->index, (idx_t)n, vectors) : 0;
    use_threads(1);
    return rc == 0 ? 0 : faiss_failed(err, AP_EIO, "adding to a segment");
}

int ap_ann_build(const char *factory, uint32_t dim, enum ap_distance distance, const float *vectors, size_t n, int threads,
                 struct ap_ann **out, struct ap_err *err)
{
    struct ap_ann *a = NULL;
    int rc = ap_ann_train(factory, dim, distance, vectors, n, threads, &a, err);
    if (rc == 0 && (rc = ap_ann_add(a, vectors, n, threads, err)) < 0)
        ap_ann_free(&a);
    if (rc == 0)
        *out = a;
    return rc;
}

int ap_ann_search(const struct ap_ann *a, const float *query, size_t k, uint32_t effort, const uint8_t *live, float *score,
                  int64_t *ordinal, struct ap_err *err)
{
    char why[200];
    use_threads(1);
    if (k == 0)
        return 0;
    if (!a)
        return ap_err_set(err, AP_EINVAL, AP_RETRY, "searching a segment: it has no structure of FAISS");
    if (ap_faiss_search(a->index, query, k, effort, live, score, ordinal, why, sizeof why) != 0)
        return ap_err_set(err, AP_EIO, AP_RETRY, "searching a segment: %s", why);
    return 0;
}

int ap_ann_centroids(uint32_t dim, enum ap_distance distance, const float *vectors, size_t n, uint32_t k, int iterations, int threads,
                     float *centroids, struct ap_err *err)
{
    FaissClusteringParameters params;
    FaissClustering *clustering = NULL;
    FaissIndexFlat *index = NULL;
    faiss_ClusteringParameters_init(&params);
    params.niter = iterations;
    params.spherical = distance != AP_EUCLID;
    params.min_points_per_centroid = 1; /* says nothing about small samples */
    params.max_points_per_centroid = 1 << 20;
    use_threads(threads > 0 ? threads : 1);
    int rc = faiss_Clustering_new_with_params(&clustering, (int)dim, (int)k, &params);
    if (rc == 0)
        rc = faiss_IndexFlat_new_with(&index, dim, distance == AP_EUCLID ? METRIC_L2 : METRIC_INNER_PRODUCT);
    if (rc == 0)
        rc = faiss_Clustering_train(clustering, (idx_t)n, vectors, (FaissIndex *)index);
    if (rc == 0) {
        float *found;
        size_t size;
        faiss_Clustering_centroids(clustering, &found, &size);
        assert(size == (size_t)dim * k);
        memcpy(centroids, found, size * sizeof *centroids);
    } else {
        rc = faiss_failed(err, AP_EINVAL, "k-means");
    }
    use_threads(1);
    faiss_Clustering_free(clustering);
    faiss_IndexFlat_free(index);
    return rc;
}

int ap_ann_nearest(const struct ap_ann *a, const float *vectors, size_t n, int threads, int64_t *ordinals, float *scores, struct ap_err *err)
{
    use_threads(threads > 0 ? threads : 1);
    int rc = n > 0 ? faiss_Index_search(a->index, (idx_t)n, vectors, 1, scores, ordinals) : 0;
    use_threads(1);
    return rc == 0 ? 0 : faiss_failed(err, AP_EIO, "assigning vectors");
}

int ap_ann_save(const struct ap_ann *a, int fd, struct ap_err *err)
{
    chunk.data = malloc(IO_CHUNK);
    if (!chunk.data)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for writing a segment");
    chunk.at = chunk.len = 0;
    io_fd = fd;
    io_errno = 0;
    int rc = write_index(a->index, write_fd) == 0 && flush_fd() ? 0 : -1;
    free(chunk.data);
    chunk.data = NULL;
    if (rc == 0)
        return 0;
    if (io_errno)
        return ap_err_set(err, io_errno == ENOSPC ? AP_ENOSPC : AP_EIO, AP_FATAL, "writing a segment: %s", strerror(io_errno));
    return faiss_failed(err, AP_EIO, "writing a segment");
}

int ap_ann_load(int fd, struct ap_ann **out, struct ap_err *err)
{
    char why[200];
    struct ap_ann *a = calloc(1, sizeof *a);
    if (!a)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a segment");
    io_fd = fd;
    io_errno = 0;
    int rc = 0;
    use_threads(1);
    if (read_index(read_fd, &a->index) != 0)
        rc = io_errno ? ap_err_set(err, AP_EIO, AP_FATAL, "reading a segment: %s", strerror(io_errno))
                      : faiss_failed(err, AP_ECORRUPT, "reading a segment");
    else if (ap_faiss_ann_sound(a->index, why, sizeof why) != 0)
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "reading a segment: %s", why);
    if (rc < 0) {
        ap_ann_free(&a);
        return rc;
    }
    a->dim = (uint32_t)faiss_Index_d(a->index);
    *out = a;
    return 0;
}

uint32_t ap_ann_dim(const struct ap_ann *a) { return a->dim; }
size_t ap_ann_count(const struct ap_ann *a) { return (size_t)faiss_Index_ntotal(a->index); }
size_t ap_ann_bytes(const struct ap_ann *a) { return ap_faiss_bytes(a->index); }

void ap_ann_free(struct ap_ann **ann)
{
    struct ap_ann *a = *ann;
    *ann = NULL;
    if (!a)
        return;
    faiss_Index_free(a->index);
    free(a);
}

/* ---- flat ---- */

void ap_flat_scores(enum ap_distance distance, const float *query, const float *rows, uint32_t dim, size_t n, float *scores)
{
    if (n == 0)
        return;
    if (distance == AP_EUCLID)
        faiss_fvec_L2sqr_ny(scores, query, rows, dim, n);
    else
        faiss_fvec_inner_products_ny(scores, query, rows, dim, n);
}

float ap_normalize(float *vector, uint32_t dim)
{
    double sum = 0;
    for (uint32_t i = 0; i < dim; i++)
        sum += (double)vector[i] * (double)vector[i];
    double norm = sqrt(sum);
    if (norm > 0)
        for (uint32_t i = 0; i < dim; i++)
            vector[i] = (float)(vector[i] / norm);
    return (float)norm;
}
