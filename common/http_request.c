/* Reading a request: path parameters, query, headers, JSON body. Runs in the connection's thread. */
#include <assert.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include "common/http_impl.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool ap_http_decode(char *text, bool plus_is_blank)
{
    char *out = text;
    for (const char *p = text; *p; p++) {
        if (*p == '%') {
            int high = hex_digit(p[1]);
            int low = high < 0 ? -1 : hex_digit(p[2]);
            if (low < 0 || (high == 0 && low == 0))
                return false;
            *out++ = (char)(high * 16 + low);
            p += 2;
        } else {
            *out++ = plus_is_blank && *p == '+' ? ' ' : *p;
        }
    }
    *out = 0;
    return true;
}

int ap_http_match(const char *pattern, const char *path, char **params, size_t *count)
{
    int result = 1;
    *count = 0;
    for (;;) {
        if (*pattern == '{') {
            size_t n = strcspn(path, "/");
            if (n == 0)
                break;
            assert(*count < AP_HTTP_MAX_PARAMS);
            char *param = strndup(path, n);
            if (!param)
                abort();
            params[(*count)++] = param;
            if (!ap_http_decode(param, false))
                result = -1; /* only if the rest matches as well is it this route's path */
            path += n;
            pattern = strchr(pattern, '}');
            assert(pattern);
            pattern++;
        } else if (*pattern == 0) {
            if (*path == 0 || (*path == '/' && path[1] == 0))
                return result;
            break;
        } else if (*pattern++ != *path++) {
            break;
        }
    }
    while (*count)
        free(params[--*count]);
    return 0;
}

void ap_http_request_free(struct ap_http_request *req)
{
    for (size_t i = 0; i < req->param_count; i++)
        free(req->params[i]);
    for (size_t i = 0; i < req->pair_count; i++)
        free(req->pairs[i].name); /* value lies in the same allocation */
    free(req->pairs);
    free(req->path);
    ap_buf_free(&req->body);
    ap_http_reply_fini(&req->reply);
    free(req);
}

const char *ap_http_method(const struct ap_http_request *req)
{
    return req->method;
}

const char *ap_http_path(const struct ap_http_request *req)
{
    return req->path;
}

const char *ap_http_query_string(const struct ap_http_request *req)
{
    return req->query;
}

const char *ap_http_param(const struct ap_http_request *req, size_t i)
{
    assert(i < req->param_count);
    return req->params[i];
}

static void split_query(struct ap_http_request *req)
{
    req->pairs_ready = true;
    for (const char *p = req->query; *p;) {
        size_t n = strcspn(p, "&");
        char *name = strndup(p, n);
        struct ap_http_query_pair *pairs = realloc(req->pairs, (req->pair_count + 1) * sizeof *pairs);
        if (!name || !pairs)
            abort();
        req->pairs = pairs;
        char *value = strchr(name, '=');
        if (value)
            *value++ = 0;
        else
            value = name + n; /* "?wait" reads as wait="" */
        /* A malformed escape stays as it came: the value's own parser will refuse it by name. */
        ap_http_decode(name, true);
        ap_http_decode(value, true);
        pairs[req->pair_count++] = (struct ap_http_query_pair){name, value};
        p += n + (p[n] == '&');
    }
}

const char *ap_http_query(const struct ap_http_request *req, const char *name)
{
    if (!req->pairs_ready)
        split_query((struct ap_http_request *)(uintptr_t)req); /* a cache: what callers see does not change */
    for (size_t i = 0; i < req->pair_count; i++)
        if (strcmp(req->pairs[i].name, name) == 0)
            return req->pairs[i].value;
    return NULL;
}

const char *ap_http_header(const struct ap_http_request *req, const char *name)
{
    return MHD_lookup_connection_value(req->connection, MHD_HEADER_KIND, name);
}

const char *ap_http_body(const struct ap_http_request *req, size_t *len)
{
    if (len)
        *len = req->body.len;
    return req->body.data ? (const char *)req->body.data : "";
}

void *ap_http_user(const struct ap_http_request *req)
{
    return req->server->options.user;
}

int64_t ap_http_start_ns(const struct ap_http_request *req)
{
    return req->start_ns;
}

json_t *ap_http_json(const struct ap_http_request *req, struct ap_err *err)
{
    if (req->body.len == 0) {
        json_t *empty = json_object();
        if (!empty)
            ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory");
        return empty;
    }
    json_error_t at;
    json_t *value = json_loadb((const char *)req->body.data, req->body.len, JSON_REJECT_DUPLICATES, &at);
    if (!value) {
        ap_err_set(err, AP_EINVAL, AP_POISON, "Format error in JSON body: %s at line %d column %d", at.text, at.line,
                   at.column);
        return NULL;
    }
    if (!json_is_object(value)) {
        json_decref(value);
        ap_err_set(err, AP_EINVAL, AP_POISON, "Format error in JSON body: expected an object at line 1 column 1");
        return NULL;
    }
    return value;
}
