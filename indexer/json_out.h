/* Writing JSON text straight into a buffer, without a tree of values.
 *
 * A float32 is printed with the fewest digits that read back as the same float32, and always with a point or an
 * exponent: strict clients take `1` for an integer. */
#ifndef ANTIPODE_INDEXER_JSON_OUT_H
#define ANTIPODE_INDEXER_JSON_OUT_H
#include "common/bytes.h"
#include "common/ident.h"

/* Text as it is: punctuation, names that need no escape. */
void ap_json_raw(struct ap_buf *out, const char *text);
/* A string with its quotes. Bytes that are not UTF-8 become U+FFFD. */
void ap_json_string(struct ap_buf *out, const char *text, size_t len);
void ap_json_u64(struct ap_buf *out, uint64_t value);
/* `null` for what JSON cannot say (NaN, infinities). */
void ap_json_float(struct ap_buf *out, float value);
void ap_json_floats(struct ap_buf *out, const float *values, size_t n); /* [..] */
void ap_json_bool(struct ap_buf *out, int value);
/* A number, or a string with the UUID. */
void ap_json_point_id(struct ap_buf *out, const struct ap_point_id *id);

#endif
