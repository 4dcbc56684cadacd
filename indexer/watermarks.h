/* Publishes this region's watermark: the positions that its index has made visible, as a record of vec-watermarks.
 *
 * When they changed: at once if the last record is older than the interval, else when the interval has passed; where rows came and
 * not only heartbeats, the busy interval counts, since writes may wait for this in other regions. And once a second when
 * nothing changed, so that silence means trouble. At most one record is under way: while Kafka is away
 * none pile up, and the newest positions go out when it is back. Nobody waits for this thread. */
#ifndef ANTIPODE_INDEXER_WATERMARKS_H
#define ANTIPODE_INDEXER_WATERMARKS_H
#include "common/config.h"
#include "common/metrics.h"
#include "common/schema.h"
#include "indexer/index.h"

struct ap_watermarks;

struct ap_watermarks_options { /* everything is borrowed and outlives the publisher */
    struct ap_region region;
    int64_t interval_ms;
    int64_t busy_interval_ms;    /* 0, or more than interval_ms: as interval_ms */
    const struct ap_config_extra *kafka;
    const struct ap_schemas *schemas;
    struct ap_index *index;
    struct ap_metrics *metrics;
};

/* AP_EINVAL for properties that the Kafka client refuses; a Kafka that does not answer is no error. */
int ap_watermarks_start(struct ap_watermarks **out, const struct ap_watermarks_options *options, struct ap_err *err);
/* Ends the thread; a record under way has a second to be delivered. Safe on NULL. */
void ap_watermarks_stop(struct ap_watermarks **w);
/* Positions may have changed; rows: and with them what reads find. Any thread; does not block. */
void ap_watermarks_poke(struct ap_watermarks *w, bool rows);

#endif
