/* The JSON writer and the JSON scanner, against jansson and the C library. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "indexer/json_out.h"
#include "indexer/json_scan.h"
#include "run.h"

static uint64_t seed;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void setup(void)
{
    const char *given = getenv("ANTIPODE_SEED");
    seed = given ? strtoull(given, NULL, 10) : (uint64_t)time(NULL) | 1;
    printf("seed %llu\n", (unsigned long long)seed);
}

static const char *float_text(float value)
{
    static char text[64];
    struct ap_buf out = {0};
    ap_json_float(&out, value);
    ck_assert(out.len < sizeof text);
    memcpy(text, out.data, out.len);
    text[out.len] = 0;
    ap_buf_free(&out);
    return text;
}

START_TEST(floats_look_as_expected)
{
    static const struct { float value; const char *text; } cases[] = {
        {0, "0.0"}, {-0.0f, "-0.0"}, {1, "1.0"}, {-1, "-1.0"}, {0.1f, "0.1"}, {0.5f, "0.5"}, {100, "100.0"}, {123.456f, "123.456"},
        {16777216, "16777216.0"}, {1e16f, "1e16"}, {1e-5f, "1e-5"}, {0.0001f, "0.0001"}, {3.4028235e38f, "3.4028235e38"},
        {1e-45f, "1.4013e-45"}, {NAN, "null"}, {INFINITY, "null"}, {0.333333343f, "0.33333334"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = float_text(cases[i].value);
        if (isfinite(cases[i].value)) {
            ck_assert_msg(strtof(text, NULL) == cases[i].value, "%s", text);
            ck_assert_msg(strpbrk(text, ".e") != NULL, "%s would be an integer", text);
        }
        if (cases[i].value != 1e16f) /* prints as 10000000272564224, shortest 1e16, in either layout */
            ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

static size_t shortest_digits(float value)
{
    char text[32];
    for (int digits = 6; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, (double)value);
        /* Not one that reads back only because a tie goes to the even float. */
        long double middle = ((long double)value + (long double)nextafterf(value, strtold(text, NULL) > value ? INFINITY : -INFINITY)) / 2;
        if (strtof(text, NULL) == value && strtold(text, NULL) != middle)
            return (size_t)digits;
    }
    return 9;
}

static size_t digits_in(const char *text)
{
    size_t n = 0, zeros = 0;
    for (; *text && *text != 'e'; text++)
        if (*text >= '0' && *text <= '9' && (n || *text != '0')) {
            n++;
            zeros = *text == '0' ? zeros + 1 : 0;
        }
    return n - zeros;
}

START_TEST(floats_read_back_as_the_same_float)
{
    for (int i = 0; i < 300000; i++) {
        uint32_t bits = (uint32_t)next_random();
        float value;
        if (i % 3 == 0)
            value = (float)(int32_t)bits / 2147483648.0f; /* what embeddings look like */
        else
            memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        const char *text = float_text(value);
        float back = strtof(text, NULL);
        ck_assert_msg(memcmp(&back, &value, sizeof back) == 0, "%.9g was printed as %s", (double)value, text);
        ck_assert_msg(digits_in(text) <= shortest_digits(value), "%.9g: %s is not short", (double)value, text);
        json_t *number = json_loads(text, JSON_DECODE_ANY, NULL);
        ck_assert_msg(json_is_real(number), "%s is no JSON real", text);
        json_decref(number);
    }
}
END_TEST

START_TEST(strings_are_escaped)
{
    static const char text[] = "a\"b\\c\n\r\t\x01 \xc3\xa4 \xe2\x82\xac \xf0\x9f\x8d\xbf";
    struct ap_buf out = {0};
    ap_json_string(&out, text, sizeof text - 1);
    json_t *read = json_loadb((char *)out.data, out.len, JSON_DECODE_ANY, NULL);
    ck_assert_str_eq(json_string_value(read), text);
    json_decref(read);
    ap_buf_clear(&out);
    ap_json_string(&out, "x\xff\xc3(", 4);
    ck_assert_uint_eq(out.len, 10);
    ck_assert_mem_eq(out.data, "\"x\xef\xbf\xbd\xef\xbf\xbd(\"", 10);
    ap_buf_free(&out);
}
END_TEST

