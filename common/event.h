/* The event: one record of vec-mutations, encoded as Avro single-object (schemas/VectorMutation.*.avsc).
 *
 * Encoding and decoding of the newest schema version is done by hand, in one pass, without allocation or copy: decoded
 * strings point into the input. Records of an older or newer known version are resolved to the newest with Avro C
 * (schema.h). Every length is checked against what is left of the input; trailing bytes are an error. */
#ifndef ANTIPODE_COMMON_EVENT_H
#define ANTIPODE_COMMON_EVENT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/ident.h"

struct ap_schemas;

enum ap_op { AP_OP_UPSERT, AP_OP_PATCH, AP_OP_DELETE, AP_OP_HEARTBEAT };

/* What decides between two changes of one point: compared by hlc, region, writer, in this order. */
struct ap_version {
    uint64_t hlc;
    struct ap_region region; /* where the change was made */
    uint64_t writer;         /* incarnation of the producer that made it */
};
int ap_version_compare(const struct ap_version *a, const struct ap_version *b); /* <0, 0, >0 */
/* As text: hlc and writer in 16 hex digits, the region between them: "019b2e5a3c0e0003-eu-66df2a3730012345". */
#define AP_VERSION_TEXT 50 /* with NUL */
void ap_version_print(const struct ap_version *v, char out[AP_VERSION_TEXT]);
int ap_version_parse(const char *text, size_t len, struct ap_version *out, struct ap_err *err); /* AP_EINVAL */

struct ap_mutation {
    enum ap_op op;
    struct ap_version version;
    uint64_t stream;  /* position: incarnation that published this record (= writer unless republished) */
    uint64_t seq;     /* its number within (stream, topic, partition), from 1 without a hole */
    uint64_t clock;   /* hlc when published (= version.hlc unless republished) */
    bool has_codec;
    uint64_t codec;   /* first 8 bytes of the codec's content hash, big-endian; without: float32 little-endian */
    const uint8_t *vector;  size_t vector_len;   /* NULL when absent */
    const char *payload;    size_t payload_len;  /* JSON text, not NUL-terminated; NULL when absent */
};

/* Upper bound of an encoded event besides vector and payload. */
#define AP_EVENT_OVERHEAD 128

/* Payload of a HEARTBEAT that is a hello: the first record of an incarnation in a partition. ended is the number of the
 * predecessor's last record in this partition, 0 when it has none there or there is no predecessor. JSON:
 * {"hello":{"predecessor":"<16 hex>","ended":<n>}} */
struct ap_hello { uint64_t predecessor, ended; };
int ap_hello_format(const struct ap_hello *hello, char *out, size_t cap);
/* 1 and *out when the mutation is a hello, 0 when it is not, AP_EINVAL when it is a broken one. */
int ap_hello_parse(const struct ap_mutation *m, struct ap_hello *out, struct ap_err *err);

/* Append the encoded value to buf. Asserts programmer errors (seq 0, empty region). */
void ap_mutation_encode(const struct ap_mutation *m, struct ap_buf *buf);
/* Encode into out, which has AP_EVENT_OVERHEAD + vector_len + payload_len bytes of room; returns the length. */
size_t ap_mutation_encode_to(const struct ap_mutation *m, uint8_t *out);
/* Decode a value. *out borrows from value, or from *scratch when the record was of another schema version (scratch is
 * owned by the caller and reused from call to call). schemas may be NULL: then only the newest version is known.
 * AP_ESCHEMA (class RETRY) for an unknown fingerprint; AP_ECORRUPT (class POISON) for anything else. */
int ap_mutation_decode(const struct ap_schemas *schemas, const void *value, size_t len, struct ap_mutation *out,
                       struct ap_buf *scratch, struct ap_err *err);

/* One record of raw-vectors (schemas/RawVector.*.avsc): the full-precision vector of the mutation at a position. */
struct ap_raw_vector {
    struct ap_version version; /* of the mutation it belongs to */
    uint64_t stream, seq;      /* position of that mutation in vec-mutations, same partition number */
    const uint8_t *vector; size_t vector_len; /* float32 little-endian, borrowed, unaligned */
};
size_t ap_raw_vector_encode_to(const struct ap_raw_vector *r, uint8_t *out); /* room: AP_EVENT_OVERHEAD + vector_len */
int ap_raw_vector_decode(const struct ap_schemas *schemas, const void *value, size_t len, struct ap_raw_vector *out,
                         struct ap_buf *scratch, struct ap_err *err);

#endif
