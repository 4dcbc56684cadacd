/* One hash table of entries: live ones by (stream, topic, partition), floors by (lineage, topic, partition).
 *
 * A live entry holds numbers as ranges: 1..mark, then a hole, a held range, a hole, ... up to top; holes[i] is followed by a
 * held range (empty only after the last, when the lost end of a finished incarnation is a hole), and clocks[i] is the
 * greatest clock in it. So closing a hole tells the new mark and its clock at once, in whatever order records came.
 *
 * A finished entry without holes collapses into its lineage's floor, but only when no earlier incarnation of the lineage
 * still lives there: a floor says that everything before it is complete. What waits for a lineage that nobody has
 * registered yet is looked at again with each flush.
 *
 * Persisted, little-endian but for the key's numbers (big-endian, so that they sort):
 *   key     u8 'L' or 'F', u64 stream or lineage, u32 partition, topic
 *   value   u8 format (1), u8 flags (1: the end is known), 16 bytes region, u64 lineage, u64 incarnation, u64 mark, u64 clock,
 *           u64 top, u64 end, then for each hole u64 first, u64 last, u64 clock of the range behind it */
#include "common/positions.h"
#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>

#define FORMAT 1
#define KEY_HEAD 13
#define VALUE_HEAD 66
#define HOLE_BYTES 24
#define TOPIC_MAX (sizeof((struct ap_position *)0)->topic)

struct entry {
    struct entry *next;        /* in its bucket */
    struct entry *next_dirty;
    bool floor, ended, dirty;
    uint64_t id;               /* stream; of a floor: lineage */
    uint64_t incarnation;      /* stream; of a floor: the newest complete one */
    uint64_t lineage;          /* 0 while unknown */
    struct ap_region origin;
    int32_t partition;
    uint64_t mark, clock, top;
    uint64_t end;              /* the last number, when ended */
    struct ap_hole *holes;
    uint64_t *clocks;
    size_t count, cap;
    char topic[64];
};

struct ap_positions {
    uint64_t (*lineage_of)(void *, uint64_t);
    void *arg;
    struct entry **buckets;
    size_t mask, used;
    struct entry *dirty;
    struct ap_buf dead;        /* keys to delete at the next flush: u16 length, key */
    size_t unresolved;         /* live entries without a lineage */
    struct entry **last;       /* the live entry found last; apart, so that a lookup can set it through a const table */
};

/* --- the table --- */

static size_t bucket_of(const struct ap_positions *p, bool is_floor, uint64_t id, const char *topic, int32_t partition)
{
    uint64_t h = XXH3_64bits_withSeed(topic, strlen(topic), id ^ (uint64_t)is_floor << 63);
    return (size_t)((h ^ (uint64_t)(uint32_t)partition) * UINT64_C(0x9e3779b97f4a7c15) >> 20) & p->mask;
}

static bool is_at(const struct entry *e, bool is_floor, uint64_t id, const char *topic, int32_t partition)
{
    return e->id == id && e->partition == partition && e->floor == is_floor && strcmp(e->topic, topic) == 0;
}

static struct entry *find(const struct ap_positions *p, bool is_floor, uint64_t id, const char *topic, int32_t partition)
{
    if (!is_floor && *p->last && is_at(*p->last, false, id, topic, partition))
        return *p->last;
    struct entry *e = p->buckets[bucket_of(p, is_floor, id, topic, partition)];
    while (e && !is_at(e, is_floor, id, topic, partition))
        e = e->next;
    if (e && !is_floor)
        *p->last = e;
    return e;
}

static void *check_memory(void *memory)
{
    if (!memory)
        abort(); /* small and bounded by the streams there are: the process is beyond help */
    return memory;
}

static void grow(struct ap_positions *p)
{
    struct entry **old = p->buckets;
    size_t size = p->mask + 1;
    p->buckets = check_memory(calloc(size * 2, sizeof *p->buckets));
    p->mask = size * 2 - 1;
    for (size_t i = 0; i < size; i++)
        for (struct entry *e = old[i], *next; e; e = next) {
            next = e->next;
            struct entry **at = &p->buckets[bucket_of(p, e->floor, e->id, e->topic, e->partition)];
            e->next = *at;
            *at = e;
        }
    free(old);
}

