/* The indexer's HTTP API over a real store and index in a temporary folder, with a producer that is ours.
 *
 * The rig writes rows with ap_writer, as the consumer does; the tail makes them visible; a client talks HTTP to the API. The
 * producer behind it is an HTTP server here: it keeps what it was sent, and publishes into the store when told to. */
#ifndef ANTIPODE_TESTS_API_RIG_H
#define ANTIPODE_TESTS_API_RIG_H
#include <curl/curl.h>
#include <jansson.h>
#include "indexer/api.h"

#define RIG_DIM 4

struct api_rig {
    char dir[64], base[64];
    struct ap_store *store;
    struct ap_writer *writer;
    pthread_mutex_t lock; /* guards writer and what follows, up to hlc */
    uint64_t stream, seq, hlc;
    struct ap_region region;
    struct ap_schemas *schemas;
    struct ap_metrics *metrics, *producer_metrics;
    struct ap_indexer_config config;
    struct ap_index *index;
    struct ap_tail *tail;
    struct ap_api *api;
    struct ap_http_server *producer;
    CURL *curl;
    /* What the producer does with a write, and what it was sent last. */
    enum { RIG_APPLIES, RIG_LATER /* answers, and applies after a moment */, RIG_KEEPS /* answers with a token that is never covered */, RIG_REFUSES, RIG_SILENT /* no token */ } mode;
    char last_method[16], last_path[256], last_query[256], last_token[256];
    char last_text[4096];             /* of a buffered write, as much of it as fits */
    unsigned taken;                   /* buffered writes that were not refused */
    unsigned most_points, most_taken; /* a write with more points gets 413; one more write gets 503; 0: no bound */
    size_t last_body;
    uint64_t last_sum;
    pthread_t later;
    bool later_runs, later_creates;
    char later_name[64];
};

void api_rig_open(struct api_rig *r, const char *options); /* options: lines of the configuration, or NULL */
/* Stop the API and the tail before close: what they use can then go. */
void api_rig_quiet(struct api_rig *r);
void api_rig_close(struct api_rig *r);
/* The parts of open, for tests of the time before: the store and the API without an index, then the rest. */
void api_rig_begin(struct api_rig *r, const char *options);
void api_rig_attach(struct api_rig *r);

/* Definitions; the id of the collection. vector_name NULL: unnamed. */
uint64_t api_rig_collection(struct api_rig *r, const char *name, enum ap_distance distance, const char *vector_name, uint64_t generation);
void api_rig_drop(struct api_rig *r, const char *name, uint64_t generation);
/* A point with an integer id, a vector of RIG_DIM and a payload (JSON text or NULL), or with op AP_OP_PATCH or AP_OP_DELETE;
 * visible when it returns. */
void api_rig_write(struct api_rig *r, uint64_t collection, enum ap_op op, uint64_t id, const float *vector, const char *payload);
/* Token of the next write (before it is made), or of one `ahead` more. Caller frees. */
char *api_rig_token(struct api_rig *r, uint64_t ahead);

struct api_reply { long status; char *text; size_t len; json_t *json; char token[512]; char retry_after[16]; };
/* header: one line or NULL. body NULL: none. The reply lives until api_reply_free. */
struct api_reply api_rig_call(struct api_rig *r, const char *method, const char *path, const char *body, const char *header);
void api_reply_free(struct api_reply *reply);

#endif
