#include "common/segment_file.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>
#include "common/bytes.h"

const uint8_t ap_segment_file_magic[AP_SEGMENT_FILE_MAGIC_BYTES] = {'A', 'P', 'S', 'E', 'G', 0, 0, 2};

int ap_segment_file_adopt(int fd, uint64_t store_id, struct ap_err *err)
{
    enum { HEAD = AP_SEGMENT_FILE_HASHED + 8 };
    uint8_t head[HEAD];
    ssize_t n = pread(fd, head, HEAD, 0);
    /* One of an earlier format may come along: the indexer will set it aside, and index its rows again. */
    if (n != HEAD || memcmp(head, ap_segment_file_magic, AP_SEGMENT_FILE_MAGIC_BYTES - 1) != 0 ||
        head[AP_SEGMENT_FILE_MAGIC_BYTES - 1] > ap_segment_file_magic[AP_SEGMENT_FILE_MAGIC_BYTES - 1] ||
        ap_le64(head + AP_SEGMENT_FILE_HASHED) != XXH3_64bits(head, AP_SEGMENT_FILE_HASHED))
        return ap_err_set(err, AP_ECORRUPT, AP_FATAL, "no segment, or of another format");
    ap_put_le64(head + AP_SEGMENT_FILE_STORE, store_id);
    ap_put_le64(head + AP_SEGMENT_FILE_HASHED, XXH3_64bits(head, AP_SEGMENT_FILE_HASHED));
    if (pwrite(fd, head, HEAD, 0) != HEAD)
        return ap_err_set(err, errno == ENOSPC ? AP_ENOSPC : AP_EIO, AP_FATAL, "cannot be written: %s", strerror(errno));
    return 0;
}
