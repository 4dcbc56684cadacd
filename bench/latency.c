/* How long until a posted vector is searchable, at home and abroad.
 *
 *   bench_latency --producer URL --home URL --abroad URL --collection NAME --npy FILE [--rate 1000] [--seconds 10] [--clients 16]
 *                 [--level quorum] [--session URL] [--watch 8]
 *
 * Clients post one point a request, at the given rate together, each at its own due time. Every eighth (--watch) is watched: for
 * each region a watcher asks the indexer for those that are not seen yet, in one request, a millisecond after the last answer; a
 * point's time runs from just before its request was sent until the answer that has it was read. So the figure includes the write's
 * own HTTP, up to one polling round, and nothing is taken off. (Watching all takes a tenth of a core from what is measured.)
 * With --level the writes ask for that level. Without --home and --abroad
 * nothing is watched, and only the acknowledgements count. With --session every 20th point is read at that indexer as soon as it is
 * acknowledged, with the token of the answer: read your writes; that time runs from the acknowledgement until the read's answer, and
 * what such a read takes when it need not wait is measured right after it, with the same token. Prints one JSON object. */
#include <pthread.h>
#include <stdatomic.h>
#include "bench/bench.h"

enum { MAX_POINTS = 200000, MAX_BATCH = 256, POLL_NS = 1000000, SESSION_EVERY = 20 };
#define SEEN SIZE_MAX
#define PATIENCE_NS INT64_C(30000000000)

struct point { char id[37]; int64_t sent_ns; _Atomic int state; /* 0 none, 1 sent */ };
struct text { char *at; size_t len; };

struct run {
    const char *producer, *collection, *level, *session;
    struct bench_matrix m;
    struct text *vectors; /* as JSON, made before the clock starts: printing floats would take the cores from what is measured */
    size_t vector_count;
    double rate;
    size_t total, clients, watch_every, watched;
    struct point *points;
    _Atomic size_t next;
    _Atomic int64_t last_sent_ns;
    int64_t start_ns;
    _Atomic bool failed;
};

struct client { struct run *run; pthread_t thread; double *ack_ms, *session_ms, *again_ms; size_t acks, sessions; };
struct watcher { struct run *run; const char *url; pthread_t thread; double *ms; size_t seen, polls; };

static void wait_until_ns(int64_t due)
{
    struct timespec t = { due / 1000000000, due % 1000000000 };
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        ;
}

/* Reads the point with its token; in ms. */
static double read_own(struct bench_http *http, const char *url, const char *id)
{
    char body[96];
    int len = snprintf(body, sizeof body, "{\"ids\":[\"%s\"],\"with_payload\":false,\"with_vector\":false}", id);
    int64_t start = ap_mono_ns();
    long status = bench_http_send(http, "POST", url, body, (size_t)len);
    if (status != 200 || !strstr((char *)http->answer.data, id))
        bench_die("POST %s: %ld, without a point that was acknowledged: %.300s", url, status, (char *)http->answer.data);
    return (double)(ap_mono_ns() - start) / 1e6;
}

static void read_session(struct client *c, struct bench_http *http, const char *answer, const char *id)
{
    char url[512], header[4400] = "X-Antipode-Token: ";
    const char *token = strstr(answer, "\"token\":\"");
    size_t at = strlen(header), len = token ? strcspn(token + 9, "\"") : 0;
    if (!len || at + len >= sizeof header)
        bench_die("an answer without a token: %.300s", answer);
    memcpy(header + at, token + 9, len);
    header[at + len] = '\0';
    snprintf(url, sizeof url, "%s/collections/%s/points", c->run->session, c->run->collection);
    struct curl_slist *headers = curl_slist_append(curl_slist_append(curl_slist_append(NULL, "Content-Type: application/json"), "Expect:"), header);
    curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, headers);
    c->session_ms[c->sessions] = read_own(http, url, id);
    c->again_ms[c->sessions++] = read_own(http, url, id);
    curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, http->headers);
    curl_slist_free_all(headers);
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct run *r = c->run;
    struct bench_http http, reads;
    struct ap_buf body = {0};
    char url[512];
    snprintf(url, sizeof url, "%s/collections/%s/points%s%s", r->producer, r->collection, r->level ? "?level=" : "", r->level ? r->level : "");
    bench_http_init(&http);
    bench_http_init(&reads);
    for (;;) {
        size_t i = atomic_fetch_add(&r->next, 1);
        if (i >= r->total)
            break;
        struct point *p = &r->points[i];
        ap_buf_clear(&body);
        ap_buf_printf(&body, "{\"points\":[{\"id\":\"%s\",\"vector\":", p->id);
        ap_buf_append(&body, r->vectors[i % r->vector_count].at, r->vectors[i % r->vector_count].len);
        ap_buf_append(&body, "}]}", 3);
        wait_until_ns(r->start_ns + (int64_t)((double)i * 1e9 / r->rate));
        p->sent_ns = ap_mono_ns();
        atomic_store(&r->last_sent_ns, p->sent_ns);
        atomic_store_explicit(&p->state, 1, memory_order_release);
        long status = bench_http_send(&http, "PUT", url, body.data, body.len);
        if (status != 200)
            bench_die("PUT %s: %ld %s", url, status, (char *)http.answer.data);
        c->ack_ms[c->acks++] = (double)(ap_mono_ns() - p->sent_ns) / 1e6;
        if (r->session && i % SESSION_EVERY == 0)
            read_session(c, &reads, (char *)http.answer.data, p->id);
    }
    ap_buf_free(&body);
    bench_http_fini(&reads);
    bench_http_fini(&http);
    return NULL;
}

