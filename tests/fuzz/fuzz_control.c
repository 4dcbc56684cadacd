/* Fuzz target: bodies of control records (first byte even) and of watermarks (odd). What is accepted is written and read
 * again with the same outcome, and the catalog takes or refuses it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/catalog.h"
#include "common/schema.h"
#include "common/watermark.h"

static struct ap_schemas *schemas;

static void control(const uint8_t *value, size_t len)
{
    struct ap_control c, again;
    struct ap_buf written = {0}, key = {0};
    if (ap_control_decode(schemas, value, len, &c, NULL))
        return;
    if (ap_control_encode(schemas, &c, &written, NULL) || ap_control_decode(schemas, written.data, written.len, &again, NULL))
        abort();
    ap_control_key(&c, &key);
    if (c.kind != AP_CONTROL_SCHEMA) { /* learning does not end in one process */
        struct ap_catalog *catalog = ap_catalog_new(schemas);
        if (ap_catalog_apply(catalog, &c.version.region, key.data, key.len, value, len, NULL) != 1 ||
            ap_catalog_apply(catalog, &c.version.region, key.data, key.len, value, len, NULL) != 0)
            abort();
        ap_catalog_free(&catalog);
    }
    ap_buf_free(&written);
    ap_buf_free(&key);
    ap_control_fini(&c);
    ap_control_fini(&again);
}

static void watermark(const uint8_t *value, size_t len)
{
    struct ap_watermark w, again;
    struct ap_buf written = {0};
    if (ap_watermark_decode(schemas, value, len, &w, NULL))
        return;
    if (ap_watermark_encode(schemas, &w, &written, NULL) || ap_watermark_decode(schemas, written.data, written.len, &again, NULL) ||
        again.count != w.count)
        abort();
    ap_buf_free(&written);
    ap_watermark_fini(&w);
    ap_watermark_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!schemas && ap_schemas_new(&schemas, NULL))
        abort();
    if (size < 1)
        return 0;
    size_t len = 10 + size - 1;
    uint8_t *value = malloc(len);
    value[0] = 0xc3;
    value[1] = 0x01;
    ap_put_le64(value + 2, ap_schema_newest(schemas, data[0] & 1 ? "Watermark" : "Control")->fingerprint);
    memcpy(value + 10, data + 1, size - 1);
    if (data[0] & 1)
        watermark(value, len);
    else
        control(value, len);
    free(value);
    return 0;
}
