/* Digests in memory: per collection 4,096 buckets of 16 bytes in 64 pieces. A commit writes the pieces that changed, 1 KiB
 * each: with random ids a batch of 1,000 rows touches all of them, and 64 KiB is then less than 1,000 small records are. */
#include <stdlib.h>
#include <xxhash.h>
#include "common/store_internal.h"

uint32_t ap_digest_bucket(const struct ap_key *key)
{
    return (uint32_t)(XXH3_64bits(key->b + 8, 16) >> 52);
}

void ap_digest_key(uint64_t collection, size_t piece, uint8_t out[AP_DIGEST_KEY_BYTES])
{
    ap_put_be64(out, collection);
    out[8] = (uint8_t)piece;
}

void ap_digest_decode(const uint8_t *piece, size_t i, struct ap_digest *out)
{
    *out = (struct ap_digest){ap_le64(piece + i * 16), ap_le64(piece + i * 16 + 8)};
}

static void encode(const struct ap_digest *piece, uint8_t out[AP_DIGEST_PIECE_BYTES])
{
    for (size_t i = 0; i < AP_DIGEST_PIECE; i++) {
        ap_put_le64(out + i * 16, piece[i].sum);
        ap_put_le64(out + i * 16 + 8, piece[i].rows);
    }
}

void ap_digests_fini(struct ap_digests *d)
{
    for (size_t i = 0; i < d->count; i++)
        for (size_t j = 0; j < AP_DIGEST_PIECES; j++)
            free(d->list[i].pieces[j]);
    free(d->list);
    memset(d, 0, sizeof *d);
}

/* Sorted by id; made when missing. */
static struct ap_digest_collection *collection_of(struct ap_digests *d, uint64_t id)
{
    size_t low = 0, high = d->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (d->list[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < d->count && d->list[low].id == id)
        return &d->list[low];
    if (d->count == d->cap) {
        d->cap = d->cap ? d->cap * 2 : 4;
        d->list = reallocarray(d->list, d->cap, sizeof *d->list);
        if (!d->list)
            abort();
    }
    memmove(d->list + low + 1, d->list + low, (d->count - low) * sizeof *d->list);
    d->count++;
    d->list[low] = (struct ap_digest_collection){.id = id};
    return &d->list[low];
}

static struct ap_digest *piece_of(struct ap_digest_collection *c, size_t piece)
{
    if (!c->pieces[piece] && !(c->pieces[piece] = calloc(AP_DIGEST_PIECE, sizeof **c->pieces)))
        abort();
    return c->pieces[piece];
}

static void change(struct ap_digests *d, const struct ap_key *key, uint64_t sum, uint64_t rows)
{
    struct ap_digest_collection *c = collection_of(d, ap_key_collection(key));
    uint32_t bucket = ap_digest_bucket(key);
    struct ap_digest *digest = &piece_of(c, bucket / AP_DIGEST_PIECE)[bucket % AP_DIGEST_PIECE];
    digest->sum += sum;
    digest->rows += rows;
    c->rows += rows;
    c->dirty |= UINT64_C(1) << bucket / AP_DIGEST_PIECE;
}

void ap_digests_add(struct ap_digests *d, const struct ap_key *key, uint64_t checksum)
{
    change(d, key, checksum, 1);
}

void ap_digests_remove(struct ap_digests *d, const struct ap_key *key, uint64_t checksum)
{
    change(d, key, 0 - checksum, UINT64_MAX);
}

static bool is_zero(const struct ap_digest *piece)
{
    for (size_t i = 0; i < AP_DIGEST_PIECE; i++)
        if (piece[i].sum || piece[i].rows)
            return false;
    return true;
}

int ap_digests_compare(struct ap_digests *d, const struct ap_store *s, MDB_txn *txn, struct ap_err *err)
{
    for (size_t i = 0; i < d->count; i++)
        for (size_t j = 0; j < AP_DIGEST_PIECES; j++)
            if (d->list[i].pieces[j] && !is_zero(d->list[i].pieces[j]))
                d->list[i].dirty |= UINT64_C(1) << j;
            else
                d->list[i].dirty &= ~(UINT64_C(1) << j);
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, s->db[AP_DB_DIGESTS], &cursor);
    if (rc != 0)
        return ap_store_fail(s, rc, "read its digests", err);
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        const uint8_t *k = key.mv_data;
        uint8_t mine[AP_DIGEST_PIECE_BYTES];
        if (key.mv_size != AP_DIGEST_KEY_BYTES || k[8] >= AP_DIGEST_PIECES) {
            rc = MDB_CORRUPTED;
            break;
        }
        struct ap_digest_collection *c = collection_of(d, ap_be64(k));
        encode(piece_of(c, k[8]), mine);
        if (value.mv_size == sizeof mine && memcmp(mine, value.mv_data, sizeof mine) == 0)
            c->dirty &= ~(UINT64_C(1) << k[8]);
        else
            c->dirty |= UINT64_C(1) << k[8];
    }
    mdb_cursor_close(cursor);
    if (rc != MDB_NOTFOUND)
        return ap_store_fail(s, rc, "read its digests", err);
    int different = 0;
    for (size_t i = 0; i < d->count; i++)
        different += __builtin_popcountll(d->list[i].dirty);
    return different;
}

/* A piece that is all zero is not stored; a collection without pieces leaves nothing behind. */
int ap_digests_flush(struct ap_digests *d, const struct ap_store *s, MDB_txn *txn, struct ap_err *err)
{
    for (size_t i = 0; i < d->count; i++) {
        struct ap_digest_collection *c = &d->list[i];
        for (; c->dirty; c->dirty &= c->dirty - 1) {
            size_t piece = (size_t)__builtin_ctzll(c->dirty);
            uint8_t key_bytes[AP_DIGEST_KEY_BYTES], bytes[AP_DIGEST_PIECE_BYTES];
            ap_digest_key(c->id, piece, key_bytes);
            MDB_val key = ap_val(key_bytes, sizeof key_bytes), value = ap_val(bytes, sizeof bytes);
            int rc;
            if (is_zero(piece_of(c, piece))) {
                rc = mdb_del(txn, s->db[AP_DB_DIGESTS], &key, NULL);
                rc = rc == MDB_NOTFOUND ? 0 : rc;
                free(c->pieces[piece]);
                c->pieces[piece] = NULL;
            } else {
                encode(c->pieces[piece], bytes);
                rc = mdb_put(txn, s->db[AP_DB_DIGESTS], &key, &value, 0);
            }
            if (rc != 0)
                return ap_store_fail(s, rc, "write its digests", err);
        }
    }
    return 0;
}
