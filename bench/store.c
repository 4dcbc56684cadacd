/* The store's own limits, as JSON: rows of PQ16 size appended, overwritten and cleaned with synced transactions, the slot
 * map and positions in memory, reading by scan and by slot. Usage: bench_store [folder] [rows]; the folder (default: under
 * $TMPDIR) must not hold anything, and its files are removed afterwards. Needs no daemon. */
#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/store.h"
#include "common/timeutil.h"

#define CODE_BYTES 16

static struct ap_err err;

static void check(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* The n-th random point. */
static void make_key(uint64_t n, struct ap_key *out)
{
    struct ap_point_id id;
    uint64_t half[2] = {mix(n * 2 + 1), mix(n * 2 + 2)};
    memcpy(id.b, half, sizeof id.b);
    ap_key_make(7, &id, out);
}

static uint64_t hlc = 1;

static bool write_row(struct ap_writer *w, uint64_t n)
{
    struct ap_key key;
    uint8_t code[CODE_BYTES];
    bool changed;
    make_key(n, &key);
    ap_put_le64(code, mix(n));
    ap_put_le64(code + 8, mix(hlc));
    struct ap_mutation m = {.op = AP_OP_UPSERT, .version = {.hlc = hlc++, .region = {"eu"}, .writer = 1}, .has_codec = true, .codec = 1,
                            .vector = code, .vector_len = sizeof code};
    check(ap_writer_apply(w, &key, &m, &changed, &err));
    return changed;
}

/* rows a second for writing `rows` rows, row i being point pick(i), in batches. */
static double write_rows(struct ap_writer *w, uint64_t rows, uint64_t batch, uint64_t from, uint64_t range)
{
    int64_t start = ap_mono_ns();
    for (uint64_t done = 0; done < rows; done += batch) {
        check(ap_writer_begin(w, &err));
        for (uint64_t i = done; i < done + batch && i < rows; i++)
            write_row(w, range ? mix(i + hlc) % range : from + i);
        check(ap_writer_commit(w, &err));
    }
    return (double)rows * 1e9 / (double)(ap_mono_ns() - start);
}

/* Overwrite with the cleaner at work in every batch, as the consumer does, and an indexer that keeps up. */
static double steady(struct ap_writer *w, uint64_t rows, uint64_t batch, uint64_t range)
{
    int64_t start = ap_mono_ns();
    for (uint64_t done = 0; done < rows; done += batch) {
        size_t dropped;
        uint64_t seen = ap_writer_next_slot(w) - 1;
        check(ap_writer_begin(w, &err));
        for (uint64_t i = 0; i < batch; i++)
            write_row(w, mix(i + hlc) % range);
        check(ap_writer_clean(w, batch, seen, NULL, NULL, &dropped, &err));
        check(ap_writer_commit(w, &err));
    }
    return (double)rows * 1e9 / (double)(ap_mono_ns() - start);
}

struct cleaned { double rows_per_s; uint64_t moved, dropped; double longest_ms; };

/* Clean as long as there is something to do, with an indexer that has always seen everything. */
static struct cleaned clean(struct ap_writer *w, uint64_t batch)
{
    struct cleaned c = {0};
    int64_t start = ap_mono_ns();
    uint64_t first = ap_writer_next_slot(w);
    for (int idle = 0; idle < 2;) {
        size_t dropped;
        uint64_t before = ap_writer_next_slot(w);
        int64_t began = ap_mono_ns();
        check(ap_writer_begin(w, &err));
        check(ap_writer_clean(w, batch, before - 1, NULL, NULL, &dropped, &err));
        check(ap_writer_commit(w, &err));
        double ms = (double)(ap_mono_ns() - began) / 1e6;
        c.longest_ms = ms > c.longest_ms ? ms : c.longest_ms;
        c.dropped += dropped;
        idle = dropped || ap_writer_next_slot(w) > before ? 0 : idle + 1;
    }
    c.moved = ap_writer_next_slot(w) - first;
    c.rows_per_s = (double)(c.moved + c.dropped) * 1e9 / (double)(ap_mono_ns() - start);
    return c;
}

static int count_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    (void)slot;
    *(uint64_t *)arg += row->vector[0];
    return 0;
}

static void bench_reading(struct ap_store *store, uint64_t rows)
{
    struct ap_snapshot *s;
    uint64_t sum = 0;
    int64_t start = ap_mono_ns();
    check(ap_snapshot_begin(store, &s, &err));
    check(ap_snapshot_scan(s, 0, count_row, &sum, &err));
    printf("  \"scan_rows_per_s\": %.0f,\n", (double)rows * 1e9 / (double)(ap_mono_ns() - start));
    uint64_t first = ap_snapshot_first_slot(s), next = ap_snapshot_next_slot(s);
    struct ap_row row;
    start = ap_mono_ns();
    for (uint64_t i = 0; i < 1000000; i++)
        sum += ap_snapshot_row(s, first + mix(i) % (next - first), &row, NULL) == 0;
    printf("  \"random_reads_per_s\": %.0f,\n", 1e6 * 1e9 / (double)(ap_mono_ns() - start));
    ap_snapshot_end(&s);
    start = ap_mono_ns();
    for (int i = 0; i < 1000000; i++) {
        check(ap_snapshot_begin(store, &s, &err));
        ap_snapshot_end(&s);
    }
    printf("  \"snapshots_per_s\": %.0f,\n", 1e6 * 1e9 / (double)(ap_mono_ns() - start));
    if (sum == 1)
        printf("\n");
}

