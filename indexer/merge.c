/* One sealed segment out of several: live slots of all, in order; a sample trains; all are added block by block.
 *
 * Lists take their rows from the sources as they are, 8-bit rows of the same vectors. Where the store has raw vectors, which
 * may have come after the source was made, or where a source is a FAISS structure or has small rows, vectors are read from the store, each
 * block under a snapshot of its own. Memory is the sample, a block a thread and the result. Lists need two passes: one finds
 * each row's list, one writes it where it belongs. Blocks are shared out among build_threads; none depends on another, so the
 * segment is the same whatever their number. A row that is gone from the store by then was replaced meanwhile; it is left out,
 * or stays a place that never comes to life. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "common/log.h"
#include "common/parallel.h"
#include "indexer/cluster.h"
#include "indexer/index_impl.h"
#include "indexer/rotate.h"
#include "indexer/tier.h"

#define BLOCK 512
#define SAMPLE_BYTES (32u << 20)
#define FAISS_ROWS 2048     /* fewer need no structure, whatever the configuration names */
#define SAMPLE_PER_LIST 24
#define ITERATIONS 6

struct place { uint64_t slot; uint32_t ordinal, source; };

static int by_slot(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* What a thread reads a block with. */
struct reader {
    struct ap_vector_batch *batch;
    uint8_t *block; struct ap_q8_meta block_meta[BLOCK]; /* rows that the sources have not as they should be */
    const uint8_t *rows[BLOCK]; const struct ap_q8_meta *metas[BLOCK]; /* of the current block; NULL: gone */
    struct ap_cluster_room room;
    float *floats; /* a row and its centroid: where small rows are made */
};

struct merging {
    struct ap_index *index;
    const struct ap_state *state;
    const struct ap_control_collection *params;
    struct ap_segment **sources;
    struct place *places; size_t count; /* of the live rows, by slot */
    struct reader *readers; int threads; /* one each; the first is the builder's */
    float *sample; size_t sample_count;
    bool direct;                        /* rows are taken from the sources */
    bool small;                         /* the segment is to have rows of one bit a component */
    struct ap_segfile file;
};

/* No more threads than blocks. */
static void open_readers(struct merging *m)
{
    size_t blocks = m->count / BLOCK + 1, wanted = (size_t)m->index->options.build_threads;
    m->threads = (int)(wanted < blocks ? wanted : blocks);
    m->readers = calloc((size_t)m->threads, sizeof *m->readers);
    if (!m->readers)
        abort();
    for (int t = 0; t < m->threads; t++) {
        m->readers[t].batch = ap_vector_batch_new(m->params->dim, m->params->distance, BLOCK);
        m->readers[t].block = malloc(BLOCK * ap_q8_stride(m->params->dim));
        m->readers[t].floats = malloc(2 * m->params->dim * sizeof *m->readers[t].floats);
        if (!m->readers[t].block || !m->readers[t].floats)
            abort();
    }
}

static void close_readers(struct merging *m)
{
    for (int t = 0; t < m->threads; t++) {
        ap_vector_batch_free(&m->readers[t].batch);
        ap_cluster_room_fini(&m->readers[t].room);
        free(m->readers[t].block);
        free(m->readers[t].floats);
    }
    free(m->readers);
}

static void gather(struct merging *m, size_t count)
{
    bool rising = true;
    size_t room = 1;
    for (size_t i = 0; i < count; i++)
        room += atomic_load_explicit(&m->sources[i]->count, memory_order_acquire);
    m->places = malloc(room * sizeof *m->places);
    if (!m->places)
        abort();
    for (size_t i = 0; i < count; i++) {
        const struct ap_segment *s = m->sources[i];
        uint32_t n = atomic_load_explicit(&s->count, memory_order_acquire);
        for (uint32_t rank = 0; rank < n && m->count < room; rank++) {
            uint32_t ordinal = ap_segment_nth(s, rank);
            if (!ap_segment_live(s, ordinal))
                continue;
            struct place at = {ap_segment_slot(s, ordinal), ordinal, (uint32_t)i};
            rising = rising && (m->count == 0 || m->places[m->count - 1].slot < at.slot);
            m->places[m->count++] = at;
        }
    }
    if (!rising)
        qsort(m->places, m->count, sizeof *m->places, by_slot);
}

static uint64_t slot_of(const struct merging *m, size_t i) { return m->places[i].slot; }

static int go_on(const struct merging *m, struct ap_err *err)
{
    return atomic_load(&m->index->closing) ? ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the index is closing") : 0;
}

/* Vectors of every step-th row from `from` on, n of them, under one snapshot. */
static int read_block(const struct merging *m, struct reader *r, size_t from, size_t n, size_t step, struct ap_err *err)
{
    struct ap_snapshot *snapshot;
    int rc = ap_snapshot_begin(m->index->store, &snapshot, err);
    if (rc < 0)
        return rc;
    ap_vector_batch_clear(r->batch, m->state);
    for (size_t i = 0; i < n; i++) {
        uint64_t slot = slot_of(m, from + i * step);
        struct ap_row row;
        if (ap_snapshot_row(snapshot, slot, &row, NULL) == 0)
            ap_vector_batch_add(r->batch, snapshot, slot, &row);
    }
    ap_vector_batch_finish(r->batch);
    ap_snapshot_end(&snapshot);
    return go_on(m, err);
}

/* The same as 8-bit rows, into the reader's rows and metas. */
static int load_block(const struct merging *m, struct reader *r, size_t from, size_t n, size_t step, struct ap_err *err)
{
    size_t stride = ap_q8_stride(m->params->dim);
    if (m->direct) {
        for (size_t i = 0; i < n; i++) {
            const struct place *p = &m->places[from + i * step];
            const struct ap_segment *s = m->sources[p->source];
            r->rows[i] = (s->hot ? s->codes : s->lists.rows) + p->ordinal * stride;
            r->metas[i] = (s->hot ? s->meta : s->lists.row_meta) + p->ordinal;
        }
        return go_on(m, err);
    }
    int rc = read_block(m, r, from, n, step, err);
    for (size_t i = 0, j = 0; rc == 0 && i < n; i++) {
        bool here = j < r->batch->count && r->batch->slots[j] == slot_of(m, from + i * step);
        r->rows[i] = NULL;
        if (here && r->batch->usable[j]) {
            r->rows[i] = r->block + i * stride;
            r->metas[i] = &r->block_meta[i];
            ap_rotate(r->batch->vectors + j * m->params->dim, m->params->dim);
            ap_q8_encode(r->batch->vectors + j * m->params->dim, m->params->dim, r->block + i * stride, &r->block_meta[i]);
        }
        j += here;
    }
    return rc;
}

/* Have the sources the rows as they should be? Not where raw vectors may have come since. */
static int choose_direct(struct merging *m, size_t count, struct ap_err *err)
{
    enum { LOOKS = 256 };
    m->direct = true;
    for (size_t i = 0; i < count; i++)
        m->direct = m->direct && m->sources[i]->kind != AP_SEGMENT_FAISS && !ap_segment_is_small(m->sources[i]);
    if (!m->direct || !m->params->raw_home)
        return 0;
    struct ap_snapshot *snapshot;
    int rc = ap_snapshot_begin(m->index->store, &snapshot, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < LOOKS && m->direct; i++) {
        const uint8_t *bytes;
        size_t len;
        m->direct = ap_snapshot_raw(snapshot, slot_of(m, m->count * i / LOOKS), &bytes, &len) != 0;
    }
    ap_snapshot_end(&snapshot);
    return 0;
}

/* ---- a FAISS structure ---- */

/* Evenly over all slots. */
static int take_sample(struct merging *m, size_t wanted, struct ap_err *err)
{
    size_t dim = m->params->dim, most = SAMPLE_BYTES / (dim * sizeof(float));
    wanted = wanted < most ? wanted : most;
    wanted = wanted < m->count ? wanted : m->count;
    wanted = wanted > 0 ? wanted : 1;
    size_t step = m->count / wanted;
    const struct ap_vector_batch *b = m->readers[0].batch;
    m->sample = malloc(wanted * dim * sizeof *m->sample);
    if (!m->sample)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a sample of %zu vectors", wanted);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < wanted; i += BLOCK) {
        size_t n = wanted - i < BLOCK ? wanted - i : BLOCK;
        rc = read_block(m, m->readers, i * step, n, step, err);
        for (size_t j = 0; rc == 0 && j < b->count; j++)
            if (b->usable[j])
                memcpy(m->sample + m->sample_count++ * dim, b->vectors + j * dim, dim * sizeof *m->sample);
    }
    return rc;
}

