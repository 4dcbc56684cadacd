/* Sorted arrays of pointers: small sets that are looked up often and added to seldom.
 *
 * Zero-initialised is empty. The array does not own its items; what an item points to stays where it is when others are
 * inserted. Not thread-safe. */
#ifndef ANTIPODE_COMMON_SORTED_H
#define ANTIPODE_COMMON_SORTED_H
#include <stdbool.h>
#include <stddef.h>

struct ap_sorted { void **items; size_t count, cap; };

/* <0, 0, >0 as wanted, a key of any kind, is before, at or behind item. */
typedef int (*ap_sorted_compare)(const void *wanted, const void *item);

/* Whether there is one that equals wanted; *at is its index, or where it belongs. */
bool ap_sorted_search(const struct ap_sorted *s, ap_sorted_compare compare, const void *wanted, size_t *at);
void *ap_sorted_find(const struct ap_sorted *s, ap_sorted_compare compare, const void *wanted); /* NULL when there is none */
void ap_sorted_insert(struct ap_sorted *s, size_t at, void *item); /* at: from ap_sorted_search */
void ap_sorted_free(struct ap_sorted *s, void (*release)(void *item)); /* release may be NULL */

#endif
