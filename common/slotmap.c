/* Robin Hood hashing with linear probing, and quotients instead of keys.
 *
 * Of a key's hash FINGERPRINT_BITS are known for good: the upper n of them, for a table of 2^n entries, say where the
 * entry belongs (its home), the rest is stored with it as the remainder, beside how far it stands from home. So growing
 * needs neither the keys nor the rows, and two keys are told apart by 34 bits of hash before a row is read: with 10
 * million points one lookup in 1,700 reads a row for nothing.
 *
 * An entry: slot in bits 0..39, distance from home in 40..45, remainder in 46..63. Empty is 0, since slots are from 1.
 * Entries stand in the order of their homes. At a load of 3/4 distances stay below 40; an entry that would stand 64 away
 * makes the table grow. The hash is seeded at random, so nobody can choose ids that collide. */
#include "common/slotmap.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>

#define SLOT_BITS 40
#define DISTANCE_BITS 6
#define REMAINDER_BITS 18
#define MIN_BITS 16
#define FINGERPRINT_BITS (MIN_BITS + REMAINDER_BITS)
#define MAX_DISTANCE ((1u << DISTANCE_BITS) - 1)

static inline uint64_t entry_make(uint64_t remainder, uint64_t distance, uint64_t slot)
{
    return remainder << (SLOT_BITS + DISTANCE_BITS) | distance << SLOT_BITS | slot;
}
static inline uint64_t entry_slot(uint64_t e) { return e & AP_SLOT_MAX; }
static inline unsigned entry_distance(uint64_t e) { return (unsigned)(e >> SLOT_BITS) & MAX_DISTANCE; }
static inline uint64_t entry_remainder(uint64_t e) { return e >> (SLOT_BITS + DISTANCE_BITS); }

static inline unsigned table_bits(const struct ap_slotmap *m) { return (unsigned)__builtin_popcountll(m->mask); }

static inline uint64_t fingerprint(const struct ap_slotmap *m, const struct ap_key *key)
{
    return (XXH3_64bits_withSeed(key->b, sizeof key->b, m->seed) & m->hash_mask) >> (64 - FINGERPRINT_BITS);
}
static inline size_t home_of(const struct ap_slotmap *m, uint64_t print)
{
    return (size_t)(print >> (FINGERPRINT_BITS - table_bits(m)));
}
static inline uint64_t remainder_of(const struct ap_slotmap *m, uint64_t print)
{
    return print & ((UINT64_C(1) << (FINGERPRINT_BITS - table_bits(m))) - 1);
}

static void allocate(struct ap_slotmap *m, unsigned bits)
{
    /* 34 bits of table are 128 GiB: memory is out long before. */
    size_t size = (size_t)1 << bits;
    m->entries = bits <= FINGERPRINT_BITS ? calloc(size, sizeof *m->entries) : NULL;
    if (!m->entries) {
        fprintf(stderr, "slotmap: no memory for %zu entries\n", size);
        abort();
    }
    m->mask = size - 1;
}

void ap_slotmap_init(struct ap_slotmap *m, size_t expected)
{
    unsigned bits = MIN_BITS;
    while (((size_t)3 << bits) / 4 < expected)
        bits++;
    m->used = 0;
    m->hash_mask = UINT64_MAX;
    if (getrandom(&m->seed, sizeof m->seed, 0) != (ssize_t)sizeof m->seed)
        abort(); /* 8 bytes come whole once the kernel's pool is ready */
    allocate(m, bits);
}

void ap_slotmap_fini(struct ap_slotmap *m)
{
    free(m->entries);
    m->entries = NULL;
    m->mask = m->used = 0;
}

/* Position of key's entry, or SIZE_MAX. */
static size_t find(const struct ap_slotmap *m, const struct ap_key *key, ap_slot_match match, void *arg)
{
    uint64_t print = fingerprint(m, key), remainder = remainder_of(m, print);
    size_t at = home_of(m, print);
    for (unsigned distance = 0; distance <= MAX_DISTANCE; distance++, at = (at + 1) & m->mask) {
        uint64_t e = m->entries[at];
        if (e == 0 || entry_distance(e) < distance)
            return SIZE_MAX; /* it would stand here */
        if (entry_distance(e) == distance && entry_remainder(e) == remainder && match(arg, entry_slot(e), key))
            return at;
    }
    return SIZE_MAX;
}

