/* Flow: append joins the group that is being gathered; the first of a group who finds the disk free writes it as one block
 * and syncs, the others wait. read follows behind with a place of its own; done removes the files it has left.
 *
 * A write that fails is cut off again, so that the next one does not stand behind rubbish. Where even that fails nothing
 * more is taken until the next start, which finds a torn tail and cuts it. */
#include "producer/spool_file.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "producer/spool_scan.h"

struct group {
    struct ap_buf bytes; /* a block in the making: room for its header, then entries */
    size_t entries, members; /* members: who still looks at it */
    bool done;
    int rc;
    struct ap_err err;
};

struct ap_spool_file {
    struct ap_spool_options o;
    int dir, fd; /* fd: the newest file, -1 when there is none to append to */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct ap_spool_segment *segments; size_t count; /* oldest first; sizes count what is synced */
    uint64_t next_number, bytes, entries;
    uint64_t being_written; /* bytes of the block that is on its way to disk */
    struct group *gathering;
    bool writing, dead; /* dead: what a failed write left could not be cut off */
    /* The reading thread's. */
    int read_fd;
    size_t at_segment;
    uint64_t at_byte;
    uint64_t read_entries; /* since the last done */
    int64_t oldest_ms;     /* under lock */
};

static int disk_error(struct ap_err *err, const struct ap_spool_file *f, const char *what)
{
    int e = errno;
    if (e == ENOSPC || e == EDQUOT || e == EFBIG)
        return ap_err_set(err, AP_EBUSY, AP_RETRY, "the spool's disk is full (%s, %s): make room there; nothing of this request was kept, send it again later", f->o.dir, strerror(e));
    return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the spool in %s cannot be written (%s: %s): look at its disk; nothing of this request was kept", f->o.dir, what, strerror(e));
}

/* --- open and close --- */

static int open_dir(struct ap_spool_file *f, struct ap_err *err)
{
    if (mkdir(f->o.dir, 0700) != 0 && errno != EEXIST)
        return ap_err_set(err, AP_EIO, AP_FATAL, "spool.dir: %s cannot be made: %s", f->o.dir, strerror(errno));
    f->dir = open(f->o.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir < 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "spool.dir: %s: %s", f->o.dir, strerror(errno));
    if (faccessat(f->dir, ".", W_OK | X_OK, AT_EACCESS) != 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "spool.dir: %s cannot be written: %s", f->o.dir, strerror(errno));
    if (flock(f->dir, LOCK_EX | LOCK_NB) != 0)
        return ap_err_set(err, AP_ECONFLICT, AP_FATAL, "spool.dir: %s is used by another process: give each producer a folder of its own", f->o.dir);
    return 0;
}

int ap_spool_file_open(struct ap_spool_file **out, const struct ap_spool_options *o,
                       int (*visit)(void *arg, const uint8_t *bytes, size_t len, struct ap_err *err), void *arg, struct ap_err *err)
{
    struct ap_spool_file *f = calloc(1, sizeof *f);
    if (!f)
        abort();
    *f = (struct ap_spool_file){.o = *o, .dir = -1, .fd = -1, .read_fd = -1};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    struct ap_spool_found found = {.visit = visit, .arg = arg};
    int rc = open_dir(f, err);
    if (rc == 0)
        rc = ap_spool_scan(f->dir, o->dir, &o->region, &found, err);
    f->segments = found.segments;
    f->count = found.count;
    f->next_number = found.next_number;
    f->entries = found.entries;
    f->oldest_ms = found.oldest_ms;
    f->at_byte = AP_SPOOL_HEADER;
    for (size_t i = 0; i < f->count; i++)
        f->bytes += f->segments[i].size;
    *out = f;
    if (rc)
        ap_spool_file_close(out);
    return rc;
}

