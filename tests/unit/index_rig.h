/* What tests and benches of the index share: a store in a temporary folder, written through ap_writer as the consumer
 * does, an index over it, and a model of what every point should be. Point i has the number i as its id. */
#ifndef ANTIPODE_TESTS_INDEX_RIG_H
#define ANTIPODE_TESTS_INDEX_RIG_H
#include <stdbool.h>
#include "common/schema.h"
#include "indexer/index.h"

struct ix_point { bool live, indexed; const char *payload; };

struct ix_rig {
    char root[64], store_path[96], index_path[96];
    struct ap_store *store;
    struct ap_writer *writer;
    struct ap_schemas *schemas;
    struct ap_metrics *metrics;
    struct ap_index *index;
    struct ap_index_options options;
    uint64_t hlc, seq;

    struct ap_control_collection collection;
    uint64_t collection_id;
    uint32_t dim;
    struct ap_codec *codec;  /* NULL: float32 */
    bool raw;                /* write raw vectors too */
    float *vectors;          /* of points, as posted; capacity * dim */
    struct ix_point *points;
    size_t capacity;
};

/* Ends the program with a message when something fails that must not. */
void ix_open(struct ix_rig *r, uint32_t dim, enum ap_distance distance, size_t capacity);
void ix_close(struct ix_rig *r);  /* removes the folder */
void ix_start_index(struct ix_rig *r);
void ix_stop_index(struct ix_rig *r);
/* The collection's definition as a control record. */
void ix_define(struct ix_rig *r, bool deleted);
/* Declare a field of the payloads indexed, or no longer. options: NULL, or as in the control record. */
void ix_index(struct ix_rig *r, const char *field, enum ap_field_type type, const char *options, bool removed);
/* Use the codec for later rows; publish says whether its record is written too. Takes the codec. */
void ix_codec(struct ix_rig *r, struct ap_codec *codec, bool publish);
void ix_publish_codec(struct ix_rig *r, const struct ap_codec *codec);

/* One batch at a time: begin, changes, commit. */
void ix_begin(struct ix_rig *r);
void ix_commit(struct ix_rig *r);
void ix_upsert(struct ix_rig *r, size_t i, const float *vector, const char *payload);
void ix_delete(struct ix_rig *r, size_t i);
void ix_patch(struct ix_rig *r, size_t i, const char *patch); /* row.h says what it may hold */
/* count rows from first, each batch rows a batch. */
void ix_load(struct ix_rig *r, const float *vectors, size_t first, size_t count, size_t batch);
size_t ix_clean(struct ix_rig *r, size_t max_rows);
/* Until nothing is left to apply. */
void ix_refresh(struct ix_rig *r);
/* Until the builder has nothing to do: no full hot segment, or the deadline. */
bool ix_wait_sealed(struct ix_rig *r, uint32_t segments_at_most, int seconds);
bool ix_wait_indexed(struct ix_rig *r, uint64_t rows_at_least, int seconds); /* in sealed segments */

void ix_key(const struct ix_rig *r, size_t i, struct ap_key *key);
uint64_t ix_number(const struct ap_point_id *id);
size_t ix_live(const struct ix_rig *r);
/* The best k points of the model by the vectors as posted; returns how many. */
size_t ix_exact(const struct ix_rig *r, const float *query, size_t k, uint64_t *ids, float *scores);
/* Search as a client; ids of hits. */
size_t ix_search(struct ix_rig *r, const struct ap_search *q, uint64_t *ids, float *scores);
/* Share of the true k found. */
double ix_recall(struct ix_rig *r, const float *queries, size_t nq, uint32_t k, const struct ap_search *how);

#endif