static struct entry *add(struct ap_positions *p, bool is_floor, uint64_t id, const struct ap_region *origin, const char *topic, int32_t partition)
{
    assert(strlen(topic) < TOPIC_MAX); /* topics are configured, and checked there */
    if (++p->used > p->mask)
        grow(p);
    struct entry *e = check_memory(calloc(1, sizeof *e));
    e->floor = is_floor;
    e->id = e->incarnation = id;
    e->origin = *origin;
    e->partition = partition;
    strcpy(e->topic, topic);
    struct entry **at = &p->buckets[bucket_of(p, is_floor, id, topic, partition)];
    e->next = *at;
    *at = e;
    return e;
}

static void touch(struct ap_positions *p, struct entry *e)
{
    if (e->dirty)
        return;
    e->dirty = true;
    e->next_dirty = p->dirty;
    p->dirty = e;
}

static size_t make_key(const struct entry *e, uint8_t out[KEY_HEAD + TOPIC_MAX])
{
    size_t topic = strlen(e->topic);
    out[0] = e->floor ? 'F' : 'L';
    ap_put_be64(out + 1, e->id);
    for (int i = 0; i < 4; i++)
        out[9 + i] = (uint8_t)((uint32_t)e->partition >> (24 - 8 * i));
    memcpy(out + KEY_HEAD, e->topic, topic);
    return KEY_HEAD + topic;
}

static void free_entry(struct entry *e)
{
    free(e->holes);
    free(e->clocks);
    free(e);
}

static void drop(struct ap_positions *p, struct entry *e)
{
    uint8_t key[KEY_HEAD + TOPIC_MAX], len[2];
    size_t n = make_key(e, key);
    ap_put_le16(len, (uint16_t)n);
    ap_buf_append(&p->dead, len, 2);
    ap_buf_append(&p->dead, key, n);
    struct entry **at = &p->buckets[bucket_of(p, e->floor, e->id, e->topic, e->partition)];
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
    struct ap_positions *p = check_memory(calloc(1, sizeof *p));
    p->lineage_of = lineage_of;
    p->arg = arg;
    p->mask = 63;
    p->buckets = check_memory(calloc(p->mask + 1, sizeof *p->buckets));
    p->last = check_memory(calloc(1, sizeof(struct entry *)));
    return p;
}

void ap_positions_free(struct ap_positions **p)
{
    if (!*p)
        return;
    for (size_t i = 0; i <= (*p)->mask; i++)
        for (struct entry *e = (*p)->buckets[i], *next; e; e = next) {
            next = e->next;
            free_entry(e);
        }
    free((*p)->buckets);
    free((*p)->last);
    ap_buf_free(&(*p)->dead);
    free(*p);
    *p = NULL;
}

/* --- ranges --- */

static void insert_hole(struct entry *e, size_t at, uint64_t first, uint64_t last, uint64_t clock)
{
    if (e->count == e->cap) {
        e->cap = e->cap ? e->cap * 2 : 4;
        e->holes = check_memory(reallocarray(e->holes, e->cap, sizeof *e->holes));
        e->clocks = check_memory(reallocarray(e->clocks, e->cap, sizeof *e->clocks));
    }
    memmove(e->holes + at + 1, e->holes + at, (e->count - at) * sizeof *e->holes);
    memmove(e->clocks + at + 1, e->clocks + at, (e->count - at) * sizeof *e->clocks);
    e->holes[at] = (struct ap_hole){first, last};
    e->clocks[at] = clock;
    e->count++;
}

static void remove_holes(struct entry *e, size_t at, size_t n)
{
    memmove(e->holes + at, e->holes + at + n, (e->count - at - n) * sizeof *e->holes);
    memmove(e->clocks + at, e->clocks + at + n, (e->count - at - n) * sizeof *e->clocks);
    e->count -= n;
}

