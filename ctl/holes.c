/* Asked of the indexers, closed through them: they pass it on to their region's producer. */
#include "ctl/holes.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/timeutil.h"
#include "ctl/regions.h"

enum { WAIT_MS = 20000, LOOK_MS = 200, AT_ONCE = 5000, ROUNDS = 20, PLACE_BYTES = 300 };

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static uint64_t records_of(const json_t *hole)
{
    return (uint64_t)(json_integer_value(json_object_get(hole, "last")) - json_integer_value(json_object_get(hole, "first")) + 1);
}

/* Has it applied all records of this hole? */
static bool has(const struct ap_holes *other, const json_t *hole)
{
    struct ap_position of = {.stream = strtoull(text_of(hole, "stream"), NULL, 16), .lineage = strtoull(text_of(hole, "lineage"), NULL, 16),
                             .partition = (int32_t)json_integer_value(json_object_get(hole, "partition"))};
    snprintf(of.topic, sizeof of.topic, "%s", text_of(hole, "topic"));
    return ap_positions_shown(other->positions, other->position_count, &of) >= (uint64_t)json_integer_value(json_object_get(hole, "last"));
}

static int take_positions(struct ap_holes *h, const json_t *list)
{
    json_t *item;
    size_t i;
    h->positions = reallocarray(h->positions, h->position_count + json_array_size(list) + 1, sizeof *h->positions);
    if (!h->positions)
        abort();
    json_array_foreach(list, i, item)
        if (ap_position_take(item, &h->positions[h->position_count++]))
            return AP_EIO;
    return 0;
}

int ap_holes_ask(struct ap_fetcher *f, const struct ap_side *side, struct ap_holes *out, struct ap_err *err)
{
    int rc = 0;
    *out = (struct ap_holes){.list = json_array()};
    for (size_t w = 0; w < side->count && rc == 0; w++) {
        struct ap_fetch one = {.method = "GET"};
        snprintf(one.url, sizeof one.url, "%s/antipode/holes", side->indexers[w]);
        rc = ap_fetcher_run(f, &one, 1, err);
        json_t *answer = rc ? NULL : ap_fetch_result(&one), *hole, *list = json_object_get(answer, "holes");
        size_t i;
        if (rc == 0 && (!json_is_array(list) || take_positions(out, json_object_get(answer, "positions"))))
            rc = ap_err_set(err, AP_EIO, AP_FATAL, "%s: an answer that is none of this version's", one.url);
        json_array_foreach(list, i, hole) {
            json_array_append(out->list, hole);
            out->records += records_of(hole);
        }
        snprintf(out->region, sizeof out->region, "%s", text_of(answer, "region"));
        out->more |= json_is_true(json_object_get(answer, "more"));
        json_decref(answer);
        ap_fetch_fini(&one);
    }
    return rc;
}

void ap_holes_fini(struct ap_holes *h)
{
    json_decref(h->list);
    free(h->positions);
    *h = (struct ap_holes){0};
}

/* --- what was published to one side --- */

int ap_published_add(struct ap_published *p, const struct ap_fetch *answered, struct ap_err *err)
{
    json_t *result = ap_fetch_result(answered);
    const char *text = text_of(result, "token");
    struct ap_token token = {0};
    int rc = ap_token_parse(text, strlen(text), &token, err);
    json_decref(result);
    if (rc)
        return ap_err_set(err, AP_EIO, AP_FATAL, "%s: an answer without a token", answered->url);
    p->list = reallocarray(p->list, p->count + 1, sizeof *p->list);
    if (!p->list)
        abort();
    p->list[p->count++] = token;
    return 0;
}

void ap_published_fini(struct ap_published *p)
{
    for (size_t i = 0; i < p->count; i++)
        ap_token_fini(&p->list[i]);
    free(p->list);
    *p = (struct ap_published){0};
}

/* All numbers above after, up to the last; where holes lie below, the mark does not say. */
static bool applied_above(const struct ap_holes *now, const struct ap_position *of, uint64_t after, uint64_t last)
{
    bool known = false;
    json_t *hole;
    size_t i;
    if (ap_positions_shown(now->positions, now->position_count, of) >= last)
        return true;
    if (now->more) /* some of the holes are not listed */
        return false;
    json_array_foreach(now->list, i, hole) {
        if (strtoull(text_of(hole, "stream"), NULL, 16) != of->stream || json_integer_value(json_object_get(hole, "partition")) != of->partition ||
            strcmp(text_of(hole, "topic"), of->topic) != 0)
            continue;
        known = (uint64_t)json_integer_value(json_object_get(hole, "top")) >= last;
        if ((uint64_t)json_integer_value(json_object_get(hole, "last")) > after && (uint64_t)json_integer_value(json_object_get(hole, "first")) <= last)
            return false;
    }
    return known;
}

bool ap_holes_applied(const struct ap_holes *now, const struct ap_holes *publisher, const struct ap_published *p)
{
    for (size_t i = 0; i < p->count; i++)
        for (size_t k = 0; k < p->list[i].count; k++) {
            const struct ap_token *t = &p->list[i];
            struct ap_position of = {.stream = t->stream, .lineage = t->lineage, .partition = t->entries[k].partition};
            snprintf(of.topic, sizeof of.topic, "%s", t->entries[k].topic);
            uint64_t after = ap_positions_shown(publisher->positions, publisher->position_count, &of);
            if (!applied_above(now, &of, after, t->entries[k].seq))
                return false;
        }
    return true;
}

