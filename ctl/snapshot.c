/* Making and checking snapshots. */
#include "ctl/snapshot.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/segment_file.h"
#include "common/timeutil.h"

enum { SEGMENTS_MAX = 65536, LOOKS = 5, SPARE_BYTES = 16 << 20 };

struct segments { char (*names)[64]; int *fds; size_t count, cap; uint64_t bytes; };

/* ---- segments ---- */

static void close_segments(struct segments *s)
{
    for (size_t i = 0; i < s->count; i++)
        close(s->fds[i]);
    free(s->names);
    free(s->fds);
    *s = (struct segments){0};
}

static bool is_segment(const char *name)
{
    size_t len = strlen(name), end = sizeof AP_SEGMENT_FILE_END - 1;
    return len > end && len < 64 && !strcmp(name + len - end, AP_SEGMENT_FILE_END);
}

/* 1: one went away meanwhile, look again. */
static int look_once(const char *index, struct segments *s, struct ap_err *err)
{
    DIR *dir = opendir(index);
    if (!dir)
        return errno == ENOENT ? 0 : ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", index, strerror(errno));
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        struct stat st;
        if (!is_segment(e->d_name))
            continue;
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) != 0) {
            rc = errno == ENOENT ? 1 : ap_err_set(err, AP_EIO, AP_FATAL, "%s/%s: %s", index, e->d_name, strerror(errno));
            break;
        }
        if (s->count == s->cap) {
            s->cap = s->cap ? s->cap * 2 : 64;
            s->names = realloc(s->names, s->cap * sizeof *s->names);
            s->fds = realloc(s->fds, s->cap * sizeof *s->fds);
            if (!s->names || !s->fds)
                abort();
        }
        snprintf(s->names[s->count], sizeof *s->names, "%s", e->d_name);
        s->fds[s->count++] = fd;
        s->bytes += (uint64_t)st.st_size;
        if (s->count > SEGMENTS_MAX)
            rc = ap_err_set(err, AP_ETOOBIG, AP_FATAL, "%s: more than %d segments", index, SEGMENTS_MAX);
    }
    closedir(dir);
    return rc;
}

/* Opened now, copied later: a merge removes names, not open files. */
static int open_segments(const char *index, struct segments *s, struct ap_err *err)
{
    int rc = 1;
    for (int i = 0; rc == 1 && i < LOOKS; i++) {
        close_segments(s);
        rc = look_once(index, s, err);
    }
    return rc == 1 ? ap_err_set(err, AP_EBUSY, AP_RETRY, "%s: its segments change all the time; try again", index) : rc;
}

/* ---- the manifest ---- */

static char *hash_of(const json_t *manifest)
{
    json_t *copy = json_copy((json_t *)(uintptr_t)manifest);
    char *out = malloc(17);
    json_object_del(copy, "check");
    char *text = json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS);
    if (!out || !text)
        abort();
    snprintf(out, 17, "%016" PRIx64, (uint64_t)XXH3_64bits(text, strlen(text)));
    free(text);
    json_decref(copy);
    return out;
}

static void list_file(json_t *files, const char *name, uint64_t bytes, uint64_t hash)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", name, "bytes", (json_int_t)bytes, "xxh3", text));
}

static json_t *positions_json(const struct ap_position *list, size_t count)
{
    json_t *out = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *p = &list[i];
        char stream[17], lineage[17];
        snprintf(stream, sizeof stream, "%016" PRIx64, p->stream);
        snprintf(lineage, sizeof lineage, "%016" PRIx64, p->lineage);
        json_array_append_new(out, json_pack("{s:s, s:s, s:s, s:s, s:i, s:I, s:b}", "stream", stream, "lineage", lineage, "region", p->region.name, "topic",
                                             p->topic, "partition", (int)p->partition, "mark", (json_int_t)p->mark, "finished", p->finished));
    }
    return out;
}

