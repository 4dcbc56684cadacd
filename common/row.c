/* Rows: bytes, and the merge.
 *
 * Both sides of a merge, row and mutation, are taken apart into a struct state and joined. The join is a lattice's:
 *   base      the greater by (version, DELETE over UPSERT, then content bytes)
 *   patches   of each key the greatest by (version, kind, value bytes); one is dropped when the base's version is equal or
 *             greater, or when the overwrite's version is greater
 * What is dropped once can never matter again, since base and overwrite only grow; hence any order, any repetition and any
 * grouping gives the same state, and a state has one encoding.
 * A current row that fails its checksum counts as never seen: its versions cannot be trusted either, and what replaces it
 * is compared with the other regions' rows by the digests.
 *
 * Patches: entries, the overwrite first, then by key bytes. Each, little-endian:
 *    0 u8 kind (0 overwrite, 1 set, 2 delete)   1 u8 region length   2 u16 key bytes   4 u32 value bytes
 *    8 u64 hlc   16 u64 writer   24 region, key (unescaped UTF-8), value (JSON text as received)
 * A deleted key, and a key or overwrite above no base, are kept as a tombstone is: what is older may still arrive. */
#include "common/row.h"
#include <assert.h>
#include <stdlib.h>
#include <xxhash.h>
#include "common/row_internal.h"
#include "common/unsafe.h"

#define ROW_FORMAT 1
#define PATCH_HEADER 24

struct state {
    bool base, tombstone, has_codec;
    struct ap_version version;
    uint64_t codec;
    const uint8_t *vector; size_t vector_len;
    const char *payload; size_t payload_len;
    struct ap_patches patches;
};

static int compare_bytes(const void *a, size_t a_len, const void *b, size_t b_len)
{
    size_t least = a_len < b_len ? a_len : b_len;
    int c = least ? memcmp(a, b, least) : 0;
    return c ? c : (a_len > b_len) - (a_len < b_len);
}

static size_t region_len(const struct ap_region *r)
{
    return strnlen(r->name, sizeof r->name - 1);
}

/* --- patches --- */

void ap_patches_add(struct ap_patches *p, const struct ap_patch *patch)
{
    if (p->count == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 8;
        p->list = reallocarray(p->list, p->cap, sizeof *p->list);
        if (!p->list)
            abort();
    }
    p->list[p->count++] = *patch;
}

void ap_patches_fini(struct ap_patches *p)
{
    for (size_t i = 0; i < p->count; i++)
        free(p->list[i].owned);
    free(p->list);
    memset(p, 0, sizeof *p);
}

int ap_patch_compare_keys(const struct ap_patch *a, const struct ap_patch *b)
{
    bool a_keyed = a->kind != AP_PATCH_OVERWRITE, b_keyed = b->kind != AP_PATCH_OVERWRITE;
    if (a_keyed != b_keyed)
        return a_keyed ? 1 : -1;
    return compare_bytes(a->key, a->key_len, b->key, b->key_len);
}

int ap_patch_compare(const struct ap_patch *a, const struct ap_patch *b)
{
    int c = ap_version_compare(&a->version, &b->version);
    if (c == 0)
        c = (a->kind > b->kind) - (a->kind < b->kind);
    return c ? c : compare_bytes(a->value, a->value_len, b->value, b->value_len);
}

/* Read the entry at *at and step over it; false when it does not fit. */
static bool read_patch(const uint8_t *bytes, size_t len, size_t *at, struct ap_patch *out)
{
    const uint8_t *p = bytes + *at;
    size_t left = len - *at;
    if (left < PATCH_HEADER)
        return false;
    size_t region = p[1], key = ap_le16(p + 2), value = ap_le32(p + 4), size = PATCH_HEADER + region + key + value;
    if (p[0] > AP_PATCH_DELETE || region >= sizeof out->version.region.name || size > left ||
        (p[0] == AP_PATCH_OVERWRITE && key != 0))
        return false;
    memset(out, 0, sizeof *out);
    out->kind = p[0];
    out->version.hlc = ap_le64(p + 8);
    out->version.writer = ap_le64(p + 16);
    memcpy(out->version.region.name, p + PATCH_HEADER, region);
    out->key = (const char *)p + PATCH_HEADER + region;
    out->key_len = key;
    out->value = out->key + key;
    out->value_len = value;
    *at += size;
    return true;
}

