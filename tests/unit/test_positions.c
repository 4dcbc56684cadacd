/* Positions: marks, holes, hellos, floors; and at random against sets that forget nothing. */
#include <check.h>
#include <stdlib.h>
#include <time.h>
#include "common/positions.h"
#include "run.h"

#define TOPIC "vec-mutations"

static const struct ap_region eu = {"eu"};
static uint64_t unknown_from; /* incarnations from here on are not registered; 0: all are */

/* Incarnation l * 1000 + i is the i-th of lineage l. */
static uint64_t lineage_of(void *arg, uint64_t incarnation)
{
    (void)arg;
    return unknown_from && incarnation >= unknown_from ? 0 : incarnation / 1000;
}

static struct ap_positions *p;

static void setup(void)
{
    unknown_from = 0;
    p = ap_positions_new(lineage_of, NULL);
}

static void teardown(void)
{
    ap_positions_free(&p);
    ck_assert_ptr_null(p);
}

static enum ap_seen note(uint64_t stream, uint64_t seq)
{
    enum ap_seen before = ap_positions_check(p, stream, TOPIC, 0, seq);
    enum ap_seen seen = ap_positions_note(p, &eu, stream, TOPIC, 0, seq, seq * 10);
    ck_assert_int_eq(before, seen);
    ck_assert_int_eq(ap_positions_check(p, stream, TOPIC, 0, seq), AP_SEEN_DUPLICATE);
    return seen;
}

static void hello(uint64_t stream, uint64_t predecessor, uint64_t ended)
{
    struct ap_hello h = {predecessor, ended};
    ap_positions_hello(p, &eu, stream, TOPIC, 0, &h);
}

/* The position of a live stream or, with lineage, of its floor; false when there is none. */
static bool position(uint64_t stream, uint64_t lineage, struct ap_position *out)
{
    struct ap_position *list;
    size_t count;
    bool found = false;
    ck_assert_int_eq(ap_positions_list(p, &list, &count), 0);
    for (size_t i = 0; i < count; i++)
        if (list[i].finished ? lineage && list[i].lineage == lineage : !lineage && list[i].stream == stream) {
            *out = list[i];
            found = true;
        }
    free(list);
    return found;
}

static void expect_mark(uint64_t stream, uint64_t mark)
{
    struct ap_position at;
    ck_assert(position(stream, 0, &at));
    ck_assert_uint_eq(at.mark, mark);
    ck_assert_uint_eq(at.clock, mark * 10);
    ck_assert_str_eq(at.topic, TOPIC);
    ck_assert_mem_eq(at.region.name, eu.name, 16);
}

static void expect_holes(uint64_t stream, size_t n, const uint64_t (*want)[2])
{
    const struct ap_hole *holes;
    ck_assert_uint_eq(ap_positions_holes(p, stream, TOPIC, 0, &holes), n);
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_eq(holes[i].first, want[i][0]);
        ck_assert_uint_eq(holes[i].last, want[i][1]);
    }
}

struct entry { uint8_t key[128], value[4096]; size_t key_len, value_len; };
static struct entry disk[256];
static size_t disk_count, disk_puts;

static int put(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
    (void)arg;
    size_t i = 0;
    disk_puts++;
    while (i < disk_count && !(disk[i].key_len == key_len && memcmp(disk[i].key, key, key_len) == 0))
        i++;
    if (value_len == 0) {
        ck_assert_uint_le(i, disk_count);
        if (i < disk_count)
            disk[i] = disk[--disk_count];
        return 0;
    }
    ck_assert_uint_lt(i, 256);
    ck_assert(key_len <= sizeof disk[i].key && value_len <= sizeof disk[i].value);
    memcpy(disk[i].key, key, key_len);
    memcpy(disk[i].value, value, value_len);
    disk[i].key_len = key_len;
    disk[i].value_len = value_len;
    disk_count += i == disk_count;
    return 0;
}

static void save(void)
{
    ck_assert_int_eq(ap_positions_flush(p, put, NULL), 0);
}

