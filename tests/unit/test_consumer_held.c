/* Events whose time has not come, and events that come too late to be believed: the consumer on librdkafka's mock cluster. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "consumer_rig.h"
#include "patience.h"
#include "run.h"

#define EU "origin=\"eu\""
#define PART "origin=\"eu\",topic=\"vec-mutations\",partition=\"1\""

static struct rig rig;
static uint64_t eu_stream;

static void setup(void)
{
    rig_open(&rig);
    eu_stream = rig_incarnation(&rig, "eu");
}

static void teardown(void)
{
    rig_close(&rig);
}

static void eu_writes(uint64_t point, uint64_t seq, int64_t clock_ms)
{
    struct ap_mutation m = rig_upsert("eu", eu_stream, seq, ap_hlc_make(clock_ms, (uint16_t)seq), NULL);
    rig_mutation(&rig, "eu.vec-mutations", 1, point, &m);
}

START_TEST(an_event_far_ahead_is_held_and_is_no_witness_of_anything)
{
    int64_t ahead = ap_wall_ms() + 3600000;
    eu_writes(1, 1, ap_wall_ms());
    eu_writes(2, 2, ahead);
    struct ap_mutation m = rig_upsert("eu", eu_stream, 3, ap_hlc_make(ap_wall_ms(), 3), NULL); /* the writer's clock has been set */
    rig_mutation(&rig, "eu.vec-mutations", 1, 3, &m);
    eu_writes(2, 2, ahead); /* delivered again */
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_held_records", EU, 1);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 2);
    rig_wait(&rig, "antipode_consumer_duplicates_total", EU, 1);
    rig_wait_just(&rig, "antipode_consumer_clock_drift_total", EU, 1);
    char labels[128];
    snprintf(labels, sizeof labels, "origin=\"eu\",stream=\"%016llx\",topic=\"vec-mutations\",partition=\"1\"", (unsigned long long)eu_stream);
    rig_wait_just(&rig, "antipode_position", labels, 1); /* number 2 is not visible, so neither is 3 */
    rig_wait_at_most(&rig, "antipode_consumer_hole_records", EU, 0); /* but not missing */
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 2);
}
END_TEST

/* Writes to points 1 and 2 with clocks so far ahead that the metric reaches what is wanted long before they are due: a
 * machine that is too busy for that gets more time. Returns when they are due; *seq counts what was written. */
static int64_t write_ahead(uint64_t *seq, const char *metric, const char *labels, double wanted)
{
    for (int64_t ahead = 2000;; ahead *= 3) {
        int64_t at = ap_wall_ms() + ahead;
        eu_writes(1, ++*seq, at);
        eu_writes(2, ++*seq, at);
        for (int64_t end = patience_ms(); rig_metric(&rig, "antipode_consumer_applied_total", EU) < (double)*seq;) {
            if (rig_metric(&rig, metric, labels) >= wanted && at - ap_wall_ms() > ahead / 2)
                return at;
            ck_assert_msg(ap_mono_ms() < end, "%s{%s} stays below %g", metric, labels, wanted);
        }
    }
}

START_TEST(a_held_event_is_applied_when_its_time_comes_also_after_a_restart)
{
    rig_start(&rig, "clock.max_drift_ms = 100");
    rig_wait_ready(&rig);
    uint64_t seq = 0;
    int64_t at = write_ahead(&seq, "antipode_consumer_held_records", EU, 2);
    rig_stop(&rig);
    if (seq == 2 && ap_wall_ms() < at - 100) /* so it is, on a machine that is not too busy */
        ck_assert_uint_eq(rig_live_rows(&rig), 0);
    rig_start(&rig, "clock.max_drift_ms = 100");
    rig_wait_just(&rig, "antipode_consumer_held_released_total", EU, 2);
    ck_assert_int_ge(ap_wall_ms(), at - 100);
    rig_wait_just(&rig, "antipode_consumer_applied_total", EU, 2);
    eu_writes(1, seq - 1, at); /* delivered again */
    rig_wait(&rig, "antipode_consumer_duplicates_total", EU, 1);
    rig_wait_at_most(&rig, "antipode_consumer_held_records", EU, 0);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 2);
}
END_TEST

START_TEST(when_no_more_can_be_held_the_partition_waits_and_says_so)
{
    uint64_t seq = 0;
    rig_start(&rig, "clock.max_drift_ms = 100\nheld.max_records = 1");
    rig_wait_ready(&rig);
    int64_t at = write_ahead(&seq, "antipode_consumer_waiting_clock", PART, 1);
    char why[256];
    bool ready = ap_status_ready(rig.status, why, sizeof why);
    ck_assert(!ready || ap_wall_ms() >= at - 100);
    struct ap_mutation other = rig_upsert("eu", eu_stream, 1, ap_hlc_make(ap_wall_ms(), 0), NULL);
    rig_mutation(&rig, "eu.vec-mutations", 2, 3, &other); /* another partition goes on */
    rig_wait(&rig, "antipode_consumer_applied_total", EU, (double)(seq - 1));
    rig_wait_just(&rig, "antipode_consumer_applied_total", EU, (double)(seq + 1)); /* nothing was skipped */
    rig_wait_ready(&rig);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 3);
}
END_TEST