static bool same_slot(void *arg, uint64_t slot, const struct ap_key *key)
{
    struct ap_key mine;
    (void)arg;
    make_key(slot, &mine);
    return memcmp(mine.b, key->b, sizeof key->b) == 0;
}

static void bench_slotmap(uint64_t keys)
{
    struct ap_slotmap m;
    struct ap_key key;
    uint64_t found = 0;
    ap_slotmap_init(&m, 0);
    int64_t start = ap_mono_ns();
    for (uint64_t i = 1; i <= keys; i++) {
        make_key(i, &key);
        ap_slotmap_put(&m, &key, i, same_slot, NULL);
    }
    printf("  \"slotmap_keys\": %llu,\n  \"slotmap_puts_per_s\": %.0f,\n", (unsigned long long)keys, (double)keys * 1e9 / (double)(ap_mono_ns() - start));
    start = ap_mono_ns();
    for (uint64_t i = 1; i <= keys; i++) {
        make_key(1 + mix(i) % keys, &key);
        found += ap_slotmap_get(&m, &key, same_slot, NULL) != 0;
    }
    printf("  \"slotmap_gets_per_s\": %.0f,\n  \"slotmap_bytes_per_key\": %.1f,\n", (double)found * 1e9 / (double)(ap_mono_ns() - start),
           (double)ap_slotmap_bytes(&m) / (double)m.used);
    ap_slotmap_fini(&m);
}

static void bench_positions(void)
{
    struct ap_positions *p = ap_positions_new(NULL, NULL);
    const struct ap_region eu = {"eu"};
    const uint64_t records = 4000000;
    int64_t start = ap_mono_ns();
    for (uint64_t i = 0; i < records; i++) /* runs of 100, over 4 partitions of 3 streams */
        ap_positions_note(p, &eu, 1 + i / 400 % 3, "vec-mutations", (int32_t)(i / 100 % 4), i / 1200 * 100 + i % 100 + 1, i);
    double ns = (double)(ap_mono_ns() - start);
    printf("  \"position_notes_per_s\": %.0f,\n", (double)records * 1e9 / ns);
    ap_positions_free(&p);
}

static void remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

int main(int argc, char **argv)
{
    char path[512];
    const char *tmp = getenv("TMPDIR");
    uint64_t rows = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000;
    snprintf(path, sizeof path, "%s/antipode-bench-store-%ld", tmp ? tmp : "/tmp", (long)getpid());
    if (argc > 1)
        snprintf(path, sizeof path, "%s", argv[1]);
    struct ap_store_options options = {.path = path, .map_bytes = (size_t)16 << 30, .region = "eu", .worker = 0, .workers = 1};
    struct ap_store *store;
    struct ap_writer *w;
    struct ap_store_stats stats;

    printf("{\n  \"row_bytes\": %d,\n", AP_ROW_HEADER + CODE_BYTES + 2);
    bench_slotmap(rows);
    bench_positions();
    static const uint64_t batches[] = {1000, 10000};
    for (int i = 0; i < 2; i++) {
        unsigned long long batch = batches[i];
        check(ap_store_open(&store, &options, &err));
        check(ap_writer_open(&w, store, NULL, NULL, &err));
        printf("  \"append_%llu_rows_per_s\": %.0f,\n", batch, write_rows(w, rows, batch, 0, 0));
        printf("  \"overwrite_%llu_rows_per_s\": %.0f,\n", batch, write_rows(w, rows * 2, batch, 0, rows));
        check(ap_store_stats(store, &stats, &err));
        printf("  \"bytes_per_slot_%llu\": %.1f,\n", batch, (double)stats.used_bytes / (double)(stats.next_slot - stats.first_slot));
        struct cleaned c = clean(w, batch);
        printf("  \"clean_%llu_rows_per_s\": %.0f,\n  \"clean_%llu_moved\": %llu,\n  \"clean_%llu_dropped\": %llu,\n  \"clean_%llu_longest_batch_ms\": %.1f,\n",
               batch, c.rows_per_s, batch, (unsigned long long)c.moved, batch, (unsigned long long)c.dropped, batch, c.longest_ms);
        printf("  \"steady_%llu_rows_per_s\": %.0f,\n", batch, steady(w, rows * 3, batch, rows));
        if (i == 1) {
            bench_reading(store, rows);
            ap_writer_close(&w);
            int64_t start = ap_mono_ns();
            check(ap_writer_open(&w, store, NULL, NULL, &err));
            printf("  \"open_scan_s\": %.3f,\n", (double)(ap_mono_ns() - start) / 1e9);
        }
        check(ap_store_stats(store, &stats, &err));
        printf("  \"file_bytes_%llu\": %llu,\n  \"used_bytes_%llu\": %llu%s\n", batch, (unsigned long long)stats.file_bytes, batch,
               (unsigned long long)stats.used_bytes, i == 1 ? "" : ",");
        ap_writer_close(&w);
        ap_store_close(&store);
        remove_folder(path);
    }
    printf("}\n");
    return 0;
}
