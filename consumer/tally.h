/* What happened to records, counted by origin: gathered without atomics while a batch is applied, and added to the
 * metrics once the batch is committed, so that nothing is counted that did not happen. */
#ifndef ANTIPODE_CONSUMER_TALLY_H
#define ANTIPODE_CONSUMER_TALLY_H
#include "common/metrics.h"
#include "consumer/settings.h"

enum ap_tally_kind {
    AP_TALLY_APPLIED,      /* mutations merged into their rows */
    AP_TALLY_UNCHANGED,    /* of these: older than the row, which stayed as it was */
    AP_TALLY_LATE,         /* of these and the heartbeats: came inside a hole */
    AP_TALLY_HEARTBEATS,
    AP_TALLY_DUPLICATES,   /* at a position that was already applied: skipped */
    AP_TALLY_DEAD,         /* set aside in dlq-mutations */
    AP_TALLY_DELETED,      /* of a deleted collection: noted, not stored */
    AP_TALLY_UNREGISTERED, /* of a stream nobody registered to this origin; applied all the same */
    AP_TALLY_RETIRED,      /* of a retired incarnation, beyond its cut: not applied; those that are no heartbeats are set aside */
    AP_TALLY_DRIFT,        /* clock too far ahead of ours: held */
    AP_TALLY_RELEASED,     /* of these: their time has come */
    AP_TALLY_RAW_MATCHED,
    AP_TALLY_RAW_DROPPED,  /* raw vectors of rows that had already moved on, or of mutations that were lost */
    AP_TALLY_RAW_EXPIRED,  /* of these: waited raw.wait_ms in vain */
    AP_TALLY_CONTROL,      /* control records read */
    AP_TALLY_CONTROL_REFUSED,
    AP_TALLY_KINDS
};

struct ap_tallies {
    size_t origins;
    uint64_t pending[AP_CONSUMER_REGIONS_MAX][AP_TALLY_KINDS];
    struct ap_metric *counters[AP_CONSUMER_REGIONS_MAX][AP_TALLY_KINDS];
};

/* Registers all counters of all regions, so that each is there, with 0, from the start. */
void ap_tallies_init(struct ap_tallies *t, const struct ap_consumer_settings *settings, struct ap_metrics *metrics);
static inline void ap_tally(struct ap_tallies *t, size_t origin, enum ap_tally_kind kind) { t->pending[origin][kind]++; }
void ap_tallies_flush(struct ap_tallies *t);

#endif
