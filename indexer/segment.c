/* Reading while appending works by order: rows, live bits, then the count with release; a reader loads the count with
 * acquire. A row that replaces another is published before the other's bit is cleared, and a hot segment is scanned until
 * its count no longer grows: so a reader that finds the old row dead has also seen the new one. */
#include "indexer/segment.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "indexer/rotate.h"
#include "indexer/tier.h"

static size_t round_up(size_t n)
{
    return (n + 4095) & ~(size_t)4095;
}

struct ap_segment *ap_segment_hot(uint64_t collection, uint32_t dim, enum ap_distance distance, uint32_t cap)
{
    size_t codes = round_up(cap * ap_q8_stride(dim)), meta = round_up(cap * sizeof(struct ap_q8_meta));
    size_t words = ap_sketch_words(dim), bits = round_up(cap * words * sizeof(uint64_t)), factors = words ? round_up(cap * sizeof(float)) : 0;
    size_t offsets = round_up(cap * sizeof(uint32_t)), live = round_up(cap / 8 + 1);
    struct ap_segment *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->map_bytes = codes + meta + bits + factors + offsets + live;
    s->map = mmap(NULL, s->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (s->map == MAP_FAILED) {
        free(s);
        return NULL;
    }
    uint8_t *p = s->map;
    s->codes = p;
    s->meta = (void *)(p + codes);
    s->bits = words ? (void *)(p + codes + meta) : NULL;
    s->factors = words ? (void *)(p + codes + meta + bits) : NULL;
    s->offsets = (void *)(p + codes + meta + bits + factors);
    s->live = (void *)(p + codes + meta + bits + factors + offsets);
    atomic_init(&s->refs, 1);
    s->kind = AP_SEGMENT_HOT;
    s->hot = true;
    s->collection = collection;
    s->dim = dim;
    s->distance = distance;
    s->cap = cap;
    return s;
}

static struct ap_segment *sealed(enum ap_segment_kind kind, uint64_t collection, uint32_t dim, enum ap_distance distance, uint64_t base,
                                 uint32_t *offsets, uint32_t count)
{
    struct ap_segment *s = calloc(1, sizeof *s);
    if (s)
        s->live = calloc(1, count / 8 + 1);
    if (!s || !s->live) {
        free(s);
        return NULL;
    }
    atomic_init(&s->refs, 1);
    atomic_init(&s->count, count);
    s->kind = kind;
    s->collection = collection;
    s->dim = dim;
    s->distance = distance;
    s->cap = count;
    s->base = base;
    s->offsets = offsets;
    return s;
}

struct ap_segment *ap_segment_faiss(uint64_t collection, enum ap_distance distance, struct ap_ann *ann, uint64_t base, uint32_t *offsets, uint32_t count)
{
    struct ap_segment *s = sealed(AP_SEGMENT_FAISS, collection, ap_ann_dim(ann), distance, base, offsets, count);
    if (s)
        s->ann = ann;
    return s;
}

struct ap_segment *ap_segment_lists(uint64_t collection, enum ap_distance distance, void *map, size_t map_bytes, const struct ap_ivf8 *lists, uint64_t base)
{
    struct ap_segment *s = sealed(AP_SEGMENT_IVF8, collection, lists->dim, distance, base, lists->offsets, lists->count);
    if (!s)
        return NULL;
    s->map = map;
    s->map_bytes = map_bytes;
    s->lists = *lists;
    s->bits = lists->small ? NULL : lists->bits;
    s->factors = lists->factors;
    s->order = lists->order;
    return s;
}

struct ap_segment *ap_segment_ref(struct ap_segment *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void ap_segment_unref(struct ap_segment **segment)
{
    struct ap_segment *s = *segment;
    *segment = NULL;
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (s->map)
        munmap(s->map, s->map_bytes);
    if (s->kind == AP_SEGMENT_FAISS)
        free(s->offsets);
    if (s->kind != AP_SEGMENT_HOT)
        free((void *)s->live);
    ap_hot_values_free(&s->values);
    ap_columns_unref(&s->columns);
    ap_ann_free(&s->ann);
    free(s->path);
    free(s);
}

bool ap_segment_range(const struct ap_segment *s, uint64_t *first, uint64_t *last)
{
    uint32_t n = atomic_load_explicit(&s->count, memory_order_acquire);
    if (n == 0)
        return false;
    *first = s->base;
    *last = ap_segment_slot(s, ap_segment_nth(s, n - 1));
    return true;
}

int64_t ap_segment_rank(const struct ap_segment *s, uint64_t slot)
{
    uint32_t low = 0, high = atomic_load_explicit(&s->count, memory_order_acquire);
    if (high == 0 || slot < s->base || slot > ap_segment_slot(s, ap_segment_nth(s, high - 1)))
        return -1;
    uint32_t wanted = (uint32_t)(slot - s->base);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->offsets[ap_segment_nth(s, middle)] < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return s->offsets[ap_segment_nth(s, low)] == wanted ? (int64_t)low : -1;
}

int64_t ap_segment_find(const struct ap_segment *s, uint64_t slot)
{
    int64_t rank = ap_segment_rank(s, slot);
    return rank < 0 ? -1 : (int64_t)ap_segment_nth(s, (uint32_t)rank);
}

bool ap_segment_mark(struct ap_segment *s, uint32_t ordinal, bool live)
{
    uint8_t bit = (uint8_t)(1u << (ordinal % 8));
    uint8_t before = live ? atomic_fetch_or_explicit(&s->live[ordinal / 8], bit, memory_order_release)
                          : atomic_fetch_and_explicit(&s->live[ordinal / 8], (uint8_t)~bit, memory_order_release);
    bool changed = (before & bit ? true : false) != live;
    if (changed && live)
        atomic_fetch_add_explicit(&s->live_count, 1, memory_order_relaxed);
    if (changed && !live)
        atomic_fetch_sub_explicit(&s->live_count, 1, memory_order_relaxed);
    return changed;
}

bool ap_segment_has_room(const struct ap_segment *s, uint64_t slot)
{
    uint32_t n = atomic_load_explicit(&s->count, memory_order_relaxed);
    return s->kind == AP_SEGMENT_HOT && (n == 0 || (n < s->cap && slot > ap_segment_slot(s, n - 1) && slot - s->base <= UINT32_MAX));
}

void ap_segment_append(struct ap_segment *s, size_t n, const uint64_t *slots, const float *vectors)
{
    uint32_t at = atomic_load_explicit(&s->count, memory_order_relaxed);
    assert(s->kind == AP_SEGMENT_HOT && at + n <= s->cap);
    size_t words = ap_sketch_words(s->dim);
    float *turned = malloc(s->dim * sizeof *turned);
    if (!turned)
        abort();
    if (at == 0 && n > 0)
        s->base = slots[0];
    for (size_t i = 0; i < n; i++) {
        size_t ordinal = at + i;
        uint8_t *row = s->codes + ordinal * ap_q8_stride(s->dim);
        memcpy(turned, vectors + i * s->dim, s->dim * sizeof *turned);
        ap_rotate(turned, s->dim);
        ap_q8_encode(turned, s->dim, row, &s->meta[ordinal]);
        if (words > 0)
            ap_sketch_of(row, &s->meta[ordinal], s->dim, s->bits + ordinal * words, &s->factors[ordinal]);
        s->offsets[ordinal] = (uint32_t)(slots[i] - s->base);
        ap_segment_mark(s, (uint32_t)ordinal, true);
    }
    free(turned);
    atomic_store_explicit(&s->count, at + (uint32_t)n, memory_order_release);
}

size_t ap_segment_bytes(const struct ap_segment *s)
{
    uint32_t n = atomic_load_explicit(&s->count, memory_order_relaxed);
    if (s->kind == AP_SEGMENT_IVF8)
        return s->map_bytes + n / 8;
    size_t row = ap_q8_stride(s->dim) + sizeof(struct ap_q8_meta) + ap_sketch_words(s->dim) * sizeof(uint64_t) + (s->bits ? sizeof(float) : 0);
    size_t each = sizeof(uint32_t) + (s->kind == AP_SEGMENT_HOT ? row : 0);
    return n * each + n / 8 + (s->ann ? ap_ann_bytes(s->ann) : 0) + ap_hot_values_bytes(s->values);
}

/* ---- searching ---- */

static void sift_down(struct ap_candidate *h, size_t n, size_t i)
{
    struct ap_candidate item = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1].score < h[child].score)
            child++;
        if (h[child].score >= item.score)
            break;
        h[i] = h[child];
    }
    h[i] = item;
}

