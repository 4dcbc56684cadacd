/* Verification over HTTP: what this region's store holds, as sums of buckets, as parts of buckets, as rows; scrubbing; mending
 * the index. Used by `antipode verify` and by the background compare.
 *
 *   GET    /antipode/verify/{c}                  JSON: region, collection's id, positions, horizon, rows
 *   GET    /antipode/verify/{c}/digests          4,096 times u64 sum, u64 rows: as stored, with scrub=true as the rows are
 *   POST   /antipode/verify/{c}/split            body: buckets (u16). 64 u64 for each: its parts
 *   POST   /antipode/verify/{c}/rows             body: parts (u32: bucket * 64 + part). Their rows, below
 *   POST   /antipode/verify/{c}/look             body: point ids (16 bytes). Rows of those that there are
 *   POST   /antipode/verify/{c}/full             body: point ids. For each u32 length and the row's bytes (row.h), 0 when none
 *   POST   /antipode/verify/{c}/scrub            JSON: reads every row of the collection, checks its checksum, compares
 *                                                digests and index with what was read; mend=true puts the index right
 *   POST   /antipode/verify/{c}/recount          the consumer counts its digests anew with its next batch
 *   DELETE /antipode/verify                      forget what the last requests have read
 *
 * Integers are little-endian. rows and look answer "APV1", u32 regions, 16 bytes for each; then for each row 16 bytes point
 * id, u64 checksum, u64 hlc, u64 writer, u8 region (an index), u8 flags (AP_VERIFY_*): AP_VERIFY_ROW_BYTES. Version and region
 * are the newest in the row, patches included; a damaged row has none.
 * rows and look ask about buckets that a split or scrub before them has read; without one: 409. One verification at a time
 * is remembered. */
#ifndef ANTIPODE_INDEXER_API_VERIFY_H
#define ANTIPODE_INDEXER_API_VERIFY_H
#include "common/http.h"
#include "common/metrics.h"

#define AP_VERIFY_MAGIC 0x31565041u /* "APV1" */
#define AP_VERIFY_ROW_BYTES 42
enum { AP_VERIFY_LIVE = 1, AP_VERIFY_TOMBSTONE = 2, AP_VERIFY_DAMAGED = 4 };

struct ap_verify;
struct ap_verify *ap_verify_new(struct ap_metrics *metrics);
void ap_verify_free(struct ap_verify **v);

void ap_serve_verify_state(struct ap_http_request *req);
void ap_serve_verify_digests(struct ap_http_request *req);
void ap_serve_verify_split(struct ap_http_request *req);
void ap_serve_verify_rows(struct ap_http_request *req);
void ap_serve_verify_look(struct ap_http_request *req);
void ap_serve_verify_full(struct ap_http_request *req);
void ap_serve_verify_scrub(struct ap_http_request *req);
void ap_serve_verify_recount(struct ap_http_request *req);
void ap_serve_verify_close(struct ap_http_request *req);

#endif
