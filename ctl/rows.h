/* A file of vectors, cut into bodies for POST .../points/bulk: arrays become npy, NDJSON stays lines.
 *
 *   npy     2-D, '<f4' or '<f2', C order               fvecs   rows of i32 dim, dim float32
 *   bvecs   rows of i32 dim, dim u8                     fbin    u32 rows, u32 dim, then float32
 *   u8bin, i8bin  like fbin, of bytes                   ndjson  a point {id, vector, payload} a line
 *   parquet through the helper antipode-parquet (Python, pyarrow), which prints NDJSON
 *
 * Little-endian all. Reading begins at a row (arrays, parquet) or at a row and its byte (lines), so that a load can be taken
 * up again. What a file says of its shape is checked against its length before the first row is handed out. One thread. */
#ifndef ANTIPODE_CTL_ROWS_H
#define ANTIPODE_CTL_ROWS_H
#include <stdbool.h>
#include "common/bytes.h"
#include "common/err.h"

#define AP_ROWS_UNKNOWN UINT64_MAX

struct ap_rows_options {
    const char *path;     /* "-": stdin */
    const char *format;   /* one of the words above; NULL: by the end of the name */
    const char *const *parquet_args; /* of the helper, NULL-terminated; NULL: none */
};
struct ap_rows_place { uint64_t row; /* from 0; a line of text counts as one, blank or not */ uint64_t at; /* byte; lines only */ };
struct ap_rows;

/* AP_EINVAL: no such file, not of this kind, or cut short; AP_EIO; AP_ENOTFOUND: the helper or what it needs is missing. */
int ap_rows_open(struct ap_rows **out, const struct ap_rows_options *o, struct ap_err *err);
void ap_rows_close(struct ap_rows **r);
bool ap_rows_is_lines(const struct ap_rows *r);
uint64_t ap_rows_total(const struct ap_rows *r); /* rows of the file; AP_ROWS_UNKNOWN for lines and stdin */
uint32_t ap_rows_dim(const struct ap_rows *r);   /* 0 for lines */
uint64_t ap_rows_bytes(const struct ap_rows *r); /* of the file; 0 when unknown */
/* Where the next piece begins. */
struct ap_rows_place ap_rows_place(const struct ap_rows *r);
/* Before the first piece: begin there. at is used for lines of a file, else rows are counted (stdin: read and dropped). */
int ap_rows_begin(struct ap_rows *r, struct ap_rows_place place, struct ap_err *err);
/* The next max_rows rows at most, in a body of about max_bytes bytes (one row at least), appended to *body; *rows is 0 at the end. */
int ap_rows_next(struct ap_rows *r, uint64_t max_rows, size_t max_bytes, struct ap_buf *body, uint64_t *rows, struct ap_err *err);

#endif