void ap_top_offer(struct ap_top *top, float score, uint64_t slot)
{
    struct ap_candidate *h = top->items;
    if (top->count < top->k) {
        size_t i = top->count++;
        for (; i > 0 && h[(i - 1) / 2].score > score; i = (i - 1) / 2)
            h[i] = h[(i - 1) / 2];
        h[i] = (struct ap_candidate){score, slot};
    } else if (top->k > 0 && score > h[0].score) {
        h[0] = (struct ap_candidate){score, slot};
        sift_down(h, top->count, 0);
    }
}

void ap_segment_query_init(struct ap_segment_query *q, const float *vector, uint32_t dim, float *turned, int8_t *q8)
{
    q->vector = vector;
    memcpy(turned, vector, dim * sizeof *turned);
    ap_rotate(turned, dim);
    ap_q8_query_init(&q->q8, turned, dim, q8);
}

/* A scan of one segment. Rows whose sketches pass gather, since each is a walk to memory: to be fetched side by side. */
enum { BLOCK = 128 };
struct scan {
    const struct ap_segment *s;
    const struct ap_segment_query *q;
    const roaring_bitmap_t *only_these; /* NULL: all */
    struct ap_top *top;
    const uint8_t *rows; const struct ap_q8_meta *meta;
    bool sketches, small;
    float base; /* of small rows: the score of their list's centroid */
    uint32_t passed[2 * BLOCK]; size_t count;
};

