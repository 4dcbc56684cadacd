/* Qdrant's filters: what matches, and what is refused in which words. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"
#include "indexer/filter.h"
#include "run.h"

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

#define COUNT(v) "{\"key\":\"a\",\"values_count\":{" v "}}"
#define TEXT(v) "{\"key\":\"a\",\"match\":{\"text\":" v "}}"
#define EXCEPT(v) "{\"key\":\"a\",\"match\":{\"except\":" v "}}"
#define EMPTY "{\"is_empty\":{\"key\":\"a\"}}"
#define NULLED "{\"is_null\":{\"key\":\"a\"}}"
#define NEST(v) "{\"nested\":{\"key\":\"a\",\"filter\":" v "}}"
#define KEY(k, v) "{\"key\":\"" k "\",\"match\":{\"value\":" v "}}"

/* Undeclared fields; what Qdrant answers without indexes. */
static const struct { const char *filter, *payload; bool expected; } more_cases[] = {
    {MUST(EXCEPT("[1,2]")), "{\"a\":3}", true},
    {MUST(EXCEPT("[1,2]")), "{\"a\":2}", false},
    {MUST(EXCEPT("[1,2]")), "{\"a\":[1,2]}", false},
    {MUST(EXCEPT("[1,2]")), "{\"a\":[1,5]}", true},
    {MUST(EXCEPT("[1,2]")), "{\"a\":\"x\"}", true},
    {MUST(EXCEPT("[1,2]")), "{\"a\":null}", false},
    {MUST(EXCEPT("[\"x\"]")), "{\"a\":\"y\"}", true},
    {MUST(EXCEPT("[\"x\"]")), "{\"a\":\"x\"}", false},
    {MUST(EXCEPT("[\"x\"]")), "{}", false},
    {MUST(EXCEPT("[]")), "{\"a\":1}", true},
    {MUST(TEXT("\"ell\"")), "{\"a\":\"hello\"}", true},
    {MUST(TEXT("\"Ell\"")), "{\"a\":\"hello\"}", false},
    {MUST(TEXT("\"x\"")), "{\"a\":[\"a\",\"axb\"]}", true},
    {MUST(EMPTY), "{}", true},
    {MUST(EMPTY), NULL, true},
    {MUST(EMPTY), "{\"a\":null}", true},
    {MUST(EMPTY), "{\"a\":[]}", true},
    {MUST(EMPTY), "{\"a\":[null]}", false},
    {MUST(EMPTY), "{\"a\":0}", false},
    {MUST(EMPTY), "{\"a\":\"\"}", false},
    {MUST(NULLED), "{}", false},
    {MUST(NULLED), "{\"a\":null}", true},
    {MUST(NULLED), "{\"a\":[null]}", false},
    {MUST("{\"is_null\":{\"key\":\"a[]\"}}"), "{\"a\":[null]}", true},
    {MUST("{\"key\":\"a\",\"is_null\":false}"), "{\"a\":1}", true},
    {MUST("{\"key\":\"a\",\"is_empty\":false}"), "{\"a\":[]}", false},
    {MUST(COUNT("\"gte\":2")), "{\"a\":[1,2]}", true},
    {MUST(COUNT("\"gte\":2")), "{\"a\":1}", false},
    {MUST(COUNT("\"lt\":1")), "{\"a\":null}", true},
    {MUST(COUNT("\"lt\":1")), "{}", true},
    {MUST(RANGE("\"gte\":\"2024-02-29\"")), "{\"a\":\"2024-02-29T00:00:00Z\"}", true},
    {MUST(RANGE("\"gt\":\"2024-02-29\"")), "{\"a\":\"2024-02-29T00:00:00Z\"}", false},
    {MUST(RANGE("\"gt\":\"2024-02-29\"")), "{\"a\":\"2024-02-29T00:00:00.000001\"}", true},
    {MUST(RANGE("\"lt\":\"2024-02-29T02:00:00+02:00\"")), "{\"a\":\"2024-02-28 23:59:59\"}", true},
    {MUST(RANGE("\"lte\":\"2024-02-29T02:00:00+0200\"")), "{\"a\":\"2024-02-29T00:00Z\"}", true},
    {MUST(RANGE("\"gte\":\"1969-12-31T23:59:59.5Z\"")), "{\"a\":\"1969-12-31T23:59:59Z\"}", false},
    {MUST(RANGE("\"gte\":\"2024-01-01\"")), "{\"a\":2025}", false},
    {MUST(RANGE("\"gte\":\"2024-01-01\"")), "{\"a\":\"soon\"}", false},
    /* paths */
    {MUST(KEY("a[].b", "1")), "{\"a\":[{\"b\":2},{\"b\":1}]}", true},
    {MUST(KEY("a[1].b", "1")), "{\"a\":[{\"b\":2},{\"b\":1}]}", true},
    {MUST(KEY("a[0].b", "1")), "{\"a\":[{\"b\":2},{\"b\":1}]}", false},
    {MUST(KEY("a[]", "1")), "{\"a\":[2,1]}", true},
    {MUST(KEY("a[]", "1")), "{\"a\":1}", false},
    {MUST(KEY("a[]", "1")), "{\"a\":[[1]]}", true},
    {MUST(KEY("a[].b[].c", "1")), "{\"a\":[{\"b\":[{\"c\":[3,1]}]}]}", true},
    {MUST(KEY("\\\"a.b\\\"", "1")), "{\"a.b\":1}", true},
    {MUST(KEY("x.\\\"a.b\\\".c", "1")), "{\"x\":{\"a.b\":{\"c\":1}}}", true},
    /* one element must satisfy all of a nested filter */
    {MUST(NEST("{\"must\":[" KEY("b", "1") "," KEY("c", "2") "]}")), "{\"a\":[{\"b\":1,\"c\":2}]}", true},
    {MUST(NEST("{\"must\":[" KEY("b", "1") "," KEY("c", "2") "]}")), "{\"a\":[{\"b\":1},{\"c\":2}]}", false},
    {MUST(NEST("{\"must_not\":[" KEY("b", "1") "]}")), "{\"a\":[{\"b\":1},{\"b\":2}]}", true},
    {MUST(NEST("{\"must_not\":[" KEY("b", "1") "]}")), "{\"a\":[{\"b\":1}]}", false},
    {MUST(NEST("{\"must_not\":[" KEY("b", "1") "]}")), "{\"a\":{\"b\":2}}", false},
    {NOT(NEST("{\"must\":[" KEY("b", "1") "]}")), "{\"a\":[{\"b\":2}]}", true},
    /* min_should */
    {"{\"min_should\":{\"conditions\":[" VALUE("1") "," VALUE("2") "," VALUE("3") "],\"min_count\":2}}", "{\"a\":[1,3]}", true},
    {"{\"min_should\":{\"conditions\":[" VALUE("1") "," VALUE("2") "," VALUE("3") "],\"min_count\":2}}", "{\"a\":[1,4]}", false},
    {"{\"min_should\":{\"conditions\":[" VALUE("1") "],\"min_count\":2}}", "{\"a\":1}", false},
    {"{\"min_should\":{\"conditions\":[" VALUE("1") "],\"min_count\":0}}", "{\"a\":2}", true},
    {MUST("{\"min_should\":{\"conditions\":[" VALUE("1") "],\"min_count\":1}}"), "{\"a\":2}", false},
};

