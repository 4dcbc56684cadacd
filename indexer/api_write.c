/* Writes: passed on to the region's producer, which checks and publishes them. What is added here is `wait`: the producer
 * is asked not to wait, answers with a token, and this process, which knows best, waits until its index covers it. What other
 * regions show the producer knows: it waits for a quorum or all of them itself.
 *
 * Creating and dropping a collection is waited for always: a client that creates and then reads must find it. */
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "common/watermark.h"
#include "indexer/api_write.h"

/* The producer has deadlines of its own and answers honestly when they pass; this is for one that hangs. */
#define FORWARD_GRACE_MS 15000

int ap_write_wait_read(const struct ap_http_request *req, struct ap_write_wait *wait, struct ap_err *err)
{
    const char *level = ap_http_query(req, "level");
    return ap_write_wait_parse(level ? level : ap_http_header(req, AP_LEVEL_HEADER), ap_http_query(req, "wait"), wait, err);
}

static int64_t forward_timeout_ms(int64_t deadline_ns)
{
    int64_t left = (deadline_ns - ap_mono_ns()) / 1000000;
    return (left > 0 ? left : 0) + FORWARD_GRACE_MS;
}

const char *ap_write_reply_header(const struct ap_forward_reply *reply, const char *name)
{
    for (size_t i = 0; i < reply->header_count; i++)
        if (!strcmp(reply->headers[i].name, name))
            return reply->headers[i].value;
    return NULL;
}

/* --- waiting for the token of a write --- */

int ap_write_wait_visible(struct ap_api *api, const char *text, int64_t deadline_ns, struct ap_err *err)
{
    struct ap_token token;
    struct ap_index *index = api->index;
    if (!index)
        return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "no index yet");
    int rc = ap_token_parse(text, strlen(text), &token, err);
    if (rc)
        return rc;
    int64_t start = ap_mono_ns();
    rc = ap_index_wait(index, &token, deadline_ns, err);
    ap_observe(api->write_wait_time, (double)(ap_mono_ns() - start) * 1e-9);
    if (rc == 0 || rc == AP_ETIMEOUT)
        ap_count(api->write_waits[rc != 0], 1);
    ap_token_fini(&token);
    return rc;
}

static bool set_status_of(json_t *result, const char *status)
{
    return json_object_get(result, "status") && json_object_set_new(result, "status", json_string(status)) == 0;
}

/* Sets result.status of a JSON answer, or that of each of a list; an answer of another shape stays as it is. */
static void set_status(struct ap_forward_reply *reply, const char *status)
{
    json_t *root = json_loadb(reply->body, reply->len, 0, NULL), *result = json_object_get(root, "result"), *one;
    bool set = set_status_of(result, status);
    size_t i;
    json_array_foreach(result, i, one)
        set = set_status_of(one, status) || set;
    if (set) {
        char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(9));
        if (text) {
            free(reply->body);
            reply->body = text;
            reply->len = strlen(text);
        }
    }
    json_decref(root);
}

static void answer_write(struct ap_http_request *req, struct ap_forward_reply *reply, bool wait, int64_t deadline_ns)
{
    const char *token = ap_write_reply_header(reply, AP_TOKEN_HEADER);
    if (wait && reply->status >= 200 && reply->status < 300) {
        struct ap_err err;
        /* No token: nothing was written; but 202: it is on the producer's disk while Kafka is away. */
        int rc = reply->status == 202 ? AP_ETIMEOUT : token ? ap_write_wait_visible(ap_http_user(req), token, deadline_ns, &err) : 0;
        /* Also when waiting was no use (shutting down): the write is durable, its visibility is not known. */
        set_status(reply, rc ? "wait_timeout" : "completed");
    }
    ap_forward_relay(req, reply);
}

/* --- buffered writes --- */

int ap_write_forward(struct ap_http_request *req, struct ap_forward_request *request, const struct ap_write_wait *wait, int64_t deadline_ns,
                     struct ap_forward_reply *reply, struct ap_err *err)
{
    struct ap_api *api = ap_http_user(req);
    char *query = ap_write_wait_query(ap_http_query_string(req), wait);
    request->query = query;
    request->timeout_ms = forward_timeout_ms(deadline_ns);
    int rc = ap_forward_send(api->forward, request, reply, err);
    free(query);
    return rc;
}

