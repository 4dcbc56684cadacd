/* Fuzz target: a page of metrics, as some daemon answered it. Whatever it holds, the tool reads it to the end and reports. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/report.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(1, size + 1), label[8];
    struct ap_target target = {.up = true, .ready = true, .region = "eu"};
    struct ap_targets targets = {.list = &target, .count = 1};
    if (!text)
        return 0;
    memcpy(text, data, size);
    ap_page_read(&target.page, text);
    for (size_t i = 0; i < target.page.count; i++) {
        if (!*target.page.samples[i].name)
            abort();
        ap_sample_label(&target.page.samples[i], "origin", label, sizeof label);
        if (strlen(label) >= sizeof label)
            abort();
    }
    json_decref(ap_report_status(&targets));
    json_decref(ap_report_lag(&targets));
    ap_page_free(&target.page);
    return 0;
}
