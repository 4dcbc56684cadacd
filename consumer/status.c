/* Status: one copy under one lock, made by the apply thread, read by scrapes.
 *
 * Lists that could grow without bound are cut: POSITIONS_SHOWN positions (the newest incarnations first), HOLES_SHOWN
 * holes; the totals are of all. */
#include "consumer/status.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/timeutil.h"

enum { POSITIONS_SHOWN = 1000, HOLES_SHOWN = 100 };

struct part_view {
    int32_t number;
    bool mine, assigned, caught_up;
    enum ap_hold hold;
    int64_t hold_since_ms, next, stored, target;
    uint64_t newest_clock;
    size_t raw_waiting, raw_bytes;
};

struct source_view {
    char name[AP_LOCAL_TOPIC_MAX];
    const char *topic; /* into name */
    size_t origin;
    enum ap_source_kind kind;
    bool found, assigned, mismatch;
    int32_t count;
    struct part_view *parts;
};

struct hole_view {
    struct ap_region origin;
    uint64_t stream, first, last;
    char topic[AP_TOPIC_NAME_MAX + 1];
    int32_t partition;
};

struct ap_status {
    const struct ap_consumer_settings *settings;
    int64_t started_ms; /* wall clock */
    pthread_mutex_t lock; /* everything below */
    const char *phase;  /* not NULL: not reading yet */
    rd_kafka_t *rk;
    struct ap_store *store;
    struct ap_scout *scout;
    struct source_view *sources;
    size_t source_count;
    struct ap_position *positions; /* newest incarnation first */
    size_t position_count;
    struct hole_view holes[HOLES_SHOWN];
    size_t hole_count;
    uint64_t hole_records[AP_CONSUMER_REGIONS_MAX], hole_ranges[AP_CONSUMER_REGIONS_MAX];
    uint64_t lost[AP_CONSUMER_REGIONS_MAX];
    bool retired[AP_CONSUMER_REGIONS_MAX];
    struct ap_positions_totals totals;
    uint64_t next_slot;
    uint64_t held_in_holes[AP_CONSUMER_REGIONS_MAX];
};

/* ---- publishing ---------------------------------------------------------------------------------------------------- */

static void view_parts(struct source_view *view, const struct ap_source *source)
{
    if (view->count != source->count) {
        free(view->parts);
        view->parts = source->count ? calloc((size_t)source->count, sizeof *view->parts) : NULL;
        view->count = view->parts ? source->count : 0;
    }
    for (int32_t p = 0; p < view->count; p++) {
        const struct ap_part *part = &source->parts[p];
        view->parts[p] = (struct part_view){
            .number = p, .mine = part->mine, .assigned = part->assigned, .caught_up = part->caught_up, .hold = part->hold,
            .hold_since_ms = part->hold_since_ms, .next = part->next, .stored = part->stored, .target = part->target,
            .newest_clock = part->newest_clock, .raw_waiting = part->raw.count, .raw_bytes = part->raw.bytes};
    }
}

static void view_sources(struct ap_status *s, const struct ap_sources *sources)
{
    if (!s->sources) {
        s->sources = calloc(sources->count, sizeof *s->sources);
        s->source_count = s->sources ? sources->count : 0;
    }
    for (size_t i = 0; i < s->source_count; i++) {
        const struct ap_source *source = &sources->list[i];
        struct source_view *view = &s->sources[i];
        memcpy(view->name, source->name, sizeof view->name);
        view->topic = view->name + (source->topic - source->name);
        view->origin = source->origin_index;
        view->kind = source->kind;
        view->found = source->found;
        view->assigned = source->assigned;
        view->mismatch = source->mismatch;
        view_parts(view, source);
    }
}

static size_t origin_index(const struct ap_consumer_settings *settings, const struct ap_region *region)
{
    for (size_t i = 0; i < settings->region_count; i++)
        if (!memcmp(&settings->all_regions[i], region, sizeof *region))
            return i;
    return 0;
}

static void view_holes(struct ap_status *s, const struct ap_positions *positions)
{
    s->hole_count = 0;
    memset(s->hole_records, 0, sizeof s->hole_records);
    memset(s->hole_ranges, 0, sizeof s->hole_ranges);
    if (!s->totals.holes)
        return;
    for (size_t i = 0; i < s->position_count; i++) {
        const struct ap_position *at = &s->positions[i];
        const struct ap_hole *holes;
        size_t n = at->finished ? 0 : ap_positions_holes(positions, at->stream, at->topic, at->partition, &holes);
        size_t origin = origin_index(s->settings, &at->region);
        s->hole_ranges[origin] += n;
        for (size_t h = 0; h < n; h++) {
            s->hole_records[origin] += holes[h].last - holes[h].first + 1;
            if (s->hole_count == HOLES_SHOWN)
                continue;
            struct hole_view *view = &s->holes[s->hole_count++];
            *view = (struct hole_view){.origin = at->region, .stream = at->stream, .partition = at->partition,
                                       .first = holes[h].first, .last = holes[h].last};
            snprintf(view->topic, sizeof view->topic, "%s", at->topic);
        }
    }
}

