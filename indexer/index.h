/* The index: for every collection a hot segment, sealed segments, and the maps around them, kept equal to the store.
 *
 * One tail thread applies rows in slot order and publishes; any number of threads read through views. Readers hold a
 * reference-counted list of segments and never wait for the tail or for a build. A row's slot is its identity: segments
 * map ordinals to slots, live bits say which slots are current. Sealing and merging run on background threads and end
 * in an atomic swap of the list. Sealed segments are files with checksums under the index path; what is damaged, or of a
 * store that is not this one, is thrown away and built again from the store.
 * A collection whose definition or codec has not arrived keeps the slots of its rows aside and is unready, alone. */
#ifndef ANTIPODE_INDEXER_INDEX_H
#define ANTIPODE_INDEXER_INDEX_H
#include "common/ann.h"
#include "common/catalog.h"
#include "common/metrics.h"
#include "common/store.h"
#include "indexer/fields.h"
#include "indexer/filter.h"

struct ap_index;
struct ap_view; /* a consistent look at all collections: one thread, under a second */

struct ap_index_options {
    const char *path;            /* directory of the segments */
    struct ap_region region;
    uint32_t hot_rows;           /* a hot segment is sealed at this many rows; default 8192 */
    uint32_t merge_fan;          /* so many sealed segments of about one size become one; default 4 */
    int build_threads;           /* default 1 */
    uint64_t unsealed_bytes;     /* full hot segments that wait to be sealed, at most; then reading waits. Default 64 MiB */
    const char *hold;            /* while this file is there, full hot segments gather as while the log is read; NULL: never */
    bool warm_up;                /* search a little before it has caught up, so that the first query is as fast as others */
    const char *small;           /* collections whose sealed segments hold one bit a component (q1.h) instead of eight; NULL: none */
    const char *cold;            /* collections whose sealed segments stay on the disk (tier.h); NULL: none */
    const char *sealed_factory;  /* NULL: chosen by size (index.c says how) */
};

int ap_index_open(struct ap_index **out, struct ap_store *store, const struct ap_index_options *options, struct ap_schemas *schemas,
                  struct ap_metrics *metrics, struct ap_err *err);
/* Stops the background threads, forgets what is in memory; sealed files stay. */
void ap_index_close(struct ap_index **index);

/* --- the tail thread --- */
/* Read everything the store has beyond the cursor, and control records when they changed; make it visible; update the
 * store's `seen`. Returns the number of rows applied, or negative. Positions of the snapshot it read are then visible. */
int64_t ap_index_refresh(struct ap_index *index, struct ap_err *err);

/* --- any thread --- */
/* Visible positions, as of the last refresh; malloc'ed for the caller. */
int ap_index_positions(struct ap_index *index, struct ap_position **out, size_t *count, struct ap_err *err);
struct ap_settled ap_index_settled(struct ap_index *index); /* as of the last refresh */
/* Blocks until the token is covered or the deadline (CLOCK_MONOTONIC ns) passes: 0, AP_ETIMEOUT, AP_ENOTREADY when closing. */
int ap_index_wait(struct ap_index *index, const struct ap_token *token, int64_t deadline_ns, struct ap_err *err);
/* May a client wait for this token? As ap_catalog_check_token (common/retired.h). */
int ap_index_check_token(struct ap_index *index, const struct ap_token *token, struct ap_err *err);
bool ap_index_region_is_retired(struct ap_index *index, const struct ap_region *region);
/* Sets the marks of retired regions' streams to 0. */
void ap_index_forget_retired(struct ap_index *index, struct ap_position *positions, size_t count);
/* First refresh done: the index has caught up with what the store held at start. */
bool ap_index_caught_up(struct ap_index *index);
uint64_t ap_index_visible_slot(struct ap_index *index);

int ap_view_begin(struct ap_index *index, struct ap_view **out, struct ap_err *err);
void ap_view_end(struct ap_view **view);

