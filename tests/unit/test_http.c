/* The HTTP server, driven over its port with libcurl and, where a client must misbehave, with a bare socket. */
#include <arpa/inet.h>
#include <check.h>
#include <curl/curl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/bytes.h"
#include "common/http.h"
#include "common/timeutil.h"
#include "patience.h"
#include "run.h"

#define MAX_BODY 65536

static struct ap_http_server *server;
static struct ap_metrics *metrics;
static char base[64];
static bool is_ready = true;

/* What the streaming route saw; read by the tests after the answer, or after destroyed. */
static struct {
    size_t bytes, pieces, fail_after;
    uint64_t sum;
    bool refuse, ended;
    sem_t begun, destroyed;
} seen;

static sem_t entered, leave; /* of the slow route */
static struct curl_slist *kept[4];
static size_t kept_count;

/* --- routes --- */

static void serve_echo(struct ap_http_request *req)
{
    size_t len;
    const char *body = ap_http_body(req, &len);
    ck_assert_int_eq(body[len], 0);
    json_t *out = json_pack("{s:s, s:s, s:s, s:s, s:I, s:o, s:b}", "method", ap_http_method(req), "path", ap_http_path(req),
                            "name", ap_http_param(req, 0), "query", ap_http_query_string(req), "len", (json_int_t)len, "wait",
                            ap_http_query(req, "wait") ? json_string(ap_http_query(req, "wait")) : json_null(), "agent",
                            ap_http_header(req, "user-agent") != NULL);
    ck_assert_ptr_nonnull(out);
    ap_http_reply_result(req, out);
}

static void serve_two(struct ap_http_request *req)
{
    ap_http_reply_result(req, json_pack("[s, s, f]", ap_http_param(req, 0), ap_http_param(req, 1), 1.0));
}

static void serve_json(struct ap_http_request *req)
{
    struct ap_err err;
    json_t *body = ap_http_json(req, &err);
    if (body)
        ap_http_reply_result(req, body);
    else
        ap_http_reply_err(req, &err);
}

static void serve_code(struct ap_http_request *req)
{
    struct ap_err err;
    ap_err_set(&err, (enum ap_code)-atoi(ap_http_param(req, 0)), AP_RETRY, "code \"%s\" \xff", ap_http_param(req, 0));
    ap_http_add_header(req, "X-Own", "yes");
    ap_http_reply_err(req, &err);
}

static void serve_slow(struct ap_http_request *req)
{
    sem_post(&entered);
    sem_wait(&leave);
    ap_http_reply(req, 200, "text/plain", "done", 4);
}

static void serve_nothing(struct ap_http_request *req)
{
    (void)req;
}

static void *stream_begin(struct ap_http_request *req)
{
    if (seen.refuse)
        ap_http_reply_error(req, 400, "refused before the body");
    sem_post(&seen.begun);
    return &seen;
}

static void stream_data(struct ap_http_request *req, void *state, const char *bytes, size_t len)
{
    ck_assert_ptr_eq(state, &seen);
    ck_assert(!seen.refuse);
    ck_assert(!seen.fail_after || seen.bytes < seen.fail_after);
    seen.pieces++;
    seen.bytes += len;
    for (size_t i = 0; i < len; i++)
        seen.sum = seen.sum * 31 + (unsigned char)bytes[i];
    if (seen.fail_after && seen.bytes >= seen.fail_after) {
        ap_http_add_header(req, "X-Own", "yes");
        ap_http_reply_error(req, 400, "enough");
    }
}

static void stream_end(struct ap_http_request *req, void *state)
{
    (void)state;
    seen.ended = true;
    ap_http_reply_result(req, json_integer((json_int_t)seen.bytes));
}

static void stream_destroy(void *state)
{
    ck_assert_ptr_eq(state, &seen);
    sem_post(&seen.destroyed);
}

static const struct ap_http_stream stream = {stream_begin, stream_data, stream_end, stream_destroy};

static const struct ap_http_route routes[] = {
    {"GET", "/c/{name}", serve_echo, NULL, "echo"},
    {"POST", "/c/{name}", serve_echo, NULL, "echo"},
    {"GET", "/c/{name}/points/{id}", serve_two, NULL, "two"},
    {"POST", "/json", serve_json, NULL, "json"},
    {"GET", "/code/{n}", serve_code, NULL, "code"},
    {"GET", "/slow", serve_slow, NULL, "slow"},
    {"GET", "/nothing", serve_nothing, NULL, "nothing"},
    {"POST", "/stream", NULL, &stream, "stream"},
    AP_HTTP_ROUTES_END,
};

