/* Reading: LMDB read transactions, kept in a pool between uses. Ending a snapshot resets its transaction, so that it holds
 * no old page back; beginning one renews it, which costs no system call and no lock of LMDB's. */
#include <errno.h>
#include <stdlib.h>
#include "common/store_internal.h"

int ap_snapshot_begin(struct ap_store *store, struct ap_snapshot **out, struct ap_err *err)
{
    *out = NULL;
    pthread_mutex_lock(&store->pool_lock);
    struct ap_snapshot *s = store->pool;
    if (s)
        store->pool = s->next;
    pthread_mutex_unlock(&store->pool_lock);
    int rc;
    if (s) {
        rc = mdb_txn_renew(s->txn);
    } else {
        s = calloc(1, sizeof *s);
        rc = s ? mdb_txn_begin(store->env, NULL, MDB_RDONLY, &s->txn) : ENOMEM;
    }
    if (rc != 0) {
        if (s && s->txn)
            mdb_txn_abort(s->txn);
        free(s);
        return ap_store_fail(store, rc, "begin to read", err);
    }
    s->store = store;
    s->next = NULL;
    rc = ap_store_read_state(store, s->txn, &s->state, err);
    if (rc != 0)
        ap_snapshot_end(&s);
    *out = s;
    return rc;
}

void ap_snapshot_end(struct ap_snapshot **snapshot)
{
    struct ap_snapshot *s = *snapshot;
    if (!s)
        return;
    *snapshot = NULL;
    mdb_txn_reset(s->txn);
    pthread_mutex_lock(&s->store->pool_lock);
    s->next = s->store->pool;
    s->store->pool = s;
    pthread_mutex_unlock(&s->store->pool_lock);
    ap_store_unmap(s->store);
}

uint64_t ap_snapshot_next_slot(const struct ap_snapshot *s)
{
    return s->state.next_slot;
}

uint64_t ap_snapshot_first_slot(const struct ap_snapshot *s)
{
    return s->state.first_slot;
}

uint64_t ap_snapshot_control_version(const struct ap_snapshot *s)
{
    return s->state.control_version;
}

int ap_snapshot_row(const struct ap_snapshot *s, uint64_t slot, struct ap_row *out, struct ap_err *err)
{
    MDB_val key = ap_val(&slot, sizeof slot), value;
    int rc = mdb_get(s->txn, s->store->db[AP_DB_LOG], &key, &value);
    if (rc == MDB_NOTFOUND)
        return ap_err_set(err, AP_ENOTFOUND, AP_RETRY, "store %s: slot %llu has no row", s->store->path, (unsigned long long)slot);
    if (rc != 0)
        return ap_store_fail(s->store, rc, "read a row", err);
    return ap_row_read(value.mv_data, value.mv_size, 0, out, err);
}

