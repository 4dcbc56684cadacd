/* Segments as files: `<file id>.seg` under the index path. Written beside, synced, renamed; lists are written and used
 * through a mapping, so that their memory is the page cache's.
 *
 *    0  8   "APSEG" 0 0 2        8 u32 dim      12 u32 distance
 *   16  u64 store id            24 u64 collection
 *   32  u64 file id             40 u64 base slot
 *   48  u32 rows                52 u32 replaced files (64 at most)
 *   56  u64 bytes of the body   64 u64 XXH3-64 of the body
 *   72  64 u64: file ids that this one stands for
 *  584  u32 lists: 0 for FAISS  588 u32 1: lists of small rows
 *  592  u64 XXH3-64 of the 592 bytes before; then zeros, which are looked at
 * 4096  body: an image (ivf8.h), or rows u32 (slot minus base, rising) and FAISS's bytes
 * Integers are little-endian. A crash between the rename and the removal of the merged files leaves both; the replaced ones
 * are removed when the newer one loads. Format 1 had no sketches; its files go, and their rows are indexed again. Live bits are not kept: the first pass over the log sets them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/log.h"
#include "common/fd.h"
#include "common/segment_file.h"
#include "indexer/index_impl.h"

#define HEADER 4096
#define HEADER_HASHED AP_SEGMENT_FILE_HASHED
#define LISTS 584
#define SMALL 588
#define REPLACES 72
#define LISTS_MAX 65536

static int failed(const struct ap_index *index, const char *what, struct ap_err *err)
{
    return ap_err_set(err, errno == ENOSPC || errno == EDQUOT ? AP_ENOSPC : AP_EIO, AP_RETRY, "index %s: cannot %s: %s", index->path, what, strerror(errno));
}

/* XXH3-64 of len bytes of fd from offset on. */
static int hash_file(int fd, off_t offset, uint64_t len, uint64_t *out)
{
    enum { CHUNK = 1 << 18 };
    uint8_t *buffer = malloc(CHUNK);
    XXH3_state_t *state = XXH3_createState();
    int rc = buffer && state ? 0 : -1;
    if (rc == 0)
        XXH3_64bits_reset(state);
    while (rc == 0 && len > 0) {
        ssize_t n = pread(fd, buffer, len < CHUNK ? (size_t)len : CHUNK, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            rc = -1;
        } else {
            XXH3_64bits_update(state, buffer, (size_t)n);
            offset += n;
            len -= (uint64_t)n;
        }
    }
    if (rc == 0)
        *out = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    free(buffer);
    return rc;
}

/* ---- writing ---- */

static void header_of(const struct ap_index *index, const struct ap_segment *s, uint64_t body, uint64_t hash, uint8_t h[HEADER])
{
    memset(h, 0, HEADER);
    memcpy(h, ap_segment_file_magic, AP_SEGMENT_FILE_MAGIC_BYTES);
    ap_put_le32(h + 8, s->dim);
    ap_put_le32(h + 12, (uint32_t)s->distance);
    ap_put_le64(h + AP_SEGMENT_FILE_STORE, ap_store_id(index->store));
    ap_put_le64(h + 24, s->collection);
    ap_put_le64(h + 32, s->file_id);
    ap_put_le64(h + 40, s->base);
    ap_put_le32(h + 48, s->cap);
    ap_put_le32(h + 52, s->replaces_count);
    ap_put_le64(h + 56, body);
    ap_put_le64(h + 64, hash);
    for (uint32_t i = 0; i < s->replaces_count; i++)
        ap_put_le64(h + REPLACES + i * 8, s->replaces[i]);
    ap_put_le32(h + LISTS, s->kind == AP_SEGMENT_IVF8 ? s->lists.lists : 0);
    ap_put_le32(h + SMALL, ap_segment_is_small(s) ? 1 : 0);
    ap_put_le64(h + HEADER_HASHED, XXH3_64bits(h, HEADER_HASHED));
}

