/* The bound on clocks, and the options that what a producer promises hangs on. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "patience.h"
#include "producer/drift.h"
#include "producer/options.h"
#include "run.h"

#define MAX_MS 5000

static struct ap_metrics *metrics;
static struct ap_clock hlc;
static struct ap_drift drift;
static struct ap_err err;

static void begin(int64_t offset_ms)
{
    metrics = ap_metrics_new();
    ap_clock_init(&hlc, offset_ms);
    ap_drift_init(&drift, &hlc, MAX_MS, metrics);
    err = (struct ap_err){0};
}

static void end(void)
{
    ap_metrics_free(&metrics);
}

START_TEST(what_is_near_is_merged_and_what_is_far_ahead_is_not)
{
    begin(0);
    uint64_t near = ap_hlc_make(ap_wall_ms() + MAX_MS - 1000, 7), far = ap_hlc_make(ap_wall_ms() + MAX_MS + 60000, 0);
    ck_assert_int_eq(ap_drift_merge(&drift, near, &err), 0);
    ck_assert_uint_gt(ap_clock_next(&hlc), near);
    ck_assert_int_eq(ap_drift_merge(&drift, far, &err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(err.msg, "clock.max_drift_ms (5000)"));
    ck_assert_uint_lt(ap_clock_next(&hlc), far);
    ck_assert_int_eq(ap_drift_check(&drift, &err), 0);
    end();
}
END_TEST

START_TEST(who_is_ahead_of_its_region_does_not_stamp)
{
    begin(60000);
    ck_assert_int_eq(ap_drift_check(&drift, &err), AP_ENOTREADY); /* its own machine says otherwise */
    end();
    begin(0);
    ck_assert_int_eq(ap_drift_check(&drift, &err), 0); /* nobody contradicts */
    ap_drift_heard(&drift, ap_wall_ms() - 60000, true);
    ck_assert_int_eq(ap_drift_check(&drift, &err), AP_ENOTREADY);
    ck_assert_ptr_nonnull(strstr(err.msg, "its region's watermarks say"));
    ck_assert_int_ge(ap_drift_ahead_ms(&drift), 59000);
    ap_drift_heard(&drift, ap_wall_ms() - 100, true); /* the first one was only late */
    ck_assert_int_eq(ap_drift_check(&drift, &err), 0);
    end();
}
END_TEST

START_TEST(old_watermarks_of_others_contradict_nobody)
{
    begin(0);
    ap_drift_heard(&drift, ap_wall_ms() - 600000, false); /* a link that was cut for ten minutes */
    ck_assert_int_eq(ap_drift_check(&drift, &err), 0);
    ck_assert_int_eq(ap_drift_ahead_ms(&drift), 0);
    end();
}
END_TEST

START_TEST(a_clock_dragged_ahead_waits_until_the_wall_is_there)
{
    begin(0);
    int64_t there = ap_wall_ms() + 300;
    ap_clock_merge(&hlc, ap_hlc_make(there + MAX_MS, 0)); /* the tail of a life whose clock was wrong */
    int rc = AP_ENOTREADY;
    for (int64_t end = patience_ms(); rc && ap_mono_ms() < end;) {
        int64_t before = ap_wall_ms();
        rc = ap_drift_check(&drift, &err);
        ck_assert(rc == 0 || rc == AP_ENOTREADY);
        ck_assert(rc || ap_wall_ms() >= there);
        ck_assert(rc == 0 || before <= there);
    }
    ck_assert_int_eq(rc, 0);
    end();
}
END_TEST

/* --- options --- */

static int parse(const char *text, struct ap_producer_config *config)
{
    return ap_producer_config_parse(config, "test.conf", text, strlen(text), &err);
}

START_TEST(lists_and_names_are_taken_apart)
{
    struct ap_producer_config c;
    ck_assert_int_eq(parse("region = eu\nregions = us, eu ,ap\ntopics = vec-mutations,vec-big_1\n", &c), 0);
    ck_assert_uint_eq(c.other_count, 2);
    ck_assert_str_eq(c.others[0].name, "us");
    ck_assert_str_eq(c.others[1].name, "ap");
    ck_assert_uint_eq(c.topic_count, 2);
    ck_assert_str_eq(c.instance, "eu-1");
    ck_assert_int_ge(c.encode_threads, 1);
    ap_producer_config_free(&c);
}
END_TEST

static const struct { const char *text, *words; } bad[] = {
    {"regions = eu\n", "region"},
    {"region = Eu\n", "region: region name 'Eu'"},
    {"region = eu\nregions = us,us\n", "regions: us is there twice"},
    {"region = eu\nregions = us.east\n", "regions: region name"},
    {"region = eu\ntopics = vec-control\n", "topics: vec-control"},
    {"region = eu\ntopics = mutations\n", "topics: mutations"},
    {"region = eu\ntopics = vec-a,vec-a\n", "topics: vec-a is there twice"},
    {"region = eu\ntopics = ,\n", "topics: names no topic"},
    {"region = eu\ninstance = a b\n", "instance: \"a b\""},
    {"region = eu\npartitions = 0\n", "test.conf:2: partitions"},
    {"region = eu\nqueue_record = 7\n", "test.conf:2: queue_record: unknown option"},
};

START_TEST(bad_configurations_are_named)
{
    struct ap_producer_config c;
    ck_assert_int_eq(parse(bad[_i].text, &c), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, bad[_i].words) != NULL, "%s: %s", bad[_i].text, err.msg);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer_drift");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 20);
    tcase_add_test(tc, what_is_near_is_merged_and_what_is_far_ahead_is_not);
    tcase_add_test(tc, who_is_ahead_of_its_region_does_not_stamp);
    tcase_add_test(tc, old_watermarks_of_others_contradict_nobody);
    tcase_add_test(tc, a_clock_dragged_ahead_waits_until_the_wall_is_there);
    tcase_add_test(tc, lists_and_names_are_taken_apart);
    tcase_add_loop_test(tc, bad_configurations_are_named, 0, (int)(sizeof bad / sizeof *bad));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
