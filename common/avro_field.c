/* Fields of generic Avro C values: thin, asserting wrappers. */
#include "common/avro_field.h"
#include <assert.h>

static void must(int rc)
{
    assert(rc == 0);
    (void)rc;
}

/* A union that is present stands for its branch: fields of optional scalars read like the others. */
static avro_value_t scalar(const avro_value_t *record, const char *name)
{
    avro_value_t child = ap_avro_field(record, name), branch = {0};
    if (avro_value_get_type(&child) != AVRO_UNION)
        return child;
    must(avro_value_get_current_branch(&child, &branch));
    return branch;
}

avro_value_t ap_avro_field(const avro_value_t *record, const char *name)
{
    avro_value_t child = {0};
    must(avro_value_get_by_name(record, name, &child, NULL));
    return child;
}

uint64_t ap_avro_u64(const avro_value_t *record, const char *name)
{
    avro_value_t child = scalar(record, name);
    int64_t value = 0;
    must(avro_value_get_long(&child, &value));
    return (uint64_t)value;
}

int32_t ap_avro_int(const avro_value_t *record, const char *name)
{
    avro_value_t child = scalar(record, name);
    int32_t value = 0;
    must(avro_value_get_int(&child, &value));
    return value;
}

bool ap_avro_bool(const avro_value_t *record, const char *name)
{
    avro_value_t child = scalar(record, name);
    int value = 0;
    must(avro_value_get_boolean(&child, &value));
    return value != 0;
}

int ap_avro_enum(const avro_value_t *record, const char *name)
{
    avro_value_t child = scalar(record, name);
    int value = 0;
    must(avro_value_get_enum(&child, &value));
    return value;
}

const char *ap_avro_string(const avro_value_t *record, const char *name, size_t *len)
{
    avro_value_t child = scalar(record, name);
    const char *text = NULL;
    size_t size = 0;
    must(avro_value_get_string(&child, &text, &size));
    *len = size > 0 ? size - 1 : 0; /* Avro C counts the NUL */
    return size > 0 ? text : "";
}

const uint8_t *ap_avro_bytes(const avro_value_t *record, const char *name, size_t *len)
{
    avro_value_t child = scalar(record, name);
    const void *bytes = NULL;
    if (avro_value_get_type(&child) == AVRO_FIXED)
        must(avro_value_get_fixed(&child, &bytes, len));
    else
        must(avro_value_get_bytes(&child, &bytes, len));
    return bytes ? bytes : (const uint8_t *)"";
}

bool ap_avro_optional(const avro_value_t *record, const char *name, avro_value_t *branch)
{
    avro_value_t child = ap_avro_field(record, name);
    int which = 0;
    must(avro_value_get_discriminant(&child, &which));
    if (which != 1)
        return false;
    must(avro_value_get_current_branch(&child, branch));
    return true;
}

/* ---- setting ---- */

static avro_value_t settable(avro_value_t *record, const char *name)
{
    avro_value_t child = ap_avro_field(record, name), branch = {0};
    if (avro_value_get_type(&child) != AVRO_UNION)
        return child;
    must(avro_value_set_branch(&child, 1, &branch));
    return branch;
}

void ap_avro_set_u64(avro_value_t *record, const char *name, uint64_t value)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_long(&child, (int64_t)value));
}

void ap_avro_set_int(avro_value_t *record, const char *name, int32_t value)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_int(&child, value));
}

void ap_avro_set_bool(avro_value_t *record, const char *name, bool value)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_boolean(&child, value));
}

void ap_avro_set_enum(avro_value_t *record, const char *name, int value)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_enum(&child, value));
}

void ap_avro_set_string(avro_value_t *record, const char *name, const char *text)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_string(&child, text));
}

void ap_avro_set_bytes(avro_value_t *record, const char *name, const void *bytes, size_t len)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_bytes(&child, (void *)(uintptr_t)(len ? bytes : ""), len));
}

void ap_avro_set_fixed(avro_value_t *record, const char *name, const void *bytes, size_t len)
{
    avro_value_t child = settable(record, name);
    must(avro_value_set_fixed(&child, (void *)(uintptr_t)bytes, len));
}

void ap_avro_set_null(avro_value_t *record, const char *name)
{
    avro_value_t child = ap_avro_field(record, name), branch = {0};
    must(avro_value_set_branch(&child, 0, &branch));
    must(avro_value_set_null(&branch));
}

avro_value_t ap_avro_set_present(avro_value_t *record, const char *name)
{
    return settable(record, name);
}
