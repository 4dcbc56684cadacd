/* The store: a log of rows under a dense, ever-growing slot number, in one LMDB environment a worker.
 *
 * A new version of a row is a new slot; the slot number is the change feed, the index's id and the store's clock. One
 * transaction per batch holds rows, positions, Kafka offsets, control records and digests: after kill -9 everything
 * stands at the same batch. One writer process (antipode-consumer; a lock file says who), any number of readers; read
 * transactions are short (under a second) and dead readers are cleared by the writer.
 *
 * Databases (LMDB named): log (slot u64 native integer key, MDB_APPEND) -> row; raw (slot) -> float32 LE vector;
 * graves (slot) -> clock of a row that is not live; held, positions, offsets, control, digests, meta. Formats: docs/architecture.md, "The store's file".
 * Beside the file: `seen`, 16 bytes written by the indexer: the slot up to which it needs nothing old any more, and a
 * check; `writer.lock`, held and filled with its process id by the writer; `sync`, where the last state begins that is surely on the disk;
 * `wake.sock`, a datagram socket that the indexer binds and the writer pokes after each commit. */
#ifndef ANTIPODE_COMMON_STORE_H
#define ANTIPODE_COMMON_STORE_H
#include "common/positions.h"
#include "common/row.h"
#include "common/slotmap.h"

#define AP_STORE_FORMAT 1
#define AP_STORE_READING "reading" /* a file in a store that is being rebuilt, until it has nearly all */

struct ap_store;     /* an open environment: thread-safe */
struct ap_writer;    /* the one writer: owned by one thread */
struct ap_snapshot;  /* a read transaction: one thread at a time */

/* --- opening --- */
struct ap_store_options {
    const char *path;          /* directory, made when missing (writer) */
    size_t map_bytes;          /* upper bound of the file's size */
    size_t mapped_bytes;       /* of it, what this process keeps mapped of what it has read, about; 0: no bound (ap_store_unmap) */
    const char *region;        /* checked against what the store was made for */
    int32_t worker, workers;   /* likewise */
    bool read_only;            /* readers; AP_ENOTREADY while the writer has not created it yet */
    bool unsynced;             /* writer: commits do not wait for the disk. kill -9 is survived, a crash of the machine is not */
    int64_t sync_ms;           /* writer: nor do they, but every sync_ms there is a state to which it goes back after such a crash (store_sync.c). 0: they wait */
    const char *boot;          /* for tests: which start of the machine this is; borrowed. NULL: the kernel knows */
};
int ap_store_open(struct ap_store **out, const struct ap_store_options *options, struct ap_err *err);
void ap_store_close(struct ap_store **store); /* after its writer and snapshots */
/* rows: current ones, tombstones too. used_bytes: what tables and rows fill of the file; the rest is free for reuse. */
struct ap_store_stats { uint64_t file_bytes, used_bytes, rows, first_slot, next_slot; };
/* Before all of the log is read: ask the disk for the file as a whole, up to a quarter of the machine's memory. Does not wait. Row by
 * row, as it is read otherwise, a disk takes ten times as long. */
void ap_store_read_ahead(const struct ap_store *store);
/* Another store is in this one's place now: its folder was exchanged (common/handover.h). */
bool ap_store_replaced(const struct ap_store *store);
/* Random, made with the store: slots of a store with another id mean nothing here. */
uint64_t ap_store_id(const struct ap_store *store);
int ap_store_stats(struct ap_store *store, struct ap_store_stats *out, struct ap_err *err);
/* Sync points made since the writer was opened, and how long the last one took. */
void ap_store_syncs(struct ap_store *store, uint64_t *points, double *last_seconds);

/* --- writing; every error here except AP_EINVAL is fatal for the writer: close it, say so, stop --- */
/* Takes the writer's lock (AP_EBUSY names the process that has it), scans the log to fill the slot map, loads positions. */
int ap_writer_open(struct ap_writer **out, struct ap_store *store,
                   uint64_t (*lineage_of)(void *, uint64_t), void *lineage_arg, struct ap_err *err);
void ap_writer_close(struct ap_writer **w);
struct ap_positions *ap_writer_positions(struct ap_writer *w); /* persisted by the next commit */

