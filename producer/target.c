/* Targets and samplers: reference counts and copies. Nothing fails; memory running out ends the process. */
#include "producer/target.h"
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* --- sampler --- */

struct ap_sampler *ap_sampler_new(uint32_t dim, size_t good, size_t least)
{
    struct ap_sampler *s = must(calloc(1, sizeof *s));
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    s->dim = dim;
    s->good = good;
    s->least = least;
    return s;
}

bool ap_sampler_offer(struct ap_sampler *s, const float *rows, size_t n)
{
    if (atomic_load_explicit(&s->full, memory_order_relaxed) || n == 0)
        return false;
    pthread_mutex_lock(&s->lock);
    size_t take = n < s->good - s->n ? n : s->good - s->n;
    if (s->n + take > s->cap) {
        size_t cap = s->cap * 2 > s->n + take ? s->cap * 2 : s->n + take;
        s->cap = cap < s->good ? cap : s->good;
        s->rows = must(realloc(s->rows, s->cap * s->dim * sizeof *s->rows));
    }
    memcpy(s->rows + s->n * s->dim, rows, take * s->dim * sizeof *rows);
    if (s->n == 0)
        s->first_ms = ap_mono_ms();
    s->last_ms = ap_mono_ms();
    s->n += take;
    bool full = take > 0 && s->n == s->good;
    if (full)
        atomic_store(&s->full, true);
    pthread_mutex_unlock(&s->lock);
    return full;
}

float *ap_sampler_take(struct ap_sampler *s, size_t *n)
{
    pthread_mutex_lock(&s->lock);
    float *rows = s->rows;
    *n = s->n;
    s->rows = NULL;
    s->n = s->cap = 0;
    atomic_store(&s->full, false);
    pthread_mutex_unlock(&s->lock);
    return rows;
}

void ap_sampler_unref(struct ap_sampler **s)
{
    if (*s && atomic_fetch_sub(&(*s)->refs, 1) == 1) {
        pthread_mutex_destroy(&(*s)->lock);
        free((*s)->rows);
        free(*s);
    }
    *s = NULL;
}

/* --- target --- */

static char *copy(const char *text)
{
    return text ? must(strdup(text)) : NULL;
}

struct ap_target *ap_target_new(const struct ap_collection *c, struct ap_topic *topic)
{
    struct ap_target *t = must(calloc(1, sizeof *t));
    atomic_init(&t->refs, 1);
    t->collection = c->id;
    t->name = copy(c->params.name);
    t->vector_name = copy(c->params.vector_name);
    t->dim = c->params.dim;
    t->distance = c->params.distance;
    t->raw_home = c->params.raw_home;
    t->topic = topic;
    t->topic_name = copy(c->params.topic);
    t->factory = copy(c->params.codec_factory);
    t->code_size = (size_t)t->dim * sizeof(float);
    return t;
}

struct ap_target *ap_target_with(const struct ap_target *t, struct ap_codec *codec, struct ap_sampler *sampler)
{
    struct ap_target *n = must(calloc(1, sizeof *n));
    atomic_init(&n->refs, 1);
    n->collection = t->collection;
    n->name = copy(t->name);
    n->vector_name = copy(t->vector_name);
    n->dim = t->dim;
    n->distance = t->distance;
    n->raw_home = t->raw_home;
    n->topic = t->topic;
    n->topic_name = copy(t->topic_name);
    n->factory = copy(t->factory);
    n->codec = codec ? ap_codec_ref(codec) : NULL;
    n->code_size = codec ? ap_codec_code_size(codec) : (size_t)t->dim * sizeof(float);
    n->sampler = sampler;
    if (sampler)
        atomic_fetch_add(&sampler->refs, 1);
    return n;
}

struct ap_target *ap_target_ref(struct ap_target *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void ap_target_unref(struct ap_target **t)
{
    struct ap_target *d = *t;
    *t = NULL;
    if (!d || atomic_fetch_sub(&d->refs, 1) != 1)
        return;
    if (d->codec)
        ap_codec_unref(&d->codec);
    ap_sampler_unref(&d->sampler);
    free(d->name);
    free(d->vector_name);
    free(d->topic_name);
    free(d->factory);
    free(d);
}
