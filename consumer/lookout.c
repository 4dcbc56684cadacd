/* A round: assign the ends of the watermark topics and what is new of the dead letters, read to the end, let go again; then
 * ask for retention and for what is purged of the dead letters.
 *
 * Watermarks come many times a second, so the newest record of each region counts alone; only where a region has several
 * workers, each with some partitions, the last few records are put together. Of a watermark's schema that is not known, and
 * of a record that does not check, nothing is taken: its region then counts as not heard. */
#include "consumer/lookout.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/clock.h"
#include "common/event.h"
#include "common/kafka.h"
#include "common/kafka_profile.h"
#include "common/log.h"
#include "common/timeutil.h"
#include "consumer/sources.h"

enum { REQUEST_MS = 3000, ROUND_MS = 10000, WORKERS_TAIL = 16, LETTERS_MAX = 100000 };

struct letter { int32_t partition; int64_t offset; uint64_t hlc; };

struct ap_lookout {
    const struct ap_consumer_settings *settings;
    struct ap_config_extra extra;
    pthread_t thread;
    pthread_mutex_t lock;  /* stop, fresh, found */
    pthread_cond_t wake;
    bool stop, fresh;
    struct ap_findings found;

    /* The thread's own. */
    rd_kafka_t *rk;
    struct ap_schemas *schemas;
    struct ap_findings round;
    int64_t *letters_next;  /* next offset of each partition of dlq-mutations */
    int32_t letters_partitions;
    struct letter *letters;
    size_t letter_count, letter_cap;
    uint64_t unlisted_hlc;  /* the least of those that found the list full: held for good */
    struct ap_log_limit limit;
};

void ap_findings_fini(struct ap_findings *f)
{
    for (size_t i = 0; i < AP_CONSUMER_REGIONS_MAX; i++)
        ap_watermark_fini(&f->marks[i]);
    *f = (struct ap_findings){0};
}

static void topic_of(const struct ap_lookout *l, size_t region, const char *topic, char *out, size_t cap)
{
    const char *name = l->settings->all_regions[region].name;
    snprintf(out, cap, "%s%s%s", region ? name : "", region ? "." : "", topic);
}

/* --- watermarks --- */

/* Several workers: of each partition the newest record that says anything of it. */
static void put_together(struct ap_watermark *mark, struct ap_watermark *newer)
{
    size_t count = newer->count;
    newer->positions = reallocarray(newer->positions, newer->count + mark->count + 1, sizeof *newer->positions);
    if (!newer->positions)
        abort();
    for (size_t i = 0; i < mark->count; i++) {
        bool said = false;
        for (size_t k = 0; k < count && !said; k++)
            said = newer->positions[k].partition == mark->positions[i].partition;
        if (!said)
            newer->positions[newer->count++] = mark->positions[i];
    }
    if (mark->settled.hlc < newer->settled.hlc)
        newer->settled.hlc = mark->settled.hlc;
    if (mark->settled.retention_ms < newer->settled.retention_ms && mark->settled.retention_ms <= 0)
        newer->settled.retention_ms = mark->settled.retention_ms;
}

static void take_watermark(struct ap_lookout *l, size_t region, const rd_kafka_message_t *m)
{
    struct ap_watermark mark;
    struct ap_err err;
    if (!m->len || ap_watermark_decode(l->schemas, m->payload, m->len, &mark, &err))
        return;
    if (memcmp(&mark.region, &l->settings->all_regions[region], sizeof mark.region)) {
        ap_watermark_fini(&mark);
        return; /* the producer reports it */
    }
    if (l->round.heard[region] && l->settings->workers > 1)
        put_together(&l->round.marks[region], &mark);
    ap_watermark_fini(&l->round.marks[region]);
    l->round.marks[region] = mark;
    l->round.heard[region] = true;
}

/* --- dead letters --- */

