/* Bulk upload: a stream of npy rows or NDJSON points, cut into batches that are checked and encoded by the pool while the
 * stream is still read, and published in the order of the stream.
 *
 * Invariant: memory is bounded by a few batches, whatever the stream's length. A batch is published whole or not at all;
 * the first one that fails ends the stream, and no later row is published. One thread at a time. */
#ifndef ANTIPODE_PRODUCER_BULK_H
#define ANTIPODE_PRODUCER_BULK_H
#include "producer/points.h"
#include "producer/producer.h"

struct ap_bulk_options {
    const char *collection;  /* copied */
    bool has_first_id;       /* npy: row i has id first_id + i; else ids are derived */
    uint64_t first_id;
    int64_t timeout_ms;      /* of each wait for Kafka */
};
struct ap_bulk_result {
    uint64_t rows;           /* read, in whole batches or not */
    uint64_t acknowledged;   /* points that Kafka has */
    bool lines;              /* errors are by line (from 1), else by row (from 0) */
    struct ap_point_errors errors;
    struct ap_token token;   /* of what is acknowledged; the bulk's until it is freed */
};
struct ap_bulk;

int ap_bulk_new(struct ap_bulk **out, struct ap_producer *p, const struct ap_bulk_options *o, struct ap_err *err);
/* The next piece of the body; may block. After a failure nothing more is taken: call ap_bulk_end. */
int ap_bulk_feed(struct ap_bulk *b, const char *bytes, size_t len, struct ap_err *err);
/* The body is over (complete), or there was a failure: wait for what was published. 0: all of it is acknowledged. */
int ap_bulk_end(struct ap_bulk *b, bool complete, struct ap_err *err);
const struct ap_bulk_result *ap_bulk_result(const struct ap_bulk *b);
void ap_bulk_free(struct ap_bulk **b); /* waits for jobs, not for Kafka */

#endif
