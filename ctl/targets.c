/* Targets: gathered from the command line, asked in parallel with libcurl's multi interface. */
#include "ctl/targets.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/bytes.h"

enum { CONFIG_MAX_BYTES = 1 << 20, PAGE_MAX_BYTES = 64 << 20 };

const char *ap_role_name(enum ap_role role)
{
    static const char *const names[] = {"producer", "consumer", "indexer", "daemon"};
    return names[role];
}

/* ---- gathering -------------------------------------------------------------------------------------------------- */

static struct ap_target *add(struct ap_targets *t)
{
    t->list = reallocarray(t->list, t->count + 1, sizeof *t->list);
    if (!t->list)
        abort();
    struct ap_target *target = &t->list[t->count++];
    memset(target, 0, sizeof *target);
    return target;
}

int ap_targets_region(struct ap_targets *t, const char *name, struct ap_err *err)
{
    if (!*name || strlen(name) >= sizeof t->region)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--region: \"%s\" is no region's name", name);
    snprintf(t->region, sizeof t->region, "%s", name);
    return 0;
}

int ap_targets_url(struct ap_targets *t, enum ap_role role, const char *url, struct ap_err *err)
{
    size_t len = strlen(url);
    bool scheme = !strncmp(url, "http://", 7) || !strncmp(url, "https://", 8);
    while (len > 0 && url[len - 1] == '/')
        len--;
    if (!len || len + 8 > sizeof t->list->url || (!scheme && strstr(url, "://")))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--%s: \"%s\" is no http URL", ap_role_name(role), url);
    struct ap_target *target = add(t);
    target->role = role;
    snprintf(target->region, sizeof target->region, "%s", t->region);
    snprintf(target->url, sizeof target->url, "%s%.*s", scheme ? "" : "http://", (int)len, url);
    return 0;
}

static enum ap_role guess_role(const char *text)
{
    for (enum ap_role role = AP_ROLE_PRODUCER; role < AP_ROLE_UNKNOWN; role++)
        if (strstr(text, ap_role_name(role)))
            return role;
    return AP_ROLE_UNKNOWN;
}

bool ap_config_line_value(const char *line, size_t len, const char *key, char *out, size_t cap)
{
    const char *end = line + len, *p = line;
    while (p < end && isspace((unsigned char)*p))
        p++;
    size_t n = strlen(key);
    if ((size_t)(end - p) < n || memcmp(p, key, n))
        return false;
    p += n;
    while (p < end && isspace((unsigned char)*p))
        p++;
    if (p == end || *p++ != '=')
        return false;
    while (p < end && isspace((unsigned char)*p))
        p++;
    while (end > p && isspace((unsigned char)end[-1]))
        end--;
    snprintf(out, cap, "%.*s", (int)(end - p), p);
    return true;
}

int ap_targets_config_text(struct ap_targets *t, const char *name, const char *text, struct ap_err *err)
{
    char region[24] = "", listen[200] = "";
    for (const char *line = text; *line;) {
        size_t len = strcspn(line, "\n");
        ap_config_line_value(line, len, "region", region, sizeof region);
        ap_config_line_value(line, len, "http.listen", listen, sizeof listen);
        line += len + (line[len] == '\n');
    }
    if (!*region || !*listen)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: no %s in it: is it the configuration of a daemon?", name, *region ? "http.listen" : "region");
    const char *base = strrchr(name, '/');
    struct ap_target *target = add(t);
    target->role = guess_role(base ? base + 1 : name);
    snprintf(target->region, sizeof target->region, "%s", region);
    /* What it listens on is not always an address to connect to. */
    const char *port = strrchr(listen, ':');
    if (port && (!strncmp(listen, "0.0.0.0:", 8) || !strncmp(listen, "[::]:", 5)))
        snprintf(target->url, sizeof target->url, "http://127.0.0.1%s", port);
    else
        snprintf(target->url, sizeof target->url, "http://%s", listen);
    return 0;
}

int ap_targets_config(struct ap_targets *t, const char *path, struct ap_err *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", path, strerror(errno));
    char *text = calloc(1, CONFIG_MAX_BYTES + 1);
    if (!text)
        abort();
    size_t n = fread(text, 1, CONFIG_MAX_BYTES, f);
    int failed = ferror(f);
    fclose(f);
    text[n] = '\0';
    int rc = failed ? ap_err_set(err, AP_EIO, AP_FATAL, "%s: cannot be read", path) : ap_targets_config_text(t, path, text, err);
    free(text);
    return rc;
}

int ap_targets_defaults(struct ap_targets *t, struct ap_err *err)
{
    const char *files = getenv("ANTIPODE_TARGETS");
    if (files && *files) {
        char *copy = strdup(files), *state = NULL;
        int rc = 0;
        for (char *path = strtok_r(copy, ":", &state); path && !rc; path = strtok_r(NULL, ":", &state))
            rc = ap_targets_config(t, path, err);
        free(copy);
        return rc;
    }
    static const char *const regions[] = {"eu", "us"};
    for (int r = 0; r < 2; r++) {
        for (enum ap_role role = AP_ROLE_PRODUCER; role < AP_ROLE_UNKNOWN; role++) {
            static const int base[] = {8101, 8301, 8201};
            char url[64];
            snprintf(url, sizeof url, "http://127.0.0.1:%d", base[role] + r);
            ap_targets_region(t, regions[r], err);
            ap_targets_url(t, role, url, err);
        }
    }
    return 0;
}

void ap_targets_drop(struct ap_targets *t, size_t i)
{
    ap_page_free(&t->list[i].page);
    memmove(&t->list[i], &t->list[i + 1], (--t->count - i) * sizeof *t->list);
}

