/* What the indexer publishes about itself, read from librdkafka's mock cluster. */
#include <check.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h> /* after rdkafka.h */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "api_rig.h"
#include "common/timeutil.h"
#include "indexer/watermarks.h"
#include "mock.h"
#include "patience.h"
#include "run.h"

#define INTERVAL_MS 100
#define BUSY_MS 50

static struct api_rig rig;
static uint64_t docs;
static rd_kafka_t *host, *reader; /* host only carries the mock cluster */
static rd_kafka_mock_cluster_t *mock;
static struct ap_watermarks *watermarks;
static struct ap_config_extra extra;
static struct ap_kafka_property servers;
static struct ap_watermark last; /* newest record read */

static rd_kafka_t *make_reader(void)
{
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", servers.value, why, sizeof why);
    rd_kafka_conf_set(conf, "group.id", "test", why, sizeof why);
    rd_kafka_conf_set(conf, "fetch.wait.max.ms", "5", why, sizeof why); /* the mock answers a waiting fetch late */
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    ck_assert_msg(rk != NULL, "%s", why);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, "vec-watermarks", 0)->offset = RD_KAFKA_OFFSET_BEGINNING;
    ck_assert_int_eq(rd_kafka_assign(rk, list), 0);
    rd_kafka_topic_partition_list_destroy(list);
    return rk;
}

static void setup(void)
{
    struct ap_err err;
    char why[256];
    api_rig_open(&rig, NULL);
    docs = api_rig_collection(&rig, "docs", AP_COSINE, NULL, 1);
    host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), why, sizeof why);
    mock = rd_kafka_mock_cluster_new(host, 1);
    mock_topics(mock, &(struct mock_topic){"vec-watermarks", 1}, 1);
    servers = (struct ap_kafka_property){strdup("bootstrap.servers"), strdup(rd_kafka_mock_cluster_bootstraps(mock))};
    extra = (struct ap_config_extra){.kafka = &servers, .kafka_count = 1};
    reader = make_reader();
    struct ap_watermarks_options options = {.region = rig.region, .interval_ms = INTERVAL_MS, .busy_interval_ms = BUSY_MS, .kafka = &extra, .schemas = rig.schemas,
                                            .index = rig.index, .metrics = rig.metrics};
    ck_assert_msg(ap_watermarks_start(&watermarks, &options, &err) == 0, "%s", err.msg);
}

static void teardown(void)
{
    api_rig_quiet(&rig);
    ap_watermarks_stop(&watermarks);
    ap_watermark_fini(&last);
    rd_kafka_consumer_close(reader);
    rd_kafka_destroy(reader);
    rd_kafka_mock_cluster_destroy(mock);
    rd_kafka_destroy(host);
    free(servers.key);
    free(servers.value);
    api_rig_close(&rig);
}

/* Reads what comes within so many ms, at most `most` records; returns how many. */
static int take(int ms, int most)
{
    int n = 0;
    for (int64_t end = ap_mono_ms() + ms, left; n < most && (left = end - ap_mono_ms()) > 0;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(reader, (int)left);
        struct ap_err err;
        if (message && !message->err) {
            ck_assert_uint_eq(message->key_len, 12);
            ck_assert_mem_eq(message->key, "watermark/us", 12);
            ap_watermark_fini(&last);
            ck_assert_msg(ap_watermark_decode(rig.schemas, message->payload, message->len, &last, &err) == 0, "%s", err.msg);
            n++;
        }
        if (message)
            rd_kafka_message_destroy(message);
    }
    return n;
}

static void write_one(void)
{
    api_rig_write(&rig, docs, AP_OP_UPSERT, 1, (float[]){1, 0, 0, 0}, NULL);
    ap_watermarks_poke(watermarks, true);
}

static uint64_t last_mark(void)
{
    return last.count ? last.positions[0].mark : 0;
}

/* Reads until the watermark is there; returns how many records that took. */
static int take_up_to(uint64_t mark)
{
    int n = 0;
    for (int64_t end = patience_ms(); last_mark() < mark && ap_mono_ms() < end;)
        n += take(100, 1);
    ck_assert_uint_eq(last_mark(), mark);
    return n;
}

START_TEST(says_what_is_visible)
{
    ck_assert_int_eq(take(PATIENCE_MS, 1), 1);
    ck_assert_str_eq(last.region.name, "us");
    ck_assert(llabs((long long)(last.sent_ms - ap_wall_ms())) < 10000);
    for (int i = 0; i < 3; i++)
        write_one();
    take_up_to(3);
    ck_assert_uint_eq(last.count, 1);
    ck_assert_uint_eq(last.positions[0].mark, 3);
    ck_assert_uint_eq(last.positions[0].stream, rig.stream);
    ck_assert_str_eq(last.positions[0].topic, "vec-mutations");
    ck_assert_uint_eq(last.hlc, last.positions[0].clock);
    ck_assert_uint_eq(last.hlc, rig.hlc);
}
END_TEST

