/* Payload indexes: what they select is what a scan of the payloads finds, whatever happens to the rows, to the segments and
 * to the declarations in between. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "index_rig.h"
#include "indexer/index_impl.h"
#include "patience.h"
#include "rnd.h"
#include "run.h"

#define DIM 8
#define POINTS 600
static struct ix_rig r;
static struct ap_err err;
static json_t *model[POINTS]; /* payloads; NULL: no such point */

/* ---- random documents ---- */

static json_t *word(void)
{
    static const char *const words[] = {"red", "green", "blue", "Red", "", "r\u00e9d", "red green"};
    return json_string(words[rnd_below(7)]);
}

static json_t *scalar(char kind)
{
    char text[64];
    switch (rnd_below(12) == 0 ? "knfbtuz"[rnd_below(7)] : kind) { /* sometimes of another type */
    case 'k':
    case 'w':
        return word();
    case 'n':
        return json_integer((json_int_t)rnd_below(20) - 5);
    case 'f':
        return rnd_below(3) ? json_real((double)rnd_below(100) / 8 - 3) : json_integer((json_int_t)rnd_below(10));
    case 'b':
        return json_boolean(rnd_below(2));
    case 't':
        snprintf(text, sizeof text, "20%02d-0%d-1%dT0%d:00:00%s", (int)rnd_below(5), 1 + (int)rnd_below(9), (int)rnd_below(9), (int)rnd_below(9),
                 rnd_below(2) ? "Z" : "+02:00");
        return json_string(text);
    case 'u':
        snprintf(text, sizeof text, rnd_below(2) ? "0000000%dABCDEF000000000000000000" : "0000000%d-abcd-ef00-0000-000000000000", (int)rnd_below(9));
        return json_string(text);
    default:
        return json_null();
    }
}

static json_t *value_of(char kind)
{
    json_t *list;
    switch (rnd_below(8)) {
    case 0:
        return json_null();
    case 1:
    case 2:
        list = json_array();
        for (size_t n = rnd_below(4); n > 0; n--)
            json_array_append_new(list, scalar(kind));
        return list;
    default:
        return scalar(kind);
    }
}

static json_t *document(void)
{
    static const char kinds[] = "knfbtuw";
    json_t *out = json_object();
    for (size_t i = 0; i < 7; i++) {
        char name[2] = {kinds[i], 0};
        if (rnd_below(5))
            json_object_set_new(out, name, value_of(kinds[i]));
    }
    json_t *list = json_array();
    for (size_t n = rnd_below(3); n > 0; n--)
        json_array_append_new(list, json_pack("{s:o,s:o}", "x", value_of('n'), "y", value_of('k')));
    json_object_set_new(out, "o", list);
    return out;
}

/* ---- random filters ---- */

static json_t *range_of(json_t *(*bound)(void), bool some)
{
    static const char *const low[] = {"gt", "gte"}, *const high[] = {"lt", "lte"};
    json_t *out = json_object();
    if (rnd_below(4))
        json_object_set_new(out, low[rnd_below(2)], bound());
    if (rnd_below(4) || (some && json_object_size(out) == 0))
        json_object_set_new(out, high[rnd_below(2)], bound());
    return out;
}

static json_t *number_bound(void) { return json_real((double)rnd_below(160) / 8 - 6); }

static json_t *date_bound(void)
{
    char text[32];
    snprintf(text, sizeof text, "20%02d-0%d-15", (int)rnd_below(5), 1 + (int)rnd_below(9));
    return json_string(text);
}

static json_t *some_of(char kind)
{
    json_t *list = json_array();
    for (size_t n = rnd_below(4); n > 0; n--)
        json_array_append_new(list, kind == 'n' ? json_integer((json_int_t)rnd_below(20) - 5) : kind == 'k' ? word() : json_pack("s", "00000003-ABCD-ef00-0000-000000000000"));
    return list;
}

static json_t *match_of(char kind)
{
    switch (rnd_below(3)) {
    case 0:
        return json_pack("{s:o}", "any", some_of(kind));
    case 1:
        return json_pack("{s:o}", "except", some_of(kind));
    default:
        return json_pack("{s:o}", "value", kind == 'n' ? json_integer((json_int_t)rnd_below(20) - 5) : kind == 'k' ? word() : json_pack("s", "00000005ABCDEF000000000000000000"));
    }
}

