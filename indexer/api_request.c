/* Request objects taken apart, key by key. Every refusal names the field; nothing is allocated that a failure leaks. */
#include "indexer/api_request.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"

#define DEFAULT_LIMIT 10

static int refuse(struct ap_err *err, const char *what, const char *why)
{
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "%s is not supported%s%s", what, why ? ": " : "", why ? why : "");
}

static int read_count(const json_t *value, const char *name, uint32_t least, uint32_t most, uint32_t fallback, uint32_t *out, struct ap_err *err)
{
    json_int_t n = value ? json_integer_value(value) : (json_int_t)fallback;
    if (n < least || n > most)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Validation error in JSON body: [%s: value %lld invalid, must be from %u to %u]",
                          name, (long long)n, least, most);
    *out = (uint32_t)n;
    return 0;
}

/* --- what the answer carries --- */

static int check_strings(const json_t *list, const char *name, struct ap_err *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (!text)
            return ap_err_set(err, AP_EINVAL, AP_POISON, "%s[%zu]: expected a string", name, i);
        if (strchr(text, '"'))
            return refuse(err, name, "quoted keys");
    }
    return 0;
}

static int read_payload_select(json_t *value, bool fallback, struct ap_select *out, struct ap_err *err)
{
    json_t *include = NULL, *exclude = NULL;
    out->payload = fallback ? AP_PAYLOAD_ALL : AP_PAYLOAD_NONE;
    if (!value)
        return 0;
    if (json_is_boolean(value)) {
        out->payload = json_is_true(value) ? AP_PAYLOAD_ALL : AP_PAYLOAD_NONE;
        return 0;
    }
    if (json_is_array(value)) {
        include = value;
    } else {
        const struct ap_json_field fields[] = {{"include", AP_JSON_ARRAY, false, &include}, {"exclude", AP_JSON_ARRAY, false, &exclude}, AP_JSON_END};
        int rc = ap_json_fields(value, "with_payload", fields, err);
        if (rc)
            return rc;
        if (!include == !exclude)
            return ap_err_set(err, AP_EINVAL, AP_POISON, "with_payload: expected one of include and exclude");
    }
    out->payload = include ? AP_PAYLOAD_INCLUDE : AP_PAYLOAD_EXCLUDE;
    out->paths = include ? include : exclude;
    return check_strings(out->paths, "with_payload", err);
}

static int read_vector_select(const json_t *value, struct ap_select *out, struct ap_err *err)
{
    out->vector = json_is_true(value) || json_is_array(value);
    if (json_is_array(value)) {
        out->vector_names = value;
        return check_strings(value, "with_vector", err);
    }
    if (value && !json_is_boolean(value))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "with_vector: expected true, false or a list of vector names");
    return 0;
}

static int read_select(json_t *with_payload, json_t *with_vector, json_t *with_vectors, bool payload_fallback, struct ap_select *out, struct ap_err *err)
{
    if (with_vector && with_vectors)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "with_vector is given twice: as with_vectors, too");
    int rc = read_payload_select(with_payload, payload_fallback, out, err);
    return rc ? rc : read_vector_select(with_vector ? with_vector : with_vectors, out, err);
}

/* --- params --- */

static int read_quantization(json_t *value, struct ap_ask *out, struct ap_err *err)
{
    json_t *ignore, *rescore, *oversampling;
    const struct ap_json_field fields[] = {{"ignore", AP_JSON_BOOL, false, &ignore}, {"rescore", AP_JSON_BOOL, false, &rescore},
                                           {"oversampling", AP_JSON_NUMBER, false, &oversampling}, AP_JSON_END};
    int rc = ap_json_fields(value, "params.quantization", fields, err);
    if (rc)
        return rc;
    if (json_is_true(ignore))
        return refuse(err, "params.quantization.ignore=true", "candidates come from the index as it is built; ask with exact=true");
    if (json_is_false(rescore))
        return refuse(err, "params.quantization.rescore=false", "hits are always rescored with the best vector this region has");
    out->oversampling = json_number_value(oversampling);
    if (oversampling && !(out->oversampling >= 1 && out->oversampling <= 1000))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Validation error in JSON body: [params.quantization.oversampling: value %g invalid, must be from 1 to 1000]",
                          out->oversampling);
    return 0;
}

