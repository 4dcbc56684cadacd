/* Sending a file of vectors to a producer: requests of bounded size, a few at once, each sent until it is acknowledged.
 *
 * Sending a request again is harmless, because every row has the same id each time. What must not be lost is the place up to
 * which everything is acknowledged: rows before ap_upload_progress.done are. Threads of its own; the functions are for one. */
#ifndef ANTIPODE_CTL_UPLOAD_H
#define ANTIPODE_CTL_UPLOAD_H
#include "ctl/rows.h"

struct ap_upload_options {
    const char *url, *collection; /* of a producer, or an indexer, which passes writes on; no slash at its end */
    bool has_first_id;            /* row i of an array has the id first_id + i; else ids are derived from the vectors */
    uint64_t first_id;
    uint64_t end_row;             /* stop before this row of the file; AP_ROWS_UNKNOWN: at its end */
    size_t request_bytes;         /* of a body, about */
    int parallel;                 /* requests at once */
    int timeout_ms;               /* of a request */
    int patience_ms;              /* how long a request is tried again while the producer is away or busy */
};
struct ap_upload_progress {
    struct ap_rows_place done;    /* everything before it is acknowledged */
    uint64_t rows, bytes, requests, retries; /* acknowledged since the start; rows of text include blank lines */
    uint64_t points;
    char waiting[256];            /* why a request is being tried again; "" when none is */
};

struct ap_upload;
/* rows: where it stands is where the upload begins; borrowed until the end, like the options' strings. */
int ap_upload_start(struct ap_upload **out, struct ap_rows *rows, const struct ap_upload_options *o, struct ap_err *err);
/* Until it is over (true) or timeout_ms have passed. */
bool ap_upload_wait(struct ap_upload *u, int timeout_ms);
void ap_upload_stop(struct ap_upload *u); /* requests under way are finished, but not tried again */
void ap_upload_progress(struct ap_upload *u, struct ap_upload_progress *out);
/* Waits for its threads. 0: all is acknowledged, or it was stopped; AP_EINVAL: the producer refuses a row, or the file is
 * not what it should be; AP_ETIMEOUT: out of patience. *last_token (malloc'ed, NULL when there is none): of the newest
 * acknowledged request of each thread, separated by commas. */
int ap_upload_end(struct ap_upload **u, char **last_token, struct ap_err *err);

#endif
