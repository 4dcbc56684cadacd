/* The hybrid logical clock: never back, whoever asks. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "run.h"

START_TEST(follows_the_wall_and_never_goes_back)
{
    struct ap_clock clock;
    ap_clock_init(&clock, 0);
    int64_t before = ap_wall_ms();
    uint64_t last = ap_clock_next(&clock);
    ck_assert(ap_hlc_ms(last) >= before && ap_hlc_ms(last) <= ap_wall_ms());
    for (int i = 0; i < 200000; i++) {
        uint64_t next = ap_clock_next(&clock);
        ck_assert(next > last);
        last = next;
    }
    ck_assert(ap_clock_last(&clock) == last);
    ck_assert(ap_hlc_ms(last) - ap_wall_ms() < 10);
}
END_TEST

START_TEST(merging_moves_it_forward_only)
{
    struct ap_clock clock;
    ap_clock_init(&clock, 0);
    uint64_t ahead = ap_hlc_make(ap_wall_ms() + 60000, 7);
    ap_clock_merge(&clock, ahead);
    ck_assert(clock.heard == ahead);
    ck_assert(ap_clock_next(&clock) == ahead + 1);
    ap_clock_merge(&clock, ahead - 100);
    ck_assert(clock.heard == ahead);
    ck_assert(ap_clock_next(&clock) == ahead + 2);
    ap_clock_merge(&clock, ahead + 100);
    ck_assert(ap_clock_next(&clock) == ahead + 101);
    /* the most that a decoder lets through leaves room for all that can follow */
    ap_clock_merge(&clock, AP_HLC_MAX);
    ck_assert(ap_clock_next_n(&clock, 65536) == AP_HLC_MAX + 1);
}
END_TEST

START_TEST(a_full_counter_moves_the_ms_on)
{
    struct ap_clock clock;
    ap_clock_init(&clock, 0);
    uint64_t full = ap_hlc_make(ap_wall_ms() + 60000, 65535);
    ap_clock_merge(&clock, full);
    uint64_t next = ap_clock_next(&clock);
    ck_assert_int_eq(ap_hlc_ms(next), ap_hlc_ms(full) + 1);
    ck_assert_uint_eq(next & 0xffff, 0);
}
END_TEST

START_TEST(a_run_is_consecutive_and_nobody_elses)
{
    struct ap_clock clock;
    ap_clock_init(&clock, 60000);
    uint64_t first = ap_clock_next_n(&clock, 100);
    ck_assert(ap_hlc_ms(first) >= ap_wall_ms() + 59000); /* the offset counts */
    uint64_t after = ap_clock_next(&clock);
    ck_assert(after >= first + 100);
    ck_assert(ap_clock_next_n(&clock, 65536) > after);
    ck_assert(ap_clock_next(&clock) >= after + 65537);
}
END_TEST

#define THREADS 4
#define VALUES 200000
static struct ap_clock shared;
static uint64_t *values[THREADS];

static void *take_many(void *arg)
{
    uint64_t *out = arg;
    for (int i = 0; i < VALUES; i++) {
        if (i % 64 == 0)
            ap_clock_merge(&shared, ap_clock_last(&shared) + 3);
        out[i] = i % 3 ? ap_clock_next(&shared) : ap_clock_next_n(&shared, 5);
    }
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

START_TEST(threads_never_get_the_same)
{
    pthread_t threads[THREADS];
    uint64_t *all = malloc(THREADS * VALUES * sizeof *all);
    ap_clock_init(&shared, 0);
    for (int i = 0; i < THREADS; i++) {
        values[i] = all + i * VALUES;
        pthread_create(&threads[i], NULL, take_many, values[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int t = 0; t < THREADS; t++)
        for (int i = 1; i < VALUES; i++)
            ck_assert(values[t][i] > values[t][i - 1]);
    qsort(all, THREADS * VALUES, sizeof *all, by_value);
    for (size_t i = 1; i < THREADS * VALUES; i++)
        ck_assert(all[i] != all[i - 1]);
    free(all);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("clock");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 30);
    tcase_add_test(tc, follows_the_wall_and_never_goes_back);
    tcase_add_test(tc, merging_moves_it_forward_only);
    tcase_add_test(tc, a_full_counter_moves_the_ms_on);
    tcase_add_test(tc, a_run_is_consecutive_and_nobody_elses);
    tcase_add_test(tc, threads_never_get_the_same);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
