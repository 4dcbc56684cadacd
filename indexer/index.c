/* Opening and closing, waiting, and what the index says about itself.
 *
 * Opening loads the segment files and resets the store's `seen`; the first refresh then reads the log once: that fills the
 * map of ids, brings the loaded rows to life and finds the rest. */
#include "indexer/index.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "common/log.h"
#include "common/unsafe.h"
#include "indexer/index_impl.h"
#include "indexer/tier.h"

/* ---- metrics ---- */

struct sum { double rows[2], segments[2], bytes[2], tier[3], resident[3], fields, mapped; };

static void collect_collection(struct ap_metrics_out *out, const struct ap_state_coll *c)
{
    static const char *const kinds[2] = {"hot", "sealed"}, *const tiers[3] = {"hot", "warm", "cold"};
    char labels[320];
    struct sum sum = {0};
    const char *name = c->definition->c.params.name;
    for (size_t i = 0; i < c->count; i++) {
        int kind = !c->segments[i]->hot;
        sum.rows[kind] += atomic_load(&c->segments[i]->live_count);
        sum.segments[kind]++;
        sum.bytes[kind] += (double)ap_segment_bytes(c->segments[i]);
        int tier = kind + (kind && c->segments[i]->cold);
        sum.tier[tier] += (double)ap_segment_bytes(c->segments[i]);
        sum.resident[tier] += (double)ap_tier_resident(c->segments[i]);
        for (size_t j = 0; c->columns[i] && j < c->columns[i]->count; j++) {
            size_t file;
            sum.fields += (double)ap_column_bytes(c->columns[i]->items[j], &file);
            sum.mapped += (double)file;
        }
    }
    for (int kind = 0; kind < 2; kind++) {
        snprintf(labels, sizeof labels, "collection=\"%s\",kind=\"%s\"", name, kinds[kind]);
        ap_metrics_emit(out, "antipode_index_rows", labels, "gauge", "Live rows in segments.", sum.rows[kind]);
        ap_metrics_emit(out, "antipode_index_segments", labels, "gauge", "Segments searched.", sum.segments[kind]);
        ap_metrics_emit(out, "antipode_index_segment_bytes", labels, "gauge", "Memory of segments.", sum.bytes[kind]);
    }
    for (int tier = 0; tier < 3; tier++) {
        snprintf(labels, sizeof labels, "collection=\"%s\",tier=\"%s\"", name, tiers[tier]);
        ap_metrics_emit(out, "antipode_index_tier_bytes", labels, "gauge", "Bytes of segments: hot, and sealed ones that are kept in memory (warm) or on the disk (cold).", sum.tier[tier]);
        ap_metrics_emit(out, "antipode_index_tier_resident_bytes", labels, "gauge", "Of these, in memory now, to within a percent or so.", sum.resident[tier]);
    }
    static const char fields[] = "antipode_index_field_bytes", help[] = "Memory of the sealed segments' payload indexes: their own, and mapped files.";
    snprintf(labels, sizeof labels, "collection=\"%s\",kind=\"private\"", name);
    ap_metrics_emit(out, fields, labels, "gauge", help, sum.fields);
    snprintf(labels, sizeof labels, "collection=\"%s\",kind=\"mapped\"", name);
    ap_metrics_emit(out, fields, labels, "gauge", help, sum.mapped);
    snprintf(labels, sizeof labels, "collection=\"%s\"", name);
    double points = (double)atomic_load(&c->coll->points);
    ap_metrics_emit(out, "antipode_index_bytes_per_vector", labels, "gauge", "Memory of segments and payload indexes, mapped files included, and 8 bytes of the map, per live point.",
                    points > 0 ? (sum.bytes[0] + sum.bytes[1] + sum.fields + sum.mapped) / points + 8 : 0);
    ap_metrics_emit(out, "antipode_index_points", labels, "gauge", "Live points.", points);
    ap_metrics_emit(out, "antipode_index_pending_rows", labels, "gauge", "Rows set aside until their codec arrives.",
                    (double)atomic_load(&c->coll->pending_count));
}

