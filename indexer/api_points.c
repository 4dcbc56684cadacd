/* Points by id, page by page, and their number. */
#include <stdlib.h>
#include <string.h>
#include "indexer/api_impl.h"
#include "indexer/json_out.h"

/* --- retrieve --- */

static int answer_picked(struct ap_read *r, const struct ap_pick *pick, struct ap_buf *out, struct ap_err *err)
{
    struct ap_answer a;
    int rc = ap_answer_begin(&a, r, &pick->select, out, err);
    ap_json_raw(out, "[");
    for (size_t i = 0, written = 0; rc == 0 && i < pick->count; i++) {
        uint64_t slot;
        rc = ap_view_point(r->view, &r->c, &pick->ids[i], &slot, err);
        if (rc == AP_ENOTFOUND) {
            rc = 0; /* as Qdrant: what is not there is left out */
            continue;
        }
        if (written++)
            ap_json_raw(out, ",");
        if (rc == 0)
            rc = ap_answer_point(&a, &pick->ids[i], slot, NULL, err);
    }
    ap_json_raw(out, "]");
    ap_answer_end(&a);
    return rc;
}

void ap_serve_retrieve(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_body body;
    struct ap_pick pick = {0};
    struct ap_buf out = {0};
    struct ap_err err;
    if (ap_read_begin(&r, req, true))
        return;
    if (ap_read_body(&r, &body) == 0) {
        ap_read_answer_begin(&out);
        int rc = ap_pick_parse(body.root, &r.api->limits, &pick, &err);
        if (rc == 0) rc = answer_picked(&r, &pick, &out, &err);
        if (rc == 0)
            ap_read_answer(req, &out);
        else
            ap_http_reply_err(req, &err);
        ap_pick_fini(&pick);
        ap_body_fini(&body);
    }
    ap_buf_free(&out);
    ap_read_end(&r);
}

static int answer_one(struct ap_read *r, struct ap_buf *out, struct ap_err *err)
{
    static const struct ap_select all = {.payload = AP_PAYLOAD_ALL, .vector = true};
    const char *text = ap_http_param(r->req, 1);
    struct ap_point_id id;
    struct ap_answer a;
    uint64_t slot;
    int rc = ap_point_id_parse(text, strlen(text), &id, err);
    if (rc)
        return rc;
    rc = ap_view_point(r->view, &r->c, &id, &slot, err);
    if (rc == AP_ENOTFOUND)
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "Not found: Point with id %s does not exists!", text);
    if (rc)
        return rc;
    rc = ap_answer_begin(&a, r, &all, out, err);
    if (rc == 0) rc = ap_answer_point(&a, &id, slot, NULL, err);
    ap_answer_end(&a);
    return rc;
}

void ap_serve_point(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_buf out = {0};
    struct ap_err err;
    if (ap_read_begin(&r, req, true))
        return;
    ap_read_answer_begin(&out);
    if (answer_one(&r, &out, &err) == 0)
        ap_read_answer(req, &out);
    else
        ap_http_reply_err(req, &err);
    ap_buf_free(&out);
    ap_read_end(&r);
}

/* --- scroll --- */

static int answer_page(struct ap_read *r, const struct ap_page *page, struct ap_buf *out, struct ap_err *err)
{
    struct ap_answer a = {0};
    size_t wanted = (size_t)page->limit + 1, count; /* one more: where the next page begins */
    struct ap_found *found = malloc(wanted * sizeof *found);
    if (!found)
        return ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for %zu points", wanted);
    int rc = ap_walk_page(r, page->filter, page->has_offset ? &page->offset : NULL, wanted, found, &count, err);
    if (rc == 0) rc = ap_answer_begin(&a, r, &page->select, out, err);
    ap_json_raw(out, "{\"points\":[");
    for (size_t i = 0; rc == 0 && i < count && i < page->limit; i++) {
        if (i)
            ap_json_raw(out, ",");
        rc = ap_answer_point(&a, &found[i].id, found[i].slot, NULL, err);
    }
    ap_json_raw(out, "],\"next_page_offset\":");
    if (rc == 0 && count > page->limit)
        ap_json_point_id(out, &found[page->limit].id);
    else
        ap_json_raw(out, "null");
    ap_json_raw(out, "}");
    ap_answer_end(&a);
    free(found);
    return rc;
}

void ap_serve_scroll(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_body body;
    struct ap_page page = {0};
    struct ap_buf out = {0};
    struct ap_err err;
    if (ap_read_begin(&r, req, true))
        return;
    if (ap_read_body(&r, &body) == 0) {
        ap_read_answer_begin(&out);
        int rc = ap_page_parse(body.root, &r.api->limits, &page, &err);
        if (rc == 0) rc = answer_page(&r, &page, &out, &err);
        if (rc == 0)
            ap_read_answer(req, &out);
        else
            ap_http_reply_err(req, &err);
        ap_page_fini(&page);
        ap_body_fini(&body);
    }
    ap_buf_free(&out);
    ap_read_end(&r);
}

/* --- count --- */

void ap_serve_count(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_body body;
    struct ap_filter *filter = NULL;
    struct ap_err err;
    uint64_t count = 0;
    if (ap_read_begin(&r, req, true))
        return;
    if (ap_read_body(&r, &body) == 0) {
        int rc = ap_count_parse(body.root, &filter, &err);
        if (rc == 0) rc = ap_walk_count(&r, filter, &count, &err);
        if (rc == 0) {
            struct ap_buf out = {0};
            ap_read_answer_begin(&out);
            ap_json_raw(&out, "{\"count\":");
            ap_json_u64(&out, count);
            ap_json_raw(&out, "}");
            ap_read_answer(req, &out);
        } else {
            ap_http_reply_err(req, &err);
        }
        ap_filter_free(&filter);
        ap_body_fini(&body);
    }
    ap_read_end(&r);
}
