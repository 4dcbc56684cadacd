/* Searching: every segment offers candidates by its own scores, the best of all are rescored with the best vectors.
 *
 * Exact searches read all live rows instead, in the order of the log; filters those that they select. Memory belongs to the thread and is kept
 * from query to query, so nothing is allocated for a candidate. If a hot segment began while the segments were looked at,
 * the list may lack it, and the search is done again. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "indexer/search_impl.h"

#define BLOCK 256
#define SNAPSHOT_NS 250000000
#define SMALL_MORE 3 /* times the candidates, where rows of one bit choose them (docs/performance.md) */

/* ---- a thread's memory ---- */

static pthread_key_t scratch_key;
static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;

static void scratch_free(void *arg)
{
    struct scratch *s = arg;
    free(s->query);
    free(s->turned);
    free(s->q8);
    free(s->heap);
    free(s->scores);
    free(s->ordinals);
    free(s->hits);
    free(s->slots.items);
    free(s->sure.items);
    ap_vector_batch_free(&s->batch);
    ap_buf_free(&s->text);
    free(s);
}

static void scratch_make_key(void)
{
    if (pthread_key_create(&scratch_key, scratch_free) != 0)
        abort();
}

static void *fresh(void *old, size_t bytes)
{
    free(old);
    void *p = malloc(bytes);
    if (!p)
        abort();
    return p;
}

struct scratch *ap_search_scratch(uint32_t dim, enum ap_distance distance, size_t k, size_t hit_room)
{
    pthread_once(&scratch_once, scratch_make_key);
    struct scratch *s = pthread_getspecific(scratch_key);
    if (!s) {
        s = calloc(1, sizeof *s);
        if (!s || pthread_setspecific(scratch_key, s) != 0)
            abort();
    }
    if (s->dim < dim) {
        s->dim = dim;
        s->query = fresh(s->query, dim * sizeof *s->query);
        s->turned = fresh(s->turned, dim * sizeof *s->turned);
        s->q8 = fresh(s->q8, ap_q8_stride(dim));
    }
    if (s->k < k) {
        s->k = k;
        s->heap = fresh(s->heap, k * sizeof *s->heap);
        s->scores = fresh(s->scores, k * sizeof *s->scores);
        s->ordinals = fresh(s->ordinals, k * sizeof *s->ordinals);
    }
    if (s->hit_room < hit_room) {
        s->hit_room = hit_room;
        s->hits = fresh(s->hits, hit_room * sizeof *s->hits);
    }
    if (!s->batch || s->batch->dim != dim) {
        ap_vector_batch_free(&s->batch);
        s->batch = ap_vector_batch_new(dim, distance, BLOCK);
    }
    s->batch->distance = distance;
    return s;
}

/* ---- one search ---- */

static bool better(const struct search *s, const struct ap_hit *a, const struct ap_hit *b)
{
    if (a->score != b->score)
        return ap_score_descending(s->params->distance) ? a->score > b->score : a->score < b->score;
    int order = memcmp(a->id.b, b->id.b, sizeof a->id.b);
    return order != 0 ? order < 0 : a->slot > b->slot;
}

static _Thread_local const struct search *sorting; /* per thread: qsort has no argument */
static int by_rank(const void *a, const void *b)
{
    return better(sorting, a, b) ? -1 : better(sorting, b, a) ? 1 : 0;
}

static int by_id(const void *a, const void *b)
{
    const struct ap_hit *x = a, *y = b;
    int order = memcmp(x->id.b, y->id.b, sizeof x->id.b);
    return order ? order : (x->slot < y->slot) - (x->slot > y->slot);
}

/* Cut down to the best limit. A point met twice while it was replaced is one: its newer row counts. */
static void cut(struct search *s)
{
    struct ap_hit *h = s->scratch->hits;
    size_t n = 0;
    qsort(h, s->hit_count, sizeof *h, by_id);
    for (size_t i = 0; i < s->hit_count; i++)
        if (n == 0 || memcmp(h[n - 1].id.b, h[i].id.b, sizeof h->id.b) != 0)
            h[n++] = h[i];
    sorting = s;
    qsort(h, n, sizeof *h, by_rank);
    s->hit_count = n < s->q->limit ? n : s->q->limit;
    s->full = n >= s->q->limit;
}

