/* Schema resolution: a compatibility check over two trees, and a decoder that walks both.
 *
 * decode() with value NULL skips. Both recursions are bounded by AP_AVRO_DEPTH (the trees are finite); the decoder also
 * counts steps, because an item of an array may take no bytes. Avro C's setters fail only when memory is out or the value
 * is not of the reader's schema, both of which are reported as a programmer's error. */
#include "common/avro_resolve.h"
#include <assert.h>
#include <stdbool.h>
#include <string.h>
#include "common/avro_wire.h"

struct input {
    const uint8_t *at, *end;
    size_t steps;       /* nodes that may still be visited */
    struct ap_buf text; /* a string with the NUL that Avro C wants */
    struct ap_err *err;
};

/* ---- matching ---- */

static bool is_named(enum ap_avro_type type)
{
    return type == AP_AVRO_RECORD || type == AP_AVRO_ENUM || type == AP_AVRO_FIXED;
}

/* Neither is a union. Says nothing about what is inside of them. */
static bool same(const struct ap_avro *w, const struct ap_avro *r)
{
    return w->type == r->type && (!is_named(w->type) || strcmp(w->name, r->name) == 0) && w->size == r->size;
}

static bool promotes(const struct ap_avro *w, const struct ap_avro *r)
{
    return (w->type == AP_AVRO_INT && r->type == AP_AVRO_LONG) || (w->type == AP_AVRO_FLOAT && r->type == AP_AVRO_DOUBLE);
}

/* The branch of union r that takes w; -1 when none does. */
static int branch_for(const struct ap_avro *w, const struct ap_avro *r)
{
    for (size_t i = 0; i < r->count; i++)
        if (same(w, r->kids[i]))
            return (int)i;
    for (size_t i = 0; i < r->count; i++)
        if (promotes(w, r->kids[i]))
            return (int)i;
    return -1;
}

/* Index of name; looks where it most likely is first. -1 when it is not there. */
static int index_of(const struct ap_avro *node, const char *name, size_t likely)
{
    if (likely < node->count && strcmp(node->names[likely], name) == 0)
        return (int)likely;
    for (size_t i = 0; i < node->count; i++)
        if (strcmp(node->names[i], name) == 0)
            return (int)i;
    return -1;
}

/* ---- defaults ---- */

/* Bytes and fixed stand in JSON as text whose code points are the bytes. false when one is above 255. */
static bool latin1(const json_t *json, struct ap_buf *out)
{
    const uint8_t *s = (const uint8_t *)json_string_value(json);
    for (size_t i = 0, len = json_string_length(json); i < len; i++) {
        uint8_t byte = s[i];
        if (byte >= 0x80) {
            if ((byte != 0xc2 && byte != 0xc3) || ++i == len)
                return false;
            byte = (uint8_t)((byte & 3) << 6 | (s[i] & 0x3f));
        }
        ap_buf_append(out, &byte, 1);
    }
    return true;
}

static bool set_default(const struct ap_avro *r, const json_t *json, avro_value_t *value);

static bool default_bytes(const struct ap_avro *r, const json_t *json, avro_value_t *value)
{
    struct ap_buf bytes = {0};
    bool good = json_is_string(json) && latin1(json, &bytes) && (r->type == AP_AVRO_BYTES || bytes.len == r->size);
    ap_buf_reserve(&bytes, 1); /* a pointer that is not NULL */
    if (good && value)
        good = (r->type == AP_AVRO_BYTES ? avro_value_set_bytes(value, bytes.data, bytes.len)
                                         : avro_value_set_fixed(value, bytes.data, bytes.len)) == 0;
    ap_buf_free(&bytes);
    return good;
}

static bool default_record(const struct ap_avro *r, const json_t *json, avro_value_t *value)
{
    if (!json_is_object(json))
        return false;
    for (size_t i = 0; i < r->count; i++) {
        const json_t *field = json_object_get(json, r->names[i]);
        avro_value_t child;
        if (value && avro_value_get_by_index(value, i, &child, NULL))
            return false;
        if (!field)
            field = r->defaults[i];
        if (!field || !set_default(r->kids[i], field, value ? &child : NULL))
            return false;
    }
    return true;
}

/* Set value (NULL: only check) to a field's default; false when the default is none of the type. Arrays and maps must
 * be empty: nothing else has a use here. */
