/* One pass over the text. Every reader returns false once the text or a value is wrong; err then has the first reason. */
#include "producer/points_json.h"
#include <math.h>
#include <string.h>
#include "producer/points_read.h"

/* --- the parts of a point --- */

static bool read_floats(struct ap_pull *j, uint32_t dim, float *out)
{
    bool first = true;
    size_t n = 0;
    double value;
    if (ap_pull_peek(j) != '[')
        return ap_pull_fail(j, AP_EINVAL, "a vector is a list of numbers");
    ap_pull_open(j, '[');
    while (ap_pull_next(j, '[', &first)) {
        char c = ap_pull_peek(j);
        if (c && c != '0') /* 0: the text ends, which ap_pull_number says */
            return ap_pull_fail(j, c == '[' ? AP_EUNSUPPORTED : AP_EINVAL, c == '[' ? "vector[%zu] is a list: multivectors are not supported" : "vector[%zu] is not a number", n);
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

/* --- {id, vector, payload} --- */

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
            if (!ap_read_once(j, &id, "id") || !(ap_pull_null(j) || (p->has_id[i] = ap_read_id(j, &p->ids[i]))))
                return false;
        } else if (ap_pull_is(&key, "vector")) {
            if (!ap_read_once(j, &vector, "vector") || !read_vector(j, t, p->vectors + i * p->dim))
                return false;
        } else if (ap_pull_is(&key, "payload")) {
            if (!ap_read_once(j, &payload, "payload") || !(ap_pull_null(j) || ap_read_payload(j, &p->text, &p->payloads[i])))
                return false;
        } else {
            return ap_read_unknown(j, &key);
        }
    }
    return !j->failed && (vector || ap_pull_fail(j, AP_EINVAL, "the point has no vector"));
}

/* A number takes at least two bytes of text: memory is bounded by the body even if a list of ids promises more. */
static bool room(struct ap_pull *j, const struct ap_points *p, size_t n, size_t max)
{
    if (n > (size_t)(j->end - j->start) / ((size_t)2 * p->dim))
        return ap_pull_fail(j, AP_EINVAL, "there are more ids or payloads than vectors of %u numbers", p->dim);
    return ap_read_room(j, n, max);
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
            return ap_read_in(j, "points", i);
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
        if (!ap_pull_null(j) && !(p->has_id[*n] = ap_read_id(j, &p->ids[*n])))
            return ap_read_in(j, "batch.ids", *n);
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
            return ap_read_in(j, "batch.vectors", *n);
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
        if (!ap_pull_null(j) && !ap_read_payload(j, &p->text, &p->payloads[*n]))
            return ap_read_in(j, "batch.payloads", *n);
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
            good = ap_read_once(j, &c.has_ids, "ids") && read_id_column(j, p, max, &c.ids);
        else if (ap_pull_is(&key, "vectors"))
            good = ap_read_once(j, &c.has_vectors, "vectors") && read_vector_column(j, t, p, max, &c.vectors);
        else if (ap_pull_is(&key, "payloads"))
            good = ap_pull_null(j) || (ap_read_once(j, &c.has_payloads, "payloads") && read_payload_column(j, p, max, &c.payloads));
        else
            return ap_read_unknown(j, &key);
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
            if (!ap_read_once(j, &seen, "points or batch") || !(points ? read_points(j, t, max, p) : read_batch(j, t, max, p)))
                return false;
        } else if (ap_pull_is(&key, "shard_key") || ap_pull_is(&key, "update_filter") || ap_pull_is(&key, "update_mode")) {
            if (!ap_pull_null(j))
                return ap_pull_fail(j, AP_EUNSUPPORTED, "\"%.*s\" is not supported", (int)key.len, key.p);
        } else {
            return ap_read_unknown(j, &key);
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