int ap_writer_begin(struct ap_writer *w, struct ap_err *err);
/* Merge a mutation into its row. *changed: a new slot was written. AP_EINVAL, POISON: bad patch; nothing changed. */
int ap_writer_apply(struct ap_writer *w, const struct ap_key *key, const struct ap_mutation *m, bool *changed, struct ap_err *err);
/* Attach a raw vector to the current row of key if that row's base has this version. *matched says so. */
int ap_writer_raw(struct ap_writer *w, const struct ap_key *key, const struct ap_version *version, const void *vector, size_t len, bool *matched, struct ap_err *err);
/* Kafka offsets: next offset to read. name: the local topic name; ids as kafka.h gives them. */
int ap_writer_put_offset(struct ap_writer *w, const char *cluster, const uint8_t topic_id[16], const char *name, int32_t partition, int64_t next, struct ap_err *err);
/* A control record as read; replaces that of the same origin and key. */
int ap_writer_put_control(struct ap_writer *w, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len, struct ap_err *err);
/* Seen by readers when it returns 0, and safe from kill -9; on the disk by then, or with sync_ms that much later. Pokes wake.sock. */
int ap_writer_commit(struct ap_writer *w, struct ap_err *err);
/* The least clock of the records that a crash of the machine might take back, those of the batch among them; AP_HLC_MAX: none. */
uint64_t ap_writer_unsynced(const struct ap_writer *w);
uint64_t ap_writer_next_slot(const struct ap_writer *w);

/* Offset to go on from; AP_ENOTFOUND when this topic of this cluster was never read. */
int ap_writer_get_offset(struct ap_writer *w, const char *cluster, const uint8_t topic_id[16], int32_t partition, int64_t *next, struct ap_err *err);

/* The cleaner: inside a batch, move up to max_rows of the oldest rows that are still current forward and drop the range
 * behind them, never beyond `seen`. Does nothing while less than half of the log is dead. Rows of dead collections
 * (collection_dead may be NULL) are deleted where they are. Returns rows dropped through *dropped.
 * Moving and dropping are two steps: a range goes in a later call, when `seen` has passed the copies of its rows. So a
 * slot that the indexer still holds for current is never missing, if the indexer writes to `seen` only what every one of
 * its queries has got past. */
int ap_writer_clean(struct ap_writer *w, size_t max_rows, uint64_t seen, bool (*collection_dead)(void *, uint64_t collection), void *arg, size_t *dropped, struct ap_err *err);
int ap_store_seen_read(struct ap_store *store, uint64_t *seen);       /* 0 when no indexer has ever run */
int ap_store_seen_write(struct ap_store *store, uint64_t seen, struct ap_err *err); /* indexer; atomic */

/* --- tombstones (store_collect.c) ---
 * A row that is not live (a tombstone, or patches above nothing) has a clock: the greatest of the records that made it. That
 * is not its version, which a conditional delete or a repair may publish long after it was given out. */
uint64_t ap_writer_tombstones(const struct ap_writer *w); /* current rows that are not live */
/* Inside a batch: go on collecting those with a clock below floor that the indexer has seen, looking at max_rows slots. A row
 * goes from where it lies, after every older slot of its point: so no reader and no restart can take an older row of it
 * for the current one. Raises the horizon to floor with the first one that goes. *more: call again, soon; else there is
 * nothing left, or a rest is due (collecting takes a twentieth of the time at most). */
struct ap_collected { uint64_t tombstones; bool more; };
int ap_writer_collect(struct ap_writer *w, uint64_t floor, uint64_t seen, size_t max_rows, struct ap_collected *out, struct ap_err *err);
/* Clock up to which tombstones may have been collected; 0: none ever was. */
uint64_t ap_writer_horizon(const struct ap_writer *w);
/* What this store says in its region's watermarks (watermark.h). */
int ap_writer_put_settled(struct ap_writer *w, struct ap_settled settled, struct ap_err *err); /* inside a batch */
struct ap_settled ap_writer_settled(const struct ap_writer *w);

/* --- held events (store_held.c): records whose time has not come yet, in the order of their time --- */
struct ap_held {
    uint64_t time;          /* hlc at which it may be applied */
    uint64_t hlc;           /* of its version */
    uint64_t stream, seq;
    struct ap_region origin;
    const char *topic;      /* the origin's name */
    int32_t partition;
    int64_t offset;         /* in this region's copy of the topic */
    const void *key; size_t key_len;
    const void *value; size_t value_len;
};
/* Inside a batch. *fresh: false when this very record is held already. */
int ap_writer_hold(struct ap_writer *w, const struct ap_held *held, bool *fresh, struct ap_err *err);
/* Inside a batch: the earliest one, if its time is at or below `until`; out points into *bytes. 1: there is one. */
int ap_writer_first_held(struct ap_writer *w, uint64_t until, struct ap_held *out, struct ap_buf *bytes, struct ap_err *err);
int ap_writer_drop_held(struct ap_writer *w, const struct ap_held *held, struct ap_err *err); /* inside a batch */
uint64_t ap_writer_held_time(const struct ap_writer *w); /* of the earliest; UINT64_MAX when there is none */
/* All of them, until fn returns non-zero (then that is returned). Inside or outside of a batch. */
int ap_writer_each_held(struct ap_writer *w, int (*fn)(void *arg, const struct ap_held *held), void *arg, struct ap_err *err);
void ap_writer_held(const struct ap_writer *w, uint64_t *records, uint64_t *bytes);

