/* Identities: regions, points, collections, keys, incarnations.
 *
 * Region name: [a-z][a-z0-9-]{0,14}; no dots, because MirrorMaker takes the prefix of a dotted topic for a cluster.
 * Point id: 16 bytes. A UUID as it is (RFC 9562 byte order), or an unsigned 64-bit integer: first 8 bytes zero, then the
 * integer big-endian. (So a UUID whose first 8 bytes are zero reads back as an integer.)
 * Collection id: XXH3-64 of the name, a zero byte and the generation (8 bytes, little-endian), seed 0.
 * Key of an event: collection id (8 bytes, big-endian), point id (16 bytes). Partition: Kafka's murmur2 of the key.
 * Incarnation: 42 bits of start time (ms since 1970) and 22 random bits; never 0; larger is later. */
#ifndef ANTIPODE_COMMON_IDENT_H
#define ANTIPODE_COMMON_IDENT_H
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "common/err.h"

struct ap_region { char name[16]; };       /* NUL-padded: compare with memcmp */
struct ap_point_id { uint8_t b[16]; };
struct ap_key { uint8_t b[24]; };

#define AP_POINT_ID_TEXT 37  /* "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" or 20 digits, and NUL */

int ap_region_parse(const char *text, size_t len, struct ap_region *out, struct ap_err *err);

/* Accepts a UUID with or without hyphens, "urn:uuid:" refused, any case; or decimal digits that fit 64 bits. */
int ap_point_id_parse(const char *text, size_t len, struct ap_point_id *out, struct ap_err *err);
/* From JSON: a string is a UUID (digits-only strings are refused as Qdrant does), a non-negative integer is a number. */
int ap_point_id_from_json(const json_t *value, struct ap_point_id *out, struct ap_err *err);
json_t *ap_point_id_to_json(const struct ap_point_id *id); /* new reference */
void ap_point_id_print(const struct ap_point_id *id, char out[AP_POINT_ID_TEXT]);
void ap_point_id_from_u64(uint64_t number, struct ap_point_id *out);
/* UUIDv5 (SHA-1) with the namespace "antipode" + collection id big-endian, over the vector's float32 little-endian bytes
 * as received: the same vector posted twice is one point. */
void ap_point_id_from_vector(uint64_t collection, const float *vector, size_t dim, struct ap_point_id *out);

/* Collection names: 1 to 255 bytes of [A-Za-z0-9_.-], not "." or "..". */
int ap_collection_name_check(const char *name, struct ap_err *err);
uint64_t ap_collection_id(const char *name, uint64_t generation);

void ap_key_make(uint64_t collection, const struct ap_point_id *id, struct ap_key *out);
uint64_t ap_key_collection(const struct ap_key *key);
struct ap_point_id ap_key_point(const struct ap_key *key);
/* Kafka's DefaultPartitioner: toPositive(murmur2(key)) % partitions. */
int32_t ap_key_partition(const struct ap_key *key, int32_t partitions);
uint32_t ap_murmur2(const void *bytes, size_t len);

/* A producer with a predecessor passes the later of the wall clock and ap_incarnation_start_ms(predecessor) + 1: within a
 * lineage larger is later even when the clock was set back. */
uint64_t ap_incarnation_new(int64_t wall_ms);
static inline int64_t ap_incarnation_start_ms(uint64_t incarnation) { return (int64_t)(incarnation >> 22); }

#endif
