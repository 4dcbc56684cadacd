/* Hybrid logical clock (Kulkarni et al., 2014): 48 bits of milliseconds since 1970, 16 of counter, in one uint64.
 *
 * Invariant: every value returned is greater than every value returned or merged before. Thread-safe, lock-free. */
#ifndef ANTIPODE_COMMON_CLOCK_H
#define ANTIPODE_COMMON_CLOCK_H
#include <stdatomic.h>
#include <stdint.h>
#include "common/err.h"

#define AP_HLC_COUNTER_BITS 16
static inline int64_t ap_hlc_ms(uint64_t hlc) { return (int64_t)(hlc >> AP_HLC_COUNTER_BITS); }
static inline uint64_t ap_hlc_make(int64_t ms, uint16_t counter) { return ((uint64_t)ms << AP_HLC_COUNTER_BITS) | counter; }

/* The year 4199. Decoders refuse what is larger, so that merging what was decoded can never make a clock wrap. */
#define AP_HLC_MAX ((uint64_t)1 << 62)

struct ap_clock {
    _Atomic uint64_t last;   /* newest value given out or merged */
    _Atomic uint64_t heard;  /* newest value merged from others; 0 when none */
    int64_t offset_ms;       /* added to the wall clock: tests of clocks that disagree; 0 in production */
};

void ap_clock_init(struct ap_clock *clock, int64_t offset_ms);
/* Next value, at least the wall clock. When the counter overflows the ms part moves on. */
uint64_t ap_clock_next(struct ap_clock *clock);
/* A run of n consecutive values; returns the first. n from 1 to 65536. */
uint64_t ap_clock_next_n(struct ap_clock *clock, uint32_t n);
/* What we have seen: all later values are greater. */
void ap_clock_merge(struct ap_clock *clock, uint64_t hlc);
uint64_t ap_clock_last(const struct ap_clock *clock);

#endif
