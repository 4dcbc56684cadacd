/* Avro schemas: JSON text to a tree, and the tree to its canonical form.
 *
 * One recursive descent. Named types are entered into the list of nodes while they are being defined, so that a reference
 * to a type inside of itself is seen (its depth is still 0) and refused. Everything hangs on the document: on an error the
 * whole of it is released at once. */
#include "common/avro_tree.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_names[] = { "null", "boolean", "int", "long", "float", "double", "bytes", "string",
                                          "record", "enum", "fixed", "array", "map", "union" };

const char *ap_avro_type_name(enum ap_avro_type type)
{
    return type_names[type];
}

static void *allocate(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        abort(); /* schemas are small: memory is out */
    return p;
}

static struct ap_avro *new_node(struct ap_avro_doc *doc, enum ap_avro_type type)
{
    if ((doc->node_count & (doc->node_count - 1)) == 0) { /* a power of two: full */
        doc->nodes = realloc(doc->nodes, (doc->node_count ? doc->node_count * 2 : 1) * sizeof *doc->nodes);
        if (!doc->nodes)
            abort();
    }
    struct ap_avro *node = allocate(1, sizeof *node);
    node->type = type;
    node->fallback = -1;
    doc->nodes[doc->node_count++] = node;
    return node;
}

void ap_avro_fini(struct ap_avro_doc *doc)
{
    for (size_t i = 0; i < doc->node_count; i++) {
        struct ap_avro *node = doc->nodes[i];
        free(node->name);
        free(node->kids);
        free(node->names);
        free(node->defaults);
        free(node);
    }
    free(doc->nodes);
    json_decref(doc->json);
    *doc = (struct ap_avro_doc){0};
}

/* ---- parsing ---- */

struct parser { struct ap_avro_doc *doc; struct ap_err *err; size_t level; };

static struct ap_avro *parse(struct parser *p, json_t *json, const char *name_space);

static struct ap_avro *fail(struct parser *p, const char *what, const char *name)
{
    ap_err_set(p->err, AP_EINVAL, AP_POISON, "Avro schema: %s%s%.100s%s", what, name ? " '" : "", name ? name : "", name ? "'" : "");
    return NULL;
}

/* Text of a JSON string; NULL when it is none, or has a NUL inside, as a default of bytes may, but no name. */
static const char *text_of(const json_t *json)
{
    const char *text = json_string_value(json);
    return text && strlen(text) == json_string_length(json) ? text : NULL;
}

