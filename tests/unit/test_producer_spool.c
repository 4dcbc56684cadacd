/* The spool in a producer, on librdkafka's mock cluster: what goes through it keeps versions and order, over restarts. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/timeutil.h"
#include "patience.h"
#include "producer/spool_entry.h"
#include "producer/write.h"
#include "producer_rig.h"
#include "rnd.h"
#include "run.h"

static struct life life;
static char dir[64], conf[256];

static void setup(void)
{
    life_cluster_start();
    snprintf(dir, sizeof dir, "/tmp/antipode-spool-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(conf, sizeof conf, "spool.dir = %s\nspool.after_ms = 200\nkafka.reconnect.backoff.max.ms = 100\n", dir);
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
    life_cluster_stop();
}

static struct ap_record upsert(uint64_t id, const float *vector)
{
    struct ap_record r = {.op = AP_OP_UPSERT, .vector = (const uint8_t *)vector, .vector_len = 4 * sizeof *vector};
    struct ap_point_id point;
    ap_point_id_from_u64(id, &point);
    ap_key_make(9, &point, &r.key);
    return r;
}

/* Writes one point with vector[0] = n. 1: spooled, 0: in Kafka, else why not. */
static int write_one(uint64_t id, float n, struct ap_err *err)
{
    const float vector[4] = {n, 1, 2, 3};
    struct ap_record r = upsert(id, vector);
    struct ap_write_options o = {.deadline_ns = patience_ns()};
    struct ap_token token = {0};
    int rc = ap_write_records(&life.p, &life.p.lanes.topics[0], &r, 1, &o, &token, err);
    ck_assert(!o.spooled || token.count == 0);
    ap_token_fini(&token);
    return rc ? rc : o.spooled;
}

static void go_away(void)
{
    struct ap_err err = {0};
    rd_kafka_mock_broker_set_down(life_mock, 1);
    ck_assert_int_eq(write_one(1000, 0, &err), 1); /* handed over first, then caught */
}

static void wait_idle(void)
{
    char words[400];
    int64_t end = patience_ns();
    while (ap_spool_state(&life.p.spool, words, sizeof words) != AP_SPOOL_IDLE && ap_mono_ns() < end)
        sched_yield();
    ck_assert_int_eq(ap_spool_state(&life.p.spool, words, sizeof words), AP_SPOOL_IDLE);
}

/* Versions and values of the point in the order of Kafka. */
struct seen { uint64_t hlc[64], clock[64], writer[64]; float n[64]; size_t count; };
static struct seen look(uint64_t id)
{
    struct seen out = {0};
    struct ap_record want = upsert(id, (const float[4]){0});
    struct life_records r = life_read(AP_TOPIC_MUTATIONS);
    for (size_t i = 0; i < r.count; i++)
        if (r.all[i].has_key && memcmp(&r.all[i].key, &want.key, sizeof want.key) == 0) {
            out.hlc[out.count] = r.all[i].m.version.hlc;
            out.clock[out.count] = r.all[i].m.clock;
            out.writer[out.count] = r.all[i].m.version.writer;
            memcpy(&out.n[out.count++], r.all[i].m.vector, sizeof(float));
        }
    life_records_free(&r);
    return out;
}

START_TEST(what_is_spooled_is_published_in_order_with_the_version_of_its_acceptance)
{
    struct ap_err err = {0};
    life_open(&life, conf);
    ck_assert_int_eq(write_one(1, 1, &err), 0);
    go_away();
    for (int i = 2; i < 20; i++)
        ck_assert_int_eq(write_one(1, (float)i, &err), 1);
    uint64_t accepted = ap_clock_last(&life.p.clock);
    rd_kafka_mock_broker_set_up(life_mock, 1);
    wait_idle();
    ck_assert_int_eq(write_one(1, 20, &err), 0);
    life_close(&life);
    struct seen s = look(1);
    ck_assert_uint_eq(s.count, 20);
    for (size_t i = 0; i < s.count; i++) {
        ck_assert(s.n[i] == (float)(i + 1));
        ck_assert(i == 0 || s.hlc[i] > s.hlc[i - 1]);
        ck_assert(i == 0 || i == 19 ? s.clock[i] == s.hlc[i] : s.clock[i] > s.hlc[i]);
        ck_assert(i == 19 || s.hlc[i] <= accepted);
    }
    s = look(1000); /* the one that librdkafka had: twice, and both are the same change */
    ck_assert_uint_eq(s.count, 2);
    ck_assert_uint_eq(s.hlc[0], s.hlc[1]);
}
END_TEST

START_TEST(a_successor_publishes_what_was_left_and_stamps_after_it)
{
    struct ap_err err = {0};
    life_open(&life, conf);
    uint64_t first = life.p.incarnation;
    go_away();
    ap_clock_merge(&life.p.clock, ap_hlc_make(ap_wall_ms() + 20000, 0)); /* the next life's clock is behind */
    for (int i = 1; i < 10; i++)
        ck_assert_int_eq(write_one(1, (float)i, &err), 1);
    life_crash(&life);
    rd_kafka_mock_broker_set_up(life_mock, 1);
    life_open(&life, conf);
    int spooled = write_one(1, 10, &err); /* behind the rest, or after it */
    ck_assert_int_ge(spooled, 0);
    wait_idle();
    uint64_t second = life.p.incarnation;
    life_close(&life);
    struct seen s = look(1);
    ck_assert_uint_eq(s.count, 10);
    for (size_t i = 0; i < 10; i++) {
        ck_assert(s.n[i] == (float)(i + 1));
        ck_assert_uint_eq(s.writer[i], i < 9 ? first : second);
        ck_assert(i == 0 || s.hlc[i] > s.hlc[i - 1]);
    }
}
END_TEST

