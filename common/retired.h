/* What the regions have given up: incarnations of regions that are over, and records that are waited for no longer.
 *
 * A retirement says up to where the streams of a region's incarnation count: the cut, what the others had applied when it was
 * said. Records beyond it are never applied, anywhere, whenever they come; records within it always, so a region that is
 * rebuilt from logs ends with the same rows. Retirements add up and are never taken back: the region comes back under
 * another incarnation. A loss is one region's word that it does not wait for certain records any more.
 * Both depend only on the set of records applied. Part of the catalog, and locked with it. */
#ifndef ANTIPODE_COMMON_RETIRED_H
#define ANTIPODE_COMMON_RETIRED_H
#include "common/catalog.h"
#include "common/sorted.h"

struct ap_retired { struct ap_sorted retirements, losses; };

/* c is a RETIREMENT or a LOSS; what is kept of it is taken out of it. 1: something changed; 0: not. */
int ap_retired_apply(struct ap_retired *r, struct ap_control *c);
void ap_retired_free(struct ap_retired *r);

/* Is this incarnation of the region over? by (may be NULL): a region that said so. */
bool ap_catalog_is_retired(const struct ap_catalog *c, const struct ap_region *region, uint64_t region_incarnation, struct ap_region *by);
/* Is the region as it is known now over: the incarnation of its own record, or whichever, where that is not known here? */
bool ap_catalog_region_is_retired(const struct ap_catalog *c, const struct ap_region *region);
/* Is the stream of an incarnation that is over? A stream that nobody registered is not. */
bool ap_catalog_stream_is_retired(const struct ap_catalog *c, uint64_t stream);
/* The last number of a retired stream that counts there; 0: none. */
uint64_t ap_catalog_stream_end(const struct ap_catalog *c, uint64_t stream, const char *topic, int32_t partition);
/* All cuts of retired incarnations, one after the other, for what ends there. */
void ap_catalog_cuts(const struct ap_catalog *c, void (*fn)(void *arg, const struct ap_position *cut), void *arg);
/* The losses that a region has said. */
void ap_catalog_losses(const struct ap_catalog *c, const struct ap_region *said_by, void (*fn)(void *arg, const struct ap_control_loss *loss), void *arg);

/* May a client wait for this token? AP_EINVAL: its stream is another region's than it says. AP_ECONFLICT: its region is no
 * more. 0 also when nobody has registered the stream yet: that may be on its way. */
int ap_catalog_check_token(const struct ap_catalog *c, const struct ap_token *token, struct ap_err *err);

#endif
