/* A table of steps, each tried until it succeeds, needs an operator (AP_FATAL), or the process is stopped. */
#include "producer/start.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/retired.h"
#include "common/schema.h"
#include "common/timeutil.h"
#include "producer/tails.h"

#define TRY_MS 5000
#define CATCH_UP_MS 60000
#define AGAIN_MS 500
#define PREDECESSOR_MS 250
#define OLD_MS 3600000 /* clocks may be set back by this much between two lives of a producer */

static int64_t deadline(int64_t ms)
{
    return ap_mono_ns() + ms * INT64_C(1000000);
}

/* --- topics --- */

static int check_partitions(struct ap_producer *p, const char *topic, struct ap_err *err)
{
    int32_t have = 0;
    int rc = ap_kafka_partitions(p->rk, topic, TRY_MS, &have, err);
    if (rc == AP_ENOTFOUND)
        return ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "topic %s does not exist in this region's Kafka: create it with %" PRId64 " partitions (the key partitions), cleanup.policy=delete, and start again",
                          topic, p->config->partitions);
    if (rc)
        return rc;
    if (have == p->config->partitions)
        return 0;
    return ap_err_set(err, AP_ECONFLICT, AP_FATAL, "topic %s has %d partitions, the key partitions says %" PRId64 ": they must be equal, in all regions; set partitions = %d if the topic is right, else create the topic anew",
                      topic, (int)have, p->config->partitions, (int)have);
}

static int check_exists(struct ap_producer *p, const char *topic, struct ap_err *err)
{
    int32_t have = 0;
    int rc = ap_kafka_partitions(p->rk, topic, TRY_MS, &have, err);
    if (rc == AP_ENOTFOUND)
        return ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "topic %s does not exist in this region's Kafka: create it with cleanup.policy=compact, and start again", topic);
    return rc;
}

static int check_topics(struct ap_producer *p, struct ap_err *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < p->config->topic_count; i++)
        rc = check_partitions(p, p->config->topics[i], err);
    if (rc == 0)
        rc = check_partitions(p, AP_TOPIC_RAW, err);
    if (rc == 0)
        rc = check_exists(p, AP_TOPIC_CONTROL, err);
    if (rc == 0)
        rc = check_exists(p, AP_TOPIC_WATERMARKS, err);
    return rc;
}

/* --- catalog and watermarks --- */

static int read_catalog(struct ap_producer *p, struct ap_err *err)
{
    int rc = ap_control_log_open(&p->control, CATCH_UP_MS, err);
    if (rc)
        return rc;
    const struct ap_catalog *catalog = ap_control_log_lock(&p->control);
    const struct ap_incarnation_info *before = ap_catalog_instance(catalog, &p->config->region, p->config->instance);
    const struct ap_region_info *region = ap_catalog_region(catalog, &p->config->region);
    uint64_t over = region && ap_catalog_region_is_retired(catalog, &p->config->region) ? region->region_incarnation : 0;
    p->rejoins = over && over == p->config->rejoin;
    if (before && ap_catalog_is_retired(catalog, &p->config->region, before->region_incarnation, NULL))
        before = NULL; /* what was published before the retirement is no predecessor of ours */
    p->predecessor = before ? before->incarnation : 0;
    p->lineage = before ? before->lineage : p->incarnation;
    ap_control_log_unlock(&p->control);
    if (over && !p->rejoins)
        return ap_err_set(err, AP_ECONFLICT, AP_FATAL, "region %s is retired: its events would go to dead letters everywhere. To bring it back, move away the folders of its stores, "
                          "and start its producers with --rejoin %016" PRIx64 " (docs/operations.md)", p->config->region.name, over);
    /* A clock that was set back must not make us older than our predecessor. */
    while (p->incarnation <= p->predecessor)
        p->incarnation = ap_incarnation_new(ap_incarnation_start_ms(p->predecessor) + 1);
    p->lanes.incarnation = p->incarnation;
    if (!before)
        p->lineage = p->incarnation;
    p->lanes.lineage = p->lineage;
    return 0;
}

static int read_watermark(struct ap_producer *p, struct ap_err *err)
{
    return ap_watch_open(&p->watch, TRY_MS, err);
}

/* --- registering --- */

/* All versions: a control record is written in the oldest that has its kind. */
static int publish_schemas(struct ap_producer *p, struct ap_err *err)
{
    const struct ap_schema_info *all;
    size_t n = ap_schema_embedded(p->schemas, &all);
    struct ap_control *records = calloc(n, sizeof *records);
    if (!records)
        abort();
    for (size_t i = 0; i < n; i++) {
        records[i].kind = AP_CONTROL_SCHEMA;
        records[i].u.schema = (struct ap_control_schema){all[i].fingerprint, (char *)(uintptr_t)all[i].json};
    }
    int rc = ap_control_log_publish(&p->control, records, n, deadline(TRY_MS), err);
    free(records);
    return rc;
}

static uint64_t region_incarnation(struct ap_producer *p)
{
    const struct ap_catalog *catalog = ap_control_log_lock(&p->control);
    const struct ap_region_info *r = ap_catalog_region(catalog, &p->config->region);
    uint64_t incarnation = r ? r->region_incarnation : 0;
    ap_control_log_unlock(&p->control);
    return incarnation;
}

