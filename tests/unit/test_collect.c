/* Collecting tombstones in a real store: what may go goes, in an idle store too, and nothing it deletes brings an older row
 * back, whenever the process dies. The rule of what may go is tested in test_tombstone_rule.c. */
#include <check.h>
#include <lmdb.h>
#include <stdlib.h>
#include <unistd.h>
#include "common/store_internal.h"
#include "rnd.h"
#include "run.h"

#define COLLECTION 7
#define MAP ((size_t)256 << 20)
#define OK(call) \
    do { \
        int ok_ = (call); \
        ck_assert_msg(ok_ == 0, "%s: %d: %s", #call, ok_, err.msg); \
    } while (0)

enum { ALL = 1000000 };

static char root[64], path[96];
static struct ap_store *store;
static struct ap_writer *w;
static struct ap_err err;

static void open_store(void)
{
    struct ap_store_options o = {.path = path, .map_bytes = MAP, .region = "eu", .worker = 0, .workers = 1};
    OK(ap_store_open(&store, &o, &err));
    OK(ap_writer_open(&w, store, NULL, NULL, &err));
}

static void close_store(void)
{
    ap_writer_close(&w);
    ap_store_close(&store);
}

static void reopen(void)
{
    close_store();
    open_store();
}

static void setup(void)
{
    strcpy(root, "/tmp/antipode-collect-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    snprintf(path, sizeof path, "%s/store", root);
    open_store();
}

static void teardown(void)
{
    char command[128];
    close_store();
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    ck_assert_int_eq(system(command), 0);
}

static struct ap_key key_of(uint64_t n)
{
    struct ap_point_id id;
    struct ap_key key;
    ap_point_id_from_u64(n, &id);
    ap_key_make(COLLECTION, &id, &key);
    return key;
}

static void apply_at(uint64_t n, enum ap_op op, uint64_t hlc, uint64_t clock)
{
    static const uint8_t vector[8];
    struct ap_mutation m = {.op = op, .version = {.hlc = hlc, .region = {"eu"}, .writer = 1}, .stream = 1, .seq = 1, .clock = clock};
    struct ap_key key = key_of(n);
    bool changed;
    if (op == AP_OP_UPSERT) {
        m.vector = vector;
        m.vector_len = sizeof vector;
    } else if (op == AP_OP_PATCH) {
        m.payload = "{\"set\":{\"a\":1}}";
        m.payload_len = strlen(m.payload);
    }
    OK(ap_writer_apply(w, &key, &m, &changed, &err));
}

static void apply(uint64_t n, enum ap_op op, uint64_t hlc)
{
    OK(ap_writer_begin(w, &err));
    apply_at(n, op, hlc, hlc);
    OK(ap_writer_commit(w, &err));
}

static uint64_t seen_all(void)
{
    return ap_writer_next_slot(w) - 1;
}

/* One call in a batch of its own. */
static struct ap_collected collect_step(uint64_t floor, uint64_t seen, size_t max_rows)
{
    struct ap_collected out;
    OK(ap_writer_begin(w, &err));
    OK(ap_writer_collect(w, floor, seen, max_rows, &out, &err));
    OK(ap_writer_commit(w, &err));
    return out;
}

/* A whole round, without the rest that the one before has earned. */
static uint64_t collect(uint64_t floor, uint64_t seen)
{
    uint64_t before = ap_writer_tombstones(w);
    w->collecting.rest_until_ns = 0;
    while (collect_step(floor, seen, ALL).more)
        ;
    return before - ap_writer_tombstones(w);
}

struct census { uint64_t slots, live, dead; uint64_t newest[256]; bool alive[256]; };

static int count(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct census *c = arg;
    struct ap_point_id id = ap_key_point(&row->key);
    c->slots++;
    c->newest[id.b[15]] = slot; /* slots rise */
    c->alive[id.b[15]] = ap_row_is_live(row);
    return 0;
}

/* What a reader of the log finds who knows nothing else: the newest row of each point. Points are below 256. */
static struct census census(void)
{
    struct ap_snapshot *s;
    struct census c = {0};
    OK(ap_snapshot_begin(store, &s, &err));
    OK(ap_snapshot_scan(s, 0, count, &c, &err));
    ap_snapshot_end(&s);
    for (int i = 0; i < 256; i++) {
        c.live += c.newest[i] && c.alive[i];
        c.dead += c.newest[i] && !c.alive[i];
    }
    return c;
}

static uint64_t digest_rows(void)
{
    static struct ap_digest digests[AP_DIGEST_BUCKETS];
    struct ap_snapshot *s;
    uint64_t rows = 0, sum = 0;
    OK(ap_snapshot_begin(store, &s, &err));
    OK(ap_snapshot_digests(s, COLLECTION, digests, &err));
    ap_snapshot_end(&s);
    for (size_t i = 0; i < AP_DIGEST_BUCKETS; i++) {
        rows += digests[i].rows;
        sum |= digests[i].sum;
    }
    ck_assert(rows > 0 || sum == 0);
    return rows;
}

static uint64_t horizon(void)
{
    struct ap_snapshot *s;
    OK(ap_snapshot_begin(store, &s, &err));
    uint64_t h = ap_snapshot_horizon(s);
    ap_snapshot_end(&s);
    ck_assert_uint_eq(h, ap_writer_horizon(w));
    return h;
}

START_TEST(an_idle_store_lets_its_tombstones_go)
{
    for (uint64_t i = 1; i <= 20; i++)
        apply(i, AP_OP_UPSERT, i);
    for (uint64_t i = 1; i <= 10; i++)
        apply(i, AP_OP_DELETE, 100 + i);
    ck_assert_uint_eq(ap_writer_tombstones(w), 10);
    ck_assert_uint_eq(collect(106, seen_all()), 5); /* of clocks 101 to 105 */
    ck_assert_uint_eq(horizon(), 106);
    struct census c = census();
    ck_assert_uint_eq(c.live, 10);
    ck_assert_uint_eq(c.dead, 5);
    ck_assert_uint_eq(c.slots, 30 - 10); /* with each its older row, and nothing else */
    ck_assert_uint_eq(digest_rows(), 15);
    ck_assert_uint_eq(collect(200, seen_all()), 5);
    reopen();
    ck_assert_uint_eq(census().live, 10);
    ck_assert_uint_eq(digest_rows(), 10);
    ck_assert_uint_eq(ap_writer_tombstones(w), 0);
    ck_assert_uint_eq(horizon(), 200);
}
END_TEST

START_TEST(nothing_goes_before_the_indexer_has_seen_it)
{
    apply(1, AP_OP_UPSERT, 1);
    uint64_t seen = seen_all();
    apply(1, AP_OP_DELETE, 2);
    ck_assert_uint_eq(collect(100, seen), 0);
    ck_assert_uint_eq(census().slots, 2);
    ck_assert_uint_eq(collect(100, 0), 0);
    ck_assert_uint_eq(horizon(), 0);
    ck_assert_uint_eq(collect(100, seen_all()), 1);
}
END_TEST

/* The version is old, but the record that says so is new: other regions may not have it yet. */
START_TEST(a_delete_of_an_old_version_counts_from_when_it_was_published)
{
    apply(1, AP_OP_UPSERT, 5);
    OK(ap_writer_begin(w, &err));
    apply_at(1, AP_OP_DELETE, 5, 1000);
    OK(ap_writer_commit(w, &err));
    ck_assert_uint_eq(collect(500, seen_all()), 0);
    reopen(); /* the clock is in the file */
    ck_assert_uint_eq(collect(500, seen_all()), 0);
    ck_assert_uint_eq(collect(1001, seen_all()), 1);
}
END_TEST

START_TEST(a_patch_above_nothing_goes_as_a_tombstone_does)
{
    apply(1, AP_OP_PATCH, 10);
    apply(2, AP_OP_DELETE, 5);
    OK(ap_writer_begin(w, &err));
    apply_at(2, AP_OP_PATCH, 20, 20); /* a tombstone, and a newer patch above it */
    OK(ap_writer_commit(w, &err));
    ck_assert_uint_eq(ap_writer_tombstones(w), 2);
    ck_assert_uint_eq(collect(15, seen_all()), 1);
    ck_assert_uint_eq(census().dead, 1);
    ck_assert_uint_eq(collect(21, seen_all()), 1);
    ck_assert_uint_eq(census().slots, 0);
}
END_TEST

START_TEST(a_point_that_came_back_stays)
{
    apply(1, AP_OP_UPSERT, 1);
    apply(1, AP_OP_DELETE, 2);
    apply(1, AP_OP_UPSERT, 3);
    ck_assert_uint_eq(ap_writer_tombstones(w), 0);
    ck_assert_uint_eq(collect(100, seen_all()), 0);
    ck_assert_uint_eq(census().live, 1);
}
END_TEST

START_TEST(the_cleaner_moves_a_tombstone_with_its_clock)
{
    size_t dropped = 0;
    apply(1, AP_OP_UPSERT, 1);
    apply(1, AP_OP_DELETE, 50);
    for (uint64_t i = 1; i <= 30; i++) /* makes most of the log dead, so that the cleaner goes to work */
        apply(2, AP_OP_UPSERT, i);
    for (int i = 0; i < 6; i++) {
        OK(ap_writer_begin(w, &err));
        OK(ap_writer_clean(w, 100, seen_all(), NULL, NULL, &dropped, &err));
        OK(ap_writer_commit(w, &err));
    }
    struct census c = census();
    ck_assert_uint_gt(c.newest[1], 32);
    ck_assert_uint_eq(c.dead, 1);
    ck_assert_uint_eq(collect(50, seen_all()), 0);
    ck_assert_uint_eq(collect(51, seen_all()), 1);
}
END_TEST

START_TEST(the_map_gives_its_memory_back)
{
    enum { POINTS = 200000 };
    OK(ap_writer_begin(w, &err));
    for (uint64_t i = 1; i <= POINTS; i++)
        apply_at(i, AP_OP_DELETE, i, i);
    OK(ap_writer_commit(w, &err));
    ck_assert_uint_ge(ap_slotmap_bytes(&w->map), POINTS * 8);
    ck_assert_uint_eq(collect(POINTS + 1, seen_all()), POINTS);
    ck_assert_uint_le(ap_slotmap_bytes(&w->map), POINTS * 8 / 2);
    ck_assert_uint_eq(digest_rows(), 0);
}
END_TEST

/* Random histories, cleaning, small steps of collecting, an indexer that goes back, and processes that die at any step: the
 * newest row in the log is always the newest one applied, or there is none and it was a tombstone below the floor. */
START_TEST(no_step_brings_an_older_row_back)
{
    enum { POINTS = 60, STEPS = 1500 };
    struct { uint64_t hlc; bool live; } model[POINTS] = {{0}};
    rnd_seed("no_step_brings_an_older_row_back");
    uint64_t clock = 1, collected = 0, seen = 0;
    for (int step = 0; step < STEPS; step++) {
        uint64_t n = rnd_below(POINTS), what = rnd_below(100);
        if (what < 55) {
            bool live = rnd_below(2);
            apply(n, live ? AP_OP_UPSERT : AP_OP_DELETE, ++clock);
            model[n].hlc = clock;
            model[n].live = live;
        } else if (what < 85) {
            uint64_t floor = clock > 20 ? clock - 20 : 0;
            w->collecting.rest_until_ns = 0;
            collected += collect_step(floor, seen, 1 + rnd_below(40)).tombstones;
        } else if (what < 95) {
            size_t dropped;
            OK(ap_writer_begin(w, &err));
            OK(ap_writer_clean(w, 1 + rnd_below(20), seen, NULL, NULL, &dropped, &err));
            OK(ap_writer_commit(w, &err));
        } else if (what < 97) {
            reopen();
        }
        if (rnd_below(4) == 0)
            seen = rnd_below(20) == 0 ? 0 : seen_all() - rnd_below(seen_all() < 5 ? seen_all() + 1 : 5);
        if (step % 10)
            continue;
        struct census c = census();
        for (uint64_t i = 0; i < POINTS; i++) {
            ck_assert_msg(model[i].live ? c.newest[i] && c.alive[i] : !c.newest[i] || !c.alive[i], "step %d: point %llu", step,
                          (unsigned long long)i);
            ck_assert_msg(c.newest[i] || model[i].hlc + 20 < clock || model[i].hlc == 0, "step %d: point %llu went too early", step,
                          (unsigned long long)i);
        }
        ck_assert_uint_eq(digest_rows(), c.live + c.dead);
        ck_assert_uint_eq(ap_writer_tombstones(w), c.dead);
    }
    ck_assert_uint_gt(collected, 20);
}
END_TEST

/* --- held events --- */

static struct ap_held event(uint64_t time, uint64_t seq)
{
    return (struct ap_held){.time = time, .hlc = time - 1, .stream = 9, .seq = seq, .origin = {"us"}, .topic = "vec-mutations", .partition = 3,
                            .offset = 77, .key = "key", .key_len = 3, .value = "value", .value_len = 5};
}

static bool hold(struct ap_held h)
{
    bool fresh;
    OK(ap_writer_begin(w, &err));
    OK(ap_writer_hold(w, &h, &fresh, &err));
    OK(ap_writer_commit(w, &err));
    return fresh;
}

START_TEST(held_events_come_out_in_the_order_of_their_time)
{
    struct ap_held out;
    struct ap_buf bytes = {0};
    uint64_t records, size;
    ck_assert(hold(event(300, 3)));
    ck_assert(hold(event(100, 1)));
    ck_assert(hold(event(200, 2)));
    ck_assert(!hold(event(200, 2)));
    reopen();
    ap_writer_held(w, &records, &size);
    ck_assert_uint_eq(records, 3);
    OK(ap_writer_begin(w, &err));
    ck_assert_int_eq(ap_writer_first_held(w, 99, &out, &bytes, &err), 0);
    for (uint64_t i = 1; i <= 2; i++) {
        ck_assert_uint_eq(ap_writer_held_time(w), i * 100);
        ck_assert_int_eq(ap_writer_first_held(w, 250, &out, &bytes, &err), 1);
        ck_assert_uint_eq(out.seq, i);
        ck_assert_uint_eq(out.time, i * 100);
        ck_assert_uint_eq(out.hlc, i * 100 - 1);
        ck_assert_str_eq(out.topic, "vec-mutations");
        ck_assert_str_eq(out.origin.name, "us");
        ck_assert_int_eq(out.partition, 3);
        ck_assert_int_eq(out.offset, 77);
        ck_assert_mem_eq(out.key, "key", out.key_len);
        ck_assert_mem_eq(out.value, "value", out.value_len);
        OK(ap_writer_drop_held(w, &out, &err));
    }
    ck_assert_int_eq(ap_writer_first_held(w, 250, &out, &bytes, &err), 0);
    OK(ap_writer_commit(w, &err));
    ap_writer_held(w, &records, &size);
    ck_assert_uint_eq(records, 1);
    ap_buf_free(&bytes);
}
END_TEST

START_TEST(what_is_settled_is_kept_and_told)
{
    struct ap_snapshot *s;
    OK(ap_writer_begin(w, &err));
    OK(ap_writer_put_settled(w, (struct ap_settled){77, -1}, &err));
    OK(ap_writer_commit(w, &err));
    reopen();
    ck_assert_uint_eq(ap_writer_settled(w).hlc, 77);
    OK(ap_snapshot_begin(store, &s, &err));
    ck_assert_uint_eq(ap_snapshot_settled(s).hlc, 77);
    ck_assert_int_eq(ap_snapshot_settled(s).retention_ms, -1);
    ap_snapshot_end(&s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("collect");
    TCase *tc = tcase_create("all");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, an_idle_store_lets_its_tombstones_go);
    tcase_add_test(tc, nothing_goes_before_the_indexer_has_seen_it);
    tcase_add_test(tc, a_delete_of_an_old_version_counts_from_when_it_was_published);
    tcase_add_test(tc, a_patch_above_nothing_goes_as_a_tombstone_does);
    tcase_add_test(tc, a_point_that_came_back_stays);
    tcase_add_test(tc, the_cleaner_moves_a_tombstone_with_its_clock);
    tcase_add_test(tc, the_map_gives_its_memory_back);
    tcase_add_loop_test(tc, no_step_brings_an_older_row_back, 1, 5);
    tcase_add_test(tc, held_events_come_out_in_the_order_of_their_time);
    tcase_add_test(tc, what_is_settled_is_kept_and_told);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
