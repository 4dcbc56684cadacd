/* A batch: what is there to read, applied to the store in one transaction.
 *
 * Gathered without waiting for more than the first record, so a record that comes alone is committed at once, and under
 * load a batch grows to what came while the last one was committed. Rows, positions, offsets and control records of a
 * batch are committed together; before that, its dead letters are in Kafka.
 * Owned by the apply thread. Errors that its functions return are fatal: nothing of the batch is in the store then. */
#ifndef ANTIPODE_CONSUMER_BATCH_H
#define ANTIPODE_CONSUMER_BATCH_H
#include "common/store.h"
#include "consumer/dead.h"
#include "consumer/rawjoin.h"
#include "consumer/registry.h"
#include "consumer/scout.h"
#include "consumer/sources.h"
#include "consumer/tally.h"

struct ap_batch {
    /* Borrowed; set before ap_batch_init. */
    const struct ap_consumer_settings *settings;
    struct ap_writer *writer;
    struct ap_registry *registry;
    struct ap_sources *sources;
    struct ap_scout *scout;
    struct ap_dead *dead;
    struct ap_tallies *tallies;
    struct ap_raw_join *join;
    bool replays; /* what positions call duplicates is merged in once more (common/replay.h) */

    /* Gathered. */
    rd_kafka_message_t **messages; /* cap of them; NULL when somebody else owns it now */
    struct ap_part **parts;        /* of each message */
    size_t count, cap, bytes;

    /* While applying. */
    int64_t now_ms, mono_ms;
    struct ap_buf scratch;
    uint64_t oldest_clock[AP_CONSUMER_REGIONS_MAX]; /* of the mutations applied in this batch; 0: none */
    size_t kept; /* raw vectors that wait */
    uint64_t letters_hlc; /* the least version among the mutations set aside since somebody reset it to AP_HLC_MAX */
};

void ap_batch_init(struct ap_batch *b); /* aborts when out of memory: start-up */
void ap_batch_fini(struct ap_batch *b);

/* Wait for a first record, timeout_ms at most, then take what else is there. Errors of partitions are dealt with here. */
int ap_batch_gather(struct ap_batch *b, rd_kafka_queue_t *queue, int timeout_ms, struct ap_err *err);
/* Apply what was gathered. Inside a batch of the writer. */
int ap_batch_apply(struct ap_batch *b, struct ap_err *err);
/* Write the offsets of the partitions that were touched. Inside a batch of the writer. */
int ap_batch_put_offsets(struct ap_batch *b, const char *cluster, struct ap_err *err);
/* Release the messages. */
void ap_batch_clear(struct ap_batch *b);

#endif
