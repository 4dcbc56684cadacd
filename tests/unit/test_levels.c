/* Levels of writes: words, how many regions, who is missing; barriers on the mock cluster. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "common/schema.h"
#include "common/timeutil.h"
#include "patience.h"
#include "producer/levels.h"
#include "producer_rig.h"
#include "run.h"

START_TEST(words_are_read)
{
    static const struct { const char *level, *wait; size_t others; int rc; enum ap_write_level out; } cases[] = {
        {NULL, NULL, 0, 0, AP_LEVEL_LOCAL},          {NULL, "false", 1, 0, AP_LEVEL_LOCAL},
        {NULL, "true", 0, 0, AP_LEVEL_VISIBLE},      {"local", NULL, 1, 0, AP_LEVEL_LOCAL},
        {"visible", "true", 0, 0, AP_LEVEL_VISIBLE}, {"quorum", NULL, 1, 0, AP_LEVEL_QUORUM},
        {"all", "true", 2, 0, AP_LEVEL_ALL},         {"all", NULL, 0, AP_EUNSUPPORTED, 0},
        {"quorum", NULL, 0, AP_EUNSUPPORTED, 0},     {"all", "false", 1, AP_EINVAL, 0},
        {"local", "true", 1, AP_EINVAL, 0},          {"most", NULL, 1, AP_EINVAL, 0},
        {"", NULL, 1, AP_EINVAL, 0},                 {NULL, "yes", 1, AP_EINVAL, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum ap_write_level level;
        int rc = ap_write_level_parse(cases[i].level, cases[i].wait, cases[i].others, AP_LEVEL_LOCAL, &level, NULL);
        ck_assert_msg(rc == cases[i].rc && (rc || level == cases[i].out), "case %zu: %d, level %d", i, rc, level);
    }
}
END_TEST

START_TEST(a_write_that_names_no_level_has_the_configured_one)
{
    enum ap_write_level level;
    ck_assert_int_eq(ap_write_level_parse(NULL, NULL, 2, AP_LEVEL_QUORUM, &level, NULL), 0);
    ck_assert_int_eq(level, AP_LEVEL_QUORUM);
    ck_assert_int_eq(ap_write_level_parse(NULL, "false", 2, AP_LEVEL_QUORUM, &level, NULL), 0);
    ck_assert_int_eq(level, AP_LEVEL_LOCAL);
    ck_assert_int_eq(ap_write_level_parse(NULL, "true", 2, AP_LEVEL_QUORUM, &level, NULL), 0);
    ck_assert_int_eq(level, AP_LEVEL_VISIBLE);
    ck_assert_int_eq(ap_write_level_parse("all", NULL, 2, AP_LEVEL_QUORUM, &level, NULL), 0);
    ck_assert_int_eq(level, AP_LEVEL_ALL);
}
END_TEST

START_TEST(a_level_that_cannot_be_reached_is_refused_where_it_is_set)
{
    static const struct { const char *text, *says; } cases[] = {
        {"region = eu\n\nwrite_level = quorum\n", "here.conf:3: write_level: quorum is of several regions, and can never be reached: regions names no other than eu"},
        {"region = eu\nregions = eu\nwrite_level = all\n", "here.conf:3: write_level: all is of several regions"},
        {"region = eu\nregions = eu,us\nwrite_level = most\n", "here.conf:3: write_level: \"most\" is none of local, visible, quorum, all"},
        {"region = eu\nregions = eu,us,us\n", "here.conf:2: regions: us is there twice"},
        {"region = eu\nregions = eu,us\nwrite_level = quorum\n", NULL},
        {"region = eu\nwrite_level = visible\n", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ap_producer_config c;
        struct ap_err err = {0};
        int rc = ap_producer_config_parse(&c, "here.conf", cases[i].text, strlen(cases[i].text), &err);
        ck_assert_msg(rc == (cases[i].says ? AP_EINVAL : 0), "case %zu: %d %s", i, rc, err.msg);
        ck_assert_msg(!cases[i].says || strncmp(err.msg, cases[i].says, strlen(cases[i].says)) == 0, "case %zu: %s", i, err.msg);
        ap_producer_config_free(&c);
    }
}
END_TEST

START_TEST(a_quorum_is_more_than_half)
{
    static const size_t quorum[] = {0, 1, 2, 2, 3, 3, 4};
    for (size_t r = 1; r < 7; r++) {
        ck_assert_uint_eq(ap_write_level_need(AP_LEVEL_QUORUM, r), quorum[r]);
        ck_assert_uint_eq(ap_write_level_need(AP_LEVEL_ALL, r), r);
        ck_assert_uint_eq(ap_write_level_need(AP_LEVEL_VISIBLE, r), 0);
    }
}
END_TEST

/* --- three regions and what they show --- */

static struct ap_producer_config config;
static struct ap_schemas *schemas;
static struct ap_metrics *metrics;
static struct ap_clock clock_;
static struct ap_drift drift;
static struct ap_watch watch;
static struct ap_token_entry entry = {"vec-mutations", 2, 10};
static struct ap_token token = {{"eu"}, 7, 0, &entry, 1, 5};

