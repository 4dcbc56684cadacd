/* Forwarding to a server of the test's own, and to ones that misbehave. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "common/bytes.h"
#include "common/timeutil.h"
#include "indexer/forward.h"
#include "patience.h"
#include "run.h"

static struct ap_http_server *upstream;
static struct ap_metrics *metrics;
static struct ap_forward *forward;
static char base[64];
static struct ap_err err;
static const char *const pass[] = {"X-Token", "traceparent", NULL};
static const char *const keep[] = {"X-Token", "Retry-After", NULL};

static struct {
    size_t bytes, answer_after;
    uint64_t sum;
    bool ended;
    sem_t begun, destroyed;
} seen;
static sem_t leave;

/* --- the upstream --- */

static void serve_echo(struct ap_http_request *req)
{
    size_t len;
    const char *body = ap_http_body(req, &len), *token = ap_http_header(req, "x-token"), *type = ap_http_header(req, "Content-Type");
    struct ap_buf out = {0};
    ap_buf_printf(&out, "%s %s?%s token=%s type=%s other=%s body=%.*s", ap_http_method(req), ap_http_path(req),
                  ap_http_query_string(req), token ? token : "-", type ? type : "-", ap_http_header(req, "X-Other") ? "yes" : "no",
                  (int)len, body);
    ap_http_add_header(req, "X-Token", "back  again");
    ap_http_add_header(req, "X-Hidden", "1");
    ap_http_reply_take(req, 201, "text/odd", (char *)out.data, out.len);
}

static void serve_err(struct ap_http_request *req)
{
    struct ap_err busy;
    ap_err_set(&busy, AP_EBUSY, AP_RETRY, "full");
    ap_http_reply_err(req, &busy);
}

static void serve_slow(struct ap_http_request *req)
{
    sem_wait(&leave);
    ap_http_reply(req, 200, NULL, "late", 4);
}

static void *stream_begin(struct ap_http_request *req)
{
    (void)req;
    sem_post(&seen.begun);
    return &seen;
}

static void stream_data(struct ap_http_request *req, void *state, const char *bytes, size_t len)
{
    (void)state;
    seen.bytes += len;
    for (size_t i = 0; i < len; i++)
        seen.sum = seen.sum * 31 + (unsigned char)bytes[i];
    if (seen.answer_after && seen.bytes >= seen.answer_after)
        ap_http_reply_error(req, 400, "row 3 is bad");
}

static void stream_end(struct ap_http_request *req, void *state)
{
    (void)state;
    seen.ended = true;
    ap_http_reply_result(req, json_integer((json_int_t)seen.bytes));
}

static void stream_destroy(void *state)
{
    (void)state;
    sem_post(&seen.destroyed);
}

static const struct ap_http_stream stream = {stream_begin, stream_data, stream_end, stream_destroy};
static const struct ap_http_route routes[] = {
    {"GET", "/echo", serve_echo, NULL, "echo"},   {"POST", "/echo", serve_echo, NULL, "echo"},
    {"DELETE", "/echo", serve_echo, NULL, "echo"}, {"PUT", "/echo", serve_echo, NULL, "echo"},
    {"GET", "/busy", serve_err, NULL, "busy"},    {"POST", "/slow", serve_slow, NULL, "slow"},
    {"POST", "/stream", NULL, &stream, "stream"}, AP_HTTP_ROUTES_END,
};

static void start_upstream(const char *listen_on)
{
    struct ap_http_options options = {.listen = listen_on, .max_body_bytes = 1 << 20, .max_connections = 16, .idle_timeout_s = 30,
                                      .routes = routes, .metrics = metrics};
    if (ap_http_start(&upstream, &options, &err))
        ck_abort_msg("%s", err.msg);
    snprintf(base, sizeof base, "http://127.0.0.1:%d", ap_http_port(upstream));
}

static void connect_to(const char *url)
{
    ap_forward_free(&forward);
    struct ap_forward_options options = {.base_url = url, .peer = "the producer (producer.url)", .pass_headers = pass, .keep_headers = keep};
    ck_assert_int_eq(ap_forward_new(&forward, &options, &err), 0);
}

static void setup(void)
{
    sem_init(&seen.begun, 0, 0);
    sem_init(&seen.destroyed, 0, 0);
    sem_init(&leave, 0, 0);
    metrics = ap_metrics_new();
    start_upstream("127.0.0.1:0");
    connect_to(base);
}

static void teardown(void)
{
    ap_forward_free(&forward);
    ap_http_stop(&upstream);
    ap_metrics_free(&metrics);
}

