/* From pages of metrics to one report: first as JSON, which is what --json prints, then from that as text. */
#include "ctl/report.h"

#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"

/* Names an indexer may count its points by, the first that is there counts. */
static const char *const point_metrics[] = {"antipode_index_points", "antipode_index_rows_live", "antipode_indexer_points"};
static const char *const index_byte_metrics[] = {"antipode_index_bytes", "antipode_index_segment_bytes"};

/* Negative is unknown; so is what JSON cannot say, and what no daemon of ours counts to. */
static json_t *number(double value)
{
    if (!(value >= 0 && value < 9e15))
        return json_null();
    return value == (double)(json_int_t)value ? json_integer((json_int_t)value) : json_real(value);
}

/* Of all daemons of a region, summed; -1 when none has it. */
static double region_sum(const struct ap_targets *t, const char *region, const char *name)
{
    double sum = -1;
    for (size_t i = 0; i < t->count; i++) {
        if (strcmp(t->list[i].region, region))
            continue;
        double one = ap_page_sum(&t->list[i].page, name, NULL, NULL, -1);
        if (one >= 0)
            sum = sum < 0 ? one : sum + one;
    }
    return sum;
}

static double first_of(const struct ap_targets *t, const char *region, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        double value = region_sum(t, region, names[i]);
        if (value >= 0)
            return value;
    }
    return -1;
}

static json_t *daemon_json(const struct ap_target *t)
{
    json_t *out = json_pack("{s:s,s:s,s:b,s:b}", "role", ap_role_name(t->role), "url", t->url, "up", t->up, "ready", t->ready);
    if (*t->why)
        json_object_set_new(out, "why", json_string(t->why));
    json_object_set_new(out, "memory_bytes", number(ap_page_sum(&t->page, "process_resident_memory_bytes", NULL, NULL, -1)));
    return out;
}

/* Worst partition of each origin: seconds behind, and records that wait in this region's own Kafka. */
static void add_lag(json_t *lag, const struct ap_target *t)
{
    for (size_t i = 0; i < t->page.count; i++) {
        const struct ap_sample *s = &t->page.samples[i];
        bool seconds = !strcmp(s->name, "replication_lag_seconds"), records = !strcmp(s->name, "antipode_consumer_kafka_lag_records");
        char origin[32];
        if ((!seconds && !records) || !ap_sample_label(s, "origin", origin, sizeof origin))
            continue;
        json_t *one = json_object_get(lag, origin);
        if (!one)
            json_object_set_new(lag, origin, one = json_object());
        const char *key = seconds ? "seconds" : "records";
        double had = json_number_value(json_object_get(one, key));
        double value = seconds ? (s->value > had ? s->value : had) : s->value + had;
        json_object_set_new(one, key, seconds && value < 9e15 ? json_real(value) : number(value));
    }
}

/* What the background compare found: {region: {"differing", "age_seconds"}}. */
static void add_compare(json_t *compare, const struct ap_target *t)
{
    for (size_t i = 0; i < t->page.count; i++) {
        const struct ap_sample *s = &t->page.samples[i];
        char region[32];
        bool differing = !strcmp(s->name, "antipode_compare_differing_buckets"), when = !strcmp(s->name, "antipode_compare_last_success_timestamp_seconds");
        if ((!differing && !when) || !ap_sample_label(s, "region", region, sizeof region))
            continue;
        json_t *one = json_object_get(compare, region);
        if (!one)
            json_object_set_new(compare, region, one = json_object());
        double had = json_number_value(json_object_get(one, differing ? "differing" : "age_seconds"));
        double value = differing ? s->value + had : (double)ap_wall_ms() / 1000 - s->value;
        json_object_set_new(one, differing ? "differing" : "age_seconds", differing ? number(value) : json_real(value > had ? value : had));
    }
}

/* Who keeps this region's tombstones, and why. */
static void add_held_up(json_t *list, const struct ap_target *t)
{
    for (size_t i = 0; i < t->page.count; i++) {
        const struct ap_sample *s = &t->page.samples[i];
        char by[32] = "", why[32] = "", origin[32] = "", topic[96] = "", partition[16] = "";
        if (strcmp(s->name, "antipode_tombstones_held_up"))
            continue;
        ap_sample_label(s, "by", by, sizeof by);
        ap_sample_label(s, "why", why, sizeof why);
        ap_sample_label(s, "origin", origin, sizeof origin);
        ap_sample_label(s, "topic", topic, sizeof topic);
        ap_sample_label(s, "partition", partition, sizeof partition);
        json_t *one = json_pack("{s:s,s:s}", "by", by, "why", why);
        if (*origin) {
            json_object_set_new(one, "origin", json_string(origin));
            json_object_set_new(one, "topic", json_string(topic));
            json_object_set_new(one, "partition", json_integer(atoi(partition)));
        }
        json_array_append_new(list, one);
    }
}

