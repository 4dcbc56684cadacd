/* The indexer's API over its port: a real store and index behind it, a producer of the test's own. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "api_rig.h"
#include <pthread.h>
#include "common/http.h"
#include "common/timeutil.h"
#include "patience.h"
#include "run.h"

static struct api_rig rig;
static uint64_t docs;

/* Unit vectors at these angles to (1,0,0,0), in the plane of the first two. */
static void vector_at(double degrees, float *out)
{
    out[0] = (float)cos(degrees * M_PI / 180);
    out[1] = (float)sin(degrees * M_PI / 180);
    out[2] = out[3] = 0;
}

static void upsert(uint64_t collection, uint64_t id, double degrees, const char *payload)
{
    float v[RIG_DIM];
    vector_at(degrees, v);
    api_rig_write(&rig, collection, AP_OP_UPSERT, id, v, payload);
}

static void setup(void)
{
    api_rig_open(&rig, "max_limit = 50\nmax_batch = 3\n");
    docs = api_rig_collection(&rig, "docs", AP_COSINE, NULL, 1);
    upsert(docs, 1, 0, "{\"name\":\"one\",\"n\":1,\"o\":{\"x\":1,\"y\":[1.50,\"\\u00e4\"]}}");
    upsert(docs, 2, 10, "{\"name\":\"two\",\"n\":2}");
    upsert(docs, 3, 20, "{\"name\":\"three\",\"n\":3}");
    upsert(docs, 4, 90, NULL);
    upsert(docs, 5, 180, "{\"name\":\"five\",\"n\":5}");
}

static void teardown(void)
{
    api_rig_close(&rig);
}

/* --- asking --- */

static json_t *ask(const char *method, const char *path, const char *body)
{
    struct api_reply reply = api_rig_call(&rig, method, path, body, NULL);
    ck_assert_msg(reply.status == 200, "%s %s %s: %ld %s", method, path, body ? body : "", reply.status, reply.text);
    ck_assert_str_eq(json_string_value(json_object_get(reply.json, "status")), "ok");
    ck_assert(json_is_real(json_object_get(reply.json, "time")));
    json_t *result = json_incref(json_object_get(reply.json, "result"));
    api_reply_free(&reply);
    return result;
}

static void refused(long status, const char *says, const char *method, const char *path, const char *body, const char *header)
{
    struct api_reply reply = api_rig_call(&rig, method, path, body, header);
    const char *error = json_string_value(json_object_get(json_object_get(reply.json, "status"), "error"));
    ck_assert_msg(reply.status == status, "%s %s %s: %ld %s", method, path, body ? body : "", reply.status, reply.text);
    ck_assert_msg(error && strstr(error, says), "%s %s %s: %s", method, path, body ? body : "", reply.text);
    if (status == 503)
        ck_assert_str_ne(reply.retry_after, "");
    api_reply_free(&reply);
}

/* Ids of a list of points as text: "3 1 2". */
static const char *ids_of(const json_t *points)
{
    static char text[512];
    size_t i, n = 0;
    json_t *p;
    text[0] = 0;
    ck_assert(json_is_array(points));
    json_array_foreach(points, i, p) {
        json_t *id = json_object_get(p, "id");
        if (json_is_integer(id))
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", i ? " " : "", (long long)json_integer_value(id));
        else
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? " " : "", json_string_value(id));
    }
    return text;
}

static void expect_ids(const char *expected, const char *path, const char *body, const char *member)
{
    json_t *result = ask("POST", path, body);
    const char *got = ids_of(member ? json_object_get(result, member) : result);
    ck_assert_msg(!strcmp(got, expected), "%s %s: %s instead of %s", path, body, got, expected);
    json_decref(result);
}

static void expect_hits(const char *expected, const char *body)
{
    expect_ids(expected, "/collections/docs/points/query", body, "points");
}

static const json_t *at(const json_t *value, const char *key)
{
    const json_t *found = json_object_get(value, key);
    ck_assert_msg(found != NULL, "no %s", key);
    return found;
}

/* --- queries --- */

