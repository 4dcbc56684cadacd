/* Followers: whole topics, from their start, then whatever comes.
 *
 * Each topic is unknown until the cluster names its partitions; then they are assigned from their first record. How far a
 * partition was read is the offset behind its newest record or, where compaction has left nothing at the end, that of its
 * end-of-partition event. Trouble with brokers is logged, now and then, and waited out: only a fatal error of the client
 * is returned. */
#include "common/kafka.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "common/kafka_profile.h"
#include "common/log.h"
#include "common/timeutil.h"

#define LOOK_MS 1000       /* how often unknown topics are looked for */
#define METADATA_MS 1000   /* how long one look may take */
#define BURST 1000         /* records a poll hands out at most */

struct topic {
    char *name;
    int32_t partitions; /* 0: not known yet */
    int64_t *at;        /* [partitions]: next offset to read */
    int64_t *end;       /* [partitions]: where catching up ends */
};

struct ap_follower {
    rd_kafka_t *rk;
    struct topic *topics;
    size_t count;
    ap_follower_fn on_record;
    void *arg;
    int64_t look_at_ms;
    struct ap_log_limit limit;
};

int ap_follower_new(struct ap_follower **out, const struct ap_config_extra *extra, const char *client_id,
                    const char *const *topics, size_t topic_count, ap_follower_fn on_record, void *arg, struct ap_err *err)
{
    rd_kafka_t *rk = ap_kafka_follower_client(extra, client_id, err);
    *out = NULL;
    if (!rk)
        return err ? err->code : AP_EKAFKA;
    struct ap_follower *f = calloc(1, sizeof *f);
    struct topic *made = calloc(topic_count + 1, sizeof *made);
    if (!f || !made)
        abort();
    *f = (struct ap_follower){ .rk = rk, .topics = made, .count = topic_count, .on_record = on_record, .arg = arg };
    for (size_t i = 0; i < topic_count; i++)
        if (!(f->topics[i].name = strdup(topics[i])))
            abort();
    *out = f;
    return 0;
}

void ap_follower_free(struct ap_follower **follower)
{
    struct ap_follower *f = *follower;
    if (!f)
        return;
    /* No group to leave, no offsets to commit: nothing to wait for. */
    rd_kafka_destroy_flags(f->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    for (size_t i = 0; i < f->count; i++) {
        free(f->topics[i].name);
        free(f->topics[i].at);
        free(f->topics[i].end);
    }
    free(f->topics);
    free(f);
    *follower = NULL;
}

static int assign(struct ap_follower *f, struct topic *t, int32_t partitions, struct ap_err *err)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int32_t i = 0; i < partitions; i++)
        rd_kafka_topic_partition_list_add(list, t->name, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_error_t *error = rd_kafka_incremental_assign(f->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (error) {
        int rc = ap_err_set(err, AP_EKAFKA, AP_FATAL, "topic '%s': %s", t->name, rd_kafka_error_string(error));
        rd_kafka_error_destroy(error);
        return rc;
    }
    t->at = calloc((size_t)partitions, sizeof *t->at);
    t->end = calloc((size_t)partitions, sizeof *t->end);
    if (!t->at || !t->end)
        abort();
    t->partitions = partitions;
    return 0;
}

/* Look for topics that are not known yet. AP_ENOTREADY: the cluster does not answer, which poll passes over. */
static int look(struct ap_follower *f, int timeout_ms, struct ap_err *err)
{
    f->look_at_ms = ap_mono_ms() + LOOK_MS;
    for (size_t i = 0; i < f->count; i++) {
        int32_t partitions = 0;
        if (f->topics[i].partitions > 0)
            continue;
        int rc = ap_kafka_partitions(f->rk, f->topics[i].name, timeout_ms, &partitions, err);
        if (rc == 0)
            rc = assign(f, &f->topics[i], partitions, err);
        if (rc && rc != AP_ENOTFOUND)
            return rc;
    }
    return 0;
}

static struct topic *topic_of(struct ap_follower *f, const rd_kafka_message_t *message)
{
    const char *name = message->rkt ? rd_kafka_topic_name(message->rkt) : "";
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->topics[i].name, name) == 0 && message->partition >= 0 && message->partition < f->topics[i].partitions)
            return &f->topics[i];
    return NULL;
}

