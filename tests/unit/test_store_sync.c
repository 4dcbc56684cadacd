/* Sync points: what a store is after a crash of the machine that took any part of what had not reached the disk. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/clock.h"
#include "common/log.h"
#include "common/store_copy.h"
#include "patience.h"
#include "rnd.h"
#include "store_rig.h"
#include "run.h"

enum { PAGE = 4096, NEVER_MS = 3600000, AT_ONCE_MS = 1, CRASHES = 24 };

struct bytes { uint8_t *b; size_t len; };

static int open_writer(int64_t sync_ms, const char *boot)
{
    struct ap_store_options o = st_options(false);
    o.sync_ms = sync_ms;
    o.boot = boot;
    int rc = ap_store_open(&st_store, &o, &st_err);
    return rc ? rc : ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err);
}

static int open_reader(const char *boot)
{
    struct ap_store *reader;
    struct ap_store_options o = st_options(true);
    o.boot = boot;
    int rc = ap_store_open(&reader, &o, &st_err);
    ap_store_close(&reader);
    return rc;
}

static void path_of(const char *name, char out[160])
{
    snprintf(out, 160, "%s/%s", st_path, name);
}

static struct bytes read_file(const char *name)
{
    char path[160];
    struct stat st;
    path_of(name, path);
    int fd = open(path, O_RDONLY);
    ck_assert_int_eq(fstat(fd, &st), 0);
    struct bytes out = {malloc((size_t)st.st_size), (size_t)st.st_size};
    ck_assert_int_eq(pread(fd, out.b, out.len, 0), (ssize_t)out.len);
    close(fd);
    return out;
}

/* In place: the inode stays, as it does in a crash. */
static void write_file(const char *name, struct bytes what)
{
    char path[160];
    path_of(name, path);
    int fd = open(path, O_WRONLY | O_TRUNC);
    ck_assert_int_eq(write(fd, what.b, what.len), (ssize_t)what.len);
    close(fd);
}

static void release(size_t count, const struct bytes *list)
{
    for (size_t i = 0; i < count; i++)
        free(list[i].b);
}

/* A few batches over 300 points: new rows, new versions, deletes, and the cleaner, which frees many pages. */
static void write_batches(int count)
{
    for (int b = 0; b < count; b++) {
        st_begin();
        for (int i = 0; i < 40; i++) {
            char vector[24];
            uint64_t n = rnd_below(300);
            snprintf(vector, sizeof vector, "%llu", (unsigned long long)rnd());
            st_apply(COLLECTION, n, st_mutation(rnd_below(8) ? AP_OP_UPSERT : AP_OP_DELETE, ++st_hlc, vector, NULL));
        }
        st_commit();
        st_clean(100, st_last_slot());
    }
}

/* Equal in every row and slot, and by its digests. */
static bool is_same(const struct st_content *a, const struct st_content *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; same && i < a->count; i++)
        same = memcmp(&a->list[i], &b->list[i], sizeof a->list[i]) == 0;
    return same;
}

static struct st_content content(void)
{
    struct ap_snapshot *s = st_snapshot();
    struct st_content c = st_content_of(s);
    ap_snapshot_end(&s);
    return c;
}

