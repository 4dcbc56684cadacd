/* Request bodies of the read API, parts of payloads, and the indexer's configuration. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/api_request.h"
#include "indexer/config.h"
#include "indexer/payload_select.h"
#include "run.h"

static const struct ap_limits limits = {.max_limit = 100, .max_offset = 1000, .max_batch = 3, .max_dim = 8};

static struct ap_body body;
static struct ap_err err;

static void setup(void)
{
    body = (struct ap_body){0};
    err = (struct ap_err){0};
}

static void teardown(void)
{
    ap_body_fini(&body);
}

static void load(const char *text)
{
    ap_body_fini(&body);
    ck_assert_msg(ap_body_parse(text, strlen(text), &limits, &body, &err) == 0, "%s: %s", text, err.msg);
}

static struct ap_ask query(const char *text)
{
    struct ap_ask ask;
    load(text);
    ck_assert_msg(ap_ask_parse_query(body.root, &body, &limits, &ask, &err) == 0, "%s: %s", text, err.msg);
    return ask;
}

/* --- bodies --- */

START_TEST(bodies_that_are_no_objects)
{
    static const struct { const char *text, *says; } cases[] = {
        {"[]", "expected an object"}, {"1", "Format error"}, {"{", "line 1"}, {"{\"query\":[1,2]", "line 1"}, {"{\"query\":[1,2]}x", "end of file expected"},
        {"{\"query\":[1,2],\"query\":[1,2]}", "duplicate"}, {"{\"query\":[1,2],\"limit\":}", "column 24"}, {"{\"query\":[1,]}", "line 1"},
        {"{\"query\":[1e999]}", "overflow"}, {"\xff", "Format error"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(ap_body_parse(cases[i].text, strlen(cases[i].text), &limits, &body, &err), AP_EINVAL);
        ck_assert_msg(strstr(err.msg, cases[i].says), "%s: %s", cases[i].text, err.msg);
        ck_assert_ptr_null(body.root);
    }
    load("");
    ck_assert(json_is_object(body.root));
}
END_TEST

START_TEST(floats_are_read_from_the_text)
{
    static const struct { const char *text; bool fast; } cases[] = {
        {"{\"query\":[1,2.5]}", true}, {"{\"query\":{\"nearest\":[1,2.5]}}", true}, {" { \"limit\" : 3 , \"query\" : { \"nearest\" : [ 1 , 2.5 ] } } ", true},
        {"{\"filter\":{\"must\":[{\"key\":\"query\",\"match\":{\"value\":1}}]},\"query\":[1,2.5]}", true},
        {"{\"query\":{\"mmr\":null,\"nearest\":[1,2.5]}}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        load(cases[i].text);
        ck_assert_msg(body.has_floats == cases[i].fast, "%s", cases[i].text);
        struct ap_ask ask = query(cases[i].text);
        ck_assert_int_eq(ask.kind, AP_ASK_VECTOR);
        ck_assert_uint_eq(ask.dim, 2);
        ck_assert(ask.vector[0] == 1 && ask.vector[1] == 2.5f);
        ap_ask_fini(&ask);
    }
    load("{\"query\":[1,2,3,4,5,6,7,8,9]}"); /* over max_dim: left to the tree, which says so */
    ck_assert(!body.has_floats);
    struct ap_ask ask;
    ck_assert_int_eq(ap_ask_parse_query(body.root, &body, &limits, &ask, &err), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, "max_dim"), "%s", err.msg);
}
END_TEST

/* The floats of a body belong to the question, whatever else has an empty list. */
START_TEST(floats_go_to_the_right_place)
{
    struct ap_ask ask;
    load("{\"vector\":[1,2],\"query\":[]}");
    ck_assert_int_eq(ap_ask_parse_query(body.root, &body, &limits, &ask, &err), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, "\"vector\""), "%s", err.msg);
    load("{\"query\":[]}");
    ck_assert_int_eq(ap_ask_parse_query(body.root, &body, &limits, &ask, &err), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, "empty"), "%s", err.msg);
}
END_TEST

/* --- queries --- */

