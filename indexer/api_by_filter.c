/* Deletions and payload calls by filter: the points are found here, the producer changes them.
 *
 * Flow: a page of the points that match, in the order of their ids, each with the version it has here; the request's own body
 * with these in front of it, to the producer, which checks the rest of it and publishes; the next page. Memory is bounded by a
 * page, and so is what a view holds on to. The first page goes out even when it is empty: whatever else is wrong with the
 * request is refused before anything is changed.
 *
 * A DELETE is published with the version of the upsert that was seen: it ends that upsert, and nothing that was not seen. The
 * patches upon it do not count, because an upsert from elsewhere may be older than a patch that is already here.
 * Each page has the request's whole timeout, as bulk has. When one fails, the answer says how many points before it are done;
 * the filter finds the rest when it is sent again. */
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "common/watermark.h"
#include "indexer/api_impl.h"
#include "indexer/api_write.h"
#include "indexer/json_out.h"

#define PAGE_POINTS 4096
#define PAGE_BYTES (16u << 20) /* of events, where each carries the request's payload */

struct run {
    struct ap_http_request *req;
    struct ap_read read;
    struct ap_filter *filter;
    const char *body; size_t body_len;  /* behind its opening brace */
    bool deletes;
    struct ap_write_wait wait;
    int64_t timeout_ns;
    size_t page;
    struct ap_found *found;             /* page + 1 */
    struct ap_buf text;                 /* the producer's request */
    uint64_t done;                      /* points of pages that the producer acknowledged */
    bool late, spooled;                 /* one of them was not shown in time; is on the producer's disk only */
    struct ap_token token;              /* of the last page's stream */
    struct ap_buf tokens;               /* of streams before it, each with a comma behind it */
    struct ap_forward_reply reply;      /* the last one */
};

/* --- one page --- */

static int print_seen(struct run *run, const struct ap_found *found, struct ap_err *err)
{
    struct ap_row row;
    char text[AP_VERSION_TEXT];
    int rc = ap_view_row(run->read.view, found->slot, &row, err);
    if (rc)
        return rc;
    struct ap_version newest = ap_row_newest(&row);
    ap_version_print(run->deletes ? &row.version : &newest, text);
    ap_buf_printf(&run->text, "\"%s\"", text);
    return 0;
}

/* {"points":[...],"seen":[...], and the request's own members. */
static int print_page(struct run *run, size_t count, struct ap_err *err)
{
    int rc = 0;
    ap_buf_clear(&run->text);
    ap_json_raw(&run->text, "{\"points\":[");
    for (size_t i = 0; i < count; i++) {
        if (i)
            ap_json_raw(&run->text, ",");
        ap_json_point_id(&run->text, &run->found[i].id);
    }
    ap_json_raw(&run->text, "],\"seen\":[");
    for (size_t i = 0; i < count && rc == 0; i++) {
        if (i)
            ap_json_raw(&run->text, ",");
        rc = print_seen(run, &run->found[i], err);
    }
    ap_json_raw(&run->text, "],");
    ap_buf_append(&run->text, run->body, run->body_len);
    return rc;
}

/* The view lasts no longer than this. *count: of the page; *more: where the next one begins. */
static int find_page(struct run *run, const struct ap_point_id *from, size_t *count, bool *more, struct ap_err *err)
{
    struct ap_read *r = &run->read;
    int rc = ap_view_begin(r->index, &r->view, err);
    if (rc)
        return rc;
    rc = ap_read_find_collection(r, err);
    if (rc == 0)
        rc = ap_walk_page(r, run->filter, from, run->page + 1, run->found, count, err);
    if (rc == 0) {
        *more = *count > run->page;
        *count -= *more;
        rc = print_page(run, *count, err);
    }
    ap_view_end(&r->view);
    return rc;
}

static int send_page(struct run *run, struct ap_err *err)
{
    struct ap_api *api = run->read.api;
    struct ap_forward_request request;
    ap_forward_reply_fini(&run->reply);
    ap_forward_request_of(api->forward, run->req, &request);
    request.body = run->text.data;
    request.len = run->text.len;
    return ap_write_forward(run->req, &request, &run->wait, ap_mono_ns() + run->timeout_ns, &run->reply, err);
}

/* --- what the pages were given --- */

static void add_entry(struct ap_token *to, const struct ap_token_entry *e)
{
    for (size_t i = 0; i < to->count; i++)
        if (to->entries[i].partition == e->partition && !strcmp(to->entries[i].topic, e->topic)) {
            to->entries[i].seq = e->seq > to->entries[i].seq ? e->seq : to->entries[i].seq;
            return;
        }
    to->entries = reallocarray(to->entries, to->count + 1, sizeof *to->entries);
    if (!to->entries)
        abort();
    to->entries[to->count++] = *e;
}