static bool header_of(const rd_kafka_message_t *m, const char *name, char *out, size_t cap)
{
    rd_kafka_headers_t *headers;
    const void *value;
    size_t size;
    if (rd_kafka_message_headers(m, &headers) || rd_kafka_header_get_last(headers, name, &value, &size) || !value)
        return false;
    snprintf(out, cap, "%.*s", (int)size, (const char *)value);
    return true;
}

static void drop_letters(struct ap_lookout *l, int32_t partition, int64_t from, int64_t to)
{
    size_t kept = 0;
    for (size_t i = 0; i < l->letter_count; i++)
        if (l->letters[i].partition != partition || l->letters[i].offset < from || l->letters[i].offset >= to)
            l->letters[kept++] = l->letters[i];
    l->letter_count = kept;
}

static void add_letter(struct ap_lookout *l, const struct letter *letter)
{
    if (l->letter_count == LETTERS_MAX) {
        l->unlisted_hlc = letter->hlc < l->unlisted_hlc ? letter->hlc : l->unlisted_hlc;
        return;
    }
    if (l->letter_count == l->letter_cap) {
        l->letter_cap = l->letter_cap ? l->letter_cap * 2 : 64;
        l->letters = reallocarray(l->letters, l->letter_cap, sizeof *l->letters);
        if (!l->letters)
            abort();
    }
    l->letters[l->letter_count++] = *letter;
}

/* Only a mutation that is whole can ever be published again (ctl/letters.h). */
static void take_letter(struct ap_lookout *l, const rd_kafka_message_t *m)
{
    char text[64];
    int partition;
    long long offset;
    struct ap_mutation mutation;
    struct ap_buf scratch = {0};
    struct ap_err err;
    l->letters_next[m->partition] = m->offset + 1;
    if (header_of(m, "settles", text, sizeof text)) {
        if (sscanf(text, "%d:%lld", &partition, &offset) == 2)
            drop_letters(l, partition, offset, offset + 1);
        return;
    }
    int rc = header_of(m, "value-bytes", text, sizeof text) || !m->len ? AP_ECORRUPT : ap_mutation_decode(l->schemas, m->payload, m->len, &mutation, &scratch, &err);
    if (rc == AP_ESCHEMA)
        add_letter(l, &(struct letter){m->partition, m->offset, 0}); /* readable some day, and of any age */
    else if (rc == 0 && mutation.op != AP_OP_HEARTBEAT)
        add_letter(l, &(struct letter){m->partition, m->offset, mutation.version.hlc});
    ap_buf_free(&scratch);
}

static void note_letters(struct ap_lookout *l)
{
    l->round.letters_known = true;
    l->round.letters = l->letter_count;
    l->round.letters_hlc = l->unlisted_hlc;
    for (size_t i = 0; i < l->letter_count; i++)
        if (l->letters[i].hlc < l->round.letters_hlc)
            l->round.letters_hlc = l->letters[i].hlc;
}

/* --- reading --- */

static bool stopping(struct ap_lookout *l)
{
    pthread_mutex_lock(&l->lock);
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return stop;
}

/* The end of a region's watermarks. Its topic may not be there yet. */
static int list_watermarks(struct ap_lookout *l, size_t region, rd_kafka_topic_partition_list_t *list, struct ap_err *err)
{
    char name[AP_LOCAL_TOPIC_MAX];
    int32_t partitions;
    topic_of(l, region, AP_TOPIC_WATERMARKS, name, sizeof name);
    int rc = ap_kafka_partitions(l->rk, name, REQUEST_MS, &partitions, err);
    if (rc)
        return rc == AP_ENOTFOUND ? 0 : rc;
    for (int32_t p = 0; p < partitions; p++)
        rd_kafka_topic_partition_list_add(list, name, p)->offset = RD_KAFKA_OFFSET_TAIL(l->settings->workers > 1 ? WORKERS_TAIL : 1);
    return 0;
}

