/* Starting: from a connection to Kafka to a producer that may write. */
#ifndef ANTIPODE_PRODUCER_START_H
#define ANTIPODE_PRODUCER_START_H
#include "producer/producer.h"

/* Topics are there as configured; the catalog is read; this incarnation is registered; where its predecessors ended is
 * found in every partition; the hello is acknowledged in every partition. Steps that fail for want of Kafka are tried
 * again until p->stop_starting. */
int ap_start_run(struct ap_producer *p, struct ap_err *err);

#endif