static int fatal(struct ap_follower *f, struct ap_err *err)
{
    char why[300];
    rd_kafka_resp_err_t code = rd_kafka_fatal_error(f->rk, why, sizeof why);
    return code ? ap_err_set(err, AP_EKAFKA, AP_FATAL, "Kafka client: %s", why) : 0;
}

static int handle(struct ap_follower *f, const rd_kafka_message_t *message, struct ap_err *err)
{
    struct topic *t = topic_of(f, message);
    if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR && t) {
        t->at[message->partition] = message->offset + 1;
        f->on_record(f->arg, t->name, message);
    } else if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF && t) {
        t->at[message->partition] = message->offset;
    } else if (message->err == RD_KAFKA_RESP_ERR__FATAL) {
        return fatal(f, err);
    } else if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        ap_log_limited(&f->limit, 10000, AP_LOG_WARN, "reading %s: %s", t ? t->name : "from Kafka", rd_kafka_message_errstr(message));
    }
    return 0;
}

/* Hand out what is there, waiting up to timeout_ms for the first. */
static int consume(struct ap_follower *f, int timeout_ms, struct ap_err *err)
{
    int rc = 0;
    for (int i = 0; i < BURST && rc == 0; i++) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(f->rk, i == 0 ? timeout_ms : 0);
        if (!message)
            return 0;
        rc = handle(f, message, err);
        rd_kafka_message_destroy(message);
    }
    return rc;
}

static int least(int a, int64_t b)
{
    return b < a ? (b < 0 ? 0 : (int)b) : a;
}

int ap_follower_poll(struct ap_follower *f, int timeout_ms, struct ap_err *err)
{
    if (ap_mono_ms() >= f->look_at_ms) {
        int rc = look(f, METADATA_MS, err); /* answers at once, or the cluster is away and there is nothing to poll */
        if (rc && rc != AP_ENOTREADY)
            return rc;
    }
    return consume(f, timeout_ms, err);
}

/* Where each known partition ends now. */
static int find_ends(struct ap_follower *f, int timeout_ms, struct ap_err *err)
{
    for (size_t i = 0; i < f->count; i++) {
        for (int32_t p = 0; p < f->topics[i].partitions; p++) {
            int64_t low = 0;
            rd_kafka_resp_err_t rc = rd_kafka_query_watermark_offsets(f->rk, f->topics[i].name, p, &low, &f->topics[i].end[p], timeout_ms);
            if (rc)
                return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "topic '%s', partition %d: %s", f->topics[i].name, (int)p, rd_kafka_err2str(rc));
        }
    }
    return 0;
}

static bool caught_up(const struct ap_follower *f)
{
    for (size_t i = 0; i < f->count; i++)
        for (int32_t p = 0; p < f->topics[i].partitions; p++)
            if (f->topics[i].at[p] < f->topics[i].end[p])
                return false;
    return true;
}

int ap_follower_catch_up(struct ap_follower *f, int timeout_ms, struct ap_err *err)
{
    int64_t deadline = ap_mono_ms() + timeout_ms, now;
    bool ends = false;
    int rc = AP_ENOTREADY;
    ap_err_set(err, AP_ENOTREADY, AP_RETRY, "Kafka was not asked yet");
    while ((now = ap_mono_ms()) < deadline) {
        int left = least(METADATA_MS, deadline - now);
        if (!ends) {
            rc = look(f, left, err);
            if (rc == 0)
                rc = find_ends(f, left, err);
            if (rc && rc != AP_ENOTREADY)
                return rc;
            ends = rc == 0;
        }
        if (ends && caught_up(f))
            return 0;
        int polled = consume(f, least(100, deadline - now), err);
        if (polled)
            return polled;
    }
    if (ends)
        return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "not read to the end within %d ms", timeout_ms);
    ap_err_wrap(err, "not read to the end within %d ms", timeout_ms);
    if (err)
        err->code = AP_ETIMEOUT;
    return AP_ETIMEOUT;
}
