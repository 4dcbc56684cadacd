/* POST /collections/{c}/points/repair: rows as a store holds them, published again with the versions they have.
 *
 * The body is a run of rows, each behind its length (u32, little-endian): what an indexer's verify/full answers. A row is
 * taken apart into the mutations that make it (row_parts.h), so that every region that lacks any of them merges it in, and
 * one that has them changes nothing. With delete=true each row is ended by a DELETE of its newest version instead: for
 * rows of which their home region knows that they are deleted. New are only the positions. Nothing is published before
 * every row has passed. */
#include <stdlib.h>
#include <string.h>
#include "common/row_parts.h"
#include "producer/api.h"
#include "producer/write.h"

struct repair {
    struct ap_row_parts *parts; /* of each row */
    size_t rows, cap;
    struct ap_record *records;
    size_t count;
};

static int take_row(struct repair *r, struct ap_producer *p, const struct ap_target *t, const char *bytes, size_t len, bool delete, struct ap_err *err)
{
    struct ap_row row;
    int rc = ap_row_read(bytes, len, 1, &row, err);
    if (rc) /* damaged, but by whoever sent it: nothing of ours is */
        return err->code = AP_EINVAL;
    if (ap_key_collection(&row.key) != t->collection)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "it is of another collection");
    if (rc == 0) /* a version from the future would drag every clock along */
        rc = ap_drift_merge(&p->drift, ap_row_newest(&row).hlc, err);
    if (rc)
        return rc;
    if (r->rows == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 64;
        r->parts = reallocarray(r->parts, r->cap, sizeof *r->parts);
        if (!r->parts)
            abort();
    }
    struct ap_row_parts *parts = &r->parts[r->rows++];
    if (delete)
        ap_row_parts_delete(&row, parts);
    else
        rc = ap_row_parts(&row, parts, err);
    struct ap_region region;
    for (size_t i = 0; i < parts->count && rc == 0; i++) {
        const struct ap_version *v = &parts->list[i].version;
        rc = ap_region_parse(v->region.name, strnlen(v->region.name, sizeof v->region.name), &region, err);
        if (rc == 0 && (v->writer == 0 || v->hlc == 0))
            rc = ap_err_set(err, AP_EINVAL, AP_POISON, "a change without a version");
    }
    return rc;
}

static void make_records(struct repair *r, const struct ap_key *keys)
{
    size_t total = 0;
    for (size_t i = 0; i < r->rows; i++)
        total += r->parts[i].count;
    r->records = calloc(total + 1, sizeof *r->records);
    if (!r->records)
        abort();
    for (size_t i = 0; i < r->rows; i++)
        for (size_t j = 0; j < r->parts[i].count; j++) {
            const struct ap_mutation *m = &r->parts[i].list[j];
            r->records[r->count++] = (struct ap_record){
                .key = keys[i], .op = m->op, .has_codec = m->has_codec, .codec = m->codec, .vector = m->vector,
                .vector_len = m->vector_len, .payload = m->payload, .payload_len = m->payload_len, .version = &m->version};
        }
}

static int parse(struct repair *r, struct ap_producer *p, const struct ap_target *t, const char *body, size_t len, bool delete, struct ap_err *err)
{
    size_t at = 0, cap = 0;
    struct ap_key *keys = NULL;
    int rc = 0;
    while (at < len && rc == 0) {
        size_t left = len - at;
        uint32_t n = left >= 4 ? ap_le32(body + at) : 0;
        if (n < AP_ROW_HEADER || n > left - 4) {
            rc = ap_err_set(err, AP_EINVAL, AP_POISON, "the body ends inside it");
        } else if (r->rows == (size_t)p->config->max_points) {
            rc = ap_err_set(err, AP_ETOOBIG, AP_POISON, "more than %lld rows (max_points)", (long long)p->config->max_points);
        } else {
            if (r->rows == cap) {
                cap = cap ? cap * 2 : 64;
                keys = reallocarray(keys, cap, sizeof *keys);
                if (!keys)
                    abort();
            }
            memcpy(keys[r->rows].b, body + at + 4 + 16, sizeof keys->b); /* row.h: where the key is */
            rc = take_row(r, p, t, body + at + 4, n, delete, err);
        }
        if (rc)
            ap_err_wrap(err, "row at byte %zu", at);
        at += 4 + (size_t)n;
    }
    if (rc == 0)
        make_records(r, keys);
    free(keys);
    return rc;
}

static void fini(struct repair *r)
{
    for (size_t i = 0; i < r->rows; i++)
        ap_row_parts_fini(&r->parts[i]);
    free(r->parts);
    free(r->records);
}

static int read_delete(const struct ap_http_request *req, bool *delete, struct ap_err *err)
{
    const char *text = ap_http_query(req, "delete");
    *delete = text && strcmp(text, "true") == 0;
    if (text && !*delete && strcmp(text, "false") != 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "delete: \"%.32s\" is neither true nor false", text);
    return 0;
}

void ap_producer_repair(struct ap_http_request *req)
{
    static const char *const also[] = {"delete", NULL};
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_token token = {0};
    struct ap_err err = {0};
    struct repair r = {0};
    struct ap_target *t = NULL;
    size_t len;
    bool delete = false;
    const char *body = ap_http_body(req, &len);
    int rc = ap_write_options_read(req, p, also, &o, &err);
    if (rc == 0)
        rc = read_delete(req, &delete, &err);
    if (rc == 0 && !(t = ap_targets_get(&p->targets, ap_http_param(req, 0), &err)))
        rc = err.code;
    if (rc == 0)
        rc = parse(&r, p, t, body, len, delete, &err);
    if (rc == 0)
        rc = ap_write_records(p, t->topic, r.records, r.count, &o, &token, &err);
    if (rc == 0)
        ap_write_reply(req, p, ap_write_show(p, &token, &o), &token, &o, json_pack("{s:I,s:I}", "rows", (json_int_t)r.rows, "records", (json_int_t)r.count));
    else
        ap_write_reply_err(req, p, &err);
    ap_token_fini(&token);
    fini(&r);
    if (t)
        ap_target_unref(&t);
}
