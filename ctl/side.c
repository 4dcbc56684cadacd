/* Every question goes to all workers of both sides in one run of the fetcher; answers are checked for their length and
 * added up. */
#include "ctl/side.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAGIC = 0x31565041, ROW_BYTES = 42, ASK_MAX = 2 * AP_SIDE_WORKERS };

struct ask { struct ap_fetch list[ASK_MAX]; int side[ASK_MAX]; size_t count; };

static void add(struct ask *a, struct ap_side sides[2], const bool *chosen, const char *method, const char *collection, const char *tail, const struct ap_buf *body)
{
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < sides[side].count && (!chosen || chosen[side]); i++) {
            struct ap_fetch *one = &a->list[a->count];
            *one = (struct ap_fetch){.method = method, .body = body ? body->data : NULL, .len = body ? body->len : 0};
            snprintf(one->url, sizeof one->url, "%s/antipode/verify/%s%s", sides[side].indexers[i], collection, tail);
            a->side[a->count++] = side;
        }
}

static void fini(struct ask *a)
{
    for (size_t i = 0; i < a->count; i++)
        ap_fetch_fini(&a->list[i]);
}

static int bad_answer(const struct ap_fetch *one, struct ap_err *err)
{
    return ap_err_set(err, AP_EIO, AP_FATAL, "%s: an answer of %zu bytes that is none of this version's", one->url, one->answer.len);
}

void ap_side_fini(struct ap_side *s)
{
    free(s->positions);
    free(s->list);
    json_decref(s->scrub);
    s->positions = NULL;
    s->list = NULL;
    s->scrub = NULL;
    s->position_count = s->listed = 0;
}

static uint64_t hex(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? strtoull(text, NULL, 16) : 0;
}

static void copy_text(char *out, size_t cap, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(out, cap, "%s", text ? text : "");
}

/* --- state --- */

static void take_state(struct ap_side *s, const json_t *state)
{
    size_t i;
    json_t *p, *positions = json_object_get(state, "positions");
    s->collection = hex(state, "collection");
    uint64_t horizon = hex(state, "horizon");
    s->horizon = horizon > s->horizon ? horizon : s->horizon;
    s->rows += (uint64_t)json_integer_value(json_object_get(state, "rows"));
    if (!*s->region)
        copy_text(s->region, sizeof s->region, state, "region");
    s->positions = reallocarray(s->positions, s->position_count + json_array_size(positions) + 1, sizeof *s->positions);
    if (!s->positions)
        abort();
    json_array_foreach(positions, i, p) {
        struct ap_side_position *to = &s->positions[s->position_count++];
        *to = (struct ap_side_position){.stream = hex(p, "stream"), .clock = hex(p, "clock"),
            .partition = (int32_t)json_integer_value(json_object_get(p, "partition")), .finished = json_is_true(json_object_get(p, "finished"))};
        copy_text(to->topic, sizeof to->topic, p, "topic");
        const char *region = json_string_value(json_object_get(p, "region"));
        strncpy(to->region.name, region ? region : "", sizeof to->region.name - 1);
    }
}

int ap_sides_state(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, struct ap_err *err)
{
    struct ask a = {.count = 0};
    add(&a, sides, NULL, "GET", collection, "", NULL);
    int rc = ap_fetcher_run(f, a.list, a.count, err);
    for (int side = 0; side < 2 && rc == 0; side++) {
        free(sides[side].positions);
        sides[side].positions = NULL;
        sides[side].position_count = 0;
        sides[side].horizon = sides[side].rows = 0;
    }
    for (size_t i = 0; i < a.count && rc == 0; i++) {
        json_t *state = ap_fetch_result(&a.list[i]);
        if (json_is_object(state))
            take_state(&sides[a.side[i]], state);
        else
            rc = bad_answer(&a.list[i], err);
        json_decref(state);
    }
    fini(&a);
    return rc;
}

/* --- sums --- */

int ap_sides_digests(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, bool scrub, struct ap_digest out[2][AP_DIGEST_BUCKETS], struct ap_err *err)
{
    struct ask a = {.count = 0};
    memset(out, 0, 2 * sizeof *out);
    add(&a, sides, NULL, "GET", collection, scrub ? "/digests?scrub=true" : "/digests", NULL);
    int rc = ap_fetcher_run(f, a.list, a.count, err);
    for (size_t i = 0; i < a.count && rc == 0; i++) {
        const uint8_t *p = a.list[i].answer.data;
        if (a.list[i].answer.len != AP_DIGEST_BUCKETS * 16)
            rc = bad_answer(&a.list[i], err);
        for (size_t b = 0; b < AP_DIGEST_BUCKETS && rc == 0; b++, p += 16) {
            out[a.side[i]][b].sum += ap_le64(p);
            out[a.side[i]][b].rows += ap_le64(p + 8);
        }
    }
    fini(&a);
    return rc;
}

