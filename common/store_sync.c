/* Commits that do not wait for the disk, and a file that survives a crash of the machine all the same.
 *
 * A commit that waits costs two waits for the disk, and a batch is not seen before. Kafka has the records, so nothing is
 * lost when a region goes back a little and reads them again; what must not happen is a damaged file. With MDB_NOSYNC
 * alone it would: the kernel writes pages in any order, and LMDB takes the pages of older states for new ones.
 *
 * So a sync point is made every few hundred milliseconds, on a thread of its own: the state S as of the last commit is
 * pinned by a read transaction, so that none of its pages is used again (LMDB reuses what was freed before the oldest
 * reader's transaction); its meta page is copied; fdatasync; the copy goes into the file `sync`, and is synced there;
 * then the pin of the point before is let go. Whatever happens to later pages and to both meta pages, S is whole on
 * the disk, and `sync` says where it begins.
 *
 * A writer that finds a point of another boot in `sync`, without the mark of a clean end, writes the copy over both meta
 * pages: the store is at S. Slots after S may have been seen by the indexer and are given out again, so the store gets a
 * new id, which makes the indexer begin anew. Readers wait for that writer. Where the kernel does not tell the boot, every
 * commit waits.
 *
 * `sync`: two places of 512 bytes, used in turn; the valid one with the greater count holds. Integers little-endian:
 *   0 "apsync\0\1"   8 u64 count   16 u64 transaction   24 u64 bytes of a page   32 u64 inode of data.mdb   40 u64 1: clean
 *   48 64 bytes boot id, zeros behind   112 256 bytes: the head of the meta page   368 u64 XXH3-64 of the bytes before
 * The meta page is LMDB's, data version 1 (mdb.c, MDB_page and MDB_meta): u64 page number, u16, u16 flags, u32; then u32
 * magic, u32 version, u64 address, u64 map size, two tables of 48 bytes, u64 last page, u64 transaction; native byte order.
 * Page t % 2 belongs to transaction t. */
#include "common/store_sync.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "common/log.h"
#include "common/store_internal.h"
#include "common/timeutil.h"

enum { PLACE = 512, META = 256, SUM_AT = 368, META_AT = 112, BOOT_AT = 48 };
enum { PAGE_NUMBER_AT = 0, MAGIC_AT = 16, VERSION_AT = 20, TXN_AT = 144 };
#define LMDB_MAGIC 0xBEEFC0DEu
#define LMDB_VERSION 1u
static const char magic[8] = {'a', 'p', 's', 'y', 'n', 'c', 0, 1};

struct point { uint64_t count, txn, page_bytes, inode, clean; char boot[AP_BOOT_ID_MAX]; uint8_t meta[META]; };

/* --- the file --- */

static void encode(const struct point *p, uint8_t out[PLACE])
{
    memset(out, 0, PLACE);
    memcpy(out, magic, sizeof magic);
    ap_put_le64(out + 8, p->count);
    ap_put_le64(out + 16, p->txn);
    ap_put_le64(out + 24, p->page_bytes);
    ap_put_le64(out + 32, p->inode);
    ap_put_le64(out + 40, p->clean);
    memcpy(out + BOOT_AT, p->boot, sizeof p->boot);
    memcpy(out + META_AT, p->meta, META);
    ap_put_le64(out + SUM_AT, XXH3_64bits(out, SUM_AT));
}

static bool decode(const uint8_t in[PLACE], struct point *out)
{
    if (memcmp(in, magic, sizeof magic) != 0 || ap_le64(in + SUM_AT) != XXH3_64bits(in, SUM_AT))
        return false;
    *out = (struct point){.count = ap_le64(in + 8), .txn = ap_le64(in + 16), .page_bytes = ap_le64(in + 24), .inode = ap_le64(in + 32), .clean = ap_le64(in + 40)};
    memcpy(out->boot, in + BOOT_AT, sizeof out->boot);
    memcpy(out->meta, in + META_AT, META);
    return true;
}

