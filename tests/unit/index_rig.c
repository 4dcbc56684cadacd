#include "index_rig.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/timeutil.h"

static struct ap_err err;

static void must(int rc, const char *what)
{
    if (rc >= 0)
        return;
    fprintf(stderr, "rig: %s: %d: %s\n", what, rc, err.msg);
    abort();
}
#define MUST(call) must((int)(call), #call)

static const struct ap_region eu = {"eu"};

void ix_open(struct ix_rig *r, uint32_t dim, enum ap_distance distance, size_t capacity)
{
    memset(r, 0, sizeof *r);
    strcpy(r->root, "/tmp/antipode-test-index-XXXXXX");
    if (!mkdtemp(r->root))
        abort();
    snprintf(r->store_path, sizeof r->store_path, "%s/store", r->root);
    snprintf(r->index_path, sizeof r->index_path, "%s/index", r->root);
    r->hlc = (uint64_t)1 << 40;
    r->dim = dim;
    r->capacity = capacity;
    r->vectors = calloc(capacity * dim, sizeof *r->vectors);
    r->points = calloc(capacity, sizeof *r->points);
    r->collection = (struct ap_control_collection){.name = (char *)(uintptr_t)"books", .generation = 1, .dim = dim, .distance = distance,
        .codec_factory = (char *)(uintptr_t)"none", .raw_home = true, .topic = (char *)(uintptr_t)"vec-mutations"};
    r->collection_id = ap_collection_id("books", 1);
    struct ap_store_options o = {.path = r->store_path, .map_bytes = (size_t)4 << 30, .region = "eu", .worker = 0, .workers = 1};
    MUST(ap_store_open(&r->store, &o, &err));
    MUST(ap_writer_open(&r->writer, r->store, NULL, NULL, &err));
    MUST(ap_schemas_new(&r->schemas, &err));
    r->metrics = ap_metrics_new();
    r->options = (struct ap_index_options){.path = r->index_path, .region = eu, .hot_rows = 0, .merge_fan = 0, .build_threads = 1};
}

void ix_start_index(struct ix_rig *r)
{
    MUST(ap_index_open(&r->index, r->store, &r->options, r->schemas, r->metrics, &err));
}

void ix_stop_index(struct ix_rig *r)
{
    ap_index_close(&r->index);
}

void ix_close(struct ix_rig *r)
{
    char command[128];
    ap_index_close(&r->index);
    ap_writer_close(&r->writer);
    ap_store_close(&r->store);
    ap_metrics_free(&r->metrics);
    ap_schemas_free(&r->schemas);
    ap_codec_unref(&r->codec);
    free(r->vectors);
    free(r->points);
    snprintf(command, sizeof command, "rm -rf %s", r->root);
    if (system(command) != 0)
        fprintf(stderr, "rig: cannot remove %s\n", r->root);
}

/* ---- control ---- */

static void put_control(struct ix_rig *r, const struct ap_control *c)
{
    struct ap_buf key = {0}, value = {0};
    ap_control_key(c, &key);
    MUST(ap_control_encode(r->schemas, c, &value, &err));
    MUST(ap_writer_begin(r->writer, &err));
    MUST(ap_writer_put_control(r->writer, &eu, key.data, key.len, value.data, value.len, &err));
    MUST(ap_writer_commit(r->writer, &err));
    ap_buf_free(&key);
    ap_buf_free(&value);
}

static struct ap_version next_version(struct ix_rig *r)
{
    return (struct ap_version){++r->hlc, eu, 77};
}

void ix_define(struct ix_rig *r, bool deleted)
{
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION, .version = next_version(r)};
    c.u.collection = r->collection;
    c.u.collection.deleted = deleted;
    put_control(r, &c);
}

void ix_index(struct ix_rig *r, const char *field, enum ap_field_type type, const char *options, bool removed)
{
    struct ap_control c = {.kind = AP_CONTROL_INDEX, .version = next_version(r)};
    c.u.index = (struct ap_control_index){r->collection_id, (char *)(uintptr_t)field, type, (char *)(uintptr_t)options, removed};
    put_control(r, &c);
}

