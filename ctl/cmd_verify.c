/* antipode verify: compare, print, mend, compare again. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "ctl/commands.h"
#include "ctl/holes.h"
#include "ctl/mend.h"
#include "ctl/report_verify.h"
#include "ctl/targets.h"

const char ap_help_verify[] =
    "usage: antipode verify REGION REGION... [--collection C]... [--scrub] [--repair [--dry-run]] [--json]\n"
    "\n"
    "Do regions hold the same rows? Compares sums of buckets, then rows where sums differ, and lists every difference:\n"
    "\n"
    "  missing    not there, though it should be        older    an older version than the other region has\n"
    "  extra      there, though its home deleted it     bytes    the same version, but other bytes\n"
    "  damaged    its checksum fails                    lost     its checksum fails in both regions\n"
    "  undecided  in one region only, older than the tombstones that are kept; --prefer decides\n"
    "\n"
    "Writes under way are none: a difference must be about changes that both regions have applied, and is looked at twice.\n"
    "\n"
    "  REGION             name of a region among the targets, or the URL of an indexer\n"
    "  --collection C     this collection only; may be given many times\n"
    "  --scrub            do not trust the sums: read every row, check its checksum, and compare sums and index with the rows\n"
    "  --repair           publish the better row again, with its version; mend indexes and sums (with --scrub)\n"
    "                     and then close holes: records that never came. Where the regions are equal and one of them has\n"
    "                     had the records, nothing was lost; --accept-loss closes the others, too, for good\n"
    "  --prefer REGION    what to believe where neither versions nor the home region decide\n"
    "  --dry-run          with --repair: only say what it would do\n"
    "  --settle MS        how long to wait for writes under way (3000)\n"
    "  --all              also list what may be under way still: for streams that have stopped for good\n"
    "  --watch SECONDS    again and again; --metrics FILE: write what is found as metrics, for a collector of text files\n"
    "  --config FILE, --region NAME --indexer URL: the targets, as in `antipode status --help`\n"
    "  --timeout MS       how long to wait for each answer (30000)\n"
    "  --limit N          print at most so many differences a collection (1000; --json prints all)\n"
    "  --json             print JSON\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit code 0: equal (after --repair: now equal). 1: different, or a region cannot be asked. 2: usage.\n";

enum { REGIONS_MAX = 16, COLLECTIONS_MAX = 1024, FINAL_WAIT_MS = 15000 };

struct verify {
    struct ap_targets targets;
    struct ap_side regions[REGIONS_MAX]; size_t region_count;
    char *collections[COLLECTIONS_MAX]; size_t collection_count;
    struct ap_compare_options options;
    bool repair, accept_loss, dry_run, json;
    bool chosen; /* collections were named: equal says nothing about the others */
    json_t *holes; /* what was done about holes */
    const char *metrics;
    int timeout_ms, watch_s;
    size_t limit;
    struct ap_fetcher *fetcher;
};

/* --- options --- */

static int number(const char *what, const char *text, int low, int *out, struct ap_err *err)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < low || n > 1000000000)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is no such number", what, text);
    *out = (int)n;
    return 0;
}

static int add_collection(struct verify *v, const char *name, struct ap_err *err)
{
    if (v->collection_count == COLLECTIONS_MAX || ap_collection_name_check(name, err))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--collection: \"%.100s\" is no collection's name, or one too many", name);
    for (size_t i = 0; i < v->collection_count; i++)
        if (!strcmp(v->collections[i], name))
            return 0;
    v->collections[v->collection_count++] = strdup(name);
    return 0;
}

enum { COLLECTION = 256, SCRUB, REPAIR, ACCEPT_LOSS, PREFER, DRY_RUN, SETTLE, ALL, WATCH, METRICS, CONFIG, REGION, INDEXER, OTHER, TIMEOUT, LIMIT, JSON };

