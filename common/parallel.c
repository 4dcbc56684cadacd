/* Threads take the next number each, so that a slow one holds nobody up. Where a thread cannot be had, there is one fewer. */
#include "common/parallel.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct jobs {
    size_t count;
    int (*fn)(void *arg, size_t i, int thread, struct ap_err *err);
    void *arg;
    atomic_size_t next;
    atomic_int failed; /* the first thread that failed says 1 and fills err */
    int rc;
    struct ap_err *err;
};
struct helper { struct jobs *jobs; int number; pthread_t thread; };

static void work(struct jobs *j, int thread)
{
    for (size_t i; !atomic_load(&j->failed) && (i = atomic_fetch_add(&j->next, 1)) < j->count;) {
        struct ap_err err;
        int rc = j->fn(j->arg, i, thread, &err), none = 0;
        if (rc < 0 && atomic_compare_exchange_strong(&j->failed, &none, 1)) {
            j->rc = rc;
            *j->err = err;
        }
    }
}

static void *helper_main(void *arg)
{
    struct helper *h = arg;
    work(h->jobs, h->number);
    return NULL;
}

int ap_parallel(int threads, size_t count, int (*fn)(void *arg, size_t i, int thread, struct ap_err *err), void *arg, struct ap_err *err)
{
    struct jobs jobs = {.count = count, .fn = fn, .arg = arg, .err = err};
    int wanted = threads > 1 && count > 1 ? threads - 1 : 0, got = 0;
    struct helper *helpers = wanted ? calloc((size_t)wanted, sizeof *helpers) : NULL;
    for (; helpers && got < wanted; got++) {
        helpers[got] = (struct helper){.jobs = &jobs, .number = got + 1};
        if (pthread_create(&helpers[got].thread, NULL, helper_main, &helpers[got]) != 0)
            break;
    }
    work(&jobs, 0);
    for (int i = 0; i < got; i++)
        pthread_join(helpers[i].thread, NULL);
    free(helpers);
    return jobs.rc;
}
