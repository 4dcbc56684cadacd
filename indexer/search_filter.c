/* What a filter selects, segment by segment: rows to be scored where they lie, when the segment's indexes answer for all of
 * it; rows to be read and asked, where they give a bound. How rows are then scored is a matter of cost (segment.c): few of
 * them all, many list by list. */
#include <stdlib.h>
#include <string.h>
#include "indexer/search_impl.h"

#define RUN 512
#define FAISS_FEW 512 /* rows of a FAISS segment that are read rather than searched for */

struct finding { struct ap_view *view; uint64_t collection; const struct ap_segment *segment; };

static int64_t find_point(void *arg, const struct ap_point_id *id)
{
    struct finding *f = arg;
    struct ap_key key;
    ap_key_make(f->collection, id, &key);
    uint64_t slot = ap_view_lookup(f->view, &key);
    return slot ? ap_segment_find(f->segment, slot) : -1;
}

/* The selection among the segment's first rows. */
static void select_rows(struct ap_view *view, const struct ap_state_coll *c, size_t at, uint32_t rows, const struct ap_filter *filter, struct ap_selection *out)
{
    struct finding f = {view, c->coll->id, c->segments[at]};
    struct ap_select_in in = {.rows = rows, .columns = c->columns[at], .values = c->segments[at]->values, .find = find_point, .arg = &f};
    ap_select(filter, &in, out);
}

static void append(struct ap_slots *out, uint64_t slot)
{
    if (out->count == out->cap) {
        out->cap = out->cap ? out->cap * 2 : 1024;
        out->items = realloc(out->items, out->cap * sizeof *out->items);
        if (!out->items)
            abort();
    }
    out->items[out->count++] = slot;
}

