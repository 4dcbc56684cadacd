/* Parts, threads, states. The steps of starting are in start.c.
 *
 * Threads: two pollers (delivery reports), the heart, the follower of the control topics, the watch, the trainer, the
 * encoders; and one per HTTP connection. Stopping ends them in the reverse order. */
#include "producer/producer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/schema.h"
#include "common/timeutil.h"
#include "producer/heart.h"
#include "producer/regions.h"
#include "producer/start.h"

#define MESSAGE_OVERHEAD 4096 /* what a record may have besides what its limit counts */
#define AWAY_MS 3000 /* without a report, while records wait for one: Kafka is away */

/* --- metrics --- */

static void collect(struct ap_metrics_out *out, void *arg)
{
    struct ap_producer *p = arg;
    size_t records, bytes;
    ap_inflight_now(&p->lanes.inflight, &records, &bytes);
    ap_metrics_emit(out, "antipode_producer_queue_records", NULL, "gauge", "Records handed to Kafka and not acknowledged yet.", (double)records);
    ap_metrics_emit(out, "antipode_producer_queue_bytes", NULL, "gauge", "Bytes of such records.", (double)bytes);
    ap_metrics_emit(out, "antipode_producer_clock_ahead_seconds", NULL, "gauge", "How far the clock is ahead of what the region's watermarks say; 0 when there are none.",
                    (double)ap_drift_ahead_ms(&p->drift) / 1000);
    ap_spool_collect(&p->spool, out);
    int state = atomic_load(&p->state);
    ap_metrics_emit(out, "antipode_producer_ready", NULL, "gauge", "1 when writes are accepted.", state == AP_PRODUCER_READY);
    if (state != AP_PRODUCER_READY)
        return;
    struct ap_target **list;
    size_t n = ap_targets_list(&p->targets, &list);
    for (size_t i = 0; i < n; i++) {
        char labels[300];
        snprintf(labels, sizeof labels, "collection=\"%s\"", list[i]->name);
        ap_metrics_emit(out, "antipode_producer_codec_in_use", labels, "gauge", "1 when vectors go out as codes, 0 while as float32.", list[i]->codec != NULL);
    }
    ap_targets_list_free(list, n);
}

static void register_metrics(struct ap_producer *p)
{
    struct ap_metrics *m = p->metrics;
    p->insert_latency = ap_histogram(m, "insert_latency_seconds", NULL, "Writes, from the headers read until Kafka has acknowledged all of it.");
    p->ack_latency = ap_histogram(m, "antipode_producer_stage_seconds", "stage=\"ack\"", "Stages of a write.");
    p->prepare_latency = ap_histogram(m, "antipode_producer_stage_seconds", "stage=\"prepare\"", "Stages of a write.");
    for (size_t i = AP_LEVEL_VISIBLE; i < AP_LEVELS; i++) {
        char labels[64];
        snprintf(labels, sizeof labels, "for=\"write\",level=\"%s\"", ap_write_level_name((enum ap_write_level)i));
        p->wait_latency[i] = ap_histogram(m, "antipode_wait_seconds", labels, "Seconds that writes waited until the regions of their level showed them.");
        for (size_t late = 0; late < 2; late++) {
            snprintf(labels, sizeof labels, "for=\"write\",level=\"%s\",result=\"%s\"", ap_write_level_name((enum ap_write_level)i), late ? "timeout" : "visible");
            p->waits[i][late] = ap_counter(m, "antipode_waits_total", labels, "Waits for regions to show a write, by how they ended.");
        }
    }
    p->refused_busy = ap_counter(m, "antipode_producer_refused_total", "reason=\"queue_full\"", "Writes that were not done, by reason.");
    p->timeouts = ap_counter(m, "antipode_producer_refused_total", "reason=\"deadline\"", "Writes that were not done, by reason.");
    p->bad_requests = ap_counter(m, "antipode_producer_refused_total", "reason=\"bad_input\"", "Writes that were not done, by reason.");
    ap_metrics_collect(m, collect, p);
}

