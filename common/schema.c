/* The registry of schemas: embedded ones parsed at start, learned ones added behind a lock, never taken away.
 *
 * Entries are reached by their fingerprint; each knows the newest embedded version of its record, which it is read as.
 * Reading goes bytes -> resolving reader (avro_resolve.h) -> generic value of Avro C. An embedded schema that does not
 * parse is a broken build: AP_FATAL. */
#include "common/schema.h"
#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/avro_resolve.h"
#include "common/embedded_schemas.h"

#define MAX_JSON (64 * 1024)
#define MAX_LEARNED 256 /* a region writes a handful; more is somebody's mistake */

struct record;

struct entry {
    uint64_t fingerprint;
    struct ap_avro_doc doc;
    const struct record *record;
};

/* One name, and the newest version of it that is embedded. */
struct record {
    char name[64]; /* "VectorMutation" */
    struct ap_schema_info newest;
    const struct ap_avro *tree;
    avro_value_iface_t *iface;
};

struct ap_schemas {
    size_t count;
    struct entry *embedded;      /* [count], beside info */
    struct ap_schema_info *info; /* [count] */
    char (*names)[64];           /* [count]: what info[].name points to */
    size_t record_count;
    struct record *records;
    pthread_rwlock_t lock;       /* guards what follows */
    size_t learned_count;
    struct entry *learned[MAX_LEARNED];
};

/* ---- fingerprints ---- */

#define CRC64_EMPTY 0xc15d213aa4d7a795u

/* Specification, "Schema Fingerprints": the table of a byte-wise CRC-64-AVRO. */
static uint64_t crc64_table[256];
static pthread_once_t crc64_once = PTHREAD_ONCE_INIT;

static void fill_crc64_table(void)
{
    for (uint64_t i = 0; i < 256; i++) {
        uint64_t fp = i;
        for (int bit = 0; bit < 8; bit++)
            fp = fp >> 1 ^ (CRC64_EMPTY & -(fp & 1));
        crc64_table[i] = fp;
    }
}

uint64_t ap_crc64_avro(const void *bytes, size_t len)
{
    pthread_once(&crc64_once, fill_crc64_table);
    uint64_t fp = CRC64_EMPTY;
    for (const uint8_t *p = bytes, *end = p + len; p < end; p++)
        fp = fp >> 8 ^ crc64_table[(fp ^ *p) & 0xff];
    return fp;
}

static uint64_t fingerprint(const struct ap_avro_doc *doc)
{
    struct ap_buf form = {0};
    ap_avro_canonical(doc, &form);
    uint64_t fp = ap_crc64_avro(form.data, form.len);
    ap_buf_free(&form);
    return fp;
}

uint64_t ap_schema_fingerprint_of_json(const char *json, size_t len, struct ap_err *err)
{
    struct ap_avro_doc doc;
    if (len > MAX_JSON) {
        ap_err_set(err, AP_EINVAL, AP_POISON, "schema of %zu bytes, over %d", len, MAX_JSON);
        return 0;
    }
    if (ap_avro_parse(json, len, &doc, err))
        return 0;
    uint64_t fp = fingerprint(&doc);
    ap_avro_fini(&doc);
    return fp;
}

/* ---- the registry ---- */

static struct record *find_record(const struct ap_schemas *s, const char *name)
{
    for (size_t i = 0; i < s->record_count; i++)
        if (strcmp(s->records[i].name, name) == 0)
            return &s->records[i];
    return NULL;
}

/* File name to record name and version: "VectorMutation.v1.avsc". */
static int parse_file_name(const char *file, char name[64], int *version)
{
    int used = 0;
    if (sscanf(file, "%63[A-Za-z0-9].v%d.avsc%n", name, version, &used) != 2 || file[used] || *version < 1)
        return AP_EINVAL;
    return 0;
}

