/* See api_rig.h. */
#include "api_rig.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>
#include "common/clock.h"
#include "common/http.h"
#include "common/timeutil.h"
#include "patience.h"

static const char topic[] = "vec-mutations";

static void must(int rc, const struct ap_err *err)
{
    if (rc)
        ck_abort_msg("%d %s", rc, err->msg);
}

/* --- the store --- */

static uint64_t no_lineage(void *arg, uint64_t incarnation)
{
    (void)arg, (void)incarnation;
    return 0;
}

static void open_store(struct api_rig *r)
{
    struct ap_err err;
    char path[128];
    snprintf(path, sizeof path, "%s/store", r->dir);
    struct ap_store_options options = {.path = path, .map_bytes = 256u << 20, .region = "us", .worker = 0, .workers = 1};
    must(ap_store_open(&r->store, &options, &err), &err);
    must(ap_writer_open(&r->writer, r->store, no_lineage, NULL, &err), &err);
}

static void put_definition(struct api_rig *r, const struct ap_control *c)
{
    struct ap_err err;
    struct ap_buf key = {0}, value = {0};
    ap_control_key(c, &key);
    must(ap_control_encode(r->schemas, c, &value, &err), &err);
    pthread_mutex_lock(&r->lock);
    must(ap_writer_begin(r->writer, &err), &err);
    must(ap_writer_put_control(r->writer, &r->region, key.data, key.len, value.data, value.len, &err), &err);
    must(ap_writer_commit(r->writer, &err), &err);
    pthread_mutex_unlock(&r->lock);
    ap_buf_free(&key);
    ap_buf_free(&value);
}

static uint64_t define(struct api_rig *r, const char *name, enum ap_distance distance, const char *vector_name, uint64_t generation, bool deleted)
{
    struct ap_control c = {.kind = AP_CONTROL_COLLECTION, .version = {++r->hlc, r->region, r->stream}};
    c.u.collection = (struct ap_control_collection){.name = (char *)(uintptr_t)name, .generation = generation, .deleted = deleted, .dim = RIG_DIM,
        .distance = distance, .codec_factory = (char *)(uintptr_t)"none", .raw_home = true, .topic = (char *)(uintptr_t)topic,
        .vector_name = (char *)(uintptr_t)vector_name};
    put_definition(r, &c);
    return ap_collection_id(name, generation);
}

uint64_t api_rig_collection(struct api_rig *r, const char *name, enum ap_distance distance, const char *vector_name, uint64_t generation)
{
    return define(r, name, distance, vector_name, generation, false);
}

void api_rig_drop(struct api_rig *r, const char *name, uint64_t generation)
{
    define(r, name, AP_COSINE, NULL, generation, true);
}

static uint64_t write_row(struct api_rig *r, uint64_t collection, enum ap_op op, uint64_t id, const float *vector, const char *payload)
{
    struct ap_err err;
    struct ap_point_id point;
    struct ap_key key;
    bool changed;
    ap_point_id_from_u64(id, &point);
    ap_key_make(collection, &point, &key);
    pthread_mutex_lock(&r->lock);
    struct ap_mutation m = {.op = op, .version = {++r->hlc, r->region, r->stream}, .stream = r->stream, .seq = ++r->seq, .clock = r->hlc,
                            .vector = (const uint8_t *)vector, .vector_len = vector ? RIG_DIM * sizeof *vector : 0,
                            .payload = payload, .payload_len = payload ? strlen(payload) : 0};
    must(ap_writer_begin(r->writer, &err), &err);
    must(ap_writer_apply(r->writer, &key, &m, &changed, &err), &err);
    ap_positions_note(ap_writer_positions(r->writer), &r->region, r->stream, topic, 0, m.seq, m.clock);
    must(ap_writer_commit(r->writer, &err), &err);
    uint64_t next = ap_writer_next_slot(r->writer);
    pthread_mutex_unlock(&r->lock);
    return next;
}

void api_rig_write(struct api_rig *r, uint64_t collection, enum ap_op op, uint64_t id, const float *vector, const char *payload)
{
    uint64_t next = write_row(r, collection, op, id, vector, payload);
    int64_t deadline = patience_ns();
    while (r->tail && ap_index_visible_slot(r->index) + 1 < next) {
        ck_assert_msg(ap_mono_ns() < deadline, "the row does not become visible");
        ap_tail_wait(r->tail, ap_tail_refreshes(r->tail), deadline);
    }
}