START_TEST(a_query_in_full)
{
    struct ap_ask ask = query("{\"query\":{\"nearest\":[1.0,0.0]},\"using\":\"text\",\"filter\":{\"must\":[{\"has_id\":[1]}]},"
                              "\"params\":{\"hnsw_ef\":64,\"exact\":true,\"indexed_only\":false,\"acorn\":null,\"quantization\":{\"ignore\":false,\"rescore\":true,\"oversampling\":2.5}},"
                              "\"limit\":7,\"offset\":3,\"with_payload\":{\"include\":[\"a\"]},\"with_vector\":[\"text\"],\"score_threshold\":-0.5,"
                              "\"prefetch\":null,\"lookup_from\":null,\"shard_key\":null}");
    ck_assert_str_eq(ask.using, "text");
    ck_assert_ptr_nonnull(ask.filter);
    ck_assert_uint_eq(ask.effort, 64);
    ck_assert(ask.exact);
    ck_assert(ask.oversampling == 2.5);
    ck_assert_uint_eq(ask.limit, 7);
    ck_assert_uint_eq(ask.offset, 3);
    ck_assert_int_eq(ask.select.payload, AP_PAYLOAD_INCLUDE);
    ck_assert_uint_eq(json_array_size(ask.select.paths), 1);
    ck_assert(ask.select.vector);
    ck_assert_uint_eq(json_array_size(ask.select.vector_names), 1);
    ck_assert(ask.has_threshold && ask.threshold == -0.5f);
    ap_ask_fini(&ask);
}
END_TEST

START_TEST(a_query_in_short)
{
    struct ap_ask ask = query("{}");
    ck_assert_int_eq(ask.kind, AP_ASK_BY_ID);
    ck_assert_uint_eq(ask.limit, 10);
    ck_assert(!ask.has_threshold && !ask.select.vector && ask.select.payload == AP_PAYLOAD_NONE && !ask.exact && !ask.using);
    ap_ask_fini(&ask);
    ask = query("{\"query\":5,\"with_payload\":true,\"with_vectors\":true}");
    ck_assert_int_eq(ask.kind, AP_ASK_POINT);
    ck_assert_uint_eq(ask.point.b[15], 5);
    ck_assert(ask.select.vector && !ask.select.vector_names && ask.select.payload == AP_PAYLOAD_ALL);
    ap_ask_fini(&ask);
    ask = query("{\"query\":{\"nearest\":\"550e8400e29b41d4a716446655440000\"},\"with_payload\":[\"a\",\"b\"],\"with_vector\":false}");
    ck_assert_int_eq(ask.kind, AP_ASK_POINT);
    ck_assert_uint_eq(ask.point.b[0], 0x55);
    ck_assert_int_eq(ask.select.payload, AP_PAYLOAD_INCLUDE);
    ap_ask_fini(&ask);
}
END_TEST

struct refusal { const char *text; int code; const char *says; };

