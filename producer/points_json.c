/* One pass over the text. Every reader returns false once the text or a value is wrong; err then has the first reason. */
#include "producer/points_json.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "producer/json_pull.h"

static bool unknown(struct ap_pull *j, const struct ap_slice *key)
{
    return ap_pull_fail(j, AP_EINVAL, "unknown field \"%.*s\"", (int)(key->len < 64 ? key->len : 64), key->p);
}

static bool in_point(struct ap_pull *j, const char *what, size_t i)
{
    ap_err_wrap(j->err, "%s[%zu]", what, i);
    return false;
}

/* --- the parts of a point --- */

static bool read_id(struct ap_pull *j, struct ap_point_id *out)
{
    struct ap_slice text;
    char kind = ap_pull_peek(j);
    struct ap_err why = {0};
    if (kind == '0') {
        if (!ap_pull_value(j, &text))
            return false;
        /* Digits alone: neither a sign nor a fraction, and it must fit 64 bits. */
        return ap_point_id_parse(text.p, text.len < 21 ? text.len : 21, out, &why) == 0 && text.len <= 20
                   ? true : ap_pull_fail(j, AP_EINVAL, "id %.*s is neither a UUID nor an unsigned 64-bit integer", (int)(text.len < 40 ? text.len : 40), text.p);
    }
    if (kind == '"') {
        if (!ap_pull_string(j, &text))
            return false;
        if ((text.len == 32 || text.len == 36) && ap_point_id_parse(text.p, text.len, out, &why) == 0)
            return true;
        return ap_pull_fail(j, AP_EINVAL, "id \"%.*s\" is not a UUID (numbers are given without quotes)", (int)(text.len < 40 ? text.len : 40), text.p);
    }
    return ap_pull_fail(j, AP_EINVAL, "an id is a UUID string or an unsigned integer");
}

static bool read_floats(struct ap_pull *j, uint32_t dim, float *out)
{
    bool first = true;
    size_t n = 0;
    double value;
    if (ap_pull_peek(j) != '[')
        return ap_pull_fail(j, AP_EINVAL, "a vector is a list of numbers");
    ap_pull_open(j, '[');
    while (ap_pull_next(j, '[', &first)) {
        if (ap_pull_peek(j) != '0')
            return ap_pull_fail(j, ap_pull_peek(j) == '[' ? AP_EUNSUPPORTED : AP_EINVAL, ap_pull_peek(j) == '[' ? "vector[%zu] is a list: multivectors are not supported" : "vector[%zu] is not a number", n);
        if (!ap_pull_number(j, &value))
            return false;
        if (n < dim) {
            out[n] = (float)value;
            if (!isfinite(out[n]))
                return ap_pull_fail(j, AP_EINVAL, "vector[%zu] is not finite as float32", n);
        }
        n++;
    }
    if (!j->failed && n != dim)
        return ap_pull_fail(j, AP_EINVAL, "Wrong input: Vector dimension error: expected dim: %u, got %zu", dim, n);
    return !j->failed;
}

static const char *name_of(const struct ap_target *t)
{
    return t->vector_name ? t->vector_name : "";
}

/* {"name": value}: calls read for the value of the collection's one name. */
static bool check_name(struct ap_pull *j, const struct ap_target *t)
{
    struct ap_slice name;
    if (!ap_pull_key(j, &name))
        return false;
    if (ap_pull_is(&name, name_of(t)))
        return true;
    return ap_pull_fail(j, AP_EINVAL, "Wrong input: Not existing vector name error: %.*s", (int)(name.len < 64 ? name.len : 64), name.p);
}

static bool unnamed_allowed(struct ap_pull *j, const struct ap_target *t)
{
    if (!*name_of(t))
        return true;
    return ap_pull_fail(j, AP_EINVAL, "Wrong input: Not existing vector name error: the collection's vector is named \"%s\"", name_of(t));
}

