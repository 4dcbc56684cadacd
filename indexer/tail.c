/* poll(wake, stop) -> drain -> refresh -> broadcast. Fails only at start, and when the index does. */
#include "indexer/tail.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"

#define FALLBACK_MS 100

struct ap_tail {
    struct ap_tail_options options;
    int wake_fd, stop_fd;
    pthread_t thread;
    pthread_mutex_t lock; /* guards refreshes */
    pthread_cond_t refreshed;
    uint64_t refreshes;
    struct ap_metric *refresh_time;
    struct ap_metric *rows;
};

/* 0 when the tail goes on, else it has reported and ends. */
static int refresh(struct ap_tail *t)
{
    static struct ap_log_limit limit;
    struct ap_err err = {0};
    int64_t start = ap_mono_ns();
    int64_t rows = ap_index_refresh(t->options.index, &err);
    if (rows < 0 && err.cls != AP_RETRY) {
        t->options.failed(t->options.arg, &err);
        return -1;
    }
    if (rows < 0)
        ap_log_limited(&limit, 5000, AP_LOG_WARN, "refreshing the index failed and is tried again: %s", err.msg);
    if (rows > 0) {
        ap_observe(t->refresh_time, (double)(ap_mono_ns() - start) * 1e-9);
        ap_count(t->rows, (uint64_t)rows);
    }
    pthread_mutex_lock(&t->lock);
    t->refreshes++;
    pthread_cond_broadcast(&t->refreshed);
    pthread_mutex_unlock(&t->lock);
    if (t->options.watermarks)
        ap_watermarks_poke(t->options.watermarks, rows > 0);
    return 0;
}

static void *tail_main(void *arg)
{
    struct ap_tail *t = arg;
    struct pollfd fds[2] = {{.fd = t->wake_fd, .events = POLLIN}, {.fd = t->stop_fd, .events = POLLIN}};
    pthread_setname_np(pthread_self(), "tail");
    while (refresh(t) == 0) {
        int n = poll(fds, 2, FALLBACK_MS);
        if (n > 0 && fds[1].revents)
            break;
        if (n > 0)
            ap_store_wake_drain(t->wake_fd); /* before the refresh: a commit after this wakes us again */
    }
    return NULL;
}

static void tail_free(struct ap_tail *t)
{
    if (t->wake_fd >= 0)
        close(t->wake_fd);
    if (t->stop_fd >= 0)
        close(t->stop_fd);
    pthread_cond_destroy(&t->refreshed);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int ap_tail_start(struct ap_tail **out, const struct ap_tail_options *options, struct ap_err *err)
{
    pthread_condattr_t clock;
    struct ap_tail *t = calloc(1, sizeof *t);
    if (!t)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    t->options = *options;
    t->wake_fd = -1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&t->refreshed, &clock);
    pthread_condattr_destroy(&clock);
    t->refresh_time = ap_histogram(options->metrics, "index_refresh_time", NULL,
                                   "Seconds to make committed rows searchable, per refresh that found any.");
    t->rows = ap_counter(options->metrics, "antipode_index_rows_total", NULL, "Rows read from the store into the index.");
    t->stop_fd = eventfd(0, EFD_CLOEXEC);
    int rc = t->stop_fd < 0 ? ap_err_set(err, AP_EIO, AP_FATAL, "eventfd: %s", strerror(errno)) : 0;
    if (rc == 0)
        rc = ap_store_wake_listen(options->store, &t->wake_fd, err);
    if (rc == 0 && pthread_create(&t->thread, NULL, tail_main, t))
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "cannot start the tail thread");
    if (rc)
        tail_free(t);
    else
        *out = t;
    return rc;
}

void ap_tail_stop(struct ap_tail **tail)
{
    if (!*tail)
        return;
    eventfd_write((*tail)->stop_fd, 1);
    pthread_join((*tail)->thread, NULL);
    tail_free(*tail);
    *tail = NULL;
}

uint64_t ap_tail_refreshes(struct ap_tail *tail)
{
    pthread_mutex_lock(&tail->lock);
    uint64_t n = tail->refreshes;
    pthread_mutex_unlock(&tail->lock);
    return n;
}

bool ap_tail_wait(struct ap_tail *tail, uint64_t seen, int64_t deadline_ns)
{
    struct timespec at = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
    pthread_mutex_lock(&tail->lock);
    while (tail->refreshes <= seen && pthread_cond_timedwait(&tail->refreshed, &tail->lock, &at) != ETIMEDOUT)
        ;
    bool done = tail->refreshes > seen;
    pthread_mutex_unlock(&tail->lock);
    return done;
}
