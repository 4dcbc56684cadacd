/* Qdrant's filters: parsed once into a tree, bound to the fields that a collection declares, then asked about points.
 *
 * Served: must, should, must_not (a list or a single object) and min_should, nested at will; {key, match: {value | any |
 * except | text | text_any}}, {key, range} of numbers or dates, {key, values_count}, is_empty, is_null, has_id, and nested
 * for lists of objects. Keys are paths (common/json_path.h). As Qdrant has it: a condition on a list holds when it holds
 * for one element; on a missing key it does not hold; 3 is not 3.0, true is not 1; a range of numbers holds for numbers
 * only; empty clauses are no clauses.
 * Under a declared field only values of its type count (common/field.h), and a condition that is not of its type is
 * refused; match.text finds words where the field is text, else a part of the string.
 * All else is refused by name, because a filter that is half understood gives wrong answers: AP_EUNSUPPORTED for what
 * Qdrant has and this does not, AP_EINVAL for the rest.
 * Parsed and bound, a filter does not change: any number of threads may ask it. */
#ifndef ANTIPODE_INDEXER_FILTER_H
#define ANTIPODE_INDEXER_FILTER_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "common/err.h"
#include "common/field.h"
#include "common/ident.h"

#define AP_FILTER_MAX_DEPTH 16
#define AP_FILTER_MAX_CONDITIONS 4096
#define AP_FILTER_MAX_VALUES 200000 /* ids and match.any values together */

struct ap_filter;

/* json NULL, null, or without any clause gives *out = NULL, which every function below takes and which matches all.
 * Copies what it needs of json. */
int ap_filter_parse(const json_t *json, struct ap_filter **out, struct ap_err *err);
void ap_filter_free(struct ap_filter **filter);

/* Look up the conditions' paths among the declared fields, which must outlive the filter's use. Once, before it is asked;
 * without it all fields count as undeclared. AP_EINVAL: a condition that is not of its field's type; the filter is then of
 * no use. */
int ap_filter_bind(struct ap_filter *filter, const struct ap_field *fields, size_t count, struct ap_err *err);

bool ap_filter_is_bound(const struct ap_filter *filter);
/* The fields that it is bound to stay as long as it does: takes the reference. */
struct ap_fields;
void ap_filter_hold(struct ap_filter *filter, struct ap_fields *fields);

/* payload: an object, or NULL when the point has none (or ap_filter_needs_payload says it is not looked at). */
bool ap_filter_match(const struct ap_filter *filter, const struct ap_point_id *id, const json_t *payload);

/* Does a condition ask about a declared field, so that indexes can help? */
bool ap_filter_is_indexed(const struct ap_filter *filter);

/* False when ids alone decide: then the caller need not read or parse payloads. */
bool ap_filter_needs_payload(const struct ap_filter *filter);

/* Where only points of a list can match (a has_id that must hold), that list, sorted by bytes and without duplicates;
 * else NULL. The points of the list still have to be asked. */
const struct ap_point_id *ap_filter_only_ids(const struct ap_filter *filter, size_t *count);

#endif
