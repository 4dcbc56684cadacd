/* Names and words of the consumer's counters; see tally.h for when they move. */
#include "consumer/tally.h"

#include <stdio.h>
#include <string.h>

static const struct { const char *name, *help; } words[AP_TALLY_KINDS] = {
    [AP_TALLY_APPLIED] = {"antipode_consumer_applied_total", "Mutations merged into the store, by region of origin"},
    [AP_TALLY_UNCHANGED] = {"antipode_consumer_unchanged_total", "Mutations applied that were older than their row"},
    [AP_TALLY_LATE] = {"antipode_consumer_late_total", "Records that arrived inside a hole and were applied"},
    [AP_TALLY_HEARTBEATS] = {"antipode_consumer_heartbeats_total", "Heartbeats, hellos and barriers"},
    [AP_TALLY_DUPLICATES] = {"antipode_consumer_duplicates_total", "Records at a position that was already applied, skipped"},
    [AP_TALLY_DEAD] = {"antipode_consumer_dead_letters_total", "Records set aside in dlq-mutations"},
    [AP_TALLY_DELETED] = {"antipode_consumer_deleted_collection_total", "Mutations of deleted collections, not stored"},
    [AP_TALLY_UNREGISTERED] = {"antipode_consumer_unregistered_total", "Records of streams that are not registered to their origin"},
    [AP_TALLY_RETIRED] = {"antipode_consumer_retired_total", "Records of retired incarnations that came too late to count"},
    [AP_TALLY_DRIFT] = {"antipode_consumer_clock_drift_total", "Records whose clock was more than clock.max_drift_ms ahead, held"},
    [AP_TALLY_RELEASED] = {"antipode_consumer_held_released_total", "Held records whose time has come"},
    [AP_TALLY_RAW_MATCHED] = {"antipode_consumer_raw_matched_total", "Raw vectors stored with their rows"},
    [AP_TALLY_RAW_DROPPED] = {"antipode_consumer_raw_dropped_total", "Raw vectors whose row has moved on or never came"},
    [AP_TALLY_RAW_EXPIRED] = {"antipode_consumer_raw_expired_total", "Raw vectors dropped after raw.wait_ms without their mutation"},
    [AP_TALLY_CONTROL] = {"antipode_consumer_control_total", "Control records read"},
    [AP_TALLY_CONTROL_REFUSED] = {"antipode_consumer_control_refused_total", "Control records that do not check, dead-lettered"},
};

void ap_tallies_init(struct ap_tallies *t, const struct ap_consumer_settings *settings, struct ap_metrics *metrics)
{
    memset(t, 0, sizeof *t);
    t->origins = settings->region_count;
    for (size_t kind = 0; kind < AP_TALLY_KINDS; kind++) {
        for (size_t r = 0; r < t->origins; r++) {
            char labels[64];
            snprintf(labels, sizeof labels, "origin=\"%s\"", settings->all_regions[r].name);
            t->counters[r][kind] = ap_counter(metrics, words[kind].name, labels, words[kind].help);
        }
    }
}

void ap_tallies_flush(struct ap_tallies *t)
{
    for (size_t r = 0; r < t->origins; r++)
        for (size_t kind = 0; kind < AP_TALLY_KINDS; kind++)
            if (t->pending[r][kind])
                ap_count(t->counters[r][kind], t->pending[r][kind]);
    memset(t->pending, 0, sizeof t->pending);
}
