/* Audits of real stores, with damage planted in the file while digests stay as they are; the index compared with its store,
 * and mended. */
#include <check.h>
#include <stdlib.h>
#include <xxhash.h>
#include "common/store_internal.h"
#include "index_rig.h"
#include "indexer/audit_index.h"
#include "indexer/index_impl.h"
#include "patience.h"
#include "run.h"

enum { DIM = 16, ROWS = 3000 };

static struct ix_rig rig;
static float *vectors;

static struct ap_audit_buckets all_buckets(void)
{
    struct ap_audit_buckets b;
    memset(&b, 0xff, sizeof b);
    return b;
}

static void setup(void)
{
    ix_open(&rig, DIM, AP_DOT, ROWS);
    rig.options.hot_rows = 512;
    vectors = malloc(sizeof *vectors * ROWS * DIM);
    for (size_t i = 0; i < ROWS * DIM; i++)
        vectors[i] = (float)drand48() - 0.5f;
    ix_define(&rig, false);
    ix_load(&rig, vectors, 0, ROWS, 500);
    ix_begin(&rig);
    for (size_t i = 0; i < 100; i++)
        ix_upsert(&rig, i, vectors + i * DIM, "{\"again\":1}");
    for (size_t i = 100; i < 150; i++)
        ix_delete(&rig, i);
    ix_commit(&rig);
}

static void teardown(void)
{
    ix_close(&rig);
    free(vectors);
}

static void open_audit(struct ap_audit *a, bool verify)
{
    struct ap_audit_buckets all = all_buckets();
    ap_audit_init(a, rig.store, rig.collection_id, &all, verify, 0);
}

static void catch_up(struct ap_audit *a)
{
    struct ap_snapshot *s;
    struct ap_err err;
    ck_assert_msg(ap_audit_catch_up(a, &s, &err) == 0, "%s", err.msg);
    ap_snapshot_end(&s);
}

/* Buckets in which the stored digests differ from what the audit has read. */
static size_t wrong_digests(const struct ap_audit *a)
{
    static struct ap_digest mine[AP_DIGEST_BUCKETS], stored[AP_DIGEST_BUCKETS];
    struct ap_snapshot *s;
    size_t n = 0;
    ck_assert_int_eq(ap_snapshot_begin(rig.store, &s, NULL), 0);
    ck_assert_int_eq(ap_snapshot_digests(s, rig.collection_id, stored, NULL), 0);
    ap_snapshot_end(&s);
    ap_audit_digests(a, mine);
    for (size_t i = 0; i < AP_DIGEST_BUCKETS; i++)
        n += memcmp(&mine[i], &stored[i], sizeof mine[i]) != 0;
    return n;
}

static const struct ap_audit_row *row_of(const struct ap_audit *a, size_t i)
{
    struct ap_key key;
    ix_key(&rig, i, &key);
    struct ap_point_id id = ap_key_point(&key);
    return ap_audit_find(a, &id);
}

/* --- planting, through the writer's own environment but behind its back --- */

enum plant { FLIP, REMOVE, OLDER };

static void plant(size_t i, enum plant what)
{
    struct ap_audit a;
    MDB_txn *txn;
    MDB_dbi log = rig.store->db[AP_DB_LOG];
    open_audit(&a, false);
    catch_up(&a);
    uint64_t slot = row_of(&a, i)->slot;
    ap_audit_fini(&a);
    ck_assert_int_eq(mdb_txn_begin(rig.store->env, NULL, 0, &txn), 0);
    MDB_val k = {sizeof slot, &slot}, v;
    ck_assert_int_eq(mdb_get(txn, log, &k, &v), 0);
    struct ap_buf row = {0};
    ap_buf_append(&row, v.mv_data, v.mv_size);
    if (what == FLIP) {
        row.data[AP_ROW_HEADER + 1] ^= 1;
    } else {
        ap_put_le64(row.data + 40, ap_le64(row.data + 40) - 1);
        ap_put_le64(row.data, XXH3_64bits(row.data + 8, row.len - 8));
    }
    v = (MDB_val){row.len, row.data};
    ck_assert_int_eq(what == REMOVE ? mdb_del(txn, log, &k, NULL) : mdb_put(txn, log, &k, &v, 0), 0);
    ck_assert_int_eq(mdb_txn_commit(txn), 0);
    ap_buf_free(&row);
}

