/* Flow: state, digests, parts of the buckets that differ, rows of the parts that differ: candidates. Then the candidates
 * alone, again and again, until each has gone or stayed; what they mean is decided at each look anew.
 * The state is always asked before the rows: a side that said it had applied a write before it was asked for the row, and
 * has it not, lacks it. */
#include "ctl/compare.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/event.h"
#include "common/timeutil.h"

enum { LOOK_MS = 150, LOOK_IDS = 50000, TOMBSTONE = 2, DAMAGED = 4 };

const char *ap_difference_name(enum ap_difference_kind kind)
{
    static const char *const names[] = {"missing", "extra", "older", "bytes", "damaged", "lost", "undecided"};
    return names[kind];
}

static void pause_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

/* --- what has been applied --- */

static const struct ap_side_position *position_of(const struct ap_side *s, const struct ap_side_position *like)
{
    for (size_t i = 0; i < s->position_count; i++) {
        const struct ap_side_position *p = &s->positions[i];
        if (!p->finished && p->stream == like->stream && p->partition == like->partition && !strcmp(p->topic, like->topic))
            return p;
    }
    return NULL;
}

/* Streams that both have read to the same point hold nothing back, also when they have ended for good. */
static uint64_t low_clock_of(const struct ap_side *mine, const struct ap_side *theirs, uint64_t low)
{
    for (size_t i = 0; i < mine->position_count; i++) {
        const struct ap_side_position *p = &mine->positions[i];
        const struct ap_side_position *q = p->finished ? p : position_of(theirs, p);
        if (p->finished || (q && q->clock == p->clock))
            continue;
        uint64_t limit = q ? (p->clock < q->clock ? p->clock : q->clock) : (uint64_t)ap_incarnation_start_ms(p->stream) << 16;
        /* The other side may have seen it end: then only what is missing here counts. */
        for (size_t j = 0; !q && j < theirs->position_count; j++)
            if (theirs->positions[j].finished && theirs->positions[j].partition == p->partition &&
                theirs->positions[j].stream >= p->stream && !memcmp(&theirs->positions[j].region, &p->region, sizeof p->region))
                limit = p->clock;
        low = limit < low ? limit : low;
    }
    return low;
}

uint64_t ap_compare_low_clock(const struct ap_side sides[2])
{
    return low_clock_of(&sides[1], &sides[0], low_clock_of(&sides[0], &sides[1], UINT64_MAX));
}

static int32_t partitions(const struct ap_side sides[2])
{
    int32_t most = 0;
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; i < sides[side].position_count; i++)
            if (sides[side].positions[i].partition >= most)
                most = sides[side].positions[i].partition + 1;
    return most ? most : 1;
}

/* Has this side applied what row's writer published up to row's version? */
static bool has_applied(const struct ap_side *s, const struct ap_side_row *row, int32_t partition_count)
{
    struct ap_key key;
    ap_key_make(s->collection, &row->id, &key);
    int32_t partition = ap_key_partition(&key, partition_count);
    for (size_t i = 0; i < s->position_count; i++) {
        const struct ap_side_position *p = &s->positions[i];
        if (p->partition != partition)
            continue;
        if (!p->finished && p->stream == row->writer && p->clock >= row->hlc)
            return true;
        if (p->finished && p->stream >= row->writer && !memcmp(&p->region, &row->region, sizeof p->region) && p->clock >= row->hlc)
            return true;
    }
    return false;
}

/* --- what a difference means --- */

struct judge { const struct ap_side *sides; const struct ap_compare_options *o; uint64_t low; int32_t partitions; struct ap_comparison *c; };

static int compare_versions(const struct ap_side_row *a, const struct ap_side_row *b)
{
    struct ap_version x = {a->hlc, a->region, a->writer}, y = {b->hlc, b->region, b->writer};
    return ap_version_compare(&x, &y);
}

/* Only side `has` has the row. False: no difference. */
static bool judge_absent(const struct judge *j, struct ap_difference *d, int has)
{
    const struct ap_side_row *row = &d->rows[has];
    const struct ap_side *lacks = &j->sides[!has];
    if (row->flags & DAMAGED) {
        j->c->leftovers++;
        return false;
    }
    d->kind = AP_DIFF_MISSING;
    d->side = !has;
    d->settled = row->hlc <= j->low || has_applied(lacks, row, j->partitions);
    if (row->hlc > lacks->horizon)
        return true; /* had it been deleted, there would be a tombstone */
    if (row->flags & TOMBSTONE) {
        j->c->collected++;
        return false;
    }
    const char *decides = row->region.name;
    if (j->o->prefer)
        decides = j->o->prefer;
    if (!strcmp(decides, j->sides[has].region))
        return true;
    d->kind = !strcmp(decides, lacks->region) ? AP_DIFF_EXTRA : AP_DIFF_UNDECIDED;
    d->side = has;
    return true;
}