/* Ask for the outstanding points; drop those that the answer has. */
static void watch_round(struct watcher *w, struct bench_http *http, const char *url, size_t *open, size_t *open_count, struct ap_buf *body)
{
    struct run *r = w->run;
    ap_buf_clear(body);
    ap_buf_printf(body, "{\"with_payload\":false,\"with_vector\":false,\"ids\":[");
    for (size_t i = 0; i < *open_count; i++)
        ap_buf_printf(body, i ? ",\"%s\"" : "\"%s\"", r->points[open[i]].id);
    ap_buf_append(body, "]}", 2);
    long status = bench_http_send(http, "POST", url, body->data, body->len);
    int64_t now = ap_mono_ns();
    if (status != 200)
        bench_die("POST %s: %ld %s", url, status, (char *)http->answer.data);
    size_t kept = 0, at = 0;
    for (const char *id = strstr((char *)http->answer.data, "\"id\":\""); id; id = strstr(id, "\"id\":\"")) {
        id += sizeof "\"id\":\"" - 1;
        for (size_t tried = 0; tried < *open_count; tried++, at++) { /* answers keep the order of the question */
            struct point *p = open[at % *open_count] == SEEN ? NULL : &r->points[open[at % *open_count]];
            if (!p || memcmp(p->id, id, sizeof p->id - 1))
                continue;
            w->ms[w->seen++] = (double)(now - p->sent_ns) / 1e6;
            open[at % *open_count] = SEEN;
            break;
        }
    }
    for (size_t i = 0; i < *open_count; i++)
        if (open[i] != SEEN)
            open[kept++] = open[i];
    *open_count = kept;
    w->polls++;
}

static void *watcher_main(void *arg)
{
    struct watcher *w = arg;
    struct run *r = w->run;
    struct bench_http http;
    struct ap_buf body = {0};
    size_t *open = malloc(MAX_BATCH * sizeof *open), open_count = 0, next = 0;
    char url[512];
    snprintf(url, sizeof url, "%s/collections/%s/points", w->url, r->collection);
    bench_http_init(&http);
    while (w->seen < r->watched) {
        for (; next < r->total && open_count < MAX_BATCH && atomic_load_explicit(&r->points[next].state, memory_order_acquire) == 1; next += r->watch_every)
            open[open_count++] = next;
        if (open_count == 0) {
            wait_until_ns(ap_mono_ns() + 200000);
            continue;
        }
        watch_round(w, &http, url, open, &open_count, &body);
        if (ap_mono_ns() > atomic_load(&r->last_sent_ns) + PATIENCE_NS)
            bench_die("%s: %zu of %zu points were not found 30 s after the last was sent", w->url, r->watched - w->seen, r->watched);
        wait_until_ns(ap_mono_ns() + POLL_NS); /* leaves the cores to the system under test */
    }
    free(open);
    ap_buf_free(&body);
    bench_http_fini(&http);
    return NULL;
}

static void print_region(const char *name, struct watcher *w)
{
    double p50 = bench_percentile(w->ms, w->seen, 0.50), p90 = bench_percentile(w->ms, w->seen, 0.90), p99 = bench_percentile(w->ms, w->seen, 0.99);
    printf("\"%s\":{\"p50_ms\":%.2f,\"p90_ms\":%.2f,\"p99_ms\":%.2f,\"points\":%zu,\"polls\":%zu}", name, p50, p90, p99, w->seen, w->polls);
}