static void raise_to(uint64_t *clock, uint64_t value)
{
    if (*clock < value)
        *clock = value;
}

/* The clock of the held range in front of hole i. */
static uint64_t *clock_before(struct entry *e, size_t i)
{
    return i == 0 ? &e->clock : &e->clocks[i - 1];
}

/* The first hole that ends at seq or later; count when there is none. */
static size_t hole_at(const struct entry *e, uint64_t seq)
{
    size_t low = 0, high = e->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (e->holes[middle].last < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static enum ap_seen seen_in(const struct entry *e, uint64_t seq)
{
    if (seq > e->top)
        return AP_SEEN_NEW;
    if (seq <= e->mark)
        return AP_SEEN_DUPLICATE;
    size_t i = hole_at(e, seq);
    return i < e->count && e->holes[i].first <= seq ? AP_SEEN_LATE : AP_SEEN_DUPLICATE;
}

static void fill(struct entry *e, uint64_t seq, uint64_t clock)
{
    size_t i = hole_at(e, seq);
    struct ap_hole *hole = &e->holes[i];
    if (hole->first == seq && hole->last == seq) {
        uint64_t behind = e->clocks[i];
        if (i == 0)
            e->mark = e->count > 1 ? e->holes[1].first - 1 : e->top;
        remove_holes(e, i, 1);
        raise_to(clock_before(e, i), clock);
        raise_to(clock_before(e, i), behind);
    } else if (hole->first == seq) {
        hole->first++;
        if (i == 0)
            e->mark = seq;
        raise_to(clock_before(e, i), clock);
    } else if (hole->last == seq) {
        hole->last--;
        raise_to(&e->clocks[i], clock);
    } else {
        uint64_t first = hole->first;
        hole->first = seq + 1;
        insert_hole(e, i, first, seq - 1, clock);
    }
}

static void extend(struct entry *e, uint64_t seq, uint64_t clock)
{
    if (seq > e->top + 1) {
        if (e->count > 0 && e->holes[e->count - 1].last == e->top)
            e->holes[e->count - 1].last = seq - 1; /* the lost end was not the end */
        else
            insert_hole(e, e->count, e->top + 1, seq - 1, 0);
    }
    raise_to(clock_before(e, e->count), clock);
    e->top = seq;
    if (e->count == 0)
        e->mark = seq;
}

/* Everything up to mark is complete, as another has counted it. */
static void raise_mark(struct entry *e, uint64_t mark, uint64_t clock)
{
    if (mark <= e->mark)
        return;
    size_t gone = 0;
    while (gone < e->count && e->holes[gone].last <= mark)
        gone++;
    raise_to(&e->clock, clock);
    if (gone < e->count && e->holes[gone].first <= mark) {
        e->holes[gone].first = mark + 1;
        e->mark = mark;
    } else {
        /* It ends within the held range behind the last hole that goes. */
        if (gone > 0)
            raise_to(&e->clock, e->clocks[gone - 1]);
        if (e->top < mark)
            e->top = mark;
        e->mark = gone < e->count ? e->holes[gone].first - 1 : e->top;
    }
    remove_holes(e, 0, gone);
}

/* --- lineages and floors --- */

static uint64_t lineage_of(const struct ap_positions *p, uint64_t incarnation)
{
    return p->lineage_of ? p->lineage_of(p->arg, incarnation) : 0;
}

static struct entry *floor_of(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition)
{
    uint64_t lineage = lineage_of(p, stream);
    return lineage ? find(p, true, lineage, topic, partition) : NULL;
}

/* A live entry for a stream that has none: from its floor's mark on where it is the floor's own incarnation. */
static struct entry *add_live(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic, int32_t partition)
{
    struct entry *e = add(p, false, stream, origin, topic, partition);
    e->lineage = lineage_of(p, stream);
    p->unresolved += e->lineage == 0;
    const struct entry *below = floor_of(p, stream, topic, partition);
    if (below && below->incarnation == stream) {
        e->mark = e->top = e->end = below->mark;
        e->clock = below->clock;
        e->ended = true;
    }
    return e;
}

/* The lowest live incarnation of e's lineage at its topic and partition. One whose lineage is unknown may be of it, if
 * it is a predecessor of somebody's. */
static struct entry *lowest_beside(const struct ap_positions *p, const struct entry *e)
{
    struct entry *lowest = NULL;
    for (size_t i = 0; i <= p->mask; i++)
        for (struct entry *o = p->buckets[i]; o; o = o->next)
            if (!o->floor && (o->lineage == e->lineage || (o->lineage == 0 && o->ended)) && o->partition == e->partition &&
                strcmp(o->topic, e->topic) == 0 && (!lowest || o->id < lowest->id))
                lowest = o;
    return lowest;
}

static bool is_complete(const struct entry *e)
{
    return e->ended && e->count == 0 && e->mark >= e->end && e->lineage != 0;
}

/* Collapse e, and then those after it that only waited for it. True: something went, maybe e. */
static bool collapse(struct ap_positions *p, struct entry *e)
{
    bool went = false;
    if (!is_complete(e))
        return false;
    e = lowest_beside(p, e);
    while (e && is_complete(e)) {
        struct entry *below = find(p, true, e->lineage, e->topic, e->partition);
        if (!below) {
            below = add(p, true, e->lineage, &e->origin, e->topic, e->partition);
            below->lineage = e->lineage;
            below->incarnation = 0;
        }
        if (below->incarnation <= e->id) {
            below->incarnation = e->id;
            below->mark = below->top = e->mark;
            below->origin = e->origin;
        }
        raise_to(&below->clock, e->clock);
        touch(p, below);
        drop(p, e);
        went = true;
        e = lowest_beside(p, below);
    }
    return went;
}

/* e's lineage has become known. A replay of what was complete long ago goes. */
static void meet_floor(struct ap_positions *p, struct entry *e)
{
    const struct entry *below = find(p, true, e->lineage, e->topic, e->partition);
    touch(p, e);
    if (!below || e->id > below->incarnation)
        return;
    if (e->id < below->incarnation || e->top <= below->mark)
        drop(p, e);
    else
        raise_mark(e, below->mark, below->clock);
}

/* The catalog may know more than it did: find the lineages that were missing, then collapse what waited for them. Both
 * start again after each change, since that changes the table. */
static void resolve(struct ap_positions *p)
{
    bool found = false;
again:
    for (size_t i = 0; p->unresolved > 0 && i <= p->mask; i++)
        for (struct entry *e = p->buckets[i]; e; e = e->next)
            if (!e->floor && e->lineage == 0 && (e->lineage = lineage_of(p, e->id)) != 0) {
                p->unresolved--;
                found = true;
                meet_floor(p, e);
                goto again;
            }
collapse_again:
    for (size_t i = 0; found && i <= p->mask; i++)
        for (struct entry *e = p->buckets[i]; e; e = e->next)
            if (collapse(p, e))
                goto collapse_again;
}

/* --- what the consumer asks --- */

enum ap_seen ap_positions_check(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, uint64_t seq)
{
    if (seq == 0)
        return AP_SEEN_DUPLICATE; /* numbers are from 1 */
    const struct entry *e = find(p, false, stream, topic, partition);
    if (e)
        return seen_in(e, seq);
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
    struct entry *e = find(p, false, stream, topic, partition);
    if (!e)
        e = add_live(p, origin, stream, topic, partition);
    if (seen == AP_SEEN_LATE)
        fill(e, seq, clock);
    else
        extend(e, seq, clock);
    touch(p, e);
    if (e->ended)
        collapse(p, e);
    return seen;
}

void ap_positions_hello(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic,
                        int32_t partition, const struct ap_hello *hello)
{
    uint64_t before = hello->predecessor;
    if (before == 0 || before >= stream)
        return; /* nobody, or nothing that can have come before */
    struct entry *e = find(p, false, before, topic, partition);
    if (!e) {
        const struct entry *below = floor_of(p, before, topic, partition);
        if (hello->ended == 0 || (below && (below->incarnation > before ||
                                            (below->incarnation == before && below->mark >= hello->ended))))
            return; /* nothing of it here, or all of it already */
        e = add_live(p, origin, before, topic, partition);
    }
    if (e->top < hello->ended) {
        if (e->count > 0 && e->holes[e->count - 1].last == e->top)
            e->holes[e->count - 1].last = hello->ended; /* the lost end is longer than the last hello said */
        else
            insert_hole(e, e->count, e->top + 1, hello->ended, 0);
        e->top = hello->ended;
    }
    if (!e->ended || e->end < hello->ended)
        e->end = hello->ended;
    e->ended = true;
    touch(p, e);
    collapse(p, e);
}

static void describe(const struct entry *e, struct ap_position *out)
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
        for (const struct entry *e = p->buckets[i]; e; e = e->next)
            describe(e, &(*out)[(*count)++]);
    return 0;
}

size_t ap_positions_holes(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, const struct ap_hole **holes)
{
    const struct entry *e = find(p, false, stream, topic, partition);
    *holes = e ? e->holes : NULL;
    return e ? e->count : 0;
}

static uint64_t missing_in(const struct ap_hole *holes, size_t count)
{
    uint64_t missing = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_add_overflow(missing, holes[i].last - holes[i].first + 1, &missing))
            return UINT64_MAX;
    return missing;
}

