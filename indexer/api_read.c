/* What every read does: is there an index, is the consistency one we have, is the client's own write visible yet. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "indexer/api_impl.h"
#include "indexer/json_out.h"

static int not_ready(struct ap_api *api, struct ap_err *err)
{
    pthread_mutex_lock(&api->lock);
    int rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "not ready: %s", api->state);
    pthread_mutex_unlock(&api->lock);
    return rc;
}

/* Qdrant's read consistency counts replicas that are asked. Each region here answers alone: 1 is what that means. */
static int check_consistency(const struct ap_http_request *req, struct ap_err *err)
{
    const char *given = ap_http_query(req, "consistency");
    if (!given || !strcmp(given, "1"))
        return 0;
    return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "consistency=%.40s is not supported: a region answers reads alone, which is consistency=1; "
                      "to read what you wrote, send the write's " AP_TOKEN_HEADER " header back; to read what anybody wrote, ask for level=strong", given);
}

int ap_api_deadline(struct ap_api *api, const struct ap_http_request *req, int64_t *deadline_ns, struct ap_err *err)
{
    int64_t ms = api->config->wait_timeout_ms;
    const char *given = ap_http_query(req, "timeout");
    if (given) {
        char *end;
        errno = 0;
        long long seconds = strtoll(given, &end, 10);
        if (errno || end == given || *end || seconds < 1 || seconds > 86400)
            return ap_err_set(err, AP_EINVAL, AP_POISON, "timeout=%.40s is not a number of seconds from 1 to 86400", given);
        ms = seconds * 1000;
    }
    *deadline_ns = ap_http_start_ns(req) + ms * 1000000;
    return 0;
}

int ap_read_find_collection(struct ap_read *r, struct ap_err *err)
{
    const char *name = ap_http_param(r->req, 0);
    int rc = ap_view_collection(r->view, name, &r->c, err);
    if (rc == AP_ENOTFOUND)
        ap_err_set(err, AP_ENOTFOUND, AP_POISON, "Not found: Collection `%.255s` doesn't exist!", name);
    return rc;
}

int ap_read_begin(struct ap_read *r, struct ap_http_request *req, bool named)
{
    struct ap_err err = {0};
    *r = (struct ap_read){.api = ap_http_user(req), .req = req};
    r->index = r->api->index;
    /* Before it has caught up with what the store held, an index knows less than it has shown before: no answer is better. */
    int rc = r->index && ap_index_caught_up(r->index) ? check_consistency(req, &err) : not_ready(r->api, &err);
    if (rc == 0) rc = ap_read_wait(r, &err);
    if (rc == 0) rc = ap_view_begin(r->index, &r->view, &err);
    if (rc == 0) ap_read_say_seen(r); /* after the view has begun: it shows no more than this */
    if (rc == 0 && named) rc = ap_read_find_collection(r, &err);
    if (rc) {
        ap_read_end(r);
        ap_http_reply_err(req, &err);
    }
    return rc;
}

int ap_read_for_write(struct ap_read *r, int64_t deadline_ns, struct ap_err *err)
{
    r->index = r->api->index;
    if (!r->index || !ap_index_caught_up(r->index))
        return not_ready(r->api, err);
    return ap_read_wait_tokens(r, deadline_ns, err);
}

void ap_read_end(struct ap_read *r)
{
    if (r->view)
        ap_view_end(&r->view);
}

int ap_read_body(struct ap_read *r, struct ap_body *out)
{
    struct ap_err err;
    size_t len;
    const char *text = ap_http_body(r->req, &len);
    int rc = ap_body_parse(text, len, &r->api->limits, out, &err);
    if (rc)
        ap_http_reply_err(r->req, &err);
    return rc;
}

void ap_read_answer_begin(struct ap_buf *out)
{
    ap_buf_reserve(out, 4096);
    ap_json_raw(out, "{\"result\":");
}

void ap_read_answer(struct ap_http_request *req, struct ap_buf *out)
{
    ap_buf_printf(out, ",\"status\":\"ok\",\"time\":%.9f}", (double)(ap_mono_ns() - ap_http_start_ns(req)) * 1e-9);
    ap_http_reply_take(req, 200, "application/json", (char *)out->data, out->len);
    *out = (struct ap_buf){0};
}
