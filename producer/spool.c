/* Flow: ap_spool_write stamps and appends; one thread reads what is there, publishes it through the lanes like any write,
 * waits for Kafka, and lets the files go.
 *
 * When publishing fails it is tried again: what is published twice changes nothing. A file that cannot be read stops the
 * draining, loudly, while new writes are still kept behind it. For tests, ANTIPODE_CRASH=after_spool_publish:<n> kills the
 * process (SIGKILL) when Kafka has the n-th part of the spool, which is still on disk. */
#include "producer/spool.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/timeutil.h"
#include "producer/spool_entry.h"

#define FILE_BYTES ((uint64_t)8 << 20)
#define DRAIN_BYTES ((size_t)1 << 20) /* read and published before Kafka is waited for */
#define LOOK_MS 50

void ap_spool_init(struct ap_spool *s, const struct ap_producer_config *config, struct ap_lanes *lanes, struct ap_metrics *m)
{
    pthread_condattr_t attr;
    *s = (struct ap_spool){.config = config, .lanes = lanes};
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    s->spooled = ap_counter(m, "antipode_producer_spooled_total", NULL, "Writes kept on disk because Kafka was away.");
    s->drained = ap_counter(m, "antipode_producer_spool_drained_total", NULL, "Spooled writes that Kafka has now.");
    s->refused = ap_counter(m, "antipode_producer_refused_total", "reason=\"spool_full\"", "Writes that were not done, by reason.");
}

/* --- life --- */

static int find(void *arg, const uint8_t *bytes, size_t len, struct ap_err *err)
{
    struct ap_spool_entry e;
    int rc = ap_spool_entry_read(&e, bytes, len, err);
    if (rc == 0)
        ap_clock_merge(arg, e.newest_hlc);
    ap_spool_entry_fini(&e);
    return rc;
}

int ap_spool_open(struct ap_spool *s, struct ap_clock *clock, struct ap_err *err)
{
    if (!*s->config->spool_dir)
        return 0;
    const struct ap_spool_options o = {.dir = s->config->spool_dir, .region = s->config->region, .max_bytes = (uint64_t)s->config->spool_max_bytes,
                                       .file_bytes = FILE_BYTES};
    int rc = ap_spool_file_open(&s->file, &o, find, clock, err);
    if (rc)
        return rc;
    const char *crash = getenv("ANTIPODE_CRASH");
    if (crash && sscanf(crash, "after_spool_publish:%llu", &s->crash_after) == 1)
        ap_warn("ANTIPODE_CRASH is set: this process kills itself when Kafka has part %llu of the spool", s->crash_after);
    struct ap_spool_stats stats;
    ap_spool_file_stats(s->file, &stats);
    s->active = stats.entries > 0;
    if (s->active)
        ap_info("spool: %llu writes of an earlier life (%llu bytes) are published once Kafka is there", (unsigned long long)stats.entries, (unsigned long long)stats.bytes);
    return 0;
}

void ap_spool_close(struct ap_spool *s)
{
    ap_spool_stop(s);
    ap_spool_file_close(&s->file);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
}

/* --- state --- */

bool ap_spool_is_on(const struct ap_spool *s)
{
    return s->file != NULL;
}

int64_t ap_spool_away_ms(struct ap_spool *s)
{
    return ap_lanes_away_ms(s->lanes, s->config->spool_after_ms);
}

bool ap_spool_is_active(struct ap_spool *s)
{
    pthread_mutex_lock(&s->lock);
    bool active = s->active;
    pthread_mutex_unlock(&s->lock);
    return active;
}

size_t ap_spool_writes(struct ap_spool *s)
{
    struct ap_spool_stats stats = {0};
    if (s->file)
        ap_spool_file_stats(s->file, &stats);
    return (size_t)stats.entries;
}

enum ap_spool_state ap_spool_state(struct ap_spool *s, char *words, size_t len)
{
    struct ap_spool_stats stats;
    *words = '\0';
    if (!s->file)
        return AP_SPOOL_OFF;
    int64_t away = ap_spool_away_ms(s);
    ap_spool_file_stats(s->file, &stats);
    pthread_mutex_lock(&s->lock);
    bool active = s->active;
    int at = 0;
    if (active || away)
        at = snprintf(words, len, away ? "Kafka has acknowledged nothing for %.1f s: writes are spooled" : "Kafka is back, the spool drains", (double)away / 1000);
    if (at > 0 && (size_t)at < len)
        snprintf(words + at, len - (size_t)at, " (%llu writes, %llu of %lld bytes)%s%s", (unsigned long long)stats.entries, (unsigned long long)stats.bytes,
                 (long long)s->config->spool_max_bytes, *s->trouble ? "; it does not go on: " : "", s->trouble);
    pthread_mutex_unlock(&s->lock);
    return away ? AP_SPOOL_SPOOLING : active ? AP_SPOOL_DRAINING : AP_SPOOL_IDLE;
}

