/* GET /antipode/holes: which records this region's store is missing below newer ones, as JSON; at most HOLES_SHOWN runs. And up to
 * where it has all records of every stream.
 * POST /antipode/losses goes to the producer, which publishes that they are waited for no longer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/api_impl.h"
#include "indexer/index_impl.h"

#define HOLES_SHOWN 10000
#define FORWARD_MS 30000

struct listing { json_t *holes; bool more; };

static int list_hole(void *arg, const struct ap_position *at, const struct ap_hole *hole, uint64_t top)
{
    struct listing *l = arg;
    char stream[17], lineage[17];
    if (json_array_size(l->holes) == HOLES_SHOWN) {
        l->more = true;
        return 1;
    }
    snprintf(stream, sizeof stream, "%016llx", (unsigned long long)at->stream);
    snprintf(lineage, sizeof lineage, "%016llx", (unsigned long long)at->lineage);
    json_array_append_new(l->holes, json_pack("{s:s,s:s,s:s,s:s,s:i,s:I,s:I,s:I}", "origin", at->region.name, "stream", stream, "lineage", lineage, "topic", at->topic,
                                              "partition", (int)at->partition, "first", (json_int_t)hole->first, "last", (json_int_t)hole->last, "top", (json_int_t)top));
    return 0;
}

static json_t *positions_json(const struct ap_position *list, size_t count)
{
    json_t *out = json_array();
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *at = &list[i];
        char stream[17], lineage[17];
        snprintf(stream, sizeof stream, "%016llx", (unsigned long long)at->stream);
        snprintf(lineage, sizeof lineage, "%016llx", (unsigned long long)at->lineage);
        json_array_append_new(out, json_pack("{s:s,s:s,s:s,s:s,s:i,s:I,s:b}", "region", at->region.name, "stream", stream, "lineage", lineage, "topic", at->topic,
                                             "partition", (int)at->partition, "mark", (json_int_t)at->mark, "finished", at->finished));
    }
    return out;
}

void ap_serve_holes(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_err err;
    struct ap_snapshot *snapshot = NULL;
    struct ap_position *positions = NULL;
    size_t count = 0;
    struct listing l = {.holes = json_array()};
    if (ap_read_begin(&r, req, false)) {
        json_decref(l.holes);
        return;
    }
    ap_read_end(&r);
    int rc = ap_snapshot_begin(r.index->store, &snapshot, &err);
    if (rc == 0)
        rc = ap_snapshot_positions(snapshot, &positions, &count, &err);
    if (rc == 0)
        rc = ap_snapshot_holes(snapshot, list_hole, &l, &err);
    ap_snapshot_end(&snapshot);
    if (rc < 0) {
        free(positions);
        json_decref(l.holes);
        ap_http_reply_err(req, &err);
        return;
    }
    ap_http_reply_result(req, json_pack("{s:s,s:o,s:o,s:b}", "region", r.api->config->region.name, "holes", l.holes, "positions",
                                        positions_json(positions, count), "more", l.more));
    free(positions);
}

void ap_serve_losses(struct ap_http_request *req)
{
    ap_forward_pass(((struct ap_api *)ap_http_user(req))->forward, req, FORWARD_MS);
}
