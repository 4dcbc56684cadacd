/* Fields: their definition, and the values that payloads have of them. */
#include "common/field.h"
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "common/json.h"

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- definitions ---- */

static const struct ap_text_options standard = {.word = true, .lowercase = true, .least = 0, .most = SIZE_MAX};

static bool is_standard(const struct ap_text_options *o)
{
    return o->word == standard.word && o->lowercase == standard.lowercase && o->least == standard.least && o->most == standard.most;
}

static int refuse(struct ap_err *err, const char *what, const char *known)
{
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "field_schema.%s is not supported%s%s", what, *known ? "; supported are: " : "", known);
}

static bool is_false(const json_t *value)
{
    return !value || json_is_null(value) || json_is_false(value);
}

static int read_length(const json_t *value, const char *what, size_t *out, struct ap_err *err)
{
    if (!value)
        return 0;
    if (json_integer_value(value) < 1 || json_integer_value(value) > 1000)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "field_schema.%s: a number from 1 to 1000 is expected", what);
    *out = (size_t)json_integer_value(value);
    return 0;
}

static int parse_text(json_t *schema, struct ap_text_options *o, struct ap_err *err)
{
    json_t *type, *tokenizer, *lowercase, *least, *most, *phrase, *folding;
    const struct ap_json_field fields[] = {
        {"type", AP_JSON_STRING, true, &type}, {"tokenizer", AP_JSON_STRING, false, &tokenizer}, {"lowercase", AP_JSON_BOOL, false, &lowercase},
        {"min_token_len", AP_JSON_INTEGER, false, &least}, {"max_token_len", AP_JSON_INTEGER, false, &most},
        {"phrase_matching", AP_JSON_BOOL, false, &phrase}, {"ascii_folding", AP_JSON_BOOL, false, &folding}, {"on_disk", AP_JSON_BOOL, false, &type},
        {"stopwords", AP_JSON_ANY, false, NULL}, {"stemmer", AP_JSON_ANY, false, NULL}, {"enable_hnsw", AP_JSON_BOOL, false, &type}, AP_JSON_END,
    };
    *o = standard;
    int rc = ap_json_fields(schema, "field_schema", fields, err);
    if (rc)
        return rc;
    const char *name = tokenizer ? json_string_value(tokenizer) : "word";
    o->word = strcmp(name, "word") == 0;
    if (!o->word && strcmp(name, "whitespace") != 0)
        return refuse(err, "tokenizer of this kind", "word, whitespace");
    if (!is_false(phrase))
        return refuse(err, "phrase_matching", "");
    if (!is_false(folding))
        return refuse(err, "ascii_folding", "");
    o->lowercase = !lowercase || json_is_true(lowercase);
    rc = read_length(least, "min_token_len", &o->least, err);
    return rc ? rc : read_length(most, "max_token_len", &o->most, err);
}

/* Hints of Qdrant's that say how an index is kept, not what it answers. */
static int parse_plain(json_t *schema, enum ap_field_type t, struct ap_err *err)
{
    json_t *hint, *lookup, *range;
    bool integer = t == AP_FIELD_INTEGER;
    const struct ap_json_field fields[] = {
        {"type", AP_JSON_STRING, true, &hint}, {"on_disk", AP_JSON_BOOL, false, &hint}, {"is_tenant", AP_JSON_BOOL, false, &hint},
        {"is_principal", AP_JSON_BOOL, false, &hint}, {"enable_hnsw", AP_JSON_BOOL, false, &hint}, {"lookup", AP_JSON_BOOL, false, &lookup},
        {"range", AP_JSON_BOOL, false, &range}, AP_JSON_END,
    };
    int rc = ap_json_fields(schema, "field_schema", fields, err);
    if (rc == 0 && !integer && (lookup || range))
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "field_schema: lookup and range are of integers");
    return rc;
}

int ap_field_parse(const char *text, const json_t *schema, struct ap_control_index *out, struct ap_err *err)
{
    struct ap_json_path path;
    struct ap_text_options o = standard;
    json_t *object = json_is_object(schema) ? (json_t *)(uintptr_t)schema : NULL;
    const char *type = json_string_value(object ? json_object_get(object, "type") : schema);
    const char *why = strlen(text) > AP_FIELD_PATH_MAX / 2 ? "the key is too long" : ap_json_path_parse(text, &path);
    if (why)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "field_name: %s", why);
    int rc = 0;
    if (!type)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "field_schema: the type of the field is needed, as \"keyword\" or {\"type\": \"keyword\"}");
    else if (ap_field_type_parse(type, &out->type) != 0)
        rc = ap_err_set(err, AP_EUNSUPPORTED, AP_POISON,
                        "field_schema: \"%.32s\" is not supported; keyword, integer, float, bool, datetime, uuid and text are", type);
    else if (object)
        rc = out->type == AP_FIELD_TEXT ? parse_text(object, &o, err) : parse_plain(object, out->type, err);
    if (rc == 0) {
        out->field = must(strdup(path.text));
        if (out->type == AP_FIELD_TEXT && !is_standard(&o)) {
            json_t *kept = json_pack("{s:s,s:b}", "tokenizer", o.word ? "word" : "whitespace", "lowercase", o.lowercase);
            if (o.least)
                json_object_set_new(kept, "min_token_len", json_integer((json_int_t)o.least));
            if (o.most != SIZE_MAX)
                json_object_set_new(kept, "max_token_len", json_integer((json_int_t)o.most));
            out->options = must(json_dumps(kept, JSON_COMPACT | JSON_SORT_KEYS));
            json_decref(kept);
        }
    }
    ap_json_path_fini(&path);
    return rc;
}