START_TEST(filter_matches_in_all_kinds)
{
    ck_assert_msg(matches(more_cases[_i].filter, 7, more_cases[_i].payload) == more_cases[_i].expected, "%s on %s is not %d", more_cases[_i].filter,
                  more_cases[_i].payload ? more_cases[_i].payload : "no payload", more_cases[_i].expected);
}
END_TEST

#define KNOWN "key, match, range, values_count, is_empty, is_null, has_id, nested, must, should, must_not, min_should"
#define EITHER "a condition is either a key with match, range or values_count, or is_empty, is_null, has_id or nested, or must, should, must_not and min_should"
#define ONE_OF "needs one of \"value\", \"any\", \"except\", \"text\" and \"text_any\""

static const struct { const char *filter; int code; const char *message; } bad[] = {
    {MUST("{\"key\":\"a\",\"match\":{\"phrase\":\"x\"}}"), AP_EUNSUPPORTED, "filter.must[0].match: \"phrase\" is not supported"},
    {MUST("{\"key\":\"a\",\"geo_radius\":{}}"), AP_EUNSUPPORTED, "filter.must[0]: \"geo_radius\" is not supported"},
    {MUST("{\"has_vector\":\"x\"}"), AP_EUNSUPPORTED, "filter.must[0]: \"has_vector\" is not supported"},
    {MUST("{\"key\":\"a\",\"match\":{\"value\":1},\"range\":{}}"), AP_EUNSUPPORTED,
     "filter.must[0]: several of match, range, values_count, is_empty and is_null in one condition are not supported, write a condition for each"},
    {MUST(NEST("{\"must\":[{\"has_id\":[1]}]}")), AP_EUNSUPPORTED, "filter.must[0].nested: has_id is not supported in a nested filter"},
    {MUST("{\"nested\":{}}"), AP_EINVAL, "filter.must[0].nested: \"key\" is missing"},
    {MUST("{\"is_empty\":{\"kei\":\"a\"}}"), AP_EINVAL, "filter.must[0].is_empty: unknown field \"kei\"; known are: key"},
    {"{\"min_should\":{}}", AP_EINVAL, "filter.min_should: \"conditions\" is missing"},
    {"{\"should\":{\"min_should\":{\"conditions\":[],\"min_count\":-1}}}", AP_EINVAL, "filter.should.min_should: \"min_count\" must not be negative"},
    {MUST(RANGE("\"gte\":\"2024-13-01\"")), AP_EINVAL, "filter.must[0].range: \"gte\" is no date as 2024-02-29T12:00:00Z"},
    {MUST(RANGE("\"gte\":\"2024-01-01\",\"lt\":5")), AP_EINVAL, "filter.must[0].range: the bounds must be all numbers or all dates"},
    {MUST(KEY("a[x]", "1")), AP_EINVAL, "filter.must[0]: brackets hold nothing or the number of an element"},
    {MUST(KEY("a.", "1")), AP_EINVAL, "filter.must[0]: the key has an empty segment"},
    {MUST(KEY("[]", "1")), AP_EINVAL, "filter.must[0]: the key has an empty segment"},
    {"{\"mst\":[]}", AP_EINVAL, "filter: unknown field \"mst\"; known are: must, should, must_not, min_should"},
    {"{\"key\":\"a\",\"match\":{\"value\":1}}", AP_EINVAL, "filter: unknown field \"key\"; known are: must, should, must_not, min_should"},
    {MUST("{\"kee\":\"a\"}"), AP_EINVAL, "filter.must[0]: unknown field \"kee\"; known are: " KNOWN},
    {MUST("{\"key\":\"a\",\"match\":{\"val\":1}}"), AP_EINVAL, "filter.must[0].match: unknown field \"val\"; known are: value, any, except, text, text_any"},
    {MUST(RANGE("\"ge\":1")), AP_EINVAL, "filter.must[0].range: unknown field \"ge\"; known are: gt, gte, lt, lte"},
    {MUST(RANGE("\"lt\":true")), AP_EINVAL, "filter.must[0].range: \"lt\" must be a number or a date"},
    {MUST(COUNT("\"lt\":\"2024-01-01\"")), AP_EINVAL, "filter.must[0].values_count: \"lt\" must be a number"},
    {MUST(VALUE("1.5")), AP_EINVAL, "filter.must[0].match: \"value\" must be a string, an integer, true or false"},
    {MUST(VALUE("[1]")), AP_EINVAL, "filter.must[0].match: \"value\" must be a string, an integer, true or false"},
    {MUST("{\"key\":\"a\",\"match\":{}}"), AP_EINVAL, "filter.must[0].match: " ONE_OF},
    {MUST("{\"key\":\"a\",\"match\":{\"value\":1,\"any\":[1]}}"), AP_EINVAL, "filter.must[0].match: " ONE_OF},
    {MUST(ANY("[1,\"x\"]")), AP_EINVAL, "filter.must[0].match.any[1]: the values must be all strings or all integers"},
    {MUST(EXCEPT("[\"x\",\"y\",1]")), AP_EINVAL, "filter.must[0].match.except[2]: the values must be all strings or all integers"},
    {MUST(ANY("[true]")), AP_EINVAL, "filter.must[0].match.any[0]: the values must be all strings or all integers"},
    {MUST(ANY("1")), AP_EINVAL, "filter.must[0].match: \"any\" must be a list"},
    {MUST("{\"key\":\"a\"}"), AP_EINVAL, "filter.must[0]: needs \"match\", \"range\", \"values_count\", \"is_empty\" or \"is_null\""},
    {MUST("{\"match\":{\"value\":1}}"), AP_EINVAL, "filter.must[0]: \"key\" is missing"},
    {MUST("{\"key\":\"a..b\",\"match\":{\"value\":1}}"), AP_EINVAL, "filter.must[0]: the key has an empty segment"},
    {MUST("{\"key\":\"\",\"match\":{\"value\":1}}"), AP_EINVAL, "filter.must[0]: the key has an empty segment"},
    {MUST("{\"has_id\":[1],\"key\":\"a\"}"), AP_EINVAL, "filter.must[0]: " EITHER},
    {MUST("{\"is_empty\":{\"key\":\"a\"},\"must\":[]}"), AP_EINVAL, "filter.must[0]: " EITHER},
    {MUST("{\"has_id\":7}"), AP_EINVAL, "filter.must[0]: \"has_id\" must be a list"},
    {MUST("7"), AP_EINVAL, "filter.must[0]: expected an object"},
    {"{\"must\":7}", AP_EINVAL, "filter.must: expected an object"},
    {"[]", AP_EINVAL, "filter: expected an object"},
};

