/* Rows: one encoding, the merge as a join, JSON of patches and payloads. */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <time.h>
#include "common/row.h"
#include "run.h"

static struct ap_key key;
static struct ap_buf texts[4096]; /* what mutations point to, until the test's process ends */
static size_t text_count;

static struct ap_version version(uint64_t hlc, const char *region, uint64_t writer)
{
    struct ap_version v = {.hlc = hlc, .writer = writer};
    memcpy(v.region.name, region, strlen(region));
    return v;
}

static const char *keep(const char *text)
{
    ck_assert_uint_lt(text_count, sizeof texts / sizeof *texts);
    ap_buf_append(&texts[text_count], text, strlen(text) + 1);
    return (const char *)texts[text_count++].data;
}

static struct ap_mutation mutation(enum ap_op op, struct ap_version v, const char *vector, const char *payload)
{
    struct ap_mutation m = {.op = op, .version = v, .stream = v.writer, .seq = 1, .clock = v.hlc};
    m.vector = (const uint8_t *)vector;
    m.vector_len = vector ? strlen(vector) : 0;
    m.payload = payload;
    m.payload_len = payload ? strlen(payload) : 0;
    return m;
}

static struct ap_mutation upsert(uint64_t hlc, const char *vector, const char *payload)
{
    return mutation(AP_OP_UPSERT, version(hlc, "eu", 1), vector, payload);
}
static struct ap_mutation patch(uint64_t hlc, const char *payload)
{
    return mutation(AP_OP_PATCH, version(hlc, "eu", 1), NULL, payload);
}
static struct ap_mutation delete(uint64_t hlc)
{
    return mutation(AP_OP_DELETE, version(hlc, "eu", 1), NULL, NULL);
}

/* Merge m into the row in *row; returns what the merge said. */
static int apply(struct ap_buf *row, const struct ap_mutation *m)
{
    struct ap_row current;
    struct ap_buf out = {0};
    struct ap_err err;
    if (row->len)
        ck_assert_int_eq(ap_row_read(row->data, row->len, 1, &current, &err), 0);
    int rc = ap_row_merge(&key, row->len ? &current : NULL, m, &out, &err);
    ck_assert_msg(rc >= 0, "%s", err.msg);
    ck_assert_int_eq(rc == 1, out.len > 0);
    if (rc == 1) {
        ap_buf_free(row);
        *row = out;
    } else {
        ap_buf_free(&out);
    }
    return rc;
}

static struct ap_row read_row(const struct ap_buf *row)
{
    struct ap_row r;
    struct ap_err err = {0};
    ck_assert_msg(ap_row_read(row->data, row->len, 1, &r, &err) == 0, "%s", err.msg);
    return r;
}

/* "" where there is no payload; borrowed until the next call. */
static const char *payload(const struct ap_buf *row)
{
    static struct ap_buf out;
    struct ap_row r = read_row(row);
    struct ap_err err = {0};
    ap_buf_clear(&out);
    ck_assert_msg(ap_row_payload(&r, &out, &err) == 0, "%s", err.msg);
    ap_buf_append(&out, "", 1);
    return (const char *)out.data;
}

static struct ap_buf merged(const struct ap_mutation *list, size_t n)
{
    struct ap_buf row = {0};
    for (size_t i = 0; i < n; i++)
        apply(&row, &list[i]);
    return row;
}

/* Every order of up to 5 mutations gives the same bytes; returns them. */
static struct ap_buf any_order(const struct ap_mutation *list, size_t n)
{
    struct ap_buf want = merged(list, n);
    size_t order[5] = {0, 1, 2, 3, 4}, c[5] = {0};
    for (size_t i = 0; i < n;) { /* Heap's algorithm */
        if (c[i] < i) {
            size_t j = i % 2 ? c[i] : 0, t = order[j];
            order[j] = order[i];
            order[i] = t;
            struct ap_mutation permuted[5];
            for (size_t k = 0; k < n; k++)
                permuted[k] = list[order[k]];
            struct ap_buf got = merged(permuted, n);
            ck_assert_uint_eq(got.len, want.len);
            ck_assert_mem_eq(got.data, want.data, want.len);
            ap_buf_free(&got);
            c[i]++;
            i = 0;
        } else {
            c[i++] = 0;
        }
    }
    return want;
}

