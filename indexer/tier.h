/* Where sealed segments live: warm ones are read into memory at the start and stay mapped; cold ones stay on the disk.
 *
 * Both are mapped files, so the kernel may drop pages of either when memory is short. What differs is what we ask it for. A warm segment's
 * pages are touched before the indexer is ready. A cold one's are given back once its checksum is known, only those that a query
 * reads come in again, without others around them, and a search asks for all its lists at once before it looks at the first. */
#ifndef ANTIPODE_INDEXER_TIER_H
#define ANTIPODE_INDEXER_TIER_H
#include <stdbool.h>
#include "indexer/segment.h"

/* Is the collection in the list: names separated by commas, or "*"? names may be NULL. */
bool ap_tier_is_named(const char *names, const char *collection);
/* Make a sealed segment warm or cold; one that is not mapped stays as it is. path: its file, relative to dir_fd. Whoever may change it (apply lock, or alone). */
void ap_tier_set(struct ap_segment *s, bool cold, int dir_fd);
/* Bytes of the mapping that are in memory, to within a percent or so. */
size_t ap_tier_resident(const struct ap_segment *s);
/* Cold segments: these lists are about to be read. */
void ap_tier_ask(const struct ap_segment *s, const uint32_t *lists, uint32_t n);

#endif
