/* The store when something breaks: damaged rows, full maps and disks, processes that are killed. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "common/log.h"
#include "store_rig.h"
#include "run.h"

/* --- damage --- */

/* Change a byte of the row whose vector is text, in the file, as a bad disk would. */
static void flip(const char *text, long back)
{
    char file[160];
    snprintf(file, sizeof file, "%s/data.mdb", st_path);
    int fd = open(file, O_RDWR);
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    char *bytes = malloc((size_t)st.st_size);
    ck_assert_int_eq(pread(fd, bytes, (size_t)st.st_size, 0), st.st_size);
    int hits = 0;
    for (char *at = bytes; (at = memmem(at, (size_t)(bytes + st.st_size - at), text, strlen(text))); at++) {
        char byte = at[-back] ^ 0x40;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at - bytes - back), 1);
        hits++;
    }
    ck_assert_int_ge(hits, 1);
    free(bytes);
    close(fd);
}

START_TEST(a_damaged_row_counts_as_never_written)
{
    /* In the vector, in the version's hlc, in the key, in the checksum. */
    static const long where[] = {0, AP_ROW_HEADER - 40, AP_ROW_HEADER - 24, AP_ROW_HEADER - 0};
    for (size_t i = 0; i < 4; i++) {
        for (int reopen = 0; reopen < 2; reopen++) {
            struct ap_mutation m = st_mutation(AP_OP_UPSERT, ++st_hlc, "the damaged one", NULL);
            st_begin();
            st_apply(COLLECTION, 1, m);
            st_put(2, "another");
            st_commit();
            st_check_all();
            /* A damaged key is found by the scan at the next start only. */
            if (!reopen && where[i] == AP_ROW_HEADER - 24)
                continue;
            if (reopen)
                st_close();
            flip("the damaged one", where[i]);
            if (reopen)
                st_open();
            st_begin();
            ck_assert(st_apply(COLLECTION, 1, m)); /* the very same change puts it right */
            st_commit();
            st_expect(1, "the damaged one");
            st_check_all();
            st_begin();
            ck_assert(!st_apply(COLLECTION, 1, m));
            /* So that the text is not found a second time. */
            ck_assert(st_put(1, "xxx"));
            for (int k = 0; k < 3; k++)
                st_put(2, "another");
            st_commit();
            st_clean(100, st_last_slot());
            st_clean(100, st_last_slot());
            st_close();
            st_remove_folder();
            st_make_folder();
            st_open();
        }
    }
}
END_TEST

/* Reach into the file past the store, as a test of verify or a bad disk would. */
static void meddle(const char *table, unsigned flags, void (*fn)(MDB_txn *, MDB_dbi))
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi db;
    ck_assert_int_eq(mdb_env_create(&env), 0);
    ck_assert_int_eq(mdb_env_set_mapsize(env, ST_MAP_BYTES), 0);
    ck_assert_int_eq(mdb_env_set_maxdbs(env, 8), 0);
    ck_assert_int_eq(mdb_env_open(env, st_path, 0, 0600), 0);
    ck_assert_int_eq(mdb_txn_begin(env, NULL, 0, &txn), 0);
    ck_assert_int_eq(mdb_dbi_open(txn, table, flags, &db), 0);
    fn(txn, db);
    ck_assert_int_eq(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
}

static void spoil_digests(MDB_txn *txn, MDB_dbi db)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    uint8_t piece[1024] = {1};
    ck_assert_int_eq(mdb_cursor_open(txn, db, &cursor), 0);
    ck_assert_int_eq(mdb_cursor_get(cursor, &key, &value, MDB_FIRST), 0);
    ck_assert_uint_eq(value.mv_size, sizeof piece);
    value.mv_data = piece;
    ck_assert_int_eq(mdb_cursor_put(cursor, &key, &value, MDB_CURRENT), 0);
    key.mv_data = "\x7f\0\0\0\0\0\0\0\5"; /* of a collection that has no rows */
    ck_assert_int_eq(mdb_cursor_put(cursor, &key, &value, 0), 0);
    mdb_cursor_close(cursor);
}

