/* The HTTP server: opening the port, starting and stopping libmicrohttpd, the built-in routes.
 *
 * The listening socket is ours, so that a port in use is said in our words. Stopping: no new connections, new requests
 * on old connections get 503, running ones may end and their answers are sent; what still runs after a grace (an upload
 * that does not end) is cut. Fails only at start. */
#include "common/http.h"
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/http_impl.h"
#include "common/log.h"

#define STOP_GRACE_S 10
#define RESERVE_CONNECTIONS 32 /* past max_connections, to say 503 on */
#define CONNECTION_MEMORY_BYTES (128u << 10) /* bounds the headers, and the size of a streamed piece */
#define BACKLOG 1024

/* --- built-in routes --- */

static void serve_metrics(struct ap_http_request *req)
{
    size_t len;
    char *page = ap_metrics_render(req->server->options.metrics, &len);
    ap_http_reply_take(req, 200, "text/plain; version=0.0.4; charset=utf-8", page, len);
}

static void serve_check(struct ap_http_request *req, bool (*check)(void *, char *, size_t), const char *good)
{
    char why[400] = "";
    if (!check || check(req->server->options.user, why, sizeof why - 1)) {
        if (*why)
            good = strcat(why, "\n");
        ap_http_reply(req, 200, "text/plain", good, strlen(good));
        return;
    }
    strcat(why, "\n");
    ap_http_add_header(req, "Retry-After", "1");
    ap_http_reply(req, 503, "text/plain", why, strlen(why));
}

static void serve_health(struct ap_http_request *req)
{
    serve_check(req, req->server->options.healthy, "healthz check passed\n");
}

static void serve_live(struct ap_http_request *req)
{
    serve_check(req, NULL, "livez check passed\n");
}

static void serve_ready(struct ap_http_request *req)
{
    serve_check(req, req->server->options.ready, "all shards are ready\n");
}

static const struct ap_http_route builtin_routes[] = {
    {"GET", "/metrics", serve_metrics, NULL, "metrics"},
    {"GET", "/healthz", serve_health, NULL, "healthz"},
    {"GET", "/livez", serve_live, NULL, "livez"},
    {"GET", "/readyz", serve_ready, NULL, "readyz"},
    {"", "", NULL, NULL, "none"}, /* stands for what no route matches; stays last */
};

/* --- the port --- */

static int bad_listen(struct ap_err *err, const char *text, const char *why)
{
    return ap_err_set(err, AP_EINVAL, AP_FATAL, "cannot listen on \"%s\": %s (expected 127.0.0.1:8101 or [::1]:8101)", text, why);
}

static int resolve(const char *listen_text, struct addrinfo **found, struct ap_err *err)
{
    char host[256];
    const char *colon = strrchr(listen_text, ':');
    if (!colon || colon == listen_text || (size_t)(colon - listen_text) >= sizeof host)
        return bad_listen(err, listen_text, "not an address and a port");
    bool bracketed = listen_text[0] == '[' && colon[-1] == ']';
    snprintf(host, sizeof host, "%.*s", (int)(colon - listen_text) - 2 * bracketed, listen_text + bracketed);
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (end == colon + 1 || *end || port > 65535 || colon[1] == '-' || colon[1] == '+')
        return bad_listen(err, listen_text, "the port is not a number up to 65535");
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    int rc = getaddrinfo(host, colon + 1, &hints, found);
    return rc ? bad_listen(err, listen_text, gai_strerror(rc)) : 0;
}

static int listen_error(struct ap_err *err, const char *listen_text, int error)
{
    const char *advice = error == EADDRINUSE ? "; another program holds it (ss -ltnp shows which): stop it, or change listen"
                         : error == EACCES   ? "; ports below 1024 need a privilege: choose a higher one"
                         : error == EADDRNOTAVAIL ? "; no interface of this machine has that address"
                                                  : "";
    return ap_err_set(err, AP_EIO, AP_FATAL, "cannot listen on %s: %s%s", listen_text, strerror(error), advice);
}

static int port_of(int fd)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &len))
        return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static int open_port(const char *listen_text, int *fd_out, bool *ipv6, struct ap_err *err)
{
    struct addrinfo *address = NULL;
    int one = 1, rc = resolve(listen_text, &address, err);
    if (rc)
        return rc;
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) || /* accepted sockets inherit it */
        bind(fd, address->ai_addr, address->ai_addrlen) || listen(fd, BACKLOG)) {
        rc = listen_error(err, listen_text, errno);
        if (fd >= 0)
            close(fd);
    } else {
        *fd_out = fd;
        *ipv6 = address->ai_family == AF_INET6;
    }
    freeaddrinfo(address);
    return rc;
}

