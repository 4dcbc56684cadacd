/* Flow: the audit catches up; candidates are gathered without a lock (a bit for each live row of the store, struck out by
 * the index's live slots); what is left is looked at once more under the apply lock, after catching up again; there it is
 * either confirmed, and mended if that is wanted, or was only a write under way. */
#include "indexer/audit_index.h"
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "indexer/index_impl.h"

#define PROBES 128       /* rows asked of each sealed segment */
#define PROBE_K 32
#define PROBE_EFFORT 256
#define LOCK_RUN 1024    /* lookups under one hold of the map's lock */

struct check {
    struct ap_index *index;
    struct ap_audit *audit;
    struct ap_snapshot *snapshot; /* of the audit */
    struct ap_findings *out;
    struct ap_slots dead, missing; /* candidates */
    struct ap_point_id *astray; size_t astray_count, astray_cap;
    struct ap_segment *bad[64]; size_t bad_count; /* references */
};

static void show(struct ap_findings *f, uint64_t slot)
{
    if (f->shown < AP_FINDINGS_SHOWN)
        f->slots[f->shown++] = slot;
}

static void push(struct ap_slots *s, uint64_t slot)
{
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->items = reallocarray(s->items, s->cap, sizeof *s->items);
        if (!s->items)
            abort();
    }
    s->items[s->count++] = slot;
}

/* ---- candidates ---- */

/* Is this slot, which the audit does not have as a live row, the audit's business at all? */
static bool covered(const struct check *c, uint64_t slot, bool last)
{
    struct ap_row row;
    if (ap_snapshot_row(c->snapshot, slot, &row, NULL) != 0)
        return last;
    return ap_audit_buckets_has(&c->audit->buckets, ap_digest_bucket(&row.key));
}

static void gather_slots(struct check *c, const struct ap_state_coll *sc, uint64_t visible, bool last)
{
    uint64_t first = ap_snapshot_first_slot(c->snapshot), end = ap_snapshot_next_slot(c->snapshot);
    size_t words = (size_t)((end - first) / 64 + 1);
    uint64_t *bits = calloc(words, sizeof *bits);
    if (!bits)
        abort();
    const struct ap_audit_row *row;
    for (size_t at = 0; (row = ap_audit_next(c->audit, &at));)
        if (row->live && row->slot < visible && row->slot >= first)
            bits[(row->slot - first) / 64] |= UINT64_C(1) << (row->slot - first) % 64;
    struct ap_slots have = {0};
    ap_live_slots(c->index, sc, true, &have);
    for (size_t i = 0; i < have.count; i++) {
        uint64_t slot = have.items[i];
        if (slot >= visible || (i > 0 && have.items[i - 1] == slot))
            continue;
        uint64_t *word = slot >= first ? &bits[(slot - first) / 64] : NULL, bit = UINT64_C(1) << (slot - first) % 64;
        if (word && (*word & bit))
            *word &= ~bit;
        else if (covered(c, slot, last))
            push(&c->dead, slot);
    }
    for (size_t i = 0; i < words; i++)
        for (uint64_t w = bits[i]; w; w &= w - 1)
            push(&c->missing, first + i * 64 + (uint64_t)__builtin_ctzll(w));
    free(have.items);
    free(bits);
}

struct expect { const struct check *c; uint64_t slot; };

static bool match(void *arg, uint64_t slot, const struct ap_key *key)
{
    const struct expect *e = arg;
    struct ap_row row;
    if (slot == e->slot)
        return true; /* the audit has read this key there */
    return ap_snapshot_row(e->c->snapshot, slot, &row, NULL) == 0 && memcmp(row.key.b, key->b, sizeof key->b) == 0;
}

static bool leads_astray(const struct check *c, const struct ap_audit_row *row)
{
    struct expect e = {c, row->slot};
    struct ap_key key;
    ap_key_make(c->audit->collection, &row->id, &key);
    return ap_slotmap_get(&c->index->map, &key, match, &e) != (row->live ? row->slot : 0);
}

static void gather_astray(struct check *c, uint64_t visible)
{
    const struct ap_audit_row *row;
    size_t at = 0, n = 0;
    pthread_rwlock_rdlock(&c->index->map_lock);
    while ((row = ap_audit_next(c->audit, &at))) {
        if (++n % LOCK_RUN == 0) { /* the tail waits for this lock */
            pthread_rwlock_unlock(&c->index->map_lock);
            pthread_rwlock_rdlock(&c->index->map_lock);
        }
        if (row->slot >= visible || !leads_astray(c, row))
            continue;
        if (c->astray_count == c->astray_cap) {
            c->astray_cap = c->astray_cap ? c->astray_cap * 2 : 64;
            c->astray = reallocarray(c->astray, c->astray_cap, sizeof *c->astray);
            if (!c->astray)
                abort();
        }
        c->astray[c->astray_count++] = row->id;
    }
    pthread_rwlock_unlock(&c->index->map_lock);
}

/* ---- probing ---- */

