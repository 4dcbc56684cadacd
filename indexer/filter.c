/* Binding a filter to declared fields, and asking it about payloads: a walk over the tree that cannot fail and, but for
 * words of texts, does not allocate. */
#include "indexer/filter_impl.h"
#include <stdlib.h>
#include <string.h>

/* ---- binding ---- */

struct binding { const struct ap_field *fields; size_t count; struct ap_err *err; };

static const struct ap_field *find_field(const struct binding *b, const char *prefix, const char *path)
{
    size_t n = strlen(prefix);
    for (size_t i = 0; i < b->count; i++) {
        const char *text = b->fields[i].path.text;
        if (n == 0 ? strcmp(text, path) == 0 : strncmp(text, prefix, n) == 0 && text[n] == '.' && strcmp(text + n + 1, path) == 0)
            return &b->fields[i];
    }
    return NULL;
}

static bool fits(const struct ap_condition *c, enum ap_field_type t)
{
    switch (c->kind) {
    case AP_BY_STRING:
        return t == AP_FIELD_KEYWORD || t == AP_FIELD_UUID;
    case AP_BY_INTEGER:
        return t == AP_FIELD_INTEGER || c->count == 0; /* an empty list is of every type */
    case AP_BY_BOOL:
        return t == AP_FIELD_BOOL;
    case AP_BY_RANGE:
        return t == AP_FIELD_INTEGER || t == AP_FIELD_FLOAT;
    case AP_BY_DATES:
        return t == AP_FIELD_DATETIME;
    case AP_BY_TEXT:
        return t == AP_FIELD_TEXT;
    default:
        return true;
    }
}

static const char *asked(const struct ap_condition *c)
{
    switch (c->kind) {
    case AP_BY_STRING: return "a match of strings";
    case AP_BY_INTEGER: return "a match of integers";
    case AP_BY_BOOL: return "a match of true or false";
    case AP_BY_RANGE: return "a range of numbers";
    case AP_BY_DATES: return "a range of dates";
    default: return "a match of text";
    }
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct words { char **items; size_t count; };

static int add_word(void *arg, const char *word, size_t len)
{
    struct words *w = arg;
    char **all = realloc(w->items, (w->count + 1) * sizeof *all);
    char *copy = strndup(word, len);
    if (!all || !copy)
        abort();
    w->items = all;
    all[w->count++] = copy;
    return 0;
}

/* The text that is looked for becomes its words, sorted, each once. */
static void split(struct ap_condition *c)
{
    struct words w = {0};
    struct ap_buf scratch = {0};
    size_t n = 0;
    ap_text_words(&c->field->text, c->strings[0], strlen(c->strings[0]), &scratch, add_word, &w);
    ap_buf_free(&scratch);
    if (w.count > 1)
        qsort(w.items, w.count, sizeof *w.items, compare_strings);
    for (size_t i = 0; i < w.count; i++)
        if (n == 0 || strcmp(w.items[n - 1], w.items[i]) != 0)
            w.items[n++] = w.items[i];
        else
            free(w.items[i]);
    free(c->strings[0]);
    free(c->strings);
    c->strings = w.items;
    c->count = n;
}

static int spell_uuids(struct ap_condition *c, struct ap_err *err)
{
    for (size_t i = 0; i < c->count; i++) {
        char uuid[37];
        if (!ap_uuid_canonical(c->strings[i], strlen(c->strings[i]), uuid))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "filter: \"%.40s\" is no UUID, which the field %s is declared to hold", c->strings[i], c->path.text);
        char *copy = strdup(uuid);
        if (!copy)
            abort();
        free(c->strings[i]);
        c->strings[i] = copy;
    }
    if (c->count > 1)
        qsort(c->strings, c->count, sizeof *c->strings, compare_strings);
    return 0;
}

static int bind_filter(const struct binding *b, struct ap_filter *f, const char *prefix);

static int bind_nested(const struct binding *b, struct ap_condition *c, const char *prefix)
{
    struct ap_buf inner = {0};
    ap_buf_printf(&inner, "%s%s%s", prefix, *prefix ? "." : "", c->path.text);
    ap_buf_append(&inner, "", 1);
    int rc = bind_filter(b, &c->nested, (const char *)inner.data);
    ap_buf_free(&inner);
    return rc;
}

static int bind_condition(const struct binding *b, struct ap_condition *c, const char *prefix)
{
    if (c->kind == AP_BY_ID)
        return 0;
    if (c->kind == AP_BY_FILTER)
        return bind_filter(b, &c->nested, prefix);
    if (c->kind == AP_BY_NESTED)
        return bind_nested(b, c, prefix);
    c->field = find_field(b, prefix, c->path.text);
    if (!c->field)
        return 0;
    if (!fits(c, c->field->type))
        return ap_err_set(b->err, AP_EINVAL, AP_POISON, "filter: field %.200s is declared %s, which %s does not fit", c->field->path.text,
                          ap_field_type_name(c->field->type), asked(c));
    if (c->kind == AP_BY_TEXT)
        split(c);
    return c->field->type == AP_FIELD_UUID && c->kind == AP_BY_STRING ? spell_uuids(c, b->err) : 0;
}

