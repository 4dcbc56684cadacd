/* Fuzz target: an NPY stream. The first byte is the size of the pieces; however it is cut, the outcome is the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/npy.h"

struct seen {
    uint64_t rows, hash;
    size_t dim;
};

static int on_header(void *arg, uint64_t rows, size_t dim, struct ap_err *err)
{
    struct seen *seen = arg;
    (void)rows, (void)err;
    seen->dim = dim;
    if (dim == 0 || dim > AP_NPY_MAX_DIM)
        abort();
    return 0;
}

static int on_rows(void *arg, const float *rows, size_t count, size_t dim, uint64_t first, struct ap_err *err)
{
    struct seen *seen = arg;
    (void)err;
    if (first != seen->rows || dim != seen->dim || count == 0)
        abort();
    for (size_t i = 0; i < count * dim; i++) {
        uint32_t bits;
        memcpy(&bits, rows + i, sizeof bits);
        seen->hash = seen->hash * 31 + bits;
    }
    seen->rows += count;
    return 0;
}

static int run(const uint8_t *data, size_t size, size_t piece, struct seen *seen, struct ap_err *err)
{
    struct ap_npy_sink sink = {on_header, on_rows, seen};
    struct ap_npy *npy = ap_npy_new(&sink);
    int rc = 0;
    for (size_t i = 0; i < size && rc == 0; i += piece)
        rc = ap_npy_feed(npy, data + i, size - i < piece ? size - i : piece, err);
    rc = ap_npy_end(npy, err);
    ap_npy_free(&npy);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct seen whole = {0}, cut = {0};
    struct ap_err a = {0}, b = {0};
    int first = run(data + 1, size - 1, size, &whole, &a);
    int second = run(data + 1, size - 1, (size_t)data[0] + 1, &cut, &b);
    if (first != second || strcmp(a.msg, b.msg) != 0 || whole.rows != cut.rows || whole.hash != cut.hash)
        abort();
    return 0;
}
