/* Kafka profiles, lookups and followers, on librdkafka's mock cluster. */
#include <check.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h> /* after rdkafka.h */
#include <stdlib.h>
#include "common/kafka.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "mock.h"
#include "patience.h"
#include "run.h"

static rd_kafka_t *host;             /* only carries the mock cluster */
static rd_kafka_mock_cluster_t *mock;
static char servers[512];
static struct ap_kafka_property properties[8];
static struct ap_config_extra extra;

static struct ap_config_extra *with(const char *key, const char *value)
{
    properties[0] = (struct ap_kafka_property){ (char *)(uintptr_t)"bootstrap.servers", servers };
    properties[1] = (struct ap_kafka_property){ (char *)(uintptr_t)key, (char *)(uintptr_t)value };
    extra = (struct ap_config_extra){.kafka = properties, .kafka_count = key ? 2 : 1};
    return &extra;
}

static void setup(void)
{
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    ap_log_init("unit", AP_LOG_ERROR, getenv("ANTIPODE_TEST_LOG") ? NULL : "/dev/null", NULL); /* before any thread is there */
    host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    ck_assert_msg(host != NULL, "%s", why);
    mock = rd_kafka_mock_cluster_new(host, 1);
    ck_assert_ptr_nonnull(mock);
    snprintf(servers, sizeof servers, "%s", rd_kafka_mock_cluster_bootstraps(mock));
}

static void teardown(void)
{
    rd_kafka_mock_cluster_destroy(mock);
    rd_kafka_destroy(host);
}

static void produce(rd_kafka_t *rk, const char *topic, int32_t partition, const char *value)
{
    rd_kafka_resp_err_t rc = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                                               RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                               RD_KAFKA_V_VALUE((void *)(uintptr_t)value, strlen(value)), RD_KAFKA_V_END);
    ck_assert_int_eq(rc, 0);
}

static _Atomic int delivered, failed_deliveries;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    (void)opaque;
    if (message->err)
        failed_deliveries++;
    else
        delivered++;
}

static rd_kafka_t *producer(void)
{
    struct ap_err err;
    rd_kafka_t *rk = ap_kafka_producer(with(NULL, NULL), "unit", on_delivery, NULL, &err);
    ck_assert_msg(rk != NULL, "%s", err.msg);
    return rk;
}

static const char *conf_of(rd_kafka_t *rk, const char *key)
{
    static char value[512];
    size_t size = sizeof value;
    ck_assert_int_eq(rd_kafka_conf_get(rd_kafka_conf(rk), key, value, &size), RD_KAFKA_CONF_OK);
    return value;
}

/* ---- profiles ---- */

START_TEST(producers_are_safe_by_default)
{
    rd_kafka_t *rk = producer();
    ck_assert_str_eq(conf_of(rk, "enable.idempotence"), "true");
    ck_assert_str_eq(conf_of(rk, "acks"), "-1");
    ck_assert_str_eq(conf_of(rk, "message.timeout.ms"), "0");
    ck_assert_str_eq(conf_of(rk, "compression.codec"), "zstd");
    ck_assert_str_eq(conf_of(rk, "linger.ms"), "1");
    ck_assert_str_eq(conf_of(rk, "client.id"), "unit");
    rd_kafka_destroy(rk);
}
END_TEST

START_TEST(consumers_never_commit_or_skip)
{
    struct ap_err err;
    rd_kafka_t *rk = ap_kafka_consumer(with(NULL, NULL), "unit", "group-1", &err), *other;
    ck_assert_msg(rk != NULL, "%s", err.msg);
    ck_assert_str_eq(conf_of(rk, "group.id"), "group-1");
    ck_assert_str_eq(conf_of(rk, "enable.auto.commit"), "false");
    ck_assert_str_eq(conf_of(rk, "enable.auto.offset.store"), "false");
    ck_assert_str_eq(conf_of(rk, "auto.offset.reset"), "error");
    ck_assert_str_eq(conf_of(rk, "check.crcs"), "true");
    ck_assert_str_eq(conf_of(rk, "enable.partition.eof"), "true");
    rd_kafka_destroy(rk);
    char first[200];
    rk = ap_kafka_consumer(with(NULL, NULL), "unit", NULL, &err);
    other = ap_kafka_consumer(with(NULL, NULL), "unit", NULL, &err);
    snprintf(first, sizeof first, "%s", conf_of(rk, "group.id"));
    ck_assert_str_ne(first, conf_of(other, "group.id"));
    rd_kafka_destroy(rk);
    rd_kafka_destroy(other);
}
END_TEST

