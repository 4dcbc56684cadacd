/* The store: opening, what a batch holds, and what an indexer sees of it. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/log.h"
#include "store_rig.h"
#include "run.h"

/* --- opening --- */

START_TEST(a_new_store_is_empty)
{
    struct ap_store_stats stats;
    struct ap_snapshot *s = st_snapshot();
    ck_assert_uint_eq(ap_snapshot_next_slot(s), 1);
    ck_assert_uint_eq(ap_snapshot_first_slot(s), 1);
    struct ap_row row;
    ck_assert_int_eq(ap_snapshot_row(s, 1, &row, &st_err), AP_ENOTFOUND);
    ap_snapshot_end(&s);
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_eq(stats.rows, 0);
    ck_assert_uint_gt(stats.file_bytes, 0);
    st_check_all();
}
END_TEST

START_TEST(what_was_committed_is_there_again)
{
    st_begin();
    ck_assert(st_put(1, "one"));
    ck_assert(st_put(2, "two"));
    ck_assert(st_put(1, "uno"));
    ck_assert(!st_apply(COLLECTION, 1, st_mutation(AP_OP_UPSERT, 5, "older", NULL)));
    ck_assert(st_apply(COLLECTION, 2, st_mutation(AP_OP_DELETE, ++st_hlc, NULL, NULL)));
    ck_assert_uint_eq(ap_writer_next_slot(st_writer), 5);
    st_commit();
    for (int i = 0; i < 3; i++) {
        st_expect(1, "uno");
        st_expect(2, NULL);
        st_check_all();
        uint64_t id = ap_store_id(st_store);
        st_close();
        st_open();
        ck_assert_uint_eq(ap_store_id(st_store), id);
        ck_assert_uint_eq(ap_writer_next_slot(st_writer), 5);
    }
    st_begin();
    ck_assert(!st_apply(COLLECTION, 1, st_mutation(AP_OP_UPSERT, 5, "older", NULL)));
    ck_assert(!st_apply(COLLECTION, 2, st_mutation(AP_OP_UPSERT, 5, "older", NULL)));
    ck_assert(st_put(1, "une"));
    st_commit();
    st_expect(1, "une");
}
END_TEST

START_TEST(what_was_not_committed_is_not)
{
    st_begin();
    st_put(1, "one");
    st_commit();
    st_begin();
    st_put(1, "gone");
    st_put(2, "gone");
    st_close();
    st_open();
    st_expect(1, "one");
    st_expect(2, NULL);
    st_check_all();
}
END_TEST

START_TEST(a_bad_patch_changes_nothing_and_is_not_fatal)
{
    struct ap_key key = st_key(COLLECTION, 1);
    bool changed = true;
    st_begin();
    st_put(1, "one");
    struct ap_mutation m = st_mutation(AP_OP_PATCH, ++st_hlc, NULL, "{\"no\":1}");
    ck_assert_int_eq(ap_writer_apply(st_writer, &key, &m, &changed, &st_err), AP_EINVAL);
    ck_assert_int_eq(st_err.cls, AP_POISON);
    ck_assert(!changed);
    ck_assert(st_put(2, "two"));
    st_commit();
    st_expect(1, "one");
    st_expect(2, "two");
}
END_TEST

START_TEST(another_region_or_worker_is_refused)
{
    struct ap_store *other;
    st_close();
    struct ap_store_options o = st_options(false);
    o.region = "us";
    ck_assert_int_eq(ap_store_open(&other, &o, &st_err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "belongs to region 'eu', not 'us'"));
    ck_assert_int_eq(st_err.cls, AP_FATAL);
    o = st_options(true);
    o.workers = 2;
    ck_assert_int_eq(ap_store_open(&other, &o, &st_err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "worker 0 of 1, not 0 of 2"));
    ck_assert_ptr_null(other);
    st_open();
}
END_TEST

