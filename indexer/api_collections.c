/* The server itself, its collections, their figures, and whether it is ready. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/version.h"
#include "indexer/api_impl.h"
#include "indexer/json_out.h"

#define PROBE_TIMEOUT_MS 500

void ap_serve_root(struct ap_http_request *req)
{
    const struct ap_api *api = ap_http_user(req);
    struct ap_buf out = {0};
    ap_json_raw(&out, "{\"title\":\"antipode - vectors in every region\",\"version\":");
    ap_json_string(&out, api->config->qdrant_version, strlen(api->config->qdrant_version));
    ap_json_raw(&out, ",\"commit\":\"antipode " ANTIPODE_VERSION "\"}");
    ap_http_reply_take(req, 200, "application/json", (char *)out.data, out.len);
}

/* All live collections of a view, by name; borrowed from it. */
static size_t list(struct ap_view *view, const struct ap_collection ***out)
{
    size_t cap = ap_view_collections(view, NULL, 0);
    *out = malloc((cap + 1) * sizeof **out);
    if (!*out)
        abort();
    size_t count = ap_view_collections(view, *out, cap);
    return count < cap ? count : cap;
}

void ap_serve_collections(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_buf out = {0};
    const struct ap_collection **all;
    if (ap_read_begin(&r, req, false))
        return;
    size_t count = list(r.view, &all);
    ap_read_answer_begin(&out);
    ap_json_raw(&out, "{\"collections\":[");
    for (size_t i = 0; i < count; i++) {
        ap_json_raw(&out, i ? ",{\"name\":" : "{\"name\":");
        ap_json_string(&out, all[i]->params.name, strlen(all[i]->params.name));
        ap_json_raw(&out, "}");
    }
    ap_json_raw(&out, "]}");
    free(all);
    ap_read_end(&r);
    ap_read_answer(req, &out);
}

static void append_vectors(struct ap_buf *out, const struct ap_control_collection *p)
{
    if (p->vector_name) {
        ap_json_raw(out, "{");
        ap_json_string(out, p->vector_name, strlen(p->vector_name));
        ap_json_raw(out, ":");
    }
    ap_buf_printf(out, "{\"size\":%u,\"distance\":\"%s\"}", p->dim, ap_distance_name(p->distance));
    ap_json_raw(out, p->vector_name ? "}" : "");
}

/* Declared fields; points: how many have a value, as far as indexes are built. */
static void append_fields(struct ap_buf *out, const struct ap_read *r)
{
    const struct ap_fields *fields = r->c.fields;
    ap_json_raw(out, "{");
    for (size_t i = 0; i < fields->count; i++) {
        const struct ap_field *f = &fields->items[i];
        const char *type = ap_field_type_name(f->type);
        ap_json_raw(out, i ? "," : "");
        ap_json_string(out, f->path.text, strlen(f->path.text));
        ap_buf_printf(out, ":{\"data_type\":\"%s\",", type);
        if (f->options) /* a JSON object: the type goes in first */
            ap_buf_printf(out, "\"params\":{\"type\":\"%s\",%s,", type, f->options + 1);
        ap_buf_printf(out, "\"points\":%llu}", (unsigned long long)ap_view_field_points(r->view, &r->c, f->id));
    }
    ap_json_raw(out, "}");
}

/* What Qdrant's clients require to be there. The parameters of HNSW and of the optimizer are its words for what the indexer
 * chooses by itself. Ours: the parameters under config.metadata, as at creation, and what the index says under antipode. */
static void append_info(struct ap_buf *out, const struct ap_read *r)
{
    const struct ap_collection_view *c = &r->c;
    const struct ap_control_collection *p = &c->collection->params;
    ap_buf_printf(out, "{\"status\":\"%s\",\"optimizer_status\":\"ok\",", c->unready || c->pending ? "yellow" : "green");
    if (c->unready) {
        ap_json_raw(out, "\"warnings\":[{\"message\":");
        ap_json_string(out, c->unready, strlen(c->unready));
        ap_json_raw(out, "}],");
    }
    ap_buf_printf(out, "\"indexed_vectors_count\":%llu,\"points_count\":%llu,\"segments_count\":%u,\"config\":{\"params\":{\"vectors\":",
                  (unsigned long long)c->indexed, (unsigned long long)c->points, c->segments);
    append_vectors(out, p);
    ap_json_raw(out, ",\"shard_number\":1,\"replication_factor\":1,\"write_consistency_factor\":1,\"on_disk_payload\":true},"
                     "\"hnsw_config\":{\"m\":16,\"ef_construct\":100,\"full_scan_threshold\":10000},"
                     "\"optimizer_config\":{\"deleted_threshold\":0.2,\"vacuum_min_vector_number\":1000,\"default_segment_number\":0,\"flush_interval_sec\":1},"
                     "\"wal_config\":null,\"quantization_config\":null,\"metadata\":{\"antipode\":{\"codec\":");
    ap_json_string(out, p->codec_factory, strlen(p->codec_factory));
    ap_buf_printf(out, ",\"raw\":\"%s\",\"topic\":", p->raw_home ? "home" : "none");
    ap_json_string(out, p->topic, strlen(p->topic));
    ap_json_raw(out, "}}},\"payload_schema\":");
    append_fields(out, r);
    ap_json_raw(out, ",\"antipode\":{\"region\":");
    ap_json_string(out, r->api->config->region.name, strlen(r->api->config->region.name));
    ap_buf_printf(out, ",\"id\":\"%016llx\",\"generation\":%llu,\"pending\":%llu,\"visible_slot\":%llu}}", (unsigned long long)c->collection->id,
                  (unsigned long long)p->generation, (unsigned long long)c->pending, (unsigned long long)ap_index_visible_slot(r->index));
}

