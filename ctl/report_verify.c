/* One JSON object a pair of regions and collection; the text is made from it. */
#include "ctl/report_verify.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/clock.h"

enum { DAMAGED = 4 };

uint64_t ap_verify_index_findings(const struct ap_side *s)
{
    static const char *const kinds[] = {"dead", "missing", "astray", "segments"};
    uint64_t n = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        n += ap_side_scrubbed(s, "index", kinds[i]);
    return n;
}

bool ap_verify_is_equal(const struct ap_side sides[2], const struct ap_comparison *c)
{
    bool equal = !c->found && !c->buckets && !c->other_generation;
    for (int side = 0; side < 2; side++)
        equal = equal && !c->collection_missing[side] && !ap_side_scrubbed(&sides[side], "digests", NULL) && !ap_verify_index_findings(&sides[side]);
    return equal;
}

/* --- JSON --- */

static json_t *version_json(const struct ap_side_row *row)
{
    char hlc[40], writer[20], text[48];
    time_t seconds = (time_t)(ap_hlc_ms(row->hlc) / 1000);
    struct tm tm;
    snprintf(hlc, sizeof hlc, "%lld.%u", (long long)ap_hlc_ms(row->hlc), (unsigned)(row->hlc & 0xffff));
    snprintf(writer, sizeof writer, "%016llx", (unsigned long long)row->writer);
    gmtime_r(&seconds, &tm);
    size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(ap_hlc_ms(row->hlc) % 1000));
    return json_pack("{s:s,s:s,s:s,s:s,s:b}", "hlc", hlc, "time", text, "region", row->region.name, "writer", writer, "live", row->flags & 1);
}

static json_t *difference_json(const struct ap_side sides[2], const struct ap_difference *d)
{
    json_t *rows = json_object();
    for (int side = 0; side < 2; side++)
        json_object_set_new(rows, sides[side].region,
                            !d->there[side] ? json_null() : d->rows[side].flags & DAMAGED ? json_string("damaged") : version_json(&d->rows[side]));
    return json_pack("{s:o,s:s,s:s,s:o}", "id", ap_point_id_to_json(&d->id), "kind", ap_difference_name(d->kind), "region", sides[d->side].region, "rows", rows);
}

json_t *ap_report_comparison(const struct ap_side sides[2], const char *collection, const struct ap_comparison *c, double seconds, uint64_t bytes)
{
    json_t *list = json_array(), *scrubs = json_object(), *rows = json_object(), *missing = json_array();
    bool scrubbed = false;
    for (size_t i = 0; i < c->count; i++)
        if (!c->list[i].dropped && c->list[i].settled)
            json_array_append_new(list, difference_json(sides, &c->list[i]));
    for (int side = 0; side < 2; side++) {
        json_object_set_new(rows, sides[side].region, json_integer((json_int_t)sides[side].rows));
        if (sides[side].scrub)
            json_object_set(scrubs, sides[side].region, sides[side].scrub);
        if (c->collection_missing[side])
            json_array_append_new(missing, json_string(sides[side].region));
        scrubbed |= sides[side].scrub != NULL;
    }
    json_t *out = json_pack("{s:s,s:[s,s],s:b,s:o,s:o,s:I,s:I,s:I,s:I,s:o,s:b,s:f,s:I}", "collection", collection, "regions", sides[0].region, sides[1].region,
                            "equal", ap_verify_is_equal(sides, c), "rows", rows, "differences", list, "under_way", (json_int_t)c->under_way,
                            "collected", (json_int_t)c->collected, "leftovers", (json_int_t)c->leftovers, "wrong_digests", (json_int_t)c->buckets,
                            "missing_in", missing, "other_generation", c->other_generation, "seconds", seconds, "bytes", (json_int_t)bytes);
    if (scrubbed)
        json_object_set(out, "scrub", scrubs);
    json_decref(scrubs);
    return out;
}

void ap_report_repair(json_t *comparison, const struct ap_mended *m, bool planned, bool equal_now)
{
    json_object_set_new(comparison, "repair", json_pack("{s:b,s:I,s:I,s:I,s:b}", "planned", planned, "rows", (json_int_t)m->rows, "published",
                                                        (json_int_t)m->published, "deleted", (json_int_t)m->deleted, "equal_now", equal_now));
}

/* --- text --- */

