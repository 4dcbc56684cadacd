/* antipode rebuild: options, progress, result. */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ctl/commands.h"
#include "ctl/rebuild.h"

const char ap_help_rebuild[] =
    "usage: antipode rebuild --config CONSUMER.conf --config INDEXER.conf [--from-snapshot SNAPSHOT] [--fresh] [--json]\n"
    "\n"
    "Builds a worker's store and index anew from the logs, beside those that serve, and exchanges them under the running daemons\n"
    "when it has all that they have. Run it on their machine. It may be interrupted at any time, and goes on where it was.\n"
    "\n"
    "  --config FILE            the consumer's and the indexer's configuration files\n"
    "  --from-snapshot FOLDER   begin with a snapshot of this region instead of the logs' beginning\n"
    "  --fresh                  throw away what an interrupted rebuild has left\n"
    "  --accept-holes           exchange though the logs no longer hold all that the serving store has\n"
    "  --settle S               how long to wait for the last records, in seconds (30)\n"
    "  --json                   print the result as JSON\n"
    "  -h, --help               this text\n"
    "\n"
    "Exit code 0: exchanged. 1: not, and why; what served goes on serving. 2: usage.\n";

struct request { struct ap_places places; struct ap_rebuild_options o; bool json; };

static volatile int interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static int parse(struct request *q, int argc, char **argv, struct ap_err *err)
{
    enum { CONFIG = 256, SNAPSHOT, FRESH, ACCEPT, SETTLE, JSON };
    static const struct option options[] = {
        {"config", 1, NULL, CONFIG}, {"from-snapshot", 1, NULL, SNAPSHOT}, {"fresh", 0, NULL, FRESH}, {"accept-holes", 0, NULL, ACCEPT},
        {"settle", 1, NULL, SETTLE}, {"json", 0, NULL, JSON}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    char *end;
    q->o.settle_ms = 30000;
    optind = 1;
    for (int c; !rc && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (c) {
        case CONFIG: rc = ap_places_config(&q->places, optarg, err); break;
        case SNAPSHOT: q->o.snapshot = optarg; break;
        case FRESH: q->o.fresh = true; break;
        case ACCEPT: q->o.accept_holes = true; break;
        case SETTLE:
            q->o.settle_ms = (int)strtol(optarg, &end, 10) * 1000;
            if (*end || end == optarg || q->o.settle_ms < 0 || q->o.settle_ms > 86400000)
                rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--settle: \"%s\" is no number of seconds", optarg);
            break;
        case JSON: q->json = true; break;
        case 'h': fputs(ap_help_rebuild, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    if (!rc && optind < argc)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is too much", argv[optind]);
    if (!rc && (!*q->places.consumer_config || !*q->places.indexer_config))
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--config FILE twice: that of the consumer, and that of the indexer");
    if (!rc && (strlen(q->places.store) > 3000 || strlen(q->places.index) > 3000))
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "a path is too long");
    return rc;
}

static void draw(void *arg, const char *what, double share, uint64_t rows)
{
    (void)arg;
    if (!isatty(STDERR_FILENO))
        return;
    if (share >= 0)
        fprintf(stderr, "\r\033[K%3d%%  ", (int)(share * 100));
    else
        fprintf(stderr, "\r\033[K");
    fprintf(stderr, "%" PRIu64 " rows  %s", rows, what);
    fflush(stderr);
}

int ap_cmd_rebuild(int argc, char **argv)
{
    struct request q = {0};
    struct ap_rebuild_result done;
    struct ap_err err = {0};
    int rc = parse(&q, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc) {
        fprintf(stderr, "antipode rebuild: %s\nTry: antipode rebuild --help\n", err.msg);
        return 2;
    }
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    q.o.places = &q.places;
    q.o.progress = draw;
    rc = ap_rebuild(&q.o, &interrupted, &done, &err);
    if (isatty(STDERR_FILENO))
        fputc('\n', stderr);
    if (rc > 0)
        fputs("antipode rebuild: interrupted; nothing was exchanged, and the same command goes on where it was\n", stderr);
    else if (rc)
        fprintf(stderr, "antipode rebuild: %s\n", err.msg);
    else if (q.json)
        printf("{\"rows\": %" PRIu64 ", \"missing\": %" PRIu64 ", \"resumed\": %s, \"build_seconds\": %.3f, \"handover_seconds\": %.3f}\n", done.rows, done.missing,
               done.resumed ? "true" : "false", done.build_seconds, done.handover_seconds);
    else
        printf("%" PRIu64 " rows rebuilt in %.1f s, exchanged in %.1f s; what served before is %s.old and %s.old\n", done.rows, done.build_seconds,
               done.handover_seconds, q.places.store, q.places.index);
    return rc ? 1 : 0;
}