bool ap_patches_read(const uint8_t *bytes, size_t len, struct ap_patches *out)
{
    struct ap_patch patch;
    for (size_t at = 0; at < len;) {
        if (!read_patch(bytes, len, &at, &patch))
            return false;
        ap_patches_add(out, &patch);
    }
    return true;
}

static void write_patch(struct ap_buf *out, const struct ap_patch *p)
{
    uint8_t head[PATCH_HEADER] = {0};
    size_t region = region_len(&p->version.region);
    head[0] = p->kind;
    head[1] = (uint8_t)region;
    ap_put_le16(head + 2, (uint16_t)p->key_len);
    ap_put_le32(head + 4, (uint32_t)p->value_len);
    ap_put_le64(head + 8, p->version.hlc);
    ap_put_le64(head + 16, p->version.writer);
    ap_buf_append(out, head, sizeof head);
    ap_buf_append(out, p->version.region.name, region);
    ap_buf_append(out, p->key, p->key_len);
    ap_buf_append(out, p->value, p->value_len);
}

/* --- rows in bytes --- */

int ap_row_read(const void *bytes, size_t len, int verify, struct ap_row *out, struct ap_err *err)
{
    const uint8_t *p = bytes;
    if (len < AP_ROW_HEADER)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a row of %zu bytes is shorter than its header", len);
    uint8_t flags = p[9];
    size_t region = p[10];
    uint64_t patches = ap_le32(p + 12), vector = ap_le32(p + 64), payload = ap_le32(p + 68);
    if (p[8] != ROW_FORMAT)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a row of format %d, not %d", p[8], ROW_FORMAT);
    if (AP_ROW_HEADER + vector + payload + region + patches != len || region >= sizeof out->version.region.name)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "the parts of a row do not add up to its %zu bytes", len);
    bool base = flags & AP_ROW_BASE, content = flags & (AP_ROW_VECTOR | AP_ROW_PAYLOAD | AP_ROW_CODEC);
    if (flags >= AP_ROW_PATCHES * 2 || (!base && (flags & AP_ROW_TOMBSTONE)) || (content && !base) ||
        (content && (flags & AP_ROW_TOMBSTONE)) || (vector && !(flags & AP_ROW_VECTOR)) ||
        (payload && !(flags & AP_ROW_PAYLOAD)) || (patches != 0) != ((flags & AP_ROW_PATCHES) != 0))
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "the flags of a row (%#x) contradict its parts", flags);

    memset(out, 0, sizeof *out);
    out->bytes = p;
    out->len = len;
    out->checksum = ap_le64(p);
    out->flags = flags;
    memcpy(out->key.b, p + 16, sizeof out->key.b);
    out->version.hlc = ap_le64(p + 40);
    out->version.writer = ap_le64(p + 48);
    out->codec = ap_le64(p + 56);
    const uint8_t *at = p + AP_ROW_HEADER;
    out->vector = flags & AP_ROW_VECTOR ? at : NULL;
    out->vector_len = vector;
    at += vector;
    out->payload = flags & AP_ROW_PAYLOAD ? (const char *)at : NULL;
    out->payload_len = payload;
    at += payload;
    memcpy(out->version.region.name, at, region);
    at += region;
    out->patches = flags & AP_ROW_PATCHES ? at : NULL;
    out->patches_len = patches;
    if (verify && XXH3_64bits(p + 8, len - 8) != out->checksum)
        return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a row of %zu bytes fails its checksum", len);
    struct ap_patch patch;
    for (size_t i = 0; i < patches;)
        if (!read_patch(at, patches, &i, &patch))
            return ap_err_set(err, AP_ECORRUPT, AP_POISON, "a patch in a row runs past its end");
    return 0;
}

