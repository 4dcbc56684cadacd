/* One thread: sleeps until a record is due, compares the visible positions with what it sent last, sends, and serves the
 * delivery report. A record that fails is forgotten: the next one says more. */
#include "indexer/watermarks.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "common/kafka.h"
#include "common/log.h"
#include "common/timeutil.h"

#define IDLE_NS INT64_C(1000000000)
#define REPORT_POLL_MS 50
#define FLUSH_MS 1000

struct ap_watermarks {
    struct ap_watermarks_options options;
    int64_t interval_ns, busy_ns;
    char key[32];
    pthread_t thread;

    pthread_mutex_t lock; /* guards poked, busy and stopping */
    pthread_cond_t wake;
    bool poked, busy, stopping; /* busy: rows came */

    /* The thread's own. */
    rd_kafka_t *kafka;
    bool under_way;
    int64_t sent_ns; /* last record handed to Kafka */
    struct ap_position *sent; /* and what it said */
    size_t sent_count;

    _Atomic int64_t acked_ns;
    struct ap_metric *published, *errors;
};

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    static struct ap_log_limit limit;
    struct ap_watermarks *w = opaque;
    (void)rk;
    w->under_way = false;
    if (!message->err) {
        w->acked_ns = ap_mono_ns();
        ap_count(w->published, 1);
        return;
    }
    ap_count(w->errors, 1);
    ap_log_limited(&limit, 10000, AP_LOG_WARN, "a watermark was not published, other regions see this one lag: %s",
                   rd_kafka_err2str(message->err));
}

static int open_kafka(struct ap_watermarks *w, struct ap_err *err)
{
    char client_id[64];
    snprintf(client_id, sizeof client_id, "antipode-indexer-%s", w->options.region.name);
    w->kafka = ap_kafka_producer(w->options.kafka, client_id, on_delivery, w, err);
    return w->kafka ? 0 : err->code;
}

/* After a fatal error of the client nothing is delivered any more: begin with a new one. */
static void renew_after_fatal(struct ap_watermarks *w)
{
    char why[200];
    struct ap_err err;
    if (w->kafka && !rd_kafka_fatal_error(w->kafka, why, sizeof why))
        return;
    if (w->kafka) {
        ap_warn("the Kafka client of the watermarks failed and is replaced: %s", why);
        rd_kafka_destroy(w->kafka);
    }
    w->under_way = false;
    if (open_kafka(w, &err))
        ap_error("%s", err.msg);
}

static uint64_t newest_clock(const struct ap_position *positions, size_t count)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < count; i++)
        if (positions[i].clock > newest)
            newest = positions[i].clock;
    return newest;
}

static int send_record(struct ap_watermarks *w, struct ap_position *positions, size_t count, struct ap_settled settled, struct ap_err *err)
{
    struct ap_buf value = {0};
    struct ap_watermark record = {.region = w->options.region, .sent_ms = ap_wall_ms(), .hlc = newest_clock(positions, count),
                                  .positions = positions, .count = count, .settled = settled};
    int rc = ap_watermark_encode(w->options.schemas, &record, &value, err);
    if (rc == 0) {
        rd_kafka_resp_err_t code = rd_kafka_producev(w->kafka, RD_KAFKA_V_TOPIC(AP_TOPIC_WATERMARKS), RD_KAFKA_V_KEY(w->key, strlen(w->key)),
                                                     RD_KAFKA_V_VALUE(value.data, value.len), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (code)
            rc = ap_err_set(err, AP_EKAFKA, AP_RETRY, "%s: %s", AP_TOPIC_WATERMARKS, rd_kafka_err2str(code));
    }
    ap_buf_free(&value);
    return rc;
}

static bool same_as_sent(const struct ap_watermarks *w, const struct ap_position *positions, size_t count)
{
    if (count != w->sent_count)
        return false;
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *a = &positions[i], *b = &w->sent[i];
        if (a->stream != b->stream || a->mark != b->mark || a->clock != b->clock || a->partition != b->partition ||
            a->finished != b->finished || a->lineage != b->lineage || strcmp(a->topic, b->topic))
            return false;
    }
    return true;
}