static bool good_name(const char *name)
{
    for (const char *c = name; ; c++) {
        bool first = c == name || c[-1] == '.';
        bool letter = (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') || *c == '_';
        bool digit = *c >= '0' && *c <= '9';
        if ((first && !letter) || (!first && !letter && !digit && *c != '.' && *c != '\0'))
            return false;
        if (*c == '\0')
            return true;
    }
}

/* Specification, "Names": a dotted name is full already, else the namespace comes before it. */
static char *full_name(const char *name, const char *name_space)
{
    size_t space = strchr(name, '.') || !name_space || !*name_space ? 0 : strlen(name_space) + 1;
    char *full = allocate(space + strlen(name) + 1, 1);
    if (space) {
        memcpy(full, name_space, space - 1);
        full[space - 1] = '.';
    }
    strcpy(full + space, name);
    return full;
}

static struct ap_avro *find(struct ap_avro_doc *doc, const char *full)
{
    for (size_t i = 0; i < doc->node_count; i++)
        if (doc->nodes[i]->name && strcmp(doc->nodes[i]->name, full) == 0)
            return doc->nodes[i];
    return NULL;
}

static int primitive(const char *name)
{
    for (int i = AP_AVRO_NULL; i <= AP_AVRO_STRING; i++)
        if (strcmp(name, type_names[i]) == 0)
            return i;
    return -1;
}

static struct ap_avro *parse_reference(struct parser *p, const char *name, const char *name_space)
{
    int type = primitive(name);
    if (type >= 0) {
        static const uint8_t least[] = { 0, 1, 1, 1, 4, 8, 1, 1 };
        struct ap_avro *node = new_node(p->doc, (enum ap_avro_type)type);
        node->expanded = node->depth = 1;
        node->min_bytes = least[type];
        return node;
    }
    char *full = full_name(name, name_space);
    struct ap_avro *node = find(p->doc, full);
    free(full);
    if (!node)
        return fail(p, "unknown type", name);
    if (node->depth == 0)
        return fail(p, "recursive types are not supported:", name);
    return node;
}

/* Adds a child's extent to its parent's; the bounds are checked where nodes are finished. */
static void add_extent(struct ap_avro *node, const struct ap_avro *kid, bool sum_bytes)
{
    node->expanded += kid->expanded;
    if (node->depth < kid->depth + 1)
        node->depth = kid->depth + 1;
    if (sum_bytes)
        node->min_bytes += kid->min_bytes;
}

static struct ap_avro *parse_union(struct parser *p, json_t *json, const char *name_space)
{
    struct ap_avro *node = new_node(p->doc, AP_AVRO_UNION);
    size_t count = json_array_size(json), depth = 1;
    if (count == 0)
        return fail(p, "a union without branches", NULL);
    node->kids = allocate(count, sizeof *node->kids);
    node->expanded = node->min_bytes = 1;
    for (size_t i = 0; i < count; i++) {
        struct ap_avro *kid = parse(p, json_array_get(json, i), name_space);
        if (!kid)
            return NULL;
        if (kid->type == AP_AVRO_UNION)
            return fail(p, "a union inside of a union", NULL);
        node->kids[node->count++] = kid;
        node->depth = depth;
        add_extent(node, kid, false);
        depth = node->depth;
    }
    return node;
}

static struct ap_avro *parse_record(struct parser *p, struct ap_avro *node, json_t *json, const char *name_space)
{
    json_t *fields = json_object_get(json, "fields");
    size_t count = json_array_size(fields), depth = 1;
    if (!json_is_array(fields))
        return fail(p, "no fields in record", node->name);
    node->kids = allocate(count, sizeof *node->kids);
    node->names = allocate(count, sizeof *node->names);
    node->defaults = allocate(count, sizeof *node->defaults);
    node->expanded = 1;
    for (size_t i = 0; i < count; i++) {
        json_t *field = json_array_get(fields, i);
        const char *name = text_of(json_object_get(field, "name"));
        if (!name || !good_name(name) || strchr(name, '.'))
            return fail(p, "bad name of a field in record", node->name);
        for (size_t j = 0; j < i; j++)
            if (strcmp(node->names[j], name) == 0)
                return fail(p, "two fields named", name);
        struct ap_avro *kid = parse(p, json_object_get(field, "type"), name_space);
        if (!kid)
            return NULL;
        node->names[i] = name;
        node->defaults[i] = json_object_get(field, "default");
        node->kids[node->count++] = kid;
        /* depth stays 0 until the end: that is how a reference to this record from inside of it is recognized */
        node->expanded += kid->expanded;
        node->min_bytes += kid->min_bytes;
        depth = kid->depth + 1 > depth ? kid->depth + 1 : depth;
    }
    node->depth = depth;
    return node;
}

static struct ap_avro *parse_enum(struct parser *p, struct ap_avro *node, json_t *json)
{
    json_t *symbols = json_object_get(json, "symbols"), *fallback = json_object_get(json, "default");
    size_t count = json_array_size(symbols);
    if (count == 0)
        return fail(p, "no symbols in enum", node->name);
    node->names = allocate(count, sizeof *node->names);
    for (size_t i = 0; i < count; i++) {
        const char *symbol = text_of(json_array_get(symbols, i));
        if (!symbol || !good_name(symbol) || strchr(symbol, '.'))
            return fail(p, "bad symbol in enum", node->name);
        for (size_t j = 0; j < i; j++)
            if (strcmp(node->names[j], symbol) == 0)
                return fail(p, "a symbol twice in enum", node->name);
        node->names[node->count++] = symbol;
        if (text_of(fallback) && strcmp(text_of(fallback), symbol) == 0)
            node->fallback = (int)i;
    }
    if (fallback && node->fallback < 0)
        return fail(p, "the default is no symbol of enum", node->name);
    node->expanded = node->depth = node->min_bytes = 1;
    return node;
}

static struct ap_avro *parse_fixed(struct parser *p, struct ap_avro *node, json_t *json)
{
    json_t *size = json_object_get(json, "size");
    if (!json_is_integer(size) || json_integer_value(size) < 0 || json_integer_value(size) > 1 << 20)
        return fail(p, "size of fixed", node->name);
    node->size = node->min_bytes = (size_t)json_integer_value(size);
    node->expanded = node->depth = 1;
    return node;
}

static struct ap_avro *parse_named(struct parser *p, enum ap_avro_type type, json_t *json, const char *name_space)
{
    const char *name = text_of(json_object_get(json, "name"));
    const char *own_space = text_of(json_object_get(json, "namespace"));
    if (!name || !good_name(name) || primitive(name) >= 0 || (own_space && *own_space && !good_name(own_space)))
        return fail(p, "bad name of a type", name);
    char *full = full_name(name, own_space ? own_space : name_space);
    if (find(p->doc, full)) {
        free(full);
        return fail(p, "defined twice:", name);
    }
    struct ap_avro *node = new_node(p->doc, type);
    node->name = full;
    if (type == AP_AVRO_ENUM)
        return parse_enum(p, node, json);
    if (type == AP_AVRO_FIXED)
        return parse_fixed(p, node, json);

    const char *dot = strrchr(full, '.');
    char *inner = dot ? strndup(full, (size_t)(dot - full)) : NULL;
    node = parse_record(p, node, json, inner);
    free(inner);
    return node;
}

static struct ap_avro *parse_object(struct parser *p, json_t *json, const char *name_space)
{
    json_t *type = json_object_get(json, "type");
    const char *text = text_of(type);
    if (!text)
        return parse(p, type, name_space); /* {"type": {...}} */
    if (strcmp(text, "record") == 0)
        return parse_named(p, AP_AVRO_RECORD, json, name_space);
    if (strcmp(text, "enum") == 0)
        return parse_named(p, AP_AVRO_ENUM, json, name_space);
    if (strcmp(text, "fixed") == 0)
        return parse_named(p, AP_AVRO_FIXED, json, name_space);
    bool array = strcmp(text, "array") == 0;
    if (!array && strcmp(text, "map") != 0)
        return parse_reference(p, text, name_space);

    struct ap_avro *node = new_node(p->doc, array ? AP_AVRO_ARRAY : AP_AVRO_MAP);
    struct ap_avro *kid = parse(p, json_object_get(json, array ? "items" : "values"), name_space);
    if (!kid)
        return NULL;
    node->kids = allocate(1, sizeof *node->kids);
    node->kids[0] = kid;
    node->count = node->expanded = node->min_bytes = 1;
    add_extent(node, kid, false);
    return node;
}

static struct ap_avro *parse(struct parser *p, json_t *json, const char *name_space)
{
    if (++p->level > AP_AVRO_DEPTH * 2) /* {"type": …} wrappings count here as well */
        return fail(p, "nested too deep", NULL);
    struct ap_avro *node = text_of(json) ? parse_reference(p, text_of(json), name_space)
        : json_is_array(json) ? parse_union(p, json, name_space)
        : json_is_object(json) ? parse_object(p, json, name_space)
        : fail(p, "a type must be a string, an array or an object", NULL);
    if (node && (node->expanded > AP_AVRO_NODES || node->depth > AP_AVRO_DEPTH))
        node = fail(p, "too large or nested too deep", NULL);
    p->level--;
    return node;
}

int ap_avro_parse(const char *json, size_t len, struct ap_avro_doc *doc, struct ap_err *err)
{
    json_error_t where;
    struct ap_avro_doc made = { .json = json_loadb(json, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &where) };
    if (!made.json)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Avro schema: line %d: %s", where.line, where.text);
    struct parser p = { .doc = &made, .err = err };
    made.root = parse(&p, made.json, NULL);
    if (!made.root) {
        ap_avro_fini(&made);
        return AP_EINVAL;
    }
    *doc = made;
    return 0;
}

/* ---- canonical form ---- */

static void canonical(const struct ap_avro *node, const struct ap_avro **seen, size_t *seen_count, struct ap_buf *out);

static void canonical_list(const struct ap_avro *node, const struct ap_avro **seen, size_t *seen_count, struct ap_buf *out)
{
    for (size_t i = 0; i < node->count; i++) {
        if (i > 0)
            ap_buf_append(out, ",", 1);
        if (node->type == AP_AVRO_ENUM) {
            ap_buf_printf(out, "\"%s\"", node->names[i]);
        } else if (node->type == AP_AVRO_RECORD) {
            ap_buf_printf(out, "{\"name\":\"%s\",\"type\":", node->names[i]);
            canonical(node->kids[i], seen, seen_count, out);
            ap_buf_append(out, "}", 1);
        } else {
            canonical(node->kids[i], seen, seen_count, out);
        }
    }
}

static void canonical(const struct ap_avro *node, const struct ap_avro **seen, size_t *seen_count, struct ap_buf *out)
{
    if (node->name) {
        for (size_t i = 0; i < *seen_count; i++) {
            if (seen[i] == node) {
                ap_buf_printf(out, "\"%s\"", node->name);
                return;
            }
        }
        seen[(*seen_count)++] = node;
        ap_buf_printf(out, "{\"name\":\"%s\",\"type\":\"%s\"", node->name, type_names[node->type]);
    }
    switch (node->type) {
    case AP_AVRO_RECORD:
    case AP_AVRO_ENUM:
        ap_buf_printf(out, ",\"%s\":[", node->type == AP_AVRO_ENUM ? "symbols" : "fields");
        canonical_list(node, seen, seen_count, out);
        ap_buf_append(out, "]}", 2);
        return;
    case AP_AVRO_FIXED:
        ap_buf_printf(out, ",\"size\":%zu}", node->size);
        return;
    case AP_AVRO_UNION:
        ap_buf_append(out, "[", 1);
        canonical_list(node, seen, seen_count, out);
        ap_buf_append(out, "]", 1);
        return;
    case AP_AVRO_ARRAY:
    case AP_AVRO_MAP:
        ap_buf_printf(out, "{\"type\":\"%s\",\"%s\":", type_names[node->type], node->type == AP_AVRO_ARRAY ? "items" : "values");
        canonical(node->kids[0], seen, seen_count, out);
        ap_buf_append(out, "}", 1);
        return;
    default:
        ap_buf_printf(out, "\"%s\"", type_names[node->type]);
        return;
    }
}

void ap_avro_canonical(const struct ap_avro_doc *doc, struct ap_buf *out)
{
    const struct ap_avro **seen = allocate(doc->node_count, sizeof *seen);
    size_t seen_count = 0;
    canonical(doc->root, seen, &seen_count, out);
    free(seen);
}
