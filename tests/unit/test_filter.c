/* Qdrant's filters: what matches, and what is refused in which words. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "indexer/filter.h"

static struct ap_err err;

static json_t *json(const char *text)
{
    json_error_t at;
    json_t *value = json_loads(text, JSON_DECODE_ANY, &at);
    ck_assert_msg(value != NULL, "%s in %s", at.text, text);
    return value;
}

static struct ap_filter *parse(const char *text)
{
    struct ap_filter *filter;
    json_t *value = json(text);
    int rc = ap_filter_parse(value, &filter, &err);
    json_decref(value);
    ck_assert_msg(rc == 0, "%s: %s", text, err.msg);
    return filter;
}

static bool matches(const char *text, uint64_t id, const char *payload)
{
    struct ap_filter *filter = parse(text);
    struct ap_point_id point;
    ap_point_id_from_u64(id, &point);
    json_t *value = payload ? json(payload) : NULL;
    bool result = ap_filter_match(filter, &point, value);
    json_decref(value);
    ap_filter_free(&filter);
    ck_assert_ptr_null(filter);
    return result;
}

#define MUST(condition) "{\"must\":[" condition "]}"
#define NOT(condition) "{\"must_not\":[" condition "]}"
#define VALUE(v) "{\"key\":\"a\",\"match\":{\"value\":" v "}}"
#define ANY(v) "{\"key\":\"a\",\"match\":{\"any\":" v "}}"
#define RANGE(v) "{\"key\":\"a\",\"range\":{" v "}}"

static const struct { const char *filter, *payload; bool expected; } cases[] = {
    /* equality is of one type */
    {MUST(VALUE("\"x\"")), "{\"a\":\"x\"}", true},
    {MUST(VALUE("\"x\"")), "{\"a\":\"X\"}", false},
    {MUST(VALUE("\"1\"")), "{\"a\":1}", false},
    {MUST(VALUE("1")), "{\"a\":1}", true},
    {MUST(VALUE("1")), "{\"a\":1.0}", false},
    {MUST(VALUE("1")), "{\"a\":true}", false},
    {MUST(VALUE("1")), "{\"a\":\"1\"}", false},
    {MUST(VALUE("0")), "{\"a\":false}", false},
    {MUST(VALUE("0")), "{\"a\":null}", false},
    {MUST(VALUE("0")), "{\"a\":\"x\"}", false},
    {MUST(VALUE("true")), "{\"a\":true}", true},
    {MUST(VALUE("true")), "{\"a\":1}", false},
    {MUST(VALUE("false")), "{\"a\":false}", true},
    {MUST(VALUE("false")), "{\"a\":true}", false},
    {MUST(VALUE("false")), "{}", false},
    {MUST(VALUE("-9223372036854775808")), "{\"a\":-9223372036854775808}", true},
    /* missing keys hold no condition, so must_not lets them pass */
    {MUST(VALUE("1")), "{}", false},
    {MUST(VALUE("1")), NULL, false},
    {NOT(VALUE("1")), "{}", true},
    {NOT(VALUE("1")), NULL, true},
    {NOT(VALUE("1")), "{\"a\":1}", false},
    {MUST(RANGE("")), "{}", false},
    /* lists: one element is enough; one level */
    {MUST(VALUE("2")), "{\"a\":[1,2,3]}", true},
    {MUST(VALUE("4")), "{\"a\":[1,2,3]}", false},
    {MUST(VALUE("2")), "{\"a\":[[2]]}", false},
    {MUST(VALUE("2")), "{\"a\":[]}", false},
    {NOT(VALUE("2")), "{\"a\":[1,2]}", false},
    {MUST(RANGE("\"gt\":2")), "{\"a\":[1,\"x\",3]}", true},
    /* any */
    {MUST(ANY("[\"x\",\"y\"]")), "{\"a\":\"y\"}", true},
    {MUST(ANY("[\"zz\",\"y\",\"x\"]")), "{\"a\":[\"q\",\"zz\"]}", true},
    {MUST(ANY("[\"x\",\"y\"]")), "{\"a\":\"z\"}", false},
    {MUST(ANY("[5,-3,9]")), "{\"a\":-3}", true},
    {MUST(ANY("[5,-3,9]")), "{\"a\":5}", true},
    {MUST(ANY("[5,-3,9]")), "{\"a\":4}", false},
    {MUST(ANY("[5]")), "{\"a\":5.0}", false},
    {MUST(ANY("[]")), "{\"a\":5}", false},
    {NOT(ANY("[]")), "{\"a\":5}", true},
    /* range */
    {MUST(RANGE("\"gt\":1")), "{\"a\":1}", false},
    {MUST(RANGE("\"gt\":1")), "{\"a\":1.0001}", true},
    {MUST(RANGE("\"gte\":1")), "{\"a\":1}", true},
    {MUST(RANGE("\"gte\":1.0")), "{\"a\":1}", true},
    {MUST(RANGE("\"lt\":1")), "{\"a\":1}", false},
    {MUST(RANGE("\"lt\":1")), "{\"a\":-7}", true},
    {MUST(RANGE("\"lte\":1")), "{\"a\":1}", true},
    {MUST(RANGE("\"lte\":1")), "{\"a\":1.5}", false},
    {MUST(RANGE("\"gt\":1,\"lt\":2")), "{\"a\":1.5}", true},
    {MUST(RANGE("\"gt\":1,\"lt\":2")), "{\"a\":2}", false},
    {MUST(RANGE("\"gt\":1,\"gte\":1")), "{\"a\":1}", false},
    {MUST(RANGE("\"gt\":1,\"gte\":3")), "{\"a\":2}", false},
    {MUST(RANGE("\"gt\":3,\"gte\":1")), "{\"a\":2}", false},
    {MUST(RANGE("\"lt\":5,\"lte\":5")), "{\"a\":5}", false},
    {MUST(RANGE("\"lt\":5,\"lte\":3")), "{\"a\":4}", false},
    {MUST(RANGE("\"gte\":null,\"lt\":2")), "{\"a\":1}", true},
    {MUST(RANGE("")), "{\"a\":1}", true},
    {MUST(RANGE("\"gte\":0")), "{\"a\":\"5\"}", false},
    {MUST(RANGE("\"gte\":0")), "{\"a\":true}", false},
    {MUST(RANGE("\"gte\":0")), "{\"a\":null}", false},
    {MUST(RANGE("")), "{\"a\":\"5\"}", false},
    /* dotted keys go into objects, not through lists, and a key with a dot in it is another key */
    {MUST("{\"key\":\"m.x\",\"match\":{\"value\":1}}"), "{\"m\":{\"x\":1}}", true},
    {MUST("{\"key\":\"m.x.y\",\"match\":{\"value\":1}}"), "{\"m\":{\"x\":{\"y\":[0,1]}}}", true},
    {MUST("{\"key\":\"m.x\",\"match\":{\"value\":1}}"), "{\"m.x\":1}", false},
    {MUST("{\"key\":\"m.x\",\"match\":{\"value\":1}}"), "{\"m\":[{\"x\":1}]}", false},
    {MUST("{\"key\":\"m.x\",\"match\":{\"value\":1}}"), "{\"m\":5}", false},
    /* ids: the point asked about is number 7 */
    {MUST("{\"has_id\":[9,7,7,1]}"), NULL, true},
    {MUST("{\"has_id\":[9,8]}"), NULL, false},
    {MUST("{\"has_id\":[]}"), NULL, false},
    {NOT("{\"has_id\":[7]}"), NULL, false},
    {MUST("{\"has_id\":[\"00000000-0000-0000-0000-000000000007\"]}"), NULL, true},
    /* clauses: a list or a single object; must and should and must_not */
    {"{\"must\":" VALUE("1") "}", "{\"a\":1}", true},
    {"{\"must\":" VALUE("1") "}", "{\"a\":2}", false},
    {"{\"must\":[" VALUE("1") "," VALUE("2") "]}", "{\"a\":1}", false},
    {"{\"must\":[" VALUE("1") "," VALUE("2") "]}", "{\"a\":[1,2]}", true},
    {"{\"should\":[" VALUE("1") "," VALUE("2") "]}", "{\"a\":2}", true},
    {"{\"should\":[" VALUE("1") "," VALUE("2") "]}", "{\"a\":3}", false},
    {"{\"must\":" VALUE("1") ",\"should\":" VALUE("2") "}", "{\"a\":1}", false},
    {"{\"must\":" VALUE("1") ",\"should\":" VALUE("2") "}", "{\"a\":[1,2]}", true},
    {"{\"must\":" VALUE("1") ",\"must_not\":" VALUE("2") "}", "{\"a\":[1,2]}", false},
    {"{\"must_not\":[" VALUE("1") "," VALUE("2") "]}", "{\"a\":2}", false},
    {"{\"should\":[],\"must\":null}", "{}", true},
    {"{}", "{}", true},
    {"null", "{}", true},
    /* nesting */
    {MUST("{\"should\":[" VALUE("1") "," VALUE("2") "]}"), "{\"a\":2}", true},
    {MUST("{\"should\":[" VALUE("1") "," VALUE("2") "]}"), "{\"a\":3}", false},
    {NOT("{\"must_not\":" VALUE("1") "}"), "{\"a\":1}", true},
    {"{\"should\":[{\"must\":[" VALUE("1") ",{\"has_id\":[8]}]}," VALUE("5") "]}", "{\"a\":1}", false},
    {"{\"should\":[{\"must\":[" VALUE("1") ",{\"has_id\":[7]}]}," VALUE("5") "]}", "{\"a\":1}", true},
    {MUST("{}"), "{}", true},
};

