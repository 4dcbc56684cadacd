/* See store_rig.h. */
#include "store_rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char st_root[64], st_path[128];
struct ap_store *st_store;
struct ap_writer *st_writer;
struct ap_err st_err;
uint64_t st_hlc;

struct ap_store_options st_options(bool read_only)
{
    return (struct ap_store_options){.path = st_path, .map_bytes = ST_MAP_BYTES, .region = "eu", .worker = 0, .workers = 1, .read_only = read_only};
}

void st_open(void)
{
    struct ap_store_options o = st_options(false);
    OK(ap_store_open(&st_store, &o, &st_err));
    OK(ap_writer_open(&st_writer, st_store, NULL, NULL, &st_err));
}

void st_close(void)
{
    ap_writer_close(&st_writer);
    ap_store_close(&st_store);
}

void st_make_folder(void)
{
    strcpy(st_root, "/tmp/antipode-test-store-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(st_root));
    snprintf(st_path, sizeof st_path, "%s/store", st_root);
    st_hlc = 1000;
    st_writer = NULL;
    st_store = NULL;
}

void st_remove_folder(void)
{
    DIR *dir = opendir(st_path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(st_path);
    rmdir(st_root);
}

void st_setup(void)
{
    st_make_folder();
    st_open();
}

void st_teardown(void)
{
    st_close();
    st_remove_folder();
}

struct ap_key st_key(uint64_t collection, uint64_t n)
{
    struct ap_point_id id;
    struct ap_key key;
    ap_point_id_from_u64(n, &id);
    ap_key_make(collection, &id, &key);
    return key;
}

struct ap_mutation st_mutation(enum ap_op op, uint64_t at, const char *vector, const char *payload)
{
    struct ap_mutation m = {.op = op, .version = {.hlc = at, .region = {"eu"}, .writer = 1}, .stream = 1, .seq = at, .clock = at};
    m.vector = (const uint8_t *)vector;
    m.vector_len = vector ? strlen(vector) : 0;
    m.payload = payload;
    m.payload_len = payload ? strlen(payload) : 0;
    return m;
}

bool st_apply(uint64_t collection, uint64_t n, struct ap_mutation m)
{
    struct ap_key key = st_key(collection, n);
    bool changed;
    OK(ap_writer_apply(st_writer, &key, &m, &changed, &st_err));
    return changed;
}

bool st_put(uint64_t n, const char *vector)
{
    return st_apply(COLLECTION, n, st_mutation(AP_OP_UPSERT, ++st_hlc, vector, NULL));
}

void st_begin(void)
{
    OK(ap_writer_begin(st_writer, &st_err));
}

void st_commit(void)
{
    OK(ap_writer_commit(st_writer, &st_err));
}

struct ap_snapshot *st_snapshot(void)
{
    struct ap_snapshot *s;
    OK(ap_snapshot_begin(st_store, &s, &st_err));
    return s;
}

/* --- the whole content, found by a scan: the newest slot of each key --- */


static int collect(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct st_content *c = arg;
    ck_assert_uint_gt(slot, c->last_slot);
    c->last_slot = slot;
    struct ap_row verified;
    if (ap_row_read(row->bytes, row->len, 1, &verified, NULL) != 0)
        return 0;
    if (c->count == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 256;
        c->list = realloc(c->list, c->cap * sizeof *c->list);
    }
    struct st_found *f = &c->list[c->count++];
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
    const struct st_found *x = a, *y = b;
    int c = memcmp(x->key.b, y->key.b, sizeof x->key.b);
    return c ? c : (x->slot < y->slot) - (x->slot > y->slot);
}

struct st_content st_content_of(const struct ap_snapshot *s)
{
    struct st_content c = {0};
    OK(ap_snapshot_scan(s, 0, collect, &c, &st_err));
    if (c.count)
        qsort(c.list, c.count, sizeof *c.list, by_key_newest_first);
    size_t kept = 0;
    for (size_t i = 0; i < c.count; i++)
        if (i == 0 || memcmp(c.list[i].key.b, c.list[kept - 1].key.b, sizeof c.list[i].key.b) != 0)
            c.list[kept++] = c.list[i];
    c.count = kept;
    return c;
}

const struct st_found *st_find(const struct st_content *c, uint64_t n)
{
    struct ap_key key = st_key(COLLECTION, n);
    for (size_t i = 0; i < c->count; i++)
        if (memcmp(c->list[i].key.b, key.b, sizeof key.b) == 0)
            return &c->list[i];
    return NULL;
}

/* Digests of every bucket equal what the rows give. */
void st_check_digests(const struct ap_snapshot *s, const struct st_content *c, uint64_t collection)
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
    OK(ap_snapshot_digests(s, collection, got, &st_err));
    ck_assert_mem_eq(got, want, sizeof want);
    struct ap_digest one;
    OK(ap_snapshot_digest(s, collection, 4095, &one, &st_err));
    ck_assert_mem_eq(&one, &want[4095], sizeof one);
}

void st_check_all(void)
{
    struct ap_snapshot *s = st_snapshot();
    struct st_content c = st_content_of(s);
    struct ap_store_stats stats;
    st_check_digests(s, &c, COLLECTION);
    st_check_digests(s, &c, COLLECTION + 1);
    ap_snapshot_end(&s);
    OK(ap_store_stats(st_store, &stats, &st_err));
    ck_assert_uint_eq(stats.rows, c.count);
    free(c.list);
}

void st_expect(uint64_t n, const char *vector)
{
    struct ap_snapshot *s = st_snapshot();
    struct st_content c = st_content_of(s);
    const struct st_found *f = st_find(&c, n);
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

uint64_t st_slot_of(uint64_t n)
{
    struct ap_snapshot *s = st_snapshot();
    struct st_content c = st_content_of(s);
    const struct st_found *f = st_find(&c, n);
    uint64_t slot = f ? f->slot : 0;
    free(c.list);
    ap_snapshot_end(&s);
    return slot;
}

void st_expect_raw(uint64_t n, const char *raw)
{
    uint64_t slot = st_slot_of(n);
    struct ap_snapshot *s = st_snapshot();
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

size_t st_clean(size_t max_rows, uint64_t seen)
{
    size_t dropped;
    st_begin();
    OK(ap_writer_clean(st_writer, max_rows, seen, NULL, NULL, &dropped, &st_err));
    st_commit();
    return dropped;
}

uint64_t st_last_slot(void)
{
    return ap_writer_next_slot(st_writer) - 1;
}
