/* Creating and deleting collections: a control record, acknowledged by Kafka and applied here before the answer.
 *
 * Of Qdrant's parameters those that change what is stored or answered are honoured or refused by name; tuning hints of an
 * engine that is not ours are taken only where leaving them out says the same. docs/http-api.md has the list. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"
#include "common/timeutil.h"
#include "producer/api.h"
#include "producer/write.h"

static char *copy(const char *text)
{
    char *out = text ? strdup(text) : NULL;
    if (text && !out)
        abort();
    return out;
}

static int refuse(struct ap_err *err, const char *what, const char *why)
{
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "%s is not supported%s%s", what, *why ? ": " : "", why);
}

/* --- hints --- */

/* Nothing is asked for: absent, null, or an object of nulls. */
static bool says_nothing(const json_t *value)
{
    const char *key;
    json_t *member;
    if (!value || json_is_null(value))
        return true;
    if (!json_is_object(value))
        return false;
    json_object_foreach((json_t *)(uintptr_t)value, key, member)
        if (!json_is_null(member))
            return false;
    return true;
}

/* Parameters of Qdrant's engine, and what of them is the case here anyway. */
static const struct hint {
    const char *key;
    bool number;            /* 1 says nothing new; else null, or an object of nulls */
    const char *what, *why; /* otherwise */
} hints[] = {
    {"hnsw_config", false, "hnsw_config", "indexes are configured at the indexer"},
    {"optimizers_config", false, "optimizers_config", "segments are configured at the indexer"},
    {"wal_config", false, "wal_config", "the log is Kafka's"},
    {"quantization_config", false, "quantization_config", "choose a codec with antipode.codec"},
    {"sparse_vectors", false, "sparse_vectors", ""},
    {"shard_number", true, "shard_number other than 1", "the partitions of the topic are the shards"},
    {"replication_factor", true, "replication_factor other than 1", "Kafka's topics have theirs"},
    {"write_consistency_factor", true, "write_consistency_factor other than 1", ""},
};

static int check_hints(const json_t *object, struct ap_err *err)
{
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        const json_t *value = json_object_get(object, hints[i].key);
        if (!says_nothing(value) && !(hints[i].number && json_integer_value(value) == 1))
            return refuse(err, hints[i].what, hints[i].why);
    }
    return 0;
}

/* --- vectors --- */

static int parse_vector_params(json_t *object, const char *what, const struct ap_producer_config *config, struct ap_control_collection *out, struct ap_err *err)
{
    json_t *size, *distance, *datatype, *hint;
    const struct ap_json_field fields[] = {
        {"size", AP_JSON_INTEGER, true, &size}, {"distance", AP_JSON_STRING, true, &distance}, {"hnsw_config", AP_JSON_OBJECT, false, &hint},
        {"quantization_config", AP_JSON_OBJECT, false, &hint}, {"on_disk", AP_JSON_BOOL, false, &hint},
        {"datatype", AP_JSON_STRING, false, &datatype}, {"multivector_config", AP_JSON_OBJECT, false, NULL}, AP_JSON_END,
    };
    int rc = ap_json_fields(object, what, fields, err);
    if (rc == 0)
        rc = check_hints(object, err);
    if (rc == 0 && datatype && strcmp(json_string_value(datatype), "float32") != 0)
        rc = refuse(err, "datatype other than float32", "choose a codec with antipode.codec");
    if (rc)
        return rc;
    json_int_t dim = json_integer_value(size);
    if (dim < 1 || dim > config->max_dim)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s.size: %lld is not from 1 to %lld", what, (long long)dim, (long long)config->max_dim);
    out->dim = (uint32_t)dim;
    if (ap_distance_parse(json_string_value(distance), &out->distance) != 0)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "%s.distance: \"%.32s\" is none of Cosine, Euclid, Dot", what, json_string_value(distance));
    return 0;
}

