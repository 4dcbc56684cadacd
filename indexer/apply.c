/* From rows to segments, in runs.
 *
 * A run is applied in three steps: the map learns the new slots and says which ones they replace; vectors are decoded, a
 * stretch of equal codec at a time, and appended; then the replaced slots' bits are cleared. In this order a reader finds
 * each point at least once (segment.c), and a point found twice is one to him by its id.
 * Only live rows are in the map: a tombstone takes its point out. A row without its definition or codec is in the map, and
 * its slot is set aside; so is one whose vector does not fit, which nothing but a newer row mends. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "indexer/index_impl.h"

struct matching { const struct ap_index *index; const struct ap_snapshot *snapshot; bool gone; };

static bool match(void *arg, uint64_t slot, const struct ap_key *key)
{
    struct matching *m = arg;
    struct ap_row row;
    if (ap_snapshot_row(m->snapshot, slot, &row, NULL) != 0) {
        m->gone = true;
        return false;
    }
    return memcmp(row.key.b, key->b, sizeof key->b) == 0;
}

/* ---- step 1 ---- */

static void update_map(struct ap_index *index, const struct ap_snapshot *snapshot, struct ap_run *run)
{
    struct matching m = {index, snapshot, false};
    pthread_rwlock_wrlock(&index->map_lock);
    for (size_t i = 0; i < run->count; i++) {
        struct ap_run_row *r = &run->rows[i];
        r->old = 0;
        if (r->coll->dead)
            continue;
        if (r->live)
            r->old = ap_slotmap_put(&index->map, &r->key, r->slot, match, &m);
        else
            r->old = ap_slotmap_remove(&index->map, &r->key, match, &m);
        if (r->live && r->old == 0)
            atomic_fetch_add_explicit(&r->coll->points, 1, memory_order_relaxed);
        else if (!r->live && r->old != 0)
            atomic_fetch_sub_explicit(&r->coll->points, 1, memory_order_relaxed);
    }
    pthread_rwlock_unlock(&index->map_lock);
    /* A slot of ours is never missing (store.h), except where the cleaner went by the `seen` of an earlier life, and where a
     * collection is dead; only the first calls for another pass. */
    if (m.gone && index->starting)
        index->dangling = true;
}

/* ---- step 2 ---- */

static struct ap_segment *room_for(struct ap_index *index, struct ap_coll *coll, uint64_t slot)
{
    if (coll->hot && ap_segment_has_room(coll->hot, slot))
        return coll->hot;
    const struct ap_control_collection *p = &coll->definition->c.params;
    struct ap_segment *s = ap_segment_hot(coll->id, p->dim, p->distance, index->options.hot_rows);
    if (!s)
        abort();
    s->values = ap_hot_values_new(coll->definition->fields);
    if (coll->hot)
        atomic_fetch_add(&index->frozen_bytes, ap_segment_bytes(coll->hot));
    coll->hot = NULL;
    ap_coll_add_segment(coll, s);
    coll->hot = s;
    /* Published, with its number, before a row comes in and its predecessor's bit goes out. */
    atomic_fetch_add(&index->rolls, 1);
    ap_index_publish(index);
    ap_builder_wake(index);
    return s;
}

static void set_aside(struct ap_index *index, struct ap_run_row *r, bool for_good)
{
    static struct ap_log_limit limit;
    if (for_good) {
        ap_slots_add(&r->coll->unusable, r->slot);
        ap_count(index->metrics.unusable, 1);
        ap_log_limited(&limit, 10000, AP_LOG_WARN, "a row of collection %s holds no vector of its %u dimensions; it is not searchable",
                       r->coll->definition->c.params.name, r->coll->definition->c.params.dim);
    } else {
        ap_slots_add(&r->coll->pending, r->slot);
        atomic_store_explicit(&r->coll->pending_count, r->coll->pending.count, memory_order_relaxed);
    }
}

/* Rows first to end, all of one collection and codec, with vectors: decode, append. */
static void append(struct ap_index *index, struct ap_run_row **rows, size_t n, const struct ap_codec *codec)
{
    struct ap_coll *coll = rows[0]->coll;
    uint32_t dim = coll->definition->c.params.dim;
    size_t size = codec ? ap_codec_code_size(codec) : (size_t)dim * 4;
    float *vectors = malloc(n * dim * sizeof *vectors);
    uint8_t *codes = malloc(n * size);
    uint64_t slots[AP_RUN_ROWS];
    if (!vectors || !codes)
        abort();
    for (size_t i = 0; i < n; i++) {
        memcpy(codec ? codes + i * size : (uint8_t *)(vectors + i * dim), rows[i]->vector, size);
        slots[i] = rows[i]->slot;
    }
    struct ap_err err = {0};
    if (codec && ap_codec_decode(codec, n, codes, vectors, &err) < 0) {
        ap_error("rows of collection %s cannot be decoded: %s", coll->definition->c.params.name, err.msg);
        for (size_t i = 0; i < n; i++)
            set_aside(index, rows[i], true);
        n = 0;
    }
    for (size_t i = 0; codec && i < n && coll->definition->c.params.distance == AP_COSINE; i++)
        ap_normalize(vectors + i * dim, dim); /* vector.c says why */
    for (size_t i = 0; i < n;) {
        struct ap_segment *s = room_for(index, coll, slots[i]);
        size_t run = 1, room = s->cap - atomic_load(&s->count);
        while (i + run < n && run < room && slots[i + run] - slots[i] < UINT32_MAX / 2)
            run++;
        for (size_t j = 0; s->values && j < run; j++) /* before the rows can be seen */
            ap_hot_values_append(s->values, atomic_load(&s->count) + (uint32_t)j, &rows[i + j]->row);
        ap_segment_append(s, run, slots + i, vectors + i * dim);
        i += run;
    }
    free(vectors);
    free(codes);
}

