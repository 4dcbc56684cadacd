/* The tree is walked bottom up. Each node gives the rows that may pass, and whether that is exact; what must not hold can
 * be taken away only where it is exact. Inside of a nested filter a condition is about an element, and what indexes know is
 * about rows: there all is a bound. */
#include "indexer/select.h"
#include <stdlib.h>
#include <string.h>
#include "indexer/filter_impl.h"

#define IDS_MAX 4096    /* a longer list of ids is looked up row by row */
#define COUNTING_MAX 256 /* bitmaps times least count of a min_should */

static roaring_bitmap_t *must(roaring_bitmap_t *r)
{
    if (!r)
        abort();
    return r;
}

static const struct ap_selection everything = {NULL, true}, unknown = {NULL, false};

void ap_selection_fini(struct ap_selection *s)
{
    if (s->rows)
        roaring_bitmap_free(s->rows);
    s->rows = NULL;
}

static struct ap_selection these(roaring_bitmap_t *rows)
{
    return (struct ap_selection){must(rows), true};
}

static struct ap_selection complement(const struct ap_select_in *in, roaring_bitmap_t *rows)
{
    roaring_bitmap_flip_inplace(rows, 0, in->rows);
    return these(rows);
}

/* ---- one condition, by a column ---- */

static bool below_range(const void *arg, uint64_t number)
{
    const struct ap_condition *c = arg;
    if (c->kind == AP_BY_DATES)
        return ap_integer_of_key(number) < c->dates.above;
    double v = c->field->type == AP_FIELD_INTEGER ? (double)ap_integer_of_key(number) : ap_double_of_key(number);
    return !(v > c->bounds.above || (c->bounds.above_included && v >= c->bounds.above));
}

static bool within_range(const void *arg, uint64_t number)
{
    const struct ap_condition *c = arg;
    if (c->kind == AP_BY_DATES)
        return ap_integer_of_key(number) <= c->dates.below;
    double v = c->field->type == AP_FIELD_INTEGER ? (double)ap_integer_of_key(number) : ap_double_of_key(number);
    return v < c->bounds.below || (c->bounds.below_included && v <= c->bounds.below);
}

static int64_t find_key(const struct ap_column *column, const struct ap_condition *c, size_t i)
{
    return c->strings ? ap_column_text(column, c->strings[i], strlen(c->strings[i])) : ap_column_number(column, ap_key_of_integer(c->integers[i]));
}

/* Rows that have one of the condition's values. */
static roaring_bitmap_t *rows_of_any(const struct ap_column *column, const struct ap_condition *c)
{
    roaring_bitmap_t *out = NULL;
    for (size_t i = 0; i < c->count; i++) {
        int64_t key = find_key(column, c, i);
        if (key < 0)
            continue;
        if (!out) {
            out = ap_column_range(column, (uint32_t)key, (uint32_t)key + 1);
            continue;
        }
        uint32_t from = column->starts[key], n = column->starts[key + 1] - from;
        roaring_bitmap_add_many(out, n, column->ordinals + from);
    }
    return out ? out : must(roaring_bitmap_create());
}

/* Rows that have another value than the condition's. */
static roaring_bitmap_t *rows_of_others(const struct ap_column *column, const struct ap_condition *c)
{
    roaring_bitmap_t *out;
    if (!column->multi) {
        roaring_bitmap_t *some = rows_of_any(column, c);
        out = roaring_bitmap_andnot(ap_column_any(column), some);
        roaring_bitmap_free(some);
        return must(out);
    }
    uint64_t *bits = calloc((size_t)column->rows / 64 + 1, sizeof *bits);
    if (!bits)
        abort();
    for (uint32_t k = 0; k < column->keys; k++) {
        struct ap_field_value v = {.number = column->numbers ? column->numbers[k] : 0};
        if (column->texts)
            v = (struct ap_field_value){.text = column->texts + column->text_starts[k], .len = column->text_starts[k + 1] - column->text_starts[k]};
        for (uint32_t i = column->starts[k]; (c->count == 0 || ap_condition_takes(c, &v)) && i < column->starts[k + 1]; i++)
            bits[column->ordinals[i] / 64] |= UINT64_C(1) << (column->ordinals[i] % 64);
    }
    out = ap_bits_bitmap(bits, column->rows);
    free(bits);
    return out;
}

