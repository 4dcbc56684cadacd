/* How new a read must be: what the request asks for, and the wait until this region's reads show it.
 *
 * Tokens are waited for at every level: what a client brings along it wants to see. Then come the barriers, where the read is
 * bounded or strong. A wait that ends too early is a 503 that says what was missing: later it will be there. */
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "common/watermark.h"
#include "indexer/api_impl.h"
#include "indexer/levels.h"

#define SEEN_MAX 4096

static bool entry_covered(const struct ap_token *token, const struct ap_token_entry *entry, const struct ap_position *positions, size_t count)
{
    struct ap_token one = *token;
    one.entries = (struct ap_token_entry *)(uintptr_t)entry; /* only read */
    one.count = 1;
    return ap_token_covered(&one, positions, count);
}

static uint64_t mark_of(const struct ap_token *token, const struct ap_token_entry *entry, const struct ap_position *positions, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (positions[i].stream == token->stream && positions[i].partition == entry->partition && !strcmp(positions[i].topic, entry->topic))
            return positions[i].mark;
    return 0;
}

/* 503, and what is missing: this region cannot give the session read yet, later it can. */
static int not_covered(struct ap_index *index, const struct ap_token *token, struct ap_err *err)
{
    struct ap_position *positions = NULL;
    const struct ap_token_entry *first = NULL;
    size_t count = 0, missing = 0;
    int rc = ap_index_positions(index, &positions, &count, err);
    if (rc)
        return rc;
    for (size_t i = token->count; i-- > 0;)
        if (!entry_covered(token, &token->entries[i], positions, count)) {
            first = &token->entries[i];
            missing++;
        }
    if (first)
        rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "session read: not visible here before the deadline: region %s, topic %s, partition %d, record %llu "
                        "of stream %016llx; visible up to %llu; partitions missing: %zu of %zu", token->region.name, first->topic, first->partition,
                        (unsigned long long)first->seq, (unsigned long long)token->stream,
                        (unsigned long long)mark_of(token, first, positions, count), missing, token->count);
    else
        rc = ap_err_set(err, AP_ENOTREADY, AP_RETRY, "session read: visible just after the deadline");
    free(positions);
    return rc;
}

/* A token of another system would be waited for in vain. */
static int check_region(const struct ap_read *r, const struct ap_token *token, struct ap_err *err)
{
    const struct ap_peers *peers = &r->api->config->peers;
    bool known = peers->count == 1; /* the configuration names no regions */
    for (size_t i = 0; i < peers->count; i++)
        known |= !memcmp(&peers->list[i].region, &token->region, sizeof token->region);
    return known ? 0 : ap_err_set(err, AP_EINVAL, AP_POISON, "token: it is of region %s, which is none of this system's", token->region.name);
}

static int wait_one(struct ap_read *r, const char *text, size_t len, int64_t deadline_ns, struct ap_err *err)
{
    struct ap_token token;
    int rc = ap_token_parse(text, len, &token, err);
    if (rc)
        return rc;
    rc = check_region(r, &token, err);
    if (rc == 0)
        rc = ap_index_check_token(r->index, &token, err);
    if (rc == 0)
        rc = ap_index_wait(r->index, &token, deadline_ns, err);
    if (rc == AP_ETIMEOUT)
        rc = not_covered(r->index, &token, err);
    ap_token_fini(&token);
    return rc;
}

/* One token or several, separated by commas; text may be NULL or empty. */
static int wait_tokens(struct ap_read *r, const char *header, const char *text, int64_t deadline_ns, struct ap_err *err)
{
    int rc = 0;
    for (const char *p = text ? text : ""; rc == 0 && *p;) {
        size_t len = strcspn(p, ", ");
        if (len)
            rc = wait_one(r, p, len, deadline_ns, err);
        p += len + (p[len] != 0);
    }
    if (rc == AP_EINVAL)
        ap_err_wrap(err, "%s", header);
    return rc;
}

int ap_read_wait_tokens(struct ap_read *r, int64_t deadline_ns, struct ap_err *err)
{
    return wait_tokens(r, AP_TOKEN_HEADER, ap_http_header(r->req, AP_TOKEN_HEADER), deadline_ns, err);
}

int ap_read_wait(struct ap_read *r, struct ap_err *err)
{
    const char *token = ap_http_header(r->req, AP_TOKEN_HEADER), *seen = ap_http_header(r->req, AP_SEEN_HEADER);
    const char *named = ap_http_query(r->req, "level");
    enum ap_read_level level;
    int64_t deadline, max_ns, start = ap_mono_ns();
    int rc = ap_api_deadline(r->api, r->req, &deadline, err);
    if (rc == 0)
        rc = ap_read_level_parse(named ? named : ap_http_header(r->req, AP_LEVEL_HEADER), ap_http_query(r->req, "max_staleness_ms"),
                                 ap_http_query(r->req, "max_staleness_seconds"), token || (seen && *seen), &level, &max_ns, err);
    if (rc || level == AP_READ_EVENTUAL)
        return rc;
    rc = ap_read_wait_tokens(r, deadline, err);
    if (rc == 0)
        rc = wait_tokens(r, AP_SEEN_HEADER, seen, deadline, err);
    if (rc == 0 && level >= AP_READ_BOUNDED) {
        bool bounded = level == AP_READ_BOUNDED;
        rc = ap_fresh_wait(r->api->fresh, r->index, ap_http_start_ns(r->req) - (bounded ? max_ns : 0), bounded, deadline, err);
        if (rc)
            ap_err_wrap(err, "%s read", ap_read_level_name(level));
    }
    ap_observe(r->api->read_wait_time[level], (double)(ap_mono_ns() - start) * 1e-9);
    if (rc == 0 || rc == AP_ENOTREADY)
        ap_count(r->api->read_waits[level][rc != 0], 1);
    return rc;
}

/* --- what was seen --- */

/* The token of all positions of one stream; those are marked as done. */
static void put_stream(struct ap_position *positions, size_t count, size_t first, struct ap_buf *out)
{
    struct ap_token token = {.region = positions[first].region, .stream = positions[first].stream, .lineage = positions[first].lineage};
    token.entries = calloc(count - first, sizeof *token.entries);
    if (!token.entries)
        abort();
    for (size_t i = first; i < count; i++) {
        struct ap_position *p = &positions[i];
        if (p->stream != token.stream || p->mark == 0)
            continue;
        struct ap_token_entry *e = &token.entries[token.count++];
        *e = (struct ap_token_entry){.partition = p->partition, .seq = p->mark};
        memcpy(e->topic, p->topic, sizeof e->topic);
        if (p->clock > token.hlc)
            token.hlc = p->clock;
        p->mark = 0;
    }
    if (out->len)
        ap_buf_append(out, ",", 1);
    ap_token_format(&token, out);
    ap_token_fini(&token);
}

void ap_read_say_seen(struct ap_read *r)
{
    struct ap_position *positions = NULL;
    struct ap_buf out = {0};
    size_t count = 0;
    if (!ap_http_header(r->req, AP_SEEN_HEADER) || ap_index_positions(r->index, &positions, &count, NULL))
        return;
    ap_index_forget_retired(r->index, positions, count); /* nobody may ask for those */
    for (size_t i = 0; i < count; i++)
        if (positions[i].mark)
            put_stream(positions, count, i, &out);
    ap_buf_append(&out, "", 1);
    if (out.len <= SEEN_MAX) /* longer than clients and proxies take: better none */
        ap_http_add_header(r->req, AP_SEEN_HEADER, (char *)out.data);
    ap_buf_free(&out);
    free(positions);
}