static void encode(const struct ap_key *key, const struct state *s, struct ap_buf *out)
{
    size_t start = out->len, region = region_len(&s->version.region);
    uint8_t flags = (uint8_t)((s->base ? AP_ROW_BASE : 0) | (s->tombstone ? AP_ROW_TOMBSTONE : 0) |
                              (s->vector ? AP_ROW_VECTOR : 0) | (s->payload ? AP_ROW_PAYLOAD : 0) |
                              (s->has_codec ? AP_ROW_CODEC : 0) | (s->patches.count ? AP_ROW_PATCHES : 0));
    uint8_t head[AP_ROW_HEADER] = {0};
    head[8] = ROW_FORMAT;
    head[9] = flags;
    head[10] = (uint8_t)region;
    memcpy(head + 16, key->b, sizeof key->b);
    ap_put_le64(head + 40, s->version.hlc);
    ap_put_le64(head + 48, s->version.writer);
    ap_put_le64(head + 56, s->codec);
    ap_put_le32(head + 64, (uint32_t)s->vector_len);
    ap_put_le32(head + 68, (uint32_t)s->payload_len);
    ap_buf_reserve(out, sizeof head + s->vector_len + s->payload_len + region);
    ap_buf_append(out, head, sizeof head);
    ap_buf_append(out, s->vector, s->vector_len);
    ap_buf_append(out, s->payload, s->payload_len);
    ap_buf_append(out, s->version.region.name, region);
    size_t patches = out->len;
    for (size_t i = 0; i < s->patches.count; i++)
        write_patch(out, &s->patches.list[i]);
    ap_put_le32(out->data + start + 12, (uint32_t)(out->len - patches));
    ap_put_le64(out->data + start, XXH3_64bits(out->data + start + 8, out->len - start - 8));
}

/* --- the join --- */

static int compare_bases(const struct state *a, const struct state *b)
{
    if (a->base != b->base)
        return a->base ? 1 : -1;
    if (!a->base)
        return 0;
    int c = ap_version_compare(&a->version, &b->version);
    if (c == 0)
        c = a->tombstone - b->tombstone;
    /* From here on it is a producer's or a disk's fault, but all regions still have to agree. */
    if (c == 0)
        c = a->has_codec - b->has_codec;
    if (c == 0)
        c = (a->codec > b->codec) - (a->codec < b->codec);
    if (c == 0)
        c = (a->vector != NULL) - (b->vector != NULL);
    if (c == 0)
        c = compare_bytes(a->vector, a->vector_len, b->vector, b->vector_len);
    if (c == 0)
        c = (a->payload != NULL) - (b->payload != NULL);
    return c ? c : compare_bytes(a->payload, a->payload_len, b->payload, b->payload_len);
}

/* Does the patch still count beside this base and overwrite (NULL: none)? */
static bool patch_counts(const struct ap_patch *p, const struct state *base, const struct ap_patch *overwrite)
{
    if (base->base && ap_version_compare(&p->version, &base->version) <= 0)
        return false;
    return !overwrite || p->kind == AP_PATCH_OVERWRITE || ap_version_compare(&p->version, &overwrite->version) >= 0;
}

/* The greatest of both; borrows from both. out is zero-initialised. */
static void join(const struct state *a, const struct state *b, struct state *out)
{
    *out = compare_bases(a, b) >= 0 ? *a : *b;
    memset(&out->patches, 0, sizeof out->patches);
    const struct ap_patch *overwrite = NULL;
    for (size_t i = 0, j = 0; i < a->patches.count || j < b->patches.count;) {
        const struct ap_patch *p = i < a->patches.count ? &a->patches.list[i] : NULL;
        const struct ap_patch *q = j < b->patches.count ? &b->patches.list[j] : NULL;
        int c = !p ? 1 : !q ? -1 : ap_patch_compare_keys(p, q);
        i += c <= 0;
        j += c >= 0;
        const struct ap_patch *best = c < 0 ? p : c > 0 ? q : ap_patch_compare(p, q) >= 0 ? p : q;
        if (!patch_counts(best, out, overwrite))
            continue;
        struct ap_patch borrowed = *best;
        borrowed.owned = NULL;
        ap_patches_add(&out->patches, &borrowed);
        if (best->kind == AP_PATCH_OVERWRITE)
            overwrite = best; /* it comes first, so all keys meet it */
    }
}

static void state_of_row(const struct ap_row *r, struct state *out)
{
    *out = (struct state){.base = r->flags & AP_ROW_BASE, .tombstone = r->flags & AP_ROW_TOMBSTONE,
                          .has_codec = r->flags & AP_ROW_CODEC, .version = r->version, .codec = r->codec,
                          .vector = r->vector, .vector_len = r->vector_len,
                          .payload = r->payload, .payload_len = r->payload_len};
    ap_patches_read(r->patches, r->patches_len, &out->patches);
}

