/* The consumer as a whole, on librdkafka's mock cluster: what ends in the store, whatever comes in, in whatever order. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "consumer_rig.h"
#include "patience.h"
#include "run.h"

#define EU "origin=\"eu\""
#define US "origin=\"us\""

static struct rig rig;
static uint64_t eu_stream, us_stream;

static void setup(void)
{
    rig_open(&rig);
    eu_stream = ap_incarnation_new(ap_wall_ms());
    us_stream = ap_incarnation_new(ap_wall_ms());
    rig_register(&rig, "eu.vec-control", "eu", eu_stream, 0);
    rig_register(&rig, "vec-control", "us", us_stream, 0);
}

static void teardown(void)
{
    rig_close(&rig);
}

static uint64_t hlc(unsigned n)
{
    static int64_t start_ms;
    if (!start_ms)
        start_ms = ap_wall_ms() - 1000;
    return ap_hlc_make(start_ms + n, 0);
}

static void eu_writes(uint64_t point, uint64_t seq, unsigned when, const char *payload)
{
    struct ap_mutation m = rig_upsert("eu", eu_stream, seq, hlc(when), payload);
    rig_mutation(&rig, "eu.vec-mutations", 1, point, &m);
}

static void us_writes(uint64_t point, uint64_t seq, unsigned when, const char *payload)
{
    struct ap_mutation m = rig_upsert("us", us_stream, seq, hlc(when), payload);
    rig_mutation(&rig, "vec-mutations", 1, point, &m);
}

/* Not ready, and in the end for this reason. */
static void wait_not_ready(const char *reason)
{
    char why[256] = "";
    for (int64_t end = patience_ms(); !strstr(why, reason);) {
        ck_assert(!ap_status_ready(rig.status, why, sizeof why));
        ck_assert_msg(ap_mono_ms() < end, "the reason is: %s", why);
    }
}

static void assert_payload(uint64_t point, const char *expected)
{
    char payload[256];
    ck_assert(rig_row(&rig, point, NULL, payload, sizeof payload));
    ck_assert_str_eq(payload, expected);
}

START_TEST(the_newer_version_wins_in_either_order)
{
    eu_writes(1, 1, 10, "{\"by\":\"eu\"}");
    us_writes(1, 1, 20, "{\"by\":\"us\"}");
    us_writes(2, 2, 30, "{\"by\":\"us\"}");
    eu_writes(2, 2, 40, "{\"by\":\"eu\"}");
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 2);
    rig_wait(&rig, "antipode_consumer_applied_total", US, 2);
    rig_wait_ready(&rig);
    rig_stop(&rig);
    assert_payload(1, "{\"by\":\"us\"}");
    assert_payload(2, "{\"by\":\"eu\"}");
    ck_assert_uint_eq(rig_live_rows(&rig), 2);
}
END_TEST

START_TEST(a_record_delivered_again_is_skipped_and_counted)
{
    eu_writes(1, 1, 10, "{\"n\":1}");
    eu_writes(1, 2, 20, "{\"n\":2}");
    eu_writes(1, 1, 10, "{\"n\":1}");
    eu_writes(1, 2, 20, "{\"n\":2}");
    eu_writes(1, 3, 30, "{\"n\":3}");
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 3);
    rig_wait_just(&rig, "antipode_consumer_duplicates_total", EU, 2);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_hole_records", EU), 0);
    rig_stop(&rig);
    assert_payload(1, "{\"n\":3}");
}
END_TEST

START_TEST(a_hole_is_shown_and_a_late_record_closes_it)
{
    eu_writes(1, 1, 10, NULL);
    eu_writes(4, 4, 40, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_hole_records", EU, 2);
    rig_wait_just(&rig, "antipode_consumer_hole_ranges", EU, 1);
    eu_writes(3, 3, 30, NULL);
    eu_writes(2, 2, 20, NULL);
    rig_wait(&rig, "antipode_consumer_late_total", EU, 2);
    char labels[128];
    snprintf(labels, sizeof labels, "origin=\"eu\",stream=\"%016llx\",topic=\"vec-mutations\",partition=\"1\"", (unsigned long long)eu_stream);
    rig_wait(&rig, "antipode_position", labels, 4);
    rig_wait_at_most(&rig, "antipode_consumer_hole_records", EU, 0);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 4);
}
END_TEST

