/* Schemas: fingerprints, the files in schemas/, the rules of their evolution, and hostile schemas and bytes. */
#include <check.h>
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/avro_field.h"
#include "common/avro_resolve.h"
#include "common/avro_wire.h"
#include "common/embedded_schemas.h"
#include "common/event.h"
#include "common/schema.h"
#include "rnd.h"
#include "run.h"

#define SCHEMAS ANTIPODE_SOURCE_DIR "/schemas/"
#define PLANTED ANTIPODE_SOURCE_DIR "/tests/data/schemas/"

static struct ap_schemas *schemas;
static struct ap_buf scratch;

static void setup(void)
{
    struct ap_err err;
    if (ap_schemas_new(&schemas, &err))
        ck_abort_msg("%s", err.msg);
}

static void teardown(void)
{
    ap_schemas_free(&schemas);
    ap_buf_free(&scratch);
}

/* The whole of a file; len does not count the NUL behind it. */
static struct ap_buf slurp(const char *folder, const char *name)
{
    char path[512], piece[4096];
    struct ap_buf buf = {0};
    snprintf(path, sizeof path, "%s%s", folder, name);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s", path);
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;)
        ap_buf_append(&buf, piece, n);
    fclose(f);
    ap_buf_append(&buf, "", 1);
    buf.len--;
    return buf;
}

/* ---- fingerprints ---- */

/* The first four are of the specification's test data (share/test/data/schema-tests.txt); the others by fastavro. */
START_TEST(fingerprints_are_those_of_others)
{
    static const struct { const char *json; uint64_t fingerprint; } known[] = {
        { "\"null\"", 7195948357588979594u }, { "\"int\"", 8247732601305521295u }, { "\"double\"", (uint64_t)-8181574048448539266 },
        { " { \"type\" : \"string\" } ", (uint64_t)-8142146995180207161 },
        { "{\"fields\":[],\"type\":\"record\",\"name\":\"foo\"}", UINT64_C(0xbd0c50c84319be7e) },
        { "{\"type\":\"fixed\",\"name\":\"foo\",\"size\":15,\"namespace\":\"x.y\",\"doc\":\"d\"}", UINT64_C(0x7c880d2890fb8ef1) },
        { "{\"type\":\"enum\",\"name\":\"foo\",\"symbols\":[\"A1\",\"B2\"]}", UINT64_C(0x068ba690fc65d6fd) },
        { "{\"type\":\"array\",\"items\":[\"null\",\"string\"]}", UINT64_C(0x6a7c11b4af6af6ca) },
    };
    struct ap_err err;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint64_t fp = ap_schema_fingerprint_of_json(known[i].json, strlen(known[i].json), &err);
        ck_assert_msg(fp == known[i].fingerprint, "%s: %016" PRIx64, known[i].json, fp);
    }
    ck_assert(ap_crc64_avro("", 0) == UINT64_C(0xc15d213aa4d7a795));
}
END_TEST

