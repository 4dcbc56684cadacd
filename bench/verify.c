/* Verification: rows of 100 bytes in a store, read as verify and scrub read them. Prints one JSON line.
 *
 *   bench_verify [ROWS]                           one store, its audits timed in this process
 *   bench_verify --make DIR REGION ROWS DIFFERENT make a store that indexers can serve, for bench/verify.py: so many of its
 *                                                 rows are missing, older, or of other bytes than with 0
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "bench.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/schema.h"
#include "common/timeutil.h"
#include "indexer/audit.h"

#define BATCH 5000
#define DIM 16
#define NAME "bench"
#define START_MS INT64_C(1750000000000)

static void must(int rc, const struct ap_err *err)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "bench_verify: %s\n", err->msg);
    exit(1);
}

static uint64_t random_state = 7;
static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static const struct ap_region eu = {"eu"};

/* So that an indexer knows the collection. */
static void define(struct ap_writer *w)
{
    struct ap_schemas *schemas;
    struct ap_err err;
    struct ap_buf key = {0}, value = {0};
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION, .version = {ap_hlc_make(START_MS, 0), eu, 1}};
    c.u.collection = (struct ap_control_collection){.name = NAME, .generation = 1, .dim = DIM, .distance = AP_DOT, .codec_factory = "none", .topic = "vec-mutations"};
    must(ap_schemas_new(&schemas, &err), &err);
    ap_control_key(&c, &key);
    must(ap_control_encode(schemas, &c, &value, &err), &err);
    must(ap_writer_put_control(w, &eu, key.data, key.len, value.data, value.len, &err), &err);
    ap_buf_free(&key);
    ap_buf_free(&value);
    ap_schemas_free(&schemas);
}

/* Rows are the same in every call; different: how many of them, spread evenly, are then made otherwise. */
static void fill(struct ap_store *store, size_t rows, size_t different)
{
    struct ap_writer *w;
    struct ap_err err;
    float vector[DIM] = {0};
    uint64_t collection = ap_collection_id(NAME, 1), hlc = 0;
    size_t every = different ? rows / different : 0;
    must(ap_writer_open(&w, store, NULL, NULL, &err), &err);
    for (size_t i = 0; i < rows; i++) {
        struct ap_point_id id;
        struct ap_key key;
        bool changed, other = every && i % every == 0 && i / every < different;
        if (i % BATCH == 0)
            must(ap_writer_begin(w, &err), &err);
        if (i == 0)
            define(w);
        ap_put_le64(id.b, next_random());
        ap_put_le64(id.b + 8, next_random());
        vector[0] = (float)(i % 1000) + 1;
        vector[1] = other && i / every % 3 == 2 ? 1 : 0; /* other bytes */
        ap_key_make(collection, &id, &key);
        hlc = ap_hlc_make(START_MS + (int64_t)i + 1, 0);
        struct ap_mutation m = {.op = AP_OP_UPSERT, .version = {.hlc = hlc - (other && i / every % 3 == 1), .region = eu, .writer = 1}, .stream = 1,
                                .seq = i + 1, .clock = hlc, .vector = (const uint8_t *)vector, .vector_len = sizeof vector};
        if (!(other && i / every % 3 == 0)) /* missing */
            must(ap_writer_apply(w, &key, &m, &changed, &err), &err);
        ap_positions_note(ap_writer_positions(w), &eu, 1, "vec-mutations", 0, i + 1, hlc);
        if (i % BATCH == BATCH - 1 || i + 1 == rows)
            must(ap_writer_commit(w, &err), &err);
    }
    ap_writer_close(&w);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Seconds; *cpu: of them on a core (others may be busy on this machine). */
static double pass(struct ap_store *store, bool verify, uint32_t bucket_count, size_t *found, double *cpu)
{
    struct ap_audit audit;
    struct ap_audit_buckets buckets = {0};
    struct ap_snapshot *snapshot;
    struct ap_err err;
    for (uint32_t i = 0; i < bucket_count; i++)
        ap_audit_buckets_add(&buckets, i * (AP_DIGEST_BUCKETS / bucket_count));
    int64_t start = ap_mono_ns();
    *cpu = cpu_seconds();
    ap_audit_init(&audit, store, ap_collection_id(NAME, 1), &buckets, verify, 0);
    must(ap_audit_catch_up(&audit, &snapshot, &err), &err);
    double seconds = (double)(ap_mono_ns() - start) * 1e-9;
    *cpu = cpu_seconds() - *cpu;
    ap_snapshot_end(&snapshot);
    *found = audit.used;
    ap_audit_fini(&audit);
    return seconds;
}

static struct ap_store *open_store(const char *path, const char *region)
{
    struct ap_store *store;
    struct ap_err err;
    struct ap_store_options options = {.path = path, .map_bytes = (size_t)1 << 36, .region = region, .workers = 1};
    must(ap_store_open(&store, &options, &err), &err);
    return store;
}

static int measure(size_t rows)
{
    char path[] = "/tmp/antipode-bench-verify-XXXXXX", command[80];
    size_t scrubbed, split;
    double cpu[2];
    if (!mkdtemp(path))
        bench_die("bench_verify: no temporary folder");
    struct ap_store *store = open_store(path, "eu");
    fill(store, rows, 0);
    pass(store, true, AP_DIGEST_BUCKETS, &scrubbed, cpu); /* warm */
    double scrub_s = pass(store, true, AP_DIGEST_BUCKETS, &scrubbed, &cpu[0]), split_s = pass(store, false, 1024, &split, &cpu[1]);
    if (scrubbed != rows)
        bench_die("bench_verify: %zu of %zu rows were found", scrubbed, rows);
    printf("{\"rows\":%zu,\"scrub_rows_per_s\":%.0f,\"scrub_rows_per_cpu_s\":%.0f,\"split_s\":%.3f,\"split_cpu_s\":%.3f,\"split_rows\":%zu}\n",
           scrubbed, (double)scrubbed / scrub_s, (double)scrubbed / cpu[0], split_s, cpu[1], split);
    ap_store_close(&store);
    snprintf(command, sizeof command, "rm -rf %s", path);
    return system(command) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 6 && !strcmp(argv[1], "--make")) {
        struct ap_store *store = open_store(argv[2], argv[3]);
        fill(store, (size_t)atol(argv[4]), (size_t)atol(argv[5]));
        ap_store_close(&store);
        return 0;
    }
    return measure(argc > 1 ? (size_t)atol(argv[1]) : 1000000);
}
