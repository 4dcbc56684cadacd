/* Each thread: cut the next piece off the file (under the lock), send it until it is acknowledged, note that.
 *
 * done = the first row of the oldest piece under way, or where the file is read next. A piece that failed stays under way for
 * ever, so done never passes it. 503, 429 and lost connections are tried again, after Retry-After where it is said; every other
 * answer ends the upload. */
#include "ctl/upload.h"
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/timeutil.h"

enum { SENDERS_MAX = 64, PAUSE_FIRST_MS = 100, PAUSE_MAX_MS = 5000, ANSWER_MAX_BYTES = 1 << 20 };

struct sender {
    struct ap_upload *u;
    pthread_t thread;
    CURL *curl;
    struct ap_buf body, answer;
    /* Under the upload's lock: */
    bool busy;
    struct ap_rows_place first;
    uint64_t rows;
    char *token;
    char waiting[256];
};

struct ap_upload {
    struct ap_rows *rows;
    struct ap_upload_options o;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop, at_end;
    int failed;
    struct ap_err err;
    size_t running;
    struct ap_upload_progress total; /* without done and waiting */
    size_t count;
    struct sender senders[SENDERS_MAX];
};

/* ---- one piece ---- */

static int cut(struct sender *s, struct ap_err *err)
{
    struct ap_upload *u = s->u;
    uint64_t rows = 0;
    ap_buf_clear(&s->body);
    s->first = ap_rows_place(u->rows);
    s->rows = 0;
    int rc = 0;
    if (s->first.row < u->o.end_row)
        rc = ap_rows_next(u->rows, u->o.end_row - s->first.row, u->o.request_bytes, &s->body, &rows, err);
    s->rows = rows;
    return rc;
}

static size_t on_answer(char *bytes, size_t size, size_t n, void *arg)
{
    struct ap_buf *answer = arg;
    if (answer->len + size * n > ANSWER_MAX_BYTES)
        return 0;
    ap_buf_append(answer, bytes, size * n);
    return size * n;
}

/* The producer counts within the request; people count within the file. */
static int refused(struct sender *s, long status, json_t *root, struct ap_err *err)
{
    struct ap_upload *u = s->u;
    const char *error = json_string_value(json_object_get(json_object_get(root, "status"), "error"));
    const json_t *first = json_array_get(json_object_get(json_object_get(root, "result"), "errors"), 0);
    const json_t *row = json_object_get(first, "row"), *line = json_object_get(first, "line");
    const char *text = json_string_value(json_object_get(first, "error"));
    if (text && (row || line))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s %" PRIu64 ": %s", row ? "row" : "line",
                          s->first.row + (uint64_t)json_integer_value(row ? row : line), text);
    return ap_err_set(err, status == 404 ? AP_ENOTFOUND : AP_EINVAL, AP_POISON, "%s answers %ld: %s", u->o.url, status, error ? error : "");
}

/* 0: acknowledged. AP_EBUSY, RETRY: try again, not before *pause_ms. Else *err says why not. */
static int send_once(struct sender *s, int64_t *pause_ms, struct ap_err *err)
{
    struct ap_upload *u = s->u;
    char url[900], why[CURL_ERROR_SIZE] = "", id[40] = "";
    long status = 0;
    curl_off_t after = 0;
    if (u->o.has_first_id && !ap_rows_is_lines(u->rows))
        snprintf(id, sizeof id, "?first_id=%" PRIu64, u->o.first_id + s->first.row);
    snprintf(url, sizeof url, "%s/collections/%s/points/bulk%s", u->o.url, u->o.collection, id);
    ap_buf_clear(&s->answer);
    curl_easy_setopt(s->curl, CURLOPT_URL, url);
    curl_easy_setopt(s->curl, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(s->curl, CURLOPT_POSTFIELDS, (const char *)s->body.data);
    curl_easy_setopt(s->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)s->body.len);
    CURLcode code = curl_easy_perform(s->curl);
    curl_easy_setopt(s->curl, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(s->curl, CURLINFO_RETRY_AFTER, &after);
    if (code && status == 0) /* an answer may come before the body's end, and then the connection breaks */
        return ap_err_set(err, AP_EBUSY, AP_RETRY, "%s: %s", u->o.url, *why ? why : curl_easy_strerror(code));
    json_t *root = json_loadb((const char *)s->answer.data, s->answer.len, 0, NULL);
    int rc = 0;
    if (status == 200) {
        const json_t *result = json_object_get(root, "result");
        const char *token = json_string_value(json_object_get(result, "token"));
        pthread_mutex_lock(&u->lock);
        free(s->token);
        s->token = token ? strdup(token) : NULL;
        u->total.points += (uint64_t)json_integer_value(json_object_get(result, "points"));
        pthread_mutex_unlock(&u->lock);
        if (code || !result)
            rc = ap_err_set(err, AP_EBUSY, AP_RETRY, "%s: its answer was cut off", u->o.url);
    } else if (status == 503 || status == 429 || status == 502 || status == 504) {
        const char *error = json_string_value(json_object_get(json_object_get(root, "status"), "error"));
        *pause_ms = after > 0 ? (int64_t)after * 1000 : 0;
        rc = ap_err_set(err, AP_EBUSY, AP_RETRY, "%s answers %ld: %.300s", u->o.url, status, error ? error : "");
    } else {
        rc = refused(s, status, root, err);
    }
    json_decref(root);
    return rc;
}

/* Sleeps, unless the upload is to end. */
static void pause_for(struct ap_upload *u, int64_t ms)
{
    int64_t until = ap_mono_ns() + ms * 1000000;
    struct timespec at = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    while (!u->stop && !u->failed && ap_mono_ns() < until)
        if (pthread_cond_timedwait(&u->changed, &u->lock, &at) == ETIMEDOUT)
            break;
}

/* Without the lock. AP_ETIMEOUT: out of patience, or stopped meanwhile. */
static int send_piece(struct sender *s, struct ap_err *err)
{
    struct ap_upload *u = s->u;
    int64_t give_up_ms = ap_mono_ms() + u->o.patience_ms, pause_ms = PAUSE_FIRST_MS;
    for (;;) {
        int64_t asked_ms = 0;
        int rc = send_once(s, &asked_ms, err);
        if (rc != AP_EBUSY)
            return rc;
        pthread_mutex_lock(&u->lock);
        u->total.retries++;
        snprintf(s->waiting, sizeof s->waiting, "%.250s", err->msg);
        pthread_cond_broadcast(&u->changed);
        pause_for(u, asked_ms > pause_ms ? asked_ms : pause_ms);
        bool over = u->stop || u->failed || ap_mono_ms() >= give_up_ms;
        *s->waiting = over ? *s->waiting : '\0';
        pthread_mutex_unlock(&u->lock);
        if (over)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s", s->waiting);
        pause_ms = pause_ms * 2 < PAUSE_MAX_MS ? pause_ms * 2 : PAUSE_MAX_MS;
    }
}

static void *send_pieces(void *arg)
{
    struct sender *s = arg;
    struct ap_upload *u = s->u;
    struct ap_err err = {0};
    pthread_mutex_lock(&u->lock);
    while (!u->stop && !u->failed && !u->at_end) {
        int rc = cut(s, &err);
        u->at_end |= rc == 0 && s->rows == 0;
        s->busy = rc != 0 || s->rows > 0;
        if (rc == 0 && s->rows) {
            pthread_mutex_unlock(&u->lock);
            rc = send_piece(s, &err);
            pthread_mutex_lock(&u->lock);
        }
        if (rc == 0 && s->busy) {
            s->busy = false;
            u->total.rows += s->rows;
            u->total.bytes += s->body.len;
            u->total.requests++;
        } else if (rc && !u->failed && !(u->stop && rc == AP_ETIMEOUT)) {
            u->failed = rc;
            u->err = err;
        }
        pthread_cond_broadcast(&u->changed);
    }
    u->running--;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

/* ---- all ---- */

static CURL *make_handle(struct sender *s, const struct ap_upload_options *o, struct curl_slist *headers)
{
    CURL *c = curl_easy_init();
    if (!c)
        abort();
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*"); /* a proxy of the shell's is for other hosts than ours */
    curl_easy_setopt(c, CURLOPT_POST, 1L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)o->timeout_ms);
    curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, 1L << 20);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, (void *)&s->answer);
    return c;
}