static int embed(struct ap_schemas *s, const struct ap_embedded_schema *file, struct ap_err *err)
{
    struct entry *entry = &s->embedded[s->count];
    struct ap_schema_info *info = &s->info[s->count];
    if (parse_file_name(file->name, s->names[s->count], &info->version))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "embedded schema %s: not named <Record>.v<n>.avsc", file->name);
    if (ap_avro_parse(file->json, file->len, &entry->doc, err)) {
        if (err)
            err->cls = AP_FATAL;
        return ap_err_wrap(err, "embedded schema %s", file->name);
    }
    s->count++; /* from here on ap_schemas_free releases it */
    info->name = s->names[s->count - 1];
    info->json = file->json;
    info->fingerprint = entry->fingerprint = fingerprint(&entry->doc);
    if (avro_schema_from_json_length(file->json, file->len, &info->schema)) {
        info->schema = NULL;
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "embedded schema %s: %s", file->name, avro_strerror());
    }
    struct record *record = find_record(s, info->name);
    if (!record) {
        record = &s->records[s->record_count++];
        memcpy(record->name, info->name, sizeof record->name);
    }
    if (info->version > record->newest.version) {
        record->newest = *info;
        record->tree = entry->doc.root;
    }
    entry->record = record;
    return 0;
}

int ap_schemas_new(struct ap_schemas **out, struct ap_err *err)
{
    size_t n = ap_embedded_schemas_count;
    struct ap_schemas *s = calloc(1, sizeof *s);
    if (!s || !(s->embedded = calloc(n + 1, sizeof *s->embedded)) || !(s->info = calloc(n + 1, sizeof *s->info)) ||
        !(s->names = calloc(n + 1, sizeof *s->names)) || !(s->records = calloc(n + 1, sizeof *s->records)))
        abort();
    pthread_rwlock_init(&s->lock, NULL);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = embed(s, &ap_embedded_schemas[i], err);
    for (size_t i = 0; i < s->record_count && rc == 0; i++) {
        s->records[i].iface = avro_generic_class_from_schema(s->records[i].newest.schema);
        if (!s->records[i].iface)
            rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "embedded schema %s: %s", s->records[i].name, avro_strerror());
    }
    for (size_t i = 0; i < s->count && rc == 0; i++) {
        rc = ap_avro_compatible(s->embedded[i].doc.root, s->embedded[i].record->tree, err);
        if (rc) {
            ap_err_wrap(err, "embedded schema %s, version %d, does not resolve to the newest", s->info[i].name, s->info[i].version);
            if (err)
                err->cls = AP_FATAL;
        }
    }
    if (rc)
        ap_schemas_free(&s);
    *out = s;
    return rc;
}

void ap_schemas_free(struct ap_schemas **schemas)
{
    struct ap_schemas *s = *schemas;
    if (!s)
        return;
    for (size_t i = 0; i < s->record_count; i++)
        if (s->records[i].iface)
            avro_value_iface_decref(s->records[i].iface);
    for (size_t i = 0; i < s->count; i++) {
        ap_avro_fini(&s->embedded[i].doc);
        if (s->info[i].schema)
            avro_schema_decref(s->info[i].schema);
    }
    for (size_t i = 0; i < s->learned_count; i++) {
        ap_avro_fini(&s->learned[i]->doc);
        free(s->learned[i]);
    }
    pthread_rwlock_destroy(&s->lock);
    free(s->embedded);
    free(s->info);
    free(s->names);
    free(s->records);
    free(s);
    *schemas = NULL;
}

/* The entry of a fingerprint; NULL when it is unknown. Entries live as long as the registry. */
static const struct entry *find_entry(const struct ap_schemas *s, uint64_t fp)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->embedded[i].fingerprint == fp)
            return &s->embedded[i];
    const struct entry *found = NULL;
    pthread_rwlock_t *lock = (pthread_rwlock_t *)(uintptr_t)&s->lock; /* const for callers: looking up changes nothing */
    pthread_rwlock_rdlock(lock);
    for (size_t i = 0; i < s->learned_count && !found; i++)
        if (s->learned[i]->fingerprint == fp)
            found = s->learned[i];
    pthread_rwlock_unlock(lock);
    return found;
}

/* Which record of ours a learned schema is a version of, by the full name. */
static const struct record *record_of(const struct ap_schemas *s, const struct ap_avro *root, struct ap_err *err)
{
    if (root->type == AP_AVRO_RECORD)
        for (size_t i = 0; i < s->record_count; i++)
            if (strcmp(s->records[i].tree->name, root->name) == 0)
                return &s->records[i];
    ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "schema of '%.100s', which is no record of ours",
               root->name ? root->name : ap_avro_type_name(root->type));
    return NULL;
}

