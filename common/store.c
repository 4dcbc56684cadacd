/* The store as a folder and an LMDB environment: opening, what it says about itself, and the two small things beside it.
 *
 * Opening checks that the store was made for this region and worker and by a format we know. A reader that comes before
 * the writer gets AP_ENOTREADY. Everything that can go wrong afterwards goes through ap_store_fail(), which knows what
 * each error means for whoever has to act. LMDB must not be opened twice by one process: threads share the ap_store. */
#include "common/store.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>
#include "common/store_internal.h"

#define MAX_READERS 1022
#define FOLDER_MODE 0750
#define FILE_MODE 0640
#define SEEN_TRIES 100
#define FULL_BYTES (1 << 20) /* a disk with less has no room for a batch */

static const char *const db_names[AP_DB_COUNT] = {"log", "raw", "graves", "held", "positions", "offsets", "control", "digests", "meta"};

/* LMDB says EIO of a write that came short, which is how a disk takes its last bytes. */
static bool is_full(const struct ap_store *s)
{
    struct statvfs disk;
    return statvfs(s->path, &disk) == 0 && (uint64_t)disk.f_bavail * disk.f_frsize < FULL_BYTES;
}

int ap_store_fail(const struct ap_store *s, int rc, const char *what, struct ap_err *err)
{
    const char *path = s->path;
    if (rc == EIO && is_full(s))
        rc = ENOSPC;
    switch (rc) {
    case MDB_MAP_FULL:
        return ap_err_set(err, AP_ENOSPC, AP_FATAL,
                          "store %s: cannot %s: its map of %zu bytes is full; raise the map size, or see why the indexer does not "
                          "let old slots go; nothing that was committed is lost", path, what, s->map_bytes);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ap_err_set(err, AP_ENOSPC, AP_FATAL,
                          "store %s: cannot %s: %s; free space there and start again; nothing that was committed is lost",
                          path, what, strerror(rc));
    case ENOMEM:
        return ap_err_set(err, AP_ENOMEM, AP_FATAL,
                          "store %s: cannot %s: no memory or address space for a map of %zu bytes", path, what, s->map_bytes);
    case MDB_READERS_FULL:
        return ap_err_set(err, AP_EBUSY, AP_RETRY, "store %s: cannot %s: all %d read slots are taken", path, what, MAX_READERS);
    case MDB_MAP_RESIZED:
        return ap_err_set(err, AP_EINVAL, AP_FATAL,
                          "store %s: cannot %s: another process uses a larger map than ours of %zu bytes; give both the same map size",
                          path, what, s->map_bytes);
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_PANIC:
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL,
                          "store %s: cannot %s: %s; the file is damaged: move the folder away and rebuild it from a snapshot or the logs",
                          path, what, mdb_strerror(rc));
    default:
        return ap_err_set(err, AP_EIO, AP_FATAL, "store %s: cannot %s: %s", path, what, mdb_strerror(rc));
    }
}

int ap_store_read_state(const struct ap_store *s, MDB_txn *txn, struct ap_store_state *out, struct ap_err *err)
{
    MDB_val key = ap_val("state", 5), value;
    int rc = mdb_get(txn, s->db[AP_DB_META], &key, &value);
    if (rc != 0 || value.mv_size < AP_STATE_BYTES)
        return ap_store_fail(s, rc ? rc : MDB_CORRUPTED, "read its state", err);
    const uint8_t *v = value.mv_data;
    *out = (struct ap_store_state){ap_le64(v), ap_le64(v + 8), ap_le64(v + 16), ap_le64(v + 24)};
    return 0;
}

static int open_databases(struct ap_store *s, MDB_txn *txn, bool create)
{
    for (int i = 0; i < AP_DB_COUNT; i++) {
        unsigned flags = (create ? MDB_CREATE : 0) | (i == AP_DB_LOG || i == AP_DB_RAW || i == AP_DB_GRAVES ? MDB_INTEGERKEY : 0);
        int rc = mdb_dbi_open(txn, db_names[i], flags, &s->db[i]);
        if (rc != 0)
            return rc;
    }
    return 0;
}

static int write_identity(struct ap_store *s, MDB_txn *txn, const struct ap_store_options *o)
{
    uint8_t identity[AP_IDENTITY_BYTES] = {0}, state[AP_STATE_BYTES] = {0};
    uint64_t id;
    if (getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id)
        return EIO;
    ap_put_le32(identity, AP_STORE_FORMAT);
    ap_put_le32(identity + 4, (uint32_t)o->worker);
    ap_put_le32(identity + 8, (uint32_t)o->workers);
    ap_put_le64(identity + 16, id);
    memcpy(identity + 24, o->region, strlen(o->region));
    ap_put_le64(state, 1); /* slots are from 1 */
    ap_put_le64(state + 8, 1);
    MDB_val key = ap_val("identity", 8), value = ap_val(identity, sizeof identity);
    int rc = mdb_put(txn, s->db[AP_DB_META], &key, &value, 0);
    key = ap_val("state", 5);
    value = ap_val(state, sizeof state);
    return rc ? rc : mdb_put(txn, s->db[AP_DB_META], &key, &value, 0);
}

