/* Regions, point ids, collections, keys, incarnations. */
#include <check.h>
#include <stdlib.h>
#include "common/bytes.h"
#include "common/ident.h"
#include "common/timeutil.h"
#include "rnd.h"
#include "run.h"

static int region(const char *text)
{
    struct ap_region out;
    struct ap_err err;
    return ap_region_parse(text, strlen(text), &out, &err);
}

START_TEST(regions_have_no_dots_and_are_padded)
{
    struct ap_region r;
    memset(&r, 0xff, sizeof r);
    ck_assert_int_eq(ap_region_parse("eu-west1xx", 7, &r, NULL), 0);
    ck_assert_mem_eq(r.name, "eu-west\0\0\0\0\0\0\0\0\0", 16);
    ck_assert_int_eq(region("a"), 0);
    ck_assert_int_eq(region("a23456789012345"), 0);
    ck_assert_int_eq(region("a234567890123456"), AP_EINVAL);
    ck_assert_int_eq(region(""), AP_EINVAL);
    ck_assert_int_eq(region("1a"), AP_EINVAL);
    ck_assert_int_eq(region("-a"), AP_EINVAL);
    ck_assert_int_eq(region("eu.x"), AP_EINVAL);
    ck_assert_int_eq(region("Eu"), AP_EINVAL);
    ck_assert_int_eq(region("e_u"), AP_EINVAL);
    ck_assert_int_eq(ap_region_parse("e\0u", 3, &r, NULL), AP_EINVAL);
}
END_TEST

static const char *reprint(const char *text)
{
    static char out[AP_POINT_ID_TEXT];
    struct ap_point_id id;
    struct ap_err err;
    if (ap_point_id_parse(text, strlen(text), &id, &err)) {
        ck_assert_int_eq(err.code, AP_EINVAL);
        return err.msg[0] ? "refused" : "refused without a word";
    }
    ap_point_id_print(&id, out);
    return out;
}

