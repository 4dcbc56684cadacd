/* The store: batches, reopening, snapshots, the cleaner, digests, a full map, and kill -9 at any moment. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "common/log.h"
#include "common/store.h"
#include "common/timeutil.h"

#define COLLECTION 7
#define MAP ((size_t)256 << 20)

static char root[64], path[128];
static struct ap_store *store;
static struct ap_writer *w;
static struct ap_err err;
static uint64_t hlc;

static struct ap_store_options options(bool read_only)
{
    return (struct ap_store_options){.path = path, .map_bytes = MAP, .region = "eu", .worker = 0, .workers = 1, .read_only = read_only};
}

#define OK(call) \
    do { \
        int ok_ = (call); \
        ck_assert_msg(ok_ == 0, "%s: %d: %s", #call, ok_, err.msg); \
    } while (0)

static void open_store(void)
{
    struct ap_store_options o = options(false);
    OK(ap_store_open(&store, &o, &err));
    OK(ap_writer_open(&w, store, NULL, NULL, &err));
}

static void close_store(void)
{
    ap_writer_close(&w);
    ap_store_close(&store);
}

static void make_folder(void)
{
    strcpy(root, "/tmp/antipode-test-store-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(path, sizeof path, "%s/store", root);
    hlc = 1000;
    w = NULL;
    store = NULL;
}

static void remove_folder(void)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
    rmdir(root);
}

static void setup(void)
{
    make_folder();
    open_store();
}

static void teardown(void)
{
    close_store();
    remove_folder();
}

static struct ap_key key_in(uint64_t collection, uint64_t n)
{
    struct ap_point_id id;
    struct ap_key key;
    ap_point_id_from_u64(n, &id);
    ap_key_make(collection, &id, &key);
    return key;
}

static struct ap_mutation mutation(enum ap_op op, uint64_t at, const char *vector, const char *payload)
{
    struct ap_mutation m = {.op = op, .version = {.hlc = at, .region = {"eu"}, .writer = 1}, .stream = 1, .seq = at, .clock = at};
    m.vector = (const uint8_t *)vector;
    m.vector_len = vector ? strlen(vector) : 0;
    m.payload = payload;
    m.payload_len = payload ? strlen(payload) : 0;
    return m;
}

static bool apply_in(uint64_t collection, uint64_t n, struct ap_mutation m)
{
    struct ap_key key = key_in(collection, n);
    bool changed;
    OK(ap_writer_apply(w, &key, &m, &changed, &err));
    return changed;
}

static bool put(uint64_t n, const char *vector)
{
    return apply_in(COLLECTION, n, mutation(AP_OP_UPSERT, ++hlc, vector, NULL));
}

static void begin(void)
{
    OK(ap_writer_begin(w, &err));
}

static void commit(void)
{
    OK(ap_writer_commit(w, &err));
}

static struct ap_snapshot *snapshot(void)
{
    struct ap_snapshot *s;
    OK(ap_snapshot_begin(store, &s, &err));
    return s;
}

/* --- the whole content, found by a scan: the newest slot of each key --- */

struct found { struct ap_key key; uint64_t slot, checksum; char vector[24]; bool live; };
struct content { struct found *list; size_t count, cap; uint64_t last_slot; };

static int collect(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct content *c = arg;
    ck_assert_uint_gt(slot, c->last_slot);
    c->last_slot = slot;
    struct ap_row verified;
    if (ap_row_read(row->bytes, row->len, 1, &verified, NULL) != 0)
        return 0;
    if (c->count == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 256;
        c->list = realloc(c->list, c->cap * sizeof *c->list);
    }
    struct found *f = &c->list[c->count++];
    memset(f, 0, sizeof *f);
    f->key = row->key;
    f->slot = slot;
    f->checksum = row->checksum;
    f->live = ap_row_is_live(row);
    memcpy(f->vector, row->vector ? (const char *)row->vector : "", row->vector_len < 23 ? row->vector_len : 23);
    return 0;
}

static int by_key_newest_first(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    int c = memcmp(x->key.b, y->key.b, sizeof x->key.b);
    return c ? c : (x->slot < y->slot) - (x->slot > y->slot);
}

static struct content content_of(const struct ap_snapshot *s)
{
    struct content c = {0};
    OK(ap_snapshot_scan(s, 0, collect, &c, &err));
    if (c.count)
        qsort(c.list, c.count, sizeof *c.list, by_key_newest_first);
    size_t kept = 0;
    for (size_t i = 0; i < c.count; i++)
        if (i == 0 || memcmp(c.list[i].key.b, c.list[kept - 1].key.b, sizeof c.list[i].key.b) != 0)
            c.list[kept++] = c.list[i];
    c.count = kept;
    return c;
}

static const struct found *find(const struct content *c, uint64_t n)
{
    struct ap_key key = key_in(COLLECTION, n);
    for (size_t i = 0; i < c->count; i++)
        if (memcmp(c->list[i].key.b, key.b, sizeof key.b) == 0)
            return &c->list[i];
    return NULL;
}

/* Digests of every bucket equal what the rows give. */
static void check_digests(const struct ap_snapshot *s, const struct content *c, uint64_t collection)
{
    static struct ap_digest want[AP_DIGEST_BUCKETS], got[AP_DIGEST_BUCKETS];
    memset(want, 0, sizeof want);
    for (size_t i = 0; i < c->count; i++)
        if (ap_key_collection(&c->list[i].key) == collection) {
            uint32_t bucket = ap_digest_bucket(&c->list[i].key);
            ck_assert_uint_lt(bucket, AP_DIGEST_BUCKETS);
            want[bucket].sum += c->list[i].checksum;
            want[bucket].rows++;
        }
    OK(ap_snapshot_digests(s, collection, got, &err));
    ck_assert_mem_eq(got, want, sizeof want);
    struct ap_digest one;
    OK(ap_snapshot_digest(s, collection, 4095, &one, &err));
    ck_assert_mem_eq(&one, &want[4095], sizeof one);
}

