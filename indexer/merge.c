/* One sealed segment out of several: live slots of all, in order; a sample trains; all are added block by block.
 *
 * Vectors are read from the store, raw where it has them, each block under a snapshot of its own: memory is the sample, a
 * block and the result. Lists need two passes: one finds each row's list, one writes it where it belongs. A row that is
 * gone by then was replaced meanwhile; it is left out, or stays a place that never comes to life. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "common/log.h"
#include "indexer/index_impl.h"

#define BLOCK 512
#define SAMPLE_BYTES (32u << 20)
#define FAISS_ROWS 2048     /* fewer need no structure, whatever the configuration names */
#define SAMPLE_PER_LIST 24
#define ITERATIONS 6

static int by_slot(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void gather(struct ap_segment **sources, size_t count, struct ap_slots *out)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t n = atomic_load_explicit(&sources[i]->count, memory_order_acquire);
        if (out->cap < out->count + n) {
            out->cap = out->count + n;
            out->items = realloc(out->items, (out->cap + 1) * sizeof *out->items);
            if (!out->items)
                abort();
        }
        for (uint32_t j = 0; j < n; j++)
            if (ap_segment_live(sources[i], j))
                out->items[out->count++] = ap_segment_slot(sources[i], j);
    }
    qsort(out->items, out->count, sizeof *out->items, by_slot);
}

/* Vectors of some slots, under one snapshot. */
static int read_block(struct ap_index *index, const struct ap_state *state, const uint64_t *slots, size_t n, size_t step,
                      struct ap_vector_batch *batch, struct ap_err *err)
{
    struct ap_snapshot *snapshot;
    int rc = ap_snapshot_begin(index->store, &snapshot, err);
    if (rc < 0)
        return rc;
    ap_vector_batch_clear(batch, state);
    for (size_t i = 0; i < n; i++) {
        struct ap_row row;
        if (ap_snapshot_row(snapshot, slots[i * step], &row, NULL) == 0)
            ap_vector_batch_add(batch, snapshot, slots[i * step], &row);
    }
    ap_vector_batch_finish(batch);
    ap_snapshot_end(&snapshot);
    return atomic_load(&index->closing) ? ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the index is closing") : 0;
}

struct merging {
    struct ap_index *index;
    const struct ap_state *state;
    const struct ap_control_collection *params;
    struct ap_slots slots;
    struct ap_vector_batch *batch;
    float *sample; size_t sample_count;
    struct ap_segfile file;
};

/* Evenly over all slots. */
static int take_sample(struct merging *m, size_t wanted, struct ap_err *err)
{
    size_t dim = m->params->dim, most = SAMPLE_BYTES / (dim * sizeof(float));
    wanted = wanted < most ? wanted : most;
    wanted = wanted < m->slots.count ? wanted : m->slots.count;
    wanted = wanted > 0 ? wanted : 1;
    size_t step = m->slots.count / wanted;
    m->sample = malloc(wanted * dim * sizeof *m->sample);
    if (!m->sample)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a sample of %zu vectors", wanted);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < wanted; i += BLOCK) {
        size_t n = wanted - i < BLOCK ? wanted - i : BLOCK;
        rc = read_block(m->index, m->state, m->slots.items + i * step, n, step, m->batch, err);
        for (size_t j = 0; rc == 0 && j < m->batch->count; j++)
            if (m->batch->usable[j])
                memcpy(m->sample + m->sample_count++ * dim, m->batch->vectors + j * dim, dim * sizeof *m->sample);
    }
    return rc;
}

static void drop_sample(struct merging *m)
{
    free(m->sample);
    m->sample = NULL;
}

/* ---- a FAISS structure ---- */

static int add_to_faiss(struct merging *m, struct ap_ann *ann, uint32_t *offsets, uint32_t *count, struct ap_err *err)
{
    struct ap_vector_batch *b = m->batch;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->slots.count; i += BLOCK) {
        size_t n = m->slots.count - i < BLOCK ? m->slots.count - i : BLOCK, kept = 0;
        rc = read_block(m->index, m->state, m->slots.items + i, n, 1, b, err);
        for (size_t j = 0; rc == 0 && j < b->count; j++) {
            if (!b->usable[j])
                continue;
            if (kept != j)
                memmove(b->vectors + kept * b->dim, b->vectors + j * b->dim, b->dim * sizeof *b->vectors);
            offsets[*count + kept++] = (uint32_t)(b->slots[j] - m->slots.items[0]);
        }
        if (rc == 0)
            rc = ap_ann_add(ann, b->vectors, kept, m->index->options.build_threads, err);
        *count += (uint32_t)kept;
    }
    return rc;
}

