/* Dead letters: records that cannot be applied, set aside in dlq-mutations with the reason.
 *
 * Key and value are those of the record. Headers, all text: reason, code (err.h's word for it), origin (region), topic
 * (as called at the origin), partition, offset (in this region's copy of the topic), time (RFC 3339, when it was set
 * aside). A value that the broker refuses as too large is cut; then the header value-bytes has its true length.
 * Invariant: after ap_dead_flush returned 0, Kafka has every letter sent before. A letter may be there twice, when the
 * consumer is killed after that and before its commit: topic, partition and offset tell.
 * Owned by the apply thread. */
#ifndef ANTIPODE_CONSUMER_DEAD_H
#define ANTIPODE_CONSUMER_DEAD_H
#include <stdatomic.h>
#include "common/kafka.h"
#include "consumer/sources.h"

struct ap_dead;

int ap_dead_new(struct ap_dead **out, const struct ap_config_extra *extra, const char *client_id, struct ap_err *err);
void ap_dead_free(struct ap_dead **dead);

/* Queue a letter (a copy is made). why: code and message say the reason. */
int ap_dead_send(struct ap_dead *dead, const struct ap_part *part, const struct ap_record *record, const struct ap_err *why, struct ap_err *err);
/* Wait until Kafka has them all, trying again whatever fails. AP_ETIMEOUT when *stop became true and a few seconds
 * more did not help: then the batch must not be committed. */
int ap_dead_flush(struct ap_dead *dead, const atomic_bool *stop, struct ap_err *err);

#endif
