/* The declared fields of a collection, and the values that hot rows have of them.
 *
 * Fields are immutable and shared. Hot values are a log per field: one thread appends (the tail), any number read what
 * belongs to rows that are published; a reader looks at each entry, and a hot segment has few thousand rows. */
#ifndef ANTIPODE_INDEXER_FIELDS_H
#define ANTIPODE_INDEXER_FIELDS_H
#include <roaring/roaring.h>
#include <stdatomic.h>
#include "common/catalog.h"
#include "common/field.h"
#include "common/row.h"

struct ap_fields { atomic_uint refs; uint64_t hash; /* of their ids; 0: none */ size_t count; struct ap_field items[]; };

/* Those that the catalog has of the collection; never NULL. A record that cannot be used is left out, and logged. */
struct ap_fields *ap_fields_of(const struct ap_catalog *catalog, uint64_t collection);
struct ap_fields *ap_fields_ref(struct ap_fields *f);
void ap_fields_unref(struct ap_fields **f);

/* The payload of a row as JSON, a new reference; NULL when there is none or it cannot be read. */
json_t *ap_fields_payload(const struct ap_row *row, struct ap_buf *scratch);

/* --- hot rows --- */
struct ap_hot_values;
/* NULL for no fields. */
struct ap_hot_values *ap_hot_values_new(struct ap_fields *fields);
void ap_hot_values_free(struct ap_hot_values **v);
/* The tail: before the row is published; ordinals rise. */
void ap_hot_values_append(struct ap_hot_values *v, uint32_t ordinal, const struct ap_row *row);
/* Bytes that they take. */
size_t ap_hot_values_bytes(const struct ap_hot_values *v);

enum ap_hot_kind { AP_HOT_VALUE, AP_HOT_EMPTY, AP_HOT_NULL };
struct ap_hot_entry { struct ap_field_value value; uint32_t ordinal; enum ap_hot_kind kind; };
/* Entries of a field of ordinals below rows, rising; fn for each. False: the field is not among them. */
bool ap_hot_values_each(const struct ap_hot_values *v, uint64_t field, uint32_t rows, void (*fn)(void *arg, const struct ap_hot_entry *e), void *arg);

#endif