/* MDB_NOTFOUND from mdb_get: no identity. Otherwise checked, with *err filled when it is another's. */
static int check_identity(struct ap_store *s, MDB_txn *txn, const struct ap_store_options *o, bool *found, struct ap_err *err)
{
    MDB_val key = ap_val("identity", 8), value;
    int rc = mdb_get(txn, s->db[AP_DB_META], &key, &value);
    *found = rc == 0;
    if (rc == MDB_NOTFOUND)
        return 0;
    if (rc != 0 || value.mv_size < 4)
        return ap_store_fail(s, rc ? rc : MDB_CORRUPTED, "read what it was made for", err);
    const uint8_t *v = value.mv_data;
    if (ap_le32(v) != AP_STORE_FORMAT || value.mv_size < AP_IDENTITY_BYTES)
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL,
                          "store %s: its format is %u, this program writes %d; use the program that made it, or move the folder away "
                          "and rebuild it from a snapshot or the logs", s->path, ap_le32(v), AP_STORE_FORMAT);
    int32_t worker = (int32_t)ap_le32(v + 4), workers = (int32_t)ap_le32(v + 8);
    char region[17] = {0};
    memcpy(region, v + 24, 16);
    if (strcmp(region, o->region) != 0)
        return ap_err_set(err, AP_ECONFLICT, AP_FATAL,
                          "store %s: it belongs to region '%s', not '%s'; point to this region's own folder, or correct the region",
                          s->path, region, o->region);
    if (worker != o->worker || workers != o->workers)
        return ap_err_set(err, AP_ECONFLICT, AP_FATAL,
                          "store %s: it belongs to worker %d of %d, not %d of %d; partitions move between workers only by a rebuild "
                          "in a new folder", s->path, worker, workers, o->worker, o->workers);
    s->id = ap_le64(v + 16);
    return 0;
}

static int not_ready(const struct ap_store *s, struct ap_err *err)
{
    return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "store %s: not made yet; the consumer makes it when it starts", s->path);
}

static int open_reader(struct ap_store *s, const struct ap_store_options *o, struct ap_err *err)
{
    MDB_txn *txn;
    bool found = false;
    int rc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (rc != 0)
        return ap_store_fail(s, rc, "open a read transaction", err);
    rc = open_databases(s, txn, false);
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc == MDB_NOTFOUND ? not_ready(s, err) : ap_store_fail(s, rc, "open its tables", err);
    }
    int bad = check_identity(s, txn, o, &found, err);
    rc = mdb_txn_commit(txn); /* keeps the handles of the tables */
    if (bad == 0 && rc != 0)
        bad = ap_store_fail(s, rc, "open its tables", err);
    return bad ? bad : found ? 0 : not_ready(s, err);
}

int ap_store_renew_id(MDB_txn *txn, MDB_dbi meta, const char *region, uint64_t *id)
{
    uint8_t identity[AP_IDENTITY_BYTES];
    MDB_val key = ap_val("identity", 8), value;
    int rc = getrandom(id, sizeof *id, 0) == (ssize_t)sizeof *id ? mdb_get(txn, meta, &key, &value) : EIO;
    if (rc != 0)
        return rc;
    memcpy(identity, value.mv_data, sizeof identity);
    ap_put_le64(identity + 16, *id);
    if (region) {
        memset(identity + 24, 0, 16);
        memcpy(identity + 24, region, strlen(region));
    }
    value = ap_val(identity, sizeof identity);
    return mdb_put(txn, meta, &key, &value, 0);
}

/* The tables and the identity come to be in one transaction, so that a reader finds all or nothing. */
static int create(struct ap_store *s, const struct ap_store_options *o, bool went_back, struct ap_err *err)
{
    MDB_txn *txn;
    bool found = false;
    int rc = mdb_txn_begin(s->env, NULL, 0, &txn);
    if (rc != 0)
        return ap_store_fail(s, rc, "begin a transaction", err);
    rc = open_databases(s, txn, true);
    int bad = rc ? ap_store_fail(s, rc, "make its tables", err) : check_identity(s, txn, o, &found, err);
    if (bad == 0 && !found) {
        rc = write_identity(s, txn, o);
        bad = rc ? ap_store_fail(s, rc, "make its tables", err) : check_identity(s, txn, o, &found, err);
    } else if (bad == 0 && went_back) {
        rc = ap_store_renew_id(txn, s->db[AP_DB_META], NULL, &s->id); /* its slots mean nothing to whoever has seen some before */
        bad = rc ? ap_store_fail(s, rc, "give it a new id", err) : 0;
    }
    if (bad) {
        mdb_txn_abort(txn);
        return bad;
    }
    rc = mdb_txn_commit(txn);
    return rc ? ap_store_fail(s, rc, "make its tables", err) : 0;
}

