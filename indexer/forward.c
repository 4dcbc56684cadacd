/* Forwarding with libcurl. A channel is a curl easy handle in a multi handle of its own, which keeps the connection; idle
 * channels lie in a pool, the one used last on top. Both variants are one transfer driven in the calling thread: a read
 * callback that has nothing to give pauses the transfer until the next push. */
#include "indexer/forward.h"
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "common/bytes.h"
#include "common/timeutil.h"

#define CONNECT_TIMEOUT_MS 1000L
#define MAX_IDLE_S 15L /* an idle connection is not trusted for longer: the peer may be about to close it */
#define NO_DEADLINE INT64_MAX

struct channel {
    struct channel *next;
    CURL *easy;
    CURLM *multi;
};

struct ap_forward {
    struct ap_forward_options options;
    pthread_mutex_t lock; /* guards the pool */
    struct channel *idle;
    unsigned idle_count;
};

struct ap_forward_stream {
    struct ap_forward *forward;
    struct channel *channel;
    struct curl_slist *headers;
    char *url;
    char method[16];
    int64_t timeout_ms;
    const char *piece; /* what is left of the body at hand */
    size_t left;
    const char *first; /* the body's first piece, while a rewind to it is possible */
    size_t first_len;
    bool connected;    /* a request may have reached the peer */
    bool last, done;   /* no more pieces; the transfer is over */
    CURLcode result;
    bool too_big;
    struct ap_buf body;
    struct ap_forward_reply reply;
    char detail[CURL_ERROR_SIZE];
};

/* --- channels --- */

static void channel_free(struct channel *c)
{
    curl_easy_cleanup(c->easy);
    curl_multi_cleanup(c->multi);
    free(c);
}

static struct channel *channel_take(struct ap_forward *f)
{
    pthread_mutex_lock(&f->lock);
    struct channel *c = f->idle;
    if (c) {
        f->idle = c->next;
        f->idle_count--;
    }
    pthread_mutex_unlock(&f->lock);
    if (c)
        return c;
    c = calloc(1, sizeof *c);
    if (!c || !(c->easy = curl_easy_init()) || !(c->multi = curl_multi_init()))
        abort();
    return c;
}

static void channel_return(struct ap_forward *f, struct channel *c)
{
    curl_easy_reset(c->easy); /* options go, connections stay with the multi handle */
    pthread_mutex_lock(&f->lock);
    bool keep = f->idle_count < f->options.max_idle;
    if (keep) {
        c->next = f->idle;
        f->idle = c;
        f->idle_count++;
    }
    pthread_mutex_unlock(&f->lock);
    if (!keep)
        channel_free(c);
}

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void init_curl(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        abort();
}

int ap_forward_new(struct ap_forward **out, const struct ap_forward_options *options, struct ap_err *err)
{
    *out = NULL;
    const char *url = options->base_url;
    if ((strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0) || url[strlen(url) - 1] == '/')
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is not of the form http://host:port", options->peer, url);
    pthread_once(&curl_once, init_curl);
    struct ap_forward *f = calloc(1, sizeof *f);
    if (!f)
        abort();
    f->options = *options;
    if (f->options.max_idle == 0)
        f->options.max_idle = 32;
    pthread_mutex_init(&f->lock, NULL);
    *out = f;
    return 0;
}

void ap_forward_free(struct ap_forward **forward)
{
    struct ap_forward *f = *forward;
    if (!f)
        return;
    for (struct channel *c = f->idle, *next; c; c = next) {
        next = c->next;
        channel_free(c);
    }
    pthread_mutex_destroy(&f->lock);
    free(f);
    *forward = NULL;
}

/* --- curl's callbacks, called in the thread that drives the transfer --- */

static size_t give_body(char *out, size_t size, size_t n, void *arg)
{
    struct ap_forward_stream *s = arg;
    if (s->left == 0)
        return s->last ? 0 : CURL_READFUNC_PAUSE;
    size_t len = s->left < size * n ? s->left : size * n;
    memcpy(out, s->piece, len);
    s->piece += len;
    s->left -= len;
    return len;
}