static int bind_filter(const struct binding *b, struct ap_filter *f, const char *prefix)
{
    const struct ap_clause *all[] = {&f->must, &f->should, &f->must_not, &f->some};
    int rc = 0;
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; rc == 0 && j < all[i]->count; j++)
            rc = bind_condition(b, &all[i]->items[j], prefix);
    return rc;
}

int ap_filter_bind(struct ap_filter *filter, const struct ap_field *fields, size_t count, struct ap_err *err)
{
    const struct binding b = {fields, count, err};
    if (!filter || filter->bound)
        return 0;
    filter->bound = true;
    return bind_filter(&b, filter, "");
}

/* ---- values ---- */

/* As strcmp would order them, if text ended with a NUL. */
static int compare_text(const char *string, const char *text, size_t len)
{
    size_t n = strlen(string);
    int order = memcmp(string, text, n < len ? n : len);
    return order ? order : (n > len) - (n < len);
}

int ap_condition_word(const struct ap_condition *c, const char *text, size_t len)
{
    size_t low = 0, high = c->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_text(c->strings[middle], text, len);
        if (order == 0)
            return (int)middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

static int compare_integers(const void *a, const void *b)
{
    json_int_t x = *(const json_int_t *)a, y = *(const json_int_t *)b;
    return (x > y) - (x < y);
}

static bool among_integers(const struct ap_condition *c, json_int_t number)
{
    return c->count > 0 && bsearch(&number, c->integers, c->count, sizeof *c->integers, compare_integers);
}

bool ap_condition_takes(const struct ap_condition *c, const struct ap_field_value *v)
{
    switch (c->kind) {
    case AP_BY_STRING:
        return (ap_condition_word(c, v->text, v->len) >= 0) != c->except;
    case AP_BY_INTEGER:
        return (c->count > 0 && among_integers(c, ap_integer_of_key(v->number))) != c->except;
    case AP_BY_BOOL:
        return v->number == c->flag;
    case AP_BY_RANGE:
        return ap_bounds_hold(&c->bounds, c->field->type == AP_FIELD_INTEGER ? (double)ap_integer_of_key(v->number) : ap_double_of_key(v->number));
    case AP_BY_DATES: {
        int64_t us = ap_integer_of_key(v->number);
        return us >= c->dates.above && us <= c->dates.below;
    }
    default:
        return false;
    }
}

/* One value, not a list, of a declared field. */
static bool declared_matches(const struct ap_condition *c, const json_t *value)
{
    struct ap_field_value v = {.text = json_string_value(value), .len = json_string_length(value)};
    char uuid[37];
    if (!ap_field_is_text(c->field->type))
        return ap_field_number(c->field->type, value, &v.number) && ap_condition_takes(c, &v);
    if (!v.text)
        return false;
    if (c->field->type == AP_FIELD_UUID) {
        if (!ap_uuid_canonical(v.text, v.len, uuid))
            return false;
        v = (struct ap_field_value){.text = uuid, .len = 36};
    }
    return ap_condition_takes(c, &v);
}

/* Of no declared field: every kind of value is looked at. */
static bool value_matches(const struct ap_condition *c, const json_t *value)
{
    const char *text = json_string_value(value);
    int64_t us;
    if (c->field)
        return declared_matches(c, value);
    switch (c->kind) {
    case AP_BY_STRING:
        if (c->except)
            return !json_is_null(value) && !(text && ap_condition_word(c, text, json_string_length(value)) >= 0);
        return text && ap_condition_word(c, text, json_string_length(value)) >= 0;
    case AP_BY_INTEGER:
        if (c->except)
            return !json_is_null(value) && !(json_is_integer(value) && among_integers(c, json_integer_value(value)));
        return json_is_integer(value) && among_integers(c, json_integer_value(value));
    case AP_BY_BOOL:
        return json_is_boolean(value) && json_is_true(value) == c->flag;
    case AP_BY_RANGE:
        return json_is_number(value) && ap_bounds_hold(&c->bounds, json_number_value(value));
    case AP_BY_DATES:
        return text && ap_datetime_parse(text, json_string_length(value), &us) && us >= c->dates.above && us <= c->dates.below;
    case AP_BY_TEXT:
        return text && strstr(text, c->strings[0]);
    default:
        return false;
    }
}

static int node_matches(void *arg, const json_t *node)
{
    const struct ap_condition *c = arg;
    if (c->kind == AP_BY_COUNT) {
        size_t n = json_is_null(node) ? 0 : json_is_array(node) ? json_array_size(node) : 1;
        return ap_bounds_hold(&c->bounds, (double)n);
    }
    if (!json_is_array(node))
        return value_matches(c, node);
    size_t n = json_array_size(node);
    for (size_t i = 0; i < n; i++)
        if (value_matches(c, json_array_get(node, i)))
            return 1;
    return 0;
}

static int any_node(void *arg, const json_t *node)
{
    (void)arg;
    (void)node;
    return 1;
}

/* ---- words: all of the row's texts count together ---- */

struct finding { const struct ap_condition *c; bool *found; size_t count; };

static void find_word(void *arg, const struct ap_field_value *value)
{
    struct finding *f = arg;
    int at = ap_condition_word(f->c, value->text, value->len);
    if (at < 0 || f->found[at])
        return;
    f->found[at] = true;
    f->count++;
}

static bool words_match(const struct ap_condition *c, const json_t *payload)
{
    struct finding f = {.c = c, .found = calloc(c->count + 1, sizeof *f.found)};
    struct ap_buf scratch = {0};
    /* The field's values at the condition's path, which inside of nested is another than the field's. */
    struct ap_field here = {.path = c->path, .type = AP_FIELD_TEXT, .text = c->field->text};
    if (!f.found)
        abort();
    ap_field_each(&here, payload, &scratch, find_word, &f);
    ap_buf_free(&scratch);
    free(f.found);
    return f.count > 0 && (c->any_word || f.count == c->count);
}

/* ---- the tree ---- */

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct ap_point_id));
}

