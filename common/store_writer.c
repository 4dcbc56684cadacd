/* The writer: one batch is one LMDB transaction, and all of it or nothing is there after kill -9.
 *
 * Opening takes writer.lock, then scans the log once: the newest slot of each key goes into the map, and the digests are
 * counted from the rows' checksums and compared with those stored, so a digest that went wrong is found at the next start
 * at the latest. A row that fails its checksum counts as never written (small ones are checked in the scan, since their
 * pages are read anyway; all are when they are merged with): it is logged, and the digests then differ from the other
 * regions', which is how repair finds it.
 *
 * Errors are fatal because the map and the positions are then ahead of the file: close, and open anew. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/log.h"
#include "common/store_internal.h"
#include "common/timeutil.h"
#include "common/unsafe.h"

#define SCAN_VERIFY_BYTES 2048 /* what is longer has overflow pages, which the scan would read for nothing else */
#define READERS_CHECK_MS 5000

int ap_writer_fail(struct ap_writer *w, int rc, const char *what, struct ap_err *err)
{
    w->failed = true;
    return ap_store_fail(w->store, rc, what, err);
}

static int fail_again(const struct ap_writer *w, struct ap_err *err)
{
    return ap_err_set(err, AP_EIO, AP_FATAL, "store %s: an earlier write failed; open the writer anew", w->store->path);
}

/* --- the map's view of rows --- */

bool ap_writer_match(void *writer, uint64_t slot, const struct ap_key *key)
{
    struct ap_writer *w = writer;
    MDB_val k = ap_val(&slot, sizeof slot);
    w->matched.slot = slot;
    w->matched.rc = mdb_get(w->txn, w->store->db[AP_DB_LOG], &k, &w->matched.bytes);
    return w->matched.rc == 0 && w->matched.bytes.mv_size >= AP_ROW_HEADER &&
           memcmp((const uint8_t *)w->matched.bytes.mv_data + 16, key->b, sizeof key->b) == 0;
}

bool ap_writer_match_slot(void *slot_wanted, uint64_t slot, const struct ap_key *key)
{
    (void)key;
    return slot == *(const uint64_t *)slot_wanted;
}

/* --- opening --- */

static int take_lock(struct ap_writer *w, struct ap_err *err)
{
    const struct ap_store *s = w->store;
    w->lock_fd = openat(s->dir_fd, "writer.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (w->lock_fd < 0)
        return ap_store_fail(s, errno, "open writer.lock", err);
    char pid[32] = {0};
    if (flock(w->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK)
            return ap_store_fail(s, errno, "take writer.lock", err);
        ssize_t n = pread(w->lock_fd, pid, sizeof pid - 1, 0);
        return ap_err_set(err, AP_EBUSY, AP_FATAL, "store %s: process %.*s writes to it already; stop that one, or give this one a folder of its own",
                          s->path, n > 0 ? (int)strcspn(pid, "\n") : 1, n > 0 ? pid : "?");
    }
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(w->lock_fd, 0) != 0 || pwrite(w->lock_fd, pid, (size_t)n, 0) != n)
        return ap_store_fail(s, errno, "write writer.lock", err);
    return 0;
}

static bool scanned_row_is_sound(const MDB_val *value, struct ap_row *row)
{
    return ap_row_read(value->mv_data, value->mv_size, value->mv_size <= SCAN_VERIFY_BYTES, row, NULL) == 0;
}

