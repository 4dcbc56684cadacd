/* The slot map against an array that knows the truth: growth, removal, keys that collide. */
#include <check.h>
#include <stdlib.h>
#include <time.h>
#include "common/bytes.h"
#include "common/slotmap.h"
#include "run.h"

#define KEYS 200000

/* The "log": slot -> key. Slots go up; a key that moves gets a new one. */
struct world {
    struct ap_slotmap map;
    struct ap_key *keys;   /* [slot] */
    uint64_t *slot_of;     /* [key number], 0 when absent */
    uint64_t next;
    size_t reads;          /* comparisons of rows */
    size_t false_reads;
};

static void number_key(uint64_t n, struct ap_key *out)
{
    struct ap_point_id id;
    ap_point_id_from_u64(n, &id);
    ap_key_make(7, &id, out);
}

static bool match(void *arg, uint64_t slot, const struct ap_key *key)
{
    struct world *w = arg;
    ck_assert(slot > 0 && slot < w->next);
    bool same = memcmp(w->keys[slot].b, key->b, sizeof key->b) == 0;
    w->reads++;
    w->false_reads += !same;
    return same;
}

static void world_init(struct world *w, size_t slots, uint64_t hash_mask)
{
    memset(w, 0, sizeof *w);
    ap_slotmap_init(&w->map, 0);
    w->map.hash_mask = hash_mask;
    w->keys = calloc(slots + 1, sizeof *w->keys);
    w->slot_of = calloc(slots + 1, sizeof *w->slot_of);
    w->next = 1;
}

static void world_fini(struct world *w)
{
    ap_slotmap_fini(&w->map);
    free(w->keys);
    free(w->slot_of);
}

static void put(struct world *w, uint64_t n)
{
    struct ap_key key;
    number_key(n, &key);
    uint64_t slot = w->next++;
    w->keys[slot] = key;
    ck_assert_uint_eq(ap_slotmap_put(&w->map, &key, slot, match, w), w->slot_of[n]);
    w->slot_of[n] = slot;
}

static void take(struct world *w, uint64_t n)
{
    struct ap_key key;
    number_key(n, &key);
    ck_assert_uint_eq(ap_slotmap_remove(&w->map, &key, match, w), w->slot_of[n]);
    w->slot_of[n] = 0;
}

static void check_all(struct world *w, uint64_t keys)
{
    size_t present = 0;
    for (uint64_t n = 0; n < keys; n++) {
        struct ap_key key;
        number_key(n, &key);
        ck_assert_uint_eq(ap_slotmap_get(&w->map, &key, match, w), w->slot_of[n]);
        present += w->slot_of[n] != 0;
    }
    ck_assert_uint_eq(w->map.used, present);
}

START_TEST(grows_and_keeps_every_key)
{
    struct world w;
    world_init(&w, KEYS, UINT64_MAX);
    size_t least = ap_slotmap_bytes(&w.map);
    for (uint64_t n = 0; n < KEYS; n++)
        put(&w, n);
    ck_assert_uint_gt(ap_slotmap_bytes(&w.map), least);
    ck_assert_uint_le(w.map.used, (w.map.mask + 1) / 4 * 3);
    check_all(&w, KEYS);
    world_fini(&w);
}
END_TEST

START_TEST(few_rows_are_read_for_nothing)
{
    struct world w;
    world_init(&w, KEYS, UINT64_MAX);
    for (uint64_t n = 0; n < KEYS; n++)
        put(&w, n);
    check_all(&w, KEYS);
    /* 34 bits tell keys apart: 200,000 keys give about 1.2 false matches while they are put. */
    ck_assert_uint_lt(w.false_reads, 30);
    world_fini(&w);
}
END_TEST

START_TEST(random_history_equals_the_truth)
{
    uint64_t seed = (uint64_t)time(NULL);
    printf("random_history_equals_the_truth: seed %llu\n", (unsigned long long)seed);
    srand48((long)seed);
    const uint64_t keys = 60000, steps = 400000;
    struct world w;
    world_init(&w, steps, UINT64_MAX);
    for (uint64_t i = 0; i < steps; i++) {
        uint64_t n = (uint64_t)lrand48() % keys;
        /* Grows first, shrinks in the middle, grows again. */
        bool shrink = i > steps / 3 && i < steps * 2 / 3;
        if (lrand48() % 100 < (shrink ? 75 : 25))
            take(&w, n);
        else
            put(&w, n);
        if (i % 100000 == 0)
            check_all(&w, keys);
    }
    check_all(&w, keys);
    for (uint64_t n = 0; n < keys; n++)
        take(&w, n);
    for (size_t i = 0; i <= w.map.mask; i++)
        ck_assert_uint_eq(w.map.entries[i], 0);
    world_fini(&w);
}
END_TEST

