/* Where a region's files lie: from the daemons' own configuration files, or said one by one. */
#ifndef ANTIPODE_CTL_PLACES_H
#define ANTIPODE_CTL_PLACES_H
#include "ctl/files.h"

struct ap_places {
    char region[24], store[AP_PATH_MAX], index[AP_PATH_MAX]; /* "": not said */
    char consumer_config[AP_PATH_MAX], indexer_config[AP_PATH_MAX]; /* files that said store.path, and index.path */
};
/* Takes region, store.path and index.path from a configuration file; AP_EINVAL when two files contradict each other. */
int ap_places_config(struct ap_places *p, const char *path, struct ap_err *err);

#endif
