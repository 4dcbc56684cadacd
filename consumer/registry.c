/* The registry: a catalog, a small memory of collections, and the list of strangers.
 *
 * Answers about collections are asked for with every record and change rarely, so they are kept in a small table that
 * one epoch invalidates. The list of strangers is bounded: past it, records are reported without their stream. */
#include "consumer/registry.h"

#include <stdlib.h>
#include "common/log.h"
#include "common/retired.h"
#include "consumer/settings.h"

enum { COLLECTION_MEMO = 64, STRANGERS_MAX = 1024 };

struct memo {
    uint64_t collection, epoch;
    bool dead;
};

struct stranger {
    uint64_t stream, records;
    size_t origin_index;
    struct ap_region origin;
    int64_t since_ms;
};

struct ap_registry {
    struct ap_schemas *schemas;
    struct ap_catalog *catalog;
    uint64_t epoch, given_up_epoch;
    bool learned;
    struct memo memo[COLLECTION_MEMO];
    struct stranger strangers[STRANGERS_MAX];
    size_t stranger_count;
    uint64_t unlisted[AP_CONSUMER_REGIONS_MAX]; /* records of strangers that found the list full, by origin */
};

int ap_registry_new(struct ap_registry **out, struct ap_err *err)
{
    struct ap_registry *r = calloc(1, sizeof *r);
    if (!r)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    int rc = ap_schemas_new(&r->schemas, err);
    if (rc) {
        free(r);
        return rc;
    }
    r->catalog = ap_catalog_new(r->schemas);
    r->epoch = 1;
    *out = r;
    return 0;
}

void ap_registry_free(struct ap_registry **registry)
{
    struct ap_registry *r = *registry;
    if (!r)
        return;
    ap_catalog_free(&r->catalog);
    ap_schemas_free(&r->schemas);
    free(r);
    *registry = NULL;
}

/* ---- control records ---------------------------------------------------------------------------------------- */

static bool is_schema_key(const void *key, size_t key_len)
{
    return key && key_len > 7 && !memcmp(key, "schema/", 7);
}

int ap_registry_apply(struct ap_registry *r, const struct ap_region *origin, const void *key, size_t key_len,
                      const void *value, size_t value_len, struct ap_err *err)
{
    int rc = ap_catalog_apply(r->catalog, origin, key, key_len, value, value_len, err);
    if (rc > 0)
        r->epoch++;
    if (rc >= 0 && value_len && is_schema_key(key, key_len))
        r->learned = true;
    return rc;
}

struct load {
    struct ap_registry *registry;
    size_t refused, unread;
    struct ap_err err;
};

static int load_one(void *arg, const struct ap_region *origin, const void *key, size_t key_len, const void *value, size_t value_len)
{
    struct load *load = arg;
    int rc = ap_registry_apply(load->registry, origin, key, key_len, value, value_len, &load->err);
    if (rc == AP_ESCHEMA)
        load->unread++;
    else if (rc < 0)
        load->refused++;
    return rc == AP_ENOMEM ? rc : 0;
}

int ap_registry_load(struct ap_registry *r, struct ap_store *store, size_t *refused, struct ap_err *err)
{
    struct ap_snapshot *snapshot = NULL;
    int rc = ap_snapshot_begin(store, &snapshot, err);
    if (rc)
        return rc;
    /* In the order of keys a schema comes after what was written with it: hence a second time, if need be. */
    struct load load = {.registry = r};
    rc = ap_snapshot_control(snapshot, load_one, &load, err);
    if (!rc && load.unread) {
        load.unread = load.refused = 0;
        rc = ap_snapshot_control(snapshot, load_one, &load, err);
    }
    ap_snapshot_end(&snapshot);
    if (load.unread)
        ap_warn("%zu control records are of schemas nobody has told us yet: they wait", load.unread);
    *refused = load.refused;
    r->learned = false;
    return rc < 0 ? rc : 0;
}

const struct ap_schemas *ap_registry_schemas(const struct ap_registry *r)
{
    return r->schemas;
}

uint64_t ap_registry_epoch(const struct ap_registry *r)
{
    return r->epoch;
}

bool ap_registry_learned(struct ap_registry *r)
{
    bool learned = r->learned;
    r->learned = false;
    return learned;
}

/* ---- answers ---------------------------------------------------------------------------------------------------- */

enum ap_stream_state ap_registry_stream(const struct ap_registry *r, uint64_t stream, const struct ap_region *origin)
{
    const struct ap_incarnation_info *info = ap_catalog_incarnation(r->catalog, stream);
    if (!info)
        return AP_STREAM_STRANGER;
    if (memcmp(&info->region, origin, sizeof *origin))
        return AP_STREAM_FOREIGN;
    if (ap_catalog_is_retired(r->catalog, origin, info->region_incarnation, NULL))
        return AP_STREAM_RETIRED;
    return AP_STREAM_KNOWN;
}

uint64_t ap_registry_end(const struct ap_registry *r, uint64_t stream, const char *topic, int32_t partition)
{
    return ap_catalog_stream_end(r->catalog, stream, topic, partition);
}

uint64_t ap_registry_region(const struct ap_registry *r, const struct ap_region *region)
{
    const struct ap_region_info *info = ap_catalog_region(r->catalog, region);
    return info ? info->region_incarnation : 0;
}

bool ap_registry_region_is_retired(const struct ap_registry *r, const struct ap_region *region)
{
    return ap_catalog_region_is_retired(r->catalog, region);
}

