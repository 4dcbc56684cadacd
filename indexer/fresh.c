/* A read says to each line since when it must know, then waits for each. The line's thread sleeps until a barrier is wanted
 * that has not begun, asks for it, and keeps the answer in a short ring. A read takes the oldest answer that is new enough:
 * that one is visible first.
 * Fails with what the producer says, or how it could not be reached; a failure ends those waits that began before the
 * barrier that failed, and the next read asks again. */
#include "indexer/fresh.h"
#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/timeutil.h"
#include "common/unsafe.h"
#include "indexer/forward.h"

#define KEPT 16
#define TOKEN_HEADER "X-Antipode-Token"
#define LEAST_MS 100
#define MOST_MS 60000

struct answer { int64_t begun_ns; struct ap_token token; };

struct line {
    struct ap_fresh *fresh;
    struct ap_region region;
    struct ap_forward *forward;
    char peer[64];
    pthread_t thread;
    bool started;
    struct ap_metric *rounds[2], *seconds;
    /* Under the lock. */
    pthread_cond_t wake;    /* the line's thread: something is wanted, or the end */
    int64_t wanted_ns;      /* a barrier is wanted that begins at this time or later; 0: none yet */
    int64_t until_ns;       /* those who want it wait no longer */
    int64_t begun_ns;       /* of the newest barrier */
    bool running;
    struct answer kept[KEPT];
    size_t count;           /* oldest first */
    int64_t failed_ns;      /* begin of the newest barrier that failed */
    struct ap_err failure;
};

struct ap_fresh {
    const struct ap_peers *peers;
    pthread_mutex_t lock;
    pthread_cond_t answered;
    bool stopping;
    struct line lines[AP_PEERS_MAX];
};

/* --- the line's thread --- */

static int refused(const struct line *l, const struct ap_forward_reply *reply, struct ap_err *err)
{
    json_t *root = json_loadb(reply->body, reply->len, 0, NULL);
    const char *why = json_string_value(json_object_get(json_object_get(root, "status"), "error"));
    ap_err_set(err, AP_ENOTREADY, AP_RETRY, "its producer answers %d: %.300s", reply->status, why ? why : "without a reason");
    json_decref(root);
    (void)l;
    return AP_ENOTREADY;
}

static int take_token(const struct line *l, const struct ap_forward_reply *reply, struct ap_token *out, struct ap_err *err)
{
    const char *text = NULL;
    if (reply->status != 200)
        return refused(l, reply, err);
    for (size_t i = 0; i < reply->header_count; i++)
        if (!strcmp(reply->headers[i].name, TOKEN_HEADER))
            text = reply->headers[i].value;
    if (!text || ap_token_parse(text, strlen(text), out, err))
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "its producer answered a barrier without a token");
    if (memcmp(&out->region, &l->region, sizeof l->region) == 0)
        return 0;
    int rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the producer at its address (peers) is one of %s", out->region.name);
    ap_token_fini(out);
    return rc;
}

static int ask(struct line *l, int64_t timeout_ms, struct ap_token *token, struct ap_err *err)
{
    char query[32];
    struct ap_forward_reply reply;
    snprintf(query, sizeof query, "timeout=%lld", (long long)(timeout_ms + 999) / 1000);
    struct ap_forward_request request = {.method = "POST", .path = "/antipode/barrier", .query = query, .timeout_ms = timeout_ms};
    int rc = ap_forward_send(l->forward, &request, &reply, err);
    if (rc)
        return rc;
    rc = take_token(l, &reply, token, err);
    ap_forward_reply_fini(&reply);
    return rc;
}

static void keep(struct line *l, int64_t begun_ns, const struct ap_token *token)
{
    if (l->count == KEPT) {
        ap_token_fini(&l->kept[0].token);
        memmove(l->kept, l->kept + 1, (KEPT - 1) * sizeof *l->kept);
        l->count--;
    }
    l->kept[l->count++] = (struct answer){begun_ns, *token};
}