static long long count_of(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

static void print_difference(const json_t *d, FILE *out)
{
    json_t *id = json_object_get(d, "id"), *row;
    const char *region;
    char *text = json_dumps(id, JSON_ENCODE_ANY);
    fprintf(out, "  %-9s in %-8s %s", json_string_value(json_object_get(d, "kind")), json_string_value(json_object_get(d, "region")), text ? text : "?");
    free(text);
    json_object_foreach(json_object_get(d, "rows"), region, row) {
        const char *time = json_string_value(json_object_get(row, "time"));
        fprintf(out, "  %s: %s%s", region, json_is_null(row) ? "none" : time ? time : "damaged",
                time && !json_is_true(json_object_get(row, "live")) ? " (tombstone)" : "");
    }
    fputc('\n', out);
}

static void print_scrub(const char *region, const json_t *reports, FILE *out)
{
    size_t i;
    json_t *r;
    json_array_foreach(reports, i, r) {
        const json_t *index = json_object_get(r, "index");
        fprintf(out, "  scrubbed %s: %lld rows in %.2f s, %lld damaged, %lld unreadable; sums of %lld buckets are wrong; index: %lld dead, %lld missing, %lld astray, %lld bad segments\n",
                region, count_of(r, "rows"), json_number_value(json_object_get(r, "seconds")), count_of(r, "damaged"), count_of(r, "unreadable"),
                count_of(r, "digests"), count_of(index, "dead"), count_of(index, "missing"), count_of(index, "astray"), count_of(index, "segments"));
    }
}

static void print_one(const json_t *c, size_t limit, FILE *out)
{
    const json_t *regions = json_object_get(c, "regions"), *rows = json_object_get(c, "rows"), *list = json_object_get(c, "differences");
    const char *a = json_string_value(json_array_get(regions, 0)), *b = json_string_value(json_array_get(regions, 1)), *region;
    json_t *d, *reports, *repair = json_object_get(c, "repair");
    size_t i;
    fprintf(out, "%s: %s %s: ", json_string_value(json_object_get(c, "collection")), a, b);
    if (json_array_size(json_object_get(c, "missing_in")))
        fprintf(out, "there is no such collection in %s\n", json_string_value(json_array_get(json_object_get(c, "missing_in"), 0)));
    else if (json_is_true(json_object_get(c, "other_generation")))
        fprintf(out, "the regions mean different generations of it; is vec-control behind?\n");
    else
        fprintf(out, "%s, %lld and %lld rows, %zu differences, %lld under way (%.2f s, %.2f MB)\n", json_is_true(json_object_get(c, "equal")) ? "equal" : "DIFFERENT",
                count_of(rows, a), count_of(rows, b), json_array_size(list), count_of(c, "under_way"), json_number_value(json_object_get(c, "seconds")),
                (double)count_of(c, "bytes") / 1e6);
    json_array_foreach(list, i, d) {
        if (i == limit)
            break;
        print_difference(d, out);
    }
    if (json_array_size(list) > limit)
        fprintf(out, "  ... %zu more\n", json_array_size(list) - limit);
    if (count_of(c, "wrong_digests"))
        fprintf(out, "  sums of %lld buckets differ though their rows are equal: use --scrub to see whose, --repair to count them anew\n", count_of(c, "wrong_digests"));
    if (count_of(c, "leftovers"))
        fprintf(out, "  %lld damaged slots belong to no point that the other region knows; the cleaner will drop them\n", count_of(c, "leftovers"));
    json_object_foreach(json_object_get(c, "scrub"), region, reports)
        print_scrub(region, reports, out);
    if (repair && json_is_true(json_object_get(repair, "planned")))
        fprintf(out, "  would publish %lld rows and delete %lld\n", count_of(repair, "published"), count_of(repair, "deleted"));
    else if (repair)
        fprintf(out, "  repaired: %lld rows, %lld published, %lld deleted; %s\n", count_of(repair, "rows"), count_of(repair, "published"), count_of(repair, "deleted"),
                json_is_true(json_object_get(repair, "equal_now")) ? "equal now" : "STILL DIFFERENT");
}

void ap_report_print_verify(const json_t *report, size_t limit, FILE *out)
{
    size_t i;
    json_t *c;
    json_array_foreach(report, i, c)
        print_one(c, limit, out);
}

/* --- metrics --- */

void ap_report_print_metrics(const json_t *report, int64_t now_s, FILE *out)
{
    static const struct { const char *name, *help, *key; } gauges[] = {
        {"antipode_verify_different", "1 when the regions differ: rows, sums, indexes, or the collection itself.", NULL},
        {"antipode_verify_differences", "Rows that differ.", "differences"},
        {"antipode_verify_under_way", "Rows that differed because writes were under way.", "under_way"},
        {"antipode_verify_seconds", "How long the comparison took.", "seconds"},
    };
    for (size_t g = 0; g < sizeof gauges / sizeof *gauges; g++) {
        size_t i;
        json_t *c;
        fprintf(out, "# HELP %s %s\n# TYPE %s gauge\n", gauges[g].name, gauges[g].help, gauges[g].name);
        json_array_foreach(report, i, c) {
            const json_t *regions = json_object_get(c, "regions"), *value = gauges[g].key ? json_object_get(c, gauges[g].key) : NULL;
            double number = json_is_array(value) ? (double)json_array_size(value) : value ? json_number_value(value) : !json_is_true(json_object_get(c, "equal"));
            fprintf(out, "%s{collection=\"%s\",a=\"%s\",b=\"%s\"} %.9g\n", gauges[g].name, json_string_value(json_object_get(c, "collection")),
                    json_string_value(json_array_get(regions, 0)), json_string_value(json_array_get(regions, 1)), number);
        }
    }
    fprintf(out, "# HELP antipode_verify_timestamp_seconds When the regions were last compared.\n# TYPE antipode_verify_timestamp_seconds gauge\n"
                 "antipode_verify_timestamp_seconds %lld\n", (long long)now_s);
}