static bool ready(void *user, char *why, size_t len)
{
    ck_assert_ptr_eq(user, &is_ready);
    if (!is_ready)
        snprintf(why, len, "3 s behind eu");
    return is_ready;
}

static void setup(void)
{
    struct ap_err err;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    sem_init(&entered, 0, 0);
    sem_init(&leave, 0, 0);
    sem_init(&seen.begun, 0, 0);
    sem_init(&seen.destroyed, 0, 0);
    metrics = ap_metrics_new();
    struct ap_http_options options = {.listen = "127.0.0.1:0", .max_body_bytes = MAX_BODY, .max_connections = 4,
                                      .idle_timeout_s = 30, .routes = routes, .metrics = metrics, .user = &is_ready,
                                      .ready = ready, .healthy = ready};
    if (ap_http_start(&server, &options, &err))
        ck_abort_msg("%s", err.msg);
    snprintf(base, sizeof base, "http://127.0.0.1:%d", ap_http_port(server));
}

static void teardown(void)
{
    ap_http_stop(&server);
    ap_metrics_free(&metrics);
    while (kept_count)
        curl_slist_free_all(kept[--kept_count]);
    curl_global_cleanup();
}

/* --- a client --- */

struct reply { long status; struct ap_buf body, head; long connects; curl_off_t uploaded; CURLcode rc; };

static size_t collect(char *data, size_t size, size_t n, void *buf)
{
    ap_buf_append(buf, data, size * n);
    return size * n;
}

static struct reply perform(CURL *curl, const char *path)
{
    struct reply r = {0};
    char url[512];
    snprintf(url, sizeof url, "%s%s", base, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &r.body);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, collect);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &r.head);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "test");
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)PATIENCE_MS / 1000);
    r.rc = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &r.status);
    curl_easy_getinfo(curl, CURLINFO_NUM_CONNECTS, &r.connects);
    curl_easy_getinfo(curl, CURLINFO_SIZE_UPLOAD_T, &r.uploaded);
    ap_buf_append(&r.body, "", 1);
    ap_buf_append(&r.head, "", 1);
    return r;
}

static const char *text(const struct reply *r)
{
    return (const char *)r->body.data;
}

static const char *head(const struct reply *r)
{
    return (const char *)r->head.data;
}

static void reply_free(struct reply *r)
{
    ap_buf_free(&r->body);
    ap_buf_free(&r->head);
}

static void expect(CURL *curl, const char *path, long status, const char *part)
{
    struct reply r = perform(curl, path);
    ck_assert_int_eq(r.rc, CURLE_OK);
    ck_assert_msg(r.status == status, "%s: %ld, not %ld: %s", path, r.status, status, text(&r));
    ck_assert_msg(strstr(text(&r), part) || strstr(head(&r), part), "%s: no \"%s\" in %s%s", path, part, head(&r), text(&r));
    reply_free(&r);
}

static void set_post(CURL *curl, const char *body, size_t len)
{
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)len);
}

static struct curl_slist *no_expect(CURL *curl)
{
    struct curl_slist *list = curl_slist_append(NULL, "Expect:");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    return list;
}

/* A chunked upload of `total` bytes; 0 means without end. */
struct upload { size_t total, sent; };

static size_t produce(char *out, size_t size, size_t n, void *arg)
{
    struct upload *u = arg;
    size_t len = size * n;
    if (u->total && len > u->total - u->sent)
        len = u->total - u->sent;
    for (size_t i = 0; i < len; i++)
        out[i] = (char)((u->sent + i) * 7);
    u->sent += len;
    return len;
}

static void set_upload(CURL *curl, struct upload *u)
{
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, NULL);
    curl_easy_setopt(curl, CURLOPT_READFUNCTION, produce);
    curl_easy_setopt(curl, CURLOPT_READDATA, u);
    struct curl_slist *list = curl_slist_append(NULL, "Transfer-Encoding: chunked");
    list = curl_slist_append(list, "Expect:");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    kept[kept_count++] = list; /* curl borrows it: freed in teardown */
}