/* Fill the map, count the digests. */
static int scan_log(struct ap_writer *w, struct ap_err *err)
{
    const struct ap_store *s = w->store;
    MDB_stat stat;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    uint64_t slot = 0, unsound = 0, first_unsound = 0;
    int rc = mdb_stat(w->txn, s->db[AP_DB_LOG], &stat);
    if (rc == 0)
        rc = mdb_cursor_open(w->txn, s->db[AP_DB_LOG], &cursor);
    ap_slotmap_init(&w->map, w->state.rows);
    while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        struct ap_row row, old;
        memcpy(&slot, key.mv_data, sizeof slot);
        if (!scanned_row_is_sound(&value, &row)) {
            if (unsound++ == 0)
                first_unsound = slot;
            continue;
        }
        uint64_t before = ap_slotmap_put(&w->map, &row.key, slot, ap_writer_match, w);
        if (before) {
            assert(w->matched.slot == before);
            /* It was sound when it was put. */
            if (ap_row_read(w->matched.bytes.mv_data, w->matched.bytes.mv_size, 0, &old, NULL) == 0) {
                ap_digests_remove(&w->digests, &old.key, old.checksum);
                w->tombstones -= !ap_row_is_live(&old);
            }
        }
        w->tombstones += !ap_row_is_live(&row);
        ap_digests_add(&w->digests, &row.key, row.checksum);
    }
    if (cursor)
        mdb_cursor_close(cursor);
    if (rc != MDB_NOTFOUND)
        return ap_store_fail(s, rc, "read its rows", err);
    if (slot >= w->state.next_slot)
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "store %s: slot %llu is in use but %llu is said to be the next", s->path,
                          (unsigned long long)slot, (unsigned long long)w->state.next_slot);
    if (unsound)
        ap_error("store %s: %llu rows fail their checksum, the first in slot %llu: they count as never written; run verify to get them back",
                 s->path, (unsigned long long)unsound, (unsigned long long)first_unsound);
    int different = ap_digests_compare(&w->digests, s, w->txn, err);
    if (different > 0)
        ap_warn("store %s: %d pieces of its digests did not fit its rows: counted anew", s->path, different);
    w->dirty = different > 0;
    return different < 0 ? different : 0;
}

static int load_positions(struct ap_writer *w, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_POSITIONS], &cursor), bad = 0;
    if (rc != 0)
        return ap_store_fail(w->store, rc, "read its positions", err);
    while (bad == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        bad = ap_positions_load_entry(w->positions, key.mv_data, key.mv_size, value.mv_data, value.mv_size, err);
    mdb_cursor_close(cursor);
    if (bad != 0) {
        ap_err_wrap(err, "store %s", w->store->path);
        return bad;
    }
    return rc == MDB_NOTFOUND ? 0 : ap_store_fail(w->store, rc, "read its positions", err);
}

static int load(struct ap_writer *w, struct ap_err *err)
{
    const struct ap_store *s = w->store;
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &w->txn);
    if (rc != 0)
        return ap_store_fail(s, rc, "begin to read", err);
    int bad = ap_store_read_state(s, w->txn, &w->state, err);
    if (bad == 0)
        bad = scan_log(w, err);
    if (bad == 0)
        bad = load_positions(w, err);
    if (bad == 0)
        bad = ap_writer_load_extras(w, err);
    MDB_cursor *cursor;
    MDB_val key, value;
    if (bad == 0 && (rc = mdb_cursor_open(w->txn, s->db[AP_DB_RAW], &cursor)) == 0) {
        rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
        if (rc == 0)
            memcpy(&w->raw_last, key.mv_data, sizeof w->raw_last);
        mdb_cursor_close(cursor);
        rc = rc == MDB_NOTFOUND ? 0 : rc;
    }
    mdb_txn_abort(w->txn);
    w->txn = NULL;
    w->committed_next = w->state.next_slot;
    w->cleaned = w->state.first_slot;
    if (bad == 0 && rc != 0)
        bad = ap_store_fail(s, rc, "read its raw vectors", err);
    return bad;
}

static void check_readers(struct ap_writer *w)
{
    int dead = 0;
    w->readers_checked_ms = ap_mono_ms();
    if (mdb_reader_check(w->store->env, &dead) == 0 && dead > 0)
        ap_warn("store %s: %d read slots of processes that died were freed", w->store->path, dead);
}

int ap_writer_open(struct ap_writer **out, struct ap_store *store,
                   uint64_t (*lineage_of)(void *, uint64_t), void *lineage_arg, struct ap_err *err)
{
    assert(!store->read_only);
    *out = NULL;
    struct ap_writer *w = calloc(1, sizeof *w);
    if (!w)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "store %s: no memory", store->path);
    w->store = store;
    w->wake_fd = -1;
    w->batch_clock = AP_HLC_MAX;
    w->positions = ap_positions_new(lineage_of, lineage_arg);
    int rc = take_lock(w, err);
    if (rc == 0) {
        check_readers(w);
        rc = ap_sync_start(store, err);
    }
    if (rc == 0)
        rc = load(w, err);
    if (rc == 0 && (w->wake_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0)
        rc = ap_store_fail(store, errno, "make a socket", err);
    if (rc != 0)
        ap_writer_close(&w);
    *out = w;
    return rc;
}

