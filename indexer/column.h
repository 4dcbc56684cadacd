/* A column: the inverted index of one field over one sealed segment's ordinals. Immutable, reference-counted, an image
 * that is used where it lies: in a file beside the segment's, mapped.
 *
 * Keys (numbers, or texts) in rising order; of each the ordinals of the rows that have it, rising; for keys of many rows a
 * Roaring bitmap as well. Numbers of which a row has at most one have bitmaps of the rows below every 32nd part of the
 * order: a range is the difference of two of them, and what lies between them and its ends.
 * Image, little-endian, each part from a multiple of 64 bytes on, after a header of 128 bytes (column_file.c):
 *   numbers u64, keys; or text_starts u32, keys + 1, and their bytes
 *   starts  u32, keys + 1     ordinals u32, entries     heavy u32: the keys that have bitmaps
 *   lengths u32 of the bitmaps, and these, portable: empty, null, any, the heavy keys', the parts' */
#ifndef ANTIPODE_INDEXER_COLUMN_H
#define ANTIPODE_INDEXER_COLUMN_H
#include <roaring/roaring.h>
#include <stdatomic.h>
#include "common/field.h"

#define AP_COLUMN_PARTS 32

struct ap_column {
    atomic_uint refs;
    uint64_t field;       /* id */
    enum ap_field_type type;
    uint32_t rows, keys, entries;
    bool multi;           /* a row may have several values */
    const uint64_t *numbers;
    const uint32_t *text_starts;
    const char *texts;
    const uint32_t *starts, *ordinals;
    uint32_t heavy_count, part_count, step; /* part i: rows of the first (i + 1) * step entries */
    const uint32_t *heavy;
    roaring_bitmap_t **bitmaps; size_t bitmap_count;
    void *map; size_t map_bytes; bool mapped; /* else malloc'ed */
    char *path;           /* NULL: in memory only */
};
static inline const roaring_bitmap_t *ap_column_empty(const struct ap_column *c) { return c->bitmaps[0]; }
static inline const roaring_bitmap_t *ap_column_null(const struct ap_column *c) { return c->bitmaps[1]; }
static inline const roaring_bitmap_t *ap_column_any(const struct ap_column *c) { return c->bitmaps[2]; }

struct ap_column *ap_column_ref(struct ap_column *c);
void ap_column_unref(struct ap_column **c);
/* Private memory: bitmaps, and the image where it is not mapped. *file: mapped bytes. */
size_t ap_column_bytes(const struct ap_column *c, size_t *file);

/* --- building --- one thread; rows in any order, each once */
struct ap_column_builder;
struct ap_column_builder *ap_column_builder_new(const struct ap_field *field, uint32_t rows);
uint32_t ap_column_builder_rows(const struct ap_column_builder *b);
void ap_column_builder_add(struct ap_column_builder *b, uint32_t ordinal, const json_t *payload);
void ap_column_builder_free(struct ap_column_builder **b); /* NULL is fine */
/* The image, header space first (128 bytes, zero); NULL: too much text for one column. Frees the builder. */
uint8_t *ap_column_builder_finish(struct ap_column_builder **b, size_t *bytes, uint32_t counts[8]);

/* Take an image apart: false when it does not hold together. counts as finish gave them (and the file's header keeps them). */
bool ap_column_open(struct ap_column *c, const uint8_t *body, size_t len, const uint32_t counts[8]);

/* --- files --- column_file.c */
struct ap_index;
/* Builds the column into a file named by segment and field; in memory alone where the disk fails (logged). NULL: not at all. */
struct ap_column *ap_column_make(struct ap_index *index, uint64_t segment, bool on_disk, const struct ap_field *field, struct ap_column_builder **b);
/* NULL: damaged, of another store, or not readable; removed then, with a word in the log. */
struct ap_column *ap_column_load(struct ap_index *index, const char *name, uint32_t rows);
/* Name of a column's file taken apart; false when it is none. */
bool ap_column_name(const char *name, uint64_t *segment, uint64_t *field);
void ap_column_remove_file(struct ap_index *index, struct ap_column *c);

/* --- sets: what a segment has; immutable, reference-counted --- */
struct ap_columns { atomic_uint refs; size_t count; struct ap_column *items[]; };
struct ap_columns *ap_columns_new(struct ap_column **items, size_t count); /* takes the references; NULL for none */
struct ap_columns *ap_columns_ref(struct ap_columns *c);  /* c may be NULL */
void ap_columns_unref(struct ap_columns **c);
const struct ap_column *ap_columns_find(const struct ap_columns *c, uint64_t field); /* NULL: none */

/* --- asking: new bitmaps, the caller frees --- */
/* Rows of keys [first, end). */
roaring_bitmap_t *ap_column_range(const struct ap_column *c, uint32_t first, uint32_t end);
/* Place of a key, or -1. */
int64_t ap_column_number(const struct ap_column *c, uint64_t number);
int64_t ap_column_text(const struct ap_column *c, const char *text, size_t len);
/* First key for which below is false: below(arg, number) holds for a beginning of the keys. */
uint32_t ap_column_bound(const struct ap_column *c, bool (*below)(const void *arg, uint64_t number), const void *arg);

/* Ordinals below rows, in any order, maybe several times, as a bitmap. */
roaring_bitmap_t *ap_ordinals_bitmap(const uint32_t *ordinals, size_t count, uint32_t rows);
/* The same of a bit a row. */
roaring_bitmap_t *ap_bits_bitmap(const uint64_t *bits, uint32_t rows);

#endif
