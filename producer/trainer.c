/* A round: for every collection, adopt the codec in use if it is not ours yet; else, if none is in use and enough vectors
 * were sampled, train one, publish its chunks, and, if still none is in use, publish its use (the next round adopts it like
 * any other). Trouble is logged; the collection goes on as float32 and the next round tries again. */
#include "producer/trainer.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "common/log.h"
#include "common/timeutil.h"

#define ROUND_MS 500
#define PUBLISH_MS 30000
#define LOW_PRIORITY 10

void ap_trainer_init(struct ap_trainer *t, struct ap_control_log *control, struct ap_targets *targets, const struct ap_producer_config *config, struct ap_metrics *metrics)
{
    *t = (struct ap_trainer){.control = control, .targets = targets, .config = config};
    t->trained = ap_counter(metrics, "antipode_producer_codecs_total", "outcome=\"trained\"", "Codecs, by how this producer came by them.");
    t->failed = ap_counter(metrics, "antipode_producer_codecs_total", "outcome=\"failed\"", "Codecs, by how this producer came by them.");
    t->adopted = ap_counter(metrics, "antipode_producer_codecs_total", "outcome=\"adopted\"", "Codecs, by how this producer came by them.");
    t->seconds = ap_histogram(metrics, "antipode_producer_training_seconds", NULL, "Time to train a codec.");
}

/* --- adopting --- */

static bool wants(const struct ap_target *t, uint64_t use)
{
    return use && (!t->codec || ap_codec_id(t->codec) != use);
}

/* The codec in use, copied out of the catalog. 0: none in use, or ours already, or not all of it has arrived. */
static uint64_t find_codec(struct ap_trainer *t, const struct ap_target *target, struct ap_codec_blob *out, uint64_t *use)
{
    const struct ap_catalog *catalog = ap_control_log_lock(t->control);
    *use = ap_catalog_codec_use(catalog, target->collection, &t->config->region);
    bool found = wants(target, *use) && ap_catalog_codec(catalog, *use, out);
    if (found) {
        uint8_t *bytes = malloc(out->len);
        char *factory = strdup(out->factory);
        if (!bytes || !factory)
            abort();
        memcpy(bytes, out->bytes, out->len);
        out->bytes = bytes;
        out->factory = factory;
    }
    ap_control_log_unlock(t->control);
    return found ? *use : 0;
}

/* Returns the codec in use, 0 when none is. */
static uint64_t adopt(struct ap_trainer *t, const struct ap_target *target)
{
    struct ap_codec_blob blob;
    struct ap_codec *codec = NULL;
    struct ap_err err = {0};
    uint64_t use;
    if (!find_codec(t, target, &blob, &use))
        return use;
    int rc = blob.dim == target->dim ? ap_codec_load(blob.factory, blob.dim, blob.bytes, blob.len, &codec, &err)
                                     : ap_err_set(&err, AP_EINVAL, AP_POISON, "it is for %u dimensions, the collection has %u", blob.dim, target->dim);
    if (rc == 0 && ap_targets_set_codec(t->targets, target->collection, codec)) {
        ap_count(t->adopted, 1);
        ap_info("collection %s encodes with codec %016" PRIx64 " (%s, %zu bytes a vector)", target->name, use, blob.factory, ap_codec_code_size(codec));
    } else if (rc) {
        static struct ap_log_limit limit;
        ap_log_limited(&limit, 60000, AP_LOG_ERROR, "collection %s: codec %016" PRIx64 " cannot be used: %s; vectors go out as before", target->name, use, err.msg);
    }
    if (codec)
        ap_codec_unref(&codec);
    free((void *)(uintptr_t)blob.bytes);
    free((void *)(uintptr_t)blob.factory);
    return use;
}

void ap_trainer_adopt(struct ap_trainer *t)
{
    struct ap_target **list;
    size_t n = ap_targets_list(t->targets, &list);
    for (size_t i = 0; i < n; i++)
        adopt(t, list[i]);
    ap_targets_list_free(list, n);
}

/* --- training --- */

/* Full; or enough, and no more has come for a while. */
static bool is_ready(struct ap_trainer *t, struct ap_sampler *s)
{
    pthread_mutex_lock(&s->lock);
    bool ready = s->n >= s->good || (s->n > 0 && s->n >= s->least && ap_mono_ms() - s->last_ms >= t->config->train_wait_ms);
    pthread_mutex_unlock(&s->lock);
    return ready;
}

