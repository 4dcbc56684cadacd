/* Points out of JSON, in the shapes of Qdrant's REST API: {"points":[{id,vector,payload}]}, {"batch":{ids,vectors,payloads}},
 * and one point object a line.
 *
 * Strict: an unknown field is refused by name. A vector is a list of numbers, or an object with the one name that the
 * collection gave its vector. A missing id means one derived from the vector. Errors name the point. */
#ifndef ANTIPODE_PRODUCER_POINTS_JSON_H
#define ANTIPODE_PRODUCER_POINTS_JSON_H
#include "producer/points.h"

/* The body of PUT .../points. AP_EINVAL, AP_EUNSUPPORTED, AP_ETOOBIG (more than max_points). */
int ap_points_parse(const char *body, size_t len, const struct ap_target *t, size_t max_points, struct ap_points *out, struct ap_err *err);
/* One object {id,vector,payload}, appended to out (which is as before on failure). */
int ap_points_parse_one(const char *text, size_t len, const struct ap_target *t, struct ap_points *out, struct ap_err *err);

#endif
