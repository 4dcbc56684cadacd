/* Each file is read whole and walked block by block. Only at the end of the newest file may something be that is no block:
 * the write that a crash interrupted. Everything else that does not check fails, and says which file. */
#include "producer/spool_scan.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/log.h"

#define BLOCK_MAGIC 0x4b4c4253u /* "SBLK" */
static const char magic[8] = "APSPOOL1";

/* --- bytes --- */

void ap_spool_name(uint64_t first, char out[AP_SPOOL_NAME])
{
    snprintf(out, AP_SPOOL_NAME, "%016llx.spool", (unsigned long long)first);
}

void ap_spool_header(const struct ap_region *region, uint64_t first, uint8_t out[AP_SPOOL_HEADER])
{
    memcpy(out, magic, 8);
    memcpy(out + 8, region->name, 16);
    ap_put_le64(out + 24, first);
}

static uint64_t checksum(const uint8_t *block, size_t len)
{
    return XXH3_64bits_withSeed(block + AP_SPOOL_HEADER, len - AP_SPOOL_HEADER, XXH3_64bits(block, 24));
}

void ap_spool_block_seal(uint8_t *block, size_t len, uint64_t number, int64_t now_ms)
{
    ap_put_le32(block, BLOCK_MAGIC);
    ap_put_le32(block + 4, (uint32_t)(len - AP_SPOOL_HEADER));
    ap_put_le64(block + 8, number);
    ap_put_le64(block + 16, (uint64_t)now_ms);
    ap_put_le64(block + 24, checksum(block, len));
}

uint32_t ap_spool_block_length(const uint8_t *header)
{
    return ap_le32(header + 4);
}

uint64_t ap_spool_block_number(const uint8_t *header)
{
    return ap_le64(header + 8);
}

int64_t ap_spool_block_ms(const uint8_t *header)
{
    return (int64_t)ap_le64(header + 16);
}

/* Do the lengths of the entries add up? */
static bool divides(const uint8_t *bytes, size_t len)
{
    while (len >= 4 && ap_le32(bytes) <= len - 4) {
        size_t n = 4 + (size_t)ap_le32(bytes);
        bytes += n, len -= n;
    }
    return len == 0;
}

size_t ap_spool_block_check(const uint8_t *bytes, size_t len)
{
    if (len < AP_SPOOL_HEADER || ap_le32(bytes) != BLOCK_MAGIC)
        return 0;
    size_t all = AP_SPOOL_HEADER + (size_t)ap_spool_block_length(bytes);
    if (all > len || ap_le64(bytes + 24) != checksum(bytes, all) || !divides(bytes + AP_SPOOL_HEADER, all - AP_SPOOL_HEADER))
        return 0;
    return all;
}

/* --- scanning --- */

struct scan {
    int dir;
    const char *path;
    const struct ap_region *region;
    struct ap_spool_found *found;
    struct ap_buf bytes;
    bool newest;
};

static int damaged(const struct scan *s, const char *name, size_t at, const char *what, struct ap_err *err)
{
    return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "the spool file %s/%s is damaged at byte %zu (%s): writes in it were acknowledged and would be lost; restore it, or, to give them up, move it out of spool.dir with all its neighbours, and start again",
                      s->path, name, at, what);
}

static int by_name(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static int list(struct scan *s, uint64_t **numbers, size_t *count, struct ap_err *err)
{
    int fd = dup(s->dir);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;
    if (!d)
        return ap_err_set(err, AP_EIO, AP_FATAL, "spool.dir: %s: %s", s->path, strerror(errno));
    rewinddir(d);
    while ((e = readdir(d))) {
        char *end;
        unsigned long long first = strtoull(e->d_name, &end, 16);
        if (end != e->d_name + 16 || strcmp(end, ".spool") != 0)
            continue;
        *numbers = reallocarray(*numbers, *count + 1, sizeof **numbers);
        if (!*numbers)
            abort();
        (*numbers)[(*count)++] = first;
    }
    closedir(d);
    if (*count)
        qsort(*numbers, *count, sizeof **numbers, by_name);
    return 0;
}

static int load(struct scan *s, const char *name, struct ap_err *err)
{
    struct stat st;
    ssize_t n = 0;
    int fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC);
    ap_buf_clear(&s->bytes);
    if (fd >= 0 && fstat(fd, &st) == 0) {
        ap_buf_reserve(&s->bytes, (size_t)st.st_size + 1);
        while (s->bytes.len < (size_t)st.st_size && (n = read(fd, s->bytes.data + s->bytes.len, (size_t)st.st_size - s->bytes.len)) > 0)
            s->bytes.len += (size_t)n;
    } else {
        n = -1;
    }
    int rc = n < 0 ? ap_err_set(err, AP_EIO, AP_FATAL, "spool file %s/%s: %s", s->path, name, strerror(errno)) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int visit_entries(struct scan *s, const uint8_t *bytes, size_t len, struct ap_spool_segment *segment, struct ap_err *err)
{
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < len; at += 4 + (size_t)ap_le32(bytes + at)) {
        rc = s->found->visit ? s->found->visit(s->found->arg, bytes + at + 4, ap_le32(bytes + at), err) : 0;
        segment->entries++;
    }
    return rc;
}