static const struct refusal query_refusals[] = {
    {"{\"query\":[[1,2],[3,4]]}", AP_EUNSUPPORTED, "multivector"},
    {"{\"query\":[1,\"2\"]}", AP_EINVAL, "component 1"},
    {"{\"query\":[1,1e39]}", AP_EINVAL, "not finite"},
    {"{\"query\":-1}", AP_EINVAL, "query"},
    {"{\"query\":1.5}", AP_EINVAL, "query"},
    {"{\"query\":\"abc\"}", AP_EINVAL, "query"},
    {"{\"query\":{}}", AP_EINVAL, "query"},
    {"{\"query\":{\"indices\":[1],\"values\":[1]}}", AP_EUNSUPPORTED, "sparse"},
    {"{\"query\":{\"nearest\":{\"indices\":[1],\"values\":[1]}}}", AP_EUNSUPPORTED, "sparse"},
    {"{\"query\":{\"nearest\":{\"text\":\"x\",\"model\":\"y\"}}}", AP_EUNSUPPORTED, "inference"},
    {"{\"query\":{\"nearest\":[1,2],\"mmr\":{}}}", AP_EUNSUPPORTED, "query.mmr"},
    {"{\"query\":{\"nearest\":[1,2],\"x\":1}}", AP_EINVAL, "\"x\""},
    {"{\"query\":{\"recommend\":{\"positive\":[1]}}}", AP_EUNSUPPORTED, "query.recommend"},
    {"{\"query\":{\"discover\":{}}}", AP_EUNSUPPORTED, "query.discover"},
    {"{\"query\":{\"context\":[]}}", AP_EUNSUPPORTED, "query.context"},
    {"{\"query\":{\"order_by\":\"a\"}}", AP_EUNSUPPORTED, "query.order_by"},
    {"{\"query\":{\"fusion\":\"rrf\"}}", AP_EUNSUPPORTED, "query.fusion"},
    {"{\"query\":{\"sample\":\"random\"}}", AP_EUNSUPPORTED, "query.sample"},
    {"{\"query\":{\"formula\":{}}}", AP_EUNSUPPORTED, "query.formula"},
    {"{\"prefetch\":[]}", AP_EUNSUPPORTED, "prefetch"},
    {"{\"lookup_from\":{\"collection\":\"a\"}}", AP_EUNSUPPORTED, "lookup_from"},
    {"{\"shard_key\":\"a\"}", AP_EUNSUPPORTED, "shard_key"},
    {"{\"group_by\":\"a\"}", AP_EINVAL, "group_by"},
    {"{\"limit\":0}", AP_EINVAL, "limit"},
    {"{\"limit\":101}", AP_EINVAL, "from 1 to 100"},
    {"{\"limit\":-1}", AP_EINVAL, "limit"},
    {"{\"limit\":\"5\"}", AP_EINVAL, "limit"},
    {"{\"offset\":1001}", AP_EINVAL, "offset"},
    {"{\"offset\":-1}", AP_EINVAL, "offset"},
    {"{\"params\":{\"hnsw_ef\":0}}", AP_EINVAL, "hnsw_ef"},
    {"{\"params\":{\"ef\":10}}", AP_EINVAL, "\"ef\""},
    {"{\"params\":{\"indexed_only\":true}}", AP_EUNSUPPORTED, "indexed_only"},
    {"{\"params\":{\"acorn\":{\"enable\":true}}}", AP_EUNSUPPORTED, "acorn"},
    {"{\"params\":{\"quantization\":{\"ignore\":true}}}", AP_EUNSUPPORTED, "quantization.ignore"},
    {"{\"params\":{\"quantization\":{\"rescore\":false}}}", AP_EUNSUPPORTED, "quantization.rescore"},
    {"{\"params\":{\"quantization\":{\"oversampling\":0.5}}}", AP_EINVAL, "oversampling"},
    {"{\"with_payload\":1}", AP_EINVAL, "with_payload"},
    {"{\"with_payload\":{}}", AP_EINVAL, "include"},
    {"{\"with_payload\":{\"include\":[\"a\"],\"exclude\":[\"b\"]}}", AP_EINVAL, "exclude"},
    {"{\"with_payload\":[1]}", AP_EINVAL, "with_payload[0]"},
    {"{\"with_payload\":[\"\\\"a.b\\\"\"]}", AP_EUNSUPPORTED, "quoted"},
    {"{\"with_vector\":\"x\"}", AP_EINVAL, "with_vector"},
    {"{\"with_vector\":true,\"with_vectors\":true}", AP_EINVAL, "twice"},
    {"{\"score_threshold\":1e300}", AP_EINVAL, "score_threshold"},
    {"{\"filter\":{\"must\":[{\"has_vector\":\"a\"}]}}", AP_EUNSUPPORTED, "has_vector"},
    {"{\"filter\":[]}", AP_EINVAL, "filter"},
};

START_TEST(queries_refused_by_name)
{
    const struct refusal *c = &query_refusals[_i];
    struct ap_ask ask;
    load(c->text);
    int rc = ap_ask_parse_query(body.root, &body, &limits, &ask, &err);
    ck_assert_msg(rc == c->code, "%s: %d %s", c->text, rc, rc ? err.msg : "");
    ck_assert_msg(strstr(err.msg, c->says), "%s: %s", c->text, err.msg);
}
END_TEST