static int write_body(const struct ap_segment *s, int fd, struct ap_err *err)
{
    enum { RUN = 4096 };
    uint8_t bytes[RUN * 4];
    for (uint32_t i = 0; i < s->cap; i += RUN) {
        uint32_t n = s->cap - i < RUN ? s->cap - i : RUN;
        for (uint32_t j = 0; j < n; j++)
            ap_put_le32(bytes + j * 4, s->offsets[i + j]);
        if (ap_write_all(fd, bytes, (size_t)n * 4) != 0)
            return ap_err_set(err, errno == ENOSPC ? AP_ENOSPC : AP_EIO, AP_RETRY, "writing a segment: %s", strerror(errno));
    }
    return ap_ann_save(s->ann, fd, err);
}

static int name_file(struct ap_index *index, struct ap_segment *s, struct ap_err *err)
{
    char name[32], temporary[40];
    snprintf(name, sizeof name, "%016" PRIx64 ".seg", s->file_id);
    snprintf(temporary, sizeof temporary, "%s.new", name);
    if (renameat(index->dir_fd, temporary, index->dir_fd, name) != 0 || fsync(index->dir_fd) != 0)
        return failed(index, "name a segment's file", err);
    s->path = strdup(name);
    return s->path ? 0 : ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
}

static int open_new(struct ap_index *index, uint64_t id, char temporary[40])
{
    snprintf(temporary, 40, "%016" PRIx64 ".seg.new", id);
    return openat(index->dir_fd, temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
}

int ap_segfile_begin(struct ap_index *index, uint64_t id, size_t image_bytes, struct ap_segfile *f, struct ap_err *err)
{
    char temporary[40];
    *f = (struct ap_segfile){.fd = open_new(index, id, temporary), .map = MAP_FAILED, .map_bytes = HEADER + image_bytes};
    struct ap_err why = {0};
    if (f->fd < 0)
        failed(index, "make a segment's file", &why);
    /* All its blocks now: a full disk must not strike as SIGBUS. */
    else if ((errno = posix_fallocate(f->fd, 0, (off_t)f->map_bytes)) != 0)
        failed(index, "make a segment's file", &why);
    else if ((f->map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0)) == MAP_FAILED)
        failed(index, "map a segment's file", &why);
    if (f->map == MAP_FAILED) {
        ap_error("a segment is kept in memory only, and built again at the next start: %s", why.msg);
        if (f->fd >= 0) {
            close(f->fd);
            unlinkat(index->dir_fd, temporary, 0);
        }
        f->fd = -1;
        f->map = mmap(NULL, f->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (f->map == MAP_FAILED)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "no memory for a segment of %zu bytes", image_bytes);
    f->image = (uint8_t *)f->map + HEADER;
    return 0;
}

void ap_segfile_abandon(struct ap_index *index, uint64_t id, struct ap_segfile *f)
{
    char temporary[40];
    if (f->map && f->map != MAP_FAILED)
        munmap(f->map, f->map_bytes);
    if (f->fd >= 0) {
        close(f->fd);
        snprintf(temporary, sizeof temporary, "%016" PRIx64 ".seg.new", id);
        unlinkat(index->dir_fd, temporary, 0);
    }
    *f = (struct ap_segfile){.fd = -1};
}

int ap_segfile_commit(struct ap_index *index, struct ap_segfile *f, struct ap_segment *s, struct ap_err *err)
{
    size_t body = f->map_bytes - HEADER;
    int rc = 0;
    if (f->fd >= 0) {
        header_of(index, s, body, XXH3_64bits(f->image, body), f->map);
        if (msync(f->map, f->map_bytes, MS_SYNC) != 0 || fsync(f->fd) != 0)
            rc = failed(index, "write a segment", err);
        if (rc == 0)
            rc = name_file(index, s, err);
        close(f->fd);
        f->fd = -1;
    }
    mprotect(f->map, f->map_bytes, PROT_READ);
    return rc;
}

int ap_segfile_write(struct ap_index *index, struct ap_segment *s, struct ap_err *err)
{
    char temporary[40];
    uint8_t h[HEADER] = {0};
    uint64_t hash = 0;
    int fd = open_new(index, s->file_id, temporary);
    if (fd < 0)
        return failed(index, "make a segment's file", err);
    int rc = ap_write_all(fd, h, HEADER) != 0 ? failed(index, "write a segment", err) : write_body(s, fd, err);
    off_t end = rc == 0 ? lseek(fd, 0, SEEK_CUR) : HEADER;
    if (rc == 0 && hash_file(fd, HEADER, (uint64_t)(end - HEADER), &hash) != 0)
        rc = failed(index, "read a segment back", err);
    header_of(index, s, (uint64_t)(end - HEADER), hash, h);
    if (rc == 0 && (pwrite(fd, h, HEADER, 0) != HEADER || fsync(fd) != 0))
        rc = failed(index, "write a segment", err);
    /* FAISS's lists grew by doubling; what is read back has no slack. */
    if (rc == 0) {
        lseek(fd, HEADER + (off_t)s->cap * 4, SEEK_SET);
        ap_ann_free(&s->ann);
        rc = ap_ann_load(fd, &s->ann, err);
    }
    close(fd);
    if (rc == 0)
        rc = name_file(index, s, err);
    if (rc != 0)
        unlinkat(index->dir_fd, temporary, 0);
    return rc;
}

void ap_segfile_remove(struct ap_index *index, struct ap_segment *s)
{
    for (size_t i = 0; s->columns && i < s->columns->count; i++)
        ap_column_remove_file(index, s->columns->items[i]);
    if (s->path && unlinkat(index->dir_fd, s->path, 0) != 0 && errno != ENOENT)
        ap_warn("index %s: cannot remove %s: %s", index->path, s->path, strerror(errno));
    free(s->path);
    s->path = NULL;
}

/* ---- loading ---- */

/* Check the header: 0, or AP_ECORRUPT. */
static int read_header(const uint8_t h[HEADER], off_t size, struct ap_segment *s, uint64_t *body, uint64_t *hash, struct ap_err *err)
{
    if (memcmp(h, ap_segment_file_magic, AP_SEGMENT_FILE_MAGIC_BYTES) != 0)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "no segment, or of another format");
    if (ap_le64(h + HEADER_HASHED) != XXH3_64bits(h, HEADER_HASHED))
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "its header's checksum does not match");
    s->dim = ap_le32(h + 8);
    s->distance = (enum ap_distance)ap_le32(h + 12);
    s->collection = ap_le64(h + 24);
    s->file_id = ap_le64(h + 32);
    s->base = ap_le64(h + 40);
    s->cap = ap_le32(h + 48);
    s->replaces_count = ap_le32(h + 52);
    s->lists.lists = ap_le32(h + LISTS);
    s->kind = s->lists.lists ? AP_SEGMENT_IVF8 : AP_SEGMENT_FAISS;
    s->lists.small = ap_le32(h + SMALL) == 1;
    *body = ap_le64(h + 56);
    *hash = ap_le64(h + 64);
    bool sound = s->replaces_count <= 64 && s->distance <= AP_DOT && *body == (uint64_t)size - HEADER && s->dim > 0 && s->dim <= 65536 && s->cap > 0;
    if (sound && s->kind == AP_SEGMENT_IVF8)
        sound = s->lists.lists <= LISTS_MAX && ap_le32(h + SMALL) <= 1 && (!s->lists.small || ap_sketch_words(s->dim) > 0) &&
                *body == ap_ivf8_bytes(s->dim, s->lists.lists, s->cap, s->lists.small);
    else if (sound)
        sound = *body >= (uint64_t)s->cap * 4;
    if (!sound)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "its header contradicts itself or its length");
    for (size_t i = HEADER_HASHED + 8; i < HEADER; i++)
        if (h[i])
            return ap_err_set(err, AP_ECORRUPT, AP_POISON, "its header is followed by something");
    for (uint32_t i = 0; i < s->replaces_count; i++)
        s->replaces[i] = ap_le64(h + REPLACES + i * 8);
    return 0;
}

