/* What verify found, as JSON and for people; apart from asking, so that it can be tested. */
#ifndef ANTIPODE_CTL_REPORT_VERIFY_H
#define ANTIPODE_CTL_REPORT_VERIFY_H
#include <stdio.h>
#include "ctl/mend.h"

/* Nothing to mend: rows, and (where they were scrubbed) sums and indexes. */
bool ap_verify_is_equal(const struct ap_side sides[2], const struct ap_comparison *c);
/* Places where the index of a scrubbed side disagrees with its store. */
uint64_t ap_verify_index_findings(const struct ap_side *s);

json_t *ap_report_comparison(const struct ap_side sides[2], const char *collection, const struct ap_comparison *c, double seconds, uint64_t bytes); /* new reference */
void ap_report_repair(json_t *comparison, const struct ap_mended *m, bool planned, bool equal_now);
/* report: an array of comparisons. limit: of differences printed for each. */
void ap_report_print_verify(const json_t *report, size_t limit, FILE *out);
/* As metrics (Prometheus text format), for a collector of text files. now_s: of the wall clock. */
void ap_report_print_metrics(const json_t *report, int64_t now_s, FILE *out);

#endif
