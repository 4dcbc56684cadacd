/* How long a test waits for what is to come. Long, for machines that do ten things at once: a wait ends when it comes,
 * so only a failure takes this long. Less than what ctest gives a test (CMakeLists.txt), so that the wait itself can say
 * what did not come. */
#ifndef ANTIPODE_TESTS_PATIENCE_H
#define ANTIPODE_TESTS_PATIENCE_H

#include <stdint.h>
#include "common/timeutil.h"

#define PATIENCE_MS 60000

/* The end of such a wait, as ap_mono_ms() and ap_mono_ns() count. */
static inline int64_t patience_ms(void) { return ap_mono_ms() + PATIENCE_MS; }
static inline int64_t patience_ns(void) { return ap_mono_ns() + PATIENCE_MS * INT64_C(1000000); }

#endif
