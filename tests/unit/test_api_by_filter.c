/* Deletions and payload calls by filter: what the producer is asked to do, page by page, and what the client hears. */
#include <check.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "api_rig.h"
#include "common/watermark.h"
#include "run.h"

static struct api_rig rig;
static uint64_t docs;

static void upsert(uint64_t id, const char *payload)
{
    api_rig_write(&rig, docs, AP_OP_UPSERT, id, (float[]){(float)id, 1, 0, 0}, payload);
}

static void setup(void)
{
    api_rig_open(&rig, NULL);
    docs = api_rig_collection(&rig, "docs", AP_DOT, NULL, 1);
    for (uint64_t id = 1; id <= 9; id++)
        upsert(id, id % 3 ? "{\"g\":\"a\"}" : "{\"g\":\"b\"}");
    rig.mode = RIG_SILENT;
}

static void teardown(void)
{
    api_rig_close(&rig);
}

#define A "\"filter\":{\"must\":{\"key\":\"g\",\"match\":{\"value\":\"a\"}}}"

static struct api_reply call(long status, const char *method, const char *what, const char *body)
{
    char path[128];
    snprintf(path, sizeof path, "/collections/docs/points/%s", what);
    struct api_reply reply = api_rig_call(&rig, method, path, body, NULL);
    ck_assert_msg(reply.status == status, "%s %s: %ld %s", what, body, reply.status, reply.text);
    return reply;
}

static json_int_t points_of(const struct api_reply *reply)
{
    return json_integer_value(json_object_get(json_object_get(reply->json, "result"), "points"));
}

static const char *status_of(const struct api_reply *reply)
{
    return json_string_value(json_object_get(json_object_get(reply->json, "result"), "status"));
}

/* Of what was sent last: element i of a list. */
static json_t *sent(const char *list, size_t i)
{
    static json_t *body;
    json_decref(body);
    body = json_loads(rig.last_text, JSON_REJECT_DUPLICATES, NULL);
    ck_assert_msg(body != NULL, "%s", rig.last_text);
    return json_array_get(json_object_get(body, list), i);
}

static void expect_version(size_t i, uint64_t hlc)
{
    char text[64];
    snprintf(text, sizeof text, "%016" PRIx64 "-us-%016" PRIx64, hlc, rig.stream);
    ck_assert_str_eq(json_string_value(sent("seen", i)), text);
}

START_TEST(what_matches_is_sent_with_its_versions)
{
    uint64_t last = rig.hlc; /* of point 9; 8 is one before */
    struct api_reply reply = call(200, "POST", "delete", "  {" A "}");
    ck_assert_int_eq(points_of(&reply), 6);
    ck_assert_str_eq(status_of(&reply), "acknowledged");
    ck_assert_str_eq(rig.last_path, "/collections/docs/points/delete");
    ck_assert_int_eq(json_integer_value(sent("points", 5)), 8);
    ck_assert_ptr_null(sent("points", 6));
    expect_version(5, last - 1);
    ck_assert_ptr_nonnull(strstr(rig.last_text, A));
    api_reply_free(&reply);
}
END_TEST

START_TEST(a_delete_sees_the_upsert_and_a_payload_call_all_of_it)
{
    uint64_t upserted = rig.hlc - 1; /* point 8 */
    api_rig_write(&rig, docs, AP_OP_PATCH, 8, NULL, "{\"set\":{\"x\":1}}");
    struct api_reply reply = call(200, "POST", "delete", "{\"filter\":{\"must\":{\"key\":\"x\",\"match\":{\"value\":1}}}}");
    ck_assert_int_eq(points_of(&reply), 1);
    expect_version(0, upserted);
    api_reply_free(&reply);
    reply = call(200, "PUT", "payload?wait=true", "{\"payload\":{\"n\":1.10},\"filter\":{\"must\":{\"key\":\"x\",\"match\":{\"value\":1}}}}");
    expect_version(0, rig.hlc);
    ck_assert_str_eq(status_of(&reply), "completed");
    ck_assert_ptr_nonnull(strstr(rig.last_text, "\"payload\":{\"n\":1.10}")); /* digit for digit */
    ck_assert_str_eq(rig.last_query, "wait=false");
    api_reply_free(&reply);
}
END_TEST

START_TEST(pages_shrink_to_what_the_producer_takes)
{
    rig.most_points = 3;
    struct api_reply reply = call(200, "POST", "payload/clear", "{" A "}");
    ck_assert_int_eq(points_of(&reply), 6);
    ck_assert_uint_ge(rig.taken, 2);
    api_reply_free(&reply);
    /* What is too much even for one point is refused as the producer says. */
    rig.most_points = 0;
    rig.mode = RIG_REFUSES;
    reply = call(409, "POST", "payload/clear", "{" A "}");
    ck_assert_ptr_nonnull(strstr(reply.text, "refused by the producer"));
    api_reply_free(&reply);
}
END_TEST

START_TEST(a_failure_says_how_far_it_came)
{
    rig.most_points = 2;
    rig.most_taken = 2;
    struct api_reply reply = call(503, "POST", "delete", "{" A "}");
    ck_assert_msg(strstr(reply.text, "enough for now; ") && strstr(reply.text, " points before it are deleted and acknowledged"), "%s", reply.text);
    ck_assert_int_ge(points_of(&reply), 2);
    ck_assert_int_le(points_of(&reply), 4);
    ck_assert_str_eq(reply.retry_after, "1");
    api_reply_free(&reply);
}
END_TEST