static int forward(struct ap_http_request *req, const struct ap_write_wait *wait, int64_t deadline_ns, struct ap_forward_reply *reply, struct ap_err *err)
{
    struct ap_api *api = ap_http_user(req);
    struct ap_forward_request request;
    ap_forward_request_of(api->forward, req, &request);
    return ap_write_forward(req, &request, wait, deadline_ns, reply, err);
}

void ap_serve_write(struct ap_http_request *req)
{
    struct ap_forward_reply reply;
    struct ap_err err;
    int64_t deadline;
    struct ap_write_wait wait;
    if (ap_write_wait_read(req, &wait, &err) || ap_api_deadline(ap_http_user(req), req, &deadline, &err) ||
        forward(req, &wait, deadline, &reply, &err)) {
        ap_http_reply_err(req, &err);
        return;
    }
    answer_write(req, &reply, wait.here, deadline);
}

/* --- collections --- */

/* Id of the live collection of that name that reads see; 0 when there is none. */
static uint64_t live_id(struct ap_index *index, const char *name)
{
    struct ap_view *view;
    struct ap_collection_view c;
    if (!index || ap_view_begin(index, &view, NULL))
        return 0;
    int rc = ap_view_collection(view, name, &c, NULL);
    uint64_t id = rc == 0 ? c.collection->id : 0;
    ap_view_end(&view);
    return id;
}

/* Until reads see another collection of that name (created) or not this one any more (dropped) than `before` the write:
 * one that was dropped and is created again is another. */
static int wait_catalog(struct ap_api *api, const char *name, uint64_t before, bool created, int64_t deadline_ns, struct ap_err *err)
{
    struct ap_index *index = api->index;
    while (index) {
        uint64_t seen = ap_tail_refreshes(api->tail), id = live_id(index, name);
        if (created ? id && id != before : !id || id != before)
            return 0;
        if (!ap_tail_wait(api->tail, seen, deadline_ns))
            break;
    }
    return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "collection `%.255s` is %s, but reads in this region do not show it yet", name,
                      created ? "created" : "deleted");
}

/* --- declared fields --- */

/* What a request declares: the field's id once it is there, or its path once it is gone. */
struct declaration { struct ap_control_index record; struct ap_field field; bool removal; };

/* False: it cannot be understood, and the producer will say why. */
static bool read_declaration(struct ap_http_request *req, bool removal, struct declaration *d)
{
    json_t *keyword = json_string("keyword"), *body = removal ? NULL : ap_http_json(req, NULL);
    const char *path = removal ? ap_http_param(req, 1) : json_string_value(json_object_get(body, "field_name"));
    const json_t *schema = removal ? keyword : json_object_get(body, "field_schema");
    *d = (struct declaration){.removal = removal};
    bool good = path && schema && ap_field_parse(path, schema, &d->record, NULL) == 0 && ap_field_init(&d->field, &d->record, NULL) == 0;
    json_decref(body);
    json_decref(keyword);
    return good;
}

/* Do reads know it? */
static bool declared(struct ap_index *index, const char *name, const struct declaration *d)
{
    struct ap_view *view;
    struct ap_collection_view c;
    bool found = false;
    if (ap_view_begin(index, &view, NULL))
        return false;
    if (ap_view_collection(view, name, &c, NULL) == 0)
        for (size_t i = 0; i < c.fields->count; i++)
            found = found || (d->removal ? strcmp(c.fields->items[i].path.text, d->field.path.text) == 0 : c.fields->items[i].id == d->field.id);
    ap_view_end(&view);
    return found != d->removal;
}

/* With `wait` the answer comes when reads know the declaration; their indexes are built after that, while they scan. */
static void serve_index(struct ap_http_request *req, bool removal)
{
    struct ap_api *api = ap_http_user(req);
    struct ap_forward_reply reply;
    struct ap_err err;
    int64_t deadline;
    struct ap_write_wait wait;
    struct declaration d;
    if (ap_write_wait_read(req, &wait, &err) || ap_api_deadline(api, req, &deadline, &err) || forward(req, &wait, deadline, &reply, &err)) {
        ap_http_reply_err(req, &err);
        return;
    }
    bool understood = read_declaration(req, removal, &d);
    bool seen = !(api->index && understood && wait.here && reply.status == 200);
    while (!seen) {
        uint64_t refreshes = ap_tail_refreshes(api->tail);
        seen = declared(api->index, ap_http_param(req, 0), &d);
        if (!seen && !ap_tail_wait(api->tail, refreshes, deadline)) {
            set_status(&reply, "wait_timeout");
            break;
        }
    }
    free(d.record.field);
    free(d.record.options);
    ap_field_fini(&d.field);
    ap_forward_relay(req, &reply);
}

