/* Fuzz target: bodies of points. The first byte chooses the reader and the collection; what is taken must be whole: finite
 * vectors, payloads that jansson reads as objects, all within the text. */
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/row.h"
#include "producer/operations.h"
#include "producer/points_json.h"

#define MAX_POINTS 64

static struct ap_target *target(const char *vector_name)
{
    const struct ap_collection c = {.id = 1, .live = true, .params = {.name = (char *)(uintptr_t)"c", .dim = 3, .distance = AP_COSINE,
        .codec_factory = (char *)(uintptr_t)"none", .topic = (char *)(uintptr_t)"vec-mutations", .vector_name = (char *)(uintptr_t)vector_name}};
    return ap_target_new(&c, NULL);
}

static void must(bool good)
{
    if (!good)
        abort();
}

static void check(const struct ap_points *p)
{
    must(p->n <= MAX_POINTS);
    for (size_t i = 0; i < p->n; i++) {
        for (size_t k = 0; k < p->dim; k++)
            must(isfinite(p->vectors[i * p->dim + k]));
        if (!p->payloads[i].len)
            continue;
        must(p->payloads[i].at + p->payloads[i].len <= p->text.len);
        json_t *payload = json_loadb((char *)p->text.data + p->payloads[i].at, p->payloads[i].len, JSON_REJECT_DUPLICATES, NULL);
        must(json_is_object(payload));
        json_decref(payload);
    }
}

static void parse(uint8_t kind, const char *text, size_t len)
{
    struct ap_err err = {0};
    struct ap_points points;
    struct ap_target *t = target(kind & 2 ? "text" : NULL);
    struct ap_point_errors errors = {0};
    ap_points_init(&points, 3);
    int rc = kind & 1 ? ap_points_parse_one(text, len, t, &points, &err) : ap_points_parse(text, len, t, MAX_POINTS, &points, &err);
    must(rc == 0 || (err.code == rc && err.cls == AP_POISON && *err.msg));
    if (rc == 0)
        check(&points);
    if (rc == 0 && ap_points_prepare(&points, t, &errors, &err) == 0)
        check(&points);
    ap_points_fini(&points);
    ap_target_unref(&t);
}

/* What is taken, consumers take, too. */
static void check_records(const struct ap_record *records, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct ap_record *r = &records[i];
        struct ap_mutation m = {.op = r->op, .version = {.hlc = 5, .region = {"eu"}, .writer = 1}, .payload = r->payload, .payload_len = r->payload_len};
        struct ap_buf row = {0};
        must(r->op != AP_OP_PATCH || ap_row_merge(&r->key, NULL, &m, &row, NULL) >= 0);
        ap_buf_free(&row);
    }
}

static void parse_change(uint8_t kind, const char *text, size_t len)
{
    struct ap_err err = {0};
    struct ap_change change;
    struct ap_record records[MAX_POINTS];
    size_t n;
    int rc = ap_change_parse(kind % 5, text, len, MAX_POINTS, &change, &err);
    must(rc == 0 || (err.code == rc && err.cls == AP_POISON && *err.msg));
    if (rc)
        return;
    must(change.n <= MAX_POINTS);
    ap_change_records(&change, 7, records, &n);
    check_records(records, n);
    ap_change_fini(&change);
}

static void parse_operations(const char *text, size_t len)
{
    struct ap_err err = {0};
    struct ap_operations all;
    struct ap_record records[MAX_POINTS];
    struct ap_target *t = target(NULL);
    size_t n;
    int rc = ap_operations_parse(text, len, t, MAX_POINTS, &all, &err);
    must(rc == 0 || (err.code == rc && err.cls == AP_POISON && *err.msg));
    if (rc == 0 && ap_operations_prepare(&all, t, &err) == 0) {
        ap_operations_records(&all, t, records, &n);
        must(n <= MAX_POINTS);
        check_records(records, n);
    }
    ap_operations_fini(&all);
    ap_target_unref(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    char *text = malloc(size); /* exactly as long, so that a byte too far is seen */
    must(text != NULL);
    memcpy(text, data + 1, size - 1);
    if (data[0] & 4)
        parse_change(data[0] >> 3, text, size - 1);
    else if (data[0] & 8)
        parse_operations(text, size - 1);
    else
        parse(data[0], text, size - 1);
    free(text);
    return 0;
}
