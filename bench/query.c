/* Query latency and recall@10 over HTTP, keep-alive connections, against a collection that holds the rows of an .npy file.
 *
 *   bench_query --url URL --collection NAME --npy FILE --queries FILE [--count 2000] [--clients 1] [--effort N] [--k 10]
 *   bench_query --url URL --collection NAME --truth FILE --queries FILE ...
 *   bench_query --url URL --null /livez [--count N] [--clients N]
 *
 * Row i of --npy is the point with the integer id i. Queries are rows of --queries (never among the loaded). The truth is
 * computed here, by an exact scan of the rows, or read from --truth: for each query the ids of the nearest, as floats. --null
 * sends GETs of that path instead: what the same clients cost with a handler that does nothing. Requests are written before
 * the clock starts, answers read after it has stopped. Prints one JSON object. */
#include <math.h>
#include <pthread.h>
#include "bench/bench.h"

enum { WARM = 50 }; /* requests of each client before the clock starts */

struct run {
    const char *url, *collection, *null_path;
    struct bench_matrix base, queries;
    size_t count, k, clients;
    int effort;
    uint32_t *truth;
    struct ap_buf *bodies; /* of each query */
    pthread_barrier_t warm;
};
struct client {
    struct run *run;
    size_t index;
    pthread_t thread;
    double *ms;
    struct ap_buf answers;
    size_t *answer_at;
    int64_t start, end;
};

static void normalize(struct bench_matrix *m)
{
    for (size_t i = 0; i < m->rows; i++) {
        float *v = m->data + i * m->dim, sum = 0;
        for (size_t j = 0; j < m->dim; j++)
            sum += v[j] * v[j];
        for (size_t j = 0; j < m->dim; j++)
            v[j] /= sqrtf(sum);
    }
}

static void truth_of(struct run *r, size_t q)
{
    float best[100];
    uint32_t id[100];
    size_t n = 0;
    const float *query = r->queries.data + q * r->queries.dim;
    for (size_t i = 0; i < r->base.rows; i++) {
        const float *row = r->base.data + i * r->base.dim;
        float s = 0;
        for (size_t j = 0; j < r->base.dim; j++)
            s += query[j] * row[j];
        if (n == r->k && s <= best[n - 1])
            continue;
        size_t at = n < r->k ? n++ : n - 1;
        for (; at > 0 && best[at - 1] < s; at--) {
            best[at] = best[at - 1];
            id[at] = id[at - 1];
        }
        best[at] = s;
        id[at] = (uint32_t)i;
    }
    memcpy(r->truth + q * r->k, id, r->k * sizeof *id);
}

static uint64_t hits(struct run *r, size_t q, const char *answer)
{
    json_t *root = json_loads(answer, 0, NULL), *points = json_object_get(json_object_get(root, "result"), "points"), *p;
    uint64_t found = 0;
    size_t i;
    json_array_foreach(points, i, p) {
        json_int_t id = json_integer_value(json_object_get(p, "id"));
        for (size_t j = 0; j < r->k; j++)
            found += r->truth[q * r->k + j] == (uint64_t)id;
    }
    json_decref(root);
    return found;
}

static void write_bodies(struct run *r)
{
    r->bodies = calloc(r->queries.rows, sizeof *r->bodies);
    for (size_t q = 0; q < r->queries.rows; q++) {
        struct ap_buf *body = &r->bodies[q];
        ap_buf_append(body, "{\"query\":", 9);
        bench_json_floats(body, r->queries.data + q * r->queries.dim, r->queries.dim);
        ap_buf_printf(body, ",\"limit\":%zu", r->k);
        if (r->effort > 0)
            ap_buf_printf(body, ",\"params\":{\"hnsw_ef\":%d}", r->effort);
        ap_buf_append(body, "}", 1);
    }
}

static size_t question(const struct client *c, size_t i)
{
    return (i * c->run->clients + c->index) % c->run->queries.rows;
}

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct run *r = c->run;
    struct bench_http http;
    char url[512];
    bench_http_init(&http);
    if (r->null_path)
        snprintf(url, sizeof url, "%s%s", r->url, r->null_path);
    else
        snprintf(url, sizeof url, "%s/collections/%s/points/query", r->url, r->collection);
    for (size_t i = 0; i < r->count + WARM; i++) {
        if (i == WARM) {
            pthread_barrier_wait(&r->warm);
            c->start = ap_mono_ns();
        }
        const struct ap_buf *body = r->null_path ? NULL : &r->bodies[question(c, i)];
        int64_t t = ap_mono_ns();
        long status = body ? bench_http_send(&http, "POST", url, body->data, body->len) : bench_http_get(&http, url);
        double ms = (double)(ap_mono_ns() - t) / 1e6;
        if (status != 200)
            bench_die("%s: %ld %s", url, status, (char *)http.answer.data);
        if (i < WARM)
            continue;
        c->ms[i - WARM] = ms;
        c->answer_at[i - WARM] = c->answers.len;
        if (body)
            ap_buf_append(&c->answers, http.answer.data, http.answer.len);
    }
    c->end = ap_mono_ns();
    bench_http_fini(&http);
    return NULL;
}

