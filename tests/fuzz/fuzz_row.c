/* Fuzz target: what rows are read from and made of. The first byte chooses: a row's bytes (with the checksum put right, so
 * that merging and printing get to see them), the payload of a PATCH upon a payload, a stored position. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "common/positions.h"
#include "common/row.h"

static const struct ap_key key = {{1, 2, 3}};

static struct ap_mutation mutation(enum ap_op op, uint64_t hlc, const uint8_t *payload, size_t len)
{
    return (struct ap_mutation){.op = op, .version = {.hlc = hlc, .region = {"eu"}, .writer = 1}, .stream = 1, .seq = 1, .clock = hlc,
                                .payload = (const char *)payload, .payload_len = len};
}

/* Whatever is in the row: merging and printing end well, and what was merged reads back. */
static void use(const struct ap_row *row)
{
    struct ap_buf out = {0}, text = {0};
    struct ap_err err;
    static const char patch[] = "{\"set\":{\"a\":1},\"delete\":[\"b\"]}";
    struct ap_mutation list[] = {mutation(AP_OP_UPSERT, 5, (const uint8_t *)"{}", 2), mutation(AP_OP_DELETE, UINT64_MAX, NULL, 0),
                                 mutation(AP_OP_PATCH, UINT64_MAX, (const uint8_t *)patch, sizeof patch - 1)};
    ap_row_newest(row);
    if (ap_row_payload(row, &text, &err) != 0 && text.len != 0)
        abort();
    for (size_t i = 0; i < 3; i++) {
        struct ap_row made;
        ap_buf_clear(&out);
        if (ap_row_merge(&key, row, &list[i], &out, &err) == 1 && ap_row_read(out.data, out.len, 1, &made, &err) != 0)
            abort();
    }
    ap_buf_clear(&out);
    ap_row_join(row, row, &out);
    ap_buf_free(&out);
    ap_buf_free(&text);
}

static void fuzz_row(const uint8_t *data, size_t size)
{
    struct ap_row row;
    uint8_t *bytes = malloc(size);
    if (!bytes)
        abort();
    memcpy(bytes, data, size);
    if (ap_row_read(bytes, size, 0, &row, NULL) == 0) {
        use(&row); /* counts as never written */
        ap_put_le64(bytes, XXH3_64bits(bytes + 8, size - 8));
        if (ap_row_read(bytes, size, 1, &row, NULL) != 0)
            abort();
        use(&row);
    }
    free(bytes);
}

/* The input up to its first zero byte is the base's payload, the rest the patch. */
static void fuzz_patch(const uint8_t *data, size_t size)
{
    const uint8_t *zero = memchr(data, 0, size);
    size_t base_len = zero ? (size_t)(zero - data) : 0;
    const uint8_t *patch = zero ? zero + 1 : data;
    struct ap_buf base = {0}, patched = {0}, other = {0};
    struct ap_row row;
    struct ap_err err;
    struct ap_mutation u = mutation(AP_OP_UPSERT, 5, data, base_len), p = mutation(AP_OP_PATCH, 6, patch, size - (size_t)(patch - data));
    if (ap_row_merge(&key, NULL, &u, &base, &err) != 1 || ap_row_read(base.data, base.len, 1, &row, &err) != 0)
        abort();
    int rc = ap_row_merge(&key, &row, &p, &patched, &err);
    if (rc == 1) {
        if (ap_row_read(patched.data, patched.len, 1, &row, &err) != 0)
            abort();
        use(&row);
        /* The other order gives the same bytes. */
        struct ap_buf first = {0};
        struct ap_row orphan;
        if (ap_row_merge(&key, NULL, &p, &first, &err) != 1 || ap_row_read(first.data, first.len, 1, &orphan, &err) != 0 ||
            ap_row_merge(&key, &orphan, &u, &other, &err) != 1 || other.len != patched.len || memcmp(other.data, patched.data, other.len) != 0)
            abort();
        ap_buf_free(&first);
    } else if (rc < 0 && (rc != AP_EINVAL || err.cls != AP_POISON)) {
        abort();
    }
    ap_buf_free(&base);
    ap_buf_free(&patched);
    ap_buf_free(&other);
}

static void fuzz_position(const uint8_t *data, size_t size)
{
    struct ap_position at;
    struct ap_err err;
    uint64_t missing;
    size_t key_len = size ? data[0] % 80 : 0;
    if (size < 1 + key_len)
        return;
    const uint8_t *value = data + 1 + key_len;
    size_t value_len = size - 1 - key_len;
    if (ap_position_decode(data + 1, key_len, value, value_len, &at, &missing, &err) != 0)
        return;
    struct ap_positions *p = ap_positions_new(NULL, NULL);
    if (ap_positions_load_entry(p, data + 1, key_len, value, value_len, &err) != 0)
        abort();
    struct ap_region eu = {"eu"};
    for (uint64_t seq = 1; seq <= 20; seq++)
        ap_positions_note(p, &eu, at.stream, at.topic, at.partition, seq, seq);
    ap_positions_hello(p, &eu, UINT64_MAX, at.topic, at.partition, &(struct ap_hello){at.stream, at.mark / 2 + 30});
    ap_positions_note(p, &eu, at.stream, at.topic, at.partition, UINT64_MAX, 1);
    ap_positions_totals(p);
    ap_positions_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (data[0] % 3 == 0)
        fuzz_row(data + 1, size - 1);
    else if (data[0] % 3 == 1)
        fuzz_patch(data + 1, size - 1);
    else
        fuzz_position(data + 1, size - 1);
    return 0;
}
