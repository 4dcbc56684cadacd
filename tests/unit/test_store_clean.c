/* The store's cleaner, and a random history against a model. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "patience.h"
#include "store_rig.h"
#include "run.h"

/* --- the cleaner --- */

START_TEST(the_cleaner_drops_dead_rows_and_keeps_the_rest)
{
    st_begin();
    for (uint64_t n = 0; n < 100; n++)
        st_put(n, "old");
    st_commit();
    ck_assert_uint_eq(st_clean(1000, st_last_slot()), 0);
    ck_assert_uint_eq(st_last_slot(), 100); /* nothing is dead */
    for (int round = 0; round < 5; round++) {
        st_begin();
        for (uint64_t n = 0; n < 90; n++)
            st_put(n, "new");
        st_commit();
    }
    /* 550 slots, 450 dead. Nobody has seen anything: nothing goes. */
    ck_assert_uint_eq(st_clean(1000, 0), 0);
    ck_assert_uint_eq(st_last_slot(), 550);
    /* No more is moved than was asked for, and what is not committed cannot have been seen. */
    size_t none;
    st_begin();
    OK(ap_writer_clean(st_writer, 3, UINT64_MAX, NULL, NULL, &none, &st_err));
    ck_assert_uint_eq(none, 0);
    ck_assert_uint_eq(st_last_slot(), 550); /* its visits ended among the dead */
    OK(ap_writer_clean(st_writer, 13, UINT64_MAX, NULL, NULL, &none, &st_err));
    OK(ap_writer_clean(st_writer, 13, UINT64_MAX, NULL, NULL, &none, &st_err));
    ck_assert_uint_eq(none, 0);
    st_close(); /* not committed */
    st_open();
    st_begin();
    OK(ap_writer_clean(st_writer, 15, 550, NULL, NULL, &none, &st_err));
    ck_assert_uint_eq(st_last_slot(), 550 + 10);
    st_close();
    st_open();
    st_begin();
    st_put(90, "last");
    OK(ap_writer_clean(st_writer, 4, 550, NULL, NULL, &none, &st_err)); /* 32 visits */
    OK(ap_writer_clean(st_writer, 4, 550, NULL, NULL, &none, &st_err));
    OK(ap_writer_clean(st_writer, 4, 550, NULL, NULL, &none, &st_err));
    ck_assert_uint_eq(st_last_slot(), 551 + 4);
    st_close();
    st_open();
    /* The ten survivors of the first hundred are moved; their old slots stay until the copies were seen. */
    ck_assert_uint_eq(st_clean(1000, 540), 0);
    ck_assert_uint_gt(st_last_slot(), 550);
    st_expect(95, "old");
    struct ap_snapshot *s = st_snapshot();
    ck_assert_uint_eq(ap_snapshot_first_slot(s), 1);
    ap_snapshot_end(&s);
    ck_assert_uint_eq(st_clean(1000, st_last_slot() - 1), 0);
    size_t dropped = 0, most = 0;
    for (int i = 0; i < 20; i++) {
        size_t n = st_clean(10, st_last_slot());
        dropped += n;
        most = n > most ? n : most;
    }
    ck_assert_uint_ge(dropped, 450);
    ck_assert_uint_le(most, 80); /* a bounded piece of work a call */
    struct ap_store_stats stats;
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_eq(stats.rows, 100);
    ck_assert_uint_ge(stats.next_slot - stats.first_slot, 100);
    ck_assert_uint_le(stats.next_slot - stats.first_slot, 400);
    for (uint64_t n = 0; n < 100; n++)
        st_expect(n, n < 90 ? "new" : "old");
    st_check_all();
    st_close();
    st_open();
    st_check_all();
    st_begin();
    ck_assert(st_put(95, "newest"));
    st_commit();
    st_expect(95, "newest");
}
END_TEST

