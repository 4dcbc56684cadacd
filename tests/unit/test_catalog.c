/* The catalog: the same from every order of the same records, and the rules of who wins. */
#include <check.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdlib.h>
#include "common/catalog.h"
#include "common/schema.h"
#include "rnd.h"
#include "run.h"

static struct ap_schemas *schemas;
static const struct ap_region regions[] = { { "eu" }, { "us" }, { "ap" } };

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

/* A record as it stands in a topic. */
struct record { struct ap_region origin; struct ap_buf key, value; };

static struct record encode(const struct ap_control *c)
{
    struct record r = { .origin = c->version.region };
    struct ap_err err;
    ck_assert_msg(ap_control_encode(schemas, c, &r.value, &err) == 0, "%s", err.msg);
    ap_control_key(c, &r.key);
    return r;
}

static int apply(struct ap_catalog *catalog, const struct record *r)
{
    struct ap_err err = { .msg = "" };
    int rc = ap_catalog_apply(catalog, &r->origin, r->key.data, r->key.len, r->value.data, r->value.len, &err);
    ck_assert_msg(rc == 0 || rc == 1, "%s", err.msg);
    return rc;
}

static int say(struct ap_catalog *catalog, const struct ap_control *c)
{
    struct record r = encode(c);
    int rc = apply(catalog, &r);
    ap_buf_free(&r.key);
    ap_buf_free(&r.value);
    return rc;
}

static struct ap_control said(enum ap_control_kind kind, uint64_t hlc, const char *region)
{
    struct ap_control c = { .kind = kind, .version = { hlc, { "" }, 7 } };
    strcpy(c.version.region.name, region);
    return c;
}

static struct ap_control collection(uint64_t hlc, const char *region, const char *name, uint64_t generation, bool deleted, uint32_t dim)
{
    struct ap_control c = said(AP_CONTROL_COLLECTION, hlc, region);
    c.u.collection = (struct ap_control_collection){ .name = (char *)(uintptr_t)name, .generation = generation, .deleted = deleted, .dim = dim,
                                                     .codec_factory = (char *)"PQ96", .topic = (char *)"vec-mutations" };
    return c;
}

START_TEST(collections)
{
    struct ap_catalog *cat = ap_catalog_new(schemas);
    ck_assert_ptr_null(ap_catalog_collection(cat, "wiki"));
    struct ap_control c = collection(20, "us", "wiki", 1, false, 100);
    ck_assert_int_eq(say(cat, &c), 1);
    ck_assert_int_eq(say(cat, &c), 0); /* again */
    const struct ap_collection *w = ap_catalog_collection(cat, "wiki");
    ck_assert(w->live && w->params.dim == 100 && w->id == ap_collection_id("wiki", 1));

    c = collection(10, "eu", "wiki", 1, false, 200); /* made at once: the older counts */
    ck_assert_int_eq(say(cat, &c), 1);
    ck_assert(ap_catalog_collection(cat, "wiki")->params.dim == 200);
    c = collection(30, "ap", "wiki", 1, false, 300);
    ck_assert_int_eq(say(cat, &c), 0);

    c = collection(35, "ap", "wiki", 1, true, 300); /* a deletion beats a creation, however young */
    ck_assert_int_eq(say(cat, &c), 1);
    w = ap_catalog_collection(cat, "wiki");
    ck_assert(!w->live && w->params.deleted && w->version.hlc == 35);
    c = collection(5, "eu", "wiki", 1, false, 300); /* and however old is the creation */
    ck_assert_int_eq(say(cat, &c), 0);

    c = collection(40, "eu", "wiki", 2, false, 400); /* and the next generation begins */
    ck_assert_int_eq(say(cat, &c), 1);
    w = ap_catalog_collection(cat, "wiki");
    ck_assert(w->live && w->params.dim == 400 && w->params.generation == 2);
    w = ap_catalog_collection_by_id(cat, ap_collection_id("wiki", 1));
    ck_assert(w && !w->live && w->params.generation == 1);
    ck_assert_ptr_null(ap_catalog_collection_by_id(cat, 1));
    ck_assert(ap_catalog_newest_hlc(cat) == 40);

    c = collection(50, "eu", "alpha", 1, false, 1);
    say(cat, &c);
    const struct ap_collection *all[2] = { NULL, NULL };
    ck_assert_uint_eq(ap_catalog_collections(cat, all, 1), 2);
    ck_assert_ptr_null(all[1]);
    ap_catalog_collections(cat, all, 2);
    ck_assert_str_eq(all[0]->params.name, "alpha");
    ck_assert_str_eq(all[1]->params.name, "wiki");

    /* a generation that never lived here does not hide the one that does */
    c = collection(60, "us", "wiki", 1, false, 1);
    say(cat, &c);
    ck_assert(ap_catalog_collection(cat, "wiki")->params.generation == 2 && ap_catalog_collection(cat, "wiki")->live);
    ap_catalog_free(&cat);
    ck_assert_ptr_null(cat);
    ap_catalog_free(&cat);
}
END_TEST

