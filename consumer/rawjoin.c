/* The raw join, record by record: positions say whether the mutation has been applied.
 *
 * A stream's raw vectors come in the order of its mutations, so once one of a stream has to wait, the later ones in the
 * queue wait as well: settling looks at each stream's first only. */
#include "consumer/rawjoin.h"

#include <stdlib.h>
#include "common/log.h"

enum { WAITING_STREAMS = 16 };

static struct ap_log_limit expired_limit;

static struct ap_raw_waiting *entry(const struct ap_raw_queue *q, size_t i)
{
    return &q->ring[(q->head + i) & (q->cap - 1)];
}

void ap_raw_queue_fini(struct ap_raw_queue *q)
{
    for (size_t i = 0; i < q->count; i++)
        if (entry(q, i)->message)
            rd_kafka_message_destroy(entry(q, i)->message);
    free(q->ring);
    memset(q, 0, sizeof *q);
}

static int queue_grow(struct ap_raw_queue *q, struct ap_err *err)
{
    size_t cap = q->cap ? q->cap * 2 : 64;
    struct ap_raw_waiting *ring = calloc(cap, sizeof *ring);
    if (!ring)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    for (size_t i = 0; i < q->count; i++)
        ring[i] = *entry(q, i);
    free(q->ring);
    q->ring = ring;
    q->cap = cap;
    q->head = 0;
    return 0;
}

static int queue_push(struct ap_raw_queue *q, const struct ap_raw_waiting *waiting, struct ap_err *err)
{
    if (q->count == q->cap) {
        int rc = queue_grow(q, err);
        if (rc)
            return rc;
    }
    *entry(q, q->count++) = *waiting;
    q->bytes += waiting->message->len;
    return 0;
}

static void queue_drop(struct ap_raw_queue *q, struct ap_raw_waiting *w)
{
    q->bytes -= w->message->len;
    rd_kafka_message_destroy(w->message);
    w->message = NULL;
    while (q->count && !entry(q, 0)->message) {
        q->head++;
        q->count--;
    }
}

/* Name of the mutation topic, as the settings own it. A collection nobody knows is in the first one. */
static const char *topic_of(const struct ap_raw_join *join, const rd_kafka_message_t *m)
{
    const char *topic = ap_registry_topic(join->registry, ap_key_collection(m->key));
    for (size_t i = 0; topic && i < join->settings->topic_count; i++)
        if (!strcmp(join->settings->topic_names[i], topic))
            return join->settings->topic_names[i];
    return join->settings->topic_names[0];
}

/* The mutation has been applied: store the vector if the row is still the one that it made. */
static int join_one(struct ap_raw_join *join, struct ap_part *part, const rd_kafka_message_t *m,
                    const struct ap_raw_vector *raw, struct ap_err *err)
{
    bool matched = false;
    int rc = ap_writer_raw(join->writer, m->key, &raw->version, raw->vector, raw->vector_len, &matched, err);
    if (!rc)
        ap_tally(join->tallies, part->source->origin_index, matched ? AP_TALLY_RAW_MATCHED : AP_TALLY_RAW_DROPPED);
    return rc;
}

int ap_raw_offer(struct ap_raw_join *join, struct ap_part *part, rd_kafka_message_t *m, int64_t now_ms,
                 enum ap_raw_verdict *verdict, struct ap_err *err)
{
    struct ap_raw_vector raw;
    int rc = ap_raw_vector_decode(ap_registry_schemas(join->registry), m->payload, m->len, &raw, &join->scratch, err);
    if (rc)
        return rc;
    if (m->key_len != sizeof(struct ap_key))
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a key of %zu bytes instead of %zu", m->key_len, sizeof(struct ap_key));
    const char *topic = topic_of(join, m);
    struct ap_raw_queue *q = &part->raw;
    switch (ap_positions_check(ap_writer_positions(join->writer), raw.stream, topic, part->number, raw.seq)) {
    case AP_SEEN_DUPLICATE:
        *verdict = AP_RAW_DONE;
        return join_one(join, part, m, &raw, err);
    case AP_SEEN_LATE: /* in a hole: passed by later ones, lost */
        *verdict = AP_RAW_DONE;
        ap_tally(join->tallies, part->source->origin_index, AP_TALLY_RAW_DROPPED);
        return 0;
    case AP_SEEN_NEW:
        break;
    }
    if (q->count >= (size_t)join->settings->raw_queue_records || (q->count && q->bytes + m->len > (size_t)join->settings->raw_queue_bytes)) {
        *verdict = AP_RAW_FULL;
        return 0;
    }
    *verdict = AP_RAW_KEPT;
    return queue_push(q, &(struct ap_raw_waiting){m, raw.stream, raw.seq, topic, m->offset, now_ms}, err);
}

