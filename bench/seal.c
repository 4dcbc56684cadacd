/* How long a segment of so many rows takes to be sealed, by the number of threads that build it.
 *
 *   bench_seal [ROWS] [ROUNDS]
 *
 * Clustered vectors of 128 dimensions, in process, all sealed at once as at the end of a rebuild; with 1, 2, 4 ... threads in
 * turn, up to the cores, so that other load meets all of them. Prints a JSON object a build: rows are those of full hot
 * segments, seconds are the builder's own, cpu_seconds all threads' from the end of reading on. */
#include <sys/resource.h>
#include <unistd.h>
#include "bench.h"
#include "../tests/unit/index_rig.c" /* the same rig as the tests', which are not a library for others */
#include "common/log.h"

enum { DIM = 128, CENTERS = 1000, BATCH = 10000 };
static struct ix_rig rig;
static uint64_t state = 1;

/* About normal, of variance 1: the sum of twelve uniform ones. */
static float about_normal(void)
{
    float sum = -6;
    for (int i = 0; i < 12; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407); /* Knuth's MMIX */
        sum += (float)(state >> 40) * 0x1p-24f;
    }
    return sum;
}

static void load(size_t rows)
{
    float *centers = malloc(sizeof(float) * CENTERS * DIM), *x = malloc(sizeof(float) * BATCH * DIM);
    for (size_t i = 0; i < (size_t)CENTERS * DIM; i++)
        centers[i] = about_normal();
    for (size_t at = 0; at < rows; at += BATCH) {
        size_t n = rows - at < BATCH ? rows - at : BATCH;
        for (size_t i = 0; i < n; i++) {
            const float *center = centers + (at + i) * 7919 % CENTERS * DIM;
            for (size_t j = 0; j < DIM; j++)
                x[i * DIM + j] = center[j] + 0.3f * about_normal();
        }
        ix_load(&rig, x, at, n, BATCH);
    }
    free(centers);
    free(x);
}

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Of all segments sealed so far. */
static double sealing_seconds(void)
{
    static const char name[] = "antipode_index_build_seconds_sum{kind=\"seal\"} ";
    size_t len;
    char *page = ap_metrics_render(rig.metrics, &len), *at = strstr(page, name);
    double seconds = at ? atof(at + strlen(name)) : 0;
    free(page);
    return seconds;
}

static void build(int threads)
{
    char command[160];
    struct ap_view *view;
    struct ap_collection_view c;
    snprintf(command, sizeof command, "rm -rf %s", rig.index_path);
    if (system(command) != 0)
        bench_die("cannot remove %s", rig.index_path);
    rig.options.build_threads = threads;
    double seconds = sealing_seconds();
    ix_start_index(&rig);
    ix_refresh(&rig);
    double cpu = cpu_seconds();
    if (!ix_wait_sealed(&rig, 2, 600))
        bench_die("%d threads: not sealed after ten minutes", threads);
    MUST(ap_view_begin(rig.index, &view, &err));
    MUST(ap_view_collection(view, "books", &c, &err));
    ap_view_end(&view);
    ix_stop_index(&rig);
    double load = 0;
    (void)getloadavg(&load, 1);
    printf("{\"threads\": %d, \"rows\": %llu, \"seconds\": %.2f, \"cpu_seconds\": %.2f, \"load\": %.1f}\n", threads, (unsigned long long)c.indexed,
           sealing_seconds() - seconds, cpu_seconds() - cpu, load);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    size_t rows = argc > 1 ? strtoul(argv[1], NULL, 10) : 970000, rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 3;
    if (rows < 20000 || rounds < 1)
        bench_die("usage: %s [ROWS, 20,000 or more] [ROUNDS]", argv[0]);
    ap_ann_init();
    ap_log_init("bench", AP_LOG_WARN, NULL, NULL);
    ix_open(&rig, DIM, AP_EUCLID, rows);
    rig.options.unsealed_bytes = (uint64_t)1 << 40; /* nothing is sealed before all is read */
    ix_define(&rig, false);
    load(rows);
    for (size_t round = 0; round < rounds; round++)
        for (long threads = 1; threads <= sysconf(_SC_NPROCESSORS_ONLN); threads *= 2)
            build((int)threads);
    ix_close(&rig);
    return 0;
}
