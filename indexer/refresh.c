/* The tail thread's round: control records, then rows from the cursor to the snapshot's end, then what is visible.
 *
 * A snapshot lasts at most a quarter of a second; a long way is gone in several, and only the one whose end was reached
 * makes positions visible. At start `seen` is 0, so that the cleaner keeps everything until the log has been read once. */
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "indexer/index_impl.h"

#define SNAPSHOT_NS 250000000

struct round {
    struct ap_index *index;
    const struct ap_snapshot *snapshot;
    struct ap_run run;
    int64_t rows, until_ns;
};

static int take_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct round *r = arg;
    struct ap_index *index = r->index;
    r->rows++;
    index->cursor = slot + 1;
    if (row->flags == 0) {
        static struct ap_log_limit limit;
        ap_log_limited(&limit, 10000, AP_LOG_ERROR, "store: the row in slot %llu is damaged; it is left out of the index", (unsigned long long)slot);
        return 0;
    }
    uint64_t id = ap_key_collection(&row->key);
    struct ap_coll *coll = r->run.count > 0 && r->run.rows[r->run.count - 1].coll->id == id ? r->run.rows[r->run.count - 1].coll : NULL;
    if (!coll) {
        pthread_mutex_lock(&index->apply_lock);
        coll = ap_index_coll(index, id);
        if (!coll) {
            coll = ap_index_coll_make(index, id);
            const struct ap_collection *known = ap_catalog_collection_by_id(index->catalog, id);
            coll->dead = known && !known->live;
            ap_index_publish(index);
        }
        pthread_mutex_unlock(&index->apply_lock);
    }
    r->run.rows[r->run.count++] = (struct ap_run_row){.slot = slot, .codec = row->codec, .key = row->key, .vector = row->vector,
        .vector_len = row->vector_len, .live = ap_row_is_live(row), .has_codec = row->flags & AP_ROW_CODEC, .coll = coll, .row = *row};
    if (r->run.count < AP_RUN_ROWS)
        return 0;
    ap_apply_run(index, r->snapshot, &r->run);
    return ap_mono_ns() > r->until_ns || atomic_load(&index->closing) ? 1 : 0;
}

static int publish_positions(struct ap_index *index, const struct ap_snapshot *snapshot, struct ap_err *err)
{
    struct ap_position *positions = NULL;
    size_t count = 0;
    struct ap_settled settled = ap_snapshot_settled(snapshot);
    int rc = ap_snapshot_positions(snapshot, &positions, &count, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&index->wait_lock);
    struct ap_position *old = index->positions;
    index->positions = positions;
    index->position_count = count;
    index->settled = settled;
    atomic_store(&index->visible, ap_snapshot_next_slot(snapshot));
    bool first = !atomic_exchange(&index->caught_up, true);
    pthread_cond_broadcast(&index->waiters);
    pthread_mutex_unlock(&index->wait_lock);
    if (first)
        ap_builder_wake(index); /* full hot segments have gathered */
    free(old);
    return 0;
}

/* Forget what the first pass built, and read the log again. */
static void start_over(struct ap_index *index)
{
    ap_info("the store was cleaned while it was read; reading it once more");
    pthread_mutex_lock(&index->apply_lock);
    for (size_t i = 0; i < index->coll_count; i++) {
        struct ap_coll *coll = index->colls[i];
        for (size_t j = coll->count; j-- > 0;) {
            struct ap_segment *s = coll->segments[j];
            for (uint32_t k = 0; k < atomic_load(&s->count); k++)
                ap_segment_mark(s, k, false);
            if (s->hot) {
                if (s != coll->hot)
                    atomic_fetch_sub(&index->frozen_bytes, ap_segment_bytes(s));
                ap_coll_remove_segment(coll, s);
                ap_segment_unref(&s);
            }
        }
        coll->pending.count = coll->unusable.count = 0;
        atomic_store(&coll->pending_count, 0);
        atomic_store(&coll->points, 0);
    }
    pthread_rwlock_wrlock(&index->map_lock);
    ap_slotmap_fini(&index->map);
    ap_slotmap_init(&index->map, 0);
    pthread_rwlock_unlock(&index->map_lock);
    ap_index_publish(index);
    pthread_mutex_unlock(&index->apply_lock);
    index->cursor = 0;
    index->dangling = false;
}

/* One snapshot's worth. 1: its end was reached; 0: there is more; negative: error. */
static int round_once(struct round *r, struct ap_err *err)
{
    struct ap_index *index = r->index;
    struct ap_snapshot *snapshot;
    bool changed;
    int rc = ap_snapshot_begin(index->store, &snapshot, err);
    if (rc < 0)
        return rc;
    r->snapshot = snapshot;
    r->until_ns = ap_mono_ns() + SNAPSHOT_NS;
    rc = ap_control_sync(index, snapshot, &changed, err);
    if (rc == 0 && changed)
        ap_apply_pending(index, snapshot);
    if (rc == 0 && ap_snapshot_next_slot(snapshot) > index->cursor)
        rc = ap_snapshot_scan(snapshot, index->cursor, take_row, r, err);
    ap_apply_run(index, snapshot, &r->run); /* also when the scan failed: the cursor has passed these rows */
    if (rc >= 0) {
        bool end = rc == 0;
        rc = end ? 1 : 0;
        if (end && index->dangling) {
            start_over(index);
            rc = 0;
        } else if (end) {
            if (index->starting)
                ap_index_warm(index);
            index->starting = false;
            index->cursor = ap_snapshot_next_slot(snapshot);
            int bad = publish_positions(index, snapshot, err);
            rc = bad < 0 ? bad : rc;
        }
    }
    ap_snapshot_end(&snapshot);
    return rc;
}

int64_t ap_index_refresh(struct ap_index *index, struct ap_err *err)
{
    int64_t start = ap_mono_ns();
    struct round *r = calloc(1, sizeof *r);
    if (!r)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    r->index = index;
    int rc = 0;
    while ((rc = round_once(r, err)) == 0 && !atomic_load(&index->closing))
        ap_builder_wait_room(index);
    int64_t rows = r->rows;
    free(r);
    if (rc < 0)
        return rc;
    if (index->cursor > 0 && index->cursor - 1 != index->seen_written && !index->starting) {
        rc = ap_store_seen_write(index->store, index->cursor - 1, err);
        if (rc < 0)
            return rc;
        index->seen_written = index->cursor - 1;
    }
    if (rows > 0)
        ap_observe(index->metrics.refresh, (double)(ap_mono_ns() - start) * 1e-9);
    return rows;
}
