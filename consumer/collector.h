/* The collector: applies the rule of tombstones to this store. Once a second it compares what the lookout found with where
 * the store stands, and says in the store what is settled here; with every batch it lets go of what may go.
 *
 * Owned by the apply thread; scrapes read a copy. */
#ifndef ANTIPODE_CONSUMER_COLLECTOR_H
#define ANTIPODE_CONSUMER_COLLECTOR_H
#include "consumer/batch.h"
#include "consumer/held.h"
#include "consumer/lookout.h"
#include "consumer/rule.h"

struct ap_collector;

/* Everything is borrowed. Its counters are registered at once. */
int ap_collector_new(struct ap_collector **out, struct ap_batch *batch, struct ap_lookout *lookout, struct ap_metrics *metrics, struct ap_err *err);
void ap_collector_free(struct ap_collector **c); /* the lookout has been stopped */
/* Outside of a batch, about once a second. */
int ap_collector_second(struct ap_collector *c, struct ap_err *err);
/* There is something to do in a batch, though no record has come. */
bool ap_collector_due(const struct ap_collector *c);
/* Inside a batch, before its records: what is settled here. */
int ap_collector_say(struct ap_collector *c, struct ap_err *err);
/* Inside a batch, after its records: go on collecting what the indexer has seen. */
int ap_collector_collect(struct ap_collector *c, uint64_t seen, size_t max_rows, struct ap_err *err);
const struct ap_held_census *ap_collector_held(const struct ap_collector *c); /* as of the last second */

#endif
