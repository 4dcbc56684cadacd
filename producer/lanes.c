/* Flow of a request's records: room is taken for all of them, they are sorted by partition (stable, so a request's own
 * order holds within one), then lane by lane: lock, a run of clock values, encode and hand over each, unlock.
 * Fails when the queue is full (before anything is published) or librdkafka refuses a record (fatal errors). */
#include "producer/lanes.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/timeutil.h"

struct ap_lane {
    struct ap_delivery heartbeat; /* first: opaque of this lane's heartbeats */
    pthread_mutex_t lock;
    uint64_t next_seq;
    _Atomic bool heartbeat_out;
    _Atomic int64_t last_ms, last_data_ms;
} __attribute__((aligned(128))); /* no false sharing between neighbours */

static void heartbeat_report(struct ap_delivery *d, const rd_kafka_message_t *m)
{
    struct ap_lane *lane = (struct ap_lane *)(void *)d;
    (void)m;
    atomic_store(&lane->heartbeat_out, false);
}

/* --- start and end --- */

static void register_metrics(struct ap_lanes *l, struct ap_metrics *m)
{
    static const char *const ops[] = {"op=\"upsert\"", "op=\"patch\"", "op=\"delete\"", "op=\"heartbeat\""};
    for (size_t i = 0; i < 4; i++)
        l->records[i] = ap_counter(m, "antipode_producer_records_total", ops[i], "Events published, by operation.");
    l->bytes = ap_counter(m, "antipode_producer_published_bytes_total", "topic=\"mutations\"", "Bytes published, before compression, keys included.");
    l->raw_bytes = ap_counter(m, "antipode_producer_published_bytes_total", "topic=\"raw\"", "Bytes published, before compression, keys included.");
    l->raw_records = ap_counter(m, "antipode_producer_raw_records_total", NULL, "Full-precision vectors published for the home region.");
    l->failures = ap_counter(m, "antipode_producer_delivery_failures_total", NULL, "Records that Kafka did not take; the first one ends the process.");
}

void ap_lanes_init(struct ap_lanes *l, struct ap_clock *clock, const struct ap_region *region, uint64_t incarnation,
                   size_t max_records, size_t max_bytes, size_t max_record_bytes, struct ap_metrics *metrics)
{
    *l = (struct ap_lanes){.clock = clock, .region = *region, .incarnation = incarnation, .max_record_bytes = max_record_bytes};
    ap_inflight_init(&l->inflight, max_records, max_bytes);
    register_metrics(l, metrics);
}

static int open_topic(struct ap_lanes *l, struct ap_topic *t, const char *name, int32_t partitions, struct ap_err *err)
{
    t->name = strdup(name);
    t->partitions = partitions;
    t->lanes = aligned_alloc(_Alignof(struct ap_lane), (size_t)partitions * sizeof *t->lanes);
    if (!t->name || !t->lanes)
        abort();
    memset(t->lanes, 0, (size_t)partitions * sizeof *t->lanes);
    int64_t now = ap_mono_ms();
    for (int32_t p = 0; p < partitions; p++) {
        struct ap_lane *lane = &t->lanes[p];
        lane->heartbeat.report = heartbeat_report;
        lane->next_seq = 1;
        atomic_init(&lane->last_ms, now);
        atomic_init(&lane->last_data_ms, now);
        pthread_mutex_init(&lane->lock, NULL);
    }
    t->rkt = rd_kafka_topic_new(l->events.rk, name, NULL);
    if (!t->rkt)
        return ap_err_set(err, AP_EKAFKA, AP_FATAL, "topic %s: %s", name, rd_kafka_err2str(rd_kafka_last_error()));
    return 0;
}

