/* Held events: records whose clock is too far ahead, kept until their time comes. In the same transaction as the offset that
 * has passed them, so they survive whatever happens to the process.
 *
 *   key    u64 time, u64 stream, u32 partition, u64 seq (big-endian, so that they sort), topic
 *   value  16 bytes origin, u64 hlc, i64 offset, u32 bytes of the record's key, key, value (little-endian) */
#include <assert.h>
#include "common/store_internal.h"

#define KEY_HEAD 28
#define VALUE_HEAD 36

static void put_be32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static size_t make_key(const struct ap_held *h, uint8_t *out, size_t cap)
{
    size_t len = strlen(h->topic);
    if (KEY_HEAD + len > cap)
        return 0;
    ap_put_be64(out, h->time);
    ap_put_be64(out + 8, h->stream);
    put_be32(out + 16, (uint32_t)h->partition);
    ap_put_be64(out + 20, h->seq);
    memcpy(out + KEY_HEAD, h->topic, len);
    return KEY_HEAD + len;
}

/* out points into bytes, to which the topic is added with a NUL. */
static bool read_entry(const MDB_val *key, const MDB_val *value, struct ap_held *out, struct ap_buf *bytes)
{
    const uint8_t *k = key->mv_data;
    if (key->mv_size <= KEY_HEAD || value->mv_size < VALUE_HEAD || ap_le32((const uint8_t *)value->mv_data + 32) > value->mv_size - VALUE_HEAD)
        return false;
    *out = (struct ap_held){.time = ap_be64(k), .stream = ap_be64(k + 8), .seq = ap_be64(k + 20),
                            .partition = (int32_t)((uint32_t)k[16] << 24 | (uint32_t)k[17] << 16 | (uint32_t)k[18] << 8 | k[19])};
    ap_buf_clear(bytes);
    ap_buf_append(bytes, value->mv_data, value->mv_size);
    ap_buf_append(bytes, k + KEY_HEAD, key->mv_size - KEY_HEAD);
    ap_buf_append(bytes, "", 1);
    const uint8_t *v = bytes->data;
    memcpy(out->origin.name, v, sizeof out->origin.name);
    out->origin.name[sizeof out->origin.name - 1] = '\0';
    out->hlc = ap_le64(v + 16);
    out->offset = (int64_t)ap_le64(v + 24);
    out->key_len = ap_le32(v + 32);
    out->key = out->key_len ? v + VALUE_HEAD : NULL;
    out->value = v + VALUE_HEAD + out->key_len;
    out->value_len = value->mv_size - VALUE_HEAD - out->key_len;
    out->topic = (const char *)v + value->mv_size;
    return true;
}

int ap_writer_hold(struct ap_writer *w, const struct ap_held *h, bool *fresh, struct ap_err *err)
{
    uint8_t key_bytes[256], head[VALUE_HEAD];
    struct ap_buf bytes = {0};
    size_t key_len = make_key(h, key_bytes, sizeof key_bytes);
    assert(w->txn && key_len > 0); /* topics are configured, and checked there */
    memcpy(head, h->origin.name, 16);
    ap_put_le64(head + 16, h->hlc);
    ap_put_le64(head + 24, (uint64_t)h->offset);
    ap_put_le32(head + 32, (uint32_t)h->key_len);
    ap_buf_append(&bytes, head, sizeof head);
    ap_buf_append(&bytes, h->key, h->key_len);
    ap_buf_append(&bytes, h->value, h->value_len);
    MDB_val key = ap_val(key_bytes, key_len), value = ap_val(bytes.data, bytes.len);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_HELD], &key, &value, MDB_NOOVERWRITE);
    *fresh = rc == 0;
    if (*fresh) {
        w->held.records++;
        w->held.bytes += bytes.len;
        w->held.first = h->time < w->held.first ? h->time : w->held.first;
        w->dirty = true;
    }
    ap_buf_free(&bytes);
    return rc && rc != MDB_KEYEXIST ? ap_writer_fail(w, rc, "hold an event", err) : 0;
}

