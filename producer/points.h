/* Points on their way to Kafka: columns of ids, vectors, payloads and codes, and the checks each point must pass.
 *
 * Invariant: after ap_points_prepare returned 0 every point can be published: ids are set, vectors are finite, of unit
 * length under cosine, and encoded. One thread at a time. */
#ifndef ANTIPODE_PRODUCER_POINTS_H
#define ANTIPODE_PRODUCER_POINTS_H
#include "common/bytes.h"
#include "producer/target.h"

struct ap_payload { size_t at, len; }; /* in text; len 0: none */

struct ap_points {
    uint32_t dim;
    size_t n, cap;
    struct ap_point_id *ids;
    bool *has_id;               /* false: derived from the vector by prepare */
    float *vectors;             /* n x dim, as received; prepared: normalized under cosine */
    struct ap_payload *payloads;
    struct ap_buf text;
    uint8_t *codes;             /* prepared, with a codec: n x code_size */
    struct ap_codec *codec;     /* prepared: the codec of codes, a reference; NULL: float32 */
};

/* The first errors of a request or stream. */
#define AP_POINT_ERRORS 10
struct ap_point_errors {
    size_t count; /* of all, also those not kept */
    struct { uint64_t index; char text[200]; } first[AP_POINT_ERRORS];
};
void ap_point_errors_add(struct ap_point_errors *e, uint64_t index, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

void ap_points_init(struct ap_points *p, uint32_t dim);
void ap_points_fini(struct ap_points *p);
void ap_points_clear(struct ap_points *p); /* keeps the memory */
void ap_points_reserve(struct ap_points *p, size_t cap);
/* One more point, without id and payload; its vector's dim floats are for the caller to fill. */
float *ap_points_add(struct ap_points *p);
void ap_points_set_payload(struct ap_points *p, size_t i, const char *text, size_t len);

/* Check, derive ids, normalize, encode. Every bad point is added to errors, then AP_EINVAL is returned. CPU only. */
int ap_points_prepare(struct ap_points *p, const struct ap_target *t, struct ap_point_errors *errors, struct ap_err *err);
/* As records, borrowing from p: n of them. with_raw: float32 goes home beside the code. */
void ap_points_records(const struct ap_points *p, const struct ap_target *t, struct ap_record *out);

#endif
