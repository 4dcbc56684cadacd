/* Patches go back into the JSON that PATCH events carry; their values are copied as they are, so that what a region makes of
 * them is equal byte for byte to what made them. */
#include "common/row_parts.h"
#include <jansson.h>
#include <stdlib.h>
#include "common/row_internal.h"

/* {"set":{"key":value}}, {"delete":["key"]} or {"overwrite":{...}}, appended. */
static int print_patch(const struct ap_patch *p, struct ap_buf *out, struct ap_err *err)
{
    if (p->kind == AP_PATCH_OVERWRITE) {
        ap_buf_printf(out, "{\"overwrite\":%.*s}", (int)p->value_len, p->value);
        return 0;
    }
    json_t *key = json_stringn(p->key, p->key_len);
    char *text = key ? json_dumps(key, JSON_ENCODE_ANY) : NULL;
    json_decref(key);
    if (!text)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a patched key of a row is no UTF-8");
    if (p->kind == AP_PATCH_DELETE)
        ap_buf_printf(out, "{\"delete\":[%s]}", text);
    else
        ap_buf_printf(out, "{\"set\":{%s:%.*s}}", text, (int)p->value_len, p->value);
    free(text);
    return 0;
}

static struct ap_mutation *add(struct ap_row_parts *parts, enum ap_op op, const struct ap_version *version)
{
    struct ap_mutation *m = &parts->list[parts->count++];
    *m = (struct ap_mutation){.op = op, .version = *version};
    return m;
}

static void add_base(struct ap_row_parts *parts, const struct ap_row *row)
{
    struct ap_mutation *m = add(parts, row->flags & AP_ROW_TOMBSTONE ? AP_OP_DELETE : AP_OP_UPSERT, &row->version);
    m->has_codec = row->flags & AP_ROW_CODEC;
    m->codec = row->codec;
    m->vector = row->vector;
    m->vector_len = row->vector_len;
    m->payload = row->payload;
    m->payload_len = row->payload_len;
}

static void reserve(struct ap_row_parts *parts, size_t count)
{
    *parts = (struct ap_row_parts){.list = calloc(count, sizeof *parts->list)};
    if (!parts->list)
        abort();
}

int ap_row_parts(const struct ap_row *row, struct ap_row_parts *out, struct ap_err *err)
{
    struct ap_patches patches = {0};
    ap_patches_read(row->patches, row->patches_len, &patches);
    reserve(out, patches.count + 1);
    if (row->flags & AP_ROW_BASE)
        add_base(out, row);
    int rc = 0;
    for (size_t i = 0; i < patches.count && rc == 0; i++) {
        struct ap_mutation *m = add(out, AP_OP_PATCH, &patches.list[i].version);
        size_t start = out->text.len;
        rc = print_patch(&patches.list[i], &out->text, err);
        m->payload_len = out->text.len - start;
    }
    /* The text has come to rest: now it can be pointed to. */
    size_t at = 0;
    for (size_t i = 0; i < out->count; i++)
        if (out->list[i].op == AP_OP_PATCH) {
            out->list[i].payload = (const char *)out->text.data + at;
            at += out->list[i].payload_len;
        }
    ap_patches_fini(&patches);
    return rc;
}

void ap_row_parts_delete(const struct ap_row *row, struct ap_row_parts *out)
{
    struct ap_version newest = ap_row_newest(row);
    reserve(out, 1);
    add(out, AP_OP_DELETE, &newest);
}

void ap_row_parts_fini(struct ap_row_parts *p)
{
    free(p->list);
    ap_buf_free(&p->text);
    *p = (struct ap_row_parts){0};
}
