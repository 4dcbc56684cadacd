/* Gathering and applying. Control records first, because they say who may speak and how to read it; then mutations; then
 * the raw vectors, which look for the mutations that have just been applied.
 *
 * How a record ends: applied; a duplicate; set aside as a dead letter (and its position noted, if it has a readable one);
 * its partition is put on hold at it; or it is held in the store until its time comes. There is no sixth way. */
#include "consumer/batch.h"

#include <stdlib.h>
#include "common/clock.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "common/unsafe.h"
#include "consumer/held.h"

static struct ap_log_limit poison_limit, schema_limit, foreign_limit, partition_limit, rewind_limit;

void ap_batch_init(struct ap_batch *b)
{
    b->cap = (size_t)b->settings->batch_rows;
    b->messages = calloc(b->cap, sizeof *b->messages);
    b->parts = calloc(b->cap, sizeof(struct ap_part *));
    if (!b->messages || !b->parts)
        abort();
    b->letters_hlc = AP_HLC_MAX;
}

void ap_batch_clear(struct ap_batch *b)
{
    for (size_t i = 0; i < b->count; i++)
        if (b->messages[i])
            rd_kafka_message_destroy(b->messages[i]);
    b->count = b->bytes = b->kept = 0;
    memset(b->oldest_clock, 0, sizeof b->oldest_clock);
}

void ap_batch_fini(struct ap_batch *b)
{
    ap_batch_clear(b);
    free(b->messages);
    free(b->parts);
    ap_buf_free(&b->scratch);
    memset(b, 0, sizeof *b);
}

/* ---- gathering -------------------------------------------------------------------------------------------------- */

/* Not a record but a word about a partition, or about the connection. */
static int on_event(struct ap_batch *b, const rd_kafka_message_t *m, struct ap_err *err)
{
    struct ap_part *part = m->rkt ? ap_sources_part(b->sources, m) : NULL;
    switch (m->err) {
    case RD_KAFKA_RESP_ERR__PARTITION_EOF:
        if (part) {
            part->at_end = true;
            if (m->offset > part->next)
                part->next = m->offset;
            part->caught_up = true;
        }
        return 0;
    case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
    case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
        if (!part)
            return 0;
        ap_log_limited(&rewind_limit, 1000, AP_LOG_WARN,
                       "%s[%d]: offset %lld is not there any more; reading from the beginning (what was purged shows as holes)",
                       part->source->name, (int)part->number, (long long)part->next);
        return ap_part_rewind(b->sources, part, err);
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
    case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
    case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
    case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_ID:
        if (part)
            ap_scout_doubt(b->scout, (size_t)(part->source - b->sources->list));
        break;
    default:
        break;
    }
    ap_log_limited(&partition_limit, 10000, AP_LOG_WARN, "Kafka: %s", rd_kafka_message_errstr(m));
    return 0;
}

/* Keep the records among the n messages that were read behind the ones that are there. */
static int take(struct ap_batch *b, size_t n, struct ap_err *err)
{
    size_t first = b->count;
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        rd_kafka_message_t *m = b->messages[first + i];
        struct ap_part *part = NULL;
        if (!m->err)
            part = ap_sources_part(b->sources, m);
        else if (!rc)
            rc = on_event(b, m, err);
        if (!part) {
            rd_kafka_message_destroy(m);
            continue;
        }
        b->parts[b->count] = part;
        b->messages[b->count++] = m;
        b->bytes += m->len + m->key_len;
        part->at_end = false;
    }
    return rc;
}

int ap_batch_gather(struct ap_batch *b, rd_kafka_queue_t *queue, int timeout_ms, struct ap_err *err)
{
    enum { STEP = 1024, BULK_MS = 5 };
    size_t room = 1;
    while (b->count < b->cap && b->bytes < (size_t)b->settings->batch_bytes) {
        ssize_t n = rd_kafka_consume_batch_queue(queue, timeout_ms, b->messages + b->count, room);
        if (n < 0)
            return ap_err_set(err, AP_EKAFKA, AP_FATAL, "reading from Kafka: %s", rd_kafka_err2str(rd_kafka_last_error()));
        if (n == 0)
            break;
        int rc = take(b, (size_t)n, err);
        if (rc)
            return rc;
        timeout_ms = b->settings->rebuild ? BULK_MS : 0; /* nobody waits for a rebuild's records: large batches are cheaper */
        room = b->cap - b->count < STEP ? b->cap - b->count : STEP;
    }
    return 0;
}

