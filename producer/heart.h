/* Heartbeats: a partition idle for 100 ms gets one, after 10 s without data one a second.
 *
 * They carry the clock, so that lag is measured where nothing is written, and "nothing new" can be told from "stuck". */
#ifndef ANTIPODE_PRODUCER_HEART_H
#define ANTIPODE_PRODUCER_HEART_H
#include "producer/producer.h"

#define AP_HEART_BUSY_MS 100
#define AP_HEART_IDLE_MS 1000
#define AP_HEART_IDLE_AFTER_MS 10000

/* Sends what is due at now_ms (monotonic); returns when to come again. Nothing is sent while nothing may be stamped (drift,
 * a successor); a read-only region beats on. */
int64_t ap_heart_beat(struct ap_producer *p, int64_t now_ms);
/* Thread body; arg is the producer. Ends when it stops. */
void *ap_heart_run(void *arg);

#endif