#define ANY_ORDER(row, ...) \
    struct ap_mutation row##_list[] = {__VA_ARGS__}; \
    struct ap_buf row = any_order(row##_list, sizeof row##_list / sizeof *row##_list)

START_TEST(a_row_has_what_its_upsert_had)
{
    struct ap_mutation m = mutation(AP_OP_UPSERT, version(77, "ap-south-1", 99), "vector", "{\"a\": 1.10}");
    m.has_codec = true;
    m.codec = 0x1122334455667788;
    struct ap_buf row = {0};
    ck_assert_int_eq(apply(&row, &m), 1);
    ck_assert_int_eq(apply(&row, &m), 0);
    struct ap_row r = read_row(&row);
    ck_assert_int_eq(r.flags, AP_ROW_BASE | AP_ROW_VECTOR | AP_ROW_PAYLOAD | AP_ROW_CODEC);
    ck_assert(ap_row_is_live(&r));
    ck_assert_mem_eq(r.key.b, key.b, 24);
    ck_assert_int_eq(ap_version_compare(&r.version, &m.version), 0);
    ck_assert_uint_eq(r.codec, m.codec);
    ck_assert_uint_eq(r.vector_len, 6);
    ck_assert_mem_eq(r.vector, "vector", 6);
    ck_assert_uint_eq(r.payload_len, m.payload_len);
    ck_assert_mem_eq(r.payload, m.payload, m.payload_len);
    ck_assert_str_eq(payload(&row), "{\"a\": 1.10}");
    ck_assert_uint_eq(row.len, AP_ROW_HEADER + 6 + m.payload_len + 10);
    ap_buf_free(&row);
}
END_TEST

/* The bytes are a format: stores of other versions of this program read them. */
START_TEST(bytes_are_as_documented)
{
    struct ap_mutation m = mutation(AP_OP_UPSERT, version(0x0102, "eu", 0x0304), "V", "{\"p\":1}");
    m.has_codec = true;
    m.codec = 5;
    struct ap_buf row = {0};
    apply(&row, &m);
    m = mutation(AP_OP_PATCH, version(0x0103, "us", 6), NULL, "{\"set\":{\"k\":[ 2 ]}}");
    apply(&row, &m);
    static const char want[] =
        "\x01\x3d\x02\x00\x20\x00\x00\x00"
        "\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x2a"
        "\x02\x01\x00\x00\x00\x00\x00\x00\x04\x03\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00"
        "\x01\x00\x00\x00\x07\x00\x00\x00" "V{\"p\":1}" "eu"
        "\x01\x02\x01\x00\x05\x00\x00\x00\x03\x01\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00usk[ 2 ]";
    ck_assert_uint_eq(row.len, 8 + sizeof want - 1);
    ck_assert_mem_eq(row.data + 8, want, sizeof want - 1);
    ap_buf_free(&row);
}
END_TEST

START_TEST(the_newer_version_wins_in_any_order)
{
    ANY_ORDER(a, upsert(5, "old", "{\"a\":1}"), upsert(6, "new", NULL));
    struct ap_row r = read_row(&a);
    ck_assert_mem_eq(r.vector, "new", 3);
    ck_assert_ptr_null(r.payload);
    ap_buf_free(&a);
    /* hlc first, then region, then writer */
    ANY_ORDER(b, mutation(AP_OP_UPSERT, version(5, "us", 1), "x", NULL), mutation(AP_OP_UPSERT, version(5, "eu", 9), "y", NULL));
    ck_assert_mem_eq(read_row(&b).vector, "x", 1);
    ap_buf_free(&b);
    ANY_ORDER(c, mutation(AP_OP_UPSERT, version(5, "us", 1), "x", NULL), mutation(AP_OP_UPSERT, version(5, "us", 2), "y", NULL));
    ck_assert_mem_eq(read_row(&c).vector, "y", 1);
    ap_buf_free(&c);
}
END_TEST

START_TEST(a_delete_wins_at_equal_versions_only)
{
    ANY_ORDER(a, upsert(5, "x", NULL), delete(5));
    struct ap_row r = read_row(&a);
    ck_assert_int_eq(r.flags, AP_ROW_BASE | AP_ROW_TOMBSTONE);
    ck_assert_str_eq(payload(&a), "");
    ap_buf_free(&a);
    ANY_ORDER(b, upsert(6, "x", NULL), delete(5));
    r = read_row(&b);
    ck_assert(ap_row_is_live(&r));
    ap_buf_free(&b);
    ANY_ORDER(c, upsert(4, "x", NULL), delete(5));
    r = read_row(&c);
    ck_assert(!ap_row_is_live(&r));
    ap_buf_free(&c);
    /* A conditional delete carries the newest version it saw, which may be a patch's. */
    ANY_ORDER(d, upsert(4, "x", NULL), patch(6, "{\"set\":{\"a\":1}}"), delete(6));
    r = read_row(&d);
    ck_assert_int_eq(r.flags, AP_ROW_BASE | AP_ROW_TOMBSTONE);
    ap_buf_free(&d);
}
END_TEST

START_TEST(equal_versions_of_unequal_content_agree)
{
    struct ap_mutation coded = upsert(5, "a", NULL);
    coded.has_codec = true;
    ANY_ORDER(a, upsert(5, "a", "{}"), upsert(5, "b", NULL), upsert(5, "a", NULL), coded, upsert(5, NULL, "{\"z\":1}"));
    ck_assert(read_row(&a).flags & AP_ROW_CODEC);
    ap_buf_free(&a);
    ANY_ORDER(b, patch(5, "{\"set\":{\"k\":1}}"), patch(5, "{\"set\":{\"k\":2}}"), patch(5, "{\"delete\":[\"k\"]}"), upsert(1, "x", NULL));
    ck_assert_str_eq(payload(&b), "");
    ap_buf_free(&b);
}
END_TEST

START_TEST(patches_win_key_by_key)
{
    ANY_ORDER(a, upsert(1, "x", "{\"z\":0,\"a\":1,\"b\":2,\"c\":3}"), patch(3, "{\"set\":{\"a\":30}}"), patch(2, "{\"set\":{\"a\":20,\"b\":20}}"),
              patch(4, "{\"delete\":[\"c\"]}"), patch(2, "{\"set\":{\"c\":5,\"new\":6}}"));
    ck_assert_str_eq(payload(&a), "{\"a\":30,\"b\":20,\"new\":6,\"z\":0}");
    struct ap_row r = read_row(&a);
    ck_assert_uint_eq(ap_row_newest(&r).hlc, 4);
    ap_buf_free(&a);
}
END_TEST

START_TEST(a_base_drops_older_patches_and_keeps_newer_ones)
{
    ANY_ORDER(a, upsert(1, "x", "{\"a\":1}"), patch(2, "{\"set\":{\"a\":2,\"b\":2}}"), upsert(3, "y", "{\"a\":3}"), patch(4, "{\"set\":{\"c\":4}}"));
    ck_assert_str_eq(payload(&a), "{\"a\":3,\"c\":4}");
    ck_assert_mem_eq(read_row(&a).vector, "y", 1);
    ap_buf_free(&a);
    /* A late upsert below newer patches fills the base, also one above a tombstone. */
    ANY_ORDER(b, patch(4, "{\"set\":{\"c\":4}}"), delete(2), upsert(3, "y", "{\"a\":3}"));
    ck_assert_str_eq(payload(&b), "{\"a\":3,\"c\":4}");
    ap_buf_free(&b);
    ANY_ORDER(c, patch(4, "{\"set\":{\"c\":4}}"), delete(3), upsert(2, "y", "{\"a\":3}"));
    struct ap_row r = read_row(&c);
    ck_assert(!ap_row_is_live(&r));
    ck_assert(r.flags & AP_ROW_PATCHES);
    ap_buf_free(&c);
    ANY_ORDER(d, patch(4, "{\"set\":{\"c\":4}}"));
    r = read_row(&d);
    ck_assert_int_eq(r.flags, AP_ROW_PATCHES);
    ck_assert(!ap_row_is_live(&r));
    ck_assert_str_eq(payload(&d), "");
    ap_buf_free(&d);
}
END_TEST

START_TEST(an_overwrite_hides_what_is_older)
{
    ANY_ORDER(a, upsert(1, "x", "{\"a\":1}"), patch(2, "{\"set\":{\"b\":2}}"), patch(3, "{\"overwrite\":{\"q\":3, \"r\" : {}}}"),
              patch(4, "{\"delete\":[\"r\"]}"), patch(5, "{\"set\":{\"a\":5}}"));
    ck_assert_str_eq(payload(&a), "{\"a\":5,\"q\":3}");
    ap_buf_free(&a);
    ANY_ORDER(b, upsert(1, "x", "{\"a\":1}"), patch(3, "{\"clear\":true}"), patch(2, "{\"set\":{\"b\":2}}"));
    ck_assert_str_eq(payload(&b), "");
    ap_buf_free(&b);
    ANY_ORDER(c, upsert(1, "x", "{\"a\":1}"), patch(3, "{\"set\":{\"s\":1},\"overwrite\":{\"o\":1,\"p\":1},\"delete\":[\"p\"]}"));
    ck_assert_str_eq(payload(&c), "{\"o\":1,\"s\":1}");
    ap_buf_free(&c);
    ANY_ORDER(d, upsert(9, "x", "{\"a\":1}"), patch(3, "{\"overwrite\":{}}"));
    ck_assert(!(read_row(&d).flags & AP_ROW_PATCHES));
    ap_buf_free(&d);
}
END_TEST

START_TEST(json_text_is_kept_as_it_was)
{
    ANY_ORDER(a, upsert(1, "x", " { \"b\" : [1.10, {\"}\":\"]\"}] , \"a\\\"b\" : \"\\u0041\\\\\" } "),
              patch(2, "{\"set\": {\"\\u006b\" : 1e2 , \"\":null, \"s\":\"a\\\"}\"}}"));
    ck_assert_str_eq(payload(&a), "{\"\":null,\"a\\\"b\":\"\\u0041\\\\\",\"b\":[1.10, {\"}\":\"]\"}],\"k\":1e2,\"s\":\"a\\\"}\"}");
    json_t *parsed = json_loads(payload(&a), 0, NULL);
    ck_assert_uint_eq(json_object_size(parsed), 5);
    json_decref(parsed);
    ap_buf_free(&a);
    /* A key given twice: the last counts, as with every JSON reader. */
    ANY_ORDER(b, upsert(1, "x", "{\"a\":1,\"b\":7,\"a\":2}"), patch(2, "{\"set\":{\"c\":3}}"));
    ck_assert_str_eq(payload(&b), "{\"a\":2,\"b\":7,\"c\":3}");
    ap_buf_free(&b);
    ANY_ORDER(c, upsert(1, "x", "{ }"));
    ck_assert_str_eq(payload(&c), "");
    ap_buf_free(&c);
    ANY_ORDER(d, upsert(1, "x", "{\"a\":1}"), patch(2, "{\"delete\":[\"a\"]}"));
    ck_assert_str_eq(payload(&d), "");
    ap_buf_free(&d);
}
END_TEST

START_TEST(bad_patches_are_poison)
{
    static const char *const bad[] = {
        "", "{", "[]", "null", "{\"set\":1}", "{\"set\":[]}", "{\"delete\":{}}", "{\"delete\":[1]}", "{\"overwrite\":[]}",
        "{\"clear\":1}", "{\"unset\":{}}", "{\"set\":{\"a\":1,\"a\":2}}", "{\"set\":{},\"set\":{}}", "{\"set\":{\"a\":01}}",
        "{\"clear\":true,\"overwrite\":{}}", "{\"set\":{}} x", "{\"set\":{\"\\u0000\":1}}", "{\"delete\":[\"\xff\"]}",
        "{\"a-word-that-is-far-longer-than-any\":1}"};
    struct ap_buf row = {0};
    struct ap_mutation m = upsert(1, "x", "{\"a\":1}");
    apply(&row, &m);
    struct ap_row current = read_row(&row);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ap_err err = {0};
        struct ap_buf out = {0};
        m = patch(2, bad[i]);
        ck_assert_msg(ap_row_merge(&key, &current, &m, &out, &err) == AP_EINVAL, "%s", bad[i]);
        ck_assert_int_eq(err.cls, AP_POISON);
        ck_assert_uint_eq(out.len, 0);
        ap_buf_free(&out);
    }
    struct ap_err err;
    struct ap_buf out = {0};
    m = patch(2, NULL);
    ck_assert_int_eq(ap_row_merge(&key, &current, &m, &out, &err), AP_EINVAL);
    m = patch(2, "{}");
    m.vector = (const uint8_t *)"v";
    m.vector_len = 1;
    ck_assert_int_eq(ap_row_merge(&key, &current, &m, &out, &err), AP_EINVAL);
    m = upsert(2, NULL, NULL);
    m.op = AP_OP_HEARTBEAT;
    ck_assert_int_eq(ap_row_merge(&key, &current, &m, &out, &err), AP_EINVAL);
    /* What says nothing changes nothing. */
    m = patch(2, "{\"set\":{},\"delete\":[],\"clear\":false}");
    ck_assert_int_eq(apply(&row, &m), 0);
    ap_buf_free(&row);
    ap_buf_free(&out);
}
END_TEST

