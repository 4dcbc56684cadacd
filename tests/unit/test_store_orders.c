/* One history, many orders: stores that get the same mutations in any order, some of them repeatedly, in batches cut anywhere,
 * some of which are lost and come again, with the cleaner in between, end with the same rows, byte for byte, and the same
 * digests. */
#include <check.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/store.h"
#include "rnd.h"
#include "run.h"

#define COLLECTION 7
#define POINTS 60
#define HISTORY 1500
#define STORES 4
#define ROUNDS 4

static struct ap_err err;
#define OK(call) \
    do { \
        int ok_ = (call); \
        ck_assert_msg(ok_ == 0, "%s: %d: %s", #call, ok_, err.msg); \
    } while (0)

/* --- the history --- */

static struct change { struct ap_key key; struct ap_mutation m; char payload[96]; char vector[12]; } history[HISTORY];

static void random_patch(char *out, size_t cap)
{
    static const char *const keys[] = {"a", "b", "c", "d"};
    const char *key = keys[rnd_below(4)];
    unsigned value = (unsigned)rnd_below(100);
    switch (rnd_below(6)) {
    case 0: snprintf(out, cap, "{\"delete\":[\"%s\",\"b\"]}", key); break;
    case 1: snprintf(out, cap, "{\"overwrite\":{\"%s\":%u}}", key, value); break;
    case 2: snprintf(out, cap, "{\"clear\":true}"); break;
    case 3: snprintf(out, cap, "{\"set\":{\"%s\":%u},\"overwrite\":{\"o\":%u}}", key, value, value); break;
    default: snprintf(out, cap, "{\"set\":{\"%s\":%u}}", key, value); break;
    }
}

/* Versions are few, so that ties happen; a DELETE may have the version of an upsert, as one by filter has. */
static void random_change(struct change *c)
{
    struct ap_point_id id;
    ap_point_id_from_u64(rnd_below(POINTS), &id);
    ap_key_make(COLLECTION, &id, &c->key);
    c->m = (struct ap_mutation){.version = {.hlc = 1 + rnd_below(80), .writer = 1 + rnd_below(3)}, .stream = 1, .seq = 1, .clock = 100};
    strcpy(c->m.version.region.name, rnd_below(2) ? "eu" : "us");
    unsigned what = (unsigned)rnd_below(10);
    c->m.op = what < 3 ? AP_OP_UPSERT : what < 5 ? AP_OP_DELETE : AP_OP_PATCH;
    c->payload[0] = 0;
    if (c->m.op == AP_OP_PATCH)
        random_patch(c->payload, sizeof c->payload);
    else if (c->m.op == AP_OP_UPSERT && rnd_below(3))
        snprintf(c->payload, sizeof c->payload, "{\"a\":%u,\"e\":1.50}", (unsigned)rnd_below(100));
    if (c->m.op == AP_OP_UPSERT) {
        snprintf(c->vector, sizeof c->vector, "v%u", (unsigned)rnd_below(1000));
        c->m.vector = (const uint8_t *)c->vector;
        c->m.vector_len = strlen(c->vector);
    }
    c->m.payload = *c->payload ? c->payload : NULL;
    c->m.payload_len = strlen(c->payload);
}

static void shuffle(uint32_t *order, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = rnd_below(i);
        uint32_t t = order[j];
        order[j] = order[i - 1];
        order[i - 1] = t;
    }
}

/* --- a store --- */

struct one {
    char path[128];
    struct ap_store *store;
    struct ap_writer *w;
};

static void open_one(struct one *o)
{
    struct ap_store_options options = {.path = o->path, .map_bytes = 64u << 20, .region = "eu", .worker = 0, .workers = 1};
    OK(ap_store_open(&o->store, &options, &err));
    OK(ap_writer_open(&o->w, o->store, NULL, NULL, &err));
}

static void close_one(struct one *o)
{
    ap_writer_close(&o->w);
    ap_store_close(&o->store);
}

