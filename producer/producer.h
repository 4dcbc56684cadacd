/* The producer as a whole: its parts, and the order in which they start and stop.
 *
 * States: STARTING (Kafka is being asked; writes get 503) -> READY -> FAILED (a promise cannot be kept any more: the
 * process ends non-zero and its supervisor starts a new incarnation) or STOPPING.
 * Invariant: no write is accepted before every partition has acknowledged this incarnation's hello. */
#ifndef ANTIPODE_PRODUCER_PRODUCER_H
#define ANTIPODE_PRODUCER_PRODUCER_H
#include "common/catalog.h"
#include "producer/control_log.h"
#include "producer/drift.h"
#include "producer/lanes.h"
#include "producer/levels.h"
#include "producer/options.h"
#include "producer/pool.h"
#include "producer/spool.h"
#include "producer/targets.h"
#include "producer/trainer.h"
#include "producer/watch.h"

enum ap_producer_state { AP_PRODUCER_STARTING, AP_PRODUCER_READY, AP_PRODUCER_FAILED, AP_PRODUCER_STOPPING };

struct ap_producer {
    const struct ap_producer_config *config;
    struct ap_metrics *metrics;
    struct ap_schemas *schemas;
    struct ap_config_extra kafka;  /* config's, with ours before it */
    rd_kafka_t *rk, *raw_rk;
    struct ap_clock clock;
    struct ap_drift drift;
    struct ap_lanes lanes;
    struct ap_control_log control;
    struct ap_watch watch;
    struct ap_targets targets;
    struct ap_trainer trainer;
    struct ap_pool pool;
    struct ap_spool spool;
    uint64_t incarnation, predecessor, lineage;
    bool rejoins; /* the region was retired and comes back with us */
    _Atomic int state;
    _Atomic bool stop_starting;    /* set by whoever wants open to return */
    _Atomic bool stop, stop_polling; /* end the threads; the pollers are the last */
    struct ap_poller { struct ap_producer *producer; struct ap_lane_client *client; pthread_t thread; bool runs; } pollers[2]; /* of events, of raw vectors */
    pthread_t heart;
    bool beating;
    pthread_mutex_t ddl;           /* creations and deletions of collections, one at a time */
    pthread_mutex_t step_lock;     /* guards step */
    char step[600];                /* what starting waits for, in words */
    _Atomic uint64_t regions_seen; /* version of the catalog that the watch knows the retired regions of */
    _Atomic uint64_t operations;   /* numbers for operation_id */
    struct ap_metric *insert_latency, *ack_latency, *prepare_latency, *refused_busy, *timeouts, *bad_requests;
    struct ap_metric *wait_latency[AP_LEVELS], *waits[AP_LEVELS][2]; /* by level; waits: [0] became visible, [1] timed out */
};

/* In memory only; config and metrics are borrowed. */
int ap_producer_init(struct ap_producer *p, const struct ap_producer_config *config, struct ap_metrics *metrics, struct ap_err *err);
/* Connect, catch up, register, say hello. Waits for Kafka as long as it takes (logging why) unless stop_starting is set: then
 * returns AP_ENOTREADY. AP_FATAL errors need an operator: a topic is missing, its partitions are not the configured ones. */
int ap_producer_open(struct ap_producer *p, struct ap_err *err);
/* No new writes; requests that wait for their region to show a write are answered now. */
void ap_producer_stop(struct ap_producer *p);
/* Flush what is queued for at most timeout_ms, then end all threads and connections. Nobody may be writing. */
void ap_producer_close(struct ap_producer *p, int timeout_ms);

/* why: also when it is ready, words about a spool in use, else "". */
bool ap_producer_is_ready(struct ap_producer *p, char *why, size_t len);
/* 0, or why nothing may be stamped now, heartbeats included: a successor has registered, the region is retired, the
 * clock is ahead. */
int ap_producer_may_stamp(struct ap_producer *p, struct ap_err *err);
/* 0, or why writes are refused now: starting, failed, Kafka client broken, region read-only, clock ahead. */
int ap_producer_may_write(struct ap_producer *p, struct ap_err *err);
/* Has it failed for good? *err says how. Main loop. */
bool ap_producer_has_failed(struct ap_producer *p, struct ap_err *err);

#endif