START_TEST(keys_have_a_longest_length)
{
    struct ap_buf text = {0}, row = {0}, out = {0};
    struct ap_err err;
    for (size_t len = 65535; len <= 65536; len++) {
        ap_buf_clear(&text);
        ap_buf_printf(&text, "{\"set\":{\"%0*d\":1}}", (int)len, 0);
        struct ap_mutation m = mutation(AP_OP_PATCH, version(len, "eu", 1), NULL, NULL);
        m.payload = (const char *)text.data;
        m.payload_len = text.len;
        if (len == 65535)
            ck_assert_int_eq(apply(&row, &m), 1);
        else
            ck_assert_int_eq(ap_row_merge(&key, NULL, &m, &out, &err), AP_EINVAL);
    }
    ap_buf_free(&text);
    ap_buf_free(&row);
    ap_buf_free(&out);
}
END_TEST

START_TEST(patches_upon_what_is_no_object_are_an_error_to_readers)
{
    static const char *const bad[] = {"[1]", "{\"a\":", "{\"a\" 1}", "7", "{\"\xff\":1}", "{\"\\q\":1}", "{\"a\":1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ap_mutation list[] = {upsert(1, "x", bad[i]), patch(2, "{\"set\":{\"b\":1}}")};
        struct ap_buf row = merged(list, 2), out = {0};
        struct ap_row r = read_row(&row);
        struct ap_err err;
        ap_buf_append(&out, "before", 6);
        ck_assert_msg(ap_row_payload(&r, &out, &err) == AP_ECORRUPT, "%s", bad[i]);
        ck_assert_uint_eq(out.len, 6);
        ap_buf_free(&row);
        ap_buf_free(&out);
    }
}
END_TEST

