/* How fast the consumer applies: events a second from Kafka to rows in a committed store.
 *
 *   bench_apply [--brokers HOST:PORT] [--events N] [--points N] [--dir DIR] [--code-bytes 16] [--batch N]
 *
 * Publishes N upserts with codes of 16 bytes (PQ16 of d=128) for random UUIDs into a mutation topic of its own, then runs
 * the consumer on it in this process, with a fresh store in DIR, synced as the consumer's is by default. --points bounds how many different points they are for:
 * fewer than events means overwriting. Without --brokers, librdkafka's mock cluster in this process serves both; its cost
 * is in the figure then. The topics vec-control, raw-vectors and dlq-mutations are made when missing. The clock runs from
 * the first committed batch that is seen to the last event. Prints one JSON object. */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>
#include "bench/bench.h"
#include "common/clock.h"
#include "common/control.h"
#include "common/schema.h"
#include "consumer/consumer.h"

enum { PARTITIONS = 4, MOCK_EVENTS = PARTITIONS * 90000 }; /* of the mock: rdkafka_mock.c, 100,000 a partition */

struct bench {
    const char *brokers, *dir;
    size_t events, points, code_bytes, batch;
    char topic[48];
    uint64_t stream;
    struct ap_kafka_property property;
    struct ap_config_extra extra;

    struct ap_consumer *consumer;
    struct ap_err err;
    int rc;
};

static _Atomic size_t failed;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk, (void)opaque;
    if (m->err)
        failed++;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- Kafka -------------------------------------------------------------------------------------------------------- */

static rd_kafka_mock_cluster_t *mock; /* NULL: real brokers */

static const char *start_mock(void)
{
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "log_level", "3", why, sizeof why);
    rd_kafka_t *host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    mock = host ? rd_kafka_mock_cluster_new(host, 1) : NULL;
    if (!mock || rd_kafka_mock_broker_add(mock, 0))
        bench_die("no mock cluster: %s", why);
    return rd_kafka_mock_cluster_bootstraps(mock);
}

