/* Restoring: check, build beside, exchange. The index goes first: with the old store it is only thrown away and built anew. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/parallel.h"
#include "common/segment_file.h"
#include "ctl/snapshot.h"

enum { SPARE_BYTES = 16 << 20, THREADS = 4 };

struct restoring {
    const struct ap_restore *r;
    const json_t *manifest;
    const char *region;
    bool moves; /* to another region than the snapshot is for */
    bool index; /* segments are restored, too */
    char store_new[AP_PATH_MAX], index_new[AP_PATH_MAX];
    uint64_t id;
};

static const char *text_of(const json_t *file, const char *key)
{
    const char *text = json_string_value(json_object_get(file, key));
    return text ? text : "";
}

static bool is_of(const char *name, const char *folder)
{
    size_t n = strlen(folder);
    return !strncmp(name, folder, n) && name[n] == '/' && !strchr(name + n + 1, '/') && !strstr(name, "..") && strlen(name) < 120;
}

/* ---- before anything changes ---- */

static int check_free(const struct restoring *s, struct ap_err *err)
{
    const struct ap_restore *r = s->r;
    char file[AP_PATH_MAX + 32];
    snprintf(file, sizeof file, "%s/writer.lock", r->store);
    if (ap_file_is_locked(file))
        return ap_err_set(err, AP_EBUSY, AP_FATAL, "store %s: a consumer has it open; stop it first (rebuild exchanges stores under running daemons)", r->store);
    snprintf(file, sizeof file, "%s/lock", r->index ? r->index : r->store);
    if (r->index && ap_file_is_locked(file))
        return ap_err_set(err, AP_EBUSY, AP_FATAL, "index %s: an indexer has it open; stop it first", r->index);
    if (!r->replace && !ap_folder_is_empty(r->store))
        return ap_err_set(err, AP_EEXISTS, AP_FATAL, "store %s: is not empty; --replace puts it aside as %s.old", r->store, r->store);
    if (!r->replace && r->index && !s->moves && !ap_folder_is_empty(r->index))
        return ap_err_set(err, AP_EEXISTS, AP_FATAL, "index %s: is not empty; --replace puts it aside as %s.old", r->index, r->index);
    return 0;
}

static int check_room(const struct restoring *s, struct ap_err *err)
{
    uint64_t store = 0, index = 0;
    size_t i;
    json_t *file;
    json_array_foreach(json_object_get(s->manifest, "files"), i, file) {
        uint64_t bytes = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
        *(is_of(text_of(file, "name"), "index") ? &index : &store) += bytes;
    }
    int rc = ap_folder_room(s->r->store, store * (s->moves ? 2 : 1) + (s->r->index ? index : 0) + SPARE_BYTES, err);
    return rc || !s->r->index ? rc : ap_folder_room(s->r->index, index + SPARE_BYTES, err);
}

/* ---- building ---- */

static int copy_checked(const struct restoring *s, const json_t *file, const char *to, struct ap_err *err)
{
    char from[AP_PATH_MAX + 128], hex[17];
    uint64_t bytes = 0, hash = 0;
    snprintf(from, sizeof from, "%s/%s", s->r->snapshot, text_of(file, "name"));
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ap_err_set(err, errno == ENOENT ? AP_ECORRUPT : AP_EIO, AP_FATAL, "%s: %s; nothing was changed", from, strerror(errno));
    int rc = ap_file_copy(fd, to, &bytes, &hash, err);
    close(fd);
    snprintf(hex, sizeof hex, "%016" PRIx64, hash);
    if (rc == 0 && (strcmp(hex, text_of(file, "xxh3")) != 0 || bytes != (uint64_t)json_integer_value(json_object_get(file, "bytes"))))
        rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: is damaged: its checksum is %s, not %s; nothing was changed", from, hex, text_of(file, "xxh3"));
    return rc;
}