/* Of an UPSERT or a DELETE. */
static void state_of_base(const struct ap_mutation *m, struct state *out)
{
    *out = (struct state){.base = true, .tombstone = m->op == AP_OP_DELETE, .version = m->version};
    if (m->op == AP_OP_DELETE)
        return;
    out->has_codec = m->has_codec;
    out->codec = m->has_codec ? m->codec : 0;
    out->vector = m->vector;
    out->vector_len = m->vector ? m->vector_len : 0;
    out->payload = m->payload;
    out->payload_len = m->payload ? m->payload_len : 0;
}

static bool row_is_sound(const struct ap_row *r)
{
    return XXH3_64bits(r->bytes + 8, r->len - 8) == r->checksum;
}

/* Patches add up over time, so their length has a bound of its own, far below that of its field. */
static bool fits(const struct state *s)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->patches.count; i++)
        bytes += PATCH_HEADER + 16 + s->patches.list[i].key_len + s->patches.list[i].value_len;
    return bytes <= UINT64_C(1) << 30;
}

/* Encode s unless it is what current already has. */
static int encode_if_changed(const struct ap_key *key, const struct state *s, const struct ap_row *current, struct ap_buf *out)
{
    encode(key, s, out);
    if (current && compare_bytes(out->data, out->len, current->bytes, current->len) == 0) {
        ap_buf_clear(out);
        return 0;
    }
    return 1;
}

/* For common/unsafe.h: what stands under a patched key is older than what comes. */
static void forget_versions(struct ap_patches *mine, const struct ap_patches *its)
{
    for (size_t i = 0; i < mine->count; i++)
        for (size_t j = 0; j < its->count; j++)
            if (ap_patch_compare_keys(&mine->list[i], &its->list[j]) == 0)
                mine->list[i].version = (struct ap_version){0};
}

int ap_row_merge(const struct ap_key *key, const struct ap_row *current, const struct ap_mutation *m, struct ap_buf *out, struct ap_err *err)
{
    assert(out->len == 0);
    if (m->op != AP_OP_UPSERT && m->op != AP_OP_PATCH && m->op != AP_OP_DELETE)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "operation %d does not change a row", (int)m->op);
    if (m->vector_len > UINT32_MAX || m->payload_len > UINT32_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "a vector or payload of more than 4 GiB");

    struct state mine = {0}, its = {0}, both = {0};
    int rc = 0;
    if (m->op == AP_OP_PATCH)
        rc = ap_patches_parse(m, &its.patches, err);
    else
        state_of_base(m, &its);
    if (rc == 0 && current && !row_is_sound(current))
        current = NULL;
    if (rc == 0 && current)
        state_of_row(current, &mine);
    if (rc == 0 && its.patches.count == 0 && mine.patches.count == 0) {
        /* The common case: no patches on either side, the greater base is all. */
        if (compare_bases(&its, &mine) > 0) {
            encode(key, &its, out);
            rc = 1;
        }
    } else if (rc == 0) {
        if (ap_unsafe(AP_UNSAFE_NO_KEY_VERSIONS))
            forget_versions(&mine.patches, &its.patches);
        join(&mine, &its, &both);
        rc = fits(&both) ? encode_if_changed(key, &both, current, out)
                         : ap_err_set(err, AP_EINVAL, AP_POISON, "the patched keys of a row are more than 1 GiB");
    }
    ap_patches_fini(&mine.patches);
    ap_patches_fini(&its.patches);
    ap_patches_fini(&both.patches);
    return rc;
}

int ap_row_join(const struct ap_row *current, const struct ap_row *other, struct ap_buf *out)
{
    assert(out->len == 0);
    struct state mine, its, both = {0};
    state_of_row(current, &mine);
    state_of_row(other, &its);
    join(&mine, &its, &both);
    int changed = encode_if_changed(&current->key, &both, current, out);
    ap_patches_fini(&mine.patches);
    ap_patches_fini(&its.patches);
    ap_patches_fini(&both.patches);
    return changed;
}

struct ap_version ap_row_newest(const struct ap_row *row)
{
    struct ap_version newest = row->version;
    struct ap_patch patch;
    for (size_t at = 0; at < row->patches_len && read_patch(row->patches, row->patches_len, &at, &patch);)
        if (ap_version_compare(&patch.version, &newest) > 0)
            newest = patch.version;
    return newest;
}