static int merge_faiss(struct merging *m, const char *factory, uint64_t collection, struct ap_segment **out, struct ap_err *err)
{
    struct ap_ann *ann = NULL;
    uint32_t *offsets = malloc(m->slots.count * sizeof *offsets), count = 0;
    const char *ivf = strstr(factory, "IVF");
    size_t lists = ivf ? strtoul(ivf + 3, NULL, 10) : 0;
    if (!offsets)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a segment of %zu rows", m->slots.count);
    int rc = take_sample(m, lists * 24 > 10000 ? lists * 24 : 10000, err);
    if (rc == 0 && m->sample_count > 0)
        rc = ap_ann_train(factory, m->params->dim, m->params->distance, m->sample, m->sample_count, m->index->options.build_threads, &ann, err);
    drop_sample(m);
    if (rc == 0 && ann)
        rc = add_to_faiss(m, ann, offsets, &count, err);
    if (rc == 0 && count > 0) {
        *out = ap_segment_faiss(collection, m->params->distance, ann, m->slots.items[0], offsets, count);
        if (!*out)
            abort();
        return 0;
    }
    ap_ann_free(&ann);
    free(offsets);
    return rc;
}

/* ---- lists of 8-bit rows ---- */

/* A list for each slot; NONE for a row that is gone. */
#define NONE UINT32_MAX
static int assign(struct merging *m, const struct ap_ann *coarse, uint32_t *list_of, uint32_t *sizes, uint32_t *count, struct ap_err *err)
{
    int64_t ordinals[BLOCK];
    float scores[BLOCK];
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->slots.count; i += BLOCK) {
        size_t n = m->slots.count - i < BLOCK ? m->slots.count - i : BLOCK;
        rc = read_block(m->index, m->state, m->slots.items + i, n, 1, m->batch, err);
        if (rc == 0 && coarse)
            rc = ap_ann_nearest(coarse, m->batch->vectors, m->batch->count, m->index->options.build_threads, ordinals, scores, err);
        for (size_t j = 0, at = i; rc == 0 && j < m->batch->count; j++) {
            while (m->slots.items[at] != m->batch->slots[j])
                at++;
            if (!m->batch->usable[j] || (coarse && ordinals[j] < 0))
                continue;
            list_of[at] = coarse ? (uint32_t)ordinals[j] : 0;
            sizes[list_of[at]]++;
            (*count)++;
        }
    }
    return rc;
}

/* Every assigned row to its place. */
static int fill(struct merging *m, struct ap_ivf8 *v, const uint32_t *list_of, uint32_t *next, struct ap_err *err)
{
    size_t stride = ap_q8_stride(v->dim);
    uint32_t rank = 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->slots.count; i += BLOCK) {
        size_t n = m->slots.count - i < BLOCK ? m->slots.count - i : BLOCK, j = 0;
        rc = read_block(m->index, m->state, m->slots.items + i, n, 1, m->batch, err);
        for (size_t at = i; rc == 0 && at < i + n; at++) {
            if (list_of[at] == NONE)
                continue;
            while (j < m->batch->count && m->batch->slots[j] < m->slots.items[at])
                j++;
            uint32_t ordinal = next[list_of[at]]++;
            v->offsets[ordinal] = (uint32_t)(m->slots.items[at] - m->slots.items[0]);
            v->order[rank++] = ordinal;
            if (j < m->batch->count && m->batch->slots[j] == m->slots.items[at] && m->batch->usable[j])
                ap_q8_encode(m->batch->vectors + j * v->dim, v->dim, v->rows + ordinal * stride, &v->row_meta[ordinal]);
            else
                memset(v->rows + ordinal * stride, 128, stride);
        }
    }
    return rc;
}

/* Centroids of so many lists; *coarse NULL and one list of all when the sample is too small. */
static int find_centroids(struct merging *m, uint32_t *lists, float **centroids, struct ap_ann **coarse, struct ap_err *err)
{
    uint32_t dim = m->params->dim;
    int rc = *lists > 1 ? take_sample(m, (size_t)*lists * SAMPLE_PER_LIST, err) : 0;
    if (m->sample_count < (size_t)*lists * 4)
        *lists = 1;
    *centroids = calloc((size_t)*lists * dim, sizeof **centroids);
    if (!*centroids)
        rc = ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for %u centroids", *lists);
    if (rc == 0 && *lists > 1) {
        rc = ap_ann_centroids(dim, m->params->distance, m->sample, m->sample_count, *lists, ITERATIONS, m->index->options.build_threads, *centroids, err);
        drop_sample(m);
        if (rc == 0)
            rc = ap_ann_build("Flat", dim, m->params->distance, *centroids, *lists, 1, coarse, err);
    }
    return rc;
}