static void scan_begin(struct scan *c, const struct ap_segment *s, const struct ap_segment_query *q, const roaring_bitmap_t *only_these, struct ap_top *top)
{
    c->s = s;
    c->q = q;
    c->only_these = only_these;
    c->top = top;
    c->rows = s->hot ? s->codes : s->lists.rows;
    c->meta = s->hot ? s->meta : s->lists.row_meta;
    c->sketches = s->bits && ap_sketch_pays();
    c->small = ap_segment_is_small(s);
    c->base = 0;
    c->count = 0;
}

static void scan_end(struct scan *c)
{
    ap_segment_score(c->s, c->q, c->passed, c->count, c->top);
    c->count = 0;
}

static bool counts(const struct scan *c, uint32_t ordinal)
{
    return ap_segment_live(c->s, ordinal) && (!c->only_these || roaring_bitmap_contains(c->only_these, ordinal));
}

static void scan_rows(struct scan *c, uint32_t from, uint32_t n)
{
    float scores[BLOCK];
    if (c->small)
        ap_q1_scores(&c->q->q8, c->base, c->s->lists.bits + from * ap_sketch_words(c->s->dim), c->meta + from, c->s->dim, n, scores);
    else
        ap_q8_scores(&c->q->q8, c->s->distance, c->rows + from * ap_q8_stride(c->s->dim), c->meta + from, c->s->dim, n, scores);
    for (uint32_t j = 0; j < n; j++)
        if ((c->top->count < c->top->k || scores[j] > c->top->items[0].score) && counts(c, from + j))
            ap_top_offer(c->top, scores[j], ap_segment_slot(c->s, from + j));
}

static void scan_sketches(struct scan *c, uint32_t from, uint32_t n)
{
    uint32_t passed[BLOCK];
    const struct ap_segment *s = c->s;
    size_t found = ap_sketch_pass(&c->q->q8, s->distance, s->bits + from * ap_sketch_words(s->dim), s->factors + from, c->meta + from, s->dim, n,
                                  c->top->items[0].score, from, passed);
    for (size_t j = 0; j < found; j++)
        if (counts(c, passed[j]))
            c->passed[c->count++] = passed[j];
    if (c->count >= BLOCK)
        scan_end(c);
}

