/* Fuzz target: bodies of the read API. First byte: which request. Whatever the rest holds, parsing ends with 0 or a message,
 * and the floats that are read from the text are those that the tree would have given. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "common/json.h"
#include "indexer/api_request.h"

static const struct ap_limits limits = {.max_limit = 100, .max_offset = 100, .max_batch = 4, .max_dim = 16};

/* The list that the scanner took out of the body, as jansson reads it. */
static void check_floats(const char *text, size_t len, const struct ap_body *body)
{
    json_error_t at;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at), *list = NULL;
    const char *key;
    json_t *value;
    if (!root && json_error_code(&at) == json_error_numeric_overflow)
        return; /* an integer over 64 bits, which is a float to us */
    if (!root)
        abort(); /* taken apart, and yet no JSON */
    json_object_foreach(root, key, value) {
        if (strcmp(key, "query") && strcmp(key, "vector"))
            continue;
        list = json_is_object(value) ? json_object_get(value, "nearest") : value;
        break;
    }
    if (json_array_size(list) * sizeof(float) != body->floats.len)
        abort();
    for (size_t i = 0; i < json_array_size(list); i++) {
        float ours, theirs = (float)json_number_value(json_array_get(list, i));
        memcpy(&ours, body->floats.data + i * sizeof ours, sizeof ours);
        /* By way of a double, theirs may be one float off where the number lies between two. */
        if (ours != theirs && nextafterf(ours, theirs) != theirs)
            abort();
    }
    json_decref(root);
}

static int parse(int kind, struct ap_body *body, struct ap_err *err)
{
    struct ap_ask ask;
    struct ap_page page;
    struct ap_pick pick;
    struct ap_filter *filter;
    json_t *searches;
    int rc;
    switch (kind % 6) {
    case 0:
    case 1:
        rc = kind % 6 ? ap_ask_parse_search(body->root, body, &limits, &ask, err) : ap_ask_parse_query(body->root, body, &limits, &ask, err);
        if (rc == 0 && (ask.limit < 1 || ask.limit > limits.max_limit || (ask.kind == AP_ASK_VECTOR && (ask.dim < 1 || ask.dim > limits.max_dim))))
            abort();
        if (rc == 0)
            ap_ask_fini(&ask);
        return rc;
    case 2:
        rc = ap_batch_parse(body->root, &limits, &searches, err);
        if (rc == 0 && json_array_size(searches) && (rc = ap_ask_parse_query(json_array_get(searches, 0), body, &limits, &ask, err)) == 0)
            ap_ask_fini(&ask);
        return rc;
    case 3:
        rc = ap_page_parse(body->root, &limits, &page, err);
        ap_page_fini(&page);
        return rc;
    case 4:
        rc = ap_pick_parse(body->root, &limits, &pick, err);
        ap_pick_fini(&pick);
        return rc;
    default:
        rc = ap_count_parse(body->root, &filter, err);
        ap_filter_free(&filter);
        return rc;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ap_body body;
    struct ap_err err = {0};
    if (size == 0)
        return 0;
    const char *text = (const char *)data + 1;
    int rc = ap_body_parse(text, size - 1, &limits, &body, &err);
    if (rc == 0 && body.has_floats)
        check_floats(text, size - 1, &body);
    if (rc == 0)
        rc = parse(data[0], &body, &err);
    if (rc && (rc != AP_EINVAL && rc != AP_EUNSUPPORTED))
        abort();
    if (rc && !*err.msg)
        abort();
    if (body.root)
        ap_body_fini(&body);
    return 0;
}