START_TEST(damage_is_noticed_and_replaced)
{
    struct ap_mutation made[] = {upsert(5, "vector", "{\"a\":1}"), patch(6, "{\"set\":{\"b\":1}}")};
    struct ap_buf whole = merged(made, 2);
    for (size_t i = 0; i < whole.len; i++) {
        struct ap_buf bad = {0}, out = {0};
        struct ap_row r;
        struct ap_err err;
        ap_buf_append(&bad, whole.data, whole.len);
        bad.data[i] ^= 0x10;
        ck_assert_int_eq(ap_row_read(bad.data, bad.len, 1, &r, &err), AP_ECORRUPT);
        /* Where it can be read at all, the same mutation puts it right. */
        if (ap_row_read(bad.data, bad.len, 0, &r, &err) == 0) {
            ck_assert_int_eq(ap_row_merge(&key, &r, &made[0], &out, &err), 1);
            ck_assert_int_eq(apply(&out, &made[1]), 1);
            ck_assert_uint_eq(out.len, whole.len);
            ck_assert_mem_eq(out.data, whole.data, whole.len);
        }
        ap_buf_free(&bad);
        ap_buf_free(&out);
    }
    for (size_t len = 0; len < whole.len; len++) {
        struct ap_row r;
        uint8_t *exact = malloc(len + 1); /* a bound that ASan can see */
        memcpy(exact, whole.data, len);
        ck_assert_int_eq(ap_row_read(exact, len, 0, &r, NULL), AP_ECORRUPT);
        free(exact);
    }
    ap_buf_free(&whole);
}
END_TEST

