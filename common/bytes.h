/* Byte order and a growing buffer. All on-disk and in-key integers go through these, never through casts. */
#ifndef ANTIPODE_COMMON_BYTES_H
#define ANTIPODE_COMMON_BYTES_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t ap_le16(const void *p) { uint16_t v; memcpy(&v, p, 2); return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap16(v); }
static inline uint32_t ap_le32(const void *p) { uint32_t v; memcpy(&v, p, 4); return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap32(v); }
static inline uint64_t ap_le64(const void *p) { uint64_t v; memcpy(&v, p, 8); return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap64(v); }
static inline uint64_t ap_be64(const void *p) { uint64_t v; memcpy(&v, p, 8); return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? v : __builtin_bswap64(v); }
static inline void ap_put_le16(void *p, uint16_t v) { if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) v = __builtin_bswap16(v); memcpy(p, &v, 2); }
static inline void ap_put_le32(void *p, uint32_t v) { if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) v = __builtin_bswap32(v); memcpy(p, &v, 4); }
static inline void ap_put_le64(void *p, uint64_t v) { if (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) v = __builtin_bswap64(v); memcpy(p, &v, 8); }
static inline void ap_put_be64(void *p, uint64_t v) { if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) v = __builtin_bswap64(v); memcpy(p, &v, 8); }

/* A growing byte buffer. Zero-initialised is empty. Growing aborts when memory is out: callers bound what they append. */
struct ap_buf { uint8_t *data; size_t len, cap; };
void ap_buf_reserve(struct ap_buf *buf, size_t more);
void ap_buf_append(struct ap_buf *buf, const void *bytes, size_t len);
void ap_buf_printf(struct ap_buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline void ap_buf_clear(struct ap_buf *buf) { buf->len = 0; }
void ap_buf_free(struct ap_buf *buf);

#endif
