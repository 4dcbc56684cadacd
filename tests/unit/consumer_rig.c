/* See consumer_rig.h. Waiting is by metrics, as an operator would; nothing here sleeps longer than a poll. */
#include "consumer_rig.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/clock.h"
#include "common/timeutil.h"
#include "patience.h"

enum { COLLECTION = 7 };

/* ---- the cluster -------------------------------------------------------------------------------------------------- */

/* A producer that asks for a topic makes it, with 4 partitions; the mock's own call for that sleeps up to a second. */
void rig_topic(struct rig *r, const char *name)
{
    struct ap_err err;
    int32_t count = 0;
    for (int64_t end = patience_ms(); ap_kafka_partitions(r->producer, name, PATIENCE_MS, &count, &err);)
        ck_assert_msg(ap_mono_ms() < end, "%s", err.msg);
    ck_assert_int_eq(count, RIG_PARTITIONS);
}

/* The mock says that broker 0 is the controller, without having one: and DescribeTopics asks the controller. */
static void *add_controller(void *arg)
{
    struct rig *r = arg;
    rd_kafka_mock_broker_add(r->mock, 0);
    return NULL;
}

static rd_kafka_t *client(struct rig *r, rd_kafka_type_t type)
{
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    ck_assert_int_eq(rd_kafka_conf_set(conf, "bootstrap.servers", rd_kafka_mock_cluster_bootstraps(r->mock), why, sizeof why), RD_KAFKA_CONF_OK);
    rd_kafka_conf_set(conf, "linger.ms", "0", why, sizeof why);
    if (type == RD_KAFKA_CONSUMER)
        rd_kafka_conf_set(conf, "group.id", "test", why, sizeof why);
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    ck_assert_msg(rk != NULL, "%s", why);
    return rk;
}

void rig_settle(struct rig *r)
{
    if (r->adding)
        pthread_join(r->adding, NULL);
    r->adding = 0;
}

