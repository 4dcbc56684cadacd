/* Going through all points of a collection: in the log's order, or in that of their ids.
 *
 * The order of ids is made when first asked for: all live ids, sorted, and the slot up to which the log is in it. Later
 * calls add what the log has gained since, which for a collection at rest is nothing; an id that is no longer live is
 * passed over, because every emission asks the map. Unused for a minute, the order is dropped. */
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "indexer/index_impl.h"

#define ORDER_IDLE_MS 60000

struct ap_order {
    atomic_uint refs;
    struct ap_point_id *ids; /* sorted, distinct */
    size_t count, cap;
    uint64_t upto;           /* rows of slots below are in it */
    _Atomic int64_t used_ms;
};

static int by_slot(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
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

void ap_live_slots(struct ap_index *index, const struct ap_state_coll *c, bool all, struct ap_slots *out)
{
    for (size_t i = 0; i < c->count; i++) {
        const struct ap_segment *s = c->segments[i];
        uint32_t n = atomic_load_explicit(&s->count, memory_order_acquire);
        for (uint32_t j = 0; j < n; j++) {
            if (ap_segment_live(s, j))
                append(out, ap_segment_slot(s, j));
            if (j + 1 == n) /* what replaced a row that was dead in this pass */
                n = atomic_load_explicit(&s->count, memory_order_acquire);
        }
    }
    if (all) {
        pthread_mutex_lock(&index->apply_lock);
        for (size_t i = 0; i < c->coll->pending.count; i++)
            append(out, c->coll->pending.items[i]);
        for (size_t i = 0; i < c->coll->unusable.count; i++)
            append(out, c->coll->unusable.items[i]);
        pthread_mutex_unlock(&index->apply_lock);
    }
    qsort(out->items, out->count, sizeof *out->items, by_slot);
}

int ap_view_scan(struct ap_view *view, const struct ap_collection_view *c, int (*fn)(void *arg, const struct ap_point_id *id, uint64_t slot), void *arg, struct ap_err *err)
{
    struct ap_slots slots = {0};
    const struct ap_state_coll *sc = ap_state_find(ap_view_state(view), c->collection->id);
    if (!sc)
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "collection '%s' does not exist", c->collection->params.name);
    ap_live_slots(view->index, sc, true, &slots);
    for (size_t i = 0; i < slots.count; i++) {
        struct ap_row row;
        if ((i > 0 && slots.items[i] == slots.items[i - 1]) || ap_view_find_row(view, slots.items[i], &row, NULL, NULL) < 0)
            continue;
        /* Replaced since: then its newer slot comes later, or came too late for this scan. */
        if (ap_view_lookup(view, &row.key) != slots.items[i])
            continue;
        struct ap_point_id id = ap_key_point(&row.key);
        if (fn(arg, &id, slots.items[i]) != 0)
            break;
    }
    free(slots.items);
    return 0;
}

/* ---- the order of ids ---- */

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct ap_point_id));
}