int ap_field_init(struct ap_field *f, const struct ap_control_index *record, struct ap_err *err)
{
    memset(f, 0, sizeof *f);
    const char *why = ap_json_path_parse(record->field, &f->path);
    if (why)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "index of field %.100s: %s", record->field, why);
    f->type = record->type;
    f->text = standard;
    json_t *options = record->options ? json_loads(record->options, 0, NULL) : NULL;
    if (options) {
        const char *tokenizer = json_string_value(json_object_get(options, "tokenizer"));
        const json_t *least = json_object_get(options, "min_token_len"), *most = json_object_get(options, "max_token_len");
        f->text.word = !tokenizer || strcmp(tokenizer, "whitespace") != 0;
        f->text.lowercase = !json_is_false(json_object_get(options, "lowercase"));
        f->text.least = least ? (size_t)json_integer_value(least) : 0;
        f->text.most = most ? (size_t)json_integer_value(most) : SIZE_MAX;
        json_decref(options);
    }
    f->options = record->options ? must(strdup(record->options)) : NULL;
    XXH3_state_t *state = must(XXH3_createState());
    uint8_t type = (uint8_t)f->type;
    XXH3_64bits_reset(state);
    XXH3_64bits_update(state, f->path.text, strlen(f->path.text) + 1);
    XXH3_64bits_update(state, &type, 1);
    if (f->options)
        XXH3_64bits_update(state, f->options, strlen(f->options));
    f->id = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return 0;
}

void ap_field_fini(struct ap_field *f)
{
    ap_json_path_fini(&f->path);
    free(f->options);
    memset(f, 0, sizeof *f);
}

/* ---- values ---- */

/* Of IEEE 754 bits: the sign turned for positive numbers, all bits for negative ones. */
uint64_t ap_key_of_double(double v)
{
    uint64_t bits;
    v = v == 0 ? 0 : v; /* one zero */
    memcpy(&bits, &v, sizeof bits);
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}

double ap_double_of_key(uint64_t k)
{
    uint64_t bits = k >> 63 ? k & ~(UINT64_C(1) << 63) : ~k;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

bool ap_field_number(enum ap_field_type type, const json_t *value, uint64_t *key)
{
    int64_t us;
    switch (type) {
    case AP_FIELD_INTEGER:
        *key = ap_key_of_integer(json_integer_value(value));
        return json_is_integer(value);
    case AP_FIELD_FLOAT:
        *key = ap_key_of_double(json_number_value(value));
        return json_is_number(value);
    case AP_FIELD_BOOL:
        *key = json_is_true(value);
        return json_is_boolean(value);
    case AP_FIELD_DATETIME:
        if (!json_is_string(value) || !ap_datetime_parse(json_string_value(value), json_string_length(value), &us))
            return false;
        *key = ap_key_of_integer(us);
        return true;
    default:
        return false;
    }
}

struct each { const struct ap_field *f; struct ap_buf *scratch; void (*fn)(void *arg, const struct ap_field_value *value); void *arg; };

static int each_word(void *arg, const char *word, size_t len)
{
    struct each *e = arg;
    e->fn(e->arg, &(struct ap_field_value){.text = word, .len = len});
    return 0;
}

static void each_value(struct each *e, const json_t *value)
{
    struct ap_field_value v = {0};
    char uuid[37];
    if (!ap_field_is_text(e->f->type)) {
        if (ap_field_number(e->f->type, value, &v.number))
            e->fn(e->arg, &v);
        return;
    }
    v.text = json_string_value(value);
    v.len = json_string_length(value);
    if (!v.text)
        return;
    if (e->f->type == AP_FIELD_TEXT) {
        ap_text_words(&e->f->text, v.text, v.len, e->scratch, each_word, e);
        return;
    }
    if (e->f->type == AP_FIELD_UUID) {
        if (!ap_uuid_canonical(v.text, v.len, uuid))
            return;
        v.text = uuid;
        v.len = 36;
    }
    e->fn(e->arg, &v);
}

static int each_node(void *arg, const json_t *value)
{
    if (!json_is_array(value)) {
        each_value(arg, value);
        return 0;
    }
    size_t n = json_array_size(value);
    for (size_t i = 0; i < n; i++)
        each_value(arg, json_array_get(value, i));
    return 0;
}

void ap_field_each(const struct ap_field *f, const json_t *payload, struct ap_buf *scratch,
                   void (*fn)(void *arg, const struct ap_field_value *value), void *arg)
{
    struct each e = {f, scratch, fn, arg};
    ap_json_path_each(&f->path, payload, each_node, &e);
}

struct absence { bool empty, null; };

static int absence_of(void *arg, const json_t *value)
{
    struct absence *a = arg;
    a->null = a->null || json_is_null(value);
    a->empty = a->empty && (json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0));
    return 0;
}

void ap_field_absence(const struct ap_json_path *path, const json_t *payload, bool *empty, bool *null)
{
    struct absence a = {true, false};
    ap_json_path_each(path, payload, absence_of, &a);
    *empty = a.empty;
    *null = a.null;
}
