/* See mock.h. A thread knocks at the first broker's door while the order waits. */
#include "mock.h"

#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

struct door { struct sockaddr_in address; _Atomic bool opened; };

static void *knock(void *arg)
{
    struct door *door = arg;
    while (!atomic_load(&door->opened)) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        (void)!connect(fd, (struct sockaddr *)&door->address, sizeof door->address);
        close(fd);
        usleep(1000);
    }
    return NULL;
}

void mock_topics(rd_kafka_mock_cluster_t *mock, const struct mock_topic *topics, size_t count)
{
    struct door door = {.address = {.sin_family = AF_INET}};
    unsigned port;
    pthread_t thread;
    ck_assert_int_eq(sscanf(rd_kafka_mock_cluster_bootstraps(mock), "127.0.0.1:%u", &port), 1);
    door.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    door.address.sin_port = htons((uint16_t)port);
    ck_assert_int_eq(pthread_create(&thread, NULL, knock, &door), 0);
    for (size_t i = 0; i < count; i++)
        ck_assert_int_eq(rd_kafka_mock_topic_create(mock, topics[i].name, topics[i].partitions, 1), 0);
    atomic_store(&door.opened, true);
    pthread_join(thread, NULL);
}
