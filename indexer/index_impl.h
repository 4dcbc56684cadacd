/* What the files of the index share. Not for others.
 *
 * index.c     opening, closing, waiting, metrics
 * state.c     collections, codecs, and the published state that views hold
 * control.c   control records -> collections and codecs
 * apply.c     rows -> map, segments, what is set aside
 * refresh.c   the tail thread's round
 * warm.c      the last thing before it is ready: warm and cold segments, searches of its own
 * build.c     the builder thread: which segments become one, and the swap
 * merge.c     one sealed segment out of several
 * column_build.c, column_file.c   indexes of payload fields: building, and as files
 * segfile.c   segments as files; tier.c which of them are kept in memory
 * view.c      views: rows, points, vectors
 * search.c    searching; search_filter.c what filters select
 * scroll.c    scanning, and points in id order
 *
 * Locks, in the order in which they are taken:
 *   apply_lock  what the tail applies: collections, their segment lists, what is set aside; the builder's swap
 *   map_lock    read-write: the map of ids
 *   state_lock  which state is current
 *   wait_lock   visible positions, and the condition of those who wait; build_lock: the builder's condition */
#ifndef ANTIPODE_INDEXER_INDEX_IMPL_H
#define ANTIPODE_INDEXER_INDEX_IMPL_H
#include <pthread.h>
#include "common/slotmap.h"
#include "indexer/index.h"
#include "indexer/segment.h"

/* A copy of what the catalog says about a collection: immutable, shared by states. */
struct ap_definition { atomic_uint refs; struct ap_collection c; struct ap_fields *fields; };

struct ap_slots { uint64_t *items; size_t count, cap; }; /* rising */

/* Points in id order, for scrolling (scroll.c). */
struct ap_order;

struct ap_coll {
    uint64_t id;
    struct ap_definition *definition; /* NULL: not known yet; apply_lock, like all without a word about it */
    _Atomic bool dead; /* set by the tail, read by the builder and by audits */
    struct ap_segment **segments;     /* by first slot; the current hot one, if any, last */
    size_t count, cap;
    struct ap_segment *hot;           /* borrowed from segments; NULL: none yet */
    uint64_t sealed_last;             /* greatest slot in any segment loaded from a file */
    size_t revived_in; uint32_t revived; /* where the next slot probably comes to life: segment, rank */
    struct ap_slots pending;          /* codec or definition not here yet */
    struct ap_slots unusable;         /* no vector that fits the collection */
    _Atomic uint64_t points, pending_count;
    int64_t rest_until_ms;            /* the builder's */
    pthread_mutex_t order_lock;       /* guards order */
    struct ap_order *order;
};

/* What a view holds: immutable but for live bits and the hot segments' rows. */
struct ap_state_coll { struct ap_coll *coll; struct ap_definition *definition; struct ap_segment **segments; struct ap_columns **columns; /* of each, or NULL */ size_t count; };
struct ap_state {
    atomic_uint refs;
    uint64_t rolls;                  /* index->rolls when it was made */
    struct ap_state_coll *colls; size_t coll_count; /* by id */
    struct ap_segment **segments; struct ap_columns **columns; size_t segment_count;
    struct ap_codec **codecs; size_t codec_count;   /* by id */
};

struct ap_codec_entry { uint64_t id; struct ap_codec *codec; /* NULL: here, but unusable */ };

struct ap_index {
    struct ap_store *store;
    struct ap_index_options options;
    char *path;
    struct ap_schemas *schemas;
    int dir_fd, lock_fd;

    pthread_mutex_t apply_lock;
    pthread_rwlock_t catalog_lock; /* around changes of the catalog, which others than the tail read, too */
    struct ap_catalog *catalog;      /* the tail thread's */
    uint64_t control_version;
    struct ap_coll **colls; size_t coll_count, coll_cap; /* by id; live until the index closes */
    struct ap_codec_entry *codecs; size_t codec_count, codec_cap; /* by id */
    _Atomic uint64_t changes;        /* odd while rows are applied; rises with every run of them */
    _Atomic uint64_t rolls;          /* hot segments begun: a view whose list is older may miss their rows */

    pthread_rwlock_t map_lock;
    struct ap_slotmap map;           /* live rows only */

    pthread_mutex_t state_lock;
    struct ap_state *state;

    uint64_t cursor;                 /* next slot to read; the tail thread's */
    uint64_t seen_written;
    bool starting;                   /* the first pass over the log is not done */
    bool dangling;                   /* it met a slot whose row was gone: pass again */

    pthread_mutex_t wait_lock;
    pthread_cond_t waiters;
    struct ap_position *positions; size_t position_count;
    struct ap_settled settled; /* as of the same snapshot */
    _Atomic uint64_t visible;        /* slots below are visible */
    _Atomic bool caught_up;
    _Atomic bool closing;

