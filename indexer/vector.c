/* Best vectors of rows: raw where the store has it, else what was sent as float32, else the decoded code. Codes are decoded
 * a stretch at a time, because a call into FAISS costs as much as decoding several vectors.
 *
 * Decoded vectors are shorter than what was encoded, each by another share. Under Cosine they are brought back to unit
 * length: on the real embeddings with PQ48 that finds 72 instead of 65 % of the true ten, and a row that is known by its
 * code alone is not ranked below one whose raw vector is here. */
#include <stdlib.h>
#include <string.h>
#include "indexer/index_impl.h"

/* Raw, or float32 in the row: copied; false when there is only a code, or nothing. */
static bool take_floats(const struct ap_snapshot *snapshot, uint32_t dim, uint64_t slot, const struct ap_row *row, float *out, bool *raw)
{
    const uint8_t *bytes;
    size_t len;
    *raw = ap_snapshot_raw(snapshot, slot, &bytes, &len) == 0 && len == (size_t)dim * 4;
    if (!*raw && !(row->flags & AP_ROW_CODEC) && row->vector && row->vector_len == (size_t)dim * 4) {
        bytes = row->vector;
        *raw = true; /* the full vector, wherever it was kept */
    }
    if (*raw)
        memcpy(out, bytes, (size_t)dim * 4);
    return *raw;
}

enum ap_vector_fit ap_row_vector(const struct ap_snapshot *snapshot, const struct ap_state *state, uint32_t dim, uint64_t slot,
                                 const struct ap_row *row, float *out, bool *raw)
{
    if (take_floats(snapshot, dim, slot, row, out, raw))
        return AP_VECTOR_OK;
    if (!(row->flags & AP_ROW_CODEC) || !row->vector)
        return AP_VECTOR_UNUSABLE;
    struct ap_codec *codec = ap_state_codec(state, row->codec);
    if (!codec)
        return AP_VECTOR_NO_CODEC;
    if (ap_codec_dim(codec) != dim || ap_codec_code_size(codec) != row->vector_len || ap_codec_decode(codec, 1, row->vector, out, NULL) != 0)
        return AP_VECTOR_UNUSABLE;
    const struct ap_state_coll *c = ap_state_find(state, ap_key_collection(&row->key));
    if (c && c->definition && c->definition->c.params.distance == AP_COSINE)
        ap_normalize(out, dim);
    return AP_VECTOR_OK;
}

struct ap_vector_batch *ap_vector_batch_new(uint32_t dim, enum ap_distance distance, size_t cap)
{
    struct ap_vector_batch *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    b->dim = dim;
    b->distance = distance;
    b->cap = cap;
    b->slots = malloc(cap * sizeof *b->slots);
    b->ids = malloc(cap * sizeof *b->ids);
    b->vectors = malloc(cap * dim * sizeof *b->vectors);
    b->usable = malloc(cap * sizeof *b->usable);
    b->waiting = malloc(cap * sizeof *b->waiting);
    if (!b->slots || !b->ids || !b->vectors || !b->usable || !b->waiting)
        abort();
    return b;
}

void ap_vector_batch_free(struct ap_vector_batch **batch)
{
    struct ap_vector_batch *b = *batch;
    *batch = NULL;
    if (!b)
        return;
    free(b->slots);
    free(b->ids);
    free(b->vectors);
    free(b->usable);
    free(b->waiting);
    free(b->codes);
    free(b->decoded);
    free(b);
}

void ap_vector_batch_clear(struct ap_vector_batch *batch, const struct ap_state *state)
{
    batch->state = state;
    batch->count = batch->waiting_count = 0;
    batch->codec = 0;
}

static void decode_waiting(struct ap_vector_batch *b)
{
    size_t n = b->waiting_count, dim = b->dim;
    struct ap_codec *codec = n > 0 ? ap_state_codec(b->state, b->codec) : NULL;
    bool ok = codec && ap_codec_dim(codec) == b->dim && ap_codec_code_size(codec) == b->code_size;
    b->waiting_count = 0;
    if (n == 0)
        return;
    /* Where all rows from first to last are codes, they decode in place. */
    bool dense = b->waiting[n - 1] - b->waiting[0] == n - 1;
    if (ok && !dense && !b->decoded && !(b->decoded = malloc(b->cap * dim * sizeof *b->decoded)))
        abort();
    float *to = dense ? b->vectors + b->waiting[0] * dim : b->decoded;
    ok = ok && ap_codec_decode(codec, n, b->codes, to, NULL) == 0;
    for (size_t i = 0; ok && b->distance == AP_COSINE && i < n; i++)
        ap_normalize(to + i * dim, b->dim);
    for (size_t i = 0; i < n; i++) {
        if (ok && !dense)
            memcpy(b->vectors + b->waiting[i] * dim, b->decoded + i * dim, dim * sizeof *b->vectors);
        b->usable[b->waiting[i]] = ok;
    }
}

void ap_vector_batch_add(struct ap_vector_batch *b, const struct ap_snapshot *snapshot, uint64_t slot, const struct ap_row *row)
{
    size_t i = b->count++;
    bool raw;
    b->slots[i] = slot;
    b->ids[i] = ap_key_point(&row->key);
    b->usable[i] = take_floats(snapshot, b->dim, slot, row, b->vectors + i * b->dim, &raw);
    if (b->usable[i] || !(row->flags & AP_ROW_CODEC) || row->vector_len == 0)
        return;
    if (b->waiting_count > 0 && (b->codec != row->codec || b->code_size != row->vector_len))
        decode_waiting(b);
    if (b->codes_cap < b->cap * row->vector_len) {
        b->codes_cap = b->cap * row->vector_len;
        b->codes = realloc(b->codes, b->codes_cap);
        if (!b->codes)
            abort();
    }
    b->codec = row->codec;
    b->code_size = row->vector_len;
    memcpy(b->codes + b->waiting_count * b->code_size, row->vector, b->code_size);
    b->waiting[b->waiting_count++] = (uint32_t)i;
}

void ap_vector_batch_finish(struct ap_vector_batch *batch)
{
    decode_waiting(batch);
}