static roaring_bitmap_t *rows_of_words(const struct ap_column *column, const struct ap_condition *c)
{
    if (c->any_word || c->count == 0)
        return rows_of_any(column, c);
    roaring_bitmap_t *out = NULL;
    for (size_t i = 0; i < c->count; i++) {
        int64_t key = find_key(column, c, i);
        roaring_bitmap_t *rows = key < 0 ? must(roaring_bitmap_create()) : ap_column_range(column, (uint32_t)key, (uint32_t)key + 1);
        if (!out) {
            out = rows;
            continue;
        }
        roaring_bitmap_and_inplace(out, rows);
        roaring_bitmap_free(rows);
    }
    return out;
}

static struct ap_selection by_column(const struct ap_select_in *in, const struct ap_column *column, const struct ap_condition *c)
{
    int64_t key;
    switch (c->kind) {
    case AP_BY_STRING:
    case AP_BY_INTEGER:
        return these(c->except ? rows_of_others(column, c) : rows_of_any(column, c));
    case AP_BY_BOOL:
        key = ap_column_number(column, c->flag);
        return these(key < 0 ? roaring_bitmap_create() : ap_column_range(column, (uint32_t)key, (uint32_t)key + 1));
    case AP_BY_RANGE:
    case AP_BY_DATES: {
        uint32_t first = ap_column_bound(column, below_range, c), end = ap_column_bound(column, within_range, c);
        return these(ap_column_range(column, first, end));
    }
    case AP_BY_TEXT:
        return these(rows_of_words(column, c));
    case AP_BY_EMPTY:
    case AP_BY_NULL: {
        roaring_bitmap_t *rows = must(roaring_bitmap_copy(c->kind == AP_BY_EMPTY ? ap_column_empty(column) : ap_column_null(column)));
        return c->flag ? these(rows) : complement(in, rows);
    }
    default:
        return unknown;
    }
}

/* ---- one condition, by hot values ---- */

struct looking {
    const struct ap_condition *c;
    roaring_bitmap_t *rows;
    bool *found; size_t found_count; uint32_t row; /* words of one row */
};

static void look(void *arg, const struct ap_hot_entry *e)
{
    struct looking *l = arg;
    const struct ap_condition *c = l->c;
    if (c->kind == AP_BY_EMPTY || c->kind == AP_BY_NULL) {
        if (e->kind == (c->kind == AP_BY_EMPTY ? AP_HOT_EMPTY : AP_HOT_NULL))
            roaring_bitmap_add(l->rows, e->ordinal);
        return;
    }
    if (e->kind != AP_HOT_VALUE)
        return;
    if (c->kind != AP_BY_TEXT) {
        /* An empty list says nothing about types. */
        if (c->count == 0 && (c->kind == AP_BY_STRING || c->kind == AP_BY_INTEGER) ? c->except : ap_condition_takes(c, &e->value))
            roaring_bitmap_add(l->rows, e->ordinal);
        return;
    }
    int at = ap_condition_word(c, e->value.text, e->value.len);
    if (at < 0)
        return;
    if (e->ordinal != l->row) {
        memset(l->found, 0, c->count * sizeof *l->found);
        l->found_count = 0;
        l->row = e->ordinal;
    }
    l->found_count += !l->found[at];
    l->found[at] = true;
    if (c->any_word || l->found_count == c->count)
        roaring_bitmap_add(l->rows, e->ordinal);
}

static struct ap_selection by_values(const struct ap_select_in *in, const struct ap_condition *c)
{
    if (c->kind == AP_BY_COUNT)
        return unknown;
    struct looking l = {.c = c, .rows = must(roaring_bitmap_create()), .found = calloc(c->count + 1, sizeof *l.found), .row = UINT32_MAX};
    if (!l.found)
        abort();
    bool known = ap_hot_values_each(in->values, c->field->id, in->rows, look, &l);
    free(l.found);
    if (!known) {
        roaring_bitmap_free(l.rows);
        return unknown;
    }
    return (c->kind == AP_BY_EMPTY || c->kind == AP_BY_NULL) && !c->flag ? complement(in, l.rows) : these(l.rows);
}

/* ---- conditions ---- */

static struct ap_selection by_ids(const struct ap_select_in *in, const struct ap_condition *c)
{
    roaring_bitmap_t *rows;
    if (c->count > IDS_MAX || !in->find)
        return unknown;
    rows = must(roaring_bitmap_create());
    for (size_t i = 0; i < c->count; i++) {
        int64_t ordinal = in->find(in->arg, &c->ids[i]);
        if (ordinal >= 0 && ordinal < in->rows)
            roaring_bitmap_add(rows, (uint32_t)ordinal);
    }
    return these(rows);
}

static struct ap_selection select_filter(const struct ap_select_in *in, const struct ap_filter *f, bool nested);

