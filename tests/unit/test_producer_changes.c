/* Bodies that change points without vectors, and batches of operations: what is taken, what becomes of it, what is refused. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include "common/row.h"
#include "producer/operations.h"
#include "run.h"

#define V1 "019b2e5a3c0e0003-eu-66df2a3730012345"
#define V2 "019b2e5a3c0e0004-us-west-1-00df2a3730012345"

static struct ap_change change;
static struct ap_err err;

static int parse(enum ap_change_kind kind, const char *body)
{
    size_t len = strlen(body);
    char *exact = malloc(len ? len : 1); /* so that a byte too far is seen by the sanitizer */
    memcpy(exact, body, len);
    err = (struct ap_err){0};
    int rc = ap_change_parse(kind, exact, len, 5, &change, &err);
    free(exact);
    return rc;
}

/* --- what is taken --- */

static const struct { enum ap_change_kind kind; const char *body, *patch; } good[] = {
    {AP_CHANGE_SET_PAYLOAD, "{\"payload\": {\"a\": 1.10, \"b\": {\"c\": [ ]}}, \"points\": [1]}", "{\"set\":{\"a\":1.10,\"b\":{\"c\":[]}}}"},
    {AP_CHANGE_SET_PAYLOAD, "{\"points\":[1],\"payload\":{\"a\":null},\"key\":null,\"filter\":null,\"shard_key\":null}", "{\"set\":{\"a\":null}}"},
    {AP_CHANGE_OVERWRITE_PAYLOAD, "{\"payload\":{\"a\":18446744073709551615.0},\"points\":[1]}", "{\"overwrite\":{\"a\":18446744073709551615.0}}"},
    {AP_CHANGE_OVERWRITE_PAYLOAD, "{\"payload\":{},\"points\":[1]}", "{\"overwrite\":{}}"},
    {AP_CHANGE_DELETE_PAYLOAD, "{\"keys\":[\"a\", \"\\u00e9 x\", \"\\\"b.c\\\"\"],\"points\":[1]}", "{\"delete\":[\"a\",\"\u00e9 x\",\"b.c\"]}"},
    {AP_CHANGE_CLEAR_PAYLOAD, "{\"points\":[1]}", "{\"clear\":true}"},
};

START_TEST(a_payload_call_becomes_a_patch)
{
    struct ap_record records[5];
    size_t n;
    ck_assert_msg(parse(good[_i].kind, good[_i].body) == 0, "%s: %s", good[_i].body, err.msg);
    ck_assert_uint_eq(change.patch.len, strlen(good[_i].patch));
    ck_assert_mem_eq(change.patch.data, good[_i].patch, change.patch.len);
    ap_change_records(&change, 77, records, &n);
    ck_assert_uint_eq(n, 1);
    ck_assert_int_eq(records[0].op, AP_OP_PATCH);
    ck_assert_ptr_null(records[0].version);
    ck_assert_uint_eq(ap_key_collection(&records[0].key), 77);
    ap_change_fini(&change);
}
END_TEST

START_TEST(what_changes_nothing_is_no_record)
{
    struct ap_record records[5];
    size_t n;
    ck_assert_int_eq(parse(AP_CHANGE_SET_PAYLOAD, "{\"payload\":{},\"points\":[1,2]}"), 0);
    ap_change_records(&change, 77, records, &n);
    ck_assert_uint_eq(n, 0);
    ap_change_fini(&change);
    ck_assert_int_eq(parse(AP_CHANGE_DELETE_PAYLOAD, "{\"keys\":[],\"points\":[1,2]}"), 0);
    ap_change_records(&change, 77, records, &n);
    ck_assert_uint_eq(n, 0);
    ap_change_fini(&change);
}
END_TEST

