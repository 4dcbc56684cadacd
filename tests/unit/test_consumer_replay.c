/* The logs read again into a store whose positions say that all of it was applied (common/replay.h): what may be merged in
 * once more, and what may not since its tombstone may have been collected. On librdkafka's mock cluster. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "consumer_rig.h"
#include "run.h"

#define EU "origin=\"eu\""
#define TOPIC "eu.vec-mutations"

static struct rig rig;
static uint64_t stream, seq;
static int64_t horizon_ms;

static void setup(void)
{
    rig_open(&rig);
    stream = rig_incarnation(&rig, "eu");
    seq = 0;
    horizon_ms = ap_wall_ms() - 60000;
}

static void teardown(void)
{
    rig_close(&rig);
}

/* Publishes a change that has this version and clock, both in ms after the horizon, as number ++seq. */
static struct ap_mutation publish(uint64_t point, enum ap_op op, int64_t version, int64_t clock)
{
    struct ap_mutation m = rig_upsert("eu", stream, ++seq, ap_hlc_make(horizon_ms + clock, 0), NULL);
    m.version.hlc = ap_hlc_make(horizon_ms + version, 0);
    m.op = op;
    if (op != AP_OP_UPSERT) {
        m.vector = NULL;
        m.vector_len = 0;
    }
    if (op == AP_OP_PATCH) {
        m.payload = "{\"set\":{\"a\":1}}";
        m.payload_len = strlen(m.payload);
    }
    rig_mutation(&rig, TOPIC, 1, point, &m);
    return m;
}

/* Opens the store for its writer, while no consumer has it. */
static struct ap_writer *writer(struct ap_store **store)
{
    char path[96];
    struct ap_err err;
    struct ap_writer *w;
    snprintf(path, sizeof path, "%s/store", rig.dir);
    struct ap_store_options o = {.path = path, .map_bytes = 268435456, .region = "us", .worker = 0, .workers = 1};
    ck_assert_int_eq(ap_store_open(store, &o, &err), 0);
    ck_assert_int_eq(ap_writer_open(&w, *store, NULL, NULL, &err), 0);
    ck_assert_int_eq(ap_writer_begin(w, &err), 0);
    return w;
}

static void commit(struct ap_writer *w, struct ap_store *store)
{
    struct ap_err err;
    ck_assert_int_eq(ap_writer_commit(w, &err), 0);
    ap_writer_close(&w);
    ap_store_close(&store);
}

/* As `antipode rebuild --from-offset eu.vec-mutations=0` would; until all of its records have been read again. */
static void read_again(void)
{
    char path[96];
    snprintf(path, sizeof path, "%s/store/replay", rig.dir);
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs("offset " TOPIC " -1 0\n", f);
    ck_assert_int_eq(fclose(f), 0);
    rig_start(&rig, "rebuild = true");
    rig_wait(&rig, "antipode_consumer_duplicates_total", EU, (double)seq);
    rig_wait_ready(&rig);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_duplicates_total", EU), (double)seq);
    ck_assert_double_eq(rig_metric(&rig, "antipode_consumer_dead_letters_total", EU), 0); /* not one is a stranger's */
    rig_stop(&rig);
}

/* The store has none of the rows, and has collected tombstones up to the horizon. */
START_TEST(what_may_have_had_a_tombstone_stays_away)
{
    enum { OLD = -1000, AT = 0, NEW = 1000 };
    static const struct { enum ap_op op; int64_t version, clock; bool comes; const char *what; } cases[] = {
        {AP_OP_UPSERT, OLD, OLD, false, "an upsert of before the horizon"},
        {AP_OP_UPSERT, AT, AT, false, "an upsert at the horizon"},
        {AP_OP_UPSERT, NEW, NEW, true, "an upsert of after it"},
        {AP_OP_PATCH, OLD, OLD, false, "a patch of before"},
        {AP_OP_PATCH, NEW, NEW, true, "a patch of after"},
        {AP_OP_DELETE, OLD, OLD, true, "a delete, which brings nothing back"},
        {AP_OP_UPSERT, OLD, NEW, false, "a repair: an old version, published after"},
        {AP_OP_UPSERT, AT + 1, NEW, true, "a repair of a newer version"},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    struct ap_store *store;
    struct ap_err err;
    struct ap_region eu = {"eu"};
    struct ap_writer *w = writer(&store);
    ck_assert_int_eq(ap_writer_raise_horizon(w, ap_hlc_make(horizon_ms, 0), &err), 0);
    for (uint64_t i = 0; i < CASES; i++) {
        struct ap_mutation m = publish(i, cases[i].op, cases[i].version, cases[i].clock);
        ck_assert_int_eq(ap_positions_note(ap_writer_positions(w), &eu, stream, "vec-mutations", 1, m.seq, m.clock), AP_SEEN_NEW);
    }
    commit(w, store);
    read_again();
    for (uint64_t i = 0; i < CASES; i++)
        ck_assert_msg(rig_row(&rig, i, NULL, NULL, 0) == cases[i].comes, "%s", cases[i].what);
}
END_TEST

/* The whole way: written, deleted, the tombstone collected, the log read again from its start. */
START_TEST(a_deleted_point_does_not_come_back_with_its_log)
{
    publish(1, AP_OP_UPSERT, -3000, -3000);
    publish(1, AP_OP_DELETE, -2000, -2000);
    publish(2, AP_OP_UPSERT, -1000, -1000); /* older than the horizon as well, and alive */
    publish(3, AP_OP_UPSERT, 1000, 1000);
    rig_start(&rig, NULL);
    rig_wait_just(&rig, "antipode_consumer_applied_total", EU, 4);
    rig_stop(&rig);
    ck_assert(rig_row(&rig, 1, NULL, NULL, 0)); /* its tombstone */

    struct ap_store *store;
    struct ap_err err;
    struct ap_collected done = {.more = true};
    struct ap_writer *w = writer(&store);
    while (done.more)
        ck_assert_int_eq(ap_writer_collect(w, ap_hlc_make(horizon_ms, 0), ap_writer_next_slot(w) - 1, 1000, &done, &err), 0);
    ck_assert_uint_eq(ap_writer_tombstones(w), 0);
    commit(w, store);
    ck_assert(!rig_row(&rig, 1, NULL, NULL, 0));

    read_again();
    uint64_t hlc;
    ck_assert(rig_row(&rig, 1, &hlc, NULL, 0) && hlc == ap_hlc_make(horizon_ms - 2000, 0)); /* its tombstone, again, and no more */
    ck_assert(rig_row(&rig, 2, &hlc, NULL, 0) && hlc == ap_hlc_make(horizon_ms - 1000, 0));
    ck_assert(rig_row(&rig, 3, &hlc, NULL, 0) && hlc == ap_hlc_make(horizon_ms + 1000, 0));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("consumer_replay");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, what_may_have_had_a_tombstone_stays_away);
    tcase_add_test(tc, a_deleted_point_does_not_come_back_with_its_log);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
