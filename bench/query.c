/* Query latency and recall@10 over HTTP, keep-alive connections, against a collection that holds the rows of an .npy file.
 *
 *   bench_query --url URL --collection NAME --npy FILE --queries FILE [--count 2000] [--clients 1] [--effort N] [--k 10]
 *
 * Row i of --npy is the point with the integer id i. Queries are rows of --queries (never among the loaded). The truth is
 * computed here, by an exact scan of the rows. Prints one JSON object. */
#include <math.h>
#include <pthread.h>
#include "bench/bench.h"

struct run { const char *url, *collection; struct bench_matrix base, queries; size_t count, k, clients; int effort; uint32_t *truth; };
struct client { struct run *run; size_t index; pthread_t thread; double *ms; size_t n; uint64_t found; };

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

static void *client_main(void *arg)
{
    struct client *c = arg;
    struct run *r = c->run;
    struct bench_http http;
    struct ap_buf body = {0};
    char url[512];
    snprintf(url, sizeof url, "%s/collections/%s/points/query", r->url, r->collection);
    bench_http_init(&http);
    size_t warm = r->queries.rows < 50 ? r->queries.rows : 50;
    for (size_t i = 0; i < r->count + warm; i++) {
        size_t q = (i * r->clients + c->index) % r->queries.rows;
        ap_buf_clear(&body);
        ap_buf_append(&body, "{\"query\":", 9);
        bench_json_floats(&body, r->queries.data + q * r->queries.dim, r->queries.dim);
        ap_buf_printf(&body, ",\"limit\":%zu", r->k);
        if (r->effort > 0)
            ap_buf_printf(&body, ",\"params\":{\"hnsw_ef\":%d}", r->effort);
        ap_buf_append(&body, "}", 1);
        int64_t t = ap_mono_ns();
        long status = bench_http_send(&http, "POST", url, body.data, body.len);
        double ms = (double)(ap_mono_ns() - t) / 1e6;
        if (status != 200)
            bench_die("POST %s: %ld %s", url, status, (char *)http.answer.data);
        if (i < warm)
            continue;
        c->ms[c->n++] = ms;
        c->found += hits(r, q, (char *)http.answer.data);
    }
    ap_buf_free(&body);
    bench_http_fini(&http);
    return NULL;
}

int main(int argc, char **argv)
{
    struct run r = { .count = 2000, .k = 10, .clients = 1 };
    const char *npy = NULL, *queries = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--url")) r.url = argv[i + 1];
        else if (!strcmp(argv[i], "--collection")) r.collection = argv[i + 1];
        else if (!strcmp(argv[i], "--npy")) npy = argv[i + 1];
        else if (!strcmp(argv[i], "--queries")) queries = argv[i + 1];
        else if (!strcmp(argv[i], "--count")) r.count = (size_t)atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--clients")) r.clients = (size_t)atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--effort")) r.effort = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--k")) r.k = (size_t)atol(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    if (!r.url || !r.collection || !npy || !queries || r.k < 1 || r.k > 100 || r.clients < 1 || r.clients > 64 || r.count < 1) {
        fprintf(stderr, "usage: bench_query --url URL --collection NAME --npy FILE --queries FILE [--count N] [--clients N] [--effort N] [--k N]\n");
        return 2;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    r.base = bench_load_npy(npy);
    r.queries = bench_load_npy(queries);
    if (r.base.dim != r.queries.dim || r.base.rows < r.k)
        bench_die("%s and %s do not fit each other", npy, queries);
    normalize(&r.base);
    normalize(&r.queries);
    r.truth = calloc(r.queries.rows * r.k, sizeof *r.truth);
    for (size_t q = 0; q < r.queries.rows; q++)
        truth_of(&r, q);

    struct client clients[64] = {0};
    int64_t start = ap_mono_ns();
    for (size_t i = 0; i < r.clients; i++) {
        clients[i] = (struct client){ .run = &r, .index = i, .ms = calloc(r.count, sizeof(double)) };
        pthread_create(&clients[i].thread, NULL, client_main, &clients[i]);
    }
    double *all = calloc(r.count * r.clients, sizeof *all);
    size_t n = 0;
    uint64_t found = 0;
    for (size_t i = 0; i < r.clients; i++) {
        pthread_join(clients[i].thread, NULL);
        memcpy(all + n, clients[i].ms, clients[i].n * sizeof *all);
        n += clients[i].n;
        found += clients[i].found;
    }
    double took = (double)(ap_mono_ns() - start) / 1e9;
    printf("{\"queries\":%zu,\"clients\":%zu,\"recall_at_%zu\":%.4f,\"p50_ms\":%.3f,\"p90_ms\":%.3f,\"p99_ms\":%.3f,\"per_second\":%.0f}\n", n, r.clients, r.k,
           (double)found / (double)(n * r.k), bench_percentile(all, n, 0.5), bench_percentile(all, n, 0.9), bench_percentile(all, n, 0.99), (double)n / took);
    return 0;
}
