/* The waiting is done in the connection's thread: that is the back-pressure. Deadlines that pass are answered honestly: the
 * write may still happen, and repeating it is harmless because ids make it idempotent. */
#include "producer/write.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/retired.h"
#include "common/timeutil.h"

#define TOKEN_HEADER "X-Antipode-Token"
#define LEVEL_HEADER "X-Antipode-Level"
#define MISSING_HEADER "X-Antipode-Missing"
#define TIMEOUT_MAX_S 3600
#define SPOOL_LOOK_MS 50

/* --- what was asked for --- */

static bool listed(const char *const *list, const char *name, size_t len)
{
    for (; list && *list; list++)
        if (strlen(*list) == len && memcmp(*list, name, len) == 0)
            return true;
    return false;
}

static int check_names(const char *query, const char *const *also, struct ap_err *err)
{
    static const char *const ours[] = {"level", "wait", "timeout", "ordering", NULL};
    for (const char *p = query; *p;) {
        size_t pair = strcspn(p, "&"), name = strcspn(p, "=&");
        if (name && !listed(ours, p, name) && !listed(also, p, name))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "unknown query parameter \"%.*s\"", (int)(name < 64 ? name : 64), p);
        p += pair + (p[pair] == '&');
    }
    return 0;
}

static int read_ordering(const char *text, struct ap_err *err)
{
    if (!text || strcmp(text, "weak") == 0)
        return 0;
    if (strcmp(text, "medium") == 0 || strcmp(text, "strong") == 0)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "ordering=%s is not supported: writes of a point are ordered by their version, in all regions alike", text);
    return ap_err_set(err, AP_EINVAL, AP_POISON, "ordering: \"%.32s\" is neither weak, medium nor strong", text);
}

static int read_timeout(const char *text, int64_t fallback_ms, int64_t *ms, struct ap_err *err)
{
    *ms = fallback_ms;
    if (!text)
        return 0;
    char *end;
    long seconds = strtol(text, &end, 10);
    if (end == text || *end || seconds < 1 || seconds > TIMEOUT_MAX_S)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "timeout: \"%.32s\" is not a number of seconds from 1 to %d", text, TIMEOUT_MAX_S);
    *ms = seconds * 1000 - 100; /* the client stops listening at its timeout: the answer has to be there before */
    return 0;
}

static int merge_one(struct ap_producer *p, const char *text, size_t len, struct ap_err *err)
{
    struct ap_token token;
    int rc = ap_token_parse(text, len, &token, err);
    if (rc)
        return rc;
    rc = ap_catalog_check_token(ap_control_log_lock(&p->control), &token, err);
    ap_control_log_unlock(&p->control);
    if (rc == 0)
        rc = ap_drift_merge(&p->drift, token.hlc, err);
    ap_token_fini(&token);
    return rc;
}

/* What the client has seen is older than what it writes now. One token or several, separated by commas. */
static int merge_tokens(struct ap_producer *p, const char *text, struct ap_err *err)
{
    int rc = 0;
    for (const char *at = text; rc == 0 && at && *at;) {
        size_t len = strcspn(at, ", ");
        if (len)
            rc = merge_one(p, at, len, err);
        at += len + (at[len] != 0);
    }
    return rc ? ap_err_wrap(err, TOKEN_HEADER) : 0;
}

static int read_options(const struct ap_http_request *req, struct ap_producer *p, const char *const *also, enum ap_write_level fallback,
                        struct ap_write_options *out, struct ap_err *err)
{
    const char *level = ap_http_query(req, "level");
    int64_t ms;
    *out = (struct ap_write_options){0};
    int rc = ap_write_level_parse(level ? level : ap_http_header(req, LEVEL_HEADER), ap_http_query(req, "wait"), p->config->other_count, fallback, &out->level, err);
    if (rc == 0)
        rc = check_names(ap_http_query_string(req), also, err);
    if (rc == 0)
        rc = read_ordering(ap_http_query(req, "ordering"), err);
    if (rc == 0)
        rc = read_timeout(ap_http_query(req, "timeout"), p->config->request_timeout_ms, &ms, err);
    if (rc)
        return rc;
    out->deadline_ns = ap_http_start_ns(req) + ms * 1000000;
    if ((rc = ap_producer_may_write(p, err)) != 0)
        return rc;
    return merge_tokens(p, ap_http_header(req, TOKEN_HEADER), err);
}

int ap_write_options_read(const struct ap_http_request *req, struct ap_producer *p, const char *const *also, struct ap_write_options *out, struct ap_err *err)
{
    return read_options(req, p, also, (enum ap_write_level)p->config->write_level, out, err);
}

int ap_write_definition_options_read(const struct ap_http_request *req, struct ap_producer *p, struct ap_write_options *out, struct ap_err *err)
{
    int rc = read_options(req, p, NULL, AP_LEVEL_LOCAL, out, err);
    if (rc == 0 && out->level >= AP_LEVEL_QUORUM)
        rc = ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "level=%s is not supported here: only writes of points wait for other regions", ap_write_level_name(out->level));
    return rc;
}

