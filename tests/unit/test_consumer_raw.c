/* The raw join, on the mock cluster: raw vectors that come after, before, too late, for nothing, and too many. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "consumer_rig.h"
#include "run.h"

#define US "origin=\"us\""
#define RAW_1 "origin=\"us\",topic=\"raw-vectors\",partition=\"1\""

static struct rig rig;
static uint64_t stream;

static void setup(void)
{
    rig_open(&rig);
    stream = rig_incarnation(&rig, "us");
}

static void teardown(void)
{
    rig_close(&rig);
}

static struct ap_mutation upsert(uint64_t seq)
{
    return rig_upsert("us", stream, seq, ap_hlc_make(1700000000000 + (int64_t)seq, 0), NULL);
}

static void write_mutation(uint64_t point, uint64_t seq)
{
    struct ap_mutation m = upsert(seq);
    rig_mutation(&rig, "vec-mutations", 1, point, &m);
}

static void write_raw(uint64_t point, uint64_t seq, float value)
{
    struct ap_mutation m = upsert(seq);
    rig_raw(&rig, 1, point, &m, value);
}

START_TEST(a_raw_vector_after_its_mutation_is_stored_with_the_row)
{
    write_mutation(1, 1);
    write_raw(1, 1, 0.5f);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 1);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, 1), 0.5f);
}
END_TEST

START_TEST(a_raw_vector_before_its_mutation_waits_for_it)
{
    write_raw(1, 1, 0.25f);
    write_raw(2, 2, 0.75f);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_raw_waiting_records", RAW_1, 2);
    ck_assert_double_gt(rig_metric(&rig, "antipode_consumer_raw_waiting_bytes", RAW_1), 0);
    write_mutation(1, 1);
    write_mutation(2, 2);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 2);
    rig_wait(&rig, "wal_commit_index", RAW_1, 2);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, 1), 0.25f);
    ck_assert_float_eq(rig_raw_of(&rig, 2), 0.75f);
}
END_TEST

START_TEST(one_that_waits_is_read_again_after_a_restart)
{
    write_mutation(1, 1);
    write_raw(1, 1, 1.0f);
    write_raw(2, 2, 2.0f);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_raw_waiting_records", RAW_1, 1);
    rig_wait(&rig, "wal_commit_index", RAW_1, 1);
    ck_assert_double_eq(rig_metric(&rig, "wal_commit_index", RAW_1), 1); /* before the one that waits */
    rig_stop(&rig);
    rig_start(&rig, NULL);
    write_mutation(2, 2);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 1);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, 2), 2.0f);
}
END_TEST

START_TEST(the_raw_vector_of_a_version_that_is_gone_is_dropped)
{
    write_mutation(1, 1);
    write_mutation(1, 2);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", US, 2);
    write_raw(1, 1, 1.0f);
    write_raw(1, 2, 2.0f);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 1);
    rig_wait(&rig, "antipode_consumer_raw_dropped_total", US, 1);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, 1), 2.0f);
}
END_TEST

START_TEST(a_raw_vector_whose_mutation_was_lost_does_not_hold_up_the_rest)
{
    write_mutation(1, 1);
    write_mutation(3, 3); /* 2 is a hole */
    write_raw(1, 1, 1.0f);
    write_raw(2, 2, 2.0f);
    write_raw(3, 3, 3.0f);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 2);
    rig_wait(&rig, "antipode_consumer_raw_dropped_total", US, 1);
    rig_wait(&rig, "wal_commit_index", RAW_1, 3);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_raw_expired_total", US), 0);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, 3), 3.0f);
}
END_TEST

START_TEST(one_that_waits_is_dropped_when_its_mutation_proves_lost)
{
    write_mutation(1, 1);
    write_raw(2, 2, 2.0f);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_raw_waiting_records", RAW_1, 1);
    write_mutation(3, 3);
    rig_wait(&rig, "antipode_consumer_raw_dropped_total", US, 1);
    rig_wait(&rig, "wal_commit_index", RAW_1, 1);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_raw_expired_total", US), 0);
    rig_stop(&rig);
}
END_TEST

START_TEST(one_whose_mutation_never_comes_is_given_up_after_a_time)
{
    uint64_t lost = ap_incarnation_new(ap_wall_ms());
    struct ap_mutation m = rig_upsert("us", lost, 1, 1, NULL);
    rig_raw(&rig, 1, 1, &m, 9.0f);
    write_raw(2, 1, 2.0f); /* another stream's is not held up by it */
    write_mutation(2, 1);
    rig_start(&rig, "raw.wait_ms = 1000");
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 1);
    rig_wait(&rig, "antipode_consumer_raw_expired_total", US, 1);
    rig_wait(&rig, "wal_commit_index", RAW_1, 2);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, 2), 2.0f);
}
END_TEST

START_TEST(a_full_queue_pauses_the_raw_partition_and_loses_nothing)
{
    enum { MANY = 50 };
    for (uint64_t i = 1; i <= MANY; i++)
        write_raw(i, i, (float)i);
    rig_start(&rig, "raw.queue_records = 4");
    rig_wait(&rig, "antipode_consumer_raw_waiting_records", RAW_1, 4);
    for (uint64_t i = 1; i <= MANY; i++)
        write_mutation(i, i);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, MANY);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_raw_dropped_total", US), 0);
    rig_wait(&rig, "wal_commit_index", RAW_1, MANY);
    rig_wait_ready(&rig);
    rig_stop(&rig);
    ck_assert_float_eq(rig_raw_of(&rig, MANY), (float)MANY);
    ck_assert_float_eq(rig_raw_of(&rig, 1), 1.0f);
}
END_TEST

START_TEST(raw_vectors_that_cannot_be_read_are_dead_letters)
{
    struct ap_key key = rig_key(7, 1);
    rig_send(&rig, "raw-vectors", 1, key.b, sizeof key.b, "nonsense", 8);
    write_mutation(1, 1);
    write_raw(1, 1, 1.0f);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_raw_matched_total", US, 1);
    rig_wait_just(&rig, "antipode_consumer_dead_letters_total", US, 1);
    rig_stop(&rig);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("consumer_raw");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 50);
    tcase_add_test(tc, a_raw_vector_after_its_mutation_is_stored_with_the_row);
    tcase_add_test(tc, a_raw_vector_before_its_mutation_waits_for_it);
    tcase_add_test(tc, one_that_waits_is_read_again_after_a_restart);
    tcase_add_test(tc, the_raw_vector_of_a_version_that_is_gone_is_dropped);
    tcase_add_test(tc, a_raw_vector_whose_mutation_was_lost_does_not_hold_up_the_rest);
    tcase_add_test(tc, one_that_waits_is_dropped_when_its_mutation_proves_lost);
    tcase_add_test(tc, one_whose_mutation_never_comes_is_given_up_after_a_time);
    tcase_add_test(tc, a_full_queue_pauses_the_raw_partition_and_loses_nothing);
    tcase_add_test(tc, raw_vectors_that_cannot_be_read_are_dead_letters);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