bool ap_registry_is_retired(const struct ap_registry *r, const struct ap_region *region, uint64_t incarnation)
{
    return ap_catalog_is_retired(r->catalog, region, incarnation, NULL);
}

struct give_up { struct ap_positions *positions; const struct ap_consumer_settings *settings; uint64_t *lost; };

static void end_stream(void *arg, const struct ap_position *cut)
{
    const struct give_up *g = arg;
    if (cut->partition % g->settings->workers == g->settings->worker)
        ap_positions_end(g->positions, &cut->region, cut->stream, cut->topic, cut->partition, cut->mark);
}

static void lose(void *arg, const struct ap_control_loss *loss)
{
    const struct give_up *g = arg;
    if (loss->partition % g->settings->workers != g->settings->worker)
        return;
    uint64_t given = ap_positions_give_up(g->positions, loss->stream, loss->topic, loss->partition, loss->first, loss->last);
    if (given)
        ap_warn("%llu records of %s (stream %016llx, %s[%d], %llu to %llu) are waited for no longer: %s", (unsigned long long)given, loss->origin.name,
                (unsigned long long)loss->stream, loss->topic, (int)loss->partition, (unsigned long long)loss->first, (unsigned long long)loss->last,
                loss->proven ? "the regions were found equal without them" : "accepted as lost");
    for (size_t i = 0; i < g->settings->region_count; i++)
        if (!memcmp(&g->settings->all_regions[i], &loss->origin, sizeof loss->origin))
            g->lost[i] += loss->last - loss->first + 1;
}

void ap_registry_give_up(struct ap_registry *r, struct ap_positions *positions, const struct ap_consumer_settings *settings, uint64_t lost[AP_CONSUMER_REGIONS_MAX])
{
    struct give_up g = {positions, settings, lost};
    if (r->given_up_epoch == r->epoch && !ap_positions_totals(positions).holes)
        return;
    memset(lost, 0, AP_CONSUMER_REGIONS_MAX * sizeof *lost);
    if (r->given_up_epoch != r->epoch)
        ap_catalog_cuts(r->catalog, end_stream, &g);
    ap_catalog_losses(r->catalog, &settings->all_regions[0], lose, &g);
    r->given_up_epoch = r->epoch;
}

bool ap_registry_collection_dead(void *registry, uint64_t collection)
{
    struct ap_registry *r = registry;
    struct memo *memo = &r->memo[collection % COLLECTION_MEMO];
    if (memo->epoch != r->epoch || memo->collection != collection) {
        const struct ap_collection *found = ap_catalog_collection_by_id(r->catalog, collection);
        memo->collection = collection;
        memo->epoch = r->epoch;
        memo->dead = found && !found->live;
    }
    return memo->dead;
}

const char *ap_registry_topic(const struct ap_registry *r, uint64_t collection)
{
    const struct ap_collection *found = ap_catalog_collection_by_id(r->catalog, collection);
    return found ? found->params.topic : NULL;
}

bool ap_registry_region_retired(const struct ap_registry *r, const struct ap_region *region)
{
    return ap_catalog_region_is_retired(r->catalog, region);
}

uint64_t ap_registry_stream_end(void *registry, uint64_t stream, const char *topic, int32_t partition)
{
    const struct ap_registry *r = registry;
    return ap_catalog_stream_is_retired(r->catalog, stream) ? ap_catalog_stream_end(r->catalog, stream, topic, partition) : UINT64_MAX;
}

uint64_t ap_registry_lineage(void *registry, uint64_t incarnation)
{
    const struct ap_registry *r = registry;
    const struct ap_incarnation_info *info = ap_catalog_incarnation(r->catalog, incarnation);
    return info ? info->lineage : 0;
}

/* ---- strangers ---------------------------------------------------------------------------------------------------- */

void ap_registry_stranger(struct ap_registry *r, uint64_t stream, size_t origin_index, const struct ap_region *origin, int64_t now_ms)
{
    for (size_t i = r->stranger_count; i-- > 0;) {
        struct stranger *s = &r->strangers[i];
        if (s->stream == stream && s->origin_index == origin_index) {
            s->records++;
            return;
        }
    }
    if (r->stranger_count == STRANGERS_MAX) {
        r->unlisted[origin_index]++;
        return;
    }
    r->strangers[r->stranger_count++] = (struct stranger){.stream = stream, .records = 1, .origin_index = origin_index, .origin = *origin, .since_ms = now_ms};
}

void ap_registry_strangers(struct ap_registry *r, int64_t now_ms, int64_t patience_ms,
                           void (*fn)(void *arg, uint64_t stream, size_t origin_index, uint64_t records), void *arg)
{
    size_t kept = 0;
    for (size_t i = 0; i < r->stranger_count; i++) {
        struct stranger *s = &r->strangers[i];
        if (ap_registry_stream(r, s->stream, &s->origin) != AP_STREAM_STRANGER)
            continue;
        if (s->records && now_ms - s->since_ms >= patience_ms) {
            fn(arg, s->stream, s->origin_index, s->records);
            s->records = 0;
        }
        r->strangers[kept++] = *s;
    }
    r->stranger_count = kept;
    for (size_t i = 0; i < AP_CONSUMER_REGIONS_MAX; i++) {
        if (r->unlisted[i])
            fn(arg, 0, i, r->unlisted[i]);
        r->unlisted[i] = 0;
    }
}