void rig_open(struct rig *r)
{
    memset(r, 0, sizeof *r);
    snprintf(r->dir, sizeof r->dir, "/tmp/antipode-rig-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    r->host = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    ck_assert_ptr_nonnull(r->host);
    r->mock = rd_kafka_mock_cluster_new(r->host, 1);
    ck_assert_ptr_nonnull(r->mock);
    ck_assert_int_eq(pthread_create(&r->adding, NULL, add_controller, r), 0); /* up to a second: meanwhile, the rest */
    r->producer = client(r, RD_KAFKA_PRODUCER);
    static const char *const names[] = {"vec-mutations", "eu.vec-mutations", "vec-control", "eu.vec-control", "raw-vectors", "dlq-mutations"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        rig_topic(r, names[i]);
    struct ap_err err;
    ck_assert_int_eq(ap_schemas_new(&r->schemas, &err), 0);
}

void rig_close(struct rig *r)
{
    if (r->consumer)
        rig_stop(r);
    rig_settle(r);
    rd_kafka_destroy(r->producer);
    rd_kafka_mock_cluster_destroy(r->mock);
    rd_kafka_destroy(r->host);
    ap_schemas_free(&r->schemas);
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", r->dir);
    ck_assert_int_eq(system(command), 0);
}

static void *run(void *arg)
{
    struct rig *r = arg;
    r->rc = ap_consumer_run(r->consumer, &r->err);
    return NULL;
}

void rig_start(struct rig *r, const char *options)
{
    rig_settle(r);
    char text[2048];
    bool regions = options && strstr(options, "regions = ");
    int n = snprintf(text, sizeof text,
                     "region = us\n%sstore.path = %s/store\nstore.map_bytes = 268435456\nkafka.bootstrap.servers = %s\n%s\n",
                     regions ? "" : "regions = us,eu\n", r->dir, rd_kafka_mock_cluster_bootstraps(r->mock), options ? options : "");
    memset(&r->settings, 0, sizeof r->settings);
    struct ap_err err;
    int rc = ap_config_parse(ap_consumer_options, &r->settings, &r->extra, "rig", text, (size_t)n, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    rc = ap_consumer_settings_check(&r->settings, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    r->metrics = ap_metrics_new();
    r->status = ap_status_new(&r->settings, r->metrics);
    rc = ap_consumer_new(&r->consumer, &r->settings, &r->extra, r->metrics, r->status, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    ck_assert_int_eq(pthread_create(&r->thread, NULL, run, r), 0);
}

void rig_stop(struct rig *r)
{
    ap_consumer_stop(r->consumer);
    pthread_join(r->thread, NULL);
    ap_consumer_free(&r->consumer);
    ap_metrics_free(&r->metrics);
    ap_status_free(&r->status);
    ap_config_free(ap_consumer_options, &r->settings, &r->extra);
    ck_assert_msg(r->rc == 0, "%s", r->err.msg);
}

/* ---- records -------------------------------------------------------------------------------------------------------- */

void rig_send(struct rig *r, const char *topic, int32_t partition, const void *key, size_t key_len, const void *value, size_t value_len)
{
    rd_kafka_resp_err_t rc = rd_kafka_producev(r->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                                               RD_KAFKA_V_KEY(key, key_len), RD_KAFKA_V_VALUE((void *)(uintptr_t)value, value_len),
                                               RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
    ck_assert_msg(!rc, "%s", rd_kafka_err2str(rc));
    ck_assert_int_eq(rd_kafka_flush(r->producer, PATIENCE_MS), 0); /* so that records of two topics arrive in this order */
}

uint64_t rig_incarnation(struct rig *r, const char *region)
{
    uint64_t incarnation = ap_incarnation_new(ap_wall_ms());
    rig_register(r, strcmp(region, "us") == 0 ? "vec-control" : "eu.vec-control", region, incarnation, 0);
    return incarnation;
}

struct ap_key rig_key(uint64_t collection, uint64_t point)
{
    struct ap_point_id id;
    struct ap_key key;
    ap_point_id_from_u64(point, &id);
    ap_key_make(collection, &id, &key);
    return key;
}

struct ap_mutation rig_upsert(const char *region, uint64_t stream, uint64_t seq, uint64_t hlc, const char *payload)
{
    static const uint8_t vector[8];
    struct ap_mutation m = {.op = AP_OP_UPSERT, .stream = stream, .seq = seq, .clock = hlc, .vector = vector, .vector_len = sizeof vector,
                            .payload = payload, .payload_len = payload ? strlen(payload) : 0};
    m.version = (struct ap_version){.hlc = hlc, .writer = stream};
    snprintf(m.version.region.name, sizeof m.version.region.name, "%s", region);
    return m;
}

void rig_mutation(struct rig *r, const char *topic, int32_t partition, uint64_t point, const struct ap_mutation *m)
{
    struct ap_key key = rig_key(COLLECTION, point);
    struct ap_buf value = {0};
    ap_mutation_encode(m, &value);
    rig_send(r, topic, partition, key.b, sizeof key.b, value.data, value.len);
    ap_buf_free(&value);
}

void rig_heartbeat(struct rig *r, const char *topic, int32_t partition, const char *region, uint64_t stream, uint64_t seq, const struct ap_hello *hello)
{
    char text[128];
    struct ap_mutation m = rig_upsert(region, stream, seq, ap_hlc_make(ap_wall_ms(), 0), NULL);
    m.op = AP_OP_HEARTBEAT;
    m.vector = NULL;
    m.vector_len = 0;
    if (hello) {
        int n = ap_hello_format(hello, text, sizeof text);
        ck_assert_int_gt(n, 0);
        m.payload = text;
        m.payload_len = strlen(text);
    }
    struct ap_buf value = {0};
    ap_mutation_encode(&m, &value);
    rig_send(r, topic, partition, NULL, 0, value.data, value.len);
    ap_buf_free(&value);
}

void rig_raw(struct rig *r, int32_t partition, uint64_t point, const struct ap_mutation *of, float value)
{
    float vector[8] = {value, 1, 2, 3, 4, 5, 6, 7};
    uint8_t out[AP_EVENT_OVERHEAD + sizeof vector];
    struct ap_raw_vector raw = {.version = of->version, .stream = of->stream, .seq = of->seq, .vector = (const uint8_t *)vector, .vector_len = sizeof vector};
    size_t len = ap_raw_vector_encode_to(&raw, out);
    struct ap_key key = rig_key(COLLECTION, point);
    rig_send(r, "raw-vectors", partition, key.b, sizeof key.b, out, len);
}

void rig_control(struct rig *r, const char *topic, struct ap_control *c)
{
    struct ap_buf key = {0}, value = {0};
    struct ap_err err;
    if (!c->version.hlc)
        c->version.hlc = ap_hlc_make(ap_wall_ms(), 1);
    if (!c->version.writer)
        c->version.writer = 1;
    int rc = ap_control_encode(r->schemas, c, &value, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    ap_control_key(c, &key);
    rig_send(r, topic, 0, key.data, key.len, value.data, value.len);
    ap_buf_free(&key);
    ap_buf_free(&value);
}

void rig_register(struct rig *r, const char *topic, const char *region, uint64_t incarnation, uint64_t predecessor)
{
    char instance[] = "producer-0";
    struct ap_control c = {.kind = AP_CONTROL_INCARNATION};
    snprintf(c.version.region.name, sizeof c.version.region.name, "%s", region);
    c.u.incarnation = (struct ap_control_incarnation){incarnation, 5, predecessor, 77, instance};
    rig_control(r, topic, &c);
}

/* ---- metrics ---------------------------------------------------------------------------------------------------------- */

double rig_metric(struct rig *r, const char *name, const char *labels)
{
    char line[320];
    size_t len;
    char *page = ap_metrics_render(r->metrics, &len);
    int n = labels ? snprintf(line, sizeof line, "\n%s{%s} ", name, labels) : snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(page, line);
    double value = at ? strtod(at + n, NULL) : 0.0;
    free(page);
    return value;
}

void rig_wait(struct rig *r, const char *name, const char *labels, double at_least)
{
    int64_t deadline = patience_ms();
    while (rig_metric(r, name, labels) < at_least) {
        if (ap_mono_ms() > deadline) {
            size_t len;
            char *page = ap_metrics_render(r->metrics, &len);
            fprintf(stderr, "%s\n", page);
            ck_abort_msg("%s{%s} is %g, not %g", name, labels ? labels : "", rig_metric(r, name, labels), at_least);
        }
        usleep(5000);
    }
}

void rig_wait_at_most(struct rig *r, const char *name, const char *labels, double at_most)
{
    for (int64_t end = patience_ms(); rig_metric(r, name, labels) > at_most; usleep(5000))
        ck_assert_msg(ap_mono_ms() < end, "%s{%s} stays above %g", name, labels ? labels : "", at_most);
}

void rig_wait_just(struct rig *r, const char *name, const char *labels, double value)
{
    rig_wait(r, name, labels, value);
    ck_assert_double_eq(rig_metric(r, name, labels), value);
}

void rig_wait_ready(struct rig *r)
{
    int64_t deadline = patience_ms();
    char why[256];
    while (!ap_status_ready(r->status, why, sizeof why)) {
        ck_assert_msg(ap_mono_ms() < deadline, "not ready: %s", why);
        usleep(5000);
    }
}

/* ---- the store -------------------------------------------------------------------------------------------------------- */

struct look {
    struct ap_key key;
    bool found;
    uint64_t hlc, slot, checksum;
    size_t live;
    char payload[256];
    float raw;
    const struct ap_snapshot *snapshot;
};

static int look_at(void *arg, uint64_t slot, const struct ap_row *row)
{
    struct look *look = arg;
    (void)slot;
    look->checksum += row->checksum;
    look->live += (size_t)ap_row_is_live(row);
    if (memcmp(row->key.b, look->key.b, sizeof look->key.b))
        return 0;
    look->found = true; /* the last one wins: slots rise */
    look->hlc = row->version.hlc;
    look->slot = slot;
    snprintf(look->payload, sizeof look->payload, "%.*s", (int)row->payload_len, row->payload ? row->payload : "");
    const uint8_t *vector;
    size_t len;
    look->raw = NAN;
    if (!ap_snapshot_raw(look->snapshot, slot, &vector, &len) && len >= sizeof look->raw)
        memcpy(&look->raw, vector, sizeof look->raw);
    return 0;
}

/* Old versions of a row stay in the log until they are cleaned: only the newest slot of each key counts, so sums are taken
 * over digests, and this scan only looks for one key. */
static struct look look(struct rig *r, uint64_t point)
{
    ck_assert_msg(!r->consumer, "stop the consumer first: one process opens a store once");
    char path[96];
    snprintf(path, sizeof path, "%s/store", r->dir);
    struct ap_store_options options = {.path = path, .map_bytes = 268435456, .region = "us", .worker = 0, .workers = 1, .read_only = true};
    struct ap_store *store = NULL;
    struct ap_snapshot *snapshot = NULL;
    struct ap_err err;
    int rc = ap_store_open(&store, &options, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    rc = ap_snapshot_begin(store, &snapshot, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    struct look found = {.key = rig_key(COLLECTION, point), .snapshot = snapshot, .raw = NAN};
    rc = ap_snapshot_scan(snapshot, 0, look_at, &found, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
    found.checksum = found.live = 0;
    for (uint32_t bucket = 0; bucket < AP_DIGEST_BUCKETS; bucket++) {
        struct ap_digest digest;
        ck_assert_int_eq(ap_snapshot_digest(snapshot, COLLECTION, bucket, &digest, &err), 0);
        found.checksum += digest.sum;
        found.live += digest.rows;
    }
    ap_snapshot_end(&snapshot);
    ap_store_close(&store);
    return found;
}

bool rig_row(struct rig *r, uint64_t point, uint64_t *hlc, char *payload, size_t cap)
{
    struct look found = look(r, point);
    if (hlc)
        *hlc = found.hlc;
    if (payload)
        snprintf(payload, cap, "%s", found.payload);
    return found.found;
}

size_t rig_live_rows(struct rig *r) { return look(r, 0).live; }
float rig_raw_of(struct rig *r, uint64_t point) { return look(r, point).raw; }
uint64_t rig_checksum(struct rig *r) { return look(r, 0).checksum; }

/* ---- reading topics ----------------------------------------------------------------------------------------------------- */

const char *rig_header(const rd_kafka_message_t *m, const char *name)
{
    rd_kafka_headers_t *headers;
    const void *value;
    size_t size;
    if (rd_kafka_message_headers(m, &headers) || rd_kafka_header_get_last(headers, name, &value, &size))
        return NULL;
    return value; /* librdkafka ends values with a NUL */
}

static bool has_header(const rd_kafka_message_t *m, const char *header, const char *value)
{
    const char *has = m && !m->err ? rig_header(m, header) : NULL;
    return has && !strcmp(has, value);
}

rd_kafka_message_t *rig_letter(struct rig *r, const char *header, const char *value)
{
    rd_kafka_t *rk = client(r, RD_KAFKA_CONSUMER);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(RIG_PARTITIONS);
    for (int p = 0; p < RIG_PARTITIONS; p++)
        rd_kafka_topic_partition_list_add(list, "dlq-mutations", p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_poll_set_consumer(rk);
    ck_assert_int_eq(rd_kafka_assign(rk, list), 0);
    rd_kafka_topic_partition_list_destroy(list);
    int64_t deadline = patience_ms();
    rd_kafka_message_t *m = NULL;
    while (ap_mono_ms() < deadline && !has_header(m = rd_kafka_consumer_poll(rk, 100), header, value)) {
        if (m)
            rd_kafka_message_destroy(m);
        m = NULL;
    }
    ck_assert_msg(m != NULL, "no dead letter has %s = %s", header, value);
    return m; /* the client lives as long as the test's process: the message belongs to it */
}