START_TEST(canonical_form)
{
    static const char json[] =
        "{\"doc\":\"x\",\"name\":\"A\",\"namespace\":\"n.s\",\"aliases\":[\"B\"],\"type\":\"record\",\"fields\":["
        "{\"default\":null,\"name\":\"f\",\"type\":[\"null\",{\"type\":\"fixed\",\"size\":8,\"name\":\"F\"}]},"
        "{\"name\":\"e\",\"type\":{\"symbols\":[\"X\",\"Y\"],\"default\":\"X\",\"name\":\"o.E\",\"type\":\"enum\"}},"
        "{\"name\":\"again\",\"type\":{\"type\":\"array\",\"items\":\"F\"}},"
        "{\"name\":\"m\",\"type\":{\"type\":\"map\",\"values\":{\"type\":\"long\",\"logicalType\":\"timestamp-millis\"}}},"
        "{\"name\":\"r\",\"type\":{\"name\":\"I\",\"type\":\"record\",\"namespace\":\"\",\"fields\":[]}}]}";
    struct ap_avro_doc doc;
    struct ap_buf out = {0};
    ck_assert_int_eq(ap_avro_parse(json, strlen(json), &doc, NULL), 0);
    ap_avro_canonical(&doc, &out);
    ap_buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.data,
        "{\"name\":\"n.s.A\",\"type\":\"record\",\"fields\":["
        "{\"name\":\"f\",\"type\":[\"null\",{\"name\":\"n.s.F\",\"type\":\"fixed\",\"size\":8}]},"
        "{\"name\":\"e\",\"type\":{\"name\":\"o.E\",\"type\":\"enum\",\"symbols\":[\"X\",\"Y\"]}},"
        "{\"name\":\"again\",\"type\":{\"type\":\"array\",\"items\":\"n.s.F\"}},"
        "{\"name\":\"m\",\"type\":{\"type\":\"map\",\"values\":\"long\"}},"
        "{\"name\":\"r\",\"type\":{\"name\":\"I\",\"type\":\"record\",\"fields\":[]}}]}");
    ap_buf_free(&out);
    ap_avro_fini(&doc);
}
END_TEST

/* ---- the files ---- */

/* schemas/FINGERPRINTS is about exactly the files that are there, and exactly those are compiled in, byte for byte. */
START_TEST(files_never_change)
{
    struct ap_buf list = slurp(SCHEMAS, "FINGERPRINTS");
    const struct ap_schema_info *info;
    size_t count = ap_schema_embedded(schemas, &info), files = 0;
    DIR *dir = opendir(SCHEMAS);
    for (struct dirent *entry; (entry = readdir(dir));)
        files += strstr(entry->d_name, ".avsc") != NULL;
    closedir(dir);
    ck_assert_uint_eq(files, count);
    ck_assert_uint_eq(count, ap_embedded_schemas_count);

    for (size_t i = 0; i < count; i++) {
        const char *name = ap_embedded_schemas[i].name;
        struct ap_buf file = slurp(SCHEMAS, name);
        ck_assert_uint_eq(file.len, ap_embedded_schemas[i].len);
        ck_assert_mem_eq(file.data, ap_embedded_schemas[i].json, file.len);
        uint8_t sum[crypto_hash_sha256_BYTES];
        char hex[2 * sizeof sum + 1], line[256];
        crypto_hash_sha256(sum, file.data, file.len);
        snprintf(line, sizeof line, "\n%016" PRIx64 " %s %s\n", info[i].fingerprint, sodium_bin2hex(hex, sizeof hex, sum, sizeof sum), name);
        ck_assert_msg(strstr((char *)list.data, line) != NULL,
                      "schemas/FINGERPRINTS lacks the line below. For a new file add it; an old file must not change:%s", line);
        ap_buf_free(&file);
    }
    size_t lines = 0;
    for (size_t i = 0; i < list.len; i++)
        lines += list.data[i] == '\n';
    ck_assert_uint_eq(lines, count + 1); /* and a comment */
    ap_buf_free(&list);
}
END_TEST

START_TEST(newest_is_found_by_name)
{
    const struct ap_schema_info *info = ap_schema_newest(schemas, "VectorMutation");
    ck_assert_ptr_nonnull(info);
    ck_assert_str_eq(info->name, "VectorMutation");
    ck_assert_int_eq(info->version, 1);
    ck_assert(ap_schema_fingerprint_of_json(info->json, strlen(info->json), NULL) == info->fingerprint);
    ck_assert_ptr_null(ap_schema_newest(schemas, "Nothing"));
}
END_TEST

/* ---- evolution ---- */

/* Whether each of two versions can be read as the other; else why not. */
static bool evolves(const struct ap_buf *a, const struct ap_buf *b, struct ap_err *err)
{
    struct ap_avro_doc older, newer;
    ck_assert_msg(ap_avro_parse((char *)a->data, a->len, &older, err) == 0, "%s", err->msg);
    ck_assert_msg(ap_avro_parse((char *)b->data, b->len, &newer, err) == 0, "%s", err->msg);
    bool good = ap_avro_compatible(older.root, newer.root, err) == 0 && ap_avro_compatible(newer.root, older.root, err) == 0;
    ap_avro_fini(&older);
    ap_avro_fini(&newer);
    return good;
}

