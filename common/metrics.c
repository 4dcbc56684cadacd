/* Metrics: a list of families (one per name), each with its series (one per label text).
 *
 * The lock guards the lists, for registering and rendering; updates are relaxed atomics on the series and take no lock.
 * Families and series are never removed before ap_metrics_free, so a caller may keep its pointer. Rendering walks the
 * registered families first, then lets each collector append; a collector's lines are gathered per name, because the
 * text format wants all lines of a name together under one TYPE. */
#include "common/metrics.h"
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "common/bytes.h"
#include "common/version.h"

static const double bucket_bounds[] = {50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3,
                                       0.1,   0.25,   0.5,    1,      2.5,  5,      10,   25,    60};
#define BUCKETS (sizeof bucket_bounds / sizeof *bucket_bounds)

enum metric_type { TYPE_COUNTER, TYPE_GAUGE, TYPE_HISTOGRAM };
static const char *const type_names[] = {"counter", "gauge", "histogram"};

struct ap_metric {
    struct ap_metric *next;
    char *labels; /* "" when none */
    uint64_t count;     /* counter: the value */
    double value;       /* gauge: the value; histogram: the sum */
    uint64_t buckets[]; /* histogram: not cumulative, the last one is +Inf */
};

struct family {
    struct family *next;
    char *name, *help;
    enum metric_type type;
    struct ap_metric *first, **last;
};

struct collector {
    struct collector *next;
    ap_metrics_collector fn;
    void *arg;
};

struct ap_metrics {
    pthread_mutex_t lock;
    pthread_mutex_t collecting; /* held while a collector runs: taken before lock */
    struct family *first, **last;
    struct collector *collectors, **last_collector;
};

/* A name that collectors emit in one scrape, with its lines. */
struct emitted {
    char *name, *type, *help;
    struct ap_buf lines;
};

struct ap_metrics_out {
    struct emitted *names;
    size_t count;
};

static void *must_alloc(void *p)
{
    if (!p)
        abort();
    return p;
}

struct ap_metrics *ap_metrics_new(void)
{
    struct ap_metrics *m = must_alloc(calloc(1, sizeof *m));
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->collecting, NULL);
    m->last = &m->first;
    m->last_collector = &m->collectors;
    return m;
}

void ap_metrics_free(struct ap_metrics **metrics)
{
    struct ap_metrics *m = *metrics;
    if (!m)
        return;
    for (struct family *f = m->first, *next; f; f = next) {
        next = f->next;
        for (struct ap_metric *s = f->first, *after; s; s = after) {
            after = s->next;
            free(s->labels);
            free(s);
        }
        free(f->name);
        free(f->help);
        free(f);
    }
    for (struct collector *c = m->collectors, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->collecting);
    free(m);
    *metrics = NULL;
}

static struct family *family_of(struct ap_metrics *m, const char *name, const char *help, enum metric_type type)
{
    for (struct family *f = m->first; f; f = f->next)
        if (strcmp(f->name, name) == 0) {
            if (f->type != type)
                abort(); /* one name, two types: a programmer's error that would spoil the whole page */
            return f;
        }
    struct family *f = must_alloc(calloc(1, sizeof *f));
    f->name = must_alloc(strdup(name));
    f->help = must_alloc(strdup(help ? help : ""));
    f->type = type;
    f->last = &f->first;
    *m->last = f;
    m->last = &f->next;
    return f;
}

static struct ap_metric *metric_of(struct ap_metrics *m, const char *name, const char *labels, const char *help,
                                   enum metric_type type)
{
    pthread_mutex_lock(&m->lock);
    struct family *f = family_of(m, name, help, type);
    struct ap_metric *s = f->first;
    while (s && strcmp(s->labels, labels ? labels : "") != 0)
        s = s->next;
    if (!s) {
        size_t buckets = type == TYPE_HISTOGRAM ? BUCKETS + 1 : 0;
        s = must_alloc(calloc(1, sizeof *s + buckets * sizeof *s->buckets));
        s->labels = must_alloc(strdup(labels ? labels : ""));
        *f->last = s;
        f->last = &s->next;
    }
    pthread_mutex_unlock(&m->lock);
    return s;
}

struct ap_metric *ap_counter(struct ap_metrics *m, const char *name, const char *labels, const char *help)
{
    return metric_of(m, name, labels, help, TYPE_COUNTER);
}

struct ap_metric *ap_gauge(struct ap_metrics *m, const char *name, const char *labels, const char *help)
{
    return metric_of(m, name, labels, help, TYPE_GAUGE);
}

struct ap_metric *ap_histogram(struct ap_metrics *m, const char *name, const char *labels, const char *help)
{
    return metric_of(m, name, labels, help, TYPE_HISTOGRAM);
}

