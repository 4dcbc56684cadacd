/* A queue of entries on disk: appended with fsync, read in order, removed when whoever read them is done.
 *
 * Invariant: an entry whose append returned 0 is there after kill -9 or a power cut at any instant, until ap_spool_file_done.
 * Entries that were read and not done are read again after a restart: reading is at least once. The order is that of the
 * appends. What stands in a file is never changed; files only grow at their end and go as a whole.
 *
 * Folder: files <number, 16 hex digits>.spool, ascending; the folder itself is locked against a second process.
 *   file   32 bytes: "APSPOOL1" (the digit is the format), region (16 bytes, NUL-padded), number of its first block; then blocks
 *   block  32 bytes: u32 magic, u32 bytes that follow, u64 number (from 1 without a hole, through all files), u64 wall clock in
 *          ms, u64 XXH3-64 of the 24 bytes before and of what follows; then entries, each behind its length (u32)
 * All little-endian. A block is what one fsync covers: concurrent appends share one. A block that does not check, with no
 * good one behind it at the end of the newest file, was never acknowledged: a torn tail, cut off at opening. Any other one is
 * damage, and opening fails: what was acknowledged is not passed over in silence. */
#ifndef ANTIPODE_PRODUCER_SPOOL_FILE_H
#define ANTIPODE_PRODUCER_SPOOL_FILE_H
#include <stdbool.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/ident.h"

struct ap_spool_file;

struct ap_spool_options {
    const char *dir;         /* made when missing; borrowed */
    struct ap_region region; /* whose writes these are */
    uint64_t max_bytes;      /* of all files together */
    uint64_t file_bytes;     /* a file that has as many is followed by another */
};
struct ap_spool_stats {
    uint64_t bytes, entries; /* on disk and not done */
    int64_t oldest_ms;       /* wall clock when the oldest of them was appended; 0: none */
};

/* visit: called for every entry that is there, in order; its failure is opening's. Blocks for as long as reading takes.
 * AP_FATAL: the folder cannot be used or is used, files are damaged or another region's; the message says what to do. */
int ap_spool_file_open(struct ap_spool_file **out, const struct ap_spool_options *o,
                       int (*visit)(void *arg, const uint8_t *bytes, size_t len, struct ap_err *err), void *arg, struct ap_err *err);
/* Nobody may be appending. */
void ap_spool_file_close(struct ap_spool_file **f);
/* Returns when it is on disk, or with why it is not, then nothing of it stays. Any thread. AP_EBUSY: full. AP_ENOTREADY:
 * the disk does not take it. Both RETRY. */
int ap_spool_file_append(struct ap_spool_file *f, const void *bytes, size_t len, struct ap_err *err);
/* The entries behind those read before, whole blocks until least_bytes are exceeded, into out (cleared): u32 length, bytes,
 * and so on. Nothing there: out is empty. One reading thread. */
int ap_spool_file_read(struct ap_spool_file *f, size_t least_bytes, struct ap_buf *out, struct ap_err *err);
/* All that was read may go. Files that hold nothing else are removed. */
void ap_spool_file_done(struct ap_spool_file *f);
/* Everything that was appended has been read and is done. */
bool ap_spool_file_is_empty(struct ap_spool_file *f);
void ap_spool_file_stats(struct ap_spool_file *f, struct ap_spool_stats *out); /* any thread */

#endif
