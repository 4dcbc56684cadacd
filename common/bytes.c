/* The growing buffer: doubles, and aborts when memory is out (callers bound what they append). */
#include "common/bytes.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void ap_buf_reserve(struct ap_buf *buf, size_t more)
{
    if (more <= buf->cap - buf->len)
        return;
    if (more > SIZE_MAX / 2 - buf->len)
        abort();
    size_t need = buf->len + more;
    size_t cap = buf->cap < 64 ? 64 : buf->cap;
    while (cap < need)
        cap *= 2;
    uint8_t *data = realloc(buf->data, cap);
    if (!data)
        abort();
    buf->data = data;
    buf->cap = cap;
}

void ap_buf_append(struct ap_buf *buf, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    ap_buf_reserve(buf, len);
    memcpy(buf->data + buf->len, bytes, len);
    buf->len += len;
}

/* Leaves a NUL behind the text, which len does not count. */
void ap_buf_printf(struct ap_buf *buf, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    ap_buf_reserve(buf, 128);
    int n = vsnprintf((char *)buf->data + buf->len, buf->cap - buf->len, fmt, args);
    if (n < 0)
        abort();
    if ((size_t)n >= buf->cap - buf->len) {
        ap_buf_reserve(buf, (size_t)n + 1);
        vsnprintf((char *)buf->data + buf->len, buf->cap - buf->len, fmt, again);
    }
    buf->len += (size_t)n;
    va_end(again);
    va_end(args);
}

void ap_buf_free(struct ap_buf *buf)
{
    free(buf->data);
    *buf = (struct ap_buf){0};
}
