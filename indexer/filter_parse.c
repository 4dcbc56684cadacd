/* Reading a filter. Flow: ap_filter_parse reads the JSON into conditions, checks every key, and bounds depth and size. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"
#include "indexer/fields.h"
#include "indexer/filter_impl.h"

/* What is left of the bounds. */
struct budget { size_t conditions, values; };

static void *must_alloc(void *p)
{
    if (!p)
        abort(); /* sizes are bounded by the budget */
    return p;
}

/* --- freeing --- */

static void filter_fini(struct ap_filter *filter);

static void clause_fini(struct ap_clause *clause)
{
    for (size_t i = 0; i < clause->count; i++) {
        struct ap_condition *c = &clause->items[i];
        for (size_t k = 0; c->strings && k < c->count; k++)
            free(c->strings[k]);
        free(c->strings);
        free(c->integers);
        free(c->ids);
        ap_json_path_fini(&c->path);
        filter_fini(&c->nested);
    }
    free(clause->items);
}

static void filter_fini(struct ap_filter *filter)
{
    clause_fini(&filter->must);
    clause_fini(&filter->should);
    clause_fini(&filter->must_not);
    clause_fini(&filter->some);
}

void ap_filter_free(struct ap_filter **filter)
{
    if (!*filter)
        return;
    filter_fini(*filter);
    ap_fields_unref(&(*filter)->held);
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

static void sort_ids(struct ap_condition *c)
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

/* --- match --- */

static int unsupported(struct ap_err *err, const char *where, const char *what)
{
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "%s: %s", where, what);
}

static int invalid(struct ap_err *err, const char *where, const char *what)
{
    return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: %s", where, what);
}

static int parse_path(struct ap_condition *c, const char *key, const char *where, struct ap_err *err)
{
    const char *why = ap_json_path_parse(key, &c->path);
    return why ? invalid(err, where, why) : 0;
}

static int take_values(struct budget *budget, size_t n, const char *where, struct ap_err *err)
{
    if (n > budget->values)
        return ap_err_set(err, AP_ETOOBIG, AP_POISON, "%s: the filter has more than %d values", where, AP_FILTER_MAX_VALUES);
    budget->values -= n;
    return 0;
}