START_TEST(filter_matches_as_qdrant_does)
{
    ck_assert_msg(matches(cases[_i].filter, 7, cases[_i].payload) == cases[_i].expected, "%s on %s is not %d", cases[_i].filter,
                  cases[_i].payload ? cases[_i].payload : "no payload", cases[_i].expected);
}
END_TEST

static const struct { const char *filter; int code; const char *message; } bad[] = {
    {MUST("{\"key\":\"a\",\"match\":{\"text\":\"x\"}}"), AP_EUNSUPPORTED, "filter.must[0].match: \"text\" is not supported"},
    {MUST("{\"key\":\"a\",\"match\":{\"except\":[1]}}"), AP_EUNSUPPORTED, "filter.must[0].match: \"except\" is not supported"},
    {MUST("{\"key\":\"a\",\"geo_radius\":{}}"), AP_EUNSUPPORTED, "filter.must[0]: \"geo_radius\" is not supported"},
    {MUST("{\"key\":\"a\",\"values_count\":{}}"), AP_EUNSUPPORTED, "filter.must[0]: \"values_count\" is not supported"},
    {MUST("{\"nested\":{}}"), AP_EUNSUPPORTED, "filter.must[0]: \"nested\" is not supported"},
    {MUST("{\"is_empty\":{\"key\":\"a\"}}"), AP_EUNSUPPORTED, "filter.must[0]: \"is_empty\" is not supported"},
    {"{\"must_not\":[{},{\"is_null\":{\"key\":\"a\"}}]}", AP_EUNSUPPORTED, "filter.must_not[1]: \"is_null\" is not supported"},
    {"{\"min_should\":{}}", AP_EUNSUPPORTED, "filter: \"min_should\" is not supported"},
    {"{\"should\":{\"min_should\":{}}}", AP_EUNSUPPORTED, "filter.should: \"min_should\" is not supported"},
    {MUST(RANGE("\"gte\":\"2024-01-01\"")), AP_EUNSUPPORTED, "filter.must[0].range: ranges of dates are not supported, only of numbers"},
    {MUST("{\"key\":\"a[].b\",\"match\":{\"value\":1}}"), AP_EUNSUPPORTED, "filter.must[0]: a key with [] or quotes is not supported, only dotted paths"},
    {MUST("{\"key\":\"a\",\"match\":{\"value\":1},\"range\":{}}"), AP_EUNSUPPORTED, "filter.must[0]: match and range in one condition are not supported, write two conditions"},
    {"{\"mst\":[]}", AP_EINVAL, "filter: unknown field \"mst\"; known are: must, should, must_not"},
    {"{\"key\":\"a\",\"match\":{\"value\":1}}", AP_EINVAL, "filter: unknown field \"key\"; known are: must, should, must_not"},
    {MUST("{\"kee\":\"a\"}"), AP_EINVAL, "filter.must[0]: unknown field \"kee\"; known are: key, match, range, has_id, must, should, must_not"},
    {MUST("{\"key\":\"a\",\"match\":{\"val\":1}}"), AP_EINVAL, "filter.must[0].match: unknown field \"val\"; known are: value, any"},
    {MUST(RANGE("\"ge\":1")), AP_EINVAL, "filter.must[0].range: unknown field \"ge\"; known are: gt, gte, lt, lte"},
    {MUST(RANGE("\"lt\":true")), AP_EINVAL, "filter.must[0].range: \"lt\" must be a number"},
    {MUST(VALUE("1.5")), AP_EINVAL, "filter.must[0].match: \"value\" must be a string, an integer, true or false"},
    {MUST(VALUE("[1]")), AP_EINVAL, "filter.must[0].match: \"value\" must be a string, an integer, true or false"},
    {MUST("{\"key\":\"a\",\"match\":{}}"), AP_EINVAL, "filter.must[0].match: needs either \"value\" or \"any\""},
    {MUST("{\"key\":\"a\",\"match\":{\"value\":1,\"any\":[1]}}"), AP_EINVAL, "filter.must[0].match: needs either \"value\" or \"any\""},
    {MUST(ANY("[1,\"x\"]")), AP_EINVAL, "filter.must[0].match.any[1]: the values must be all strings or all integers"},
    {MUST(ANY("[\"x\",\"y\",1]")), AP_EINVAL, "filter.must[0].match.any[2]: the values must be all strings or all integers"},
    {MUST(ANY("[true]")), AP_EINVAL, "filter.must[0].match.any[0]: the values must be all strings or all integers"},
    {MUST(ANY("1")), AP_EINVAL, "filter.must[0].match: \"any\" must be a list"},
    {MUST("{\"key\":\"a\"}"), AP_EINVAL, "filter.must[0]: needs \"match\" or \"range\""},
    {MUST("{\"match\":{\"value\":1}}"), AP_EINVAL, "filter.must[0]: \"key\" is missing"},
    {MUST("{\"key\":\"a..b\",\"match\":{\"value\":1}}"), AP_EINVAL, "filter.must[0]: the key has an empty segment"},
    {MUST("{\"key\":\"\",\"match\":{\"value\":1}}"), AP_EINVAL, "filter.must[0]: the key has an empty segment"},
    {MUST("{\"has_id\":[1],\"key\":\"a\"}"), AP_EINVAL, "filter.must[0]: a condition is either a key with match or range, or has_id, or must, should and must_not"},
    {MUST("{\"has_id\":7}"), AP_EINVAL, "filter.must[0]: \"has_id\" must be a list"},
    {MUST("7"), AP_EINVAL, "filter.must[0]: expected an object"},
    {"{\"must\":7}", AP_EINVAL, "filter.must: expected an object"},
    {"[]", AP_EINVAL, "filter: expected an object"},
};

