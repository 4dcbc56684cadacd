/* Reading bytes of one Avro schema as a value of another (specification 1.11, "Schema Resolution").
 *
 * Bytes are walked once, by the writer's schema; nothing of them reaches Avro C before it was checked: numbers are minimal
 * and in range, lengths and counts fit what is left of the input, indexes exist, and no byte is left over. Work is bounded
 * by the length of the input. Of the promotions only int to long and float to double are taken. Pure functions; any
 * thread. */
#ifndef ANTIPODE_COMMON_AVRO_RESOLVE_H
#define ANTIPODE_COMMON_AVRO_RESOLVE_H
#include <avro.h>
#include "common/avro_tree.h"

/* 0 when every value that writer can write can be read as reader; AP_EINVAL, POISON, names the first that cannot. */
int ap_avro_compatible(const struct ap_avro *writer, const struct ap_avro *reader, struct ap_err *err);

/* Read all of bytes into value, a fresh generic value of reader. The two were found compatible before. AP_ECORRUPT,
 * POISON: the bytes are no value of writer; value then holds a part and is only good for avro_value_decref. */
int ap_avro_read(const struct ap_avro *writer, const struct ap_avro *reader, const uint8_t *bytes, size_t len,
                 avro_value_t *value, struct ap_err *err);

#endif
