/* What the regions have given up: which records of a retired region count, in whatever order that becomes known, what a token of it
 * is worth, how streams end at the cut, and how holes are given up. */
#include <check.h>
#include <stdlib.h>
#include "common/bytes.h"
#include "common/positions.h"
#include "common/retired.h"
#include "common/schema.h"
#include "run.h"

#define TOPIC "vec-mutations"
enum { ONE = 7, TWO = 8, LINE = 100, FIRST = 101, SECOND = 102, OTHER = 201, NEWER = 301 };

static struct ap_schemas *schemas;
static struct ap_catalog *catalog;
static struct ap_err err;

static void setup(void)
{
    ck_assert_int_eq(ap_schemas_new(&schemas, &err), 0);
    catalog = ap_catalog_new(schemas);
}

static void teardown(void)
{
    ap_catalog_free(&catalog);
    ap_schemas_free(&schemas);
}

static int say(const char *who, uint64_t hlc, struct ap_control *c)
{
    struct ap_buf key = {0}, value = {0};
    struct ap_region region = {{0}};
    memcpy(region.name, who, strlen(who));
    c->version = (struct ap_version){hlc, region, 99};
    ck_assert_msg(ap_control_encode(schemas, c, &value, &err) == 0, "%s", err.msg);
    ap_control_key(c, &key);
    int rc = ap_catalog_apply(catalog, &region, key.data, key.len, value.data, value.len, &err);
    ap_buf_free(&key);
    ap_buf_free(&value);
    return rc;
}

static void incarnation(const char *who, uint64_t stream, uint64_t of, uint64_t lineage)
{
    struct ap_control c = {.kind = AP_CONTROL_INCARNATION};
    c.u.incarnation = (struct ap_control_incarnation){stream, of, 0, lineage, (char *)(uintptr_t)"one"};
    ck_assert_int_ge(say(who, 1, &c), 0);
}

static void region_is(const char *who, uint64_t hlc, uint64_t of, enum ap_region_state state)
{
    struct ap_control c = {.kind = AP_CONTROL_REGION};
    c.u.region = (struct ap_control_region){of, state};
    ck_assert_int_ge(say(who, hlc, &c), 0);
}

static int retire(const char *who, uint64_t hlc, struct ap_position *cut, size_t count)
{
    struct ap_control c = {.kind = AP_CONTROL_RETIREMENT};
    c.u.retirement = (struct ap_control_retirement){{"eu"}, ONE, cut, count};
    return say(who, hlc, &c);
}

static void introduce(void)
{
    region_is("eu", 1, ONE, AP_REGION_ACTIVE);
    incarnation("eu", FIRST, ONE, LINE);
    incarnation("eu", SECOND, ONE, LINE);
    incarnation("eu", OTHER, ONE, OTHER);
    incarnation("us", NEWER, 11, NEWER);
}

static const struct ap_region eu = {"eu"}, us = {"us"};

START_TEST(what_any_region_had_counts_and_nothing_else)
{
    struct ap_position of_us[] = {{.stream = SECOND, .lineage = LINE, .topic = TOPIC, .partition = 1, .mark = 10}};
    struct ap_position of_ap[] = {{.stream = SECOND, .lineage = LINE, .topic = TOPIC, .partition = 1, .mark = 7},
                                  {.stream = SECOND, .lineage = LINE, .topic = TOPIC, .partition = 2, .mark = 5, .finished = true}};
    introduce();
    ck_assert(!ap_catalog_region_is_retired(catalog, &eu) && !ap_catalog_stream_is_retired(catalog, SECOND));
    /* the order in which the two words are heard leaves no trace; nor does hearing one twice */
    if (_i) ck_assert_int_eq(retire("us", 50, of_us, 1), 1);
    ck_assert_int_eq(retire("ap", 60, of_ap, 2), 1);
    if (!_i) ck_assert_int_eq(retire("us", 50, of_us, 1), 1);
    ck_assert_int_eq(retire("us", 50, of_us, 1), 0);
    ck_assert(ap_catalog_region_is_retired(catalog, &eu) && !ap_catalog_region_is_retired(catalog, &us));
    ck_assert(ap_catalog_stream_is_retired(catalog, FIRST) && ap_catalog_stream_is_retired(catalog, OTHER) && !ap_catalog_stream_is_retired(catalog, NEWER));
    ck_assert_uint_eq(ap_catalog_stream_end(catalog, SECOND, TOPIC, 1), 10);
    ck_assert_uint_eq(ap_catalog_stream_end(catalog, SECOND, TOPIC, 2), 5);
    ck_assert_uint_eq(ap_catalog_stream_end(catalog, FIRST, TOPIC, 2), UINT64_MAX); /* before a finished one of its line */
    ck_assert_uint_eq(ap_catalog_stream_end(catalog, FIRST, TOPIC, 1), 0);
    ck_assert_uint_eq(ap_catalog_stream_end(catalog, SECOND, "vec-others", 1), 0);
    ck_assert_uint_eq(ap_catalog_stream_end(catalog, OTHER, TOPIC, 1), 0);
}
END_TEST

START_TEST(a_region_comes_back_as_another_incarnation)
{
    introduce();
    ck_assert_int_eq(retire("us", 50, NULL, 0), 1);
    region_is("eu", 60, ONE, AP_REGION_ACTIVE); /* saying so is not enough */
    ck_assert(ap_catalog_region_is_retired(catalog, &eu));
    region_is("eu", 70, TWO, AP_REGION_ACTIVE);
    incarnation("eu", 401, TWO, 401);
    ck_assert(!ap_catalog_region_is_retired(catalog, &eu) && !ap_catalog_stream_is_retired(catalog, 401));
    ck_assert(ap_catalog_stream_is_retired(catalog, SECOND)); /* for good */
}
END_TEST