void ap_serve_collection(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_buf out = {0};
    if (ap_read_begin(&r, req, true))
        return;
    ap_read_answer_begin(&out);
    append_info(&out, &r);
    ap_read_end(&r);
    ap_read_answer(req, &out);
}

void ap_serve_exists(struct ap_http_request *req)
{
    struct ap_read r;
    struct ap_buf out = {0};
    struct ap_err err;
    if (ap_read_begin(&r, req, false))
        return;
    int rc = ap_view_collection(r.view, ap_http_param(req, 0), &r.c, &err);
    ap_read_end(&r);
    if (rc && rc != AP_ENOTFOUND) {
        ap_http_reply_err(req, &err);
        return;
    }
    ap_read_answer_begin(&out);
    ap_json_raw(&out, rc == 0 ? "{\"exists\":true}" : "{\"exists\":false}");
    ap_read_answer(req, &out);
}

/* --- readiness --- */

/* Reads do not need the producer, so its state is told but decides nothing. */
static void append_producer(struct ap_api *api, struct ap_buf *out)
{
    struct ap_forward_request probe = {.method = "GET", .path = "/livez", .timeout_ms = PROBE_TIMEOUT_MS};
    struct ap_forward_reply reply;
    struct ap_err err;
    if (ap_forward_send(api->forward, &probe, &reply, &err)) {
        ap_buf_printf(out, "writes are not possible: %s\n", err.msg);
        return;
    }
    ap_buf_printf(out, "the producer answers\n");
    ap_forward_reply_fini(&reply);
}

void ap_serve_ready(struct ap_http_request *req)
{
    struct ap_api *api = ap_http_user(req);
    struct ap_index *index = api->index;
    struct ap_buf out = {0};
    bool ready = index && ap_index_caught_up(index);
    if (ready) {
        ap_buf_printf(&out, "ready\n");
    } else if (index) {
        ap_buf_printf(&out, "not ready: catching up with the store, at slot %llu\n", (unsigned long long)ap_index_visible_slot(index));
    } else {
        pthread_mutex_lock(&api->lock);
        ap_buf_printf(&out, "not ready: %s\n", api->state);
        pthread_mutex_unlock(&api->lock);
    }
    append_producer(api, &out);
    if (!ready)
        ap_http_add_header(req, "Retry-After", "1");
    ap_http_reply_take(req, ready ? 200 : 503, "text/plain", (char *)out.data, out.len);
}

/* --- metrics --- */

/* Figures of each collection's segments are the index's own (index.c). */
void ap_collect_collections(struct ap_metrics_out *out, void *arg)
{
    struct ap_api *api = arg;
    struct ap_index *index = api->index;
    struct ap_view *view = NULL;
    const struct ap_collection **all;
    struct ap_collection_view c;
    char labels[300];
    ap_metrics_emit(out, "antipode_ready", NULL, "gauge", "1 when the index has caught up with the store.", index && ap_index_caught_up(index));
    if (!index || ap_view_begin(index, &view, NULL))
        return;
    size_t count = list(view, &all);
    for (size_t i = 0; i < count; i++) {
        const char *name = all[i]->params.name; /* without quotes: ident.h */
        if (ap_view_collection(view, name, &c, NULL))
            continue;
        snprintf(labels, sizeof labels, "collection=\"%s\"", name);
        ap_metrics_emit(out, "antipode_collection_ready", labels, "gauge", "1 when the collection can be searched.", c.unready == NULL);
    }
    free(all);
    ap_view_end(&view);
}
