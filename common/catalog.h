/* The catalog: the state that all control records of all regions add up to.
 *
 * Invariant: it depends only on the set of records applied, not on their order. Per collection name the highest
 * generation counts; within it a deletion beats a creation, and of two creations the older version (hlc, region, writer)
 * wins, so that regions which create the same name at once agree. A region encodes with its own newest CODEC_USE of a
 * collection, else with the oldest of any region. Of the INDEX records of a field the newest counts. Not thread-safe: the owner locks; pointers returned live until the
 * next apply or free. */
#ifndef ANTIPODE_COMMON_CATALOG_H
#define ANTIPODE_COMMON_CATALOG_H
#include "common/control.h"

struct ap_catalog;
struct ap_retired; /* common/retired.h */

struct ap_collection {
    uint64_t id;                          /* ap_collection_id(name, generation) */
    struct ap_control_collection params;  /* of the winner */
    struct ap_version version;            /* of the winner */
    bool live;
};
struct ap_codec_blob { uint64_t id; const char *factory; uint32_t dim; const uint8_t *bytes; size_t len; };
struct ap_incarnation_info { uint64_t incarnation, region_incarnation, predecessor, lineage; struct ap_region region;
                             const char *instance; };
struct ap_region_info { struct ap_region region; uint64_t region_incarnation; enum ap_region_state state; };

struct ap_catalog *ap_catalog_new(struct ap_schemas *schemas); /* schemas borrowed; SCHEMA records are learned into it */
void ap_catalog_free(struct ap_catalog **catalog);

/* Apply one record read from a control topic. origin: whose topic it was (the mirrored prefix, or the own region); a
 * record that claims another region than its origin is refused (AP_EINVAL, class POISON), as is one whose key does not
 * match. An empty value (Kafka tombstone) is ignored. Returns 1 when something changed, 0 when not, negative on error. */
int ap_catalog_apply(struct ap_catalog *catalog, const struct ap_region *origin, const void *key, size_t key_len,
                     const void *value, size_t value_len, struct ap_err *err);

const struct ap_collection *ap_catalog_collection(const struct ap_catalog *c, const char *name); /* live or deleted; NULL when never seen */
const struct ap_collection *ap_catalog_collection_by_id(const struct ap_catalog *c, uint64_t id); /* NULL when unknown; older generations: live=false */
size_t ap_catalog_collections(const struct ap_catalog *c, const struct ap_collection **out, size_t cap); /* all, newest generation each; returns the count */
/* A codec whose chunks are all here and whose hash checks; false otherwise. */
bool ap_catalog_codec(const struct ap_catalog *c, uint64_t codec, struct ap_codec_blob *out);
/* Codec that region's producers use for the collection; 0 when none is known. */
uint64_t ap_catalog_codec_use(const struct ap_catalog *c, uint64_t collection, const struct ap_region *region);
/* Indexed fields of a collection, by path; returns how many there are. */
size_t ap_catalog_indexes(const struct ap_catalog *c, uint64_t collection, const struct ap_control_index **out, size_t cap);
const struct ap_incarnation_info *ap_catalog_incarnation(const struct ap_catalog *c, uint64_t incarnation);
/* The newest incarnation of a named producer instance of a region; NULL when none. */
const struct ap_incarnation_info *ap_catalog_instance(const struct ap_catalog *c, const struct ap_region *region, const char *instance);
const struct ap_region_info *ap_catalog_region(const struct ap_catalog *c, const struct ap_region *region);
/* Retirements and losses: asked about through common/retired.h. */
const struct ap_retired *ap_catalog_retired(const struct ap_catalog *c);
uint64_t ap_catalog_newest_hlc(const struct ap_catalog *c); /* newest version.hlc of all records: the clock merges it */

#endif
