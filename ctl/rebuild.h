/* Building a worker's store and index anew beside those that serve, and exchanging them.
 *
 *   STORE.rebuild, INDEX.rebuild   what is being built; they stay when it is interrupted, and the next rebuild goes on with them
 *   STORE.old, INDEX.old           what served before
 *   STORE.rebuild.log              what the two daemons say that build them
 *
 * A consumer and an indexer of their own, children of this process, read the logs (from the beginning, or from where a snapshot
 * stands) until they have all that the serving store has. Then the serving consumer is asked to let go (common/handover.h), the
 * last records are read, the folders exchanged, and the serving daemons begin anew with them. Killed at any time, each
 * folder is the old one or the new one, and the serving daemons go on. */
#ifndef ANTIPODE_CTL_REBUILD_H
#define ANTIPODE_CTL_REBUILD_H
#include "ctl/places.h"

struct ap_rebuild_options {
    const struct ap_places *places;   /* both configuration files, store and index */
    const char *snapshot;             /* to begin with; NULL: the logs' beginning */
    bool fresh;                       /* throw away what an earlier rebuild has left */
    bool accept_holes;                /* exchange though the logs no longer hold all that the serving store has */
    int settle_ms;                    /* how long to wait for the last records */
    /* A few times a second: what goes on, and how far it is (0 to 1; negative: not known). */
    void (*progress)(void *arg, const char *what, double share, uint64_t rows);
    void *arg;
};
struct ap_rebuild_result { uint64_t rows, missing; bool resumed; double build_seconds, handover_seconds; };
/* Positive: interrupted by *stop. */
int ap_rebuild(const struct ap_rebuild_options *o, const volatile int *stop, struct ap_rebuild_result *out, struct ap_err *err);

#endif