START_TEST(every_version_reads_every_other)
{
    const struct ap_schema_info *info;
    size_t count = ap_schema_embedded(schemas, &info);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < count; j++) {
            struct ap_buf a = { (uint8_t *)(uintptr_t)info[i].json, strlen(info[i].json), 0 };
            struct ap_buf b = { (uint8_t *)(uintptr_t)info[j].json, strlen(info[j].json), 0 };
            struct ap_err err;
            if (strcmp(info[i].name, info[j].name) == 0)
                ck_assert_msg(evolves(&a, &b, &err), "%s: v%d and v%d: %s", info[i].name, info[i].version, info[j].version, err.msg);
        }
    }
}
END_TEST

static const struct { const char *file; const char *complaint; bool learnable; } broken[] = {
    { "VectorMutation.bad-removed.avsc", "field 'seq' of antipode.VectorMutation is missing", false },
    { "VectorMutation.bad-renamed.avsc", "field 'number'", false },
    { "VectorMutation.bad-type.avsc", "hlc: long", false },
    { "VectorMutation.bad-size.avsc", "antipode.CodecId", false },
    { "VectorMutation.bad-branch.avsc", "reads string", false },
    { "VectorMutation.bad-name.avsc", "antipode.Operation", false },
    { "VectorMutation.bad-default.avsc", "field 'shard'", true }, /* we can read it; it cannot read us */
    { "VectorMutation.bad-default-type.avsc", "default of field 'shard'", true },
    { "VectorMutation.bad-symbol.avsc", "symbol 'HEARTBEAT'", true },
};

START_TEST(broken_rules_are_found)
{
    struct ap_buf v1 = slurp(SCHEMAS, "VectorMutation.v1.avsc");
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct ap_buf planted = slurp(PLANTED, broken[i].file);
        struct ap_err err = { .msg = "" };
        ck_assert_msg(!evolves(&v1, &planted, &err), "%s passed", broken[i].file);
        ck_assert_msg(strstr(err.msg, broken[i].complaint), "%s: %s", broken[i].file, err.msg);
        uint64_t fp = 0;
        int rc = ap_schemas_learn(schemas, (char *)planted.data, planted.len, &fp, &err);
        ck_assert_int_eq(rc, broken[i].learnable ? 0 : AP_EINVAL);
        ck_assert(fp != 0);
        ap_buf_free(&planted);
    }
    ap_buf_free(&v1);
}
END_TEST

/* A generic value of a schema that is not embedded, from its text. */
struct foreign { avro_schema_t schema; avro_value_t value; uint64_t fingerprint; };

static struct foreign foreign_of(const struct ap_buf *json)
{
    struct foreign f;
    struct ap_err err;
    ck_assert_int_eq(avro_schema_from_json_length((char *)json->data, json->len, &f.schema), 0);
    avro_value_iface_t *iface = avro_generic_class_from_schema(f.schema);
    avro_generic_value_new(iface, &f.value);
    avro_value_iface_decref(iface);
    ck_assert_msg(ap_schemas_learn(schemas, (char *)json->data, json->len, &f.fingerprint, &err) == 0, "%s", err.msg);
    return f;
}

static struct ap_buf write_foreign(struct foreign *f)
{
    struct ap_buf out = {0};
    size_t size;
    avro_value_sizeof(&f->value, &size);
    ap_buf_reserve(&out, 10 + size);
    out.data[0] = 0xc3;
    out.data[1] = 0x01;
    ap_put_le64(out.data + 2, f->fingerprint);
    avro_writer_t writer = avro_writer_memory((char *)out.data + 10, (int64_t)size);
    ck_assert_int_eq(avro_value_write(writer, &f->value), 0);
    avro_writer_free(writer);
    out.len = 10 + size;
    return out;
}

