/* How far may the clock go: what others' clocks say, and the bound on being ahead of them.
 *
 * A hybrid clock follows whoever is furthest ahead. So a value from far in the future is not merged (it would drag this
 * region along), and a producer that is itself ahead of what its region's indexer says does not stamp. What we hear is
 * the wall clock in the watermarks, as an offset to our monotonic clock, the largest of the last windows: delay only ever
 * makes it smaller. Without a fresh watermark of the own region nobody contradicts us. Any thread. */
#ifndef ANTIPODE_PRODUCER_DRIFT_H
#define ANTIPODE_PRODUCER_DRIFT_H
#include <stdbool.h>
#include "common/clock.h"
#include "common/metrics.h"

struct ap_drift {
    struct ap_clock *clock;
    int64_t max_ms;
    _Atomic int64_t heard_offset[2]; /* ms, others' wall minus our monotonic: of the last window, of this one */
    _Atomic int64_t window_ms;       /* monotonic begin of this one */
    _Atomic int64_t home_ms;         /* monotonic time of the own region's last watermark; 0: none */
    struct ap_metric *refused;
};
void ap_drift_init(struct ap_drift *d, struct ap_clock *clock, int64_t max_ms, struct ap_metrics *metrics);
/* A watermark arrived just now that was sent at sent_ms (wall clock of its sender). */
void ap_drift_heard(struct ap_drift *d, int64_t sent_ms, bool own_region);
/* Merge what was seen, unless it is over the bound: then AP_ECONFLICT, and nothing is merged. */
int ap_drift_merge(struct ap_drift *d, uint64_t hlc, struct ap_err *err);
/* May we stamp now? AP_ENOTREADY (RETRY): the clock is too far ahead. */
int ap_drift_check(struct ap_drift *d, struct ap_err *err);
/* ms that the clock is ahead of what is heard; negative: behind. 0 when nothing was heard. */
int64_t ap_drift_ahead_ms(struct ap_drift *d);

#endif
