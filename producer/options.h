/* The producer's configuration: one table row per option, and what follows from them (the list of regions, topics).
 *
 * Invariant: after ap_producer_config_load returns 0 every value is in range and consistent with the others. */
#ifndef ANTIPODE_PRODUCER_OPTIONS_H
#define ANTIPODE_PRODUCER_OPTIONS_H
#include "common/config.h"
#include "common/ident.h"

#define AP_REGIONS_MAX 16
#define AP_TOPICS_MAX 16

struct ap_producer_config {
    char *region_text, *regions_text, *topics_text, *instance, *rejoin_text;
    int64_t partitions;
    char *listen, *indexer_url;
    int64_t max_connections, idle_timeout_s;
    int64_t max_body_bytes, max_dim, max_points, max_record_bytes;
    int64_t queue_records, queue_bytes, request_timeout_ms;
    int64_t clock_offset_ms, clock_max_drift_ms;
    int64_t bulk_batch_rows, encode_threads;
    int64_t train_rows, train_wait_ms, train_threads;
    char *spool_dir;
    int64_t spool_max_bytes, spool_after_ms;
    char *write_level_text;
    char *qdrant_version, *log_level, *log_file;

    struct ap_config_extra extra;
    struct ap_region region;
    uint64_t rejoin; /* 0: not */
    struct ap_region others[AP_REGIONS_MAX]; /* the mirrored ones */
    size_t other_count;
    char *topics[AP_TOPICS_MAX]; /* mutation topics; owned */
    size_t topic_count;
    int write_level; /* enum ap_write_level, of writes that name none */
};

/* As ap_config_load; additionally checks what the table cannot. */
int ap_producer_config_load(struct ap_producer_config *config, int argc, char **argv, struct ap_err *err);
/* For tests: from the text of a file. */
int ap_producer_config_parse(struct ap_producer_config *config, const char *name, const char *text, size_t len, struct ap_err *err);
void ap_producer_config_free(struct ap_producer_config *config);

#endif
