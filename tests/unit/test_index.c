/* The index over a real store: what it finds is what the model says, whatever happens in between. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "index_rig.h"
#include "patience.h"
#include "vectors.h"
#include "run.h"

#define DIM 32
static struct ix_rig r;
static struct ap_err err;

static void check_exact(const float *queries, size_t nq)
{
    const struct ap_search exact = {.exact = true};
    double recall = ix_recall(&r, queries, nq, 10, &exact);
    ck_assert_msg(recall == 1, "exact search finds %g of the true ten", recall);
}

static struct ap_collection_view look(void)
{
    struct ap_view *view;
    struct ap_collection_view c;
    ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
    ck_assert_msg(ap_view_collection(view, "books", &c, &err) == 0, "%s", err.msg);
    c.collection = NULL; /* gone with the view */
    ap_view_end(&view);
    return c;
}

static struct ap_codec *train(const char *factory, const float *x, size_t n)
{
    struct ap_codec *c = NULL;
    ck_assert_msg(ap_codec_train(factory, DIM, x, n, 1, &c, &err) == 0, "%s", err.msg);
    return c;
}

/* ---- what a search finds ---- */

static const enum ap_distance distances[] = {AP_COSINE, AP_EUCLID, AP_DOT};

START_TEST(finds_what_was_written)
{
    enum ap_distance d = distances[_i];
    float *x = test_clustered(1000, DIM, 5, d == AP_COSINE), *queries = test_clustered(20, DIM, 6, 0);
    ix_open(&r, DIM, d, 1000);
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, 1000, 100);
    ix_refresh(&r);
    ck_assert(ap_index_caught_up(r.index));
    ck_assert_uint_eq(look().points, 1000);
    check_exact(queries, 20);
    /* Every point finds itself first (by inner product a longer one may win), with the score of its own vector. */
    for (size_t i = 0; i < 50 && d != AP_DOT; i++) {
        uint64_t ids[3];
        float scores[3];
        struct ap_search q = {.vector = x + i * DIM, .limit = 3};
        ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 3);
        ck_assert_uint_eq(ids[0], i);
        ck_assert_float_eq_tol(scores[0], d == AP_COSINE ? 1 : 0, 1e-3f);
        ck_assert(d == AP_COSINE ? scores[0] >= scores[1] && scores[1] >= scores[2] : scores[0] <= scores[1] && scores[1] <= scores[2]);
    }
    ck_assert_double_ge(ix_recall(&r, queries, 20, 10, NULL), 0.99);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