START_TEST(a_delete_has_the_version_it_saw)
{
    struct ap_record records[5];
    struct ap_version want;
    char text[AP_VERSION_TEXT];
    size_t n;
    ck_assert_int_eq(parse(AP_CHANGE_DELETE, "{\"points\":[1,2],\"seen\":[\"" V1 "\",\"" V2 "\"],\"filter\":{\"must\":[]}}"), 0);
    ck_assert(!change.filtered);
    ap_change_records(&change, 77, records, &n);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(ap_version_parse(V2, strlen(V2), &want, &err), 0);
    ck_assert_str_eq(want.region.name, "us-west-1");
    ck_assert_int_eq(records[1].op, AP_OP_DELETE);
    ck_assert_int_eq(ap_version_compare(records[1].version, &want), 0);
    ck_assert_uint_eq(change.seen_hlc, want.hlc);
    ap_version_print(&want, text);
    ck_assert_str_eq(text, V2);
    ap_change_fini(&change);
    /* By ids alone it is a change of its own. */
    ck_assert_int_eq(parse(AP_CHANGE_DELETE, "{\"points\":[1,\"00000001-0002-0003-0004-000000000005\"]}"), 0);
    ap_change_records(&change, 77, records, &n);
    ck_assert_uint_eq(n, 2);
    ck_assert_ptr_null(records[0].version);
    ap_change_fini(&change);
    /* So is a payload call, which is newer than what it saw. */
    ck_assert_int_eq(parse(AP_CHANGE_CLEAR_PAYLOAD, "{\"seen\":[\"" V1 "\"],\"points\":[1]}"), 0);
    ap_change_records(&change, 77, records, &n);
    ck_assert_ptr_null(records[0].version);
    ck_assert_uint_ne(change.seen_hlc, 0);
    ap_change_fini(&change);
}
END_TEST

START_TEST(a_filter_alone_is_left_to_others)
{
    ck_assert_int_eq(parse(AP_CHANGE_DELETE, "{\"filter\":{\"must\":[]}}"), 0);
    ck_assert(change.filtered);
    ck_assert_uint_eq(change.n, 0);
    ap_change_fini(&change);
    ck_assert_int_eq(parse(AP_CHANGE_SET_PAYLOAD, "{\"payload\":{\"a\":1},\"filter\":{}}"), 0);
    ck_assert(change.filtered);
    ap_change_fini(&change);
}
END_TEST

/* --- what is refused --- */

static const struct { enum ap_change_kind kind; const char *body, *words; int code; } bad[] = {
    {AP_CHANGE_DELETE, "", "malformed JSON", AP_EINVAL},
    {AP_CHANGE_DELETE, "{}", "neither \"points\" nor \"filter\"", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":null}", "neither \"points\" nor \"filter\"", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1]}x", "something follows", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1,-2]}", "points[1]: id -2", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1,2,3,4,5,6]}", "more than 5 points", AP_ETOOBIG},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"points\":[2]}", "\"points\" is there twice", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"filter\":{}}", "\"points\" and \"filter\" are both there", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"payload\":{}}", "unknown field \"payload\"", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"shard_key\":\"a\"}", "\"shard_key\" is not supported", AP_EUNSUPPORTED},
    {AP_CHANGE_DELETE, "{\"points\":[1,2],\"seen\":[\"" V1 "\"]}", "2 points and 1 versions", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"seen\":[]}", "\"seen\" goes with \"points\"", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"seen\":[\"now\"]}", "seen[0]: ", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"seen\":[\"019b2e5a3c0e0003-EU-66df2a3730012345\"]}", "is no version", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"seen\":[\"0000000000000000-eu-66df2a3730012345\"]}", "is no version", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"seen\":[\"ffffffffffffffff-eu-66df2a3730012345\"]}", "is no version", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"seen\":[\"019b2e5a3c0e0003-eu-0000000000000000\"]}", "is no version", AP_EINVAL},
    {AP_CHANGE_DELETE, "{\"points\":[1],\"seen\":[7]}", "a string is expected", AP_EINVAL},
    {AP_CHANGE_SET_PAYLOAD, "{\"points\":[1]}", "has no \"payload\"", AP_EINVAL},
    {AP_CHANGE_SET_PAYLOAD, "{\"points\":[1],\"payload\":null}", "a payload is an object", AP_EINVAL},
    {AP_CHANGE_SET_PAYLOAD, "{\"points\":[1],\"payload\":{\"a\":1,\"a\":2}}", "payload: duplicate", AP_EINVAL},
    {AP_CHANGE_SET_PAYLOAD, "{\"points\":[1],\"payload\":{\"a\":1},\"key\":\"b\"}", "\"key\" is not supported", AP_EUNSUPPORTED},
    {AP_CHANGE_SET_PAYLOAD, "{\"points\":[1],\"payload\":{\"a\":1},\"keys\":[]}", "unknown field \"keys\"", AP_EINVAL},
    {AP_CHANGE_OVERWRITE_PAYLOAD, "{\"points\":[1]}", "has no \"payload\"", AP_EINVAL},
    {AP_CHANGE_DELETE_PAYLOAD, "{\"points\":[1]}", "has no \"keys\"", AP_EINVAL},
    {AP_CHANGE_DELETE_PAYLOAD, "{\"points\":[1],\"keys\":\"a\"}", "\"keys\" is a list", AP_EINVAL},
    {AP_CHANGE_DELETE_PAYLOAD, "{\"points\":[1],\"keys\":[\"a\",1]}", "keys[1] is no string", AP_EINVAL},
    {AP_CHANGE_DELETE_PAYLOAD, "{\"points\":[1],\"keys\":[\"a\",\"b.c\"]}", "keys[1]: \"b.c\": paths", AP_EUNSUPPORTED},
    {AP_CHANGE_DELETE_PAYLOAD, "{\"points\":[1],\"keys\":[\"a[]\"]}", "keys[0]: \"a[]\": paths", AP_EUNSUPPORTED},
    {AP_CHANGE_CLEAR_PAYLOAD, "{\"points\":[1],\"payload\":{}}", "unknown field \"payload\"", AP_EINVAL},
};