/* A codec of this many chunks; content depends on tag only. */
static struct ap_control codec_chunk(uint64_t hlc, const char *region, uint8_t tag, uint32_t chunk, uint32_t chunks, uint8_t *bytes)
{
    uint8_t blob[64], hash[32];
    struct ap_control c = said(AP_CONTROL_CODEC, hlc, region);
    memset(blob, tag, sizeof blob);
    for (uint32_t i = 0; i < chunks; i++)
        blob[i * 8] = (uint8_t)i;
    crypto_generichash(hash, sizeof hash, blob, chunks * 8, NULL, 0);
    memcpy(bytes, blob + chunk * 8, 8);
    c.u.codec = (struct ap_control_codec){ .codec = ap_be64(hash), .factory = (char *)"PQ2", .dim = 4, .chunk = chunk, .chunks = chunks, .bytes = bytes, .len = 8 };
    memcpy(c.u.codec.hash, hash, sizeof hash);
    return c;
}

START_TEST(codecs_are_whole_and_checked)
{
    struct ap_catalog *cat = ap_catalog_new(schemas);
    struct ap_codec_blob blob;
    uint8_t bytes[8];
    for (uint32_t i = 3; i-- > 0;) {
        struct ap_control c = codec_chunk(10 + i, "eu", 0xaa, i, 3, bytes);
        ck_assert(!ap_catalog_codec(cat, c.u.codec.codec, &blob));
        ck_assert_int_eq(say(cat, &c), 1);
        ck_assert_int_eq(say(cat, &c), 0);
        ck_assert_int_eq(ap_catalog_codec(cat, c.u.codec.codec, &blob), i == 0);
    }
    ck_assert(blob.len == 24 && blob.dim == 4 && blob.bytes[8] == 1 && blob.bytes[16] == 2 && blob.bytes[23] == 0xaa);
    ck_assert_str_eq(blob.factory, "PQ2");

    /* one chunk of another codec under this one's name: as it comes later, it counts, and the hash finds it out */
    struct ap_control bad = codec_chunk(50, "eu", 0xaa, 1, 3, bytes);
    bytes[5] ^= 1;
    ck_assert_int_eq(say(cat, &bad), 1);
    ck_assert(!ap_catalog_codec(cat, bad.u.codec.codec, &blob));
    /* the same codec from another region is not touched by that */
    for (uint32_t i = 0; i < 3; i++) {
        struct ap_control c = codec_chunk(20 + i, "us", 0xaa, i, 3, bytes);
        say(cat, &c);
    }
    ck_assert(ap_catalog_codec(cat, bad.u.codec.codec, &blob));
    /* and the region may mend its own */
    struct ap_control good = codec_chunk(60, "eu", 0xaa, 1, 3, bytes);
    ck_assert_int_eq(say(cat, &good), 1);
    ck_assert(ap_catalog_codec(cat, bad.u.codec.codec, &blob));

    /* chunks that disagree about how many there are */
    struct ap_control lone = codec_chunk(10, "eu", 0xbb, 0, 1, bytes);
    say(cat, &lone);
    ck_assert(ap_catalog_codec(cat, lone.u.codec.codec, &blob) && blob.len == 8);
    ap_catalog_free(&cat);
}
END_TEST

