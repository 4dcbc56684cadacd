/* A few threads that run jobs in the order they were given. A thread that waits for a job that nobody has begun runs it
 * itself, so a pool without threads works, too. */
#ifndef ANTIPODE_PRODUCER_POOL_H
#define ANTIPODE_PRODUCER_POOL_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include "common/err.h"

struct ap_job {
    void (*run)(struct ap_job *job);
    struct ap_job *next;
    enum { AP_JOB_IDLE, AP_JOB_QUEUED, AP_JOB_RUNNING, AP_JOB_DONE } state; /* under the pool's lock */
};
struct ap_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    struct ap_job *head, **tail;
    pthread_t *threads;
    size_t count;
    bool stop;
};
int ap_pool_start(struct ap_pool *p, size_t threads, struct ap_err *err);
void ap_pool_stop(struct ap_pool *p); /* no job may be queued or running */
/* job is borrowed until ap_pool_wait has returned. */
void ap_pool_submit(struct ap_pool *p, struct ap_job *job);
void ap_pool_wait(struct ap_pool *p, struct ap_job *job);

#endif
