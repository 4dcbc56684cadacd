/* antipode-indexer: keeps an index of the region's store fresh and answers queries over HTTP.
 *
 * Start: configuration, signals, HTTP (which says that it is not ready), the store once the consumer has made it, the
 * index, watermarks, the tail. Then the main thread sleeps until SIGTERM or SIGINT, or until the tail fails. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "common/handover.h"
#include "common/log.h"
#include "common/version.h"
#include "indexer/api.h"
#include "indexer/comparer.h"
#include "indexer/config.h"
#include "indexer/tail.h"
#include "indexer/watermarks.h"

#define STORE_POLL_MS 200
#define STORE_REPORT_MS 10000
#define REPLACED_POLL_MS 100

struct daemon {
    struct ap_indexer_config config;
    int signal_fd, failed_fd;
    struct ap_err failure; /* of the tail, written before failed_fd */
    bool replaced;         /* another store is in our store's place: begin anew with it */
    struct ap_metrics *metrics;
    struct ap_schemas *schemas;
    struct ap_api *api;
    struct ap_store *store;
    struct ap_index *index;
    struct ap_watermarks *watermarks;
    struct ap_tail *tail;
    struct ap_comparer *comparer;
};

static int start_log(struct daemon *d, struct ap_err *err)
{
    enum ap_log_level level;
    if (ap_log_level_parse(d->config.log_level, &level))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "log.level: \"%s\" is none of debug, info, warn, error", d->config.log_level);
    return ap_log_init("indexer", level, d->config.log_file, err);
}

static int stop_fd = -1; /* for the handler, which has no other way to learn it */

static void on_signal(int number)
{
    int saved = errno;
    (void)number;
    eventfd_write(stop_fd, 1);
    errno = saved;
}

/* A handler, not a blocked signal: OpenBLAS has threads before main, and they would take it as it is by default. */
static int take_signals(struct daemon *d, struct ap_err *err)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    stop_fd = d->signal_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d->failed_fd = eventfd(0, EFD_CLOEXEC);
    if (d->signal_fd < 0 || d->failed_fd < 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "eventfd: %s", strerror(errno));
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return 0;
}

/* Sleeps; true when the daemon is to stop. */
static bool stop_asked(struct daemon *d, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = d->signal_fd, .events = POLLIN}, {.fd = d->failed_fd, .events = POLLIN}};
    return poll(fds, 2, timeout_ms) > 0 && (fds[0].revents || fds[1].revents);
}

static void on_tail_failure(void *arg, const struct ap_err *err)
{
    struct daemon *d = arg;
    d->failure = *err;
    eventfd_write(d->failed_fd, 1);
}

/* The consumer makes the store. 1: asked to stop meanwhile. */
static int open_store(struct daemon *d, struct ap_err *err)
{
    static struct ap_log_limit limit;
    const struct ap_indexer_config *c = &d->config;
    struct ap_store_options options = {.path = c->store_path, .map_bytes = (size_t)c->store_map_bytes, .mapped_bytes = (size_t)c->store_mapped_bytes, .region = c->region_text,
                                       .worker = (int32_t)c->worker, .workers = (int32_t)c->workers, .read_only = true};
    for (;;) {
        int rc = ap_store_open(&d->store, &options, err);
        if (rc != AP_ENOTREADY)
            return rc;
        ap_log_limited(&limit, STORE_REPORT_MS, AP_LOG_INFO, "waiting for antipode-consumer to create the store: %s", err->msg);
        ap_api_set_state(d->api, "waiting for antipode-consumer to create the store");
        if (stop_asked(d, STORE_POLL_MS))
            return 1;
    }
}

