/* antipode load: options, the state of an earlier try, the upload, a line of progress, the result. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/ident.h"
#include "common/timeutil.h"
#include "ctl/commands.h"
#include "ctl/fetch.h"
#include "ctl/load_state.h"
#include "ctl/upload.h"

const char ap_help_load[] =
    "usage: antipode load FILE --collection NAME [--url URL] [--create DISTANCE [--codec FACTORY]] [--first-id N | --derive-ids] [--json]\n"
    "\n"
    "Loads a file of vectors into a collection. It may be interrupted at any time: the same command goes on where it was.\n"
    "\n"
    "  FILE               .npy (float32, float16), .fvecs, .bvecs, .fbin, .u8bin, .i8bin, .ndjson or .jsonl (a point {id, vector,\n"
    "                     payload} a line), .parquet (needs Python with pyarrow); \"-\" is stdin\n"
    "  --format WORD      npy, fvecs, bvecs, fbin, u8bin, i8bin, ndjson or parquet, where the name does not say it\n"
    "  --url URL          a producer, or an indexer, which passes writes on (http://127.0.0.1:8101)\n"
    "  --collection NAME  where to\n"
    "  --create DISTANCE  make the collection when it is not there: Cosine, Euclid or Dot (not for NDJSON and Parquet without --dim)\n"
    "  --codec FACTORY, --raw home|none, --dim N    of the collection that is made\n"
    "  --first-id N       row i of an array has the id N + i (0; rows are counted before --skip)\n"
    "  --derive-ids       ids are made of the vectors instead, so that equal vectors are one point\n"
    "  --skip N           leave out the first N rows or lines\n"
    "  --limit N          at most so many rows or lines\n"
    "  --state FILE       where it is noted how far a load has got (FILE.antipode-load; none for stdin)\n"
    "  --restart          begin anew, whatever the state says\n"
    "  --request-bytes N  size of a request (16777216)\n"
    "  --parallel N       requests at once (3)\n"
    "  --patience S       how long to try again while the producer is away or busy, in seconds (60)\n"
    "  --timeout S        of one request, in seconds (300)\n"
    "  --vector-column NAME, --id-column NAME, --payload-columns A,B|none    of Parquet (vector, id, all others)\n"
    "  --json             print the result as JSON\n"
    "  --quiet            no progress (there is none anyway where stderr is no terminal)\n"
    "  -h, --help         this text\n"
    "\n"
    "Exit code 0: everything is acknowledged. 1: not all is, and stderr says why and how far it got. 2: usage, or the file is\n"
    "not what it should be; nothing was sent.\n";

enum { PARQUET_ARGS = 8, DRAW_MS = 200, SAVE_MS = 500, REQUEST_MS = 30000, BAR = 24 };

struct load {
    struct ap_rows_options file;
    struct ap_upload_options o;
    const char *parquet[PARQUET_ARGS];
    size_t parquet_count;
    const char *distance, *codec, *raw, *state_path;
    uint64_t skip, limit, dim;
    bool restart, json, quiet, keeps_state;
    struct ap_rows *rows;
    struct ap_load_state state;
    struct ap_rows_place begun; /* of this run */
    struct ap_upload_progress progress;
    int64_t start_ns;
    char *token;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

/* ---- options ---- */

static int number(const char *what, const char *text, uint64_t low, uint64_t high, uint64_t *out, struct ap_err *err)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text == '-' || value < low || value > high)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%s\" is no number from %" PRIu64 " to %" PRIu64, what, text, low, high);
    *out = value;
    return 0;
}

static int small(const char *what, const char *text, uint64_t low, uint64_t high, int factor, int *out, struct ap_err *err)
{
    uint64_t value = low;
    int rc = number(what, text, low, high, &value, err);
    *out = (int)value * factor;
    return rc;
}

static void for_parquet(struct load *l, const char *option, const char *value)
{
    if (l->parquet_count + 2 < PARQUET_ARGS) {
        l->parquet[l->parquet_count++] = option;
        l->parquet[l->parquet_count++] = value;
    }
}

static int check(struct load *l, int argc, char **argv, struct ap_err *err)
{
    if (optind + 1 != argc)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, optind < argc ? "one FILE at a time" : "FILE is missing");
    l->file.path = argv[optind];
    if (!l->o.collection)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--collection NAME is missing");
    if (ap_collection_name_check(l->o.collection, err))
        return ap_err_wrap(err, "--collection");
    if (strncmp(l->o.url, "http://", 7) && strncmp(l->o.url, "https://", 8))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--url: \"%s\" is not like http://127.0.0.1:8101", l->o.url);
    if (strlen(l->o.url) > 400)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--url: too long");
    if (!l->distance && (l->codec || l->raw || l->dim))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--codec, --raw and --dim are for --create DISTANCE");
    l->file.parquet_args = l->parquet;
    l->keeps_state = l->state_path || strcmp(l->file.path, "-");
    return 0;
}

