/* Fuzz target: event values. The first byte chooses the schema that the rest is a body of: the newest (by hand), or one
 * older and one newer that are learned (by resolution), or none: then the rest is the whole value.
 *
 * What is accepted by hand is accepted by resolution, and encodes to no more bytes than it came in; raw vectors alike. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/event.h"
#include "common/schema.h"

static const char older[] =
    "{\"type\":\"record\",\"name\":\"antipode.VectorMutation\",\"fields\":[{\"name\":\"seq\",\"type\":\"int\"},"
    "{\"name\":\"op\",\"type\":{\"type\":\"enum\",\"name\":\"Op\",\"symbols\":[\"DELETE\",\"UPSERT\"]}},"
    "{\"name\":\"shard\",\"type\":[\"null\",\"string\",\"int\"]},{\"name\":\"writer\",\"type\":\"long\"},"
    "{\"name\":\"vector\",\"type\":\"bytes\"},{\"name\":\"region\",\"type\":\"string\"},{\"name\":\"hlc\",\"type\":\"long\"}]}";
static const char newer[] =
    "{\"type\":\"record\",\"name\":\"antipode.VectorMutation\",\"fields\":["
    "{\"name\":\"op\",\"type\":{\"type\":\"enum\",\"name\":\"Op\",\"symbols\":[\"UPSERT\",\"PATCH\",\"DELETE\",\"HEARTBEAT\",\"UNKNOWN\",\"TOUCH\"]}},"
    "{\"name\":\"tags\",\"type\":{\"type\":\"map\",\"values\":{\"type\":\"array\",\"items\":\"null\"}}},{\"name\":\"hlc\",\"type\":\"long\"},"
    "{\"name\":\"region\",\"type\":\"string\"},{\"name\":\"writer\",\"type\":\"long\"},"
    "{\"name\":\"codec\",\"type\":[\"null\",{\"type\":\"fixed\",\"name\":\"CodecId\",\"size\":8}]},{\"name\":\"vector\",\"type\":[\"null\",\"bytes\"]},"
    "{\"name\":\"seq\",\"type\":\"long\"},{\"name\":\"payload\",\"type\":[\"null\",\"string\"]},{\"name\":\"extra\",\"type\":[\"float\",\"double\",\"boolean\"]}]}";

static struct ap_schemas *schemas;
static uint64_t fingerprints[4]; /* mutation, raw vector, older, newer */

static void start(void)
{
    if (ap_schemas_new(&schemas, NULL) || ap_schemas_learn(schemas, older, strlen(older), &fingerprints[2], NULL) ||
        ap_schemas_learn(schemas, newer, strlen(newer), &fingerprints[3], NULL))
        abort();
    fingerprints[0] = ap_schema_newest(schemas, "VectorMutation")->fingerprint;
    fingerprints[1] = ap_schema_newest(schemas, "RawVector")->fingerprint;
}

static void touch(const void *bytes, size_t len)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
}

static void check_generic(const char *name, const uint8_t *value, size_t len)
{
    avro_value_t v;
    if (ap_schema_read(schemas, name, value, len, &v, NULL))
        abort();
    avro_value_decref(&v);
}

static void mutation(const uint8_t *value, size_t len, struct ap_buf *scratch)
{
    struct ap_mutation m;
    struct ap_hello hello;
    struct ap_buf again = {0};
    if (ap_mutation_decode(schemas, value, len, &m, scratch, NULL))
        return;
    touch(m.vector, m.vector_len);
    touch(m.payload, m.payload_len);
    ap_hello_parse(&m, &hello, NULL);
    ap_mutation_encode(&m, &again);
    if (ap_mutation_decode(NULL, value, len, &m, NULL, NULL) == 0) {
        check_generic("VectorMutation", value, len);
        if (again.len > len || (again.len == len && memcmp(again.data, value, len) != 0))
            abort();
    }
    ap_buf_free(&again);
}

static void raw_vector(const uint8_t *value, size_t len, struct ap_buf *scratch)
{
    struct ap_raw_vector r;
    if (ap_raw_vector_decode(schemas, value, len, &r, scratch, NULL))
        return;
    touch(r.vector, r.vector_len);
    check_generic("RawVector", value, len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ap_buf scratch;
    if (!schemas)
        start();
    if (size < 1)
        return 0;
    size_t which = data[0] % 5, head = which < 4 ? 10 : 0, len = head + size - 1;
    uint8_t *value = malloc(len ? len : 1);
    if (head) {
        value[0] = 0xc3;
        value[1] = 0x01;
        ap_put_le64(value + 2, fingerprints[which]);
    }
    memcpy(value + head, data + 1, size - 1);
    mutation(value, len, &scratch);
    raw_vector(value, len, &scratch);
    free(value);
    return 0;
}