static int take_option(struct verify *v, int option, struct ap_err *err)
{
    int n = 0, rc = 0;
    switch (option) {
    case COLLECTION: return add_collection(v, optarg, err);
    case SCRUB: v->options.scrub = true; break;
    case REPAIR: v->repair = true; break;
    case ACCEPT_LOSS: v->accept_loss = true; break;
    case PREFER: v->options.prefer = optarg; break;
    case DRY_RUN: v->dry_run = true; break;
    case SETTLE: return number("--settle", optarg, 0, &v->options.settle_ms, err);
    case ALL: v->options.all = true; break;
    case WATCH: return number("--watch", optarg, 1, &v->watch_s, err);
    case METRICS: v->metrics = optarg; break;
    case CONFIG: return ap_targets_config(&v->targets, optarg, err);
    case REGION: return ap_targets_region(&v->targets, optarg, err);
    case OTHER: break; /* a daemon that other commands ask */
    case INDEXER: return ap_targets_url(&v->targets, AP_ROLE_INDEXER, optarg, err);
    case TIMEOUT: return number("--timeout", optarg, 1, &v->timeout_ms, err);
    case LIMIT:
        rc = number("--limit", optarg, 0, &n, err);
        v->limit = rc ? 0 : (size_t)n;
        break;
    case JSON: v->json = true; break;
    default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "unknown, or without its value");
    }
    return rc;
}

/* A region by name gets all of its indexers among the targets. */
static int add_region(struct verify *v, const char *name, struct ap_err *err)
{
    if (v->region_count == REGIONS_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "more than %d regions", REGIONS_MAX);
    struct ap_side *side = &v->regions[v->region_count++];
    if (strchr(name, ':')) {
        struct ap_targets one = {0};
        int rc = ap_targets_url(&one, AP_ROLE_INDEXER, name, err);
        if (rc == 0)
            memcpy(side->indexers[side->count++], one.list[0].url, sizeof side->indexers[0]);
        ap_targets_free(&one);
        return rc;
    }
    snprintf(side->region, sizeof side->region, "%s", name);
    for (size_t i = 0; i < v->targets.count && side->count < AP_SIDE_WORKERS; i++)
        if (v->targets.list[i].role == AP_ROLE_INDEXER && !strcmp(v->targets.list[i].region, name))
            memcpy(side->indexers[side->count++], v->targets.list[i].url, sizeof side->indexers[0]);
    return side->count ? 0 : ap_err_set(err, AP_EINVAL, AP_FATAL, "no indexer of a region \"%s\" is among the targets", name);
}

/* 1: help was printed. */
static int parse(struct verify *v, int argc, char **argv, struct ap_err *err)
{
    static const struct option options[] = {
        {"collection", required_argument, NULL, COLLECTION}, {"scrub", no_argument, NULL, SCRUB}, {"repair", no_argument, NULL, REPAIR}, {"accept-loss", no_argument, NULL, ACCEPT_LOSS},
        {"prefer", required_argument, NULL, PREFER}, {"dry-run", no_argument, NULL, DRY_RUN}, {"settle", required_argument, NULL, SETTLE},
        {"all", no_argument, NULL, ALL}, {"watch", required_argument, NULL, WATCH}, {"metrics", required_argument, NULL, METRICS}, {"config", required_argument, NULL, CONFIG},
        {"region", required_argument, NULL, REGION}, {"indexer", required_argument, NULL, INDEXER}, {"producer", required_argument, NULL, OTHER}, {"consumer", required_argument, NULL, OTHER}, {"timeout", required_argument, NULL, TIMEOUT},
        {"limit", required_argument, NULL, LIMIT}, {"json", no_argument, NULL, JSON}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    *v = (struct verify){.options = {.settle_ms = 3000}, .timeout_ms = 30000, .limit = 1000};
    optind = 1;
    for (int c; rc == 0 && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(ap_help_verify, stdout);
            return 1;
        }
        if ((rc = take_option(v, c, err)) != 0 && (c == '?' || c == ':'))
            ap_err_wrap(err, "%s", argv[optind - 1]);
    }
    if (rc == 0 && argc - optind < 2)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "two regions are needed");
    if (rc == 0 && v->dry_run && !v->repair)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--dry-run is for --repair: verify alone changes nothing");
    if (rc == 0 && v->accept_loss && (!v->repair || v->dry_run))
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--accept-loss is for --repair");
    if (rc == 0 && !v->targets.count)
        rc = ap_targets_defaults(&v->targets, err);
    for (int i = optind; rc == 0 && i < argc; i++)
        rc = add_region(v, argv[i], err);
    return rc;
}

