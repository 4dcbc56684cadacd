/* Options of antipode-consumer. A list is split and checked once here; nobody parses text after the start. */
#include "consumer/settings.h"

#include <stdio.h>
#include <string.h>

#define FIELD(name) offsetof(struct ap_consumer_settings, name)

const struct ap_option ap_consumer_options[] = {
    {"region", AP_OPT_STRING, FIELD(region), NULL, 0, 0, true, "this region's name: [a-z][a-z0-9-]{0,14}"},
    {"regions", AP_OPT_STRING, FIELD(regions), NULL, 0, 0, true, "all regions, this one too, separated by commas"},
    {"topics", AP_OPT_STRING, FIELD(topics), "vec-mutations", 0, 0, false, "mutation topics, by their names at the origin, separated by commas"},
    {"store.path", AP_OPT_STRING, FIELD(store_path), NULL, 0, 0, true, "folder of the store, made when missing"},
    {"store.map_bytes", AP_OPT_INT, FIELD(store_map_bytes), "68719476736", 1 << 20, 1e15, false, "upper bound of the store's file, in bytes; sparse until used"},
    {"store.mapped_bytes", AP_OPT_INT, FIELD(store_mapped_bytes), "0", 0, 1e15, false, "pages of the store's file that this process keeps mapped, about, in bytes; beyond, they are left to the kernel's cache. 0: no bound"},
    {"store.sync_ms", AP_OPT_INT, FIELD(store_sync_ms), "200", 0, 10000, false, "how much of the newest a crash of the machine may take back, to be read from Kafka again; 0: every batch waits for the disk"},
    {"worker", AP_OPT_INT, FIELD(worker), "0", 0, 1023, false, "number of this worker: it has the partitions p with p mod workers = worker"},
    {"workers", AP_OPT_INT, FIELD(workers), "1", 1, 1024, false, "workers of this region, each with a store of its own"},
    {"http.listen", AP_OPT_STRING, FIELD(http_listen), "127.0.0.1:8301", 0, 0, false, "address of health and metrics"},
    {"batch.rows", AP_OPT_INT, FIELD(batch_rows), "20000", 1, 1000000, false, "records in one transaction of the store, at most"},
    {"batch.bytes", AP_OPT_INT, FIELD(batch_bytes), "33554432", 1024, 1e9, false, "bytes of records in one transaction of the store, at most"},
    {"raw.wait_ms", AP_OPT_INT, FIELD(raw_wait_ms), "60000", 0, 86400000, false, "how long a raw vector waits for its mutation while that partition is at its end, in ms"},
    {"raw.queue_records", AP_OPT_INT, FIELD(raw_queue_records), "8192", 1, 1000000, false, "raw vectors that wait for their mutations, per partition; at most"},
    {"raw.queue_bytes", AP_OPT_INT, FIELD(raw_queue_bytes), "33554432", 1024, 1e9, false, "bytes of raw vectors that wait for their mutations, per partition; at most"},
    {"control.wait_ms", AP_OPT_INT, FIELD(control_wait_ms), "10000", 0, 3600000, false, "how long a region's mutations wait for a control topic that does not exist yet, and a new stream for its registration before it is reported, in ms"},
    {"rebuild", AP_OPT_BOOL, FIELD(rebuild), "false", 0, 0, false, "the store is one that `antipode rebuild` builds beside the serving one: no dead letters are written, no offsets told to Kafka"},
    {"clock.max_drift_ms", AP_OPT_INT, FIELD(clock_max_drift_ms), "60000", 0, 1e12, false, "an event whose clock is further ahead of ours is held until its time comes, in ms"},
    {"held.max_records", AP_OPT_INT, FIELD(held_max_records), "100000", 1, 1e8, false, "events held because their clocks are ahead, at most; then their partitions wait"},
    {"held.max_bytes", AP_OPT_INT, FIELD(held_max_bytes), "67108864", 1024, 1e12, false, "bytes of events held, at most"},
    {"tombstones.margin_ms", AP_OPT_INT, FIELD(tombstones_margin_ms), "86400000", 0, 1e14, false, "how much older than the longest retention of any region's logs a tombstone must be before it is forgotten, in ms"},
    {"tombstones.check_ms", AP_OPT_INT, FIELD(tombstones_check_ms), "10000", 50, 86400000, false, "how often watermarks, dead letters and retention are looked up for that, in ms"},
    {"log.level", AP_OPT_STRING, FIELD(log_level), "info", 0, 0, false, "debug, info, warn or error"},
    {"log.file", AP_OPT_STRING, FIELD(log_file), NULL, 0, 0, false, "file of the log; stderr when not set"},
    AP_OPTIONS_END};