static int read_offsets(int fd, uint32_t count, uint32_t **out, struct ap_err *err)
{
    uint32_t *offsets = malloc(((size_t)count + 1) * sizeof *offsets);
    if (!offsets)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a segment");
    size_t left = (size_t)count * 4;
    for (uint8_t *p = (uint8_t *)offsets; left > 0;) {
        ssize_t n = read(fd, p, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            free(offsets);
            return ap_err_set(err, AP_EIO, AP_FATAL, "reading it: %s", n < 0 ? strerror(errno) : "it ended");
        }
        p += n;
        left -= (size_t)n;
    }
    for (uint32_t i = 0; i < count; i++)
        offsets[i] = ap_le32(&offsets[i]);
    *out = offsets;
    return 0;
}

static int beyond(struct ap_err *err)
{
    return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "it knows slots that the store does not have");
}

/* Lists: mapped; the checksum is that of what will be read. */
static int load_lists(int fd, const struct ap_segment *head, uint64_t body, uint64_t wanted, uint64_t next_slot, struct ap_segment **out, struct ap_err *err)
{
    struct ap_ivf8 lists;
    size_t bytes = HEADER + body;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return ap_err_set(err, AP_EIO, AP_FATAL, "mapping it: %s", strerror(errno));
    madvise(map, bytes, MADV_WILLNEED);
    ap_ivf8_map(&lists, (uint8_t *)map + HEADER, head->dim, head->lists.lists, head->cap, head->lists.small);
    int rc = 0;
    if (XXH3_64bits((uint8_t *)map + HEADER, body) != wanted)
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "its checksum does not match");
    else if (!ap_ivf8_sound(&lists))
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "its lists do not hold together");
    else if (head->base + lists.offsets[lists.order[lists.count - 1]] >= next_slot)
        rc = beyond(err);
    else if (!(*out = ap_segment_lists(head->collection, head->distance, map, bytes, &lists, head->base)))
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a segment");
    if (rc != 0)
        munmap(map, bytes);
    return rc;
}

