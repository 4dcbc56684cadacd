/* Flow: feed -> (npy or ndjson reader) -> the batch being filled -> pool job (parse, check, encode) -> publish, oldest
 * first -> list of acks, oldest awaited when there are many.
 *
 * Fails on bad input (all errors of that batch are listed, up to a bound), when Kafka is away for longer than the timeout,
 * or when the collection goes away meanwhile. */
#include "producer/bulk.h"
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include "common/ndjson.h"
#include "common/npy.h"
#include "common/timeutil.h"
#include "producer/points_json.h"

#define PART_BYTES ((size_t)8 << 20) /* of one batch's vectors, or of its text */
#define ACKS_MAX 64
#define ENCODERS_MAX 16
#define TRIM_ROWS 100000

struct line { uint64_t number; size_t at, len; };

/* One batch. */
struct part {
    struct ap_job job; /* first */
    struct ap_target *target;
    struct ap_points points;
    struct ap_buf text;        /* NDJSON: the lines, parsed by the job */
    struct line *lines;
    size_t line_count, line_cap;
    uint64_t first_row;        /* npy */
    struct ap_point_errors errors;
    struct ap_err err;
    int rc;
};

struct ap_bulk {
    struct ap_producer *p;
    char *collection;
    struct ap_bulk_options o;
    size_t batch_rows;
    struct ap_npy *npy;
    struct ap_ndjson *ndjson;
    struct part parts[ENCODERS_MAX + 2]; /* a ring: [oldest, oldest + encoding) are in the pool, the next is being filled */
    size_t part_count, oldest, encoding;
    struct { struct ap_ack *ack; size_t points; } acks[ACKS_MAX];
    size_t ack_first, ack_count;
    struct ap_record *records;
    /* Reading has run ahead of publishing, so what failed in a batch was earlier in the stream, and is what counts. */
    int read_failed, failed;
    struct ap_err read_err, err;
    struct ap_bulk_result result;
};

static struct part *filling(struct ap_bulk *b)
{
    return &b->parts[(b->oldest + b->encoding) % b->part_count];
}

/* --- the job: runs in the pool --- */

static void parse_lines(struct part *part)
{
    for (size_t i = 0; i < part->line_count; i++) {
        struct ap_err err = {0};
        const struct line *l = &part->lines[i];
        if (ap_points_parse_one((const char *)part->text.data + l->at, l->len, part->target, &part->points, &err) != 0)
            ap_point_errors_add(&part->errors, i, "%s", err.msg);
    }
}

static void prepare_part(struct ap_job *job)
{
    struct part *part = (struct part *)job;
    parse_lines(part);
    if (part->errors.count)
        part->rc = AP_EINVAL; /* points and lines no longer run in step */
    else
        part->rc = ap_points_prepare(&part->points, part->target, &part->errors, &part->err);
}

/* --- publishing, in order --- */

static int settle_oldest(struct ap_bulk *b)
{
    struct ap_err err = {0};
    size_t i = b->ack_first;
    /* Once Kafka was too slow it is not waited for again. */
    int64_t patience = b->failed && b->err.cls == AP_RETRY ? 0 : b->o.timeout_ms * 1000000;
    int rc = ap_ack_wait(b->acks[i].ack, ap_mono_ns() + patience, &err);
    if (rc == 0) {
        b->result.acknowledged += b->acks[i].points;
    } else if (b->failed == 0) {
        b->failed = rc;
        b->err = err;
    }
    ap_ack_unref(&b->acks[i].ack);
    b->ack_first = (i + 1) % ACKS_MAX;
    b->ack_count--;
    return rc;
}

static int fail_with_errors(struct ap_bulk *b, const struct part *part, struct ap_err *err)
{
    if (!part->errors.count) { /* not the input's fault */
        *err = part->err;
        return part->rc;
    }
    b->result.errors = part->errors;
    size_t kept = part->errors.count < AP_POINT_ERRORS ? part->errors.count : AP_POINT_ERRORS;
    for (size_t i = 0; i < kept; i++) {
        uint64_t index = part->errors.first[i].index;
        b->result.errors.first[i].index = b->result.lines ? part->lines[index].number : part->first_row + index;
    }
    return ap_err_set(err, AP_EINVAL, AP_POISON, "%s %" PRIu64 ": %s", b->result.lines ? "line" : "row", b->result.errors.first[0].index, b->result.errors.first[0].text);
}

static int publish_part(struct ap_bulk *b, struct part *part, struct ap_err *err)
{
    struct ap_points *points = &part->points;
    struct ap_target *t = part->target;
    size_t published;
    if (b->ack_count == ACKS_MAX) {
        int rc = settle_oldest(b);
        if (rc) {
            *err = b->err;
            return rc;
        }
    }
    if (t->sampler && ap_sampler_offer(t->sampler, points->vectors, points->n))
        ap_control_log_wake(&b->p->control);
    ap_points_records(points, t, b->records);
    struct ap_ack *ack = ap_ack_new(true);
    int64_t room = ap_mono_ns() + b->o.timeout_ms * 1000000;
    int rc = ap_lanes_publish(&b->p->lanes, t->topic, b->records, points->n, room, ack, &b->result.token, &published, err);
    ap_ack_seal(ack);
    if (rc) {
        ap_ack_unref(&ack);
        return rc;
    }
    size_t at = (b->ack_first + b->ack_count++) % ACKS_MAX;
    b->acks[at].ack = ack;
    b->acks[at].points = points->n;
    return 0;
}

