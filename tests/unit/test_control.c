/* Control records: every kind comes back, and what breaks a rule is refused in both directions. */
#include <check.h>
#include <stdlib.h>
#include "common/avro_field.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/schema.h"
#include "rnd.h"
#include "run.h"

static struct ap_schemas *schemas;
static uint8_t chunk[] = { 1, 2, 3 };
static struct ap_position cut[] = { { .stream = 0x71, .topic = "vec-mutations", .partition = 1, .mark = 8, .lineage = 0x70 },
                                    { .stream = UINT64_MAX, .topic = "vec-others", .mark = INT64_MAX, .finished = true } };

static void setup(void)
{
    struct ap_err err;
    if (ap_schemas_new(&schemas, &err))
        ck_abort_msg("%s", err.msg);
}

static void teardown(void)
{
    ap_schemas_free(&schemas);
}

/* A valid record of each kind; the texts are literals, so not for ap_control_fini. */
static struct ap_control sample(enum ap_control_kind kind)
{
    struct ap_control c = { .kind = kind, .version = { 42, { "eu" }, UINT64_C(1) << 63 | 5 } };
    switch (kind) {
    case AP_CONTROL_COLLECTION:
        c.u.collection = (struct ap_control_collection){ .name = (char *)"wiki", .generation = 2, .dim = 384, .distance = AP_DOT,
            .codec_factory = (char *)"PQ96", .raw_home = true, .topic = (char *)"vec-mutations", .vector_name = (char *)"" };
        break;
    case AP_CONTROL_CODEC:
        c.u.codec = (struct ap_control_codec){ .codec = UINT64_C(0xfedcba9876543210), .factory = (char *)"OPQ48,PQ48", .dim = 384,
            .chunk = 1, .chunks = 2, .bytes = chunk, .len = sizeof chunk };
        ap_put_be64(c.u.codec.hash, c.u.codec.codec);
        break;
    case AP_CONTROL_CODEC_USE:
        c.u.codec_use = (struct ap_control_codec_use){ 0x11, 0x22 };
        break;
    case AP_CONTROL_INCARNATION:
        c.u.incarnation = (struct ap_control_incarnation){ 7, UINT64_MAX, 6, 5, (char *)"producer-1" };
        break;
    case AP_CONTROL_REGION:
        c.u.region = (struct ap_control_region){ 9, AP_REGION_RETIRED };
        break;
    case AP_CONTROL_SCHEMA:
        c.u.schema = (struct ap_control_schema){ UINT64_C(0x8000000000000001), (char *)"\"int\"" };
        break;
    case AP_CONTROL_INDEX:
        c.u.index = (struct ap_control_index){ 0x33, (char *)"a.b[]", AP_FIELD_TEXT, (char *)"{\"tokenizer\":\"whitespace\"}", true };
        break;
    case AP_CONTROL_RETIREMENT:
        c.u.retirement = (struct ap_control_retirement){ { "us" }, UINT64_MAX, cut, 2 };
        break;
    case AP_CONTROL_LOSS:
        c.u.loss = (struct ap_control_loss){ { "us" }, 0x77, "vec-mutations", 3, 5, 9, true };
        break;
    }
    return c;
}

static int round_trip(const struct ap_control *c, struct ap_control *back, struct ap_err *err)
{
    struct ap_buf buf = {0};
    int rc = ap_control_encode(schemas, c, &buf, err);
    if (rc == 0)
        rc = ap_control_decode(schemas, buf.data, buf.len, back, err);
    ap_buf_free(&buf);
    return rc;
}

static const char *key_of(const struct ap_control *c)
{
    static struct ap_buf key;
    ap_buf_clear(&key);
    ap_control_key(c, &key);
    ap_buf_append(&key, "", 1);
    return (const char *)key.data;
}