void ap_writer_close(struct ap_writer **writer)
{
    struct ap_writer *w = *writer;
    if (!w)
        return;
    if (w->txn)
        mdb_txn_abort(w->txn);
    ap_sync_stop(w->store);
    if (w->wake_fd >= 0)
        close(w->wake_fd);
    if (w->lock_fd >= 0)
        close(w->lock_fd);
    ap_slotmap_fini(&w->map);
    ap_positions_free(&w->positions);
    ap_digests_fini(&w->digests);
    ap_buf_free(&w->row);
    ap_buf_free(&w->raw);
    free(w->passed);
    free(w->collecting.keys);
    free(w);
    *writer = NULL;
}

uint64_t ap_writer_unsynced(const struct ap_writer *w)
{
    if (!w->store->sync.runs)
        return AP_HLC_MAX;
    uint64_t committed = ap_sync_unsynced(w->store);
    return committed < w->batch_clock ? committed : w->batch_clock;
}

struct ap_positions *ap_writer_positions(struct ap_writer *w)
{
    return w->positions;
}

uint64_t ap_writer_next_slot(const struct ap_writer *w)
{
    return w->state.next_slot;
}

/* --- a batch --- */

int ap_writer_begin(struct ap_writer *w, struct ap_err *err)
{
    assert(!w->txn);
    if (w->failed)
        return fail_again(w, err);
    int rc = mdb_txn_begin(w->store->env, NULL, 0, &w->txn);
    if (rc == 0)
        rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_LOG], &w->log);
    return rc ? ap_writer_fail(w, rc, "begin a batch", err) : 0;
}

int ap_writer_append(struct ap_writer *w, const void *row, size_t len, uint64_t *slot, struct ap_err *err)
{
    *slot = w->state.next_slot;
    if (*slot > AP_SLOT_MAX) {
        w->failed = true;
        return ap_err_set(err, AP_ENOSPC, AP_FATAL, "store %s: all slot numbers are used up; rebuild it in a new folder", w->store->path);
    }
    MDB_val key = ap_val(slot, sizeof *slot), value = ap_val(row, len);
    int rc = mdb_cursor_put(w->log, &key, &value, MDB_APPEND);
    if (rc != 0)
        return ap_writer_fail(w, rc, "write a row", err);
    w->state.next_slot++;
    w->dirty = true;
    return 0;
}

int ap_writer_put_raw(struct ap_writer *w, uint64_t slot, const void *vector, size_t len, struct ap_err *err)
{
    MDB_val key = ap_val(&slot, sizeof slot), value = ap_val(vector, len);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_RAW], &key, &value, slot > w->raw_last ? MDB_APPEND : 0);
    if (rc != 0)
        return ap_writer_fail(w, rc, "write a raw vector", err);
    if (slot > w->raw_last)
        w->raw_last = slot;
    w->dirty = true;
    return 0;
}

int ap_writer_move_raw(struct ap_writer *w, uint64_t from, uint64_t to, struct ap_err *err)
{
    if (from > w->raw_last)
        return 0;
    MDB_val key = ap_val(&from, sizeof from), value;
    int rc = mdb_get(w->txn, w->store->db[AP_DB_RAW], &key, &value);
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc != 0)
        return ap_writer_fail(w, rc, "read a raw vector", err);
    ap_buf_clear(&w->raw); /* a copy: the next write may move what value points to */
    ap_buf_append(&w->raw, value.mv_data, value.mv_size);
    return ap_writer_put_raw(w, to, w->raw.data, w->raw.len, err);
}

/* A slot of the map has no row: the file was damaged. The row counts as never written, as one that fails its checksum does. */
static void forget_slot(struct ap_writer *w, const struct ap_key *key, uint64_t slot)
{
    static struct ap_log_limit limit;
    ap_log_limited(&limit, 1000, AP_LOG_ERROR, "store %s: slot %llu has lost its row; it counts as never written: run verify --scrub --repair",
                   w->store->path, (unsigned long long)slot);
    ap_slotmap_remove(&w->map, key, ap_writer_match_slot, &slot);
    w->recount = true;
}

