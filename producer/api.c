/* The table of routes, and the small answers: what this is, what is served elsewhere, what is not served at all. */
#include "producer/api.h"
#include <stdio.h>
#include "common/version.h"

static void root(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_buf out = {0};
    ap_buf_printf(&out, "{\"title\":\"antipode - vector replication (producer)\",\"version\":\"%s\",\"commit\":\"antipode %s\"}", p->config->qdrant_version, ANTIPODE_VERSION);
    ap_http_reply_take(req, 200, "application/json", (char *)out.data, out.len);
}

static void elsewhere(struct ap_http_request *req)
{
    const struct ap_producer *p = ap_http_user(req);
    const char *indexer = p->config->indexer_url;
    ap_http_reply_error(req, 404, "%s %s is a read: ask this region's indexer%s%s; this is the producer, which takes writes", ap_http_method(req), ap_http_path(req),
                        *indexer ? ", " : "", indexer);
}

static void unsupported(struct ap_http_request *req)
{
    ap_http_reply_error(req, 400, "%s %s is not supported", ap_http_method(req), ap_http_path(req));
}

#define C "/collections/{collection}"
#define WRITE(method, pattern, fn, metric) {method, pattern, fn, NULL, metric}
#define READ(method, pattern) {method, pattern, elsewhere, NULL, "elsewhere"}
#define REFUSED(method, pattern) {method, pattern, unsupported, NULL, "unsupported"}

const struct ap_http_route ap_producer_routes[] = {
    WRITE("GET", "/", root, "root"),
    WRITE("PUT", C, ap_producer_create_collection, "create_collection"),
    WRITE("DELETE", C, ap_producer_delete_collection, "delete_collection"),
    WRITE("PUT", C "/points", ap_producer_upsert, "upsert"),
    WRITE("POST", C "/points/delete", ap_producer_delete_points, "delete_points"),
    WRITE("POST", C "/points/payload", ap_producer_set_payload, "set_payload"),
    WRITE("PUT", C "/points/payload", ap_producer_overwrite_payload, "overwrite_payload"),
    WRITE("POST", C "/points/payload/delete", ap_producer_delete_payload, "delete_payload"),
    WRITE("POST", C "/points/payload/clear", ap_producer_clear_payload, "clear_payload"),
    WRITE("POST", C "/points/batch", ap_producer_batch, "batch"),
    {"POST", C "/points/bulk", NULL, &ap_producer_bulk, "bulk"},
    WRITE("POST", C "/points/repair", ap_producer_repair, "repair"),
    WRITE("PUT", C "/index", ap_producer_create_index, "create_index"),
    WRITE("DELETE", C "/index/{field}", ap_producer_delete_index, "delete_index"),
    WRITE("POST", "/antipode/barrier", ap_producer_barrier, "barrier"),
    WRITE("GET", "/antipode/region", ap_producer_region, "region"),
    WRITE("POST", "/antipode/region", ap_producer_set_region, "region"),
    WRITE("POST", "/antipode/region/retire", ap_producer_retire_region, "region"),
    WRITE("POST", "/antipode/losses", ap_producer_lose, "losses"),
    READ("GET", "/collections"),
    READ("GET", C),
    READ("GET", C "/exists"),
    READ("GET", C "/points/{id}"),
    READ("POST", C "/points"),
    READ("POST", C "/points/query"),
    READ("POST", C "/points/query/batch"),
    READ("POST", C "/points/search"),
    READ("POST", C "/points/scroll"),
    READ("POST", C "/points/count"),
    REFUSED("PATCH", C),
    REFUSED("POST", "/collections/aliases"),
    REFUSED("PUT", C "/points/vectors"),
    REFUSED("POST", C "/points/vectors/delete"),
    REFUSED("PUT", C "/shards"),
    REFUSED("POST", C "/snapshots"),
    AP_HTTP_ROUTES_END,
};

static bool ready(void *user, char *why, size_t len)
{
    return ap_producer_is_ready(user, why, len);
}

static bool healthy(void *user, char *why, size_t len)
{
    struct ap_err err = {0};
    if (!ap_producer_has_failed(user, &err))
        return true;
    snprintf(why, len, "%s", err.msg);
    return false;
}

int ap_producer_serve(struct ap_http_server **server, struct ap_producer *p, struct ap_err *err)
{
    const struct ap_http_options options = {
        .listen = p->config->listen, .max_body_bytes = (size_t)p->config->max_body_bytes, .max_connections = (unsigned)p->config->max_connections,
        .idle_timeout_s = (unsigned)p->config->idle_timeout_s, .routes = ap_producer_routes, .metrics = p->metrics, .user = p,
        .ready = ready, .healthy = healthy,
    };
    return ap_http_start(server, &options, err);
}
