/* What row.c (bytes and merging) and row_patch.c (JSON of patches and payloads) share. Not for others. */
#ifndef ANTIPODE_COMMON_ROW_INTERNAL_H
#define ANTIPODE_COMMON_ROW_INTERNAL_H
#include "common/row.h"

/* In the order in which they win at equal versions: the greater kind, then the greater bytes. */
enum ap_patch_kind { AP_PATCH_OVERWRITE, AP_PATCH_SET, AP_PATCH_DELETE };

/* One patched key, or the whole-payload overwrite (empty key). Points into a row, a mutation or *owned. */
struct ap_patch {
    uint8_t kind;
    struct ap_version version;
    const char *key; size_t key_len;      /* unescaped UTF-8 */
    const char *value; size_t value_len;  /* JSON text; an object for an overwrite; empty for a delete */
    char *owned;                          /* of an unescaped key, or NULL */
};
/* Sorted: the overwrite first, then keys as bytes; no key twice. */
struct ap_patches { struct ap_patch *list; size_t count, cap; };

void ap_patches_add(struct ap_patches *p, const struct ap_patch *patch);
void ap_patches_fini(struct ap_patches *p);
int ap_patch_compare_keys(const struct ap_patch *a, const struct ap_patch *b); /* overwrite first */
int ap_patch_compare(const struct ap_patch *a, const struct ap_patch *b);      /* which wins; 0: the same */
/* Read those of a row; false when they are malformed. */
bool ap_patches_read(const uint8_t *bytes, size_t len, struct ap_patches *out);
/* Parse a PATCH's payload. AP_EINVAL, POISON. Fills *out also on failure (for fini). */
int ap_patches_parse(const struct ap_mutation *m, struct ap_patches *out, struct ap_err *err);

#endif