static bool set_default(const struct ap_avro *r, const json_t *json, avro_value_t *value)
{
    avro_value_t branch;
    int symbol;
    switch (r->type) {
    case AP_AVRO_NULL:
        return json_is_null(json) && (!value || avro_value_set_null(value) == 0);
    case AP_AVRO_BOOLEAN:
        return json_is_boolean(json) && (!value || avro_value_set_boolean(value, json_is_true(json)) == 0);
    case AP_AVRO_INT:
        return json_is_integer(json) && json_integer_value(json) == (int32_t)json_integer_value(json) &&
               (!value || avro_value_set_int(value, (int32_t)json_integer_value(json)) == 0);
    case AP_AVRO_LONG:
        return json_is_integer(json) && (!value || avro_value_set_long(value, json_integer_value(json)) == 0);
    case AP_AVRO_FLOAT:
        return json_is_number(json) && (!value || avro_value_set_float(value, (float)json_number_value(json)) == 0);
    case AP_AVRO_DOUBLE:
        return json_is_number(json) && (!value || avro_value_set_double(value, json_number_value(json)) == 0);
    case AP_AVRO_STRING:
        return json_is_string(json) && strlen(json_string_value(json)) == json_string_length(json) &&
               (!value || avro_value_set_string(value, json_string_value(json)) == 0);
    case AP_AVRO_ENUM:
        symbol = json_is_string(json) ? index_of(r, json_string_value(json), 0) : -1;
        return symbol >= 0 && (!value || avro_value_set_enum(value, symbol) == 0);
    case AP_AVRO_BYTES:
    case AP_AVRO_FIXED:
        return default_bytes(r, json, value);
    case AP_AVRO_RECORD:
        return default_record(r, json, value);
    case AP_AVRO_ARRAY:
        return json_is_array(json) && json_array_size(json) == 0;
    case AP_AVRO_MAP:
        return json_is_object(json) && json_object_size(json) == 0;
    case AP_AVRO_UNION: /* a union's default is one of its first branch */
        return (!value || avro_value_set_branch(value, 0, &branch) == 0) &&
               set_default(r->kids[0], json, value ? &branch : NULL);
    }
    return false;
}

/* ---- compatibility ---- */

static int compatible_records(const struct ap_avro *w, const struct ap_avro *r, struct ap_err *err)
{
    for (size_t i = 0; i < r->count; i++) {
        int from = index_of(w, r->names[i], i);
        if (from >= 0) {
            if (ap_avro_compatible(w->kids[from], r->kids[i], err))
                return ap_err_wrap(err, "%s", r->names[i]);
        } else if (!r->defaults[i]) {
            return ap_err_set(err, AP_EINVAL, AP_POISON, "field '%s' of %s is missing and has no default", r->names[i], r->name);
        } else if (!set_default(r->kids[i], r->defaults[i], NULL)) {
            return ap_err_set(err, AP_EINVAL, AP_POISON, "the default of field '%s' of %s is not of its type", r->names[i], r->name);
        }
    }
    return 0;
}

int ap_avro_compatible(const struct ap_avro *w, const struct ap_avro *r, struct ap_err *err)
{
    if (w->type == AP_AVRO_UNION) {
        for (size_t i = 0; i < w->count; i++) {
            int rc = ap_avro_compatible(w->kids[i], r, err);
            if (rc)
                return rc;
        }
        return 0;
    }
    if (r->type == AP_AVRO_UNION) {
        int branch = branch_for(w, r);
        if (branch >= 0)
            return ap_avro_compatible(w, r->kids[branch], err);
        return ap_err_set(err, AP_EINVAL, AP_POISON, "no branch of the union reads %s", w->name ? w->name : ap_avro_type_name(w->type));
    }
    if (!same(w, r))
        return promotes(w, r) ? 0 : ap_err_set(err, AP_EINVAL, AP_POISON, "%s %s cannot be read as %s %s", ap_avro_type_name(w->type),
                                               w->name ? w->name : "", ap_avro_type_name(r->type), r->name ? r->name : "");
    switch (w->type) {
    case AP_AVRO_RECORD:
        return compatible_records(w, r, err);
    case AP_AVRO_ENUM:
        for (size_t i = 0; i < w->count; i++)
            if (index_of(r, w->names[i], i) < 0 && r->fallback < 0)
                return ap_err_set(err, AP_EINVAL, AP_POISON, "symbol '%s' of %s is unknown and there is no default", w->names[i], w->name);
        return 0;
    case AP_AVRO_ARRAY:
    case AP_AVRO_MAP:
        return ap_avro_compatible(w->kids[0], r->kids[0], err);
    default:
        return 0;
    }
}

/* ---- decoding ---- */