/* One unnamed vector {size, distance}, or one named {"name": {size, distance}}. */
static int parse_vectors(json_t *vectors, const struct ap_producer_config *config, struct ap_control_collection *out, struct ap_err *err)
{
    json_t *size = json_object_get(vectors, "size");
    if (size && !json_is_object(size))
        return parse_vector_params(vectors, "vectors", config, out, err);
    if (json_object_size(vectors) != 1)
        return json_object_size(vectors) == 0 ? ap_err_set(err, AP_EINVAL, AP_POISON, "vectors: names no vector")
                                              : refuse(err, "more than one named vector", "make a collection for each");
    const char *name = json_object_iter_key(json_object_iter(vectors));
    if (strlen(name) > 255 || strcspn(name, "\"\\\n\r\t") != strlen(name))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "vectors: a name has at most 255 bytes, and no quotes, backslashes or control characters");
    json_t *params = json_object_get(vectors, name);
    if (!json_is_object(params))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "vectors.%s: an object {size, distance} is expected", name);
    out->vector_name = copy(name);
    return parse_vector_params(params, "vectors", config, out, err);
}

/* --- what is ours --- */

static int parse_codec(const char *factory, struct ap_control_collection *out, struct ap_err *err)
{
    char standard[64];
    ap_codec_default(out->dim, standard, sizeof standard);
    if (factory && strcmp(factory, "none") != 0 && ap_codec_check(factory, out->dim, err) != 0)
        return ap_err_wrap(err, "antipode.codec");
    out->codec_factory = copy(factory ? factory : standard);
    return 0;
}

static int parse_topic(const char *topic, const struct ap_producer_config *config, struct ap_control_collection *out, struct ap_err *err)
{
    for (size_t i = 0; topic && i < config->topic_count; i++)
        if (strcmp(config->topics[i], topic) == 0) {
            out->topic = copy(topic);
            return 0;
        }
    if (topic)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "antipode.topic: \"%.64s\" is not among this producer's topics", topic);
    out->topic = copy(config->topics[0]);
    return 0;
}

static int parse_own(json_t *own, const struct ap_producer_config *config, struct ap_control_collection *out, struct ap_err *err)
{
    json_t *codec = NULL, *raw = NULL, *topic = NULL;
    const struct ap_json_field fields[] = {
        {"codec", AP_JSON_STRING, false, &codec}, {"raw", AP_JSON_STRING, false, &raw}, {"topic", AP_JSON_STRING, false, &topic}, AP_JSON_END,
    };
    int rc = own ? ap_json_fields(own, "antipode", fields, err) : 0;
    if (rc == 0)
        rc = parse_codec(json_string_value(codec), out, err);
    if (rc == 0)
        rc = parse_topic(json_string_value(topic), config, out, err);
    if (rc)
        return rc;
    const char *keep = raw ? json_string_value(raw) : "home";
    out->raw_home = strcmp(keep, "home") == 0;
    return out->raw_home || strcmp(keep, "none") == 0 ? 0 : ap_err_set(err, AP_EINVAL, AP_POISON, "antipode.raw: \"%.32s\" is neither home nor none", keep);
}

/* Qdrant's own clients have no field for us but metadata. */
static int find_own(json_t *top, json_t *metadata, json_t **own, struct ap_err *err)
{
    *own = top;
    if (says_nothing(metadata))
        return 0;
    json_t *inner = NULL;
    const struct ap_json_field fields[] = {{"antipode", AP_JSON_OBJECT, false, &inner}, AP_JSON_END};
    int rc = ap_json_fields(metadata, "metadata", fields, err);
    if (rc)
        return rc;
    if (inner && top)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "antipode is there twice, at the top and in metadata");
    *own = inner ? inner : top;
    return 0;
}