static json_t *about(const char *key, char kind)
{
    if (rnd_below(8) == 0)
        return json_pack("{s:s,s:b}", "key", key, rnd_below(2) ? "is_empty" : "is_null", (int)rnd_below(2));
    if (rnd_below(16) == 0)
        return json_pack("{s:s,s:{s:i}}", "key", key, "values_count", rnd_below(2) ? "gte" : "lt", (int)rnd_below(3));
    switch (kind) {
    case 'f':
        return json_pack("{s:s,s:o}", "key", key, "range", range_of(number_bound, false));
    case 'b':
        return json_pack("{s:s,s:{s:b}}", "key", key, "match", "value", (int)rnd_below(2));
    case 't':
        return json_pack("{s:s,s:o}", "key", key, "range", range_of(date_bound, true));
    case 'w':
        return json_pack("{s:s,s:{s:s}}", "key", key, "match", rnd_below(2) ? "text" : "text_any", rnd_below(2) ? "RED" : "green, red");
    case 'n':
        if (rnd_below(2))
            return json_pack("{s:s,s:o}", "key", key, "range", range_of(number_bound, false));
        /* fall through */
    default:
        return json_pack("{s:s,s:o}", "key", key, "match", match_of(kind));
    }
}

static json_t *filter_of(int depth, bool nested);

static json_t *condition(int depth, bool nested)
{
    static const char kinds[] = "knfbtuw";
    size_t which = rnd_below(12);
    if (nested)
        return rnd_below(2) ? about("x", 'n') : about("y", 'k');
    if (which == 0 && depth > 0)
        return json_pack("{s:{s:s,s:o}}", "nested", "key", "o", "filter", filter_of(depth - 1, true));
    if (which == 1 && depth > 0)
        return filter_of(depth - 1, false);
    if (which == 2)
        return json_pack("{s:[i,i,i]}", "has_id", (int)rnd_below(POINTS), (int)rnd_below(POINTS), (int)rnd_below(POINTS));
    if (which == 3)
        return rnd_below(2) ? about("o[].x", 'n') : about("o[].y", 'k');
    char kind = kinds[rnd_below(7)], key[2] = {kind, 0};
    return about(key, kind);
}

static json_t *clause(int depth, bool nested)
{
    json_t *list = json_array();
    for (size_t n = 1 + rnd_below(3); n > 0; n--)
        json_array_append_new(list, condition(depth, nested));
    return list;
}

static json_t *filter_of(int depth, bool nested)
{
    json_t *out = json_object();
    if (rnd_below(2))
        json_object_set_new(out, "must", clause(depth, nested));
    if (rnd_below(3) == 0)
        json_object_set_new(out, "should", clause(depth, nested));
    if (rnd_below(3) == 0)
        json_object_set_new(out, "must_not", clause(depth, nested));
    if (rnd_below(6) == 0)
        json_object_set_new(out, "min_should", json_pack("{s:o,s:i}", "conditions", clause(depth, nested), "min_count", (int)rnd_below(4)));
    return out;
}

/* ---- checking ---- */

