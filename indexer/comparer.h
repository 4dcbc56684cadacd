/* The background compare: now and then, does each other region hold the same rows as this one?
 *
 * For every collection another region's indexer is asked for its sums of buckets (64 KiB); ours are next to us. A bucket that
 * differs may only have a write under way, so it counts when it differs in two rounds, and neither side has changed it
 * in between. What is found is shown and left to `antipode verify`, which looks row by row. One thread, which sleeps most of the time;
 * a region that does not answer, or is retired, costs nothing but that. */
#ifndef ANTIPODE_INDEXER_COMPARER_H
#define ANTIPODE_INDEXER_COMPARER_H
#include "common/metrics.h"
#include "indexer/index.h"
#include "indexer/peers.h"

struct ap_comparer;

/* peers: the indexers to ask, own region first; those without an address are not asked. Borrowed, like index, for its life. AP_ENOMEM. */
int ap_comparer_start(struct ap_comparer **out, const struct ap_peers *peers, int64_t interval_s, struct ap_index *index, struct ap_store *store,
                      struct ap_metrics *metrics, struct ap_err *err);
void ap_comparer_stop(struct ap_comparer **comparer); /* safe on NULL */

#endif
