/* What is not the next batch: partitions on hold are released, offsets announced to Kafka, strangers reported, memory given
 * back, the status published. Each has its own rhythm; none waits for anything but ap_consumer_announce_last. */
#include "consumer/consumer_impl.h"

#include <malloc.h>
#include <stdio.h>
#include "common/handover.h"
#include "common/log.h"
#include "common/timeutil.h"

enum { PUBLISH_MS = 200, SECOND_MS = 1000, SCHEMA_RETRY_MS = 30000, FAREWELL_MS = 3000, TRIM_BYTES = 16 << 20, HELD_RETRY_MS = 5000 };

static bool may_release(struct ap_consumer *c, const struct ap_part *part, bool learned)
{
    const struct ap_raw_queue *q = &part->raw;
    if (part->hold == AP_HOLD_SCHEMA)
        return learned || ap_mono_ms() - part->hold_since_ms >= SCHEMA_RETRY_MS;
    if (part->hold == AP_HOLD_CLOCK) /* there may be room, or its time may have come */
        return ap_mono_ms() - part->hold_since_ms >= HELD_RETRY_MS;
    return part->hold == AP_HOLD_RAW_FULL && q->count <= (size_t)c->settings->raw_queue_records / 2 && q->bytes <= (size_t)c->settings->raw_queue_bytes / 2;
}

static int release_holds(struct ap_consumer *c, struct ap_err *err)
{
    bool learned = ap_registry_learned(c->registry);
    int rc = 0;
    if (learned) { /* control records that could not be read before may be readable now */
        size_t refused;
        rc = ap_registry_load(c->registry, c->store, &refused, err);
    }
    for (size_t i = 0; !rc && i < c->sources.count; i++)
        for (int32_t p = 0; !rc && p < c->sources.list[i].count; p++)
            if (may_release(c, &c->sources.list[i].parts[p], learned))
                rc = ap_part_release(&c->sources, &c->sources.list[i].parts[p], err);
    return rc;
}

static rd_kafka_topic_partition_list_t *unannounced(struct ap_consumer *c)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(64);
    for (size_t i = 0; i < c->sources.count; i++) {
        struct ap_source *source = &c->sources.list[i];
        for (int32_t p = 0; source->assigned && p < source->count; p++) {
            struct ap_part *part = &source->parts[p];
            if (part->stored < 0 || part->stored == part->announced)
                continue;
            rd_kafka_topic_partition_list_add(list, source->name, p)->offset = part->stored;
            part->announced = part->stored;
        }
    }
    return list;
}

/* For lag tools. A commit that fails is not missed: a later one covers it. */
static void announce_offsets(struct ap_consumer *c)
{
    if (c->settings->rebuild)
        return;
    rd_kafka_topic_partition_list_t *list = unannounced(c);
    if (list->cnt)
        rd_kafka_commit(c->rk, list, 1);
    rd_kafka_topic_partition_list_destroy(list);
}

void ap_consumer_announce_last(struct ap_consumer *c)
{
    if (c->settings->rebuild)
        return;
    rd_kafka_topic_partition_list_t *list = unannounced(c);
    rd_kafka_queue_t *answer = rd_kafka_queue_new(c->rk);
    if (list->cnt && !rd_kafka_commit_queue(c->rk, list, answer, NULL, NULL)) {
        rd_kafka_event_t *event = rd_kafka_queue_poll(answer, FAREWELL_MS);
        if (event)
            rd_kafka_event_destroy(event);
    }
    rd_kafka_queue_destroy(answer);
    rd_kafka_topic_partition_list_destroy(list);
}

static void report_stranger(void *arg, uint64_t stream, size_t origin, uint64_t records)
{
    struct ap_consumer *c = arg;
    c->tallies.pending[origin][AP_TALLY_UNREGISTERED] += records;
    ap_log_limited(&c->stranger_limit, 10000, AP_LOG_ERROR,
                   "%llu records of stream %016llx, which nobody has registered in %s's %s; applied, but find out who writes them",
                   (unsigned long long)records, (unsigned long long)stream, c->settings->all_regions[origin].name, AP_TOPIC_CONTROL);
}

