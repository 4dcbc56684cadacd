/* antipode recall: the same questions asked twice, as they are and exactly; how many of the true answers the first way finds. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/ident.h"
#include "common/npy.h"
#include "common/timeutil.h"
#include "ctl/commands.h"
#include "ctl/fetch.h"
#include "ctl/rows.h"

const char ap_help_recall[] =
    "usage: antipode recall URL COLLECTION [--queries FILE | --sample N] [--limit K] [--params JSON] [--filter JSON] [--json]\n"
    "\n"
    "Measures a region as it is: asks its indexer each question as given, and once more with params.exact, which scans every row by\n"
    "its best vector. Recall is the share of the exact answer's points that the first answer has.\n"
    "\n"
    "  URL                the region's indexer\n"
    "  --queries FILE     questions: npy, fvecs, fbin, ... as `antipode load` reads them, or NDJSON with {vector}\n"
    "  --sample N         or N points of the collection itself, each left out of its own answers (100)\n"
    "  --limit K          points in an answer (10)\n"
    "  --count N          at most so many questions of the file (1000)\n"
    "  --params JSON      of the question, as {\"hnsw_ef\": 128};  --filter JSON\n"
    "  --at-least R       exit code 1 when recall is lower\n"
    "  --seed N           of the sample (1)\n"
    "  --timeout MS       of each question (30000)\n"
    "  --json             print JSON\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit code 0: measured. 1: not, or lower than --at-least. 2: usage.\n";

struct question { json_t *vector, *own, *using_; /* own: id to leave out, or NULL */ };
struct recall {
    const char *url, *collection, *queries, *format;
    uint64_t sample, limit, count, seed, timeout_ms;
    json_t *params, *filter;
    double at_least;
    bool json;
    struct ap_fetcher *fetcher;
    struct question *list; size_t n, cap;
};

/* ---- options ---- */

static int number(const char *what, const char *text, uint64_t low, uint64_t high, uint64_t *out, struct ap_err *err)
{
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (end == text || *end || *text == '-' || value < low || value > high)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is no number from %" PRIu64 " to %" PRIu64, what, text, low, high);
    *out = value;
    return 0;
}

static int object(const char *what, const char *text, json_t **out, struct ap_err *err)
{
    json_error_t why;
    *out = json_loads(text, 0, &why);
    if (!json_is_object(*out))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is no JSON object %s", what, text, *out ? "" : why.text);
    return 0;
}

