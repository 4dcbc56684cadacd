/* Kafka and MirrorMaker alone: how long a record takes to be read in its own region and in the other one.
 *
 *   bench_mirror --home BROKERS --abroad BROKERS --origin eu --topic vec-bench [--rate 1000] [--seconds 10] [--bytes 160]
 *
 * One thread publishes records of the given size under random keys, each at its own due time, with the producer's own client
 * profile; two clients with the consumer's profile read them. The same road and rate as bench_latency without Antipode on it:
 * what Antipode adds is the difference between the two. The topic exists in both regions. Prints one JSON object. */
#include <pthread.h>
#include <stdatomic.h>
#include "bench/bench.h"
#include "common/kafka.h"

enum { TIMEOUT_MS = 15000, MOST_RECORDS = 1000000, HEADER = 16, KEY = 24 };

struct reader { rd_kafka_t *rk; rd_kafka_queue_t *queue; pthread_t thread; double *ms; size_t seen, total; uint64_t run; int64_t deadline_ns; };

static double *ack_ms;
static size_t acks;

static void on_delivery(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk, (void)opaque;
    if (m->err)
        bench_die("publishing: %s", rd_kafka_err2str(m->err));
    ack_ms[acks++] = (double)(ap_mono_ns() - (int64_t)ap_le64(m->payload)) / 1e6;
}

static struct ap_config_extra extra_of(struct ap_kafka_property *property, const char *brokers)
{
    *property = (struct ap_kafka_property){(char *)"bootstrap.servers", (char *)brokers};
    return (struct ap_config_extra){.kafka = property, .kafka_count = 1};
}

/* Reads what is published from now on. */
static void reader_open(struct reader *r, const char *brokers, const char *topic, size_t total, uint64_t run)
{
    struct ap_err err = {0};
    struct ap_kafka_property property;
    struct ap_config_extra extra = extra_of(&property, brokers);
    int32_t partitions = 0;
    *r = (struct reader){.rk = ap_kafka_consumer(&extra, "antipode-bench", NULL, &err), .total = total, .run = run};
    if (!r->rk || ap_kafka_partitions(r->rk, topic, TIMEOUT_MS, &partitions, &err) != 0)
        bench_die("%s: %s", brokers, err.msg);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int32_t p = 0; p < partitions; p++) {
        int64_t low, high, until = ap_mono_ms() + TIMEOUT_MS;
        rd_kafka_resp_err_t rc;
        /* A partition that has just appeared has no leader yet, for a moment. */
        while ((rc = rd_kafka_query_watermark_offsets(r->rk, topic, p, &low, &high, TIMEOUT_MS)) != 0 && ap_mono_ms() < until)
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        if (rc != 0)
            bench_die("%s: no offsets of %s: %s", brokers, topic, rd_kafka_err2str(rc));
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = high;
    }
    if (rd_kafka_assign(r->rk, list) != 0)
        bench_die("%s: cannot read %s", brokers, topic);
    rd_kafka_topic_partition_list_destroy(list);
    r->queue = rd_kafka_queue_get_consumer(r->rk);
    r->ms = calloc(total, sizeof *r->ms);
}

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    while (r->seen < r->total) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, 100);
        int64_t now = ap_mono_ns();
        if (now > r->deadline_ns)
            bench_die("%zu of %zu records were not read 30 s after the last was sent", r->total - r->seen, r->total);
        if (m && !m->err && m->len >= (size_t)HEADER && ap_le64((uint8_t *)m->payload + 8) == r->run)
            r->ms[r->seen++] = (double)(now - (int64_t)ap_le64(m->payload)) / 1e6;
        if (m)
            rd_kafka_message_destroy(m);
    }
    return NULL;
}

static uint64_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state ^ (*state >> 29);
}

struct reports_job { rd_kafka_t *rk; size_t total; };

static void *reports_main(void *arg)
{
    struct reports_job *job = arg;
    while (acks < job->total)
        rd_kafka_poll(job->rk, 100);
    return NULL;
}

