/* Every handler: find the collection, lock, let the audit catch up, answer from one snapshot.
 *
 * The audit of the last split or scrub is kept, so that the requests that follow read only what the log has gained since. It
 * goes after a minute without use, at a scrape, or when the client says that it is done. */
#include "indexer/api_verify.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "indexer/api_impl.h"
#include "indexer/audit_index.h"
#include "indexer/index_impl.h"
#include "indexer/json_out.h"

#define IDLE_MS 60000
#define PASS_ROWS (UINT64_C(2) << 20) /* rows that one pass of a scrub holds in memory: 128 MiB at most */
#define DAMAGED_SHOWN 1000

struct ap_verify {
    pthread_mutex_t lock;      /* guards all below */
    bool open;
    struct ap_audit audit;
    struct ap_digest scrubbed[AP_DIGEST_BUCKETS]; /* what the last scrub found; of a large collection its audit is not kept */
    uint64_t scrubbed_of;
    int64_t used_ms;
    struct ap_metrics *metrics;
    struct ap_metric *scrubs, *scrub_rows, *damaged, *index_findings;
};

/* --- the audit that is kept --- */

static void forget(struct ap_verify *v)
{
    if (v->open)
        ap_audit_fini(&v->audit);
    v->open = false;
}

static void forget_all(struct ap_verify *v)
{
    forget(v);
    v->scrubbed_of = 0;
}

static void expire(struct ap_metrics_out *out, void *arg)
{
    struct ap_verify *v = arg;
    (void)out;
    if (pthread_mutex_trylock(&v->lock) != 0)
        return; /* in use */
    if (ap_mono_ms() - v->used_ms > IDLE_MS)
        forget_all(v);
    pthread_mutex_unlock(&v->lock);
}

struct ap_verify *ap_verify_new(struct ap_metrics *metrics)
{
    struct ap_verify *v = calloc(1, sizeof *v);
    if (!v)
        abort();
    pthread_mutex_init(&v->lock, NULL);
    v->metrics = metrics;
    v->scrubs = ap_counter(metrics, "antipode_scrubs_total", NULL, "Collections scrubbed.");
    v->scrub_rows = ap_counter(metrics, "antipode_scrub_rows_total", NULL, "Rows whose checksum was computed anew.");
    v->damaged = ap_counter(metrics, "antipode_scrub_damaged_rows_total", NULL, "Rows found whose checksum fails.");
    v->index_findings = ap_counter(metrics, "antipode_scrub_index_findings_total", NULL, "Places found where the index disagrees with its store.");
    ap_metrics_collect(metrics, expire, v);
    return v;
}

void ap_verify_free(struct ap_verify **verify)
{
    struct ap_verify *v = *verify;
    if (!v)
        return;
    *verify = NULL;
    ap_metrics_uncollect(v->metrics, expire, v);
    forget(v);
    pthread_mutex_destroy(&v->lock);
    free(v);
}

/* --- what every handler does first and last --- */

struct call {
    struct ap_http_request *req;
    struct ap_api *api;
    struct ap_verify *v;
    struct ap_store *store;
    struct ap_index *index;
    uint64_t collection;
    struct ap_snapshot *snapshot;
    const uint8_t *body; size_t len;
    bool scrub, mend;
};

static int read_flag(const struct ap_http_request *req, const char *name, bool *out, struct ap_err *err)
{
    const char *text = ap_http_query(req, name);
    *out = text && !strcmp(text, "true");
    if (text && !*out && strcmp(text, "false"))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s=%.32s is neither true nor false", name, text);
    return 0;
}

/* Holds v's lock when it returns true; else it has replied. unit: the body's length is a multiple of it. */
static bool begin(struct call *c, struct ap_http_request *req, size_t unit)
{
    struct ap_read r;
    struct ap_err err;
    *c = (struct call){.req = req, .api = ap_http_user(req)};
    c->body = (const uint8_t *)ap_http_body(req, &c->len);
    if (read_flag(req, "scrub", &c->scrub, &err) || read_flag(req, "mend", &c->mend, &err)) {
        ap_http_reply_err(req, &err);
        return false;
    }
    if (c->len % unit) {
        ap_http_reply_error(req, 400, "a body of %zu bytes is no list of items of %zu bytes", c->len, unit);
        return false;
    }
    if (ap_read_begin(&r, req, true))
        return false;
    c->collection = r.c.collection->id;
    c->index = r.index;
    c->store = r.index->store;
    ap_read_end(&r); /* a view is short; this may take a second */
    c->v = c->api->verify;
    pthread_mutex_lock(&c->v->lock);
    c->v->used_ms = ap_mono_ms();
    return true;
}

