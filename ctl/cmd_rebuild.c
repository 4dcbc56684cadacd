/* antipode rebuild: options, progress, result. */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/timeutil.h"
#include "ctl/commands.h"
#include "ctl/rebuild.h"

const char ap_help_rebuild[] =
    "usage: antipode rebuild --config CONSUMER.conf --config INDEXER.conf [--from-snapshot SNAPSHOT]\n"
    "       [--from-time TIME | --from-offset TOPIC[P]=N ...] [--fresh] [--remove-old] [--json]\n"
    "\n"
    "Builds a worker's store and index anew from the logs, beside those that serve, and exchanges them under the running daemons\n"
    "when it has all that they have. Run it on their machine. It may be interrupted at any time, and goes on where it was.\n"
    "\n"
    "  --config FILE            the consumer's and the indexer's configuration files\n"
    "  --from-snapshot FOLDER   begin with a snapshot of this region instead of the logs' beginning\n"
    "  --from-time TIME         begin with a copy of the serving store (or the snapshot), and read again what the logs hold since then,\n"
    "                           as 2026-11-21T10:00:00Z, or 90s, 15m, 2h, 3d ago. Rows that nothing since then touches stay as they are\n"
    "                           there; rows that were lost or damaged and written since then come back\n"
    "  --from-offset TOPIC=N    the same from an offset of this region's topic on, TOPIC[P]=N of one partition; may be given several\n"
    "                           times, what is not named is not read again\n"
    "  --fresh                  throw away what an interrupted rebuild has left\n"
    "  --accept-holes           exchange though the logs no longer hold all that the serving store has\n"
    "  --remove-old             do not keep what served before (as STORE.old and INDEX.old)\n"
    "  --settle S               how long to wait for the last records, in seconds (30)\n"
    "  --json                   print the result as JSON\n"
    "  -h, --help               this text\n"
    "\n"
    "It ends when the daemons that ran are ready with the new store.\n"
    "Exit code 0: exchanged. 1: not, and why; what served goes on serving. 2: usage.\n";

struct request { struct ap_places places; struct ap_rebuild_options o; struct ap_replay replay; bool json; };

static volatile int interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static int parse(struct request *q, int argc, char **argv, struct ap_err *err)
{
    enum { CONFIG = 256, SNAPSHOT, TIME, OFFSET, FRESH, ACCEPT, REMOVE, SETTLE, JSON };
    static const struct option options[] = {
        {"config", 1, NULL, CONFIG}, {"from-snapshot", 1, NULL, SNAPSHOT}, {"from-time", 1, NULL, TIME}, {"from-offset", 1, NULL, OFFSET},
        {"fresh", 0, NULL, FRESH}, {"accept-holes", 0, NULL, ACCEPT}, {"remove-old", 0, NULL, REMOVE}, {"settle", 1, NULL, SETTLE}, {"json", 0, NULL, JSON}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    char *end;
    q->o.settle_ms = 30000;
    q->replay.from_ms = -1;
    optind = 1;
    for (int c; !rc && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (c) {
        case CONFIG: rc = ap_places_config(&q->places, optarg, err); break;
        case SNAPSHOT: q->o.snapshot = optarg; break;
        case TIME: rc = ap_replay_parse_time(optarg, ap_wall_ms(), &q->replay.from_ms, err); break;
        case OFFSET: rc = ap_replay_add_offset(&q->replay, optarg, err); break;
        case REMOVE: q->o.remove_old = true; break;
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
    if (!rc && q->replay.from_ms >= 0 && q->replay.offset_count)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "--from-time and --from-offset: one of them");
    if (!rc && (q->replay.from_ms >= 0 || q->replay.offset_count))
        q->o.replay = &q->replay;
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

static void say(const struct request *q, const struct ap_rebuild_result *done)
{
    printf("%" PRIu64 " rows rebuilt in %.1f s, exchanged in %.1f s", done->rows, done->build_seconds, done->handover_seconds);
    if (done->serving)
        printf(", served after %.1f s", done->ready_seconds);
    puts(done->serving ? "" : "; no daemon that ran before is ready with it yet");
    if (!q->o.remove_old)
        printf("What served before is %s.old and %s.old: remove them when you need the room (--remove-old does)\n", q->places.store, q->places.index);
}

int ap_cmd_rebuild(int argc, char **argv)
{
    static struct request q;
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
        printf("{\"rows\": %" PRIu64 ", \"missing\": %" PRIu64 ", \"resumed\": %s, \"serving\": %s, \"read_seconds\": %.3f, \"build_seconds\": %.3f, \"handover_seconds\": %.3f, "
               "\"ready_seconds\": %.3f}\n", done.rows, done.missing, done.resumed ? "true" : "false", done.serving ? "true" : "false", done.read_seconds,
               done.build_seconds, done.handover_seconds, done.ready_seconds);
    else
        say(&q, &done);
    return rc ? 1 : 0;
}