/* The first producer of a region brings the region into being. */
static int ensure_region(struct ap_producer *p, struct ap_err *err)
{
    if (region_incarnation(p) && !p->rejoins)
        return 0;
    struct ap_control c = {.kind = AP_CONTROL_REGION};
    c.u.region = (struct ap_control_region){p->incarnation, AP_REGION_ACTIVE};
    int rc = ap_control_log_publish(&p->control, &c, 1, deadline(TRY_MS), err);
    if (rc == 0 && p->rejoins)
        ap_warn("region %s is back under incarnation %016" PRIx64, p->config->region.name, p->incarnation);
    p->rejoins = p->rejoins && rc != 0;
    return rc;
}

static int register_incarnation(struct ap_producer *p, struct ap_err *err)
{
    int rc = publish_schemas(p, err);
    if (rc == 0)
        rc = ensure_region(p, err);
    if (rc)
        return rc;
    struct ap_control c = {.kind = AP_CONTROL_INCARNATION};
    c.u.incarnation = (struct ap_control_incarnation){p->incarnation, region_incarnation(p), p->predecessor, p->lineage, p->config->instance};
    return ap_control_log_publish(&p->control, &c, 1, deadline(TRY_MS), err);
}

/* --- hello --- */

static bool is_ours(void *arg, uint64_t stream)
{
    struct ap_producer *p = arg;
    const struct ap_incarnation_info *i = ap_catalog_incarnation(ap_control_log_lock(&p->control), stream);
    bool ours = i && i->lineage == p->lineage && stream != p->incarnation;
    ap_control_log_unlock(&p->control);
    return ours;
}

/* A predecessor that still runs stops stamping as soon as it reads that we have registered; give it that moment. */
static void wait_for_predecessor(void)
{
    struct timespec moment = {0, PREDECESSOR_MS * 1000000};
    nanosleep(&moment, NULL);
}

/* Where the lineage ended; the predecessor proper may have died before it wrote to a partition, then its own counts. */
static int say_hello(struct ap_producer *p, struct ap_err *err)
{
    if (p->predecessor)
        wait_for_predecessor();
    size_t partitions = (size_t)p->config->partitions, n = p->config->topic_count * partitions;
    struct ap_tail *tails = calloc(n, sizeof *tails);
    if (!tails)
        abort();
    uint64_t newest = 0;
    struct ap_tails_query query = {
        .extra = &p->config->extra, .client_id = "antipode-producer-tails", .topics = p->config->topics, .topic_count = p->config->topic_count,
        .partitions = (int32_t)partitions, .schemas = p->schemas, .is_ours = p->predecessor ? is_ours : NULL, .arg = p,
        .not_before_ms = ap_incarnation_start_ms(p->lineage) - OLD_MS,
    };
    int rc = ap_tails_read(&query, CATCH_UP_MS, tails, &newest, err);
    ap_clock_merge(&p->clock, newest);
    if (rc == 0)
        rc = ap_drift_check(&p->drift, err);
    struct ap_ack *ack = ap_ack_new(false);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct ap_topic *topic = &p->lanes.topics[i / partitions];
        int32_t partition = (int32_t)(i % partitions);
        struct ap_hello hello = {tails[i].stream, tails[i].ended};
        if (ap_lane_next_seq(topic, partition) == 1) /* else an earlier try has said it */
            rc = ap_lane_hello(&p->lanes, topic, partition, &hello, ack, err);
    }
    ap_ack_seal(ack);
    /* Once handed over, a hello will arrive: a second try only waits for it. */
    while (rc == 0 && (rc = ap_ack_wait(ack, deadline(1000), err)) == AP_ETIMEOUT && !atomic_load(&p->stop_starting) && !atomic_load(&p->lanes.broken))
        rc = 0;
    ap_ack_unref(&ack);
    free(tails);
    return rc;
}

/* --- the table --- */

static const struct step {
    const char *what;
    int (*run)(struct ap_producer *p, struct ap_err *err);
} steps[] = {
    {"checking the topics", check_topics},
    {"reading the control topics", read_catalog},
    {"reading the region's watermark", read_watermark},
    {"registering this incarnation", register_incarnation},
    {"finding where the predecessor ended, and saying hello", say_hello},
};

static void say(struct ap_producer *p, const char *what, const char *trouble)
{
    pthread_mutex_lock(&p->step_lock);
    snprintf(p->step, sizeof p->step, "%s%s%s", what, *trouble ? ": " : "", trouble);
    pthread_mutex_unlock(&p->step_lock);
}

static int run_step(struct ap_producer *p, const struct step *step, struct ap_err *err)
{
    struct ap_log_limit limit = {0};
    say(p, step->what, "");
    for (;;) {
        int rc = step->run(p, err);
        if (rc == 0)
            return 0;
        ap_err_wrap(err, "%s", step->what);
        if (err->cls == AP_FATAL || atomic_load(&p->lanes.broken))
            return rc;
        if (atomic_load(&p->stop_starting))
            return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "stopped while starting");
        say(p, "", err->msg);
        ap_log_limited(&limit, 5000, AP_LOG_WARN, "%s; trying again", err->msg);
        struct timespec pause = {0, AGAIN_MS * 1000000};
        nanosleep(&pause, NULL);
    }
}

int ap_start_run(struct ap_producer *p, struct ap_err *err)
{
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int rc = atomic_load(&p->stop_starting) ? ap_err_set(err, AP_ENOTREADY, AP_RETRY, "stopped while starting") : run_step(p, &steps[i], err);
        if (rc)
            return rc;
    }
    ap_info("ready: incarnation=%016" PRIx64 " predecessor=%016" PRIx64 " lineage=%016" PRIx64 " instance=%s partitions=%" PRId64 "x%zu",
            p->incarnation, p->predecessor, p->lineage, p->config->instance, p->config->partitions, p->config->topic_count);
    return 0;
}
