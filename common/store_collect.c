/* Collecting tombstones.
 *
 * The danger is inside the store first: the log may still hold an older, live row of the point, and whoever reads the log
 * next (the writer at its start, an indexer) would take that for the current one. So a round has two steps. Gathering goes
 * over `graves`, the clocks of the rows that are not live, and notes the points of those that may go. Sweeping goes over
 * the log from its start and deletes every row of these points, oldest first; the tombstone goes last, since it is the
 * newest. What does not fit when it is met (the row changed, or was moved beyond what the indexer has seen) takes its
 * point out of the round: a tombstone whose older rows were not all deleted stays.
 *
 * Each call does a bounded piece of work, and a round is followed by a rest of twenty times its work. A process that dies in
 * between leaves tombstones with fewer old rows, which is as good as before. */
#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>
#include "common/store_internal.h"
#include "common/timeutil.h"

#define ROUND_KEYS (1u << 20) /* 16 MiB of hashes at most */
#define REST 20
enum { EMPTY, GONE }; /* entries that are no hash */

/* --- clocks --- */

int ap_writer_grave(struct ap_writer *w, uint64_t slot, uint64_t *clock, struct ap_err *err)
{
    MDB_val key = ap_val(&slot, sizeof slot), value;
    int rc = mdb_get(w->txn, w->store->db[AP_DB_GRAVES], &key, &value);
    *clock = rc == 0 && value.mv_size == 8 ? ap_le64(value.mv_data) : 0;
    return rc && rc != MDB_NOTFOUND ? ap_writer_fail(w, rc, "read a tombstone's clock", err) : 0;
}

int ap_writer_put_grave(struct ap_writer *w, uint64_t slot, uint64_t clock, struct ap_err *err)
{
    uint8_t bytes[8];
    ap_put_le64(bytes, clock);
    MDB_val key = ap_val(&slot, sizeof slot), value = ap_val(bytes, sizeof bytes);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_GRAVES], &key, &value, 0);
    return rc ? ap_writer_fail(w, rc, "write a tombstone's clock", err) : 0;
}

/* --- the points of a round --- */

static uint64_t hash_of(const uint8_t *key)
{
    uint64_t h = XXH3_64bits(key, sizeof(struct ap_key));
    return h > GONE ? h : h + 2;
}

static uint64_t *place(const struct ap_collecting *c, uint64_t hash)
{
    size_t i = hash & c->mask;
    while (c->keys[i] != EMPTY && c->keys[i] != hash)
        i = (i + 1) & c->mask;
    return &c->keys[i];
}

static void keys_init(struct ap_collecting *c, size_t size)
{
    if (!(c->keys = calloc(size, sizeof *c->keys)))
        abort();
    c->mask = size - 1;
}

static void keys_add(struct ap_collecting *c, uint64_t hash)
{
    if (c->count >= (c->mask + 1) / 2) {
        struct ap_collecting old = *c;
        keys_init(c, (old.mask + 1) * 2);
        for (size_t i = 0; i <= old.mask; i++)
            if (old.keys[i] != EMPTY)
                *place(c, old.keys[i]) = old.keys[i];
        free(old.keys);
    }
    uint64_t *at = place(c, hash);
    c->count += *at == EMPTY;
    *at = hash;
}

/* --- what may go --- */

/* The current row of key, when it may go: *slot, and w->matched.bytes is the row. */
static int may_go(struct ap_writer *w, const struct ap_key *key, uint64_t seen, uint64_t *slot, bool *may, struct ap_err *err)
{
    struct ap_row row;
    uint64_t clock = 0;
    w->matched.rc = 0;
    *may = false;
    *slot = ap_slotmap_get(&w->map, key, ap_writer_match, w);
    if (w->matched.rc && w->matched.rc != MDB_NOTFOUND)
        return ap_writer_fail(w, w->matched.rc, "read a row", err);
    if (*slot == 0 || *slot > seen || ap_row_read(w->matched.bytes.mv_data, w->matched.bytes.mv_size, 1, &row, NULL) != 0 || ap_row_is_live(&row))
        return 0;
    int rc = ap_writer_grave(w, *slot, &clock, err);
    *may = clock != 0 && clock < w->collecting.floor && ap_row_newest(&row).hlc < w->collecting.floor;
    return rc;
}

/* --- gathering --- */

