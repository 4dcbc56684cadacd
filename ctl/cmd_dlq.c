/* antipode dlq list, show, redrive. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "ctl/commands.h"
#include "ctl/describe.h"
#include "ctl/letters.h"
#include "ctl/targets.h"

const char ap_help_dlq[] =
    "usage: antipode dlq list -b BROKER[,...] [--all] [--json]\n"
    "       antipode dlq show -b BROKER[,...] PARTITION:OFFSET...\n"
    "       antipode dlq redrive -b BROKER[,...] --indexer URL (PARTITION:OFFSET... | --all) [--dry-run]\n"
    "\n"
    "A region's dead letters: records that its consumer could not apply, with the reason. They are the region's own: ask\n"
    "each region's Kafka. A letter is named by its partition and offset in dlq-mutations.\n"
    "\n"
    "  list       one line a letter: where it lies, when it was set aside, where it came from, why. --all: settled ones, too\n"
    "  show       letters as JSON lines, decoded where they can be\n"
    "  redrive    publish again through the region's producer: the change keeps its version and gets a new position, so it\n"
    "             does only what it would have done in its time. Done is noted in dlq-mutations. What cannot be decoded,\n"
    "             is no mutation, or was cut is refused. A letter of a retired region (code conflict) is redriven only by name\n"
    "\n"
    "  -b BROKERS         addresses of the region's Kafka; ANTIPODE_KAFKA_BOOTSTRAP_SERVERS when not given\n"
    "      --indexer URL  the region's indexer, which passes the write on\n"
    "      --all          list: also settled letters; redrive: all open letters\n"
    "      --dry-run      redrive: only say what it would do\n"
    "      --json         list as JSON lines\n"
    "      --vectors      show: print vectors, too\n"
    "  -X KEY=VALUE       a property of the Kafka client (security.protocol=...)\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit code 0; 1 when Kafka or the producer cannot be asked, or a letter was refused; 2 usage.\n";

enum { PROPERTIES_MAX = 64, TIMEOUT_MS = 60000 };

struct dlq {
    const char *what, *brokers;
    struct ap_targets targets;
    bool all, dry_run, json, vectors;
    struct ap_kafka_property properties[PROPERTIES_MAX]; size_t property_count;
    char **names; int name_count;
    struct ap_letters letters;
    struct ap_schemas *schemas;
    struct ap_buf scratch;
    struct ap_fetcher *fetcher;
    json_t *collections; /* id in hex -> name */
};

/* --- options --- */

static int add_property(struct dlq *d, char *text, struct ap_err *err)
{
    char *equals = strchr(text, '=');
    if (!equals || equals == text || d->property_count + 1 >= PROPERTIES_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "-X: \"%s\" is not KEY=VALUE, or one too many", text);
    *equals = '\0';
    d->properties[d->property_count++] = (struct ap_kafka_property){text, equals + 1};
    return 0;
}

static bool is(const struct dlq *d, const char *what)
{
    return !strcmp(d->what, what);
}

static int check(const struct dlq *d, struct ap_err *err)
{
    if (!is(d, "list") && !is(d, "show") && !is(d, "redrive"))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\" is none of list, show, redrive", d->what);
    if (!d->brokers)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "-b BROKER is missing");
    if (is(d, "list") ? d->name_count : is(d, "redrive") ? !d->name_count == !d->all : !d->name_count)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, is(d, "list") ? "list takes no letters" : "name letters as PARTITION:OFFSET%s", is(d, "redrive") ? ", or give --all" : "");
    if (is(d, "redrive") && d->targets.count != 1)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--indexer URL is missing");
    return 0;
}