/* The current row of key, if it has a sound one; *slot is 0 when it has none at all. */
static int current_row(struct ap_writer *w, const struct ap_key *key, uint64_t *slot, struct ap_row *row, bool *sound, struct ap_err *err)
{
    w->matched.rc = 0;
    *sound = false;
    *slot = ap_slotmap_get(&w->map, key, ap_writer_match, w);
    if (w->matched.rc == MDB_NOTFOUND && *slot == 0) {
        forget_slot(w, key, w->matched.slot);
        return current_row(w, key, slot, row, sound, err);
    }
    if (w->matched.rc != 0 && w->matched.rc != MDB_NOTFOUND)
        return ap_writer_fail(w, w->matched.rc, "read a row", err);
    if (*slot == 0)
        return 0;
    struct ap_err why;
    *sound = ap_row_read(w->matched.bytes.mv_data, w->matched.bytes.mv_size, 1, row, &why) == 0;
    static struct ap_log_limit limit;
    if (!*sound)
        ap_log_limited(&limit, 1000, AP_LOG_ERROR, "store %s: slot %llu: %s; it counts as never written", w->store->path,
                       (unsigned long long)*slot, why.msg);
    return 0;
}

static bool same_base(const struct ap_row *a, const uint8_t *b_bytes, size_t b_len)
{
    struct ap_row b;
    return ap_row_read(b_bytes, b_len, 0, &b, NULL) == 0 && ap_row_is_live(a) && ap_row_is_live(&b) &&
           ap_version_compare(&a->version, &b.version) == 0;
}

/* Count rows that are not live, and keep with each the greatest clock of what made it. */
static int bury(struct ap_writer *w, bool was_dead, uint64_t old, uint64_t slot, const struct ap_mutation *m, struct ap_err *err)
{
    struct ap_row row;
    uint64_t clock = 0;
    w->tombstones -= was_dead;
    if (ap_row_read(w->row.data, w->row.len, 0, &row, NULL) != 0 || ap_row_is_live(&row))
        return 0;
    w->tombstones++;
    int rc = was_dead ? ap_writer_grave(w, old, &clock, err) : 0;
    uint64_t newest = ap_row_newest(&row).hlc;
    clock = m->clock > clock ? m->clock : clock;
    return rc ? rc : ap_writer_put_grave(w, slot, newest > clock ? newest : clock, err);
}

int ap_writer_apply(struct ap_writer *w, const struct ap_key *key, const struct ap_mutation *m, bool *changed, struct ap_err *err)
{
    struct ap_row current;
    uint64_t old, slot;
    bool sound;
    assert(w->txn);
    *changed = false;
    if (w->failed)
        return fail_again(w, err);
    int rc = current_row(w, key, &old, &current, &sound, err);
    if (rc < 0)
        return rc;
    ap_buf_clear(&w->row);
    bool blind = ap_unsafe(AP_UNSAFE_NO_VERSION_CHECK) || (ap_unsafe(AP_UNSAFE_NO_TOMBSTONES) && sound && !ap_row_is_live(&current));
    rc = ap_row_merge(key, sound && !blind ? &current : NULL, m, &w->row, err);
    if (rc <= 0)
        return rc;
    uint64_t old_checksum = sound ? current.checksum : 0;
    bool keeps_raw = sound && m->op == AP_OP_PATCH && same_base(&current, w->row.data, w->row.len);
    bool was_dead = sound && !ap_row_is_live(&current); /* before the next write, which may move what current points to */
    rc = ap_writer_append(w, w->row.data, w->row.len, &slot, err);
    w->batch_clock = m->version.hlc < w->batch_clock ? m->version.hlc : w->batch_clock;
    if (rc == 0 && keeps_raw)
        rc = ap_writer_move_raw(w, old, slot, err);
    if (rc == 0)
        rc = bury(w, was_dead, old, slot, m, err);
    if (rc < 0)
        return rc;
    ap_slotmap_put(&w->map, key, slot, ap_writer_match_slot, &old);
    if (sound)
        ap_digests_remove(&w->digests, key, old_checksum);
    else if (old != 0)
        w->recount = true;
    ap_digests_add(&w->digests, key, ap_le64(w->row.data));
    *changed = true;
    return 0;
}

