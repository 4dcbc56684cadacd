/* See ann_faiss.h. Class by class, what FAISS 1.12 keeps in memory; an unknown class is refused, not trusted. */
#include "common/ann_faiss.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

#include <faiss/Index2Layer.h>
#include <faiss/IndexAdditiveQuantizer.h>
#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPQFastScan.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/ProductAdditiveQuantizer.h>

namespace {

const faiss::Index *unwrap(const FaissIndex *index)
{
    return reinterpret_cast<const faiss::Index *>(index);
}

struct Unsound {
    const char *what;
};

void want(bool ok, const char *what)
{
    if (!ok)
        throw Unsound{what};
}

template <class Body> int guarded(char *why, size_t cap, Body body)
{
    try {
        body();
        return 0;
    } catch (const Unsound &e) {
        snprintf(why, cap, "%s", e.what);
    } catch (const std::exception &e) {
        snprintf(why, cap, "%s", ap_faiss_reason(e.what()));
    } catch (...) {
        snprintf(why, cap, "unknown exception");
    }
    return -1;
}

/* ---- quantizers ---- */

void check_pq(const faiss::ProductQuantizer &pq, size_t d)
{
    want(pq.d == d && pq.M > 0 && d % pq.M == 0 && pq.nbits >= 1 && pq.nbits <= 16, "product quantizer: shape");
    want(pq.dsub == d / pq.M && pq.ksub == size_t(1) << pq.nbits, "product quantizer: derived sizes");
    want(pq.code_size == (pq.nbits * pq.M + 7) / 8, "product quantizer: code size");
    want(pq.centroids.size() == d * pq.ksub, "product quantizer: centroids");
}

void check_sq(const faiss::ScalarQuantizer &sq, size_t d, bool trained)
{
    using SQ = faiss::ScalarQuantizer;
    size_t ranges = 0, bits = 8;
    switch (sq.qtype) {
    case SQ::QT_8bit: ranges = 2 * d; break;
    case SQ::QT_6bit: ranges = 2 * d; bits = 6; break;
    case SQ::QT_4bit: ranges = 2 * d; bits = 4; break;
    case SQ::QT_8bit_uniform: ranges = 2; break;
    case SQ::QT_4bit_uniform: ranges = 2; bits = 4; break;
    case SQ::QT_fp16:
    case SQ::QT_bf16: bits = 16; break;
    default: want(false, "scalar quantizer: this type takes bytes, not vectors");
    }
    want(sq.d == d && sq.code_size == (d * bits + 7) / 8, "scalar quantizer: shape");
    want(!trained || sq.trained.size() == ranges, "scalar quantizer: ranges");
}

void check_additive(const faiss::AdditiveQuantizer &aq, size_t d, bool trained)
{
    want(aq.d == d && aq.M > 0 && aq.nbits.size() == aq.M, "additive quantizer: shape");
    want(aq.search_type == faiss::AdditiveQuantizer::ST_decompress, "additive quantizer: a codec stores no norms");
    if (auto *product = dynamic_cast<const faiss::ProductAdditiveQuantizer *>(&aq)) {
        size_t sum = 0, tables = 0;
        for (const faiss::AdditiveQuantizer *sub : product->quantizers) {
            check_additive(*sub, sub->d, trained);
            sum += sub->d;
            tables += sub->codebooks.size();
        }
        want(product->quantizers.size() == product->nsplits && sum == d, "product additive quantizer: splits");
        want(!trained || aq.codebooks.size() == tables, "product additive quantizer: codebooks");
    }
    size_t total = 0, bits = 0;
    for (size_t n : aq.nbits) {
        want(n <= 16, "additive quantizer: more than 16 bits a step");
        total += size_t(1) << n;
        bits += n;
    }
    want(aq.total_codebook_size == total && aq.code_size == (bits + 7) / 8, "additive quantizer: derived sizes");
    want(!trained || aq.is_trained, "additive quantizer: not trained");
    want(!trained || dynamic_cast<const faiss::ProductAdditiveQuantizer *>(&aq) || aq.codebooks.size() == total * d, "additive quantizer: codebooks");
}

void check_transform(const faiss::VectorTransform &t, bool trained)
{
    want(t.d_in > 0 && t.d_out > 0, "transform: shape");
    size_t in = size_t(t.d_in), out = size_t(t.d_out);
    if (auto *linear = dynamic_cast<const faiss::LinearTransform *>(&t)) {
        want(!trained || linear->A.size() == in * out, "linear transform: matrix");
        want(!trained || !linear->have_bias || linear->b.size() == out, "linear transform: bias");
        if (auto *pca = dynamic_cast<const faiss::PCAMatrix *>(&t))
            want(!trained || pca->eigen_power == 0 || pca->eigenvalues.size() >= out, "PCA: eigenvalues");
    } else if (auto *remap = dynamic_cast<const faiss::RemapDimensionsTransform *>(&t)) {
        want(remap->map.size() == out, "remapping: size");
        for (int i : remap->map)
            want(i >= -1 && i < t.d_in, "remapping: index");
    } else if (auto *centering = dynamic_cast<const faiss::CenteringTransform *>(&t)) {
        want(in == out && (!trained || centering->mean.size() == in), "centering: mean");
    } else {
        want(dynamic_cast<const faiss::NormalizationTransform *>(&t) != nullptr && in == out, "transform: unknown kind");
    }
    want(!trained || t.is_trained, "transform: not trained");
}

void check_coarse(const faiss::Level1Quantizer &q, size_t d, bool trained)
{
    auto *flat = dynamic_cast<const faiss::IndexFlat *>(q.quantizer);
    want(flat != nullptr && size_t(flat->d) == d, "coarse quantizer: only a flat one encodes alone");
    /* Codes come from elsewhere: one that names a list beyond the last would end the process, or worse. */
    want(q.nlist == 256 || q.nlist == 65536, "coarse quantizer: 256 or 65536 lists, so that every code names one");
    want(!trained || (size_t(flat->ntotal) == q.nlist && flat->codes.size() == q.nlist * d * sizeof(float)),
         "coarse quantizer: centroids");
}

void check_codec(const faiss::Index *index, size_t d, bool trained)
{
    want(index != nullptr && size_t(index->d) == d, "dimension");
    want(!trained || index->is_trained, "not trained");
    if (auto *pre = dynamic_cast<const faiss::IndexPreTransform *>(index)) {
        int in = index->d;
        for (const faiss::VectorTransform *t : pre->chain) {
            want(t != nullptr && t->d_in == in, "transform: chain");
            check_transform(*t, trained);
            in = t->d_out;
        }
        want(!pre->chain.empty() && !dynamic_cast<const faiss::IndexPreTransform *>(pre->index), "transform: nesting");
        check_codec(pre->index, size_t(in), trained);
        return;
    }
    auto *ivf = dynamic_cast<const faiss::IndexIVF *>(index);
    want(index->ntotal == 0, "a codec holds no vectors");
    if (ivf) {
        check_coarse(*ivf, d, trained);
        if (auto *pq = dynamic_cast<const faiss::IndexIVFPQ *>(index))
            check_pq(pq->pq, d);
        else if (auto *sq = dynamic_cast<const faiss::IndexIVFScalarQuantizer *>(index))
            check_sq(sq->sq, d, trained);
        else
            want(false, "this inverted file has no standalone codec; use IVF<n>,PQ<m> or IVF<n>,SQ<bits>");
    } else if (auto *two = dynamic_cast<const faiss::Index2Layer *>(index)) {
        check_coarse(two->q1, d, trained);
        check_pq(two->pq, d);
    } else if (auto *pq = dynamic_cast<const faiss::IndexPQ *>(index)) {
        check_pq(pq->pq, d);
    } else if (auto *fast = dynamic_cast<const faiss::IndexPQFastScan *>(index)) {
        check_pq(fast->pq, d);
        want(fast->code_size == fast->pq.code_size && fast->M == fast->pq.M, "fast scan: shape");
    } else if (auto *sq = dynamic_cast<const faiss::IndexScalarQuantizer *>(index)) {
        check_sq(sq->sq, d, trained);
    } else if (auto *aq = dynamic_cast<const faiss::IndexAdditiveQuantizer *>(index)) {
        want(aq->aq != nullptr, "additive quantizer: missing");
        want(!dynamic_cast<const faiss::IndexLocalSearchQuantizer *>(index) && !dynamic_cast<const faiss::IndexProductLocalSearchQuantizer *>(index),
             "local search encodes too slowly for a stream; use RQ or PRQ");
        check_additive(*aq->aq, d, trained);
    } else if (auto *rabitq = dynamic_cast<const faiss::IndexRaBitQ *>(index)) {
        want(rabitq->rabitq.d == d && (!trained || rabitq->center.size() == d), "RaBitQ: center");
    } else {
        want(dynamic_cast<const faiss::IndexFlat *>(index) != nullptr, "this index has no standalone codec");
    }
}

/* Reads the bit that the tail thread may be clearing right now. */
struct LiveSelector : faiss::IDSelector {
    const uint8_t *bits;
    explicit LiveSelector(const uint8_t *b) : bits(b) {}
    bool is_member(faiss::idx_t id) const override
    {
        return (__atomic_load_n(bits + (id >> 3), __ATOMIC_RELAXED) >> (id & 7)) & 1;
    }
};

void quiet(faiss::Index *p, std::vector<std::unique_ptr<faiss::ProductQuantizer>> &borrowed)
{
    if (auto *pre = dynamic_cast<faiss::IndexPreTransform *>(p)) {
        for (faiss::VectorTransform *t : pre->chain)
            if (auto *opq = dynamic_cast<faiss::OPQMatrix *>(t)) {
                borrowed.push_back(std::make_unique<faiss::ProductQuantizer>(size_t(opq->d_out), size_t(opq->M), 8));
                borrowed.back()->cp.min_points_per_centroid = 1;
                opq->pq = borrowed.back().get();
            }
        p = pre->index;
    }
    if (auto *pq = dynamic_cast<faiss::IndexPQ *>(p)) {
        pq->pq.cp.min_points_per_centroid = 1;
        pq->do_polysemous_training = false;
    }
    if (auto *fast = dynamic_cast<faiss::IndexPQFastScan *>(p))
        fast->pq.cp.min_points_per_centroid = 1;
    if (auto *two = dynamic_cast<faiss::Index2Layer *>(p)) {
        two->q1.cp.min_points_per_centroid = 1;
        two->pq.cp.min_points_per_centroid = 1;
    }
    if (auto *ivf = dynamic_cast<faiss::IndexIVF *>(p)) {
        ivf->cp.min_points_per_centroid = 1;
        if (auto *ivfpq = dynamic_cast<faiss::IndexIVFPQ *>(p)) {
            ivfpq->pq.cp.min_points_per_centroid = 1;
            ivfpq->do_polysemous_training = false;
        }
    }
}

void take_back(faiss::Index *p)
{
    if (auto *pre = dynamic_cast<faiss::IndexPreTransform *>(p))
        for (faiss::VectorTransform *t : pre->chain)
            if (auto *opq = dynamic_cast<faiss::OPQMatrix *>(t))
                opq->pq = nullptr;
}

/* ---- what training fills ---- */

void fill_additive(faiss::AdditiveQuantizer &aq)
{
    size_t tables = aq.total_codebook_size * aq.d;
    if (auto *product = dynamic_cast<faiss::ProductAdditiveQuantizer *>(&aq)) {
        tables = 0;
        for (faiss::AdditiveQuantizer *sub : product->quantizers) {
            fill_additive(*sub);
            tables += sub->codebooks.size();
        }
    }
    aq.codebooks.assign(tables, 0);
    aq.is_trained = true;
}

/* The range of norms that training saw is written too, but a codec that stores no norms does not use it. */
void drop_norms(faiss::AdditiveQuantizer &aq)
{
    aq.norm_min = aq.norm_max = 0;
    if (auto *product = dynamic_cast<faiss::ProductAdditiveQuantizer *>(&aq))
        for (faiss::AdditiveQuantizer *sub : product->quantizers)
            drop_norms(*sub);
}

void drop_norms_of(faiss::Index *p)
{
    if (auto *pre = dynamic_cast<faiss::IndexPreTransform *>(p))
        p = pre->index;
    if (auto *aq = dynamic_cast<faiss::IndexAdditiveQuantizer *>(p))
        drop_norms(*aq->aq);
}

void fill_transform(faiss::VectorTransform &t)
{
    size_t in = size_t(t.d_in), out = size_t(t.d_out);
    if (auto *pca = dynamic_cast<faiss::PCAMatrix *>(&t)) {
        pca->mean.assign(in, 0);
        pca->eigenvalues.assign(in, 0);
        pca->PCAMat.assign(in * in, 0);
        pca->have_bias = true;
    }
    if (auto *linear = dynamic_cast<faiss::LinearTransform *>(&t)) {
        linear->A.assign(in * out, 0);
        if (linear->have_bias)
            linear->b.assign(out, 0);
    } else if (auto *centering = dynamic_cast<faiss::CenteringTransform *>(&t)) {
        centering->mean.assign(in, 0);
    }
    t.is_trained = true;
}

void fill_coarse(faiss::Level1Quantizer &q, size_t d)
{
    std::vector<float> zeroes(q.nlist * d);
    q.quantizer->add(faiss::idx_t(q.nlist), zeroes.data());
}

void fill_sq(faiss::ScalarQuantizer &sq, size_t d)
{
    using SQ = faiss::ScalarQuantizer;
    bool uniform = sq.qtype == SQ::QT_8bit_uniform || sq.qtype == SQ::QT_4bit_uniform;
    bool ranges = sq.qtype == SQ::QT_8bit || sq.qtype == SQ::QT_6bit || sq.qtype == SQ::QT_4bit;
    sq.trained.assign(uniform ? 2 : ranges ? 2 * d : 0, 0);
}

void fill(faiss::Index *index)
{
    size_t d = size_t(index->d);
    if (auto *pre = dynamic_cast<faiss::IndexPreTransform *>(index)) {
        for (faiss::VectorTransform *t : pre->chain)
            fill_transform(*t);
        fill(pre->index);
    } else if (auto *ivf = dynamic_cast<faiss::IndexIVF *>(index)) {
        fill_coarse(*ivf, d);
        if (auto *sq = dynamic_cast<faiss::IndexIVFScalarQuantizer *>(index))
            fill_sq(sq->sq, d);
    } else if (auto *two = dynamic_cast<faiss::Index2Layer *>(index)) {
        fill_coarse(two->q1, d);
    } else if (auto *sq = dynamic_cast<faiss::IndexScalarQuantizer *>(index)) {
        fill_sq(sq->sq, d);
    } else if (auto *aq = dynamic_cast<faiss::IndexAdditiveQuantizer *>(index)) {
        fill_additive(*aq->aq);
    } else if (auto *rabitq = dynamic_cast<faiss::IndexRaBitQ *>(index)) {
        rabitq->center.assign(d, 0);
    }
    index->is_trained = true;
}

size_t bytes_of(const faiss::Index *index)
{
    size_t bytes = 0;
    if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(index)) {
        bytes += bytes_of(ivf->quantizer);
        for (size_t i = 0; ivf->invlists && i < ivf->nlist; i++)
            bytes += ivf->invlists->list_size(i) * (ivf->invlists->code_size + sizeof(faiss::idx_t)) + 48;
    } else if (auto *hnsw = dynamic_cast<const faiss::IndexHNSW *>(index)) {
        bytes += bytes_of(hnsw->storage) + hnsw->hnsw.neighbors.size() * sizeof(hnsw->hnsw.neighbors[0]) +
                 hnsw->hnsw.offsets.size() * sizeof(hnsw->hnsw.offsets[0]) + hnsw->hnsw.levels.size() * sizeof(int);
    } else if (auto *flat = dynamic_cast<const faiss::IndexFlatCodes *>(index)) {
        bytes += flat->codes.size();
    }
    return bytes;
}

} // namespace

