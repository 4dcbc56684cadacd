/* Copies. The copy itself is LMDB's own, in one read transaction. */
#include "common/store_copy.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/store_internal.h"

#define READERS 1022

static int failed(const char *path, int rc, const char *what, struct ap_err *err)
{
    struct ap_store named = {.path = (char *)(uintptr_t)path};
    return ap_store_fail(&named, rc, what, err);
}

/* An environment with as large a map as it was made with. */
static int open_plain(const char *path, unsigned flags, size_t map_bytes, MDB_env **out, struct ap_err *err)
{
    char file[4096];
    struct stat st;
    *out = NULL;
    snprintf(file, sizeof file, "%s/data.mdb", path);
    if (stat(file, &st) != 0 || st.st_size == 0)
        return ap_err_set(err, AP_ENOTREADY, AP_FATAL, "store %s: there is none", path);
    struct ap_store folder = {.path = (char *)(uintptr_t)path, .dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    (void)ap_boot_id(folder.boot);
    int doubt = ap_sync_check_reader(&folder, err);
    if (folder.dir_fd >= 0)
        close(folder.dir_fd);
    if (doubt)
        return doubt;
    MDB_env *env;
    int rc = mdb_env_create(&env);
    if (rc)
        return failed(path, rc, "open its file", err);
    rc = map_bytes ? mdb_env_set_mapsize(env, map_bytes) : 0;
    if (rc == 0)
        rc = mdb_env_set_maxdbs(env, AP_DB_COUNT);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(env, READERS);
    if (rc == 0)
        rc = mdb_env_open(env, path, MDB_NOTLS | flags, 0640);
    if (rc) {
        mdb_env_close(env);
        return failed(path, rc, "open its file", err);
    }
    *out = env;
    return 0;
}

int ap_store_identify(const char *path, struct ap_store_identity *out, struct ap_err *err)
{
    MDB_env *env;
    MDB_txn *txn = NULL;
    MDB_dbi meta;
    MDB_envinfo info;
    memset(out, 0, sizeof *out);
    int rc = open_plain(path, MDB_RDONLY, 0, &env, err);
    if (rc)
        return rc;
    MDB_val key = ap_val("identity", 8), value = {0};
    rc = mdb_env_info(env, &info);
    if (rc == 0)
        rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", 0, &meta);
    if (rc == 0)
        rc = mdb_get(txn, meta, &key, &value);
    if (rc == 0 && value.mv_size >= AP_IDENTITY_BYTES) {
        const uint8_t *v = value.mv_data;
        *out = (struct ap_store_identity){.format = ap_le32(v), .worker = (int32_t)ap_le32(v + 4), .workers = (int32_t)ap_le32(v + 8),
                                          .id = ap_le64(v + 16), .map_bytes = info.me_mapsize};
        memcpy(out->region, v + 24, 16);
    }
    int bad = rc == MDB_NOTFOUND ? ap_err_set(err, AP_ENOTREADY, AP_FATAL, "store %s: there is none", path)
              : rc              ? failed(path, rc, "read what it was made for", err) : 0;
    if (bad == 0 && out->format != AP_STORE_FORMAT)
        bad = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "store %s: its format is %u, this program knows %d", path, out->format, AP_STORE_FORMAT);
    if (txn)
        mdb_txn_abort(txn);
    mdb_env_close(env);
    return bad;
}

int ap_store_open_any(struct ap_store **out, const char *path, struct ap_err *err)
{
    struct ap_store_identity who;
    *out = NULL;
    int rc = ap_store_identify(path, &who, err);
    if (rc)
        return rc;
    struct ap_store_options options = {.path = path, .map_bytes = who.map_bytes, .region = who.region, .worker = who.worker, .workers = who.workers, .read_only = true};
    return ap_store_open(out, &options, err);
}

int ap_store_copy(struct ap_store *store, int fd, struct ap_err *err)
{
    int rc = mdb_env_copyfd2(store->env, fd, MDB_CP_COMPACT);
    return rc ? ap_store_fail(store, rc, "write a copy of it", err) : 0;
}

static int empty_table(MDB_txn *txn, const char *name)
{
    MDB_dbi db;
    int rc = mdb_dbi_open(txn, name, strcmp(name, "raw") ? 0 : MDB_INTEGERKEY, &db);
    return rc ? rc : mdb_drop(txn, db, 0);
}

int ap_store_adopt(const char *path, const char *region, uint64_t *id, struct ap_err *err)
{
    struct ap_store_identity who;
    MDB_env *env;
    MDB_txn *txn = NULL;
    MDB_dbi meta;
    int bad = ap_store_identify(path, &who, err);
    if (bad == 0)
        bad = open_plain(path, 0, who.map_bytes, &env, err);
    if (bad)
        return bad;
    int rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", 0, &meta);
    if (rc == 0)
        rc = ap_store_renew_id(txn, meta, region, id);
    if (rc == 0) {
        if (strcmp(region, who.region) != 0) {
            rc = empty_table(txn, "raw");
            rc = rc ? rc : empty_table(txn, "offsets");
        }
        MDB_val key = ap_val("settled", 7); /* said of another time, or another region's dead letters */
        int gone = rc ? 0 : mdb_del(txn, meta, &key, NULL);
        rc = rc ? rc : gone == MDB_NOTFOUND ? 0 : gone;
    }
    if (rc == 0)
        rc = mdb_txn_commit(txn);
    else if (txn)
        mdb_txn_abort(txn);
    mdb_env_close(env);
    return rc ? failed(path, rc, "make it another store", err) : 0;
}

/* ---- positions against positions ---- */

/* How far `have` is in what w names: the mark there, or all of it. */
static uint64_t reached(const struct ap_position *have, size_t count, const struct ap_position *w)
{
    uint64_t best = 0;
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *h = &have[i];
        if (h->partition != w->partition || strcmp(h->topic, w->topic) != 0)
            continue;
        if (h->stream == w->stream && h->mark > best)
            best = h->mark;
        if (h->finished && h->lineage && h->lineage == w->lineage && h->stream > w->stream)
            return w->mark;
    }
    return best < w->mark ? best : w->mark;
}

struct ap_positions_gap ap_positions_gap(const struct ap_position *have, size_t have_count, const struct ap_position *wanted, size_t wanted_count)
{
    struct ap_positions_gap gap = {0};
    for (size_t i = 0; i < wanted_count; i++) {
        gap.wanted += wanted[i].mark;
        gap.missing += wanted[i].mark - reached(have, have_count, &wanted[i]);
    }
    return gap;
}
