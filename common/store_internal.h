/* What the files of the store share. Not for others.
 *
 * store.c          opening, identity, errors, `seen`, wake.sock
 * store_snapshot.c reading
 * store_writer.c   batches
 * store_sync.c     when what was committed is on the disk
 * store_mapped.c   what of the file stays mapped
 * store_clean.c    the cleaner
 * store_collect.c  collecting tombstones
 * store_held.c     events that wait for their time
 * store_digest.c   the digests in memory
 * store_audit.c    what verification asks beyond rows
 *
 * Formats, integers little-endian unless said otherwise:
 *   meta "identity"  u32 format, i32 worker, i32 workers, u32 0, u64 id, 16 bytes region
 *   meta "horizon"   u64 clock up to which tombstones may have been collected
 *   meta "collected" u64 tombstones collected so far
 *   meta "settled"   u64 hlc, i64 ms: struct ap_settled
 *   meta "state"     u64 next slot, u64 first slot, u64 current rows, u64 control version
 *   log              key: slot, native u64; value: row (row.h)
 *   raw              key: slot; value: float32
 *   graves           key: slot of a row that is not live; value: u64 clock of the newest record in it
 *   held             store_held.c
 *   positions        positions_store.c
 *   offsets          key: 16 bytes topic id, u32 partition (big-endian), cluster id; value: i64 next, topic name
 *   control          key: 16 bytes origin region, control key; value: the record's value
 *   digests          key: u64 collection (big-endian), u8 piece; value: 64 times u64 sum, u64 rows */
#ifndef ANTIPODE_COMMON_STORE_INTERNAL_H
#define ANTIPODE_COMMON_STORE_INTERNAL_H
#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include "common/clock.h"
#include "common/store.h"
#include "common/store_sync.h"

enum ap_store_db { AP_DB_LOG, AP_DB_RAW, AP_DB_GRAVES, AP_DB_HELD, AP_DB_POSITIONS, AP_DB_OFFSETS, AP_DB_CONTROL, AP_DB_DIGESTS, AP_DB_META, AP_DB_COUNT };

struct ap_store_state { uint64_t next_slot, first_slot, rows, control_version; };
#define AP_STATE_BYTES 32
#define AP_IDENTITY_BYTES 40

struct ap_store {
    char *path;
    size_t map_bytes, mapped_bytes;
    int statm_fd;                /* of this process; -1: nothing is bounded */
    _Atomic size_t mapped_base;  /* pages of files that were mapped when the store's had just been given back */
    bool read_only, unsynced;
    int64_t sync_ms;
    char boot[AP_BOOT_ID_MAX];   /* which start of the machine this is; empty: not known */
    MDB_env *env;
    MDB_dbi db[AP_DB_COUNT];
    int dir_fd;
    uint64_t id;
    pthread_mutex_t pool_lock;   /* guards pool */
    struct ap_snapshot *pool;    /* reset read transactions, ready for renewal */
    struct ap_sync sync;
};

struct ap_snapshot {
    struct ap_store *store;
    MDB_txn *txn;
    struct ap_store_state state;
    struct ap_snapshot *next;    /* in the pool */
};

/* Say what an LMDB or system error means, and what to do. */
int ap_store_fail(const struct ap_store *s, int rc, const char *what, struct ap_err *err);
void ap_store_poke(const struct ap_store *s, int fd); /* one datagram to wake.sock; fd: a datagram socket */
/* Where mapped_bytes bounds it: when more of files has been mapped since the last time, the store's pages are given back. Any
 * thread, whatever others read meanwhile: a page that is touched again is mapped again, from the kernel's cache. */
void ap_store_unmap(struct ap_store *s);
/* A new id, and region unless it is NULL, into the identity in the table meta. Returns LMDB's error, or EIO. */
int ap_store_renew_id(MDB_txn *txn, MDB_dbi meta, const char *region, uint64_t *id);
int ap_store_read_state(const struct ap_store *s, MDB_txn *txn, struct ap_store_state *out, struct ap_err *err);

static inline MDB_val ap_val(const void *data, size_t len)
{
    return (MDB_val){len, (void *)(uintptr_t)data}; /* LMDB does not write through keys and values given to it */
}

#define AP_OFFSET_KEY_HEAD 20
size_t ap_offset_key(const char *cluster, const uint8_t topic_id[16], int32_t partition, uint8_t *out, size_t cap);

/* --- digests --- 64 buckets make a piece, the unit that is stored */
#define AP_DIGEST_PIECE 64
#define AP_DIGEST_PIECES (AP_DIGEST_BUCKETS / AP_DIGEST_PIECE)
#define AP_DIGEST_PIECE_BYTES (AP_DIGEST_PIECE * 16)
#define AP_DIGEST_KEY_BYTES 9

