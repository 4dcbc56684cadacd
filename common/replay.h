/* From where a store that is being built reads the logs again, whatever it has read of them: the file `replay` in its folder.
 *
 * `antipode rebuild` writes it into a copy of a store; the consumer that goes on with that copy sets its offsets back, topic by
 * topic, says in the file which are done, and merges in once more what its positions call duplicates. Lines:
 *   time MS              every topic with mutations and raw vectors, from this wall clock time on (Kafka's timestamps, UTC)
 *   offset TOPIC P N     partition P (-1: all) of the local topic, from offset N on
 *   done TOPIC           its offsets are set back; not again after a restart */
#ifndef ANTIPODE_COMMON_REPLAY_H
#define ANTIPODE_COMMON_REPLAY_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"

#define AP_REPLAY_OFFSETS_MAX 256
#define AP_REPLAY_TOPICS_MAX 256

struct ap_replay_offset { char topic[80]; int32_t partition; int64_t offset; };
struct ap_replay {
    int64_t from_ms; /* -1: not by time */
    struct ap_replay_offset offsets[AP_REPLAY_OFFSETS_MAX]; size_t offset_count;
    char done[AP_REPLAY_TOPICS_MAX][80]; size_t done_count;
};

/* 1 when there is one in the store's folder, 0 when not. AP_ECORRUPT: it cannot be understood. */
int ap_replay_read(const char *store, struct ap_replay *out, struct ap_err *err);
/* The lines without those of what is done: to be compared, or written. A string of the caller's. */
char *ap_replay_text(const struct ap_replay *r);
/* "TOPIC=N" or "TOPIC[P]=N". */
int ap_replay_add_offset(struct ap_replay *r, const char *text, struct ap_err *err);
/* "2026-11-21T10:00:00Z", or "90s", "15m", "2h", "3d" ago. */
int ap_replay_parse_time(const char *text, int64_t now_ms, int64_t *out, struct ap_err *err);

bool ap_replay_is_done(const struct ap_replay *r, const char *topic);
/* Synced when it returns. */
int ap_replay_note_done(const char *store, struct ap_replay *r, const char *topic, struct ap_err *err);
/* Offset to go back to in this partition, -1: none is named; time is not looked at. */
int64_t ap_replay_offset(const struct ap_replay *r, const char *topic, int32_t partition);

#endif
