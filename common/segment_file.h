/* The head of a sealed segment's file, as far as more than the indexer must know it (the whole: indexer/segfile.c). */
#ifndef ANTIPODE_COMMON_SEGMENT_FILE_H
#define ANTIPODE_COMMON_SEGMENT_FILE_H
#include <stdint.h>
#include "common/err.h"

#define AP_SEGMENT_FILE_END ".seg"
#define AP_SEGMENT_FILE_MAGIC_BYTES 8
#define AP_SEGMENT_FILE_STORE 16   /* u64: id of the store whose slots it means */
#define AP_SEGMENT_FILE_HASHED 592 /* u64 there: XXH3-64 of the bytes before */
extern const uint8_t ap_segment_file_magic[AP_SEGMENT_FILE_MAGIC_BYTES];

/* It belongs to another store now, one whose slots mean the same: a copy of its own. fd: read and write. AP_ECORRUPT: it is
 * none, or of another format. */
int ap_segment_file_adopt(int fd, uint64_t store_id, struct ap_err *err);

#endif