START_TEST(an_audit_agrees_with_sound_digests)
{
    struct ap_audit a;
    const struct ap_audit_row *row;
    size_t live = 0;
    open_audit(&a, true);
    a.snapshot_ns = 0; /* every thousand rows another snapshot */
    catch_up(&a);
    ck_assert_uint_eq(a.used, ROWS);
    ck_assert_uint_eq(wrong_digests(&a), 0);
    for (size_t at = 0; (row = ap_audit_next(&a, &at));) {
        live += row->live;
        ck_assert(!row->damaged);
    }
    ck_assert_uint_eq(live, ROWS - 50);
    ap_audit_fini(&a);
}
END_TEST

START_TEST(an_audit_goes_on_where_the_log_has_grown)
{
    struct ap_audit a;
    open_audit(&a, false);
    catch_up(&a);
    uint64_t read = a.read, before = row_of(&a, 7)->slot;
    ix_begin(&rig);
    ix_upsert(&rig, 7, vectors, NULL);
    ix_upsert(&rig, 120, vectors, NULL);
    ix_commit(&rig);
    catch_up(&a);
    ck_assert_uint_eq(a.read, read + 2);
    ck_assert_uint_gt(row_of(&a, 7)->slot, before);
    ck_assert(row_of(&a, 120)->live);
    ck_assert_uint_eq(wrong_digests(&a), 0);
    ap_audit_fini(&a);
}
END_TEST

START_TEST(parts_add_up_and_tell_where_a_row_changed)
{
    struct ap_audit a, b;
    open_audit(&a, false);
    catch_up(&a);
    plant(500, OLDER);
    open_audit(&b, false);
    catch_up(&b);
    ck_assert_uint_eq(wrong_digests(&a), 0);
    ck_assert_uint_eq(wrong_digests(&b), 1);
    ck_assert_uint_ne(row_of(&a, 500)->checksum, row_of(&b, 500)->checksum);
    struct ap_key key;
    ix_key(&rig, 500, &key);
    struct ap_point_id id = ap_key_point(&key);
    ck_assert_uint_eq(ap_audit_part(&id) / AP_AUDIT_SPLIT, ap_digest_bucket(&key));
    ap_audit_fini(&a);
    ap_audit_fini(&b);
}
END_TEST

START_TEST(damage_is_found_though_the_digests_were_left_alone)
{
    struct ap_audit a;
    plant(300, FLIP);
    plant(301, REMOVE);
    plant(302, OLDER);
    open_audit(&a, true);
    catch_up(&a);
    ck_assert(row_of(&a, 300)->damaged);
    ck_assert_ptr_null(row_of(&a, 301));
    ck_assert(!row_of(&a, 302)->damaged);
    ck_assert_uint_eq(wrong_digests(&a), 3);
    ap_audit_fini(&a);
}
END_TEST

/* What was lost comes again: the writer takes it for new, and its digests are those of the rows. */
START_TEST(a_writer_takes_lost_rows_back)
{
    struct ap_audit a;
    plant(300, FLIP);
    plant(301, REMOVE);
    ix_begin(&rig);
    ix_upsert(&rig, 300, vectors, NULL);
    ix_upsert(&rig, 301, vectors, NULL);
    ix_commit(&rig);
    open_audit(&a, true);
    catch_up(&a);
    ck_assert_uint_eq(a.used, ROWS);
    ck_assert(row_of(&a, 301)->live && !row_of(&a, 300)->damaged);
    ck_assert_uint_eq(wrong_digests(&a), 0);
    ap_audit_fini(&a);
}
END_TEST

START_TEST(digests_are_counted_anew_when_asked)
{
    struct ap_audit a;
    plant(302, OLDER);
    ix_begin(&rig);
    ix_upsert(&rig, 1, vectors, NULL);
    ix_commit(&rig);
    open_audit(&a, false);
    catch_up(&a);
    ck_assert_uint_eq(wrong_digests(&a), 1);
    ck_assert_int_eq(ap_store_ask_recount(rig.store, NULL), 0);
    ix_begin(&rig);
    ix_commit(&rig); /* an empty batch does */
    ck_assert_uint_eq(wrong_digests(&a), 0);
    ap_audit_fini(&a);
}
END_TEST

