/* Holes of regions: records that never came. Closing one says, for good and in the region's own control topic, that it is waited
 * for no longer; then watermarks go on.
 *
 * A hole is proven harmless when the other region had applied those very records before the two were compared, collection by
 * collection, and each row that differed was published by it after that and is applied here. Rows only grow, by
 * merging; so what was in the records is in ours: it was in the other's rows, and these are in ours. Nobody has to rest meanwhile.
 * Anything else is a loss that somebody accepts. */
#ifndef ANTIPODE_CTL_HOLES_H
#define ANTIPODE_CTL_HOLES_H
#include "common/watermark.h"
#include "ctl/side.h"

struct ap_holes {
    json_t *list;           /* as the indexers say: {origin, stream, lineage, topic, partition, first, last} */
    struct ap_position *positions; size_t position_count;
    char region[24];        /* whose they are */
    uint64_t records;
    bool more;              /* there are more than were listed */
};

/* What was published to be applied elsewhere: up to these positions. */
struct ap_published { struct ap_token *list; size_t count; uint64_t rows; };
/* Adds what a producer's answer says; AP_EIO where it says nothing. */
int ap_published_add(struct ap_published *p, const struct ap_fetch *answered, struct ap_err *err);
void ap_published_fini(struct ap_published *p);

int ap_holes_ask(struct ap_fetcher *f, const struct ap_side *side, struct ap_holes *out, struct ap_err *err);
void ap_holes_fini(struct ap_holes *h);

struct ap_holes_closed { uint64_t proven, accepted, open; /* records */ };

/* Has a side that has these holes applied all that was published after publisher was asked for its own? For tests, too. */
bool ap_holes_applied(const struct ap_holes *now, const struct ap_holes *publisher, const struct ap_published *p);
/* Waits until one side has applied all that was published after publisher was asked for its holes, also above holes of its own. */
int ap_holes_wait(struct ap_fetcher *f, const struct ap_side *side, const struct ap_holes *publisher, const struct ap_published *p, struct ap_err *err);
/* Close those of one side that are proven, when its rows were `brought`, and with accept the others, too; waits until the region
 * no longer has them. What shows up meanwhile is closed as well if it is proven, and accepted by nobody. other: what the region
 * that it was compared with had before they were compared. *out is set whatever is returned. */
int ap_holes_close(struct ap_fetcher *f, const struct ap_side *side, const struct ap_holes *other, bool brought, bool accept,
                   struct ap_holes_closed *out, struct ap_err *err);

#endif
