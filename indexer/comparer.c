/* sleep -> for each region, for each collection: their sums, our sums, what differs as it did last time.
 *
 * Only buckets that differ are remembered from round to round. A failure ends the round with that region, is counted, and
 * leaves what the last good round found. */
#include "indexer/comparer.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "indexer/forward.h"

#define ASK_MS 10000
#define COLLECTIONS_MAX 4096

struct differing { uint64_t collection; uint32_t bucket; struct ap_digest ours, theirs; };
struct differings { struct differing *list; size_t count, cap; };

struct side {
    struct ap_region region;
    struct ap_forward *forward; /* NULL: not asked */
    char peer[64];
    struct differings last;     /* of the last good round, in the order of collections and buckets */
    struct ap_metric *failures;
    /* Under the lock. */
    bool retired, ever;
    uint64_t differing, unsettled;
    int64_t success_ms;         /* wall clock */
    double seconds;
};

struct ap_comparer {
    const struct ap_peers *peers;
    int64_t interval_s;
    struct ap_index *index;
    struct ap_store *store;
    struct ap_metrics *metrics;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
    struct side sides[AP_PEERS_MAX];
    struct ap_digest ours[AP_DIGEST_BUCKETS];
};

/* ---- one round ---- */

static void note(struct differings *d, uint64_t collection, uint32_t bucket, struct ap_digest ours, struct ap_digest theirs)
{
    if (d->count == d->cap) {
        d->cap = d->cap ? d->cap * 2 : 64;
        d->list = reallocarray(d->list, d->cap, sizeof *d->list);
        if (!d->list)
            abort();
    }
    d->list[d->count++] = (struct differing){collection, bucket, ours, theirs};
}

static bool same(struct ap_digest a, struct ap_digest b)
{
    return a.sum == b.sum && a.rows == b.rows;
}

/* It differed before, and has not moved since. */
static bool stays(const struct differings *last, const struct differing *now)
{
    for (size_t i = 0; i < last->count; i++) {
        const struct differing *was = &last->list[i];
        if (was->collection == now->collection && was->bucket == now->bucket)
            return same(was->ours, now->ours) && same(was->theirs, now->theirs);
    }
    return false;
}

static int ask(struct side *s, const char *name, struct ap_forward_reply *reply, struct ap_err *err)
{
    char path[300];
    snprintf(path, sizeof path, "/antipode/verify/%s/digests", name); /* a name needs no encoding: [A-Za-z0-9_.-] */
    struct ap_forward_request request = {.method = "GET", .path = path, .timeout_ms = ASK_MS};
    int rc = ap_forward_send(s->forward, &request, reply, err);
    if (rc)
        return rc;
    if (reply->status == 200 && reply->len == AP_DIGEST_BUCKETS * 16)
        return 0;
    rc = ap_err_set(err, AP_EIO, AP_RETRY, "%s answers %d, with %zu bytes, for collection %s", s->peer, reply->status, reply->len, name);
    ap_forward_reply_fini(reply);
    return rc;
}

static int compare_one(struct ap_comparer *c, struct side *s, const struct ap_collection *collection, struct differings *found, struct ap_err *err)
{
    struct ap_forward_reply reply;
    struct ap_snapshot *snapshot = NULL;
    int rc = ask(s, collection->params.name, &reply, err);
    if (rc)
        return rc;
    rc = ap_snapshot_begin(c->store, &snapshot, err);
    if (rc == 0)
        rc = ap_snapshot_digests(snapshot, collection->id, c->ours, err);
    ap_snapshot_end(&snapshot);
    const uint8_t *p = (const uint8_t *)reply.body;
    for (uint32_t b = 0; rc == 0 && b < AP_DIGEST_BUCKETS; b++, p += 16) {
        struct ap_digest theirs = {.sum = ap_le64(p), .rows = ap_le64(p + 8)};
        if (!same(c->ours[b], theirs))
            note(found, collection->id, b, c->ours[b], theirs);
    }
    ap_forward_reply_fini(&reply);
    return rc;
}

/* Copies: a view is short, a round is not. */
struct names { struct ap_collection *list; size_t count; };

static int list_collections(struct ap_comparer *c, struct names *out, struct ap_err *err)
{
    struct ap_view *view;
    const struct ap_collection **all = calloc(COLLECTIONS_MAX, sizeof *all);
    int rc = ap_view_begin(c->index, &view, err);
    if (!all)
        abort();
    *out = (struct names){0};
    if (rc == 0) {
        size_t n = ap_view_collections(view, all, COLLECTIONS_MAX);
        n = n < COLLECTIONS_MAX ? n : COLLECTIONS_MAX;
        out->list = calloc(n + 1, sizeof *out->list);
        if (!out->list)
            abort();
        for (; out->count < n; out->count++) {
            out->list[out->count].id = all[out->count]->id;
            out->list[out->count].params.name = strdup(all[out->count]->params.name);
        }
        ap_view_end(&view);
    }
    free(all);
    return rc;
}

static bool is_stopping(struct ap_comparer *c)
{
    pthread_mutex_lock(&c->lock);
    bool stopping = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return stopping;
}

