/* Bound and acks. The polling thread reports deliveries one by one into the ack's counter; the last one wakes the
 * owner. Nothing here fails but for a full bound, a deadline, or what Kafka reported. */
#include "producer/ack.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "common/timeutil.h"

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

static int wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ns)
{
    struct timespec at = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    return pthread_cond_timedwait(cond, lock, &at);
}

void ap_inflight_init(struct ap_inflight *f, size_t max_records, size_t max_bytes)
{
    *f = (struct ap_inflight){.max_records = max_records, .max_bytes = max_bytes};
    pthread_mutex_init(&f->lock, NULL);
    init_cond(&f->room);
}

void ap_inflight_fini(struct ap_inflight *f)
{
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->room);
}

int ap_inflight_check(const struct ap_inflight *f, size_t records, size_t bytes, struct ap_err *err)
{
    if (records <= f->max_records && bytes <= f->max_bytes)
        return 0;
    return ap_err_set(err, AP_ETOOBIG, AP_POISON, "%zu records of %zu bytes at once are more than the queue holds (queue_records %zu, queue_bytes %zu): send fewer points a request",
                      records, bytes, f->max_records, f->max_bytes);
}

int ap_inflight_reserve(struct ap_inflight *f, size_t records, size_t bytes, int64_t deadline_ns, struct ap_err *err)
{
    if (ap_inflight_check(f, records, bytes, err) != 0)
        return AP_ETOOBIG;
    bool fits, late = deadline_ns == 0;
    pthread_mutex_lock(&f->lock);
    while (!(fits = records <= f->max_records - f->records && bytes <= f->max_bytes - f->bytes) && !late)
        late = wait_until(&f->room, &f->lock, deadline_ns) == ETIMEDOUT;
    size_t have = f->records, have_bytes = f->bytes;
    if (fits) {
        f->records += records;
        f->bytes += bytes;
    }
    pthread_mutex_unlock(&f->lock);
    if (fits)
        return 0;
    return ap_err_set(err, AP_EBUSY, AP_RETRY, "the queue to Kafka is full (%zu of %zu records, %zu of %zu bytes wait for its acknowledgement); nothing of this request was published, send it again later",
                      have, f->max_records, have_bytes, f->max_bytes);
}

void ap_inflight_release(struct ap_inflight *f, size_t records, size_t bytes)
{
    pthread_mutex_lock(&f->lock);
    assert(f->records >= records && f->bytes >= bytes);
    f->records -= records;
    f->bytes -= bytes;
    pthread_cond_broadcast(&f->room);
    pthread_mutex_unlock(&f->lock);
}

void ap_inflight_now(struct ap_inflight *f, size_t *records, size_t *bytes)
{
    pthread_mutex_lock(&f->lock);
    *records = f->records;
    *bytes = f->bytes;
    pthread_mutex_unlock(&f->lock);
}

/* --- an ack --- */

static void drop_ref(struct ap_ack *a)
{
    if (atomic_fetch_sub(&a->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    free(a);
}

static void subtract(struct ap_ack *a, size_t n)
{
    size_t before = atomic_fetch_sub(&a->pending, n);
    assert(before >= n);
    if (before != n)
        return;
    atomic_store(&a->done_ns, ap_mono_ns());
    pthread_mutex_lock(&a->lock);
    a->done = true;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
    drop_ref(a); /* the reports' reference */
}

static void report(struct ap_delivery *d, const rd_kafka_message_t *m)
{
    struct ap_ack *a = (struct ap_ack *)d;
    if (m->err) {
        int none = 0;
        atomic_compare_exchange_strong(&a->failed, &none, (int)m->err);
    }
    subtract(a, 1);
}

struct ap_ack *ap_ack_new(bool counted)
{
    struct ap_ack *a = calloc(1, sizeof *a);
    if (!a)
        abort();
    a->delivery = (struct ap_delivery){report, counted};
    atomic_init(&a->refs, 2); /* the owner's, the reports' */
    atomic_init(&a->pending, 1);
    a->start_ns = ap_mono_ns();
    pthread_mutex_init(&a->lock, NULL);
    init_cond(&a->changed);
    return a;
}

void ap_ack_add(struct ap_ack *a, size_t n)
{
    atomic_fetch_add(&a->pending, n);
}

void ap_ack_undo(struct ap_ack *a, size_t k)
{
    if (k)
        subtract(a, k);
}

void ap_ack_seal(struct ap_ack *a)
{
    subtract(a, 1);
}

bool ap_ack_is_done(struct ap_ack *a)
{
    pthread_mutex_lock(&a->lock);
    bool done = a->done;
    pthread_mutex_unlock(&a->lock);
    return done;
}

int ap_ack_wait(struct ap_ack *a, int64_t deadline_ns, struct ap_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&a->lock);
    while (!a->done && rc != ETIMEDOUT)
        rc = wait_until(&a->changed, &a->lock, deadline_ns);
    bool done = a->done;
    pthread_mutex_unlock(&a->lock);
    if (!done)
        return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "Kafka has not acknowledged the write within the deadline; it may still be published, sending it again with the same ids is safe");
    int failed = atomic_load(&a->failed);
    if (failed)
        return ap_err_set(err, AP_EKAFKA, AP_RETRY, "Kafka did not take the write (%s); part of it may be published, sending it again with the same ids is safe",
                          rd_kafka_err2str((rd_kafka_resp_err_t)failed));
    return 0;
}

void ap_ack_unref(struct ap_ack **a)
{
    if (*a)
        drop_ref(*a);
    *a = NULL;
}