START_TEST(poison_goes_to_the_dead_letters_with_its_reason_and_the_stream_goes_on)
{
    struct ap_key key = rig_key(7, 1);
    static const char broken[] = "this is no event";
    eu_writes(1, 1, 10, NULL);
    rig_send(&rig, "eu.vec-mutations", 1, key.b, sizeof key.b, broken, sizeof broken - 1);
    eu_writes(2, 2, 20, NULL);
    struct ap_mutation m = rig_upsert("eu", eu_stream, 3, hlc(30), NULL); /* decodes, but its key does not fit */
    struct ap_buf value = {0};
    ap_mutation_encode(&m, &value);
    rig_send(&rig, "eu.vec-mutations", 1, "short", 5, value.data, value.len);
    ap_buf_free(&value);
    eu_writes(4, 4, 40, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 3);
    rig_wait_just(&rig, "antipode_consumer_dead_letters_total", EU, 2);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_hole_records", EU), 0); /* number 3 is noted as applied */

    rd_kafka_message_t *letter = rig_letter(&rig, "offset", "1");
    ck_assert_uint_eq(letter->len, sizeof broken - 1);
    ck_assert_mem_eq(letter->payload, broken, letter->len);
    ck_assert_mem_eq(letter->key, key.b, sizeof key.b);
    ck_assert_str_eq(rig_header(letter, "origin"), "eu");
    ck_assert_str_eq(rig_header(letter, "topic"), "vec-mutations");
    ck_assert_str_eq(rig_header(letter, "partition"), "1");
    ck_assert_str_eq(rig_header(letter, "offset"), "1");
    ck_assert_ptr_nonnull(rig_header(letter, "reason"));
    ck_assert_str_eq(rig_header(letter, "code"), "corrupt");
    ck_assert_uint_eq(strlen(rig_header(letter, "time")), strlen("2026-01-02T03:04:05.678Z"));
    rd_kafka_message_destroy(letter);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 3);
}
END_TEST

/* Errors that the brokers still have to give for requests to produce. */
static size_t errors_left(void)
{
    size_t left = 0, count;
    for (int32_t broker = 0; broker < 2; broker++)
        if (!rd_kafka_mock_broker_error_stack_cnt(rig.mock, broker, 0 /* Produce */, &count))
            left += count;
    return left;
}

START_TEST(nothing_is_committed_before_kafka_has_the_dead_letters)
{
    enum { ERRORS = 4, RTT_MS = 50 };
    struct ap_key key = rig_key(7, 1);
    rig_send(&rig, "eu.vec-mutations", 1, key.b, sizeof key.b, "poison", 6);
    eu_writes(1, 1, 10, NULL);
    rig_settle(&rig);
    for (int32_t broker = 0; broker < 2; broker++)
        for (int i = 0; i < ERRORS; i++)
            ck_assert_int_eq(rd_kafka_mock_broker_push_request_error_rtts(rig.mock, broker, 0, (size_t)1, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, (int)RTT_MS), 0);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 1);
    ck_assert_uint_le(errors_left(), ERRORS); /* one of the two has the letter's partition, and had to take it at last */
    rd_kafka_message_destroy(rig_letter(&rig, "offset", "0"));
    rig_stop(&rig);
}
END_TEST

START_TEST(a_restart_goes_on_from_the_stored_offsets)
{
    for (unsigned i = 1; i <= 50; i++)
        eu_writes(i, i, i, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 50);
    rig_stop(&rig);
    uint64_t before = rig_checksum(&rig);
    rig_start(&rig, NULL);
    eu_writes(51, 51, 51, NULL);
    rig_wait_just(&rig, "antipode_consumer_applied_total", EU, 1);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_duplicates_total", EU), 0);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 51);
    ck_assert_uint_ne(before, rig_checksum(&rig));
}
END_TEST

