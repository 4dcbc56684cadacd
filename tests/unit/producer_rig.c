#include "producer_rig.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/schema.h"
#include "common/timeutil.h"
#include "mock.h"
#include "patience.h"

rd_kafka_mock_cluster_t *life_mock;
static rd_kafka_t *host; /* only carries the mock cluster */
static char servers[512];

static char *text(const char *constant)
{
    return (char *)(uintptr_t)constant;
}

void life_cluster_start(void)
{
    static const struct mock_topic topics[] = {
        {AP_TOPIC_MUTATIONS, LIFE_PARTITIONS}, {AP_TOPIC_RAW, LIFE_PARTITIONS}, {AP_TOPIC_CONTROL, 1}, {AP_TOPIC_WATERMARKS, 1}, {"us.vec-control", 1},
    };
    char why[256];
    /* Brokers that go away are what is tested: their noise is shown only when asked for. */
    ap_log_init("unit", AP_LOG_DEBUG, getenv("ANTIPODE_TEST_LOG") ? NULL : "/dev/null", NULL);
    ap_ann_init();
    host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), why, sizeof why);
    ck_assert_msg(host != NULL, "%s", why);
    life_mock = rd_kafka_mock_cluster_new(host, 1);
    ck_assert_ptr_nonnull(life_mock);
    mock_topics(life_mock, topics, sizeof topics / sizeof *topics);
    snprintf(servers, sizeof servers, "%s", rd_kafka_mock_cluster_bootstraps(life_mock));
}

void life_cluster_stop(void)
{
    rd_kafka_mock_cluster_destroy(life_mock);
    rd_kafka_destroy(host);
}

/* --- a life --- */

void life_init(struct life *r, const char *conf)
{
    char all[2048];
    struct ap_err err = {0};
    int len = snprintf(all, sizeof all, "region = eu\nregions = eu,us\nkafka.bootstrap.servers = %s\nencode_threads = 2\nrequest_timeout_ms = 5000\n%s", servers, conf ? conf : "");
    memset(r, 0, sizeof *r);
    r->metrics = ap_metrics_new();
    ck_assert_msg(ap_producer_config_parse(&r->config, "rig", all, (size_t)len, &err) == 0, "%s", err.msg);
    ck_assert_msg(ap_producer_init(&r->p, &r->config, r->metrics, &err) == 0, "%s", err.msg);
}

int life_try_open(struct life *r, struct ap_err *err)
{
    return ap_producer_open(&r->p, err);
}

void life_open(struct life *r, const char *conf)
{
    struct ap_err err = {0};
    life_init(r, conf);
    ck_assert_msg(life_try_open(r, &err) == 0, "%s", err.msg);
    char why[500];
    ck_assert_msg(ap_producer_is_ready(&r->p, why, sizeof why), "%s", why);
}

static void free_rest(struct life *r)
{
    ap_metrics_free(&r->metrics);
    ap_producer_config_free(&r->config);
}

void life_close(struct life *r)
{
    ap_producer_close(&r->p, 5000);
    free_rest(r);
}

void life_crash(struct life *r)
{
    ap_producer_close(&r->p, 0);
    free_rest(r);
}

void life_collection(struct life *r, const char *name, uint32_t dim, enum ap_distance distance, const char *factory, bool raw_home)
{
    struct ap_err err = {0};
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION};
    c.u.collection = (struct ap_control_collection){.name = text(name), .generation = 1, .dim = dim, .distance = distance, .codec_factory = text(factory),
                                                    .raw_home = raw_home, .topic = text(AP_TOPIC_MUTATIONS)};
    ck_assert_msg(ap_control_log_publish(&r->p.control, &c, 1, patience_ns(), &err) == 0, "%s", err.msg);
}

