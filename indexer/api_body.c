/* The body of a request: its floats from the text, the rest as a tree.
 *
 * find_floats walks the top of the text with the scanner. What it does not recognise it leaves alone: then the tree has
 * the vector as well, and the errors, if any, are the real parser's. */
#include "indexer/api_request.h"
#include "indexer/json_scan.h"

static bool is_name(const char *name, size_t len, const char *wanted)
{
    return len == strlen(wanted) && !memcmp(name, wanted, len);
}

/* At the value of a key that may hold the vector: reads [..] or {"nearest": [..]}; begin and end are the list's bounds. */
static bool read_vector_value(struct ap_json_cursor *c, size_t max_dim, struct ap_buf *floats, const char **begin, const char **end)
{
    const char *name;
    size_t len;
    ap_json_blank(c);
    if (c->p < c->end && *c->p == '{') {
        c->p++;
        ap_json_blank(c);
        if (!ap_json_read_string(c, &name, &len) || !is_name(name, len, "nearest"))
            return false;
        ap_json_blank(c);
        if (c->p == c->end || *c->p++ != ':')
            return false;
        ap_json_blank(c);
    }
    *begin = c->p;
    if (c->p == c->end || *c->p != '[' || !ap_json_read_floats(c, max_dim, floats) || floats->len == 0)
        return false;
    *end = c->p;
    return true;
}

/* The first `query` or `vector` of the object in text. */
static bool find_floats(const char *text, size_t len, size_t max_dim, struct ap_buf *floats, const char **begin, const char **end)
{
    struct ap_json_cursor c = {text, text + len};
    const char *name;
    size_t name_len;
    ap_json_blank(&c);
    if (c.p == c.end || *c.p != '{')
        return false;
    do {
        c.p++;
        ap_json_blank(&c);
        if (!ap_json_read_string(&c, &name, &name_len))
            return false;
        ap_json_blank(&c);
        if (c.p == c.end || *c.p++ != ':')
            return false;
        if (is_name(name, name_len, "query") || is_name(name, name_len, "vector"))
            return read_vector_value(&c, max_dim, floats, begin, end);
        if (!ap_json_skip(&c))
            return false;
        ap_json_blank(&c);
    } while (c.p < c.end && *c.p == ',');
    return false;
}

static json_t *load_without(const char *text, size_t len, const char *begin, const char *end)
{
    struct ap_buf rest = {0};
    ap_buf_reserve(&rest, len);
    ap_buf_append(&rest, text, (size_t)(begin - text));
    ap_buf_append(&rest, "[]", 2);
    ap_buf_append(&rest, end, (size_t)(text + len - end));
    json_t *root = json_loadb((const char *)rest.data, rest.len, JSON_REJECT_DUPLICATES, NULL);
    ap_buf_free(&rest);
    return root;
}

int ap_body_parse(const char *text, size_t len, const struct ap_limits *limits, struct ap_body *out, struct ap_err *err)
{
    const char *begin, *end;
    json_error_t at;
    *out = (struct ap_body){0};
    if (len == 0) {
        out->root = json_object();
        return 0;
    }
    if (find_floats(text, len, limits->max_dim, &out->floats, &begin, &end))
        out->root = load_without(text, len, begin, end);
    out->has_floats = out->root != NULL;
    if (!out->root) { /* no floats found, or an error elsewhere, whose place is to be told in the text that was sent */
        ap_buf_clear(&out->floats);
        out->root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);
    }
    if (json_is_object(out->root))
        return 0;
    int rc = out->root ? ap_err_set(err, AP_EINVAL, AP_POISON, "Format error in JSON body: expected an object")
                       : ap_err_set(err, AP_EINVAL, AP_POISON, "Format error in JSON body: %s at line %d column %d", at.text, at.line, at.column);
    ap_body_fini(out);
    return rc;
}

void ap_body_fini(struct ap_body *body)
{
    json_decref(body->root);
    ap_buf_free(&body->floats);
    *body = (struct ap_body){0};
}