static void empty_part(struct part *part)
{
    ap_target_unref(&part->target);
    ap_points_clear(&part->points);
    ap_buf_clear(&part->text);
    part->line_count = 0;
    part->errors = (struct ap_point_errors){0};
    part->err = (struct ap_err){0};
    part->rc = 0;
}

/* The oldest batch leaves the pool; it is published unless one before it has failed. */
static int retire_oldest(struct ap_bulk *b)
{
    struct part *part = &b->parts[b->oldest];
    ap_pool_wait(&b->p->pool, &part->job);
    if (b->failed == 0)
        b->failed = part->rc ? fail_with_errors(b, part, &b->err) : publish_part(b, part, &b->err);
    empty_part(part);
    b->oldest = (b->oldest + 1) % b->part_count;
    b->encoding--;
    return b->failed;
}

static int submit(struct ap_bulk *b, struct ap_err *err)
{
    ap_pool_submit(&b->p->pool, &filling(b)->job);
    b->encoding++;
    if (b->encoding < b->part_count - 1 || retire_oldest(b) == 0)
        return 0;
    *err = b->err;
    return b->failed;
}

/* --- filling --- */

/* Each batch looks the collection up anew: a codec may have been trained, or the collection deleted. */
static int begin_part(struct ap_bulk *b, struct part *part, struct ap_err *err)
{
    if (part->target)
        return 0;
    int rc = ap_producer_may_write(b->p, err);
    if (rc)
        return rc;
    if (ap_spool_is_active(&b->p->spool))
        return ap_err_set(err, AP_ENOTREADY, AP_RETRY, "Kafka is away, or spooled writes are still being published: bulk uploads are not spooled, send the rest again later");
    part->target = ap_targets_get(&b->p->targets, b->collection, err);
    if (!part->target)
        return err->code;
    if (part->points.dim != part->target->dim)
        return ap_err_set(err, AP_ECONFLICT, AP_POISON, "collection %s was deleted and created anew with other dimensions", b->collection);
    return 0;
}

static int on_header(void *arg, uint64_t rows, size_t dim, struct ap_err *err)
{
    struct ap_bulk *b = arg;
    if (dim != b->parts[0].points.dim)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "Wrong input: Vector dimension error: expected dim: %u, got %zu", b->parts[0].points.dim, dim);
    if (b->o.has_first_id && rows && b->o.first_id > UINT64_MAX - (rows - 1))
        return ap_err_set(err, AP_EINVAL, AP_POISON, "first_id: %" PRIu64 " rows from there on do not fit 64 bits", rows);
    return 0;
}

static int on_rows(void *arg, const float *rows, size_t count, size_t dim, uint64_t first_row, struct ap_err *err)
{
    struct ap_bulk *b = arg;
    for (size_t done = 0; done < count;) {
        struct part *part = filling(b);
        struct ap_points *points = &part->points;
        int rc = begin_part(b, part, err);
        if (rc)
            return rc;
        if (points->n == 0)
            part->first_row = first_row + done;
        ap_points_reserve(points, b->batch_rows);
        size_t n = count - done < b->batch_rows - points->n ? count - done : b->batch_rows - points->n;
        size_t at = points->n;
        for (size_t i = 0; i < n; i++) {
            ap_points_add(points);
            if (b->o.has_first_id) {
                ap_point_id_from_u64(b->o.first_id + first_row + done + i, &points->ids[at + i]);
                points->has_id[at + i] = true;
            }
        }
        memcpy(points->vectors + at * dim, rows + done * dim, n * dim * sizeof *rows);
        done += n;
        b->result.rows += n;
        if (points->n == b->batch_rows && (rc = submit(b, err)) != 0)
            return rc;
    }
    return 0;
}

static int on_line(void *arg, uint64_t number, const char *text, size_t len, struct ap_err *err)
{
    struct ap_bulk *b = arg;
    struct part *part = filling(b);
    int rc = begin_part(b, part, err);
    if (rc)
        return rc;
    if (part->line_count == part->line_cap) {
        part->line_cap = part->line_cap ? part->line_cap * 2 : 256;
        part->lines = realloc(part->lines, part->line_cap * sizeof *part->lines);
        if (!part->lines)
            abort();
    }
    part->lines[part->line_count++] = (struct line){number, part->text.len, len};
    ap_buf_append(&part->text, text, len);
    b->result.rows++;
    return part->line_count == b->batch_rows || part->text.len >= PART_BYTES ? submit(b, err) : 0;
}

/* --- the stream --- */