/* What one thread needs to ask a segment. */
struct probe {
    float *vector, *turned, *scores;
    int64_t *ordinals;
    int8_t *q8;
    struct ap_candidate found[PROBE_K];
};

static void probe_init(struct probe *p, const struct ap_segment *s)
{
    size_t room = s->cap > PROBE_K ? s->cap : PROBE_K;
    p->vector = malloc(s->dim * sizeof *p->vector);
    p->turned = malloc(s->dim * sizeof *p->turned);
    p->scores = malloc(room * sizeof *p->scores);
    p->ordinals = malloc(room * sizeof *p->ordinals);
    p->q8 = aligned_alloc(64, ap_q8_stride(s->dim));
    if (!p->vector || !p->turned || !p->scores || !p->ordinals || !p->q8)
        abort();
}

static void probe_fini(struct probe *p)
{
    free(p->vector);
    free(p->turned);
    free(p->scores);
    free(p->ordinals);
    free(p->q8);
}

/* Does the segment find the row in slot by its own vector? 1, 0; -1: it cannot be asked. */
static int ask(const struct check *c, struct probe *p, const struct ap_state *state, const struct ap_segment *s, uint64_t slot)
{
    struct ap_row row;
    bool raw;
    struct ap_top top = {.items = p->found, .k = PROBE_K};
    struct ap_segment_query q = {.effort = PROBE_EFFORT, .scores = p->scores, .ordinals = p->ordinals};
    if (ap_snapshot_row(c->snapshot, slot, &row, NULL) != 0 || ap_row_vector(c->snapshot, state, s->dim, slot, &row, p->vector, &raw) != AP_VECTOR_OK)
        return -1;
    ap_segment_query_init(&q, p->vector, s->dim, p->turned, p->q8);
    if (ap_segment_search(s, &q, &top, NULL) != 0)
        return -1;
    for (size_t i = 0; i < top.count; i++)
        if (top.items[i].slot == slot)
            return 1;
    return 0;
}

static bool finds_its_rows(struct check *c, const struct ap_state *state, const struct ap_segment *s)
{
    struct probe p;
    uint32_t step = s->cap > PROBES ? s->cap / PROBES : 1, asked = 0, found = 0;
    ap_snapshot_end(&c->snapshot); /* one a segment: a reader must not last */
    if (ap_snapshot_begin(c->index->store, &c->snapshot, NULL) != 0)
        return true; /* nobody knows; settling will say what is wrong with the store */
    probe_init(&p, s);
    for (uint32_t ordinal = 0; ordinal < s->cap; ordinal += step) {
        int rc = ap_segment_live(s, ordinal) ? ask(c, &p, state, s, ap_segment_slot(s, ordinal)) : -1;
        asked += rc >= 0;
        found += rc > 0;
    }
    probe_fini(&p);
    c->out->probes += asked;
    if (found * 10 >= asked * 7)
        return true;
    ap_error("a segment of %u rows finds only %u of %u of them", s->cap, found, asked);
    return false;
}

/* A sound segment finds nearly every row by the vector it was built from. */
static void probe_segments(struct check *c, const struct ap_state *state, const struct ap_state_coll *sc)
{
    for (size_t i = 0; i < sc->count; i++) {
        struct ap_segment *s = sc->segments[i];
        bool sealed = !s->codes && s->cap > 0; /* a hot one was made by this process from rows it read */
        if (sealed && c->bad_count < sizeof c->bad / sizeof *c->bad && !finds_its_rows(c, state, s))
            c->bad[c->bad_count++] = ap_segment_ref(s);
    }
}

/* ---- confirming and mending, under apply_lock ---- */

static bool has_slot(const struct ap_slots *s, uint64_t slot)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->items[middle] < slot)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->count && s->items[low] == slot;
}

static bool index_has(const struct ap_coll *coll, uint64_t slot)
{
    for (size_t i = 0; i < coll->count; i++) {
        int64_t ordinal = ap_segment_find(coll->segments[i], slot);
        if (ordinal >= 0 && ap_segment_live(coll->segments[i], (uint32_t)ordinal))
            return true;
    }
    return has_slot(&coll->pending, slot) || has_slot(&coll->unusable, slot);
}

static bool is_dead(const struct check *c, uint64_t slot, uint64_t visible)
{
    struct ap_row row;
    if (ap_snapshot_row(c->snapshot, slot, &row, NULL) != 0)
        return true;
    struct ap_point_id id = ap_key_point(&row.key);
    const struct ap_audit_row *now = ap_audit_find(c->audit, &id);
    if (!now)
        return true;
    if (now->slot == slot)
        return !now->live;
    return now->slot < visible; /* else the tail is about to see what replaced it */
}

static void settle_dead(struct check *c, struct ap_coll *coll, uint64_t visible, bool mend)
{
    for (size_t i = 0; i < c->dead.count; i++) {
        uint64_t slot = c->dead.items[i];
        if (!index_has(coll, slot) || !is_dead(c, slot, visible))
            continue;
        c->out->dead++;
        show(c->out, slot);
        if (mend)
            ap_coll_clear(coll, slot);
    }
}

