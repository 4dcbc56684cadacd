/* What verification and repair ask of a store beyond its rows: the horizon of collected tombstones, and a new count of the
 * digests. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "common/store_internal.h"

#define RECOUNT_FILE "recount"

uint64_t ap_snapshot_horizon(const struct ap_snapshot *s)
{
    MDB_val key = ap_val("horizon", 7), value;
    if (mdb_get(s->txn, s->store->db[AP_DB_META], &key, &value) != 0 || value.mv_size != 8)
        return 0;
    return ap_le64(value.mv_data);
}

int ap_writer_raise_horizon(struct ap_writer *w, uint64_t hlc, struct ap_err *err)
{
    uint8_t bytes[8];
    if (w->horizon >= hlc)
        return 0;
    ap_put_le64(bytes, hlc);
    MDB_val key = ap_val("horizon", 7), value = ap_val(bytes, sizeof bytes);
    int rc = mdb_put(w->txn, w->store->db[AP_DB_META], &key, &value, 0);
    w->horizon = hlc;
    w->dirty = true;
    return rc ? ap_writer_fail(w, rc, "write its horizon", err) : 0;
}

int ap_store_ask_recount(struct ap_store *store, struct ap_err *err)
{
    int fd = openat(store->dir_fd, RECOUNT_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
    if (fd < 0)
        return ap_store_fail(store, errno, "ask for a new count of its digests", err);
    close(fd);
    return 0;
}

bool ap_store_recount_asked(const struct ap_store *store)
{
    return faccessat(store->dir_fd, RECOUNT_FILE, F_OK, 0) == 0;
}

void ap_store_recount_done(const struct ap_store *store)
{
    unlinkat(store->dir_fd, RECOUNT_FILE, 0);
}
