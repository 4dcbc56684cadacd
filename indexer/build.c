/* The builder thread: looks for work when woken and once a second, does one job at a time, the most urgent first.
 *
 *   1. full hot segments of a collection       become one sealed segment
 *   2. declared fields without an index        get one, segment by segment
 *   3. ids of deleted collections              leave the map
 *   4. segments without a live row             go
 *   5. a segment of which half is dead         is built anew
 *   6. merge_fan segments of one tier          become one (tier: power of merge_fan of hot_rows that their live rows reach)
 *   7. when no row came for some seconds       all small segments join the large one, or each other
 *
 * While rows pour in (LOADING_ROWS a second), loading comes first: full hot segments wait until they are worth a large build,
 * and what merges sealed ones waits for the end.
 *
 * While the log is read for the first time nobody searches: full hot segments then gather until half of the room for them is
 * taken, or the end is reached (of a store that is being rebuilt, whoever rebuilds it says when), and few large segments are built instead of many that merges would read again.
 *
 * A job works on references and short snapshots; only its end takes the apply lock: the live bits are then copied as they
 * are, and the list is swapped. A job that fails is logged and its collection rests for a while. */
#include <assert.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "indexer/index_impl.h"
#include "indexer/tier.h"

#define SOURCES_MAX 512   /* hot ones */
#define SEALED_MAX 64     /* of the others: as many files as a file may stand for */
#define IDLE_MS 2000
#define REST_MS 30000
#define HELD_NS 20000000
#define SEGMENT_BYTES_MAX (256u << 20)
#define LOADING_ROWS 20000

struct job {
    struct ap_coll *coll;
    struct ap_segment *sources[SOURCES_MAX];
    size_t count;
    bool merge;  /* of sealed segments */
    bool fields; /* nothing is merged: the one source gets the indexes that it lacks */
};

/* ---- choosing, under apply_lock ---- */

static uint32_t live(const struct ap_segment *s) { return atomic_load(&s->live_count); }

static uint64_t rows_max(const struct ap_coll *coll)
{
    uint64_t most = SEGMENT_BYTES_MAX / (coll->definition->c.params.dim + 12);
    return most > 16384 ? most : 16384;
}

static int tier_of(const struct ap_index *index, uint64_t rows)
{
    int tier = 0;
    for (uint64_t size = (uint64_t)index->options.hot_rows * index->options.merge_fan; rows * 10 >= size * 9; size *= index->options.merge_fan)
        tier++;
    return tier;
}

static bool choose_frozen(struct ap_coll *coll, struct job *job)
{
    uint64_t rows = 0;
    for (size_t i = 0; i < coll->count && job->count < SOURCES_MAX; i++) {
        struct ap_segment *s = coll->segments[i];
        if (s->hot && s != coll->hot && (job->count == 0 || rows + live(s) <= rows_max(coll))) {
            job->sources[job->count++] = s;
            rows += live(s);
        }
    }
    return job->count > 0;
}

static bool choose_fields(struct ap_coll *coll, struct job *job)
{
    for (size_t i = 0; i < coll->count && job->count == 0; i++)
        if (!coll->segments[i]->hot && ap_columns_wanting(coll->segments[i], coll->definition->fields))
            job->sources[job->count++] = coll->segments[i];
    job->fields = job->count > 0;
    return job->fields;
}

static bool choose_decayed(struct ap_coll *coll, struct job *job)
{
    for (size_t i = 0; i < coll->count && job->count < SEALED_MAX; i++)
        if (!coll->segments[i]->hot && live(coll->segments[i]) == 0)
            job->sources[job->count++] = coll->segments[i];
    for (size_t i = 0; i < coll->count && job->count == 0; i++)
        if (!coll->segments[i]->hot && (uint64_t)live(coll->segments[i]) * 2 <= coll->segments[i]->cap)
            job->sources[job->count++] = coll->segments[i];
    return job->count > 0;
}

