/* One lock, one list. Fails only at start. */
#include "producer/pool.h"
#include <assert.h>
#include <stdlib.h>

static void run_job(struct ap_pool *p, struct ap_job *job)
{
    job->state = AP_JOB_RUNNING;
    pthread_mutex_unlock(&p->lock);
    job->run(job);
    pthread_mutex_lock(&p->lock);
    job->state = AP_JOB_DONE;
    pthread_cond_broadcast(&p->done);
}

static void *serve(void *arg)
{
    struct ap_pool *p = arg;
    pthread_setname_np(pthread_self(), "encoder");
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->head && !p->stop)
            pthread_cond_wait(&p->work, &p->lock);
        if (!p->head)
            break;
        struct ap_job *job = p->head;
        p->head = job->next;
        if (!p->head)
            p->tail = &p->head;
        run_job(p, job);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int ap_pool_start(struct ap_pool *p, size_t threads, struct ap_err *err)
{
    *p = (struct ap_pool){.threads = calloc(threads + 1, sizeof *p->threads)};
    if (!p->threads)
        abort();
    p->tail = &p->head;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    for (; p->count < threads; p->count++)
        if (pthread_create(&p->threads[p->count], NULL, serve, p) != 0) {
            ap_pool_stop(p);
            return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for encoding (encode_threads)");
        }
    return 0;
}

void ap_pool_stop(struct ap_pool *p)
{
    if (!p->threads)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->count; i++)
        pthread_join(p->threads[i], NULL);
    free(p->threads);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    *p = (struct ap_pool){0};
}

void ap_pool_submit(struct ap_pool *p, struct ap_job *job)
{
    pthread_mutex_lock(&p->lock);
    assert(job->state == AP_JOB_IDLE || job->state == AP_JOB_DONE);
    job->state = AP_JOB_QUEUED;
    job->next = NULL;
    *p->tail = job;
    p->tail = &job->next;
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

/* Under the lock; job is queued. */
static void unlink_job(struct ap_pool *p, struct ap_job *job)
{
    struct ap_job **at = &p->head;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    if (p->tail == &job->next)
        p->tail = at;
}

void ap_pool_wait(struct ap_pool *p, struct ap_job *job)
{
    pthread_mutex_lock(&p->lock);
    if (job->state == AP_JOB_QUEUED) {
        unlink_job(p, job);
        run_job(p, job);
    }
    while (job->state == AP_JOB_RUNNING)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
