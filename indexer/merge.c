/* One sealed segment out of several: live slots of all, in order; a sample trains; all are added block by block.
 *
 * Vectors are read from the store, raw where it has them, each block under a snapshot of its own: memory is the sample, a
 * block and the result. A row that is gone by then was replaced meanwhile, and is left out. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "common/log.h"
#include "indexer/index_impl.h"

#define BLOCK 512
#define SAMPLE_BYTES (32u << 20)
#define FLAT_ROWS 2048

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

/* Which structure, for so many rows; measured with bench/index.c. Under 2,048 rows scanning costs less than choosing lists. */
static void choose(const struct ap_index *index, size_t n, char *factory, size_t cap, size_t *training)
{
    size_t lists = 1;
    if (index->options.sealed_factory && n >= FLAT_ROWS) {
        snprintf(factory, cap, "%s", index->options.sealed_factory);
        const char *ivf = strstr(factory, "IVF");
        lists = ivf ? strtoul(ivf + 3, NULL, 10) : 256;
    } else if (n < FLAT_ROWS) {
        snprintf(factory, cap, "SQ8");
    } else {
        while (lists * lists < 8 * n && lists < 65536) /* the power of two next above 2.8 roots, on average 4 */
            lists *= 2;
        snprintf(factory, cap, "IVF%zu,SQ8", lists);
    }
    *training = lists * 24 > 4096 ? lists * 24 : 4096;
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

static int train(struct ap_index *index, const struct ap_state *state, const struct ap_control_collection *p, const struct ap_slots *slots,
                 struct ap_vector_batch *batch, struct ap_ann **out, struct ap_err *err)
{
    char factory[128];
    size_t wanted, most = SAMPLE_BYTES / (p->dim * sizeof(float)), have = 0;
    choose(index, slots->count, factory, sizeof factory, &wanted);
    wanted = wanted < slots->count ? wanted : slots->count;
    wanted = wanted < most ? wanted : most;
    wanted = wanted > 0 ? wanted : 1;
    size_t step = slots->count / wanted;
    float *sample = malloc(wanted * p->dim * sizeof *sample);
    if (!sample)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a sample of %zu vectors", wanted);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < wanted; i += BLOCK) {
        size_t n = wanted - i < BLOCK ? wanted - i : BLOCK;
        rc = read_block(index, state, slots->items + i * step, n, step, batch, err);
        for (size_t j = 0; rc == 0 && j < batch->count; j++)
            if (batch->usable[j])
                memcpy(sample + have++ * p->dim, batch->vectors + j * p->dim, p->dim * sizeof *sample);
    }
    if (rc == 0 && have > 0)
        rc = ap_ann_train(factory, p->dim, p->distance, sample, have, index->options.build_threads, out, err);
    free(sample);
    return rc;
}

static int add(struct ap_index *index, const struct ap_state *state, const struct ap_slots *slots, struct ap_vector_batch *batch,
               struct ap_ann *ann, uint32_t *offsets, uint32_t *count, struct ap_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < slots->count; i += BLOCK) {
        size_t n = slots->count - i < BLOCK ? slots->count - i : BLOCK, kept = 0;
        rc = read_block(index, state, slots->items + i, n, 1, batch, err);
        for (size_t j = 0; rc == 0 && j < batch->count; j++) {
            if (!batch->usable[j])
                continue;
            if (kept != j)
                memmove(batch->vectors + kept * batch->dim, batch->vectors + j * batch->dim, batch->dim * sizeof *batch->vectors);
            offsets[*count + kept++] = (uint32_t)(batch->slots[j] - slots->items[0]);
        }
        if (rc == 0)
            rc = ap_ann_add(ann, batch->vectors, kept, index->options.build_threads, err);
        *count += (uint32_t)kept;
    }
    return rc;
}

int ap_merge(struct ap_index *index, const struct ap_state *state, const struct ap_definition *definition,
             struct ap_segment **sources, size_t count, struct ap_segment **out, struct ap_err *err)
{
    struct ap_slots slots = {0};
    struct ap_ann *ann = NULL;
    uint32_t *offsets = NULL, added = 0;
    const struct ap_control_collection *p = &definition->c.params;
    struct ap_vector_batch *batch = ap_vector_batch_new(p->dim, BLOCK);
    int rc = 0;
    *out = NULL;
    gather(sources, count, &slots);
    if (slots.count == 0)
        goto done;
    if (slots.items[slots.count - 1] - slots.items[0] > UINT32_MAX) {
        rc = ap_err_set(err, AP_ETOOBIG, AP_RETRY, "the rows lie too far apart in the log for one segment");
        goto done;
    }
    offsets = malloc(slots.count * sizeof *offsets);
    if (!offsets) {
        rc = ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a segment of %zu rows", slots.count);
        goto done;
    }
    rc = train(index, state, p, &slots, batch, &ann, err);
    if (rc == 0 && ann)
        rc = add(index, state, &slots, batch, ann, offsets, &added, err);
    if (rc == 0 && added > 0) {
        struct ap_segment *s = ap_segment_sealed(definition->c.id, p->distance, ann, slots.items[0], offsets, added);
        if (!s)
            abort();
        ann = NULL;
        offsets = NULL;
        if (getrandom(&s->file_id, sizeof s->file_id, 0) != (ssize_t)sizeof s->file_id)
            abort();
        for (size_t i = 0; i < count; i++)
            if (sources[i]->file_id && s->replaces_count < 64)
                s->replaces[s->replaces_count++] = sources[i]->file_id;
        *out = s;
    }
done:
    ap_ann_free(&ann);
    free(offsets);
    free(slots.items);
    ap_vector_batch_free(&batch);
    return rc;
}
