/* Several HTTP requests at once, bodies and answers as bytes; connections are kept from call to call. One thread. */
#ifndef ANTIPODE_CTL_FETCH_H
#define ANTIPODE_CTL_FETCH_H
#include <jansson.h>
#include "common/bytes.h"
#include "common/err.h"

struct ap_fetch {
    const char *method;             /* "GET", "POST", "PUT", "DELETE" */
    char url[640];
    const void *body; size_t len;   /* borrowed; POST and PUT */
    /* after ap_fetcher_run: */
    long status;                    /* 0: no answer, *why says the reason */
    struct ap_buf answer;           /* ap_fetch_fini */
    char why[256];
};

struct ap_fetcher;
struct ap_fetcher *ap_fetcher_new(int timeout_ms); /* of each request */
void ap_fetcher_free(struct ap_fetcher **f);
/* Runs all of them side by side. 0 when every one was answered with 200; else the first other answer's reason. */
int ap_fetcher_run(struct ap_fetcher *f, struct ap_fetch *list, size_t count, struct ap_err *err);
/* Bytes of bodies sent and received so far. */
uint64_t ap_fetcher_bytes(const struct ap_fetcher *f);
/* The member result of a JSON answer; a new reference, NULL when there is none. */
json_t *ap_fetch_result(const struct ap_fetch *one);
void ap_fetch_fini(struct ap_fetch *one);

#endif