struct ap_positions_totals ap_positions_totals(const struct ap_positions *p)
{
    struct ap_positions_totals t = {0};
    for (size_t i = 0; i <= p->mask; i++)
        for (const struct entry *e = p->buckets[i]; e; e = e->next) {
            t.floors += e->floor;
            t.streams += !e->floor;
            t.holes += e->count;
            if (__builtin_add_overflow(t.missing, missing_in(e->holes, e->count), &t.missing))
                t.missing = UINT64_MAX;
        }
    return t;
}

/* --- persistence --- */

static void encode(const struct entry *e, struct ap_buf *out)
{
    uint8_t head[VALUE_HEAD], hole[HOLE_BYTES];
    head[0] = FORMAT;
    head[1] = e->ended;
    memcpy(head + 2, e->origin.name, 16);
    const uint64_t numbers[] = {e->lineage, e->incarnation, e->mark, e->clock, e->top, e->end};
    for (size_t i = 0; i < 6; i++)
        ap_put_le64(head + 18 + 8 * i, numbers[i]);
    ap_buf_clear(out);
    ap_buf_append(out, head, sizeof head);
    for (size_t i = 0; i < e->count; i++) {
        ap_put_le64(hole, e->holes[i].first);
        ap_put_le64(hole + 8, e->holes[i].last);
        ap_put_le64(hole + 16, e->clocks[i]);
        ap_buf_append(out, hole, sizeof hole);
    }
}