static void end(struct call *c)
{
    ap_snapshot_end(&c->snapshot);
    pthread_mutex_unlock(&c->v->lock);
}

static void fail(struct call *c, const struct ap_err *err)
{
    end(c);
    ap_http_reply_err(c->req, err);
}

static void reply(struct call *c, const char *type, struct ap_buf *out)
{
    end(c);
    ap_buf_reserve(out, 1); /* an empty answer is not NULL */
    ap_http_reply_take(c->req, 200, type, (char *)out->data, out->len);
}

static uint64_t rows_of(const struct ap_snapshot *s, uint64_t collection, const struct ap_audit_buckets *buckets)
{
    struct ap_digest *all = malloc(AP_DIGEST_BUCKETS * sizeof *all);
    uint64_t rows = 0;
    if (!all)
        abort();
    if (ap_snapshot_digests(s, collection, all, NULL) == 0)
        for (uint32_t i = 0; i < AP_DIGEST_BUCKETS; i++)
            if (ap_audit_buckets_has(buckets, i) && all[i].rows < UINT64_C(1) << 40) /* a digest gone wrong is only a hint */
                rows += all[i].rows;
    free(all);
    return rows;
}

/* Make the kept audit one of these buckets. */
static int open_audit(struct call *c, const struct ap_audit_buckets *buckets, bool verify, struct ap_err *err)
{
    struct ap_snapshot *s;
    forget(c->v);
    int rc = ap_snapshot_begin(c->store, &s, err);
    if (rc < 0)
        return rc;
    uint64_t expected = rows_of(s, c->collection, buckets);
    ap_snapshot_end(&s);
    ap_audit_init(&c->v->audit, c->store, c->collection, buckets, verify, expected > PASS_ROWS ? PASS_ROWS : (size_t)expected);
    c->v->open = true;
    return 0;
}

/* The kept audit catches up, if it is of this collection and has these buckets. */
static int continue_audit(struct call *c, const struct ap_audit_buckets *wanted, struct ap_err *err)
{
    struct ap_verify *v = c->v;
    bool covers = v->open && v->audit.collection == c->collection && (!c->scrub || v->audit.verify);
    for (size_t i = 0; covers && i < AP_DIGEST_BUCKETS / 64; i++)
        covers = !(wanted->bits[i] & ~v->audit.buckets.bits[i]);
    if (!covers)
        return ap_err_set(err, AP_ECONFLICT, AP_RETRY, "no split or scrub of these buckets came before, or another verification has replaced it: begin again");
    return ap_audit_catch_up(&v->audit, &c->snapshot, err);
}

/* --- state, digests --- */

static void append_hex(struct ap_buf *out, const char *name, uint64_t value)
{
    ap_buf_printf(out, "\"%s\":\"%016llx\"", name, (unsigned long long)value);
}

static void append_position(struct ap_buf *out, const struct ap_position *p)
{
    ap_buf_printf(out, "{\"region\":\"%s\",\"topic\":", p->region.name);
    ap_json_string(out, p->topic, strlen(p->topic));
    ap_buf_printf(out, ",\"partition\":%d,\"finished\":%s,", p->partition, p->finished ? "true" : "false");
    append_hex(out, "stream", p->stream);
    ap_json_raw(out, ",");
    append_hex(out, "clock", p->clock);
    ap_json_raw(out, "}");
}