void life_publish_control(struct ap_control *c, const char *region, uint64_t writer, const char *topic)
{
    struct ap_schemas *schemas;
    struct ap_err err = {0};
    struct ap_buf key = {0}, value = {0};
    char why[256];
    ck_assert_int_eq(ap_schemas_new(&schemas, &err), 0);
    c->version = (struct ap_version){ap_hlc_make(ap_wall_ms(), 0), {{0}}, writer};
    ck_assert_int_eq(ap_region_parse(region, strlen(region), &c->version.region, &err), 0);
    ap_control_key(c, &key);
    ck_assert_msg(ap_control_encode(schemas, c, &value, &err) == 0, "%s", err.msg);
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "bootstrap.servers", servers, why, sizeof why);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    ck_assert_ptr_nonnull(rk);
    ck_assert_int_eq(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
                                       RD_KAFKA_V_KEY(key.data, key.len), RD_KAFKA_V_VALUE(value.data, value.len), RD_KAFKA_V_END), 0);
    ck_assert_int_eq(rd_kafka_flush(rk, PATIENCE_MS), 0);
    rd_kafka_destroy(rk);
    ap_buf_free(&key);
    ap_buf_free(&value);
    ap_schemas_free(&schemas);
}

/* --- what is there --- */

struct reading { struct life_records out; bool raw; };

static void take(void *arg, const char *topic, const rd_kafka_message_t *m)
{
    struct reading *reading = arg;
    struct life_records *out = &reading->out;
    struct ap_err err = {0};
    (void)topic;
    out->all = realloc(out->all, (out->count + 1) * sizeof *out->all);
    struct life_record *r = &out->all[out->count++];
    *r = (struct life_record){.partition = m->partition, .offset = m->offset, .has_key = m->key != NULL};
    if (m->key) {
        ck_assert_uint_eq(m->key_len, sizeof r->key);
        memcpy(&r->key, m->key, sizeof r->key);
    }
    ap_buf_append(&r->value, m->payload, m->len);
    int rc = reading->raw ? ap_raw_vector_decode(NULL, r->value.data, r->value.len, &r->raw, NULL, &err)
                          : ap_mutation_decode(NULL, r->value.data, r->value.len, &r->m, NULL, &err);
    ck_assert_msg(rc == 0, "%s", err.msg);
}

static int by_place(const void *x, const void *y)
{
    const struct life_record *a = x, *b = y;
    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

struct life_records life_read(const char *topic)
{
    struct ap_kafka_property property = {text("bootstrap.servers"), servers};
    struct ap_config_extra extra = {.kafka = &property, .kafka_count = 1};
    struct reading reading = {.raw = strcmp(topic, AP_TOPIC_RAW) == 0};
    struct ap_follower *f;
    struct ap_err err = {0};
    ck_assert_int_eq(ap_follower_new(&f, &extra, "rig", &topic, 1, take, &reading, &err), 0);
    ck_assert_msg(ap_follower_catch_up(f, PATIENCE_MS, &err) == 0, "%s", err.msg);
    ap_follower_free(&f);
    if (reading.out.count)
        qsort(reading.out.all, reading.out.count, sizeof *reading.out.all, by_place);
    return reading.out;
}

void life_records_free(struct life_records *r)
{
    for (size_t i = 0; i < r->count; i++)
        ap_buf_free(&r->all[i].value);
    free(r->all);
    *r = (struct life_records){0};
}

size_t life_check(const struct life_records *r)
{
    size_t data = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct life_record *x = &r->all[i], *before = NULL;
        for (size_t k = i; k-- > 0 && r->all[k].partition == x->partition && !before;)
            if (r->all[k].m.stream == x->m.stream)
                before = &r->all[k];
        ck_assert_uint_eq(x->m.seq, before ? before->m.seq + 1 : 1);
        ck_assert(!before || x->m.clock > before->m.clock);
        ck_assert_uint_eq(x->m.clock, x->m.version.hlc);
        ck_assert_int_eq(x->has_key, x->m.op != AP_OP_HEARTBEAT);
        if (x->has_key)
            ck_assert_int_eq(ap_key_partition(&x->key, LIFE_PARTITIONS), x->partition);
        data += x->has_key;
    }
    return data;
}
