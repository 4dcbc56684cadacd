/* The index in process: recall@10 and latency over real embeddings, as it seals and merges, and what it weighs.
 *
 *   bench_index FILE.npy [--codec FACTORY] [--raw] [--rows N] [--queries N] [--hot-rows N] [--sealed FACTORY] [--small] [--candidates N] [--batch N]
 *
 * The last rows of the file are the queries and are not loaded. Without --raw all is as abroad: answers are rescored with
 * decoded codes. --small: sealed segments of one bit a dimension. Prints one JSON object. */
#include <getopt.h>
#include <unistd.h>
#include "bench.h"
#include "../tests/unit/index_rig.c" /* the same rig as the tests', which are not a library for others */
#include "common/log.h"

struct bench_options { const char *codec, *sealed; size_t rows, queries, batch, hot_rows, candidates; bool raw, small; };

static struct ix_rig rig;
static uint64_t *truth;
#define K 10

/* Private memory of this process, in MB: the store's pages are the file's. */
static double private_mb(void)
{
    char line[256];
    double kb = 0, part;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "Pss_Anon: %lf", &part) == 1)
            kb = part;
    if (f)
        fclose(f);
    return kb / 1024;
}

static double cpu_micro(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static double micro(int64_t since_ns)
{
    return (double)(ap_mono_ns() - since_ns) / 1e3;
}

static json_t *measure(const struct bench_matrix *m, size_t first, const struct bench_options *o, const struct ap_search *how, size_t queries)
{
    double *latency = calloc(queries, sizeof *latency), cpu = cpu_micro();
    size_t found = 0;
    for (size_t i = 0; i < queries; i++) {
        uint64_t ids[K];
        float scores[K];
        struct ap_search q = *how;
        q.vector = m->data + (first + i) * m->dim;
        q.limit = K;
        q.candidates = (uint32_t)o->candidates;
        int64_t start = ap_mono_ns();
        size_t n = ix_search(&rig, &q, ids, scores);
        latency[i] = micro(start);
        for (size_t a = 0; a < K; a++)
            for (size_t b = 0; b < n; b++)
                found += truth[i * K + a] == ids[b];
    }
    cpu = (cpu_micro() - cpu) / (double)queries;
    json_t *out = json_pack("{s:f,s:f,s:f,s:f}", "recall_at_10", (double)found / (double)(queries * K), "p50_us",
                            bench_percentile(latency, queries, 0.5), "p99_us", bench_percentile(latency, queries, 0.99), "cpu_us", cpu);
    free(latency);
    return out;
}

static json_t *shape(void)
{
    struct ap_view *view;
    struct ap_collection_view c;
    MUST(ap_view_begin(rig.index, &view, &err));
    MUST(ap_view_collection(view, "books", &c, &err));
    json_t *out = json_pack("{s:I,s:I,s:i}", "points", (json_int_t)c.points, "indexed", (json_int_t)c.indexed, "segments", (int)c.segments);
    ap_view_end(&view);
    return out;
}

static json_t *stage(const struct bench_matrix *m, size_t first, const struct bench_options *o)
{
    json_t *out = shape();
    json_object_update_new(out, measure(m, first, o, &(struct ap_search){0}, o->queries));
    return out;
}

static void use_codec(const struct bench_options *o, const struct bench_matrix *m, json_t *out)
{
    size_t good, least;
    struct ap_codec *codec = NULL;
    if (strcmp(o->codec, "none") == 0)
        return;
    ap_codec_training_size(o->codec, (uint32_t)m->dim, &good, &least);
    good = good < o->rows ? good : o->rows;
    int64_t start = ap_mono_ns();
    MUST(ap_codec_train(o->codec, (uint32_t)m->dim, m->data, good, 1, &codec, &err));
    json_object_set_new(out, "train_s", json_real(micro(start) / 1e6));
    json_object_set_new(out, "train_vectors", json_integer((json_int_t)good));
    json_object_set_new(out, "code_bytes", json_integer((json_int_t)ap_codec_code_size(codec)));
    ix_codec(&rig, codec, true);
}

static void find_truth(const struct bench_matrix *m, size_t first, size_t queries)
{
    float scores[K];
    truth = calloc(queries * K, sizeof *truth);
    for (size_t i = 0; i < queries; i++)
        ix_exact(&rig, m->data + (first + i) * m->dim, K, truth + i * K, scores);
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"codec", 1, 0, 'c'}, {"sealed", 1, 0, 's'}, {"rows", 1, 0, 'n'}, {"queries", 1, 0, 'q'},
        {"batch", 1, 0, 'b'}, {"hot-rows", 1, 0, 'h'}, {"candidates", 1, 0, 'k'}, {"raw", 0, 0, 'r'}, {"small", 0, 0, '1'}, {0}};
    struct bench_options o = {.codec = "PQ96", .queries = 500, .batch = 1000};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (c) {
        case 'c': o.codec = optarg; break;
        case 's': o.sealed = optarg; break;
        case 'n': o.rows = strtoul(optarg, NULL, 10); break;
        case 'q': o.queries = strtoul(optarg, NULL, 10); break;
        case 'b': o.batch = strtoul(optarg, NULL, 10); break;
        case 'h': o.hot_rows = strtoul(optarg, NULL, 10); break;
        case 'k': o.candidates = strtoul(optarg, NULL, 10); break;
        case 'r': o.raw = true; break;
        case '1': o.small = true; break;
        default: return 2;
        }
    if (optind + 1 != argc)
        bench_die("usage: %s FILE.npy [options]", argv[0]);
    ap_ann_init();
    ap_log_init("bench", AP_LOG_WARN, NULL, NULL);
    struct bench_matrix m = bench_load_npy(argv[optind]);
    if (m.rows < o.queries + 1)
        bench_die("%s has %zu rows only", argv[optind], m.rows);
    if (o.rows == 0 || o.rows > m.rows - o.queries)
        o.rows = m.rows - o.queries;
    size_t first = m.rows - o.queries;
    for (size_t i = 0; i < m.rows; i++)
        ap_normalize(m.data + i * m.dim, (uint32_t)m.dim); /* float16 is not quite unit length */

    json_t *out = json_pack("{s:s,s:i,s:i,s:b}", "codec", o.codec, "rows", (int)o.rows, "dim", (int)m.dim, "raw", o.raw);
    ix_open(&rig, (uint32_t)m.dim, AP_COSINE, o.rows);
    rig.raw = o.raw;
    rig.options.sealed_factory = o.sealed;
    rig.options.small = o.small ? "*" : NULL;
    rig.options.hot_rows = (uint32_t)o.hot_rows;
    ix_define(&rig, false);
    use_codec(&o, &m, out);
    memset(rig.vectors, 0, o.rows * m.dim * sizeof *rig.vectors); /* the model's memory is none of the index's */
    double before = private_mb();
    ix_start_index(&rig);
    int64_t writing = 0, reading = 0;
    for (size_t i = 0; i < o.rows; i += 10000) {
        size_t n = o.rows - i < 10000 ? o.rows - i : 10000;
        int64_t start = ap_mono_ns();
        ix_load(&rig, m.data + i * m.dim, i, n, o.batch);
        writing += ap_mono_ns() - start;
        start = ap_mono_ns();
        ix_refresh(&rig);
        reading += ap_mono_ns() - start;
    }
    json_object_set_new(out, "write_rows_per_s", json_real((double)o.rows / ((double)writing * 1e-9)));
    json_object_set_new(out, "apply_rows_per_s", json_real((double)o.rows / ((double)reading * 1e-9)));
    json_object_set_new(out, "after_load_shape", shape());
    find_truth(&m, first, o.queries);
    json_object_set_new(out, "loaded", stage(&m, first, &o));
    int64_t start = ap_mono_ns();
    ix_wait_sealed(&rig, 2, 60);
    json_object_set_new(out, "until_merged_s", json_real(micro(start) / 1e6));
    json_object_set_new(out, "merged", stage(&m, first, &o));
    json_object_set_new(out, "index_private_mb", json_real(private_mb() - before));
    json_t *efforts = json_object();
    for (uint32_t effort = 4; effort <= 512; effort *= 2) {
        char name[16];
        snprintf(name, sizeof name, "%u", effort);
        json_object_set_new(efforts, name, measure(&m, first, &o, &(struct ap_search){.effort = effort}, o.queries));
    }
    json_object_set_new(out, "by_effort", efforts);
    json_object_set_new(out, "exact", measure(&m, first, &o, &(struct ap_search){.exact = true}, o.queries < 200 ? o.queries : 200));
    ix_stop_index(&rig);
    start = ap_mono_ns();
    ix_start_index(&rig);
    ix_refresh(&rig);
    json_object_set_new(out, "restart_s", json_real(micro(start) / 1e6));
    json_object_set_new(out, "restarted", stage(&m, first, &o));
    json_object_set_new(out, "restarted_private_mb", json_real(private_mb() - before));
    ix_close(&rig);
    json_dumpf(out, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(out);
    free(truth);
    free(m.data);
    return 0;
}