/* A kept connection that proves dead is replaced by curl, which then wants the body from its start: possible while that
 * is still at hand. */
static int rewind_body(void *arg, curl_off_t offset, int origin)
{
    struct ap_forward_stream *s = arg;
    if (offset != 0 || origin != SEEK_SET || !s->first)
        return CURL_SEEKFUNC_CANTSEEK;
    s->piece = s->first;
    s->left = s->first_len;
    return CURL_SEEKFUNC_OK;
}

static int note_connected(void *arg, char *peer_ip, char *own_ip, int peer_port, int own_port)
{
    struct ap_forward_stream *s = arg;
    (void)peer_ip, (void)own_ip, (void)peer_port, (void)own_port;
    s->connected = true;
    return CURL_PREREQFUNC_OK;
}

static size_t take_body(char *bytes, size_t size, size_t n, void *arg)
{
    struct ap_forward_stream *s = arg;
    if (n * size > AP_FORWARD_MAX_REPLY - s->body.len) {
        s->too_big = true;
        return 0;
    }
    ap_buf_append(&s->body, bytes, n * size);
    return n * size;
}

static size_t take_header(char *line, size_t size, size_t n, void *arg)
{
    struct ap_forward_stream *s = arg;
    struct ap_forward_reply *r = &s->reply;
    size_t len = size * n;
    char *colon = memchr(line, ':', len);
    if (!colon)
        return len;
    size_t name_len = (size_t)(colon - line);
    const char *value = colon + 1, *end = line + len;
    while (value < end && (*value == ' ' || *value == '\t'))
        value++;
    while (end > value && (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' '))
        end--;
    if (name_len == 12 && strncasecmp(line, "Content-Type", 12) == 0)
        snprintf(r->content_type, sizeof r->content_type, "%.*s", (int)(end - value), value);
    for (const char *const *keep = s->forward->options.keep_headers; keep && *keep; keep++)
        if (strlen(*keep) == name_len && strncasecmp(*keep, line, name_len) == 0 && r->header_count < AP_FORWARD_MAX_HEADERS) {
            char *own_name = strdup(*keep), *own_value = strndup(value, (size_t)(end - value));
            if (!own_name || !own_value)
                abort();
            r->headers[r->header_count].name = own_name;
            r->headers[r->header_count++].value = own_value;
        }
    return len;
}

/* --- one transfer --- */

static void add_header(struct ap_forward_stream *s, const char *name, const char *value)
{
    struct ap_buf line = {0};
    ap_buf_printf(&line, "%s: %s", name, value);
    struct curl_slist *longer = curl_slist_append(s->headers, (char *)line.data);
    if (!longer)
        abort();
    s->headers = longer;
    ap_buf_free(&line);
}

static void set_up(struct ap_forward_stream *s, const struct ap_forward_request *r, bool has_body)
{
    CURL *easy = s->channel->easy;
    if (r->content_type)
        add_header(s, "Content-Type", r->content_type);
    for (size_t i = 0; i < r->header_count; i++)
        add_header(s, r->headers[i].name, r->headers[i].value);
    struct curl_slist *longer = curl_slist_append(s->headers, "Expect:"); /* no round trip before the body */
    if (longer && !r->content_type)
        longer = curl_slist_append(longer, "Content-Type:"); /* curl would call it a form */
    if (!longer)
        abort();
    s->headers = longer;

    curl_easy_setopt(easy, CURLOPT_URL, s->url);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, MAX_IDLE_S);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, s->detail);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, s);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, note_connected);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, s);
    if (has_body) {
        curl_easy_setopt(easy, CURLOPT_POST, 1L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->content_length); /* -1: chunked */
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, give_body);
        curl_easy_setopt(easy, CURLOPT_READDATA, s);
        curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, rewind_body);
        curl_easy_setopt(easy, CURLOPT_SEEKDATA, s);
    }
    if (strcmp(r->method, "HEAD") == 0)
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    else
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, s->method);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, s->headers);
    curl_multi_add_handle(s->channel->multi, easy);
}

