/* Reading: one stdio stream, a file's, stdin's or the helper's. Arrays are cut at rows, text at line ends. */
#include "ctl/rows.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "common/npy.h"

enum { STREAM_BYTES = 1 << 20, LINE_MAX_BYTES = 64 << 20, NPY_HEAD_MAX = 12 + AP_NPY_MAX_HEADER, HELPER_ARGS = 24, HELPER_MISSING = 3 };

enum kind { NPY, FVECS, BVECS, FBIN, U8BIN, I8BIN, LINES, PARQUET };
static const struct { const char *word, *end; enum kind kind; } formats[] = {
    {"npy", ".npy", NPY}, {"fvecs", ".fvecs", FVECS}, {"bvecs", ".bvecs", BVECS}, {"fbin", ".fbin", FBIN}, {"u8bin", ".u8bin", U8BIN},
    {"i8bin", ".i8bin", I8BIN}, {"ndjson", ".ndjson", LINES}, {"ndjson", ".jsonl", LINES}, {"parquet", ".parquet", PARQUET}};
enum { FORMATS = sizeof formats / sizeof *formats };

struct ap_rows {
    const char *path, *word;
    enum kind kind;
    const char *const *parquet_args;
    FILE *in;
    pid_t helper;         /* 0: none */
    bool regular;         /* can be sought */
    uint64_t bytes, total, data_at;
    uint32_t dim;
    size_t element, prefix; /* bytes of a number, and before each row */
    struct ap_rows_place next;
    uint8_t *row;         /* one row, as it is in the file */
    char *line; size_t line_cap;
};

static int no_memory(struct ap_err *err)
{
    return ap_err_set(err, AP_ENOMEM, AP_FATAL, "out of memory");
}

static int broken(const struct ap_rows *r, struct ap_err *err)
{
    if (ferror(r->in))
        return ap_err_set(err, AP_EIO, AP_FATAL, "%s: cannot be read: %s", r->path, strerror(errno));
    return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: ends within row %llu", r->path, (unsigned long long)r->next.row);
}

/* ---- shapes ---- */

struct shape { uint64_t rows; size_t dim; };

static int on_header(void *arg, uint64_t rows, size_t dim, struct ap_err *err)
{
    (void)err;
    *(struct shape *)arg = (struct shape){rows, dim};
    return 0;
}

static int on_rows(void *arg, const float *rows, size_t count, size_t dim, uint64_t first, struct ap_err *err)
{
    (void)arg, (void)rows, (void)count, (void)dim, (void)first, (void)err;
    return 0;
}

/* common/npy.c reads the header and says what is wrong with it. */
static int open_npy(struct ap_rows *r, struct ap_err *err)
{
    uint8_t *head = malloc(NPY_HEAD_MAX);
    struct shape shape = {0};
    const struct ap_npy_sink sink = {on_header, on_rows, &shape};
    if (!head)
        return no_memory(err);
    size_t n = fread(head, 1, 12, r->in), len = 0;
    if (n == 12 && !memcmp(head, "\x93NUMPY", 6))
        len = head[6] == 1 ? (size_t)10 + ap_le16(head + 8) : (size_t)12 + ap_le32(head + 8);
    if (len > 12 && len <= NPY_HEAD_MAX)
        n += fread(head + 12, 1, len - 12, r->in);
    struct ap_npy *npy = ap_npy_new(&sink);
    int rc = ap_npy_feed(npy, head, n, err);
    if (rc == 0 && shape.dim == 0)
        rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "no npy array, or its header is cut short");
    ap_npy_free(&npy);
    r->data_at = len;
    r->total = shape.rows;
    r->dim = (uint32_t)shape.dim;
    r->element = rc == 0 && memmem(head, len, "f2", 2) ? 2 : 4;
    free(head);
    return rc ? ap_err_wrap(err, "%s", r->path) : 0;
}

static int open_bin(struct ap_rows *r, struct ap_err *err)
{
    uint8_t head[8];
    if (fread(head, 1, 8, r->in) != 8)
        return broken(r, err);
    r->total = ap_le32(head);
    r->dim = ap_le32(head + 4);
    r->data_at = 8;
    r->element = r->kind == FBIN ? 4 : 1;
    return 0;
}

