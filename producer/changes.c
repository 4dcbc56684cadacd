/* One pass over the text; the fields that a call does not have are unknown to it. What a payload call says becomes the JSON of
 * a PATCH (row.h), which is merged into nothing once, so that a patch no consumer could apply is refused here. */
#include "producer/changes.h"
#include <jansson.h>
#include <stdlib.h>
#include "common/row.h"
#include "producer/points_read.h"

/* --- which points --- */

struct reader {
    struct ap_pull j;
    struct ap_change *c;
    size_t max;
    struct ap_buf ids, seen;
    size_t seen_count;
    bool has_points, has_seen, has_filter, has_what;
};

static bool read_ids(struct reader *r)
{
    struct ap_pull *j = &r->j;
    bool first = true;
    struct ap_point_id id;
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!ap_read_room(j, r->c->n, r->max))
            return false;
        if (!ap_read_id(j, &id))
            return ap_read_in(j, "points", r->c->n);
        ap_buf_append(&r->ids, &id, sizeof id);
        r->c->n++;
    }
    return !j->failed;
}

static bool read_seen(struct reader *r)
{
    struct ap_pull *j = &r->j;
    bool first = true;
    struct ap_slice text;
    struct ap_version v;
    struct ap_err why = {0};
    if (!ap_pull_open(j, '['))
        return false;
    while (ap_pull_next(j, '[', &first)) {
        if (!ap_read_room(j, r->seen_count, r->max))
            return false;
        if (!ap_pull_string(j, &text))
            return ap_read_in(j, "seen", r->seen_count);
        if (ap_version_parse(text.p, text.len, &v, &why) != 0) {
            ap_pull_fail(j, AP_EINVAL, "%s", why.msg);
            return ap_read_in(j, "seen", r->seen_count);
        }
        ap_buf_append(&r->seen, &v, sizeof v);
        if (v.hlc > r->c->seen_hlc)
            r->c->seen_hlc = v.hlc;
        r->seen_count++;
    }
    return !j->failed;
}

/* A point selector's fields. 1: it was one of them; 0: it is another field; -1: failed. */
static int read_selector(struct reader *r, const struct ap_slice *key)
{
    struct ap_pull *j = &r->j;
    struct ap_slice skipped;
    if (ap_pull_is(key, "points"))
        return ap_pull_null(j) || (ap_read_once(j, &r->has_points, "points") && read_ids(r)) ? 1 : -1;
    if (ap_pull_is(key, "seen"))
        return ap_pull_null(j) || (ap_read_once(j, &r->has_seen, "seen") && read_seen(r)) ? 1 : -1;
    if (ap_pull_is(key, "filter"))
        return ap_pull_null(j) || (ap_read_once(j, &r->has_filter, "filter") && ap_pull_value(j, &skipped)) ? 1 : -1;
    if (ap_pull_is(key, "shard_key"))
        return ap_pull_null(j) || ap_pull_fail(j, AP_EUNSUPPORTED, "\"shard_key\" is not supported") ? 1 : -1;
    return 0;
}

static bool check_selector(struct reader *r)
{
    struct ap_pull *j = &r->j;
    if (r->has_points && r->has_filter && !r->has_seen)
        return ap_pull_fail(j, AP_EINVAL, "\"points\" and \"filter\" are both there: one of them says which points");
    if (!r->has_points && r->has_seen)
        return ap_pull_fail(j, AP_EINVAL, "\"seen\" goes with \"points\"");
    if (!r->has_points && !r->has_filter)
        return ap_pull_fail(j, AP_EINVAL, "the body has neither \"points\" nor \"filter\"");
    if (r->has_seen && r->seen_count != r->c->n)
        return ap_pull_fail(j, AP_EINVAL, "there are %zu points and %zu versions in \"seen\": they must be equally many", r->c->n, r->seen_count);
    r->c->filtered = !r->has_points;
    return true;
}

/* --- what to change --- */

static bool read_payload(struct reader *r, const char *word)
{
    struct ap_payload where = {0, 0};
    ap_buf_printf(&r->c->patch, "{\"%s\":", word);
    if (!ap_read_payload(&r->j, &r->c->patch, &where))
        return false;
    if (!where.len)
        ap_buf_append(&r->c->patch, "{}", 2);
    ap_buf_append(&r->c->patch, "}", 1);
    r->c->nothing = !where.len && r->c->kind == AP_CHANGE_SET_PAYLOAD;
    return true;
}

/* Qdrant's keys here are paths: dots and brackets step into a value, quotes around all of it take them as they are. */
static bool read_key(struct reader *r, json_t *keys, json_t *key, size_t i)
{
    const char *text = json_string_value(key);
    if (!text)
        return ap_pull_fail(&r->j, AP_EINVAL, "keys[%zu] is no string", i);
    size_t len = json_string_length(key);
    bool quoted = len >= 2 && text[0] == '"' && text[len - 1] == '"';
    if (!quoted && strpbrk(text, ".[]\""))
        return ap_pull_fail(&r->j, AP_EUNSUPPORTED, "keys[%zu]: \"%.64s\": paths into a value are not supported, only keys of the payload itself (one with dots in it goes in quotes of its own)", i, text);
    json_array_append_new(keys, quoted ? json_stringn(text + 1, len - 2) : json_incref(key));
    return true;
}