static void release_foreign(struct foreign *f)
{
    avro_value_decref(&f->value);
    avro_schema_decref(f->schema);
}

START_TEST(an_older_version_is_read)
{
    struct ap_buf json = slurp(PLANTED, "VectorMutation.older.avsc");
    struct foreign f = foreign_of(&json);
    ap_avro_set_int(&f.value, "seq", 77);
    ap_avro_set_enum(&f.value, "op", 1); /* UPSERT there, PATCH here */
    ap_avro_set_string(&f.value, "shard", "dropped");
    ap_avro_set_u64(&f.value, "writer", 5);
    ap_avro_set_bytes(&f.value, "vector", "\1\2\3", 3);
    ap_avro_set_string(&f.value, "region", "eu");
    ap_avro_set_u64(&f.value, "hlc", 1u << 20);
    struct ap_buf bytes = write_foreign(&f);
    struct ap_mutation m;
    struct ap_err err;
    ck_assert_int_eq(ap_mutation_decode(NULL, bytes.data, bytes.len, &m, &scratch, &err), AP_ESCHEMA);
    ck_assert_msg(ap_mutation_decode(schemas, bytes.data, bytes.len, &m, &scratch, &err) == 0, "%s", err.msg);
    ck_assert(m.op == AP_OP_UPSERT && m.seq == 77 && m.stream == 5 && m.clock == 1u << 20 && !m.has_codec && !m.payload);
    ck_assert(m.vector_len == 3 && memcmp(m.vector, "\1\2\3", 3) == 0);
    ck_assert(m.vector >= scratch.data && m.vector + 3 <= scratch.data + scratch.cap); /* not in what was freed */
    ap_avro_set_int(&f.value, "seq", -1);
    ap_buf_free(&bytes);
    bytes = write_foreign(&f);
    ck_assert_int_eq(ap_mutation_decode(schemas, bytes.data, bytes.len, &m, &scratch, &err), AP_ECORRUPT); /* the same checks */
    ap_buf_free(&bytes);
    ap_buf_free(&json);
    release_foreign(&f);
}
END_TEST

static void fill_newer(avro_value_t *v)
{
    avro_value_t tags, item, trace;
    ap_avro_set_enum(v, "op", 1);
    ap_avro_set_u64(v, "hlc", 9);
    ap_avro_set_string(v, "region", "us");
    ap_avro_set_u64(v, "writer", UINT64_C(1) << 63);
    ap_avro_set_fixed(v, "codec", "\1\2\3\4\5\6\7\10", 8);
    tags = ap_avro_field(v, "tags");
    avro_value_add(&tags, "colour", &item, NULL, NULL);
    avro_value_set_string(&item, "blue");
    ap_avro_set_bytes(v, "vector", "", 0);
    ap_avro_set_u64(v, "seq", 12);
    ap_avro_set_u64(v, "stream", 4);
    ap_avro_set_u64(v, "clock", 10);
    ap_avro_set_string(v, "payload", "{\"a\":1}");
    trace = ap_avro_set_present(v, "trace");
    ap_avro_set_fixed(&trace, "id", "0123456789abcdef", 16);
    ap_avro_set_bool(&trace, "sampled", true);
    item = ap_avro_field(&trace, "spans");
    for (int i = 0; i < 3; i++) {
        avro_value_t span;
        avro_value_append(&item, &span, NULL);
        avro_value_set_long(&span, i);
    }
    item = ap_avro_field(v, "weight");
    avro_value_set_float(&item, 2.0F);
    item = ap_avro_field(v, "score");
    avro_value_set_double(&item, 3.0);
    ap_avro_set_int(v, "version", 2);
}

