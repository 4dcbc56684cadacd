/* A row taken apart again into the mutations that make it: what a repair publishes.
 *
 * Invariant: merging the parts into nothing, in any order, gives the row's own bytes; merging them into any other row of
 * the key gives what ap_row_join of the two gives. No state: any thread. */
#ifndef ANTIPODE_COMMON_ROW_PARTS_H
#define ANTIPODE_COMMON_ROW_PARTS_H
#include "common/row.h"

struct ap_row_parts {
    struct ap_mutation *list; /* without positions; payloads of patches point into text, all else into the row */
    size_t count;
    struct ap_buf text;
};
/* row must be sound and outlive the parts. One UPSERT or DELETE when it has a base, one PATCH for each patched key or
 * overwrite. AP_ECORRUPT, POISON: a patched key that is no UTF-8. *out is filled also on failure: ap_row_parts_fini. */
int ap_row_parts(const struct ap_row *row, struct ap_row_parts *out, struct ap_err *err);
/* One DELETE that leaves a tombstone in place of all that the row says: with the newest version in it. */
void ap_row_parts_delete(const struct ap_row *row, struct ap_row_parts *out);
void ap_row_parts_fini(struct ap_row_parts *p);

#endif
