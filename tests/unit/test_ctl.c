/* The operator's tool without a network: pages of metrics, targets, what becomes of them in a report, records as JSON. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "common/clock.h"
#include "common/schema.h"
#include "ctl/describe.h"
#include "ctl/holes.h"
#include "ctl/report.h"
#include "run.h"

static struct ap_page parse(const char *text)
{
    struct ap_page page;
    ap_page_read(&page, strdup(text));
    return page;
}

/* ---- pages ---------------------------------------------------------------------------------------------------------- */

START_TEST(samples_have_names_labels_and_values)
{
    struct ap_page page = parse("# HELP a what\n# TYPE a gauge\na 1\na{x=\"1\",y=\"two\"} 2.5e-3\n\nb{} +Inf\nc{q=\"}\"} 4 1700000000000\n");
    ck_assert_uint_eq(page.count, 4);
    ck_assert_str_eq(page.samples[0].name, "a");
    ck_assert_str_eq(page.samples[0].labels, "");
    ck_assert_double_eq(page.samples[1].value, 2.5e-3);
    ck_assert_double_infinite(page.samples[2].value);
    ck_assert_double_eq(page.samples[3].value, 4);
    char value[16];
    ck_assert(ap_sample_label(&page.samples[1], "y", value, sizeof value));
    ck_assert_str_eq(value, "two");
    ck_assert(ap_sample_label(&page.samples[3], "q", value, sizeof value));
    ck_assert_str_eq(value, "}");
    ck_assert(!ap_sample_label(&page.samples[1], "z", value, sizeof value));
    ck_assert_str_eq(value, "");
    ap_page_free(&page);
}
END_TEST

START_TEST(escapes_in_labels_are_undone_and_names_are_not_confused)
{
    struct ap_page page = parse("m{long_x=\"no\",x=\"a\\\"b\\\\c\\nd\",y=\"x=\\\"1\\\"\"} 1");
    char value[16], small[3];
    ck_assert(ap_sample_label(&page.samples[0], "x", value, sizeof value));
    ck_assert_str_eq(value, "a\"b\\c\nd");
    ck_assert(ap_sample_label(&page.samples[0], "x", small, sizeof small));
    ck_assert_str_eq(small, "a\"");
    ap_page_free(&page);
}
END_TEST

START_TEST(lines_that_are_no_samples_are_skipped)
{
    static const char *const texts[] = {"", "\n\n", "name", "name{x=\"1\"", "name{x=\"1} 3\n", "{} 1", "name abc", "name{x=\"\\", "=1\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct ap_page page = parse(texts[i]);
        ck_assert_msg(page.count == 0, "%s", texts[i]);
        ap_page_free(&page);
    }
}
END_TEST

START_TEST(sums_and_maxima_choose_by_name_and_label)
{
    struct ap_page page = parse("a{o=\"eu\"} 1\na{o=\"us\"} 5\nab 100\na{o=\"eu\"} 3\n");
    ck_assert_double_eq(ap_page_sum(&page, "a", NULL, NULL, -1), 9);
    ck_assert_double_eq(ap_page_sum(&page, "a", "o", "eu", -1), 4);
    ck_assert_double_eq(ap_page_max(&page, "a", "o", "eu", -1), 3);
    ck_assert_double_eq(ap_page_sum(&page, "none", NULL, NULL, -1), -1);
    ck_assert(ap_page_has_prefix(&page, "ab"));
    ck_assert(!ap_page_has_prefix(&page, "abc"));
    ap_page_free(&page);
}
END_TEST

/* ---- targets -------------------------------------------------------------------------------------------------------- */

START_TEST(targets_come_from_urls_and_configurations)
{
    struct ap_targets t = {0};
    struct ap_err err;
    ck_assert_int_eq(ap_targets_region(&t, "eu", &err), 0);
    ck_assert_int_eq(ap_targets_url(&t, AP_ROLE_CONSUMER, "10.0.0.1:8301/", &err), 0);
    ck_assert_int_eq(ap_targets_url(&t, AP_ROLE_INDEXER, "https://host:8201", &err), 0);
    ck_assert_int_eq(ap_targets_config_text(&t, "conf/us/producer.conf", "# a producer\nregion = us\nregions = eu,us\n  http.listen=0.0.0.0:8102  \n", &err), 0);
    ck_assert_int_eq(ap_targets_config_text(&t, "x.conf", "http.listen = [::1]:9\nregion=ap", &err), 0);
    ck_assert_uint_eq(t.count, 4);
    ck_assert_str_eq(t.list[0].url, "http://10.0.0.1:8301");
    ck_assert_str_eq(t.list[0].region, "eu");
    ck_assert_str_eq(t.list[1].url, "https://host:8201");
    ck_assert_str_eq(t.list[2].url, "http://127.0.0.1:8102");
    ck_assert_str_eq(t.list[2].region, "us");
    ck_assert_int_eq(t.list[2].role, AP_ROLE_PRODUCER);
    ck_assert_str_eq(t.list[3].url, "http://[::1]:9");
    ck_assert_int_eq(t.list[3].role, AP_ROLE_UNKNOWN);
    ap_targets_free(&t);
}
END_TEST

