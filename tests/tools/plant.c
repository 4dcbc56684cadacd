/* Damage planted straight into a store's file, or into a segment's, as a disk or a bug would: nothing else is told.
 *
 *   plant STORE flip|remove|older COLLECTION POINT      the current row: a byte turned, the row gone, an older version of it
 *   plant STORE extra COLLECTION POINT NEW              a copy of the row for another point, in a slot that is out of use
 *   plant STORE horizon COLLECTION POINT                tombstones up to this row's version have been collected
 *   plant SEGMENT scramble                              every row under another row's vector; its checksums are made anew
 *
 * COLLECTION is its id in hex. The store may be open in other processes. */
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/row.h"
#include "indexer/ivf8.h"

#define AGED ((uint64_t)60000 << 16) /* a minute, as hlc */

static void must(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "plant: %s: %s\n", what, rc > 0 || rc < -30000 ? mdb_strerror(rc) : "failed");
    exit(1);
}

static void usage(void)
{
    fputs("usage: plant STORE flip|remove|older|horizon COLLECTION POINT | plant STORE extra COLLECTION POINT NEW | plant SEGMENT scramble\n", stderr);
    exit(2);
}

static struct ap_key key_of(const char *collection, const char *point)
{
    struct ap_point_id id;
    struct ap_key key;
    must(ap_point_id_parse(point, strlen(point), &id, NULL), "point");
    ap_key_make(strtoull(collection, NULL, 16), &id, &key);
    return key;
}

/* --- stores --- */

struct file { MDB_env *env; MDB_txn *txn; MDB_dbi log; };

static void open_file(struct file *f, const char *path)
{
    must(mdb_env_create(&f->env), "env");
    must(mdb_env_set_mapsize(f->env, (size_t)1 << 36), "map size");
    must(mdb_env_set_maxdbs(f->env, 8), "databases");
    must(mdb_env_open(f->env, path, MDB_NOTLS, 0640), path);
    must(mdb_txn_begin(f->env, NULL, 0, &f->txn), "begin");
    must(mdb_dbi_open(f->txn, "log", MDB_INTEGERKEY, &f->log), "log");
}

/* Newest slot of a key, and the row in it. */
static uint64_t find(struct file *f, const struct ap_key *key, struct ap_buf *row)
{
    MDB_cursor *cursor;
    MDB_val k, v;
    uint64_t slot = 0;
    must(mdb_cursor_open(f->txn, f->log, &cursor), "cursor");
    while (mdb_cursor_get(cursor, &k, &v, MDB_NEXT) == 0)
        if (v.mv_size >= AP_ROW_HEADER && !memcmp((uint8_t *)v.mv_data + 16, key->b, sizeof key->b)) {
            memcpy(&slot, k.mv_data, sizeof slot);
            ap_buf_clear(row);
            ap_buf_append(row, v.mv_data, v.mv_size);
        }
    mdb_cursor_close(cursor);
    must(slot == 0, "no row of this point");
    return slot;
}

/* The newest slot whose point has a newer one: the oldest ones are what the cleaner drops next. */
static uint64_t find_unused(struct file *f)
{
    MDB_cursor *cursor;
    MDB_val k, v;
    uint64_t slot, unused = 0;
    struct ap_buf row = {0};
    must(mdb_cursor_open(f->txn, f->log, &cursor), "cursor");
    while (!unused && mdb_cursor_get(cursor, &k, &v, MDB_PREV) == 0) {
        struct ap_key key;
        memcpy(&slot, k.mv_data, sizeof slot);
        memcpy(key.b, (uint8_t *)v.mv_data + 16, sizeof key.b);
        if (find(f, &key, &row) > slot)
            unused = slot;
    }
    mdb_cursor_close(cursor);
    ap_buf_free(&row);
    must(unused == 0, "every slot is in use");
    return unused;
}

static void seal(struct ap_buf *row)
{
    ap_put_le64(row->data, XXH3_64bits(row->data + 8, row->len - 8));
}