static bool read_vector(struct ap_pull *j, const struct ap_target *t, float *out)
{
    bool first = true, seen = false;
    if (ap_pull_peek(j) != '{')
        return unnamed_allowed(j, t) && read_floats(j, t->dim, out);
    ap_pull_open(j, '{');
    while (ap_pull_next(j, '{', &first)) {
        if (seen)
            return ap_pull_fail(j, AP_EINVAL, "the vector is given twice");
        seen = true;
        if (!check_name(j, t) || !read_floats(j, t->dim, out))
            return false;
    }
    return !j->failed && (seen || ap_pull_fail(j, AP_EINVAL, "the point has no vector"));
}

/* Text without the blanks between its tokens; it has been validated. */
static void append_compact(struct ap_buf *out, const struct ap_slice *text)
{
    bool in_string = false;
    ap_buf_reserve(out, text->len);
    uint8_t *to = out->data + out->len;
    for (size_t i = 0; i < text->len; i++) {
        char c = text->p[i];
        if (in_string && c == '\\') {
            *to++ = (uint8_t)c;
            c = text->p[++i];
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == ' ' || c == '\n' || c == '\t' || c == '\r')) {
            continue;
        }
        *to++ = (uint8_t)c;
    }
    out->len = (size_t)(to - out->data);
}

/* The text is handed on as it is, but consumers read it with jansson: what that would refuse (a key twice, a number out of
 * range) is refused here. */
static bool read_payload(struct ap_pull *j, struct ap_points *p, size_t i)
{
    struct ap_slice text;
    json_error_t why;
    if (ap_pull_peek(j) != '{')
        return ap_pull_fail(j, AP_EINVAL, "a payload is an object");
    if (!ap_pull_value(j, &text))
        return false;
    json_t *check = json_loadb(text.p, text.len, JSON_REJECT_DUPLICATES, &why);
    if (!check)
        return ap_pull_fail(j, AP_EINVAL, "payload: %s", why.text);
    bool empty = json_object_size(check) == 0;
    json_decref(check);
    if (!empty) {
        size_t at = p->text.len;
        append_compact(&p->text, &text);
        p->payloads[i] = (struct ap_payload){at, p->text.len - at};
    }
    return true;
}

/* --- {id, vector, payload} --- */

static bool once(struct ap_pull *j, bool *seen, const char *what)
{
    if (*seen)
        return ap_pull_fail(j, AP_EINVAL, "field \"%s\" is there twice", what);
    return *seen = true;
}

static bool read_point(struct ap_pull *j, const struct ap_target *t, struct ap_points *p)
{
    bool first = true, id = false, vector = false, payload = false;
    struct ap_slice key;
    if (ap_pull_peek(j) != '{')
        return ap_pull_fail(j, AP_EINVAL, "a point is an object {id, vector, payload}");
    ap_pull_open(j, '{');
    ap_points_add(p);
    size_t i = p->n - 1;
    while (ap_pull_next(j, '{', &first)) {
        if (!ap_pull_key(j, &key))
            return false;
        if (ap_pull_is(&key, "id")) {
            if (!once(j, &id, "id") || !(ap_pull_null(j) || (p->has_id[i] = read_id(j, &p->ids[i]))))
                return false;
        } else if (ap_pull_is(&key, "vector")) {
            if (!once(j, &vector, "vector") || !read_vector(j, t, p->vectors + i * p->dim))
                return false;
        } else if (ap_pull_is(&key, "payload")) {
            if (!once(j, &payload, "payload") || !(ap_pull_null(j) || read_payload(j, p, i)))
                return false;
        } else {
            return unknown(j, &key);
        }
    }
    return !j->failed && (vector || ap_pull_fail(j, AP_EINVAL, "the point has no vector"));
}

/* A number takes at least two bytes of text: memory is bounded by the body even if a list of ids promises more. */
static bool room(struct ap_pull *j, const struct ap_points *p, size_t n, size_t max)
{
    if (p && n > (size_t)(j->end - j->start) / ((size_t)2 * p->dim))
        return ap_pull_fail(j, AP_EINVAL, "there are more ids or payloads than vectors of %u numbers", p->dim);
    return n < max || ap_pull_fail(j, AP_ETOOBIG, "more than %zu points in one request (max_points_per_request): send fewer at a time, or use points/bulk", max);
}

