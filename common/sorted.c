/* Sorted arrays of pointers: binary search, insertion by moving what is behind. Aborts when memory is out. */
#include "common/sorted.h"
#include <stdlib.h>
#include <string.h>

bool ap_sorted_search(const struct ap_sorted *s, ap_sorted_compare compare, const void *wanted, size_t *at)
{
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(wanted, s->items[middle]);
        if (order == 0) {
            *at = middle;
            return true;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    *at = low;
    return false;
}

void *ap_sorted_find(const struct ap_sorted *s, ap_sorted_compare compare, const void *wanted)
{
    size_t at;
    return ap_sorted_search(s, compare, wanted, &at) ? s->items[at] : NULL;
}

void ap_sorted_insert(struct ap_sorted *s, size_t at, void *item)
{
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 8;
        s->items = realloc(s->items, s->cap * sizeof *s->items);
        if (!s->items)
            abort();
    }
    memmove(s->items + at + 1, s->items + at, (s->count - at) * sizeof *s->items);
    s->items[at] = item;
    s->count++;
}

void ap_sorted_free(struct ap_sorted *s, void (*release)(void *item))
{
    for (size_t i = 0; release && i < s->count; i++)
        release(s->items[i]);
    free(s->items);
    *s = (struct ap_sorted){0};
}
