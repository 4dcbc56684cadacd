/* The option table and the checks across options. Fails only with AP_EINVAL, and names the key. */
#include "producer/options.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "producer/levels.h"

#define AT(field) offsetof(struct ap_producer_config, field)

static const struct ap_option options[] = {
    {"region", AP_OPT_STRING, AT(region_text), NULL, 0, 0, true, "name of this region, [a-z][a-z0-9-]{0,14}"},
    {"regions", AP_OPT_STRING, AT(regions_text), "", 0, 0, false, "all regions, separated by commas; the own one may be among them"},
    {"instance", AP_OPT_STRING, AT(instance), "", 0, 0, false, "name of this producer, the same through restarts and unique in its region; default <region>-1"},
    {"rejoin", AP_OPT_STRING, AT(rejoin_text), "", 0, 0, false, "come back after this incarnation (16 hex digits) of the region was retired, under a new one; the store must be rebuilt"},
    {"topics", AP_OPT_STRING, AT(topics_text), "vec-mutations", 0, 0, false, "mutation topics that collections may use, separated by commas; the first is the default"},
    {"partitions", AP_OPT_INT, AT(partitions), "4", 1, 4096, false, "partitions of every mutation topic and of raw-vectors, equal in all regions"},
    {"http.listen", AP_OPT_STRING, AT(listen), "127.0.0.1:8101", 0, 0, false, "address and port of the HTTP API"},
    {"http.max_connections", AP_OPT_INT, AT(max_connections), "512", 1, 65536, false, "connections served at once; more get 503"},
    {"http.idle_timeout_s", AP_OPT_INT, AT(idle_timeout_s), "120", 1, 86400, false, "seconds after which an idle connection is closed"},
    {"indexer.url", AP_OPT_STRING, AT(indexer_url), "", 0, 0, false, "address of this region's indexer, for the answers to reads and to writes by filter, which are its business"},
    {"max_body_bytes", AP_OPT_INT, AT(max_body_bytes), "67108864", 1024, 1099511627776.0, false, "largest JSON body in bytes; bulk bodies are streamed and have no limit"},
    {"max_dim", AP_OPT_INT, AT(max_dim), "65536", 1, 65536, false, "largest dimension a collection may have"},
    {"max_points_per_request", AP_OPT_INT, AT(max_points), "20000", 1, 1000000, false, "points in one JSON request; more get 413"},
    {"max_record_bytes", AP_OPT_INT, AT(max_record_bytes), "1000000", 2048, 1073741824, false, "largest event in bytes; at most the message.max.bytes of all brokers and mirrors"},
    {"queue_records", AP_OPT_INT, AT(queue_records), "100000", 1, 10000000, false, "records handed to Kafka and not acknowledged yet; beyond it writes get 503"},
    {"queue_bytes", AP_OPT_INT, AT(queue_bytes), "134217728", 65536, 1099511627776.0, false, "bytes of such records; beyond it writes get 503"},
    {"request_timeout_ms", AP_OPT_INT, AT(request_timeout_ms), "10000", 1, 3600000, false, "milliseconds a write waits for Kafka, and with wait=true for its region, when it names no timeout"},
    {"clock.offset_ms", AP_OPT_INT, AT(clock_offset_ms), "0", -3600000, 3600000, false, "added to the wall clock in milliseconds; for tests of clocks that disagree"},
    {"clock.max_drift_ms", AP_OPT_INT, AT(clock_max_drift_ms), "60000", 1, 86400000, false, "milliseconds the clock may be ahead of what is heard from others; beyond it writes get 503"},
    {"bulk.batch_rows", AP_OPT_INT, AT(bulk_batch_rows), "4096", 1, 65536, false, "rows of a bulk upload that are encoded and published together"},
    {"encode_threads", AP_OPT_INT, AT(encode_threads), "0", 0, 256, false, "threads that parse and encode bulk uploads; 0: one per core"},
    {"codec.train_rows", AP_OPT_INT, AT(train_rows), "0", 0, 100000000, false, "vectors a codec is trained on; 0: as many as it needs to be good"},
    {"codec.train_wait_ms", AP_OPT_INT, AT(train_wait_ms), "5000", 0, 86400000, false, "milliseconds without new vectors after which fewer, if enough, will do"},
    {"codec.train_threads", AP_OPT_INT, AT(train_threads), "1", 1, 256, false, "threads that train a codec, at low priority"},
    {"write_level", AP_OPT_STRING, AT(write_level_text), "local", 0, 0, false, "level of writes that name none: local, visible, quorum or all"},
    {"spool.dir", AP_OPT_STRING, AT(spool_dir), "", 0, 0, false, "folder where writes are kept while Kafka is away, to be published when it is back; made when missing; default: none are kept"},
    {"spool.max_bytes", AP_OPT_INT, AT(spool_max_bytes), "1073741824", 65536, 1099511627776.0, false, "bytes of such writes on disk; beyond it writes get 503"},
    {"spool.after_ms", AP_OPT_INT, AT(spool_after_ms), "1000", 10, 3600000, false, "milliseconds without any acknowledgement after which Kafka counts as away"},
    {"qdrant_version", AP_OPT_STRING, AT(qdrant_version), "1.18.0", 0, 0, false, "version of Qdrant's API that GET / answers; clients compare it with their own"},
    {"log.level", AP_OPT_STRING, AT(log_level), "info", 0, 0, false, "debug, info, warn or error"},
    {"log.file", AP_OPT_STRING, AT(log_file), NULL, 0, 0, false, "file the log goes to; default stderr"},
    AP_OPTIONS_END,
};

