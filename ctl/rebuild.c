#include "ctl/rebuild.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/handover.h"
#include "common/timeutil.h"
#include "ctl/child.h"
#include "ctl/fetch.h"
#include "common/store_copy.h"
#include "ctl/page.h"
#include "ctl/targets.h"

enum { STEP_MS = 50, ASK_MS = 1000, RELEASE_MS = 60000, NEAR = 20000, STILL_MS = 10000, SERVE_MS = 60000, SEAL_MS = 600000 };
#define UNSEALED_BYTES "536870912" /* so that a segment's worth of rows is sealed at once, while the next one is read */

struct rebuild {
    const struct ap_rebuild_options *o;
    const volatile int *stop;
    char store[AP_PATH_MAX + 16], index[AP_PATH_MAX + 16], log[AP_PATH_MAX + 32];
    struct ap_child consumer, indexer;
    struct ap_fetcher *fetcher;
    struct ap_positions_gap gap;
    bool serving;      /* there is a store to compare with */
    uint64_t rows, lag, most_lag; /* lag: records in Kafka that are to be read */
    bool ready, sealed; /* both children say so; no full hot segment waits */
    struct ap_targets serving_daemons;
};

/* ---- looking ---- */

static int positions_of(const char *path, struct ap_position **list, size_t *count, uint64_t *rows, struct ap_err *err)
{
    struct ap_store *store;
    struct ap_snapshot *snapshot = NULL;
    struct ap_store_stats stats = {0};
    *list = NULL;
    *count = 0;
    int rc = ap_store_open_any(&store, path, err);
    if (rc)
        return rc;
    rc = ap_snapshot_begin(store, &snapshot, err);
    if (rc == 0)
        rc = ap_snapshot_positions(snapshot, list, count, err);
    ap_snapshot_end(&snapshot);
    if (rc == 0)
        rc = ap_store_stats(store, &stats, err);
    ap_store_close(&store);
    *rows = stats.rows;
    return rc;
}

/* What of the serving store's records the new one has not. A store that is not there, or cannot be read, wants nothing. */
static int compare(struct rebuild *b, struct ap_err *err)
{
    struct ap_position *have = NULL, *wanted = NULL;
    size_t have_count = 0, wanted_count = 0;
    uint64_t ignored_rows;
    struct ap_err ignored;
    int rc = positions_of(b->store, &have, &have_count, &b->rows, err);
    rc = rc == AP_ENOTREADY ? 0 : rc; /* not made yet */
    b->serving = rc == 0 && positions_of(b->o->places->store, &wanted, &wanted_count, &ignored_rows, &ignored) == 0;
    if (rc == 0)
        b->gap = ap_positions_gap(have, have_count, wanted, wanted_count);
    free(have);
    free(wanted);
    return rc;
}

static void ask_children(struct rebuild *b)
{
    struct ap_fetch asked[4] = {{.method = "GET"}, {.method = "GET"}, {.method = "GET"}, {.method = "GET"}};
    struct ap_page page;
    struct ap_err ignored;
    snprintf(asked[0].url, sizeof asked[0].url, "%s/readyz", b->consumer.url);
    snprintf(asked[1].url, sizeof asked[1].url, "%s/readyz", b->indexer.url);
    snprintf(asked[2].url, sizeof asked[2].url, "%s/metrics", b->indexer.url);
    snprintf(asked[3].url, sizeof asked[3].url, "%s/metrics", b->consumer.url);
    (void)ap_fetcher_run(b->fetcher, asked, 4, &ignored);
    b->ready = asked[0].status == 200 && asked[1].status == 200;
    b->sealed = false;
    if (asked[2].status == 200) {
        ap_page_read(&page, strdup((char *)asked[2].answer.data));
        b->sealed = ap_page_sum(&page, "antipode_index_unsealed_bytes", NULL, NULL, 0) < 1;
        ap_page_free(&page);
    }
    if (asked[3].status == 200) {
        ap_page_read(&page, strdup((char *)asked[3].answer.data));
        b->lag = (uint64_t)ap_page_sum(&page, "antipode_consumer_kafka_lag_records", NULL, NULL, 0);
        b->most_lag = b->lag > b->most_lag ? b->lag : b->most_lag;
        ap_page_free(&page);
    }
    for (int i = 0; i < 4; i++)
        ap_fetch_fini(&asked[i]);
}

/* Of what there is to read; negative: not known. */
static double share_of(const struct rebuild *b)
{
    if (b->o->replay)
        return b->most_lag ? 1 - (double)b->lag / (double)b->most_lag : -1;
    return b->serving && b->gap.wanted ? (double)(b->gap.wanted - b->gap.missing) / (double)b->gap.wanted : -1;
}