static void remove_one(struct one *o)
{
    DIR *dir = opendir(o->path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(o->path);
}

static void apply(struct one *o, const struct change *c)
{
    bool changed;
    OK(ap_writer_apply(o->w, &c->key, &c->m, &changed, &err));
}

/* The order from `at` on, until a batch of random length is committed; again where it was lost first. */
static size_t apply_batch(struct one *o, const uint32_t *order, size_t at, size_t n)
{
    size_t end = at + 1 + rnd_below(80), dropped;
    end = end < n ? end : n;
    for (bool lost = rnd_below(8) == 0;; lost = false) {
        OK(ap_writer_begin(o->w, &err));
        for (size_t i = at; i < end; i++)
            apply(o, &history[order[i]]);
        for (size_t i = rnd_below(4); i > 0; i--)
            apply(o, &history[order[rnd_below(end)]]); /* once more */
        if (rnd_below(3) == 0)
            OK(ap_writer_clean(o->w, 40, ap_writer_next_slot(o->w), NULL, NULL, &dropped, &err));
        if (!lost)
            break;
        close_one(o);
        open_one(o);
    }
    OK(ap_writer_commit(o->w, &err));
    return end;
}

/* --- what it holds --- */

struct held { struct ap_buf rows[POINTS]; struct ap_digest digests[AP_DIGEST_BUCKETS]; };

static int keep_row(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct held *held = arg;
    struct ap_point_id id = ap_key_point(&row->key);
    struct ap_buf *to = &held->rows[ap_be64(id.b + 8)];
    (void)slot;
    ap_buf_clear(to); /* the last slot of a key is its row */
    ap_buf_append(to, row->bytes, row->len);
    return 0;
}

static struct held *hold(struct one *o)
{
    struct held *held = calloc(1, sizeof *held);
    struct ap_snapshot *s;
    OK(ap_snapshot_begin(o->store, &s, &err));
    OK(ap_snapshot_scan(s, ap_snapshot_first_slot(s), keep_row, held, &err));
    OK(ap_snapshot_digests(s, COLLECTION, held->digests, &err));
    ap_snapshot_end(&s);
    return held;
}

static void free_held(struct held *held)
{
    for (size_t i = 0; i < POINTS; i++)
        ap_buf_free(&held->rows[i]);
    free(held);
}

static void expect_equal(const struct held *a, const struct held *b)
{
    for (size_t i = 0; i < POINTS; i++)
        ck_assert_msg(a->rows[i].len == b->rows[i].len && (!a->rows[i].len || memcmp(a->rows[i].data, b->rows[i].data, a->rows[i].len) == 0), "point %zu", i);
    ck_assert_int_eq(memcmp(a->digests, b->digests, sizeof a->digests), 0);
}

START_TEST(any_order_gives_equal_rows_and_digests)
{
    char root[] = "/tmp/antipode-test-orders-XXXXXX";
    static uint32_t order[HISTORY];
    rnd_seed("any_order_gives_equal_rows_and_digests");
    ck_assert_ptr_nonnull(mkdtemp(root));
    for (int round = 0; round < ROUNDS; round++) {
        struct held *first = NULL;
        for (uint32_t i = 0; i < HISTORY; i++) {
            random_change(&history[i]);
            order[i] = i;
        }
        for (int n = 0; n < STORES; n++) {
            struct one o = {0};
            snprintf(o.path, sizeof o.path, "%s/%d-%d", root, round, n);
            open_one(&o);
            for (size_t at = 0; at < HISTORY;)
                at = apply_batch(&o, order, at, HISTORY);
            struct held *held = hold(&o);
            if (first) {
                expect_equal(first, held);
                free_held(held);
            } else {
                first = held;
            }
            close_one(&o);
            remove_one(&o);
            shuffle(order, HISTORY);
        }
        free_held(first);
    }
    rmdir(root);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("store_orders");
    TCase *t = tcase_create("orders");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, any_order_gives_equal_rows_and_digests);
    suite_add_tcase(s, t);
    return run_suite(s);
}
