/* The option table and the checks across options. Fails only with AP_EINVAL, and names the key. */
#include "indexer/config.h"
#include <string.h>
#include "common/ann.h"

#define AT(field) offsetof(struct ap_indexer_config, field)

static const struct ap_option options[] = {
    {"region", AP_OPT_STRING, AT(region_text), NULL, 0, 0, true, "name of this region, [a-z][a-z0-9-]{0,14}"},
    {"regions", AP_OPT_STRING, AT(regions_text), "", 0, 0, false, "all regions, separated by commas; if given, this one must be among them"},
    {"store.path", AP_OPT_STRING, AT(store_path), NULL, 0, 0, true, "folder of the store that antipode-consumer writes; waited for until it is there"},
    {"store.map_bytes", AP_OPT_INT, AT(store_map_bytes), "68719476736", 1048576, 1e15, false, "upper bound of the store's file, in bytes; the consumer's value or more"},
    {"store.mapped_bytes", AP_OPT_INT, AT(store_mapped_bytes), "0", 0, 1e15, false, "pages of the store's file that this process keeps mapped, about, in bytes; beyond, they are left to the kernel's cache. 0: no bound"},
    {"worker", AP_OPT_INT, AT(worker), "0", 0, 1023, false, "number of the consumer's worker whose store this is"},
    {"workers", AP_OPT_INT, AT(workers), "1", 1, 1024, false, "consumer workers of this region; 1, because an indexer reads one store"},
    {"index.path", AP_OPT_STRING, AT(index_path), NULL, 0, 0, true, "folder of the sealed segments, made when missing; may be thrown away"},
    {"index.hot_rows", AP_OPT_INT, AT(hot_rows), "8192", 16, 16777216, false, "a hot segment is sealed at this many rows"},
    {"index.merge_fan", AP_OPT_INT, AT(merge_fan), "4", 2, 64, false, "so many sealed segments of about one size become one"},
    {"index.build_threads", AP_OPT_INT, AT(build_threads), "1", 1, 256, false, "threads that build a sealed segment"},
    {"index.unsealed_bytes", AP_OPT_INT, AT(unsealed_bytes), "67108864", 1048576, 1e15, false, "memory of full hot segments that wait to be sealed, at most; then reading waits"},
    {"index.sealed_factory", AP_OPT_STRING, AT(sealed_factory), NULL, 0, 0, false, "FAISS factory string of sealed segments; default: chosen by size"},
    {"index.small", AP_OPT_STRING, AT(small), "", 0, 0, false, "collections whose segments, as they are sealed or merged from now on, hold one bit a dimension instead of eight, separated by commas; *: all"},
    {"index.cold", AP_OPT_STRING, AT(cold), "", 0, 0, false, "collections whose sealed segments stay on the disk instead of in memory, separated by commas; *: all"},
    {"rebuild", AP_OPT_BOOL, AT(rebuild), "false", 0, 0, false, "the index is one that `antipode rebuild` builds beside the serving one: no watermarks are published"},
    {"http.listen", AP_OPT_STRING, AT(listen), "127.0.0.1:8201", 0, 0, false, "address and port of the HTTP API"},
    {"http.max_connections", AP_OPT_INT, AT(max_connections), "512", 1, 65536, false, "connections served at once; more get 503"},
    {"http.idle_timeout_s", AP_OPT_INT, AT(idle_timeout_s), "120", 1, 86400, false, "seconds after which an idle connection is closed"},
    {"max_body_bytes", AP_OPT_INT, AT(max_body_bytes), "67108864", 1024, 1099511627776.0, false, "largest JSON body in bytes; bulk bodies are streamed and have no limit"},
    {"max_limit", AP_OPT_INT, AT(max_limit), "10000", 1, 1000000, false, "largest limit of a query or scroll, and most ids of one retrieval"},
    {"max_offset", AP_OPT_INT, AT(max_offset), "100000", 0, 10000000, false, "largest offset of a query"},
    {"max_batch", AP_OPT_INT, AT(max_batch), "1000", 1, 100000, false, "queries in one batch"},
    {"max_dim", AP_OPT_INT, AT(max_dim), "65536", 1, 65536, false, "largest dimension of a query's vector"},
    {"producer.url", AP_OPT_STRING, AT(producer_url), "http://127.0.0.1:8101", 0, 0, false, "this region's producer, to which writes are passed on"},
    {"peers", AP_OPT_STRING, AT(peers_text), "", 0, 0, false, "a producer of every other region, for bounded and strong reads: us=http://host:port,ap=http://..."},
    {"compare.peers", AP_OPT_STRING, AT(compare_text), "", 0, 0, false, "an indexer of other regions, of the same worker, to compare rows with now and then: us=http://host:port,..."},
    {"compare.interval_s", AP_OPT_INT, AT(compare_interval_s), "60", 1, 86400, false, "seconds between two such rounds; each asks for 64 KiB a collection and region"},
    {"wait.timeout_ms", AP_OPT_INT, AT(wait_timeout_ms), "4000", 1, 3600000, false, "milliseconds that writes and reads wait for what their level asks for, when the request names no timeout"},
    {"watermark.interval_ms", AP_OPT_INT, AT(watermark_interval_ms), "100", 10, 60000, false, "least milliseconds between two published watermarks"},
    {"watermark.busy_interval_ms", AP_OPT_INT, AT(watermark_busy_interval_ms), "20", 10, 60000, false, "the same where rows have become visible: writes in other regions may wait for it"},
    {"qdrant_version", AP_OPT_STRING, AT(qdrant_version), "1.18.0", 0, 0, false, "version of Qdrant's API that GET / answers; clients compare it with their own"},
    {"log.level", AP_OPT_STRING, AT(log_level), "info", 0, 0, false, "debug, info, warn or error"},
    {"log.file", AP_OPT_STRING, AT(log_file), NULL, 0, 0, false, "file the log goes to; default stderr"},
    AP_OPTIONS_END,
};

