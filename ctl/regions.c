/* JSON of producers taken apart, merged, subtracted. Fails only on answers that are none. */
#include "ctl/regions.h"
#include <stdlib.h>
#include <string.h>
#include "ctl/report.h"

/* ---- taking answers apart ---- */

struct ap_region_seen *ap_regions_find(struct ap_regions_view *view, const char *name)
{
    for (size_t i = 0; i < view->count; i++)
        if (!strcmp(view->list[i].name, name))
            return &view->list[i];
    return NULL;
}

static struct ap_region_seen *find_or_add(struct ap_regions_view *view, const char *name)
{
    struct ap_region_seen *found = ap_regions_find(view, name);
    if (found || view->count == AP_REGIONS_SEEN || !*name || strlen(name) >= sizeof found->name)
        return found;
    size_t at = view->count++;
    for (; at > 0 && strcmp(view->list[at - 1].name, name) > 0; at--)
        view->list[at] = view->list[at - 1];
    view->list[at] = (struct ap_region_seen){.age_ms = -1};
    snprintf(view->list[at].name, sizeof view->list[at].name, "%s", name);
    return &view->list[at];
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* own: the region's own producer says it. Two producers of a region may differ for a moment; the less willing one counts. */
static void take_mode(struct ap_regions_view *view, const json_t *said, bool own)
{
    struct ap_region_seen *r = find_or_add(view, text_of(said, "region"));
    const char *mode = text_of(said, "mode"), *incarnation = text_of(said, "incarnation");
    if (!r)
        return;
    bool same = !strcmp(r->incarnation, incarnation) || !*r->incarnation || !*incarnation;
    bool retired = same && (!strcmp(r->mode, "retired") || !strcmp(mode, "retired"));
    bool writes = own && r->own && (!strcmp(r->mode, "active") || !strcmp(mode, "active"));
    if (own || !r->own || !*r->mode) {
        snprintf(r->mode, sizeof r->mode, "%s", writes ? "active" : mode);
        snprintf(r->incarnation, sizeof r->incarnation, "%s", *incarnation ? incarnation : r->incarnation);
    }
    if (retired)
        snprintf(r->mode, sizeof r->mode, "retired");
    r->own |= own;
}

int ap_position_take(const json_t *from, struct ap_position *out)
{
    const char *topic = text_of(from, "topic"), *region = text_of(from, "region");
    *out = (struct ap_position){.stream = strtoull(text_of(from, "stream"), NULL, 16), .lineage = strtoull(text_of(from, "lineage"), NULL, 16),
                                .partition = (int32_t)json_integer_value(json_object_get(from, "partition")),
                                .mark = (uint64_t)json_integer_value(json_object_get(from, "mark")), .finished = json_is_true(json_object_get(from, "finished"))};
    if (!out->stream || strlen(topic) >= sizeof out->topic || strlen(region) >= sizeof out->region.name)
        return AP_EIO;
    snprintf(out->topic, sizeof out->topic, "%s", topic);
    snprintf(out->region.name, sizeof out->region.name, "%s", region);
    return 0;
}

static int take_watermark(struct ap_regions_view *view, const json_t *said)
{
    struct ap_region_seen *r = find_or_add(view, text_of(said, "region"));
    json_t *list = json_object_get(said, "positions"), *item;
    int64_t sent = json_integer_value(json_object_get(said, "sent_ms")), age = json_integer_value(json_object_get(said, "age_ms"));
    size_t i, count = json_array_size(list);
    if (!r || (r->positions && r->sent_ms > sent))
        return 0;
    struct ap_position *positions = calloc(count + 1, sizeof *positions);
    if (!positions)
        abort();
    json_array_foreach(list, i, item)
        if (ap_position_take(item, &positions[i])) {
            free(positions);
            return AP_EIO;
        }
    if (r->positions && r->sent_ms == sent && r->age_ms >= 0 && (age < 0 || age > r->age_ms))
        age = r->age_ms; /* who heard it last says how old it is */
    free(r->positions);
    r->positions = positions;
    r->count = count;
    r->sent_ms = sent;
    r->age_ms = age;
    return 0;
}

int ap_regions_take(struct ap_regions_view *view, const json_t *answer, struct ap_err *err)
{
    json_t *item;
    size_t i;
    if (!json_is_string(json_object_get(answer, "region")) || !json_is_array(json_object_get(answer, "watermarks")))
        return ap_err_set(err, AP_EIO, AP_FATAL, "this is not what a producer says: is it a producer, and of this release?");
    take_mode(view, answer, true);
    json_array_foreach(json_object_get(answer, "regions"), i, item)
        if (strcmp(text_of(item, "region"), text_of(answer, "region")) != 0)
            take_mode(view, item, false);
    json_array_foreach(json_object_get(answer, "watermarks"), i, item)
        if (take_watermark(view, item))
            return ap_err_set(err, AP_EIO, AP_FATAL, "a watermark in its answer makes no sense");
    return 0;
}

void ap_regions_ask(struct ap_fetcher *f, const struct ap_targets *targets, struct ap_regions_view *out, FILE *why)
{
    struct ap_fetch *asks = calloc(targets->count + 1, sizeof *asks);
    struct ap_err err;
    size_t n = 0;
    *out = (struct ap_regions_view){0};
    if (!asks)
        abort();
    for (size_t i = 0; i < targets->count; i++)
        if (targets->list[i].role == AP_ROLE_PRODUCER) {
            asks[n].method = "GET";
            snprintf(asks[n++].url, sizeof asks->url, "%s/antipode/region", targets->list[i].url);
        }
    ap_fetcher_run(f, asks, n, NULL);
    out->asked = n;
    for (size_t i = 0; i < n; i++) {
        json_t *answer = asks[i].status == 200 ? ap_fetch_result(&asks[i]) : NULL;
        int rc = answer ? ap_regions_take(out, answer, &err) : AP_EIO;
        if (why && rc)
            fprintf(why, "antipode region: %s: %s\n", asks[i].url, answer ? err.msg : asks[i].why);
        out->answered += rc == 0;
        json_decref(answer);
        ap_fetch_fini(&asks[i]);
    }
    free(asks);
}

void ap_regions_fini(struct ap_regions_view *view)
{
    for (size_t i = 0; i < view->count; i++)
        free(view->list[i].positions);
    *view = (struct ap_regions_view){0};
}

/* ---- what is not there yet ---- */

uint64_t ap_positions_shown(const struct ap_position *positions, size_t count, const struct ap_position *of)
{
    uint64_t mark = 0;
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *p = &positions[i];
        if (p->partition != of->partition || strcmp(p->topic, of->topic) != 0)
            continue;
        if (p->stream == of->stream)
            mark = p->mark > mark ? p->mark : mark;
        else if (p->finished && of->lineage && p->lineage == of->lineage && p->stream > of->stream)
            return UINT64_MAX;
    }
    return mark;
}