static void insert(struct ap_slotmap *m, uint64_t print, uint64_t slot);

/* Another size. Entries come in the order of their homes, so both tables are passed through once, in order. */
static void resize(struct ap_slotmap *m, unsigned to_bits)
{
    struct ap_slotmap old = *m;
    unsigned bits = table_bits(m);
    allocate(m, to_bits);
    for (size_t at = 0; at <= old.mask; at++) {
        uint64_t e = old.entries[at];
        if (e == 0)
            continue;
        uint64_t home = (at - entry_distance(e)) & old.mask;
        insert(m, home << (FINGERPRINT_BITS - bits) | entry_remainder(e), entry_slot(e));
    }
    free(old.entries);
}

static void grow(struct ap_slotmap *m)
{
    resize(m, table_bits(m) + 1);
}

/* Put an entry that is not there. An entry nearer to its home gives its place to one that is farther from its own. */
static void insert(struct ap_slotmap *m, uint64_t print, uint64_t slot)
{
    size_t at = home_of(m, print);
    uint64_t remainder = remainder_of(m, print);
    for (unsigned distance = 0;; distance++, at = (at + 1) & m->mask) {
        if (distance > MAX_DISTANCE) {
            /* In a table this empty the keys are equal in all 34 bits: a broken hash, and growing would not help. */
            assert(m->used > m->mask / 256);
            print = (uint64_t)((at - distance) & m->mask) << (FINGERPRINT_BITS - table_bits(m)) | remainder;
            grow(m);
            insert(m, print, slot);
            return;
        }
        uint64_t e = m->entries[at];
        if (e != 0 && entry_distance(e) >= distance)
            continue;
        m->entries[at] = entry_make(remainder, distance, slot);
        if (e == 0)
            return;
        remainder = entry_remainder(e);
        slot = entry_slot(e);
        distance = entry_distance(e);
    }
}

uint64_t ap_slotmap_get(const struct ap_slotmap *m, const struct ap_key *key, ap_slot_match match, void *arg)
{
    size_t at = find(m, key, match, arg);
    return at == SIZE_MAX ? 0 : entry_slot(m->entries[at]);
}

uint64_t ap_slotmap_put(struct ap_slotmap *m, const struct ap_key *key, uint64_t slot, ap_slot_match match, void *arg)
{
    assert(slot > 0 && slot <= AP_SLOT_MAX);
    size_t at = find(m, key, match, arg);
    if (at != SIZE_MAX) {
        uint64_t e = m->entries[at];
        m->entries[at] = (e & ~AP_SLOT_MAX) | slot;
        return entry_slot(e);
    }
    if (m->used + 1 > (m->mask + 1) / 4 * 3)
        grow(m);
    insert(m, fingerprint(m, key), slot);
    m->used++;
    return 0;
}

uint64_t ap_slotmap_remove(struct ap_slotmap *m, const struct ap_key *key, ap_slot_match match, void *arg)
{
    size_t at = find(m, key, match, arg);
    if (at == SIZE_MAX)
        return 0;
    uint64_t slot = entry_slot(m->entries[at]);
    /* Those behind it that are away from home step back by one, so no gravestones are needed. */
    for (;;) {
        size_t next = (at + 1) & m->mask;
        uint64_t e = m->entries[next];
        if (e == 0 || entry_distance(e) == 0)
            break;
        m->entries[at] = entry_make(entry_remainder(e), entry_distance(e) - 1, entry_slot(e));
        at = next;
    }
    m->entries[at] = 0;
    m->used--;
    if (table_bits(m) > MIN_BITS && m->used < (m->mask + 1) / 8)
        resize(m, table_bits(m) - 1);
    return slot;
}

size_t ap_slotmap_bytes(const struct ap_slotmap *m)
{
    return m->entries ? (m->mask + 1) * sizeof *m->entries : 0;
}
