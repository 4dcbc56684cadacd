/* One write as bytes: its topic and its records, each with the version it was given when it was accepted and with the bytes
 * it is published with. So publishing it twice is publishing the same thing twice.
 *
 *   u8 format, u8 topic bytes, topic, u32 records; of each: key (24), u8 op, u8 flags (1 codec, 2 vector, 4 payload, 8 raw),
 *   u64 codec, u64 hlc, region (16), u64 writer, u32 vector bytes, u32 payload bytes, u32 raw bytes; then these bytes
 * All little-endian. */
#ifndef ANTIPODE_PRODUCER_SPOOL_ENTRY_H
#define ANTIPODE_PRODUCER_SPOOL_ENTRY_H
#include "producer/lanes.h"

/* Appends to out. hlcs[i] is the hlc of records that have no version of their own; region and writer are theirs, too. */
void ap_spool_entry_write(struct ap_buf *out, const char *topic, const struct ap_record *records, size_t n, const uint64_t *hlcs,
                          const struct ap_region *region, uint64_t writer);

struct ap_spool_entry {
    char topic[256];
    struct ap_record *records; size_t count; /* borrow from the bytes and from versions */
    struct ap_version *versions;
    uint64_t newest_hlc;
};
/* AP_ECORRUPT (FATAL). The entry is the caller's to finish, also after a failure. */
int ap_spool_entry_read(struct ap_spool_entry *out, const uint8_t *bytes, size_t len, struct ap_err *err);
void ap_spool_entry_fini(struct ap_spool_entry *e);

#endif