START_TEST(point_ids_are_uuids_or_numbers)
{
    ck_assert_str_eq(reprint("f81d4fae-7dec-11d0-a765-00a0c91e6bf6"), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
    ck_assert_str_eq(reprint("F81D4FAE7DEC11D0A76500A0C91E6BF6"), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
    ck_assert_str_eq(reprint("0"), "0");
    ck_assert_str_eq(reprint("42"), "42");
    ck_assert_str_eq(reprint("18446744073709551615"), "18446744073709551615");
    ck_assert_str_eq(reprint("18446744073709551616"), "refused");
    ck_assert_str_eq(reprint("99999999999999999999"), "refused");
    ck_assert_str_eq(reprint("000000000000000000042"), "refused");
    ck_assert_str_eq(reprint("-1"), "refused");
    ck_assert_str_eq(reprint("+1"), "refused");
    ck_assert_str_eq(reprint(""), "refused");
    ck_assert_str_eq(reprint("1.0"), "refused");
    ck_assert_str_eq(reprint("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"), "refused");
    ck_assert_str_eq(reprint("{f81d4fae-7dec-11d0-a765-00a0c91e6bf6}"), "refused");
    ck_assert_str_eq(reprint("f81d4fae-7dec-11d0-a765-00a0c91e6bfg"), "refused");
    ck_assert_str_eq(reprint("f81d4fae_7dec_11d0_a765_00a0c91e6bf6"), "refused");
    ck_assert_str_eq(reprint("f81d4fae7-dec-11d0-a765-00a0c91e6bf6"), "refused");
    ck_assert_str_eq(reprint("f81d4fae-7dec-11d0-a76500a0c91e6bf6"), "refused");
    /* 32 digits are a UUID, whatever the digits are */
    ck_assert_str_eq(reprint("12345678901234567890123456789012"), "12345678-9012-3456-7890-123456789012");
    /* and one that begins with eight zero bytes is the number that it holds */
    ck_assert_str_eq(reprint("00000000-0000-0000-0000-000000000007"), "7");
}
END_TEST

static int from_json(const char *text, struct ap_point_id *id)
{
    json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);
    ck_assert_ptr_nonnull(json);
    int rc = ap_point_id_from_json(json, id, NULL);
    json_decref(json);
    return rc;
}

START_TEST(point_ids_in_json)
{
    struct ap_point_id id, again;
    ck_assert_int_eq(from_json("7", &id), 0);
    ck_assert_uint_eq(ap_be64(id.b + 8), 7);
    ck_assert_int_eq(from_json("\"7\"", &id), AP_EINVAL);
    ck_assert_int_eq(from_json("\"f81d4fae7dec11d0a76500a0c91e6bf6\"", &id), 0);
    ck_assert_int_eq(from_json("-7", &id), AP_EINVAL);
    ck_assert_int_eq(from_json("7.0", &id), AP_EINVAL);
    ck_assert_int_eq(from_json("null", &id), AP_EINVAL);
    ck_assert_int_eq(from_json("[7]", &id), AP_EINVAL);

    rnd_seed("point_ids_in_json");
    for (int i = 0; i < 1000; i++) {
        if (i % 2)
            rnd_bytes(id.b, sizeof id.b);
        else
            ap_point_id_from_u64(rnd() >> rnd_below(64), &id); /* also above 2^63, which jansson cannot print */
        json_t *json = ap_point_id_to_json(&id);
        ck_assert_int_eq(ap_point_id_from_json(json, &again, NULL), 0);
        ck_assert_mem_eq(id.b, again.b, 16);
        json_decref(json);
        char text[AP_POINT_ID_TEXT];
        ap_point_id_print(&id, text);
        ck_assert_int_eq(ap_point_id_parse(text, strlen(text), &again, NULL), 0);
        ck_assert_mem_eq(id.b, again.b, 16);
    }
}
END_TEST

START_TEST(a_vector_names_itself)
{
    /* From Python: UUID(bytes=sha1(b"antipode" + collection + struct.pack("<3f", 1, -2.5, 0)).digest()[:16], version=5) */
    float vector[] = { 1.0F, -2.5F, 0.0F };
    struct ap_point_id id, other;
    char text[AP_POINT_ID_TEXT];
    ap_point_id_from_vector(0x0123456789abcdef, vector, 3, &id);
    ap_point_id_print(&id, text);
    ck_assert_str_eq(text, "60bedc29-2adb-536a-bf3f-b38c6c6fd961");
    ap_point_id_from_vector(0x0123456789abcdee, vector, 3, &other);
    ck_assert(memcmp(id.b, other.b, 16) != 0);
}
END_TEST

START_TEST(collections_have_names_and_generations)
{
    char longest[257];
    memset(longest, 'x', 256);
    longest[256] = '\0';
    ck_assert_int_eq(ap_collection_name_check(longest, NULL), AP_EINVAL);
    longest[255] = '\0';
    ck_assert_int_eq(ap_collection_name_check(longest, NULL), 0);
    ck_assert_int_ne((int)ap_collection_id(longest, 1), 0);
    ck_assert_int_eq(ap_collection_name_check("Wiki_2.en-x", NULL), 0);
    ck_assert_int_eq(ap_collection_name_check("", NULL), AP_EINVAL);
    ck_assert_int_eq(ap_collection_name_check(".", NULL), AP_EINVAL);
    ck_assert_int_eq(ap_collection_name_check("..", NULL), AP_EINVAL);
    ck_assert_int_eq(ap_collection_name_check("a/b", NULL), AP_EINVAL);
    ck_assert_int_eq(ap_collection_name_check("a b", NULL), AP_EINVAL);
    ck_assert_int_eq(ap_collection_name_check("\xc3\xa9", NULL), AP_EINVAL);
    /* From Python's xxhash */
    ck_assert(ap_collection_id("wiki", 1) == UINT64_C(0xc3219b69a10734c));
    ck_assert(ap_collection_id("wiki", 2) == UINT64_C(0x7185336b81604ac8));
}
END_TEST

/* Vectors of org.apache.kafka.common.utils.UtilsTest#testMurmur2. */
START_TEST(murmur2_is_kafkas)
{
    static const struct { const char *text; int32_t hash; } known[] = {
        { "21", -973932308 }, { "foobar", -790332482 }, { "a-little-bit-long-string", -985981536 },
        { "a-little-bit-longer-string", -1486304829 },
        { "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971 }, { "abc", 479470107 } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        ck_assert_int_eq((int32_t)ap_murmur2(known[i].text, strlen(known[i].text)), known[i].hash);
}
END_TEST

START_TEST(keys_hold_both_ids_and_spread)
{
    struct ap_point_id id;
    struct ap_key key;
    unsigned counts[7] = {0};
    rnd_seed("keys_hold_both_ids_and_spread");
    for (int i = 0; i < 7000; i++) {
        uint64_t collection = rnd();
        rnd_bytes(id.b, sizeof id.b);
        ap_key_make(collection, &id, &key);
        ck_assert(ap_key_collection(&key) == collection);
        ck_assert_mem_eq(ap_key_point(&key).b, id.b, 16);
        int32_t partition = ap_key_partition(&key, 7);
        ck_assert(partition >= 0 && partition < 7);
        counts[partition]++;
    }
    for (int i = 0; i < 7; i++)
        ck_assert(counts[i] > 800 && counts[i] < 1200);
    ck_assert_int_eq(key.b[0], (int)(ap_key_collection(&key) >> 56)); /* big-endian */
}
END_TEST

START_TEST(incarnations_tell_when_they_began)
{
    int64_t now = ap_wall_ms();
    uint64_t a = ap_incarnation_new(now), b = ap_incarnation_new(now), later = ap_incarnation_new(now + 1);
    ck_assert(a != 0 && a != b); /* one run in four millions fails here */
    ck_assert(later > a && later > b);
    ck_assert_int_eq(ap_incarnation_start_ms(a), now);
    ck_assert(a >> 63 == 0); /* until 2039 */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ident");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, regions_have_no_dots_and_are_padded);
    tcase_add_test(tc, point_ids_are_uuids_or_numbers);
    tcase_add_test(tc, point_ids_in_json);
    tcase_add_test(tc, a_vector_names_itself);
    tcase_add_test(tc, collections_have_names_and_generations);
    tcase_add_test(tc, murmur2_is_kafkas);
    tcase_add_test(tc, keys_hold_both_ids_and_spread);
    tcase_add_test(tc, incarnations_tell_when_they_began);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
