/* Strict JSON reading. */
#include "common/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_kind(const json_t *value, enum ap_json_kind kind)
{
    switch (kind) {
    case AP_JSON_ANY: return true;
    case AP_JSON_STRING: return json_is_string(value);
    case AP_JSON_INTEGER: return json_is_integer(value);
    case AP_JSON_NUMBER: return json_is_number(value);
    case AP_JSON_BOOL: return json_is_boolean(value);
    case AP_JSON_OBJECT: return json_is_object(value);
    case AP_JSON_ARRAY: return json_is_array(value);
    }
    return false;
}

static const char *kind_name(enum ap_json_kind kind)
{
    static const char *const names[] = {"a value", "a string", "an integer", "a number", "true or false", "an object", "a list"};
    return names[kind];
}

static int unknown_key(const char *what, const char *key, const struct ap_json_field *fields, struct ap_err *err)
{
    char known[200] = "";
    size_t used = 0;
    for (; fields->key; fields++)
        if (fields->value && used + strlen(fields->key) + 3 < sizeof known) {
            if (used)
                used = (size_t)(stpcpy(known + used, ", ") - known);
            used = (size_t)(stpcpy(known + used, fields->key) - known);
        }
    return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: unknown field \"%.60s\"; known are: %s", what, key, known);
}

int ap_json_fields(json_t *object, const char *what, const struct ap_json_field *fields, struct ap_err *err)
{
    for (const struct ap_json_field *f = fields; f->key; f++)
        if (f->value)
            *f->value = NULL;
    if (!json_is_object(object))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: expected an object", what);

    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        const struct ap_json_field *f = fields;
        while (f->key && strcmp(f->key, key) != 0)
            f++;
        if (!f->key)
            return unknown_key(what, key, fields, err);
        if (json_is_null(value))
            continue;
        if (!f->value)
            return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "%s: \"%s\" is not supported", what, key);
        if (!is_kind(value, f->kind))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: \"%s\" must be %s", what, key, kind_name(f->kind));
        *f->value = value;
    }
    for (const struct ap_json_field *f = fields; f->key; f++)
        if (f->required && f->value && !*f->value)
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: \"%s\" is missing", what, f->key);
    return 0;
}

int ap_json_vector_into(const json_t *array, size_t dim, float *out, struct ap_err *err)
{
    if (!json_is_array(array))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: a vector must be a list of numbers");
    size_t n = json_array_size(array);
    if (n != dim)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: Vector dimension error: expected dim: %zu, got %zu", dim, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, i);
        if (!json_is_number(item))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: component %zu of the vector is not a number", i);
        double number = json_number_value(item);
        out[i] = (float)number;
        if (!isfinite(out[i]))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: component %zu of the vector is not finite as float32: %g",
                              i, number);
    }
    return 0;
}

int ap_json_vector(const json_t *array, size_t expect_dim, float **out, size_t *dim, struct ap_err *err)
{
    *out = NULL;
    *dim = 0;
    size_t n = expect_dim ? expect_dim : json_array_size(array);
    if (json_is_array(array) && n == 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: the vector is empty");
    float *values = malloc((n ? n : 1) * sizeof *values); /* n is bounded by the body, or by the collection */
    if (!values)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for a vector of %zu components", n);
    int rc = ap_json_vector_into(array, n, values, err);
    if (rc) {
        free(values);
        return rc;
    }
    *out = values;
    *dim = n;
    return 0;
}

int ap_json_point_ids(const json_t *array, const char *what, struct ap_point_id **out, size_t *count, struct ap_err *err)
{
    *out = NULL;
    *count = 0;
    if (!json_is_array(array))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: expected a list of point ids", what);
    size_t n = json_array_size(array);
    if (n == 0)
        return 0;
    struct ap_point_id *ids = calloc(n, sizeof *ids);
    if (!ids)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for %zu point ids", n);
    for (size_t i = 0; i < n; i++) {
        int rc = ap_point_id_from_json(json_array_get(array, i), &ids[i], err);
        if (rc) {
            free(ids);
            ap_err_wrap(err, "%s[%zu]", what, i);
            return rc;
        }
    }
    *out = ids;
    *count = n;
    return 0;
}

size_t ap_floats_first_nonfinite(const float *values, size_t n)
{
    /* x - x is 0 for a finite x and NaN else: a loop without branches, which compilers turn into vector code. */
    float probe = 0;
    for (size_t i = 0; i < n; i++)
        probe += values[i] - values[i];
    if (!isnan(probe))
        return n;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return i;
    return n;
}