void ap_status_held(struct ap_status *s, const struct ap_held_census *held)
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->held_in_holes, held->in_holes, sizeof s->held_in_holes);
    pthread_mutex_unlock(&s->lock);
}

static int newest_first(const void *a, const void *b)
{
    const struct ap_position *x = a, *y = b;
    return (x->stream < y->stream) - (x->stream > y->stream);
}

void ap_status_publish(struct ap_status *s, const struct ap_sources *sources, const struct ap_positions *positions, uint64_t next_slot)
{
    struct ap_position *list = NULL;
    size_t count = 0;
    if (ap_positions_list(positions, &list, &count))
        list = NULL, count = 0; /* out of memory: the next time will do */
    if (count)
        qsort(list, count, sizeof *list, newest_first);
    pthread_mutex_lock(&s->lock);
    view_sources(s, sources);
    free(s->positions);
    s->positions = list;
    s->position_count = count;
    s->totals = ap_positions_totals(positions);
    view_holes(s, positions);
    s->next_slot = next_slot;
    s->phase = NULL;
    pthread_mutex_unlock(&s->lock);
}

void ap_status_given_up(struct ap_status *s, const uint64_t lost[AP_CONSUMER_REGIONS_MAX], const bool retired[AP_CONSUMER_REGIONS_MAX])
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->retired, retired, sizeof s->retired);
    memcpy(s->lost, lost, sizeof s->lost);
    pthread_mutex_unlock(&s->lock);
}

/* ---- readiness ------------------------------------------------------------------------------------------------------- */

static bool source_ready(const struct source_view *v, char *why, size_t cap)
{
    if (!v->found)
        return snprintf(why, cap, "topic %s does not exist (yet)", v->name), false;
    if (v->mismatch)
        return snprintf(why, cap, "topic %s has %d partitions, the others have not", v->name, (int)v->count), false;
    if (!v->assigned)
        return snprintf(why, cap, "topic %s waits for its region's control records", v->name), false;
    for (int32_t p = 0; p < v->count; p++) {
        const struct part_view *part = &v->parts[p];
        if (!part->mine)
            continue;
        if (part->hold == AP_HOLD_SCHEMA)
            return snprintf(why, cap, "%s[%d] waits at offset %lld for a schema", v->name, (int)p, (long long)part->next), false;
        if (part->hold == AP_HOLD_CLOCK)
            return snprintf(why, cap, "%s[%d] waits at offset %lld: its clock is ahead, and no more can be held", v->name, (int)p, (long long)part->next), false;
        if (!part->caught_up)
            return snprintf(why, cap, "catching up: %s[%d] at %lld of %lld", v->name, (int)p,
                            (long long)(part->next < 0 ? 0 : part->next), (long long)part->target), false;
    }
    return true;
}

bool ap_status_ready(void *status, char *why, size_t why_len)
{
    struct ap_status *s = status;
    bool ready = true;
    pthread_mutex_lock(&s->lock);
    if (s->scout)
        ap_scout_trouble(s->scout, why, why_len);
    else if (why_len)
        *why = '\0';
    if (s->phase) {
        if (!*why)
            snprintf(why, why_len, "%s", s->phase);
        ready = false;
    } else if (*why) {
        ready = false;
    }
    for (size_t i = 0; ready && i < s->source_count; i++)
        ready = s->retired[s->sources[i].origin] || source_ready(&s->sources[i], why, why_len);
    pthread_mutex_unlock(&s->lock);
    return ready;
}

/* ---- metrics ------------------------------------------------------------------------------------------------------------ */

static const char *region_name(const struct ap_status *s, size_t origin)
{
    return s->settings->all_regions[origin].name;
}

/* An origin that was never heard of lags since we began to listen. */
static double lag_seconds(const struct ap_status *s, uint64_t clock, int64_t now_ms)
{
    int64_t since = clock ? ap_hlc_ms(clock) : s->started_ms;
    return now_ms > since ? (double)(now_ms - since) / 1000.0 : 0.0;
}