static bool judge_both(const struct judge *j, struct ap_difference *d)
{
    bool bad[2] = {d->rows[0].flags & DAMAGED, d->rows[1].flags & DAMAGED};
    d->settled = true;
    if (bad[0] || bad[1]) {
        d->kind = bad[0] && bad[1] ? AP_DIFF_LOST : AP_DIFF_DAMAGED;
        d->side = bad[0] ? 0 : 1;
        return true;
    }
    if (d->rows[0].checksum == d->rows[1].checksum)
        return false;
    int order = compare_versions(&d->rows[0], &d->rows[1]);
    const struct ap_side_row *newer = &d->rows[order < 0];
    d->kind = order ? AP_DIFF_OLDER : AP_DIFF_BYTES;
    d->side = order > 0 ? 1 : 0;
    d->settled = newer->hlc <= j->low;
    if (order && !d->settled)
        d->settled = has_applied(&j->sides[d->side], newer, j->partitions);
    return true;
}

static bool judge_one(const struct judge *j, struct ap_difference *d)
{
    if (!d->there[0] && !d->there[1])
        return false;
    return d->there[0] && d->there[1] ? judge_both(j, d) : judge_absent(j, d, d->there[1]);
}

static void judge_all(const struct ap_side sides[2], const struct ap_compare_options *o, struct ap_comparison *c)
{
    struct judge j = {sides, o, ap_compare_low_clock(sides), partitions(sides), c};
    c->found = c->under_way = c->collected = c->leftovers = 0;
    for (size_t i = 0; i < c->count; i++) {
        struct ap_difference *d = &c->list[i];
        d->dropped = d->dropped || !judge_one(&j, d);
        d->settled |= o->all;
        c->found += !d->dropped && d->settled;
        c->under_way += !d->dropped && !d->settled;
    }
}

/* --- from sums to rows --- */

static void add(struct ap_comparison *c, const struct ap_side_row *a, const struct ap_side_row *b)
{
    if (a && b && a->checksum == b->checksum && !((a->flags | b->flags) & DAMAGED))
        return;
    if (!(c->count & (c->count + 1))) { /* full at 2^n - 1 */
        c->list = reallocarray(c->list, (c->count + 1) * 2, sizeof *c->list);
        if (!c->list)
            abort();
    }
    struct ap_difference *d = &c->list[c->count++];
    *d = (struct ap_difference){.id = a ? a->id : b->id, .there = {a != NULL, b != NULL}};
    if (a)
        d->rows[0] = *a;
    if (b)
        d->rows[1] = *b;
}

static void merge_lists(const struct ap_side sides[2], struct ap_comparison *c)
{
    for (size_t i = 0, j = 0; i < sides[0].listed || j < sides[1].listed;) {
        const struct ap_side_row *a = i < sides[0].listed ? &sides[0].list[i] : NULL, *b = j < sides[1].listed ? &sides[1].list[j] : NULL;
        int order = !a ? 1 : !b ? -1 : memcmp(&a->id, &b->id, sizeof a->id);
        add(c, order <= 0 ? a : NULL, order >= 0 ? b : NULL);
        i += order <= 0;
        j += order >= 0;
    }
}

static int descend(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, bool scrub, const struct ap_buf *buckets, struct ap_comparison *c, struct ap_err *err)
{
    uint64_t *sums[2] = {0};
    struct ap_buf parts = {0};
    int rc = ap_sides_split(f, sides, collection, scrub, buckets, sums, err);
    for (size_t i = 0; rc == 0 && i < buckets->len / 2 * AP_VERIFY_PARTS; i++) {
        uint8_t bytes[4];
        ap_put_le32(bytes, (uint32_t)(ap_le16(buckets->data + i / AP_VERIFY_PARTS * 2) * AP_VERIFY_PARTS + i % AP_VERIFY_PARTS));
        if (sums[0][i] != sums[1][i])
            ap_buf_append(&parts, bytes, sizeof bytes);
    }
    if (rc == 0 && parts.len && (rc = ap_sides_list(f, sides, collection, "rows", scrub, &parts, err)) == 0)
        merge_lists(sides, c);
    ap_buf_free(&parts);
    free(sums[0]);
    free(sums[1]);
    return rc;
}

static void differing(struct ap_digest digests[2][AP_DIGEST_BUCKETS], struct ap_buf *buckets)
{
    for (uint32_t i = 0; i < AP_DIGEST_BUCKETS; i++) {
        uint8_t bytes[2];
        ap_put_le16(bytes, (uint16_t)i);
        if (memcmp(&digests[0][i], &digests[1][i], sizeof digests[0][i]) != 0)
            ap_buf_append(buckets, bytes, sizeof bytes);
    }
}