/* What is new of the dead letters, and what has been purged. */
static int list_letters(struct ap_lookout *l, rd_kafka_topic_partition_list_t *list, struct ap_err *err)
{
    int32_t partitions;
    int rc = ap_kafka_partitions(l->rk, AP_TOPIC_DEAD, REQUEST_MS, &partitions, err);
    if (rc)
        return rc;
    if (partitions > l->letters_partitions) {
        l->letters_next = reallocarray(l->letters_next, (size_t)partitions, sizeof *l->letters_next);
        if (!l->letters_next)
            abort();
        while (l->letters_partitions < partitions)
            l->letters_next[l->letters_partitions++] = 0;
    }
    for (int32_t p = 0; p < partitions; p++) {
        int64_t low, high;
        rd_kafka_resp_err_t failed = rd_kafka_query_watermark_offsets(l->rk, AP_TOPIC_DEAD, p, &low, &high, REQUEST_MS);
        if (failed)
            return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "%s[%d]: %s", AP_TOPIC_DEAD, (int)p, rd_kafka_err2str(failed));
        if (l->letters_next[p] > high) { /* made anew */
            drop_letters(l, p, 0, INT64_MAX);
            l->letters_next[p] = 0;
        }
        drop_letters(l, p, 0, low);
        l->letters_next[p] = l->letters_next[p] > low ? l->letters_next[p] : low;
        rd_kafka_topic_partition_list_add(list, AP_TOPIC_DEAD, p)->offset = l->letters_next[p];
    }
    return 0;
}

static void take(struct ap_lookout *l, const rd_kafka_message_t *m)
{
    char name[AP_LOCAL_TOPIC_MAX];
    const char *topic = rd_kafka_topic_name(m->rkt);
    if (strcmp(topic, AP_TOPIC_DEAD) == 0) {
        if (m->partition < l->letters_partitions)
            take_letter(l, m);
        return;
    }
    for (size_t i = 0; i < l->settings->region_count; i++) {
        topic_of(l, i, AP_TOPIC_WATERMARKS, name, sizeof name);
        if (strcmp(topic, name) == 0)
            take_watermark(l, i, m);
    }
}

static int read_to_the_end(struct ap_lookout *l, int open, struct ap_err *err)
{
    int64_t until = ap_mono_ms() + ROUND_MS;
    while (open > 0) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(l->rk, 100);
        if (m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
            open--;
        else if (m && !m->err)
            take(l, m);
        if (m)
            rd_kafka_message_destroy(m);
        if (open > 0 && (ap_mono_ms() > until || stopping(l)))
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "the ends of %s and %s could not be read in time", AP_TOPIC_WATERMARKS, AP_TOPIC_DEAD);
    }
    return 0;
}

static int read_topics(struct ap_lookout *l, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    int rc = list_letters(l, list, err);
    for (size_t i = 0; rc == 0 && i < l->settings->region_count; i++)
        rc = list_watermarks(l, i, list, err);
    if (rc == 0) {
        rd_kafka_resp_err_t failed = rd_kafka_assign(l->rk, list);
        rc = failed ? ap_err_set(err, AP_EKAFKA, AP_RETRY, "%s: %s", AP_TOPIC_WATERMARKS, rd_kafka_err2str(failed)) : read_to_the_end(l, list->cnt, err);
        rd_kafka_assign(l->rk, NULL);
    }
    rd_kafka_topic_partition_list_destroy(list);
    return rc;
}

/* Of every topic here that a mutation could come from again: the mutations of all regions, and the dead letters. */
static int ask_retention(struct ap_lookout *l, struct ap_err *err)
{
    char names[AP_CONSUMER_REGIONS_MAX * AP_CONSUMER_TOPICS_MAX + 1][AP_LOCAL_TOPIC_MAX];
    const char *list[AP_CONSUMER_REGIONS_MAX * AP_CONSUMER_TOPICS_MAX + 1];
    size_t count = 0;
    int32_t partitions;
    for (size_t r = 0; r < l->settings->region_count; r++)
        for (size_t t = 0; t < l->settings->topic_count; t++) {
            topic_of(l, r, l->settings->topic_names[t], names[count], sizeof names[count]);
            int rc = ap_kafka_partitions(l->rk, names[count], REQUEST_MS, &partitions, err);
            if (rc && rc != AP_ENOTFOUND)
                return rc;
            list[count] = names[count];
            count += rc == 0;
        }
    list[count++] = AP_TOPIC_DEAD;
    return ap_kafka_retention(l->rk, list, count, REQUEST_MS, &l->round.retention_ms, err);
}

