/* Building an image, taking one apart, and asking it. Building: values are gathered, sorted by key and ordinal, and written
 * out part by part. */
#include "indexer/column.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HEADER 128
#define HEAVY 256 /* rows of a key from which on it has a bitmap */

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

/* ---- bitmaps ---- */

roaring_bitmap_t *ap_bits_bitmap(const uint64_t *bits, uint32_t rows)
{
    enum { RUN = 4096 };
    uint32_t found[RUN + 64];
    size_t n = 0, words = ((size_t)rows + 63) / 64;
    roaring_bitmap_t *out = must(roaring_bitmap_create());
    for (size_t i = 0; i < words; i++) {
        for (uint64_t w = bits[i]; w; w &= w - 1)
            found[n++] = (uint32_t)(i * 64) + (uint32_t)__builtin_ctzll(w);
        if (n >= RUN) {
            roaring_bitmap_add_many(out, n, found);
            n = 0;
        }
    }
    roaring_bitmap_add_many(out, n, found);
    return out;
}

roaring_bitmap_t *ap_ordinals_bitmap(const uint32_t *ordinals, size_t count, uint32_t rows)
{
    if (count < 32) {
        roaring_bitmap_t *few = must(roaring_bitmap_create());
        for (size_t i = 0; i < count; i++)
            roaring_bitmap_add(few, ordinals[i]);
        return few;
    }
    uint64_t *bits = must(calloc((size_t)rows / 64 + 1, sizeof *bits));
    for (size_t i = 0; i < count; i++)
        bits[ordinals[i] / 64] |= UINT64_C(1) << (ordinals[i] % 64);
    roaring_bitmap_t *out = ap_bits_bitmap(bits, rows);
    free(bits);
    return out;
}

/* ---- building ---- */

struct entry { uint64_t number; /* or where the text begins */ uint32_t len, ordinal; };

struct ap_column_builder {
    const struct ap_field *field;
    uint32_t rows;
    struct entry *entries; size_t count, cap;
    struct ap_buf texts, words;
    roaring_bitmap_t *empty, *null;
    uint32_t at;
};

struct ap_column_builder *ap_column_builder_new(const struct ap_field *field, uint32_t rows)
{
    struct ap_column_builder *b = must(calloc(1, sizeof *b));
    b->field = field;
    b->rows = rows;
    b->empty = must(roaring_bitmap_create());
    b->null = must(roaring_bitmap_create());
    return b;
}

uint32_t ap_column_builder_rows(const struct ap_column_builder *b)
{
    return b->rows;
}

static void add_value(void *arg, const struct ap_field_value *v)
{
    struct ap_column_builder *b = arg;
    if (b->count == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 4096;
        b->entries = must(realloc(b->entries, b->cap * sizeof *b->entries));
    }
    b->entries[b->count++] = (struct entry){v->text ? b->texts.len : v->number, (uint32_t)v->len, b->at};
    if (v->text)
        ap_buf_append(&b->texts, v->text, v->len);
}

void ap_column_builder_add(struct ap_column_builder *b, uint32_t ordinal, const json_t *payload)
{
    bool empty, null;
    b->at = ordinal;
    ap_field_each(b->field, payload, &b->words, add_value, b);
    ap_field_absence(&b->field->path, payload, &empty, &null);
    if (empty)
        roaring_bitmap_add(b->empty, ordinal);
    if (null)
        roaring_bitmap_add(b->null, ordinal);
}

static _Thread_local const uint8_t *sorting; /* texts; qsort has no argument */

static int text_order(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    size_t n = a_len < b_len ? a_len : b_len;
    int order = n ? memcmp(a, b, n) : 0;
    return order ? order : (a_len > b_len) - (a_len < b_len);
}

static int by_text(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    int order = text_order(sorting + a->number, a->len, sorting + b->number, b->len);
    return order ? order : (a->ordinal > b->ordinal) - (a->ordinal < b->ordinal);
}

static int by_number(const void *x, const void *y)
{
    const struct entry *a = x, *b = y;
    int order = (a->number > b->number) - (a->number < b->number);
    return order ? order : (a->ordinal > b->ordinal) - (a->ordinal < b->ordinal);
}

static void sort_entries(struct ap_column_builder *b, bool text)
{
    size_t n = 0;
    sorting = b->texts.data;
    int (*order)(const void *, const void *) = text ? by_text : by_number;
    if (b->count > 1)
        qsort(b->entries, b->count, sizeof *b->entries, order);
    for (size_t i = 0; i < b->count; i++)
        if (n == 0 || order(&b->entries[n - 1], &b->entries[i]) != 0)
            b->entries[n++] = b->entries[i];
    b->count = n;
}