START_TEST(raw_vectors_move_with_their_rows)
{
    bool matched;
    char raw[32];
    st_begin();
    for (uint64_t n = 0; n < 50; n++) {
        st_put(n, "v");
        struct ap_key key = st_key(COLLECTION, n);
        struct ap_version v = {.hlc = st_hlc, .region = {"eu"}, .writer = 1};
        snprintf(raw, sizeof raw, "raw %d", (int)n);
        OK(ap_writer_raw(st_writer, &key, &v, raw, strlen(raw), &matched, &st_err));
        ck_assert(matched);
    }
    st_commit();
    for (int round = 0; round < 10; round++) {
        st_begin();
        for (uint64_t n = 0; n < 40; n++)
            st_put(n, "w");
        st_commit();
        st_clean(100, st_last_slot());
    }
    struct ap_snapshot *s = st_snapshot();
    uint64_t first = ap_snapshot_first_slot(s);
    ck_assert_uint_gt(first, 50);
    const uint8_t *vector;
    size_t len;
    for (uint64_t slot = 1; slot < first; slot++)
        ck_assert_int_eq(ap_snapshot_raw(s, slot, &vector, &len), AP_ENOTFOUND);
    ap_snapshot_end(&s);
    for (uint64_t n = 0; n < 50; n++) {
        snprintf(raw, sizeof raw, "raw %d", (int)n);
        st_expect_raw(n, n < 40 ? NULL : raw);
    }
}
END_TEST

static bool is_eight(void *arg, uint64_t collection)
{
    (void)arg;
    return collection == COLLECTION + 1;
}

START_TEST(a_dead_collection_goes_entirely)
{
    size_t dropped;
    st_begin();
    for (uint64_t n = 0; n < 100; n++) {
        st_put(n, "stays");
        st_apply(COLLECTION + 1, n, st_mutation(AP_OP_UPSERT, ++st_hlc, "goes", NULL));
    }
    st_commit();
    st_check_all();
    for (int i = 0; i < 10; i++) {
        st_begin();
        OK(ap_writer_clean(st_writer, 50, st_last_slot(), is_eight, NULL, &dropped, &st_err));
        st_commit();
    }
    st_check_all();
    struct ap_store_stats stats;
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_eq(stats.rows, 100);
    struct ap_snapshot *s = st_snapshot();
    static struct ap_digest digests[AP_DIGEST_BUCKETS], zero[AP_DIGEST_BUCKETS];
    OK(ap_snapshot_digests(s, COLLECTION + 1, digests, &st_err));
    ck_assert_mem_eq(digests, zero, sizeof zero);
    ap_snapshot_end(&s);
    st_expect(99, "stays");
}
END_TEST

START_TEST(an_emptied_log_keeps_its_numbers)
{
    size_t dropped;
    st_begin();
    for (uint64_t n = 0; n < 10; n++)
        st_apply(COLLECTION + 1, n, st_mutation(AP_OP_UPSERT, ++st_hlc, "goes", NULL));
    st_commit();
    for (int i = 0; i < 3; i++) {
        st_begin();
        OK(ap_writer_clean(st_writer, 50, st_last_slot(), is_eight, NULL, &dropped, &st_err));
        st_commit();
    }
    struct ap_store_stats stats;
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_eq(stats.rows, 0);
    ck_assert_uint_eq(stats.first_slot, 11);
    ck_assert_uint_eq(stats.next_slot, 11);
    st_close();
    st_open();
    ck_assert_uint_eq(ap_writer_next_slot(st_writer), 11);
    st_begin();
    st_put(1, "x");
    st_commit();
    ck_assert_uint_eq(st_slot_of(1), 11);
}
END_TEST

/* A reader follows the log by slot while rows are overwritten and cleaned; what it holds for current is never missing. */
struct follower { _Atomic bool stop; _Atomic uint64_t reads; };

static int follow_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    uint64_t *current = arg, n = ap_be64(row->key.b + 16);
    current[n] = slot;
    return 0;
}

static void *follow(void *arg)
{
    struct follower *f = arg;
    static uint64_t current[200];
    uint64_t next = 0;
    memset(current, 0, sizeof current);
    while (!f->stop) {
        struct ap_snapshot *s;
        struct ap_row row;
        struct ap_err why;
        if (ap_snapshot_begin(st_store, &s, &why) != 0)
            return "begin";
        /* Queries on what was known before this snapshot was taken. */
        for (uint64_t n = 0; n < 200; n++) {
            if (current[n] == 0)
                continue;
            if (ap_snapshot_row(s, current[n], &row, &why) != 0)
                return "a current row is missing";
            if (ap_row_read(row.bytes, row.len, 1, &row, &why) != 0)
                return "a row is damaged";
            if (ap_be64(row.key.b + 16) != n)
                return "a slot changed its row";
            f->reads++;
        }
        if (ap_snapshot_scan(s, next, follow_row, current, &why) != 0)
            return "scan";
        next = ap_snapshot_next_slot(s);
        ap_snapshot_end(&s);
        if (ap_store_seen_write(st_store, next - 1, &why) != 0)
            return "seen";
    }
    return NULL;
}

