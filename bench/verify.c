/* Verification: a million rows of 100 bytes in a store, read as verify and scrub read them. Prints one JSON line.
 *
 *   bench_verify [rows]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <time.h>
#include "bench.h"
#include "common/timeutil.h"
#include "indexer/audit.h"

#define COLLECTION 42
#define BATCH 5000

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

static void fill(struct ap_store *store, size_t rows)
{
    struct ap_writer *w;
    struct ap_err err;
    uint8_t code[48] = {0};
    must(ap_writer_open(&w, store, NULL, NULL, &err), &err);
    for (size_t i = 0; i < rows; i++) {
        struct ap_point_id id;
        struct ap_key key;
        bool changed;
        if (i % BATCH == 0)
            must(ap_writer_begin(w, &err), &err);
        ap_put_le64(id.b, next_random());
        ap_put_le64(id.b + 8, next_random());
        ap_put_le64(code, next_random());
        ap_key_make(COLLECTION, &id, &key);
        struct ap_mutation m = {.op = AP_OP_UPSERT, .version = {.hlc = i + 1, .region = {"eu"}, .writer = 1}, .stream = 1, .seq = i + 1,
                                .clock = i + 1, .has_codec = true, .codec = 1, .vector = code, .vector_len = sizeof code};
        must(ap_writer_apply(w, &key, &m, &changed, &err), &err);
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
    ap_audit_init(&audit, store, COLLECTION, &buckets, verify, 0);
    must(ap_audit_catch_up(&audit, &snapshot, &err), &err);
    double seconds = (double)(ap_mono_ns() - start) * 1e-9;
    *cpu = cpu_seconds() - *cpu;
    ap_snapshot_end(&snapshot);
    *found = audit.used;
    ap_audit_fini(&audit);
    return seconds;
}

int main(int argc, char **argv)
{
    size_t rows = argc > 1 ? (size_t)atol(argv[1]) : 1000000, scrubbed, split;
    char path[] = "/tmp/antipode-bench-verify-XXXXXX", command[80];
    struct ap_store *store;
    struct ap_err err;
    if (!mkdtemp(path))
        return 1;
    struct ap_store_options options = {.path = path, .map_bytes = (size_t)1 << 36, .region = "eu", .workers = 1};
    must(ap_store_open(&store, &options, &err), &err);
    fill(store, rows);
    double cpu[2];
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
