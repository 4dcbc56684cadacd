/* Points by id or by filter, without a question: scroll, count, and queries that have none.
 *
 * Where indexes can help they are asked once for all rows. A count is then what they say; a page is looked up among the
 * rows that they select when these are few, else in the order of ids, where most are decided without reading them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/api_impl.h"

struct walk {
    struct ap_read *read;
    const struct ap_filter *filter;
    bool needs_payload;
    struct ap_selected selected;
    bool has_selected;
    struct ap_buf payload;
    struct ap_found *out; /* NULL: only count */
    uint64_t count, limit;
    struct ap_err *err;
    int rc;
};

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool among(const uint64_t *slots, size_t count, uint64_t slot)
{
    return count > 0 && bsearch(&slot, slots, count, sizeof *slots, by_number);
}

/* By the row itself. */
static bool row_matches(struct walk *w, const struct ap_point_id *id, uint64_t slot)
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

static bool matches(struct walk *w, const struct ap_point_id *id, uint64_t slot)
{
    const struct ap_selected *s = &w->selected;
    if (w->has_selected && slot < s->visible && among(s->sure, s->sure_count, slot))
        return true;
    if (w->has_selected && slot < s->visible && !among(s->unsure, s->unsure_count, slot))
        return false;
    return row_matches(w, id, slot);
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

/* The current row in slot: false when it was replaced since. */
static bool current(struct walk *w, uint64_t slot, struct ap_point_id *id)
{
    struct ap_row row;
    uint64_t now;
    if (ap_view_row(w->read->view, slot, &row, NULL) != 0)
        return false;
    *id = ap_key_point(&row.key);
    return ap_view_point(w->read->view, &w->read->c, id, &now, NULL) == 0 && now == slot;
}

static int by_id(const void *a, const void *b)
{
    return memcmp(&((const struct ap_found *)a)->id, &((const struct ap_found *)b)->id, sizeof(struct ap_point_id));
}

/* Few rows are selected: their points, sorted. */
static int page_of_selected(struct walk *w, const struct ap_point_id *from)
{
    const struct ap_selected *s = &w->selected;
    struct ap_found *all = malloc((s->sure_count + s->unsure_count + 1) * sizeof *all);
    size_t n = 0;
    if (!all)
        return ap_err_set(w->err, AP_ENOMEM, AP_RETRY, "out of memory for %zu points", s->sure_count + s->unsure_count);
    for (size_t i = 0; w->rc == 0 && i < s->sure_count + s->unsure_count; i++) {
        bool sure = i < s->sure_count;
        struct ap_found f = {.slot = sure ? s->sure[i] : s->unsure[i - s->sure_count]};
        if (current(w, f.slot, &f.id) && (!from || memcmp(&f.id, from, sizeof *from) >= 0) && (sure || row_matches(w, &f.id, f.slot)))
            all[n++] = f;
    }
    qsort(all, n, sizeof *all, by_id);
    w->count = n < w->limit ? n : w->limit;
    memcpy(w->out, all, w->count * sizeof *all);
    free(all);
    return w->rc;
}

static int count_selected(struct walk *w)
{
    const struct ap_selected *s = &w->selected;
    struct ap_point_id id;
    w->count = s->calm ? s->sure_count : 0;
    for (size_t i = 0; !s->calm && i < s->sure_count; i++)
        w->count += current(w, s->sure[i], &id);
    for (size_t i = 0; w->rc == 0 && i < s->unsure_count; i++)
        w->count += current(w, s->unsure[i], &id) && row_matches(w, &id, s->unsure[i]);
    return w->rc;
}

/* Reading and sorting n rows, against walking past points / n of them for each that is wanted. */
static bool few(const struct walk *w)
{
    double n = (double)(w->selected.sure_count + w->selected.unsure_count);
    return n < 100 || n * n < 4.0 * (double)w->limit * (double)w->read->c.points;
}

static int walk(struct walk *w, const struct ap_point_id *from, bool in_order)
{
    size_t listed = 0;
    const struct ap_point_id *ids = ap_filter_only_ids(w->filter, &listed);
    w->needs_payload = ap_filter_needs_payload(w->filter);
    if (!ids && ap_filter_is_indexed(w->filter)) {
        ap_view_select(w->read->view, &w->read->c, w->filter, &w->selected);
        w->has_selected = true;
    }
    int rc;
    if (ids)
        rc = visit_listed(w, ids, listed, from);
    else if (w->has_selected && !in_order)
        rc = count_selected(w);
    else if (w->has_selected && few(w))
        rc = page_of_selected(w, from);
    else if (in_order)
        rc = ap_view_scroll(w->read->view, &w->read->c, from, visit, w, w->err);
    else
        rc = ap_view_scan(w->read->view, &w->read->c, visit, w, w->err);
    ap_selected_fini(&w->selected);
    ap_buf_free(&w->payload);
    return w->rc ? w->rc : rc < 0 ? rc : 0; /* a positive value is visit's own: enough */
}

int ap_walk_page(struct ap_read *r, struct ap_filter *filter, const struct ap_point_id *from, size_t limit, struct ap_found *out, size_t *count, struct ap_err *err)
{
    struct walk w = {.read = r, .filter = filter, .out = out, .limit = limit, .err = err};
    int rc = ap_view_bind(&r->c, filter, err);
    if (rc == 0 && limit)
        rc = walk(&w, from, true);
    *count = (size_t)w.count;
    return rc;
}

int ap_walk_count(struct ap_read *r, struct ap_filter *filter, uint64_t *count, struct ap_err *err)
{
    struct walk w = {.read = r, .filter = filter, .limit = UINT64_MAX, .err = err};
    *count = r->c.points;
    int rc = ap_view_bind(&r->c, filter, err);
    if (!filter || rc)
        return rc;
    rc = walk(&w, NULL, false);
    *count = w.count;
    return rc;
}
