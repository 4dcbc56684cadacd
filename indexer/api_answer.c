/* A point as JSON: id, version, score, payload, vector. Payload text goes from the store into the answer as it is. */
#include <stdlib.h>
#include <string.h>
#include "common/clock.h"
#include "common/log.h"
#include "indexer/api_impl.h"
#include "indexer/json_out.h"
#include "indexer/json_scan.h"
#include "indexer/payload_select.h"

uint64_t ap_answer_version(const struct ap_row *row)
{
    /* 48 bits of milliseconds and the upper 11 of the counter: below 2^53 until the year 2109, so that clients whose
     * numbers are doubles read it exactly. version / 2048 is the time of the change in ms. */
    return ap_row_newest(row).hlc >> (AP_HLC_COUNTER_BITS - 11);
}

/* "" and no name are the same vector: Qdrant calls its default one "". */
static const char *vector_name(const struct ap_read *r)
{
    const char *name = r->c.collection->params.vector_name;
    return name ? name : "";
}

static int select_vectors(struct ap_answer *a, struct ap_err *err)
{
    const char *own = vector_name(a->read);
    a->vector = a->select->vector && (!a->select->vector_names || json_array_size(a->select->vector_names));
    a->named = *own != 0;
    for (size_t i = 0; i < json_array_size(a->select->vector_names); i++) {
        const char *name = json_string_value(json_array_get(a->select->vector_names, i));
        if (strcmp(name, own))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: Not existing vector name error: %.100s", name);
    }
    return 0;
}

int ap_answer_begin(struct ap_answer *a, struct ap_read *r, const struct ap_select *select, struct ap_buf *out, struct ap_err *err)
{
    *a = (struct ap_answer){.read = r, .select = select, .out = out};
    int rc = select_vectors(a, err);
    if (rc == 0 && a->vector && !(a->floats = malloc(r->c.collection->params.dim * sizeof *a->floats)))
        rc = ap_err_set(err, AP_ENOMEM, AP_RETRY, "out of memory");
    return rc;
}

void ap_answer_end(struct ap_answer *a)
{
    free(a->floats);
    a->floats = NULL;
    ap_buf_free(&a->payload);
}

int ap_answer_payload(const struct ap_row *row, struct ap_buf *scratch, const char **text, size_t *len, struct ap_err *err)
{
    *text = row->payload;
    *len = row->payload_len;
    if (!(row->flags & AP_ROW_PATCHES))
        return 0;
    ap_buf_clear(scratch);
    int rc = ap_row_payload(row, scratch, err);
    *text = (const char *)scratch->data;
    *len = scratch->len;
    return rc;
}

static void append_selected(struct ap_answer *a, const char *text, size_t len)
{
    json_t *payload = json_loadb(text, len, JSON_ALLOW_NUL, NULL);
    json_t *selected = ap_payload_select(payload, a->select->paths, a->select->payload == AP_PAYLOAD_INCLUDE);
    char *selected_text = json_dumps(selected, JSON_COMPACT | JSON_REAL_PRECISION(17));
    ap_json_raw(a->out, selected_text ? selected_text : "{}");
    free(selected_text);
    json_decref(selected);
    json_decref(payload);
}

static int append_payload(struct ap_answer *a, const struct ap_row *row, struct ap_err *err)
{
    static struct ap_log_limit limit;
    const char *text;
    size_t len;
    if (a->select->payload == AP_PAYLOAD_NONE)
        return 0;
    int rc = ap_answer_payload(row, &a->payload, &text, &len, err);
    if (rc)
        return rc;
    ap_json_raw(a->out, ",\"payload\":");
    if (len && !ap_json_is_object(text, len)) {
        /* Written by something that is not our producer. Spliced in, it would spoil the whole answer. */
        ap_log_limited(&limit, 60000, AP_LOG_ERROR, "a stored payload is no JSON object and is left out of answers, in collection %s",
                       a->read->c.collection->params.name);
        len = 0;
    }
    if (len == 0)
        ap_json_raw(a->out, "{}");
    else if (a->select->payload == AP_PAYLOAD_ALL)
        ap_buf_append(a->out, text, len);
    else
        append_selected(a, text, len);
    return 0;
}

static int append_vector(struct ap_answer *a, uint64_t slot, const struct ap_row *row, struct ap_err *err)
{
    const struct ap_control_collection *params = &a->read->c.collection->params;
    bool raw;
    if (!a->vector || !(row->flags & AP_ROW_VECTOR))
        return 0;
    int rc = ap_view_vector(a->read->view, &a->read->c, slot, row, a->floats, &raw, err);
    if (rc)
        return rc;
    ap_json_raw(a->out, ",\"vector\":");
    if (a->named) {
        ap_json_raw(a->out, "{");
        ap_json_string(a->out, params->vector_name, strlen(params->vector_name));
        ap_json_raw(a->out, ":");
    }
    ap_json_floats(a->out, a->floats, params->dim);
    if (a->named)
        ap_json_raw(a->out, "}");
    return 0;
}

int ap_answer_point(struct ap_answer *a, const struct ap_point_id *id, uint64_t slot, const float *score, struct ap_err *err)
{
    struct ap_row row;
    int rc = ap_view_row(a->read->view, slot, &row, err);
    if (rc)
        return rc;
    ap_json_raw(a->out, "{\"id\":");
    ap_json_point_id(a->out, id);
    if (score) {
        ap_json_raw(a->out, ",\"version\":");
        ap_json_u64(a->out, ap_answer_version(&row));
        ap_json_raw(a->out, ",\"score\":");
        ap_json_float(a->out, *score);
    }
    rc = append_payload(a, &row, err);
    if (rc == 0)
        rc = append_vector(a, slot, &row, err);
    ap_json_raw(a->out, "}");
    return rc;
}
