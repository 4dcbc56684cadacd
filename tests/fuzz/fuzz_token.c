/* Fuzz target: tokens. The first byte says whether the rest is a token's text (even), or its content, to which prefix and
 * checksum are added (odd), so that what lies behind the checksum is reached. What is accepted prints and parses again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "common/base64url.h"
#include "common/watermark.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ap_token t, again;
    struct ap_buf text = {0}, printed = {0}, content = {0};
    if (size < 1)
        return 0;
    if (data[0] & 1) {
        uint8_t sum[4];
        ap_put_le32(sum, (uint32_t)XXH3_64bits(data + 1, size - 1));
        ap_buf_append(&content, data + 1, size - 1);
        ap_buf_append(&content, sum, 4);
        ap_buf_append(&text, "ap1.", 4);
        ap_base64url_encode(content.data, content.len, &text);
    } else {
        ap_buf_append(&text, data + 1, size - 1);
        ap_buf_reserve(&text, 1);
    }
    if (ap_token_parse((const char *)text.data, text.len, &t, NULL) == 0) {
        ap_token_format(&t, &printed);
        if (ap_token_parse((const char *)printed.data, printed.len, &again, NULL) || again.count != t.count ||
            again.stream != t.stream || again.hlc != t.hlc || again.lineage != t.lineage)
            abort();
        if (t.count)
            ap_token_covered(&t, &(struct ap_position){ .stream = t.stream, .partition = t.entries[0].partition }, 1);
        ap_token_fini(&t);
        ap_token_fini(&again);
    }
    ap_buf_free(&text);
    ap_buf_free(&printed);
    ap_buf_free(&content);
    return 0;
}