static size_t rows_of_a_batch(const struct ap_producer_config *config, uint32_t dim)
{
    size_t rows = (size_t)config->bulk_batch_rows, fit = PART_BYTES / (dim * sizeof(float)), queue = (size_t)config->queue_records / 2;
    size_t bytes = (size_t)config->queue_bytes / 2 / (2 * (dim * sizeof(float) + AP_EVENT_OVERHEAD) + 64);
    rows = rows < fit ? rows : fit;
    rows = rows < queue ? rows : queue;
    rows = rows < bytes ? rows : bytes;
    return rows ? rows : 1;
}

int ap_bulk_new(struct ap_bulk **out, struct ap_producer *p, const struct ap_bulk_options *o, struct ap_err *err)
{
    struct ap_target *t = ap_targets_get(&p->targets, o->collection, err);
    *out = NULL;
    if (!t)
        return err->code;
    struct ap_bulk *b = calloc(1, sizeof *b);
    if (!b || !(b->collection = strdup(o->collection)))
        abort();
    b->p = p;
    b->o = *o;
    b->batch_rows = rows_of_a_batch(p->config, t->dim);
    b->records = calloc(b->batch_rows, sizeof *b->records);
    if (!b->records)
        abort();
    b->part_count = (p->pool.count < ENCODERS_MAX ? p->pool.count : ENCODERS_MAX) + 2;
    for (size_t i = 0; i < b->part_count; i++) {
        b->parts[i].job.run = prepare_part;
        ap_points_init(&b->parts[i].points, t->dim);
    }
    ap_target_unref(&t);
    *out = b;
    return 0;
}

/* npy has a magic that no JSON begins with. */
static int open_reader(struct ap_bulk *b, char first, struct ap_err *err)
{
    if ((unsigned char)first == 0x93) {
        const struct ap_npy_sink sink = {on_header, on_rows, b};
        b->npy = ap_npy_new(&sink);
        return 0;
    }
    if (b->o.has_first_id)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "first_id is for npy; in NDJSON each line has its id, or none");
    b->result.lines = true;
    /* No number of a vector needs more than 32 characters; a payload fits into a record or is refused later. */
    b->ndjson = ap_ndjson_new(b->parts[0].points.dim * (size_t)32 + (size_t)b->p->config->max_record_bytes, on_line, b);
    return 0;
}

int ap_bulk_feed(struct ap_bulk *b, const char *bytes, size_t len, struct ap_err *err)
{
    if (b->read_failed || len == 0)
        return b->read_failed;
    if (!b->npy && !b->ndjson)
        b->read_failed = open_reader(b, bytes[0], &b->read_err);
    if (b->read_failed == 0)
        b->read_failed = b->npy ? ap_npy_feed(b->npy, bytes, len, &b->read_err) : ap_ndjson_feed(b->ndjson, bytes, len, &b->read_err);
    if (b->read_failed)
        *err = b->read_err;
    return b->read_failed;
}

static int finish_reader(struct ap_bulk *b, struct ap_err *err)
{
    if (!b->npy && !b->ndjson)
        return ap_err_set(err, AP_EINVAL, AP_POISON, "the body is empty: npy or NDJSON is expected");
    int rc = b->npy ? ap_npy_end(b->npy, err) : ap_ndjson_end(b->ndjson, err);
    struct part *last = filling(b);
    if (rc == 0 && (last->points.n || last->line_count))
        rc = submit(b, err);
    return rc;
}

int ap_bulk_end(struct ap_bulk *b, bool complete, struct ap_err *err)
{
    if (complete && b->read_failed == 0)
        b->read_failed = finish_reader(b, &b->read_err);
    while (b->encoding)
        retire_oldest(b);
    while (b->ack_count)
        settle_oldest(b);
    if (b->failed || b->read_failed)
        *err = b->failed ? b->err : b->read_err;
    return b->failed ? b->failed : b->read_failed;
}

const struct ap_bulk_result *ap_bulk_result(const struct ap_bulk *b)
{
    return &b->result;
}

/* After a long stream, give back what its records took on their way: the allocator would keep it for the next one. */
static void trim_memory(const struct ap_bulk *b)
{
    if (b->result.rows > TRIM_ROWS)
        malloc_trim(0);
}

void ap_bulk_free(struct ap_bulk **bulk)
{
    struct ap_bulk *b = *bulk;
    *bulk = NULL;
    if (!b)
        return;
    for (size_t i = 0; i < b->encoding; i++)
        ap_pool_wait(&b->p->pool, &b->parts[(b->oldest + i) % b->part_count].job);
    for (size_t i = 0; i < b->part_count; i++) {
        struct part *part = &b->parts[i];
        ap_target_unref(&part->target);
        ap_points_fini(&part->points);
        ap_buf_free(&part->text);
        free(part->lines);
    }
    for (; b->ack_count; b->ack_count--, b->ack_first = (b->ack_first + 1) % ACKS_MAX)
        ap_ack_unref(&b->acks[b->ack_first].ack);
    ap_npy_free(&b->npy);
    ap_ndjson_free(&b->ndjson);
    ap_token_fini(&b->result.token);
    trim_memory(b);
    free(b->records);
    free(b->collection);
    free(b);
}