/* --- collections --- */

static int learn_collections(struct verify *v, struct ap_err *err)
{
    for (size_t r = 0; r < v->region_count; r++) {
        struct ap_fetch one = {.method = "GET"};
        size_t i;
        json_t *c;
        snprintf(one.url, sizeof one.url, "%s/collections", v->regions[r].indexers[0]);
        int rc = ap_fetcher_run(v->fetcher, &one, 1, err);
        json_t *result = rc ? NULL : ap_fetch_result(&one);
        json_array_foreach(json_object_get(result, "collections"), i, c) {
            const char *name = json_string_value(json_object_get(c, "name"));
            if (rc == 0 && name)
                rc = add_collection(v, name, err);
        }
        json_decref(result);
        ap_fetch_fini(&one);
        if (rc)
            return rc;
    }
    return 0;
}

/* --- one pair, one collection --- */

static int mend(struct verify *v, struct ap_side sides[2], const char *collection, struct ap_comparison *c, struct ap_mended *mended, struct ap_err *err)
{
    bool indexes[2], digests[2], any = false, wrong = false;
    for (int side = 0; side < 2; side++) {
        /* What was published changes rows under the index; whatever is then still wrong there is found by scrubbing again. */
        indexes[side] = v->options.scrub && (ap_verify_index_findings(&sides[side]) || c->found);
        digests[side] = ap_side_scrubbed(&sides[side], "digests", NULL) || c->buckets;
        any |= indexes[side];
        wrong |= digests[side];
    }
    int rc = ap_mend_rows(v->fetcher, sides, collection, &v->options, c, mended, err);
    if (rc == 0 && any)
        rc = ap_mend_indexes(v->fetcher, sides, indexes, collection, err);
    if (rc == 0 && wrong)
        rc = ap_mend_digests(v->fetcher, sides, digests, collection, err);
    return rc;
}

/* Until it is equal, or time is up: sums are counted anew by the consumers' next batches. */
static int compare_after(struct verify *v, struct ap_side sides[2], const char *collection, struct ap_comparison *c, struct ap_err *err)
{
    int64_t until = ap_mono_ms() + FINAL_WAIT_MS;
    struct timespec pause = {0, 500000000};
    for (;;) {
        ap_comparison_fini(c);
        int rc = ap_compare(v->fetcher, sides, collection, &v->options, c, err);
        if (rc || ap_verify_is_equal(sides, c) || ap_mono_ms() > until)
            return rc;
        nanosleep(&pause, NULL);
    }
}

/* 0: equal; 1: different; negative: could not be compared. */
static int one(struct verify *v, struct ap_side sides[2], const char *collection, json_t *report, struct ap_err *err)
{
    struct ap_comparison c;
    struct ap_mended mended = {0};
    int64_t start = ap_mono_ns();
    uint64_t bytes = ap_fetcher_bytes(v->fetcher);
    int rc = ap_compare(v->fetcher, sides, collection, &v->options, &c, err);
    if (rc == AP_ENOTFOUND) {
        c.collection_missing[0] = strncmp(strchr(err->msg, ' ') + 1, sides[0].indexers[0], strlen(sides[0].indexers[0])) == 0;
        c.collection_missing[1] = !c.collection_missing[0];
        rc = 0;
    }
    if (rc == 0) {
        json_t *found = ap_report_comparison(sides, collection, &c, (double)(ap_mono_ns() - start) * 1e-9, ap_fetcher_bytes(v->fetcher) - bytes);
        bool equal = ap_verify_is_equal(sides, &c);
        if (v->repair && !equal && !c.other_generation && !c.collection_missing[0] && !c.collection_missing[1]) {
            struct ap_mended planned = ap_mend_plan(&c);
            if (!v->dry_run)
                rc = mend(v, sides, collection, &c, &mended, err);
            if (rc == 0 && !v->dry_run)
                rc = compare_after(v, sides, collection, &c, err);
            equal = rc == 0 && !v->dry_run && ap_verify_is_equal(sides, &c);
            ap_report_repair(found, v->dry_run ? &planned : &mended, v->dry_run, equal);
        }
        json_array_append_new(report, found);
        rc = rc ? rc : !equal;
    }
    ap_comparison_fini(&c);
    return rc;
}