/* --- life --- */

static void add_property(struct ap_config_extra *to, const char *key, const char *value)
{
    struct ap_kafka_property *property = &to->kafka[to->kafka_count++];
    if (!(property->key = strdup(key)) || !(property->value = strdup(value)))
        abort();
}

/* Ours go before the user's, which win.
 * Gapless: a record that fails makes all behind it fail, so that a stream ends early rather than with a hole.
 * No linger: a single point is acknowledged 1 ms sooner, and under load the requests in flight make batches anyway. */
static void extend_kafka(struct ap_producer *p)
{
    const struct ap_config_extra *user = &p->config->extra;
    char bytes[32];
    long long event = p->config->max_record_bytes, control = AP_CODEC_CHUNK_BYTES;
    snprintf(bytes, sizeof bytes, "%lld", (event > control ? event : control) + MESSAGE_OVERHEAD);
    p->kafka.kafka = calloc(user->kafka_count + 3, sizeof *p->kafka.kafka);
    if (!p->kafka.kafka)
        abort();
    add_property(&p->kafka, "enable.gapless.guarantee", "true");
    add_property(&p->kafka, "message.max.bytes", bytes);
    add_property(&p->kafka, "linger.ms", "0");
    for (size_t i = 0; i < user->kafka_count; i++)
        add_property(&p->kafka, user->kafka[i].key, user->kafka[i].value);
}

int ap_producer_init(struct ap_producer *p, const struct ap_producer_config *config, struct ap_metrics *metrics, struct ap_err *err)
{
    *p = (struct ap_producer){.config = config, .metrics = metrics};
    int rc = ap_schemas_new(&p->schemas, err);
    if (rc)
        return rc;
    pthread_mutex_init(&p->ddl, NULL);
    pthread_mutex_init(&p->step_lock, NULL);
    extend_kafka(p);
    p->incarnation = ap_incarnation_new(ap_wall_ms());
    ap_clock_init(&p->clock, config->clock_offset_ms);
    ap_drift_init(&p->drift, &p->clock, config->clock_max_drift_ms, metrics);
    ap_lanes_init(&p->lanes, &p->clock, &config->region, p->incarnation, (size_t)config->queue_records, (size_t)config->queue_bytes,
                  (size_t)config->max_record_bytes, metrics);
    ap_spool_init(&p->spool, config, &p->lanes, metrics);
    ap_control_log_init(&p->control, config, p->schemas, &p->drift, &p->lanes, metrics);
    ap_watch_init(&p->watch, config, p->schemas, &p->drift, metrics);
    ap_targets_init(&p->targets, &p->control, &p->lanes, config);
    ap_trainer_init(&p->trainer, &p->control, &p->targets, config, metrics);
    p->watch.control = &p->control;
    p->watch.lanes = &p->lanes;
    register_metrics(p);
    return 0;
}

static void *poll_reports(void *arg)
{
    struct ap_poller *poller = arg;
    struct ap_producer *p = poller->producer;
    pthread_setname_np(pthread_self(), poller->client == &p->lanes.raws ? "raw reports" : "reports");
    while (!atomic_load(&p->stop_polling))
        ap_lanes_poll(&p->lanes, poller->client, 200);
    return NULL;
}