static uint64_t found_by(struct client *c)
{
    uint64_t found = 0;
    for (size_t i = 0; i < c->run->count; i++)
        found += hits(c->run, question(c, i + WARM), (char *)c->answers.data + c->answer_at[i]);
    return found;
}

static void read_truth(struct run *r, const char *path)
{
    struct bench_matrix m = bench_load_npy(path);
    if (m.rows != r->queries.rows || m.dim < r->k)
        bench_die("%s has %zu rows of %zu, and there are %zu queries for %zu each", path, m.rows, m.dim, r->queries.rows, r->k);
    for (size_t q = 0; q < m.rows; q++)
        for (size_t j = 0; j < r->k; j++)
            r->truth[q * r->k + j] = (uint32_t)m.data[q * m.dim + j];
    free(m.data);
}

static void prepare(struct run *r, const char *npy, const char *queries, const char *truth)
{
    r->queries = bench_load_npy(queries);
    write_bodies(r);
    r->truth = calloc(r->queries.rows * r->k, sizeof *r->truth);
    if (truth) {
        read_truth(r, truth);
        return;
    }
    r->base = bench_load_npy(npy);
    if (r->base.dim != r->queries.dim || r->base.rows < r->k)
        bench_die("%s and %s do not fit each other", npy, queries);
    normalize(&r->base);
    normalize(&r->queries);
    for (size_t q = 0; q < r->queries.rows; q++)
        truth_of(r, q);
}

int main(int argc, char **argv)
{
    struct run r = { .count = 2000, .k = 10, .clients = 1 };
    const char *npy = NULL, *queries = NULL, *truth = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--url")) r.url = argv[i + 1];
        else if (!strcmp(argv[i], "--collection")) r.collection = argv[i + 1];
        else if (!strcmp(argv[i], "--npy")) npy = argv[i + 1];
        else if (!strcmp(argv[i], "--queries")) queries = argv[i + 1];
        else if (!strcmp(argv[i], "--truth")) truth = argv[i + 1];
        else if (!strcmp(argv[i], "--null")) r.null_path = argv[i + 1];
        else if (!strcmp(argv[i], "--count")) r.count = (size_t)atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--clients")) r.clients = (size_t)atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--effort")) r.effort = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--k")) r.k = (size_t)atol(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    bool asks = r.collection && queries && (npy || truth);
    if (!r.url || (!asks && !r.null_path) || r.k < 1 || r.k > 100 || r.clients < 1 || r.clients > 64 || r.count < 1) {
        fprintf(stderr, "usage: bench_query --url URL (--collection NAME (--npy FILE | --truth FILE) --queries FILE | --null PATH) [--count N] [--clients N] "
                        "[--effort N] [--k N]\n");
        return 2;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (!r.null_path)
        prepare(&r, npy, queries, truth);
    pthread_barrier_init(&r.warm, NULL, (unsigned)r.clients);

    struct client clients[64] = {0};
    for (size_t i = 0; i < r.clients; i++) {
        clients[i] = (struct client){ .run = &r, .index = i, .ms = calloc(r.count, sizeof(double)), .answer_at = calloc(r.count, sizeof(size_t)) };
        pthread_create(&clients[i].thread, NULL, client_main, &clients[i]);
    }
    size_t n = r.count * r.clients;
    double *all = calloc(n, sizeof *all);
    int64_t start = INT64_MAX, end = 0;
    uint64_t found = 0;
    for (size_t i = 0; i < r.clients; i++) {
        pthread_join(clients[i].thread, NULL);
        memcpy(all + i * r.count, clients[i].ms, r.count * sizeof *all);
        start = clients[i].start < start ? clients[i].start : start;
        end = clients[i].end > end ? clients[i].end : end;
    }
    for (size_t i = 0; i < r.clients && !r.null_path; i++)
        found += found_by(&clients[i]);
    printf("{\"queries\":%zu,\"clients\":%zu,", n, r.clients);
    if (!r.null_path)
        printf("\"recall_at_%zu\":%.4f,", r.k, (double)found / (double)(n * r.k));
    printf("\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"per_second\":%.0f}\n", bench_percentile(all, n, 0.5), bench_percentile(all, n, 0.9),
           bench_percentile(all, n, 0.99), (double)n / ((double)(end - start) / 1e9));
    return 0;
}
