/* The loop: take what the scout found, gather a batch, apply and commit it, and see to the rest a few times a second.
 *
 * Whatever fails in the store, in memory or for good in Kafka ends the loop with nothing of the batch committed: after a
 * restart it is read again. For tests, ANTIPODE_CRASH=after_store_commit:<n> kills the process (SIGKILL) after the n-th
 * commit of the store, before anything else learns of it. */
#include "consumer/consumer_impl.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "common/clock.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "common/unsafe.h"
#include "consumer/replay.h"

enum { PACE_US = 500, POLL_MS = 100, CLEAN_POLL_MS = 10, CLEAN_IDLE_ROWS = 20000, CLEAN_LEAST_ROWS = 64, FULL_RECORDS = 500,
       COLLECT_PER_CLEANED = 4 };

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void init_metrics(struct ap_consumer *c, struct ap_metrics *m)
{
    c->commit_seconds = ap_histogram(m, "antipode_consumer_commit_seconds", NULL, "Time a commit of the store takes");
    c->batch_seconds = ap_histogram(m, "antipode_consumer_batch_seconds", NULL, "Time from a batch's last record read to its commit");
    c->batch_records = ap_gauge(m, "antipode_consumer_batch_records", NULL, "Records in the newest batch");
    c->batches = ap_counter(m, "antipode_consumer_batches_total", NULL, "Batches committed");
    c->cleaned = ap_counter(m, "antipode_consumer_cleaned_rows_total", NULL, "Slots dropped by the cleaner");
    for (size_t r = 0; r < c->settings->region_count; r++) {
        char labels[64];
        snprintf(labels, sizeof labels, "origin=\"%s\"", c->settings->all_regions[r].name);
        c->delay_seconds[r] = ap_histogram(m, "antipode_consumer_delay_seconds", labels,
                                           "From a mutation's stamp to its commit here, of the oldest in each batch");
    }
    ap_tallies_init(&c->tallies, c->settings, m);
}

static int open_store(struct ap_consumer *c, struct ap_err *err)
{
    const struct ap_consumer_settings *s = c->settings;
    struct ap_store_options options = {.path = s->store_path, .map_bytes = (size_t)s->store_map_bytes, .mapped_bytes = (size_t)s->store_mapped_bytes, .region = s->region,
                                       .worker = (int32_t)s->worker, .workers = (int32_t)s->workers,
                                       .sync_ms = s->store_sync_ms, .unsynced = s->rebuild}; /* it is synced as a whole before it serves (ctl/rebuild.h) */
    size_t refused = 0;
    int64_t start_ms = ap_mono_ms();
    int rc = ap_registry_new(&c->registry, err);
    if (!rc)
        rc = ap_store_open(&c->store, &options, err);
    if (!rc)
        ap_store_read_ahead(c->store);
    if (!rc)
        rc = ap_registry_load(c->registry, c->store, &refused, err);
    if (!rc)
        rc = ap_writer_open(&c->writer, c->store, ap_registry_lineage, c->registry, err);
    if (rc)
        return ap_err_wrap(err, "store %s", s->store_path);
    if (refused)
        ap_warn("%zu control records in the store do not check and are ignored", refused);
    ap_info("store open path=%s next_slot=%llu seconds=%.1f", s->store_path, (unsigned long long)ap_writer_next_slot(c->writer),
            (double)(ap_mono_ms() - start_ms) / 1000.0);
    return 0;
}

static int open_kafka(struct ap_consumer *c, const struct ap_config_extra *extra, struct ap_err *err)
{
    char client_id[64], group[64];
    snprintf(client_id, sizeof client_id, "antipode-consumer-%s-%lld", c->settings->region, (long long)c->settings->worker);
    snprintf(group, sizeof group, "antipode-%s-%lld", c->settings->region, (long long)c->settings->worker);
    c->rk = ap_kafka_consumer(extra, client_id, group, err);
    if (!c->rk)
        return ap_err_wrap(err, "Kafka");
    c->queue = rd_kafka_queue_get_consumer(c->rk);
    ap_sources_init(&c->sources, c->settings, c->rk);
    int rc = ap_dead_new(&c->dead, extra, client_id, err);
    if (!rc)
        rc = ap_scout_start(&c->scout, c->rk, &c->sources, err);
    return rc;
}

static void read_crash_hook(struct ap_consumer *c)
{
    static const char prefix[] = "after_store_commit:";
    const char *text = getenv("ANTIPODE_CRASH");
    if (!text || strncmp(text, prefix, sizeof prefix - 1))
        return;
    c->crash_after = strtoull(text + sizeof prefix - 1, NULL, 10);
    ap_warn("ANTIPODE_CRASH is set: this process kills itself after commit %llu", (unsigned long long)c->crash_after);
}

