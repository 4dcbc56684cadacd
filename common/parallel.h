/* A row of independent jobs on a few threads. */
#ifndef ANTIPODE_COMMON_PARALLEL_H
#define ANTIPODE_COMMON_PARALLEL_H
#include <stddef.h>
#include "common/err.h"

/* Calls fn(arg, i, thread) for every i below count, each once; the caller is thread 0, and threads - 1 others help. After the
 * first error no more are begun, and it is returned. The helpers have the caller's priority. */
int ap_parallel(int threads, size_t count, int (*fn)(void *arg, size_t i, int thread, struct ap_err *err), void *arg, struct ap_err *err);

#endif