static void reload(void)
{
    struct ap_err err;
    save();
    ap_positions_free(&p);
    p = ap_positions_new(lineage_of, NULL);
    for (size_t i = 0; i < disk_count; i++)
        ck_assert_msg(ap_positions_load_entry(p, disk[i].key, disk[i].key_len, disk[i].value, disk[i].value_len, &err) == 0, "%s", err.msg);
}

START_TEST(records_in_order_raise_the_mark)
{
    for (uint64_t seq = 1; seq <= 5; seq++)
        ck_assert_int_eq(note(1001, seq), AP_SEEN_NEW);
    expect_mark(1001, 5);
    expect_holes(1001, 0, NULL);
    ck_assert_int_eq(note(1001, 3), AP_SEEN_DUPLICATE);
    ck_assert_int_eq(ap_positions_check(p, 1001, TOPIC, 0, 0), AP_SEEN_DUPLICATE);
    /* Another topic, partition or stream is another position. */
    ck_assert_int_eq(ap_positions_check(p, 1001, TOPIC, 1, 3), AP_SEEN_NEW);
    ck_assert_int_eq(ap_positions_check(p, 1001, "vec-other", 0, 3), AP_SEEN_NEW);
    ck_assert_int_eq(ap_positions_check(p, 1002, TOPIC, 0, 3), AP_SEEN_NEW);
}
END_TEST

START_TEST(holes_open_shrink_split_and_close)
{
    note(1001, 1);
    ck_assert_int_eq(note(1001, 10), AP_SEEN_NEW);
    expect_holes(1001, 1, (uint64_t[][2]){{2, 9}});
    expect_mark(1001, 1);
    ck_assert_int_eq(note(1001, 5), AP_SEEN_LATE);
    expect_holes(1001, 2, (uint64_t[][2]){{2, 4}, {6, 9}});
    ck_assert_int_eq(note(1001, 9), AP_SEEN_LATE);
    ck_assert_int_eq(note(1001, 6), AP_SEEN_LATE);
    expect_holes(1001, 2, (uint64_t[][2]){{2, 4}, {7, 8}});
    ck_assert_int_eq(note(1001, 5), AP_SEEN_DUPLICATE);
    ck_assert_int_eq(note(1001, 2), AP_SEEN_LATE);
    expect_mark(1001, 2);
    struct ap_positions_totals t = ap_positions_totals(p);
    ck_assert_uint_eq(t.holes, 2);
    ck_assert_uint_eq(t.missing, 4);
    ck_assert_uint_eq(t.streams, 1);
    note(1001, 4);
    note(1001, 3);
    expect_mark(1001, 6);
    note(1001, 8);
    note(1001, 7);
    expect_mark(1001, 10);
    expect_holes(1001, 0, NULL);
    note(1001, 11);
    expect_mark(1001, 11);
}
END_TEST

START_TEST(a_finished_stream_collapses_into_its_floor)
{
    struct ap_position at;
    for (uint64_t seq = 1; seq <= 4; seq++)
        note(1001, seq);
    note(1002, 1);
    hello(1002, 1001, 4);
    ck_assert(!position(1001, 0, &at));
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.stream, 1001);
    ck_assert_uint_eq(at.mark, 4);
    ck_assert_uint_eq(at.clock, 40);
    ck_assert(at.finished);
    ck_assert_int_eq(note(1001, 4), AP_SEEN_DUPLICATE);
    ck_assert_int_eq(note(1000, 77), AP_SEEN_DUPLICATE);
    hello(1002, 1001, 4); /* once more */
    struct ap_positions_totals t = ap_positions_totals(p);
    ck_assert_uint_eq(t.streams, 1);
    ck_assert_uint_eq(t.floors, 1);
    /* The next one raises the floor; there is still one. */
    note(1003, 1);
    hello(1003, 1002, 1);
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.stream, 1002);
    ck_assert_uint_eq(ap_positions_totals(p).floors, 1);
}
END_TEST

