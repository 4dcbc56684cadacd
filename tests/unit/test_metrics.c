/* The metrics page: the text format to the letter, and updates from many threads. */
#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/metrics.h"
#include "run.h"

static struct ap_metrics *m;
static char *page;

static void setup(void)
{
    m = ap_metrics_new();
    page = NULL;
}

static void teardown(void)
{
    free(page);
    ap_metrics_free(&m);
    ck_assert_ptr_null(m);
}

static const char *render(void)
{
    size_t len;
    free(page);
    page = ap_metrics_render(m, &len);
    ck_assert_uint_eq(len, strlen(page));
    return page;
}

static int times(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p++)
        n++;
    return n;
}

START_TEST(counter_and_gauge_lines)
{
    struct ap_metric *c = ap_counter(m, "antipode_x_total", "origin=\"eu\"", "Things,\nwith a \\ in it.");
    ck_assert_ptr_eq(ap_counter(m, "antipode_x_total", "origin=\"eu\"", "again"), c);
    struct ap_metric *other = ap_counter(m, "antipode_x_total", "origin=\"us\"", "again");
    ck_assert_ptr_ne(c, other);
    ap_count(c, 3);
    ap_count(c, 4);
    ck_assert_uint_eq(ap_count_value(c), 7);
    ap_gauge_set(ap_gauge(m, "antipode_lag_seconds", NULL, "Lag."), 0.1);
    ck_assert_ptr_nonnull(strstr(render(), "# HELP antipode_x_total Things,\\nwith a \\\\ in it.\n"
                                           "# TYPE antipode_x_total counter\n"
                                           "antipode_x_total{origin=\"eu\"} 7\n"
                                           "antipode_x_total{origin=\"us\"} 0\n"));
    ck_assert_ptr_nonnull(strstr(page, "# TYPE antipode_lag_seconds gauge\nantipode_lag_seconds 0.1\n"));
}
END_TEST

START_TEST(special_values_are_spelled_as_the_format_wants)
{
    ap_gauge_set(ap_gauge(m, "g", "k=\"1\"", ""), NAN);
    ap_gauge_set(ap_gauge(m, "g", "k=\"2\"", ""), INFINITY);
    ap_gauge_set(ap_gauge(m, "g", "k=\"3\"", ""), -INFINITY);
    ap_gauge_set(ap_gauge(m, "g", "k=\"4\"", ""), 1761234567890123.0);
    render();
    ck_assert_ptr_nonnull(strstr(page, "g{k=\"1\"} NaN\n"));
    ck_assert_ptr_nonnull(strstr(page, "g{k=\"2\"} +Inf\n"));
    ck_assert_ptr_nonnull(strstr(page, "g{k=\"3\"} -Inf\n"));
    ck_assert_ptr_nonnull(strstr(page, "g{k=\"4\"} 1761234567890123\n"));
}
END_TEST

START_TEST(histogram_is_cumulative_and_bounds_are_inclusive)
{
    struct ap_metric *h = ap_histogram(m, "lat_seconds", "route=\"q\"", "Latency.");
    ap_observe(h, 0.00001);
    ap_observe(h, 0.001); /* equal to a bound: counts into it */
    ap_observe(h, 0.0011);
    ap_observe(h, 100);
    ap_observe(h, -5); /* a clock that stepped back counts as 0 */
    render();
    ck_assert_ptr_nonnull(strstr(page, "# TYPE lat_seconds histogram\nlat_seconds_bucket{route=\"q\",le=\"5e-05\"} 2\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_bucket{route=\"q\",le=\"0.0005\"} 2\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_bucket{route=\"q\",le=\"0.001\"} 3\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_bucket{route=\"q\",le=\"0.0025\"} 4\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_bucket{route=\"q\",le=\"60\"} 4\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_bucket{route=\"q\",le=\"+Inf\"} 5\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_count{route=\"q\"} 5\n"));
    ck_assert_ptr_nonnull(strstr(page, "lat_seconds_sum{route=\"q\"} 100.00211"));
    ap_observe(ap_histogram(m, "bare_seconds", NULL, ""), 1);
    render();
    ck_assert_ptr_nonnull(strstr(page, "bare_seconds_bucket{le=\"1\"} 1\n"));
    ck_assert_ptr_nonnull(strstr(page, "bare_seconds_sum 1\nbare_seconds_count 1\n"));
}
END_TEST

