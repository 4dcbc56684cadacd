/* Control records: struct to Avro value and back, and the rules of what they may say.
 *
 * Checks are the same in both directions: a record that could not be read back is refused when it is written. */
#include "common/control.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "common/avro_field.h"
#include "common/clock.h"
#include "common/schema.h"

#define MAX_CHUNKS 4096 /* a codec of 1 GiB */
#define MAX_JSON (64 * 1024)

/* Order of enum ap_control_kind, and of the symbols in the newest schemas/Control. NULL: UNKNOWN. */
static const char *const fields[] = { "collection", "codec", "codec_use", "incarnation", "region_state", "schema", NULL, "index", "retirement", "loss" };
static const size_t field_counts[] = { 0, 6, 8, 10 }; /* by version of Control */
#define MAX_CUT 16384
enum { KIND_UNKNOWN = AP_CONTROL_SCHEMA + 1, DISTANCE_UNKNOWN = AP_DOT + 1, STATE_UNKNOWN = AP_REGION_RETIRED + 1, TYPE_UNKNOWN = AP_FIELD_TEXT + 1 };

static const char *const states[] = { "active", "read-only", "retired" };
static const char *const distances[] = { "Cosine", "Euclid", "Dot" };

const char *ap_region_state_name(enum ap_region_state state)
{
    return states[state];
}

const char *ap_distance_name(enum ap_distance d)
{
    return distances[d];
}

int ap_distance_parse(const char *text, enum ap_distance *out)
{
    for (int i = AP_COSINE; i <= AP_DOT; i++) {
        if (strcmp(text, distances[i]) == 0) {
            *out = (enum ap_distance)i;
            return 0;
        }
    }
    return AP_EINVAL;
}

static const char *const types[] = { "keyword", "integer", "float", "bool", "datetime", "uuid", "text" };

const char *ap_field_type_name(enum ap_field_type t)
{
    return types[t];
}

int ap_field_type_parse(const char *text, enum ap_field_type *out)
{
    for (int i = AP_FIELD_KEYWORD; i <= AP_FIELD_TEXT; i++) {
        if (strcmp(text, types[i]) == 0) {
            *out = (enum ap_field_type)i;
            return 0;
        }
    }
    return AP_EINVAL;
}

void ap_control_key(const struct ap_control *c, struct ap_buf *out)
{
    switch (c->kind) {
    case AP_CONTROL_COLLECTION:
        ap_buf_printf(out, "collection/%s", c->u.collection.name);
        return;
    case AP_CONTROL_CODEC:
        ap_buf_printf(out, "codec/%016" PRIx64 "/%" PRIu32, c->u.codec.codec, c->u.codec.chunk);
        return;
    case AP_CONTROL_CODEC_USE:
        ap_buf_printf(out, "codec-use/%016" PRIx64, c->u.codec_use.collection);
        return;
    case AP_CONTROL_INCARNATION:
        ap_buf_printf(out, "incarnation/%016" PRIx64, c->u.incarnation.incarnation);
        return;
    case AP_CONTROL_REGION:
        ap_buf_printf(out, "region/%s", c->version.region.name);
        return;
    case AP_CONTROL_SCHEMA:
        ap_buf_printf(out, "schema/%016" PRIx64, c->u.schema.fingerprint);
        return;
    case AP_CONTROL_INDEX:
        ap_buf_printf(out, "index/%016" PRIx64 "/%s", c->u.index.collection, c->u.index.field);
        return;
    case AP_CONTROL_RETIREMENT:
        ap_buf_printf(out, "retired/%s/%016" PRIx64, c->u.retirement.region.name, c->u.retirement.region_incarnation);
        return;
    case AP_CONTROL_LOSS:
        ap_buf_printf(out, "loss/%016" PRIx64 "/%s/%" PRId32 "/%" PRIu64, c->u.loss.stream, c->u.loss.topic, c->u.loss.partition, c->u.loss.first);
        return;
    }
}

/* ---- rules ---- */

static int bad(struct ap_err *err, const char *what)
{
    return ap_err_set(err, AP_ECORRUPT, AP_POISON, "control record: %s", what);
}

