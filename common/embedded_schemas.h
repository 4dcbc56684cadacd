/* The files of schemas/, compiled in: a binary decodes every version ever written without a file beside it.
 *
 * Sorted by file name, so within one record type the versions rise. The text is the file's, byte for byte,
 * with a NUL after it that len does not count. */
#ifndef ANTIPODE_COMMON_EMBEDDED_SCHEMAS_H
#define ANTIPODE_COMMON_EMBEDDED_SCHEMAS_H

#include <stddef.h>

struct ap_embedded_schema {
    const char *name; /* file name without its folder, as VectorMutation.v1.avsc */
    const char *json;
    size_t len;
};

extern const struct ap_embedded_schema ap_embedded_schemas[];
extern const size_t ap_embedded_schemas_count;

#endif
