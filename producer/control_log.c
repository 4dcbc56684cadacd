/* Following: one thread polls; records that the catalog refuses are counted and logged, never trusted.
 * Publishing: stamped by the clock, partitioned by murmur2 of the key (so that a key stays where it is, for compaction),
 * through the client of the mutations. */
#include "producer/control_log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/schema.h"
#include "common/timeutil.h"

void ap_control_log_init(struct ap_control_log *c, const struct ap_producer_config *config, struct ap_schemas *schemas,
                         struct ap_drift *drift, struct ap_lanes *lanes, struct ap_metrics *metrics)
{
    *c = (struct ap_control_log){.config = config, .schemas = schemas, .drift = drift, .lanes = lanes};
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    c->catalog = ap_catalog_new(schemas);
    atomic_init(&c->version, 1);
    c->records = ap_counter(metrics, "antipode_producer_control_records_total", "outcome=\"applied\"", "Control records read, by what became of them.");
    c->refused = ap_counter(metrics, "antipode_producer_control_records_total", "outcome=\"refused\"", "Control records read, by what became of them.");
}

/* --- following --- */

static void apply(struct ap_control_log *c, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t len)
{
    struct ap_err err = {0};
    pthread_mutex_lock(&c->lock);
    int rc = ap_catalog_apply(c->catalog, origin, key, key_len, value, len, &err);
    uint64_t hlc = ap_catalog_newest_hlc(c->catalog);
    if (rc > 0) {
        atomic_fetch_add(&c->version, 1);
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    if (rc < 0) {
        ap_count(c->refused, 1);
        ap_warn("control record of %s refused: %s", origin->name, err.msg);
        return;
    }
    ap_count(c->records, 1);
    ap_drift_merge(c->drift, hlc, NULL);
}

static void on_record(void *arg, const char *topic, const rd_kafka_message_t *m)
{
    struct ap_control_log *c = arg;
    struct ap_region origin;
    const char *base;
    if (ap_topic_split(topic, &c->config->region, &origin, &base) == 0)
        apply(c, &origin, m->key, m->key_len, m->payload, m->len);
}

static int make_follower(struct ap_control_log *c, struct ap_err *err)
{
    char names[AP_REGIONS_MAX + 1][64], client[64];
    const char *topics[AP_REGIONS_MAX + 1];
    size_t n = 0;
    snprintf(names[n++], sizeof names[0], "%s", AP_TOPIC_CONTROL);
    for (size_t i = 0; i < c->config->other_count; i++)
        snprintf(names[n++], sizeof names[0], "%s.%s", c->config->others[i].name, AP_TOPIC_CONTROL);
    for (size_t i = 0; i < n; i++)
        topics[i] = names[i];
    snprintf(client, sizeof client, "antipode-producer-%s-control", c->config->region.name);
    return ap_follower_new(&c->follower, &c->config->extra, client, topics, n, on_record, c, err);
}

int ap_control_log_open(struct ap_control_log *c, int timeout_ms, struct ap_err *err)
{
    int rc = 0;
    if (c->partitions == 0)
        rc = ap_kafka_partitions(c->lanes->events.rk, AP_TOPIC_CONTROL, timeout_ms, &c->partitions, err);
    if (rc == 0 && !c->rkt && !(c->rkt = rd_kafka_topic_new(c->lanes->events.rk, AP_TOPIC_CONTROL, NULL)))
        rc = ap_err_set(err, AP_EKAFKA, AP_FATAL, "topic %s: %s", AP_TOPIC_CONTROL, rd_kafka_err2str(rd_kafka_last_error()));
    if (rc == 0 && !c->follower)
        rc = make_follower(c, err);
    return rc ? rc : ap_follower_catch_up(c->follower, timeout_ms, err);
}

static void *follow(void *arg)
{
    struct ap_control_log *c = arg;
    struct ap_err err = {0};
    pthread_setname_np(pthread_self(), "control");
    while (!atomic_load(&c->stop))
        if (ap_follower_poll(c->follower, 200, &err) != 0) {
            ap_error("following the control topics: %s", err.msg);
            atomic_store(&c->failed, true);
            break;
        }
    return NULL;
}

int ap_control_log_start(struct ap_control_log *c, struct ap_err *err)
{
    if (pthread_create(&c->thread, NULL, follow, c) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for the control topics");
    c->running = true;
    return 0;
}

void ap_control_log_close(struct ap_control_log *c)
{
    atomic_store(&c->stop, true);
    if (c->running)
        pthread_join(c->thread, NULL);
    c->running = false;
    ap_follower_free(&c->follower);
    if (c->rkt)
        rd_kafka_topic_destroy(c->rkt);
    c->rkt = NULL;
    ap_catalog_free(&c->catalog);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
}

/* --- the catalog --- */

const struct ap_catalog *ap_control_log_lock(struct ap_control_log *c)
{
    pthread_mutex_lock(&c->lock);
    return c->catalog;
}

void ap_control_log_unlock(struct ap_control_log *c)
{
    pthread_mutex_unlock(&c->lock);
}

uint64_t ap_control_log_wait(struct ap_control_log *c, uint64_t seen, int64_t deadline_ns)
{
    struct timespec at = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    pthread_mutex_lock(&c->lock);
    if (atomic_load(&c->version) == seen)
        pthread_cond_timedwait(&c->changed, &c->lock, &at);
    pthread_mutex_unlock(&c->lock);
    return atomic_load(&c->version);
}

void ap_control_log_wake(struct ap_control_log *c)
{
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* --- publishing --- */

struct encoded { struct ap_buf key, value; };

static int encode_all(struct ap_control_log *c, struct ap_control *records, size_t n, struct encoded *out, struct ap_err *err)
{
    for (size_t i = 0; i < n; i++) {
        records[i].version = (struct ap_version){ap_clock_next(c->lanes->clock), c->config->region, c->lanes->incarnation};
        ap_control_key(&records[i], &out[i].key);
        int rc = ap_control_encode(c->schemas, &records[i], &out[i].value, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int send_all(struct ap_control_log *c, struct encoded *e, size_t n, struct ap_ack *ack, struct ap_err *err)
{
    for (size_t i = 0; i < n; i++) {
        int32_t partition = (int32_t)(ap_murmur2(e[i].key.data, e[i].key.len) & 0x7fffffff) % c->partitions;
        ap_ack_add(ack, 1);
        int rc = ap_lanes_send(c->lanes, c->rkt, partition, e[i].key.data, e[i].key.len, e[i].value.data, e[i].value.len, &ack->delivery, err);
        if (rc) {
            ap_ack_undo(ack, 1);
            return rc;
        }
    }
    return 0;
}

int ap_control_log_publish(struct ap_control_log *c, struct ap_control *records, size_t n, int64_t deadline_ns, struct ap_err *err)
{
    struct encoded *e = calloc(n, sizeof *e);
    if (!e)
        abort();
    struct ap_ack *ack = ap_ack_new(false);
    int rc = ap_drift_check(c->drift, err);
    if (rc == 0)
        rc = encode_all(c, records, n, e, err);
    if (rc == 0)
        rc = send_all(c, e, n, ack, err);
    ap_ack_seal(ack);
    if (rc == 0)
        rc = ap_ack_wait(ack, deadline_ns, err);
    for (size_t i = 0; i < n; i++) {
        if (rc == 0)
            apply(c, &c->config->region, e[i].key.data, e[i].key.len, e[i].value.data, e[i].value.len);
        ap_buf_free(&e[i].key);
        ap_buf_free(&e[i].value);
    }
    ap_ack_unref(&ack);
    free(e);
    return rc;
}