START_TEST(bad_targets_are_named)
{
    struct ap_targets t = {0};
    struct ap_err err;
    ck_assert_int_eq(ap_targets_url(&t, AP_ROLE_CONSUMER, "ftp://x", &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "--consumer"));
    ck_assert_int_eq(ap_targets_url(&t, AP_ROLE_CONSUMER, "", &err), AP_EINVAL);
    ck_assert_int_eq(ap_targets_region(&t, "", &err), AP_EINVAL);
    ck_assert_int_eq(ap_targets_config_text(&t, "some.conf", "region = us\n", &err), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "some.conf"));
    ck_assert_int_eq(ap_targets_config(&t, "/nonexistent/file", &err), AP_EIO);
    ck_assert_uint_eq(t.count, 0);
    ap_targets_free(&t);
}
END_TEST

START_TEST(one_that_does_not_answer_is_down_with_a_reason)
{
    struct ap_targets t = {0};
    struct ap_err err;
    ap_targets_region(&t, "eu", &err);
    ap_targets_url(&t, AP_ROLE_CONSUMER, "127.0.0.1:1", &err); /* tcpmux: nobody */
    ap_targets_fetch(&t, 500);
    ck_assert(!t.list[0].up);
    ck_assert(t.list[0].why[0]);
    json_t *report = ap_report_status(&t);
    ck_assert(json_is_false(json_object_get(report, "well")));
    json_decref(report);
    ap_targets_free(&t);
}
END_TEST

/* ---- reports -------------------------------------------------------------------------------------------------------- */

static void add(struct ap_targets *t, const char *region, enum ap_role role, bool ready, const char *page)
{
    struct ap_err err;
    ap_targets_region(t, region, &err);
    ap_targets_url(t, role, "127.0.0.1:1", &err);
    struct ap_target *last = &t->list[t->count - 1];
    last->up = true;
    last->ready = ready;
    last->page = parse(page);
}

static const char consumer_page[] =
    "replication_lag_seconds{origin=\"eu\",topic=\"vec-mutations\",partition=\"0\"} 0.5\n"
    "replication_lag_seconds{origin=\"eu\",topic=\"vec-mutations\",partition=\"1\"} 12\n"
    "replication_lag_seconds{origin=\"us\",topic=\"vec-mutations\",partition=\"0\"} 0.01\n"
    "antipode_consumer_kafka_lag_records{origin=\"eu\",topic=\"vec-mutations\",partition=\"0\"} 3\n"
    "antipode_consumer_kafka_lag_records{origin=\"eu\",topic=\"vec-mutations\",partition=\"1\"} 4\n"
    "antipode_consumer_dead_letters_total{origin=\"eu\"} 2\nantipode_store_used_bytes 1500000\n";

static double at(const json_t *report, const char *key)
{
    return json_number_value(json_object_get(json_array_get(json_object_get(report, "regions"), 0), key));
}

START_TEST(status_sums_a_region_and_shows_the_worst_lag)
{
    struct ap_targets t = {0};
    add(&t, "us", AP_ROLE_CONSUMER, true, consumer_page);
    json_t *report = ap_report_status(&t), *eu = json_object_get(json_object_get(json_array_get(json_object_get(report, "regions"), 0), "lag"), "eu");
    ck_assert_double_eq(json_number_value(json_object_get(eu, "seconds")), 12);
    ck_assert_double_eq(json_number_value(json_object_get(eu, "records")), 7);
    ck_assert_double_eq(at(report, "dead_letters"), 2);
    ck_assert(json_is_null(json_object_get(json_array_get(json_object_get(report, "regions"), 0), "points"))); /* unknown is not zero */
    ck_assert(json_is_true(json_object_get(report, "well")));
    char text[4096] = "";
    FILE *out = fmemopen(text, sizeof text, "w");
    ap_report_print_status(report, out);
    fclose(out);
    ck_assert_ptr_nonnull(strstr(text, "eu 12.0 s behind (7 records wait here)"));
    ck_assert_ptr_nonnull(strstr(text, "store 1.5 MB"));
    ck_assert_ptr_nonnull(strstr(text, "2 dead letters"));
    json_decref(report);
    ap_targets_free(&t);
}
END_TEST