static void drop_sample(struct merging *m)
{
    free(m->sample);
    m->sample = NULL;
}

static int add_to_faiss(struct merging *m, struct ap_ann *ann, uint32_t *offsets, uint32_t *count, struct ap_err *err)
{
    struct ap_vector_batch *b = m->readers[0].batch;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < m->count; i += BLOCK) {
        size_t n = m->count - i < BLOCK ? m->count - i : BLOCK, kept = 0;
        rc = read_block(m, m->readers, i, n, 1, err);
        for (size_t j = 0; rc == 0 && j < b->count; j++) {
            if (!b->usable[j])
                continue;
            if (kept != j)
                memmove(b->vectors + kept * b->dim, b->vectors + j * b->dim, b->dim * sizeof *b->vectors);
            offsets[*count + kept++] = (uint32_t)(b->slots[j] - slot_of(m, 0));
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
    uint32_t *offsets = malloc(m->count * sizeof *offsets), count = 0;
    const char *ivf = strstr(factory, "IVF");
    size_t lists = ivf ? strtoul(ivf + 3, NULL, 10) : 0;
    if (!offsets)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a segment of %zu rows", m->count);
    int rc = take_sample(m, lists * 24 > 10000 ? lists * 24 : 10000, err);
    if (rc == 0 && m->sample_count > 0)
        rc = ap_ann_train(factory, m->params->dim, m->params->distance, m->sample, m->sample_count, m->index->options.build_threads, &ann, err);
    drop_sample(m);
    if (rc == 0 && ann)
        rc = add_to_faiss(m, ann, offsets, &count, err);
    if (rc == 0 && count > 0) {
        *out = ap_segment_faiss(collection, m->params->distance, ann, slot_of(m, 0), offsets, count);
        if (!*out)
            abort();
        return 0;
    }
    ap_ann_free(&ann);
    free(offsets);
    return rc;
}

/* ---- lists of 8-bit or small rows ---- */

/* What lists are made of: centroids as 8-bit rows. */
struct coarse { uint32_t lists; uint8_t *rows; struct ap_q8_meta *meta; };

/* A pass over all rows, a block a job. */
#define NONE UINT32_MAX
struct pass {
    struct merging *m;
    const struct coarse *coarse; struct ap_cluster_groups *groups; /* of the first */
    struct ap_ivf8 *out;                                           /* of the second */
    uint32_t *of; /* of each row its list, then its ordinal; NONE where it is gone */
};

static int each_block(struct pass *p, int (*fn)(void *pass, size_t block, int thread, struct ap_err *err), struct ap_err *err)
{
    return ap_parallel(p->m->threads, (p->m->count + BLOCK - 1) / BLOCK, fn, p, err);
}

static size_t rows_of(const struct merging *m, size_t block)
{
    return m->count - block * BLOCK < BLOCK ? m->count - block * BLOCK : BLOCK;
}

static int assign_block(void *arg, size_t block, int thread, struct ap_err *err)
{
    struct pass *p = arg;
    struct reader *r = &p->m->readers[thread];
    size_t n = rows_of(p->m, block);
    int rc = load_block(p->m, r, block * BLOCK, n, 1, err);
    for (size_t j = 0; rc == 0 && j < n; j++)
        p->of[block * BLOCK + j] = !r->rows[j] ? NONE : p->coarse->lists == 1 ? 0 : ap_cluster_nearest(p->groups, &r->room, r->rows[j], r->metas[j]);
    return rc;
}

/* A list for each row, the lists' sizes and their sum. */
static int assign(struct merging *m, const struct coarse *c, uint32_t *list_of, uint32_t *sizes, uint32_t *count, struct ap_err *err)
{
    struct pass p = {.m = m, .coarse = c, .of = list_of};
    p.groups = ap_cluster_groups_new(c->rows, c->meta, c->lists, m->params->dim, m->params->distance);
    for (int t = 0; t < m->threads; t++)
        ap_cluster_room_init(&m->readers[t].room, m->params->dim, c->lists);
    int rc = each_block(&p, assign_block, err);
    ap_cluster_groups_free(&p.groups);
    for (size_t i = 0; rc == 0 && i < m->count; i++) {
        if (list_of[i] == NONE)
            continue;
        sizes[list_of[i]]++;
        (*count)++;
    }
    return rc;
}

/* A row to its place; NULL: it is gone, and never comes to life. */
static void place_row(const struct pass *p, struct reader *r, uint32_t ordinal, const uint8_t *row, const struct ap_q8_meta *meta)
{
    struct ap_ivf8 *v = p->out;
    size_t stride = ap_q8_stride(v->dim), words = ap_sketch_words(v->dim);
    if (v->small && row) {
        uint32_t list = ap_ivf8_list_of(v, ordinal);
        ap_q1_encode(row, meta, v->centroids + list * stride, &v->centroid_meta[list], v->dim, p->m->params->distance, r->floats,
                     v->bits + ordinal * words, &v->row_meta[ordinal]);
    }
    if (v->small)
        return;
    if (row) {
        memcpy(v->rows + ordinal * stride, row, stride);
        v->row_meta[ordinal] = *meta;
    } else {
        memset(v->rows + ordinal * stride, 128, stride);
    }
    if (words > 0)
        ap_sketch_of(v->rows + ordinal * stride, &v->row_meta[ordinal], v->dim, v->bits + ordinal * words, &v->factors[ordinal]);
}

static int fill_block(void *arg, size_t block, int thread, struct ap_err *err)
{
    struct pass *p = arg;
    struct reader *r = &p->m->readers[thread];
    size_t n = rows_of(p->m, block);
    int rc = load_block(p->m, r, block * BLOCK, n, 1, err);
    for (size_t j = 0; rc == 0 && j < n; j++) {
        uint32_t ordinal = p->of[block * BLOCK + j];
        if (ordinal != NONE)
            place_row(p, r, ordinal, r->rows[j], r->metas[j]);
    }
    return rc;
}

/* Every assigned row to its place: rows of a list by rising slot. next: each list's first ordinal. */
static int fill(struct merging *m, struct ap_ivf8 *v, uint32_t *of, uint32_t *next, struct ap_err *err)
{
    struct pass p = {.m = m, .out = v, .of = of};
    uint32_t rank = 0;
    for (size_t i = 0; i < m->count; i++) {
        if (of[i] == NONE)
            continue;
        of[i] = next[of[i]]++;
        v->offsets[of[i]] = (uint32_t)(slot_of(m, i) - slot_of(m, 0));
        v->order[rank++] = of[i];
    }
    return each_block(&p, fill_block, err);
}

/* Evenly over all rows, those that are gone left out. */
static int sample_rows(struct merging *m, size_t wanted, uint8_t *rows, struct ap_q8_meta *meta, size_t *got, struct ap_err *err)
{
    size_t stride = ap_q8_stride(m->params->dim), step = m->count / wanted;
    struct reader *r = m->readers;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < wanted; i += BLOCK) {
        size_t n = wanted - i < BLOCK ? wanted - i : BLOCK;
        rc = load_block(m, r, i * step, n, step, err);
        for (size_t j = 0; rc == 0 && j < n; j++) {
            if (!r->rows[j])
                continue;
            memcpy(rows + *got * stride, r->rows[j], stride);
            meta[(*got)++] = *r->metas[j];
        }
    }
    return rc;
}