/* Is the slot in a segment that was loaded from a file? Then it only comes to life. */
static bool revive(struct ap_coll *coll, uint64_t slot)
{
    if (slot > coll->sealed_last)
        return false;
    for (size_t i = 0; i <= coll->count; i++) {
        struct ap_segment *s = i == 0 ? coll->revived_in < coll->count ? coll->segments[coll->revived_in] : NULL : coll->segments[i - 1];
        if (!s || s->hot)
            continue;
        bool guess = i == 0 && coll->revived < s->cap && ap_segment_slot(s, ap_segment_nth(s, coll->revived)) == slot;
        int64_t rank = guess ? coll->revived : i == 0 ? -1 : ap_segment_rank(s, slot);
        if (rank < 0)
            continue;
        ap_segment_mark(s, ap_segment_nth(s, (uint32_t)rank), true);
        coll->revived_in = i == 0 ? coll->revived_in : i - 1;
        coll->revived = (uint32_t)rank + 1;
        return true;
    }
    return false;
}

/* 1 when the row's vector can be appended, with its codec; 0 when it is done with. */
static int prepare(struct ap_index *index, struct ap_run_row *r, const struct ap_codec **codec)
{
    bool broken = false;
    *codec = NULL;
    if (!r->live || r->coll->dead)
        return 0;
    if (!r->coll->definition) {
        set_aside(index, r, false);
        return 0;
    }
    if (revive(r->coll, r->slot))
        return 0;
    uint32_t dim = r->coll->definition->c.params.dim;
    size_t size = (size_t)dim * 4;
    if (r->has_codec) {
        *codec = ap_index_codec(index, r->codec, &broken);
        if (!*codec) {
            set_aside(index, r, false);
            return 0;
        }
        size = ap_codec_dim(*codec) == dim ? ap_codec_code_size(*codec) : SIZE_MAX;
    }
    if (!r->vector || r->vector_len != size) {
        set_aside(index, r, true);
        return 0;
    }
    return 1;
}

static void append_all(struct ap_index *index, struct ap_run *run)
{
    struct ap_run_row *stretch[AP_RUN_ROWS];
    const struct ap_codec *stretch_codec = NULL;
    size_t n = 0;
    for (size_t i = 0; i < run->count; i++) {
        struct ap_run_row *r = &run->rows[i];
        const struct ap_codec *codec;
        if (!prepare(index, r, &codec))
            continue;
        if (n > 0 && (codec != stretch_codec || r->coll != stretch[0]->coll)) {
            append(index, stretch, n, stretch_codec);
            n = 0;
        }
        stretch[n++] = r;
        stretch_codec = codec;
    }
    if (n > 0)
        append(index, stretch, n, stretch_codec);
}

void ap_apply_run(struct ap_index *index, const struct ap_snapshot *snapshot, struct ap_run *run)
{
    if (run->count == 0)
        return;
    pthread_mutex_lock(&index->apply_lock);
    atomic_fetch_add(&index->changes, 1);
    update_map(index, snapshot, run);
    append_all(index, run);
    for (size_t i = 0; i < run->count; i++)
        if (run->rows[i].old)
            ap_coll_clear(run->rows[i].coll, run->rows[i].old);
    atomic_fetch_add(&index->changes, 1);
    pthread_mutex_unlock(&index->apply_lock);
    atomic_store_explicit(&index->last_row_ms, ap_mono_ms(), memory_order_relaxed);
    atomic_fetch_add_explicit(&index->applied, run->count, memory_order_relaxed);
    run->count = 0;
}

/* ---- what was set aside ---- */

static void apply_pending_of(struct ap_index *index, const struct ap_snapshot *snapshot, struct ap_coll *coll, struct ap_run *run)
{
    struct ap_slots waiting = coll->pending;
    memset(&coll->pending, 0, sizeof coll->pending);
    atomic_store(&coll->pending_count, 0);
    struct matching m = {index, snapshot, false};
    for (size_t i = 0; i < waiting.count; i++) {
        struct ap_row row;
        if (ap_snapshot_row(snapshot, waiting.items[i], &row, NULL) != 0)
            continue;
        pthread_rwlock_rdlock(&index->map_lock);
        bool current = ap_slotmap_get(&index->map, &row.key, match, &m) == waiting.items[i];
        pthread_rwlock_unlock(&index->map_lock);
        if (!current)
            continue;
        run->rows[run->count++] = (struct ap_run_row){.slot = waiting.items[i], .codec = row.codec, .key = row.key, .vector = row.vector,
            .vector_len = row.vector_len, .live = true, .has_codec = row.flags & AP_ROW_CODEC, .coll = coll, .row = row};
        if (run->count == AP_RUN_ROWS || i + 1 == waiting.count) {
            append_all(index, run);
            run->count = 0;
        }
    }
    append_all(index, run);
    run->count = 0;
    free(waiting.items);
}

void ap_apply_pending(struct ap_index *index, const struct ap_snapshot *snapshot)
{
    struct ap_run *run = calloc(1, sizeof *run);
    if (!run)
        abort();
    pthread_mutex_lock(&index->apply_lock);
    for (size_t i = 0; i < index->coll_count; i++)
        if (index->colls[i]->pending.count > 0 && index->colls[i]->definition)
            apply_pending_of(index, snapshot, index->colls[i], run);
    pthread_mutex_unlock(&index->apply_lock);
    free(run);
}