static void offer_hit(struct search *s, const struct ap_hit *hit)
{
    struct ap_hit *h = s->scratch->hits;
    if (s->full && !better(s, hit, &h[s->q->limit - 1]))
        return;
    if (s->hit_count == s->hit_room)
        cut(s);
    h[s->hit_count++] = *hit;
}

static bool passes(const struct search *s, float score, const struct ap_point_id *id)
{
    if (s->q->exclude && memcmp(s->q->exclude->b, id->b, sizeof id->b) == 0)
        return false;
    if (!s->q->has_threshold)
        return true;
    return ap_score_descending(s->params->distance) ? score >= s->q->threshold : score <= s->q->threshold;
}

/* Score the batch's rows and keep the best. */
static void take_batch(struct search *s)
{
    struct ap_vector_batch *b = s->scratch->batch;
    float scores[BLOCK];
    ap_vector_batch_finish(b);
    ap_flat_scores(s->params->distance, s->scratch->query, b->vectors, b->dim, b->count, scores);
    for (size_t i = 0; i < b->count; i++) {
        float score = s->params->distance == AP_EUCLID ? sqrtf(scores[i] > 0 ? scores[i] : 0) : scores[i];
        if (b->usable[i] && passes(s, score, &b->ids[i]))
            offer_hit(s, &(struct ap_hit){b->ids[i], b->slots[i], score});
    }
    ap_vector_batch_clear(b, ap_view_state(s->view));
}

static void add_row(struct search *s, const struct ap_snapshot *snapshot, uint64_t slot, const struct ap_row *row)
{
    struct ap_vector_batch *b = s->scratch->batch;
    ap_vector_batch_add(b, snapshot, slot, row);
    if (b->count == BLOCK)
        take_batch(s);
}

/* ---- by segments ---- */

static int by_slot(const void *a, const void *b)
{
    const struct ap_candidate *x = a, *y = b;
    return (x->slot > y->slot) - (x->slot < y->slot);
}

static int collect(struct search *s, size_t k, struct ap_top *top, struct ap_err *err)
{
    struct ap_segment_query sq = {.effort = s->q->effort};
    ap_segment_query_init(&sq, s->scratch->query, s->params->dim, s->scratch->turned, s->scratch->q8);
    int rc = 0;
    for (int i = 0; i < AP_SEARCH_TRIES && rc == 0; i++) {
        size_t room = k;
        for (size_t j = 0; j < s->c->count; j++)
            room = ap_segment_room(s->c->segments[j]) > room ? ap_segment_room(s->c->segments[j]) : room;
        ap_search_scratch(s->params->dim, s->params->distance, room, s->hit_room);
        sq.scores = s->scratch->scores;
        sq.ordinals = s->scratch->ordinals;
        *top = (struct ap_top){s->scratch->heap, 0, k};
        for (size_t j = 0; j < s->c->count && rc == 0; j++)
            rc = ap_segment_search(s->c->segments[j], &sq, top, err);
        if (atomic_load(&s->view->index->rolls) == ap_view_state(s->view)->rolls)
            break;
        ap_view_renew_state(s->view);
        s->c = ap_state_find(ap_view_state(s->view), s->c->coll->id);
        ap_count(s->view->index->metrics.retries, 1);
    }
    return rc;
}

/* Score the candidates again, with their best vectors. */
static int rescore(struct search *s, struct ap_top *top, struct ap_err *err)
{
    qsort(top->items, top->count, sizeof *top->items, by_slot); /* as they lie in the log */
    ap_vector_batch_clear(s->scratch->batch, ap_view_state(s->view));
    for (size_t i = 0; i < top->count; i++) {
        struct ap_row row;
        const struct ap_snapshot *in;
        int rc = ap_view_find_row(s->view, top->items[i].slot, &row, &in, err);
        if (rc == 0)
            add_row(s, in, top->items[i].slot, &row);
        else if (rc != AP_ENOTFOUND)
            return rc;
    }
    take_batch(s);
    return 0;
}

static int by_segments(struct search *s, size_t k, struct ap_err *err)
{
    struct ap_top top;
    int rc = collect(s, k, &top, err);
    return rc < 0 ? rc : rescore(s, &top, err);
}

