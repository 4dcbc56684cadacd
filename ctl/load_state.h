/* Where a load stands, in a small file beside the input: which load it is, and the place up to which all is acknowledged.
 *
 * Written beside and renamed, so it is whole or not there. A state of another load (another file, collection or choice of
 * ids) is refused, not overwritten. */
#ifndef ANTIPODE_CTL_LOAD_STATE_H
#define ANTIPODE_CTL_LOAD_STATE_H
#include <jansson.h>
#include "ctl/rows.h"

struct ap_load_state {
    char path[4096];
    json_t *load;   /* what the load is: everything that must be equal for going on; owned */
    bool resumed;
    struct ap_rows_place place;
};

/* path: of the state; *place stays as it is when there is none. AP_ECONFLICT: it is of another load. Takes load. */
int ap_load_state_open(struct ap_load_state *s, const char *path, json_t *load, struct ap_err *err);
int ap_load_state_save(struct ap_load_state *s, struct ap_rows_place place, struct ap_err *err);
void ap_load_state_done(struct ap_load_state *s); /* removes the file */
void ap_load_state_fini(struct ap_load_state *s);

#endif
