/* Words and numbers. Fails only on what is none, and on two that say opposite things. */
#include "indexer/levels.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STALENESS_MS 86400000

static const char *const names[AP_READ_LEVELS] = {"eventual", "session", "bounded", "strong"};

const char *ap_read_level_name(enum ap_read_level level)
{
    return names[level];
}

static int read_staleness(const char *name, const char *text, int64_t unit_ms, int64_t *ms, struct ap_err *err)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end) * (double)unit_ms;
    if (errno || end == text || *end || !(value >= 1 && value <= MAX_STALENESS_MS))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s=%.40s is not a time from 1 ms to a day", name, text);
    *ms = (int64_t)value;
    return 0;
}

int ap_read_level_parse(const char *level, const char *max_ms, const char *max_seconds, bool token, enum ap_read_level *out, int64_t *max_ns, struct ap_err *err)
{
    int64_t ms = 0;
    size_t i = 0;
    int rc = 0;
    if (max_ms && max_seconds)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "max_staleness_ms and max_staleness_seconds: one of them");
    if (max_ms || max_seconds)
        rc = max_ms ? read_staleness("max_staleness_ms", max_ms, 1, &ms, err) : read_staleness("max_staleness_seconds", max_seconds, 1000, &ms, err);
    *max_ns = ms * 1000000;
    *out = ms ? AP_READ_BOUNDED : token ? AP_READ_SESSION : AP_READ_EVENTUAL;
    if (rc || !level)
        return rc;
    while (i < AP_READ_LEVELS && strcmp(level, names[i]))
        i++;
    if (i == AP_READ_LEVELS)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level=%.40s is none of eventual, session, bounded, strong", level);
    *out = (enum ap_read_level)i;
    if (*out == AP_READ_SESSION && !token)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level=session needs the header X-Antipode-Token");
    if (*out == AP_READ_EVENTUAL && token)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level=eventual waits for nothing, and X-Antipode-Token asks to wait");
    if ((*out == AP_READ_BOUNDED) != (ms != 0))
        return ap_err_set(err, AP_EINVAL, AP_POISON, ms ? "level=%s and a bound of staleness contradict each other" : "level=%s needs max_staleness_ms or max_staleness_seconds", names[i]);
    return 0;
}

int ap_write_wait_parse(const char *level, const char *wait, struct ap_write_wait *out, struct ap_err *err)
{
    bool waits = wait && !strcmp(wait, "true");
    *out = (struct ap_write_wait){.here = waits, .unsaid = !level && !wait};
    if (wait && !waits && strcmp(wait, "false"))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "wait=%.40s is neither true nor false", wait);
    if (!level)
        return 0;
    bool local = !strcmp(level, "local"), visible = !strcmp(level, "visible"), quorum = !strcmp(level, "quorum");
    if (!local && !visible && !quorum && strcmp(level, "all"))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level=%.40s is none of local, visible, quorum, all", level);
    if (wait && waits == local)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "level=%s and wait=%s contradict each other", level, wait);
    out->here = visible;
    out->ask = local || visible ? NULL : quorum ? "quorum" : "all";
    return 0;
}

static bool is(const char *pair, size_t len, const char *name)
{
    size_t n = strlen(name);
    return len >= n && !memcmp(pair, name, n) && (len == n || pair[n] == '=');
}

char *ap_write_wait_query(const char *query, const struct ap_write_wait *wait)
{
    struct ap_buf out = {0};
    for (const char *p = query; *p;) {
        size_t n = strcspn(p, "&");
        if (n && !is(p, n, "wait") && !is(p, n, "level"))
            ap_buf_printf(&out, "%.*s&", (int)n, p);
        p += n + (p[n] == '&');
    }
    if (wait->unsaid)
        out.len -= out.len > 0; /* the last & */
    else
        ap_buf_printf(&out, wait->ask ? "level=%s" : "wait=false", wait->ask);
    ap_buf_append(&out, "", 1);
    return (char *)out.data;
}
