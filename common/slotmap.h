/* Which slot holds the current row of a point: a hash table of 8 bytes an entry (24 bits of hash, 40 bits of slot).
 *
 * Keys are not stored: on a tag match the caller's function compares the key in the row at that slot. Slots are from 1;
 * 0 is "none". Open addressing, load at most 3/4, grows by doubling and shrinks by
 * halving when an eighth is in use, without a look at the rows; at least 512 KiB of
 * address space. Not thread-safe. Aborts when memory is out. */
#ifndef ANTIPODE_COMMON_SLOTMAP_H
#define ANTIPODE_COMMON_SLOTMAP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "common/ident.h"

#define AP_SLOT_MAX ((UINT64_C(1) << 40) - 1)
struct ap_slotmap {
    uint64_t *entries; size_t mask, used;
    uint64_t seed;       /* of the hash: random, so that nobody can choose ids that collide */
    uint64_t hash_mask;  /* all ones; tests clear bits to make keys collide */
};
/* True when the row at slot has this key. Must not fail: a slot in the map has a row. */
typedef bool (*ap_slot_match)(void *arg, uint64_t slot, const struct ap_key *key);

void ap_slotmap_init(struct ap_slotmap *m, size_t expected);
void ap_slotmap_fini(struct ap_slotmap *m);
uint64_t ap_slotmap_get(const struct ap_slotmap *m, const struct ap_key *key, ap_slot_match match, void *arg);
/* Set key -> slot; returns the slot it had, 0 when new. A caller who knows the slot that key has may pass a match that
 * compares slots: then no row is read. */
uint64_t ap_slotmap_put(struct ap_slotmap *m, const struct ap_key *key, uint64_t slot, ap_slot_match match, void *arg);
uint64_t ap_slotmap_remove(struct ap_slotmap *m, const struct ap_key *key, ap_slot_match match, void *arg);
size_t ap_slotmap_bytes(const struct ap_slotmap *m);

#endif