/* Declared fields: values of their type alone count, and conditions of another type are refused. */
static const struct { const char *type, *filter, *payload; int expected; /* -1: refused */ } declared[] = {
    {"keyword", MUST(VALUE("\"x\"")), "{\"a\":\"x\"}", 1},
    {"keyword", MUST(EXCEPT("[\"x\"]")), "{\"a\":[1,\"x\"]}", 0},
    {"keyword", MUST(VALUE("1")), NULL, -1},
    {"keyword", MUST(RANGE("\"gt\":1")), NULL, -1},
    {"keyword", MUST(TEXT("\"x\"")), NULL, -1},
    {"keyword", MUST(ANY("[]")), "{\"a\":\"x\"}", 0},
    {"integer", MUST(RANGE("\"gt\":1")), "{\"a\":3.5}", 0},
    {"integer", MUST(RANGE("\"gt\":1")), "{\"a\":3}", 1},
    {"integer", MUST(EXCEPT("[3]")), "{\"a\":\"x\"}", 0},
    {"integer", MUST(VALUE("true")), NULL, -1},
    {"float", MUST(RANGE("\"gt\":1")), "{\"a\":3}", 1},
    {"float", MUST(VALUE("1")), NULL, -1},
    {"bool", MUST(VALUE("true")), "{\"a\":true}", 1},
    {"bool", MUST(VALUE("\"true\"")), NULL, -1},
    {"datetime", MUST(RANGE("\"gt\":\"2024-01-01\"")), "{\"a\":\"2024-01-02\"}", 1},
    {"datetime", MUST(RANGE("\"gt\":1")), NULL, -1},
    {"integer", MUST(RANGE("\"gt\":\"2024-01-01\"")), NULL, -1},
    {"uuid", MUST(VALUE("\"550E8400-E29B-41D4-A716-446655440000\"")), "{\"a\":\"550e8400e29b41d4a716446655440000\"}", 1},
    {"uuid", MUST(VALUE("\"x\"")), NULL, -1},
    {"text", MUST(TEXT("\"QUICK fox\"")), "{\"a\":\"The quick, brown fox.\"}", 1},
    {"text", MUST(TEXT("\"quick foxes\"")), "{\"a\":\"The quick, brown fox.\"}", 0},
    {"text", MUST(TEXT("\"qui\"")), "{\"a\":\"The quick, brown fox.\"}", 0},
    {"text", MUST(TEXT("\"\\u00c4PFEL\"")), "{\"a\":[\"zwei\",\"\\u00e4pfel\"]}", 1},
    {"text", MUST(TEXT("\"...\"")), "{\"a\":\"...\"}", 0},
    {"text", MUST("{\"key\":\"a\",\"match\":{\"text_any\":\"wolf fox\"}}"), "{\"a\":\"fox\"}", 1},
    {"text", MUST(VALUE("\"x\"")), NULL, -1},
    {"integer", MUST(EMPTY), "{\"a\":\"x\"}", 0},
    {"integer", MUST("{\"should\":[" VALUE("\"x\"") "]}"), NULL, -1},
};

