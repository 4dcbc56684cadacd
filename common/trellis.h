/* Trellis-coded scalars: each step of a walk spends a few bits and yields one number, out of a table that the last bits of
 * the code choose from, as many as the walk has of memory. So with a memory of 8 a step of one bit has 256 numbers to
 * offer, of which two can be reached, and the walk of least squared error is found by Viterbi's algorithm. Marcellin and
 * Fischer, "Trellis coded quantization", 1990; the state as the last bits of the code: Mao and Gray, 2010, and QTIP, 2024.
 *
 * Bit n of a code is bit n % 8 of its byte n / 8, and bit n % memory of the state: a step overwrites the oldest bits of the
 * state in place. The walk begins in state 0. Private to ann*.c. */
#ifndef ANTIPODE_COMMON_TRELLIS_H
#define ANTIPODE_COMMON_TRELLIS_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define AP_TRELLIS_MEMORY_MIN 8
#define AP_TRELLIS_MEMORY_MAX 10
#define AP_TRELLIS_ALIGN 64
#define AP_TRELLIS_BITS_MAX 6 /* a step */

struct ap_trellis {
    unsigned memory;      /* bits: tables have 1 << memory numbers */
    size_t steps;
    const uint8_t *bits;  /* of each step: 1 to AP_TRELLIS_BITS_MAX */
    const float *tables;  /* of each step; on AP_TRELLIS_ALIGN */
};
/* Floats that a walk needs as room of its own, on AP_TRELLIS_ALIGN. */
static inline size_t ap_trellis_room(const struct ap_trellis *t) { return (t->steps + 1) << t->memory; }
/* The best walk for x (steps numbers): states[i] after step i. */
void ap_trellis_walk(const struct ap_trellis *t, const float *x, float *room, uint16_t *states);
/* States of a walk to its code, whose bytes must be zero, and back. */
void ap_trellis_pack(const struct ap_trellis *t, const uint16_t *states, uint8_t *code);
void ap_trellis_unpack(const struct ap_trellis *t, const uint8_t *code, uint16_t *states);

#ifdef __cplusplus
}
#endif
#endif