static int parse(struct dlq *d, int argc, char **argv, struct ap_err *err)
{
    enum { INDEXER = 256, ALL, DRY_RUN, JSON, VECTORS };
    static const struct option options[] = {{"indexer", required_argument, NULL, INDEXER}, {"all", no_argument, NULL, ALL},
        {"dry-run", no_argument, NULL, DRY_RUN}, {"json", no_argument, NULL, JSON}, {"vectors", no_argument, NULL, VECTORS},
        {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    *d = (struct dlq){.brokers = getenv("ANTIPODE_KAFKA_BOOTSTRAP_SERVERS")};
    optind = 1;
    for (int c; rc == 0 && (c = getopt_long(argc, argv, ":b:X:h", options, NULL)) != -1;) {
        switch (c) {
        case 'b': d->brokers = optarg; break;
        case 'X': rc = add_property(d, optarg, err); break;
        case INDEXER: rc = ap_targets_url(&d->targets, AP_ROLE_INDEXER, optarg, err); break;
        case ALL: d->all = true; break;
        case DRY_RUN: d->dry_run = true; break;
        case JSON: d->json = true; break;
        case VECTORS: d->vectors = true; break;
        case 'h': fputs(ap_help_dlq, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    d->what = optind < argc ? argv[optind++] : "";
    d->names = argv + optind;
    d->name_count = argc - optind;
    return rc ? rc : check(d, err);
}

/* --- list, show --- */

static void print_line(struct dlq *d, const struct ap_letter *letter)
{
    json_t *line = ap_describe(d->schemas, letter->message, AP_RECORD_DEAD, d->vectors, &d->scratch);
    json_object_set_new(line, "settled", json_boolean(letter->settled));
    json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(line);
}

static void print_text(const struct ap_letter *letter)
{
    char time[40], origin[24], topic[300], partition[16], offset[24], code[32], reason[500];
    ap_letter_header(letter, "time", time, sizeof time);
    ap_letter_header(letter, "origin", origin, sizeof origin);
    ap_letter_header(letter, "topic", topic, sizeof topic);
    ap_letter_header(letter, "partition", partition, sizeof partition);
    ap_letter_header(letter, "offset", offset, sizeof offset);
    ap_letter_header(letter, "code", code, sizeof code);
    ap_letter_header(letter, "reason", reason, sizeof reason);
    printf("%d:%lld  %s  %s %s[%s] offset %s  %s: %s%s\n", (int)letter->message->partition, (long long)letter->message->offset, time, origin, topic, partition,
           offset, code, reason, letter->settled ? "  (settled)" : "");
}

/* --- redrive --- */

/* Which collection has which id, as the region's indexer knows it. */
static int learn_collections(struct dlq *d, struct ap_err *err)
{
    struct ap_fetch all = {.method = "GET"};
    size_t i;
    json_t *c;
    snprintf(all.url, sizeof all.url, "%s/collections", d->targets.list[0].url);
    int rc = ap_fetcher_run(d->fetcher, &all, 1, err);
    json_t *result = rc ? NULL : ap_fetch_result(&all);
    d->collections = json_object();
    json_array_foreach(json_object_get(result, "collections"), i, c) {
        struct ap_fetch one = {.method = "GET"};
        const char *name = json_string_value(json_object_get(c, "name"));
        snprintf(one.url, sizeof one.url, "%s/collections/%s", d->targets.list[0].url, name ? name : "");
        if (rc == 0 && (rc = ap_fetcher_run(d->fetcher, &one, 1, err)) == 0) {
            json_t *info = ap_fetch_result(&one);
            const char *id = json_string_value(json_object_get(json_object_get(info, "antipode"), "id"));
            if (id)
                json_object_set_new(d->collections, id, json_string(name));
            json_decref(info);
        }
        ap_fetch_fini(&one);
    }
    json_decref(result);
    ap_fetch_fini(&all);
    return rc;
}

static int publish(struct dlq *d, struct ap_letter *letter, struct ap_err *err)
{
    struct ap_buf row = {0};
    uint64_t collection = 0;
    char id[20];
    int rc = ap_letter_row(letter, d->schemas, &row, &collection, err);
    snprintf(id, sizeof id, "%016llx", (unsigned long long)collection);
    const char *name = rc ? NULL : json_string_value(json_object_get(d->collections, id));
    if (rc == 0 && !name)
        rc = ap_err_set(err, AP_ENOTFOUND, AP_POISON, "its collection %s is deleted, or not known in this region", id);
    if (rc == 0 && !d->dry_run) {
        struct ap_fetch one = {.method = "POST", .body = row.data, .len = row.len};
        snprintf(one.url, sizeof one.url, "%s/collections/%s/points/repair?level=local", d->targets.list[0].url, name);
        rc = ap_fetcher_run(d->fetcher, &one, 1, err);
        ap_fetch_fini(&one);
        if (rc == 0)
            rc = ap_letter_settle(&d->letters, letter, err);
    }
    ap_buf_free(&row);
    return rc;
}

static int redrive(struct dlq *d, struct ap_letter *letter)
{
    struct ap_err err = {0};
    char code[32];
    ap_letter_header(letter, "code", code, sizeof code);
    int rc = 0;
    if (letter->settled)
        rc = ap_err_set(&err, AP_EEXISTS, AP_NONE, "it is settled already");
    else if (d->all && !strcmp(code, ap_code_name(AP_ECONFLICT)))
        rc = ap_err_set(&err, AP_ECONFLICT, AP_NONE, "it is of a retired region: name it, if that is what you want");
    else
        rc = publish(d, letter, &err);
    printf("%d:%lld  %s%s\n", (int)letter->message->partition, (long long)letter->message->offset,
           rc ? "refused: " : d->dry_run ? "would be published" : "published", rc ? err.msg : "");
    return rc ? 1 : 0;
}

/* --- all --- */

static int one(struct dlq *d, struct ap_letter *letter)
{
    if (is(d, "redrive"))
        return redrive(d, letter);
    if (is(d, "show") || d->json)
        print_line(d, letter);
    else
        print_text(letter);
    return 0;
}

static int run(struct dlq *d, struct ap_err *err)
{
    int worst = 0;
    size_t shown = 0;
    for (size_t i = 0; i < d->letters.count && !d->name_count; i++)
        if (!d->letters.list[i].settled || (d->all && is(d, "list"))) {
            worst |= one(d, &d->letters.list[i]);
            shown++;
        }
    if (!d->name_count && !shown)
        fprintf(stderr, "antipode dlq: no dead letters%s\n", d->letters.count ? " that are open" : "");
    for (int i = 0; i < d->name_count; i++) {
        int partition;
        long long offset;
        char end;
        struct ap_letter *letter = sscanf(d->names[i], "%d:%lld%c", &partition, &offset, &end) == 2 ? ap_letters_find(&d->letters, partition, offset) : NULL;
        if (!letter)
            return ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "there is no letter %s", d->names[i]);
        worst |= one(d, letter);
    }
    return worst;
}

static int open_all(struct dlq *d, struct ap_err *err)
{
    static char servers[] = "bootstrap.servers"; /* the letters keep a reference */
    size_t n = d->property_count;
    d->properties[n] = (struct ap_kafka_property){servers, (char *)(uintptr_t)d->brokers}; /* only read */
    struct ap_config_extra extra = {.kafka = d->properties, .kafka_count = n + 1};
    ap_log_init("dlq", AP_LOG_WARN, NULL, NULL);
    d->fetcher = ap_fetcher_new(TIMEOUT_MS);
    int rc = ap_schemas_new(&d->schemas, err);
    if (rc == 0 && is(d, "redrive"))
        rc = learn_collections(d, err);
    return rc ? rc : ap_letters_read(&d->letters, &extra, err);
}

int ap_cmd_dlq(int argc, char **argv)
{
    struct dlq d;
    struct ap_err err = {0};
    int rc = parse(&d, argc, argv, &err);
    if (rc < 0)
        fprintf(stderr, "antipode dlq: %s\nTry: antipode dlq --help\n", err.msg);
    if (rc) {
        ap_targets_free(&d.targets);
        return rc > 0 ? 0 : 2;
    }
    rc = open_all(&d, &err);
    if (rc == 0)
        rc = run(&d, &err);
    if (rc < 0)
        fprintf(stderr, "antipode dlq: %s\n", err.msg);
    ap_letters_free(&d.letters);
    ap_fetcher_free(&d.fetcher);
    ap_schemas_free(&d.schemas);
    ap_buf_free(&d.scratch);
    ap_targets_free(&d.targets);
    json_decref(d.collections);
    return rc ? 1 : 0;
}
