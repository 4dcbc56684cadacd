/* Second: findings, census of held events, holes -> what is settled here -> the rule -> floor. */
#include "consumer/collector.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "common/unsafe.h"

/* What scrapes see. */
struct shown {
    uint64_t tombstones, horizon;
    size_t letters;
    struct ap_rule_verdict verdict;
    struct ap_held_census held;
    uint64_t held_bytes;
    bool settled;
};

struct ap_collector {
    struct ap_batch *batch;
    struct ap_lookout *lookout;
    struct ap_metrics *metrics;
    struct ap_findings found;
    struct ap_held_census held;
    struct ap_settled settled;      /* to be said */
    enum ap_rule_why settled_why;
    uint64_t letters_hlc;           /* of letters that the findings may not have yet */
    int64_t letters_ms;
    uint64_t floor;
    bool more, asked;               /* collecting has more to do; the floor is new */
    struct ap_metric *collected;
    pthread_mutex_t lock;           /* shown */
    struct shown shown;
};

static void collect_metrics(struct ap_metrics_out *out, void *arg)
{
    struct ap_collector *c = arg;
    const struct ap_consumer_settings *s = c->batch->settings;
    char labels[256];
    pthread_mutex_lock(&c->lock);
    struct shown v = c->shown;
    pthread_mutex_unlock(&c->lock);
    ap_metrics_emit(out, "antipode_tombstones", NULL, "gauge", "Tombstones kept, and patches above nothing", (double)v.tombstones);
    ap_metrics_emit(out, "antipode_tombstones_horizon_ms", NULL, "gauge", "Clock, in ms, up to which tombstones may have been collected; 0: none ever was",
                    (double)ap_hlc_ms(v.horizon));
    ap_metrics_emit(out, "antipode_tombstones_min_age_seconds", NULL, "gauge",
                    "How old a tombstone must be: the longest retention of any region's logs, and a margin; -1: not known, or for ever",
                    v.verdict.age_ms < 0 ? -1 : (double)v.verdict.age_ms / 1000.0);
    ap_metrics_emit(out, "antipode_settled", NULL, "gauge", "1: no record is known to be missing, held, among the dead letters, or not on the disk yet", v.settled ? 1 : 0);
    ap_metrics_emit(out, "antipode_dead_letters_open", NULL, "gauge", "Mutations in this region's dlq-mutations that were neither redriven nor purged", (double)v.letters);
    ap_metrics_emit(out, "antipode_consumer_held_bytes", NULL, "gauge", "Bytes of records held until their time comes", (double)v.held_bytes);
    for (size_t r = 0; r < s->region_count; r++) {
        const struct ap_rule_hold *hold = &v.verdict.regions[r];
        snprintf(labels, sizeof labels, "origin=\"%s\"", s->all_regions[r].name);
        ap_metrics_emit(out, "antipode_consumer_held_records", labels, "gauge", "Records held until their time comes, because their clocks are ahead", (double)v.held.records[r]);
        snprintf(labels, sizeof labels, "by=\"%s\",why=\"%s\",origin=\"%s\",topic=\"%s\",partition=\"%d\"", s->all_regions[r].name,
                 ap_rule_why_name(hold->why), hold->at.region.name, hold->at.topic, hold->why == AP_RULE_BEHIND ? (int)hold->at.partition : -1);
        if (hold->why != AP_RULE_AGE)
            ap_metrics_emit(out, "antipode_tombstones_held_up", labels, "gauge",
                            "1: this region keeps tombstones from being collected that are old enough, or it is not known how old they must be", 1);
    }
}

