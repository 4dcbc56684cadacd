/* Positions in bytes. Little-endian but for the numbers of keys (big-endian, so that they sort):
 *
 *   key     u8 'L' (live) or 'F' (floor), u64 stream or lineage, u32 partition, topic
 *   value   u8 format (1), u8 flags (1: the end is known), 16 bytes region, u64 lineage, u64 incarnation, u64 mark, u64 clock,
 *           u64 top, u64 end, then for each hole u64 first, u64 last, u64 clock of the range behind it */
#include "common/positions_internal.h"

#define FORMAT 1
#define VALUE_HEAD 66
#define HOLE_BYTES 24

static void encode(const struct ap_entry *e, struct ap_buf *out)
{
    uint8_t head[VALUE_HEAD], hole[HOLE_BYTES];
    head[0] = FORMAT;
    head[1] = e->ended;
    memcpy(head + 2, e->origin.name, 16);
    const uint64_t numbers[] = {e->lineage, e->incarnation, e->mark, e->clock, e->top, e->end};
    for (size_t i = 0; i < 6; i++)
        ap_put_le64(head + 18 + 8 * i, numbers[i]);
    ap_buf_clear(out);
    ap_buf_append(out, head, sizeof head);
    for (size_t i = 0; i < e->count; i++) {
        ap_put_le64(hole, e->holes[i].first);
        ap_put_le64(hole + 8, e->holes[i].last);
        ap_put_le64(hole + 16, e->clocks[i]);
        ap_buf_append(out, hole, sizeof hole);
    }
}

int ap_positions_flush(struct ap_positions *p, ap_positions_put put, void *arg)
{
    ap_positions_resolve(p);
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < p->dead.len;) {
        size_t len = ap_le16(p->dead.data + at);
        rc = put(arg, p->dead.data + at + 2, len, NULL, 0);
        at += 2 + len;
    }
    if (rc == 0)
        ap_buf_clear(&p->dead);
    struct ap_buf value = {0};
    while (rc == 0 && p->dirty) {
        struct ap_entry *e = p->dirty;
        uint8_t key[AP_POSITION_KEY_HEAD + AP_TOPIC_MAX];
        size_t len = ap_position_key(e, key);
        encode(e, &value);
        rc = put(arg, key, len, value.data, value.len);
        if (rc == 0) {
            p->dirty = e->next_dirty;
            e->dirty = false;
        }
    }
    ap_buf_free(&value);
    return rc;
}

/* What an entry's bytes say; holes stay in the value. */
static int decode(const void *key, size_t key_len, const void *value, size_t value_len, struct ap_entry *out,
                  const uint8_t **holes, size_t *count, struct ap_err *err)
{
    const uint8_t *k = key, *v = value;
    memset(out, 0, sizeof *out);
    if (key_len <= AP_POSITION_KEY_HEAD || key_len >= AP_POSITION_KEY_HEAD + AP_TOPIC_MAX || (k[0] != 'L' && k[0] != 'F') ||
        memchr(k + AP_POSITION_KEY_HEAD, 0, key_len - AP_POSITION_KEY_HEAD))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a stored position has a key of %zu bytes that is none", key_len);
    if (value_len < VALUE_HEAD || v[0] != FORMAT || (value_len - VALUE_HEAD) % HOLE_BYTES != 0 || v[17] != 0)
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a stored position of %zu bytes has another format than %d", value_len, FORMAT);
    out->floor = k[0] == 'F';
    out->id = ap_be64(k + 1);
    out->partition = (int32_t)((uint32_t)k[9] << 24 | (uint32_t)k[10] << 16 | (uint32_t)k[11] << 8 | k[12]);
    memcpy(out->topic, k + AP_POSITION_KEY_HEAD, key_len - AP_POSITION_KEY_HEAD);
    out->ended = v[1] & 1;
    memcpy(out->origin.name, v + 2, 16);
    uint64_t *numbers[] = {&out->lineage, &out->incarnation, &out->mark, &out->clock, &out->top, &out->end};
    for (size_t i = 0; i < 6; i++)
        *numbers[i] = ap_le64(v + 18 + 8 * i);
    *holes = v + VALUE_HEAD;
    *count = (value_len - VALUE_HEAD) / HOLE_BYTES;
    uint64_t held = out->mark;
    for (size_t i = 0; i < *count; i++) {
        uint64_t first = ap_le64(*holes + i * HOLE_BYTES), last = ap_le64(*holes + i * HOLE_BYTES + 8);
        /* Each behind the one before, with something held between them but at the very start. */
        if (first > last || last > out->top || first <= held || (i == 0 ? first != held + 1 : first == held + 1))
            return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "the holes of a stored position overlap");
        held = last;
    }
    if (out->mark > out->top || (*count == 0 && out->mark != out->top) || (out->floor && *count > 0))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "the marks of a stored position contradict each other");
    return 0;
}

int ap_positions_load_entry(struct ap_positions *p, const void *key, size_t key_len, const void *value, size_t value_len, struct ap_err *err)
{
    struct ap_entry read;
    const uint8_t *holes;
    size_t count;
    int rc = decode(key, key_len, value, value_len, &read, &holes, &count, err);
    if (rc < 0)
        return rc;
    if (ap_positions_find(p, read.floor, read.id, read.topic, read.partition))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "a position is stored twice");
    struct ap_entry *e = ap_positions_add(p, read.floor, read.id, &read.origin, read.topic, read.partition);
    e->incarnation = read.incarnation;
    e->lineage = read.lineage;
    e->ended = read.ended;
    e->mark = read.mark;
    e->clock = read.clock;
    e->top = read.top;
    e->end = read.end;
    for (size_t i = 0; i < count; i++)
        ap_range_insert_hole(e, i, ap_le64(holes + i * HOLE_BYTES), ap_le64(holes + i * HOLE_BYTES + 8), ap_le64(holes + i * HOLE_BYTES + 16));
    p->unresolved += !e->floor && e->lineage == 0;
    return 0;
}

int ap_position_decode(const void *key, size_t key_len, const void *value, size_t value_len, struct ap_position *out,
                       uint64_t *missing, struct ap_err *err)
{
    struct ap_entry read;
    const uint8_t *holes;
    size_t count;
    int rc = decode(key, key_len, value, value_len, &read, &holes, &count, err);
    if (rc < 0)
        return rc;
    ap_position_of(&read, out);
    if (missing) {
        *missing = 0;
        for (size_t i = 0; i < count; i++) {
            struct ap_hole hole = {ap_le64(holes + i * HOLE_BYTES), ap_le64(holes + i * HOLE_BYTES + 8)};
            if (__builtin_add_overflow(*missing, ap_range_missing(&hole, 1), missing))
                *missing = UINT64_MAX;
        }
    }
    return 0;
}

bool ap_position_hole(const void *value, size_t value_len, size_t i, struct ap_hole *out)
{
    const uint8_t *at = (const uint8_t *)value + VALUE_HEAD + i * HOLE_BYTES;
    if (value_len < VALUE_HEAD || i >= (value_len - VALUE_HEAD) / HOLE_BYTES)
        return false;
    *out = (struct ap_hole){ap_le64(at), ap_le64(at + 8)};
    return true;
}

uint64_t ap_position_top(const void *value)
{
    return ap_le64((const uint8_t *)value + 50);
}