START_TEST(the_floors_own_incarnation_can_reopen)
{
    struct ap_position at;
    note(1001, 1);
    note(1002, 1);
    hello(1002, 1001, 1);
    ck_assert_int_eq(note(1001, 4), AP_SEEN_NEW);
    expect_holes(1001, 1, (uint64_t[][2]){{2, 3}});
    ck_assert_int_eq(note(1001, 1), AP_SEEN_DUPLICATE);
    reload();
    ck_assert_int_eq(note(1001, 2), AP_SEEN_LATE);
    ck_assert_int_eq(note(1001, 3), AP_SEEN_LATE);
    ck_assert(!position(1001, 0, &at));
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.mark, 4);
    ck_assert_uint_eq(at.clock, 40);
}
END_TEST

START_TEST(a_lost_end_is_a_hole)
{
    struct ap_position at;
    note(1001, 1);
    note(1001, 2);
    note(1002, 1);
    hello(1002, 1001, 5);
    expect_holes(1001, 1, (uint64_t[][2]){{3, 5}});
    expect_mark(1001, 2);
    hello(1002, 1001, 5);
    expect_holes(1001, 1, (uint64_t[][2]){{3, 5}});
    reload();
    ck_assert_int_eq(note(1001, 5), AP_SEEN_LATE);
    ck_assert_int_eq(note(1001, 3), AP_SEEN_LATE);
    expect_mark(1001, 3);
    ck_assert_int_eq(note(1001, 4), AP_SEEN_LATE);
    ck_assert(!position(1001, 0, &at));
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.mark, 5);
}
END_TEST

START_TEST(a_record_beyond_the_lost_end_widens_the_hole)
{
    note(1001, 1);
    hello(1002, 1001, 3);
    ck_assert_int_eq(note(1001, 7), AP_SEEN_NEW);
    expect_holes(1001, 1, (uint64_t[][2]){{2, 6}});
    reload();
    expect_holes(1001, 1, (uint64_t[][2]){{2, 6}});
}
END_TEST

START_TEST(an_unknown_predecessor_is_all_hole)
{
    note(1002, 1);
    hello(1002, 1001, 3);
    expect_holes(1001, 1, (uint64_t[][2]){{1, 3}});
    struct ap_position at;
    ck_assert(position(1001, 0, &at));
    ck_assert_uint_eq(at.mark, 0);
    /* Nothing of it here: nothing to wait for. */
    note(2002, 1);
    hello(2002, 2001, 0);
    ck_assert(!position(2001, 0, &at));
    /* No predecessor, or one that cannot be. */
    hello(2002, 0, 9);
    hello(2002, 2002, 9);
    hello(2002, 2003, 9);
    ck_assert(!position(2003, 0, &at));
    ck_assert_uint_eq(ap_positions_totals(p).missing, 3);
}
END_TEST

START_TEST(a_floor_waits_for_every_earlier_incarnation)
{
    struct ap_position at;
    note(1001, 1);
    note(1001, 3);
    note(1002, 1);
    hello(1002, 1001, 3);
    note(1003, 1);
    hello(1003, 1002, 1);
    /* 1002 is complete, but 1001 is not: a floor of 1002 would say that it were. */
    ck_assert(position(1002, 0, &at));
    ck_assert(!position(0, 1, &at));
    reload();
    ck_assert_int_eq(note(1001, 2), AP_SEEN_LATE);
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.stream, 1002);
    ck_assert_uint_eq(ap_positions_totals(p).streams, 1);
    reload();
    ck_assert_uint_eq(ap_positions_totals(p).streams, 1);
    ck_assert_uint_eq(ap_positions_totals(p).floors, 1);
}
END_TEST

/* A hello that comes last of all would find its own stream complete; that must not hide the stream before it. */
START_TEST(a_late_hello_still_finds_the_lost_end)
{
    struct ap_position at;
    for (int hello_first = 0; hello_first < 2; hello_first++) {
        uint64_t l = hello_first ? 2000 : 1000;
        note(l + 2, 2);
        note(l + 3, 1);
        hello(l + 3, l + 2, 2);
        if (hello_first)
            hello(l + 2, l + 1, 3);
        note(l + 2, 1);
        if (!hello_first)
            hello(l + 2, l + 1, 3);
        save();
        expect_holes(l + 1, 1, (uint64_t[][2]){{1, 3}});
        ck_assert(position(l + 2, 0, &at));
        note(l + 1, 1);
        note(l + 1, 3);
        note(l + 1, 2);
        save();
        ck_assert(position(0, l / 1000, &at));
        ck_assert_uint_eq(at.stream, l + 2);
    }
    /* Nothing before it here: it collapses at once, or with the batch when it is no hello at all. */
    note(3002, 2);
    note(3003, 1);
    hello(3003, 3002, 2);
    note(3002, 1);
    hello(3002, 3001, 0);
    ck_assert(position(0, 3, &at));
    note(4002, 2);
    note(4003, 1);
    hello(4003, 4002, 2);
    note(4002, 1);
    ck_assert(!position(0, 4, &at));
    save();
    ck_assert(position(0, 4, &at));
}
END_TEST