static void lose_a_row(MDB_txn *txn, MDB_dbi db)
{
    uint64_t slot = 50;
    MDB_val key = {sizeof slot, &slot};
    ck_assert_int_eq(mdb_del(txn, db, &key, NULL), 0);
}

START_TEST(wrong_digests_are_counted_anew_at_the_start)
{
    static struct ap_digest digests[AP_DIGEST_BUCKETS], zero[AP_DIGEST_BUCKETS];
    st_begin();
    for (uint64_t n = 0; n < 100; n++)
        st_put(n, "v");
    st_commit();
    for (int i = 0; i < 2; i++) {
        st_close();
        if (i == 0)
            meddle("digests", 0, spoil_digests);
        else
            meddle("log", MDB_INTEGERKEY, lose_a_row);
        st_open();
        st_begin();
        st_commit();
        st_check_all();
        struct ap_snapshot *s = st_snapshot();
        OK(ap_snapshot_digests(s, UINT64_C(0x7f) << 56, digests, &st_err));
        ck_assert_mem_eq(digests, zero, sizeof zero);
        ap_snapshot_end(&s);
    }
    st_begin();
    st_put(1000, "w");
    st_commit();
    st_check_all();
}
END_TEST

/* --- a full map, a full disk --- */

START_TEST(a_full_map_is_fatal_and_says_what_to_do)
{
    st_close();
    st_remove_folder();
    st_make_folder();
    struct ap_store_options o = st_options(false);
    o.map_bytes = 1 << 20;
    OK(ap_store_open(&st_store, &o, &st_err));
    OK(ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err));
    uint64_t committed = 0, n = 0;
    static char vector[1001];
    memset(vector, 'v', 1000);
    int rc = 0;
    while (rc == 0) {
        rc = ap_writer_begin(st_writer, &st_err);
        for (int i = 0; i < 10 && rc == 0; i++) {
            struct ap_key key = st_key(COLLECTION, n++);
            struct ap_mutation m = st_mutation(AP_OP_UPSERT, ++st_hlc, vector, NULL);
            bool changed;
            rc = ap_writer_apply(st_writer, &key, &m, &changed, &st_err);
        }
        if (rc == 0)
            rc = ap_writer_commit(st_writer, &st_err);
        if (rc == 0)
            committed = n;
    }
    ck_assert_int_eq(rc, AP_ENOSPC);
    ck_assert_int_eq(st_err.cls, AP_FATAL);
    ck_assert_ptr_nonnull(strstr(st_err.msg, st_path));
    ck_assert_ptr_nonnull(strstr(st_err.msg, "raise the map size"));
    ck_assert_uint_gt(committed, 100);
    /* It stays failed, */
    ck_assert_int_ne(ap_writer_commit(st_writer, &st_err), 0);
    ck_assert_int_eq(st_err.cls, AP_FATAL);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "open the writer anew"));
    st_close();
    /* and a larger map finds everything that was committed. */
    st_open();
    struct ap_store_stats stats;
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_eq(stats.rows, committed);
    st_check_all();
    st_begin();
    st_put(1, "x");
    st_commit();
}
END_TEST

/* The n-th batch: a hundred new points, and its commit. */
static int write_hundred(uint64_t n)
{
    int rc = ap_writer_begin(st_writer, &st_err);
    for (uint64_t i = 0; i < 100 && rc == 0; i++) {
        struct ap_key key = st_key(COLLECTION, n * 100 + i);
        struct ap_mutation m = st_mutation(AP_OP_UPSERT, ++st_hlc, "v", NULL);
        bool changed;
        rc = ap_writer_apply(st_writer, &key, &m, &changed, &st_err);
    }
    return rc ? rc : ap_writer_commit(st_writer, &st_err);
}