char *api_rig_token(struct api_rig *r, uint64_t ahead)
{
    struct ap_buf out = {0};
    pthread_mutex_lock(&r->lock);
    struct ap_token_entry entry = {.partition = 0, .seq = r->seq + 1 + ahead};
    struct ap_token token = {.region = r->region, .stream = r->stream, .hlc = r->hlc + 1, .entries = &entry, .count = 1};
    memcpy(entry.topic, topic, sizeof topic);
    pthread_mutex_unlock(&r->lock);
    ap_token_format(&token, &out);
    ap_buf_append(&out, "", 1);
    return (char *)out.data;
}

/* --- the producer --- */

static void note_request(struct api_rig *r, struct ap_http_request *req)
{
    const char *token = ap_http_header(req, "X-Antipode-Token");
    snprintf(r->last_method, sizeof r->last_method, "%s", ap_http_method(req));
    snprintf(r->last_path, sizeof r->last_path, "%s", ap_http_path(req));
    snprintf(r->last_query, sizeof r->last_query, "%s", ap_http_query_string(req));
    snprintf(r->last_token, sizeof r->last_token, "%s", token ? token : "");
}

static void apply_write(struct api_rig *r, const char *collection)
{
    static const float vector[RIG_DIM] = {0, 0, 0, 1};
    write_row(r, ap_collection_id(collection, 1), AP_OP_UPSERT, 777, vector, "{\"from\":\"producer\"}");
}

static void nap(void)
{
    struct timespec t = {.tv_nsec = 60000000};
    nanosleep(&t, NULL);
}

static void *write_after_a_moment(void *arg)
{
    struct api_rig *r = arg;
    nap();
    apply_write(r, r->later_name);
    return NULL;
}

static void *define_after_a_moment(void *arg)
{
    struct api_rig *r = arg;
    nap();
    define(r, r->later_name, AP_COSINE, NULL, r->later_creates ? 2 : 1, !r->later_creates);
    return NULL;
}

static void join_later(struct api_rig *r)
{
    if (r->later_runs)
        pthread_join(r->later, NULL);
    r->later_runs = false;
}

static void do_later(struct api_rig *r, const char *collection, void *(*what)(void *))
{
    join_later(r);
    snprintf(r->later_name, sizeof r->later_name, "%s", collection);
    ck_assert_int_eq(pthread_create(&r->later, NULL, what, r), 0);
    r->later_runs = true;
}

static void reply_write(struct api_rig *r, struct ap_http_request *req, const char *collection)
{
    if (r->mode == RIG_REFUSES) {
        ap_http_reply_error(req, 409, "refused by the producer");
        return;
    }
    if (r->mode != RIG_SILENT) {
        char *token = api_rig_token(r, r->mode == RIG_KEEPS ? 1000 : 0);
        ap_http_add_header(req, "X-Antipode-Token", token);
        free(token);
    }
    if (r->mode == RIG_APPLIES)
        apply_write(r, collection);
    if (r->mode == RIG_LATER)
        do_later(r, collection, write_after_a_moment);
    ap_http_reply_result(req, json_pack("{s:i, s:s, s:n}", "operation_id", 42, "status", "acknowledged", "token"));
}

static bool over_bounds(struct api_rig *r, struct ap_http_request *req)
{
    json_t *body = ap_http_json(req, NULL);
    bool many = r->most_points && json_array_size(json_object_get(body, "points")) > r->most_points, enough = r->most_taken && r->taken == r->most_taken;
    json_decref(body);
    if (many)
        ap_http_reply_error(req, 413, "too many points");
    else if (enough)
        ap_http_reply_error(req, 503, "enough for now");
    return many || enough;
}

static void producer_write(struct ap_http_request *req)
{
    struct api_rig *r = ap_http_user(req);
    note_request(r, req);
    snprintf(r->last_text, sizeof r->last_text, "%s", ap_http_body(req, &r->last_body));
    if (over_bounds(r, req))
        return;
    r->taken++;
    reply_write(r, req, ap_http_param(req, 0));
}

