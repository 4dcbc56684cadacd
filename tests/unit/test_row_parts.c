/* A row taken apart and put together again: by any hand, in any order, the same bytes. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "common/row_parts.h"

static struct ap_key key = {{1, 2, 3}};

static struct ap_version version(uint64_t hlc)
{
    struct ap_version v = {.hlc = hlc, .writer = hlc % 3 + 1};
    memcpy(v.region.name, hlc % 2 ? "eu" : "us", 2);
    return v;
}

/* Merge m into row. */
static void merge(struct ap_buf *row, const struct ap_mutation *m)
{
    struct ap_row current;
    struct ap_buf out = {0};
    struct ap_err err;
    if (row->len)
        ck_assert_int_eq(ap_row_read(row->data, row->len, 1, &current, &err), 0);
    int rc = ap_row_merge(&key, row->len ? &current : NULL, m, &out, &err);
    ck_assert_msg(rc >= 0, "%s", err.msg);
    if (rc > 0) {
        ap_buf_free(row);
        *row = out;
    } else {
        ap_buf_free(&out);
    }
}

static void random_row(struct ap_buf *row)
{
    static const char *const patches[] = {
        "{\"set\":{\"a\":1.10,\"b\":[1, 2,{\"x\":null}]}}", "{\"delete\":[\"a\",\"q\\\"uo\\u00e9te\"]}", "{\"overwrite\":{\"z\": \"\\u0041\"}}",
        "{\"clear\":true}", "{\"set\":{\"tab\\t\":true,\"q\\\"uo\\u00e9te\":-0.0}}", "{\"overwrite\":{\"b\":2},\"set\":{\"c\": 3}}", "{\"set\":{\"\":\"\"}}"};
    long n = 1 + lrand48() % 8;
    for (long i = 0; i < n; i++) {
        struct ap_mutation m = {.version = version((uint64_t)lrand48() % 20 + 1)};
        long what = lrand48() % 10;
        if (what < 2) {
            m.op = AP_OP_DELETE;
        } else if (what < 5) {
            m.op = AP_OP_UPSERT;
            m.vector = (const uint8_t *)"vector";
            m.vector_len = 6;
            m.has_codec = what == 2;
            m.codec = 77;
            m.payload = what == 3 ? NULL : "{\"a\":0}";
            m.payload_len = what == 3 ? 0 : 7;
        } else {
            m.op = AP_OP_PATCH;
            m.payload = patches[(size_t)lrand48() % (sizeof patches / sizeof *patches)];
            m.payload_len = strlen(m.payload);
        }
        merge(row, &m);
    }
}

static void shuffle(struct ap_mutation *list, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)lrand48() % i;
        struct ap_mutation t = list[j];
        list[j] = list[i - 1];
        list[i - 1] = t;
    }
}

START_TEST(parts_make_the_row_again)
{
    struct ap_buf row = {0}, again = {0};
    struct ap_row_parts parts;
    struct ap_row r;
    struct ap_err err = {0};
    random_row(&row);
    ck_assert_int_eq(ap_row_read(row.data, row.len, 1, &r, &err), 0);
    ck_assert_msg(ap_row_parts(&r, &parts, &err) == 0, "%s", err.msg);
    shuffle(parts.list, parts.count);
    for (size_t i = 0; i < parts.count; i++)
        merge(&again, &parts.list[i]);
    ck_assert_uint_eq(again.len, row.len);
    ck_assert_mem_eq(again.data, row.data, row.len);
    ap_row_parts_fini(&parts);
    ap_buf_free(&row);
    ap_buf_free(&again);
}
END_TEST

/* Each side gets the other's parts: both hold the join. */
START_TEST(parts_of_both_make_both_the_join)
{
    struct ap_buf rows[2] = {{0}}, want = {0};
    struct ap_row_parts parts[2];
    struct ap_row r[2];
    random_row(&rows[0]);
    random_row(&rows[1]);
    struct ap_buf before = {0};
    ap_buf_append(&before, rows[0].data, rows[0].len);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(ap_row_read(rows[i].data, rows[i].len, 1, &r[i], NULL), 0);
        ck_assert_int_eq(ap_row_parts(&r[i], &parts[i], NULL), 0);
    }
    if (ap_row_join(&r[0], &r[1], &want) == 0)
        ap_buf_append(&want, rows[0].data, rows[0].len);
    struct ap_buf kept[2] = {before, {0}};
    ap_buf_append(&kept[1], rows[1].data, rows[1].len);
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < parts[!i].count; j++)
            merge(&kept[i], &parts[!i].list[j]);
        ck_assert_uint_eq(kept[i].len, want.len);
        ck_assert_mem_eq(kept[i].data, want.data, want.len);
    }
    for (int i = 0; i < 2; i++) {
        ap_row_parts_fini(&parts[i]);
        ap_buf_free(&rows[i]);
        ap_buf_free(&kept[i]);
    }
    ap_buf_free(&want);
}
END_TEST

START_TEST(a_deletion_of_the_newest_version_leaves_only_a_tombstone)
{
    struct ap_buf row = {0};
    struct ap_row_parts parts;
    struct ap_row r;
    random_row(&row);
    ck_assert_int_eq(ap_row_read(row.data, row.len, 1, &r, NULL), 0);
    ap_row_parts_delete(&r, &parts);
    ck_assert_uint_eq(parts.count, 1);
    merge(&row, &parts.list[0]);
    ck_assert_int_eq(ap_row_read(row.data, row.len, 1, &r, NULL), 0);
    ck_assert_int_eq(r.flags, AP_ROW_BASE | AP_ROW_TOMBSTONE);
    ap_row_parts_fini(&parts);
    ap_buf_free(&row);
    ap_buf_free(&row);
}
END_TEST

int main(void)
{
    const char *given = getenv("AP_SEED");
    long seed = given ? atol(given) : (long)time(NULL);
    printf("AP_SEED=%ld\n", seed);
    srand48(seed);
    Suite *s = suite_create("row_parts");
    TCase *t = tcase_create("random");
    tcase_add_loop_test(t, parts_make_the_row_again, 0, 2000);
    tcase_add_loop_test(t, parts_of_both_make_both_the_join, 0, 2000);
    tcase_add_loop_test(t, a_deletion_of_the_newest_version_leaves_only_a_tombstone, 0, 300);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_set_fork_status(r, CK_NOFORK);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
