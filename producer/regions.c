/* Questions go to the catalog; answers that change something are control records, published like any other. */
#include "producer/regions.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/retired.h"
#include "common/timeutil.h"

#define YOUNG_MS 5000

const struct ap_region *ap_regions_at(const struct ap_producer *p, size_t i)
{
    return i == 0 ? &p->config->region : &p->config->others[i - 1];
}

static enum ap_region_state state_of(const struct ap_catalog *catalog, const struct ap_region *region, uint64_t *incarnation)
{
    const struct ap_region_info *info = ap_catalog_region(catalog, region);
    if (incarnation)
        *incarnation = info ? info->region_incarnation : 0;
    if (ap_catalog_region_is_retired(catalog, region))
        return AP_REGION_RETIRED;
    return info ? info->state : AP_REGION_ACTIVE;
}

enum ap_region_state ap_regions_state(struct ap_producer *p, size_t i, uint64_t *incarnation)
{
    enum ap_region_state state = state_of(ap_control_log_lock(&p->control), ap_regions_at(p, i), incarnation);
    ap_control_log_unlock(&p->control);
    return state;
}

/* ---- may it? ---- */

/* Names of the other regions that take writes, as far as is known here. */
static void name_writable(struct ap_producer *p, struct ap_buf *out)
{
    uint64_t incarnation;
    for (size_t i = 1; i <= p->config->other_count; i++)
        if (ap_regions_state(p, i, &incarnation) == AP_REGION_ACTIVE && incarnation)
            ap_buf_printf(out, "%s%s", out->len ? ", or in " : ": write in ", ap_regions_at(p, i)->name);
    if (!out->len)
        ap_buf_printf(out, ", and no other region is known that takes writes");
    ap_buf_append(out, "", 1);
}

static int refuse(struct ap_producer *p, const char *what, struct ap_err *err)
{
    struct ap_buf where = {0};
    name_writable(p, &where);
    int rc = ap_err_set(err, AP_ECONFLICT, AP_RETRY, "region %s is %s; nothing was written%s", p->config->region.name, what, (char *)where.data);
    ap_buf_free(&where);
    return rc;
}

int ap_regions_may_write(struct ap_producer *p, struct ap_err *err)
{
    enum ap_region_state state = ap_regions_state(p, 0, NULL);
    if (state == AP_REGION_ACTIVE)
        return 0;
    return refuse(p, ap_region_state_name(state), err);
}

int ap_regions_may_stamp(struct ap_producer *p, struct ap_err *err)
{
    return ap_regions_state(p, 0, NULL) == AP_REGION_RETIRED ? refuse(p, "retired", err) : 0;
}

void ap_regions_refresh(struct ap_producer *p)
{
    uint64_t version = atomic_load(&p->control.version);
    if (atomic_exchange(&p->regions_seen, version) == version)
        return;
    atomic_store(&p->lanes.closed, ap_regions_state(p, 0, NULL) != AP_REGION_ACTIVE);
    for (size_t i = 1; i <= p->config->other_count; i++)
        ap_watch_retire(&p->watch, i, ap_regions_state(p, i, NULL) == AP_REGION_RETIRED);
}

/* ---- saying it ---- */

int ap_regions_set(struct ap_producer *p, enum ap_region_state state, int64_t deadline_ns, struct ap_err *err)
{
    uint64_t incarnation;
    enum ap_region_state now = ap_regions_state(p, 0, &incarnation);
    if (now == AP_REGION_RETIRED)
        return refuse(p, "retired; it comes back by a rebuild, under a new incarnation", err);
    if (now == state)
        return 0;
    struct ap_control c = {.kind = AP_CONTROL_REGION};
    c.u.region = (struct ap_control_region){incarnation, state};
    int rc = ap_control_log_publish(&p->control, &c, 1, deadline_ns, err);
    ap_regions_refresh(p);
    if (rc == 0)
        ap_warn("region %s is %s from now on, as it was asked to", p->config->region.name, ap_region_state_name(state));
    return rc;
}

static size_t find_region(const struct ap_producer *p, const struct ap_region *region)
{
    size_t i = 0;
    while (i <= p->config->other_count && memcmp(ap_regions_at(p, i), region, sizeof *region) != 0)
        i++;
    return i;
}

/* Which incarnation there is to retire. */
static int choose(struct ap_producer *p, size_t i, uint64_t *incarnation, bool *already, struct ap_err *err)
{
    uint64_t known;
    const char *name = ap_regions_at(p, i)->name;
    bool retired = ap_regions_state(p, i, &known) == AP_REGION_RETIRED;
    *already = retired && (*incarnation == 0 || *incarnation == known || known == 0);
    if (*already)
        return 0;
    if (known == 0)
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "region %s has never been heard of here: there is nothing to retire", name);
    if (*incarnation && *incarnation != known)
        return ap_err_set(err, AP_ECONFLICT, AP_POISON, "region %s is of incarnation %016" PRIx64 " now, not %016" PRIx64 ": look again", name, known, *incarnation);
    *incarnation = known;
    return 0;
}