START_TEST(a_newer_version_is_read_once_its_schema_is_known)
{
    struct ap_buf json = slurp(PLANTED, "VectorMutation.newer.avsc");
    struct foreign f = foreign_of(&json);
    fill_newer(&f.value);
    struct ap_buf bytes = write_foreign(&f);
    struct ap_mutation m;
    struct ap_err err;
    ck_assert_msg(ap_mutation_decode(schemas, bytes.data, bytes.len, &m, &scratch, &err) == 0, "%s", err.msg);
    ck_assert(m.op == AP_OP_PATCH && m.version.hlc == 9 && strcmp(m.version.region.name, "us") == 0 && m.version.writer == UINT64_C(1) << 63);
    ck_assert(m.seq == 12 && m.stream == 4 && m.clock == 10 && m.has_codec && m.codec == UINT64_C(0x0102030405060708));
    ck_assert(m.vector && m.vector_len == 0 && m.payload_len == 7 && memcmp(m.payload, "{\"a\":1}", 7) == 0);

    struct ap_schemas *fresh;
    ck_assert_int_eq(ap_schemas_new(&fresh, &err), 0);
    ck_assert_int_eq(ap_mutation_decode(fresh, bytes.data, bytes.len, &m, &scratch, &err), AP_ESCHEMA);
    ap_schemas_free(&fresh);

    for (size_t len = 0; len < bytes.len; len++) { /* cut anywhere, from memory that ends there */
        uint8_t *exact = malloc(len ? len : 1);
        memcpy(exact, bytes.data, len);
        ck_assert_int_eq(ap_mutation_decode(schemas, exact, len, &m, &scratch, &err), AP_ECORRUPT);
        free(exact);
    }
    for (size_t bit = 80; bit < bytes.len * 8; bit++) {
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ap_mutation_decode(schemas, bytes.data, bytes.len, &m, &scratch, &err);
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    ap_buf_free(&bytes);

    ap_avro_set_enum(&f.value, "op", 5); /* TOUCH: waits for an upgrade instead of being guessed */
    bytes = write_foreign(&f);
    ck_assert_int_eq(ap_mutation_decode(schemas, bytes.data, bytes.len, &m, &scratch, &err), AP_ESCHEMA);
    ck_assert_ptr_nonnull(strstr(err.msg, "upgrade"));
    ap_buf_free(&bytes);
    ap_buf_free(&json);
    release_foreign(&f);
}
END_TEST

/* A reader with a default of every type, from a writer that has none of the fields. */
START_TEST(defaults_of_every_type)
{
    static const char writer[] = "{\"type\":\"record\",\"name\":\"R\",\"fields\":[]}";
    static const char reader[] =
        "{\"type\":\"record\",\"name\":\"R\",\"fields\":["
        "{\"name\":\"n\",\"type\":\"null\",\"default\":null},{\"name\":\"o\",\"type\":\"boolean\",\"default\":true},"
        "{\"name\":\"i\",\"type\":\"int\",\"default\":-3},{\"name\":\"l\",\"type\":\"long\",\"default\":4},"
        "{\"name\":\"f\",\"type\":\"float\",\"default\":1.5},{\"name\":\"d\",\"type\":\"double\",\"default\":2},"
        "{\"name\":\"b\",\"type\":\"bytes\",\"default\":\"\\u0001\\u00ff\"},{\"name\":\"s\",\"type\":\"string\",\"default\":\"x\"},"
        "{\"name\":\"x\",\"type\":{\"type\":\"fixed\",\"name\":\"X\",\"size\":2},\"default\":\"\\u0080A\"},"
        "{\"name\":\"e\",\"type\":{\"type\":\"enum\",\"name\":\"E\",\"symbols\":[\"A\",\"B\"]},\"default\":\"B\"},"
        "{\"name\":\"a\",\"type\":{\"type\":\"array\",\"items\":\"int\"},\"default\":[]},"
        "{\"name\":\"m\",\"type\":{\"type\":\"map\",\"values\":\"int\"},\"default\":{}},"
        "{\"name\":\"u\",\"type\":[\"long\",\"null\"],\"default\":9},"
        "{\"name\":\"r\",\"type\":{\"type\":\"record\",\"name\":\"Q\",\"fields\":[{\"name\":\"p\",\"type\":\"int\",\"default\":7},{\"name\":\"q\",\"type\":\"int\"}]},\"default\":{\"q\":8}}]}";
    struct ap_avro_doc w, r;
    struct ap_err err;
    avro_schema_t schema;
    avro_value_t v, child;
    size_t len;
    ck_assert_int_eq(ap_avro_parse(writer, strlen(writer), &w, &err), 0);
    ck_assert_msg(ap_avro_parse(reader, strlen(reader), &r, &err) == 0, "%s", err.msg);
    ck_assert_msg(ap_avro_compatible(w.root, r.root, &err) == 0, "%s", err.msg);
    ck_assert_int_eq(avro_schema_from_json_length(reader, strlen(reader), &schema), 0);
    avro_value_iface_t *iface = avro_generic_class_from_schema(schema);
    avro_generic_value_new(iface, &v);
    ck_assert_int_eq(ap_avro_read(w.root, r.root, (const uint8_t *)"", 0, &v, &err), 0);
    ck_assert(ap_avro_bool(&v, "o") && ap_avro_int(&v, "i") == -3 && ap_avro_u64(&v, "l") == 4 && ap_avro_enum(&v, "e") == 1);
    ck_assert(memcmp(ap_avro_bytes(&v, "b", &len), "\1\xff", 2) == 0 && len == 2);
    ck_assert(memcmp(ap_avro_bytes(&v, "x", &len), "\x80" "A", 2) == 0 && len == 2);
    ck_assert_str_eq(ap_avro_string(&v, "s", &len), "x");
    float f;
    child = ap_avro_field(&v, "f");
    ck_assert(avro_value_get_float(&child, &f) == 0 && f == 1.5F);
    child = ap_avro_field(&v, "r");
    ck_assert(ap_avro_int(&child, "p") == 7 && ap_avro_int(&child, "q") == 8);
    ck_assert(ap_avro_u64(&v, "u") == 9);
    avro_value_decref(&v);
    avro_value_iface_decref(iface);
    avro_schema_decref(schema);
    ap_avro_fini(&w);
    ap_avro_fini(&r);
}
END_TEST

/* ---- hostile input ---- */

static int learn(const char *json, struct ap_err *err)
{
    uint64_t fp;
    return ap_schemas_learn(schemas, json, strlen(json), &fp, err);
}

START_TEST(hostile_schemas_are_refused)
{
    static const char *const bad[] = {
        "", "{", "42", "null", "[]", "\"nothing\"", "{\"type\":\"record\"}", "{\"type\":\"record\",\"name\":\"antipode.VectorMutation\"}",
        "{\"type\":\"record\",\"name\":\"1x\",\"fields\":[]}", "{\"type\":\"record\",\"name\":\"x..y\",\"fields\":[]}",
        "{\"type\":\"record\",\"name\":\"x\",\"fields\":[{\"name\":\"a\",\"type\":\"x\"}]}", /* recursive */
        "{\"type\":\"record\",\"name\":\"x\",\"fields\":[{\"name\":\"a\",\"type\":\"int\"},{\"name\":\"a\",\"type\":\"int\"}]}",
        "{\"type\":\"record\",\"name\":\"x\",\"fields\":[{\"name\":\"a\",\"type\":\"int\"}],\"name\":\"y\"}",
        "{\"type\":\"record\",\"name\":\"x\\u0000y\",\"fields\":[]}", "\"int\\u0000\"",
        "{\"type\":\"enum\",\"name\":\"e\",\"symbols\":[]}", "{\"type\":\"enum\",\"name\":\"e\",\"symbols\":[\"A\",\"A\"]}",
        "{\"type\":\"enum\",\"name\":\"e\",\"symbols\":[\"A\"],\"default\":\"B\"}", "{\"type\":\"fixed\",\"name\":\"f\",\"size\":-1}",
        "{\"type\":\"fixed\",\"name\":\"f\",\"size\":1000000000000}", "[\"int\",[\"int\"]]", "{\"type\":\"array\"}", "{\"type\":\"map\"}" };
    struct ap_err err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(learn(bad[i], &err) == AP_EINVAL && err.cls == AP_POISON && err.msg[0], "%s", bad[i]);
    /* well-formed, but of nothing that we have */
    ck_assert_int_eq(learn("\"int\"", &err), AP_EUNSUPPORTED);
    ck_assert_int_eq(learn("{\"type\":\"record\",\"name\":\"antipode.Snapshot\",\"fields\":[]}", &err), AP_EUNSUPPORTED);
}
END_TEST

START_TEST(schemas_are_bounded)
{
    struct ap_buf json = {0};
    struct ap_err err;
    for (int i = 0; i < 1000; i++) /* nesting */
        ap_buf_printf(&json, "{\"type\":\"array\",\"items\":");
    ap_buf_printf(&json, "\"int\"");
    for (int i = 0; i < 1000; i++)
        ap_buf_printf(&json, "}");
    ck_assert_int_eq(ap_schemas_learn(schemas, (char *)json.data, json.len, NULL, &err), AP_EINVAL);

    ap_buf_clear(&json); /* each record holds the one before ten times: 10^12 nodes when written out */
    for (int i = 0; i < 12; i++)
        ap_buf_printf(&json, "{\"type\":\"record\",\"name\":\"r%d\",\"fields\":[{\"name\":\"f\",\"type\":", i);
    ap_buf_printf(&json, "\"int\"}");
    for (int i = 11; i >= 0; i--) {
        for (int j = 0; j < 9; j++)
            ap_buf_printf(&json, ",{\"name\":\"f%d\",\"type\":\"%s%.0d\"}", j, i == 11 ? "int" : "r", i == 11 ? 0 : i + 1);
        ap_buf_printf(&json, "]}%s", i ? "}" : "");
    }
    ck_assert_int_eq(ap_schemas_learn(schemas, (char *)json.data, json.len, NULL, &err), AP_EINVAL);
    ck_assert_msg(strstr(err.msg, "too large"), "%s", err.msg);

    ap_buf_clear(&json);
    ap_buf_printf(&json, "\"int\"");
    while (json.len <= 64 * 1024)
        ap_buf_append(&json, " ", 1);
    ck_assert_int_eq(ap_schemas_learn(schemas, (char *)json.data, json.len, NULL, &err), AP_EINVAL);
    ck_assert(ap_schema_fingerprint_of_json((char *)json.data, json.len, &err) == 0);
    ap_buf_free(&json);
}
END_TEST

/* A watermark whose count of positions is not what follows. */
static int read_watermark(const uint8_t *blocks, size_t len)
{
    uint8_t bytes[128], *at = bytes;
    avro_value_t v;
    struct ap_err err;
    *at++ = 0xc3;
    *at++ = 0x01;
    ap_put_le64(at, ap_schema_newest(schemas, "Watermark")->fingerprint);
    at = memcpy(at + 8, "\4eu\0\0", 5) + 5;
    at = (uint8_t *)memcpy(at, blocks, len) + len;
    at = memcpy(at, "\0\0", 2) + 2; /* settled, retention_ms */
    int rc = ap_schema_read(schemas, "Watermark", bytes, (size_t)(at - bytes), &v, &err);
    if (rc == 0)
        avro_value_decref(&v);
    return rc;
}

START_TEST(counts_and_lengths_are_bounded_before_memory_is_taken)
{
    uint8_t blocks[64], *at;
    static const char position[] = "\2\4eu\2t\0\0\0\0\0"; /* stream 1, eu, topic t, zeros */
    static const int64_t counts[] = { INT64_MAX, INT64_MIN, INT64_MIN + 1, 1000000, 2, -2 };
    ck_assert_int_eq(read_watermark((const uint8_t *)"\0", 1), 0);
    ck_assert_int_eq(read_watermark((const uint8_t *)"\0\0", 2), AP_ECORRUPT); /* a byte left over */
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        at = ap_avro_put_long(blocks, counts[i]);
        if (counts[i] < 0)
            at = ap_avro_put_long(at, 1);
        at = (uint8_t *)memcpy(at, position, sizeof position - 1) + sizeof position - 1;
        *at++ = 0;
        ck_assert_int_eq(read_watermark(blocks, (size_t)(at - blocks)), AP_ECORRUPT);
    }
    for (int negative = 0; negative < 2; negative++) { /* both forms of a block are fine */
        at = ap_avro_put_long(blocks, negative ? -1 : 1);
        if (negative)
            at = ap_avro_put_long(at, sizeof position - 1);
        at = (uint8_t *)memcpy(at, position, sizeof position - 1) + sizeof position - 1;
        *at++ = 0;
        ck_assert_int_eq(read_watermark(blocks, (size_t)(at - blocks)), 0);
    }
    at = ap_avro_put_long(blocks, 1);
    at = memcpy(at, "\2\4eu\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01t\0\0\0\0\0\0", 22) + 22; /* a topic of 2^63 - 1 bytes */
    ck_assert_int_eq(read_watermark(blocks, (size_t)(at - blocks)), AP_ECORRUPT);
}
END_TEST