int ap_producer_parse_collection(json_t *body, const struct ap_producer_config *config, struct ap_control_collection *out, struct ap_err *err)
{
    json_t *vectors, *own, *metadata, *sharding, *hint;
    const struct ap_json_field fields[] = {
        {"vectors", AP_JSON_OBJECT, true, &vectors}, {"antipode", AP_JSON_OBJECT, false, &own}, {"metadata", AP_JSON_OBJECT, false, &metadata},
        {"sharding_method", AP_JSON_STRING, false, &sharding}, {"on_disk_payload", AP_JSON_BOOL, false, &hint},
        {"hnsw_config", AP_JSON_OBJECT, false, &hint}, {"optimizers_config", AP_JSON_OBJECT, false, &hint}, {"wal_config", AP_JSON_OBJECT, false, &hint},
        {"quantization_config", AP_JSON_OBJECT, false, &hint}, {"sparse_vectors", AP_JSON_OBJECT, false, &hint},
        {"shard_number", AP_JSON_INTEGER, false, &hint}, {"replication_factor", AP_JSON_INTEGER, false, &hint},
        {"write_consistency_factor", AP_JSON_INTEGER, false, &hint}, {"init_from", AP_JSON_OBJECT, false, NULL},
        {"strict_mode_config", AP_JSON_OBJECT, false, NULL}, AP_JSON_END,
    };
    int rc = ap_json_fields(body, "collection", fields, err);
    if (rc == 0)
        rc = check_hints(body, err);
    if (rc == 0 && sharding && strcmp(json_string_value(sharding), "auto") != 0)
        rc = refuse(err, "sharding_method other than auto", "");
    if (rc == 0)
        rc = find_own(own, metadata, &own, err);
    if (rc == 0)
        rc = parse_vectors(vectors, config, out, err);
    return rc ? rc : parse_own(own, config, out, err);
}

/* --- creating --- */

/* 0 and the generation to write, or AP_EEXISTS. Under the producer's ddl lock. */
static int next_generation(struct ap_producer *p, const char *name, uint64_t *generation, struct ap_err *err)
{
    const struct ap_collection *c = ap_catalog_collection(ap_control_log_lock(&p->control), name);
    bool live = c && c->live;
    *generation = c ? c->params.generation + 1 : 1;
    ap_control_log_unlock(&p->control);
    return live ? ap_err_set(err, AP_EEXISTS, AP_POISON, "Wrong input: Collection `%s` already exists!", name) : 0;
}

static int create(struct ap_producer *p, const char *name, struct ap_control *c, int64_t deadline_ns, struct ap_err *err)
{
    pthread_mutex_lock(&p->ddl);
    int rc = next_generation(p, name, &c->u.collection.generation, err);
    if (rc == 0)
        rc = ap_control_log_publish(&p->control, c, 1, deadline_ns, err);
    pthread_mutex_unlock(&p->ddl);
    return rc;
}

void ap_producer_create_collection(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    const char *name = ap_http_param(req, 0);
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION};
    struct ap_write_options o;
    struct ap_err err = {0};
    json_t *body = NULL;
    int rc = ap_write_definition_options_read(req, p, &o, &err);
    if (rc == 0)
        rc = ap_collection_name_check(name, &err);
    if (rc == 0 && !(body = ap_http_json(req, &err)))
        rc = err.code;
    if (rc == 0) {
        c.u.collection.name = copy(name);
        rc = ap_producer_parse_collection(body, p->config, &c.u.collection, &err);
    }
    if (rc == 0)
        rc = create(p, name, &c, o.deadline_ns, &err);
    if (rc)
        ap_write_reply_err(req, p, &err);
    else
        ap_http_reply_result(req, json_true());
    json_decref(body);
    ap_control_fini(&c);
}

/* --- deleting --- */

/* A copy of the live collection, as deleted; false when there is none. */
static bool as_deleted(struct ap_producer *p, const char *name, struct ap_control *out)
{
    const struct ap_collection *c = ap_catalog_collection(ap_control_log_lock(&p->control), name);
    bool live = c && c->live;
    if (live) {
        struct ap_control_collection *d = &out->u.collection;
        *d = c->params;
        d->deleted = true;
        d->name = copy(c->params.name);
        d->codec_factory = copy(c->params.codec_factory);
        d->topic = copy(c->params.topic);
        d->vector_name = copy(c->params.vector_name);
    }
    ap_control_log_unlock(&p->control);
    return live;
}

void ap_producer_delete_collection(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION};
    struct ap_write_options o;
    struct ap_err err = {0};
    bool live = false;
    int rc = ap_write_definition_options_read(req, p, &o, &err);
    if (rc == 0) {
        pthread_mutex_lock(&p->ddl);
        live = as_deleted(p, ap_http_param(req, 0), &c);
        if (live)
            rc = ap_control_log_publish(&p->control, &c, 1, o.deadline_ns, &err);
        pthread_mutex_unlock(&p->ddl);
    }
    if (rc)
        ap_write_reply_err(req, p, &err);
    else
        ap_http_reply_result(req, json_boolean(live));
    ap_control_fini(&c);
}