static struct ap_control use(uint64_t hlc, const char *region, uint64_t id, uint64_t codec)
{
    struct ap_control c = said(AP_CONTROL_CODEC_USE, hlc, region);
    c.u.codec_use = (struct ap_control_codec_use){ id, codec };
    return c;
}

START_TEST(codec_uses)
{
    struct ap_catalog *cat = ap_catalog_new(schemas);
    ck_assert(ap_catalog_codec_use(cat, 1, &regions[0]) == 0);
    struct ap_control c = use(20, "us", 1, 0x20);
    ck_assert_int_eq(say(cat, &c), 1);
    ck_assert(ap_catalog_codec_use(cat, 1, &regions[0]) == 0x20); /* somebody else's is better than none */
    c = use(30, "ap", 1, 0x10);
    say(cat, &c);
    ck_assert(ap_catalog_codec_use(cat, 1, &regions[0]) == 0x20); /* the oldest, so that all choose alike */
    c = use(10, "ap", 3, 0x10);
    say(cat, &c);
    c = use(5, "us", 3, 0x5);
    say(cat, &c);
    ck_assert(ap_catalog_codec_use(cat, 3, &regions[0]) == 0x5 && ap_catalog_codec_use(cat, 3, &regions[2]) == 0x10);
    ck_assert(ap_catalog_codec_use(cat, 1, &regions[1]) == 0x20); /* its own */
    c = use(30, "us", 1, 0x30);
    say(cat, &c);
    ck_assert(ap_catalog_codec_use(cat, 1, &regions[1]) == 0x30); /* its own newest */
    c = use(25, "us", 1, 0x25);
    ck_assert_int_eq(say(cat, &c), 0);
    c = use(5, "eu", 2, 0x99);
    say(cat, &c);
    ck_assert(ap_catalog_codec_use(cat, 1, &regions[0]) == 0x10 && ap_catalog_codec_use(cat, 2, &regions[1]) == 0x99);
    ap_catalog_free(&cat);
}
END_TEST

static struct ap_control incarnation(uint64_t hlc, const char *region, uint64_t number, const char *instance)
{
    struct ap_control c = said(AP_CONTROL_INCARNATION, hlc, region);
    c.u.incarnation = (struct ap_control_incarnation){ number, 1, number - 1, 3, (char *)(uintptr_t)instance };
    return c;
}

static struct ap_control region_says(uint64_t hlc, const char *region, enum ap_region_state state)
{
    struct ap_control c = said(AP_CONTROL_REGION, hlc, region);
    c.u.region = (struct ap_control_region){ hlc, state };
    return c;
}

START_TEST(incarnations_and_regions)
{
    struct ap_catalog *cat = ap_catalog_new(schemas);
    ck_assert_ptr_null(ap_catalog_instance(cat, &regions[0], "p1"));
    struct ap_control c = incarnation(10, "eu", 100, "p1");
    ck_assert_int_eq(say(cat, &c), 1);
    c = incarnation(30, "eu", 90, "p1"); /* the clock went back: what was said later is newer */
    say(cat, &c);
    c = incarnation(40, "us", 500, "p1");
    say(cat, &c);
    c = incarnation(50, "eu", 600, "p2");
    say(cat, &c);
    ck_assert(ap_catalog_instance(cat, &regions[0], "p1")->incarnation == 90);
    const struct ap_incarnation_info *i = ap_catalog_incarnation(cat, 500);
    ck_assert(i && i->predecessor == 499 && i->lineage == 3 && i->region_incarnation == 1 && memcmp(&i->region, &regions[1], 16) == 0);
    ck_assert_str_eq(i->instance, "p1");
    ck_assert_ptr_null(ap_catalog_incarnation(cat, 501));

    ck_assert_ptr_null(ap_catalog_region(cat, &regions[0]));
    c = region_says(20, "eu", AP_REGION_RETIRED);
    say(cat, &c);
    c = region_says(10, "eu", AP_REGION_ACTIVE);
    ck_assert_int_eq(say(cat, &c), 0);
    ck_assert_int_eq(ap_catalog_region(cat, &regions[0])->state, AP_REGION_RETIRED);
    ck_assert(ap_catalog_region(cat, &regions[0])->region_incarnation == 20);
    ap_catalog_free(&cat);
}
END_TEST