static void publish(struct ap_watermarks *w)
{
    static struct ap_log_limit limit;
    struct ap_err err = {0};
    struct ap_position *positions = NULL;
    size_t count = 0;
    int64_t now = ap_mono_ns();
    struct ap_settled settled = ap_index_settled(w->options.index); /* before the positions: it may say less than they do, not more */
    int rc = ap_index_positions(w->options.index, &positions, &count, &err);
    if (rc == 0 && now - w->sent_ns < IDLE_NS && same_as_sent(w, positions, count)) {
        free(positions);
        return;
    }
    if (rc == 0)
        rc = send_record(w, positions, count, settled, &err);
    w->sent_ns = now; /* also after a failure: the next try comes with the next interval */
    if (rc) {
        free(positions);
        ap_count(w->errors, 1);
        ap_log_limited(&limit, 10000, AP_LOG_WARN, "a watermark was not published: %s", err.msg);
        return;
    }
    w->under_way = true;
    free(w->sent);
    w->sent = positions;
    w->sent_count = count;
}

/* Sleeps until a record is due; false when stopping. */
static bool wait_until_due(struct ap_watermarks *w)
{
    pthread_mutex_lock(&w->lock);
    for (;;) {
        int64_t due = w->sent_ns + (w->busy ? w->busy_ns : w->poked ? w->interval_ns : IDLE_NS);
        struct timespec at = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000};
        if (w->stopping || ap_mono_ns() >= due)
            break;
        pthread_cond_timedwait(&w->wake, &w->lock, &at);
    }
    bool go_on = !w->stopping;
    w->poked = w->busy = false;
    pthread_mutex_unlock(&w->lock);
    return go_on;
}

static void *publisher_main(void *arg)
{
    struct ap_watermarks *w = arg;
    pthread_setname_np(pthread_self(), "watermarks");
    while (wait_until_due(w)) {
        renew_after_fatal(w);
        if (!w->kafka)
            w->sent_ns = ap_mono_ns();
        else if (!w->under_way)
            publish(w);
        while (w->under_way && rd_kafka_poll(w->kafka, REPORT_POLL_MS) == 0) {
            pthread_mutex_lock(&w->lock);
            bool stopping = w->stopping;
            pthread_mutex_unlock(&w->lock);
            if (stopping || rd_kafka_fatal_error(w->kafka, NULL, 0))
                break;
        }
        if (w->kafka)
            rd_kafka_poll(w->kafka, 0);
    }
    if (w->kafka)
        rd_kafka_flush(w->kafka, FLUSH_MS);
    return NULL;
}

static void collect(struct ap_metrics_out *out, void *arg)
{
    struct ap_watermarks *w = arg;
    int64_t acked = w->acked_ns;
    if (acked)
        ap_metrics_emit(out, "antipode_watermark_age_seconds", NULL, "gauge",
                        "Seconds since Kafka last acknowledged a watermark of this region.", (double)(ap_mono_ns() - acked) * 1e-9);
}

int ap_watermarks_start(struct ap_watermarks **out, const struct ap_watermarks_options *options, struct ap_err *err)
{
    pthread_condattr_t clock;
    struct ap_watermarks *w = calloc(1, sizeof *w);
    if (!w)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    w->options = *options;
    w->interval_ns = w->busy_ns = options->interval_ms * 1000000;
    if (options->busy_interval_ms && options->busy_interval_ms < options->interval_ms)
        w->busy_ns = options->busy_interval_ms * 1000000;
    snprintf(w->key, sizeof w->key, "watermark/%s", options->region.name);
    w->published = ap_counter(options->metrics, "antipode_watermarks_published_total", NULL, "Watermarks that Kafka has acknowledged.");
    w->errors = ap_counter(options->metrics, "antipode_watermark_errors_total", NULL, "Watermarks that could not be published.");
    if (open_kafka(w, err)) {
        int rc = err->code;
        free(w);
        return rc;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &clock);
    pthread_condattr_destroy(&clock);
    ap_metrics_collect(options->metrics, collect, w);
    if (pthread_create(&w->thread, NULL, publisher_main, w)) {
        rd_kafka_destroy(w->kafka);
        w->kafka = NULL; /* w itself stays: the collector has it, and the daemon ends */
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "cannot start the watermark thread");
    }
    *out = w;
    return 0;
}

void ap_watermarks_stop(struct ap_watermarks **watermarks)
{
    struct ap_watermarks *w = *watermarks;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    if (w->kafka)
        rd_kafka_destroy(w->kafka);
    free(w->sent);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
    *watermarks = NULL;
}

void ap_watermarks_poke(struct ap_watermarks *w, bool rows)
{
    pthread_mutex_lock(&w->lock);
    w->poked = true;
    w->busy = w->busy || rows;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}
