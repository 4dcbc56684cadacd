/* Indexed fields: what of a payload counts as a value of a field, and how values compare.
 *
 * A field is a path and a type. Its values are what the path leads to, and where that is a list the list's elements (one
 * level); those of another type are as if they were not there:
 *   keyword   strings                         uuid      strings that are UUIDs, in any spelling
 *   integer   integers (3.0 is none)          datetime  strings that are dates (RFC 3339; a date alone, no zone: UTC)
 *   float     all numbers                     text      the words of strings
 *   bool      true and false
 * Scans of payloads and indexes both go through here, so that they agree. No state: any thread. */
#ifndef ANTIPODE_COMMON_FIELD_H
#define ANTIPODE_COMMON_FIELD_H
#include <jansson.h>
#include <stdbool.h>
#include "common/bytes.h"
#include "common/control.h"
#include "common/json_path.h"

struct ap_text_options { bool word; /* split at what is no letter or digit; else at blanks */ bool lowercase; size_t least, most; /* characters; longer and shorter words are left out */ };

struct ap_field {
    struct ap_json_path path;
    enum ap_field_type type;
    struct ap_text_options text;
    char *options;  /* as in the control record; owned */
    uint64_t id;    /* hash of all of these: an index is of exactly one */
};
/* AP_EINVAL when the record's path or options are none. */
int ap_field_init(struct ap_field *f, const struct ap_control_index *record, struct ap_err *err);
void ap_field_fini(struct ap_field *f);

/* Qdrant's field_schema ("keyword" or {"type": "keyword", ...}) and path into out's field, type and options (owned by out).
 * What is not supported is refused by name. */
int ap_field_parse(const char *path, const json_t *schema, struct ap_control_index *out, struct ap_err *err);

/* A value: numbers (integer, float, bool, datetime) as keys whose unsigned order is that of the values, else text. */
struct ap_field_value { uint64_t number; const char *text; size_t len; };
static inline bool ap_field_is_text(enum ap_field_type t) { return t == AP_FIELD_KEYWORD || t == AP_FIELD_UUID || t == AP_FIELD_TEXT; }

static inline uint64_t ap_key_of_integer(int64_t v) { return (uint64_t)v ^ UINT64_C(0x8000000000000000); }
static inline int64_t ap_integer_of_key(uint64_t k) { return (int64_t)(k ^ UINT64_C(0x8000000000000000)); }
uint64_t ap_key_of_double(double v);
double ap_double_of_key(uint64_t k);

/* The value of one JSON value (no list) under a numeric type; false: of another type. */
bool ap_field_number(enum ap_field_type type, const json_t *value, uint64_t *key);

/* Calls fn for each value of the field in payload (NULL: none). scratch: words and UUIDs are spelled there. */
void ap_field_each(const struct ap_field *f, const json_t *payload, struct ap_buf *scratch,
                   void (*fn)(void *arg, const struct ap_field_value *value), void *arg);
/* is_empty: the path leads to nothing but nulls and empty lists. is_null: it leads to a null. */
void ap_field_absence(const struct ap_json_path *path, const json_t *payload, bool *empty, bool *null);

/* --- the parts --- */
/* Microseconds since 1970 UTC; false when the text is no date. */
bool ap_datetime_parse(const char *text, size_t len, int64_t *us);
/* 36 lower-case characters and a NUL; false when the text is no UUID. */
bool ap_uuid_canonical(const char *text, size_t len, char out[37]);
/* Words of text, each spelled in scratch: fn until it returns non-zero. */
void ap_text_words(const struct ap_text_options *o, const char *text, size_t len, struct ap_buf *scratch,
                   int (*fn)(void *arg, const char *word, size_t len), void *arg);

#endif
