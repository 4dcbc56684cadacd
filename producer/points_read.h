/* What the bodies of all writes have in common: ids, payloads, and how their errors read.
 *
 * As all readers of json_pull.h: false once something is wrong, and err then has the first reason. No state: any thread. */
#ifndef ANTIPODE_PRODUCER_POINTS_READ_H
#define ANTIPODE_PRODUCER_POINTS_READ_H
#include "producer/json_pull.h"
#include "producer/points.h"

bool ap_read_unknown(struct ap_pull *j, const struct ap_slice *key);       /* fails: no such field */
bool ap_read_once(struct ap_pull *j, bool *seen, const char *what);        /* fails when seen is set, then sets it */
bool ap_read_in(struct ap_pull *j, const char *what, size_t i);            /* false: puts what[i] before the error */
bool ap_read_room(struct ap_pull *j, size_t n, size_t max);                /* for one more point after n: AP_ETOOBIG */
bool ap_read_id(struct ap_pull *j, struct ap_point_id *out);
/* An object, appended to out as text without blanks; nothing of an empty one. What consumers would refuse (a key twice, a
 * number that no double holds) is refused here. */
bool ap_read_payload(struct ap_pull *j, struct ap_buf *out, struct ap_payload *where);

#endif
