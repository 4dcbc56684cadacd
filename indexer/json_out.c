/* JSON text into a buffer. Cannot fail: buffers abort when memory is out, callers bound what they write. */
#include "indexer/json_out.h"
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include "common/utf8.h"

#define FLOAT_TEXT 24 /* "-1.23456789e-45" and room */

void ap_json_raw(struct ap_buf *out, const char *text)
{
    ap_buf_append(out, text, strlen(text));
}

static void append_escaped(struct ap_buf *out, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    char text[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
    switch (c) {
    case '"':
    case '\\': text[1] = (char)c; break;
    case '\n': text[1] = 'n'; break;
    case '\r': text[1] = 'r'; break;
    case '\t': text[1] = 't'; break;
    default: ap_buf_append(out, text, 6); return;
    }
    ap_buf_append(out, text, 2);
}

void ap_json_string(struct ap_buf *out, const char *text, size_t len)
{
    size_t plain = 0; /* bytes before i that are not written yet */
    ap_buf_append(out, "\"", 1);
    for (size_t i = 0; i < len;) {
        unsigned char c = (unsigned char)text[i];
        size_t n = c < 0x80 ? 1 : ap_utf8_length(text + i, len - i);
        if (n && c >= 0x20 && c != '"' && c != '\\') {
            i += n;
            plain += n;
            continue;
        }
        ap_buf_append(out, text + i - plain, plain);
        plain = 0;
        if (n)
            append_escaped(out, c);
        else
            ap_buf_append(out, "\xef\xbf\xbd", 3);
        i++;
    }
    ap_buf_append(out, text + len - plain, plain);
    ap_buf_append(out, "\"", 1);
}

static size_t digits_of(uint64_t value, char out[20])
{
    char reversed[20];
    size_t n = 0;
    do
        reversed[n++] = (char)('0' + value % 10);
    while (value /= 10);
    for (size_t i = 0; i < n; i++)
        out[i] = reversed[n - 1 - i];
    return n;
}

void ap_json_u64(struct ap_buf *out, uint64_t value)
{
    char digits[20];
    ap_buf_append(out, digits, digits_of(value, digits));
}

static double power_of_ten(int exponent) /* not negative */
{
    static const double exact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    return exponent <= 22 ? exact[exponent] : pow(10, exponent);
}

/* The shortest decimal (digits * 10^*exponent) that lies nearer to value than any other float32. All arithmetic is in
 * double, which carries 29 bits more than the float: its error is far below the margin that is left to the midpoint. */
static uint64_t shortest(float value, int *exponent)
{
    double exact = (double)value;
    double below = exact - (double)nextafterf(value, 0);
    double above = value == FLT_MAX ? below : (double)nextafterf(value, INFINITY) - exact;
    double margin = (below < above ? below : above) * 0.4999999;
    int magnitude = (int)floor(log10(exact));
    for (int count = 6;; count++) {
        int scale = count - 1 - magnitude;
        double rounded = nearbyint(scale >= 0 ? exact * power_of_ten(scale) : exact / power_of_ten(-scale));
        double back = scale >= 0 ? rounded / power_of_ten(scale) : rounded * power_of_ten(-scale);
        if (fabs(back - exact) < margin || count == 9) {
            uint64_t digits = (uint64_t)rounded;
            *exponent = -scale;
            for (; digits % 10 == 0; digits /= 10)
                ++*exponent;
            return digits;
        }
    }
}

/* digits with the point after the first `point` of them (which may lie outside), or with an exponent. */
static size_t layout(char *text, const char *digits, int count, int point)
{
    char *p = text;
    if (point < -3 || point > 16) {
        *p++ = digits[0];
        if (count > 1)
            *p++ = '.';
        memcpy(p, digits + 1, (size_t)count - 1);
        p += count - 1;
        return (size_t)(p - text) + (size_t)sprintf(p, "e%d", point - 1);
    }
    if (point <= 0) {
        memcpy(p, "0.", 2);
        memset(p + 2, '0', (size_t)-point);
        p += 2 - point;
        memcpy(p, digits, (size_t)count);
        return (size_t)(p - text) + (size_t)count;
    }
    for (int i = 0; i < count || i <= point; i++) {
        if (i == point)
            *p++ = '.';
        *p++ = i < count ? digits[i] : '0';
    }
    return (size_t)(p - text);
}

static size_t float_text(char *text, float value)
{
    char digits[20], *p = text;
    int exponent;
    if (!isfinite(value)) {
        memcpy(text, "null", 4);
        return 4;
    }
    if (signbit(value))
        *p++ = '-';
    if (value == 0) {
        memcpy(p, "0.0", 3);
        return (size_t)(p - text) + 3;
    }
    int count = (int)digits_of(shortest(fabsf(value), &exponent), digits);
    return (size_t)(p - text) + layout(p, digits, count, count + exponent);
}

void ap_json_float(struct ap_buf *out, float value)
{
    ap_buf_reserve(out, FLOAT_TEXT);
    out->len += float_text((char *)out->data + out->len, value);
}

void ap_json_floats(struct ap_buf *out, const float *values, size_t n)
{
    ap_buf_reserve(out, n * FLOAT_TEXT + 2);
    char *start = (char *)out->data + out->len, *p = start;
    *p++ = '[';
    for (size_t i = 0; i < n; i++) {
        if (i)
            *p++ = ',';
        p += float_text(p, values[i]);
    }
    *p++ = ']';
    out->len += (size_t)(p - start);
}

void ap_json_bool(struct ap_buf *out, int value)
{
    ap_json_raw(out, value ? "true" : "false");
}

void ap_json_point_id(struct ap_buf *out, const struct ap_point_id *id)
{
    char text[AP_POINT_ID_TEXT];
    ap_point_id_print(id, text);
    bool uuid = strchr(text, '-') != NULL;
    if (uuid)
        ap_buf_append(out, "\"", 1);
    ap_json_raw(out, text);
    if (uuid)
        ap_buf_append(out, "\"", 1);
}
