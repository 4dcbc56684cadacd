/* What the daemons share of librdkafka: configuration, logging, names of topics.
 *
 * rd_kafka logs go to ap_log; statistics are off. Properties given by the user (kafka.*) come last and win, except those
 * that Antipode's guarantees rest on (acks, enable.idempotence, enable.auto.commit, message.timeout.ms ...), which are
 * refused at start with a message that says why. */
#ifndef ANTIPODE_COMMON_KAFKA_H
#define ANTIPODE_COMMON_KAFKA_H
#include <librdkafka/rdkafka.h>
#include "common/config.h"
#include "common/err.h"
#include "common/ident.h"

#define AP_TOPIC_MUTATIONS "vec-mutations"
#define AP_TOPIC_CONTROL "vec-control"
#define AP_TOPIC_WATERMARKS "vec-watermarks"
#define AP_TOPIC_RAW "raw-vectors"
#define AP_TOPIC_DEAD "dlq-mutations"

/* The producer profile: idempotent, acks=all, zstd level 1, message.timeout.ms=0, linger 1 ms. Delivery reports through
 * dr_msg_cb. Small clients (watermarks, dead letters) use it too. NULL on error. */
rd_kafka_t *ap_kafka_producer(const struct ap_config_extra *extra, const char *client_id,
                              void (*dr_msg_cb)(rd_kafka_t *, const rd_kafka_message_t *, void *), void *opaque, struct ap_err *err);
/* The same with one request under way at a time: the busier the broker, the more records share one. */
rd_kafka_t *ap_kafka_producer_serial(const struct ap_config_extra *extra, const char *client_id,
                                     void (*dr_msg_cb)(rd_kafka_t *, const rd_kafka_message_t *, void *), void *opaque, struct ap_err *err);
/* The consumer profile: manual assignment, no auto commit, auto.offset.reset=error, fetch.wait small, queues bounded,
 * fetch.queue.backoff.ms low, 2 ms between fetches (scripts/deps.sh), an event (RD_KAFKA_RESP_ERR__PARTITION_EOF) at each
 * partition's end. group NULL: a private one that is never committed. */
rd_kafka_t *ap_kafka_consumer(const struct ap_config_extra *extra, const char *client_id, const char *group, struct ap_err *err);

/* Split "eu.vec-mutations" into origin "eu" and topic "vec-mutations"; a name without a dot has the own region as origin. */
int ap_topic_split(const char *name, const struct ap_region *own, struct ap_region *origin, const char **topic);
/* Partition count; AP_ENOTFOUND when the topic does not exist (yet), AP_ENOTREADY when the cluster does not answer. */
int ap_kafka_partitions(rd_kafka_t *rk, const char *topic, int timeout_ms, int32_t *count, struct ap_err *err);
/* Topic id (KIP-516) as 16 bytes, and the cluster id as text, for keys of stored offsets. */
int ap_kafka_topic_id(rd_kafka_t *rk, const char *topic, int timeout_ms, uint8_t id[16], struct ap_err *err);
int ap_kafka_cluster_id(rd_kafka_t *rk, int timeout_ms, char *out, size_t cap, struct ap_err *err);

/* For how long the longest-lived of these topics may still give out a record: retention.ms and segment.ms together, since a
 * log goes in segments; -1: for ever. AP_ENOTFOUND: one of them does not exist. */
int ap_kafka_retention(rd_kafka_t *rk, const char *const *topics, size_t count, int timeout_ms, int64_t *longest_ms, struct ap_err *err);

/* Reads a whole compacted topic (all partitions) from its start to its end at the time of the call, then goes on when
 * polled: the way producers follow vec-control and vec-watermarks. on_record is called in the polling thread. */
struct ap_follower;
typedef void (*ap_follower_fn)(void *arg, const char *topic, const rd_kafka_message_t *message);
int ap_follower_new(struct ap_follower **out, const struct ap_config_extra *extra, const char *client_id,
                    const char *const *topics, size_t topic_count, ap_follower_fn on_record, void *arg, struct ap_err *err);
/* Blocks until every topic that exists has been read to its end of the time of the call. AP_ETIMEOUT. Topics that do not
 * exist yet are looked for again, every second, by ap_follower_poll. */
int ap_follower_catch_up(struct ap_follower *f, int timeout_ms, struct ap_err *err);
int ap_follower_poll(struct ap_follower *f, int timeout_ms, struct ap_err *err);
void ap_follower_free(struct ap_follower **f);

#endif
