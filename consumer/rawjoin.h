/* The raw join: full-precision vectors meet the rows of their mutations.
 *
 * raw-vectors and the mutations have the same partitions and, per stream, the same order, so this is a merge join: a raw
 * vector whose mutation has been applied is stored with the row, if the row is still of that version; one that is ahead
 * of its mutation waits in the queue of its partition (the message itself waits, nothing is copied). One whose mutation
 * was lost (a later record of its stream has been applied) is dropped, and so is one that has waited raw.wait_ms while
 * the mutations were at their end: nothing that never comes can stop the rest.
 * Owned by the apply thread. */
#ifndef ANTIPODE_CONSUMER_RAWJOIN_H
#define ANTIPODE_CONSUMER_RAWJOIN_H
#include "common/store.h"
#include "consumer/registry.h"
#include "consumer/sources.h"
#include "consumer/tally.h"

struct ap_raw_join {
    const struct ap_consumer_settings *settings;
    struct ap_writer *writer;
    struct ap_registry *registry;
    struct ap_tallies *tallies;
    struct ap_buf scratch;
};

enum ap_raw_verdict {
    AP_RAW_DONE,  /* stored or dropped; the caller destroys the message */
    AP_RAW_KEPT,  /* waits: the queue owns the message now */
    AP_RAW_FULL,  /* no room: read it again later */
};

/* A raw vector has come. Inside a batch of the writer. *verdict is set when it returns 0. AP_ESCHEMA and POISON errors are
 * about this record, all others are fatal. */
int ap_raw_offer(struct ap_raw_join *join, struct ap_part *part, rd_kafka_message_t *message, int64_t now_ms,
                 enum ap_raw_verdict *verdict, struct ap_err *err);
/* Join what can be joined now. mutations_behind: the partition of the mutations is not at its end (or is on hold), so
 * waiting is not in vain. Inside a batch. */
int ap_raw_settle(struct ap_raw_join *join, struct ap_part *part, bool mutations_behind, int64_t now_ms, struct ap_err *err);
/* True when a call of ap_raw_settle would find somebody whose time has run out. */
bool ap_raw_overdue(const struct ap_raw_join *join, const struct ap_part *part, int64_t now_ms);

#endif
