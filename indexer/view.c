/* Views: a state and a snapshot, taken in this order, so that what the state names is in the snapshot.
 *
 * Rows newer than the snapshot may turn up in hot segments while the view lasts; then it takes another snapshot. Nothing
 * that was handed out goes before the view ends, so it keeps all of them: few, since a view is short. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/index_impl.h"

#define SNAPSHOTS_MAX 64

static void push_state(struct ap_view *view)
{
    struct ap_state **all = realloc(view->states, (view->state_count + 1) * sizeof(struct ap_state *));
    if (!all)
        abort();
    all[view->state_count++] = ap_state_get(view->index);
    view->states = all;
}

static int push_snapshot(struct ap_view *view, struct ap_err *err)
{
    struct ap_snapshot **all = realloc(view->snapshots, (view->snapshot_count + 1) * sizeof(struct ap_snapshot *));
    if (!all)
        abort();
    view->snapshots = all;
    int rc = ap_snapshot_begin(view->index->store, &all[view->snapshot_count], err);
    view->snapshot_count += rc == 0;
    return rc;
}

int ap_view_begin(struct ap_index *index, struct ap_view **out, struct ap_err *err)
{
    struct ap_view *view = calloc(1, sizeof *view);
    *out = NULL;
    if (!view)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a view");
    view->index = index;
    push_state(view);
    int rc = push_snapshot(view, err);
    if (rc < 0)
        ap_view_end(&view);
    *out = view;
    return rc;
}

void ap_view_end(struct ap_view **view)
{
    struct ap_view *v = *view;
    *view = NULL;
    if (!v)
        return;
    for (size_t i = 0; i < v->snapshot_count; i++)
        ap_snapshot_end(&v->snapshots[i]);
    for (size_t i = 0; i < v->state_count; i++)
        ap_state_unref(&v->states[i]);
    free(v->snapshots);
    free(v->states);
    free(v);
}

void ap_view_renew_state(struct ap_view *view)
{
    push_state(view);
}

/* ---- collections ---- */

static bool served(const struct ap_state_coll *c)
{
    return c->definition && !c->coll->dead;
}

int ap_view_collection(struct ap_view *view, const char *name, struct ap_collection_view *out, struct ap_err *err)
{
    const struct ap_state *state = ap_view_state(view);
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < state->coll_count; i++) {
        const struct ap_state_coll *c = &state->colls[i];
        if (!served(c) || strcmp(c->definition->c.params.name, name) != 0)
            continue;
        out->collection = &c->definition->c;
        out->points = atomic_load(&c->coll->points);
        out->pending = atomic_load(&c->coll->pending_count);
        out->segments = (uint32_t)c->count;
        for (size_t j = 0; j < c->count; j++)
            out->indexed += c->segments[j]->hot ? 0 : atomic_load(&c->segments[j]->live_count);
        out->fields = c->definition->fields;
        out->unready = out->pending ? "vectors of this collection wait for their codec, which has not arrived yet" : NULL;
        return 0;
    }
    return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "collection '%s' does not exist", name);
}

int ap_view_bind(const struct ap_collection_view *c, struct ap_filter *filter, struct ap_err *err)
{
    if (!filter || ap_filter_is_bound(filter))
        return 0;
    ap_filter_hold(filter, ap_fields_ref((struct ap_fields *)(uintptr_t)c->fields));
    return ap_filter_bind(filter, c->fields->items, c->fields->count, err);
}

static void count_row(void *arg, const struct ap_hot_entry *e)
{
    uint64_t *at = arg; /* how many, and the last one */
    if (e->kind != AP_HOT_VALUE || at[1] == e->ordinal)
        return;
    at[0]++;
    at[1] = e->ordinal;
}

uint64_t ap_view_field_points(struct ap_view *view, const struct ap_collection_view *c, uint64_t field)
{
    const struct ap_state_coll *sc = ap_state_find(ap_view_state(view), c->collection->id);
    uint64_t n = 0;
    for (size_t i = 0; sc && i < sc->count; i++) {
        const struct ap_segment *s = sc->segments[i];
        const struct ap_column *column = ap_columns_find(sc->columns[i], field);
        uint64_t hot[2] = {0, UINT64_MAX};
        ap_hot_values_each(s->values, field, atomic_load_explicit(&s->count, memory_order_acquire), count_row, hot);
        n += column ? roaring_bitmap_get_cardinality(ap_column_any(column)) : hot[0];
    }
    return n;
}

