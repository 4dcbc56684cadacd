/* Lanes: numbers without holes, whatever is refused, and clocks that rise with them; the bound; what breaks them. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include "common/timeutil.h"
#include "patience.h"
#include "producer_rig.h"
#include "rnd.h"
#include "run.h"

static struct life life;

static void setup(void)
{
    life_cluster_start();
}

static void teardown(void)
{
    life_cluster_stop();
}

static int64_t in_ms(int64_t ms)
{
    return ap_mono_ns() + ms * 1000000;
}

static void random_key(struct ap_key *key)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct ap_point_id id;
    pthread_mutex_lock(&lock);
    ap_put_le64(id.b, rnd());
    ap_put_le64(id.b + 8, rnd());
    pthread_mutex_unlock(&lock);
    ap_key_make(7, &id, key);
}

static void upserts(struct ap_record *r, size_t n)
{
    static const float vector[4] = {1, 2, 3, 4};
    for (size_t i = 0; i < n; i++) {
        r[i] = (struct ap_record){.op = AP_OP_UPSERT, .vector = (const uint8_t *)vector, .vector_len = sizeof vector};
        random_key(&r[i].key);
    }
}

/* Publish and wait. Returns the code of either. */
static int publish(struct life *r, const struct ap_record *records, size_t n, struct ap_token *token, size_t *published, struct ap_err *err)
{
    struct ap_ack *ack = ap_ack_new(true);
    int rc = ap_lanes_publish(&r->p.lanes, &r->p.lanes.topics[0], records, n, 0, ack, token, published, err);
    ap_ack_seal(ack);
    if (rc == 0)
        rc = ap_ack_wait(ack, patience_ns(), err);
    ap_ack_unref(&ack);
    return rc;
}

static void wait_until_empty(struct life *r)
{
    size_t records = 1, bytes = 1;
    for (int64_t end = patience_ns(); records && ap_mono_ns() < end; sched_yield())
        ap_inflight_now(&r->p.lanes.inflight, &records, &bytes);
    ck_assert_uint_eq(records, 0);
    ck_assert_uint_eq(bytes, 0);
}

/* --- many threads --- */

#define WRITERS 8
#define ROUNDS 30

static void *writer(void *arg)
{
    struct ap_record records[50];
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        struct ap_token token = {0};
        struct ap_err err = {0};
        size_t published, n = 1 + (size_t)i;
        upserts(records, n);
        ck_assert_msg(publish(&life, records, n, &token, &published, &err) == 0, "%s", err.msg);
        ck_assert_uint_eq(published, n);
        ap_token_fini(&token);
    }
    return NULL;
}

START_TEST(numbers_and_clocks_rise_together_whoever_writes)
{
    pthread_t threads[WRITERS];
    rnd_seed("lanes");
    life_open(&life, NULL);
    for (size_t i = 0; i < WRITERS; i++)
        pthread_create(&threads[i], NULL, writer, NULL);
    for (int i = 0; i < 20; i++)
        for (int32_t p = 0; p < LIFE_PARTITIONS; p++)
            ap_lane_heartbeat(&life.p.lanes, &life.p.lanes.topics[0], p);
    for (size_t i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), WRITERS * ROUNDS * (ROUNDS + 1) / 2);
    life_records_free(&r);
}
END_TEST

/* --- refusals --- */

START_TEST(a_record_that_is_not_taken_gives_its_number_back)
{
    struct ap_record records[200];
    struct ap_err err = {0};
    size_t published, total = 0, refused = 0;
    rnd_seed("lanes");
    life_open(&life, "kafka.queue.buffering.max.messages = 20\n");
    rd_kafka_mock_broker_set_rtt(life_mock, 1, 100);
    for (int i = 0; i < 6; i++) {
        struct ap_token token = {0};
        upserts(records, 200);
        int rc = publish(&life, records, 200, &token, &published, &err);
        ck_assert(rc == 0 ? published == 200 : published < 200);
        if (rc) {
            ck_assert_int_eq(rc, AP_EBUSY);
            refused++;
        }
        total += published;
        ap_token_fini(&token);
    }
    ck_assert_uint_gt(refused, 0);
    rd_kafka_mock_broker_set_rtt(life_mock, 1, 0);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), total);
    life_records_free(&r);
}
END_TEST