static int decode(struct input *in, const struct ap_avro *w, const struct ap_avro *r, avro_value_t *value);

static int corrupt(struct input *in, const char *what)
{
    return ap_err_set(in->err, AP_ECORRUPT, AP_POISON, "Avro: %s, %zu bytes before the end", what, (size_t)(in->end - in->at));
}

static size_t left(const struct input *in)
{
    return (size_t)(in->end - in->at);
}

static int get_long(struct input *in, int64_t *out)
{
    const uint8_t *next = ap_avro_get_long(in->at, in->end, out);
    if (!next)
        return corrupt(in, "bad number");
    in->at = next;
    return 0;
}

static int get_index(struct input *in, size_t count, size_t *out)
{
    int64_t index = 0;
    int rc = get_long(in, &index);
    if (rc)
        return rc;
    if (index < 0 || (uint64_t)index >= count)
        return corrupt(in, "an index out of range");
    *out = (size_t)index;
    return 0;
}

static int take(struct input *in, size_t len, const uint8_t **out)
{
    if (len > left(in))
        return corrupt(in, "a length beyond the end");
    *out = in->at;
    in->at += len;
    return 0;
}

static int get_bytes(struct input *in, const uint8_t **out, size_t *len)
{
    int64_t n = 0;
    int rc = get_long(in, &n);
    if (rc)
        return rc;
    *len = (size_t)n; /* take refuses what was negative as well */
    return take(in, *len, out);
}

/* Next block of an array or map: *count is 0 at the end. */
static int get_block(struct input *in, size_t least, size_t *count)
{
    int64_t n = 0, bytes = 0;
    int rc = get_long(in, &n);
    if (rc == 0 && n < 0) { /* then the block's length in bytes comes as well, for readers that skip */
        rc = get_long(in, &bytes);
        if (rc == 0 && (n == INT64_MIN || bytes < 0 || (uint64_t)bytes > left(in)))
            return corrupt(in, "a block beyond the end");
        n = rc == 0 ? -n : 0;
    }
    if (rc)
        return rc;
    if ((uint64_t)n > left(in) / (least ? least : 1))
        return corrupt(in, "more items than bytes");
    *count = (size_t)n;
    return 0;
}

static int set(struct input *in, int avro_rc)
{
    if (avro_rc)
        return ap_err_set(in->err, AP_ENOMEM, AP_FATAL, "Avro: %s", avro_strerror());
    return 0;
}

static const char *text(struct input *in, const uint8_t *bytes, size_t len)
{
    ap_buf_clear(&in->text);
    ap_buf_append(&in->text, bytes, len);
    ap_buf_append(&in->text, "", 1);
    return (const char *)in->text.data;
}

static int decode_scalar(struct input *in, const struct ap_avro *w, const struct ap_avro *r, avro_value_t *value)
{
    const uint8_t *bytes = NULL;
    size_t len = 0;
    int64_t number = 0;
    int rc;
    switch (w->type) {
    case AP_AVRO_NULL:
        return value ? set(in, avro_value_set_null(value)) : 0;
    case AP_AVRO_BOOLEAN:
        if ((rc = take(in, 1, &bytes)))
            return rc;
        if (*bytes > 1)
            return corrupt(in, "a boolean that is neither 0 nor 1");
        return value ? set(in, avro_value_set_boolean(value, *bytes)) : 0;
    case AP_AVRO_INT:
    case AP_AVRO_LONG:
        if ((rc = get_long(in, &number)))
            return rc;
        if (w->type == AP_AVRO_INT && number != (int32_t)number)
            return corrupt(in, "an int out of range");
        if (!value)
            return 0;
        return set(in, r->type == AP_AVRO_INT ? avro_value_set_int(value, (int32_t)number) : avro_value_set_long(value, number));
    case AP_AVRO_FLOAT:
    case AP_AVRO_DOUBLE: {
        float f;
        double d;
        if ((rc = take(in, w->type == AP_AVRO_FLOAT ? 4 : 8, &bytes)) || !value)
            return rc;
        uint64_t bits = w->type == AP_AVRO_FLOAT ? ap_le32(bytes) : ap_le64(bytes);
        uint32_t half = (uint32_t)bits;
        memcpy(&f, &half, 4);
        memcpy(&d, &bits, 8);
        if (w->type == AP_AVRO_FLOAT)
            d = (double)f;
        return set(in, r->type == AP_AVRO_FLOAT ? avro_value_set_float(value, f) : avro_value_set_double(value, d));
    }
    case AP_AVRO_BYTES:
        if ((rc = get_bytes(in, &bytes, &len)) || !value)
            return rc;
        return set(in, avro_value_set_bytes(value, (void *)(uintptr_t)bytes, len));
    case AP_AVRO_STRING: /* Avro C counts the NUL */
        if ((rc = get_bytes(in, &bytes, &len)) || !value)
            return rc;
        return set(in, avro_value_set_string_len(value, (char *)(uintptr_t)text(in, bytes, len), len + 1));
    case AP_AVRO_FIXED:
        if ((rc = take(in, w->size, &bytes)) || !value)
            return rc;
        return set(in, avro_value_set_fixed(value, (void *)(uintptr_t)bytes, w->size));
    case AP_AVRO_ENUM:
        if ((rc = get_index(in, w->count, &len)) || !value)
            return rc;
        rc = index_of(r, w->names[len], len);
        return set(in, avro_value_set_enum(value, rc >= 0 ? rc : r->fallback));
    default:
        assert(w->type < AP_AVRO_RECORD); /* decode took the others */
        return AP_EINVAL;
    }
}

