/* Points out of JSON, their checks, and the pull reader against jansson. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "producer/json_pull.h"
#include "producer/points_json.h"
#include "rnd.h"
#include "run.h"

static struct ap_target *target;
static struct ap_points points;
static struct ap_err err;

static struct ap_target *make(const char *vector_name, uint32_t dim, enum ap_distance distance)
{
    const struct ap_collection c = {.id = 77, .live = true, .params = {.name = (char *)(uintptr_t)"c", .dim = dim, .distance = distance,
        .codec_factory = (char *)(uintptr_t)"none", .topic = (char *)(uintptr_t)"vec-mutations", .vector_name = (char *)(uintptr_t)vector_name}};
    return ap_target_new(&c, NULL);
}

static void begin(const char *vector_name, uint32_t dim, enum ap_distance distance)
{
    target = make(vector_name, dim, distance);
    ap_points_init(&points, dim);
    err = (struct ap_err){0};
}

static void end(void)
{
    ap_points_fini(&points);
    ap_target_unref(&target);
}

static int parse(const char *body)
{
    size_t len = strlen(body);
    char *exact = malloc(len + 1); /* so that a byte too far is seen by the sanitizer */
    memcpy(exact, body, len);
    char *moved = realloc(exact, len ? len : 1);
    ap_points_clear(&points);
    int rc = ap_points_parse(moved, len, target, strstr(body, "batch") ? 50 : 5, &points, &err);
    free(moved);
    return rc;
}

/* --- what is taken --- */

START_TEST(both_forms_say_the_same)
{
    static const char *const bodies[] = {
        "{\"points\":[{\"id\":1,\"vector\":[1,2.5,-3e0],\"payload\":{ \"a\" : [1, \"x y\"] }},{\"id\":\"00000001-0002-0003-0004-000000000005\",\"vector\":[0.1,1E-2,12345678901234567890]}]}",
        "{ \"batch\" : {\"payloads\":[{\"a\":[1,\"x y\"]},null],\"ids\":[1,\"00000001000200030004000000000005\"],\"vectors\":[[1,2.5,-3],[0.1,0.01,1.2345678901234567890e19]]},\"shard_key\":null}",
    };
    begin(NULL, 3, AP_DOT);
    for (size_t i = 0; i < 2; i++) {
        ck_assert_msg(parse(bodies[i]) == 0, "%s", err.msg);
        ck_assert_uint_eq(points.n, 2);
        char id[AP_POINT_ID_TEXT];
        ap_point_id_print(&points.ids[0], id);
        ck_assert_str_eq(id, "1");
        ap_point_id_print(&points.ids[1], id);
        ck_assert_str_eq(id, "00000001-0002-0003-0004-000000000005");
        const float want[] = {1, 2.5f, -3, 0.1f, 0.01f, 12345678901234567890.0f};
        ck_assert_mem_eq(points.vectors, want, sizeof want);
        ck_assert_uint_eq(points.payloads[0].len, strlen("{\"a\":[1,\"x y\"]}"));
        ck_assert_mem_eq(points.text.data + points.payloads[0].at, "{\"a\":[1,\"x y\"]}", points.payloads[0].len);
        ck_assert_uint_eq(points.payloads[1].len, 0);
    }
    end();
}
END_TEST

START_TEST(ids_reach_from_zero_to_the_last_unsigned)
{
    char id[AP_POINT_ID_TEXT];
    begin(NULL, 1, AP_DOT);
    ck_assert_int_eq(parse("{\"points\":[{\"id\":18446744073709551615,\"vector\":[1]},{\"id\":0,\"vector\":[1]}]}"), 0);
    ap_point_id_print(&points.ids[0], id);
    ck_assert_str_eq(id, "18446744073709551615");
    ap_point_id_print(&points.ids[1], id);
    ck_assert_str_eq(id, "0");
    end();
}
END_TEST