/* Centroids of so many lists; one list of all, its centroid zero, when the sample is too small. */
static int find_centroids(struct merging *m, struct coarse *c, struct ap_err *err)
{
    uint32_t dim = m->params->dim;
    size_t stride = ap_q8_stride(dim), most = SAMPLE_BYTES / stride, wanted = (size_t)c->lists * SAMPLE_PER_LIST, got = 0;
    wanted = wanted < most ? wanted : most;
    wanted = wanted < m->count ? wanted : m->count;
    uint8_t *rows = c->lists > 1 ? malloc(wanted * stride) : NULL;
    struct ap_q8_meta *meta = c->lists > 1 ? malloc(wanted * sizeof *meta) : NULL;
    int rc = 0;
    if (c->lists > 1 && (!rows || !meta))
        rc = ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a sample of %zu vectors", wanted);
    if (rc == 0 && c->lists > 1)
        rc = sample_rows(m, wanted, rows, meta, &got, err);
    if (got < (size_t)c->lists * 4)
        c->lists = 1;
    c->rows = malloc(c->lists * stride);
    c->meta = calloc(c->lists, sizeof *c->meta);
    if (rc == 0 && (!c->rows || !c->meta))
        rc = ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for %u centroids", c->lists);
    if (rc == 0 && c->lists > 1)
        ap_cluster_train(rows, meta, got, dim, m->params->distance, c->lists, ITERATIONS, m->threads, &m->index->closing, c->rows, c->meta);
    else if (rc == 0)
        memset(c->rows, 128, stride);
    free(rows);
    free(meta);
    return rc ? rc : go_on(m, err);
}