START_TEST(updates_and_deletes)
{
    float *x = test_clustered(2000, DIM, 5, 1), *queries = test_clustered(20, DIM, 6, 1);
    uint64_t seed = 42;
    ix_open(&r, DIM, AP_COSINE, 500);
    r.options.hot_rows = 256;
    ix_define(&r, false);
    ix_start_index(&r);
    for (int round = 0; round < 30; round++) {
        ix_begin(&r);
        for (int i = 0; i < 60; i++) {
            size_t point = test_random(&seed) % 500;
            if (test_random(&seed) % 4 == 0)
                ix_delete(&r, point);
            else
                ix_upsert(&r, point, x + (test_random(&seed) % 2000) * DIM, NULL);
        }
        ix_commit(&r);
        ix_refresh(&r);
        ck_assert_uint_eq(look().points, ix_live(&r));
        check_exact(queries, 5);
        ck_assert_double_ge(ix_recall(&r, queries, 20, 10, NULL), 0.97);
    }
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

START_TEST(options_of_a_search)
{
    float *x = test_clustered(300, DIM, 5, 1);
    uint64_t ids[300], model[300];
    float scores[300], exact[300];
    ix_open(&r, DIM, AP_COSINE, 300);
    ix_define(&r, false);
    ix_start_index(&r);
    ix_begin(&r);
    for (size_t i = 0; i < 300; i++)
        ix_upsert(&r, i, x + i * DIM, i % 2 ? "{\"side\":\"odd\"}" : "{\"side\":\"even\"}");
    ix_commit(&r);
    ix_refresh(&r);

    struct ap_search q = {.vector = x, .limit = 300};
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 300); /* all of them, each once */
    ck_assert_uint_eq(ix_exact(&r, x, 300, model, exact), 300);
    for (int i = 0; i < 300; i++)
        ck_assert_float_eq_tol(scores[i], exact[i], 1e-4f);

    struct ap_point_id zero;
    ap_point_id_from_u64(0, &zero);
    q = (struct ap_search){.vector = x, .limit = 5, .exclude = &zero};
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 5);
    ck_assert_uint_eq(ids[0], model[1]);

    q = (struct ap_search){.vector = x, .limit = 300, .has_threshold = true, .threshold = exact[7] - 1e-6f};
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 8);

    json_t *json = json_loads("{\"must\":[{\"key\":\"side\",\"match\":{\"value\":\"odd\"}}]}", 0, NULL);
    struct ap_filter *filter = NULL;
    ck_assert_msg(ap_filter_parse(json, &filter, &err) == 0, "%s", err.msg);
    q = (struct ap_search){.vector = x, .limit = 300, .filter = filter};
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 150);
    for (int i = 0; i < 150; i++)
        ck_assert_uint_eq(ids[i] % 2, 1);
    ap_filter_free(&filter);
    json_decref(json);

    json = json_loads("{\"must\":[{\"has_id\":[3,4,9999]},{\"key\":\"side\",\"match\":{\"value\":\"odd\"}}]}", 0, NULL);
    ck_assert_int_eq(ap_filter_parse(json, &filter, &err), 0);
    q.filter = filter;
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 1);
    ck_assert_uint_eq(ids[0], 3);
    ap_filter_free(&filter);
    json_decref(json);
    ix_close(&r);
    free(x);
}
END_TEST

/* Abroad, answers come from decoded codes; at home from raw vectors. */
START_TEST(rescoring)
{
    size_t n = 3000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(40, DIM, 6, 1);
    double recall[2];
    for (int home = 0; home < 2; home++) {
        ix_open(&r, DIM, AP_COSINE, n);
        r.raw = home;
        ix_define(&r, false);
        ix_codec(&r, train("PQ8", x, n), true);
        ix_start_index(&r);
        ix_load(&r, x, 0, n, 500);
        ix_refresh(&r);
        struct ap_search how = {.candidates = 100};
        recall[home] = ix_recall(&r, queries, 40, 10, &how);

        struct ap_view *view;
        struct ap_collection_view c;
        struct ap_point_id id;
        struct ap_row row;
        uint64_t slot;
        float v[DIM];
        bool raw;
        ap_point_id_from_u64(17, &id);
        ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
        ck_assert_int_eq(ap_view_collection(view, "books", &c, &err), 0);
        ck_assert_int_eq(ap_view_point(view, &c, &id, &slot, &err), 0);
        ck_assert_int_eq(ap_view_row(view, slot, &row, &err), 0);
        ck_assert_int_eq(ap_view_vector(view, &c, slot, &row, v, &raw, &err), 0);
        ck_assert_int_eq(raw, home);
        for (int i = 0; i < DIM; i++)
            ck_assert_float_eq_tol(v[i], x[17 * DIM + i], home ? 1e-7f : 0.25f);
        ap_point_id_from_u64(n + 1, &id);
        ck_assert_int_eq(ap_view_point(view, &c, &id, &slot, &err), AP_ENOTFOUND);
        ap_view_end(&view);
        ix_close(&r);
    }
    ck_assert_msg(recall[1] >= 0.97 && recall[0] < recall[1], "recall %g abroad, %g at home", recall[0], recall[1]);
    free(x);
    free(queries);
}
END_TEST

/* ---- sealing, merging ---- */

