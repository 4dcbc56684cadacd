/* One consumer, every partition from its beginning to its end; letters are kept as they were read. */
#include "ctl/letters.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/row.h"
#include "common/timeutil.h"
#include "ctl/describe.h"

enum { REQUEST_MS = 10000, READ_MS = 60000 };

static int assign(struct ap_letters *l, int32_t *open, struct ap_err *err)
{
    int32_t count;
    int rc = ap_kafka_partitions(l->rk, AP_TOPIC_DEAD, REQUEST_MS, &count, err);
    if (rc)
        return rc;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(count);
    for (int32_t p = 0; p < count; p++)
        rd_kafka_topic_partition_list_add(list, AP_TOPIC_DEAD, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_resp_err_t failed = rd_kafka_assign(l->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    *open = count;
    return failed ? ap_err_set(err, AP_EKAFKA, AP_FATAL, "%s: %s", AP_TOPIC_DEAD, rd_kafka_err2str(failed)) : 0;
}

static int compare(const void *a, const void *b)
{
    const rd_kafka_message_t *x = ((const struct ap_letter *)a)->message, *y = ((const struct ap_letter *)b)->message;
    return x->partition != y->partition ? (x->partition > y->partition) - (x->partition < y->partition) : (x->offset > y->offset) - (x->offset < y->offset);
}

void ap_letter_header(const struct ap_letter *letter, const char *name, char *out, size_t cap)
{
    rd_kafka_headers_t *headers;
    const void *value = NULL;
    size_t size = 0;
    if (rd_kafka_message_headers(letter->message, &headers) || rd_kafka_header_get_last(headers, name, &value, &size) || !value)
        size = 0;
    snprintf(out, cap, "%.*s", (int)size, size ? (const char *)value : "");
}

struct ap_letter *ap_letters_find(struct ap_letters *l, int32_t partition, int64_t offset)
{
    for (size_t i = 0; i < l->count; i++)
        if (l->list[i].message->partition == partition && l->list[i].message->offset == offset)
            return &l->list[i];
    return NULL;
}

/* Take the records that settle others out of the list, and note what they say. */
static void note_settled(struct ap_letters *l)
{
    size_t kept = 0;
    char text[64];
    int partition;
    long long offset;
    for (size_t i = 0; i < l->count; i++) {
        ap_letter_header(&l->list[i], "settles", text, sizeof text);
        struct ap_letter *settled = sscanf(text, "%d:%lld", &partition, &offset) == 2 ? ap_letters_find(l, partition, offset) : NULL;
        if (settled)
            settled->settled = true;
    }
    for (size_t i = 0; i < l->count; i++) {
        ap_letter_header(&l->list[i], "settles", text, sizeof text);
        if (*text)
            rd_kafka_message_destroy(l->list[i].message);
        else
            l->list[kept++] = l->list[i];
    }
    l->count = kept;
}

int ap_letters_read(struct ap_letters *l, const struct ap_config_extra *extra, struct ap_err *err)
{
    int32_t open = 0;
    int64_t until = ap_mono_ms() + READ_MS;
    *l = (struct ap_letters){.extra = *extra};
    l->rk = ap_kafka_consumer(extra, "antipode-dlq", NULL, err);
    int rc = l->rk ? assign(l, &open, err) : AP_EKAFKA;
    while (rc == 0 && open > 0) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(l->rk, 200);
        if (ap_mono_ms() > until)
            rc = ap_err_set(err, AP_ETIMEOUT, AP_RETRY, "%s was not read to its end within %d s", AP_TOPIC_DEAD, READ_MS / 1000);
        if (!m)
            continue;
        if (m->err) {
            open -= m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
            rd_kafka_message_destroy(m);
            continue;
        }
        if (!(l->count & (l->count + 1)) && !(l->list = reallocarray(l->list, (l->count + 1) * 2, sizeof *l->list)))
            abort();
        l->list[l->count++] = (struct ap_letter){.message = m};
    }
    if (rc == 0 && l->count) {
        qsort(l->list, l->count, sizeof *l->list, compare);
        note_settled(l);
    }
    return rc;
}

void ap_letters_free(struct ap_letters *l)
{
    for (size_t i = 0; i < l->count; i++)
        rd_kafka_message_destroy(l->list[i].message);
    free(l->list);
    if (l->rk)
        rd_kafka_destroy_flags(l->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    *l = (struct ap_letters){0};
}

/* --- redriving --- */

int ap_letter_row(const struct ap_letter *letter, const struct ap_schemas *schemas, struct ap_buf *row, uint64_t *collection, struct ap_err *err)
{
    const rd_kafka_message_t *m = letter->message;
    char topic[300], whole[32];
    struct ap_mutation mutation;
    struct ap_buf scratch = {0}, merged = {0};
    struct ap_key key;
    ap_letter_header(letter, "topic", topic, sizeof topic);
    ap_letter_header(letter, "value-bytes", whole, sizeof whole);
    if (ap_record_kind_of(topic) != AP_RECORD_MUTATION)
        return ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "it is of %s; only mutations can be published again: a control record by its region, a raw vector by a new write", topic);
    if (*whole)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "only the first %zu of its %s bytes were kept", m->len, whole);
    int rc = !m->payload ? ap_err_set(err, AP_ECORRUPT, AP_POISON, "it has no value") : ap_mutation_decode(schemas, m->payload, m->len, &mutation, &scratch, err);
    if (rc == 0 && mutation.op == AP_OP_HEARTBEAT)
        rc = ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "it is a heartbeat, which changes no row");
    if (rc == 0 && m->key_len != sizeof key.b)
        rc = ap_err_set(err, AP_ECORRUPT, AP_POISON, "its key has %zu bytes instead of %zu", m->key_len, sizeof key.b);
    if (rc == 0) {
        uint8_t length[4];
        memcpy(key.b, m->key, sizeof key.b);
        *collection = ap_key_collection(&key);
        rc = ap_row_merge(&key, NULL, &mutation, &merged, err);
        ap_put_le32(length, (uint32_t)merged.len);
        if (rc == 1) {
            ap_buf_append(row, length, sizeof length);
            ap_buf_append(row, merged.data, merged.len);
        }
        rc = rc == 0 ? ap_err_set(err, AP_EUNSUPPORTED, AP_POISON, "it changes nothing") : rc < 0 ? rc : 0;
    }
    ap_buf_free(&scratch);
    ap_buf_free(&merged);
    return rc;
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    *(rd_kafka_resp_err_t *)opaque = m->err;
}