static void collect(struct ap_metrics_out *out, void *arg)
{
    struct ap_index *index = arg;
    struct ap_state *state = ap_state_get(index);
    double unknown = 0;
    for (size_t i = 0; i < state->coll_count; i++)
        if (state->colls[i].definition && !state->colls[i].coll->dead)
            collect_collection(out, &state->colls[i]);
        else
            unknown += (double)atomic_load(&state->colls[i].coll->pending_count);
    ap_metrics_emit(out, "antipode_index_undefined_rows", NULL, "gauge", "Rows of collections whose definition has not arrived.", unknown);
    pthread_rwlock_rdlock(&index->map_lock);
    double map = (double)ap_slotmap_bytes(&index->map);
    pthread_rwlock_unlock(&index->map_lock);
    ap_metrics_emit(out, "antipode_index_map_bytes", NULL, "gauge", "Memory of the map from ids to slots.", map);
    char id[32];
    snprintf(id, sizeof id, "id=\"%016" PRIx64 "\"", ap_store_id(index->store));
    ap_metrics_emit(out, "antipode_index_store", id, "gauge", "Always 1; the label says which store this is an index of.", 1);
    ap_metrics_emit(out, "antipode_index_unsealed_bytes", NULL, "gauge", "Memory of full hot segments that are not sealed yet.", (double)atomic_load(&index->frozen_bytes));
    ap_metrics_emit(out, "antipode_index_visible_slot", NULL, "gauge", "Newest slot of the store that is searchable.",
                    (double)ap_index_visible_slot(index));
    ap_state_unref(&state);
}

static void register_metrics(struct ap_index *index, struct ap_metrics *m)
{
    static const char search[] = "antipode_search_seconds", help[] = "Seconds a search took, by how it went.";
    index->metrics.registry = m;
    index->metrics.refresh = ap_histogram(m, "antipode_index_refresh_seconds", NULL, "Seconds of a refresh that found rows.");
    index->metrics.seal = ap_histogram(m, "antipode_index_build_seconds", "kind=\"seal\"", "Seconds to build a segment.");
    index->metrics.merge = ap_histogram(m, "antipode_index_build_seconds", "kind=\"merge\"", "Seconds to build a segment.");
    index->metrics.fields = ap_histogram(m, "antipode_index_build_seconds", "kind=\"fields\"", "Seconds to build a segment.");
    index->metrics.damaged = ap_counter(m, "antipode_index_damaged_segments_total", NULL, "Segment files that failed their checks and were removed.");
    index->metrics.unusable = ap_counter(m, "antipode_index_unusable_rows_total", NULL, "Rows whose vector does not fit their collection.");
    index->metrics.search_ann = ap_histogram(m, search, "kind=\"ann\"", help);
    index->metrics.search_exact = ap_histogram(m, search, "kind=\"exact\"", help);
    index->metrics.search_filter = ap_histogram(m, search, "kind=\"filter\"", help);
    index->metrics.retries = ap_counter(m, "antipode_search_retries_total", NULL, "Searches done again because a hot segment began meanwhile.");
    ap_metrics_collect(m, collect, index);
}

/* ---- opening and closing ---- */

