/* Dates, UUIDs and words. */
#include <ctype.h>
#include <locale.h>
#include <pthread.h>
#include <string.h>
#include <wctype.h>
#include "common/field.h"

/* ---- dates: RFC 3339, and what of ISO 8601 Qdrant takes beside it ---- */

struct date_cursor { const char *p, *end; };

static bool digits(struct date_cursor *c, int n, int64_t *out)
{
    *out = 0;
    for (int i = 0; i < n; i++, c->p++) {
        if (c->p == c->end || !isdigit((unsigned char)*c->p))
            return false;
        *out = *out * 10 + (*c->p - '0');
    }
    return true;
}

static bool one(struct date_cursor *c, const char *any)
{
    if (c->p == c->end || !*c->p || !strchr(any, *c->p))
        return false;
    c->p++;
    return true;
}

/* Days from 1970-01-01 in the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms"). */
static int64_t days_from_civil(int64_t y, int64_t m, int64_t d)
{
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1, doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + doe - 719468;
}

static bool read_fraction(struct date_cursor *c, int64_t *us)
{
    int64_t unit = 100000;
    *us = 0;
    if (!one(c, "."))
        return true;
    if (c->p == c->end || !isdigit((unsigned char)*c->p))
        return false;
    for (; c->p < c->end && isdigit((unsigned char)*c->p); c->p++, unit /= 10)
        *us += (*c->p - '0') * unit;
    return true;
}

/* Minutes east of UTC. */
static bool read_zone(struct date_cursor *c, int64_t *minutes)
{
    int64_t h, m = 0;
    *minutes = 0;
    if (c->p == c->end || one(c, "Zz"))
        return true;
    bool west = *c->p == '-';
    if (!one(c, "+-") || !digits(c, 2, &h))
        return false;
    if (c->p < c->end) {
        one(c, ":");
        if (!digits(c, 2, &m))
            return false;
    }
    *minutes = (west ? -1 : 1) * (h * 60 + m);
    return h < 24 && m < 60;
}

bool ap_datetime_parse(const char *text, size_t len, int64_t *out)
{
    static const int64_t month_days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    struct date_cursor c = {text, text + len};
    int64_t y, mo, d, h = 0, mi = 0, s = 0, us = 0, zone = 0;
    if (!digits(&c, 4, &y) || !one(&c, "-") || !digits(&c, 2, &mo) || !one(&c, "-") || !digits(&c, 2, &d) || mo < 1 || mo > 12 || d < 1)
        return false;
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    if (d > month_days[mo - 1] + (mo == 2 && leap))
        return false;
    if (c.p < c.end) {
        if (!one(&c, "Tt ") || !digits(&c, 2, &h) || !one(&c, ":") || !digits(&c, 2, &mi))
            return false;
        if (one(&c, ":") && (!digits(&c, 2, &s) || !read_fraction(&c, &us)))
            return false;
        if (h > 23 || mi > 59 || s > 60 || !read_zone(&c, &zone))
            return false;
    }
    *out = ((days_from_civil(y, mo, d) * 24 + h) * 60 + mi - zone) * 60000000 + s * 1000000 + us;
    return c.p == c.end;
}

/* ---- UUIDs ---- */

bool ap_uuid_canonical(const char *text, size_t len, char out[37])
{
    size_t n = 0;
    if (len > 9 && strncmp(text, "urn:uuid:", 9) == 0) {
        text += 9;
        len -= 9;
    }
    if (len != 32 && len != 36)
        return false;
    for (size_t i = 0; i < len; i++) {
        bool dash = len == 36 && (i == 8 || i == 13 || i == 18 || i == 23);
        if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false;
        if (dash)
            continue;
        if (n == 8 || n == 13 || n == 18 || n == 23)
            out[n++] = '-';
        out[n++] = (char)tolower((unsigned char)text[i]);
    }
    out[36] = 0;
    return true;
}

/* ---- words ---- */

static locale_t unicode;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void open_locale(void)
{
    unicode = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
}

/* The code point at p, of valid UTF-8 (jansson lets no other through), and its bytes. */
static wint_t code_point(const unsigned char *p, size_t left, size_t *bytes)
{
    *bytes = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (*bytes > left) {
        *bytes = left;
        return 0xfffd;
    }
    if (*bytes == 1)
        return p[0];
    wint_t c = p[0] & (0xffu >> (*bytes + 1));
    for (size_t i = 1; i < *bytes; i++)
        c = c << 6 | (p[i] & 0x3f);
    return c;
}

static void append_code_point(struct ap_buf *out, wint_t c)
{
    uint8_t b[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    if (n == 1) {
        b[0] = (uint8_t)c;
    } else {
        for (size_t i = n; i-- > 1; c >>= 6)
            b[i] = (uint8_t)(0x80 | (c & 0x3f));
        b[0] = (uint8_t)((0xf00u >> n & 0xff) | c);
    }
    ap_buf_append(out, b, n);
}

static bool inside(const struct ap_text_options *o, wint_t c)
{
    if (c < 0x80)
        return o->word ? isalnum((int)c) != 0 : !isspace((int)c);
    if (!unicode)
        return true;
    return o->word ? iswalnum_l(c, unicode) != 0 : iswspace_l(c, unicode) == 0;
}

static wint_t lower(wint_t c)
{
    return c < 0x80 ? (wint_t)tolower((int)c) : unicode ? towlower_l(c, unicode) : c;
}

void ap_text_words(const struct ap_text_options *o, const char *text, size_t len, struct ap_buf *scratch,
                   int (*fn)(void *arg, const char *word, size_t len), void *arg)
{
    const unsigned char *p = (const unsigned char *)text;
    pthread_once(&once, open_locale);
    for (size_t i = 0; i < len;) {
        size_t bytes, characters = 0;
        ap_buf_clear(scratch);
        for (; i < len; i += bytes) {
            wint_t c = code_point(p + i, len - i, &bytes);
            if (!inside(o, c)) {
                if (characters)
                    break;
                continue;
            }
            append_code_point(scratch, o->lowercase ? lower(c) : c);
            characters++;
        }
        if (characters > 0 && characters >= o->least && characters <= o->most && fn(arg, (const char *)scratch->data, scratch->len) != 0)
            return;
    }
}
