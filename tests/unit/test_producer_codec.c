/* Codecs: float32 until one is trained and acknowledged; adopted from others, found again after a restart; never in the way. */
#include <check.h>
#include <stdlib.h>
#include "common/timeutil.h"
#include "patience.h"
#include "producer/write.h"
#include "producer_rig.h"
#include "rnd.h"
#include "run.h"

#define DIM 16
#define FACTORY "PQ4"

static struct life life;

static void setup(void)
{
    life_cluster_start();
    rnd_seed("codec");
}

static void teardown(void)
{
    life_cluster_stop();
}

/* Clustered, as embeddings are. */
static float *vectors(size_t n)
{
    float *v = malloc(n * DIM * sizeof *v);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < DIM; k++)
            v[i * DIM + k] = (float)(rnd_below(8) == k % 8) + (float)rnd_below(1000) / 5000;
    return v;
}

/* As the HTTP handlers do it. Returns whether the points went out as codes. */
static bool write_vectors(const float *v, size_t n)
{
    struct ap_err err = {0};
    struct ap_point_errors errors = {0};
    struct ap_points points;
    struct ap_token token = {0};
    struct ap_write_options o = {.deadline_ns = patience_ns()};
    struct ap_target *t = ap_targets_get(&life.p.targets, "c", &err);
    ck_assert_msg(t != NULL, "%s", err.msg);
    ap_points_init(&points, DIM);
    for (size_t i = 0; i < n; i++)
        memcpy(ap_points_add(&points), v + i * DIM, DIM * sizeof *v);
    ck_assert_int_eq(ap_points_prepare(&points, t, &errors, &err), 0);
    if (t->sampler && ap_sampler_offer(t->sampler, points.vectors, n))
        ap_control_log_wake(&life.p.control);
    struct ap_record *records = calloc(n, sizeof *records);
    ap_points_records(&points, t, records);
    ck_assert_msg(ap_write_records(&life.p, t->topic, records, n, &o, &token, &err) == 0, "%s", err.msg);
    bool coded = points.codec != NULL;
    ap_points_fini(&points);
    ap_token_fini(&token);
    ap_target_unref(&t);
    free(records);
    return coded;
}

static bool has_codec(void)
{
    struct ap_target *t = ap_targets_get(&life.p.targets, "c", NULL);
    bool has = t && t->codec;
    ap_target_unref(&t);
    return has;
}

static void wait_for_codec(void)
{
    struct timespec pause = {0, 2000000};
    for (int64_t end = patience_ms(); !has_codec() && ap_mono_ms() < end;)
        nanosleep(&pause, NULL);
    ck_assert(has_codec());
}

