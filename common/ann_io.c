/* Serialization. The callbacks of FAISS's C API have no argument, so theirs lies in the thread.
 *
 * Reading trusts its input: lengths are allocated for before bytes are there, tables are indexed without a look. So bytes
 * from elsewhere are compared first with what FAISS itself writes for an object of the expected shape: everything but the
 * contents of tables must be the same, byte by byte. Tables are what is written as many small items at once (floats,
 * codes); lengths, parameters and flags are written one by one. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include <faiss/c_api/index_io_c.h>
#include "common/ann_internal.h"

#define CHUNK 65536

static _Thread_local struct {
    struct ap_buf *out;                      /* to memory */
    const uint8_t *p; size_t left;           /* from memory, or compared with */
    bool differs;
    int fd, error;
    uint8_t *chunk; size_t chunk_len;        /* small fields on their way to fd */
} io;

static int write_with(const FaissIndex *index, size_t (*fn)(const void *, size_t, size_t))
{
    FaissCustomIOWriter *writer = NULL;
    if (faiss_CustomIOWriter_new(&writer, fn) != 0)
        return -1;
    int rc = faiss_write_index_custom(index, (FaissIOWriter *)writer, 0);
    faiss_CustomIOWriter_free(writer);
    return rc == 0 ? 0 : -1;
}

static int read_with(size_t (*fn)(void *, size_t, size_t), FaissIndex **out)
{
    FaissCustomIOReader *reader = NULL;
    if (faiss_CustomIOReader_new(&reader, fn) != 0)
        return -1;
    int rc = faiss_read_index_custom((FaissIOReader *)reader, 0, out);
    faiss_CustomIOReader_free(reader);
    return rc == 0 ? 0 : -1;
}

/* ---- memory ---- */

static size_t to_memory(const void *ptr, size_t size, size_t items)
{
    ap_buf_append(io.out, ptr, size * items);
    return items;
}

int ap_ann_write_memory(const FaissIndex *index, struct ap_buf *out)
{
    io.out = out;
    int rc = write_with(index, to_memory);
    io.out = NULL;
    return rc;
}

static size_t from_memory(void *ptr, size_t size, size_t items)
{
    size_t can = size ? io.left / size : 0;
    items = items < can ? items : can;
    if (size * items > 0)
        memcpy(ptr, io.p, size * items);
    io.p += size * items;
    io.left -= size * items;
    return items;
}

int ap_ann_read_memory(const void *bytes, size_t len, size_t *left, FaissIndex **out)
{
    io.p = bytes;
    io.left = len;
    int rc = read_with(from_memory, out);
    *left = io.left;
    io.p = NULL;
    io.left = 0;
    return rc;
}

static size_t compare(const void *ptr, size_t size, size_t items)
{
    size_t n = size * items;
    bool table = items > 1 && size <= 4;
    if (n > io.left || (!table && n > 0 && memcmp(ptr, io.p, n) != 0)) {
        io.differs = true;
        return 0;
    }
    io.p += n;
    io.left -= n;
    return items;
}

int ap_ann_shape_equal(const FaissIndex *model, const void *bytes, size_t len, bool *equal)
{
    io.p = bytes;
    io.left = len;
    io.differs = false;
    int rc = write_with(model, compare);
    *equal = rc == 0 && !io.differs && io.left == 0;
    rc = io.differs ? 0 : rc;
    io.p = NULL;
    io.left = 0;
    return rc;
}

/* ---- files ---- */

static bool flush(void)
{
    for (size_t at = 0; at < io.chunk_len;) {
        ssize_t n = write(io.fd, io.chunk + at, io.chunk_len - at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            io.error = n < 0 ? errno : EIO;
            return false;
        }
        at += (size_t)n;
    }
    io.chunk_len = 0;
    return true;
}

static size_t to_fd(const void *ptr, size_t size, size_t items)
{
    const uint8_t *p = ptr;
    for (size_t left = size * items; left > 0;) {
        size_t n = CHUNK - io.chunk_len < left ? CHUNK - io.chunk_len : left;
        memcpy(io.chunk + io.chunk_len, p, n);
        io.chunk_len += n;
        p += n;
        left -= n;
        if (io.chunk_len == CHUNK && !flush())
            return 0;
    }
    return items;
}

int ap_ann_write_fd(const FaissIndex *index, int fd, int *io_error)
{
    io.fd = fd;
    io.error = 0;
    io.chunk_len = 0;
    io.chunk = malloc(CHUNK);
    if (!io.chunk) {
        *io_error = ENOMEM;
        return -1;
    }
    int rc = write_with(index, to_fd) == 0 && flush() ? 0 : -1;
    free(io.chunk);
    io.chunk = NULL;
    *io_error = io.error;
    return rc;
}

/* Reads no further than asked: what follows in the file is the caller's. */
static size_t from_fd(void *ptr, size_t size, size_t items)
{
    uint8_t *p = ptr;
    for (size_t left = size * items; left > 0;) {
        ssize_t n = read(io.fd, p, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            io.error = n < 0 ? errno : 0;
            return 0;
        }
        p += n;
        left -= (size_t)n;
    }
    return items;
}

int ap_ann_read_fd(int fd, int *io_error, FaissIndex **out)
{
    io.fd = fd;
    io.error = 0;
    int rc = read_with(from_fd, out);
    *io_error = io.error;
    return rc;
}