static int read_params(json_t *value, struct ap_ask *out, struct ap_err *err)
{
    json_t *hnsw_ef, *exact, *quantization, *indexed_only, *acorn, *enable, *selectivity;
    const struct ap_json_field fields[] = {{"hnsw_ef", AP_JSON_INTEGER, false, &hnsw_ef}, {"exact", AP_JSON_BOOL, false, &exact},
                                           {"quantization", AP_JSON_OBJECT, false, &quantization}, {"indexed_only", AP_JSON_BOOL, false, &indexed_only},
                                           {"acorn", AP_JSON_OBJECT, false, &acorn}, AP_JSON_END};
    const struct ap_json_field acorn_fields[] = {{"enable", AP_JSON_BOOL, false, &enable}, {"max_selectivity", AP_JSON_NUMBER, false, &selectivity}, AP_JSON_END};
    if (!value)
        return 0;
    int rc = ap_json_fields(value, "params", fields, err);
    if (rc == 0 && json_is_true(indexed_only))
        return refuse(err, "params.indexed_only=true", "what is not sealed yet is always searched, too");
    if (rc == 0 && acorn && (rc = ap_json_fields(acorn, "params.acorn", acorn_fields, err)) == 0 && json_is_true(enable))
        return refuse(err, "params.acorn.enable=true", NULL);
    if (rc == 0 && hnsw_ef)
        rc = read_count(hnsw_ef, "params.hnsw_ef", 1, 1000000, 0, &out->effort, err);
    out->exact = rc == 0 && json_is_true(exact);
    return rc || !quantization ? rc : read_quantization(quantization, out, err);
}

/* --- the question --- */

static int take_vector(json_t *list, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err)
{
    out->kind = AP_ASK_VECTOR;
    if (body->has_floats && json_array_size(list) == 0) {
        out->vector = (float *)(void *)body->floats.data; /* malloc'ed: aligned for any type */
        out->dim = body->floats.len / sizeof(float);
        body->floats = (struct ap_buf){0};
        body->has_floats = false;
        return 0;
    }
    if (json_is_array(json_array_get(list, 0)))
        return refuse(err, "a multivector", "a question is one vector or one point");
    int rc = ap_json_vector(list, 0, &out->vector, &out->dim, err);
    if (rc == 0 && out->dim > limits->max_dim)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: the vector has %zu dimensions, more than max_dim of %u", out->dim, limits->max_dim);
    return rc;
}

static int read_nearest(json_t *value, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err)
{
    if (json_is_array(value))
        return take_vector(value, body, limits, out, err);
    if (json_is_object(value)) {
        if (json_object_get(value, "indices"))
            return refuse(err, "a sparse vector", NULL);
        if (json_object_get(value, "text") || json_object_get(value, "image") || json_object_get(value, "object"))
            return refuse(err, "inference", "there is no model here, send a vector");
        return ap_err_set(err, AP_EINVAL, AP_POISON, "query: expected a vector or the id of a point");
    }
    out->kind = AP_ASK_POINT;
    int rc = ap_point_id_from_json(value, &out->point, err);
    if (rc)
        ap_err_wrap(err, "query");
    return rc;
}

static int read_query(json_t *value, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err)
{
    static const char *const kinds[] = {"recommend", "discover", "context", "order_by", "fusion", "rrf", "formula", "sample", "relevance_feedback"};
    json_t *nearest, *mmr;
    char name[64];
    if (!value) {
        out->kind = AP_ASK_BY_ID;
        return 0;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (json_object_get(value, kinds[i])) {
            snprintf(name, sizeof name, "query.%s", kinds[i]);
            return refuse(err, name, "a question is one vector or one point");
        }
    if (!json_object_get(value, "nearest"))
        return read_nearest(value, body, limits, out, err);
    const struct ap_json_field fields[] = {{"nearest", AP_JSON_ANY, true, &nearest}, {"mmr", AP_JSON_OBJECT, false, &mmr}, AP_JSON_END};
    int rc = ap_json_fields(value, "query", fields, err);
    if (rc == 0 && mmr)
        return refuse(err, "query.mmr", NULL);
    return rc ? rc : read_nearest(nearest, body, limits, out, err);
}

static int read_threshold(const json_t *value, struct ap_ask *out, struct ap_err *err)
{
    out->has_threshold = value != NULL;
    out->threshold = (float)json_number_value(value);
    if (!isfinite(out->threshold))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "score_threshold: %g is not finite as float32", json_number_value(value));
    return 0;
}