int ap_positions_flush(struct ap_positions *p, ap_positions_put put, void *arg)
{
    resolve(p);
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < p->dead.len;) {
        size_t len = ap_le16(p->dead.data + at);
        rc = put(arg, p->dead.data + at + 2, len, NULL, 0);
        at += 2 + len;
    }
    if (rc == 0)
        ap_buf_clear(&p->dead);
    struct ap_buf value = {0};
    while (rc == 0 && p->dirty) {
        struct entry *e = p->dirty;
        uint8_t key[KEY_HEAD + TOPIC_MAX];
        size_t len = make_key(e, key);
        encode(e, &value);
        rc = put(arg, key, len, value.data, value.len);
        if (rc == 0) {
            p->dirty = e->next_dirty;
            e->dirty = false;
        }
    }
    ap_buf_free(&value);
    return rc;
}

/* What an entry's bytes say; holes stay in the value. */
static int decode(const void *key, size_t key_len, const void *value, size_t value_len, struct entry *out,
                  const uint8_t **holes, size_t *count, struct ap_err *err)
{
    const uint8_t *k = key, *v = value;
    memset(out, 0, sizeof *out);
    if (key_len <= KEY_HEAD || key_len >= KEY_HEAD + TOPIC_MAX || (k[0] != 'L' && k[0] != 'F') ||
        memchr(k + KEY_HEAD, 0, key_len - KEY_HEAD))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a stored position has a key of %zu bytes that is none", key_len);
    if (value_len < VALUE_HEAD || v[0] != FORMAT || (value_len - VALUE_HEAD) % HOLE_BYTES != 0 || v[17] != 0)
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a stored position of %zu bytes has another format than %d", value_len, FORMAT);
    out->floor = k[0] == 'F';
    out->id = ap_be64(k + 1);
    out->partition = (int32_t)((uint32_t)k[9] << 24 | (uint32_t)k[10] << 16 | (uint32_t)k[11] << 8 | k[12]);
    memcpy(out->topic, k + KEY_HEAD, key_len - KEY_HEAD);
    out->ended = v[1] & 1;
    memcpy(out->origin.name, v + 2, 16);
    uint64_t *numbers[] = {&out->lineage, &out->incarnation, &out->mark, &out->clock, &out->top, &out->end};
    for (size_t i = 0; i < 6; i++)
        *numbers[i] = ap_le64(v + 18 + 8 * i);
    *holes = v + VALUE_HEAD;
    *count = (value_len - VALUE_HEAD) / HOLE_BYTES;
    uint64_t held = out->mark;
    for (size_t i = 0; i < *count; i++) {
        uint64_t first = ap_le64(*holes + i * HOLE_BYTES), last = ap_le64(*holes + i * HOLE_BYTES + 8);
        /* Each behind the one before, with something held between them but at the very start. */
        if (first > last || last > out->top || first <= held || (i == 0 ? first != held + 1 : first == held + 1))
            return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "the holes of a stored position overlap");
        held = last;
    }
    if (out->mark > out->top || (*count == 0 && out->mark != out->top) || (out->floor && *count > 0))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "the marks of a stored position contradict each other");
    return 0;
}