/* ---- holes of a pair ---- */

static int ask_holes(struct verify *v, struct ap_side sides[2], struct ap_holes holes[2], struct ap_err *err)
{
    for (int side = 0; side < 2; side++) {
        int rc = ap_holes_ask(v->fetcher, &sides[side], &holes[side], err);
        if (rc)
            return rc;
        if (holes[side].records)
            fprintf(stderr, "antipode verify: %s is missing %llu records below newer ones%s\n", holes[side].region, (unsigned long long)holes[side].records,
                    v->repair ? "; rows that differ are published again" : ": --repair brings what was in them, and closes them");
    }
    return 0;
}

/* Each row in which the two differ goes from the one that had the records to the one that misses them, and is waited for. */
static int bring_collection(struct verify *v, struct ap_side sides[2], const char *collection, const struct ap_holes holes[2], struct ap_published published[2],
                            struct ap_err *err)
{
    struct ap_compare_options options = v->options;
    struct ap_comparison c;
    options.all = true; /* behind a hole everything is under way */
    int rc = ap_compare(v->fetcher, sides, collection, &options, &c, err);
    if (rc == 0 && c.other_generation)
        rc = ap_err_set(err, AP_ECONFLICT, AP_RETRY, "the two hold different generations of it");
    for (int side = 0; side < 2 && rc == 0; side++)
        if (holes[side].records)
            rc = ap_mend_bring(v->fetcher, sides, collection, !side, &c, &published[side], err);
    ap_comparison_fini(&c);
    return rc ? ap_err_wrap(err, "%s", collection) : 0;
}

static int bring_rows(struct verify *v, struct ap_side sides[2], const struct ap_holes holes[2], struct ap_published published[2], struct ap_err *err)
{
    int rc = learn_collections(v, err); /* after the positions were asked: a record in a hole may be of a new one */
    for (size_t i = 0; i < v->collection_count && rc == 0; i++)
        rc = bring_collection(v, sides, v->collections[i], holes, published, err);
    for (int side = 0; side < 2 && rc == 0; side++)
        if (published[side].count)
            rc = ap_holes_wait(v->fetcher, &sides[side], &holes[!side], &published[side], err);
    return rc;
}

/* 1: some stay open. */
static int close_holes(struct verify *v, struct ap_side sides[2], const struct ap_holes holes[2], const struct ap_published published[2], bool brought, struct ap_err *err)
{
    int rc = 0, open = 0;
    for (int side = 0; side < 2 && rc == 0; side++) {
        struct ap_holes_closed done;
        if (!holes[side].records)
            continue;
        rc = ap_holes_close(v->fetcher, &sides[side], &holes[!side], brought, v->accept_loss, &done, err);
        json_array_append_new(v->holes, json_pack("{s:s,s:I,s:I,s:I,s:I}", "region", sides[side].region, "proven", (json_int_t)done.proven, "accepted",
                                                  (json_int_t)done.accepted, "open", (json_int_t)done.open, "rows", (json_int_t)published[side].rows));
        if (!v->json && rc == 0)
            printf("%s: %llu missing records closed, their effect is there (%llu rows were published again by %s); %llu accepted as lost; %llu open\n",
                   sides[side].region, (unsigned long long)done.proven, (unsigned long long)published[side].rows, sides[!side].region,
                   (unsigned long long)done.accepted, (unsigned long long)done.open);
        if (done.open && rc == 0)
            fprintf(stderr, "antipode verify: %s still waits for %llu records: compare it with a region that has them, or give them up with --accept-loss\n",
                    sides[side].region, (unsigned long long)done.open);
        open |= done.open != 0;
    }
    return rc ? rc : open;
}

