/* Configuration: precedence of the sources, and errors that name file, line and key. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/config.h"
#include "run.h"

struct daemon {
    char *listen;
    char *note;
    int64_t dim;
    bool raw;
    double ratio;
};

static const struct ap_option table[] = {
    {"listen", AP_OPT_STRING, offsetof(struct daemon, listen), NULL, 0, 0, true, "address, host:port"},
    {"note", AP_OPT_STRING, offsetof(struct daemon, note), NULL, 0, 0, false, "free text"},
    {"index.max-dim", AP_OPT_INT, offsetof(struct daemon, dim), "64", 1, 4096, false, "dimensions"},
    {"raw", AP_OPT_BOOL, offsetof(struct daemon, raw), "true", 0, 0, false, "keep raw vectors"},
    {"ratio", AP_OPT_DOUBLE, offsetof(struct daemon, ratio), "0.5", 0, 1, false, "a share, 0 to 1"},
    AP_OPTIONS_END,
};

static struct daemon d;
static struct ap_config_extra extra;
static struct ap_err err;
static char path[] = "/tmp/antipode-test-conf-XXXXXX";

static void setup(void)
{
    memset(&d, 0, sizeof d);
    memset(&err, 0, sizeof err);
    unsetenv("ANTIPODE_CONFIG");
    unsetenv("ANTIPODE_LISTEN");
    unsetenv("ANTIPODE_INDEX_MAX_DIM");
}

static void teardown(void)
{
    ap_config_free(table, &d, &extra);
}

static int parse(const char *text)
{
    return ap_config_parse(table, &d, &extra, "region.conf", text, strlen(text), &err);
}

#define load(...) load_args((char *[]){"prog", __VA_ARGS__, NULL})
static int load_args(char **argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    return ap_config_load(table, &d, &extra, argc, argv, &err);
}

static void write_file(const char *text)
{
    memcpy(strrchr(path, '-') + 1, "XXXXXX", 6);
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

START_TEST(defaults_comments_blanks_and_kafka)
{
    ck_assert_int_eq(parse("# a comment\n\n  listen =  127.0.0.1:1  # trailing\r\nnote=pa#ss = word\n"
                           "kafka.acks=all\nkafka.linger.ms = 1\nraw = off\nratio=0.25"), 0);
    ck_assert_str_eq(d.listen, "127.0.0.1:1");
    ck_assert_str_eq(d.note, "pa#ss = word");
    ck_assert_int_eq(d.dim, 64);
    ck_assert(!d.raw);
    ck_assert_double_eq_tol(d.ratio, 0.25, 1e-12);
    ck_assert_uint_eq(extra.kafka_count, 2);
    ck_assert_str_eq(extra.kafka[0].key, "acks");
    ck_assert_str_eq(extra.kafka[1].key, "linger.ms");
    ck_assert_str_eq(extra.kafka[1].value, "1");
}
END_TEST

static const struct { const char *text, *message; } bad[] = {
    {"\nlistne = x\n", "region.conf:2: listne: unknown option, --help lists all of them"},
    {"a\n\n", "region.conf:1: \"a\" is not of the form key = value"},
    {"\n\n = 3", "region.conf:3: there is no key before '='"},
    {"index.max-dim = many", "region.conf:1: index.max-dim: \"many\" is not a whole number"},
    {"index.max-dim = 12x", "region.conf:1: index.max-dim: \"12x\" is not a whole number"},
    {"index.max-dim =", "region.conf:1: index.max-dim: \"\" is not a whole number"},
    {"index.max-dim = 0", "region.conf:1: index.max-dim: 0 is out of range, it must be between 1 and 4096"},
    {"index.max-dim = 99999999999999999999",
     "region.conf:1: index.max-dim: 99999999999999999999 is out of range, it must be between 1 and 4096"},
    {"ratio = nan", "region.conf:1: ratio: \"nan\" is not a finite number"},
    {"ratio = 1.5", "region.conf:1: ratio: 1.5 is out of range, it must be between 0 and 1"},
    {"# x\nraw = maybe", "region.conf:2: raw: \"maybe\" is neither true nor false"},
    {"raw = on\n\nraw = off", "region.conf:3: raw: is already set on line 1"},
    {"kafka. = 3", "region.conf:1: kafka.: names no Kafka property"},
};

START_TEST(bad_line_names_file_line_and_key)
{
    ck_assert_int_eq(parse(bad[_i].text), AP_EINVAL);
    ck_assert_str_eq(err.msg, bad[_i].message);
    ck_assert_ptr_null(d.listen);
}
END_TEST

START_TEST(nul_byte_is_refused)
{
    ck_assert_int_eq(ap_config_parse(table, &d, &extra, "c", "raw=on\nno\0te=1", 14, &err), AP_EINVAL);
    ck_assert_str_eq(err.msg, "c:2: a NUL byte: this is not a text file");
}
END_TEST

START_TEST(flag_over_environment_over_file)
{
    write_file("listen = from-file\nindex.max-dim = 100\nnote = from-file\nkafka.acks = 1\n");
    setenv("ANTIPODE_LISTEN", "from-env", 1);
    setenv("ANTIPODE_INDEX_MAX_DIM", "200", 1);
    ck_assert_int_eq(load("--config", path, "--index.max-dim=300", "-X", "acks=all", "--raw", "--kafka.x.y", "z=1"), 0);
    ck_assert_str_eq(d.listen, "from-env");
    ck_assert_str_eq(d.note, "from-file");
    ck_assert_int_eq(d.dim, 300);
    ck_assert(d.raw);
    ck_assert_uint_eq(extra.kafka_count, 3);
    ck_assert_str_eq(extra.kafka[0].value, "1");
    ck_assert_str_eq(extra.kafka[1].value, "all");
    ck_assert_str_eq(extra.kafka[2].key, "x.y");
    ck_assert_str_eq(extra.kafka[2].value, "z=1");
    unlink(path);
}
END_TEST

START_TEST(file_errors_carry_the_path)
{
    write_file("listen = a\nnope = 1\n");
    ck_assert_int_eq(load("--config", path), AP_EINVAL);
    char expected[200];
    snprintf(expected, sizeof expected, "%s:2: nope: unknown option, --help lists all of them", path);
    ck_assert_str_eq(err.msg, expected);
    ck_assert_ptr_null(d.listen); /* freed with the rest */
    unlink(path);
    ck_assert_int_eq(load("--config=/nonexistent/antipode.conf"), AP_EIO);
    ck_assert_str_eq(err.msg, "cannot open the configuration file /nonexistent/antipode.conf: No such file or directory");
    ck_assert_int_eq(load("--config=/tmp"), AP_EIO);
}
END_TEST