static void order_unref(struct ap_order **order)
{
    struct ap_order *o = *order;
    *order = NULL;
    if (!o || atomic_fetch_sub_explicit(&o->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(o->ids);
    free(o);
}

void ap_order_free(struct ap_order **order)
{
    order_unref(order);
}

void ap_order_expire(struct ap_coll *coll, int64_t now_ms)
{
    pthread_mutex_lock(&coll->order_lock);
    if (coll->order && atomic_load(&coll->order->used_ms) + ORDER_IDLE_MS < now_ms)
        order_unref(&coll->order);
    pthread_mutex_unlock(&coll->order_lock);
}

static struct ap_order *order_new(size_t cap)
{
    struct ap_order *o = calloc(1, sizeof *o);
    if (!o || !(o->ids = malloc((cap + 1) * sizeof *o->ids)))
        abort();
    atomic_init(&o->refs, 1);
    o->cap = cap;
    return o;
}

static void order_add(struct ap_order *o, const struct ap_row *row)
{
    if (o->count == o->cap) {
        o->cap = o->cap ? o->cap * 2 : 256;
        o->ids = realloc(o->ids, (o->cap + 1) * sizeof *o->ids);
        if (!o->ids)
            abort();
    }
    o->ids[o->count++] = ap_key_point(&row->key);
}

static void order_sort(struct ap_order *o)
{
    size_t n = 0;
    qsort(o->ids, o->count, sizeof *o->ids, by_id);
    for (size_t i = 0; i < o->count; i++)
        if (n == 0 || by_id(&o->ids[n - 1], &o->ids[i]) != 0)
            o->ids[n++] = o->ids[i];
    o->count = n;
}

static struct ap_order *order_build(struct ap_view *view, const struct ap_state_coll *c)
{
    struct ap_slots slots = {0};
    uint64_t upto = atomic_load(&view->index->visible);
    ap_live_slots(view->index, c, true, &slots);
    struct ap_order *o = order_new(slots.count);
    o->upto = upto;
    for (size_t i = 0; i < slots.count; i++) {
        struct ap_row row;
        if (ap_view_find_row(view, slots.items[i], &row, NULL, NULL) == 0)
            order_add(o, &row);
    }
    free(slots.items);
    order_sort(o);
    return o;
}

struct gain { struct ap_order *news; uint64_t collection, end, rows; };

static int gain_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct gain *g = arg;
    if (slot >= g->end)
        return 1;
    g->rows++;
    if (ap_row_is_live(row) && ap_key_collection(&row->key) == g->collection)
        order_add(g->news, row);
    return 0;
}

/* The old order and what the log has gained; NULL when building anew is no dearer. */
static struct ap_order *order_gain(struct ap_view *view, const struct ap_order *old, uint64_t collection, struct ap_err *err)
{
    struct gain g = {.news = order_new(0), .collection = collection, .end = atomic_load(&view->index->visible)};
    struct ap_order *merged = NULL;
    struct ap_snapshot *snapshot;
    if (g.end - old->upto <= old->count / 2 + 1024 && ap_snapshot_begin(view->index->store, &snapshot, err) == 0) {
        int rc = ap_snapshot_scan(snapshot, old->upto, gain_row, &g, err);
        ap_snapshot_end(&snapshot);
        order_sort(g.news);
        merged = rc >= 0 ? order_new(old->count + g.news->count) : NULL;
    }
    for (size_t i = 0, j = 0; merged && (i < old->count || j < g.news->count);) {
        int order = i == old->count ? 1 : j == g.news->count ? -1 : by_id(&old->ids[i], &g.news->ids[j]);
        merged->ids[merged->count++] = order <= 0 ? old->ids[i] : g.news->ids[j];
        i += order <= 0;
        j += order >= 0;
    }
    if (merged)
        merged->upto = g.end;
    order_unref(&g.news);
    return merged;
}

/* The collection's order, up to date; a reference. */
static struct ap_order *order_get(struct ap_view *view, const struct ap_state_coll *c)
{
    struct ap_coll *coll = c->coll;
    pthread_mutex_lock(&coll->order_lock);
    if (!coll->order || coll->order->upto < atomic_load(&view->index->visible)) {
        struct ap_order *next = coll->order ? order_gain(view, coll->order, coll->id, NULL) : NULL;
        if (!next)
            next = order_build(view, c);
        order_unref(&coll->order);
        coll->order = next;
    }
    struct ap_order *o = coll->order;
    atomic_fetch_add_explicit(&o->refs, 1, memory_order_relaxed);
    atomic_store(&o->used_ms, ap_mono_ms());
    pthread_mutex_unlock(&coll->order_lock);
    return o;
}

int ap_view_scroll(struct ap_view *view, const struct ap_collection_view *c, const struct ap_point_id *from,
                   int (*fn)(void *arg, const struct ap_point_id *id, uint64_t slot), void *arg, struct ap_err *err)
{
    const struct ap_state_coll *sc = ap_state_find(ap_view_state(view), c->collection->id);
    if (!sc)
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "collection '%s' does not exist", c->collection->params.name);
    struct ap_order *o = order_get(view, sc);
    size_t low = 0, high = o->count;
    while (from && low < high) {
        size_t middle = low + (high - low) / 2;
        if (by_id(&o->ids[middle], from) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < o->count; low++) {
        struct ap_key key;
        ap_key_make(c->collection->id, &o->ids[low], &key);
        uint64_t slot = ap_view_lookup(view, &key);
        if (slot && fn(arg, &o->ids[low], slot) != 0)
            break;
    }
    order_unref(&o);
    return 0;
}
