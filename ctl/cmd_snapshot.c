/* antipode snapshot create|list|verify|restore. */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/ident.h"
#include "common/timeutil.h"
#include "ctl/commands.h"
#include "ctl/places.h"
#include "ctl/snapshot.h"

const char ap_help_snapshot[] =
    "usage: antipode snapshot create FOLDER (--config FILE... | --store PATH [--index PATH]) [--name NAME] [--for REGION] [--json]\n"
    "       antipode snapshot list FOLDER [--json]\n"
    "       antipode snapshot verify SNAPSHOT [--json]\n"
    "       antipode snapshot restore SNAPSHOT (--config FILE... | --store PATH [--index PATH]) [--region REGION] [--replace] [--json]\n"
    "\n"
    "A snapshot is a copy of one worker's store and of the sealed segments that fit it. Create takes it while all serves.\n"
    "\n"
    "  --config FILE     the consumer's, and the indexer's, configuration file: region, store.path, index.path\n"
    "  --store PATH      the store's folder;  --index PATH    the folder of the sealed segments\n"
    "  --name NAME       of the snapshot (REGION-WORKER-TIME)\n"
    "  --for REGION      make it for another region: without raw vectors, segments and Kafka offsets, which must not leave this one\n"
    "  --region REGION   restore it in this region; a snapshot of another one then loses the same\n"
    "  --replace         put what is there aside, as PATH.old\n"
    "  --json            print JSON\n"
    "  -h, --help        this text\n"
    "\n"
    "Restore wants the consumer and the indexer of that place stopped; start them afterwards: the consumer reads on from where\n"
    "the snapshot stands. Everything is checked before anything is changed. Exit code 0: done; 1: not, and why; 2: usage.\n";

struct request {
    const char *verb, *folder, *name, *region;
    struct ap_places places;
    bool replace, json;
};

static int parse(struct request *q, int argc, char **argv, struct ap_err *err)
{
    enum { CONFIG = 256, STORE, INDEX, NAME, FOR, REGION, REPLACE, JSON };
    static const struct option options[] = {
        {"config", 1, NULL, CONFIG}, {"store", 1, NULL, STORE}, {"index", 1, NULL, INDEX}, {"name", 1, NULL, NAME}, {"for", 1, NULL, FOR},
        {"region", 1, NULL, REGION}, {"replace", 0, NULL, REPLACE}, {"json", 0, NULL, JSON}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    struct ap_region region;
    optind = 1;
    for (int c; !rc && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (c) {
        case CONFIG: rc = ap_places_config(&q->places, optarg, err); break;
        case STORE: snprintf(q->places.store, sizeof q->places.store, "%s", optarg); break;
        case INDEX: snprintf(q->places.index, sizeof q->places.index, "%s", optarg); break;
        case NAME: q->name = optarg; break;
        case FOR:
        case REGION: q->region = optarg; break;
        case REPLACE: q->replace = true; break;
        case JSON: q->json = true; break;
        case 'h': fputs(ap_help_snapshot, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    if (rc)
        return rc;
    if (argc - optind != 2)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "create, list, verify or restore, and a folder");
    q->verb = argv[optind];
    q->folder = argv[optind + 1];
    bool creates = !strcmp(q->verb, "create"), restores = !strcmp(q->verb, "restore");
    if (!creates && !restores && strcmp(q->verb, "list") != 0 && strcmp(q->verb, "verify") != 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "\"%s\": create, list, verify or restore", q->verb);
    if ((creates || restores) && !*q->places.store)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "whose store? --config FILE or --store PATH says it");
    if (restores && !q->region && *q->places.region)
        q->region = q->places.region;
    if (q->region && ap_region_parse(q->region, strlen(q->region), &region, err))
        return err->code;
    if (q->name && (!*q->name || strchr(q->name, '/') || *q->name == '.' || strlen(q->name) > 100))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--name: \"%s\" is no name of a folder", q->name);
    if (strlen(q->folder) > 3000 || strlen(q->places.store) > 3000 || strlen(q->places.index) > 3000)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "a path is too long");
    return 0;
}

/* ---- printing ---- */