static int decode_record(struct input *in, const struct ap_avro *w, const struct ap_avro *r, avro_value_t *value)
{
    avro_value_t child;
    int rc;
    for (size_t i = 0; i < w->count; i++) {
        int to = value ? index_of(r, w->names[i], i) : -1;
        if (to >= 0 && (rc = set(in, avro_value_get_by_index(value, (size_t)to, &child, NULL))))
            return rc;
        if ((rc = decode(in, w->kids[i], to >= 0 ? r->kids[to] : NULL, to >= 0 ? &child : NULL)))
            return rc;
    }
    for (size_t i = 0; value && i < r->count; i++) {
        if (index_of(w, r->names[i], i) >= 0)
            continue;
        if ((rc = set(in, avro_value_get_by_index(value, i, &child, NULL))))
            return rc;
        bool good = set_default(r->kids[i], r->defaults[i], &child);
        assert(good); /* ap_avro_compatible saw to it */
    }
    return 0;
}

static int decode_blocks(struct input *in, const struct ap_avro *w, const struct ap_avro *r, avro_value_t *value)
{
    const struct ap_avro *from = w->kids[0], *to = value ? r->kids[0] : NULL;
    bool map = w->type == AP_AVRO_MAP;
    for (;;) {
        size_t count = 0, len = 0;
        int rc = get_block(in, from->min_bytes + map, &count);
        if (rc || count == 0)
            return rc;
        while (count-- > 0) {
            avro_value_t child;
            const uint8_t *key = NULL;
            if (map && (rc = get_bytes(in, &key, &len)))
                return rc;
            if (value && (rc = set(in, map ? avro_value_add(value, text(in, key, len), &child, NULL, NULL)
                                           : avro_value_append(value, &child, NULL))))
                return rc;
            if ((rc = decode(in, from, to, value ? &child : NULL)))
                return rc;
        }
    }
}

static int decode(struct input *in, const struct ap_avro *w, const struct ap_avro *r, avro_value_t *value)
{
    if (in->steps-- == 0) {
        in->steps = 0;
        return corrupt(in, "too many items");
    }
    if (w->type == AP_AVRO_UNION) {
        size_t branch = 0;
        int rc = get_index(in, w->count, &branch);
        return rc ? rc : decode(in, w->kids[branch], r, value);
    }
    if (value && r->type == AP_AVRO_UNION) {
        avro_value_t child;
        int branch = branch_for(w, r);
        assert(branch >= 0); /* ap_avro_compatible saw to it */
        int rc = set(in, avro_value_set_branch(value, branch, &child));
        return rc ? rc : decode(in, w, r->kids[branch], &child);
    }
    if (w->type == AP_AVRO_RECORD)
        return decode_record(in, w, r, value);
    if (w->type == AP_AVRO_ARRAY || w->type == AP_AVRO_MAP)
        return decode_blocks(in, w, r, value);
    return decode_scalar(in, w, r, value);
}

int ap_avro_read(const struct ap_avro *writer, const struct ap_avro *reader, const uint8_t *bytes, size_t len,
                 avro_value_t *value, struct ap_err *err)
{
    struct input in = { .at = bytes, .end = bytes + len, .err = err };
    in.steps = 4 * AP_AVRO_NODES + 16 * len;
    int rc = decode(&in, writer, reader, value);
    if (rc == 0 && in.at != in.end)
        rc = corrupt(&in, "bytes left over");
    ap_buf_free(&in.text);
    return rc;
}