START_TEST(vectors_go_by_the_name_the_collection_gave_them)
{
    begin("text", 2, AP_DOT);
    ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":{\"text\":[1,2]}}]}"), 0);
    ck_assert_int_eq(parse("{\"batch\":{\"ids\":[1],\"vectors\":{\"text\":[[1,2]]}}}"), 0);
    ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":[1,2]}]}"), AP_EINVAL);
    ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":{\"image\":[1,2]}}]}"), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "Not existing vector name error: image"));
    ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":{\"text\":[1,2],\"text\":[3,4]}}]}"), AP_EINVAL);
    end();
    static const char *const names[] = {NULL, ""};
    for (size_t i = 0; i < 2; i++) {
        begin(names[i], 2, AP_DOT);
        ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":{\"\":[1,2]}}]}"), 0);
        ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":[1,2]}]}"), 0);
        ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":{\"text\":[1,2]}}]}"), AP_EINVAL);
        end();
    }
}
END_TEST

/* --- what is refused, and in which words --- */

static const struct { const char *body, *words; int code; } bad[] = {
    {"", "malformed JSON at byte 0", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3]}", "ends too early", AP_EINVAL},
    {"{\"points\":[]}x", "something follows", AP_EINVAL},
    {"{}", "neither \"points\" nor \"batch\"", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2]}]}", "points[0]: Wrong input: Vector dimension error: expected dim: 3, got 2", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3,4]}]}", "expected dim: 3, got 4", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3]},{\"id\":2,\"vector\":[1,2,\"3\"]}]}", "points[1]: vector[2] is not a number", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,NaN]}]}", "points[0]: vector[2] is not a number", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,", "malformed JSON at byte 33: a number is expected", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,Infinity]}]}", "vector[2] is not a number", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,-Infinity]}]}", "a digit is expected", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,1e999,3]}]}", "points[0]: vector[1] is not finite as float32", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,-3.5e38,3]}]}", "vector[1] is not finite as float32", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,01,3]}]}", "leading zero", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2.,3]}]}", "a digit is expected", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,.5,3]}]}", "not a number", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3,]}]}", "behind the comma", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[[1,2,3]]}]}", "multivectors are not supported", AP_EUNSUPPORTED},
    {"{\"points\":[{\"id\":1,\"vector\":null}]}", "a vector is a list", AP_EINVAL},
    {"{\"points\":[{\"id\":1}]}", "points[0]: the point has no vector", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":{}}]}", "the point has no vector", AP_EINVAL},
    {"{\"points\":[{\"id\":-1,\"vector\":[1,2,3]}]}", "id -1 is neither", AP_EINVAL},
    {"{\"points\":[{\"id\":1.5,\"vector\":[1,2,3]}]}", "id 1.5 is neither", AP_EINVAL},
    {"{\"points\":[{\"id\":1e3,\"vector\":[1,2,3]}]}", "id 1e3 is neither", AP_EINVAL},
    {"{\"points\":[{\"id\":18446744073709551616,\"vector\":[1,2,3]}]}", "is neither a UUID nor", AP_EINVAL},
    {"{\"points\":[{\"id\":\"17\",\"vector\":[1,2,3]}]}", "is not a UUID (numbers are given without quotes)", AP_EINVAL},
    {"{\"points\":[{\"id\":\"urn:uuid:00000001-0002-0003-0004-000000000005\",\"vector\":[1,2,3]}]}", "is not a UUID", AP_EINVAL},
    {"{\"points\":[{\"id\":true,\"vector\":[1,2,3]}]}", "an id is a UUID string", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"id\":2,\"vector\":[1,2,3]}]}", "\"id\" is there twice", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3],\"vektor\":1}]}", "points[0]: unknown field \"vektor\"", AP_EINVAL},
    {"{\"points\":[],\"order\":1}", "unknown field \"order\"", AP_EINVAL},
    {"{\"points\":[],\"batch\":{}}", "is there twice", AP_EINVAL},
    {"{\"points\":[],\"shard_key\":\"a\"}", "\"shard_key\" is not supported", AP_EUNSUPPORTED},
    {"{\"points\":[],\"update_filter\":{\"must\":[]}}", "\"update_filter\" is not supported", AP_EUNSUPPORTED},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3],\"payload\":[1]}]}", "a payload is an object", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3],\"payload\":{\"a\":1,\"a\":2}}]}", "payload: duplicate", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3],\"payload\":{\"a\":1e999}}]}", "payload: real number overflow", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3],\"payload\":{\"a\":\"\\u0000\"}}]}", "\\u0000 is not allowed", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3],\"payload\":{\"a\":\"\xff\"}}]}", "not UTF-8", AP_EINVAL},
    {"{\"points\":[1]}", "points[0]: a point is an object", AP_EINVAL},
    {"{\"batch\":{\"ids\":[1,2],\"vectors\":[[1,2,3]]}}", "2 ids, 1 vectors", AP_EINVAL},
    {"{\"batch\":{\"ids\":[1],\"vectors\":[[1,2,3]],\"payloads\":[null,null]}}", "2 payloads", AP_EINVAL},
    {"{\"batch\":{\"ids\":[1]}}", "batch has no \"vectors\"", AP_EINVAL},
    {"{\"batch\":{\"ids\":[1],\"vectors\":[[1,2]]}}", "batch.vectors[0]: Wrong input: Vector dimension", AP_EINVAL},
    {"{\"batch\":{\"ids\":[\"x\"],\"vectors\":[[1,2,3]]}}", "batch.ids[0]: id \"x\"", AP_EINVAL},
    {"{\"batch\":{\"ids\":[1,2,3,4,5,6,7,8,9,10,11],\"vectors\":[]}}", "more ids or payloads than vectors", AP_EINVAL},
    {"{\"points\":[{\"id\":1,\"vector\":[1,2,3]},{\"id\":2,\"vector\":[1,2,3]},{\"id\":3,\"vector\":[1,2,3]},{\"id\":4,\"vector\":[1,2,3]},{\"id\":5,\"vector\":[1,2,3]},{\"id\":6,\"vector\":[1,2,3]}]}",
     "more than 5 points in one request", AP_ETOOBIG},
};