int ap_holes_wait(struct ap_fetcher *f, const struct ap_side *side, const struct ap_holes *publisher, const struct ap_published *p, struct ap_err *err)
{
    int64_t until = ap_mono_ms() + WAIT_MS;
    for (;;) {
        struct ap_holes now;
        int rc = ap_holes_ask(f, side, &now, err);
        bool done = rc == 0 && ap_holes_applied(&now, publisher, p);
        ap_holes_fini(&now);
        if (rc || done)
            return rc;
        if (ap_mono_ms() > until)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s does not apply the %llu rows that %s has published for it: is its consumer or its mirror behind?",
                              side->region, (unsigned long long)p->rows, publisher->region);
        nanosleep(&(struct timespec){0, LOOK_MS * 1000000L}, NULL);
    }
}

/* --- closing --- */

static int post(struct ap_fetcher *f, const struct ap_side *side, json_t *losses, bool proven, struct ap_err *err)
{
    if (!json_array_size(losses))
        return 0;
    json_t *body = json_pack("{s:b,s:O}", "proven", proven, "losses", losses);
    char *text = json_dumps(body, JSON_COMPACT);
    struct ap_fetch one = {.method = "POST", .body = text, .len = strlen(text)};
    snprintf(one.url, sizeof one.url, "%s/antipode/losses?timeout=20", side->indexers[0]);
    int rc = ap_fetcher_run(f, &one, 1, err);
    ap_fetch_fini(&one);
    free(text);
    json_decref(body);
    json_array_clear(losses);
    return rc;
}

/* Where a hole is. */
static const char *place(const json_t *hole, char out[PLACE_BYTES])
{
    snprintf(out, PLACE_BYTES, "%s/%lld/%s", text_of(hole, "stream"), (long long)json_integer_value(json_object_get(hole, "partition")), text_of(hole, "topic"));
    return out;
}

/* told: by place, the last number that was given up there. What shows up later has greater ones. */
static bool any_left(const struct ap_holes *now, const json_t *told)
{
    char at[PLACE_BYTES];
    json_t *hole;
    size_t i;
    json_array_foreach(now->list, i, hole)
        if (json_integer_value(json_object_get(hole, "first")) <= json_integer_value(json_object_get(told, place(hole, at))))
            return true;
    return false;
}

static int wait_closed(struct ap_fetcher *f, const struct ap_side *side, const json_t *told, struct ap_err *err)
{
    int64_t until = ap_mono_ms() + WAIT_MS;
    for (;;) {
        struct ap_holes now;
        int rc = ap_holes_ask(f, side, &now, err);
        bool done = rc == 0 && !any_left(&now, told);
        ap_holes_fini(&now);
        if (rc || done)
            return rc;
        if (ap_mono_ms() > until)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s: its holes are given up, and its consumer still waits: does it read its own control topic?", side->region);
        nanosleep(&(struct timespec){0, LOOK_MS * 1000000L}, NULL);
    }
}

/* Close what can be closed of mine, and count it in *out. 1: something was; 0: nothing could be. */
static int close_some(struct ap_fetcher *f, const struct ap_side *side, const struct ap_holes *mine, const struct ap_holes *other, bool brought, bool accept,
                      struct ap_holes_closed *out, struct ap_err *err)
{
    json_t *hole, *told = json_object(), *parts[2] = {json_array(), json_array()};
    uint64_t records[2] = {0};
    char at[PLACE_BYTES];
    size_t i;
    int rc = 0;
    json_array_foreach(mine->list, i, hole) {
        bool sure = brought && has(other, hole);
        if (rc || (!sure && !accept))
            continue;
        records[sure] += records_of(hole);
        json_object_set(told, place(hole, at), json_object_get(hole, "last")); /* they come in order */
        json_t *loss = json_copy(hole);
        json_object_del(loss, "lineage"); /* nothing the producer is told */
        json_object_del(loss, "top");
        json_array_append_new(parts[sure], loss);
        if (json_array_size(parts[sure]) == AT_ONCE)
            rc = post(f, side, parts[sure], sure, err);
    }
    for (int sure = 0; sure < 2 && rc == 0; sure++)
        rc = post(f, side, parts[sure], sure, err);
    bool any = json_object_size(told) > 0;
    if (rc == 0 && any)
        rc = wait_closed(f, side, told, err);
    if (rc == 0) {
        out->accepted += records[0];
        out->proven += records[1];
    }
    json_decref(told);
    json_decref(parts[0]);
    json_decref(parts[1]);
    return rc ? rc : any;
}

int ap_holes_close(struct ap_fetcher *f, const struct ap_side *side, const struct ap_holes *other, bool brought, bool accept,
                   struct ap_holes_closed *out, struct ap_err *err)
{
    *out = (struct ap_holes_closed){0};
    for (int round = 0;; round++) {
        struct ap_holes mine;
        int rc = ap_holes_ask(f, side, &mine, err);
        if (rc == 0) {
            out->open = mine.records;
            rc = round < ROUNDS ? close_some(f, side, &mine, other, brought, accept && round == 0, out, err) : 0;
        }
        ap_holes_fini(&mine);
        if (rc <= 0)
            return rc;
    }
}
