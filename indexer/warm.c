/* Before the indexer says that it is ready: what a first query would find cold.
 *
 * Segments become warm or cold (tier.h), and each collection is searched for vectors of its own, the searches going round until they
 * take no less time than before: code, threads' memory, tables of codecs, rows and raw vectors in the store. Bounded in time, since being ready
 * matters more; what fails here is no error, and the first query that meets it will say so. */
#include <stdlib.h>
#include "common/timeutil.h"
#include "indexer/index_impl.h"
#include "indexer/tier.h"

enum { ROUND = 16, ROUNDS_MAX = 32, LIMIT = 10 };
#define COLLECTION_NS 200000000
#define ALL_NS 500000000

static void settle_tiers(struct ap_index *index)
{
    pthread_mutex_lock(&index->apply_lock);
    for (size_t i = 0; i < index->coll_count; i++) {
        struct ap_coll *coll = index->colls[i];
        bool cold = coll->definition && ap_tier_is_named(index->options.cold, coll->definition->c.params.name);
        for (size_t j = 0; j < coll->count; j++)
            ap_tier_set(coll->segments[j], cold, index->dir_fd);
    }
    pthread_mutex_unlock(&index->apply_lock);
}

/* A slot by chance: of a segment by chance. 0: none. */
static uint64_t some_slot(const struct ap_state_coll *c, uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407); /* Knuth's */
    const struct ap_segment *s = c->segments[(*seed >> 33) % c->count];
    uint32_t n = atomic_load(&s->count);
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return n ? ap_segment_slot(s, (uint32_t)((*seed >> 33) % n)) : 0;
}

static bool search_one(struct ap_view *view, const struct ap_collection_view *c, uint64_t slot, float *vector)
{
    struct ap_row row;
    struct ap_hit hits[LIMIT];
    size_t count;
    bool raw;
    struct ap_err ignored;
    if (slot == 0 || ap_view_row(view, slot, &row, &ignored) != 0 || ap_view_vector(view, c, slot, &row, vector, &raw, &ignored) != 0)
        return false;
    const struct ap_search q = {.vector = vector, .limit = LIMIT};
    return ap_view_search(view, c, &q, hits, &count, &ignored) == 0;
}

static void warm_collection(struct ap_view *view, const char *name)
{
    struct ap_collection_view c;
    struct ap_err ignored;
    uint64_t seed = 1;
    int64_t until = ap_mono_ns() + COLLECTION_NS, best = INT64_MAX;
    if (ap_view_collection(view, name, &c, &ignored) != 0 || c.unready || c.points == 0)
        return;
    const struct ap_state_coll *sc = ap_state_find(ap_view_state(view), c.collection->id);
    float *vector = malloc(c.collection->params.dim * sizeof *vector);
    for (int round = 0; vector && sc && sc->count > 0 && round < ROUNDS_MAX; round++) {
        int64_t start = ap_mono_ns();
        for (int i = 0; i < ROUND && ap_mono_ns() < until; i++)
            (void)search_one(view, &c, some_slot(sc, &seed), vector);
        int64_t took = ap_mono_ns() - start;
        if (ap_mono_ns() >= until || (round > 0 && took * 10 > best * 9))
            break;
        best = took < best ? took : best;
    }
    free(vector);
}

void ap_index_warm(struct ap_index *index)
{
    enum { MOST = 64 };
    const struct ap_collection *list[MOST];
    struct ap_view *view;
    struct ap_err ignored;
    int64_t until = ap_mono_ns() + ALL_NS;
    settle_tiers(index);
    if (!index->options.warm_up || ap_view_begin(index, &view, &ignored) != 0)
        return;
    size_t n = ap_view_collections(view, list, MOST);
    for (size_t i = 0; i < (n < MOST ? n : MOST) && ap_mono_ns() < until && !atomic_load(&index->closing); i++)
        warm_collection(view, list[i]->params.name);
    ap_view_end(&view);
}