static void make_topic(rd_kafka_t *rk, const char *name)
{
    char why[256];
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(name, PARTITIONS, 1, why, sizeof why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_CreateTopics(rk, &topic, 1, NULL, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, 10000); /* one that exists already is as good */
    if (event)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy(topic);
}

static void make_topics(struct bench *b, rd_kafka_t *rk)
{
    const char *const names[] = {b->topic, "vec-control", "raw-vectors", "dlq-mutations"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct ap_err err;
        int32_t count;
        if (!mock)
            make_topic(rk, names[i]);
        else if (rd_kafka_mock_topic_create(mock, names[i], PARTITIONS, 1))
            bench_die("topic %s cannot be made", names[i]);
        for (int tries = 0; ap_kafka_partitions(rk, names[i], 5000, &count, &err); tries++) {
            if (tries == 50)
                bench_die("%s", err.msg);
            usleep(100000);
        }
    }
}

static void produce(rd_kafka_t *rk, const char *topic, int32_t partition, const void *key, size_t key_len, const void *value, size_t len)
{
    rd_kafka_resp_err_t rc;
    while ((rc = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition), RD_KAFKA_V_KEY(key, key_len),
                                   RD_KAFKA_V_VALUE((void *)(uintptr_t)value, len), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                   RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
        rd_kafka_poll(rk, 10);
    if (rc)
        bench_die("producing: %s", rd_kafka_err2str(rc));
}

static void register_stream(struct bench *b, rd_kafka_t *rk)
{
    struct ap_schemas *schemas;
    struct ap_err err;
    struct ap_buf key = {0}, value = {0};
    char instance[] = "bench";
    struct ap_control c = {.kind = AP_CONTROL_INCARNATION,
                           .version = {.hlc = ap_hlc_make(ap_wall_ms(), 0), .region = {"bench"}, .writer = b->stream}};
    c.u.incarnation = (struct ap_control_incarnation){b->stream, 1, 0, b->stream, instance};
    if (ap_schemas_new(&schemas, &err) || ap_control_encode(schemas, &c, &value, &err))
        bench_die("%s", err.msg);
    ap_control_key(&c, &key);
    produce(rk, "vec-control", 0, key.data, key.len, value.data, value.len);
    ap_buf_free(&key);
    ap_buf_free(&value);
    ap_schemas_free(&schemas);
}

static void publish(struct bench *b)
{
    struct ap_err err;
    rd_kafka_t *rk = ap_kafka_producer(&b->extra, "bench-apply", on_delivery, NULL, &err);
    if (!rk)
        bench_die("%s", err.msg);
    make_topics(b, rk);
    register_stream(b, rk);
    uint64_t seq[PARTITIONS] = {0}, random = 1;
    uint8_t *out = malloc(AP_EVENT_OVERHEAD + b->code_bytes), *code = malloc(b->code_bytes + 8);
    uint64_t hlc = ap_hlc_make(ap_wall_ms() - 60000, 0);
    for (size_t i = 0; i < b->events; i++) {
        uint64_t state = i % b->points * 7919, id[2] = {next_random(&state), next_random(&state)};
        struct ap_point_id point;
        struct ap_key key;
        memcpy(point.b, id, sizeof point.b);
        ap_key_make(7, &point, &key);
        for (size_t k = 0; k < b->code_bytes; k += 8)
            ap_put_le64(code + k, next_random(&random));
        int32_t partition = ap_key_partition(&key, PARTITIONS);
        struct ap_mutation m = {.op = AP_OP_UPSERT, .version = {.hlc = hlc + i, .region = {"bench"}, .writer = b->stream}, .stream = b->stream,
                                .seq = ++seq[partition], .clock = hlc + i, .has_codec = true, .codec = 42, .vector = code, .vector_len = b->code_bytes};
        produce(rk, b->topic, partition, key.b, sizeof key.b, out, ap_mutation_encode_to(&m, out));
        if (i % 1000 == 0)
            rd_kafka_poll(rk, 0);
    }
    if (rd_kafka_flush(rk, 120000) || failed)
        bench_die("Kafka did not take all events");
    rd_kafka_destroy(rk);
    free(out);
    free(code);
}

/* ---- the consumer --------------------------------------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct bench *b = arg;
    b->rc = ap_consumer_run(b->consumer, &b->err);
    return NULL;
}

static double cpu_seconds(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void configure(struct bench *b, struct ap_consumer_settings *settings, struct ap_config_extra *extra)
{
    char text[1024];
    struct ap_err err;
    int n = snprintf(text, sizeof text, "region = bench\nregions = bench\ntopics = %s\nstore.path = %s/store\nbatch.rows = %zu\nkafka.bootstrap.servers = %s\n",
                     b->topic, b->dir, b->batch, b->brokers);
    if (ap_config_parse(ap_consumer_options, settings, extra, "bench", text, (size_t)n, &err) || ap_consumer_settings_check(settings, &err))
        bench_die("%s", err.msg);
}

static void apply(struct bench *b)
{
    struct ap_consumer_settings settings = {0};
    struct ap_config_extra extra = {0};
    configure(b, &settings, &extra);
    struct ap_metrics *metrics = ap_metrics_new();
    struct ap_status *status = ap_status_new(&settings, metrics);
    if (ap_consumer_new(&b->consumer, &settings, &extra, metrics, status, &b->err))
        bench_die("%s", b->err.msg);
    struct ap_metric *applied = ap_counter(metrics, "antipode_consumer_applied_total", "origin=\"bench\"", "");
    struct ap_metric *batches = ap_counter(metrics, "antipode_consumer_batches_total", NULL, "");
    pthread_t thread;
    pthread_create(&thread, NULL, run, b);
    int64_t deadline = ap_mono_ms() + 300000;
    while (!ap_count_value(applied) && ap_mono_ms() < deadline && !b->rc)
        usleep(200);
    uint64_t first = ap_count_value(applied);
    int64_t start = ap_mono_ns();
    double cpu = cpu_seconds();
    while (ap_count_value(applied) < b->events && ap_mono_ms() < deadline && !b->rc)
        usleep(200);
    double seconds = (double)(ap_mono_ns() - start) / 1e9;
    cpu = cpu_seconds() - cpu;
    uint64_t done = ap_count_value(applied), commits = ap_count_value(batches);
    ap_consumer_stop(b->consumer);
    pthread_join(thread, NULL);
    if (done < b->events || b->rc)
        bench_die("only %llu of %zu events applied: %s", (unsigned long long)done, b->events, b->rc ? b->err.msg : "too slow");
    ap_consumer_free(&b->consumer);
    ap_metrics_free(&metrics);
    ap_status_free(&status);
    ap_config_free(ap_consumer_options, &settings, &extra);
    json_t *out = json_pack("{s:s,s:s,s:I,s:I,s:I,s:f,s:f,s:f,s:I}", "bench", "apply", "kafka", mock ? "mock" : "broker", "events", (json_int_t)b->events,
                            "points", (json_int_t)b->points, "code_bytes", (json_int_t)b->code_bytes, "seconds", seconds, "events_per_second",
                            (double)(done - first) / seconds, "cpu_us_per_event", cpu * 1e6 / (double)(done - first), "batches", (json_int_t)commits);
    json_dumpf(out, stdout, JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(out);
}

int main(int argc, char **argv)
{
    struct bench b = {.events = 300000, .code_bytes = 16, .batch = 20000};
    char made[] = "/tmp/antipode-bench-XXXXXX";
    for (int i = 1; i + 1 < argc; i += 2) {
        size_t number = (size_t)strtoull(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--brokers")) b.brokers = argv[i + 1];
        else if (!strcmp(argv[i], "--dir")) b.dir = argv[i + 1];
        else if (!strcmp(argv[i], "--events")) b.events = number;
        else if (!strcmp(argv[i], "--points")) b.points = number;
        else if (!strcmp(argv[i], "--code-bytes")) b.code_bytes = number;
        else if (!strcmp(argv[i], "--batch")) b.batch = number;
        else bench_die("%s: unknown; see the top of bench/apply.c", argv[i]);
    }
    if (argc % 2 == 0 || !b.events || !b.batch)
        bench_die("usage: bench_apply [--brokers HOST:PORT] [--events N] [--points N] [--dir DIR] [--code-bytes N] [--batch N]");
    if (!b.brokers && b.events > MOCK_EVENTS)
        bench_die("librdkafka's mock cluster keeps no more than %d records; name real brokers with --brokers", MOCK_EVENTS);
    if (!b.points)
        b.points = b.events;
    if (!b.dir)
        b.dir = mkdtemp(made);
    if (!b.brokers)
        b.brokers = start_mock();
    b.stream = ap_incarnation_new(ap_wall_ms());
    snprintf(b.topic, sizeof b.topic, "vec-apply-%llx", (unsigned long long)ap_wall_ms());
    b.property = (struct ap_kafka_property){(char *)"bootstrap.servers", (char *)(uintptr_t)b.brokers};
    b.extra = (struct ap_config_extra){.kafka = &b.property, .kafka_count = 1};
    publish(&b);
    apply(&b);
    return 0;
}