START_TEST(query_by_vector)
{
    expect_hits("1 2 3 4 5", "{\"query\":[1,0,0,0]}");
    expect_hits("1 2", "{\"query\":{\"nearest\":[2.5,0.0,0.0,0.0]},\"limit\":2,\"with_payload\":true}");
    expect_hits("5", "{\"query\":[-1,0,0,0],\"limit\":1}");
    expect_hits("3 4", "{\"query\":[1,0,0,0],\"limit\":2,\"offset\":2}");
    expect_hits("", "{\"query\":[1,0,0,0],\"offset\":9}");
    expect_hits("1 2 3", "{\"query\":[1,0,0,0],\"score_threshold\":0.9}");
    expect_hits("3 5", "{\"query\":[1,0,0,0],\"filter\":{\"must\":[{\"key\":\"n\",\"range\":{\"gte\":3}}]}}");
    expect_hits("2 1 3", "{\"query\":[0.985,0.1736,0,0],\"limit\":3,\"params\":{\"exact\":true}}");
    expect_hits("1 2 3", "{\"query\":[1,0,0,0],\"limit\":3,\"params\":{\"hnsw_ef\":64,\"quantization\":{\"oversampling\":3.0,\"rescore\":true}},\"using\":\"\"}");
    expect_hits("1 2 3 4 5", "{}");
    expect_hits("3 5", "{\"filter\":{\"must\":[{\"key\":\"n\",\"range\":{\"gte\":3}}]}}");
}
END_TEST

START_TEST(query_by_point)
{
    expect_hits("1 3 4 5", "{\"query\":2}");
    expect_hits("1 3", "{\"query\":{\"nearest\":2},\"limit\":2}");
    refused(404, "No point with id 99", "POST", "/collections/docs/points/query", "{\"query\":99}", NULL);
}
END_TEST

START_TEST(hits_carry_what_was_asked_for)
{
    int64_t before = ap_wall_ms();
    upsert(docs, 1, 0, "{\"name\":\"one\",\"n\":1,\"o\":{\"x\":1,\"y\":[1.50,\"\\u00e4\"]}}");
    json_t *result = ask("POST", "/collections/docs/points/query", "{\"query\":[1,0,0,0],\"limit\":1,\"with_payload\":true,\"with_vector\":true}");
    const json_t *hit = json_array_get(at(result, "points"), 0);
    ck_assert(json_is_real(at(hit, "score")) && fabs(json_real_value(at(hit, "score")) - 1) < 1e-6);
    json_int_t version = json_integer_value(at(hit, "version"));
    ck_assert(version < INT64_C(1) << 53);
    ck_assert(version / 2048 >= before - 1000000 && version / 2048 <= ap_wall_ms() + 1000000);
    ck_assert_uint_eq(json_array_size(at(hit, "vector")), 4);
    for (size_t i = 0; i < 4; i++)
        ck_assert(json_is_real(json_array_get(at(hit, "vector"), i)));
    json_decref(result);

    struct api_reply reply = api_rig_call(&rig, "POST", "/collections/docs/points/query", "{\"query\":[1,0,0,0],\"limit\":1,\"with_payload\":true,\"with_vector\":true}", NULL);
    ck_assert_msg(strstr(reply.text, "\"payload\":{\"name\":\"one\",\"n\":1,\"o\":{\"x\":1,\"y\":[1.50,\"\\u00e4\"]}}"), "%s", reply.text); /* byte by byte */
    ck_assert_msg(strstr(reply.text, "\"vector\":[1.0,0.0,0.0,0.0]"), "%s", reply.text);
    api_reply_free(&reply);

    result = ask("POST", "/collections/docs/points/query", "{\"query\":[1,0,0,0],\"limit\":1}");
    hit = json_array_get(at(result, "points"), 0);
    ck_assert_ptr_null(json_object_get(hit, "payload"));
    ck_assert_ptr_null(json_object_get(hit, "vector"));
    json_decref(result);

    result = ask("POST", "/collections/docs/points/query", "{\"query\":[1,0,0,0],\"limit\":1,\"with_payload\":[\"n\",\"o.y\"],\"with_vector\":[\"\"]}");
    hit = json_array_get(at(result, "points"), 0);
    json_t *expected = json_loads("{\"n\":1,\"o\":{\"y\":[1.5,\"\\u00e4\"]}}", 0, NULL);
    ck_assert(json_equal(at(hit, "payload"), expected));
    ck_assert_uint_eq(json_array_size(at(hit, "vector")), 4);
    json_decref(expected);
    json_decref(result);

    result = ask("POST", "/collections/docs/points/query", "{\"query\":[0,1,0,0],\"limit\":1,\"with_payload\":{\"exclude\":[\"n\"]}}");
    ck_assert_uint_eq(json_object_size(at(json_array_get(at(result, "points"), 0), "payload")), 0); /* a point without payload */
    json_decref(result);
}
END_TEST

