/* One hash table of entries: live ones by (stream, topic, partition), floors by (lineage, topic, partition).
 *
 * A finished entry without holes collapses into its lineage's floor, but only when no earlier incarnation of the lineage
 * still lives there: a floor says that everything before it is complete. What waits for a lineage that nobody has
 * registered yet is looked at again with each flush. Numbers: positions_range.c; bytes: positions_store.c. */
#include <assert.h>
#include <xxhash.h>
#include "common/positions_internal.h"

/* --- the table --- */

static size_t bucket_of(const struct ap_positions *p, bool is_floor, uint64_t id, const char *topic, int32_t partition)
{
    uint64_t h = XXH3_64bits_withSeed(topic, strlen(topic), id ^ (uint64_t)is_floor << 63);
    return (size_t)((h ^ (uint64_t)(uint32_t)partition) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & p->mask;
}

static bool is_at(const struct ap_entry *e, bool is_floor, uint64_t id, const char *topic, int32_t partition)
{
    return e->id == id && e->partition == partition && e->floor == is_floor && strcmp(e->topic, topic) == 0;
}

struct ap_entry *ap_positions_find(const struct ap_positions *p, bool is_floor, uint64_t id, const char *topic, int32_t partition)
{
    if (!is_floor && *p->last && is_at(*p->last, false, id, topic, partition))
        return *p->last;
    struct ap_entry *e = p->buckets[bucket_of(p, is_floor, id, topic, partition)];
    while (e && !is_at(e, is_floor, id, topic, partition))
        e = e->next;
    if (e && !is_floor)
        *p->last = e;
    return e;
}

static void grow(struct ap_positions *p)
{
    struct ap_entry **old = p->buckets;
    size_t size = p->mask + 1;
    p->buckets = ap_check_memory(calloc(size * 2, sizeof *p->buckets));
    p->mask = size * 2 - 1;
    for (size_t i = 0; i < size; i++)
        for (struct ap_entry *e = old[i], *next; e; e = next) {
            next = e->next;
            struct ap_entry **at = &p->buckets[bucket_of(p, e->floor, e->id, e->topic, e->partition)];
            e->next = *at;
            *at = e;
        }
    free(old);
}

struct ap_entry *ap_positions_add(struct ap_positions *p, bool is_floor, uint64_t id, const struct ap_region *origin, const char *topic, int32_t partition)
{
    assert(strlen(topic) < AP_TOPIC_MAX); /* topics are configured, and checked there */
    if (++p->used > p->mask)
        grow(p);
    struct ap_entry *e = ap_check_memory(calloc(1, sizeof *e));
    e->floor = is_floor;
    e->id = e->incarnation = id;
    e->origin = *origin;
    e->partition = partition;
    strcpy(e->topic, topic);
    struct ap_entry **at = &p->buckets[bucket_of(p, is_floor, id, topic, partition)];
    e->next = *at;
    *at = e;
    return e;
}

static void touch(struct ap_positions *p, struct ap_entry *e)
{
    if (e->dirty)
        return;
    e->dirty = true;
    e->next_dirty = p->dirty;
    p->dirty = e;
}

size_t ap_position_key(const struct ap_entry *e, uint8_t out[AP_POSITION_KEY_HEAD + AP_TOPIC_MAX])
{
    size_t topic = strlen(e->topic);
    out[0] = e->floor ? 'F' : 'L';
    ap_put_be64(out + 1, e->id);
    for (int i = 0; i < 4; i++)
        out[9 + i] = (uint8_t)((uint32_t)e->partition >> (24 - 8 * i));
    memcpy(out + AP_POSITION_KEY_HEAD, e->topic, topic);
    return AP_POSITION_KEY_HEAD + topic;
}

static void free_entry(struct ap_entry *e)
{
    free(e->holes);
    free(e->clocks);
    free(e);
}

static void drop(struct ap_positions *p, struct ap_entry *e)
{
    uint8_t key[AP_POSITION_KEY_HEAD + AP_TOPIC_MAX], len[2];
    size_t n = ap_position_key(e, key);
    ap_put_le16(len, (uint16_t)n);
    ap_buf_append(&p->dead, len, 2);
    ap_buf_append(&p->dead, key, n);
    struct ap_entry **at = &p->buckets[bucket_of(p, e->floor, e->id, e->topic, e->partition)];
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    for (at = &p->dirty; e->dirty && *at; at = &(*at)->next_dirty)
        if (*at == e) {
            *at = e->next_dirty;
            break;
        }
    if (*p->last == e)
        *p->last = NULL;
    p->used--;
    p->unresolved -= !e->floor && e->lineage == 0;
    free_entry(e);
}

struct ap_positions *ap_positions_new(uint64_t (*lineage_of)(void *arg, uint64_t incarnation), void *arg)
{
    struct ap_positions *p = ap_check_memory(calloc(1, sizeof *p));
    p->lineage_of = lineage_of;
    p->arg = arg;
    p->mask = 63;
    p->buckets = ap_check_memory(calloc(p->mask + 1, sizeof *p->buckets));
    p->last = ap_check_memory(calloc(1, sizeof(struct ap_entry *)));
    return p;
}

void ap_positions_free(struct ap_positions **p)
{
    if (!*p)
        return;
    for (size_t i = 0; i <= (*p)->mask; i++)
        for (struct ap_entry *e = (*p)->buckets[i], *next; e; e = next) {
            next = e->next;
            free_entry(e);
        }
    free((*p)->buckets);
    free((*p)->last);
    ap_buf_free(&(*p)->dead);
    free(*p);
    *p = NULL;
}

/* --- lineages and floors --- */

static uint64_t lineage_of(const struct ap_positions *p, uint64_t incarnation)
{
    return p->lineage_of ? p->lineage_of(p->arg, incarnation) : 0;
}

static struct ap_entry *floor_of(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition)
{
    uint64_t lineage = lineage_of(p, stream);
    return lineage ? ap_positions_find(p, true, lineage, topic, partition) : NULL;
}

/* A live entry for a stream that has none: from its floor's mark on where it is the floor's own incarnation. */
static struct ap_entry *add_live(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic, int32_t partition)
{
    struct ap_entry *e = ap_positions_add(p, false, stream, origin, topic, partition);
    e->lineage = lineage_of(p, stream);
    p->unresolved += e->lineage == 0;
    const struct ap_entry *below = floor_of(p, stream, topic, partition);
    if (below && below->incarnation == stream) {
        e->mark = e->top = e->end = below->mark;
        e->clock = below->clock;
        e->ended = true;
    }
    return e;
}

/* The lowest live incarnation of e's lineage at its topic and partition. One whose lineage is unknown may be of it, if
 * it is a predecessor of somebody's. */
static struct ap_entry *lowest_beside(const struct ap_positions *p, const struct ap_entry *e)
{
    struct ap_entry *lowest = NULL;
    for (size_t i = 0; i <= p->mask; i++)
        for (struct ap_entry *o = p->buckets[i]; o; o = o->next)
            if (!o->floor && (o->lineage == e->lineage || (o->lineage == 0 && o->ended)) && o->partition == e->partition &&
                strcmp(o->topic, e->topic) == 0 && (!lowest || o->id < lowest->id))
                lowest = o;
    return lowest;
}

static bool is_complete(const struct ap_entry *e)
{
    return e->ended && e->count == 0 && e->mark >= e->end && e->lineage != 0;
}

/* Collapse e, and then those after it that only waited for it. True: something went, maybe e. */
static bool collapse(struct ap_positions *p, struct ap_entry *e)
{
    bool went = false;
    if (!is_complete(e))
        return false;
    e = lowest_beside(p, e);
    while (e && is_complete(e)) {
        struct ap_entry *below = ap_positions_find(p, true, e->lineage, e->topic, e->partition);
        if (!below) {
            below = ap_positions_add(p, true, e->lineage, &e->origin, e->topic, e->partition);
            below->lineage = e->lineage;
            below->incarnation = 0;
        }
        if (below->incarnation <= e->id) {
            below->incarnation = e->id;
            below->mark = below->top = e->mark;
            below->origin = e->origin;
        }
        ap_raise(&below->clock, e->clock);
        touch(p, below);
        drop(p, e);
        went = true;
        e = lowest_beside(p, below);
    }
    return went;
}

/* e's lineage has become known. A replay of what was complete long ago goes. */
static void meet_floor(struct ap_positions *p, struct ap_entry *e)
{
    const struct ap_entry *below = ap_positions_find(p, true, e->lineage, e->topic, e->partition);
    touch(p, e);
    if (!below || e->id > below->incarnation)
        return;
    if (e->id < below->incarnation || e->top <= below->mark)
        drop(p, e);
    else
        ap_range_raise_mark(e, below->mark, below->clock);
}

/* The catalog may know more than it did: find the lineages that were missing, then collapse what waited for them. Both
 * start again after each change, since that changes the table. */
void ap_positions_resolve(struct ap_positions *p)
{
    bool found = p->waiting;
    p->waiting = false;
again:
    for (size_t i = 0; p->unresolved > 0 && i <= p->mask; i++)
        for (struct ap_entry *e = p->buckets[i]; e; e = e->next)
            if (!e->floor && e->lineage == 0 && (e->lineage = lineage_of(p, e->id)) != 0) {
                p->unresolved--;
                found = true;
                meet_floor(p, e);
                goto again;
            }
collapse_again:
    for (size_t i = 0; found && i <= p->mask; i++)
        for (struct ap_entry *e = p->buckets[i]; e; e = e->next)
            if (collapse(p, e))
                goto collapse_again;
}

/* --- what the consumer asks --- */

enum ap_seen ap_positions_check(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, uint64_t seq)
{
    if (seq == 0)
        return AP_SEEN_DUPLICATE; /* numbers are from 1 */
    const struct ap_entry *e = ap_positions_find(p, false, stream, topic, partition);
    if (e)
        return ap_range_seen(e, seq);
    e = floor_of(p, stream, topic, partition);
    if (!e || stream > e->incarnation)
        return AP_SEEN_NEW;
    return stream < e->incarnation || seq <= e->mark ? AP_SEEN_DUPLICATE : AP_SEEN_NEW;
}

enum ap_seen ap_positions_note(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic,
                               int32_t partition, uint64_t seq, uint64_t clock)
{
    enum ap_seen seen = ap_positions_check(p, stream, topic, partition, seq);
    if (seen == AP_SEEN_DUPLICATE)
        return seen;
    struct ap_entry *e = ap_positions_find(p, false, stream, topic, partition);
    if (!e)
        e = add_live(p, origin, stream, topic, partition);
    if (seen == AP_SEEN_LATE)
        ap_range_fill(e, seq, clock);
    else
        ap_range_extend(e, seq, clock);
    touch(p, e);
    /* Number 1 may be a hello that has yet to say what came before: until then e's lineage looks complete below it. */
    if (e->ended && seq == 1)
        p->waiting = true;
    else if (e->ended)
        collapse(p, e);
    return seen;
}

/* stream's predecessor ended at `ended` here. */
static void end_predecessor(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic,
                            int32_t partition, uint64_t ended)
{
    struct ap_entry *e = ap_positions_find(p, false, stream, topic, partition);
    if (!e) {
        const struct ap_entry *below = floor_of(p, stream, topic, partition);
        if (ended == 0 || (below && (below->incarnation > stream || (below->incarnation == stream && below->mark >= ended))))
            return; /* nothing of it here, or all of it already */
        e = add_live(p, origin, stream, topic, partition);
    }
    ap_range_extend_lost(e, ended);
    if (!e->ended || e->end < ended)
        e->end = ended;
    e->ended = true;
    touch(p, e);
    collapse(p, e);
}

void ap_positions_hello(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic,
                        int32_t partition, const struct ap_hello *hello)
{
    if (hello->predecessor != 0 && hello->predecessor < stream) /* otherwise nobody, or nothing that can have come before */
        end_predecessor(p, origin, hello->predecessor, topic, partition, hello->ended);
    struct ap_entry *e = ap_positions_find(p, false, stream, topic, partition);
    if (e)
        collapse(p, e); /* it may have waited for this hello */
}

void ap_positions_end(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic, int32_t partition, uint64_t end)
{
    end_predecessor(p, origin, stream, topic, partition, end);
}

uint64_t ap_positions_give_up(struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, uint64_t first, uint64_t last)
{
    struct ap_entry *e = ap_positions_find(p, false, stream, topic, partition);
    uint64_t given = e ? ap_range_give_up(e, first, last) : 0;
    if (given) {
        touch(p, e);
        if (e->ended)
            collapse(p, e);
    }
    return given;
}

void ap_position_of(const struct ap_entry *e, struct ap_position *out)
{
    memset(out, 0, sizeof *out);
    out->stream = e->incarnation;
    out->region = e->origin;
    memcpy(out->topic, e->topic, sizeof out->topic);
    out->partition = e->partition;
    out->mark = e->mark;
    out->clock = e->clock;
    out->lineage = e->lineage;
    out->finished = e->floor;
}

int ap_positions_list(const struct ap_positions *p, struct ap_position **out, size_t *count)
{
    *count = 0;
    *out = calloc(p->used ? p->used : 1, sizeof **out);
    if (!*out)
        return AP_ENOMEM;
    for (size_t i = 0; i <= p->mask; i++)
        for (const struct ap_entry *e = p->buckets[i]; e; e = e->next)
            ap_position_of(e, &(*out)[(*count)++]);
    return 0;
}

size_t ap_positions_holes(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, const struct ap_hole **holes)
{
    const struct ap_entry *e = ap_positions_find(p, false, stream, topic, partition);
    *holes = e ? e->holes : NULL;
    return e ? e->count : 0;
}

struct ap_positions_totals ap_positions_totals(const struct ap_positions *p)
{
    struct ap_positions_totals t = {0};
    for (size_t i = 0; i <= p->mask; i++)
        for (const struct ap_entry *e = p->buckets[i]; e; e = e->next) {
            t.floors += e->floor;
            t.streams += !e->floor;
            t.holes += e->count;
            if (__builtin_add_overflow(t.missing, ap_range_missing(e->holes, e->count), &t.missing))
                t.missing = UINT64_MAX;
        }
    return t;
}
