/* Errors, log lines and the byte buffer. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/bytes.h"
#include "common/err.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "run.h"

static char log_path[] = "/tmp/antipode-test-log-XXXXXX";

static char *slurp(void)
{
    FILE *f = fopen(log_path, "r");
    ck_assert_ptr_nonnull(f);
    struct ap_buf text = {0};
    char piece[4096];
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;)
        ap_buf_append(&text, piece, n);
    fclose(f);
    ap_buf_append(&text, "", 1);
    return (char *)text.data;
}

static void open_log(enum ap_log_level level)
{
    struct ap_err err;
    memcpy(strrchr(log_path, '-') + 1, "XXXXXX", 6);
    int fd = mkstemp(log_path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    ck_assert_int_eq(ap_log_init("unit", level, log_path, &err), 0);
}

START_TEST(set_fills_all_and_returns_the_code)
{
    struct ap_err err;
    ck_assert_int_eq(ap_err_set(&err, AP_EBUSY, AP_RETRY, "queue full: %d of %d", 7, 7), AP_EBUSY);
    ck_assert_int_eq(err.code, AP_EBUSY);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_str_eq(err.msg, "queue full: 7 of 7");
    ck_assert_int_eq(ap_err_set(NULL, AP_EIO, AP_FATAL, "nobody listens"), AP_EIO);
    ck_assert_int_eq(ap_err_wrap(NULL, "nobody listens"), AP_EIO);
}
END_TEST

START_TEST(message_is_one_line_and_may_quote_itself)
{
    struct ap_err err;
    ap_err_set(&err, AP_EINVAL, AP_POISON, "a\nb\r\nc");
    ck_assert_str_eq(err.msg, "a b  c");
    ap_err_set(&err, AP_EINVAL, AP_POISON, "again: %s", err.msg);
    ck_assert_str_eq(err.msg, "again: a b  c");
}
END_TEST

START_TEST(wrap_prepends_and_keeps_the_cause)
{
    struct ap_err err;
    ap_err_set(&err, AP_EIO, AP_FATAL, "disk gone");
    ck_assert_int_eq(ap_err_wrap(&err, "store %s", "eu"), AP_EIO);
    ck_assert_str_eq(err.msg, "store eu: disk gone");
    ck_assert_int_eq(err.cls, AP_FATAL);

    char longest[600];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    ap_err_wrap(&err, "%s", longest);
    ck_assert_uint_eq(strlen(err.msg), sizeof err.msg - 1);
    const char *tail = "store eu: disk gone";
    ck_assert_str_eq(err.msg + strlen(err.msg) - strlen(tail), tail);
}
END_TEST

START_TEST(every_code_has_a_name_of_its_own)
{
    for (int a = 0; a >= AP_ENOTREADY; a--) {
        ck_assert_str_ne(ap_code_name(a), "unknown");
        for (int b = a - 1; b >= AP_ENOTREADY; b--)
            ck_assert_str_ne(ap_code_name(a), ap_code_name(b));
    }
    ck_assert_str_eq(ap_code_name(-9999), "unknown");
}
END_TEST

START_TEST(a_line_has_time_level_component_and_stays_one)
{
    open_log(AP_LOG_INFO);
    ap_debug("not shown");
    ap_warn("disk at %d%%\nforged line", 91);
    char *text = slurp();
    int y, mo, d, h, mi, s, ms, end = 0;
    ck_assert_int_eq(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &y, &mo, &d, &h, &mi, &s, &ms, &end), 7);
    ck_assert_int_eq(end, 24);
    ck_assert_str_eq(text + end, " warn unit disk at 91% forged line\n");
    free(text);
    unlink(log_path);
}
END_TEST

START_TEST(a_line_longer_than_the_buffer_is_cut_and_still_ends)
{
    open_log(AP_LOG_INFO);
    char *big = malloc(10000);
    memset(big, 'y', 9999);
    big[9999] = 0;
    ap_info("%s", big);
    ap_info("next");
    char *text = slurp();
    char *nl = strchr(text, '\n');
    ck_assert_ptr_nonnull(nl);
    ck_assert_uint_gt((size_t)(nl - text), 1500);
    ck_assert_ptr_nonnull(strstr(nl, "unit next\n"));
    free(big);
    free(text);
    unlink(log_path);
}
END_TEST

START_TEST(limited_prints_once_per_interval_and_counts_the_rest)
{
    open_log(AP_LOG_INFO);
    struct ap_log_limit limit = {0};
    for (int i = 0; i < 100; i++)
        ap_log_limited(&limit, 3600000, AP_LOG_WARN, "lag %d", i);
    limit.next_ms = ap_mono_ms(); /* the hour is over */
    ap_log_limited(&limit, 3600000, AP_LOG_WARN, "lag again");
    char *text = slurp();
    ck_assert_ptr_nonnull(strstr(text, "warn unit lag 0\n"));
    ck_assert_ptr_null(strstr(text, "lag 1\n"));
    ck_assert_ptr_nonnull(strstr(text, "warn unit lag again suppressed=99\n"));
    free(text);
    unlink(log_path);
}
END_TEST