struct cut { struct ap_position *list; size_t count, cap; };

static void add_position(struct cut *cut, const struct ap_position *from)
{
    for (size_t i = 0; i < cut->count; i++) {
        struct ap_position *have = &cut->list[i];
        if (have->stream == from->stream && have->finished == from->finished && have->partition == from->partition && strcmp(have->topic, from->topic) == 0) {
            have->mark = have->mark > from->mark ? have->mark : from->mark;
            return;
        }
    }
    if (cut->count == cut->cap) {
        cut->cap = cut->cap ? cut->cap * 2 : 64;
        cut->list = reallocarray(cut->list, cut->cap, sizeof *cut->list);
        if (!cut->list)
            abort();
    }
    cut->list[cut->count++] = *from;
}

/* What region i has made visible of that incarnation's streams. */
static void add_region(struct ap_producer *p, size_t i, const struct ap_region *region, uint64_t incarnation, struct cut *cut)
{
    struct ap_watermark mark;
    if (!ap_watch_copy(&p->watch, i, &mark))
        return;
    const struct ap_catalog *catalog = ap_control_log_lock(&p->control);
    for (size_t k = 0; k < mark.count; k++) {
        const struct ap_incarnation_info *info = ap_catalog_incarnation(catalog, mark.positions[k].stream);
        if (info && memcmp(&info->region, region, sizeof *region) == 0 && info->region_incarnation == incarnation)
            add_position(cut, &mark.positions[k]);
    }
    ap_control_log_unlock(&p->control);
    ap_watermark_fini(&mark);
}

static int make_cut(struct ap_producer *p, size_t target, uint64_t incarnation, bool force, struct cut *cut, struct ap_err *err)
{
    for (size_t i = 0; i <= p->config->other_count; i++) {
        if (i == target || ap_regions_state(p, i, NULL) == AP_REGION_RETIRED)
            continue;
        int64_t age = ap_watch_age_ms(&p->watch, i);
        if (!force && (age < 0 || age > YOUNG_MS))
            return ap_err_set(err, AP_ECONFLICT, AP_RETRY, "what region %s has applied is not known here (%s): it would not count. Wait until it is heard of again, retire it "
                              "too, or force", ap_regions_at(p, i)->name, age < 0 ? "no watermark has come" : "its last watermark is over 5 s old");
        add_region(p, i, ap_regions_at(p, target), incarnation, cut);
    }
    return 0;
}

int ap_regions_retire(struct ap_producer *p, const struct ap_region *region, uint64_t incarnation, bool force, int64_t deadline_ns, size_t *count, struct ap_err *err)
{
    size_t i = find_region(p, region);
    struct cut cut = {0};
    bool already = false;
    if (i > p->config->other_count)
        return ap_err_set(err, AP_ENOTFOUND, AP_POISON, "region %s is none of those this producer knows (the key regions)", region->name);
    int rc = choose(p, i, &incarnation, &already, err);
    if (rc == 0 && !already)
        rc = make_cut(p, i, incarnation, force, &cut, err);
    if (rc == 0 && !already) {
        struct ap_control c = {.kind = AP_CONTROL_RETIREMENT};
        c.u.retirement = (struct ap_control_retirement){*region, incarnation, cut.list, cut.count};
        rc = ap_control_log_publish(&p->control, &c, 1, deadline_ns, err);
    }
    if (rc == 0 && !already)
        ap_warn("incarnation %016" PRIx64 " of region %s is retired, as it was asked to; %zu positions of its streams count", incarnation, region->name, cut.count);
    ap_regions_refresh(p);
    if (count)
        *count = cut.count;
    free(cut.list);
    return rc;
}

int ap_regions_lose(struct ap_producer *p, const struct ap_control_loss *losses, size_t count, int64_t deadline_ns, struct ap_err *err)
{
    struct ap_control *records = calloc(count + 1, sizeof *records);
    if (!records)
        abort();
    for (size_t i = 0; i < count; i++) {
        records[i].kind = AP_CONTROL_LOSS;
        records[i].u.loss = losses[i];
        ap_warn("%" PRIu64 " records of %s (stream %016" PRIx64 ", %s[%d] from %" PRIu64 ") are waited for no longer: %s", losses[i].last - losses[i].first + 1,
                losses[i].origin.name, losses[i].stream, losses[i].topic, (int)losses[i].partition, losses[i].first,
                losses[i].proven ? "the regions were found equal without them" : "accepted as lost");
    }
    int rc = count ? ap_control_log_publish(&p->control, records, count, deadline_ns, err) : 0;
    free(records);
    return rc;
}