static int start_poller(struct ap_producer *p, struct ap_poller *poller, struct ap_lane_client *client, struct ap_err *err)
{
    *poller = (struct ap_poller){.producer = p, .client = client};
    if (pthread_create(&poller->thread, NULL, poll_reports, poller) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for delivery reports");
    poller->runs = true;
    return 0;
}

static int spool_may_stamp(void *arg, struct ap_err *err)
{
    return ap_producer_may_stamp(arg, err);
}

static int start_threads(struct ap_producer *p, struct ap_err *err)
{
    int rc = ap_pool_start(&p->pool, (size_t)p->config->encode_threads, err);
    if (rc == 0)
        rc = ap_control_log_start(&p->control, err);
    if (rc == 0)
        rc = ap_watch_start(&p->watch, err);
    if (rc == 0)
        rc = ap_trainer_start(&p->trainer, err);
    if (rc)
        return rc;
    if (pthread_create(&p->heart, NULL, ap_heart_run, p) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for heartbeats");
    p->beating = true;
    return ap_spool_start(&p->spool, spool_may_stamp, p, err);
}

int ap_producer_open(struct ap_producer *p, struct ap_err *err)
{
    int rc = ap_spool_open(&p->spool, &p->clock, err);
    if (rc)
        return rc;
    p->rk = ap_kafka_producer(&p->kafka, "antipode-producer", ap_lanes_report, &p->lanes, err);
    p->raw_rk = p->rk ? ap_kafka_producer_serial(&p->kafka, "antipode-producer-raw", ap_lanes_report, &p->lanes, err) : NULL;
    if (!p->raw_rk)
        return err ? err->code : AP_EKAFKA;
    rc = ap_lanes_open(&p->lanes, p->rk, p->raw_rk, p->config->topics, p->config->topic_count, (int32_t)p->config->partitions, err);
    if (rc)
        return rc;
    if ((rc = start_poller(p, &p->pollers[0], &p->lanes.events, err)) != 0 || (rc = start_poller(p, &p->pollers[1], &p->lanes.raws, err)) != 0)
        return rc;
    if ((rc = ap_start_run(p, err)) != 0 || (rc = start_threads(p, err)) != 0)
        return rc;
    ap_trainer_adopt(&p->trainer);
    atomic_store(&p->state, AP_PRODUCER_READY);
    return 0;
}

/* rd_kafka_flush would serve reports in this thread, too; the poller alone does. */
static bool flush(struct ap_producer *p, int timeout_ms)
{
    struct timespec pause = {0, 2000000};
    int64_t deadline = ap_mono_ms() + timeout_ms;
    while (ap_lanes_unreported(&p->lanes) && ap_mono_ms() < deadline && p->pollers[1].runs)
        nanosleep(&pause, NULL);
    return ap_lanes_unreported(&p->lanes) == 0;
}

/* Reports of what is left, so that nothing points at it any more. */
static void drop_rest(struct ap_lanes *l, struct ap_lane_client *client)
{
    if (client->rk)
        rd_kafka_purge(client->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    for (int i = 0; i < 20 && client->rk && atomic_load(&client->unreported); i++)
        ap_lanes_poll(l, client, 50);
}

void ap_producer_stop(struct ap_producer *p)
{
    atomic_store(&p->state, AP_PRODUCER_STOPPING);
    ap_watch_release(&p->watch);
}

void ap_producer_close(struct ap_producer *p, int timeout_ms)
{
    ap_producer_stop(p);
    ap_trainer_stop(&p->trainer);
    ap_spool_stop(&p->spool);
    atomic_store(&p->stop, true);
    if (p->beating)
        pthread_join(p->heart, NULL);
    if (p->raw_rk && !flush(p, timeout_ms))
        ap_warn("Kafka has not acknowledged everything within %d ms; what it has not was not acknowledged to clients either", timeout_ms);
    atomic_store(&p->stop_polling, true);
    atomic_store(&p->watch.stop, true); /* all at once: each may be in a poll for a moment */
    atomic_store(&p->control.stop, true);
    ap_pool_stop(&p->pool);
    ap_watch_close(&p->watch);
    for (size_t i = 0; i < 2; i++)
        if (p->pollers[i].runs)
            pthread_join(p->pollers[i].thread, NULL);
    drop_rest(&p->lanes, &p->lanes.events);
    drop_rest(&p->lanes, &p->lanes.raws);
    ap_spool_close(&p->spool);
    ap_targets_fini(&p->targets);
    ap_control_log_close(&p->control);
    ap_lanes_close(&p->lanes);
    if (p->rk)
        rd_kafka_destroy(p->rk);
    if (p->raw_rk)
        rd_kafka_destroy(p->raw_rk);
    ap_schemas_free(&p->schemas);
    for (size_t i = 0; i < p->kafka.kafka_count; i++) {
        free(p->kafka.kafka[i].key);
        free(p->kafka.kafka[i].value);
    }
    free(p->kafka.kafka);
    pthread_mutex_destroy(&p->ddl);
    pthread_mutex_destroy(&p->step_lock);
}

/* --- states --- */

/* Two writers of one lineage would contradict what the second one's hello says. */
static int check_successor(struct ap_producer *p, struct ap_err *err)
{
    const struct ap_incarnation_info *newest = ap_catalog_instance(ap_control_log_lock(&p->control), &p->config->region, p->config->instance);
    bool superseded = newest && newest->incarnation > p->incarnation;
    ap_control_log_unlock(&p->control);
    if (!superseded)
        return 0;
    return ap_err_set(err, AP_ENOTREADY, AP_FATAL, "another producer has started as instance %s of region %s, so this one must end: give each producer of a region an instance name of its own (the key instance)",
                      p->config->instance, p->config->region.name);
}

int ap_producer_may_stamp(struct ap_producer *p, struct ap_err *err)
{
    int rc = check_successor(p, err);
    if (rc == 0)
        rc = ap_regions_may_stamp(p, err);
    return rc ? rc : ap_drift_check(&p->drift, err);
}

static int check_state(struct ap_producer *p, struct ap_err *err)
{
    switch (atomic_load(&p->state)) {
    case AP_PRODUCER_STARTING: {
        pthread_mutex_lock(&p->step_lock);
        int rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "starting: %s", p->step[0] ? p->step : "connecting to Kafka");
        pthread_mutex_unlock(&p->step_lock);
        return rc;
    }
    case AP_PRODUCER_STOPPING: return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the producer is stopping");
    case AP_PRODUCER_FAILED: return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the producer has failed and restarts");
    default: return 0;
    }
}

int ap_producer_may_write(struct ap_producer *p, struct ap_err *err)
{
    int rc = check_state(p, err);
    if (rc == 0)
        rc = ap_producer_may_stamp(p, err);
    return rc ? rc : ap_regions_may_write(p, err);
}

/* A read-only region's producer is ready: it beats on, and can be asked to write again. */
bool ap_producer_is_ready(struct ap_producer *p, char *why, size_t len)
{
    struct ap_err err = {0};
    if (check_state(p, &err) != 0 || ap_producer_may_stamp(p, &err) != 0) {
        snprintf(why, len, "%s", err.msg);
        return false;
    }
    /* With a spool writes are taken all the same, unless it is full: then they say so. */
    int64_t away = ap_lanes_away_ms(&p->lanes, AWAY_MS);
    if (ap_spool_state(&p->spool, why, len) != AP_SPOOL_OFF)
        return true;
    if (away)
        snprintf(why, len, "Kafka has acknowledged nothing for %.1f s", (double)away / 1000);
    return away == 0;
}

bool ap_producer_has_failed(struct ap_producer *p, struct ap_err *err)
{
    if (atomic_load(&p->lanes.broken))
        ap_err_set(err, AP_EKAFKA, AP_FATAL, "Kafka did not take a record (%s), so this incarnation's numbers cannot go on without a hole; restart this process: it goes on as a new incarnation",
                   rd_kafka_err2str((rd_kafka_resp_err_t)atomic_load(&p->lanes.broken_why)));
    else if (atomic_load(&p->control.failed))
        ap_err_set(err, AP_EKAFKA, AP_FATAL, "the control topics are not followed any more (see above); restart this process");
    else if (atomic_load(&p->state) != AP_PRODUCER_READY || check_successor(p, err) == 0)
        return false;
    atomic_store(&p->state, AP_PRODUCER_FAILED);
    return true;
}