void ap_spool_file_close(struct ap_spool_file **file)
{
    struct ap_spool_file *f = *file;
    *file = NULL;
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    if (f->read_fd >= 0)
        close(f->read_fd);
    if (f->dir >= 0)
        close(f->dir);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
    free(f->segments);
    free(f);
}

/* --- appending --- */

static int write_all(int fd, const uint8_t *bytes, size_t len, uint64_t at)
{
    while (len) {
        ssize_t n = pwrite(fd, bytes, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        bytes += n, len -= (size_t)n, at += (uint64_t)n;
    }
    return 0;
}

/* A new file with its header, synced, and the folder too. The writer of the moment; takes the lock to list it. */
static int begin_file(struct ap_spool_file *f, struct ap_err *err)
{
    char name[AP_SPOOL_NAME];
    uint8_t header[AP_SPOOL_HEADER];
    if (f->fd >= 0)
        close(f->fd);
    ap_spool_name(f->next_number, name);
    ap_spool_header(&f->o.region, f->next_number, header);
    f->fd = openat(f->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (f->fd < 0)
        return disk_error(err, f, name);
    if (write_all(f->fd, header, sizeof header, 0) != 0 || fdatasync(f->fd) != 0 || fsync(f->dir) != 0) {
        int rc = disk_error(err, f, name);
        close(f->fd);
        f->fd = -1;
        f->dead = unlinkat(f->dir, name, 0) != 0 || f->dead;
        return rc;
    }
    pthread_mutex_lock(&f->lock);
    f->segments = reallocarray(f->segments, f->count + 1, sizeof *f->segments);
    if (!f->segments)
        abort();
    f->segments[f->count++] = (struct ap_spool_segment){.first = f->next_number, .size = sizeof header};
    f->bytes += sizeof header;
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static int write_block(struct ap_spool_file *f, struct group *g, int64_t now_ms, struct ap_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&f->lock);
    uint64_t end = f->count ? f->segments[f->count - 1].size : 0; /* nobody else changes it */
    bool fresh = f->fd < 0 || f->count == 0 || end >= f->o.file_bytes;
    pthread_mutex_unlock(&f->lock);
    if (f->dead)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the spool in %s takes nothing more since a write to it failed: restart this process once its disk is well", f->o.dir);
    if (fresh && (rc = begin_file(f, err)) != 0)
        return rc;
    end = fresh ? AP_SPOOL_HEADER : end;
    ap_spool_block_seal(g->bytes.data, g->bytes.len, f->next_number, now_ms);
    if (write_all(f->fd, g->bytes.data, g->bytes.len, end) == 0 && fdatasync(f->fd) == 0) {
        f->next_number++;
        return 0;
    }
    rc = disk_error(err, f, "append");
    if (ftruncate(f->fd, (off_t)end) != 0 || fdatasync(f->fd) != 0)
        f->dead = true;
    return rc;
}

/* Under the lock, which is released meanwhile. */
static void write_group(struct ap_spool_file *f)
{
    struct group *g = f->gathering;
    int64_t now = ap_wall_ms();
    f->gathering = NULL;
    f->writing = true;
    f->being_written = g->bytes.len;
    pthread_mutex_unlock(&f->lock);
    g->rc = write_block(f, g, now, &g->err);
    pthread_mutex_lock(&f->lock);
    f->writing = false;
    f->being_written = 0;
    g->done = true;
    if (g->rc == 0) {
        f->segments[f->count - 1].size += g->bytes.len;
        f->segments[f->count - 1].entries += g->entries;
        f->bytes += g->bytes.len;
        f->entries += g->entries;
        if (!f->oldest_ms)
            f->oldest_ms = now;
    }
    pthread_cond_broadcast(&f->changed);
}

static struct group *join(struct ap_spool_file *f, const void *bytes, size_t len)
{
    static const uint8_t room[AP_SPOOL_HEADER];
    uint8_t prefix[4];
    struct group *g = f->gathering;
    if (!g) {
        g = f->gathering = calloc(1, sizeof *g);
        if (!g)
            abort();
        ap_buf_append(&g->bytes, room, sizeof room);
    }
    ap_put_le32(prefix, (uint32_t)len);
    ap_buf_append(&g->bytes, prefix, sizeof prefix);
    ap_buf_append(&g->bytes, bytes, len);
    g->entries++;
    g->members++;
    return g;
}

int ap_spool_file_append(struct ap_spool_file *f, const void *bytes, size_t len, struct ap_err *err)
{
    pthread_mutex_lock(&f->lock);
    uint64_t waiting = f->being_written + (f->gathering ? f->gathering->bytes.len : 0), need = len + 4 + 2 * AP_SPOOL_HEADER;
    if (need > f->o.max_bytes || f->bytes + waiting > f->o.max_bytes - need || need + waiting > AP_SPOOL_BLOCK_MAX) {
        uint64_t have = f->bytes;
        pthread_mutex_unlock(&f->lock);
        return ap_err_set(err, AP_EBUSY, AP_RETRY, "Kafka is away and the spool is full (%llu of %llu bytes, spool.max_bytes); nothing of this request was kept, send it again later",
                          (unsigned long long)have, (unsigned long long)f->o.max_bytes);
    }
    struct group *g = join(f, bytes, len);
    while (!g->done)
        if (f->writing)
            pthread_cond_wait(&f->changed, &f->lock);
        else
            write_group(f); /* ours: no other can be gathering while ours is not begun */
    int rc = g->rc;
    if (rc && err)
        *err = g->err;
    if (--g->members == 0) {
        ap_buf_free(&g->bytes);
        free(g);
    }
    pthread_mutex_unlock(&f->lock);
    return rc;
}

/* --- reading --- */

static int read_error(struct ap_err *err, const struct ap_spool_file *f, const char *why)
{
    return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "the spool file %s/%016llx.spool cannot be read at byte %llu: %s; what stands there was acknowledged: mend the disk, or restore the file, and restart",
                      f->o.dir, (unsigned long long)f->segments[f->at_segment].first, (unsigned long long)f->at_byte, why);
}

static int read_block(struct ap_spool_file *f, struct ap_buf *block, struct ap_err *err)
{
    char name[AP_SPOOL_NAME];
    pthread_mutex_lock(&f->lock);
    uint64_t first = f->segments[f->at_segment].first, size = f->segments[f->at_segment].size;
    pthread_mutex_unlock(&f->lock);
    ap_spool_name(first, name);
    if (f->read_fd < 0 && (f->read_fd = openat(f->dir, name, O_RDONLY | O_CLOEXEC)) < 0)
        return read_error(err, f, strerror(errno));
    ap_buf_clear(block);
    ap_buf_reserve(block, AP_SPOOL_HEADER);
    if (pread(f->read_fd, block->data, AP_SPOOL_HEADER, (off_t)f->at_byte) != AP_SPOOL_HEADER)
        return read_error(err, f, "the file ends there");
    size_t len = AP_SPOOL_HEADER + ap_spool_block_length(block->data);
    if (len > size - f->at_byte)
        return read_error(err, f, "a block of an impossible length");
    ap_buf_reserve(block, len);
    if (pread(f->read_fd, block->data, len, (off_t)f->at_byte) != (ssize_t)len)
        return read_error(err, f, "the file ends there");
    block->len = len;
    return ap_spool_block_check(block->data, len) == len ? 0 : read_error(err, f, "its checksum does not fit");
}

/* Is there a block at the reader's place? Moves on to the next file where one ends. */
static bool more(struct ap_spool_file *f)
{
    pthread_mutex_lock(&f->lock);
    bool found = false;
    while (f->at_segment < f->count && !(found = f->at_byte < f->segments[f->at_segment].size) && f->at_segment + 1 < f->count) {
        f->at_segment++;
        f->at_byte = AP_SPOOL_HEADER;
        if (f->read_fd >= 0)
            close(f->read_fd);
        f->read_fd = -1;
    }
    pthread_mutex_unlock(&f->lock);
    return found;
}

int ap_spool_file_read(struct ap_spool_file *f, size_t least_bytes, struct ap_buf *out, struct ap_err *err)
{
    struct ap_buf block = {0};
    int rc = 0;
    ap_buf_clear(out);
    while (rc == 0 && out->len <= least_bytes && more(f)) {
        if ((rc = read_block(f, &block, err)) != 0)
            break;
        ap_buf_append(out, block.data + AP_SPOOL_HEADER, block.len - AP_SPOOL_HEADER);
        f->at_byte += block.len;
        for (size_t at = AP_SPOOL_HEADER; at < block.len; at += 4 + ap_le32(block.data + at))
            f->read_entries++;
    }
    ap_buf_free(&block);
    return out->len ? 0 : rc; /* what was read first comes first; the trouble comes again */
}

static void remove_file(struct ap_spool_file *f, const struct ap_spool_segment *s)
{
    char name[AP_SPOOL_NAME];
    ap_spool_name(s->first, name);
    /* In this order, and each on disk before the next: a file that reappears after a power cut leaves no gap. */
    if (unlinkat(f->dir, name, 0) != 0 || fsync(f->dir) != 0)
        ap_warn("spool file %s/%s: %s; what is in it would be published once more at the next start, which changes nothing", f->o.dir, name, strerror(errno));
    f->bytes -= s->size;
}

void ap_spool_file_done(struct ap_spool_file *f)
{
    bool left = more(f);
    pthread_mutex_lock(&f->lock);
    size_t gone = f->at_segment;
    f->entries -= f->read_entries;
    f->read_entries = 0;
    /* The newest one, too, when all of it is read and nobody is about to write behind it. */
    if (!left && f->count && !f->writing && !f->gathering && f->at_byte == f->segments[f->at_segment].size) {
        gone = f->count;
        if (f->fd >= 0)
            close(f->fd);
        f->fd = -1;
    }
    for (size_t i = 0; i < gone; i++)
        remove_file(f, &f->segments[i]);
    if (gone) {
        memmove(f->segments, f->segments + gone, (f->count - gone) * sizeof *f->segments);
        f->count -= gone;
        if (gone > f->at_segment) {
            f->at_byte = AP_SPOOL_HEADER;
            if (f->read_fd >= 0)
                close(f->read_fd);
            f->read_fd = -1;
        }
        f->at_segment = 0;
    }
    if (!f->entries)
        f->oldest_ms = 0;
    pthread_mutex_unlock(&f->lock);
    uint8_t header[AP_SPOOL_HEADER];
    char name[AP_SPOOL_NAME];
    if (!left)
        return;
    ap_spool_name(f->segments[f->at_segment].first, name);
    if (f->read_fd < 0)
        f->read_fd = openat(f->dir, name, O_RDONLY | O_CLOEXEC);
    if (f->read_fd >= 0 && pread(f->read_fd, header, sizeof header, (off_t)f->at_byte) == sizeof header) {
        pthread_mutex_lock(&f->lock);
        f->oldest_ms = ap_spool_block_ms(header);
        pthread_mutex_unlock(&f->lock);
    }
}

bool ap_spool_file_is_empty(struct ap_spool_file *f)
{
    pthread_mutex_lock(&f->lock);
    bool empty = f->entries == 0 && !f->writing && !f->gathering;
    pthread_mutex_unlock(&f->lock);
    return empty;
}

void ap_spool_file_stats(struct ap_spool_file *f, struct ap_spool_stats *out)
{
    pthread_mutex_lock(&f->lock);
    *out = (struct ap_spool_stats){f->bytes, f->entries, f->oldest_ms};
    pthread_mutex_unlock(&f->lock);
}