static void settle_astray(struct check *c, uint64_t visible, bool mend)
{
    pthread_rwlock_wrlock(&c->index->map_lock);
    for (size_t i = 0; i < c->astray_count; i++) {
        const struct ap_audit_row *row = ap_audit_find(c->audit, &c->astray[i]);
        if (!row || row->slot >= visible || !leads_astray(c, row))
            continue;
        c->out->astray++;
        show(c->out, row->slot);
        struct expect e = {c, row->slot};
        struct ap_key key;
        ap_key_make(c->audit->collection, &row->id, &key);
        if (mend && row->live)
            ap_slotmap_put(&c->index->map, &key, row->slot, match, &e);
        else if (mend)
            ap_slotmap_remove(&c->index->map, &key, match, &e);
    }
    pthread_rwlock_unlock(&c->index->map_lock);
}

/* After the ids lead where they should: what is set aside is indexed only when its id leads to it. */
static void settle_missing(struct check *c, struct ap_coll *coll, uint64_t visible, bool mend)
{
    for (size_t i = 0; i < c->missing.count; i++) {
        struct ap_row row;
        uint64_t slot = c->missing.items[i];
        if (slot >= visible || ap_snapshot_row(c->snapshot, slot, &row, NULL) != 0)
            continue;
        struct ap_point_id id = ap_key_point(&row.key);
        const struct ap_audit_row *now = ap_audit_find(c->audit, &id);
        if (!now || now->slot != slot || !now->live || index_has(coll, slot))
            continue;
        c->out->missing++;
        show(c->out, slot);
        if (mend)
            ap_slots_add(&coll->pending, slot);
    }
}

static void settle_segments(struct check *c, struct ap_coll *coll, bool mend)
{
    for (size_t i = 0; i < c->bad_count; i++) {
        struct ap_segment *s = c->bad[i];
        size_t at = 0;
        while (at < coll->count && coll->segments[at] != s)
            at++;
        if (at == coll->count)
            continue; /* merged away meanwhile: what it became is probed next time */
        c->out->segments++;
        if (!mend)
            continue;
        for (uint32_t ordinal = 0; ordinal < s->cap; ordinal++)
            if (ap_segment_live(s, ordinal))
                ap_slots_add(&coll->pending, ap_segment_slot(s, ordinal));
        ap_segfile_remove(c->index, s);
        ap_coll_remove_segment(coll, s);
        struct ap_segment *given_back = s;
        ap_segment_unref(&given_back);
    }
}

static void recount(struct ap_coll *coll)
{
    uint64_t points = coll->pending.count + coll->unusable.count;
    for (size_t i = 0; i < coll->count; i++)
        points += atomic_load(&coll->segments[i]->live_count);
    atomic_store(&coll->points, points);
    atomic_store(&coll->pending_count, coll->pending.count);
}

static int settle(struct check *c, bool mend, struct ap_err *err)
{
    pthread_mutex_lock(&c->index->apply_lock);
    ap_snapshot_end(&c->snapshot);
    int rc = ap_audit_catch_up(c->audit, &c->snapshot, err);
    struct ap_coll *coll = ap_index_coll(c->index, c->audit->collection);
    if (rc == 0 && coll && !coll->dead) {
        uint64_t visible = atomic_load(&c->index->visible);
        settle_dead(c, coll, visible, mend);
        settle_astray(c, visible, mend);
        settle_missing(c, coll, visible, mend);
        settle_segments(c, coll, mend);
        if (mend) {
            recount(coll);
            ap_index_publish(c->index);
        }
    }
    pthread_mutex_unlock(&c->index->apply_lock);
    if (rc == 0 && mend)
        ap_apply_pending(c->index, c->snapshot);
    return rc;
}

int ap_audit_index(struct ap_index *index, struct ap_audit *audit, bool last, bool mend, struct ap_findings *out, struct ap_err *err)
{
    struct check c = {.index = index, .audit = audit, .out = out};
    uint64_t visible = atomic_load(&index->visible); /* before the audit reads on: it then has all of these rows */
    int rc = ap_audit_catch_up(audit, &c.snapshot, err);
    if (rc < 0)
        return rc;
    struct ap_state *state = ap_state_get(index);
    const struct ap_state_coll *sc = ap_state_find(state, audit->collection);
    if (sc && sc->definition && !sc->coll->dead) {
        gather_slots(&c, sc, visible, last);
        gather_astray(&c, visible);
        if (last)
            probe_segments(&c, state, sc);
    }
    if (c.dead.count || c.missing.count || c.astray_count || c.bad_count)
        rc = settle(&c, mend, err);
    ap_snapshot_end(&c.snapshot);
    ap_state_unref(&state);
    for (size_t i = 0; i < c.bad_count; i++)
        ap_segment_unref(&c.bad[i]);
    free(c.dead.items);
    free(c.missing.items);
    free(c.astray);
    return rc;
}
