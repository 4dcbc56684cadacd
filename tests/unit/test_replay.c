/* From where logs are read again: what people write, and the file that says it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/replay.h"
#include "run.h"

static const int64_t now = INT64_C(1763719200000); /* 2025-11-21T10:00:00Z */

START_TEST(times)
{
    static const struct { const char *text; int64_t ms; } good[] = {
        {"2025-11-21T10:00:00Z", INT64_C(1763719200000)}, {"2024-02-29T23:59:59Z", INT64_C(1709251199000)}, {"1970-01-01T00:00:00Z", 0},
        {"0s", INT64_C(1763719200000)}, {"90s", INT64_C(1763719110000)}, {"15m", INT64_C(1763718300000)}, {"2h", INT64_C(1763712000000)}, {"3d", INT64_C(1763460000000)}};
    static const char *const bad[] = {"", "h", "2", "2w", "-1h", "2h ", "99999999999999999999s", "2025-11-21", "2025-11-21T10:00:00", "2025-13-01T00:00:00Z",
                                      "2025-02-29T00:00:00Z", "2025-11-21T25:00:00Z", "2025-11-21T10:00:01Z", "2025-11-21T10:00:00Z!", "999999d"};
    struct ap_err err;
    int64_t ms = -1;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(ap_replay_parse_time(good[i].text, now, &ms, &err) == 0, "%s", good[i].text);
        ck_assert_int_eq(ms, good[i].ms);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(ap_replay_parse_time(bad[i], now, &ms, &err) == AP_EINVAL, "%s", bad[i]);
        ck_assert(strlen(err.msg) > 10);
    }
}
END_TEST

START_TEST(offsets)
{
    static const char *const bad[] = {"", "=1", "vec-mutations", "vec-mutations=", "vec-mutations=-1", "vec-mutations=1x", "vec-mutations[]=1", "vec-mutations[-1]=1",
                                      "vec-mutations[1=1", "vec-mutations[1]", "vec-mutations[1]=", "vec-mutations[1]=1 ", "vec mutations=1", "vec-mutations[1)=1"};
    struct ap_replay *r = calloc(1, sizeof *r);
    struct ap_err err;
    r->from_ms = -1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(ap_replay_add_offset(r, bad[i], &err) == AP_EINVAL, "%s", bad[i]);
    ck_assert_uint_eq(r->offset_count, 0);
    ck_assert_int_eq(ap_replay_add_offset(r, "vec-mutations[3]=1000", &err), 0);
    ck_assert_int_eq(ap_replay_add_offset(r, "us.vec-mutations=0", &err), 0);
    ck_assert_int_eq(ap_replay_offset(r, "vec-mutations", 3), 1000);
    ck_assert_int_eq(ap_replay_offset(r, "vec-mutations", 2), -1);
    ck_assert_int_eq(ap_replay_offset(r, "us.vec-mutations", 7), 0);
    ck_assert_int_eq(ap_replay_offset(r, "eu.vec-mutations", 7), -1);
    for (size_t i = r->offset_count; i < AP_REPLAY_OFFSETS_MAX; i++)
        ck_assert_int_eq(ap_replay_add_offset(r, "raw-vectors=7", &err), 0);
    ck_assert_int_eq(ap_replay_add_offset(r, "raw-vectors=7", &err), AP_EINVAL);
    free(r);
}
END_TEST

static void put(const char *folder, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/replay", folder);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

START_TEST(the_file)
{
    char folder[] = "/tmp/antipode-replay-XXXXXX", path[128];
    struct ap_replay *r = calloc(1, sizeof *r);
    struct ap_err err;
    ck_assert_ptr_nonnull(mkdtemp(folder));
    ck_assert_int_eq(ap_replay_read(folder, r, &err), 0);
    put(folder, "offset vec-mutations 3 1000\noffset us.vec-mutations -1 0\n");
    ck_assert_int_eq(ap_replay_read(folder, r, &err), 1);
    ck_assert_int_eq(r->from_ms, -1);
    ck_assert_int_eq(ap_replay_offset(r, "vec-mutations", 3), 1000);
    char *text = ap_replay_text(r);
    ck_assert_str_eq(text, "offset vec-mutations 3 1000\noffset us.vec-mutations -1 0\n");
    ck_assert(!ap_replay_is_done(r, "vec-mutations"));
    ck_assert_int_eq(ap_replay_note_done(folder, r, "vec-mutations", &err), 0);
    ck_assert(ap_replay_is_done(r, "vec-mutations"));
    ck_assert_int_eq(ap_replay_read(folder, r, &err), 1);
    ck_assert(ap_replay_is_done(r, "vec-mutations") && !ap_replay_is_done(r, "us.vec-mutations"));
    char *again = ap_replay_text(r); /* what is done is no part of what is asked for */
    ck_assert_str_eq(text, again);
    put(folder, "time 1763719200000\ndone vec-mut"); /* killed while it wrote that */
    ck_assert_int_eq(ap_replay_read(folder, r, &err), 1);
    ck_assert_int_eq(r->from_ms, now);
    ck_assert_uint_eq(r->done_count, 0);
    static const char *const bad[] = {"time\n", "time -1\n", "time 1 2\n", "offset a b c\n", "offset a 1 -1\n", "nonsense\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(folder, bad[i]);
        ck_assert_msg(ap_replay_read(folder, r, &err) == AP_ECORRUPT, "%s", bad[i]);
    }
    snprintf(path, sizeof path, "%s/replay", folder);
    unlink(path);
    rmdir(folder);
    free(text);
    free(again);
    free(r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("replay");
    TCase *t = tcase_create("replay");
    tcase_add_test(t, times);
    tcase_add_test(t, offsets);
    tcase_add_test(t, the_file);
    suite_add_tcase(s, t);
    return run_suite(s);
}