static int write_lists(struct merging *m, const struct coarse *c, uint32_t *list_of, uint32_t *sizes, uint32_t count, uint64_t collection,
                       struct ap_segment **out, struct ap_err *err)
{
    uint32_t dim = m->params->dim, lists = c->lists;
    struct ap_segfile file;
    struct ap_ivf8 v;
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id)
        abort();
    int rc = ap_segfile_begin(m->index, id, ap_ivf8_bytes(dim, lists, count, m->small), &file, err);
    if (rc < 0)
        return rc;
    ap_ivf8_map(&v, file.image, dim, lists, count, m->small);
    for (uint32_t i = 0; i < lists; i++) {
        v.starts[i + 1] = v.starts[i] + sizes[i];
        sizes[i] = v.starts[i];
    }
    memcpy(v.centroids, c->rows, lists * ap_q8_stride(dim));
    memcpy(v.centroid_meta, c->meta, lists * sizeof *c->meta);
    rc = fill(m, &v, list_of, sizes, err);
    if (rc < 0) {
        ap_segfile_abandon(m->index, id, &file);
        return rc;
    }
    struct ap_segment *s = ap_segment_lists(collection, m->params->distance, file.map, file.map_bytes, &v, slot_of(m, 0));
    if (!s)
        abort();
    s->file_id = id;
    *out = s;
    m->file = file;
    return 0;
}