int ap_ask_parse_query(json_t *object, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err)
{
    json_t *query, *using, *filter, *params, *limit, *offset, *with_payload, *with_vector, *with_vectors, *threshold;
    const struct ap_json_field fields[] = {
        {"query", AP_JSON_ANY, false, &query}, {"using", AP_JSON_STRING, false, &using}, {"filter", AP_JSON_OBJECT, false, &filter},
        {"params", AP_JSON_OBJECT, false, &params}, {"limit", AP_JSON_INTEGER, false, &limit}, {"offset", AP_JSON_INTEGER, false, &offset},
        {"with_payload", AP_JSON_ANY, false, &with_payload}, {"with_vector", AP_JSON_ANY, false, &with_vector},
        {"with_vectors", AP_JSON_ANY, false, &with_vectors}, {"score_threshold", AP_JSON_NUMBER, false, &threshold},
        {"prefetch", AP_JSON_ANY, false, NULL}, {"lookup_from", AP_JSON_ANY, false, NULL}, {"shard_key", AP_JSON_ANY, false, NULL}, AP_JSON_END};
    *out = (struct ap_ask){0};
    int rc = ap_json_fields(object, "query", fields, err);
    if (rc == 0) rc = read_query(query, body, limits, out, err);
    if (rc == 0) rc = ap_filter_parse(filter, &out->filter, err);
    if (rc == 0) rc = read_params(params, out, err);
    if (rc == 0) rc = read_count(limit, "limit", 1, limits->max_limit, DEFAULT_LIMIT, &out->limit, err);
    if (rc == 0) rc = read_count(offset, "offset", 0, limits->max_offset, 0, &out->offset, err);
    if (rc == 0) rc = read_select(with_payload, with_vector, with_vectors, false, &out->select, err);
    if (rc == 0) rc = read_threshold(threshold, out, err);
    out->using = json_string_value(using);
    if (rc)
        ap_ask_fini(out);
    return rc;
}

/* vector of a search: a list, or {name, vector}. */
static int read_search_vector(json_t *value, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err)
{
    json_t *name, *vector;
    const struct ap_json_field fields[] = {{"name", AP_JSON_STRING, true, &name}, {"vector", AP_JSON_ANY, true, &vector}, AP_JSON_END};
    if (json_is_array(value))
        return take_vector(value, body, limits, out, err);
    int rc = ap_json_fields(value, "vector", fields, err);
    if (rc)
        return rc;
    out->using = json_string_value(name);
    return json_is_array(vector) ? take_vector(vector, body, limits, out, err) : refuse(err, "a sparse vector", NULL);
}

int ap_ask_parse_search(json_t *object, struct ap_body *body, const struct ap_limits *limits, struct ap_ask *out, struct ap_err *err)
{
    json_t *vector, *filter, *params, *limit, *offset, *with_payload, *with_vector, *with_vectors, *threshold;
    const struct ap_json_field fields[] = {
        {"vector", AP_JSON_ANY, true, &vector}, {"filter", AP_JSON_OBJECT, false, &filter}, {"params", AP_JSON_OBJECT, false, &params},
        {"limit", AP_JSON_INTEGER, true, &limit}, {"offset", AP_JSON_INTEGER, false, &offset}, {"with_payload", AP_JSON_ANY, false, &with_payload},
        {"with_vector", AP_JSON_ANY, false, &with_vector}, {"with_vectors", AP_JSON_ANY, false, &with_vectors},
        {"score_threshold", AP_JSON_NUMBER, false, &threshold}, {"shard_key", AP_JSON_ANY, false, NULL}, AP_JSON_END};
    *out = (struct ap_ask){0};
    int rc = ap_json_fields(object, "search", fields, err);
    if (rc == 0) rc = read_search_vector(vector, body, limits, out, err);
    if (rc == 0) rc = ap_filter_parse(filter, &out->filter, err);
    if (rc == 0) rc = read_params(params, out, err);
    if (rc == 0) rc = read_count(limit, "limit", 1, limits->max_limit, DEFAULT_LIMIT, &out->limit, err);
    if (rc == 0) rc = read_count(offset, "offset", 0, limits->max_offset, 0, &out->offset, err);
    if (rc == 0) rc = read_select(with_payload, with_vector, with_vectors, false, &out->select, err);
    if (rc == 0) rc = read_threshold(threshold, out, err);
    if (rc)
        ap_ask_fini(out);
    return rc;
}

