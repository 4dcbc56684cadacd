/* Sealed segments: of raw vectors where the store has them, on the disk where that is asked for, built without holding the vectors. */
#include <check.h>
#include <glob.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/log.h"
#include "index_rig.h"
#include "indexer/tier.h"
#include "vectors.h"
#include "run.h"

#define DIM 32
static struct ix_rig r;
static struct ap_err err;

static double sample_of(const char *name, const char *labels)
{
    size_t len;
    char *page = ap_metrics_render(r.metrics, &len), wanted[200];
    snprintf(wanted, sizeof wanted, "\n%s{%s} ", name, labels);
    const char *at = strstr(page, wanted);
    double value = at ? atof(at + strlen(wanted)) : -1;
    free(page);
    return value;
}

START_TEST(names)
{
    ck_assert(ap_tier_is_named("books", "books") && ap_tier_is_named("a, books ,b", "books") && ap_tier_is_named("*", "books") && ap_tier_is_named("a,*", "books"));
    ck_assert(!ap_tier_is_named(NULL, "books") && !ap_tier_is_named("", "books") && !ap_tier_is_named("book,books2", "books") && !ap_tier_is_named("b*", "books"));
}
END_TEST

START_TEST(cold_ones_are_found_and_counted)
{
    size_t n = 9000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(20, DIM, 6, 1);
    ix_open(&r, DIM, AP_COSINE, n);
    r.options.hot_rows = 2500;
    r.options.merge_fan = 3;
    r.options.cold = "others, books";
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, n, 1000);
    ix_refresh(&r);
    ck_assert(ix_wait_indexed(&r, 7500, 30));
    for (int round = 0; round < 3; round++) { /* as built; as loaded; and warm */
        bool cold = round < 2;
        ck_assert_double_gt(sample_of("antipode_index_tier_bytes", cold ? "collection=\"books\",tier=\"cold\"" : "collection=\"books\",tier=\"warm\""), 7500 * DIM);
        ck_assert_double_eq(sample_of("antipode_index_tier_bytes", cold ? "collection=\"books\",tier=\"warm\"" : "collection=\"books\",tier=\"cold\""), 0);
        ck_assert_double_ge(ix_recall(&r, queries, 20, 10, NULL), 0.93);
        if (!cold) {
            double all = sample_of("antipode_index_tier_bytes", "collection=\"books\",tier=\"warm\""), there = sample_of("antipode_index_tier_resident_bytes", "collection=\"books\",tier=\"warm\"");
            ck_assert_msg(there > all * 0.98, "%g of %g bytes are in memory", there, all);
        }
        ix_stop_index(&r);
        r.options.cold = round == 0 ? "books" : "others";
        ix_start_index(&r);
        ix_refresh(&r);
    }
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

/* A code this coarse chooses candidates badly: what is sealed of raw vectors chooses well. */
START_TEST(of_raw_vectors)
{
    size_t n = 6000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(40, DIM, 6, 1);
    double recall[2];
    for (int raw = 0; raw < 2; raw++) {
        struct ap_codec *codec = NULL;
        ck_assert_int_eq(ap_codec_train("PQ1", DIM, x, n, 1, &codec, &err), 0);
        ix_open(&r, DIM, AP_COSINE, n);
        r.raw = raw;
        r.options.hot_rows = 1000;
        r.options.build_threads = 2;
        ix_define(&r, false);
        ix_codec(&r, codec, true);
        ix_start_index(&r);
        ix_load(&r, x, 0, n, 500);
        ix_refresh(&r);
        ck_assert(ix_wait_indexed(&r, 5000, 30));
        recall[raw] = ix_recall(&r, queries, 40, 10, NULL);
        ix_close(&r);
    }
    ck_assert_msg(recall[1] > recall[0] + 0.2 && recall[1] > 0.7, "recall %g of codes, %g of raw vectors", recall[0], recall[1]);
    free(x);
    free(queries);
}
END_TEST

/* ---- threads ---- */

