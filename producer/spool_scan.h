/* The bytes of the spool's files (spool_file.h has the format), and what is found of them at start. */
#ifndef ANTIPODE_PRODUCER_SPOOL_SCAN_H
#define ANTIPODE_PRODUCER_SPOOL_SCAN_H
#include <stdint.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/ident.h"

#define AP_SPOOL_HEADER 32 /* of a file, and of a block */
#define AP_SPOOL_NAME 32
#define AP_SPOOL_BLOCK_MAX ((uint64_t)1 << 30)

struct ap_spool_segment { uint64_t first, size, entries; }; /* number of its first block; bytes; entries found or appended */

struct ap_spool_found {
    int (*visit)(void *arg, const uint8_t *bytes, size_t len, struct ap_err *err);
    void *arg;
    struct ap_spool_segment *segments; size_t count; /* malloc'ed, also after a failure */
    uint64_t next_number, entries;
    int64_t oldest_ms;
};
/* Reads all files of the folder (dir: open; path: for messages) and cuts a torn tail. AP_FATAL as ap_spool_file_open. */
int ap_spool_scan(int dir, const char *path, const struct ap_region *region, struct ap_spool_found *found, struct ap_err *err);

void ap_spool_name(uint64_t first, char out[AP_SPOOL_NAME]);
void ap_spool_header(const struct ap_region *region, uint64_t first, uint8_t out[AP_SPOOL_HEADER]);
/* block: room for the header, then entries; len in all. Fills the header in. */
void ap_spool_block_seal(uint8_t *block, size_t len, uint64_t number, int64_t now_ms);
uint32_t ap_spool_block_length(const uint8_t *header); /* of what follows the header; not checked */
uint64_t ap_spool_block_number(const uint8_t *header);
int64_t ap_spool_block_ms(const uint8_t *header);
/* Bytes of the block that begins here, header included; 0 when it does not check. */
size_t ap_spool_block_check(const uint8_t *bytes, size_t len);

#endif