static int load_faiss(int fd, const struct ap_segment *head, uint64_t body, uint64_t wanted, uint64_t next_slot, struct ap_segment **out, struct ap_err *err)
{
    struct ap_ann *ann = NULL;
    uint32_t *offsets = NULL;
    uint64_t hash = 0;
    int rc = 0;
    if (hash_file(fd, HEADER, body, &hash) != 0 || hash != wanted)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "its checksum does not match");
    lseek(fd, HEADER, SEEK_SET);
    rc = read_offsets(fd, head->cap, &offsets, err);
    if (rc == 0 && head->base + offsets[head->cap - 1] >= next_slot)
        rc = beyond(err);
    if (rc == 0)
        rc = ap_ann_load(fd, &ann, err);
    if (rc == 0 && (ap_ann_dim(ann) != head->dim || ap_ann_count(ann) != head->cap))
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "its structure is not what its header says");
    if (rc == 0 && !(*out = ap_segment_faiss(head->collection, head->distance, ann, head->base, offsets, head->cap)))
        rc = ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for a segment");
    if (rc != 0) {
        ap_ann_free(&ann);
        free(offsets);
    }
    return rc;
}

/* AP_ECORRUPT: damaged. AP_ENOTFOUND: of another store. */
static int load(struct ap_index *index, const char *name, uint64_t next_slot, struct ap_segment **out, struct ap_err *err)
{
    uint8_t h[HEADER];
    struct ap_segment head = {0};
    struct stat st;
    uint64_t body = 0, wanted = 0;
    int fd = openat(index->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || (st.st_size >= HEADER && pread(fd, h, HEADER, 0) != HEADER)) {
        int rc = failed(index, "read a segment", err);
        if (fd >= 0)
            close(fd);
        return rc;
    }
    int rc = st.st_size < HEADER ? ap_err_set(err, AP_ECORRUPT, AP_POISON, "it is cut short") : read_header(h, st.st_size, &head, &body, &wanted, err);
    if (rc == 0 && ap_le64(h + AP_SEGMENT_FILE_STORE) != ap_store_id(index->store))
        rc = ap_err_set(err, AP_ENOTFOUND, AP_POISON, "it belongs to another store");
    if (rc == 0)
        rc = (head.kind == AP_SEGMENT_IVF8 ? load_lists : load_faiss)(fd, &head, body, wanted, next_slot, out, err);
    close(fd);
    if (rc != 0)
        return rc;
    (*out)->file_id = head.file_id;
    (*out)->replaces_count = head.replaces_count;
    memcpy((*out)->replaces, head.replaces, sizeof head.replaces);
    (*out)->path = strdup(name);
    return 0;
}