static int element_matches(void *arg, const json_t *element)
{
    static const struct ap_point_id none;
    return json_is_object(element) && ap_filter_match(arg, &none, element);
}

static bool condition_matches(const struct ap_condition *c, const struct ap_point_id *id, const json_t *payload)
{
    void *self = (void *)(uintptr_t)c; /* the walk's argument is not const */
    bool empty, null;
    switch (c->kind) {
    case AP_BY_FILTER:
        return ap_filter_match(&c->nested, id, payload);
    case AP_BY_NESTED:
        return ap_json_path_each(&c->path, payload, element_matches, (void *)(uintptr_t)&c->nested) != 0;
    case AP_BY_ID:
        return c->count > 0 && bsearch(id, c->ids, c->count, sizeof *c->ids, compare_ids);
    case AP_BY_EMPTY:
    case AP_BY_NULL:
        ap_field_absence(&c->path, payload, &empty, &null);
        return (c->kind == AP_BY_EMPTY ? empty : null) == c->flag;
    case AP_BY_COUNT:
        if (!ap_json_path_each(&c->path, payload, any_node, NULL))
            return ap_bounds_hold(&c->bounds, 0);
        break;
    case AP_BY_TEXT:
        if (c->field)
            return words_match(c, payload);
        break;
    default:
        break;
    }
    return ap_json_path_each(&c->path, payload, node_matches, self) != 0;
}

static size_t count_matches(const struct ap_clause *clause, const struct ap_point_id *id, const json_t *payload, size_t enough)
{
    size_t n = 0;
    for (size_t i = 0; i < clause->count && n < enough; i++)
        n += condition_matches(&clause->items[i], id, payload);
    return n;
}

bool ap_filter_match(const struct ap_filter *f, const struct ap_point_id *id, const json_t *payload)
{
    if (!f)
        return true;
    for (size_t i = 0; i < f->must.count; i++)
        if (!condition_matches(&f->must.items[i], id, payload))
            return false;
    return count_matches(&f->must_not, id, payload, 1) == 0 && (f->should.count == 0 || count_matches(&f->should, id, payload, 1) == 1) &&
           count_matches(&f->some, id, payload, f->some_least) == f->some_least;
}

bool ap_filter_is_bound(const struct ap_filter *filter)
{
    return filter->bound;
}

void ap_filter_hold(struct ap_filter *filter, struct ap_fields *fields)
{
    filter->held = fields;
}

bool ap_filter_is_indexed(const struct ap_filter *f)
{
    const struct ap_clause *all[] = {f ? &f->must : NULL, f ? &f->should : NULL, f ? &f->must_not : NULL, f ? &f->some : NULL};
    for (size_t i = 0; f && i < 4; i++)
        for (size_t j = 0; j < all[i]->count; j++)
            if (all[i]->items[j].field || ap_filter_is_indexed(&all[i]->items[j].nested))
                return true;
    return false;
}

bool ap_filter_needs_payload(const struct ap_filter *filter)
{
    return filter && filter->needs_payload;
}

static const struct ap_condition *only_ids(const struct ap_filter *f)
{
    const struct ap_condition *best = NULL;
    for (size_t i = 0; i < f->must.count; i++) {
        const struct ap_condition *c = &f->must.items[i];
        const struct ap_condition *found = c->kind == AP_BY_ID ? c : c->kind == AP_BY_FILTER ? only_ids(&c->nested) : NULL;
        if (found && (!best || found->count < best->count))
            best = found;
    }
    if (!best && f->should.count == 1 && f->should.items[0].kind == AP_BY_ID)
        best = &f->should.items[0];
    return best;
}

const struct ap_point_id *ap_filter_only_ids(const struct ap_filter *filter, size_t *count)
{
    static const struct ap_point_id none;
    const struct ap_condition *c = filter ? only_ids(filter) : NULL;
    *count = c ? c->count : 0;
    return !c ? NULL : c->count ? c->ids : &none; /* an empty list is a list: nothing can match */
}
