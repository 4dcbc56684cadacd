/* Bulk load of an .npy file, when it is searchable in both regions, and how they answer at that moment.
 *
 *   bench_bulk --producer URL [--home URL [--abroad URL]] --collection NAME --npy FILE [--generation 1] [--check 1000]
 *              [--queries FILE.npy --truth FILE.npy]
 *
 * The file is streamed to the producer in one request; ids are derived from the vectors, as UUIDs. When it is acknowledged,
 * --check random rows, the last 100 among them, are asked for by id in both regions until every one has been found. Both
 * times run from the first byte sent; without --home nothing is looked for. With --queries, both regions are then searched at
 * once, one client each, while they do what they still have to do; --truth names the ten rows that a query should find (a row of
 * numbers a query). The first 5 are asked for once more with `exact`: that is what the codes allow. Prints one JSON object. */
#include <pthread.h>
#include "bench/bench.h"
#include "common/ident.h"

struct check { const char *url, *collection; char (*ids)[AP_POINT_ID_TEXT]; size_t count; pthread_t thread; int64_t found_ns; };

static void *check_main(void *arg)
{
    struct check *c = arg;
    struct bench_http http;
    struct ap_buf body = {0};
    char url[512];
    bool *found = calloc(c->count, sizeof *found);
    size_t left = c->count;
    snprintf(url, sizeof url, "%s/collections/%s/points", c->url, c->collection);
    bench_http_init(&http);
    int64_t deadline = ap_mono_ns() + INT64_C(120000000000);
    while (left > 0) {
        size_t asked = 0;
        ap_buf_clear(&body);
        ap_buf_printf(&body, "{\"with_payload\":false,\"with_vector\":false,\"ids\":[");
        for (size_t i = 0; i < c->count && asked < 250; i++)
            if (!found[i])
                ap_buf_printf(&body, asked++ ? ",\"%s\"" : "\"%s\"", c->ids[i]);
        ap_buf_append(&body, "]}", 2);
        long status = bench_http_send(&http, "POST", url, body.data, body.len);
        if (status != 200)
            bench_die("POST %s: %ld %s", url, status, (char *)http.answer.data);
        size_t before = left;
        for (size_t i = 0, looked = 0; i < c->count && looked < asked; i++) {
            if (found[i])
                continue;
            looked++;
            if (strstr((char *)http.answer.data, c->ids[i])) {
                found[i] = true;
                left--;
            }
        }
        if (ap_mono_ns() > deadline)
            bench_die("%s: %zu of %zu points were not found within 120 s", c->url, left, c->count);
        if (left == before) {
            struct timespec t = { 0, 2000000 };
            nanosleep(&t, NULL);
        }
    }
    c->found_ns = ap_mono_ns();
    free(found);
    ap_buf_free(&body);
    bench_http_fini(&http);
    return NULL;
}

static size_t read_file(char *data, size_t size, size_t n, void *file)
{
    return fread(data, size, n, file);
}