/* A row that something else than our producer wrote: its payload must not spoil the answer. */
START_TEST(a_broken_payload_is_left_out)
{
    static const char *const broken[] = {"{\"a\":", "[1]", "{} {}", "{\"a\":\"\xff\"}", "nonsense"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        upsert(docs, 1, 0, broken[i]);
        expect_hits("1 2", "{\"query\":[1,0,0,0],\"limit\":2,\"with_payload\":true}");
        json_t *result = ask("GET", "/collections/docs/points/1", NULL);
        ck_assert_uint_eq(json_object_size(at(result, "payload")), 0);
        ck_assert(json_is_object(at(result, "payload")));
        json_decref(result);
        expect_ids("2", "/collections/docs/points/scroll", "{\"filter\":{\"must\":[{\"key\":\"n\",\"range\":{\"lt\":3}}]}}", "points");
    }
}
END_TEST

/* A query after a write sees the newer version, which is greater. */
START_TEST(versions_rise)
{
    json_int_t last = 0;
    for (int i = 0; i < 3; i++) {
        rig.hlc += 65536;
        upsert(docs, 1, i, "{}");
        json_t *result = ask("POST", "/collections/docs/points/query", "{\"query\":[1,0,0,0],\"limit\":1}");
        json_int_t version = json_integer_value(at(json_array_get(at(result, "points"), 0), "version"));
        ck_assert_int_gt(version, last);
        last = version;
        json_decref(result);
    }
}
END_TEST

START_TEST(searches_and_batches)
{
    static const char search[] = "/collections/docs/points/search";
    expect_ids("1 2", search, "{\"vector\":[1,0,0,0],\"limit\":2}", NULL);
    expect_ids("5", search, "{\"vector\":{\"name\":\"\",\"vector\":[-1,0,0,0]},\"limit\":1,\"with_payload\":true,\"with_vector\":true}", NULL);
    json_t *result = ask("POST", "/collections/docs/points/query/batch", "{\"searches\":[{\"query\":[1,0,0,0],\"limit\":1},{\"query\":5,\"limit\":1},{\"limit\":2}]}");
    ck_assert_uint_eq(json_array_size(result), 3);
    ck_assert_str_eq(ids_of(at(json_array_get(result, 0), "points")), "1");
    ck_assert_str_eq(ids_of(at(json_array_get(result, 1), "points")), "4");
    ck_assert_str_eq(ids_of(at(json_array_get(result, 2), "points")), "1 2");
    json_decref(result);
    result = ask("POST", "/collections/docs/points/search/batch", "{\"searches\":[{\"vector\":[1,0,0,0],\"limit\":1},{\"vector\":[-1,0,0,0],\"limit\":1}]}");
    ck_assert_str_eq(ids_of(json_array_get(result, 1)), "5");
    json_decref(result);
    refused(400, "searches[1]", "POST", "/collections/docs/points/query/batch", "{\"searches\":[{\"query\":[1,0,0,0]},{\"query\":[1,0]}]}", NULL);
    refused(400, "max_batch", "POST", "/collections/docs/points/query/batch", "{\"searches\":[{},{},{},{}]}", NULL);
}
END_TEST

START_TEST(bad_queries)
{
    static const char path[] = "/collections/docs/points/query";
    refused(400, "expected dim: 4, got 3", "POST", path, "{\"query\":[1,0,0]}", NULL);
    refused(400, "zero vector", "POST", path, "{\"query\":[0,0,0,0]}", NULL);
    refused(400, "Not existing vector name error: text", "POST", path, "{\"query\":[1,0,0,0],\"using\":\"text\"}", NULL);
    refused(400, "Not existing vector name error: text", "POST", path, "{\"query\":[1,0,0,0],\"with_vector\":[\"text\"]}", NULL);
    refused(400, "from 1 to 50", "POST", path, "{\"query\":[1,0,0,0],\"limit\":51}", NULL);
    refused(400, "line 1 column", "POST", path, "{\"query\":[1,0,0,0],}", NULL);
    refused(400, "query.fusion", "POST", path, "{\"query\":{\"fusion\":\"rrf\"}}", NULL);
    refused(404, "Collection `none` doesn't exist!", "POST", "/collections/none/points/query", "{\"query\":[1,0,0,0]}", NULL);
    refused(400, "points/recommend is not supported", "POST", "/collections/docs/points/recommend", "{}", NULL);
    refused(400, "points/query/groups is not supported", "POST", "/collections/docs/points/query/groups", "{}", NULL);
    refused(400, "facet is not supported", "POST", "/collections/docs/facet", "{}", NULL);
    refused(405, "not allowed", "GET", "/collections/docs/points/1/2", NULL, NULL);
    refused(404, "unknown path", "GET", "/collections/docs/points/1/2/3/4", NULL, NULL);
    refused(400, "consistency=majority", "POST", "/collections/docs/points/query?consistency=majority", "{\"query\":[1,0,0,0]}", NULL);
    refused(400, "consistency=2", "POST", "/collections/docs/points/query?consistency=2", "{\"query\":[1,0,0,0]}", NULL);
    refused(400, "timeout=x", "POST", "/collections/docs/points/query?timeout=x", "{\"query\":[1,0,0,0]}", NULL);
    json_decref(ask("POST", "/collections/docs/points/query?consistency=1&timeout=3", "{\"query\":[1,0,0,0]}"));
}
END_TEST