START_TEST(bad_changes_are_refused_by_name)
{
    int rc = parse(bad[_i].kind, bad[_i].body);
    ck_assert_msg(rc == bad[_i].code, "%s: %d %s", bad[_i].body, rc, err.msg);
    ck_assert_msg(strstr(err.msg, bad[_i].words) != NULL, "%s: %s", bad[_i].body, err.msg);
    ck_assert_int_eq(err.cls, AP_POISON);
}
END_TEST

START_TEST(every_cut_of_a_good_change_is_refused)
{
    static const char body[] = "{\"payload\":{\"k\\u00e9\":[true,{}]},\"points\":[1,2],\"seen\":[\"" V1 "\",\"" V2 "\"],\"filter\":{}}";
    ck_assert_int_eq(parse(AP_CHANGE_SET_PAYLOAD, body), 0);
    ap_change_fini(&change);
    for (size_t len = 0; len < sizeof body - 1; len++) {
        char *cut = strndup(body, len);
        ck_assert_int_eq(parse(AP_CHANGE_SET_PAYLOAD, cut), AP_EINVAL);
        free(cut);
    }
}
END_TEST

/* The longest key that a row can hold is the longest that is taken. */
START_TEST(a_key_that_no_row_can_hold_is_refused)
{
    for (size_t len = UINT16_MAX; len <= UINT16_MAX + 1; len++) {
        struct ap_buf body = {0};
        ap_buf_printf(&body, "{\"points\":[1],\"payload\":{\"%0*d\":1}}", (int)len, 0);
        ap_buf_append(&body, "", 1);
        ck_assert_int_eq(parse(AP_CHANGE_SET_PAYLOAD, (char *)body.data), len > UINT16_MAX ? AP_EINVAL : 0);
        if (len <= UINT16_MAX)
            ap_change_fini(&change);
        ap_buf_free(&body);
    }
}
END_TEST

/* --- several operations --- */

static struct ap_operations operations;

static int parse_operations(struct ap_target *t, const char *body)
{
    err = (struct ap_err){0};
    return ap_operations_parse(body, strlen(body), t, 5, &operations, &err);
}

static struct ap_target *make_target(void)
{
    const struct ap_collection c = {.id = 77, .live = true, .params = {.name = (char *)(uintptr_t)"c", .dim = 2, .distance = AP_DOT,
        .codec_factory = (char *)(uintptr_t)"none", .topic = (char *)(uintptr_t)"vec-mutations"}};
    return ap_target_new(&c, NULL);
}