int ap_collector_new(struct ap_collector **out, struct ap_batch *batch, struct ap_lookout *lookout, struct ap_metrics *metrics, struct ap_err *err)
{
    struct ap_collector *c = calloc(1, sizeof *c);
    if (!c)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    c->batch = batch;
    c->lookout = lookout;
    c->metrics = metrics;
    c->letters_hlc = AP_HLC_MAX;
    c->settled = ap_writer_settled(batch->writer);
    c->shown.verdict.age_ms = -1;
    c->collected = ap_counter(metrics, "antipode_tombstones_collected_total", NULL, "Tombstones that were let go");
    pthread_mutex_init(&c->lock, NULL);
    ap_metrics_collect(metrics, collect_metrics, c);
    *out = c;
    return 0;
}

void ap_collector_free(struct ap_collector **collector)
{
    struct ap_collector *c = *collector;
    if (!c)
        return;
    ap_metrics_uncollect(c->metrics, collect_metrics, c);
    ap_findings_fini(&c->found);
    pthread_mutex_destroy(&c->lock);
    free(c);
    *collector = NULL;
}

/* --- what is settled here --- */

static void lower(struct ap_collector *c, uint64_t hlc, enum ap_rule_why why)
{
    if (hlc <= c->settled.hlc && hlc < AP_HLC_MAX) {
        c->settled.hlc = hlc ? hlc - 1 : 0;
        c->settled_why = why;
    }
}

/* Records in a hole may have any clock from that of the mark on. */
static void lower_by_holes(struct ap_collector *c, const struct ap_position *positions, size_t count)
{
    const struct ap_positions *table = ap_writer_positions(c->batch->writer);
    const struct ap_hole *holes;
    if (!ap_positions_totals(table).holes)
        return;
    for (size_t i = 0; i < count; i++)
        if (!positions[i].finished && ap_positions_holes(table, positions[i].stream, positions[i].topic, positions[i].partition, &holes) > 0)
            lower(c, positions[i].clock ? positions[i].clock : 1, AP_RULE_HOLE);
}

static void find_settled(struct ap_collector *c, const struct ap_position *positions, size_t count)
{
    struct ap_settled said = ap_writer_settled(c->batch->writer);
    c->settled.retention_ms = c->found.retention_ms ? c->found.retention_ms : said.retention_ms;
    c->settled.hlc = c->found.letters_known ? AP_HLC_MAX : said.hlc;
    c->settled_why = AP_RULE_LETTER;
    if (c->found.letters_known)
        lower(c, c->found.letters_hlc, AP_RULE_LETTER);
    lower(c, c->letters_hlc, AP_RULE_LETTER);
    lower(c, c->held.oldest_hlc, AP_RULE_HELD);
    lower(c, ap_writer_unsynced(c->batch->writer), AP_RULE_UNSYNCED);
    lower_by_holes(c, positions, count);
    if (c->settled.hlc == 0 && c->found.letters_known)
        c->settled.hlc = 1; /* 0 is: not known */
}

/* --- the rule --- */

static void judge(struct ap_collector *c, const struct ap_position *positions, size_t count, struct ap_rule_verdict *verdict)
{
    const struct ap_consumer_settings *s = c->batch->settings;
    struct ap_rule_region regions[AP_CONSUMER_REGIONS_MAX] = {0};
    for (size_t r = 0; r < s->region_count; r++) {
        struct ap_rule_region *to = &regions[r];
        to->region = s->all_regions[r];
        to->retired = ap_registry_region_retired(c->batch->registry, &to->region);
        to->heard = r == 0 || c->found.heard[r];
        to->settled = r == 0 ? c->settled : c->found.marks[r].settled;
        to->settled_why = r == 0 ? c->settled_why : AP_RULE_UNSETTLED;
        to->positions = r == 0 ? positions : c->found.marks[r].positions;
        to->count = r == 0 ? count : c->found.marks[r].count;
    }
    struct ap_rule_view view = {.regions = regions, .count = s->region_count, .worker = (int32_t)s->worker, .workers = (int32_t)s->workers,
                                .now_ms = ap_wall_ms(), .margin_ms = s->tombstones_margin_ms, .drift_ms = s->clock_max_drift_ms,
                                .stream_end = ap_registry_stream_end, .lineage = ap_registry_lineage, .arg = c->batch->registry};
    ap_rule_judge(&view, verdict);
}

