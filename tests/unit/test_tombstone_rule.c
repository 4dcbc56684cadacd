/* The rule of tombstones, case by case: every way in which forgetting one could bring a point back, and what keeps it. */
#include <check.h>
#include <stdlib.h>
#include <stdio.h>
#include "common/clock.h"
#include "consumer/rule.h"
#include "run.h"

/* Times in ms. A region's logs keep a day; the tombstones of two days ago are the ones in question. */
#define DAY INT64_C(86400000)
#define now (1000 * DAY)
#define AT(ms) ap_hlc_make(ms, 0)
#define OLD (now - 2 * DAY)
#define AGED (now - DAY - 1000) /* retention and margin */

enum { US, EU, AP, REGIONS };
static const char *const names[REGIONS] = {"us", "eu", "ap"};
static struct ap_position lists[REGIONS][16];
static struct ap_rule_region regions[REGIONS];
static struct ap_rule_view view;
static struct ap_rule_verdict verdict;
static uint64_t eu_stream, us_stream;
static uint64_t retired, cut; /* a stream, and the last number of it that counts */

static uint64_t started(int64_t ms, uint64_t n)
{
    uint64_t id = ap_incarnation_new(ms);
    return (id & ~UINT64_C(0x3fffff)) | n; /* its random bits: so that the order is known */
}

static struct ap_position *put(int where, int origin, uint64_t stream, int32_t partition, uint64_t mark, uint64_t clock)
{
    struct ap_position *p = &lists[where][regions[where].count++];
    *p = (struct ap_position){.stream = stream, .partition = partition, .mark = mark, .clock = clock, .lineage = stream};
    strcpy(p->region.name, names[origin]);
    strcpy(p->topic, "vec-mutations");
    return p;
}

static void put_floor(int where, int origin, uint64_t lineage, uint64_t stream, uint64_t mark, uint64_t clock)
{
    struct ap_position *p = put(where, origin, stream, 0, mark, clock);
    p->lineage = lineage;
    p->finished = true;
}

static uint64_t end_of(void *arg, uint64_t stream, const char *topic, int32_t partition)
{
    (void)arg;
    (void)topic;
    (void)partition;
    return stream == retired ? cut : UINT64_MAX;
}

/* Everybody has applied everything, up to a moment ago, and nothing is open. */
static void setup(void)
{
    retired = 0;
    eu_stream = started(now - 100 * DAY, 1);
    us_stream = started(now - 100 * DAY, 2);
    memset(regions, 0, sizeof regions);
    view = (struct ap_rule_view){.regions = regions, .count = REGIONS, .workers = 1, .now_ms = now, .margin_ms = 1000, .drift_ms = 60000,
                                 .stream_end = end_of};
    for (int r = 0; r < REGIONS; r++) {
        strcpy(regions[r].region.name, names[r]);
        regions[r].heard = true;
        regions[r].settled = (struct ap_settled){AP_HLC_MAX, DAY};
        regions[r].settled_why = AP_RULE_UNSETTLED;
        regions[r].positions = lists[r];
        put(r, EU, eu_stream, 0, 1000, AT(now));
        put(r, US, us_stream, 0, 1000, AT(now));
    }
}

static void judge(void)
{
    ap_rule_judge(&view, &verdict);
}

static void assert_held(uint64_t floor, int by, enum ap_rule_why why)
{
    judge();
    ck_assert_uint_eq(verdict.floor, floor);
    ck_assert_uint_eq(verdict.holder, (size_t)by);
    ck_assert_str_eq(ap_rule_why_name(verdict.regions[by].why), ap_rule_why_name(why));
}

START_TEST(when_all_is_well_age_alone_decides)
{
    judge();
    ck_assert_uint_eq(verdict.floor, AT(AGED));
    ck_assert_int_eq(verdict.age_ms, DAY + 1000);
    ck_assert_uint_eq(verdict.holder, REGIONS);
    for (int r = 0; r < REGIONS; r++)
        ck_assert_int_eq(verdict.regions[r].why, AP_RULE_AGE);
}
END_TEST