START_TEST(holes_and_waiting_partitions_are_not_well)
{
    static const char *const pages[] = {"antipode_consumer_hole_records{origin=\"eu\"} 1\n", "antipode_consumer_waiting_schema{origin=\"eu\"} 1\n"};
    for (size_t i = 0; i < 2; i++) {
        struct ap_targets t = {0};
        add(&t, "us", AP_ROLE_CONSUMER, true, pages[i]);
        json_t *report = ap_report_status(&t);
        ck_assert(json_is_false(json_object_get(report, "well")));
        json_decref(report);
        ap_targets_free(&t);
    }
}
END_TEST

START_TEST(lag_lists_every_partition)
{
    struct ap_targets t = {0};
    add(&t, "us", AP_ROLE_CONSUMER, true, consumer_page);
    json_t *report = ap_report_lag(&t), *all = json_object_get(report, "lag");
    ck_assert_uint_eq(json_array_size(all), 3);
    ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(all, 1), "partition")), 1);
    ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(all, 1), "records")), 4);
    ck_assert(json_is_null(json_object_get(json_array_get(all, 2), "records")));
    json_decref(report);
    ap_targets_free(&t);
}
END_TEST

START_TEST(numbers_for_people)
{
    static const struct { double value; const char *seconds, *bytes; } rows[] = {
        {-1, "-", "-"}, {0, "0 ms", "0 B"}, {0.0123, "12 ms", "0 B"}, {5.25, "5.2 s", "5 B"}, {1500, "25 min", "1.5 kB"}, {8000, "2 h 13 min", "8.0 kB"}};
    char text[32];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ap_format_seconds(rows[i].value, text, sizeof text);
        ck_assert_str_eq(text, rows[i].seconds);
        ap_format_bytes(rows[i].value, text, sizeof text);
        ck_assert_str_eq(text, rows[i].bytes);
    }
}
END_TEST

/* ---- records -------------------------------------------------------------------------------------------------------- */

/* Stream 7 of partition 1: the publisher had 100 of it before, and has published up to 120 since. */
START_TEST(what_was_published_is_applied_above_holes)
{
    static const struct { uint64_t mark, first, last, top; int partition; bool more, applied; } cases[] = {
        {120, 0, 0, 0, 1, false, true},     /* no hole: the mark says it */
        {119, 0, 0, 0, 1, false, false},
        {50, 51, 60, 120, 1, false, true},  /* a hole of before, and all behind it */
        {50, 51, 60, 119, 1, false, false}, /* the last has not come */
        {50, 51, 100, 130, 1, false, true},
        {50, 51, 101, 130, 1, false, false}, /* the first that was published is missing, too */
        {50, 120, 125, 130, 1, false, false},
        {50, 121, 125, 130, 1, false, true},
        {50, 51, 60, 130, 2, false, false}, /* another partition's hole says nothing of this one's end */
        {50, 51, 60, 130, 1, true, false},  /* there are holes that are not listed */
        {120, 51, 60, 130, 1, true, true},
    };
    struct ap_token_entry entry = {"vec-mutations", 1, 120};
    struct ap_token token = {{"eu"}, 7, 0, &entry, 1, 7};
    struct ap_published published = {&token, 1, 20};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ap_position had = {.stream = 7, .region = {"eu"}, .topic = "vec-mutations", .partition = 1, .mark = 100}, has = had;
        struct ap_holes publisher = {.list = json_array(), .positions = &had, .position_count = 1};
        struct ap_holes now = {.list = json_array(), .positions = &has, .position_count = 1, .more = cases[i].more};
        has.mark = cases[i].mark;
        if (cases[i].last)
            json_array_append_new(now.list, json_pack("{s:s,s:s,s:s,s:i,s:I,s:I,s:I}", "stream", "0000000000000007", "lineage", "0000000000000007", "topic",
                                                      "vec-mutations", "partition", cases[i].partition, "first", (json_int_t)cases[i].first, "last",
                                                      (json_int_t)cases[i].last, "top", (json_int_t)cases[i].top));
        ck_assert_msg(ap_holes_applied(&now, &publisher, &published) == cases[i].applied, "case %zu", i);
        json_decref(now.list);
        json_decref(publisher.list);
    }
}
END_TEST

