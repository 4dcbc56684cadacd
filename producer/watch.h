/* The regions' watermarks as they arrive: what each has made visible, for writes that wait for it, and what time it is there.
 *
 * Invariant: a region's positions are those of its newest watermark by the order of its own topic. A watermark that claims
 * another region than its topic's is refused, and one that claims to have seen what this producer has not written. Nobody
 * waits for a retired region. */
#ifndef ANTIPODE_PRODUCER_WATCH_H
#define ANTIPODE_PRODUCER_WATCH_H
#include <pthread.h>
#include "common/kafka.h"
#include "common/watermark.h"
#include "producer/control_log.h"
#include "producer/drift.h"
#include "producer/lanes.h"
#include "producer/options.h"

struct ap_watch {
    const struct ap_producer_config *config;
    const struct ap_schemas *schemas;
    struct ap_drift *drift;
    struct ap_control_log *control; /* borrowed; NULL: positions are not looked up. Set before start */
    const struct ap_lanes *lanes;   /* borrowed; NULL: nothing was written here */
    rd_kafka_t *rk;
    bool assigned[AP_REGIONS_MAX + 1];
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    _Atomic bool live; /* started: what comes now is new, not the end of the log */

    pthread_mutex_t lock;
    pthread_cond_t moved; /* a region's watermark has */
    bool released;
    struct ap_watermark marks[AP_REGIONS_MAX + 1]; /* own region first, then others in config's order */
    _Atomic bool retired[AP_REGIONS_MAX + 1];
    _Atomic uint64_t unknown[AP_REGIONS_MAX + 1]; /* positions of the newest watermark whose streams nobody has registered */
    _Atomic int64_t heard_ms[AP_REGIONS_MAX + 1]; /* monotonic, when it came; 0: none yet */
    struct ap_metrics *metrics;
    struct ap_metric *seen, *refused;
};
void ap_watch_init(struct ap_watch *w, const struct ap_producer_config *config, const struct ap_schemas *schemas, struct ap_drift *drift, struct ap_metrics *metrics);
/* Read the newest watermark of the own region, so that its clock is merged; the topic must exist. */
int ap_watch_open(struct ap_watch *w, int timeout_ms, struct ap_err *err);
int ap_watch_start(struct ap_watch *w, struct ap_err *err);
void ap_watch_close(struct ap_watch *w);
/* Wait until the watermarks of `need` regions, whichever, cover token; 0: until the own region's does. 0 or AP_ETIMEOUT. Any thread. */
int ap_watch_wait(struct ap_watch *w, const struct ap_token *token, size_t need, int64_t deadline_ns, struct ap_err *err);
/* Does region i's (0: own) newest watermark cover token? Any thread. */
bool ap_watch_covers(struct ap_watch *w, size_t i, const struct ap_token *token);
/* Nobody waits for region i any more, or again. Any thread. */
void ap_watch_retire(struct ap_watch *w, size_t i, bool retired);
bool ap_watch_is_retired(const struct ap_watch *w, size_t i);
size_t ap_watch_live(const struct ap_watch *w); /* regions, own one included, that are not retired */
/* A copy of region i's newest watermark, for ap_watermark_fini; false: none has come. Any thread. */
bool ap_watch_copy(struct ap_watch *w, size_t i, struct ap_watermark *out);
int64_t ap_watch_age_ms(const struct ap_watch *w, size_t i); /* since it came; negative: none has, since the start */
/* Every wait, now and later, ends with AP_ETIMEOUT: the process is stopping. */
void ap_watch_release(struct ap_watch *w);
/* Feed one watermark record, as read from region i's topic (0: own): for tests. */
void ap_watch_take(struct ap_watch *w, size_t i, const void *value, size_t len);

#endif
