/* Protections that a test switches off, to see that its checker then notices: ANTIPODE_UNSAFE=no_tombstones,... in the
 * environment. Said as an error in the log by every daemon that obeys it. Not an option: nobody else wants it. */
#ifndef ANTIPODE_COMMON_UNSAFE_H
#define ANTIPODE_COMMON_UNSAFE_H
#include <stdbool.h>

enum ap_unsafe {
    AP_UNSAFE_NO_VERSION_CHECK,         /* the row that comes last wins */
    AP_UNSAFE_NO_KEY_VERSIONS,          /* of a patched key, the patch that comes last wins */
    AP_UNSAFE_NO_TOMBSTONES,            /* a deleted row is forgotten */
    AP_UNSAFE_NO_POSITIONS,             /* holes are passed over, duplicates applied */
    AP_UNSAFE_NO_OFFSET_IN_TRANSACTION, /* offsets are committed before their rows */
    AP_UNSAFE_NO_TOKEN_WAIT,            /* a token counts as covered */
    AP_UNSAFE_NO_BARRIER,               /* strong and bounded reads ask nobody */
    AP_UNSAFE_COLLECT_EARLY,            /* tombstones are forgotten at once, whatever may still come */
    AP_UNSAFE_COUNT
};
/* The environment is read at the first call. Any thread. */
bool ap_unsafe(enum ap_unsafe what);

#endif