/* --- random histories --- */

static unsigned below(unsigned n)
{
    return (unsigned)lrand48() % n;
}

static void random_value(struct ap_buf *out)
{
    static const char *const values[] = {"1", "2", "\"x\"", "null", "[1, 2]", "{\"n\":{}}", "1.50", "true"};
    ap_buf_printf(out, "%s", values[below(8)]);
}

static void random_object(struct ap_buf *out)
{
    static const char *const names[] = {"a", "b", "c", "\\u0064", ""};
    bool first = true;
    ap_buf_printf(out, "{");
    for (size_t i = 0; i < 5; i++)
        if (below(3) == 0) {
            ap_buf_printf(out, "%s\"%s\":", first ? "" : ",", names[i]);
            random_value(out);
            first = false;
        }
    ap_buf_printf(out, "}");
}

static const char *random_patch(void)
{
    struct ap_buf out = {0};
    ap_buf_printf(&out, "{");
    unsigned what = below(8), words = 0;
    if (what < 5) {
        ap_buf_printf(&out, "\"set\":");
        random_object(&out);
        words++;
    }
    if (what == 0 || what == 5 || what == 6)
        ap_buf_printf(&out, "%s\"delete\":[\"%c\",\"d\"]", words++ ? "," : "", (char)('a' + below(4)));
    if (what == 1 || what == 6) {
        ap_buf_printf(&out, "%s\"overwrite\":", words++ ? "," : "");
        random_object(&out);
    }
    if (what == 7)
        ap_buf_printf(&out, "\"clear\":true");
    ap_buf_printf(&out, "}");
    ap_buf_append(&out, "", 1);
    const char *text = keep((const char *)out.data);
    ap_buf_free(&out);
    return text;
}

