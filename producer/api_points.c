/* Upserts, deletions, payload calls and batches of them: parse all, check all, then publish all, then wait.
 *
 * Nothing of a request is published before every point of it has passed; so a 4xx means that nothing happened. */
#include <stdlib.h>
#include "common/timeutil.h"
#include "producer/api.h"
#include "producer/operations.h"
#include "producer/points_json.h"
#include "producer/write.h"

static double since(int64_t start_ns)
{
    return (double)(ap_mono_ns() - start_ns) * 1e-9;
}

/* What every write begins with. On failure the answer is given. */
static struct ap_target *begin(struct ap_http_request *req, struct ap_producer *p, struct ap_write_options *o)
{
    struct ap_err err = {0};
    struct ap_target *t = NULL;
    if (ap_write_options_read(req, p, NULL, o, &err) == 0)
        t = ap_targets_get(&p->targets, ap_http_param(req, 0), &err);
    if (!t)
        ap_write_reply_err(req, p, &err);
    return t;
}

/* Publish, wait, answer: once, or with a list of so many answers (of a batch: all of it was one write). */
#define ONCE SIZE_MAX
static void finish(struct ap_http_request *req, struct ap_producer *p, struct ap_topic *topic, const struct ap_record *records, size_t n,
                   struct ap_write_options *o, size_t answers)
{
    struct ap_err err = {0};
    struct ap_token token = {0};
    if (ap_write_records(p, topic, records, n, o, &token, &err) != 0) {
        ap_write_reply_err(req, p, &err);
    } else {
        if (!o->spooled)
            ap_observe(p->insert_latency, since(ap_http_start_ns(req)));
        enum ap_write_status status = ap_write_show(p, &token, o);
        if (answers == ONCE)
            ap_write_reply(req, p, status, &token, o, NULL);
        else
            ap_write_reply_list(req, p, status, &token, o, answers);
    }
    ap_token_fini(&token);
}

static struct ap_record *records_new(size_t n)
{
    struct ap_record *records = calloc(n + 1, sizeof *records);
    if (!records)
        abort();
    return records;
}

/* The collection's sampler gets its share. */
static void offer(struct ap_producer *p, const struct ap_target *t, const struct ap_points *points)
{
    if (t->sampler && ap_sampler_offer(t->sampler, points->vectors, points->n))
        ap_control_log_wake(&p->control); /* the trainer waits there */
}

/* --- upsert --- */

static int prepare(struct ap_http_request *req, struct ap_producer *p, const struct ap_target *t, struct ap_points *points, struct ap_err *err)
{
    size_t len;
    const char *body = ap_http_body(req, &len);
    int64_t start = ap_mono_ns();
    struct ap_point_errors errors = {0};
    int rc = ap_points_parse(body, len, t, (size_t)p->config->max_points, points, err);
    if (rc == 0)
        rc = ap_points_prepare(points, t, &errors, err);
    if (rc == 0)
        offer(p, t, points);
    ap_observe(p->prepare_latency, since(start));
    return rc;
}

void ap_producer_upsert(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_points points;
    struct ap_err err = {0};
    struct ap_target *t = begin(req, p, &o);
    if (!t)
        return;
    ap_points_init(&points, t->dim);
    if (prepare(req, p, t, &points, &err) != 0) {
        ap_write_reply_err(req, p, &err);
    } else {
        struct ap_record *records = records_new(points.n);
        ap_points_records(&points, t, records);
        finish(req, p, t->topic, records, points.n, &o, ONCE);
        free(records);
    }
    ap_points_fini(&points);
    ap_target_unref(&t);
}

/* --- changes without a vector --- */

static int parse_change(struct ap_http_request *req, struct ap_producer *p, enum ap_change_kind kind, struct ap_change *out, struct ap_err *err)
{
    size_t len;
    const char *body = ap_http_body(req, &len), *indexer = p->config->indexer_url;
    int rc = ap_change_parse(kind, body, len, (size_t)p->config->max_points, out, err);
    if (rc == 0 && out->filtered)
        rc = ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "\"filter\": this is the producer, which does not know what the points hold: send the request to this region's indexer%s%s",
                        *indexer ? ", " : "", indexer);
    if (rc == 0 && out->seen_hlc) /* what it was decided on is older than what is decided */
        rc = ap_drift_merge(&p->drift, out->seen_hlc, err);
    return rc;
}

static void serve_change(struct ap_http_request *req, enum ap_change_kind kind)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_change change = {0};
    struct ap_err err = {0};
    struct ap_target *t = begin(req, p, &o);
    if (!t)
        return;
    if (parse_change(req, p, kind, &change, &err) != 0) {
        ap_write_reply_err(req, p, &err);
    } else {
        size_t n;
        struct ap_record *records = records_new(change.n);
        ap_change_records(&change, t->collection, records, &n);
        finish(req, p, t->topic, records, n, &o, ONCE);
        free(records);
    }
    ap_change_fini(&change);
    ap_target_unref(&t);
}

void ap_producer_delete_points(struct ap_http_request *req) { serve_change(req, AP_CHANGE_DELETE); }
void ap_producer_set_payload(struct ap_http_request *req) { serve_change(req, AP_CHANGE_SET_PAYLOAD); }
void ap_producer_overwrite_payload(struct ap_http_request *req) { serve_change(req, AP_CHANGE_OVERWRITE_PAYLOAD); }
void ap_producer_delete_payload(struct ap_http_request *req) { serve_change(req, AP_CHANGE_DELETE_PAYLOAD); }
void ap_producer_clear_payload(struct ap_http_request *req) { serve_change(req, AP_CHANGE_CLEAR_PAYLOAD); }

/* --- several operations --- */

static int prepare_batch(struct ap_http_request *req, struct ap_producer *p, const struct ap_target *t, struct ap_operations *batch, struct ap_err *err)
{
    size_t len;
    const char *body = ap_http_body(req, &len);
    int64_t start = ap_mono_ns();
    int rc = ap_operations_parse(body, len, t, (size_t)p->config->max_points, batch, err);
    if (rc == 0)
        rc = ap_operations_prepare(batch, t, err);
    for (size_t i = 0; rc == 0 && i < batch->count; i++) {
        offer(p, t, &batch->list[i].points);
        rc = ap_drift_merge(&p->drift, batch->list[i].change.seen_hlc, err);
    }
    ap_observe(p->prepare_latency, since(start));
    return rc;
}

void ap_producer_batch(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_operations batch = {0};
    struct ap_err err = {0};
    struct ap_target *t = begin(req, p, &o);
    if (!t)
        return;
    if (prepare_batch(req, p, t, &batch, &err) != 0) {
        ap_write_reply_err(req, p, &err);
    } else {
        size_t n;
        struct ap_record *records = records_new(batch.points);
        ap_operations_records(&batch, t, records, &n);
        finish(req, p, t->topic, records, n, &o, batch.count);
        free(records);
    }
    ap_operations_fini(&batch);
    ap_target_unref(&t);
}
