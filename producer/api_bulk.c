/* POST .../points/bulk: the streaming route around bulk.h. The answer of a stream that failed says how far it got. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "producer/api.h"
#include "producer/bulk.h"
#include "producer/write.h"

struct upload {
    struct ap_bulk *bulk;
    struct ap_write_options o;
};

static int read_first_id(const char *text, struct ap_bulk_options *o, struct ap_err *err)
{
    struct ap_point_id id;
    if (!text)
        return 0;
    size_t len = strlen(text);
    if (len > 20 || strspn(text, "0123456789") != len || ap_point_id_parse(text, len, &id, err) != 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "first_id: \"%.32s\" is not an unsigned 64-bit integer", text);
    o->has_first_id = true;
    o->first_id = ap_be64(id.b + 8);
    return 0;
}

/* An upload has no deadline as a whole: timeout bounds each wait for Kafka, and the wait for the region at the end. */
static void *begin(struct ap_http_request *req)
{
    static const char *const also[] = {"first_id", NULL};
    struct ap_producer *p = ap_http_user(req);
    struct upload *u = calloc(1, sizeof *u);
    struct ap_err err = {0};
    if (!u)
        abort();
    struct ap_bulk_options o = {.collection = ap_http_param(req, 0)};
    int rc = ap_write_options_read(req, p, also, &u->o, &err);
    o.timeout_ms = (u->o.deadline_ns - ap_http_start_ns(req)) / 1000000;
    if (rc == 0)
        rc = read_first_id(ap_http_query(req, "first_id"), &o, &err);
    if (rc == 0)
        rc = ap_bulk_new(&u->bulk, p, &o, &err);
    if (rc)
        ap_write_reply_err(req, p, &err);
    return u;
}

static json_t *print_errors(const struct ap_bulk_result *r)
{
    json_t *list = json_array();
    size_t kept = r->errors.count < AP_POINT_ERRORS ? r->errors.count : AP_POINT_ERRORS;
    for (size_t i = 0; i < kept; i++) {
        json_t *e = json_object();
        json_object_set_new(e, r->lines ? "line" : "row", json_integer((json_int_t)r->errors.first[i].index));
        json_object_set_new(e, "error", json_string(r->errors.first[i].text));
        json_array_append_new(list, e);
    }
    return list;
}

static json_t *print_counts(const struct ap_bulk_result *r)
{
    json_t *counts = json_object();
    json_object_set_new(counts, "points", json_integer((json_int_t)r->acknowledged));
    json_object_set_new(counts, "rows", json_integer((json_int_t)r->rows));
    json_object_set_new(counts, "error_count", json_integer((json_int_t)r->errors.count));
    json_object_set_new(counts, "errors", print_errors(r));
    return counts;
}

/* {"status":{"error"},"result":{counts},"time"}: an error like any other, with how far it got beside it. */
static void reply_failed(struct ap_http_request *req, struct ap_producer *p, const struct ap_bulk_result *r, const struct ap_err *err)
{
    int status = ap_http_status_of(err->code == AP_ETIMEOUT ? AP_ENOTREADY : err->code);
    char message[700];
    snprintf(message, sizeof message, "%s; %" PRIu64 " points before it are acknowledged", err->msg, r->acknowledged);
    json_t *answer = json_pack("{s:o, s:{s:s}, s:f}", "result", print_counts(r), "status", "error", message, "time", (double)(ap_mono_ns() - ap_http_start_ns(req)) * 1e-9);
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    json_decref(answer);
    ap_count(err->cls == AP_POISON ? p->bad_requests : err->code == AP_EBUSY ? p->refused_busy : p->timeouts, 1);
    if (status == 503)
        ap_http_add_header(req, "Retry-After", "1");
    if (text)
        ap_http_reply_take(req, status, "application/json", text, strlen(text));
    else
        ap_http_reply_err(req, err);
}

static void finish(struct ap_http_request *req, struct upload *u, bool complete, struct ap_err *err)
{
    struct ap_producer *p = ap_http_user(req);
    int rc = ap_bulk_end(u->bulk, complete, err);
    const struct ap_bulk_result *r = ap_bulk_result(u->bulk);
    if (rc) {
        reply_failed(req, p, r, err);
        return;
    }
    /* Now the time for the region begins. */
    struct ap_write_options o = u->o;
    o.deadline_ns = ap_mono_ns() + (u->o.deadline_ns - ap_http_start_ns(req));
    ap_write_reply(req, p, ap_write_show(p, &r->token, &o), &r->token, &o, print_counts(r));
}

static void data(struct ap_http_request *req, void *state, const char *bytes, size_t len)
{
    struct upload *u = state;
    struct ap_err err = {0};
    if (ap_bulk_feed(u->bulk, bytes, len, &err) != 0)
        finish(req, u, false, &err);
}

static void end(struct ap_http_request *req, void *state)
{
    struct ap_err err = {0};
    finish(req, state, true, &err);
}

static void destroy(void *state)
{
    struct upload *u = state;
    ap_bulk_free(&u->bulk);
    free(u);
}

const struct ap_http_stream ap_producer_bulk = {begin, data, end, destroy};
