/* POST /antipode/barrier: a record into every partition of every mutation topic, answered with their positions when Kafka has
 * them all.
 *
 * Whatever any producer of this region was acknowledged before the request came stands before the barrier in its
 * partition; so a region that shows the barrier shows all of that. A read-only region takes barriers: they change nothing.
 * Fails where heartbeats would: starting, a successor, a clock ahead, Kafka away; and while the spool is in use. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "common/timeutil.h"
#include "producer/api.h"
#include "producer/write.h"

static int publish(struct ap_producer *p, struct ap_ack *ack, struct ap_token *token, struct ap_err *err)
{
    char payload[64];
    int rc = 0, len = snprintf(payload, sizeof payload, "{\"barrier\":\"%016" PRIx64 "-%" PRIu64 "\"}", p->incarnation, atomic_fetch_add(&p->operations, 1) + 1);
    for (size_t i = 0; i < p->lanes.topic_count; i++)
        for (int32_t n = 0; rc == 0 && n < p->lanes.topics[i].partitions; n++)
            rc = ap_lane_barrier(&p->lanes, &p->lanes.topics[i], n, payload, (size_t)len, ack, token, err);
    return rc;
}

void ap_producer_barrier(struct ap_http_request *req)
{
    struct ap_producer *p = ap_http_user(req);
    struct ap_write_options o;
    struct ap_token token = {0};
    struct ap_err err = {0};
    char why[400];
    int rc = ap_write_barrier_options_read(req, p, &o, &err);
    if (rc == 0 && !ap_producer_is_ready(p, why, sizeof why))
        rc = ap_err_set(&err, AP_ENOTREADY, AP_RETRY, "%s", why);
    if (rc == 0 && ap_spool_is_active(&p->spool)) /* these writes are answered, and not in front of any barrier yet */
        rc = ap_err_set(&err, AP_ENOTREADY, AP_RETRY, "writes that this producer has accepted are not in Kafka yet (spool): a strong or bounded read would miss them");
    if (rc == 0) {
        struct ap_ack *ack = ap_ack_new(false);
        rc = publish(p, ack, &token, &err);
        ap_ack_seal(ack);
        if (rc == 0)
            rc = ap_ack_wait(ack, o.deadline_ns, &err);
        ap_ack_unref(&ack);
    }
    if (rc)
        ap_write_reply_err(req, p, &err);
    else
        ap_write_reply(req, p, AP_WRITE_ACKNOWLEDGED, &token, &o, NULL);
    ap_token_fini(&token);
}
