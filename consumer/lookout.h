/* The lookout: a thread that finds out, now and then, what the rule of tombstones asks of Kafka (rule.h): the newest watermark
 * of every region, which dead letters of this region are open, and for how long this region's logs keep a record.
 *
 * A client of its own, that reads nothing between its rounds. What cannot be found out stays as it was, and says so:
 * nothing is forgotten on a guess. */
#ifndef ANTIPODE_CONSUMER_LOOKOUT_H
#define ANTIPODE_CONSUMER_LOOKOUT_H
#include "common/schema.h"
#include "common/watermark.h"
#include "consumer/settings.h"

struct ap_lookout;

struct ap_findings {
    int64_t asked_ms;       /* monotonic: when the round began */
    bool heard[AP_CONSUMER_REGIONS_MAX];
    struct ap_watermark marks[AP_CONSUMER_REGIONS_MAX]; /* as in settings.all_regions; the own one, too */
    int64_t retention_ms;   /* -1: for ever; 0: not found out */
    bool letters_known;     /* dlq-mutations was read to its end */
    size_t letters;         /* open ones that are mutations */
    uint64_t letters_hlc;   /* the least version among them; AP_HLC_MAX: there is none */
};
void ap_findings_fini(struct ap_findings *f);

/* Starts the thread; everything is borrowed until ap_lookout_stop. */
int ap_lookout_start(struct ap_lookout **out, const struct ap_consumer_settings *settings, const struct ap_config_extra *extra, struct ap_err *err);
/* Apply thread: the newest findings, once each (ap_findings_fini); false when there is nothing new. */
bool ap_lookout_take(struct ap_lookout *l, struct ap_findings *out);
void ap_lookout_stop(struct ap_lookout **lookout); /* joins: at most the time of one request to Kafka */

#endif