static int open_folder(struct ap_index *index, struct ap_err *err)
{
    if (mkdir(index->path, 0750) != 0 && errno != EEXIST)
        return ap_err_set(err, AP_EIO, AP_FATAL, "index %s: cannot make its folder: %s", index->path, strerror(errno));
    index->dir_fd = open(index->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    index->lock_fd = index->dir_fd < 0 ? -1 : openat(index->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (index->lock_fd < 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "index %s: cannot open its folder: %s", index->path, strerror(errno));
    if (flock(index->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return ap_err_set(err, AP_EBUSY, AP_FATAL, "index %s: another process has it open", index->path);
    return 0;
}

static int load_segments(struct ap_index *index, struct ap_err *err)
{
    struct ap_segment **all = NULL;
    size_t count = 0;
    int rc = ap_segfile_load_all(index, &all, &count, err);
    for (size_t i = 0; i < count; i++) {
        uint64_t first, last;
        struct ap_coll *coll = ap_index_coll_make(index, all[i]->collection);
        if (ap_segment_range(all[i], &first, &last) && last > coll->sealed_last)
            coll->sealed_last = last;
        ap_coll_add_segment(coll, all[i]);
    }
    free(all);
    return rc;
}

int ap_index_open(struct ap_index **out, struct ap_store *store, const struct ap_index_options *options, struct ap_schemas *schemas,
                  struct ap_metrics *metrics, struct ap_err *err)
{
    pthread_condattr_t monotonic;
    struct ap_index *index = calloc(1, sizeof *index);
    *out = NULL;
    if (!index || !(index->path = strdup(options->path)) || !(index->catalog = ap_catalog_new(schemas))) {
        free(index ? index->path : NULL);
        free(index);
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for the index");
    }
    /* Building takes and gives back tens of megabytes. By default glibc learns from the first such block to take the next
     * from the heap, where it does not come back from. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    index->store = store;
    index->options = *options;
    index->options.path = index->path;
    index->options.hot_rows = options->hot_rows ? options->hot_rows : 8192;
    index->options.merge_fan = options->merge_fan >= 2 ? options->merge_fan : 4;
    index->options.build_threads = options->build_threads > 0 ? options->build_threads : 1;
    index->options.unsealed_bytes = options->unsealed_bytes ? options->unsealed_bytes : 64 << 20;
    index->options.hold = options->hold ? strdup(options->hold) : NULL;
    index->options.cold = options->cold ? strdup(options->cold) : NULL;
    index->options.small = options->small ? strdup(options->small) : NULL;
    index->options.sealed_factory = options->sealed_factory ? strdup(options->sealed_factory) : NULL;
    index->schemas = schemas;
    index->dir_fd = index->lock_fd = -1;
    index->starting = true;
    index->control_version = UINT64_MAX;
    index->seen_written = UINT64_MAX;
    pthread_mutex_init(&index->apply_lock, NULL);
    pthread_rwlock_init(&index->catalog_lock, NULL);
    pthread_mutex_init(&index->state_lock, NULL);
    pthread_mutex_init(&index->wait_lock, NULL);
    pthread_mutex_init(&index->build_lock, NULL);
    pthread_rwlock_init(&index->map_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&index->waiters, &monotonic);
    pthread_cond_init(&index->build_wanted, &monotonic);
    pthread_cond_init(&index->built, &monotonic);
    pthread_condattr_destroy(&monotonic);
    ap_slotmap_init(&index->map, 0);
    ap_index_publish(index);
    register_metrics(index, metrics);

    int rc = open_folder(index, err);
    if (rc == 0)
        rc = ap_store_seen_write(store, 0, err);
    if (rc == 0)
        rc = load_segments(index, err);
    if (rc == 0) {
        ap_index_publish(index);
        rc = ap_builder_start(index, err);
    }
    if (rc < 0) {
        ap_index_close(&index);
        return rc;
    }
    *out = index;
    return 0;
}

static void free_coll(struct ap_coll *coll)
{
    for (size_t i = 0; i < coll->count; i++)
        ap_segment_unref(&coll->segments[i]);
    free(coll->segments);
    free(coll->pending.items);
    free(coll->unusable.items);
    ap_definition_unref(&coll->definition);
    ap_order_free(&coll->order);
    pthread_mutex_destroy(&coll->order_lock);
    free(coll);
}

void ap_index_close(struct ap_index **out)
{
    struct ap_index *index = *out;
    *out = NULL;
    if (!index)
        return;
    pthread_mutex_lock(&index->wait_lock);
    atomic_store(&index->closing, true);
    pthread_cond_broadcast(&index->waiters);
    pthread_mutex_unlock(&index->wait_lock);
    ap_builder_stop(index);
    ap_metrics_uncollect(index->metrics.registry, collect, index);
    for (size_t i = 0; i < index->forget_count; i++)
        ap_segment_unref(&index->forget[i]);
    free(index->forget);
    ap_state_unref(&index->state);
    for (size_t i = 0; i < index->coll_count; i++)
        free_coll(index->colls[i]);
    for (size_t i = 0; i < index->codec_count; i++)
        ap_codec_unref(&index->codecs[i].codec);
    free(index->colls);
    free(index->codecs);
    ap_catalog_free(&index->catalog);
    ap_slotmap_fini(&index->map);
    free(index->positions);
    if (index->lock_fd >= 0)
        close(index->lock_fd);
    if (index->dir_fd >= 0)
        close(index->dir_fd);
    pthread_mutex_destroy(&index->apply_lock);
    pthread_rwlock_destroy(&index->catalog_lock);
    pthread_mutex_destroy(&index->state_lock);
    pthread_mutex_destroy(&index->wait_lock);
    pthread_mutex_destroy(&index->build_lock);
    pthread_rwlock_destroy(&index->map_lock);
    pthread_cond_destroy(&index->waiters);
    pthread_cond_destroy(&index->build_wanted);
    pthread_cond_destroy(&index->built);
    free((char *)(uintptr_t)index->options.sealed_factory);
    free((char *)(uintptr_t)index->options.cold);
    free((char *)(uintptr_t)index->options.small);
    free((char *)(uintptr_t)index->options.hold);
    free(index->path);
    free(index);
}

/* ---- waiting ---- */

int ap_index_positions(struct ap_index *index, struct ap_position **out, size_t *count, struct ap_err *err)
{
    pthread_mutex_lock(&index->wait_lock);
    *count = index->position_count;
    *out = malloc((*count + 1) * sizeof **out);
    if (*out && *count > 0)
        memcpy(*out, index->positions, *count * sizeof **out);
    pthread_mutex_unlock(&index->wait_lock);
    return *out ? 0 : ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory for positions");
}

struct ap_settled ap_index_settled(struct ap_index *index)
{
    pthread_mutex_lock(&index->wait_lock);
    struct ap_settled settled = index->settled;
    pthread_mutex_unlock(&index->wait_lock);
    return settled;
}

int ap_index_wait(struct ap_index *index, const struct ap_token *token, int64_t deadline_ns, struct ap_err *err)
{
    struct timespec at = {.tv_sec = deadline_ns / 1000000000, .tv_nsec = deadline_ns % 1000000000};
    int rc = 0;
    if (ap_unsafe(AP_UNSAFE_NO_TOKEN_WAIT))
        return 0;
    pthread_mutex_lock(&index->wait_lock);
    while (!atomic_load(&index->closing) && !ap_token_covered(token, index->positions, index->position_count))
        if (pthread_cond_timedwait(&index->waiters, &index->wait_lock, &at) == ETIMEDOUT) {
            rc = ap_token_covered(token, index->positions, index->position_count) ? 0 : AP_ETIMEOUT;
            break;
        }
    if (atomic_load(&index->closing))
        rc = AP_ENOTREADY;
    pthread_mutex_unlock(&index->wait_lock);
    if (rc == AP_ETIMEOUT)
        return ap_err_set(err, rc, AP_RETRY, "the write is durable, but not visible here before the deadline");
    return rc == 0 ? 0 : ap_err_set(err, rc, AP_RETRY, "the index is closing");
}

bool ap_index_caught_up(struct ap_index *index)
{
    return atomic_load(&index->caught_up);
}

uint64_t ap_index_visible_slot(struct ap_index *index)
{
    uint64_t next = atomic_load(&index->visible);
    return next > 0 ? next - 1 : 0;
}
