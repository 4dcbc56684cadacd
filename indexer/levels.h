/* Levels as requests name them: how new a read must be, who must show a write. No state: any thread. */
#ifndef ANTIPODE_INDEXER_LEVELS_H
#define ANTIPODE_INDEXER_LEVELS_H
#include "common/bytes.h"
#include "common/http.h"

enum ap_read_level { AP_READ_EVENTUAL, AP_READ_SESSION, AP_READ_BOUNDED, AP_READ_STRONG, AP_READ_LEVELS };
const char *ap_read_level_name(enum ap_read_level level);

/* level, max_staleness_ms and max_staleness_seconds as given, NULL when absent; token: one came along. AP_EINVAL: not one of its
 * words, or they contradict each other. max_ns: of AP_READ_BOUNDED. */
int ap_read_level_parse(const char *level, const char *max_ms, const char *max_seconds, bool token, enum ap_read_level *out, int64_t *max_ns, struct ap_err *err);

/* Who waits for a write: nobody; this process, until its index covers it; the producer, for a quorum or all regions. */
struct ap_write_wait { bool here; bool unsaid; /* as the producer's write_level says */ const char *ask; /* "quorum", "all", or NULL */ };
/* level and wait as given. AP_EINVAL. */
int ap_write_wait_parse(const char *level, const char *wait, struct ap_write_wait *out, struct ap_err *err);
/* The query string for the producer: as it came, but for what it says about waiting. Caller frees. */
char *ap_write_wait_query(const char *query, const struct ap_write_wait *wait);

#endif
