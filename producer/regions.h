/* What state each region is in, as the control records say, and saying so for this one.
 *
 * Read-only: this region's producers refuse writes, and go on with heartbeats and barriers. Retired: an incarnation of a region
 * is over; nobody waits for it any more, its producers stop, and it comes back only under another incarnation.
 * The state lives in vec-control, so it outlives every process. Any thread but the polling one. */
#ifndef ANTIPODE_PRODUCER_REGIONS_H
#define ANTIPODE_PRODUCER_REGIONS_H
#include "producer/producer.h"

/* Of region i (0: own); retired wins over what the region itself says. incarnation: 0 while unknown; may be NULL. */
enum ap_region_state ap_regions_state(struct ap_producer *p, size_t i, uint64_t *incarnation);
const struct ap_region *ap_regions_at(const struct ap_producer *p, size_t i);
/* 0, or (AP_ECONFLICT) why writes are refused here, and which regions take them. */
int ap_regions_may_write(struct ap_producer *p, struct ap_err *err);
/* 0, or why nothing may be stamped any more: this region's incarnation is over. */
int ap_regions_may_stamp(struct ap_producer *p, struct ap_err *err);
/* Tell the watch which regions nobody waits for, and the lanes whether this one takes writes. Cheap when nothing has changed; the heart calls it. */
void ap_regions_refresh(struct ap_producer *p);

/* Publish this region's state. 0 also when it is so already. AP_ECONFLICT: the region is retired. */
int ap_regions_set(struct ap_producer *p, enum ap_region_state state, int64_t deadline_ns, struct ap_err *err);
/* Retire an incarnation of a region; 0: the one that is known. What all other live regions have applied of it counts, so each
 * one's watermark has to be young, unless force. AP_ENOTFOUND: no such region or incarnation; AP_ECONFLICT: another incarnation
 * than the region's, or a watermark is missing. 0 also when it is retired already. *cut (may be NULL): positions in its cut. */
int ap_regions_retire(struct ap_producer *p, const struct ap_region *region, uint64_t incarnation, bool force, int64_t deadline_ns, size_t *cut, struct ap_err *err);
/* Publish that this region waits no longer for these records. */
int ap_regions_lose(struct ap_producer *p, const struct ap_control_loss *losses, size_t count, int64_t deadline_ns, struct ap_err *err);

#endif