static bool text_within(const char *text, size_t least, size_t most)
{
    size_t len = text ? strlen(text) : 0;
    return text && len >= least && len <= most;
}

/* Mutation topics: what MirrorMaker mirrors, without the two that have a meaning of their own. */
static bool good_topic(const char *topic)
{
    return text_within(topic, 5, 63) && strncmp(topic, "vec-", 4) == 0 && topic[strspn(topic,
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")] == '\0' &&
        strcmp(topic, "vec-control") != 0 && strcmp(topic, "vec-watermarks") != 0;
}

static int check_collection(const struct ap_control_collection *c, struct ap_err *err)
{
    if (!c->name || ap_collection_name_check(c->name, NULL))
        return bad(err, "not the name of a collection");
    if (c->generation < 1 || c->generation > INT64_MAX)
        return bad(err, "a generation below 1");
    if (c->dim < 1 || c->dim > 65536)
        return bad(err, "dimensions outside of 1 to 65536");
    if (c->distance > AP_DOT)
        return bad(err, "an unknown distance");
    if (!text_within(c->codec_factory, 1, 255))
        return bad(err, "a codec of no name, or too long a one");
    if (!good_topic(c->topic))
        return bad(err, "a topic that is not vec-[A-Za-z0-9_-]+, or has another use");
    if (c->vector_name && !text_within(c->vector_name, 0, 255))
        return bad(err, "too long a name of a vector");
    return 0;
}

static int check_codec(const struct ap_control_codec *c, struct ap_err *err)
{
    if (c->codec != ap_be64(c->hash))
        return bad(err, "a codec whose id is not its hash");
    if (!text_within(c->factory, 1, 255))
        return bad(err, "a codec of no name, or too long a one");
    if (c->dim < 1 || c->dim > 65536)
        return bad(err, "dimensions outside of 1 to 65536");
    if (c->chunks < 1 || c->chunks > MAX_CHUNKS || c->chunk >= c->chunks)
        return bad(err, "a chunk beyond the last");
    if (c->len < 1 || c->len > AP_CODEC_CHUNK_BYTES)
        return bad(err, "a chunk of no bytes, or too many");
    return 0;
}

static bool good_position(const char *topic, uint64_t stream, int32_t partition, uint64_t mark)
{
    return good_topic(topic) && stream != 0 && partition >= 0 && mark <= INT64_MAX;
}

static int check_retirement(const struct ap_control_retirement *r, struct ap_err *err)
{
    if (r->region_incarnation == 0)
        return bad(err, "a retirement of no incarnation");
    if (r->count > MAX_CUT)
        return bad(err, "a retirement of too many streams");
    for (size_t i = 0; i < r->count; i++)
        if (!good_position(r->cut[i].topic, r->cut[i].stream, r->cut[i].partition, r->cut[i].mark))
            return bad(err, "a retirement with a position out of range");
    return 0;
}

static int check(const struct ap_control *c, struct ap_err *err)
{
    if (c->version.hlc > AP_HLC_MAX || c->version.writer == 0)
        return bad(err, "a version out of range");
    switch (c->kind) {
    case AP_CONTROL_COLLECTION:
        return check_collection(&c->u.collection, err);
    case AP_CONTROL_CODEC:
        return check_codec(&c->u.codec, err);
    case AP_CONTROL_CODEC_USE:
        return 0;
    case AP_CONTROL_INCARNATION:
        if (c->u.incarnation.incarnation == 0 || !text_within(c->u.incarnation.instance, 1, 255))
            return bad(err, "an incarnation of 0, or an instance without a name");
        return 0;
    case AP_CONTROL_REGION:
        return c->u.region.state > AP_REGION_RETIRED ? bad(err, "an unknown state") : 0;
    case AP_CONTROL_SCHEMA:
        return text_within(c->u.schema.json, 1, MAX_JSON) ? 0 : bad(err, "a schema of no text, or too long a one");
    case AP_CONTROL_INDEX:
        if (!text_within(c->u.index.field, 1, AP_FIELD_PATH_MAX) || c->u.index.type > AP_FIELD_TEXT)
            return bad(err, "an index of no field, or of no type");
        return c->u.index.options && !text_within(c->u.index.options, 2, 4096) ? bad(err, "an index with too long options") : 0;
    case AP_CONTROL_RETIREMENT:
        return check_retirement(&c->u.retirement, err);
    case AP_CONTROL_LOSS:
        return good_position(c->u.loss.topic, c->u.loss.stream, c->u.loss.partition, c->u.loss.last) && c->u.loss.first >= 1 &&
               c->u.loss.first <= c->u.loss.last ? 0 : bad(err, "a loss out of range");
    }
    return bad(err, "an unknown kind");
}

/* ---- writing ---- */

static void set_hash64(avro_value_t *record, const char *name, uint64_t value)
{
    uint8_t bytes[8];
    ap_put_be64(bytes, value);
    ap_avro_set_fixed(record, name, bytes, sizeof bytes);
}

static void write_collection(avro_value_t *r, const struct ap_control_collection *c)
{
    ap_avro_set_string(r, "name", c->name);
    ap_avro_set_u64(r, "generation", c->generation);
    ap_avro_set_bool(r, "deleted", c->deleted);
    ap_avro_set_int(r, "dim", (int32_t)c->dim);
    ap_avro_set_enum(r, "distance", (int)c->distance);
    ap_avro_set_string(r, "codec_factory", c->codec_factory);
    ap_avro_set_bool(r, "raw_home", c->raw_home);
    ap_avro_set_string(r, "topic", c->topic);
    if (c->vector_name)
        ap_avro_set_string(r, "vector_name", c->vector_name);
    else
        ap_avro_set_null(r, "vector_name");
}

static void write_codec(avro_value_t *r, const struct ap_control_codec *c)
{
    set_hash64(r, "codec", c->codec);
    ap_avro_set_string(r, "factory", c->factory);
    ap_avro_set_int(r, "dim", (int32_t)c->dim);
    ap_avro_set_int(r, "chunk", (int32_t)c->chunk);
    ap_avro_set_int(r, "chunks", (int32_t)c->chunks);
    ap_avro_set_bytes(r, "bytes", c->bytes, c->len);
    ap_avro_set_fixed(r, "hash", c->hash, sizeof c->hash);
}

static void write_incarnation(avro_value_t *r, const struct ap_control_incarnation *i)
{
    ap_avro_set_u64(r, "incarnation", i->incarnation);
    ap_avro_set_u64(r, "region_incarnation", i->region_incarnation);
    if (i->predecessor)
        ap_avro_set_u64(r, "predecessor", i->predecessor);
    else
        ap_avro_set_null(r, "predecessor");
    ap_avro_set_u64(r, "lineage", i->lineage);
    ap_avro_set_string(r, "instance", i->instance);
}

static void write_retirement(avro_value_t *r, const struct ap_control_retirement *t)
{
    avro_value_t item, list = ap_avro_field(r, "cut");
    ap_avro_set_string(r, "region", t->region.name);
    ap_avro_set_u64(r, "region_incarnation", t->region_incarnation);
    for (size_t i = 0; i < t->count; i++) {
        const struct ap_position *p = &t->cut[i];
        if (avro_value_append(&list, &item, NULL))
            abort();
        ap_avro_set_u64(&item, "stream", p->stream);
        ap_avro_set_u64(&item, "lineage", p->lineage);
        ap_avro_set_string(&item, "topic", p->topic);
        ap_avro_set_int(&item, "partition", p->partition);
        ap_avro_set_u64(&item, "mark", p->mark);
        ap_avro_set_bool(&item, "finished", p->finished);
    }
}

static void write_loss(avro_value_t *r, const struct ap_control_loss *l)
{
    ap_avro_set_string(r, "origin", l->origin.name);
    ap_avro_set_u64(r, "stream", l->stream);
    ap_avro_set_string(r, "topic", l->topic);
    ap_avro_set_int(r, "partition", l->partition);
    ap_avro_set_u64(r, "first", l->first);
    ap_avro_set_u64(r, "last", l->last);
    ap_avro_set_bool(r, "proven", l->proven);
}

static void write_kind(avro_value_t *r, const struct ap_control *c)
{
    switch (c->kind) {
    case AP_CONTROL_COLLECTION:
        write_collection(r, &c->u.collection);
        return;
    case AP_CONTROL_CODEC:
        write_codec(r, &c->u.codec);
        return;
    case AP_CONTROL_CODEC_USE:
        set_hash64(r, "collection", c->u.codec_use.collection);
        set_hash64(r, "codec", c->u.codec_use.codec);
        return;
    case AP_CONTROL_INCARNATION:
        write_incarnation(r, &c->u.incarnation);
        return;
    case AP_CONTROL_REGION:
        ap_avro_set_u64(r, "region_incarnation", c->u.region.region_incarnation);
        ap_avro_set_enum(r, "state", (int)c->u.region.state);
        return;
    case AP_CONTROL_SCHEMA:
        set_hash64(r, "fingerprint", c->u.schema.fingerprint);
        ap_avro_set_string(r, "json", c->u.schema.json);
        return;
    case AP_CONTROL_INDEX:
        set_hash64(r, "collection", c->u.index.collection);
        ap_avro_set_string(r, "field", c->u.index.field);
        ap_avro_set_enum(r, "type", (int)c->u.index.type);
        if (c->u.index.options)
            ap_avro_set_string(r, "options", c->u.index.options);
        else
            ap_avro_set_null(r, "options");
        ap_avro_set_bool(r, "removed", c->u.index.removed);
        return;
    case AP_CONTROL_RETIREMENT:
        write_retirement(r, &c->u.retirement);
        return;
    case AP_CONTROL_LOSS:
        write_loss(r, &c->u.loss);
        return;
    }
}

/* The oldest version that has the kind: so everybody who knows the kind reads it, and above all SCHEMA records, which newer
 * ones are read by (schemas/README.md). */
static const struct ap_schema_info *schema_of(const struct ap_schemas *schemas, const struct ap_control *c)
{
    int version = 1;
    while (field_counts[version] <= (size_t)c->kind)
        version++;
    return ap_schema_version(schemas, "Control", version);
}

int ap_control_encode(const struct ap_schemas *schemas, const struct ap_control *c, struct ap_buf *out, struct ap_err *err)
{
    int rc = check(c, err);
    if (rc)
        return rc;
    const struct ap_schema_info *schema = schema_of(schemas, c);
    avro_value_iface_t *iface = avro_generic_class_from_schema(schema->schema);
    avro_value_t record;
    if (!iface || avro_generic_value_new(iface, &record))
        abort(); /* memory is out */
    avro_value_iface_decref(iface);
    ap_avro_set_enum(&record, "kind", (int)c->kind);
    ap_avro_set_u64(&record, "hlc", c->version.hlc);
    ap_avro_set_string(&record, "region", c->version.region.name);
    ap_avro_set_u64(&record, "writer", c->version.writer);
    for (size_t i = 0; i < field_counts[schema->version]; i++)
        if (i != (size_t)c->kind && fields[i])
            ap_avro_set_null(&record, fields[i]);
    avro_value_t branch = ap_avro_set_present(&record, fields[c->kind]);
    write_kind(&branch, c);
    rc = ap_schema_write_as(schema, &record, out, err);
    avro_value_decref(&record);
    return rc;
}

/* ---- reading ---- */

static uint64_t hash64(const avro_value_t *record, const char *name)
{
    size_t len;
    return ap_be64(ap_avro_bytes(record, name, &len));
}

/* A copy of a string field; NULL, which check() refuses, when there is a NUL inside of it. */
static char *text(const avro_value_t *record, const char *name)
{
    size_t len;
    const char *from = ap_avro_string(record, name, &len);
    if (strlen(from) != len)
        return NULL;
    char *copy = strdup(from);
    if (!copy)
        abort();
    return copy;
}

static int read_collection(const avro_value_t *r, struct ap_control_collection *c, struct ap_err *err)
{
    avro_value_t branch;
    c->name = text(r, "name");
    c->generation = ap_avro_u64(r, "generation");
    c->deleted = ap_avro_bool(r, "deleted");
    c->dim = (uint32_t)ap_avro_int(r, "dim");
    c->distance = (enum ap_distance)ap_avro_enum(r, "distance");
    c->codec_factory = text(r, "codec_factory");
    c->raw_home = ap_avro_bool(r, "raw_home");
    c->topic = text(r, "topic");
    if (ap_avro_optional(r, "vector_name", &branch) && !(c->vector_name = text(r, "vector_name")))
        return bad(err, "not the name of a vector");
    return 0;
}

static void read_codec(const avro_value_t *r, struct ap_control_codec *c)
{
    size_t len;
    c->codec = hash64(r, "codec");
    c->factory = text(r, "factory");
    c->dim = (uint32_t)ap_avro_int(r, "dim");
    c->chunk = (uint32_t)ap_avro_int(r, "chunk");
    c->chunks = (uint32_t)ap_avro_int(r, "chunks");
    memcpy(c->hash, ap_avro_bytes(r, "hash", &len), sizeof c->hash);
    const uint8_t *bytes = ap_avro_bytes(r, "bytes", &c->len);
    c->bytes = malloc(c->len + 1);
    if (!c->bytes)
        abort();
    memcpy(c->bytes, bytes, c->len);
}

static void read_incarnation(const avro_value_t *r, struct ap_control_incarnation *i)
{
    avro_value_t branch;
    i->incarnation = ap_avro_u64(r, "incarnation");
    i->region_incarnation = ap_avro_u64(r, "region_incarnation");
    i->predecessor = ap_avro_optional(r, "predecessor", &branch) ? ap_avro_u64(r, "predecessor") : 0;
    i->lineage = ap_avro_u64(r, "lineage");
    i->instance = text(r, "instance");
}

static int read_region(const avro_value_t *r, const char *name, struct ap_region *out, struct ap_err *err)
{
    size_t len;
    const char *from = ap_avro_string(r, name, &len);
    return ap_region_parse(from, len, out, NULL) ? bad(err, "not the name of a region") : 0;
}

/* "" , which check() refuses, for one that is none. */
static void read_topic(const avro_value_t *r, char out[64])
{
    size_t len;
    const char *from = ap_avro_string(r, "topic", &len);
    memset(out, 0, 64);
    if (len < 64 && strlen(from) == len)
        memcpy(out, from, len);
}

static int read_retirement(const avro_value_t *r, struct ap_control_retirement *t, struct ap_err *err)
{
    avro_value_t item, list = ap_avro_field(r, "cut");
    t->region_incarnation = ap_avro_u64(r, "region_incarnation");
    int rc = read_region(r, "region", &t->region, err);
    avro_value_get_size(&list, &t->count);
    t->cut = calloc(t->count + 1, sizeof *t->cut);
    if (!t->cut)
        abort();
    for (size_t i = 0; i < t->count; i++) {
        struct ap_position *p = &t->cut[i];
        avro_value_get_by_index(&list, i, &item, NULL);
        *p = (struct ap_position){.stream = ap_avro_u64(&item, "stream"), .region = t->region, .partition = ap_avro_int(&item, "partition"),
                                  .mark = ap_avro_u64(&item, "mark"), .lineage = ap_avro_u64(&item, "lineage"), .finished = ap_avro_bool(&item, "finished")};
        read_topic(&item, p->topic);
    }
    return rc;
}

static int read_loss(const avro_value_t *r, struct ap_control_loss *l, struct ap_err *err)
{
    l->stream = ap_avro_u64(r, "stream");
    read_topic(r, l->topic);
    l->partition = ap_avro_int(r, "partition");
    l->first = ap_avro_u64(r, "first");
    l->last = ap_avro_u64(r, "last");
    l->proven = ap_avro_bool(r, "proven");
    return read_region(r, "origin", &l->origin, err);
}

static int read_kind(const avro_value_t *r, struct ap_control *out, struct ap_err *err)
{
    switch (out->kind) {
    case AP_CONTROL_COLLECTION:
        return read_collection(r, &out->u.collection, err);
    case AP_CONTROL_CODEC:
        read_codec(r, &out->u.codec);
        return 0;
    case AP_CONTROL_CODEC_USE:
        out->u.codec_use.collection = hash64(r, "collection");
        out->u.codec_use.codec = hash64(r, "codec");
        return 0;
    case AP_CONTROL_INCARNATION:
        read_incarnation(r, &out->u.incarnation);
        return 0;
    case AP_CONTROL_REGION:
        out->u.region.region_incarnation = ap_avro_u64(r, "region_incarnation");
        out->u.region.state = (enum ap_region_state)ap_avro_enum(r, "state");
        return 0;
    case AP_CONTROL_SCHEMA:
        out->u.schema.fingerprint = hash64(r, "fingerprint");
        out->u.schema.json = text(r, "json");
        return 0;
    case AP_CONTROL_INDEX:
        out->u.index.collection = hash64(r, "collection");
        out->u.index.field = text(r, "field");
        out->u.index.type = (enum ap_field_type)ap_avro_enum(r, "type");
        out->u.index.removed = ap_avro_bool(r, "removed");
        avro_value_t branch;
        if (ap_avro_optional(r, "options", &branch) && !(out->u.index.options = text(r, "options")))
            return bad(err, "options of an index that are no text");
        return 0;
    case AP_CONTROL_RETIREMENT:
        return read_retirement(r, &out->u.retirement, err);
    case AP_CONTROL_LOSS:
        return read_loss(r, &out->u.loss, err);
    }
    return bad(err, "an unknown kind");
}

/* Symbols that this version does not know arrive as UNKNOWN: not damage, but something for a newer program. */
static int check_newer(const struct ap_control *c, struct ap_err *err)
{
    if (c->kind == AP_CONTROL_INDEX && (int)c->u.index.type == TYPE_UNKNOWN) /* searches do without, and scan */
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "control record: an index of a type newer than this program");
    bool newer = (c->kind == AP_CONTROL_COLLECTION && (int)c->u.collection.distance == DISTANCE_UNKNOWN) ||
                 (c->kind == AP_CONTROL_REGION && (int)c->u.region.state == STATE_UNKNOWN);
    return newer ? ap_err_set(err, AP_ESCHEMA, AP_RETRY, "control record: a value newer than this program: upgrade it") : 0;
}

int ap_control_decode(const struct ap_schemas *schemas, const void *value, size_t len, struct ap_control *out, struct ap_err *err)
{
    avro_value_t record, branch;
    *out = (struct ap_control){0};
    int rc = ap_schema_read(schemas, "Control", value, len, &record, err);
    if (rc)
        return rc;
    size_t region_len;
    const char *region = ap_avro_string(&record, "region", &region_len);
    int kind = ap_avro_enum(&record, "kind");
    out->kind = (enum ap_control_kind)kind;
    out->version.hlc = ap_avro_u64(&record, "hlc");
    out->version.writer = ap_avro_u64(&record, "writer");
    if (kind == KIND_UNKNOWN)
        rc = ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "control record: a kind newer than this program");
    else if (ap_region_parse(region, region_len, &out->version.region, NULL))
        rc = bad(err, "not the name of a region");
    else if (!ap_avro_optional(&record, fields[kind], &branch))
        rc = bad(err, "the field of its kind is null");
    else
        rc = read_kind(&branch, out, err);
    avro_value_decref(&record);
    if (rc == 0)
        rc = check_newer(out, err);
    if (rc == 0)
        rc = check(out, err);
    if (rc)
        ap_control_fini(out);
    return rc;
}

void ap_control_fini(struct ap_control *c)
{
    switch ((int)c->kind) {
    case AP_CONTROL_COLLECTION:
        free(c->u.collection.name);
        free(c->u.collection.codec_factory);
        free(c->u.collection.topic);
        free(c->u.collection.vector_name);
        break;
    case AP_CONTROL_CODEC:
        free(c->u.codec.factory);
        free(c->u.codec.bytes);
        break;
    case AP_CONTROL_INCARNATION:
        free(c->u.incarnation.instance);
        break;
    case AP_CONTROL_SCHEMA:
        free(c->u.schema.json);
        break;
    case AP_CONTROL_INDEX:
        free(c->u.index.field);
        free(c->u.index.options);
        break;
    case AP_CONTROL_RETIREMENT:
        free(c->u.retirement.cut);
        break;
    default:
        break;
    }
    *c = (struct ap_control){0};
}
