/* Queries and searches, one or a batch in one view: question -> hits -> answer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "indexer/api_impl.h"
#include "indexer/json_out.h"

typedef int (*ask_parser)(json_t *, struct ap_body *, const struct ap_limits *, struct ap_ask *, struct ap_err *);

static int check_using(const struct ap_read *r, const struct ap_ask *ask, struct ap_err *err)
{
    const char *own = r->c.collection->params.vector_name, *asked = ask->using;
    if (strcmp(own ? own : "", asked ? asked : "") == 0)
        return 0;
    return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: Not existing vector name error: %.100s", asked ? asked : "");
}

/* A stored point as the question: its best vector, and it is left out of the answer. */
static int load_point(struct ap_read *r, struct ap_ask *ask, struct ap_err *err)
{
    uint32_t dim = r->c.collection->params.dim;
    char text[AP_POINT_ID_TEXT];
    struct ap_row row;
    uint64_t slot;
    bool raw;
    int rc = ap_view_point(r->view, &r->c, &ask->point, &slot, err);
    if (rc == AP_ENOTFOUND) {
        ap_point_id_print(&ask->point, text);
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "Not found: No point with id %s found", text);
    }
    if (rc == 0) rc = ap_view_row(r->view, slot, &row, err);
    if (rc)
        return rc;
    ask->vector = malloc(dim * sizeof *ask->vector);
    if (!ask->vector)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory");
    ask->dim = dim;
    return ap_view_vector(r->view, &r->c, slot, &row, ask->vector, &raw, err);
}

static int check_vector(const struct ap_read *r, const struct ap_ask *ask, struct ap_err *err)
{
    const struct ap_control_collection *params = &r->c.collection->params;
    if (ask->dim != params->dim)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: Vector dimension error: expected dim: %u, got %zu", params->dim, ask->dim);
    if (params->distance != AP_COSINE)
        return 0;
    for (size_t i = 0; i < ask->dim; i++)
        if (ask->vector[i] != 0)
            return 0;
    return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: a zero vector has no direction, and this collection compares by cosine");
}

static int search(struct ap_read *r, const struct ap_ask *ask, struct ap_hit *hits, uint32_t wanted, size_t *count, struct ap_err *err)
{
    double candidates = ceil(ask->oversampling * wanted);
    struct ap_search q = {.vector = ask->vector, .limit = wanted, .effort = ask->effort, .exact = ask->exact, .filter = ask->filter,
                          .candidates = candidates < (double)r->c.points ? (uint32_t)candidates : (uint32_t)r->c.points,
                          .exclude = ask->kind == AP_ASK_POINT ? &ask->point : NULL,
                          .has_threshold = ask->has_threshold, .threshold = ask->threshold};
    int64_t start = ap_mono_ns();
    int rc = ap_view_bind(&r->c, ask->filter, err);
    if (rc == 0)
        rc = ap_view_search(r->view, &r->c, &q, hits, count, err);
    ap_observe(r->api->search_latency, (double)(ap_mono_ns() - start) * 1e-9);
    return rc;
}

/* Without a question: points in the order of their ids, all with score 0. */
static int list_points(struct ap_read *r, const struct ap_ask *ask, struct ap_hit *hits, uint32_t wanted, size_t *count, struct ap_err *err)
{
    struct ap_found *found = malloc(((size_t)wanted + 1) * sizeof *found);
    if (!found)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for %u points", wanted);
    int rc = ap_walk_page(r, ask->filter, NULL, wanted, found, count, err);
    for (size_t i = 0; rc == 0 && i < *count; i++)
        hits[i] = (struct ap_hit){.id = found[i].id, .slot = found[i].slot};
    free(found);
    return rc;
}