/* Rows from to end. Most fall behind, by their sketch or their score, so whether they count is asked for few. */
static void scan(struct scan *c, uint32_t from, uint32_t end)
{
    for (uint32_t i = from; i < end; i += BLOCK) {
        uint32_t n = end - i < BLOCK ? end - i : BLOCK;
        if (c->sketches && c->top->count == c->top->k && c->top->k > 0)
            scan_sketches(c, i, n);
        else
            scan_rows(c, i, n);
    }
}

static void search_hot(const struct ap_segment *s, const struct ap_segment_query *q, struct ap_top *top)
{
    struct scan c;
    uint32_t from = 0, n;
    scan_begin(&c, s, q, NULL, top);
    /* Once more for what replaced a row that was dead in this pass. */
    while ((n = atomic_load_explicit(&s->count, memory_order_acquire)) > from) {
        scan(&c, from, n);
        scan_end(&c);
        from = n;
    }
}

/* As ap_ivf8_probe. Small rows want the centroids' scores as well, which are then in q->scores. */
static uint32_t probe(const struct ap_segment *s, const struct ap_segment_query *q, uint32_t probes, uint32_t *lists)
{
    const struct ap_ivf8 *v = &s->lists;
    if (v->small && probes >= v->lists)
        ap_q8_scores(&q->q8, s->distance, v->centroids, v->centroid_meta, v->dim, v->lists, q->scores);
    return ap_ivf8_probe(v, &q->q8, s->distance, probes, q->scores, lists);
}

static void scan_list(struct scan *c, uint32_t list)
{
    if (c->small)
        c->base = c->q->scores[list];
    scan(c, c->s->lists.starts[list], c->s->lists.starts[list + 1]);
}

static void search_lists(const struct ap_segment *s, const struct ap_segment_query *q, struct ap_top *top)
{
    const struct ap_ivf8 *v = &s->lists;
    uint32_t probes = q->effort ? q->effort : ap_ivf8_probes_for(v->lists);
    /* Many candidates need many rows to choose from. */
    uint64_t least = (uint64_t)top->k * 4 * v->lists / (v->count ? v->count : 1) + 1;
    probes = probes > least ? probes : least < v->lists ? (uint32_t)least : v->lists;
    uint32_t *lists = (uint32_t *)q->ordinals;
    uint32_t n = probe(s, q, probes, lists);
    if (s->cold)
        ap_tier_ask(s, lists, n);
    struct scan c;
    scan_begin(&c, s, q, NULL, top);
    for (uint32_t i = 0; i < n; i++)
        scan_list(&c, lists[i]);
    scan_end(&c);
}

static int search_faiss(const struct ap_segment *s, const struct ap_segment_query *q, uint32_t live, struct ap_top *top, struct ap_err *err)
{
    size_t k = top->k < live ? top->k : live;
    int rc = ap_ann_search(s->ann, q->vector, k, q->effort, live == s->cap ? NULL : (const uint8_t *)s->live, q->scores, q->ordinals, err);
    bool descending = ap_score_descending(s->distance);
    for (size_t i = 0; rc == 0 && i < k && q->ordinals[i] >= 0; i++) {
        uint32_t ordinal = (uint32_t)q->ordinals[i];
        /* FAISS's scores are squared distances, ours lie around minus the same. */
        if (ordinal < s->cap && ap_segment_live(s, ordinal))
            ap_top_offer(top, descending ? q->scores[i] : -q->scores[i], ap_segment_slot(s, ordinal));
    }
    return rc;
}

size_t ap_segment_room(const struct ap_segment *s)
{
    return s->kind == AP_SEGMENT_IVF8 ? s->lists.lists : 0;
}