uint64_t ap_regions_undrained(const struct ap_region_seen *region, const char *origin, const struct ap_position *positions, size_t count)
{
    uint64_t missing = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t mark = strcmp(positions[i].region.name, origin) ? UINT64_MAX : ap_positions_shown(region->positions, region->count, &positions[i]);
        missing += mark < positions[i].mark ? positions[i].mark - mark : 0;
    }
    return missing;
}

/* ---- saying it ---- */

json_t *ap_regions_report(const struct ap_regions_view *view)
{
    json_t *list = json_array();
    for (size_t i = 0; i < view->count; i++) {
        const struct ap_region_seen *r = &view->list[i];
        json_t *undrained = json_object();
        for (size_t k = 0; k < view->count; k++) {
            const struct ap_region_seen *to = &view->list[k];
            if (k != i && strcmp(to->mode, "retired") != 0)
                json_object_set_new(undrained, to->name, r->positions && to->positions
                                    ? json_integer((json_int_t)ap_regions_undrained(to, r->name, r->positions, r->count)) : json_null());
        }
        json_array_append_new(list, json_pack("{s:s,s:s?,s:s?,s:o,s:o}", "region", r->name, "mode", *r->mode ? r->mode : NULL, "incarnation",
                                              *r->incarnation ? r->incarnation : NULL, "watermark_age_s",
                                              r->age_ms >= 0 ? json_real((double)r->age_ms / 1000) : json_null(), "undrained", undrained));
    }
    return json_pack("{s:o}", "regions", list);
}

void ap_regions_print(const json_t *report, FILE *out)
{
    size_t i;
    json_t *r;
    fprintf(out, "%-16s%-11s%-18s%-11s%s\n", "region", "mode", "incarnation", "watermark", "records not visible in");
    json_array_foreach(json_object_get(report, "regions"), i, r) {
        const json_t *age = json_object_get(r, "watermark_age_s");
        const char *mode = text_of(r, "mode"), *incarnation = text_of(r, "incarnation"), *name, *between = "";
        char text[32];
        json_t *n;
        ap_format_seconds(json_is_number(age) ? json_number_value(age) : -1, text, sizeof text);
        fprintf(out, "%-16s%-11s%-18s%-11s", text_of(r, "region"), *mode ? mode : "unknown", *incarnation ? incarnation : "-", text);
        json_object_foreach(json_object_get(r, "undrained"), name, n) {
            if (json_is_integer(n))
                fprintf(out, "%s%s %lld", between, name, (long long)json_integer_value(n));
            else
                fprintf(out, "%s%s unknown", between, name);
            between = ", ";
        }
        fputc('\n', out);
    }
}
