/* Distances are |y|^2 - 2xy, which loses digits far from the origin: so all is relative to the mean of a subspace's
 * centroids, and as exact as the differences themselves. */
#include "common/ann_pq.h"

#include <faiss/IndexPQ.h>
#include <faiss/utils/distances.h>

#include <memory>
#include <new>
#include <typeinfo>
#include <vector>

struct ap_pq {
    size_t dim, count, width, centroids; /* count subspaces of width dimensions */
    std::vector<float> means;            /* dim */
    std::vector<float> tables;           /* a subspace's centroids after the other's, component by component */
    std::vector<float> lengths;          /* squared, a centroid */
};

struct ap_pq *ap_pq_new(const FaissIndex *index)
{
    auto *p = reinterpret_cast<const faiss::Index *>(index);
    if (!p || typeid(*p) != typeid(faiss::IndexPQ))
        return nullptr;
    const faiss::ProductQuantizer &pq = static_cast<const faiss::IndexPQ *>(p)->pq;
    if (pq.nbits != 8 || (pq.dsub != 2 && pq.dsub != 4 && pq.dsub != 8))
        return nullptr;
    try {
        auto out = std::make_unique<ap_pq>();
        out->dim = pq.d;
        out->count = pq.M;
        out->width = pq.dsub;
        out->centroids = pq.ksub;
        out->means.resize(pq.d);
        out->tables.resize(pq.d * pq.ksub);
        out->lengths.resize(pq.M * pq.ksub);
        for (size_t m = 0; m < pq.M; m++)
            for (size_t j = 0; j < pq.dsub; j++) {
                double sum = 0;
                for (size_t i = 0; i < pq.ksub; i++)
                    sum += double(pq.get_centroids(m, i)[j]);
                float mean = float(sum / double(pq.ksub));
                out->means[m * pq.dsub + j] = mean;
                for (size_t i = 0; i < pq.ksub; i++) {
                    float y = pq.get_centroids(m, i)[j] - mean;
                    out->tables[(m * pq.dsub + j) * pq.ksub + i] = y;
                    out->lengths[m * pq.ksub + i] += y * y;
                }
            }
        return out.release();
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

static void encode_block(const struct ap_pq *pq, size_t n, const float *vectors, uint8_t *codes)
{
    float x[8], room[256];
    for (size_t m = 0; m < pq->count; m++) {
        const float *means = pq->means.data() + m * pq->width, *table = pq->tables.data() + m * pq->width * pq->centroids;
        const float *lengths = pq->lengths.data() + m * pq->centroids;
        for (size_t i = 0; i < n; i++) {
            const float *v = vectors + i * pq->dim + m * pq->width;
            for (size_t j = 0; j < pq->width; j++)
                x[j] = v[j] - means[j];
            codes[i * pq->count + m] =
                uint8_t(faiss::fvec_L2sqr_ny_nearest_y_transposed(room, x, table, lengths, pq->width, pq->centroids, pq->centroids));
        }
    }
}

void ap_pq_encode(const struct ap_pq *pq, size_t n, const float *vectors, uint8_t *codes)
{
    const size_t BLOCK = 128; /* vectors that stay in the second cache */
    for (size_t i = 0; i < n; i += BLOCK)
        encode_block(pq, n - i < BLOCK ? n - i : BLOCK, vectors + i * pq->dim, codes + i * pq->count);
}

void ap_pq_free(struct ap_pq **pq)
{
    delete *pq;
    *pq = nullptr;
}