START_TEST(distances)
{
    uint64_t euclid = api_rig_collection(&rig, "euclid", AP_EUCLID, NULL, 1), dot = api_rig_collection(&rig, "dot", AP_DOT, "text", 1);
    api_rig_write(&rig, euclid, AP_OP_UPSERT, 1, (float[]){3, 0, 0, 0}, NULL);
    api_rig_write(&rig, euclid, AP_OP_UPSERT, 2, (float[]){0, 1, 0, 0}, NULL);
    api_rig_write(&rig, dot, AP_OP_UPSERT, 1, (float[]){3, 0, 0, 0}, NULL);
    api_rig_write(&rig, dot, AP_OP_UPSERT, 2, (float[]){0, 1, 0, 0}, NULL);
    json_t *result = ask("POST", "/collections/euclid/points/query", "{\"query\":[0,0,0,0]}");
    ck_assert_str_eq(ids_of(at(result, "points")), "2 1");
    ck_assert(fabs(json_real_value(at(json_array_get(at(result, "points"), 1), "score")) - 3) < 1e-6);
    json_decref(result);
    expect_ids("2", "/collections/euclid/points/query", "{\"query\":[0,0,0,0],\"score_threshold\":2.0}", "points");
    result = ask("POST", "/collections/dot/points/query", "{\"query\":[2,1,0,0],\"using\":\"text\",\"with_vector\":true}");
    ck_assert_str_eq(ids_of(at(result, "points")), "1 2");
    ck_assert(fabs(json_real_value(at(json_array_get(at(result, "points"), 0), "score")) - 6) < 1e-6);
    ck_assert_uint_eq(json_array_size(at(at(json_array_get(at(result, "points"), 0), "vector"), "text")), 4);
    json_decref(result);
    refused(400, "Not existing vector name error: ", "POST", "/collections/dot/points/query", "{\"query\":[1,0,0,0]}", NULL);
}
END_TEST

/* --- points --- */

START_TEST(retrieve_points)
{
    json_t *result = ask("POST", "/collections/docs/points", "{\"ids\":[3,1,99],\"with_vector\":true}");
    ck_assert_str_eq(ids_of(result), "3 1");
    ck_assert_str_eq(json_string_value(at(at(json_array_get(result, 0), "payload"), "name")), "three");
    ck_assert_uint_eq(json_array_size(at(json_array_get(result, 0), "vector")), 4);
    json_decref(result);
    result = ask("POST", "/collections/docs/points", "{\"ids\":[],\"with_payload\":false}");
    ck_assert_uint_eq(json_array_size(result), 0);
    json_decref(result);
    result = ask("GET", "/collections/docs/points/2", NULL);
    ck_assert_int_eq(json_integer_value(at(result, "id")), 2);
    ck_assert_uint_eq(json_array_size(at(result, "vector")), 4);
    json_decref(result);
    refused(404, "id 99", "GET", "/collections/docs/points/99", NULL, NULL);
    refused(400, "abc", "GET", "/collections/docs/points/abc", NULL, NULL);
    refused(400, "ids", "POST", "/collections/docs/points", "{}", NULL);
}
END_TEST

START_TEST(scroll_page_by_page)
{
    static const char path[] = "/collections/docs/points/scroll";
    json_t *result = ask("POST", path, "{\"limit\":2}");
    ck_assert_str_eq(ids_of(at(result, "points")), "1 2");
    ck_assert_int_eq(json_integer_value(at(result, "next_page_offset")), 3);
    json_decref(result);
    result = ask("POST", path, "{\"limit\":3,\"offset\":3,\"with_payload\":[\"n\"],\"with_vector\":true}");
    ck_assert_str_eq(ids_of(at(result, "points")), "3 4 5");
    ck_assert(json_is_null(at(result, "next_page_offset")));
    json_decref(result);
    result = ask("POST", path, "{\"limit\":1,\"filter\":{\"must_not\":[{\"key\":\"n\",\"match\":{\"any\":[1,2]}}]}}");
    ck_assert_str_eq(ids_of(at(result, "points")), "3");
    ck_assert_int_eq(json_integer_value(at(result, "next_page_offset")), 4);
    json_decref(result);
    expect_ids("2 5", path, "{\"limit\":50,\"filter\":{\"must\":[{\"has_id\":[5,2,98]}]}}", "points");
    expect_ids("5", path, "{\"limit\":50,\"offset\":3,\"filter\":{\"must\":[{\"has_id\":[5,2,98]}]}}", "points");
    expect_ids("5", path, "{\"limit\":50,\"filter\":{\"must\":[{\"has_id\":[5,4,98]},{\"key\":\"name\",\"match\":{\"value\":\"five\"}}]}}", "points");
    refused(400, "order_by", "POST", path, "{\"order_by\":\"n\"}", NULL);
}
END_TEST

