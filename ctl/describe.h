/* Records as JSON, for people and for jq. 64-bit ids are 16 hex digits, as in keys and logs; an hlc is text,
 * "<ms>.<counter>", because JSON readers keep 53 bits of a number. */
#ifndef ANTIPODE_CTL_DESCRIBE_H
#define ANTIPODE_CTL_DESCRIBE_H
#include <jansson.h>
#include "common/event.h"
#include "common/kafka.h"

enum ap_record_kind { AP_RECORD_MUTATION, AP_RECORD_CONTROL, AP_RECORD_WATERMARK, AP_RECORD_RAW, AP_RECORD_DEAD };

/* By the topic's name, with or without a mirror's prefix. */
enum ap_record_kind ap_record_kind_of(const char *topic);

/* New reference: topic, partition, offset, timestamp, and what the record says. One that cannot be decoded has "error" and its
 * "key" and "value" in hex (value cut at 4 KiB). vectors: also the vectors' content. scratch is reused from call to call. */
json_t *ap_describe(const struct ap_schemas *schemas, const rd_kafka_message_t *message, enum ap_record_kind kind, bool vectors,
                    struct ap_buf *scratch);
/* Parts of it, for messages from elsewhere. */
json_t *ap_describe_mutation(const struct ap_mutation *m, const void *key, size_t key_len, bool vectors);

#endif