/* ---- what happens to a record ------------------------------------------------------------------------------------- */

static int set_aside(struct ap_batch *b, struct ap_part *part, const struct ap_record *r, const struct ap_err *why, struct ap_err *err)
{
    ap_tally(b->tallies, part->source->origin_index, AP_TALLY_DEAD);
    ap_log_limited(&poison_limit, 1000, AP_LOG_ERROR, "set aside in %s: %s[%d] offset %lld: %s", AP_TOPIC_DEAD, part->source->name,
                   (int)part->number, (long long)r->offset, why->msg);
    if (b->settings->rebuild)
        return 0; /* its letter was written when the serving store met it */
    return ap_dead_send(b->dead, part, r, why, err);
}

static int wait_for_schema(struct ap_batch *b, struct ap_part *part, const struct ap_record *r, const struct ap_err *why, struct ap_err *err)
{
    if (!r->message)
        return set_aside(b, part, r, why, err); /* it could be read when it was held */
    ap_log_limited(&schema_limit, 10000, AP_LOG_ERROR,
                   "%s[%d] waits at offset %lld: %s; it goes on when the schema comes through %s. Is this release older than "
                   "the producers'?",
                   part->source->name, (int)part->number, (long long)r->offset, why->msg, AP_TOPIC_CONTROL);
    return ap_part_hold(b->sources, part, r->offset, AP_HOLD_SCHEMA, err);
}

/* It failed. An error about this one record is poison; any other stops the daemon. */
static int set_aside_or_stop(struct ap_batch *b, struct ap_part *part, const struct ap_record *r, const struct ap_err *why, struct ap_err *err)
{
    if (why->cls == AP_POISON || why->code == AP_EINVAL || why->code == AP_ECORRUPT)
        return set_aside(b, part, r, why, err);
    *err = *why;
    return why->code;
}

/* ---- control ------------------------------------------------------------------------------------------------------- */

static int apply_control(struct ap_batch *b, struct ap_part *part, const struct ap_record *r, struct ap_err *err)
{
    const struct ap_region *origin = &part->source->origin;
    struct ap_err why = {0};
    ap_tally(b->tallies, part->source->origin_index, AP_TALLY_CONTROL);
    if (!r->value_len)
        return 0; /* a tombstone: the broker's own business */
    int rc = ap_registry_apply(b->registry, origin, r->key, r->key_len, r->value, r->value_len, &why);
    if (rc < 0 && rc != AP_ESCHEMA) {
        ap_tally(b->tallies, part->source->origin_index, AP_TALLY_CONTROL_REFUSED);
        return set_aside_or_stop(b, part, r, &why, err);
    }
    return ap_writer_put_control(b->writer, origin, r->key, r->key_len, r->value, r->value_len, err);
}

/* ---- mutations ------------------------------------------------------------------------------------------------------ */

static enum ap_stream_state stream_state(struct ap_batch *b, struct ap_part *part, uint64_t stream)
{
    uint64_t epoch = ap_registry_epoch(b->registry);
    if (part->memo_stream != stream || part->memo_epoch != epoch) {
        part->memo_stream = stream;
        part->memo_epoch = epoch;
        part->memo_state = (int)ap_registry_stream(b->registry, stream, &part->source->origin);
    }
    return (enum ap_stream_state)part->memo_state;
}

/* Is the record one that a retired region wrote, or passed on, too late? It is never applied, and leaves no position. */
static bool is_too_late(struct ap_batch *b, struct ap_part *part, const struct ap_mutation *m, struct ap_err *why)
{
    if (stream_state(b, part, m->stream) != AP_STREAM_RETIRED || m->seq <= ap_registry_end(b->registry, m->stream, part->source->topic, part->number))
        return false;
    ap_err_set(why, AP_ECONFLICT, AP_POISON, "region %s was retired before any other region had this record; it comes back under a new incarnation, by a rebuild",
               part->source->origin.name);
    return true;
}