extern "C" {

const char *ap_faiss_reason(const char *what)
{
    const char *reason = what;
    if (strncmp(what, "Error in ", 9) == 0)
        for (const char *p = what; (p = strchr(p, ':')) != nullptr;) {
            const char *digits = ++p;
            while (isdigit(static_cast<unsigned char>(*p)))
                p++;
            if (p > digits && p[0] == ':' && p[1] == ' ') {
                reason = p + 2;
                break;
            }
        }
    return strncmp(reason, "Error: ", 7) == 0 ? reason + 7 : reason;
}

int ap_faiss_train(FaissIndex *index, size_t n, const float *vectors, char *why, size_t cap)
{
    return guarded(why, cap, [&] {
        auto *p = reinterpret_cast<faiss::Index *>(index);
        std::vector<std::unique_ptr<faiss::ProductQuantizer>> borrowed;
        quiet(p, borrowed);
        /* Also when training throws: the quantizers that a transform borrowed end with this call. */
        struct Return {
            faiss::Index *index;
            ~Return() { take_back(index); }
        } at_end{p};
        p->train(faiss::idx_t(n), vectors);
        drop_norms_of(p);
    });
}

int ap_faiss_codec_sound(const FaissIndex *index, uint32_t dim, int trained, char *why, size_t cap)
{
    return guarded(why, cap, [&] { check_codec(unwrap(index), dim, trained != 0); });
}

int ap_faiss_fill(FaissIndex *index, char *why, size_t cap)
{
    return guarded(why, cap, [&] {
        fill(reinterpret_cast<faiss::Index *>(index));
        drop_norms_of(reinterpret_cast<faiss::Index *>(index));
    });
}

int ap_faiss_ann_sound(const FaissIndex *index, char *why, size_t cap)
{
    return guarded(why, cap, [&] {
        const faiss::Index *p = unwrap(index);
        want(p->d > 0 && p->ntotal >= 0 && p->is_trained, "shape");
        if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(p)) {
            want(ivf->invlists && ivf->invlists->nlist == ivf->nlist && ivf->quantizer->ntotal == faiss::idx_t(ivf->nlist), "lists");
            size_t n = 0;
            for (size_t i = 0; i < ivf->nlist; i++)
                n += ivf->invlists->list_size(i);
            want(n == size_t(p->ntotal), "vectors in the lists");
        } else if (auto *hnsw = dynamic_cast<const faiss::IndexHNSW *>(p)) {
            want(hnsw->storage && hnsw->storage->ntotal == p->ntotal, "HNSW storage");
        } else {
            auto *flat = dynamic_cast<const faiss::IndexFlatCodes *>(p);
            want(flat != nullptr, "only IVF, HNSW and flat codes serve as segments");
            want(flat->codes.size() == size_t(p->ntotal) * flat->code_size, "codes");
        }
    });
}

