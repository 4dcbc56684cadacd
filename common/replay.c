#include "common/replay.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/fd.h"

static void path_of(const char *store, char out[4200])
{
    snprintf(out, 4200, "%s/replay", store);
}

/* ---- what is asked for ---- */

int ap_replay_add_offset(struct ap_replay *r, const char *text, struct ap_err *err)
{
    struct ap_replay_offset *o = &r->offsets[r->offset_count];
    char bracket = 0, end = 0;
    long long offset = -1;
    int partition = -1, n;
    if (r->offset_count == AP_REPLAY_OFFSETS_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "more than %d offsets", AP_REPLAY_OFFSETS_MAX);
    n = sscanf(text, "%79[A-Za-z0-9._-][%d%c=%lld%c", o->topic, &partition, &bracket, &offset, &end);
    if (n != 4 || bracket != ']') {
        partition = -1;
        n = sscanf(text, "%79[A-Za-z0-9._-]=%lld%c", o->topic, &offset, &end) == 2 ? 4 : 0;
    } else if (partition < 0) {
        n = 0;
    }
    if (n != 4 || offset < 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is not like vec-mutations=1000 or us.vec-mutations[3]=1000", text);
    o->partition = partition;
    o->offset = offset;
    r->offset_count++;
    return 0;
}

int ap_replay_parse_time(const char *text, int64_t now_ms, int64_t *out, struct ap_err *err)
{
    static const struct { char unit; int64_t ms; } units[] = {{'s', 1000}, {'m', 60000}, {'h', 3600000}, {'d', 86400000}};
    struct tm tm = {0};
    char *end;
    int n = 0;
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2dZ%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &n) == 6 && text[n] == '\0' && n > 0) {
        tm.tm_year -= 1900;
        tm.tm_mon--;
        struct tm back = tm;
        int64_t seconds = timegm(&back);
        if (seconds >= 0 && back.tm_mday == tm.tm_mday && back.tm_mon == tm.tm_mon && back.tm_hour == tm.tm_hour && back.tm_min == tm.tm_min && back.tm_sec == tm.tm_sec) {
            *out = seconds * 1000;
            if (*out > now_ms)
                return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s has not come yet", text);
            return 0;
        }
    }
    errno = 0;
    long long count = strtoll(text, &end, 10);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (end > text && end[0] == units[i].unit && end[1] == '\0' && errno == 0 && count >= 0 && count <= now_ms / units[i].ms) {
            *out = now_ms - count * units[i].ms;
            return 0;
        }
    return ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is no time like 2026-11-21T10:00:00Z, and not like 15m, 2h or 3d ago", text);
}

/* ---- the file ---- */

static int take_line(struct ap_replay *r, const char *line)
{
    char topic[80];
    int32_t partition;
    int64_t number;
    int n = 0;
    if (sscanf(line, "time %" SCNd64 "%n", &number, &n) == 1 && line[n] == '\0' && number >= 0) {
        r->from_ms = number;
    } else if (sscanf(line, "offset %79s %" SCNd32 " %" SCNd64 "%n", topic, &partition, &number, &n) == 3 && line[n] == '\0' && number >= 0 &&
               r->offset_count < AP_REPLAY_OFFSETS_MAX) {
        struct ap_replay_offset *o = &r->offsets[r->offset_count++];
        snprintf(o->topic, sizeof o->topic, "%s", topic);
        o->partition = partition;
        o->offset = number;
    } else if (sscanf(line, "done %79s%n", topic, &n) == 1 && line[n] == '\0' && r->done_count < AP_REPLAY_TOPICS_MAX) {
        snprintf(r->done[r->done_count++], sizeof r->done[0], "%s", topic);
    } else {
        return -1;
    }
    return 0;
}

int ap_replay_read(const char *store, struct ap_replay *out, struct ap_err *err)
{
    char path[4200], line[400];
    int rc = 1;
    memset(out, 0, sizeof *out);
    out->from_ms = -1;
    path_of(store, path);
    FILE *f = fopen(path, "re");
    if (!f)
        return errno == ENOENT ? 0 : ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", path, strerror(errno));
    while (rc == 1 && fgets(line, sizeof line, f)) {
        size_t len = strcspn(line, "\n");
        bool whole = line[len] == '\n';
        line[len] = '\0';
        if (!whole && strncmp("done ", line, len < 5 ? len : 5) == 0)
            break; /* the process that wrote it was killed: it is done again */
        if (take_line(out, line) != 0)
            rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: cannot be understood: %s", path, line);
    }
    fclose(f);
    return rc;
}

char *ap_replay_text(const struct ap_replay *r)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        abort();
    if (r->from_ms >= 0)
        fprintf(f, "time %" PRId64 "\n", r->from_ms);
    for (size_t i = 0; i < r->offset_count; i++)
        fprintf(f, "offset %s %" PRId32 " %" PRId64 "\n", r->offsets[i].topic, r->offsets[i].partition, r->offsets[i].offset);
    fclose(f);
    return text;
}

bool ap_replay_is_done(const struct ap_replay *r, const char *topic)
{
    for (size_t i = 0; i < r->done_count; i++)
        if (strcmp(r->done[i], topic) == 0)
            return true;
    return false;
}

int ap_replay_note_done(const char *store, struct ap_replay *r, const char *topic, struct ap_err *err)
{
    char path[4200], line[300];
    path_of(store, path);
    int n = snprintf(line, sizeof line, "done %s\n", topic), rc = 0;
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0 || ap_write_all(fd, line, (size_t)n) != 0 || fsync(fd) != 0)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (rc == 0 && r->done_count < AP_REPLAY_TOPICS_MAX)
        snprintf(r->done[r->done_count++], sizeof r->done[0], "%s", topic);
    return rc;
}

int64_t ap_replay_offset(const struct ap_replay *r, const char *topic, int32_t partition)
{
    for (size_t i = 0; i < r->offset_count; i++)
        if (strcmp(r->offsets[i].topic, topic) == 0 && (r->offsets[i].partition == -1 || r->offsets[i].partition == partition))
            return r->offsets[i].offset;
    return -1;
}
