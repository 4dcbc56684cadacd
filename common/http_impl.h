/* Inside the HTTP server: what http.c (start and stop), http_serve.c (MHD's callbacks), http_request.c (reading)
 * and http_reply.c (answering) share. */
#ifndef ANTIPODE_COMMON_HTTP_IMPL_H
#define ANTIPODE_COMMON_HTTP_IMPL_H
#include <microhttpd.h>
#include <pthread.h>
#include "common/bytes.h"
#include "common/http.h"


#define AP_HTTP_MAX_PARAMS 8
#define AP_HTTP_CLASSES 6 /* 1xx to 5xx, and [0] for requests whose client went away */

struct ap_http_header {
    struct ap_http_header *next;
    char *name, *value;
};

struct ap_http_query_pair { char *name, *value; };

/* A route with its metrics; the last one of the server stands for unknown paths. */
struct ap_http_endpoint {
    struct ap_http_route route;
    struct ap_metric *latency;
    struct ap_metric *by_class[AP_HTTP_CLASSES]; /* registered when first counted */
};

struct ap_http_reply {
    bool ready;
    int status;
    char content_type[96];
    char *body; /* owned */
    size_t len;
    struct ap_http_header *headers;
};

struct ap_http_request {
    struct ap_http_server *server;
    struct MHD_Connection *connection;
    struct ap_http_endpoint *endpoint; /* NULL until the headers are there */
    int64_t start_ns;
    const char *method;
    char *path;  /* raw, without the query; owned */
    char *query; /* raw, within path's allocation; "" when none */
    char *params[AP_HTTP_MAX_PARAMS]; /* decoded, owned */
    size_t param_count;
    struct ap_http_query_pair *pairs; /* decoded on first use */
    size_t pair_count;
    bool pairs_ready;

    struct ap_buf body;       /* buffered routes */
    size_t max_body;
    uint64_t declared_bytes;  /* Content-Length; UINT64_MAX when it is not given */
    uint64_t received_bytes;
    bool expects_continue;
    bool close_after;         /* the answer ends the connection */
    bool streaming;           /* begin was called and destroy is owed */
    void *stream_state;
    struct ap_http_reply reply;
};

struct ap_http_server {
    struct ap_http_options options; /* strings are borrowed during start only */
    struct MHD_Daemon *daemon;
    int port;
    struct ap_http_endpoint *endpoints;
    size_t endpoint_count;
    struct ap_metric *connections_gauge;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t idle;
    unsigned connections;
    unsigned active; /* requests whose headers were read and whose answer is not sent */
    bool stopping; /* written under the lock, read without: atomic */
};

/* Percent-decode in place ('+' is a blank where plus_is_blank). False for a bad escape or a NUL. */
bool ap_http_decode(char *text, bool plus_is_blank);
/* Match a raw path against a pattern; on success fills params (owned by the caller, decoded). Returns 1 matched, 0 not,
 * -1 matched but an escape is malformed. A trailing slash is ignored. */
int ap_http_match(const char *pattern, const char *path, char **params, size_t *count);
void ap_http_request_free(struct ap_http_request *req);

const char *ap_http_reason(int status);
void ap_http_reply_fini(struct ap_http_reply *reply);

/* MHD's callbacks (http_serve.c). */
void *ap_http_on_uri(void *cls, const char *uri, struct MHD_Connection *connection);
enum MHD_Result ap_http_on_access(void *cls, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *piece, size_t *piece_len, void **context);
void ap_http_on_completed(void *cls, struct MHD_Connection *connection, void **context,
                          enum MHD_RequestTerminationCode code);
void ap_http_on_connection(void *cls, struct MHD_Connection *connection, void **context,
                           enum MHD_ConnectionNotificationCode code);

#endif
