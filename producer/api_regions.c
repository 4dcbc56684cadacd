/* What `antipode region` asks and says: the states of regions and their watermarks; read-only, retiring, losses.
 *
 *   GET  /antipode/region           {region, mode, incarnation, queue_records, regions: [{region, mode, incarnation}],
 *                                   watermarks: [{region, sent_ms, age_ms, positions: [...]}]}, as this producer knows them
 *   POST /antipode/region           {"mode": "read-only" | "active"}
 *   POST /antipode/region/retire    {"region": name, "incarnation": hex (optional), "force": bool}
 *   POST /antipode/losses           {"proven": bool, "losses": [{origin, stream, topic, partition, first, last}]}
 *
 * Ids are 16 hex digits. Answered when Kafka has the record. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"
#include "common/timeutil.h"
#include "producer/api.h"
#include "producer/regions.h"
#include "producer/write.h"

#define LOSSES_MAX 10000

static json_t *hex64(uint64_t value)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    return json_string(text);
}

static int read_hex(const json_t *value, const char *what, uint64_t *out, struct ap_err *err)
{
    const char *text = json_string_value(value);
    char *end = NULL;
    *out = 0;
    if (!text)
        return 0;
    *out = strtoull(text, &end, 16);
    if (strlen(text) != 16 || *end || strspn(text, "0123456789abcdef") != 16)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: \"%.40s\" is not 16 hex digits", what, text);
    return 0;
}

static int read_region(const json_t *value, const char *what, struct ap_region *out, struct ap_err *err)
{
    const char *text = json_string_value(value);
    return ap_region_parse(text, strlen(text), out, err) ? ap_err_wrap(err, "%s", what) : 0;
}

/* ---- what is so ---- */

static json_t *region_json(struct ap_producer *p, size_t i)
{
    uint64_t incarnation;
    enum ap_region_state state = ap_regions_state(p, i, &incarnation);
    return json_pack("{s:s,s:s,s:o}", "region", ap_regions_at(p, i)->name, "mode", ap_region_state_name(state), "incarnation",
                     incarnation ? hex64(incarnation) : json_null());
}

static json_t *watermark_json(struct ap_producer *p, size_t i)
{
    struct ap_watermark mark;
    if (!ap_watch_copy(&p->watch, i, &mark))
        return NULL;
    json_t *positions = json_array();
    for (size_t k = 0; k < mark.count; k++) {
        const struct ap_position *at = &mark.positions[k];
        json_array_append_new(positions, json_pack("{s:s,s:o,s:o,s:s,s:i,s:I,s:b}", "region", at->region.name, "stream", hex64(at->stream), "lineage", hex64(at->lineage),
                                                   "topic", at->topic, "partition", (int)at->partition, "mark", (json_int_t)at->mark, "finished", at->finished));
    }
    json_t *out = json_pack("{s:s,s:I,s:I,s:o}", "region", ap_regions_at(p, i)->name, "sent_ms", (json_int_t)mark.sent_ms, "age_ms",
                            (json_int_t)ap_watch_age_ms(&p->watch, i), "positions", positions);
    ap_watermark_fini(&mark);
    return out;
}

void ap_producer_region(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    char why[400];
    size_t records, bytes;
    if (atomic_load(&p->state) == AP_PRODUCER_STARTING) {
        ap_producer_is_ready(p, why, sizeof why);
        ap_http_reply_error(req, 503, "%s", why);
        return;
    }
    ap_regions_refresh(p); /* what is said here holds: once read-only, nothing more is stamped */
    json_t *out = region_json(p, 0), *regions = json_array(), *marks = json_array();
    for (size_t i = 0; i <= p->config->other_count; i++) {
        json_t *mark = watermark_json(p, i);
        json_array_append_new(regions, region_json(p, i));
        if (mark)
            json_array_append_new(marks, mark);
    }
    ap_inflight_now(&p->lanes.inflight, &records, &bytes);
    records += ap_spool_writes(&p->spool); /* accepted, and not in Kafka either */
    json_object_set_new(out, "queue_records", json_integer((json_int_t)records));
    json_object_set_new(out, "regions", regions);
    json_object_set_new(out, "watermarks", marks);
    ap_http_reply_result(req, out);
}

/* ---- changes ---- */

/* The body, and the deadline; NULL: answered. */
static json_t *begin(struct ap_http_request *req, int64_t *deadline_ns)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_err err = {0};
    char why[400];
    int rc = ap_write_barrier_options_read(req, p, &o, &err);
    if (rc == 0 && atomic_load(&p->state) != AP_PRODUCER_READY) {
        ap_producer_is_ready(p, why, sizeof why);
        rc = ap_err_set(&err, AP_ENOTREADY, AP_RETRY, "%s", why);
    }
    json_t *body = rc ? NULL : ap_http_json(req, &err);
    *deadline_ns = o.deadline_ns;
    if (!body)
        ap_write_reply_err(req, p, &err);
    return body;
}