void ap_targets_free(struct ap_targets *t)
{
    for (size_t i = 0; i < t->count; i++)
        ap_page_free(&t->list[i].page);
    free(t->list);
    memset(t, 0, sizeof *t);
}

/* ---- asking --------------------------------------------------------------------------------------------------------- */

struct request {
    struct ap_target *target;
    bool metrics; /* else readyz */
    CURL *handle;
    struct ap_buf body;
    char error[CURL_ERROR_SIZE];
    CURLcode result;
};

static size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
    struct request *r = arg;
    if (r->body.len + size * n > PAGE_MAX_BYTES)
        return 0;
    ap_buf_append(&r->body, bytes, size * n);
    return size * n;
}

static void request_init(struct request *r, CURLM *multi, struct ap_target *target, bool metrics, int timeout_ms)
{
    char url[300];
    r->target = target;
    r->metrics = metrics;
    r->result = CURLE_OPERATION_TIMEDOUT;
    r->handle = curl_easy_init();
    snprintf(url, sizeof url, "%s/%s", target->url, metrics ? "metrics" : "readyz");
    curl_easy_setopt(r->handle, CURLOPT_URL, url);
    curl_easy_setopt(r->handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(r->handle, CURLOPT_NOPROXY, "*"); /* a proxy of the shell's is for other hosts than ours */
    curl_easy_setopt(r->handle, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(r->handle, CURLOPT_ERRORBUFFER, r->error);
    curl_easy_setopt(r->handle, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(r->handle, CURLOPT_WRITEDATA, (void *)r);
    curl_easy_setopt(r->handle, CURLOPT_PRIVATE, (void *)r);
    curl_multi_add_handle(multi, r->handle);
}

static void run_all(CURLM *multi)
{
    int running = 1, left;
    while (running) {
        if (curl_multi_perform(multi, &running) || (running && curl_multi_poll(multi, NULL, 0, 100, NULL)))
            break;
        for (CURLMsg *m; (m = curl_multi_info_read(multi, &left));) {
            struct request *r = NULL;
            if (m->msg == CURLMSG_DONE && !curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r) && r)
                r->result = m->data.result;
        }
    }
}

/* The reason in a body of /readyz: one line of text, perhaps in the JSON envelope of errors. */
static void keep_reason(struct ap_target *t, const struct ap_buf *body)
{
    const char *text = body->data ? (const char *)body->data : "";
    size_t len = strcspn(text, "\r\n");
    const char *error = strstr(text, "\"error\":\"");
    if (error) {
        text = error + 9;
        len = strcspn(text, "\"\r\n");
    }
    snprintf(t->why, sizeof t->why, "%.*s", (int)len, text);
}

static void take_answer(struct request *r)
{
    struct ap_target *t = r->target;
    long status = 0;
    curl_easy_getinfo(r->handle, CURLINFO_RESPONSE_CODE, &status);
    ap_buf_append(&r->body, "", 1);
    if (r->result) {
        if (!*t->why)
            snprintf(t->why, sizeof t->why, "%s", *r->error ? r->error : curl_easy_strerror(r->result));
    } else if (!r->metrics) {
        t->up = true;
        t->ready = status == 200;
        keep_reason(t, &r->body); /* one that is ready may have words, too */
        if (t->ready && (!strcmp(t->why, "all shards are ready") || !strcmp(t->why, "ready")))
            *t->why = '\0';
    } else if (status == 200) {
        ap_page_read(&t->page, (char *)r->body.data);
        r->body = (struct ap_buf){0};
    }
    ap_buf_free(&r->body);
}

/* What the options did not say, the metrics do. */
static void learn(struct ap_target *t)
{
    const struct ap_sample *info = ap_page_find(&t->page, "antipode_daemon_info");
    char role[24];
    if (info && !*t->region)
        ap_sample_label(info, "region", t->region, sizeof t->region);
    if (t->role != AP_ROLE_UNKNOWN)
        return;
    if (info && ap_sample_label(info, "role", role, sizeof role))
        t->role = guess_role(role);
    for (enum ap_role r = AP_ROLE_PRODUCER; t->role == AP_ROLE_UNKNOWN && r < AP_ROLE_UNKNOWN; r++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "antipode_%s_", ap_role_name(r));
        if (ap_page_has_prefix(&t->page, prefix))
            t->role = r;
    }
}

static int by_region_and_role(const void *a, const void *b)
{
    const struct ap_target *x = a, *y = b;
    int regions = strcmp(x->region, y->region);
    return regions ? regions : x->role != y->role ? (int)x->role - (int)y->role : strcmp(x->url, y->url);
}

void ap_targets_fetch(struct ap_targets *t, int timeout_ms)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
    CURLM *multi = curl_multi_init();
    struct request *requests = calloc(2 * t->count + 1, sizeof *requests);
    if (!multi || !requests)
        abort();
    for (size_t i = 0; i < t->count; i++) {
        request_init(&requests[2 * i], multi, &t->list[i], false, timeout_ms);
        request_init(&requests[2 * i + 1], multi, &t->list[i], true, timeout_ms);
    }
    run_all(multi);
    for (size_t i = 0; i < 2 * t->count; i++) {
        take_answer(&requests[i]);
        curl_multi_remove_handle(multi, requests[i].handle);
        curl_easy_cleanup(requests[i].handle);
    }
    free(requests);
    curl_multi_cleanup(multi);
    for (size_t i = 0; i < t->count; i++)
        learn(&t->list[i]);
    if (t->count)
        qsort(t->list, t->count, sizeof *t->list, by_region_and_role);
}
