/* What status and lag find out about each region, made from the daemons' answers; apart from printing, so that it can be
 * tested. Numbers that no daemon gave are negative: unknown is not zero. */
#ifndef ANTIPODE_CTL_REPORT_H
#define ANTIPODE_CTL_REPORT_H
#include <jansson.h>
#include <stdio.h>
#include "ctl/targets.h"

/* {"regions":[{"region","state","daemons":[...],"lag":{origin:{...}},"holes",...}],"well":bool}. New reference. */
json_t *ap_report_status(const struct ap_targets *targets);
/* {"lag":[{"region","origin","topic","partition","seconds","records"}]} sorted as the pages are. New reference. */
json_t *ap_report_lag(const struct ap_targets *targets);

/* The same for people. */
void ap_report_print_status(const json_t *report, FILE *out);
void ap_report_print_lag(const json_t *report, FILE *out);

/* "12 ms", "3.4 s", "2 h 5 min"; "-" when negative. */
void ap_format_seconds(double seconds, char *out, size_t cap);
/* "1.2 GB"; "-" when negative. */
void ap_format_bytes(double bytes, char *out, size_t cap);

#endif
