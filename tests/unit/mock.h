/* librdkafka's mock cluster, without the second that each order to it takes: its thread looks for orders once a second, and
 * whenever something comes in from the network. So something comes in. */
#ifndef ANTIPODE_TESTS_MOCK_H
#define ANTIPODE_TESTS_MOCK_H
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h> /* after rdkafka.h */

struct mock_topic { const char *name; int partitions; };
/* Makes topics of one replica; asserts that it works. The first broker is up. */
void mock_topics(rd_kafka_mock_cluster_t *mock, const struct mock_topic *topics, size_t count);

#endif