struct ap_collection_view {  /* borrowed from the view */
    const struct ap_collection *collection; /* id, params, version */
    uint64_t points;           /* live points */
    uint64_t indexed;          /* of these, in sealed segments */
    uint64_t pending;          /* rows set aside: codec or definition not here yet */
    uint32_t segments;         /* hot included */
    const char *unready;       /* NULL when ready, else why */
    const struct ap_fields *fields; /* declared ones */
};
/* AP_ENOTFOUND: no such live collection. */
int ap_view_collection(struct ap_view *view, const char *name, struct ap_collection_view *out, struct ap_err *err);
size_t ap_view_collections(struct ap_view *view, const struct ap_collection **out, size_t cap); /* live ones, by name; returns count */

struct ap_hit {
    struct ap_point_id id;
    uint64_t slot;
    float score;    /* as Qdrant reports: cosine or dot (larger is better), Euclidean distance (smaller is better) */
};
struct ap_search {
    const float *vector;             /* dim of the collection; under Cosine of any length, normalized inside a copy */
    uint32_t limit;                  /* hits wanted, best first */
    uint32_t effort;                 /* 0: default; else nprobe / efSearch */
    uint32_t candidates;             /* rescored per query; 0: max(40, 4 * limit) */
    bool exact;                      /* scan every live row with the best vector */
    const struct ap_filter *filter;  /* NULL: none. Bound to the collection's fields (ap_view_bind) */
    const struct ap_point_id *exclude; /* NULL or a point to leave out */
    bool has_threshold; float threshold; /* score_threshold */
};
/* Bind a filter to the fields that the collection declares now; it keeps them, and a bound one is left as it is. AP_EINVAL:
 * filter.h. */
int ap_view_bind(const struct ap_collection_view *c, struct ap_filter *filter, struct ap_err *err);
/* Rows of segments whose index of the field is built and that have a value of it, replaced ones that are not merged away included. */
uint64_t ap_view_field_points(struct ap_view *view, const struct ap_collection_view *c, uint64_t field);
/* What a bound filter selects, as far as indexes tell: slots of rows that pass, and of those that have to be asked, each
 * rising. It holds for rows below `visible`; others came later. calm: nothing was written meanwhile, so each live point of
 * the collection is in it once; else old slots of replaced rows may be among them. */
struct ap_selected { uint64_t *sure, *unsure; size_t sure_count, unsure_count; uint64_t visible; bool calm; };
void ap_view_select(struct ap_view *view, const struct ap_collection_view *c, const struct ap_filter *filter, struct ap_selected *out);
void ap_selected_fini(struct ap_selected *s);
/* hits has room for limit; *count is how many there are. */
int ap_view_search(struct ap_view *view, const struct ap_collection_view *c, const struct ap_search *q, struct ap_hit *hits, size_t *count, struct ap_err *err);

/* The current row of a point: AP_ENOTFOUND when it is not live. */
int ap_view_point(struct ap_view *view, const struct ap_collection_view *c, const struct ap_point_id *id, uint64_t *slot, struct ap_err *err);
/* A row by its slot, and its best vector as floats (raw, else decoded) into out[dim]; *raw says which. */
int ap_view_row(struct ap_view *view, uint64_t slot, struct ap_row *row, struct ap_err *err);
int ap_view_vector(struct ap_view *view, const struct ap_collection_view *c, uint64_t slot, const struct ap_row *row, float *out, bool *raw, struct ap_err *err);
/* Live points in id order from `from` on (NULL: the first): fn gets id and slot until it returns non-zero. */
int ap_view_scroll(struct ap_view *view, const struct ap_collection_view *c, const struct ap_point_id *from,
                   int (*fn)(void *arg, const struct ap_point_id *id, uint64_t slot), void *arg, struct ap_err *err);
/* Live points in any order. */
int ap_view_scan(struct ap_view *view, const struct ap_collection_view *c, int (*fn)(void *arg, const struct ap_point_id *id, uint64_t slot), void *arg, struct ap_err *err);

#endif
