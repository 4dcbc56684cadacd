/* Reading JSON text in place, strictly (RFC 8259, UTF-8), without a tree of values.
 *
 * For the two spots where a tree costs more than the search itself: the floats of a query, and the check that a stored
 * payload is JSON before its text is spliced into an answer. */
#ifndef ANTIPODE_INDEXER_JSON_SCAN_H
#define ANTIPODE_INDEXER_JSON_SCAN_H
#include <stdbool.h>
#include "common/bytes.h"

struct ap_json_cursor { const char *p, *end; };

void ap_json_blank(struct ap_json_cursor *c); /* skips white space */
/* Past one value and the white space before it; false when there is none. Nesting up to 128. */
bool ap_json_skip(struct ap_json_cursor *c);
/* Past a string; *text is what stands between its quotes, escapes as they are. */
bool ap_json_read_string(struct ap_json_cursor *c, const char **text, size_t *len);
/* Past [number, ...] of finite float32 values, n from 0 to max; appended to out as floats in memory order. On false the
 * cursor has not moved and out is as it was: the text is no such array, and a real parser can say why. */
bool ap_json_read_floats(struct ap_json_cursor *c, size_t max, struct ap_buf *out);

/* One JSON object and nothing else but white space. */
bool ap_json_is_object(const char *text, size_t len);

#endif