START_TEST(lineages_may_become_known_later)
{
    struct ap_position at;
    unknown_from = 1;
    note(1001, 1);
    note(1002, 1);
    hello(1002, 1001, 1);
    note(1003, 1);
    hello(1003, 1002, 1);
    save();
    ck_assert(position(1001, 0, &at) && position(1002, 0, &at));
    ck_assert_uint_eq(at.lineage, 0);
    unknown_from = 1002; /* only the first */
    save();
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.stream, 1001);
    unknown_from = 0;
    reload();
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.stream, 1002);
    ck_assert_uint_eq(disk_count, 2);
    /* A replay that came while the lineage was unknown is forgotten again. */
    unknown_from = 1;
    ap_positions_note(p, &eu, 1000, TOPIC, 0, 2, 20);
    ap_positions_note(p, &eu, 1002, TOPIC, 0, 5, 50);
    ck_assert_uint_eq(ap_positions_totals(p).missing, 1 + 4);
    unknown_from = 0;
    save();
    ck_assert(!position(1000, 0, &at));
    expect_holes(1002, 1, (uint64_t[][2]){{2, 4}});
    expect_mark(1002, 1);
}
END_TEST

START_TEST(a_predecessor_of_unknown_lineage_holds_the_floor_back)
{
    struct ap_position at;
    unknown_from = 1;
    note(1001, 1);
    note(1001, 3);
    hello(1002, 1001, 3);
    unknown_from = 0;
    note(1002, 1); /* only this one is registered when it comes */
    hello(1003, 1002, 1);
    ck_assert(position(1002, 0, &at));
    ck_assert_int_eq(ap_positions_check(p, 1001, TOPIC, 0, 2), AP_SEEN_LATE);
    save();
    ck_assert_int_eq(ap_positions_check(p, 1001, TOPIC, 0, 2), AP_SEEN_LATE);
    note(1001, 2);
    ck_assert(position(0, 1, &at));
    ck_assert_uint_eq(at.stream, 1002);
}
END_TEST

START_TEST(only_what_changed_is_flushed)
{
    note(1001, 1);
    note(2001, 1);
    save();
    disk_puts = 0;
    save();
    ck_assert_uint_eq(disk_puts, 0);
    note(2001, 1);
    save();
    ck_assert_uint_eq(disk_puts, 0);
    note(2001, 2);
    note(2001, 3);
    save();
    ck_assert_uint_eq(disk_puts, 1);
}
END_TEST

static int refuse(void *arg, const void *key, size_t key_len, const void *value, size_t value_len)
{
    (void)key, (void)key_len, (void)value, (void)value_len;
    return (*(int *)arg)-- > 0 ? 0 : -1;
}

START_TEST(a_failed_flush_loses_nothing)
{
    int left = 2;
    for (uint64_t stream = 1001; stream <= 5001; stream += 1000)
        note(stream, 1);
    ck_assert_int_eq(ap_positions_flush(p, refuse, &left), -1);
    disk_puts = 0;
    save();
    ck_assert_uint_eq(disk_puts, 3);
}
END_TEST

