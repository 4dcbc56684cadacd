/* The HTTP API of the producer: its routes. Handlers run in the connection's thread; the server's user is the producer. */
#ifndef ANTIPODE_PRODUCER_API_H
#define ANTIPODE_PRODUCER_API_H
#include "common/http.h"
#include "producer/producer.h"

extern const struct ap_http_route ap_producer_routes[];

/* Starts serving; p may still be starting, then writes get 503. */
int ap_producer_serve(struct ap_http_server **server, struct ap_producer *p, struct ap_err *err);

/* --- handlers, by file --- */
void ap_producer_create_collection(struct ap_http_request *req); /* api_collections.c */
void ap_producer_delete_collection(struct ap_http_request *req);
void ap_producer_create_index(struct ap_http_request *req);
void ap_producer_delete_index(struct ap_http_request *req);
void ap_producer_upsert(struct ap_http_request *req);            /* api_points.c */
void ap_producer_delete_points(struct ap_http_request *req);
void ap_producer_set_payload(struct ap_http_request *req);
void ap_producer_overwrite_payload(struct ap_http_request *req);
void ap_producer_delete_payload(struct ap_http_request *req);
void ap_producer_clear_payload(struct ap_http_request *req);
void ap_producer_batch(struct ap_http_request *req);
extern const struct ap_http_stream ap_producer_bulk;             /* api_bulk.c */
void ap_producer_repair(struct ap_http_request *req);            /* repair.c */
void ap_producer_region(struct ap_http_request *req);            /* api_regions.c */
void ap_producer_set_region(struct ap_http_request *req);
void ap_producer_retire_region(struct ap_http_request *req);
void ap_producer_lose(struct ap_http_request *req);
void ap_producer_barrier(struct ap_http_request *req);           /* barrier.c */

/* Body of a creation, apart from HTTP: fills everything but name and generation. Owned by *out: ap_control_fini of a
 * COLLECTION record frees it. */
int ap_producer_parse_collection(json_t *body, const struct ap_producer_config *config, struct ap_control_collection *out, struct ap_err *err);

#endif