static void answer(struct ap_http_request *req, json_t *body, int rc, const struct ap_err *err, json_t *result)
{
    json_decref(body);
    if (rc)
        ap_write_reply_err(req, ap_http_user(req), err);
    else
        ap_http_reply_result(req, result);
    if (rc)
        json_decref(result);
}

void ap_producer_set_region(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_err err = {0};
    int64_t deadline;
    json_t *mode, *body = begin(req, &deadline);
    const struct ap_json_field fields[] = {{"mode", AP_JSON_STRING, true, &mode}, AP_JSON_END};
    if (!body)
        return;
    int rc = ap_json_fields(body, "body", fields, &err);
    enum ap_region_state state = AP_REGION_ACTIVE;
    if (rc == 0 && !strcmp(json_string_value(mode), "read-only"))
        state = AP_REGION_READ_ONLY;
    else if (rc == 0 && strcmp(json_string_value(mode), "active"))
        rc = ap_err_set(&err, AP_EINVAL, AP_POISON, "mode: \"%.40s\" is neither active nor read-only", json_string_value(mode));
    if (rc == 0)
        rc = ap_regions_set(p, state, deadline, &err);
    answer(req, body, rc, &err, rc ? NULL : region_json(p, 0));
}

void ap_producer_retire_region(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_err err = {0};
    struct ap_region region;
    uint64_t incarnation = 0;
    int64_t deadline;
    size_t cut = 0;
    json_t *name, *which, *force, *body = begin(req, &deadline);
    const struct ap_json_field fields[] = {{"region", AP_JSON_STRING, true, &name}, {"incarnation", AP_JSON_STRING, false, &which},
                                           {"force", AP_JSON_BOOL, false, &force}, AP_JSON_END};
    if (!body)
        return;
    int rc = ap_json_fields(body, "body", fields, &err);
    if (rc == 0 && (rc = read_region(name, "region", &region, &err)) == 0 && (rc = read_hex(which, "incarnation", &incarnation, &err)) == 0)
        rc = ap_regions_retire(p, &region, incarnation, json_is_true(force), deadline, &cut, &err);
    answer(req, body, rc, &err, json_pack("{s:s,s:I}", "mode", "retired", "positions", (json_int_t)cut));
}

static int read_loss(json_t *item, size_t i, bool proven, struct ap_control_loss *out, struct ap_err *err)
{
    json_t *origin, *stream, *topic, *partition, *first, *last;
    const struct ap_json_field fields[] = {{"origin", AP_JSON_STRING, true, &origin}, {"stream", AP_JSON_STRING, true, &stream}, {"topic", AP_JSON_STRING, true, &topic},
                                           {"partition", AP_JSON_INTEGER, true, &partition}, {"first", AP_JSON_INTEGER, true, &first},
                                           {"last", AP_JSON_INTEGER, true, &last}, AP_JSON_END};
    char what[32];
    snprintf(what, sizeof what, "losses[%zu]", i);
    *out = (struct ap_control_loss){.proven = proven};
    int rc = ap_json_fields(item, what, fields, err);
    if (rc == 0 && (rc = read_region(origin, what, &out->origin, err)) == 0)
        rc = read_hex(stream, what, &out->stream, err);
    if (rc)
        return rc;
    json_int_t p = json_integer_value(partition), from = json_integer_value(first), to = json_integer_value(last);
    if (p < 0 || p > INT32_MAX || from < 1 || to < from || strlen(json_string_value(topic)) >= sizeof out->topic)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "%s: not a run of numbers of a partition", what);
    snprintf(out->topic, sizeof out->topic, "%s", json_string_value(topic));
    out->partition = (int32_t)p;
    out->first = (uint64_t)from;
    out->last = (uint64_t)to;
    return 0;
}

void ap_producer_lose(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_err err = {0};
    int64_t deadline;
    json_t *list, *proven, *item, *body = begin(req, &deadline);
    const struct ap_json_field fields[] = {{"losses", AP_JSON_ARRAY, true, &list}, {"proven", AP_JSON_BOOL, true, &proven}, AP_JSON_END};
    struct ap_control_loss *losses = NULL;
    size_t i;
    if (!body)
        return;
    int rc = ap_json_fields(body, "body", fields, &err);
    size_t count = rc ? 0 : json_array_size(list);
    if (count > LOSSES_MAX)
        rc = ap_err_set(&err, AP_ETOOBIG, AP_POISON, "losses: more than %d at once", LOSSES_MAX);
    losses = calloc(count + 1, sizeof *losses);
    if (!losses)
        abort();
    if (rc == 0)
        json_array_foreach(list, i, item)
            if (rc == 0)
                rc = read_loss(item, i, json_is_true(proven), &losses[i], &err);
    if (rc == 0)
        rc = ap_regions_lose(p, losses, count, deadline, &err);
    free(losses);
    answer(req, body, rc, &err, json_pack("{s:I}", "accepted", (json_int_t)count));
}