void ap_serve_verify_state(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    struct ap_position *positions = NULL;
    size_t count = 0;
    struct ap_buf out = {0};
    if (!begin(&c, req, 1))
        return;
    int rc = ap_snapshot_begin(c.store, &c.snapshot, &err);
    if (rc == 0)
        rc = ap_snapshot_positions(c.snapshot, &positions, &count, &err);
    if (rc < 0) {
        fail(&c, &err);
        return;
    }
    struct ap_audit_buckets all;
    memset(&all, 0xff, sizeof all);
    ap_read_answer_begin(&out);
    ap_buf_printf(&out, "{\"region\":\"%s\",\"rows\":%llu,", c.api->config->region.name, (unsigned long long)rows_of(c.snapshot, c.collection, &all));
    append_hex(&out, "collection", c.collection);
    ap_json_raw(&out, ",");
    append_hex(&out, "horizon", ap_snapshot_horizon(c.snapshot));
    ap_json_raw(&out, ",\"positions\":[");
    for (size_t i = 0; i < count; i++) {
        ap_json_raw(&out, i ? "," : "");
        append_position(&out, &positions[i]);
    }
    ap_json_raw(&out, "]}");
    free(positions);
    end(&c);
    ap_read_answer(req, &out);
}

void ap_serve_verify_digests(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    struct ap_audit_buckets all;
    struct ap_buf out = {0};
    if (!begin(&c, req, 1))
        return;
    struct ap_digest *digests = malloc(AP_DIGEST_BUCKETS * sizeof *digests);
    if (!digests)
        abort();
    memset(&all, 0xff, sizeof all);
    int rc = c.scrub ? continue_audit(&c, &all, &err) : ap_snapshot_begin(c.store, &c.snapshot, &err);
    if (rc == AP_ECONFLICT && c.v->scrubbed_of == c.collection)
        rc = 0;
    else if (rc == 0 && c.scrub)
        ap_audit_digests(&c.v->audit, c.v->scrubbed);
    if (rc == 0 && c.scrub)
        memcpy(digests, c.v->scrubbed, sizeof c.v->scrubbed);
    else if (rc == 0)
        rc = ap_snapshot_digests(c.snapshot, c.collection, digests, &err);
    for (size_t i = 0; rc == 0 && i < AP_DIGEST_BUCKETS; i++) {
        uint8_t bytes[16];
        ap_put_le64(bytes, digests[i].sum);
        ap_put_le64(bytes + 8, digests[i].rows);
        ap_buf_append(&out, bytes, sizeof bytes);
    }
    free(digests);
    if (rc == 0)
        reply(&c, "application/octet-stream", &out);
    else
        fail(&c, &err);
}

/* --- split --- */

static void append_parts(const struct ap_audit *a, const uint8_t *buckets, size_t count, struct ap_buf *out)
{
    struct ap_digest (*sums)[AP_AUDIT_SPLIT] = calloc(count + 1, sizeof *sums);
    uint32_t *where = calloc(AP_DIGEST_BUCKETS, sizeof *where);
    const struct ap_audit_row *row;
    if (!sums || !where)
        abort();
    for (size_t i = 0; i < count; i++)
        where[ap_le16(buckets + 2 * i)] = (uint32_t)i + 1;
    for (size_t at = 0; (row = ap_audit_next(a, &at));) {
        uint32_t part = ap_audit_part(&row->id), i = where[part / AP_AUDIT_SPLIT];
        if (!i)
            continue;
        sums[i - 1][part % AP_AUDIT_SPLIT].sum += row->checksum;
        sums[i - 1][part % AP_AUDIT_SPLIT].rows++;
    }
    ap_buf_reserve(out, count * AP_AUDIT_SPLIT * 8);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < AP_AUDIT_SPLIT; j++) {
            uint8_t bytes[8];
            ap_put_le64(bytes, ap_audit_mix(sums[i][j]));
            ap_buf_append(out, bytes, sizeof bytes);
        }
    free(sums);
    free(where);
}

void ap_serve_verify_split(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    struct ap_audit_buckets wanted = {0};
    struct ap_buf out = {0};
    if (!begin(&c, req, 2))
        return;
    int rc = 0;
    for (size_t i = 0; i < c.len && rc == 0; i += 2) {
        uint32_t bucket = ap_le16(c.body + i);
        if (bucket >= AP_DIGEST_BUCKETS || ap_audit_buckets_has(&wanted, bucket))
            rc = ap_err_set(&err, AP_EINVAL, AP_POISON, "bucket %u is none, or given twice", bucket);
        else
            ap_audit_buckets_add(&wanted, bucket);
    }
    if (rc == 0 && (rc = continue_audit(&c, &wanted, &err)) == AP_ECONFLICT && (rc = open_audit(&c, &wanted, c.scrub, &err)) == 0)
        rc = ap_audit_catch_up(&c.v->audit, &c.snapshot, &err);
    if (rc < 0) {
        fail(&c, &err);
        return;
    }
    append_parts(&c.v->audit, c.body, c.len / 2, &out);
    reply(&c, "application/octet-stream", &out);
}