static struct ap_selection select_condition(const struct ap_select_in *in, const struct ap_condition *c, bool nested)
{
    struct ap_selection s;
    switch (c->kind) {
    case AP_BY_FILTER:
        return select_filter(in, &c->nested, nested);
    case AP_BY_ID:
        return by_ids(in, c);
    case AP_BY_NESTED:
        s = select_filter(in, &c->nested, true);
        s.exact = false;
        return s;
    default:
        break;
    }
    /* An element without a value is no row without one. */
    if (!c->field || (nested && ((c->kind == AP_BY_EMPTY && c->flag) || (c->kind == AP_BY_NULL && !c->flag))))
        return unknown;
    const struct ap_column *column = ap_columns_find(in->columns, c->field->id);
    s = column ? by_column(in, column, c) : in->values ? by_values(in, c) : unknown;
    s.exact = s.exact && !nested;
    return s;
}

/* ---- clauses ---- */

static void both(struct ap_selection *a, struct ap_selection b)
{
    a->exact = a->exact && b.exact;
    if (!a->rows) {
        a->rows = b.rows;
    } else if (b.rows) {
        roaring_bitmap_and_inplace(a->rows, b.rows);
        roaring_bitmap_free(b.rows);
    }
}

static struct ap_selection one_of(const struct ap_select_in *in, const struct ap_clause *clause, bool nested)
{
    struct ap_selection out = these(roaring_bitmap_create());
    for (size_t i = 0; i < clause->count; i++) {
        struct ap_selection s = select_condition(in, &clause->items[i], nested);
        if (!s.rows) { /* all: nothing can be added */
            ap_selection_fini(&out);
            return (struct ap_selection){NULL, s.exact};
        }
        out.exact = out.exact && s.exact;
        roaring_bitmap_or_inplace(out.rows, s.rows);
        ap_selection_fini(&s);
    }
    return out;
}

static void take_away(const struct ap_select_in *in, struct ap_selection *a, struct ap_selection s, bool nested)
{
    if (!s.exact || nested) {
        a->exact = false;
    } else if (!s.rows) {
        ap_selection_fini(a);
        *a = these(roaring_bitmap_create());
    } else if (!a->rows) {
        bool exact = a->exact;
        *a = complement(in, s.rows);
        a->exact = exact;
        return;
    } else {
        roaring_bitmap_andnot_inplace(a->rows, s.rows);
    }
    ap_selection_fini(&s);
}

/* At least so many of the clause: reached[j] are the rows that at least j + 1 of those looked at have. */
static struct ap_selection some_of(const struct ap_select_in *in, const struct ap_clause *clause, size_t least, bool nested)
{
    if (least > clause->count)
        return these(roaring_bitmap_create());
    if (clause->count * least > COUNTING_MAX)
        return unknown;
    roaring_bitmap_t *reached[COUNTING_MAX];
    bool exact = true;
    for (size_t j = 0; j < least; j++)
        reached[j] = must(roaring_bitmap_create());
    for (size_t i = 0; i < clause->count; i++) {
        struct ap_selection s = select_condition(in, &clause->items[i], nested);
        exact = exact && s.exact;
        if (!s.rows)
            s.rows = must(in->rows ? roaring_bitmap_from_range(0, in->rows, 1) : roaring_bitmap_create());
        for (size_t j = least; j-- > 1;) {
            roaring_bitmap_t *more = must(roaring_bitmap_and(reached[j - 1], s.rows));
            roaring_bitmap_or_inplace(reached[j], more);
            roaring_bitmap_free(more);
        }
        roaring_bitmap_or_inplace(reached[0], s.rows);
        ap_selection_fini(&s);
    }
    for (size_t j = 0; j + 1 < least; j++)
        roaring_bitmap_free(reached[j]);
    return (struct ap_selection){reached[least - 1], exact};
}

static struct ap_selection select_filter(const struct ap_select_in *in, const struct ap_filter *f, bool nested)
{
    struct ap_selection out = everything;
    for (size_t i = 0; i < f->must.count; i++)
        both(&out, select_condition(in, &f->must.items[i], nested));
    if (f->should.count > 0)
        both(&out, one_of(in, &f->should, nested));
    if (f->some_least > 0)
        both(&out, some_of(in, &f->some, f->some_least, nested));
    for (size_t i = 0; i < f->must_not.count; i++)
        take_away(in, &out, select_condition(in, &f->must_not.items[i], nested), nested);
    return out;
}

void ap_select(const struct ap_filter *filter, const struct ap_select_in *in, struct ap_selection *out)
{
    *out = filter ? select_filter(in, filter, false) : everything;
}