int ap_snapshot_scan(const struct ap_snapshot *s, uint64_t from, int (*fn)(void *arg, uint64_t slot, const struct ap_row *row), void *arg, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key = ap_val(&from, sizeof from), value;
    int rc = mdb_cursor_open(s->txn, s->store->db[AP_DB_LOG], &cursor), answer = 0;
    if (rc != 0)
        return ap_store_fail(s->store, rc, "read its rows", err);
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (rc == 0 && answer == 0) {
        struct ap_row row;
        uint64_t slot;
        memcpy(&slot, key.mv_data, sizeof slot);
        if (ap_row_read(value.mv_data, value.mv_size, 0, &row, NULL) != 0)
            row = (struct ap_row){.bytes = value.mv_data, .len = value.mv_size};
        answer = fn(arg, slot, &row);
        if (answer == 0)
            rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return ap_store_fail(s->store, rc, "read its rows", err);
    return answer;
}

int ap_snapshot_raw(const struct ap_snapshot *s, uint64_t slot, const uint8_t **vector, size_t *len)
{
    MDB_val key = ap_val(&slot, sizeof slot), value;
    int rc = mdb_get(s->txn, s->store->db[AP_DB_RAW], &key, &value);
    if (rc != 0)
        return rc == MDB_NOTFOUND ? AP_ENOTFOUND : AP_EIO;
    *vector = value.mv_data;
    *len = value.mv_size;
    return 0;
}

int ap_snapshot_positions(const struct ap_snapshot *s, struct ap_position **out, size_t *count, struct ap_err *err)
{
    MDB_stat stat;
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    *out = NULL;
    *count = 0;
    int rc = mdb_stat(s->txn, s->store->db[AP_DB_POSITIONS], &stat), bad = 0;
    if (rc == 0 && !(*out = calloc(stat.ms_entries ? stat.ms_entries : 1, sizeof **out)))
        rc = ENOMEM;
    if (rc == 0)
        rc = mdb_cursor_open(s->txn, s->store->db[AP_DB_POSITIONS], &cursor);
    while (rc == 0 && bad == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        bad = ap_position_decode(key.mv_data, key.mv_size, value.mv_data, value.mv_size, &(*out)[*count], NULL, err);
        *count += bad == 0;
    }
    if (cursor)
        mdb_cursor_close(cursor);
    if (bad == 0 && rc != MDB_NOTFOUND)
        bad = ap_store_fail(s->store, rc, "read its positions", err);
    if (bad != 0) {
        free(*out);
        *out = NULL;
        *count = 0;
    }
    return bad;
}

int ap_snapshot_holes(const struct ap_snapshot *s, int (*fn)(void *arg, const struct ap_position *at, const struct ap_hole *hole, uint64_t top), void *arg, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    struct ap_position at;
    struct ap_hole hole;
    int answer = 0, rc = mdb_cursor_open(s->txn, s->store->db[AP_DB_POSITIONS], &cursor);
    if (rc != 0)
        return ap_store_fail(s->store, rc, "read its positions", err);
    while (answer == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        answer = ap_position_decode(key.mv_data, key.mv_size, value.mv_data, value.mv_size, &at, NULL, err);
        for (size_t i = 0; answer == 0 && ap_position_hole(value.mv_data, value.mv_size, i, &hole); i++)
            answer = fn(arg, &at, &hole, ap_position_top(value.mv_data));
    }
    mdb_cursor_close(cursor);
    return answer || rc == MDB_NOTFOUND ? answer : ap_store_fail(s->store, rc, "read its positions", err);
}

int ap_snapshot_control(const struct ap_snapshot *s, int (*fn)(void *arg, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len), void *arg, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int answer = 0, rc = mdb_cursor_open(s->txn, s->store->db[AP_DB_CONTROL], &cursor);
    if (rc != 0)
        return ap_store_fail(s->store, rc, "read its control records", err);
    while (answer == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        struct ap_region origin;
        if (key.mv_size < sizeof origin.name) {
            rc = MDB_CORRUPTED;
            break;
        }
        memcpy(origin.name, key.mv_data, sizeof origin.name);
        answer = fn(arg, &origin, (const uint8_t *)key.mv_data + sizeof origin.name, key.mv_size - sizeof origin.name,
                    value.mv_data, value.mv_size);
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return ap_store_fail(s->store, rc, "read its control records", err);
    return answer;
}

int ap_snapshot_offsets(const struct ap_snapshot *s, int (*fn)(void *arg, const char *cluster, const uint8_t topic_id[16], const char *name, int32_t partition, int64_t next), void *arg, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int answer = 0, rc = mdb_cursor_open(s->txn, s->store->db[AP_DB_OFFSETS], &cursor);
    if (rc != 0)
        return ap_store_fail(s->store, rc, "read its offsets", err);
    while (answer == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        char cluster[512] = {0}, name[512] = {0};
        const uint8_t *k = key.mv_data, *v = value.mv_data;
        if (key.mv_size < AP_OFFSET_KEY_HEAD || key.mv_size >= sizeof cluster || value.mv_size < 8 || value.mv_size >= sizeof name) {
            rc = MDB_CORRUPTED;
            break;
        }
        memcpy(cluster, k + AP_OFFSET_KEY_HEAD, key.mv_size - AP_OFFSET_KEY_HEAD);
        memcpy(name, v + 8, value.mv_size - 8);
        int32_t partition = (int32_t)((uint32_t)k[16] << 24 | (uint32_t)k[17] << 16 | (uint32_t)k[18] << 8 | k[19]);
        answer = fn(arg, cluster, k, name, partition, (int64_t)ap_le64(v));
    }
    mdb_cursor_close(cursor);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return ap_store_fail(s->store, rc, "read its offsets", err);
    return answer;
}

/* The stored piece of a collection, NULL when it is all zero. */
static int read_piece(const struct ap_snapshot *s, uint64_t collection, size_t piece, const uint8_t **out, struct ap_err *err)
{
    uint8_t bytes[AP_DIGEST_KEY_BYTES];
    ap_digest_key(collection, piece, bytes);
    MDB_val key = ap_val(bytes, sizeof bytes), value;
    int rc = mdb_get(s->txn, s->store->db[AP_DB_DIGESTS], &key, &value);
    *out = NULL;
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc != 0 || value.mv_size != AP_DIGEST_PIECE_BYTES)
        return ap_store_fail(s->store, rc ? rc : MDB_CORRUPTED, "read its digests", err);
    *out = value.mv_data;
    return 0;
}

int ap_snapshot_digest(const struct ap_snapshot *s, uint64_t collection, uint32_t bucket, struct ap_digest *out, struct ap_err *err)
{
    const uint8_t *piece;
    *out = (struct ap_digest){0};
    int rc = read_piece(s, collection, bucket / AP_DIGEST_PIECE, &piece, err);
    if (rc == 0 && piece)
        ap_digest_decode(piece, bucket % AP_DIGEST_PIECE, out);
    return rc;
}

int ap_snapshot_digests(const struct ap_snapshot *s, uint64_t collection, struct ap_digest out[AP_DIGEST_BUCKETS], struct ap_err *err)
{
    memset(out, 0, AP_DIGEST_BUCKETS * sizeof *out);
    for (size_t i = 0; i < AP_DIGEST_PIECES; i++) {
        const uint8_t *piece;
        int rc = read_piece(s, collection, i, &piece, err);
        if (rc != 0)
            return rc;
        for (size_t j = 0; piece && j < AP_DIGEST_PIECE; j++)
            ap_digest_decode(piece, j, &out[i * AP_DIGEST_PIECE + j]);
    }
    return 0;
}