START_TEST(a_replay_from_the_beginning_changes_nothing)
{
    for (unsigned i = 1; i <= 50; i++)
        eu_writes(i % 10, i, i, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 50);
    rig_stop(&rig);
    uint64_t before = rig_checksum(&rig);
    for (unsigned i = 1; i <= 50; i++)
        eu_writes(i % 10, i, i, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_duplicates_total", EU, 50);
    rig_stop(&rig);
    ck_assert_uint_eq(before, rig_checksum(&rig));
}
END_TEST

START_TEST(a_topic_that_appears_later_is_found_and_read)
{
    rig_start(&rig, "regions = us,eu,ap\ncontrol.wait_ms = 100");
    us_writes(1, 1, 10, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", US, 1);
    wait_not_ready("topic ap.vec-control does not exist");
    uint64_t ap_stream = ap_incarnation_new(ap_wall_ms());
    rig_topic(&rig, "ap.vec-control");
    rig_register(&rig, "ap.vec-control", "ap", ap_stream, 0);
    rig_topic(&rig, "ap.vec-mutations");
    struct ap_mutation m = rig_upsert("ap", ap_stream, 1, hlc(5), NULL);
    rig_mutation(&rig, "ap.vec-mutations", 3, 9, &m);
    rig_wait(&rig, "antipode_consumer_applied_total", "origin=\"ap\"", 1);
    rig_wait_ready(&rig);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 2);
}
END_TEST

START_TEST(a_topic_with_another_partition_count_is_refused_loudly)
{
    ck_assert_int_eq(rd_kafka_mock_topic_create(rig.mock, "ap.vec-mutations", 3, 1), 0);
    rig_topic(&rig, "ap.vec-control");
    rig_start(&rig, "regions = us,eu,ap");
    us_writes(1, 1, 10, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", US, 1);
    wait_not_ready("3 partitions");
    rig_stop(&rig);
}
END_TEST

START_TEST(strangers_are_applied_and_reported_unless_they_register_in_time)
{
    uint64_t stranger = ap_incarnation_new(ap_wall_ms());
    struct ap_mutation m = rig_upsert("eu", stranger, 1, hlc(10), NULL);
    rig_mutation(&rig, "eu.vec-mutations", 0, 1, &m);
    m = rig_upsert("us", us_stream, 1, hlc(10), NULL); /* us's stream in eu's topic */
    rig_mutation(&rig, "eu.vec-mutations", 2, 2, &m);
    int64_t start = ap_mono_ms();
    rig_start(&rig, "control.wait_ms = 1500");
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 2);
    double counted = rig_metric(&rig, "antipode_consumer_unregistered_total", EU); /* the foreign one, at once */
    ck_assert(counted == 1 || ap_mono_ms() - start >= 1500);
    rig_wait(&rig, "antipode_consumer_unregistered_total", EU, 2);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 2);
}
END_TEST

START_TEST(control_records_that_lie_about_their_region_are_dead_letters)
{
    rig_register(&rig, "eu.vec-control", "us", 12345, 0);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_control_refused_total", EU, 1);
    rd_kafka_message_destroy(rig_letter(&rig, "topic", "vec-control"));
    rig_stop(&rig);
}
END_TEST

static void control_collection(const char *name, uint64_t generation, bool deleted, unsigned when)
{
    char owned[64], factory[] = "none", topic[] = "vec-mutations";
    snprintf(owned, sizeof owned, "%s", name);
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION, .version = {.hlc = hlc(when), .region = {"us"}, .writer = 1}};
    c.u.collection = (struct ap_control_collection){.name = owned, .generation = generation, .deleted = deleted, .dim = 2, .distance = AP_COSINE,
                                                    .codec_factory = factory, .raw_home = true, .topic = topic};
    rig_control(&rig, "vec-control", &c);
}