/* A file size limit stands for a full disk: the write of a page fails in the middle of a commit. */
START_TEST(a_full_disk_is_fatal_and_loses_nothing_committed)
{
    st_close();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct ap_store_options o = st_options(false);
        signal(SIGXFSZ, SIG_IGN);
        int rc = ap_store_open(&st_store, &o, &st_err);
        rc = rc ? rc : ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err);
        for (uint64_t n = 0; rc == 0; n++) {
            if (n == 50) {
                struct rlimit limit = {2 << 20, 2 << 20};
                setrlimit(RLIMIT_FSIZE, &limit);
            }
            rc = write_hundred(n);
        }
        _exit(rc == AP_ENOSPC && st_err.cls == AP_FATAL && strstr(st_err.msg, st_path) && strstr(st_err.msg, "free space") ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    st_open();
    struct ap_store_stats stats;
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_ge(stats.rows, 1000);
    ck_assert_uint_eq(stats.rows % 100, 0); /* whole batches */
    st_check_all();
}
END_TEST

/* Batches until one fails, on a disk of so many pages that nobody else sees. Exit code 77: it may not be mounted. */
static void fill_a_disk(size_t pages)
{
    char size[64];
    snprintf(size, sizeof size, "size=%zu", pages * 4096);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("none", st_path, "tmpfs", 0, size) != 0)
        _exit(77);
    struct ap_store_options o = st_options(false);
    int rc = ap_store_open(&st_store, &o, &st_err);
    rc = rc ? rc : ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err);
    for (uint64_t n = 0; rc == 0; n++) {
        rc = write_hundred(n);
    }
    if (rc != AP_ENOSPC || st_err.cls != AP_FATAL || !strstr(st_err.msg, "free space there"))
        fprintf(stderr, "%zu pages: %d, %s\n", pages, rc, st_err.msg);
    _exit(rc == AP_ENOSPC && st_err.cls == AP_FATAL && strstr(st_err.msg, "free space there") ? 0 : 1);
}

/* The last pages of a disk are taken by a write that comes short, after which there is no error to be seen. */
START_TEST(a_disk_is_full_wherever_a_write_comes_short)
{
    st_close();
    fflush(NULL);
    for (size_t pages = 200; pages < 216; pages++) {
        pid_t child = fork();
        if (child == 0)
            fill_a_disk(pages);
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFEXITED(status));
        if (WEXITSTATUS(status) == 77)
            break; /* not root */
        ck_assert_int_eq(WEXITSTATUS(status), 0);
    }
    st_open();
}
END_TEST

/* --- kill -9 --- */

/* Batch b sets points b*7 .. b*7+19 (mod 500), the position to b, the offset to b, and cleans. So any state that is found
 * afterwards says how many batches it holds, in four ways. */
static void write_for_ever(int report)
{
    struct ap_store_options o = st_options(false);
    const uint8_t topic[16] = {1};
    const struct ap_region eu = {"eu"};
    int64_t done = 0;
    int rc = ap_store_open(&st_store, &o, &st_err);
    rc = rc ? rc : ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err);
    if (rc == 0 && ap_writer_get_offset(st_writer, "c", topic, 0, &done, &st_err) == AP_ENOTFOUND)
        done = 0;
    for (uint64_t b = (uint64_t)done + 1; rc == 0; b++) {
        size_t dropped;
        rc = ap_writer_begin(st_writer, &st_err);
        for (uint64_t i = 0; i < 20 && rc == 0; i++) {
            struct ap_key key = st_key(COLLECTION, (b * 7 + i) % 500);
            char vector[24];
            bool changed;
            snprintf(vector, sizeof vector, "%llu", (unsigned long long)b);
            struct ap_mutation m = st_mutation(AP_OP_UPSERT, b * 100 + i, vector, NULL);
            rc = ap_writer_apply(st_writer, &key, &m, &changed, &st_err);
            if (rc == 0 && i % 2 == 0) {
                bool matched;
                rc = ap_writer_raw(st_writer, &key, &m.version, vector, strlen(vector), &matched, &st_err);
            }
        }
        ap_positions_note(ap_writer_positions(st_writer), &eu, 1001, "vec-mutations", 0, b, b);
        rc = rc ? rc : ap_writer_put_offset(st_writer, "c", topic, "vec-mutations", 0, (int64_t)b, &st_err);
        rc = rc ? rc : ap_writer_clean(st_writer, 40, ap_writer_next_slot(st_writer) - 1, NULL, NULL, &dropped, &st_err);
        rc = rc ? rc : ap_writer_commit(st_writer, &st_err);
        if (rc == 0 && write(report, &b, sizeof b) != (ssize_t)sizeof b)
            _exit(2);
    }
    fprintf(stderr, "%s\n", st_err.msg);
    _exit(1);
}

