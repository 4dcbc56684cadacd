/* One thread sleeps until the earliest partition is due. Heartbeats that fall close together go out together, so that an
 * idle producer wakes once and sends one request. */
#include "producer/heart.h"
#include <time.h>
#include "common/timeutil.h"
#include "producer/regions.h"

#define TOGETHER_MS 20

static int64_t due_at(const struct ap_topic *t, int32_t partition, int64_t now)
{
    int64_t last, data;
    ap_lane_times(t, partition, &last, &data);
    return last + (now - data >= AP_HEART_IDLE_AFTER_MS ? AP_HEART_IDLE_MS : AP_HEART_BUSY_MS);
}

int64_t ap_heart_beat(struct ap_producer *p, int64_t now_ms)
{
    int64_t next = now_ms + AP_HEART_BUSY_MS;
    bool any = false;
    if (ap_producer_may_stamp(p, NULL) != 0)
        return next;
    for (size_t i = 0; i < p->lanes.topic_count; i++) {
        struct ap_topic *t = &p->lanes.topics[i];
        for (int32_t n = 0; n < t->partitions; n++) {
            int64_t due = due_at(t, n, now_ms);
            if (due <= now_ms + TOGETHER_MS) {
                ap_lane_heartbeat(&p->lanes, t, n);
                due = due_at(t, n, now_ms);
            }
            if (due <= now_ms)
                due = now_ms + AP_HEART_BUSY_MS; /* the last one is still on its way */
            next = any && next < due ? next : due;
            any = true;
        }
    }
    /* A write may begin a busy spell at any time: its first heartbeat is due 100 ms after it. */
    return next < now_ms + AP_HEART_BUSY_MS ? next : now_ms + AP_HEART_BUSY_MS;
}

void *ap_heart_run(void *arg)
{
    struct ap_producer *p = arg;
    pthread_setname_np(pthread_self(), "heart");
    while (!atomic_load(&p->stop)) {
        ap_regions_refresh(p);
        int64_t now = ap_mono_ms(), next = ap_heart_beat(p, now), wait = next - now > 1 ? next - now : 1;
        struct timespec t = {wait / 1000, wait % 1000 * 1000000};
        clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
    }
    return NULL;
}