/* The next item of a comma list, without blanks around it; false at the end. */
static bool next_item(const char **cursor, const char **item, size_t *len)
{
    const char *p = *cursor;
    if (!p || !*p) return false;
    const char *end = strchr(p, ',');
    size_t n = end ? (size_t)(end - p) : strlen(p);
    *cursor = end ? end + 1 : p + n;
    while (n > 0 && (*p == ' ' || *p == '\t')) p++, n--;
    while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t')) n--;
    *item = p;
    *len = n;
    return true;
}

static int add_region(struct ap_consumer_settings *s, const char *text, size_t len, struct ap_err *err)
{
    struct ap_region region;
    if (ap_region_parse(text, len, &region, err)) return ap_err_wrap(err, "regions");
    for (size_t i = 0; i < s->region_count; i++)
        if (!memcmp(&s->all_regions[i], &region, sizeof region)) return 0; /* the own one is there already */
    if (s->region_count == AP_CONSUMER_REGIONS_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "regions: more than %d", AP_CONSUMER_REGIONS_MAX);
    s->all_regions[s->region_count++] = region;
    return 0;
}

static int check_regions(struct ap_consumer_settings *s, struct ap_err *err)
{
    struct ap_region own, listed;
    if (ap_region_parse(s->region, strlen(s->region), &own, err)) return ap_err_wrap(err, "region");
    s->all_regions[0] = own;
    s->region_count = 1;
    bool own_listed = false;
    const char *cursor = s->regions, *item;
    for (size_t len; next_item(&cursor, &item, &len);) {
        if (add_region(s, item, len, err)) return err ? err->code : AP_EINVAL;
        if (!ap_region_parse(item, len, &listed, NULL) && !memcmp(&listed, &own, sizeof own)) own_listed = true;
    }
    if (!own_listed)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "regions: \"%s\" does not list this region, %s", s->regions, s->region);
    return 0;
}

static int check_topics(struct ap_consumer_settings *s, struct ap_err *err)
{
    const char *cursor = s->topics, *item;
    s->topic_count = 0;
    for (size_t len; next_item(&cursor, &item, &len);) {
        if (len < 5 || len > AP_TOPIC_NAME_MAX || memcmp(item, "vec-", 4) || memchr(item, '.', len))
            return ap_err_set(err, AP_EINVAL, AP_FATAL,
                              "topics: \"%.*s\" must start with vec- (only that is mirrored), have no dot (MirrorMaker "
                              "takes what is before it for a region) and at most %d characters",
                              (int)len, item, AP_TOPIC_NAME_MAX);
        for (size_t i = 0; i < s->topic_count; i++)
            if (strlen(s->topic_names[i]) == len && !memcmp(s->topic_names[i], item, len))
                return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: \"%.*s\" twice", (int)len, item);
        if (s->topic_count == AP_CONSUMER_TOPICS_MAX)
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: more than %d", AP_CONSUMER_TOPICS_MAX);
        snprintf(s->topic_names[s->topic_count++], sizeof s->topic_names[0], "%.*s", (int)len, item);
    }
    if (!s->topic_count) return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: at least one, for example vec-mutations");
    return 0;
}

int ap_consumer_settings_check(struct ap_consumer_settings *s, struct ap_err *err)
{
    int rc = check_regions(s, err);
    if (!rc) rc = check_topics(s, err);
    if (!rc && s->worker >= s->workers)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "worker: %lld of %lld workers; they count from 0", (long long)s->worker,
                        (long long)s->workers);
    return rc;
}
