/* The spool's files: order, restart, torn tails, damage, the bound, one fsync for many. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/log.h"
#include "producer/spool_file.h"
#include "producer/spool_scan.h"
#include "rnd.h"
#include "run.h"

static char dir[64];
static struct ap_spool_file *f;
static struct ap_spool_options o;
static char seen[16384]; /* entries found at opening, each followed by a blank */

static int note(void *arg, const uint8_t *bytes, size_t len, struct ap_err *err)
{
    (void)arg, (void)err;
    size_t at = strlen(seen);
    snprintf(seen + at, sizeof seen - at, "%.*s ", (int)len, (const char *)bytes);
    return 0;
}

static void setup(void)
{
    ap_log_init("unit", AP_LOG_DEBUG, getenv("ANTIPODE_TEST_LOG") ? NULL : "/dev/null", NULL);
    snprintf(dir, sizeof dir, "/tmp/antipode-spool-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    o = (struct ap_spool_options){.dir = dir, .region = {"eu"}, .max_bytes = 1 << 20, .file_bytes = 4096};
}

static void teardown(void)
{
    char command[128];
    ap_spool_file_close(&f);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static int try_open(struct ap_err *err)
{
    seen[0] = '\0';
    return ap_spool_file_open(&f, &o, note, NULL, err);
}

static void reopen(void)
{
    struct ap_err err = {0};
    ap_spool_file_close(&f);
    ck_assert_msg(try_open(&err) == 0, "%s", err.msg);
}

static void put(const char *text)
{
    struct ap_err err = {0};
    ck_assert_msg(ap_spool_file_append(f, text, strlen(text), &err) == 0, "%s", err.msg);
}

/* What the next read gives, each entry followed by a blank. */
static const char *next(size_t least)
{
    static char text[8192];
    struct ap_buf out = {0};
    struct ap_err err = {0};
    text[0] = '\0';
    ck_assert_msg(ap_spool_file_read(f, least, &out, &err) == 0, "%s", err.msg);
    for (size_t at = 0, to = 0; at < out.len; at += 4 + ap_le32(out.data + at))
        to += (size_t)snprintf(text + to, sizeof text - to, "%.*s ", (int)ap_le32(out.data + at), (const char *)out.data + at + 4);
    ap_buf_free(&out);
    return text;
}

static size_t files(void)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));)
        n += strstr(e->d_name, ".spool") != NULL;
    closedir(d);
    return n;
}

