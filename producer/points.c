/* Flow: add (parsers), prepare (this file), records (for the lanes). The checks see every point, so that one answer
 * names all that is wrong with a request, up to a bound. */
#include "producer/points.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"

void ap_point_errors_add(struct ap_point_errors *e, uint64_t index, const char *fmt, ...)
{
    if (e->count < AP_POINT_ERRORS) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(e->first[e->count].text, sizeof e->first[0].text, fmt, args);
        va_end(args);
        e->first[e->count].index = index;
    }
    e->count++;
}

void ap_points_init(struct ap_points *p, uint32_t dim)
{
    *p = (struct ap_points){.dim = dim};
}

void ap_points_fini(struct ap_points *p)
{
    free(p->ids);
    free(p->has_id);
    free(p->vectors);
    free(p->payloads);
    free(p->codes);
    ap_buf_free(&p->text);
    if (p->codec)
        ap_codec_unref(&p->codec);
    *p = (struct ap_points){.dim = p->dim};
}

void ap_points_clear(struct ap_points *p)
{
    p->n = 0;
    ap_buf_clear(&p->text);
}

static void *grow(void *old, size_t n, size_t size)
{
    size_t bytes;
    void *p = __builtin_mul_overflow(n, size, &bytes) ? NULL : realloc(old, bytes);
    if (!p)
        abort();
    return p;
}

void ap_points_reserve(struct ap_points *p, size_t cap)
{
    if (cap <= p->cap)
        return;
    p->ids = grow(p->ids, cap, sizeof *p->ids);
    p->has_id = grow(p->has_id, cap, sizeof *p->has_id);
    p->payloads = grow(p->payloads, cap, sizeof *p->payloads);
    p->vectors = grow(p->vectors, cap, p->dim * sizeof *p->vectors);
    p->cap = cap;
}

float *ap_points_add(struct ap_points *p)
{
    if (p->n == p->cap)
        ap_points_reserve(p, p->cap ? p->cap * 2 : 1);
    p->has_id[p->n] = false;
    p->payloads[p->n] = (struct ap_payload){0, 0};
    return p->vectors + p->n++ * p->dim;
}

void ap_points_set_payload(struct ap_points *p, size_t i, const char *text, size_t len)
{
    p->payloads[i] = (struct ap_payload){p->text.len, len};
    ap_buf_append(&p->text, text, len);
}

/* --- prepare --- */

static void check_point(struct ap_points *p, size_t i, const struct ap_target *t, struct ap_point_errors *errors)
{
    float *v = p->vectors + i * p->dim;
    size_t bad = ap_floats_first_nonfinite(v, p->dim);
    if (bad < p->dim) {
        ap_point_errors_add(errors, i, "vector[%zu] is %s", bad, isnan(v[bad]) ? "NaN" : "not finite as float32");
        return;
    }
    if (!p->has_id[i]) {
        ap_point_id_from_vector(t->collection, v, p->dim, &p->ids[i]);
        p->has_id[i] = true;
    }
    if (t->distance != AP_COSINE)
        return;
    float norm = ap_normalize(v, p->dim);
    if (!(norm > 0))
        ap_point_errors_add(errors, i, "a zero vector has no direction: cosine cannot compare it");
    else if (!isfinite(norm) || ap_floats_first_nonfinite(v, p->dim) < p->dim)
        ap_point_errors_add(errors, i, "the vector is too long: its length is not finite as float32");
}

static int encode(struct ap_points *p, const struct ap_target *t, struct ap_err *err)
{
    if (p->codec)
        ap_codec_unref(&p->codec);
    p->codec = t->codec ? ap_codec_ref(t->codec) : NULL;
    if (!p->codec)
        return 0;
    p->codes = grow(p->codes, p->n, t->code_size);
    return ap_codec_encode(p->codec, p->n, p->vectors, p->codes, err);
}

int ap_points_prepare(struct ap_points *p, const struct ap_target *t, struct ap_point_errors *errors, struct ap_err *err)
{
    size_t before = errors->count;
    for (size_t i = 0; i < p->n; i++)
        check_point(p, i, t, errors);
    if (errors->count > before) {
        size_t shown = before < AP_POINT_ERRORS ? before : 0;
        return ap_err_set(err, AP_EINVAL, AP_POISON, "points[%llu]: %s", (unsigned long long)errors->first[shown].index, errors->first[shown].text);
    }
    return p->n ? encode(p, t, err) : 0;
}

void ap_points_records(const struct ap_points *p, const struct ap_target *t, struct ap_record *out)
{
    size_t size = p->codec ? ap_codec_code_size(p->codec) : p->dim * sizeof(float);
    for (size_t i = 0; i < p->n; i++) {
        struct ap_record *r = &out[i];
        const float *v = p->vectors + i * p->dim;
        *r = (struct ap_record){
            .op = AP_OP_UPSERT, .has_codec = p->codec != NULL, .codec = p->codec ? ap_codec_id(p->codec) : 0,
            .vector = p->codec ? p->codes + i * size : (const uint8_t *)v, .vector_len = size,
        };
        ap_key_make(t->collection, &p->ids[i], &r->key);
        if (p->payloads[i].len) {
            r->payload = (const char *)p->text.data + p->payloads[i].at;
            r->payload_len = p->payloads[i].len;
        }
        /* Without a codec the event is at full precision already. */
        if (t->raw_home && p->codec) {
            r->raw = v;
            r->raw_len = p->dim * sizeof *v;
        }
    }
}