/* Streams the file as it is; returns the producer's answer in http->answer. */
static void post_file(const char *producer, const char *collection, const char *path, struct bench_http *http)
{
    char url[512];
    FILE *f = fopen(path, "rb");
    if (!f)
        bench_die("%s cannot be read", path);
    fseek(f, 0, SEEK_END);
    curl_off_t size = ftell(f);
    rewind(f);
    snprintf(url, sizeof url, "%s/collections/%s/points/bulk", producer, collection);
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/x-npy");
    headers = curl_slist_append(headers, "Expect:");
    curl_easy_setopt(http->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(http->curl, CURLOPT_URL, url);
    curl_easy_setopt(http->curl, CURLOPT_POST, 1L);
    curl_easy_setopt(http->curl, CURLOPT_POSTFIELDSIZE_LARGE, size);
    curl_easy_setopt(http->curl, CURLOPT_READFUNCTION, read_file);
    curl_easy_setopt(http->curl, CURLOPT_READDATA, f);
    curl_easy_setopt(http->curl, CURLOPT_UPLOAD_BUFFERSIZE, 1L << 20);
    curl_easy_setopt(http->curl, CURLOPT_TIMEOUT, 600L);
    CURLcode rc = curl_easy_perform(http->curl);
    long status = 0;
    curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
    ap_buf_append(&http->answer, "", 1);
    if (rc != CURLE_OK || status != 200)
        bench_die("POST %s: %s, %ld %s", url, curl_easy_strerror(rc), status, (char *)http->answer.data);
    curl_slist_free_all(headers);
    fclose(f);
}

static void id_of(const char *collection, uint64_t generation, const struct bench_matrix *m, size_t row, char out[AP_POINT_ID_TEXT])
{
    struct ap_point_id id;
    ap_point_id_from_vector(ap_collection_id(collection, generation), m->data + row * m->dim, m->dim, &id);
    ap_point_id_print(&id, out);
}

/* --- searching --- */

#define TRUTH 10
#define EXACT 5

struct asking { const char *url, *collection; struct bench_matrix queries; char (*truth)[AP_POINT_ID_TEXT]; pthread_t thread; double *ms, recall, recall_first, recall_exact; };

static double ask(struct asking *a, struct bench_http *http, struct ap_buf *body, size_t q, bool exact, size_t *hits)
{
    char url[512];
    snprintf(url, sizeof url, "%s/collections/%s/points/query", a->url, a->collection);
    ap_buf_clear(body);
    ap_buf_append(body, "{\"query\":", 9);
    bench_json_floats(body, a->queries.data + q * a->queries.dim, a->queries.dim);
    ap_buf_printf(body, ",\"limit\":%d%s}", TRUTH, exact ? ",\"params\":{\"exact\":true}" : "");
    int64_t t = ap_mono_ns();
    long status = bench_http_send(http, "POST", url, body->data, body->len);
    double ms = (double)(ap_mono_ns() - t) / 1e6;
    if (status != 200)
        bench_die("POST %s: %ld %s", url, status, (char *)http->answer.data);
    for (size_t i = 0; i < TRUTH; i++)
        *hits += strstr((char *)http->answer.data, a->truth[q * TRUTH + i]) != NULL;
    return ms;
}

static void *ask_main(void *arg)
{
    struct asking *a = arg;
    struct bench_http http;
    struct ap_buf body = {0};
    size_t hits = 0, first = 0, exact = 0, few = a->queries.rows < EXACT ? a->queries.rows : EXACT;
    bench_http_init(&http);
    for (size_t q = 0; q < a->queries.rows; q++) {
        a->ms[q] = ask(a, &http, &body, q, false, &hits);
        if (q + 1 == few)
            first = hits;
    }
    for (size_t q = 0; q < few; q++)
        ask(a, &http, &body, q, true, &exact);
    a->recall = (double)hits / (double)(a->queries.rows * TRUTH);
    a->recall_first = (double)first / (double)(few * TRUTH);
    a->recall_exact = (double)exact / (double)(few * TRUTH);
    ap_buf_free(&body);
    bench_http_fini(&http);
    return NULL;
}

static void print_asked(const char *name, struct asking *a)
{
    printf(",\"%s\":{\"p50_ms\":%.2f,\"p99_ms\":%.2f,\"recall_at_10\":%.4f,\"of_the_first\":%.4f,\"exact_of_the_first\":%.4f}", name,
           bench_percentile(a->ms, a->queries.rows, 0.5), bench_percentile(a->ms, a->queries.rows, 0.99), a->recall, a->recall_first, a->recall_exact);
}

int main(int argc, char **argv)
{
    const char *queries = NULL, *truth = NULL, *producer = NULL, *home = NULL, *abroad = NULL, *collection = NULL, *npy = NULL;
    size_t checks = 1000;
    uint64_t generation = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--producer")) producer = argv[i + 1];
        else if (!strcmp(argv[i], "--home")) home = argv[i + 1];
        else if (!strcmp(argv[i], "--abroad")) abroad = argv[i + 1];
        else if (!strcmp(argv[i], "--collection")) collection = argv[i + 1];
        else if (!strcmp(argv[i], "--npy")) npy = argv[i + 1];
        else if (!strcmp(argv[i], "--generation")) generation = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--queries")) queries = argv[i + 1];
        else if (!strcmp(argv[i], "--truth")) truth = argv[i + 1];
        else if (!strcmp(argv[i], "--check")) checks = (size_t)atol(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    if (!producer || !collection || !npy || checks < 1 || !queries != !truth || (!home && (abroad || queries))) {
        fprintf(stderr, "usage: bench_bulk --producer URL [--home URL [--abroad URL]] --collection NAME --npy FILE [--generation N] [--check N] [--queries FILE --truth FILE]\n");
        return 2;
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    struct bench_matrix m = bench_load_npy(npy);
    if (checks > m.rows)
        checks = m.rows;
    char (*ids)[AP_POINT_ID_TEXT] = calloc(checks, sizeof *ids);
    uint64_t seed = (uint64_t)ap_wall_us();
    for (size_t i = 0; i < checks; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        size_t row = i < 100 ? m.rows - 1 - i : (size_t)(seed >> 33) % m.rows;
        id_of(collection, generation, &m, row, ids[i]);
    }
    size_t regions = abroad ? 2 : home ? 1 : 0;
    struct asking asking[2] = { { .url = home, .collection = collection }, { .url = abroad, .collection = collection } };
    if (queries) {
        struct bench_matrix q = bench_load_npy(queries), t = bench_load_npy(truth);
        if (q.dim != m.dim || t.dim != TRUTH || t.rows != q.rows)
            bench_die("%s and %s do not fit %s", queries, truth, npy);
        char (*wanted)[AP_POINT_ID_TEXT] = calloc(q.rows * TRUTH, sizeof *wanted);
        for (size_t i = 0; i < q.rows * TRUTH; i++)
            id_of(collection, generation, &m, (size_t)t.data[i], wanted[i]);
        for (size_t i = 0; i < regions; i++) {
            asking[i].queries = q;
            asking[i].truth = wanted;
            asking[i].ms = calloc(q.rows, sizeof(double));
        }
    }
    struct bench_http http;
    bench_http_init(&http);
    int64_t start = ap_mono_ns();
    post_file(producer, collection, npy, &http);
    int64_t acked = ap_mono_ns();
    struct check check[2] = { { home, collection, ids, checks, 0, 0 }, { abroad, collection, ids, checks, 0, 0 } };
    for (size_t i = 0; i < regions; i++)
        pthread_create(&check[i].thread, NULL, check_main, &check[i]);
    for (size_t i = 0; i < regions; i++)
        pthread_join(check[i].thread, NULL);
    for (size_t i = 0; queries && i < regions; i++)
        pthread_create(&asking[i].thread, NULL, ask_main, &asking[i]);
    for (size_t i = 0; queries && i < regions; i++)
        pthread_join(asking[i].thread, NULL);
    double ack_s = (double)(acked - start) / 1e9, last = 0;
    printf("{\"rows\":%zu,\"acknowledged_s\":%.3f,\"acknowledged_per_second\":%.0f", m.rows, ack_s, (double)m.rows / ack_s);
    for (size_t i = 0; i < regions; i++) {
        double found_s = (double)(check[i].found_ns - start) / 1e9;
        last = found_s > last ? found_s : last;
        printf(",\"found_%s_s\":%.3f", i ? "abroad" : "home", found_s);
    }
    if (regions > 0)
        printf(",\"checked\":%zu,\"found_%s_per_second\":%.0f", checks, abroad ? "in_both" : "home", (double)m.rows / last);
    for (size_t i = 0; queries && i < regions; i++)
        print_asked(i ? "queries_abroad" : "queries_home", &asking[i]);
    printf("}\n");
    return 0;
}
