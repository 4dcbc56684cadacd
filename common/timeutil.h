/* Time. Wall clock in ms for versions and lag; monotonic in ns for durations and deadlines. */
#ifndef ANTIPODE_COMMON_TIMEUTIL_H
#define ANTIPODE_COMMON_TIMEUTIL_H
#include <stdint.h>
#include <time.h>

static inline int64_t ap_mono_ns(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec; }
static inline int64_t ap_mono_ms(void) { return ap_mono_ns() / 1000000; }
static inline int64_t ap_wall_ms(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000; }
static inline int64_t ap_wall_us(void) { struct timespec t; clock_gettime(CLOCK_REALTIME, &t); return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000; }

#endif