static int write_lists(struct merging *m, uint32_t lists, const float *centroids, const uint32_t *list_of, uint32_t *sizes, uint32_t count,
                       uint64_t collection, struct ap_segment **out, struct ap_err *err)
{
    uint32_t dim = m->params->dim;
    struct ap_segfile file;
    struct ap_ivf8 v;
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id)
        abort();
    int rc = ap_segfile_begin(m->index, id, ap_ivf8_bytes(dim, lists, count), &file, err);
    if (rc < 0)
        return rc;
    ap_ivf8_map(&v, file.image, dim, lists, count);
    for (uint32_t i = 0; i < lists; i++) {
        v.starts[i + 1] = v.starts[i] + sizes[i];
        ap_q8_encode(centroids + (size_t)i * dim, dim, v.centroids + i * ap_q8_stride(dim), &v.centroid_meta[i]);
        sizes[i] = v.starts[i];
    }
    rc = fill(m, &v, list_of, sizes, err);
    if (rc < 0) {
        ap_segfile_abandon(m->index, id, &file);
        return rc;
    }
    struct ap_segment *s = ap_segment_lists(collection, m->params->distance, file.map, file.map_bytes, &v, m->slots.items[0]);
    if (!s)
        abort();
    s->file_id = id;
    *out = s;
    m->file = file;
    return 0;
}

static int merge_lists(struct merging *m, uint64_t collection, struct ap_segment **out, struct ap_err *err)
{
    uint32_t lists = ap_ivf8_lists_for(m->slots.count), count = 0;
    float *centroids = NULL;
    struct ap_ann *coarse = NULL;
    int rc = find_centroids(m, &lists, &centroids, &coarse, err);
    uint32_t *list_of = malloc(m->slots.count * sizeof *list_of), *sizes = calloc(lists, sizeof *sizes);
    if (!list_of || !sizes)
        abort();
    for (size_t i = 0; i < m->slots.count; i++)
        list_of[i] = NONE;
    if (rc == 0)
        rc = assign(m, coarse, list_of, sizes, &count, err);
    if (rc == 0 && count > 0)
        rc = write_lists(m, lists, centroids, list_of, sizes, count, collection, out, err);
    ap_ann_free(&coarse);
    free(centroids);
    free(list_of);
    free(sizes);
    return rc;
}

/* ---- */

/* On disk; when that fails it serves from memory and is built again at the next start. */
static int keep(struct merging *m, struct ap_segment **segment, struct ap_segment **sources, size_t count, struct ap_err *err)
{
    struct ap_segment *s = *segment;
    if (s->file_id == 0 && getrandom(&s->file_id, sizeof s->file_id, 0) != (ssize_t)sizeof s->file_id)
        abort();
    for (size_t i = 0; i < count; i++)
        if (sources[i]->file_id && s->replaces_count < 64)
            s->replaces[s->replaces_count++] = sources[i]->file_id;
    int rc = s->kind == AP_SEGMENT_IVF8 ? ap_segfile_commit(m->index, &m->file, s, err) : ap_segfile_write(m->index, s, err);
    if (rc == 0)
        return 0;
    if (s->kind == AP_SEGMENT_FAISS && !s->ann) {
        ap_segment_unref(segment);
        return rc;
    }
    ap_error("segment of collection %s cannot be kept on disk, only in memory: %s", m->params->name, err->msg);
    return 0;
}

int ap_merge(struct ap_index *index, const struct ap_state *state, const struct ap_definition *definition,
             struct ap_segment **sources, size_t count, struct ap_segment **out, struct ap_err *err)
{
    const struct ap_control_collection *p = &definition->c.params;
    struct merging m = {.index = index, .state = state, .params = p, .batch = ap_vector_batch_new(p->dim, p->distance, BLOCK), .file = {.fd = -1}};
    int rc = 0;
    *out = NULL;
    gather(sources, count, &m.slots);
    if (m.slots.count > 0 && m.slots.items[m.slots.count - 1] - m.slots.items[0] > UINT32_MAX)
        rc = ap_err_set(err, AP_ETOOBIG, AP_RETRY, "the rows lie too far apart in the log for one segment");
    else if (m.slots.count >= FAISS_ROWS && index->options.sealed_factory)
        rc = merge_faiss(&m, index->options.sealed_factory, definition->c.id, out, err);
    else if (m.slots.count > 0)
        rc = merge_lists(&m, definition->c.id, out, err);
    if (rc == 0 && *out)
        rc = keep(&m, out, sources, count, err);
    free(m.sample);
    free(m.slots.items);
    ap_vector_batch_free(&m.batch);
    return rc;
}
