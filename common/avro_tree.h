/* An Avro schema as a tree, parsed from its JSON text.
 *
 * Avro C 1.11 drops what schema resolution rests on (defaults of fields and of enums, matching of enum symbols by name)
 * and has neither a canonical form nor fingerprints. So the text is read a second time, into this tree, which the
 * fingerprint (schema.c) and the resolving reader (avro_resolve.h) walk.
 * Invariant: the tree is finite and small: recursive types are refused, nesting is at most AP_AVRO_DEPTH, and written out
 * with every named reference replaced by what it names it has at most AP_AVRO_NODES nodes. */
#ifndef ANTIPODE_COMMON_AVRO_TREE_H
#define ANTIPODE_COMMON_AVRO_TREE_H
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/err.h"

#define AP_AVRO_DEPTH 16
#define AP_AVRO_NODES 4096

enum ap_avro_type { AP_AVRO_NULL, AP_AVRO_BOOLEAN, AP_AVRO_INT, AP_AVRO_LONG, AP_AVRO_FLOAT, AP_AVRO_DOUBLE, AP_AVRO_BYTES,
                    AP_AVRO_STRING, AP_AVRO_RECORD, AP_AVRO_ENUM, AP_AVRO_FIXED, AP_AVRO_ARRAY, AP_AVRO_MAP, AP_AVRO_UNION };

struct ap_avro {
    enum ap_avro_type type;
    char *name;              /* full name of a record, enum or fixed; else NULL */
    size_t count;            /* record: fields; union: branches; array, map: 1; enum: symbols */
    struct ap_avro **kids;   /* [count] but for an enum */
    const char **names;      /* record: names of fields; enum: symbols */
    json_t **defaults;       /* record: of each field, NULL when it has none */
    int fallback;            /* enum: index of its default symbol, -1 when it has none */
    size_t size;             /* fixed: bytes */
    size_t expanded, depth;  /* nodes with references written out; levels */
    size_t min_bytes;        /* of any encoded value */
};

struct ap_avro_doc {
    json_t *json;            /* owned; names and defaults point into it */
    struct ap_avro **nodes;  /* owned: every node once */
    size_t node_count;
    struct ap_avro *root;
};

/* Parse; *doc is filled only on success. AP_EINVAL, POISON: no schema, or outside of the bounds above. */
int ap_avro_parse(const char *json, size_t len, struct ap_avro_doc *doc, struct ap_err *err);
void ap_avro_fini(struct ap_avro_doc *doc);

/* Append the Parsing Canonical Form (Avro specification 1.11). */
void ap_avro_canonical(const struct ap_avro_doc *doc, struct ap_buf *out);

const char *ap_avro_type_name(enum ap_avro_type type); /* "long", "record", ... */

#endif
