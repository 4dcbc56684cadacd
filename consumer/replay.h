/* Setting offsets back where a rebuild reads the logs again (common/replay.h). */
#ifndef ANTIPODE_CONSUMER_REPLAY_H
#define ANTIPODE_CONSUMER_REPLAY_H
#include "consumer/consumer_impl.h"

/* Reads the store's file, if it is one that is being rebuilt and has one. The consumer's thread, like the other. */
int ap_consumer_replay_open(struct ap_consumer *c, struct ap_err *err);
/* A topic was found and stands where the store has it: set it back, once. The new offsets are in the store when it returns. */
int ap_consumer_replay(struct ap_consumer *c, struct ap_source *source, struct ap_err *err);

#endif
