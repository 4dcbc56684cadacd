/* Held events: records whose clock is further ahead of ours than clock.max_drift_ms wait in the store, with the offset that
 * has passed them, until their time comes; then they are applied as if they came now.
 *
 * Their positions are not noted before that. So nothing claims that they were applied: the mark of their stream stays below
 * them, and watermarks, tokens and the collection of tombstones with it. Their numbers would show as holes, once later ones
 * of the stream are applied; the count of missing records leaves them out. The same record delivered again is recognised
 * by what is held. The table is bounded: when it is full the partition waits at the record, and says so.
 * Owned by the apply thread, inside a batch. */
#ifndef ANTIPODE_CONSUMER_HELD_H
#define ANTIPODE_CONSUMER_HELD_H
#include "consumer/batch.h"

/* Is this record's clock too far ahead to be applied now? */
bool ap_held_too_early(const struct ap_batch *b, const struct ap_mutation *m);
/* Hold a record that is too early and is no duplicate. *full: there is no room; nothing was done. */
int ap_held_put(struct ap_batch *b, const struct ap_part *part, const struct ap_record *record, const struct ap_mutation *m, bool *full, struct ap_err *err);
/* Some of them may be applied now. */
bool ap_held_due(const struct ap_batch *b);
/* Hand those whose time has come to apply, at most a batch's worth. */
int ap_held_release(struct ap_batch *b, int (*apply)(struct ap_batch *b, struct ap_part *part, const struct ap_record *record, struct ap_err *err), struct ap_err *err);

/* What is held, by origin: how many records, how many of them show as holes, and the least version of all (AP_HLC_MAX: none).
 * Reads them all: for once a second. */
struct ap_held_census { uint64_t records[AP_CONSUMER_REGIONS_MAX], in_holes[AP_CONSUMER_REGIONS_MAX], oldest_hlc; };
int ap_held_count(struct ap_writer *writer, const struct ap_consumer_settings *settings, struct ap_held_census *out, struct ap_err *err);

#endif
