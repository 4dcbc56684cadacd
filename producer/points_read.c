/* One value each; the pull reader has checked the text by the time it is looked at. */
#include "producer/points_read.h"
#include <jansson.h>

bool ap_read_unknown(struct ap_pull *j, const struct ap_slice *key)
{
    return ap_pull_fail(j, AP_EINVAL, "unknown field \"%.*s\"", (int)(key->len < 64 ? key->len : 64), key->p);
}

bool ap_read_in(struct ap_pull *j, const char *what, size_t i)
{
    ap_err_wrap(j->err, "%s[%zu]", what, i);
    return false;
}

bool ap_read_once(struct ap_pull *j, bool *seen, const char *what)
{
    if (*seen)
        return ap_pull_fail(j, AP_EINVAL, "field \"%s\" is there twice", what);
    return *seen = true;
}

bool ap_read_room(struct ap_pull *j, size_t n, size_t max)
{
    return n < max || ap_pull_fail(j, AP_ETOOBIG, "more than %zu points in one request (max_points_per_request): send fewer at a time, or use points/bulk", max);
}

bool ap_read_id(struct ap_pull *j, struct ap_point_id *out)
{
    struct ap_slice text;
    char kind = ap_pull_peek(j);
    struct ap_err why = {0};
    if (kind == '0') {
        if (!ap_pull_value(j, &text))
            return false;
        /* Digits alone: neither a sign nor a fraction, and it must fit 64 bits. */
        return ap_point_id_parse(text.p, text.len < 21 ? text.len : 21, out, &why) == 0 && text.len <= 20
                   ? true : ap_pull_fail(j, AP_EINVAL, "id %.*s is neither a UUID nor an unsigned 64-bit integer", (int)(text.len < 40 ? text.len : 40), text.p);
    }
    if (kind == '"') {
        if (!ap_pull_string(j, &text))
            return false;
        if ((text.len == 32 || text.len == 36) && ap_point_id_parse(text.p, text.len, out, &why) == 0)
            return true;
        return ap_pull_fail(j, AP_EINVAL, "id \"%.*s\" is not a UUID (numbers are given without quotes)", (int)(text.len < 40 ? text.len : 40), text.p);
    }
    return ap_pull_fail(j, AP_EINVAL, "an id is a UUID string or an unsigned integer");
}

/* Text without the blanks between its tokens; it has been validated. */
static void append_compact(struct ap_buf *out, const struct ap_slice *text)
{
    bool in_string = false;
    ap_buf_reserve(out, text->len);
    uint8_t *to = out->data + out->len;
    for (size_t i = 0; i < text->len; i++) {
        char c = text->p[i];
        if (in_string && c == '\\') {
            *to++ = (uint8_t)c;
            c = text->p[++i];
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == ' ' || c == '\n' || c == '\t' || c == '\r')) {
            continue;
        }
        *to++ = (uint8_t)c;
    }
    out->len = (size_t)(to - out->data);
}

/* The text is handed on as it is, but consumers read it with jansson. */
bool ap_read_payload(struct ap_pull *j, struct ap_buf *out, struct ap_payload *where)
{
    struct ap_slice text;
    json_error_t why;
    if (ap_pull_peek(j) != '{')
        return ap_pull_fail(j, AP_EINVAL, "a payload is an object");
    if (!ap_pull_value(j, &text))
        return false;
    json_t *check = json_loadb(text.p, text.len, JSON_REJECT_DUPLICATES, &why);
    if (!check)
        return ap_pull_fail(j, AP_EINVAL, "payload: %s", why.text);
    bool empty = json_object_size(check) == 0;
    json_decref(check);
    if (!empty) {
        *where = (struct ap_payload){out->len, 0};
        append_compact(out, &text);
        where->len = out->len - where->at;
    }
    return true;
}