START_TEST(environment_errors_name_the_variable)
{
    setenv("ANTIPODE_INDEX_MAX_DIM", "x", 1);
    ck_assert_int_eq(load("--listen=a"), AP_EINVAL);
    ck_assert_str_eq(err.msg, "environment variable ANTIPODE_INDEX_MAX_DIM: index.max-dim: \"x\" is not a whole number");
}
END_TEST

START_TEST(flag_errors_name_the_flag)
{
    ck_assert_int_eq(load("--listen=a", "--dmi", "3"), AP_EINVAL);
    ck_assert_str_eq(err.msg, "flag --dmi: dmi: unknown option, --help lists all of them");
    ck_assert_int_eq(load("--listen"), AP_EINVAL);
    ck_assert_str_eq(err.msg, "flag --listen: has no value");
    ck_assert_int_eq(load("stray"), AP_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "unexpected argument \"stray\""));
    ck_assert_int_eq(load("-X", "acks"), AP_EINVAL);
    ck_assert_str_eq(err.msg, "flag -X: wants property=value, not acks");
    ck_assert_int_eq(load("-X"), AP_EINVAL);
}
END_TEST

START_TEST(boolean_flags_take_a_word_or_stand_alone)
{
    ck_assert_int_eq(load("--raw", "off", "--listen", "a"), 0);
    ck_assert(!d.raw);
    ap_config_free(table, &d, &extra);
    ck_assert_int_eq(load("--raw=off", "--raw", "--listen", "a"), 0);
    ck_assert(d.raw);
    ck_assert_str_eq(d.listen, "a");
}
END_TEST

START_TEST(required_option_says_how_to_set_it)
{
    ck_assert_int_eq(load("--raw"), AP_EINVAL);
    ck_assert_str_eq(err.msg, "listen is required: set it in the file, as ANTIPODE_LISTEN or as --listen (address, host:port)");
    ck_assert_int_eq(load("--listen="), AP_EINVAL);
}
END_TEST

START_TEST(help_and_version_return_one)
{
    ck_assert_int_eq(load("--bogus", "--help"), 1);
    ck_assert_int_eq(load("--version"), 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, defaults_comments_blanks_and_kafka);
    tcase_add_loop_test(tc, bad_line_names_file_line_and_key, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_test(tc, nul_byte_is_refused);
    tcase_add_test(tc, flag_over_environment_over_file);
    tcase_add_test(tc, file_errors_carry_the_path);
    tcase_add_test(tc, environment_errors_name_the_variable);
    tcase_add_test(tc, flag_errors_name_the_flag);
    tcase_add_test(tc, boolean_flags_take_a_word_or_stand_alone);
    tcase_add_test(tc, required_option_says_how_to_set_it);
    tcase_add_test(tc, help_and_version_return_one);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
