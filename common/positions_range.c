/* The numbers of one entry, as ranges: 1..mark, then a hole, a held range, a hole, ... up to top.
 *
 * holes[i] is followed by a held range, which is empty only after the last one, where the lost end of a finished incarnation
 * is a hole. clocks[i] is the greatest clock in that range, so closing a hole tells the new mark and its clock at once, and
 * both depend on the set of records only, not on the order in which they came. */
#include "common/positions_internal.h"

void ap_range_insert_hole(struct ap_entry *e, size_t at, uint64_t first, uint64_t last, uint64_t clock)
{
    if (e->count == e->cap) {
        e->cap = e->cap ? e->cap * 2 : 4;
        e->holes = ap_check_memory(reallocarray(e->holes, e->cap, sizeof *e->holes));
        e->clocks = ap_check_memory(reallocarray(e->clocks, e->cap, sizeof *e->clocks));
    }
    memmove(e->holes + at + 1, e->holes + at, (e->count - at) * sizeof *e->holes);
    memmove(e->clocks + at + 1, e->clocks + at, (e->count - at) * sizeof *e->clocks);
    e->holes[at] = (struct ap_hole){first, last};
    e->clocks[at] = clock;
    e->count++;
}

static void remove_holes(struct ap_entry *e, size_t at, size_t n)
{
    if (n == 0)
        return;
    memmove(e->holes + at, e->holes + at + n, (e->count - at - n) * sizeof *e->holes);
    memmove(e->clocks + at, e->clocks + at + n, (e->count - at - n) * sizeof *e->clocks);
    e->count -= n;
}

/* The clock of the held range in front of hole i. */
static uint64_t *clock_before(struct ap_entry *e, size_t i)
{
    return i == 0 ? &e->clock : &e->clocks[i - 1];
}

/* The first hole that ends at seq or later; count when there is none. */
static size_t hole_at(const struct ap_entry *e, uint64_t seq)
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

enum ap_seen ap_range_seen(const struct ap_entry *e, uint64_t seq)
{
    if (seq > e->top)
        return AP_SEEN_NEW;
    if (seq <= e->mark)
        return AP_SEEN_DUPLICATE;
    size_t i = hole_at(e, seq);
    return i < e->count && e->holes[i].first <= seq ? AP_SEEN_LATE : AP_SEEN_DUPLICATE;
}

void ap_range_fill(struct ap_entry *e, uint64_t seq, uint64_t clock)
{
    ap_range_fill_run(e, seq, seq, clock);
}

void ap_range_fill_run(struct ap_entry *e, uint64_t from, uint64_t to, uint64_t clock)
{
    size_t i = hole_at(e, from);
    struct ap_hole *hole = &e->holes[i];
    if (hole->first == from && hole->last == to) {
        uint64_t behind = e->clocks[i];
        if (i == 0)
            e->mark = e->count > 1 ? e->holes[1].first - 1 : e->top;
        remove_holes(e, i, 1);
        ap_raise(clock_before(e, i), clock);
        ap_raise(clock_before(e, i), behind);
    } else if (hole->first == from) {
        hole->first = to + 1;
        if (i == 0)
            e->mark = to;
        ap_raise(clock_before(e, i), clock);
    } else if (hole->last == to) {
        hole->last = from - 1;
        ap_raise(&e->clocks[i], clock);
    } else {
        uint64_t first = hole->first;
        hole->first = to + 1;
        ap_range_insert_hole(e, i, first, from - 1, clock);
    }
}

uint64_t ap_range_give_up(struct ap_entry *e, uint64_t first, uint64_t last)
{
    uint64_t given = 0;
    for (size_t i = hole_at(e, first); i < e->count && e->holes[i].first <= last; i = hole_at(e, first)) {
        uint64_t from = e->holes[i].first > first ? e->holes[i].first : first, to = e->holes[i].last < last ? e->holes[i].last : last;
        ap_range_fill_run(e, from, to, 0);
        given += to - from + 1;
    }
    return given;
}

void ap_range_extend(struct ap_entry *e, uint64_t seq, uint64_t clock)
{
    if (seq > e->top + 1) {
        if (e->count > 0 && e->holes[e->count - 1].last == e->top)
            e->holes[e->count - 1].last = seq - 1; /* the lost end was not the end */
        else
            ap_range_insert_hole(e, e->count, e->top + 1, seq - 1, 0);
    }
    ap_raise(clock_before(e, e->count), clock);
    e->top = seq;
    if (e->count == 0)
        e->mark = seq;
}

void ap_range_raise_mark(struct ap_entry *e, uint64_t mark, uint64_t clock)
{
    if (mark <= e->mark)
        return;
    size_t gone = 0;
    while (gone < e->count && e->holes[gone].last <= mark)
        gone++;
    ap_raise(&e->clock, clock);
    if (gone < e->count && e->holes[gone].first <= mark) {
        e->holes[gone].first = mark + 1;
        e->mark = mark;
    } else {
        /* It ends within the held range behind the last hole that goes. */
        if (gone > 0)
            ap_raise(&e->clock, e->clocks[gone - 1]);
        if (e->top < mark)
            e->top = mark;
        e->mark = gone < e->count ? e->holes[gone].first - 1 : e->top;
    }
    remove_holes(e, 0, gone);
}

uint64_t ap_range_missing(const struct ap_hole *holes, size_t count)
{
    uint64_t missing = 0;
    for (size_t i = 0; i < count; i++)
        if (__builtin_add_overflow(missing, holes[i].last - holes[i].first + 1, &missing))
            return UINT64_MAX;
    return missing;
}

void ap_range_extend_lost(struct ap_entry *e, uint64_t end)
{
    if (e->top >= end)
        return;
    if (e->count > 0 && e->holes[e->count - 1].last == e->top)
        e->holes[e->count - 1].last = end; /* longer than was said before */
    else
        ap_range_insert_hole(e, e->count, e->top + 1, end, 0);
    e->top = end;
}