static void plant_row(const char *path, const char *what, const char *collection, const char *point, const char *new_point)
{
    struct file f;
    struct ap_buf row = {0};
    struct ap_key key = key_of(collection, point);
    open_file(&f, path);
    uint64_t slot = find(&f, &key, &row);
    if (!strcmp(what, "horizon")) {
        MDB_dbi meta;
        MDB_val name = {7, (void *)(uintptr_t)"horizon"}, hlc = {8, row.data + 40};
        must(mdb_dbi_open(f.txn, "meta", 0, &meta), "meta");
        must(mdb_put(f.txn, meta, &name, &hlc, 0), "write");
        must(mdb_txn_commit(f.txn), "commit");
        mdb_env_close(f.env);
        ap_buf_free(&row);
        return;
    }
    if (!strcmp(what, "flip")) {
        row.data[AP_ROW_HEADER + 2] ^= 0x40;
    } else if (!strcmp(what, "older")) {
        ap_put_le64(row.data + 40, ap_le64(row.data + 40) - AGED);
        seal(&row);
    } else if (!strcmp(what, "extra") && new_point) {
        key = key_of(collection, new_point);
        memcpy(row.data + 16, key.b, sizeof key.b);
        seal(&row);
        slot = find_unused(&f);
    } else if (strcmp(what, "remove") != 0) {
        usage();
    }
    MDB_val k = {sizeof slot, &slot}, v = {row.len, row.data};
    must(strcmp(what, "remove") ? mdb_put(f.txn, f.log, &k, &v, 0) : mdb_del(f.txn, f.log, &k, NULL), "write");
    must(mdb_txn_commit(f.txn), "commit");
    mdb_env_close(f.env);
    ap_buf_free(&row);
    printf("%llu\n", (unsigned long long)slot);
}

/* --- segments: indexer/segfile.c says how they lie in the file --- */

enum { HEADER = 4096, HASHED = 592, DIM = 8, ROWS = 48, LISTS = 584 };

static void swap_bytes(void *a, void *b, size_t n)
{
    uint8_t *x = a, *y = b;
    for (size_t i = 0; i < n; i++) {
        uint8_t t = x[i];
        x[i] = y[i];
        y[i] = t;
    }
}

/* The first row gets the last one's vector, and so on. */
static void turn_around(struct ap_ivf8 *v)
{
    size_t stride = ap_q8_stride(v->dim), sketch = ap_sketch_words(v->dim);
    for (uint32_t i = 0; i < v->count / 2; i++) {
        uint32_t j = v->count - 1 - i;
        swap_bytes(v->rows + i * stride, v->rows + j * stride, stride);
        swap_bytes(&v->row_meta[i], &v->row_meta[j], sizeof *v->row_meta);
        if (sketch > 0) {
            swap_bytes(v->bits + i * sketch, v->bits + j * sketch, sketch * sizeof *v->bits);
            swap_bytes(&v->factors[i], &v->factors[j], sizeof *v->factors);
        }
    }
}

static void plant_segment(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st;
    struct ap_ivf8 lists;
    must(fd < 0 || fstat(fd, &st) != 0 || st.st_size <= HEADER, "open the segment");
    size_t size = (size_t)st.st_size, body = size - HEADER;
    uint8_t *b = aligned_alloc(64, (size + 63) & ~(size_t)63);
    must(!b || pread(fd, b, size, 0) != st.st_size, "read the segment");
    must(ap_le32(b + LISTS) == 0, "only inverted lists can be scrambled");
    ap_ivf8_map(&lists, b + HEADER, ap_le32(b + DIM), ap_le32(b + LISTS), ap_le32(b + ROWS), false);
    turn_around(&lists);
    ap_put_le64(b + 64, XXH3_64bits(b + HEADER, body));
    ap_put_le64(b + HASHED, XXH3_64bits(b, HASHED));
    must(pwrite(fd, b, size, 0) != st.st_size, "write the segment");
    free(b);
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[2], "scramble"))
        plant_segment(argv[1]);
    else if (argc == 5 || (argc == 6 && !strcmp(argv[2], "extra")))
        plant_row(argv[1], argv[2], argv[3], argv[4], argc == 6 ? argv[5] : NULL);
    else
        usage();
    return 0;
}