START_TEST(what_is_not_served_is_refused_by_name)
{
    struct ap_filter *filter;
    json_t *value = json(bad[_i].filter);
    ck_assert_int_eq(ap_filter_parse(value, &filter, &err), bad[_i].code);
    ck_assert_str_eq(err.msg, bad[_i].message);
    ck_assert_ptr_null(filter);
    json_decref(value);
}
END_TEST

START_TEST(bad_id_in_has_id_is_named)
{
    struct ap_filter *filter;
    json_t *value = json(MUST("{\"has_id\":[1,\"nope\"]}"));
    ck_assert_int_eq(ap_filter_parse(value, &filter, &err), AP_EINVAL);
    ck_assert_ptr_eq(strstr(err.msg, "filter.must[0].has_id[1]: "), err.msg);
    json_decref(value);
}
END_TEST

static int parse_repeated(const char *open, const char *middle, const char *close, int times)
{
    struct ap_buf text = {0};
    struct ap_filter *filter;
    for (int i = 0; i < times; i++)
        ap_buf_printf(&text, "%s", open);
    ap_buf_printf(&text, "%s", middle);
    for (int i = 0; i < times; i++)
        ap_buf_printf(&text, "%s", close);
    json_t *value = json((char *)text.data);
    int rc = ap_filter_parse(value, &filter, &err);
    ap_filter_free(&filter);
    json_decref(value);
    ap_buf_free(&text);
    return rc;
}