static int send_text(const char *method, const char *path, const char *body, int64_t timeout_ms, struct ap_forward_reply *reply)
{
    struct ap_forward_request r = {.method = method, .path = path, .body = body, .len = strlen(body), .timeout_ms = timeout_ms};
    return ap_forward_send(forward, &r, reply, &err);
}

static void expect_reply(const char *method, const char *body, const char *text)
{
    struct ap_forward_reply reply;
    ck_assert_int_eq(send_text(method, "/echo", body, 5000, &reply), 0);
    ck_assert_int_eq(reply.status, 201);
    ck_assert_str_eq(reply.body, text);
    ap_forward_reply_fini(&reply);
}

/* The server counts a request after its answer is sent: the last one may be missing for a moment. */
static bool metrics_hold(const char *line)
{
    bool found = false;
    for (int64_t deadline = patience_ms(); !found && ap_mono_ms() < deadline;) {
        size_t len;
        char *page = ap_metrics_render(metrics, &len);
        found = strstr(page, line) != NULL;
        free(page);
    }
    return found;
}

/* --- whole bodies --- */

START_TEST(all_of_a_request_and_its_answer_get_through)
{
    struct ap_forward_reply reply;
    struct ap_forward_request r = {.method = "POST", .path = "/echo", .query = "wait=true&x=%20", .content_type = "application/json",
                                   .headers = {{"X-Token", "abc"}}, .header_count = 1, .body = "{\"a\":1}", .len = 7, .timeout_ms = 5000};
    ck_assert_int_eq(ap_forward_send(forward, &r, &reply, &err), 0);
    ck_assert_int_eq(reply.status, 201);
    ck_assert_str_eq(reply.body, "POST /echo?wait=true&x=%20 token=abc type=application/json other=no body={\"a\":1}");
    ck_assert_uint_eq(reply.len, strlen(reply.body));
    ck_assert_str_eq(reply.content_type, "text/odd");
    ck_assert_uint_eq(reply.header_count, 1);
    ck_assert_str_eq(reply.headers[0].name, "X-Token");
    ck_assert_str_eq(reply.headers[0].value, "back  again");
    ap_forward_reply_fini(&reply);
    expect_reply("GET", "", "GET /echo? token=- type=- other=no body=");
    expect_reply("DELETE", "", "DELETE /echo? token=- type=- other=no body=");
    expect_reply("PUT", "x", "PUT /echo? token=- type=- other=no body=x");
    expect_reply("POST", "", "POST /echo? token=- type=- other=no body=");
}
END_TEST

START_TEST(an_error_of_the_peer_is_an_answer)
{
    struct ap_forward_reply reply;
    ck_assert_int_eq(send_text("GET", "/busy", "", 5000, &reply), 0);
    ck_assert_int_eq(reply.status, 503);
    ck_assert_str_eq(reply.headers[0].name, "Retry-After");
    ck_assert_ptr_nonnull(strstr(reply.body, "full"));
    ap_forward_reply_fini(&reply);
    ck_assert_int_eq(send_text("GET", "/nowhere", "", 5000, &reply), 0);
    ck_assert_int_eq(reply.status, 404);
    ap_forward_reply_fini(&reply);
}
END_TEST

static void *send_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 50; i++) {
        char body[32], expected[96];
        struct ap_forward_reply reply;
        struct ap_err own;
        snprintf(body, sizeof body, "%p.%d", (void *)body, i);
        snprintf(expected, sizeof expected, "POST /echo? token=- type=- other=no body=%s", body);
        struct ap_forward_request r = {.method = "POST", .path = "/echo", .body = body, .len = strlen(body), .timeout_ms = 5000};
        ck_assert_int_eq(ap_forward_send(forward, &r, &reply, &own), 0);
        ck_assert_str_eq(reply.body, expected);
        ap_forward_reply_fini(&reply);
    }
    return NULL;
}

START_TEST(connections_are_kept_and_shared_between_threads)
{
    pthread_t threads[4];
    send_many(NULL);
    ck_assert(metrics_hold("antipode_http_connections 1\n"));
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, send_many, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert(metrics_hold("antipode_http_requests_total{route=\"echo\",code=\"2xx\"} 250\n"));
    size_t len;
    char *page = ap_metrics_render(metrics, &len);
    double open = strtod(strstr(page, "\nantipode_http_connections ") + 27, NULL);
    ck_assert_double_ge(open, 1);
    ck_assert_double_le(open, 4);
    free(page);
}
END_TEST