/* Under the lock, which is let go meanwhile. */
static void one_round(struct line *l)
{
    struct ap_fresh *f = l->fresh;
    struct ap_token token = {0};
    struct ap_err err = {0};
    int64_t begun = ap_mono_ns(), ms = (l->until_ns - begun) / 1000000;
    l->begun_ns = begun;
    l->until_ns = 0;
    l->running = true;
    pthread_mutex_unlock(&f->lock);
    int rc = ask(l, ms < LEAST_MS ? LEAST_MS : ms > MOST_MS ? MOST_MS : ms, &token, &err);
    ap_count(l->rounds[rc != 0], 1);
    ap_observe(l->seconds, (double)(ap_mono_ns() - begun) * 1e-9);
    pthread_mutex_lock(&f->lock);
    l->running = false;
    if (rc == 0) {
        keep(l, begun, &token);
    } else {
        l->failed_ns = begun;
        l->failure = err;
    }
    pthread_cond_broadcast(&f->answered);
}

static void *line_main(void *arg)
{
    struct line *l = arg;
    pthread_setname_np(pthread_self(), "barriers");
    pthread_mutex_lock(&l->fresh->lock);
    while (!l->fresh->stopping)
        if (l->begun_ns < l->wanted_ns)
            one_round(l);
        else
            pthread_cond_wait(&l->wake, &l->fresh->lock);
    pthread_mutex_unlock(&l->fresh->lock);
    return NULL;
}

/* --- reads --- */

/* The oldest kept answer that knows of all before since; NULL: none. Under the lock. */
static const struct answer *find(const struct line *l, int64_t since_ns)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->kept[i].begun_ns >= since_ns)
            return &l->kept[i];
    return NULL;
}

/* Under the lock: see to it that an answer to since comes, from the barrier under way or from a new one. */
static void want(struct line *l, int64_t since_ns, int64_t asked_ns, int64_t deadline_ns)
{
    if (l->running && l->begun_ns >= since_ns)
        return;
    if (l->wanted_ns < asked_ns)
        l->wanted_ns = asked_ns;
    if (l->until_ns < deadline_ns)
        l->until_ns = deadline_ns;
    pthread_cond_signal(&l->wake);
}

static void copy_token(const struct ap_token *from, struct ap_token *out)
{
    *out = *from;
    out->entries = calloc(from->count + 1, sizeof *out->entries);
    if (!out->entries)
        abort();
    memcpy(out->entries, from->entries, from->count * sizeof *out->entries);
}

static int wait_answer(struct line *l, int64_t since_ns, int64_t asked_ns, int64_t deadline_ns, struct ap_token *out, struct ap_err *err)
{
    struct timespec at = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
    const struct answer *answer;
    int rc = 0, late = 0;
    pthread_mutex_lock(&l->fresh->lock);
    while (!(answer = find(l, since_ns)) && rc == 0) {
        if (l->failed_ns >= asked_ns) {
            rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "%s", l->failure.msg);
        } else if (late == ETIMEDOUT) {
            rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "its producer does not answer");
        } else {
            want(l, since_ns, asked_ns, deadline_ns);
            late = pthread_cond_timedwait(&l->fresh->answered, &l->fresh->lock, &at);
        }
    }
    if (answer) {
        copy_token(&answer->token, out);
        rc = 0;
    }
    pthread_mutex_unlock(&l->fresh->lock);
    return rc;
}

static int wait_line(struct line *l, struct ap_index *index, int64_t since_ns, int64_t asked_ns, int64_t deadline_ns, struct ap_err *err)
{
    struct ap_token token;
    int rc = wait_answer(l, since_ns, asked_ns, deadline_ns, &token, err);
    if (rc)
        return rc;
    rc = ap_index_wait(index, &token, deadline_ns, err);
    ap_token_fini(&token);
    if (rc == AP_ETIMEOUT)
        rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "what it has acknowledged is not visible here yet");
    return rc;
}