static void check_batches(uint64_t reported)
{
    const uint8_t topic[16] = {1};
    int64_t offset = 0;
    struct ap_position *list;
    size_t count;
    int rc = ap_writer_get_offset(st_writer, "c", topic, 0, &offset, &st_err);
    ck_assert(rc == 0 || (rc == AP_ENOTFOUND && reported == 0));
    /* What was reported is there; at most one batch more was committed before the report. */
    ck_assert_uint_ge((uint64_t)offset, reported);
    ck_assert_uint_le((uint64_t)offset, reported + 1);
    struct ap_snapshot *s = st_snapshot();
    OK(ap_snapshot_positions(s, &list, &count, &st_err));
    ck_assert_uint_eq(count, offset ? 1 : 0);
    if (count)
        ck_assert_uint_eq(list[0].mark, (uint64_t)offset);
    free(list);
    static uint64_t last[500];
    memset(last, 0, sizeof last);
    for (uint64_t b = 1; b <= (uint64_t)offset; b++)
        for (uint64_t i = 0; i < 20; i++)
            last[(b * 7 + i) % 500] = b;
    struct st_content c = st_content_of(s);
    for (uint64_t n = 0; n < 500; n++) {
        const struct st_found *f = st_find(&c, n);
        ck_assert_int_eq(f != NULL, last[n] != 0);
        if (!f)
            continue;
        ck_assert_uint_eq(strtoull(f->vector, NULL, 10), last[n]);
        const uint8_t *raw;
        size_t len;
        bool has_raw = (n + 500 * 7 - last[n] * 7 % 500) % 500 % 2 == 0;
        ck_assert_int_eq(ap_snapshot_raw(s, f->slot, &raw, &len), has_raw ? 0 : AP_ENOTFOUND);
        if (has_raw)
            ck_assert(len == strlen(f->vector) && memcmp(raw, f->vector, len) == 0);
    }
    free(c.list);
    ap_snapshot_end(&s);
    st_check_all();
}

START_TEST(kill_at_any_moment)
{
    uint64_t seed = (uint64_t)time(NULL), reported = 0;
    printf("kill_at_any_moment: seed %llu\n", (unsigned long long)seed);
    srand48((long)seed);
    st_close();
    for (int round = 0; round < 25; round++) {
        int report[2];
        ck_assert_int_eq(pipe(report), 0);
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            close(report[0]);
            write_for_ever(report[1]);
        }
        close(report[1]);
        /* After a random number of batches, and then a random piece of one. */
        uint64_t target = reported + 1 + (uint64_t)lrand48() % 60, b = 0;
        while (b < target && read(report[0], &b, sizeof b) == (ssize_t)sizeof b)
            reported = b;
        ck_assert_uint_ge(b, target);
        struct timespec wait = {0, lrand48() % 3000000};
        nanosleep(&wait, NULL);
        kill(child, SIGKILL);
        while (read(report[0], &b, sizeof b) == (ssize_t)sizeof b)
            reported = b;
        close(report[0]);
        int status;
        ck_assert_int_eq(waitpid(child, &status, 0), child);
        ck_assert(WIFSIGNALED(status));
        st_open();
        check_batches(reported);
        const uint8_t topic[16] = {1};
        int64_t offset;
        OK(ap_writer_get_offset(st_writer, "c", topic, 0, &offset, &st_err));
        reported = (uint64_t)offset;
        st_close();
    }
    st_open();
}
END_TEST