/* Float32 does not compress: trying costs more time than it saves bytes. */
static int open_raw(struct ap_lanes *l, struct ap_err *err)
{
    char why[200];
    rd_kafka_topic_conf_t *conf = rd_kafka_topic_conf_new();
    if (rd_kafka_topic_conf_set(conf, "compression.codec", "none", why, sizeof why) == RD_KAFKA_CONF_OK)
        l->raw = rd_kafka_topic_new(l->raws.rk, AP_TOPIC_RAW, conf);
    if (l->raw)
        return 0;
    rd_kafka_topic_conf_destroy(conf);
    return ap_err_set(err, AP_EKAFKA, AP_FATAL, "topic %s: %s", AP_TOPIC_RAW, rd_kafka_err2str(rd_kafka_last_error()));
}

int ap_lanes_open(struct ap_lanes *l, rd_kafka_t *events, rd_kafka_t *raws, char *const *names, size_t count, int32_t partitions, struct ap_err *err)
{
    l->events.rk = events;
    l->raws.rk = raws;
    l->topics = calloc(count, sizeof *l->topics);
    if (!l->topics)
        abort();
    int rc = open_raw(l, err);
    for (size_t i = 0; rc == 0 && i < count; i++, l->topic_count++)
        rc = open_topic(l, &l->topics[i], names[i], partitions, err);
    return rc;
}

void ap_lanes_close(struct ap_lanes *l)
{
    for (size_t i = 0; i < l->topic_count; i++) {
        struct ap_topic *t = &l->topics[i];
        for (int32_t p = 0; p < t->partitions; p++)
            pthread_mutex_destroy(&t->lanes[p].lock);
        if (t->rkt)
            rd_kafka_topic_destroy(t->rkt);
        free(t->lanes);
        free(t->name);
    }
    free(l->topics);
    if (l->raw)
        rd_kafka_topic_destroy(l->raw);
    ap_inflight_fini(&l->inflight);
    l->topics = NULL;
    l->topic_count = 0;
    l->raw = NULL;
}

struct ap_topic *ap_lanes_topic(struct ap_lanes *l, const char *name)
{
    for (size_t i = 0; i < l->topic_count; i++)
        if (strcmp(l->topics[i].name, name) == 0)
            return &l->topics[i];
    return NULL;
}

/* --- reports --- */

static bool at_shutdown(rd_kafka_resp_err_t e)
{
    return e == RD_KAFKA_RESP_ERR__DESTROY || e == RD_KAFKA_RESP_ERR__PURGE_QUEUE || e == RD_KAFKA_RESP_ERR__PURGE_INFLIGHT;
}

void ap_lanes_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *lanes)
{
    struct ap_lanes *l = lanes;
    struct ap_lane_client *client = rk == l->raws.rk ? &l->raws : &l->events;
    struct ap_delivery *d = m->_private;
    if (m->err && !at_shutdown(m->err)) {
        ap_count(l->failures, 1);
        if (!atomic_exchange(&l->broken, true))
            atomic_store(&l->broken_why, (int)m->err);
    }
    if (d->counted) {
        client->freed_records++;
        client->freed_bytes += m->len + m->key_len;
    }
    d->report(d, m); /* may free d. Before the count: who sees none unreported may count on what the reports did */
    bool last = atomic_fetch_sub(&client->unreported, 1) == 1;
    atomic_store(&client->oldest_ms, last ? 0 : ap_mono_ms());
}

void ap_lanes_poll(struct ap_lanes *l, struct ap_lane_client *client, int timeout_ms)
{
    rd_kafka_poll(client->rk, timeout_ms);
    if (client->freed_records)
        ap_inflight_release(&l->inflight, client->freed_records, client->freed_bytes);
    client->freed_records = client->freed_bytes = 0;
    char text[200];
    rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(client->rk, text, sizeof text);
    if (fatal && !atomic_exchange(&l->broken, true)) {
        atomic_store(&l->broken_why, (int)fatal);
        ap_error("Kafka client: fatal: %s", text);
    }
}

size_t ap_lanes_unreported(const struct ap_lanes *l)
{
    return atomic_load(&l->events.unreported) + atomic_load(&l->raws.unreported);
}