START_TEST(every_kind_comes_back)
{
    static const char *const keys[] = { "collection/wiki", "codec/fedcba9876543210/1", "codec-use/0000000000000011",
                                        "incarnation/0000000000000007", "region/eu", "schema/8000000000000001", NULL,
                                        "index/0000000000000033/a.b[]", "retired/us/ffffffffffffffff", "loss/0000000000000077/vec-mutations/3/5" };
    for (int kind = AP_CONTROL_COLLECTION; kind <= AP_CONTROL_LOSS; kind++) {
        if (kind == AP_CONTROL_SCHEMA + 1)
            continue;
        struct ap_control c = sample((enum ap_control_kind)kind), b;
        struct ap_err err;
        ck_assert_msg(round_trip(&c, &b, &err) == 0, "%s", err.msg);
        ck_assert(b.kind == c.kind && ap_version_compare(&b.version, &c.version) == 0);
        ck_assert_str_eq(key_of(&b), keys[kind]);
        switch (b.kind) {
        case AP_CONTROL_COLLECTION:
            ck_assert_str_eq(b.u.collection.name, "wiki");
            ck_assert_str_eq(b.u.collection.codec_factory, "PQ96");
            ck_assert_str_eq(b.u.collection.topic, "vec-mutations");
            ck_assert_str_eq(b.u.collection.vector_name, "");
            ck_assert(b.u.collection.generation == 2 && !b.u.collection.deleted && b.u.collection.dim == 384 &&
                      b.u.collection.distance == AP_DOT && b.u.collection.raw_home);
            break;
        case AP_CONTROL_CODEC:
            ck_assert_str_eq(b.u.codec.factory, "OPQ48,PQ48");
            ck_assert(b.u.codec.codec == c.u.codec.codec && b.u.codec.dim == 384 && b.u.codec.chunk == 1 && b.u.codec.chunks == 2 && b.u.codec.len == 3);
            ck_assert_mem_eq(b.u.codec.bytes, chunk, 3);
            ck_assert_mem_eq(b.u.codec.hash, c.u.codec.hash, 32);
            break;
        case AP_CONTROL_CODEC_USE:
            ck_assert(b.u.codec_use.collection == 0x11 && b.u.codec_use.codec == 0x22);
            break;
        case AP_CONTROL_INCARNATION:
            ck_assert(b.u.incarnation.incarnation == 7 && b.u.incarnation.region_incarnation == UINT64_MAX && b.u.incarnation.predecessor == 6 && b.u.incarnation.lineage == 5);
            ck_assert_str_eq(b.u.incarnation.instance, "producer-1");
            break;
        case AP_CONTROL_REGION:
            ck_assert(b.u.region.region_incarnation == 9 && b.u.region.state == AP_REGION_RETIRED);
            break;
        case AP_CONTROL_SCHEMA:
            ck_assert(b.u.schema.fingerprint == c.u.schema.fingerprint);
            ck_assert_str_eq(b.u.schema.json, "\"int\"");
            break;
        case AP_CONTROL_INDEX:
            ck_assert_str_eq(b.u.index.field, "a.b[]");
            ck_assert_str_eq(b.u.index.options, c.u.index.options);
            ck_assert(b.u.index.collection == 0x33 && b.u.index.type == AP_FIELD_TEXT && b.u.index.removed);
            break;
        case AP_CONTROL_RETIREMENT:
            ck_assert(b.u.retirement.region_incarnation == UINT64_MAX && b.u.retirement.count == 2);
            ck_assert_str_eq(b.u.retirement.region.name, "us");
            for (size_t i = 0; i < 2; i++) {
                const struct ap_position *p = &b.u.retirement.cut[i];
                ck_assert(p->stream == cut[i].stream && p->partition == cut[i].partition && p->mark == cut[i].mark && p->lineage == cut[i].lineage && p->finished == cut[i].finished);
                ck_assert_str_eq(p->topic, cut[i].topic);
                ck_assert_str_eq(p->region.name, "us");
            }
            break;
        case AP_CONTROL_LOSS:
            ck_assert(b.u.loss.stream == 0x77 && b.u.loss.partition == 3 && b.u.loss.first == 5 && b.u.loss.last == 9 && b.u.loss.proven);
            ck_assert_str_eq(b.u.loss.origin.name, "us");
            ck_assert_str_eq(b.u.loss.topic, "vec-mutations");
            break;
        }
        ap_control_fini(&b);
        ap_control_fini(&b); /* twice is fine */
    }
}
END_TEST

START_TEST(absent_is_not_empty)
{
    struct ap_control c = sample(AP_CONTROL_COLLECTION), b;
    c.u.collection.vector_name = NULL;
    c.u.collection.deleted = true;
    ck_assert_int_eq(round_trip(&c, &b, NULL), 0);
    ck_assert(b.u.collection.vector_name == NULL && b.u.collection.deleted);
    ap_control_fini(&b);
    c = sample(AP_CONTROL_INCARNATION);
    c.u.incarnation.predecessor = 0;
    ck_assert_int_eq(round_trip(&c, &b, NULL), 0);
    ck_assert(b.u.incarnation.predecessor == 0);
    ap_control_fini(&b);
}
END_TEST

static void refused(const struct ap_control *c, const char *why)
{
    struct ap_buf buf = {0};
    struct ap_err err = { .msg = "" };
    ck_assert_int_eq(ap_control_encode(schemas, c, &buf, &err), AP_ECORRUPT);
    ck_assert_int_eq(err.cls, AP_POISON);
    ck_assert_msg(strstr(err.msg, why), "'%s' instead of '%s'", err.msg, why);
    ck_assert_uint_eq(buf.len, 0);
}