static struct ap_forward_stream *start(struct ap_forward *f, const struct ap_forward_request *r, bool has_body)
{
    struct ap_forward_stream *s = calloc(1, sizeof *s);
    struct ap_buf url = {0};
    if (!s)
        abort();
    bool query = r->query && *r->query;
    ap_buf_printf(&url, "%s%s%s%s", f->options.base_url, r->path, query ? "?" : "", query ? r->query : "");
    s->forward = f;
    s->url = (char *)url.data;
    s->timeout_ms = r->timeout_ms;
    snprintf(s->method, sizeof s->method, "%s", r->method);
    s->channel = channel_take(f);
    set_up(s, r, has_body);
    return s;
}

static int explain(struct ap_forward_stream *s, CURLcode result, struct ap_err *err)
{
    const struct ap_forward_options *o = &s->forward->options;
    const char *detail = *s->detail ? s->detail : curl_easy_strerror(result);
    if (s->too_big)
        return ap_err_set(err, AP_ETOOBIG, AP_RETRY, "%s at %s: its answer is over %u bytes", o->peer, s->url, AP_FORWARD_MAX_REPLY);
    if (!s->connected)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "cannot reach %s at %s: %s; check that it runs and that the address is right",
                          o->peer, o->base_url, detail);
    if (result == CURLE_OPERATION_TIMEDOUT)
        return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s at %s did not answer %s within %lld ms; whether it was carried out is not known",
                          o->peer, s->url, s->method, (long long)s->timeout_ms);
    return ap_err_set(err, AP_EIO, AP_RETRY, "%s at %s: %s failed: %s; whether it was carried out is not known", o->peer, s->url,
                      s->method, detail);
}

/* Drive the transfer until it is over, or, where `until_taken`, the piece at hand is taken. */
static int drive(struct ap_forward_stream *s, bool until_taken, struct ap_err *err)
{
    int64_t deadline = s->timeout_ms > 0 ? ap_mono_ms() + s->timeout_ms : NO_DEADLINE;
    if (s->done)
        return s->result ? explain(s, s->result, err) : 0;
    curl_easy_pause(s->channel->easy, CURLPAUSE_CONT);
    for (;;) {
        int running = 0, queued;
        CURLMcode rc = curl_multi_perform(s->channel->multi, &running);
        CURLMsg *message = curl_multi_info_read(s->channel->multi, &queued);
        if (message && message->msg == CURLMSG_DONE) {
            s->done = true;
            s->result = message->data.result;
            return s->result ? explain(s, s->result, err) : 0;
        }
        if (until_taken && s->left == 0)
            return 0;
        int64_t left = deadline == NO_DEADLINE ? 1000 : deadline - ap_mono_ms();
        if (left <= 0 || rc != CURLM_OK)
            return explain(s, rc == CURLM_OK ? CURLE_OPERATION_TIMEDOUT : CURLE_FAILED_INIT, err);
        curl_multi_poll(s->channel->multi, NULL, 0, left < 1000 ? (int)left : 1000, NULL);
    }
}

static void hand_over(struct ap_forward_stream *s, struct ap_forward_reply *reply)
{
    long status = 0;
    curl_easy_getinfo(s->channel->easy, CURLINFO_RESPONSE_CODE, &status);
    ap_buf_append(&s->body, "", 1);
    *reply = s->reply;
    reply->status = (int)status;
    reply->len = s->body.len - 1;
    reply->body = (char *)s->body.data;
    s->reply = (struct ap_forward_reply){0};
    s->body = (struct ap_buf){0};
}

int ap_forward_stream_begin(struct ap_forward *forward, const struct ap_forward_request *request, struct ap_forward_stream **out,
                            struct ap_err *err)
{
    (void)err;
    *out = start(forward, request, true);
    return 0;
}