int64_t ap_lanes_away_ms(const struct ap_lanes *l, int64_t after_ms)
{
    int64_t events = atomic_load(&l->events.oldest_ms), raws = atomic_load(&l->raws.oldest_ms), now = ap_mono_ms();
    int64_t since = !events || (raws && raws < events) ? raws : events;
    return since && now - since > after_ms ? now - since : 0;
}

/* --- stamping --- */

static int refuse_broken(struct ap_lanes *l, struct ap_err *err)
{
    return ap_err_set(err, AP_ENOTREADY, AP_FATAL, "the Kafka client has failed (%s): this producer restarts as a new incarnation; send the request again",
                      rd_kafka_err2str((rd_kafka_resp_err_t)atomic_load(&l->broken_why)));
}

int ap_lanes_send(struct ap_lanes *l, rd_kafka_topic_t *rkt, int32_t partition, const void *key, size_t key_len,
                  void *value, size_t len, struct ap_delivery *delivery, struct ap_err *err)
{
    struct ap_lane_client *client = rkt == l->raw ? &l->raws : &l->events;
    if (atomic_fetch_add(&client->unreported, 1) == 0)
        atomic_store(&client->oldest_ms, ap_mono_ms());
    if (rd_kafka_produce(rkt, partition, RD_KAFKA_MSG_F_COPY, value, len, key, key_len, delivery) == 0)
        return 0;
    rd_kafka_resp_err_t e = rd_kafka_last_error();
    if (atomic_fetch_sub(&client->unreported, 1) == 1)
        atomic_store(&client->oldest_ms, 0);
    if (e == RD_KAFKA_RESP_ERR__FATAL && !atomic_exchange(&l->broken, true))
        atomic_store(&l->broken_why, (int)e);
    return ap_err_set(err, e == RD_KAFKA_RESP_ERR__QUEUE_FULL ? AP_EBUSY : AP_EKAFKA, AP_RETRY, "the Kafka client does not take records (%s)", rd_kafka_err2str(e));
}

struct stamp {
    struct ap_lanes *l;
    struct ap_topic *topic;
    struct ap_ack *ack;
    uint8_t *scratch;
    size_t records, bytes; /* handed over, raw ones included */
    size_t raws, raw_bytes, by_op[4];
};

/* One record, and its raw vector behind it. Under the lane's lock; raises next_seq when the mutation was taken. */
static int publish_one(struct stamp *s, struct ap_lane *lane, int32_t partition, const struct ap_record *r, uint64_t hlc, struct ap_err *err)
{
    struct ap_lanes *l = s->l;
    struct ap_mutation m = {
        .op = r->op, .version = {.hlc = hlc, .region = l->region, .writer = l->incarnation}, .stream = l->incarnation,
        .seq = lane->next_seq, .clock = hlc, .has_codec = r->has_codec, .codec = r->codec,
        .vector = r->vector, .vector_len = r->vector_len, .payload = r->payload, .payload_len = r->payload_len,
    };
    if (r->version)
        m.version = *r->version;
    else if (r->stamped)
        *r->stamped = hlc; /* before it is sent: whatever becomes of it, it is sent with this one or never */
    size_t len = ap_mutation_encode_to(&m, s->scratch);
    int rc = ap_lanes_send(l, s->topic->rkt, partition, r->key.b, sizeof r->key.b, s->scratch, len, &s->ack->delivery, err);
    if (rc)
        return rc;
    lane->next_seq++;
    s->records++;
    s->bytes += len + sizeof r->key.b;
    s->by_op[r->op]++;
    if (!r->raw)
        return 0;
    struct ap_raw_vector raw = {.version = m.version, .stream = m.stream, .seq = m.seq, .vector = (const uint8_t *)r->raw, .vector_len = r->raw_len};
    len = ap_raw_vector_encode_to(&raw, s->scratch);
    rc = ap_lanes_send(l, l->raw, partition, r->key.b, sizeof r->key.b, s->scratch, len, &s->ack->delivery, err);
    if (rc)
        return rc;
    s->records++;
    s->bytes += len + sizeof r->key.b;
    s->raws++;
    s->raw_bytes += len + sizeof r->key.b;
    return 0;
}