START_TEST(declared_fields_have_one_type)
{
    struct ap_control_index record = {0};
    struct ap_field field;
    struct ap_point_id id = {{0}};
    json_t *type = json_string(declared[_i].type);
    ck_assert_int_eq(ap_field_parse("a", type, &record, &err), 0);
    json_decref(type);
    ck_assert_int_eq(ap_field_init(&field, &record, &err), 0);
    struct ap_filter *filter = parse(declared[_i].filter);
    int rc = ap_filter_bind(filter, &field, 1, &err);
    ck_assert_msg(rc == (declared[_i].expected < 0 ? AP_EINVAL : 0), "%s: %s", declared[_i].filter, err.msg);
    if (rc) {
        ck_assert_ptr_nonnull(strstr(err.msg, "declared"));
    } else {
        json_t *payload = json(declared[_i].payload);
        ck_assert_msg(ap_filter_match(filter, &id, payload) == declared[_i].expected, "%s %s on %s", declared[_i].type, declared[_i].filter, declared[_i].payload);
        json_decref(payload);
    }
    ap_filter_free(&filter);
    ap_field_fini(&field);
    free(record.field);
    free(record.options);
}
END_TEST

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
    tcase_add_loop_test(tc, filter_matches_in_all_kinds, 0, sizeof more_cases / sizeof *more_cases);
    tcase_add_loop_test(tc, declared_fields_have_one_type, 0, sizeof declared / sizeof *declared);
    tcase_add_loop_test(tc, what_is_not_served_is_refused_by_name, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(tc, bad_id_in_has_id_is_named);
    tcase_add_test(tc, depth_and_size_are_bounded);
    tcase_add_loop_test(tc, callers_learn_what_to_read, 0, (int)(sizeof plans / sizeof *plans));
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