static void check_all(void)
{
    struct ap_snapshot *s = snapshot();
    struct content c = content_of(s);
    struct ap_store_stats stats;
    check_digests(s, &c, COLLECTION);
    check_digests(s, &c, COLLECTION + 1);
    ap_snapshot_end(&s);
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_eq(stats.rows, c.count);
    free(c.list);
}

static void expect(uint64_t n, const char *vector)
{
    struct ap_snapshot *s = snapshot();
    struct content c = content_of(s);
    const struct found *f = find(&c, n);
    if (vector) {
        ck_assert_ptr_nonnull(f);
        ck_assert(f->live);
        ck_assert_str_eq(f->vector, vector);
    } else {
        ck_assert(!f || !f->live);
    }
    free(c.list);
    ap_snapshot_end(&s);
}

/* --- opening --- */

START_TEST(a_new_store_is_empty)
{
    struct ap_store_stats stats;
    struct ap_snapshot *s = snapshot();
    ck_assert_uint_eq(ap_snapshot_next_slot(s), 1);
    ck_assert_uint_eq(ap_snapshot_first_slot(s), 1);
    struct ap_row row;
    ck_assert_int_eq(ap_snapshot_row(s, 1, &row, &err), AP_ENOTFOUND);
    ap_snapshot_end(&s);
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_eq(stats.rows, 0);
    ck_assert_uint_gt(stats.file_bytes, 0);
    check_all();
}
END_TEST

START_TEST(what_was_committed_is_there_again)
{
    begin();
    ck_assert(put(1, "one"));
    ck_assert(put(2, "two"));
    ck_assert(put(1, "uno"));
    ck_assert(!apply_in(COLLECTION, 1, mutation(AP_OP_UPSERT, 5, "older", NULL)));
    ck_assert(apply_in(COLLECTION, 2, mutation(AP_OP_DELETE, ++hlc, NULL, NULL)));
    ck_assert_uint_eq(ap_writer_next_slot(w), 5);
    commit();
    for (int i = 0; i < 3; i++) {
        expect(1, "uno");
        expect(2, NULL);
        check_all();
        uint64_t id = ap_store_id(store);
        close_store();
        open_store();
        ck_assert_uint_eq(ap_store_id(store), id);
        ck_assert_uint_eq(ap_writer_next_slot(w), 5);
    }
    begin();
    ck_assert(!apply_in(COLLECTION, 1, mutation(AP_OP_UPSERT, 5, "older", NULL)));
    ck_assert(!apply_in(COLLECTION, 2, mutation(AP_OP_UPSERT, 5, "older", NULL)));
    ck_assert(put(1, "une"));
    commit();
    expect(1, "une");
}
END_TEST

START_TEST(what_was_not_committed_is_not)
{
    begin();
    put(1, "one");
    commit();
    begin();
    put(1, "gone");
    put(2, "gone");
    close_store();
    open_store();
    expect(1, "one");
    expect(2, NULL);
    check_all();
}
END_TEST

START_TEST(a_bad_patch_changes_nothing_and_is_not_fatal)
{
    struct ap_key key = key_in(COLLECTION, 1);
    bool changed = true;
    begin();
    put(1, "one");
    struct ap_mutation m = mutation(AP_OP_PATCH, ++hlc, NULL, "{\"no\":1}");
    ck_assert_int_eq(ap_writer_apply(w, &key, &m, &changed, &err), AP_EINVAL);
    ck_assert_int_eq(err.cls, AP_POISON);
    ck_assert(!changed);
    ck_assert(put(2, "two"));
    commit();
    expect(1, "one");
    expect(2, "two");
}
END_TEST