void ap_serve_index(struct ap_http_request *req) { serve_index(req, false); }
void ap_serve_index_removal(struct ap_http_request *req) { serve_index(req, true); }

static void serve_definition(struct ap_http_request *req, bool create)
{
    struct ap_api *api = ap_http_user(req);
    const char *name = ap_http_param(req, 0);
    struct ap_forward_reply reply;
    struct ap_err err;
    int64_t deadline;
    uint64_t before = live_id(api->index, name);
    struct ap_write_wait wait;
    if (ap_write_wait_read(req, &wait, &err) || ap_api_deadline(api, req, &deadline, &err) || forward(req, &wait, deadline, &reply, &err)) {
        ap_http_reply_err(req, &err);
        return;
    }
    if (reply.status == 200 && wait_catalog(api, name, before, create, deadline, &err)) {
        ap_forward_reply_fini(&reply);
        ap_http_reply_err(req, &err);
        return;
    }
    ap_forward_relay(req, &reply);
}

void ap_serve_create(struct ap_http_request *req) { serve_definition(req, true); }
void ap_serve_drop(struct ap_http_request *req) { serve_definition(req, false); }

/* --- bulk: the body goes through in pieces --- */

struct bulk {
    struct ap_forward_stream *stream;
    char *query;
    int64_t deadline_ns;
    struct ap_write_wait wait;
};

static void *bulk_begin(struct ap_http_request *req)
{
    struct ap_api *api = ap_http_user(req);
    struct ap_forward_request request;
    struct ap_err err;
    struct bulk *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    int rc = ap_write_wait_read(req, &b->wait, &err);
    if (rc == 0) rc = ap_api_deadline(api, req, &b->deadline_ns, &err);
    if (rc == 0) {
        b->query = ap_write_wait_query(ap_http_query_string(req), &b->wait);
        ap_forward_request_of(api->forward, req, &request);
        request.query = b->query;
        request.timeout_ms = forward_timeout_ms(b->deadline_ns);
        rc = ap_forward_stream_begin(api->forward, &request, &b->stream, &err);
    }
    if (rc)
        ap_http_reply_err(req, &err);
    return b;
}

static void bulk_finish(struct ap_http_request *req, struct bulk *b)
{
    struct ap_forward_reply reply;
    struct ap_err err;
    if (ap_forward_stream_end(b->stream, &reply, &err)) {
        ap_http_reply_err(req, &err);
        return;
    }
    /* A body may take long to arrive: the wait for visibility begins when the producer has it all. */
    int64_t asked = b->deadline_ns - ap_http_start_ns(req);
    answer_write(req, &reply, b->wait.here, ap_mono_ns() + asked);
}

static void bulk_data(struct ap_http_request *req, void *state, const char *bytes, size_t len)
{
    struct bulk *b = state;
    struct ap_err err;
    int rc = ap_forward_stream_push(b->stream, bytes, len, &err);
    if (rc < 0)
        ap_http_reply_err(req, &err);
    else if (rc > 0) /* the producer has said all it will say, an error most likely */
        bulk_finish(req, b);
}

static void bulk_end(struct ap_http_request *req, void *state)
{
    bulk_finish(req, state);
}

static void bulk_destroy(void *state)
{
    struct bulk *b = state;
    ap_forward_stream_free(&b->stream);
    free(b->query);
    free(b);
}

const struct ap_http_stream ap_serve_bulk = {bulk_begin, bulk_data, bulk_end, bulk_destroy};

/* --- reads that we do not serve --- */

void ap_serve_refused(struct ap_http_request *req)
{
    const char *path = strchr(ap_http_path(req) + 1, '/'); /* behind /collections */
    path = path ? strchr(path + 1, '/') : NULL;
    ap_http_reply_error(req, 400, "%.100s is not supported; points/query, points/search, points/scroll, points/count and points are", path ? path + 1 : "this");
}
