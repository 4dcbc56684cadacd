/* The two limits of bulk ingest, each alone: FAISS encoding the vectors, librdkafka publishing the finished records.
 *
 *   bench_limits --brokers HOST:PORT --topic TOPIC --npy FILE [--codec PQ48] [--rows N] [--threads 2]
 *
 * The records are the events a producer would publish (random UUIDs as keys, codes of the vectors), with the producer's own
 * client profile; a run ends when Kafka has acknowledged all. Together they would give 1 / (1/encode + 1/publish) vectors
 * a second on the same cores: the figure that the producer is measured against. Prints one JSON object. */
#include <pthread.h>
#include <stdatomic.h>
#include "bench/bench.h"
#include "common/ann.h"
#include "common/event.h"
#include "common/kafka.h"

static _Atomic size_t acked, failed;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk, (void)opaque;
    atomic_fetch_add(m->err ? &failed : &acked, 1);
}

struct encode_job { const struct ap_codec *codec; const float *vectors; uint8_t *codes; size_t n, dim, code_size; pthread_t thread; };

static void *encode_main(void *arg)
{
    struct encode_job *j = arg;
    struct ap_err err = {0};
    const size_t run = 1024;
    for (size_t i = 0; i < j->n; i += run)
        if (ap_codec_encode(j->codec, j->n - i < run ? j->n - i : run, j->vectors + i * j->dim, j->codes + i * j->code_size, &err) != 0)
            bench_die("encoding: %s", err.msg);
    return NULL;
}

static double encode_all(const struct ap_codec *codec, struct bench_matrix m, uint8_t *codes, size_t threads)
{
    struct encode_job jobs[16];
    size_t code_size = ap_codec_code_size(codec), per = (m.rows + threads - 1) / threads;
    int64_t t = ap_mono_ns();
    for (size_t i = 0; i < threads; i++) {
        size_t from = i * per < m.rows ? i * per : m.rows, n = m.rows - from < per ? m.rows - from : per;
        jobs[i] = (struct encode_job){ codec, m.data + from * m.dim, codes + from * code_size, n, m.dim, code_size, 0 };
        pthread_create(&jobs[i].thread, NULL, encode_main, &jobs[i]);
    }
    for (size_t i = 0; i < threads; i++)
        pthread_join(jobs[i].thread, NULL);
    return (double)m.rows / ((double)(ap_mono_ns() - t) / 1e9);
}

static double publish_all(const char *brokers, const char *topic, size_t rows, const struct ap_codec *codec, const uint8_t *codes)
{
    struct ap_err err = {0};
    struct ap_kafka_property property = { (char *)"bootstrap.servers", (char *)brokers };
    struct ap_config_extra extra = {.kafka = &property, .kafka_count = 1};
    rd_kafka_t *rk = ap_kafka_producer(&extra, "antipode-bench", on_delivery, NULL, &err);
    int32_t partitions = 0;
    if (!rk || ap_kafka_partitions(rk, topic, 10000, &partitions, &err) != 0)
        bench_die("%s: %s", brokers, err.msg);
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    size_t code_size = ap_codec_code_size(codec);
    uint64_t seed = (uint64_t)ap_wall_us(), writer = ap_incarnation_new(ap_wall_ms());
    uint8_t value[4096];
    int64_t t = ap_mono_ns();
    for (size_t i = 0; i < rows; i++) {
        struct ap_point_id id;
        struct ap_key key;
        for (size_t b = 0; b < 2; b++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            ap_put_le64(id.b + 8 * b, seed ^ (seed >> 29));
        }
        ap_key_make(7, &id, &key);
        struct ap_mutation m = { .op = AP_OP_UPSERT, .version = { ((uint64_t)ap_wall_ms() << 16) + (i & 0xffff), { "bench" }, writer }, .stream = writer,
                                 .seq = i + 1, .has_codec = true, .codec = ap_codec_id(codec), .vector = codes + i * code_size, .vector_len = code_size };
        m.clock = m.version.hlc;
        size_t len = ap_mutation_encode_to(&m, value);
        while (rd_kafka_produce(rkt, ap_key_partition(&key, partitions), RD_KAFKA_MSG_F_COPY, value, len, key.b, sizeof key.b, NULL) != 0) {
            if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
                bench_die("producing: %s", rd_kafka_err2str(rd_kafka_last_error()));
            rd_kafka_poll(rk, 10);
        }
        if (i % 1024 == 0)
            rd_kafka_poll(rk, 0);
    }
    while (atomic_load(&acked) + atomic_load(&failed) < rows)
        rd_kafka_poll(rk, 10);
    double took = (double)(ap_mono_ns() - t) / 1e9;
    if (atomic_load(&failed) > 0)
        bench_die("%zu records were not delivered", atomic_load(&failed));
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
    return (double)rows / took;
}

int main(int argc, char **argv)
{
    const char *brokers = NULL, *topic = NULL, *npy = NULL, *factory = "PQ48";
    size_t rows = 0, threads = 2;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--brokers")) brokers = argv[i + 1];
        else if (!strcmp(argv[i], "--topic")) topic = argv[i + 1];
        else if (!strcmp(argv[i], "--npy")) npy = argv[i + 1];
        else if (!strcmp(argv[i], "--codec")) factory = argv[i + 1];
        else if (!strcmp(argv[i], "--rows")) rows = (size_t)atol(argv[i + 1]);
        else if (!strcmp(argv[i], "--threads")) threads = (size_t)atol(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    if (!brokers || !topic || !npy || threads < 1 || threads > 16) {
        fprintf(stderr, "usage: bench_limits --brokers HOST:PORT --topic TOPIC --npy FILE [--codec FACTORY] [--rows N] [--threads N]\n");
        return 2;
    }
    ap_ann_init();
    struct ap_err err = {0};
    struct ap_codec *codec = NULL;
    struct bench_matrix m = bench_load_npy(npy);
    if (rows > 0 && rows < m.rows)
        m.rows = rows;
    size_t good, least;
    ap_codec_training_size(factory, (uint32_t)m.dim, &good, &least);
    if (ap_codec_train(factory, (uint32_t)m.dim, m.data, m.rows < good ? m.rows : good, 1, &codec, &err) != 0)
        bench_die("%s", err.msg);
    uint8_t *codes = malloc(m.rows * ap_codec_code_size(codec));
    double encode1 = encode_all(codec, m, codes, 1), encode = encode_all(codec, m, codes, threads);
    double publish = publish_all(brokers, topic, m.rows, codec, codes);
    printf("{\"codec\":\"%s\",\"rows\":%zu,\"encode_1_thread_per_second\":%.0f,\"encode_%zu_threads_per_second\":%.0f,"
           "\"publish_per_second\":%.0f,\"together_per_second\":%.0f}\n",
           factory, m.rows, encode1, threads, encode, publish, 1 / (1 / encode + 1 / publish));
    return 0;
}
