/* Routes, start and stop. The order of routes counts: the first that matches serves. */
#include "indexer/api.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/api_impl.h"
#include "indexer/api_verify.h"

#define WRITES(pattern) \
    {"PUT", pattern, ap_serve_write, NULL, "write"}, {"POST", pattern, ap_serve_write, NULL, "write"}, \
    {"PATCH", pattern, ap_serve_write, NULL, "write"}, {"DELETE", pattern, ap_serve_write, NULL, "write"}

static const struct ap_http_route routes[] = {
    {"GET", "/", ap_serve_root, NULL, "root"},
    {"GET", "/readyz", ap_serve_ready, NULL, "readyz"},
    {"GET", "/collections", ap_serve_collections, NULL, "collections"},
    {"GET", "/collections/{c}", ap_serve_collection, NULL, "collection"},
    {"GET", "/collections/{c}/exists", ap_serve_exists, NULL, "exists"},
    {"POST", "/collections/{c}/points/query", ap_serve_query, NULL, "query"},
    {"POST", "/collections/{c}/points/query/batch", ap_serve_query_batch, NULL, "query_batch"},
    {"POST", "/collections/{c}/points/search", ap_serve_search, NULL, "search"},
    {"POST", "/collections/{c}/points/search/batch", ap_serve_search_batch, NULL, "search_batch"},
    {"POST", "/collections/{c}/points", ap_serve_retrieve, NULL, "retrieve"},
    {"POST", "/collections/{c}/points/count", ap_serve_count, NULL, "count"},
    {"POST", "/collections/{c}/points/scroll", ap_serve_scroll, NULL, "scroll"},
    {"GET", "/collections/{c}/points/{id}", ap_serve_point, NULL, "point"},

    {"GET", "/antipode/verify/{c}", ap_serve_verify_state, NULL, "verify"},
    {"GET", "/antipode/verify/{c}/digests", ap_serve_verify_digests, NULL, "verify"},
    {"POST", "/antipode/verify/{c}/split", ap_serve_verify_split, NULL, "verify"},
    {"POST", "/antipode/verify/{c}/rows", ap_serve_verify_rows, NULL, "verify"},
    {"POST", "/antipode/verify/{c}/look", ap_serve_verify_look, NULL, "verify"},
    {"POST", "/antipode/verify/{c}/full", ap_serve_verify_full, NULL, "verify"},
    {"POST", "/antipode/verify/{c}/scrub", ap_serve_verify_scrub, NULL, "scrub"},
    {"POST", "/antipode/verify/{c}/recount", ap_serve_verify_recount, NULL, "verify"},
    {"DELETE", "/antipode/verify", ap_serve_verify_close, NULL, "verify"},
    {"GET", "/antipode/holes", ap_serve_holes, NULL, "holes"},
    {"POST", "/antipode/losses", ap_serve_losses, NULL, "losses"},

    /* Qdrant's other ways to read. */
    {"POST", "/collections/{c}/points/recommend", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/points/recommend/{x}", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/points/discover", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/points/discover/batch", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/points/search/groups", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/points/query/groups", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/points/search/matrix/{x}", ap_serve_refused, NULL, "refused"},
    {"POST", "/collections/{c}/facet", ap_serve_refused, NULL, "refused"},

    /* All else that is no GET is a write: the producer knows which, and refuses the rest by name. */
    {"PUT", "/collections/{c}", ap_serve_create, NULL, "create"},
    {"DELETE", "/collections/{c}", ap_serve_drop, NULL, "drop"},
    {"PUT", "/collections/{c}/index", ap_serve_index, NULL, "index"},
    {"DELETE", "/collections/{c}/index/{field}", ap_serve_index_removal, NULL, "index"},
    {"POST", "/collections/{c}/points/bulk", NULL, &ap_serve_bulk, "bulk"},
    {"POST", "/collections/{c}/points/delete", ap_serve_delete, NULL, "delete"},
    {"POST", "/collections/{c}/points/payload", ap_serve_payload, NULL, "payload"},
    {"PUT", "/collections/{c}/points/payload", ap_serve_payload, NULL, "payload"},
    {"POST", "/collections/{c}/points/payload/delete", ap_serve_payload, NULL, "payload"},
    {"POST", "/collections/{c}/points/payload/clear", ap_serve_payload, NULL, "payload"},
    WRITES("/collections/{c}"),
    WRITES("/collections/{c}/{1}"),
    WRITES("/collections/{c}/{1}/{2}"),
    WRITES("/collections/{c}/{1}/{2}/{3}"),
    WRITES("/collections/{c}/{1}/{2}/{3}/{4}"),
    AP_HTTP_ROUTES_END,
};