/* What the copied store says of itself. */
static int describe(const char *store, const char *home, int64_t began_ms, json_t *files, json_t **out, struct ap_err *err)
{
    struct ap_store_identity who;
    struct ap_store *copy = NULL;
    struct ap_snapshot *snapshot = NULL;
    struct ap_store_stats stats;
    struct ap_position *positions = NULL;
    size_t count = 0;
    int rc = ap_store_identify(store, &who, err);
    if (rc == 0)
        rc = ap_store_open_any(&copy, store, err);
    if (rc == 0)
        rc = ap_store_stats(copy, &stats, err);
    if (rc == 0)
        rc = ap_snapshot_begin(copy, &snapshot, err);
    if (rc == 0)
        rc = ap_snapshot_positions(snapshot, &positions, &count, err);
    if (rc == 0) {
        char id[17];
        snprintf(id, sizeof id, "%016" PRIx64, who.id);
        *out = json_pack("{s:i, s:i, s:s, s:s, s:i, s:i, s:s, s:I, s:I, s:I, s:I, s:O, s:o}", "format", AP_SNAPSHOT_FORMAT, "store_format", AP_STORE_FORMAT,
                         "region", who.region, "home", home, "worker", (int)who.worker, "workers", (int)who.workers, "store", id, "created_ms",
                         (json_int_t)began_ms, "rows", (json_int_t)stats.rows, "first_slot", (json_int_t)stats.first_slot, "next_slot",
                         (json_int_t)stats.next_slot, "files", files, "positions", positions_json(positions, count));
    }
    ap_snapshot_end(&snapshot);
    ap_store_close(&copy);
    free(positions);
    return rc;
}

json_t *ap_snapshot_manifest(const char *path, struct ap_err *err)
{
    char file[AP_PATH_MAX + 32];
    json_error_t why;
    snprintf(file, sizeof file, "%s/manifest.json", path);
    if (access(file, F_OK) != 0) {
        ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "%s: no snapshot: it has no manifest.json", path);
        return NULL;
    }
    json_t *manifest = json_load_file(file, JSON_REJECT_DUPLICATES, &why);
    const char *check = json_string_value(json_object_get(manifest, "check"));
    char *hash = manifest ? hash_of(manifest) : NULL;
    json_int_t format = json_integer_value(json_object_get(manifest, "format")), store = json_integer_value(json_object_get(manifest, "store_format"));
    int rc = 0;
    if (!json_is_object(manifest))
        rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: is damaged: %s", file, why.text);
    else if (format != AP_SNAPSHOT_FORMAT || store != AP_STORE_FORMAT)
        rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: a snapshot of format %lld with a store of format %lld; this program knows %d and %d: use the one that made it", path,
                        (long long)format, (long long)store, AP_SNAPSHOT_FORMAT, AP_STORE_FORMAT);
    else if (!check || strcmp(check, hash) != 0)
        rc = ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: is damaged: its checksum does not match", file);
    free(hash);
    if (rc) {
        json_decref(manifest);
        return NULL;
    }
    return manifest;
}

int ap_snapshot_verify(const char *path, const json_t *manifest, struct ap_err *err)
{
    size_t i;
    json_t *file;
    json_array_foreach(json_object_get(manifest, "files"), i, file) {
        char name[AP_PATH_MAX + 128], text[17];
        uint64_t bytes, hash, wanted = (uint64_t)json_integer_value(json_object_get(file, "bytes"));
        const char *inner = json_string_value(json_object_get(file, "name")), *check = json_string_value(json_object_get(file, "xxh3"));
        if (!inner || !check || strstr(inner, ".."))
            return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: its manifest names no file in place %zu", path, i);
        snprintf(name, sizeof name, "%s/%.120s", path, inner);
        int rc = ap_file_hash(name, &bytes, &hash, err);
        if (rc)
            return rc;
        snprintf(text, sizeof text, "%016" PRIx64, hash);
        if (bytes != wanted || strcmp(text, check) != 0)
            return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "%s: is damaged: %" PRIu64 " bytes with checksum %s, not %" PRIu64 " with %s", name, bytes, text, wanted, check);
    }
    return 0;
}

/* ---- making one ---- */

