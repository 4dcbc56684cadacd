/* Configuration: one table row per option; flag over environment over file over default.
 *
 * File: `key = value` lines, `#` starts a comment. Environment: ANTIPODE_ + key upper-cased, '.' and '-' as '_'.
 * Flags: --key value or --key=value, and -X property=value, which is short for kafka.property=value. Keys that start
 * with "kafka." are not in the table: they are kept as pairs, for librdkafka, in the order given.
 * Every error names its source: file and line, environment variable or flag, the key, what is wrong with the value. */
#ifndef ANTIPODE_COMMON_CONFIG_H
#define ANTIPODE_COMMON_CONFIG_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"

enum ap_option_type { AP_OPT_STRING, AP_OPT_INT, AP_OPT_BOOL, AP_OPT_DOUBLE };

/* One row. offset is that of the field in the daemon's config struct: char * (owned, never NULL unless the default is
 * NULL), int64_t, bool or double. min and max bound AP_OPT_INT and AP_OPT_DOUBLE. */
struct ap_option {
    const char *key;
    enum ap_option_type type;
    size_t offset;
    const char *fallback; /* default as text; NULL for a string means unset */
    double min, max;
    bool required;
    const char *doc; /* one line, with the unit */
};
#define AP_OPTIONS_END { NULL, AP_OPT_STRING, 0, NULL, 0, 0, false, NULL }

struct ap_kafka_property { char *key, *value; }; /* key without "kafka." */

struct ap_config_source { const char *key; char *where; }; /* "file:line", "flag --key", "environment variable NAME" */

struct ap_config_extra {
    struct ap_kafka_property *kafka;
    size_t kafka_count;
    struct ap_config_source *sources; /* of the options that were set, the last one counts; ours */
    size_t source_count;
};

/* Fill *config (zeroed by the caller) and *extra from argv, environment and the file named by --config.
 * --help prints the table with its docs on stdout, --version the version; then returns 1 and the caller exits with 0.
 * Returns 0; AP_EINVAL for usage errors (the caller exits with 2), AP_EIO when the file cannot be read. */
int ap_config_load(const struct ap_option *options, void *config, struct ap_config_extra *extra, int argc, char **argv,
                   struct ap_err *err);
/* Only defaults and the text of a file (name is what errors call it): no environment, no flags, no check of required
 * options. For tests and fuzzing, and for checking a file before it is used. */
int ap_config_parse(const struct ap_option *options, void *config, struct ap_config_extra *extra, const char *name,
                    const char *text, size_t len, struct ap_err *err);
/* For checks across options: err's message begins with a key and a colon ("regions: ..."); puts where that key was set before it,
 * if it was. Returns err's code. */
int ap_config_blame(const struct ap_config_extra *extra, struct ap_err *err);
/* Safe on what a failed load left behind, and twice. */
void ap_config_free(const struct ap_option *options, void *config, struct ap_config_extra *extra);

#endif
