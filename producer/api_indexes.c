/* Declaring indexes of payload fields, and taking that back: a control record each, which every region reads; the indexers
 * build what it says. A write of the same declaration again, or the removal of none, publishes nothing. */
#include <stdlib.h>
#include <string.h>
#include "common/field.h"
#include "common/json.h"
#include "producer/api.h"
#include "producer/write.h"

#define INDEXES_MAX 64 /* of a collection */

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* The declaration of a field as the catalog has it; NULL: none. Borrowed until the next record. *count: how many there are. */
static const struct ap_control_index *find(const struct ap_catalog *catalog, uint64_t collection, const char *field, size_t *count)
{
    const struct ap_control_index *all[INDEXES_MAX];
    *count = ap_catalog_indexes(catalog, collection, all, INDEXES_MAX);
    for (size_t i = 0; i < *count && i < INDEXES_MAX; i++)
        if (strcmp(all[i]->field, field) == 0)
            return all[i];
    return NULL;
}

/* Publishes the record unless it says what is known. */
static int declare(struct ap_producer *p, struct ap_control *c, int64_t deadline_ns, struct ap_err *err)
{
    struct ap_control_index *wanted = &c->u.index;
    size_t count;
    int rc = 0;
    pthread_mutex_lock(&p->ddl);
    const struct ap_control_index *now = find(ap_control_log_lock(&p->control), wanted->collection, wanted->field, &count);
    bool news = wanted->removed ? now != NULL : !now || now->type != wanted->type || !same(now->options, wanted->options);
    if (now && wanted->removed)
        wanted->type = now->type;
    ap_control_log_unlock(&p->control);
    if (news && !wanted->removed && !now && count >= INDEXES_MAX)
        rc = ap_err_set(err, AP_EINVAL, AP_POISON, "the collection has %d payload indexes, which is the most", INDEXES_MAX);
    else if (news)
        rc = ap_control_log_publish(&p->control, c, 1, deadline_ns, err);
    pthread_mutex_unlock(&p->ddl);
    return rc;
}

static int read_body(struct ap_http_request *req, struct ap_control_index *out, struct ap_err *err)
{
    json_t *body = ap_http_json(req, err), *field, *schema;
    const struct ap_json_field fields[] = {{"field_name", AP_JSON_STRING, true, &field}, {"field_schema", AP_JSON_ANY, true, &schema}, AP_JSON_END};
    int rc = body ? ap_json_fields(body, "index", fields, err) : err->code;
    if (rc == 0)
        rc = ap_field_parse(json_string_value(field), schema, out, err);
    json_decref(body);
    return rc;
}

/* The path's own spelling may differ from the declared one: both are brought to the canonical one. */
static int read_path(struct ap_http_request *req, struct ap_control_index *out, struct ap_err *err)
{
    json_t *type = json_string("keyword");
    int rc = ap_field_parse(ap_http_param(req, 1), type, out, err);
    json_decref(type);
    out->removed = true;
    return rc;
}

static void serve(struct ap_http_request *req, int (*read)(struct ap_http_request *, struct ap_control_index *, struct ap_err *))
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_control c = {.kind = AP_CONTROL_INDEX};
    struct ap_write_options o;
    struct ap_err err = {0};
    struct ap_token none = {0};
    struct ap_target *t = NULL;
    int rc = ap_write_definition_options_read(req, p, &o, &err);
    if (rc == 0 && !(t = ap_targets_get(&p->targets, ap_http_param(req, 0), &err)))
        rc = err.code;
    if (rc == 0) {
        c.u.index.collection = t->collection;
        rc = read(req, &c.u.index, &err);
    }
    if (rc == 0)
        rc = declare(p, &c, o.deadline_ns, &err);
    if (rc)
        ap_write_reply_err(req, p, &err);
    else
        ap_write_reply(req, p, AP_WRITE_COMPLETED, &none, &o, NULL);
    ap_control_fini(&c);
    ap_target_unref(&t);
}

void ap_producer_create_index(struct ap_http_request *req) { serve(req, read_body); }
void ap_producer_delete_index(struct ap_http_request *req) { serve(req, read_path); }
