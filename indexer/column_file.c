/* Columns as files: `<segment's file id>-<field id>.idx` under the index path, written beside, synced, renamed, mapped.
 *
 *   0  8   "APFIX" 0 0 1       8 u64 store id     16 u64 segment's file id   24 u64 field id
 *  32  u32 rows               36 u32 type         40 8 u32 counts (column.c)
 *  72  u64 bytes of the body  80 u64 XXH3-64 of the body   88 u64 XXH3-64 of the 88 bytes before; then zeros, which are looked at
 * 128  body (column.h)
 * What is damaged is removed, and built again from the store. */
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
#include "indexer/column.h"
#include "indexer/index_impl.h"

#define HEADER 128
#define HASHED 88
static const uint8_t magic[8] = {'A', 'P', 'F', 'I', 'X', 0, 0, 1};

static struct ap_column *column_new(uint64_t field, enum ap_field_type type, uint32_t rows)
{
    struct ap_column *c = calloc(1, sizeof *c);
    if (!c)
        abort();
    atomic_init(&c->refs, 1);
    c->field = field;
    c->type = type;
    c->rows = rows;
    return c;
}

static void file_name(uint64_t segment, uint64_t field, char name[48])
{
    snprintf(name, 48, "%016" PRIx64 "-%016" PRIx64 ".idx", segment, field);
}

bool ap_column_name(const char *name, uint64_t *segment, uint64_t *field)
{
    char again[48];
    if (sscanf(name, "%16" SCNx64 "-%16" SCNx64 ".idx", segment, field) != 2)
        return false;
    file_name(*segment, *field, again);
    return strcmp(name, again) == 0;
}

/* Maps len bytes of the file; NULL with errno. */
static void *map_file(int fd, size_t len)
{
    void *map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
    return map == MAP_FAILED ? NULL : map;
}

/* The mapping, or NULL with errno. */
static void *write_file(struct ap_index *index, const char *name, const uint8_t *image, size_t bytes)
{
    char temporary[64];
    snprintf(temporary, sizeof temporary, "%s.new", name);
    int fd = openat(index->dir_fd, temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return NULL;
    void *map = NULL;
    if (ap_write_all(fd, image, bytes) == 0 && fsync(fd) == 0 && renameat(index->dir_fd, temporary, index->dir_fd, name) == 0)
        map = map_file(fd, bytes);
    int why = errno;
    if (!map)
        unlinkat(index->dir_fd, temporary, 0);
    close(fd);
    errno = why;
    return map;
}

struct ap_column *ap_column_make(struct ap_index *index, uint64_t segment, bool on_disk, const struct ap_field *field, struct ap_column_builder **b)
{
    uint32_t counts[8], rows = ap_column_builder_rows(*b);
    size_t bytes;
    char name[48];
    uint8_t *image = ap_column_builder_finish(b, &bytes, counts);
    if (!image) {
        ap_error("field %s has more text in one segment than an index holds: it is looked up in the rows", field->path.text);
        return NULL;
    }
    struct ap_column *c = column_new(field->id, field->type, rows);
    memcpy(image, magic, sizeof magic);
    ap_put_le64(image + 8, ap_store_id(index->store));
    ap_put_le64(image + 16, segment);
    ap_put_le64(image + 24, field->id);
    ap_put_le32(image + 32, rows);
    ap_put_le32(image + 36, (uint32_t)field->type);
    for (int i = 0; i < 8; i++)
        ap_put_le32(image + 40 + i * 4, counts[i]);
    ap_put_le64(image + 72, bytes - HEADER);
    ap_put_le64(image + 80, XXH3_64bits(image + HEADER, bytes - HEADER));
    ap_put_le64(image + HASHED, XXH3_64bits(image, HASHED));
    file_name(segment, field->id, name);
    void *map = on_disk ? write_file(index, name, image, bytes) : NULL;
    if (on_disk && !map)
        ap_error("index %s: %s cannot be written, and is kept in memory until the next start: %s", index->path, name, strerror(errno));
    c->map = map ? map : image;
    c->map_bytes = bytes;
    c->mapped = map != NULL;
    c->path = map ? strdup(name) : NULL;
    if (map)
        free(image);
    if (!ap_column_open(c, (const uint8_t *)c->map + HEADER, bytes - HEADER, counts))
        abort(); /* it is our own */
    return c;
}

static const char *open_column(struct ap_index *index, struct ap_column *c, uint64_t segment, uint64_t field)
{
    const uint8_t *h = c->map;
    uint32_t counts[8];
    if (c->map_bytes < HEADER || memcmp(h, magic, sizeof magic) != 0)
        return "it is none, or of another format";
    if (ap_le64(h + HASHED) != XXH3_64bits(h, HASHED))
        return "its header's checksum does not match";
    for (size_t i = HASHED + 8; i < HEADER; i++)
        if (h[i])
            return "its header is followed by something";
    if (ap_le64(h + 8) != ap_store_id(index->store) || ap_le64(h + 16) != segment || ap_le64(h + 24) != field || ap_le32(h + 32) != c->rows)
        return "it belongs to another segment";
    if (ap_le64(h + 72) != c->map_bytes - HEADER || ap_le64(h + 80) != XXH3_64bits(h + HEADER, c->map_bytes - HEADER))
        return "its checksum does not match";
    if (ap_le32(h + 36) > AP_FIELD_TEXT)
        return "it is of an unknown type";
    c->type = (enum ap_field_type)ap_le32(h + 36);
    for (int i = 0; i < 8; i++)
        counts[i] = ap_le32(h + 40 + i * 4);
    return ap_column_open(c, h + HEADER, c->map_bytes - HEADER, counts) ? NULL : "its parts contradict each other";
}

struct ap_column *ap_column_load(struct ap_index *index, const char *name, uint32_t rows)
{
    uint64_t segment, field;
    struct stat st;
    if (!ap_column_name(name, &segment, &field))
        return NULL;
    struct ap_column *c = column_new(field, AP_FIELD_KEYWORD, rows);
    int fd = openat(index->dir_fd, name, O_RDONLY | O_CLOEXEC);
    const char *why = NULL;
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size < HEADER || !(c->map = map_file(fd, (size_t)st.st_size)))
        why = "it cannot be read";
    if (fd >= 0)
        close(fd);
    if (!why) {
        c->map_bytes = (size_t)st.st_size;
        c->mapped = true;
        c->path = strdup(name);
        why = open_column(index, c, segment, field);
    }
    if (!why)
        return c;
    ap_error("index %s: %s is removed, and built again from the store: %s", index->path, name, why);
    ap_count(index->metrics.damaged, 1);
    unlinkat(index->dir_fd, name, 0);
    ap_column_unref(&c);
    return NULL;
}

void ap_column_remove_file(struct ap_index *index, struct ap_column *c)
{
    if (c->path && unlinkat(index->dir_fd, c->path, 0) != 0 && errno != ENOENT)
        ap_warn("index %s: cannot remove %s: %s", index->path, c->path, strerror(errno));
}
