/* ThreadSanitizer sees what goes through pthread_* and not glibc's C11 threads, which librdkafka is built on: all that it hands
 * from thread to thread would look like a race. So in preset tsan its mtx_*, cnd_* and thrd_* are these, on top of pthreads; in
 * glibc the types are the same objects under two names. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

_Static_assert(sizeof(mtx_t) == sizeof(pthread_mutex_t) && sizeof(cnd_t) == sizeof(pthread_cond_t), "glibc's own layout");

static pthread_mutex_t *mutex(mtx_t *m) { return (pthread_mutex_t *)(void *)m; }
static pthread_cond_t *cond(cnd_t *c) { return (pthread_cond_t *)(void *)c; }
static int said(int error) { return error == 0 ? thrd_success : error == EBUSY ? thrd_busy : error == ETIMEDOUT ? thrd_timedout : error == ENOMEM ? thrd_nomem : thrd_error; }

int mtx_init(mtx_t *m, int type)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, type & mtx_recursive ? PTHREAD_MUTEX_RECURSIVE : PTHREAD_MUTEX_NORMAL);
    int rc = pthread_mutex_init(mutex(m), &attributes);
    pthread_mutexattr_destroy(&attributes);
    return said(rc);
}
void mtx_destroy(mtx_t *m) { pthread_mutex_destroy(mutex(m)); }
int mtx_lock(mtx_t *m) { return said(pthread_mutex_lock(mutex(m))); }
int mtx_trylock(mtx_t *m) { return said(pthread_mutex_trylock(mutex(m))); }
int mtx_unlock(mtx_t *m) { return said(pthread_mutex_unlock(mutex(m))); }

int cnd_init(cnd_t *c) { return said(pthread_cond_init(cond(c), NULL)); }
void cnd_destroy(cnd_t *c) { pthread_cond_destroy(cond(c)); }
int cnd_signal(cnd_t *c) { return said(pthread_cond_signal(cond(c))); }
int cnd_broadcast(cnd_t *c) { return said(pthread_cond_broadcast(cond(c))); }
int cnd_wait(cnd_t *c, mtx_t *m) { return said(pthread_cond_wait(cond(c), mutex(m))); }
int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *until) { return said(pthread_cond_timedwait(cond(c), mutex(m), until)); }

struct start { int (*run)(void *); void *arg; };

static void *run(void *arg)
{
    struct start s = *(struct start *)arg;
    free(arg);
    return (void *)(intptr_t)s.run(s.arg);
}

int thrd_create(thrd_t *out, int (*fn)(void *), void *arg)
{
    struct start *s = malloc(sizeof *s);
    if (!s)
        return thrd_nomem;
    *s = (struct start){fn, arg};
    int rc = pthread_create(out, NULL, run, s);
    if (rc)
        free(s);
    return said(rc);
}

int thrd_join(thrd_t thread, int *result)
{
    void *value;
    int rc = pthread_join(thread, &value);
    if (rc == 0 && result)
        *result = (int)(intptr_t)value;
    return said(rc);
}
