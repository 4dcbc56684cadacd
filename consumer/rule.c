/* Every position that anybody lists is asked of every region. Lists are sorted twice: by stream, and by lineage. A floor says
 * that its incarnation and all before it in the lineage are complete. */
#include "consumer/rule.h"
#include <stdlib.h>
#include <string.h>
#include "common/clock.h"

struct entry { const struct ap_position *p; uint64_t lineage, mark; }; /* mark: as far as it counts */
struct list { struct entry *by_stream, *by_lineage; size_t count; };

const char *ap_rule_why_name(enum ap_rule_why why)
{
    static const char *const names[AP_RULE_WHYS] = {"age", "unheard", "unsaid", "forever", "behind", "unsettled", "hole", "held", "dead_letter", "unsynced"};
    return names[why];
}

/* --- lists --- */

static int compare_place(const struct ap_position *a, const struct ap_position *b)
{
    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    return strcmp(a->topic, b->topic);
}

static int by_number(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int compare_stream(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = by_number(x->p->stream, y->p->stream);
    c = c ? c : compare_place(x->p, y->p);
    return c ? c : x->p->finished - y->p->finished;
}

static int compare_lineage(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = by_number(x->lineage, y->lineage);
    return c ? c : compare_place(x->p, y->p);
}

static uint64_t lineage_of(const struct ap_rule_view *view, const struct ap_position *p)
{
    uint64_t lineage = p->lineage ? p->lineage : view->lineage ? view->lineage(view->arg, p->stream) : 0;
    return lineage ? lineage : p->stream;
}

static void list_init(struct list *l, const struct ap_rule_view *view, const struct ap_rule_region *r)
{
    l->count = 0;
    l->by_stream = calloc(r->count + 1, sizeof *l->by_stream);
    l->by_lineage = calloc(r->count + 1, sizeof *l->by_lineage);
    if (!l->by_stream || !l->by_lineage)
        abort();
    for (size_t i = 0; i < r->count; i++) {
        const struct ap_position *p = &r->positions[i];
        uint64_t end = view->stream_end ? view->stream_end(view->arg, p->stream, p->topic, p->partition) : UINT64_MAX;
        if (p->partition % view->workers == view->worker && end > 0)
            l->by_stream[l->count++] = (struct entry){p, lineage_of(view, p), p->mark < end ? p->mark : end};
    }
    memcpy(l->by_lineage, l->by_stream, l->count * sizeof *l->by_stream);
    qsort(l->by_stream, l->count, sizeof *l->by_stream, compare_stream);
    qsort(l->by_lineage, l->count, sizeof *l->by_lineage, compare_lineage);
}

static void list_fini(struct list *l)
{
    free(l->by_stream);
    free(l->by_lineage);
}

static const struct ap_position *find_live(const struct list *l, const struct ap_position *like)
{
    struct ap_position wanted = *like;
    wanted.finished = false;
    struct entry key = {&wanted, 0, 0};
    const struct entry *found = bsearch(&key, l->by_stream, l->count, sizeof *l->by_stream, compare_stream);
    return found ? found->p : NULL;
}

/* The entries of e's lineage at its place: first and how many. */
static const struct entry *find_lineage(const struct list *l, const struct entry *e, size_t *count)
{
    const struct entry *found = bsearch(e, l->by_lineage, l->count, sizeof *l->by_lineage, compare_lineage), *end = l->by_lineage + l->count;
    *count = 0;
    if (!found)
        return NULL;
    while (found > l->by_lineage && compare_lineage(found - 1, e) == 0)
        found--;
    while (found + *count < end && compare_lineage(found + *count, e) == 0)
        ++*count;
    return found;
}

static const struct ap_position *find_floor(const struct list *l, const struct entry *e)
{
    size_t count;
    const struct entry *at = find_lineage(l, e, &count);
    for (size_t i = 0; i < count; i++)
        if (at[i].p->finished)
            return at[i].p;
    return NULL;
}

/* --- what a region lacks of what another has --- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* No record of the stream is older than its start, but for how wrong its clock may be. */
static uint64_t start_of(const struct ap_rule_view *view, uint64_t stream)
{
    int64_t ms = ap_incarnation_start_ms(stream) - view->drift_ms;
    return ms > 0 ? ap_hlc_make(ms, 0) : 0;
}

/* Of a stream that lives there. */
static uint64_t applied_of_live(const struct ap_rule_view *view, const struct list *l, const struct entry *e)
{
    const struct ap_position *mine = find_live(l, e->p), *floor = find_floor(l, e);
    if (floor && floor->stream >= e->p->stream)
        return UINT64_MAX;
    if (mine)
        return mine->mark >= e->mark ? UINT64_MAX : mine->clock;
    return floor ? least(floor->clock, start_of(view, e->p->stream)) : start_of(view, e->p->stream);
}

/* Of a lineage that is complete there up to an incarnation. Here every one of them must be, too. */
static uint64_t applied_of_floor(const struct list *l, const struct entry *e)
{
    size_t count;
    const struct entry *at = find_lineage(l, e, &count);
    uint64_t applied = UINT64_MAX, floor_clock = 0;
    bool reached = false, has_floor = false, any = false;
    for (size_t i = 0; i < count; i++) {
        const struct ap_position *p = at[i].p;
        if (p->finished && p->stream >= e->p->stream)
            return UINT64_MAX;
        if (p->finished) {
            has_floor = true;
            floor_clock = p->clock;
        } else if (p->stream == e->p->stream && p->mark >= e->mark) {
            reached = true;
        } else if (p->stream <= e->p->stream) {
            applied = least(applied, p->clock); /* not seen to its end */
            any = true;
        }
    }
    if (reached)
        return applied;
    if (has_floor)
        applied = least(applied, floor_clock);
    return has_floor || any ? applied : 0; /* nothing of it was ever read */
}

static void lower(struct ap_rule_hold *hold, uint64_t floor, enum ap_rule_why why, const struct ap_position *at)
{
    if (floor >= hold->floor)
        return;
    hold->floor = floor;
    hold->why = why;
    hold->at = at ? *at : (struct ap_position){0};
}

static void ask_positions(const struct ap_rule_view *view, const struct list *lists, size_t region, struct ap_rule_hold *hold)
{
    for (size_t other = 0; other < view->count; other++) {
        if (other == region)
            continue;
        for (size_t i = 0; i < lists[other].count; i++) {
            const struct entry *e = &lists[other].by_stream[i];
            lower(hold, e->p->finished ? applied_of_floor(&lists[region], e) : applied_of_live(view, &lists[region], e), AP_RULE_BEHIND, e->p);
        }
    }
}

/* --- the whole --- */

static uint64_t age_floor(const struct ap_rule_view *view, struct ap_rule_verdict *out)
{
    int64_t longest = 0;
    for (size_t i = 0; i < view->count; i++) {
        const struct ap_rule_region *r = &view->regions[i];
        if (r->retired)
            continue;
        if (r->settled.retention_ms <= 0) {
            lower(&out->regions[i], 0, !r->heard ? AP_RULE_UNHEARD : r->settled.retention_ms < 0 ? AP_RULE_FOREVER : AP_RULE_UNSAID, NULL);
            longest = -1;
        } else if (longest >= 0 && r->settled.retention_ms > longest) {
            longest = r->settled.retention_ms;
        }
    }
    if (longest < 0 || __builtin_add_overflow(longest, view->margin_ms, &out->age_ms))
        out->age_ms = -1;
    return out->age_ms >= 0 && view->now_ms > out->age_ms ? ap_hlc_make(view->now_ms - out->age_ms, 0) : 0;
}

/* What one region holds up by itself and compared with the others. */
static void ask(const struct ap_rule_view *view, const struct list *lists, size_t i, struct ap_rule_hold *hold)
{
    const struct ap_rule_region *r = &view->regions[i];
    if (!r->heard)
        lower(hold, 0, AP_RULE_UNHEARD, NULL);
    lower(hold, r->settled.hlc, r->settled.hlc ? r->settled_why : AP_RULE_UNSAID, NULL);
    ask_positions(view, lists, i, hold);
}

void ap_rule_judge(const struct ap_rule_view *view, struct ap_rule_verdict *out)
{
    struct list lists[AP_CONSUMER_REGIONS_MAX];
    memset(out, 0, sizeof *out);
    memset(lists, 0, sizeof lists);
    for (size_t i = 0; i < view->count; i++) {
        out->regions[i].floor = UINT64_MAX;
        if (!view->regions[i].retired)
            list_init(&lists[i], view, &view->regions[i]);
    }
    uint64_t age = age_floor(view, out);
    out->floor = age;
    out->holder = view->count;
    for (size_t i = 0; i < view->count; i++) {
        struct ap_rule_hold *hold = &out->regions[i];
        if (!view->regions[i].retired)
            ask(view, lists, i, hold);
    }
    for (size_t i = 0; i < view->count; i++) {
        struct ap_rule_hold *hold = &out->regions[i];
        list_fini(&lists[i]);
        if (hold->floor < out->floor || (hold->floor == 0 && out->holder == view->count)) {
            out->floor = hold->floor;
            out->holder = i;
        }
        if (hold->floor > age || (hold->floor == age && age > 0))
            *hold = (struct ap_rule_hold){.floor = age, .why = AP_RULE_AGE};
    }
}