static bool choose_tier(const struct ap_index *index, struct ap_coll *coll, struct job *job)
{
    for (int tier = 0; tier < 16; tier++) {
        uint64_t rows = 0;
        job->count = 0;
        for (size_t i = 0; i < coll->count && job->count < index->options.merge_fan; i++) {
            struct ap_segment *s = coll->segments[i];
            if (!s->hot && tier_of(index, live(s)) == tier && rows + live(s) <= rows_max(coll)) {
                job->sources[job->count++] = s;
                rows += live(s);
            }
        }
        if (job->count == index->options.merge_fan)
            return true;
    }
    job->count = 0;
    return false;
}

/* All that fit, or, when the largest is not worth writing anew for the others, the others. */
static bool choose_idle(struct ap_coll *coll, struct job *job)
{
    uint64_t total = 0;
    size_t largest = 0;
    for (size_t i = 0; i < coll->count; i++) {
        struct ap_segment *s = coll->segments[i];
        if (s->hot || job->count == SEALED_MAX || total + live(s) > rows_max(coll))
            continue;
        if (job->count > 0 && live(s) > live(job->sources[largest]))
            largest = job->count;
        job->sources[job->count++] = s;
        total += live(s);
    }
    if (job->count > 1 && (total - live(job->sources[largest])) * 8 < total)
        job->sources[largest] = job->sources[--job->count];
    if (job->count > 1)
        return true;
    job->count = 0;
    return false;
}

/* Judged by the last half second or more. */
static bool is_loading(struct ap_index *index, int64_t now)
{
    uint64_t applied = atomic_load_explicit(&index->applied, memory_order_relaxed);
    if (now - index->rate_ms >= 500) {
        index->loading = (applied - index->rate_rows) * 1000 > (uint64_t)LOADING_ROWS * (uint64_t)(now - index->rate_ms);
        index->rate_ms = now;
        index->rate_rows = applied;
    }
    return index->loading;
}

static bool is_held(const struct ap_index *index)
{
    return index->options.hold && access(index->options.hold, F_OK) == 0;
}

static bool choose_job(struct ap_index *index, struct job *job)
{
    int64_t now = ap_mono_ms();
    bool loading = is_loading(index, now);
    bool caught_up = atomic_load(&index->caught_up);
    /* Searches scan them: half of the room is 2 ms by default. */
    bool gather = (!caught_up || (index->options.hold ? is_held(index) : loading)) && atomic_load(&index->frozen_bytes) < index->options.unsealed_bytes / 2;
    bool idle = now - atomic_load(&index->last_row_ms) > IDLE_MS;
    bool found = false;
    pthread_mutex_lock(&index->apply_lock);
    /* All collections' full hot segments first: they hold up the tail. */
    for (int kind = 0; kind < 5 && !found && (kind == 0 || caught_up); kind++)
        for (size_t i = 0; i < index->coll_count && !found; i++) {
            struct ap_coll *coll = index->colls[i];
            if (!coll->definition || coll->dead || coll->rest_until_ms > now)
                continue;
            *job = (struct job){.coll = coll, .merge = kind > 0};
            found = kind == 0   ? !gather && choose_frozen(coll, job)
                    : kind == 1 ? choose_fields(coll, job)
                    : kind == 2 ? choose_decayed(coll, job)
                    : kind == 3 ? !loading && choose_tier(index, coll, job)
                                : idle && choose_idle(coll, job);
        }
    for (size_t i = 0; found && i < job->count; i++)
        ap_segment_ref(job->sources[i]);
    pthread_mutex_unlock(&index->apply_lock);
    return found;
}

/* ---- the swap ---- */

/* Are all sources still the collection's? It may have died or changed meanwhile. */
static bool sources_stand(const struct job *job)
{
    for (size_t i = 0; i < job->count; i++) {
        size_t j = 0;
        while (j < job->coll->count && job->coll->segments[j] != job->sources[i])
            j++;
        if (j == job->coll->count)
            return false;
    }
    return true;
}