static char *copy_of(const char *text, size_t len)
{
    char *copy = strndup(text, len);
    if (!copy)
        abort();
    return copy;
}

/* Calls each for every item of a comma-separated list, without its blanks. */
static int split(struct ap_producer_config *config, const char *list, int (*each)(struct ap_producer_config *, const char *, size_t, struct ap_err *), struct ap_err *err)
{
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ","), next = len + (p[len] == ',');
        const char *item = p;
        while (len && (*item == ' ' || *item == '\t'))
            item++, len--;
        while (len && (item[len - 1] == ' ' || item[len - 1] == '\t'))
            len--;
        int rc = len ? each(config, item, len, err) : 0;
        if (rc)
            return rc;
        p += next;
    }
    return 0;
}

static int add_region(struct ap_producer_config *config, const char *text, size_t len, struct ap_err *err)
{
    struct ap_region region;
    if (ap_region_parse(text, len, &region, err))
        return ap_err_wrap(err, "regions");
    if (memcmp(&region, &config->region, sizeof region) == 0)
        return 0;
    for (size_t i = 0; i < config->other_count; i++)
        if (memcmp(&region, &config->others[i], sizeof region) == 0)
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "regions: %s is there twice", region.name);
    if (config->other_count == AP_REGIONS_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "regions: more than %d", AP_REGIONS_MAX);
    config->others[config->other_count++] = region;
    return 0;
}

/* "vec-" so that MirrorMaker carries it; the three topics with other uses do not take mutations. */
static int add_topic(struct ap_producer_config *config, const char *text, size_t len, struct ap_err *err)
{
    static const char *const taken[] = {"vec-control", "vec-watermarks"};
    bool good = len > 4 && len < 64 && strncmp(text, "vec-", 4) == 0;
    for (size_t i = 0; good && i < len; i++)
        good = (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= '0' && text[i] <= '9') || text[i] == '-' || text[i] == '_';
    for (size_t i = 0; good && i < 2; i++)
        good = strlen(taken[i]) != len || memcmp(taken[i], text, len) != 0;
    if (!good)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: %.*s: a mutation topic is vec-[a-z0-9-_]+, 63 characters at most, and neither vec-control nor vec-watermarks",
                          (int)(len > 80 ? 80 : len), text);
    for (size_t i = 0; i < config->topic_count; i++)
        if (strlen(config->topics[i]) == len && memcmp(config->topics[i], text, len) == 0)
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: %.*s is there twice", (int)len, text);
    if (config->topic_count == AP_TOPICS_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: more than %d", AP_TOPICS_MAX);
    config->topics[config->topic_count++] = copy_of(text, len);
    return 0;
}