static int parse(struct recall *r, int argc, char **argv, struct ap_err *err)
{
    enum { QUERIES = 256, FORMAT, SAMPLE, LIMIT, COUNT, PARAMS, FILTER, AT_LEAST, SEED, TIMEOUT, JSON };
    static const struct option options[] = {
        {"queries", 1, NULL, QUERIES}, {"format", 1, NULL, FORMAT}, {"sample", 1, NULL, SAMPLE}, {"limit", 1, NULL, LIMIT}, {"count", 1, NULL, COUNT},
        {"params", 1, NULL, PARAMS}, {"filter", 1, NULL, FILTER}, {"at-least", 1, NULL, AT_LEAST}, {"seed", 1, NULL, SEED},
        {"timeout", 1, NULL, TIMEOUT}, {"json", 0, NULL, JSON}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    char *end;
    *r = (struct recall){.sample = 100, .limit = 10, .count = 1000, .seed = 1, .timeout_ms = 30000, .at_least = -1};
    optind = 1;
    for (int c; !rc && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (c) {
        case QUERIES: r->queries = optarg; break;
        case FORMAT: r->format = optarg; break;
        case SAMPLE: rc = number("--sample", optarg, 1, 100000, &r->sample, err); break;
        case LIMIT: rc = number("--limit", optarg, 1, 9999, &r->limit, err); break;
        case COUNT: rc = number("--count", optarg, 1, 1000000, &r->count, err); break;
        case PARAMS: rc = object("--params", optarg, &r->params, err); break;
        case FILTER: rc = object("--filter", optarg, &r->filter, err); break;
        case AT_LEAST:
            r->at_least = strtod(optarg, &end);
            if (*end || end == optarg || r->at_least < 0 || r->at_least > 1)
                rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--at-least: \"%s\" is not from 0 to 1", optarg);
            break;
        case SEED: rc = number("--seed", optarg, 0, UINT64_MAX, &r->seed, err); break;
        case TIMEOUT: rc = number("--timeout", optarg, 1, 3600000, &r->timeout_ms, err); break;
        case JSON: r->json = true; break;
        case 'h': fputs(ap_help_recall, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    if (rc)
        return rc;
    if (argc - optind != 2)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "URL and COLLECTION are wanted");
    r->url = argv[optind];
    r->collection = argv[optind + 1];
    if ((strncmp(r->url, "http://", 7) && strncmp(r->url, "https://", 8)) || strlen(r->url) > 300)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%.100s\" is not like http://127.0.0.1:8201", r->url);
    if (json_object_get(r->params, "exact"))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--params: exact is what the answers are compared with");
    return ap_collection_name_check(r->collection, err);
}

/* ---- asking ---- */

/* The result of a POST; a new reference, NULL on failure. */
static json_t *post(struct recall *r, const char *what, json_t *body, double *ms, struct ap_err *err)
{
    struct ap_fetch one = {.method = "POST"};
    char *text = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (!text)
        abort();
    one.body = text;
    one.len = strlen(text);
    snprintf(one.url, sizeof one.url, "%.300s/collections/%.200s/points/%s", r->url, r->collection, what);
    int64_t start = ap_mono_ns();
    int rc = ap_fetcher_run(r->fetcher, &one, 1, err);
    *ms = (double)(ap_mono_ns() - start) * 1e-6;
    json_t *result = rc ? NULL : ap_fetch_result(&one);
    if (rc == 0 && !result)
        ap_err_set(err, AP_EIO, AP_FATAL, "%s: an answer without a result", one.url);
    ap_fetch_fini(&one);
    free(text);
    json_decref(body);
    return result;
}

static void add(struct recall *r, json_t *vector, json_t *own, json_t *using_)
{
    if (r->n == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 128;
        r->list = realloc(r->list, r->cap * sizeof *r->list);
        if (!r->list)
            abort();
    }
    r->list[r->n++] = (struct question){vector, own, using_};
}

/* ---- questions from a file ---- */

static int on_rows(void *arg, const float *rows, size_t count, size_t dim, uint64_t first, struct ap_err *err)
{
    struct recall *r = arg;
    (void)first, (void)err;
    for (size_t i = 0; i < count; i++) {
        json_t *vector = json_array();
        for (size_t j = 0; j < dim; j++)
            json_array_append_new(vector, json_real((double)rows[i * dim + j]));
        add(r, vector, NULL, NULL);
    }
    return 0;
}

static int add_lines(struct recall *r, char *text, struct ap_err *err)
{
    char *state = NULL;
    for (char *line = strtok_r(text, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
        json_t *one = json_loads(line, 0, NULL), *vector = json_is_array(one) ? one : json_object_get(one, "vector");
        if (!json_is_array(vector)) {
            json_decref(one);
            return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: line %zu is no vector, and no object with one", r->queries, r->n + 1);
        }
        add(r, json_incref(vector), NULL, NULL);
        json_decref(one);
    }
    return 0;
}

static int read_queries(struct recall *r, struct ap_err *err)
{
    const struct ap_rows_options o = {.path = r->queries, .format = r->format};
    const struct ap_npy_sink sink = {NULL, on_rows, r};
    struct ap_rows *rows;
    struct ap_buf body = {0};
    uint64_t n;
    int rc = ap_rows_open(&rows, &o, err);
    if (rc == 0)
        rc = ap_rows_begin(rows, (struct ap_rows_place){0, 0}, err);
    if (rc == 0)
        rc = ap_rows_next(rows, r->count, SIZE_MAX / 2, &body, &n, err);
    if (rc == 0 && ap_rows_is_lines(rows)) {
        ap_buf_append(&body, "", 1);
        rc = add_lines(r, (char *)body.data, err);
    } else if (rc == 0) {
        struct ap_npy *npy = ap_npy_new(&sink);
        rc = ap_npy_feed(npy, body.data, body.len, err);
        ap_npy_free(&npy);
    }
    ap_buf_free(&body);
    ap_rows_close(&rows);
    return rc;
}

/* ---- questions from the collection ---- */

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* The first point at or after an id (NULL: the first of all); a new reference, NULL when there is none or on failure (err->code). */
static json_t *point_at(struct recall *r, json_t *id, struct ap_err *err)
{
    double ms;
    err->code = 0;
    json_t *page = post(r, "scroll", json_pack("{s:i, s:b, s:b, s:o*, s:O*}", "limit", 1, "with_vector", 1, "with_payload", 0, "offset", id, "filter", r->filter), &ms, err);
    json_t *point = json_incref(json_array_get(json_object_get(page, "points"), 0));
    json_decref(page);
    return point;
}

/* Ids at random: UUIDs are even, numbers are taken to be dense from the smallest on. */
static int sample(struct recall *r, struct ap_err *err)
{
    double ms;
    json_t *first = point_at(r, NULL, err), *counted = first ? post(r, "count", json_pack("{s:O*}", "filter", r->filter), &ms, err) : NULL;
    json_t *low = json_object_get(first, "id");
    uint64_t rows = (uint64_t)json_integer_value(json_object_get(counted, "count")), from = (uint64_t)json_integer_value(low);
    int rc = first && counted ? 0 : err->code ? err->code : ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "%s has no points to ask for", r->collection);
    for (uint64_t tries = 0; rc == 0 && r->n < r->sample && tries < 4 * r->sample; tries++) {
        struct ap_point_id id;
        ap_put_be64(id.b, next_random(&r->seed) | 1);
        ap_put_be64(id.b + 8, next_random(&r->seed));
        json_t *at = json_is_integer(low) ? json_integer((json_int_t)(from + next_random(&r->seed) % (rows ? rows : 1))) : ap_point_id_to_json(&id);
        json_t *point = point_at(r, at, err);
        if (!point && err->code) {
            rc = err->code;
            break;
        }
        json_t *vector = json_object_get(point, "vector"), *name = NULL;
        if (json_is_object(vector)) {
            name = json_string(json_object_iter_key(json_object_iter(vector)));
            vector = json_object_iter_value(json_object_iter(vector));
        }
        if (vector)
            add(r, json_incref(vector), json_incref(json_object_get(point, "id")), name);
        json_decref(point);
    }
    json_decref(first);
    json_decref(counted);
    if (rc == 0 && r->n == 0)
        rc = ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "%s: no points were found at random", r->collection);
    return rc;
}

