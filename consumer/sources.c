/* Sources: found by the scout, assigned once the registry is ready, held and released while running.
 *
 * Holding takes the partition out of librdkafka's assignment and releasing puts it back at the record it was held at.
 * That is slower than pause and seek, but leaves no question what becomes of records that were fetched ahead: those of
 * an older assignment are never delivered. Assigning fails only when librdkafka is shutting down or was misused. */
#include "consumer/sources.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/log.h"
#include "common/timeutil.h"

static void *must(void *p)
{
    if (!p)
        abort(); /* a few kilobytes at the start or when a topic appears */
    return p;
}

static void add_source(struct ap_sources *s, enum ap_source_kind kind, size_t origin, const char *topic)
{
    struct ap_source *src = &s->list[s->count++];
    src->kind = kind;
    src->origin_index = origin;
    src->origin = s->settings->all_regions[origin];
    size_t prefix = origin == 0 ? 0 : strlen(src->origin.name) + 1;
    snprintf(src->name, sizeof src->name, "%s%s%s", prefix ? src->origin.name : "", prefix ? "." : "", topic);
    src->topic = src->name + prefix;
}

void ap_sources_init(struct ap_sources *s, const struct ap_consumer_settings *settings, rd_kafka_t *rk)
{
    memset(s, 0, sizeof *s);
    s->settings = settings;
    s->rk = rk;
    s->list = must(calloc(settings->region_count * (settings->topic_count + 1) + 1, sizeof *s->list));
    for (size_t r = 0; r < settings->region_count; r++) /* first, and so looked for and found first: control_is_read() */
        add_source(s, AP_SOURCE_CONTROL, r, AP_TOPIC_CONTROL);
    for (size_t r = 0; r < settings->region_count; r++)
        for (size_t t = 0; t < settings->topic_count; t++)
            add_source(s, AP_SOURCE_MUTATIONS, r, settings->topic_names[t]);
    add_source(s, AP_SOURCE_RAW, 0, AP_TOPIC_RAW);
}

static void free_parts(struct ap_source *source)
{
    for (int32_t p = 0; p < source->count; p++)
        ap_raw_queue_fini(&source->parts[p].raw);
    free(source->parts);
    source->parts = NULL;
    source->count = 0;
}

void ap_sources_fini(struct ap_sources *s)
{
    for (size_t i = 0; i < s->count; i++) {
        free_parts(&s->list[i]);
        if (s->list[i].rkt)
            rd_kafka_topic_destroy(s->list[i].rkt);
    }
    free(s->list);
    memset(s, 0, sizeof *s);
}

static struct ap_source *source_of(struct ap_sources *s, const rd_kafka_message_t *message)
{
    if (s->last && s->last->rkt == message->rkt)
        return s->last;
    for (size_t i = 0; i < s->count; i++)
        if (s->list[i].rkt && s->list[i].rkt == message->rkt)
            return s->last = &s->list[i];
    /* librdkafka gives out one handle a topic, so this is not reached; but it is not promised either. */
    const char *name = message->rkt ? rd_kafka_topic_name(message->rkt) : "";
    for (size_t i = 0; i < s->count; i++)
        if (!strcmp(s->list[i].name, name))
            return &s->list[i];
    return NULL;
}

struct ap_part *ap_sources_part(struct ap_sources *s, const rd_kafka_message_t *message)
{
    struct ap_source *source = source_of(s, message);
    if (!source || message->partition < 0 || message->partition >= source->count)
        return NULL;
    struct ap_part *part = &source->parts[message->partition];
    return part->assigned && part->hold == AP_HOLD_NONE ? part : NULL;
}

struct ap_source *ap_sources_find(struct ap_sources *s, enum ap_source_kind kind, const struct ap_region *origin, const char *topic)
{
    for (size_t i = 0; i < s->count; i++) {
        struct ap_source *source = &s->list[i];
        if (source->kind == kind && !memcmp(&source->origin, origin, sizeof *origin) && !strcmp(source->topic, topic))
            return source;
    }
    return NULL;
}

/* ---- librdkafka's assignment ------------------------------------------------------------------------------ */