static int check_instance(struct ap_producer_config *config, struct ap_err *err)
{
    if (!*config->instance) {
        char text[sizeof config->region.name + 3];
        size_t len = strlen(config->region.name);
        memcpy(text, config->region.name, len);
        memcpy(text + len, "-1", 3);
        free(config->instance);
        config->instance = copy_of(text, len + 2);
    }
    size_t len = strlen(config->instance);
    for (size_t i = 0; i < len; i++)
        if (len > 64 || config->instance[i] <= ' ' || config->instance[i] > '~')
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "instance: \"%.80s\": 1 to 64 printable characters without blanks", config->instance);
    return 0;
}

static int check_rejoin(struct ap_producer_config *config, struct ap_err *err)
{
    const char *text = config->rejoin_text;
    config->rejoin = strtoull(text, NULL, 16);
    if (*text && (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "rejoin: \"%.40s\" is not the 16 hex digits of a region's incarnation", text);
    return 0;
}

/* A level that no write could reach stops the start, and not each write. */
static int check_write_level(struct ap_producer_config *config, struct ap_err *err)
{
    enum ap_write_level level;
    int rc = ap_write_level_parse(config->write_level_text, NULL, config->other_count, AP_LEVEL_LOCAL, &level, err);
    config->write_level = (int)level;
    if (rc == AP_EUNSUPPORTED)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "write_level: %s is of several regions, and can never be reached: regions names no other than %s",
                          config->write_level_text, config->region.name);
    if (rc)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "write_level: \"%.32s\" is none of local, visible, quorum, all", config->write_level_text);
    return 0;
}

static int derive(struct ap_producer_config *config, struct ap_err *err)
{
    int rc = ap_region_parse(config->region_text ? config->region_text : "", config->region_text ? strlen(config->region_text) : 0, &config->region, err);
    if (rc)
        return ap_err_wrap(err, "region");
    if ((rc = split(config, config->regions_text, add_region, err)) || (rc = split(config, config->topics_text, add_topic, err)) ||
        (rc = check_instance(config, err)) || (rc = check_rejoin(config, err)) || (rc = check_write_level(config, err)))
        return rc;
    if (config->topic_count == 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "topics: names no topic");
    if (config->encode_threads == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        config->encode_threads = cores > 0 ? cores : 1;
    }
    return 0;
}

int ap_producer_config_load(struct ap_producer_config *config, int argc, char **argv, struct ap_err *err)
{
    *config = (struct ap_producer_config){0};
    int rc = ap_config_load(options, config, &config->extra, argc, argv, err);
    if (rc == 0 && (rc = derive(config, err)) != 0) {
        ap_config_blame(&config->extra, err);
        ap_producer_config_free(config);
    }
    return rc;
}

int ap_producer_config_parse(struct ap_producer_config *config, const char *name, const char *text, size_t len, struct ap_err *err)
{
    *config = (struct ap_producer_config){0};
    int rc = ap_config_parse(options, config, &config->extra, name, text, len, err);
    if (rc == 0 && (rc = derive(config, err)) != 0) {
        ap_config_blame(&config->extra, err);
        ap_producer_config_free(config);
    }
    return rc;
}

void ap_producer_config_free(struct ap_producer_config *config)
{
    for (size_t i = 0; i < config->topic_count; i++)
        free(config->topics[i]);
    config->topic_count = 0;
    ap_config_free(options, config, &config->extra);
}