START_TEST(float32_until_a_codec_is_trained_then_codes_and_raw_vectors)
{
    float *v = vectors(600);
    life_open(&life, "codec.train_rows = 400\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    ck_assert(!write_vectors(v, 300));
    ck_assert(!has_codec());
    ck_assert(!write_vectors(v + 300 * DIM, 200)); /* more than wanted: the rest is not sampled */
    wait_for_codec();
    ck_assert(write_vectors(v + 500 * DIM, 100));
    life_close(&life);

    struct life_records r = life_read(AP_TOPIC_MUTATIONS), raw = life_read(AP_TOPIC_RAW);
    size_t floats = 0, codes = 0;
    ck_assert_uint_eq(life_check(&r), 600);
    for (size_t i = 0; i < r.count; i++) {
        const struct ap_mutation *m = &r.all[i].m;
        if (m->op != AP_OP_UPSERT)
            continue;
        ck_assert_uint_eq(m->vector_len, m->has_codec ? 4 : DIM * sizeof(float));
        codes += m->has_codec;
        floats += !m->has_codec;
    }
    ck_assert_uint_eq(floats, 500);
    ck_assert_uint_eq(codes, 100);
    ck_assert_uint_eq(raw.count, 100); /* only where the event itself is not exact */
    for (size_t i = 0; i < raw.count; i++)
        ck_assert_uint_eq(raw.all[i].raw.vector_len, DIM * sizeof(float));
    life_records_free(&r);
    life_records_free(&raw);
    free(v);
}
END_TEST

START_TEST(raw_none_keeps_no_raw_vectors)
{
    float *v = vectors(500);
    life_open(&life, "codec.train_rows = 400\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, false);
    write_vectors(v, 400);
    wait_for_codec();
    ck_assert(write_vectors(v + 400 * DIM, 100));
    life_close(&life);
    struct life_records raw = life_read(AP_TOPIC_RAW);
    ck_assert_uint_eq(raw.count, 0);
    life_records_free(&raw);
    free(v);
}
END_TEST

START_TEST(enough_vectors_and_then_none_will_do)
{
    float *v = vectors(300);
    life_open(&life, "codec.train_rows = 100000\ncodec.train_wait_ms = 100\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    write_vectors(v, 300);
    wait_for_codec();
    life_close(&life);
    free(v);
}
END_TEST

START_TEST(few_vectors_stay_float32)
{
    float *v = vectors(20);
    struct timespec pause = {0, 10000000};
    life_open(&life, "codec.train_wait_ms = 1\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    for (int i = 0; i < 100; i++, nanosleep(&pause, NULL))
        ck_assert(i % 20 || !write_vectors(v, 20)); /* the same 20 each time: 100 in all, fewer than PQ's 256 */
    ck_assert(!has_codec());
    ck_assert_uint_eq(ap_count_value(life.p.trainer.failed), 0); /* not even tried: what was sampled is kept */
    life_close(&life);
    free(v);
}
END_TEST

START_TEST(identical_vectors_train_nothing_and_do_no_harm)
{
    float *v = calloc(500 * DIM, sizeof *v);
    for (size_t i = 0; i < 500 * DIM; i++)
        v[i] = 1;
    struct timespec pause = {0, 10000000};
    life_open(&life, "codec.train_rows = 400\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    ck_assert(!write_vectors(v, 500));
    for (int64_t end = patience_ms(); ap_count_value(life.p.trainer.failed) == 0 && ap_mono_ms() < end;)
        nanosleep(&pause, NULL);
    ck_assert_uint_gt(ap_count_value(life.p.trainer.failed), 0);
    ck_assert(!write_vectors(v, 10));
    life_close(&life);
    free(v);
}
END_TEST

START_TEST(a_codec_is_found_again_after_a_restart)
{
    float *v = vectors(500);
    life_open(&life, "codec.train_rows = 400\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    write_vectors(v, 400);
    wait_for_codec();
    struct ap_target *t = ap_targets_get(&life.p.targets, "c", NULL);
    uint64_t id = ap_codec_id(t->codec);
    ap_target_unref(&t);
    life_crash(&life);
    life_open(&life, NULL);
    ck_assert(write_vectors(v + 400 * DIM, 100)); /* from the first write on */
    t = ap_targets_get(&life.p.targets, "c", NULL);
    ck_assert_uint_eq(ap_codec_id(t->codec), id);
    ap_target_unref(&t);
    life_close(&life);
    free(v);
}
END_TEST

/* --- another region's --- */

static void publish_their_use(struct ap_codec *codec, uint64_t collection)
{
    struct ap_control use = {.kind = AP_CONTROL_CODEC_USE};
    use.u.codec_use = (struct ap_control_codec_use){collection, ap_codec_id(codec)};
    life_publish_control(&use, "us", 99, "us.vec-control");
}

static void publish_their_chunks(struct ap_codec *codec)
{
    size_t len;
    const uint8_t *bytes = ap_codec_bytes(codec, &len);
    ck_assert_uint_le(len, AP_CODEC_CHUNK_BYTES);
    struct ap_control c = {.kind = AP_CONTROL_CODEC};
    c.u.codec = (struct ap_control_codec){.codec = ap_codec_id(codec), .factory = (char *)(uintptr_t)FACTORY, .dim = DIM, .chunks = 1, .bytes = (uint8_t *)(uintptr_t)bytes, .len = len};
    memcpy(c.u.codec.hash, ap_codec_hash(codec), 32);
    life_publish_control(&c, "us", 99, "us.vec-control");
}

START_TEST(another_regions_codec_is_adopted_instead_of_training)
{
    float *v = vectors(400);
    struct ap_codec *theirs;
    struct ap_err err = {0};
    ck_assert_msg(ap_codec_train(FACTORY, DIM, v, 400, 1, &theirs, &err) == 0, "%s", err.msg);
    life_open(&life, "codec.train_rows = 400\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    publish_their_use(theirs, ap_collection_id("c", 1)); /* before its chunks: it waits for them, and does not train */
    struct timespec pause = {0, 2000000};
    uint64_t use = 0;
    for (int64_t end = patience_ms(); use == 0 && ap_mono_ms() < end; nanosleep(&pause, NULL)) {
        use = ap_catalog_codec_use(ap_control_log_lock(&life.p.control), ap_collection_id("c", 1), &life.config.region);
        ap_control_log_unlock(&life.p.control);
    }
    ck_assert(!write_vectors(v, 400));
    ap_trainer_round(&life.p.trainer);
    ck_assert(!has_codec());
    publish_their_chunks(theirs);
    wait_for_codec();
    struct ap_target *t = ap_targets_get(&life.p.targets, "c", NULL);
    ck_assert_uint_eq(ap_codec_id(t->codec), ap_codec_id(theirs));
    ap_target_unref(&t);
    ck_assert(write_vectors(v, 400));
    ck_assert_uint_eq(ap_count_value(life.p.trainer.trained), 0);
    ap_codec_unref(&theirs);
    life_close(&life);
    free(v);
}
END_TEST

START_TEST(writes_go_on_while_kafka_holds_the_codec_back)
{
    float *v = vectors(500);
    life_open(&life, "codec.train_rows = 400\n");
    life_collection(&life, "c", DIM, AP_EUCLID, FACTORY, true);
    ck_assert(!write_vectors(v, 400));
    for (int i = 0; i < 10; i++)
        ck_assert_uint_le(write_vectors(v + 400 * DIM, 10), 1); /* either way, and soon */
    wait_for_codec();
    life_close(&life);
    free(v);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("producer_codec");
    TCase *tc = tcase_create("all");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, float32_until_a_codec_is_trained_then_codes_and_raw_vectors);
    tcase_add_test(tc, raw_none_keeps_no_raw_vectors);
    tcase_add_test(tc, enough_vectors_and_then_none_will_do);
    tcase_add_test(tc, few_vectors_stay_float32);
    tcase_add_test(tc, identical_vectors_train_nothing_and_do_no_harm);
    tcase_add_test(tc, a_codec_is_found_again_after_a_restart);
    tcase_add_test(tc, another_regions_codec_is_adopted_instead_of_training);
    tcase_add_test(tc, writes_go_on_while_kafka_holds_the_codec_back);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
