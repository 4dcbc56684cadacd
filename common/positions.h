/* Positions: what of every stream has been applied, and what is missing.
 *
 * Per (stream, topic, partition): a contiguous mark, the clock of the newest record at or below it, and the open holes
 * above it. At or below the mark, or held above it: a duplicate. Inside a hole: late, the hole shrinks. Above the highest:
 * new; skipped numbers open a hole. A finished incarnation (its successor's hello says where it ended) without holes
 * collapses into the floor of its lineage: (lineage, topic, partition) -> (incarnation, mark); every incarnation of the
 * lineage before that one is complete, so positions do not grow with restarts.
 * Owned by the consumer's apply thread; the store persists what changed with each batch (positions_store.c), and readers
 * decode it from a snapshot. Not thread-safe. */
#ifndef ANTIPODE_COMMON_POSITIONS_H
#define ANTIPODE_COMMON_POSITIONS_H
#include "common/event.h"
#include "common/watermark.h"

struct ap_positions;
enum ap_seen { AP_SEEN_NEW, AP_SEEN_LATE, AP_SEEN_DUPLICATE };

struct ap_hole { uint64_t first, last; };

/* lineage_of: from the catalog; 0 when the incarnation is not registered. */
struct ap_positions *ap_positions_new(uint64_t (*lineage_of)(void *arg, uint64_t incarnation), void *arg);
void ap_positions_free(struct ap_positions **p);

/* What a record at this position is; changes nothing. topic is the origin's name, without a mirror prefix. */
enum ap_seen ap_positions_check(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, uint64_t seq);
/* Note it as applied (NEW or LATE; a DUPLICATE changes nothing). origin: region of the stream. */
enum ap_seen ap_positions_note(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic,
                               int32_t partition, uint64_t seq, uint64_t clock);
/* The hello of stream: its predecessor ended at that number here. Opens a hole for a lost end, else collapses. Call it
 * just before or after the hello's own note, with no flush in between. */
void ap_positions_hello(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic,
                        int32_t partition, const struct ap_hello *hello);

/* The stream ends at that number here, as somebody else than its successor's hello says: opens a hole for what has not come
 * of it, else collapses it. */
void ap_positions_end(struct ap_positions *p, const struct ap_region *origin, uint64_t stream, const char *topic, int32_t partition, uint64_t end);
/* What is missing of these numbers is waited for no longer: it counts as applied. Returns how many that were. */
uint64_t ap_positions_give_up(struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, uint64_t first, uint64_t last);

/* All positions, live ones and floors (finished=true); malloc'ed array for the caller. */
int ap_positions_list(const struct ap_positions *p, struct ap_position **out, size_t *count);
/* Open holes of a position, in order; borrowed until the next note. */
size_t ap_positions_holes(const struct ap_positions *p, uint64_t stream, const char *topic, int32_t partition, const struct ap_hole **holes);
struct ap_positions_totals { uint64_t holes; /* ranges */ uint64_t missing; /* records in them */ uint64_t streams; uint64_t floors; };
struct ap_positions_totals ap_positions_totals(const struct ap_positions *p);

/* Persistence: fn is called for every entry changed since the last call with its key and value (value_len 0: delete it),
 * and for every entry on load. Formats: positions_store.c. */
typedef int (*ap_positions_put)(void *arg, const void *key, size_t key_len, const void *value, size_t value_len);
int ap_positions_flush(struct ap_positions *p, ap_positions_put put, void *arg);
int ap_positions_load_entry(struct ap_positions *p, const void *key, size_t key_len, const void *value, size_t value_len, struct ap_err *err);
/* Decode one persisted entry without a table (for readers of a snapshot). holes_missing may be NULL. */
int ap_position_decode(const void *key, size_t key_len, const void *value, size_t value_len, struct ap_position *out,
                       uint64_t *missing, struct ap_err *err);
/* The i-th hole of a value that ap_position_decode has read; false: it has no more. */
bool ap_position_hole(const void *value, size_t value_len, size_t i, struct ap_hole *out);
/* The greatest number noted in such a value: what lies below it and in no hole was applied. */
uint64_t ap_position_top(const void *value);

#endif