START_TEST(numbers_and_ids)
{
    struct ap_buf out = {0};
    struct ap_point_id id;
    ap_json_u64(&out, UINT64_MAX);
    ap_json_raw(&out, " ");
    ap_point_id_from_u64(42, &id);
    ap_json_point_id(&out, &id);
    ap_json_raw(&out, " ");
    ck_assert_int_eq(ap_point_id_parse("550e8400e29b41d4a716446655440000", 32, &id, NULL), 0);
    ap_json_point_id(&out, &id);
    ap_json_floats(&out, (float[]){1, 0.5f}, 2);
    ap_json_floats(&out, NULL, 0);
    ap_json_bool(&out, 1);
    ap_buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.data, "18446744073709551615 42 \"550e8400-e29b-41d4-a716-446655440000\"[1.0,0.5][]true");
    ap_buf_free(&out);
}
END_TEST

/* --- the scanner agrees with jansson on what JSON is --- */

static const char *const documents[] = {
    "{}", "[]", " [1 , 2.5e-3, -0, \"a\\u00e9\\n\"] ", "{\"a\":{\"b\":[true,false,null]}}", "-0.0e+9", "1E5", "\"\\ud83d\\ude00\"",
    "[1,]", "[,1]", "{\"a\"}", "{\"a\":}", "{a:1}", "01", "-", "1.", ".5", "1e", "+1", "tru", "\"a", "\"\\x\"", "\"\\u12g4\"", "\"\n\"",
    "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xc0\xaf\"", "\"\xe0\x80\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xf0\x80\x80\x80\"", "\"\xe2\x82\"", "\"\xf0\x9f\x98\x80\"", "[1 2]", "{\"a\":1 \"b\":2}", "[[[[]]]]", "[", "{", "", " ", "nul",
    "NaN", "Infinity", "1 2", "[1]x", "{\"a\":1,}",
};

static bool scans(const char *text, size_t len)
{
    char *copy = malloc(len ? len : 1); /* exactly as long, so that reading past the end is seen */
    memcpy(copy, text, len);
    struct ap_json_cursor c = {copy, copy + len};
    bool good = ap_json_skip(&c);
    ap_json_blank(&c);
    good = good && c.p == c.end;
    free(copy);
    return good;
}

static bool parses(const char *text, size_t len)
{
    json_error_t at;
    json_t *value = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &at);
    bool good = value != NULL;
    json_decref(value);
    return good;
}

START_TEST(scanner_knows_json)
{
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        size_t len = strlen(documents[i]);
        ck_assert_msg(scans(documents[i], len) == parses(documents[i], len), "%s", documents[i]);
    }
    ck_assert(ap_json_is_object(" {\"a\":[1]} ", 11));
    ck_assert(!ap_json_is_object("[1]", 3));
    ck_assert(!ap_json_is_object("{} {}", 5));
    char deep[1000];
    memset(deep, '[', sizeof deep);
    ck_assert(!scans(deep, sizeof deep));
}
END_TEST

START_TEST(scanner_agrees_with_jansson_on_mutants)
{
    for (int i = 0; i < 100000; i++) {
        char text[128];
        const char *from = documents[next_random() % (sizeof documents / sizeof *documents)];
        size_t len = strlen(from);
        memcpy(text, from, len);
        for (uint64_t n = 1 + next_random() % 2; n-- && len;)
            text[next_random() % len] = "{}[]\",:0123456789.eE+-tfn\\u \xc3\xa9"[next_random() % 30];
        bool scanned = scans(text, len), parsed = parses(text, len);
        /* jansson also refuses numbers that overflow, lone surrogates in escapes and \u0000 in names: its business. */
        if (scanned != parsed && (parsed || !(strstr(text, "\\u") || strpbrk(text, "eE") || len > 15)))
            ck_abort_msg("scanner %d, jansson %d: %.*s", scanned, parsed, (int)len, text);
    }
}
END_TEST