static void show(struct ap_collector *c, const struct ap_rule_verdict *verdict)
{
    uint64_t records, bytes;
    ap_writer_held(c->batch->writer, &records, &bytes);
    pthread_mutex_lock(&c->lock);
    c->shown = (struct shown){.tombstones = ap_writer_tombstones(c->batch->writer), .horizon = ap_writer_horizon(c->batch->writer),
                              .letters = c->found.letters, .verdict = *verdict, .held = c->held, .held_bytes = bytes, .settled = c->settled.hlc == AP_HLC_MAX};
    pthread_mutex_unlock(&c->lock);
}

int ap_collector_second(struct ap_collector *c, struct ap_err *err)
{
    struct ap_findings fresh;
    struct ap_position *positions = NULL;
    struct ap_rule_verdict verdict;
    size_t count = 0;
    if (c->batch->letters_hlc < AP_HLC_MAX) { /* committed by now, so Kafka has them */
        c->letters_hlc = c->batch->letters_hlc < c->letters_hlc ? c->batch->letters_hlc : c->letters_hlc;
        c->letters_ms = ap_mono_ms();
        c->batch->letters_hlc = AP_HLC_MAX;
    }
    if (ap_lookout_take(c->lookout, &fresh)) {
        ap_findings_fini(&c->found);
        c->found = fresh;
        c->asked = true;
        if (fresh.letters_known && fresh.asked_ms > c->letters_ms)
            c->letters_hlc = AP_HLC_MAX;
    }
    int rc = ap_held_count(c->batch->writer, c->batch->settings, &c->held, err);
    if (rc)
        return rc;
    if (ap_positions_list(ap_writer_positions(c->batch->writer), &positions, &count))
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    find_settled(c, positions, count);
    judge(c, positions, count, &verdict);
    free(positions);
    c->floor = ap_unsafe(AP_UNSAFE_COLLECT_EARLY) ? AP_HLC_MAX : verdict.floor;
    show(c, &verdict);
    return 0;
}

bool ap_collector_due(const struct ap_collector *c)
{
    struct ap_settled said = ap_writer_settled(c->batch->writer);
    return c->more || (c->asked && c->floor && ap_writer_tombstones(c->batch->writer)) || said.hlc != c->settled.hlc || said.retention_ms != c->settled.retention_ms;
}

int ap_collector_say(struct ap_collector *c, struct ap_err *err)
{
    return ap_writer_put_settled(c->batch->writer, c->settled, err);
}

/* What this batch adds may be taken back by a crash of the machine, and would be read again: elsewhere no tombstone in it may
 * be gone by then. Said in the batch's own transaction, so nobody sees the one without the other. */
static int wait_for_disk(struct ap_collector *c, struct ap_err *err)
{
    struct ap_settled settled = ap_writer_settled(c->batch->writer);
    uint64_t clock = ap_writer_unsynced(c->batch->writer);
    if (clock == AP_HLC_MAX || settled.hlc < clock)
        return 0;
    settled.hlc = clock ? clock - 1 : 0;
    return ap_writer_put_settled(c->batch->writer, settled, err);
}

int ap_collector_collect(struct ap_collector *c, uint64_t seen, size_t max_rows, struct ap_err *err)
{
    struct ap_collected done;
    int rc = wait_for_disk(c, err);
    c->settled = ap_writer_settled(c->batch->writer); /* the batch may have lowered it */
    c->asked = false;
    if (rc == 0)
        rc = ap_writer_collect(c->batch->writer, c->floor, seen, max_rows, &done, err);
    if (rc)
        return rc;
    c->more = done.more;
    ap_count(c->collected, done.tombstones);
    return 0;
}

const struct ap_held_census *ap_collector_held(const struct ap_collector *c)
{
    return &c->held;
}