void ap_spool_collect(struct ap_spool *s, struct ap_metrics_out *out)
{
    static const char *const labels[AP_SPOOL_STATES] = {"state=\"off\"", "state=\"idle\"", "state=\"spooling\"", "state=\"draining\""};
    struct ap_spool_stats stats = {0};
    char words[400];
    if (!s->file)
        return;
    enum ap_spool_state state = ap_spool_state(s, words, sizeof words);
    ap_spool_file_stats(s->file, &stats);
    for (int i = AP_SPOOL_IDLE; i < AP_SPOOL_STATES; i++)
        ap_metrics_emit(out, "antipode_producer_spool_state", labels[i], "gauge", "1 for the state that the spool is in.", i == (int)state);
    int64_t age = stats.oldest_ms ? ap_wall_ms() - stats.oldest_ms : 0;
    ap_metrics_emit(out, "antipode_producer_spool_writes", NULL, "gauge", "Writes on disk that Kafka does not have.", (double)stats.entries);
    ap_metrics_emit(out, "antipode_producer_spool_bytes", NULL, "gauge", "Bytes of the spool's files.", (double)stats.bytes);
    ap_metrics_emit(out, "antipode_producer_spool_max_bytes", NULL, "gauge", "What they may be (spool.max_bytes).", (double)s->config->spool_max_bytes);
    ap_metrics_emit(out, "antipode_producer_spool_oldest_seconds", NULL, "gauge", "Age of the oldest spooled write.", age > 0 ? (double)age / 1000 : 0);
}

/* --- writing --- */

static struct timespec at_ns(int64_t ns)
{
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

/* 1: to disk, and counted among the writers. 0: to Kafka. */
static int enter(struct ap_spool *s, int64_t deadline_ns, struct ap_err *err)
{
    const struct timespec until = at_ns(deadline_ns);
    int late = 0;
    pthread_mutex_lock(&s->lock);
    while (s->closing && late != ETIMEDOUT)
        late = pthread_cond_timedwait(&s->changed, &s->lock, &until);
    bool blocked = s->closing, begun = !s->active && ap_spool_away_ms(s) != 0;
    if (begun && !blocked) {
        s->active = true;
        ap_warn("Kafka has acknowledged nothing for %lld ms: writes are spooled in %s until it does", (long long)ap_spool_away_ms(s), s->config->spool_dir);
    }
    bool active = s->active && !blocked;
    s->writers += active;
    pthread_mutex_unlock(&s->lock);
    if (blocked)
        return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "the last spooled writes are being published, and the deadline passed meanwhile; nothing of this request was kept, send it again");
    return active;
}

static int append(struct ap_spool *s, const struct ap_topic *topic, const struct ap_record *records, size_t n, const uint64_t *hlcs, struct ap_err *err)
{
    struct ap_buf bytes = {0};
    uint64_t *own = calloc(n + 1, sizeof *own);
    if (!own)
        abort();
    for (size_t i = 0; i < n; i++)
        own[i] = hlcs && hlcs[i] ? hlcs[i] : ap_clock_next(s->lanes->clock);
    ap_spool_entry_write(&bytes, topic->name, records, n, own, &s->lanes->region, s->lanes->incarnation);
    int rc = ap_spool_file_append(s->file, bytes.data, bytes.len, err);
    ap_buf_free(&bytes);
    free(own);
    return rc;
}

int ap_spool_write(struct ap_spool *s, const struct ap_topic *topic, const struct ap_record *records, size_t n, const uint64_t *hlcs,
                   int64_t deadline_ns, struct ap_err *err)
{
    int rc = s->file && n ? enter(s, deadline_ns, err) : 0;
    if (rc <= 0)
        return rc;
    rc = append(s, topic, records, n, hlcs, err);
    ap_count(rc ? s->refused : s->spooled, 1);
    pthread_mutex_lock(&s->lock);
    s->writers--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return rc ? rc : 1;
}

/* --- draining --- */

static void pause_ms(struct ap_spool *s, int64_t ms)
{
    const struct timespec until = at_ns(ap_mono_ns() + ms * 1000000);
    pthread_mutex_lock(&s->lock);
    if (!atomic_load(&s->stop))
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
    pthread_mutex_unlock(&s->lock);
}

static void set_closing(struct ap_spool *s, bool closing)
{
    pthread_mutex_lock(&s->lock);
    if (s->closing != closing)
        pthread_cond_broadcast(&s->changed);
    s->closing = closing;
    pthread_mutex_unlock(&s->lock);
}

static void set_trouble(struct ap_spool *s, const char *words)
{
    pthread_mutex_lock(&s->lock);
    snprintf(s->trouble, sizeof s->trouble, "%s", words);
    pthread_mutex_unlock(&s->lock);
}

