/* Collections as the tail changes them, and the immutable state that views hold of them.
 *
 * A state is made anew when a list of segments, a definition or the set of codecs changes, which is rare, and costs a few
 * pointers a segment; rows appended to a hot segment and live bits need none. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/index_impl.h"

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- slots ---- */

static size_t slots_at(const struct ap_slots *s, uint64_t slot)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->items[middle] < slot)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void ap_slots_add(struct ap_slots *s, uint64_t slot)
{
    size_t at = s->count > 0 && s->items[s->count - 1] < slot ? s->count : slots_at(s, slot);
    if (at < s->count && s->items[at] == slot)
        return;
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->items = must(realloc(s->items, s->cap * sizeof *s->items));
    }
    memmove(s->items + at + 1, s->items + at, (s->count - at) * sizeof *s->items);
    s->items[at] = slot;
    s->count++;
}

bool ap_slots_remove(struct ap_slots *s, uint64_t slot)
{
    size_t at = slots_at(s, slot);
    if (at == s->count || s->items[at] != slot)
        return false;
    s->count--;
    memmove(s->items + at, s->items + at + 1, (s->count - at) * sizeof *s->items);
    return true;
}

/* ---- definitions ---- */

static char *copy(const char *text)
{
    return text ? must(strdup(text)) : NULL;
}

struct ap_definition *ap_definition_new(const struct ap_collection *c, struct ap_fields *fields)
{
    struct ap_definition *d = must(calloc(1, sizeof *d));
    atomic_init(&d->refs, 1);
    d->c = *c;
    d->fields = fields;
    d->c.params.name = copy(c->params.name);
    d->c.params.codec_factory = copy(c->params.codec_factory);
    d->c.params.topic = copy(c->params.topic);
    d->c.params.vector_name = copy(c->params.vector_name);
    return d;
}

static struct ap_definition *definition_ref(struct ap_definition *d)
{
    if (d)
        atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
    return d;
}

