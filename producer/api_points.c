/* PUT .../points and POST .../points/delete: parse all, check all, then publish all, then wait.
 *
 * Nothing of a request is published before every point of it has passed; so a 4xx means that nothing happened. */
#include <stdlib.h>
#include "common/timeutil.h"
#include "producer/api.h"
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

/* Publish, wait, answer. */
static void finish(struct ap_http_request *req, struct ap_producer *p, struct ap_topic *topic, const struct ap_record *records, size_t n,
                   const struct ap_write_options *o)
{
    struct ap_err err = {0};
    struct ap_token token = {0};
    if (ap_write_records(p, topic, records, n, o, &token, &err) != 0) {
        ap_write_reply_err(req, p, &err);
    } else {
        ap_observe(p->insert_latency, since(ap_http_start_ns(req)));
        ap_write_reply(req, p, ap_write_show(p, &token, o), &token, o, NULL);
    }
    ap_token_fini(&token);
}

/* Parse and prepare; the collection's sampler gets its share. */
static int prepare(struct ap_http_request *req, struct ap_producer *p, const struct ap_target *t, struct ap_points *points, struct ap_err *err)
{
    size_t len;
    const char *body = ap_http_body(req, &len);
    int64_t start = ap_mono_ns();
    struct ap_point_errors errors = {0};
    int rc = ap_points_parse(body, len, t, (size_t)p->config->max_points, points, err);
    if (rc == 0)
        rc = ap_points_prepare(points, t, &errors, err);
    if (rc == 0 && t->sampler && ap_sampler_offer(t->sampler, points->vectors, points->n))
        ap_control_log_wake(&p->control); /* the trainer waits there */
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
        struct ap_record *records = calloc(points.n + 1, sizeof *records);
        if (!records)
            abort();
        ap_points_records(&points, t, records);
        finish(req, p, t->topic, records, points.n, &o);
        free(records);
    }
    ap_points_fini(&points);
    ap_target_unref(&t);
}

void ap_producer_delete_points(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_err err = {0};
    struct ap_point_id *ids;
    size_t n, len;
    struct ap_target *t = begin(req, p, &o);
    if (!t)
        return;
    const char *body = ap_http_body(req, &len);
    if (ap_points_parse_delete(body, len, (size_t)p->config->max_points, &ids, &n, &err) != 0) {
        ap_write_reply_err(req, p, &err);
    } else {
        struct ap_record *records = calloc(n + 1, sizeof *records);
        if (!records)
            abort();
        for (size_t i = 0; i < n; i++) {
            records[i].op = AP_OP_DELETE;
            ap_key_make(t->collection, &ids[i], &records[i].key);
        }
        finish(req, p, t->topic, records, n, &o);
        free(records);
        free(ids);
    }
    ap_target_unref(&t);
}
