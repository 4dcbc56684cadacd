/* Drift. Races between windows lose at most a sample. Fails only by refusing. */
#include "producer/drift.h"
#include <inttypes.h>
#include "common/timeutil.h"

#define WINDOW_MS 600000
#define NONE INT64_MIN

void ap_drift_init(struct ap_drift *d, struct ap_clock *clock, int64_t max_ms, struct ap_metrics *metrics)
{
    *d = (struct ap_drift){.clock = clock, .max_ms = max_ms};
    atomic_init(&d->heard_offset[0], NONE);
    atomic_init(&d->heard_offset[1], NONE);
    d->refused = ap_counter(metrics, "antipode_producer_clock_refused_total", NULL, "Clock values from others that were too far ahead to be merged.");
}

void ap_drift_heard(struct ap_drift *d, int64_t sent_ms, bool own_region)
{
    int64_t now = ap_mono_ms(), offset = sent_ms - now;
    if (own_region)
        atomic_store(&d->home_ms, now);
    if (now - atomic_load(&d->window_ms) > WINDOW_MS) {
        atomic_store(&d->heard_offset[0], atomic_exchange(&d->heard_offset[1], NONE));
        atomic_store(&d->window_ms, now);
    }
    int64_t best = atomic_load(&d->heard_offset[1]);
    while (offset > best && !atomic_compare_exchange_weak(&d->heard_offset[1], &best, offset))
        ;
}

/* The time it is, as far as others tell; our own wall clock when they do not. */
static int64_t reference_ms(struct ap_drift *d, bool *heard)
{
    int64_t now = ap_mono_ms(), home = atomic_load(&d->home_ms);
    int64_t a = atomic_load(&d->heard_offset[0]), b = atomic_load(&d->heard_offset[1]), best = a > b ? a : b;
    *heard = home && now - home < WINDOW_MS && best != NONE;
    return *heard ? now + best : ap_wall_ms();
}

static int64_t own_ms(struct ap_drift *d)
{
    int64_t wall = ap_wall_ms() + d->clock->offset_ms, last = ap_hlc_ms(ap_clock_last(d->clock));
    return wall > last ? wall : last;
}

int ap_drift_merge(struct ap_drift *d, uint64_t hlc, struct ap_err *err)
{
    bool heard;
    int64_t ms = ap_hlc_ms(hlc), reference = reference_ms(d, &heard), wall = ap_wall_ms() + d->clock->offset_ms;
    if (wall > reference)
        reference = wall; /* what is not ahead of ourselves cannot drag us */
    if (ms - reference > d->max_ms) {
        ap_count(d->refused, 1);
        return ap_err_set(err, AP_ECONFLICT, AP_RETRY, "a clock value is %" PRId64 " ms ahead of this region, more than clock.max_drift_ms (%" PRId64 ") allows",
                          ms - reference, d->max_ms);
    }
    ap_clock_merge(d->clock, hlc);
    return 0;
}

int ap_drift_check(struct ap_drift *d, struct ap_err *err)
{
    bool heard;
    int64_t reference = reference_ms(d, &heard), ahead = own_ms(d) - reference;
    if (ahead <= d->max_ms)
        return 0;
    return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "this producer's clock is %" PRId64 " ms ahead of %s, more than clock.max_drift_ms (%" PRId64 ") allows: it does not stamp until that is over; check the time of this machine",
                      ahead, heard ? "what its region's watermarks say" : "its own machine", d->max_ms);
}

int64_t ap_drift_ahead_ms(struct ap_drift *d)
{
    bool heard;
    int64_t reference = reference_ms(d, &heard);
    return heard ? own_ms(d) - reference : 0;
}
