/* NDJSON lines: only a line that is cut by the end of a piece is copied. */
#include "common/ndjson.h"
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"

struct ap_ndjson {
    size_t max_line_bytes;
    ap_ndjson_line on_line;
    void *arg;
    uint64_t line; /* number of the line that is being read */
    struct ap_buf partial;
    int failed;
    struct ap_err error;
};

struct ap_ndjson *ap_ndjson_new(size_t max_line_bytes, ap_ndjson_line on_line, void *arg)
{
    struct ap_ndjson *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->max_line_bytes = max_line_bytes;
    s->on_line = on_line;
    s->arg = arg;
    s->line = 1;
    return s;
}

void ap_ndjson_free(struct ap_ndjson **splitter)
{
    if (!*splitter)
        return;
    ap_buf_free(&(*splitter)->partial);
    free(*splitter);
    *splitter = NULL;
}

static int too_long(const struct ap_ndjson *s, struct ap_err *err)
{
    return ap_err_set(err, AP_ETOOBIG, AP_POISON, "line %llu is longer than %zu bytes", (unsigned long long)s->line,
                      s->max_line_bytes);
}

static int hand_out(struct ap_ndjson *s, const char *text, size_t len, struct ap_err *err)
{
    if (len && text[len - 1] == '\r')
        len--;
    if (len > s->max_line_bytes)
        return too_long(s, err);
    size_t blank = 0;
    while (blank < len && (text[blank] == ' ' || text[blank] == '\t'))
        blank++;
    int rc = blank == len ? 0 : s->on_line(s->arg, s->line, text, len, err);
    s->line++;
    return rc;
}

static int split(struct ap_ndjson *s, const char *p, size_t len, struct ap_err *err)
{
    while (len) {
        const char *nl = memchr(p, '\n', len);
        size_t n = nl ? (size_t)(nl - p) : len;
        int rc = 0;
        if (!nl || s->partial.len) {
            /* One byte more than the limit is let in: it may be the carriage return. */
            if (n > s->max_line_bytes + 1 - s->partial.len)
                return too_long(s, err);
            ap_buf_append(&s->partial, p, n);
            if (!nl)
                return 0;
            rc = hand_out(s, (const char *)s->partial.data, s->partial.len, err);
            ap_buf_clear(&s->partial);
        } else {
            rc = hand_out(s, p, n, err);
        }
        if (rc)
            return rc;
        p += n + 1;
        len -= n + 1;
    }
    return 0;
}

static int finish(struct ap_ndjson *s, int rc, const struct ap_err *own, struct ap_err *err)
{
    if (rc == 0)
        return 0;
    s->failed = rc;
    s->error = *own;
    if (err)
        *err = *own;
    return rc;
}

int ap_ndjson_feed(struct ap_ndjson *s, const char *bytes, size_t len, struct ap_err *err)
{
    struct ap_err own = s->error;
    int rc = s->failed ? s->failed : split(s, bytes, len, &own);
    return finish(s, rc, &own, err);
}

int ap_ndjson_end(struct ap_ndjson *s, struct ap_err *err)
{
    struct ap_err own = s->error;
    int rc = s->failed;
    if (rc == 0 && s->partial.len) {
        rc = hand_out(s, (const char *)s->partial.data, s->partial.len, &own);
        ap_buf_clear(&s->partial);
    }
    return finish(s, rc, &own, err);
}
