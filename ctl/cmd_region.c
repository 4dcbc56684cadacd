/* antipode region: list, read-only, read-write, drain, retire. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/timeutil.h"
#include "ctl/commands.h"
#include "ctl/regions.h"

const char ap_help_region[] =
    "usage: antipode region [list] [--json]\n"
    "       antipode region read-only REGION\n"
    "       antipode region read-write REGION\n"
    "       antipode region drain REGION [--deadline SECONDS]\n"
    "       antipode region retire REGION [--incarnation HEX] [--force]\n"
    "\n"
    "  list         each region's mode, incarnation, age of its last watermark, and how many records of it the others do not\n"
    "               show yet (heartbeats included, so a few are normal)\n"
    "  read-only    its producers refuse writes and say where to write; reads, heartbeats and barriers go on. Survives restarts\n"
    "  read-write   it takes writes again\n"
    "  drain        read-only, and then wait until every other live region shows all that was ever written there, proven by their\n"
    "               watermarks. All producers of the region have to be among the targets. Code 0: nothing is lost without it\n"
    "  retire       it is over: nobody waits for this incarnation any more, what had not arrived by now is never applied, its\n"
    "               tokens are answered 409. It comes back only by a rebuild (docs/operations.md). Said through another\n"
    "               region's producer, so the region itself may be gone. --force: although a live region is not heard of\n"
    "\n"
    "  --deadline SECONDS  how long drain waits (60)\n"
    "  --config FILE, --region NAME --producer URL: the targets, as in `antipode status --help`\n"
    "  --timeout MS        how long to wait for each answer (5000)\n"
    "  --json              print JSON\n"
    "  -h, --help          this text\n"
    "\n"
    "Exit code 0: done. 1: not done, or a producer does not answer. 2: usage, or no such region.\n";

enum { POLL_MS = 100, SAY_MS = 2000, SETTLE_MS = 15000 };

struct region {
    struct ap_targets targets;
    struct ap_fetcher *fetcher;
    const char *verb, *name, *incarnation;
    int timeout_ms, deadline_s;
    bool json, force;
};

/* ---- options ---- */

enum { CONFIG = 256, REGION, PRODUCER, OTHER, TIMEOUT, DEADLINE, INCARNATION, FORCE, JSON };

static int number(const char *what, const char *text, int *out, struct ap_err *err)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < 1 || n > 1000000)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is no such number", what, text);
    *out = (int)n;
    return 0;
}

static int take_option(struct region *r, int option, struct ap_err *err)
{
    switch (option) {
    case CONFIG: return ap_targets_config(&r->targets, optarg, err);
    case REGION: return ap_targets_region(&r->targets, optarg, err);
    case PRODUCER: return ap_targets_url(&r->targets, AP_ROLE_PRODUCER, optarg, err);
    case OTHER: return 0; /* a daemon that other commands ask */
    case TIMEOUT: return number("--timeout", optarg, &r->timeout_ms, err);
    case DEADLINE: return number("--deadline", optarg, &r->deadline_s, err);
    case INCARNATION: r->incarnation = optarg; return 0;
    case FORCE: r->force = true; return 0;
    case JSON: r->json = true; return 0;
    default: return ap_err_set(err, AP_EINVAL, AP_FATAL, "unknown, or without its value");
    }
}

static int check_verb(struct region *r, int left, struct ap_err *err)
{
    static const char *const verbs[] = {"read-only", "read-write", "drain", "retire"};
    bool listing = !strcmp(r->verb, "list"), known = listing;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        known |= !strcmp(r->verb, verbs[i]);
    if (!known)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is none of list, read-only, read-write, drain, retire", r->verb);
    if (left != !listing)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, listing ? "list takes no more words" : "%s needs the name of one region", r->verb);
    if ((r->force || r->incarnation) && strcmp(r->verb, "retire") != 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--force and --incarnation are for retire");
    return 0;
}

