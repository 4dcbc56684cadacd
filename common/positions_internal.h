/* What positions.c (the table, lineages), positions_range.c (numbers of one entry) and positions_store.c (bytes) share.
 * Not for others. */
#ifndef ANTIPODE_COMMON_POSITIONS_INTERNAL_H
#define ANTIPODE_COMMON_POSITIONS_INTERNAL_H
#include <stdlib.h>
#include "common/bytes.h"
#include "common/positions.h"

#define AP_POSITION_KEY_HEAD 13
#define AP_TOPIC_MAX (sizeof((struct ap_position *)0)->topic)

struct ap_entry {
    struct ap_entry *next;        /* in its bucket */
    struct ap_entry *next_dirty;
    bool floor, ended, dirty;
    uint64_t id;               /* stream; of a floor: lineage */
    uint64_t incarnation;      /* stream; of a floor: the newest complete one */
    uint64_t lineage;          /* 0 while unknown */
    struct ap_region origin;
    int32_t partition;
    uint64_t mark, clock, top;
    uint64_t end;              /* the last number, when ended */
    struct ap_hole *holes;
    uint64_t *clocks;
    size_t count, cap;
    char topic[64];
};

struct ap_positions {
    uint64_t (*lineage_of)(void *, uint64_t);
    void *arg;
    struct ap_entry **buckets;
    size_t mask, used;
    struct ap_entry *dirty;
    struct ap_buf dead;        /* keys to delete at the next flush: u16 length, key */
    bool waiting;              /* an entry may be complete that could not be collapsed at once */
    size_t unresolved;         /* live entries without a lineage */
    struct ap_entry **last;       /* the live entry found last; apart, so that a lookup can set it through a const table */
};

static inline void *ap_check_memory(void *memory)
{
    if (!memory)
        abort(); /* small and bounded by the streams there are: the process is beyond help */
    return memory;
}

static inline void ap_raise(uint64_t *clock, uint64_t value)
{
    if (*clock < value)
        *clock = value;
}

/* positions.c */
struct ap_entry *ap_positions_find(const struct ap_positions *p, bool is_floor, uint64_t id, const char *topic, int32_t partition);
struct ap_entry *ap_positions_add(struct ap_positions *p, bool is_floor, uint64_t id, const struct ap_region *origin, const char *topic, int32_t partition);
void ap_positions_resolve(struct ap_positions *p); /* look again at what waits for its lineage */
size_t ap_position_key(const struct ap_entry *e, uint8_t out[AP_POSITION_KEY_HEAD + AP_TOPIC_MAX]);
void ap_position_of(const struct ap_entry *e, struct ap_position *out);

/* positions_range.c */
enum ap_seen ap_range_seen(const struct ap_entry *e, uint64_t seq);
void ap_range_fill(struct ap_entry *e, uint64_t seq, uint64_t clock);    /* seq is LATE */
void ap_range_fill_run(struct ap_entry *e, uint64_t from, uint64_t to, uint64_t clock); /* all of them lie in one hole */
uint64_t ap_range_give_up(struct ap_entry *e, uint64_t first, uint64_t last); /* what of them is missing counts as there; how many */
void ap_range_extend(struct ap_entry *e, uint64_t seq, uint64_t clock);  /* seq is NEW */
void ap_range_raise_mark(struct ap_entry *e, uint64_t mark, uint64_t clock); /* all up to mark is complete, as another has counted it */
void ap_range_extend_lost(struct ap_entry *e, uint64_t end);             /* a hole from the top to end */
void ap_range_insert_hole(struct ap_entry *e, size_t at, uint64_t first, uint64_t last, uint64_t clock);
uint64_t ap_range_missing(const struct ap_hole *holes, size_t count);    /* saturates */

#endif
