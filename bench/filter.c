/* Filtered search in process: recall@10 and latency of filters that pass 0.1, 1, 10 and 50 % of the rows, beside the
 * unfiltered search of the same run.
 *
 *   bench_filter FILE.npy [--codec FACTORY] [--rows N] [--queries N] [--sealed FACTORY] [--undeclared] [--abroad]
 *
 * Row i's payload has an integer that is uniform over 0 .. rows-1, each once, and a keyword of ten: so a range's share is
 * exact. The last rows of the file are the queries and are not loaded. Queries take turns, so that all kinds meet the same
 * machine. Prints one JSON object. */
#include <getopt.h>
#include <unistd.h>
#include "bench.h"
#include "../tests/unit/index_rig.c" /* the same rig as the tests', which are not a library for others */
#include "common/log.h"

#define K 10
#define KINDS 7
static const char *const kind_names[KINDS] = {"none", "0.1%", "1%", "10%", "50%", "keyword 10%", "20%"};
static const double shares[KINDS] = {1, 0.001, 0.01, 0.1, 0.5, 0.1, 0.2};

static struct ix_rig rig;
static size_t rows;

static double micro(int64_t since_ns)
{
    return (double)(ap_mono_ns() - since_ns) / 1e3;
}

/* A permutation of 0 .. rows-1. */
static size_t number_of(size_t i)
{
    return (size_t)(((uint64_t)i * 2654435761u + 12345) % rows);
}

static size_t gcd(size_t a, size_t b)
{
    return b ? gcd(b, a % b) : a;
}

static bool passes(size_t row, size_t kind, size_t first, size_t count)
{
    if (kind == 0)
        return true;
    if (kind == 5)
        return row % 10 == first % 10;
    size_t n = number_of(row);
    return n >= first && n < first + count;
}

static void truth_of(const struct bench_matrix *m, const float *query, size_t kind, size_t first, size_t count, uint64_t ids[K], size_t *found)
{
    float best[K];
    size_t n = 0;
    for (size_t i = 0; i < rows; i++) {
        if (!passes(i, kind, first, count))
            continue;
        float score;
        ap_flat_scores(AP_COSINE, query, m->data + i * m->dim, (uint32_t)m->dim, 1, &score);
        if (n == K && score <= best[K - 1])
            continue;
        size_t at = n < K ? n++ : K - 1;
        for (; at > 0 && best[at - 1] < score; at--) {
            best[at] = best[at - 1];
            ids[at] = ids[at - 1];
        }
        best[at] = score;
        ids[at] = i;
    }
    *found = n;
}

static json_t *filter_json(size_t kind, size_t first, size_t count)
{
    char keyword[16];
    snprintf(keyword, sizeof keyword, "kind-%zu", first % 10);
    return kind == 5 ? json_pack("{s:[{s:s,s:{s:s}}]}", "must", "key", "kind", "match", "value", keyword)
                     : json_pack("{s:[{s:s,s:{s:I,s:I}}]}", "must", "key", "number", "range", "gte", (json_int_t)first, "lt", (json_int_t)(first + count));
}

