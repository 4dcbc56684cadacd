/* What a read asks for, taken out of its JSON body.
 *
 * Invariant: after a parse returned 0 everything asked for is something we do; what we do not do has been refused by
 * name, and so has every unknown field. Errors: AP_EINVAL or AP_EUNSUPPORTED. No state: any thread. */
#ifndef ANTIPODE_INDEXER_API_REQUEST_H
#define ANTIPODE_INDEXER_API_REQUEST_H
#include <jansson.h>
#include "common/bytes.h"
#include "indexer/filter.h"

struct ap_limits { uint32_t max_limit, max_offset, max_batch, max_dim; };

/* A request body. The floats of its `query`, `query.nearest` or `vector` are read straight from the text and stand
 * in floats, while the tree has an empty list in their place: as a tree they would cost more than the search. */
struct ap_body {
    json_t *root;         /* an object; owned */
    bool has_floats;
    struct ap_buf floats; /* float32 */
};
/* text of len bytes; empty is an empty object. */
int ap_body_parse(const char *text, size_t len, const struct ap_limits *limits, struct ap_body *out, struct ap_err *err);
void ap_body_fini(struct ap_body *body);

enum ap_payload_kind { AP_PAYLOAD_NONE, AP_PAYLOAD_ALL, AP_PAYLOAD_INCLUDE, AP_PAYLOAD_EXCLUDE };

/* Which parts of a point the answer carries. Lists are borrowed from the body. */
struct ap_select {
    enum ap_payload_kind payload;
    const json_t *paths;         /* include, exclude: a list of strings */
    bool vector;
    const json_t *vector_names;  /* NULL: all */
};

enum ap_ask_kind { AP_ASK_VECTOR, AP_ASK_POINT, AP_ASK_BY_ID /* no question: points in the order of their ids */ };

/* One query or search. */
struct ap_ask {
    enum ap_ask_kind kind;
    float *vector; size_t dim;   /* owned */
    struct ap_point_id point;
    const char *using;           /* borrowed; NULL: the default vector */
    struct ap_filter *filter;    /* owned */
    struct ap_select select;
    uint32_t limit, offset;
    uint32_t effort;
    double oversampling;         /* 0: default */
    bool exact;
    bool has_threshold; float threshold;
};
/* body is of points/query or points/search; object is it or one of its `searches`. floats: those of the body when they
 * belong to this object, else NULL; taken when used. */
int ap_ask_parse_query(json_t *object, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err);
int ap_ask_parse_search(json_t *object, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err);
void ap_ask_fini(struct ap_ask *ask);
/* {"searches":[...]}: the list, borrowed. */
int ap_batch_parse(json_t *root, const struct ap_limits *limits, json_t **searches, struct ap_err *err);

struct ap_page { bool has_offset; struct ap_point_id offset; uint32_t limit; struct ap_filter *filter; struct ap_select select; };
int ap_page_parse(json_t *root, const struct ap_limits *limits, struct ap_page *out, struct ap_err *err); /* points/scroll */
void ap_page_fini(struct ap_page *page);

struct ap_pick { struct ap_point_id *ids; size_t count; struct ap_select select; };
int ap_pick_parse(json_t *root, const struct ap_limits *limits, struct ap_pick *out, struct ap_err *err); /* points */
void ap_pick_fini(struct ap_pick *pick);

int ap_count_parse(json_t *root, struct ap_filter **filter, struct ap_err *err); /* points/count */

#endif
