/* Hybrid logical clock: one word, moved forward by compare-and-swap. Nothing here can fail.
 *
 * The physical and the logical part share the word, so "last + 1" is the logical step and its carry out of the counter
 * moves the ms part on: the clock then runs ahead of the wall by as much as was stamped faster than 65,536 a ms. */
#include "common/clock.h"
#include <assert.h>
#include "common/timeutil.h"

void ap_clock_init(struct ap_clock *clock, int64_t offset_ms)
{
    atomic_init(&clock->last, 0);
    atomic_init(&clock->heard, 0);
    clock->offset_ms = offset_ms;
}

uint64_t ap_clock_next(struct ap_clock *clock)
{
    return ap_clock_next_n(clock, 1);
}

uint64_t ap_clock_next_n(struct ap_clock *clock, uint32_t n)
{
    assert(n >= 1 && n <= 65536);
    int64_t ms = ap_wall_ms() + clock->offset_ms;
    uint64_t wall = ap_hlc_make(ms > 0 ? ms : 0, 0);
    uint64_t last = atomic_load_explicit(&clock->last, memory_order_relaxed);
    uint64_t first;
    do {
        assert(last <= UINT64_MAX - 65536); /* see AP_HLC_MAX */
        first = last + 1 > wall ? last + 1 : wall;
    } while (!atomic_compare_exchange_weak(&clock->last, &last, first + n - 1));
    return first;
}

static void raise_to(_Atomic uint64_t *word, uint64_t value)
{
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    while (seen < value && !atomic_compare_exchange_weak(word, &seen, value))
        ;
}

void ap_clock_merge(struct ap_clock *clock, uint64_t hlc)
{
    raise_to(&clock->last, hlc);
    raise_to(&clock->heard, hlc);
}

uint64_t ap_clock_last(const struct ap_clock *clock)
{
    return atomic_load(&clock->last);
}