START_TEST(bad_requests_are_refused_by_point_and_reason)
{
    begin(NULL, 3, AP_DOT);
    int rc = parse(bad[_i].body);
    ck_assert_msg(rc == bad[_i].code, "%s: %d %s", bad[_i].body, rc, err.msg);
    ck_assert_msg(strstr(err.msg, bad[_i].words) != NULL, "%s: %s", bad[_i].body, err.msg);
    ck_assert_int_eq(err.cls, AP_POISON);
    end();
}
END_TEST

START_TEST(every_cut_of_a_good_body_is_refused)
{
    static const char body[] = "{\"points\":[{\"id\":\"00000001-0002-0003-0004-000000000005\",\"vector\":[1,-2.5e1,3],\"payload\":{\"k\\u00e9\":[true,false,null,{}]}}]}";
    begin(NULL, 3, AP_DOT);
    ck_assert_int_eq(parse(body), 0);
    for (size_t len = 0; len + 1 < sizeof body - 1; len++) {
        char *cut = strndup(body, len);
        ck_assert_int_eq(parse(cut), AP_EINVAL);
        free(cut);
    }
    end();
}
END_TEST

START_TEST(one_line_is_appended_or_leaves_no_trace)
{
    static const char good_line[] = "{\"vector\":[1,2,3],\"payload\":{\"a\":1}}", bad_line[] = "{\"payload\":{\"a\":1},\"vector\":[1,2]}";
    begin(NULL, 3, AP_DOT);
    ck_assert_int_eq(ap_points_parse_one(good_line, sizeof good_line - 1, target, &points, &err), 0);
    ck_assert_int_eq(ap_points_parse_one(bad_line, sizeof bad_line - 1, target, &points, &err), AP_EINVAL);
    ck_assert_uint_eq(points.n, 1);
    ck_assert_uint_eq(points.text.len, points.payloads[0].len);
    ck_assert(!points.has_id[0]);
    end();
}
END_TEST

/* --- checks --- */

