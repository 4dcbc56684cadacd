/* The control topics: follows those of all regions into one catalog, and publishes this region's own records.
 *
 * Invariant: what ap_control_log_publish returned 0 for is acknowledged by Kafka and already in our catalog; the echo that
 * comes back later changes nothing. */
#ifndef ANTIPODE_PRODUCER_CONTROL_LOG_H
#define ANTIPODE_PRODUCER_CONTROL_LOG_H
#include "common/catalog.h"
#include "producer/drift.h"
#include "producer/lanes.h"
#include "producer/options.h"

struct ap_control_log {
    const struct ap_producer_config *config;
    struct ap_schemas *schemas;   /* borrowed */
    struct ap_drift *drift;       /* borrowed */
    struct ap_lanes *lanes;       /* borrowed; its client publishes */
    struct ap_follower *follower;
    rd_kafka_topic_t *rkt;
    int32_t partitions;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    _Atomic bool failed;          /* the follower has ended: the catalog grows old */

    pthread_mutex_t lock;         /* guards catalog */
    pthread_cond_t changed;       /* with version */
    struct ap_catalog *catalog;
    _Atomic uint64_t version;     /* rises when the catalog changes */
    struct ap_metric *records, *refused;
};

void ap_control_log_init(struct ap_control_log *c, const struct ap_producer_config *config, struct ap_schemas *schemas,
                         struct ap_drift *drift, struct ap_lanes *lanes, struct ap_metrics *metrics);
/* Read every control topic that exists to its end, then follow on a thread of its own. May be called again after a
 * failure that is worth trying again. */
int ap_control_log_open(struct ap_control_log *c, int timeout_ms, struct ap_err *err);
int ap_control_log_start(struct ap_control_log *c, struct ap_err *err); /* the thread */
void ap_control_log_close(struct ap_control_log *c);

/* Look into the catalog: pointers live until unlock. Any thread. */
const struct ap_catalog *ap_control_log_lock(struct ap_control_log *c);
void ap_control_log_unlock(struct ap_control_log *c);
/* Wait until version differs from seen, or the deadline (monotonic ns). Returns the version. */
uint64_t ap_control_log_wait(struct ap_control_log *c, uint64_t seen, int64_t deadline_ns);
void ap_control_log_wake(struct ap_control_log *c);

/* Publish records, which get their version here, wait for Kafka's acknowledgement, apply them. Any thread but the
 * polling one. AP_ETIMEOUT: they may still be published. */
int ap_control_log_publish(struct ap_control_log *c, struct ap_control *records, size_t n, int64_t deadline_ns, struct ap_err *err);

#endif