static void token_begin(const struct ap_lanes *l, struct ap_token *token)
{
    token->region = l->region;
    token->stream = l->incarnation;
    token->lineage = l->lineage;
}

static void token_add(struct ap_token *token, const struct ap_topic *topic, int32_t partition, uint64_t seq, uint64_t hlc)
{
    if (hlc > token->hlc)
        token->hlc = hlc;
    for (size_t i = 0; i < token->count; i++)
        if (token->entries[i].partition == partition && strcmp(token->entries[i].topic, topic->name) == 0) {
            token->entries[i].seq = seq;
            return;
        }
    token->entries = realloc(token->entries, (token->count + 1) * sizeof *token->entries);
    if (!token->entries)
        abort();
    struct ap_token_entry *e = &token->entries[token->count++];
    *e = (struct ap_token_entry){.partition = partition, .seq = seq};
    strncpy(e->topic, topic->name, sizeof e->topic - 1);
}

/* The records of one partition: indices[0..n). */
static int publish_lane(struct stamp *s, int32_t partition, const struct ap_record *records, const uint32_t *indices, size_t n,
                        struct ap_token *token, struct ap_err *err)
{
    struct ap_lane *lane = &s->topic->lanes[partition];
    int rc = 0;
    uint64_t hlc = 0;
    size_t done = 0;
    pthread_mutex_lock(&lane->lock);
    if (atomic_load(&s->l->closed) && !records[indices[0]].accepted) /* under the lock: a barrier that comes after stands behind all that was stamped */
        rc = ap_err_set(err, AP_ECONFLICT, AP_RETRY, "region %s takes no writes any more since this one began: write in another region", s->l->region.name);
    while (rc == 0 && done < n) {
        uint32_t run = n - done < 65536 ? (uint32_t)(n - done) : 65536;
        uint64_t first = ap_clock_next_n(s->l->clock, run);
        for (uint32_t i = 0; rc == 0 && i < run; i++) {
            uint64_t seq = lane->next_seq;
            rc = publish_one(s, lane, partition, &records[indices[done]], first + i, err);
            if (lane->next_seq != seq) { /* even when only its raw vector failed */
                hlc = first + i;
                done++;
            }
        }
    }
    uint64_t last = lane->next_seq - 1;
    pthread_mutex_unlock(&lane->lock);
    int64_t now = ap_mono_ms();
    atomic_store_explicit(&lane->last_ms, now, memory_order_relaxed);
    atomic_store_explicit(&lane->last_data_ms, now, memory_order_relaxed);
    if (done)
        token_add(token, s->topic, partition, last, hlc);
    return rc;
}

/* Stable counting sort by partition. starts has partitions + 1 entries. */
static void sort_by_partition(const struct ap_record *records, size_t n, int32_t partitions, uint32_t *indices, uint32_t *starts, int32_t *where)
{
    memset(starts, 0, ((size_t)partitions + 1) * sizeof *starts);
    for (size_t i = 0; i < n; i++) {
        where[i] = ap_key_partition(&records[i].key, partitions);
        starts[where[i] + 1]++;
    }
    for (int32_t p = 0; p < partitions; p++)
        starts[p + 1] += starts[p];
    for (size_t i = 0; i < n; i++)
        indices[starts[where[i]]++] = (uint32_t)i;
    /* Every start has moved to the next one's place. */
    memmove(starts + 1, starts, (size_t)partitions * sizeof *starts);
    starts[0] = 0;
}

size_t ap_record_bytes(const struct ap_record *r)
{
    size_t bytes = sizeof r->key.b + AP_EVENT_OVERHEAD + r->vector_len + r->payload_len;
    return bytes + (r->raw ? sizeof r->key.b + AP_EVENT_OVERHEAD + r->raw_len : 0);
}