START_TEST(beyond_the_bound_nothing_of_a_request_is_published)
{
    struct ap_record records[8];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    rnd_seed("lanes");
    life_open(&life, "queue_records = 10\n");
    rd_kafka_mock_broker_set_down(life_mock, 1);
    struct ap_ack *ack = ap_ack_new(true);
    upserts(records, 8);
    ck_assert_int_eq(ap_lanes_publish(&life.p.lanes, &life.p.lanes.topics[0], records, 8, 0, ack, &token, &published, &err), 0);
    ap_ack_seal(ack);
    ck_assert_int_eq(ap_ack_wait(ack, in_ms(50), &err), AP_ETIMEOUT);
    struct ap_token none = {0};
    ck_assert_int_eq(publish(&life, records, 3, &none, &published, &err), AP_EBUSY);
    ck_assert_int_eq(err.cls, AP_RETRY);
    ck_assert_uint_eq(published, 0);
    ck_assert_uint_eq(none.count, 0);
    ck_assert_int_eq(publish(&life, records, 8, &none, &published, &err), AP_EBUSY);

    struct ap_record many[11];
    upserts(many, 11); /* would never fit */
    ck_assert_int_eq(publish(&life, many, 11, &none, &published, &err), AP_ETOOBIG);

    rd_kafka_mock_broker_set_up(life_mock, 1);
    ck_assert_int_eq(ap_ack_wait(ack, patience_ns(), &err), 0);
    ap_ack_unref(&ack);
    wait_until_empty(&life);
    ck_assert_int_eq(publish(&life, records, 3, &none, &published, &err), 0);
    ap_token_fini(&token);
    ap_token_fini(&none);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), 11);
    life_records_free(&r);
}
END_TEST

struct waiter { struct life *life; int rc; };

static void *wait_for_room(void *arg)
{
    struct waiter *w = arg;
    struct ap_record records[8];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    upserts(records, 8);
    struct ap_ack *ack = ap_ack_new(true);
    w->rc = ap_lanes_publish(&w->life->p.lanes, &w->life->p.lanes.topics[0], records, 8, patience_ns(), ack, &token, &published, &err);
    ap_ack_seal(ack);
    ap_ack_unref(&ack); /* the reports come to an ack that nobody holds any more */
    ap_token_fini(&token);
    return NULL;
}

START_TEST(who_may_wait_for_room_gets_it_when_kafka_answers)
{
    struct ap_record records[8];
    struct ap_token token = {0};
    struct waiter w = {.life = &life};
    size_t published;
    pthread_t thread;
    life_open(&life, "queue_records = 10\n");
    rd_kafka_mock_broker_set_down(life_mock, 1);
    upserts(records, 8);
    struct ap_ack *ack = ap_ack_new(true);
    ck_assert_int_eq(ap_lanes_publish(&life.p.lanes, &life.p.lanes.topics[0], records, 8, 0, ack, &token, &published, NULL), 0);
    ap_ack_seal(ack);
    pthread_create(&thread, NULL, wait_for_room, &w);
    rd_kafka_mock_broker_set_up(life_mock, 1);
    pthread_join(thread, NULL);
    ck_assert_int_eq(w.rc, 0);
    ap_ack_unref(&ack);
    ap_token_fini(&token);
    wait_until_empty(&life);
    life_close(&life);
}
END_TEST

START_TEST(an_event_over_the_limit_is_refused_by_its_index)
{
    struct ap_record records[3];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    char payload[4000];
    memset(payload, 'x', sizeof payload);
    life_open(&life, "max_record_bytes = 2048\n");
    upserts(records, 3);
    records[1].payload = payload;
    records[1].payload_len = sizeof payload;
    ck_assert_int_eq(publish(&life, records, 3, &token, &published, &err), AP_ETOOBIG);
    ck_assert_ptr_nonnull(strstr(err.msg, "point 1:"));
    ck_assert_uint_eq(published, 0);
    life_close(&life);
}
END_TEST

/* --- order --- */

START_TEST(a_token_says_the_last_number_of_each_partition)
{
    struct ap_record records[40];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    rnd_seed("lanes");
    life_open(&life, NULL);
    upserts(records, 40);
    ck_assert_int_eq(publish(&life, records, 40, &token, &published, &err), 0);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    ck_assert_uint_eq(life_check(&r), 40);
    uint64_t newest = 0;
    for (size_t i = 0; i < r.count; i++) {
        const struct ap_mutation *m = &r.all[i].m;
        if (m->op != AP_OP_UPSERT)
            continue;
        newest = m->version.hlc > newest ? m->version.hlc : newest;
        bool covered = false;
        for (size_t e = 0; e < token.count; e++)
            covered = covered || (token.entries[e].partition == r.all[i].partition && token.entries[e].seq >= m->seq);
        ck_assert(covered);
        ck_assert_uint_eq(m->stream, token.stream);
    }
    ck_assert_uint_eq(token.hlc, newest);
    ap_token_fini(&token);
    life_records_free(&r);
}
END_TEST

START_TEST(changes_of_one_point_keep_the_order_of_the_request)
{
    struct ap_record records[64];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    char payloads[64][16];
    life_open(&life, NULL);
    upserts(records, 64);
    for (size_t i = 0; i < 64; i++) {
        records[i].key = records[i % 4].key;
        records[i].payload_len = (size_t)snprintf(payloads[i], sizeof payloads[i], "{\"i\":%zu}", i);
        records[i].payload = payloads[i];
    }
    ck_assert_int_eq(publish(&life, records, 64, &token, &published, &err), 0);
    ap_token_fini(&token);
    life_close(&life);
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    for (size_t k = 0; k < 4; k++) {
        int last = -1, n = 0;
        for (size_t i = 0; i < r.count; i++)
            if (r.all[i].has_key && memcmp(&r.all[i].key, &records[k].key, sizeof r.all[i].key) == 0) {
                int now = atoi(r.all[i].m.payload + 5);
                ck_assert_int_gt(now, last);
                last = now;
                n++;
            }
        ck_assert_int_eq(n, 16);
    }
    life_records_free(&r);
}
END_TEST

