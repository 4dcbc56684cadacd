/* An audit: which rows of a collection a store holds, found from the log alone.
 *
 * The consumer's map and the stored digests say what should be there; an audit reads what is. It covers some buckets of one
 * collection (store.h: ap_digest_bucket) and holds the newest row of each of their points, tombstones too: 32 bytes a row,
 * at most 3/4 full. Made by one pass over the log, in snapshots of a quarter of a second; a later call goes on from
 * where the log has grown since, which is short.
 * Invariant: after ap_audit_catch_up the rows are exactly those of the snapshot it hands out (but for rows of dead
 * collections, which are deleted where they lie; so are collected tombstones, and those are noticed).
 * Not thread-safe: the owner locks. */
#ifndef ANTIPODE_INDEXER_AUDIT_H
#define ANTIPODE_INDEXER_AUDIT_H
#include "common/store.h"

/* A bucket of the digests splits into 64 by the next 6 bits of the same hash. */
#define AP_AUDIT_SPLIT 64

struct ap_audit_row {
    struct ap_point_id id;
    uint64_t checksum;      /* as the row has it; of a damaged one: of the bytes it has now */
    uint64_t slot : 40;     /* 0: no row */
    bool live : 1, damaged : 1;
};

struct ap_audit_buckets { uint64_t bits[AP_DIGEST_BUCKETS / 64]; };
static inline void ap_audit_buckets_add(struct ap_audit_buckets *b, uint32_t bucket) { b->bits[bucket / 64] |= UINT64_C(1) << bucket % 64; }
static inline bool ap_audit_buckets_has(const struct ap_audit_buckets *b, uint32_t bucket) { return b->bits[bucket / 64] >> bucket % 64 & 1; }

struct ap_audit {
    struct ap_store *store;
    uint64_t collection;
    struct ap_audit_buckets buckets;
    bool verify;            /* recompute the checksum of every row */
    int64_t snapshot_ns;    /* how long one snapshot may last; tests shorten it */
    uint64_t cursor;        /* slots below have been read */
    uint64_t collected;     /* tombstones collected when reading began, or when that was last noticed */
    struct ap_audit_row *rows;
    size_t mask, used;
    uint64_t read;          /* rows looked at, dead ones too */
    uint64_t unreadable, unreadable_slot; /* rows too broken to say whose they are: how many, and the first one's slot */
};

/* verify: also check every row's checksum. expected: rows, as a hint. */
void ap_audit_init(struct ap_audit *a, struct ap_store *store, uint64_t collection, const struct ap_audit_buckets *buckets, bool verify, size_t expected);
void ap_audit_fini(struct ap_audit *a);
/* Read on to the end of the log. The snapshot is the caller's to end. */
int ap_audit_catch_up(struct ap_audit *a, struct ap_snapshot **snapshot, struct ap_err *err);
const struct ap_audit_row *ap_audit_find(const struct ap_audit *a, const struct ap_point_id *id); /* NULL: no row */
/* Walk all rows: NULL at the end. at: 0 before the first call. */
const struct ap_audit_row *ap_audit_next(const struct ap_audit *a, size_t *at);

/* Sums of checksums and counts, by bucket; out[AP_DIGEST_BUCKETS]. */
void ap_audit_digests(const struct ap_audit *a, struct ap_digest *out);
/* The bucket's number times AP_AUDIT_SPLIT, plus the number within it. */
uint32_t ap_audit_part(const struct ap_point_id *id);
/* One number that says what is in a part: parts with equal rows have equal ones, and those of several workers add up. */
static inline uint64_t ap_audit_mix(struct ap_digest d) { return d.sum + d.rows * UINT64_C(0x9e3779b97f4a7c15); }

#endif
