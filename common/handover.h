/* Exchanging a store's folder under the daemons that serve it.
 *
 * Who wants to exchange it holds a lock on the file `<store>.handover`, beside the folder (`antipode rebuild` does). The consumer
 * that finds it locked finishes its batch, lets go of the store and waits; when the lock is gone, also because its holder was
 * killed, it opens whatever store is there then. The indexer, which only reads, serves from the folder that it has open until it
 * finds another one in its place. Both then begin anew in the same process (ap_begin_anew), so who watches them notices nothing. */
#ifndef ANTIPODE_COMMON_HANDOVER_H
#define ANTIPODE_COMMON_HANDOVER_H
#include <stdbool.h>
#include "common/err.h"

#define AP_HANDOVER_END ".handover"

/* Is somebody about to exchange the store in this folder? */
bool ap_handover_asked(const char *store);
/* Ask for it: *fd holds the lock until ap_handover_release. AP_EBUSY: somebody else does. */
int ap_handover_take(const char *store, int *fd, struct ap_err *err);
void ap_handover_release(const char *store, int *fd);

/* Runs this program again, in this process, with its arguments: every file is closed. Returns only when that fails. */
int ap_begin_anew(char **argv, struct ap_err *err);

#endif