START_TEST(topics_say_what_their_records_are)
{
    ck_assert_int_eq(ap_record_kind_of("vec-mutations"), AP_RECORD_MUTATION);
    ck_assert_int_eq(ap_record_kind_of("eu.vec-other"), AP_RECORD_MUTATION);
    ck_assert_int_eq(ap_record_kind_of("eu.vec-control"), AP_RECORD_CONTROL);
    ck_assert_int_eq(ap_record_kind_of("vec-watermarks"), AP_RECORD_WATERMARK);
    ck_assert_int_eq(ap_record_kind_of("raw-vectors"), AP_RECORD_RAW);
    ck_assert_int_eq(ap_record_kind_of("dlq-mutations"), AP_RECORD_DEAD);
}
END_TEST

START_TEST(a_mutation_keeps_every_bit_as_json)
{
    float vector[2] = {1.5f, -2};
    struct ap_mutation m = {.op = AP_OP_UPSERT, .version = {.hlc = ap_hlc_make(1700000000123, 7), .region = {"eu"}, .writer = 0xfedcba9876543210},
                            .stream = 0xfedcba9876543210, .seq = 3, .clock = ap_hlc_make(1700000000123, 7), .vector = (const uint8_t *)vector,
                            .vector_len = sizeof vector, .payload = "{\"a\":1}", .payload_len = 7};
    struct ap_point_id id;
    struct ap_key key;
    ap_point_id_from_u64(42, &id);
    ap_key_make(0x0123456789abcdef, &id, &key);
    json_t *out = ap_describe_mutation(&m, key.b, sizeof key.b, true);
    char *text = json_dumps(out, JSON_COMPACT | JSON_REAL_PRECISION(9));
    ck_assert_str_eq(text, "{\"op\":\"UPSERT\",\"collection\":\"0123456789abcdef\",\"id\":42,\"version\":{\"hlc\":\"1700000000123.7\","
                           "\"time\":\"2023-11-14T22:13:20.123Z\",\"region\":\"eu\",\"writer\":\"fedcba9876543210\"},"
                           "\"position\":{\"stream\":\"fedcba9876543210\",\"seq\":3},\"codec\":null,\"vector_bytes\":8,"
                           "\"vector\":[1.5,-2.0],\"payload\":{\"a\":1}}");
    free(text);
    json_decref(out);

    m.payload = "\xff"; /* no UTF-8, no JSON: still shown */
    m.payload_len = 1;
    m.clock += 65536;
    out = ap_describe_mutation(&m, "odd", 3, false);
    ck_assert_str_eq(json_string_value(json_object_get(out, "payload")), "ff");
    ck_assert_str_eq(json_string_value(json_object_get(out, "key")), "6f6464");
    ck_assert_str_eq(json_string_value(json_object_get(json_object_get(out, "position"), "clock")), "1700000000124.7");
    ck_assert_ptr_null(json_object_get(out, "vector"));
    json_decref(out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ctl");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, samples_have_names_labels_and_values);
    tcase_add_test(tc, escapes_in_labels_are_undone_and_names_are_not_confused);
    tcase_add_test(tc, lines_that_are_no_samples_are_skipped);
    tcase_add_test(tc, sums_and_maxima_choose_by_name_and_label);
    tcase_add_test(tc, targets_come_from_urls_and_configurations);
    tcase_add_test(tc, bad_targets_are_named);
    tcase_add_test(tc, one_that_does_not_answer_is_down_with_a_reason);
    tcase_add_test(tc, status_sums_a_region_and_shows_the_worst_lag);
    tcase_add_test(tc, holes_and_waiting_partitions_are_not_well);
    tcase_add_test(tc, lag_lists_every_partition);
    tcase_add_test(tc, numbers_for_people);
    tcase_add_test(tc, topics_say_what_their_records_are);
    tcase_add_test(tc, a_mutation_keeps_every_bit_as_json);
    tcase_add_test(tc, what_was_published_is_applied_above_holes);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
