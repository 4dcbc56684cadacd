/* A segment: some rows of one collection, found by their vectors.
 *
 * Hot: append-only, rows as 8-bit integers, scanned flat. One thread appends (the tail), any number search meanwhile: a
 * row is complete before the count that covers it is published. Sealed: built once from other segments, never changed:
 * inverted lists of 8-bit or small rows (ivf8.h), or the FAISS structure that a factory string names. All map ordinals to slots
 * and keep one live bit a row, which only the tail thread and the swap at a build's end change. Reference-counted. */
#ifndef ANTIPODE_INDEXER_SEGMENT_H
#define ANTIPODE_INDEXER_SEGMENT_H
#include <stdatomic.h>
#include <stdbool.h>
#include "common/ann.h"
#include "indexer/column.h"
#include "indexer/fields.h"
#include "indexer/ivf8.h"

enum ap_segment_kind { AP_SEGMENT_HOT, AP_SEGMENT_IVF8, AP_SEGMENT_FAISS };

struct ap_segment {
    atomic_uint refs;
    enum ap_segment_kind kind;
    bool hot;                  /* kind == AP_SEGMENT_HOT */
    bool cold;                 /* stays on the disk (tier.h) */
    uint64_t collection;
    uint32_t dim;
    enum ap_distance distance;
    uint32_t cap;              /* rows there is room for; = count when sealed */
    _Atomic uint32_t count;    /* rows published */
    _Atomic uint32_t live_count;
    _Atomic uint8_t *live;     /* bit i of byte i/8 */
    uint64_t base;             /* slot of ordinal 0; set before the first row is published */
    uint32_t *offsets;         /* slot of ordinal i, minus base */

    uint32_t *order;           /* ordinals by rising slot; NULL: they rise themselves */
    void *map; size_t map_bytes; /* what all arrays of a hot segment or of lists lie in */

    uint8_t *codes;            /* hot */
    struct ap_q8_meta *meta;
    uint64_t *bits; float *factors; /* of the rows, hot or in lists: their sketches; NULL: none */
    struct ap_ivf8 lists;
    struct ap_ann *ann;        /* owned, as offsets are then */
    struct ap_hot_values *values; /* hot: of the fields that were declared when it began; owned; NULL: none */
    uint64_t indexed_fields;      /* sealed: hash of the fields that columns were last built for; apply lock, too */
    struct ap_columns *columns;   /* sealed: guarded by the apply lock, views have their own references */
    uint64_t file_id;
    uint64_t replaces[64]; uint32_t replaces_count; /* files that this one stands for */
    char *path;                /* owned; NULL: no file */
};

/* NULL when there is no memory. */
struct ap_segment *ap_segment_hot(uint64_t collection, uint32_t dim, enum ap_distance distance, uint32_t cap);
/* Both with all live bits clear. The first takes ann and offsets; the second takes the mapping, in which the image of
 * lists begins at image. */
struct ap_segment *ap_segment_faiss(uint64_t collection, enum ap_distance distance, struct ap_ann *ann, uint64_t base, uint32_t *offsets, uint32_t count);
struct ap_segment *ap_segment_lists(uint64_t collection, enum ap_distance distance, void *map, size_t map_bytes, const struct ap_ivf8 *lists, uint64_t base);
struct ap_segment *ap_segment_ref(struct ap_segment *s);
/* Does it hold one bit a component? Its scores are rough, so more candidates are wanted of it. */
static inline bool ap_segment_is_small(const struct ap_segment *s) { return s->kind == AP_SEGMENT_IVF8 && s->lists.small; }
void ap_segment_unref(struct ap_segment **s);

static inline uint64_t ap_segment_slot(const struct ap_segment *s, uint32_t ordinal) { return s->base + s->offsets[ordinal]; }
/* Ordinal of the row with the rank-th smallest slot. */
static inline uint32_t ap_segment_nth(const struct ap_segment *s, uint32_t rank) { return s->order ? s->order[rank] : rank; }
static inline bool ap_segment_live(const struct ap_segment *s, uint32_t ordinal)
{
    return (atomic_load_explicit(&s->live[ordinal / 8], memory_order_acquire) >> (ordinal % 8)) & 1;
}
/* First and last slot; false when empty. */
bool ap_segment_range(const struct ap_segment *s, uint64_t *first, uint64_t *last);
/* How many slots of the segment are smaller than this one of it, or -1. */
int64_t ap_segment_rank(const struct ap_segment *s, uint64_t slot);
/* Ordinal of a slot, or -1. */
int64_t ap_segment_find(const struct ap_segment *s, uint64_t slot);
/* Set or clear a live bit; returns whether that changed it. Writers only, under the index's apply lock. */
bool ap_segment_mark(struct ap_segment *s, uint32_t ordinal, bool live);

/* Can this slot still be appended? Slots rise and lie within 32 bits of the first. */
bool ap_segment_has_room(const struct ap_segment *s, uint64_t slot);
/* Append n rows, live; the tail thread. There must be room. */
void ap_segment_append(struct ap_segment *s, size_t n, const uint64_t *slots, const float *vectors);

size_t ap_segment_bytes(const struct ap_segment *s);

/* --- searching --- */
struct ap_candidate { float score; /* larger is better */ uint64_t slot; };
/* The k best so far: a heap with the worst on top. */
struct ap_top { struct ap_candidate *items; size_t count, k; };
void ap_top_offer(struct ap_top *top, float score, uint64_t slot);

struct ap_segment_query {
    const float *vector;       /* as it is: for FAISS's structures */
    struct ap_q8_query q8;
    uint32_t effort;
    float *scores; int64_t *ordinals; /* room of each: k, and at least ap_segment_room of the segment */
};
/* Sets the vector and its 8 bits; both and q8, ap_q8_stride(dim) bytes, are borrowed for the query's life. turned: room for dim floats. */
void ap_segment_query_init(struct ap_segment_query *q, const float *vector, uint32_t dim, float *turned, int8_t *q8);
/* Offer those of n rows (HOT or IVF8) that are live. */
void ap_segment_score(const struct ap_segment *s, const struct ap_segment_query *q, const uint32_t *ordinals, size_t n, struct ap_top *top);
/* Room that searching the segment takes whatever k is. */
size_t ap_segment_room(const struct ap_segment *s);
/* Offer the segment's best live rows. */
int ap_segment_search(const struct ap_segment *s, const struct ap_segment_query *q, struct ap_top *top, struct ap_err *err);
/* The same of the sealed segment's rows in `rows` alone, of which there are `matches`. More lists are looked into than
 * without, as far as scoring fewer rows in each pays for it, or all (*all). */
int ap_segment_search_these(const struct ap_segment *s, const struct ap_segment_query *q, const roaring_bitmap_t *rows, uint64_t matches,
                            bool *all, struct ap_top *top, struct ap_err *err);

#endif