static json_int_t count(const char *body)
{
    json_t *result = ask("POST", "/collections/docs/points/count", body);
    json_int_t n = json_integer_value(at(result, "count"));
    json_decref(result);
    return n;
}

START_TEST(counts)
{
    ck_assert_int_eq(count("{}"), 5);
    ck_assert_int_eq(count("{\"exact\":false}"), 5);
    ck_assert_int_eq(count("{\"filter\":{\"must\":[{\"key\":\"n\",\"range\":{\"gt\":1}}]}}"), 3);
    ck_assert_int_eq(count("{\"filter\":{\"must_not\":[{\"has_id\":[1]}]}}"), 4);
    ck_assert_int_eq(count("{\"filter\":{\"must\":[{\"has_id\":[1,99]}]}}"), 1);
}
END_TEST

START_TEST(deletes_and_patches_show)
{
    api_rig_write(&rig, docs, AP_OP_DELETE, 2, NULL, NULL);
    expect_hits("1 3", "{\"query\":[1,0,0,0],\"limit\":2}");
    ck_assert_int_eq(count("{}"), 4);
    refused(404, "id 2", "GET", "/collections/docs/points/2", NULL, NULL);
}
END_TEST

/* --- collections and the server --- */

START_TEST(root_says_who_it_is)
{
    struct api_reply reply = api_rig_call(&rig, "GET", "/", NULL, NULL);
    ck_assert_int_eq(reply.status, 200);
    ck_assert_str_eq(json_string_value(at(reply.json, "version")), "1.18.0");
    ck_assert(json_is_string(at(reply.json, "title")));
    api_reply_free(&reply);
}
END_TEST

START_TEST(collections_are_told)
{
    api_rig_collection(&rig, "another", AP_DOT, "", 1);
    json_t *result;
    int64_t deadline = patience_ns();
    for (;; json_decref(result)) {
        result = ask("GET", "/collections", NULL);
        if (json_array_size(at(result, "collections")) == 2)
            break;
        ck_assert(ap_mono_ns() < deadline);
    }
    ck_assert_str_eq(json_string_value(at(json_array_get(at(result, "collections"), 0), "name")), "another");
    json_decref(result);
    result = ask("GET", "/collections/docs/", NULL);
    ck_assert_str_eq(json_string_value(at(result, "status")), "green");
    ck_assert_str_eq(json_string_value(at(result, "optimizer_status")), "ok");
    ck_assert_int_eq(json_integer_value(at(result, "points_count")), 5);
    ck_assert_int_ge(json_integer_value(at(result, "segments_count")), 1);
    ck_assert(json_is_object(at(result, "payload_schema")));
    const json_t *config = at(result, "config");
    ck_assert_int_eq(json_integer_value(at(at(at(config, "params"), "vectors"), "size")), 4);
    ck_assert_str_eq(json_string_value(at(at(at(config, "params"), "vectors"), "distance")), "Cosine");
    ck_assert(json_is_integer(at(at(config, "hnsw_config"), "m")) && json_is_integer(at(at(config, "hnsw_config"), "ef_construct")) &&
              json_is_integer(at(at(config, "hnsw_config"), "full_scan_threshold")));
    ck_assert(json_is_integer(at(at(config, "optimizer_config"), "default_segment_number")) && json_is_integer(at(at(config, "optimizer_config"), "flush_interval_sec")));
    ck_assert_str_eq(json_string_value(at(at(at(config, "metadata"), "antipode"), "codec")), "none");
    json_decref(result);
    result = ask("GET", "/collections/another", NULL);
    ck_assert_int_eq(json_integer_value(at(at(at(at(at(result, "config"), "params"), "vectors"), ""), "size")), 4);
    json_decref(result);
    refused(404, "`none`", "GET", "/collections/none", NULL, NULL);
    result = ask("GET", "/collections/docs/exists", NULL);
    ck_assert(json_is_true(at(result, "exists")));
    json_decref(result);
    result = ask("GET", "/collections/none/exists", NULL);
    ck_assert(json_is_false(at(result, "exists")));
    json_decref(result);
}
END_TEST

