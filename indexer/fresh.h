/* How new is what is visible here? Asked of every region's producer, with barriers.
 *
 * A producer answers a barrier with positions that stand behind all that its region's Kafka had acknowledged when it was
 * asked. Once they are visible here, so is every write that was acknowledged in that region before the asking: by our own
 * clock, and nobody else's. Each region has a line, a thread that asks one barrier after the other while anyone wants one;
 * all reads that wait share them, and the last ones that were answered are kept.
 * Invariant: a barrier counts as begun before its request is sent. */
#ifndef ANTIPODE_INDEXER_FRESH_H
#define ANTIPODE_INDEXER_FRESH_H
#include "common/metrics.h"
#include "indexer/index.h"
#include "indexer/peers.h"

struct ap_fresh;

/* peers is borrowed for its life. */
int ap_fresh_start(struct ap_fresh **out, const struct ap_peers *peers, struct ap_metrics *metrics, struct ap_err *err);
/* Ends the threads; nobody may be waiting. Safe on NULL. */
void ap_fresh_stop(struct ap_fresh **fresh);

/* Blocks until all that any region, but for retired ones, acknowledged before since_ns (CLOCK_MONOTONIC) is visible in index. ahead: also have the
 * next barriers asked already when the ones at hand will not do for much longer, for reads that come again.
 * AP_ENOTREADY (RETRY), naming the region: its producer does not answer, or its writes are not visible here, by
 * deadline_ns. AP_EUNSUPPORTED: the configuration names no producer for some region. Any thread. */
int ap_fresh_wait(struct ap_fresh *fresh, struct ap_index *index, int64_t since_ns, bool ahead, int64_t deadline_ns, struct ap_err *err);

#endif
