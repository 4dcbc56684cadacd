/* Topics appear, change and go. One that is found is read from where the store stands in it, known by the ids of cluster
 * and topic; a region's mutations wait for its control records, and a topic with another partition count than the others
 * is not read at all. */
#include "consumer/consumer_impl.h"

#include <stdlib.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "consumer/replay.h"

/* Where the store stands in this source; a topic of another id or cluster was never read. */
static int restore(struct ap_consumer *c, struct ap_source *source, struct ap_err *err)
{
    struct ap_position *positions = NULL;
    size_t count = 0;
    if (ap_positions_list(ap_writer_positions(c->writer), &positions, &count))
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    for (int32_t p = 0; p < source->count; p++) {
        struct ap_part *part = &source->parts[p];
        int64_t next = -1;
        int rc = ap_writer_get_offset(c->writer, c->cluster, source->id, p, &next, err);
        if (rc && rc != AP_ENOTFOUND) {
            free(positions);
            return rc;
        }
        if (!rc) {
            part->stored = part->announced = next;
            ap_part_advance(part, next);
            part->touched = false;
        }
        for (size_t i = 0; source->kind == AP_SOURCE_MUTATIONS && i < count; i++)
            if (positions[i].partition == p && positions[i].clock > part->newest_clock &&
                !memcmp(&positions[i].region, &source->origin, sizeof source->origin) && !strcmp(positions[i].topic, source->topic))
                part->newest_clock = positions[i].clock;
    }
    free(positions);
    return 0;
}

int ap_consumer_take_findings(struct ap_consumer *c, struct ap_err *err)
{
    struct ap_found found;
    int rc = 0;
    while (!rc && ap_scout_take(c->scout, &found)) {
        struct ap_source *source = &c->sources.list[found.index];
        ap_scout_cluster(c->scout, c->cluster);
        rc = ap_source_found(&c->sources, &found, err);
        if (!rc && found.partitions)
            rc = restore(c, source, err);
        if (!rc && found.partitions)
            rc = ap_consumer_replay(c, source, err);
        if (!rc && found.partitions)
            ap_info("topic found name=%s partitions=%d", source->name, (int)source->count);
        else if (!rc)
            ap_warn("topic %s is gone: it is read again, from its beginning, when it is back", source->name);
        ap_found_fini(&found);
    }
    return rc;
}

static bool is_read(const struct ap_source *control)
{
    if (!control->assigned)
        return false;
    for (int32_t p = 0; p < control->count; p++)
        if (!control->parts[p].caught_up && control->parts[p].hold == AP_HOLD_NONE)
            return false;
    return true;
}

/* A region's mutations wait until its control records have been read, so that its streams are known; but not for ever
 * for a control topic that does not exist. And they wait for those of all other regions whose control topics are there, which
 * the scout sees before any mutations: one of them may have retired this region, and what it wrote later must not be applied. */
static bool control_is_read(struct ap_consumer *c, const struct ap_source *source)
{
    const struct ap_source *own = ap_sources_find(&c->sources, AP_SOURCE_CONTROL, &source->origin, AP_TOPIC_CONTROL);
    if (!own->assigned && ap_mono_ms() - source->found_ms < c->settings->control_wait_ms)
        return false;
    for (size_t i = 0; i < c->sources.count; i++) {
        const struct ap_source *control = &c->sources.list[i];
        if (control->kind == AP_SOURCE_CONTROL && control->found && !is_read(control))
            return false;
    }
    return true;
}

/* Equal keys must share a partition everywhere: the own topics say how many there are. */
static bool count_matches(struct ap_consumer *c, struct ap_source *source)
{
    const struct ap_source *reference = NULL;
    for (size_t i = 0; !reference && i < c->sources.count; i++) {
        const struct ap_source *s = &c->sources.list[i];
        if (s->kind == AP_SOURCE_MUTATIONS && s->found && !strcmp(s->topic, source->kind == AP_SOURCE_RAW ? c->settings->topic_names[0] : source->topic))
            reference = s;
    }
    bool matches = !reference || reference->count == source->count;
    if (!matches && !source->mismatch)
        ap_error("topic %s has %d partitions and %s has %d: it is not read. Make the counts equal in all regions", source->name,
                 (int)source->count, reference->name, (int)reference->count);
    source->mismatch = !matches;
    return matches;
}

int ap_consumer_assign(struct ap_consumer *c, struct ap_err *err)
{
    for (size_t i = 0; i < c->sources.count; i++) {
        struct ap_source *source = &c->sources.list[i];
        if (!source->found || source->assigned)
            continue;
        if (source->kind != AP_SOURCE_CONTROL && (!count_matches(c, source) || !control_is_read(c, source)))
            continue;
        int rc = ap_source_assign(&c->sources, source, err);
        if (rc)
            return rc;
        for (int32_t p = 0; p < source->count; p++)
            if (source->parts[p].mine)
                ap_debug("reading topic=%s partition=%d from=%lld to=%lld", source->name, (int)p, (long long)source->parts[p].next, (long long)source->parts[p].target);
    }
    return 0;
}
