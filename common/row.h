/* A row: the state of one point, and the rule by which mutations change it.
 *
 * A row holds the newest UPSERT or DELETE of the point (the base), the vector and payload it set, and every patched key
 * or whole-payload overwrite whose version is newer than the base's. A patch before its upsert is kept without a base.
 * Merging is commutative, associative and idempotent: any order, any number of times, gives the same bytes. The bytes
 * do not depend on the region or the slot, so equal rows have equal checksums everywhere.
 *
 * Encoding, little-endian, no padding beyond what is shown:
 *    0  u64  checksum: XXH3-64 (seed 0) of all bytes that follow
 *    8  u8   format (1)      9 u8 flags (AP_ROW_*)    10 u8 region length   11 u8 0
 *   12  u32  bytes of patches
 *   16  24   key (collection id, point id)
 *   40  u64  hlc             48 u64 writer            56 u64 codec (0 unless AP_ROW_CODEC)
 *   64  u32  vector bytes    68 u32 payload bytes
 *   72  vector, payload, region, patches
 * Patches, sorted by key: see row.c. The payload of a PATCH is a JSON object of these words, all optional:
 *   {"set":{...}} set keys, {"delete":["k",...]} delete keys, {"overwrite":{...}} replace the whole payload (in one patch
 *   with set or delete: replace first), {"clear":true} the same with {}. */
#ifndef ANTIPODE_COMMON_ROW_H
#define ANTIPODE_COMMON_ROW_H
#include "common/event.h"

#define AP_ROW_HEADER 72
enum { AP_ROW_BASE = 1, AP_ROW_TOMBSTONE = 2, AP_ROW_VECTOR = 4, AP_ROW_PAYLOAD = 8, AP_ROW_CODEC = 16, AP_ROW_PATCHES = 32 };

/* A row in place: everything points into the bytes it was read from. */
struct ap_row {
    const uint8_t *bytes; size_t len;
    uint64_t checksum;
    uint8_t flags;
    struct ap_key key;
    struct ap_version version;  /* of the base; zero without AP_ROW_BASE */
    uint64_t codec;
    const uint8_t *vector; size_t vector_len;
    const char *payload; size_t payload_len;   /* as the base set it, patches not applied */
    const uint8_t *patches; size_t patches_len;
};
static inline int ap_row_is_live(const struct ap_row *r) { return (r->flags & (AP_ROW_BASE | AP_ROW_TOMBSTONE)) == AP_ROW_BASE; }

/* Checks lengths and format, and the checksum when verify is set. AP_ECORRUPT. */
int ap_row_read(const void *bytes, size_t len, int verify, struct ap_row *out, struct ap_err *err);

/* Merge a mutation (UPSERT, PATCH or DELETE) into current (NULL: the point was never seen). The new row is appended to
 * out (which the caller cleared). Returns 1 when the row changed, 0 when the mutation was older or already in (out is then
 * left empty), negative on error (AP_EINVAL, POISON: a patch whose payload is no such object). A current row that fails
 * its checksum counts as never seen. */
int ap_row_merge(const struct ap_key *key, const struct ap_row *current, const struct ap_mutation *m, struct ap_buf *out, struct ap_err *err);

/* Merge two rows of one key (both sound): what all mutations of both would have made. As ap_row_merge, 1 when it differs
 * from current. */
int ap_row_join(const struct ap_row *current, const struct ap_row *other, struct ap_buf *out);

/* The payload as a reader sees it: base payload with patches applied, JSON text appended to out ("{}" never; nothing
 * appended when there is no payload, or the row is not live). Without patches the text is as received, with patches its
 * keys are sorted. AP_ECORRUPT, POISON: patches upon a base payload that is no JSON object. */
int ap_row_payload(const struct ap_row *row, struct ap_buf *out, struct ap_err *err);
/* Newest version in the row, patches included: what Qdrant's `version` of a point is made from. */
struct ap_version ap_row_newest(const struct ap_row *row);

#endif
