/* A collection as the write path sees it: an immutable snapshot, reference-counted.
 *
 * Invariant: what a target says never changes; a new codec or a new generation makes a new target. Any thread may hold
 * one for as long as it likes. */
#ifndef ANTIPODE_PRODUCER_TARGET_H
#define ANTIPODE_PRODUCER_TARGET_H
#include <pthread.h>
#include <stdatomic.h>
#include "common/ann.h"
#include "common/catalog.h"
#include "producer/lanes.h"

/* The first vectors of a collection that has no codec yet: what it will be trained on. */
struct ap_sampler {
    _Atomic unsigned refs;
    pthread_mutex_t lock;
    uint32_t dim;
    size_t good, least;      /* vectors wanted; vectors that will do */
    float *rows; size_t n, cap;
    int64_t first_ms, last_ms; /* monotonic; of the first and the last vector taken */
    _Atomic bool full;
};
struct ap_sampler *ap_sampler_new(uint32_t dim, size_t good, size_t least);
/* Take what is still wanted of n rows. Returns true when that made it full. Any thread. */
bool ap_sampler_offer(struct ap_sampler *s, const float *rows, size_t n);
/* The trainer: move the rows out (free() them); the sampler starts again, empty. */
float *ap_sampler_take(struct ap_sampler *s, size_t *n);
void ap_sampler_unref(struct ap_sampler **s);

struct ap_target {
    _Atomic unsigned refs;
    uint64_t collection;
    char *name;
    char *vector_name;          /* NULL: unnamed */
    uint32_t dim;
    enum ap_distance distance;
    bool raw_home;
    struct ap_topic *topic;     /* NULL: the collection's topic is not configured here */
    char *topic_name;
    char *factory;              /* "none", or what the codec is made with */
    struct ap_codec *codec;     /* NULL: float32 */
    size_t code_size;           /* bytes of a vector as published */
    struct ap_sampler *sampler; /* NULL: nothing to train */
};
/* From the catalog's words. */
struct ap_target *ap_target_new(const struct ap_collection *c, struct ap_topic *topic);
/* A copy that encodes with codec (a reference is taken; NULL: float32) and samples into sampler (the same). */
struct ap_target *ap_target_with(const struct ap_target *t, struct ap_codec *codec, struct ap_sampler *sampler);
struct ap_target *ap_target_ref(struct ap_target *t);
void ap_target_unref(struct ap_target **t);

#endif
