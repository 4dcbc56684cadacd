/* The cleaner: the log's oldest range is emptied and dropped, so that the file stays about twice as large as its rows.
 *
 * Emptying copies the current rows of the range to the end of the log, with their raw vectors; then everything in the
 * range is dead, and the range waits in `passed` until `seen` has reached the last copy. Only then it is dropped. What is
 * waiting is forgotten at a restart: the range is dead then, and is passed again at the cost of reading it.
 *
 * Rows of dead collections are not worth a copy of everything in front of them: a sweep goes over the whole log and deletes
 * them where they are, which leaves gaps. Every step does a bounded piece of work a call, so that batches stay short. */
#include <assert.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/store_internal.h"
#include "common/timeutil.h"

#define DEAD_PER_MOVED 8 /* slots looked at or dropped in a call, for each row that may be moved */

/* Remove the slots under `below` from a table, at most *limit; *first is the oldest left, `below` or later when all went. */
static int drop_below(struct ap_writer *w, enum ap_store_db db, uint64_t below, size_t *limit, size_t *dropped, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(w->txn, w->store->db[db], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (rc == 0 && *limit > 0) {
        uint64_t slot;
        memcpy(&slot, key.mv_data, sizeof slot);
        if (slot >= below)
            break;
        rc = mdb_cursor_del(cursor, 0);
        (*dropped)++;
        (*limit)--;
        if (rc == 0)
            rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    }
    return rc && rc != MDB_NOTFOUND ? ap_writer_fail(w, rc, "drop old slots", err) : 0;
}

/* The oldest slot in the log; the next one when it is empty. */
int ap_writer_find_first(struct ap_writer *w, struct ap_err *err)
{
    MDB_val key, value;
    int rc = mdb_cursor_get(w->log, &key, &value, MDB_FIRST);
    if (rc == 0)
        memcpy(&w->state.first_slot, key.mv_data, sizeof w->state.first_slot);
    else if (rc == MDB_NOTFOUND)
        w->state.first_slot = w->state.next_slot;
    else
        return ap_writer_fail(w, rc, "find its oldest slot", err);
    return 0;
}

/* Drop the ranges whose copies the indexer has seen. */
static int drop_passed(struct ap_writer *w, uint64_t seen, size_t limit, size_t *dropped, struct ap_err *err)
{
    size_t done = 0;
    int rc = 0;
    while (rc == 0 && done < w->passed_count && w->passed[done].copies <= seen && limit > 0) {
        size_t rows = 0, vectors = 0, no_limit = SIZE_MAX;
        rc = drop_below(w, AP_DB_LOG, w->passed[done].below, &limit, &rows, err);
        if (rc == 0)
            rc = ap_writer_find_first(w, err);
        /* Vectors and clocks go as far as rows went. */
        if (rc == 0 && rows > 0)
            rc = drop_below(w, AP_DB_RAW, w->state.first_slot, &no_limit, &vectors, err);
        if (rc == 0 && rows > 0)
            rc = drop_below(w, AP_DB_GRAVES, w->state.first_slot, &no_limit, &vectors, err);
        *dropped += rows;
        w->passed_rows -= rows;
        if (w->state.first_slot >= w->passed[done].below)
            done++;
    }
    if (done > 0)
        memmove(w->passed, w->passed + done, (w->passed_count - done) * sizeof *w->passed);
    w->passed_count -= done;
    w->dirty = w->dirty || *dropped > 0;
    return rc;
}

static uint64_t rows_of_dead_collections(const struct ap_writer *w, bool (*collection_dead)(void *, uint64_t), void *arg)
{
    uint64_t rows = 0;
    for (size_t i = 0; collection_dead && i < w->digests.count; i++)
        if (w->digests.list[i].rows > 0 && collection_dead(arg, w->digests.list[i].id))
            rows += w->digests.list[i].rows;
    return rows;
}

/* Is at least half of what has not been passed yet dead? */
static int is_due(struct ap_writer *w, bool *due, struct ap_err *err)
{
    MDB_stat stat;
    int rc = mdb_stat(w->txn, w->store->db[AP_DB_LOG], &stat);
    if (rc != 0)
        return ap_writer_fail(w, rc, "count its rows", err);
    uint64_t rows = stat.ms_entries - w->passed_rows;
    *due = rows > 0 && (rows - w->map.used) * 2 >= rows;
    return 0;
}

static bool is_current(struct ap_writer *w, const struct ap_key *key, uint64_t slot)
{
    return ap_slotmap_get(&w->map, key, ap_writer_match_slot, &slot) == slot;
}

void ap_writer_forget(struct ap_writer *w, const struct ap_row *row, uint64_t slot)
{
    w->tombstones -= !ap_row_is_live(row);
    ap_slotmap_remove(&w->map, &row->key, ap_writer_match_slot, &slot);
    ap_digests_remove(&w->digests, &row->key, row->checksum);
    w->dirty = true;
}

/* Go on over the log, from its end to its start again, and delete the rows of dead collections. */
static int sweep(struct ap_writer *w, uint64_t seen, size_t visits, size_t deletes, bool (*collection_dead)(void *, uint64_t), void *arg, size_t *dropped, struct ap_err *err)
{
    MDB_cursor *cursor;
    uint64_t slot = w->swept, last_collection = 0;
    bool last_dead = false, any = false;
    MDB_val key = ap_val(&slot, sizeof slot), value;
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_LOG], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; rc == 0 && visits > 0 && deletes > 0; visits--) {
        struct ap_row row;
        memcpy(&slot, key.mv_data, sizeof slot);
        if (slot > seen)
            break;
        w->swept = slot + 1;
        bool readable = ap_row_read(value.mv_data, value.mv_size, 0, &row, NULL) == 0;
        uint64_t collection = readable ? ap_key_collection(&row.key) : 0;
        if (readable && (!any || collection != last_collection)) {
            any = true;
            last_collection = collection;
            last_dead = collection_dead(arg, collection);
        }
        if (readable && last_dead) {
            if (is_current(w, &row.key, slot))
                ap_writer_forget(w, &row, slot);
            rc = mdb_cursor_del(cursor, 0);
            MDB_val beside = ap_val(&slot, sizeof slot);
            for (enum ap_store_db db = AP_DB_RAW; rc == 0 && db <= AP_DB_GRAVES; db++) {
                int gone = mdb_del(w->txn, w->store->db[db], &beside, NULL);
                rc = gone == MDB_NOTFOUND ? 0 : gone;
            }
            w->passed_rows -= slot < w->cleaned;
            w->dirty = true;
            deletes--;
            (*dropped)++;
        }
        if (rc == 0) /* after a deletion this is the row that came in its place */
            rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (rc == MDB_NOTFOUND || (rc == 0 && slot > seen))
        w->swept = 0;
    mdb_cursor_close(cursor);
    return rc && rc != MDB_NOTFOUND ? ap_writer_fail(w, rc, "drop rows of dead collections", err) : ap_writer_find_first(w, err);
}

