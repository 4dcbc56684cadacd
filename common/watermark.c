/* Watermark records: struct to Avro value and back. Decoding checks every field before it is stored. */
#include "common/watermark.h"
#include <stdlib.h>
#include <string.h>
#include "common/avro_field.h"
#include "common/clock.h"
#include "common/schema.h"

static const char *const name = "Watermark";

int ap_watermark_encode(const struct ap_schemas *s, const struct ap_watermark *w, struct ap_buf *out, struct ap_err *err)
{
    avro_value_iface_t *iface = avro_generic_class_from_schema(ap_schema_newest(s, name)->schema);
    avro_value_t record, list, item;
    if (!iface || avro_generic_value_new(iface, &record))
        abort(); /* memory is out */
    avro_value_iface_decref(iface);
    ap_avro_set_string(&record, "region", w->region.name);
    ap_avro_set_u64(&record, "sent_ms", (uint64_t)w->sent_ms);
    ap_avro_set_u64(&record, "hlc", w->hlc);
    ap_avro_set_u64(&record, "settled", w->settled.hlc);
    ap_avro_set_u64(&record, "retention_ms", (uint64_t)w->settled.retention_ms);
    list = ap_avro_field(&record, "positions");
    for (size_t i = 0; i < w->count; i++) {
        const struct ap_position *p = &w->positions[i];
        if (avro_value_append(&list, &item, NULL))
            abort();
        ap_avro_set_u64(&item, "stream", p->stream);
        ap_avro_set_string(&item, "region", p->region.name);
        ap_avro_set_string(&item, "topic", p->topic);
        ap_avro_set_int(&item, "partition", p->partition);
        ap_avro_set_u64(&item, "mark", p->mark);
        ap_avro_set_u64(&item, "clock", p->clock);
        ap_avro_set_u64(&item, "lineage", p->lineage);
        ap_avro_set_bool(&item, "finished", p->finished);
    }
    int rc = ap_schema_write(s, name, &record, out, err);
    avro_value_decref(&record);
    return rc;
}

static int bad(struct ap_err *err, const char *what)
{
    return ap_err_set(err, AP_ECORRUPT, AP_POISON, "watermark: %s", what);
}

static int read_region(const avro_value_t *record, struct ap_region *out, struct ap_err *err)
{
    size_t len;
    const char *text = ap_avro_string(record, "region", &len);
    return ap_region_parse(text, len, out, NULL) ? bad(err, "not the name of a region") : 0;
}

static int read_position(const avro_value_t *item, struct ap_position *out, struct ap_err *err)
{
    size_t len;
    const char *topic = ap_avro_string(item, "topic", &len);
    if (len == 0 || len >= sizeof out->topic || strlen(topic) != len)
        return bad(err, "not the name of a topic");
    memcpy(out->topic, topic, len);
    out->stream = ap_avro_u64(item, "stream");
    out->partition = ap_avro_int(item, "partition");
    out->mark = ap_avro_u64(item, "mark");
    out->clock = ap_avro_u64(item, "clock");
    out->lineage = ap_avro_u64(item, "lineage");
    out->finished = ap_avro_bool(item, "finished");
    if (out->stream == 0 || out->partition < 0 || out->mark > INT64_MAX || out->clock > AP_HLC_MAX)
        return bad(err, "a position out of range");
    return read_region(item, &out->region, err);
}

int ap_watermark_decode(const struct ap_schemas *s, const void *value, size_t len, struct ap_watermark *out, struct ap_err *err)
{
    avro_value_t record, list, item;
    *out = (struct ap_watermark){0};
    int rc = ap_schema_read(s, name, value, len, &record, err);
    if (rc)
        return rc;
    out->sent_ms = (int64_t)ap_avro_u64(&record, "sent_ms");
    out->hlc = ap_avro_u64(&record, "hlc");
    out->settled.hlc = ap_avro_u64(&record, "settled");
    out->settled.retention_ms = (int64_t)ap_avro_u64(&record, "retention_ms");
    rc = read_region(&record, &out->region, err);
    if (rc == 0 && (out->hlc > AP_HLC_MAX || out->sent_ms < 0 || out->settled.hlc > AP_HLC_MAX || out->settled.retention_ms < -1))
        rc = bad(err, "a clock out of range");
    list = ap_avro_field(&record, "positions");
    avro_value_get_size(&list, &out->count);
    out->positions = calloc(out->count + 1, sizeof *out->positions);
    if (!out->positions)
        abort();
    for (size_t i = 0; i < out->count && rc == 0; i++) {
        avro_value_get_by_index(&list, i, &item, NULL);
        rc = read_position(&item, &out->positions[i], err);
    }
    avro_value_decref(&record);
    if (rc)
        ap_watermark_fini(out);
    return rc;
}

void ap_watermark_fini(struct ap_watermark *w)
{
    free(w->positions);
    *w = (struct ap_watermark){0};
}
