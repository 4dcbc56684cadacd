/* Each operation's text is cut out of the body and given to the reader of its call. */
#include "producer/operations.h"
#include <stdlib.h>
#include "producer/points_json.h"
#include "producer/points_read.h"

static const struct { const char *name; bool upsert; enum ap_change_kind kind; } calls[] = {
    {"upsert", true, AP_CHANGE_DELETE},
    {"delete", false, AP_CHANGE_DELETE},
    {"set_payload", false, AP_CHANGE_SET_PAYLOAD},
    {"overwrite_payload", false, AP_CHANGE_OVERWRITE_PAYLOAD},
    {"delete_payload", false, AP_CHANGE_DELETE_PAYLOAD},
    {"clear_payload", false, AP_CHANGE_CLEAR_PAYLOAD},
};

struct reader {
    struct ap_pull j;
    const struct ap_target *t;
    struct ap_operations *b;
    size_t max;
};

static struct ap_operation *add(struct ap_operations *b, const struct ap_target *t)
{
    if (b->count == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 16;
        b->list = reallocarray(b->list, b->cap, sizeof *b->list);
        if (!b->list)
            abort();
    }
    struct ap_operation *o = &b->list[b->count++];
    *o = (struct ap_operation){0};
    ap_points_init(&o->points, t->dim);
    return o;
}

static int read_call(struct reader *r, size_t call, const struct ap_slice *text)
{
    struct ap_err *err = r->j.err;
    struct ap_operation *o = add(r->b, r->t);
    o->upsert = calls[call].upsert;
    int rc = o->upsert ? ap_points_parse(text->p, text->len, r->t, r->max, &o->points, err)
                       : ap_change_parse(calls[call].kind, text->p, text->len, r->max, &o->change, err);
    if (rc)
        return rc;
    if (o->change.filtered)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "\"filter\" is not supported within a batch: send this operation by itself, to the indexer");
    r->b->points += o->upsert ? o->points.n : o->change.n;
    if (r->b->points > r->max)
        return ap_err_set(err, AP_ETOOBIG, AP_POISON, "more than %zu points in one request (max_points_per_request): send fewer at a time", r->max);
    return 0;
}

/* {"name": body}: one of the calls, and nothing beside it. */
static bool read_operation(struct reader *r)
{
    bool first = true, seen = false;
    struct ap_slice key, text;
    if (ap_pull_peek(&r->j) != '{')
        return ap_pull_fail(&r->j, AP_EINVAL, "an operation is an object {name: body}");
    ap_pull_open(&r->j, '{');
    while (ap_pull_next(&r->j, '{', &first)) {
        size_t call = 0;
        if (!ap_pull_key(&r->j, &key))
            return false;
        while (call < sizeof calls / sizeof *calls && !ap_pull_is(&key, calls[call].name))
            call++;
        if (ap_pull_is(&key, "update_vectors") || ap_pull_is(&key, "delete_vectors"))
            return ap_pull_fail(&r->j, AP_EUNSUPPORTED, "\"%.*s\" is not supported: upsert the point", (int)key.len, key.p);
        if (call == sizeof calls / sizeof *calls)
            return ap_read_unknown(&r->j, &key);
        if (!ap_read_once(&r->j, &seen, "operation") || !ap_pull_value(&r->j, &text))
            return false;
        if (read_call(r, call, &text) != 0) {
            ap_err_wrap(r->j.err, "%s", calls[call].name);
            r->j.failed = true;
            return false;
        }
    }
    return !r->j.failed && (seen || ap_pull_fail(&r->j, AP_EINVAL, "it names no operation"));
}

static bool read_operations(struct reader *r)
{
    bool first = true;
    if (!ap_pull_open(&r->j, '['))
        return false;
    while (ap_pull_next(&r->j, '[', &first)) {
        if (r->b->count == r->max)
            return ap_pull_fail(&r->j, AP_ETOOBIG, "more than %zu operations in one request (max_points_per_request)", r->max);
        size_t i = r->b->count;
        if (!read_operation(r))
            return ap_read_in(&r->j, "operations", i);
    }
    return !r->j.failed;
}

static bool read_body(struct reader *r)
{
    bool first = true, seen = false;
    struct ap_slice key;
    if (!ap_pull_open(&r->j, '{'))
        return false;
    while (ap_pull_next(&r->j, '{', &first)) {
        if (!ap_pull_key(&r->j, &key))
            return false;
        if (!ap_pull_is(&key, "operations"))
            return ap_read_unknown(&r->j, &key);
        if (!ap_read_once(&r->j, &seen, "operations") || !read_operations(r))
            return false;
    }
    return ap_pull_end(&r->j) && (seen || ap_pull_fail(&r->j, AP_EINVAL, "the body has no \"operations\""));
}

int ap_operations_parse(const char *text, size_t len, const struct ap_target *t, size_t max_points, struct ap_operations *out, struct ap_err *err)
{
    struct ap_err own = {0};
    struct reader r = {.t = t, .b = out, .max = max_points};
    *out = (struct ap_operations){0};
    ap_pull_init(&r.j, text, len, err ? err : &own);
    return read_body(&r) ? 0 : r.j.err->code;
}

int ap_operations_prepare(struct ap_operations *b, const struct ap_target *t, struct ap_err *err)
{
    for (size_t i = 0; i < b->count; i++) {
        struct ap_point_errors errors = {0};
        if (b->list[i].upsert && ap_points_prepare(&b->list[i].points, t, &errors, err) != 0)
            return ap_err_wrap(err, "operations[%zu]: upsert", i);
    }
    return 0;
}

void ap_operations_records(const struct ap_operations *b, const struct ap_target *t, struct ap_record *out, size_t *count)
{
    *count = 0;
    for (size_t i = 0; i < b->count; i++) {
        const struct ap_operation *o = &b->list[i];
        size_t n = o->points.n;
        if (o->upsert)
            ap_points_records(&o->points, t, out + *count);
        else
            ap_change_records(&o->change, t->collection, out + *count, &n);
        *count += n;
    }
}

void ap_operations_fini(struct ap_operations *b)
{
    for (size_t i = 0; i < b->count; i++) {
        ap_points_fini(&b->list[i].points);
        ap_change_fini(&b->list[i].change);
    }
    free(b->list);
    *b = (struct ap_operations){0};
}
