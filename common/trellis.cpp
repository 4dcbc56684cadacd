/* C++ for the compilers' vectors, which C cannot compare: with a memory of 8 the costs of all states stay in registers. The
 * same body is compiled for AVX-512, AVX2 and what every CPU has. */
#include "common/trellis.h"

#include <cfloat>
#include <cstring>

#define LANES 16
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

typedef float lanes __attribute__((vector_size(4 * LANES), may_alias));

/* Two states that differ in one bit end in one, or rather in two of the same cost. This bit is within a vector: */
#define MIN_WITHIN(...)                                                              \
    _Pragma("GCC unroll 16")                                                         \
    for (int v = 0; v < VECTORS; v++) {                                              \
        lanes other = __builtin_shufflevector(c[v], c[v], __VA_ARGS__);              \
        c[v] = other < c[v] ? other : c[v];                                          \
    }                                                                                \
    break
/* ... or between two of them. */
#define MIN_BETWEEN(distance)                                                        \
    _Pragma("GCC unroll 16")                                                         \
    for (int v = 0; v < VECTORS; v++)                                                \
        if (!(v & (distance)))                                                       \
            c[v] = c[v + (distance)] = c[v] < c[v + (distance)] ? c[v] : c[v + (distance)]; \
    break

/* room[i * states + s]: the least cost of being in state s before step i. */
template <unsigned MEMORY> ALWAYS_INLINE void forward(const ap_trellis &t, const float *x, float *room)
{
    constexpr int STATES = 1 << MEMORY, VECTORS = STATES / LANES;
    lanes c[VECTORS];
    const lanes zero = {};
    for (int v = 0; v < VECTORS; v++)
        c[v] = zero + FLT_MAX / 4;
    c[0][0] = 0;
    unsigned position = 0;
    for (size_t i = 0; i < t.steps; i++) {
        lanes *before = reinterpret_cast<lanes *>(room + i * STATES);
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++)
            before[v] = c[v];
        for (unsigned b = 0; b < t.bits[i]; b++, position = (position + 1) % MEMORY)
            switch (position) {
            case 0: MIN_WITHIN(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
            case 1: MIN_WITHIN(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
            case 2: MIN_WITHIN(4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
            case 3: MIN_WITHIN(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
            case 4: MIN_BETWEEN(1);
            case 5: MIN_BETWEEN(2);
            case 6: MIN_BETWEEN(4);
            case 7: MIN_BETWEEN(8);
            case 8: MIN_BETWEEN(16 % VECTORS);
            default: MIN_BETWEEN(32 % VECTORS);
            }
        const lanes *table = reinterpret_cast<const lanes *>(t.tables + i * STATES);
        lanes wanted = zero + x[i];
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; v++) {
            lanes error = wanted - table[v];
            c[v] += error * error;
        }
    }
    lanes *last = reinterpret_cast<lanes *>(room + t.steps * STATES);
    for (int v = 0; v < VECTORS; v++)
        last[v] = c[v];
}

#define FORWARD(name, target)                                                                     \
    template <unsigned MEMORY> target void name(const ap_trellis &t, const float *x, float *room) \
    {                                                                                             \
        forward<MEMORY>(t, x, room);                                                              \
    }
FORWARD(forward_plain, )
#if defined(__x86_64__)
FORWARD(forward_avx512, __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,fma"))))
FORWARD(forward_avx2, __attribute__((target("avx2,fma"))))
#endif

using forward_fn = void (*)(const ap_trellis &, const float *, float *);

template <unsigned MEMORY> forward_fn choose()
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq"))
        return forward_avx512<MEMORY>;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return forward_avx2<MEMORY>;
#endif
    return forward_plain<MEMORY>;
}

/* The bits of the state that the step which ends before bit n of the code wrote. */
unsigned wrote(unsigned memory, unsigned n, unsigned bits)
{
    unsigned at = ((1u << bits) - 1) << (n - bits) % memory;
    return (at | at >> memory) & ((1u << memory) - 1);
}

} // namespace

extern "C" {

void ap_trellis_walk(const struct ap_trellis *t, const float *x, float *room, uint16_t *states)
{
    static const forward_fn by_memory[] = {choose<8>(), choose<9>(), choose<10>()};
    by_memory[t->memory - AP_TRELLIS_MEMORY_MIN](*t, x, room);
    const float *cost = room + (t->steps << t->memory);
    unsigned state = 0, n = 0;
    for (unsigned s = 1; s < 1u << t->memory; s++)
        if (cost[s] < cost[state])
            state = s;
    for (size_t i = 0; i < t->steps; i++)
        n += t->bits[i];
    for (size_t i = t->steps; i-- > 0; n -= t->bits[i]) {
        states[i] = uint16_t(state);
        /* What the step wrote: anything may have been there before. */
        unsigned mask = wrote(t->memory, n, t->bits[i]), kept = state & ~mask, best = kept;
        cost = room + (i << t->memory);
        for (unsigned m = mask; m != 0; m = (m - 1) & mask)
            if (cost[kept | m] < cost[best])
                best = kept | m;
        state = best;
    }
}

void ap_trellis_pack(const struct ap_trellis *t, const uint16_t *states, uint8_t *code)
{
    unsigned n = 0;
    for (size_t i = 0; i < t->steps; i++)
        for (unsigned b = 0; b < t->bits[i]; b++, n++)
            code[n / 8] = uint8_t(code[n / 8] | (states[i] >> n % t->memory & 1) << n % 8);
}

void ap_trellis_unpack(const struct ap_trellis *t, const uint8_t *code, uint16_t *states)
{
    unsigned n = 0, state = 0, all = (1u << t->memory) - 1;
    for (size_t i = 0; i < t->steps; i++) {
        unsigned bits = t->bits[i], in = n % 8, fresh = unsigned(code[n / 8]) >> in;
        if (in + bits > 8)
            fresh |= unsigned(code[n / 8 + 1]) << (8 - in);
        fresh = (fresh & ((1u << bits) - 1)) << n % t->memory;
        n += bits;
        state = (state & ~wrote(t->memory, n, bits)) | ((fresh | fresh >> t->memory) & all);
        states[i] = uint16_t(state);
    }
}

} // extern "C"