static json_t *summary(const char *path, const json_t *manifest)
{
    size_t i, segments = 0;
    json_t *file;
    json_int_t bytes = 0;
    json_array_foreach(json_object_get(manifest, "files"), i, file) {
        bytes += json_integer_value(json_object_get(file, "bytes"));
        segments += !strncmp(json_string_value(json_object_get(file, "name")), "index/", 6);
    }
    json_t *out = json_pack("{s:s, s:I, s:I}", "path", path, "bytes", bytes, "segments", (json_int_t)segments);
    static const char *const keys[] = {"region", "home", "worker", "workers", "store", "created_ms", "rows", "first_slot", "next_slot"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
        json_object_set(out, keys[k], json_object_get(manifest, keys[k]));
    return out;
}

static void print_one(const json_t *s)
{
    time_t made = (time_t)(json_integer_value(json_object_get(s, "created_ms")) / 1000);
    char when[32];
    strftime(when, sizeof when, "%Y-%m-%d %H:%M:%SZ", gmtime(&made));
    const char *region = json_string_value(json_object_get(s, "region")), *home = json_string_value(json_object_get(s, "home"));
    printf("%s  %s worker %lld/%lld%s%s  %s  %lld rows, %lld segments, %.1f MB\n", json_string_value(json_object_get(s, "path")), region,
           (long long)json_integer_value(json_object_get(s, "worker")), (long long)json_integer_value(json_object_get(s, "workers")),
           strcmp(region, home) ? " made in " : "", strcmp(region, home) ? home : "", when, (long long)json_integer_value(json_object_get(s, "rows")),
           (long long)json_integer_value(json_object_get(s, "segments")), (double)json_integer_value(json_object_get(s, "bytes")) / 1e6);
}

static void print(const struct request *q, json_t *one, double seconds)
{
    json_object_set_new(one, "seconds", json_real(seconds));
    if (q->json) {
        json_dumpf(one, stdout, JSON_COMPACT | JSON_REAL_PRECISION(4));
        putchar('\n');
    } else {
        print_one(one);
    }
    json_decref(one);
}

/* ---- verbs ---- */

static int create(const struct request *q, struct ap_err *err)
{
    char path[AP_PATH_MAX];
    int64_t start = ap_mono_ns();
    int rc = ap_snapshot_create(q->places.store, *q->places.index ? q->places.index : NULL, q->folder, q->name, q->region, path, err);
    json_t *manifest = rc ? NULL : ap_snapshot_manifest(path, err);
    if (manifest)
        print(q, summary(path, manifest), (double)(ap_mono_ns() - start) * 1e-9);
    json_decref(manifest);
    return rc ? rc : manifest ? 0 : err->code;
}

static int restore(const struct request *q, struct ap_err *err)
{
    json_t *manifest;
    int64_t start = ap_mono_ns();
    const struct ap_restore r = {.snapshot = q->folder, .store = q->places.store, .index = *q->places.index ? q->places.index : NULL,
                                 .region = q->region, .replace = q->replace};
    int rc = ap_snapshot_restore(&r, &manifest, err);
    if (rc == 0)
        print(q, summary(q->folder, manifest), (double)(ap_mono_ns() - start) * 1e-9);
    json_decref(manifest);
    return rc;
}

static int verify(const struct request *q, struct ap_err *err)
{
    int64_t start = ap_mono_ns();
    json_t *manifest = ap_snapshot_manifest(q->folder, err);
    int rc = manifest ? ap_snapshot_verify(q->folder, manifest, err) : err->code;
    if (rc == 0)
        print(q, summary(q->folder, manifest), (double)(ap_mono_ns() - start) * 1e-9);
    if (rc == 0 && !q->json)
        puts("whole: every file is there, with its checksum");
    json_decref(manifest);
    return rc;
}

static int wanted(const struct dirent *e)
{
    return *e->d_name != '.';
}

/* One line each; what is no snapshot is passed over, a damaged one is an error at the end. */
static int list(const struct request *q, struct ap_err *err)
{
    struct dirent **names;
    int n = scandir(q->folder, &names, wanted, alphasort), rc = 0;
    if (n < 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "%s: %s", q->folder, strerror(errno));
    json_t *all = json_array();
    for (int i = 0; i < n; i++) {
        char path[AP_PATH_MAX];
        struct ap_err why;
        snprintf(path, sizeof path, "%s/%s", q->folder, names[i]->d_name);
        json_t *manifest = ap_snapshot_manifest(path, &why);
        if (manifest)
            json_array_append_new(all, summary(path, manifest));
        else if (why.code != AP_ENOTFOUND) {
            rc = why.code;
            *err = why;
            fprintf(stderr, "antipode snapshot: %s\n", why.msg);
        }
        json_decref(manifest);
        free(names[i]);
    }
    free(names);
    if (q->json) {
        json_dumpf(all, stdout, JSON_INDENT(1));
        putchar('\n');
    }
    for (size_t i = 0; !q->json && i < json_array_size(all); i++)
        print_one(json_array_get(all, i));
    json_decref(all);
    return rc ? ap_err_wrap(err, "list") : 0;
}

int ap_cmd_snapshot(int argc, char **argv)
{
    struct request q = {0};
    struct ap_err err = {0};
    int rc = parse(&q, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc) {
        fprintf(stderr, "antipode snapshot: %s\nTry: antipode snapshot --help\n", err.msg);
        return 2;
    }
    rc = !strcmp(q.verb, "create") ? create(&q, &err) : !strcmp(q.verb, "restore") ? restore(&q, &err) : !strcmp(q.verb, "verify") ? verify(&q, &err) : list(&q, &err);
    if (rc)
        fprintf(stderr, "antipode snapshot: %s\n", err.msg);
    return rc ? 1 : 0;
}
