/* NPY streams. Flow: the fixed prefix and the header's text are gathered in `header`; then rows are cut out of each
 * piece: what lies whole in it is handed out in runs, a row that is cut in two is completed in `carry`. */
#include "common/npy.h"
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"

#define PREFIX_V1 10 /* magic, version, 2 bytes of header length */
#define PREFIX_V2 12 /* the same with 4 */
#define RUN_BYTES 65536

struct ap_npy {
    struct ap_npy_sink sink;
    struct ap_buf header;
    bool in_rows;
    int failed; /* the code that ended the stream */
    struct ap_err error;
    bool half; /* '<f2' */
    uint64_t rows, rows_done;
    size_t dim, row_bytes;
    uint8_t *carry; /* one row, as it came */
    size_t carry_len;
    float *run; /* run_rows rows, converted */
    size_t run_rows;
};

/* --- the header: a Python dict literal --- */

struct cursor { const char *p, *end; };

static void skip_blanks(struct cursor *c)
{
    while (c->p < c->end && isspace((unsigned char)*c->p))
        c->p++;
}

static bool take(struct cursor *c, char wanted)
{
    skip_blanks(c);
    if (c->p == c->end || *c->p != wanted)
        return false;
    c->p++;
    return true;
}

static bool take_word(struct cursor *c, const char *word)
{
    size_t n = strlen(word);
    skip_blanks(c);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
        return false;
    c->p += n;
    return true;
}

static bool take_string(struct cursor *c, char *out, size_t size)
{
    skip_blanks(c);
    if (c->p == c->end || (*c->p != '\'' && *c->p != '"'))
        return false;
    char quote = *c->p++;
    const char *close = memchr(c->p, quote, (size_t)(c->end - c->p));
    if (!close)
        return false;
    snprintf(out, size, "%.*s", (int)(close - c->p), c->p);
    c->p = close + 1;
    return true;
}

static bool take_number(struct cursor *c, uint64_t *out)
{
    skip_blanks(c);
    const char *start = c->p;
    uint64_t value = 0;
    for (; c->p < c->end && isdigit((unsigned char)*c->p); c->p++)
        if (__builtin_mul_overflow(value, 10u, &value) || __builtin_add_overflow(value, (uint64_t)(*c->p - '0'), &value))
            return false;
    if (c->p == start)
        return false;
    take(c, 'L'); /* numpy under Python 2 wrote longs so */
    *out = value;
    return true;
}

struct header {
    char descr[32];
    bool has_descr, structured, has_order, fortran, has_shape;
    uint64_t shape[2];
    size_t dims; /* may exceed 2: then only counted */
};

static bool take_shape(struct cursor *c, struct header *h)
{
    if (!take(c, '('))
        return false;
    while (!take(c, ')')) {
        uint64_t n;
        if (!take_number(c, &n))
            return false;
        if (h->dims < 2)
            h->shape[h->dims] = n;
        h->dims++;
        if (!take(c, ','))
            return take(c, ')');
    }
    return true;
}

static bool take_entry(struct cursor *c, struct header *h)
{
    char key[32];
    if (!take_string(c, key, sizeof key) || !take(c, ':'))
        return false;
    if (strcmp(key, "descr") == 0 && !h->has_descr) {
        h->has_descr = true;
        skip_blanks(c);
        h->structured = c->p < c->end && *c->p == '[';
        return h->structured || take_string(c, h->descr, sizeof h->descr);
    }
    if (strcmp(key, "fortran_order") == 0 && !h->has_order) {
        h->has_order = true;
        h->fortran = take_word(c, "True");
        return h->fortran || take_word(c, "False");
    }
    if (strcmp(key, "shape") == 0 && !h->has_shape) {
        h->has_shape = true;
        return take_shape(c, h);
    }
    return false;
}

static bool parse_header(struct cursor *c, struct header *h)
{
    if (!take(c, '{'))
        return false;
    while (!take(c, '}')) {
        if (!take_entry(c, h))
            return false;
        if (h->structured)
            return true; /* refused by the caller; its list is not ours to read */
        if (!take(c, ',')) {
            if (!take(c, '}'))
                return false;
            break;
        }
    }
    skip_blanks(c);
    return c->p == c->end && h->has_descr && h->has_order && h->has_shape;
}

static int refuse_dtype(const struct header *h, struct ap_err *err)
{
    const char *advice = "convert it with .astype('<f4')";
    if (h->structured)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "npy: structured arrays are not supported, only '<f4' and '<f2': %s",
                          advice);
    const char *why = h->descr[0] == '>' ? "big-endian " : h->descr[0] == '|' ? "dtype without a byte order, " : "dtype ";
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "npy: %s'%s' is not supported, only '<f4' and '<f2': %s", why, h->descr,
                      advice);
}

