/* Stamping and publishing: one lane for each partition of each mutation topic.
 *
 * Invariant: under a lane's lock a record gets its clock and its number and is handed to librdkafka, so within (this
 * incarnation, topic, partition) clock and number rise together, numbers run from 1 without a hole, and the order in
 * Kafka is the order of the numbers. A record that librdkafka does not take gives its number back. When Kafka reports one
 * as failed, that promise is broken for what follows: nothing more is stamped, the process must start anew as another
 * incarnation. */
#ifndef ANTIPODE_PRODUCER_LANES_H
#define ANTIPODE_PRODUCER_LANES_H
#include "common/clock.h"
#include "common/event.h"
#include "common/kafka.h"
#include "common/metrics.h"
#include "common/watermark.h"
#include "producer/ack.h"

struct ap_lane;

struct ap_topic {
    char *name;
    rd_kafka_topic_t *rkt;
    struct ap_lane *lanes; /* one a partition */
    int32_t partitions;
};

/* A client of Kafka. A client sends the records of one partition in one request and has few requests under way, so raw vectors
 * have one of their own: single points would otherwise wait behind theirs, which nobody abroad and no search waits for. */
struct ap_lane_client {
    rd_kafka_t *rk;
    _Atomic size_t unreported; /* messages of any kind without a report */
    _Atomic int64_t oldest_ms; /* monotonic; when the wait for Kafka's next report began, 0 when nothing is in flight */
    size_t freed_records, freed_bytes; /* its polling thread: reported, to be released after the poll */
};

struct ap_lanes {
    struct ap_lane_client events, raws;
    rd_kafka_topic_t *raw;
    struct ap_topic *topics;
    size_t topic_count;
    struct ap_clock *clock;
    struct ap_region region;
    uint64_t incarnation;
    uint64_t lineage;           /* goes into tokens, so that they outlive the incarnation; set before the first publish */
    struct ap_inflight inflight;
    size_t max_record_bytes;
    _Atomic bool closed;        /* the region takes no writes: once set, no record of a point is stamped but those that are accepted already; heartbeats and barriers are */
    _Atomic bool broken;        /* a record failed: stamp no more */
    _Atomic int broken_why;     /* rd_kafka_resp_err_t */
    struct ap_metric *records[4], *bytes, *raw_records, *raw_bytes, *failures; /* records: by enum ap_op */
};

/* One change to publish. Everything is borrowed for the call. */
struct ap_record {
    struct ap_key key;
    enum ap_op op;
    bool has_codec;
    uint64_t codec;
    const uint8_t *vector; size_t vector_len;
    const char *payload; size_t payload_len;
    const float *raw; size_t raw_len; /* bytes; NULL: no raw vector */
    const struct ap_version *version; /* NULL: stamped when published, as every new change. Else one made before, published again */
    bool accepted;     /* answered before the region was closed to writes: published even so */
    uint64_t *stamped; /* NULL, or where the hlc goes that it is given when published */
};

/* events and raws are producers, their reports going to ap_lanes_report with this struct as opaque: so init comes in two steps.
 * names and clock are borrowed for the lanes' life. */
void ap_lanes_init(struct ap_lanes *l, struct ap_clock *clock, const struct ap_region *region, uint64_t incarnation,
                   size_t max_records, size_t max_bytes, size_t max_record_bytes, struct ap_metrics *metrics);
int ap_lanes_open(struct ap_lanes *l, rd_kafka_t *events, rd_kafka_t *raws, char *const *names, size_t count, int32_t partitions, struct ap_err *err);
void ap_lanes_close(struct ap_lanes *l); /* after the last report; leaves the clients alone */
void ap_lanes_report(rd_kafka_t *rk, const rd_kafka_message_t *m, void *lanes); /* dr_msg_cb */
/* The polling thread of a client, again and again: serves reports for up to timeout_ms. */
void ap_lanes_poll(struct ap_lanes *l, struct ap_lane_client *client, int timeout_ms);
size_t ap_lanes_unreported(const struct ap_lanes *l); /* messages of either client without a report. Any thread */
/* For how many ms records have waited for a report of Kafka's, if that is longer than after_ms; else 0. Any thread. */
int64_t ap_lanes_away_ms(const struct ap_lanes *l, int64_t after_ms);

/* Hand one record to Kafka as it is; delivery is told later. For records that have no position: control. Any thread. */
int ap_lanes_send(struct ap_lanes *l, rd_kafka_topic_t *rkt, int32_t partition, const void *key, size_t key_len,
                  void *value, size_t len, struct ap_delivery *delivery, struct ap_err *err);

struct ap_topic *ap_lanes_topic(struct ap_lanes *l, const char *name); /* NULL: not configured */

/* Bytes that r takes in the queue at most, key included. */
size_t ap_record_bytes(const struct ap_record *r);
/* Could they ever be published? AP_ETOOBIG: one is over max_record_bytes, or together they are more than the queue holds. */
int ap_lanes_check(const struct ap_lanes *l, const struct ap_record *records, size_t n, struct ap_err *err);
/* Publish n records, in the order given within a partition, into ack (not sealed here). room_until_ns: as
 * ap_inflight_reserve. On success adds one entry for each partition touched to token, which names region and stream, and
 * raises its hlc. On failure some may be published: *published says how many (0: nothing was). Any thread. */
int ap_lanes_publish(struct ap_lanes *l, struct ap_topic *topic, const struct ap_record *records, size_t n,
                     int64_t room_until_ns, struct ap_ack *ack, struct ap_token *token, size_t *published, struct ap_err *err);

/* --- records without a point --- */
/* A heartbeat on partition p of topic, unless the last one is still unacknowledged. Returns whether one went out. */
bool ap_lane_heartbeat(struct ap_lanes *l, struct ap_topic *topic, int32_t partition);
/* The first record of this incarnation in a partition; asserts that it is. */
int ap_lane_hello(struct ap_lanes *l, struct ap_topic *topic, int32_t partition, const struct ap_hello *hello, struct ap_ack *ack, struct ap_err *err);
/* A record that stands behind all that Kafka has acknowledged in this partition so far; as ap_lanes_publish, adds its entry
 * to token. payload: at most 160 bytes. Any thread. */
int ap_lane_barrier(struct ap_lanes *l, struct ap_topic *topic, int32_t partition, const char *payload, size_t len, struct ap_ack *ack,
                    struct ap_token *token, struct ap_err *err);
/* Monotonic ms of the lane's last record of any kind, and of the last that was no heartbeat. */
void ap_lane_times(const struct ap_topic *topic, int32_t partition, int64_t *last_ms, int64_t *last_data_ms);
/* Next number of the lane: for tests and metrics. */
uint64_t ap_lane_next_seq(const struct ap_topic *topic, int32_t partition);

#endif
