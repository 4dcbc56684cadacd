/* Serving requests: the callbacks that libmicrohttpd calls in the thread of a connection.
 *
 * Flow of a request: on_uri keeps the raw request line, on_access is called with the headers (begin_request: routing,
 * limits), with each piece of the body (take_piece), and at its end (end_request: the handler), and on_completed after the
 * answer is sent. MHD takes an answer only before or after the body, never amid it, so an answer given amid a body waits
 * while a short rest is swallowed, or is written straight to the socket, which then ends (send_now).
 * A connection that ends with part of the body unread is drained for a moment first: otherwise the kernel would answer
 * the unread bytes with a reset, and that can destroy the answer before the client has read it. */
#include "common/http_impl.h"
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/timeutil.h"

#define SWALLOW_BYTES (1u << 20) /* a rest up to this is read and dropped, so that the connection lives on */
#define LINGER_MS 1000
#define LINGER_BYTES (64u << 20)

/* Per connection, in MHD's socket context. */
struct connection {
    bool over_limit;
    bool unread; /* ends with body bytes that were not read */
};

static struct connection *connection_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

static int socket_of(struct MHD_Connection *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

/* --- routing and limits, once the headers are there --- */

static void list_methods(const struct ap_http_server *s, const char *path, char *out, size_t size)
{
    size_t used = 0, count;
    char *params[AP_HTTP_MAX_PARAMS];
    out[0] = 0;
    for (size_t i = 0; i + 1 < s->endpoint_count; i++) {
        const struct ap_http_route *r = &s->endpoints[i].route;
        if (!ap_http_match(r->pattern, path, params, &count))
            continue;
        while (count)
            free(params[--count]);
        if (strstr(out, r->method) || used + strlen(r->method) + 3 > size)
            continue;
        used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", r->method);
    }
}

static bool same_method(const char *route, const char *asked)
{
    /* HEAD is GET whose body MHD leaves out. */
    return strcmp(route, strcmp(asked, MHD_HTTP_METHOD_HEAD) == 0 ? MHD_HTTP_METHOD_GET : asked) == 0;
}

static void route_request(struct ap_http_request *req)
{
    struct ap_http_server *s = req->server;
    bool path_known = false;
    for (size_t i = 0; i + 1 < s->endpoint_count; i++) {
        struct ap_http_endpoint *e = &s->endpoints[i];
        if (path_known && !same_method(e->route.method, req->method))
            continue;
        int matched = ap_http_match(e->route.pattern, req->path, req->params, &req->param_count);
        path_known = path_known || matched;
        if (matched && same_method(e->route.method, req->method)) {
            req->endpoint = e;
            if (matched < 0)
                ap_http_reply_error(req, 400, "malformed percent-encoding in the path %s", req->path);
            return;
        }
        while (req->param_count)
            free(req->params[--req->param_count]);
    }
    req->endpoint = &s->endpoints[s->endpoint_count - 1];
    if (path_known) {
        char allow[64];
        list_methods(s, req->path, allow, sizeof allow);
        ap_http_add_header(req, "Allow", allow);
        ap_http_reply_error(req, 405, "%s is not allowed on %s, only %s", req->method, req->path, allow);
    } else {
        ap_http_reply_error(req, 404, "unknown path %s", req->path);
    }
}

static void read_framing(struct ap_http_request *req)
{
    const char *length = ap_http_header(req, "Content-Length");
    const char *expect = ap_http_header(req, "Expect");
    req->expects_continue = expect && strcasecmp(expect, "100-continue") == 0;
    if (length)
        req->declared_bytes = strtoull(length, NULL, 10); /* MHD has refused what is not a number */
    else
        req->declared_bytes = ap_http_header(req, "Transfer-Encoding") ? UINT64_MAX : 0;
}

static void reply_too_big(struct ap_http_request *req)
{
    ap_http_reply_error(req, 413, "the body is over the limit of %zu bytes", req->max_body);
}

static void check_limits(struct ap_http_request *req)
{
    struct ap_http_server *s = req->server;
    struct connection *c = connection_of(req->connection);
    const char *encoding = ap_http_header(req, "Content-Encoding");
    if (c && c->over_limit) {
        req->close_after = true;
        ap_http_add_header(req, "Retry-After", "1");
        ap_http_reply_error(req, 503, "too many connections: the limit is %u (max_connections)", s->options.max_connections);
    } else if (__atomic_load_n(&s->stopping, __ATOMIC_RELAXED)) {
        req->close_after = true;
        ap_http_add_header(req, "Retry-After", "1");
        ap_http_reply_error(req, 503, "the server is stopping");
    } else if (encoding && strcasecmp(encoding, "identity") != 0) {
        ap_http_reply_error(req, 415, "Content-Encoding %s is not supported, send the body as it is", encoding);
    } else if (req->endpoint->route.handler && req->declared_bytes != UINT64_MAX && req->declared_bytes > req->max_body) {
        reply_too_big(req);
    }
}

/* --- answering through MHD, or straight to the socket --- */

static enum MHD_Result queue_reply(struct ap_http_request *req)
{
    struct ap_http_reply *reply = &req->reply;
    struct MHD_Response *response = MHD_create_response_from_buffer(reply->len, reply->body, MHD_RESPMEM_MUST_FREE);
    if (!response)
        return MHD_NO;
    reply->body = NULL;
    if (*reply->content_type)
        MHD_add_response_header(response, "Content-Type", reply->content_type);
    for (const struct ap_http_header *h = reply->headers; h; h = h->next)
        MHD_add_response_header(response, h->name, h->value);
    if (req->close_after)
        MHD_add_response_header(response, "Connection", "close");
    enum MHD_Result queued = MHD_queue_response(req->connection, (unsigned)reply->status, response);
    MHD_destroy_response(response);
    return queued;
}

static void write_all(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;
    int64_t deadline = ap_mono_ms() + LINGER_MS;
    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EINTR) && ap_mono_ms() < deadline) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 50);
        } else {
            return; /* the client is gone */
        }
    }
}