/* The only segment's body: what follows the header, whose ids are chosen at random. */
static uint8_t *body_of(const char *index_path, size_t *len)
{
    enum { HEADER = 4096 };
    char pattern[160];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%s/*.seg", index_path);
    ck_assert_int_eq(glob(pattern, 0, NULL, &found), 0);
    ck_assert_uint_eq(found.gl_pathc, 1);
    FILE *f = fopen(found.gl_pathv[0], "rb");
    ck_assert_ptr_nonnull(f);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f) - HEADER;
    uint8_t *body = malloc(*len);
    fseek(f, HEADER, SEEK_SET);
    ck_assert_uint_eq(fread(body, 1, *len, f), *len);
    fclose(f);
    globfree(&found);
    return body;
}

/* Rows as they lie in the sources, and rows of which some are raw in the store; some deleted, in blocks that are not full. */
START_TEST(any_number_of_threads_builds_the_same)
{
    enum { ROWS = 9300, HOT = 3000 };
    static const int threads[] = {1, 2, 7};
    float *x = test_clustered(ROWS, DIM, 5, 1);
    uint8_t *first = NULL;
    size_t first_len = 0, len;
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct ap_codec *codec = NULL;
        ix_open(&r, DIM, AP_COSINE, ROWS);
        ix_define(&r, false);
        if (_i) {
            ck_assert_int_eq(ap_codec_train("PQ8", DIM, x, ROWS, 1, &codec, &err), 0);
            ix_codec(&r, codec, true);
        }
        for (size_t i = 0; i < ROWS; i += 100) { /* every other hundred has raw vectors */
            r.raw = _i && i % 200 == 0;
            ix_load(&r, x + i * DIM, i, 100, 100);
        }
        ix_begin(&r);
        for (size_t i = 0; i < ROWS; i += 11)
            ix_delete(&r, i);
        ix_commit(&r);
        r.options.hot_rows = HOT;
        r.options.build_threads = threads[t];
        ix_start_index(&r);
        ix_refresh(&r); /* all at once, and then they are sealed at once */
        ck_assert(ix_wait_sealed(&r, 2, 60));
        uint8_t *body = body_of(r.index_path, &len);
        ix_close(&r);
        if (t == 0) {
            first = body;
            first_len = len;
            ck_assert_uint_gt(len, (size_t)2 * HOT * 64);
            continue;
        }
        ck_assert_uint_eq(len, first_len);
        ck_assert_msg(memcmp(body, first, len) == 0, "%d threads build another segment than one", threads[t]);
        free(body);
    }
    free(first);
    free(x);
}
END_TEST

/* ---- memory ---- */

static atomic_bool stop;
static double most;

static double private_mb(void)
{
    char line[128];
    double kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %lf", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb / 1024;
}

static void *watch(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop)) {
        double now = private_mb();
        most = now > most ? now : most;
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return NULL;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) /* they take more than we do */
enum { MEMORY_IS_OURS = 0 };
#else
enum { MEMORY_IS_OURS = 1 };
#endif

/* Two sealed segments become one: the vectors alone would be 29 MB, as floats. */
START_TEST(merging_takes_little_memory)
{
    enum { WIDE = 128 };
    size_t n = 60000;
    float *x = test_clustered(n, WIDE, 5, 1);
    pthread_t watcher;
    ix_open(&r, WIDE, AP_EUCLID, n);
    r.options.hot_rows = 29000;
    r.options.merge_fan = 64;
    ix_define(&r, false);
    for (int half = 0; half < 2; half++) {
        ix_start_index(&r);
        ix_load(&r, x + (size_t)half * n / 2 * WIDE, (size_t)half * n / 2, n / 2, 5000);
        ix_refresh(&r);
        ck_assert(ix_wait_indexed(&r, half ? 58000 : 29000, 60));
        if (half)
            break;
        ix_stop_index(&r);
    }
    free(x);
    atomic_store(&stop, false);
    most = 0;
    double before = private_mb();
    pthread_create(&watcher, NULL, watch, NULL);
    bool merged = ix_wait_sealed(&r, 2, 60); /* it rests: one large, and the hot one */
    atomic_store(&stop, true);
    pthread_join(watcher, NULL);
    ck_assert(merged);
    ck_assert_msg(most - before < 16, "merging 60000 rows took %.1f MB", most - before);
    ix_close(&r);
}
END_TEST

int main(void)
{
    ap_ann_init();
    ap_log_init("test", AP_LOG_ERROR, NULL, NULL);
    Suite *s = suite_create("sealed");
    TCase *t = tcase_create("sealed");
    tcase_set_timeout(t, 100);
    tcase_add_test(t, names);
    tcase_add_test(t, cold_ones_are_found_and_counted);
    tcase_add_test(t, of_raw_vectors);
    tcase_add_loop_test(t, any_number_of_threads_builds_the_same, 0, 2);
    if (MEMORY_IS_OURS)
        tcase_add_test(t, merging_takes_little_memory);
    suite_add_tcase(s, t);
    return run_suite(s);
}
