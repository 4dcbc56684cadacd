/* Log lines: formatted on the stack, written with one write(2).
 *
 * A log that cannot be written is not worth stopping a daemon for: failures of write(2) are dropped. */
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/err.h"
#include "common/timeutil.h"

#define LINE_MAX_BYTES 2048

static const char *const level_names[] = {"debug", "info", "warn", "error"};

/* Set before the threads start, read only afterwards. */
static struct {
    const char *component;
    enum ap_log_level level;
    int fd;
} logger = {"antipode", AP_LOG_INFO, STDERR_FILENO};

int ap_log_init(const char *component, enum ap_log_level level, const char *path, struct ap_err *err)
{
    int fd = STDERR_FILENO;
    if (path) {
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0)
            return ap_err_set(err, AP_EIO, AP_FATAL, "cannot open log file %s: %s", path, strerror(errno));
    }
    if (logger.fd != STDERR_FILENO)
        close(logger.fd);
    logger.component = component;
    logger.level = level;
    logger.fd = fd;
    return 0;
}

int ap_log_level_parse(const char *text, enum ap_log_level *level)
{
    for (size_t i = 0; i < sizeof level_names / sizeof *level_names; i++)
        if (strcmp(text, level_names[i]) == 0) {
            *level = (enum ap_log_level)i;
            return 0;
        }
    return AP_EINVAL;
}

static size_t line_prefix(char *line, size_t size, enum ap_log_level level)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t len = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
    int n = snprintf(line + len, size - len, ".%03dZ %s %s ", (int)(now.tv_nsec / 1000000), level_names[level],
                     logger.component);
    return n < 0 ? len : len + (size_t)n;
}

/* suppressed: how many like it went unprinted; 0 says nothing of it. */
static void __attribute__((format(printf, 3, 0)))
write_line(enum ap_log_level level, uint64_t suppressed, const char *fmt, va_list args)
{
    int saved = errno;
    char line[LINE_MAX_BYTES];
    char tail[48] = "";
    size_t room = sizeof line - 1 - sizeof tail;
    size_t len = line_prefix(line, room, level);
    if (len > room)
        len = room;
    size_t start = len;
    int n = vsnprintf(line + len, room - len, fmt, args);
    if (n > 0)
        len += (size_t)n < room - len ? (size_t)n : room - len - 1;
    for (size_t i = start; i < len; i++) /* a message from outside must not forge a second line */
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    if (suppressed) {
        int t = snprintf(tail, sizeof tail, " suppressed=%llu", (unsigned long long)suppressed);
        memcpy(line + len, tail, (size_t)t);
        len += (size_t)t;
    }
    line[len++] = '\n';
    ssize_t ignored = write(logger.fd, line, len);
    (void)ignored;
    errno = saved;
}

void ap_log(enum ap_log_level level, const char *fmt, ...)
{
    if (level < logger.level)
        return;
    va_list args;
    va_start(args, fmt);
    write_line(level, 0, fmt, args);
    va_end(args);
}

void ap_log_limited(struct ap_log_limit *limit, int64_t interval_ms, enum ap_log_level level, const char *fmt, ...)
{
    if (level < logger.level)
        return;
    int64_t now = ap_mono_ms();
    int64_t next = __atomic_load_n(&limit->next_ms, __ATOMIC_RELAXED);
    /* Of the threads that find the interval over, the one whose exchange succeeds prints. */
    if (now < next || !__atomic_compare_exchange_n(&limit->next_ms, &next, now + interval_ms, false, __ATOMIC_RELAXED,
                                                   __ATOMIC_RELAXED)) {
        __atomic_fetch_add(&limit->suppressed, 1, __ATOMIC_RELAXED);
        return;
    }
    uint64_t suppressed = __atomic_exchange_n(&limit->suppressed, 0, __ATOMIC_RELAXED);
    va_list args;
    va_start(args, fmt);
    write_line(level, suppressed, fmt, args);
    va_end(args);
}