/* The newest word about a field counts, whoever said it and whenever it came. */
START_TEST(indexes)
{
    struct ap_control said_of[4];
    static const struct { uint64_t hlc; const char *region; enum ap_field_type type; bool removed; } words[4] = {
        {10, "eu", AP_FIELD_KEYWORD, false}, {20, "us", AP_FIELD_INTEGER, false}, {30, "eu", AP_FIELD_INTEGER, true}, {40, "ap", AP_FIELD_FLOAT, false}};
    for (int i = 0; i < 4; i++) {
        said_of[i] = said(AP_CONTROL_INDEX, words[i].hlc, words[i].region);
        said_of[i].u.index = (struct ap_control_index){ .collection = 5, .field = (char *)"a", .type = words[i].type, .removed = words[i].removed };
    }
    const struct ap_control_index *found[4];
    for (int order = 0; order < 24; order++) {
        int left[4] = {0, 1, 2, 3}, newest = -1, pick = order;
        struct ap_catalog *cat = ap_catalog_new(schemas);
        for (int n = 4; n > 0; n--) {
            int at = pick % n, w = left[at];
            pick /= n;
            left[at] = left[n - 1];
            ck_assert_int_eq(say(cat, &said_of[w]), w > newest);
            newest = w > newest ? w : newest;
            ck_assert_uint_eq(ap_catalog_indexes(cat, 5, found, 4), !words[newest].removed);
            if (!words[newest].removed)
                ck_assert_int_eq(found[0]->type, words[newest].type);
        }
        said_of[0].u.index.field = (char *)"b";
        said_of[1].u.index.collection = 6;
        ck_assert_int_eq(say(cat, &said_of[0]), 1);
        ck_assert_int_eq(say(cat, &said_of[1]), 1);
        said_of[0].u.index.field = (char *)"a";
        said_of[1].u.index.collection = 5;
        ck_assert_uint_eq(ap_catalog_indexes(cat, 5, found, 4), 2);
        ck_assert_str_eq(found[1]->field, "b");
        ck_assert_uint_eq(ap_catalog_indexes(cat, 6, found, 0), 1);
        ck_assert_uint_eq(ap_catalog_indexes(cat, 7, NULL, 0), 0);
        ap_catalog_free(&cat);
    }
}
END_TEST

START_TEST(schemas_are_learned)
{
    struct ap_catalog *cat = ap_catalog_new(schemas);
    struct ap_err err;
    const char *json = "{\"type\":\"record\",\"name\":\"antipode.RawVector\",\"fields\":[{\"name\":\"hlc\",\"type\":\"long\"},{\"name\":\"region\",\"type\":\"string\"},"
                       "{\"name\":\"writer\",\"type\":\"long\"},{\"name\":\"vector\",\"type\":\"bytes\"},{\"name\":\"seq\",\"type\":\"long\"}]}";
    struct ap_control c = said(AP_CONTROL_SCHEMA, 10, "eu");
    c.u.schema = (struct ap_control_schema){ ap_schema_fingerprint_of_json(json, strlen(json), NULL), (char *)(uintptr_t)json };
    uint8_t value[] = { 0xc3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 'e', 'u', 2, 8, 1, 2, 3, 4, 14 };
    ap_put_le64(value + 2, c.u.schema.fingerprint);
    struct ap_raw_vector raw;
    struct ap_buf scratch = {0};
    ck_assert_int_eq(ap_raw_vector_decode(schemas, value, sizeof value, &raw, &scratch, &err), AP_ESCHEMA);
    ck_assert_int_eq(say(cat, &c), 1);
    ck_assert_int_eq(say(cat, &c), 0);
    ck_assert_msg(ap_raw_vector_decode(schemas, value, sizeof value, &raw, &scratch, &err) == 0, "%s", err.msg);
    ck_assert(raw.seq == 7 && raw.stream == 1 && raw.vector_len == 4 && raw.vector[3] == 4);

    c.u.schema.fingerprint ^= 1; /* a fingerprint that is not the text's */
    struct record r = encode(&c);
    ck_assert_int_eq(ap_catalog_apply(cat, &r.origin, r.key.data, r.key.len, r.value.data, r.value.len, &err), AP_EINVAL);
    ap_buf_free(&r.key);
    ap_buf_free(&r.value);
    c.u.schema = (struct ap_control_schema){ ap_schema_fingerprint_of_json("\"int\"", 5, NULL), (char *)"\"int\"" };
    ck_assert_int_eq(say(cat, &c), 0); /* of nothing that we have */
    ap_buf_free(&scratch);
    ap_catalog_free(&cat);
}
END_TEST