#define REFUSED(KIND, change, why) do { struct ap_control c = sample(KIND); change; refused(&c, why); } while (0)

START_TEST(broken_rules_are_refused)
{
    char long_text[300];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    REFUSED(AP_CONTROL_REGION, c.version.hlc = AP_HLC_MAX + 1, "version");
    REFUSED(AP_CONTROL_REGION, c.version.writer = 0, "version");
    REFUSED(AP_CONTROL_REGION, c.u.region.state = (enum ap_region_state)3, "state");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.name = (char *)"a/b", "name of a collection");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.name = long_text, "name of a collection");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.generation = 0, "generation");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.dim = 0, "dimensions");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.dim = 65537, "dimensions");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.distance = (enum ap_distance)3, "distance");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.codec_factory = (char *)"", "codec");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.topic = (char *)"mutations", "topic");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.topic = (char *)"vec-", "topic");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.topic = (char *)"vec-a.b", "topic");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.topic = (char *)"vec-control", "topic");
    REFUSED(AP_CONTROL_COLLECTION, c.u.collection.vector_name = long_text, "name of a vector");
    REFUSED(AP_CONTROL_CODEC, c.u.codec.codec ^= 1, "hash");
    REFUSED(AP_CONTROL_CODEC, c.u.codec.chunk = 2, "chunk");
    REFUSED(AP_CONTROL_CODEC, c.u.codec.chunks = 4097, "chunk");
    REFUSED(AP_CONTROL_CODEC, c.u.codec.len = 0, "chunk");
    REFUSED(AP_CONTROL_CODEC, c.u.codec.len = AP_CODEC_CHUNK_BYTES + 1, "chunk");
    REFUSED(AP_CONTROL_CODEC, c.u.codec.dim = 0, "dimensions");
    REFUSED(AP_CONTROL_INCARNATION, c.u.incarnation.incarnation = 0, "incarnation");
    REFUSED(AP_CONTROL_INCARNATION, c.u.incarnation.instance = (char *)"", "instance");
    REFUSED(AP_CONTROL_SCHEMA, c.u.schema.json = (char *)"", "schema");
    REFUSED(AP_CONTROL_RETIREMENT, c.u.retirement.region_incarnation = 0, "incarnation");
    REFUSED(AP_CONTROL_RETIREMENT, c.u.retirement.count = 16385, "too many");
    REFUSED(AP_CONTROL_LOSS, c.u.loss.first = 0, "loss");
    REFUSED(AP_CONTROL_LOSS, c.u.loss.first = 10, "loss");
    REFUSED(AP_CONTROL_LOSS, c.u.loss.stream = 0, "loss");
    REFUSED(AP_CONTROL_LOSS, c.u.loss.topic[3] = '.', "loss");
}
END_TEST

/* Change a field of an encoded record behind the encoder's back. */
static int decode_changed(enum ap_control_kind kind, void (*change)(avro_value_t *), struct ap_err *err)
{
    struct ap_control c = sample(kind), back;
    struct ap_buf buf = {0}, changed = {0};
    avro_value_t v;
    ck_assert_int_eq(ap_control_encode(schemas, &c, &buf, err), 0);
    ck_assert_int_eq(ap_schema_read(schemas, "Control", buf.data, buf.len, &v, err), 0);
    change(&v);
    ck_assert_int_eq(ap_schema_write(schemas, "Control", &v, &changed, err), 0);
    avro_value_decref(&v);
    int rc = ap_control_decode(schemas, changed.data, changed.len, &back, err);
    if (rc == 0)
        ap_control_fini(&back);
    ap_buf_free(&buf);
    ap_buf_free(&changed);
    return rc;
}

static void nothing(avro_value_t *v) { (void)v; }
static void newer_kind(avro_value_t *v) { ap_avro_set_enum(v, "kind", 6); }
static void other_kind(avro_value_t *v) { ap_avro_set_enum(v, "kind", AP_CONTROL_SCHEMA); }
static void bad_region(avro_value_t *v) { ap_avro_set_string(v, "region", "e.u"); }
static void newer_distance(avro_value_t *v)
{
    avro_value_t branch;
    ck_assert(ap_avro_optional(v, "collection", &branch));
    ap_avro_set_enum(&branch, "distance", 3);
}
static void newer_state(avro_value_t *v)
{
    avro_value_t branch;
    ck_assert(ap_avro_optional(v, "region_state", &branch));
    ap_avro_set_enum(&branch, "state", 3);
}
static void newer_type(avro_value_t *v)
{
    avro_value_t branch;
    ck_assert(ap_avro_optional(v, "index", &branch));
    ap_avro_set_enum(&branch, "type", 7);
}
static void negative_dim(avro_value_t *v)
{
    avro_value_t branch;
    ck_assert(ap_avro_optional(v, "collection", &branch));
    ap_avro_set_int(&branch, "dim", -1);
}
static void nul_in_name(avro_value_t *v)
{
    avro_value_t branch, name;
    ck_assert(ap_avro_optional(v, "collection", &branch));
    name = ap_avro_field(&branch, "name");
    avro_value_set_string_len(&name, (char *)(uintptr_t)"wi\0ki", 6);
}