START_TEST(seals_and_merges)
{
    size_t n = 20000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(50, DIM, 6, 1);
    ix_open(&r, DIM, AP_COSINE, n);
    r.options.hot_rows = 1000;
    r.options.merge_fan = 3;
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, n - 500, 500);
    ix_refresh(&r);
    /* While it merges, points go and change. */
    ix_begin(&r);
    for (size_t i = 0; i < 3000; i += 3)
        ix_delete(&r, i);
    for (size_t i = 0; i < 500; i++)
        ix_upsert(&r, i * 7, x + (n - 1 - i) * DIM, NULL);
    ix_commit(&r);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, ix_live(&r));
    ck_assert_double_ge(ix_recall(&r, queries, 50, 10, NULL), 0.93);
    ck_assert_msg(ix_wait_sealed(&r, 6, PATIENCE_MS / 1000), "%u segments are left", look().segments);
    ck_assert_uint_eq(look().points, ix_live(&r));
    /* Few segments may still be frozen hot ones that wait for the builder. */
    ck_assert_msg(ix_wait_indexed(&r, 17000, PATIENCE_MS / 1000), "%llu rows are sealed", (unsigned long long)look().indexed);
    check_exact(queries, 10);
    ck_assert_double_ge(ix_recall(&r, queries, 50, 10, NULL), 0.93);
    /* At rest small ones join the large one, unless they are less than an eighth of all. */
    ck_assert_msg(ix_wait_sealed(&r, 3, PATIENCE_MS / 1000), "%u segments are left", look().segments);
    check_exact(queries, 10);
    ck_assert_double_ge(ix_recall(&r, queries, 50, 10, NULL), 0.93);
    /* All gone: no segment stays but the hot one. */
    ix_begin(&r);
    for (size_t i = 0; i < n; i++)
        if (r.points[i].live)
            ix_delete(&r, i);
    ix_commit(&r);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, 0);
    ck_assert(ix_wait_sealed(&r, 1, PATIENCE_MS / 1000));
    uint64_t ids[10];
    float scores[10];
    struct ap_search q = {.vector = queries, .limit = 10};
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 0);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

/* ---- restart ---- */

static size_t files(char names[][64], size_t cap)
{
    DIR *dir = opendir(r.index_path);
    size_t n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        if (strstr(e->d_name, ".seg") && n < cap)
            snprintf(names[n++], 64, "%.63s", e->d_name);
    closedir(dir);
    return n;
}

static void damage(const char *name, off_t at)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", r.index_path, name);
    int fd = open(path, O_RDWR);
    uint8_t byte;
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

START_TEST(restarts_from_disk)
{
    size_t n = 9000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(20, DIM, 6, 1);
    char names[32][64];
    ix_open(&r, DIM, AP_COSINE, n);
    r.options.hot_rows = 2500;
    r.options.merge_fan = 3;
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, n, 1000);
    ix_refresh(&r);
    ck_assert(ix_wait_sealed(&r, 2, PATIENCE_MS / 1000)); /* three, merged; and the hot one */
    uint64_t indexed = look().indexed;
    ck_assert_uint_eq(indexed, 7500);
    ix_stop_index(&r);
    ck_assert_uint_eq(files(names, 32), 1);
    /* Meanwhile the store moves on. */
    ix_begin(&r);
    for (size_t i = 0; i < 100; i++)
        ix_delete(&r, i);
    for (size_t i = 100; i < 200; i++)
        ix_upsert(&r, i, x + (n - i) * DIM, NULL);
    ix_commit(&r);

    for (int round = 0; round < 5; round++) {
        if (round == 1)
            damage(names[0], 300);         /* the header */
        else if (round == 2 && files(names, 32) > 0)
            damage(names[0], 5000);        /* the body */
        else if (round == 3 && files(names, 32) > 0) {
            char path[256];
            snprintf(path, sizeof path, "%s/%s", r.index_path, names[0]);
            ck_assert_int_eq(truncate(path, 3000), 0);
        } else if (round == 4) {
            damage(names[0], 4000);        /* the zeros behind the header */
        }
        ix_start_index(&r);
        ix_refresh(&r);
        ck_assert_uint_eq(look().points, ix_live(&r));
        if (round == 0)
            ck_assert_uint_eq(look().indexed, indexed - 200); /* loaded, not built */
        check_exact(queries, 10);
        ck_assert_double_ge(ix_recall(&r, queries, 20, 10, NULL), 0.93);
        ck_assert(ix_wait_sealed(&r, 2, PATIENCE_MS / 1000));
        ix_stop_index(&r);
        ck_assert_uint_eq(files(names, 32), 1);
    }
    /* Of another store: the id is in the header. */
    ck_assert_uint_eq(files(names, 32), 1);
    damage(names[0], 20);
    ix_start_index(&r);
    ix_refresh(&r);
    check_exact(queries, 10);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

