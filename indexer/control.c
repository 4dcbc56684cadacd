/* Control records: which collections there are, and their codecs.
 *
 * All records are read again when any was written, which is rare; the catalog sorts out what counts. A collection that is
 * deleted gives up its segments at once, and the builder takes its ids out of the map. One whose dimension or distance
 * changes (two regions created the name at once, and the other's creation turns out to be the older) sets all its rows
 * aside and indexes them anew. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "indexer/index_impl.h"

static int apply_record(void *arg, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len)
{
    struct ap_index *index = arg;
    struct ap_err err = {0};
    static struct ap_log_limit limit;
    if (ap_catalog_apply(index->catalog, origin, key, key_len, value, value_len, &err) < 0)
        ap_log_limited(&limit, 60000, AP_LOG_WARN, "control record '%.*s' of region %s is left out: %s", (int)key_len, (const char *)key, origin->name, err.msg);
    return 0;
}

/* Take all segments out of the collection; the caller has the references. */
static struct ap_segment **take_segments(struct ap_index *index, struct ap_coll *coll, size_t *count)
{
    struct ap_segment **taken = coll->segments;
    *count = coll->count;
    coll->segments = NULL;
    coll->count = coll->cap = 0;
    coll->hot = NULL;
    coll->sealed_last = 0;
    for (size_t i = 0; i < *count; i++)
        ap_segfile_remove(index, taken[i]);
    return taken;
}

static void bury(struct ap_index *index, struct ap_coll *coll)
{
    size_t count;
    struct ap_segment **segments = take_segments(index, coll, &count);
    coll->dead = true;
    atomic_store(&coll->points, 0);
    atomic_store(&coll->pending_count, 0);
    free(coll->pending.items);
    free(coll->unusable.items);
    memset(&coll->pending, 0, sizeof coll->pending);
    memset(&coll->unusable, 0, sizeof coll->unusable);
    ap_builder_forget(index, segments, count);
}

/* Every live row waits to be indexed again. */
static void set_all_aside(struct ap_index *index, struct ap_coll *coll)
{
    size_t count;
    struct ap_segment **segments = take_segments(index, coll, &count);
    for (size_t i = 0; i < count; i++) {
        uint32_t n = atomic_load(&segments[i]->count);
        for (uint32_t ordinal = 0; ordinal < n; ordinal++)
            if (ap_segment_live(segments[i], ordinal))
                ap_slots_add(&coll->pending, ap_segment_slot(segments[i], ordinal));
        ap_segment_unref(&segments[i]);
    }
    free(segments);
    for (size_t i = 0; i < coll->unusable.count; i++)
        ap_slots_add(&coll->pending, coll->unusable.items[i]);
    coll->unusable.count = 0;
    atomic_store(&coll->pending_count, coll->pending.count);
}

/* The hot segment knows only the fields that it began with: another takes its place, and it is sealed. */
static void retire_hot(struct ap_index *index, struct ap_coll *coll)
{
    if (!coll->hot || atomic_load(&coll->hot->count) == 0)
        return;
    atomic_fetch_add(&index->frozen_bytes, ap_segment_bytes(coll->hot));
    coll->hot = NULL;
    ap_builder_wake(index);
}

static bool same(const struct ap_collection *a, const struct ap_collection *b)
{
    return ap_version_compare(&a->version, &b->version) == 0 && a->params.dim == b->params.dim && a->params.distance == b->params.distance;
}