int ap_writer_first_held(struct ap_writer *w, uint64_t until, struct ap_held *out, struct ap_buf *bytes, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    assert(w->txn);
    if (w->held.first > until || w->held.records == 0)
        return 0;
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_HELD], &cursor);
    if (rc)
        return ap_writer_fail(w, rc, "read a held event", err);
    rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    if (rc == 0 && !read_entry(&key, &value, out, bytes))
        rc = MDB_CORRUPTED;
    mdb_cursor_close(cursor);
    return rc ? ap_writer_fail(w, rc, "read a held event", err) : out->time <= until;
}

int ap_writer_drop_held(struct ap_writer *w, const struct ap_held *h, struct ap_err *err)
{
    uint8_t key_bytes[256];
    MDB_cursor *cursor;
    MDB_val key = ap_val(key_bytes, make_key(h, key_bytes, sizeof key_bytes)), value;
    assert(w->txn);
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_HELD], &cursor);
    if (rc)
        return ap_writer_fail(w, rc, "drop a held event", err);
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);
    size_t len = rc ? 0 : value.mv_size;
    rc = rc ? rc : mdb_cursor_del(cursor, 0);
    if (rc == 0) {
        w->held.records--;
        w->held.bytes -= len;
        w->dirty = true;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        w->held.first = rc == 0 ? ap_be64(key.mv_data) : UINT64_MAX;
        rc = rc == MDB_NOTFOUND ? 0 : rc;
    }
    mdb_cursor_close(cursor);
    return rc ? ap_writer_fail(w, rc, "drop a held event", err) : 0;
}

int ap_writer_each_held(struct ap_writer *w, int (*fn)(void *arg, const struct ap_held *held), void *arg, struct ap_err *err)
{
    struct ap_snapshot *snapshot = NULL;
    struct ap_buf bytes = {0};
    struct ap_held held;
    MDB_cursor *cursor;
    MDB_val key, value;
    int answer = 0;
    if (!w->txn && (answer = ap_snapshot_begin(w->store, &snapshot, err)) != 0)
        return answer;
    int rc = mdb_cursor_open(w->txn ? w->txn : snapshot->txn, w->store->db[AP_DB_HELD], &cursor);
    bool open = rc == 0;
    while (rc == 0 && answer == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0)
        if (!read_entry(&key, &value, &held, &bytes))
            rc = MDB_CORRUPTED;
        else
            answer = fn(arg, &held);
    if (open)
        mdb_cursor_close(cursor);
    ap_buf_free(&bytes);
    ap_snapshot_end(&snapshot);
    return rc && rc != MDB_NOTFOUND ? ap_writer_fail(w, rc, "read its held events", err) : answer;
}

uint64_t ap_writer_held_time(const struct ap_writer *w)
{
    return w->held.first;
}

void ap_writer_held(const struct ap_writer *w, uint64_t *records, uint64_t *bytes)
{
    *records = w->held.records;
    *bytes = w->held.bytes;
}

static uint64_t meta_u64(struct ap_writer *w, const char *name, size_t at)
{
    MDB_val key = ap_val(name, strlen(name)), value;
    if (mdb_get(w->txn, w->store->db[AP_DB_META], &key, &value) != 0 || value.mv_size < at + 8)
        return 0;
    return ap_le64((const uint8_t *)value.mv_data + at);
}

int ap_writer_load_extras(struct ap_writer *w, struct ap_err *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    w->horizon = meta_u64(w, "horizon", 0);
    w->collected = meta_u64(w, "collected", 0);
    w->settled = (struct ap_settled){meta_u64(w, "settled", 0), (int64_t)meta_u64(w, "settled", 8)};
    int rc = mdb_cursor_open(w->txn, w->store->db[AP_DB_HELD], &cursor);
    if (rc)
        return ap_store_fail(w->store, rc, "read its held events", err);
    w->held.first = UINT64_MAX;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        if (w->held.records++ == 0)
            w->held.first = ap_be64(key.mv_data);
        w->held.bytes += value.mv_size;
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : ap_store_fail(w->store, rc, "read its held events", err);
}