int ap_positions_load_entry(struct ap_positions *p, const void *key, size_t key_len, const void *value, size_t value_len, struct ap_err *err)
{
    struct entry read;
    const uint8_t *holes;
    size_t count;
    int rc = decode(key, key_len, value, value_len, &read, &holes, &count, err);
    if (rc < 0)
        return rc;
    if (find(p, read.floor, read.id, read.topic, read.partition))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a position is stored twice");
    struct entry *e = add(p, read.floor, read.id, &read.origin, read.topic, read.partition);
    e->incarnation = read.incarnation;
    e->lineage = read.lineage;
    e->ended = read.ended;
    e->mark = read.mark;
    e->clock = read.clock;
    e->top = read.top;
    e->end = read.end;
    for (size_t i = 0; i < count; i++)
        insert_hole(e, i, ap_le64(holes + i * HOLE_BYTES), ap_le64(holes + i * HOLE_BYTES + 8), ap_le64(holes + i * HOLE_BYTES + 16));
    p->unresolved += !e->floor && e->lineage == 0;
    return 0;
}

int ap_position_decode(const void *key, size_t key_len, const void *value, size_t value_len, struct ap_position *out,
                       uint64_t *missing, struct ap_err *err)
{
    struct entry read;
    const uint8_t *holes;
    size_t count;
    int rc = decode(key, key_len, value, value_len, &read, &holes, &count, err);
    if (rc < 0)
        return rc;
    describe(&read, out);
    if (missing) {
        *missing = 0;
        for (size_t i = 0; i < count; i++) {
            struct ap_hole hole = {ap_le64(holes + i * HOLE_BYTES), ap_le64(holes + i * HOLE_BYTES + 8)};
            if (__builtin_add_overflow(*missing, missing_in(&hole, 1), missing))
                *missing = UINT64_MAX;
        }
    }
    return 0;
}