static struct ap_mutation random_mutation(void)
{
    /* Few versions, so that equal ones and ties happen. */
    struct ap_version v = version(1 + below(12), below(2) ? "eu" : "us", 1 + below(2));
    static const char *const vectors[] = {"v1", "v2", "", NULL};
    unsigned what = below(10);
    if (what < 3) {
        struct ap_buf text = {0};
        random_object(&text);
        ap_buf_append(&text, "", 1);
        struct ap_mutation m = mutation(AP_OP_UPSERT, v, vectors[below(4)], below(3) ? keep((const char *)text.data) : NULL);
        m.has_codec = below(2);
        m.codec = m.has_codec ? below(2) : 0;
        ap_buf_free(&text);
        return m;
    }
    return what < 4 ? mutation(AP_OP_DELETE, v, NULL, NULL) : mutation(AP_OP_PATCH, v, NULL, random_patch());
}

static void shuffle(struct ap_mutation *list, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = below((unsigned)i);
        struct ap_mutation t = list[j];
        list[j] = list[i - 1];
        list[i - 1] = t;
    }
}

/* A plain model: looks at every mutation for the base, for the overwrite, and for each key. *unsure: something was decided by
 * content alone, which the model does not know. */
static json_t *model_payload(const struct ap_mutation *list, size_t n, bool *live, bool *unsure)
{
    const struct ap_mutation *base = NULL, *over = NULL;
    *unsure = false;
    for (size_t i = 0; i < n; i++) {
        if (list[i].op == AP_OP_PATCH)
            continue;
        int c = base ? ap_version_compare(&list[i].version, &base->version) : 1;
        /* Ties of content are the other test's. */
        *unsure = *unsure || (c == 0 && list[i].op == AP_OP_UPSERT && base->op == AP_OP_UPSERT);
        if (c > 0 || (c == 0 && list[i].op == AP_OP_DELETE))
            base = &list[i];
    }
    *live = base && base->op == AP_OP_UPSERT;
    json_t *object = *live && base->payload ? json_loadb(base->payload, base->payload_len, 0, NULL) : json_object();
    struct ap_version newest[5] = {{0}};
    for (int round = 0; round < 2 && *live; round++) /* overwrites first */
        for (size_t i = 0; i < n; i++) {
            if (list[i].op != AP_OP_PATCH || ap_version_compare(&list[i].version, &base->version) <= 0)
                continue;
            json_t *p = json_loadb(list[i].payload, list[i].payload_len, 0, NULL), *value;
            bool overwrites = json_object_get(p, "overwrite") || json_object_get(p, "clear");
            if (round == 0 && overwrites) {
                int c = over ? ap_version_compare(&list[i].version, &over->version) : 1;
                *unsure = *unsure || c == 0;
                if (c > 0) {
                    over = &list[i];
                    json_decref(object);
                    object = json_object_get(p, "overwrite") ? json_incref(json_object_get(p, "overwrite")) : json_object();
                }
            } else if (round == 1 && (!over || ap_version_compare(&list[i].version, &over->version) >= 0)) {
                static const char *const names[] = {"a", "b", "c", "d", ""};
                for (size_t k = 0; k < 5; k++) {
                    size_t at;
                    json_t *deleted;
                    bool deletes = false;
                    json_array_foreach(json_object_get(p, "delete"), at, deleted)
                        deletes = deletes || strcmp(json_string_value(deleted), names[k]) == 0;
                    value = json_object_get(json_object_get(p, "set"), names[k]);
                    if (!deletes && !value)
                        continue;
                    int c = ap_version_compare(&list[i].version, &newest[k]);
                    *unsure = *unsure || c == 0;
                    if (c <= 0)
                        continue;
                    newest[k] = list[i].version;
                    if (deletes)
                        json_object_del(object, names[k]);
                    else
                        json_object_set(object, names[k], value);
                }
            }
            json_decref(p);
        }
    return object;
}