/* Remove what newer segments stand for. */
static void drop_replaced(struct ap_index *index, struct ap_segment **all, size_t *count)
{
    for (size_t i = 0; i < *count; i++)
        for (uint32_t r = 0; r < all[i]->replaces_count; r++)
            for (size_t j = *count; j-- > 0;)
                if (all[j]->file_id == all[i]->replaces[r] && j != i) {
                    ap_segfile_remove(index, all[j]);
                    ap_segment_unref(&all[j]);
                    all[j] = all[--*count];
                    if (i == *count) /* the one at i moved into the gap */
                        i = j;
                }
}

/* The indexes of payload fields beside the segments; those of none are removed. */
static void load_columns(struct ap_index *index, struct ap_segment **all, size_t count)
{
    int fd = openat(index->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        uint64_t segment, field;
        size_t len = strlen(e->d_name), i = 0;
        if (len > 8 && strcmp(e->d_name + len - 8, ".idx.new") == 0)
            unlinkat(index->dir_fd, e->d_name, 0);
        if (!ap_column_name(e->d_name, &segment, &field))
            continue;
        while (i < count && all[i]->file_id != segment)
            i++;
        struct ap_column *column = i < count ? ap_column_load(index, e->d_name, all[i]->cap) : NULL;
        if (i == count)
            unlinkat(index->dir_fd, e->d_name, 0);
        if (!column)
            continue;
        struct ap_columns *old = all[i]->columns;
        struct ap_column *items[65];
        size_t n = old ? old->count : 0;
        if (n == 64) {
            ap_column_unref(&column);
            continue;
        }
        for (size_t j = 0; j < n; j++)
            items[j] = ap_column_ref(old->items[j]);
        items[n] = column;
        all[i]->columns = ap_columns_new(items, n + 1);
        ap_columns_unref(&old);
    }
    if (dir)
        closedir(dir);
}

int ap_segfile_load_all(struct ap_index *index, struct ap_segment ***out, size_t *count, struct ap_err *err)
{
    struct ap_segment **all = NULL;
    struct ap_snapshot *snapshot;
    size_t n = 0, cap = 0;
    int rc = ap_snapshot_begin(index->store, &snapshot, err);
    if (rc < 0)
        return rc;
    uint64_t next_slot = ap_snapshot_next_slot(snapshot);
    ap_snapshot_end(&snapshot);
    int fd = openat(index->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir)
        return failed(index, "list its folder", err);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        size_t len = strlen(e->d_name);
        struct ap_segment *s = NULL;
        struct ap_err why = {0};
        if (len > 8 && strcmp(e->d_name + len - 8, ".seg.new") == 0)
            unlinkat(index->dir_fd, e->d_name, 0);
        if (len < 4 || strcmp(e->d_name + len - 4, ".seg") != 0)
            continue;
        rc = load(index, e->d_name, next_slot, &s, &why);
        if (rc == AP_ECORRUPT || rc == AP_ENOTFOUND) {
            if (rc == AP_ECORRUPT) {
                ap_error("index %s: segment %s is removed, its rows are indexed again from the store: %s", index->path, e->d_name, why.msg);
                ap_count(index->metrics.damaged, 1);
            } else {
                ap_warn("index %s: segment %s is removed: %s", index->path, e->d_name, why.msg);
            }
            unlinkat(index->dir_fd, e->d_name, 0);
        } else if (rc < 0) {
            /* Unreadable, not damaged: perhaps another time. Its rows are indexed without it. */
            ap_error("index %s: segment %s cannot be read now and is left out: %s", index->path, e->d_name, why.msg);
        } else {
            if (n == cap) {
                cap = cap ? cap * 2 : 16;
                all = realloc(all, cap * sizeof *all);
                if (!all)
                    abort();
            }
            all[n++] = s;
        }
    }
    closedir(dir);
    drop_replaced(index, all, &n);
    load_columns(index, all, n);
    *out = all;
    *count = n;
    return 0;
}