START_TEST(one_token_stands_for_all_pages)
{
    rig.mode = RIG_APPLIES; /* one upsert a page, which the filter does not find */
    rig.most_points = 1;
    struct api_reply reply = call(200, "POST", "delete?wait=true", "{" A "}");
    struct ap_token token;
    ck_assert_int_eq(points_of(&reply), 6);
    ck_assert_str_eq(status_of(&reply), "completed");
    ck_assert_int_eq(ap_token_parse(reply.token, strlen(reply.token), &token, NULL), 0);
    ck_assert_uint_eq(token.count, 1);
    ck_assert_uint_eq(token.entries[0].seq, rig.seq);
    ap_token_fini(&token);
    api_reply_free(&reply);
    rig.mode = RIG_KEEPS;
    reply = call(200, "POST", "delete?wait=true&timeout=1", "{\"filter\":{\"must\":{\"has_id\":[1]}}}");
    ck_assert_str_eq(status_of(&reply), "wait_timeout");
    api_reply_free(&reply);
}
END_TEST

START_TEST(a_filter_without_a_match_still_asks_whether_the_request_is_right)
{
    struct api_reply reply = call(200, "POST", "payload", "{\"payload\":{},\"filter\":{\"must\":{\"has_id\":[77]}}}");
    ck_assert_int_eq(points_of(&reply), 0);
    ck_assert_uint_eq(rig.taken, 1);
    ck_assert_ptr_nonnull(strstr(rig.last_text, "\"points\":[],\"seen\":[],"));
    api_reply_free(&reply);
}
END_TEST

START_TEST(ids_and_what_is_wrong_are_the_producers_business)
{
    static const char *const bodies[] = {"{\"points\":[1,2]}", "{\"points\":[1],\"filter\":null}", "{\"filter\":{}", "{\"filter\":{},\"filter\":{}}",
                                         "{\"points\":[1],\"seen\":[\"x\"],\"filter\":{}}", "{\"payload\":{\"filter\":{}},\"points\":[]}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct api_reply reply = call(200, "POST", "delete", bodies[i]);
        ck_assert_str_eq(rig.last_text, bodies[i]);
        api_reply_free(&reply);
    }
}
END_TEST

START_TEST(what_cannot_be_found_is_refused_before_anything_is_sent)
{
    static const struct { const char *what, *body; long status; } cases[] = {
        {"delete", "{\"filter\":{\"must\":{\"key\":\"g\",\"match\":{\"phrase\":\"a\"}}}}", 400},
        {"delete", "{\"filter\":7}", 400},
        {"delete", "{\"filter\":{},\"points\":[1]}", 400},
        {"delete?wait=perhaps", "{\"filter\":{}}", 400},
        {"delete?level=strong", "{\"filter\":{}}", 400},
        {"payload?timeout=x", "{\"filter\":{}}", 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct api_reply reply = call(cases[i].status, "POST", cases[i].what, cases[i].body);
        api_reply_free(&reply);
    }
    char bad[] = "X-Antipode-Token: ap1.nonsense";
    struct api_reply reply = api_rig_call(&rig, "POST", "/collections/docs/points/delete", "{\"filter\":{}}", bad);
    ck_assert_int_eq(reply.status, 400);
    api_reply_free(&reply);
    reply = api_rig_call(&rig, "POST", "/collections/none/points/delete", "{\"filter\":{}}", NULL);
    ck_assert_int_eq(reply.status, 404);
    api_reply_free(&reply);
    ck_assert_uint_eq(rig.taken, 0);
}
END_TEST

/* With the token of a write that is still to come, the filter is asked when it has come. */
START_TEST(a_token_is_waited_for)
{
    char header[600], *token = api_rig_token(&rig, 0);
    snprintf(header, sizeof header, "X-Antipode-Token: %s", token);
    struct api_reply reply = api_rig_call(&rig, "POST", "/collections/docs/points/delete?timeout=1", "{\"filter\":{}}", header);
    ck_assert_int_eq(reply.status, 503);
    ck_assert_uint_eq(rig.taken, 0);
    api_reply_free(&reply);
    upsert(10, NULL);
    reply = api_rig_call(&rig, "POST", "/collections/docs/points/delete?timeout=1", "{\"filter\":{}}", header);
    ck_assert_int_eq(points_of(&reply), 10);
    ck_assert_str_eq(rig.last_token, token);
    api_reply_free(&reply);
    free(token);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("api_by_filter");
    TCase *t = tcase_create("by_filter");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, what_matches_is_sent_with_its_versions);
    tcase_add_test(t, a_delete_sees_the_upsert_and_a_payload_call_all_of_it);
    tcase_add_test(t, pages_shrink_to_what_the_producer_takes);
    tcase_add_test(t, a_failure_says_how_far_it_came);
    tcase_add_test(t, one_token_stands_for_all_pages);
    tcase_add_test(t, a_filter_without_a_match_still_asks_whether_the_request_is_right);
    tcase_add_test(t, ids_and_what_is_wrong_are_the_producers_business);
    tcase_add_test(t, what_cannot_be_found_is_refused_before_anything_is_sent);
    tcase_add_test(t, a_token_is_waited_for);
    suite_add_tcase(s, t);
    return run_suite(s);
}
