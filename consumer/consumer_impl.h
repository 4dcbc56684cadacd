/* What the files of the consumer's loop share. Not for others.
 *
 * consumer.c         opening, closing, a batch, the loop
 * consumer_topics.c  topics appear: where the store stands in them, when they may be read
 * replay.c           offsets set back, where a rebuild reads again
 * consumer_chores.c  what is done a few times a second: holds, offsets for Kafka, strangers, memory, status */
#ifndef ANTIPODE_CONSUMER_CONSUMER_IMPL_H
#define ANTIPODE_CONSUMER_CONSUMER_IMPL_H
#include "common/log.h"
#include "common/replay.h"
#include "consumer/batch.h"
#include "consumer/collector.h"
#include "consumer/consumer.h"

#define AP_BUSY_BYTES 16384 /* a batch of more is a load; heartbeats are not */

struct ap_consumer {
    const struct ap_consumer_settings *settings;
    struct ap_status *status;
    struct ap_registry *registry;
    struct ap_store *store;
    struct ap_writer *writer;
    rd_kafka_t *rk;
    rd_kafka_queue_t *queue;
    struct ap_sources sources;
    struct ap_scout *scout;
    struct ap_dead *dead;
    struct ap_tallies tallies;
    struct ap_raw_join join;
    struct ap_batch batch;
    struct ap_lookout *lookout;
    struct ap_collector *collector;
    char cluster[AP_CLUSTER_ID_MAX];
    atomic_bool stop;

    uint64_t commits, crash_after; /* crash_after 0: never */
    int64_t committed_ns;          /* when the last commit was done */
    bool last_full;                /* ... and whether it was of a load, which needs no pacing */
    uint64_t lost[AP_CONSUMER_REGIONS_MAX]; /* records this region has given up, by origin */
    uint64_t built_under;          /* the region's incarnation that this store is of; 0: not known yet */
    bool dirty;                    /* the cleaner may have something to do */
    uint64_t seen;                 /* as the indexer last said */
    int64_t publish_at_ms, second_at_ms;
    size_t bytes_since_trim;       /* read from Kafka */
    bool busy;                     /* had records since the last second */
    struct ap_replay *replay;      /* of a store that is being rebuilt, from some point of the logs on; NULL: none */
    bool handover;                 /* somebody wants to exchange the store: let go of it */

    struct ap_metric *commit_seconds, *batch_seconds, *batch_records, *batches, *cleaned;
    struct ap_metric *delay_seconds[AP_CONSUMER_REGIONS_MAX];
    struct ap_log_limit stranger_limit;
};

/* consumer_topics.c */
int ap_consumer_take_findings(struct ap_consumer *c, struct ap_err *err);
int ap_consumer_assign(struct ap_consumer *c, struct ap_err *err); /* the topics whose time has come */

/* consumer_chores.c */
int ap_consumer_chores(struct ap_consumer *c, struct ap_err *err);
void ap_consumer_give_up(struct ap_consumer *c); /* what the control records say is over, brought to positions and status */
void ap_consumer_announce_last(struct ap_consumer *c); /* commit offsets to Kafka, and wait a little for the answer */

#endif
