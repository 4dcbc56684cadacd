/* Fuzz target: our own codec, TCQ, and the trellis under it. The first byte chooses a shape; the second how many of the
 * bytes after it are a code and a vector; the rest is a codec as it is published, and what loads must decode that code,
 * find the same code again in its states, and encode that vector. With nothing after these, a codec trained at the start
 * takes the part of the one that was published. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "common/ann.h"
#include "common/ann_trellis.h"

enum { SHAPES = 4, ROWS = 300, DIM_MAX = 8, CODE_MAX = 8 };
static const struct { const char *factory; uint32_t dim; } kinds[SHAPES] = {{"TCQ2", 2}, {"TCQ3", 4}, {"TCQ5", 6}, {"TCQ2x10", 2}};
static struct ap_tcq_shape shapes[SHAPES];
static struct ap_tcq *trained[SHAPES];

static void train_all(void)
{
    static float x[ROWS * DIM_MAX];
    uint32_t seed = 1;
    struct ap_err err;
    ap_ann_init();
    for (size_t i = 0; i < ROWS * DIM_MAX; i++) {
        seed = seed * 1664525 + 1013904223;
        x[i] = (float)(seed >> 8) / (1 << 24) - 0.5f;
    }
    for (int i = 0; i < SHAPES; i++)
        if (ap_tcq_parse(kinds[i].factory, kinds[i].dim, &shapes[i], &err) || ap_tcq_train(&shapes[i], x, ROWS, 1, &trained[i], &err))
            abort();
}

static void use(const struct ap_tcq *q, const uint8_t *code, const float *vector)
{
    struct ap_trellis t = ap_tcq_trellis(q);
    uint16_t states[DIM_MAX];
    uint8_t again[CODE_MAX] = {code[0]};
    float back[DIM_MAX];
    struct ap_err err;
    ap_trellis_unpack(&t, code + 1, states);
    for (size_t i = 0; i < t.steps; i++)
        assert(states[i] < 1 << t.memory);
    ap_trellis_pack(&t, states, again + 1);
    assert(memcmp(again, code, q->bytes) == 0);
    assert(ap_tcq_decode(q, 1, code, back, &err) == 0);
    memset(again, 0, sizeof again);
    assert(ap_tcq_encode(q, 1, vector, again, &err) == 0);
    assert(ap_tcq_decode(q, 1, again, back, &err) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ap_err err;
    if (!trained[0])
        train_all();
    if (size < 2)
        return 0;
    int kind = data[0] % SHAPES;
    size_t given = data[1] % (CODE_MAX + DIM_MAX * sizeof(float) + 1);
    data += 2;
    size -= 2;
    if (given > size)
        given = size;
    uint8_t code[CODE_MAX + DIM_MAX * sizeof(float)] = {0};
    float vector[DIM_MAX];
    memcpy(code, data, given);
    memcpy(vector, code + CODE_MAX, sizeof vector);
    if (given == size) {
        use(trained[kind], code, vector);
        return 0;
    }
    struct ap_tcq *q = NULL;
    if (ap_tcq_read(&shapes[kind], data + given, size - given, &q, &err) != 0)
        return 0;
    use(q, code, vector);
    ap_tcq_free(&q);
    return 0;
}
