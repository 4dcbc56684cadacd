/* Points by id or by filter, without a question: scroll, count, and queries that have none. */
#include <stdlib.h>
#include <string.h>
#include "indexer/api_impl.h"

struct walk {
    struct ap_read *read;
    const struct ap_filter *filter;
    bool needs_payload;
    struct ap_buf payload;
    struct ap_found *out; /* NULL: only count */
    uint64_t count, limit;
    struct ap_err *err;
    int rc;
};

static bool matches(struct walk *w, const struct ap_point_id *id, uint64_t slot)
{
    struct ap_row row;
    const char *text;
    size_t len;
    if (!w->filter || !w->needs_payload)
        return ap_filter_match(w->filter, id, NULL);
    w->rc = ap_view_row(w->read->view, slot, &row, w->err);
    if (w->rc == 0)
        w->rc = ap_answer_payload(&row, &w->payload, &text, &len, w->err);
    if (w->rc)
        return false;
    json_t *payload = len ? json_loadb(text, len, JSON_ALLOW_NUL, NULL) : NULL;
    bool yes = ap_filter_match(w->filter, id, payload);
    json_decref(payload);
    return yes;
}

static int visit(void *arg, const struct ap_point_id *id, uint64_t slot)
{
    struct walk *w = arg;
    if (matches(w, id, slot)) {
        if (w->out)
            w->out[w->count] = (struct ap_found){*id, slot};
        w->count++;
    }
    return w->rc || w->count == w->limit;
}

/* The filter names the only points that can match. */
static int visit_listed(struct walk *w, const struct ap_point_id *ids, size_t count, const struct ap_point_id *from)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t slot;
        if (from && memcmp(&ids[i], from, sizeof *from) < 0)
            continue;
        int rc = ap_view_point(w->read->view, &w->read->c, &ids[i], &slot, w->err);
        if (rc && rc != AP_ENOTFOUND)
            return rc;
        if (rc == 0 && visit(w, &ids[i], slot))
            break;
    }
    return w->rc;
}

static int walk(struct walk *w, const struct ap_point_id *from, bool in_order)
{
    size_t listed = 0;
    const struct ap_point_id *ids = ap_filter_only_ids(w->filter, &listed);
    w->needs_payload = ap_filter_needs_payload(w->filter);
    int rc;
    if (ids)
        rc = visit_listed(w, ids, listed, from);
    else if (in_order)
        rc = ap_view_scroll(w->read->view, &w->read->c, from, visit, w, w->err);
    else
        rc = ap_view_scan(w->read->view, &w->read->c, visit, w, w->err);
    ap_buf_free(&w->payload);
    return w->rc ? w->rc : rc < 0 ? rc : 0; /* a positive value is visit's own: enough */
}

int ap_walk_page(struct ap_read *r, const struct ap_filter *filter, const struct ap_point_id *from, size_t limit, struct ap_found *out, size_t *count, struct ap_err *err)
{
    struct walk w = {.read = r, .filter = filter, .out = out, .limit = limit, .err = err};
    int rc = limit ? walk(&w, from, true) : 0;
    *count = (size_t)w.count;
    return rc;
}

int ap_walk_count(struct ap_read *r, const struct ap_filter *filter, uint64_t *count, struct ap_err *err)
{
    struct walk w = {.read = r, .filter = filter, .limit = UINT64_MAX, .err = err};
    *count = r->c.points;
    if (!filter)
        return 0;
    int rc = walk(&w, NULL, false);
    *count = w.count;
    return rc;
}