START_TEST(bad_entries_are_refused)
{
    struct ap_err err;
    struct ap_position at;
    uint64_t missing;
    note(1001, 1);
    note(1001, 5);
    note(1001, 9);
    save();
    struct entry good = disk[0];
    ck_assert_int_eq(ap_position_decode(good.key, good.key_len, good.value, good.value_len, &at, &missing, &err), 0);
    ck_assert_uint_eq(at.stream, 1001);
    ck_assert_uint_eq(missing, 6);
    ck_assert_int_eq(ap_positions_load_entry(p, good.key, good.key_len, good.value, good.value_len, &err), AP_ECORRUPT); /* twice */
    for (size_t len = 0; len < good.value_len; len++)
        if (len != good.value_len - 24) /* a hole less is well-formed */
            ck_assert_int_eq(ap_position_decode(good.key, good.key_len, good.value, len, &at, &missing, &err), AP_ECORRUPT);
    for (size_t len = 0; len <= 13; len++)
        ck_assert_int_eq(ap_position_decode(good.key, len, good.value, good.value_len, &at, NULL, &err), AP_ECORRUPT);
    struct entry bad = good;
    bad.value[0] = 2;
    ck_assert_int_eq(ap_position_decode(bad.key, bad.key_len, bad.value, bad.value_len, &at, NULL, &err), AP_ECORRUPT);
    bad = good;
    bad.key[0] = 'X';
    ck_assert_int_eq(ap_position_decode(bad.key, bad.key_len, bad.value, bad.value_len, &at, NULL, &err), AP_ECORRUPT);
    bad = good;
    bad.value[66] = 1; /* a hole below the mark */
    ck_assert_int_eq(ap_position_decode(bad.key, bad.key_len, bad.value, bad.value_len, &at, NULL, &err), AP_ECORRUPT);
}
END_TEST

/* --- at random, against sets --- */

#define LINEAGES 2
#define CHAIN 5     /* incarnations of a lineage */
#define LONGEST 40  /* records of one */

struct model {
    uint64_t end;               /* records it published */
    bool noted[LONGEST + 1];
    bool ended;                 /* its successor's hello was applied */
};

static uint64_t model_mark(const struct model *m)
{
    uint64_t mark = 0;
    while (mark < m->end && m->noted[mark + 1])
        mark++;
    return mark;
}

static uint64_t model_top(const struct model *m)
{
    uint64_t top = m->ended ? m->end : 0;
    for (uint64_t seq = 1; seq <= m->end; seq++)
        if (m->noted[seq] && seq > top)
            top = seq;
    return top;
}

static void compare_with(struct model models[LINEAGES][CHAIN], uint64_t seed)
{
    struct ap_position at;
    uint64_t missing = 0, holes = 0;
    for (uint64_t l = 0; l < LINEAGES; l++) {
        bool all_before = true; /* every earlier one is complete: collapsed */
        for (uint64_t i = 0; i < CHAIN; i++) {
            const struct model *m = &models[l][i];
            uint64_t stream = (l + 1) * 1000 + i, mark = model_mark(m), top = model_top(m);
            bool in_hole = false, collapsed = all_before && m->ended && mark == m->end;
            for (uint64_t seq = 1; seq <= m->end; seq++) {
                bool lost = seq <= top && !m->noted[seq];
                enum ap_seen want = m->noted[seq] ? AP_SEEN_DUPLICATE : lost ? AP_SEEN_LATE : AP_SEEN_NEW;
                ck_assert_msg(ap_positions_check(p, stream, TOPIC, 0, seq) == want, "seed %llu: stream %llu seq %llu",
                              (unsigned long long)seed, (unsigned long long)stream, (unsigned long long)seq);
                missing += lost;
                holes += lost && !in_hole;
                in_hole = lost;
            }
            bool live = position(stream, 0, &at);
            ck_assert_msg(live == (top > 0 && !collapsed), "seed %llu: stream %llu", (unsigned long long)seed, (unsigned long long)stream);
            if (live) {
                ck_assert_uint_eq(at.mark, mark);
                ck_assert_uint_eq(at.clock, mark * 10);
            }
            if (collapsed && m->end > 0) {
                ck_assert(position(0, l + 1, &at));
                ck_assert_uint_ge(at.stream, stream);
            }
            all_before = all_before && (collapsed || (m->ended && m->end == 0));
        }
    }
    struct ap_positions_totals t = ap_positions_totals(p);
    ck_assert_uint_eq(t.missing, missing);
    ck_assert_uint_eq(t.holes, holes);
}