START_TEST(at_most_one_an_interval_and_the_newest_last)
{
    ck_assert_int_eq(take(PATIENCE_MS, 1), 1);
    int64_t start = ap_mono_ms();
    int n = 0;
    while (ap_mono_ms() - start < 600 || (n < 3 && ap_mono_ms() - start < PATIENCE_MS)) {
        write_one();
        n += take(1, 1);
    }
    ck_assert_int_ge(n, 3); /* while writes go on */
    n += take_up_to(rig.seq);
    int64_t took = ap_mono_ms() - start;
    ck_assert_msg(n <= took / BUSY_MS + 2, "%d records in %lld ms", n, (long long)took);
}
END_TEST

/* Heartbeats move positions many times a second, and nobody waits for them. */
START_TEST(without_rows_the_longer_interval_counts)
{
    ck_assert_int_eq(take(PATIENCE_MS, 1), 1);
    int64_t start = ap_mono_ms();
    int n = 0;
    while (ap_mono_ms() - start < 1000) {
        api_rig_write(&rig, docs, AP_OP_UPSERT, 1, (float[]){1, 0, 0, 0}, NULL);
        ap_watermarks_poke(watermarks, false);
        n += take(2, 10);
    }
    int64_t took = ap_mono_ms() - start;
    ck_assert_msg(n >= 1 && n <= took / INTERVAL_MS + 1, "%d records in %lld ms", n, (long long)took);
}
END_TEST

START_TEST(a_lone_write_does_not_wait_for_the_interval)
{
    int64_t best = INT64_MAX; /* of many, if need be: the machine may be busy */
    ck_assert_int_eq(take(PATIENCE_MS, 1), 1);
    for (int64_t end = patience_ms(); best >= INTERVAL_MS / 2 && ap_mono_ms() < end;) {
        take(2 * INTERVAL_MS, 10);
        int64_t start = ap_mono_ms();
        write_one();
        take_up_to(rig.seq);
        best = ap_mono_ms() - start < best ? ap_mono_ms() - start : best;
    }
    ck_assert_msg(best < INTERVAL_MS / 2, "%lld ms", (long long)best);
}
END_TEST

START_TEST(once_a_second_when_nothing_changes)
{
    ck_assert_int_eq(take(PATIENCE_MS, 1), 1);
    int64_t before = last.sent_ms;
    for (int n = 0; n < 2; before = last.sent_ms, n++) {
        for (int64_t end = patience_ms(); last.sent_ms == before && ap_mono_ms() < end;) {
            ap_watermarks_poke(watermarks, false); /* as the tail does after every look */
            take(20, 1);
        }
        ck_assert_msg(last.sent_ms >= before + 500, "after %lld ms", (long long)(last.sent_ms - before));
    }
}
END_TEST

START_TEST(nothing_piles_up_while_kafka_is_away)
{
    ck_assert_int_eq(take(PATIENCE_MS, 1), 1);
    rd_kafka_mock_broker_set_down(mock, 1);
    for (int i = 0; i < 15; i++) {
        write_one();
        struct timespec nap = {.tv_nsec = 100000000};
        nanosleep(&nap, NULL);
    }
    rd_kafka_mock_broker_set_up(mock, 1);
    int n = take_up_to(rig.seq);
    ck_assert_msg(n <= 5, "%d records", n);
}
END_TEST

START_TEST(wrong_properties_are_refused_at_the_start)
{
    struct ap_watermarks *other;
    struct ap_kafka_property bad = {(char *)(uintptr_t)"no.such.property", (char *)(uintptr_t)"1"};
    struct ap_config_extra wrong = {.kafka = &bad, .kafka_count = 1};
    struct ap_watermarks_options options = {.region = rig.region, .interval_ms = INTERVAL_MS, .kafka = &wrong, .schemas = rig.schemas, .index = rig.index, .metrics = rig.metrics};
    struct ap_err err = {0};
    ck_assert_int_eq(ap_watermarks_start(&other, &options, &err), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, "no.such.property"), "%s", err.msg);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_watermarks");
    TCase *tc = tcase_create("all");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, says_what_is_visible);
    tcase_add_test(tc, at_most_one_an_interval_and_the_newest_last);
    tcase_add_test(tc, a_lone_write_does_not_wait_for_the_interval);
    tcase_add_test(tc, without_rows_the_longer_interval_counts);
    tcase_add_test(tc, once_a_second_when_nothing_changes);
    tcase_add_test(tc, nothing_piles_up_while_kafka_is_away);
    tcase_add_test(tc, wrong_properties_are_refused_at_the_start);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