int ap_sides_split(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, bool scrub, const struct ap_buf *buckets, uint64_t *out[2], struct ap_err *err)
{
    struct ask a = {.count = 0};
    size_t parts = buckets->len / 2 * AP_VERIFY_PARTS;
    for (int side = 0; side < 2; side++)
        if (!(out[side] = calloc(parts + 1, sizeof **out)))
            abort();
    add(&a, sides, NULL, "POST", collection, scrub ? "/split?scrub=true" : "/split", buckets);
    int rc = ap_fetcher_run(f, a.list, a.count, err);
    for (size_t i = 0; i < a.count && rc == 0; i++) {
        if (a.list[i].answer.len != parts * 8)
            rc = bad_answer(&a.list[i], err);
        for (size_t p = 0; p < parts && rc == 0; p++)
            out[a.side[i]][p] += ap_le64(a.list[i].answer.data + 8 * p);
    }
    fini(&a);
    return rc;
}

/* --- rows --- */

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct ap_point_id));
}

static int take_rows(struct ap_side *s, const struct ap_fetch *one, struct ap_err *err)
{
    const uint8_t *p = one->answer.data, *end = p + one->answer.len;
    size_t regions = end - p >= 8 && ap_le32(p) == MAGIC ? ap_le32(p + 4) : SIZE_MAX;
    if (regions > 256 || (size_t)(end - p) < 8 + regions * 16 || ((size_t)(end - p) - 8 - regions * 16) % ROW_BYTES)
        return bad_answer(one, err);
    const uint8_t *names = p + 8;
    p = names + regions * 16;
    size_t count = (size_t)(end - p) / ROW_BYTES;
    s->list = reallocarray(s->list, s->listed + count + 1, sizeof *s->list);
    if (!s->list)
        abort();
    for (; p < end; p += ROW_BYTES) {
        struct ap_side_row *row = &s->list[s->listed++];
        *row = (struct ap_side_row){.checksum = ap_le64(p + 16), .hlc = ap_le64(p + 24), .writer = ap_le64(p + 32), .flags = p[41]};
        memcpy(row->id.b, p, 16);
        if (p[40] < regions)
            memcpy(row->region.name, names + p[40] * (size_t)16, 15);
    }
    return 0;
}

int ap_sides_list(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const char *what, bool scrub, const struct ap_buf *body, struct ap_err *err)
{
    struct ask a = {.count = 0};
    char tail[64];
    snprintf(tail, sizeof tail, "/%s%s", what, scrub ? "?scrub=true" : "");
    add(&a, sides, NULL, "POST", collection, tail, body);
    int rc = ap_fetcher_run(f, a.list, a.count, err);
    sides[0].listed = sides[1].listed = 0;
    for (size_t i = 0; i < a.count && rc == 0; i++)
        rc = take_rows(&sides[a.side[i]], &a.list[i], err);
    for (int side = 0; side < 2 && rc == 0; side++)
        if (sides[side].listed)
            qsort(sides[side].list, sides[side].listed, sizeof *sides[side].list, by_id);
    fini(&a);
    return rc;
}

const struct ap_side_row *ap_side_find(const struct ap_side *s, const struct ap_point_id *id)
{
    return s->listed ? bsearch(id, s->list, s->listed, sizeof *s->list, by_id) : NULL;
}

/* --- scrubbing --- */

int ap_sides_scrub(struct ap_fetcher *f, struct ap_side sides[2], const bool chosen[2], const char *collection, bool mend, struct ap_err *err)
{
    struct ask a = {.count = 0};
    add(&a, sides, chosen, "POST", collection, mend ? "/scrub?mend=true" : "/scrub", NULL);
    int rc = ap_fetcher_run(f, a.list, a.count, err);
    for (int side = 0; side < 2 && rc == 0; side++)
        if (chosen[side]) {
            json_decref(sides[side].scrub);
            sides[side].scrub = json_array();
        }
    for (size_t i = 0; i < a.count && rc == 0; i++) {
        json_t *report = ap_fetch_result(&a.list[i]);
        if (!json_is_object(report))
            rc = bad_answer(&a.list[i], err);
        else
            json_array_append(sides[a.side[i]].scrub, report);
        json_decref(report);
    }
    fini(&a);
    return rc;
}

uint64_t ap_side_scrubbed(const struct ap_side *s, const char *key, const char *inner)
{
    size_t i;
    json_t *report;
    uint64_t sum = 0;
    json_array_foreach(s->scrub, i, report) {
        const json_t *value = json_object_get(report, key);
        sum += (uint64_t)json_integer_value(inner ? json_object_get(value, inner) : value);
    }
    return sum;
}

void ap_sides_close(struct ap_fetcher *f, struct ap_side sides[2])
{
    struct ask a = {.count = 0};
    add(&a, sides, NULL, "DELETE", "", "", NULL);
    for (size_t i = 0; i < a.count; i++)
        a.list[i].url[strlen(a.list[i].url) - 1] = '\0'; /* the slash before a collection */
    ap_fetcher_run(f, a.list, a.count, NULL); /* only a courtesy */
    fini(&a);
}