static void collector(struct ap_metrics_out *out, void *arg)
{
    ap_metrics_emit(out, "lag_seconds", "origin=\"eu\"", "gauge", "Lag.", *(double *)arg);
    ap_metrics_emit(out, "rows", NULL, "gauge", "Rows.", 3);
    ap_metrics_emit(out, "lag_seconds", "origin=\"us\"", "gauge", "Lag.", 2);
    ap_count(ap_counter(m, "scrapes_total", NULL, "A collector may register."), 1);
}

START_TEST(collected_lines_stand_together_under_one_head)
{
    double lag = 1.5;
    ap_gauge_set(ap_gauge(m, "rows", "kind=\"own\"", "Rows."), 9);
    ap_metrics_collect(m, collector, &lag);
    render();
    ck_assert_ptr_nonnull(strstr(page, "# HELP lag_seconds Lag.\n# TYPE lag_seconds gauge\n"
                                       "lag_seconds{origin=\"eu\"} 1.5\nlag_seconds{origin=\"us\"} 2\n"));
    ck_assert_ptr_nonnull(strstr(page, "rows{kind=\"own\"} 9\nrows 3\n"));
    ck_assert_int_eq(times(page, "# TYPE rows "), 1);
    ck_assert_int_eq(times(page, "# TYPE lag_seconds "), 1);
    ck_assert_ptr_nonnull(strstr(page, "scrapes_total 1\n"));
    lag = 7;
    ck_assert_ptr_nonnull(strstr(render(), "lag_seconds{origin=\"eu\"} 7\n"));
}
END_TEST

START_TEST(process_lines_are_plausible)
{
    render();
    const char *rss = strstr(page, "\nprocess_resident_memory_bytes ");
    ck_assert_ptr_nonnull(rss);
    ck_assert_double_gt(strtod(strchr(rss, ' '), NULL), 500e3);
    const char *start = strstr(page, "\nprocess_start_time_seconds ");
    ck_assert_ptr_nonnull(start);
    ck_assert_double_le(fabs(strtod(strchr(start, ' '), NULL) - (double)time(NULL)), 30);
    const char *fds = strstr(page, "\nprocess_open_fds ");
    ck_assert_double_ge(strtod(strchr(fds, ' '), NULL), 3);
    ck_assert_ptr_nonnull(strstr(page, "\nantipode_build_info{version=\""));
    ck_assert_ptr_nonnull(strstr(page, "\n# TYPE process_cpu_seconds_total counter\n"));
}
END_TEST

static void *updates(void *arg)
{
    struct ap_metric **both = arg;
    for (int i = 0; i < 200000; i++) {
        ap_count(both[0], 1);
        ap_observe(both[1], 0.5);
        if (i % 50000 == 0)
            ap_counter(m, "registered_total", i ? "late=\"1\"" : "late=\"0\"", "");
    }
    return NULL;
}

START_TEST(updates_of_many_threads_are_all_counted)
{
    struct ap_metric *both[2] = {ap_counter(m, "c_total", NULL, ""), ap_histogram(m, "h_seconds", NULL, "")};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, updates, both);
    for (int i = 0; i < 20; i++)
        render();
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    render();
    ck_assert_ptr_nonnull(strstr(page, "\nc_total 800000\n"));
    ck_assert_ptr_nonnull(strstr(page, "\nh_seconds_count 800000\n"));
    ck_assert_ptr_nonnull(strstr(page, "\nh_seconds_sum 400000\n"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("metrics");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, counter_and_gauge_lines);
    tcase_add_test(tc, special_values_are_spelled_as_the_format_wants);
    tcase_add_test(tc, histogram_is_cumulative_and_bounds_are_inclusive);
    tcase_add_test(tc, collected_lines_stand_together_under_one_head);
    tcase_add_test(tc, process_lines_are_plausible);
    tcase_add_test(tc, updates_of_many_threads_are_all_counted);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