START_TEST(a_region_heard_of_only_by_its_retirement_is_retired)
{
    ck_assert_int_eq(retire("us", 50, NULL, 0), 1);
    ck_assert(ap_catalog_region_is_retired(catalog, &eu) && !ap_catalog_region_is_retired(catalog, &us));
}
END_TEST

START_TEST(tokens_of_it_are_refused_and_so_are_those_that_lie)
{
    struct ap_token token = {.region = {"eu"}, .stream = SECOND};
    introduce();
    ck_assert_int_eq(ap_catalog_check_token(catalog, &token, &err), 0);
    token.region = us;
    ck_assert_int_eq(ap_catalog_check_token(catalog, &token, &err), AP_EINVAL);
    token = (struct ap_token){.region = {"eu"}, .stream = 12345}; /* maybe registered in a moment */
    ck_assert_int_eq(ap_catalog_check_token(catalog, &token, &err), 0);
    ck_assert_int_eq(retire("us", 50, NULL, 0), 1);
    ck_assert_int_eq(ap_catalog_check_token(catalog, &token, &err), AP_ECONFLICT);
    token.stream = SECOND;
    ck_assert_int_eq(ap_catalog_check_token(catalog, &token, &err), AP_ECONFLICT);
    ck_assert_ptr_nonnull(strstr(err.msg, "retired by us"));
    token = (struct ap_token){.region = {"us"}, .stream = NEWER};
    ck_assert_int_eq(ap_catalog_check_token(catalog, &token, &err), 0);
}
END_TEST

/* ---- positions ---- */

static uint64_t lineage_of(void *arg, uint64_t stream)
{
    (void)arg;
    return stream == FIRST || stream == SECOND ? LINE : 0;
}

START_TEST(a_stream_ends_at_the_cut_with_a_hole_for_what_is_missing)
{
    struct ap_positions *p = ap_positions_new(lineage_of, NULL);
    for (uint64_t seq = 1; seq <= 4; seq++)
        ap_positions_note(p, &eu, SECOND, TOPIC, 1, seq, seq);
    ap_positions_end(p, &eu, SECOND, TOPIC, 1, 10);
    struct ap_positions_totals t = ap_positions_totals(p);
    ck_assert(t.holes == 1 && t.missing == 6 && t.streams == 1);
    for (uint64_t seq = 5; seq <= 8; seq++)
        ck_assert_int_eq(ap_positions_note(p, &eu, SECOND, TOPIC, 1, seq, seq), AP_SEEN_LATE);
    ck_assert_uint_eq(ap_positions_give_up(p, SECOND, TOPIC, 1, 1, 100), 2);
    t = ap_positions_totals(p);
    ck_assert_msg(t.missing == 0 && t.streams == 0 && t.floors == 1, "it is complete, and folded");
    ap_positions_end(p, &eu, SECOND, TOPIC, 1, 10); /* again, as after a restart */
    t = ap_positions_totals(p);
    ck_assert(t.missing == 0 && t.streams == 0 && t.floors == 1);
    ap_positions_free(&p);
}
END_TEST

/* Against a set that forgets nothing. */
START_TEST(giving_up_closes_what_is_missing_and_no_more)
{
    enum { N = 40 };
    srand((unsigned)_i + 1);
    struct ap_positions *p = ap_positions_new(NULL, NULL);
    bool there[N + 2] = {0};
    uint64_t top = 0;
    for (int k = 0; k < 30; k++) {
        uint64_t seq = (uint64_t)(rand() % N) + 1, last = seq + (uint64_t)(rand() % 8);
        if (rand() % 3) {
            ap_positions_note(p, &eu, 5, TOPIC, 0, seq, seq);
            there[seq] = true;
            top = seq > top ? seq : top;
        } else {
            uint64_t expected = 0;
            for (uint64_t s = seq; s <= last && s <= top; s++) {
                expected += !there[s];
                there[s] = true;
            }
            ck_assert_uint_eq(ap_positions_give_up(p, 5, TOPIC, 0, seq, last), expected);
        }
        uint64_t missing = 0;
        for (uint64_t s = 1; s <= top; s++) {
            missing += !there[s];
            ck_assert_int_eq(ap_positions_check(p, 5, TOPIC, 0, s), there[s] ? AP_SEEN_DUPLICATE : AP_SEEN_LATE);
        }
        ck_assert_uint_eq(ap_positions_totals(p).missing, missing);
    }
    ck_assert_uint_eq(ap_positions_give_up(p, 6, TOPIC, 0, 1, 5), 0); /* a stream nobody knows */
    ap_positions_free(&p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("retired");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, what_any_region_had_counts_and_nothing_else, 0, 2);
    tcase_add_test(tc, a_region_comes_back_as_another_incarnation);
    tcase_add_test(tc, a_region_heard_of_only_by_its_retirement_is_retired);
    tcase_add_test(tc, tokens_of_it_are_refused_and_so_are_those_that_lie);
    tcase_add_test(tc, a_stream_ends_at_the_cut_with_a_hole_for_what_is_missing);
    tcase_add_loop_test(tc, giving_up_closes_what_is_missing_and_no_more, 0, 50);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
