/* librdkafka's profiles: three tables of properties, applied in order (all clients, then producer or consumer), then the
 * user's, of which those in a fourth table are refused. Lookups of topics and clusters block up to their timeout. */
#include "common/kafka.h"
#include <assert.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include "common/bytes.h"
#include "common/kafka_profile.h"
#include "common/log.h"

struct property { const char *key, *value; };

static const struct property all_clients[] = {
    { "statistics.interval.ms", "0" },
    { "allow.auto.create.topics", "false" }, /* nor by producers: a topic made by asking has the wrong partitions */
    { "socket.nagle.disable", "true" },
    { "socket.keepalive.enable", "true" },
    { "reconnect.backoff.ms", "50" },
    { "reconnect.backoff.max.ms", "1000" },
    { "topic.metadata.refresh.interval.ms", "10000" }, /* 5 minutes by default: mirrored topics appear while we run */
};

static const struct property producer[] = {
    { "acks", "all" },
    { "enable.idempotence", "true" },
    { "message.timeout.ms", "0" },
    { "linger.ms", "1" },
    { "compression.codec", "zstd" },
    { "compression.level", "1" },
    { "batch.size", "1000000" },
    { "batch.num.messages", "100000" },
    /* What is under way is bounded by the daemons, by bytes and per request; the client's own limits would only turn up
     * as another kind of full. */
    { "queue.buffering.max.messages", "10000000" },
    { "queue.buffering.max.kbytes", "2097151" },
    { "retry.backoff.ms", "50" },
};

static const struct property consumer[] = {
    { "enable.auto.commit", "false" },
    { "enable.auto.offset.store", "false" },
    { "auto.offset.reset", "error" },
    { "check.crcs", "true" },
    { "fetch.min.bytes", "1" },
    { "fetch.wait.max.ms", "100" },
    { "fetch.queue.backoff.ms", "5" }, /* a second by default, whenever the queues were full */
    { "fetch.error.backoff.ms", "50" },
    { "queued.max.messages.kbytes", "65536" },
    { "enable.partition.eof", "true" }, /* an idle partition must be told from a silent one */
};

static const struct property follower[] = {
    { "auto.offset.reset", "earliest" }, /* compacted topics: whatever is left is what counts */
    { "queued.max.messages.kbytes", "8192" },
};

/* What Antipode's guarantees rest on: the keys, aliases among them, and why they are not the user's. */
static const struct property fixed[] = {
    { "acks", "an acknowledged write is in all in-sync replicas" },
    { "request.required.acks", "an acknowledged write is in all in-sync replicas" },
    { "enable.idempotence", "numbers within a stream arrive in order and once" },
    { "max.in.flight", "numbers within a stream arrive in order" },
    { "max.in.flight.requests.per.connection", "numbers within a stream arrive in order" },
    { "message.timeout.ms", "a record that expires in the queue would be a hole in its stream" },
    { "delivery.timeout.ms", "a record that expires in the queue would be a hole in its stream" },
    { "retries", "a record that is given up would be a hole in its stream" },
    { "message.send.max.retries", "a record that is given up would be a hole in its stream" },
    { "queuing.strategy", "numbers within a stream arrive in order" },
    { "transactional.id", "nothing here rests on Kafka transactions" },
    { "enable.auto.commit", "offsets are committed after the store" },
    { "enable.auto.offset.store", "offsets are committed after the store" },
    { "auto.offset.reset", "a consumer that has lost its place must say so" },
    { "enable.partition.eof", "catching up is noticed by it" },
    { "check.crcs", "damaged records must not be applied" },
    { "group.id", "it is made from the region and the worker" },
    { "group.instance.id", "partitions are assigned statically" },
    { "partition.assignment.strategy", "partitions are assigned statically" },
};

/* ---- configuration ---- */

static void log_line(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    enum ap_log_level to = level <= 3 ? AP_LOG_ERROR : level == 4 ? AP_LOG_WARN : level <= 6 ? AP_LOG_INFO : AP_LOG_DEBUG;
    ap_log(to, "kafka: %s facility=%s client=%s", text, facility, rk ? rd_kafka_name(rk) : "");
}

static int set(rd_kafka_conf_t *conf, const char *key, const char *value, struct ap_err *err)
{
    char why[256] = "";
    if (rd_kafka_conf_set(conf, key, value, why, sizeof why) != RD_KAFKA_CONF_OK)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "kafka.%s: %s", key, why);
    return 0;
}

static int set_all(rd_kafka_conf_t *conf, const struct property *table, size_t count, struct ap_err *err)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = set(conf, table[i].key, table[i].value, err);
    return rc;
}
#define SET_ALL(conf, table, err) set_all(conf, table, sizeof table / sizeof *table, err)

