/* Rounds: every partition that is not done yet is read over the next range [from, to) below what was read before. A
 * partition is done when a member's record was found (the last one in the range counts), at its first offset, or when
 * all of a range is older than the lineage. Fails when Kafka does not answer within the deadline. */
#include "producer/tails.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "common/kafka_profile.h"
#include "common/log.h"
#include "common/timeutil.h"

#define FIRST_STEP 64
#define STEP_GROWTH 8

struct part {
    const char *topic;
    int32_t partition;
    int64_t low, from, to; /* the range of this round; below from nothing was read yet */
    int64_t newest_ms;     /* timestamp in this range */
    bool reading, done;
    struct ap_tail *tail;
};

struct reader {
    const struct ap_tails_query *q;
    rd_kafka_t *rk;
    struct part *parts;
    size_t count, reading;
    int64_t deadline_ms;
    uint64_t *newest_hlc;
    struct ap_buf scratch;
};

static int64_t left_ms(const struct reader *r)
{
    int64_t left = r->deadline_ms - ap_mono_ms();
    return left > 0 ? left : 0;
}

static int find_ends(struct reader *r, struct ap_err *err)
{
    for (size_t i = 0; i < r->count; i++) {
        struct part *p = &r->parts[i];
        rd_kafka_resp_err_t rc = rd_kafka_query_watermark_offsets(r->rk, p->topic, p->partition, &p->low, &p->from, (int)left_ms(r));
        if (rc)
            return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic %s, partition %d: %s", p->topic, (int)p->partition, rd_kafka_err2str(rc));
        p->done = p->from <= p->low;
    }
    return 0;
}

static int begin_round(struct reader *r, int64_t step, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)r->count);
    r->reading = 0;
    for (size_t i = 0; i < r->count; i++) {
        struct part *p = &r->parts[i];
        if (p->done)
            continue;
        p->to = p->from;
        p->from = p->to - step > p->low ? p->to - step : p->low;
        p->newest_ms = -1;
        p->reading = true;
        r->reading++;
        rd_kafka_topic_partition_list_add(list, p->topic, p->partition)->offset = p->from;
    }
    rd_kafka_resp_err_t rc = rd_kafka_assign(r->rk, r->reading ? list : NULL);
    rd_kafka_topic_partition_list_destroy(list);
    return rc ? ap_err_set(err, AP_EKAFKA, AP_RETRY, "reading the ends of the mutation topics: %s", rd_kafka_err2str(rc)) : 0;
}

static struct part *part_of(struct reader *r, const rd_kafka_message_t *m)
{
    const char *topic = m->rkt ? rd_kafka_topic_name(m->rkt) : "";
    for (size_t i = 0; i < r->count; i++)
        if (r->parts[i].partition == m->partition && strcmp(r->parts[i].topic, topic) == 0)
            return r->parts[i].reading ? &r->parts[i] : NULL;
    return NULL;
}

static void take(struct reader *r, struct part *p, const rd_kafka_message_t *m)
{
    struct ap_mutation mutation;
    int64_t at = rd_kafka_message_timestamp(m, NULL);
    if (at > p->newest_ms)
        p->newest_ms = at;
    if (ap_mutation_decode(r->q->schemas, m->payload, m->len, &mutation, &r->scratch, NULL) != 0)
        return; /* not ours, whatever it is: the consumer deals with it */
    if (mutation.version.hlc > *r->newest_hlc)
        *r->newest_hlc = mutation.version.hlc;
    if (mutation.clock > *r->newest_hlc)
        *r->newest_hlc = mutation.clock;
    if (r->q->is_ours && r->q->is_ours(r->q->arg, mutation.stream))
        *p->tail = (struct ap_tail){mutation.stream, mutation.seq};
}

static void end_range(struct reader *r, struct part *p)
{
    p->reading = false;
    r->reading--;
    p->done = !r->q->is_ours || p->tail->stream || p->from == p->low || (p->newest_ms >= 0 && p->newest_ms < r->q->not_before_ms);
}

static int read_round(struct reader *r, struct ap_err *err)
{
    while (r->reading) {
        int64_t left = left_ms(r);
        if (left == 0)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "the ends of the mutation topics could not be read in time");
        rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, left < 100 ? (int)left : 100);
        if (!m)
            continue;
        struct part *p = part_of(r, m);
        if (p && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            end_range(r, p);
        } else if (p && !m->err) {
            if (m->offset < p->to)
                take(r, p, m);
            if (m->offset + 1 >= p->to)
                end_range(r, p);
        }
        rd_kafka_message_destroy(m);
    }
    return 0;
}

static bool all_done(const struct reader *r)
{
    for (size_t i = 0; i < r->count; i++)
        if (!r->parts[i].done)
            return false;
    return true;
}

int ap_tails_read(const struct ap_tails_query *q, int timeout_ms, struct ap_tail *tails, uint64_t *newest_hlc, struct ap_err *err)
{
    struct reader r = {.q = q, .count = q->topic_count * (size_t)q->partitions, .deadline_ms = ap_mono_ms() + timeout_ms, .newest_hlc = newest_hlc};
    r.rk = ap_kafka_follower_client(q->extra, q->client_id, err);
    if (!r.rk)
        return err ? err->code : AP_EKAFKA;
    r.parts = calloc(r.count, sizeof *r.parts);
    if (!r.parts)
        abort();
    for (size_t i = 0; i < r.count; i++) {
        tails[i] = (struct ap_tail){0, 0};
        r.parts[i] = (struct part){.topic = q->topics[i / (size_t)q->partitions], .partition = (int32_t)(i % (size_t)q->partitions), .tail = &tails[i]};
    }
    int rc = find_ends(&r, err);
    for (int64_t step = FIRST_STEP; rc == 0 && !all_done(&r); step = step < (1 << 24) ? step * STEP_GROWTH : step) {
        rc = begin_round(&r, step, err);
        if (rc == 0)
            rc = read_round(&r, err);
    }
    rd_kafka_destroy_flags(r.rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    ap_buf_free(&r.scratch);
    free(r.parts);
    return rc;
}