/* 1: help was printed. */
static int parse(struct region *r, int argc, char **argv, struct ap_err *err)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, CONFIG}, {"region", required_argument, NULL, REGION}, {"producer", required_argument, NULL, PRODUCER},
        {"consumer", required_argument, NULL, OTHER}, {"indexer", required_argument, NULL, OTHER}, {"timeout", required_argument, NULL, TIMEOUT},
        {"deadline", required_argument, NULL, DEADLINE}, {"incarnation", required_argument, NULL, INCARNATION}, {"force", no_argument, NULL, FORCE},
        {"json", no_argument, NULL, JSON}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    *r = (struct region){.verb = "list", .timeout_ms = 5000, .deadline_s = 60};
    optind = 1;
    for (int c; rc == 0 && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(ap_help_region, stdout);
            return 1;
        }
        if ((rc = take_option(r, c, err)) != 0 && (c == '?' || c == ':'))
            ap_err_wrap(err, "%s", argv[optind - 1]);
    }
    if (rc == 0 && optind < argc)
        r->verb = argv[optind++];
    if (rc == 0)
        rc = check_verb(r, argc - optind, err);
    if (rc == 0 && optind < argc)
        r->name = argv[optind];
    if (rc == 0 && !r->targets.count)
        rc = ap_targets_defaults(&r->targets, err);
    return rc;
}

/* ---- asking producers ---- */

/* The next producer of the region (other: of any other region) from index *at on; NULL: no more. */
static const struct ap_target *next_producer(const struct region *r, bool other, size_t *at)
{
    while (*at < r->targets.count) {
        const struct ap_target *t = &r->targets.list[(*at)++];
        if (t->role == AP_ROLE_PRODUCER && (strcmp(t->region, r->name) == 0) != other)
            return t;
    }
    return NULL;
}

static int post(struct region *r, const char *url, const char *path, const char *body, json_t **result, struct ap_err *err)
{
    struct ap_fetch one = {.method = "POST", .body = body, .len = strlen(body)};
    snprintf(one.url, sizeof one.url, "%s%s", url, path);
    int rc = ap_fetcher_run(r->fetcher, &one, 1, err);
    if (rc && (one.status == 400 || one.status == 404))
        rc = err->code = AP_EINVAL; /* of what was asked for, as the name of a region that is none */
    if (rc == 0 && result)
        *result = ap_fetch_result(&one);
    ap_fetch_fini(&one);
    return rc;
}