int ap_consumer_new(struct ap_consumer **out, const struct ap_consumer_settings *settings, const struct ap_config_extra *extra,
                    struct ap_metrics *metrics, struct ap_status *status, struct ap_err *err)
{
    struct ap_consumer *c = calloc(1, sizeof *c);
    if (!c)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    c->settings = settings;
    c->status = status;
    c->dirty = true;
    read_crash_hook(c);
    init_metrics(c, metrics);
    ap_status_phase(status, "the store is being read");
    int rc = open_store(c, err);
    if (!rc && ap_writer_next_slot(c->writer) > 1)
        c->built_under = ap_registry_region(c->registry, &settings->all_regions[0]);
    ap_status_phase(status, "Kafka has not answered yet");
    if (!rc)
        rc = ap_consumer_replay_open(c, err);
    if (!rc)
        rc = open_kafka(c, extra, err);
    if (rc) {
        ap_consumer_free(&c);
        return rc;
    }
    c->join = (struct ap_raw_join){.settings = settings, .writer = c->writer, .registry = c->registry, .tallies = &c->tallies};
    c->batch = (struct ap_batch){.settings = settings, .writer = c->writer, .registry = c->registry, .sources = &c->sources,
                                 .scout = c->scout, .dead = c->dead, .tallies = &c->tallies, .join = &c->join};
    c->batch.replays = c->replay != NULL;
    ap_batch_init(&c->batch);
    rc = ap_lookout_start(&c->lookout, settings, extra, err);
    if (!rc)
        rc = ap_collector_new(&c->collector, &c->batch, c->lookout, metrics, err);
    if (rc) {
        ap_consumer_free(&c);
        return rc;
    }
    ap_status_attach(status, c->rk, c->store, c->scout);
    *out = c;
    return 0;
}

