/* The registry: what the control records say about the streams and collections of the records that are applied.
 *
 * It owns the schemas and the catalog, fills them from the store at the start and from the control topics after that,
 * and answers the apply thread's questions about each record: may this stream speak for that region, is this collection
 * gone? A stream that nobody has registered is a stranger: its records are counted, and reported once it has stayed
 * unknown for a while, because a mirror may bring a registration a little later than the records.
 * Owned by the apply thread. */
#ifndef ANTIPODE_CONSUMER_REGISTRY_H
#define ANTIPODE_CONSUMER_REGISTRY_H
#include "common/catalog.h"
#include "common/schema.h"
#include "common/store.h"
#include "consumer/settings.h"

struct ap_registry;

enum ap_stream_state {
    AP_STREAM_KNOWN,    /* registered to the region whose topic it is in */
    AP_STREAM_STRANGER, /* not registered (yet) */
    AP_STREAM_FOREIGN,  /* registered to another region: somebody writes where they should not */
    AP_STREAM_RETIRED,  /* its region's incarnation has been retired */
};

int ap_registry_new(struct ap_registry **out, struct ap_err *err);
void ap_registry_free(struct ap_registry **registry);

/* Apply the control records that the store holds. Those that do not check are counted in *refused and skipped. */
int ap_registry_load(struct ap_registry *r, struct ap_store *store, size_t *refused, struct ap_err *err);
/* Apply a record of origin's control topic. 1: something changed; 0: nothing did. AP_ESCHEMA: of a schema nobody has told
 * us; keep it in the store, ap_registry_load applies it once the schema is there. Others (POISON): never trusted. */
int ap_registry_apply(struct ap_registry *r, const struct ap_region *origin, const void *key, size_t key_len,
                      const void *value, size_t value_len, struct ap_err *err);

const struct ap_schemas *ap_registry_schemas(const struct ap_registry *r);
/* Rises with every change: answers given at another epoch may be out of date. From 1. */
uint64_t ap_registry_epoch(const struct ap_registry *r);
/* True, once, after a schema was learned. */
bool ap_registry_learned(struct ap_registry *r);

enum ap_stream_state ap_registry_stream(const struct ap_registry *r, uint64_t stream, const struct ap_region *origin);
/* The last number of a RETIRED stream that counts there; 0: none does. */
uint64_t ap_registry_end(const struct ap_registry *r, uint64_t stream, const char *topic, int32_t partition);
/* The incarnation of a region as it is known now; 0: not yet. */
uint64_t ap_registry_region(const struct ap_registry *r, const struct ap_region *region);
bool ap_registry_region_is_retired(const struct ap_registry *r, const struct ap_region *region);
bool ap_registry_is_retired(const struct ap_registry *r, const struct ap_region *region, uint64_t incarnation);
/* What the regions have given up, brought to the positions: streams of retired regions end at their cuts, and the region's own
 * losses are waited for no longer. Cheap when there is nothing to do; lost[origin index]: records it has given up in all. */
void ap_registry_give_up(struct ap_registry *r, struct ap_positions *positions, const struct ap_consumer_settings *settings, uint64_t lost[AP_CONSUMER_REGIONS_MAX]);
/* True when the catalog says that the collection was deleted; an unknown one is not dead. For ap_writer_clean, too. */
bool ap_registry_collection_dead(void *registry, uint64_t collection);
/* The topic of the collection's mutations; NULL when the collection is unknown. Valid until the next apply. */
const char *ap_registry_topic(const struct ap_registry *r, uint64_t collection);
/* For the rule of tombstones (rule.h). */
bool ap_registry_region_retired(const struct ap_registry *r, const struct ap_region *region);
uint64_t ap_registry_stream_end(void *registry, uint64_t stream, const char *topic, int32_t partition);
/* For ap_writer_open: 0 when the incarnation is not registered. */
uint64_t ap_registry_lineage(void *registry, uint64_t incarnation);

/* A record of a stranger was applied. */
void ap_registry_stranger(struct ap_registry *r, uint64_t stream, size_t origin_index, const struct ap_region *origin, int64_t now_ms);
/* Forget strangers that have been registered since, and report the records of those that have not for patience_ms through
 * fn (stream 0: of more of them than are listed). Call it about once a second. */
void ap_registry_strangers(struct ap_registry *r, int64_t now_ms, int64_t patience_ms,
                           void (*fn)(void *arg, uint64_t stream, size_t origin_index, uint64_t records), void *arg);

#endif