/* By what the filter selects in each segment. *all: no row that passes was left out. */
static int by_filter(struct search *s, size_t k, uint32_t effort, bool *all, struct ap_err *err)
{
    struct ap_top top;
    struct ap_segment_query sq = {.effort = effort};
    ap_segment_query_init(&sq, s->scratch->query, s->params->dim, s->scratch->turned, s->scratch->q8);
    int rc = ap_search_filtered(s, &sq, k, s->q->exact, &top, all, err);
    if (rc == 0)
        rc = rescore(s, &top, err);
    if (rc == 0 && s->scratch->sure.count > 0)
        rc = ap_search_rows(s, &s->scratch->sure, false, err);
    if (rc == 0 && s->scratch->slots.count > 0)
        rc = ap_search_rows(s, &s->scratch->slots, true, err);
    return rc;
}

/* ---- by rows ---- */

/* 1: the filter takes the row. Negative: error. */
static int filter_row(struct search *s, const struct ap_row *row, struct ap_err *err)
{
    const struct ap_filter *filter = s->q->filter;
    struct ap_point_id id = ap_key_point(&row->key);
    json_t *payload = NULL;
    if (!filter)
        return 1;
    if (ap_filter_needs_payload(filter)) {
        const char *text = row->payload;
        size_t len = row->payload_len;
        if (row->flags & AP_ROW_PATCHES) {
            ap_buf_clear(&s->scratch->text);
            int rc = ap_row_payload(row, &s->scratch->text, err);
            if (rc < 0)
                return rc;
            text = (const char *)s->scratch->text.data;
            len = s->scratch->text.len;
        }
        payload = len > 0 ? json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    }
    bool takes = ap_filter_match(filter, &id, payload);
    json_decref(payload);
    return takes;
}

struct scan { struct search *s; const struct ap_slots *slots; bool ask; const struct ap_snapshot *snapshot; size_t at; int64_t until_ns; struct ap_err *err; };

static int scan_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct scan *scan = arg;
    const struct ap_slots *slots = scan->slots;
    while (scan->at < slots->count && slots->items[scan->at] < slot)
        scan->at++; /* gone: replaced, and cleaned away */
    if (scan->at == slots->count)
        return 1;
    if (slots->items[scan->at] != slot)
        return 0;
    scan->at++;
    int takes = scan->ask ? filter_row(scan->s, row, scan->err) : 1;
    if (takes < 0)
        return takes;
    if (takes)
        add_row(scan->s, scan->snapshot, slot, row);
    return scan->at % 1024 == 0 && ap_mono_ns() > scan->until_ns ? 1 : 0;
}

/* Few slots far apart: one by one. */
static int read_sparse(struct search *s, const struct ap_slots *slots, bool ask, struct ap_err *err)
{
    for (size_t i = 0; i < slots->count; i++) {
        struct ap_row row;
        const struct ap_snapshot *in;
        if (ap_view_find_row(s->view, slots->items[i], &row, &in, NULL) < 0)
            continue;
        int takes = ask ? filter_row(s, &row, err) : 1;
        if (takes < 0)
            return takes;
        if (takes)
            add_row(s, in, slots->items[i], &row);
    }
    take_batch(s);
    return 0;
}

/* Through the log, in snapshots of a quarter of a second. */
int ap_search_rows(struct search *s, const struct ap_slots *slots, bool ask, struct ap_err *err)
{
    struct scan scan = {.s = s, .slots = slots, .ask = ask, .err = err};
    int rc = 0;
    ap_vector_batch_clear(s->scratch->batch, ap_view_state(s->view));
    if (slots->count == 0 || (slots->items[slots->count - 1] - slots->items[0]) / slots->count > 8)
        return read_sparse(s, slots, ask, err);
    while (rc >= 0 && scan.at < slots->count) {
        struct ap_snapshot *snapshot;
        rc = ap_snapshot_begin(s->view->index->store, &snapshot, err);
        if (rc < 0)
            break;
        scan.snapshot = snapshot;
        scan.until_ns = ap_mono_ns() + SNAPSHOT_NS;
        size_t before = scan.at;
        rc = ap_snapshot_scan(snapshot, slots->items[scan.at], scan_row, &scan, err);
        ap_snapshot_end(&snapshot);
        if (rc == 0 || scan.at == before)
            break; /* the log's end */
    }
    take_batch(s);
    return rc < 0 ? rc : 0;
}

