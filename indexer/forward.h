/* Passing requests on to another HTTP server (the region's producer), with kept-alive connections.
 *
 * Invariant: memory per request is bounded: a streamed body is never held, only the piece at hand and libcurl's buffer;
 * an answer is at most AP_FORWARD_MAX_REPLY bytes. Redirects are not followed, proxies of the environment not used.
 * A request whose kept connection closes before any byte of an answer is sent once more on a new one, so the peer may get
 * it twice: writes here are idempotent.
 * An ap_forward may be used by any number of threads at once; a stream or a reply by one at a time.
 *
 * Errors, of both variants:
 *   AP_ENOTREADY (RETRY)  nothing was sent: no connection within 1 s. Names the URL and what to look at.
 *   AP_ETIMEOUT (RETRY)   connected, but no progress in time: whether the request was carried out is not known.
 *   AP_EIO (RETRY)        the connection broke: whether the request was carried out is not known.
 *   AP_ETOOBIG (RETRY)    the answer is over the bound. */
#ifndef ANTIPODE_INDEXER_FORWARD_H
#define ANTIPODE_INDEXER_FORWARD_H
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"
#include "common/http.h"

#define AP_FORWARD_MAX_HEADERS 8
#define AP_FORWARD_MAX_REPLY (64u << 20)

struct ap_forward;
struct ap_forward_stream;

struct ap_forward_options {
    const char *base_url;             /* "http://127.0.0.1:8101", without a trailing slash */
    const char *peer;                 /* for errors, e.g. "the producer (producer.url)" */
    const char *const *pass_headers;  /* names, NULL-terminated, passed on by ap_forward_request_of besides Content-Type; or NULL */
    const char *const *keep_headers;  /* names of the answer's headers to hand back besides Content-Type; or NULL */
    unsigned max_idle;                /* connections kept for later; default 32 */
};

struct ap_forward_header { const char *name, *value; };

/* Everything is borrowed for the call, or for the life of the stream. */
struct ap_forward_request {
    const char *method;
    const char *path, *query;         /* as they go on the wire; query without '?', NULL or "" when none */
    const char *content_type;         /* NULL: none */
    struct ap_forward_header headers[AP_FORWARD_MAX_HEADERS];
    size_t header_count;
    const void *body;                 /* ap_forward_send only */
    size_t len;
    int64_t content_length;           /* ap_forward_stream_begin only; -1: chunked */
    int64_t timeout_ms;               /* send: in all. Stream: for each push, and for the answer after the end */
};

struct ap_forward_reply {
    int status;
    char content_type[96];
    char *body;                       /* NUL-terminated */
    size_t len;
    struct { char *name, *value; } headers[AP_FORWARD_MAX_HEADERS];
    size_t header_count;
};

int ap_forward_new(struct ap_forward **out, const struct ap_forward_options *options, struct ap_err *err); /* strings are borrowed for its life */
void ap_forward_free(struct ap_forward **forward); /* no request may be under way */

/* Method, path, query, content type, passed headers and declared length of a request that came in, and its body on a
 * buffered route. Borrows from req; timeout_ms is left to the caller. */
void ap_forward_request_of(const struct ap_forward *forward, const struct ap_http_request *req, struct ap_forward_request *out);

/* The whole body at once. 0 with *reply filled, whatever its status. */
int ap_forward_send(struct ap_forward *forward, const struct ap_forward_request *request, struct ap_forward_reply *reply,
                    struct ap_err *err);

/* A body in pieces: begin, push ..., end. Nothing is sent before the first push or the end, so a peer that is away is
 * noticed there. push returns 0 when the piece is taken (the caller may reuse it); 1 when the answer is already there and
 * no more is wanted (go on with end); or an error, after which only free makes sense. */
int ap_forward_stream_begin(struct ap_forward *forward, const struct ap_forward_request *request, struct ap_forward_stream **out,
                            struct ap_err *err);
int ap_forward_stream_push(struct ap_forward_stream *stream, const void *bytes, size_t len, struct ap_err *err);
int ap_forward_stream_end(struct ap_forward_stream *stream, struct ap_forward_reply *reply, struct ap_err *err);
void ap_forward_stream_free(struct ap_forward_stream **stream); /* before its end: drops the connection, the peer sees an abort */

void ap_forward_reply_fini(struct ap_forward_reply *reply);
/* Answer req with the reply: status, body (taken), content type, kept headers. */
void ap_forward_relay(struct ap_http_request *req, struct ap_forward_reply *reply);
/* ap_forward_request_of, ap_forward_send, ap_forward_relay; an error is answered as ap_http_reply_err does. */
void ap_forward_pass(struct ap_forward *forward, struct ap_http_request *req, int64_t timeout_ms);

#endif
