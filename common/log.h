/* Log lines on stderr (or a file): `2026-01-02T03:04:05.678Z level component message key=value ...`.
 *
 * The message is for a person who must act: what happened, where, what to do. Any thread may log; a line is written
 * with one write(2), so lines never mix. ap_log_limited() keeps a repeating condition from flooding the log: it prints
 * at most once per interval and appends how many were suppressed. */
#ifndef ANTIPODE_COMMON_LOG_H
#define ANTIPODE_COMMON_LOG_H
#include <stdint.h>

enum ap_log_level { AP_LOG_DEBUG, AP_LOG_INFO, AP_LOG_WARN, AP_LOG_ERROR };

struct ap_err;

/* Set once at start, before threads. component (borrowed for the process's life) is e.g. "consumer"; path NULL means stderr. */
int ap_log_init(const char *component, enum ap_log_level level, const char *path, struct ap_err *err);
int ap_log_level_parse(const char *text, enum ap_log_level *level); /* 0 or AP_EINVAL */

void ap_log(enum ap_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct ap_log_limit { int64_t next_ms; uint64_t suppressed; }; /* zero-initialise; one per call site; updates are atomic */
void ap_log_limited(struct ap_log_limit *limit, int64_t interval_ms, enum ap_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#define ap_debug(...) ap_log(AP_LOG_DEBUG, __VA_ARGS__)
#define ap_info(...) ap_log(AP_LOG_INFO, __VA_ARGS__)
#define ap_warn(...) ap_log(AP_LOG_WARN, __VA_ARGS__)
#define ap_error(...) ap_log(AP_LOG_ERROR, __VA_ARGS__)

#endif
