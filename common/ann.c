/* Sealed structures and flat scans over FAISS's C API; what else there is: ann_internal.h.
 *
 * Fails: FAISS throws, the C API keeps the text per thread, and ap_ann_failed() copies it at once. */
#include "common/ann.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <omp.h>
#include <sodium.h>
#include <stdlib.h>

#include <faiss/c_api/Clustering_c.h>
#include <faiss/c_api/IndexFlat_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>
#include <faiss/c_api/utils/distances_c.h>
#include "common/ann_factory.h"
#include "common/ann_internal.h"

void openblas_set_num_threads(int threads);

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

void ap_ann_use_threads(int threads)
{
    static _Thread_local int now = 0;
    if (now != threads) {
        omp_set_num_threads(threads);
        now = threads;
    }
}

int ap_ann_failed(struct ap_err *err, enum ap_code code, const char *what)
{
    const char *text = faiss_get_last_error();
    const char *reason = text ? ap_faiss_reason(text) : "no reason given";
    char line[320];
    size_t n = 0;
    for (const char *p = reason; *p && n < sizeof line - 1; p++)
        line[n++] = (char)(iscntrl((unsigned char)*p) ? ' ' : *p);
    while (n > 0 && line[n - 1] == ' ')
        n--;
    line[n] = '\0';
    return ap_err_set(err, code, code == AP_EINVAL ? AP_POISON : AP_FATAL, "%s: %s", what, line);
}

/* ---- sealed structures ---- */

static int check_dim(const char *factory, uint32_t dim, struct ap_err *err)
{
    FaissIndex *index = NULL;
    int rc = ap_factory_check(factory, dim, err);
    if (rc == 0 && faiss_index_factory(&index, (int)dim, factory, METRIC_L2) != 0)
        rc = ap_ann_failed(err, AP_EINVAL, "FAISS cannot use it");
    faiss_Index_free(index);
    return rc;
}

int ap_ann_check(const char *factory, uint32_t dim, struct ap_err *err)
{
    static const uint32_t usual[] = {768, 840, 1024};
    struct ap_err ignored;
    if (dim)
        return check_dim(factory, dim, err);
    int rc = check_dim(factory, usual[0], err);
    for (size_t i = 1; rc != 0 && i < sizeof usual / sizeof *usual; i++)
        rc = check_dim(factory, usual[i], &ignored);
    /* A number in it may have to divide them. */
    for (const char *p = factory; rc != 0 && *p; p++) {
        char *end;
        unsigned long n = isdigit((unsigned char)*p) ? strtoul(p, &end, 10) : 0;
        if (n > 0)
            p = end - 1;
        if (n > 0 && n <= 1024)
            rc = check_dim(factory, (uint32_t)n * 8, &ignored);
    }
    return rc;
}

/* nprobe that finds 97 % of the true ten on the real embeddings (bench/index.c): about a sixth of the lists of a small
 * index, less of a large one, because lists grow with the root. */
static uint32_t default_effort(const char *factory, size_t lists)
{
    if (strncmp(factory, "HNSW", 4) == 0)
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
    ap_ann_use_threads(threads > 0 ? threads : 1);
    if (faiss_index_factory(&a->index, (int)dim, factory, distance == AP_EUCLID ? METRIC_L2 : METRIC_INNER_PRODUCT) != 0) {
        rc = ap_ann_failed(err, AP_EINVAL, "segment factory string");
    } else {
        char why[200];
        if (!faiss_Index_is_trained(a->index) && ap_faiss_train(a->index, n, vectors, why, sizeof why) != 0)
            rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "training a segment: %s", why);
        else
            ap_faiss_set_effort(a->index, default_effort(factory, ap_faiss_lists(a->index)));
    }
    ap_ann_use_threads(1);
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
    ap_ann_use_threads(threads > 0 ? threads : 1);
    int rc = n > 0 ? faiss_Index_add(a->index, (idx_t)n, vectors) : 0;
    ap_ann_use_threads(1);
    return rc == 0 ? 0 : ap_ann_failed(err, AP_EIO, "adding to a segment");
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

uint32_t ap_ann_effort(const struct ap_ann *a)
{
    return ap_faiss_effort(a->index);
}

int ap_ann_search(const struct ap_ann *a, const float *query, size_t k, uint32_t effort, const uint8_t *live, float *score,
                  int64_t *ordinal, struct ap_err *err)
{
    char why[200];
    ap_ann_use_threads(1);
    if (k == 0)
        return 0;
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
    ap_ann_use_threads(threads > 0 ? threads : 1);
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
        rc = ap_ann_failed(err, AP_EINVAL, "k-means");
    }
    ap_ann_use_threads(1);
    faiss_Clustering_free(clustering);
    faiss_IndexFlat_free(index);
    return rc;
}

int ap_ann_save(const struct ap_ann *a, int fd, struct ap_err *err)
{
    int io_error;
    if (ap_ann_write_fd(a->index, fd, &io_error) == 0)
        return 0;
    if (io_error)
        return ap_err_set(err, io_error == ENOSPC ? AP_ENOSPC : AP_EIO, AP_FATAL, "writing a segment: %s", strerror(io_error));
    return ap_ann_failed(err, AP_EIO, "writing a segment");
}

int ap_ann_load(int fd, struct ap_ann **out, struct ap_err *err)
{
    char why[200];
    int io_error, rc = 0;
    struct ap_ann *a = calloc(1, sizeof *a);
    if (!a)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a segment");
    ap_ann_use_threads(1);
    if (ap_ann_read_fd(fd, &io_error, &a->index) != 0)
        rc = io_error ? ap_err_set(err, AP_EIO, AP_FATAL, "reading a segment: %s", strerror(io_error))
                      : ap_ann_failed(err, AP_ECORRUPT, "reading a segment");
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
    /* Eight sums, which the compiler adds to at once: it must not reorder a single one. */
    double sums[8] = {0}, sum = 0;
    uint32_t i = 0;
    for (; i + 8 <= dim; i += 8)
        for (uint32_t j = 0; j < 8; j++)
            sums[j] += (double)vector[i + j] * (double)vector[i + j];
    for (; i < dim; i++)
        sum += (double)vector[i] * (double)vector[i];
    for (uint32_t j = 0; j < 8; j++)
        sum += sums[j];
    double norm = sqrt(sum), by = 1 / norm;
    if (isnormal(by))
        for (i = 0; i < dim; i++)
            vector[i] = (float)(vector[i] * by);
    else if (norm > 0)
        for (i = 0; i < dim; i++)
            vector[i] = (float)(vector[i] / norm);
    return (float)norm;
}
