/* base64url without padding (RFC 4648, section 5): what tokens and cursors are made of. */
#ifndef ANTIPODE_COMMON_BASE64URL_H
#define ANTIPODE_COMMON_BASE64URL_H
#include "common/bytes.h"
#include "common/err.h"

void ap_base64url_encode(const void *bytes, size_t len, struct ap_buf *out); /* appends text, no NUL */
/* Appends the bytes. AP_EINVAL, and out as it was: another character, padding, or bits that no byte has. */
int ap_base64url_decode(const char *text, size_t len, struct ap_buf *out, struct ap_err *err);

#endif