static int check_sizes(const struct ap_lanes *l, const struct ap_record *records, size_t n, size_t *count, size_t *bytes, size_t *largest, struct ap_err *err)
{
    *count = *bytes = *largest = 0;
    for (size_t i = 0; i < n; i++) {
        const struct ap_record *r = &records[i];
        size_t len = AP_EVENT_OVERHEAD + r->vector_len + r->payload_len, raw = r->raw ? AP_EVENT_OVERHEAD + r->raw_len : 0;
        size_t larger = len > raw ? len : raw;
        if (larger > l->max_record_bytes)
            return ap_err_set(err, AP_ETOOBIG, AP_POISON, "point %zu: its event would have %zu bytes, the limit is %zu (max_record_bytes)", i, larger, l->max_record_bytes);
        if (larger > *largest)
            *largest = larger;
        *count += r->raw ? 2 : 1;
        *bytes += ap_record_bytes(r);
    }
    return 0;
}

int ap_lanes_check(const struct ap_lanes *l, const struct ap_record *records, size_t n, struct ap_err *err)
{
    size_t count, bytes, largest;
    int rc = check_sizes(l, records, n, &count, &bytes, &largest, err);
    return rc ? rc : ap_inflight_check(&l->inflight, count, bytes, err);
}

static void count_published(const struct stamp *s)
{
    for (size_t op = 0; op < 4; op++)
        if (s->by_op[op])
            ap_count(s->l->records[op], s->by_op[op]);
    ap_count(s->l->bytes, s->bytes - s->raw_bytes);
    if (s->raws) {
        ap_count(s->l->raw_records, s->raws);
        ap_count(s->l->raw_bytes, s->raw_bytes);
    }
}

int ap_lanes_publish(struct ap_lanes *l, struct ap_topic *topic, const struct ap_record *records, size_t n,
                     int64_t room_until_ns, struct ap_ack *ack, struct ap_token *token, size_t *published, struct ap_err *err)
{
    size_t count, bytes, largest;
    *published = 0;
    int rc = check_sizes(l, records, n, &count, &bytes, &largest, err);
    if (rc || n == 0)
        return rc;
    if (atomic_load(&l->broken))
        return refuse_broken(l, err);
    if ((rc = ap_inflight_reserve(&l->inflight, count, bytes, room_until_ns, err)) != 0)
        return rc;

    size_t partitions = (size_t)topic->partitions;
    size_t table = (n + partitions + 1) * sizeof(uint32_t) + n * sizeof(int32_t);
    struct stamp s = {.l = l, .topic = topic, .ack = ack};
    uint32_t *indices = malloc(table + largest);
    if (!indices)
        abort();
    uint32_t *starts = indices + n;
    s.scratch = (uint8_t *)indices + table;
    sort_by_partition(records, n, topic->partitions, indices, starts, (int32_t *)(void *)(starts + partitions + 1));
    token_begin(l, token);
    ap_ack_add(ack, count);
    for (int32_t p = 0; rc == 0 && p < topic->partitions; p++)
        if (starts[p + 1] > starts[p])
            rc = publish_lane(&s, p, records, indices + starts[p], starts[p + 1] - starts[p], token, err);
    ap_ack_undo(ack, count - s.records);
    ap_inflight_release(&l->inflight, count - s.records, bytes - s.bytes);
    free(indices);
    count_published(&s);
    *published = s.by_op[AP_OP_UPSERT] + s.by_op[AP_OP_PATCH] + s.by_op[AP_OP_DELETE];
    return rc;
}

/* --- records without a point --- */