/* Path of the file whose first block has this number. */
static const char *path_of(uint64_t first)
{
    static char path[160];
    char name[AP_SPOOL_NAME];
    ap_spool_name(first, name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static off_t size_of(const char *path)
{
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    return st.st_size;
}

static void flip(const char *path, off_t at)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 16;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* --- order and restart --- */

START_TEST(what_is_appended_is_read_in_order_and_again_after_a_restart_until_it_is_done)
{
    reopen();
    ck_assert(ap_spool_file_is_empty(f));
    put("a"), put("b"), put("c");
    ck_assert_str_eq(next(0), "a ");
    ck_assert_str_eq(next(1000), "b c ");
    ck_assert_str_eq(next(0), "");
    reopen(); /* read, and not done */
    ck_assert_str_eq(seen, "a b c ");
    put("d");
    ck_assert_str_eq(next(1000), "a b c d ");
    put("e");
    ap_spool_file_done(f);
    ck_assert(!ap_spool_file_is_empty(f));
    ck_assert_str_eq(next(1000), "e ");
    ap_spool_file_done(f);
    ck_assert(ap_spool_file_is_empty(f));
    ck_assert_uint_eq(files(), 0);
    put("f");
    reopen();
    ck_assert_str_eq(seen, "f ");
}
END_TEST

START_TEST(files_are_many_and_go_when_they_are_done)
{
    char big[1001], expect[8];
    struct ap_spool_stats stats;
    reopen();
    memset(big, 'x', 1000);
    big[1000] = '\0';
    for (int i = 0; i < 20; i++)
        put(big);
    ck_assert_uint_ge(files(), 4);
    ap_spool_file_stats(f, &stats);
    ck_assert_uint_eq(stats.entries, 20);
    ck_assert_int_gt(stats.oldest_ms, 0);
    size_t before = files();
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(strlen(next(0)), 1001);
    ap_spool_file_done(f);
    ck_assert_uint_lt(files(), before);
    snprintf(expect, sizeof expect, "%d", 7);
    put(expect);
    reopen(); /* whole files are kept: some of the ten come again */
    ap_spool_file_stats(f, &stats);
    ck_assert(stats.entries >= 11 && stats.entries < 15);
    while (*next(5000))
        ap_spool_file_done(f);
    ck_assert_uint_eq(files(), 0);
    ap_spool_file_stats(f, &stats);
    ck_assert(stats.bytes == 0 && stats.entries == 0 && stats.oldest_ms == 0);
}
END_TEST

/* --- tails and damage --- */

START_TEST(a_tail_torn_at_any_byte_is_cut)
{
    reopen();
    put("first"), put("second");
    const char *path = path_of(1);
    off_t whole = size_of(path), one = AP_SPOOL_HEADER * 2 + 4 + 5;
    for (off_t at = whole - 1; at >= one; at--) {
        ap_spool_file_close(&f);
        ck_assert_int_eq(truncate(path, at), 0);
        reopen();
        ck_assert_str_eq(seen, "first ");
        ck_assert_int_eq(size_of(path), one);
        ap_spool_file_close(&f); /* and as it may be after a power cut: the length is there, the bytes are not */
        ck_assert_int_eq(truncate(path, whole), 0);
    }
    reopen();
    put("third");
    reopen();
    ck_assert_str_eq(seen, "first third ");
}
END_TEST

START_TEST(a_file_that_was_only_begun_is_nothing)
{
    for (off_t len = 0; len <= AP_SPOOL_HEADER; len += 16) {
        reopen();
        put("a");
        ck_assert_str_eq(next(0), "a ");
        ap_spool_file_close(&f);
        uint8_t header[AP_SPOOL_HEADER];
        ap_spool_header(&o.region, 2, header);
        int fd = open(path_of(2), O_WRONLY | O_CREAT, 0600);
        ck_assert_int_eq(write(fd, header, (size_t)len), len);
        close(fd);
        reopen();
        ck_assert_str_eq(seen, "a ");
        put("b");
        ck_assert_str_eq(next(1000), "a b ");
        ap_spool_file_done(f);
    }
}
END_TEST

/* Each byte of a block that others stand behind: what was acknowledged is missed, never skipped. */
START_TEST(damage_is_not_passed_over)
{
    struct ap_err err = {0};
    reopen();
    put("first"), put("second"), put("third");
    for (off_t at = AP_SPOOL_HEADER; at < AP_SPOOL_HEADER * 3 + 4 + 5 + 4 + 6; at++) {
        ap_spool_file_close(&f);
        flip(path_of(1), at);
        ck_assert_int_eq(try_open(&err), AP_ECORRUPT);
        ck_assert_int_eq(err.cls, AP_FATAL);
        ck_assert_msg(strstr(err.msg, ".spool is damaged at byte") != NULL, "%s", err.msg);
        ck_assert_ptr_null(f);
        flip(path_of(1), at);
    }
    reopen();
    ck_assert_str_eq(seen, "first second third ");
}
END_TEST

START_TEST(a_missing_file_another_region_and_another_process_are_refused)
{
    char big[3001] = {0};
    struct ap_err err = {0};
    struct ap_spool_file *mine;
    reopen();
    memset(big, 'y', 3000);
    for (int i = 0; i < 6; i++)
        put(big);
    ck_assert_uint_eq(files(), 3);
    mine = f;
    ck_assert_int_eq(try_open(&err), AP_ECONFLICT);
    ck_assert_msg(strstr(err.msg, "used by another process") != NULL, "%s", err.msg);
    f = mine;
    ap_spool_file_close(&f);
    o.region = (struct ap_region){"us"};
    ck_assert_int_eq(try_open(&err), AP_ECONFLICT);
    ck_assert_msg(strstr(err.msg, "region eu") != NULL, "%s", err.msg);
    o.region = (struct ap_region){"eu"};
    ck_assert_int_eq(unlink(path_of(3)), 0);
    ck_assert_int_eq(try_open(&err), AP_ECORRUPT);
    ck_assert_msg(strstr(err.msg, "missing") != NULL, "%s", err.msg);
    o.dir = "/proc/nowhere/spool";
    ck_assert_int_eq(try_open(&err), AP_EIO);
    ck_assert_msg(strstr(err.msg, "spool.dir") != NULL, "%s", err.msg);
    o.dir = dir;
}
END_TEST

/* --- full --- */

START_TEST(full_refuses_and_keeps_what_it_has)
{
    char big[1001] = {0};
    struct ap_err err = {0};
    struct ap_spool_stats stats;
    int n = 0;
    o.max_bytes = 10000;
    reopen();
    memset(big, 'z', 1000);
    while (ap_spool_file_append(f, big, 1000, &err) == 0)
        n++;
    ck_assert_int_eq(err.code, AP_EBUSY);
    ck_assert_msg(strstr(err.msg, "spool.max_bytes") != NULL, "%s", err.msg);
    ap_spool_file_stats(f, &stats);
    ck_assert(n == (int)stats.entries && n >= 8 && stats.bytes <= o.max_bytes);
    reopen();
    ck_assert_uint_eq(strlen(seen), (size_t)n * 1001);
    while (*next(100000))
        ap_spool_file_done(f);
    put("again");
}
END_TEST

/* In a process of its own, whose files may have 6,000 bytes: the disk is full in the middle of a block. */
static int fill_disk(void)
{
    char big[1001] = {0};
    struct ap_err err = {0};
    int n = 0;
    struct rlimit limit = {6000, RLIM_INFINITY};
    o.file_bytes = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    memset(big, 'z', 1000);
    if (try_open(&err) != 0 || setrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 1;
    while (ap_spool_file_append(f, big, 1000, &err) == 0)
        n++;
    if (n != 5 || err.code != AP_EBUSY || !strstr(err.msg, "disk is full"))
        return 2;
    if (ap_spool_file_append(f, "x", 1, &err) != 0) /* what failed was cut off again */
        return 3;
    limit.rlim_cur = RLIM_INFINITY;
    return setrlimit(RLIMIT_FSIZE, &limit) != 0 || ap_spool_file_append(f, big, 1000, &err) != 0 ? 4 : 0;
}

START_TEST(a_full_disk_refuses_and_goes_on_when_there_is_room)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(fill_disk());
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d", status);
    reopen();
    ck_assert_uint_eq(strlen(seen), 6 * 1001 + 2);
}
END_TEST

/* --- many threads, one of them reading, and an end at any moment --- */

#define THREADS 8

static void *append_all(void *arg)
{
    size_t me = (size_t)(uintptr_t)arg;
    for (uint64_t i = 1; i <= 200; i++) {
        char text[32];
        snprintf(text, sizeof text, "%zu:%llu", me, (unsigned long long)i);
        put(text);
    }
    return NULL;
}

START_TEST(threads_share_a_sync_and_keep_their_order)
{
    pthread_t threads[THREADS];
    uint64_t got[THREADS] = {0};
    size_t total = 0;
    reopen();
    for (size_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, append_all, (void *)(uintptr_t)i);
    while (total < THREADS * 200) {
        struct ap_buf out = {0};
        ck_assert_int_eq(ap_spool_file_read(f, 300, &out, NULL), 0);
        for (size_t at = 0; at < out.len; at += 4 + ap_le32(out.data + at), total++) {
            size_t who;
            unsigned long long n;
            char text[32] = {0};
            memcpy(text, out.data + at + 4, ap_le32(out.data + at));
            ck_assert_int_eq(sscanf(text, "%zu:%llu", &who, &n), 2);
            ck_assert_uint_eq(n, ++got[who]);
        }
        ap_buf_free(&out);
        ap_spool_file_done(f);
    }
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    ck_assert(ap_spool_file_is_empty(f));
    ap_spool_file_done(f);
    ck_assert_uint_eq(files(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("spool_file");
    TCase *t = tcase_create("files");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, what_is_appended_is_read_in_order_and_again_after_a_restart_until_it_is_done);
    tcase_add_test(t, files_are_many_and_go_when_they_are_done);
    tcase_add_test(t, a_tail_torn_at_any_byte_is_cut);
    tcase_add_test(t, a_file_that_was_only_begun_is_nothing);
    tcase_add_test(t, damage_is_not_passed_over);
    tcase_add_test(t, a_missing_file_another_region_and_another_process_are_refused);
    tcase_add_test(t, full_refuses_and_keeps_what_it_has);
    tcase_add_test(t, a_full_disk_refuses_and_goes_on_when_there_is_room);
    tcase_add_test(t, threads_share_a_sync_and_keep_their_order);
    suite_add_tcase(s, t);
    return run_suite(s);
}