int ap_letter_settle(struct ap_letters *l, struct ap_letter *letter, struct ap_err *err)
{
    char text[64];
    rd_kafka_resp_err_t outcome = RD_KAFKA_RESP_ERR__TIMED_OUT;
    rd_kafka_t *rk = ap_kafka_producer(&l->extra, "antipode-dlq", delivered, &outcome, err);
    if (!rk)
        return AP_EKAFKA;
    snprintf(text, sizeof text, "%d:%lld", (int)letter->message->partition, (long long)letter->message->offset);
    rd_kafka_headers_t *headers = rd_kafka_headers_new(1);
    rd_kafka_header_add(headers, "settles", -1, text, -1);
    rd_kafka_vu_t all[] = {{.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = AP_TOPIC_DEAD},
                           {.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = letter->message->partition},
                           {.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers}};
    rd_kafka_error_t *error = rd_kafka_produceva(rk, all, sizeof all / sizeof *all);
    if (error) {
        rd_kafka_headers_destroy(headers);
        outcome = rd_kafka_error_code(error);
        rd_kafka_error_destroy(error);
    } else {
        rd_kafka_flush(rk, REQUEST_MS);
    }
    rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_resp_err_t final = outcome;
    rd_kafka_destroy(rk);
    if (final)
        return ap_err_set(err, AP_EKAFKA, AP_RETRY, "it was published, but %s does not say so yet (%s); redriving it once more does no harm", AP_TOPIC_DEAD, rd_kafka_err2str(final));
    letter->settled = true;
    return 0;
}
