/* A report for people: one block a region; what is wrong is said first and in words. */
#include "ctl/report.h"

#include <stdlib.h>
#include <string.h>

void ap_format_seconds(double s, char *out, size_t cap)
{
    if (s < 0)
        snprintf(out, cap, "-");
    else if (s < 1)
        snprintf(out, cap, "%.0f ms", s * 1000);
    else if (s < 120)
        snprintf(out, cap, "%.1f s", s);
    else if (s < 7200)
        snprintf(out, cap, "%.0f min", s / 60);
    else
        snprintf(out, cap, "%d h %d min", (int)(s / 3600), (int)(s / 60) % 60);
}

void ap_format_bytes(double bytes, char *out, size_t cap)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t unit = 0;
    if (bytes < 0) {
        snprintf(out, cap, "-");
        return;
    }
    for (; bytes >= 1000 && unit + 1 < sizeof units / sizeof *units; unit++)
        bytes /= 1000;
    snprintf(out, cap, bytes < 10 && unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static double value_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : -1;
}

static void print_daemons(const json_t *region, FILE *out)
{
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(region, "daemons"), i, one) {
        char memory[32];
        bool up = json_is_true(json_object_get(one, "up")), ready = json_is_true(json_object_get(one, "ready"));
        ap_format_bytes(value_of(one, "memory_bytes"), memory, sizeof memory);
        fprintf(out, "  %-9s %-28s %-9s %8s", text_of(one, "role"), text_of(one, "url"), !up ? "DOWN" : ready ? "ready" : "NOT READY", memory);
        fprintf(out, *text_of(one, "why") ? "  %s\n" : "%s\n", text_of(one, "why"));
    }
}

static void print_lag_line(const json_t *region, FILE *out)
{
    const char *origin;
    json_t *one;
    bool first = true;
    json_object_foreach(json_object_get(region, "lag"), origin, one) {
        char seconds[32];
        double behind = value_of(one, "seconds"), records = behind < 1 ? 0 : value_of(one, "records"); /* else: on their way */
        ap_format_seconds(behind, seconds, sizeof seconds);
        fprintf(out, "%s%s %s behind", first ? "  lag       " : ", ", origin, seconds);
        if (records > 0)
            fprintf(out, " (%.0f records wait here)", records);
        first = false;
    }
    if (!first)
        fputc('\n', out);
}

static void print_count(const json_t *region, const char *key, const char *words, FILE *out)
{
    double value = value_of(region, key);
    if (value > 0)
        fprintf(out, "  %-9s %.0f %s\n", "!", value, words);
}

static void print_compare(const json_t *region, FILE *out)
{
    const char *with;
    json_t *one;
    json_object_foreach(json_object_get(region, "compare"), with, one) {
        char age[32];
        double differing = value_of(one, "differing");
        ap_format_seconds(value_of(one, "age_seconds"), age, sizeof age);
        if (differing > 0)
            fprintf(out, "  !         %.0f buckets of rows DIFFER from %s's, and stay so (%s ago): antipode verify %s %s\n", differing, with, age, text_of(region, "region"), with);
        else
            fprintf(out, "  compare   no rows of long ago differ from %s's (%s ago)\n", with, age);
    }
}

static void print_tombstones(const json_t *region, FILE *out)
{
    static const struct { const char *why, *words; } reasons[] = {
        {"unheard", "no watermark of it has come"}, {"unsaid", "it does not say yet what is settled there"},
        {"forever", "its logs keep records for ever"}, {"behind", "it has not applied"}, {"unsettled", "something is missing, held or dead there"},
        {"hole", "records are missing here"}, {"held", "events are held here"}, {"dead_letter", "dead letters are open here"}, {"unsynced", "the newest batch is not on the disk yet"}};
    size_t i;
    json_t *one;
    if (value_of(region, "tombstones") < 0)
        return;
    fprintf(out, "  keeps     %.0f tombstones", value_of(region, "tombstones"));
    json_array_foreach(json_object_get(region, "tombstones_held_up"), i, one) {
        const char *words = text_of(one, "why");
        for (size_t k = 0; k < sizeof reasons / sizeof *reasons; k++)
            if (!strcmp(reasons[k].why, words))
                words = reasons[k].words;
        fprintf(out, "%s%s (%s", i ? ", " : "; held up by ", text_of(one, "by"), words);
        if (*text_of(one, "origin"))
            fprintf(out, " %s's %s[%.0f]", text_of(one, "origin"), text_of(one, "topic"), value_of(one, "partition"));
        fputc(')', out);
    }
    fputc('\n', out);
}

static void print_region(const json_t *region, FILE *out)
{
    char store[32], index[32], points[32];
    const char *name = text_of(region, "region");
    fprintf(out, "%s  %s\n", *name ? name : "(region unknown)", text_of(region, "state"));
    print_daemons(region, out);
    print_lag_line(region, out);
    ap_format_bytes(value_of(region, "store_bytes"), store, sizeof store);
    ap_format_bytes(value_of(region, "index_bytes"), index, sizeof index);
    snprintf(points, sizeof points, value_of(region, "points") < 0 ? "-" : "%.0f", value_of(region, "points"));
    fprintf(out, "  holds     %s points; store %s, index %s\n", points, store, index);
    print_compare(region, out);
    print_tombstones(region, out);
    print_count(region, "held", "records are HELD: their clocks are ahead of ours; set the time", out);
    print_count(region, "waiting_for_clock", "partitions WAIT: no more records with clocks ahead can be held", out);
    print_count(region, "holes", "records are MISSING (holes): antipode_consumer_hole says which", out);
    print_count(region, "spooled", "accepted writes lie in a producer's SPOOL: Kafka is away, or just back", out);
    print_count(region, "waiting_for_schema", "partitions WAIT for a schema nobody has published", out);
    print_count(region, "dead_letters", "dead letters since the start of the consumer: antipode cat -t dlq-mutations", out);
    print_count(region, "given_up", "missing records that are waited for no longer, as somebody decided", out);
    print_count(region, "unregistered", "records of streams that nobody registered", out);
    print_count(region, "duplicates", "duplicates skipped (harmless: a mirror or a producer sent them twice)", out);
    print_count(region, "late", "late records applied inside a hole", out);
}

void ap_report_print_status(const json_t *report, FILE *out)
{
    size_t i;
    json_t *region;
    json_array_foreach(json_object_get(report, "regions"), i, region) {
        if (i)
            fputc('\n', out);
        print_region(region, out);
    }
}

void ap_report_print_lag(const json_t *report, FILE *out)
{
    size_t i;
    json_t *one;
    fprintf(out, "%-12s %-12s %-24s %9s %14s %10s\n", "in", "of", "topic", "partition", "behind", "records");
    json_array_foreach(json_object_get(report, "lag"), i, one) {
        char seconds[32], records[32];
        ap_format_seconds(value_of(one, "seconds"), seconds, sizeof seconds);
        snprintf(records, sizeof records, value_of(one, "records") < 0 ? "-" : "%.0f", value_of(one, "records"));
        fprintf(out, "%-12s %-12s %-24s %9d %14s %10s\n", text_of(one, "region"), text_of(one, "origin"), text_of(one, "topic"),
                (int)value_of(one, "partition"), seconds, records);
    }
}