static bool read_keys(struct reader *r)
{
    struct ap_slice text;
    json_error_t why;
    size_t i;
    json_t *key;
    if (ap_pull_peek(&r->j) != '[')
        return ap_pull_fail(&r->j, AP_EINVAL, "\"keys\" is a list of strings");
    if (!ap_pull_value(&r->j, &text))
        return false;
    json_t *given = json_loadb(text.p, text.len, 0, &why), *keys = json_array();
    bool good = given != NULL || ap_pull_fail(&r->j, AP_EINVAL, "keys: %s", why.text);
    json_array_foreach(given, i, key) {
        if (!(good = read_key(r, keys, key, i)))
            break;
    }
    char *list = good ? json_dumps(keys, JSON_COMPACT) : NULL;
    if (list)
        ap_buf_printf(&r->c->patch, "{\"delete\":%s}", list);
    r->c->nothing = json_array_size(keys) == 0;
    free(list);
    json_decref(keys);
    json_decref(given);
    return good;
}

/* The fields of a call beside its selector; as read_selector. */
static int read_what(struct reader *r, const struct ap_slice *key)
{
    enum ap_change_kind kind = r->c->kind;
    bool sets = kind == AP_CHANGE_SET_PAYLOAD || kind == AP_CHANGE_OVERWRITE_PAYLOAD;
    if (sets && ap_pull_is(key, "payload"))
        return ap_read_once(&r->j, &r->has_what, "payload") && read_payload(r, kind == AP_CHANGE_SET_PAYLOAD ? "set" : "overwrite") ? 1 : -1;
    if (sets && ap_pull_is(key, "key"))
        return ap_pull_null(&r->j) || ap_pull_fail(&r->j, AP_EUNSUPPORTED, "\"key\" is not supported: a payload is set at its top, not under a path") ? 1 : -1;
    if (kind == AP_CHANGE_DELETE_PAYLOAD && ap_pull_is(key, "keys"))
        return ap_read_once(&r->j, &r->has_what, "keys") && read_keys(r) ? 1 : -1;
    return 0;
}

static bool check_what(struct reader *r)
{
    enum ap_change_kind kind = r->c->kind;
    if (kind == AP_CHANGE_CLEAR_PAYLOAD)
        ap_buf_printf(&r->c->patch, "{\"clear\":true}");
    else if (kind != AP_CHANGE_DELETE && !r->has_what)
        return ap_pull_fail(&r->j, AP_EINVAL, "the body has no \"%s\"", kind == AP_CHANGE_DELETE_PAYLOAD ? "keys" : "payload");
    return true;
}

/* As a consumer would: only it knows what a patch must be. */
static bool check_patch(struct reader *r)
{
    static const struct ap_key anywhere;
    struct ap_mutation m = {.op = AP_OP_PATCH, .version = {.hlc = 1, .region = {"x"}, .writer = 1}, .payload = (char *)r->c->patch.data, .payload_len = r->c->patch.len};
    struct ap_buf row = {0};
    struct ap_err why = {0};
    int rc = m.payload_len ? ap_row_merge(&anywhere, NULL, &m, &row, &why) : 0;
    ap_buf_free(&row);
    return rc >= 0 || ap_pull_fail(&r->j, AP_EINVAL, "%s", why.msg);
}

/* --- a body --- */

static bool read_body(struct reader *r)
{
    bool first = true;
    struct ap_slice key;
    if (!ap_pull_open(&r->j, '{'))
        return false;
    while (ap_pull_next(&r->j, '{', &first)) {
        if (!ap_pull_key(&r->j, &key))
            return false;
        int known = read_selector(r, &key);
        if (known == 0)
            known = read_what(r, &key);
        if (known <= 0)
            return known < 0 ? false : ap_read_unknown(&r->j, &key);
    }
    return ap_pull_end(&r->j) && check_selector(r) && check_what(r) && check_patch(r);
}

int ap_change_parse(enum ap_change_kind kind, const char *text, size_t len, size_t max_points, struct ap_change *out, struct ap_err *err)
{
    struct ap_err own = {0};
    struct reader r = {.c = out, .max = max_points};
    *out = (struct ap_change){.kind = kind};
    ap_pull_init(&r.j, text, len, err ? err : &own);
    bool good = read_body(&r);
    out->ids = (struct ap_point_id *)(void *)r.ids.data;
    out->seen = (struct ap_version *)(void *)r.seen.data;
    if (good)
        return 0;
    ap_change_fini(out);
    return r.j.err->code;
}

void ap_change_fini(struct ap_change *c)
{
    free(c->ids);
    free(c->seen);
    ap_buf_free(&c->patch);
    *c = (struct ap_change){.kind = c->kind};
}

void ap_change_records(const struct ap_change *c, uint64_t collection, struct ap_record *out, size_t *count)
{
    *count = c->nothing ? 0 : c->n;
    for (size_t i = 0; i < *count; i++) {
        struct ap_record *r = &out[i];
        *r = (struct ap_record){.op = AP_OP_DELETE};
        ap_key_make(collection, &c->ids[i], &r->key);
        if (c->kind == AP_CHANGE_DELETE) {
            r->version = c->seen ? &c->seen[i] : NULL;
        } else {
            r->op = AP_OP_PATCH;
            r->payload = (const char *)c->patch.data;
            r->payload_len = c->patch.len;
        }
    }
}