START_TEST(the_longest_retention_of_any_region_counts)
{
    regions[AP].settled.retention_ms = 5 * DAY;
    judge();
    ck_assert_uint_eq(verdict.floor, AT(now - 5 * DAY - 1000));
    regions[AP].settled.retention_ms = -1;
    assert_held(0, AP, AP_RULE_FOREVER);
    regions[AP].settled.retention_ms = 0;
    assert_held(0, AP, AP_RULE_UNSAID);
}
END_TEST

START_TEST(a_stalled_mirror_partition_holds)
{
    lists[AP][0].mark = 900; /* of eu's stream, ap has not got what eu and us have */
    lists[AP][0].clock = AT(OLD);
    assert_held(AT(OLD), AP, AP_RULE_BEHIND);
    ck_assert_str_eq(verdict.regions[AP].at.region.name, "eu");
    ck_assert_uint_eq(verdict.regions[AP].at.stream, eu_stream);
    ck_assert_int_eq(verdict.regions[US].why, AP_RULE_AGE);
}
END_TEST

START_TEST(a_mirror_partition_stalled_since_before_a_stream_began_holds_from_its_start)
{
    uint64_t young = started(OLD, 3);
    put(EU, EU, young, 3, 10, AT(now));
    put(US, EU, young, 3, 10, AT(now));
    assert_held(AT(OLD - 60000), AP, AP_RULE_BEHIND);
    view.worker = 0; /* but not a worker that has other partitions */
    view.workers = 2;
    judge();
    ck_assert_uint_eq(verdict.floor, AT(AGED));
}
END_TEST

START_TEST(a_stream_that_ended_for_good_holds_nothing_when_all_have_its_end)
{
    for (int r = 0; r < REGIONS; r++) {
        lists[r][0].mark = 77;
        lists[r][0].clock = AT(now - 50 * DAY);
    }
    judge();
    ck_assert_uint_eq(verdict.floor, AT(AGED));
    lists[US][0].mark = 76; /* but here its end is missing */
    assert_held(AT(now - 50 * DAY), US, AP_RULE_BEHIND);
}
END_TEST

START_TEST(a_hole_a_held_event_and_a_dead_letter_hold_here_and_elsewhere)
{
    static const enum ap_rule_why whys[] = {AP_RULE_HOLE, AP_RULE_HELD, AP_RULE_LETTER};
    for (size_t i = 0; i < 3; i++) {
        regions[US].settled.hlc = AT(OLD);
        regions[US].settled_why = whys[i];
        assert_held(AT(OLD), US, whys[i]);
    }
    regions[US].settled.hlc = AP_HLC_MAX;
    regions[EU].settled.hlc = AT(OLD); /* as its watermark says: we may have applied what is missing there */
    assert_held(AT(OLD), EU, AP_RULE_UNSETTLED);
}
END_TEST

START_TEST(a_silent_region_holds_everything)
{
    regions[AP].heard = false;
    regions[AP].settled = (struct ap_settled){0};
    regions[AP].count = 0;
    assert_held(0, AP, AP_RULE_UNHEARD);
}
END_TEST

START_TEST(a_region_cut_off_holds_from_where_it_was_heard_last)
{
    lists[AP][0] = lists[EU][0]; /* its last watermark: old marks of all streams that go on elsewhere */
    lists[AP][0].mark = lists[AP][1].mark = 500;
    lists[AP][0].clock = AT(OLD + 5);
    lists[AP][1].clock = AT(OLD);
    assert_held(AT(OLD), AP, AP_RULE_BEHIND);
}
END_TEST

START_TEST(a_retired_region_is_not_asked_and_its_streams_hold_up_to_their_cut)
{
    uint64_t ap_stream = started(now - 100 * DAY, 4);
    put(US, AP, ap_stream, 0, 100, AT(OLD)); /* us got more of it than eu, and nobody can ever help eu */
    put(EU, AP, ap_stream, 0, 90, AT(OLD - 500));
    regions[AP].heard = false;
    regions[AP].count = 0;
    regions[AP].settled = (struct ap_settled){0};
    regions[AP].retired = true;
    assert_held(AT(OLD - 500), EU, AP_RULE_BEHIND);
    retired = ap_stream;
    for (cut = 0; cut <= 90; cut += 90) {
        judge();
        ck_assert_uint_eq(verdict.floor, AT(AGED));
        ck_assert_uint_eq(verdict.holder, REGIONS);
    }
    cut = 95; /* what counts may still come to eu, or is given up there, and then its mark says so */
    assert_held(AT(OLD - 500), EU, AP_RULE_BEHIND);
}
END_TEST