START_TEST(depth_and_size_are_bounded)
{
    ck_assert_int_eq(parse_repeated("{\"must\":[", "", "]}", AP_FILTER_MAX_DEPTH), 0);
    ck_assert_int_eq(parse_repeated("{\"must\":[", "{}", "]}", AP_FILTER_MAX_DEPTH), AP_ETOOBIG);
    ck_assert_str_eq(err.msg, "filter: nested more than 16 deep");

    struct ap_buf text = {0};
    for (int i = 0; i < AP_FILTER_MAX_CONDITIONS; i++)
        ap_buf_printf(&text, "{},");
    struct ap_buf filter = {0};
    ap_buf_printf(&filter, "{\"must\":[%.*s]}", (int)text.len - 1, (char *)text.data);
    ck_assert_int_eq(parse_repeated("", (char *)filter.data, "", 1), 0);
    ap_buf_clear(&filter);
    ap_buf_printf(&filter, "{\"must\":[%s{}]}", (char *)text.data);
    ck_assert_int_eq(parse_repeated("", (char *)filter.data, "", 1), AP_ETOOBIG);
    ck_assert_str_eq(err.msg, "filter: more than 4096 conditions");

    ap_buf_clear(&text);
    for (int i = 0; i < AP_FILTER_MAX_VALUES; i++)
        ap_buf_printf(&text, "1,");
    ap_buf_clear(&filter);
    ap_buf_printf(&filter, "{\"must\":[{\"has_id\":[%s1]}]}", (char *)text.data);
    ck_assert_int_eq(parse_repeated("", (char *)filter.data, "", 1), AP_ETOOBIG);
    ck_assert_str_eq(err.msg, "filter.must[0]: the filter has more than 200000 values");
    ap_buf_clear(&filter);
    ap_buf_printf(&filter, "{\"must\":[{\"key\":\"a\",\"match\":{\"any\":[%s1]}}]}", (char *)text.data);
    ck_assert_int_eq(parse_repeated("", (char *)filter.data, "", 1), AP_ETOOBIG);
    ap_buf_free(&text);
    ap_buf_free(&filter);
}
END_TEST