static void check_one(struct ap_view *view, const struct ap_collection_view *c, struct ap_filter *filter, const char *text)
{
    bool expected[POINTS], got[POINTS] = {false}, selected[POINTS] = {false};
    float zero[DIM] = {1};
    size_t count;
    struct ap_selected s;
    static struct ap_hit hits[POINTS + 1];
    for (size_t i = 0; i < POINTS; i++) {
        struct ap_point_id id;
        ap_point_id_from_u64(i, &id);
        expected[i] = model[i] && ap_filter_match(filter, &id, model[i]);
    }
    const struct ap_search q = {.vector = zero, .limit = POINTS, .filter = filter, .exact = rnd_below(4) == 0};
    ck_assert_msg(ap_view_search(view, c, &q, hits, &count, &err) == 0, "%s", err.msg);
    for (size_t i = 0; i < count; i++) {
        ck_assert(!got[ix_number(&hits[i].id)]);
        got[ix_number(&hits[i].id)] = true;
    }
    ap_view_select(view, c, filter, &s);
    ck_assert(s.calm);
    for (size_t i = 0; i < s.sure_count + s.unsure_count; i++) {
        struct ap_row row;
        ck_assert_int_eq(ap_view_row(view, i < s.sure_count ? s.sure[i] : s.unsure[i - s.sure_count], &row, &err), 0);
        struct ap_point_id id = ap_key_point(&row.key);
        uint64_t n = ix_number(&id);
        ck_assert(i >= s.sure_count || expected[n]);
        selected[n] = selected[n] || i < s.sure_count || ap_filter_match(filter, &id, model[n]);
    }
    ap_selected_fini(&s);
    for (size_t i = 0; i < POINTS; i++) {
        char *doc = model[i] ? json_dumps(model[i], JSON_COMPACT) : NULL;
        ck_assert_msg(got[i] == expected[i], "%s on point %zu %s: %d by search", text, i, doc, got[i]);
        ck_assert_msg(selected[i] == expected[i], "%s on point %zu %s: %d by selection", text, i, doc, selected[i]);
        free(doc);
    }
}

static void check_filters(int count)
{
    struct ap_view *view;
    struct ap_collection_view c;
    ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
    ck_assert_int_eq(ap_view_collection(view, "books", &c, &err), 0);
    while (count-- > 0) {
        json_t *json = filter_of(2, false);
        char *text = json_dumps(json, JSON_COMPACT);
        struct ap_filter *filter;
        ck_assert_msg(ap_filter_parse(json, &filter, &err) == 0, "%s: %s", text, err.msg);
        ck_assert_msg(ap_view_bind(&c, filter, &err) == 0, "%s: %s", text, err.msg);
        if (filter)
            check_one(view, &c, filter, text);
        ap_filter_free(&filter);
        free(text);
        json_decref(json);
    }
    ap_view_end(&view);
}

static void change_points(size_t n)
{
    float vector[DIM];
    ix_begin(&r);
    while (n-- > 0) {
        size_t i = rnd_below(POINTS), what = rnd_below(10);
        for (size_t j = 0; j < DIM; j++)
            vector[j] = (float)rnd_below(1000) / 500 - 1;
        if (what == 0) {
            ix_delete(&r, i);
            json_decref(model[i]);
            model[i] = NULL;
        } else if (what < 3 && model[i]) {
            char *set;
            json_t *patch = json_pack("{s:{s:o}}", "set", "n", value_of('n'));
            json_object_update(model[i], json_object_get(patch, "set"));
            set = json_dumps(patch, JSON_COMPACT);
            ix_patch(&r, i, set);
            free(set);
            json_decref(patch);
        } else {
            json_t *doc = document();
            char *text = json_dumps(doc, JSON_COMPACT);
            ix_upsert(&r, i, vector, text);
            r.points[i].payload = NULL; /* it is freed now */
            free(text);
            json_decref(model[i]);
            model[i] = doc;
        }
    }
    ix_commit(&r);
    ix_refresh(&r);
}

static const struct { const char *path; enum ap_field_type type; } fields[] = {
    {"k", AP_FIELD_KEYWORD}, {"n", AP_FIELD_INTEGER}, {"f", AP_FIELD_FLOAT}, {"b", AP_FIELD_BOOL}, {"t", AP_FIELD_DATETIME},
    {"u", AP_FIELD_UUID}, {"w", AP_FIELD_TEXT}, {"o[].x", AP_FIELD_INTEGER}, {"o[].y", AP_FIELD_KEYWORD},
};
#define FIELDS (sizeof fields / sizeof *fields)

static void declare(size_t i, bool removed)
{
    ix_index(&r, fields[i].path, fields[i].type, NULL, removed);
}

static void open_rig(uint32_t hot_rows, const char *sealed)
{
    rnd_seed("select");
    ix_open(&r, DIM, AP_EUCLID, POINTS);
    r.options.hot_rows = hot_rows;
    r.options.sealed_factory = sealed;
    ix_define(&r, false);
    ix_start_index(&r);
}