/* ---- what is set aside ---- */

START_TEST(waits_for_its_codec)
{
    size_t n = 2000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(10, DIM, 6, 1);
    struct ap_codec *codec = train("SQ8", x, n);
    ix_open(&r, DIM, AP_COSINE, n + 10);
    r.options.hot_rows = 300;
    ix_load(&r, x, 0, 100, 50);  /* float32, before anyone has heard of the collection */
    ix_start_index(&r);
    ix_refresh(&r);
    struct ap_view *view;
    struct ap_collection_view c;
    ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
    ck_assert_int_eq(ap_view_collection(view, "books", &c, &err), AP_ENOTFOUND);
    ck_assert_uint_eq(ap_view_collections(view, NULL, 0), 0);
    ap_view_end(&view);

    ix_define(&r, false);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, 100);
    ck_assert_uint_eq(look().pending, 0);
    check_exact(queries, 10);

    ix_codec(&r, codec, false);
    ix_load(&r, x + 100 * DIM, 100, 1000, 100);
    ix_codec(&r, NULL, false);
    codec = train("SQ8", x, n);
    ix_load(&r, x + 1100 * DIM, 1100, 500, 100); /* float32 after what waits */
    ix_begin(&r);
    for (size_t i = 200; i < 250; i++)
        ix_delete(&r, i);
    for (size_t i = 300; i < 350; i++)
        ix_upsert(&r, i, x + (n - i) * DIM, NULL);
    ix_commit(&r);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, ix_live(&r));
    ck_assert_uint_eq(look().pending, 900);
    ck_assert_ptr_nonnull(look().unready);
    for (size_t i = 100; i < 1100; i++)
        r.points[i].indexed = i >= 300 && i < 350;
    check_exact(queries, 10);

    ix_publish_codec(&r, codec);
    ix_refresh(&r);
    ck_assert_uint_eq(look().pending, 0);
    ck_assert_ptr_null(look().unready);
    for (size_t i = 100; i < 1100; i++)
        r.points[i].indexed = true;
    ck_assert_double_ge(ix_recall(&r, queries, 10, 10, &(struct ap_search){.exact = true}), 0.98);
    ck_assert_uint_eq(look().points, ix_live(&r));
    /* And again from the start, when all is there. */
    ix_stop_index(&r);
    ix_start_index(&r);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, ix_live(&r));
    ck_assert_double_ge(ix_recall(&r, queries, 10, 10, &(struct ap_search){.exact = true}), 0.98);
    ap_codec_unref(&codec);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

START_TEST(unusable_rows)
{
    float *x = test_clustered(100, DIM, 5, 1);
    uint64_t ids[100];
    float scores[100];
    ix_open(&r, DIM, AP_COSINE, 100);
    ix_define(&r, false);
    ix_start_index(&r);
    r.dim = DIM / 2; /* what another definition of the collection would have written */
    ix_load(&r, x, 0, 5, 5);
    r.dim = DIM;
    ix_load(&r, x, 5, 20, 20);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, 25);
    struct ap_search q = {.vector = x, .limit = 100};
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 20);
    ix_begin(&r);
    ix_delete(&r, 0);
    ix_upsert(&r, 1, x + DIM, NULL); /* mended by a newer row */
    ix_commit(&r);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, 24);
    ck_assert_uint_eq(ix_search(&r, &q, ids, scores), 21);
    ix_close(&r);
    free(x);
}
END_TEST

