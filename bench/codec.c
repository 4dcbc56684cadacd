/* Codecs by what they cost and keep: recall@10 of an exact search over decoded vectors, at home of nobody.
 *
 *   bench_codec FILE.npy FACTORY... [--train N] [--rows N] [--queries N] [--seed N] [--distance cosine|euclid|dot]
 *
 * --queries rows, chosen by --seed, are kept apart: never trained on, never loaded. The codec is trained on the first
 * --train of the others (default: what the producer would collect). Prints one JSON object a factory string and line:
 *   recall_at_10      of the true ten, in the ten best by decoded vectors (to unit length under cosine, as the indexer does)
 *   recall_10_in_40   in the forty best: what a rescoring with raw vectors could reach
 *   recall_at_10_new  of those of the true ten that the codec was not trained on
 *   encode_k_per_s, decode_k_per_s: thousand vectors a second, one thread, 1024 a call */
#include <getopt.h>
#include "bench.h"
#include "common/ann.h"
#include "common/err.h"

enum { TOP = 40, K = 10, RUN = 1024 };
struct job { size_t train, rows, queries; uint64_t seed; enum ap_distance distance; };

static struct bench_matrix all, queries, loaded;
static uint32_t *truth;

static double seconds(int64_t since_ns)
{
    return (double)(ap_mono_ns() - since_ns) / 1e9;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void best_of(const struct job *j, const float *rows, const float *query, size_t top, uint32_t *out)
{
    static float *scores;
    float best[TOP];
    size_t have = 0;
    if (!scores && !(scores = malloc(loaded.rows * sizeof *scores)))
        bench_die("out of memory");
    ap_flat_scores(j->distance, query, rows, (uint32_t)loaded.dim, loaded.rows, scores);
    for (size_t i = 0; i < loaded.rows; i++) {
        float s = ap_score_descending(j->distance) ? scores[i] : -scores[i];
        if (have == top && s <= best[top - 1])
            continue;
        size_t at = have < top ? have++ : top - 1;
        for (; at > 0 && best[at - 1] < s; at--) {
            best[at] = best[at - 1];
            out[at] = out[at - 1];
        }
        best[at] = s;
        out[at] = (uint32_t)i;
    }
}

static void measure(const struct job *j, const float *decoded, size_t trained, json_t *out)
{
    size_t in10 = 0, in40 = 0, fresh = 0, fresh10 = 0;
    for (size_t q = 0; q < queries.rows; q++) {
        uint32_t found[TOP];
        best_of(j, decoded, queries.data + q * queries.dim, TOP, found);
        for (size_t a = 0; a < K; a++) {
            uint32_t want = truth[q * K + a];
            size_t at = 0;
            while (at < TOP && found[at] != want)
                at++;
            in10 += at < K;
            in40 += at < TOP;
            fresh += want >= trained;
            fresh10 += want >= trained && at < K;
        }
    }
    double of = (double)(queries.rows * K);
    json_object_set_new(out, "recall_at_10", json_real((double)in10 / of));
    json_object_set_new(out, "recall_10_in_40", json_real((double)in40 / of));
    if (fresh > 0)
        json_object_set_new(out, "recall_at_10_new", json_real((double)fresh10 / (double)fresh));
}

static void refused(json_t *out, const struct ap_err *err)
{
    json_object_set_new(out, "refused", json_string(err->msg));
}

static void run(const struct job *j, const char *factory, json_t *out)
{
    struct ap_err err = {0};
    struct ap_codec *codec = NULL;
    size_t good, least, dim = loaded.dim, n = loaded.rows, len;
    if (ap_codec_check(factory, (uint32_t)dim, &err) != 0) {
        refused(out, &err);
        return;
    }
    ap_codec_training_size(factory, (uint32_t)dim, &good, &least);
    good = j->train ? j->train : good;
    good = good < n ? good : n;
    double cpu = cpu_seconds();
    int64_t start = ap_mono_ns();
    if (ap_codec_train(factory, (uint32_t)dim, loaded.data, good, 1, &codec, &err) != 0) {
        refused(out, &err);
        return;
    }
    (void)ap_codec_bytes(codec, &len);
    size_t size = ap_codec_code_size(codec);
    json_object_set_new(out, "bytes", json_integer((json_int_t)size));
    json_object_set_new(out, "codec_kib", json_integer((json_int_t)(len >> 10)));
    json_object_set_new(out, "train_rows", json_integer((json_int_t)good));
    json_object_set_new(out, "train_s", json_real(seconds(start)));
    json_object_set_new(out, "train_cpu_s", json_real(cpu_seconds() - cpu));
    uint8_t *codes = malloc(n * size);
    float *decoded = malloc(n * dim * sizeof *decoded);
    if (!codes || !decoded)
        bench_die("out of memory");
    int rc = 0;
    cpu = cpu_seconds();
    for (size_t i = 0; rc == 0 && i < n; i += RUN)
        rc = ap_codec_encode(codec, n - i < RUN ? n - i : RUN, loaded.data + i * dim, codes + i * size, &err);
    json_object_set_new(out, "encode_k_per_s", json_real((double)n / (cpu_seconds() - cpu) / 1e3));
    cpu = cpu_seconds();
    for (size_t i = 0; rc == 0 && i < n; i += RUN)
        rc = ap_codec_decode(codec, n - i < RUN ? n - i : RUN, codes + i * size, decoded + i * dim, &err);
    json_object_set_new(out, "decode_k_per_s", json_real((double)n / (cpu_seconds() - cpu) / 1e3));
    if (rc != 0)
        bench_die("%s: %s", factory, err.msg);
    double error = 0, power = 0;
    for (size_t i = good < n ? good * dim : 0; i < n * dim; i++) {
        error += (double)((decoded[i] - loaded.data[i]) * (decoded[i] - loaded.data[i]));
        power += (double)(loaded.data[i] * loaded.data[i]);
    }
    json_object_set_new(out, "squared_error", json_real(error / power));
    for (size_t i = 0; j->distance == AP_COSINE && i < n; i++)
        ap_normalize(decoded + i * dim, (uint32_t)dim);
    measure(j, decoded, good, out);
    ap_codec_unref(&codec);
    free(codes);
    free(decoded);
}

/* Queries to the front, by chance that --seed decides. */
static void set_apart(const struct job *j)
{
    uint64_t state = j->seed;
    float *row = malloc(all.dim * sizeof *row);
    for (size_t i = 0; row && i < all.rows - 1; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        size_t other = i + (size_t)(state >> 33) % (all.rows - i), len = all.dim * sizeof *row;
        memcpy(row, all.data + i * all.dim, len);
        memcpy(all.data + i * all.dim, all.data + other * all.dim, len);
        memcpy(all.data + other * all.dim, row, len);
    }
    free(row);
    queries = (struct bench_matrix){all.data, j->queries, all.dim};
    loaded = (struct bench_matrix){all.data + j->queries * all.dim, all.rows - j->queries, all.dim};
    if (j->rows && j->rows < loaded.rows)
        loaded.rows = j->rows;
}

int main(int argc, char **argv)
{
    static const struct option names[] = {{"train", 1, 0, 't'}, {"rows", 1, 0, 'n'}, {"queries", 1, 0, 'q'}, {"seed", 1, 0, 's'}, {"distance", 1, 0, 'd'}, {0}};
    struct job j = {.queries = 1000, .seed = 5, .distance = AP_COSINE};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;)
        switch (c) {
        case 't': j.train = strtoul(optarg, NULL, 10); break;
        case 'n': j.rows = strtoul(optarg, NULL, 10); break;
        case 'q': j.queries = strtoul(optarg, NULL, 10); break;
        case 's': j.seed = strtoull(optarg, NULL, 10); break;
        case 'd': j.distance = !strcmp(optarg, "euclid") ? AP_EUCLID : !strcmp(optarg, "dot") ? AP_DOT : AP_COSINE; break;
        default: return 2;
        }
    if (argc - optind < 2) {
        fprintf(stderr, "usage: bench_codec FILE.npy FACTORY... [--train N] [--rows N] [--queries N] [--seed N] [--distance cosine|euclid|dot]\n");
        return 2;
    }
    ap_ann_init();
    all = bench_load_npy(argv[optind]);
    if (j.queries < 1 || j.queries >= all.rows)
        bench_die("%s has %zu rows: too few for %zu queries", argv[optind], all.rows, j.queries);
    for (size_t i = 0; j.distance == AP_COSINE && i < all.rows; i++)
        ap_normalize(all.data + i * all.dim, (uint32_t)all.dim);
    set_apart(&j);
    truth = malloc(queries.rows * K * sizeof *truth);
    for (size_t q = 0; truth && q < queries.rows; q++)
        best_of(&j, loaded.data, queries.data + q * queries.dim, K, truth + q * K);
    for (int i = optind + 1; i < argc; i++) {
        json_t *out = json_pack("{s:s,s:i,s:i}", "codec", argv[i], "dim", (int)all.dim, "rows", (int)loaded.rows);
        run(&j, argv[i], out);
        json_dumpf(out, stdout, JSON_COMPACT | JSON_REAL_PRECISION(4));
        putchar('\n');
        fflush(stdout);
        json_decref(out);
    }
    free(truth);
    free(all.data);
    return 0;
}
