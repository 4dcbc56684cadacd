/* The index against an audit of its store: rows that it has and should not, rows that it lacks, ids that lead elsewhere, and
 * sealed segments that do not find what is in them.
 *
 * Rows that the tail has not applied yet do not count. What looks wrong is looked at again with the tail held still, so
 * writes under way cause no findings. Any thread; the audit is the caller's. */
#ifndef ANTIPODE_INDEXER_AUDIT_INDEX_H
#define ANTIPODE_INDEXER_AUDIT_INDEX_H
#include "indexer/audit.h"
#include "indexer/index.h"

#define AP_FINDINGS_SHOWN 16

struct ap_findings {
    uint64_t dead;      /* live in the index, but the store has no such row, or a newer one */
    uint64_t missing;   /* live in the store, not in the index */
    uint64_t astray;    /* ids that lead to another row, or to one when there is none */
    uint64_t segments;  /* sealed segments that do not find their own rows */
    uint64_t probes;    /* rows that segments were asked for */
    uint64_t slots[AP_FINDINGS_SHOWN]; /* of the first of them */
    size_t shown;
};

/* Compare; with mend also put right what was found: bits are cleared, rows indexed again, segments thrown away and their rows
 * indexed again. last: of several audits that cover a collection part by part, exactly one says so: what belongs to no
 * part is looked at with it. */
int ap_audit_index(struct ap_index *index, struct ap_audit *audit, bool last, bool mend, struct ap_findings *out, struct ap_err *err);

#endif