START_TEST(users_win_but_not_over_guarantees)
{
    struct ap_err err;
    rd_kafka_t *rk = ap_kafka_producer(with("linger.ms", "7"), "unit", NULL, NULL, &err);
    ck_assert_str_eq(conf_of(rk, "linger.ms"), "7");
    rd_kafka_destroy(rk);
    rk = ap_kafka_producer(with("fetch.wait.max.ms", "7"), "unit", NULL, NULL, &err); /* a consumer's: no matter here */
    ck_assert_ptr_nonnull(rk);
    rd_kafka_destroy(rk);
    static const char *const fixed[] = { "acks", "request.required.acks", "enable.idempotence", "message.timeout.ms", "delivery.timeout.ms",
        "enable.auto.commit", "enable.auto.offset.store", "auto.offset.reset", "group.id", "transactional.id", "retries" };
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        ck_assert_msg(ap_kafka_producer(with(fixed[i], "1"), "unit", NULL, NULL, &err) == NULL, "%s", fixed[i]);
        ck_assert_int_eq(err.code, AP_EINVAL);
        ck_assert_int_eq(err.cls, AP_FATAL);
        ck_assert_msg(strstr(err.msg, fixed[i]) && strstr(err.msg, "cannot be set"), "%s", err.msg);
        ck_assert_ptr_null(ap_kafka_consumer(with(fixed[i], "1"), "unit", "g", &err));
    }
}
END_TEST

START_TEST(mistakes_are_named)
{
    struct ap_err err;
    ck_assert_ptr_null(ap_kafka_producer(with("lingerms", "1"), "unit", NULL, NULL, &err));
    ck_assert_msg(strstr(err.msg, "kafka.lingerms"), "%s", err.msg);
    ck_assert_ptr_null(ap_kafka_consumer(with("fetch.min.bytes", "x"), "unit", NULL, &err));
    ck_assert_msg(strstr(err.msg, "fetch.min.bytes"), "%s", err.msg);
    with(NULL, NULL)->kafka_count = 0;
    ck_assert_ptr_null(ap_kafka_producer(&extra, "unit", NULL, NULL, &err));
    ck_assert_msg(strstr(err.msg, "bootstrap.servers is not set"), "%s", err.msg);
    struct ap_follower *f = NULL;
    const char *topic = AP_TOPIC_CONTROL;
    ck_assert_int_eq(ap_follower_new(&f, &extra, "unit", &topic, 1, NULL, NULL, &err), AP_EINVAL);
    ck_assert_ptr_null(f);
}
END_TEST

START_TEST(topics_tell_their_origin)
{
    struct ap_region own = { "eu" }, origin;
    const char *topic;
    ck_assert_int_eq(ap_topic_split("vec-mutations", &own, &origin, &topic), 0);
    ck_assert_str_eq(origin.name, "eu");
    ck_assert_str_eq(topic, "vec-mutations");
    ck_assert_int_eq(ap_topic_split("us.vec-mutations", &own, &origin, &topic), 0);
    ck_assert_str_eq(origin.name, "us");
    ck_assert_str_eq(topic, "vec-mutations");
    ck_assert_int_ne(ap_topic_split("", &own, &origin, &topic), 0);
    ck_assert_int_ne(ap_topic_split("us.", &own, &origin, &topic), 0);
    ck_assert_int_ne(ap_topic_split(".x", &own, &origin, &topic), 0);
    ck_assert_int_ne(ap_topic_split("ap.us.vec-mutations", &own, &origin, &topic), 0); /* a copy of a copy */
    ck_assert_int_ne(ap_topic_split("US.vec-mutations", &own, &origin, &topic), 0);
}
END_TEST

