/* Fields of generic Avro C values, by name, without an error at every step.
 *
 * For values of embedded schemas only: a field that is not there, or is of another type, is a programmer's error and
 * asserted; so is memory running out. Optional fields are unions of null and one more type. */
#ifndef ANTIPODE_COMMON_AVRO_FIELD_H
#define ANTIPODE_COMMON_AVRO_FIELD_H
#include <avro.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

avro_value_t ap_avro_field(const avro_value_t *record, const char *name);
uint64_t ap_avro_u64(const avro_value_t *record, const char *name); /* of a long, two's complement */
int32_t ap_avro_int(const avro_value_t *record, const char *name);
bool ap_avro_bool(const avro_value_t *record, const char *name);
int ap_avro_enum(const avro_value_t *record, const char *name);
/* Borrowed from the value. A string has a NUL behind len, and maybe others before. */
const char *ap_avro_string(const avro_value_t *record, const char *name, size_t *len);
const uint8_t *ap_avro_bytes(const avro_value_t *record, const char *name, size_t *len); /* of bytes or fixed; never NULL */
/* False: null. Else *branch is the other type's value. */
bool ap_avro_optional(const avro_value_t *record, const char *name, avro_value_t *branch);

void ap_avro_set_u64(avro_value_t *record, const char *name, uint64_t value);
void ap_avro_set_int(avro_value_t *record, const char *name, int32_t value);
void ap_avro_set_bool(avro_value_t *record, const char *name, bool value);
void ap_avro_set_enum(avro_value_t *record, const char *name, int value);
void ap_avro_set_string(avro_value_t *record, const char *name, const char *text);
void ap_avro_set_bytes(avro_value_t *record, const char *name, const void *bytes, size_t len);
void ap_avro_set_fixed(avro_value_t *record, const char *name, const void *bytes, size_t len);
void ap_avro_set_null(avro_value_t *record, const char *name); /* of an optional field */
avro_value_t ap_avro_set_present(avro_value_t *record, const char *name);

#endif