static int parse_list(struct ap_condition *c, const json_t *list, const char *where, const char *word, struct ap_err *err)
{
    size_t n = json_array_size(list);
    bool strings = n && json_is_string(json_array_get(list, 0));
    c->kind = strings ? AP_BY_STRING : AP_BY_INTEGER;
    c->strings = strings ? must_alloc(calloc(n, sizeof *c->strings)) : NULL;
    c->integers = strings ? NULL : must_alloc(calloc(n ? n : 1, sizeof *c->integers));
    for (; c->count < n; c->count++) {
        const json_t *item = json_array_get(list, c->count);
        if (strings ? !json_is_string(item) : !json_is_integer(item))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s.%s[%zu]: the values must be all strings or all integers", where, word, c->count);
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

static void take_text(struct ap_condition *c, const json_t *text, bool any_word)
{
    c->kind = AP_BY_TEXT;
    c->any_word = any_word;
    c->count = 1;
    c->strings = must_alloc(calloc(1, sizeof *c->strings));
    c->strings[0] = must_alloc(strdup(json_string_value(text)));
}

static int parse_match(struct ap_condition *c, json_t *json, const char *parent, struct budget *budget, struct ap_err *err)
{
    char where[160];
    snprintf(where, sizeof where, "%s.match", parent);
    json_t *value, *any, *except, *text, *text_any;
    const struct ap_json_field fields[] = {
        {"value", AP_JSON_ANY, false, &value},    {"any", AP_JSON_ARRAY, false, &any},
        {"except", AP_JSON_ARRAY, false, &except}, {"text", AP_JSON_STRING, false, &text},
        {"text_any", AP_JSON_STRING, false, &text_any}, {"phrase", AP_JSON_ANY, false, NULL},
        AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    if (!!value + !!any + !!except + !!text + !!text_any != 1)
        return invalid(err, where, "needs one of \"value\", \"any\", \"except\", \"text\" and \"text_any\"");
    if ((rc = take_values(budget, any ? json_array_size(any) : except ? json_array_size(except) : 1, where, err)))
        return rc;
    c->except = except != NULL;
    if (any || except)
        return parse_list(c, any ? any : except, where, any ? "any" : "except", err);
    if (text || text_any) {
        take_text(c, text ? text : text_any, text_any != NULL);
        return 0;
    }
    if (json_is_boolean(value)) {
        c->kind = AP_BY_BOOL;
        c->flag = json_is_true(value);
        return 0;
    }
    if (!json_is_string(value) && !json_is_integer(value))
        return invalid(err, where, "\"value\" must be a string, an integer, true or false");
    json_t *list = must_alloc(json_pack("[O]", value)); /* a list of one */
    rc = parse_list(c, list, where, "value", err);
    json_decref(list);
    return rc;
}

/* --- ranges --- */

/* A bound of the range; NULL leaves it open. gt is set before gte and lt before lte: an equal second one adds nothing. */
static void set_above(struct ap_bounds *b, const json_t *json, bool included)
{
    double v = json_number_value(json);
    if (!json || v <= b->above)
        return;
    b->above = v;
    b->above_included = included;
}

static void set_below(struct ap_bounds *b, const json_t *json, bool included)
{
    double v = json_number_value(json);
    if (!json || v >= b->below)
        return;
    b->below = v;
    b->below_included = included;
}

static int parse_dates(struct ap_condition *c, const json_t *const given[4], const char *where, struct ap_err *err)
{
    static const char *const names[] = {"gt", "gte", "lt", "lte"};
    c->kind = AP_BY_DATES;
    c->dates = (struct ap_dates){INT64_MIN, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        int64_t us;
        if (!given[i])
            continue;
        if (!ap_datetime_parse(json_string_value(given[i]), json_string_length(given[i]), &us))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: \"%s\" is no date as 2024-02-29T12:00:00Z", where, names[i]);
        us += i == 0 ? 1 : i == 2 ? -1 : 0; /* microseconds are whole */
        if (i < 2 && us > c->dates.above)
            c->dates.above = us;
        if (i >= 2 && us < c->dates.below)
            c->dates.below = us;
    }
    return 0;
}

/* {gt, gte, lt, lte} of numbers, or of dates where they may be. */
static int parse_range(struct ap_condition *c, json_t *json, const char *parent, const char *word, enum ap_condition_kind kind, struct ap_err *err)
{
    char where[160];
    snprintf(where, sizeof where, "%s.%s", parent, word);
    json_t *gt, *gte, *lt, *lte;
    const struct ap_json_field fields[] = {
        {"gt", AP_JSON_ANY, false, &gt}, {"gte", AP_JSON_ANY, false, &gte},
        {"lt", AP_JSON_ANY, false, &lt}, {"lte", AP_JSON_ANY, false, &lte},
        AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    const json_t *given[] = {gt, gte, lt, lte};
    size_t dates = 0, numbers = 0;
    for (size_t i = 0; i < 4; i++) {
        bool date = json_is_string(given[i]) && kind == AP_BY_RANGE;
        if (given[i] && !date && !json_is_number(given[i]))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: \"%s\" must be a number%s", where, fields[i].key, kind == AP_BY_RANGE ? " or a date" : "");
        dates += date;
        numbers += given[i] && !date;
    }
    if (dates && numbers)
        return invalid(err, where, "the bounds must be all numbers or all dates");
    if (dates)
        return parse_dates(c, given, where, err);
    c->kind = kind;
    c->bounds = (struct ap_bounds){-INFINITY, INFINITY, true, true};
    set_above(&c->bounds, gt, false);
    set_above(&c->bounds, gte, true);
    set_below(&c->bounds, lt, false);
    set_below(&c->bounds, lte, true);
    return 0;
}

/* --- conditions --- */

static int parse_clause(struct ap_clause *clause, json_t *json, const char *parent, const char *name, size_t depth,
                        struct budget *budget, bool *needs_payload, struct ap_err *err);

static int parse_min_should(struct ap_filter *f, json_t *json, const char *parent, size_t depth, struct budget *budget, struct ap_err *err)
{
    char where[160];
    json_t *conditions, *least;
    const struct ap_json_field fields[] = {
        {"conditions", AP_JSON_ARRAY, true, &conditions}, {"min_count", AP_JSON_INTEGER, true, &least}, AP_JSON_END,
    };
    snprintf(where, sizeof where, "%s.min_should", parent);
    int rc = json ? ap_json_fields(json, where, fields, err) : 0;
    if (rc || !json)
        return rc;
    if (json_integer_value(least) < 0)
        return invalid(err, where, "\"min_count\" must not be negative");
    f->some_least = (size_t)json_integer_value(least);
    return parse_clause(&f->some, conditions, where, "conditions", depth, budget, &f->needs_payload, err);
}

static int parse_clauses(struct ap_filter *f, json_t *must, json_t *should, json_t *must_not, json_t *some, const char *where, size_t depth,
                         struct budget *budget, struct ap_err *err)
{
    if (depth > AP_FILTER_MAX_DEPTH)
        return ap_err_set(err, AP_ETOOBIG, AP_POISON, "filter: nested more than %d deep", AP_FILTER_MAX_DEPTH);
    int rc = parse_clause(&f->must, must, where, "must", depth, budget, &f->needs_payload, err);
    if (rc == 0)
        rc = parse_clause(&f->should, should, where, "should", depth, budget, &f->needs_payload, err);
    if (rc == 0)
        rc = parse_clause(&f->must_not, must_not, where, "must_not", depth, budget, &f->needs_payload, err);
    if (rc == 0)
        rc = parse_min_should(f, some, where, depth, budget, err);
    return rc;
}

/* A filter object: the whole one, or that of a nested condition. */
static int parse_filter(struct ap_filter *f, json_t *json, const char *where, size_t depth, struct budget *budget, struct ap_err *err)
{
    json_t *must, *should, *must_not, *some;
    const struct ap_json_field fields[] = {
        {"must", AP_JSON_ANY, false, &must},         {"should", AP_JSON_ANY, false, &should},
        {"must_not", AP_JSON_ANY, false, &must_not}, {"min_should", AP_JSON_OBJECT, false, &some},
        AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    return rc ? rc : parse_clauses(f, must, should, must_not, some, where, depth, budget, err);
}

static int parse_absence(struct ap_condition *c, json_t *json, enum ap_condition_kind kind, const char *parent, struct ap_err *err)
{
    char where[160];
    json_t *key;
    const struct ap_json_field fields[] = {{"key", AP_JSON_STRING, true, &key}, AP_JSON_END};
    snprintf(where, sizeof where, "%s.%s", parent, kind == AP_BY_EMPTY ? "is_empty" : "is_null");
    c->kind = kind;
    c->flag = true;
    int rc = ap_json_fields(json, where, fields, err);
    return rc ? rc : parse_path(c, json_string_value(key), where, err);
}

/* Does a filter ask for an id? */
static bool asks_ids(const struct ap_filter *f)
{
    const struct ap_clause *all[] = {&f->must, &f->should, &f->must_not, &f->some};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < all[i]->count; j++)
            if (all[i]->items[j].kind == AP_BY_ID || asks_ids(&all[i]->items[j].nested))
                return true;
    return false;
}

static int parse_nested(struct ap_condition *c, json_t *json, const char *parent, size_t depth, struct budget *budget, struct ap_err *err)
{
    char where[160];
    json_t *key, *filter;
    const struct ap_json_field fields[] = {{"key", AP_JSON_STRING, true, &key}, {"filter", AP_JSON_OBJECT, true, &filter}, AP_JSON_END};
    snprintf(where, sizeof where, "%s.nested", parent);
    c->kind = AP_BY_NESTED;
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    /* A list's elements are meant, whether the key says so or not. */
    const char *text = json_string_value(key);
    size_t len = strlen(text);
    char *path = must_alloc(malloc(len + 3));
    memcpy(path, text, len + 1);
    if (len < 2 || strcmp(text + len - 2, "[]") != 0)
        memcpy(path + len, "[]", 3);
    rc = parse_path(c, path, where, err);
    free(path);
    if (rc == 0)
        rc = parse_filter(&c->nested, filter, where, depth + 1, budget, err);
    if (rc == 0 && asks_ids(&c->nested))
        rc = unsupported(err, where, "has_id is not supported in a nested filter");
    return rc;
}

/* {key, ...}: exactly one thing about the key. */
static int parse_field(struct ap_condition *c, json_t *json, const char *where, struct budget *budget, struct ap_err *err)
{
    json_t *key, *match, *range, *count, *empty, *null;
    const struct ap_json_field fields[] = {
        {"key", AP_JSON_STRING, false, &key},             {"match", AP_JSON_OBJECT, false, &match},
        {"range", AP_JSON_OBJECT, false, &range},         {"values_count", AP_JSON_OBJECT, false, &count},
        {"is_empty", AP_JSON_BOOL, false, &empty},        {"is_null", AP_JSON_BOOL, false, &null},
        {"geo_radius", AP_JSON_ANY, false, NULL},         {"geo_bounding_box", AP_JSON_ANY, false, NULL},
        {"geo_polygon", AP_JSON_ANY, false, NULL},        {"datetime_range", AP_JSON_ANY, false, NULL},
        AP_JSON_END,
    };
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    if (!key)
        return invalid(err, where, "\"key\" is missing");
    size_t n = (size_t)(!!match + !!range + !!count + !!empty + !!null);
    if (n > 1)
        return unsupported(err, where, "several of match, range, values_count, is_empty and is_null in one condition are not supported, write a condition for each");
    if (n == 0)
        return invalid(err, where, "needs \"match\", \"range\", \"values_count\", \"is_empty\" or \"is_null\"");
    if ((rc = parse_path(c, json_string_value(key), where, err)))
        return rc;
    if (match)
        return parse_match(c, match, where, budget, err);
    if (range)
        return parse_range(c, range, where, "range", AP_BY_RANGE, err);
    if (count)
        return parse_range(c, count, where, "values_count", AP_BY_COUNT, err);
    c->kind = empty ? AP_BY_EMPTY : AP_BY_NULL;
    c->flag = json_is_true(empty ? empty : null);
    return 0;
}

static int parse_ids(struct ap_condition *c, const json_t *ids, const char *where, struct budget *budget, struct ap_err *err)
{
    char list[200];
    snprintf(list, sizeof list, "%s.has_id", where);
    c->kind = AP_BY_ID;
    int rc = take_values(budget, json_array_size(ids), where, err);
    if (rc == 0)
        rc = ap_json_point_ids(ids, list, &c->ids, &c->count, err);
    if (rc == 0)
        sort_ids(c);
    return rc;
}

static int parse_condition(struct ap_condition *c, json_t *json, const char *where, size_t depth, struct budget *budget, struct ap_err *err)
{
    json_t *any, *has_id, *must, *should, *must_not, *some, *empty, *null, *nested;
    const struct ap_json_field fields[] = {
        {"key", AP_JSON_ANY, false, &any},               {"match", AP_JSON_ANY, false, &any},
        {"range", AP_JSON_ANY, false, &any},             {"values_count", AP_JSON_ANY, false, &any},
        {"is_empty", AP_JSON_ANY, false, &empty},        {"is_null", AP_JSON_ANY, false, &null},
        {"has_id", AP_JSON_ARRAY, false, &has_id},       {"nested", AP_JSON_OBJECT, false, &nested},
        {"must", AP_JSON_ANY, false, &must},             {"should", AP_JSON_ANY, false, &should},
        {"must_not", AP_JSON_ANY, false, &must_not},     {"min_should", AP_JSON_OBJECT, false, &some},
        {"has_vector", AP_JSON_ANY, false, NULL},        {"geo_radius", AP_JSON_ANY, false, NULL},
        {"geo_bounding_box", AP_JSON_ANY, false, NULL},  {"geo_polygon", AP_JSON_ANY, false, NULL},
        {"datetime_range", AP_JSON_ANY, false, NULL},    AP_JSON_END,
    };
    static const char *const of_a_field[] = {"key", "match", "range", "values_count"};
    int rc = ap_json_fields(json, where, fields, err);
    if (rc)
        return rc;
    bool field = (empty && json_is_boolean(empty)) || (null && json_is_boolean(null)), clauses = must || should || must_not || some;
    for (size_t i = 0; i < 4; i++) {
        const json_t *member = json_object_get(json, of_a_field[i]);
        field = field || (member && !json_is_null(member));
    }
    bool alone = (empty && !json_is_boolean(empty)) || (null && !json_is_boolean(null));
    if (field + clauses + !!has_id + !!nested + alone > 1 || (alone && empty && null))
        return invalid(err, where, "a condition is either a key with match, range or values_count, or is_empty, is_null, has_id or nested, or must, should, must_not and min_should");
    if (field)
        return parse_field(c, json, where, budget, err);
    if (has_id)
        return parse_ids(c, has_id, where, budget, err);
    if (nested)
        return parse_nested(c, nested, where, depth, budget, err);
    if (alone)
        return parse_absence(c, empty ? empty : null, empty ? AP_BY_EMPTY : AP_BY_NULL, where, err);
    c->kind = AP_BY_FILTER;
    return parse_clauses(&c->nested, must, should, must_not, some, where, depth + 1, budget, err);
}

static int parse_clause(struct ap_clause *clause, json_t *json, const char *parent, const char *name, size_t depth,
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
        struct ap_condition *c = &clause->items[i];
        int rc = parse_condition(c, list ? json_array_get(json, i) : json, where, depth, budget, err);
        if (rc)
            return rc;
        *needs_payload = *needs_payload || (c->kind == AP_BY_FILTER ? c->nested.needs_payload : c->kind != AP_BY_ID);
    }
    return 0;
}

int ap_filter_parse(const json_t *json, struct ap_filter **out, struct ap_err *err)
{
    *out = NULL;
    if (!json || json_is_null(json))
        return 0;
    struct ap_filter *filter = must_alloc(calloc(1, sizeof *filter));
    struct budget budget = {AP_FILTER_MAX_CONDITIONS, AP_FILTER_MAX_VALUES};
    /* The reader takes no const, because it hands out references to parts; this one only borrows them. */
    int rc = parse_filter(filter, (json_t *)(uintptr_t)json, "filter", 1, &budget, err);
    bool empty = !(filter->must.count || filter->should.count || filter->must_not.count || filter->some.count || filter->some_least);
    if (rc || empty)
        ap_filter_free(&filter);
    *out = filter;
    return rc;
}
