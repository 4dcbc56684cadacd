/* Fuzz target: the text of a schema, a zero byte, and a body. What parses has a canonical form that parses to the same
 * fingerprint; what is compatible with VectorMutation then reads the body, or refuses it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/avro_resolve.h"
#include "common/schema.h"

static struct ap_schemas *schemas;
static struct ap_avro_doc reader;
static avro_value_iface_t *iface;

static void start(void)
{
    if (ap_schemas_new(&schemas, NULL))
        abort();
    const struct ap_schema_info *info = ap_schema_newest(schemas, "VectorMutation");
    iface = avro_generic_class_from_schema(info->schema);
    if (!iface || ap_avro_parse(info->json, strlen(info->json), &reader, NULL))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ap_avro_doc writer;
    struct ap_buf form = {0};
    avro_value_t value;
    if (!schemas)
        start();
    const uint8_t *end = memchr(data, 0, size);
    size_t len = end ? (size_t)(end - data) : size;
    if (ap_avro_parse((const char *)data, len, &writer, NULL))
        return 0;
    ap_avro_canonical(&writer, &form);
    if (ap_schema_fingerprint_of_json((char *)form.data, form.len, NULL) != ap_crc64_avro(form.data, form.len) && form.len <= 65536)
        abort();
    if (ap_avro_compatible(writer.root, reader.root, NULL) == 0 && avro_generic_value_new(iface, &value) == 0) {
        ap_avro_read(writer.root, reader.root, data + len + (end != NULL), size - len - (end != NULL), &value, NULL);
        avro_value_decref(&value);
    }
    ap_buf_free(&form);
    ap_avro_fini(&writer);
    return 0;
}