static const char *const pass_headers[] = {AP_TOKEN_HEADER, "traceparent", "tracestate", NULL};
static const char *const keep_headers[] = {AP_TOKEN_HEADER, "X-Antipode-Missing", "Retry-After", "Allow", NULL};

static void register_metrics(struct ap_api *api)
{
    struct ap_metrics *m = api->metrics;
    static const char waits[] = "Waits until what was asked for is visible, by level and how they ended.";
    static const char times[] = "Seconds waited until what was asked for was visible.";
    api->query_latency = ap_histogram(m, "vector_search_query_latency_seconds", NULL, "Queries and searches, from the headers read to the answer built.");
    api->search_latency = ap_histogram(m, "search_latency_seconds", NULL, "The search in the index alone, of each query.");
    for (size_t i = AP_READ_SESSION; i < AP_READ_LEVELS; i++)
        for (size_t late = 0; late < 2; late++) {
            const char *name = ap_read_level_name((enum ap_read_level)i);
            char labels[80];
            snprintf(labels, sizeof labels, "for=\"read\",level=\"%s\",result=\"%s\"", name, late ? "timeout" : "visible");
            api->read_waits[i][late] = ap_counter(m, "antipode_waits_total", labels, waits);
            snprintf(labels, sizeof labels, "for=\"read\",level=\"%s\"", name);
            api->read_wait_time[i] = ap_histogram(m, "antipode_wait_seconds", labels, times);
        }
    api->write_waits[0] = ap_counter(m, "antipode_waits_total", "for=\"write\",level=\"visible\",result=\"visible\"", waits);
    api->write_waits[1] = ap_counter(m, "antipode_waits_total", "for=\"write\",level=\"visible\",result=\"timeout\"", waits);
    api->write_wait_time = ap_histogram(m, "antipode_wait_seconds", "for=\"write\",level=\"visible\"", times);
    ap_metrics_collect(m, ap_collect_collections, api);
}

static int start(struct ap_api *api, struct ap_err *err)
{
    const struct ap_indexer_config *c = api->config;
    struct ap_forward_options forward = {.base_url = c->producer_url, .peer = "the producer (producer.url)",
                                         .pass_headers = pass_headers, .keep_headers = keep_headers};
    struct ap_http_options http = {.listen = c->listen, .max_body_bytes = (size_t)c->max_body_bytes,
                                   .max_connections = (unsigned)c->max_connections, .idle_timeout_s = (unsigned)c->idle_timeout_s,
                                   .routes = routes, .metrics = api->metrics, .user = api};
    int rc = ap_forward_new(&api->forward, &forward, err);
    if (rc == 0)
        rc = ap_fresh_start(&api->fresh, &c->peers, api->metrics, err);
    return rc ? rc : ap_http_start(&api->server, &http, err);
}

int ap_api_start(struct ap_api **out, const struct ap_indexer_config *config, struct ap_metrics *metrics, struct ap_err *err)
{
    struct ap_api *api = calloc(1, sizeof *api);
    if (!api)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    api->config = config;
    api->metrics = metrics;
    api->limits = (struct ap_limits){.max_limit = (uint32_t)config->max_limit, .max_offset = (uint32_t)config->max_offset,
                                     .max_batch = (uint32_t)config->max_batch, .max_dim = (uint32_t)config->max_dim};
    pthread_mutex_init(&api->lock, NULL);
    ap_api_set_state(api, "starting");
    register_metrics(api);
    api->verify = ap_verify_new(metrics);
    int rc = start(api, err);
    if (rc == 0)
        *out = api;
    else
        ap_fresh_stop(&api->fresh), ap_forward_free(&api->forward); /* api stays: the collector has it, and the daemon ends */
    return rc;
}

int ap_api_port(const struct ap_api *api)
{
    return ap_http_port(api->server);
}

void ap_api_set_state(struct ap_api *api, const char *state)
{
    pthread_mutex_lock(&api->lock);
    snprintf(api->state, sizeof api->state, "%s", state);
    pthread_mutex_unlock(&api->lock);
}

void ap_api_attach(struct ap_api *api, struct ap_index *index, struct ap_tail *tail)
{
    api->tail = tail;
    api->index = index;
}

void ap_api_stop(struct ap_api **api)
{
    if (!*api)
        return;
    ap_http_stop(&(*api)->server);
    ap_verify_free(&(*api)->verify);
    ap_fresh_stop(&(*api)->fresh);
    ap_forward_free(&(*api)->forward);
    pthread_mutex_destroy(&(*api)->lock);
    free(*api);
    *api = NULL;
}