static void producer_define(struct ap_http_request *req)
{
    struct api_rig *r = ap_http_user(req);
    bool create = !strcmp(ap_http_method(req), "PUT");
    note_request(r, req);
    if (r->mode == RIG_REFUSES) {
        ap_http_reply_error(req, 409, "Wrong input: Collection `x` already exists!");
        return;
    }
    if (r->mode == RIG_APPLIES)
        define(r, ap_http_param(req, 0), AP_COSINE, NULL, create ? 2 : 1, !create);
    if (r->mode == RIG_LATER) {
        r->later_creates = create;
        do_later(r, ap_http_param(req, 0), define_after_a_moment);
    }
    ap_http_reply_result(req, json_true());
}

static void *bulk_begin(struct ap_http_request *req)
{
    struct api_rig *r = ap_http_user(req);
    note_request(r, req);
    r->last_body = 0;
    r->last_sum = 0;
    if (r->mode == RIG_REFUSES)
        ap_http_reply_error(req, 400, "refused before the body");
    return r;
}

static void bulk_data(struct ap_http_request *req, void *state, const char *bytes, size_t len)
{
    struct api_rig *r = state;
    (void)req;
    r->last_body += len;
    for (size_t i = 0; i < len; i++)
        r->last_sum = r->last_sum * 31 + (unsigned char)bytes[i];
}

static void bulk_end(struct ap_http_request *req, void *state)
{
    reply_write(state, req, ap_http_param(req, 0));
}

static void bulk_destroy(void *state)
{
    (void)state;
}

static const struct ap_http_stream bulk = {bulk_begin, bulk_data, bulk_end, bulk_destroy};

static const struct ap_http_route producer_routes[] = {
    {"PUT", "/collections/{c}", producer_define, NULL, "define"},
    {"DELETE", "/collections/{c}", producer_define, NULL, "define"},
    {"PUT", "/collections/{c}/points", producer_write, NULL, "write"},
    {"POST", "/collections/{c}/points/delete", producer_write, NULL, "write"},
    {"POST", "/collections/{c}/points/payload", producer_write, NULL, "write"},
    {"PUT", "/collections/{c}/points/payload", producer_write, NULL, "write"},
    {"POST", "/collections/{c}/points/payload/clear", producer_write, NULL, "write"},
    {"POST", "/collections/{c}/points/bulk", NULL, &bulk, "bulk"},
    AP_HTTP_ROUTES_END,
};

/* --- open and close --- */

static void on_failure(void *arg, const struct ap_err *err)
{
    (void)arg;
    ck_abort_msg("the tail failed: %s", err->msg);
}

static void start_producer(struct api_rig *r)
{
    struct ap_err err;
    struct ap_http_options options = {.listen = "127.0.0.1:0", .max_body_bytes = 1 << 20, .max_connections = 16, .idle_timeout_s = 30,
                                      .routes = producer_routes, .metrics = r->producer_metrics, .user = r};
    must(ap_http_start(&r->producer, &options, &err), &err);
}

static void configure(struct api_rig *r, const char *options)
{
    struct ap_err err;
    char text[1024];
    int n = snprintf(text, sizeof text, "region = us\nhttp.listen = 127.0.0.1:0\nproducer.url = http://127.0.0.1:%d\nstore.path = %s/store\n"
                     "index.path = %s/index\n%s\n", ap_http_port(r->producer), r->dir, r->dir, options ? options : "");
    must(ap_indexer_config_parse(&r->config, "rig", text, (size_t)n, &err), &err);
}