START_TEST(the_cleaner_beside_a_reader)
{
    struct follower f = {0};
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, follow, &f), 0);
    uint64_t dropped = 0;
    for (int64_t start = ap_mono_ms(), took = 0; took < 2000 || (took < PATIENCE_MS && (dropped <= 1000 || f.reads <= 1000)); took = ap_mono_ms() - start) {
        size_t n;
        uint64_t seen;
        OK(ap_store_seen_read(st_store, &seen));
        st_begin();
        for (int i = 0; i < 50; i++)
            st_put((uint64_t)lrand48() % 200, "v");
        OK(ap_writer_clean(st_writer, 50, seen, NULL, NULL, &n, &st_err));
        st_commit();
        dropped += n;
    }
    f.stop = true;
    void *bad;
    pthread_join(thread, &bad);
    ck_assert_msg(bad == NULL, "%s", (char *)bad);
    ck_assert_uint_gt(f.reads, 1000);
    ck_assert_uint_gt(dropped, 1000);
    st_check_all();
    struct ap_store_stats stats;
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_lt(stats.next_slot - stats.first_slot, 20000);
}
END_TEST

/* --- a random history, with everything, against a model --- */

START_TEST(random_batches_equal_a_model)
{
    uint64_t seed = (uint64_t)time(NULL);
    printf("random_batches_equal_a_model: seed %llu\n", (unsigned long long)seed);
    srand48((long)seed);
    static struct { uint64_t hlc; bool live; } model[300], committed[300];
    memset(model, 0, sizeof model);
    memcpy(committed, model, sizeof model);
    for (int batch = 0; batch < 400; batch++) {
        st_begin();
        for (int i = 0; i < 40; i++) {
            uint64_t n = (uint64_t)lrand48() % 300, at = 1 + (uint64_t)lrand48() % 5000;
            char vector[24];
            bool deletes = lrand48() % 5 == 0;
            snprintf(vector, sizeof vector, "%llu", (unsigned long long)at);
            bool want = at > model[n].hlc || (at == model[n].hlc && deletes && model[n].live);
            bool changed = st_apply(COLLECTION, n, st_mutation(deletes ? AP_OP_DELETE : AP_OP_UPSERT, at, deletes ? NULL : vector, NULL));
            ck_assert_int_eq(changed, want);
            if (want) {
                model[n].hlc = at;
                model[n].live = !deletes;
            }
        }
        size_t dropped;
        if (lrand48() % 2)
            OK(ap_writer_clean(st_writer, 30, st_last_slot(), NULL, NULL, &dropped, &st_err));
        if (lrand48() % 10 == 0) {
            st_close(); /* the batch is lost */
            st_open();
            memcpy(model, committed, sizeof model);
        } else {
            st_commit();
            memcpy(committed, model, sizeof model);
        }
        if (batch % 20)
            continue;
        struct ap_snapshot *s = st_snapshot();
        struct st_content c = st_content_of(s);
        for (uint64_t n = 0; n < 300; n++) {
            const struct st_found *f = st_find(&c, n);
            ck_assert_int_eq(f != NULL, committed[n].hlc != 0);
            if (!f)
                continue;
            ck_assert_int_eq(f->live, committed[n].live);
            if (f->live)
                ck_assert_uint_eq(strtoull(f->vector, NULL, 10), committed[n].hlc);
        }
        free(c.list);
        ap_snapshot_end(&s);
        st_check_all();
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store_clean");
    TCase *t = tcase_create("store_clean");
    ap_log_init("unit", AP_LOG_ERROR + 1, NULL, NULL); /* damage is logged, and here it is on purpose */
    tcase_set_timeout(t, 55);
    tcase_add_checked_fixture(t, st_setup, st_teardown);
    tcase_add_test(t, the_cleaner_drops_dead_rows_and_keeps_the_rest);
    tcase_add_test(t, raw_vectors_move_with_their_rows);
    tcase_add_test(t, a_dead_collection_goes_entirely);
    tcase_add_test(t, an_emptied_log_keeps_its_numbers);
    tcase_add_test(t, the_cleaner_beside_a_reader);
    tcase_add_test(t, random_batches_equal_a_model);
    suite_add_tcase(s, t);
    return run_suite(s);
}
