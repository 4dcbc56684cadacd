/* The catalog: sorted arrays of what was said, and a rule for each kind about which of two records counts.
 *
 * Every rule is a maximum or minimum over the records of one slot (a collection's generation, a region's use of a codec,
 * ...), so the order of arrival leaves no trace. Where two different records claim one version, which correct writers
 * never do, their encoded bytes decide. Lookups are binary searches; the arrays hold pointers, so that what a lookup
 * returned stays in place while others are inserted. */
#include "common/catalog.h"
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include "common/retired.h"
#include "common/schema.h"
#include "common/sorted.h"

/* Which record stands in a slot: its version, and a hash of its bytes for ties. */
struct said { struct ap_version version; uint64_t tie; };

/* One generation of a collection. The public part comes first: pointers to it are pointers to this. */
struct generation {
    struct ap_collection public;
    struct said said;
};

struct chunk { struct said said; bool have; uint8_t *bytes; size_t len; char *factory; uint32_t dim, chunks; uint8_t hash[32]; };

/* A codec as one region published it. */
struct codec {
    uint64_t id;
    struct ap_region origin;
    struct chunk *chunks; /* as many as any record announced */
    uint32_t count;
    uint8_t *blob;        /* put together and checked; NULL until then */
    size_t len;
};

struct codec_use { uint64_t collection; struct ap_region region; uint64_t codec; struct said said; };
struct incarnation { struct ap_incarnation_info public; char *instance; struct said said; };
struct region { struct ap_region_info public; struct said said; };
struct index { struct ap_control_index public; struct said said; };

struct ap_catalog {
    struct ap_schemas *schemas;
    struct ap_sorted by_id;        /* struct generation, owned, by collection id */
    struct ap_sorted by_name;      /* struct generation, the newest of each name */
    struct ap_sorted codecs;       /* by id, then origin */
    struct ap_sorted uses;         /* by collection, then region */
    struct ap_sorted incarnations; /* by incarnation */
    struct ap_sorted regions;      /* by name */
    struct ap_sorted indexes;      /* by collection, then field */
    struct ap_sorted learned;      /* uint64_t, fingerprints of schemas */
    struct ap_retired retired;
    uint64_t newest_hlc;
};

/* ---- keys of the sorted arrays ---- */

static void *allocate(size_t size)
{
    void *p = calloc(1, size);
    if (!p)
        abort();
    return p;
}

