/* Patches as JSON: what a PATCH says, and the payload that a reader sees.
 *
 * Values are cut out of the text, not parsed and printed again: a float keeps the digits it was written with, and what
 * two regions hold is equal byte for byte. jansson decides whether the text is JSON (and refuses a key given twice); the
 * scanner here only finds where the members of an object begin and end, and stays inside the text whatever is in it. */
#include <assert.h>
#include <jansson.h>
#include <stdlib.h>
#include "common/row_internal.h"

/* A member of an object: its key as written, without quotes, and its value's text. */
struct member { const char *key; size_t key_len; const char *value; size_t value_len; };

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p;
}

/* p is at a quote: returns what follows the closing one, NULL when there is none. */
static const char *skip_string(const char *p, const char *end)
{
    for (p++; p < end; p++) {
        if (*p == '\\')
            p++;
        else if (*p == '"')
            return p + 1;
    }
    return NULL;
}

static const char *skip_value(const char *p, const char *end)
{
    size_t depth = 0;
    while (p < end) {
        if (*p == '"') {
            p = skip_string(p, end);
            if (!p)
                return NULL;
            if (depth == 0)
                return p;
            continue;
        }
        if (*p == '{' || *p == '[') {
            depth++;
        } else if (*p == '}' || *p == ']') {
            if (depth == 0)
                return p; /* the end of the object around a number or word */
            if (--depth == 0)
                return p + 1;
        } else if (depth == 0 && (*p == ',' || *p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) {
            return p;
        }
        p++;
    }
    return depth == 0 ? p : NULL;
}

/* The next member at *at, which is behind '{' or the last value. 1: *out; 0: the object ends; -1: no object. */
static int next_member(const char **at, const char *end, bool first, struct member *out)
{
    const char *p = skip_space(*at, end);
    if (p < end && *p == '}') {
        *at = p + 1;
        return 0;
    }
    if (!first) {
        if (p == end || *p != ',')
            return -1;
        p = skip_space(p + 1, end);
    }
    if (p == end || *p != '"')
        return -1;
    out->key = p + 1;
    p = skip_string(p, end);
    if (!p)
        return -1;
    out->key_len = (size_t)(p - 1 - out->key);
    p = skip_space(p, end);
    if (p == end || *p != ':')
        return -1;
    out->value = skip_space(p + 1, end);
    p = skip_value(out->value, end);
    if (!p)
        return -1;
    out->value_len = (size_t)(p - out->value);
    *at = p;
    return 1;
}

/* Behind the opening brace, NULL when the text is no object. */
static const char *enter_object(const char *text, size_t len)
{
    const char *p = skip_space(text, text + len);
    return p < text + len && *p == '{' ? p + 1 : NULL;
}

/* The key without escapes: p->key, and p->owned where it had to be copied. False: not a JSON string. */
static bool take_key(struct ap_patch *p, const char *key, size_t len)
{
    p->key = key;
    p->key_len = len;
    if (!memchr(key, '\\', len))
        return true;
    /* The quotes stand around it in the text. */
    json_t *string = json_loadb(key - 1, len + 2, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!json_is_string(string)) {
        json_decref(string);
        return false;
    }
    p->key_len = json_string_length(string);
    p->owned = malloc(p->key_len + 1);
    if (!p->owned)
        abort();
    memcpy(p->owned, json_string_value(string), p->key_len + 1);
    p->key = p->owned;
    json_decref(string);
    return true;
}

/* Add every member of an object's text as a patch. */
static bool add_members(struct ap_patches *out, const char *text, size_t len, const struct ap_version *version, uint8_t kind)
{
    const char *end = text + len, *at = enter_object(text, len);
    struct member member;
    int more = at ? 1 : -1;
    for (bool first = true; more > 0 && (more = next_member(&at, end, first, &member)) > 0; first = false) {
        struct ap_patch patch = {.kind = kind, .version = *version, .value = member.value, .value_len = member.value_len};
        if (!take_key(&patch, member.key, member.key_len))
            return false;
        ap_patches_add(out, &patch);
    }
    return more == 0;
}

static int compare_for_sort(const void *a, const void *b)
{
    const struct ap_patch *p = a, *q = b;
    int c = ap_patch_compare_keys(p, q);
    return c ? c : -ap_patch_compare(p, q); /* of one key the winner first */
}

static void sort_and_dedupe(struct ap_patches *p)
{
    if (p->count < 2)
        return;
    qsort(p->list, p->count, sizeof *p->list, compare_for_sort);
    size_t kept = 1;
    for (size_t i = 1; i < p->count; i++) {
        if (ap_patch_compare_keys(&p->list[i], &p->list[kept - 1]) == 0)
            free(p->list[i].owned);
        else
            p->list[kept++] = p->list[i];
    }
    p->count = kept;
}

static int bad_patch(struct ap_err *err, const char *why)
{
    return ap_err_set(err, AP_EINVAL, AP_POISON, "not a patch: %s", why);
}

static int parse_deletes(json_t *keys, const struct ap_version *version, struct ap_patches *out, struct ap_err *err)
{
    size_t i;
    json_t *key;
    if (!json_is_array(keys))
        return bad_patch(err, "\"delete\" is no list of keys");
    json_array_foreach(keys, i, key) {
        if (!json_is_string(key))
            return bad_patch(err, "\"delete\" is no list of keys");
        struct ap_patch patch = {.kind = AP_PATCH_DELETE, .version = *version, .key_len = json_string_length(key)};
        patch.owned = malloc(patch.key_len + 1);
        if (!patch.owned)
            abort();
        memcpy(patch.owned, json_string_value(key), patch.key_len + 1);
        patch.key = patch.owned;
        ap_patches_add(out, &patch);
    }
    return 0;
}

/* One word of the patch: its parsed value says what it is, its text is what is kept. */
static int parse_word(const char *word, json_t *value, const struct member *text, const struct ap_version *version,
                      struct ap_patches *out, struct ap_err *err)
{
    struct ap_patch overwrite = {.kind = AP_PATCH_OVERWRITE, .version = *version, .key = "", .value = "{}", .value_len = 2};
    if (strcmp(word, "set") == 0) {
        if (!json_is_object(value) || !add_members(out, text->value, text->value_len, version, AP_PATCH_SET))
            return bad_patch(err, "\"set\" is no object");
    } else if (strcmp(word, "delete") == 0) {
        return parse_deletes(value, version, out, err);
    } else if (strcmp(word, "overwrite") == 0) {
        if (!json_is_object(value))
            return bad_patch(err, "\"overwrite\" is no object");
        if (json_object_size(value) > 0) {
            overwrite.value = text->value;
            overwrite.value_len = text->value_len;
        }
        ap_patches_add(out, &overwrite);
    } else if (strcmp(word, "clear") == 0) {
        if (!json_is_boolean(value))
            return bad_patch(err, "\"clear\" is neither true nor false");
        if (json_is_true(value))
            ap_patches_add(out, &overwrite);
    } else {
        return ap_err_set(err, AP_EINVAL, AP_POISON, "not a patch: unknown word \"%.40s\"", word);
    }
    return 0;
}

int ap_patches_parse(const struct ap_mutation *m, struct ap_patches *out, struct ap_err *err)
{
    json_error_t why;
    if (m->vector)
        return bad_patch(err, "it carries a vector");
    if (!m->payload)
        return bad_patch(err, "it has no payload");
    json_t *patch = json_loadb(m->payload, m->payload_len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!patch)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "not a patch: %s at byte %d", why.text, why.position);
    int rc = json_is_object(patch) ? 0 : bad_patch(err, "no JSON object");
    const char *end = m->payload + m->payload_len, *at = enter_object(m->payload, m->payload_len);
    struct member member;
    for (bool first = true; rc == 0; first = false) {
        int more = at ? next_member(&at, end, first, &member) : -1;
        struct ap_patch word = {0};
        if (more == 0)
            break;
        if (more < 0 || !take_key(&word, member.key, member.key_len)) {
            rc = bad_patch(err, "no JSON object");
        } else {
            char name[16] = {0}; /* longer than any word we know */
            memcpy(name, word.key, word.key_len < sizeof name ? word.key_len : sizeof name - 1);
            json_t *value = json_object_get(patch, name);
            rc = value ? parse_word(name, value, &member, &m->version, out, err) : bad_patch(err, "unknown word");
        }
        free(word.owned);
    }
    if (rc == 0 && json_is_true(json_object_get(patch, "clear")) && json_object_get(patch, "overwrite"))
        rc = bad_patch(err, "both \"clear\" and \"overwrite\"");
    json_decref(patch);
    for (size_t i = 0; rc == 0 && i < out->count; i++)
        if (out->list[i].key_len > UINT16_MAX)
            rc = bad_patch(err, "a key of more than 65,535 bytes");
    if (rc == 0)
        sort_and_dedupe(out);
    return rc;
}