START_TEST(the_horizon_only_rises)
{
    static const uint64_t raised[] = {70, 50, 90}, want[] = {70, 70, 90};
    for (size_t i = 0; i < 3; i++) {
        struct ap_snapshot *s;
        ix_begin(&rig);
        ck_assert_int_eq(ap_writer_raise_horizon(rig.writer, raised[i], NULL), 0);
        ix_commit(&rig);
        ck_assert_int_eq(ap_snapshot_begin(rig.store, &s, NULL), 0);
        ck_assert_uint_eq(ap_snapshot_horizon(s), want[i]);
        ap_snapshot_end(&s);
    }
}
END_TEST

/* --- the index --- */

static struct ap_findings check_index(bool mend)
{
    struct ap_audit a;
    struct ap_findings f = {0};
    struct ap_err err = {0};
    open_audit(&a, true);
    ck_assert_msg(ap_audit_index(rig.index, &a, true, mend, &f, &err) == 0, "%s", err.msg);
    ap_audit_fini(&a);
    return f;
}

static uint64_t findings(struct ap_findings f)
{
    return f.dead + f.missing + f.astray + f.segments;
}

static void start_index(void)
{
    ix_start_index(&rig);
    ix_refresh(&rig);
    ck_assert(ix_wait_sealed(&rig, 4, PATIENCE_MS / 1000));
}

START_TEST(a_sound_index_has_no_findings)
{
    start_index();
    ck_assert_uint_eq(findings(check_index(false)), 0);
    ck_assert_uint_gt(check_index(false).probes, 0);
    /* The tail has not seen these yet: they are under way. */
    ix_begin(&rig);
    ix_upsert(&rig, 3, vectors, NULL);
    ix_delete(&rig, 4);
    ix_upsert(&rig, 130, vectors, NULL);
    ix_commit(&rig);
    ck_assert_uint_eq(findings(check_index(false)), 0);
    ix_refresh(&rig);
    ck_assert_uint_eq(findings(check_index(false)), 0);
}
END_TEST

START_TEST(rows_lost_under_the_index_are_cleared)
{
    start_index();
    plant(301, REMOVE);
    struct ap_findings f = check_index(false);
    ck_assert_uint_eq(f.dead, 1);
    ck_assert_uint_eq(f.missing, 0);
    ck_assert_uint_eq(check_index(true).dead, 1);
    ck_assert_uint_eq(findings(check_index(false)), 0);
}
END_TEST

START_TEST(rows_that_the_index_lacks_are_indexed_again)
{
    start_index();
    struct ap_coll *coll = ap_index_coll(rig.index, rig.collection_id);
    size_t cleared = 0;
    for (size_t i = 0; i < coll->count; i++)
        for (uint32_t ordinal = 3; ordinal < atomic_load(&coll->segments[i]->count); ordinal += 97)
            cleared += ap_segment_mark(coll->segments[i], ordinal, false);
    ck_assert_uint_gt(cleared, 10);
    ck_assert_uint_eq(check_index(false).missing, cleared);
    ck_assert_uint_eq(check_index(true).missing, cleared);
    ck_assert_uint_eq(findings(check_index(false)), 0);
}
END_TEST

START_TEST(ids_that_lead_astray_are_led_back)
{
    start_index();
    struct ap_key key;
    ix_key(&rig, 200, &key);
    struct ap_audit a;
    open_audit(&a, false);
    catch_up(&a);
    uint64_t slot = row_of(&a, 200)->slot;
    ap_audit_fini(&a);
    ck_assert_uint_eq(ap_slotmap_remove(&rig.index->map, &key, ap_writer_match_slot, &slot), slot);
    ck_assert_uint_eq(check_index(false).astray, 1);
    ck_assert_uint_eq(check_index(true).astray, 1);
    ck_assert_uint_eq(findings(check_index(false)), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("audit");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, an_audit_agrees_with_sound_digests);
    tcase_add_test(t, an_audit_goes_on_where_the_log_has_grown);
    tcase_add_test(t, parts_add_up_and_tell_where_a_row_changed);
    tcase_add_test(t, damage_is_found_though_the_digests_were_left_alone);
    tcase_add_test(t, a_writer_takes_lost_rows_back);
    tcase_add_test(t, digests_are_counted_anew_when_asked);
    tcase_add_test(t, the_horizon_only_rises);
    tcase_add_test(t, a_sound_index_has_no_findings);
    tcase_add_test(t, rows_lost_under_the_index_are_cleared);
    tcase_add_test(t, rows_that_the_index_lacks_are_indexed_again);
    tcase_add_test(t, ids_that_lead_astray_are_led_back);
    suite_add_tcase(s, t);
    return run_suite(s);
}