static int open_index(struct daemon *d, struct ap_err *err)
{
    const struct ap_indexer_config *c = &d->config;
    char reading[4200];
    snprintf(reading, sizeof reading, "%s/" AP_STORE_READING, c->store_path);
    struct ap_index_options options = {.path = c->index_path, .region = c->region, .hot_rows = (uint32_t)c->hot_rows,
                                       .merge_fan = (uint32_t)c->merge_fan, .build_threads = (int)c->build_threads, .unsealed_bytes = (uint64_t)c->unsealed_bytes,
                                       .warm_up = !c->rebuild, .hold = c->rebuild ? reading : NULL, .small = c->small, .cold = c->cold, .sealed_factory = c->sealed_factory};
    ap_api_set_state(d->api, "loading the index");
    ap_store_read_ahead(d->store);
    return ap_index_open(&d->index, d->store, &options, d->schemas, d->metrics, err);
}

static int start_threads(struct daemon *d, struct ap_err *err)
{
    struct ap_watermarks_options watermarks = {.region = d->config.region, .interval_ms = d->config.watermark_interval_ms, .busy_interval_ms = d->config.watermark_busy_interval_ms,
                                               .kafka = &d->config.extra, .schemas = d->schemas, .index = d->index, .metrics = d->metrics};
    int rc = d->config.rebuild ? 0 : ap_watermarks_start(&d->watermarks, &watermarks, err);
    if (rc)
        return rc;
    struct ap_tail_options tail = {.store = d->store, .index = d->index, .watermarks = d->watermarks, .metrics = d->metrics,
                                   .failed = on_tail_failure, .arg = d};
    rc = ap_tail_start(&d->tail, &tail, err);
    return rc ? rc : ap_comparer_start(&d->comparer, &d->config.compare, d->config.compare_interval_s, d->index, d->store, d->metrics, err);
}

/* 0: stopped as asked; else *err says why. */
static int run(struct daemon *d, struct ap_err *err)
{
    int rc = ap_api_start(&d->api, &d->config, d->metrics, err);
    if (rc == 0) {
        ap_info("antipode-indexer " ANTIPODE_VERSION " of region %s listens on %s", d->config.region_text, d->config.listen);
        rc = open_store(d, err);
    }
    if (rc == 0) rc = open_index(d, err);
    if (rc == 0) rc = start_threads(d, err);
    if (rc)
        return rc < 0 ? rc : 0;
    ap_api_attach(d->api, d->index, d->tail);
    bool stop = false;
    while (!stop && !d->replaced) {
        stop = stop_asked(d, REPLACED_POLL_MS);
        d->replaced = !stop && ap_store_replaced(d->store);
    }
    if (d->failure.code)
        *err = d->failure;
    return d->failure.code;
}

/* Requests that wait for a token need the tail, so it ends after them. */
static void shut_down(struct daemon *d)
{
    ap_info(d->replaced ? "the store was exchanged: beginning anew with it" : "stopping");
    ap_api_stop(&d->api);
    ap_comparer_stop(&d->comparer);
    ap_tail_stop(&d->tail);
    ap_watermarks_stop(&d->watermarks);
    if (d->index)
        ap_index_close(&d->index);
    if (d->store)
        ap_store_close(&d->store);
    ap_schemas_free(&d->schemas);
    ap_metrics_free(&d->metrics);
    ap_info("stopped");
}

int main(int argc, char **argv)
{
    static struct daemon d;
    struct ap_err err = {0};
    int rc = ap_indexer_config_load(&d.config, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc == 0) rc = start_log(&d, &err);
    if (rc) {
        fprintf(stderr, "antipode-indexer: %s\n", err.msg);
        return rc == AP_EINVAL ? 2 : 1;
    }
    rc = take_signals(&d, &err);
    ap_ann_init();
    d.metrics = ap_metrics_new();
    if (rc == 0) rc = ap_schemas_new(&d.schemas, &err);
    if (rc == 0) rc = run(&d, &err);
    if (rc)
        ap_error("%s", err.msg);
    shut_down(&d);
    ap_indexer_config_free(&d.config);
    if (rc == 0 && d.replaced && (rc = ap_begin_anew(argv, &err)))
        fprintf(stderr, "antipode-indexer: %s\n", err.msg);
    return rc ? 1 : 0;
}