/* --- reading --- */
int ap_snapshot_begin(struct ap_store *store, struct ap_snapshot **out, struct ap_err *err); /* from a pool: cheap */
void ap_snapshot_end(struct ap_snapshot **snapshot);
uint64_t ap_snapshot_next_slot(const struct ap_snapshot *s);
uint64_t ap_snapshot_first_slot(const struct ap_snapshot *s);  /* oldest slot in the log; = next when empty */
/* Row at slot, pointing into the map until the snapshot ends. AP_ENOTFOUND: cleaned away or not written yet. */
int ap_snapshot_row(const struct ap_snapshot *s, uint64_t slot, struct ap_row *out, struct ap_err *err);
/* Rows from slot on, in order, until fn returns non-zero (then that is returned; 0 at the end). Checksums are not looked
 * at; a row too broken to read is passed with flags 0, its bytes, and a zero key. */
int ap_snapshot_scan(const struct ap_snapshot *s, uint64_t from, int (*fn)(void *arg, uint64_t slot, const struct ap_row *row), void *arg, struct ap_err *err);
/* Raw vector of the row at slot: borrowed, maybe unaligned; AP_ENOTFOUND (with err untouched) when there is none. */
int ap_snapshot_raw(const struct ap_snapshot *s, uint64_t slot, const uint8_t **vector, size_t *len);
int ap_snapshot_positions(const struct ap_snapshot *s, struct ap_position **out, size_t *count, struct ap_err *err);
/* Every run of missing records, until fn returns non-zero, which is returned. top: the greatest number known there. */
int ap_snapshot_holes(const struct ap_snapshot *s, int (*fn)(void *arg, const struct ap_position *at, const struct ap_hole *hole, uint64_t top), void *arg, struct ap_err *err);
/* Changes whenever a control record was written. */
uint64_t ap_snapshot_control_version(const struct ap_snapshot *s);
int ap_snapshot_control(const struct ap_snapshot *s, int (*fn)(void *arg, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len), void *arg, struct ap_err *err);
/* Digest of live rows and tombstones of one bucket: wrapping sum of row checksums and row count. Bucket: first 12 bits of the point
 * id's XXH3. Zero when empty. */
struct ap_digest { uint64_t sum, rows; };
#define AP_DIGEST_BUCKETS 4096
uint32_t ap_digest_bucket(const struct ap_key *key);
int ap_snapshot_digest(const struct ap_snapshot *s, uint64_t collection, uint32_t bucket, struct ap_digest *out, struct ap_err *err);

/* All buckets of a collection at once. */
int ap_snapshot_digests(const struct ap_snapshot *s, uint64_t collection, struct ap_digest out[AP_DIGEST_BUCKETS], struct ap_err *err);
/* Kafka offsets as ap_writer_put_offset left them, until fn returns non-zero (then that is returned). */
int ap_snapshot_offsets(const struct ap_snapshot *s, int (*fn)(void *arg, const char *cluster, const uint8_t topic_id[16], const char *name, int32_t partition, int64_t next), void *arg, struct ap_err *err);

/* --- verification and repair (store_audit.c) --- */
/* Tombstones with an hlc up to this one may have been collected: below it a row's absence says nothing. 0: none ever was. */
uint64_t ap_snapshot_horizon(const struct ap_snapshot *s);
/* Rises with every tombstone that is collected: rows noted at another count may be gone from the log. */
uint64_t ap_snapshot_collected(const struct ap_snapshot *s);
struct ap_settled ap_snapshot_settled(const struct ap_snapshot *s);
/* In the batch that collects tombstones: no later reader takes their absence for a loss. Never lowers it. */
int ap_writer_raise_horizon(struct ap_writer *w, uint64_t hlc, struct ap_err *err);
/* Any process: the writer counts the digests anew with its next batch, and removes the file `recount` that asks for it. */
int ap_store_ask_recount(struct ap_store *store, struct ap_err *err);

/* --- waking the indexer --- */
/* Indexer: a datagram socket fd to poll; drained by ap_store_wake_drain. */
int ap_store_wake_listen(struct ap_store *store, int *fd, struct ap_err *err);
void ap_store_wake_drain(int fd);

#endif