static int parse(struct load *l, int argc, char **argv, struct ap_err *err)
{
    enum { FORMAT = 256, URL, COLLECTION, CREATE, CODEC, RAW, DIM, FIRST_ID, DERIVE_IDS, SKIP, LIMIT, STATE, RESTART, REQUEST_BYTES, PARALLEL,
           PATIENCE, TIMEOUT, VECTOR_COLUMN, ID_COLUMN, PAYLOAD_COLUMNS, JSON, QUIET };
    static const struct option options[] = {
        {"format", 1, NULL, FORMAT}, {"url", 1, NULL, URL}, {"collection", 1, NULL, COLLECTION}, {"create", 1, NULL, CREATE},
        {"codec", 1, NULL, CODEC}, {"raw", 1, NULL, RAW}, {"dim", 1, NULL, DIM}, {"first-id", 1, NULL, FIRST_ID},
        {"derive-ids", 0, NULL, DERIVE_IDS}, {"skip", 1, NULL, SKIP}, {"limit", 1, NULL, LIMIT}, {"state", 1, NULL, STATE},
        {"restart", 0, NULL, RESTART}, {"request-bytes", 1, NULL, REQUEST_BYTES}, {"parallel", 1, NULL, PARALLEL},
        {"patience", 1, NULL, PATIENCE}, {"timeout", 1, NULL, TIMEOUT}, {"vector-column", 1, NULL, VECTOR_COLUMN},
        {"id-column", 1, NULL, ID_COLUMN}, {"payload-columns", 1, NULL, PAYLOAD_COLUMNS}, {"json", 0, NULL, JSON},
        {"quiet", 0, NULL, QUIET}, {"help", 0, NULL, 'h'}, {NULL, 0, NULL, 0}};
    int rc = 0;
    uint64_t bytes = 16 << 20;
    l->o = (struct ap_upload_options){.url = "http://127.0.0.1:8101", .has_first_id = true, .parallel = 3, .timeout_ms = 300000, .patience_ms = 60000};
    l->limit = AP_ROWS_UNKNOWN;
    optind = 1;
    for (int c; !rc && (c = getopt_long(argc, argv, ":h", options, NULL)) != -1;) {
        switch (c) {
        case FORMAT: l->file.format = optarg; break;
        case URL: l->o.url = optarg; break;
        case COLLECTION: l->o.collection = optarg; break;
        case CREATE: l->distance = optarg; break;
        case CODEC: l->codec = optarg; break;
        case RAW: l->raw = optarg; break;
        case DIM: rc = number("--dim", optarg, 1, 65536, &l->dim, err); break;
        case FIRST_ID: rc = number("--first-id", optarg, 0, UINT64_MAX, &l->o.first_id, err); break;
        case DERIVE_IDS: l->o.has_first_id = false; break;
        case SKIP: rc = number("--skip", optarg, 0, INT64_MAX, &l->skip, err); break;
        case LIMIT: rc = number("--limit", optarg, 1, INT64_MAX, &l->limit, err); break;
        case STATE: l->state_path = optarg; break;
        case RESTART: l->restart = true; break;
        case REQUEST_BYTES: rc = number("--request-bytes", optarg, 1024, 1 << 30, &bytes, err); break;
        case PARALLEL: rc = small("--parallel", optarg, 1, 64, 1, &l->o.parallel, err); break;
        case PATIENCE: rc = small("--patience", optarg, 0, 86400, 1000, &l->o.patience_ms, err); break;
        case TIMEOUT: rc = small("--timeout", optarg, 1, 86400, 1000, &l->o.timeout_ms, err); break;
        case VECTOR_COLUMN: for_parquet(l, "--vector", optarg); break;
        case ID_COLUMN: for_parquet(l, "--id", optarg); break;
        case PAYLOAD_COLUMNS: for_parquet(l, "--payload", optarg); break;
        case JSON: l->json = true; break;
        case QUIET: l->quiet = true; break;
        case 'h': fputs(ap_help_load, stdout); return 1;
        default: rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    l->o.request_bytes = (size_t)bytes;
    l->o.end_row = l->limit > AP_ROWS_UNKNOWN - l->skip ? AP_ROWS_UNKNOWN : l->skip + l->limit;
    return rc ? rc : check(l, argc, argv, err);
}

/* ---- before the first row ---- */

/* What must be equal for going on where an earlier try stopped. */
static json_t *describe(const struct load *l)
{
    struct stat st = {0};
    char *real = realpath(l->file.path, NULL);
    (void)!stat(l->file.path, &st);
    json_t *load = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s, s:b, s:s, s:I, s:s}", "file", real ? real : l->file.path, "bytes", (json_int_t)st.st_size, "changed",
                             (json_int_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec, "url", l->o.url, "collection", l->o.collection, "format",
                             l->file.format ? l->file.format : "", "first_id", l->o.has_first_id, "id", "", "skip", (json_int_t)l->skip, "columns", "");
    char id[24];
    snprintf(id, sizeof id, "%" PRIu64, l->o.first_id);
    json_object_set_new(load, "id", json_string(id));
    json_t *columns = json_array();
    for (size_t i = 0; i < l->parquet_count; i++)
        json_array_append_new(columns, json_string(l->parquet[i]));
    json_object_set_new(load, "columns", columns);
    free(real);
    return load;
}

static int open_state(struct load *l, struct ap_err *err)
{
    char path[4096];
    l->begun.row = l->skip;
    if (!l->keeps_state)
        return 0;
    snprintf(path, sizeof path, l->state_path ? "%s" : "%s.antipode-load", l->state_path ? l->state_path : l->file.path);
    if (l->restart)
        unlink(path);
    int rc = ap_load_state_open(&l->state, path, describe(l), err);
    if (rc == 0 && l->state.resumed)
        l->begun = l->state.place;
    return rc ? rc : ap_load_state_save(&l->state, l->begun, err); /* now, not after an hour, it shows whether it can be written */
}

static int create(struct load *l, struct ap_err *err)
{
    uint64_t dim = l->dim ? l->dim : ap_rows_dim(l->rows);
    if (!l->distance)
        return 0;
    if (!dim)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--create: the file does not say how many dimensions its vectors have; --dim does");
    json_t *antipode = json_object();
    if (l->codec)
        json_object_set_new(antipode, "codec", json_string(l->codec));
    if (l->raw)
        json_object_set_new(antipode, "raw", json_string(l->raw));
    json_t *body = json_pack("{s:{s:I, s:s}, s:o}", "vectors", "size", (json_int_t)dim, "distance", l->distance, "antipode", antipode);
    char *text = json_dumps(body, JSON_COMPACT);
    struct ap_fetcher *fetcher = ap_fetcher_new(REQUEST_MS);
    struct ap_fetch one = {.method = "PUT", .body = text, .len = strlen(text)};
    snprintf(one.url, sizeof one.url, "%.400s/collections/%.200s", l->o.url, l->o.collection);
    int rc = ap_fetcher_run(fetcher, &one, 1, err);
    if (rc == AP_ECONFLICT) /* it is there: rows say whether it fits */
        rc = 0;
    ap_fetch_fini(&one);
    ap_fetcher_free(&fetcher);
    free(text);
    json_decref(body);
    return rc;
}

static int prepare(struct load *l, struct ap_err *err)
{
    int rc = ap_rows_open(&l->rows, &l->file, err);
    if (rc)
        return rc;
    uint64_t total = ap_rows_total(l->rows);
    if (l->o.has_first_id && total != AP_ROWS_UNKNOWN && total && l->o.first_id > UINT64_MAX - (total - 1))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--first-id: %" PRIu64 " rows from there on do not fit 64 bits", total);
    rc = create(l, err);
    if (!rc)
        rc = open_state(l, err);
    if (!rc)
        rc = ap_rows_begin(l->rows, l->begun, err);
    l->begun = ap_rows_place(l->rows);
    return rc;
}

/* ---- while it runs ---- */

static uint64_t rows_in_all(const struct load *l)
{
    uint64_t total = ap_rows_total(l->rows);
    return total == AP_ROWS_UNKNOWN ? l->limit == AP_ROWS_UNKNOWN ? AP_ROWS_UNKNOWN : l->o.end_row : total < l->o.end_row ? total : l->o.end_row;
}

static void draw(const struct load *l)
{
    const struct ap_upload_progress *p = &l->progress;
    double seconds = (double)(ap_mono_ns() - l->start_ns) * 1e-9, rate = seconds > 0 ? (double)p->rows / seconds : 0, share = -1;
    uint64_t all = rows_in_all(l), at = p->done.row;
    if (all != AP_ROWS_UNKNOWN && all > 0)
        share = (double)at / (double)all;
    else if (ap_rows_bytes(l->rows) && p->done.at)
        share = (double)p->done.at / (double)ap_rows_bytes(l->rows);
    char bar[BAR + 1];
    for (int i = 0; i < BAR; i++)
        bar[i] = share * BAR > i ? '#' : '.';
    bar[BAR] = '\0';
    if (share >= 0)
        fprintf(stderr, "\r\033[K%3d%% [%s] %" PRIu64 " rows  %.0f/s", (int)(share * 100), bar, at, rate);
    else
        fprintf(stderr, "\r\033[K%" PRIu64 " rows  %.0f/s", at, rate);
    if (share > 0 && rate > 0) {
        int64_t left = (int64_t)((double)at / share * (1 - share) / rate);
        fprintf(stderr, "  %" PRId64 ":%02d left", left / 60, (int)(left % 60));
    }
    if (*p->waiting)
        fprintf(stderr, "  waiting: %.60s", p->waiting);
    fflush(stderr);
}

static int run(struct load *l, struct ap_err *err)
{
    struct ap_upload *u;
    struct ap_err ignored;
    bool draws = !l->quiet && isatty(STDERR_FILENO), over = false, told = false;
    int64_t saved_ms = ap_mono_ms();
    int rc = ap_upload_start(&u, l->rows, &l->o, err);
    if (rc)
        return rc;
    while (!over) {
        over = ap_upload_wait(u, DRAW_MS);
        ap_upload_progress(u, &l->progress);
        if (interrupted && !told) {
            ap_upload_stop(u);
            told = true;
        }
        if (draws)
            draw(l);
        if (l->keeps_state && ap_mono_ms() - saved_ms >= SAVE_MS && ap_load_state_save(&l->state, l->progress.done, &ignored) == 0)
            saved_ms = ap_mono_ms();
    }
    if (draws)
        fputc('\n', stderr);
    rc = ap_upload_end(&u, &l->token, err);
    if (rc == 0 && interrupted)
        rc = ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "interrupted");
    if (l->keeps_state && rc)
        (void)ap_load_state_save(&l->state, l->progress.done, &ignored);
    else if (l->keeps_state)
        ap_load_state_done(&l->state);
    return rc;
}

