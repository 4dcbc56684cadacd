/* See ivf8.h. Choosing lists: all centroids are scored, and a quickselect finds the score that `probes` of them reach. */
#include "indexer/ivf8.h"

#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "images are used where they lie, as little-endian");

#define BEST 6

static size_t part(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

void ap_ivf8_map(struct ap_ivf8 *v, void *image, uint32_t dim, uint32_t lists, uint32_t count, bool small)
{
    size_t stride = ap_q8_stride(dim), words = ap_sketch_words(dim);
    uint8_t *p = image;
    *v = (struct ap_ivf8){.dim = dim, .lists = lists, .count = count, .small = small};
    v->starts = (void *)p;
    p += part(((size_t)lists + 1) * 4);
    v->centroids = p;
    p += part(lists * stride);
    v->centroid_meta = (void *)p;
    p += part(lists * sizeof(struct ap_q8_meta));
    if (!small) {
        v->rows = p;
        p += part(count * stride);
    }
    v->row_meta = (void *)p;
    p += part(count * sizeof(struct ap_q8_meta));
    if (words > 0) {
        v->bits = (void *)p;
        p += part(count * words * 8);
    }
    if (words > 0 && !small) {
        v->factors = (void *)p;
        p += part((size_t)count * 4);
    }
    v->offsets = (void *)p;
    p += part((size_t)count * 4);
    v->order = (void *)p;
}

size_t ap_ivf8_bytes(uint32_t dim, uint32_t lists, uint32_t count, bool small)
{
    size_t stride = ap_q8_stride(dim), words = ap_sketch_words(dim);
    size_t rows = part(count * words * 8) + (small ? 0 : part(count * stride) + (words ? part((size_t)count * 4) : 0));
    return part(((size_t)lists + 1) * 4) + part(lists * stride) + part(lists * sizeof(struct ap_q8_meta)) + rows +
           part(count * sizeof(struct ap_q8_meta)) + 2 * part((size_t)count * 4);
}

bool ap_ivf8_sound(const struct ap_ivf8 *v)
{
    if (v->starts[0] != 0 || v->starts[v->lists] != v->count)
        return false;
    for (uint32_t i = 0; i < v->lists; i++)
        if (v->starts[i] > v->starts[i + 1])
            return false;
    for (uint32_t i = 0; i < v->count; i++)
        if (v->order[i] >= v->count || (i > 0 && v->offsets[v->order[i - 1]] >= v->offsets[v->order[i]]))
            return false;
    return true;
}

/* The k-th largest of n (Hoare's FIND, 1961); permutes. */
static float select_kth(float *a, size_t n, size_t k)
{
    size_t low = 0, high = n - 1;
    while (low < high) {
        float pivot = a[low + (high - low) / 2];
        size_t i = low, j = high;
        while (i <= j) {
            while (a[i] > pivot)
                i++;
            while (a[j] < pivot)
                j--;
            if (i <= j) {
                float t = a[i];
                a[i++] = a[j];
                a[j] = t;
                if (j == 0)
                    break;
                j--;
            }
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
    return a[k];
}

uint32_t ap_ivf8_probe(const struct ap_ivf8 *v, const struct ap_q8_query *q, enum ap_distance distance, uint32_t probes, float *scores, uint32_t *lists)
{
    uint32_t n = 0;
    if (probes >= v->lists) {
        for (; n < v->lists; n++)
            lists[n] = n;
        return n;
    }
    ap_q8_scores(q, distance, v->centroids, v->centroid_meta, v->dim, v->lists, scores);
    float *sorted = (float *)lists; /* as large, and not needed before */
    memcpy(sorted, scores, v->lists * sizeof *scores);
    float least = select_kth(sorted, v->lists, probes - 1);
    for (uint32_t i = 0; i < v->lists && n < probes; i++)
        if (scores[i] >= least)
            lists[n++] = i;
    /* What is found in the best ones spares the scoring of rows in the others. */
    for (uint32_t i = 0; i < BEST && i < n; i++) {
        uint32_t best = i;
        for (uint32_t j = i + 1; j < n; j++)
            best = scores[lists[j]] > scores[lists[best]] ? j : best;
        uint32_t t = lists[i];
        lists[i] = lists[best];
        lists[best] = t;
    }
    return n;
}

uint32_t ap_ivf8_list_of(const struct ap_ivf8 *v, uint32_t ordinal)
{
    uint32_t low = 0, high = v->lists - 1; /* the last list that begins at it or before; empty ones begin where the next does */
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (v->starts[middle] <= ordinal)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

uint32_t ap_ivf8_lists_for(size_t rows)
{
    uint32_t lists = 1;
    if (rows < 2048)
        return 1;
    while ((size_t)lists * lists < 4 * rows && lists < 16384) /* the power of two next above two roots */
        lists *= 2;
    return lists;
}

/* On the real embeddings 190 of 512 lists find .99 of the true ten. Of fewer lists the same root of a share; of more no more:
 * larger segments need a smaller share of theirs. */
uint32_t ap_ivf8_probes_for(uint32_t lists)
{
    double probes = 8.4 * sqrt(lists < 512 ? (double)lists : 512);
    return probes < lists ? (uint32_t)ceil(probes) : lists;
}
