/* Write levels: how many regions must show a write before it is answered.
 *
 * local: none, Kafka has it. visible: this region. quorum: floor(R/2)+1 of the R configured regions, whichever. all: every
 * one. What a region shows is what its newest watermark says; the wait never makes a write less durable. No state: any
 * thread. */
#ifndef ANTIPODE_PRODUCER_LEVELS_H
#define ANTIPODE_PRODUCER_LEVELS_H
#include "common/bytes.h"
#include "producer/watch.h"

enum ap_write_level { AP_LEVEL_LOCAL, AP_LEVEL_VISIBLE, AP_LEVEL_QUORUM, AP_LEVEL_ALL, AP_LEVELS };

const char *ap_write_level_name(enum ap_write_level level);
/* level and wait as the request gave them, NULL when absent: fallback when both are; others: configured regions beside the own one.
 * AP_EINVAL: neither of its words, or the two contradict each other. AP_EUNSUPPORTED: quorum or all where no other region is configured. */
int ap_write_level_parse(const char *level, const char *wait, size_t others, enum ap_write_level fallback, enum ap_write_level *out, struct ap_err *err);
/* Of so many live regions, own one included, how many must show the write. 0: the own one must, and no other. */
size_t ap_write_level_need(enum ap_write_level level, size_t regions);
/* Names of the regions whose watermark does not cover token now (NULL: no positions were given yet, so none does), separated by commas,
 * NUL-terminated; only: the own one. */
void ap_write_missing(struct ap_watch *w, const struct ap_token *token, bool only_own, struct ap_buf *out);

#endif
