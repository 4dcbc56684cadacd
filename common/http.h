/* HTTP/1.1 server over libmicrohttpd, one thread per connection, keep-alive.
 *
 * A route's handler runs in the connection's own thread and may block (waiting for Kafka or for a watermark): that is
 * the back-pressure. Connections are bounded by max_connections; past that a client gets 503. Buffered bodies are
 * bounded by max_body_bytes (413 over it, without reading on). Streaming routes get the body in pieces as it arrives and
 * see it whole never. A trailing slash of the path is ignored; path parameters are percent-decoded.
 * Errors are rendered as Qdrant does: {"status":{"error":"..."},"time":0.0}. */
#ifndef ANTIPODE_COMMON_HTTP_H
#define ANTIPODE_COMMON_HTTP_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"
#include "common/metrics.h"

struct ap_http_server;
struct ap_http_request; /* valid during the handler */

/* --- reading a request; returned strings live as long as the request --- */
const char *ap_http_method(const struct ap_http_request *req);
const char *ap_http_path(const struct ap_http_request *req);              /* raw path, without the query */
const char *ap_http_param(const struct ap_http_request *req, size_t i);   /* i-th {param} of the route; asserts i in range */
const char *ap_http_query(const struct ap_http_request *req, const char *name);  /* NULL when absent */
const char *ap_http_query_string(const struct ap_http_request *req); /* raw "a=b&c", "" when none: for passing on */
const char *ap_http_header(const struct ap_http_request *req, const char *name); /* NULL when absent */
const char *ap_http_body(const struct ap_http_request *req, size_t *len);        /* buffered routes; NUL-terminated */
void *ap_http_user(const struct ap_http_request *req);                    /* the server's user pointer */
int64_t ap_http_start_ns(const struct ap_http_request *req);              /* CLOCK_MONOTONIC when the headers were read */
/* Parse the buffered body as a JSON object (jansson, JSON_REJECT_DUPLICATES). An empty body is an empty object.
 * New reference, or NULL with *err saying line and column. */
json_t *ap_http_json(const struct ap_http_request *req, struct ap_err *err);

/* --- answering; exactly one of these per request --- */
void ap_http_reply(struct ap_http_request *req, int status, const char *content_type, const void *body, size_t len); /* copies */
void ap_http_reply_take(struct ap_http_request *req, int status, const char *content_type, char *body, size_t len); /* takes body, free()s it */
/* {"result":result,"status":"ok","time":seconds}; steals the reference of result. Floats are printed with 9 digits. */
void ap_http_reply_result(struct ap_http_request *req, json_t *result);
void ap_http_reply_error(struct ap_http_request *req, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Status from err->code as err.h says; 503 carries Retry-After: 1. */
void ap_http_reply_err(struct ap_http_request *req, const struct ap_err *err);
int ap_http_status_of(int code);
/* Before replying; copies. */
void ap_http_add_header(struct ap_http_request *req, const char *name, const char *value);

typedef void (*ap_http_handler)(struct ap_http_request *req);

/* A streaming route. begin may reply at once (an error): then the rest of the body is not delivered. data is called for
 * each piece, in order, and may block; after it has replied no more pieces come. end must reply if nothing has. abort
 * is called instead of end when the client went away. state is the handler's own. */
struct ap_http_stream {
    void *(*begin)(struct ap_http_request *req);
    void (*data)(struct ap_http_request *req, void *state, const char *bytes, size_t len);
    void (*end)(struct ap_http_request *req, void *state);
    void (*destroy)(void *state); /* always called last when begin was called, also after an abort */
};

struct ap_http_route {
    const char *method;   /* "GET", ...; a path known under other methods only gives 405 */
    const char *pattern;  /* "/collections/{name}/points" */
    ap_http_handler handler;              /* buffered */
    const struct ap_http_stream *stream;  /* or streaming */
    const char *metric;   /* value of the "route" label of antipode_http_request_seconds and antipode_http_requests_total */
};
#define AP_HTTP_ROUTES_END { NULL, NULL, NULL, NULL, NULL }

struct ap_http_options {
    const char *listen;          /* "127.0.0.1:8101" or "[::1]:8101"; port 0 picks a free one */
    size_t max_body_bytes;
    unsigned max_connections;
    unsigned idle_timeout_s;
    const struct ap_http_route *routes; /* borrowed; matched before the built-in ones */
    struct ap_metrics *metrics;  /* borrowed; /metrics is served from it */
    void *user;
    /* /readyz: return true when ready, else write why into the buffer; words written there when ready are answered, too. /healthz and /livez: 200 while the process runs,
     * unless healthy (may be NULL) says otherwise (then 503 on /healthz alone). */
    bool (*ready)(void *user, char *why, size_t why_len);
    bool (*healthy)(void *user, char *why, size_t why_len);
};

/* Listens when it returns 0. AP_EIO names the address and what holds it (address in use, no permission). */
int ap_http_start(struct ap_http_server **server, const struct ap_http_options *options, struct ap_err *err);
int ap_http_port(const struct ap_http_server *server);
/* Stops accepting, lets running handlers end, then frees. */
void ap_http_stop(struct ap_http_server **server);

#endif
