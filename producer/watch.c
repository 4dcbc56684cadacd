/* One thread polls a consumer that is assigned to the end of every watermark topic that exists; the others are looked for
 * again every few seconds. Watermarks come many times a second, so nothing older than the newest is worth reading. */
#include "producer/watch.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/kafka.h"
#include "common/kafka_profile.h"
#include "common/log.h"
#include "common/timeutil.h"

#define LOOK_MS 2000

void ap_watch_init(struct ap_watch *w, const struct ap_producer_config *config, const struct ap_schemas *schemas, struct ap_drift *drift, struct ap_metrics *metrics)
{
    *w = (struct ap_watch){.config = config, .schemas = schemas, .drift = drift, .metrics = metrics};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->moved, &attr);
    pthread_condattr_destroy(&attr);
    w->seen = ap_counter(metrics, "antipode_producer_watermarks_total", "outcome=\"taken\"", "Watermarks read, by what became of them.");
    w->refused = ap_counter(metrics, "antipode_producer_watermarks_total", "outcome=\"refused\"", "Watermarks read, by what became of them.");
}

static const struct ap_region *region_at(const struct ap_watch *w, size_t i)
{
    return i == 0 ? &w->config->region : &w->config->others[i - 1];
}

static void topic_name(const struct ap_watch *w, size_t i, char *out, size_t size)
{
    if (i == 0)
        snprintf(out, size, "%s", AP_TOPIC_WATERMARKS);
    else
        snprintf(out, size, "%s.%s", w->config->others[i - 1].name, AP_TOPIC_WATERMARKS);
}

/* Whose watermarks have stopped coming. One that never came has no age: it shows as an absent sample. */
static void collect(struct ap_metrics_out *out, void *arg)
{
    struct ap_watch *w = arg;
    char labels[48];
    for (size_t i = 0; i <= w->config->other_count; i++) {
        int64_t heard = atomic_load(&w->heard_ms[i]);
        snprintf(labels, sizeof labels, "region=\"%s\"", region_at(w, i)->name);
        if (heard && !atomic_load(&w->retired[i]))
            ap_metrics_emit(out, "antipode_producer_watermark_age_seconds", labels, "gauge",
                            "Seconds since a watermark of that region arrived here.", (double)(ap_mono_ms() - heard) * 1e-3);
        ap_metrics_emit(out, "antipode_producer_watermark_unknown_positions", labels, "gauge",
                        "Positions in that region's newest watermark whose streams nobody has registered.", (double)atomic_load(&w->unknown[i]));
    }
}

/* --- one record --- */

/* What it says of our own stream we know better. */
static int check_own(const struct ap_watch *w, const struct ap_watermark *mark, struct ap_err *err)
{
    for (size_t i = 0; w->lanes && i < mark->count; i++) {
        const struct ap_position *p = &mark->positions[i];
        for (size_t t = 0; p->stream == w->lanes->incarnation && t < w->lanes->topic_count; t++) {
            struct ap_topic *topic = (struct ap_topic *)(uintptr_t)&w->lanes->topics[t]; /* its lock is taken */
            if (strcmp(topic->name, p->topic) == 0 && (p->partition >= topic->partitions || p->mark >= ap_lane_next_seq(topic, p->partition)))
                return ap_err_set(err, AP_EINVAL, AP_POISON, "a watermark of %s claims record %llu of %s[%d], which this producer has not written", mark->region.name,
                                  (unsigned long long)p->mark, p->topic, (int)p->partition);
        }
    }
    return 0;
}

static uint64_t count_unknown(struct ap_watch *w, const struct ap_watermark *mark)
{
    uint64_t unknown = 0;
    const struct ap_catalog *catalog = w->control ? ap_control_log_lock(w->control) : NULL;
    for (size_t i = 0; catalog && i < mark->count; i++)
        unknown += ap_catalog_incarnation(catalog, mark->positions[i].stream) == NULL;
    if (catalog)
        ap_control_log_unlock(w->control);
    return unknown;
}