/* ---- settling --------------------------------------------------------------------------------------------------- */

/* Streams whose first waiting record still has to wait. When there are more than the set holds, the rest is looked at one
 * by one, which is only slower. */
struct waiting_set {
    uint64_t stream[WAITING_STREAMS];
    size_t count;
};

static bool set_has(const struct waiting_set *set, uint64_t stream)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->stream[i] == stream)
            return true;
    return false;
}

static void set_add(struct waiting_set *set, uint64_t stream)
{
    if (set->count < WAITING_STREAMS)
        set->stream[set->count++] = stream;
}

static bool ran_out(const struct ap_raw_join *join, const struct ap_raw_queue *q, const struct ap_raw_waiting *w, int64_t now_ms)
{
    int64_t from = w->since_ms > q->patient_until_ms ? w->since_ms : q->patient_until_ms;
    return now_ms - from >= join->settings->raw_wait_ms;
}

static int settle_applied(struct ap_raw_join *join, struct ap_part *part, const struct ap_raw_waiting *w, struct ap_err *err)
{
    struct ap_raw_vector raw;
    int rc = ap_raw_vector_decode(ap_registry_schemas(join->registry), w->message->payload, w->message->len, &raw, &join->scratch, err);
    return rc ? ap_err_wrap(err, "a raw vector that was good before") : join_one(join, part, w->message, &raw, err);
}

/* What becomes of one that waits: 1 gone, 0 still waits, negative fatal. */
static int settle_one(struct ap_raw_join *join, struct ap_part *part, struct ap_raw_waiting *w, int64_t now_ms, struct ap_err *err)
{
    size_t origin = part->source->origin_index;
    enum ap_seen seen = ap_positions_check(ap_writer_positions(join->writer), w->stream, w->topic, part->number, w->seq);
    if (seen == AP_SEEN_DUPLICATE) {
        int rc = settle_applied(join, part, w, err);
        if (rc)
            return rc;
    } else if (seen == AP_SEEN_LATE) {
        ap_tally(join->tallies, origin, AP_TALLY_RAW_DROPPED);
    } else if (ran_out(join, &part->raw, w, now_ms)) {
        ap_tally(join->tallies, origin, AP_TALLY_RAW_DROPPED);
        ap_tally(join->tallies, origin, AP_TALLY_RAW_EXPIRED);
        ap_log_limited(&expired_limit, 10000, AP_LOG_WARN,
                       "a raw vector has waited %lld ms for its mutation, and is dropped: partition=%d offset=%lld stream=%016llx seq=%llu",
                       (long long)join->settings->raw_wait_ms, (int)part->number, (long long)w->offset,
                       (unsigned long long)w->stream, (unsigned long long)w->seq);
    } else {
        return 0;
    }
    queue_drop(&part->raw, w);
    part->touched = true;
    return 1;
}

int ap_raw_settle(struct ap_raw_join *join, struct ap_part *part, bool mutations_behind, int64_t now_ms, struct ap_err *err)
{
    struct ap_raw_queue *q = &part->raw;
    if (mutations_behind)
        q->patient_until_ms = now_ms;
    struct waiting_set waiting = {.count = 0};
    /* Dropping from the front moves the head, so entries are named by their place in the ring. */
    for (size_t at = q->head, end = q->head + q->count; at != end; at++) {
        struct ap_raw_waiting *w = &q->ring[at & (q->cap - 1)];
        if (!w->message || set_has(&waiting, w->stream))
            continue;
        int rc = settle_one(join, part, w, now_ms, err);
        if (rc < 0)
            return rc;
        if (!rc)
            set_add(&waiting, w->stream);
    }
    return 0;
}

bool ap_raw_overdue(const struct ap_raw_join *join, const struct ap_part *part, int64_t now_ms)
{
    const struct ap_raw_queue *q = &part->raw;
    return q->count && ran_out(join, q, entry(q, 0), now_ms);
}
