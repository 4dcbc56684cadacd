/* Filters. Flow: ap_filter_parse reads the JSON into conditions, checks every key, and bounds depth and size; matching
 * then walks the tree without allocating and cannot fail. */
#include "indexer/filter.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"

enum condition_kind { BY_STRING, BY_INTEGER, BY_BOOL, BY_RANGE, BY_ID, NESTED };

struct clause { struct condition *items; size_t count; };

struct ap_filter {
    struct clause must, should, must_not;
    bool needs_payload;
};

struct condition {
    enum condition_kind kind;
    char *path;          /* segments of the key, each ended by a NUL; path_count of them */
    size_t path_count;
    size_t count;        /* of strings, integers or ids: sorted */
    char **strings;
    json_int_t *integers;
    struct ap_point_id *ids;
    bool flag;
    double above, below; /* range; infinite when open */
    bool above_included, below_included;
    struct ap_filter nested;
};

/* What is left of the bounds, while parsing. */
struct budget { size_t conditions, values; };

static void *must_alloc(void *p)
{
    if (!p)
        abort(); /* sizes are bounded by the budget */
    return p;
}

/* --- freeing --- */

static void filter_fini(struct ap_filter *filter);

static void clause_fini(struct clause *clause)
{
    for (size_t i = 0; i < clause->count; i++) {
        struct condition *c = &clause->items[i];
        for (size_t k = 0; c->strings && k < c->count; k++)
            free(c->strings[k]);
        free(c->strings);
        free(c->integers);
        free(c->ids);
        free(c->path);
        filter_fini(&c->nested);
    }
    free(clause->items);
}

static void filter_fini(struct ap_filter *filter)
{
    clause_fini(&filter->must);
    clause_fini(&filter->should);
    clause_fini(&filter->must_not);
}

void ap_filter_free(struct ap_filter **filter)
{
    if (!*filter)
        return;
    filter_fini(*filter);
    free(*filter);
    *filter = NULL;
}

/* --- sorted lists --- */

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int compare_integers(const void *a, const void *b)
{
    json_int_t x = *(const json_int_t *)a, y = *(const json_int_t *)b;
    return (x > y) - (x < y);
}

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct ap_point_id));
}

static void sort_ids(struct condition *c)
{
    if (c->count == 0)
        return;
    qsort(c->ids, c->count, sizeof *c->ids, compare_ids);
    size_t kept = 0;
    for (size_t i = 0; i < c->count; i++)
        if (kept == 0 || compare_ids(&c->ids[i], &c->ids[kept - 1]) != 0)
            c->ids[kept++] = c->ids[i];
    c->count = kept;
}

/* --- parsing --- */

static int unsupported(struct ap_err *err, const char *where, const char *what)
{
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "%s: %s", where, what);
}

static int invalid(struct ap_err *err, const char *where, const char *what)
{
    return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: %s", where, what);
}

static int parse_path(struct condition *c, const char *key, const char *where, struct ap_err *err)
{
    if (strpbrk(key, "[]\""))
        return unsupported(err, where, "a key with [] or quotes is not supported, only dotted paths");
    c->path = must_alloc(strdup(key));
    c->path_count = 1;
    size_t len = 0;
    for (char *p = c->path;; p++) {
        if (*p && *p != '.') {
            len++;
            continue;
        }
        if (len == 0)
            return invalid(err, where, "the key has an empty segment");
        if (!*p)
            return 0;
        *p = 0;
        len = 0;
        c->path_count++;
    }
}

static int take_values(struct budget *budget, size_t n, const char *where, struct ap_err *err)
{
    if (n > budget->values)
        return ap_err_set(err, AP_ETOOBIG, AP_POISON, "%s: the filter has more than %d values", where, AP_FILTER_MAX_VALUES);
    budget->values -= n;
    return 0;
}

static int parse_any(struct condition *c, const json_t *list, const char *where, struct ap_err *err)
{
    size_t n = json_array_size(list);
    bool strings = n && json_is_string(json_array_get(list, 0));
    c->kind = strings ? BY_STRING : BY_INTEGER;
    c->strings = strings ? must_alloc(calloc(n, sizeof *c->strings)) : NULL;
    c->integers = strings ? NULL : must_alloc(calloc(n ? n : 1, sizeof *c->integers));
    for (; c->count < n; c->count++) {
        const json_t *item = json_array_get(list, c->count);
        if (strings ? !json_is_string(item) : !json_is_integer(item))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s.any[%zu]: the values must be all strings or all integers", where,
                              c->count);
        if (strings)
            c->strings[c->count] = must_alloc(strdup(json_string_value(item)));
        else
            c->integers[c->count] = json_integer_value(item);
    }
    if (strings)
        qsort(c->strings, n, sizeof *c->strings, compare_strings);
    else
        qsort(c->integers, n, sizeof *c->integers, compare_integers);
    return 0;
}