static int accept_header(struct ap_npy *npy, const struct header *h, struct ap_err *err)
{
    npy->half = strcmp(h->descr, "<f2") == 0;
    if (h->structured || (!npy->half && strcmp(h->descr, "<f4") != 0))
        return refuse_dtype(h, err);
    if (h->fortran)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON,
                          "npy: fortran_order is not supported: save numpy.ascontiguousarray(x)");
    if (h->dims != 2)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "npy: the array has %zu dimensions, expected 2: (rows, dim)", h->dims);
    if (h->shape[1] == 0 || h->shape[1] > AP_NPY_MAX_DIM)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "npy: rows of %llu components, expected 1 to %d",
                          (unsigned long long)h->shape[1], AP_NPY_MAX_DIM);
    npy->rows = h->shape[0];
    npy->dim = (size_t)h->shape[1];
    npy->row_bytes = npy->dim * (npy->half ? 2 : 4);
    npy->run_rows = RUN_BYTES / (npy->dim * sizeof(float)) ? RUN_BYTES / (npy->dim * sizeof(float)) : 1;
    npy->carry = malloc(npy->row_bytes);
    npy->run = malloc(npy->run_rows * npy->dim * sizeof(float));
    if (!npy->carry || !npy->run)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "npy: out of memory");
    npy->in_rows = true;
    return npy->sink.on_header ? npy->sink.on_header(npy->sink.arg, npy->rows, npy->dim, err) : 0;
}

/* Length of prefix and header as far as the gathered bytes tell; 0 with *err for what is no NPY. */
static size_t header_wanted(const struct ap_buf *b, struct ap_err *err)
{
    static const uint8_t magic[] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    size_t n = b->len < sizeof magic ? b->len : sizeof magic;
    if (memcmp(b->data, magic, n) != 0) {
        ap_err_set(err, AP_EINVAL, AP_POISON, "npy: the body does not begin as a .npy file does (\\x93NUMPY)");
        return 0;
    }
    if (b->len < 8)
        return 8;
    if (b->data[6] < 1 || b->data[6] > 3) {
        ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "npy: format version %u.%u is not supported, only 1.0, 2.0 and 3.0",
                   b->data[6], b->data[7]);
        return 0;
    }
    size_t prefix = b->data[6] == 1 ? PREFIX_V1 : PREFIX_V2;
    if (b->len < prefix)
        return prefix;
    size_t len = prefix == PREFIX_V1 ? ap_le16(b->data + 8) : ap_le32(b->data + 8);
    if (len > AP_NPY_MAX_HEADER) {
        ap_err_set(err, AP_EINVAL, AP_POISON, "npy: a header of %zu bytes is over the limit of %d", len, AP_NPY_MAX_HEADER);
        return 0;
    }
    return prefix + len;
}

/* Take bytes into the header; *used says how many. */
static int feed_header(struct ap_npy *npy, const uint8_t *bytes, size_t len, size_t *used, struct ap_err *err)
{
    struct ap_buf *b = &npy->header;
    *used = 0;
    for (;;) {
        size_t wanted = b->len ? header_wanted(b, err) : 1;
        if (wanted == 0)
            return err->code;
        if (wanted > b->len) {
            size_t n = wanted - b->len < len - *used ? wanted - b->len : len - *used;
            if (n == 0)
                return 0;
            ap_buf_append(b, bytes + *used, n);
            *used += n;
            continue;
        }
        struct header h = {0};
        const char *text = (const char *)b->data + (b->data[6] == 1 ? PREFIX_V1 : PREFIX_V2);
        struct cursor c = {text, (const char *)b->data + b->len};
        if (!parse_header(&c, &h))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "npy: malformed header at byte %zu", (size_t)(c.p - (const char *)b->data));
        return accept_header(npy, &h, err);
    }
}

/* --- rows --- */

/* IEEE 754 binary16 to binary32: scaling by 2^112 moves the exponent's bias and makes denormals right. */
static void halves_to_floats(const uint8_t *in, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t h = ap_le16(in + 2 * i);
        uint32_t magnitude = (h & 0x7fff) << 13;
        float scaled;
        memcpy(&scaled, &magnitude, 4);
        scaled *= 0x1p112f;
        uint32_t bits;
        memcpy(&bits, &scaled, 4);
        bits = (h & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000 : bits;
        bits |= (h & 0x8000) << 16;
        memcpy(out + i, &bits, 4);
    }
}

static void words_to_floats(const uint8_t *in, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = ap_le32(in + 4 * i);
        memcpy(out + i, &bits, 4);
    }
}

