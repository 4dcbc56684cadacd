/* A page of metrics (Prometheus text format 0.0.4), parsed into samples that point into the page's own text.
 *
 * Lines that are no sample (comments, or text a newer daemon might add) are skipped: a tool that watches must not fail
 * because the watched one says more than it knows. */
#ifndef ANTIPODE_CTL_PAGE_H
#define ANTIPODE_CTL_PAGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ap_sample {
    const char *name;   /* NUL-terminated */
    const char *labels; /* text between the braces, "" when there are none */
    double value;
};
struct ap_page {
    char *text; /* owned */
    struct ap_sample *samples;
    size_t count;
};

/* Takes text (malloc'ed, NUL-terminated). Aborts when out of memory. */
void ap_page_read(struct ap_page *page, char *text);
void ap_page_free(struct ap_page *page);

/* Value of a label, unescaped, in out ("" when absent or longer than cap). */
bool ap_sample_label(const struct ap_sample *sample, const char *label, char *out, size_t cap);
/* First sample of that name, or NULL. */
const struct ap_sample *ap_page_find(const struct ap_page *page, const char *name);
/* Sum, and greatest, of all samples of that name; of those with label = value when label is not NULL. fallback when there
 * are none. */
double ap_page_sum(const struct ap_page *page, const char *name, const char *label, const char *value, double fallback);
double ap_page_max(const struct ap_page *page, const char *name, const char *label, const char *value, double fallback);
/* True when some sample's name begins so. */
bool ap_page_has_prefix(const struct ap_page *page, const char *prefix);

#endif