START_TEST(a_search)
{
    struct ap_ask ask;
    load("{\"vector\":[1,2],\"limit\":3,\"with_payload\":true}");
    ck_assert(body.has_floats);
    ck_assert_int_eq(ap_ask_parse_search(body.root, &body, &limits, &ask, &err), 0);
    ck_assert_uint_eq(ask.dim, 2);
    ap_ask_fini(&ask);
    load("{\"vector\":{\"name\":\"\",\"vector\":[1,2]},\"limit\":3}");
    ck_assert_int_eq(ap_ask_parse_search(body.root, &body, &limits, &ask, &err), 0);
    ck_assert_str_eq(ask.using, "");
    ck_assert(ask.vector[1] == 2);
    ap_ask_fini(&ask);
    static const struct refusal refusals[] = {
        {"{\"vector\":[1,2]}", AP_EINVAL, "limit"}, {"{\"limit\":3}", AP_EINVAL, "vector"}, {"{\"vector\":{\"name\":\"a\",\"vector\":{\"indices\":[],\"values\":[]}},\"limit\":1}", AP_EUNSUPPORTED, "sparse"},
        {"{\"query\":[1,2],\"vector\":[3,4],\"limit\":1}", AP_EINVAL, "query"}, {"{\"vector\":[1,2],\"limit\":3,\"using\":\"a\"}", AP_EINVAL, "using"},
        {"{\"vector\":[],\"limit\":3}", AP_EINVAL, "empty"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        load(refusals[i].text);
        ck_assert_int_eq(ap_ask_parse_search(body.root, &body, &limits, &ask, &err), refusals[i].code);
        ck_assert_msg(strstr(err.msg, refusals[i].says), "%s: %s", refusals[i].text, err.msg);
    }
}
END_TEST

START_TEST(batches)
{
    json_t *searches;
    load("{\"searches\":[{},{},{}]}");
    ck_assert_int_eq(ap_batch_parse(body.root, &limits, &searches, &err), 0);
    ck_assert_uint_eq(json_array_size(searches), 3);
    load("{\"searches\":[{},{},{},{}]}");
    ck_assert_int_eq(ap_batch_parse(body.root, &limits, &searches, &err), AP_EINVAL);
    load("{}");
    ck_assert_int_eq(ap_batch_parse(body.root, &limits, &searches, &err), AP_EINVAL);
}
END_TEST

START_TEST(pages_picks_and_counts)
{
    struct ap_page page;
    struct ap_pick pick;
    struct ap_filter *filter;
    load("{\"offset\":7,\"limit\":5,\"with_payload\":false,\"with_vector\":true}");
    ck_assert_int_eq(ap_page_parse(body.root, &limits, &page, &err), 0);
    ck_assert(page.has_offset && page.offset.b[15] == 7 && page.limit == 5 && page.select.vector && page.select.payload == AP_PAYLOAD_NONE);
    ap_page_fini(&page);
    load("{}");
    ck_assert_int_eq(ap_page_parse(body.root, &limits, &page, &err), 0);
    ck_assert(!page.has_offset && page.limit == 10 && !page.select.vector && page.select.payload == AP_PAYLOAD_ALL);
    load("{\"order_by\":\"a\"}");
    ck_assert_int_eq(ap_page_parse(body.root, &limits, &page, &err), AP_EUNSUPPORTED);
    load("{\"offset\":\"x\"}");
    ck_assert_int_eq(ap_page_parse(body.root, &limits, &page, &err), AP_EINVAL);
    load("{\"limit\":1000}");
    ck_assert_int_eq(ap_page_parse(body.root, &limits, &page, &err), AP_EINVAL);

    load("{\"ids\":[1,\"550e8400-e29b-41d4-a716-446655440000\"]}");
    ck_assert_int_eq(ap_pick_parse(body.root, &limits, &pick, &err), 0);
    ck_assert_uint_eq(pick.count, 2);
    ap_pick_fini(&pick);
    load("{\"ids\":[1,true]}");
    ck_assert_int_eq(ap_pick_parse(body.root, &limits, &pick, &err), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, "ids[1]"), "%s", err.msg);
    load("{}");
    ck_assert_int_eq(ap_pick_parse(body.root, &limits, &pick, &err), AP_EINVAL);

    load("{\"filter\":{\"must\":[{\"has_id\":[1]}]},\"exact\":false}");
    ck_assert_int_eq(ap_count_parse(body.root, &filter, &err), 0);
    ck_assert_ptr_nonnull(filter);
    ap_filter_free(&filter);
    load("{\"limit\":1}");
    ck_assert_int_eq(ap_count_parse(body.root, &filter, &err), AP_EINVAL);
}
END_TEST

/* --- parts of payloads --- */

