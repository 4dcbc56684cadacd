/* Fuzz target: NDJSON lines. The first byte is the size of the pieces, the second the limit of a line; however the text
 * is cut, the same lines come out, or the same error. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "common/ndjson.h"

struct seen {
    uint64_t line, hash;
    size_t limit;
};

static int on_line(void *arg, uint64_t line, const char *text, size_t len, struct ap_err *err)
{
    struct seen *seen = arg;
    (void)err;
    if (line <= seen->line || len == 0 || len > seen->limit || memchr(text, '\n', len))
        abort();
    seen->line = line;
    for (size_t i = 0; i < len; i++)
        seen->hash = seen->hash * 31 + (unsigned char)text[i];
    return 0;
}

static int run(const uint8_t *data, size_t size, size_t piece, struct seen *seen, struct ap_err *err)
{
    struct ap_ndjson *s = ap_ndjson_new(seen->limit, on_line, seen);
    int rc = 0;
    for (size_t i = 0; i < size && rc == 0; i += piece)
        rc = ap_ndjson_feed(s, (const char *)data + i, size - i < piece ? size - i : piece, err);
    rc = ap_ndjson_end(s, err);
    ap_ndjson_free(&s);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    struct seen whole = {.limit = data[1]}, cut = {.limit = data[1]};
    struct ap_err a = {0}, b = {0};
    int first = run(data + 2, size - 2, size, &whole, &a);
    int second = run(data + 2, size - 2, (size_t)data[0] + 1, &cut, &b);
    if (first != second || strcmp(a.msg, b.msg) != 0 || whole.line != cut.line || whole.hash != cut.hash)
        abort();
    return 0;
}
