/* libcurl's multi interface; its cache of connections lives as long as the fetcher. */
#include "ctl/fetch.h"
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MAX_BYTES = 256 << 20 };

struct ap_fetcher { CURLM *multi; int timeout_ms; uint64_t bytes; };

struct running {
    struct ap_fetch *one;
    CURL *handle;
    char error[CURL_ERROR_SIZE];
    CURLcode result;
};

struct ap_fetcher *ap_fetcher_new(int timeout_ms)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    struct ap_fetcher *f = calloc(1, sizeof *f);
    if (!f || !(f->multi = curl_multi_init()))
        abort();
    f->timeout_ms = timeout_ms;
    return f;
}

void ap_fetcher_free(struct ap_fetcher **f)
{
    if (!*f)
        return;
    curl_multi_cleanup((*f)->multi);
    free(*f);
    *f = NULL;
}

uint64_t ap_fetcher_bytes(const struct ap_fetcher *f)
{
    return f->bytes;
}

static size_t on_answer(char *bytes, size_t size, size_t n, void *arg)
{
    struct running *r = arg;
    if (r->one->answer.len + size * n > ANSWER_MAX_BYTES)
        return 0;
    ap_buf_append(&r->one->answer, bytes, size * n);
    return size * n;
}

static void start(struct ap_fetcher *f, struct running *r, struct curl_slist *headers)
{
    struct ap_fetch *one = r->one;
    r->result = CURLE_OPERATION_TIMEDOUT;
    r->handle = curl_easy_init();
    if (!r->handle)
        abort();
    curl_easy_setopt(r->handle, CURLOPT_URL, one->url);
    curl_easy_setopt(r->handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(r->handle, CURLOPT_NOPROXY, "*"); /* a proxy of the shell's is for other hosts than ours */
    curl_easy_setopt(r->handle, CURLOPT_TIMEOUT_MS, (long)f->timeout_ms);
    curl_easy_setopt(r->handle, CURLOPT_ERRORBUFFER, r->error);
    curl_easy_setopt(r->handle, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(r->handle, CURLOPT_WRITEDATA, (void *)r);
    curl_easy_setopt(r->handle, CURLOPT_PRIVATE, (void *)r);
    curl_easy_setopt(r->handle, CURLOPT_HTTPHEADER, headers);
    if (!strcmp(one->method, "POST") || !strcmp(one->method, "PUT")) {
        curl_easy_setopt(r->handle, CURLOPT_POST, 1L);
        curl_easy_setopt(r->handle, CURLOPT_CUSTOMREQUEST, one->method);
        curl_easy_setopt(r->handle, CURLOPT_POSTFIELDS, one->body ? (const char *)one->body : "");
        curl_easy_setopt(r->handle, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)one->len);
    } else if (strcmp(one->method, "GET") != 0) {
        curl_easy_setopt(r->handle, CURLOPT_CUSTOMREQUEST, one->method);
    }
    curl_multi_add_handle(f->multi, r->handle);
}

static void finish(struct ap_fetcher *f, struct running *r)
{
    struct ap_fetch *one = r->one;
    curl_easy_getinfo(r->handle, CURLINFO_RESPONSE_CODE, &one->status);
    f->bytes += one->len + one->answer.len;
    ap_buf_append(&one->answer, "", 1); /* text has an end */
    one->answer.len--;
    if (r->result) {
        one->status = 0;
        snprintf(one->why, sizeof one->why, "%s", *r->error ? r->error : curl_easy_strerror(r->result));
    } else if (one->status != 200) {
        json_t *root = json_loads((const char *)one->answer.data, 0, NULL);
        const char *error = json_string_value(json_object_get(json_object_get(root, "status"), "error"));
        snprintf(one->why, sizeof one->why, "%ld: %s", one->status, error ? error : "");
        json_decref(root);
    }
    curl_multi_remove_handle(f->multi, r->handle);
    curl_easy_cleanup(r->handle);
}

int ap_fetcher_run(struct ap_fetcher *f, struct ap_fetch *list, size_t count, struct ap_err *err)
{
    struct running *all = calloc(count + 1, sizeof *all);
    struct curl_slist *headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/octet-stream"), "Expect:");
    if (!all || !headers)
        abort();
    for (size_t i = 0; i < count; i++) {
        all[i].one = &list[i];
        start(f, &all[i], headers);
    }
    int left = 1, queued;
    while (left) {
        if (curl_multi_perform(f->multi, &left) || (left && curl_multi_poll(f->multi, NULL, 0, 100, NULL)))
            break;
        for (CURLMsg *m; (m = curl_multi_info_read(f->multi, &queued));) {
            struct running *r = NULL;
            if (m->msg == CURLMSG_DONE && !curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r) && r)
                r->result = m->data.result;
        }
    }
    int rc = 0;
    for (size_t i = 0; i < count; i++) {
        finish(f, &all[i]);
        if (list[i].status != 200 && rc == 0)
            rc = ap_err_set(err, list[i].status == 409 ? AP_ECONFLICT : list[i].status == 404 ? AP_ENOTFOUND : AP_EIO, AP_RETRY, "%s %s: %s",
                            list[i].method, list[i].url, list[i].why);
    }
    curl_slist_free_all(headers);
    free(all);
    return rc;
}

json_t *ap_fetch_result(const struct ap_fetch *one)
{
    json_t *root = one->answer.data ? json_loads((const char *)one->answer.data, 0, NULL) : NULL;
    json_t *result = json_incref(json_object_get(root, "result"));
    json_decref(root);
    return result;
}

void ap_fetch_fini(struct ap_fetch *one)
{
    ap_buf_free(&one->answer);
}