START_TEST(payload_parts)
{
    static const char payload[] = "{\"a\":1,\"ab\":2,\"o\":{\"x\":1,\"y\":{\"z\":2}},\"l\":[{\"k\":1,\"m\":2},{\"k\":3},4],\"n\":null,\"e\":{}}";
    static const struct { const char *paths; bool include; const char *result; } cases[] = {
        {"[\"a\"]", true, "{\"a\":1}"}, {"[\"o.x\"]", true, "{\"o\":{\"x\":1}}"}, {"[\"o.y.z\",\"n\"]", true, "{\"o\":{\"y\":{\"z\":2}},\"n\":null}"},
        {"[\"o\"]", true, "{\"o\":{\"x\":1,\"y\":{\"z\":2}}}"}, {"[\"o\",\"o.x\"]", true, "{\"o\":{\"x\":1,\"y\":{\"z\":2}}}"}, {"[\"l[].k\"]", true, "{\"l\":[{\"k\":1},{\"k\":3}]}"},
        {"[\"l.k\"]", true, "{}"}, {"[\"l[]\"]", true, "{\"l\":[{\"k\":1,\"m\":2},{\"k\":3},4]}"}, {"[\"q\",\"a.b\",\"o.q\"]", true, "{}"}, {"[]", true, "{}"}, {"[\"e\"]", true, "{\"e\":{}}"},
        {"[\"a\",\"l\",\"o\",\"e\"]", false, "{\"ab\":2,\"n\":null}"}, {"[\"ab\",\"o.y\",\"l[].m\",\"e\",\"n\"]", false, "{\"a\":1,\"o\":{\"x\":1},\"l\":[{\"k\":1},{\"k\":3},4]}"},
        {"[\"q\",\"a.b\"]", false, payload}, {"[]", false, payload},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *from = json_loads(payload, 0, NULL), *paths = json_loads(cases[i].paths, 0, NULL);
        json_t *got = ap_payload_select(from, paths, cases[i].include), *want = json_loads(cases[i].result, 0, NULL);
        char *text = json_dumps(got, JSON_COMPACT);
        ck_assert_msg(json_equal(got, want), "%s %s: %s", cases[i].include ? "include" : "exclude", cases[i].paths, text);
        free(text);
        json_decref(from);
        json_decref(paths);
        json_decref(got);
        json_decref(want);
    }
}
END_TEST

/* --- configuration --- */

static int configure(struct ap_indexer_config *config, const char *text)
{
    memset(config, 0, sizeof *config);
    return ap_indexer_config_parse(config, "test.conf", text, strlen(text), &err);
}

START_TEST(configuration)
{
    struct ap_indexer_config c;
    ck_assert_msg(configure(&c, "region = us\nregions = eu, us\nkafka.bootstrap.servers = x:1\nwatermark.interval_ms = 10\n") == 0, "%s", err.msg);
    ck_assert_str_eq(c.region.name, "us");
    ck_assert_str_eq(c.listen, "127.0.0.1:8201");
    ck_assert_str_eq(c.producer_url, "http://127.0.0.1:8101");
    ck_assert_int_eq(c.watermark_interval_ms, 10);
    ck_assert_uint_eq(c.extra.kafka_count, 1);
    ck_assert_ptr_null(c.sealed_factory);
    ap_indexer_config_free(&c);
    static const struct { const char *text, *says; } bad[] = {
        {"region = US\n", "region"}, {"region = us\nregions = eu,ap\n", "does not list"}, {"region = us\nregions = us,,eu\n", "regions"},
        {"region = us\nproducer.url = 127.0.0.1:8101\n", "producer.url"}, {"region = us\nproducer.url = http://x/\n", "producer.url"},
        {"region = us\nworker = 1\n", "worker"}, {"region = us\n\nregions = eu,ap\n", "test.conf:3: regions: "}, {"region = us\nworkers = 2\n", "test.conf:2: workers: "},
        {"region = us\nwatermark.interval_ms = 9\n", "watermark.interval_ms"},
        {"region = us\nmax_limit = 0\n", "max_limit"}, {"region = us\nno.such = 1\n", "no.such"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_int_eq(configure(&c, bad[i].text), AP_EINVAL);
        ck_assert_msg(strstr(err.msg, bad[i].says), "%s: %s", bad[i].text, err.msg);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_request");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, bodies_that_are_no_objects);
    tcase_add_test(tc, floats_are_read_from_the_text);
    tcase_add_test(tc, floats_go_to_the_right_place);
    tcase_add_test(tc, a_query_in_full);
    tcase_add_test(tc, a_query_in_short);
    tcase_add_loop_test(tc, queries_refused_by_name, 0, (int)(sizeof query_refusals / sizeof *query_refusals));
    tcase_add_test(tc, a_search);
    tcase_add_test(tc, batches);
    tcase_add_test(tc, pages_picks_and_counts);
    tcase_add_test(tc, payload_parts);
    tcase_add_test(tc, configuration);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
