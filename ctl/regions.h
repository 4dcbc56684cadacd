/* Regions as their producers see them: modes, watermarks, and what of each is not visible in the others yet.
 *
 * Every producer among the targets is asked. A region's own producer is believed about its mode and watermark before others; a
 * retirement that anybody knows counts. */
#ifndef ANTIPODE_CTL_REGIONS_H
#define ANTIPODE_CTL_REGIONS_H
#include <stdio.h>
#include "common/watermark.h"
#include "ctl/fetch.h"
#include "ctl/targets.h"

#define AP_REGIONS_SEEN 32

struct ap_region_seen {
    char name[24], mode[16], incarnation[20]; /* "" while unknown */
    bool own;                          /* mode and incarnation are its own producer's word */
    int64_t sent_ms, age_ms;           /* of its newest watermark; age_ms -1: none is known */
    struct ap_position *positions; size_t count;
};
struct ap_regions_view {
    struct ap_region_seen list[AP_REGIONS_SEEN]; size_t count; /* sorted by name */
    size_t asked, answered;
};

/* Asks all producers among the targets; those that do not answer are reported to why (may be NULL). */
void ap_regions_ask(struct ap_fetcher *f, const struct ap_targets *targets, struct ap_regions_view *out, FILE *why);
/* One producer's answer; for ap_regions_ask and its test. AP_EIO: not what a producer says. */
int ap_regions_take(struct ap_regions_view *view, const json_t *answer, struct ap_err *err);
void ap_regions_fini(struct ap_regions_view *view);

struct ap_region_seen *ap_regions_find(struct ap_regions_view *view, const char *name); /* NULL: not heard of */
/* Records of origin that `positions` counts and region does not show; what it shows of a finished line is all of it. */
uint64_t ap_regions_undrained(const struct ap_region_seen *region, const char *origin, const struct ap_position *positions, size_t count);

/* Up to which number those positions show the stream that `of` is about; UINT64_MAX: all of it, as part of a finished line. */
uint64_t ap_positions_shown(const struct ap_position *positions, size_t count, const struct ap_position *of);
/* A position as producers and indexers print it: region, stream, lineage, topic, partition, mark, finished. AP_EIO. */
int ap_position_take(const json_t *from, struct ap_position *out);

json_t *ap_regions_report(const struct ap_regions_view *view); /* new reference: {"regions":[{region,mode,incarnation,watermark_age_s,undrained:{…}}]} */
void ap_regions_print(const json_t *report, FILE *out);

#endif