static int by_number(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int by_region(const struct ap_region *a, const struct ap_region *b)
{
    return memcmp(a->name, b->name, sizeof a->name);
}

static int cmp_id(const void *wanted, const void *item)
{
    return by_number(*(const uint64_t *)wanted, ((const struct generation *)item)->public.id);
}

static int cmp_name(const void *wanted, const void *item)
{
    return strcmp(wanted, ((const struct generation *)item)->public.params.name);
}

static int cmp_codec(const void *wanted, const void *item)
{
    const struct codec *a = wanted, *b = item;
    int order = by_number(a->id, b->id);
    return order ? order : by_region(&a->origin, &b->origin);
}

static int cmp_use(const void *wanted, const void *item)
{
    const struct codec_use *a = wanted, *b = item;
    int order = by_number(a->collection, b->collection);
    return order ? order : by_region(&a->region, &b->region);
}

static int cmp_incarnation(const void *wanted, const void *item)
{
    return by_number(*(const uint64_t *)wanted, ((const struct incarnation *)item)->public.incarnation);
}

static int cmp_number(const void *wanted, const void *item)
{
    return by_number(*(const uint64_t *)wanted, *(const uint64_t *)item);
}

static int cmp_region(const void *wanted, const void *item)
{
    return by_region(wanted, &((const struct region *)item)->public.region);
}

static int cmp_index(const void *wanted, const void *item)
{
    const struct ap_control_index *a = wanted, *b = &((const struct index *)item)->public;
    int order = by_number(a->collection, b->collection);
    return order ? order : strcmp(a->field, b->field);
}

static int said_compare(const struct said *a, const struct said *b)
{
    int order = ap_version_compare(&a->version, &b->version);
    return order ? order : by_number(a->tie, b->tie);
}

/* ---- collections ---- */

static void move_collection(struct ap_control_collection *to, struct ap_control_collection *from)
{
    free(to->name);
    free(to->codec_factory);
    free(to->topic);
    free(to->vector_name);
    *to = *from;
    *from = (struct ap_control_collection){0};
}

/* Within a generation a deletion beats a creation; of two alike the older counts. */
static bool replaces(const struct generation *current, const struct ap_control_collection *c, const struct said *said)
{
    if (c->deleted != current->public.params.deleted)
        return c->deleted;
    return said_compare(said, &current->said) < 0;
}

static int apply_collection(struct ap_catalog *catalog, struct ap_control_collection *c, const struct said *said)
{
    uint64_t id = ap_collection_id(c->name, c->generation);
    size_t at;
    struct generation *g;
    if (ap_sorted_search(&catalog->by_id, cmp_id, &id, &at)) {
        g = catalog->by_id.items[at];
        if (!replaces(g, c, said))
            return 0;
    } else {
        g = allocate(sizeof *g);
        ap_sorted_insert(&catalog->by_id, at, g);
    }
    move_collection(&g->public.params, c);
    g->public.id = id;
    g->public.version = said->version;
    g->said = *said;

    struct generation *newest = ap_sorted_find(&catalog->by_name, cmp_name, g->public.params.name);
    if (!newest) {
        ap_sorted_search(&catalog->by_name, cmp_name, g->public.params.name, &at);
        ap_sorted_insert(&catalog->by_name, at, g);
    } else if (g->public.params.generation > newest->public.params.generation) {
        ap_sorted_search(&catalog->by_name, cmp_name, g->public.params.name, &at);
        catalog->by_name.items[at] = g;
        newest->public.live = false;
    } else if (g != newest) {
        g->public.live = false; /* a later generation has begun */
        return 1;
    }
    g->public.live = !g->public.params.deleted;
    return 1;
}

/* ---- codecs ---- */

static void free_chunk(struct chunk *chunk)
{
    free(chunk->bytes);
    free(chunk->factory);
    *chunk = (struct chunk){0};
}

/* All chunks are there and of one codec. */
static bool complete(const struct codec *codec, size_t *len)
{
    const struct chunk *first = &codec->chunks[0];
    *len = 0;
    for (uint32_t i = 0; i < codec->count; i++) {
        const struct chunk *c = &codec->chunks[i];
        if (!c->have || c->chunks != codec->count || c->dim != first->dim || strcmp(c->factory, first->factory) != 0 ||
            memcmp(c->hash, first->hash, sizeof c->hash) != 0)
            return false;
        *len += c->len;
    }
    return true;
}

static void assemble(struct codec *codec)
{
    size_t len;
    uint8_t hash[32];
    free(codec->blob);
    codec->blob = NULL;
    codec->len = 0;
    if (!complete(codec, &len))
        return;
    uint8_t *blob = allocate(len), *to = blob;
    for (uint32_t i = 0; i < codec->count; to += codec->chunks[i].len, i++)
        memcpy(to, codec->chunks[i].bytes, codec->chunks[i].len);
    crypto_generichash(hash, sizeof hash, blob, len, NULL, 0);
    if (memcmp(hash, codec->chunks[0].hash, sizeof hash) != 0) {
        free(blob);
        return;
    }
    codec->blob = blob;
    codec->len = len;
}

static int apply_codec(struct ap_catalog *catalog, struct ap_control_codec *c, const struct said *said)
{
    struct codec wanted = { .id = c->codec, .origin = said->version.region };
    size_t at;
    if (!ap_sorted_search(&catalog->codecs, cmp_codec, &wanted, &at)) {
        struct codec *made = allocate(sizeof *made);
        *made = wanted;
        ap_sorted_insert(&catalog->codecs, at, made);
    }
    struct codec *codec = catalog->codecs.items[at];
    if (c->chunks > codec->count) {
        codec->chunks = realloc(codec->chunks, c->chunks * sizeof *codec->chunks);
        if (!codec->chunks)
            abort();
        memset(codec->chunks + codec->count, 0, (c->chunks - codec->count) * sizeof *codec->chunks);
        codec->count = c->chunks;
    }
    struct chunk *chunk = &codec->chunks[c->chunk];
    if (chunk->have && said_compare(said, &chunk->said) <= 0)
        return 0;
    bool same = chunk->have && chunk->len == c->len && memcmp(chunk->bytes, c->bytes, c->len) == 0 && chunk->chunks == c->chunks &&
                chunk->dim == c->dim && strcmp(chunk->factory, c->factory) == 0 && memcmp(chunk->hash, c->hash, sizeof c->hash) == 0;
    chunk->said = *said;
    if (same)
        return 0;
    free_chunk(chunk);
    *chunk = (struct chunk){ .said = *said, .have = true, .bytes = c->bytes, .len = c->len, .factory = c->factory,
                             .dim = c->dim, .chunks = c->chunks };
    memcpy(chunk->hash, c->hash, sizeof chunk->hash);
    c->bytes = NULL;
    c->factory = NULL;
    assemble(codec);
    return 1;
}

static int apply_codec_use(struct ap_catalog *catalog, const struct ap_control_codec_use *u, const struct said *said)
{
    struct codec_use wanted = { .collection = u->collection, .region = said->version.region, .codec = u->codec, .said = *said };
    size_t at;
    if (ap_sorted_search(&catalog->uses, cmp_use, &wanted, &at)) {
        struct codec_use *current = catalog->uses.items[at];
        if (said_compare(said, &current->said) <= 0)
            return 0;
        *current = wanted;
        return 1;
    }
    struct codec_use *made = allocate(sizeof *made);
    *made = wanted;
    ap_sorted_insert(&catalog->uses, at, made);
    return 1;
}

/* ---- incarnations, regions, schemas ---- */

static int apply_incarnation(struct ap_catalog *catalog, struct ap_control_incarnation *i, const struct said *said)
{
    size_t at;
    struct incarnation *current;
    if (ap_sorted_search(&catalog->incarnations, cmp_incarnation, &i->incarnation, &at)) {
        current = catalog->incarnations.items[at];
        if (said_compare(said, &current->said) <= 0)
            return 0;
        free(current->instance);
    } else {
        current = allocate(sizeof *current);
        ap_sorted_insert(&catalog->incarnations, at, current);
    }
    *current = (struct incarnation){
        .public = { .incarnation = i->incarnation, .region_incarnation = i->region_incarnation, .predecessor = i->predecessor,
                    .lineage = i->lineage, .region = said->version.region, .instance = i->instance },
        .instance = i->instance, .said = *said };
    i->instance = NULL;
    return 1;
}

static int apply_region(struct ap_catalog *catalog, const struct ap_control_region *r, const struct said *said)
{
    size_t at;
    struct region *current;
    if (ap_sorted_search(&catalog->regions, cmp_region, &said->version.region, &at)) {
        current = catalog->regions.items[at];
        if (said_compare(said, &current->said) <= 0)
            return 0;
    } else {
        current = allocate(sizeof *current);
        ap_sorted_insert(&catalog->regions, at, current);
    }
    *current = (struct region){ .public = { .region = said->version.region, .region_incarnation = r->region_incarnation, .state = r->state },
                                .said = *said };
    return 1;
}

static int apply_index(struct ap_catalog *catalog, struct ap_control_index *i, const struct said *said)
{
    size_t at;
    struct index *current;
    if (ap_sorted_search(&catalog->indexes, cmp_index, i, &at)) {
        current = catalog->indexes.items[at];
        if (said_compare(said, &current->said) <= 0)
            return 0;
        free(current->public.field);
        free(current->public.options);
    } else {
        current = allocate(sizeof *current);
        ap_sorted_insert(&catalog->indexes, at, current);
    }
    *current = (struct index){ .public = *i, .said = *said };
    i->field = i->options = NULL;
    return 1;
}

static int apply_schema(struct ap_catalog *catalog, const struct ap_control_schema *s, struct ap_err *err)
{
    size_t len = strlen(s->json);
    if (ap_schema_fingerprint_of_json(s->json, len, err) != s->fingerprint)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "control record: the schema is not that of fingerprint %016" PRIx64, s->fingerprint);
    size_t at;
    if (ap_sorted_search(&catalog->learned, cmp_number, &s->fingerprint, &at))
        return 0;
    int rc = ap_schemas_learn(catalog->schemas, s->json, len, NULL, err);
    if (rc)
        return rc == AP_EUNSUPPORTED ? 0 : rc; /* of a record newer than this program: nothing of it comes here */
    uint64_t *made = allocate(sizeof *made);
    *made = s->fingerprint;
    ap_sorted_insert(&catalog->learned, at, made);
    return 1;
}