static int compare_side(struct ap_comparer *c, struct side *s, const struct names *names, struct ap_err *err)
{
    struct differings found = {0};
    uint64_t staying = 0;
    int64_t start = ap_mono_ns();
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < names->count && !is_stopping(c); i++)
        rc = compare_one(c, s, &names->list[i], &found, err);
    if (rc || is_stopping(c)) {
        free(found.list);
        return rc;
    }
    for (size_t i = 0; i < found.count; i++)
        staying += stays(&s->last, &found.list[i]);
    free(s->last.list);
    s->last = found;
    pthread_mutex_lock(&c->lock);
    s->ever = true;
    s->differing = staying;
    s->unsettled = found.count - staying;
    s->success_ms = ap_wall_ms();
    s->seconds = (double)(ap_mono_ns() - start) * 1e-9;
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static void compare_round(struct ap_comparer *c)
{
    static struct ap_log_limit limit, found;
    struct names names;
    struct ap_err err = {0};
    if (list_collections(c, &names, &err)) {
        ap_log_limited(&limit, 60000, AP_LOG_WARN, "comparing with other regions: %s", err.msg);
        return;
    }
    for (size_t i = 1; i < c->peers->count; i++) {
        struct side *s = &c->sides[i];
        bool retired = ap_index_region_is_retired(c->index, &s->region);
        pthread_mutex_lock(&c->lock);
        s->retired = retired;
        pthread_mutex_unlock(&c->lock);
        if (!s->forward || retired)
            continue;
        if (compare_side(c, s, &names, &err)) {
            ap_count(s->failures, 1);
            ap_log_limited(&limit, 60000, AP_LOG_WARN, "comparing with region %s: %s", s->region.name, err.msg);
        } else if (s->differing) {
            ap_log_limited(&found, 60000, AP_LOG_ERROR, "%llu buckets differ from region %s, and stay so: antipode verify %s %s says which rows",
                           (unsigned long long)s->differing, s->region.name, c->peers->list[0].region.name, s->region.name);
        }
    }
    for (size_t i = 0; i < names.count; i++)
        free(names.list[i].params.name);
    free(names.list);
}

static void *comparer_main(void *arg)
{
    struct ap_comparer *c = arg;
    pthread_setname_np(pthread_self(), "compare");
    for (;;) {
        int64_t due = ap_mono_ns() + c->interval_s * INT64_C(1000000000);
        struct timespec at = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
        pthread_mutex_lock(&c->lock);
        while (!c->stopping && pthread_cond_timedwait(&c->wake, &c->lock, &at) != ETIMEDOUT)
            ;
        bool stopping = c->stopping;
        pthread_mutex_unlock(&c->lock);
        if (stopping)
            return NULL;
        if (ap_index_caught_up(c->index))
            compare_round(c);
    }
}

/* ---- start, end, metrics ---- */

static void collect(struct ap_metrics_out *out, void *arg)
{
    struct ap_comparer *c = arg;
    char labels[48];
    pthread_mutex_lock(&c->lock);
    for (size_t i = 1; i < c->peers->count; i++) {
        const struct side *s = &c->sides[i];
        if (!s->forward || s->retired || !s->ever)
            continue;
        snprintf(labels, sizeof labels, "region=\"%s\"", s->region.name);
        ap_metrics_emit(out, "antipode_compare_differing_buckets", labels, "gauge", "Buckets of rows that differ from that region's, and did so in the round before, unchanged.", (double)s->differing);
        ap_metrics_emit(out, "antipode_compare_unsettled_buckets", labels, "gauge", "Buckets that differ, but may have writes under way.", (double)s->unsettled);
        ap_metrics_emit(out, "antipode_compare_last_success_timestamp_seconds", labels, "gauge", "When the last round with that region was done, seconds since 1970.", (double)s->success_ms / 1000);
        ap_metrics_emit(out, "antipode_compare_duration_seconds", labels, "gauge", "How long that round took.", s->seconds);
    }
    pthread_mutex_unlock(&c->lock);
}

static int start_side(struct ap_comparer *c, size_t i, struct ap_err *err)
{
    struct side *s = &c->sides[i];
    char labels[48];
    s->region = c->peers->list[i].region;
    if (i == 0 || !*c->peers->list[i].url)
        return 0;
    snprintf(s->peer, sizeof s->peer, "the indexer of %s", s->region.name);
    snprintf(labels, sizeof labels, "region=\"%s\"", s->region.name);
    s->failures = ap_counter(c->metrics, "antipode_compare_failures_total", labels, "Rounds with a region that were not done.");
    struct ap_forward_options options = {.base_url = c->peers->list[i].url, .peer = s->peer, .max_idle = 1};
    return ap_forward_new(&s->forward, &options, err);
}

int ap_comparer_start(struct ap_comparer **out, const struct ap_peers *peers, int64_t interval_s, struct ap_index *index, struct ap_store *store,
                      struct ap_metrics *metrics, struct ap_err *err)
{
    struct ap_comparer *c = calloc(1, sizeof *c);
    pthread_condattr_t clock;
    bool any = false;
    int rc = 0;
    if (!c)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    *c = (struct ap_comparer){.peers = peers, .interval_s = interval_s, .index = index, .store = store, .metrics = metrics};
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &clock);
    pthread_condattr_destroy(&clock);
    for (size_t i = 0; rc == 0 && i < peers->count; i++) {
        rc = start_side(c, i, err);
        any |= c->sides[i].forward != NULL;
    }
    ap_metrics_collect(metrics, collect, c);
    *out = c;
    if (rc == 0 && any && pthread_create(&c->thread, NULL, comparer_main, c))
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for comparing");
    c->running = rc == 0 && any;
    if (rc)
        ap_comparer_stop(out);
    return rc;
}

void ap_comparer_stop(struct ap_comparer **comparer)
{
    struct ap_comparer *c = *comparer;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_signal(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (c->running)
        pthread_join(c->thread, NULL);
    ap_metrics_uncollect(c->metrics, collect, c);
    for (size_t i = 0; i < c->peers->count; i++) {
        ap_forward_free(&c->sides[i].forward);
        free(c->sides[i].last.list);
    }
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
    *comparer = NULL;
}