/* ---- lookups ---- */

START_TEST(topics_and_clusters_are_looked_up)
{
    rd_kafka_t *rk = producer();
    struct ap_err err;
    int32_t count = 0;
    char cluster[64];
    uint8_t id[16] = {0};
    mock_topics(mock, &(struct mock_topic){"vec-control", 3}, 1);
    ck_assert_msg(ap_kafka_partitions(rk, "vec-control", 5000, &count, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(count, 3);
    /* asking for a topic must not make it */
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(ap_kafka_partitions(rk, "us.vec-control", 5000, &count, &err), AP_ENOTFOUND);
    ck_assert_msg(ap_kafka_cluster_id(rk, 5000, cluster, sizeof cluster, &err) == 0, "%s", err.msg);
    char *known = rd_kafka_clusterid(rk, 0);
    ck_assert_str_eq(cluster, known);
    rd_kafka_mem_free(rk, known);
    ck_assert_int_eq(ap_kafka_cluster_id(rk, 5000, cluster, 3, &err), AP_ETOOBIG);
    /* The mock has no admin API, so topic ids, which the consumer's offsets hang on, are tested end to end. */
    ck_assert_int_eq(ap_kafka_topic_id(rk, "vec-control", 100, id, &err), AP_ENOTREADY);
    rd_kafka_destroy(rk);
}
END_TEST

START_TEST(a_cluster_that_is_away_is_not_ready)
{
    struct ap_err err;
    int32_t count;
    char cluster[64];
    uint8_t id[16];
    snprintf(servers, sizeof servers, "127.0.0.1:1");
    rd_kafka_t *rk = producer();
    int64_t start = ap_mono_ms();
    ck_assert_int_eq(ap_kafka_partitions(rk, "vec-control", 100, &count, &err), AP_ENOTREADY);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_int_eq(ap_kafka_topic_id(rk, "vec-control", 100, id, &err), AP_ENOTREADY);
    ck_assert_int_eq(ap_kafka_cluster_id(rk, 100, cluster, sizeof cluster, &err), AP_ENOTREADY);
    struct ap_follower *f;
    const char *topic = "vec-control";
    ck_assert_int_eq(ap_follower_new(&f, with(NULL, NULL), "unit", &topic, 1, NULL, NULL, &err), 0);
    ck_assert_int_eq(ap_follower_poll(f, 10, &err), 0); /* waited out */
    ck_assert_int_eq(ap_follower_catch_up(f, 200, &err), AP_ETIMEOUT);
    ck_assert_msg(strstr(err.msg, "vec-control"), "%s", err.msg);
    ck_assert_int_lt(ap_mono_ms() - start, PATIENCE_MS);
    ap_follower_free(&f);
    rd_kafka_destroy(rk);
}
END_TEST

/* ---- followers ---- */

static int seen[64];
static char last_topic[64];

static void on_record(void *arg, const char *topic, const rd_kafka_message_t *message)
{
    ck_assert_ptr_eq(arg, seen);
    seen[atoi((const char *)message->payload)]++;
    snprintf(last_topic, sizeof last_topic, "%s", topic);
}

static void produce_numbers(rd_kafka_t *rk, const char *topic, int first, int end)
{
    for (int i = first; i < end; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d.", i);
        produce(rk, topic, i % 2, text);
    }
    ck_assert_int_eq(rd_kafka_flush(rk, PATIENCE_MS), 0);
}

static int total(void)
{
    int sum = 0;
    for (size_t i = 0; i < sizeof seen / sizeof *seen; i++)
        sum += seen[i] == 1;
    return sum;
}

static bool poll_until(struct ap_follower *f, int wanted)
{
    struct ap_err err;
    for (int64_t deadline = patience_ms(); ap_mono_ms() < deadline && total() < wanted;)
        ck_assert_msg(ap_follower_poll(f, 50, &err) == 0, "%s", err.msg);
    return total() == wanted;
}

START_TEST(followers_read_all_then_go_on)
{
    rd_kafka_t *rk = producer();
    struct ap_follower *f;
    struct ap_err err;
    const char *const topics[] = { "vec-control", "us.vec-control" };
    mock_topics(mock, &(struct mock_topic){"vec-control", 2}, 1);
    produce_numbers(rk, "vec-control", 0, 20);
    ck_assert_int_eq(ap_follower_new(&f, with(NULL, NULL), "unit", topics, 2, on_record, seen, &err), 0);
    ck_assert_msg(ap_follower_catch_up(f, PATIENCE_MS, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(total(), 20); /* all, each once, although the other topic is not there */
    ck_assert_msg(ap_follower_catch_up(f, PATIENCE_MS, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(total(), 20);

    produce_numbers(rk, "vec-control", 20, 30);
    ck_assert(poll_until(f, 30));
    produce_numbers(rk, "vec-control", 30, 34); /* caught up again means: these as well */
    ck_assert_int_eq(ap_follower_catch_up(f, PATIENCE_MS, &err), 0);
    ck_assert_int_eq(total(), 34);

    mock_topics(mock, &(struct mock_topic){"us.vec-control", 2}, 1); /* now the mirror makes it */
    produce_numbers(rk, "us.vec-control", 34, 40);
    ck_assert(poll_until(f, 40));
    ck_assert_str_eq(last_topic, "us.vec-control");

    rd_kafka_mock_broker_set_down(mock, 1);
    for (int i = 0; i < 10; i++)
        ck_assert_msg(ap_follower_poll(f, 50, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(ap_follower_catch_up(f, 300, &err), AP_ETIMEOUT);
    rd_kafka_mock_broker_set_up(mock, 1);
    produce_numbers(rk, "vec-control", 40, 50);
    ck_assert(poll_until(f, 50));
    ap_follower_free(&f);
    ck_assert_ptr_null(f);
    ap_follower_free(&f);
    ck_assert_int_eq(failed_deliveries, 0);
    ck_assert_int_eq(delivered, 50);
    rd_kafka_destroy(rk);
}
END_TEST

START_TEST(empty_and_absent_topics_are_caught_up_with)
{
    struct ap_follower *f;
    struct ap_err err;
    const char *const topics[] = { "vec-control", "us.vec-control" };
    mock_topics(mock, &(struct mock_topic){"vec-control", 2}, 1);
    ck_assert_int_eq(ap_follower_new(&f, with(NULL, NULL), "unit", topics, 2, on_record, seen, &err), 0);
    ck_assert_msg(ap_follower_catch_up(f, PATIENCE_MS, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(total(), 0);
    ap_follower_free(&f);
}
END_TEST

START_TEST(records_wait_for_kafka_without_expiring)
{
    rd_kafka_t *rk = producer();
    mock_topics(mock, &(struct mock_topic){"vec-mutations", 2}, 1);
    produce_numbers(rk, "vec-mutations", 0, 1);
    rd_kafka_mock_broker_set_down(mock, 1);
    for (int i = 0; i < 10; i++)
        produce(rk, "vec-mutations", 0, "1");
    ck_assert_int_ne(rd_kafka_flush(rk, 300), 0);
    rd_kafka_mock_broker_set_up(mock, 1);
    ck_assert_int_eq(rd_kafka_flush(rk, PATIENCE_MS), 0);
    ck_assert_int_eq(delivered, 11);
    ck_assert_int_eq(failed_deliveries, 0);
    rd_kafka_destroy(rk);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kafka");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 50);
    tcase_add_test(tc, producers_are_safe_by_default);
    tcase_add_test(tc, consumers_never_commit_or_skip);
    tcase_add_test(tc, users_win_but_not_over_guarantees);
    tcase_add_test(tc, mistakes_are_named);
    tcase_add_test(tc, topics_tell_their_origin);
    tcase_add_test(tc, topics_and_clusters_are_looked_up);
    tcase_add_test(tc, a_cluster_that_is_away_is_not_ready);
    tcase_add_test(tc, followers_read_all_then_go_on);
    tcase_add_test(tc, empty_and_absent_topics_are_caught_up_with);
    tcase_add_test(tc, records_wait_for_kafka_without_expiring);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