int ap_write_barrier_options_read(const struct ap_http_request *req, struct ap_producer *p, struct ap_write_options *out, struct ap_err *err)
{
    int64_t ms;
    *out = (struct ap_write_options){0};
    int rc = read_timeout(ap_http_query(req, "timeout"), p->config->request_timeout_ms, &ms, err);
    out->deadline_ns = ap_http_start_ns(req) + ms * 1000000;
    return rc;
}

/* --- doing it --- */

static int publish(struct ap_producer *p, struct ap_topic *topic, const struct ap_record *records, size_t n, struct ap_ack *ack,
                   struct ap_token *token, struct ap_err *err)
{
    size_t published;
    int rc = ap_lanes_publish(&p->lanes, topic, records, n, 0, ack, token, &published, err);
    ap_ack_seal(ack);
    if (rc && published)
        ap_err_wrap(err, "%zu of %zu points may be published, sending all again with the same ids is safe", published, n);
    return rc;
}

/* With a spool: what Kafka does not acknowledge goes to disk as soon as Kafka counts as away, with the versions that it was
 * handed over with. librdkafka may still deliver its copy: the same change twice. */
static int publish_or_spool(struct ap_producer *p, struct ap_topic *topic, const struct ap_record *records, size_t n, uint64_t *hlcs,
                            struct ap_ack *ack, struct ap_write_options *o, struct ap_token *token, struct ap_err *err)
{
    int rc = publish(p, topic, records, n, ack, token, err), kept = 0;
    for (int64_t look = 0; rc == 0 && kept == 0 && look < o->deadline_ns;) {
        look = ap_mono_ns() + SPOOL_LOOK_MS * 1000000;
        rc = ap_ack_wait(ack, look < o->deadline_ns ? look : o->deadline_ns, err);
        if (rc == 0)
            return 0;
        if (rc == AP_ETIMEOUT && ap_spool_away_ms(&p->spool))
            kept = ap_spool_write(&p->spool, topic, records, n, hlcs, o->deadline_ns, err);
        if (rc == AP_ETIMEOUT && look < o->deadline_ns)
            rc = 0;
    }
    if (rc == AP_EBUSY && ap_spool_away_ms(&p->spool)) /* the queue filled up meanwhile */
        kept = ap_spool_write(&p->spool, topic, records, n, hlcs, o->deadline_ns, err);
    if (kept < 0)
        ap_err_wrap(err, "Kafka has not acknowledged the write, it may still be published");
    if (kept <= 0)
        return kept ? kept : rc;
    o->spooled = true;
    return 0;
}

static int write_with_spool(struct ap_producer *p, struct ap_topic *topic, const struct ap_record *given, size_t n, struct ap_ack *ack,
                            struct ap_write_options *o, struct ap_token *token, struct ap_err *err)
{
    int rc = ap_lanes_check(&p->lanes, given, n, err);
    if (rc == 0)
        rc = ap_spool_write(&p->spool, topic, given, n, NULL, o->deadline_ns, err);
    if (rc) {
        ap_ack_seal(ack);
        o->spooled = rc > 0;
        return rc > 0 ? 0 : rc;
    }
    struct ap_record *records = calloc(n + 1, sizeof *records);
    uint64_t *hlcs = calloc(n + 1, sizeof *hlcs);
    if (!records || !hlcs)
        abort();
    for (size_t i = 0; i < n; i++) {
        records[i] = given[i];
        records[i].stamped = &hlcs[i];
    }
    rc = publish_or_spool(p, topic, records, n, hlcs, ack, o, token, err);
    free(records);
    free(hlcs);
    return rc;
}

int ap_write_records(struct ap_producer *p, struct ap_topic *topic, const struct ap_record *records, size_t n,
                     struct ap_write_options *o, struct ap_token *token, struct ap_err *err)
{
    struct ap_ack *ack = ap_ack_new(true);
    int rc;
    if (ap_spool_is_on(&p->spool))
        rc = write_with_spool(p, topic, records, n, ack, o, token, err);
    else if ((rc = publish(p, topic, records, n, ack, token, err)) == 0)
        rc = ap_ack_wait(ack, o->deadline_ns, err);
    if (o->spooled)
        ap_token_fini(token); /* what it would stand for is not known before it is published */
    else if (rc == 0)
        ap_observe(p->ack_latency, (double)(ap_mono_ns() - ack->start_ns) * 1e-9);
    ap_ack_unref(&ack);
    return rc;
}

