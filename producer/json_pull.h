/* Reading a JSON text from front to back without building a tree: what the write path needs for points.
 *
 * Why not jansson here: a vector of 384 numbers is 384 allocations there, and the payload must be handed on as it was
 * written. Strict as RFC 8259 says (also about UTF-8 and about numbers); no comments, no NaN. The first error sticks:
 * every later call returns false, and err says what and at which byte. One thread. */
#ifndef ANTIPODE_PRODUCER_JSON_PULL_H
#define ANTIPODE_PRODUCER_JSON_PULL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"

#define AP_PULL_DEPTH 64

struct ap_pull { const char *start, *p, *end; bool failed; struct ap_err *err; };
struct ap_slice { const char *p; size_t len; };

void ap_pull_init(struct ap_pull *j, const char *text, size_t len, struct ap_err *err);
/* First character of the next value: '{' '[' '"' 't' 'f' 'n', '0' for a number; 0 at the end or when failed. */
char ap_pull_peek(struct ap_pull *j);
/* Containers: open, then `while (next)`. first is kept by the caller, true before the first call. */
bool ap_pull_open(struct ap_pull *j, char bracket);
bool ap_pull_next(struct ap_pull *j, char bracket, bool *first); /* false at the end, which is consumed, or when failed */
/* Key of an object's member, between its quotes, and the colon behind it. A key with an escape fails: none of ours has one. */
bool ap_pull_key(struct ap_pull *j, struct ap_slice *key);
bool ap_pull_is(const struct ap_slice *s, const char *text);
bool ap_pull_null(struct ap_pull *j);                  /* true and consumed when the next value is null */
bool ap_pull_number(struct ap_pull *j, double *out);
bool ap_pull_string(struct ap_pull *j, struct ap_slice *raw); /* between the quotes, escapes not resolved */
/* Any value, validated: its text. */
bool ap_pull_value(struct ap_pull *j, struct ap_slice *text);
/* Nothing but blanks is left. */
bool ap_pull_end(struct ap_pull *j);
/* Fail with the position prepended. Returns false. */
bool ap_pull_fail(struct ap_pull *j, enum ap_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
