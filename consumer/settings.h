/* The consumer's configuration: the table of its options and the struct they fill.
 *
 * Invariant: after ap_consumer_settings_check has returned 0, regions holds the own region first and every name in it
 * once, and every list and range is one the daemon can run with. */
#ifndef ANTIPODE_CONSUMER_SETTINGS_H
#define ANTIPODE_CONSUMER_SETTINGS_H
#include "common/config.h"
#include "common/ident.h"

#define AP_CONSUMER_REGIONS_MAX 32
#define AP_CONSUMER_TOPICS_MAX 16
#define AP_TOPIC_NAME_MAX 63 /* the origin's name of a topic; positions are kept under it */

struct ap_consumer_settings {
    /* As loaded; see ap_consumer_options for the meaning. */
    char *region, *regions, *topics;
    char *store_path;
    int64_t store_map_bytes, store_mapped_bytes, store_sync_ms;
    int64_t worker, workers;
    char *http_listen;
    int64_t batch_rows, batch_bytes;
    int64_t raw_wait_ms, raw_queue_records, raw_queue_bytes;
    int64_t control_wait_ms;
    int64_t clock_max_drift_ms;
    bool rebuild;
    int64_t held_max_records, held_max_bytes;
    int64_t tombstones_margin_ms, tombstones_check_ms;
    char *log_level, *log_file;

    /* Made of them by ap_consumer_settings_check. */
    struct ap_region all_regions[AP_CONSUMER_REGIONS_MAX]; /* the own one first */
    size_t region_count;
    char topic_names[AP_CONSUMER_TOPICS_MAX][AP_TOPIC_NAME_MAX + 1];
    size_t topic_count;
};

extern const struct ap_option ap_consumer_options[];

/* Checks what a table row cannot, and fills the lists. AP_EINVAL names the key and what to write instead. */
int ap_consumer_settings_check(struct ap_consumer_settings *settings, struct ap_err *err);

#endif
