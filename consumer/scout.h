/* The scout: a thread that asks Kafka about topics, so that the apply thread never waits for an answer.
 *
 * It looks for topics that are missing each second and checks the known ones every few seconds: are they still there,
 * under the same id, with as many partitions? What has changed it reports, once, with the offsets of the topic's ends
 * at that time. A topic is reported only when all of that is known. */
#ifndef ANTIPODE_CONSUMER_SCOUT_H
#define ANTIPODE_CONSUMER_SCOUT_H
#include "consumer/sources.h"

struct ap_scout;

#define AP_CLUSTER_ID_MAX 64

/* Starts the thread. rk and the sources' names are borrowed until ap_scout_stop. */
int ap_scout_start(struct ap_scout **out, rd_kafka_t *rk, const struct ap_sources *sources, struct ap_err *err);
/* Apply thread: the next thing found; false when there is none. Release it with ap_found_fini. */
bool ap_scout_take(struct ap_scout *scout, struct ap_found *out);
void ap_found_fini(struct ap_found *found);
/* Any thread: this source may have gone or changed; look at it now. */
void ap_scout_doubt(struct ap_scout *scout, size_t index);
/* Any thread: the cluster's id; false, and "" in out, until Kafka has answered once. It is known before anything is
 * found. */
bool ap_scout_cluster(struct ap_scout *scout, char out[AP_CLUSTER_ID_MAX]);
/* Any thread: why the scout cannot see ("" when it can). */
void ap_scout_trouble(struct ap_scout *scout, char *out, size_t cap);
/* Joins the thread: at most the time of one request to Kafka. NULLs *scout. */
void ap_scout_stop(struct ap_scout **scout);

#endif
