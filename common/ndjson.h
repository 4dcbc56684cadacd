/* Incremental splitter of NDJSON: lines as they arrive, with a bounded length.
 *
 * Invariant: memory is bounded by one line. A line that lies whole in a piece is handed out where it lies. Lines are
 * numbered from 1, blank ones counted and not handed out; a carriage return at the end is cut off. One thread at a time. */
#ifndef ANTIPODE_COMMON_NDJSON_H
#define ANTIPODE_COMMON_NDJSON_H
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"

/* text: len bytes, not NUL-terminated, valid during the call. 0, or a negative code with *err filled: ends the stream. */
typedef int (*ap_ndjson_line)(void *arg, uint64_t line, const char *text, size_t len, struct ap_err *err);

struct ap_ndjson;

struct ap_ndjson *ap_ndjson_new(size_t max_line_bytes, ap_ndjson_line on_line, void *arg); /* aborts when out of memory */
void ap_ndjson_free(struct ap_ndjson **splitter);
/* AP_ETOOBIG names the line that is over the limit; else the callback's code. After an error every call returns it. */
int ap_ndjson_feed(struct ap_ndjson *s, const char *bytes, size_t len, struct ap_err *err);
int ap_ndjson_end(struct ap_ndjson *s, struct ap_err *err); /* hands out a last line without a newline */

#endif