void ap_definition_unref(struct ap_definition **definition)
{
    struct ap_definition *d = *definition;
    *definition = NULL;
    if (!d || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(d->c.params.name);
    free(d->c.params.codec_factory);
    free(d->c.params.topic);
    free(d->c.params.vector_name);
    ap_fields_unref(&d->fields);
    free(d);
}

/* ---- collections ---- */

static size_t coll_at(const struct ap_index *index, uint64_t id)
{
    size_t low = 0, high = index->coll_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (index->colls[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct ap_coll *ap_index_coll(struct ap_index *index, uint64_t id)
{
    size_t at = coll_at(index, id);
    return at < index->coll_count && index->colls[at]->id == id ? index->colls[at] : NULL;
}

struct ap_coll *ap_index_coll_make(struct ap_index *index, uint64_t id)
{
    struct ap_coll *coll = ap_index_coll(index, id);
    if (coll)
        return coll;
    size_t at = coll_at(index, id);
    if (index->coll_count == index->coll_cap) {
        index->coll_cap = index->coll_cap ? index->coll_cap * 2 : 8;
        index->colls = must(realloc(index->colls, index->coll_cap * sizeof *index->colls));
    }
    memmove(index->colls + at + 1, index->colls + at, (index->coll_count - at) * sizeof *index->colls);
    index->coll_count++;
    coll = index->colls[at] = must(calloc(1, sizeof *coll));
    coll->id = id;
    pthread_mutex_init(&coll->order_lock, NULL);
    return coll;
}

static uint64_t first_slot(const struct ap_segment *s)
{
    uint64_t first, last;
    return ap_segment_range(s, &first, &last) ? first : UINT64_MAX;
}

void ap_coll_add_segment(struct ap_coll *coll, struct ap_segment *s)
{
    if (coll->count == coll->cap) {
        coll->cap = coll->cap ? coll->cap * 2 : 8;
        coll->segments = must(realloc(coll->segments, coll->cap * sizeof *coll->segments));
    }
    size_t at = coll->count - (coll->hot && coll->hot != s);
    while (at > 0 && first_slot(coll->segments[at - 1]) > first_slot(s))
        at--;
    memmove(coll->segments + at + 1, coll->segments + at, (coll->count - at) * sizeof *coll->segments);
    coll->segments[at] = s;
    coll->count++;
}

void ap_coll_remove_segment(struct ap_coll *coll, struct ap_segment *s)
{
    for (size_t i = 0; i < coll->count; i++)
        if (coll->segments[i] == s) {
            coll->count--;
            memmove(coll->segments + i, coll->segments + i + 1, (coll->count - i) * sizeof *coll->segments);
            if (coll->hot == s)
                coll->hot = NULL;
            return;
        }
    assert(!"a segment of this collection");
}

void ap_coll_clear(struct ap_coll *coll, uint64_t slot)
{
    bool found = false;
    /* Lists may overlap where rows were set aside for a time: look at every segment that could have it. */
    for (size_t i = coll->count; i-- > 0;) {
        int64_t ordinal = ap_segment_find(coll->segments[i], slot);
        if (ordinal >= 0) {
            ap_segment_mark(coll->segments[i], (uint32_t)ordinal, false);
            found = true;
        }
    }
    if (!found && ap_slots_remove(&coll->pending, slot))
        atomic_store_explicit(&coll->pending_count, coll->pending.count, memory_order_relaxed);
    else if (!found)
        ap_slots_remove(&coll->unusable, slot);
}

/* ---- states ---- */

void ap_index_publish(struct ap_index *index)
{
    struct ap_state *s = must(calloc(1, sizeof *s));
    atomic_init(&s->refs, 1);
    s->rolls = atomic_load(&index->rolls);
    for (size_t i = 0; i < index->coll_count; i++)
        s->segment_count += index->colls[i]->count;
    s->coll_count = index->coll_count;
    s->colls = must(calloc(s->coll_count + 1, sizeof *s->colls));
    s->segments = must(calloc(s->segment_count + 1, sizeof(struct ap_segment *)));
    s->columns = must(calloc(s->segment_count + 1, sizeof(struct ap_columns *)));
    s->codecs = must(calloc(index->codec_count + 1, sizeof(struct ap_codec *)));
    size_t at = 0;
    for (size_t i = 0; i < index->coll_count; i++) {
        struct ap_coll *coll = index->colls[i];
        s->colls[i] = (struct ap_state_coll){coll, definition_ref(coll->definition), s->segments + at, s->columns + at, coll->count};
        for (size_t j = 0; j < coll->count; j++, at++) {
            s->segments[at] = ap_segment_ref(coll->segments[j]);
            s->columns[at] = ap_columns_ref(coll->segments[j]->columns);
        }
    }
    for (size_t i = 0; i < index->codec_count; i++)
        if (index->codecs[i].codec)
            s->codecs[s->codec_count++] = ap_codec_ref(index->codecs[i].codec);

    pthread_mutex_lock(&index->state_lock);
    struct ap_state *old = index->state;
    index->state = s;
    pthread_mutex_unlock(&index->state_lock);
    ap_state_unref(&old);
}

struct ap_state *ap_state_get(struct ap_index *index)
{
    pthread_mutex_lock(&index->state_lock);
    struct ap_state *s = index->state;
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&index->state_lock);
    return s;
}

void ap_state_unref(struct ap_state **state)
{
    struct ap_state *s = *state;
    *state = NULL;
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < s->segment_count; i++)
        ap_columns_unref(&s->columns[i]), ap_segment_unref(&s->segments[i]);
    for (size_t i = 0; i < s->coll_count; i++)
        ap_definition_unref(&s->colls[i].definition);
    for (size_t i = 0; i < s->codec_count; i++)
        ap_codec_unref(&s->codecs[i]);
    free(s->segments);
    free(s->columns);
    free(s->colls);
    free(s->codecs);
    free(s);
}

const struct ap_state_coll *ap_state_find(const struct ap_state *state, uint64_t collection)
{
    size_t low = 0, high = state->coll_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (state->colls[middle].coll->id < collection)
            low = middle + 1;
        else
            high = middle;
    }
    return low < state->coll_count && state->colls[low].coll->id == collection ? &state->colls[low] : NULL;
}

struct ap_codec *ap_state_codec(const struct ap_state *state, uint64_t id)
{
    size_t low = 0, high = state->codec_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ap_codec_id(state->codecs[middle]) < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < state->codec_count && ap_codec_id(state->codecs[low]) == id ? state->codecs[low] : NULL;
}