/* Buckets that still have the very sums that they had before, while none of their rows differs: the sums are wrong. */
static int count_wrong_digests(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, struct ap_digest before[2][AP_DIGEST_BUCKETS],
                               const struct ap_buf *buckets, struct ap_comparison *c, struct ap_err *err)
{
    struct ap_digest (*now)[AP_DIGEST_BUCKETS] = calloc(2, sizeof *now);
    bool *explained = calloc(AP_DIGEST_BUCKETS, sizeof *explained);
    if (!now || !explained)
        abort();
    for (size_t i = 0; i < c->count; i++) { /* also by what was only under way, or collected */
        struct ap_key key;
        ap_key_make(0, &c->list[i].id, &key);
        explained[ap_digest_bucket(&key)] = true;
    }
    int rc = ap_sides_digests(f, sides, collection, false, now, err);
    for (size_t i = 0; rc == 0 && i < buckets->len; i += 2) {
        uint16_t b = ap_le16(buckets->data + i);
        c->buckets += !explained[b] && !memcmp(&now[0][b], &before[0][b], sizeof now[0][b]) && !memcmp(&now[1][b], &before[1][b], sizeof now[1][b]);
    }
    free(now);
    free(explained);
    return rc;
}

/* --- looking again --- */

/* What both sides have now of the ids that differences from..to name. */
static int look(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, bool scrub, const struct ap_buf *ids, struct ap_comparison *c, size_t from, size_t to, struct ap_err *err)
{
    int rc = ids->len ? ap_sides_list(f, sides, collection, "look", scrub, ids, err) : 0;
    for (size_t i = from; rc == 0 && i < to; i++)
        for (int side = 0; side < 2 && !c->list[i].dropped; side++) {
            const struct ap_side_row *row = ap_side_find(&sides[side], &c->list[i].id);
            if ((c->list[i].there[side] = row != NULL))
                c->list[i].rows[side] = *row;
        }
    return rc;
}

int ap_compare_again(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *c, struct ap_err *err)
{
    struct ap_buf ids = {0};
    size_t from = 0;
    int rc = ap_sides_state(f, sides, collection, err);
    for (size_t i = 0; rc == 0 && i < c->count; i++) {
        if (!c->list[i].dropped)
            ap_buf_append(&ids, c->list[i].id.b, sizeof c->list[i].id.b);
        if (ids.len < LOOK_IDS * sizeof c->list[i].id.b && i + 1 < c->count)
            continue;
        rc = look(f, sides, collection, o->scrub, &ids, c, from, i + 1, err);
        ap_buf_clear(&ids);
        from = i + 1;
    }
    if (rc == 0)
        judge_all(sides, o, c);
    ap_buf_free(&ids);
    return rc;
}

/* Twice at least, and until nothing is under way any more or time is up. */
static int settle(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *c, struct ap_err *err)
{
    int64_t until = ap_mono_ms() + o->settle_ms;
    int rc = 0;
    judge_all(sides, o, c);
    if (!c->found && !c->under_way)
        return 0;
    do {
        pause_ms(LOOK_MS);
        rc = ap_compare_again(f, sides, collection, o, c, err);
    } while (rc == 0 && c->under_way && ap_mono_ms() < until);
    return rc;
}

/* --- the whole --- */

static int compare_rows(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *c, struct ap_err *err)
{
    struct ap_digest (*digests)[AP_DIGEST_BUCKETS] = calloc(2, sizeof *digests);
    struct ap_buf buckets = {0};
    if (!digests)
        abort();
    int rc = 0;
    if (o->scrub)
        rc = ap_sides_scrub(f, sides, (bool[]){true, true}, collection, false, err);
    if (rc == 0)
        rc = ap_sides_digests(f, sides, collection, o->scrub, digests, err);
    if (rc == 0)
        differing(digests, &buckets);
    if (rc == 0 && buckets.len)
        rc = descend(f, sides, collection, o->scrub, &buckets, c, err);
    if (rc == 0)
        rc = settle(f, sides, collection, o, c, err);
    if (rc == 0 && !o->scrub && buckets.len)
        rc = count_wrong_digests(f, sides, collection, digests, &buckets, c, err);
    ap_buf_free(&buckets);
    free(digests);
    return rc;
}

int ap_compare(struct ap_fetcher *f, struct ap_side sides[2], const char *collection, const struct ap_compare_options *o, struct ap_comparison *out, struct ap_err *err)
{
    *out = (struct ap_comparison){0};
    int rc = ap_sides_state(f, sides, collection, err);
    if (rc == 0 && sides[0].collection != sides[1].collection)
        out->other_generation = true;
    else if (rc == 0)
        rc = compare_rows(f, sides, collection, o, out, err);
    return rc;
}

void ap_comparison_fini(struct ap_comparison *c)
{
    free(c->list);
    *c = (struct ap_comparison){0};
}
