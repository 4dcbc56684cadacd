/* Avro schemas: every version ever written is embedded from schemas/; others become known through vec-control.
 *
 * Fingerprint: CRC-64-AVRO of the Parsing Canonical Form (Avro specification 1.11, "Schema Fingerprints").
 * Files: schemas/<Name>.v<n>.avsc, n from 1; the newest is what is written. Rules of evolution: schemas/README.md.
 * Thread-safe: lookups take a read lock only when the schema is not an embedded one. */
#ifndef ANTIPODE_COMMON_SCHEMA_H
#define ANTIPODE_COMMON_SCHEMA_H
#include <avro.h>
#include <stddef.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/err.h"

struct ap_schemas;

int ap_schemas_new(struct ap_schemas **out, struct ap_err *err); /* parses the embedded ones */
void ap_schemas_free(struct ap_schemas **schemas);
/* Learn a schema from its JSON text (bounded to 64 KiB). Refused (AP_EINVAL) when it is no Avro or cannot be resolved to
 * the newest version of the record of that name that we have; AP_EUNSUPPORTED when we have none of that name.
 * *fingerprint (may be NULL) is filled. Learning twice is fine. */
int ap_schemas_learn(struct ap_schemas *schemas, const char *json, size_t len, uint64_t *fingerprint, struct ap_err *err);

uint64_t ap_schema_fingerprint_of_json(const char *json, size_t len, struct ap_err *err); /* 0 on error */
uint64_t ap_crc64_avro(const void *bytes, size_t len);

/* Newest embedded version of a record: its fingerprint, JSON text and Avro C schema (borrowed). name: "VectorMutation". */
struct ap_schema_info { const char *name; int version; uint64_t fingerprint; const char *json; avro_schema_t schema; };
const struct ap_schema_info *ap_schema_newest(const struct ap_schemas *schemas, const char *name);
/* That version of it; NULL when there is none. */
const struct ap_schema_info *ap_schema_version(const struct ap_schemas *schemas, const char *name, int version);
size_t ap_schema_embedded(const struct ap_schemas *schemas, const struct ap_schema_info **all);

/* Read a single-object value of any known version of `name` as the newest version. *value is a new avro_value_t of the
 * newest schema that the caller decrefs with avro_value_decref. Bounds every length before Avro C allocates for it.
 * AP_ESCHEMA: unknown fingerprint (named in err); AP_ECORRUPT otherwise. */
int ap_schema_read(const struct ap_schemas *schemas, const char *name, const void *bytes, size_t len,
                   avro_value_t *value, struct ap_err *err);
/* Append C3 01, fingerprint and the Avro encoding of value (of the newest schema of name). */
int ap_schema_write(const struct ap_schemas *schemas, const char *name, avro_value_t *value, struct ap_buf *out,
                    struct ap_err *err);
/* The same of a value of that embedded version. */
int ap_schema_write_as(const struct ap_schema_info *schema, avro_value_t *value, struct ap_buf *out, struct ap_err *err);

#endif