static int set_extra(rd_kafka_conf_t *conf, const struct ap_config_extra *extra, struct ap_err *err)
{
    bool servers = false;
    for (size_t i = 0; extra && i < extra->kafka_count; i++) {
        const char *key = extra->kafka[i].key;
        for (size_t j = 0; j < sizeof fixed / sizeof *fixed; j++)
            if (strcmp(key, fixed[j].key) == 0)
                return ap_err_set(err, AP_EINVAL, AP_FATAL, "kafka.%s cannot be set: %s", key, fixed[j].value);
        int rc = set(conf, key, extra->kafka[i].value, err);
        if (rc)
            return rc;
        servers = servers || strcmp(key, "bootstrap.servers") == 0 || strcmp(key, "metadata.broker.list") == 0 ||
                  strcmp(key, "test.mock.num.brokers") == 0;
    }
    return servers ? 0 : ap_err_set(err, AP_EINVAL, AP_FATAL, "kafka.bootstrap.servers is not set");
}

/* The part that all share; *conf is destroyed on errors. */
static int common_conf(rd_kafka_conf_t *conf, const char *client_id, struct ap_err *err)
{
    rd_kafka_conf_set_log_cb(conf, log_line);
    int rc = SET_ALL(conf, all_clients, err);
    return rc ? rc : set(conf, "client.id", client_id, err);
}

static rd_kafka_t *create(rd_kafka_type_t type, rd_kafka_conf_t *conf, struct ap_err *err)
{
    char why[256] = "";
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why); /* takes conf on success */
    if (!rk) {
        ap_err_set(err, AP_EKAFKA, AP_FATAL, "Kafka client: %s", why);
        rd_kafka_conf_destroy(conf);
    }
    return rk;
}

static rd_kafka_t *new_producer(const struct ap_config_extra *extra, const char *client_id, const char *in_flight,
                                void (*dr_msg_cb)(rd_kafka_t *, const rd_kafka_message_t *, void *), void *opaque, struct ap_err *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_dr_msg_cb(conf, dr_msg_cb);
    rd_kafka_conf_set_opaque(conf, opaque);
    if (common_conf(conf, client_id, err) || SET_ALL(conf, producer, err) || set(conf, "max.in.flight.requests.per.connection", in_flight, err) ||
        set_extra(conf, extra, err)) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    return create(RD_KAFKA_PRODUCER, conf, err);
}

rd_kafka_t *ap_kafka_producer(const struct ap_config_extra *extra, const char *client_id,
                              void (*dr_msg_cb)(rd_kafka_t *, const rd_kafka_message_t *, void *), void *opaque, struct ap_err *err)
{
    return new_producer(extra, client_id, "5", dr_msg_cb, opaque, err); /* what idempotence allows */
}

rd_kafka_t *ap_kafka_producer_serial(const struct ap_config_extra *extra, const char *client_id,
                                     void (*dr_msg_cb)(rd_kafka_t *, const rd_kafka_message_t *, void *), void *opaque, struct ap_err *err)
{
    return new_producer(extra, client_id, "1", dr_msg_cb, opaque, err);
}

/* Manual assignment wants a group, too; without commits it never comes into being. */
static void private_group(const char *client_id, char *out, size_t cap)
{
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random)
        random = (uint64_t)(uintptr_t)out;
    snprintf(out, cap, "%s-%016" PRIx64, client_id, random);
}

static rd_kafka_t *new_consumer(const struct ap_config_extra *extra, const char *client_id, const char *group, bool follows,
                                struct ap_err *err)
{
    char own_group[200];
    private_group(client_id, own_group, sizeof own_group);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (common_conf(conf, client_id, err) || SET_ALL(conf, consumer, err) || (follows && SET_ALL(conf, follower, err)) ||
        set_extra(conf, extra, err) || set(conf, "group.id", group ? group : own_group, err)) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    rd_kafka_t *rk = create(RD_KAFKA_CONSUMER, conf, err);
    if (rk)
        rd_kafka_poll_set_consumer(rk);
    return rk;
}

rd_kafka_t *ap_kafka_consumer(const struct ap_config_extra *extra, const char *client_id, const char *group, struct ap_err *err)
{
    return new_consumer(extra, client_id, group, false, err);
}

rd_kafka_t *ap_kafka_follower_client(const struct ap_config_extra *extra, const char *client_id, struct ap_err *err)
{
    return new_consumer(extra, client_id, NULL, true, err);
}

/* ---- topics and clusters ---- */