static int by_slot(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void sort(struct ap_slots *s)
{
    if (s->count > 1)
        qsort(s->items, s->count, sizeof *s->items, by_slot);
}

/* Live rows from `from` to `end` of the selection, as slots. */
static void take_slots(const struct ap_segment *s, const struct ap_selection *sel, uint32_t from, uint32_t end, struct ap_slots *out)
{
    uint32_t found[RUN], n;
    roaring_uint32_iterator_t it;
    if (!sel->rows) {
        for (uint32_t i = from; i < end; i++)
            if (ap_segment_live(s, i))
                append(out, ap_segment_slot(s, i));
        return;
    }
    roaring_init_iterator(sel->rows, &it);
    if (from > 0 && !roaring_move_uint32_iterator_equalorlarger(&it, from))
        return;
    while ((n = roaring_read_uint32_iterator(&it, found, RUN)) > 0)
        for (uint32_t i = 0; i < n && found[i] < end; i++)
            if (ap_segment_live(s, found[i]))
                append(out, ap_segment_slot(s, found[i]));
}

static void score_rows(const struct ap_segment *s, const struct ap_segment_query *sq, const struct ap_selection *sel, uint32_t from, uint32_t end, struct ap_top *top)
{
    uint32_t found[RUN], n;
    roaring_uint32_iterator_t it;
    if (!sel->rows) {
        for (uint32_t i = from; i < end; i += n) {
            n = end - i < RUN ? end - i : RUN;
            for (uint32_t j = 0; j < n; j++)
                found[j] = i + j;
            ap_segment_score(s, sq, found, n, top);
        }
        return;
    }
    roaring_init_iterator(sel->rows, &it);
    if (from > 0 && !roaring_move_uint32_iterator_equalorlarger(&it, from))
        return;
    while ((n = roaring_read_uint32_iterator(&it, found, RUN)) > 0)
        ap_segment_score(s, sq, found, n, top);
}

/* Hot rows come while they are looked at: again, until there are no more (segment.c says why). */
static void hot_segment(struct search *s, const struct ap_segment_query *sq, size_t at, bool scan, struct ap_top *top)
{
    const struct ap_segment *segment = s->c->segments[at];
    uint32_t from = 0, n;
    while ((n = atomic_load_explicit(&segment->count, memory_order_acquire)) > from) {
        struct ap_selection sel;
        select_rows(s->view, s->c, at, n, s->q->filter, &sel);
        if (sel.exact && !scan)
            score_rows(segment, sq, &sel, from, n, top);
        else
            take_slots(segment, &sel, from, n, sel.exact ? &s->scratch->sure : &s->scratch->slots);
        ap_selection_fini(&sel);
        from = n;
    }
}

static int sealed_segment(struct search *s, const struct ap_segment_query *sq, size_t at, bool scan, struct ap_top *top, bool *all, struct ap_err *err)
{
    const struct ap_segment *segment = s->c->segments[at];
    struct ap_selection sel;
    int rc = 0;
    if (atomic_load_explicit(&segment->live_count, memory_order_acquire) == 0)
        return 0;
    select_rows(s->view, s->c, at, segment->cap, s->q->filter, &sel);
    if (sel.exact && !sel.rows)
        sel.rows = roaring_bitmap_from_range(0, segment->cap, 1);
    uint64_t matches = sel.exact ? roaring_bitmap_get_cardinality(sel.rows) : 0;
    if (!sel.exact || scan || (segment->kind == AP_SEGMENT_FAISS && matches <= FAISS_FEW))
        take_slots(segment, &sel, 0, segment->cap, sel.exact ? &s->scratch->sure : &s->scratch->slots);
    else
        rc = ap_segment_search_these(segment, sq, sel.rows, matches, all, top, err);
    ap_selection_fini(&sel);
    return rc;
}

int ap_search_filtered(struct search *s, struct ap_segment_query *sq, size_t k, bool scan, struct ap_top *top, bool *all, struct ap_err *err)
{
    int rc = 0;
    for (int i = 0; i < AP_SEARCH_TRIES && rc == 0; i++) {
        size_t room = k;
        for (size_t j = 0; j < s->c->count; j++)
            room = ap_segment_room(s->c->segments[j]) > room ? ap_segment_room(s->c->segments[j]) : room;
        ap_search_scratch(s->params->dim, s->params->distance, room, s->hit_room);
        sq->scores = s->scratch->scores;
        sq->ordinals = s->scratch->ordinals;
        *top = (struct ap_top){s->scratch->heap, 0, k};
        *all = true;
        s->scratch->slots.count = s->scratch->sure.count = 0;
        for (size_t j = 0; j < s->c->count && rc == 0; j++)
            if (s->c->segments[j]->hot)
                hot_segment(s, sq, j, scan, top);
            else
                rc = sealed_segment(s, sq, j, scan, top, all, err);
        if (atomic_load(&s->view->index->rolls) == ap_view_state(s->view)->rolls)
            break;
        ap_view_renew_state(s->view);
        s->c = ap_state_find(ap_view_state(s->view), s->c->coll->id);
        ap_count(s->view->index->metrics.retries, 1);
    }
    sort(&s->scratch->slots);
    sort(&s->scratch->sure);
    return rc;
}

/* ---- without a question ---- */

static void select_all(struct ap_view *view, const struct ap_collection_view *c, const struct ap_filter *filter, struct ap_slots *sure, struct ap_slots *unsure)
{
    struct ap_index *index = view->index;
    const struct ap_state_coll *sc = ap_state_find(ap_view_state(view), c->collection->id);
    for (size_t j = 0; sc && j < sc->count; j++) {
        const struct ap_segment *segment = sc->segments[j];
        uint32_t from = 0, n;
        while ((n = atomic_load_explicit(&segment->count, memory_order_acquire)) > from) {
            struct ap_selection sel;
            select_rows(view, sc, j, n, filter, &sel);
            take_slots(segment, &sel, from, n, sel.exact ? sure : unsure);
            ap_selection_fini(&sel);
            from = n;
        }
    }
    pthread_mutex_lock(&index->apply_lock);
    for (size_t i = 0; sc && i < sc->coll->pending.count; i++)
        append(unsure, sc->coll->pending.items[i]);
    for (size_t i = 0; sc && i < sc->coll->unusable.count; i++)
        append(unsure, sc->coll->unusable.items[i]);
    pthread_mutex_unlock(&index->apply_lock);
    sort(sure);
    sort(unsure);
}

void ap_view_select(struct ap_view *view, const struct ap_collection_view *c, const struct ap_filter *filter, struct ap_selected *out)
{
    struct ap_index *index = view->index;
    struct ap_slots sure = {0}, unsure = {0};
    memset(out, 0, sizeof *out);
    for (int i = 0; i < AP_SEARCH_TRIES && !out->calm; i++) {
        uint64_t changes = atomic_load(&index->changes);
        sure.count = unsure.count = 0;
        out->visible = atomic_load(&index->visible);
        select_all(view, c, filter, &sure, &unsure);
        out->calm = changes % 2 == 0 && atomic_load(&index->changes) == changes && atomic_load(&index->rolls) == ap_view_state(view)->rolls;
        if (!out->calm)
            ap_view_renew_state(view);
    }
    out->sure = sure.items;
    out->sure_count = sure.count;
    out->unsure = unsure.items;
    out->unsure_count = unsure.count;
}

void ap_selected_fini(struct ap_selected *s)
{
    free(s->sure);
    free(s->unsure);
    memset(s, 0, sizeof *s);
}
