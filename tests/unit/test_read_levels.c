/* What a read or a write through the indexer may ask for, and whom it then asks. */
#include <check.h>
#include <stdlib.h>
#include "indexer/levels.h"
#include "indexer/peers.h"
#include "run.h"

START_TEST(read_levels_are_read)
{
    static const struct { const char *level, *ms, *seconds; bool token; int rc; enum ap_read_level out; int64_t max_ms; } cases[] = {
        {NULL, NULL, NULL, false, 0, AP_READ_EVENTUAL, 0},        {NULL, NULL, NULL, true, 0, AP_READ_SESSION, 0},
        {"eventual", NULL, NULL, false, 0, AP_READ_EVENTUAL, 0},  {"eventual", NULL, NULL, true, AP_EINVAL, 0, 0},
        {"session", NULL, NULL, true, 0, AP_READ_SESSION, 0},     {"session", NULL, NULL, false, AP_EINVAL, 0, 0},
        {NULL, "250", NULL, false, 0, AP_READ_BOUNDED, 250},      {NULL, NULL, "2", false, 0, AP_READ_BOUNDED, 2000},
        {NULL, NULL, "0.5", true, 0, AP_READ_BOUNDED, 500},       {"bounded", "1", NULL, false, 0, AP_READ_BOUNDED, 1},
        {"bounded", NULL, NULL, false, AP_EINVAL, 0, 0},          {NULL, "1", "1", false, AP_EINVAL, 0, 0},
        {"strong", NULL, NULL, true, 0, AP_READ_STRONG, 0},       {"strong", "5", NULL, false, AP_EINVAL, 0, 0},
        {"eventual", "5", NULL, false, AP_EINVAL, 0, 0},          {NULL, "0", NULL, false, AP_EINVAL, 0, 0},
        {NULL, "-1", NULL, false, AP_EINVAL, 0, 0},               {NULL, "nan", NULL, false, AP_EINVAL, 0, 0},
        {NULL, "1e99", NULL, false, AP_EINVAL, 0, 0},             {NULL, "5x", NULL, false, AP_EINVAL, 0, 0},
        {NULL, "", NULL, false, AP_EINVAL, 0, 0},                 {"linearizable", NULL, NULL, false, AP_EINVAL, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum ap_read_level level;
        int64_t ns;
        int rc = ap_read_level_parse(cases[i].level, cases[i].ms, cases[i].seconds, cases[i].token, &level, &ns, NULL);
        ck_assert_msg(rc == cases[i].rc, "case %zu: %d", i, rc);
        ck_assert_msg(rc || (level == cases[i].out && ns == cases[i].max_ms * 1000000), "case %zu: level %d, %lld ns", i, level, (long long)ns);
    }
}
END_TEST

START_TEST(write_levels_are_split_between_here_and_the_producer)
{
    static const struct { const char *level, *wait, *query; int rc; bool here; const char *asked; } cases[] = {
        {NULL, NULL, "", 0, false, ""},
        {NULL, NULL, "timeout=5&ordering=weak", 0, false, "timeout=5&ordering=weak"},
        {NULL, "false", "wait=false", 0, false, "wait=false"},
        {NULL, "true", "wait=true&timeout=5", 0, true, "timeout=5&wait=false"},
        {"visible", NULL, "level=visible", 0, true, "wait=false"},
        {"local", "false", "a=1&level=local&wait=false&b=2", 0, false, "a=1&b=2&wait=false"},
        {"quorum", NULL, "level=quorum&levels=3&waiter=1", 0, false, "levels=3&waiter=1&level=quorum"},
        {"all", "true", "ordering=weak&wait=true&level=all", 0, false, "ordering=weak&level=all"},
        {"all", "false", "", AP_EINVAL, false, NULL}, {"local", "true", "", AP_EINVAL, false, NULL},
        {"both", NULL, "", AP_EINVAL, false, NULL},   {NULL, "1", "", AP_EINVAL, false, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ap_write_wait wait;
        int rc = ap_write_wait_parse(cases[i].level, cases[i].wait, &wait, NULL);
        ck_assert_msg(rc == cases[i].rc, "case %zu: %d", i, rc);
        if (rc)
            continue;
        ck_assert_int_eq(wait.here, cases[i].here);
        char *query = ap_write_wait_query(cases[i].query, &wait);
        ck_assert_str_eq(query, cases[i].asked);
        free(query);
    }
}
END_TEST

START_TEST(peers_are_all_regions_or_none)
{
    static const struct { const char *regions, *peers; int rc; size_t count; bool complete; } cases[] = {
        {"", "", 0, 1, true},
        {"eu", "", 0, 1, true},
        {"eu,us", "", 0, 2, false},
        {" eu , us ", " us=http://h:1 ", 0, 2, true},
        {"us,eu,ap", "ap=https://h:2,us=http://h:1", 0, 3, true},
        {"eu,us", "us=http://h:1,eu=http://other:1", 0, 2, true},
        {"eu,us,ap", "us=http://h:1", AP_EINVAL, 0, false},
        {"eu,us", "ap=http://h:1", AP_EINVAL, 0, false},
        {"eu,us", "us=http://h:1,us=http://h:2", AP_EINVAL, 0, false},
        {"eu,us", "us", AP_EINVAL, 0, false},
        {"eu,us", "us=", AP_EINVAL, 0, false},
        {"eu,us", "us=h:1", AP_EINVAL, 0, false},
        {"eu,us", "us=http://h:1/", AP_EINVAL, 0, false},
        {"eu,us", "US=http://h:1", AP_EINVAL, 0, false},
    };
    struct ap_region own = {"eu"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct ap_peers peers;
        struct ap_err err = {0};
        int rc = ap_peers_parse(&peers, &own, cases[i].regions, cases[i].peers, "http://home:1", &err);
        ck_assert_msg(rc == cases[i].rc, "case %zu: %d", i, rc);
        ck_assert_msg(rc || (peers.count == cases[i].count && peers.complete == cases[i].complete), "case %zu", i);
        if (rc == 0 && !strstr(cases[i].peers, "other"))
            ck_assert_str_eq(peers.list[0].url, "http://home:1");
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("read_levels");
    TCase *words = tcase_create("words");
    tcase_add_test(words, read_levels_are_read);
    tcase_add_test(words, write_levels_are_split_between_here_and_the_producer);
    tcase_add_test(words, peers_are_all_regions_or_none);
    suite_add_tcase(suite, words);
    return run_suite(suite);
}