START_TEST(records_that_do_not_fit_are_refused)
{
    struct ap_catalog *cat = ap_catalog_new(schemas);
    struct ap_control c = collection(10, "eu", "wiki", 1, false, 10);
    struct record r = encode(&c);
    struct ap_err err;
    ck_assert_int_eq(ap_catalog_apply(cat, &regions[1], r.key.data, r.key.len, r.value.data, r.value.len, &err), AP_EINVAL);
    ck_assert_int_eq(err.cls, AP_POISON);
    ck_assert_int_eq(ap_catalog_apply(cat, &r.origin, r.key.data, r.key.len - 1, r.value.data, r.value.len, &err), AP_EINVAL);
    ck_assert_int_eq(ap_catalog_apply(cat, &r.origin, NULL, 0, r.value.data, r.value.len, &err), AP_EINVAL);
    ck_assert_int_eq(ap_catalog_apply(cat, &r.origin, r.key.data, r.key.len, r.value.data, r.value.len - 1, &err), AP_ECORRUPT);
    ck_assert_int_eq(ap_catalog_apply(cat, &r.origin, r.key.data, r.key.len, NULL, 0, &err), 0); /* Kafka's tombstone */
    ck_assert_ptr_null(ap_catalog_collection(cat, "wiki"));
    ck_assert(ap_catalog_newest_hlc(cat) == 0);
    ap_buf_free(&r.key);
    ap_buf_free(&r.value);
    ap_catalog_free(&cat);
}
END_TEST

/* ---- order ---- */

#define RECORDS 120
static const char *const names[] = { "a", "b" };

static struct record rnd_record(void)
{
    static uint8_t bytes[8];
    const char *region = regions[rnd_below(3)].name;
    uint64_t hlc = 1 + rnd_below(6); /* equal versions of different records come up as well */
    struct ap_control c;
    switch (rnd_below(5)) {
    case 0:
        c = collection(hlc, region, names[rnd_below(2)], 1 + rnd_below(3), rnd_below(3) == 0, 1 + (uint32_t)rnd_below(100));
        break;
    case 1:
        c = codec_chunk(hlc, region, (uint8_t)rnd_below(2), (uint32_t)rnd_below(2), 2, bytes);
        if (rnd_below(4) == 0)
            bytes[3] ^= 1;
        break;
    case 2:
        c = use(hlc, region, 1 + rnd_below(2), 1 + rnd_below(5));
        break;
    case 3:
        c = incarnation(hlc, region, 1 + rnd_below(5), rnd_below(2) ? "p1" : "p2");
        break;
    default:
        c = region_says(hlc, region, (enum ap_region_state)rnd_below(3));
        break;
    }
    return encode(&c);
}