START_TEST(a_reader_waits_for_the_writer_to_make_it)
{
    struct ap_store *reader;
    struct ap_store_options o = st_options(true);
    char real[128];
    st_close();
    strcpy(real, st_path);
    snprintf(st_path, sizeof st_path, "%s/later", st_root);
    ck_assert_int_eq(ap_store_open(&reader, &o, &st_err), AP_ENOTREADY);
    ck_assert_int_eq(st_err.cls, AP_RETRY);
    ck_assert_int_eq(mkdir(st_path, 0700), 0);
    ck_assert_int_eq(ap_store_open(&reader, &o, &st_err), AP_ENOTREADY);
    char file[160];
    snprintf(file, sizeof file, "%s/data.mdb", st_path);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    ck_assert_int_eq(ap_store_open(&reader, &o, &st_err), AP_ENOTREADY);
    st_open();
    st_begin();
    st_put(1, "one");
    st_commit();
    st_close();
    OK(ap_store_open(&reader, &o, &st_err));
    struct ap_snapshot *s;
    struct ap_row row;
    OK(ap_snapshot_begin(reader, &s, &st_err));
    OK(ap_snapshot_row(s, 1, &row, &st_err));
    ck_assert_mem_eq(row.vector, "one", 3);
    ap_snapshot_end(&s);
    ap_store_close(&reader);
    st_remove_folder();
    ck_assert_int_eq(errno == 0 || errno == ENOTEMPTY, 1); /* root still holds the other */
    strcpy(st_path, real);
    st_open();
}
END_TEST

START_TEST(there_is_one_writer)
{
    /* From another process: this one holds the lock. */
    char want[64];
    snprintf(want, sizeof want, "process %ld writes to it already", (long)getpid());
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct ap_store *s;
        struct ap_writer *second;
        struct ap_store_options o = st_options(false);
        int rc = ap_store_open(&s, &o, &st_err);
        rc = rc ? rc : ap_writer_open(&second, s, NULL, NULL, &st_err);
        _exit(rc == AP_EBUSY && strstr(st_err.msg, want) ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    st_close();
    st_open();
}
END_TEST

START_TEST(a_file_that_is_no_store_says_so)
{
    char file[160];
    st_close();
    snprintf(file, sizeof file, "%s/data.mdb", st_path);
    int fd = open(file, O_WRONLY | O_TRUNC);
    for (int i = 0; i < 4096; i++)
        ck_assert_int_eq(write(fd, "garbage ", 8), 8);
    close(fd);
    struct ap_store_options o = st_options(false);
    ck_assert_int_eq(ap_store_open(&st_store, &o, &st_err), AP_ECORRUPT);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "damaged"));
    ck_assert_ptr_nonnull(strstr(st_err.msg, st_path));
}
END_TEST

START_TEST(a_folder_that_cannot_be_made_says_so)
{
    struct ap_store *other;
    struct ap_store_options o = st_options(false);
    o.path = "/nonexistent/deeper/store";
    ck_assert_int_eq(ap_store_open(&other, &o, &st_err), AP_EIO);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "/nonexistent/deeper/store"));
    o.worker = 3;
    ck_assert_int_eq(ap_store_open(&other, &o, &st_err), AP_EINVAL);
}
END_TEST

/* --- offsets, control, positions --- */

static int count_control(void *arg, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len)
{
    ap_buf_printf(arg, "%s/%.*s=%.*s ", origin->name, (int)key_len, (const char *)key, (int)value_len, (const char *)value);
    return 0;
}

static int print_offset(void *arg, const char *cluster, const uint8_t topic_id[16], const char *name, int32_t partition, int64_t next)
{
    ap_buf_printf(arg, "%s/%02x/%s/%d=%lld ", cluster, topic_id[0], name, partition, (long long)next);
    return 0;
}

START_TEST(offsets_belong_to_a_topic_of_a_cluster)
{
    const uint8_t a[16] = {0xaa}, b[16] = {0xbb};
    int64_t next = -1;
    struct ap_buf text = {0};
    ck_assert_int_eq(ap_writer_get_offset(st_writer, "c1", a, 0, &next, &st_err), AP_ENOTFOUND);
    st_begin();
    OK(ap_writer_put_offset(st_writer, "c1", a, "us.vec-mutations", 3, 17, &st_err));
    OK(ap_writer_put_offset(st_writer, "c1", a, "us.vec-mutations", 4, 18, &st_err));
    OK(ap_writer_put_offset(st_writer, "c1", a, "us.vec-mutations", 3, 19, &st_err));
    OK(ap_writer_get_offset(st_writer, "c1", a, 3, &next, &st_err));
    ck_assert_int_eq(next, 19);
    st_commit();
    st_close();
    st_open();
    OK(ap_writer_get_offset(st_writer, "c1", a, 3, &next, &st_err));
    ck_assert_int_eq(next, 19);
    ck_assert_int_eq(ap_writer_get_offset(st_writer, "c1", b, 3, &next, &st_err), AP_ENOTFOUND);
    ck_assert_int_eq(ap_writer_get_offset(st_writer, "c2", a, 3, &next, &st_err), AP_ENOTFOUND);
    ck_assert_int_eq(ap_writer_get_offset(st_writer, "c1", a, 5, &next, &st_err), AP_ENOTFOUND);
    struct ap_snapshot *s = st_snapshot();
    OK(ap_snapshot_offsets(s, print_offset, &text, &st_err));
    ap_snapshot_end(&s);
    ck_assert_str_eq((char *)text.data, "c1/aa/us.vec-mutations/3=19 c1/aa/us.vec-mutations/4=18 ");
    ap_buf_free(&text);
}
END_TEST