START_TEST(a_region_that_returns_counts_again)
{
    regions[AP].count = 0; /* rebuilt, and has read nothing yet */
    regions[AP].retired = true;
    judge();
    ck_assert_uint_eq(verdict.floor, AT(AGED));
    regions[AP].retired = false;
    judge();
    ck_assert_uint_le(verdict.floor, AT(now - 99 * DAY));
    ck_assert_int_eq(verdict.regions[AP].why, AP_RULE_BEHIND);
}
END_TEST

/* Its logs do not reach equally far back: of us's stream it has everything from number 1 on, of eu's only the end. */
START_TEST(a_region_rebuilt_from_logs_of_unequal_age_holds_until_nothing_is_missing)
{
    lists[AP][0].mark = 0; /* 1 to 899 are a hole */
    lists[AP][0].clock = 0;
    assert_held(0, AP, AP_RULE_BEHIND);
    lists[AP][0].mark = 899; /* repaired */
    lists[AP][0].clock = AT(OLD);
    assert_held(AT(OLD), AP, AP_RULE_BEHIND);
    regions[AP].count = 1; /* and the other stream was not read at all */
    lists[AP][0].mark = 1000;
    assert_held(AT(now - 100 * DAY - 60000), AP, AP_RULE_BEHIND);
}
END_TEST

START_TEST(a_finished_lineage_must_be_complete_everywhere)
{
    uint64_t first = started(now - 90 * DAY, 5), second = started(now - 40 * DAY, 6);
    put_floor(EU, EU, first, second, 20, AT(now - 30 * DAY));
    put_floor(US, EU, first, second, 20, AT(now - 30 * DAY));
    assert_held(0, AP, AP_RULE_BEHIND); /* ap has never read it */
    put_floor(AP, EU, first, first, 9, AT(now - 41 * DAY));
    assert_held(AT(now - 41 * DAY), AP, AP_RULE_BEHIND); /* only its first incarnation */
    struct ap_position *live = put(AP, EU, second, 0, 19, AT(now - 31 * DAY));
    live->lineage = first;
    assert_held(AT(now - 41 * DAY), AP, AP_RULE_BEHIND); /* careful: others may lie between the two */
    live->mark = 20; /* all of it, though its successor has not said so here yet */
    judge();
    ck_assert_uint_eq(verdict.floor, AT(AGED));
    lists[AP][2].finished = false; /* the first is not known to be complete */
    assert_held(AT(now - 41 * DAY), AP, AP_RULE_BEHIND);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tombstone_rule");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_add_test(tc, when_all_is_well_age_alone_decides);
    tcase_add_test(tc, the_longest_retention_of_any_region_counts);
    tcase_add_test(tc, a_stalled_mirror_partition_holds);
    tcase_add_test(tc, a_mirror_partition_stalled_since_before_a_stream_began_holds_from_its_start);
    tcase_add_test(tc, a_stream_that_ended_for_good_holds_nothing_when_all_have_its_end);
    tcase_add_test(tc, a_hole_a_held_event_and_a_dead_letter_hold_here_and_elsewhere);
    tcase_add_test(tc, a_silent_region_holds_everything);
    tcase_add_test(tc, a_region_cut_off_holds_from_where_it_was_heard_last);
    tcase_add_test(tc, a_retired_region_is_not_asked_and_its_streams_hold_up_to_their_cut);
    tcase_add_test(tc, a_region_that_returns_counts_again);
    tcase_add_test(tc, a_region_rebuilt_from_logs_of_unequal_age_holds_until_nothing_is_missing);
    tcase_add_test(tc, a_finished_lineage_must_be_complete_everywhere);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
