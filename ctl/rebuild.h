/* Building a worker's store and index anew beside those that serve, and exchanging them.
 *
 *   STORE.rebuild, INDEX.rebuild   what is being built; they stay when it is interrupted, and the next rebuild goes on with them
 *   STORE.old, INDEX.old           what served before
 *   STORE.rebuild.log              what the two daemons say that build them
 *
 * A consumer and an indexer of their own, children of this process, read the logs until they have all that the serving store has.
 * They begin with an empty store at the logs' beginning; or with a snapshot, from where it stands; or, given a time or offsets, with a
 * copy of the serving store (or the snapshot), of which they read again what the logs hold since, whatever its positions say: rows that no record
 * since then touches stay as the copy has them, rows that were lost or damaged come back. Then the serving consumer is asked to let
 * go (common/handover.h), the last records are read, the folders exchanged, and the serving daemons begin anew with them. Killed at any
 * time, each folder is the old one or the new one, and the serving daemons go on.
 *
 * The new store is not synced with each batch but as a whole, before it is exchanged. STORE.rebuild/boot says since which start of
 * the machine it is being built: after a crash of the machine it is thrown away. */
#ifndef ANTIPODE_CTL_REBUILD_H
#define ANTIPODE_CTL_REBUILD_H
#include "common/replay.h"
#include "ctl/places.h"

struct ap_rebuild_options {
    const struct ap_places *places;   /* both configuration files, store and index */
    const char *snapshot;             /* to begin with; NULL: see replay */
    const struct ap_replay *replay;   /* from where the logs are read again; NULL: from the snapshot's offsets, or their beginning */
    bool fresh;                       /* throw away what an earlier rebuild has left */
    bool accept_holes;                /* exchange though the logs no longer hold all that the serving store has */
    bool remove_old;                  /* do not keep what served before */
    int settle_ms;                    /* how long to wait for the last records */
    /* A few times a second: what goes on, and how far it is (0 to 1; negative: not known). */
    void (*progress)(void *arg, const char *what, double share, uint64_t rows);
    void *arg;
};
/* Seconds since the beginning: until the new store had nearly all (read), its index was built (build), and the serving daemons
 * were ready with it (ready; 0: none of them ran, or they took longer than a minute). */
struct ap_rebuild_result { uint64_t rows, missing; bool resumed, serving; double read_seconds, build_seconds, handover_seconds, ready_seconds; };
/* Positive: interrupted by *stop. */
int ap_rebuild(const struct ap_rebuild_options *o, const volatile int *stop, struct ap_rebuild_result *out, struct ap_err *err);

/* --- of the same, in rebuild_begin.c: the folders to build in --- */
/* Makes store and index ready to be built on, or finds them so (*resumed). Nothing that serves is touched. */
int ap_rebuild_begin(const struct ap_rebuild_options *o, const char *store, const char *index, bool *resumed, struct ap_err *err);
/* The store is whole: on the disk, and without the files that say otherwise. */
int ap_rebuild_seal(const char *store, struct ap_err *err);

#endif