/* --- what a reader sees --- */

/* False: the key is not UTF-8. */
static bool append_member(struct ap_buf *out, size_t start, const struct ap_patch *p)
{
    json_t *key = json_stringn(p->key, p->key_len);
    char *text = key ? json_dumps(key, JSON_ENCODE_ANY) : NULL;
    if (text) {
        ap_buf_append(out, out->len == start ? "{" : ",", 1);
        ap_buf_append(out, text, strlen(text));
        ap_buf_append(out, ":", 1);
        ap_buf_append(out, p->value, p->value_len);
    }
    free(text);
    json_decref(key);
    return text != NULL;
}

static bool is_empty_object(const char *text, size_t len)
{
    const char *at = enter_object(text, len);
    at = at ? skip_space(at, text + len) : NULL;
    return at && at < text + len && *at == '}';
}

int ap_row_payload(const struct ap_row *row, struct ap_buf *out, struct ap_err *err)
{
    if (!ap_row_is_live(row))
        return 0;
    if (!row->patches) {
        if (row->payload && !is_empty_object(row->payload, row->payload_len))
            ap_buf_append(out, row->payload, row->payload_len);
        return 0;
    }
    struct ap_patches patches = {0}, base = {0};
    const char *text = row->payload;
    size_t len = row->payload_len, start = out->len;
    /* Members of the base have no version, which is older than any: within one, the last of a key given twice counts. */
    static const struct ap_version oldest;
    bool good = ap_patches_read(row->patches, row->patches_len, &patches);
    if (good && patches.count && patches.list[0].kind == AP_PATCH_OVERWRITE) {
        text = patches.list[0].value;
        len = patches.list[0].value_len;
    }
    if (good && text)
        good = add_members(&base, text, len, &oldest, AP_PATCH_SET);
    for (size_t i = 0; i < base.count; i++)
        base.list[i].version.hlc = i;
    sort_and_dedupe(&base);

    size_t i = 0, j = patches.count && patches.list[0].kind == AP_PATCH_OVERWRITE;
    while (good && (i < base.count || j < patches.count)) {
        const struct ap_patch *old = i < base.count ? &base.list[i] : NULL;
        const struct ap_patch *new = j < patches.count ? &patches.list[j] : NULL;
        int c = !old ? 1 : !new ? -1 : ap_patch_compare_keys(old, new);
        i += c <= 0;
        j += c >= 0;
        if (c < 0)
            good = append_member(out, start, old);
        else if (new->kind == AP_PATCH_SET)
            good = append_member(out, start, new);
    }
    if (good && out->len > start)
        ap_buf_append(out, "}", 1);
    ap_patches_fini(&base);
    ap_patches_fini(&patches);
    if (good)
        return 0;
    out->len = start;
    return ap_err_set(err, AP_ECORRUPT, AP_POISON, "the payload of a row is no JSON object");
}
