/* Avro's binary form of numbers (specification 1.11, "Binary Encoding"): zigzag, then 7 bits a byte, lowest first.
 *
 * Reading accepts exactly what writing makes: a number in more bytes than it needs is refused, so that equal values have
 * equal bytes. */
#ifndef ANTIPODE_COMMON_AVRO_WIRE_H
#define ANTIPODE_COMMON_AVRO_WIRE_H
#include <stddef.h>
#include <stdint.h>

#define AP_AVRO_LONG_BYTES 10

/* Write at p, which has AP_AVRO_LONG_BYTES of room; returns the byte behind. */
static inline uint8_t *ap_avro_put_long(uint8_t *p, int64_t value)
{
    uint64_t z = (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
    for (; z > 0x7f; z >>= 7)
        *p++ = (uint8_t)(z | 0x80);
    *p++ = (uint8_t)z;
    return p;
}

/* Read from p, before end; returns the byte behind, NULL when there is no well-formed number. */
static inline const uint8_t *ap_avro_get_long(const uint8_t *p, const uint8_t *end, int64_t *out)
{
    uint64_t z = 0;
    for (unsigned shift = 0; p < end; shift += 7) {
        uint8_t byte = *p++;
        if (shift == 63 && byte > 1)
            return NULL; /* over 64 bits, or an eleventh byte to come */
        z |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            if (byte == 0 && shift > 0)
                return NULL;
            *out = (int64_t)(z >> 1 ^ -(z & 1));
            return p;
        }
    }
    return NULL;
}

#endif
