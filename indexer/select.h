/* A filter asked of a segment's indexes at once: which ordinals pass.
 *
 * The answer is exact, or an upper bound whose rows are to be looked at: where a field is not declared, not indexed in
 * this segment yet, or the condition is of a kind that indexes do not answer. */
#ifndef ANTIPODE_INDEXER_SELECT_H
#define ANTIPODE_INDEXER_SELECT_H
#include "indexer/column.h"
#include "indexer/fields.h"
#include "indexer/filter.h"

struct ap_selection {
    roaring_bitmap_t *rows; /* owned; NULL: all */
    bool exact;
};

struct ap_select_in {
    uint32_t rows;                      /* ordinals below count */
    const struct ap_columns *columns;   /* of a sealed segment; may be NULL */
    const struct ap_hot_values *values; /* of a hot one; may be NULL */
    /* Ordinal of a point in this segment, or -1. */
    int64_t (*find)(void *arg, const struct ap_point_id *id);
    void *arg;
};
/* filter: bound (filter.h). Free with ap_selection_fini. */
void ap_select(const struct ap_filter *filter, const struct ap_select_in *in, struct ap_selection *out);
void ap_selection_fini(struct ap_selection *s);

#endif