struct ap_digest_collection {
    uint64_t id;
    uint64_t rows;
    uint64_t dirty;              /* bit i: piece i differs from what is stored */
    struct ap_digest *pieces[AP_DIGEST_PIECES];
};
struct ap_digests { struct ap_digest_collection *list; size_t count, cap; };

void ap_digests_fini(struct ap_digests *d);
void ap_digests_add(struct ap_digests *d, const struct ap_key *key, uint64_t checksum);
void ap_digests_remove(struct ap_digests *d, const struct ap_key *key, uint64_t checksum);
/* Mark as dirty exactly what differs from what is stored; returns the number of such pieces, or negative. */
int ap_digests_compare(struct ap_digests *d, const struct ap_store *s, MDB_txn *txn, struct ap_err *err);
int ap_digests_flush(struct ap_digests *d, const struct ap_store *s, MDB_txn *txn, struct ap_err *err);
void ap_digest_key(uint64_t collection, size_t piece, uint8_t out[AP_DIGEST_KEY_BYTES]);
void ap_digest_decode(const uint8_t *piece, size_t i, struct ap_digest *out);

/* --- the writer --- */
struct ap_passed { uint64_t below, copies; }; /* rows under `below` are dead; the last copy made for that is in slot `copies` */

/* A round of collecting: gather what may go, then take it out of the log (store_collect.c). */
struct ap_collecting {
    enum { AP_COLLECT_RESTS, AP_COLLECT_GATHERS, AP_COLLECT_SWEEPS } phase;
    uint64_t floor, next, last;  /* next: slot to look at; last: of those gathered */
    uint64_t *keys;              /* hashes of what may go; a table of mask + 1 */
    size_t mask, count;
    int64_t worked_ns, rest_until_ns;
};

struct ap_writer {
    struct ap_store *store;
    int lock_fd, wake_fd;
    MDB_txn *txn;                /* the batch, or the scan at opening */
    MDB_cursor *log;
    bool dirty, failed;
    struct ap_slotmap map;
    struct ap_positions *positions;
    struct ap_digests digests;
    bool recount;                /* a row whose checksum could not be trusted was replaced: count the digests again */
    struct ap_store_state state;
    uint64_t committed_next;
    uint64_t batch_clock;        /* least clock of what the batch applied; AP_HLC_MAX: nothing */
    uint64_t raw_last;           /* greatest slot in raw: what is greater is appended */
    struct ap_buf row, raw;
    struct { uint64_t slot; MDB_val bytes; int rc; } matched; /* the row that the map's last comparison read */
    struct ap_passed *passed;    /* ranges that wait for the indexer, oldest first */
    size_t passed_count, passed_cap;
    uint64_t cleaned;            /* the cleaner has been up to here */
    uint64_t swept;              /* so has the sweep for dead collections */
    uint64_t passed_rows;        /* dead rows in those ranges */
    uint64_t tombstones;         /* current rows that are not live */
    uint64_t horizon, collected; /* as in meta */
    struct ap_settled settled;   /* as in meta */
    struct ap_collecting collecting;
    struct { uint64_t records, bytes, first; } held; /* first: the earliest time */
    int64_t readers_checked_ms;
};

bool ap_store_recount_asked(const struct ap_store *store); /* store_audit.c */
void ap_store_recount_done(const struct ap_store *store);
bool ap_writer_match(void *writer, uint64_t slot, const struct ap_key *key);       /* reads the row */
bool ap_writer_match_slot(void *slot_wanted, uint64_t slot, const struct ap_key *key); /* for a key whose slot is known */
int ap_writer_fail(struct ap_writer *w, int rc, const char *what, struct ap_err *err);
int ap_writer_append(struct ap_writer *w, const void *row, size_t len, uint64_t *slot, struct ap_err *err);
int ap_writer_put_raw(struct ap_writer *w, uint64_t slot, const void *vector, size_t len, struct ap_err *err);
/* The clock kept with a row that is not live; 0 when there is none. */
int ap_writer_grave(struct ap_writer *w, uint64_t slot, uint64_t *clock, struct ap_err *err);
int ap_writer_put_grave(struct ap_writer *w, uint64_t slot, uint64_t clock, struct ap_err *err);
void ap_writer_forget(struct ap_writer *w, const struct ap_row *row, uint64_t slot); /* the current row of a key, from map and digests */
int ap_writer_find_first(struct ap_writer *w, struct ap_err *err); /* state.first_slot from the log */
int ap_writer_load_extras(struct ap_writer *w, struct ap_err *err); /* at opening: horizon, settled, held */
int ap_writer_move_raw(struct ap_writer *w, uint64_t from, uint64_t to, struct ap_err *err);

#endif
