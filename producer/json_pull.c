/* The pull reader. Every function looks at no byte past end. */
#include "producer/json_pull.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/utf8.h"

void ap_pull_init(struct ap_pull *j, const char *text, size_t len, struct ap_err *err)
{
    *j = (struct ap_pull){.start = text, .p = text, .end = text + len, .err = err};
}

bool ap_pull_fail(struct ap_pull *j, enum ap_code code, const char *fmt, ...)
{
    if (!j->failed) {
        char text[400];
        va_list args;
        va_start(args, fmt);
        vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        ap_err_set(j->err, code, AP_POISON, "%s", text);
    }
    j->failed = true;
    return false;
}

static bool malformed(struct ap_pull *j, const char *what)
{
    return ap_pull_fail(j, AP_EINVAL, "malformed JSON at byte %zu: %s", (size_t)(j->p - j->start), what);
}

static void blanks(struct ap_pull *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t'))
        j->p++;
}

char ap_pull_peek(struct ap_pull *j)
{
    if (j->failed)
        return 0;
    blanks(j);
    if (j->p == j->end)
        return 0;
    return *j->p == '-' || (*j->p >= '0' && *j->p <= '9') ? '0' : *j->p;
}

bool ap_pull_open(struct ap_pull *j, char bracket)
{
    if (ap_pull_peek(j) != bracket)
        return malformed(j, bracket == '{' ? "an object is expected" : "an array is expected");
    j->p++;
    return true;
}

bool ap_pull_next(struct ap_pull *j, char bracket, bool *first)
{
    char close = bracket == '{' ? '}' : ']', c = ap_pull_peek(j);
    bool was_first = *first;
    *first = false;
    if (j->failed)
        return false;
    if (c == close) {
        j->p++;
        return false;
    }
    if (was_first)
        return c ? true : malformed(j, "the text ends too early");
    if (c != ',')
        return malformed(j, c ? "a comma or a closing bracket is expected" : "the text ends too early");
    j->p++;
    if (ap_pull_peek(j) == close)
        return malformed(j, "a value is expected behind the comma");
    return true;
}

static int hex4(const char *p)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Behind a backslash. Surrogates come in pairs, and a NUL has no place in text that C handles (jansson refuses it, too). */
static bool escape(struct ap_pull *j)
{
    if (j->p == j->end)
        return malformed(j, "the text ends within a string");
    if (*j->p != 'u') {
        if (!*j->p || !strchr("\"\\/bfnrt", *j->p))
            return malformed(j, "not an escape");
        j->p++;
        return true;
    }
    int unit = j->end - j->p >= 5 ? hex4(j->p + 1) : -1;
    if (unit <= 0)
        return malformed(j, unit ? "not an escape" : "\\u0000 is not allowed");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return malformed(j, "half of a surrogate pair");
    j->p += 5;
    if (unit < 0xd800 || unit > 0xdbff)
        return true;
    int low = j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u' ? hex4(j->p + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return malformed(j, "half of a surrogate pair");
    j->p += 6;
    return true;
}

bool ap_pull_string(struct ap_pull *j, struct ap_slice *raw)
{
    if (ap_pull_peek(j) != '"')
        return malformed(j, "a string is expected");
    const char *start = ++j->p;
    while (j->p < j->end) {
        unsigned char c = (unsigned char)*j->p;
        if (c == '"') {
            *raw = (struct ap_slice){start, (size_t)(j->p++ - start)};
            return true;
        }
        if (c == '\\') {
            j->p++;
            if (!escape(j))
                return false;
        } else if (c < 0x20) {
            return malformed(j, "a control character within a string");
        } else {
            size_t n = c < 0x80 ? 1 : ap_utf8_length(j->p, (size_t)(j->end - j->p));
            if (n == 0)
                return malformed(j, "not UTF-8");
            j->p += n;
        }
    }
    return malformed(j, "the text ends within a string");
}

bool ap_pull_key(struct ap_pull *j, struct ap_slice *key)
{
    if (!ap_pull_string(j, key))
        return false;
    if (memchr(key->p, '\\', key->len))
        return ap_pull_fail(j, AP_EINVAL, "unknown field \"%.*s\"", (int)(key->len < 64 ? key->len : 64), key->p);
    if (ap_pull_peek(j) != ':')
        return malformed(j, "a colon is expected");
    j->p++;
    return true;
}

bool ap_pull_is(const struct ap_slice *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->p, text, s->len) == 0;
}

static bool word(struct ap_pull *j, const char *text)
{
    size_t len = strlen(text);
    if ((size_t)(j->end - j->p) < len || memcmp(j->p, text, len) != 0)
        return malformed(j, "not a value");
    j->p += len;
    return true;
}

bool ap_pull_null(struct ap_pull *j)
{
    return ap_pull_peek(j) == 'n' && word(j, "null");
}

