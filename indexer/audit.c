/* One pass: the scan hands out rows in the order of their slots, so a later row of a point stands for the earlier ones, and
 * a row that the cleaner has moved forward is met again at its new slot. */
#include "indexer/audit.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "common/timeutil.h"

#define CLOCK_EVERY 1024

struct pass { struct ap_audit *audit; int64_t until_ns; };

static uint64_t hash_id(const struct ap_point_id *id)
{
    return XXH3_64bits(id->b, sizeof id->b); /* as ap_digest_bucket does */
}

uint32_t ap_audit_part(const struct ap_point_id *id)
{
    return (uint32_t)(hash_id(id) >> 46);
}

static struct ap_audit_row *rows_new(size_t count)
{
    struct ap_audit_row *rows = calloc(count, sizeof *rows);
    if (!rows)
        abort();
    return rows;
}

void ap_audit_init(struct ap_audit *a, struct ap_store *store, uint64_t collection, const struct ap_audit_buckets *buckets, bool verify, size_t expected)
{
    size_t size = 1024;
    while (size / 4 * 3 < expected)
        size *= 2;
    *a = (struct ap_audit){.store = store, .collection = collection, .buckets = *buckets, .verify = verify, .snapshot_ns = 250000000};
    a->rows = rows_new(size);
    a->mask = size - 1;
}

void ap_audit_fini(struct ap_audit *a)
{
    free(a->rows);
    *a = (struct ap_audit){0};
}

/* Where id is, or would be. */
static struct ap_audit_row *place(const struct ap_audit *a, const struct ap_point_id *id, uint64_t hash)
{
    size_t i = hash & a->mask;
    while (a->rows[i].slot && memcmp(&a->rows[i].id, id, sizeof *id) != 0)
        i = (i + 1) & a->mask;
    return &a->rows[i];
}

static void grow(struct ap_audit *a)
{
    struct ap_audit_row *old = a->rows;
    size_t size = a->mask + 1;
    a->rows = rows_new(size * 2);
    a->mask = size * 2 - 1;
    for (size_t i = 0; i < size; i++)
        if (old[i].slot)
            *place(a, &old[i].id, hash_id(&old[i].id)) = old[i];
    free(old);
}

static int take(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct pass *p = arg;
    struct ap_audit *a = p->audit;
    if (++a->read % CLOCK_EVERY == 0 && ap_mono_ns() >= p->until_ns)
        return 1; /* this row is met again in the next snapshot */
    a->cursor = slot + 1;
    if (row->flags == 0) {
        if (a->unreadable++ == 0)
            a->unreadable_slot = slot;
        return 0;
    }
    if (ap_key_collection(&row->key) != a->collection)
        return 0;
    struct ap_point_id id = ap_key_point(&row->key);
    uint64_t hash = hash_id(&id), checksum = row->checksum;
    if (!ap_audit_buckets_has(&a->buckets, (uint32_t)(hash >> 52)))
        return 0;
    if (a->verify)
        checksum = XXH3_64bits(row->bytes + 8, row->len - 8);
    struct ap_audit_row *at = place(a, &id, hash);
    if (!at->slot && ++a->used > a->mask / 4 * 3) {
        grow(a);
        at = place(a, &id, hash);
    }
    *at = (struct ap_audit_row){.id = id, .checksum = checksum, .slot = slot & AP_SLOT_MAX, .live = ap_row_is_live(row) != 0,
                                .damaged = checksum != row->checksum};
    return 0;
}

/* Tombstones were collected since we began to read: forget the rows that are not in the log any more. */
static void drop_collected(struct ap_audit *a, const struct ap_snapshot *snapshot)
{
    struct ap_audit_row *old = a->rows;
    size_t size = a->mask + 1;
    struct ap_row row;
    a->rows = rows_new(size);
    a->used = 0;
    for (size_t i = 0; i < size; i++)
        if (old[i].slot && ap_snapshot_row(snapshot, old[i].slot, &row, NULL) != AP_ENOTFOUND) {
            *place(a, &old[i].id, hash_id(&old[i].id)) = old[i];
            a->used++;
        }
    free(old);
    a->collected = ap_snapshot_collected(snapshot);
}

int ap_audit_catch_up(struct ap_audit *a, struct ap_snapshot **snapshot, struct ap_err *err)
{
    struct pass p = {a, 0};
    for (;;) {
        int rc = ap_snapshot_begin(a->store, snapshot, err);
        if (rc < 0)
            return rc;
        if (a->cursor == 0)
            a->collected = ap_snapshot_collected(*snapshot);
        p.until_ns = ap_mono_ns() + a->snapshot_ns;
        rc = ap_snapshot_scan(*snapshot, a->cursor, take, &p, err);
        if (rc == 0 && ap_snapshot_collected(*snapshot) != a->collected)
            drop_collected(a, *snapshot);
        if (rc == 0)
            return 0; /* the end */
        ap_snapshot_end(snapshot);
        if (rc < 0)
            return rc;
    }
}

const struct ap_audit_row *ap_audit_find(const struct ap_audit *a, const struct ap_point_id *id)
{
    const struct ap_audit_row *at = place(a, id, hash_id(id));
    return at->slot ? at : NULL;
}

const struct ap_audit_row *ap_audit_next(const struct ap_audit *a, size_t *at)
{
    while (*at <= a->mask) {
        const struct ap_audit_row *row = &a->rows[(*at)++];
        if (row->slot)
            return row;
    }
    return NULL;
}

void ap_audit_digests(const struct ap_audit *a, struct ap_digest *out)
{
    const struct ap_audit_row *row;
    memset(out, 0, AP_DIGEST_BUCKETS * sizeof *out);
    for (size_t at = 0; (row = ap_audit_next(a, &at));) {
        struct ap_digest *d = &out[ap_audit_part(&row->id) / AP_AUDIT_SPLIT];
        d->sum += row->checksum;
        d->rows++;
    }
}