static void publish_all(const char *brokers, const char *topic, size_t total, size_t bytes, double rate, int64_t start_ns, uint64_t run)
{
    struct ap_err err = {0};
    struct ap_kafka_property property;
    struct ap_config_extra extra = extra_of(&property, brokers);
    rd_kafka_t *rk = ap_kafka_producer(&extra, "antipode-bench", on_delivery, NULL, &err);
    int32_t partitions = 0;
    if (!rk || ap_kafka_partitions(rk, topic, TIMEOUT_MS, &partitions, &err) != 0)
        bench_die("%s: %s", brokers, err.msg);
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    uint8_t *value = malloc(bytes + 8), key[KEY];
    uint64_t seed = run;
    struct reports_job job = {rk, total};
    pthread_t reports;
    pthread_create(&reports, NULL, reports_main, &job);
    for (size_t i = 0; i < total; i++) {
        int64_t due = start_ns + (int64_t)((double)i * 1e9 / rate);
        struct timespec at = {due / 1000000000, due % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0)
            ;
        for (size_t b = 0; b < KEY; b += 8)
            ap_put_le64(key + b, next_random(&seed));
        for (size_t b = HEADER; b < bytes; b += 8)
            ap_put_le64(value + b, next_random(&seed));
        ap_put_le64(value, (uint64_t)ap_mono_ns());
        ap_put_le64(value + 8, run);
        if (rd_kafka_produce(rkt, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, value, bytes, key, sizeof key, NULL) != 0)
            bench_die("producing: %s", rd_kafka_err2str(rd_kafka_last_error()));
    }
    pthread_join(reports, NULL);
    free(value);
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
}

static void print(const char *name, double *ms, size_t n)
{
    printf(",\"%s\":{\"p50_ms\":%.2f,\"p90_ms\":%.2f,\"p99_ms\":%.2f}", name, bench_percentile(ms, n, 0.50), bench_percentile(ms, n, 0.90), bench_percentile(ms, n, 0.99));
}

int main(int argc, char **argv)
{
    const char *home = NULL, *abroad = NULL, *origin = NULL, *topic = NULL;
    double rate = 1000, seconds = 10;
    size_t bytes = 160;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--home")) home = argv[i + 1];
        else if (!strcmp(argv[i], "--abroad")) abroad = argv[i + 1];
        else if (!strcmp(argv[i], "--origin")) origin = argv[i + 1];
        else if (!strcmp(argv[i], "--topic")) topic = argv[i + 1];
        else if (!strcmp(argv[i], "--rate")) rate = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--seconds")) seconds = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--bytes")) bytes = (size_t)atol(argv[i + 1]);
        else bench_die("unknown option %s", argv[i]);
    }
    if (!home || !abroad || !origin || !topic || rate <= 0 || rate * seconds < 1 || rate * seconds > MOST_RECORDS || bytes < HEADER || bytes > 1000000) {
        fprintf(stderr, "usage: bench_mirror --home BROKERS --abroad BROKERS --origin REGION --topic TOPIC [--rate N] [--seconds N] [--bytes N]\n");
        return 2;
    }
    char mirrored[256];
    snprintf(mirrored, sizeof mirrored, "%s.%s", origin, topic);
    size_t total = (size_t)(rate * seconds);
    uint64_t run = (uint64_t)ap_wall_us();
    struct reader readers[2];
    ack_ms = calloc(total, sizeof *ack_ms);
    reader_open(&readers[0], home, topic, total, run);
    reader_open(&readers[1], abroad, mirrored, total, run);
    int64_t start_ns = ap_mono_ns() + 500000000; /* both are reading by then */
    for (size_t i = 0; i < 2; i++) {
        readers[i].deadline_ns = start_ns + (int64_t)(seconds * 1e9) + INT64_C(30000000000);
        pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]);
    }
    publish_all(home, topic, total, bytes, rate, start_ns, run);
    for (size_t i = 0; i < 2; i++)
        pthread_join(readers[i].thread, NULL);
    printf("{\"rate\":%.0f,\"bytes\":%zu", rate, bytes);
    print("ack", ack_ms, acks);
    print("home", readers[0].ms, readers[0].seen);
    print("abroad", readers[1].ms, readers[1].seen);
    puts("}");
    return 0;
}
