/* The store keeps them (store_held.c); here is when they come and go. */
#include "consumer/held.h"

#include "common/clock.h"
#include "common/log.h"
#include "common/timeutil.h"

static struct ap_log_limit drift_limit, orphan_limit;

/* The hlc at which our clock is near enough. */
static uint64_t time_of(const struct ap_mutation *m)
{
    return m->clock > m->version.hlc ? m->clock : m->version.hlc;
}

static uint64_t now_hlc(const struct ap_consumer_settings *settings, int64_t now_ms)
{
    return ap_hlc_make(now_ms + settings->clock_max_drift_ms, UINT16_MAX);
}

bool ap_held_too_early(const struct ap_batch *b, const struct ap_mutation *m)
{
    return time_of(m) > now_hlc(b->settings, b->now_ms);
}

int ap_held_put(struct ap_batch *b, const struct ap_part *part, const struct ap_record *record, const struct ap_mutation *m, bool *full, struct ap_err *err)
{
    uint64_t records, bytes;
    bool fresh = false;
    size_t origin = part->source->origin_index;
    int64_t ahead_ms = ap_hlc_ms(time_of(m)) - b->now_ms;
    ap_writer_held(b->writer, &records, &bytes);
    *full = records >= (uint64_t)b->settings->held_max_records || bytes + record->value_len > (uint64_t)b->settings->held_max_bytes;
    ap_log_limited(&drift_limit, 10000, AP_LOG_ERROR,
                   *full ? "%s[%d] waits at offset %lld: its clock is %lld ms ahead of ours, and no more can be held (held.max_records, held.max_bytes). "
                           "One of the two machines needs its time set"
                         : "%s[%d] offset %lld: its clock is %lld ms ahead of ours: held until its time comes. One of the two machines needs its time set",
                   part->source->name, (int)part->number, (long long)record->offset, (long long)ahead_ms);
    if (*full)
        return 0;
    struct ap_held held = {.time = time_of(m), .hlc = m->version.hlc, .stream = m->stream, .seq = m->seq, .origin = part->source->origin,
                           .topic = part->source->topic, .partition = part->number, .offset = record->offset, .key = record->key,
                           .key_len = record->key_len, .value = record->value, .value_len = record->value_len};
    int rc = ap_writer_hold(b->writer, &held, &fresh, err);
    if (rc)
        return rc;
    ap_tally(b->tallies, origin, fresh ? AP_TALLY_DRIFT : AP_TALLY_DUPLICATES);
    struct ap_settled settled = ap_writer_settled(b->writer);
    if (!fresh || settled.hlc < m->version.hlc)
        return 0;
    settled.hlc = m->version.hlc - 1;
    return ap_writer_put_settled(b->writer, settled, err);
}

bool ap_held_due(const struct ap_batch *b)
{
    return ap_writer_held_time(b->writer) <= now_hlc(b->settings, ap_wall_ms());
}

static struct ap_part *part_of(struct ap_batch *b, const struct ap_held *held, bool *gone)
{
    struct ap_source *source = ap_sources_find(b->sources, AP_SOURCE_MUTATIONS, &held->origin, held->topic);
    *gone = !source;
    return source && held->partition < source->count ? &source->parts[held->partition] : NULL;
}

int ap_held_release(struct ap_batch *b, int (*apply)(struct ap_batch *b, struct ap_part *part, const struct ap_record *record, struct ap_err *err), struct ap_err *err)
{
    struct ap_buf bytes = {0};
    struct ap_held held;
    uint64_t until = now_hlc(b->settings, b->now_ms);
    int rc = 0, found = 0;
    for (size_t i = 0; !rc && i < b->cap && (found = ap_writer_first_held(b->writer, until, &held, &bytes, err)) == 1; i++) {
        bool gone;
        struct ap_part *part = part_of(b, &held, &gone);
        if (!part && !gone)
            break; /* its topic has not been found yet: later */
        rc = ap_writer_drop_held(b->writer, &held, err);
        if (!rc && gone)
            ap_log_limited(&orphan_limit, 10000, AP_LOG_ERROR, "held events of %s's %s are dropped: that region or topic is not configured any more",
                           held.origin.name, held.topic);
        if (rc || gone)
            continue;
        struct ap_record record = {held.key, held.key_len, held.value, held.value_len, held.offset, NULL};
        ap_tally(b->tallies, part->source->origin_index, AP_TALLY_RELEASED);
        rc = apply(b, part, &record, err);
    }
    ap_buf_free(&bytes);
    return rc ? rc : found < 0 ? found : 0;
}

/* --- counting --- */

struct count { struct ap_held_census *out; const struct ap_consumer_settings *settings; const struct ap_positions *positions; };

static int count_one(void *arg, const struct ap_held *held)
{
    struct count *c = arg;
    size_t origin = 0;
    for (size_t i = 0; i < c->settings->region_count; i++)
        if (!memcmp(&c->settings->all_regions[i], &held->origin, sizeof held->origin))
            origin = i;
    c->out->records[origin]++;
    c->out->in_holes[origin] += ap_positions_check(c->positions, held->stream, held->topic, held->partition, held->seq) == AP_SEEN_LATE;
    if (held->hlc < c->out->oldest_hlc)
        c->out->oldest_hlc = held->hlc;
    return 0;
}

int ap_held_count(struct ap_writer *writer, const struct ap_consumer_settings *settings, struct ap_held_census *out, struct ap_err *err)
{
    struct count c = {out, settings, ap_writer_positions(writer)};
    *out = (struct ap_held_census){.oldest_hlc = AP_HLC_MAX};
    return ap_writer_held_time(writer) == UINT64_MAX ? 0 : ap_writer_each_held(writer, count_one, &c, err);
}
