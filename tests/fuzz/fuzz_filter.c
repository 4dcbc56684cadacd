/* Fuzz target: a filter, a NUL, a payload, both JSON. Whatever parses can be asked, and a refused one says where. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "indexer/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n = nul ? (size_t)(nul - data) : size;
    json_t *json = json_loadb((const char *)data, n, JSON_DECODE_ANY, NULL);
    json_t *payload = nul ? json_loadb((const char *)nul + 1, size - n - 1, 0, NULL) : NULL;
    if (json) {
        struct ap_filter *filter;
        struct ap_err err = {0};
        struct ap_point_id id = {{0}};
        size_t count;
        int rc = ap_filter_parse(json, &filter, &err);
        if (rc && (filter || strncmp(err.msg, "filter", 6) != 0))
            abort();
        bool with = ap_filter_match(filter, &id, payload), without = ap_filter_match(filter, &id, NULL);
        if (!ap_filter_needs_payload(filter) && with != without)
            abort();
        const struct ap_point_id *ids = ap_filter_only_ids(filter, &count);
        bool listed = false;
        for (size_t i = 0; i < count; i++)
            listed = listed || memcmp(&ids[i], &id, sizeof id) == 0;
        if (ids && with && !listed)
            abort();
        ap_filter_free(&filter);
    }
    json_decref(json);
    json_decref(payload);
    return 0;
}