/* The dimension is before each row: look at the first, and put it back. */
static int open_vecs(struct ap_rows *r, struct ap_err *err)
{
    uint8_t head[4];
    r->prefix = 4;
    r->element = r->kind == FVECS ? 4 : 1;
    r->total = AP_ROWS_UNKNOWN;
    if (!r->regular)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s cannot be read from a pipe", r->path, r->word);
    if (fread(head, 1, 4, r->in) != 4 || fseeko(r->in, 0, SEEK_SET) != 0)
        return broken(r, err);
    r->dim = ap_le32(head);
    return 0;
}

static size_t stride(const struct ap_rows *r)
{
    return r->prefix + (size_t)r->dim * r->element;
}

static int check_shape(struct ap_rows *r, struct ap_err *err)
{
    if (r->dim == 0 || r->dim > AP_NPY_MAX_DIM)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: says that its vectors have %u dimensions: is it %s?", r->path, r->dim, r->word);
    if (!r->regular)
        return 0;
    uint64_t body = r->bytes - (r->bytes < r->data_at ? r->bytes : r->data_at), there = body / stride(r);
    if (r->total == AP_ROWS_UNKNOWN && body % stride(r) == 0)
        r->total = there;
    if (r->total == AP_ROWS_UNKNOWN)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: its length is no multiple of its first row's: is it %s, and whole?", r->path, r->word);
    if (r->total != there || body % stride(r) != 0)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: says it has %llu rows of %u dimensions, but its length is that of %llu: is it %s, and whole?",
                          r->path, (unsigned long long)r->total, r->dim, (unsigned long long)there, r->word);
    return 0;
}

/* ---- the helper ---- */

static void helper_path(char *out, size_t cap)
{
    const char *named = getenv("ANTIPODE_PARQUET");
    ssize_t n = named ? snprintf(out, cap, "%s", named) : readlink("/proc/self/exe", out, cap - 32);
    if (!named && n > 0) {
        out[n] = '\0';
        char *slash = strrchr(out, '/');
        snprintf(slash ? slash + 1 : out, 32, "antipode-parquet");
    }
}

static int start_helper(struct ap_rows *r, struct ap_err *err)
{
    char path[4096] = "antipode-parquet", skip[32];
    const char *argv[HELPER_ARGS + 6];
    size_t n = 0;
    int fds[2];
    helper_path(path, sizeof path);
    snprintf(skip, sizeof skip, "%llu", (unsigned long long)r->next.row);
    argv[n++] = path;
    for (size_t i = 0; r->parquet_args && r->parquet_args[i] && i < HELPER_ARGS; i++)
        argv[n++] = r->parquet_args[i];
    argv[n++] = "--skip";
    argv[n++] = skip;
    argv[n++] = r->path;
    argv[n] = NULL;
    if (access(path, X_OK) != 0)
        return ap_err_set(err, AP_ENOTFOUND, AP_FATAL, "%s: %s; it reads Parquet, and is named by ANTIPODE_PARQUET where it is not beside antipode", path, strerror(errno));
    if (pipe(fds) != 0)
        return ap_err_set(err, AP_EIO, AP_FATAL, "pipe: %s", strerror(errno));
    r->helper = fork();
    if (r->helper == 0) {
        dup2(fds[1], STDOUT_FILENO);
        close(fds[0]);
        close(fds[1]);
        execv(path, (char *const *)(uintptr_t)argv);
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        _exit(127);
    }
    close(fds[1]);
    if (r->helper < 0 || !(r->in = fdopen(fds[0], "r"))) {
        close(fds[0]);
        return ap_err_set(err, AP_EIO, AP_FATAL, "cannot start %s: %s", path, strerror(errno));
    }
    setvbuf(r->in, NULL, _IOFBF, STREAM_BYTES);
    return 0;
}

/* Its output is over: was that its end, or did it fail? It has said why on stderr. */
static int helper_ended(struct ap_rows *r, struct ap_err *err)
{
    int status = 0;
    waitpid(r->helper, &status, 0);
    r->helper = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    bool missing = WIFEXITED(status) && WEXITSTATUS(status) == HELPER_MISSING;
    return ap_err_set(err, missing ? AP_ENOTFOUND : AP_EINVAL, AP_FATAL, "%s: %s", r->path,
                      missing ? "Parquet needs the Python package pyarrow (see above)" : "antipode-parquet could not read it (see above)");
}

/* ---- opening ---- */