/* One token for all pages, as long as one incarnation of the producer took them. */
static int add_token(struct run *run, const char *text, struct ap_err *err)
{
    struct ap_token token;
    int rc = ap_token_parse(text, strlen(text), &token, err);
    if (rc)
        return ap_err_wrap(err, "the producer's answer");
    if (run->token.count && run->token.stream != token.stream) {
        ap_token_format(&run->token, &run->tokens);
        ap_buf_append(&run->tokens, ",", 1);
        ap_token_fini(&run->token);
    }
    if (!run->token.count)
        run->token = (struct ap_token){.region = token.region, .stream = token.stream, .lineage = token.lineage};
    for (size_t i = 0; i < token.count; i++)
        add_entry(&run->token, &token.entries[i]);
    run->token.hlc = token.hlc > run->token.hlc ? token.hlc : run->token.hlc;
    ap_token_fini(&token);
    return 0;
}

/* 202: on the producer's disk, while Kafka is away. */
static bool was_taken(const struct run *run)
{
    return run->reply.status == 200 || run->reply.status == 202;
}

/* A page that the producer took. */
static int account(struct run *run, size_t count, struct ap_err *err)
{
    const char *token = ap_write_reply_header(&run->reply, AP_TOKEN_HEADER);
    run->done += count;
    run->late = run->late || ap_write_reply_header(&run->reply, "X-Antipode-Missing") != NULL || (run->reply.status == 202 && run->wait.here);
    run->spooled = run->spooled || run->reply.status == 202;
    int rc = token ? add_token(run, token, err) : 0;
    if (rc == 0 && token && run->wait.here)
        run->late = ap_write_wait_visible(run->read.api, token, ap_mono_ns() + run->timeout_ns, NULL) != 0 || run->late;
    return rc;
}

/* Until no more match. AP_OK with a reply that was_taken, or the first page that failed: *err, or reply as the producer gave it. */
static int run_pages(struct run *run, struct ap_err *err)
{
    bool more = true;
    struct ap_point_id from;
    int rc = 0;
    for (bool first = true; rc == 0 && more;) {
        size_t count = 0;
        rc = find_page(run, first ? NULL : &from, &count, &more, err);
        if (rc == 0 && (first || count))
            rc = send_page(run, err);
        if (rc == 0 && run->reply.status == 413 && count > 1) { /* the producer's limits are its own */
            run->page = count / 2;
            more = true;
            continue;
        }
        if (rc || !was_taken(run))
            break;
        if (more)
            from = run->found[count].id;
        if (first || count)
            rc = account(run, count, err);
        first = false;
    }
    return rc;
}

/* --- the answer --- */

static json_t *give_token(struct run *run)
{
    if (!run->token.count)
        return json_null();
    ap_token_format(&run->token, &run->tokens);
    ap_buf_append(&run->tokens, "", 1);
    ap_http_add_header(run->req, AP_TOKEN_HEADER, (char *)run->tokens.data);
    return json_string((char *)run->tokens.data);
}

/* Some of the pages, or all, are on the producer's disk only. Takes result. */
static void answer_spooled(struct run *run, json_t *result)
{
    json_object_set_new(result, "spooled", json_true());
    json_t *body = json_pack("{s:o,s:s,s:f}", "result", result, "status", "ok", "time", (double)(ap_mono_ns() - ap_http_start_ns(run->req)) * 1e-9);
    char *printed = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (!printed)
        abort();
    ap_http_reply_take(run->req, 202, "application/json", printed, strlen(printed));
    json_decref(body);
}

static void answer(struct run *run)
{
    json_t *root = json_loadb(run->reply.body, run->reply.len, 0, NULL), *result = json_object();
    const char *missing = ap_write_reply_header(&run->reply, "X-Antipode-Missing");
    const char *waited = run->late ? "wait_timeout" : run->wait.here || run->wait.ask ? "completed" : "acknowledged";
    json_object_update(result, json_object_get(root, "result"));
    if (run->wait.unsaid && !run->late && json_is_string(json_object_get(result, "status")))
        waited = json_string_value(json_object_get(json_object_get(root, "result"), "status")); /* by its write_level, of every page */
    json_object_set_new(result, "status", json_string(waited));
    json_object_set_new(result, "token", give_token(run));
    json_object_set_new(result, "points", json_integer((json_int_t)run->done));
    if (missing)
        ap_http_add_header(run->req, "X-Antipode-Missing", missing);
    json_decref(root);
    if (run->spooled)
        answer_spooled(run, result);
    else
        ap_http_reply_result(run->req, result);
}

