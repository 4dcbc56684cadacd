/* Snapshots: a folder with a copy of a worker's store, the sealed segments that fit it, and a manifest.
 *
 *   NAME/manifest.json   format, what it is of, where it stands, each file with its length and XXH3-64; the manifest's own last
 *   NAME/store/data.mdb  a compact copy of one read transaction (common/store_copy.h)
 *   NAME/index/ *.seg    sealed segments; opened before that transaction begins, so they know no slot that it lacks
 *
 * A snapshot is made in a folder beside and renamed when all is synced: one that has its name is whole. Restoring checks
 * everything before it changes anything, builds the new folders beside the old ones, and exchanges them: kill -9 at any time
 * leaves the old store or the new one. */
#ifndef ANTIPODE_CTL_SNAPSHOT_H
#define ANTIPODE_CTL_SNAPSHOT_H
#include <jansson.h>
#include "common/store_copy.h"
#include "ctl/files.h"

#define AP_SNAPSHOT_FORMAT 1

/* Make one of the store, under `name` in folder `into` (made when missing). index: folder of the segments, or NULL. region: that
 * of the place it is for; another one than the store's leaves out what may not leave it (raw vectors, segments, offsets).
 * *path (AP_PATH_MAX) is where it is. */
int ap_snapshot_create(const char *store, const char *index, const char *into, const char *name, const char *region, char *path, struct ap_err *err);
/* Its manifest; a new reference. AP_ENOTFOUND: none there; AP_ECORRUPT: damaged, or of another format. */
json_t *ap_snapshot_manifest(const char *path, struct ap_err *err);
/* Every file's length and checksum. */
int ap_snapshot_verify(const char *path, const json_t *manifest, struct ap_err *err);

struct ap_restore {
    const char *snapshot;
    const char *store, *index; /* folders to be; index may be NULL */
    const char *region;        /* of the place; NULL: the snapshot's */
    bool replace;              /* what is there may go: it is kept as STORE.old, INDEX.old */
};
/* Nobody may have the folders open. */
int ap_snapshot_restore(const struct ap_restore *r, json_t **manifest, struct ap_err *err);

#endif
