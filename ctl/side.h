/* One side of a verification: a region's indexers, asked together. Where a region has several workers, each holds some
 * partitions: sums add up, rows are put together. */
#ifndef ANTIPODE_CTL_SIDE_H
#define ANTIPODE_CTL_SIDE_H
#include "common/store.h"
#include "ctl/fetch.h"

#define AP_SIDE_WORKERS 16
#define AP_VERIFY_PARTS 64

struct ap_side_position { uint64_t stream, clock; struct ap_region region; char topic[64]; int32_t partition; bool finished; };

/* A row as verify/rows lists it. */
struct ap_side_row {
    struct ap_point_id id;
    uint64_t checksum, hlc, writer;
    struct ap_region region;
    uint8_t flags; /* AP_VERIFY_* */
};

struct ap_side {
    char region[24];
    char indexers[AP_SIDE_WORKERS][256]; size_t count;
    /* Of the last state: */
    uint64_t collection, horizon, rows;
    struct ap_side_position *positions; size_t position_count;
    /* Of the last listing, sorted by id: */
    struct ap_side_row *list; size_t listed;
    json_t *scrub; /* array of the workers' reports, or NULL */
};

void ap_side_fini(struct ap_side *s);

/* Each asks both sides at once. collection: percent-encoded name. Errors name the URL; AP_ENOTFOUND: there is no such collection,
 * AP_ECONFLICT: a worker has forgotten what it read before (another verification?). */
int ap_sides_state(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, struct ap_err *err);
int ap_sides_digests(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, bool scrub, struct ap_digest out[2][AP_DIGEST_BUCKETS], struct ap_err *err);
/* out: AP_VERIFY_PARTS numbers for each bucket; free() both. */
int ap_sides_split(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, bool scrub, const struct ap_buf *buckets, uint64_t *out[2], struct ap_err *err);
/* what: "rows" (body: parts) or "look" (body: ids); fills list. */
int ap_sides_list(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const char *what, bool scrub, const struct ap_buf *body, struct ap_err *err);
/* Scrubs the sides that are chosen; fills scrub. */
int ap_sides_scrub(struct ap_fetcher *f, struct ap_side sides[2], const bool chosen[2], const char *collection, bool mend, struct ap_err *err);
void ap_sides_close(struct ap_fetcher *f, struct ap_side sides[2]);

/* Row of an id in the last listing, or NULL. */
const struct ap_side_row *ap_side_find(const struct ap_side *s, const struct ap_point_id *id);
/* Sum of a number over the workers' scrub reports; path: one or two keys ("index", "dead"). */
uint64_t ap_side_scrubbed(const struct ap_side *s, const char *key, const char *inner);

#endif
