/* Fuzz target: codecs. The first byte chooses: from 128 on the rest is a factory string, checked for 16 dimensions; below,
 * the rest is the bytes of a codec of one of these strings, and what loads must encode and decode. The corpus holds one of
 * each, so that mutations reach behind the comparison of shapes. */
#include <stdlib.h>
#include <string.h>
#include "common/ann.h"

#define DIM 16
static const char *const factories[] = {"PQ4x4", "SQ8", "SQ4", "OPQ4,PQ4x4", "RaBitQ", "RQ2x4", "PRQ2x1x4", "IVF256,PQ4x4", "IVF256,SQ8", "Residual256,PQ4x4",
                                        "PCA8,SQ8", "L2norm,SQfp16", "PQ4x4fs", "Pad20,PQ4x4", "Flat"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int ready;
    struct ap_err err;
    if (!ready++)
        ap_ann_init();
    if (size == 0)
        return 0;
    if (data[0] >= 128) {
        char *text = calloc(1, size);
        memcpy(text, data + 1, size - 1);
        (void)ap_codec_check(text, DIM, &err);
        free(text);
        return 0;
    }
    struct ap_codec *codec = NULL;
    float vector[DIM] = {1, -2, 3}, back[DIM];
    const char *factory = factories[data[0] % (sizeof factories / sizeof *factories)];
    if (ap_codec_load(factory, DIM, data + 1, size - 1, &codec, &err) != 0)
        return 0;
    uint8_t *code = malloc(ap_codec_code_size(codec));
    if (ap_codec_encode(codec, 1, vector, code, &err) == 0)
        (void)ap_codec_decode(codec, 1, code, back, &err);
    memset(code, 0xff, ap_codec_code_size(codec)); /* codes come from elsewhere too */
    (void)ap_codec_decode(codec, 1, code, back, &err);
    free(code);
    ap_codec_unref(&codec);
    return 0;
}
