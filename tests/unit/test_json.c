/* Strict JSON reading: what is refused, and in which words. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"
#include "run.h"

static struct ap_err err;

static json_t *parse(const char *text)
{
    json_error_t at;
    json_t *value = json_loads(text, JSON_DECODE_ANY, &at);
    ck_assert_msg(value != NULL, "%s in %s", at.text, text);
    return value;
}

START_TEST(vector_becomes_floats)
{
    json_t *array = parse("[1, -2.5, 0.1, 0]");
    float *v;
    size_t dim;
    ck_assert_int_eq(ap_json_vector(array, 0, &v, &dim, &err), 0);
    ck_assert_uint_eq(dim, 4);
    const float expected[] = {1, -2.5f, 0.1f, 0};
    ck_assert_mem_eq(v, expected, sizeof expected);
    free(v);
    ck_assert_int_eq(ap_json_vector(array, 4, &v, &dim, &err), 0);
    free(v);
    json_decref(array);
}
END_TEST

static const struct { const char *text; size_t dim; const char *message; } bad_vectors[] = {
    {"[1,2,3]", 4, "Wrong input: Vector dimension error: expected dim: 4, got 3"},
    {"[1,2,3,4,5]", 4, "Wrong input: Vector dimension error: expected dim: 4, got 5"},
    {"[]", 4, "Wrong input: Vector dimension error: expected dim: 4, got 0"},
    {"[]", 0, "Wrong input: the vector is empty"},
    {"[1,2,\"3\",4]", 4, "Wrong input: component 2 of the vector is not a number"},
    {"[1,null]", 0, "Wrong input: component 1 of the vector is not a number"},
    {"[1,2,3,1e39]", 4, "Wrong input: component 3 of the vector is not finite as float32: 1e+39"},
    {"{\"\":[1]}", 4, "Wrong input: a vector must be a list of numbers"},
    {"7", 0, "Wrong input: a vector must be a list of numbers"},
};

START_TEST(bad_vector_is_named)
{
    json_t *value = parse(bad_vectors[_i].text);
    float *v;
    size_t dim;
    ck_assert_int_eq(ap_json_vector(value, bad_vectors[_i].dim, &v, &dim, &err), AP_EINVAL);
    ck_assert_str_eq(err.msg, bad_vectors[_i].message);
    ck_assert_ptr_null(v);
    json_decref(value);
}
END_TEST

static int read_fields(const char *text, json_t *values[3])
{
    json_t *object = parse(text);
    const struct ap_json_field fields[] = {
        {"id", AP_JSON_ANY, true, &values[0]},
        {"limit", AP_JSON_INTEGER, false, &values[1]},
        {"with", AP_JSON_BOOL, false, &values[2]},
        {"lookup", AP_JSON_ANY, false, NULL},
        AP_JSON_END,
    };
    int rc = ap_json_fields(object, "points[3]", fields, &err);
    for (int i = 0; i < 3; i++) /* keep what was read beyond the object's life */
        json_incref(values[i]);
    json_decref(object);
    return rc;
}

START_TEST(fields_are_taken_and_null_is_absent)
{
    json_t *v[3];
    ck_assert_int_eq(read_fields("{\"limit\":3,\"id\":\"x\",\"with\":null,\"lookup\":null}", v), 0);
    ck_assert_str_eq(json_string_value(v[0]), "x");
    ck_assert_int_eq(json_integer_value(v[1]), 3);
    ck_assert_ptr_null(v[2]);
    json_decref(v[0]);
    json_decref(v[1]);
}
END_TEST

static const struct { const char *text; int code; const char *message; } bad_objects[] = {
    {"{\"id\":1,\"limt\":3}", AP_EINVAL, "points[3]: unknown field \"limt\"; known are: id, limit, with"},
    {"{\"id\":1,\"lookup\":{}}", AP_EUNSUPPORTED, "points[3]: \"lookup\" is not supported"},
    {"{\"id\":1,\"limit\":3.0}", AP_EINVAL, "points[3]: \"limit\" must be an integer"},
    {"{\"id\":1,\"with\":1}", AP_EINVAL, "points[3]: \"with\" must be true or false"},
    {"{\"limit\":3}", AP_EINVAL, "points[3]: \"id\" is missing"},
    {"{\"id\":null}", AP_EINVAL, "points[3]: \"id\" is missing"},
    {"[]", AP_EINVAL, "points[3]: expected an object"},
};

START_TEST(bad_object_is_named)
{
    json_t *v[3];
    ck_assert_int_eq(read_fields(bad_objects[_i].text, v), bad_objects[_i].code);
    ck_assert_str_eq(err.msg, bad_objects[_i].message);
    for (int i = 0; i < 3; i++)
        json_decref(v[i]);
}
END_TEST

START_TEST(point_ids_name_the_bad_one)
{
    struct ap_point_id *ids;
    size_t n;
    json_t *list = parse("[7, \"550e8400-e29b-41d4-a716-446655440000\", \"550e8400e29b41d4a716446655440000\"]");
    ck_assert_int_eq(ap_json_point_ids(list, "points", &ids, &n, &err), 0);
    ck_assert_uint_eq(n, 3);
    ck_assert_int_eq(ids[0].b[15], 7);
    ck_assert_mem_eq(&ids[1], &ids[2], sizeof ids[1]);
    free(ids);
    json_decref(list);

    list = parse("[7, -1]");
    ck_assert_int_eq(ap_json_point_ids(list, "points", &ids, &n, &err), AP_EINVAL);
    ck_assert_ptr_eq(strstr(err.msg, "points[1]: "), err.msg);
    ck_assert_ptr_null(ids);
    json_decref(list);

    list = parse("7");
    ck_assert_int_eq(ap_json_point_ids(list, "points", &ids, &n, &err), AP_EINVAL);
    ck_assert_str_eq(err.msg, "points: expected a list of point ids");
    json_decref(list);

    list = parse("[]");
    ck_assert_int_eq(ap_json_point_ids(list, "points", &ids, &n, &err), 0);
    ck_assert_uint_eq(n, 0);
    json_decref(list);
}
END_TEST

START_TEST(first_nonfinite_is_found)
{
    float v[100];
    for (int i = 0; i < 100; i++)
        v[i] = i % 2 ? 3.4e38f : -3.4e38f;
    ck_assert_uint_eq(ap_floats_first_nonfinite(v, 100), 100);
    v[99] = NAN;
    ck_assert_uint_eq(ap_floats_first_nonfinite(v, 100), 99);
    ck_assert_uint_eq(ap_floats_first_nonfinite(v, 99), 99);
    v[17] = -INFINITY;
    ck_assert_uint_eq(ap_floats_first_nonfinite(v, 100), 17);
    ck_assert_uint_eq(ap_floats_first_nonfinite(v, 0), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, vector_becomes_floats);
    tcase_add_loop_test(tc, bad_vector_is_named, 0, (int)(sizeof bad_vectors / sizeof *bad_vectors));
    tcase_add_test(tc, fields_are_taken_and_null_is_absent);
    tcase_add_loop_test(tc, bad_object_is_named, 0, (int)(sizeof bad_objects / sizeof *bad_objects));
    tcase_add_test(tc, point_ids_name_the_bad_one);
    tcase_add_test(tc, first_nonfinite_is_found);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
