/* Paths into JSON values, as Qdrant writes them: keys joined by dots, `list[]` for every element of a list, `list[2]` for
 * one of them, and "quotes" around a key that holds one of the characters . [ ] or is empty.
 *
 * A key is looked up in objects only, brackets in lists only; a path that leads nowhere leads to no value. */
#ifndef ANTIPODE_COMMON_JSON_PATH_H
#define ANTIPODE_COMMON_JSON_PATH_H
#include <jansson.h>
#include <stddef.h>

#define AP_JSON_PATH_STEPS 32

struct ap_json_step { const char *key; /* NULL: brackets */ size_t index; /* SIZE_MAX: every element */ };
struct ap_json_path {
    char *text;  /* in its one canonical spelling; owned, as keys is */
    char *keys;
    struct ap_json_step steps[AP_JSON_PATH_STEPS];
    size_t count;
};

/* NULL, or what is wrong with the text (a literal); *out is then empty. */
const char *ap_json_path_parse(const char *text, struct ap_json_path *out);
void ap_json_path_fini(struct ap_json_path *path);

/* Calls fn with each value that the path leads to, until it returns non-zero; returns that, or 0. Allocates nothing. */
int ap_json_path_each(const struct ap_json_path *path, const json_t *root, int (*fn)(void *arg, const json_t *value), void *arg);

#endif