static bool same_key(const struct ap_column_builder *b, bool text, const struct entry *x, const struct entry *y)
{
    return text ? text_order(b->texts.data + x->number, x->len, b->texts.data + y->number, y->len) == 0 : x->number == y->number;
}

static void align(struct ap_buf *out)
{
    static const uint8_t zero[64];
    ap_buf_append(out, zero, (64 - out->len % 64) % 64);
}

static void append_keys(struct ap_column_builder *b, bool text, const uint32_t *starts, uint32_t keys, struct ap_buf *out)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < keys; i++) {
        const struct entry *e = &b->entries[starts[i]];
        ap_buf_append(out, text ? (void *)&at : (const void *)&e->number, text ? sizeof at : sizeof e->number);
        at += e->len;
    }
    if (text) {
        ap_buf_append(out, &at, sizeof at);
        align(out);
        for (uint32_t i = 0; i < keys; i++)
            ap_buf_append(out, b->texts.data + b->entries[starts[i]].number, b->entries[starts[i]].len);
    }
    align(out);
}

static void append_bitmap(roaring_bitmap_t *r, struct ap_buf *lengths, struct ap_buf *out)
{
    roaring_bitmap_run_optimize(r);
    uint32_t len = (uint32_t)roaring_bitmap_portable_size_in_bytes(r);
    ap_buf_append(lengths, &len, sizeof len);
    ap_buf_reserve(out, len);
    roaring_bitmap_portable_serialize(r, (char *)out->data + out->len);
    out->len += len;
    roaring_bitmap_free(r);
}

/* counts: keys, entries, flags (1: several values a row), heavy keys, parts, step, texts, bitmaps */
enum { KEYS, ENTRIES, FLAGS, HEAVIES, PARTS, STEP, TEXTS, BITMAPS };

static void append_bitmaps(struct ap_column_builder *b, const uint32_t *starts, const uint32_t *ordinals, uint32_t counts[8], struct ap_buf *out)
{
    struct ap_buf lengths = {0}, bytes = {0}, heavy = {0};
    roaring_bitmap_t *any = ap_ordinals_bitmap(ordinals, b->count, b->rows);
    counts[FLAGS] = roaring_bitmap_get_cardinality(any) < b->count;
    append_bitmap(b->empty, &lengths, &bytes);
    append_bitmap(b->null, &lengths, &bytes);
    append_bitmap(any, &lengths, &bytes);
    b->empty = b->null = NULL;
    for (uint32_t k = 0; k < counts[KEYS]; k++) {
        uint32_t n = starts[k + 1] - starts[k];
        if (n < HEAVY)
            continue;
        ap_buf_append(&heavy, &k, sizeof k);
        counts[HEAVIES]++;
        append_bitmap(must(roaring_bitmap_of_ptr(n, ordinals + starts[k])), &lengths, &bytes);
    }
    counts[STEP] = (uint32_t)(b->count / AP_COLUMN_PARTS) + 1;
    uint64_t *below = must(calloc((size_t)b->rows / 64 + 1, sizeof *below));
    for (uint32_t i = 0; !ap_field_is_text(b->field->type) && !counts[FLAGS] && counts[STEP] >= 64 && i < b->count; i++) {
        below[ordinals[i] / 64] |= UINT64_C(1) << (ordinals[i] % 64);
        if ((i + 1) % counts[STEP])
            continue;
        append_bitmap(ap_bits_bitmap(below, b->rows), &lengths, &bytes);
        counts[PARTS]++;
    }
    free(below);
    counts[BITMAPS] = 3 + counts[HEAVIES] + counts[PARTS];
    ap_buf_append(out, heavy.data, heavy.len);
    align(out);
    ap_buf_append(out, lengths.data, lengths.len);
    align(out);
    ap_buf_append(out, bytes.data, bytes.len);
    ap_buf_free(&heavy);
    ap_buf_free(&lengths);
    ap_buf_free(&bytes);
}

void ap_column_builder_free(struct ap_column_builder **builder)
{
    struct ap_column_builder *b = *builder;
    *builder = NULL;
    if (!b)
        return;
    if (b->empty)
        roaring_bitmap_free(b->empty);
    if (b->null)
        roaring_bitmap_free(b->null);
    ap_buf_free(&b->texts);
    ap_buf_free(&b->words);
    free(b->entries);
    free(b);
}