void api_rig_begin(struct api_rig *r, const char *options)
{
    struct ap_err err;
    memset(r, 0, sizeof *r);
    snprintf(r->dir, sizeof r->dir, "/tmp/antipode-api-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    pthread_mutex_init(&r->lock, NULL);
    memcpy(r->region.name, "us", 2);
    r->stream = ap_incarnation_new(ap_wall_ms());
    r->hlc = ap_hlc_make(ap_wall_ms(), 0);
    ap_ann_init();
    must(ap_schemas_new(&r->schemas, &err), &err);
    r->metrics = ap_metrics_new();
    r->producer_metrics = ap_metrics_new();
    start_producer(r);
    configure(r, options);
    must(ap_api_start(&r->api, &r->config, r->metrics, &err), &err);
    snprintf(r->base, sizeof r->base, "http://127.0.0.1:%d", ap_api_port(r->api));
    r->curl = curl_easy_init();
}

void api_rig_attach(struct api_rig *r)
{
    struct ap_err err;
    open_store(r);
    struct ap_index_options options = {.path = r->config.index_path, .region = r->region, .hot_rows = (uint32_t)r->config.hot_rows, .merge_fan = 4, .build_threads = 1};
    must(ap_index_open(&r->index, r->store, &options, r->schemas, r->metrics, &err), &err);
    struct ap_tail_options tail = {.store = r->store, .index = r->index, .metrics = r->metrics, .failed = on_failure};
    must(ap_tail_start(&r->tail, &tail, &err), &err);
    ap_api_attach(r->api, r->index, r->tail);
}

void api_rig_open(struct api_rig *r, const char *options)
{
    api_rig_begin(r, options);
    api_rig_attach(r);
}

void api_rig_quiet(struct api_rig *r)
{
    ap_api_stop(&r->api);
    ap_tail_stop(&r->tail);
}

void api_rig_close(struct api_rig *r)
{
    char command[128];
    curl_easy_cleanup(r->curl);
    api_rig_quiet(r);
    ap_http_stop(&r->producer);
    join_later(r);
    if (r->index)
        ap_index_close(&r->index);
    if (r->writer)
        ap_writer_close(&r->writer);
    if (r->store)
        ap_store_close(&r->store);
    ap_indexer_config_free(&r->config);
    ap_schemas_free(&r->schemas);
    ap_metrics_free(&r->metrics);
    ap_metrics_free(&r->producer_metrics);
    pthread_mutex_destroy(&r->lock);
    snprintf(command, sizeof command, "rm -rf '%s'", r->dir);
    ck_assert_int_eq(system(command), 0);
}

/* --- the client --- */

static size_t take_body(char *bytes, size_t size, size_t n, void *out)
{
    ap_buf_append(out, bytes, size * n);
    return size * n;
}

static size_t take_header(char *line, size_t size, size_t n, void *arg)
{
    struct api_reply *reply = arg;
    int len = (int)(size * n);
    if (!strncasecmp(line, "x-antipode-token: ", 18))
        snprintf(reply->token, sizeof reply->token, "%.*s", len - 20, line + 18);
    if (!strncasecmp(line, "retry-after: ", 13))
        snprintf(reply->retry_after, sizeof reply->retry_after, "%.*s", len - 15, line + 13);
    return size * n;
}

struct api_reply api_rig_call(struct api_rig *r, const char *method, const char *path, const char *body, const char *header)
{
    struct api_reply reply = {0};
    struct ap_buf text = {0};
    char url[1024];
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (header)
        headers = curl_slist_append(headers, header);
    snprintf(url, sizeof url, "%s%s", r->base, path);
    curl_easy_reset(r->curl);
    curl_easy_setopt(r->curl, CURLOPT_URL, url);
    curl_easy_setopt(r->curl, CURLOPT_PROXY, "");
    curl_easy_setopt(r->curl, CURLOPT_CUSTOMREQUEST, method);
    if (body) {
        curl_easy_setopt(r->curl, CURLOPT_POSTFIELDS, body);
        curl_easy_setopt(r->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(body));
    }
    curl_easy_setopt(r->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(r->curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(r->curl, CURLOPT_WRITEDATA, &text);
    curl_easy_setopt(r->curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(r->curl, CURLOPT_HEADERDATA, &reply);
    curl_easy_setopt(r->curl, CURLOPT_TIMEOUT, (long)PATIENCE_MS / 1000);
    CURLcode rc = curl_easy_perform(r->curl);
    ck_assert_msg(rc == CURLE_OK, "%s %s: %s", method, path, curl_easy_strerror(rc));
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &reply.status);
    curl_slist_free_all(headers);
    ap_buf_append(&text, "", 1);
    reply.text = (char *)text.data;
    reply.len = text.len - 1;
    reply.json = json_loads(reply.text, 0, NULL);
    return reply;
}

void api_reply_free(struct api_reply *reply)
{
    json_decref(reply->json);
    free(reply->text);
    *reply = (struct api_reply){0};
}