static int hand_out(struct ap_npy *npy, const float *rows, size_t count, struct ap_err *err)
{
    int rc = npy->sink.on_rows(npy->sink.arg, rows, count, npy->dim, npy->rows_done, err);
    if (rc == 0)
        npy->rows_done += count;
    return rc;
}

/* count whole rows as they came. */
static int convert_rows(struct ap_npy *npy, const uint8_t *bytes, size_t count, struct ap_err *err)
{
    const bool native = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    if (native && !npy->half && (uintptr_t)bytes % _Alignof(float) == 0)
        return hand_out(npy, (const float *)(const void *)bytes, count, err);
    while (count) {
        size_t n = count < npy->run_rows ? count : npy->run_rows;
        if (npy->half)
            halves_to_floats(bytes, npy->run, n * npy->dim);
        else
            words_to_floats(bytes, npy->run, n * npy->dim);
        int rc = hand_out(npy, npy->run, n, err);
        if (rc)
            return rc;
        bytes += n * npy->row_bytes;
        count -= n;
    }
    return 0;
}

static int feed_rows(struct ap_npy *npy, const uint8_t *bytes, size_t len, struct ap_err *err)
{
    if (npy->carry_len) {
        size_t n = npy->row_bytes - npy->carry_len < len ? npy->row_bytes - npy->carry_len : len;
        memcpy(npy->carry + npy->carry_len, bytes, n);
        npy->carry_len += n;
        bytes += n;
        len -= n;
        if (npy->carry_len < npy->row_bytes)
            return 0;
        npy->carry_len = 0;
        int rc = convert_rows(npy, npy->carry, 1, err);
        if (rc)
            return rc;
    }
    uint64_t left = npy->rows - npy->rows_done;
    size_t whole = len / npy->row_bytes;
    if (whole > left)
        whole = (size_t)left;
    int rc = whole ? convert_rows(npy, bytes, whole, err) : 0;
    if (rc)
        return rc;
    bytes += whole * npy->row_bytes;
    len -= whole * npy->row_bytes;
    if (len && npy->rows_done == npy->rows)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "npy: row %llu: bytes follow the %llu rows that the header declares",
                          (unsigned long long)npy->rows, (unsigned long long)npy->rows);
    memcpy(npy->carry, bytes, len);
    npy->carry_len = len;
    return 0;
}

/* Keep the error for later calls, and give it to the caller. */
static int fail(struct ap_npy *npy, int rc, const struct ap_err *own, struct ap_err *err)
{
    npy->failed = rc;
    npy->error = *own;
    if (err)
        *err = *own;
    return rc;
}

int ap_npy_feed(struct ap_npy *npy, const void *bytes, size_t len, struct ap_err *err)
{
    struct ap_err own = {0};
    const uint8_t *p = bytes;
    if (npy->failed)
        return ap_npy_end(npy, err);
    int rc = 0;
    if (!npy->in_rows && len) {
        size_t used;
        rc = feed_header(npy, p, len, &used, &own);
        p += used;
        len -= used;
    }
    if (rc == 0 && npy->in_rows && len)
        rc = feed_rows(npy, p, len, &own);
    return rc ? fail(npy, rc, &own, err) : 0;
}

int ap_npy_end(struct ap_npy *npy, struct ap_err *err)
{
    struct ap_err own = npy->error;
    int rc = npy->failed;
    if (rc == 0 && !npy->in_rows)
        rc = ap_err_set(&own, AP_EINVAL, AP_POISON, "npy: the body ends within the header, after %zu bytes", npy->header.len);
    else if (rc == 0 && npy->rows_done < npy->rows)
        rc = ap_err_set(&own, AP_EINVAL, AP_POISON, "npy: row %llu: the body ends here, after %zu of the row's %zu bytes; the header declares %llu rows",
                        (unsigned long long)npy->rows_done, npy->carry_len, npy->row_bytes, (unsigned long long)npy->rows);
    return rc ? fail(npy, rc, &own, err) : 0;
}

uint64_t ap_npy_rows_done(const struct ap_npy *npy)
{
    return npy->rows_done;
}

struct ap_npy *ap_npy_new(const struct ap_npy_sink *sink)
{
    struct ap_npy *npy = calloc(1, sizeof *npy);
    if (!npy)
        abort();
    npy->sink = *sink;
    return npy;
}

void ap_npy_free(struct ap_npy **npy)
{
    if (!*npy)
        return;
    ap_buf_free(&(*npy)->header);
    free((*npy)->carry);
    free((*npy)->run);
    free(*npy);
    *npy = NULL;
}
