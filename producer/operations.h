/* The body of POST .../points/batch: {"operations": [{"upsert": ...}, {"delete": ...}, {"set_payload": ...}, ...]}, each as the
 * call of its name takes it.
 *
 * Served: upsert, delete, set_payload, overwrite_payload, delete_payload, clear_payload, by ids. Operations on vectors alone
 * and those by filter are refused by their place and name. One thread at a time. */
#ifndef ANTIPODE_PRODUCER_OPERATIONS_H
#define ANTIPODE_PRODUCER_OPERATIONS_H
#include "producer/changes.h"

struct ap_operation {
    bool upsert;
    struct ap_points points;  /* of an upsert */
    struct ap_change change;  /* of all else */
};
struct ap_operations { struct ap_operation *list; size_t count, cap; size_t points; /* in all of them */ };

/* As ap_points_parse; max_points holds for all operations together. *out is for ap_operations_fini also on failure. */
int ap_operations_parse(const char *text, size_t len, const struct ap_target *t, size_t max_points, struct ap_operations *out, struct ap_err *err);
/* Every upsert through ap_points_prepare; the error names the operation. */
int ap_operations_prepare(struct ap_operations *b, const struct ap_target *t, struct ap_err *err);
/* In the order of the operations, borrowing from b: *count of them, at most b->points. */
void ap_operations_records(const struct ap_operations *b, const struct ap_target *t, struct ap_record *out, size_t *count);
void ap_operations_fini(struct ap_operations *b);

#endif
