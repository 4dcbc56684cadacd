/* base64url, by libsodium. */
#include "common/base64url.h"
#include <sodium.h>

#define VARIANT sodium_base64_VARIANT_URLSAFE_NO_PADDING

void ap_base64url_encode(const void *bytes, size_t len, struct ap_buf *out)
{
    size_t room = sodium_base64_ENCODED_LEN(len, VARIANT); /* with the NUL */
    ap_buf_reserve(out, room);
    sodium_bin2base64((char *)out->data + out->len, room, bytes, len, VARIANT);
    out->len += room - 1;
}

int ap_base64url_decode(const char *text, size_t len, struct ap_buf *out, struct ap_err *err)
{
    size_t got = 0;
    for (size_t i = 0; i < len; i++) /* libsodium 1.0.18 takes bytes above 127 for characters of the alphabet */
        if (text[i] & 0x80)
            return ap_err_set(err, AP_EINVAL, AP_POISON, "not base64url");
    ap_buf_reserve(out, len / 4 * 3 + 3);
    if (sodium_base642bin(out->data + out->len, out->cap - out->len, text, len, NULL, &got, NULL, VARIANT))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "not base64url");
    out->len += got;
    return 0;
}
