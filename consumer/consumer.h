/* The consumer: one thread that moves records from Kafka into the store, and its helpers.
 *
 * Exactly once: a batch's rows, positions and Kafka offsets are one transaction, and positions recognise what is
 * delivered again. Offsets are committed to Kafka too, later and without waiting, for the usual lag tools alone. */
#ifndef ANTIPODE_CONSUMER_CONSUMER_H
#define ANTIPODE_CONSUMER_CONSUMER_H
#include "common/metrics.h"
#include "consumer/settings.h"
#include "consumer/status.h"

struct ap_consumer;

/* Opens the store (which reads all of it once) and the clients of Kafka. Everything passed is borrowed for its life. */
int ap_consumer_new(struct ap_consumer **out, const struct ap_consumer_settings *settings, const struct ap_config_extra *extra,
                    struct ap_metrics *metrics, struct ap_status *status, struct ap_err *err);
/* Runs until ap_consumer_stop (0), until somebody wants to exchange the store (0; common/handover.h), or until something
 * fails that must not be passed over. */
int ap_consumer_run(struct ap_consumer *c, struct ap_err *err);
/* After it has returned 0: the store is to be exchanged; free this, wait, and begin anew. */
bool ap_consumer_handover(const struct ap_consumer *c);
/* Any thread: finish the batch and return from ap_consumer_run. */
void ap_consumer_stop(struct ap_consumer *c);
/* After the last scrape that could see it. */
void ap_consumer_free(struct ap_consumer **c);

#endif