    pthread_t builder;
    bool builder_runs;
    pthread_mutex_t build_lock;
    pthread_cond_t build_wanted, built;
    bool build_asked;
    _Atomic int64_t last_row_ms;     /* when a row was last applied */
    _Atomic uint64_t frozen_bytes;   /* full hot segments that wait for the builder */
    _Atomic uint64_t applied;        /* rows so far */
    uint64_t rate_rows; int64_t rate_ms; bool loading; /* the builder's: how fast they come */
    struct ap_segment **forget; size_t forget_count; /* of dead collections: their ids leave the map; build_lock */

    struct {
        struct ap_metrics *registry;
        struct ap_metric *refresh, *seal, *merge, *fields, *damaged, *unusable, *search_ann, *search_exact, *search_filter, *retries;
    } metrics;
};

/* --- state.c --- under apply_lock unless said otherwise */
struct ap_coll *ap_index_coll(struct ap_index *index, uint64_t id);       /* NULL: not seen yet */
struct ap_coll *ap_index_coll_make(struct ap_index *index, uint64_t id);
struct ap_definition *ap_definition_new(const struct ap_collection *c, struct ap_fields *fields); /* takes fields */
void ap_definition_unref(struct ap_definition **d);
/* Insert in order; takes the reference. */
void ap_coll_add_segment(struct ap_coll *coll, struct ap_segment *s);
/* Gives the reference back to the caller. */
void ap_coll_remove_segment(struct ap_coll *coll, struct ap_segment *s);
/* Clear a slot's live bit wherever it is, or take it out of what is set aside. */
void ap_coll_clear(struct ap_coll *coll, uint64_t slot);
/* Make what the collections hold now the current state. */
void ap_index_publish(struct ap_index *index);
struct ap_state *ap_state_get(struct ap_index *index); /* any thread, without apply_lock; a reference */
void ap_state_unref(struct ap_state **state);
const struct ap_state_coll *ap_state_find(const struct ap_state *state, uint64_t collection);
struct ap_codec *ap_state_codec(const struct ap_state *state, uint64_t id); /* borrowed; NULL */

void ap_slots_add(struct ap_slots *s, uint64_t slot); /* keeps them rising */
bool ap_slots_remove(struct ap_slots *s, uint64_t slot);

/* --- control.c --- */
/* Read control records when they changed. *changed: collections or codecs may have. */
int ap_control_sync(struct ap_index *index, const struct ap_snapshot *snapshot, bool *changed, struct ap_err *err);
/* Codec by id, loaded when the catalog has it; NULL when it does not, or it is unusable (*broken). */
struct ap_codec *ap_index_codec(struct ap_index *index, uint64_t id, bool *broken);

/* --- apply.c --- the tail thread, apply_lock not held */
#define AP_RUN_ROWS 256
struct ap_run_row { uint64_t slot, codec, old; struct ap_key key; const uint8_t *vector; size_t vector_len; bool live, has_codec; struct ap_coll *coll;
                    struct ap_row row; /* for its payload, where fields are declared */ };
struct ap_run { struct ap_run_row rows[AP_RUN_ROWS]; size_t count; };
/* Apply the run's rows, whose vectors point into snapshot, and empty it. */
void ap_apply_run(struct ap_index *index, const struct ap_snapshot *snapshot, struct ap_run *run);
/* Rows set aside whose codec or definition may be here now. */
void ap_apply_pending(struct ap_index *index, const struct ap_snapshot *snapshot);

/* --- vectors --- vector.c */
/* Float32 LE or codes to floats. 0, or why not. */
enum ap_vector_fit { AP_VECTOR_OK, AP_VECTOR_NO_CODEC, AP_VECTOR_UNUSABLE };
/* One row's best vector: raw when the snapshot has it, else decoded. */
enum ap_vector_fit ap_row_vector(const struct ap_snapshot *snapshot, const struct ap_state *state, uint32_t dim, uint64_t slot,
                                 const struct ap_row *row, float *out, bool *raw);