static json_t *region_json(const struct ap_targets *t, const char *region)
{
    static const struct { const char *key, *metric; } sums[] = {
        {"holes", "antipode_consumer_hole_records"}, {"duplicates", "antipode_consumer_duplicates_total"},
        {"late", "antipode_consumer_late_total"}, {"dead_letters", "antipode_consumer_dead_letters_total"},
        {"unregistered", "antipode_consumer_unregistered_total"}, {"waiting_for_schema", "antipode_consumer_waiting_schema"}, {"given_up", "antipode_consumer_given_up_records"},
        {"applied", "antipode_consumer_applied_total"}, {"store_bytes", "antipode_store_used_bytes"},
        {"store_file_bytes", "antipode_store_file_bytes"}, {"store_rows", "antipode_store_rows"},
        {"spooled", "antipode_producer_spool_writes"},
        {"held", "antipode_consumer_held_records"}, {"waiting_for_clock", "antipode_consumer_waiting_clock"},
        {"tombstones", "antipode_tombstones"}, {"tombstones_collected", "antipode_tombstones_collected_total"},
    };
    json_t *out = json_object(), *daemons = json_array(), *lag = json_object(), *compare = json_object(), *held_up = json_array();
    const char *state = "ready";
    json_object_set_new(out, "region", json_string(region));
    for (size_t i = 0; i < t->count; i++) {
        const struct ap_target *one = &t->list[i];
        if (strcmp(one->region, region))
            continue;
        if (!one->up)
            state = "down";
        else if (!one->ready && strcmp(state, "down"))
            state = "not ready";
        json_array_append_new(daemons, daemon_json(one));
        add_lag(lag, one);
        add_compare(compare, one);
        add_held_up(held_up, one);
    }
    json_object_set_new(out, "state", json_string(state));
    json_object_set_new(out, "daemons", daemons);
    json_object_set_new(out, "lag", lag);
    json_object_set_new(out, "compare", compare);
    json_object_set_new(out, "tombstones_held_up", held_up);
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        json_object_set_new(out, sums[i].key, number(region_sum(t, region, sums[i].metric)));
    json_object_set_new(out, "points", number(first_of(t, region, point_metrics, sizeof point_metrics / sizeof *point_metrics)));
    json_object_set_new(out, "index_bytes", number(first_of(t, region, index_byte_metrics, sizeof index_byte_metrics / sizeof *index_byte_metrics)));
    return out;
}

/* All are ready, nothing is missing and nothing waits for a person. */
static bool is_well(const json_t *region)
{
    static const char *const troubles[] = {"holes", "waiting_for_schema", "waiting_for_clock", "spooled"};
    if (strcmp(json_string_value(json_object_get(region, "state")), "ready"))
        return false;
    for (size_t i = 0; i < sizeof troubles / sizeof *troubles; i++)
        if (json_number_value(json_object_get(region, troubles[i])) > 0)
            return false;
    const char *with;
    json_t *one;
    json_object_foreach(json_object_get(region, "compare"), with, one)
        if (json_number_value(json_object_get(one, "differing")) > 0)
            return false;
    return true;
}

json_t *ap_report_status(const struct ap_targets *t)
{
    json_t *regions = json_array();
    bool well = t->count > 0;
    for (size_t i = 0; i < t->count; i++) {
        if (i && !strcmp(t->list[i].region, t->list[i - 1].region))
            continue; /* sorted by region */
        json_t *region = region_json(t, t->list[i].region);
        well = well && is_well(region);
        json_array_append_new(regions, region);
    }
    return json_pack("{s:o,s:b}", "regions", regions, "well", well);
}

/* Records that wait, of the same origin, topic and partition; -1 when unknown. */
static double records_of(const struct ap_page *page, const char *labels)
{
    for (size_t i = 0; i < page->count; i++)
        if (!strcmp(page->samples[i].name, "antipode_consumer_kafka_lag_records") && !strcmp(page->samples[i].labels, labels))
            return page->samples[i].value;
    return -1;
}

json_t *ap_report_lag(const struct ap_targets *t)
{
    json_t *all = json_array();
    for (size_t i = 0; i < t->count; i++) {
        const struct ap_target *target = &t->list[i];
        for (size_t k = 0; k < target->page.count; k++) {
            const struct ap_sample *s = &target->page.samples[k];
            char origin[32], topic[96], partition[16];
            if (strcmp(s->name, "replication_lag_seconds") || !ap_sample_label(s, "origin", origin, sizeof origin))
                continue;
            ap_sample_label(s, "topic", topic, sizeof topic);
            ap_sample_label(s, "partition", partition, sizeof partition);
            json_array_append_new(all, json_pack("{s:s,s:s,s:s,s:i,s:o,s:o}", "region", target->region, "origin", origin, "topic", topic,
                                                 "partition", atoi(partition), "seconds", number(s->value), "records",
                                                 number(records_of(&target->page, s->labels))));
        }
    }
    return json_pack("{s:o}", "lag", all);
}