/* ---- threads ---- */

static struct ap_buf newer_bytes;
static _Atomic int stop;

static void *decode_many(void *arg)
{
    struct ap_buf own = {0};
    struct ap_mutation m;
    (void)arg;
    while (!stop)
        ck_assert_int_eq(ap_mutation_decode(schemas, newer_bytes.data, newer_bytes.len, &m, &own, NULL), 0);
    ap_buf_free(&own);
    return NULL;
}

START_TEST(readers_go_on_while_schemas_are_learned)
{
    struct ap_buf json = slurp(PLANTED, "VectorMutation.newer.avsc"), variant = {0};
    struct foreign f = foreign_of(&json);
    pthread_t threads[2];
    struct ap_err err;
    fill_newer(&f.value);
    newer_bytes = write_foreign(&f);
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, decode_many, NULL);
    int learned = 1; /* newer */
    for (int i = 0; i < 300; i++) { /* the same but for one more field */
        const char *end = strrchr((char *)json.data, ']');
        uint64_t fp;
        ap_buf_clear(&variant);
        ap_buf_append(&variant, json.data, (size_t)(end - (char *)json.data));
        ap_buf_printf(&variant, ",{\"name\":\"x%d\",\"type\":\"int\",\"default\":0}%s", i, end);
        int rc = ap_schemas_learn(schemas, (char *)variant.data, variant.len, &fp, &err);
        ck_assert_int_eq(rc, learned < 256 ? 0 : AP_EINVAL); /* somebody's mistake: bounded */
        learned += rc == 0;
        ck_assert_int_eq(ap_schemas_learn(schemas, (char *)variant.data, variant.len, &fp, &err), rc); /* again is fine */
    }
    stop = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    ap_buf_free(&newer_bytes);
    ap_buf_free(&variant);
    ap_buf_free(&json);
    release_foreign(&f);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("schema");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, fingerprints_are_those_of_others);
    tcase_add_test(tc, canonical_form);
    tcase_add_test(tc, files_never_change);
    tcase_add_test(tc, newest_is_found_by_name);
    tcase_add_test(tc, every_version_reads_every_other);
    tcase_add_test(tc, broken_rules_are_found);
    tcase_add_test(tc, an_older_version_is_read);
    tcase_add_test(tc, a_newer_version_is_read_once_its_schema_is_known);
    tcase_add_test(tc, defaults_of_every_type);
    tcase_add_test(tc, hostile_schemas_are_refused);
    tcase_add_test(tc, schemas_are_bounded);
    tcase_add_test(tc, counts_and_lengths_are_bounded_before_memory_is_taken);
    tcase_add_test(tc, readers_go_on_while_schemas_are_learned);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