static int publish_heartbeat(struct ap_lanes *l, struct ap_topic *topic, int32_t partition, const char *payload, size_t payload_len,
                             struct ap_delivery *delivery, struct ap_err *err)
{
    struct ap_lane *lane = &topic->lanes[partition];
    uint8_t value[AP_EVENT_OVERHEAD + 160];
    assert(payload_len <= 160);
    uint64_t hlc = ap_clock_next(l->clock);
    struct ap_mutation m = {
        .op = AP_OP_HEARTBEAT, .version = {.hlc = hlc, .region = l->region, .writer = l->incarnation},
        .stream = l->incarnation, .seq = lane->next_seq, .clock = hlc, .payload = payload, .payload_len = payload_len,
    };
    size_t len = ap_mutation_encode_to(&m, value);
    int rc = ap_lanes_send(l, topic->rkt, partition, NULL, 0, value, len, delivery, err);
    if (rc)
        return rc;
    lane->next_seq++;
    ap_count(l->records[AP_OP_HEARTBEAT], 1);
    ap_count(l->bytes, len);
    return 0;
}

bool ap_lane_heartbeat(struct ap_lanes *l, struct ap_topic *topic, int32_t partition)
{
    struct ap_lane *lane = &topic->lanes[partition];
    if (atomic_load(&l->broken) || atomic_exchange(&lane->heartbeat_out, true))
        return false;
    pthread_mutex_lock(&lane->lock);
    int rc = publish_heartbeat(l, topic, partition, NULL, 0, &lane->heartbeat, NULL);
    pthread_mutex_unlock(&lane->lock);
    if (rc)
        atomic_store(&lane->heartbeat_out, false);
    else
        atomic_store_explicit(&lane->last_ms, ap_mono_ms(), memory_order_relaxed);
    return rc == 0;
}

int ap_lane_hello(struct ap_lanes *l, struct ap_topic *topic, int32_t partition, const struct ap_hello *hello, struct ap_ack *ack, struct ap_err *err)
{
    struct ap_lane *lane = &topic->lanes[partition];
    char payload[160];
    int len = ap_hello_format(hello, payload, sizeof payload);
    assert(len > 0 && (size_t)len < sizeof payload);
    ap_ack_add(ack, 1);
    pthread_mutex_lock(&lane->lock);
    assert(lane->next_seq == 1);
    int rc = publish_heartbeat(l, topic, partition, payload, (size_t)len, &ack->delivery, err);
    pthread_mutex_unlock(&lane->lock);
    if (rc)
        ap_ack_undo(ack, 1);
    return rc;
}

int ap_lane_barrier(struct ap_lanes *l, struct ap_topic *topic, int32_t partition, const char *payload, size_t len, struct ap_ack *ack,
                    struct ap_token *token, struct ap_err *err)
{
    struct ap_lane *lane = &topic->lanes[partition];
    if (atomic_load(&l->broken))
        return refuse_broken(l, err);
    token_begin(l, token);
    ap_ack_add(ack, 1);
    pthread_mutex_lock(&lane->lock);
    uint64_t seq = lane->next_seq;
    int rc = publish_heartbeat(l, topic, partition, payload, len, &ack->delivery, err);
    pthread_mutex_unlock(&lane->lock);
    if (rc) {
        ap_ack_undo(ack, 1);
        return rc;
    }
    atomic_store_explicit(&lane->last_ms, ap_mono_ms(), memory_order_relaxed);
    token_add(token, topic, partition, seq, 0);
    return 0;
}

void ap_lane_times(const struct ap_topic *topic, int32_t partition, int64_t *last_ms, int64_t *last_data_ms)
{
    *last_ms = atomic_load_explicit(&topic->lanes[partition].last_ms, memory_order_relaxed);
    *last_data_ms = atomic_load_explicit(&topic->lanes[partition].last_data_ms, memory_order_relaxed);
}

uint64_t ap_lane_next_seq(const struct ap_topic *topic, int32_t partition)
{
    struct ap_lane *lane = &topic->lanes[partition];
    pthread_mutex_lock(&lane->lock);
    uint64_t seq = lane->next_seq;
    pthread_mutex_unlock(&lane->lock);
    return seq;
}