START_TEST(operations_keep_their_order)
{
    struct ap_target *t = make_target();
    struct ap_record records[5];
    size_t n;
    ck_assert_msg(parse_operations(t, "{\"operations\":[{\"upsert\":{\"points\":[{\"id\":1,\"vector\":[1,2],\"payload\":{\"a\":1}},{\"id\":2,\"vector\":[1,2]}]}},"
                                      "{\"set_payload\":{\"payload\":{},\"points\":[1]}},{\"delete_payload\":{\"keys\":[\"a\"],\"points\":[1]}},{\"delete\":{\"points\":[2]}}]}") == 0, "%s", err.msg);
    ck_assert_int_eq(ap_operations_prepare(&operations, t, &err), 0);
    ap_operations_records(&operations, t, records, &n);
    ck_assert_uint_eq(n, 4);
    static const enum ap_op ops[] = {AP_OP_UPSERT, AP_OP_UPSERT, AP_OP_PATCH, AP_OP_DELETE};
    for (size_t i = 0; i < n; i++)
        ck_assert_int_eq(records[i].op, ops[i]);
    ck_assert_uint_eq(operations.count, 4);
    ap_operations_fini(&operations);
    ap_target_unref(&t);
}
END_TEST

static const struct { const char *body, *words; int code; } bad_operations[] = {
    {"{}", "has no \"operations\"", AP_EINVAL},
    {"{\"operations\":[{}]}", "operations[0]: it names no operation", AP_EINVAL},
    {"{\"operations\":[1]}", "an operation is an object", AP_EINVAL},
    {"{\"operations\":[{\"upsert\":{\"points\":[]}}],\"x\":1}", "unknown field \"x\"", AP_EINVAL},
    {"{\"operations\":[{\"upsert\":{\"points\":[]}},{\"merge\":{}}]}", "operations[1]: ", AP_EINVAL},
    {"{\"operations\":[{\"update_vectors\":{\"points\":[]}}]}", "\"update_vectors\" is not supported", AP_EUNSUPPORTED},
    {"{\"operations\":[{\"delete_vectors\":{\"points\":[]}}]}", "\"delete_vectors\" is not supported", AP_EUNSUPPORTED},
    {"{\"operations\":[{\"delete\":{\"points\":[1]},\"upsert\":{\"points\":[]}}]}", "\"operation\" is there twice", AP_EINVAL},
    {"{\"operations\":[{\"delete\":{\"filter\":{}}}]}", "operations[0]: delete: \"filter\" is not supported within a batch", AP_EUNSUPPORTED},
    {"{\"operations\":[{\"delete\":{\"points\":[1,2,3]}},{\"clear_payload\":{\"points\":[1,2,3]}}]}", "more than 5 points", AP_ETOOBIG},
    {"{\"operations\":[{\"delete\":{\"points\":[]}},{\"delete\":{\"points\":[]}},{\"delete\":{\"points\":[]}},{\"delete\":{\"points\":[]}},{\"delete\":{\"points\":[]}},{\"delete\":{\"points\":[]}}]}",
     "more than 5 operations", AP_ETOOBIG},
    {"{\"operations\":[{\"upsert\":{\"points\":[{\"id\":1,\"vector\":[1]}]}}]}", "operations[0]: upsert: ", AP_EINVAL},
    {"{\"operations\":[{\"delete\":{\"points\":[1]}}", "ends too early", AP_EINVAL},
};

START_TEST(bad_operations_are_refused_by_their_place)
{
    struct ap_target *t = make_target();
    int rc = parse_operations(t, bad_operations[_i].body);
    ck_assert_msg(rc == bad_operations[_i].code, "%s: %d %s", bad_operations[_i].body, rc, err.msg);
    ck_assert_msg(strstr(err.msg, bad_operations[_i].words) != NULL, "%s: %s", bad_operations[_i].body, err.msg);
    ap_operations_fini(&operations);
    ap_target_unref(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("producer_changes");
    TCase *t = tcase_create("changes");
    tcase_add_loop_test(t, a_payload_call_becomes_a_patch, 0, sizeof good / sizeof *good);
    tcase_add_test(t, what_changes_nothing_is_no_record);
    tcase_add_test(t, a_delete_has_the_version_it_saw);
    tcase_add_test(t, a_filter_alone_is_left_to_others);
    tcase_add_loop_test(t, bad_changes_are_refused_by_name, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, every_cut_of_a_good_change_is_refused);
    tcase_add_test(t, a_key_that_no_row_can_hold_is_refused);
    tcase_add_test(t, operations_keep_their_order);
    tcase_add_loop_test(t, bad_operations_are_refused_by_their_place, 0, sizeof bad_operations / sizeof *bad_operations);
    suite_add_tcase(s, t);
    return run_suite(s);
}