static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)ap_http_port(server))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* --- tests --- */

START_TEST(paths_params_and_queries)
{
    CURL *curl = curl_easy_init();
    expect(curl, "/c/a", 200, "\"name\":\"a\"");
    expect(curl, "/c/a/", 200, "\"path\":\"/c/a/\"");
    expect(curl, "/c/a%20b%2Fc+d", 200, "\"name\":\"a b/c+d\"");
    expect(curl, "/c/%C3%A9?x=1&wait=true", 200, "\"name\":\"\xc3\xa9\",\"query\":\"x=1&wait=true\",\"len\":0,\"wait\":\"true\"");
    expect(curl, "/c/a?wait=a%26b+c&wait=no", 200, "\"wait\":\"a&b c\"");
    expect(curl, "/c/a?wait", 200, "\"wait\":\"\"");
    expect(curl, "/c/a?waits=1", 200, "\"wait\":null");
    expect(curl, "/c/x/points/7/", 200, "{\"result\":[\"x\",\"7\",1.0],\"status\":\"ok\",\"time\":0.");
    expect(curl, "/c/%zz", 400, "malformed percent-encoding in the path /c/%zz");
    expect(curl, "/c/%00", 400, "malformed percent-encoding");
    expect(curl, "/c/%4", 400, "malformed percent-encoding");
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(unknown_path_and_wrong_method)
{
    CURL *curl = curl_easy_init();
    expect(curl, "/nope", 404, "{\"status\":{\"error\":\"unknown path /nope\"},\"time\":0.0}");
    expect(curl, "/c", 404, "unknown path");
    expect(curl, "/c//", 404, "unknown path");
    expect(curl, "/c/a/points", 404, "unknown path");
    expect(curl, "/c/a/points/1/2", 404, "unknown path");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, "DELETE");
    expect(curl, "/c/a", 405, "Allow: GET, POST\r\n");
    expect(curl, "/c/a", 405, "DELETE is not allowed on /c/a, only GET, POST");
    expect(curl, "/metrics", 405, "Allow: GET\r\n");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, NULL);
    curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    expect(curl, "/c/a", 200, "application/json");
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(one_connection_serves_many_requests_errors_included)
{
    CURL *curl = curl_easy_init();
    char *body = calloc(1, MAX_BODY + 1);
    memset(body, 'x', MAX_BODY);
    const struct { const char *path; size_t len; long status; } calls[] = {
        {"/c/a", 5000, 200}, {"/nope", 5000, 404}, {"/code/1", 10, 405}, {"/json", 10, 400}, {"/c/a", MAX_BODY, 200}, {"/c/a", 0, 200},
    };
    struct curl_slist *list = no_expect(curl);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        set_post(curl, body, calls[i].len);
        struct reply r = perform(curl, calls[i].path);
        ck_assert_int_eq(r.status, calls[i].status);
        ck_assert_int_eq(r.connects, i == 0);
        reply_free(&r);
    }
    curl_slist_free_all(list);
    free(body);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(declared_length_over_the_limit_is_refused_before_the_body)
{
    CURL *curl = curl_easy_init();
    char *body = calloc(1, 8u << 20);
    struct curl_slist *list = curl_slist_append(NULL, "Expect: 100-continue");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    set_post(curl, body, MAX_BODY + 1);
    struct reply r = perform(curl, "/c/a");
    ck_assert_int_eq(r.status, 413);
    ck_assert_ptr_nonnull(strstr(text(&r), "the body is over the limit of 65536 bytes"));
    ck_assert_int_eq(r.uploaded, 0);
    reply_free(&r);
    curl_slist_free_all(list);

    /* A client that does not wait must be able to read the answer too, however much it has under way. */
    list = no_expect(curl);
    set_post(curl, body, 8u << 20);
    for (int i = 0; i < 5; i++) {
        r = perform(curl, "/c/a");
        ck_assert_int_eq(r.status, 413);
        ck_assert_ptr_nonnull(strstr(text(&r), "over the limit"));
        reply_free(&r);
    }
    curl_slist_free_all(list);
    free(body);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(undeclared_length_is_bounded_while_reading)
{
    CURL *curl = curl_easy_init();
    struct upload fits = {.total = MAX_BODY}, endless = {.total = 0};
    set_upload(curl, &fits);
    expect(curl, "/c/a", 200, "\"len\":65536");
    set_upload(curl, &endless);
    expect(curl, "/c/a", 413, "the body is over the limit of 65536 bytes");
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(continue_is_sent_when_expected)
{
    CURL *curl = curl_easy_init();
    struct curl_slist *list = curl_slist_append(NULL, "Expect: 100-continue");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(curl, CURLOPT_EXPECT_100_TIMEOUT_MS, 2L * PATIENCE_MS);
    set_post(curl, "12345", 5);
    int64_t start = ap_mono_ms();
    expect(curl, "/c/a", 200, "\"len\":5");
    ck_assert_int_lt(ap_mono_ms() - start, PATIENCE_MS);
    curl_slist_free_all(list);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(content_encoding_is_refused_by_name)
{
    CURL *curl = curl_easy_init();
    struct curl_slist *list = curl_slist_append(NULL, "Content-Encoding: gzip");
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, list);
    set_post(curl, "x", 1);
    expect(curl, "/c/a", 415, "Content-Encoding gzip is not supported");
    curl_slist_free_all(list);
    curl_easy_cleanup(curl);
}
END_TEST

static const struct { const char *body; long status; const char *part; } json_bodies[] = {
    {"", 200, "{\"result\":{},\"status\":\"ok\""},
    {"{\"a\":[1,2.5,0.1]}", 200, "{\"result\":{\"a\":[1,2.5,0.1]},"},
    {"{\"a\":1,\"a\":2}", 400, "duplicate object key near '\\\"a\\\"' at line 1 column"},
    {"{\"a\":\n oops}", 400, "Format error in JSON body: invalid token near 'oops' at line 2 column 5"},
    {"[1]", 400, "Format error in JSON body: expected an object"},
    {"{} {}", 400, "end of file expected"},
};

START_TEST(json_bodies_and_their_errors)
{
    CURL *curl = curl_easy_init();
    set_post(curl, json_bodies[_i].body, strlen(json_bodies[_i].body));
    expect(curl, "/json", json_bodies[_i].status, json_bodies[_i].part);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(errors_become_statuses)
{
    CURL *curl = curl_easy_init();
    expect(curl, "/code/1", 400, "{\"status\":{\"error\":\"code \\\"1\\\" ?\"},\"time\":0.0}");
    expect(curl, "/code/1", 400, "X-Own: yes\r\n");
    expect(curl, "/code/5", 404, "code");
    expect(curl, "/code/6", 409, "code");
    expect(curl, "/code/7", 503, "Retry-After: 1\r\n");
    expect(curl, "/code/11", 409, "code");
    expect(curl, "/code/12", 400, "code");
    expect(curl, "/code/14", 413, "code");
    expect(curl, "/code/15", 503, "Retry-After: 1\r\n");
    expect(curl, "/code/0", 500, "code");
    expect(curl, "/nothing", 500, "the handler of GET /nothing gave no answer");
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(streamed_body_arrives_in_order_and_in_pieces)
{
    CURL *curl = curl_easy_init();
    struct upload u = {.total = 3000000};
    set_upload(curl, &u);
    expect(curl, "/stream", 200, "{\"result\":3000000,");
    uint64_t sum = 0;
    for (size_t i = 0; i < u.total; i++)
        sum = sum * 31 + (unsigned char)(i * 7);
    ck_assert(seen.sum == sum);
    ck_assert_uint_gt(seen.pieces, 10);
    sem_wait(&seen.destroyed);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(stream_may_refuse_before_the_body)
{
    CURL *curl = curl_easy_init();
    struct upload endless = {0};
    seen.refuse = true;
    set_upload(curl, &endless);
    expect(curl, "/stream", 400, "refused before the body");
    ck_assert(!seen.ended);
    sem_wait(&seen.destroyed);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(stream_may_answer_amid_an_endless_body)
{
    CURL *curl = curl_easy_init();
    struct upload endless = {0};
    seen.fail_after = 1000000;
    set_upload(curl, &endless);
    struct reply r = perform(curl, "/stream");
    ck_assert_int_eq(r.status, 400);
    ck_assert_ptr_nonnull(strstr(text(&r), "\"enough\""));
    ck_assert_ptr_nonnull(strstr(head(&r), "X-Own: yes\r\n"));
    ck_assert(!seen.ended);
    sem_wait(&seen.destroyed);
    reply_free(&r);
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(short_rest_after_the_answer_is_dropped_and_the_connection_lives)
{
    CURL *curl = curl_easy_init();
    char *body = calloc(1, 400000);
    struct curl_slist *list = no_expect(curl);
    seen.fail_after = 1;
    set_post(curl, body, 400000);
    expect(curl, "/stream", 400, "enough");
    ck_assert_uint_eq(seen.pieces, 1);
    struct reply r = perform(curl, "/c/a");
    ck_assert_int_eq(r.connects, 0);
    reply_free(&r);
    curl_slist_free_all(list);
    free(body);
    curl_easy_cleanup(curl);
}
END_TEST

/* Many clients write all they have before they read. A reset amid that would cost them the answer. */
START_TEST(client_that_only_writes_is_not_reset)
{
    char request[128];
    const size_t len = 8u << 20;
    char *body = calloc(1, len);
    int n = snprintf(request, sizeof request, "POST /c/a HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n", len);
    int fd = dial();
    ck_assert_int_eq(send(fd, request, (size_t)n, MSG_NOSIGNAL), n);
    for (size_t sent = 0; sent < len;) {
        ssize_t w = send(fd, body + sent, len - sent < 65536 ? len - sent : 65536, MSG_NOSIGNAL);
        ck_assert_msg(w > 0, "reset after %zu bytes", sent);
        sent += (size_t)w;
    }
    char answer[16] = "";
    ck_assert_int_eq(recv(fd, answer, 12, MSG_WAITALL), 12);
    ck_assert_str_eq(answer, "HTTP/1.1 413");
    close(fd);
    free(body);
}
END_TEST

START_TEST(client_that_goes_away_ends_the_stream_without_end)
{
    int fd = dial();
    const char part[] = "POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf";
    ck_assert_int_eq(write(fd, part, sizeof part - 1), sizeof part - 1);
    sem_wait(&seen.begun);
    close(fd);
    sem_wait(&seen.destroyed);
    ck_assert(!seen.ended);
    CURL *curl = curl_easy_init();
    expect(curl, "/metrics", 200, "antipode_http_requests_total{route=\"stream\",code=\"aborted\"} 1\n");
    curl_easy_cleanup(curl);
}
END_TEST

static void *get_slow(void *arg)
{
    CURL *curl = curl_easy_init();
    struct reply *r = arg;
    *r = perform(curl, "/slow");
    curl_easy_cleanup(curl);
    return NULL;
}

static void *release_when_stopping(void *arg)
{
    (void)arg;
    /* The port refuses new connections once the server is stopping: only then may the handler end. */
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in to = {.sin_family = AF_INET};
        to.sin_port = htons((uint16_t)atoi(strrchr(base, ':') + 1));
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        char byte;
        struct timeval wait = {.tv_usec = 100000};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
        const char ask[] = "GET /livez HTTP/1.0\r\n\r\n";
        bool served = connect(fd, (struct sockaddr *)&to, sizeof to) == 0 && write(fd, ask, sizeof ask - 1) > 0 &&
                      read(fd, &byte, 1) == 1;
        close(fd);
        if (!served)
            break;
    }
    sem_post(&leave);
    return NULL;
}

START_TEST(stop_lets_a_running_request_end)
{
    pthread_t client, releaser;
    struct reply r;
    pthread_create(&client, NULL, get_slow, &r);
    sem_wait(&entered);
    pthread_create(&releaser, NULL, release_when_stopping, NULL);
    int64_t start = ap_mono_ms();
    ap_http_stop(&server);
    ck_assert_ptr_null(server);
    ck_assert_int_lt(ap_mono_ms() - start, 8000); /* it would be 10 s */
    pthread_join(client, NULL);
    pthread_join(releaser, NULL);
    ck_assert_int_eq(r.rc, CURLE_OK);
    ck_assert_int_eq(r.status, 200);
    ck_assert_str_eq(text(&r), "done");
    reply_free(&r);
}
END_TEST

START_TEST(stop_does_not_wait_for_idle_connections)
{
    CURL *curl = curl_easy_init();
    expect(curl, "/c/a", 200, "");
    int64_t start = ap_mono_ms();
    ap_http_stop(&server);
    ck_assert_int_lt(ap_mono_ms() - start, 8000); /* it would be 10 s */
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(connections_over_the_limit_get_503)
{
    CURL *held[5];
    for (int i = 0; i < 4; i++) {
        held[i] = curl_easy_init();
        expect(held[i], "/c/a", 200, "");
    }
    held[4] = curl_easy_init();
    expect(held[4], "/c/a", 503, "too many connections: the limit is 4");
    expect(held[0], "/metrics", 200, "antipode_http_connections ");
    for (int i = 0; i < 5; i++)
        curl_easy_cleanup(held[i]);
}
END_TEST

START_TEST(health_readiness_and_metrics)
{
    CURL *curl = curl_easy_init();
    expect(curl, "/readyz", 200, "ready");
    expect(curl, "/healthz", 200, "passed");
    is_ready = false;
    expect(curl, "/readyz", 503, "3 s behind eu\n");
    expect(curl, "/healthz/", 503, "3 s behind eu\n");
    expect(curl, "/livez", 200, "passed");
    expect(curl, "/metrics", 200, "antipode_http_requests_total{route=\"readyz\",code=\"5xx\"} 1\n");
    expect(curl, "/metrics", 200, "antipode_http_requests_total{route=\"readyz\",code=\"2xx\"} 1\n");
    expect(curl, "/metrics", 200, "antipode_http_request_seconds_count{route=\"readyz\"} 2\n");
    expect(curl, "/metrics", 200, "text/plain; version=0.0.4");
    curl_easy_cleanup(curl);
}
END_TEST

START_TEST(a_port_in_use_is_named)
{
    struct ap_http_server *second = NULL;
    struct ap_err err;
    char where[64];
    struct ap_http_options options = {.listen = where, .max_connections = 4, .metrics = metrics};
    snprintf(where, sizeof where, "127.0.0.1:%d", ap_http_port(server));
    ck_assert_int_eq(ap_http_start(&second, &options, &err), AP_EIO);
    ck_assert_ptr_nonnull(strstr(err.msg, where));
    ck_assert_ptr_nonnull(strstr(err.msg, "Address already in use; another program holds it"));
    static const char *const bad[] = {"8101", ":8101", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "nosuch.invalid:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        options.listen = bad[i];
        ck_assert_int_eq(ap_http_start(&second, &options, &err), AP_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.msg, bad[i]));
    }
    options.listen = "192.0.2.1:8101";
    ck_assert_int_eq(ap_http_start(&second, &options, &err), AP_EIO);
    ck_assert_ptr_nonnull(strstr(err.msg, "no interface of this machine has that address"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("http");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, paths_params_and_queries);
    tcase_add_test(tc, unknown_path_and_wrong_method);
    tcase_add_test(tc, one_connection_serves_many_requests_errors_included);
    tcase_add_test(tc, declared_length_over_the_limit_is_refused_before_the_body);
    tcase_add_test(tc, undeclared_length_is_bounded_while_reading);
    tcase_add_test(tc, continue_is_sent_when_expected);
    tcase_add_test(tc, content_encoding_is_refused_by_name);
    tcase_add_loop_test(tc, json_bodies_and_their_errors, 0, (int)(sizeof json_bodies / sizeof *json_bodies));
    tcase_add_test(tc, errors_become_statuses);
    tcase_add_test(tc, streamed_body_arrives_in_order_and_in_pieces);
    tcase_add_test(tc, stream_may_refuse_before_the_body);
    tcase_add_test(tc, stream_may_answer_amid_an_endless_body);
    tcase_add_test(tc, short_rest_after_the_answer_is_dropped_and_the_connection_lives);
    tcase_add_test(tc, client_that_only_writes_is_not_reset);
    tcase_add_test(tc, client_that_goes_away_ends_the_stream_without_end);
    tcase_add_test(tc, stop_lets_a_running_request_end);
    tcase_add_test(tc, stop_does_not_wait_for_idle_connections);
    tcase_add_test(tc, connections_over_the_limit_get_503);
    tcase_add_test(tc, health_readiness_and_metrics);
    tcase_add_test(tc, a_port_in_use_is_named);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
