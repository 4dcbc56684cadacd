/* What the daemon says of itself: /readyz, /metrics.
 *
 * The apply thread publishes a copy of where it stands a few times a second; scrapes read that copy, and Kafka's own
 * numbers, and the clock. So lag is computed when it is asked for: it grows when a link, a mirror, a partition or the
 * apply thread hangs, and nothing has to notice that first.
 * Any thread may call the functions that say nothing else. */
#ifndef ANTIPODE_CONSUMER_STATUS_H
#define ANTIPODE_CONSUMER_STATUS_H
#include "common/metrics.h"
#include "common/store.h"
#include "consumer/held.h"
#include "consumer/scout.h"
#include "consumer/sources.h"

struct ap_status;

/* Registers its collector with metrics; both must live until the last scrape. settings is borrowed. */
struct ap_status *ap_status_new(const struct ap_consumer_settings *settings, struct ap_metrics *metrics);
void ap_status_free(struct ap_status **status);

/* What the daemon does before it reads Kafka ("the store is being read"). text is a literal. */
void ap_status_phase(struct ap_status *status, const char *text);
/* Sources of live numbers for scrapes, borrowed until they are taken away with NULLs. */
void ap_status_attach(struct ap_status *status, rd_kafka_t *rk, struct ap_store *store, struct ap_scout *scout);
/* Apply thread: copy where everything stands. */
void ap_status_publish(struct ap_status *status, const struct ap_sources *sources, const struct ap_positions *positions, uint64_t next_slot);

/* Apply thread: how many records of each origin this region waits for no longer, and which origins are retired: those have no lag,
 * and nobody waits for their topics. */
void ap_status_given_up(struct ap_status *status, const uint64_t lost[AP_CONSUMER_REGIONS_MAX], const bool retired[AP_CONSUMER_REGIONS_MAX]);

/* Apply thread: how many of the missing records are held, and so not missing. */
void ap_status_held(struct ap_status *status, const struct ap_held_census *held);

/* For /readyz: every topic is there, nothing is held, and all that was in Kafka when we began is in the store. */
bool ap_status_ready(void *status, char *why, size_t why_len);

#endif
