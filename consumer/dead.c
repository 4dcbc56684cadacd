/* Dead letters: a list of letters that Kafka has not acknowledged yet.
 *
 * A letter leaves the list with its delivery report. One that fails goes back to unsent and is sent again a second
 * later, for as long as it takes: the batch waits, because a record that is neither applied nor set aside is lost. */
#include "consumer/dead.h"

#include <stdio.h>
#include <stdlib.h>
#include "common/log.h"
#include "common/timeutil.h"

enum { RETRY_MS = 1000, GRACE_MS = 3000, CUT_BYTES = 64 * 1024, HEADERS = 7 };

struct letter {
    struct letter *next;
    bool in_flight, acked, too_large;
    char reason[480], code[24], origin[20], topic[AP_LOCAL_TOPIC_MAX], time[32];
    int32_t partition;
    int64_t offset, timestamp_ms;
    size_t key_len, value_len;
    bool has_key, has_value;
    uint8_t bytes[]; /* key, value */
};

struct ap_dead {
    rd_kafka_t *rk;
    struct letter *letters;
    int64_t retry_at_ms;
    bool knows_topic;
    struct ap_log_limit complaint;
};

/* Called from rd_kafka_poll in ap_dead_flush, that is in the apply thread. */
static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    (void)rk;
    struct ap_dead *dead = opaque;
    struct letter *letter = message->_private;
    letter->in_flight = false;
    if (!message->err) {
        letter->acked = true;
        return;
    }
    if (message->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && !letter->too_large) {
        letter->too_large = true; /* at once again, cut */
        return;
    }
    dead->retry_at_ms = ap_mono_ms() + RETRY_MS;
    ap_log_limited(&dead->complaint, 10000, AP_LOG_ERROR,
                   "a dead letter cannot be written to %s, and nothing is applied until it can: %s", AP_TOPIC_DEAD,
                   rd_kafka_err2str(message->err));
}

int ap_dead_new(struct ap_dead **out, const struct ap_config_extra *extra, const char *client_id, struct ap_err *err)
{
    struct ap_dead *dead = calloc(1, sizeof *dead);
    if (!dead)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    dead->rk = ap_kafka_producer(extra, client_id, delivered, dead, err);
    if (!dead->rk) {
        free(dead);
        return ap_err_wrap(err, "dead letters");
    }
    *out = dead;
    return 0;
}

void ap_dead_free(struct ap_dead **pointer)
{
    struct ap_dead *dead = *pointer;
    if (!dead)
        return;
    rd_kafka_purge(dead->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
    rd_kafka_flush(dead->rk, 0);
    rd_kafka_destroy(dead->rk); /* no report comes after this */
    while (dead->letters) {
        struct letter *letter = dead->letters;
        dead->letters = letter->next;
        free(letter);
    }
    free(dead);
    *pointer = NULL;
}

static void format_time(char out[32])
{
    int64_t ms = ap_wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, 32 - n, ".%03dZ", (int)(ms % 1000));
}

static struct letter *letter_new(const struct ap_part *part, const struct ap_record *r, const struct ap_err *why)
{
    struct letter *letter = calloc(1, sizeof *letter + r->key_len + r->value_len);
    if (!letter)
        return NULL;
    snprintf(letter->reason, sizeof letter->reason, "%s", why->msg);
    snprintf(letter->code, sizeof letter->code, "%s", ap_code_name(why->code));
    snprintf(letter->origin, sizeof letter->origin, "%s", part->source->origin.name);
    snprintf(letter->topic, sizeof letter->topic, "%s", part->source->topic);
    format_time(letter->time);
    letter->partition = part->number;
    letter->offset = r->offset;
    rd_kafka_timestamp_type_t type;
    letter->timestamp_ms = r->message ? rd_kafka_message_timestamp(r->message, &type) : 0;
    letter->has_key = r->key != NULL;
    letter->has_value = r->value != NULL;
    letter->key_len = r->key_len;
    letter->value_len = r->value_len;
    if (r->key_len)
        memcpy(letter->bytes, r->key, r->key_len);
    if (r->value_len)
        memcpy(letter->bytes + r->key_len, r->value, r->value_len);
    return letter;
}

