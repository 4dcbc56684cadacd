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
#include "ctl/page.h"
#include "ctl/snapshot.h"

enum { STEP_MS = 50, ASK_MS = 1000, RELEASE_MS = 60000, NEAR = 20000, STILL_MS = 10000, SEAL_MS = 60000, SPARE_BYTES = 64 << 20 };

struct rebuild {
    const struct ap_rebuild_options *o;
    const volatile int *stop;
    char store[AP_PATH_MAX + 16], index[AP_PATH_MAX + 16], log[AP_PATH_MAX + 32];
    struct ap_child consumer, indexer;
    struct ap_fetcher *fetcher;
    struct ap_positions_gap gap;
    bool serving;      /* there is a store to compare with */
    uint64_t rows, hot;
    bool ready;        /* both children say so */
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
    struct ap_fetch asked[3] = {{.method = "GET"}, {.method = "GET"}, {.method = "GET"}};
    struct ap_err ignored;
    snprintf(asked[0].url, sizeof asked[0].url, "%s/readyz", b->consumer.url);
    snprintf(asked[1].url, sizeof asked[1].url, "%s/readyz", b->indexer.url);
    snprintf(asked[2].url, sizeof asked[2].url, "%s/metrics", b->indexer.url);
    (void)ap_fetcher_run(b->fetcher, asked, 3, &ignored);
    b->ready = asked[0].status == 200 && asked[1].status == 200;
    if (asked[2].status == 200) {
        struct ap_page page;
        ap_page_read(&page, strdup((char *)asked[2].answer.data));
        b->hot = (uint64_t)ap_page_sum(&page, "antipode_index_rows", "kind", "hot", 0);
        ap_page_free(&page);
    }
    for (int i = 0; i < 3; i++)
        ap_fetch_fini(&asked[i]);
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
    double share = b->serving && b->gap.wanted ? (double)(b->gap.wanted - b->gap.missing) / (double)b->gap.wanted : -1;
    b->o->progress(b->o->arg, what, share, b->rows);
    usleep(STEP_MS * 1000);
    return 0;
}

/* ---- steps ---- */

static int check_room(struct rebuild *b, struct ap_err *err)
{
    struct ap_store *store;
    struct ap_store_stats stats;
    struct ap_err ignored;
    if (ap_store_open_any(&store, b->o->places->store, &ignored))
        return 0; /* there is nothing to go by */
    int rc = ap_store_stats(store, &stats, err);
    ap_store_close(&store);
    return rc ? rc : ap_folder_room(b->store, stats.used_bytes * 2 + SPARE_BYTES, err);
}

static int begin_with(struct rebuild *b, struct ap_rebuild_result *out, struct ap_err *err)
{
    int rc = 0;
    if (b->o->fresh) {
        rc = ap_folder_remove(b->store, err);
        if (rc == 0)
            rc = ap_folder_remove(b->index, err);
    }
    out->resumed = !ap_folder_is_empty(b->store);
    if (rc == 0 && !out->resumed)
        rc = check_room(b, err);
    if (rc || out->resumed || !b->o->snapshot)
        return rc;
    json_t *manifest;
    struct ap_err ignored;
    (void)ap_folder_remove(b->index, &ignored);
    const struct ap_restore r = {.snapshot = b->o->snapshot, .store = b->store, .index = b->index, .region = b->o->places->region};
    rc = ap_snapshot_restore(&r, &manifest, err);
    json_decref(manifest);
    return rc;
}

static int start(struct rebuild *b, struct ap_err *err)
{
    const struct ap_places *p = b->o->places;
    const char *consumer[] = {"--config", p->consumer_config, "--store.path", b->store, "--rebuild", "true", NULL};
    const char *indexer[] = {"--config", p->indexer_config, "--store.path", b->store, "--index.path", b->index, "--rebuild", "true", NULL};
    unlink(b->log);
    int rc = ap_child_start(&b->consumer, "antipode-consumer", b->log, consumer, err);
    return rc ? rc : ap_child_start(&b->indexer, "antipode-indexer", b->log, indexer, err);
}

/* Until both children are ready and little is missing, or nothing comes any more. */
static int build(struct rebuild *b, struct ap_err *err)
{
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
    /* What is not sealed yet would have to be indexed again after the exchange. */
    for (int64_t until = ap_mono_ms() + SEAL_MS; b->hot > NEAR && ap_mono_ms() < until;) {
        int rc = look(b, "sealing segments", err);
        if (rc)
            return rc;
    }
    return 0;
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
    ap_child_stop(&b->indexer);
    ap_child_stop(&b->consumer);
    if (rc)
        return rc;
    snprintf(old, sizeof old, "%s.old", p->index);
    rc = ap_folder_replace(b->index, p->index, old, err);
    snprintf(old, sizeof old, "%s.old", p->store);
    return rc ? rc : ap_folder_replace(b->store, p->store, old, err);
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
    rc = begin_with(&b, out, err);
    if (rc == 0)
        rc = start(&b, err);
    if (rc == 0)
        rc = build(&b, err);
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
    return rc;
}