START_TEST(random_arrivals_equal_the_sets)
{
    const char *given = getenv("ANTIPODE_TEST_SEED");
    uint64_t first = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    printf("random_arrivals_equal_the_sets: seeds from %llu\n", (unsigned long long)first);
    for (uint64_t seed = first; seed < first + 300; seed++) {
        struct model models[LINEAGES][CHAIN] = {0};
        struct { uint64_t l, i, seq; } arrivals[LINEAGES * CHAIN * LONGEST];
        size_t n = 0;
        srand48((long)seed);
        disk_count = 0;
        ap_positions_free(&p);
        p = ap_positions_new(lineage_of, NULL);
        for (uint64_t l = 0; l < LINEAGES; l++)
            for (uint64_t i = 0; i < CHAIN; i++) {
                /* Some publish nothing here: without a hello, then, unless they are in the middle. */
                models[l][i].end = lrand48() % 6 == 0 ? 0 : 1 + (uint64_t)lrand48() % LONGEST;
                for (uint64_t seq = 1; seq <= models[l][i].end; seq++) {
                    arrivals[n].l = l, arrivals[n].i = i, arrivals[n++].seq = seq;
                }
            }
        /* Mostly in order; the disorder is local in some rounds and total in others. */
        size_t reach = seed % 3 == 0 ? n : seed % 3 == 1 ? 8 : 40;
        for (size_t i = 0; i < n; i++) {
            size_t j = i + (size_t)lrand48() % reach;
            if (j < n) {
                __typeof__(arrivals[0]) t = arrivals[i];
                arrivals[i] = arrivals[j];
                arrivals[j] = t;
            }
        }
        for (size_t step = 0; step < n + n / 4; step++) {
            size_t k = step < n ? step : (size_t)lrand48() % n; /* then some again */
            struct model *m = &models[arrivals[k].l][arrivals[k].i];
            uint64_t stream = (arrivals[k].l + 1) * 1000 + arrivals[k].i, seq = arrivals[k].seq;
            if (step < n && lrand48() % 20 == 0)
                continue; /* lost for now */
            if (note(stream, seq) != AP_SEEN_DUPLICATE && seq == 1 && arrivals[k].i == 0) {
                hello(stream, 0, 0);
            } else if (seq == 1 && !m->noted[1]) {
                /* The first record says hello, for the nearest earlier one that has published here. */
                uint64_t before = arrivals[k].i - 1;
                while (before > 0 && models[arrivals[k].l][before].end == 0)
                    models[arrivals[k].l][before--].ended = true;
                models[arrivals[k].l][before].ended = true;
                hello(stream, (arrivals[k].l + 1) * 1000 + before, models[arrivals[k].l][before].end);
            }
            m->noted[seq] = true;
            if (lrand48() % 50 == 0)
                reload();
            if (lrand48() % 20 == 0)
                compare_with(models, seed);
        }
        compare_with(models, seed);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("positions");
    TCase *t = tcase_create("positions");
    tcase_set_timeout(t, 50);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, records_in_order_raise_the_mark);
    tcase_add_test(t, holes_open_shrink_split_and_close);
    tcase_add_test(t, a_finished_stream_collapses_into_its_floor);
    tcase_add_test(t, the_floors_own_incarnation_can_reopen);
    tcase_add_test(t, a_lost_end_is_a_hole);
    tcase_add_test(t, a_record_beyond_the_lost_end_widens_the_hole);
    tcase_add_test(t, an_unknown_predecessor_is_all_hole);
    tcase_add_test(t, a_floor_waits_for_every_earlier_incarnation);
    tcase_add_test(t, a_late_hello_still_finds_the_lost_end);
    tcase_add_test(t, lineages_may_become_known_later);
    tcase_add_test(t, a_predecessor_of_unknown_lineage_holds_the_floor_back);
    tcase_add_test(t, only_what_changed_is_flushed);
    tcase_add_test(t, a_failed_flush_loses_nothing);
    tcase_add_test(t, bad_entries_are_refused);
    tcase_add_test(t, random_arrivals_equal_the_sets);
    suite_add_tcase(s, t);
    return run_suite(s);
}