START_TEST(mutations_of_a_deleted_collection_are_noted_but_not_stored)
{
    control_collection("old", 1, false, 1);
    control_collection("old", 1, true, 2);
    struct ap_mutation m = rig_upsert("us", us_stream, 1, hlc(3), NULL);
    struct ap_key key = rig_key(ap_collection_id("old", 1), 1);
    struct ap_buf value = {0};
    ap_mutation_encode(&m, &value);
    rig_send(&rig, "vec-mutations", 1, key.b, sizeof key.b, value.data, value.len);
    ap_buf_free(&value);
    us_writes(1, 2, 4, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", US, 1);
    rig_wait_just(&rig, "antipode_consumer_deleted_collection_total", US, 1);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_hole_records", US), 0);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 1);
}
END_TEST

START_TEST(events_of_a_retired_region_are_dead_letters)
{
    eu_writes(1, 1, 10, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 1);
    struct ap_control c = {.kind = AP_CONTROL_REGION, .version = {.region = {"eu"}}};
    c.u.region = (struct ap_control_region){.region_incarnation = 5, .state = AP_REGION_RETIRED};
    rig_control(&rig, "eu.vec-control", &c);
    rig_wait(&rig, "antipode_consumer_control_total", EU, 2);
    eu_writes(2, 2, 20, NULL);
    rig_wait(&rig, "antipode_consumer_dead_letters_total", EU, 1);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 1);
}
END_TEST

/* Said in another region's control topic, behind much else: what it wrote after its end must wait until that has been read. */
START_TEST(a_region_that_another_one_retired_is_known_to_be_before_its_mutations_are_read)
{
    struct ap_position cut = {.stream = eu_stream, .lineage = 77, .region = {"eu"}, .topic = "vec-mutations", .partition = 1, .mark = 1};
    struct ap_control c = {.kind = AP_CONTROL_RETIREMENT, .version = {.hlc = hlc(5), .region = {"us"}, .writer = us_stream}};
    c.u.retirement = (struct ap_control_retirement){{"eu"}, 5, &cut, 1};
    for (uint64_t i = 0; i < 200; i++)
        rig_register(&rig, "vec-control", "us", us_stream + 1 + i, 0);
    rig_control(&rig, "vec-control", &c);
    eu_writes(1, 1, 10, NULL);
    eu_writes(2, 2, 20, NULL);
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_dead_letters_total", EU, 1);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 1);
}
END_TEST

START_TEST(lag_is_small_after_a_heartbeat_and_grows_without)
{
    rig_heartbeat(&rig, "eu.vec-mutations", 1, "eu", eu_stream, 1, &(struct ap_hello){0, 0});
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_heartbeats_total", EU, 1);
    const char *labels = "origin=\"eu\",topic=\"vec-mutations\",partition=\"1\"";
    rig_wait_ready(&rig);
    rig_wait(&rig, "replication_lag_seconds", labels, 0.5); /* nothing more comes: it grows by itself */
    double lag = 1;
    uint64_t seq = 1;
    for (int64_t end = patience_ms(); lag > 0.4 && ap_mono_ms() < end;) { /* one that is looked at too late has grown again */
        rig_heartbeat(&rig, "eu.vec-mutations", 1, "eu", eu_stream, ++seq, NULL);
        rig_wait(&rig, "antipode_consumer_heartbeats_total", EU, (double)seq);
        lag = rig_metric(&rig, "replication_lag_seconds", labels);
    }
    ck_assert_double_le(lag, 0.4);
    rig_stop(&rig);
}
END_TEST

/* Same schema, another fingerprint: a field with a default more. */
static const char newer_schema[] =
    "{\"type\":\"record\",\"name\":\"VectorMutation\",\"namespace\":\"antipode\",\"fields\":["
    "{\"name\":\"op\",\"type\":{\"type\":\"enum\",\"name\":\"Op\",\"symbols\":[\"UPSERT\",\"PATCH\",\"DELETE\",\"HEARTBEAT\",\"UNKNOWN\"],\"default\":\"UNKNOWN\"}},"
    "{\"name\":\"hlc\",\"type\":\"long\"},{\"name\":\"region\",\"type\":\"string\"},{\"name\":\"writer\",\"type\":\"long\"},"
    "{\"name\":\"codec\",\"type\":[\"null\",{\"type\":\"fixed\",\"name\":\"CodecId\",\"size\":8}],\"default\":null},"
    "{\"name\":\"vector\",\"type\":[\"null\",\"bytes\"],\"default\":null},{\"name\":\"seq\",\"type\":\"long\"},"
    "{\"name\":\"stream\",\"type\":[\"null\",\"long\"],\"default\":null},{\"name\":\"clock\",\"type\":[\"null\",\"long\"],\"default\":null},"
    "{\"name\":\"payload\",\"type\":[\"null\",\"string\"],\"default\":null},{\"name\":\"trace\",\"type\":[\"null\",\"string\"],\"default\":null}]}";