/* Before anything else, because behind a hole nothing can be told from a write under way. 1: some stay open, or it could not be tried. */
static int mend_holes(struct verify *v, struct ap_side sides[2], const struct ap_holes holes[2])
{
    struct ap_published published[2] = {{0}};
    struct ap_err err = {0};
    int rc = v->chosen ? 0 : bring_rows(v, sides, holes, published, &err);
    if (rc < 0)
        fprintf(stderr, "antipode verify: %s\n", err.msg);
    int open = close_holes(v, sides, holes, published, rc == 0 && !v->chosen, &err);
    if (open < 0)
        fprintf(stderr, "antipode verify: %s\n", err.msg);
    ap_published_fini(&published[0]);
    ap_published_fini(&published[1]);
    return rc || open;
}

static int pair(struct verify *v, const struct ap_side *a, const struct ap_side *b, json_t *report)
{
    struct ap_err err = {0};
    struct ap_side sides[2] = {*a, *b};
    struct ap_holes holes[2] = {{0}};
    bool all = v->options.all;
    int worst = 0;
    if (ask_holes(v, sides, holes, &err)) {
        fprintf(stderr, "antipode verify: %s\n", err.msg);
        worst = 1;
    }
    if (v->repair && (holes[0].records || holes[1].records)) {
        int open = v->dry_run || mend_holes(v, sides, holes);
        v->options.all = all || open; /* of what stays open, at least the rows */
        worst |= open && !v->dry_run;
    }
    for (size_t i = 0; i < v->collection_count; i++) {
        int rc = one(v, sides, v->collections[i], report, &err);
        if (rc < 0)
            fprintf(stderr, "antipode verify: %s: %s\n", v->collections[i], err.msg);
        worst |= rc != 0;
    }
    v->options.all = all;
    ap_holes_fini(&holes[0]);
    ap_holes_fini(&holes[1]);
    ap_sides_close(v->fetcher, sides);
    ap_side_fini(&sides[0]);
    ap_side_fini(&sides[1]);
    return worst;
}

/* Whole or not at all: a collector may read at any time. */
static int write_metrics(const struct verify *v, const json_t *report)
{
    char beside[4096];
    int n = snprintf(beside, sizeof beside, "%s.new", v->metrics);
    FILE *f = n < (int)sizeof beside ? fopen(beside, "we") : NULL;
    if (f)
        ap_report_print_metrics(report, ap_wall_ms() / 1000, f);
    if (f && fclose(f) == 0 && rename(beside, v->metrics) == 0)
        return 0;
    perror(v->metrics);
    return 1;
}

static int run(struct verify *v)
{
    json_t *report = json_array();
    int worst = 0;
    v->holes = json_array();
    for (size_t i = 0; i < v->region_count; i++)
        for (size_t j = i + 1; j < v->region_count; j++)
            worst |= pair(v, &v->regions[i], &v->regions[j], report);
    if (v->json) {
        json_t *all = json_pack("{s:b,s:O,s:O}", "equal", worst == 0, "comparisons", report, "holes", v->holes);
        json_dumpf(all, stdout, v->watch_s ? JSON_COMPACT : JSON_INDENT(1));
        fputc('\n', stdout);
        json_decref(all);
    } else {
        ap_report_print_verify(report, v->limit, stdout);
    }
    fflush(stdout);
    if (v->metrics)
        worst |= write_metrics(v, report);
    json_decref(report);
    json_decref(v->holes);
    return worst;
}

int ap_cmd_verify(int argc, char **argv)
{
    struct verify v;
    struct ap_err err = {0};
    int rc = parse(&v, argc, argv, &err);
    if (rc < 0)
        fprintf(stderr, "antipode verify: %s\nTry: antipode verify --help\n", err.msg);
    if (rc) {
        rc = rc > 0 ? 0 : 2;
    } else {
        v.fetcher = ap_fetcher_new(v.timeout_ms);
        bool given = v.chosen = v.collection_count > 0;
        do {
            rc = given ? 0 : learn_collections(&v, &err);
            if (rc)
                fprintf(stderr, "antipode verify: %s\n", err.msg);
            rc = rc ? 1 : run(&v);
        } while (v.watch_s && !nanosleep(&(struct timespec){v.watch_s, 0}, NULL));
        ap_fetcher_free(&v.fetcher);
    }
    for (size_t i = 0; i < v.collection_count; i++)
        free(v.collections[i]);
    ap_targets_free(&v.targets);
    return rc;
}