static int by_first_slot(const void *a, const void *b)
{
    uint64_t x = 0, y = 0, last;
    (void)ap_segment_range(*(struct ap_segment *const *)a, &x, &last);
    (void)ap_segment_range(*(struct ap_segment *const *)b, &y, &last);
    return (x > y) - (x < y);
}

/* Rows that died while the segment was built stay dead. All slots rise, so each source is walked once, and of the sources
 * only those that have come to this slot and are not past it are looked at: mostly one. */
static void copy_live(const struct job *job, struct ap_segment *built)
{
    struct ap_segment *sources[SOURCES_MAX];
    uint32_t at[SOURCES_MAX] = {0};
    size_t first = 0, end = 0;
    memcpy(sources, job->sources, job->count * sizeof(struct ap_segment *));
    qsort(sources, job->count, sizeof *sources, by_first_slot);
    for (uint32_t rank = 0; rank < built->cap; rank++) {
        uint32_t ordinal = ap_segment_nth(built, rank);
        uint64_t slot = ap_segment_slot(built, ordinal), begins, last;
        while (end < job->count && (!ap_segment_range(sources[end], &begins, &last) || begins <= slot))
            end++;
        for (size_t j = first; j < end; j++) {
            const struct ap_segment *s = sources[j];
            uint32_t n = atomic_load(&s->count);
            while (at[j] < n && ap_segment_slot(s, ap_segment_nth(s, at[j])) < slot)
                at[j]++;
            first += j == first && at[j] == n;
            if (at[j] < n && ap_segment_slot(s, ap_segment_nth(s, at[j])) == slot && ap_segment_live(s, ap_segment_nth(s, at[j]))) {
                ap_segment_mark(built, ordinal, true);
                break;
            }
        }
    }
}

/* Takes built (may be NULL: nothing was left). */
static void swap(struct ap_index *index, struct job *job, struct ap_segment *built)
{
    pthread_mutex_lock(&index->apply_lock);
    bool stands = sources_stand(job);
    if (stands && built)
        copy_live(job, built);
    for (size_t i = 0; stands && i < job->count; i++) {
        struct ap_segment *gone = job->sources[i];
        if (gone->hot)
            atomic_fetch_sub(&index->frozen_bytes, ap_segment_bytes(gone));
        ap_coll_remove_segment(job->coll, gone);
        ap_segment_unref(&gone);
    }
    if (stands && built && live(built) > 0) {
        ap_coll_add_segment(job->coll, built);
    } else if (built) {
        ap_segfile_remove(index, built);
        ap_segment_unref(&built);
    }
    if (stands)
        ap_index_publish(index);
    pthread_mutex_unlock(&index->apply_lock);
    for (size_t i = 0; stands && i < job->count; i++)
        ap_segfile_remove(index, job->sources[i]);
}

/* Hands the segment its columns. Files of those that it has no more are removed. */
static void attach(struct ap_index *index, struct job *job, struct ap_columns *columns, uint64_t fields)
{
    struct ap_segment *s = job->sources[0];
    pthread_mutex_lock(&index->apply_lock);
    bool stands = sources_stand(job);
    struct ap_columns *old = stands ? s->columns : columns;
    if (stands) {
        s->columns = columns;
        s->indexed_fields = fields;
        ap_index_publish(index);
    }
    pthread_mutex_unlock(&index->apply_lock);
    for (size_t i = 0; old && i < old->count; i++)
        if (!stands || !ap_columns_find(columns, old->items[i]->field))
            ap_column_remove_file(index, old->items[i]);
    ap_columns_unref(&old);
}

static void failed(struct ap_index *index, struct job *job, const char *what, const struct ap_err *err)
{
    if (atomic_load(&index->closing))
        return;
    ap_error("%s failed, again in %d s: %s", what, REST_MS / 1000, err->msg);
    job->coll->rest_until_ms = ap_mono_ms() + REST_MS;
}

