/* antipode-consumer: applies every region's mutations to this region's store, exactly once. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include "common/handover.h"
#include "common/http.h"
#include "common/log.h"
#include "consumer/consumer.h"

struct daemon {
    struct ap_consumer_settings settings;
    struct ap_config_extra extra;
    struct ap_metrics *metrics;
    struct ap_status *status;
    struct ap_http_server *http;
    struct ap_consumer *consumer;
    pthread_t signals;
    sigset_t awaited;
};

/* SIGTERM and SIGINT stop the consumer; SIGUSR1 (from main) ends this thread. */
static void *wait_for_signals(void *arg)
{
    struct daemon *d = arg;
    int signal_number;
    while (!sigwait(&d->awaited, &signal_number) && signal_number != SIGUSR1) {
        ap_info("stopping signal=%d", signal_number);
        ap_consumer_stop(d->consumer);
    }
    return NULL;
}

static void block_signals(struct daemon *d)
{
    sigemptyset(&d->awaited);
    sigaddset(&d->awaited, SIGTERM);
    sigaddset(&d->awaited, SIGINT);
    sigaddset(&d->awaited, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &d->awaited, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int load(struct daemon *d, int argc, char **argv, struct ap_err *err)
{
    int rc = ap_config_load(ap_consumer_options, &d->settings, &d->extra, argc, argv, err);
    if (!rc && (rc = ap_consumer_settings_check(&d->settings, err)) != 0)
        ap_config_blame(&d->extra, err);
    return rc;
}

/* While somebody exchanges the store. False: a signal says to stop. */
static bool wait_handover(struct daemon *d)
{
    const struct timespec step = {.tv_nsec = 20000000};
    while (!d->settings.rebuild && ap_handover_asked(d->settings.store_path)) {
        ap_status_phase(d->status, "the store is being exchanged for a rebuilt one");
        if (sigtimedwait(&d->awaited, NULL, &step) > 0)
            return false;
    }
    return true;
}

static int open_all(struct daemon *d, struct ap_err *err)
{
    static const struct ap_http_route routes[] = {AP_HTTP_ROUTES_END};
    enum ap_log_level level;
    if (ap_log_level_parse(d->settings.log_level, &level))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "log.level: \"%s\"; debug, info, warn or error", d->settings.log_level);
    int rc = ap_log_init("consumer", level, d->settings.log_file, err);
    if (rc)
        return rc;
    d->metrics = ap_metrics_new();
    d->status = ap_status_new(&d->settings, d->metrics);
    struct ap_http_options http = {.listen = d->settings.http_listen, .max_body_bytes = 4096, .max_connections = 64,
                                   .idle_timeout_s = 60, .routes = routes, .metrics = d->metrics, .user = d->status,
                                   .ready = ap_status_ready};
    rc = ap_http_start(&d->http, &http, err);
    if (!rc && !wait_handover(d))
        rc = ap_err_set(err, AP_ETIMEOUT, AP_FATAL, "asked to stop while the store is being exchanged");
    if (!rc)
        rc = ap_consumer_new(&d->consumer, &d->settings, &d->extra, d->metrics, d->status, err);
    return rc;
}

static int run(struct daemon *d, struct ap_err *err)
{
    int failed = pthread_create(&d->signals, NULL, wait_for_signals, d);
    if (failed)
        return ap_err_set(err, AP_EIO, AP_FATAL, "cannot start a thread (%d)", failed);
    ap_info("running region=%s worker=%lld/%lld listen=%s", d->settings.region, (long long)d->settings.worker,
            (long long)d->settings.workers, d->settings.http_listen);
    int rc = ap_consumer_run(d->consumer, err);
    pthread_kill(d->signals, SIGUSR1);
    pthread_join(d->signals, NULL);
    return rc;
}

static void close_all(struct daemon *d)
{
    if (d->http)
        ap_http_stop(&d->http);
    ap_consumer_free(&d->consumer);
    if (d->metrics)
        ap_metrics_free(&d->metrics);
    ap_status_free(&d->status);
    ap_config_free(ap_consumer_options, &d->settings, &d->extra);
}

static const char *what_to_do(const struct ap_err *err)
{
    return err->code == AP_ENOSPC ? " Make room on the disk (or raise store.map_bytes) and start it again."
           : err->code == AP_EBUSY ? ""
           : err->code == AP_ECORRUPT ? " See \"A store that is broken\" in docs/operations.md." : "";
}

int main(int argc, char **argv)
{
    static struct daemon d;
    struct ap_err err = {0};
    block_signals(&d);
    int rc = load(&d, argc, argv, &err);
    if (rc > 0)
        return 0; /* --help, --version */
    if (rc < 0) {
        fprintf(stderr, "antipode-consumer: %s\n", err.msg);
        return rc == AP_EINVAL ? 2 : 1;
    }
    rc = open_all(&d, &err);
    if (!rc)
        rc = run(&d, &err);
    bool anew = !rc && ap_consumer_handover(d.consumer);
    if (anew) {
        ap_info("letting go of the store: it is to be exchanged");
        ap_consumer_free(&d.consumer);
        anew = wait_handover(&d);
    }
    if (rc)
        ap_error("the consumer stops: %s; nothing was skipped.%s", err.msg, what_to_do(&err));
    else
        ap_info("stopped");
    close_all(&d);
    if (anew && (rc = ap_begin_anew(argv, &err)))
        fprintf(stderr, "antipode-consumer: %s\n", err.msg);
    return rc ? 1 : 0;
}