/* ---- applying ---- */

static int apply(struct ap_catalog *catalog, struct ap_control *c, uint64_t tie, struct ap_err *err)
{
    struct said said = { .version = c->version, .tie = tie };
    switch (c->kind) {
    case AP_CONTROL_COLLECTION:
        return apply_collection(catalog, &c->u.collection, &said);
    case AP_CONTROL_CODEC:
        return apply_codec(catalog, &c->u.codec, &said);
    case AP_CONTROL_CODEC_USE:
        return apply_codec_use(catalog, &c->u.codec_use, &said);
    case AP_CONTROL_INCARNATION:
        return apply_incarnation(catalog, &c->u.incarnation, &said);
    case AP_CONTROL_REGION:
        return apply_region(catalog, &c->u.region, &said);
    case AP_CONTROL_SCHEMA:
        return apply_schema(catalog, &c->u.schema, err);
    case AP_CONTROL_INDEX:
        return apply_index(catalog, &c->u.index, &said);
    case AP_CONTROL_RETIREMENT:
    case AP_CONTROL_LOSS:
        return ap_retired_apply(&catalog->retired, c);
    }
    return 0;
}

int ap_catalog_apply(struct ap_catalog *catalog, const struct ap_region *origin, const void *key, size_t key_len,
                     const void *value, size_t value_len, struct ap_err *err)
{
    struct ap_control c;
    struct ap_buf expected = {0};
    if (!value || value_len == 0)
        return 0;
    int rc = ap_control_decode(catalog->schemas, value, value_len, &c, err);
    if (rc)
        return rc == AP_EUNSUPPORTED ? 0 : rc; /* a kind newer than this program: nothing here depends on it */
    ap_control_key(&c, &expected);
    if (by_region(&c.version.region, origin) != 0)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "control record of region %s in the topic of %s", c.version.region.name, origin->name);
    else if (key_len != expected.len || !key || memcmp(key, expected.data, key_len) != 0)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "control record whose key should be %.*s", (int)expected.len, expected.data);
    else
        rc = apply(catalog, &c, ap_crc64_avro(value, value_len), err);
    if (rc >= 0 && c.version.hlc > catalog->newest_hlc)
        catalog->newest_hlc = c.version.hlc;
    ap_buf_free(&expected);
    ap_control_fini(&c);
    return rc;
}

