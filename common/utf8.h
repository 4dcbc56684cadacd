/* UTF-8 as RFC 3629 says. */
#ifndef ANTIPODE_COMMON_UTF8_H
#define ANTIPODE_COMMON_UTF8_H
#include <stddef.h>

/* Bytes of the sequence at text (1 to 4), 0 when it is none (overlong, surrogate, cut off, above U+10FFFF). Any thread. */
size_t ap_utf8_length(const char *text, size_t left);

#endif
