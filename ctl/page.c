/* One pass over the text: names and label texts are cut in place. */
#include "ctl/page.h"

#include <stdlib.h>
#include <string.h>

/* The closing brace of a label text, minding quotes and escapes; NULL when there is none on this line. */
static char *end_of_labels(char *p)
{
    bool quoted = false;
    for (; *p && *p != '\n'; p++) {
        if (quoted && *p == '\\' && p[1] && p[1] != '\n')
            p++;
        else if (*p == '"')
            quoted = !quoted;
        else if (*p == '}' && !quoted)
            return p;
    }
    return NULL;
}

/* Cut one line into a sample; false when it is none. line is NUL-terminated. */
static bool parse_line(char *line, struct ap_sample *out)
{
    static char none[] = "";
    if (*line == '#' || !*line)
        return false;
    char *p = line + strcspn(line, "{ \t");
    out->name = line;
    out->labels = none;
    if (*p == '{') {
        *p++ = '\0';
        char *end = end_of_labels(p);
        if (!end)
            return false;
        out->labels = p;
        *end = '\0';
        p = end + 1;
    } else if (*p) {
        *p++ = '\0';
    }
    char *after;
    out->value = strtod(p, &after);
    return after != p && *out->name;
}

void ap_page_read(struct ap_page *page, char *text)
{
    size_t cap = 0;
    memset(page, 0, sizeof *page);
    page->text = text;
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        struct ap_sample sample;
        if (!parse_line(line, &sample))
            continue;
        if (page->count == cap) {
            cap = cap ? cap * 2 : 256;
            page->samples = reallocarray(page->samples, cap, sizeof *page->samples);
            if (!page->samples)
                abort();
        }
        page->samples[page->count++] = sample;
    }
}

void ap_page_free(struct ap_page *page)
{
    free(page->text);
    free(page->samples);
    memset(page, 0, sizeof *page);
}

/* Copy a quoted value, which p points into after its opening quote; returns what follows the closing one, or NULL. */
static const char *unquote(const char *p, char *out, size_t cap)
{
    size_t n = 0;
    for (; *p && *p != '"'; p++) {
        char c = *p;
        if (c == '\\' && p[1])
            c = *++p == 'n' ? '\n' : *p;
        if (n + 1 < cap)
            out[n++] = c;
    }
    if (cap)
        out[n] = '\0';
    return *p == '"' ? p + 1 : NULL;
}

bool ap_sample_label(const struct ap_sample *sample, const char *label, char *out, size_t cap)
{
    size_t len = strlen(label);
    for (const char *p = sample->labels; p && *p;) {
        const char *equals = strchr(p, '=');
        if (!equals || equals[1] != '"')
            break;
        bool wanted = (size_t)(equals - p) == len && !memcmp(p, label, len);
        char ignored[1];
        p = unquote(equals + 2, wanted ? out : ignored, wanted ? cap : 1);
        if (wanted)
            return p != NULL;
        while (p && (*p == ',' || *p == ' '))
            p++;
    }
    if (cap)
        *out = '\0';
    return false;
}

const struct ap_sample *ap_page_find(const struct ap_page *page, const char *name)
{
    for (size_t i = 0; i < page->count; i++)
        if (!strcmp(page->samples[i].name, name))
            return &page->samples[i];
    return NULL;
}

static bool matches(const struct ap_sample *sample, const char *name, const char *label, const char *value)
{
    char has[128];
    if (strcmp(sample->name, name))
        return false;
    return !label || (ap_sample_label(sample, label, has, sizeof has) && !strcmp(has, value));
}

double ap_page_sum(const struct ap_page *page, const char *name, const char *label, const char *value, double fallback)
{
    double sum = 0;
    bool any = false;
    for (size_t i = 0; i < page->count; i++) {
        if (!matches(&page->samples[i], name, label, value))
            continue;
        sum += page->samples[i].value;
        any = true;
    }
    return any ? sum : fallback;
}

double ap_page_max(const struct ap_page *page, const char *name, const char *label, const char *value, double fallback)
{
    double most = fallback;
    bool any = false;
    for (size_t i = 0; i < page->count; i++) {
        if (!matches(&page->samples[i], name, label, value))
            continue;
        if (!any || page->samples[i].value > most)
            most = page->samples[i].value;
        any = true;
    }
    return most;
}

bool ap_page_has_prefix(const struct ap_page *page, const char *prefix)
{
    for (size_t i = 0; i < page->count; i++)
        if (!strncmp(page->samples[i].name, prefix, strlen(prefix)))
            return true;
    return false;
}
