/* Targets: the daemons that a command asks, and what they answered.
 *
 * Given by --config FILE (a daemon's own configuration: region and http.listen are read from it), or by URL with
 * --producer, --consumer, --indexer, which belong to the --region before them. Without any of these: ANTIPODE_TARGETS, a
 * list of files separated by colons; without that, the addresses of a development setup (docs/operations.md). */
#ifndef ANTIPODE_CTL_TARGETS_H
#define ANTIPODE_CTL_TARGETS_H
#include <stdbool.h>
#include "common/err.h"
#include "ctl/page.h"

enum ap_role { AP_ROLE_PRODUCER, AP_ROLE_CONSUMER, AP_ROLE_INDEXER, AP_ROLE_UNKNOWN };

struct ap_target {
    char region[24];   /* "" when nobody said */
    enum ap_role role;
    char url[256];     /* without a path */
    /* after ap_targets_fetch: */
    bool up, ready;
    char why[512];     /* why it is not up or not ready */
    struct ap_page page;
};
struct ap_targets {
    struct ap_target *list;
    size_t count;
    char region[24];   /* of --region, for the URLs that follow */
};

/* One command-line option; 0, or AP_EINVAL / AP_EIO. */
int ap_targets_region(struct ap_targets *t, const char *name, struct ap_err *err);
int ap_targets_url(struct ap_targets *t, enum ap_role role, const char *url, struct ap_err *err);
int ap_targets_config(struct ap_targets *t, const char *path, struct ap_err *err);
/* Text of a configuration file, for ap_targets_config and its test. name: the file's, for errors and to guess the role. */
int ap_targets_config_text(struct ap_targets *t, const char *name, const char *text, struct ap_err *err);
/* When no option named any. */
int ap_targets_defaults(struct ap_targets *t, struct ap_err *err);
/* Ask all of them at once for /readyz and /metrics, and learn from the answers what is missing (role, region); sorts them
 * by region and role. timeout_ms for each. */
void ap_targets_fetch(struct ap_targets *t, int timeout_ms);
void ap_targets_drop(struct ap_targets *t, size_t i);
void ap_targets_free(struct ap_targets *t);

/* Value of "key = value" on a line of a daemon's configuration; false when the line is of another key. */
bool ap_config_line_value(const char *line, size_t len, const char *key, char *out, size_t cap);

const char *ap_role_name(enum ap_role role);

#endif