int ap_schemas_learn(struct ap_schemas *s, const char *json, size_t len, uint64_t *out, struct ap_err *err)
{
    struct ap_avro_doc doc;
    if (len > MAX_JSON)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "schema of %zu bytes, over %d", len, MAX_JSON);
    int rc = ap_avro_parse(json, len, &doc, err);
    if (rc)
        return rc;
    uint64_t fp = fingerprint(&doc);
    if (out)
        *out = fp;
    const struct record *record = record_of(s, doc.root, err);
    rc = !record ? AP_EUNSUPPORTED : ap_avro_compatible(doc.root, record->tree, err);
    if (rc || find_entry(s, fp)) {
        if (rc && record)
            ap_err_wrap(err, "schema %016" PRIx64 " cannot be read as %s version %d", fp, record->name, record->newest.version);
        ap_avro_fini(&doc);
        return rc;
    }
    struct entry *entry = calloc(1, sizeof *entry);
    if (!entry)
        abort();
    *entry = (struct entry){ .fingerprint = fp, .doc = doc, .record = record };

    pthread_rwlock_wrlock(&s->lock);
    bool known = false; /* somebody may have been faster */
    for (size_t i = 0; i < s->learned_count; i++)
        known = known || s->learned[i]->fingerprint == fp;
    bool full = !known && s->learned_count == MAX_LEARNED;
    if (!known && !full) {
        s->learned[s->learned_count++] = entry;
        entry = NULL;
    }
    pthread_rwlock_unlock(&s->lock);
    if (entry) {
        ap_avro_fini(&entry->doc);
        free(entry);
    }
    return full ? ap_err_set(err, AP_EINVAL, AP_POISON, "more than %d schemas learned", MAX_LEARNED) : 0;
}

const struct ap_schema_info *ap_schema_newest(const struct ap_schemas *s, const char *name)
{
    const struct record *record = find_record(s, name);
    return record ? &record->newest : NULL;
}

const struct ap_schema_info *ap_schema_version(const struct ap_schemas *s, const char *name, int version)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->info[i].version == version && strcmp(s->info[i].name, name) == 0)
            return &s->info[i];
    return NULL;
}

size_t ap_schema_embedded(const struct ap_schemas *s, const struct ap_schema_info **all)
{
    *all = s->info;
    return s->count;
}

/* ---- values ---- */

int ap_schema_read(const struct ap_schemas *s, const char *name, const void *bytes, size_t len, avro_value_t *value,
                   struct ap_err *err)
{
    const uint8_t *p = bytes;
    if (len < 10 || p[0] != 0xc3 || p[1] != 0x01)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "%s: no Avro single-object (%zu bytes)", name, len);
    uint64_t fp = ap_le64(p + 2);
    const struct record *record = find_record(s, name);
    assert(record);
    const struct entry *entry = find_entry(s, fp);
    if (!entry)
        return ap_err_set(err, AP_ESCHEMA, AP_RETRY, "%s: schema %016" PRIx64 " is unknown", name, fp);
    if (entry->record != record)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "%s expected, but this is of schema %016" PRIx64 ", a %s", name, fp, entry->record->name);
    if (avro_generic_value_new(record->iface, value))
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "%s: %s", name, avro_strerror());
    int rc = ap_avro_read(entry->doc.root, record->tree, p + 10, len - 10, value, err);
    if (rc) {
        avro_value_decref(value);
        return ap_err_wrap(err, "%s", name);
    }
    return 0;
}

int ap_schema_write(const struct ap_schemas *s, const char *name, avro_value_t *value, struct ap_buf *out, struct ap_err *err)
{
    const struct record *record = find_record(s, name);
    assert(record);
    return ap_schema_write_as(&record->newest, value, out, err);
}

int ap_schema_write_as(const struct ap_schema_info *schema, avro_value_t *value, struct ap_buf *out, struct ap_err *err)
{
    const char *name = schema->name;
    size_t size = 0;
    if (avro_value_sizeof(value, &size))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s", name, avro_strerror());
    ap_buf_reserve(out, 10 + size); /* Avro C's memory writer does not grow */
    uint8_t *p = out->data + out->len;
    p[0] = 0xc3;
    p[1] = 0x01;
    ap_put_le64(p + 2, schema->fingerprint);
    avro_writer_t writer = avro_writer_memory((char *)p + 10, (int64_t)size);
    int rc = !writer || avro_value_write(writer, value) || (size_t)avro_writer_tell(writer) != size;
    if (writer)
        avro_writer_free(writer);
    if (rc)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s", name, avro_strerror());
    out->len += 10 + size;
    return 0;
}