/* A mutation as the newer writer would write it: the new field, null, is one more byte at the end. */
static void send_newer(uint64_t point, uint64_t seq, unsigned when)
{
    struct ap_mutation m = rig_upsert("eu", eu_stream, seq, hlc(when), NULL);
    struct ap_key key = rig_key(7, point);
    struct ap_buf value = {0};
    struct ap_err err;
    ap_mutation_encode(&m, &value);
    ap_put_le64(value.data + 2, ap_schema_fingerprint_of_json(newer_schema, sizeof newer_schema - 1, &err));
    ap_buf_append(&value, "", 1);
    rig_send(&rig, "eu.vec-mutations", 1, key.b, sizeof key.b, value.data, value.len);
    ap_buf_free(&value);
}

START_TEST(an_unknown_schema_stops_its_partition_alone_until_it_comes)
{
    eu_writes(1, 1, 10, NULL);
    send_newer(2, 2, 20);
    eu_writes(3, 3, 30, NULL);
    rig_start(&rig, NULL);
    const char *part = "origin=\"eu\",topic=\"vec-mutations\",partition=\"1\"";
    rig_wait(&rig, "antipode_consumer_waiting_schema", part, 1);
    wait_not_ready("for a schema");
    struct ap_mutation other = rig_upsert("eu", eu_stream, 1, hlc(40), NULL);
    rig_mutation(&rig, "eu.vec-mutations", 2, 4, &other); /* another partition goes on */
    rig_wait_just(&rig, "antipode_consumer_applied_total", EU, 2);
    rig_stop(&rig); /* and the wait survives a restart */
    rig_start(&rig, NULL);
    rig_wait(&rig, "antipode_consumer_waiting_schema", part, 1);

    struct ap_control c = {.kind = AP_CONTROL_SCHEMA, .version = {.region = {"eu"}}};
    char json[sizeof newer_schema];
    memcpy(json, newer_schema, sizeof json);
    struct ap_err err;
    c.u.schema = (struct ap_control_schema){ap_schema_fingerprint_of_json(json, sizeof json - 1, &err), json};
    rig_control(&rig, "eu.vec-control", &c);
    rig_wait(&rig, "antipode_consumer_applied_total", EU, 2);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_duplicates_total", EU), 0);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_dead_letters_total", EU), 0);
    rig_wait_ready(&rig);
    rig_stop(&rig);
    ck_assert_uint_eq(rig_live_rows(&rig), 4);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("consumer_core");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 50);
    tcase_add_test(tc, the_newer_version_wins_in_either_order);
    tcase_add_test(tc, a_record_delivered_again_is_skipped_and_counted);
    tcase_add_test(tc, a_hole_is_shown_and_a_late_record_closes_it);
    tcase_add_test(tc, poison_goes_to_the_dead_letters_with_its_reason_and_the_stream_goes_on);
    tcase_add_test(tc, nothing_is_committed_before_kafka_has_the_dead_letters);
    tcase_add_test(tc, a_restart_goes_on_from_the_stored_offsets);
    tcase_add_test(tc, a_replay_from_the_beginning_changes_nothing);
    tcase_add_test(tc, a_topic_that_appears_later_is_found_and_read);
    tcase_add_test(tc, a_topic_with_another_partition_count_is_refused_loudly);
    tcase_add_test(tc, strangers_are_applied_and_reported_unless_they_register_in_time);
    tcase_add_test(tc, control_records_that_lie_about_their_region_are_dead_letters);
    tcase_add_test(tc, mutations_of_a_deleted_collection_are_noted_but_not_stored);
    tcase_add_test(tc, events_of_a_retired_region_are_dead_letters);
    tcase_add_test(tc, a_region_that_another_one_retired_is_known_to_be_before_its_mutations_are_read);
    tcase_add_test(tc, lag_is_small_after_a_heartbeat_and_grows_without);
    tcase_add_test(tc, an_unknown_schema_stops_its_partition_alone_until_it_comes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