static int open_environment(struct ap_store *s, struct ap_err *err)
{
    struct stat st;
    if (s->read_only && (fstatat(s->dir_fd, "data.mdb", &st, 0) != 0 || st.st_size == 0))
        return not_ready(s, err);
    int rc = mdb_env_create(&s->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(s->env, s->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(s->env, AP_DB_COUNT);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(s->env, MAX_READERS);
    /* No read-ahead: rows are read one by one, all over the file. No thread-local slots: a snapshot may change threads. */
    if (rc == 0)
        rc = mdb_env_open(s->env, s->path, MDB_NOTLS | MDB_NORDAHEAD | (s->read_only ? MDB_RDONLY : 0) | (s->unsynced ? MDB_NOSYNC : 0), FILE_MODE);
    return rc ? ap_store_fail(s, rc, "open its file", err) : 0;
}

static int open_as_reader(struct ap_store *s, const struct ap_store_options *o, struct ap_err *err)
{
    int rc = ap_sync_check_reader(s, err);
    if (rc == 0)
        rc = open_environment(s, err);
    return rc ? rc : open_reader(s, o, err);
}

static int open_as_writer(struct ap_store *s, const struct ap_store_options *o, struct ap_err *err)
{
    int lock, rc = ap_sync_recover(s, &lock, err);
    bool went_back = rc == 1;
    if (rc >= 0)
        rc = open_environment(s, err);
    if (rc == 0)
        rc = create(s, o, went_back, err);
    if (rc == 0 && went_back)
        rc = ap_sync_recovered(s, lock, err);
    if (lock >= 0)
        close(lock);
    return rc;
}

int ap_store_open(struct ap_store **out, const struct ap_store_options *options, struct ap_err *err)
{
    *out = NULL;
    if (options->worker < 0 || options->worker >= options->workers || strlen(options->region) > 15)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "store %s: no such worker or region: %d of %d in '%s'", options->path,
                          options->worker, options->workers, options->region);
    struct ap_store *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(options->path))) {
        free(s);
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "store %s: no memory", options->path);
    }
    s->map_bytes = options->map_bytes;
    s->mapped_bytes = options->mapped_bytes;
    s->statm_fd = options->mapped_bytes ? open("/proc/self/statm", O_RDONLY | O_CLOEXEC) : -1;
    s->read_only = options->read_only;
    s->unsynced = options->unsynced && !options->read_only;
    s->sync_ms = options->unsynced ? 0 : options->sync_ms;
    if (options->boot)
        snprintf(s->boot, sizeof s->boot, "%s", options->boot);
    else
        (void)ap_boot_id(s->boot);
    ap_sync_init(s);
    pthread_mutex_init(&s->pool_lock, NULL);
    int rc = 0;
    if (!s->read_only && mkdir(s->path, FOLDER_MODE) != 0 && errno != EEXIST)
        rc = ap_store_fail(s, errno, "make its folder", err);
    s->dir_fd = rc ? -1 : open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (rc == 0 && s->dir_fd < 0)
        rc = s->read_only && errno == ENOENT ? not_ready(s, err) : ap_store_fail(s, errno, "open its folder", err);
    if (rc == 0)
        rc = s->read_only ? open_as_reader(s, options, err) : open_as_writer(s, options, err);
    if (rc == 0 && !s->read_only && fsync(s->dir_fd) != 0)
        rc = ap_store_fail(s, errno, "sync its folder", err);
    if (rc != 0) {
        ap_store_close(&s);
        return rc;
    }
    *out = s;
    return 0;
}

void ap_store_close(struct ap_store **store)
{
    struct ap_store *s = *store;
    if (!s)
        return;
    while (s->pool) {
        struct ap_snapshot *snapshot = s->pool;
        s->pool = snapshot->next;
        mdb_txn_abort(snapshot->txn);
        free(snapshot);
    }
    if (s->env)
        mdb_env_close(s->env);
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    ap_sync_fini(s);
    if (s->statm_fd >= 0)
        close(s->statm_fd);
    pthread_mutex_destroy(&s->pool_lock);
    free(s->path);
    free(s);
    *store = NULL;
}