static const char *reason(const struct run *run, json_t *root, const struct ap_err *err)
{
    const char *given = json_string_value(json_object_get(json_object_get(root, "status"), "error"));
    return err ? err->msg : given ? given : run->reply.body;
}

/* Something was changed before it: say so, and how much. err NULL: the producer's answer says what is wrong. */
static void answer_cut_short(struct run *run, const struct ap_err *err)
{
    json_t *root = err ? NULL : json_loadb(run->reply.body, run->reply.len, 0, NULL);
    int status = err ? ap_http_status_of(err->code) : run->reply.status;
    struct ap_buf text = {0};
    ap_buf_printf(&text, "%s; %llu points before it are %s and acknowledged, send the request again for the rest", reason(run, root, err),
                  (unsigned long long)run->done, run->deletes ? "deleted" : "changed");
    json_t *said = json_stringn((char *)text.data, text.len); /* NULL: it quotes what is no text */
    json_t *body = json_pack("{s:{s:o},s:{s:I,s:o},s:f}", "status", "error", said ? said : json_string("the request was cut short"), "result", "points",
                             (json_int_t)run->done, "token", give_token(run), "time", (double)(ap_mono_ns() - ap_http_start_ns(run->req)) * 1e-9);
    char *printed = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (!printed)
        abort();
    if (status == 503)
        ap_http_add_header(run->req, "Retry-After", "1");
    ap_http_reply_take(run->req, status, "application/json", printed, strlen(printed));
    json_decref(body);
    json_decref(root);
    ap_buf_free(&text);
}

/* --- a request --- */

static void run_fini(struct run *run)
{
    ap_filter_free(&run->filter);
    ap_forward_reply_fini(&run->reply);
    ap_token_fini(&run->token);
    ap_buf_free(&run->tokens);
    ap_buf_free(&run->text);
    free(run->found);
}

/* body is an object with a filter. */
static int run_init(struct run *run, struct ap_http_request *req, json_t *body, bool deletes, struct ap_err *err)
{
    int64_t deadline;
    size_t len;
    const char *text = ap_http_body(req, &len), *brace = memchr(text, '{', len);
    *run = (struct run){.req = req, .read = {.api = ap_http_user(req), .req = req}, .body = brace + 1, .body_len = len - (size_t)(brace + 1 - text),
                        .deletes = deletes};
    if (json_is_array(json_object_get(body, "points")))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "\"points\" and \"filter\" are both there: one of them says which points");
    int rc = ap_write_wait_read(req, &run->wait, err);
    if (rc == 0) rc = ap_api_deadline(run->read.api, req, &deadline, err);
    if (rc == 0) rc = ap_filter_parse(json_object_get(body, "filter"), &run->filter, err);
    if (rc == 0) rc = ap_read_for_write(&run->read, deadline, err);
    if (rc)
        return rc;
    run->timeout_ns = deadline - ap_http_start_ns(req);
    run->page = PAGE_BYTES / (len + 256);
    run->page = run->page < 1 ? 1 : run->page > PAGE_POINTS ? PAGE_POINTS : run->page;
    run->found = malloc((run->page + 1) * sizeof *run->found);
    return run->found ? 0 : ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory for %zu points", run->page);
}

static void serve_filtered(struct ap_http_request *req, json_t *body, bool deletes)
{
    struct run run;
    struct ap_err err = {0};
    int rc = run_init(&run, req, body, deletes, &err);
    if (rc == 0)
        rc = run_pages(&run, &err);
    if (rc == 0 && was_taken(&run))
        answer(&run);
    else if (run.done)
        answer_cut_short(&run, rc ? &err : NULL);
    else if (rc)
        ap_http_reply_err(req, &err);
    else
        ap_forward_relay(req, &run.reply);
    run_fini(&run);
}

/* Bodies with ids go on as they are; most do not even contain the word. */
static void serve(struct ap_http_request *req, bool deletes)
{
    size_t len;
    const char *text = ap_http_body(req, &len);
    json_t *body = memmem(text, len, "\"filter\"", 8) ? json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL) : NULL;
    json_t *filter = json_object_get(body, "filter");
    /* What is no JSON, the producer refuses with the place of the mistake; what is resolved already is its own business. */
    if (filter && !json_is_null(filter) && !json_object_get(body, "seen"))
        serve_filtered(req, body, deletes);
    else
        ap_serve_write(req);
    json_decref(body);
}

void ap_serve_delete(struct ap_http_request *req) { serve(req, true); }
void ap_serve_payload(struct ap_http_request *req) { serve(req, false); }
