/* Answering a request: the reply is kept in the request; http.c sends it once the request allows it. */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/http_impl.h"
#include "common/timeutil.h"

static const char json_content[] = "application/json";

void ap_http_reply_fini(struct ap_http_reply *reply)
{
    for (struct ap_http_header *h = reply->headers, *next; h; h = next) {
        next = h->next;
        free(h->name);
        free(h->value);
        free(h);
    }
    free(reply->body);
    *reply = (struct ap_http_reply){0};
}

const char *ap_http_reason(int status)
{
    switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 400: return "Bad Request";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 507: return "Insufficient Storage";
    default: return "Status";
    }
}

void ap_http_add_header(struct ap_http_request *req, const char *name, const char *value)
{
    assert(!req->reply.ready);
    struct ap_http_header *h = calloc(1, sizeof *h);
    if (!h || !(h->name = strdup(name)) || !(h->value = strdup(value)))
        abort();
    h->next = req->reply.headers;
    req->reply.headers = h;
}

void ap_http_reply_take(struct ap_http_request *req, int status, const char *content_type, char *body, size_t len)
{
    assert(!req->reply.ready); /* exactly one reply per request */
    req->reply.ready = true;
    req->reply.status = status;
    snprintf(req->reply.content_type, sizeof req->reply.content_type, "%s", content_type ? content_type : "");
    req->reply.body = body;
    req->reply.len = len;
}

void ap_http_reply(struct ap_http_request *req, int status, const char *content_type, const void *body, size_t len)
{
    char *copy = malloc(len ? len : 1);
    if (!copy)
        abort();
    if (len)
        memcpy(copy, body, len);
    ap_http_reply_take(req, status, content_type, copy, len);
}

static double elapsed_seconds(const struct ap_http_request *req)
{
    return (double)(ap_mono_ns() - req->start_ns) * 1e-9;
}

static int append(const char *text, size_t len, void *buf)
{
    ap_buf_append(buf, text, len);
    return 0;
}

void ap_http_reply_result(struct ap_http_request *req, json_t *result)
{
    struct ap_buf out = {0};
    ap_buf_reserve(&out, 256);
    ap_buf_append(&out, "{\"result\":", 10);
    int rc = json_dump_callback(result, append, &out, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(result);
    if (rc) {
        ap_buf_free(&out);
        ap_http_reply_error(req, 500, "the answer cannot be written as JSON");
        return;
    }
    ap_buf_printf(&out, ",\"status\":\"ok\",\"time\":%.9f}", elapsed_seconds(req));
    ap_http_reply_take(req, 200, json_content, (char *)out.data, out.len);
}

/* JSON text of a message that may quote anything a client sent. Bytes that are not UTF-8 become '?'. */
static void append_json_string(struct ap_buf *out, const char *text)
{
    json_t *string = json_string(text);
    if (!string) {
        char *ascii = strdup(text);
        if (!ascii)
            abort();
        for (char *p = ascii; *p; p++)
            if ((unsigned char)*p >= 0x80)
                *p = '?';
        string = json_string(ascii);
        free(ascii);
    }
    if (!string || json_dump_callback(string, append, out, JSON_ENCODE_ANY))
        ap_buf_append(out, "\"\"", 2);
    json_decref(string);
}

void ap_http_reply_error(struct ap_http_request *req, int status, const char *fmt, ...)
{
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    struct ap_buf out = {0};
    ap_buf_append(&out, "{\"status\":{\"error\":", 19);
    append_json_string(&out, message);
    ap_buf_append(&out, "},\"time\":0.0}", 13);
    ap_http_reply_take(req, status, json_content, (char *)out.data, out.len);
}

int ap_http_status_of(int code)
{
    switch ((enum ap_code)code) {
    case AP_OK: return 200;
    case AP_EINVAL:
    case AP_EUNSUPPORTED: return 400;
    case AP_ENOTFOUND: return 404;
    case AP_EEXISTS:
    case AP_ECONFLICT: return 409;
    case AP_ETOOBIG: return 413;
    case AP_EBUSY:
    case AP_ENOTREADY:
    case AP_ESCHEMA:
    case AP_EKAFKA: return 503; /* Kafka's trouble passes, or the operator sees it on /readyz */
    case AP_ETIMEOUT: return 504;
    case AP_ENOSPC: return 507;
    case AP_ENOMEM:
    case AP_EIO:
    case AP_ECORRUPT: return 500;
    }
    return 500;
}

void ap_http_reply_err(struct ap_http_request *req, const struct ap_err *err)
{
    int status = ap_http_status_of(err->code);
    if (status == 200)
        status = 500; /* an error without a code is still an error */
    if (status == 503)
        ap_http_add_header(req, "Retry-After", "1");
    ap_http_reply_error(req, status, "%s", err->msg);
}
