/* What has been handed to Kafka and is not acknowledged yet: its bound, and the ack that a request waits on.
 *
 * Invariant: the records in flight never exceed the bound, so memory does not grow while Kafka is away; a request that
 * does not fit is refused before anything of it is published. An ack lives until its owner has let go of it and every
 * record of it has been reported on, in whatever order. */
#ifndef ANTIPODE_PRODUCER_ACK_H
#define ANTIPODE_PRODUCER_ACK_H
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"

/* --- the bound; any thread --- */
struct ap_inflight {
    pthread_mutex_t lock;
    pthread_cond_t room;
    size_t records, bytes, max_records, max_bytes;
};
void ap_inflight_init(struct ap_inflight *f, size_t max_records, size_t max_bytes);
void ap_inflight_fini(struct ap_inflight *f);
/* Take room for records of bytes in all. deadline_ns (monotonic): wait for it until then; 0: do not wait.
 * AP_EBUSY (RETRY): full. AP_ETOOBIG: more than the bound, will never fit. */
int ap_inflight_reserve(struct ap_inflight *f, size_t records, size_t bytes, int64_t deadline_ns, struct ap_err *err);
int ap_inflight_check(const struct ap_inflight *f, size_t records, size_t bytes, struct ap_err *err); /* AP_ETOOBIG alone */
void ap_inflight_release(struct ap_inflight *f, size_t records, size_t bytes);
void ap_inflight_now(struct ap_inflight *f, size_t *records, size_t *bytes);

/* The opaque of every message: who is told when it is delivered, in the polling thread. */
struct ap_delivery {
    void (*report)(struct ap_delivery *d, const rd_kafka_message_t *m);
    bool counted; /* its messages took room in the bound */
};

/* --- an ack: what the records of one request wait for --- */
struct ap_ack {
    struct ap_delivery delivery; /* first: the messages' opaque */
    _Atomic unsigned refs;
    _Atomic size_t pending; /* records without a report, and 1 while the owner still adds */
    _Atomic int failed;     /* rd_kafka_resp_err_t of the first failed one */
    int64_t start_ns;
    _Atomic int64_t done_ns;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
};
struct ap_ack *ap_ack_new(bool counted);
/* Owner: n records are about to be handed over (before they are); ap_ack_undo when k of them were not. */
void ap_ack_add(struct ap_ack *a, size_t n);
void ap_ack_undo(struct ap_ack *a, size_t k);
/* Owner: no more will be added. */
void ap_ack_seal(struct ap_ack *a);
bool ap_ack_is_done(struct ap_ack *a);
/* After seal: wait for all reports. 0: Kafka has all of them. AP_ETIMEOUT; AP_EKAFKA: one failed. */
int ap_ack_wait(struct ap_ack *a, int64_t deadline_ns, struct ap_err *err);
void ap_ack_unref(struct ap_ack **a);

#endif