static void index_fields(struct ap_index *index, struct job *job, const struct ap_definition *definition)
{
    struct ap_columns *columns = NULL;
    struct ap_err err = {0};
    int64_t start = ap_mono_ns();
    /* Only this thread changes a segment's columns. */
    if (ap_columns_build(index, job->sources[0], job->sources[0]->columns, definition->fields, &columns, &err) != 0) {
        failed(index, job, "indexing payload fields", &err);
        return;
    }
    attach(index, job, columns, definition->fields->hash);
    ap_observe(index->metrics.fields, (double)(ap_mono_ns() - start) * 1e-9);
}

static void do_job(struct ap_index *index, struct job *job)
{
    struct ap_state *state = ap_state_get(index);
    const struct ap_state_coll *c = ap_state_find(state, job->coll->id);
    struct ap_segment *built = NULL;
    struct ap_err err = {0};
    int64_t start = ap_mono_ns();
    int rc = c && c->definition ? 0 : ap_err_set(&err, AP_ENOTREADY, AP_RETRY, "the collection is gone");
    if (rc == 0 && job->fields)
        index_fields(index, job, c->definition);
    else if (rc == 0)
        rc = ap_merge(index, state, c->definition, job->sources, job->count, &built, &err);
    if (rc == 0 && built && c->definition->fields->count > 0) {
        if (ap_columns_build(index, built, NULL, c->definition->fields, &built->columns, &err) == 0)
            built->indexed_fields = c->definition->fields->hash;
        else /* it is served without, and gets them later */
            failed(index, job, "indexing payload fields", &err);
    }
    if (built)
        ap_tier_set(built, ap_tier_is_named(index->options.cold, c->definition->c.params.name), index->dir_fd);
    if (rc == 0 && !job->fields) {
        uint32_t rows = built ? built->cap : 0;
        swap(index, job, built);
        double seconds = (double)(ap_mono_ns() - start) * 1e-9;
        ap_observe(job->merge ? index->metrics.merge : index->metrics.seal, seconds);
        ap_debug("%zu segments of collection %s became one of %u rows in %.3f s", job->count, c->definition->c.params.name, rows, seconds);
    } else if (rc != 0) {
        failed(index, job, "building a segment", &err);
    }
    for (size_t i = 0; i < job->count; i++)
        ap_segment_unref(&job->sources[i]);
    ap_state_unref(&state);
}

/* ---- deleted collections ---- */

struct forgetting { struct ap_snapshot *snapshot; };

static bool forget_match(void *arg, uint64_t slot, const struct ap_key *key)
{
    struct forgetting *f = arg;
    struct ap_row row;
    return ap_snapshot_row(f->snapshot, slot, &row, NULL) == 0 && memcmp(row.key.b, key->b, sizeof key->b) == 0;
}

/* A run of rows a snapshot and a lock. Rows that the cleaner already took leave entries behind, 8 bytes each, until a restart. */
static void forget_segment(struct ap_index *index, struct ap_segment *s)
{
    enum { RUN = 256 };
    uint32_t n = atomic_load(&s->count);
    for (uint32_t i = 0; i < n && !atomic_load(&index->closing); i += RUN) {
        struct forgetting f;
        if (ap_snapshot_begin(index->store, &f.snapshot, NULL) < 0)
            return;
        pthread_rwlock_wrlock(&index->map_lock);
        for (uint32_t j = i; j < n && j < i + RUN; j++) {
            struct ap_row row;
            if (ap_segment_live(s, j) && ap_snapshot_row(f.snapshot, ap_segment_slot(s, j), &row, NULL) == 0)
                ap_slotmap_remove(&index->map, &row.key, forget_match, &f);
        }
        pthread_rwlock_unlock(&index->map_lock);
        ap_snapshot_end(&f.snapshot);
    }
}