/* Another process reads while this one writes, then dies with a snapshot open: its slot is freed, or no page that it saw
 * could ever be used again. */
static void read_for_ever(int report)
{
    struct ap_store_options o = st_options(true);
    if (ap_store_open(&st_store, &o, &st_err) != 0)
        _exit(1);
    for (uint64_t round = 1;; round++) {
        struct ap_snapshot *s = st_snapshot();
        struct st_content c = st_content_of(s);
        st_check_digests(s, &c, COLLECTION);
        free(c.list);
        if (round >= 10 && write(report, &round, sizeof round) == (ssize_t)sizeof round)
            pause(); /* with the snapshot in hand */
        ap_snapshot_end(&s);
    }
}

START_TEST(a_reader_that_dies_holds_nothing_back)
{
    int report[2];
    ck_assert_int_eq(pipe(report), 0);
    st_begin();
    st_put(1, "x");
    st_commit();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        read_for_ever(report[1]);
    close(report[1]);
    struct pollfd ready = {.fd = report[0], .events = POLLIN};
    struct ap_store_stats stats;
    while (poll(&ready, 1, 0) == 0) {
        st_begin();
        for (int i = 0; i < 100; i++)
            st_put((uint64_t)lrand48() % 1000, "v");
        st_commit();
    }
    uint64_t round = 0;
    ck_assert_int_eq(read(report[0], &round, sizeof round), sizeof round);
    close(report[0]);
    kill(child, SIGKILL);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ap_writer_close(&st_writer); /* opening looks for dead readers, as does a commit every 5 s */
    OK(ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err));
    OK(ap_store_stats(st_store, &stats, &st_err));
    uint64_t before = stats.file_bytes;
    for (int batch = 0; batch < 150; batch++) {
        size_t dropped;
        st_begin();
        for (int i = 0; i < 1000; i++)
            st_put((uint64_t)i, "v");
        OK(ap_writer_clean(st_writer, 1000, st_last_slot() - 1000, NULL, NULL, &dropped, &st_err));
        st_commit();
    }
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_lt(stats.file_bytes, before + (4 << 20));
    st_check_all();
}
END_TEST

START_TEST(snapshots_are_used_again)
{
    struct ap_snapshot *all[200];
    st_begin();
    st_put(1, "one");
    st_commit();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 200; i++)
            all[i] = st_snapshot();
        for (int i = 0; i < 200; i++)
            ap_snapshot_end(&all[i]);
    }
    struct ap_snapshot *old = st_snapshot();
    st_begin();
    st_put(1, "two");
    st_commit();
    struct ap_row row;
    ck_assert_uint_eq(ap_snapshot_next_slot(old), 2);
    ck_assert_int_eq(ap_snapshot_row(old, 2, &row, &st_err), AP_ENOTFOUND);
    ap_snapshot_end(&old);
    ck_assert_ptr_null(old);
    st_expect(1, "two");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store_faults");
    TCase *t = tcase_create("store_faults");
    ap_log_init("unit", AP_LOG_ERROR + 1, NULL, NULL); /* damage is logged, and here it is on purpose */
    tcase_set_timeout(t, 55);
    tcase_add_checked_fixture(t, st_setup, st_teardown);
    tcase_add_test(t, a_damaged_row_counts_as_never_written);
    tcase_add_test(t, wrong_digests_are_counted_anew_at_the_start);
    tcase_add_test(t, a_full_map_is_fatal_and_says_what_to_do);
    tcase_add_test(t, a_full_disk_is_fatal_and_loses_nothing_committed);
    tcase_add_test(t, a_disk_is_full_wherever_a_write_comes_short);
    tcase_add_test(t, kill_at_any_moment);
    tcase_add_test(t, a_reader_that_dies_holds_nothing_back);
    tcase_add_test(t, snapshots_are_used_again);
    suite_add_tcase(s, t);
    return run_suite(s);
}