static bool read_points(struct ap_pull *j, const struct ap_target *t, size_t max, struct ap_points *p)
{
    bool first = true;
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!room(j, p, p->n, max))
            return false;
        size_t i = p->n;
        if (!read_point(j, t, p))
            return in_point(j, "points", i);
    }
    return !j->failed;
}

/* --- {ids, vectors, payloads} --- */

/* Columns may come in any order: each makes room for as many points as it has; counts are compared at the end. */
struct columns { size_t ids, vectors, payloads; bool has_ids, has_vectors, has_payloads; };

static bool ensure(struct ap_pull *j, struct ap_points *p, size_t i, size_t max)
{
    if (!room(j, p, i, max))
        return false;
    while (p->n <= i)
        ap_points_add(p);
    return true;
}

static bool read_id_column(struct ap_pull *j, struct ap_points *p, size_t max, size_t *n)
{
    bool first = true;
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!ensure(j, p, *n, max))
            return false;
        if (!ap_pull_null(j) && !(p->has_id[*n] = read_id(j, &p->ids[*n])))
            return in_point(j, "batch.ids", *n);
        ++*n;
    }
    return !j->failed;
}

static bool read_vector_list(struct ap_pull *j, const struct ap_target *t, struct ap_points *p, size_t max, size_t *n)
{
    bool first = true;
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!ensure(j, p, *n, max))
            return false;
        if (!read_floats(j, t->dim, p->vectors + *n * p->dim))
            return in_point(j, "batch.vectors", *n);
        ++*n;
    }
    return !j->failed;
}

static bool read_vector_column(struct ap_pull *j, const struct ap_target *t, struct ap_points *p, size_t max, size_t *n)
{
    bool first = true;
    if (ap_pull_peek(j) == '[')
        return unnamed_allowed(j, t) && read_vector_list(j, t, p, max, n);
    if (!ap_pull_open(j, '{'))
        return false;
    while (ap_pull_next(j, '{', &first))
        if (!check_name(j, t) || !read_vector_list(j, t, p, max, n))
            return false;
    return !j->failed;
}

static bool read_payload_column(struct ap_pull *j, struct ap_points *p, size_t max, size_t *n)
{
    bool first = true;
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!ensure(j, p, *n, max))
            return false;
        if (!ap_pull_null(j) && !read_payload(j, p, *n))
            return in_point(j, "batch.payloads", *n);
        ++*n;
    }
    return !j->failed;
}

static bool read_batch(struct ap_pull *j, const struct ap_target *t, size_t max, struct ap_points *p)
{
    bool first = true;
    struct ap_slice key;
    struct columns c = {0};
    if (!ap_pull_open(j, '{'))
        return false;
    while (ap_pull_next(j, '{', &first)) {
        if (!ap_pull_key(j, &key))
            return false;
        bool good;
        if (ap_pull_is(&key, "ids"))
            good = once(j, &c.has_ids, "ids") && read_id_column(j, p, max, &c.ids);
        else if (ap_pull_is(&key, "vectors"))
            good = once(j, &c.has_vectors, "vectors") && read_vector_column(j, t, p, max, &c.vectors);
        else if (ap_pull_is(&key, "payloads"))
            good = ap_pull_null(j) || (once(j, &c.has_payloads, "payloads") && read_payload_column(j, p, max, &c.payloads));
        else
            return unknown(j, &key);
        if (!good)
            return false;
    }
    if (j->failed)
        return false;
    if (!c.has_ids || !c.has_vectors)
        return ap_pull_fail(j, AP_EINVAL, "batch has no \"%s\"", c.has_ids ? "vectors" : "ids");
    if (c.ids != c.vectors || (c.has_payloads && c.payloads != c.ids))
        return ap_pull_fail(j, AP_EINVAL, "batch has %zu ids, %zu vectors and %zu payloads: they must be equally many", c.ids, c.vectors, c.payloads);
    return true;
}

