/* A factory string is tokens between commas. Only what costs memory is understood here: how many centroids a quantizer or
 * a coarse quantizer has, and whether something rotates; the rest is FAISS's to judge. */
#include "common/ann_factory.h"

#include <ctype.h>
#include <string.h>

#define FACTORY_MAX 128
#define CODEC_TABLE_BYTES_MAX (UINT64_C(256) << 20)

/* Digits at *p; moves it. Saturates. */
static uint64_t number(const char **p)
{
    uint64_t n = 0;
    for (; isdigit((unsigned char)**p); (*p)++)
        n = n > UINT32_MAX ? n : n * 10 + (uint64_t)(**p - '0');
    return n;
}

static bool begins(const char *token, const char *word)
{
    return strncmp(token, word, strlen(word)) == 0;
}

static void look_at_token(const char *token, size_t len, struct ap_factory_shape *shape)
{
    static const char *const quantizers[] = {"PQ", "RQ", "LSQ", "PRQ", "PLSQ"};
    static const char *const lists[] = {"IVF", "Residual"};
    static const char *const matrices[] = {"OPQ", "PCA", "RR", "ITQ"};
    const char *end = token + len;
    uint64_t most = 1;
    for (size_t i = 0; i < sizeof quantizers / sizeof *quantizers; i++)
        if (begins(token, quantizers[i])) {
            bool given = false;
            for (const char *p = token; p < end; p++)
                if (*p == 'x' && isdigit((unsigned char)p[1])) {
                    const char *digits = p + 1;
                    uint64_t bits = number(&digits);
                    /* PRQ and PLSQ: splits x steps x bits, so only the last counts. */
                    if (digits < end && *digits == 'x')
                        continue;
                    uint64_t k = bits > 40 ? UINT64_C(1) << 40 : UINT64_C(1) << bits;
                    most = k > most ? k : most;
                    given = true;
                }
            if (!given)
                most = 256;
        }
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (begins(token, lists[i])) {
            const char *p = token + strlen(lists[i]);
            most = number(&p);
            most *= *p == 'k' ? 1024 : *p == 'M' ? 1048576 : 1;
        }
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        if (begins(token, matrices[i]))
            shape->rotates = true;
    if (begins(token, "OPQ") && most < 256) /* trains a PQ of 8 bits inside */
        most = 256;
    if (most > shape->centroids)
        shape->centroids = most;
}

struct ap_factory_shape ap_factory_look(const char *factory)
{
    struct ap_factory_shape shape = {1, false};
    for (const char *p = factory; *p;) {
        size_t len = strcspn(p, ",");
        look_at_token(p, len, &shape);
        p += len + (p[len] == ',');
    }
    return shape;
}

/* Before FAISS sees it: a hostile string must neither recurse in its regular expressions nor ask for all memory. */
int ap_factory_check(const char *factory, uint32_t dim, struct ap_err *err)
{
    size_t len = strnlen(factory, FACTORY_MAX + 1);
    if (len == 0 || len > FACTORY_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string: 1 to %d bytes, please", FACTORY_MAX);
    for (const char *p = factory; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr(",_+", *p))
            return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string: letters, digits, ',', '_' and '+' only");
    if (dim < 1 || dim > 65536)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "dimension %u is not from 1 to 65536", dim);
    /* Dimensions that a transform makes (PCA, Pad, OPQ with an output size) come out of numbers in the string. */
    uint64_t largest = dim;
    for (const char *p = factory; *p;) {
        if (!isdigit((unsigned char)*p)) {
            p++;
            continue;
        }
        uint64_t n = number(&p);
        if (n == 0 || n > 65536) /* FAISS divides by some of them */
            return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%s': numbers are from 1 to 65536", factory);
        bool output = strstr(factory, "OPQ") || strstr(factory, "PCA") || strstr(factory, "Pad") ||
                      strstr(factory, "RR") || strstr(factory, "ITQ");
        if (output && n > largest)
            largest = n;
    }
    struct ap_factory_shape shape = ap_factory_look(factory);
    uint64_t tables = shape.centroids * largest * sizeof(float);
    if (shape.rotates)
        tables += largest * largest * sizeof(float);
    if (tables > CODEC_TABLE_BYTES_MAX)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "factory string '%s' needs more than %u MiB of tables for %u dimensions",
                          factory, (unsigned)(CODEC_TABLE_BYTES_MAX >> 20), dim);
    return 0;
}
