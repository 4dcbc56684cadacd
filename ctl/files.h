/* Files and folders, with errors that say which: copying with a checksum, removing trees, exchanging folders. */
#ifndef ANTIPODE_CTL_FILES_H
#define ANTIPODE_CTL_FILES_H
#include <stdbool.h>
#include <stdint.h>
#include "common/err.h"

#define AP_PATH_MAX 4096

/* Copy an open file into a new one, synced. *bytes and *hash (XXH3-64) of what was copied. */
int ap_file_copy(int from, const char *to, uint64_t *bytes, uint64_t *hash, struct ap_err *err);
int ap_file_hash(const char *path, uint64_t *bytes, uint64_t *hash, struct ap_err *err);
int ap_file_sync(const char *path, struct ap_err *err); /* a file or a folder */
/* Text into a file: beside it, synced, renamed. */
int ap_file_write_text(const char *path, const char *text, struct ap_err *err);

/* Make a folder; that it is there already is no error. */
int ap_folder_make(const char *path, struct ap_err *err);
/* Remove a folder and the files in it, one level of folders deep; that it is not there is no error. */
int ap_folder_remove(const char *path, struct ap_err *err);
int ap_folder_remove_deep(const char *path, struct ap_err *err); /* three levels: a folder of snapshots */
bool ap_folder_is_empty(const char *path); /* or is not there */
/* The folder new becomes path, in one step: at no time is there neither. What was there, if it was not empty, is then old
 * (which is removed before). Syncs the folder above. */
int ap_folder_replace(const char *new, const char *path, const char *old, struct ap_err *err);
/* Is there room for so many bytes where path is, or will be? AP_ENOSPC says how much is missing. */
int ap_folder_room(const char *path, uint64_t bytes, struct ap_err *err);
/* Does a process hold flock on this file? False when there is no such file. */
bool ap_file_is_locked(const char *path);

#endif