static int choose_format(struct ap_rows *r, const char *format, struct ap_err *err)
{
    size_t len = strlen(r->path);
    for (size_t i = 0; i < FORMATS; i++) {
        size_t end = strlen(formats[i].end);
        if (format ? strcmp(format, formats[i].word) != 0 : len <= end || strcmp(r->path + len - end, formats[i].end) != 0)
            continue;
        r->kind = formats[i].kind;
        r->word = formats[i].word;
        return 0;
    }
    return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: %s%s; --format says which it is: npy, fvecs, bvecs, fbin, u8bin, i8bin, ndjson or parquet", r->path,
                      format ? "no such format: " : "its name does not say what it is", format ? format : "");
}

static int open_stream(struct ap_rows *r, struct ap_err *err)
{
    struct stat st;
    r->in = strcmp(r->path, "-") ? fopen(r->path, "re") : stdin;
    if (!r->in || fstat(fileno(r->in), &st) != 0)
        return ap_err_set(err, errno == ENOENT || errno == ENOTDIR || errno == EACCES ? AP_EINVAL : AP_EIO, AP_FATAL, "%s: %s", r->path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: is a folder", r->path);
    r->regular = S_ISREG(st.st_mode) && r->in != stdin;
    r->bytes = r->regular ? (uint64_t)st.st_size : 0;
    setvbuf(r->in, NULL, _IOFBF, STREAM_BYTES);
    return 0;
}

int ap_rows_open(struct ap_rows **out, const struct ap_rows_options *o, struct ap_err *err)
{
    *out = NULL;
    struct ap_rows *r = calloc(1, sizeof *r);
    if (!r)
        return no_memory(err);
    r->path = o->path;
    r->parquet_args = o->parquet_args;
    r->total = AP_ROWS_UNKNOWN;
    int rc = choose_format(r, o->format, err);
    if (rc == 0)
        rc = open_stream(r, err);
    if (rc == 0 && r->kind == PARQUET) { /* the helper reads it; it is started when it is known from where on */
        if (!r->regular)
            rc = ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: parquet cannot be read from a pipe", r->path);
        else
            fclose(r->in);
        r->in = rc ? r->in : NULL;
    } else if (rc == 0 && r->kind != LINES) {
        rc = r->kind == NPY ? open_npy(r, err) : r->kind == FVECS || r->kind == BVECS ? open_vecs(r, err) : open_bin(r, err);
        if (rc == 0)
            rc = check_shape(r, err);
        if (rc == 0 && !(r->row = malloc(stride(r))))
            rc = no_memory(err);
    }
    if (rc)
        ap_rows_close(&r);
    *out = r;
    return rc;
}

void ap_rows_close(struct ap_rows **rows)
{
    struct ap_rows *r = *rows;
    *rows = NULL;
    if (!r)
        return;
    if (r->in && r->in != stdin)
        fclose(r->in); /* a helper that still writes ends with SIGPIPE */
    if (r->helper > 0)
        waitpid(r->helper, NULL, 0);
    free(r->row);
    free(r->line);
    free(r);
}

bool ap_rows_is_lines(const struct ap_rows *r) { return r->kind == LINES || r->kind == PARQUET; }
uint64_t ap_rows_total(const struct ap_rows *r) { return r->total; }
uint32_t ap_rows_dim(const struct ap_rows *r) { return r->dim; }
uint64_t ap_rows_bytes(const struct ap_rows *r) { return r->bytes; }
struct ap_rows_place ap_rows_place(const struct ap_rows *r) { return r->next; }

/* ---- reading ---- */

static int next_line(struct ap_rows *r, ssize_t *len, struct ap_err *err)
{
    errno = 0;
    *len = getline(&r->line, &r->line_cap, r->in);
    if (*len < 0 && (ferror(r->in) || errno == ENOMEM))
        return ap_err_set(err, AP_EIO, AP_FATAL, "%s: cannot be read: %s", r->path, strerror(errno));
    if (*len > LINE_MAX_BYTES)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: line %llu has more than %d bytes", r->path, (unsigned long long)r->next.row + 1, LINE_MAX_BYTES);
    if (*len < 0 && r->helper > 0)
        return helper_ended(r, err);
    return 0;
}

int ap_rows_begin(struct ap_rows *r, struct ap_rows_place place, struct ap_err *err)
{
    if (r->kind == PARQUET) {
        r->next.row = place.row;
        return start_helper(r, err);
    }
    if (r->kind == LINES && r->regular && place.at) {
        r->next = place;
        return fseeko(r->in, (off_t)place.at, SEEK_SET) == 0 ? 0 : broken(r, err);
    }
    if (r->kind == LINES) {
        for (ssize_t len = 0; r->next.row < place.row && len >= 0;) {
            int rc = next_line(r, &len, err);
            if (rc)
                return rc;
            if (len >= 0) {
                r->next.row++;
                r->next.at += (uint64_t)len;
            }
        }
        return 0;
    }
    uint64_t row = r->total < place.row ? r->total : place.row;
    if (r->regular) {
        r->next.row = row;
        return fseeko(r->in, (off_t)(r->data_at + row * stride(r)), SEEK_SET) == 0 ? 0 : broken(r, err);
    }
    for (; r->next.row < row; r->next.row++)
        if (fread(r->row, 1, stride(r), r->in) != stride(r))
            return broken(r, err);
    return 0;
}

static int next_lines(struct ap_rows *r, uint64_t max_rows, size_t max_bytes, struct ap_buf *body, uint64_t *rows, struct ap_err *err)
{
    for (ssize_t len = 0; *rows < max_rows && body->len < max_bytes;) {
        int rc = next_line(r, &len, err);
        if (rc || len < 0)
            return rc;
        ap_buf_append(body, r->line, (size_t)len);
        r->next.row++;
        r->next.at += (uint64_t)len;
        ++*rows;
    }
    return 0;
}

static void put_header(const struct ap_rows *r, uint64_t rows, struct ap_buf *body)
{
    char text[118];
    uint8_t head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, sizeof text, 0};
    memset(text, ' ', sizeof text);
    int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (%llu, %u), }", r->element == 2 ? "<f2" : "<f4",
                     (unsigned long long)rows, r->dim);
    text[n] = ' ';
    text[sizeof text - 1] = '\n';
    ap_buf_append(body, head, sizeof head);
    ap_buf_append(body, text, sizeof text);
}

