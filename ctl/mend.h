/* Mending what a comparison found: rows are published again through the producer of the region that has the better one, with
 * the versions they have; segments and digests are put right where they are. */
#ifndef ANTIPODE_CTL_MEND_H
#define ANTIPODE_CTL_MEND_H
#include "ctl/compare.h"
#include "ctl/holes.h"

struct ap_mended { uint64_t rows, published, deleted; /* records, by what they are */ };

/* What would be published, without doing it. */
struct ap_mended ap_mend_plan(const struct ap_comparison *c);
/* Publish, and wait until both sides have it; c is brought up to date. AP_ETIMEOUT when some rows still differ. */
int ap_mend_rows(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *c,
                 struct ap_mended *out, struct ap_err *err);
/* Every row that differs, as side `from` has it now, whoever is right: what the other side misses is in some of them. Waits for Kafka
 * only; positions are added to *out. AP_ECORRUPT: a row of `from` fails its checksum. */
int ap_mend_bring(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, int from, const struct ap_comparison *c,
                  struct ap_published *out, struct ap_err *err);
/* After the rows: the indexes of chosen sides; digests of sides that do not fit their rows are counted anew. */
int ap_mend_indexes(struct ap_fetcher *f, struct ap_side sides[2], const bool chosen[2], const char *collection, struct ap_err *err);
int ap_mend_digests(struct ap_fetcher *f, struct ap_side sides[2], const bool chosen[2], const char *collection, struct ap_err *err);

#endif