START_TEST(deleted_collection)
{
    size_t n = 3000;
    float *x = test_clustered(n, DIM, 5, 1);
    char names[32][64];
    struct ap_view *view;
    struct ap_collection_view c;
    ix_open(&r, DIM, AP_COSINE, n);
    r.options.hot_rows = 1000;
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, n, 500);
    ix_refresh(&r);
    ck_assert(ix_wait_sealed(&r, 2, PATIENCE_MS / 1000));
    ix_define(&r, true);
    ix_refresh(&r);
    ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
    ck_assert_int_eq(ap_view_collection(view, "books", &c, &err), AP_ENOTFOUND);
    ap_view_end(&view);
    ck_assert_uint_eq(files(names, 32), 0);
    /* Rows that still come for it change nothing. */
    ix_load(&r, x, 0, 10, 10);
    ix_refresh(&r);
    /* The next generation of the name begins empty. */
    r.collection.generation = 2;
    r.collection_id = ap_collection_id("books", 2);
    ix_define(&r, false);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, 0);
    ix_load(&r, x, 0, 7, 7);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, 7);
    ix_close(&r);
    free(x);
}
END_TEST

/* ---- the cleaner below ---- */

START_TEST(cleaner_moves_rows)
{
    size_t n = 2000;
    float *x = test_clustered(2 * n, DIM, 5, 1), *queries = test_clustered(10, DIM, 6, 1);
    uint64_t seed = 7;
    ix_open(&r, DIM, AP_COSINE, n);
    r.options.hot_rows = 500;
    r.raw = true;
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, n, 500);
    ix_refresh(&r);
    size_t dropped = 0;
    for (int round = 0; round < 40; round++) {
        ix_begin(&r);
        for (int i = 0; i < 200; i++)
            ix_upsert(&r, test_random(&seed) % n, x + (test_random(&seed) % (2 * n)) * DIM, NULL);
        ix_commit(&r);
        dropped += ix_clean(&r, 400);
        if (round % 3 == 0)
            ix_refresh(&r);
        if (round % 10 == 9) {
            ix_refresh(&r);
            ck_assert_uint_eq(look().points, n);
            check_exact(queries, 5);
            ck_assert_double_ge(ix_recall(&r, queries, 10, 10, NULL), 0.93);
        }
        if (round == 20) { /* from the log as the cleaner left it */
            ix_stop_index(&r);
            ix_start_index(&r);
        }
    }
    ck_assert_uint_gt(dropped, 2000);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

/* The store was cleaned by the `seen` of an index's earlier life after this one had read part of the log. */
START_TEST(cleaned_while_it_started)
{
    size_t n = 3000;
    float *x = test_clustered(n, DIM, 5, 1), *queries = test_clustered(10, DIM, 6, 1);
    ix_open(&r, DIM, AP_COSINE, n);
    ix_define(&r, false);
    ix_load(&r, x, 0, n, 500);
    for (int i = 0; i < 3; i++)
        ix_load(&r, x, 0, n / 2, 500);
    ix_start_index(&r);
    ix_refresh(&r);
    ix_stop_index(&r);
    size_t dropped = 0;
    for (int i = 0; i < 40; i++) {
        ix_load(&r, x, 0, 10, 10);
        dropped += ix_clean(&r, 1000);
    }
    ix_start_index(&r);
    ix_refresh(&r);
    ck_assert_uint_eq(look().points, n);
    check_exact(queries, 10);
    ix_close(&r);
    free(x);
    free(queries);
}
END_TEST

/* ---- going through all points ---- */

struct seen { uint64_t ids[4096]; size_t count, limit; };

static int note(void *arg, const struct ap_point_id *id, uint64_t slot)
{
    struct seen *s = arg;
    ck_assert_uint_gt(slot, 0);
    ck_assert_uint_lt(s->count, 4096);
    s->ids[s->count++] = ix_number(id);
    return s->limit && s->count == s->limit;
}

static void scroll(struct seen *s, uint64_t from, size_t limit, bool ordered)
{
    struct ap_view *view;
    struct ap_collection_view c;
    struct ap_point_id id;
    ap_point_id_from_u64(from, &id);
    s->count = 0;
    s->limit = limit;
    ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
    ck_assert_int_eq(ap_view_collection(view, "books", &c, &err), 0);
    if (ordered)
        ck_assert_int_eq(ap_view_scroll(view, &c, from ? &id : NULL, note, s, &err), 0);
    else
        ck_assert_int_eq(ap_view_scan(view, &c, note, s, &err), 0);
    ap_view_end(&view);
}