static rd_kafka_headers_t *headers_of(const struct letter *letter, size_t sent)
{
    char partition[16], offset[24], bytes[24];
    rd_kafka_headers_t *h = rd_kafka_headers_new(HEADERS + 1);
    snprintf(partition, sizeof partition, "%d", (int)letter->partition);
    snprintf(offset, sizeof offset, "%lld", (long long)letter->offset);
    rd_kafka_header_add(h, "reason", -1, letter->reason, -1);
    rd_kafka_header_add(h, "code", -1, letter->code, -1);
    rd_kafka_header_add(h, "origin", -1, letter->origin, -1);
    rd_kafka_header_add(h, "topic", -1, letter->topic, -1);
    rd_kafka_header_add(h, "partition", -1, partition, -1);
    rd_kafka_header_add(h, "offset", -1, offset, -1);
    rd_kafka_header_add(h, "time", -1, letter->time, -1);
    if (sent != letter->value_len) {
        snprintf(bytes, sizeof bytes, "%zu", letter->value_len);
        rd_kafka_header_add(h, "value-bytes", -1, bytes, -1);
    }
    return h;
}

static void post(struct ap_dead *dead, struct letter *letter)
{
    size_t sent = letter->too_large && letter->value_len > CUT_BYTES ? CUT_BYTES : letter->value_len;
    rd_kafka_headers_t *headers = headers_of(letter, sent);
    rd_kafka_vu_t all[] = {
        {.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = AP_TOPIC_DEAD},
        {.vtype = RD_KAFKA_VTYPE_KEY, .u.mem = {letter->has_key ? letter->bytes : NULL, letter->key_len}},
        {.vtype = RD_KAFKA_VTYPE_VALUE, .u.mem = {letter->has_value ? letter->bytes + letter->key_len : NULL, sent}},
        {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
        {.vtype = RD_KAFKA_VTYPE_TIMESTAMP, .u.i64 = letter->timestamp_ms > 0 ? letter->timestamp_ms : 0},
        {.vtype = RD_KAFKA_VTYPE_OPAQUE, .u.ptr = letter},
    };
    letter->in_flight = true;
    rd_kafka_error_t *error = rd_kafka_produceva(dead->rk, all, sizeof all / sizeof *all);
    if (!error)
        return;
    rd_kafka_headers_destroy(headers); /* still ours when producing failed */
    letter->in_flight = false;
    if (rd_kafka_error_code(error) == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && !letter->too_large)
        letter->too_large = true; /* at once again, cut */
    else
        dead->retry_at_ms = ap_mono_ms() + RETRY_MS;
    ap_log_limited(&dead->complaint, 10000, AP_LOG_WARN, "a dead letter cannot be queued yet: %s", rd_kafka_error_string(error));
    rd_kafka_error_destroy(error);
}

/* A client that knows its topic sends at once; else the first letter, and the batch with it, would wait a second. */
static void learn_topic(struct ap_dead *dead)
{
    int32_t partitions;
    if (!dead->knows_topic && !ap_kafka_partitions(dead->rk, AP_TOPIC_DEAD, RETRY_MS, &partitions, NULL))
        dead->knows_topic = true;
}

int ap_dead_send(struct ap_dead *dead, const struct ap_part *part, const struct ap_record *record, const struct ap_err *why, struct ap_err *err)
{
    struct letter *letter = letter_new(part, record, why);
    if (!letter)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
    learn_topic(dead);
    letter->next = dead->letters;
    dead->letters = letter;
    post(dead, letter);
    rd_kafka_poll(dead->rk, 0); /* a long batch of nothing but poison must not fill the queue */
    return 0;
}

/* Free what is acknowledged, send again what failed when its time has come. True when nothing is left. */
static bool settle(struct ap_dead *dead)
{
    bool again = ap_mono_ms() >= dead->retry_at_ms;
    for (struct letter **at = &dead->letters; *at;) {
        struct letter *letter = *at;
        if (letter->acked) {
            *at = letter->next;
            free(letter);
            continue;
        }
        if (!letter->in_flight && again)
            post(dead, letter);
        at = &letter->next;
    }
    return !dead->letters;
}

int ap_dead_flush(struct ap_dead *dead, const atomic_bool *stop, struct ap_err *err)
{
    int64_t give_up_ms = INT64_MAX;
    while (!settle(dead)) {
        char why[256];
        rd_kafka_resp_err_t fatal = rd_kafka_fatal_error(dead->rk, why, sizeof why);
        if (fatal)
            return ap_err_set(err, AP_EKAFKA, AP_FATAL, "dead letters cannot be written to %s any more: %s", AP_TOPIC_DEAD, why);
        if (give_up_ms == INT64_MAX && atomic_load(stop))
            give_up_ms = ap_mono_ms() + GRACE_MS;
        if (ap_mono_ms() >= give_up_ms)
            return ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "stopped before Kafka had all dead letters");
        rd_kafka_poll(dead->rk, 100);
    }
    return 0;
}