void ap_watch_take(struct ap_watch *w, size_t i, const void *value, size_t len)
{
    struct ap_watermark mark;
    struct ap_err err = {0};
    int rc = ap_watermark_decode(w->schemas, value, len, &mark, &err);
    if (rc == 0 && memcmp(&mark.region, region_at(w, i), sizeof mark.region) != 0) {
        ap_err_set(&err, AP_EINVAL, AP_POISON, "a watermark of %s in the topic of %s", mark.region.name, region_at(w, i)->name);
        rc = AP_EINVAL;
    }
    if (rc == 0)
        rc = check_own(w, &mark, &err);
    if (rc) {
        static struct ap_log_limit limit;
        ap_count(w->refused, 1);
        ap_log_limited(&limit, 10000, AP_LOG_WARN, "watermark refused: %s", err.msg);
        ap_watermark_fini(&mark);
        return;
    }
    ap_count(w->seen, 1);
    atomic_store(&w->unknown[i], count_unknown(w, &mark));
    ap_drift_merge(w->drift, mark.hlc, NULL);
    if (atomic_load(&w->live))
        atomic_store(&w->heard_ms[i], ap_mono_ms());
    if (atomic_load(&w->live))
        ap_drift_heard(w->drift, mark.sent_ms, i == 0);
    pthread_mutex_lock(&w->lock);
    ap_watermark_fini(&w->marks[i]);
    w->marks[i] = mark;
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->lock);
}

static void on_message(struct ap_watch *w, const rd_kafka_message_t *m)
{
    char name[64];
    const char *topic = m->rkt ? rd_kafka_topic_name(m->rkt) : "";
    for (size_t i = 0; i <= w->config->other_count; i++) {
        topic_name(w, i, name, sizeof name);
        if (strcmp(name, topic) == 0 && m->len)
            ap_watch_take(w, i, m->payload, m->len);
    }
}

/* --- topics --- */

