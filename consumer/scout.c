/* The scout's round: cluster id first, then every missing topic, and the known ones when their time has come.
 *
 * All requests block this thread alone, each for REQUEST_MS at most. What fails is tried again in the next round; the
 * reason is kept for /readyz. One finding a topic is pending at most: a newer one replaces it. */
#include "consumer/scout.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/log.h"
#include "common/timeutil.h"

enum { ROUND_MS = 1000, EAGER_MS = 50, EAGER_ROUNDS = 40, RECHECK_MS = 5000, REQUEST_MS = 2000 };

struct topic {
    const char *name;
    bool known;            /* was reported, with this id and count */
    uint8_t id[16];
    int32_t partitions;
    int64_t recheck_ms;    /* monotonic */
    bool doubted;
    bool pending;
    struct ap_found found; /* when pending */
};

struct ap_scout {
    rd_kafka_t *rk;
    pthread_t thread;
    pthread_mutex_t lock;  /* everything below */
    pthread_cond_t wake;
    bool stop;
    _Atomic int pending;   /* findings to take */
    char cluster[AP_CLUSTER_ID_MAX], trouble[480];
    size_t count;
    struct topic *topics;
    struct ap_log_limit complaint;
};

static void set_trouble(struct ap_scout *s, const char *text)
{
    pthread_mutex_lock(&s->lock);
    snprintf(s->trouble, sizeof s->trouble, "%s", text);
    pthread_mutex_unlock(&s->lock);
    if (*text)
        ap_log_limited(&s->complaint, 10000, AP_LOG_WARN, "cannot look at the topics: %s", text);
}

static bool look_for_cluster(struct ap_scout *s)
{
    if (*s->cluster)
        return true;
    char id[AP_CLUSTER_ID_MAX];
    int32_t partitions;
    struct ap_err err;
    /* The id comes with any answer about topics; waiting for one alone would wait for the client's own next refresh. */
    int rc = ap_kafka_partitions(s->rk, s->topics[0].name, REQUEST_MS, &partitions, &err);
    if (!rc || rc == AP_ENOTFOUND)
        rc = ap_kafka_cluster_id(s->rk, REQUEST_MS, id, sizeof id, &err);
    if (rc) {
        set_trouble(s, err.msg);
        return false;
    }
    pthread_mutex_lock(&s->lock);
    snprintf(s->cluster, sizeof s->cluster, "%s", id);
    pthread_mutex_unlock(&s->lock);
    return true;
}

static int ask_ends(struct ap_scout *s, const char *name, struct ap_found *found, struct ap_err *err)
{
    size_t n = (size_t)found->partitions;
    found->begin = calloc(n, sizeof *found->begin);
    found->end = calloc(n, sizeof *found->end);
    if (!found->begin || !found->end)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory");
    for (int32_t p = 0; p < found->partitions; p++) {
        rd_kafka_resp_err_t rc = rd_kafka_query_watermark_offsets(s->rk, name, p, &found->begin[p], &found->end[p], REQUEST_MS);
        if (rc)
            return ap_err_set(err, AP_EKAFKA, AP_RETRY, "offsets of %s[%d]: %s", name, (int)p, rd_kafka_err2str(rc));
    }
    return 0;
}

/* Ask about one topic. 1: *found is news; 0: nothing new; negative: no answer. */
static int ask(struct ap_scout *s, size_t index, struct ap_found *found, struct ap_err *err)
{
    struct topic *t = &s->topics[index];
    memset(found, 0, sizeof *found);
    found->index = index;
    int rc = ap_kafka_partitions(s->rk, t->name, REQUEST_MS, &found->partitions, err);
    if (rc == AP_ENOTFOUND) {
        found->partitions = 0;
        return t->known;
    }
    if (!rc)
        rc = ap_kafka_topic_id(s->rk, t->name, REQUEST_MS, found->id, err);
    if (rc == AP_ENOTFOUND)
        return 0; /* made or deleted this very moment: the next round sees which */
    if (rc)
        return rc;
    if (t->known && t->partitions == found->partitions && !memcmp(t->id, found->id, sizeof t->id))
        return 0;
    rc = ask_ends(s, t->name, found, err);
    return rc ? rc : 1;
}

static void report(struct ap_scout *s, struct ap_found *found)
{
    struct topic *t = &s->topics[found->index];
    pthread_mutex_lock(&s->lock);
    if (t->pending)
        ap_found_fini(&t->found);
    else
        atomic_fetch_add(&s->pending, 1);
    t->found = *found;
    t->pending = true;
    t->known = found->partitions > 0;
    t->partitions = found->partitions;
    memcpy(t->id, found->id, sizeof t->id);
    pthread_mutex_unlock(&s->lock);
}