/* Counts those whose stream should not be here, or is not known yet. */
static void note_stream(struct ap_batch *b, struct ap_part *part, const struct ap_mutation *m)
{
    size_t origin = part->source->origin_index;
    switch (stream_state(b, part, m->stream)) {
    case AP_STREAM_KNOWN:
    case AP_STREAM_RETIRED:
        return;
    case AP_STREAM_STRANGER:
        ap_registry_stranger(b->registry, m->stream, origin, &part->source->origin, b->mono_ms);
        return;
    case AP_STREAM_FOREIGN:
        ap_tally(b->tallies, origin, AP_TALLY_UNREGISTERED);
        ap_log_limited(&foreign_limit, 10000, AP_LOG_ERROR,
                       "%s[%d]: stream %016llx is registered to another region than %s; applied, but look who writes there",
                       part->source->name, (int)part->number, (unsigned long long)m->stream, part->source->origin.name);
        return;
    }
}

/* A letter can be published again: until then, no tombstone as new as it may be forgotten, anywhere (rule.h). */
static int set_mutation_aside(struct ap_batch *b, struct ap_part *part, const struct ap_record *r, const struct ap_mutation *m, const struct ap_err *why, struct ap_err *err)
{
    struct ap_settled settled = ap_writer_settled(b->writer);
    uint64_t below = m->version.hlc ? m->version.hlc - 1 : 0;
    b->letters_hlc = m->version.hlc < b->letters_hlc ? m->version.hlc : b->letters_hlc;
    if (settled.hlc > below) {
        settled.hlc = below;
        int rc = ap_writer_put_settled(b->writer, settled, err);
        if (rc)
            return rc;
    }
    return set_aside(b, part, r, why, err);
}

/* Heartbeats carry no change; a hello also says where its predecessor ended. */
static int apply_heartbeat(struct ap_batch *b, struct ap_part *part, const struct ap_mutation *m, struct ap_err *why)
{
    struct ap_hello hello;
    int rc = ap_hello_parse(m, &hello, why);
    if (rc < 0)
        return rc;
    if (rc > 0)
        ap_positions_hello(ap_writer_positions(b->writer), &part->source->origin, m->stream, part->source->topic, part->number, &hello);
    ap_tally(b->tallies, part->source->origin_index, AP_TALLY_HEARTBEATS);
    return 0;
}

/* Tombstones this old may have been forgotten here. What is published now has a clock of now, however old its version is,
 * so this comes of a stream that nobody knew, or that has been silent for longer than any log remembers. */
static bool is_below_horizon(const struct ap_batch *b, const struct ap_mutation *m)
{
    return m->clock <= ap_writer_horizon(b->writer) && m->op != AP_OP_DELETE && !ap_unsafe(AP_UNSAFE_COLLECT_EARLY);
}

/* Read once more: the point's tombstone may be gone, so what is older than that is left as the store has it. */
static bool may_be_collected(const struct ap_batch *b, const struct ap_mutation *m)
{
    uint64_t oldest = m->version.hlc < m->clock ? m->version.hlc : m->clock;
    return oldest <= ap_writer_horizon(b->writer) && m->op != AP_OP_DELETE;
}

static int apply_change(struct ap_batch *b, struct ap_part *part, const struct ap_record *msg, const struct ap_mutation *m, struct ap_err *why)
{
    size_t origin = part->source->origin_index;
    if (msg->key_len != sizeof(struct ap_key))
        return ap_err_set(why, AP_ECORRUPT, AP_POISON, "a key of %zu bytes instead of %zu", msg->key_len, sizeof(struct ap_key));
    const struct ap_key *key = msg->key;
    if (ap_registry_collection_dead(b->registry, ap_key_collection(key))) {
        ap_tally(b->tallies, origin, AP_TALLY_DELETED);
        return 0;
    }
    if (is_below_horizon(b, m))
        return ap_err_set(why, AP_ECONFLICT, AP_POISON,
                          "published at %lld ms, before the horizon of collected tombstones here, by a stream that was not known or had long been "
                          "silent: its point may have been deleted since. Redrive it only if it was not", (long long)ap_hlc_ms(m->clock));
    bool changed = false;
    int rc = ap_writer_apply(b->writer, key, m, &changed, why);
    if (rc)
        return rc;
    ap_tally(b->tallies, origin, AP_TALLY_APPLIED);
    if (!changed)
        ap_tally(b->tallies, origin, AP_TALLY_UNCHANGED);
    if (!b->oldest_clock[origin] || m->clock < b->oldest_clock[origin])
        b->oldest_clock[origin] = m->clock;
    return 0;
}