static int publish_codec(struct ap_trainer *t, const struct ap_codec *codec, struct ap_err *err)
{
    size_t len;
    const uint8_t *bytes = ap_codec_bytes(codec, &len);
    size_t chunks = (len + AP_CODEC_CHUNK_BYTES - 1) / AP_CODEC_CHUNK_BYTES;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < chunks; i++) {
        struct ap_control c = {.kind = AP_CONTROL_CODEC};
        c.u.codec = (struct ap_control_codec){
            .codec = ap_codec_id(codec), .factory = (char *)(uintptr_t)ap_codec_factory(codec), .dim = ap_codec_dim(codec), .chunk = (uint32_t)i,
            .chunks = (uint32_t)chunks, .bytes = (uint8_t *)(uintptr_t)bytes + i * AP_CODEC_CHUNK_BYTES,
            .len = i + 1 < chunks ? AP_CODEC_CHUNK_BYTES : len - i * AP_CODEC_CHUNK_BYTES,
        };
        memcpy(c.u.codec.hash, ap_codec_hash(codec), sizeof c.u.codec.hash);
        rc = ap_control_log_publish(t->control, &c, 1, ap_mono_ns() + PUBLISH_MS * INT64_C(1000000), err);
    }
    return rc;
}

static uint64_t codec_in_use(struct ap_trainer *t, uint64_t collection)
{
    uint64_t use = ap_catalog_codec_use(ap_control_log_lock(t->control), collection, &t->config->region);
    ap_control_log_unlock(t->control);
    return use;
}

/* Publish until Kafka has it, the producer stops, or another region's codec for the collection has arrived. */
static void publish(struct ap_trainer *t, const struct ap_target *target, const struct ap_codec *codec)
{
    struct ap_err err = {0};
    struct ap_control use = {.kind = AP_CONTROL_CODEC_USE};
    use.u.codec_use = (struct ap_control_codec_use){target->collection, ap_codec_id(codec)};
    while (!atomic_load(&t->stop) && !codec_in_use(t, target->collection)) {
        if (publish_codec(t, codec, &err) == 0 && !codec_in_use(t, target->collection) &&
            ap_control_log_publish(t->control, &use, 1, ap_mono_ns() + PUBLISH_MS * INT64_C(1000000), &err) == 0)
            return;
        if (err.code)
            ap_warn("collection %s: the codec is trained but not published yet: %s", target->name, err.msg);
        err = (struct ap_err){0};
        usleep(ROUND_MS * 1000);
    }
}

static void train(struct ap_trainer *t, const struct ap_target *target)
{
    size_t n;
    struct ap_codec *codec = NULL;
    struct ap_err err = {0};
    float *rows = ap_sampler_take(target->sampler, &n);
    int64_t start = ap_mono_ns();
    int rc = ap_codec_train(target->factory, target->dim, rows, n, (int)t->config->train_threads, &codec, &err);
    free(rows);
    double seconds = (double)(ap_mono_ns() - start) * 1e-9;
    if (rc) {
        ap_count(t->failed, 1);
        ap_warn("collection %s: training %s on %zu vectors failed: %s; vectors go out as float32, the next ones will be tried", target->name, target->factory, n, err.msg);
        return;
    }
    ap_count(t->trained, 1);
    ap_observe(t->seconds, seconds);
    ap_info("collection %s: trained %s on %zu vectors in %.1f s", target->name, target->factory, n, seconds);
    publish(t, target, codec);
    ap_codec_unref(&codec);
}

void ap_trainer_round(struct ap_trainer *t)
{
    struct ap_target **list;
    size_t n = ap_targets_list(t->targets, &list);
    for (size_t i = 0; i < n && !atomic_load(&t->stop); i++) {
        struct ap_target *target = list[i];
        if (adopt(t, target) == 0 && target->sampler && is_ready(t, target->sampler)) {
            train(t, target);
            adopt(t, target);
        }
    }
    ap_targets_list_free(list, n);
}

/* --- the thread --- */

static void *run(void *arg)
{
    struct ap_trainer *t = arg;
    pthread_setname_np(pthread_self(), "trainer");
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOW_PRIORITY); /* of this thread alone, on Linux */
    uint64_t seen = 0;
    while (!atomic_load(&t->stop)) {
        ap_trainer_round(t);
        seen = ap_control_log_wait(t->control, seen, ap_mono_ns() + ROUND_MS * INT64_C(1000000));
    }
    return NULL;
}

int ap_trainer_start(struct ap_trainer *t, struct ap_err *err)
{
    if (pthread_create(&t->thread, NULL, run, t) != 0)
        return ap_err_set(err, AP_ENOMEM, AP_FATAL, "no thread for the training of codecs");
    t->running = true;
    return 0;
}

void ap_trainer_stop(struct ap_trainer *t)
{
    atomic_store(&t->stop, true);
    ap_control_log_wake(t->control);
    if (t->running)
        pthread_join(t->thread, NULL);
    t->running = false;
}
