/* Bulk load of an .npy file, and when it is searchable in both regions.
 *
 *   bench_bulk --producer URL --home URL --abroad URL --collection NAME --npy FILE [--generation 1] [--check 1000]
 *
 * The file is streamed to the producer in one request; ids are derived from the vectors, as UUIDs. When it is acknowledged,
 * --check random rows, the last 100 among them, are asked for by id in both regions until every one has been found. Both
 * times run from the first byte sent. Prints one JSON object. */
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

int main(int argc, char **argv)
{
    const char *producer = NULL, *home = NULL, *abroad = NULL, *collection = NULL, *npy = NULL;
    size_t checks = 1000;
    uint64_t generation = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--producer")) producer = argv[i + 1];
        else if (!strcmp(argv[i], "--home")) home = argv[i + 1];
        else if (!strcmp(argv[i], "--abroad")) abroad = argv[i + 1];
        else if (!strcmp(argv[i], "--collection")) collection = argv[i + 1];
        else if (!strcmp(argv[i], "--npy")) npy = argv[i + 1];
        else if (!strcmp(argv[i], "--generation")) generation = strtoull(argv[i + 1], NULL, 10);
        else if (!strcmp(argv[i], "--check")) checks = (size_t)atol(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    if (!producer || !home || !abroad || !collection || !npy || checks < 1) {
        fprintf(stderr, "usage: bench_bulk --producer URL --home URL --abroad URL --collection NAME --npy FILE [--generation N] [--check N]\n");
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
        struct ap_point_id id;
        ap_point_id_from_vector(ap_collection_id(collection, generation), m.data + row * m.dim, m.dim, &id);
        ap_point_id_print(&id, ids[i]);
    }
    struct bench_http http;
    bench_http_init(&http);
    int64_t start = ap_mono_ns();
    post_file(producer, collection, npy, &http);
    int64_t acked = ap_mono_ns();
    struct check check[2] = { { home, collection, ids, checks, 0, 0 }, { abroad, collection, ids, checks, 0, 0 } };
    for (size_t i = 0; i < 2; i++)
        pthread_create(&check[i].thread, NULL, check_main, &check[i]);
    for (size_t i = 0; i < 2; i++)
        pthread_join(check[i].thread, NULL);
    double ack_s = (double)(acked - start) / 1e9, home_s = (double)(check[0].found_ns - start) / 1e9, abroad_s = (double)(check[1].found_ns - start) / 1e9;
    double both = home_s > abroad_s ? home_s : abroad_s;
    printf("{\"rows\":%zu,\"checked\":%zu,\"acknowledged_s\":%.3f,\"acknowledged_per_second\":%.0f,\"found_home_s\":%.3f,\"found_abroad_s\":%.3f,"
           "\"found_in_both_per_second\":%.0f}\n",
           m.rows, checks, ack_s, (double)m.rows / ack_s, home_s, abroad_s, (double)m.rows / both);
    return 0;
}