struct ap_catalog *ap_catalog_new(struct ap_schemas *schemas)
{
    if (sodium_init() < 0)
        abort();
    struct ap_catalog *catalog = allocate(sizeof *catalog);
    catalog->schemas = schemas;
    return catalog;
}

static void free_generation(void *item)
{
    struct generation *g = item;
    struct ap_control_collection none = {0};
    move_collection(&g->public.params, &none);
    free(g);
}

static void free_codec(void *item)
{
    struct codec *codec = item;
    for (uint32_t i = 0; i < codec->count; i++)
        free_chunk(&codec->chunks[i]);
    free(codec->chunks);
    free(codec->blob);
    free(codec);
}

static void free_incarnation(void *item)
{
    free(((struct incarnation *)item)->instance);
    free(item);
}

static void free_index(void *item)
{
    free(((struct index *)item)->public.field);
    free(((struct index *)item)->public.options);
    free(item);
}

void ap_catalog_free(struct ap_catalog **catalog)
{
    struct ap_catalog *c = *catalog;
    if (!c)
        return;
    ap_sorted_free(&c->by_id, free_generation);
    ap_sorted_free(&c->by_name, NULL);
    ap_sorted_free(&c->codecs, free_codec);
    ap_sorted_free(&c->uses, free);
    ap_sorted_free(&c->incarnations, free_incarnation);
    ap_sorted_free(&c->regions, free);
    ap_sorted_free(&c->indexes, free_index);
    ap_sorted_free(&c->learned, free);
    ap_retired_free(&c->retired);
    free(c);
    *catalog = NULL;
}