int main(int argc, char **argv)
{
    struct run r = { .rate = 1000, .clients = 16, .watch_every = 8 };
    const char *home = NULL, *abroad = NULL, *npy = NULL;
    double seconds = 10;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--producer")) r.producer = argv[i + 1];
        else if (!strcmp(argv[i], "--home")) home = argv[i + 1];
        else if (!strcmp(argv[i], "--abroad")) abroad = argv[i + 1];
        else if (!strcmp(argv[i], "--collection")) r.collection = argv[i + 1];
        else if (!strcmp(argv[i], "--npy")) npy = argv[i + 1];
        else if (!strcmp(argv[i], "--session")) r.session = argv[i + 1];
        else if (!strcmp(argv[i], "--level")) r.level = argv[i + 1];
        else if (!strcmp(argv[i], "--rate")) r.rate = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--clients")) r.clients = (size_t)atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--watch")) r.watch_every = (size_t)atoi(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    if (!r.producer || !home != !abroad || !r.collection || !npy || r.rate <= 0 || r.clients < 1 || r.clients > 64 || r.watch_every < 1 || r.watch_every > MAX_POINTS) {
        fprintf(stderr, "usage: bench_latency --producer URL [--home URL --abroad URL] --collection NAME --npy FILE [--rate N] [--seconds N] [--clients N] [--level LEVEL] [--session URL] [--watch N]\n");
        return 2;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    r.m = bench_load_npy(npy);
    r.total = (size_t)(r.rate * seconds);
    if (r.total < 1 || r.total > MAX_POINTS)
        bench_die("rate * seconds must be between 1 and %d", MAX_POINTS);
    r.watched = (r.total + r.watch_every - 1) / r.watch_every;
    r.points = calloc(r.total, sizeof *r.points);
    uint64_t seed = (uint64_t)ap_wall_us();
    for (size_t i = 0; i < r.total; i++)
        bench_uuid(&seed, r.points[i].id);
    r.vector_count = r.m.rows < r.total ? r.m.rows : r.total;
    r.vectors = calloc(r.vector_count, sizeof *r.vectors);
    for (size_t i = 0; i < r.vector_count; i++) {
        struct ap_buf text = {0};
        bench_json_floats(&text, r.m.data + i * r.m.dim, r.m.dim);
        r.vectors[i] = (struct text){(char *)text.data, text.len};
    }
    r.start_ns = ap_mono_ns() + 50000000;
    atomic_init(&r.last_sent_ns, r.start_ns);

    struct client clients[64] = {0};
    struct watcher watchers[2] = { { .run = &r, .url = home }, { .run = &r, .url = abroad } };
    for (size_t i = 0; home && i < 2; i++) {
        watchers[i].ms = calloc(r.total, sizeof(double));
        pthread_create(&watchers[i].thread, NULL, watcher_main, &watchers[i]);
    }
    for (size_t i = 0; i < r.clients; i++) {
        clients[i].run = &r;
        clients[i].ack_ms = calloc(r.total, sizeof(double));
        clients[i].session_ms = calloc(r.total, sizeof(double));
        clients[i].again_ms = calloc(r.total, sizeof(double));
        pthread_create(&clients[i].thread, NULL, client_main, &clients[i]);
    }
    double *acks = calloc(r.total, sizeof *acks), *sessions = calloc(r.total, sizeof *sessions), *again = calloc(r.total, sizeof *again);
    size_t n = 0, session_count = 0;
    for (size_t i = 0; i < r.clients; i++) {
        pthread_join(clients[i].thread, NULL);
        memcpy(acks + n, clients[i].ack_ms, clients[i].acks * sizeof *acks);
        n += clients[i].acks;
        memcpy(sessions + session_count, clients[i].session_ms, clients[i].sessions * sizeof *sessions);
        memcpy(again + session_count, clients[i].again_ms, clients[i].sessions * sizeof *again);
        session_count += clients[i].sessions;
    }
    double took = (double)(ap_mono_ns() - r.start_ns) / 1e9;
    for (size_t i = 0; home && i < 2; i++)
        pthread_join(watchers[i].thread, NULL);
    printf("{\"rate_asked\":%.0f,\"rate_had\":%.0f,", r.rate, (double)r.total / took);
    printf("\"ack\":{\"p50_ms\":%.2f,\"p99_ms\":%.2f}", bench_percentile(acks, n, 0.50), bench_percentile(acks, n, 0.99));
    if (r.session)
        printf(",\"read_your_writes\":{\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"reads\":%zu,\"without_waiting\":{\"p50_ms\":%.2f,\"p99_ms\":%.2f}}",
               bench_percentile(sessions, session_count, 0.50), bench_percentile(sessions, session_count, 0.99), session_count,
               bench_percentile(again, session_count, 0.50), bench_percentile(again, session_count, 0.99));
    if (home) {
        putchar(',');
        print_region("home", &watchers[0]);
        putchar(',');
        print_region("abroad", &watchers[1]);
    }
    puts("}");
    return 0;
}