static int move_row(struct ap_writer *w, uint64_t from, const struct ap_row *row, struct ap_err *err)
{
    uint64_t to, clock = 0;
    bool live = ap_row_is_live(row);
    struct ap_key key = row->key;
    ap_buf_clear(&w->row); /* a copy: writing may move what row points to */
    ap_buf_append(&w->row, row->bytes, row->len);
    int rc = ap_writer_append(w, w->row.data, w->row.len, &to, err);
    if (rc == 0 && live)
        rc = ap_writer_move_raw(w, from, to, err);
    if (rc == 0 && !live && (rc = ap_writer_grave(w, from, &clock, err)) == 0)
        rc = ap_writer_put_grave(w, to, clock ? clock : ap_hlc_make(ap_wall_ms(), 0), err); /* of an unknown age: as of now */
    if (rc == 0)
        ap_slotmap_put(&w->map, &key, to, ap_writer_match_slot, &from);
    return rc;
}

static void remember(struct ap_writer *w)
{
    if (w->passed_count == w->passed_cap) {
        w->passed_cap = w->passed_cap ? w->passed_cap * 2 : 16;
        w->passed = reallocarray(w->passed, w->passed_cap, sizeof *w->passed);
        if (!w->passed)
            abort();
    }
    w->passed[w->passed_count++] = (struct ap_passed){.below = w->cleaned, .copies = w->state.next_slot - 1};
}

int ap_writer_clean(struct ap_writer *w, size_t max_rows, uint64_t seen, bool (*collection_dead)(void *, uint64_t collection), void *arg, size_t *dropped, struct ap_err *err)
{
    size_t visits = max_rows * DEAD_PER_MOVED, moved = 0;
    uint64_t start = w->cleaned;
    bool due = false;
    assert(w->txn);
    *dropped = 0;
    if (w->failed)
        return ap_err_set(err, AP_EIO, AP_FATAL, "store %s: an earlier write failed; open the writer anew", w->store->path);
    if (seen >= w->committed_next)
        seen = w->committed_next - 1; /* nobody can have seen more */
    int rc = drop_passed(w, seen, visits, dropped, err);
    if (rc == 0 && rows_of_dead_collections(w, collection_dead, arg) > 0)
        rc = sweep(w, seen, visits, max_rows, collection_dead, arg, dropped, err);
    if (rc == 0)
        rc = is_due(w, &due, err);
    if (rc < 0 || !due)
        return rc;

    MDB_cursor *cursor;
    uint64_t slot = w->cleaned;
    MDB_val key = ap_val(&slot, sizeof slot), value;
    int lmdb = mdb_cursor_open(w->txn, w->store->db[AP_DB_LOG], &cursor);
    if (lmdb == 0)
        lmdb = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (lmdb == 0 && rc == 0 && visits > 0) {
        struct ap_row row;
        memcpy(&slot, key.mv_data, sizeof slot);
        if (slot > seen)
            break;
        if (ap_row_read(value.mv_data, value.mv_size, 0, &row, NULL) == 0 && is_current(w, &row.key, slot)) {
            if (moved == max_rows)
                break;
            rc = move_row(w, slot, &row, err);
            moved++;
        }
        w->cleaned = slot + 1;
        w->passed_rows++;
        visits--;
        lmdb = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc == 0 && lmdb != 0 && lmdb != MDB_NOTFOUND)
        rc = ap_writer_fail(w, lmdb, "read its oldest rows", err);
    if (rc == 0 && w->cleaned > start)
        remember(w);
    return rc;
}