#define HISTORY 24

static void history_of(uint64_t seed, struct ap_mutation list[HISTORY])
{
    srand48((long)seed);
    text_count = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        ap_buf_free(&texts[i]);
    for (size_t i = 0; i < HISTORY; i++)
        list[i] = random_mutation();
}

START_TEST(any_order_any_repetition_any_grouping_gives_the_same_bytes)
{
    uint64_t first = (uint64_t)time(NULL);
    printf("histories: seeds from %llu\n", (unsigned long long)first);
    for (uint64_t seed = first; seed < first + 1500; seed++) {
        struct ap_mutation list[HISTORY];
        history_of(seed, list);
        struct ap_buf want = merged(list, HISTORY);
        for (int round = 0; round < 6; round++) {
            shuffle(list, HISTORY);
            /* Two replicas get a part each, some mutations twice, and are then joined. */
            size_t cut = below(HISTORY + 1);
            struct ap_buf a = merged(list, cut), b = merged(list + cut, HISTORY - cut), joined = {0};
            for (int i = 0; i < 8; i++) {
                size_t again = below(HISTORY);
                apply(again < cut ? &a : &b, &list[again]);
            }
            if (a.len && b.len) {
                struct ap_row ra = read_row(&a), rb = read_row(&b);
                if (ap_row_join(&ra, &rb, &joined) == 0)
                    ap_buf_append(&joined, a.data, a.len);
                struct ap_row rj = read_row(&joined);
                struct ap_buf nothing = {0};
                ck_assert_int_eq(ap_row_join(&rj, &rb, &nothing), 0);
                ck_assert_int_eq(ap_row_join(&rj, &ra, &nothing), 0);
                ap_buf_free(&nothing);
            } else {
                ap_buf_append(&joined, a.data, a.len);
                ap_buf_append(&joined, b.data, b.len);
            }
            ck_assert_msg(joined.len == want.len && memcmp(joined.data, want.data, want.len) == 0, "seed %llu", (unsigned long long)seed);
            struct ap_buf straight = merged(list, HISTORY);
            ck_assert_msg(straight.len == want.len && memcmp(straight.data, want.data, want.len) == 0, "seed %llu", (unsigned long long)seed);
            ap_buf_free(&a);
            ap_buf_free(&b);
            ap_buf_free(&joined);
            ap_buf_free(&straight);
        }
        ap_buf_free(&want);
    }
}
END_TEST