void ap_consumer_free(struct ap_consumer **pointer)
{
    struct ap_consumer *c = *pointer;
    if (!c)
        return;
    ap_status_attach(c->status, NULL, NULL, NULL);
    ap_scout_stop(&c->scout);
    ap_lookout_stop(&c->lookout);
    ap_collector_free(&c->collector);
    if (c->batch.messages)
        ap_batch_fini(&c->batch);
    ap_sources_fini(&c->sources);
    ap_buf_free(&c->join.scratch);
    ap_dead_free(&c->dead);
    if (c->queue)
        rd_kafka_queue_destroy(c->queue);
    if (c->rk) /* there is no membership to give up, and offsets have been committed */
        rd_kafka_destroy_flags(c->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    if (c->writer)
        ap_writer_close(&c->writer);
    if (c->store)
        ap_store_close(&c->store);
    ap_registry_free(&c->registry);
    free(c->replay);
    free(c);
    *pointer = NULL;
}

bool ap_consumer_handover(const struct ap_consumer *c)
{
    return c->handover && !atomic_load(&c->stop);
}

void ap_consumer_stop(struct ap_consumer *c)
{
    atomic_store(&c->stop, true);
    rd_kafka_queue_yield(c->queue);
}

/* ---- a batch ------------------------------------------------------------------------------------------------------- */

static void count_batch(struct ap_consumer *c, int64_t start_ns, int64_t commit_ns)
{
    struct ap_batch *b = &c->batch;
    int64_t now_ns = ap_mono_ns(), now_ms = ap_wall_ms();
    ap_tallies_flush(&c->tallies);
    ap_observe(c->commit_seconds, (double)(now_ns - commit_ns) / 1e9);
    if (!b->count)
        return;
    ap_observe(c->batch_seconds, (double)(now_ns - start_ns) / 1e9);
    ap_gauge_set(c->batch_records, (double)b->count);
    ap_count(c->batches, 1);
    for (size_t r = 0; r < c->settings->region_count; r++)
        if (b->oldest_clock[r])
            ap_observe(c->delay_seconds[r], now_ms > ap_hlc_ms(b->oldest_clock[r]) ? (double)(now_ms - ap_hlc_ms(b->oldest_clock[r])) / 1000.0 : 0.0);
}

static int clean(struct ap_consumer *c, struct ap_err *err)
{
    size_t count = c->batch.count, dropped = 0;
    size_t budget = !count ? CLEAN_IDLE_ROWS : 2 * count > CLEAN_LEAST_ROWS ? 2 * count : CLEAN_LEAST_ROWS;
    int rc = ap_collector_collect(c->collector, c->seen, budget * COLLECT_PER_CLEANED, err);
    if (rc)
        return ap_err_wrap(err, "collecting tombstones");
    if (count)
        c->dirty = true;
    if (!c->dirty)
        return 0;
    rc = ap_writer_clean(c->writer, budget, c->seen, ap_registry_collection_dead, c->registry, &dropped, err);
    if (rc)
        return ap_err_wrap(err, "cleaning");
    ap_count(c->cleaned, dropped);
    c->dirty = dropped > 0;
    return 0;
}

/* For common/unsafe.h: a transaction of the offsets alone. A process that dies before the rows' one skips them. */
static int commit_offsets_first(struct ap_consumer *c, struct ap_err *err)
{
    struct ap_batch *b = &c->batch;
    int rc = ap_writer_begin(c->writer, err);
    for (size_t i = 0; !rc && i < b->count; i++) {
        const struct ap_part *part = b->parts[i];
        rc = ap_writer_put_offset(c->writer, c->cluster, part->source->id, part->source->name, part->number, b->messages[i]->offset + 1, err);
    }
    if (!rc)
        rc = ap_writer_commit(c->writer, err);
    if (!rc && c->commits + 1 == c->crash_after)
        raise(SIGKILL);
    return rc;
}

/* One transaction. AP_ETIMEOUT: we are to stop, and nothing was committed. */
static int commit_batch(struct ap_consumer *c, struct ap_err *err)
{
    int64_t start_ns = ap_mono_ns();
    uint64_t epoch = ap_registry_epoch(c->registry);
    int rc = ap_unsafe(AP_UNSAFE_NO_OFFSET_IN_TRANSACTION) ? commit_offsets_first(c, err) : 0;
    if (!rc)
        rc = ap_writer_begin(c->writer, err);
    if (!rc)
        rc = ap_collector_say(c->collector, err);
    if (!rc)
        rc = ap_batch_apply(&c->batch, err);
    if (!rc && ap_registry_epoch(c->registry) != epoch) /* a reader sees a retirement together with the holes it makes */
        ap_consumer_give_up(c);
    if (!rc)
        rc = clean(c, err);
    if (!rc)
        rc = ap_batch_put_offsets(&c->batch, c->cluster, err);
    if (!rc)
        rc = ap_dead_flush(c->dead, &c->stop, err);
    int64_t commit_ns = ap_mono_ns();
    if (!rc)
        rc = ap_writer_commit(c->writer, err);
    if (rc)
        return rc;
    if (++c->commits == c->crash_after)
        raise(SIGKILL);
    c->committed_ns = ap_mono_ns();
    c->last_full = c->batch.count > FULL_RECORDS;
    count_batch(c, start_ns, commit_ns);
    return 0;
}

/* Patience of raw vectors whose mutations are behind, and an end for those that wait in vain. */
static bool raw_overdue(struct ap_consumer *c)
{
    struct ap_source *raw = &c->sources.list[c->sources.count - 1];
    bool overdue = false;
    for (int32_t p = 0; p < raw->count; p++)
        if (raw->parts[p].raw.count)
            overdue |= ap_raw_overdue(&c->join, &raw->parts[p], ap_mono_ms());
    return overdue;
}

/* A record that comes alone is committed at once. Those that follow closely wait until PACE_US after the last commit, so
 * that they share one: each costs dozens of pages and a round of the indexer, whatever it holds. */
static void pace(struct ap_consumer *c)
{
    int64_t left = c->committed_ns + PACE_US * INT64_C(1000) - ap_mono_ns();
    if (left <= 0 || c->last_full)
        return;
    struct timespec t = {0, left};
    nanosleep(&t, NULL);
}

static int step(struct ap_consumer *c, struct ap_err *err)
{
    pace(c);
    int rc = ap_batch_gather(&c->batch, c->queue, c->dirty ? CLEAN_POLL_MS : POLL_MS, err);
    if (!rc && (c->batch.count || c->dirty || raw_overdue(c) || ap_held_due(&c->batch) || ap_collector_due(c->collector)))
        rc = commit_batch(c, err);
    c->bytes_since_trim += c->batch.bytes;
    c->busy |= c->batch.bytes > AP_BUSY_BYTES;
    ap_batch_clear(&c->batch);
    return rc;
}

int ap_consumer_run(struct ap_consumer *c, struct ap_err *err)
{
    int rc = 0;
    while (!rc && !atomic_load(&c->stop) && !c->handover) {
        rc = ap_consumer_take_findings(c, err);
        if (!rc)
            rc = ap_consumer_assign(c, err);
        if (!rc)
            rc = step(c, err);
        if (!rc)
            rc = ap_consumer_chores(c, err);
    }
    if (rc == AP_ETIMEOUT && atomic_load(&c->stop))
        rc = 0; /* the last batch is read again after the start */
    if (!rc)
        ap_consumer_announce_last(c);
    return rc;
}
