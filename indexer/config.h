/* The indexer's configuration: one table row per option, and what follows from them.
 *
 * Invariant: after ap_indexer_config_load returns 0 every value is in range and consistent with the others. */
#ifndef ANTIPODE_INDEXER_CONFIG_H
#define ANTIPODE_INDEXER_CONFIG_H
#include "common/config.h"
#include "common/ident.h"
#include "indexer/peers.h"

struct ap_indexer_config {
    char *region_text, *regions_text;
    char *store_path;
    int64_t store_map_bytes, store_mapped_bytes, worker, workers;
    char *index_path;
    int64_t hot_rows, merge_fan, build_threads, unsealed_bytes;
    char *sealed_factory; /* NULL: chosen by size */
    char *cold, *small;           /* collections, or "*" */
    bool rebuild;
    char *listen;
    int64_t max_connections, idle_timeout_s, max_body_bytes, max_limit, max_offset, max_batch, max_dim;
    char *producer_url, *peers_text, *compare_text;
    int64_t compare_interval_s, wait_timeout_ms, watermark_interval_ms, watermark_busy_interval_ms;
    char *qdrant_version, *log_level, *log_file;

    struct ap_config_extra extra;
    struct ap_region region;
    struct ap_peers peers; /* of all regions */
    struct ap_peers compare; /* other regions' indexers */
};

/* As ap_config_load; additionally checks what the table cannot. */
int ap_indexer_config_load(struct ap_indexer_config *config, int argc, char **argv, struct ap_err *err);
/* For tests: from the text of a file. */
int ap_indexer_config_parse(struct ap_indexer_config *config, const char *name, const char *text, size_t len, struct ap_err *err);
void ap_indexer_config_free(struct ap_indexer_config *config);

#endif