void ap_store_read_ahead(const struct ap_store *store)
{
    enum { STEP = 128 << 10 }; /* Linux takes no more of one wish than a device's largest request */
    struct stat st;
    int fd = openat(store->dir_fd, "data.mdb", O_RDONLY | O_CLOEXEC);
    off_t most = (off_t)sysconf(_SC_PHYS_PAGES) / 4 * sysconf(_SC_PAGESIZE);
    if (fd >= 0 && fstat(fd, &st) == 0)
        for (off_t at = 0; at < st.st_size && at < most; at += STEP)
            posix_fadvise(fd, at, STEP, POSIX_FADV_WILLNEED);
    if (fd >= 0)
        close(fd);
}

bool ap_store_replaced(const struct ap_store *store)
{
    char file[4200];
    struct stat own, there, data;
    snprintf(file, sizeof file, "%s/data.mdb", store->path);
    return fstat(store->dir_fd, &own) == 0 && stat(store->path, &there) == 0 && (own.st_ino != there.st_ino || own.st_dev != there.st_dev) &&
           stat(file, &data) == 0 && data.st_size > 0;
}

uint64_t ap_store_id(const struct ap_store *store)
{
    return store->id;
}

int ap_store_stats(struct ap_store *store, struct ap_store_stats *out, struct ap_err *err)
{
    struct ap_snapshot *s;
    struct stat st;
    memset(out, 0, sizeof *out);
    int rc = ap_snapshot_begin(store, &s, err);
    if (rc != 0)
        return rc;
    for (int i = 0; i < AP_DB_COUNT; i++) {
        MDB_stat db;
        int lmdb = mdb_stat(s->txn, store->db[i], &db);
        if (lmdb != 0) {
            rc = ap_store_fail(store, lmdb, "count its pages", err);
            break;
        }
        out->used_bytes += (db.ms_branch_pages + db.ms_leaf_pages + db.ms_overflow_pages) * db.ms_psize;
    }
    out->rows = s->state.rows;
    out->first_slot = s->state.first_slot;
    out->next_slot = s->state.next_slot;
    ap_snapshot_end(&s);
    if (rc == 0 && fstatat(store->dir_fd, "data.mdb", &st, 0) != 0)
        rc = ap_store_fail(store, errno, "look at its file", err);
    out->file_bytes = rc ? 0 : (uint64_t)st.st_size;
    return rc;
}

/* --- seen --- the slot, then its complement mixed with the store's id: half a write, or that of another store, is none */

int ap_store_seen_read(struct ap_store *store, uint64_t *seen)
{
    uint8_t bytes[16];
    *seen = 0;
    int fd = openat(store->dir_fd, "seen", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : AP_EIO;
    /* A write may be under way; it is over before we have looked a second time. */
    for (int i = 0; i < SEEN_TRIES && *seen == 0; i++)
        if (pread(fd, bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes && (ap_le64(bytes) ^ ap_le64(bytes + 8)) == ~store->id)
            *seen = ap_le64(bytes);
    close(fd);
    return 0;
}

int ap_store_seen_write(struct ap_store *store, uint64_t seen, struct ap_err *err)
{
    uint8_t bytes[16];
    ap_put_le64(bytes, seen);
    ap_put_le64(bytes + 8, ~store->id ^ seen);
    int fd = openat(store->dir_fd, "seen", O_WRONLY | O_CREAT | O_CLOEXEC, FILE_MODE);
    if (fd < 0)
        return ap_store_fail(store, errno, "open `seen`", err);
    ssize_t n = pwrite(fd, bytes, sizeof bytes, 0);
    int rc = n == (ssize_t)sizeof bytes ? 0 : ap_store_fail(store, n < 0 ? errno : ENOSPC, "write `seen`", err);
    close(fd);
    return rc;
}

/* --- wake.sock --- named through the folder's descriptor: a socket's path has room for 107 bytes only */

static void wake_address(const struct ap_store *store, struct sockaddr_un *out)
{
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    snprintf(out->sun_path, sizeof out->sun_path, "/proc/self/fd/%d/wake.sock", store->dir_fd);
}

int ap_store_wake_listen(struct ap_store *store, int *fd, struct ap_err *err)
{
    struct sockaddr_un address;
    wake_address(store, &address);
    *fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return ap_store_fail(store, errno, "make wake.sock", err);
    if ((unlinkat(store->dir_fd, "wake.sock", 0) != 0 && errno != ENOENT) ||
        bind(*fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int rc = ap_store_fail(store, errno, "make wake.sock", err);
        close(*fd);
        *fd = -1;
        return rc;
    }
    return 0;
}

void ap_store_wake_drain(int fd)
{
    char byte;
    while (recv(fd, &byte, 1, MSG_DONTWAIT) >= 0)
        ;
}

void ap_store_poke(const struct ap_store *store, int fd)
{
    struct sockaddr_un address;
    wake_address(store, &address);
    /* Nobody there, or its queue is full: then nobody needs waking. */
    (void)!sendto(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&address, sizeof address);
}