static void setup(void)
{
    struct ap_err err;
    const char text[] = "region = eu\nregions = eu,us,ap\n";
    ck_assert_msg(ap_producer_config_parse(&config, "test", text, sizeof text - 1, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(ap_schemas_new(&schemas, &err), 0);
    metrics = ap_metrics_new();
    ap_clock_init(&clock_, 0);
    ap_drift_init(&drift, &clock_, 60000, metrics);
    ap_watch_init(&watch, &config, schemas, &drift, metrics);
}

static void teardown(void)
{
    ap_watch_close(&watch);
    ap_metrics_free(&metrics);
    ap_schemas_free(&schemas);
    ap_producer_config_free(&config);
}

static void show(size_t i, const char *region, struct ap_position position)
{
    struct ap_watermark w = {.sent_ms = ap_wall_ms(), .positions = &position, .count = 1};
    struct ap_buf value = {0};
    memcpy(w.region.name, region, strlen(region));
    ck_assert_int_eq(ap_watermark_encode(schemas, &w, &value, NULL), 0);
    ap_watch_take(&watch, i, value.data, value.len);
    ap_buf_free(&value);
}

static const struct ap_position covering = {7, {"eu"}, "vec-mutations", 2, 10, 0, 5, false};

static void expect(size_t shown, const char *missing)
{
    struct ap_buf text = {0};
    for (size_t need = 1; need <= 3; need++)
        ck_assert_int_eq(ap_watch_wait(&watch, &token, need, ap_mono_ns(), NULL), need <= shown ? 0 : AP_ETIMEOUT);
    ap_write_missing(&watch, &token, false, &text);
    ck_assert_str_eq((char *)text.data, missing);
    ap_buf_free(&text);
}

START_TEST(regions_that_cover_are_counted)
{
    struct ap_position short_of = covering, floor = covering, elsewhere = covering;
    short_of.mark = 9;
    elsewhere.partition = 1;
    floor.stream = 8; /* a later one of the same line, finished */
    floor.finished = true;
    floor.mark = 1;
    expect(0, "eu,us,ap");
    show(1, "us", covering);
    expect(1, "eu,ap");
    ck_assert_int_eq(ap_watch_wait(&watch, &token, 0, ap_mono_ns(), NULL), AP_ETIMEOUT); /* visible means here */
    show(2, "ap", short_of);
    expect(1, "eu,ap");
    show(0, "eu", elsewhere);
    expect(1, "eu,ap");
    show(0, "eu", covering);
    ck_assert_int_eq(ap_watch_wait(&watch, &token, 0, ap_mono_ns(), NULL), 0);
    expect(2, "ap");
    show(2, "ap", floor);
    expect(3, "");
    show(2, "us", covering); /* in the topic of ap: refused */
    expect(3, "");
    show(1, "us", short_of); /* a region that is rebuilt may go back */
    expect(2, "us");
}
END_TEST

static void *wait_for_two(void *arg)
{
    *(int *)arg = ap_watch_wait(&watch, &token, 2, ap_mono_ns() + 2 * PATIENCE_MS * INT64_C(1000000), NULL);
    return NULL;
}

START_TEST(another_regions_watermark_wakes)
{
    pthread_t thread;
    int rc = 1;
    int64_t start = ap_mono_ms();
    show(0, "eu", covering);
    ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_two, &rc), 0);
    show(1, "us", covering);
    pthread_join(thread, NULL);
    ck_assert_int_eq(rc, 0);
    ck_assert_int_lt(ap_mono_ms() - start, PATIENCE_MS);
}
END_TEST

/* --- barriers --- */

START_TEST(a_barrier_stands_behind_what_was_written)
{
    struct life life;
    life_cluster_start();
    life_open(&life, NULL);
    struct ap_token t = {0};
    struct ap_ack *ack = ap_ack_new(false);
    static const char payload[] = "{\"barrier\":\"1\"}";
    struct ap_topic *topic = &life.p.lanes.topics[0];
    for (int32_t p = 0; p < LIFE_PARTITIONS; p++)
        ck_assert_int_eq(ap_lane_barrier(&life.p.lanes, topic, p, payload, strlen(payload), ack, &t, NULL), 0);
    ap_ack_seal(ack);
    ck_assert_int_eq(ap_ack_wait(ack, patience_ns(), NULL), 0);
    ap_ack_unref(&ack);
    ck_assert_uint_eq(t.count, LIFE_PARTITIONS);
    ck_assert(t.stream == life.p.incarnation && t.lineage == life.p.lineage && t.lineage != 0);
    struct life_records r = life_read("vec-mutations");
    ck_assert_uint_eq(life_check(&r), 0);
    for (size_t i = 0; i < t.count; i++) {
        size_t found = 0;
        for (size_t j = 0; j < r.count; j++)
            if (r.all[j].partition == t.entries[i].partition && r.all[j].m.seq == t.entries[i].seq) {
                struct ap_hello hello;
                found++;
                ck_assert(r.all[j].m.op == AP_OP_HEARTBEAT && r.all[j].m.payload_len == strlen(payload));
                ck_assert_mem_eq(r.all[j].m.payload, payload, strlen(payload));
                ck_assert_int_eq(ap_hello_parse(&r.all[j].m, &hello, NULL), 0); /* no hello, and no mistake */
            }
        ck_assert_uint_eq(found, 1);
    }
    life_records_free(&r);
    ap_token_fini(&t);
    life_close(&life);
    life_cluster_stop();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("levels");
    TCase *words = tcase_create("words"), *regions = tcase_create("regions"), *barriers = tcase_create("barriers");
    tcase_add_test(words, words_are_read);
    tcase_add_test(words, a_quorum_is_more_than_half);
    tcase_add_test(words, a_write_that_names_no_level_has_the_configured_one);
    tcase_add_test(words, a_level_that_cannot_be_reached_is_refused_where_it_is_set);
    tcase_add_checked_fixture(regions, setup, teardown);
    tcase_add_test(regions, regions_that_cover_are_counted);
    tcase_add_test(regions, another_regions_watermark_wakes);
    tcase_set_timeout(barriers, 30);
    tcase_add_test(barriers, a_barrier_stands_behind_what_was_written);
    suite_add_tcase(suite, words);
    suite_add_tcase(suite, regions);
    suite_add_tcase(suite, barriers);
    return run_suite(suite);
}
