/* The inside of a parsed filter: for filter_parse.c, filter.c and select.c alone. */
#ifndef ANTIPODE_INDEXER_FILTER_IMPL_H
#define ANTIPODE_INDEXER_FILTER_IMPL_H
#include "common/field.h"
#include "indexer/filter.h"

enum ap_condition_kind {
    AP_BY_STRING, AP_BY_INTEGER, /* match value, any, except */
    AP_BY_BOOL, AP_BY_RANGE, AP_BY_DATES, AP_BY_TEXT,
    AP_BY_EMPTY, AP_BY_NULL, AP_BY_COUNT, AP_BY_ID, AP_BY_FILTER, AP_BY_NESTED,
};

struct ap_clause { struct ap_condition *items; size_t count; };

struct ap_filter {
    struct ap_clause must, should, must_not, some;
    size_t some_least;   /* of min_should */
    bool needs_payload, bound;
    struct ap_fields *held; /* of the whole filter */
};

/* Numbers from above to below; infinite when open. */
struct ap_bounds { double above, below; bool above_included, below_included; };
struct ap_dates { int64_t above, below; /* included both */ };

struct ap_condition {
    enum ap_condition_kind kind;
    struct ap_json_path path;
    bool except;         /* of BY_STRING and BY_INTEGER: another value than these */
    bool any_word;       /* of BY_TEXT: one of the words is enough */
    bool flag;           /* BY_BOOL; BY_EMPTY and BY_NULL: the state that is asked for */
    size_t count;        /* of strings, integers or ids: sorted */
    char **strings;      /* BY_TEXT: the words once it is bound, before that its one text */
    json_int_t *integers;
    struct ap_point_id *ids;
    struct ap_bounds bounds; /* BY_RANGE, BY_COUNT */
    struct ap_dates dates;
    struct ap_filter nested; /* BY_FILTER, BY_NESTED */

    const struct ap_field *field; /* the declared field, once bound; borrowed. NULL: the condition's path is none */
};

/* Does one number lie within? */
static inline bool ap_bounds_hold(const struct ap_bounds *b, double v)
{
    return (v > b->above || (b->above_included && v >= b->above)) && (v < b->below || (b->below_included && v <= b->below));
}

/* A value of the condition's declared field, as an index keeps it. Not for BY_TEXT, where a row counts, nor for absence. */
bool ap_condition_takes(const struct ap_condition *c, const struct ap_field_value *value);
/* Place of a word among strings, or -1. */
int ap_condition_word(const struct ap_condition *c, const char *text, size_t len);

#endif
