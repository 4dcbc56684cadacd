/* Hot values: chunks of entries that never move; an entry is complete before the count that covers it is published. */
#include "indexer/fields.h"
#include <stdlib.h>
#include <string.h>
#include "common/log.h"

#define FIELDS_MAX 64
#define ENTRIES 256
#define TEXT_BYTES (32 * 1024)

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- fields ---- */

struct ap_fields *ap_fields_of(const struct ap_catalog *catalog, uint64_t collection)
{
    const struct ap_control_index *records[FIELDS_MAX];
    size_t n = ap_catalog_indexes(catalog, collection, records, FIELDS_MAX);
    n = n < FIELDS_MAX ? n : FIELDS_MAX;
    struct ap_fields *f = must(calloc(1, sizeof *f + n * sizeof *f->items));
    atomic_init(&f->refs, 1);
    for (size_t i = 0; i < n; i++) {
        struct ap_err err = {0};
        if (ap_field_init(&f->items[f->count], records[i], &err) != 0) {
            ap_warn("%s: it is not indexed", err.msg);
            continue;
        }
        f->hash = f->hash * 31 + f->items[f->count++].id;
    }
    f->hash += f->count > 0 && f->hash == 0;
    return f;
}

struct ap_fields *ap_fields_ref(struct ap_fields *f)
{
    atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
    return f;
}

void ap_fields_unref(struct ap_fields **fields)
{
    struct ap_fields *f = *fields;
    *fields = NULL;
    if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < f->count; i++)
        ap_field_fini(&f->items[i]);
    free(f);
}

json_t *ap_fields_payload(const struct ap_row *row, struct ap_buf *scratch)
{
    const char *text = row->payload;
    size_t len = row->payload_len;
    if (row->flags & AP_ROW_PATCHES) {
        ap_buf_clear(scratch);
        if (ap_row_payload(row, scratch, NULL) < 0)
            return NULL;
        text = (const char *)scratch->data;
        len = scratch->len;
    }
    return len > 0 ? json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
}

/* ---- hot values ---- */

struct chunk { _Atomic(struct chunk *) next; _Atomic uint32_t count; struct ap_hot_entry entries[ENTRIES]; };
struct texts { struct texts *next; size_t used; char bytes[]; };

struct ap_hot_values {
    struct ap_fields *fields;
    struct ap_buf payload, words;  /* the tail's */
    struct texts *texts;
    _Atomic size_t bytes;
    struct { struct chunk *first, *last; } logs[];
};

static struct chunk *chunk_new(struct ap_hot_values *v)
{
    atomic_fetch_add_explicit(&v->bytes, sizeof(struct chunk), memory_order_relaxed);
    return must(calloc(1, sizeof(struct chunk)));
}

struct ap_hot_values *ap_hot_values_new(struct ap_fields *fields)
{
    if (!fields || fields->count == 0)
        return NULL;
    struct ap_hot_values *v = must(calloc(1, sizeof *v + fields->count * sizeof *v->logs));
    v->fields = ap_fields_ref(fields);
    for (size_t i = 0; i < fields->count; i++)
        v->logs[i].first = v->logs[i].last = chunk_new(v);
    return v;
}

void ap_hot_values_free(struct ap_hot_values **values)
{
    struct ap_hot_values *v = *values;
    *values = NULL;
    if (!v)
        return;
    for (size_t i = 0; i < v->fields->count; i++)
        for (struct chunk *c = v->logs[i].first, *next; c; c = next) {
            next = atomic_load_explicit(&c->next, memory_order_relaxed);
            free(c);
        }
    for (struct texts *t = v->texts, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    ap_buf_free(&v->payload);
    ap_buf_free(&v->words);
    ap_fields_unref(&v->fields);
    free(v);
}

size_t ap_hot_values_bytes(const struct ap_hot_values *v)
{
    return v ? atomic_load_explicit(&v->bytes, memory_order_relaxed) : 0;
}

static const char *keep_text(struct ap_hot_values *v, const char *text, size_t len)
{
    struct texts *t = v->texts;
    if (!t || TEXT_BYTES - t->used < len) {
        size_t size = len > TEXT_BYTES ? len : TEXT_BYTES;
        t = must(malloc(sizeof *t + size));
        atomic_fetch_add_explicit(&v->bytes, sizeof *t + size, memory_order_relaxed);
        *t = (struct texts){v->texts, size > TEXT_BYTES ? TEXT_BYTES : 0};
        v->texts = t;
        if (size > TEXT_BYTES)
            return memcpy(t->bytes, text, len);
    }
    char *at = t->bytes + t->used;
    memcpy(at, text, len);
    t->used += len;
    return at;
}

static void append(struct ap_hot_values *v, size_t log, const struct ap_hot_entry *e)
{
    struct chunk *c = v->logs[log].last;
    uint32_t n = atomic_load_explicit(&c->count, memory_order_relaxed);
    if (n == ENTRIES) {
        struct chunk *next = chunk_new(v);
        atomic_store_explicit(&c->next, next, memory_order_release);
        v->logs[log].last = c = next;
        n = 0;
    }
    c->entries[n] = *e;
    if (e->value.text)
        c->entries[n].value.text = keep_text(v, e->value.text, e->value.len);
    atomic_store_explicit(&c->count, n + 1, memory_order_release);
}

struct appending { struct ap_hot_values *v; size_t log; uint32_t ordinal; };

static void append_value(void *arg, const struct ap_field_value *value)
{
    struct appending *a = arg;
    append(a->v, a->log, &(struct ap_hot_entry){*value, a->ordinal, AP_HOT_VALUE});
}

void ap_hot_values_append(struct ap_hot_values *v, uint32_t ordinal, const struct ap_row *row)
{
    json_t *payload = ap_fields_payload(row, &v->payload);
    for (size_t i = 0; i < v->fields->count; i++) {
        struct appending a = {v, i, ordinal};
        bool empty, null;
        ap_field_each(&v->fields->items[i], payload, &v->words, append_value, &a);
        ap_field_absence(&v->fields->items[i].path, payload, &empty, &null);
        if (empty)
            append(v, i, &(struct ap_hot_entry){.ordinal = ordinal, .kind = AP_HOT_EMPTY});
        if (null)
            append(v, i, &(struct ap_hot_entry){.ordinal = ordinal, .kind = AP_HOT_NULL});
    }
    json_decref(payload);
}

bool ap_hot_values_each(const struct ap_hot_values *v, uint64_t field, uint32_t rows, void (*fn)(void *arg, const struct ap_hot_entry *e), void *arg)
{
    size_t i = 0;
    while (v && i < v->fields->count && v->fields->items[i].id != field)
        i++;
    if (!v || i == v->fields->count)
        return false;
    for (const struct chunk *c = v->logs[i].first; c; c = atomic_load_explicit(&c->next, memory_order_acquire)) {
        uint32_t n = atomic_load_explicit(&c->count, memory_order_acquire);
        for (uint32_t j = 0; j < n; j++) {
            if (c->entries[j].ordinal >= rows)
                return true;
            fn(arg, &c->entries[j]);
        }
    }
    return true;
}