static void emit_lag(struct ap_status *s, struct ap_metrics_out *out, const struct source_view *v)
{
    char labels[192];
    int64_t now_ms = ap_wall_ms();
    int32_t count = v->count;
    for (size_t i = 0; !count && i < s->source_count; i++) /* not there yet: as many as the others have */
        if (s->sources[i].kind == AP_SOURCE_MUTATIONS)
            count = s->sources[i].count;
    for (int32_t p = 0; p < (count ? count : 1); p++) {
        if (p % s->settings->workers != s->settings->worker)
            continue;
        snprintf(labels, sizeof labels, "origin=\"%s\",topic=\"%s\",partition=\"%d\"", region_name(s, v->origin), v->topic, (int)p);
        ap_metrics_emit(out, "replication_lag_seconds", labels, "gauge",
                        "Now minus the clock of the newest record applied; heartbeats keep it honest when idle",
                        lag_seconds(s, p < v->count ? v->parts[p].newest_clock : 0, now_ms));
    }
}

static void emit_offsets(struct ap_status *s, struct ap_metrics_out *out, const struct source_view *v)
{
    char labels[192];
    for (int32_t p = 0; p < v->count; p++) {
        const struct part_view *part = &v->parts[p];
        if (!part->mine)
            continue;
        int64_t low = 0, high = RD_KAFKA_OFFSET_INVALID;
        snprintf(labels, sizeof labels, "origin=\"%s\",topic=\"%s\",partition=\"%d\"", region_name(s, v->origin), v->topic, (int)p);
        int64_t at = part->stored < 0 ? 0 : part->stored;
        ap_metrics_emit(out, "wal_commit_index", labels, "gauge", "Kafka offset up to which this partition is in the store", (double)at);
        if (s->rk && !rd_kafka_get_watermark_offsets(s->rk, v->name, p, &low, &high) && high >= 0) {
            int64_t from = part->next > low ? part->next : low;
            ap_metrics_emit(out, "antipode_consumer_kafka_lag_records", labels, "gauge",
                            "Records in this region's Kafka that are not read yet", high > from ? (double)(high - from) : 0.0);
        }
        ap_metrics_emit(out, "antipode_consumer_waiting_schema", labels, "gauge", "1: the partition waits for an unknown schema",
                        part->hold == AP_HOLD_SCHEMA ? 1.0 : 0.0);
        ap_metrics_emit(out, "antipode_consumer_waiting_clock", labels, "gauge", "1: the partition waits, because no more records with clocks ahead can be held",
                        part->hold == AP_HOLD_CLOCK ? 1.0 : 0.0);
        if (v->kind == AP_SOURCE_RAW) {
            ap_metrics_emit(out, "antipode_consumer_raw_waiting_records", labels, "gauge", "Raw vectors that wait for their mutations", (double)part->raw_waiting);
            ap_metrics_emit(out, "antipode_consumer_raw_waiting_bytes", labels, "gauge", "Bytes of raw vectors that wait for their mutations", (double)part->raw_bytes);
        }
    }
}

static void emit_positions(struct ap_status *s, struct ap_metrics_out *out)
{
    char labels[256];
    for (size_t i = 0; i < s->position_count && i < POSITIONS_SHOWN; i++) {
        const struct ap_position *at = &s->positions[i];
        if (at->finished)
            continue;
        snprintf(labels, sizeof labels, "origin=\"%s\",stream=\"%016llx\",topic=\"%s\",partition=\"%d\"", at->region.name,
                 (unsigned long long)at->stream, at->topic, (int)at->partition);
        ap_metrics_emit(out, "antipode_position", labels, "gauge", "Number up to which all records of the stream are applied", (double)at->mark);
    }
    ap_metrics_emit(out, "antipode_consumer_streams", NULL, "gauge", "Streams with a position of their own", (double)s->totals.streams);
    ap_metrics_emit(out, "antipode_consumer_floors", NULL, "gauge", "Finished lineages' positions", (double)s->totals.floors);
}

static void emit_holes(struct ap_status *s, struct ap_metrics_out *out)
{
    char labels[256];
    for (size_t r = 0; r < s->settings->region_count; r++) {
        snprintf(labels, sizeof labels, "origin=\"%s\"", region_name(s, r));
        ap_metrics_emit(out, "antipode_consumer_hole_records", labels, "gauge", "Records that are missing below newer ones; those held are not",
                        s->hole_records[r] > s->held_in_holes[r] ? (double)(s->hole_records[r] - s->held_in_holes[r]) : 0.0);
        ap_metrics_emit(out, "antipode_consumer_hole_ranges", labels, "gauge", "Runs of missing records", (double)s->hole_ranges[r]);
        ap_metrics_emit(out, "antipode_consumer_given_up_records", labels, "gauge", "Records that were missing and are waited for no longer, as somebody decided", (double)s->lost[r]);
    }
    for (size_t i = 0; i < s->hole_count; i++) {
        const struct hole_view *h = &s->holes[i];
        snprintf(labels, sizeof labels, "origin=\"%s\",stream=\"%016llx\",topic=\"%s\",partition=\"%d\",first=\"%llu\",last=\"%llu\"",
                 h->origin.name, (unsigned long long)h->stream, h->topic, (int)h->partition, (unsigned long long)h->first, (unsigned long long)h->last);
        ap_metrics_emit(out, "antipode_consumer_hole", labels, "gauge", "A run of missing records, by their numbers; 100 at most are shown", (double)(h->last - h->first + 1));
    }
}

