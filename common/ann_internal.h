/* What the files of ann share: private to them.
 *
 * ann.c          sealed structures, flat scans, threads
 * ann_codec.c    codecs
 * ann_trellis.c, ann_trellis_train.c, trellis.cpp: the one codec that is ours
 * ann_factory.c  factory strings before FAISS sees them
 * ann_io.c       FAISS's bytes: to memory, to files, and whether those of a codec have the right shape
 * ann_faiss.cpp  what the C API has no way for */
#ifndef ANTIPODE_COMMON_ANN_INTERNAL_H
#define ANTIPODE_COMMON_ANN_INTERNAL_H
#include "common/ann.h"
#include "common/ann_faiss.h"

/* OpenMP's thread count is a property of the calling thread: every call into FAISS says how many it may use. */
void ap_ann_use_threads(int threads);
/* The C API's last error of this thread, copied. */
int ap_ann_failed(struct ap_err *err, enum ap_code code, const char *what);

/* All below: 0, or -1 with FAISS's error set. */
int ap_ann_write_memory(const FaissIndex *index, struct ap_buf *out);
/* *left: bytes not read. Only bytes whose shape was checked. */
int ap_ann_read_memory(const void *bytes, size_t len, size_t *left, FaissIndex **out);
/* io_error: errno of the file, 0 when it was FAISS or the file's end. */
int ap_ann_write_fd(const FaissIndex *index, int fd, int *io_error);
int ap_ann_read_fd(int fd, int *io_error, FaissIndex **out);
/* Do the bytes have the shape of what model writes: equal in all but the contents of its tables? */
int ap_ann_shape_equal(const FaissIndex *model, const void *bytes, size_t len, bool *equal);

#endif