/* Writes behind a sync point and dies. `disk` is what the disk had at the point, `newer` what it would have had, had all been written. */
static void write_behind_a_point(struct bytes *disk, struct bytes *newer)
{
    fflush(NULL);
    uint64_t seed = rnd();
    pid_t child = fork();
    if (child == 0) {
        rnd_state = seed;
        if (open_writer(NEVER_MS, "first"))
            _exit(1);
        char path[160];
        struct bytes at_point = read_file("data.mdb");
        snprintf(path, sizeof path, "%s/at_point", st_path);
        close(open(path, O_WRONLY | O_CREAT, 0600));
        write_file("at_point", at_point);
        write_batches(1 + (int)rnd_below(8));
        uint64_t points;
        double seconds;
        ap_store_syncs(st_store, &points, &seconds);
        _exit(points == 1 ? 0 : 2);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    *disk = read_file("at_point");
    *newer = read_file("data.mdb");
}

/* Each page that was written since is on the disk or is not, and one in a while is there by half. */
static struct bytes crashed(struct bytes disk, struct bytes newer)
{
    size_t longer = disk.len > newer.len ? disk.len : newer.len;
    struct bytes out = {calloc(1, longer), longer};
    uint64_t share = rnd_below(101);
    memcpy(out.b, disk.b, disk.len);
    for (size_t at = 0; at < newer.len; at += PAGE)
        if (rnd_below(100) < share)
            memcpy(out.b + at, newer.b + at, rnd_below(16) ? PAGE : PAGE / 8 * rnd_below(8));
    if (rnd_below(2)) /* both meta pages are new: the worst */
        memcpy(out.b, newer.b, 2 * PAGE);
    return out;
}

static bool opens_as(int64_t sync_ms, const struct st_content *want)
{
    fflush(NULL);
    pid_t child = fork(); /* LMDB trusts its file: a torn one may end the process */
    if (child == 0) {
        if (open_writer(sync_ms, "second"))
            _exit(1);
        struct st_content got = content();
        _exit(is_same(&got, want) ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

START_TEST(a_crash_of_the_machine_goes_back_to_the_last_point)
{
    int torn = 0;
    rnd_seed("crash");
    for (int i = 0; i < CRASHES; i++) {
        OK(open_writer(0, "first"));
        write_batches(3);
        struct st_content want = content();
        uint64_t id = ap_store_id(st_store);
        st_close();

        struct bytes disk, newer;
        write_behind_a_point(&disk, &newer);
        struct bytes image = crashed(disk, newer), sync = read_file("sync");
        char path[160];

        /* Without the point, this is what is left. */
        path_of("sync", path);
        write_file("data.mdb", image);
        ck_assert_int_eq(rename(path, strcat(strcpy((char[200]){0}, path), ".away")), 0);
        torn += !opens_as(0, &want);
        ck_assert_int_eq(rename(strcat(strcpy((char[200]){0}, path), ".away"), path), 0);
        write_file("data.mdb", image);
        write_file("sync", sync);

        ck_assert_int_eq(open_reader("second"), AP_ENOTREADY);
        struct ap_store_identity who;
        ck_assert_int_eq(ap_store_identify(st_path, &who, &st_err), AP_ENOTREADY); /* the test's boots are not the machine's */
        OK(open_writer(i % 2 ? 0 : NEVER_MS, "second"));
        OK(open_reader("second"));
        struct st_content got = content();
        ck_assert_msg(is_same(&got, &want), "crash %d: %zu rows, %zu wanted", i, got.count, want.count);
        ck_assert_uint_ne(ap_store_id(st_store), id);
        st_check_all();
        write_batches(3); /* and it can be gone on with */
        st_check_all();
        st_close();
        release(4, (struct bytes[]){disk, newer, image, sync});
        free(want.list);
        free(got.list);
    }
    ck_assert_msg(torn > CRASHES / 4, "%d of %d files were damaged: this crash is too mild to show anything", torn, CRASHES);
}
END_TEST

/* A crash while it is put right, too: the point stays what it was until the store is whole. */
START_TEST(going_back_can_be_done_again)
{
    rnd_seed("again");
    OK(open_writer(0, "first"));
    write_batches(3);
    struct st_content want = content();
    st_close();
    struct bytes disk, newer;
    write_behind_a_point(&disk, &newer);
    struct bytes image = crashed(disk, newer), sync = read_file("sync");
    write_file("data.mdb", image);
    for (int i = 0; i < 3; i++) {
        write_file("sync", sync);
        ck_assert(opens_as(NEVER_MS, &want)); /* and dies when it has looked */
    }
    OK(open_writer(NEVER_MS, "third"));
    struct st_content got = content();
    ck_assert(is_same(&got, &want));
    st_close();
    release(4, (struct bytes[]){disk, newer, image, sync});
    free(want.list);
    free(got.list);
}
END_TEST

START_TEST(kill_9_takes_nothing_back)
{
    rnd_seed("kill");
    struct bytes disk, newer;
    OK(open_writer(0, "first"));
    write_batches(3);
    uint64_t id = ap_store_id(st_store);
    st_close();
    write_behind_a_point(&disk, &newer);
    OK(open_writer(NEVER_MS, "first"));
    struct bytes now = read_file("data.mdb");
    ck_assert_mem_eq(now.b + 2 * PAGE, newer.b + 2 * PAGE, newer.len - 2 * PAGE);
    ck_assert_uint_eq(ap_store_id(st_store), id);
    st_check_all();
    st_close();
    release(3, (struct bytes[]){disk, newer, now});
}
END_TEST

START_TEST(a_clean_end_leaves_nothing_in_doubt)
{
    rnd_seed("clean");
    OK(open_writer(NEVER_MS, "first"));
    write_batches(3);
    struct st_content want = content();
    uint64_t id = ap_store_id(st_store);
    st_close();
    OK(open_reader("second"));
    OK(open_writer(NEVER_MS, "second"));
    struct st_content got = content();
    ck_assert(is_same(&got, &want));
    ck_assert_uint_eq(ap_store_id(st_store), id);
    st_close();
    free(want.list);
    free(got.list);
}
END_TEST

static void await_points(uint64_t count)
{
    uint64_t points;
    double seconds;
    for (int64_t end = patience_ms();;) {
        ap_store_syncs(st_store, &points, &seconds);
        if (points >= count)
            return;
        ck_assert_int_lt(ap_mono_ms(), end);
        usleep(1000);
    }
}

START_TEST(it_is_known_what_is_not_on_the_disk)
{
    OK(open_writer(NEVER_MS, "first"));
    ck_assert_uint_eq(ap_writer_unsynced(st_writer), AP_HLC_MAX);
    st_begin();
    st_put(1, "one");
    uint64_t first = st_hlc;
    ck_assert_uint_eq(ap_writer_unsynced(st_writer), first);
    st_commit();
    st_begin();
    st_put(2, "two");
    st_commit();
    ck_assert_uint_eq(ap_writer_unsynced(st_writer), first);
    st_close();

    OK(open_writer(AT_ONCE_MS, "first"));
    st_begin();
    st_put(3, "three");
    st_commit();
    await_points(2);
    ck_assert_uint_eq(ap_writer_unsynced(st_writer), AP_HLC_MAX);
    st_close();

    OK(open_writer(0, "first")); /* every commit waits */
    st_begin();
    st_put(4, "four");
    ck_assert_uint_eq(ap_writer_unsynced(st_writer), AP_HLC_MAX);
    st_commit();
    ck_assert_uint_eq(ap_writer_unsynced(st_writer), AP_HLC_MAX);
    char path[160];
    path_of("sync", path);
    ck_assert_int_ne(access(path, F_OK), 0); /* or a later crash would go back to it */
    st_close();
}
END_TEST

START_TEST(a_disk_that_fails_ends_the_writer)
{
    OK(open_writer(AT_ONCE_MS, "first"));
    for (int fd = 3; fd < 256; fd++) {
        char link[64], path[160], file[160] = {0};
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        path_of("sync", path);
        if (readlink(link, file, sizeof file - 1) > 0 && strcmp(file, path) == 0)
            ck_assert_int_eq(dup2(open("/dev/full", O_RDWR), fd), fd);
    }
    int rc = 0;
    for (int64_t end = patience_ms(); rc == 0 && ap_mono_ms() < end; usleep(1000)) {
        rc = ap_writer_begin(st_writer, &st_err);
        if (rc)
            break;
        st_put(1, "one");
        rc = ap_writer_commit(st_writer, &st_err);
    }
    ck_assert_int_eq(rc, AP_ENOSPC);
    ck_assert_int_eq(st_err.cls, AP_FATAL);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "free space"));
    ck_assert_int_ne(ap_writer_begin(st_writer, &st_err), 0);
    st_close();
}
END_TEST

START_TEST(another_file_in_its_place_is_refused)
{
    rnd_seed("another");
    struct bytes disk, newer;
    OK(open_writer(0, "first"));
    write_batches(1);
    st_close();
    write_behind_a_point(&disk, &newer);
    char path[160], other[160];
    path_of("data.mdb", path);
    path_of("at_point", other);
    ck_assert_int_eq(rename(other, path), 0);
    ck_assert_int_eq(open_writer(NEVER_MS, "second"), AP_ECORRUPT);
    ck_assert_ptr_nonnull(strstr(st_err.msg, "remove `sync`"));
    path_of("sync", path);
    ck_assert_int_eq(unlink(path), 0);
    OK(open_writer(NEVER_MS, "second"));
    st_check_all();
    st_close();
    release(2, (struct bytes[]){disk, newer});
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store_sync");
    TCase *t = tcase_create("store_sync");
    ap_log_init("unit", AP_LOG_ERROR + 1, NULL, NULL);
    tcase_set_timeout(t, 115);
    tcase_add_checked_fixture(t, st_make_folder, st_teardown);
    tcase_add_test(t, a_crash_of_the_machine_goes_back_to_the_last_point);
    tcase_add_test(t, going_back_can_be_done_again);
    tcase_add_test(t, kill_9_takes_nothing_back);
    tcase_add_test(t, a_clean_end_leaves_nothing_in_doubt);
    tcase_add_test(t, it_is_known_what_is_not_on_the_disk);
    tcase_add_test(t, a_disk_that_fails_ends_the_writer);
    tcase_add_test(t, another_file_in_its_place_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