/* --- rows --- */

struct listing { struct ap_region regions[256]; size_t region_count; struct ap_buf rows; };

static uint8_t region_index(struct listing *l, const struct ap_region *region)
{
    for (size_t i = 0; i < l->region_count; i++)
        if (!memcmp(&l->regions[i], region, sizeof *region))
            return (uint8_t)i;
    if (l->region_count == 256)
        return 255; /* there are 16 at most; a damaged name is no reason to stop */
    l->regions[l->region_count] = *region;
    return (uint8_t)l->region_count++;
}

static void list_row(struct call *c, struct listing *l, const struct ap_audit_row *at)
{
    uint8_t bytes[AP_VERIFY_ROW_BYTES] = {0};
    struct ap_row row;
    struct ap_version newest = {0};
    memcpy(bytes, at->id.b, 16);
    ap_put_le64(bytes + 16, at->checksum);
    if (!at->damaged && ap_snapshot_row(c->snapshot, at->slot, &row, NULL) == 0) {
        newest = ap_row_newest(&row);
        bytes[41] = (uint8_t)((ap_row_is_live(&row) ? AP_VERIFY_LIVE : 0) | (row.flags & AP_ROW_TOMBSTONE ? AP_VERIFY_TOMBSTONE : 0));
    } else {
        bytes[41] = AP_VERIFY_DAMAGED;
    }
    ap_put_le64(bytes + 24, newest.hlc);
    ap_put_le64(bytes + 32, newest.writer);
    bytes[40] = region_index(l, &newest.region);
    ap_buf_append(&l->rows, bytes, sizeof bytes);
}

static void reply_listing(struct call *c, struct listing *l)
{
    struct ap_buf out = {0};
    uint8_t head[8];
    ap_put_le32(head, AP_VERIFY_MAGIC);
    ap_put_le32(head + 4, (uint32_t)l->region_count);
    ap_buf_append(&out, head, sizeof head);
    for (size_t i = 0; i < l->region_count; i++)
        ap_buf_append(&out, l->regions[i].name, sizeof l->regions[i].name);
    ap_buf_append(&out, l->rows.data, l->rows.len);
    ap_buf_free(&l->rows);
    reply(c, "application/octet-stream", &out);
}

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

void ap_serve_verify_rows(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    struct ap_audit_buckets wanted = {0};
    if (!begin(&c, req, 4))
        return;
    size_t count = c.len / 4, at = 0;
    uint32_t *parts = malloc((count + 1) * sizeof *parts);
    struct listing *l = calloc(1, sizeof *l);
    int rc = 0;
    if (!parts || !l)
        abort();
    for (size_t i = 0; i < count && rc == 0; i++) {
        parts[i] = ap_le32(c.body + 4 * i);
        if (parts[i] >= AP_DIGEST_BUCKETS * AP_AUDIT_SPLIT)
            rc = ap_err_set(&err, AP_EINVAL, AP_POISON, "part %u is none", parts[i]);
        else
            ap_audit_buckets_add(&wanted, parts[i] / AP_AUDIT_SPLIT);
    }
    qsort(parts, count, sizeof *parts, compare_u32);
    if (rc == 0)
        rc = continue_audit(&c, &wanted, &err);
    for (const struct ap_audit_row *row; rc == 0 && (row = ap_audit_next(&c.v->audit, &at));) {
        uint32_t part = ap_audit_part(&row->id);
        if (ap_audit_buckets_has(&wanted, part / AP_AUDIT_SPLIT) && bsearch(&part, parts, count, sizeof *parts, compare_u32))
            list_row(&c, l, row);
    }
    if (rc < 0)
        fail(&c, &err);
    else
        reply_listing(&c, l);
    free(parts);
    free(l);
}