static int find_hits(struct ap_read *r, struct ap_ask *ask, struct ap_hit **hits, size_t *count, struct ap_err *err)
{
    uint64_t most = (uint64_t)ask->limit + ask->offset;
    uint32_t wanted = (uint32_t)(most < r->c.points ? most : r->c.points);
    int rc = check_using(r, ask, err);
    if (rc == 0 && ask->kind == AP_ASK_POINT) rc = load_point(r, ask, err);
    if (rc == 0 && ask->kind != AP_ASK_BY_ID) rc = check_vector(r, ask, err);
    if (rc)
        return rc;
    *hits = malloc(((size_t)wanted + 1) * sizeof **hits);
    if (!*hits)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for %u hits", wanted);
    *count = 0;
    if (r->c.unready)
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "collection `%s` is not ready here: %s", r->c.collection->params.name, r->c.unready);
    if (wanted == 0)
        return 0;
    return ask->kind == AP_ASK_BY_ID ? list_points(r, ask, *hits, wanted, count, err) : search(r, ask, *hits, wanted, count, err);
}

static int answer_ask(struct ap_read *r, struct ap_ask *ask, struct ap_buf *out, struct ap_err *err)
{
    struct ap_hit *hits = NULL;
    struct ap_answer a = {0};
    size_t count = 0;
    int rc = find_hits(r, ask, &hits, &count, err);
    if (rc == 0) rc = ap_answer_begin(&a, r, &ask->select, out, err);
    ap_json_raw(out, "[");
    for (size_t i = ask->offset; rc == 0 && i < count; i++) {
        if (i > ask->offset)
            ap_json_raw(out, ",");
        rc = ap_answer_point(&a, &hits[i].id, hits[i].slot, &hits[i].score, err);
    }
    ap_json_raw(out, "]");
    ap_answer_end(&a);
    free(hits);
    return rc;
}

/* object -> its list of hits; within {"points": ..} where `wrapped`. */
static int answer_object(struct ap_read *r, ask_parser parse, json_t *object, struct ap_body *body, bool wrapped, struct ap_buf *out, struct ap_err *err)
{
    struct ap_ask ask;
    int rc = parse(object, body, &r->api->limits, &ask, err);
    if (rc)
        return rc;
    ap_json_raw(out, wrapped ? "{\"points\":" : "");
    rc = answer_ask(r, &ask, out, err);
    ap_json_raw(out, wrapped ? "}" : "");
    ap_ask_fini(&ask);
    return rc;
}

static int answer_batch(struct ap_read *r, ask_parser parse, struct ap_body *body, bool wrapped, struct ap_buf *out, struct ap_err *err)
{
    json_t *searches, *one;
    size_t i;
    int rc = ap_batch_parse(body->root, &r->api->limits, &searches, err);
    if (rc)
        return rc;
    ap_json_raw(out, "[");
    json_array_foreach(searches, i, one) {
        if (i)
            ap_json_raw(out, ",");
        rc = answer_object(r, parse, one, body, wrapped, out, err);
        if (rc) {
            ap_err_wrap(err, "searches[%zu]", i);
            return rc;
        }
    }
    ap_json_raw(out, "]");
    return 0;
}

static void serve(struct ap_http_request *req, ask_parser parse, bool wrapped, bool batch)
{
    struct ap_read r;
    struct ap_body body;
    struct ap_buf out = {0};
    struct ap_err err;
    if (ap_read_begin(&r, req, true))
        return;
    if (ap_read_body(&r, &body) == 0) {
        ap_read_answer_begin(&out);
        int rc = batch ? answer_batch(&r, parse, &body, wrapped, &out, &err) : answer_object(&r, parse, body.root, &body, wrapped, &out, &err);
        if (rc == 0)
            ap_read_answer(req, &out);
        else
            ap_http_reply_err(req, &err);
        ap_body_fini(&body);
    }
    ap_buf_free(&out);
    ap_read_end(&r);
    ap_observe(((struct ap_api *)ap_http_user(req))->query_latency, (double)(ap_mono_ns() - ap_http_start_ns(req)) * 1e-9);
}

void ap_serve_query(struct ap_http_request *req) { serve(req, ap_ask_parse_query, true, false); }
void ap_serve_query_batch(struct ap_http_request *req) { serve(req, ap_ask_parse_query, true, true); }
void ap_serve_search(struct ap_http_request *req) { serve(req, ap_ask_parse_search, false, false); }
void ap_serve_search_batch(struct ap_http_request *req) { serve(req, ap_ask_parse_search, false, true); }