/* Only 12 bits of hash differ, and none of the remainder's: homes are 16 entries apart, and about 11 keys share each. */
START_TEST(colliding_keys_are_told_apart_by_their_rows)
{
    const uint64_t keys = 46000, steps = 120000;
    struct world w;
    world_init(&w, steps + keys, UINT64_C(0xfff) << 52);
    srand48(1);
    for (uint64_t n = 0; n < keys; n++)
        put(&w, n);
    for (uint64_t i = keys; i < steps; i++) {
        uint64_t n = (uint64_t)lrand48() % keys;
        if (lrand48() % 2)
            take(&w, n);
        else
            put(&w, n);
    }
    ck_assert_uint_gt(w.false_reads, 1000);
    check_all(&w, keys);
    world_fini(&w);
}
END_TEST

/* All homes are in the first 1/16 of the table, so entries would stand more than 63 away from home long before it is
 * 3/4 full. */
START_TEST(grows_early_where_homes_crowd)
{
    struct world w;
    world_init(&w, 10000, UINT64_MAX >> 4);
    for (uint64_t n = 0; n < 10000; n++)
        put(&w, n);
    ck_assert_uint_ge(w.map.mask + 1, 131072);
    check_all(&w, 10000);
    for (uint64_t n = 0; n < 10000; n += 2)
        take(&w, n);
    check_all(&w, 10000);
    world_fini(&w);
}
END_TEST

static bool slot_is(void *arg, uint64_t slot, const struct ap_key *key)
{
    (void)key;
    return slot == *(uint64_t *)arg;
}

START_TEST(a_known_slot_needs_no_row)
{
    struct world w;
    world_init(&w, 1000, UINT64_MAX);
    for (uint64_t n = 0; n < 500; n++)
        put(&w, n);
    w.reads = 0;
    for (uint64_t n = 0; n < 500; n++) {
        struct ap_key key;
        number_key(n, &key);
        uint64_t old = w.slot_of[n], slot = w.next++;
        w.keys[slot] = key;
        ck_assert_uint_eq(ap_slotmap_put(&w.map, &key, slot, slot_is, &old), old);
        w.slot_of[n] = slot;
    }
    ck_assert_uint_eq(w.reads, 0);
    check_all(&w, 500);
    world_fini(&w);
}
END_TEST

START_TEST(the_greatest_slot_fits)
{
    struct ap_slotmap m;
    struct ap_key key, other;
    uint64_t slot = AP_SLOT_MAX;
    number_key(1, &key);
    number_key(2, &other);
    ap_slotmap_init(&m, 100000);
    ck_assert_uint_ge(m.mask + 1, 131072);
    ck_assert_uint_eq(ap_slotmap_put(&m, &key, slot, slot_is, &slot), 0);
    ck_assert_uint_eq(ap_slotmap_get(&m, &key, slot_is, &slot), slot);
    ck_assert_uint_eq(ap_slotmap_get(&m, &other, slot_is, &slot), 0);
    ck_assert_uint_eq(ap_slotmap_remove(&m, &key, slot_is, &slot), slot);
    ck_assert_uint_eq(ap_slotmap_get(&m, &key, slot_is, &slot), 0);
    ap_slotmap_fini(&m);
    ck_assert_uint_eq(ap_slotmap_bytes(&m), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("slotmap");
    TCase *t = tcase_create("slotmap");
    tcase_set_timeout(t, 50);
    tcase_add_test(t, grows_and_keeps_every_key);
    tcase_add_test(t, few_rows_are_read_for_nothing);
    tcase_add_test(t, random_history_equals_the_truth);
    tcase_add_test(t, colliding_keys_are_told_apart_by_their_rows);
    tcase_add_test(t, grows_early_where_homes_crowd);
    tcase_add_test(t, a_known_slot_needs_no_row);
    tcase_add_test(t, the_greatest_slot_fits);
    suite_add_tcase(s, t);
    return run_suite(s);
}
