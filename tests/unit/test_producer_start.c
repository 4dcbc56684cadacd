/* Starting: topics, predecessors, hellos, the clock over restarts, the region's state. */
#include <check.h>
#include <stdlib.h>
#include "common/timeutil.h"
#include "patience.h"
#include "producer_rig.h"
#include "rnd.h"
#include "run.h"

static struct life life;

static void setup(void)
{
    life_cluster_start();
}

static void teardown(void)
{
    life_cluster_stop();
}

static void write_some(struct life *l, size_t n)
{
    static const float vector[2] = {1, 2};
    for (size_t i = 0; i < n; i++) {
        struct ap_record r = {.op = AP_OP_UPSERT, .vector = (const uint8_t *)vector, .vector_len = sizeof vector};
        struct ap_point_id id;
        struct ap_token token = {0};
        size_t published;
        ap_point_id_from_u64(rnd(), &id);
        ap_key_make(9, &id, &r.key);
        struct ap_ack *ack = ap_ack_new(true);
        ck_assert_int_eq(ap_lanes_publish(&l->p.lanes, &l->p.lanes.topics[0], &r, 1, 0, ack, &token, &published, NULL), 0);
        ap_ack_seal(ack);
        ck_assert_int_eq(ap_ack_wait(ack, patience_ns(), NULL), 0);
        ap_ack_unref(&ack);
        ap_token_fini(&token);
    }
}

/* The hello of a stream in a partition; asserts that there is one, and that it is the stream's first record there. */
static struct ap_hello hello_of(const struct life_records *r, uint64_t stream, int32_t partition)
{
    struct ap_hello hello = {0};
    for (size_t i = 0; i < r->count; i++)
        if (r->all[i].partition == partition && r->all[i].m.stream == stream) {
            ck_assert_uint_eq(r->all[i].m.seq, 1);
            ck_assert_int_eq(ap_hello_parse(&r->all[i].m, &hello, NULL), 1);
            return hello;
        }
    ck_abort_msg("no hello in partition %d", partition);
}

static uint64_t last_of(const struct life_records *r, uint64_t stream, int32_t partition)
{
    uint64_t last = 0;
    for (size_t i = 0; i < r->count; i++)
        if (r->all[i].partition == partition && r->all[i].m.stream == stream)
            last = r->all[i].m.seq;
    return last;
}

static void run_life(size_t writes, bool crash, const char *conf, uint64_t *incarnation)
{
    life_open(&life, conf);
    *incarnation = life.p.incarnation;
    write_some(&life, writes);
    if (crash)
        life_crash(&life);
    else
        life_close(&life);
}

START_TEST(each_life_says_where_the_one_before_ended)
{
    uint64_t lives[4];
    rnd_seed("start");
    for (size_t i = 0; i < 4; i++)
        run_life(1 + rnd_below(200), i % 2 == 0, NULL, &lives[i]);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    life_check(&r);
    for (int32_t p = 0; p < LIFE_PARTITIONS; p++)
        for (size_t i = 0; i < 4; i++) {
            struct ap_hello hello = hello_of(&r, lives[i], p);
            ck_assert_uint_eq(hello.predecessor, i ? lives[i - 1] : 0);
            ck_assert_uint_eq(hello.ended, i ? last_of(&r, lives[i - 1], p) : 0);
        }
    life_records_free(&r);
}
END_TEST

START_TEST(other_instances_are_not_mistaken_for_predecessors)
{
    uint64_t first, other, second;
    rnd_seed("start");
    run_life(20, false, NULL, &first);
    run_life(300, false, "instance = other\n", &other); /* more than the first step backwards reads */
    run_life(20, false, NULL, &second);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    for (int32_t p = 0; p < LIFE_PARTITIONS; p++) {
        ck_assert_uint_eq(hello_of(&r, other, p).predecessor, 0);
        ck_assert_uint_eq(hello_of(&r, second, p).predecessor, first);
        ck_assert_uint_eq(hello_of(&r, second, p).ended, last_of(&r, first, p));
    }
    life_records_free(&r);
}
END_TEST

START_TEST(a_predecessor_that_died_before_its_hello_does_not_hide_its_own)
{
    uint64_t first, second;
    rnd_seed("start");
    run_life(50, true, NULL, &first);
    struct ap_control dead = {.kind = AP_CONTROL_INCARNATION};
    uint64_t between = ap_incarnation_new(ap_wall_ms());
    dead.u.incarnation = (struct ap_control_incarnation){between, first, first, first, (char *)(uintptr_t)"eu-1"};
    life_publish_control(&dead, "eu", between, AP_TOPIC_CONTROL);
    run_life(0, false, NULL, &second);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    for (int32_t p = 0; p < LIFE_PARTITIONS; p++) {
        ck_assert_uint_eq(hello_of(&r, second, p).predecessor, first);
        ck_assert_uint_eq(hello_of(&r, second, p).ended, last_of(&r, first, p));
    }
    life_records_free(&r);
}
END_TEST