void ix_publish_codec(struct ix_rig *r, const struct ap_codec *codec)
{
    size_t len;
    const uint8_t *bytes = ap_codec_bytes(codec, &len);
    uint32_t chunks = (uint32_t)((len + AP_CODEC_CHUNK_BYTES - 1) / AP_CODEC_CHUNK_BYTES);
    for (uint32_t i = 0; i < chunks; i++) {
        size_t at = (size_t)i * AP_CODEC_CHUNK_BYTES, n = len - at < AP_CODEC_CHUNK_BYTES ? len - at : AP_CODEC_CHUNK_BYTES;
        struct ap_control c = {.kind = AP_CONTROL_CODEC, .version = next_version(r)};
        c.u.codec = (struct ap_control_codec){.codec = ap_codec_id(codec), .factory = (char *)(uintptr_t)ap_codec_factory(codec),
            .dim = ap_codec_dim(codec), .chunk = i, .chunks = chunks, .bytes = (uint8_t *)(uintptr_t)bytes + at, .len = n};
        memcpy(c.u.codec.hash, ap_codec_hash(codec), 32);
        put_control(r, &c);
    }
}

void ix_codec(struct ix_rig *r, struct ap_codec *codec, bool publish)
{
    ap_codec_unref(&r->codec);
    r->codec = codec;
    if (publish && codec)
        ix_publish_codec(r, codec);
}

/* ---- rows ---- */

void ix_begin(struct ix_rig *r) { MUST(ap_writer_begin(r->writer, &err)); }
void ix_commit(struct ix_rig *r) { MUST(ap_writer_commit(r->writer, &err)); }

void ix_key(const struct ix_rig *r, size_t i, struct ap_key *key)
{
    struct ap_point_id id;
    ap_point_id_from_u64(i, &id);
    ap_key_make(r->collection_id, &id, key);
}

uint64_t ix_number(const struct ap_point_id *id)
{
    return ap_be64(id->b + 8);
}

static void apply(struct ix_rig *r, size_t i, struct ap_mutation *m)
{
    struct ap_key key;
    bool changed;
    ix_key(r, i, &key);
    m->version = next_version(r);
    m->stream = 77;
    m->seq = ++r->seq;
    m->clock = m->version.hlc;
    MUST(ap_writer_apply(r->writer, &key, m, &changed, &err));
    ap_positions_note(ap_writer_positions(r->writer), &eu, m->stream, "vec-mutations", 0, m->seq, m->clock);
}

void ix_upsert(struct ix_rig *r, size_t i, const float *vector, const char *payload)
{
    uint8_t code[65536];
    struct ap_mutation m = {.op = AP_OP_UPSERT, .vector = (const uint8_t *)vector, .vector_len = r->dim * 4, .payload = payload,
                            .payload_len = payload ? strlen(payload) : 0};
    memcpy(r->vectors + i * r->dim, vector, r->dim * 4);
    r->points[i] = (struct ix_point){true, true, payload};
    if (r->codec) {
        m.has_codec = true;
        m.codec = ap_codec_id(r->codec);
        m.vector = code;
        m.vector_len = ap_codec_code_size(r->codec);
        MUST(ap_codec_encode(r->codec, 1, vector, code, &err));
    }
    apply(r, i, &m);
    if (r->raw) {
        struct ap_key key;
        bool matched;
        ix_key(r, i, &key);
        MUST(ap_writer_raw(r->writer, &key, &m.version, vector, r->dim * 4, &matched, &err));
        if (!matched)
            abort();
    }
}

void ix_delete(struct ix_rig *r, size_t i)
{
    struct ap_mutation m = {.op = AP_OP_DELETE};
    r->points[i].live = false;
    apply(r, i, &m);
}

void ix_patch(struct ix_rig *r, size_t i, const char *patch)
{
    struct ap_mutation m = {.op = AP_OP_PATCH, .payload = patch, .payload_len = strlen(patch)};
    apply(r, i, &m);
}

void ix_load(struct ix_rig *r, const float *vectors, size_t first, size_t count, size_t batch)
{
    for (size_t i = 0; i < count; i++) {
        if (i % batch == 0)
            ix_begin(r);
        ix_upsert(r, first + i, vectors + i * r->dim, NULL);
        if (i % batch == batch - 1 || i + 1 == count)
            ix_commit(r);
    }
}

