/* Qdrant's filters: parsed once into a tree, then asked about each point.
 *
 * Served: must, should and must_not (a list or a single object, nested at will), {key, match: {value | any}},
 * {key, range: {gt, gte, lt, lte}}, has_id. Keys are dotted paths into objects. As Qdrant has it: a condition on a list
 * holds when it holds for one element; on a missing key it does not hold; 3 is not 3.0, true is not 1; a range holds for
 * numbers only; empty clauses are no clauses.
 * All else is refused by name, because a filter that is half understood gives wrong answers: AP_EUNSUPPORTED for what
 * Qdrant has and this does not, AP_EINVAL for the rest.
 * A parsed filter does not change: any number of threads may ask it. */
#ifndef ANTIPODE_INDEXER_FILTER_H
#define ANTIPODE_INDEXER_FILTER_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "common/err.h"
#include "common/ident.h"

#define AP_FILTER_MAX_DEPTH 16
#define AP_FILTER_MAX_CONDITIONS 4096
#define AP_FILTER_MAX_VALUES 200000 /* ids and match.any values together */

struct ap_filter;

/* json NULL, null, or without any clause gives *out = NULL, which every function below takes and which matches all.
 * Copies what it needs of json. */
int ap_filter_parse(const json_t *json, struct ap_filter **out, struct ap_err *err);
void ap_filter_free(struct ap_filter **filter);

/* payload: an object, or NULL when the point has none (or ap_filter_needs_payload says it is not looked at). */
bool ap_filter_match(const struct ap_filter *filter, const struct ap_point_id *id, const json_t *payload);

/* False when ids alone decide: then the caller need not read or parse payloads. */
bool ap_filter_needs_payload(const struct ap_filter *filter);

/* Where only points of a list can match (a has_id that must hold), that list, sorted by bytes and without duplicates;
 * else NULL. The points of the list still have to be asked. */
const struct ap_point_id *ap_filter_only_ids(const struct ap_filter *filter, size_t *count);

#endif