START_TEST(cosine_is_normalized_after_the_id_is_derived)
{
    struct ap_point_errors errors = {0};
    struct ap_point_id want;
    const float received[] = {3, 4};
    begin(NULL, 2, AP_COSINE);
    ck_assert_int_eq(parse("{\"points\":[{\"vector\":[3,4]}]}"), 0);
    ck_assert_int_eq(ap_points_prepare(&points, target, &errors, &err), 0);
    ap_point_id_from_vector(77, received, 2, &want);
    ck_assert_mem_eq(&points.ids[0], &want, sizeof want);
    ck_assert_float_eq_tol(points.vectors[0], 0.6f, 1e-6f);
    ck_assert_float_eq_tol(points.vectors[1], 0.8f, 1e-6f);
    end();
}
END_TEST

START_TEST(all_bad_vectors_of_a_request_are_named)
{
    struct ap_point_errors errors = {0};
    begin(NULL, 2, AP_COSINE);
    for (size_t i = 0; i < 15; i++) {
        float *v = ap_points_add(&points);
        v[0] = i == 3 ? NAN : i == 4 ? INFINITY : i >= 5 ? 0 : 1;
        v[1] = 0;
    }
    ck_assert_int_eq(ap_points_prepare(&points, target, &errors, &err), AP_EINVAL);
    ck_assert_uint_eq(errors.count, 12);
    ck_assert_uint_eq(errors.first[0].index, 3);
    ck_assert_ptr_nonnull(strstr(errors.first[0].text, "NaN"));
    ck_assert_ptr_nonnull(strstr(errors.first[1].text, "not finite"));
    ck_assert_ptr_nonnull(strstr(errors.first[2].text, "zero vector"));
    ck_assert_ptr_nonnull(strstr(err.msg, "points[3]: vector[0] is NaN"));
    end();
}
END_TEST

START_TEST(extreme_vectors_under_cosine_are_unit_length_or_refused)
{
    static const float extremes[] = {3e38f, 1e30f, 1e-30f, 1e-40f, 1.4e-45f};
    for (size_t i = 0; i < sizeof extremes / sizeof *extremes; i++) {
        struct ap_point_errors errors = {0};
        begin(NULL, 4, AP_COSINE);
        float *v = ap_points_add(&points), norm = 0;
        for (size_t k = 0; k < 4; k++)
            v[k] = extremes[i];
        if (ap_points_prepare(&points, target, &errors, &err) == 0) {
            for (size_t k = 0; k < 4; k++)
                norm += v[k] * v[k];
            ck_assert_float_eq_tol(norm, 1, 1e-3f);
        } else {
            ck_assert_uint_eq(errors.count, 1);
        }
        end();
    }
}
END_TEST

START_TEST(a_zero_vector_is_welcome_where_it_means_something)
{
    struct ap_point_errors errors = {0};
    begin(NULL, 2, AP_EUCLID);
    ck_assert_int_eq(parse("{\"points\":[{\"id\":1,\"vector\":[0,0]}]}"), 0);
    ck_assert_int_eq(ap_points_prepare(&points, target, &errors, &err), 0);
    end();
}
END_TEST

/* --- the pull reader against jansson --- */

static const char *const json_texts[] = {
    "0", "-0", "1e5", "1E+5", "1e-5", "[1,2,[3,{\"a\":null}]]", "{\"a\":{\"b\":[true,false]}}", "\"\\ud83d\\ude00\"", "\"\\u00e9\xc3\xa9\"", " [ ] ", "{ }",
    "-", "+1", "1.", ".1", "1e", "1e+", "00", "tru", "nul", "[1,]", "{\"a\":}", "{\"a\"}", "{a:1}", "{\"a\":1,}", "[1 2]", "\"\\x\"", "\"\\u12\"", "\"\\ud83d\"", "\"\\ude00\"",
    "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\x01\"", "\"", "[", "{", "]", "}", ",", "", " ", "//", "[1]//", "NaN", "Infinity", "'a'", "\"a\" \"b\"", "\"\\u0000\"",
};

