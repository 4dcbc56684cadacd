/* Changes of points that carry no vector: deletion, and Qdrant's payload calls (set, overwrite, delete keys, clear), by ids.
 *
 * Which points: {"points": [id, ...]}. A filter is none of the producer's business, because it does not read the store: a
 * body with a filter alone is taken apart and says so. What the region's indexer makes of it is {"points": [...], "seen":
 * [version, ...], "filter": ...}: the points that matched, each with the version it had there; the filter is then history.
 * A DELETE with a version seen has that very version, so that a change it did not see is newer and survives. A payload call
 * is a change of its own, newer than all it saw.
 *
 * Invariant: what ap_change_records gives, consumers accept. Strict, as points_json.h. One thread at a time. */
#ifndef ANTIPODE_PRODUCER_CHANGES_H
#define ANTIPODE_PRODUCER_CHANGES_H
#include "common/event.h"
#include "producer/points.h"

enum ap_change_kind { AP_CHANGE_DELETE, AP_CHANGE_SET_PAYLOAD, AP_CHANGE_OVERWRITE_PAYLOAD, AP_CHANGE_DELETE_PAYLOAD, AP_CHANGE_CLEAR_PAYLOAD };

struct ap_change {
    enum ap_change_kind kind;
    struct ap_point_id *ids; size_t n;
    struct ap_version *seen;     /* n, or NULL */
    uint64_t seen_hlc;           /* the newest of seen; 0 without */
    bool filtered;               /* a filter alone: n is 0, and the points are still to be found */
    bool nothing;                /* it changes nothing (set {}, delete no keys): no records */
    struct ap_buf patch;         /* payload of the PATCH; empty for DELETE */
};

/* The body of one call. max_points: AP_ETOOBIG beyond. AP_EINVAL, AP_EUNSUPPORTED. *out is for ap_change_fini on success only. */
int ap_change_parse(enum ap_change_kind kind, const char *text, size_t len, size_t max_points, struct ap_change *out, struct ap_err *err);
void ap_change_fini(struct ap_change *c);
/* Records, borrowing from c: *count of them, at most n. */
void ap_change_records(const struct ap_change *c, uint64_t collection, struct ap_record *out, size_t *count);

#endif