START_TEST(a_peer_that_restarted_is_reached_again)
{
    expect_reply("POST", "a", "POST /echo? token=- type=- other=no body=a");
    char where[64];
    snprintf(where, sizeof where, "%s", base + 7);
    ap_http_stop(&upstream);
    start_upstream(where);
    expect_reply("POST", "b", "POST /echo? token=- type=- other=no body=b");
}
END_TEST

/* --- streams --- */

static struct ap_forward_stream *begin(int64_t content_length, int64_t timeout_ms)
{
    struct ap_forward_stream *s;
    struct ap_forward_request r = {.method = "POST", .path = "/stream", .content_length = content_length, .timeout_ms = timeout_ms};
    ck_assert_int_eq(ap_forward_stream_begin(forward, &r, &s, &err), 0);
    return s;
}

START_TEST(a_stream_arrives_whole_and_in_order)
{
    const size_t total = 3000000;
    struct ap_forward_stream *s = begin(_i ? (int64_t)total : -1, 5000);
    uint64_t sum = 0;
    unsigned seed = 5;
    for (size_t sent = 0; sent < total;) {
        size_t n = (size_t)rand_r(&seed) % 100000 + 1;
        n = n < total - sent ? n : total - sent;
        char *piece = malloc(n);
        for (size_t i = 0; i < n; i++) {
            piece[i] = (char)rand_r(&seed);
            sum = sum * 31 + (unsigned char)piece[i];
        }
        ck_assert_int_eq(ap_forward_stream_push(s, piece, n, &err), 0);
        free(piece);
        sent += n;
    }
    struct ap_forward_reply reply;
    ck_assert_int_eq(ap_forward_stream_end(s, &reply, &err), 0);
    ck_assert_int_eq(reply.status, 200);
    ck_assert_ptr_nonnull(strstr(reply.body, "{\"result\":3000000,"));
    ck_assert(seen.sum == sum);
    ap_forward_reply_fini(&reply);
    ap_forward_stream_free(&s);
    ck_assert_ptr_null(s);
    ck_assert(metrics_hold("antipode_http_connections 1\n"));
    expect_reply("PUT", "x", "PUT /echo? token=- type=- other=no body=x");
    ck_assert(metrics_hold("antipode_http_connections 1\n"));
}
END_TEST

START_TEST(an_empty_stream_is_a_request)
{
    struct ap_forward_stream *s = begin(_i ? 0 : -1, 5000);
    struct ap_forward_reply reply;
    ck_assert_int_eq(ap_forward_stream_push(s, "", 0, &err), 0);
    ck_assert_int_eq(ap_forward_stream_end(s, &reply, &err), 0);
    ck_assert_ptr_nonnull(strstr(reply.body, "{\"result\":0,"));
    ap_forward_reply_fini(&reply);
    ap_forward_stream_free(&s);
}
END_TEST

START_TEST(an_early_answer_ends_the_pushing)
{
    static char piece[100000];
    struct ap_forward_stream *s = begin(-1, 5000);
    struct ap_forward_reply reply;
    int rc = 0;
    seen.answer_after = 1000000;
    for (int i = 0; i < 10000 && rc == 0; i++)
        rc = ap_forward_stream_push(s, piece, sizeof piece, &err);
    ck_assert_msg(rc == 1, "%d: %s", rc, err.msg);
    ck_assert_int_eq(ap_forward_stream_push(s, piece, sizeof piece, &err), 1);
    ck_assert_int_eq(ap_forward_stream_end(s, &reply, &err), 0);
    ck_assert_int_eq(reply.status, 400);
    ck_assert_ptr_nonnull(strstr(reply.body, "row 3 is bad"));
    ck_assert(!seen.ended);
    ap_forward_reply_fini(&reply);
    ap_forward_stream_free(&s);
    expect_reply("PUT", "x", "PUT /echo? token=- type=- other=no body=x");
}
END_TEST

START_TEST(a_stream_freed_before_its_end_is_an_abort)
{
    struct ap_forward_stream *s = begin(_i ? 100000 : -1, 5000);
    ck_assert_int_eq(ap_forward_stream_push(s, "some", 4, &err), 0);
    sem_wait(&seen.begun);
    ap_forward_stream_free(&s);
    sem_wait(&seen.destroyed);
    ck_assert(!seen.ended);
    expect_reply("PUT", "x", "PUT /echo? token=- type=- other=no body=x");
}
END_TEST

/* --- peers that misbehave --- */

static void check_unreachable(int rc)
{
    ck_assert_int_eq(rc, AP_ENOTREADY);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_ptr_nonnull(strstr(err.msg, "cannot reach the producer (producer.url) at http://127.0.0.1:"));
    ck_assert_ptr_nonnull(strstr(err.msg, "; check that it runs and that the address is right"));
}