static const struct { const char *filter; bool payload; int ids; } plans[] = {
    {"null", false, -1},
    {MUST(VALUE("1")), true, -1},
    {MUST("{\"has_id\":[3,1,2,3]}"), false, 3},
    {MUST("{\"has_id\":[]}"), false, 0},
    {NOT("{\"has_id\":[3]}"), false, -1},
    {MUST("{\"must_not\":{\"has_id\":[3]}}"), false, -1},
    {"{\"must\":[" VALUE("1") ",{\"has_id\":[3,1,2]},{\"has_id\":[4,5]}]}", true, 2},
    {MUST("{\"must\":[{\"has_id\":[3]}]}"), false, 1},
    {MUST("{\"should\":[" VALUE("1") ",{\"has_id\":[3]}]}"), true, -1},
    {"{\"should\":{\"has_id\":[3,4]}}", false, 2},
    {"{\"should\":[{\"has_id\":[3]},{\"has_id\":[4]}]}", false, -1},
};

START_TEST(callers_learn_what_to_read)
{
    struct ap_filter *filter = parse(plans[_i].filter);
    size_t n;
    const struct ap_point_id *ids = ap_filter_only_ids(filter, &n);
    ck_assert(ap_filter_needs_payload(filter) == plans[_i].payload);
    ck_assert(!ids == (plans[_i].ids < 0));
    if (ids) {
        ck_assert_int_eq((int)n, plans[_i].ids);
        for (size_t i = 1; i < n; i++)
            ck_assert_int_lt(memcmp(&ids[i - 1], &ids[i], sizeof *ids), 0);
    }
    ap_filter_free(&filter);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("filter");
    TCase *tc = tcase_create("all");
    tcase_add_loop_test(tc, filter_matches_as_qdrant_does, 0, (int)(sizeof cases / sizeof *cases));
    tcase_add_loop_test(tc, what_is_not_served_is_refused_by_name, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(tc, bad_id_in_has_id_is_named);
    tcase_add_test(tc, depth_and_size_are_bounded);
    tcase_add_loop_test(tc, callers_learn_what_to_read, 0, (int)(sizeof plans / sizeof *plans));
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