/* Of a list of point ids. */
static struct ap_audit_buckets buckets_of(const struct call *c)
{
    struct ap_audit_buckets wanted = {0};
    for (size_t i = 0; i < c->len; i += sizeof(struct ap_point_id)) {
        struct ap_point_id id;
        memcpy(&id, c->body + i, sizeof id);
        ap_audit_buckets_add(&wanted, ap_audit_part(&id) / AP_AUDIT_SPLIT);
    }
    return wanted;
}

void ap_serve_verify_look(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    if (!begin(&c, req, sizeof(struct ap_point_id)))
        return;
    struct listing *l = calloc(1, sizeof *l);
    if (!l)
        abort();
    struct ap_audit_buckets wanted = buckets_of(&c);
    int rc = continue_audit(&c, &wanted, &err);
    for (size_t i = 0; rc == 0 && i < c.len; i += sizeof(struct ap_point_id)) {
        struct ap_point_id id;
        memcpy(&id, c.body + i, sizeof id);
        const struct ap_audit_row *row = ap_audit_find(&c.v->audit, &id);
        if (row)
            list_row(&c, l, row);
    }
    if (rc < 0)
        fail(&c, &err);
    else
        reply_listing(&c, l);
    free(l);
}

void ap_serve_verify_full(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    struct ap_buf out = {0};
    if (!begin(&c, req, sizeof(struct ap_point_id)))
        return;
    struct ap_audit_buckets wanted = buckets_of(&c);
    int rc = continue_audit(&c, &wanted, &err);
    for (size_t i = 0; rc == 0 && i < c.len; i += sizeof(struct ap_point_id)) {
        struct ap_point_id id;
        struct ap_row row = {0};
        uint8_t length[4];
        memcpy(&id, c.body + i, sizeof id);
        const struct ap_audit_row *at = ap_audit_find(&c.v->audit, &id);
        if (at && ap_snapshot_row(c.snapshot, at->slot, &row, NULL) != 0)
            row.len = 0;
        ap_put_le32(length, (uint32_t)row.len);
        ap_buf_append(&out, length, sizeof length);
        ap_buf_append(&out, row.bytes, row.len);
    }
    if (rc == 0)
        reply(&c, "application/octet-stream", &out);
    else
        fail(&c, &err);
}

/* --- scrub --- */

struct scrub {
    uint64_t rows, read, damaged, unreadable, unreadable_slot, digests;
    struct ap_findings index;
    struct ap_buf list; /* JSON of the first damaged rows */
};

static void note_damaged(struct scrub *s, const struct ap_audit *a)
{
    const struct ap_audit_row *row;
    for (size_t at = 0; (row = ap_audit_next(a, &at));) {
        if (!row->damaged || s->damaged++ >= DAMAGED_SHOWN)
            continue;
        ap_json_raw(&s->list, s->list.len ? ",{\"id\":" : "{\"id\":");
        ap_json_point_id(&s->list, &row->id);
        ap_buf_printf(&s->list, ",\"slot\":%llu}", (unsigned long long)row->slot);
    }
}

/* Buckets first to end in one pass; the audit stays open. */
static int scrub_pass(struct call *c, struct scrub *s, uint32_t first, uint32_t end_bucket, struct ap_err *err)
{
    struct ap_audit_buckets buckets = {0};
    for (uint32_t i = first; i < end_bucket; i++)
        ap_audit_buckets_add(&buckets, i);
    int rc = open_audit(c, &buckets, true, err);
    if (rc == 0)
        rc = ap_audit_catch_up(&c->v->audit, &c->snapshot, err);
    if (rc < 0)
        return rc;
    struct ap_audit *a = &c->v->audit;
    struct ap_digest *digests = malloc(2 * AP_DIGEST_BUCKETS * sizeof *digests);
    if (!digests)
        abort();
    ap_audit_digests(a, digests);
    rc = ap_snapshot_digests(c->snapshot, c->collection, digests + AP_DIGEST_BUCKETS, err);
    ap_snapshot_end(&c->snapshot);
    memcpy(&c->v->scrubbed[first], &digests[first], (end_bucket - first) * sizeof *digests);
    for (uint32_t i = first; i < end_bucket; i++)
        s->digests += memcmp(&digests[i], &digests[AP_DIGEST_BUCKETS + i], sizeof *digests) != 0;
    free(digests);
    s->rows += a->used;
    s->read += first == 0 ? a->read : 0;
    s->unreadable = a->unreadable;
    s->unreadable_slot = a->unreadable_slot;
    note_damaged(s, a);
    return rc < 0 ? rc : ap_audit_index(c->index, a, end_bucket == AP_DIGEST_BUCKETS, c->mend, &s->index, err);
}

