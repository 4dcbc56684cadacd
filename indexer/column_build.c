/* Columns of a sealed segment: its rows are read from the store once, block by block, for all fields that it lacks. */
#include <stdlib.h>
#include <string.h>
#include "indexer/column.h"
#include "indexer/index_impl.h"

#define BLOCK 512

static int read_block(struct ap_index *index, const struct ap_segment *s, uint32_t from, uint32_t end, struct ap_column_builder **builders,
                      size_t count, struct ap_buf *scratch, struct ap_err *err)
{
    struct ap_snapshot *snapshot;
    int rc = ap_snapshot_begin(index->store, &snapshot, err);
    if (rc < 0)
        return rc;
    for (uint32_t rank = from; rank < end; rank++) {
        uint32_t ordinal = ap_segment_nth(s, rank);
        struct ap_row row;
        if (ap_snapshot_row(snapshot, ap_segment_slot(s, ordinal), &row, NULL) != 0)
            continue; /* replaced, and cleaned away: it never comes to life again */
        json_t *payload = ap_fields_payload(&row, scratch);
        for (size_t i = 0; i < count; i++)
            ap_column_builder_add(builders[i], ordinal, payload);
        json_decref(payload);
    }
    ap_snapshot_end(&snapshot);
    return atomic_load(&index->closing) ? ap_err_set(err, AP_ENOTREADY, AP_RETRY, "the index is closing") : 0;
}

static int build(struct ap_index *index, const struct ap_segment *s, const struct ap_field **fields, size_t count, struct ap_column **out, size_t *made, struct ap_err *err)
{
    struct ap_column_builder **builders = calloc(count + 1, sizeof(struct ap_column_builder *));
    struct ap_buf scratch = {0};
    int rc = 0;
    if (!builders)
        abort();
    for (size_t i = 0; i < count; i++)
        builders[i] = ap_column_builder_new(fields[i], s->cap);
    for (uint32_t from = 0; rc == 0 && from < s->cap; from += BLOCK)
        rc = read_block(index, s, from, s->cap - from < BLOCK ? s->cap : from + BLOCK, builders, count, &scratch, err);
    for (size_t i = 0; i < count; i++) {
        struct ap_column *column = rc == 0 ? ap_column_make(index, s->file_id, s->path != NULL, fields[i], &builders[i]) : NULL;
        if (column)
            out[(*made)++] = column;
        ap_column_builder_free(&builders[i]);
    }
    ap_buf_free(&scratch);
    free(builders);
    return rc;
}

bool ap_columns_wanting(const struct ap_segment *s, const struct ap_fields *fields)
{
    size_t have = 0;
    for (size_t i = 0; i < fields->count; i++)
        have += ap_columns_find(s->columns, fields->items[i].id) != NULL;
    return s->indexed_fields != fields->hash || have < (s->columns ? s->columns->count : 0);
}

int ap_columns_build(struct ap_index *index, const struct ap_segment *s, struct ap_columns *old, const struct ap_fields *fields, struct ap_columns **out, struct ap_err *err)
{
    const struct ap_field **missing = calloc(fields->count + 1, sizeof *missing);
    struct ap_column **columns = calloc(fields->count + 1, sizeof(struct ap_column *));
    size_t wanted = 0, count = 0;
    *out = NULL;
    if (!missing || !columns)
        abort();
    for (size_t i = 0; i < fields->count; i++) {
        const struct ap_column *have = ap_columns_find(old, fields->items[i].id);
        if (have)
            columns[count++] = ap_column_ref((struct ap_column *)(uintptr_t)have);
        else
            missing[wanted++] = &fields->items[i];
    }
    int rc = wanted > 0 ? build(index, s, missing, wanted, columns, &count, err) : 0;
    if (rc == 0)
        *out = ap_columns_new(columns, count);
    for (size_t i = 0; rc != 0 && i < count; i++)
        ap_column_unref(&columns[i]);
    free(missing);
    free(columns);
    return rc;
}
