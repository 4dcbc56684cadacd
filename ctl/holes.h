/* Holes of regions: records that never came. Closing one says, for good and in the region's own control topic, that it is waited
 * for no longer; then watermarks go on.
 *
 * A hole is proven harmless when the regions were found equal, collection by collection, and the other one has applied those
 * very records, as the one where they were written has. Anything else is a loss that somebody accepts. */
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

int ap_holes_ask(struct ap_fetcher *f, const struct ap_side *side, struct ap_holes *out, struct ap_err *err);
void ap_holes_fini(struct ap_holes *h);

struct ap_holes_closed { uint64_t proven, accepted, open; /* records */ };

/* Close those of one side that are proven, when `equal`, and with accept the others, too; waits until the region no longer has
 * them. What shows up meanwhile is closed as well if it is proven, and accepted by nobody. other: what the region that it was
 * compared with had before they were compared. *out is set whatever is returned. */
int ap_holes_close(struct ap_fetcher *f, const struct ap_side *side, const struct ap_holes *other, bool equal, bool accept,
                   struct ap_holes_closed *out, struct ap_err *err);

#endif