START_TEST(the_clock_never_goes_back_over_a_restart)
{
    uint64_t first, second, newest = 0;
    rnd_seed("start");
    run_life(40, true, "clock.offset_ms = 30000\n", &first);
    run_life(40, false, NULL, &second);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].m.stream == first && r.all[i].m.clock > newest)
            newest = r.all[i].m.clock;
    ck_assert_int_gt(ap_hlc_ms(newest), ap_wall_ms() + 15000);
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].m.stream == second)
            ck_assert_uint_gt(r.all[i].m.clock, newest);
    ck_assert_uint_gt(second, first);
    life_records_free(&r);
}
END_TEST

/* --- what an operator is told --- */

static void expect_failure(const char *conf, const char *words)
{
    struct ap_err err = {0};
    life_init(&life, conf);
    ck_assert_int_ne(life_try_open(&life, &err), 0);
    ck_assert_int_eq(err.cls, AP_FATAL);
    ck_assert_msg(strstr(err.msg, words) != NULL, "%s", err.msg);
    life_crash(&life);
}

START_TEST(a_missing_topic_is_named_with_what_to_do)
{
    expect_failure("topics = vec-mutations,vec-other\n", "topic vec-other does not exist");
}
END_TEST

START_TEST(unequal_partitions_are_refused)
{
    expect_failure("partitions = 5\n", "vec-mutations has 4 partitions, the key partitions says 5");
}
END_TEST

static void set_region(enum ap_region_state state)
{
    struct ap_control c = {.kind = AP_CONTROL_REGION};
    c.u.region = (struct ap_control_region){7, state};
    life_publish_control(&c, "eu", 7, AP_TOPIC_CONTROL);
}

START_TEST(a_retired_region_does_not_start)
{
    set_region(AP_REGION_RETIRED);
    expect_failure(NULL, "region eu is retired");
}
END_TEST

START_TEST(a_read_only_region_takes_no_writes)
{
    struct ap_err err = {0};
    set_region(AP_REGION_READ_ONLY);
    life_init(&life, NULL);
    ck_assert_int_eq(life_try_open(&life, &err), 0);
    ck_assert_int_eq(ap_producer_may_write(&life.p, &err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(err.msg, "read-only"));
    char why[500];
    ck_assert(ap_producer_is_ready(&life.p, why, sizeof why));
    life_close(&life);
}
END_TEST

static void *open_it(void *arg)
{
    struct ap_err *err = arg;
    return (void *)(intptr_t)life_try_open(&life, err);
}

START_TEST(without_kafka_it_waits_says_so_and_can_be_stopped)
{
    struct ap_err err = {0}, why = {0};
    pthread_t thread;
    void *rc;
    rd_kafka_mock_broker_set_down(life_mock, 1);
    life_init(&life, NULL);
    pthread_create(&thread, NULL, open_it, &err);
    ck_assert_int_eq(ap_producer_may_write(&life.p, &why), AP_ENOTREADY);
    ck_assert_ptr_nonnull(strstr(why.msg, "starting"));
    atomic_store(&life.p.stop_starting, true);
    pthread_join(thread, &rc);
    ck_assert_int_eq((int)(intptr_t)rc, AP_ENOTREADY);
    life_crash(&life);
}
END_TEST

START_TEST(a_second_process_of_the_same_name_ends_the_first)
{
    static struct life twin;
    struct ap_err err = {0};
    life_open(&life, NULL);
    ck_assert(!ap_producer_has_failed(&life.p, &err));
    life_open(&twin, NULL);
    bool failed = false;
    for (int64_t end = patience_ms(); !failed && ap_mono_ms() < end; sched_yield())
        failed = ap_producer_has_failed(&life.p, &err);
    ck_assert(failed);
    ck_assert_ptr_nonnull(strstr(err.msg, "instance eu-1"));
    life_crash(&life);
    life_close(&twin);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer_start");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, each_life_says_where_the_one_before_ended);
    tcase_add_test(tc, other_instances_are_not_mistaken_for_predecessors);
    tcase_add_test(tc, a_predecessor_that_died_before_its_hello_does_not_hide_its_own);
    tcase_add_test(tc, the_clock_never_goes_back_over_a_restart);
    tcase_add_test(tc, a_missing_topic_is_named_with_what_to_do);
    tcase_add_test(tc, unequal_partitions_are_refused);
    tcase_add_test(tc, a_retired_region_does_not_start);
    tcase_add_test(tc, a_read_only_region_takes_no_writes);
    tcase_add_test(tc, without_kafka_it_waits_says_so_and_can_be_stopped);
    tcase_add_test(tc, a_second_process_of_the_same_name_ends_the_first);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