START_TEST(control_records_replace_their_like)
{
    struct ap_region eu = {"eu"}, us = {"us"};
    struct ap_buf text = {0};
    char long_key[600] = {0};
    st_begin();
    OK(ap_writer_put_control(st_writer, &us, "collection/a", 12, "1", 1, &st_err));
    OK(ap_writer_put_control(st_writer, &eu, "collection/a", 12, "2", 1, &st_err));
    OK(ap_writer_put_control(st_writer, &us, "collection/a", 12, "3", 1, &st_err));
    OK(ap_writer_put_control(st_writer, &us, "region/us", 9, "4", 1, &st_err));
    memset(long_key, 'k', sizeof long_key - 1);
    ck_assert_int_eq(ap_writer_put_control(st_writer, &us, long_key, 599, "5", 1, &st_err), AP_EINVAL);
    st_commit();
    struct ap_snapshot *s = st_snapshot();
    uint64_t version = ap_snapshot_control_version(s);
    OK(ap_snapshot_control(s, count_control, &text, &st_err));
    ck_assert_str_eq((char *)text.data, "eu/collection/a=2 us/collection/a=3 us/region/us=4 ");
    ap_snapshot_end(&s);
    st_begin();
    st_put(1, "x");
    st_commit();
    s = st_snapshot();
    ck_assert_uint_eq(ap_snapshot_control_version(s), version);
    ap_snapshot_end(&s);
    st_close();
    st_open();
    st_begin();
    OK(ap_writer_put_control(st_writer, &us, "collection/a", 12, NULL, 0, &st_err)); /* a Kafka tombstone */
    st_commit();
    s = st_snapshot();
    ck_assert_uint_gt(ap_snapshot_control_version(s), version);
    ap_buf_clear(&text);
    OK(ap_snapshot_control(s, count_control, &text, &st_err));
    ck_assert_str_eq((char *)text.data, "eu/collection/a=2 us/region/us=4 ");
    ap_snapshot_end(&s);
    ap_buf_free(&text);
}
END_TEST

START_TEST(positions_are_of_the_same_batch)
{
    struct ap_region us = {"us"};
    struct ap_position *list;
    size_t count;
    st_begin();
    ap_positions_note(ap_writer_positions(st_writer), &us, 1001, "vec-mutations", 2, 1, 10);
    ap_positions_note(ap_writer_positions(st_writer), &us, 1001, "vec-mutations", 2, 2, 20);
    ap_positions_note(ap_writer_positions(st_writer), &us, 1001, "vec-mutations", 2, 5, 50);
    st_commit();
    st_begin();
    ap_positions_note(ap_writer_positions(st_writer), &us, 1001, "vec-mutations", 2, 3, 30);
    st_close(); /* not committed */
    st_open();
    ck_assert_int_eq(ap_positions_check(ap_writer_positions(st_writer), 1001, "vec-mutations", 2, 2), AP_SEEN_DUPLICATE);
    ck_assert_int_eq(ap_positions_check(ap_writer_positions(st_writer), 1001, "vec-mutations", 2, 3), AP_SEEN_LATE);
    ck_assert_int_eq(ap_positions_check(ap_writer_positions(st_writer), 1001, "vec-mutations", 2, 6), AP_SEEN_NEW);
    struct ap_snapshot *s = st_snapshot();
    OK(ap_snapshot_positions(s, &list, &count, &st_err));
    ck_assert_uint_eq(count, 1);
    ck_assert_uint_eq(list[0].mark, 2);
    ck_assert_uint_eq(list[0].clock, 20);
    ck_assert_str_eq(list[0].region.name, "us");
    ck_assert_int_eq(list[0].partition, 2);
    free(list);
    ap_snapshot_end(&s);
}
END_TEST