/* Answer amid a body. MHD will not, so write the answer ourselves and let MHD drop the connection (MHD_NO). */
static enum MHD_Result send_now(struct ap_http_request *req)
{
    struct ap_http_reply *reply = &req->reply;
    struct ap_buf out = {0};
    ap_buf_printf(&out, "HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: %zu\r\n", reply->status,
                  ap_http_reason(reply->status), reply->len);
    if (*reply->content_type)
        ap_buf_printf(&out, "Content-Type: %s\r\n", reply->content_type);
    for (const struct ap_http_header *h = reply->headers; h; h = h->next)
        ap_buf_printf(&out, "%s: %s\r\n", h->name, h->value);
    ap_buf_append(&out, "\r\n", 2);
    ap_buf_append(&out, reply->body, reply->len);
    write_all(socket_of(req->connection), out.data, out.len);
    ap_buf_free(&out);
    struct connection *c = connection_of(req->connection);
    if (c)
        c->unread = true;
    return MHD_NO;
}

/* Is what is left of the body short enough to be read and dropped? */
static bool worth_swallowing(const struct ap_http_request *req)
{
    if (req->declared_bytes == UINT64_MAX || req->close_after)
        return false;
    return req->declared_bytes - req->received_bytes <= SWALLOW_BYTES && !req->expects_continue;
}

/* --- the three calls of on_access --- */

static enum MHD_Result begin_request(struct ap_http_request *req, struct MHD_Connection *connection, const char *method)
{
    struct ap_http_server *s = req->server;
    req->connection = connection;
    req->start_ns = ap_mono_ns();
    req->method = method;
    req->max_body = s->options.max_body_bytes;
    pthread_mutex_lock(&s->lock);
    s->active++;
    pthread_mutex_unlock(&s->lock);

    read_framing(req);
    route_request(req);
    if (!req->reply.ready)
        check_limits(req);
    const struct ap_http_stream *stream = req->endpoint->route.stream;
    if (!req->reply.ready && stream) {
        req->streaming = true;
        req->stream_state = stream->begin(req);
    }
    if (!req->reply.ready && !stream && req->declared_bytes != UINT64_MAX)
        ap_buf_reserve(&req->body, (size_t)req->declared_bytes + 1);
    if (!req->reply.ready || req->declared_bytes == 0 || worth_swallowing(req))
        return MHD_YES;
    /* An answer before the body: MHD sends it and closes, the body is never asked for. */
    struct connection *c = connection_of(connection);
    if (c)
        c->unread = true;
    req->close_after = true;
    return queue_reply(req);
}

static enum MHD_Result take_piece(struct ap_http_request *req, const char *bytes, size_t len)
{
    req->received_bytes += len;
    req->expects_continue = false; /* it has been told to */
    if (req->reply.ready)
        return MHD_YES; /* swallowed */
    const struct ap_http_route *route = &req->endpoint->route;
    if (route->stream)
        route->stream->data(req, req->stream_state, bytes, len);
    else if (len > req->max_body - req->body.len)
        reply_too_big(req);
    else
        ap_buf_append(&req->body, bytes, len);
    if (!req->reply.ready || req->received_bytes == req->declared_bytes || worth_swallowing(req))
        return MHD_YES;
    return send_now(req);
}

