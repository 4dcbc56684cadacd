#include "ctl/files.h"
#include "common/fd.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

enum { CHUNK = 1 << 20 };

static int failed(const char *path, const char *what, struct ap_err *err)
{
    return ap_err_set(err, errno == ENOSPC || errno == EDQUOT ? AP_ENOSPC : AP_EIO, AP_FATAL, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* Read from to its end, hash it, and write it to `to` when that is none negative. */
static int pump(int from, const char *from_name, int to, const char *to_name, uint64_t *bytes, uint64_t *hash, struct ap_err *err)
{
    uint8_t *chunk = malloc(CHUNK);
    XXH3_state_t *state = XXH3_createState();
    if (!chunk || !state)
        abort();
    XXH3_64bits_reset(state);
    int rc = 0;
    *bytes = 0;
    for (;;) {
        ssize_t n = pread(from, chunk, CHUNK, (off_t)*bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = failed(from_name, "be read", err);
        if (n <= 0)
            break;
        XXH3_64bits_update(state, chunk, (size_t)n);
        *bytes += (uint64_t)n;
        if (to >= 0 && ap_write_all(to, chunk, (size_t)n) != 0) {
            rc = failed(to_name, "be written", err);
            break;
        }
        if (to >= 0) /* so that the sync at the end finds most of it written */
            (void)sync_file_range(to, (off_t)*bytes - n, n, SYNC_FILE_RANGE_WRITE);
    }
    *hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    free(chunk);
    return rc;
}

int ap_file_copy(int from, const char *to, uint64_t *bytes, uint64_t *hash, struct ap_err *err)
{
    int fd = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0)
        return failed(to, "be made", err);
    int rc = pump(from, to, fd, to, bytes, hash, err);
    if (rc == 0 && fsync(fd) != 0)
        rc = failed(to, "be synced", err);
    close(fd);
    return rc;
}

int ap_file_hash(const char *path, uint64_t *bytes, uint64_t *hash, struct ap_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return failed(path, "be opened", err);
    int rc = pump(fd, path, -1, NULL, bytes, hash, err);
    close(fd);
    return rc;
}

int ap_file_sync(const char *path, struct ap_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) != 0 ? failed(path, "be synced", err) : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int ap_file_write_text(const char *path, const char *text, struct ap_err *err)
{
    char new[AP_PATH_MAX + 8];
    snprintf(new, sizeof new, "%s.new", path);
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return failed(new, "be made", err);
    int rc = ap_write_all(fd, text, strlen(text)) != 0 || fsync(fd) != 0 ? failed(new, "be written", err) : 0;
    close(fd);
    if (rc == 0 && rename(new, path) != 0)
        rc = failed(path, "be named", err);
    return rc;
}

/* ---- folders ---- */

int ap_folder_make(const char *path, struct ap_err *err)
{
    return mkdir(path, 0750) == 0 || errno == EEXIST ? 0 : failed(path, "be made", err);
}

static int remove_deep(const char *path, int depth, struct ap_err *err)
{
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : failed(path, "be read", err);
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        char inner[AP_PATH_MAX + 300];
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        if (lstat(inner, &st) != 0)
            rc = failed(inner, "be looked at", err);
        else if (S_ISDIR(st.st_mode) && depth > 0)
            rc = remove_deep(inner, depth - 1, err);
        else if (unlink(inner) != 0)
            rc = failed(inner, "be removed", err);
    }
    closedir(dir);
    if (rc == 0 && rmdir(path) != 0)
        rc = failed(path, "be removed", err);
    return rc;
}

int ap_folder_remove(const char *path, struct ap_err *err)
{
    return remove_deep(path, 1, err);
}

int ap_folder_remove_deep(const char *path, struct ap_err *err)
{
    return remove_deep(path, 3, err);
}

bool ap_folder_is_empty(const char *path)
{
    DIR *dir = opendir(path);
    bool empty = true;
    if (!dir)
        return errno == ENOENT;
    for (struct dirent *e; empty && (e = readdir(dir));)
        empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    closedir(dir);
    return empty;
}

static void parent_of(const char *path, char out[AP_PATH_MAX])
{
    snprintf(out, AP_PATH_MAX, "%s", path);
    for (size_t n = strlen(out); n > 1 && out[n - 1] == '/'; n--)
        out[n - 1] = '\0';
    char *slash = strrchr(out, '/');
    if (!slash)
        snprintf(out, AP_PATH_MAX, ".");
    else
        slash[slash == out] = '\0';
}

int ap_folder_replace(const char *new, const char *path, const char *old, struct ap_err *err)
{
    char parent[AP_PATH_MAX];
    int rc = 0;
    if (ap_folder_is_empty(path)) {
        if (rename(new, path) != 0) /* takes the place of an empty folder */
            return failed(path, "be put in its place", err);
    } else {
        rc = ap_folder_remove(old, err);
        if (rc == 0 && renameat2(AT_FDCWD, new, AT_FDCWD, path, RENAME_EXCHANGE) != 0)
            rc = failed(path, "be exchanged", err);
        if (rc == 0 && rename(new, old) != 0)
            rc = failed(old, "be named", err);
    }
    parent_of(path, parent);
    return rc ? rc : ap_file_sync(parent, err);
}

int ap_folder_room(const char *path, uint64_t bytes, struct ap_err *err)
{
    char at[AP_PATH_MAX];
    struct statvfs fs;
    snprintf(at, sizeof at, "%s", path);
    while (statvfs(at, &fs) != 0) {
        if (errno != ENOENT || !strcmp(at, ".") || !strcmp(at, "/"))
            return failed(at, "be asked for its room", err);
        char above[AP_PATH_MAX];
        parent_of(at, above);
        memcpy(at, above, sizeof at);
    }
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room < bytes)
        return ap_err_set(err, AP_ENOSPC, AP_FATAL, "%s: there is room for %" PRIu64 " MB and %" PRIu64 " MB are needed; nothing was changed", path, room >> 20, (bytes >> 20) + 1);
    return 0;
}

bool ap_file_is_locked(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool locked = flock(fd, LOCK_EX | LOCK_NB) != 0;
    close(fd);
    return locked;
}
