/* Writes while the region's Kafka is away: kept on disk, published when it is back (key spool.dir; off without it).
 *
 * Kafka counts as away when nothing that was handed to it is acknowledged for spool.after_ms; heartbeats are handed over all the
 * time, so an idle producer notices, too. From then on writes go to the disk, and on until the spool is empty again: the
 * order of what is published is that of acceptance. A write keeps the version of the moment it was accepted; only its
 * position is given at publishing. So publishing it twice (kill -9 between Kafka's acknowledgement and the removal from disk, or a
 * write that librdkafka still held when it was spooled, too) makes the same rows, and a write that another region made
 * meanwhile, later, still wins.
 *
 * States: OFF; IDLE (writes go to Kafka) -> SPOOLING (Kafka is away) -> DRAINING (it is back; new writes go behind the
 * rest) -> IDLE. Before IDLE new writes wait for the moment that the last ones need: else it might never come.
 * Invariant: a spooled write is not removed from disk before Kafka has acknowledged it. */
#ifndef ANTIPODE_PRODUCER_SPOOL_H
#define ANTIPODE_PRODUCER_SPOOL_H
#include "producer/drift.h"
#include "producer/lanes.h"
#include "producer/options.h"
#include "producer/spool_file.h"

enum ap_spool_state { AP_SPOOL_OFF, AP_SPOOL_IDLE, AP_SPOOL_SPOOLING, AP_SPOOL_DRAINING, AP_SPOOL_STATES };

struct ap_spool {
    const struct ap_producer_config *config;
    struct ap_lanes *lanes;
    struct ap_spool_file *file; /* NULL: off */
    int (*may_stamp)(void *arg, struct ap_err *err); /* before publishing; not 0: wait */
    void *arg;
    pthread_t drainer;
    bool running;
    _Atomic bool stop;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool active;    /* new writes go to disk */
    bool closing;   /* and wait, because it is about to be empty */
    size_t writers; /* appending just now */
    char trouble[sizeof((struct ap_err *)0)->msg]; /* why draining does not go on; "" */
    unsigned long long crash_after; /* 0: never */
    struct ap_metric *spooled, *drained, *refused;
};
void ap_spool_init(struct ap_spool *s, const struct ap_producer_config *config, struct ap_lanes *lanes, struct ap_metrics *metrics);
/* What an earlier life left is found here, and its clock merged. Before the first stamp. AP_FATAL as ap_spool_file_open. */
int ap_spool_open(struct ap_spool *s, struct ap_clock *clock, struct ap_err *err);
/* The thread that publishes; once the incarnation has said hello. */
int ap_spool_start(struct ap_spool *s, int (*may_stamp)(void *arg, struct ap_err *err), void *arg, struct ap_err *err);
void ap_spool_stop(struct ap_spool *s); /* the thread; writes may still come, and are kept */
void ap_spool_close(struct ap_spool *s);

/* How long Kafka has acknowledged nothing although something waits for it, in ms; 0: not longer than usual. Any thread. */
int64_t ap_spool_away_ms(struct ap_spool *s);
bool ap_spool_is_on(const struct ap_spool *s);
/* Do writes go to disk? Any thread. */
bool ap_spool_is_active(struct ap_spool *s);

/* Keep a write on disk, if it has to be. hlcs: of records already handed to Kafka, 0 for those that were not; NULL: none was.
 * 1: it is on disk. 0: publish it, Kafka is there. AP_EBUSY: the spool is full; AP_ENOTREADY: its disk fails; AP_ETIMEOUT.
 * Records must have passed ap_lanes_check. Any thread. */
int ap_spool_write(struct ap_spool *s, const struct ap_topic *topic, const struct ap_record *records, size_t n, const uint64_t *hlcs,
                   int64_t deadline_ns, struct ap_err *err);

size_t ap_spool_writes(struct ap_spool *s); /* on disk and not in Kafka; any thread */
/* For health: state, and words about it ("" when idle or off). */
enum ap_spool_state ap_spool_state(struct ap_spool *s, char *words, size_t len);
void ap_spool_collect(struct ap_spool *s, struct ap_metrics_out *out);

#endif