int ap_fresh_wait(struct ap_fresh *f, struct ap_index *index, int64_t since_ns, bool ahead, int64_t deadline_ns, struct ap_err *err)
{
    int64_t asked = ap_mono_ns();
    if (!f->peers->complete)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "this read asks every region, and the key peers does not say where their producers are");
    if (ap_unsafe(AP_UNSAFE_NO_BARRIER))
        return 0;
    bool over[AP_PEERS_MAX]; /* retired: nothing that is acknowledged there counts */
    for (size_t i = 0; i < f->peers->count; i++)
        over[i] = ap_index_region_is_retired(index, &f->lines[i].region);
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < f->peers->count; i++) {
        struct line *l = &f->lines[i];
        if (over[i])
            continue;
        if (!find(l, since_ns))
            want(l, since_ns, asked, deadline_ns);
        else if (ahead && !find(l, since_ns + (asked - since_ns) / 2))
            want(l, since_ns + (asked - since_ns) / 2, asked, asked + INT64_C(1000000) * LEAST_MS * 10);
    }
    pthread_mutex_unlock(&f->lock);
    for (size_t i = 0; i < f->peers->count; i++)
        if (!over[i] && wait_line(&f->lines[i], index, since_ns, asked, deadline_ns, err)) {
            ap_err_wrap(err, "region %s", f->lines[i].region.name);
            return err ? err->code : AP_ENOTREADY;
        }
    return 0;
}

/* --- start and end --- */

static int start_line(struct ap_fresh *f, size_t i, struct ap_metrics *metrics, struct ap_err *err)
{
    static const char *const keep_headers[] = {TOKEN_HEADER, NULL};
    static const char help[] = "Barriers asked of a region's producer for reads, by how they ended.";
    struct line *l = &f->lines[i];
    char labels[64];
    l->fresh = f;
    l->region = f->peers->list[i].region;
    pthread_cond_init(&l->wake, NULL);
    snprintf(l->peer, sizeof l->peer, "the producer of %s", l->region.name);
    snprintf(labels, sizeof labels, "region=\"%s\",result=\"answered\"", l->region.name);
    l->rounds[0] = ap_counter(metrics, "antipode_read_barriers_total", labels, help);
    snprintf(labels, sizeof labels, "region=\"%s\",result=\"failed\"", l->region.name);
    l->rounds[1] = ap_counter(metrics, "antipode_read_barriers_total", labels, help);
    snprintf(labels, sizeof labels, "region=\"%s\"", l->region.name);
    l->seconds = ap_histogram(metrics, "antipode_read_barrier_seconds", labels, "Seconds until a region's producer answered a barrier.");
    if (!*f->peers->list[i].url)
        return 0;
    struct ap_forward_options options = {.base_url = f->peers->list[i].url, .peer = l->peer, .keep_headers = keep_headers, .max_idle = 1};
    int rc = ap_forward_new(&l->forward, &options, err);
    if (rc)
        return rc;
    if (pthread_create(&l->thread, NULL, line_main, l))
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for barriers");
    l->started = true;
    return 0;
}

int ap_fresh_start(struct ap_fresh **out, const struct ap_peers *peers, struct ap_metrics *metrics, struct ap_err *err)
{
    struct ap_fresh *f = calloc(1, sizeof *f);
    pthread_condattr_t clock;
    int rc = 0;
    if (!f)
        abort();
    f->peers = peers;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&f->answered, &clock);
    pthread_condattr_destroy(&clock);
    for (size_t i = 0; rc == 0 && i < peers->count; i++)
        rc = start_line(f, i, metrics, err);
    *out = f;
    if (rc)
        ap_fresh_stop(out);
    return rc;
}

void ap_fresh_stop(struct ap_fresh **fresh)
{
    struct ap_fresh *f = *fresh;
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stopping = true;
    for (size_t i = 0; i < f->peers->count; i++)
        if (f->lines[i].started)
            pthread_cond_signal(&f->lines[i].wake);
    pthread_mutex_unlock(&f->lock);
    for (size_t i = 0; i < f->peers->count; i++) {
        struct line *l = &f->lines[i];
        if (l->started)
            pthread_join(l->thread, NULL);
        ap_forward_free(&l->forward);
        for (size_t k = 0; k < l->count; k++)
            ap_token_fini(&l->kept[k].token);
        if (l->fresh)
            pthread_cond_destroy(&l->wake);
    }
    pthread_cond_destroy(&f->answered);
    pthread_mutex_destroy(&f->lock);
    free(f);
    *fresh = NULL;
}
