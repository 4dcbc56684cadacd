/* Walks payload and paths together: at each key, the paths that start with it go on below, without it. */
#include "indexer/payload_select.h"
#include <stdlib.h>
#include <string.h>

struct paths { const char **text; size_t count; };

static void *must_alloc(void *p)
{
    if (!p)
        abort(); /* paths are bounded by the request's body */
    return p;
}

/* The rest of path behind key, or NULL when it does not start with key. "" : the path ends here. */
static const char *behind_key(const char *path, const char *key, size_t len)
{
    if (strncmp(path, key, len) != 0)
        return NULL;
    if (path[len] == '.')
        return path + len + 1;
    return path[len] == 0 || path[len] == '[' ? path + len : NULL;
}

static const char *behind_element(const char *path)
{
    if (strncmp(path, "[]", 2) != 0)
        return NULL;
    return path[2] == '.' ? path + 3 : path[2] == 0 || path[2] == '[' ? path + 2 : NULL;
}

/* Paths of all that lead through key (NULL: through the elements of a list). *whole: one of them ends there. */
static struct paths narrow(const struct paths *all, const char *key, bool *whole)
{
    struct paths below = {.text = must_alloc(malloc((all->count + 1) * sizeof *below.text))};
    *whole = false;
    for (size_t i = 0; i < all->count; i++) {
        const char *rest = key ? behind_key(all->text[i], key, strlen(key)) : behind_element(all->text[i]);
        if (rest && *rest == 0)
            *whole = true;
        else if (rest)
            below.text[below.count++] = rest;
    }
    return below;
}

static json_t *select_value(json_t *value, const struct paths *paths, bool include);

/* What is left of value, to which `paths` lead (or which one of them names whole); NULL: nothing. */
static json_t *select_below(json_t *value, const struct paths *paths, bool whole, bool include)
{
    if (whole)
        return include ? json_incref(value) : NULL;
    if (paths->count == 0)
        return include ? NULL : json_incref(value);
    return select_value(value, paths, include);
}

static json_t *select_object(json_t *value, const struct paths *paths, bool include)
{
    json_t *out = must_alloc(json_object()), *child;
    const char *key;
    json_object_foreach(value, key, child) {
        bool whole;
        struct paths below = narrow(paths, key, &whole);
        json_t *kept = select_below(child, &below, whole, include);
        if (kept)
            json_object_set_new(out, key, kept);
        free(below.text);
    }
    return out;
}

static json_t *select_elements(json_t *value, const struct paths *paths, bool include)
{
    json_t *out = must_alloc(json_array()), *child;
    size_t i;
    bool whole;
    struct paths below = narrow(paths, NULL, &whole);
    json_array_foreach(value, i, child) {
        json_t *kept = select_below(child, &below, whole, include);
        if (kept)
            json_array_append_new(out, kept);
    }
    free(below.text);
    return out;
}

/* New reference, or NULL when nothing of an included value is left. */
static json_t *select_value(json_t *value, const struct paths *paths, bool include)
{
    json_t *out = json_is_object(value)  ? select_object(value, paths, include)
                  : json_is_array(value) ? select_elements(value, paths, include)
                  : include              ? NULL
                                         : json_incref(value);
    if (include && out && json_object_size(out) == 0 && json_array_size(out) == 0) {
        json_decref(out);
        return NULL;
    }
    return out;
}

json_t *ap_payload_select(json_t *payload, const json_t *list, bool include)
{
    struct paths paths = {.count = json_array_size(list)};
    paths.text = must_alloc(malloc((paths.count + 1) * sizeof *paths.text));
    for (size_t i = 0; i < paths.count; i++)
        paths.text[i] = json_string_value(json_array_get(list, i));
    json_t *out = select_object(payload, &paths, include);
    free(paths.text);
    return out;
}