static void wait_indexed(void)
{
    for (;;) {
        struct ap_view *view;
        struct ap_collection_view c;
        bool done = true;
        MUST(ap_view_begin(rig.index, &view, &err));
        MUST(ap_view_collection(view, "books", &c, &err));
        for (size_t i = 0; i < c.fields->count; i++)
            done = done && ap_view_field_points(view, &c, c.fields->items[i].id) >= rows;
        ap_view_end(&view);
        if (done)
            return;
        usleep(2000);
    }
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"codec", 1, 0, 'c'}, {"sealed", 1, 0, 's'}, {"rows", 1, 0, 'n'}, {"queries", 1, 0, 'q'},
        {"undeclared", 0, 0, 'u'}, {"abroad", 0, 0, 'a'}, {0}};
    const char *codec_name = "PQ96", *sealed = NULL;
    size_t queries = 500;
    bool declare = true, raw = true;
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (c) {
        case 'c': codec_name = optarg; break;
        case 's': sealed = optarg; break;
        case 'n': rows = strtoul(optarg, NULL, 10); break;
        case 'q': queries = strtoul(optarg, NULL, 10); break;
        case 'u': declare = false; break;
        case 'a': raw = false; break;
        default: return 2;
        }
    if (optind + 1 != argc)
        bench_die("usage: %s FILE.npy [options]", argv[0]);
    ap_ann_init();
    ap_log_init("bench", AP_LOG_WARN, NULL, NULL);
    struct bench_matrix m = bench_load_npy(argv[optind]);
    if (m.rows < queries + 1000)
        bench_die("%s has %zu rows only", argv[optind], m.rows);
    rows = rows && rows < m.rows - queries ? rows : m.rows - queries;
    while (gcd(rows, 2654435761u % rows) != 1)
        rows--;
    for (size_t i = 0; i < m.rows; i++)
        ap_normalize(m.data + i * m.dim, (uint32_t)m.dim); /* float16 is not quite unit length */

    ix_open(&rig, (uint32_t)m.dim, AP_COSINE, rows);
    rig.raw = raw;
    rig.options.sealed_factory = sealed;
    ix_define(&rig, false);
    if (strcmp(codec_name, "none") != 0) {
        struct ap_codec *codec = NULL;
        MUST(ap_codec_train(codec_name, (uint32_t)m.dim, m.data, rows < 20000 ? rows : 20000, 1, &codec, &err));
        ix_codec(&rig, codec, true);
    }
    ix_start_index(&rig);
    json_t *out = json_pack("{s:i,s:i,s:b,s:b}", "rows", (int)rows, "dim", (int)m.dim, "raw", raw, "declared", declare);
    for (size_t i = 0; i < rows; i++) {
        char payload[96];
        if (i % 1000 == 0)
            ix_begin(&rig);
        snprintf(payload, sizeof payload, "{\"number\":%zu,\"kind\":\"kind-%zu\",\"name\":\"row %zu\"}", number_of(i), i % 10, i);
        ix_upsert(&rig, i, m.data + i * m.dim, payload);
        if (i % 1000 == 999 || i + 1 == rows)
            ix_commit(&rig);
    }
    int64_t start = ap_mono_ns();
    ix_refresh(&rig);
    json_object_set_new(out, "apply_rows_per_s", json_real((double)rows / micro(start) * 1e6));
    ix_wait_sealed(&rig, 2, 120);
    if (declare) {
        start = ap_mono_ns();
        ix_index(&rig, "number", AP_FIELD_INTEGER, NULL, false);
        ix_index(&rig, "kind", AP_FIELD_KEYWORD, NULL, false);
        ix_refresh(&rig);
        wait_indexed();
        json_object_set_new(out, "two_indexes_built_s", json_real(micro(start) / 1e6));
    }

    double *latency[KINDS];
    size_t hits[KINDS] = {0}, all[KINDS] = {0};
    for (size_t k = 0; k < KINDS; k++)
        latency[k] = calloc(queries, sizeof *latency[k]);
    for (size_t i = 0; i < queries; i++)
        for (size_t k = 0; k < KINDS; k++) {
            const float *query = m.data + (m.rows - queries + i) * m.dim;
            size_t count = (size_t)((double)rows * shares[k]), first = (i * 7919) % (rows - count + 1), n;
            uint64_t truth[K];
            truth_of(&m, query, k, first, count, truth, &n);
            struct ap_filter *filter = NULL;
            json_t *json = k ? filter_json(k, first, count) : NULL;
            for (int warm = 0; warm < 2; warm++) { /* the truth has swept the caches: the second one counts */
                struct ap_view *view;
                struct ap_collection_view c;
                size_t found = 0;
                struct ap_hit answer[K];
                int64_t at = ap_mono_ns();
                MUST(ap_view_begin(rig.index, &view, &err));
                MUST(ap_view_collection(view, "books", &c, &err));
                if (k) {
                    MUST(ap_filter_parse(json, &filter, &err));
                    MUST(ap_view_bind(&c, filter, &err));
                }
                struct ap_search q = {.vector = query, .limit = K, .filter = filter};
                MUST(ap_view_search(view, &c, &q, answer, &found, &err));
                ap_filter_free(&filter);
                ap_view_end(&view);
                latency[k][i] = micro(at);
                for (size_t a = 0; warm && a < n; a++)
                    for (size_t b = 0; b < found; b++)
                        hits[k] += truth[a] == ix_number(&answer[b].id);
            }
            all[k] += n;
            json_decref(json);
        }
    for (size_t k = 0; k < KINDS; k++) {
        json_object_set_new(out, kind_names[k], json_pack("{s:f,s:f,s:f}", "recall_at_10", (double)hits[k] / (double)all[k], "p50_us",
                                                          bench_percentile(latency[k], queries, 0.5), "p99_us", bench_percentile(latency[k], queries, 0.99)));
        free(latency[k]);
    }
    ix_stop_index(&rig);
    start = ap_mono_ns();
    ix_start_index(&rig);
    json_object_set_new(out, "open_s", json_real(micro(start) / 1e6));
    ix_refresh(&rig);
    json_object_set_new(out, "restart_s", json_real(micro(start) / 1e6));
    ix_close(&rig);
    json_dumpf(out, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(5));
    putchar('\n');
    json_decref(out);
    free(m.data);
    return 0;
}