void ap_builder_forget(struct ap_index *index, struct ap_segment **segments, size_t count)
{
    pthread_mutex_lock(&index->build_lock);
    struct ap_segment **all = realloc(index->forget, (index->forget_count + count + 1) * sizeof(struct ap_segment *));
    if (!all)
        abort();
    for (size_t i = 0; i < count; i++)
        all[index->forget_count++] = segments[i];
    index->forget = all;
    index->build_asked = true;
    pthread_cond_signal(&index->build_wanted);
    pthread_mutex_unlock(&index->build_lock);
    free(segments);
}

static bool forget_one(struct ap_index *index)
{
    pthread_mutex_lock(&index->build_lock);
    struct ap_segment *s = index->forget_count > 0 ? index->forget[--index->forget_count] : NULL;
    pthread_mutex_unlock(&index->build_lock);
    if (!s)
        return false;
    forget_segment(index, s);
    ap_segment_unref(&s);
    return true;
}

/* ---- the thread ---- */

static void expire_orders(struct ap_index *index)
{
    struct ap_state *state = ap_state_get(index);
    for (size_t i = 0; i < state->coll_count; i++)
        ap_order_expire(state->colls[i].coll, ap_mono_ms());
    ap_state_unref(&state);
}

static void *builder_main(void *arg)
{
    struct ap_index *index = arg;
    pthread_setname_np(pthread_self(), "builder");
    /* Of this thread alone, on Linux: queries and the tail come first, whatever priority the process was given. */
    setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + 10);
    while (!atomic_load(&index->closing)) {
        struct job job;
        if (choose_job(index, &job)) {
            do_job(index, &job);
            malloc_trim(0); /* its blocks and FAISS's small pieces lie scattered over the heap */
            pthread_mutex_lock(&index->build_lock);
            pthread_cond_broadcast(&index->built);
            pthread_mutex_unlock(&index->build_lock);
            continue;
        }
        if (forget_one(index))
            continue;
        expire_orders(index);
        int64_t until = ap_mono_ns() + (index->options.hold ? HELD_NS : 1000000000);
        struct timespec at = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
        pthread_mutex_lock(&index->build_lock);
        if (!index->build_asked && !atomic_load(&index->closing))
            pthread_cond_timedwait(&index->build_wanted, &index->build_lock, &at);
        index->build_asked = false;
        pthread_mutex_unlock(&index->build_lock);
    }
    return NULL;
}

int ap_builder_start(struct ap_index *index, struct ap_err *err)
{
    if (pthread_create(&index->builder, NULL, builder_main, index) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "cannot start the builder thread");
    index->builder_runs = true;
    return 0;
}

void ap_builder_wake(struct ap_index *index)
{
    pthread_mutex_lock(&index->build_lock);
    index->build_asked = true;
    pthread_cond_signal(&index->build_wanted);
    pthread_mutex_unlock(&index->build_lock);
}

void ap_builder_wait_room(struct ap_index *index)
{
    if (atomic_load(&index->frozen_bytes) <= index->options.unsealed_bytes)
        return;
    int64_t until = ap_mono_ns() + 500000000;
    struct timespec at = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    pthread_mutex_lock(&index->build_lock);
    /* With a deadline: where building fails (its folder is gone, say), freshness goes on and memory pays. */
    while (atomic_load(&index->frozen_bytes) > index->options.unsealed_bytes && !atomic_load(&index->closing))
        if (pthread_cond_timedwait(&index->built, &index->build_lock, &at) != 0)
            break;
    pthread_mutex_unlock(&index->build_lock);
}

void ap_builder_stop(struct ap_index *index)
{
    if (!index->builder_runs)
        return;
    pthread_mutex_lock(&index->build_lock);
    pthread_cond_broadcast(&index->build_wanted);
    pthread_cond_broadcast(&index->built);
    pthread_mutex_unlock(&index->build_lock);
    pthread_join(index->builder, NULL);
    index->builder_runs = false;
}