START_TEST(histories_mean_what_a_plain_model_says)
{
    uint64_t first = (uint64_t)time(NULL), sure = 0;
    printf("histories against the model: seeds from %llu\n", (unsigned long long)first);
    for (uint64_t seed = first; seed < first + 6000; seed++) {
        struct ap_mutation list[HISTORY];
        history_of(seed, list);
        size_t n = 1 + below(HISTORY);
        bool live, unsure;
        json_t *want = model_payload(list, n, &live, &unsure);
        struct ap_buf row = merged(list, n);
        struct ap_row r = {0};
        if (row.len)
            r = read_row(&row);
        if (!unsure) {
            sure++;
            ck_assert_msg(row.len ? ap_row_is_live(&r) == live : !live, "seed %llu", (unsigned long long)seed);
            const char *text = row.len ? payload(&row) : "";
            json_t *got = *text ? json_loads(text, 0, NULL) : json_object();
            if (!live)
                json_object_clear(want);
            ck_assert_msg(json_equal(got, want), "seed %llu: %s", (unsigned long long)seed, text);
            json_decref(got);
        }
        json_decref(want);
        ap_buf_free(&row);
    }
    ck_assert_uint_gt(sure, 1000);
}
END_TEST

int main(void)
{
    struct ap_point_id id;
    ap_point_id_from_u64(42, &id);
    ap_key_make(7, &id, &key);
    Suite *s = suite_create("row");
    TCase *t = tcase_create("row");
    tcase_set_timeout(t, 50);
    tcase_add_test(t, a_row_has_what_its_upsert_had);
    tcase_add_test(t, bytes_are_as_documented);
    tcase_add_test(t, the_newer_version_wins_in_any_order);
    tcase_add_test(t, a_delete_wins_at_equal_versions_only);
    tcase_add_test(t, equal_versions_of_unequal_content_agree);
    tcase_add_test(t, patches_win_key_by_key);
    tcase_add_test(t, a_base_drops_older_patches_and_keeps_newer_ones);
    tcase_add_test(t, an_overwrite_hides_what_is_older);
    tcase_add_test(t, json_text_is_kept_as_it_was);
    tcase_add_test(t, bad_patches_are_poison);
    tcase_add_test(t, keys_have_a_longest_length);
    tcase_add_test(t, patches_upon_what_is_no_object_are_an_error_to_readers);
    tcase_add_test(t, damage_is_noticed_and_replaced);
    tcase_add_test(t, any_order_any_repetition_any_grouping_gives_the_same_bytes);
    tcase_add_test(t, histories_mean_what_a_plain_model_says);
    suite_add_tcase(s, t);
    return run_suite(s);
}