static bool digits(struct ap_pull *j)
{
    const char *start = j->p;
    while (j->p < j->end && *j->p >= '0' && *j->p <= '9')
        j->p++;
    return j->p > start || malformed(j, "a digit is expected");
}

/* Past a number; *mantissa and *exponent (of ten) describe it, *exact says that no digit was dropped. */
static bool scan_number(struct ap_pull *j, uint64_t *mantissa, int *exponent, bool *negative, bool *exact)
{
    if (ap_pull_peek(j) != '0')
        return malformed(j, "a number is expected");
    *negative = *j->p == '-';
    j->p += *negative;
    const char *whole = j->p;
    if (!digits(j))
        return false;
    if (*whole == '0' && j->p - whole > 1) {
        j->p = whole;
        return malformed(j, "a number with a leading zero");
    }
    const char *whole_end = j->p, *fraction = j->p, *fraction_end = j->p;
    if (j->p < j->end && *j->p == '.') {
        fraction = ++j->p;
        if (!digits(j))
            return false;
        fraction_end = j->p;
    }
    int e = 0;
    if (j->p < j->end && (*j->p == 'e' || *j->p == 'E')) {
        j->p++;
        bool minus = j->p < j->end && *j->p == '-';
        j->p += minus || (j->p < j->end && *j->p == '+');
        const char *at = j->p;
        if (!digits(j))
            return false;
        for (; at < j->p; at++)
            e = e < 100000 ? e * 10 + (*at - '0') : e;
        e = minus ? -e : e;
    }
    uint64_t m = 0;
    int kept = 0;
    for (const char *p = whole; p < whole_end; p++, kept += m != 0)
        m = m * 10 + (uint64_t)(*p - '0');
    for (const char *p = fraction; p < fraction_end; p++, kept += m != 0)
        m = m * 10 + (uint64_t)(*p - '0');
    *mantissa = m;
    *exact = kept <= 19 && fraction_end - fraction < 10000;
    *exponent = *exact ? e - (int)(fraction_end - fraction) : 0;
    return true;
}

/* Numbers with more digits than 64 bits hold, or a large exponent, as the C library reads them. */
static double slow_number(const char *p, size_t len)
{
    char small[64];
    char *text = len < sizeof small ? small : malloc(len + 1);
    if (!text)
        abort();
    memcpy(text, p, len);
    text[len] = 0;
    double value = strtod(text, NULL);
    if (text != small)
        free(text);
    return value;
}

/* Mantissa and power of ten are each rounded at most once, so the result is within one unit of the nearest double:
 * the float32 made of it is the nearest one, but for decimals within 2^-52 of the middle between two floats. */
bool ap_pull_number(struct ap_pull *j, double *out)
{
    static const double power[] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    uint64_t mantissa;
    int exponent;
    bool negative, exact;
    ap_pull_peek(j);
    const char *start = j->p;
    if (!scan_number(j, &mantissa, &exponent, &negative, &exact))
        return false;
    if (!exact || exponent < -22 || exponent > 22) {
        *out = slow_number(start, (size_t)(j->p - start));
        return true;
    }
    double value = exponent < 0 ? (double)mantissa / power[-exponent] : (double)mantissa * power[exponent];
    *out = negative ? -value : value;
    return true;
}

static bool skip(struct ap_pull *j, int depth)
{
    struct ap_slice ignored;
    char c = ap_pull_peek(j);
    bool first = true, negative, exact;
    uint64_t mantissa;
    int exponent;
    switch (c) {
    case '"': return ap_pull_string(j, &ignored);
    case '0': return scan_number(j, &mantissa, &exponent, &negative, &exact);
    case 't': return word(j, "true");
    case 'f': return word(j, "false");
    case 'n': return word(j, "null");
    case 0: return malformed(j, "a value is expected");
    case '{':
    case '[': break;
    default: return malformed(j, "not a value");
    }
    if (depth == AP_PULL_DEPTH)
        return malformed(j, "nested too deeply");
    j->p++;
    while (ap_pull_next(j, c, &first)) {
        if (c == '{') {
            if (!ap_pull_string(j, &ignored))
                return false;
            if (ap_pull_peek(j) != ':')
                return malformed(j, "a colon is expected");
            j->p++;
        }
        if (!skip(j, depth + 1))
            return false;
    }
    return !j->failed;
}

bool ap_pull_value(struct ap_pull *j, struct ap_slice *text)
{
    ap_pull_peek(j);
    const char *start = j->p;
    if (!skip(j, 0))
        return false;
    *text = (struct ap_slice){start, (size_t)(j->p - start)};
    return true;
}

bool ap_pull_end(struct ap_pull *j)
{
    if (j->failed)
        return false;
    blanks(j);
    return j->p == j->end || malformed(j, "something follows the value");
}