static void emit_store(struct ap_status *s, struct ap_metrics_out *out)
{
    struct ap_store_stats stats;
    struct ap_err err;
    if (!s->store || ap_store_stats(s->store, &stats, &err))
        return;
    ap_metrics_emit(out, "antipode_store_file_bytes", NULL, "gauge", "Size of the store's file", (double)stats.file_bytes);
    ap_metrics_emit(out, "antipode_store_used_bytes", NULL, "gauge", "Of these, in use", (double)stats.used_bytes);
    ap_metrics_emit(out, "antipode_store_map_bytes", NULL, "gauge", "Bound of the store's file", (double)s->settings->store_map_bytes);
    uint64_t syncs;
    double last_sync;
    ap_store_syncs(s->store, &syncs, &last_sync);
    ap_metrics_emit(out, "antipode_store_syncs_total", NULL, "counter", "Sync points: states to which a crash of the machine would take the store back", (double)syncs);
    ap_metrics_emit(out, "antipode_store_sync_seconds", NULL, "gauge", "How long the disk took for the last of them", last_sync);
    ap_metrics_emit(out, "antipode_store_rows", NULL, "gauge", "Rows, tombstones included", (double)stats.rows);
    ap_metrics_emit(out, "antipode_store_first_slot", NULL, "gauge", "Oldest slot in the log", (double)stats.first_slot);
    ap_metrics_emit(out, "antipode_store_next_slot", NULL, "gauge", "Slot that the next row gets", (double)stats.next_slot);
}

static void collect(struct ap_metrics_out *out, void *arg)
{
    struct ap_status *s = arg;
    char labels[96];
    snprintf(labels, sizeof labels, "role=\"consumer\",region=\"%s\",worker=\"%lld\"", s->settings->region, (long long)s->settings->worker);
    ap_metrics_emit(out, "antipode_daemon_info", labels, "gauge", "Always 1; the labels say who this is", 1);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->source_count; i++) {
        if (s->sources[i].kind == AP_SOURCE_MUTATIONS && !s->retired[s->sources[i].origin])
            emit_lag(s, out, &s->sources[i]);
        emit_offsets(s, out, &s->sources[i]);
    }
    emit_positions(s, out);
    emit_holes(s, out);
    emit_store(s, out);
    pthread_mutex_unlock(&s->lock);
    char why[256];
    ap_metrics_emit(out, "antipode_ready", NULL, "gauge", "1: /readyz says ready", ap_status_ready(s, why, sizeof why) ? 1.0 : 0.0);
}

/* ---- life ----------------------------------------------------------------------------------------------------------------- */

struct ap_status *ap_status_new(const struct ap_consumer_settings *settings, struct ap_metrics *metrics)
{
    struct ap_status *s = calloc(1, sizeof *s);
    if (!s)
        abort(); /* start-up */
    s->settings = settings;
    s->started_ms = ap_wall_ms();
    s->phase = "starting";
    pthread_mutex_init(&s->lock, NULL);
    ap_metrics_collect(metrics, collect, s);
    return s;
}

void ap_status_free(struct ap_status **status)
{
    struct ap_status *s = *status;
    if (!s)
        return;
    for (size_t i = 0; i < s->source_count; i++)
        free(s->sources[i].parts);
    free(s->sources);
    free(s->positions);
    pthread_mutex_destroy(&s->lock);
    free(s);
    *status = NULL;
}

void ap_status_phase(struct ap_status *s, const char *text)
{
    pthread_mutex_lock(&s->lock);
    s->phase = text;
    pthread_mutex_unlock(&s->lock);
}

void ap_status_attach(struct ap_status *s, rd_kafka_t *rk, struct ap_store *store, struct ap_scout *scout)
{
    pthread_mutex_lock(&s->lock);
    s->rk = rk;
    s->store = store;
    s->scout = scout;
    pthread_mutex_unlock(&s->lock);
}
