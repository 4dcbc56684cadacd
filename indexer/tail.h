/* The tail thread: wakes when the consumer has committed, refreshes the index, tells those who wait.
 *
 * Woken by the store's datagram, and every 100 ms in case one was lost. After each refresh the watermark publisher is
 * poked and ap_tail_wait's callers look again. An error that is not AP_RETRY stops the thread and is reported once. */
#ifndef ANTIPODE_INDEXER_TAIL_H
#define ANTIPODE_INDEXER_TAIL_H
#include "indexer/index.h"
#include "indexer/watermarks.h"

struct ap_tail;

struct ap_tail_options { /* everything is borrowed and outlives the tail */
    struct ap_store *store;
    struct ap_index *index;
    struct ap_watermarks *watermarks; /* NULL: none are published */
    struct ap_metrics *metrics;
    void (*failed)(void *arg, const struct ap_err *err); /* in the tail thread, once; then it has ended */
    void *arg;
};

int ap_tail_start(struct ap_tail **out, const struct ap_tail_options *options, struct ap_err *err);
/* Ends the thread after the refresh under way. Safe on NULL. */
void ap_tail_stop(struct ap_tail **tail);

/* Any thread. Refreshes done so far. */
uint64_t ap_tail_refreshes(struct ap_tail *tail);
/* Blocks until more than `seen` refreshes are done; false when the deadline (CLOCK_MONOTONIC ns) passed first. */
bool ap_tail_wait(struct ap_tail *tail, uint64_t seen, int64_t deadline_ns);

#endif
