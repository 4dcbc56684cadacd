/* How long topics keep their records: DescribeConfigs, all topics in one request. */
#include <stdlib.h>
#include <string.h>
#include "common/kafka.h"

/* The value of a topic's option, or NULL. */
static const char *option_of(const rd_kafka_ConfigResource_t *topic, const char *name)
{
    size_t count;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(topic, &count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(rd_kafka_ConfigEntry_name(entries[i]), name) == 0)
            return rd_kafka_ConfigEntry_value(entries[i]);
    return NULL;
}

static int read_topic(const rd_kafka_ConfigResource_t *topic, int64_t *longest_ms, struct ap_err *err)
{
    const char *name = rd_kafka_ConfigResource_name(topic);
    rd_kafka_resp_err_t failed = rd_kafka_ConfigResource_error(topic);
    if (failed)
        return ap_err_set(err, failed == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ? AP_ENOTFOUND : AP_EKAFKA, AP_RETRY, "topic '%s': %s", name, rd_kafka_err2str(failed));
    const char *policy = option_of(topic, "cleanup.policy"), *retention = option_of(topic, "retention.ms"), *segment = option_of(topic, "segment.ms");
    if (!policy || !retention || !segment)
        return ap_err_set(err, AP_EKAFKA, AP_RETRY, "topic '%s': Kafka does not say how long it is kept", name);
    int64_t kept = strtoll(retention, NULL, 10), one;
    if (kept < 0 || strcmp(policy, "delete") != 0 || __builtin_add_overflow(kept, strtoll(segment, NULL, 10), &one))
        one = -1;
    *longest_ms = one < 0 || *longest_ms < 0 ? -1 : one > *longest_ms ? one : *longest_ms;
    return 0;
}

static int read_answer(rd_kafka_event_t *event, int64_t *longest_ms, struct ap_err *err)
{
    size_t count;
    if (rd_kafka_event_error(event))
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "retention of topics: %s", rd_kafka_event_error_string(event));
    const rd_kafka_DescribeConfigs_result_t *result = rd_kafka_event_DescribeConfigs_result(event);
    const rd_kafka_ConfigResource_t **topics = rd_kafka_DescribeConfigs_result_resources(result, &count);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc = read_topic(topics[i], longest_ms, err);
    return rc;
}

int ap_kafka_retention(rd_kafka_t *rk, const char *const *topics, size_t count, int timeout_ms, int64_t *longest_ms, struct ap_err *err)
{
    char why[200];
    rd_kafka_ConfigResource_t **list = calloc(count + 1, sizeof *list);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    *longest_ms = 0;
    if (!list)
        abort();
    for (size_t i = 0; i < count; i++)
        list[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, topics[i]);
    int rc = rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why, sizeof why) ? ap_err_set(err, AP_EINVAL, AP_FATAL, "%s", why) : 0;
    rd_kafka_event_t *event = NULL;
    if (rc == 0) {
        rd_kafka_DescribeConfigs(rk, list, count, options, queue);
        event = rd_kafka_queue_poll(queue, timeout_ms);
        rc = event ? read_answer(event, longest_ms, err) : ap_err_set(err, AP_ENOTREADY, AP_RETRY, "retention of topics: Kafka does not answer");
    }
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(queue);
    rd_kafka_ConfigResource_destroy_array(list, count);
    free(list);
    return rc;
}