START_TEST(a_peer_that_is_away_is_named)
{
    struct ap_forward_reply reply;
    ap_http_stop(&upstream);
    connect_to(base);
    check_unreachable(send_text("POST", "/echo", "x", 5000, &reply));
    ck_assert_ptr_null(reply.body);
    struct ap_forward_stream *s = begin(-1, 5000);
    check_unreachable(ap_forward_stream_push(s, "x", 1, &err));
    ap_forward_stream_free(&s);
}
END_TEST

static int listen_raw(int backlog)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t len = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, len), 0);
    ck_assert_int_eq(listen(fd, backlog), 0);
    getsockname(fd, (struct sockaddr *)&address, &len);
    snprintf(base, sizeof base, "http://127.0.0.1:%d", ntohs(address.sin_port));
    return fd;
}

START_TEST(a_connection_that_is_never_made_times_out_in_a_second)
{
    int fd = listen_raw(0), fill[8];
    struct sockaddr_in address;
    socklen_t len = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &len);
    for (int i = 0; i < 8; i++) { /* the queue is full: the kernel drops what comes after */
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        ck_assert(connect(fill[i], (struct sockaddr *)&address, len) == 0 || errno == EINPROGRESS);
    }
    connect_to(base);
    struct ap_forward_reply reply;
    int64_t start = ap_mono_ms();
    check_unreachable(send_text("POST", "/echo", "x", 2 * PATIENCE_MS, &reply));
    ck_assert_int_lt(ap_mono_ms() - start, PATIENCE_MS);
    for (int i = 0; i < 8; i++)
        close(fill[i]);
    close(fd);
}
END_TEST

START_TEST(an_answer_that_does_not_come_times_out)
{
    struct ap_forward_reply reply;
    int64_t start = ap_mono_ms();
    ck_assert_int_eq(send_text("POST", "/slow", "x", 200, &reply), AP_ETIMEOUT);
    ck_assert_int_ge(ap_mono_ms() - start, 199);
    ck_assert_int_lt(ap_mono_ms() - start, PATIENCE_MS);
    ck_assert_ptr_nonnull(strstr(err.msg, "/slow did not answer POST within 200 ms; whether it was carried out is not known"));
    sem_post(&leave);
}
END_TEST

static void *accept_and_close(void *arg)
{
    char some[4096];
    int fd = accept(*(int *)arg, NULL, NULL);
    ck_assert_int_gt(recv(fd, some, sizeof some, 0), 0);
    close(fd);
    return NULL;
}

START_TEST(a_broken_connection_is_not_called_unreachable)
{
    int fd = listen_raw(8);
    pthread_t thread;
    pthread_create(&thread, NULL, accept_and_close, &fd);
    connect_to(base);
    struct ap_forward_reply reply;
    ck_assert_int_eq(send_text("POST", "/echo", "x", 5000, &reply), AP_EIO);
    ck_assert_ptr_nonnull(strstr(err.msg, "/echo: POST failed: "));
    ck_assert_ptr_nonnull(strstr(err.msg, "whether it was carried out is not known"));
    pthread_join(thread, NULL);
    close(fd);
}
END_TEST

/* One request on a first connection, then a second request there that is dropped unanswered, as a server does that closes
 * an idle connection at that very moment; then a second connection. */
static void *drop_second_request(void *arg)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    char some[4096];
    int fd = accept(*(int *)arg, NULL, NULL);
    ck_assert_int_gt(recv(fd, some, sizeof some, 0), 0);
    ck_assert_int_gt(send(fd, answer, sizeof answer - 1, 0), 0);
    ck_assert_int_gt(recv(fd, some, sizeof some, 0), 0);
    close(fd);
    fd = accept(*(int *)arg, NULL, NULL);
    size_t got = 0;
    while (got < 4 || memcmp(some + got - 4, "last", 4) != 0) {
        ssize_t n = recv(fd, some + got, sizeof some - got, 0);
        ck_assert_int_gt(n, 0);
        got += (size_t)n;
    }
    ck_assert_ptr_nonnull(memmem(some, got, "\r\n\r\nbody, last", 14));
    ck_assert_int_gt(send(fd, answer, sizeof answer - 1, 0), 0);
    close(fd);
    return NULL;
}