/* All that can be asked, as text. */
static void describe(const struct ap_catalog *cat, struct ap_buf *out)
{
    const struct ap_collection *all[8];
    uint8_t bytes[8];
    ap_buf_printf(out, "newest %" PRIu64 "\n", ap_catalog_newest_hlc(cat));
    size_t count = ap_catalog_collections(cat, all, 8);
    for (size_t i = 0; i < count; i++)
        ap_buf_printf(out, "%s generation %" PRIu64 "\n", all[i]->params.name, all[i]->params.generation);
    for (size_t n = 0; n < 2; n++) {
        for (uint64_t g = 1; g <= 3; g++) {
            const struct ap_collection *c = ap_catalog_collection_by_id(cat, ap_collection_id(names[n], g));
            if (c)
                ap_buf_printf(out, "%s/%" PRIu64 " live %d dim %u version %" PRIu64 " %s\n", names[n], g, c->live, c->params.dim, c->version.hlc, c->version.region.name);
        }
        const struct ap_incarnation_info *p;
        for (size_t r = 0; r < 3; r++)
            if ((p = ap_catalog_instance(cat, &regions[r], n ? "p1" : "p2")))
                ap_buf_printf(out, "instance %s %zu is %" PRIu64 "\n", regions[r].name, n, p->incarnation);
        struct ap_codec_blob blob;
        struct ap_control c = codec_chunk(1, "eu", (uint8_t)n, 0, 2, bytes);
        if (ap_catalog_codec(cat, c.u.codec.codec, &blob))
            ap_buf_printf(out, "codec %zu of %zu\n", n, blob.len);
    }
    for (uint64_t i = 1; i <= 5; i++) {
        const struct ap_incarnation_info *p = ap_catalog_incarnation(cat, i);
        if (p)
            ap_buf_printf(out, "incarnation %" PRIu64 " %s %s\n", i, p->region.name, p->instance);
    }
    for (size_t r = 0; r < 3; r++) {
        const struct ap_region_info *info = ap_catalog_region(cat, &regions[r]);
        if (info)
            ap_buf_printf(out, "region %s %d %" PRIu64 "\n", regions[r].name, (int)info->state, info->region_incarnation);
        for (uint64_t id = 1; id <= 2; id++)
            ap_buf_printf(out, "use %s %" PRIu64 " %" PRIu64 "\n", regions[r].name, id, ap_catalog_codec_use(cat, id, &regions[r]));
    }
    ap_buf_append(out, "", 1);
}

START_TEST(order_leaves_no_trace)
{
    rnd_seed("order_leaves_no_trace");
    for (int round = 0; round < 20; round++) {
        struct record records[RECORDS];
        struct ap_buf expected = {0}, got = {0};
        size_t count = 5 + rnd_below(RECORDS - 5);
        for (size_t i = 0; i < count; i++)
            records[i] = rnd_record();
        for (int order = 0; order < 20; order++) {
            struct ap_catalog *cat = ap_catalog_new(schemas);
            for (size_t i = count - 1; i > 0; i--) {
                size_t j = rnd_below(i + 1);
                struct record swap = records[i];
                records[i] = records[j];
                records[j] = swap;
            }
            for (size_t i = 0; i < count; i++) {
                apply(cat, &records[i]);
                if (rnd_below(4) == 0)
                    ck_assert_int_eq(apply(cat, &records[rnd_below(i + 1)]), 0); /* seen before: changes nothing */
            }
            ap_buf_clear(&got);
            describe(cat, order == 0 ? &expected : &got);
            if (order > 0)
                ck_assert_str_eq((char *)got.data, (char *)expected.data);
            ap_catalog_free(&cat);
        }
        for (size_t i = 0; i < count; i++) {
            ap_buf_free(&records[i].key);
            ap_buf_free(&records[i].value);
        }
        ap_buf_free(&expected);
        ap_buf_free(&got);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("catalog");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, collections);
    tcase_add_test(tc, codecs_are_whole_and_checked);
    tcase_add_test(tc, codec_uses);
    tcase_add_test(tc, incarnations_and_regions);
    tcase_add_test(tc, indexes);
    tcase_add_test(tc, schemas_are_learned);
    tcase_add_test(tc, records_that_do_not_fit_are_refused);
    tcase_add_test(tc, order_leaves_no_trace);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
