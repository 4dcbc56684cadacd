/* The table is rebuilt when the catalog's version has moved: entries of collections that are the same as before stay, with
 * their codec and sampler; others are made anew. */
#include "producer/targets.h"
#include <stdlib.h>
#include <string.h>

#define SAMPLE_MAX_BYTES ((size_t)256 << 20) /* of one collection's training vectors */

void ap_targets_init(struct ap_targets *t, struct ap_control_log *control, struct ap_lanes *lanes, const struct ap_producer_config *config)
{
    *t = (struct ap_targets){.control = control, .lanes = lanes, .config = config};
    pthread_mutex_init(&t->lock, NULL);
}

void ap_targets_fini(struct ap_targets *t)
{
    for (size_t i = 0; i < t->count; i++)
        ap_target_unref(&t->entries[i]);
    free(t->entries);
    pthread_mutex_destroy(&t->lock);
    *t = (struct ap_targets){0};
}

/* --- keeping in step --- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same(const struct ap_target *t, const struct ap_collection *c)
{
    return t->collection == c->id && t->dim == c->params.dim && t->distance == c->params.distance && t->raw_home == c->params.raw_home &&
           same_text(t->vector_name, c->params.vector_name) && same_text(t->topic_name, c->params.topic) && same_text(t->factory, c->params.codec_factory);
}

/* How many vectors to train on: what is configured, or good for the codec, within bounds of what it takes and of memory. */
static struct ap_sampler *sampler_for(const struct ap_targets *t, const struct ap_collection *c)
{
    size_t good = 0, least = 0, row = c->params.dim * sizeof(float);
    if (strcmp(c->params.codec_factory, "none") == 0)
        return NULL;
    ap_codec_training_size(c->params.codec_factory, c->params.dim, &good, &least);
    if (t->config->train_rows)
        good = (size_t)t->config->train_rows;
    if (good > SAMPLE_MAX_BYTES / row)
        good = SAMPLE_MAX_BYTES / row;
    if (good < least)
        good = least;
    return ap_sampler_new(c->params.dim, good ? good : 1, least);
}

static struct ap_target *make_entry(struct ap_targets *t, const struct ap_collection *c)
{
    struct ap_target *plain = ap_target_new(c, ap_lanes_topic(t->lanes, c->params.topic));
    struct ap_sampler *sampler = plain->topic ? sampler_for(t, c) : NULL;
    struct ap_target *full = ap_target_with(plain, NULL, sampler);
    ap_sampler_unref(&sampler);
    ap_target_unref(&plain);
    return full;
}

static struct ap_target *take_entry(struct ap_targets *t, const struct ap_collection *c)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->entries[i] && same(t->entries[i], c)) {
            struct ap_target *kept = t->entries[i];
            t->entries[i] = NULL;
            return kept;
        }
    return make_entry(t, c);
}

/* Under the table's lock. */
static void refresh(struct ap_targets *t)
{
    if (t->version == atomic_load(&t->control->version))
        return;
    const struct ap_catalog *catalog = ap_control_log_lock(t->control);
    uint64_t version = atomic_load(&t->control->version);
    size_t n = ap_catalog_collections(catalog, NULL, 0), live = 0;
    const struct ap_collection **all = malloc((n + 1) * sizeof *all);
    struct ap_target **entries = malloc((n + 1) * sizeof *entries);
    if (!all || !entries)
        abort();
    ap_catalog_collections(catalog, all, n);
    for (size_t i = 0; i < n; i++)
        if (all[i]->live)
            entries[live++] = take_entry(t, all[i]);
    ap_control_log_unlock(t->control);
    for (size_t i = 0; i < t->count; i++)
        ap_target_unref(&t->entries[i]);
    free(t->entries);
    free(all);
    t->entries = entries;
    t->count = live;
    t->version = version;
}

/* --- looking up --- */

struct ap_target *ap_targets_get(struct ap_targets *t, const char *name, struct ap_err *err)
{
    struct ap_target *found = NULL;
    pthread_mutex_lock(&t->lock);
    refresh(t);
    for (size_t i = 0; i < t->count && !found; i++)
        if (strcmp(t->entries[i]->name, name) == 0)
            found = ap_target_ref(t->entries[i]);
    pthread_mutex_unlock(&t->lock);
    if (!found) {
        ap_err_set(err, AP_ENOTFOUND, AP_POISON, "Not found: Collection `%.255s` doesn't exist!", name);
    } else if (!found->topic) {
        ap_err_set(err, AP_ECONFLICT, AP_POISON, "collection %s is written to topic %s, which is not among this producer's topics", name, found->topic_name);
        ap_target_unref(&found);
    }
    return found;
}

size_t ap_targets_list(struct ap_targets *t, struct ap_target ***out)
{
    pthread_mutex_lock(&t->lock);
    refresh(t);
    size_t n = t->count;
    *out = malloc((n + 1) * sizeof **out);
    if (!*out)
        abort();
    for (size_t i = 0; i < n; i++)
        (*out)[i] = ap_target_ref(t->entries[i]);
    pthread_mutex_unlock(&t->lock);
    return n;
}

void ap_targets_list_free(struct ap_target **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ap_target_unref(&list[i]);
    free(list);
}

bool ap_targets_set_codec(struct ap_targets *t, uint64_t collection, struct ap_codec *codec)
{
    bool found = false;
    pthread_mutex_lock(&t->lock);
    for (size_t i = 0; i < t->count && !found; i++)
        if (t->entries[i]->collection == collection) {
            struct ap_target *with = ap_target_with(t->entries[i], codec, NULL);
            ap_target_unref(&t->entries[i]);
            t->entries[i] = with;
            found = true;
        }
    pthread_mutex_unlock(&t->lock);
    return found;
}
