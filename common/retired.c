/* Two sorted arrays: retirements by region, incarnation and who said it; losses by who said it and where. The same thing said
 * by several counts as what all of them said together. */
#include "common/retired.h"
#include <stdlib.h>
#include <string.h>

struct retirement {
    struct ap_region region;
    uint64_t region_incarnation;
    struct ap_version said;
    struct ap_position *cut;
    size_t count;
};
struct loss { struct ap_control_loss public; struct ap_version said; };

static int by_number(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int by_region(const struct ap_region *a, const struct ap_region *b)
{
    return memcmp(a->name, b->name, sizeof a->name);
}

static int cmp_retirement(const void *wanted, const void *item)
{
    const struct retirement *a = wanted, *b = item;
    int order = by_region(&a->region, &b->region);
    order = order ? order : by_number(a->region_incarnation, b->region_incarnation);
    return order ? order : by_region(&a->said.region, &b->said.region);
}

static int cmp_loss(const void *wanted, const void *item)
{
    const struct loss *a = wanted, *b = item;
    int order = by_region(&a->said.region, &b->said.region);
    order = order ? order : by_number(a->public.stream, b->public.stream);
    order = order ? order : strcmp(a->public.topic, b->public.topic);
    order = order ? order : by_number((uint64_t)a->public.partition, (uint64_t)b->public.partition);
    return order ? order : by_number(a->public.first, b->public.first);
}

static void *slot(struct ap_sorted *s, ap_sorted_compare compare, const void *wanted, size_t size, bool *new)
{
    size_t at;
    *new = !ap_sorted_search(s, compare, wanted, &at);
    if (!*new)
        return s->items[at];
    void *made = calloc(1, size);
    if (!made)
        abort();
    ap_sorted_insert(s, at, made);
    return made;
}

int ap_retired_apply(struct ap_retired *r, struct ap_control *c)
{
    bool new;
    if (c->kind == AP_CONTROL_LOSS) {
        struct loss wanted = {c->u.loss, c->version}, *l = slot(&r->losses, cmp_loss, &wanted, sizeof *l, &new);
        if (!new && ap_version_compare(&c->version, &l->said) <= 0)
            return 0;
        *l = wanted;
        return 1;
    }
    struct ap_control_retirement *said = &c->u.retirement;
    struct retirement wanted = {said->region, said->region_incarnation, c->version, said->cut, said->count};
    struct retirement *t = slot(&r->retirements, cmp_retirement, &wanted, sizeof *t, &new);
    if (!new && ap_version_compare(&c->version, &t->said) <= 0)
        return 0;
    free(t->cut);
    *t = wanted;
    said->cut = NULL;
    said->count = 0;
    return 1;
}

static void free_retirement(void *item)
{
    free(((struct retirement *)item)->cut);
    free(item);
}

void ap_retired_free(struct ap_retired *r)
{
    ap_sorted_free(&r->retirements, free_retirement);
    ap_sorted_free(&r->losses, free);
}

/* ---- regions ---- */

/* The first retirement of this region and incarnation; NULL: none. incarnation 0: of any. */
static const struct retirement *first_of(const struct ap_catalog *c, const struct ap_region *region, uint64_t incarnation, size_t *at)
{
    const struct ap_sorted *all = &ap_catalog_retired(c)->retirements;
    struct retirement wanted = {.region = *region, .region_incarnation = incarnation};
    ap_sorted_search(all, cmp_retirement, &wanted, at); /* no region is named "", so this is before all of them */
    if (*at == all->count)
        return NULL;
    const struct retirement *t = all->items[*at];
    return by_region(&t->region, region) == 0 && (incarnation == 0 || t->region_incarnation == incarnation) ? t : NULL;
}

bool ap_catalog_is_retired(const struct ap_catalog *c, const struct ap_region *region, uint64_t region_incarnation, struct ap_region *by)
{
    size_t at;
    const struct retirement *t = region_incarnation ? first_of(c, region, region_incarnation, &at) : NULL;
    const struct ap_region_info *info = ap_catalog_region(c, region);
    bool itself = info && info->state == AP_REGION_RETIRED && info->region_incarnation == region_incarnation;
    if (by && (t || itself))
        *by = t ? t->said.region : *region;
    return t || itself;
}

bool ap_catalog_region_is_retired(const struct ap_catalog *c, const struct ap_region *region)
{
    size_t at;
    const struct ap_region_info *info = ap_catalog_region(c, region);
    return info ? ap_catalog_is_retired(c, region, info->region_incarnation, NULL) : first_of(c, region, 0, &at) != NULL;
}

/* ---- streams ---- */

bool ap_catalog_stream_is_retired(const struct ap_catalog *c, uint64_t stream)
{
    const struct ap_incarnation_info *info = ap_catalog_incarnation(c, stream);
    return info && ap_catalog_is_retired(c, &info->region, info->region_incarnation, NULL);
}

static uint64_t end_of(const struct ap_position *p, uint64_t stream, uint64_t lineage, const char *topic, int32_t partition)
{
    if (p->partition != partition || strcmp(p->topic, topic) != 0)
        return 0;
    if (p->stream == stream)
        return p->mark;
    return p->finished && lineage != 0 && p->lineage == lineage && p->stream > stream ? UINT64_MAX : 0;
}

uint64_t ap_catalog_stream_end(const struct ap_catalog *c, uint64_t stream, const char *topic, int32_t partition)
{
    const struct ap_incarnation_info *info = ap_catalog_incarnation(c, stream);
    const struct ap_sorted *all = &ap_catalog_retired(c)->retirements;
    uint64_t end = 0;
    size_t at;
    if (!info || !first_of(c, &info->region, info->region_incarnation, &at))
        return 0;
    for (; at < all->count; at++) {
        const struct retirement *t = all->items[at];
        if (by_region(&t->region, &info->region) || t->region_incarnation != info->region_incarnation)
            break;
        for (size_t i = 0; i < t->count; i++) {
            uint64_t one = end_of(&t->cut[i], stream, info->lineage, topic, partition);
            end = one > end ? one : end;
        }
    }
    return end;
}

void ap_catalog_cuts(const struct ap_catalog *c, void (*fn)(void *arg, const struct ap_position *cut), void *arg)
{
    const struct ap_sorted *all = &ap_catalog_retired(c)->retirements;
    for (size_t i = 0; i < all->count; i++) {
        const struct retirement *t = all->items[i];
        for (size_t k = 0; k < t->count; k++)
            fn(arg, &t->cut[k]);
    }
}

void ap_catalog_losses(const struct ap_catalog *c, const struct ap_region *said_by, void (*fn)(void *arg, const struct ap_control_loss *loss), void *arg)
{
    const struct ap_sorted *all = &ap_catalog_retired(c)->losses;
    for (size_t i = 0; i < all->count; i++) {
        const struct loss *l = all->items[i];
        if (by_region(&l->said.region, said_by) == 0)
            fn(arg, &l->public);
    }
}

/* ---- tokens ---- */

int ap_catalog_check_token(const struct ap_catalog *c, const struct ap_token *token, struct ap_err *err)
{
    const struct ap_incarnation_info *info = ap_catalog_incarnation(c, token->stream);
    struct ap_region by = token->region;
    if (info && by_region(&info->region, &token->region) != 0)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "token: it says region %s, and stream %016llx is one of %s", token->region.name,
                          (unsigned long long)token->stream, info->region.name);
    bool over = info ? ap_catalog_is_retired(c, &info->region, info->region_incarnation, &by) : ap_catalog_region_is_retired(c, &token->region);
    if (!over)
        return 0;
    return ap_err_set(err, AP_ECONFLICT, AP_POISON, "token: region %s is no more%s%s: what it had not passed on by then is lost, so nobody can say "
                      "whether this write is here; read without the token", token->region.name,
                      info ? ", retired by " : "", info ? by.name : "");
}