static void report(const struct load *l, int rc, const struct ap_err *err)
{
    const struct ap_upload_progress *p = &l->progress;
    double seconds = (double)(ap_mono_ns() - l->start_ns) * 1e-9;
    if (l->json) {
        json_t *out = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:s?, s:s?}", "complete", rc == 0, "rows", (json_int_t)p->rows, "points",
                                (json_int_t)p->points, "begun_at_row", (json_int_t)l->begun.row, "done_to_row", (json_int_t)p->done.row, "bytes",
                                (json_int_t)p->bytes, "requests", (json_int_t)p->requests, "retries", (json_int_t)p->retries, "seconds", seconds,
                                "rows_per_second", seconds > 0 ? (double)p->rows / seconds : 0.0, "token", l->token, "error", rc ? err->msg : NULL);
        json_dumpf(out, stdout, JSON_REAL_PRECISION(9));
        putchar('\n');
        json_decref(out);
    } else if (rc == 0) {
        printf("%" PRIu64 " rows loaded in %.1f s (%.0f/s)", p->rows, seconds, seconds > 0 ? (double)p->rows / seconds : 0.0);
        printf(l->begun.row > l->skip ? ", the rest earlier\n" : "\n");
    }
    if (rc) {
        fprintf(stderr, "antipode load: %s\nantipode load: all before row %" PRIu64 " is acknowledged", err->msg, p->done.row);
        fprintf(stderr, l->keeps_state ? "; the same command goes on from there, a changed file needs --restart\n" : "\n");
    }
}

int ap_cmd_load(int argc, char **argv)
{
    struct load l = {0};
    struct ap_err err = {0};
    int rc = parse(&l, argc, argv, &err);
    if (rc > 0)
        return 0;
    if (rc) {
        fprintf(stderr, "antipode load: %s\nTry: antipode load --help\n", err.msg);
        return 2;
    }
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}; /* the second one ends it at once */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    l.start_ns = ap_mono_ns();
    rc = prepare(&l, &err);
    bool prepared = rc == 0;
    if (prepared) {
        rc = run(&l, &err);
        report(&l, rc, &err);
    } else {
        fprintf(stderr, "antipode load: %s\n", err.msg);
    }
    ap_rows_close(&l.rows);
    ap_load_state_fini(&l.state);
    free(l.token);
    return rc == 0 ? 0 : !prepared && (rc == AP_EINVAL || rc == AP_EUNSUPPORTED) ? 2 : 1;
}