static int copy_store(struct ap_store *store, const char *folder, struct ap_err *err)
{
    char file[AP_PATH_MAX + 32];
    int rc = ap_folder_make(folder, err);
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    int fd = rc ? -1 : open(file, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (rc == 0 && fd < 0)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: cannot be made: %s", file, strerror(errno));
    if (rc == 0)
        rc = ap_store_copy(store, fd, err);
    if (rc == 0 && fsync(fd) != 0)
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: cannot be synced: %s", file, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

/* For another region: without what may not leave this one, and without the bytes of that. */
static int convert(const char *folder, const char *whole, const char *region, struct ap_err *err)
{
    struct ap_store *store;
    uint64_t id;
    int rc = ap_store_adopt(whole, region, &id, err);
    if (rc == 0)
        rc = ap_store_open_any(&store, whole, err);
    if (rc)
        return rc;
    rc = copy_store(store, folder, err);
    ap_store_close(&store);
    return rc ? rc : ap_folder_remove(whole, err);
}

static int copy_segments(const struct segments *s, const char *part, json_t *files, struct ap_err *err)
{
    char folder[AP_PATH_MAX + 16], path[AP_PATH_MAX + 128], name[80];
    snprintf(folder, sizeof folder, "%s/index", part);
    int rc = s->count ? ap_folder_make(folder, err) : 0;
    for (size_t i = 0; rc == 0 && i < s->count; i++) {
        uint64_t bytes, hash;
        snprintf(name, sizeof name, "index/%s", s->names[i]);
        snprintf(path, sizeof path, "%s/%s", part, name);
        rc = ap_file_copy(s->fds[i], path, &bytes, &hash, err);
        if (rc == 0)
            list_file(files, name, bytes, hash);
    }
    return rc == 0 && s->count ? ap_file_sync(folder, err) : rc;
}

static int write_manifest(const char *part, json_t *manifest, struct ap_err *err)
{
    char file[AP_PATH_MAX + 32], *check = hash_of(manifest);
    json_object_set_new(manifest, "check", json_string(check));
    char *text = json_dumps(manifest, JSON_INDENT(1));
    snprintf(file, sizeof file, "%s/manifest.json", part);
    int rc = text ? ap_file_write_text(file, text, err) : ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    free(text);
    free(check);
    return rc ? rc : ap_file_sync(part, err);
}

static int fill(struct ap_store *store, const char *home, const struct segments *segments, const char *part, const char *region, struct ap_err *err)
{
    char folder[AP_PATH_MAX + 16], whole[AP_PATH_MAX + 16], file[AP_PATH_MAX + 32];
    int64_t began_ms = ap_wall_ms();
    uint64_t bytes, hash;
    bool leaves = strcmp(region, home) != 0;
    json_t *files = json_array(), *manifest = NULL;
    snprintf(folder, sizeof folder, "%s/store", part);
    snprintf(whole, sizeof whole, "%s/whole", part);
    int rc = ap_folder_make(part, err);
    if (rc == 0)
        rc = copy_store(store, leaves ? whole : folder, err);
    if (rc == 0 && leaves)
        rc = convert(folder, whole, region, err);
    if (rc == 0)
        rc = describe(folder, home, began_ms, files, &manifest, err);
    snprintf(file, sizeof file, "%s/lock.mdb", folder); /* made by looking at it */
    unlink(file);
    snprintf(file, sizeof file, "%s/data.mdb", folder);
    if (rc == 0)
        rc = ap_file_hash(file, &bytes, &hash, err);
    if (rc == 0) {
        list_file(files, "store/data.mdb", bytes, hash);
        rc = copy_segments(segments, part, files, err);
    }
    if (rc == 0)
        rc = ap_file_sync(folder, err);
    if (rc == 0)
        rc = write_manifest(part, manifest, err);
    json_decref(files);
    json_decref(manifest);
    return rc;
}

int ap_snapshot_create(const char *store_path, const char *index, const char *into, const char *name, const char *region, char *path, struct ap_err *err)
{
    struct ap_store_identity who;
    struct ap_store_stats stats;
    struct ap_store *store = NULL;
    struct segments segments = {0};
    char part[AP_PATH_MAX], stamp[64];
    struct ap_err ignored;
    int rc = ap_store_identify(store_path, &who, err);
    if (rc)
        return rc;
    region = region ? region : who.region;
    if (!name) {
        time_t now = time(NULL);
        struct tm utc;
        size_t n = (size_t)snprintf(stamp, sizeof stamp, "%s-%d-", region, (int)who.worker);
        strftime(stamp + n, sizeof stamp - n, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &utc));
        name = stamp;
    }
    snprintf(path, AP_PATH_MAX, "%.3900s/%.150s", into, name);
    snprintf(part, sizeof part, "%.3900s/.%.150s.part", into, name);
    if (access(path, F_OK) == 0)
        return ap_err_set(err, AP_EEXISTS, AP_FATAL, "%s: is there already", path);
    if (index && !strcmp(region, who.region))
        rc = open_segments(index, &segments, err);
    if (rc == 0)
        rc = ap_store_open_any(&store, store_path, err);
    if (rc == 0)
        rc = ap_store_stats(store, &stats, err);
    if (rc == 0)
        rc = ap_folder_room(into, stats.used_bytes * (strcmp(region, who.region) ? 2 : 1) + segments.bytes + SPARE_BYTES, err);
    if (rc == 0)
        rc = ap_folder_make(into, err);
    if (rc == 0)
        rc = ap_folder_remove(part, err);
    if (rc == 0)
        rc = fill(store, who.region, &segments, part, region, err);
    if (rc == 0)
        rc = ap_folder_replace(part, path, part, err);
    if (rc)
        (void)ap_folder_remove(part, &ignored);
    close_segments(&segments);
    ap_store_close(&store);
    return rc;
}