int ap_writer_raw(struct ap_writer *w, const struct ap_key *key, const struct ap_version *version, const void *vector, size_t len, bool *matched, struct ap_err *err)
{
    struct ap_row current;
    uint64_t slot;
    bool sound;
    assert(w->txn);
    *matched = false;
    if (w->failed)
        return fail_again(w, err);
    int rc = current_row(w, key, &slot, &current, &sound, err);
    if (rc < 0)
        return rc;
    if (!sound || !ap_row_is_live(&current) || ap_version_compare(&current.version, version) != 0)
        return 0;
    *matched = true;
    return ap_writer_put_raw(w, slot, vector, len, err);
}

size_t ap_offset_key(const char *cluster, const uint8_t topic_id[16], int32_t partition, uint8_t *out, size_t cap)
{
    size_t len = strlen(cluster);
    if (AP_OFFSET_KEY_HEAD + len > cap)
        return 0;
    memcpy(out, topic_id, 16);
    for (int i = 0; i < 4; i++)
        out[16 + i] = (uint8_t)((uint32_t)partition >> (24 - 8 * i));
    memcpy(out + AP_OFFSET_KEY_HEAD, cluster, len);
    return AP_OFFSET_KEY_HEAD + len;
}

int ap_writer_put_offset(struct ap_writer *w, const char *cluster, const uint8_t topic_id[16], const char *name, int32_t partition, int64_t next, struct ap_err *err)
{
    uint8_t key_bytes[256], value_bytes[8 + 256];
    size_t key_len = ap_offset_key(cluster, topic_id, partition, key_bytes, sizeof key_bytes), name_len = strlen(name);
    assert(w->txn);
    if (w->failed)
        return fail_again(w, err);
    if (key_len == 0 || name_len > 256)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "store %s: a cluster id or topic name is too long: '%s', '%s'", w->store->path, cluster, name);
    ap_put_le64(value_bytes, (uint64_t)next);
    memcpy(value_bytes + 8, name, name_len);
    MDB_val key = ap_val(key_bytes, key_len), value = ap_val(value_bytes, 8 + name_len);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_OFFSETS], &key, &value, 0);
    w->dirty = true;
    return rc ? ap_writer_fail(w, rc, "write an offset", err) : 0;
}

int ap_writer_get_offset(struct ap_writer *w, const char *cluster, const uint8_t topic_id[16], int32_t partition, int64_t *next, struct ap_err *err)
{
    uint8_t bytes[256];
    size_t len = ap_offset_key(cluster, topic_id, partition, bytes, sizeof bytes);
    if (len == 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "store %s: a cluster id is too long: '%s'", w->store->path, cluster);
    struct ap_snapshot *snapshot = NULL;
    if (!w->txn) {
        int rc = ap_snapshot_begin(w->store, &snapshot, err);
        if (rc < 0)
            return rc;
    }
    MDB_val key = ap_val(bytes, len), value;
    int rc = mdb_get(w->txn ? w->txn : snapshot->txn, w->store->db[AP_DB_OFFSETS], &key, &value);
    if (rc == 0 && value.mv_size >= 8)
        *next = (int64_t)ap_le64(value.mv_data);
    ap_snapshot_end(&snapshot);
    if (rc == MDB_NOTFOUND)
        return ap_err_set(err, AP_ENOTFOUND, AP_NONE, "store %s: partition %d of this topic was never read", w->store->path, partition);
    return rc ? ap_writer_fail(w, rc, "read an offset", err) : 0;
}

int ap_writer_put_control(struct ap_writer *w, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len, struct ap_err *err)
{
    uint8_t bytes[511];
    assert(w->txn);
    if (w->failed)
        return fail_again(w, err);
    if (sizeof origin->name + key_len > sizeof bytes || key_len == 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "a control record has a key of %zu bytes", key_len);
    memcpy(bytes, origin->name, sizeof origin->name);
    memcpy(bytes + sizeof origin->name, key, key_len);
    MDB_val k = ap_val(bytes, sizeof origin->name + key_len), v = ap_val(value, value_len);
    int rc;
    if (value_len > 0) {
        rc = mdb_put(w->txn, w->store->db[AP_DB_CONTROL], &k, &v, 0);
    } else {
        rc = mdb_del(w->txn, w->store->db[AP_DB_CONTROL], &k, NULL);
        rc = rc == MDB_NOTFOUND ? 0 : rc;
    }
    w->state.control_version++;
    w->dirty = true;
    return rc ? ap_writer_fail(w, rc, "write a control record", err) : 0;
}

