/* Two lists separated by commas, taken apart and compared. Fails only on what they say. */
#include "indexer/peers.h"
#include <stdio.h>

/* The next item of a list, without its blanks; false at its end. */
static bool next_item(const char **at, const char **item, size_t *len)
{
    while (**at) {
        const char *start = *at + strspn(*at, " \t"), *end = start + strcspn(start, ",");
        *at = end + (*end == ',');
        *item = start;
        *len = (size_t)(end - start);
        while (*len && (start[*len - 1] == ' ' || start[*len - 1] == '\t'))
            --*len;
        if (*len)
            return true;
    }
    return false;
}

static int find(const struct ap_peers *p, const struct ap_region *region)
{
    for (size_t i = 0; i < p->count; i++)
        if (!memcmp(&p->list[i].region, region, sizeof *region))
            return (int)i;
    return -1;
}

static int add_region(struct ap_peers *p, const char *text, size_t len, struct ap_err *err)
{
    struct ap_region region;
    if (ap_region_parse(text, len, &region, err))
        return ap_err_wrap(err, "regions");
    if (find(p, &region) >= 0)
        return 0;
    if (p->count == AP_PEERS_MAX)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "regions: more than %d", AP_PEERS_MAX);
    p->list[p->count++].region = region;
    return 0;
}

static int add_url(struct ap_peers *p, const char *key, const char *text, size_t len, struct ap_err *err)
{
    struct ap_region region;
    size_t name = strcspn(text, "=");
    if (name >= len)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: \"%.*s\" is not like us=http://host:port", key, (int)(len < 80 ? len : 80), text);
    const char *url = text + name + 1;
    size_t url_len = len - name - 1;
    if (ap_region_parse(text, name, &region, err))
        return ap_err_wrap(err, "%s", key);
    int at = find(p, &region);
    if (at < 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s is not among regions", key, region.name);
    if (at > 0 && *p->list[at].url)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s is there twice", key, region.name);
    if (url_len >= sizeof p->list[at].url || (strncmp(url, "http://", 7) && strncmp(url, "https://", 8)) ||
        memchr(url, ' ', url_len) || memchr(url, '?', url_len) || url[url_len - 1] == '/')
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: the address of %s is not like http://host:port (no path, no slash at its end)", key, region.name);
    snprintf(p->list[at].url, sizeof p->list[at].url, "%.*s", (int)url_len, url);
    return 0;
}

int ap_peers_parse(struct ap_peers *out, const struct ap_region *own, const char *regions, const char *peers, const char *producer_url, struct ap_err *err)
{
    const char *item;
    size_t len;
    bool given = false;
    int rc = 0;
    *out = (struct ap_peers){.count = 1, .complete = true};
    out->list[0].region = *own;
    snprintf(out->list[0].url, sizeof out->list[0].url, "%s", producer_url);
    while (rc == 0 && next_item(&regions, &item, &len))
        rc = add_region(out, item, len, err);
    while (rc == 0 && next_item(&peers, &item, &len)) {
        rc = add_url(out, "peers", item, len, err);
        given = true;
    }
    for (size_t i = 1; rc == 0 && i < out->count; i++)
        if (!*out->list[i].url) {
            out->complete = false;
            if (given)
                rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "peers: region %s is missing: a read that asks all regions could never be answered", out->list[i].region.name);
        }
    return rc;
}

int ap_peers_parse_some(struct ap_peers *out, const struct ap_region *own, const char *regions, const char *key, const char *text, struct ap_err *err)
{
    const char *item;
    size_t len;
    int rc = 0;
    *out = (struct ap_peers){.count = 1};
    out->list[0].region = *own;
    while (rc == 0 && next_item(&regions, &item, &len))
        rc = add_region(out, item, len, err);
    while (rc == 0 && next_item(&text, &item, &len))
        rc = add_url(out, key, item, len, err);
    if (rc == 0 && *out->list[0].url)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s is this region itself", key, own->name);
    return rc;
}