/* Is there a good block anywhere behind? Then what does not check here had been followed by another write: it was whole once. */
static bool good_behind(const struct scan *s, size_t at)
{
    for (at++; at + AP_SPOOL_HEADER <= s->bytes.len; at++)
        if (ap_spool_block_check(s->bytes.data + at, s->bytes.len - at))
            return true;
    return false;
}

static int cut(struct scan *s, const char *name, size_t at, struct ap_err *err)
{
    int fd = openat(s->dir, name, O_WRONLY | O_CLOEXEC), rc = 0;
    ap_warn("spool file %s/%s: a torn tail of %zu bytes at byte %zu is cut off: a write that was interrupted, and not acknowledged", s->path, name, s->bytes.len - at, at);
    if (fd < 0 || ftruncate(fd, (off_t)at) != 0 || fsync(fd) != 0)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "spool file %s/%s: its torn tail cannot be cut off: %s", s->path, name, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

/* A file whose header was never synced has nothing behind it. */
static int check_header(struct scan *s, const char *name, uint64_t first, bool *empty, struct ap_err *err)
{
    uint8_t expect[AP_SPOOL_HEADER];
    ap_spool_header(s->region, first, expect);
    const uint8_t *have = s->bytes.data;
    *empty = false;
    if (s->bytes.len >= AP_SPOOL_HEADER && memcmp(have, expect, AP_SPOOL_HEADER) == 0)
        return 0;
    if (s->bytes.len >= AP_SPOOL_HEADER && memcmp(have, magic, 7) == 0 && have[7] != magic[7])
        return ap_err_set(err, AP_EUNSUPPORTED, AP_FATAL, "spool file %s/%s has format %c, this program knows %c: drain it with the version that wrote it", s->path, name, have[7], magic[7]);
    if (s->bytes.len >= AP_SPOOL_HEADER && memcmp(have, magic, 8) == 0 && memcmp(have + 8, expect + 8, 16) != 0)
        return ap_err_set(err, AP_ECONFLICT, AP_FATAL, "spool file %s/%s holds writes of region %.16s, this is %s: spool.dir is another producer's", s->path, name, (const char *)have + 8, s->region->name);
    if (!s->newest || s->bytes.len > AP_SPOOL_HEADER)
        return damaged(s, name, 0, "its header", err);
    *empty = true;
    ap_warn("spool file %s/%s was begun and never used: removed", s->path, name);
    if (unlinkat(s->dir, name, 0) != 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "spool file %s/%s cannot be removed: %s", s->path, name, strerror(errno));
    return 0;
}

static int scan_file(struct scan *s, uint64_t first, struct ap_err *err)
{
    char name[AP_SPOOL_NAME];
    struct ap_spool_segment segment = {.first = first};
    struct ap_spool_found *found = s->found;
    bool empty;
    ap_spool_name(first, name);
    int rc = load(s, name, err);
    if (rc == 0)
        rc = check_header(s, name, first, &empty, err);
    if (rc || empty)
        return rc;
    if (found->count && first != found->next_number)
        return damaged(s, name, 24, "a file before it is missing", err);
    found->next_number = first;
    size_t at = AP_SPOOL_HEADER, len = 0;
    for (; at < s->bytes.len; at += len, found->next_number++) {
        const uint8_t *block = s->bytes.data + at;
        len = ap_spool_block_check(block, s->bytes.len - at);
        if (len == 0 && (!s->newest || good_behind(s, at)))
            return damaged(s, name, at, "a block that does not check", err);
        if (len == 0) {
            if ((rc = cut(s, name, at, err)) != 0)
                return rc;
            break;
        }
        if (ap_spool_block_number(block) != found->next_number)
            return damaged(s, name, at, "a block is missing before it", err);
        if ((rc = visit_entries(s, block + AP_SPOOL_HEADER, len - AP_SPOOL_HEADER, &segment, err)) != 0)
            return ap_err_wrap(err, "spool file %s/%s at byte %zu", s->path, name, at);
        if (!found->oldest_ms)
            found->oldest_ms = ap_spool_block_ms(block);
    }
    if (at == AP_SPOOL_HEADER) /* begun, and nothing in it */
        return unlinkat(s->dir, name, 0) == 0 ? 0 : ap_err_set(err, AP_EIO, AP_FATAL, "spool file %s/%s cannot be removed: %s", s->path, name, strerror(errno));
    segment.size = at;
    found->entries += segment.entries;
    found->segments = reallocarray(found->segments, found->count + 1, sizeof *found->segments);
    if (!found->segments)
        abort();
    found->segments[found->count++] = segment;
    return 0;
}

int ap_spool_scan(int dir, const char *path, const struct ap_region *region, struct ap_spool_found *found, struct ap_err *err)
{
    struct scan s = {.dir = dir, .path = path, .region = region, .found = found};
    uint64_t *numbers = NULL;
    size_t count = 0;
    found->next_number = 1;
    int rc = list(&s, &numbers, &count, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        s.newest = i + 1 == count;
        rc = scan_file(&s, numbers[i], err);
    }
    free(numbers);
    ap_buf_free(&s.bytes);
    return rc;
}