/* One look at everything; positive: interrupted. */
static int look(struct rebuild *b, const char *what, struct ap_err *err)
{
    if (*b->stop)
        return 1;
    int rc = ap_child_check(&b->consumer, err);
    if (rc == 0)
        rc = ap_child_check(&b->indexer, err);
    if (rc == 0)
        rc = compare(b, err);
    if (rc)
        return rc;
    ask_children(b);
    b->o->progress(b->o->arg, what, share_of(b), b->rows);
    usleep(STEP_MS * 1000);
    return 0;
}

/* ---- steps ---- */

static void reading_path(const struct rebuild *b, char out[AP_PATH_MAX + 32])
{
    snprintf(out, AP_PATH_MAX + 32, "%s/" AP_STORE_READING, b->store);
}

static int start(struct rebuild *b, struct ap_err *err)
{
    char reading[AP_PATH_MAX + 32];
    const struct ap_places *p = b->o->places;
    const char *consumer[] = {"--config", p->consumer_config, "--store.path", b->store, "--rebuild", "true", NULL};
    char threads[16];
    snprintf(threads, sizeof threads, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    const char *indexer[] = {"--config", p->indexer_config, "--store.path", b->store, "--index.path", b->index, "--rebuild", "true",
                             "--index.build_threads", threads, "--index.unsealed_bytes", UNSEALED_BYTES, NULL};
    unlink(b->log);
    reading_path(b, reading);
    int rc = ap_file_write_text(reading, "", err);
    if (rc == 0)
        rc = ap_child_start(&b->consumer, "antipode-consumer", b->log, consumer, err);
    return rc ? rc : ap_child_start(&b->indexer, "antipode-indexer", b->log, indexer, err);
}

/* Until both children are ready and little is missing, or nothing comes any more; then until the index has sealed it. */
static int build(struct rebuild *b, int64_t began_ns, struct ap_rebuild_result *out, struct ap_err *err)
{
    char data[AP_PATH_MAX + 32], reading[AP_PATH_MAX + 32];
    uint64_t last = UINT64_MAX;
    int64_t moved_ms = ap_mono_ms();
    for (;;) {
        int rc = look(b, "reading the logs", err);
        if (rc)
            return rc;
        if (b->gap.missing != last)
            moved_ms = ap_mono_ms();
        last = b->gap.missing;
        if (b->ready && (b->gap.missing < NEAR || ap_mono_ms() - moved_ms > STILL_MS))
            break;
    }
    out->read_seconds = (double)(ap_mono_ns() - began_ns) * 1e-9;
    reading_path(b, reading);
    unlink(reading);
    /* What is not sealed yet would have to be indexed again after the exchange. */
    int64_t until_ms = ap_mono_ms() + SEAL_MS;
    do {
        int rc = look(b, "sealing segments", err);
        if (rc)
            return rc;
    } while (!b->sealed && ap_mono_ms() < until_ms);
    snprintf(data, sizeof data, "%s/data.mdb", b->store); /* so that little is left to be synced while nobody writes */
    return ap_file_sync(data, err);
}

static int wait_released(struct rebuild *b, struct ap_err *err)
{
    char lock[AP_PATH_MAX + 32];
    snprintf(lock, sizeof lock, "%s/writer.lock", b->o->places->store);
    for (int64_t until = ap_mono_ms() + RELEASE_MS; ap_file_is_locked(lock); usleep(5000)) {
        if (*b->stop)
            return 1;
        if (ap_mono_ms() >= until)
            return ap_err_set(err, AP_ETIMEOUT, AP_FATAL, "store %s: its consumer has not let go of it in %d s; is it of an older release? Nothing was exchanged",
                              b->o->places->store, RELEASE_MS / 1000);
    }
    return 0;
}

/* The serving store stands still now: its last records, and then the exchange. */
static int finish(struct rebuild *b, struct ap_rebuild_result *out, struct ap_err *err)
{
    char old[AP_PATH_MAX + 16];
    const struct ap_places *p = b->o->places;
    int64_t until = ap_mono_ms() + b->o->settle_ms;
    int rc = 0;
    do {
        rc = look(b, "reading the last records", err);
    } while (rc == 0 && b->gap.missing > 0 && ap_mono_ms() < until);
    out->missing = b->gap.missing;
    out->rows = b->rows;
    if (rc == 0 && b->gap.missing && !b->o->accept_holes)
        rc = ap_err_set(err, AP_ENOTFOUND, AP_FATAL,
                        "the logs no longer hold %" PRIu64 " records that the serving store has; nothing was exchanged. Begin with a snapshot (--from-snapshot) that is "
                        "younger than the logs' beginning, or exchange them nevertheless with --accept-holes, and let verify --all --repair bring the rest",
                        b->gap.missing);
    ap_child_ask(&b->consumer);
    ap_child_stop(&b->indexer);
    ap_child_stop(&b->consumer);
    if (rc == 0)
        rc = ap_rebuild_seal(b->store, err);
    if (rc)
        return rc;
    snprintf(old, sizeof old, "%s.old", p->index);
    rc = ap_folder_replace(b->index, p->index, old, err);
    snprintf(old, sizeof old, "%s.old", p->store);
    return rc ? rc : ap_folder_replace(b->store, p->store, old, err);
}

/* ---- the serving daemons ---- */

static void find_serving(struct rebuild *b)
{
    struct ap_err ignored; /* a file that does not say where its daemon listens: that one is not waited for */
    (void)ap_targets_config(&b->serving_daemons, b->o->places->consumer_config, &ignored);
    (void)ap_targets_config(&b->serving_daemons, b->o->places->indexer_config, &ignored);
    ap_targets_fetch(&b->serving_daemons, ASK_MS);
    for (size_t i = b->serving_daemons.count; i-- > 0;)
        if (!b->serving_daemons.list[i].up)
            ap_targets_drop(&b->serving_daemons, i);
}

static bool serve_it(struct ap_targets *daemons, const char *id)
{
    bool all = true;
    ap_targets_fetch(daemons, ASK_MS);
    for (size_t i = 0; i < daemons->count; i++) {
        const struct ap_target *t = &daemons->list[i];
        all = all && t->up && t->ready && (t->role != AP_ROLE_INDEXER || ap_page_sum(&t->page, "antipode_index_store", "id", id, 0) > 0);
    }
    return all;
}

/* Those that ran before: until they are ready with the new store. */
static void wait_serving(struct rebuild *b, struct ap_rebuild_result *out)
{
    struct ap_store_identity who;
    struct ap_err ignored;
    char id[17];
    if (b->serving_daemons.count == 0 || ap_store_identify(b->o->places->store, &who, &ignored) != 0)
        return;
    snprintf(id, sizeof id, "%016" PRIx64, who.id);
    b->o->progress(b->o->arg, "the daemons begin with it", 1, out->rows);
    for (int64_t until = ap_mono_ms() + SERVE_MS; !out->serving && ap_mono_ms() < until && !*b->stop; usleep(20000))
        out->serving = serve_it(&b->serving_daemons, id);
}

static int remove_old(const struct ap_places *p, struct ap_err *err)
{
    char old[AP_PATH_MAX + 16];
    snprintf(old, sizeof old, "%s.old", p->index);
    int rc = ap_folder_remove(old, err);
    snprintf(old, sizeof old, "%s.old", p->store);
    return rc ? rc : ap_folder_remove(old, err);
}

int ap_rebuild(const struct ap_rebuild_options *o, const volatile int *stop, struct ap_rebuild_result *out, struct ap_err *err)
{
    struct rebuild b = {.o = o, .stop = stop};
    int handover = -1, one_at_a_time = -1;
    int64_t began = ap_mono_ns(), asked = 0;
    memset(out, 0, sizeof *out);
    snprintf(b.store, sizeof b.store, "%s.rebuild", o->places->store);
    snprintf(b.index, sizeof b.index, "%s.rebuild", o->places->index);
    snprintf(b.log, sizeof b.log, "%s.log", b.store);
    int rc = ap_handover_take(b.store, &one_at_a_time, err); /* two of us would build in the same folder */
    if (rc)
        return rc;
    b.fetcher = ap_fetcher_new(ASK_MS);
    find_serving(&b);
    rc = ap_rebuild_begin(o, b.store, b.index, &out->resumed, err);
    if (rc == 0)
        rc = start(&b, err);
    if (rc == 0)
        rc = build(&b, began, out, err);
    out->build_seconds = (double)(ap_mono_ns() - began) * 1e-9;
    if (rc == 0) {
        asked = ap_mono_ns();
        rc = ap_handover_take(o->places->store, &handover, err);
    }
    if (rc == 0)
        rc = wait_released(&b, err);
    if (rc == 0)
        rc = finish(&b, out, err);
    ap_child_stop(&b.indexer);
    ap_child_stop(&b.consumer);
    ap_handover_release(o->places->store, &handover);
    ap_handover_release(b.store, &one_at_a_time);
    ap_fetcher_free(&b.fetcher);
    out->handover_seconds = asked ? (double)(ap_mono_ns() - asked) * 1e-9 : 0;
    if (rc == 0)
        wait_serving(&b, out);
    out->ready_seconds = out->serving ? (double)(ap_mono_ns() - began) * 1e-9 : 0;
    if (rc == 0 && o->remove_old && (out->serving || b.serving_daemons.count == 0))
        rc = remove_old(o->places, err);
    ap_targets_free(&b.serving_daemons);
    return rc;
}