/* Once more, without the pages that hold what was dropped. */
static int compact(const char *folder, struct ap_err *err)
{
    char old[AP_PATH_MAX + 16], new[AP_PATH_MAX + 16];
    struct ap_store *store;
    int rc = ap_store_open_any(&store, folder, err);
    if (rc)
        return rc;
    snprintf(old, sizeof old, "%s/data.mdb", folder);
    snprintf(new, sizeof new, "%s/data.new", folder);
    int fd = open(new, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    rc = fd < 0 ? ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", new, strerror(errno)) : ap_store_copy(store, fd, err);
    if (rc == 0 && fsync(fd) != 0)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", new, strerror(errno));
    if (fd >= 0)
        close(fd);
    ap_store_close(&store);
    if (rc == 0 && rename(new, old) != 0)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", old, strerror(errno));
    return rc;
}

/* Where a file of the snapshot goes; false when it is none of what is restored. */
static bool place_of(const struct restoring *s, const char *name, char out[AP_PATH_MAX + 128])
{
    if (strcmp(name, "store/data.mdb") == 0)
        snprintf(out, AP_PATH_MAX + 128, "%s/data.mdb", s->store_new);
    else if (s->index && is_of(name, "index"))
        snprintf(out, AP_PATH_MAX + 128, "%s/%s", s->index_new, name + strlen("index/"));
    else
        return false;
    return true;
}

static int copy_one(void *arg, size_t i, int thread, struct ap_err *err)
{
    const struct restoring *s = arg;
    const json_t *file = json_array_get(json_object_get(s->manifest, "files"), i);
    char to[AP_PATH_MAX + 128];
    (void)thread;
    return place_of(s, text_of(file, "name"), to) ? copy_checked(s, file, to, err) : 0;
}

static int build_store(struct restoring *s, struct ap_err *err)
{
    char lock[AP_PATH_MAX + 32];
    int rc = ap_store_adopt(s->store_new, s->region, &s->id, err);
    if (rc == 0 && s->moves)
        rc = compact(s->store_new, err);
    snprintf(lock, sizeof lock, "%s/lock.mdb", s->store_new);
    unlink(lock);
    return rc ? rc : ap_file_sync(s->store_new, err);
}

static int build_index(struct restoring *s, struct ap_err *err)
{
    int rc = 0;
    size_t i;
    json_t *file;
    json_array_foreach(json_object_get(s->manifest, "files"), i, file) {
        char to[AP_PATH_MAX + 128];
        if (rc || !is_of(text_of(file, "name"), "index") || !place_of(s, text_of(file, "name"), to))
            continue;
        int fd = open(to, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            return ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", to, strerror(errno));
        rc = ap_segment_file_adopt(fd, s->id, err);
        if (rc == 0 && fsync(fd) != 0)
            rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", to, strerror(errno));
        close(fd);
    }
    return rc ? rc : ap_file_sync(s->index_new, err);
}

/* All files side by side, each written and hashed in one pass; then what makes them a store and an index of their own. */
static int build(struct restoring *s, struct ap_err *err)
{
    int rc = ap_folder_remove(s->store_new, err);
    if (rc == 0)
        rc = ap_folder_make(s->store_new, err);
    if (rc == 0 && s->index)
        rc = ap_folder_remove(s->index_new, err);
    if (rc == 0 && s->index)
        rc = ap_folder_make(s->index_new, err);
    if (rc == 0)
        rc = ap_parallel(THREADS, json_array_size(json_object_get(s->manifest, "files")), copy_one, s, err);
    if (rc == 0)
        rc = build_store(s, err);
    return rc || !s->index ? rc : build_index(s, err);
}

/* ---- all ---- */

static int restore(struct restoring *s, struct ap_err *err)
{
    char old[AP_PATH_MAX + 16];
    const struct ap_restore *r = s->r;
    s->index = r->index && !s->moves;
    int rc = check_free(s, err);
    if (rc == 0)
        rc = check_room(s, err);
    if (rc == 0)
        rc = build(s, err);
    if (rc == 0 && s->index) {
        snprintf(old, sizeof old, "%s.old", r->index);
        rc = ap_folder_replace(s->index_new, r->index, old, err);
    }
    if (rc == 0) {
        snprintf(old, sizeof old, "%s.old", r->store);
        rc = ap_folder_replace(s->store_new, r->store, old, err);
    }
    return rc;
}

int ap_snapshot_restore(const struct ap_restore *r, json_t **manifest, struct ap_err *err)
{
    struct restoring s = {.r = r};
    struct ap_err ignored;
    *manifest = ap_snapshot_manifest(r->snapshot, err);
    if (!*manifest)
        return err->code;
    s.manifest = *manifest;
    s.region = r->region ? r->region : text_of(*manifest, "region");
    s.moves = strcmp(s.region, text_of(*manifest, "region")) != 0;
    snprintf(s.store_new, sizeof s.store_new, "%.4000s.new", r->store);
    snprintf(s.index_new, sizeof s.index_new, "%.4000s.new", r->index ? r->index : "");
    int rc = restore(&s, err);
    if (rc) {
        (void)ap_folder_remove(s.store_new, &ignored);
        if (r->index)
            (void)ap_folder_remove(s.index_new, &ignored);
        json_decref(*manifest);
        *manifest = NULL;
    }
    return rc;
}