uint8_t *ap_column_builder_finish(struct ap_column_builder **builder, size_t *bytes, uint32_t counts[8])
{
    static const uint8_t header[HEADER];
    struct ap_column_builder *b = *builder;
    bool text = ap_field_is_text(b->field->type), fits = b->texts.len < UINT32_MAX && b->count < UINT32_MAX;
    struct ap_buf out = {0};
    *builder = NULL;
    memset(counts, 0, 8 * sizeof *counts);
    if (fits) {
        sort_entries(b, text);
        uint32_t *starts = must(malloc((b->count + 2) * sizeof *starts)), *ordinals = must(malloc((b->count + 1) * sizeof *ordinals)), keys = 0;
        for (uint32_t i = 0; i < b->count; i++) {
            if (i == 0 || !same_key(b, text, &b->entries[i - 1], &b->entries[i]))
                starts[keys++] = i;
            ordinals[i] = b->entries[i].ordinal;
        }
        starts[keys] = (uint32_t)b->count;
        counts[KEYS] = keys;
        counts[ENTRIES] = (uint32_t)b->count;
        for (uint32_t k = 0; text && k < keys; k++)
            counts[TEXTS] += b->entries[starts[k]].len;
        ap_buf_append(&out, header, HEADER);
        append_keys(b, text, starts, keys, &out);
        ap_buf_append(&out, starts, (keys + 1) * sizeof *starts);
        align(&out);
        ap_buf_append(&out, ordinals, b->count * sizeof *ordinals);
        align(&out);
        append_bitmaps(b, starts, ordinals, counts, &out);
        free(starts);
        free(ordinals);
    }
    ap_column_builder_free(&b);
    *bytes = out.len;
    return out.data;
}

/* ---- taking apart ---- */

struct parts { const uint8_t *p; size_t left; };

/* The next part of n items; NULL when it reaches beyond the end. */
static const void *part(struct parts *from, size_t n, size_t size, bool aligned)
{
    size_t bytes = n * size, whole = aligned ? (bytes + 63) & ~(size_t)63 : bytes;
    const void *p = from->p;
    if (whole > from->left)
        return NULL;
    from->p += whole;
    from->left -= whole;
    return p;
}

static bool rising(const uint32_t *starts, uint32_t n, uint32_t end)
{
    for (uint32_t i = 0; i < n; i++)
        if (starts[i] > starts[i + 1])
            return false;
    return starts[0] == 0 && starts[n] == end;
}

static bool open_bitmaps(struct ap_column *c, struct parts *from, size_t count)
{
    const uint32_t *lengths = part(from, count, sizeof *lengths, true);
    c->bitmaps = must(calloc(count + 1, sizeof(roaring_bitmap_t *)));
    for (size_t i = 0; lengths && i < count; i++) {
        const void *bytes = part(from, lengths[i], 1, false);
        roaring_bitmap_t *r = bytes ? roaring_bitmap_portable_deserialize_safe(bytes, lengths[i]) : NULL;
        if (!r)
            return false;
        c->bitmaps[c->bitmap_count++] = r;
        if (!roaring_bitmap_is_empty(r) && roaring_bitmap_maximum(r) >= c->rows)
            return false;
    }
    return lengths != NULL;
}

bool ap_column_open(struct ap_column *c, const uint8_t *body, size_t len, const uint32_t counts[8])
{
    struct parts from = {body, len};
    bool text = ap_field_is_text(c->type);
    c->keys = counts[KEYS];
    c->entries = counts[ENTRIES];
    c->multi = counts[FLAGS] & 1;
    c->heavy_count = counts[HEAVIES];
    c->part_count = counts[PARTS];
    c->step = counts[STEP];
    if (counts[BITMAPS] != 3u + c->heavy_count + c->part_count || c->heavy_count > c->keys || c->part_count > AP_COLUMN_PARTS || c->step == 0)
        return false;
    if (text) {
        c->text_starts = part(&from, (size_t)c->keys + 1, sizeof *c->text_starts, true);
        c->texts = part(&from, counts[TEXTS], 1, true);
    } else {
        c->numbers = part(&from, c->keys, sizeof *c->numbers, true);
    }
    c->starts = part(&from, (size_t)c->keys + 1, sizeof *c->starts, true);
    c->ordinals = part(&from, c->entries, sizeof *c->ordinals, true);
    c->heavy = part(&from, c->heavy_count, sizeof *c->heavy, true);
    if ((text ? !c->text_starts || !c->texts : !c->numbers) || !c->starts || !c->ordinals || !c->heavy)
        return false;
    if (!rising(c->starts, c->keys, c->entries) || (text && !rising(c->text_starts, c->keys, counts[TEXTS])))
        return false;
    for (uint32_t i = 0; i < c->entries; i++)
        if (c->ordinals[i] >= c->rows)
            return false;
    for (uint32_t i = 0; i < c->heavy_count; i++)
        if (c->heavy[i] >= c->keys)
            return false;
    return open_bitmaps(c, &from, counts[BITMAPS]);
}

