/* The table of collections that can be written to, kept in step with the catalog.
 *
 * Invariant: ap_targets_get answers from a catalog at least as new as any that the caller has seen. */
#ifndef ANTIPODE_PRODUCER_TARGETS_H
#define ANTIPODE_PRODUCER_TARGETS_H
#include "producer/control_log.h"
#include "producer/target.h"

struct ap_targets {
    struct ap_control_log *control;
    struct ap_lanes *lanes;
    const struct ap_producer_config *config;
    pthread_mutex_t lock;
    uint64_t version; /* of the catalog that entries show */
    struct ap_target **entries;
    size_t count, cap;
};
void ap_targets_init(struct ap_targets *t, struct ap_control_log *control, struct ap_lanes *lanes, const struct ap_producer_config *config);
void ap_targets_fini(struct ap_targets *t);
/* A reference to the live collection; NULL with AP_ENOTFOUND. AP_ECONFLICT: its topic is not configured here. */
struct ap_target *ap_targets_get(struct ap_targets *t, const char *name, struct ap_err *err);
/* References to all of them: *out is malloc'ed. */
size_t ap_targets_list(struct ap_targets *t, struct ap_target ***out);
void ap_targets_list_free(struct ap_target **list, size_t n);
/* From now on the collection encodes with codec (a reference is taken). False when it is gone. */
bool ap_targets_set_codec(struct ap_targets *t, uint64_t collection, struct ap_codec *codec);

#endif
