/* The words, the arithmetic, and the names of who is missing. Fails only on words that are none. */
#include "producer/levels.h"
#include <string.h>

static const char *const names[AP_LEVELS] = {"local", "visible", "quorum", "all"};

const char *ap_write_level_name(enum ap_write_level level)
{
    return names[level];
}

static int read_wait(const char *text, bool *out, struct ap_err *err)
{
    *out = text && strcmp(text, "true") == 0;
    if (text && !*out && strcmp(text, "false") != 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "wait: \"%.32s\" is neither true nor false", text);
    return 0;
}

int ap_write_level_parse(const char *level, const char *wait, size_t others, enum ap_write_level fallback, enum ap_write_level *out, struct ap_err *err)
{
    bool waits;
    size_t i = 0;
    int rc = read_wait(wait, &waits, err);
    *out = waits ? AP_LEVEL_VISIBLE : wait ? AP_LEVEL_LOCAL : fallback;
    if (rc || !level)
        return rc;
    while (i < AP_LEVELS && strcmp(level, names[i]) != 0)
        i++;
    if (i == AP_LEVELS)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level: \"%.32s\" is none of local, visible, quorum, all", level);
    if (wait && waits != (i != AP_LEVEL_LOCAL))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level=%s and wait=%s contradict each other", level, wait);
    if (i >= AP_LEVEL_QUORUM && others == 0)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "level=%s needs other regions, and this producer knows none: name them with the key regions", level);
    *out = (enum ap_write_level)i;
    return 0;
}

size_t ap_write_level_need(enum ap_write_level level, size_t regions)
{
    return level == AP_LEVEL_ALL ? regions : level == AP_LEVEL_QUORUM ? regions / 2 + 1 : 0;
}

void ap_write_missing(struct ap_watch *w, const struct ap_token *token, bool only_own, struct ap_buf *out)
{
    const char *between = "";
    size_t n = only_own ? 1 : w->config->other_count + 1;
    ap_buf_reserve(out, 1);
    for (size_t i = 0; i < n; i++)
        if (!ap_watch_is_retired(w, i) && (!token || !ap_watch_covers(w, i, token))) {
            ap_buf_printf(out, "%s%s", between, i == 0 ? w->config->region.name : w->config->others[i - 1].name);
            between = ",";
        }
    ap_buf_append(out, "", 1);
}