/* As if the store had collected tombstones up to this clock. */
static void plant_horizon(uint64_t hlc)
{
    char path[96];
    struct ap_err err;
    struct ap_store *store;
    struct ap_writer *w;
    snprintf(path, sizeof path, "%s/store", rig.dir);
    struct ap_store_options o = {.path = path, .map_bytes = 268435456, .region = "us", .worker = 0, .workers = 1};
    ck_assert_int_eq(ap_store_open(&store, &o, &err), 0);
    ck_assert_int_eq(ap_writer_open(&w, store, NULL, NULL, &err), 0);
    ck_assert_int_eq(ap_writer_begin(w, &err), 0);
    ck_assert_int_eq(ap_writer_raise_horizon(w, hlc, &err), 0);
    ck_assert_int_eq(ap_writer_commit(w, &err), 0);
    ap_writer_close(&w);
    ap_store_close(&store);
}

START_TEST(an_event_older_than_the_collected_tombstones_is_a_dead_letter)
{
    int64_t now = ap_wall_ms();
    plant_horizon(ap_hlc_make(now - 1000, 0));
    eu_writes(1, 1, now - 5000);                                                                /* might bring its point back */
    struct ap_mutation m = rig_upsert("eu", eu_stream, 2, ap_hlc_make(now - 4000, 0), NULL);
    m.op = AP_OP_DELETE;
    m.vector = NULL;
    m.vector_len = 0;
    rig_mutation(&rig, "eu.vec-mutations", 1, 2, &m);                                           /* cannot */
    m = rig_upsert("eu", eu_stream, 3, ap_hlc_make(now - 5000, 0), NULL);
    m.clock = ap_hlc_make(now, 0);
    rig_mutation(&rig, "eu.vec-mutations", 1, 3, &m);                                           /* a repair: somebody has decided */
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 2);
    rig_wait_just(&rig, "antipode_consumer_dead_letters_total", EU, 1);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_hole_records", EU), 0);
    rd_kafka_message_t *letter = rig_letter(&rig, "offset", "0");
    ck_assert_str_eq(rig_header(letter, "code"), "conflict");
    ck_assert_ptr_nonnull(strstr(rig_header(letter, "reason"), "horizon"));
    rd_kafka_message_destroy(letter);
    rig_stop(&rig);
    ck_assert(!rig_row(&rig, 1, NULL, NULL, 0));
    ck_assert(rig_row(&rig, 3, NULL, NULL, 0));
}
END_TEST

/* As the store has it, while it has a reader beside its writer or none. */
static uint64_t settled_hlc(void)
{
    char path[96];
    struct ap_err err;
    struct ap_store *store;
    struct ap_snapshot *s;
    snprintf(path, sizeof path, "%s/store", rig.dir);
    struct ap_store_options o = {.path = path, .map_bytes = 268435456, .region = "us", .worker = 0, .workers = 1, .read_only = true};
    ck_assert_int_eq(ap_store_open(&store, &o, &err), 0);
    ck_assert_int_eq(ap_snapshot_begin(store, &s, &err), 0);
    uint64_t hlc = ap_snapshot_settled(s).hlc;
    ap_snapshot_end(&s);
    ap_store_close(&store);
    return hlc;
}

/* What the region says in its watermarks: nothing as new as an open letter is settled. */
START_TEST(what_lies_among_the_dead_letters_is_not_settled)
{
    int64_t now = ap_wall_ms();
    plant_horizon(ap_hlc_make(now - 1000, 0));
    eu_writes(1, 1, now - 5000);
    rig_start(&rig, "tombstones.check_ms = 100");
    rig_wait(&rig, "antipode_dead_letters_open", NULL, 1); /* found again in the topic */
    eu_writes(2, 2, now); /* a batch that says it */
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 1);
    rig_stop(&rig);
    ck_assert_uint_eq(settled_hlc(), ap_hlc_make(now - 5000, 1) - 1);
}
END_TEST

/* Until the store says that all is settled: the commit of what the metric says is the next one. */
static void settle_all(void)
{
    const int64_t end = patience_ms();
    do {
        ck_assert_int_lt(ap_mono_ms(), end);
        rig_start(&rig, "tombstones.check_ms = 100\nstore.sync_ms = 1");
        rig_wait(&rig, "antipode_settled", NULL, 1);
        rig_stop(&rig);
    } while (settled_hlc() != AP_HLC_MAX);
}

/* A crash of the machine would take the batch back, and its record is read again: until then no other region may forget as
 * old a tombstone. It is said in the batch's own transaction, and taken back when the disk has it. */
START_TEST(what_is_not_on_the_disk_is_not_settled)
{
    int64_t now = ap_wall_ms();
    settle_all();
    eu_writes(1, 1, now);
    rig_start(&rig, "tombstones.check_ms = 100\nstore.sync_ms = 10000");
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 1);
    rig_stop(&rig);
    ck_assert_uint_eq(settled_hlc(), ap_hlc_make(now, 1) - 1);
    settle_all();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("consumer_held");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, an_event_far_ahead_is_held_and_is_no_witness_of_anything);
    tcase_add_test(tc, a_held_event_is_applied_when_its_time_comes_also_after_a_restart);
    tcase_add_test(tc, when_no_more_can_be_held_the_partition_waits_and_says_so);
    tcase_add_test(tc, an_event_older_than_the_collected_tombstones_is_a_dead_letter);
    tcase_add_test(tc, what_lies_among_the_dead_letters_is_not_settled);
    tcase_add_test(tc, what_is_not_on_the_disk_is_not_settled);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
