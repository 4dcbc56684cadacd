/* The rule of tombstones: up to which clock may they be forgotten?
 *
 * A tombstone guards against every older record of its point that may still come. So it may go when nothing older can come:
 *   - every live region has applied, of every stream, topic and partition, what anybody knows of it, or at least up to the
 *     tombstone's clock. Positions tell: those of this store, and those in the other regions' watermarks. What all have to
 *     the same number holds nothing up: a stream that ended for good says nothing more, and one that speaks again after
 *     all is stopped by the horizon (batch.c);
 *   - no live region has anything older missing, held or among its dead letters: its watermark says so (struct ap_settled);
 *   - it is older than the longest time that any region's logs keep a record, and a margin: no replay, and no rebuilt store,
 *     can read anything older again. The margin also covers clocks that disagree, and repairs that are under way.
 * A retired region is not asked, and of its streams only what counts: up to the cut (common/retired.h).
 * Pure: no clock, no Kafka. */
#ifndef ANTIPODE_CONSUMER_RULE_H
#define ANTIPODE_CONSUMER_RULE_H
#include "common/store.h"
#include "consumer/settings.h"

enum ap_rule_why {
    AP_RULE_AGE,         /* nothing but time */
    AP_RULE_UNHEARD,     /* no watermark of this region has come */
    AP_RULE_UNSAID,      /* its watermark does not say what is settled there: an older release, or its consumer has not found out yet */
    AP_RULE_FOREVER,     /* its logs keep records for ever */
    AP_RULE_BEHIND,      /* it has not applied a stream that far */
    AP_RULE_UNSETTLED,   /* something is missing, held or dead there; its own status says which */
    AP_RULE_HOLE, AP_RULE_HELD, AP_RULE_LETTER, AP_RULE_UNSYNCED, /* the same of this region, which knows which */
    AP_RULE_WHYS
};
const char *ap_rule_why_name(enum ap_rule_why why); /* "age", "unheard", ... */

struct ap_rule_region {
    struct ap_region region;
    bool retired, heard;
    struct ap_settled settled;
    enum ap_rule_why settled_why;    /* of this region itself: HOLE, HELD, LETTER or UNSYNCED; else UNSETTLED */
    const struct ap_position *positions; size_t count; /* borrowed */
};

struct ap_rule_view {
    const struct ap_rule_region *regions; size_t count; /* AP_CONSUMER_REGIONS_MAX at most */
    int32_t worker, workers;         /* only this worker's partitions matter to its store */
    int64_t now_ms, margin_ms, drift_ms;
    /* Of the registry; may be NULL. lineage: 0 when unknown. */
    uint64_t (*stream_end)(void *arg, uint64_t stream, const char *topic, int32_t partition); /* the last number that counts; UINT64_MAX unless it is retired */
    uint64_t (*lineage)(void *arg, uint64_t stream);
    void *arg;
};

/* What one region holds up: tombstones from this clock on, and for which reason; of BEHIND, which stream. */
struct ap_rule_hold { uint64_t floor; enum ap_rule_why why; struct ap_position at; };
struct ap_rule_verdict {
    uint64_t floor;                  /* tombstones with a clock below it may go; 0: none */
    int64_t age_ms;                  /* how old they must be at least; -1: not known, or for ever */
    struct ap_rule_hold regions[AP_CONSUMER_REGIONS_MAX]; /* as in the view; of a retired one AGE */
    size_t holder;                   /* the region that holds most up; count when it is age alone */
};
void ap_rule_judge(const struct ap_rule_view *view, struct ap_rule_verdict *out);

#endif