void ap_ask_fini(struct ap_ask *ask)
{
    free(ask->vector);
    ap_filter_free(&ask->filter);
    *ask = (struct ap_ask){0};
}

int ap_batch_parse(json_t *root, const struct ap_limits *limits, json_t **searches, struct ap_err *err)
{
    const struct ap_json_field fields[] = {{"searches", AP_JSON_ARRAY, true, searches}, AP_JSON_END};
    int rc = ap_json_fields(root, "batch", fields, err);
    if (rc == 0 && json_array_size(*searches) > limits->max_batch)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "searches: %zu in one batch, more than max_batch of %u", json_array_size(*searches), limits->max_batch);
    return rc;
}

/* --- scroll, retrieve, count --- */

int ap_page_parse(json_t *root, const struct ap_limits *limits, struct ap_page *out, struct ap_err *err)
{
    json_t *offset, *limit, *filter, *with_payload, *with_vector, *with_vectors;
    const struct ap_json_field fields[] = {
        {"offset", AP_JSON_ANY, false, &offset}, {"limit", AP_JSON_INTEGER, false, &limit}, {"filter", AP_JSON_OBJECT, false, &filter},
        {"with_payload", AP_JSON_ANY, false, &with_payload}, {"with_vector", AP_JSON_ANY, false, &with_vector},
        {"with_vectors", AP_JSON_ANY, false, &with_vectors}, {"order_by", AP_JSON_ANY, false, NULL}, {"shard_key", AP_JSON_ANY, false, NULL}, AP_JSON_END};
    *out = (struct ap_page){0};
    int rc = ap_json_fields(root, "scroll", fields, err);
    if (rc == 0 && offset) {
        rc = ap_point_id_from_json(offset, &out->offset, err);
        if (rc)
            ap_err_wrap(err, "offset");
    }
    if (rc == 0) rc = read_count(limit, "limit", 1, limits->max_limit, DEFAULT_LIMIT, &out->limit, err);
    if (rc == 0) rc = read_select(with_payload, with_vector, with_vectors, true, &out->select, err);
    if (rc == 0) rc = ap_filter_parse(filter, &out->filter, err);
    out->has_offset = offset != NULL;
    return rc;
}

void ap_page_fini(struct ap_page *page)
{
    ap_filter_free(&page->filter);
}

int ap_pick_parse(json_t *root, const struct ap_limits *limits, struct ap_pick *out, struct ap_err *err)
{
    json_t *ids, *with_payload, *with_vector, *with_vectors;
    const struct ap_json_field fields[] = {{"ids", AP_JSON_ARRAY, true, &ids}, {"with_payload", AP_JSON_ANY, false, &with_payload},
                                           {"with_vector", AP_JSON_ANY, false, &with_vector}, {"with_vectors", AP_JSON_ANY, false, &with_vectors},
                                           {"shard_key", AP_JSON_ANY, false, NULL}, AP_JSON_END};
    *out = (struct ap_pick){0};
    int rc = ap_json_fields(root, "retrieve", fields, err);
    if (rc == 0 && json_array_size(ids) > limits->max_limit)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "ids: %zu at once, more than max_limit of %u", json_array_size(ids), limits->max_limit);
    if (rc == 0) rc = read_select(with_payload, with_vector, with_vectors, true, &out->select, err);
    if (rc == 0) rc = ap_json_point_ids(ids, "ids", &out->ids, &out->count, err);
    return rc;
}

void ap_pick_fini(struct ap_pick *pick)
{
    free(pick->ids);
    *pick = (struct ap_pick){0};
}

int ap_count_parse(json_t *root, struct ap_filter **filter, struct ap_err *err)
{
    json_t *filter_json, *exact;
    const struct ap_json_field fields[] = {{"filter", AP_JSON_OBJECT, false, &filter_json}, {"exact", AP_JSON_BOOL, false, &exact},
                                           {"shard_key", AP_JSON_ANY, false, NULL}, AP_JSON_END};
    *filter = NULL;
    int rc = ap_json_fields(root, "count", fields, err);
    return rc ? rc : ap_filter_parse(filter_json, filter, err);
}