struct ap_column *ap_column_ref(struct ap_column *c)
{
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void ap_column_unref(struct ap_column **column)
{
    struct ap_column *c = *column;
    *column = NULL;
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < c->bitmap_count; i++)
        roaring_bitmap_free(c->bitmaps[i]);
    free(c->bitmaps);
    if (c->mapped)
        munmap(c->map, c->map_bytes);
    else
        free(c->map);
    free(c->path);
    free(c);
}

size_t ap_column_bytes(const struct ap_column *c, size_t *file)
{
    size_t bytes = c->mapped ? 0 : c->map_bytes;
    for (size_t i = 0; i < c->bitmap_count; i++)
        bytes += roaring_bitmap_size_in_bytes(c->bitmaps[i]);
    *file = c->mapped ? c->map_bytes : 0;
    return bytes;
}

/* ---- sets ---- */

struct ap_columns *ap_columns_new(struct ap_column **items, size_t count)
{
    if (count == 0)
        return NULL;
    struct ap_columns *c = must(calloc(1, sizeof *c + count * sizeof(struct ap_column *)));
    atomic_init(&c->refs, 1);
    c->count = count;
    memcpy(c->items, items, count * sizeof(struct ap_column *));
    return c;
}

struct ap_columns *ap_columns_ref(struct ap_columns *c)
{
    if (c)
        atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void ap_columns_unref(struct ap_columns **columns)
{
    struct ap_columns *c = *columns;
    *columns = NULL;
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (size_t i = 0; i < c->count; i++)
        ap_column_unref(&c->items[i]);
    free(c);
}

const struct ap_column *ap_columns_find(const struct ap_columns *c, uint64_t field)
{
    for (size_t i = 0; c && i < c->count; i++)
        if (c->items[i]->field == field)
            return c->items[i];
    return NULL;
}

/* ---- asking ---- */

static const roaring_bitmap_t *heavy_bitmap(const struct ap_column *c, uint32_t key)
{
    size_t low = 0, high = c->heavy_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->heavy[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->heavy_count && c->heavy[low] == key ? c->bitmaps[3 + low] : NULL;
}

static void set_bits(uint64_t *bits, const uint32_t *ordinals, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bits[ordinals[i] / 64] |= UINT64_C(1) << (ordinals[i] % 64);
}

/* Entries [from, end), where no row has two: what lies between two parts, and what is left at both ends. */
static roaring_bitmap_t *between_parts(const struct ap_column *c, uint32_t from, uint32_t end)
{
    uint32_t first = (from + c->step - 1) / c->step, last = end / c->step; /* in steps */
    roaring_bitmap_t *const *parts = c->bitmaps + 3 + c->heavy_count;
    roaring_bitmap_t *out = must(roaring_bitmap_copy(parts[last - 1]));
    if (first > 0)
        roaring_bitmap_andnot_inplace(out, parts[first - 1]);
    uint64_t *bits = must(calloc((size_t)c->rows / 64 + 1, sizeof *bits));
    set_bits(bits, c->ordinals + from, first * c->step - from);
    set_bits(bits, c->ordinals + last * c->step, end - last * c->step);
    roaring_bitmap_t *ends = ap_bits_bitmap(bits, c->rows);
    free(bits);
    roaring_bitmap_or_inplace(out, ends);
    roaring_bitmap_free(ends);
    return out;
}

roaring_bitmap_t *ap_column_range(const struct ap_column *c, uint32_t first, uint32_t end)
{
    if (first >= end)
        return must(roaring_bitmap_create());
    const roaring_bitmap_t *heavy = end == first + 1 ? heavy_bitmap(c, first) : NULL;
    if (heavy)
        return must(roaring_bitmap_copy(heavy));
    uint32_t from = c->starts[first], to = c->starts[end];
    if (c->part_count > 0 && (from + c->step - 1) / c->step < to / c->step && to / c->step <= c->part_count)
        return between_parts(c, from, to);
    return ap_ordinals_bitmap(c->ordinals + from, to - from, c->rows);
}

uint32_t ap_column_bound(const struct ap_column *c, bool (*below)(const void *arg, uint64_t number), const void *arg)
{
    uint32_t low = 0, high = c->keys;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (below(arg, c->numbers[middle]))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_below(const void *arg, uint64_t number)
{
    return number < *(const uint64_t *)arg;
}

int64_t ap_column_number(const struct ap_column *c, uint64_t number)
{
    uint32_t at = ap_column_bound(c, is_below, &number);
    return at < c->keys && c->numbers[at] == number ? (int64_t)at : -1;
}

int64_t ap_column_text(const struct ap_column *c, const char *text, size_t len)
{
    uint32_t low = 0, high = c->keys;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const uint8_t *key = (const uint8_t *)c->texts + c->text_starts[middle];
        int order = text_order(key, c->text_starts[middle + 1] - c->text_starts[middle], (const uint8_t *)text, len);
        if (order == 0)
            return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}