static struct curl_slist *headers; /* the same for every handle of the process; never freed before its end */

int ap_upload_start(struct ap_upload **out, struct ap_rows *rows, const struct ap_upload_options *o, struct ap_err *err)
{
    pthread_condattr_t monotonic;
    struct ap_upload *u = calloc(1, sizeof *u);
    if (!u)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (!headers)
        headers = curl_slist_append(curl_slist_append(NULL, "Content-Type: application/octet-stream"), "Expect:");
    u->rows = rows;
    u->o = *o;
    u->count = o->parallel < 1 ? 1 : o->parallel > SENDERS_MAX ? SENDERS_MAX : (size_t)o->parallel;
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&u->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_lock(&u->lock);
    for (size_t i = 0; i < u->count; i++) {
        struct sender *s = &u->senders[i];
        s->u = u;
        s->curl = make_handle(s, o, headers);
        if (pthread_create(&s->thread, NULL, send_pieces, s))
            abort();
        u->running++;
    }
    pthread_mutex_unlock(&u->lock);
    *out = u;
    return 0;
}

bool ap_upload_wait(struct ap_upload *u, int timeout_ms)
{
    int64_t until = ap_mono_ns() + (int64_t)timeout_ms * 1000000;
    struct timespec at = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    pthread_mutex_lock(&u->lock);
    while (u->running && pthread_cond_timedwait(&u->changed, &u->lock, &at) != ETIMEDOUT)
        ;
    bool over = !u->running;
    pthread_mutex_unlock(&u->lock);
    return over;
}

void ap_upload_stop(struct ap_upload *u)
{
    pthread_mutex_lock(&u->lock);
    u->stop = true;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

void ap_upload_progress(struct ap_upload *u, struct ap_upload_progress *out)
{
    pthread_mutex_lock(&u->lock);
    *out = u->total;
    out->done = ap_rows_place(u->rows);
    *out->waiting = '\0';
    for (size_t i = 0; i < u->count; i++) {
        const struct sender *s = &u->senders[i];
        if (s->busy && s->first.row < out->done.row)
            out->done = s->first;
        if (s->busy && *s->waiting)
            memcpy(out->waiting, s->waiting, sizeof out->waiting);
    }
    pthread_mutex_unlock(&u->lock);
}

int ap_upload_end(struct ap_upload **upload, char **last_token, struct ap_err *err)
{
    struct ap_upload *u = *upload;
    struct ap_buf tokens = {0};
    for (size_t i = 0; i < u->count; i++) {
        struct sender *s = &u->senders[i];
        pthread_join(s->thread, NULL);
        curl_easy_cleanup(s->curl);
        if (s->token)
            ap_buf_printf(&tokens, "%s%s", tokens.len ? "," : "", s->token);
        ap_buf_free(&s->body);
        ap_buf_free(&s->answer);
        free(s->token);
    }
    *last_token = tokens.len ? strdup((char *)tokens.data) : NULL;
    ap_buf_free(&tokens);
    int rc = u->failed;
    if (rc)
        *err = u->err;
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    free(u);
    *upload = NULL;
    return rc;
}