/* Only points of a list can match: their rows alone. */
static int by_ids(struct search *s, const struct ap_point_id *ids, size_t count, struct ap_err *err)
{
    ap_vector_batch_clear(s->scratch->batch, ap_view_state(s->view));
    for (size_t i = 0; i < count; i++) {
        struct ap_key key;
        struct ap_row row;
        const struct ap_snapshot *in;
        ap_key_make(s->c->coll->id, &ids[i], &key);
        uint64_t slot = ap_view_lookup(s->view, &key);
        if (!slot || ap_view_find_row(s->view, slot, &row, &in, NULL) < 0)
            continue;
        int takes = filter_row(s, &row, err);
        if (takes < 0)
            return takes;
        if (takes)
            add_row(s, in, slot, &row);
    }
    take_batch(s);
    return 0;
}

static int by_rows(struct search *s, struct ap_err *err)
{
    for (int i = 0; i < AP_SEARCH_TRIES; i++) {
        s->scratch->slots.count = 0;
        ap_live_slots(s->view->index, s->c, false, &s->scratch->slots);
        if (atomic_load(&s->view->index->rolls) == ap_view_state(s->view)->rolls)
            break;
        ap_view_renew_state(s->view);
        s->c = ap_state_find(ap_view_state(s->view), s->c->coll->id);
    }
    return ap_search_rows(s, &s->scratch->slots, true, err);
}

/* ---- */

static bool has_small(const struct ap_state_coll *c)
{
    for (size_t i = 0; i < c->count; i++)
        if (ap_segment_is_small(c->segments[i]))
            return true;
    return false;
}

int ap_view_search(struct ap_view *view, const struct ap_collection_view *c, const struct ap_search *q, struct ap_hit *hits, size_t *count, struct ap_err *err)
{
    *count = 0;
    const struct ap_state_coll *sc = ap_state_find(ap_view_state(view), c->collection->id);
    if (!sc || !sc->definition)
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "collection '%s' does not exist", c->collection->params.name);
    if (q->limit == 0)
        return 0;
    int64_t start = ap_mono_ns();
    uint64_t points = atomic_load(&sc->coll->points);
    /* Twice the same point, and the one left out, must not cost a hit. */
    size_t want = (size_t)q->limit + (q->exclude ? 1 : 0);
    size_t each = has_small(sc) ? SMALL_MORE : 1, k = q->candidates ? q->candidates : (want * 4 > 40 ? want * 4 : 40) * each;
    k = k > want ? k : want;
    size_t listed = 0;
    const struct ap_point_id *ids = ap_filter_only_ids(q->filter, &listed);
    bool rows = !q->filter && (q->exact || k >= points), all = true;
    size_t room = (size_t)q->limit * 2 + BLOCK;
    struct scratch *scratch = ap_search_scratch(sc->definition->c.params.dim, sc->definition->c.params.distance, rows || ids ? 1 : k, room);
    struct search s = {.view = view, .c = sc, .params = &sc->definition->c.params, .q = q, .scratch = scratch, .hit_room = room};
    memcpy(scratch->query, q->vector, s.params->dim * sizeof *scratch->query);
    if (s.params->distance == AP_COSINE)
        ap_normalize(scratch->query, s.params->dim);

    int rc = ids ? by_ids(&s, ids, listed, err) : q->filter ? by_filter(&s, k, q->effort, &all, err) : rows ? by_rows(&s, err) : by_segments(&s, k, err);
    cut(&s);
    /* Lists that were not looked into may hold what is missing. */
    if (rc == 0 && !rows && !ids && s.hit_count < q->limit && !q->has_threshold && s.hit_count + 1 < points && !(q->filter && all)) {
        s.hit_count = 0;
        s.full = false;
        rc = q->filter ? by_filter(&s, k, UINT32_MAX, &all, err) : by_rows(&s, err);
        cut(&s);
    }
    if (rc < 0)
        return rc;
    memcpy(hits, scratch->hits, s.hit_count * sizeof *hits);
    *count = s.hit_count;
    ap_observe(q->filter ? view->index->metrics.search_filter : rows ? view->index->metrics.search_exact : view->index->metrics.search_ann,
               (double)(ap_mono_ns() - start) * 1e-9);
    return 0;
}