/* ---- looking up ---- */

const struct ap_collection *ap_catalog_collection(const struct ap_catalog *c, const char *name)
{
    return ap_sorted_find(&c->by_name, cmp_name, name);
}

const struct ap_collection *ap_catalog_collection_by_id(const struct ap_catalog *c, uint64_t id)
{
    return ap_sorted_find(&c->by_id, cmp_id, &id);
}

size_t ap_catalog_collections(const struct ap_catalog *c, const struct ap_collection **out, size_t cap)
{
    for (size_t i = 0; i < c->by_name.count && i < cap; i++)
        out[i] = c->by_name.items[i];
    return c->by_name.count;
}

bool ap_catalog_codec(const struct ap_catalog *c, uint64_t id, struct ap_codec_blob *out)
{
    struct codec wanted = { .id = id };
    size_t at;
    ap_sorted_search(&c->codecs, cmp_codec, &wanted, &at); /* no region is named "", so this is before all of them */
    for (; at < c->codecs.count; at++) {
        const struct codec *codec = c->codecs.items[at];
        if (codec->id != id)
            break;
        if (!codec->blob)
            continue;
        *out = (struct ap_codec_blob){ .id = id, .factory = codec->chunks[0].factory, .dim = codec->chunks[0].dim,
                                       .bytes = codec->blob, .len = codec->len };
        return true;
    }
    return false;
}

uint64_t ap_catalog_codec_use(const struct ap_catalog *c, uint64_t collection, const struct ap_region *region)
{
    struct codec_use wanted = { .collection = collection };
    const struct codec_use *oldest = NULL;
    size_t at;
    ap_sorted_search(&c->uses, cmp_use, &wanted, &at);
    for (; at < c->uses.count; at++) {
        const struct codec_use *use = c->uses.items[at];
        if (use->collection != collection)
            break;
        if (by_region(&use->region, region) == 0)
            return use->codec;
        if (!oldest || said_compare(&use->said, &oldest->said) < 0)
            oldest = use;
    }
    return oldest ? oldest->codec : 0;
}

size_t ap_catalog_indexes(const struct ap_catalog *c, uint64_t collection, const struct ap_control_index **out, size_t cap)
{
    const struct ap_control_index wanted = { .collection = collection, .field = (char *)(uintptr_t)"" };
    size_t at, n = 0;
    ap_sorted_search(&c->indexes, cmp_index, &wanted, &at); /* no field is named "" */
    for (; at < c->indexes.count; at++) {
        const struct index *index = c->indexes.items[at];
        if (index->public.collection != collection)
            break;
        if (index->public.removed)
            continue;
        if (n < cap)
            out[n] = &index->public;
        n++;
    }
    return n;
}

const struct ap_incarnation_info *ap_catalog_incarnation(const struct ap_catalog *c, uint64_t incarnation)
{
    return ap_sorted_find(&c->incarnations, cmp_incarnation, &incarnation);
}

const struct ap_incarnation_info *ap_catalog_instance(const struct ap_catalog *c, const struct ap_region *region, const char *instance)
{
    const struct incarnation *newest = NULL;
    for (size_t i = 0; i < c->incarnations.count; i++) { /* once at a producer's start */
        const struct incarnation *item = c->incarnations.items[i];
        if (by_region(&item->public.region, region) == 0 && strcmp(item->public.instance, instance) == 0 &&
            (!newest || said_compare(&item->said, &newest->said) > 0))
            newest = item;
    }
    return newest ? &newest->public : NULL;
}

const struct ap_region_info *ap_catalog_region(const struct ap_catalog *c, const struct ap_region *region)
{
    return ap_sorted_find(&c->regions, cmp_region, region);
}

const struct ap_retired *ap_catalog_retired(const struct ap_catalog *c)
{
    return &c->retired;
}

uint64_t ap_catalog_newest_hlc(const struct ap_catalog *c)
{
    return c->newest_hlc;
}
