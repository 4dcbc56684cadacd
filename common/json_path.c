/* One pass over the text cuts it into steps, whose keys are copied; the canonical text is put together from them. */
#include "common/json_path.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"

#define SPECIAL ".[]\""

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* A key at *p, into *to. */
static const char *read_key(const char **p, char **to, struct ap_json_step *step)
{
    size_t len;
    step->key = *to;
    if (**p == '"') {
        len = strcspn(++*p, "\"");
        if (!(*p)[len])
            return "a quote is not closed";
        memcpy(*to, *p, len);
        *p += len + 1;
        if (**p && **p != '.' && **p != '[')
            return "behind a quoted key only . or [ may follow";
    } else {
        len = strcspn(*p, SPECIAL);
        if (len == 0)
            return "the key has an empty segment";
        memcpy(*to, *p, len);
        *p += len;
        if (**p == '"' || **p == ']')
            return "the key has a quote or a bracket where none belongs";
    }
    (*to)[len] = 0;
    *to += len + 1;
    return NULL;
}

static const char *read_brackets(const char **p, struct ap_json_step *step)
{
    const char *digits = ++*p;
    size_t n = strspn(digits, "0123456789");
    *p += n;
    if (**p != ']' || n > 9)
        return "brackets hold nothing or the number of an element";
    ++*p;
    step->key = NULL;
    step->index = n ? strtoul(digits, NULL, 10) : SIZE_MAX;
    return **p && **p != '.' && **p != '[' ? "behind brackets only . or [ may follow" : NULL;
}

static char *canonical(const struct ap_json_path *path)
{
    struct ap_buf out = {0};
    for (size_t i = 0; i < path->count; i++) {
        const struct ap_json_step *s = &path->steps[i];
        if (s->key && (!*s->key || strpbrk(s->key, SPECIAL)))
            ap_buf_printf(&out, "%s\"%s\"", i ? "." : "", s->key);
        else if (s->key)
            ap_buf_printf(&out, "%s%s", i ? "." : "", s->key);
        else if (s->index == SIZE_MAX)
            ap_buf_printf(&out, "[]");
        else
            ap_buf_printf(&out, "[%zu]", s->index);
    }
    ap_buf_append(&out, "", 1);
    return (char *)out.data;
}

const char *ap_json_path_parse(const char *text, struct ap_json_path *out)
{
    const char *p = text, *why = NULL;
    memset(out, 0, sizeof *out);
    char *to = out->keys = must(malloc(strlen(text) * 2 + 2));
    do {
        if (out->count == AP_JSON_PATH_STEPS)
            why = "the key has too many segments";
        else if (out->count > 0 && *p == '[')
            why = read_brackets(&p, &out->steps[out->count++]);
        else
            why = read_key(&p, &to, &out->steps[out->count++]);
        if (!why && *p == '.' && *++p == '[')
            why = "the key has an empty segment";
        else if (!why && p > text && p[-1] == '.' && !*p)
            why = "the key has an empty segment";
    } while (!why && *p);
    if (why)
        ap_json_path_fini(out);
    else
        out->text = canonical(out);
    return why;
}

void ap_json_path_fini(struct ap_json_path *path)
{
    free(path->text);
    free(path->keys);
    memset(path, 0, sizeof *path);
}

static int walk(const struct ap_json_path *path, size_t at, const json_t *value, int (*fn)(void *arg, const json_t *value), void *arg)
{
    for (; value && at < path->count; at++) {
        const struct ap_json_step *s = &path->steps[at];
        if (s->key) {
            value = json_object_get(value, s->key); /* NULL for what is no object */
        } else if (s->index != SIZE_MAX) {
            value = json_array_get(value, s->index);
        } else {
            size_t n = json_array_size(value);
            int rc = 0;
            for (size_t i = 0; i < n && rc == 0; i++)
                rc = walk(path, at + 1, json_array_get(value, i), fn, arg);
            return rc;
        }
    }
    return value ? fn(arg, value) : 0;
}

int ap_json_path_each(const struct ap_json_path *path, const json_t *root, int (*fn)(void *arg, const json_t *value), void *arg)
{
    return walk(path, 0, root, fn, arg);
}