START_TEST(what_is_json_is_what_jansson_says)
{
    for (size_t i = 0; i < sizeof json_texts / sizeof *json_texts; i++) {
        struct ap_pull j;
        struct ap_slice text;
        json_t *theirs = json_loads(json_texts[i], JSON_DECODE_ANY, NULL);
        ap_pull_init(&j, json_texts[i], strlen(json_texts[i]), &err);
        bool ours = ap_pull_value(&j, &text) && ap_pull_end(&j);
        ck_assert_msg(ours == (theirs != NULL), "%s: ours %d", json_texts[i], ours);
        json_decref(theirs);
    }
}
END_TEST

START_TEST(damaged_json_is_what_jansson_says)
{
    static const char base[] = "{\"a\": [1.5e3, -2, \"x\\n\\u00e9\xc3\xa9\"], \"b\": {\"c\": [true, false, null, {}]}, \"d\": []}";
    rnd_seed("points");
    for (size_t i = 0; i < 30000; i++) {
        char text[sizeof base];
        memcpy(text, base, sizeof base);
        for (size_t k = 0; k < 1 + rnd_below(3); k++)
            text[rnd_below(sizeof base - 1)] = rnd_below(2) ? "{}[]\",:\\0e.-"[rnd_below(13)] : (char)(1 + rnd_below(255));
        struct ap_pull j;
        struct ap_slice slice;
        json_t *theirs = json_loads(text, JSON_DECODE_ANY, NULL);
        ap_pull_init(&j, text, strlen(text), &err);
        bool ours = ap_pull_value(&j, &slice) && ap_pull_end(&j);
        /* jansson refuses numbers that do not fit; we leave that to whoever wants the number. */
        ck_assert_msg(ours || !theirs, "%s: %s", text, err.msg);
        if (ours && !theirs)
            ck_assert_msg(strpbrk(text, "eE0123456789") != NULL, "%s", text);
        json_decref(theirs);
    }
}
END_TEST

START_TEST(numbers_are_the_nearest_float)
{
    char text[64];
    rnd_seed("points");
    for (size_t i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)rnd();
        float want;
        double got;
        memcpy(&want, &bits, sizeof want);
        if (!isfinite(want))
            continue;
        /* As C, Python (of a float32 and of its double) and JavaScript write them. */
        static const char *const formats[] = {"%.9g", "%.17g", "%.12e", "%.20g"};
        snprintf(text, sizeof text, formats[i % 4], (double)want);
        struct ap_pull j;
        ap_pull_init(&j, text, strlen(text), &err);
        ck_assert(ap_pull_number(&j, &got) && ap_pull_end(&j));
        ck_assert_msg((float)got == want, "%s: %.9g", text, got);
    }
}
END_TEST

START_TEST(nesting_has_an_end)
{
    char deep[1000];
    struct ap_pull j;
    struct ap_slice text;
    for (size_t depth = 1; depth < 400; depth++) {
        memset(deep, '[', depth);
        memset(deep + depth, ']', depth);
        ap_pull_init(&j, deep, 2 * depth, &err);
        ck_assert_int_eq(ap_pull_value(&j, &text), depth <= AP_PULL_DEPTH);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer_points");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, both_forms_say_the_same);
    tcase_add_test(tc, ids_reach_from_zero_to_the_last_unsigned);
    tcase_add_test(tc, vectors_go_by_the_name_the_collection_gave_them);
    tcase_add_loop_test(tc, bad_requests_are_refused_by_point_and_reason, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(tc, every_cut_of_a_good_body_is_refused);
    tcase_add_test(tc, one_line_is_appended_or_leaves_no_trace);
    tcase_add_test(tc, cosine_is_normalized_after_the_id_is_derived);
    tcase_add_test(tc, all_bad_vectors_of_a_request_are_named);
    tcase_add_test(tc, extreme_vectors_under_cosine_are_unit_length_or_refused);
    tcase_add_test(tc, a_zero_vector_is_welcome_where_it_means_something);
    tcase_add_test(tc, what_is_json_is_what_jansson_says);
    tcase_add_test(tc, damaged_json_is_what_jansson_says);
    tcase_add_test(tc, numbers_are_the_nearest_float);
    tcase_add_test(tc, nesting_has_an_end);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