START_TEST(raw_vectors_follow_their_mutations_in_the_same_order)
{
    static const float vector[4] = {1, 2, 3, 4};
    struct ap_record records[60];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    life_open(&life, NULL);
    upserts(records, 60);
    for (size_t i = 0; i < 60; i++) {
        records[i].raw = vector;
        records[i].raw_len = sizeof vector;
    }
    ck_assert_int_eq(publish(&life, records, 60, &token, &published, &err), 0);
    ap_token_fini(&token);
    wait_until_empty(&life);
    life_close(&life);
    struct life_records m = life_read(AP_TOPIC_MUTATIONS), raw = life_read(AP_TOPIC_RAW);
    ck_assert_uint_eq(raw.count, 60);
    size_t at = 0;
    for (size_t i = 0; i < m.count; i++) {
        if (m.all[i].m.op != AP_OP_UPSERT)
            continue;
        const struct life_record *x = &raw.all[at++];
        ck_assert_int_eq(x->partition, m.all[i].partition);
        ck_assert_mem_eq(&x->key, &m.all[i].key, sizeof x->key);
        ck_assert_uint_eq(x->raw.seq, m.all[i].m.seq);
        ck_assert_uint_eq(x->raw.stream, m.all[i].m.stream);
        ck_assert_int_eq(ap_version_compare(&x->raw.version, &m.all[i].m.version), 0);
        ck_assert_uint_eq(x->raw.vector_len, sizeof vector);
    }
    life_records_free(&m);
    life_records_free(&raw);
}
END_TEST

/* --- the end of an incarnation --- */

START_TEST(a_record_that_kafka_refuses_ends_the_incarnation)
{
    struct ap_record records[4];
    struct ap_token token = {0};
    struct ap_err err = {0};
    size_t published;
    life_open(&life, NULL);
    rd_kafka_mock_push_request_errors(life_mock, 0 /* Produce */, 1, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);
    upserts(records, 1);
    int rc = 0;
    for (int i = 0; i < 10 && rc == 0; i++) /* a heartbeat may meet the error instead: then the next write learns of it */
        rc = publish(&life, records, 1, &token, &published, &err);
    ck_assert(rc == AP_EKAFKA || rc == AP_ENOTREADY);
    ck_assert_int_eq(publish(&life, records, 1, &token, &published, &err), AP_ENOTREADY);
    ck_assert_uint_eq(published, 0);
    ck_assert(ap_producer_has_failed(&life.p, &err));
    ck_assert_ptr_nonnull(strstr(err.msg, "restart"));
    ck_assert(!ap_lane_heartbeat(&life.p.lanes, &life.p.lanes.topics[0], 0));
    ap_token_fini(&token);
    life_crash(&life);
}
END_TEST

START_TEST(a_heartbeat_waits_for_the_one_before)
{
    life_open(&life, NULL);
    atomic_store(&life.p.stop, true); /* the heart itself is not to interfere */
    pthread_join(life.p.heart, NULL);
    life.p.beating = false;
    for (int64_t end = patience_ns(); ap_lanes_unreported(&life.p.lanes) && ap_mono_ns() < end;)
        sched_yield();
    rd_kafka_mock_broker_set_down(life_mock, 1);
    struct ap_topic *topic = &life.p.lanes.topics[0];
    uint64_t seq = ap_lane_next_seq(topic, 2);
    ck_assert(ap_lane_heartbeat(&life.p.lanes, topic, 2));
    ck_assert(!ap_lane_heartbeat(&life.p.lanes, topic, 2));
    ck_assert_uint_eq(ap_lane_next_seq(topic, 2), seq + 1);
    rd_kafka_mock_broker_set_up(life_mock, 1);
    for (int64_t end = patience_ns(); ap_lanes_unreported(&life.p.lanes) && ap_mono_ns() < end;)
        sched_yield();
    ck_assert(ap_lane_heartbeat(&life.p.lanes, topic, 2));
    life_close(&life);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer_lanes");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, numbers_and_clocks_rise_together_whoever_writes);
    tcase_add_test(tc, a_record_that_is_not_taken_gives_its_number_back);
    tcase_add_test(tc, beyond_the_bound_nothing_of_a_request_is_published);
    tcase_add_test(tc, who_may_wait_for_room_gets_it_when_kafka_answers);
    tcase_add_test(tc, an_event_over_the_limit_is_refused_by_its_index);
    tcase_add_test(tc, a_token_says_the_last_number_of_each_partition);
    tcase_add_test(tc, changes_of_one_point_keep_the_order_of_the_request);
    tcase_add_test(tc, raw_vectors_follow_their_mutations_in_the_same_order);
    tcase_add_test(tc, a_record_that_kafka_refuses_ends_the_incarnation);
    tcase_add_test(tc, a_heartbeat_waits_for_the_one_before);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