/* One entry of graves: note its point, or take the entry out when its row has been replaced. */
static int gather_one(struct ap_writer *w, MDB_cursor *cursor, uint64_t slot, uint64_t clock, uint64_t seen, struct ap_err *err)
{
    struct ap_row row;
    MDB_val key = ap_val(&slot, sizeof slot), value;
    if (clock >= w->collecting.floor || slot > seen)
        return 0;
    int rc = mdb_get(w->txn, w->store->db[AP_DB_LOG], &key, &value);
    if (rc && rc != MDB_NOTFOUND)
        return ap_writer_fail(w, rc, "read a row", err);
    if (rc == 0 && ap_row_read(value.mv_data, value.mv_size, 0, &row, NULL) == 0 &&
        ap_slotmap_get(&w->map, &row.key, ap_writer_match_slot, &slot) == slot) {
        keys_add(&w->collecting, hash_of(row.key.b));
        w->collecting.last = slot;
        return 0;
    }
    w->dirty = true;
    rc = mdb_cursor_del(cursor, 0);
    return rc ? ap_writer_fail(w, rc, "drop a tombstone's clock", err) : 0;
}

static int gather(struct ap_writer *w, uint64_t seen, size_t visits, struct ap_err *err)
{
    struct ap_collecting *c = &w->collecting;
    MDB_cursor *cursor;
    MDB_val key = ap_val(&c->next, sizeof c->next), value;
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_GRAVES], &cursor), bad = 0;
    if (rc)
        return ap_writer_fail(w, rc, "read its tombstones' clocks", err);
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; rc == 0 && bad == 0 && visits > 0 && c->count < ROUND_KEYS; visits--) {
        uint64_t slot;
        memcpy(&slot, key.mv_data, sizeof slot);
        c->next = slot + 1;
        bad = gather_one(w, cursor, slot, value.mv_size == 8 ? ap_le64(value.mv_data) : 0, seen, err);
        if (bad == 0) { /* by its key: an entry that was taken out leaves the cursor at its successor */
            key = ap_val(&c->next, sizeof c->next);
            rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        }
    }
    mdb_cursor_close(cursor);
    if (bad == 0 && rc && rc != MDB_NOTFOUND)
        bad = ap_writer_fail(w, rc, "read its tombstones' clocks", err);
    if (rc == MDB_NOTFOUND || c->count >= ROUND_KEYS) {
        c->phase = c->count ? AP_COLLECT_SWEEPS : AP_COLLECT_RESTS;
        c->next = w->state.first_slot;
    }
    return bad;
}

/* --- sweeping --- */

static int delete_row(struct ap_writer *w, MDB_cursor *cursor, uint64_t slot, struct ap_err *err)
{
    MDB_val key = ap_val(&slot, sizeof slot);
    int rc = mdb_cursor_del(cursor, 0);
    for (enum ap_store_db db = AP_DB_RAW; rc == 0 && db <= AP_DB_GRAVES; db++) {
        rc = mdb_del(w->txn, w->store->db[db], &key, NULL);
        rc = rc == MDB_NOTFOUND ? 0 : rc;
    }
    w->passed_rows -= slot < w->cleaned;
    w->dirty = true;
    return rc ? ap_writer_fail(w, rc, "drop a collected row", err) : 0;
}

static int count_collected(struct ap_writer *w, struct ap_err *err)
{
    uint8_t bytes[8];
    ap_put_le64(bytes, ++w->collected);
    MDB_val key = ap_val("collected", 9), value = ap_val(bytes, sizeof bytes);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_META], &key, &value, 0);
    return rc ? ap_writer_fail(w, rc, "count what it collected", err) : ap_writer_raise_horizon(w, w->collecting.floor, err);
}

/* A row of one of the round's points. */
static int sweep_one(struct ap_writer *w, MDB_cursor *cursor, uint64_t slot, const uint8_t *row_key, uint64_t *in_round, uint64_t seen,
                     struct ap_collected *out, struct ap_err *err)
{
    struct ap_key key;
    struct ap_row row;
    uint64_t current;
    bool may;
    memcpy(key.b, row_key, sizeof key.b);
    int rc = may_go(w, &key, seen, &current, &may, err);
    if (rc < 0)
        return rc;
    if (!may || slot > current) {
        *in_round = GONE;
        return 0;
    }
    if (slot == current) {
        if (ap_row_read(w->matched.bytes.mv_data, w->matched.bytes.mv_size, 0, &row, NULL) != 0)
            abort(); /* may_go has read it */
        ap_writer_forget(w, &row, slot);
        rc = count_collected(w, err);
        out->tombstones++;
    }
    return rc ? rc : delete_row(w, cursor, slot, err);
}

