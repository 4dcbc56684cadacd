/* Offsets of one topic go back in a transaction of their own, then the file says that it is done: a process that dies in
 * between does it again, one that dies later goes on from the offsets that it committed since. */
#include "consumer/replay.h"

#include <inttypes.h>
#include <stdlib.h>
#include "common/log.h"

enum { ASK_MS = 10000 };

int ap_consumer_replay_open(struct ap_consumer *c, struct ap_err *err)
{
    if (!c->settings->rebuild)
        return 0;
    c->replay = malloc(sizeof *c->replay);
    if (!c->replay)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    int rc = ap_replay_read(c->settings->store_path, c->replay, err);
    if (rc <= 0) {
        free(c->replay);
        c->replay = NULL;
    }
    return rc < 0 ? rc : 0;
}

/* Offsets of the first records at or after the time; -1 where there is none. */
static int ask_times(struct ap_consumer *c, const struct ap_source *source, int64_t *out, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(source->count);
    for (int32_t p = 0; p < source->count; p++)
        rd_kafka_topic_partition_list_add(list, source->name, p)->offset = c->replay->from_ms;
    rd_kafka_resp_err_t failed = rd_kafka_offsets_for_times(c->rk, list, ASK_MS);
    for (int i = 0; i < list->cnt; i++) {
        failed = failed ? failed : list->elems[i].err;
        out[list->elems[i].partition] = list->elems[i].offset;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return failed ? ap_err_set(err, AP_EKAFKA, AP_FATAL, "topic %s: its offsets at a time are not to be had: %s", source->name, rd_kafka_err2str(failed)) : 0;
}

static int set_back(struct ap_consumer *c, struct ap_source *source, const int64_t *from, struct ap_err *err)
{
    int rc = ap_writer_begin(c->writer, err);
    for (int32_t p = 0; rc == 0 && p < source->count; p++) {
        struct ap_part *part = &source->parts[p];
        if (!part->mine || from[p] < 0 || part->stored < 0 || from[p] >= part->stored)
            continue; /* it was never read, or stands before that */
        ap_info("reading again topic=%s partition=%d from=%" PRId64 " instead of %" PRId64, source->name, (int)p, from[p], part->stored);
        rc = ap_writer_put_offset(c->writer, c->cluster, source->id, source->name, p, from[p], err);
        part->stored = part->announced = part->next = from[p];
        part->touched = false;
        part->caught_up = from[p] >= part->target;
    }
    return rc ? rc : ap_writer_commit(c->writer, err);
}

int ap_consumer_replay(struct ap_consumer *c, struct ap_source *source, struct ap_err *err)
{
    if (!c->replay || source->kind == AP_SOURCE_CONTROL || source->count == 0 || ap_replay_is_done(c->replay, source->name))
        return 0;
    int64_t *from = malloc((size_t)source->count * sizeof *from);
    if (!from)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    int rc = 0;
    if (c->replay->from_ms >= 0)
        rc = ask_times(c, source, from, err);
    else
        for (int32_t p = 0; p < source->count; p++)
            from[p] = ap_replay_offset(c->replay, source->name, p);
    if (rc == 0)
        rc = set_back(c, source, from, err);
    free(from);
    return rc ? rc : ap_replay_note_done(c->settings->store_path, c->replay, source->name, err);
}
