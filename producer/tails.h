/* Where the predecessors of this incarnation ended: the last record of their lineage in each partition.
 *
 * Read backwards from the end of the log, in steps that grow: a predecessor that was alive wrote a heartbeat within the
 * last second of its life, so the first step nearly always has it. Every clock met on the way is reported, too. */
#ifndef ANTIPODE_PRODUCER_TAILS_H
#define ANTIPODE_PRODUCER_TAILS_H
#include "common/event.h"
#include "common/kafka.h"

struct ap_tails_query {
    const struct ap_config_extra *extra;
    const char *client_id;
    char *const *topics; size_t topic_count;
    int32_t partitions;
    const struct ap_schemas *schemas;
    bool (*is_ours)(void *arg, uint64_t stream); /* a member of the lineage? NULL: there is none, only clocks are read */
    void *arg;
    int64_t not_before_ms; /* no member has written before this time (Kafka's timestamp): stop looking there */
};
struct ap_tail { uint64_t stream, ended; }; /* both 0: no member wrote here */

/* tails: topic_count * partitions, topic by topic. *newest_hlc is raised. Blocks; AP_ETIMEOUT, AP_ENOTREADY (RETRY). */
int ap_tails_read(const struct ap_tails_query *q, int timeout_ms, struct ap_tail *tails, uint64_t *newest_hlc, struct ap_err *err);

#endif