/* --- floats --- */

static void expect_floats(const char *text, bool good, size_t n, const float *values)
{
    size_t len = strlen(text);
    char *copy = malloc(len + 1);
    memcpy(copy, text, len);
    struct ap_json_cursor c = {copy, copy + len};
    struct ap_buf out = {0};
    ck_assert_msg(ap_json_read_floats(&c, 4, &out) == good, "%s", text);
    if (good) {
        ck_assert_uint_eq(out.len, n * sizeof(float));
        ck_assert(n == 0 || memcmp(out.data, values, n * sizeof(float)) == 0);
        ck_assert_ptr_eq(c.p, copy + len);
    } else {
        ck_assert_ptr_eq(c.p, copy);
        ck_assert_uint_eq(out.len, 0);
    }
    ap_buf_free(&out);
    free(copy);
}

START_TEST(float_arrays)
{
    expect_floats("[]", true, 0, (float[]){0});
    expect_floats("[ 1 , -2.5e-1,0,1e2 ]", true, 4, (float[]){1, -0.25f, 0, 100});
    expect_floats("[-0.0]", true, 1, (float[]){-0.0f});
    expect_floats("[1e-60]", true, 1, (float[]){0});
    expect_floats("[16777217,16777219]", true, 2, (float[]){16777216.0f, 16777220.0f});
    static const char *const bad[] = {"[1,2,3,4,5]", "[1", "[1,]", "[\"1\"]", "[1e39]", "[1e999]", "[NaN]", "[[1]]", "1", "", "[01]", "[null]",
        "[1e", "[1e-", "[1.", "[-", "[1e99999999999999999999]", "{\"a\":1}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_floats(bad[i], false, 0, NULL);
}
END_TEST

START_TEST(float_reading_equals_strtof)
{
    static const char *const formats[] = {"%.17g", "%.9g", "%.6g", "%.20f", "%.25e", "%.12g", "%.19g"};
    for (int i = 0; i < 700000; i++) {
        uint64_t bits = next_random();
        double value;
        if (i % 4 == 0)
            memcpy(&value, &bits, sizeof value);
        else if (i % 4 == 1)
            value = (double)(int64_t)bits / 9.3e18;
        else { /* next to the middle between two floats */
            uint32_t low = (uint32_t)bits & 0xbfffffff;
            float f;
            memcpy(&f, &low, sizeof f);
            value = ((double)f + (double)nextafterf(f, 1e30f)) / 2 * (i % 4 == 2 ? 1 : 1 + (double)((int)(bits >> 60) - 8) * 1e-16);
        }
        char text[512];
        int n = snprintf(text, sizeof text, "[");
        n += snprintf(text + n, sizeof text - (size_t)n, formats[bits % 7], value);
        n += snprintf(text + n, sizeof text - (size_t)n, "]");
        float expected = strtof(text + 1, NULL);
        struct ap_json_cursor c = {text, text + n};
        struct ap_buf out = {0};
        bool good = ap_json_read_floats(&c, 1, &out);
        if (n - 2 <= 64) {
            ck_assert_msg(good == isfinite(expected), "%s", text);
            ck_assert_msg(!good || memcmp(out.data, &expected, 4) == 0, "%s", text);
        }
        ap_buf_free(&out);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("api_json");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, NULL);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, floats_look_as_expected);
    tcase_add_test(tc, floats_read_back_as_the_same_float);
    tcase_add_test(tc, strings_are_escaped);
    tcase_add_test(tc, numbers_and_ids);
    tcase_add_test(tc, scanner_knows_json);
    tcase_add_test(tc, scanner_agrees_with_jansson_on_mutants);
    tcase_add_test(tc, float_arrays);
    tcase_add_test(tc, float_reading_equals_strtof);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
