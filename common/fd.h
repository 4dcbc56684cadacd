/* What every writer of files needs of a descriptor. */
#ifndef ANTIPODE_COMMON_FD_H
#define ANTIPODE_COMMON_FD_H
#include <stddef.h>

/* Writes all len bytes at the descriptor's position, however often write() comes short or is interrupted. 0, or -1 with errno. */
int ap_write_all(int fd, const void *bytes, size_t len);

#endif
