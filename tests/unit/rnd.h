/* Random numbers for tests: seeded from the clock, or from ANTIPODE_SEED to repeat a run; the seed is printed. */
#ifndef ANTIPODE_TESTS_RND_H
#define ANTIPODE_TESTS_RND_H
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/timeutil.h"

static uint64_t rnd_state;

static inline void rnd_seed(const char *what)
{
    const char *given = getenv("ANTIPODE_SEED");
    rnd_state = given ? strtoull(given, NULL, 0) : (uint64_t)ap_mono_ns();
    printf("%s: ANTIPODE_SEED=%llu\n", what, (unsigned long long)rnd_state);
    fflush(stdout);
}

/* splitmix64 */
static inline uint64_t rnd(void)
{
    uint64_t z = rnd_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t rnd_below(uint64_t n)
{
    return rnd() % n;
}

static inline void rnd_bytes(uint8_t *out, size_t len)
{
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)rnd();
}

#endif