static int merge_lists(struct merging *m, size_t sources, uint64_t collection, struct ap_segment **out, struct ap_err *err)
{
    struct coarse c = {.lists = ap_ivf8_lists_for(m->count)};
    uint32_t count = 0;
    int rc = choose_direct(m, sources, err);
    if (rc == 0)
        rc = find_centroids(m, &c, err);
    uint32_t *list_of = malloc(m->count * sizeof *list_of), *sizes = calloc(c.lists, sizeof *sizes);
    if (!list_of || !sizes)
        abort();
    if (rc == 0)
        rc = assign(m, &c, list_of, sizes, &count, err);
    if (rc == 0 && count > 0)
        rc = write_lists(m, &c, list_of, sizes, count, collection, out, err);
    free(c.rows);
    free(c.meta);
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

/* Does the configured structure suit this collection's dimensions? Lists suit all. */
static bool fits(const struct ap_index *index, const struct ap_control_collection *p)
{
    static struct ap_log_limit limit;
    struct ap_err why;
    if (ap_ann_check(index->options.sealed_factory, p->dim, &why) == 0)
        return true;
    ap_log_limited(&limit, 60000, AP_LOG_ERROR, "index.sealed_factory \"%s\" cannot hold collection %s of %u dimensions, which gets lists instead: %s",
                   index->options.sealed_factory, p->name, p->dim, why.msg);
    return false;
}

int ap_merge(struct ap_index *index, const struct ap_state *state, const struct ap_definition *definition,
             struct ap_segment **sources, size_t count, struct ap_segment **out, struct ap_err *err)
{
    const struct ap_control_collection *p = &definition->c.params;
    struct merging m = {.index = index, .state = state, .params = p, .sources = sources, .file = {.fd = -1},
                        .small = ap_sketch_words(p->dim) > 0 && ap_tier_is_named(index->options.small, p->name)};
    int rc = 0;
    *out = NULL;
    gather(&m, count);
    open_readers(&m);
    if (m.count > 0 && slot_of(&m, m.count - 1) - slot_of(&m, 0) > UINT32_MAX)
        rc = ap_err_set(err, AP_ETOOBIG, AP_RETRY, "the rows lie too far apart in the log for one segment");
    else if (m.count >= FAISS_ROWS && index->options.sealed_factory && fits(index, p))
        rc = merge_faiss(&m, index->options.sealed_factory, definition->c.id, out, err);
    else if (m.count > 0)
        rc = merge_lists(&m, count, definition->c.id, out, err);
    if (rc == 0 && *out)
        rc = keep(&m, out, sources, count, err);
    free(m.sample);
    free(m.places);
    close_readers(&m);
    return rc;
}
