/* antipode status, antipode lag: ask the daemons, report. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/commands.h"
#include "ctl/report.h"

#define TARGET_HELP \
    "Which daemons to ask:\n" \
    "  --config FILE      a daemon's configuration file: its region and http.listen; may be given many times\n" \
    "  --region NAME      region of the URLs that follow\n" \
    "  --producer URL, --consumer URL, --indexer URL\n" \
    "Without any: the files in ANTIPODE_TARGETS, separated by colons; without that, regions eu and us on\n" \
    "127.0.0.1, producers 8101 8102, indexers 8201 8202, consumers 8301 8302.\n" \
    "\n" \
    "  --timeout MS       how long to wait for each answer (2000)\n" \
    "  --json             print JSON\n" \
    "  -h, --help         this text\n"

const char ap_help_status[] =
    "usage: antipode status [--config FILE]... [--region NAME [--producer URL] [--consumer URL] [--indexer URL]]... [--json]\n"
    "\n"
    "One page that says which region lags, and why: its daemons and the reason of those that are not ready, the\n"
    "lag behind each origin, missing records, dead letters, sizes. Exit code 0 when all is well, 1 when a daemon is down\n"
    "or not ready, records are missing, or a partition waits for a schema.\n"
    "\n" TARGET_HELP;

const char ap_help_lag[] =
    "usage: antipode lag [--config FILE]... [--region NAME --consumer URL]... [--json]\n"
    "\n"
    "How far each region is behind each origin, partition by partition: seconds since the newest record applied (it\n"
    "grows when a link, a mirror, a partition or a daemon hangs), and records that wait in the region's own Kafka. Many\n"
    "seconds with no records waiting: the records do not arrive; look at the mirror, the link or the origin's producer.\n"
    "Exit code 0, or 1 when a consumer does not answer.\n"
    "\n" TARGET_HELP;

struct request {
    struct ap_targets targets;
    int timeout_ms;
    bool json;
};

static int usage(const char *command, const char *why)
{
    fprintf(stderr, "antipode %s: %s\nTry: antipode %s --help\n", command, why, command);
    return 2;
}

/* 0: go on; 1: help was printed; negative: *err says why not. */
static int parse(struct request *r, int argc, char **argv, const char *help, struct ap_err *err)
{
    enum { CONFIG = 256, REGION, PRODUCER, CONSUMER, INDEXER, TIMEOUT, JSON };
    static const struct option options[] = {
        {"config", required_argument, NULL, CONFIG}, {"region", required_argument, NULL, REGION},
        {"producer", required_argument, NULL, PRODUCER}, {"consumer", required_argument, NULL, CONSUMER},
        {"indexer", required_argument, NULL, INDEXER}, {"timeout", required_argument, NULL, TIMEOUT},
        {"json", no_argument, NULL, JSON}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    r->timeout_ms = 2000;
    optind = 1;
    for (int c; !rc && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (c) {
        case CONFIG: rc = ap_targets_config(&r->targets, optarg, err); break;
        case REGION: rc = ap_targets_region(&r->targets, optarg, err); break;
        case PRODUCER: rc = ap_targets_url(&r->targets, AP_ROLE_PRODUCER, optarg, err); break;
        case CONSUMER: rc = ap_targets_url(&r->targets, AP_ROLE_CONSUMER, optarg, err); break;
        case INDEXER: rc = ap_targets_url(&r->targets, AP_ROLE_INDEXER, optarg, err); break;
        case TIMEOUT:
            r->timeout_ms = atoi(optarg);
            if (r->timeout_ms <= 0)
                rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--timeout: \"%s\" is no number of milliseconds", optarg);
            break;
        case JSON: r->json = true; break;
        case 'h': fputs(help, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    if (!rc && optind < argc)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is too much", argv[optind]);
    if (!rc && !r->targets.count)
        rc = ap_targets_defaults(&r->targets, err);
    return rc;
}

static int failed(const char *command, int rc, const struct ap_err *err)
{
    if (rc == AP_EINVAL)
        return usage(command, err->msg);
    fprintf(stderr, "antipode %s: %s\n", command, err->msg);
    return 1;
}

static void print(json_t *report, bool json, void (*print_text)(const json_t *, FILE *))
{
    if (json) {
        json_dumpf(report, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
        fputc('\n', stdout);
    } else {
        print_text(report, stdout);
    }
}

int ap_cmd_status(int argc, char **argv)
{
    struct request r = {0};
    struct ap_err err;
    int rc = parse(&r, argc, argv, ap_help_status, &err);
    if (!rc) {
        ap_targets_fetch(&r.targets, r.timeout_ms);
        json_t *report = ap_report_status(&r.targets);
        print(report, r.json, ap_report_print_status);
        rc = json_is_true(json_object_get(report, "well")) ? 0 : 1;
        json_decref(report);
    } else {
        rc = rc > 0 ? 0 : failed("status", rc, &err);
    }
    ap_targets_free(&r.targets);
    return rc;
}

/* A lag that nobody reports is worse than a long one: say whose is missing. */
static int count_silent(const struct ap_targets *t)
{
    int silent = 0;
    for (size_t i = 0; i < t->count; i++) {
        const struct ap_target *one = &t->list[i];
        if (one->up || (one->role != AP_ROLE_CONSUMER && one->role != AP_ROLE_UNKNOWN))
            continue;
        fprintf(stderr, "antipode lag: the %s of %s (%s) does not answer: %s\n", ap_role_name(one->role),
                *one->region ? one->region : "an unknown region", one->url, one->why);
        silent++;
    }
    return silent;
}

int ap_cmd_lag(int argc, char **argv)
{
    struct request r = {0};
    struct ap_err err;
    int rc = parse(&r, argc, argv, ap_help_lag, &err);
    if (!rc) {
        ap_targets_fetch(&r.targets, r.timeout_ms);
        json_t *report = ap_report_lag(&r.targets);
        print(report, r.json, ap_report_print_lag);
        json_decref(report);
        rc = count_silent(&r.targets) ? 1 : 0;
    } else {
        rc = rc > 0 ? 0 : failed("lag", rc, &err);
    }
    ap_targets_free(&r.targets);
    return rc;
}