static int no_producer(const struct region *r, struct ap_err *err)
{
    return ap_err_set(err, AP_EINVAL, AP_FATAL, "no producer of region %s is among the targets", r->name);
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

/* ---- list, read-only, read-write ---- */

static void print(const struct region *r, json_t *report, void (*people)(const json_t *, FILE *))
{
    if (r->json) {
        json_dumpf(report, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
        fputc('\n', stdout);
    } else {
        people(report, stdout);
    }
    json_decref(report);
}

static int list(struct region *r)
{
    struct ap_regions_view view;
    ap_regions_ask(r->fetcher, &r->targets, &view, stderr);
    bool well = view.answered == view.asked && view.asked > 0;
    if (!view.asked)
        fprintf(stderr, "antipode region: no producer is among the targets\n");
    print(r, ap_regions_report(&view), ap_regions_print);
    ap_regions_fini(&view);
    return well ? 0 : 1;
}

/* Until all of the region's producers say so: each reads it from Kafka. */
static int wait_mode(struct region *r, const char *mode, struct ap_err *err)
{
    int64_t until = ap_mono_ms() + SETTLE_MS;
    for (;;) {
        size_t at = 0, wrong = 0;
        const struct ap_target *t, *last = NULL;
        int rc = 0;
        while ((t = next_producer(r, false, &at)) && rc == 0) {
            struct ap_fetch one = {.method = "GET"};
            snprintf(one.url, sizeof one.url, "%s/antipode/region", t->url);
            rc = ap_fetcher_run(r->fetcher, &one, 1, err);
            json_t *answer = rc ? NULL : ap_fetch_result(&one);
            const char *said = json_string_value(json_object_get(answer, "mode"));
            if (rc == 0 && (!said || strcmp(said, mode) != 0))
                wrong++, last = t;
            json_decref(answer);
            ap_fetch_fini(&one);
        }
        if (rc || !wrong)
            return rc;
        if (ap_mono_ms() > until)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s is not %s yet: does it read its control topic?", last->url, mode);
        pause_ms(POLL_MS);
    }
}

static int set_mode(struct region *r, const char *mode, struct ap_err *err)
{
    size_t at = 0;
    const struct ap_target *t;
    char body[64];
    int rc = no_producer(r, err);
    snprintf(body, sizeof body, "{\"mode\":\"%s\"}", mode);
    while (rc && (t = next_producer(r, false, &at)))
        if ((rc = post(r, t->url, "/antipode/region", body, NULL, err)) == AP_ECONFLICT)
            return rc;
    return rc ? rc : wait_mode(r, mode, err);
}

static int change_mode(struct region *r, const char *mode, struct ap_err *err)
{
    int rc = set_mode(r, mode, err);
    if (rc == 0 && r->json)
        printf("{\"region\":\"%s\",\"mode\":\"%s\"}\n", r->name, mode);
    else if (rc == 0)
        printf("%s is %s\n", r->name, mode);
    return rc;
}

/* ---- drain ---- */

/* A barrier by each of the region's producers: positions behind all that they ever stamped. */
static int barriers(struct region *r, struct ap_token *tokens, size_t *count, struct ap_err *err)
{
    size_t at = 0;
    const struct ap_target *t;
    *count = 0;
    while ((t = next_producer(r, false, &at)) && *count < AP_REGIONS_SEEN) {
        json_t *result = NULL;
        int rc = post(r, t->url, "/antipode/barrier", "", &result, err);
        const char *text = json_string_value(json_object_get(result, "token"));
        if (rc == 0)
            rc = text ? ap_token_parse(text, strlen(text), &tokens[*count], err) : ap_err_set(err, AP_EIO, AP_FATAL, "%s: a barrier without a token", t->url);
        *count += rc == 0;
        json_decref(result);
        if (rc)
            return rc;
    }
    return *count ? 0 : no_producer(r, err);
}

/* What the region itself shows once its barriers are visible there: all that was ever written in it. */
static int all_written(struct region *r, struct ap_token *tokens, size_t count, int64_t until_ms, struct ap_position **out, size_t *n, struct ap_err *err)
{
    for (;;) {
        struct ap_regions_view view;
        bool covered = true;
        ap_regions_ask(r->fetcher, &r->targets, &view, NULL);
        struct ap_region_seen *own = ap_regions_find(&view, r->name);
        for (size_t i = 0; i < count; i++)
            covered = covered && own && ap_token_covered(&tokens[i], own->positions, own->count);
        if (covered) {
            *out = own->positions;
            *n = own->count;
            own->positions = NULL;
        }
        ap_regions_fini(&view);
        if (covered)
            return 0;
        if (ap_mono_ms() > until_ms)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s does not show all of its own writes yet: are its consumer and indexer running, does it have holes?", r->name);
        pause_ms(POLL_MS);
    }
}

struct progress { char text[600]; uint64_t missing; bool unknown; json_t *regions; };

static struct progress look(struct region *r, const struct ap_position *positions, size_t count)
{
    struct ap_regions_view view;
    struct progress p = {.regions = json_object()};
    size_t len = 0;
    ap_regions_ask(r->fetcher, &r->targets, &view, NULL);
    for (size_t i = 0; i < view.count; i++) {
        struct ap_region_seen *to = &view.list[i];
        if (!strcmp(to->name, r->name) || !strcmp(to->mode, "retired"))
            continue;
        uint64_t missing = ap_regions_undrained(to, r->name, positions, count);
        p.unknown |= !to->positions;
        p.missing += missing;
        json_object_set_new(p.regions, to->name, to->positions ? json_integer((json_int_t)missing) : json_null());
        if (len < sizeof p.text)
            len += (size_t)snprintf(p.text + len, sizeof p.text - len, to->positions ? "%s%s %llu to go" : "%s%s not heard of", len ? ", " : "", to->name, (unsigned long long)missing);
    }
    ap_regions_fini(&view);
    return p;
}

static int wait_drained(struct region *r, const struct ap_position *positions, size_t count, int64_t until_ms, struct ap_err *err)
{
    int64_t start = ap_mono_ms(), said = start;
    for (;;) {
        struct progress p = look(r, positions, count);
        int64_t now = ap_mono_ms();
        bool done = !p.missing && !p.unknown && json_object_size(p.regions);
        if ((done || now > until_ms) && r->json) {
            json_t *report = json_pack("{s:s,s:b,s:O}", "region", r->name, "drained", done, "missing", p.regions);
            json_dumpf(report, stdout, JSON_COMPACT);
            fputc('\n', stdout);
            json_decref(report);
        }
        size_t others = json_object_size(p.regions);
        json_decref(p.regions);
        if (done) {
            if (!r->json)
                printf("%s is drained: all it ever wrote is visible in %zu other region%s (%.1f s)\n", r->name, others, others == 1 ? "" : "s", (double)(now - start) / 1000);
            return 0;
        }
        if (now > until_ms)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s is read-only but not drained within %d s: %s", r->name, r->deadline_s, *p.text ? p.text : "no other region is known");
        if (now - said >= SAY_MS || (now - said >= 500 && isatty(2))) {
            fprintf(stderr, "%s\n", p.text);
            said = now;
        }
        pause_ms(POLL_MS);
    }
}

static int drain(struct region *r, struct ap_err *err)
{
    struct ap_token tokens[AP_REGIONS_SEEN];
    struct ap_position *positions = NULL;
    size_t count = 0, n = 0;
    int64_t until = ap_mono_ms() + r->deadline_s * INT64_C(1000);
    int rc = set_mode(r, "read-only", err);
    if (rc == 0)
        fprintf(stderr, "%s is read-only\n", r->name);
    if (rc == 0)
        rc = barriers(r, tokens, &count, err);
    if (rc == 0)
        rc = all_written(r, tokens, count, until, &positions, &n, err);
    if (rc == 0)
        rc = wait_drained(r, positions, n, until, err);
    for (size_t i = 0; i < count; i++)
        ap_token_fini(&tokens[i]);
    free(positions);
    return rc;
}

/* ---- retire ---- */

/* Through the first producer that answers, of another region if there is any: this one's may be gone. */
static int retire(struct region *r, struct ap_err *err)
{
    json_t *body = json_pack("{s:s,s:b,s:s*}", "region", r->name, "force", r->force, "incarnation", r->incarnation), *result = NULL;
    char *text = json_dumps(body, JSON_COMPACT);
    const struct ap_target *t = NULL;
    int rc = AP_ENOTFOUND;
    ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "no producer is among the targets");
    for (int other = 1; rc && other >= 0; other--)
        for (size_t at = 0; rc && (t = next_producer(r, other, &at));)
            if ((rc = post(r, t->url, "/antipode/region/retire", text, &result, err)) == AP_ECONFLICT)
                other = -1, at = r->targets.count; /* an answer, not an outage */
    if (rc == 0 && r->json)
        printf("{\"region\":\"%s\",\"mode\":\"retired\"}\n", r->name);
    else if (rc == 0)
        printf("%s is retired, said by %s\nNext: antipode verify among the others, with --all --repair; what one of them has and another lacks is "
               "brought over\n", r->name, t->region);
    free(text);
    json_decref(body);
    json_decref(result);
    return rc;
}

int ap_cmd_region(int argc, char **argv)
{
    struct region r;
    struct ap_err err = {0};
    int rc = parse(&r, argc, argv, &err), code;
    if (rc) {
        code = rc > 0 ? 0 : 2;
        if (rc < 0)
            fprintf(stderr, "antipode region: %s\nTry: antipode region --help\n", err.msg);
        ap_targets_free(&r.targets);
        return code;
    }
    r.fetcher = ap_fetcher_new(r.timeout_ms);
    if (!strcmp(r.verb, "list"))
        code = list(&r);
    else {
        rc = !strcmp(r.verb, "drain") ? drain(&r, &err) : !strcmp(r.verb, "retire") ? retire(&r, &err)
             : change_mode(&r, !strcmp(r.verb, "read-only") ? "read-only" : "active", &err);
        code = rc == AP_EINVAL ? 2 : rc ? 1 : 0;
        if (rc)
            fprintf(stderr, "antipode region: %s\n", err.msg);
    }
    ap_fetcher_free(&r.fetcher);
    ap_targets_free(&r.targets);
    return code;
}