/* --- the thread --- */

static void publish(struct ap_lookout *l)
{
    pthread_mutex_lock(&l->lock);
    ap_findings_fini(&l->found);
    l->found = l->round;
    l->fresh = true;
    pthread_mutex_unlock(&l->lock);
    l->round = (struct ap_findings){0};
}

static void round_once(struct ap_lookout *l)
{
    struct ap_err err = {0};
    char client_id[64];
    ap_findings_fini(&l->round);
    l->round.asked_ms = ap_mono_ms();
    snprintf(client_id, sizeof client_id, "antipode-consumer-%s-%lld-lookout", l->settings->region, (long long)l->settings->worker);
    if (l->rk && rd_kafka_fatal_error(l->rk, NULL, 0)) {
        rd_kafka_destroy_flags(l->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
        l->rk = NULL;
    }
    if (!l->rk)
        l->rk = ap_kafka_follower_client(&l->extra, client_id, &err);
    int rc = l->rk ? read_topics(l, &err) : AP_EKAFKA;
    if (rc == 0)
        note_letters(l);
    if (rc == 0 && (rc = ask_retention(l, &err)) != 0)
        l->round.retention_ms = 0;
    if (rc && !stopping(l))
        ap_log_limited(&l->limit, 60000, AP_LOG_WARN, "what holds tombstones up could not be found out, so they are kept: %s", err.msg);
    publish(l);
}

static void *lookout_main(void *arg)
{
    struct ap_lookout *l = arg;
    pthread_setname_np(pthread_self(), "lookout");
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        pthread_mutex_unlock(&l->lock);
        round_once(l);
        int64_t until_ns = ap_mono_ns() + l->settings->tombstones_check_ms * INT64_C(1000000);
        struct timespec until = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
        pthread_mutex_lock(&l->lock);
        while (!l->stop && ap_mono_ns() < until_ns)
            pthread_cond_timedwait(&l->wake, &l->lock, &until);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static void lookout_free(struct ap_lookout *l)
{
    if (l->rk)
        rd_kafka_destroy_flags(l->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    ap_findings_fini(&l->found);
    ap_findings_fini(&l->round);
    ap_schemas_free(&l->schemas);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->lock);
    free(l->letters_next);
    free(l->letters);
    free(l);
}

int ap_lookout_start(struct ap_lookout **out, const struct ap_consumer_settings *settings, const struct ap_config_extra *extra, struct ap_err *err)
{
    struct ap_lookout *l = calloc(1, sizeof *l);
    if (!l)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    l->settings = settings;
    l->extra = *extra;
    l->unlisted_hlc = AP_HLC_MAX;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake, &attr);
    pthread_condattr_destroy(&attr);
    int rc = ap_schemas_new(&l->schemas, err);
    if (rc == 0 && pthread_create(&l->thread, NULL, lookout_main, l))
        rc = ap_err_set(err, AP_EIO, AP_FATAL, "cannot start a thread");
    if (rc)
        lookout_free(l);
    else
        *out = l;
    return rc;
}

void ap_lookout_stop(struct ap_lookout **lookout)
{
    struct ap_lookout *l = *lookout;
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    lookout_free(l);
    *lookout = NULL;
}

bool ap_lookout_take(struct ap_lookout *l, struct ap_findings *out)
{
    pthread_mutex_lock(&l->lock);
    bool fresh = l->fresh;
    if (fresh) {
        *out = l->found;
        l->found = (struct ap_findings){0};
        l->fresh = false;
    }
    pthread_mutex_unlock(&l->lock);
    return fresh;
}