/* Many writers all through an outage and its end: the spool comes to an end though writes never stop. */
#define WRITERS 6
static _Atomic bool stop;
static _Atomic unsigned spooled_after;

static void *writer(void *arg)
{
    uint64_t me = (uint64_t)(uintptr_t)arg;
    struct ap_err err = {0};
    for (int n = 1; !atomic_load(&stop); n++) {
        int rc = write_one(me, (float)n, &err);
        ck_assert_msg(rc >= 0, "%s", err.msg);
        atomic_fetch_add(&spooled_after, rc == 1);
    }
    return NULL;
}

START_TEST(it_ends_though_writes_never_stop)
{
    pthread_t threads[WRITERS];
    life_open(&life, conf);
    atomic_store(&stop, false);
    atomic_store(&spooled_after, 0);
    for (size_t i = 0; i < WRITERS; i++)
        pthread_create(&threads[i], NULL, writer, (void *)(uintptr_t)(i + 1));
    rd_kafka_mock_broker_set_down(life_mock, 1);
    while (atomic_load(&spooled_after) < 200)
        sched_yield();
    rd_kafka_mock_broker_set_up(life_mock, 1);
    wait_idle();
    ck_assert(!ap_spool_is_active(&life.p.spool));
    atomic_store(&stop, true);
    for (size_t i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    life_close(&life);
}
END_TEST

START_TEST(an_entry_is_read_as_it_was_written_and_no_broken_one_is)
{
    const float vector[4] = {1, 2, 3, 4};
    const struct ap_version old = {ap_hlc_make(5, 6), {"us"}, 7};
    struct ap_region region = {"eu"};
    struct ap_record r[3] = {upsert(1, vector), upsert(2, vector), upsert(3, vector)};
    r[0].payload = "{\"a\":1}", r[0].payload_len = 7;
    r[1].has_codec = true, r[1].codec = 99, r[1].vector_len = 3, r[1].raw = vector, r[1].raw_len = sizeof vector;
    r[2].op = AP_OP_DELETE, r[2].vector = NULL, r[2].vector_len = 0, r[2].version = &old;
    const uint64_t hlcs[3] = {100, 101, 0};
    struct ap_buf bytes = {0};
    struct ap_spool_entry e;
    ap_spool_entry_write(&bytes, "vec-mutations", r, 3, hlcs, &region, 42);
    ck_assert_int_eq(ap_spool_entry_read(&e, bytes.data, bytes.len, NULL), 0);
    ck_assert(strcmp(e.topic, "vec-mutations") == 0 && e.count == 3 && e.newest_hlc == old.hlc);
    for (size_t i = 0; i < 3; i++) {
        const struct ap_record *x = &e.records[i];
        ck_assert(memcmp(&x->key, &r[i].key, sizeof x->key) == 0 && x->op == r[i].op && x->has_codec == r[i].has_codec && x->codec == r[i].codec);
        ck_assert(x->vector_len == r[i].vector_len && x->payload_len == r[i].payload_len && x->raw_len == r[i].raw_len);
        ck_assert(!x->vector == !r[i].vector && !x->payload == !r[i].payload && !x->raw == !r[i].raw);
        ck_assert(x->vector_len == 0 || memcmp(x->vector, r[i].vector, x->vector_len) == 0);
        ck_assert(x->version->hlc == (i == 2 ? old.hlc : hlcs[i]) && x->version->writer == (i == 2 ? 7 : 42));
        ck_assert_str_eq(x->version->region.name, i == 2 ? "us" : "eu");
    }
    ap_spool_entry_fini(&e);
    for (size_t len = 0; len < bytes.len; len++) {
        uint8_t *exact = malloc(len + 1); /* so that ASan sees a step too far */
        memcpy(exact, bytes.data, len);
        exact = realloc(exact, len ? len : 1);
        ck_assert_int_eq(ap_spool_entry_read(&e, exact, len, NULL), AP_ECORRUPT);
        ap_spool_entry_fini(&e);
        free(exact);
    }
    rnd_seed("spool entry");
    for (int i = 0; i < 20000; i++) { /* whatever it says, within bounds */
        size_t at = (size_t)rnd_below(bytes.len);
        uint8_t was = bytes.data[at];
        bytes.data[at] = (uint8_t)rnd();
        ap_spool_entry_read(&e, bytes.data, bytes.len, NULL);
        ap_spool_entry_fini(&e);
        bytes.data[at] = was;
    }
    ap_buf_free(&bytes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("producer_spool");
    TCase *t = tcase_create("spool");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, what_is_spooled_is_published_in_order_with_the_version_of_its_acceptance);
    tcase_add_test(t, a_successor_publishes_what_was_left_and_stamps_after_it);
    tcase_add_test(t, it_ends_though_writes_never_stop);
    tcase_add_test(t, an_entry_is_read_as_it_was_written_and_no_broken_one_is);
    suite_add_tcase(s, t);
    return run_suite(s);
}