START_TEST(a_kept_connection_that_dies_is_replaced_and_the_body_sent_again)
{
    int fd = listen_raw(8);
    pthread_t thread;
    pthread_create(&thread, NULL, drop_second_request, &fd);
    connect_to(base);
    struct ap_forward_reply reply;
    ck_assert_int_eq(send_text("POST", "/echo", "x", 5000, &reply), 0);
    ap_forward_reply_fini(&reply);
    ck_assert_int_eq(send_text("POST", "/echo", "body, last", 5000, &reply), 0);
    ck_assert_int_eq(reply.status, 200);
    ap_forward_reply_fini(&reply);
    pthread_join(thread, NULL);
    close(fd);
}
END_TEST

/* --- behind a server of our own --- */

static void serve_pass(struct ap_http_request *req)
{
    ap_forward_pass(forward, req, 2000);
}

START_TEST(a_server_passes_requests_on)
{
    static const struct ap_http_route front_routes[] = {{"POST", "/echo", serve_pass, NULL, "pass"}, AP_HTTP_ROUTES_END};
    struct ap_metrics *front_metrics = ap_metrics_new();
    struct ap_http_options options = {.listen = "127.0.0.1:0", .max_body_bytes = 1 << 20, .max_connections = 16, .idle_timeout_s = 30,
                                      .routes = front_routes, .metrics = front_metrics};
    struct ap_http_server *front;
    ck_assert_int_eq(ap_http_start(&front, &options, &err), 0);

    char url[64];
    struct ap_forward *client;
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ap_http_port(front));
    struct ap_forward_options to_front = {.base_url = url, .peer = "front", .keep_headers = keep};
    ck_assert_int_eq(ap_forward_new(&client, &to_front, &err), 0);
    struct ap_forward_request r = {.method = "POST", .path = "/echo", .query = "a=b", .content_type = "application/json", .body = "x",
                                   .headers = {{"X-Token", "t"}, {"X-Other", "o"}}, .header_count = 2, .len = 1, .timeout_ms = 5000};
    struct ap_forward_reply reply;
    ck_assert_int_eq(ap_forward_send(client, &r, &reply, &err), 0);
    ck_assert_int_eq(reply.status, 201);
    ck_assert_str_eq(reply.body, "POST /echo?a=b token=t type=application/json other=no body=x");
    ck_assert_str_eq(reply.content_type, "text/odd");
    ck_assert_uint_eq(reply.header_count, 1);
    ck_assert_str_eq(reply.headers[0].value, "back  again");
    ap_forward_reply_fini(&reply);

    ap_http_stop(&upstream);
    ck_assert_int_eq(ap_forward_send(client, &r, &reply, &err), 0);
    ck_assert_int_eq(reply.status, 503);
    ck_assert_ptr_nonnull(strstr(reply.body, "cannot reach the producer"));
    ap_forward_reply_fini(&reply);
    ap_forward_free(&client);
    ap_http_stop(&front);
    ap_metrics_free(&front_metrics);
}
END_TEST

START_TEST(a_bad_url_is_refused)
{
    static const char *const urls[] = {"127.0.0.1:8101", "http://x/", "", "ftp://x"};
    struct ap_forward *f;
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct ap_forward_options options = {.base_url = urls[i], .peer = "the producer (producer.url)"};
        ck_assert_int_eq(ap_forward_new(&f, &options, &err), AP_EINVAL);
        ck_assert_ptr_nonnull(strstr(err.msg, "producer.url"));
        ck_assert_ptr_null(f);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("forward");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, all_of_a_request_and_its_answer_get_through);
    tcase_add_test(tc, an_error_of_the_peer_is_an_answer);
    tcase_add_test(tc, connections_are_kept_and_shared_between_threads);
    tcase_add_test(tc, a_peer_that_restarted_is_reached_again);
    tcase_add_loop_test(tc, a_stream_arrives_whole_and_in_order, 0, 2);
    tcase_add_loop_test(tc, an_empty_stream_is_a_request, 0, 2);
    tcase_add_test(tc, an_early_answer_ends_the_pushing);
    tcase_add_loop_test(tc, a_stream_freed_before_its_end_is_an_abort, 0, 2);
    tcase_add_test(tc, a_peer_that_is_away_is_named);
    tcase_add_test(tc, a_connection_that_is_never_made_times_out_in_a_second);
    tcase_add_test(tc, an_answer_that_does_not_come_times_out);
    tcase_add_test(tc, a_broken_connection_is_not_called_unreachable);
    tcase_add_test(tc, a_kept_connection_that_dies_is_replaced_and_the_body_sent_again);
    tcase_add_test(tc, a_server_passes_requests_on);
    tcase_add_test(tc, a_bad_url_is_refused);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
