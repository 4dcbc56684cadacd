/* A producer on librdkafka's mock cluster, and what it has written there, decoded. */
#ifndef ANTIPODE_TESTS_PRODUCER_RIG_H
#define ANTIPODE_TESTS_PRODUCER_RIG_H
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h> /* after rdkafka.h */
#include "producer/producer.h"

#define LIFE_PARTITIONS 4

extern rd_kafka_mock_cluster_t *life_mock;

void life_cluster_start(void); /* topics of region eu, and us.vec-control */
void life_cluster_stop(void);

/* One life of a producer. conf: further lines of configuration, or NULL. */
struct life {
    struct ap_producer_config config;
    struct ap_metrics *metrics;
    struct ap_producer p;
};
void life_init(struct life *r, const char *conf);          /* ap_producer_init only */
int life_try_open(struct life *r, struct ap_err *err);
void life_open(struct life *r, const char *conf);          /* init and open; asserts that it is ready */
void life_close(struct life *r);                           /* as on SIGTERM */
void life_crash(struct life *r);                           /* what is queued is lost, nothing is flushed */

/* A record as it lies in the mock cluster. */
struct life_record {
    int32_t partition;
    int64_t offset;
    struct ap_key key; bool has_key;
    struct ap_buf value;        /* its bytes */
    struct ap_mutation m;       /* borrows from value; vec-mutations */
    struct ap_raw_vector raw;   /* raw-vectors */
};
struct life_records { struct life_record *all; size_t count; };
/* All of a topic, in partition order, decoded as mutations or (raw-vectors) raw vectors. */
struct life_records life_read(const char *topic);
void life_records_free(struct life_records *r);
/* Asserts the promise of lanes: per partition and stream, numbers from 1 without a hole, clocks rising, keys where they
 * belong. Returns how many are no heartbeats. */
size_t life_check(const struct life_records *r);
/* Publishes a control record as another region or producer would. topic: "us.vec-control" or "vec-control". */
void life_publish_control(struct ap_control *c, const char *region, uint64_t writer, const char *topic);

/* A live collection, made through the control log. factory as antipode.codec. */
void life_collection(struct life *r, const char *name, uint32_t dim, enum ap_distance distance, const char *factory, bool raw_home);

#endif