/* --- bodies --- */

static bool read_body(struct ap_pull *j, const struct ap_target *t, size_t max, struct ap_points *p)
{
    bool first = true, seen = false;
    struct ap_slice key;
    if (!ap_pull_open(j, '{'))
        return false;
    while (ap_pull_next(j, '{', &first)) {
        if (!ap_pull_key(j, &key))
            return false;
        bool points = ap_pull_is(&key, "points"), batch = ap_pull_is(&key, "batch");
        if (points || batch) {
            if (!once(j, &seen, "points or batch") || !(points ? read_points(j, t, max, p) : read_batch(j, t, max, p)))
                return false;
        } else if (ap_pull_is(&key, "shard_key") || ap_pull_is(&key, "update_filter") || ap_pull_is(&key, "update_mode")) {
            if (!ap_pull_null(j))
                return ap_pull_fail(j, AP_EUNSUPPORTED, "\"%.*s\" is not supported", (int)key.len, key.p);
        } else {
            return unknown(j, &key);
        }
    }
    return ap_pull_end(j) && (seen || ap_pull_fail(j, AP_EINVAL, "the body has neither \"points\" nor \"batch\""));
}

int ap_points_parse(const char *body, size_t len, const struct ap_target *t, size_t max_points, struct ap_points *out, struct ap_err *err)
{
    struct ap_err own = {0};
    struct ap_pull j;
    ap_pull_init(&j, body, len, err ? err : &own);
    return read_body(&j, t, max_points, out) ? 0 : j.err->code;
}

int ap_points_parse_one(const char *text, size_t len, const struct ap_target *t, struct ap_points *out, struct ap_err *err)
{
    struct ap_err own = {0};
    struct ap_pull j;
    size_t n = out->n, bytes = out->text.len;
    ap_pull_init(&j, text, len, err ? err : &own);
    if (read_point(&j, t, out) && ap_pull_end(&j))
        return 0;
    out->n = n;
    out->text.len = bytes;
    return j.err->code;
}

/* --- deletion --- */

static bool read_ids(struct ap_pull *j, size_t max, struct ap_buf *out, size_t *n)
{
    bool first = true;
    struct ap_point_id id;
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!room(j, NULL, *n, max))
            return false;
        if (!read_id(j, &id))
            return in_point(j, "points", *n);
        ap_buf_append(out, &id, sizeof id);
        ++*n;
    }
    return !j->failed;
}

static bool read_delete(struct ap_pull *j, size_t max, struct ap_buf *out, size_t *n)
{
    bool first = true, seen = false;
    struct ap_slice key;
    if (!ap_pull_open(j, '{'))
        return false;
    while (ap_pull_next(j, '{', &first)) {
        if (!ap_pull_key(j, &key))
            return false;
        if (ap_pull_is(&key, "points")) {
            if (!once(j, &seen, "points") || !read_ids(j, max, out, n))
                return false;
        } else if (ap_pull_is(&key, "filter") || ap_pull_is(&key, "shard_key")) {
            if (!ap_pull_null(j))
                return ap_pull_fail(j, AP_EUNSUPPORTED, "deleting by \"%.*s\" is not supported by the producer: name the points by id", (int)key.len, key.p);
        } else {
            return unknown(j, &key);
        }
    }
    return ap_pull_end(j) && (seen || ap_pull_fail(j, AP_EINVAL, "the body has no \"points\""));
}

int ap_points_parse_delete(const char *body, size_t len, size_t max_points, struct ap_point_id **ids, size_t *count, struct ap_err *err)
{
    struct ap_err own = {0};
    struct ap_pull j;
    struct ap_buf out = {0};
    *ids = NULL;
    *count = 0;
    ap_pull_init(&j, body, len, err ? err : &own);
    if (!read_delete(&j, max_points, &out, count)) {
        ap_buf_free(&out);
        *count = 0;
        return j.err->code;
    }
    *ids = (struct ap_point_id *)(void *)out.data;
    return 0;
}