void ap_count(struct ap_metric *counter, uint64_t n)
{
    __atomic_fetch_add(&counter->count, n, __ATOMIC_RELAXED);
}

uint64_t ap_count_value(const struct ap_metric *counter)
{
    return __atomic_load_n(&counter->count, __ATOMIC_RELAXED);
}

void ap_gauge_set(struct ap_metric *gauge, double value)
{
    __atomic_store(&gauge->value, &value, __ATOMIC_RELAXED);
}

static double load_value(const struct ap_metric *s)
{
    double value;
    __atomic_load(&s->value, &value, __ATOMIC_RELAXED);
    return value;
}

void ap_observe(struct ap_metric *histogram, double seconds)
{
    if (!(seconds >= 0)) /* a clock that stepped back, or NaN, must not poison the sum */
        seconds = 0;
    size_t i = 0;
    while (i < BUCKETS && seconds > bucket_bounds[i])
        i++;
    __atomic_fetch_add(&histogram->buckets[i], 1, __ATOMIC_RELAXED);
    double old = load_value(histogram), sum;
    do
        sum = old + seconds;
    while (!__atomic_compare_exchange(&histogram->value, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

/* The format's own words for what %g would print as nan and inf. 17 digits only where 15 do not read back the same. */
static void print_value(struct ap_buf *out, double value)
{
    if (isnan(value))
        ap_buf_printf(out, "NaN\n");
    else if (isinf(value))
        ap_buf_printf(out, "%cInf\n", value > 0 ? '+' : '-');
    else {
        char text[32];
        snprintf(text, sizeof text, "%.15g", value);
        if (strtod(text, NULL) < value || strtod(text, NULL) > value)
            snprintf(text, sizeof text, "%.17g", value);
        ap_buf_printf(out, "%s\n", text);
    }
}

static void print_head(struct ap_buf *out, const char *name, const char *help, const char *type)
{
    ap_buf_printf(out, "# HELP %s ", name);
    for (const char *p = help; *p; p++)
        if (*p == '\\' || *p == '\n')
            ap_buf_append(out, *p == '\n' ? "\\n" : "\\\\", 2);
        else
            ap_buf_append(out, p, 1);
    ap_buf_printf(out, "\n# TYPE %s %s\n", name, type);
}

static void print_name(struct ap_buf *out, const char *name, const char *labels)
{
    if (labels && *labels)
        ap_buf_printf(out, "%s{%s} ", name, labels);
    else
        ap_buf_printf(out, "%s ", name);
}

static void print_histogram(struct ap_buf *out, const char *name, const struct ap_metric *s)
{
    uint64_t total = 0;
    const char *comma = *s->labels ? "," : "";
    for (size_t i = 0; i <= BUCKETS; i++) {
        total += __atomic_load_n(&s->buckets[i], __ATOMIC_RELAXED);
        ap_buf_printf(out, "%s_bucket{%s%sle=\"", name, s->labels, comma);
        if (i < BUCKETS)
            ap_buf_printf(out, "%g\"} %llu\n", bucket_bounds[i], (unsigned long long)total);
        else
            ap_buf_printf(out, "+Inf\"} %llu\n", (unsigned long long)total);
    }
    const char *open = *s->labels ? "{" : "", *close = *s->labels ? "}" : "";
    ap_buf_printf(out, "%s_sum%s%s%s ", name, open, s->labels, close);
    print_value(out, load_value(s));
    ap_buf_printf(out, "%s_count%s%s%s %llu\n", name, open, s->labels, close, (unsigned long long)total);
}

static void print_family(struct ap_buf *out, const struct family *f)
{
    print_head(out, f->name, f->help, type_names[f->type]);
    for (const struct ap_metric *s = f->first; s; s = s->next) {
        if (f->type == TYPE_HISTOGRAM) {
            print_histogram(out, f->name, s);
            continue;
        }
        print_name(out, f->name, s->labels);
        if (f->type == TYPE_COUNTER)
            ap_buf_printf(out, "%llu\n", (unsigned long long)ap_count_value(s));
        else
            print_value(out, load_value(s));
    }
}

void ap_metrics_emit(struct ap_metrics_out *out, const char *name, const char *labels, const char *type,
                     const char *help, double value)
{
    size_t i = 0;
    while (i < out->count && strcmp(out->names[i].name, name) != 0)
        i++;
    if (i == out->count) {
        out->names = must_alloc(realloc(out->names, (out->count + 1) * sizeof *out->names));
        out->names[out->count++] = (struct emitted){must_alloc(strdup(name)), must_alloc(strdup(type)),
                                                    must_alloc(strdup(help ? help : "")), {0}};
    }
    print_name(&out->names[i].lines, name, labels);
    print_value(&out->names[i].lines, value);
}

void ap_metrics_collect(struct ap_metrics *m, ap_metrics_collector fn, void *arg)
{
    struct collector *c = must_alloc(calloc(1, sizeof *c));
    c->fn = fn;
    c->arg = arg;
    pthread_mutex_lock(&m->lock);
    *m->last_collector = c;
    m->last_collector = &c->next;
    pthread_mutex_unlock(&m->lock);
}

void ap_metrics_uncollect(struct ap_metrics *m, ap_metrics_collector fn, void *arg)
{
    pthread_mutex_lock(&m->collecting);
    pthread_mutex_lock(&m->lock);
    for (struct collector *c = m->collectors; c; c = c->next)
        if (c->fn == fn && c->arg == arg)
            c->fn = NULL; /* the entry stays: a scrape may stand at it */
    pthread_mutex_unlock(&m->lock);
    pthread_mutex_unlock(&m->collecting);
}

/* Seconds since 1970 at which this process started: /proc/self/stat counts in ticks since boot. */
static double start_time(void)
{
    FILE *f = fopen("/proc/self/stat", "re");
    char line[1024] = "";
    size_t n = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f)
        fclose(f);
    line[n] = 0;
    char *p = strrchr(line, ')'); /* the command before it may hold blanks */
    for (int field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    f = fopen("/proc/stat", "re");
    double boot = 0;
    char row[4096];
    while (f && fgets(row, sizeof row, f))
        if (strncmp(row, "btime ", 6) == 0)
            boot = strtod(row + 6, NULL);
    if (f)
        fclose(f);
    return p ? boot + strtod(p, NULL) / (double)sysconf(_SC_CLK_TCK) : 0;
}

static void emit_process(struct ap_metrics_out *out)
{
    unsigned long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%lu %lu", &total, &resident) != 2)
            total = resident = 0;
        fclose(f);
    }
    double page = (double)sysconf(_SC_PAGESIZE);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    double cpu = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                 (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1e-6;
    int fds = 0;
    DIR *dir = opendir("/proc/self/fd");
    for (struct dirent *e; dir && (e = readdir(dir));)
        fds += e->d_name[0] != '.';
    if (dir)
        closedir(dir);

    ap_metrics_emit(out, "process_resident_memory_bytes", NULL, "gauge", "Resident memory.", (double)resident * page);
    ap_metrics_emit(out, "process_virtual_memory_bytes", NULL, "gauge", "Virtual memory.", (double)total * page);
    ap_metrics_emit(out, "process_cpu_seconds_total", NULL, "counter", "User and system CPU time.", cpu);
    ap_metrics_emit(out, "process_open_fds", NULL, "gauge", "Open file descriptors.", dir ? fds - 1 : 0);
    ap_metrics_emit(out, "process_start_time_seconds", NULL, "gauge", "Start of the process, since 1970.", start_time());
    ap_metrics_emit(out, "antipode_build_info", "version=\"" ANTIPODE_VERSION "\",compiler=\"" __VERSION__ "\"", "gauge",
                    "Always 1; the labels say what was built.", 1);
}

static bool registered(const struct family *f, const char *name)
{
    for (; f; f = f->next)
        if (strcmp(f->name, name) == 0)
            return true;
    return false;
}

char *ap_metrics_render(struct ap_metrics *m, size_t *len)
{
    /* Collectors run without the lock, so that they may register metrics of their own. Lists only grow at their end. */
    pthread_mutex_lock(&m->lock);
    struct collector *c = m->collectors;
    pthread_mutex_unlock(&m->lock);
    struct ap_metrics_out emitted = {0};
    while (c) {
        pthread_mutex_lock(&m->collecting);
        if (c->fn)
            c->fn(&emitted, c->arg);
        pthread_mutex_unlock(&m->collecting);
        pthread_mutex_lock(&m->lock);
        c = c->next;
        pthread_mutex_unlock(&m->lock);
    }
    emit_process(&emitted);

    struct ap_buf out = {0};
    pthread_mutex_lock(&m->lock);
    for (const struct family *f = m->first; f; f = f->next) {
        print_family(&out, f);
        for (size_t i = 0; i < emitted.count; i++) /* emitted under a registered name: same block, no second TYPE */
            if (strcmp(emitted.names[i].name, f->name) == 0)
                ap_buf_append(&out, emitted.names[i].lines.data, emitted.names[i].lines.len);
    }
    for (size_t i = 0; i < emitted.count; i++) {
        struct emitted *e = &emitted.names[i];
        if (!registered(m->first, e->name)) {
            print_head(&out, e->name, e->help, e->type);
            ap_buf_append(&out, e->lines.data, e->lines.len);
        }
        free(e->name);
        free(e->type);
        free(e->help);
        ap_buf_free(&e->lines);
    }
    pthread_mutex_unlock(&m->lock);
    free(emitted.names);
    ap_buf_append(&out, "", 1);
    *len = out.len - 1;
    return (char *)out.data;
}