int ap_topic_split(const char *name, const struct ap_region *own, struct ap_region *origin, const char **topic)
{
    const char *dot = strchr(name, '.');
    if (!dot) {
        *origin = *own;
        *topic = name;
        return *name ? 0 : AP_EINVAL;
    }
    if (dot[1] == '\0' || strchr(dot + 1, '.')) /* a copy of a copy: never ours */
        return AP_EINVAL;
    *topic = dot + 1;
    return ap_region_parse(name, (size_t)(dot - name), origin, NULL);
}

int ap_kafka_partitions(rd_kafka_t *rk, const char *topic, int timeout_ms, int32_t *count, struct ap_err *err)
{
    const struct rd_kafka_metadata *metadata = NULL;
    rd_kafka_topic_t *handle = rd_kafka_topic_new(rk, topic, NULL);
    if (!handle)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "topic '%s': %s", topic, rd_kafka_err2str(rd_kafka_last_error()));
    rd_kafka_resp_err_t rc = rd_kafka_metadata(rk, 0, handle, &metadata, timeout_ms);
    rd_kafka_topic_destroy(handle);
    if (rc != RD_KAFKA_RESP_ERR_NO_ERROR)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic '%s': Kafka does not answer: %s", topic, rd_kafka_err2str(rc));

    rc = metadata->topic_cnt == 1 ? metadata->topics[0].err : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    int32_t found = metadata->topic_cnt == 1 ? metadata->topics[0].partition_cnt : 0;
    rd_kafka_metadata_destroy(metadata);
    if (rc == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || rc == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
        (rc == RD_KAFKA_RESP_ERR_NO_ERROR && found == 0))
        return ap_err_set(err, AP_ENOTFOUND, AP_RETRY, "topic '%s' does not exist", topic);
    if (rc != RD_KAFKA_RESP_ERR_NO_ERROR)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic '%s': %s", topic, rd_kafka_err2str(rc));
    *count = found;
    return 0;
}

static int read_topic_id(rd_kafka_event_t *event, const char *topic, uint8_t id[16], struct ap_err *err)
{
    size_t count = 0;
    const rd_kafka_DescribeTopics_result_t *result = rd_kafka_event_DescribeTopics_result(event);
    if (rd_kafka_event_error(event) || !result)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic '%s': %s", topic, rd_kafka_event_error_string(event));
    const rd_kafka_TopicDescription_t **topics = rd_kafka_DescribeTopics_result_topics(result, &count);
    assert(count == 1);
    const rd_kafka_error_t *error = rd_kafka_TopicDescription_error(topics[0]);
    rd_kafka_resp_err_t code = error ? rd_kafka_error_code(error) : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return ap_err_set(err, AP_ENOTFOUND, AP_RETRY, "topic '%s' does not exist", topic);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic '%s': %s", topic, rd_kafka_error_string(error));
    const rd_kafka_Uuid_t *uuid = rd_kafka_TopicDescription_topic_id(topics[0]);
    ap_put_be64(id, uuid ? (uint64_t)rd_kafka_Uuid_most_significant_bits(uuid) : 0);
    ap_put_be64(id + 8, uuid ? (uint64_t)rd_kafka_Uuid_least_significant_bits(uuid) : 0);
    return 0;
}

int ap_kafka_topic_id(rd_kafka_t *rk, const char *topic, int timeout_ms, uint8_t id[16], struct ap_err *err)
{
    char why[200];
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_TopicCollection_t *topics = rd_kafka_TopicCollection_of_topic_names(&topic, 1);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
    rd_kafka_event_t *event = NULL;
    int rc = 0;
    if (rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why, sizeof why))
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "topic '%s': %s", topic, why);
    if (rc == 0) {
        rd_kafka_DescribeTopics(rk, topics, options, queue);
        event = rd_kafka_queue_poll(queue, timeout_ms);
        rc = event ? read_topic_id(event, topic, id, err)
                   : ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic '%s': Kafka does not answer", topic);
    }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_TopicCollection_destroy(topics);
    rd_kafka_queue_destroy(queue);
    return rc;
}

int ap_kafka_cluster_id(rd_kafka_t *rk, int timeout_ms, char *out, size_t cap, struct ap_err *err)
{
    char *id = rd_kafka_clusterid(rk, timeout_ms);
    if (!id)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "Kafka does not answer, or gives no cluster id");
    size_t len = strlen(id);
    int rc = len < cap ? 0 : ap_err_set(err, AP_ETOOBIG, AP_FATAL, "cluster id of %zu characters", len);
    if (rc == 0)
        memcpy(out, id, len + 1);
    rd_kafka_mem_free(rk, id);
    return rc;
}
