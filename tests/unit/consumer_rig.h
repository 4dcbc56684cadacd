/* A whole consumer in a test: librdkafka's mock cluster, a producer that writes what the test says, the consumer in a
 * thread of its own, and a look into the store once it has stopped. Region "us", the other one "eu", 4 partitions. */
#ifndef ANTIPODE_TESTS_CONSUMER_RIG_H
#define ANTIPODE_TESTS_CONSUMER_RIG_H
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>
#include "common/control.h"
#include "common/kafka.h"
#include "common/schema.h"
#include "common/store.h"
#include "consumer/consumer.h"

#define RIG_PARTITIONS 4

struct rig {
    char dir[64];
    rd_kafka_t *host, *producer;
    rd_kafka_mock_cluster_t *mock;
    struct ap_schemas *schemas;
    pthread_t adding; /* 0 when joined */

    struct ap_consumer_settings settings;
    struct ap_config_extra extra;
    struct ap_metrics *metrics;
    struct ap_status *status;
    struct ap_consumer *consumer; /* NULL while stopped */
    pthread_t thread;
    int rc;
    struct ap_err err;
};

void rig_open(struct rig *r);  /* cluster and all topics; the consumer does not run yet */
void rig_close(struct rig *r); /* stops it if need be */
void rig_topic(struct rig *r, const char *name);
void rig_settle(struct rig *r); /* both brokers, 0 and 1, are there; rig_start waits for it by itself */
/* options: lines of configuration after the usual ones, or NULL. */
void rig_start(struct rig *r, const char *options);
/* Stops the consumer and asserts that it had no error. */
void rig_stop(struct rig *r);

/* ---- records ---- */
void rig_send(struct rig *r, const char *topic, int32_t partition, const void *key, size_t key_len, const void *value, size_t value_len);
/* An upsert of point number `point` of collection 7; payload and vector may be NULL. */
struct ap_mutation rig_upsert(const char *region, uint64_t stream, uint64_t seq, uint64_t hlc, const char *payload);
void rig_mutation(struct rig *r, const char *topic, int32_t partition, uint64_t point, const struct ap_mutation *m);
void rig_heartbeat(struct rig *r, const char *topic, int32_t partition, const char *region, uint64_t stream, uint64_t seq, const struct ap_hello *hello);
void rig_raw(struct rig *r, int32_t partition, uint64_t point, const struct ap_mutation *of, float value);
/* A control record with its own key; the writer is incarnation 1. */
void rig_control(struct rig *r, const char *topic, struct ap_control *c);
void rig_register(struct rig *r, const char *topic, const char *region, uint64_t incarnation, uint64_t predecessor);
/* A new incarnation of "us" or "eu", registered where us reads it. */
uint64_t rig_incarnation(struct rig *r, const char *region);
struct ap_key rig_key(uint64_t collection, uint64_t point);

/* ---- what came of it ---- */
/* Value of a metric as /metrics prints it, 0 when it is not there. labels: exact text between the braces, or NULL. */
double rig_metric(struct rig *r, const char *name, const char *labels);
/* Wait (PATIENCE_MS at most, then the test fails) until the metric has at least this value. */
void rig_wait(struct rig *r, const char *name, const char *labels, double at_least);
/* The same, and then it has this value: more would be wrong. */
void rig_wait_just(struct rig *r, const char *name, const char *labels, double value);
void rig_wait_at_most(struct rig *r, const char *name, const char *labels, double at_most);
void rig_wait_ready(struct rig *r);
/* The row of a point in the store, the consumer being stopped: false when there is none. Payload text into payload. */
bool rig_row(struct rig *r, uint64_t point, uint64_t *hlc, char *payload, size_t cap);
size_t rig_live_rows(struct rig *r);
/* Raw vector's first float, or NAN. */
float rig_raw_of(struct rig *r, uint64_t point);
/* A sum over all rows' checksums: equal stores have equal sums. */
uint64_t rig_checksum(struct rig *r);
/* The first message of dlq-mutations whose header has this value; the caller destroys it. Fails after PATIENCE_MS. */
rd_kafka_message_t *rig_letter(struct rig *r, const char *header, const char *value);
const char *rig_header(const rd_kafka_message_t *m, const char *name); /* NULL when absent */

#endif