/* --- commit --- */

static int put_position(void *writer, const void *key, size_t key_len, const void *value, size_t value_len)
{
    struct ap_writer *w = writer;
    MDB_val k = ap_val(key, key_len), v = ap_val(value, value_len);
    w->dirty = true;
    if (value_len > 0)
        return mdb_put(w->txn, w->store->db[AP_DB_POSITIONS], &k, &v, 0);
    int rc = mdb_del(w->txn, w->store->db[AP_DB_POSITIONS], &k, NULL);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* All digests from the rows: after a row was replaced whose checksum, and so its part of the digests, was in doubt. */
static int recount(struct ap_writer *w, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_LOG], &cursor);
    if (rc != 0)
        return ap_writer_fail(w, rc, "count its digests", err);
    ap_digests_fini(&w->digests);
    w->tombstones = 0;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        struct ap_row row;
        uint64_t slot;
        memcpy(&slot, key.mv_data, sizeof slot);
        if (ap_row_read(value.mv_data, value.mv_size, 0, &row, NULL) == 0 &&
            ap_slotmap_get(&w->map, &row.key, ap_writer_match_slot, &slot) == slot) {
            ap_digests_add(&w->digests, &row.key, row.checksum);
            w->tombstones += !ap_row_is_live(&row);
        }
    }
    mdb_cursor_close(cursor);
    if (rc != MDB_NOTFOUND)
        return ap_writer_fail(w, rc, "count its digests", err);
    w->recount = false;
    int different = ap_digests_compare(&w->digests, w->store, w->txn, err);
    w->dirty |= different > 0;
    return different < 0 ? different : 0;
}

static int put_state(struct ap_writer *w, struct ap_err *err)
{
    uint8_t bytes[AP_STATE_BYTES];
    w->state.rows = w->map.used;
    ap_put_le64(bytes, w->state.next_slot);
    ap_put_le64(bytes + 8, w->state.first_slot);
    ap_put_le64(bytes + 16, w->state.rows);
    ap_put_le64(bytes + 24, w->state.control_version);
    MDB_val key = ap_val("state", 5), value = ap_val(bytes, sizeof bytes);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_META], &key, &value, 0);
    return rc ? ap_writer_fail(w, rc, "write its state", err) : 0;
}

int ap_writer_commit(struct ap_writer *w, struct ap_err *err)
{
    assert(w->txn);
    if (w->failed)
        return fail_again(w, err);
    int rc = ap_positions_flush(w->positions, put_position, w);
    if (rc != 0)
        return ap_writer_fail(w, rc, "write positions", err);
    bool recount_asked = ap_store_recount_asked(w->store);
    if ((w->recount || recount_asked) && (rc = recount(w, err)) < 0)
        return rc;
    if (w->dirty && ((rc = ap_digests_flush(&w->digests, w->store, w->txn, err)) < 0 || (rc = put_state(w, err)) < 0)) {
        w->failed = true;
        return rc;
    }
    rc = mdb_txn_commit(w->txn); /* frees it, whatever it says */
    w->txn = NULL;
    w->log = NULL;
    if (rc != 0)
        return ap_writer_fail(w, rc, "commit", err);
    rc = ap_sync_committed(w->store, w->batch_clock, err);
    w->batch_clock = AP_HLC_MAX;
    if (rc != 0) {
        w->failed = true;
        return rc;
    }
    if (recount_asked)
        ap_store_recount_done(w->store);
    if (w->dirty)
        ap_store_poke(w->store, w->wake_fd);
    w->dirty = false;
    ap_store_unmap(w->store);
    w->committed_next = w->state.next_slot;
    if (ap_mono_ms() - w->readers_checked_ms >= READERS_CHECK_MS)
        check_readers(w);
    return 0;
}