/* What the catalog says about this collection now. */
static void learn(struct ap_index *index, struct ap_coll *coll)
{
    const struct ap_collection *c = ap_catalog_collection_by_id(index->catalog, coll->id);
    if (!c || coll->dead)
        return;
    if (!c->live) {
        if (coll->definition)
            ap_info("collection %s is deleted: its segments are dropped", coll->definition->c.params.name);
        bury(index, coll);
        ap_definition_unref(&coll->definition);
        return;
    }
    struct ap_fields *fields = ap_fields_of(index->catalog, coll->id);
    bool same_fields = coll->definition && coll->definition->fields->hash == fields->hash;
    if (same_fields && same(&coll->definition->c, c)) {
        ap_fields_unref(&fields);
        return;
    }
    if (coll->definition && (coll->definition->c.params.dim != c->params.dim || coll->definition->c.params.distance != c->params.distance)) {
        ap_warn("collection %s is now of %u dimensions, %s: it is indexed anew", c->params.name, c->params.dim, ap_distance_name(c->params.distance));
        set_all_aside(index, coll);
    } else if (!coll->definition && coll->count > 0 &&
               (coll->segments[0]->dim != c->params.dim || coll->segments[0]->distance != c->params.distance)) {
        set_all_aside(index, coll); /* files of before the definition changed */
    }
    if (coll->definition && !same_fields)
        retire_hot(index, coll);
    ap_definition_unref(&coll->definition);
    coll->definition = ap_definition_new(c, fields);
    ap_builder_wake(index);
}

int ap_control_sync(struct ap_index *index, const struct ap_snapshot *snapshot, bool *changed, struct ap_err *err)
{
    *changed = false;
    uint64_t version = ap_snapshot_control_version(snapshot);
    if (version == index->control_version)
        return 0;
    pthread_mutex_lock(&index->apply_lock);
    pthread_rwlock_wrlock(&index->catalog_lock);
    int rc = ap_snapshot_control(snapshot, apply_record, index, err);
    pthread_rwlock_unlock(&index->catalog_lock);
    if (rc == 0) {
        size_t n = ap_catalog_collections(index->catalog, NULL, 0);
        const struct ap_collection **all = calloc(n + 1, sizeof *all);
        if (!all)
            abort();
        n = ap_catalog_collections(index->catalog, all, n);
        for (size_t i = 0; i < n; i++)
            if (all[i]->live)
                ap_index_coll_make(index, all[i]->id);
        free(all);
        for (size_t i = 0; i < index->coll_count; i++)
            learn(index, index->colls[i]);
        /* One that could not be used before may have been published again, whole. */
        for (size_t i = 0; i < index->codec_count;)
            if (index->codecs[i].codec)
                i++;
            else
                memmove(&index->codecs[i], &index->codecs[i + 1], (--index->codec_count - i) * sizeof *index->codecs);
        index->control_version = version;
        *changed = true;
        ap_index_publish(index);
    }
    pthread_mutex_unlock(&index->apply_lock);
    return rc;
}

struct ap_codec *ap_index_codec(struct ap_index *index, uint64_t id, bool *broken)
{
    size_t low = 0, high = index->codec_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (index->codecs[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    *broken = false;
    if (low < index->codec_count && index->codecs[low].id == id) {
        *broken = index->codecs[low].codec == NULL;
        return index->codecs[low].codec;
    }
    struct ap_codec_blob blob;
    if (!ap_catalog_codec(index->catalog, id, &blob))
        return NULL;
    struct ap_codec *codec = NULL;
    struct ap_err err = {0};
    if (ap_codec_load(blob.factory, blob.dim, blob.bytes, blob.len, &codec, &err) < 0) {
        ap_error("codec %016" PRIx64 " cannot be used; its collection stays unready until it is published again: %s", id, err.msg);
        *broken = true;
    }
    if (index->codec_count == index->codec_cap) {
        index->codec_cap = index->codec_cap ? index->codec_cap * 2 : 8;
        index->codecs = realloc(index->codecs, index->codec_cap * sizeof *index->codecs);
        if (!index->codecs)
            abort();
    }
    memmove(index->codecs + low + 1, index->codecs + low, (index->codec_count - low) * sizeof *index->codecs);
    index->codec_count++;
    index->codecs[low] = (struct ap_codec_entry){id, codec};
    if (codec)
        ap_index_publish(index);
    return codec;
}
