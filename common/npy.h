/* Incremental reader of NPY streams, format 1.0, 2.0 and 3.0 (numpy/lib/format.py): a 2-D array in C order of '<f4' or
 * '<f2', handed out as rows of float32 as they arrive.
 *
 * Invariant: memory is bounded by the header (64 KiB) or a run of rows (64 KiB, at least one row), whatever the body's
 * length. float32 rows that lie whole and aligned in a piece are handed out where they lie. All else is refused with
 * what it is and what to do. One thread at a time. */
#ifndef ANTIPODE_COMMON_NPY_H
#define ANTIPODE_COMMON_NPY_H
#include <stddef.h>
#include <stdint.h>
#include "common/err.h"

#define AP_NPY_MAX_HEADER 65536
#define AP_NPY_MAX_DIM 65536

/* Both return 0, or a negative code with *err filled, which ends the stream: ap_npy_feed returns it.
 * on_header may be NULL; it sees the shape before any row. rows: count * dim floats, valid during the call, values not
 * checked (NaN and infinity pass). first_row counts from 0. */
struct ap_npy_sink {
    int (*on_header)(void *arg, uint64_t rows, size_t dim, struct ap_err *err);
    int (*on_rows)(void *arg, const float *rows, size_t count, size_t dim, uint64_t first_row, struct ap_err *err);
    void *arg;
};

struct ap_npy;

struct ap_npy *ap_npy_new(const struct ap_npy_sink *sink); /* copies the sink; aborts when out of memory */
void ap_npy_free(struct ap_npy **npy);
/* AP_EINVAL for what is no such array, AP_EUNSUPPORTED for one of another kind, or the sink's code. After an error every
 * further call returns it again. */
int ap_npy_feed(struct ap_npy *npy, const void *bytes, size_t len, struct ap_err *err);
/* The stream is over: AP_EINVAL if it ends before the declared rows, naming the row. */
int ap_npy_end(struct ap_npy *npy, struct ap_err *err);
uint64_t ap_npy_rows_done(const struct ap_npy *npy); /* handed out without error so far */

#endif