/* From the last record of each partition on. */
static int assign(struct ap_watch *w, size_t i, int32_t *partitions, int timeout_ms, struct ap_err *err)
{
    char name[64];
    topic_name(w, i, name, sizeof name);
    int rc = ap_kafka_partitions(w->rk, name, timeout_ms, partitions, err);
    if (rc)
        return rc;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(*partitions);
    for (int32_t p = 0; p < *partitions; p++)
        rd_kafka_topic_partition_list_add(list, name, p)->offset = RD_KAFKA_OFFSET_TAIL(1);
    rd_kafka_error_t *error = rd_kafka_incremental_assign(w->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (error) {
        rc = ap_err_set(err, AP_EKAFKA, AP_RETRY, "topic %s: %s", name, rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        return rc;
    }
    w->assigned[i] = true;
    return 0;
}

int ap_watch_open(struct ap_watch *w, int timeout_ms, struct ap_err *err)
{
    char client[64];
    int32_t partitions = 0, ended = 0;
    int64_t deadline = ap_mono_ms() + timeout_ms;
    if (w->rk)
        rd_kafka_destroy_flags(w->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    w->assigned[0] = false;
    snprintf(client, sizeof client, "antipode-producer-%s-watermarks", w->config->region.name);
    w->rk = ap_kafka_follower_client(&w->config->extra, client, err);
    if (!w->rk)
        return err ? err->code : AP_EKAFKA;
    int rc = assign(w, 0, &partitions, timeout_ms, err);
    while (rc == 0 && ended < partitions) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(w->rk, 100);
        if (m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
            ended++;
        else if (m && !m->err)
            on_message(w, m);
        if (m)
            rd_kafka_message_destroy(m);
        if (ap_mono_ms() > deadline)
            rc = ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "the end of %s could not be read in time", AP_TOPIC_WATERMARKS);
    }
    return rc;
}

static void look_for_topics(struct ap_watch *w)
{
    int32_t partitions;
    for (size_t i = 0; i <= w->config->other_count; i++)
        if (!w->assigned[i] && assign(w, i, &partitions, 1000, NULL) == AP_ENOTREADY)
            return; /* Kafka is away: later */
}

static void *watch(void *arg)
{
    struct ap_watch *w = arg;
    int64_t look_at = 0;
    pthread_setname_np(pthread_self(), "watermarks");
    while (!atomic_load(&w->stop)) {
        if (ap_mono_ms() >= look_at) {
            look_for_topics(w);
            look_at = ap_mono_ms() + LOOK_MS;
        }
        rd_kafka_message_t *m = rd_kafka_consumer_poll(w->rk, 200);
        if (m && !m->err)
            on_message(w, m);
        if (m)
            rd_kafka_message_destroy(m);
    }
    return NULL;
}

int ap_watch_start(struct ap_watch *w, struct ap_err *err)
{
    atomic_store(&w->live, true);
    ap_metrics_collect(w->metrics, collect, w);
    if (pthread_create(&w->thread, NULL, watch, w) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for the watermarks");
    w->running = true;
    return 0;
}

void ap_watch_close(struct ap_watch *w)
{
    atomic_store(&w->stop, true);
    ap_metrics_uncollect(w->metrics, collect, w);
    if (w->running)
        pthread_join(w->thread, NULL);
    w->running = false;
    if (w->rk)
        rd_kafka_destroy_flags(w->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    w->rk = NULL;
    for (size_t i = 0; i <= AP_REGIONS_MAX; i++)
        ap_watermark_fini(&w->marks[i]);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->moved);
}

void ap_watch_release(struct ap_watch *w)
{
    pthread_mutex_lock(&w->lock);
    w->released = true;
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->lock);
}

/* Under the lock. */
static bool covers(const struct ap_watch *w, size_t i, const struct ap_token *token)
{
    return ap_token_covered(token, w->marks[i].positions, w->marks[i].count);
}

static bool enough(const struct ap_watch *w, const struct ap_token *token, size_t need)
{
    size_t n = 0;
    if (need == 0)
        return covers(w, 0, token);
    for (size_t i = 0; i <= w->config->other_count && n < need; i++)
        n += !atomic_load(&w->retired[i]) && covers(w, i, token);
    return n >= need;
}

void ap_watch_retire(struct ap_watch *w, size_t i, bool retired)
{
    if (atomic_exchange(&w->retired[i], retired) == retired)
        return;
    pthread_mutex_lock(&w->lock);
    pthread_cond_broadcast(&w->moved);
    pthread_mutex_unlock(&w->lock);
}

bool ap_watch_is_retired(const struct ap_watch *w, size_t i)
{
    return atomic_load(&w->retired[i]);
}

size_t ap_watch_live(const struct ap_watch *w)
{
    size_t n = 0;
    for (size_t i = 0; i <= w->config->other_count; i++)
        n += !atomic_load(&w->retired[i]);
    return n;
}

bool ap_watch_copy(struct ap_watch *w, size_t i, struct ap_watermark *out)
{
    pthread_mutex_lock(&w->lock);
    *out = w->marks[i];
    out->positions = calloc(out->count + 1, sizeof *out->positions);
    if (!out->positions)
        abort();
    if (out->count)
        memcpy(out->positions, w->marks[i].positions, out->count * sizeof *out->positions);
    pthread_mutex_unlock(&w->lock);
    bool any = *out->region.name;
    if (!any)
        ap_watermark_fini(out);
    return any;
}

int64_t ap_watch_age_ms(const struct ap_watch *w, size_t i)
{
    int64_t heard = atomic_load(&w->heard_ms[i]);
    return heard ? ap_mono_ms() - heard : -1;
}

bool ap_watch_covers(struct ap_watch *w, size_t i, const struct ap_token *token)
{
    pthread_mutex_lock(&w->lock);
    bool yes = covers(w, i, token);
    pthread_mutex_unlock(&w->lock);
    return yes;
}

int ap_watch_wait(struct ap_watch *w, const struct ap_token *token, size_t need, int64_t deadline_ns, struct ap_err *err)
{
    struct timespec at = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    int late = 0;
    bool covered;
    pthread_mutex_lock(&w->lock);
    while (!(covered = enough(w, token, need)) && late != ETIMEDOUT && !w->released)
        late = pthread_cond_timedwait(&w->moved, &w->lock, &at);
    pthread_mutex_unlock(&w->lock);
    return covered ? 0 : ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "Kafka has the write, but not enough regions have made it visible within the deadline");
}