static int check_regions(struct ap_indexer_config *c, struct ap_err *err)
{
    bool listed = false;
    if (ap_region_parse(c->region_text, strlen(c->region_text), &c->region, err))
        return ap_err_wrap(err, "region");
    for (const char *p = c->regions_text; *p; p += *p == ',') {
        struct ap_region one;
        size_t len = strcspn(p, ","), trimmed = len;
        const char *start = p + strspn(p, " \t");
        p += len;
        if (start > p)
            start = p;
        trimmed = (size_t)(p - start);
        while (trimmed && (start[trimmed - 1] == ' ' || start[trimmed - 1] == '\t'))
            trimmed--;
        if (ap_region_parse(start, trimmed, &one, err))
            return ap_err_wrap(err, "regions");
        listed = listed || !memcmp(&one, &c->region, sizeof one);
    }
    if (*c->regions_text && !listed)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "regions: \"%s\" does not list this region, %s", c->regions_text, c->region_text);
    return 0;
}

static int check_url(const struct ap_indexer_config *c, struct ap_err *err)
{
    const char *url = c->producer_url;
    if ((strncmp(url, "http://", 7) && strncmp(url, "https://", 8)) || strpbrk(url, " ?#") || url[strlen(url) - 1] == '/')
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "producer.url: \"%s\" is not like http://127.0.0.1:8101 (no path, no slash at its end)", url);
    return 0;
}

static int check(struct ap_indexer_config *c, struct ap_err *err)
{
    int rc = check_regions(c, err);
    if (!rc)
        rc = check_url(c, err);
    if (!rc)
        rc = ap_peers_parse(&c->peers, &c->region, c->regions_text, c->peers_text, c->producer_url, err);
    if (!rc)
        rc = ap_peers_parse_some(&c->compare, &c->region, c->regions_text, "compare.peers", c->compare_text, err);
    if (!rc && c->workers > 1) /* its watermark and its answers would speak of some partitions as if they were all */
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "workers: %lld: an indexer serves all partitions of its region from one consumer's store; several are not supported here",
                        (long long)c->workers);
    if (!rc && c->sealed_factory && (rc = ap_ann_check(c->sealed_factory, 0, err)))
        ap_err_wrap(err, "index.sealed_factory \"%s\"", c->sealed_factory);
    if (!rc && c->worker >= c->workers)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "worker: %lld of %lld workers; they count from 0", (long long)c->worker, (long long)c->workers);
    if (rc) {
        ap_config_blame(&c->extra, err);
        ap_indexer_config_free(c);
    }
    return rc;
}

int ap_indexer_config_load(struct ap_indexer_config *config, int argc, char **argv, struct ap_err *err)
{
    int rc = ap_config_load(options, config, &config->extra, argc, argv, err);
    return rc ? rc : check(config, err);
}

int ap_indexer_config_parse(struct ap_indexer_config *config, const char *name, const char *text, size_t len, struct ap_err *err)
{
    int rc = ap_config_parse(options, config, &config->extra, name, text, len, err);
    return rc ? rc : check(config, err);
}

void ap_indexer_config_free(struct ap_indexer_config *config)
{
    ap_config_free(options, config, &config->extra);
}