static int sweep(struct ap_writer *w, uint64_t seen, size_t visits, struct ap_collected *out, struct ap_err *err)
{
    struct ap_collecting *c = &w->collecting;
    MDB_cursor *cursor;
    MDB_val key = ap_val(&c->next, sizeof c->next), value;
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_LOG], &cursor), bad = 0;
    if (rc)
        return ap_writer_fail(w, rc, "read its rows", err);
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; rc == 0 && bad == 0 && visits > 0 && c->next <= c->last; visits--) {
        uint64_t slot, *in_round = NULL;
        memcpy(&slot, key.mv_data, sizeof slot);
        c->next = slot + 1;
        const uint8_t *row_key = (const uint8_t *)value.mv_data + 16;
        if (value.mv_size >= AP_ROW_HEADER && slot <= c->last && *(in_round = place(c, hash_of(row_key))) != EMPTY)
            bad = sweep_one(w, cursor, slot, row_key, in_round, seen, out, err);
        if (bad == 0) {
            key = ap_val(&c->next, sizeof c->next);
            rc = mdb_cursor_get(cursor, &key, &value, in_round && *in_round != EMPTY ? MDB_SET_RANGE : MDB_NEXT);
        }
    }
    mdb_cursor_close(cursor);
    if (bad == 0 && rc && rc != MDB_NOTFOUND)
        bad = ap_writer_fail(w, rc, "read its rows", err);
    if (rc == MDB_NOTFOUND || c->next > c->last)
        c->phase = AP_COLLECT_RESTS;
    return bad ? bad : ap_writer_find_first(w, err);
}

/* --- a call --- */

static void begin(struct ap_collecting *c, uint64_t floor)
{
    free(c->keys);
    *c = (struct ap_collecting){.phase = AP_COLLECT_GATHERS, .floor = floor, .next = 1, .rest_until_ns = c->rest_until_ns};
    keys_init(c, 1024);
}

int ap_writer_collect(struct ap_writer *w, uint64_t floor, uint64_t seen, size_t max_rows, struct ap_collected *out, struct ap_err *err)
{
    struct ap_collecting *c = &w->collecting;
    int64_t start = ap_mono_ns();
    assert(w->txn);
    *out = (struct ap_collected){0};
    if (w->failed)
        return ap_err_set(err, AP_EIO, AP_FATAL, "store %s: an earlier write failed; open the writer anew", w->store->path);
    if (seen >= w->committed_next)
        seen = w->committed_next - 1; /* nobody can have seen more */
    if (c->phase == AP_COLLECT_RESTS && (w->tombstones == 0 || floor == 0 || start < c->rest_until_ns))
        return 0;
    if (c->phase == AP_COLLECT_RESTS)
        begin(c, floor);
    int rc = c->phase == AP_COLLECT_GATHERS ? gather(w, seen, max_rows, err) : sweep(w, seen, max_rows, out, err);
    c->worked_ns += ap_mono_ns() - start;
    if (c->phase == AP_COLLECT_RESTS) {
        c->rest_until_ns = ap_mono_ns() + REST * c->worked_ns;
        free(c->keys);
        c->keys = NULL;
    }
    out->more = c->phase != AP_COLLECT_RESTS;
    return rc;
}

uint64_t ap_writer_tombstones(const struct ap_writer *w)
{
    return w->tombstones;
}

uint64_t ap_writer_horizon(const struct ap_writer *w)
{
    return w->horizon;
}

/* --- what is said to others --- */

int ap_writer_put_settled(struct ap_writer *w, struct ap_settled settled, struct ap_err *err)
{
    uint8_t bytes[16];
    if (settled.hlc == w->settled.hlc && settled.retention_ms == w->settled.retention_ms)
        return 0;
    ap_put_le64(bytes, settled.hlc);
    ap_put_le64(bytes + 8, (uint64_t)settled.retention_ms);
    MDB_val key = ap_val("settled", 7), value = ap_val(bytes, sizeof bytes);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_META], &key, &value, 0);
    w->settled = settled;
    w->dirty = true;
    return rc ? ap_writer_fail(w, rc, "write what is settled", err) : 0;
}

struct ap_settled ap_writer_settled(const struct ap_writer *w)
{
    return w->settled;
}

struct ap_settled ap_snapshot_settled(const struct ap_snapshot *s)
{
    MDB_val key = ap_val("settled", 7), value;
    if (mdb_get(s->txn, s->store->db[AP_DB_META], &key, &value) != 0 || value.mv_size != 16)
        return (struct ap_settled){0};
    return (struct ap_settled){ap_le64(value.mv_data), (int64_t)ap_le64((const uint8_t *)value.mv_data + 8)};
}

uint64_t ap_snapshot_collected(const struct ap_snapshot *s)
{
    MDB_val key = ap_val("collected", 9), value;
    if (mdb_get(s->txn, s->store->db[AP_DB_META], &key, &value) != 0 || value.mv_size != 8)
        return 0;
    return ap_le64(value.mv_data);
}