static void close_rig(void)
{
    ix_close(&r);
    for (size_t i = 0; i < POINTS; i++) {
        json_decref(model[i]);
        model[i] = NULL;
    }
}

/* All sealed segments have the columns of what is declared now. */
static bool all_indexed(void)
{
    struct ap_state *state = ap_state_get(r.index);
    const struct ap_state_coll *c = ap_state_find(state, r.collection_id);
    bool all = true;
    for (size_t i = 0; i < c->count; i++)
        for (size_t f = 0; f < c->definition->fields->count; f++)
            all = all && (c->segments[i]->hot ? c->segments[i] == c->coll->hot : ap_columns_find(c->columns[i], c->definition->fields->items[f].id) != NULL);
    ap_state_unref(&state);
    return all;
}

static void wait_indexed(void)
{
    int64_t until = patience_ms();
    while (!all_indexed()) {
        ck_assert_msg(ap_mono_ms() < until, "fields are not indexed");
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

/* Nothing is left to merge either: stopped now, the builder leaves no segment without its columns. */
static void wait_merged(void)
{
    int64_t until = patience_ms();
    for (size_t sealed = 2; sealed > 1;) {
        ck_assert_msg(ap_mono_ms() < until, "segments are not merged");
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        struct ap_state *state = ap_state_get(r.index);
        const struct ap_state_coll *c = ap_state_find(state, r.collection_id);
        sealed = 0;
        for (size_t i = 0; i < c->count; i++)
            sealed += !c->segments[i]->hot;
        ap_state_unref(&state);
    }
    wait_indexed();
}

START_TEST(indexes_and_scans_agree)
{
    open_rig(64, NULL);
    for (int round = 0; round < 40; round++) {
        change_points(round < 10 ? 100 : 30);
        if (rnd_below(3) == 0) {
            declare(rnd_below(FIELDS), rnd_below(4) == 0);
            ix_refresh(&r);
        }
        if (round == 20 || round == 30) {
            ix_stop_index(&r);
            ix_start_index(&r);
            ix_refresh(&r);
        }
        if (round == 35)
            for (size_t i = 0; i < FIELDS; i++)
                declare(i, false);
        ix_refresh(&r);
        if (rnd_below(2))
            wait_indexed();
        check_filters(12);
    }
    close_rig();
}
END_TEST

/* The sources of truth for counting: how many rows were asked. */
static void count_selected(const char *filter_text, size_t *sure, size_t *unsure)
{
    struct ap_view *view;
    struct ap_collection_view c;
    struct ap_filter *filter;
    struct ap_selected s;
    json_t *json = json_loads(filter_text, 0, NULL);
    ck_assert_int_eq(ap_view_begin(r.index, &view, &err), 0);
    ck_assert_int_eq(ap_view_collection(view, "books", &c, &err), 0);
    ck_assert_int_eq(ap_filter_parse(json, &filter, &err), 0);
    ck_assert_int_eq(ap_view_bind(&c, filter, &err), 0);
    ap_view_select(view, &c, filter, &s);
    *sure = s.sure_count;
    *unsure = s.unsure_count;
    ap_selected_fini(&s);
    ap_filter_free(&filter);
    ap_view_end(&view);
    json_decref(json);
}

static void load_numbers(void)
{
    float vector[DIM] = {0};
    ix_begin(&r);
    for (size_t i = 0; i < POINTS; i++) {
        char text[64];
        snprintf(text, sizeof text, "{\"n\":%zu}", i);
        vector[0] = (float)i;
        model[i] = json_loads(text, 0, NULL);
        ix_upsert(&r, i, vector, text);
        r.points[i].payload = NULL;
    }
    ix_commit(&r);
    ix_refresh(&r);
}

static const char below_20[] = "{\"must\":[{\"key\":\"n\",\"range\":{\"lt\":20}}]}";

/* Index files in the folder; damage: a byte of each is turned. */
static size_t index_files(bool damage)
{
    size_t n = 0;
    DIR *dir = opendir(r.index_path);
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        size_t len = strlen(e->d_name);
        uint8_t byte;
        if (len < 4 || strcmp(e->d_name + len - 4, ".idx") != 0)
            continue;
        n++;
        int fd = damage ? openat(dirfd(dir), e->d_name, O_RDWR) : -1;
        if (fd < 0)
            continue;
        ck_assert_int_eq(pread(fd, &byte, 1, 300), 1);
        byte ^= 4;
        ck_assert_int_eq(pwrite(fd, &byte, 1, 300), 1);
        close(fd);
    }
    closedir(dir);
    return n;
}

START_TEST(declaring_builds_and_restart_loads)
{
    size_t sure, unsure;
    open_rig(128, _i ? "IVF4,SQ8" : NULL);
    load_numbers();
    ck_assert(ix_wait_indexed(&r, 512, PATIENCE_MS / 1000));
    count_selected(below_20, &sure, &unsure);
    ck_assert_uint_eq(sure, 0); /* nothing is declared: all have to be asked */
    ck_assert_uint_eq(unsure, POINTS);
    declare(1, false);
    ix_refresh(&r);
    wait_indexed();
    count_selected(below_20, &sure, &unsure);
    ck_assert_uint_eq(sure, 20);
    ck_assert_uint_eq(unsure, 0);
    /* From the files: known before the builder has had a turn. */
    wait_merged();
    ix_stop_index(&r);
    size_t files = index_files(false), loaded = 0;
    ck_assert_uint_ge(files, 1);
    ix_start_index(&r);
    struct ap_state *state = ap_state_get(r.index);
    const struct ap_state_coll *c = ap_state_find(state, r.collection_id);
    for (size_t i = 0; i < c->count; i++)
        loaded += c->columns[i] ? c->columns[i]->count : 0;
    ck_assert_uint_eq(loaded, files);
    ap_state_unref(&state);
    ix_refresh(&r);
    check_filters(5);

    ix_stop_index(&r);
    ck_assert_uint_ge(index_files(true), 1);
    ix_start_index(&r);
    ix_refresh(&r);
    wait_indexed();
    count_selected(below_20, &sure, &unsure);
    ck_assert_uint_eq(sure, 20);
    ck_assert_uint_eq(unsure, 0);

    declare(1, true);
    ix_refresh(&r);
    int64_t until = patience_ms();
    while (index_files(false) > 0)
        ck_assert_msg(ap_mono_ms() < until, "files of a removed index stay");
    check_filters(5);
    close_rig();
}
END_TEST

/* Rows that were written before and after the declaration, and are hot still. */
START_TEST(hot_rows_are_indexed)
{
    size_t sure, unsure;
    open_rig(8192, NULL);
    declare(1, false);
    ix_refresh(&r);
    load_numbers();
    count_selected(below_20, &sure, &unsure);
    ck_assert_uint_eq(sure, 20);
    ck_assert_uint_eq(unsure, 0);
    ix_begin(&r);
    ix_patch(&r, 5, "{\"set\":{\"n\":1000}}");
    ix_patch(&r, 500, "{\"set\":{\"n\":[7,1000]}}");
    ix_patch(&r, 6, "{\"delete\":[\"n\"]}");
    ix_delete(&r, 7);
    ix_commit(&r);
    ix_refresh(&r);
    count_selected(below_20, &sure, &unsure);
    ck_assert_uint_eq(sure, 18); /* 20, less 5, 6 and 7, and 500 */
    declare(0, false);
    ix_refresh(&r);
    wait_indexed();
    count_selected(below_20, &sure, &unsure);
    ck_assert_uint_eq(sure, 18);
    ck_assert_uint_eq(unsure, 0);
    close_rig();
}
END_TEST

int main(void)
{
    ap_ann_init();
    ap_log_init("test", AP_LOG_ERROR, NULL, NULL);
    Suite *s = suite_create("select");
    TCase *t = tcase_create("select");
    tcase_set_timeout(t, 100);
    tcase_add_loop_test(t, indexes_and_scans_agree, 0, 3);
    tcase_add_loop_test(t, declaring_builds_and_restart_loads, 0, 2);
    tcase_add_test(t, hot_rows_are_indexed);
    suite_add_tcase(s, t);
    return run_suite(s);
}
