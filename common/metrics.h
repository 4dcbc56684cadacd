/* Metrics in the Prometheus text format 0.0.4.
 *
 * A metric is registered once, by name and label text, and then updated without a lock from any thread. Registering the
 * same name and labels again returns the same metric. Names carry their base unit (_seconds, _bytes, _total).
 * Collectors compute values at scrape time (lag, memory), in the scraping thread. */
#ifndef ANTIPODE_COMMON_METRICS_H
#define ANTIPODE_COMMON_METRICS_H
#include <stddef.h>
#include <stdint.h>

struct ap_metrics;
struct ap_metric;

struct ap_metrics *ap_metrics_new(void); /* aborts when out of memory: start-up only */
void ap_metrics_free(struct ap_metrics **metrics);

/* labels: text between the braces, e.g. "origin=\"eu\",partition=\"3\"", or NULL. Strings are copied. Never NULL. */
struct ap_metric *ap_counter(struct ap_metrics *m, const char *name, const char *labels, const char *help);
struct ap_metric *ap_gauge(struct ap_metrics *m, const char *name, const char *labels, const char *help);
/* Latency histogram in seconds; fixed buckets from 50 us to 60 s, about 2.5 a decade step (1, 2.5, 5). */
struct ap_metric *ap_histogram(struct ap_metrics *m, const char *name, const char *labels, const char *help);

void ap_count(struct ap_metric *counter, uint64_t n);
uint64_t ap_count_value(const struct ap_metric *counter);
void ap_gauge_set(struct ap_metric *gauge, double value);
void ap_observe(struct ap_metric *histogram, double seconds);

/* Output of a scrape, given to collectors. */
struct ap_metrics_out;
/* TYPE and HELP lines are printed once per name. type: "gauge" or "counter". */
void ap_metrics_emit(struct ap_metrics_out *out, const char *name, const char *labels, const char *type,
                     const char *help, double value);
typedef void (*ap_metrics_collector)(struct ap_metrics_out *out, void *arg);
void ap_metrics_collect(struct ap_metrics *m, ap_metrics_collector fn, void *arg);
/* Before what arg points to goes away: afterwards fn does not run any more. Not from a collector. */
void ap_metrics_uncollect(struct ap_metrics *m, ap_metrics_collector fn, void *arg);

/* The whole page; malloc'ed text that the caller frees. Also carries process_* (RSS, CPU seconds, open fds, start time)
 * and antipode_build_info. */
char *ap_metrics_render(struct ap_metrics *m, size_t *len);

#endif
