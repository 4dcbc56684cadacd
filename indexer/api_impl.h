/* Inside the API: what api.c (start, routes), api_read.c (what every read does first), api_query.c, api_points.c,
 * api_collections.c and api_write.c share. */
#ifndef ANTIPODE_INDEXER_API_IMPL_H
#define ANTIPODE_INDEXER_API_IMPL_H
#include <pthread.h>
#include "common/http.h"
#include "indexer/api.h"
#include "indexer/api_request.h"
#include "indexer/forward.h"
#include "indexer/fresh.h"
#include "indexer/levels.h"

#define AP_TOKEN_HEADER "X-Antipode-Token"
#define AP_SEEN_HEADER "X-Antipode-Seen"
#define AP_LEVEL_HEADER "X-Antipode-Level"

struct ap_api {
    const struct ap_indexer_config *config;
    struct ap_limits limits;
    struct ap_forward *forward;
    struct ap_http_server *server;
    struct ap_metrics *metrics;
    struct ap_verify *verify;
    struct ap_fresh *fresh;
    _Atomic(struct ap_index *) index; /* NULL until attached */
    struct ap_tail *tail;             /* set before index */
    pthread_mutex_t lock;             /* guards state */
    char state[256];
    struct ap_metric *query_latency, *search_latency;
    struct ap_metric *read_waits[AP_READ_LEVELS][2], *write_waits[2]; /* [0] became visible, [1] timed out */
    struct ap_metric *read_wait_time[AP_READ_LEVELS], *write_wait_time;
};

/* --- every read (api_read.c) --- */

/* One read: a view, and the collection of the path's first parameter in it. */
struct ap_read {
    struct ap_api *api;
    struct ap_http_request *req;
    struct ap_index *index;
    struct ap_view *view;
    struct ap_collection_view c;
};
/* Checks `consistency`, waits for what the level asks for, begins the view. Without `named` the collection is left out.
 * On failure it has replied. The reader ends the read. */
int ap_read_begin(struct ap_read *r, struct ap_http_request *req, bool named);
void ap_read_end(struct ap_read *r);
/* Waits until this region shows what the request's level, tokens and bound ask for (api_levels.c). AP_ENOTREADY: not in time. */
int ap_read_wait(struct ap_read *r, struct ap_err *err);
/* The path's collection in r->view: r->c. AP_ENOTFOUND in Qdrant's words. */
int ap_read_find_collection(struct ap_read *r, struct ap_err *err);
/* For a write that is decided on what this region shows: is there an index, and does it show the request's tokens? Sets
 * r->index; begins no view. AP_ENOTREADY. */
int ap_read_for_write(struct ap_read *r, int64_t deadline_ns, struct ap_err *err);
/* The request's tokens alone (api_levels.c). */
int ap_read_wait_tokens(struct ap_read *r, int64_t deadline_ns, struct ap_err *err);
/* Where the request has X-Antipode-Seen: put the visible positions into the answer's. */
void ap_read_say_seen(struct ap_read *r);
/* The request's deadline (CLOCK_MONOTONIC ns): its `timeout` in seconds, else the configured one. */
int ap_api_deadline(struct ap_api *api, const struct ap_http_request *req, int64_t *deadline_ns, struct ap_err *err);
/* The body, taken apart; on failure it has replied. */
int ap_read_body(struct ap_read *r, struct ap_body *out);
/* Sends {"result":<out>,"status":"ok","time":..} where out holds `{"result":` and the result; takes out. */
void ap_read_answer(struct ap_http_request *req, struct ap_buf *out);
void ap_read_answer_begin(struct ap_buf *out);

/* --- points as JSON (api_answer.c) --- */

struct ap_answer {
    struct ap_read *read;
    const struct ap_select *select;
    struct ap_buf *out;
    bool vector, named;     /* write the vector; inside an object with its name */
    float *floats;          /* dim of the collection */
    struct ap_buf payload;
};
/* AP_EINVAL when the selected vector names are not the collection's. */
int ap_answer_begin(struct ap_answer *a, struct ap_read *r, const struct ap_select *select, struct ap_buf *out, struct ap_err *err);
void ap_answer_end(struct ap_answer *a);
/* One point; as a hit (with version and score) when score is not NULL. */
int ap_answer_point(struct ap_answer *a, const struct ap_point_id *id, uint64_t slot, const float *score, struct ap_err *err);
/* The version a client sees: rises with the hybrid clock and fits a double. */
uint64_t ap_answer_version(const struct ap_row *row);
/* The payload of a row as text: borrowed from the row or from scratch; *len 0 when there is none. */
int ap_answer_payload(const struct ap_row *row, struct ap_buf *scratch, const char **text, size_t *len, struct ap_err *err);

/* --- walking over points (api_walk.c) --- */

struct ap_found { struct ap_point_id id; uint64_t slot; };
/* Both bind the filter to the collection's fields: AP_EINVAL as ap_view_bind. */
/* The first `limit` points that match, in id order from `from` on (NULL: the first). out has room for limit. */
int ap_walk_page(struct ap_read *r, struct ap_filter *filter, const struct ap_point_id *from, size_t limit, struct ap_found *out, size_t *count, struct ap_err *err);
int ap_walk_count(struct ap_read *r, struct ap_filter *filter, uint64_t *count, struct ap_err *err);

/* --- handlers --- */
void ap_serve_query(struct ap_http_request *req);        /* api_query.c */
void ap_serve_query_batch(struct ap_http_request *req);
void ap_serve_search(struct ap_http_request *req);
void ap_serve_search_batch(struct ap_http_request *req);
void ap_serve_retrieve(struct ap_http_request *req);     /* api_points.c */
void ap_serve_point(struct ap_http_request *req);
void ap_serve_scroll(struct ap_http_request *req);
void ap_serve_count(struct ap_http_request *req);
void ap_serve_root(struct ap_http_request *req);         /* api_collections.c */
void ap_serve_collections(struct ap_http_request *req);
void ap_serve_collection(struct ap_http_request *req);
void ap_serve_exists(struct ap_http_request *req);
void ap_serve_ready(struct ap_http_request *req);
void ap_collect_collections(struct ap_metrics_out *out, void *api);
void ap_serve_write(struct ap_http_request *req);        /* api_write.c */
void ap_serve_delete(struct ap_http_request *req);       /* api_by_filter.c */
void ap_serve_payload(struct ap_http_request *req);
void ap_serve_create(struct ap_http_request *req);
void ap_serve_drop(struct ap_http_request *req);
void ap_serve_index(struct ap_http_request *req);
void ap_serve_index_removal(struct ap_http_request *req);
void ap_serve_refused(struct ap_http_request *req);
extern const struct ap_http_stream ap_serve_bulk;

/* api_holes.c */
void ap_serve_holes(struct ap_http_request *req);
void ap_serve_losses(struct ap_http_request *req);

#endif
