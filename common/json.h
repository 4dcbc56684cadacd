/* Strict reading of JSON that came from outside: vectors, objects whose keys are all known, lists of point ids.
 *
 * Invariant: nothing is ignored that the sender may have meant. An unknown key is refused by name, a null counts as
 * absent (clients write it for optional fields they leave out). Errors are AP_EINVAL or AP_EUNSUPPORTED, AP_POISON.
 * No state: any thread. */
#ifndef ANTIPODE_COMMON_JSON_H
#define ANTIPODE_COMMON_JSON_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "common/err.h"
#include "common/ident.h"

enum ap_json_kind { AP_JSON_ANY, AP_JSON_STRING, AP_JSON_INTEGER, AP_JSON_NUMBER, AP_JSON_BOOL, AP_JSON_OBJECT, AP_JSON_ARRAY };

/* One key of an object. value receives a borrowed reference, or NULL when the key is absent or null. A row with value
 * NULL names a key that is understood and not served: it is refused with AP_EUNSUPPORTED unless absent or null. */
struct ap_json_field {
    const char *key;
    enum ap_json_kind kind;
    bool required;
    json_t **value;
};
#define AP_JSON_END { NULL, AP_JSON_ANY, false, NULL }

/* Take the object apart. what is its name in errors ("points[3]", "query"). All values are set, also on failure. */
int ap_json_fields(json_t *object, const char *what, const struct ap_json_field *fields, struct ap_err *err);

/* Numbers of a JSON array as float32, each finite as such. expect_dim 0 takes any length from 1. Errors say which
 * component, or "Wrong input: Vector dimension error: expected dim: 4, got 3". */
int ap_json_vector_into(const json_t *array, size_t dim, float *out, struct ap_err *err); /* out: dim floats */
int ap_json_vector(const json_t *array, size_t expect_dim, float **out, size_t *dim, struct ap_err *err); /* free() *out */

/* A JSON array of point ids; what names it in errors ("points[2]: ..."). free() *out; NULL when it is empty. */
int ap_json_point_ids(const json_t *array, const char *what, struct ap_point_id **out, size_t *count, struct ap_err *err);

/* Index of the first component that is NaN or infinite, or n if there is none. */
size_t ap_floats_first_nonfinite(const float *values, size_t n);

#endif