static int by_name(const void *a, const void *b)
{
    const struct ap_collection *const *x = a, *const *y = b;
    return strcmp((*x)->params.name, (*y)->params.name);
}

size_t ap_view_collections(struct ap_view *view, const struct ap_collection **out, size_t cap)
{
    const struct ap_state *state = ap_view_state(view);
    const struct ap_collection **all = malloc((state->coll_count + 1) * sizeof *all);
    size_t n = 0;
    if (!all)
        abort();
    for (size_t i = 0; i < state->coll_count; i++)
        if (served(&state->colls[i]))
            all[n++] = &state->colls[i].definition->c;
    qsort(all, n, sizeof *all, by_name);
    for (size_t i = 0; i < n && i < cap; i++)
        out[i] = all[i];
    free(all);
    return n;
}

/* ---- rows ---- */

int ap_view_find_row(struct ap_view *view, uint64_t slot, struct ap_row *row, const struct ap_snapshot **in, struct ap_err *err)
{
    if (slot >= ap_snapshot_next_slot(ap_view_snapshot(view)) && view->snapshot_count < SNAPSHOTS_MAX) {
        int rc = push_snapshot(view, err);
        if (rc < 0)
            return rc;
    }
    int rc = AP_ENOTFOUND;
    for (size_t i = view->snapshot_count; i-- > 0 && rc == AP_ENOTFOUND;) {
        rc = ap_snapshot_row(view->snapshots[i], slot, row, NULL);
        if (rc == 0 && in)
            *in = view->snapshots[i];
    }
    if (rc < 0)
        return ap_err_set(err, rc, AP_RETRY, rc == AP_ENOTFOUND ? "slot %llu holds no row any more" : "the row in slot %llu cannot be read",
                          (unsigned long long)slot);
    return 0;
}

static bool match(void *arg, uint64_t slot, const struct ap_key *key)
{
    struct ap_row row;
    return ap_view_find_row(arg, slot, &row, NULL, NULL) == 0 && memcmp(row.key.b, key->b, sizeof key->b) == 0;
}

uint64_t ap_view_lookup(struct ap_view *view, const struct ap_key *key)
{
    pthread_rwlock_rdlock(&view->index->map_lock);
    uint64_t slot = ap_slotmap_get(&view->index->map, key, match, view);
    pthread_rwlock_unlock(&view->index->map_lock);
    return slot;
}

int ap_view_point(struct ap_view *view, const struct ap_collection_view *c, const struct ap_point_id *id, uint64_t *slot, struct ap_err *err)
{
    struct ap_key key;
    ap_key_make(c->collection->id, id, &key);
    *slot = ap_view_lookup(view, &key);
    return *slot ? 0 : ap_err_set(err, AP_ENOTFOUND, AP_POISON, "no such point");
}

int ap_view_row(struct ap_view *view, uint64_t slot, struct ap_row *row, struct ap_err *err)
{
    return ap_view_find_row(view, slot, row, NULL, err);
}

int ap_view_vector(struct ap_view *view, const struct ap_collection_view *c, uint64_t slot, const struct ap_row *row, float *out, bool *raw, struct ap_err *err)
{
    const struct ap_snapshot *in = ap_view_snapshot(view);
    struct ap_row again;
    /* The raw vector may have come with a later batch than the row: it is looked for where the row was found. */
    if (ap_view_find_row(view, slot, &again, &in, NULL) < 0)
        in = ap_view_snapshot(view);
    switch (ap_row_vector(in, ap_view_state(view), c->collection->params.dim, slot, row, out, raw)) {
    case AP_VECTOR_OK:
        return 0;
    case AP_VECTOR_NO_CODEC:
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the vector's codec has not arrived yet");
    default:
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "the row holds no vector of this collection's %u dimensions", c->collection->params.dim);
    }
}
