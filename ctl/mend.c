/* Rows travel from a region's indexer to the same region's producer through this process, as bytes: nothing here
 * interprets them. The indexer passes the write on, so its URL is all that is needed. */
#include "ctl/mend.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/row.h"
#include "common/timeutil.h"

enum { IDS_AT_ONCE = 1000, BODY_BYTES = 4 << 20, ROUNDS = 3, WAIT_MS = 15000, LOOK_MS = 200, DAMAGED = 4 };

/* Which sides publish their row: bit 0 and 1. delete: the row is ended instead. */
static unsigned plan(const struct ap_difference *d, int round, bool *delete)
{
    *delete = false;
    if (d->dropped || !d->settled)
        return 0;
    switch (d->kind) {
    case AP_DIFF_MISSING:
    case AP_DIFF_DAMAGED:
        return 1u << !d->side;
    case AP_DIFF_EXTRA:
        *delete = true;
        return 1u << d->side;
    case AP_DIFF_OLDER:
        /* Patches are versioned key by key, so the older row may hold what the newer one lacks; that shows in a second round. */
        return round == 0 ? 1u << !d->side : 3;
    case AP_DIFF_BYTES:
        return 3;
    default:
        return 0;
    }
}

struct ap_mended ap_mend_plan(const struct ap_comparison *c)
{
    struct ap_mended m = {0};
    for (size_t i = 0; i < c->count; i++) {
        bool delete;
        unsigned sides = plan(&c->list[i], 0, &delete);
        m.rows += sides != 0;
        m.deleted += delete;
        m.published += delete ? 0 : (uint64_t)__builtin_popcount(sides);
    }
    return m;
}

/* published: takes the positions; NULL where nobody asks. */
static int post(struct ap_fetcher *f, const struct ap_side *side, const char *collection, bool delete, struct ap_buf *rows, struct ap_published *published,
                struct ap_err *err)
{
    struct ap_fetch one = {.method = "POST", .body = rows->data, .len = rows->len};
    if (!rows->len)
        return 0;
    snprintf(one.url, sizeof one.url, "%s/collections/%s/points/repair?level=local&timeout=30%s", side->indexers[0], collection, delete ? "&delete=true" : "");
    int rc = ap_fetcher_run(f, &one, 1, err);
    if (rc == 0 && published)
        rc = ap_published_add(published, &one, err);
    ap_fetch_fini(&one);
    ap_buf_clear(rows);
    return rc;
}

/* The rows of ids, from all workers, published. */
static int publish(struct ap_fetcher *f, const struct ap_side *side, const char *collection, bool delete, const struct ap_buf *ids, struct ap_published *published,
                   struct ap_err *err)
{
    struct ap_fetch asks[AP_SIDE_WORKERS];
    struct ap_buf rows = {0};
    for (size_t i = 0; i < side->count; i++) {
        asks[i] = (struct ap_fetch){.method = "POST", .body = ids->data, .len = ids->len};
        snprintf(asks[i].url, sizeof asks[i].url, "%s/antipode/verify/%s/full", side->indexers[i], collection);
    }
    int rc = ap_fetcher_run(f, asks, side->count, err);
    for (size_t i = 0; i < side->count; i++) {
        const uint8_t *p = asks[i].answer.data, *end = p ? p + asks[i].answer.len : p;
        while (rc == 0 && end - p >= 4) {
            uint32_t len = ap_le32(p);
            if (len > (size_t)(end - p) - 4)
                rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: an answer that ends inside a row", asks[i].url);
            else if (len)
                ap_buf_append(&rows, p, 4 + (size_t)len);
            p += 4 + (size_t)len;
            if (rc == 0 && rows.len > BODY_BYTES)
                rc = post(f, side, collection, delete, &rows, published, err);
        }
        ap_fetch_fini(&asks[i]);
    }
    if (rc == 0)
        rc = post(f, side, collection, delete, &rows, published, err);
    ap_buf_free(&rows);
    return rc;
}