START_TEST(metrics_are_there)
{
    json_decref(ask("POST", "/collections/docs/points/query", "{\"query\":[1,0,0,0]}"));
    struct api_reply reply = api_rig_call(&rig, "GET", "/metrics", NULL, NULL);
    static const char *const lines[] = {"vector_search_query_latency_seconds_count 1\n", "search_latency_seconds_count 1\n",
        "antipode_index_points{collection=\"docs\"} 5\n", "antipode_collection_ready{collection=\"docs\"} 1\n", "antipode_ready 1\n", "antipode_index_visible_slot ",
        "antipode_waits_total{for=\"read\",level=\"session\",result=\"timeout\"} 0\n", "antipode_http_requests_total{route=\"query\",code=\"2xx\"} 1\n", "index_refresh_time_count"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        ck_assert_msg(strstr(reply.text, lines[i]), "%s is not in\n%s", lines[i], reply.text);
    api_reply_free(&reply);
}
END_TEST

/* --- session reads --- */

static void with_token(const char *token, long status, const char *says, const char *path)
{
    char header[600];
    snprintf(header, sizeof header, "X-Antipode-Token: %s", token);
    if (status != 200) {
        refused(status, says, "POST", path, "{\"query\":[1,0,0,0]}", header);
        return;
    }
    struct api_reply reply = api_rig_call(&rig, "POST", path, "{\"query\":[1,0,0,0],\"limit\":1,\"with_payload\":true}", header);
    ck_assert_msg(reply.status == 200 && strstr(reply.text, says), "%s", reply.text);
    api_reply_free(&reply);
}

static void *write_later(void *arg)
{
    struct timespec nap = {.tv_nsec = 100000000};
    nanosleep(&nap, NULL);
    (void)arg;
    api_rig_write(&rig, docs, AP_OP_UPSERT, 6, (float[]){1, 0, 0.01f, 0}, "{\"late\":true}");
    return NULL;
}

START_TEST(session_reads_wait)
{
    pthread_t thread;
    char *token = api_rig_token(&rig, 0);
    with_token(token, 503, "region us, topic vec-mutations, partition 0, record 6 of stream", "/collections/docs/points/query?timeout=1");
    api_rig_write(&rig, docs, AP_OP_DELETE, 1, NULL, NULL);
    api_rig_write(&rig, docs, AP_OP_DELETE, 2, NULL, NULL);
    with_token(token, 200, "three", "/collections/docs/points/query?timeout=1");
    free(token);
    token = api_rig_token(&rig, 0);
    pthread_create(&thread, NULL, write_later, NULL);
    with_token(token, 200, "{\"late\":true}", "/collections/docs/points/query");
    pthread_join(thread, NULL);
    free(token);
    with_token("ap1.nonsense", 400, "X-Antipode-Token", "/collections/docs/points/query");
}
END_TEST

/* --- writes --- */

static struct api_reply write_points(const char *query)
{
    char path[128];
    snprintf(path, sizeof path, "/collections/docs/points%s", query);
    return api_rig_call(&rig, "PUT", path, "{\"points\":[]}", NULL);
}

static void expect_write(const char *query, const char *status, const char *forwarded)
{
    struct api_reply reply = write_points(query);
    ck_assert_msg(reply.status == 200, "%s", reply.text);
    const json_t *result = at(reply.json, "result");
    ck_assert_msg(!strcmp(json_string_value(at(result, "status")), status), "%s: %s", query, reply.text);
    ck_assert_int_eq(json_integer_value(at(result, "operation_id")), 42);
    ck_assert_str_eq(rig.last_query, forwarded);
    ck_assert_str_eq(rig.last_path, "/collections/docs/points");
    ck_assert_uint_eq(rig.last_body, 13);
    ck_assert((rig.mode == RIG_SILENT) == !*reply.token);
    api_reply_free(&reply);
}

START_TEST(writes_are_passed_on)
{
    expect_write("", "acknowledged", ""); /* as the producer's write_level says */
    expect_write("?wait=false", "acknowledged", "wait=false");
    expect_write("?ordering=weak&wait=true&timeout=5", "completed", "ordering=weak&timeout=5&wait=false");
    rig.mode = RIG_KEEPS;
    int64_t start = ap_mono_ms();
    expect_write("?wait=true&timeout=1", "wait_timeout", "timeout=1&wait=false");
    ck_assert_int_ge(ap_mono_ms() - start, 950);
    expect_write("?wait=false", "acknowledged", "wait=false");
    rig.mode = RIG_SILENT;
    expect_write("?wait=true", "completed", "wait=false");
    rig.mode = RIG_REFUSES;
    refused(409, "refused by the producer", "PUT", "/collections/docs/points?wait=true", "{}", NULL);
    refused(400, "wait=yes", "PUT", "/collections/docs/points?wait=yes", "{}", NULL);
    refused(400, "timeout=0", "PUT", "/collections/docs/points?timeout=0", "{}", NULL);
}
END_TEST

START_TEST(a_completed_write_is_seen)
{
    for (int i = 0; i < 6; i++) {
        rig.mode = i % 2 ? RIG_APPLIES : RIG_LATER;
        struct api_reply reply = api_rig_call(&rig, "POST", "/collections/docs/points/payload?wait=true", "{\"payload\":{}}", NULL);
        ck_assert_int_eq(reply.status, 200);
        api_reply_free(&reply);
        json_t *result = ask("GET", "/collections/docs/points/777", NULL);
        ck_assert_str_eq(json_string_value(at(at(result, "payload"), "from")), "producer");
        json_decref(result);
        api_rig_write(&rig, docs, AP_OP_DELETE, 777, NULL, NULL);
    }
}
END_TEST

START_TEST(unknown_writes_are_the_producers_business)
{
    refused(404, "unknown path", "POST", "/collections/docs/points/vectors/delete", "{}", NULL);
    refused(404, "unknown path", "PATCH", "/collections/docs/whatever", "{}", NULL);
    refused(405, "not allowed", "PATCH", "/collections/docs", "{}", NULL);
    refused(404, "unknown path", "POST", "/collections/docs/1/2/3/4", "{}", NULL);
    char header[] = "X-Antipode-Token: ap1.whatever";
    struct api_reply reply = api_rig_call(&rig, "PUT", "/collections/docs/points", "{\"points\":[]}", header);
    ck_assert_str_eq(rig.last_token, "ap1.whatever");
    api_reply_free(&reply);
}
END_TEST

START_TEST(collections_come_and_go)
{
    json_decref(ask("PUT", "/collections/fresh", "{}"));
    json_decref(ask("GET", "/collections/fresh", NULL));
    json_decref(ask("DELETE", "/collections/docs", NULL));
    refused(404, "`docs`", "GET", "/collections/docs", NULL, NULL);
    json_decref(ask("PUT", "/collections/docs", "{}")); /* generation 2: another collection */
    json_t *result = ask("GET", "/collections/docs", NULL);
    ck_assert_int_eq(json_integer_value(at(result, "points_count")), 0);
    ck_assert_int_eq(json_integer_value(at(at(result, "antipode"), "generation")), 2);
    json_decref(result);
    rig.mode = RIG_LATER;
    json_decref(ask("PUT", "/collections/slow", "{}"));
    json_decref(ask("GET", "/collections/slow", NULL));
    rig.mode = RIG_KEEPS;
    refused(503, "do not show it yet", "PUT", "/collections/never?timeout=1", "{}", NULL);
    refused(503, "do not show it yet", "DELETE", "/collections/docs?timeout=1", NULL, NULL);
    json_decref(ask("DELETE", "/collections/none", NULL));
    rig.mode = RIG_REFUSES;
    refused(409, "already exists", "PUT", "/collections/docs", "{}", NULL);
}
END_TEST

/* The producer knows that the first one is gone before this region's index does: the second is waited for all the same. */
START_TEST(created_again_while_the_first_still_shows)
{
    rig.mode = RIG_LATER;
    json_decref(ask("PUT", "/collections/docs", "{}"));
    json_t *result = ask("GET", "/collections/docs", NULL);
    ck_assert_int_eq(json_integer_value(at(at(result, "antipode"), "generation")), 2);
    json_decref(result);
}
END_TEST

START_TEST(dropped_after_a_moment)
{
    rig.mode = RIG_LATER;
    json_decref(ask("DELETE", "/collections/docs", NULL));
    refused(404, "`docs`", "GET", "/collections/docs", NULL, NULL);
}
END_TEST

START_TEST(bulk_goes_through_in_pieces)
{
    size_t len = 3 << 20; /* over the producer's and our limit for buffered bodies */
    char *body = malloc(len + 1);
    uint64_t sum = 0;
    for (size_t i = 0; i < len; i++) {
        body[i] = (char)('a' + (i * 7 + i / 1000) % 26);
        sum = sum * 31 + (unsigned char)body[i];
    }
    body[len] = 0;
    struct api_reply reply = api_rig_call(&rig, "POST", "/collections/docs/points/bulk?wait=true", body, "Expect:");
    ck_assert_msg(reply.status == 200, "%s", reply.text);
    ck_assert_str_eq(json_string_value(at(at(reply.json, "result"), "status")), "completed");
    ck_assert_uint_eq(rig.last_body, len);
    ck_assert_uint_eq(rig.last_sum, sum);
    ck_assert_str_eq(rig.last_query, "wait=false");
    api_reply_free(&reply);
    rig.mode = RIG_REFUSES;
    refused(400, "refused before the body", "POST", "/collections/docs/points/bulk", body, "Expect:");
    free(body);
}
END_TEST

START_TEST(producer_away)
{
    ap_http_stop(&rig.producer);
    refused(503, "cannot reach the producer", "PUT", "/collections/docs/points?wait=true", "{\"points\":[]}", NULL);
    refused(503, "cannot reach the producer", "PUT", "/collections/other", "{}", NULL);
    refused(503, "cannot reach the producer", "POST", "/collections/docs/points/bulk", "{}", NULL);
    expect_hits("1", "{\"query\":[1,0,0,0],\"limit\":1}");
    struct api_reply reply = api_rig_call(&rig, "GET", "/readyz", NULL, NULL);
    ck_assert_int_eq(reply.status, 200);
    ck_assert_ptr_nonnull(strstr(reply.text, "cannot reach the producer"));
    api_reply_free(&reply);
}
END_TEST

/* --- before there is an index --- */

START_TEST(before_the_index)
{
    struct api_reply reply;
    api_rig_begin(&rig, NULL);
    ap_api_set_state(rig.api, "waiting for something");
    refused(503, "waiting for something", "GET", "/collections", NULL, NULL);
    refused(503, "waiting for something", "POST", "/collections/docs/points/query", "{}", NULL);
    reply = api_rig_call(&rig, "GET", "/readyz", NULL, NULL);
    ck_assert_int_eq(reply.status, 503);
    ck_assert_ptr_nonnull(strstr(reply.text, "waiting for something"));
    api_reply_free(&reply);
    reply = api_rig_call(&rig, "GET", "/livez", NULL, NULL);
    ck_assert_int_eq(reply.status, 200);
    api_reply_free(&reply);
    reply = api_rig_call(&rig, "GET", "/metrics", NULL, NULL);
    ck_assert_ptr_nonnull(strstr(reply.text, "antipode_ready 0\n"));
    api_reply_free(&reply);
    api_rig_attach(&rig);
    int64_t deadline = patience_ns();
    do {
        reply = api_rig_call(&rig, "GET", "/readyz", NULL, NULL);
        long status = reply.status;
        api_reply_free(&reply);
        if (status == 200)
            break;
    } while (ap_mono_ns() < deadline);
    ck_assert(ap_mono_ns() < deadline);
    api_rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_http");
    TCase *tc = tcase_create("with an index"), *early = tcase_create("without");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_set_timeout(early, 60);
    tcase_add_test(tc, query_by_vector);
    tcase_add_test(tc, query_by_point);
    tcase_add_test(tc, hits_carry_what_was_asked_for);
    tcase_add_test(tc, a_broken_payload_is_left_out);
    tcase_add_test(tc, versions_rise);
    tcase_add_test(tc, searches_and_batches);
    tcase_add_test(tc, bad_queries);
    tcase_add_test(tc, distances);
    tcase_add_test(tc, retrieve_points);
    tcase_add_test(tc, scroll_page_by_page);
    tcase_add_test(tc, counts);
    tcase_add_test(tc, deletes_and_patches_show);
    tcase_add_test(tc, root_says_who_it_is);
    tcase_add_test(tc, collections_are_told);
    tcase_add_test(tc, metrics_are_there);
    tcase_add_test(tc, session_reads_wait);
    tcase_add_test(tc, writes_are_passed_on);
    tcase_add_test(tc, a_completed_write_is_seen);
    tcase_add_test(tc, unknown_writes_are_the_producers_business);
    tcase_add_test(tc, collections_come_and_go);
    tcase_add_test(tc, created_again_while_the_first_still_shows);
    tcase_add_test(tc, dropped_after_a_moment);
    tcase_add_test(tc, bulk_goes_through_in_pieces);
    tcase_add_test(tc, producer_away);
    tcase_add_test(early, before_the_index);
    suite_add_tcase(suite, tc);
    suite_add_tcase(suite, early);
    return run_suite(suite);
}