/* ---- measuring ---- */

/* The answer's ids without the question's own, limit at most; a new reference. */
static json_t *ask(struct recall *r, const struct question *q, bool exact, double *ms, struct ap_err *err)
{
    json_t *params = r->params ? json_copy(r->params) : json_object();
    if (exact)
        json_object_set_new(params, "exact", json_true());
    json_t *result = post(r, "query", json_pack("{s:O, s:I, s:o, s:O*, s:O*}", "query", q->vector, "limit", (json_int_t)(r->limit + (q->own ? 1 : 0)), "params",
                                                params, "filter", r->filter, "using", q->using_), ms, err), *hit;
    if (!result)
        return NULL;
    json_t *ids = json_array();
    size_t i;
    json_array_foreach(json_object_get(result, "points"), i, hit) {
        json_t *id = json_object_get(hit, "id");
        if (json_array_size(ids) < r->limit && !(q->own && json_equal(id, q->own)))
            json_array_append(ids, id);
    }
    json_decref(result);
    return ids;
}

static size_t shared(const json_t *a, const json_t *b)
{
    size_t found = 0, i, j;
    json_t *x, *y;
    json_array_foreach(a, i, x)
        json_array_foreach(b, j, y)
            found += json_equal(x, y) ? 1 : 0;
    return found;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static json_t *times(double *ms, size_t n)
{
    qsort(ms, n, sizeof *ms, by_size);
    return json_pack("{s:f, s:f}", "p50_ms", ms[n / 2], "p99_ms", ms[n - 1 - n / 100]);
}

static int measure(struct recall *r, json_t **out, struct ap_err *err)
{
    double *ms = calloc(r->n * 2, sizeof *ms), worst = 1;
    json_t *answers = json_array();
    size_t found = 0, wanted = 0, perfect = 0;
    if (!ms)
        abort();
    for (size_t i = 0; i < r->n; i++) {
        json_t *ids = ask(r, &r->list[i], false, &ms[i], err);
        if (!ids)
            goto failed;
        json_array_append_new(answers, ids);
    }
    for (size_t i = 0; i < r->n; i++) {
        json_t *truth = ask(r, &r->list[i], true, &ms[r->n + i], err);
        if (!truth)
            goto failed;
        size_t hits = shared(json_array_get(answers, i), truth), all = json_array_size(truth);
        found += hits;
        wanted += all;
        perfect += hits == all;
        if (all && (double)hits / (double)all < worst)
            worst = (double)hits / (double)all;
        json_decref(truth);
    }
    *out = json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:o, s:o}", "collection", r->collection, "queries", (json_int_t)r->n, "limit", (json_int_t)r->limit, "recall",
                     wanted ? (double)found / (double)wanted : 1.0, "worst", worst, "perfect", (double)perfect / (double)r->n, "asked", times(ms, r->n), "exact",
                     times(ms + r->n, r->n));
    free(ms);
    json_decref(answers);
    return 0;