enum ap_write_status ap_write_show(struct ap_producer *p, const struct ap_token *token, const struct ap_write_options *o)
{
    if (o->level == AP_LEVEL_LOCAL)
        return AP_WRITE_ACKNOWLEDGED;
    if (o->spooled) { /* nobody can show it before Kafka is back */
        ap_count(p->waits[o->level][1], 1);
        return AP_WRITE_TIMEOUT;
    }
    int64_t start = ap_mono_ns();
    int rc = token->count ? ap_watch_wait(&p->watch, token, ap_write_level_need(o->level, ap_watch_live(&p->watch)), o->deadline_ns, NULL) : 0;
    ap_observe(p->wait_latency[o->level], (double)(ap_mono_ns() - start) * 1e-9);
    ap_count(p->waits[o->level][rc != 0], 1);
    return rc ? AP_WRITE_TIMEOUT : AP_WRITE_COMPLETED;
}

const char *ap_write_status_name(enum ap_write_status s)
{
    return s == AP_WRITE_ACKNOWLEDGED ? "acknowledged" : s == AP_WRITE_COMPLETED ? "completed" : "wait_timeout";
}

/* --- answering --- */

static json_t *print_token(struct ap_http_request *req, const struct ap_token *token)
{
    struct ap_buf text = {0};
    if (!token->count)
        return json_null();
    ap_token_format(token, &text);
    ap_buf_append(&text, "", 1);
    ap_http_add_header(req, TOKEN_HEADER, (char *)text.data);
    json_t *json = json_string((char *)text.data);
    ap_buf_free(&text);
    return json;
}

/* Who it is that does not show it: asked anew, so one that came in this instant is not accused. */
static json_t *print_missing(struct ap_http_request *req, struct ap_producer *p, const struct ap_token *token, const struct ap_write_options *o)
{
    struct ap_buf text = {0};
    ap_write_missing(&p->watch, o->spooled ? NULL : token, o->level == AP_LEVEL_VISIBLE, &text);
    ap_http_add_header(req, MISSING_HEADER, (char *)text.data);
    json_t *json = json_string((char *)text.data);
    ap_buf_free(&text);
    return json;
}

/* 202: accepted and kept, and nothing more is known; a client that only knows 200 does not take it for more. */
static void reply_result(struct ap_http_request *req, const struct ap_write_options *o, json_t *result)
{
    if (!o->spooled) {
        ap_http_reply_result(req, result);
        return;
    }
    json_t *answer = json_pack("{s:o,s:s,s:f}", "result", result, "status", "ok", "time", (double)(ap_mono_ns() - ap_http_start_ns(req)) * 1e-9);
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    json_decref(answer);
    if (!text)
        abort();
    ap_http_reply_take(req, 202, "application/json", text, strlen(text));
}

/* token and missing: borrowed. */
static json_t *print_result(struct ap_producer *p, enum ap_write_status status, json_t *token, json_t *missing, const struct ap_write_options *o)
{
    json_t *result = json_object();
    json_object_set_new(result, "operation_id", json_integer((json_int_t)atomic_fetch_add(&p->operations, 1) + 1));
    json_object_set_new(result, "status", json_string(ap_write_status_name(status)));
    json_object_set(result, "token", token);
    if (missing)
        json_object_set(result, "missing", missing);
    if (o->spooled)
        json_object_set_new(result, "spooled", json_true());
    return result;
}

void ap_write_reply(struct ap_http_request *req, struct ap_producer *p, enum ap_write_status status, const struct ap_token *token,
                    const struct ap_write_options *o, json_t *more)
{
    json_t *printed = print_token(req, token), *missing = status == AP_WRITE_TIMEOUT ? print_missing(req, p, token, o) : NULL;
    json_t *result = print_result(p, status, printed, missing, o);
    if (more)
        json_object_update(result, more);
    json_decref(more);
    json_decref(missing);
    json_decref(printed);
    reply_result(req, o, result);
}

void ap_write_reply_list(struct ap_http_request *req, struct ap_producer *p, enum ap_write_status status, const struct ap_token *token,
                         const struct ap_write_options *o, size_t n)
{
    json_t *printed = print_token(req, token), *missing = status == AP_WRITE_TIMEOUT ? print_missing(req, p, token, o) : NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, print_result(p, status, printed, missing, o));
    json_decref(missing);
    json_decref(printed);
    reply_result(req, o, list);
}

void ap_write_reply_err(struct ap_http_request *req, struct ap_producer *p, const struct ap_err *err)
{
    if (err->code == AP_EBUSY)
        ap_count(p->refused_busy, 1);
    else if (err->code == AP_ETIMEOUT)
        ap_count(p->timeouts, 1);
    else if (err->cls == AP_POISON)
        ap_count(p->bad_requests, 1);
    /* A deadline that passed is a 503, too: Kafka is slow or away, and sending again later is the right thing. */
    struct ap_err answer = *err;
    if (answer.code == AP_ETIMEOUT)
        answer.code = AP_ENOTREADY;
    ap_http_reply_err(req, &answer);
}