static bool due(struct ap_scout *s, struct topic *t)
{
    pthread_mutex_lock(&s->lock);
    bool yes = !t->known || t->doubted || ap_mono_ms() >= t->recheck_ms;
    t->doubted = false;
    if (yes)
        t->recheck_ms = ap_mono_ms() + RECHECK_MS;
    pthread_mutex_unlock(&s->lock);
    return yes;
}

static bool stopping(struct ap_scout *s)
{
    pthread_mutex_lock(&s->lock);
    bool stop = s->stop;
    pthread_mutex_unlock(&s->lock);
    return stop;
}

static void round_once(struct ap_scout *s)
{
    if (!look_for_cluster(s))
        return;
    char trouble[sizeof s->trouble] = "";
    struct ap_err err;
    for (size_t i = 0; i < s->count && !stopping(s); i++) {
        if (s->topics[i].known && !due(s, &s->topics[i]))
            continue;
        struct ap_found found;
        int64_t asked_ms = ap_mono_ms();
        int rc = ask(s, i, &found, &err);
        if (rc == 1)
            report(s, &found);
        else
            ap_found_fini(&found);
        if (rc >= 0)
            continue;
        snprintf(trouble, sizeof trouble, "%s", err.msg);
        if (ap_mono_ms() - asked_ms >= REQUEST_MS / 2)
            break; /* nobody answers: one such wait a round is enough */
    }
    set_trouble(s, trouble);
}

static bool all_known(const struct ap_scout *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (!s->topics[i].known)
            return false;
    return true;
}

static void *scout_main(void *arg)
{
    struct ap_scout *s = arg;
    pthread_mutex_lock(&s->lock);
    for (int rounds = 0; !s->stop; rounds++) {
        pthread_mutex_unlock(&s->lock);
        round_once(s);
        /* The first questions go out before the client is connected; a start should not wait a second for that. */
        int64_t until_ns = ap_mono_ns() + (rounds < EAGER_ROUNDS && !all_known(s) ? EAGER_MS : ROUND_MS) * INT64_C(1000000);
        struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
        pthread_mutex_lock(&s->lock);
        if (!s->stop)
            pthread_cond_timedwait(&s->wake, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void scout_free(struct ap_scout *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->topics[i].pending)
            ap_found_fini(&s->topics[i].found);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s->topics);
    free(s);
}

int ap_scout_start(struct ap_scout **out, rd_kafka_t *rk, const struct ap_sources *sources, struct ap_err *err)
{
    struct ap_scout *s = calloc(1, sizeof *s);
    if (!s || !(s->topics = calloc(sources->count, sizeof *s->topics))) {
        free(s);
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    }
    s->rk = rk;
    s->count = sources->count;
    for (size_t i = 0; i < s->count; i++)
        s->topics[i].name = sources->list[i].name;
    snprintf(s->trouble, sizeof s->trouble, "Kafka has not answered yet");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    int rc = pthread_create(&s->thread, NULL, scout_main, s);
    if (rc) {
        scout_free(s);
        return ap_err_set(err, AP_EIO, AP_FATAL, "cannot start a thread: %s", strerror(rc));
    }
    *out = s;
    return 0;
}

void ap_scout_stop(struct ap_scout **scout)
{
    struct ap_scout *s = *scout;
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    scout_free(s);
    *scout = NULL;
}

bool ap_scout_take(struct ap_scout *s, struct ap_found *out)
{
    if (!atomic_load_explicit(&s->pending, memory_order_relaxed))
        return false;
    bool taken = false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->count && !taken; i++) {
        if (!s->topics[i].pending)
            continue;
        *out = s->topics[i].found;
        s->topics[i].pending = false;
        atomic_fetch_sub(&s->pending, 1);
        taken = true;
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

void ap_found_fini(struct ap_found *found)
{
    free(found->begin);
    free(found->end);
    found->begin = found->end = NULL;
}

void ap_scout_doubt(struct ap_scout *s, size_t index)
{
    pthread_mutex_lock(&s->lock);
    s->topics[index].doubted = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

bool ap_scout_cluster(struct ap_scout *s, char out[AP_CLUSTER_ID_MAX])
{
    pthread_mutex_lock(&s->lock);
    memcpy(out, s->cluster, AP_CLUSTER_ID_MAX);
    pthread_mutex_unlock(&s->lock);
    return *out != '\0';
}

void ap_scout_trouble(struct ap_scout *s, char *out, size_t cap)
{
    pthread_mutex_lock(&s->lock);
    snprintf(out, cap, "%s", s->trouble);
    pthread_mutex_unlock(&s->lock);
}