/* After a load, give back what the records took on their way: the allocator would keep it for the next one. */
static void trim_memory(struct ap_consumer *c)
{
    if (!c->busy && c->bytes_since_trim > TRIM_BYTES) {
        malloc_trim(0);
        c->bytes_since_trim = 0;
    }
    c->busy = false;
}

static bool knows_its_region(struct ap_consumer *c)
{
    const struct ap_source *control = ap_sources_find(&c->sources, AP_SOURCE_CONTROL, &c->settings->all_regions[0], AP_TOPIC_CONTROL);
    bool read = control && control->assigned;
    for (int32_t p = 0; read && p < control->count; p++)
        read = control->parts[p].caught_up;
    return read;
}

/* A region that comes back after it was retired begins with an empty store: the others have collected tombstones without it. */
static int check_store(struct ap_consumer *c, struct ap_err *err)
{
    const struct ap_region *own = &c->settings->all_regions[0];
    uint64_t now = ap_registry_region(c->registry, own);
    if (!c->built_under && knows_its_region(c))
        c->built_under = now;
    if (!c->built_under || !now || now == c->built_under || !ap_registry_is_retired(c->registry, own, c->built_under))
        return 0;
    return ap_err_set(err, AP_ECONFLICT, AP_FATAL, "region %s is back under a new incarnation, and this store is of the one that was retired (%016llx): the others have "
                      "collected tombstones without it. Move the store's folder away and start again: it is rebuilt (docs/operations.md)", own->name,
                      (unsigned long long)c->built_under);
}

void ap_consumer_give_up(struct ap_consumer *c)
{
    bool retired[AP_CONSUMER_REGIONS_MAX] = {false};
    ap_registry_give_up(c->registry, ap_writer_positions(c->writer), c->settings, c->lost);
    for (size_t i = 1; i < c->settings->region_count; i++)
        retired[i] = ap_registry_region_is_retired(c->registry, &c->settings->all_regions[i]);
    ap_status_given_up(c->status, c->lost, retired);
}

static int once_a_second(struct ap_consumer *c, struct ap_err *err)
{
    uint64_t seen = c->seen;
    announce_offsets(c);
    trim_memory(c);
    ap_registry_strangers(c->registry, ap_mono_ms(), c->settings->control_wait_ms, report_stranger, c);
    ap_consumer_give_up(c);
    ap_tallies_flush(&c->tallies);
    if (!ap_store_seen_read(c->store, &seen) && seen != c->seen) {
        c->seen = seen;
        c->dirty = true;
    }
    int rc = ap_collector_second(c->collector, err);
    if (rc)
        return rc;
    ap_status_held(c->status, ap_collector_held(c->collector));
    char why[256];
    if (rd_kafka_fatal_error(c->rk, why, sizeof why))
        return ap_err_set(err, AP_EKAFKA, AP_FATAL, "Kafka's client has failed for good: %s", why);
    return check_store(c, err);
}

int ap_consumer_chores(struct ap_consumer *c, struct ap_err *err)
{
    int64_t now_ms = ap_mono_ms();
    int rc = release_holds(c, err);
    if (!rc && now_ms >= c->second_at_ms) {
        c->second_at_ms = now_ms + SECOND_MS;
        rc = once_a_second(c, err);
    }
    if (now_ms >= c->publish_at_ms) {
        c->publish_at_ms = now_ms + PUBLISH_MS;
        c->handover = !c->settings->rebuild && ap_handover_asked(c->settings->store_path);
        if (*c->cluster)
            ap_status_publish(c->status, &c->sources, ap_writer_positions(c->writer), ap_writer_next_slot(c->writer));
    }
    return rc;
}
