/* antipode-producer: takes vectors over HTTP and publishes them as events. */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include "common/ann.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "producer/api.h"

#define LOOK_MS 200
#define FLUSH_MS 3000

static sigset_t block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return set;
}

static int open_log(const struct ap_producer_config *config, struct ap_err *err)
{
    enum ap_log_level level;
    if (ap_log_level_parse(config->log_level, &level) != 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "log.level: \"%s\" is none of debug, info, warn, error", config->log_level);
    return ap_log_init("producer", level, config->log_file, err);
}

/* Starting can take as long as Kafka is away; signals are answered meanwhile. */
struct opening { struct ap_producer *producer; struct ap_err err; int rc; _Atomic bool done; };

static void *open_producer(void *arg)
{
    struct opening *o = arg;
    o->rc = ap_producer_open(o->producer, &o->err);
    atomic_store(&o->done, true);
    return NULL;
}

/* Until a signal, or until something cannot go on. Returns the exit code. */
static int run(struct opening *o, const sigset_t *signals)
{
    const struct timespec look = {0, LOOK_MS * 1000000};
    struct ap_err err = {0};
    for (;;) {
        int number = sigtimedwait(signals, NULL, &look);
        if (number > 0) {
            ap_info("stopping on signal %d", number);
            return 0;
        }
        if (atomic_load(&o->done) && o->rc != 0)
            err = o->err;
        else if (!ap_producer_has_failed(o->producer, &err))
            continue;
        ap_error("%s", err.msg);
        return 1;
    }
}

int main(int argc, char **argv)
{
    struct ap_producer_config config;
    struct ap_producer producer;
    struct ap_http_server *server = NULL;
    struct opening opening = {.producer = &producer};
    struct ap_err err = {0};
    pthread_t opener;

    int rc = ap_producer_config_load(&config, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc < 0 || open_log(&config, &err) != 0) {
        fprintf(stderr, "antipode-producer: %s\n", err.msg);
        return rc == AP_EIO ? 1 : 2;
    }
    sigset_t signals = block_signals();
    mallopt(M_ARENA_MAX, 4);                 /* a thread per connection would otherwise keep an arena each */
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024);  /* bodies and batches go back to the system when they are done */
    ap_ann_init();
    struct ap_metrics *metrics = ap_metrics_new();

    int status = 1;
    if (ap_producer_init(&producer, &config, metrics, &err) != 0 || ap_producer_serve(&server, &producer, &err) != 0) {
        ap_error("%s", err.msg);
        return 1;
    }
    ap_info("listening on port %d", ap_http_port(server));
    if (pthread_create(&opener, NULL, open_producer, &opening) == 0) {
        status = run(&opening, &signals);
        atomic_store(&producer.stop_starting, true);
        pthread_join(opener, NULL);
    }
    ap_producer_stop(&producer);
    ap_http_stop(&server);
    ap_producer_close(&producer, status ? 0 : FLUSH_MS);
    ap_metrics_free(&metrics);
    ap_producer_config_free(&config);
    ap_info("stopped");
    return status;
}