START_TEST(scrolls_in_order)
{
    static struct seen s;
    float *x = test_clustered(2000, DIM, 5, 1);
    ix_open(&r, DIM, AP_COSINE, 2000);
    r.options.hot_rows = 500;
    ix_define(&r, false);
    ix_start_index(&r);
    ix_begin(&r);
    for (size_t i = 0; i < 1000; i++)
        ix_upsert(&r, (i * 617) % 1000 + 1, x + i * DIM, NULL);
    ix_commit(&r);
    ix_refresh(&r);
    scroll(&s, 0, 0, true);
    ck_assert_uint_eq(s.count, 1000);
    for (size_t i = 0; i < 1000; i++)
        ck_assert_uint_eq(s.ids[i], i + 1);
    scroll(&s, 500, 10, true);
    ck_assert_uint_eq(s.count, 10);
    ck_assert_uint_eq(s.ids[0], 500);
    ck_assert_uint_eq(s.ids[9], 509);
    /* What comes and goes later. */
    ix_begin(&r);
    ix_delete(&r, 501);
    ix_delete(&r, 1000);
    ix_upsert(&r, 502, x, NULL);
    for (size_t i = 1500; i < 1510; i++)
        ix_upsert(&r, i, x + i * DIM, NULL);
    ix_commit(&r);
    ix_refresh(&r);
    scroll(&s, 500, 3, true);
    ck_assert_uint_eq(s.ids[0], 500);
    ck_assert_uint_eq(s.ids[1], 502);
    ck_assert_uint_eq(s.ids[2], 503);
    scroll(&s, 999, 0, true);
    ck_assert_uint_eq(s.count, 11);
    ck_assert_uint_eq(s.ids[1], 1500);
    scroll(&s, 0, 0, false);
    ck_assert_uint_eq(s.count, ix_live(&r));
    for (size_t i = 0; i < s.count; i++)
        ck_assert(r.points[s.ids[i]].live);
    scroll(&s, 1600, 0, true);
    ck_assert_uint_eq(s.count, 0);
    ix_close(&r);
    free(x);
}
END_TEST

/* ---- waiting ---- */

static void *refresh_soon(void *arg)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    ix_refresh(arg);
    return NULL;
}

START_TEST(waits_for_a_token)
{
    float *x = test_clustered(10, DIM, 5, 1);
    pthread_t thread;
    ix_open(&r, DIM, AP_COSINE, 10);
    ix_define(&r, false);
    ix_start_index(&r);
    ix_load(&r, x, 0, 3, 3);
    ix_refresh(&r);
    struct ap_token_entry entry = {.topic = "vec-mutations", .partition = 0, .seq = r.seq};
    struct ap_token token = {.region = {"eu"}, .stream = 77, .hlc = r.hlc, .entries = &entry, .count = 1};
    ck_assert_int_eq(ap_index_wait(r.index, &token, ap_mono_ns(), &err), 0);
    ix_load(&r, x, 3, 3, 3);
    entry.seq = r.seq;
    ck_assert_int_eq(ap_index_wait(r.index, &token, ap_mono_ns() + 1000000, &err), AP_ETIMEOUT);
    pthread_create(&thread, NULL, refresh_soon, &r);
    ck_assert_int_eq(ap_index_wait(r.index, &token, patience_ns(), &err), 0);
    pthread_join(thread, NULL);
    ck_assert_uint_eq(look().points, 6);
    struct ap_position *positions;
    size_t count;
    ck_assert_int_eq(ap_index_positions(r.index, &positions, &count, &err), 0);
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(positions[0].mark, r.seq);
    free(positions);
    ck_assert_uint_eq(ap_index_visible_slot(r.index), 6);
    ix_close(&r);
    free(x);
}
END_TEST

/* ---- readers beside the tail ---- */

static atomic_bool stop;
static atomic_uint searched;

