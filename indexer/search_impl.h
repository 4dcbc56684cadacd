/* What search.c and search_filter.c share: one search, and the memory of its thread. */
#ifndef ANTIPODE_INDEXER_SEARCH_IMPL_H
#define ANTIPODE_INDEXER_SEARCH_IMPL_H
#include "indexer/index_impl.h"
#include "indexer/select.h"

#define AP_SEARCH_TRIES 4

struct scratch {
    float *query, *turned; int8_t *q8; size_t dim;
    struct ap_candidate *heap; float *scores; int64_t *ordinals; size_t k;
    struct ap_hit *hits; size_t hit_room;
    struct ap_vector_batch *batch;
    struct ap_slots slots;   /* rows to be read, and asked by the filter */
    struct ap_slots sure;    /* rows to be read that pass it */
    struct ap_buf text;
};

struct search {
    struct ap_view *view;
    const struct ap_state_coll *c;
    const struct ap_control_collection *params;
    const struct ap_search *q;
    struct scratch *scratch;
    size_t hit_count;   /* in scratch->hits: the best limit so far, then what came since */
    size_t hit_room;
    bool full;          /* the first limit of them are a cut: worse ones need not be kept */
};

/* Room in the thread's memory for dim floats, k candidates, and hits. */
struct scratch *ap_search_scratch(uint32_t dim, enum ap_distance distance, size_t k, size_t hit_room);
/* Score the rows in these slots (rising) with their best vectors; ask: those that the filter takes. */
int ap_search_rows(struct search *s, const struct ap_slots *slots, bool ask, struct ap_err *err);

/* --- search_filter.c --- */
/* Candidates that pass the filter: into top by segments' scores, or, where only rows tell, into scratch's slots and sure.
 * scan: all into slots and sure. *all: nothing that passes was left out for the sake of time. */
int ap_search_filtered(struct search *s, struct ap_segment_query *sq, size_t k, bool scan, struct ap_top *top, bool *all, struct ap_err *err);

#endif
