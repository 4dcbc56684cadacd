/* A strict scanner of JSON text. Every read is bounded by the cursor's end; nothing is copied but floats. */
#include "indexer/json_scan.h"
#include <math.h>
#include <stdlib.h>
#include "common/utf8.h"

#define MAX_DEPTH 128
#define MAX_NUMBER 64 /* characters; a longer number is left to the real parser */

void ap_json_blank(struct ap_json_cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\n' || *c->p == '\r'))
        c->p++;
}

static bool take(struct ap_json_cursor *c, char wanted)
{
    if (c->p == c->end || *c->p != wanted)
        return false;
    c->p++;
    return true;
}

static bool is_digit(const char *p, const char *end)
{
    return p < end && *p >= '0' && *p <= '9';
}

static bool skip_escape(struct ap_json_cursor *c)
{
    if (c->p == c->end)
        return false;
    char kind = *c->p++;
    if (kind != 'u')
        return strchr("\"\\/bfnrt", kind) && kind;
    for (int i = 0; i < 4; i++, c->p++)
        if (c->p == c->end || !strchr("0123456789abcdefABCDEF", *c->p) || !*c->p)
            return false;
    return true;
}

bool ap_json_read_string(struct ap_json_cursor *c, const char **text, size_t *len)
{
    if (!take(c, '"'))
        return false;
    *text = c->p;
    while (c->p < c->end) {
        unsigned char at = (unsigned char)*c->p;
        if (at >= 0x20 && at < 0x80 && at != '"' && at != '\\') { /* most bytes of most texts */
            c->p++;
            continue;
        }
        if (at == '"') {
            *len = (size_t)(c->p++ - *text);
            return true;
        }
        size_t n = at < 0x80 ? 1 : ap_utf8_length(c->p, (size_t)(c->end - c->p));
        if (n == 0 || at < 0x20)
            return false;
        c->p += n;
        if (at == '\\' && !skip_escape(c))
            return false;
    }
    return false;
}

static bool skip_number(struct ap_json_cursor *c)
{
    take(c, '-');
    if (!is_digit(c->p, c->end))
        return false;
    if (*c->p++ != '0')
        while (is_digit(c->p, c->end))
            c->p++;
    if (take(c, '.')) {
        if (!is_digit(c->p, c->end))
            return false;
        while (is_digit(c->p, c->end))
            c->p++;
    }
    if (c->p < c->end && (*c->p | 0x20) == 'e') {
        c->p++;
        if (!take(c, '+'))
            take(c, '-');
        if (!is_digit(c->p, c->end))
            return false;
        while (is_digit(c->p, c->end))
            c->p++;
    }
    return true;
}

static bool skip_word(struct ap_json_cursor *c, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
        return false;
    c->p += n;
    return true;
}

static bool skip_value(struct ap_json_cursor *c, int depth);

static bool skip_members(struct ap_json_cursor *c, char close, int depth)
{
    const char *name;
    size_t len;
    c->p++;
    ap_json_blank(c);
    if (take(c, close))
        return true;
    do {
        ap_json_blank(c);
        if (close == '}') {
            if (!ap_json_read_string(c, &name, &len))
                return false;
            ap_json_blank(c);
            if (!take(c, ':'))
                return false;
        }
        if (!skip_value(c, depth + 1))
            return false;
        ap_json_blank(c);
    } while (take(c, ','));
    return take(c, close);
}

static bool skip_value(struct ap_json_cursor *c, int depth)
{
    const char *text;
    size_t len;
    ap_json_blank(c);
    if (c->p == c->end || depth > MAX_DEPTH)
        return false;
    switch (*c->p) {
    case '{': return skip_members(c, '}', depth);
    case '[': return skip_members(c, ']', depth);
    case '"': return ap_json_read_string(c, &text, &len);
    case 't': return skip_word(c, "true");
    case 'f': return skip_word(c, "false");
    case 'n': return skip_word(c, "null");
    default: return skip_number(c);
    }
}

bool ap_json_skip(struct ap_json_cursor *c)
{
    return skip_value(c, 0);
}

bool ap_json_is_object(const char *text, size_t len)
{
    struct ap_json_cursor c = {text, text + len};
    ap_json_blank(&c);
    if (c.p == c.end || *c.p != '{' || !ap_json_skip(&c))
        return false;
    ap_json_blank(&c);
    return c.p == c.end;
}

/* --- floats --- */

static double scale(double value, int exponent)
{
    static const double power[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                   1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    return exponent >= 0 ? value * power[exponent] : value / power[-exponent];
}

/* The digits of the number at [p, end), of which skip_number has approved, as mantissa * 10^exponent. False when that
 * would lose digits or needs a power that a double cannot hold exactly. */
static bool decompose(const char *p, const char *end, uint64_t *mantissa, int *exponent)
{
    uint64_t m = 0;
    int digits = 0, e = 0;
    bool fraction = false;
    for (; p < end && (*p | 0x20) != 'e'; p++) {
        if (*p == '.') {
            fraction = true;
            continue;
        }
        m = m * 10 + (uint64_t)(*p - '0');
        digits += m != 0;
        e -= fraction;
    }
    if (p < end) {
        int given = 0;
        bool negative = *++p == '-';
        for (p += *p == '-' || *p == '+'; p < end && given < 1000; p++)
            given = given * 10 + (*p - '0');
        e += negative ? -given : given;
    }
    *mantissa = m;
    *exponent = e;
    return digits <= 19 && e >= -22 && e <= 22;
}

static float slow_float(const char *p, const char *end)
{
    char text[MAX_NUMBER + 1];
    size_t n = (size_t)(end - p);
    memcpy(text, p, n);
    text[n] = 0;
    return strtof(text, NULL);
}

/* A double of the number with an error of at most 2 in its last place, then rounded to float: that equals strtof unless
 * the double lies next to the middle between two floats, which its low 29 bits show. */
static float to_float(const char *p, const char *end)
{
    uint64_t mantissa, bits;
    int exponent;
    bool negative = *p == '-';
    if (!decompose(p + negative, end, &mantissa, &exponent))
        return slow_float(p, end);
    double value = scale((double)mantissa, exponent);
    if (mantissa && (value < 1e-37 || value > 1e38)) /* the edges of float32 */
        return slow_float(p, end);
    memcpy(&bits, &value, sizeof bits);
    uint64_t low = bits & 0x1fffffff;
    if (low > 0x0ffffff0 && low < 0x10000010)
        return slow_float(p, end);
    return (float)(negative ? -value : value);
}

static bool read_floats(struct ap_json_cursor *c, size_t max, struct ap_buf *out)
{
    size_t n = 0;
    if (!take(c, '['))
        return false;
    ap_json_blank(c);
    if (take(c, ']'))
        return true;
    do {
        ap_json_blank(c);
        const char *start = c->p;
        if (n++ == max || !skip_number(c) || c->p - start > MAX_NUMBER)
            return false;
        float value = to_float(start, c->p);
        if (!isfinite(value))
            return false;
        ap_buf_append(out, &value, sizeof value);
        ap_json_blank(c);
    } while (take(c, ','));
    return take(c, ']');
}

bool ap_json_read_floats(struct ap_json_cursor *c, size_t max, struct ap_buf *out)
{
    const char *start = c->p;
    size_t len = out->len;
    if (read_floats(c, max, out))
        return true;
    c->p = start;
    out->len = len;
    return false;
}
