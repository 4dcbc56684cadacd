/* What a rebuild begins with: nothing, a snapshot, or a copy of the serving store. The file `boot` comes last: a folder without it,
 * or with that of another start of the machine, is not gone on with. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/boot.h"
#include "ctl/rebuild.h"
#include "ctl/snapshot.h"

enum { SPARE_BYTES = 64 << 20 };

static bool is_of_this_boot(const char *store)
{
    char path[AP_PATH_MAX + 32], now[AP_BOOT_ID_MAX], then[AP_BOOT_ID_MAX];
    snprintf(path, sizeof path, "%s/boot", store);
    return ap_boot_id(now) && ap_boot_read(path, then) && strcmp(now, then) == 0;
}

static int check_same(const struct ap_rebuild_options *o, const char *store, struct ap_err *err)
{
    struct ap_replay *there = malloc(sizeof *there);
    if (!there)
        abort();
    int rc = ap_replay_read(store, there, err);
    char *wanted = o->replay ? ap_replay_text(o->replay) : NULL, *has = rc == 1 ? ap_replay_text(there) : NULL;
    free(there);
    if (rc >= 0)
        rc = wanted && (!has || strcmp(wanted, has) != 0)
            ? ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: what an interrupted rebuild has left was to be read again from another point; go on without --from-time and "
                         "--from-offset, or throw it away with --fresh", store) : 0;
    free(wanted);
    free(has);
    return rc;
}

/* How much more than the serving store uses: its copies, and what it grows by. */
static int check_room(const struct ap_rebuild_options *o, const char *store, struct ap_err *err)
{
    struct ap_store *serving;
    struct ap_store_stats stats;
    struct ap_err ignored;
    if (ap_store_open_any(&serving, o->places->store, &ignored))
        return 0; /* there is nothing to go by */
    int rc = ap_store_stats(serving, &stats, err);
    ap_store_close(&serving);
    return rc ? rc : ap_folder_room(store, stats.used_bytes * (o->replay && !o->snapshot ? 4 : 2) + SPARE_BYTES, err);
}

static int restore(const struct ap_rebuild_options *o, const char *snapshot, const char *store, const char *index, struct ap_err *err)
{
    const struct ap_restore r = {.snapshot = snapshot, .store = store, .index = index, .region = o->places->region};
    json_t *manifest;
    int rc = ap_snapshot_restore(&r, &manifest, err);
    if (rc == 0)
        json_decref(manifest);
    return rc;
}

/* A snapshot that nobody else sees. */
static int copy_serving(const struct ap_rebuild_options *o, const char *store, const char *index, struct ap_err *err)
{
    char folder[AP_PATH_MAX + 32], path[AP_PATH_MAX];
    struct ap_err ignored;
    snprintf(folder, sizeof folder, "%s.copy", store);
    int rc = ap_folder_remove_deep(folder, err);
    if (rc == 0)
        rc = ap_snapshot_create(o->places->store, o->places->index, folder, "serving", o->places->region, path, err);
    if (rc == 0)
        rc = restore(o, path, store, index, err);
    (void)ap_folder_remove_deep(folder, &ignored);
    return rc;
}

static int write_replay(const struct ap_rebuild_options *o, const char *store, struct ap_err *err)
{
    char path[AP_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/replay", store);
    char *text = ap_replay_text(o->replay);
    int rc = ap_file_write_text(path, text, err);
    free(text);
    return rc;
}

int ap_rebuild_begin(const struct ap_rebuild_options *o, const char *store, const char *index, bool *resumed, struct ap_err *err)
{
    char path[AP_PATH_MAX + 32], boot[AP_BOOT_ID_MAX];
    *resumed = !o->fresh && is_of_this_boot(store);
    if (*resumed)
        return check_same(o, store, err);
    int rc = ap_folder_remove(store, err);
    if (rc == 0)
        rc = ap_folder_remove(index, err);
    if (rc == 0)
        rc = check_room(o, store, err);
    if (rc == 0)
        rc = o->snapshot ? restore(o, o->snapshot, store, index, err) : o->replay ? copy_serving(o, store, index, err) : ap_folder_make(store, err);
    if (rc == 0 && o->replay)
        rc = write_replay(o, store, err);
    snprintf(path, sizeof path, "%s/boot", store);
    (void)ap_boot_id(boot);
    return rc ? rc : ap_file_write_text(path, boot, err);
}

int ap_rebuild_seal(const char *store, struct ap_err *err)
{
    static const char *const marks[] = {"boot", "replay", AP_STORE_READING};
    char path[AP_PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/data.mdb", store);
    int rc = ap_file_sync(path, err);
    for (size_t i = 0; rc == 0 && i < sizeof marks / sizeof *marks; i++) {
        snprintf(path, sizeof path, "%s/%s", store, marks[i]);
        unlink(path);
    }
    return rc ? rc : ap_file_sync(store, err);
}