static int assign_error(rd_kafka_error_t *error, const struct ap_source *source, const char *verb, struct ap_err *err)
{
    if (!error)
        return 0;
    int rc = ap_err_set(err, AP_EKAFKA, AP_FATAL, "cannot %s %s: %s", verb, source->name, rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
    return rc;
}

static void list_part(rd_kafka_topic_partition_list_t *list, const struct ap_part *part)
{
    rd_kafka_topic_partition_list_add(list, part->source->name, part->number)->offset =
        part->next < 0 ? RD_KAFKA_OFFSET_BEGINNING : part->next;
}

static int assign_part(struct ap_sources *s, struct ap_part *part, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    list_part(list, part);
    int rc = assign_error(rd_kafka_incremental_assign(s->rk, list), part->source, "read", err);
    rd_kafka_topic_partition_list_destroy(list);
    return rc;
}

static int unassign_part(struct ap_sources *s, struct ap_part *part, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    list_part(list, part);
    int rc = assign_error(rd_kafka_incremental_unassign(s->rk, list), part->source, "stop reading", err);
    rd_kafka_topic_partition_list_destroy(list);
    return rc;
}

int ap_source_assign(struct ap_sources *s, struct ap_source *source, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(source->count);
    for (int32_t p = 0; p < source->count; p++) {
        if (!source->parts[p].mine)
            continue;
        list_part(list, &source->parts[p]);
        source->parts[p].assigned = true;
    }
    int rc = list->cnt ? assign_error(rd_kafka_incremental_assign(s->rk, list), source, "read", err) : 0;
    rd_kafka_topic_partition_list_destroy(list);
    source->assigned = rc == 0;
    return rc;
}

void ap_source_unassign(struct ap_sources *s, struct ap_source *source)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(source->count);
    for (int32_t p = 0; p < source->count; p++) {
        struct ap_part *part = &source->parts[p];
        if (part->assigned && part->hold == AP_HOLD_NONE)
            list_part(list, part);
        part->assigned = false;
        part->hold = AP_HOLD_NONE;
    }
    struct ap_err ignored;
    if (list->cnt)
        (void)assign_error(rd_kafka_incremental_unassign(s->rk, list), source, "stop reading", &ignored);
    rd_kafka_topic_partition_list_destroy(list);
    source->assigned = false;
}

/* ---- a source is found -------------------------------------------------------------------------------------- */

static void new_parts(struct ap_sources *s, struct ap_source *source, const struct ap_found *found)
{
    struct ap_part *parts = must(calloc((size_t)found->partitions, sizeof *parts));
    for (int32_t p = 0; p < found->partitions; p++) {
        struct ap_part *part = &parts[p];
        part->source = source;
        part->number = p;
        part->mine = source->kind == AP_SOURCE_CONTROL || p % s->settings->workers == s->settings->worker;
        part->next = part->stored = part->announced = -1;
        part->target = found->end[p];
        part->caught_up = !part->mine || found->begin[p] >= found->end[p];
        if (p < source->count)
            part->newest_clock = source->parts[p].newest_clock;
    }
    free_parts(source);
    source->parts = parts;
    source->count = found->partitions;
}

int ap_source_found(struct ap_sources *s, const struct ap_found *found, struct ap_err *err)
{
    assert(found->index < s->count);
    struct ap_source *source = &s->list[found->index];
    if (source->assigned)
        ap_source_unassign(s, source);
    source->mismatch = false;
    if (!found->partitions) {
        source->found = false;
        return 0;
    }
    if (!source->rkt && !(source->rkt = rd_kafka_topic_new(s->rk, source->name, NULL)))
        return ap_err_set(err, AP_EKAFKA, AP_FATAL, "topic %s: %s", source->name, rd_kafka_err2str(rd_kafka_last_error()));
    new_parts(s, source, found);
    memcpy(source->id, found->id, sizeof source->id);
    source->found = true;
    source->found_ms = ap_mono_ms();
    return 0;
}

/* ---- one partition -------------------------------------------------------------------------------------------- */

int ap_part_hold(struct ap_sources *s, struct ap_part *part, int64_t offset, enum ap_hold why, struct ap_err *err)
{
    assert(part->assigned && part->hold == AP_HOLD_NONE && why != AP_HOLD_NONE);
    part->next = offset;
    part->hold = why;
    part->hold_since_ms = ap_mono_ms();
    part->at_end = false;
    return unassign_part(s, part, err);
}

int ap_part_release(struct ap_sources *s, struct ap_part *part, struct ap_err *err)
{
    assert(part->assigned && part->hold != AP_HOLD_NONE);
    part->hold = AP_HOLD_NONE;
    return assign_part(s, part, err);
}

int ap_part_rewind(struct ap_sources *s, struct ap_part *part, struct ap_err *err)
{
    assert(part->assigned);
    if (part->hold == AP_HOLD_NONE) {
        int rc = unassign_part(s, part, err);
        if (rc)
            return rc;
    }
    ap_raw_queue_fini(&part->raw);
    part->hold = AP_HOLD_NONE;
    part->next = -1;
    part->at_end = false;
    return assign_part(s, part, err);
}

int64_t ap_part_resume(const struct ap_part *part)
{
    const struct ap_raw_queue *q = &part->raw;
    return q->count ? q->ring[q->head & (q->cap - 1)].offset : part->next;
}

void ap_part_advance(struct ap_part *part, int64_t next)
{
    part->next = next;
    part->touched = true;
    if (next >= part->target)
        part->caught_up = true;
}

const char *ap_hold_name(enum ap_hold hold)
{
    static const char *const names[] = {"", "schema", "raw_full", "clock"};
    return names[hold];
}