int ap_segment_search(const struct ap_segment *s, const struct ap_segment_query *q, struct ap_top *top, struct ap_err *err)
{
    uint32_t live = atomic_load_explicit(&s->live_count, memory_order_acquire);
    if (s->kind == AP_SEGMENT_HOT)
        search_hot(s, q, top);
    else if (live > 0 && s->kind == AP_SEGMENT_IVF8)
        search_lists(s, q, top);
    else if (live > 0)
        return search_faiss(s, q, live, top, err);
    return 0;
}

/* ---- some rows alone ---- */

/* Measured with bench/filter.c. */
#define MORE_PROBES 1.2 /* at least so many times the lists of an unfiltered search: recall */
#define MORE_WORK 1.8   /* and no more than so many times its scoring: time */
#define ROW_COST 4.0    /* of a row far from the next one, in rows that follow each other: memory's latency */
#define DENSE 0.3       /* where more of the rows pass, lists are scored as a whole */
#define DENSE_SKETCHES 0.12 /* the same where sketches are read */
#define FAISS_MORE 2.6  /* MORE_PROBES of FAISS's structures, whose default effort is lower */

/* Each row's base. Mostly rows of one list follow each other. */
static void bases_of(const struct ap_segment *s, const float *of_lists, const uint32_t *ordinals, size_t n, float *bases)
{
    const struct ap_ivf8 *v = &s->lists;
    uint32_t list = 0;
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || ordinals[i] < v->starts[list] || ordinals[i] >= v->starts[list + 1])
            list = ap_ivf8_list_of(v, ordinals[i]);
        bases[i] = of_lists[list];
    }
}

void ap_segment_score(const struct ap_segment *s, const struct ap_segment_query *q, const uint32_t *ordinals, size_t n, struct ap_top *top)
{
    float scores[BLOCK], bases[BLOCK];
    bool hot = s->kind == AP_SEGMENT_HOT, small = ap_segment_is_small(s);
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t run = n - i < BLOCK ? n - i : BLOCK;
        if (small)
            bases_of(s, q->scores, ordinals + i, run, bases);
        if (small)
            ap_q1_scores_at(&q->q8, bases, s->lists.bits, s->lists.row_meta, s->dim, ordinals + i, run, scores);
        else
            ap_q8_scores_at(&q->q8, s->distance, hot ? s->codes : s->lists.rows, hot ? s->meta : s->lists.row_meta, s->dim, ordinals + i, run, scores);
        for (size_t j = 0; j < run; j++)
            if ((top->count < top->k || scores[j] > top->items[0].score) && ap_segment_live(s, ordinals[i + j]))
                ap_top_offer(top, scores[j], ap_segment_slot(s, ordinals[i + j]));
    }
}

static bool is_dense(const struct ap_segment *s, uint64_t matches)
{
    return (double)matches > (s->factors && ap_sketch_pays() ? DENSE_SKETCHES : DENSE) * s->cap;
}

/* How many lists: what an unfiltered search spends on scoring goes to the rows of the filter, however far they are spread.
 * Where lists are scored as a whole, more of them cost as much as they would without a filter; the rarer the rows that pass, the farther
 * away the nearest of them. */
static uint32_t probes_for(uint32_t usual, uint32_t lists, uint32_t count, uint64_t matches, bool dense)
{
    double apart = (double)count / (double)matches, cost = apart < ROW_COST ? apart : ROW_COST, wanted = (double)usual * MORE_PROBES;
    if (dense && apart * DENSE > 1)
        wanted *= sqrt(apart * DENSE);
    else if (!dense && MORE_WORK * usual * apart / cost > wanted)
        wanted = MORE_WORK * usual * apart / cost;
    return wanted < lists ? (uint32_t)wanted : lists;
}

static void score_between(const struct ap_segment *s, const struct ap_segment_query *q, roaring_uint32_iterator_t *it, uint32_t end, struct ap_top *top)
{
    enum { RUN = 128 };
    uint32_t found[RUN], n;
    while (it->has_value && it->current_value < end && (n = roaring_read_uint32_iterator(it, found, end - it->current_value < RUN ? end - it->current_value : RUN)) > 0) {
        uint32_t kept = n;
        while (kept > 0 && found[kept - 1] >= end)
            kept--;
        ap_segment_score(s, q, found, kept, top);
        if (kept < n)
            return;
    }
}