/* For common/unsafe.h: all numbers before this one count as applied, and this one as new. */
static enum ap_seen forget_holes(struct ap_batch *b, struct ap_part *part, const struct ap_mutation *m)
{
    struct ap_positions *positions = ap_writer_positions(b->writer);
    const struct ap_source *source = part->source;
    for (uint64_t seq = m->seq; seq > 1 && ap_positions_check(positions, m->stream, source->topic, part->number, seq - 1) != AP_SEEN_DUPLICATE; seq--)
        ap_positions_note(positions, &source->origin, m->stream, source->topic, part->number, seq - 1, m->clock);
    return AP_SEEN_NEW;
}

/* Decode, and if it is no duplicate and its time has come, apply. */
static int apply_mutation(struct ap_batch *b, struct ap_part *part, const struct ap_record *r, struct ap_err *err)
{
    struct ap_mutation m;
    struct ap_err why; /* filled by whoever fails */
    int rc = ap_mutation_decode(ap_registry_schemas(b->registry), r->value, r->value_len, &m, &b->scratch, &why);
    if (rc == AP_ESCHEMA)
        return wait_for_schema(b, part, r, &why, err);
    if (rc)
        return set_aside_or_stop(b, part, r, &why, err);

    const struct ap_source *source = part->source;
    struct ap_positions *positions = ap_writer_positions(b->writer);
    if (is_too_late(b, part, &m, &why)) {
        ap_tally(b->tallies, source->origin_index, AP_TALLY_RETIRED);
        bool counted = ap_positions_check(positions, m.stream, source->topic, part->number, m.seq) == AP_SEEN_DUPLICATE;
        return counted || m.op == AP_OP_HEARTBEAT ? 0 : set_mutation_aside(b, part, r, &m, &why, err);
    }
    if (ap_held_too_early(b, &m) && ap_positions_check(positions, m.stream, source->topic, part->number, m.seq) != AP_SEEN_DUPLICATE) {
        bool full;
        rc = ap_held_put(b, part, r, &m, &full, err);
        return rc ? rc : full ? ap_part_hold(b->sources, part, r->offset, AP_HOLD_CLOCK, err) : 0;
    }
    enum ap_seen seen = ap_positions_note(positions, &source->origin, m.stream, source->topic, part->number, m.seq, m.clock);
    if (ap_unsafe(AP_UNSAFE_NO_POSITIONS))
        seen = forget_holes(b, part, &m);
    if (seen == AP_SEEN_DUPLICATE) {
        ap_tally(b->tallies, source->origin_index, AP_TALLY_DUPLICATES);
        if (!b->replays || m.op == AP_OP_HEARTBEAT || may_be_collected(b, &m))
            return 0;
    }
    if (seen == AP_SEEN_LATE && r->message)
        ap_tally(b->tallies, source->origin_index, AP_TALLY_LATE);
    if (m.clock > part->newest_clock)
        part->newest_clock = m.clock;
    note_stream(b, part, &m);
    rc = m.op == AP_OP_HEARTBEAT ? apply_heartbeat(b, part, &m, &why) : apply_change(b, part, r, &m, &why);
    if (rc && why.cls == AP_POISON)
        return set_mutation_aside(b, part, r, &m, &why, err);
    return rc ? set_aside_or_stop(b, part, r, &why, err) : 0;
}

/* ---- raw vectors ------------------------------------------------------------------------------------------------------ */