size_t ix_clean(struct ix_rig *r, size_t max_rows)
{
    uint64_t seen;
    size_t dropped;
    MUST(ap_store_seen_read(r->store, &seen));
    ix_begin(r);
    MUST(ap_writer_clean(r->writer, max_rows, seen, NULL, NULL, &dropped, &err));
    ix_commit(r);
    return dropped;
}

void ix_refresh(struct ix_rig *r)
{
    MUST(ap_index_refresh(r->index, &err));
}

static bool wait_for(struct ix_rig *r, uint32_t segments_at_most, uint64_t indexed_at_least, int seconds)
{
    int64_t until = ap_mono_ms() + seconds * 1000;
    for (;;) {
        struct ap_view *view;
        struct ap_collection_view c;
        MUST(ap_view_begin(r->index, &view, &err));
        MUST(ap_view_collection(view, "books", &c, &err));
        ap_view_end(&view);
        if (c.segments <= segments_at_most && c.indexed >= indexed_at_least)
            return true;
        if (ap_mono_ms() > until)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

bool ix_wait_sealed(struct ix_rig *r, uint32_t segments_at_most, int seconds)
{
    return wait_for(r, segments_at_most, 0, seconds);
}

bool ix_wait_indexed(struct ix_rig *r, uint64_t rows_at_least, int seconds)
{
    return wait_for(r, UINT32_MAX, rows_at_least, seconds);
}

/* ---- the model ---- */

size_t ix_live(const struct ix_rig *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->capacity; i++)
        n += r->points[i].live;
    return n;
}

size_t ix_exact(const struct ix_rig *r, const float *query, size_t k, uint64_t *ids, float *scores)
{
    size_t have = 0;
    enum ap_distance d = r->collection.distance;
    float *unit = malloc(r->dim * sizeof *unit);
    memcpy(unit, query, r->dim * sizeof *unit);
    if (d == AP_COSINE)
        ap_normalize(unit, r->dim);
    for (size_t i = 0; i < r->capacity; i++) {
        if (!r->points[i].live || !r->points[i].indexed)
            continue;
        float s;
        ap_flat_scores(d, unit, r->vectors + i * r->dim, r->dim, 1, &s);
        s = d == AP_EUCLID ? sqrtf(s) : s;
        size_t at = have;
        if (have == k) {
            if (d == AP_EUCLID ? s >= scores[k - 1] : s <= scores[k - 1])
                continue;
            at--;
        } else {
            have++;
        }
        for (; at > 0 && (d == AP_EUCLID ? s < scores[at - 1] : s > scores[at - 1]); at--) {
            scores[at] = scores[at - 1];
            ids[at] = ids[at - 1];
        }
        scores[at] = s;
        ids[at] = i;
    }
    free(unit);
    return have;
}

size_t ix_search(struct ix_rig *r, const struct ap_search *q, uint64_t *ids, float *scores)
{
    struct ap_view *view;
    struct ap_collection_view c;
    size_t count = 0;
    struct ap_hit *hits = calloc(q->limit + 1, sizeof *hits);
    MUST(ap_view_begin(r->index, &view, &err));
    MUST(ap_view_collection(view, "books", &c, &err));
    MUST(ap_view_search(view, &c, q, hits, &count, &err));
    for (size_t i = 0; i < count; i++) {
        ids[i] = ix_number(&hits[i].id);
        scores[i] = hits[i].score;
    }
    ap_view_end(&view);
    free(hits);
    return count;
}

double ix_recall(struct ix_rig *r, const float *queries, size_t nq, uint32_t k, const struct ap_search *how)
{
    size_t found = 0, all = 0;
    uint64_t *want = calloc(2 * (size_t)k, sizeof *want), *got = want + k;
    float *scores = calloc(k, sizeof *scores);
    for (size_t q = 0; q < nq; q++) {
        struct ap_search s = how ? *how : (struct ap_search){0};
        s.vector = queries + q * r->dim;
        s.limit = k;
        size_t n = ix_exact(r, s.vector, k, want, scores), m = ix_search(r, &s, got, scores);
        all += n;
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < m; j++)
                found += want[i] == got[j];
    }
    free(want);
    free(scores);
    return all ? (double)found / (double)all : 1;
}
