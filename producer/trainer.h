/* Codecs: adopts what the catalog says this region encodes with, and trains what is missing, on a thread of its own.
 *
 * Invariant: a collection encodes with a codec only after Kafka has acknowledged all of its chunks and then its use.
 * Training never holds a lock that a write needs. */
#ifndef ANTIPODE_PRODUCER_TRAINER_H
#define ANTIPODE_PRODUCER_TRAINER_H
#include "producer/targets.h"

struct ap_trainer {
    struct ap_control_log *control;
    struct ap_targets *targets;
    const struct ap_producer_config *config;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
    struct ap_metric *trained, *failed, *adopted, *seconds;
};
void ap_trainer_init(struct ap_trainer *t, struct ap_control_log *control, struct ap_targets *targets, const struct ap_producer_config *config, struct ap_metrics *metrics);
/* Load every codec that the catalog already has: before the first write. */
void ap_trainer_adopt(struct ap_trainer *t);
int ap_trainer_start(struct ap_trainer *t, struct ap_err *err);
void ap_trainer_stop(struct ap_trainer *t);
/* One round of what the thread does, here and now: for tests. */
void ap_trainer_round(struct ap_trainer *t);

#endif