static int apply_raw(struct ap_batch *b, struct ap_part *part, size_t i, const struct ap_record *r, struct ap_err *err)
{
    rd_kafka_message_t *m = b->messages[i];
    struct ap_err why;
    enum ap_raw_verdict verdict = AP_RAW_DONE;
    int rc = ap_raw_offer(b->join, part, m, b->mono_ms, &verdict, &why);
    if (rc == AP_ESCHEMA)
        return wait_for_schema(b, part, r, &why, err);
    if (rc)
        return set_aside_or_stop(b, part, r, &why, err);
    if (verdict == AP_RAW_FULL)
        return ap_part_hold(b->sources, part, m->offset, AP_HOLD_RAW_FULL, err);
    if (verdict == AP_RAW_KEPT) {
        b->messages[i] = NULL;
        b->kept++;
    }
    return 0;
}

/* ---- the batch ---------------------------------------------------------------------------------------------------------- */

static int apply_kind(struct ap_batch *b, enum ap_source_kind kind, struct ap_err *err)
{
    for (size_t i = 0; i < b->count; i++) {
        struct ap_part *part = b->parts[i];
        if (part->source->kind != kind || part->hold != AP_HOLD_NONE)
            continue; /* put on hold by an earlier record of this batch: it is read again */
        const rd_kafka_message_t *m = b->messages[i];
        int64_t offset = m->offset;
        struct ap_record record = ap_record_of(m);
        int rc = kind == AP_SOURCE_MUTATIONS ? apply_mutation(b, part, &record, err)
                 : kind == AP_SOURCE_CONTROL ? apply_control(b, part, &record, err)
                                             : apply_raw(b, part, i, &record, err);
        if (rc)
            return ap_err_wrap(err, "%s[%d] offset %lld", part->source->name, (int)part->number, (long long)offset);
        if (part->hold == AP_HOLD_NONE)
            ap_part_advance(part, offset + 1);
        part->touched = true;
    }
    return 0;
}

/* The mutations of this raw partition have more to come, as far as we know. */
static bool mutations_behind(struct ap_batch *b, const struct ap_part *raw)
{
    for (size_t i = 0; i < b->sources->count; i++) {
        const struct ap_source *s = &b->sources->list[i];
        if (s->kind != AP_SOURCE_MUTATIONS || s->origin_index != 0)
            continue;
        if (raw->number >= s->count || !s->parts[raw->number].assigned || !s->parts[raw->number].at_end)
            return true;
    }
    return false;
}

static int settle_raw(struct ap_batch *b, struct ap_err *err)
{
    for (size_t i = 0; i < b->sources->count; i++) {
        struct ap_source *s = &b->sources->list[i];
        for (int32_t p = 0; s->kind == AP_SOURCE_RAW && p < s->count; p++) {
            struct ap_part *part = &s->parts[p];
            if (!part->raw.count)
                continue;
            int rc = ap_raw_settle(b->join, part, mutations_behind(b, part), b->mono_ms, err);
            if (rc)
                return ap_err_wrap(err, "%s[%d]", s->name, (int)p);
        }
    }
    return 0;
}

int ap_batch_apply(struct ap_batch *b, struct ap_err *err)
{
    b->now_ms = ap_wall_ms();
    b->mono_ms = ap_mono_ms();
    int rc = apply_kind(b, AP_SOURCE_CONTROL, err);
    if (!rc)
        rc = ap_held_release(b, apply_mutation, err);
    if (!rc)
        rc = apply_kind(b, AP_SOURCE_MUTATIONS, err);
    if (!rc)
        rc = settle_raw(b, err); /* the waiting ones before the new ones: offsets and memory go down first */
    if (!rc)
        rc = apply_kind(b, AP_SOURCE_RAW, err);
    return rc;
}

int ap_batch_put_offsets(struct ap_batch *b, const char *cluster, struct ap_err *err)
{
    for (size_t i = 0; i < b->sources->count; i++) {
        struct ap_source *s = &b->sources->list[i];
        for (int32_t p = 0; p < s->count; p++) {
            struct ap_part *part = &s->parts[p];
            int64_t resume = ap_part_resume(part);
            bool touched = part->touched;
            part->touched = false;
            if (!touched || resume < 0 || resume == part->stored)
                continue;
            int rc = ap_writer_put_offset(b->writer, cluster, s->id, s->name, p, resume, err);
            if (rc)
                return rc;
            part->stored = resume;
        }
    }
    return 0;
}