int ap_forward_stream_push(struct ap_forward_stream *s, const void *bytes, size_t len, struct ap_err *err)
{
    if (s->done || len == 0)
        return s->done ? 1 : 0;
    bool first = !s->piece;
    s->piece = bytes;
    s->left = len;
    s->first = first ? s->piece : NULL;
    s->first_len = len;
    int rc = drive(s, true, err);
    s->first = NULL; /* the caller's bytes are his again */
    return rc ? rc : s->done;
}

int ap_forward_stream_end(struct ap_forward_stream *s, struct ap_forward_reply *reply, struct ap_err *err)
{
    *reply = (struct ap_forward_reply){0};
    s->last = true;
    if (!s->piece)
        s->piece = s->first = "";
    int rc = drive(s, false, err);
    if (rc == 0)
        hand_over(s, reply);
    return rc;
}

void ap_forward_stream_free(struct ap_forward_stream **stream)
{
    struct ap_forward_stream *s = *stream;
    if (!s)
        return;
    /* A transfer that is not over loses its connection here: curl does not keep one amid a request. */
    curl_multi_remove_handle(s->channel->multi, s->channel->easy);
    channel_return(s->forward, s->channel);
    curl_slist_free_all(s->headers);
    ap_forward_reply_fini(&s->reply);
    ap_buf_free(&s->body);
    free(s->url);
    free(s);
    *stream = NULL;
}

int ap_forward_send(struct ap_forward *forward, const struct ap_forward_request *request, struct ap_forward_reply *reply,
                    struct ap_err *err)
{
    struct ap_forward_request whole = *request;
    whole.content_length = (int64_t)request->len;
    bool bodiless = request->len == 0 && (strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0 ||
                                          strcmp(request->method, "DELETE") == 0);
    struct ap_forward_stream *s = start(forward, &whole, !bodiless);
    s->piece = s->first = request->len ? request->body : "";
    s->left = s->first_len = request->len;
    int rc = ap_forward_stream_end(s, reply, err);
    ap_forward_stream_free(&s);
    return rc;
}

/* --- between an incoming request and a forwarded one --- */

void ap_forward_request_of(const struct ap_forward *forward, const struct ap_http_request *req, struct ap_forward_request *out)
{
    const char *length = ap_http_header(req, "Content-Length");
    *out = (struct ap_forward_request){
        .method = ap_http_method(req), .path = ap_http_path(req), .query = ap_http_query_string(req),
        .content_type = ap_http_header(req, "Content-Type"),
        .content_length = length ? strtoll(length, NULL, 10) : ap_http_header(req, "Transfer-Encoding") ? -1 : 0,
    };
    out->body = ap_http_body(req, &out->len);
    for (const char *const *pass = forward->options.pass_headers; pass && *pass; pass++) {
        const char *value = ap_http_header(req, *pass);
        if (value && out->header_count < AP_FORWARD_MAX_HEADERS)
            out->headers[out->header_count++] = (struct ap_forward_header){*pass, value};
    }
}

void ap_forward_reply_fini(struct ap_forward_reply *reply)
{
    for (size_t i = 0; i < reply->header_count; i++) {
        free(reply->headers[i].name);
        free(reply->headers[i].value);
    }
    free(reply->body);
    *reply = (struct ap_forward_reply){0};
}

void ap_forward_relay(struct ap_http_request *req, struct ap_forward_reply *reply)
{
    for (size_t i = 0; i < reply->header_count; i++)
        ap_http_add_header(req, reply->headers[i].name, reply->headers[i].value);
    char *body = reply->body;
    reply->body = NULL;
    ap_http_reply_take(req, reply->status, reply->content_type, body, reply->len);
    ap_forward_reply_fini(reply);
}

void ap_forward_pass(struct ap_forward *forward, struct ap_http_request *req, int64_t timeout_ms)
{
    struct ap_forward_request request;
    struct ap_forward_reply reply;
    struct ap_err err;
    ap_forward_request_of(forward, req, &request);
    request.timeout_ms = timeout_ms;
    if (ap_forward_send(forward, &request, &reply, &err))
        ap_http_reply_err(req, &err);
    else
        ap_forward_relay(req, &reply);
}