/* Many rows' best vectors with one decoding per run of equal codecs. Rows that have none are marked. */
struct ap_vector_batch {
    const struct ap_state *state;
    uint32_t dim;
    enum ap_distance distance;
    size_t cap, count;
    uint64_t *slots;
    struct ap_point_id *ids;
    float *vectors;      /* cap * dim */
    bool *usable;
    /* Rows whose codes are gathered, all of one codec. */
    uint64_t codec;
    size_t code_size, waiting_count, codes_cap;
    uint32_t *waiting;
    uint8_t *codes;
    float *decoded;
};
struct ap_vector_batch *ap_vector_batch_new(uint32_t dim, enum ap_distance distance, size_t cap);
void ap_vector_batch_free(struct ap_vector_batch **batch);
void ap_vector_batch_clear(struct ap_vector_batch *batch, const struct ap_state *state);
/* Row of slot; there must be room. */
void ap_vector_batch_add(struct ap_vector_batch *batch, const struct ap_snapshot *snapshot, uint64_t slot, const struct ap_row *row);
/* Decodes what is still gathered; then vectors and usable hold for all. */
void ap_vector_batch_finish(struct ap_vector_batch *batch);

/* --- warm.c --- the tail thread, apply_lock not held: the first pass has told what there is, and nobody asks yet */
void ap_index_warm(struct ap_index *index);

/* --- build.c --- */
int ap_builder_start(struct ap_index *index, struct ap_err *err);
void ap_builder_stop(struct ap_index *index);
void ap_builder_wake(struct ap_index *index);
/* The tail: waits while more than the bound of full hot segments wait, no snapshot held. */
void ap_builder_wait_room(struct ap_index *index);
/* Takes the references: their ids leave the map in the background. */
void ap_builder_forget(struct ap_index *index, struct ap_segment **segments, size_t count);

/* --- merge.c --- builder thread */
/* One sealed segment of all live rows of sources, on disk where that works. *out NULL when none is left. AP_ENOTREADY when
 * closing. */
int ap_merge(struct ap_index *index, const struct ap_state *state, const struct ap_definition *definition,
             struct ap_segment **sources, size_t count, struct ap_segment **out, struct ap_err *err);

/* --- column_build.c --- builder thread */
/* Does the sealed segment lack columns of the fields, or have others? Under apply_lock. */
bool ap_columns_wanting(const struct ap_segment *s, const struct ap_fields *fields);
/* What the segment should have: old's columns (may be NULL) that are wanted still, and new ones. AP_ENOTREADY when closing. */
int ap_columns_build(struct ap_index *index, const struct ap_segment *s, struct ap_columns *old, const struct ap_fields *fields, struct ap_columns **out, struct ap_err *err);

/* --- segfile.c --- */
/* A file for lists, mapped to be filled at image; memory alone when there is no disk (logged). */
struct ap_segfile { int fd; void *map; size_t map_bytes; uint8_t *image; };
int ap_segfile_begin(struct ap_index *index, uint64_t id, size_t image_bytes, struct ap_segfile *f, struct ap_err *err);
void ap_segfile_abandon(struct ap_index *index, uint64_t id, struct ap_segfile *f);
/* The mapping is s's by now; sets s->path. On error s serves from memory. */
int ap_segfile_commit(struct ap_index *index, struct ap_segfile *f, struct ap_segment *s, struct ap_err *err);
/* Write a FAISS segment under its file_id and load its structure anew (so that it has no slack); sets path. On error its
 * structure may be gone. */
int ap_segfile_write(struct ap_index *index, struct ap_segment *s, struct ap_err *err);
/* All usable files; others are removed with a word in the log. Called once, before the tail starts. */
int ap_segfile_load_all(struct ap_index *index, struct ap_segment ***out, size_t *count, struct ap_err *err);
void ap_segfile_remove(struct ap_index *index, struct ap_segment *s);

/* --- view.c --- */
struct ap_view {
    struct ap_index *index;
    /* The newest last; older ones keep alive what was handed out. */
    struct ap_state **states;
    struct ap_snapshot **snapshots;
    size_t state_count, snapshot_count;
};
static inline const struct ap_state *ap_view_state(const struct ap_view *v) { return v->states[v->state_count - 1]; }
static inline struct ap_snapshot *ap_view_snapshot(const struct ap_view *v) { return v->snapshots[v->snapshot_count - 1]; }
void ap_view_renew_state(struct ap_view *view);
/* Row by slot in any of the view's snapshots; one newer than all of them begins another. AP_ENOTFOUND: cleaned away. */
int ap_view_find_row(struct ap_view *view, uint64_t slot, struct ap_row *row, const struct ap_snapshot **in, struct ap_err *err);
/* Slot of the current row of a key, 0 when it is not live. */
uint64_t ap_view_lookup(struct ap_view *view, const struct ap_key *key);

/* --- scroll.c --- */
void ap_order_free(struct ap_order **order);
void ap_order_expire(struct ap_coll *coll, int64_t now_ms);
/* Slots of all live rows of a collection, rising, appended: segments', and what is set aside when all. */
void ap_live_slots(struct ap_index *index, const struct ap_state_coll *c, bool all, struct ap_slots *out);

#endif
