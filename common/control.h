/* Records of vec-control: what the regions agree on. Compacted by key; one Avro record (schemas/Control.*.avsc) with a
 * kind and the fields of every kind, those that do not apply null.
 *
 *   kind         key                                   says
 *   COLLECTION   collection/<name>                     parameters, generation, live or deleted
 *   CODEC        codec/<16 hex>/<chunk>                one chunk of a serialized codec (256 KiB at most)
 *   CODEC_USE    codec-use/<collection id 16 hex>      this region's producers encode with that codec from now on
 *   INCARNATION  incarnation/<16 hex>                  a producer: its region, instance, predecessor, lineage
 *   REGION       region/<name>                         the region's own incarnation and state
 *   SCHEMA       schema/<16 hex>                       the JSON text of a schema that is written here
 *   INDEX        index/<collection id 16 hex>/<field>  a field of the payloads is indexed, or no longer
 *   RETIREMENT   retired/<name>/<16 hex>               an incarnation of a region, any, is over; up to where its streams count
 *   LOSS         loss/<16 hex>/<topic>/<p>/<first>     this region waits no longer for records of a stream
 *
 * Each region writes its own vec-control and reads the others' mirrored copies; who wins is decided in catalog.h. */
#ifndef ANTIPODE_COMMON_CONTROL_H
#define ANTIPODE_COMMON_CONTROL_H
#include "common/event.h"
#include "common/watermark.h"

enum ap_control_kind { AP_CONTROL_COLLECTION, AP_CONTROL_CODEC, AP_CONTROL_CODEC_USE, AP_CONTROL_INCARNATION,
                       AP_CONTROL_REGION, AP_CONTROL_SCHEMA,
                       AP_CONTROL_INDEX = AP_CONTROL_SCHEMA + 2 /* a reader's UNKNOWN lies between */,
                       AP_CONTROL_RETIREMENT, AP_CONTROL_LOSS };
enum ap_distance { AP_COSINE, AP_EUCLID, AP_DOT };

#define AP_CODEC_CHUNK_BYTES (256 * 1024)

struct ap_control_collection {
    char *name;              /* owned */
    uint64_t generation;     /* from 1 */
    bool deleted;
    uint32_t dim;            /* 1 to 65536 */
    enum ap_distance distance;
    char *codec_factory;     /* owned; FAISS factory string ("PQ96"), or "none" for float32 for good */
    bool raw_home;           /* keep full-precision vectors in the region that wrote them */
    char *topic;             /* owned; mutation topic, default "vec-mutations" */
    char *vector_name;       /* owned; NULL: the unnamed vector; "" or a name when the client declared one */
};
struct ap_control_codec { uint64_t codec; char *factory; uint32_t dim; uint32_t chunk, chunks; uint8_t *bytes; size_t len;
                          uint8_t hash[32]; /* BLAKE2b-256 of the whole blob; its first 8 bytes are the codec id */ };
struct ap_control_codec_use { uint64_t collection, codec; };
struct ap_control_incarnation { uint64_t incarnation, region_incarnation, predecessor /* 0: none */, lineage; char *instance; };
enum ap_region_state { AP_REGION_ACTIVE, AP_REGION_READ_ONLY, AP_REGION_RETIRED };
struct ap_control_region { uint64_t region_incarnation; enum ap_region_state state; };
/* cut: positions of that region's streams (stream, lineage, topic, partition, mark, finished; owned). */
struct ap_control_retirement { struct ap_region region; uint64_t region_incarnation; struct ap_position *cut; size_t count; };
/* proven: what was in them came by other records; else it may be gone. */
struct ap_control_loss { struct ap_region origin; uint64_t stream; char topic[64]; int32_t partition; uint64_t first, last; bool proven; };
struct ap_control_schema { uint64_t fingerprint; char *json; };
/* What values of an indexed field count. */
enum ap_field_type { AP_FIELD_KEYWORD, AP_FIELD_INTEGER, AP_FIELD_FLOAT, AP_FIELD_BOOL, AP_FIELD_DATETIME, AP_FIELD_UUID, AP_FIELD_TEXT };
#define AP_FIELD_PATH_MAX 512
struct ap_control_index {
    uint64_t collection;
    char *field;             /* owned; a path, 1 to AP_FIELD_PATH_MAX bytes */
    enum ap_field_type type;
    char *options;           /* owned; NULL, or of TEXT: a JSON object with sorted keys (indexer/field.h) */
    bool removed;
};

struct ap_control {
    enum ap_control_kind kind;
    struct ap_version version;  /* when, where and by whom this was said */
    union {
        struct ap_control_collection collection;
        struct ap_control_codec codec;
        struct ap_control_codec_use codec_use;
        struct ap_control_incarnation incarnation;
        struct ap_control_region region;
        struct ap_control_schema schema;
        struct ap_control_retirement retirement;
        struct ap_control_loss loss;
        struct ap_control_index index;
    } u;
};

/* A record is written in the oldest version of Control that has its kind. */
int ap_control_encode(const struct ap_schemas *schemas, const struct ap_control *c, struct ap_buf *out, struct ap_err *err);
/* Everything is owned by *out; release with ap_control_fini. Validates what it reads (names, ranges, chunk counts).
 * AP_ECORRUPT; AP_ESCHEMA, RETRY: a schema not known yet, or a value that needs a newer program; AP_EUNSUPPORTED: a kind
 * that this program does not have. Encoding refuses (AP_ECORRUPT) what could not be read back. */
int ap_control_decode(const struct ap_schemas *schemas, const void *value, size_t len, struct ap_control *out, struct ap_err *err);
void ap_control_fini(struct ap_control *c);
void ap_control_key(const struct ap_control *c, struct ap_buf *out); /* appends the text above, no NUL */

const char *ap_region_state_name(enum ap_region_state state);     /* "active", "read-only", "retired" */
const char *ap_distance_name(enum ap_distance d);                 /* "Cosine", "Euclid", "Dot" */
int ap_distance_parse(const char *text, enum ap_distance *out);   /* 0 or AP_EINVAL */
const char *ap_field_type_name(enum ap_field_type t);             /* as Qdrant names them: "keyword", "integer", ... */
int ap_field_type_parse(const char *text, enum ap_field_type *out); /* 0 or AP_EINVAL */

#endif