static int parse_match(struct condition *c, json_t *json, const char *parent, struct budget *budget, struct ap_err *err)
{
    char where[160];
    snprintf(where, sizeof where, "%s.match", parent);
    json_t *value, *any;
    const struct ap_json_field fields[] = {
        {"value", AP_JSON_ANY, false, &value}, {"any", AP_JSON_ARRAY, false, &any},
        {"text", AP_JSON_ANY, false, NULL},    {"text_any", AP_JSON_ANY, false, NULL},
        {"phrase", AP_JSON_ANY, false, NULL},  {"except", AP_JSON_ANY, false, NULL},
        AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    if (!value == !any)
        return invalid(err, where, "needs either \"value\" or \"any\"");
    if ((rc = take_values(budget, any ? json_array_size(any) : 1, where, err)))
        return rc;
    if (any)
        return parse_any(c, any, where, err);
    if (json_is_boolean(value)) {
        c->kind = BY_BOOL;
        c->flag = json_is_true(value);
        return 0;
    }
    if (!json_is_string(value) && !json_is_integer(value))
        return invalid(err, where, "\"value\" must be a string, an integer, true or false");
    json_t *one = must_alloc(json_pack("[O]", value)); /* a list of one */
    rc = parse_any(c, one, where, err);
    json_decref(one);
    return rc;
}

/* A bound of the range; NULL leaves it open. gt is set before gte and lt before lte: an equal second one adds nothing. */
static void set_above(struct condition *c, const json_t *json, bool included)
{
    double v = json_number_value(json);
    if (!json || v <= c->above)
        return;
    c->above = v;
    c->above_included = included;
}

static void set_below(struct condition *c, const json_t *json, bool included)
{
    double v = json_number_value(json);
    if (!json || v >= c->below)
        return;
    c->below = v;
    c->below_included = included;
}

static int parse_range(struct condition *c, json_t *json, const char *parent, struct ap_err *err)
{
    char where[160];
    snprintf(where, sizeof where, "%s.range", parent);
    json_t *gt, *gte, *lt, *lte;
    const struct ap_json_field fields[] = {
        {"gt", AP_JSON_ANY, false, &gt}, {"gte", AP_JSON_ANY, false, &gte},
        {"lt", AP_JSON_ANY, false, &lt}, {"lte", AP_JSON_ANY, false, &lte},
        AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    const json_t *bounds[] = {gt, gte, lt, lte};
    for (size_t i = 0; i < 4; i++) {
        if (json_is_string(bounds[i]))
            return unsupported(err, where, "ranges of dates are not supported, only of numbers");
        if (bounds[i] && !json_is_number(bounds[i]))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: \"%s\" must be a number", where, fields[i].key);
    }
    c->kind = BY_RANGE;
    c->above = -INFINITY;
    c->below = INFINITY;
    c->above_included = c->below_included = true;
    set_above(c, gt, false);
    set_above(c, gte, true);
    set_below(c, lt, false);
    set_below(c, lte, true);
    return 0;
}

static int parse_clause(struct clause *clause, json_t *json, const char *parent, const char *name, size_t depth,
                        struct budget *budget, bool *needs_payload, struct ap_err *err);

static int parse_clauses(struct ap_filter *f, json_t *must, json_t *should, json_t *must_not, const char *where, size_t depth,
                         struct budget *budget, struct ap_err *err)
{
    if (depth > AP_FILTER_MAX_DEPTH)
        return ap_err_set(err, AP_ETOOBIG, AP_POISON, "filter: nested more than %d deep", AP_FILTER_MAX_DEPTH);
    int rc = parse_clause(&f->must, must, where, "must", depth, budget, &f->needs_payload, err);
    if (rc == 0)
        rc = parse_clause(&f->should, should, where, "should", depth, budget, &f->needs_payload, err);
    if (rc == 0)
        rc = parse_clause(&f->must_not, must_not, where, "must_not", depth, budget, &f->needs_payload, err);
    return rc;
}

static int parse_condition(struct condition *c, json_t *json, const char *where, size_t depth, struct budget *budget,
                           struct ap_err *err)
{
    json_t *key, *match, *range, *has_id, *must, *should, *must_not;
    const struct ap_json_field fields[] = {
        {"key", AP_JSON_STRING, false, &key},          {"match", AP_JSON_OBJECT, false, &match},
        {"range", AP_JSON_OBJECT, false, &range},      {"has_id", AP_JSON_ARRAY, false, &has_id},
        {"must", AP_JSON_ANY, false, &must},           {"should", AP_JSON_ANY, false, &should},
        {"must_not", AP_JSON_ANY, false, &must_not},   {"min_should", AP_JSON_ANY, false, NULL},
        {"is_empty", AP_JSON_ANY, false, NULL},        {"is_null", AP_JSON_ANY, false, NULL},
        {"nested", AP_JSON_ANY, false, NULL},          {"has_vector", AP_JSON_ANY, false, NULL},
        {"geo_radius", AP_JSON_ANY, false, NULL},      {"geo_bounding_box", AP_JSON_ANY, false, NULL},
        {"geo_polygon", AP_JSON_ANY, false, NULL},     {"values_count", AP_JSON_ANY, false, NULL},
        {"datetime_range", AP_JSON_ANY, false, NULL},  AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    bool clauses = must || should || must_not, field = key || match || range;
    if ((has_id && (clauses || field)) || (clauses && field))
        return invalid(err, where, "a condition is either a key with match or range, or has_id, or must, should and must_not");
    if (has_id) {
        char list[200];
        snprintf(list, sizeof list, "%s.has_id", where);
        c->kind = BY_ID;
        if ((rc = take_values(budget, json_array_size(has_id), where, err)) == 0 &&
            (rc = ap_json_point_ids(has_id, list, &c->ids, &c->count, err)) == 0)
            sort_ids(c);
        return rc;
    }
    if (!field) {
        c->kind = NESTED;
        return parse_clauses(&c->nested, must, should, must_not, where, depth + 1, budget, err);
    }
    if (!key)
        return invalid(err, where, "\"key\" is missing");
    if (match && range)
        return unsupported(err, where, "match and range in one condition are not supported, write two conditions");
    if (!match && !range)
        return invalid(err, where, "needs \"match\" or \"range\"");
    if ((rc = parse_path(c, json_string_value(key), where, err)))
        return rc;
    return match ? parse_match(c, match, where, budget, err) : parse_range(c, range, where, err);
}

static int parse_clause(struct clause *clause, json_t *json, const char *parent, const char *name, size_t depth,
                        struct budget *budget, bool *needs_payload, struct ap_err *err)
{
    if (!json)
        return 0;
    bool list = json_is_array(json);
    size_t n = list ? json_array_size(json) : 1;
    if (n > budget->conditions)
        return ap_err_set(err, AP_ETOOBIG, AP_POISON, "filter: more than %d conditions", AP_FILTER_MAX_CONDITIONS);
    budget->conditions -= n;
    if (n == 0)
        return 0;
    clause->items = must_alloc(calloc(n, sizeof *clause->items));
    for (size_t i = 0; i < n; i++) {
        char where[128];
        if (list)
            snprintf(where, sizeof where, "%s.%s[%zu]", parent, name, i);
        else
            snprintf(where, sizeof where, "%s.%s", parent, name);
        clause->count = i + 1; /* counted before it is parsed, so that a failure frees it */
        struct condition *c = &clause->items[i];
        int rc = parse_condition(c, list ? json_array_get(json, i) : json, where, depth, budget, err);
        if (rc)
            return rc;
        *needs_payload = *needs_payload || (c->kind == NESTED ? c->nested.needs_payload : c->kind != BY_ID);
    }
    return 0;
}

int ap_filter_parse(const json_t *json, struct ap_filter **out, struct ap_err *err)
{
    *out = NULL;
    if (!json || json_is_null(json))
        return 0;
    json_t *must, *should, *must_not;
    const struct ap_json_field fields[] = {
        {"must", AP_JSON_ANY, false, &must},         {"should", AP_JSON_ANY, false, &should},
        {"must_not", AP_JSON_ANY, false, &must_not}, {"min_should", AP_JSON_ANY, false, NULL},
        AP_JSON_END,
    };
    /* The reader takes no const, because it hands out references to parts; this one only borrows them. */
    int rc = ap_json_fields((json_t *)(uintptr_t)json, "filter", fields, err);
    if (rc)
        return rc;
    struct ap_filter *filter = must_alloc(calloc(1, sizeof *filter));
    struct budget budget = {AP_FILTER_MAX_CONDITIONS, AP_FILTER_MAX_VALUES};
    rc = parse_clauses(filter, must, should, must_not, "filter", 1, &budget, err);
    if (rc || !(filter->must.count || filter->should.count || filter->must_not.count))
        ap_filter_free(&filter);
    *out = filter;
    return rc;
}

/* --- matching --- */

static bool value_matches(const struct condition *c, const json_t *value)
{
    switch (c->kind) {
    case BY_STRING: {
        const char *text = json_string_value(value);
        return text && bsearch(&text, c->strings, c->count, sizeof *c->strings, compare_strings);
    }
    case BY_INTEGER: {
        json_int_t number = json_integer_value(value);
        return json_is_integer(value) && bsearch(&number, c->integers, c->count, sizeof *c->integers, compare_integers);
    }
    case BY_BOOL:
        return json_is_boolean(value) && json_is_true(value) == c->flag;
    case BY_RANGE: {
        double number = json_number_value(value);
        return json_is_number(value) && (number > c->above || (c->above_included && number >= c->above)) &&
               (number < c->below || (c->below_included && number <= c->below));
    }
    case BY_ID:
    case NESTED:
        break;
    }
    return false;
}

static bool field_matches(const struct condition *c, const json_t *payload)
{
    const char *segment = c->path;
    for (size_t i = 0; i < c->path_count; i++, segment += strlen(segment) + 1)
        payload = json_object_get(payload, segment); /* NULL for what is no object */
    if (!json_is_array(payload))
        return value_matches(c, payload);
    size_t n = json_array_size(payload);
    for (size_t i = 0; i < n; i++)
        if (value_matches(c, json_array_get(payload, i)))
            return true;
    return false;
}

static bool filter_matches(const struct ap_filter *f, const struct ap_point_id *id, const json_t *payload);

static bool condition_matches(const struct condition *c, const struct ap_point_id *id, const json_t *payload)
{
    if (c->kind == NESTED)
        return filter_matches(&c->nested, id, payload);
    if (c->kind == BY_ID)
        return c->count && bsearch(id, c->ids, c->count, sizeof *c->ids, compare_ids);
    return field_matches(c, payload);
}

static bool any_matches(const struct clause *clause, const struct ap_point_id *id, const json_t *payload)
{
    for (size_t i = 0; i < clause->count; i++)
        if (condition_matches(&clause->items[i], id, payload))
            return true;
    return false;
}

static bool filter_matches(const struct ap_filter *f, const struct ap_point_id *id, const json_t *payload)
{
    for (size_t i = 0; i < f->must.count; i++)
        if (!condition_matches(&f->must.items[i], id, payload))
            return false;
    return (f->should.count == 0 || any_matches(&f->should, id, payload)) && !any_matches(&f->must_not, id, payload);
}

bool ap_filter_match(const struct ap_filter *filter, const struct ap_point_id *id, const json_t *payload)
{
    return !filter || filter_matches(filter, id, payload);
}

bool ap_filter_needs_payload(const struct ap_filter *filter)
{
    return filter && filter->needs_payload;
}

static const struct condition *only_ids(const struct ap_filter *f)
{
    const struct condition *best = NULL;
    for (size_t i = 0; i < f->must.count; i++) {
        const struct condition *c = &f->must.items[i];
        const struct condition *found = c->kind == BY_ID ? c : c->kind == NESTED ? only_ids(&c->nested) : NULL;
        if (found && (!best || found->count < best->count))
            best = found;
    }
    if (!best && f->should.count == 1 && f->should.items[0].kind == BY_ID)
        best = &f->should.items[0];
    return best;
}

const struct ap_point_id *ap_filter_only_ids(const struct ap_filter *filter, size_t *count)
{
    static const struct ap_point_id none;
    const struct condition *c = filter ? only_ids(filter) : NULL;
    *count = c ? c->count : 0;
    return !c ? NULL : c->count ? c->ids : &none; /* an empty list is a list: nothing can match */
}