/* --- start and stop --- */

static void add_endpoint(struct ap_http_server *s, const struct ap_http_route *route)
{
    char labels[128];
    snprintf(labels, sizeof labels, "route=\"%s\"", route->metric);
    s->endpoints[s->endpoint_count++] = (struct ap_http_endpoint){
        .route = *route,
        .latency = ap_histogram(s->options.metrics, "antipode_http_request_seconds", labels,
                                "HTTP latency by route, from the headers read to the answer sent."),
    };
}

static void add_endpoints(struct ap_http_server *s)
{
    const size_t builtin = sizeof builtin_routes / sizeof *builtin_routes;
    size_t own = 0;
    while (s->options.routes && s->options.routes[own].method)
        own++;
    s->endpoints = calloc(own + builtin, sizeof *s->endpoints);
    if (!s->endpoints)
        abort();
    for (size_t i = 0; i < own; i++) {
        const struct ap_http_route *r = &s->options.routes[i];
        assert(!r->handler != !r->stream && r->metric);
        add_endpoint(s, r);
    }
    for (size_t i = 0; i < builtin; i++)
        add_endpoint(s, &builtin_routes[i]);
}

static void __attribute__((format(printf, 2, 0))) log_mhd(void *cls, const char *fmt, va_list args)
{
    char text[300];
    (void)cls;
    vsnprintf(text, sizeof text, fmt, args);
    ap_debug("http: %s", text); /* clients that go away; nothing an operator can act on */
}

static struct MHD_Daemon *start_daemon(struct ap_http_server *s, int fd, bool ipv6)
{
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL | MHD_USE_ITC |
                     MHD_USE_ERROR_LOG | (ipv6 ? MHD_USE_IPv6 : 0);
    /* The logger comes first: it is used by the options after it. */
    return MHD_start_daemon(flags, 0, NULL, NULL, ap_http_on_access, s,
                            MHD_OPTION_EXTERNAL_LOGGER, log_mhd, NULL,
                            MHD_OPTION_LISTEN_SOCKET, fd,
                            MHD_OPTION_URI_LOG_CALLBACK, ap_http_on_uri, s,
                            MHD_OPTION_NOTIFY_COMPLETED, ap_http_on_completed, s,
                            MHD_OPTION_NOTIFY_CONNECTION, ap_http_on_connection, s,
                            MHD_OPTION_CONNECTION_LIMIT, s->options.max_connections + RESERVE_CONNECTIONS,
                            MHD_OPTION_CONNECTION_TIMEOUT, s->options.idle_timeout_s,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY_BYTES, MHD_OPTION_END);
}

static void free_server(struct ap_http_server *s)
{
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    free(s->endpoints);
    free(s);
}

int ap_http_start(struct ap_http_server **server, const struct ap_http_options *options, struct ap_err *err)
{
    int fd = -1;
    bool ipv6 = false;
    int rc = open_port(options->listen, &fd, &ipv6, err);
    if (rc)
        return rc;
    struct ap_http_server *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->options = *options;
    s->port = port_of(fd);
    s->connections_gauge = ap_gauge(options->metrics, "antipode_http_connections", NULL, "Open HTTP connections.");
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, &clock);
    pthread_condattr_destroy(&clock);
    add_endpoints(s);
    s->daemon = start_daemon(s, fd, ipv6);
    if (!s->daemon) {
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "cannot start the HTTP server on %s: %s", options->listen, strerror(errno));
        close(fd);
        free_server(s);
        return rc;
    }
    *server = s;
    return 0;
}

int ap_http_port(const struct ap_http_server *server)
{
    return server->port;
}

void ap_http_stop(struct ap_http_server **server)
{
    struct ap_http_server *s = *server;
    if (!s)
        return;
    int fd = MHD_quiesce_daemon(s->daemon);
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += STOP_GRACE_S;
    pthread_mutex_lock(&s->lock);
    __atomic_store_n(&s->stopping, true, __ATOMIC_RELAXED);
    while (s->active && pthread_cond_timedwait(&s->idle, &s->lock, &deadline) == 0)
        ;
    pthread_mutex_unlock(&s->lock);
    MHD_stop_daemon(s->daemon); /* joins every thread, so also a handler that outlasts the grace */
    if (fd >= 0)
        close(fd);
    free_server(s);
    *server = NULL;
}