/* Whether it is handed over whole. */
static int publish(struct ap_spool *s, const uint8_t *bytes, size_t len, struct ap_ack *ack, struct ap_err *err)
{
    struct ap_spool_entry e;
    struct ap_token token = {0};
    size_t published;
    int rc = ap_spool_entry_read(&e, bytes, len, err);
    struct ap_topic *topic = rc ? NULL : ap_lanes_topic(s->lanes, e.topic);
    if (rc == 0 && !topic)
        rc = ap_err_set(err, AP_ECONFLICT, AP_FATAL, "a spooled write is for topic %s, which is not among this producer's topics (key topics): add it", e.topic);
    do /* the queue may be full of what Kafka has not taken yet */
        rc = rc && rc != AP_EBUSY ? rc : ap_lanes_publish(s->lanes, topic, e.records, e.count, ap_mono_ns() + 200 * 1000000, ack, &token, &published, err);
    while (rc == AP_EBUSY && !atomic_load(&s->stop) && (ap_spool_away_ms(s) == 0 || (set_closing(s, false), true)));
    ap_token_fini(&token);
    ap_spool_entry_fini(&e);
    return rc;
}

/* Until Kafka has it all. While it is away again, new writes need not wait for the end. */
static int await(struct ap_spool *s, struct ap_ack *ack, struct ap_err *err)
{
    int rc;
    while ((rc = ap_ack_wait(ack, ap_mono_ns() + LOOK_MS * 1000000, err)) == AP_ETIMEOUT && !atomic_load(&s->stop))
        if (ap_spool_away_ms(s))
            set_closing(s, false);
    return rc;
}

/* Publishes what was read; files are let go only when Kafka has all of it. */
static int publish_all(struct ap_spool *s, const struct ap_buf *read, struct ap_err *err)
{
    struct ap_ack *ack = ap_ack_new(true);
    uint64_t n = 0;
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < read->len; at += 4 + (size_t)ap_le32(read->data + at), n++)
        rc = publish(s, read->data + at + 4, ap_le32(read->data + at), ack, err);
    ap_ack_seal(ack);
    if (rc == 0)
        rc = await(s, ack, err);
    ap_ack_unref(&ack);
    if (rc == 0) {
        if (s->crash_after && --s->crash_after == 0)
            raise(SIGKILL);
        ap_spool_file_done(s->file);
        ap_count(s->drained, n);
    }
    return rc;
}

/* Nothing is left to read: end, or let the last writers finish first. */
static void end(struct ap_spool *s)
{
    pthread_mutex_lock(&s->lock);
    if (s->writers == 0 && ap_spool_file_is_empty(s->file)) {
        if (s->active)
            ap_info("spool: everything in it is in Kafka; writes go there again");
        s->active = s->closing = false;
        pthread_cond_broadcast(&s->changed);
    } else if (!s->closing) {
        s->closing = true; /* the next read finds what the last ones wrote */
    } else {
        const struct timespec until = at_ns(ap_mono_ns() + LOOK_MS * 1000000);
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
    }
    pthread_mutex_unlock(&s->lock);
}

static void *drain(void *arg)
{
    struct ap_spool *s = arg;
    struct ap_buf read = {0};
    struct ap_err err = {0};
    struct ap_log_limit limit = {0};
    pthread_setname_np(pthread_self(), "spool");
    while (!atomic_load(&s->stop)) {
        pthread_mutex_lock(&s->lock);
        while (!s->active && !atomic_load(&s->stop))
            pthread_cond_wait(&s->changed, &s->lock);
        pthread_mutex_unlock(&s->lock);
        if (ap_spool_away_ms(s) || atomic_load(&s->lanes->broken) || s->may_stamp(s->arg, &err) != 0) {
            set_closing(s, false);
            pause_ms(s, LOOK_MS);
            continue;
        }
        int rc = read.len ? 0 : ap_spool_file_read(s->file, DRAIN_BYTES, &read, &err); /* else: what could not be published is tried again */
        if (rc == 0 && read.len == 0) {
            end(s);
            continue;
        }
        if (rc == 0 && (rc = publish_all(s, &read, &err)) == 0)
            ap_buf_clear(&read);
        set_trouble(s, rc ? err.msg : "");
        if (rc && !atomic_load(&s->stop)) {
            ap_log_limited(&limit, 10000, AP_LOG_ERROR, "spool: not published: %s; trying again", err.msg);
            set_closing(s, false);
            pause_ms(s, 10 * LOOK_MS);
        }
    }
    ap_buf_free(&read);
    return NULL;
}

int ap_spool_start(struct ap_spool *s, int (*may_stamp)(void *arg, struct ap_err *err), void *arg, struct ap_err *err)
{
    s->may_stamp = may_stamp;
    s->arg = arg;
    if (!s->file)
        return 0;
    if (pthread_create(&s->drainer, NULL, drain, s) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for the spool");
    s->running = true;
    return 0;
}

void ap_spool_stop(struct ap_spool *s)
{
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->stop, true);
    s->closing = false;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->running)
        pthread_join(s->drainer, NULL);
    s->running = false;
}
