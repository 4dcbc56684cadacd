/* Fuzz target: the text of a configuration file. Whatever it holds, the parser ends with 0 or a message that names the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/config.h"

struct target {
    char *text;
    int64_t number;
    bool flag;
    double real;
};

static const struct ap_option table[] = {
    {"text", AP_OPT_STRING, offsetof(struct target, text), "x", 0, 0, false, ""},
    {"a.number", AP_OPT_INT, offsetof(struct target, number), "1", -5, 5, false, ""},
    {"flag", AP_OPT_BOOL, offsetof(struct target, flag), "on", 0, 0, false, ""},
    {"real", AP_OPT_DOUBLE, offsetof(struct target, real), "0", 0, 1, false, ""},
    AP_OPTIONS_END,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct target target = {0};
    struct ap_config_extra extra;
    struct ap_err err = {0};
    int rc = ap_config_parse(table, &target, &extra, "f", (const char *)data, size, &err);
    if (rc && (rc != AP_EINVAL || strncmp(err.msg, "f:", 2) != 0))
        abort();
    if (rc == 0 && (!target.text || target.number < -5 || target.number > 5 || !(target.real >= 0 && target.real <= 1)))
        abort();
    ap_config_free(table, &target, &extra);
    return 0;
}