failed:
    free(ms);
    json_decref(answers);
    return err->code;
}

static void print(const struct recall *r, const json_t *m)
{
    const json_t *asked = json_object_get(m, "asked"), *exact = json_object_get(m, "exact");
    if (r->json) {
        json_dumpf(m, stdout, JSON_COMPACT | JSON_REAL_PRECISION(5));
        putchar('\n');
        return;
    }
    printf("recall@%" PRIu64 " %.4f over %zu questions (worst %.2f, %.0f %% without a miss)\n", r->limit, json_real_value(json_object_get(m, "recall")), r->n,
           json_real_value(json_object_get(m, "worst")), 100 * json_real_value(json_object_get(m, "perfect")));
    printf("as asked  p50 %7.2f ms  p99 %7.2f ms\nexact     p50 %7.2f ms  p99 %7.2f ms\n", json_real_value(json_object_get(asked, "p50_ms")),
           json_real_value(json_object_get(asked, "p99_ms")), json_real_value(json_object_get(exact, "p50_ms")), json_real_value(json_object_get(exact, "p99_ms")));
}

int ap_cmd_recall(int argc, char **argv)
{
    struct recall r;
    struct ap_err err = {0};
    json_t *measured = NULL;
    int rc = parse(&r, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc) {
        fprintf(stderr, "antipode recall: %s\nTry: antipode recall --help\n", err.msg);
        return 2;
    }
    r.fetcher = ap_fetcher_new((int)r.timeout_ms);
    rc = r.queries ? read_queries(&r, &err) : sample(&r, &err);
    if (rc == 0 && r.n == 0)
        rc = ap_err_set(&err, AP_EINVAL, AP_FATAL, "%s: no questions in it", r.queries);
    if (rc == 0)
        rc = measure(&r, &measured, &err);
    if (rc)
        fprintf(stderr, "antipode recall: %s\n", err.msg);
    else
        print(&r, measured);
    bool low = rc == 0 && json_real_value(json_object_get(measured, "recall")) < r.at_least;
    for (size_t i = 0; i < r.n; i++) {
        json_decref(r.list[i].vector);
        json_decref(r.list[i].own);
        json_decref(r.list[i].using_);
    }
    free(r.list);
    json_decref(measured);
    json_decref(r.params);
    json_decref(r.filter);
    ap_fetcher_free(&r.fetcher);
    return rc || low ? 1 : 0;
}