static enum MHD_Result end_request(struct ap_http_request *req)
{
    const struct ap_http_route *route = &req->endpoint->route;
    if (!req->reply.ready && route->stream) {
        route->stream->end(req, req->stream_state);
    } else if (!req->reply.ready) {
        ap_buf_append(&req->body, "", 1);
        req->body.len--;
        route->handler(req);
    }
    if (!req->reply.ready)
        ap_http_reply_error(req, 500, "the handler of %s %s gave no answer", route->method, route->pattern);
    if (__atomic_load_n(&req->server->stopping, __ATOMIC_RELAXED))
        req->close_after = true;
    return queue_reply(req);
}

enum MHD_Result ap_http_on_access(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *piece, size_t *piece_len, void **context)
{
    struct ap_http_request *req = *context;
    (void)cls, (void)url, (void)version;
    if (!req)
        return MHD_NO; /* on_uri had no memory */
    if (!req->endpoint)
        return begin_request(req, connection, method);
    if (*piece_len == 0)
        return end_request(req);
    size_t len = *piece_len;
    *piece_len = 0;
    return take_piece(req, piece, len);
}

void *ap_http_on_uri(void *cls, const char *uri, struct MHD_Connection *connection)
{
    (void)connection;
    struct ap_http_request *req = calloc(1, sizeof *req);
    char *path = req ? strdup(uri) : NULL;
    if (!path) {
        free(req);
        return NULL;
    }
    req->server = cls;
    req->path = path;
    size_t n = strcspn(path, "?");
    req->query = path + n + (path[n] == '?');
    path[n] = 0;
    return req;
}

static void count_request(const struct ap_http_request *req, int status)
{
    struct ap_http_endpoint *e = req->endpoint;
    int class = status / 100;
    struct ap_metric *counter = __atomic_load_n(&e->by_class[class], __ATOMIC_ACQUIRE);
    if (!counter) {
        char labels[128];
        snprintf(labels, sizeof labels, class ? "route=\"%s\",code=\"%dxx\"" : "route=\"%s\",code=\"aborted\"",
                 e->route.metric, class);
        counter = ap_counter(req->server->options.metrics, "antipode_http_requests_total", labels,
                             "HTTP requests by route and class of status; aborted when the client went away.");
        __atomic_store_n(&e->by_class[class], counter, __ATOMIC_RELEASE);
    }
    ap_count(counter, 1);
    ap_observe(e->latency, (double)(ap_mono_ns() - req->start_ns) * 1e-9);
}

void ap_http_on_completed(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_RequestTerminationCode code)
{
    struct ap_http_server *s = cls;
    struct ap_http_request *req = *context;
    (void)connection;
    *context = NULL;
    if (!req)
        return;
    if (req->endpoint) {
        (void)code; /* an answer that the client did not wait for was given all the same */
        count_request(req, req->reply.ready ? req->reply.status : 0);
        if (req->streaming)
            req->endpoint->route.stream->destroy(req->stream_state);
        pthread_mutex_lock(&s->lock);
        if (--s->active == 0)
            pthread_cond_broadcast(&s->idle);
        pthread_mutex_unlock(&s->lock);
    }
    ap_http_request_free(req);
}

/* Read and drop what the client still sends, until it closes, or it has been long enough. */
static void linger(int fd)
{
    char sink[16384];
    size_t total = 0;
    int64_t deadline = ap_mono_ms() + LINGER_MS;
    shutdown(fd, SHUT_WR);
    while (total < LINGER_BYTES) {
        int64_t left = deadline - ap_mono_ms();
        if (left <= 0 || poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, (int)left) <= 0)
            return;
        ssize_t n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);
        if (n <= 0)
            return;
        total += (size_t)n;
    }
}

void ap_http_on_connection(void *cls, struct MHD_Connection *connection, void **context,
                           enum MHD_ConnectionNotificationCode code)
{
    struct ap_http_server *s = cls;
    struct connection *c = *context;
    unsigned now;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        c = calloc(1, sizeof *c);
        *context = c;
        pthread_mutex_lock(&s->lock);
        now = ++s->connections;
        pthread_mutex_unlock(&s->lock);
        if (c)
            c->over_limit = now > s->options.max_connections;
    } else {
        if (c && c->unread)
            linger(socket_of(connection));
        free(c);
        *context = NULL;
        pthread_mutex_lock(&s->lock);
        now = --s->connections;
        pthread_mutex_unlock(&s->lock);
    }
    ap_gauge_set(s->connections_gauge, now);
}