/* Numbers that go as they are. */
static int put_block(struct ap_rows *r, uint64_t rows, struct ap_buf *body, struct ap_err *err)
{
    size_t bytes = (size_t)rows * stride(r);
    ap_buf_reserve(body, bytes);
    if (fread(body->data + body->len, 1, bytes, r->in) != bytes)
        return broken(r, err);
    body->len += bytes;
    r->next.row += rows;
    return 0;
}

static int put_row(struct ap_rows *r, struct ap_buf *body, struct ap_err *err)
{
    if (fread(r->row, 1, stride(r), r->in) != stride(r))
        return broken(r, err);
    if (r->prefix && ap_le32(r->row) != r->dim)
        return ap_err_set(err, AP_EINVAL, AP_FATAL, "%s: row %llu has %u dimensions, those before it have %u", r->path, (unsigned long long)r->next.row,
                          ap_le32(r->row), r->dim);
    const uint8_t *numbers = r->row + r->prefix;
    if (r->element > 1) {
        ap_buf_append(body, numbers, r->dim * r->element);
        return 0;
    }
    ap_buf_reserve(body, (size_t)r->dim * 4);
    for (uint32_t i = 0; i < r->dim; i++) {
        float value = r->kind == I8BIN ? (float)(int8_t)numbers[i] : (float)numbers[i];
        uint32_t bits;
        memcpy(&bits, &value, 4);
        ap_put_le32(body->data + body->len + (size_t)i * 4, bits);
    }
    body->len += (size_t)r->dim * 4;
    return 0;
}

int ap_rows_next(struct ap_rows *r, uint64_t max_rows, size_t max_bytes, struct ap_buf *body, uint64_t *rows, struct ap_err *err)
{
    *rows = 0;
    if (ap_rows_is_lines(r))
        return next_lines(r, max_rows, max_bytes, body, rows, err);
    size_t out = (size_t)r->dim * (r->element == 2 ? 2 : 4), fit = max_bytes / out ? max_bytes / out : 1;
    uint64_t n = r->total - r->next.row;
    n = n < max_rows ? n : max_rows;
    n = n < fit ? n : fit;
    if (n == 0)
        return 0;
    put_header(r, n, body);
    int rc = !r->prefix && r->element > 1 ? put_block(r, n, body, err) : 0;
    for (uint64_t i = 0; rc == 0 && (r->prefix || r->element == 1) && i < n; i++, r->next.row += rc == 0)
        rc = put_row(r, body, err);
    *rows = rc ? 0 : n;
    return rc;
}