static void *shout(void *arg)
{
    for (int i = 0; i < 500; i++)
        ap_info("%s", (const char *)arg);
    return NULL;
}

START_TEST(lines_of_two_threads_never_mix)
{
    open_log(AP_LOG_INFO);
    pthread_t a, b;
    char one[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", two[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    pthread_create(&a, NULL, shout, one);
    pthread_create(&b, NULL, shout, two);
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    char *text = slurp(), *save = NULL;
    int lines = 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++) {
        const char *message = strstr(line, " unit ");
        ck_assert_ptr_nonnull(message);
        ck_assert(strcmp(message + 6, one) == 0 || strcmp(message + 6, two) == 0);
    }
    ck_assert_int_eq(lines, 1000);
    free(text);
    unlink(log_path);
}
END_TEST

START_TEST(log_file_that_cannot_be_opened_is_named)
{
    struct ap_err err;
    ck_assert_int_eq(ap_log_init("unit", AP_LOG_INFO, "/nonexistent/dir/x.log", &err), AP_EIO);
    ck_assert_ptr_nonnull(strstr(err.msg, "/nonexistent/dir/x.log"));
    enum ap_log_level level;
    ck_assert_int_eq(ap_log_level_parse("warn", &level), 0);
    ck_assert_int_eq(level, AP_LOG_WARN);
    ck_assert_int_eq(ap_log_level_parse("loud", &level), AP_EINVAL);
}
END_TEST

START_TEST(buffer_grows_and_prints)
{
    struct ap_buf buf = {0};
    for (int i = 0; i < 1000; i++)
        ap_buf_printf(&buf, "%d,", i);
    ck_assert_uint_eq(buf.len, 10 * 2 + 90 * 3 + 900 * 4);
    ck_assert_int_eq(memcmp(buf.data, "0,1,2,", 6), 0);
    ck_assert_int_eq(memcmp(buf.data + buf.len - 4, "999,", 4), 0);
    char *big = calloc(1, 5001);
    memset(big, 'z', 5000);
    ap_buf_clear(&buf);
    ap_buf_printf(&buf, "%s", big);
    ck_assert_uint_eq(buf.len, 5000);
    ap_buf_append(&buf, NULL, 0);
    ck_assert_uint_eq(buf.len, 5000);
    free(big);
    ap_buf_free(&buf);
    ck_assert_ptr_null(buf.data);
}
END_TEST

START_TEST(integers_keep_their_byte_order)
{
    uint8_t b[8];
    ap_put_be64(b, 0x0102030405060708);
    ck_assert_int_eq(b[0], 1);
    ck_assert_int_eq(b[7], 8);
    ck_assert(ap_be64(b) == 0x0102030405060708);
    ap_put_le32(b, 0x01020304);
    ck_assert_int_eq(b[0], 4);
    ck_assert(ap_le32(b) == 0x01020304);
    ck_assert_int_eq(ap_le16(b), 0x0304);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("err_log");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, set_fills_all_and_returns_the_code);
    tcase_add_test(tc, message_is_one_line_and_may_quote_itself);
    tcase_add_test(tc, wrap_prepends_and_keeps_the_cause);
    tcase_add_test(tc, every_code_has_a_name_of_its_own);
    tcase_add_test(tc, a_line_has_time_level_component_and_stays_one);
    tcase_add_test(tc, a_line_longer_than_the_buffer_is_cut_and_still_ends);
    tcase_add_test(tc, limited_prints_once_per_interval_and_counts_the_rest);
    tcase_add_test(tc, lines_of_two_threads_never_mix);
    tcase_add_test(tc, log_file_that_cannot_be_opened_is_named);
    tcase_add_test(tc, buffer_grows_and_prints);
    tcase_add_test(tc, integers_keep_their_byte_order);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