static void search_lists_these(const struct ap_segment *s, const struct ap_segment_query *q, const roaring_bitmap_t *rows, uint64_t matches, bool *all, struct ap_top *top)
{
    const struct ap_ivf8 *v = &s->lists;
    bool dense = is_dense(s, matches);
    uint32_t probes = probes_for(q->effort ? q->effort : ap_ivf8_probes_for(v->lists), v->lists, v->count, matches, dense);
    uint64_t least = (uint64_t)top->k * 4 * v->lists / (matches ? matches : 1) + 1;
    roaring_uint32_iterator_t it;
    roaring_init_iterator(rows, &it);
    if (probes >= v->lists || least >= v->lists) {
        probe(s, q, v->lists, (uint32_t *)q->ordinals);
        score_between(s, q, &it, v->count, top);
        return;
    }
    *all = false;
    uint32_t *lists = (uint32_t *)q->ordinals;
    uint32_t n = probe(s, q, probes > least ? probes : (uint32_t)least, lists);
    if (s->cold)
        ap_tier_ask(s, lists, n);
    struct scan c;
    scan_begin(&c, s, q, rows, top);
    for (uint32_t i = 0; i < n; i++)
        if (dense)
            scan_list(&c, lists[i]);
        else if (v->starts[lists[i]] < v->starts[lists[i] + 1] && roaring_move_uint32_iterator_equalorlarger(&it, v->starts[lists[i]]))
            score_between(s, q, &it, v->starts[lists[i] + 1], top);
    scan_end(&c);
}

/* FAISS takes a bit a row. Its effort rises as the rows grow rarer: HNSW walks over those that do not count as well. */
static int search_faiss_these(const struct ap_segment *s, const struct ap_segment_query *q, const roaring_bitmap_t *rows, uint64_t matches, struct ap_top *top, struct ap_err *err)
{
    enum { RUN = 512 };
    uint32_t found[RUN], n;
    uint8_t *bits = calloc(s->cap / 8 + 1, 1);
    roaring_uint32_iterator_t it;
    if (!bits)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for a filter");
    roaring_init_iterator(rows, &it);
    while ((n = roaring_read_uint32_iterator(&it, found, RUN)) > 0)
        for (uint32_t i = 0; i < n; i++)
            if (ap_segment_live(s, found[i]))
                bits[found[i] / 8] |= (uint8_t)(1u << (found[i] % 8));
    uint32_t usual = q->effort ? q->effort : ap_ann_effort(s->ann);
    double share = (double)matches / s->cap, effort = usual * (share < 1 / FAISS_MORE ? 1 / share : FAISS_MORE);
    size_t k = top->k < matches ? top->k : matches;
    int rc = ap_ann_search(s->ann, q->vector, k, effort < 1e6 ? (uint32_t)effort : 1000000, bits, q->scores, q->ordinals, err);
    bool descending = ap_score_descending(s->distance);
    for (size_t i = 0; rc == 0 && i < k && q->ordinals[i] >= 0; i++) {
        uint32_t ordinal = (uint32_t)q->ordinals[i];
        if (ordinal < s->cap && ap_segment_live(s, ordinal))
            ap_top_offer(top, descending ? q->scores[i] : -q->scores[i], ap_segment_slot(s, ordinal));
    }
    free(bits);
    return rc;
}

int ap_segment_search_these(const struct ap_segment *s, const struct ap_segment_query *q, const roaring_bitmap_t *rows, uint64_t matches,
                            bool *all, struct ap_top *top, struct ap_err *err)
{
    if (matches == 0)
        return 0;
    if (s->kind == AP_SEGMENT_IVF8) {
        search_lists_these(s, q, rows, matches, all, top);
        return 0;
    }
    *all = false;
    return search_faiss_these(s, q, rows, matches, top, err);
}