/* --- raw vectors --- */

START_TEST(raw_vectors_belong_to_a_version)
{
    struct ap_key one = st_key(COLLECTION, 1), two = st_key(COLLECTION, 2), none = st_key(COLLECTION, 3);
    struct ap_mutation first = st_mutation(AP_OP_UPSERT, 50, "v", "{}"), second = st_mutation(AP_OP_UPSERT, 60, "v2", NULL);
    bool matched;
    st_begin();
    st_apply(COLLECTION, 1, first);
    st_apply(COLLECTION, 2, first);
    OK(ap_writer_raw(st_writer, &two, &first.version, "raw two", 7, &matched, &st_err));
    ck_assert(matched);
    OK(ap_writer_raw(st_writer, &one, &first.version, "raw one", 7, &matched, &st_err)); /* a lower slot, later */
    ck_assert(matched);
    OK(ap_writer_raw(st_writer, &one, &second.version, "nobody's", 8, &matched, &st_err));
    ck_assert(!matched);
    OK(ap_writer_raw(st_writer, &none, &first.version, "nobody's", 8, &matched, &st_err));
    ck_assert(!matched);
    st_commit();
    st_expect_raw(1, "raw one");
    st_expect_raw(2, "raw two");
    st_begin();
    st_apply(COLLECTION, 1, st_mutation(AP_OP_PATCH, 55, NULL, "{\"set\":{\"a\":1}}")); /* keeps the base */
    st_apply(COLLECTION, 2, second);
    st_commit();
    st_expect_raw(1, "raw one");
    st_expect_raw(2, NULL);
    st_begin();
    st_apply(COLLECTION, 1, st_mutation(AP_OP_DELETE, 55, NULL, NULL));
    OK(ap_writer_raw(st_writer, &one, &first.version, "raw one", 7, &matched, &st_err));
    ck_assert(!matched);
    st_commit();
    st_expect_raw(1, NULL);
}
END_TEST

/* --- seen and waking --- */

START_TEST(seen_is_kept_and_checked)
{
    uint64_t seen = 9;
    OK(ap_store_seen_read(st_store, &seen));
    ck_assert_uint_eq(seen, 0);
    OK(ap_store_seen_write(st_store, 12345, &st_err));
    OK(ap_store_seen_read(st_store, &seen));
    ck_assert_uint_eq(seen, 12345);
    st_close();
    st_open();
    OK(ap_store_seen_read(st_store, &seen));
    ck_assert_uint_eq(seen, 12345);
    /* Half a write, and the file of another store. */
    char file[160];
    snprintf(file, sizeof file, "%s/seen", st_path);
    int fd = open(file, O_RDWR);
    ck_assert_int_eq(pwrite(fd, "\x01", 1, 0), 1);
    close(fd);
    OK(ap_store_seen_read(st_store, &seen));
    ck_assert_uint_eq(seen, 0);
    OK(ap_store_seen_write(st_store, 7, &st_err));
    st_close();
    snprintf(file, sizeof file, "%s/data.mdb", st_path);
    ck_assert_int_eq(unlink(file), 0);
    st_open();
    OK(ap_store_seen_read(st_store, &seen));
    ck_assert_uint_eq(seen, 0);
}
END_TEST

static bool woken(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

START_TEST(a_commit_wakes_the_indexer)
{
    int fd;
    st_begin();
    st_put(1, "nobody listens");
    st_commit();
    OK(ap_store_wake_listen(st_store, &fd, &st_err));
    ck_assert(!woken(fd));
    st_begin();
    st_put(1, "x");
    ck_assert(!woken(fd));
    st_commit();
    ck_assert(woken(fd));
    for (int i = 0; i < 600; i++) { /* more than its queue holds */
        st_begin();
        st_put(1, "y");
        st_commit();
    }
    ap_store_wake_drain(fd);
    ck_assert(!woken(fd));
    st_begin();
    st_commit(); /* nothing in it */
    ck_assert(!woken(fd));
    int second;
    OK(ap_store_wake_listen(st_store, &second, &st_err)); /* a new indexer */
    st_begin();
    st_put(1, "z");
    st_commit();
    ck_assert(woken(second));
    close(fd);
    close(second);
}
END_TEST

START_TEST(the_path_may_be_long)
{
    int fd;
    char real[128];
    st_close();
    strcpy(real, st_path);
    static char deep[256];
    snprintf(deep, sizeof deep, "%s/%0*d", st_root, 150, 0);
    struct ap_store_options o = st_options(false);
    o.path = deep;
    OK(ap_store_open(&st_store, &o, &st_err));
    OK(ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err));
    OK(ap_store_wake_listen(st_store, &fd, &st_err));
    st_begin();
    st_put(1, "x");
    st_commit();
    ck_assert(woken(fd));
    close(fd);
    st_close();
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", deep);
    ck_assert_int_eq(system(command), 0);
    st_open();
}
END_TEST

