/* The client of a follower: the consumer profile, from the start, with an event at each partition's end. */
#ifndef ANTIPODE_COMMON_KAFKA_PROFILE_H
#define ANTIPODE_COMMON_KAFKA_PROFILE_H
#include "common/kafka.h"

rd_kafka_t *ap_kafka_follower_client(const struct ap_config_extra *extra, const char *client_id, struct ap_err *err);

#endif