size_t ap_faiss_lists(const FaissIndex *index)
{
    auto *ivf = dynamic_cast<const faiss::IndexIVF *>(unwrap(index));
    return ivf ? ivf->nlist : 0;
}

void ap_faiss_set_effort(FaissIndex *index, uint32_t effort)
{
    auto *p = reinterpret_cast<faiss::Index *>(index);
    if (auto *ivf = dynamic_cast<faiss::IndexIVF *>(p))
        ivf->nprobe = effort;
    else if (auto *hnsw = dynamic_cast<faiss::IndexHNSW *>(p))
        hnsw->hnsw.efSearch = int(effort);
}

uint32_t ap_faiss_effort(const FaissIndex *index)
{
    if (auto ivf = dynamic_cast<const faiss::IndexIVF *>(unwrap(index)))
        return uint32_t(ivf->nprobe);
    if (auto hnsw = dynamic_cast<const faiss::IndexHNSW *>(unwrap(index)))
        return uint32_t(hnsw->hnsw.efSearch);
    return 0;
}

int ap_faiss_search(const FaissIndex *index, const float *query, size_t k, uint32_t effort, const uint8_t *live,
                    float *scores, int64_t *ordinals, char *why, size_t cap)
{
    return guarded(why, cap, [&] {
        const faiss::Index *p = unwrap(index);
        LiveSelector selector(live);
        faiss::IDSelector *sel = live ? &selector : nullptr;
        if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(p)) {
            faiss::SearchParametersIVF params;
            params.nprobe = effort ? std::min(size_t(effort), ivf->nlist) : ivf->nprobe;
            params.sel = sel;
            p->search(1, query, faiss::idx_t(k), scores, ordinals, &params);
        } else if (auto *hnsw = dynamic_cast<const faiss::IndexHNSW *>(p)) {
            faiss::SearchParametersHNSW params;
            params.efSearch = std::max(effort ? int(std::min(effort, 1u << 20)) : hnsw->hnsw.efSearch, int(k));
            params.sel = sel;
            p->search(1, query, faiss::idx_t(k), scores, ordinals, &params);
        } else {
            faiss::SearchParameters params;
            params.sel = sel;
            p->search(1, query, faiss::idx_t(k), scores, ordinals, sel ? &params : nullptr);
        }
    });
}

size_t ap_faiss_bytes(const FaissIndex *index)
{
    return bytes_of(unwrap(index));
}

} // extern "C"
