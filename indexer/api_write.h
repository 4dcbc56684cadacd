/* Passing writes on: what api_write.c and api_by_filter.c share. */
#ifndef ANTIPODE_INDEXER_API_WRITE_H
#define ANTIPODE_INDEXER_API_WRITE_H
#include "indexer/api_impl.h"

/* Who waits, as the request's level, header and wait say. AP_EINVAL. */
int ap_write_wait_read(const struct ap_http_request *req, struct ap_write_wait *wait, struct ap_err *err);
/* request is what ap_forward_request_of made of req, its body changed at will; sent with what wait leaves to the producer,
 * which has its own deadlines: this one is for a producer that hangs. Errors as ap_forward_send. */
int ap_write_forward(struct ap_http_request *req, struct ap_forward_request *request, const struct ap_write_wait *wait, int64_t deadline_ns,
                     struct ap_forward_reply *reply, struct ap_err *err);
/* Borrowed; NULL when it is not there. */
const char *ap_write_reply_header(const struct ap_forward_reply *reply, const char *name);
/* Until this region shows the write of a token: 0, AP_ETIMEOUT, or why the wait was no use. */
int ap_write_wait_visible(struct ap_api *api, const char *token, int64_t deadline_ns, struct ap_err *err);

#endif