static void append_scrub(struct ap_buf *out, const struct call *c, const struct scrub *s, double seconds)
{
    ap_buf_printf(out, "{\"region\":\"%s\",\"rows\":%llu,\"read\":%llu,\"seconds\":%.3f,\"damaged\":%llu,\"damaged_rows\":[", c->api->config->region.name,
                  (unsigned long long)s->rows, (unsigned long long)s->read, seconds, (unsigned long long)s->damaged);
    ap_buf_append(out, s->list.data, s->list.len);
    ap_buf_printf(out, "],\"unreadable\":%llu,\"unreadable_slot\":%llu,\"digests\":%llu,\"index\":{\"dead\":%llu,\"missing\":%llu,\"astray\":%llu,"
                       "\"segments\":%llu,\"probes\":%llu,\"slots\":[",
                  (unsigned long long)s->unreadable, (unsigned long long)s->unreadable_slot, (unsigned long long)s->digests,
                  (unsigned long long)s->index.dead, (unsigned long long)s->index.missing, (unsigned long long)s->index.astray,
                  (unsigned long long)s->index.segments, (unsigned long long)s->index.probes);
    for (size_t i = 0; i < s->index.shown; i++)
        ap_buf_printf(out, "%s%llu", i ? "," : "", (unsigned long long)s->index.slots[i]);
    ap_buf_printf(out, "]},\"mended\":%s}", c->mend ? "true" : "false");
}

void ap_serve_verify_scrub(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    struct ap_audit_buckets all;
    struct ap_buf out = {0};
    if (!begin(&c, req, 1))
        return;
    int64_t start = ap_mono_ns();
    struct scrub s = {0};
    memset(&all, 0xff, sizeof all);
    int rc = ap_snapshot_begin(c.store, &c.snapshot, &err);
    uint64_t passes = rc == 0 ? rows_of(c.snapshot, c.collection, &all) / PASS_ROWS + 1 : 0;
    ap_snapshot_end(&c.snapshot);
    passes = passes < AP_DIGEST_BUCKETS ? passes : AP_DIGEST_BUCKETS;
    for (uint64_t i = 0; i < passes && rc == 0; i++)
        rc = scrub_pass(&c, &s, (uint32_t)(i * AP_DIGEST_BUCKETS / passes), (uint32_t)((i + 1) * AP_DIGEST_BUCKETS / passes), &err);
    if (rc < 0) {
        ap_buf_free(&s.list);
        fail(&c, &err);
        return;
    }
    c.v->scrubbed_of = c.collection;
    ap_count(c.v->scrubs, 1);
    ap_count(c.v->scrub_rows, s.rows);
    ap_count(c.v->damaged, s.damaged + s.unreadable);
    ap_count(c.v->index_findings, s.index.dead + s.index.missing + s.index.astray + s.index.segments);
    ap_read_answer_begin(&out);
    append_scrub(&out, &c, &s, (double)(ap_mono_ns() - start) * 1e-9);
    ap_buf_free(&s.list);
    end(&c);
    ap_read_answer(req, &out);
}

void ap_serve_verify_recount(struct ap_http_request *req)
{
    struct call c;
    struct ap_err err;
    if (!begin(&c, req, 1))
        return;
    if (ap_store_ask_recount(c.store, &err)) {
        fail(&c, &err);
        return;
    }
    end(&c);
    ap_http_reply_result(req, json_true());
}

void ap_serve_verify_close(struct ap_http_request *req)
{
    struct ap_api *api = ap_http_user(req);
    pthread_mutex_lock(&api->verify->lock);
    forget_all(api->verify);
    pthread_mutex_unlock(&api->verify->lock);
    ap_http_reply_result(req, json_true());
}