/* Of the store's file, by /proc/self/smaps. */
static size_t mapped_of_file(void)
{
    char line[512];
    size_t kb, sum = 0;
    bool ours = false;
    FILE *f = fopen("/proc/self/smaps", "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f)) {
        if (strstr(line, "/data.mdb"))
            ours = true;
        else if (ours && sscanf(line, "Rss: %zu kB", &kb) == 1) {
            sum += kb * 1024;
            ours = false;
        }
    }
    fclose(f);
    return sum;
}

static int count_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    (void)slot;
    *(size_t *)arg += row->payload_len > 0 && row->payload[row->payload_len - 1] == '}';
    return 0;
}

/* Writing and reading take no more than what is allowed, about, and what is read after that is right. */
START_TEST(what_stays_mapped_is_bounded)
{
    enum { ROWS = 4000, BOUND = 1 << 20 };
    char payload[2000];
    struct ap_store_options o = st_options(false);
    memset(payload, 'x', sizeof payload);
    memcpy(payload, "{\"a\":\"", 6);
    memcpy(payload + sizeof payload - 3, "\"}", 3);
    size_t most[2];
    for (int bounded = 0; bounded < 2; bounded++) {
        st_close();
        o.mapped_bytes = bounded ? BOUND : 0;
        OK(ap_store_open(&st_store, &o, &st_err));
        OK(ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err));
        for (uint64_t i = 0; i < ROWS; i += 100) {
            st_begin();
            for (uint64_t j = i; j < i + 100; j++)
                st_apply(COLLECTION, j, st_mutation(AP_OP_UPSERT, ++st_hlc, "x", payload));
            st_commit();
        }
        for (int round = 0; round < 3; round++) {
            size_t rows = 0;
            struct ap_snapshot *s = st_snapshot();
            OK(ap_snapshot_scan(s, 0, count_row, &rows, &st_err));
            ck_assert_uint_ge(rows, ROWS);
            ap_snapshot_end(&s);
        }
        most[bounded] = mapped_of_file();
    }
    ck_assert_uint_gt(most[0], (size_t)8 << 20);
    ck_assert_msg(most[1] <= 2 * BOUND, "%zu bytes are mapped", most[1]);
    st_check_all();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");
    ap_log_init("unit", AP_LOG_ERROR + 1, NULL, NULL); /* damage is logged, and here it is on purpose */
    tcase_set_timeout(t, 55);
    tcase_add_checked_fixture(t, st_setup, st_teardown);
    tcase_add_test(t, a_new_store_is_empty);
    tcase_add_test(t, what_was_committed_is_there_again);
    tcase_add_test(t, what_was_not_committed_is_not);
    tcase_add_test(t, a_bad_patch_changes_nothing_and_is_not_fatal);
    tcase_add_test(t, another_region_or_worker_is_refused);
    tcase_add_test(t, a_reader_waits_for_the_writer_to_make_it);
    tcase_add_test(t, there_is_one_writer);
    tcase_add_test(t, a_file_that_is_no_store_says_so);
    tcase_add_test(t, a_folder_that_cannot_be_made_says_so);
    tcase_add_test(t, offsets_belong_to_a_topic_of_a_cluster);
    tcase_add_test(t, control_records_replace_their_like);
    tcase_add_test(t, positions_are_of_the_same_batch);
    tcase_add_test(t, raw_vectors_belong_to_a_version);
    tcase_add_test(t, seen_is_kept_and_checked);
    tcase_add_test(t, a_commit_wakes_the_indexer);
    tcase_add_test(t, the_path_may_be_long);
    tcase_add_test(t, what_stays_mapped_is_bounded);
    suite_add_tcase(s, t);
    return run_suite(s);
}
