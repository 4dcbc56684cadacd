/* Copies of a store: taken while it serves, and made fit for the place where they are to serve.
 *
 * A copy is one read transaction's view: rows, positions, offsets, control records and digests of one batch. It is compact:
 * free pages are left out. The transaction lasts as long as the copying, and pages freed meanwhile cannot be used again, so
 * the serving file may grow by what is written in that time; no longer than that, and no other reader or writer waits. */
#ifndef ANTIPODE_COMMON_STORE_COPY_H
#define ANTIPODE_COMMON_STORE_COPY_H
#include "common/store.h"

struct ap_store_identity { uint32_t format; int32_t worker, workers; uint64_t id; char region[17]; size_t map_bytes; };

/* What the store in this folder is; any process, while it serves or not. AP_ENOTREADY: there is none. */
int ap_store_identify(const char *path, struct ap_store_identity *out, struct ap_err *err);
/* Open it for reading, whatever region and worker it is for. */
int ap_store_open_any(struct ap_store **out, const char *path, struct ap_err *err);
/* Write a copy into fd (an empty file). */
int ap_store_copy(struct ap_store *store, int fd, struct ap_err *err);

/* Make the store in this folder, which nobody has open, another one: a new id, since its slots will not go on as those of
 * the store it was copied from; written to *id. With another region it loses what belongs to the old one: Kafka offsets and
 * raw vectors (copy it once more to be rid of their bytes). Positions stay: they are in the events' own coordinates. */
int ap_store_adopt(const char *path, const char *region, uint64_t *id, struct ap_err *err);

/* Where positions stand against others': numbers applied, and how many of wanted's are not yet. Floors count as marks of their
 * incarnations; what a floor has passed is complete. */
struct ap_positions_gap { uint64_t wanted, missing; };
struct ap_positions_gap ap_positions_gap(const struct ap_position *have, size_t have_count, const struct ap_position *wanted, size_t wanted_count);

#endif