/* Half a point, or none, is that of a machine that stopped while the first was written: nothing had been left unsynced. */
static bool read_point(int fd, struct point *out)
{
    uint8_t bytes[2 * PLACE] = {0};
    struct point other;
    ssize_t n = pread(fd, bytes, sizeof bytes, 0);
    bool found = n >= PLACE && decode(bytes, out);
    if (n == 2 * PLACE && decode(bytes + PLACE, &other) && (!found || other.count > out->count)) {
        *out = other;
        found = true;
    }
    return found;
}

static int write_point(const struct ap_store *s, int fd, const struct point *p, struct ap_err *err)
{
    uint8_t bytes[PLACE];
    encode(p, bytes);
    if (pwrite(fd, bytes, PLACE, (off_t)(p->count % 2) * PLACE) != PLACE || fdatasync(fd) != 0)
        return ap_store_fail(s, errno ? errno : EIO, "write `sync`", err);
    return 0;
}

/* --- after a crash of the machine --- */

/* Nothing after the point is sure to be on the disk. */
static bool is_in_doubt(const struct ap_store *s, const struct point *p)
{
    return !p->clean && (!*s->boot || strcmp(s->boot, p->boot) != 0);
}

static int go_back(const struct ap_store *s, const struct point *p, struct ap_err *err)
{
    struct stat st;
    int fd = openat(s->dir_fd, "data.mdb", O_RDWR | O_CLOEXEC), rc = 0;
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = ap_store_fail(s, errno, "go back to its last sync point", err);
    } else if ((uint64_t)st.st_ino != p->inode) {
        rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL,
                        "store %s: data.mdb is not the file that `sync` tells of: it was put there since the machine stopped. If it comes from a snapshot or a "
                        "whole copy, remove `sync`; if it was copied after a crash, move the folder away and rebuild it", s->path);
    } else {
        for (uint64_t i = 0; i < 2 && rc == 0; i++) {
            uint8_t page[META];
            memcpy(page, p->meta, META);
            memcpy(page + PAGE_NUMBER_AT, &i, sizeof i);
            if (pwrite(fd, page, META, (off_t)(i * p->page_bytes)) != META)
                rc = ap_store_fail(s, errno, "go back to its last sync point", err);
        }
        if (rc == 0 && fdatasync(fd) != 0)
            rc = ap_store_fail(s, errno, "go back to its last sync point", err);
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

int ap_sync_recover(struct ap_store *s, int *lock, struct ap_err *err)
{
    struct point p;
    *lock = openat(s->dir_fd, "sync", O_RDWR | O_CLOEXEC);
    if (*lock < 0)
        return errno == ENOENT ? 0 : ap_store_fail(s, errno, "open `sync`", err);
    if (flock(*lock, LOCK_EX) != 0)
        return ap_store_fail(s, errno, "lock `sync`", err);
    if (!read_point(*lock, &p) || !is_in_doubt(s, &p))
        return 0;
    int rc = go_back(s, &p, err);
    return rc ? rc : 1;
}

int ap_sync_recovered(struct ap_store *s, int lock, struct ap_err *err)
{
    struct point p;
    if (!read_point(lock, &p))
        return 0;
    p.count++;
    p.clean = 1;
    memcpy(p.boot, s->boot, sizeof p.boot);
    ap_warn("store %s: the machine has been started again since it was last written; it went back to its last sync point, and what came after is read again", s->path);
    return write_point(s, lock, &p, err);
}

int ap_sync_check_reader(const struct ap_store *s, struct ap_err *err)
{
    struct point p;
    if (s->dir_fd < 0)
        return 0;
    int fd = openat(s->dir_fd, "sync", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : ap_store_fail(s, errno, "open `sync`", err);
    bool doubt = read_point(fd, &p) && is_in_doubt(s, &p);
    close(fd);
    return doubt ? ap_err_set(err, AP_ENOTREADY, AP_RETRY, "store %s: the machine has been started again since it was last written; the consumer puts it right when it starts",
                              s->path) : 0;
}

/* --- sync points --- */

/* Under the write lock: the last commit's number, its meta page, and a read transaction that pins it. */
static int pin(struct ap_store *s, MDB_txn **out, struct point *p)
{
    struct ap_sync *y = &s->sync;
    MDB_txn *write;
    MDB_stat stat;
    mdb_filehandle_t fd;
    uint32_t magic_read, version;
    uint64_t txn;
    int rc = mdb_txn_begin(s->env, NULL, 0, &write);
    if (rc)
        return rc;
    pthread_mutex_lock(&y->lock);
    y->dirty = false;
    y->captured = y->since < y->captured ? y->since : y->captured;
    y->since = AP_HLC_MAX;
    pthread_mutex_unlock(&y->lock);
    rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, out);
    if (rc == 0 && (rc = mdb_env_get_fd(s->env, &fd)) == 0 && (rc = mdb_env_stat(s->env, &stat)) == 0) {
        p->txn = mdb_txn_id(*out);
        p->page_bytes = stat.ms_psize;
        if (pread(fd, p->meta, META, (off_t)(p->txn % 2 * stat.ms_psize)) != META)
            rc = errno ? errno : EIO;
        memcpy(&magic_read, p->meta + MAGIC_AT, sizeof magic_read);
        memcpy(&version, p->meta + VERSION_AT, sizeof version);
        memcpy(&txn, p->meta + TXN_AT, sizeof txn);
        if (rc == 0 && (magic_read != LMDB_MAGIC || version != LMDB_VERSION || txn != p->txn))
            rc = MDB_INVALID;
    }
    mdb_txn_abort(write);
    return rc;
}

static int make_point(struct ap_store *s, bool clean, struct ap_err *err)
{
    struct ap_sync *y = &s->sync;
    struct point p = {.count = y->count + 1, .clean = clean};
    struct stat st;
    MDB_txn *pinned = NULL;
    mdb_filehandle_t fd;
    memcpy(p.boot, s->boot, sizeof p.boot);
    int rc = pin(s, &pinned, &p);
    int64_t start_ns = ap_mono_ns();
    if (rc == 0)
        rc = mdb_env_get_fd(s->env, &fd);
    if (rc == 0 && (fstat(fd, &st) != 0 || fdatasync(fd) != 0))
        rc = errno;
    p.inode = rc ? 0 : (uint64_t)st.st_ino;
    int bad = rc ? ap_store_fail(s, rc, "sync it", err) : write_point(s, y->fd, &p, err);
    if (bad) {
        if (pinned)
            mdb_txn_abort(pinned);
        return bad;
    }
    if (y->pinned)
        mdb_txn_abort(y->pinned);
    y->pinned = pinned;
    pthread_mutex_lock(&y->lock);
    y->count++;
    y->points++;
    y->captured = AP_HLC_MAX;
    y->last_ns = ap_mono_ns() - start_ns;
    pthread_mutex_unlock(&y->lock);
    return 0;
}

static void wait_until(struct ap_sync *y, int64_t mono_ns)
{
    struct timespec at = {mono_ns / 1000000000, mono_ns % 1000000000};
    while (!y->stop && pthread_cond_timedwait(&y->wake, &y->lock, &at) != ETIMEDOUT)
        ;
}

static void *keep(void *arg)
{
    struct ap_store *s = arg;
    struct ap_sync *y = &s->sync;
    int64_t last_ns = ap_mono_ns();
    pthread_setname_np(pthread_self(), "store sync");
    pthread_mutex_lock(&y->lock);
    while (!y->stop && !y->failed) {
        if (!y->dirty) {
            pthread_cond_wait(&y->wake, &y->lock);
            continue;
        }
        wait_until(y, last_ns + s->sync_ms * INT64_C(1000000));
        if (y->stop)
            break;
        pthread_mutex_unlock(&y->lock);
        struct ap_err err;
        int rc = make_point(s, false, &err);
        last_ns = ap_mono_ns();
        pthread_mutex_lock(&y->lock);
        if (rc) {
            y->failed = rc;
            y->err = err;
        }
    }
    pthread_mutex_unlock(&y->lock);
    return NULL;
}

/* --- its life --- */

static int remove_file(const struct ap_store *s, struct ap_err *err)
{
    if (unlinkat(s->dir_fd, "sync", 0) != 0)
        return errno == ENOENT ? 0 : ap_store_fail(s, errno, "remove `sync`", err);
    return fsync(s->dir_fd) != 0 ? ap_store_fail(s, errno, "sync its folder", err) : 0;
}

static int first_point(struct ap_store *s, struct ap_err *err)
{
    struct point there;
    struct ap_sync *y = &s->sync;
    y->fd = openat(s->dir_fd, "sync", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (y->fd < 0)
        return ap_store_fail(s, errno, "open `sync`", err);
    y->count = read_point(y->fd, &there) ? there.count : 0;
    int rc = make_point(s, false, err);
    if (rc == 0 && fsync(s->dir_fd) != 0)
        rc = ap_store_fail(s, errno, "sync its folder", err);
    return rc;
}

int ap_sync_start(struct ap_store *s, struct ap_err *err)
{
    struct ap_sync *y = &s->sync;
    if (s->sync_ms > 0 && !*s->boot)
        ap_warn("store %s: the kernel does not tell which start of the machine this is; every commit waits for the disk", s->path);
    if (s->sync_ms <= 0 || !*s->boot)
        return remove_file(s, err);
    int rc = first_point(s, err);
    if (rc)
        return rc;
    rc = mdb_env_set_flags(s->env, MDB_NOSYNC, 1);
    if (rc == 0)
        rc = pthread_create(&y->thread, NULL, keep, s);
    y->runs = rc == 0;
    return rc ? ap_store_fail(s, rc, "start its sync points", err) : 0;
}

void ap_sync_stop(struct ap_store *s)
{
    struct ap_sync *y = &s->sync;
    struct ap_err err;
    if (y->runs) {
        pthread_mutex_lock(&y->lock);
        y->stop = true;
        pthread_cond_signal(&y->wake);
        pthread_mutex_unlock(&y->lock);
        pthread_join(y->thread, NULL);
        y->runs = false;
        if (!y->failed && make_point(s, true, &err))
            ap_warn("%s", err.msg); /* after a crash of the machine it goes back a little */
    }
    if (y->pinned)
        mdb_txn_abort(y->pinned);
    y->pinned = NULL;
    if (y->fd >= 0)
        close(y->fd);
    y->fd = -1;
}

int ap_sync_committed(struct ap_store *s, uint64_t clock, struct ap_err *err)
{
    struct ap_sync *y = &s->sync;
    if (!y->runs)
        return 0;
    pthread_mutex_lock(&y->lock);
    y->since = clock < y->since ? clock : y->since;
    if (!y->dirty)
        pthread_cond_signal(&y->wake); /* a point that is due already needs no reminding */
    y->dirty = true;
    int rc = y->failed;
    if (rc)
        *err = y->err;
    pthread_mutex_unlock(&y->lock);
    return rc;
}

uint64_t ap_sync_unsynced(struct ap_store *s)
{
    struct ap_sync *y = &s->sync;
    pthread_mutex_lock(&y->lock);
    uint64_t clock = y->since < y->captured ? y->since : y->captured;
    pthread_mutex_unlock(&y->lock);
    return clock;
}

void ap_store_syncs(struct ap_store *s, uint64_t *points, double *last_seconds)
{
    pthread_mutex_lock(&s->sync.lock);
    *points = s->sync.points;
    *last_seconds = (double)s->sync.last_ns / 1e9;
    pthread_mutex_unlock(&s->sync.lock);
}

void ap_sync_init(struct ap_store *s)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    s->sync = (struct ap_sync){.fd = -1, .since = AP_HLC_MAX, .captured = AP_HLC_MAX};
    pthread_mutex_init(&s->sync.lock, NULL);
    pthread_cond_init(&s->sync.wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

void ap_sync_fini(struct ap_store *s)
{
    pthread_cond_destroy(&s->sync.wake);
    pthread_mutex_destroy(&s->sync.lock);
}