/* Points 0 to 99 are overwritten all the time, never deleted: each must be there in every answer. */
static void *search_thread(void *arg)
{
    const float *x = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed;
    while (!atomic_load(&stop)) {
        uint64_t ids[100];
        float scores[100];
        struct ap_search q = {.vector = x, .limit = 100, .exact = test_random(&seed) % 8 == 0};
        size_t n = ix_search(&r, &q, ids, scores);
        ck_assert_uint_eq(n, 100);
        for (size_t i = 0; i < n; i++) {
            ck_assert_msg(ids[i] < 100, "point %llu is among the nearest", (unsigned long long)ids[i]);
            for (size_t j = 0; j < i; j++)
                ck_assert_uint_ne(ids[i], ids[j]);
        }
        atomic_fetch_add(&searched, 1);
    }
    return NULL;
}

START_TEST(searches_beside_the_tail)
{
    size_t n = 4000;
    float *x = test_clustered(n, DIM, 5, 1);
    pthread_t threads[3];
    uint64_t seed = 3;
    ix_open(&r, DIM, AP_COSINE, n);
    r.options.hot_rows = 400;
    r.options.merge_fan = 3;
    ix_define(&r, false);
    ix_start_index(&r);
    /* A hundred points around the query, the others on the far side. */
    float *near = calloc(DIM * 100, sizeof *near);
    for (size_t i = 0; i < 100; i++) {
        for (size_t j = 0; j < DIM; j++)
            near[i * DIM + j] = x[j] + 0.02f * (test_uniform(&seed) - 0.5f);
        ap_normalize(near + i * DIM, DIM);
    }
    float *far = malloc(n * DIM * sizeof *far);
    for (size_t i = 0; i < n; i++) {
        float dot = 0;
        for (size_t j = 0; j < DIM; j++)
            dot += x[i * DIM + j] * x[j];
        for (size_t j = 0; j < DIM; j++)
            far[i * DIM + j] = x[i * DIM + j] - (dot + 0.3f) * x[j];
        ap_normalize(far + i * DIM, DIM);
    }
    ix_load(&r, near, 0, 100, 100);
    ix_load(&r, far, 100, 1000, 500);
    ix_refresh(&r);
    atomic_store(&stop, false);
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, search_thread, x);
    for (int64_t start = ap_mono_ms(), took = 0; took < 1500 || (took < PATIENCE_MS && atomic_load(&searched) <= 20); took = ap_mono_ms() - start) {
        ix_begin(&r);
        for (int i = 0; i < 40; i++) {
            size_t point = test_random(&seed) % 100, other = 100 + test_random(&seed) % (n - 100);
            ix_upsert(&r, point, near + (test_random(&seed) % 100) * DIM, NULL);
            if (test_random(&seed) % 3)
                ix_upsert(&r, other, far + other * DIM, NULL);
            else
                ix_delete(&r, other);
        }
        ix_commit(&r);
        ix_clean(&r, 200);
        ix_refresh(&r);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_gt(atomic_load(&searched), 20);
    ck_assert_uint_eq(look().points, ix_live(&r));
    ix_close(&r);
    free(x);
    free(near);
    free(far);
}
END_TEST

int main(void)
{
    ap_ann_init();
    ap_log_init("test", AP_LOG_ERROR, NULL, NULL);
    Suite *s = suite_create("index");
    TCase *t = tcase_create("index");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, finds_what_was_written, 0, 3);
    tcase_add_test(t, updates_and_deletes);
    tcase_add_test(t, options_of_a_search);
    tcase_add_test(t, rescoring);
    tcase_add_test(t, seals_and_merges);
    tcase_add_test(t, restarts_from_disk);
    tcase_add_test(t, waits_for_its_codec);
    tcase_add_test(t, unusable_rows);
    tcase_add_test(t, deleted_collection);
    tcase_add_test(t, cleaner_moves_rows);
    tcase_add_test(t, cleaned_while_it_started);
    tcase_add_test(t, scrolls_in_order);
    tcase_add_test(t, waits_for_a_token);
    tcase_add_test(t, searches_beside_the_tail);
    suite_add_tcase(s, t);
    return run_suite(s);
}
