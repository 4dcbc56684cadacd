/* A write from its checked records to its answer: publish, wait for Kafka, wait for the region to show it. */
#ifndef ANTIPODE_PRODUCER_WRITE_H
#define ANTIPODE_PRODUCER_WRITE_H
#include "common/http.h"
#include "producer/levels.h"
#include "producer/points.h"
#include "producer/producer.h"

/* What a request asked for beside its body. */
struct ap_write_options {
    enum ap_write_level level;
    int64_t deadline_ns; /* monotonic; for all of it */
    bool spooled;        /* out, by ap_write_records: it is on this machine's disk, not in Kafka */
};
/* From the query string and headers: level, wait, timeout (seconds), ordering (weak only), and the names in also; anything else is
 * refused by name. A token in X-Antipode-Token moves the clock. also: NULL-terminated, may be NULL. */
int ap_write_options_read(const struct ap_http_request *req, struct ap_producer *p, const char *const *also, struct ap_write_options *out, struct ap_err *err);

/* For changes of definitions: only Kafka is waited for, so a level that asks for regions is refused. */
int ap_write_definition_options_read(const struct ap_http_request *req, struct ap_producer *p, struct ap_write_options *out, struct ap_err *err);
/* For a barrier: timeout alone, and no look at whether writes are taken. */
int ap_write_barrier_options_read(const struct ap_http_request *req, struct ap_producer *p, struct ap_write_options *out, struct ap_err *err);

enum ap_write_status { AP_WRITE_ACKNOWLEDGED, AP_WRITE_COMPLETED, AP_WRITE_TIMEOUT };
const char *ap_write_status_name(enum ap_write_status s); /* Qdrant's words */

/* Publish and wait for Kafka's acknowledgement, or, while Kafka is away, keep it in the spool: then o->spooled is set and token stays
 * empty. token: zeroed by the caller, who finishes it, also on failure. */
int ap_write_records(struct ap_producer *p, struct ap_topic *topic, const struct ap_record *records, size_t n,
                     struct ap_write_options *o, struct ap_token *token, struct ap_err *err);
/* Until the regions that the level asks for show token. A spooled write that was to be shown is a timeout at once. */
enum ap_write_status ap_write_show(struct ap_producer *p, const struct ap_token *token, const struct ap_write_options *o);

/* Answer with {"operation_id","status","token", ...}, with 202 and "spooled":true when it was spooled, else 200; more (stolen, may be NULL) has further members. The token goes into
 * the header X-Antipode-Token as well; after a timeout the regions that do not show it go into X-Antipode-Missing and
 * "missing". */
void ap_write_reply(struct ap_http_request *req, struct ap_producer *p, enum ap_write_status status, const struct ap_token *token,
                    const struct ap_write_options *o, json_t *more);
/* The same as a list of n such results, for a request of n operations that was one write. */
void ap_write_reply_list(struct ap_http_request *req, struct ap_producer *p, enum ap_write_status status, const struct ap_token *token,
                         const struct ap_write_options *o, size_t n);
/* Answer with an error, and count it. */
void ap_write_reply_err(struct ap_http_request *req, struct ap_producer *p, const struct ap_err *err);

#endif