static int publish_all(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_comparison *c, int round, struct ap_mended *m, struct ap_err *err)
{
    int rc = 0;
    for (int side = 0; side < 2; side++)
        for (int what = 0; what < 2; what++) {
            struct ap_buf ids = {0};
            uint64_t *counted = what ? &m->deleted : &m->published;
            for (size_t i = 0; i < c->count && rc == 0; i++) {
                bool delete;
                if (plan(&c->list[i], round, &delete) >> side & 1 && delete == what) {
                    ap_buf_append(&ids, c->list[i].id.b, sizeof c->list[i].id.b);
                    ++*counted;
                }
                if (ids.len == IDS_AT_ONCE * sizeof c->list[i].id.b || (i + 1 == c->count && ids.len)) {
                    rc = publish(f, &sides[side], collection, what, &ids, NULL, err);
                    ap_buf_clear(&ids);
                }
            }
            ap_buf_free(&ids);
        }
    return rc;
}

/* Differences that publishing can mend. */
static uint64_t mendable(const struct ap_comparison *c, int round)
{
    uint64_t n = 0;
    for (size_t i = 0; i < c->count; i++) {
        bool delete;
        n += plan(&c->list[i], round, &delete) != 0;
    }
    return n;
}

int ap_mend_rows(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *c,
                 struct ap_mended *out, struct ap_err *err)
{
    struct timespec pause = {0, LOOK_MS * 1000000L};
    int rc = 0;
    *out = (struct ap_mended){.rows = mendable(c, 0)};
    for (int round = 0; round < ROUNDS && rc == 0 && mendable(c, round); round++) {
        rc = publish_all(f, sides, collection, c, round, out, err);
        int64_t until = ap_mono_ms() + WAIT_MS;
        while (rc == 0 && mendable(c, round) && ap_mono_ms() < until) {
            nanosleep(&pause, NULL);
            rc = ap_compare_again(f, sides, collection, o, c, err);
        }
    }
    if (rc == 0 && mendable(c, 0))
        rc = ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%llu rows still differ; is a consumer or a mirror behind?", (unsigned long long)mendable(c, 0));
    return rc;
}

int ap_mend_bring(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, int from, const struct ap_comparison *c,
                  struct ap_published *out, struct ap_err *err)
{
    struct ap_buf ids = {0};
    int rc = 0;
    for (size_t i = 0; i < c->count && rc == 0; i++) {
        const struct ap_difference *d = &c->list[i];
        if (d->dropped || !d->there[from])
            continue; /* of a point that it does not have, it had no record either */
        if (d->rows[from].flags & DAMAGED)
            rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a row of %s fails its checksum: it does not say what it had; --scrub --repair first", sides[from].region);
        ap_buf_append(&ids, d->id.b, sizeof d->id.b);
        out->rows++;
        if (rc == 0 && ids.len == IDS_AT_ONCE * sizeof d->id.b) {
            rc = publish(f, &sides[from], collection, false, &ids, out, err);
            ap_buf_clear(&ids);
        }
    }
    if (rc == 0 && ids.len)
        rc = publish(f, &sides[from], collection, false, &ids, out, err);
    ap_buf_free(&ids);
    return rc;
}

int ap_mend_indexes(struct ap_fetcher *f, struct ap_side sides[2], const bool chosen[2], const char *collection, struct ap_err *err)
{
    return ap_sides_scrub(f, sides, chosen, collection, true, err);
}

int ap_mend_digests(struct ap_fetcher *f, struct ap_side sides[2], const bool chosen[2], const char *collection, struct ap_err *err)
{
    int rc = 0;
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < sides[side].count && chosen[side] && rc == 0; i++) {
            struct ap_fetch one = {.method = "POST"};
            snprintf(one.url, sizeof one.url, "%s/antipode/verify/%s/recount", sides[side].indexers[i], collection);
            rc = ap_fetcher_run(f, &one, 1, err);
            ap_fetch_fini(&one);
        }
    return rc;
}