START_TEST(another_region_or_worker_is_refused)
{
    struct ap_store *other;
    close_store();
    struct ap_store_options o = options(false);
    o.region = "us";
    ck_assert_int_eq(ap_store_open(&other, &o, &err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(err.msg, "belongs to region 'eu', not 'us'"));
    ck_assert_int_eq(err.cls, AP_FATAL);
    o = options(true);
    o.workers = 2;
    ck_assert_int_eq(ap_store_open(&other, &o, &err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(err.msg, "worker 0 of 1, not 0 of 2"));
    ck_assert_ptr_null(other);
    open_store();
}
END_TEST

START_TEST(a_reader_waits_for_the_writer_to_make_it)
{
    struct ap_store *reader;
    struct ap_store_options o = options(true);
    char real[128];
    close_store();
    strcpy(real, path);
    snprintf(path, sizeof path, "%s/later", root);
    ck_assert_int_eq(ap_store_open(&reader, &o, &err), AP_ENOTREADY);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(ap_store_open(&reader, &o, &err), AP_ENOTREADY);
    char file[160];
    snprintf(file, sizeof file, "%s/data.mdb", path);
    close(open(file, O_CREAT | O_WRONLY, 0600));
    ck_assert_int_eq(ap_store_open(&reader, &o, &err), AP_ENOTREADY);
    open_store();
    begin();
    put(1, "one");
    commit();
    close_store();
    OK(ap_store_open(&reader, &o, &err));
    struct ap_snapshot *s;
    struct ap_row row;
    OK(ap_snapshot_begin(reader, &s, &err));
    OK(ap_snapshot_row(s, 1, &row, &err));
    ck_assert_mem_eq(row.vector, "one", 3);
    ap_snapshot_end(&s);
    ap_store_close(&reader);
    remove_folder();
    ck_assert_int_eq(errno == 0 || errno == ENOTEMPTY, 1); /* root still holds the other */
    strcpy(path, real);
    open_store();
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
        struct ap_store_options o = options(false);
        int rc = ap_store_open(&s, &o, &err);
        rc = rc ? rc : ap_writer_open(&second, s, NULL, NULL, &err);
        _exit(rc == AP_EBUSY && strstr(err.msg, want) ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    close_store();
    open_store();
}
END_TEST

START_TEST(a_file_that_is_no_store_says_so)
{
    char file[160];
    close_store();
    snprintf(file, sizeof file, "%s/data.mdb", path);
    int fd = open(file, O_WRONLY | O_TRUNC);
    for (int i = 0; i < 4096; i++)
        ck_assert_int_eq(write(fd, "garbage ", 8), 8);
    close(fd);
    struct ap_store_options o = options(false);
    ck_assert_int_eq(ap_store_open(&store, &o, &err), AP_ECORRUPT);
    ck_assert_ptr_nonnull(strstr(err.msg, "damaged"));
    ck_assert_ptr_nonnull(strstr(err.msg, path));
}
END_TEST

START_TEST(a_folder_that_cannot_be_made_says_so)
{
    struct ap_store *other;
    struct ap_store_options o = options(false);
    o.path = "/nonexistent/deeper/store";
    ck_assert_int_eq(ap_store_open(&other, &o, &err), AP_EIO);
    ck_assert_ptr_nonnull(strstr(err.msg, "/nonexistent/deeper/store"));
    o.worker = 3;
    ck_assert_int_eq(ap_store_open(&other, &o, &err), AP_EINVAL);
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
    ck_assert_int_eq(ap_writer_get_offset(w, "c1", a, 0, &next, &err), AP_ENOTFOUND);
    begin();
    OK(ap_writer_put_offset(w, "c1", a, "us.vec-mutations", 3, 17, &err));
    OK(ap_writer_put_offset(w, "c1", a, "us.vec-mutations", 4, 18, &err));
    OK(ap_writer_put_offset(w, "c1", a, "us.vec-mutations", 3, 19, &err));
    OK(ap_writer_get_offset(w, "c1", a, 3, &next, &err));
    ck_assert_int_eq(next, 19);
    commit();
    close_store();
    open_store();
    OK(ap_writer_get_offset(w, "c1", a, 3, &next, &err));
    ck_assert_int_eq(next, 19);
    ck_assert_int_eq(ap_writer_get_offset(w, "c1", b, 3, &next, &err), AP_ENOTFOUND);
    ck_assert_int_eq(ap_writer_get_offset(w, "c2", a, 3, &next, &err), AP_ENOTFOUND);
    ck_assert_int_eq(ap_writer_get_offset(w, "c1", a, 5, &next, &err), AP_ENOTFOUND);
    struct ap_snapshot *s = snapshot();
    OK(ap_snapshot_offsets(s, print_offset, &text, &err));
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
    begin();
    OK(ap_writer_put_control(w, &us, "collection/a", 12, "1", 1, &err));
    OK(ap_writer_put_control(w, &eu, "collection/a", 12, "2", 1, &err));
    OK(ap_writer_put_control(w, &us, "collection/a", 12, "3", 1, &err));
    OK(ap_writer_put_control(w, &us, "region/us", 9, "4", 1, &err));
    memset(long_key, 'k', sizeof long_key - 1);
    ck_assert_int_eq(ap_writer_put_control(w, &us, long_key, 599, "5", 1, &err), AP_EINVAL);
    commit();
    struct ap_snapshot *s = snapshot();
    uint64_t version = ap_snapshot_control_version(s);
    OK(ap_snapshot_control(s, count_control, &text, &err));
    ck_assert_str_eq((char *)text.data, "eu/collection/a=2 us/collection/a=3 us/region/us=4 ");
    ap_snapshot_end(&s);
    begin();
    put(1, "x");
    commit();
    s = snapshot();
    ck_assert_uint_eq(ap_snapshot_control_version(s), version);
    ap_snapshot_end(&s);
    close_store();
    open_store();
    begin();
    OK(ap_writer_put_control(w, &us, "collection/a", 12, NULL, 0, &err)); /* a Kafka tombstone */
    commit();
    s = snapshot();
    ck_assert_uint_gt(ap_snapshot_control_version(s), version);
    ap_buf_clear(&text);
    OK(ap_snapshot_control(s, count_control, &text, &err));
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
    begin();
    ap_positions_note(ap_writer_positions(w), &us, 1001, "vec-mutations", 2, 1, 10);
    ap_positions_note(ap_writer_positions(w), &us, 1001, "vec-mutations", 2, 2, 20);
    ap_positions_note(ap_writer_positions(w), &us, 1001, "vec-mutations", 2, 5, 50);
    commit();
    begin();
    ap_positions_note(ap_writer_positions(w), &us, 1001, "vec-mutations", 2, 3, 30);
    close_store(); /* not committed */
    open_store();
    ck_assert_int_eq(ap_positions_check(ap_writer_positions(w), 1001, "vec-mutations", 2, 2), AP_SEEN_DUPLICATE);
    ck_assert_int_eq(ap_positions_check(ap_writer_positions(w), 1001, "vec-mutations", 2, 3), AP_SEEN_LATE);
    ck_assert_int_eq(ap_positions_check(ap_writer_positions(w), 1001, "vec-mutations", 2, 6), AP_SEEN_NEW);
    struct ap_snapshot *s = snapshot();
    OK(ap_snapshot_positions(s, &list, &count, &err));
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

static uint64_t slot_of(uint64_t n)
{
    struct ap_snapshot *s = snapshot();
    struct content c = content_of(s);
    const struct found *f = find(&c, n);
    uint64_t slot = f ? f->slot : 0;
    free(c.list);
    ap_snapshot_end(&s);
    return slot;
}

static void expect_raw(uint64_t n, const char *raw)
{
    uint64_t slot = slot_of(n);
    struct ap_snapshot *s = snapshot();
    const uint8_t *vector;
    size_t len;
    int rc = ap_snapshot_raw(s, slot, &vector, &len);
    ck_assert_int_eq(rc, raw ? 0 : AP_ENOTFOUND);
    if (raw) {
        ck_assert_uint_eq(len, strlen(raw));
        ck_assert_mem_eq(vector, raw, len);
    }
    ap_snapshot_end(&s);
}

START_TEST(raw_vectors_belong_to_a_version)
{
    struct ap_key one = key_in(COLLECTION, 1), two = key_in(COLLECTION, 2), none = key_in(COLLECTION, 3);
    struct ap_mutation first = mutation(AP_OP_UPSERT, 50, "v", "{}"), second = mutation(AP_OP_UPSERT, 60, "v2", NULL);
    bool matched;
    begin();
    apply_in(COLLECTION, 1, first);
    apply_in(COLLECTION, 2, first);
    OK(ap_writer_raw(w, &two, &first.version, "raw two", 7, &matched, &err));
    ck_assert(matched);
    OK(ap_writer_raw(w, &one, &first.version, "raw one", 7, &matched, &err)); /* a lower slot, later */
    ck_assert(matched);
    OK(ap_writer_raw(w, &one, &second.version, "nobody's", 8, &matched, &err));
    ck_assert(!matched);
    OK(ap_writer_raw(w, &none, &first.version, "nobody's", 8, &matched, &err));
    ck_assert(!matched);
    commit();
    expect_raw(1, "raw one");
    expect_raw(2, "raw two");
    begin();
    apply_in(COLLECTION, 1, mutation(AP_OP_PATCH, 55, NULL, "{\"set\":{\"a\":1}}")); /* keeps the base */
    apply_in(COLLECTION, 2, second);
    commit();
    expect_raw(1, "raw one");
    expect_raw(2, NULL);
    begin();
    apply_in(COLLECTION, 1, mutation(AP_OP_DELETE, 55, NULL, NULL));
    OK(ap_writer_raw(w, &one, &first.version, "raw one", 7, &matched, &err));
    ck_assert(!matched);
    commit();
    expect_raw(1, NULL);
}
END_TEST

/* --- seen and waking --- */

START_TEST(seen_is_kept_and_checked)
{
    uint64_t seen = 9;
    OK(ap_store_seen_read(store, &seen));
    ck_assert_uint_eq(seen, 0);
    OK(ap_store_seen_write(store, 12345, &err));
    OK(ap_store_seen_read(store, &seen));
    ck_assert_uint_eq(seen, 12345);
    close_store();
    open_store();
    OK(ap_store_seen_read(store, &seen));
    ck_assert_uint_eq(seen, 12345);
    /* Half a write, and the file of another store. */
    char file[160];
    snprintf(file, sizeof file, "%s/seen", path);
    int fd = open(file, O_RDWR);
    ck_assert_int_eq(pwrite(fd, "\x01", 1, 0), 1);
    close(fd);
    OK(ap_store_seen_read(store, &seen));
    ck_assert_uint_eq(seen, 0);
    OK(ap_store_seen_write(store, 7, &err));
    close_store();
    snprintf(file, sizeof file, "%s/data.mdb", path);
    ck_assert_int_eq(unlink(file), 0);
    open_store();
    OK(ap_store_seen_read(store, &seen));
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
    begin();
    put(1, "nobody listens");
    commit();
    OK(ap_store_wake_listen(store, &fd, &err));
    ck_assert(!woken(fd));
    begin();
    put(1, "x");
    ck_assert(!woken(fd));
    commit();
    ck_assert(woken(fd));
    for (int i = 0; i < 600; i++) { /* more than its queue holds */
        begin();
        put(1, "y");
        commit();
    }
    ap_store_wake_drain(fd);
    ck_assert(!woken(fd));
    begin();
    commit(); /* nothing in it */
    ck_assert(!woken(fd));
    int second;
    OK(ap_store_wake_listen(store, &second, &err)); /* a new indexer */
    begin();
    put(1, "z");
    commit();
    ck_assert(woken(second));
    close(fd);
    close(second);
}
END_TEST

START_TEST(the_path_may_be_long)
{
    int fd;
    char real[128];
    close_store();
    strcpy(real, path);
    static char deep[256];
    snprintf(deep, sizeof deep, "%s/%0*d", root, 150, 0);
    struct ap_store_options o = options(false);
    o.path = deep;
    OK(ap_store_open(&store, &o, &err));
    OK(ap_writer_open(&w, store, NULL, NULL, &err));
    OK(ap_store_wake_listen(store, &fd, &err));
    begin();
    put(1, "x");
    commit();
    ck_assert(woken(fd));
    close(fd);
    close_store();
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", deep);
    ck_assert_int_eq(system(command), 0);
    open_store();
}
END_TEST

/* --- the cleaner --- */

static size_t clean(size_t max_rows, uint64_t seen)
{
    size_t dropped;
    begin();
    OK(ap_writer_clean(w, max_rows, seen, NULL, NULL, &dropped, &err));
    commit();
    return dropped;
}

static uint64_t last_slot(void)
{
    return ap_writer_next_slot(w) - 1;
}

START_TEST(the_cleaner_drops_dead_rows_and_keeps_the_rest)
{
    begin();
    for (uint64_t n = 0; n < 100; n++)
        put(n, "old");
    commit();
    ck_assert_uint_eq(clean(1000, last_slot()), 0);
    ck_assert_uint_eq(last_slot(), 100); /* nothing is dead */
    for (int round = 0; round < 5; round++) {
        begin();
        for (uint64_t n = 0; n < 90; n++)
            put(n, "new");
        commit();
    }
    /* 550 slots, 450 dead. Nobody has seen anything: nothing goes. */
    ck_assert_uint_eq(clean(1000, 0), 0);
    ck_assert_uint_eq(last_slot(), 550);
    /* No more is moved than was asked for, and what is not committed cannot have been seen. */
    size_t none;
    begin();
    OK(ap_writer_clean(w, 3, UINT64_MAX, NULL, NULL, &none, &err));
    ck_assert_uint_eq(none, 0);
    ck_assert_uint_eq(last_slot(), 550); /* its visits ended among the dead */
    OK(ap_writer_clean(w, 13, UINT64_MAX, NULL, NULL, &none, &err));
    OK(ap_writer_clean(w, 13, UINT64_MAX, NULL, NULL, &none, &err));
    ck_assert_uint_eq(none, 0);
    close_store(); /* not committed */
    open_store();
    begin();
    OK(ap_writer_clean(w, 15, 550, NULL, NULL, &none, &err));
    ck_assert_uint_eq(last_slot(), 550 + 10);
    close_store();
    open_store();
    begin();
    put(90, "last");
    OK(ap_writer_clean(w, 4, 550, NULL, NULL, &none, &err)); /* 32 visits */
    OK(ap_writer_clean(w, 4, 550, NULL, NULL, &none, &err));
    OK(ap_writer_clean(w, 4, 550, NULL, NULL, &none, &err));
    ck_assert_uint_eq(last_slot(), 551 + 4);
    close_store();
    open_store();
    /* The ten survivors of the first hundred are moved; their old slots stay until the copies were seen. */
    ck_assert_uint_eq(clean(1000, 540), 0);
    ck_assert_uint_gt(last_slot(), 550);
    expect(95, "old");
    struct ap_snapshot *s = snapshot();
    ck_assert_uint_eq(ap_snapshot_first_slot(s), 1);
    ap_snapshot_end(&s);
    ck_assert_uint_eq(clean(1000, last_slot() - 1), 0);
    size_t dropped = 0, most = 0;
    for (int i = 0; i < 20; i++) {
        size_t n = clean(10, last_slot());
        dropped += n;
        most = n > most ? n : most;
    }
    ck_assert_uint_ge(dropped, 450);
    ck_assert_uint_le(most, 80); /* a bounded piece of work a call */
    struct ap_store_stats stats;
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_eq(stats.rows, 100);
    ck_assert_uint_ge(stats.next_slot - stats.first_slot, 100);
    ck_assert_uint_le(stats.next_slot - stats.first_slot, 400);
    for (uint64_t n = 0; n < 100; n++)
        expect(n, n < 90 ? "new" : "old");
    check_all();
    close_store();
    open_store();
    check_all();
    begin();
    ck_assert(put(95, "newest"));
    commit();
    expect(95, "newest");
}
END_TEST

START_TEST(raw_vectors_move_with_their_rows)
{
    bool matched;
    char raw[32];
    begin();
    for (uint64_t n = 0; n < 50; n++) {
        put(n, "v");
        struct ap_key key = key_in(COLLECTION, n);
        struct ap_version v = {.hlc = hlc, .region = {"eu"}, .writer = 1};
        snprintf(raw, sizeof raw, "raw %d", (int)n);
        OK(ap_writer_raw(w, &key, &v, raw, strlen(raw), &matched, &err));
        ck_assert(matched);
    }
    commit();
    for (int round = 0; round < 10; round++) {
        begin();
        for (uint64_t n = 0; n < 40; n++)
            put(n, "w");
        commit();
        clean(100, last_slot());
    }
    struct ap_snapshot *s = snapshot();
    uint64_t first = ap_snapshot_first_slot(s);
    ck_assert_uint_gt(first, 50);
    const uint8_t *vector;
    size_t len;
    for (uint64_t slot = 1; slot < first; slot++)
        ck_assert_int_eq(ap_snapshot_raw(s, slot, &vector, &len), AP_ENOTFOUND);
    ap_snapshot_end(&s);
    for (uint64_t n = 0; n < 50; n++) {
        snprintf(raw, sizeof raw, "raw %d", (int)n);
        expect_raw(n, n < 40 ? NULL : raw);
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
    begin();
    for (uint64_t n = 0; n < 100; n++) {
        put(n, "stays");
        apply_in(COLLECTION + 1, n, mutation(AP_OP_UPSERT, ++hlc, "goes", NULL));
    }
    commit();
    check_all();
    for (int i = 0; i < 10; i++) {
        begin();
        OK(ap_writer_clean(w, 50, last_slot(), is_eight, NULL, &dropped, &err));
        commit();
    }
    check_all();
    struct ap_store_stats stats;
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_eq(stats.rows, 100);
    struct ap_snapshot *s = snapshot();
    static struct ap_digest digests[AP_DIGEST_BUCKETS], zero[AP_DIGEST_BUCKETS];
    OK(ap_snapshot_digests(s, COLLECTION + 1, digests, &err));
    ck_assert_mem_eq(digests, zero, sizeof zero);
    ap_snapshot_end(&s);
    expect(99, "stays");
}
END_TEST

START_TEST(an_emptied_log_keeps_its_numbers)
{
    size_t dropped;
    begin();
    for (uint64_t n = 0; n < 10; n++)
        apply_in(COLLECTION + 1, n, mutation(AP_OP_UPSERT, ++hlc, "goes", NULL));
    commit();
    for (int i = 0; i < 3; i++) {
        begin();
        OK(ap_writer_clean(w, 50, last_slot(), is_eight, NULL, &dropped, &err));
        commit();
    }
    struct ap_store_stats stats;
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_eq(stats.rows, 0);
    ck_assert_uint_eq(stats.first_slot, 11);
    ck_assert_uint_eq(stats.next_slot, 11);
    close_store();
    open_store();
    ck_assert_uint_eq(ap_writer_next_slot(w), 11);
    begin();
    put(1, "x");
    commit();
    ck_assert_uint_eq(slot_of(1), 11);
}
END_TEST

/* A reader follows the log by slot while rows are overwritten and cleaned; what it holds for current is never missing. */
struct follower { _Atomic bool stop; uint64_t reads; };

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
        if (ap_snapshot_begin(store, &s, &why) != 0)
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
        if (ap_store_seen_write(store, next - 1, &why) != 0)
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
    for (int64_t end = ap_mono_ms() + 2000; ap_mono_ms() < end;) {
        size_t n;
        uint64_t seen;
        OK(ap_store_seen_read(store, &seen));
        begin();
        for (int i = 0; i < 50; i++)
            put((uint64_t)lrand48() % 200, "v");
        OK(ap_writer_clean(w, 50, seen, NULL, NULL, &n, &err));
        commit();
        dropped += n;
    }
    f.stop = true;
    void *bad;
    pthread_join(thread, &bad);
    ck_assert_msg(bad == NULL, "%s", (char *)bad);
    ck_assert_uint_gt(f.reads, 1000);
    ck_assert_uint_gt(dropped, 1000);
    check_all();
    struct ap_store_stats stats;
    OK(ap_store_stats(store, &stats, &err));
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
        begin();
        for (int i = 0; i < 40; i++) {
            uint64_t n = (uint64_t)lrand48() % 300, at = 1 + (uint64_t)lrand48() % 5000;
            char vector[24];
            bool deletes = lrand48() % 5 == 0;
            snprintf(vector, sizeof vector, "%llu", (unsigned long long)at);
            bool want = at > model[n].hlc || (at == model[n].hlc && deletes && model[n].live);
            bool changed = apply_in(COLLECTION, n, mutation(deletes ? AP_OP_DELETE : AP_OP_UPSERT, at, deletes ? NULL : vector, NULL));
            ck_assert_int_eq(changed, want);
            if (want) {
                model[n].hlc = at;
                model[n].live = !deletes;
            }
        }
        size_t dropped;
        if (lrand48() % 2)
            OK(ap_writer_clean(w, 30, last_slot(), NULL, NULL, &dropped, &err));
        if (lrand48() % 10 == 0) {
            close_store(); /* the batch is lost */
            open_store();
            memcpy(model, committed, sizeof model);
        } else {
            commit();
            memcpy(committed, model, sizeof model);
        }
        if (batch % 20)
            continue;
        struct ap_snapshot *s = snapshot();
        struct content c = content_of(s);
        for (uint64_t n = 0; n < 300; n++) {
            const struct found *f = find(&c, n);
            ck_assert_int_eq(f != NULL, committed[n].hlc != 0);
            if (!f)
                continue;
            ck_assert_int_eq(f->live, committed[n].live);
            if (f->live)
                ck_assert_uint_eq(strtoull(f->vector, NULL, 10), committed[n].hlc);
        }
        free(c.list);
        ap_snapshot_end(&s);
        check_all();
    }
}
END_TEST

/* --- damage --- */

/* Change a byte of the row whose vector is text, in the file, as a bad disk would. */
static void flip(const char *text, long back)
{
    char file[160];
    snprintf(file, sizeof file, "%s/data.mdb", path);
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
            struct ap_mutation m = mutation(AP_OP_UPSERT, ++hlc, "the damaged one", NULL);
            begin();
            apply_in(COLLECTION, 1, m);
            put(2, "another");
            commit();
            check_all();
            /* A damaged key is found by the scan at the next start only. */
            if (!reopen && where[i] == AP_ROW_HEADER - 24)
                continue;
            if (reopen)
                close_store();
            flip("the damaged one", where[i]);
            if (reopen)
                open_store();
            begin();
            ck_assert(apply_in(COLLECTION, 1, m)); /* the very same change puts it right */
            commit();
            expect(1, "the damaged one");
            check_all();
            begin();
            ck_assert(!apply_in(COLLECTION, 1, m));
            /* So that the text is not found a second time. */
            ck_assert(put(1, "xxx"));
            for (int k = 0; k < 3; k++)
                put(2, "another");
            commit();
            clean(100, last_slot());
            clean(100, last_slot());
            close_store();
            remove_folder();
            make_folder();
            open_store();
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
    ck_assert_int_eq(mdb_env_set_mapsize(env, MAP), 0);
    ck_assert_int_eq(mdb_env_set_maxdbs(env, 8), 0);
    ck_assert_int_eq(mdb_env_open(env, path, 0, 0600), 0);
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
    begin();
    for (uint64_t n = 0; n < 100; n++)
        put(n, "v");
    commit();
    for (int i = 0; i < 2; i++) {
        close_store();
        if (i == 0)
            meddle("digests", 0, spoil_digests);
        else
            meddle("log", MDB_INTEGERKEY, lose_a_row);
        open_store();
        begin();
        commit();
        check_all();
        struct ap_snapshot *s = snapshot();
        OK(ap_snapshot_digests(s, UINT64_C(0x7f) << 56, digests, &err));
        ck_assert_mem_eq(digests, zero, sizeof zero);
        ap_snapshot_end(&s);
    }
    begin();
    put(1000, "w");
    commit();
    check_all();
}
END_TEST

/* --- a full map, a full disk --- */

START_TEST(a_full_map_is_fatal_and_says_what_to_do)
{
    close_store();
    remove_folder();
    make_folder();
    struct ap_store_options o = options(false);
    o.map_bytes = 1 << 20;
    OK(ap_store_open(&store, &o, &err));
    OK(ap_writer_open(&w, store, NULL, NULL, &err));
    uint64_t committed = 0, n = 0;
    static char vector[1001];
    memset(vector, 'v', 1000);
    int rc = 0;
    while (rc == 0) {
        rc = ap_writer_begin(w, &err);
        for (int i = 0; i < 10 && rc == 0; i++) {
            struct ap_key key = key_in(COLLECTION, n++);
            struct ap_mutation m = mutation(AP_OP_UPSERT, ++hlc, vector, NULL);
            bool changed;
            rc = ap_writer_apply(w, &key, &m, &changed, &err);
        }
        if (rc == 0)
            rc = ap_writer_commit(w, &err);
        if (rc == 0)
            committed = n;
    }
    ck_assert_int_eq(rc, AP_ENOSPC);
    ck_assert_int_eq(err.cls, AP_FATAL);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_ptr_nonnull(strstr(err.msg, "raise the map size"));
    ck_assert_uint_gt(committed, 100);
    /* It stays failed, */
    ck_assert_int_ne(ap_writer_commit(w, &err), 0);
    ck_assert_int_eq(err.cls, AP_FATAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "open the writer anew"));
    close_store();
    /* and a larger map finds everything that was committed. */
    open_store();
    struct ap_store_stats stats;
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_eq(stats.rows, committed);
    check_all();
    begin();
    put(1, "x");
    commit();
}
END_TEST

/* A file size limit stands for a full disk: the write of a page fails in the middle of a commit. */
START_TEST(a_full_disk_is_fatal_and_loses_nothing_committed)
{
    close_store();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct ap_store_options o = options(false);
        signal(SIGXFSZ, SIG_IGN);
        int rc = ap_store_open(&store, &o, &err);
        rc = rc ? rc : ap_writer_open(&w, store, NULL, NULL, &err);
        for (uint64_t n = 0; rc == 0; n++) {
            if (n == 50) {
                struct rlimit limit = {2 << 20, 2 << 20};
                setrlimit(RLIMIT_FSIZE, &limit);
            }
            rc = ap_writer_begin(w, &err);
            for (uint64_t i = 0; i < 100 && rc == 0; i++) {
                struct ap_key key = key_in(COLLECTION, n * 100 + i);
                struct ap_mutation m = mutation(AP_OP_UPSERT, ++hlc, "v", NULL);
                bool changed;
                rc = ap_writer_apply(w, &key, &m, &changed, &err);
            }
            rc = rc ? rc : ap_writer_commit(w, &err);
        }
        _exit(rc == AP_ENOSPC && err.cls == AP_FATAL && strstr(err.msg, path) && strstr(err.msg, "free space") ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    open_store();
    struct ap_store_stats stats;
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_ge(stats.rows, 1000);
    ck_assert_uint_eq(stats.rows % 100, 0); /* whole batches */
    check_all();
}
END_TEST

/* Batches until one fails, on a disk of so many pages that nobody else sees. Exit code 77: it may not be mounted. */
static void fill_a_disk(size_t pages)
{
    char size[64];
    snprintf(size, sizeof size, "size=%zu", pages * 4096);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("none", path, "tmpfs", 0, size) != 0)
        _exit(77);
    struct ap_store_options o = options(false);
    int rc = ap_store_open(&store, &o, &err);
    rc = rc ? rc : ap_writer_open(&w, store, NULL, NULL, &err);
    for (uint64_t n = 0; rc == 0; n++) {
        rc = ap_writer_begin(w, &err);
        for (uint64_t i = 0; i < 100 && rc == 0; i++) {
            struct ap_key key = key_in(COLLECTION, n * 100 + i);
            struct ap_mutation m = mutation(AP_OP_UPSERT, ++hlc, "v", NULL);
            bool changed;
            rc = ap_writer_apply(w, &key, &m, &changed, &err);
        }
        rc = rc ? rc : ap_writer_commit(w, &err);
    }
    if (rc != AP_ENOSPC || err.cls != AP_FATAL || !strstr(err.msg, "free space there"))
        fprintf(stderr, "%zu pages: %d, %s\n", pages, rc, err.msg);
    _exit(rc == AP_ENOSPC && err.cls == AP_FATAL && strstr(err.msg, "free space there") ? 0 : 1);
}

/* The last pages of a disk are taken by a write that comes short, after which there is no error to be seen. */
START_TEST(a_disk_is_full_wherever_a_write_comes_short)
{
    close_store();
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
    open_store();
}
END_TEST

/* --- kill -9 --- */

/* Batch b sets points b*7 .. b*7+19 (mod 500), the position to b, the offset to b, and cleans. So any state that is found
 * afterwards says how many batches it holds, in four ways. */
static void write_for_ever(int report)
{
    struct ap_store_options o = options(false);
    const uint8_t topic[16] = {1};
    const struct ap_region eu = {"eu"};
    int64_t done = 0;
    int rc = ap_store_open(&store, &o, &err);
    rc = rc ? rc : ap_writer_open(&w, store, NULL, NULL, &err);
    if (rc == 0 && ap_writer_get_offset(w, "c", topic, 0, &done, &err) == AP_ENOTFOUND)
        done = 0;
    for (uint64_t b = (uint64_t)done + 1; rc == 0; b++) {
        size_t dropped;
        rc = ap_writer_begin(w, &err);
        for (uint64_t i = 0; i < 20 && rc == 0; i++) {
            struct ap_key key = key_in(COLLECTION, (b * 7 + i) % 500);
            char vector[24];
            bool changed;
            snprintf(vector, sizeof vector, "%llu", (unsigned long long)b);
            struct ap_mutation m = mutation(AP_OP_UPSERT, b * 100 + i, vector, NULL);
            rc = ap_writer_apply(w, &key, &m, &changed, &err);
            if (rc == 0 && i % 2 == 0) {
                bool matched;
                rc = ap_writer_raw(w, &key, &m.version, vector, strlen(vector), &matched, &err);
            }
        }
        ap_positions_note(ap_writer_positions(w), &eu, 1001, "vec-mutations", 0, b, b);
        rc = rc ? rc : ap_writer_put_offset(w, "c", topic, "vec-mutations", 0, (int64_t)b, &err);
        rc = rc ? rc : ap_writer_clean(w, 40, ap_writer_next_slot(w) - 1, NULL, NULL, &dropped, &err);
        rc = rc ? rc : ap_writer_commit(w, &err);
        if (rc == 0 && write(report, &b, sizeof b) != (ssize_t)sizeof b)
            _exit(2);
    }
    fprintf(stderr, "%s\n", err.msg);
    _exit(1);
}

static void check_batches(uint64_t reported)
{
    const uint8_t topic[16] = {1};
    int64_t offset = 0;
    struct ap_position *list;
    size_t count;
    int rc = ap_writer_get_offset(w, "c", topic, 0, &offset, &err);
    ck_assert(rc == 0 || (rc == AP_ENOTFOUND && reported == 0));
    /* What was reported is there; at most one batch more was committed before the report. */
    ck_assert_uint_ge((uint64_t)offset, reported);
    ck_assert_uint_le((uint64_t)offset, reported + 1);
    struct ap_snapshot *s = snapshot();
    OK(ap_snapshot_positions(s, &list, &count, &err));
    ck_assert_uint_eq(count, offset ? 1 : 0);
    if (count)
        ck_assert_uint_eq(list[0].mark, (uint64_t)offset);
    free(list);
    static uint64_t last[500];
    memset(last, 0, sizeof last);
    for (uint64_t b = 1; b <= (uint64_t)offset; b++)
        for (uint64_t i = 0; i < 20; i++)
            last[(b * 7 + i) % 500] = b;
    struct content c = content_of(s);
    for (uint64_t n = 0; n < 500; n++) {
        const struct found *f = find(&c, n);
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
    check_all();
}

START_TEST(kill_at_any_moment)
{
    uint64_t seed = (uint64_t)time(NULL), reported = 0;
    printf("kill_at_any_moment: seed %llu\n", (unsigned long long)seed);
    srand48((long)seed);
    close_store();
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
        open_store();
        check_batches(reported);
        const uint8_t topic[16] = {1};
        int64_t offset;
        OK(ap_writer_get_offset(w, "c", topic, 0, &offset, &err));
        reported = (uint64_t)offset;
        close_store();
    }
    open_store();
}
END_TEST

/* Another process reads while this one writes, then dies with a snapshot open: its slot is freed, or no page that it saw
 * could ever be used again. */
static void read_for_ever(int report)
{
    struct ap_store_options o = options(true);
    if (ap_store_open(&store, &o, &err) != 0)
        _exit(1);
    for (uint64_t round = 1;; round++) {
        struct ap_snapshot *s = snapshot();
        struct content c = content_of(s);
        check_digests(s, &c, COLLECTION);
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
    begin();
    put(1, "x");
    commit();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        read_for_ever(report[1]);
    close(report[1]);
    struct pollfd ready = {.fd = report[0], .events = POLLIN};
    struct ap_store_stats stats;
    while (poll(&ready, 1, 0) == 0) {
        begin();
        for (int i = 0; i < 100; i++)
            put((uint64_t)lrand48() % 1000, "v");
        commit();
    }
    uint64_t round = 0;
    ck_assert_int_eq(read(report[0], &round, sizeof round), sizeof round);
    close(report[0]);
    kill(child, SIGKILL);
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ap_writer_close(&w); /* opening looks for dead readers, as does a commit every 5 s */
    OK(ap_writer_open(&w, store, NULL, NULL, &err));
    OK(ap_store_stats(store, &stats, &err));
    uint64_t before = stats.file_bytes;
    for (int batch = 0; batch < 150; batch++) {
        size_t dropped;
        begin();
        for (int i = 0; i < 1000; i++)
            put((uint64_t)i, "v");
        OK(ap_writer_clean(w, 1000, last_slot() - 1000, NULL, NULL, &dropped, &err));
        commit();
    }
    OK(ap_store_stats(store, &stats, &err));
    ck_assert_uint_lt(stats.file_bytes, before + (4 << 20));
    check_all();
}
END_TEST

START_TEST(snapshots_are_used_again)
{
    struct ap_snapshot *all[200];
    begin();
    put(1, "one");
    commit();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 200; i++)
            all[i] = snapshot();
        for (int i = 0; i < 200; i++)
            ap_snapshot_end(&all[i]);
    }
    struct ap_snapshot *old = snapshot();
    begin();
    put(1, "two");
    commit();
    struct ap_row row;
    ck_assert_uint_eq(ap_snapshot_next_slot(old), 2);
    ck_assert_int_eq(ap_snapshot_row(old, 2, &row, &err), AP_ENOTFOUND);
    ap_snapshot_end(&old);
    ck_assert_ptr_null(old);
    expect(1, "two");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");
    ap_log_init("unit", AP_LOG_ERROR + 1, NULL, NULL); /* damage is logged, and here it is on purpose */
    tcase_set_timeout(t, 55);
    tcase_add_checked_fixture(t, setup, teardown);
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
    tcase_add_test(t, the_cleaner_drops_dead_rows_and_keeps_the_rest);
    tcase_add_test(t, raw_vectors_move_with_their_rows);
    tcase_add_test(t, a_dead_collection_goes_entirely);
    tcase_add_test(t, an_emptied_log_keeps_its_numbers);
    tcase_add_test(t, the_cleaner_beside_a_reader);
    tcase_add_test(t, random_batches_equal_a_model);
    tcase_add_test(t, a_damaged_row_counts_as_never_written);
    tcase_add_test(t, wrong_digests_are_counted_anew_at_the_start);
    tcase_add_test(t, a_full_map_is_fatal_and_says_what_to_do);
    tcase_add_test(t, a_full_disk_is_fatal_and_loses_nothing_committed);
    tcase_add_test(t, a_disk_is_full_wherever_a_write_comes_short);
    tcase_add_test(t, kill_at_any_moment);
    tcase_add_test(t, a_reader_that_dies_holds_nothing_back);
    tcase_add_test(t, snapshots_are_used_again);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
