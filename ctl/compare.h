/* Comparing one collection in two regions: from sums of buckets down to rows, and what each difference means.
 *
 * A difference counts only when the side that lacks something has applied everything that its writer published up to it (or
 * everything that anybody did), and when a second look some time later finds it still. So writes under way are
 * none. What is not there and is older than a tombstone that may have been collected is decided by the region where it was
 * written, or by the operator, never guessed. */
#ifndef ANTIPODE_CTL_COMPARE_H
#define ANTIPODE_CTL_COMPARE_H
#include "ctl/side.h"

enum ap_difference_kind {
    AP_DIFF_MISSING,   /* not there, though it should be */
    AP_DIFF_EXTRA,     /* there, though its home region has it no more */
    AP_DIFF_OLDER,     /* an older version than the other side has */
    AP_DIFF_BYTES,     /* the same version, other bytes */
    AP_DIFF_DAMAGED,   /* fails its checksum; the other side's is sound */
    AP_DIFF_LOST,      /* fails its checksum on both sides */
    AP_DIFF_UNDECIDED, /* on one side only, and who is right is not known here */
};
const char *ap_difference_name(enum ap_difference_kind kind);

struct ap_difference {
    struct ap_point_id id;
    struct ap_side_row rows[2];
    bool there[2];
    enum ap_difference_kind kind;
    int side;       /* whose row is wrong; of BYTES, LOST and UNDECIDED: 0 */
    bool settled;   /* else a write under way */
    bool dropped;   /* gone, or none after all */
};

struct ap_comparison {
    struct ap_difference *list; size_t count;
    uint64_t found;        /* settled differences */
    uint64_t under_way;    /* not settled when time was up */
    uint64_t collected;    /* tombstones that one side has collected already */
    uint64_t leftovers;    /* damaged slots of points that the other side never had: nothing to mend */
    uint64_t buckets;      /* that differ, though their rows are equal: a digest went wrong */
    bool collection_missing[2], other_generation;
};

struct ap_compare_options {
    bool scrub;
    const char *prefer;    /* region whose word counts where nothing else decides; NULL */
    int settle_ms;         /* how long to wait for writes under way */
    bool all;              /* also what is not settled counts: for a stream that has stopped for good */
};

/* sides: indexers set; the rest is filled. out is zeroed here; ap_comparison_fini, also on failure. */
int ap_compare(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *out, struct ap_err *err);
/* Look again at what was found; what is equal now is dropped. */
int ap_compare_again(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *c, struct ap_err *err);
void ap_comparison_fini(struct ap_comparison *c);

/* The hlc up to which both sides have applied all that either knows of; for tests. */
uint64_t ap_compare_low_clock(const struct ap_side sides[2]);

#endif
