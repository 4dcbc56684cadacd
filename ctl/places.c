#include "ctl/places.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "ctl/targets.h"

static int agree(const char *file, const char *key, const char *value, char *out, size_t cap, struct ap_err *err)
{
    if (!*value)
        return 0;
    if (*out && strcmp(out, value) != 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: its %s is %s, but another file or option says %s", file, key, value, out);
    snprintf(out, cap, "%s", value);
    return 0;
}

int ap_places_config(struct ap_places *p, const char *path, struct ap_err *err)
{
    char line[AP_PATH_MAX + 256], region[sizeof p->region] = "", store[AP_PATH_MAX] = "", index[AP_PATH_MAX] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--config %s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, f)) {
        size_t len = strcspn(line, "\n");
        ap_config_line_value(line, len, "region", region, sizeof region);
        ap_config_line_value(line, len, "store.path", store, sizeof store);
        ap_config_line_value(line, len, "index.path", index, sizeof index);
    }
    fclose(f);
    if (!*store)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "--config %s: no store.path in it: is it the configuration of a consumer or an indexer?", path);
    int rc = agree(path, "region", region, p->region, sizeof p->region, err);
    if (rc == 0)
        rc = agree(path, "store.path", store, p->store, sizeof p->store, err);
    if (rc == 0)
        rc = agree(path, "index.path", index, p->index, sizeof p->index, err);
    snprintf(*index ? p->indexer_config : p->consumer_config, AP_PATH_MAX, "%s", path);
    return rc;
}