START_TEST(what_is_read_is_checked)
{
    struct ap_err err;
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, nothing, &err), 0);
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, newer_kind, &err), AP_EUNSUPPORTED);
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, other_kind, &err), AP_ECORRUPT);
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, bad_region, &err), AP_ECORRUPT);
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, negative_dim, &err), AP_ECORRUPT);
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, nul_in_name, &err), AP_ECORRUPT);
    ck_assert_int_eq(decode_changed(AP_CONTROL_COLLECTION, newer_distance, &err), AP_ESCHEMA);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_int_eq(decode_changed(AP_CONTROL_REGION, newer_state, &err), AP_ESCHEMA);
    ck_assert_int_eq(decode_changed(AP_CONTROL_INDEX, newer_type, &err), AP_EUNSUPPORTED);
}
END_TEST

/* Whoever knows a kind can read it; what newer records are read by, the oldest reader. */
START_TEST(records_are_written_in_the_oldest_version_that_has_them)
{
    struct ap_err err;
    for (int kind = AP_CONTROL_COLLECTION; kind <= AP_CONTROL_LOSS; kind++) {
        if (kind == AP_CONTROL_SCHEMA + 1)
            continue;
        struct ap_control c = sample((enum ap_control_kind)kind);
        struct ap_buf buf = {0};
        ck_assert_int_eq(ap_control_encode(schemas, &c, &buf, &err), 0);
        int version = kind <= AP_CONTROL_SCHEMA ? 1 : kind == AP_CONTROL_INDEX ? 2 : 3;
        ck_assert(ap_le64(buf.data + 2) == ap_schema_version(schemas, "Control", version)->fingerprint);
        ap_buf_free(&buf);
    }
}
END_TEST

START_TEST(damage_is_refused_or_harmless)
{
    struct ap_control back;
    struct ap_err err;
    for (int kind = AP_CONTROL_COLLECTION; kind <= AP_CONTROL_LOSS; kind++) {
        if (kind == AP_CONTROL_SCHEMA + 1)
            continue;
        struct ap_control c = sample((enum ap_control_kind)kind);
        struct ap_buf buf = {0};
        ck_assert_int_eq(ap_control_encode(schemas, &c, &buf, &err), 0);
        for (size_t len = 0; len < buf.len; len++) {
            uint8_t *exact = malloc(len ? len : 1);
            memcpy(exact, buf.data, len);
            ck_assert_int_lt(ap_control_decode(schemas, exact, len, &back, &err), 0);
            free(exact);
        }
        for (size_t bit = 0; bit < buf.len * 8; bit++) {
            buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
            if (ap_control_decode(schemas, buf.data, buf.len, &back, &err) == 0)
                ap_control_fini(&back);
            buf.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        ap_buf_free(&buf);
    }
}
END_TEST

/* Rule 7 of schemas/README.md: newer schemas are announced in the oldest form, or nobody older could learn them. */
START_TEST(schemas_are_announced_in_version_1)
{
    struct ap_control c = sample(AP_CONTROL_SCHEMA);
    struct ap_buf buf = {0};
    ck_assert_int_eq(ap_control_encode(schemas, &c, &buf, NULL), 0);
    ck_assert(ap_le64(buf.data + 2) == UINT64_C(0x173ca3d50b308353));
    ap_buf_free(&buf);
}
END_TEST

START_TEST(distances_have_names)
{
    for (int i = AP_COSINE; i <= AP_DOT; i++) {
        enum ap_distance d = AP_COSINE;
        ck_assert_int_eq(ap_distance_parse(ap_distance_name((enum ap_distance)i), &d), 0);
        ck_assert_int_eq(d, i);
        ck_assert_int_eq(ap_distance_parse("Manhattan", &d), AP_EINVAL);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("control");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, every_kind_comes_back);
    tcase_add_test(tc, absent_is_not_empty);
    tcase_add_test(tc, broken_rules_are_refused);
    tcase_add_test(tc, what_is_read_is_checked);
    tcase_add_test(tc, records_are_written_in_the_oldest_version_that_has_them);
    tcase_add_test(tc, damage_is_refused_or_harmless);
    tcase_add_test(tc, schemas_are_announced_in_version_1);
    tcase_add_test(tc, distances_have_names);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
